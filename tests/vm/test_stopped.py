"""SIGSTOP in the middle of a storm of the whole machine: of the core, and of the core and its reaper."""

from __future__ import annotations

import json
import time
from dataclasses import replace

from .evidence import StormResult
from .machine import PYTHON, Machine
from .storms import CANARY, STORMS, UNIT, Service, Storm, add_policy, journal, run_storm, status
from .trials import differences, marks
from .verdicts import faults_of_the_kill, hard_incident

# Slow enough between the watermarks that there is time to stop somebody.
LEAK = Service("hog", "hog.py --burst 400 --rate 20 --size 3072")
SMALLER = Service("hog", "hog.py --rate 40 --size 3072")
LARGER = Service("innocent", "hog.py --size 420 --log /run/probe/innocent.ring")
# The brake holds the leak over the hard watermark for longer than any watchdog waits: nobody would have to act.
# And the kernel, left to itself, takes the larger one.
NO_BRAKE = f"""\
[policy.host]
brake = false
[policy.host.victim]
never = [{{ cgroup = "/{LARGER.cgroup}" }}, {{ cgroup = "/{CANARY.cgroup}" }}]
"""


def stopped_storm(vm: Machine, storm: Storm, arguments: str = "") -> StormResult:
    """The storm, with the daemon stopped as soon as the leak is insured, and going on again when it is over."""
    vm.spawn(f"{PYTHON}stopper.py --cgroup {storm.culprit.cgroup} {arguments}")
    result = run_storm(vm, storm)
    assert vm.wait_for("test -e /run/probe/stopper.json", 60), "it was never stopped"
    return result


def without_brake(vm: Machine) -> None:
    add_policy(vm, "brake", NO_BRAKE)
    assert vm.wait_for(f"journalctl -q -u {UNIT} | grep -q 'reloaded: '", 30)


def left_behind(vm: Machine, before: dict[str, object]) -> tuple[str, ...]:
    """What is not as it was, once all is calm."""
    deadline = time.monotonic() + 30
    while (left := differences(before, marks(vm))) and time.monotonic() < deadline:
        time.sleep(0.5)
    return left


def test_a_stopped_core_is_stood_in_for_by_the_dead_man(installed_vm: Machine) -> None:
    vm = installed_vm
    without_brake(vm)
    before, daemon = marks(vm), vm.check(f"systemctl show -P MainPID {UNIT}")
    result = stopped_storm(vm, replace(STORMS["leak-100"], culprit=LEAK))
    print(result)
    assert faults_of_the_kill(result) == ()
    told = journal(vm, UNIT)
    assert "the dead man has ended" in told
    assert "the dead man has acted" in told
    incident = hard_incident(result)
    assert incident
    assert {victim["pid"] for victim in incident["victims"]} == set(result.culprit_pids)
    assert incident["killed_by"] == "oomguard"
    assert "the dead man has acted" in vm.check(f"oomguard incidents show {incident['id']}")
    found = status(vm)
    assert found["counters"]["kills"] == 1
    assert any("stood still" in degraded["why"] for degraded in found["degraded"])
    assert vm.check(f"systemctl show -P MainPID {UNIT}") == daemon, "systemd has not had to start another one"
    assert left_behind(vm, before) == ()
    told_at_last = json.loads(vm.check(f"oomguard incidents show {incident['id']} --json"))
    assert told_at_last["freed_bytes"] > 300 << 20


def test_with_core_and_reaper_stopped_the_kernel_takes_the_nominee(installed_vm: Machine) -> None:
    vm = installed_vm
    without_brake(vm)
    before = marks(vm)
    vm.check("systemctl service-watchdogs no")  # the kernel first drops every page of every file: it takes its time
    storm = replace(STORMS["leak-100"], culprit=SMALLER, bystanders=(LARGER,), settle_s=6, timeout_s=90)
    result = stopped_storm(vm, storm, "--reaper --seconds 90")
    print(result)
    assert result.killed_by == "kernel"
    assert set(result.killed) == {SMALLER.cgroup}
    assert (result.kernel_oom_kills, result.innocents, result.vanished) == (1, (), ())
    assert "oom_score_adj:1000" in result.kernel_log
    assert left_behind(vm, before) == ()
