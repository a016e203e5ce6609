"""The whole machine, no swap, a leak: oomguard kills the leak, the kernel kills nobody, and the story is told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .machine import Machine
from .storms import STORMS, incidents, observe, run_storm, status
from .verdicts import faults_of_guarding, faults_of_observing, hard_incident


@pytest.mark.counted
@pytest.mark.parametrize("name", ["leak-100", "leak-flat"])
def test_a_leak_dies_before_the_kernel_acts(installed_vm: Machine, name: str) -> None:
    result = run_storm(installed_vm, STORMS[name])
    assert faults_of_guarding(result) == ()
    incident = hard_incident(result)
    assert incident
    (victim,) = incident["victims"]
    assert (victim["pid"], victim["comm"]) == (result.culprit_pids[0], result.kills[0].comm)
    assert victim["bytes"] > 300 << 20
    assert result.canary_max_gap_ms is not None
    assert result.canary_max_gap_ms < 1000  # the machine stayed usable


@pytest.mark.counted
def test_the_story_is_told(installed_vm: Machine) -> None:
    """What was seen at the soft watermark is kept too, and `show` names who died, for programs and for people."""
    vm = installed_vm
    result = run_storm(vm, STORMS["leak-100"])
    counters = status(vm)["counters"]
    assert counters["kills"] == 1
    assert counters["snapshots"] >= 1
    incident = hard_incident(result)
    assert incident
    assert int(vm.check(f"ls /var/lib/oomguard/incidents/{incident['id']}/raw/soft | wc -l")) > 10
    victim = str(result.culprit_pids[0])
    assert victim in vm.check(f"oomguard incidents show {incident['id']} --json")
    story = vm.check(f"oomguard incidents show {incident['id']}")
    assert victim in story
    assert "hog.service" in story


def of_the_kernel(vm: Machine) -> list[dict[str, Any]]:
    """Incidents of what it has killed, be it told in one of ours, as soon as its report is in them."""
    for _ in range(20):
        told = [entry for entry in incidents(vm) if "kernel" in (entry["kind"], entry["killed_by"])]
        docs = [json.loads(vm.check(f"oomguard incidents show {entry['id']} --json")) for entry in told]
        if any(doc["kernel_reports"] for doc in docs):
            return docs
        vm.pause(1)
    raise AssertionError(incidents(vm))


@pytest.mark.parametrize("name", ["leak-100", "limited-200"])
def test_observe_mode_judges_the_same_and_touches_nothing(installed_vm: Machine, name: str) -> None:
    observe(installed_vm)
    result = run_storm(installed_vm, STORMS[name])
    assert faults_of_observing(result) == ()
    assert result.killed_by == "kernel"
    docs = of_the_kernel(installed_vm)
    reports = [report for doc in docs for report in doc["kernel_reports"]]
    (report, *_) = [it for it in reports if it["unit"] == f"{STORMS[name].culprit.name}.service"]
    assert report["victim"]["pid"] in result.culprit_pids
    assert report["victim"]["pid"] in {task["pid"] for task in report["tasks"]}
    assert (report["constraint"] == "CONSTRAINT_MEMCG") == (name == "limited-200")
    assert all(doc["no_guard"]["reason"] == "observe" for doc in docs if doc["policy"])
