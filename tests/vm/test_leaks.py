"""The whole machine, no swap, a leak: oomguard kills the leak, the kernel kills nobody, and the story is told."""

from __future__ import annotations

from typing import Any

import pytest

from .evidence import StormResult
from .machine import Machine
from .storms import STORMS, incidents, run_storm


def assert_only_the_culprit_died(result: StormResult) -> None:
    assert result.killed_by == "oomguard", result
    assert not result.survived
    assert result.kernel_oom_kills == 0, result.kernel_log
    assert result.innocents == (), result.kills
    assert result.vanished == ()


def assert_told(result: StormResult, policy: str | None = None) -> dict[str, Any]:
    """The newest hard incident names who really died."""
    told = next(incident for incident in result.incidents if incident["kind"] == "hard")
    assert (told["mode"], told["killed_by"]) == ("enforce", "oomguard")
    assert {victim["pid"] for victim in told["victims"]} <= set(result.culprit_pids)
    assert told["victims"]
    assert {victim["cgroup"].strip("/") for victim in told["victims"]} <= set(result.killed)
    assert told["freed_bytes"] > 0
    assert told["latency_ms"] >= 0
    assert policy is None or told["policy"] == policy
    return told


@pytest.mark.parametrize("name", ["leak-100", "leak-flat"])
def test_a_leak_dies_before_the_kernel_acts(installed_vm: Machine, name: str) -> None:
    result = run_storm(installed_vm, STORMS[name])
    assert_only_the_culprit_died(result)
    told = assert_told(result)
    (victim,) = told["victims"]
    assert (victim["pid"], victim["comm"]) == (result.culprit_pids[0], result.kills[0].comm)
    assert victim["cgroup"] == "/work.slice/hog.service"
    assert victim["bytes"] > 300 << 20
    assert result.canary_max_gap_ms is not None
    assert result.canary_max_gap_ms < 1000  # the machine stayed usable


def test_the_minutes_before_are_kept_too(installed_vm: Machine) -> None:
    """A snapshot is taken at the soft watermark, and `show` has the ring, the process table and the candidates."""
    result = run_storm(installed_vm, STORMS["leak-100"])
    soft = [incident for incident in result.incidents if incident["kind"] == "soft"]
    assert soft or "soft" in installed_vm.check("oomguard status --json")
    hard = assert_told(result)
    shown = installed_vm.check(f"oomguard incidents show {hard['id']} --json")
    assert str(result.culprit_pids[0]) in shown
    story = installed_vm.check(f"oomguard incidents show {hard['id']}")
    assert str(result.culprit_pids[0]) in story
    assert "hog.service" in story


def test_observe_mode_judges_the_same_and_touches_nothing(installed_vm: Machine) -> None:
    observe(installed_vm)
    result = run_storm(installed_vm, STORMS["leak-100"])
    assert result.killed_by == "kernel", result
    told = next(incident for incident in result.incidents if incident["kind"] == "hard")
    assert told["mode"] == "observe"
    assert told["killed_by"] != "oomguard"
    assert {victim["pid"] for victim in told["victims"]} == set(result.culprit_pids)
    assert not any(kill.by == "oomguard" for kill in result.kills)
    assert "oom_score_adj:0" in result.kernel_log  # no insurance, no brake
    assert result.events["high"] == 0
    assert any("kernel" in (entry["kind"], entry["killed_by"]) for entry in incidents(installed_vm, kind="kernel"))


def observe(vm: Machine) -> None:
    """As an administrator would who wants to see first: the shipped unit, with --observe."""
    vm.check(
        "mkdir -p /etc/systemd/system/oomguard.service.d && command=$(systemctl cat oomguard.service "
        "| sed -n 's/^ExecStart=//p' | tail -1) && printf '[Service]\\nExecStart=\\nExecStart=%s --observe\\n' "
        '"$command" > /etc/systemd/system/oomguard.service.d/observe.conf && systemctl daemon-reload '
        "&& systemctl restart oomguard.service",
        timeout=90,
    )
