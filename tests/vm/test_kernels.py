"""Other kernels and command lines: what is missing is named, nothing else is, and a leak ends before the kernel acts.

Run by `make kernels`, not by `make test`: each of these machines boots once, which takes a minute or two.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from .conftest import MACHINE, judge_again
from .machine import Machine
from .storms import CANARY, INNOCENT, LIMITED_GUARD, UNIT, Service, add_policy, incidents, journal, status

V1 = "systemd.unified_cgroup_hierarchy=0 SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"
NO_PRESSURE = {"psi", "stall_above", "policy policy.host.soft.when[1]", "policy policy.host.hard.when[1]"}
ASKED = "policy policy.forking.hard.do[2]"  # reclaim
OLD = ("process_mrelease", "cgroup.kill", "memory.reclaim", "memory.peak")
LEAK = Service("hog", "hog.py --rate 60 --size 3072")
LIMITED = Service("limited", "hog.py --rate 50 --size 1024", ("MemoryMax=256M",))

# Each of four processes starts another one all the time; a kill that goes through a list once leaves some.
FORKS = """\
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
def live(depth):
    held = bytearray(b"x") * (2 << 20)
    for _ in range(2 if depth else 0):
        if os.fork() == 0:
            live(depth - 1)
    time.sleep(0.2)
    os._exit(0)
held = bytearray(b"x") * (20 << 20)
while True:
    if os.fork() == 0:
        live(2)
    time.sleep(0.1)
"""
FORKING_GUARD = """\
[policy.forking]
cgroup = "/work.slice/forking.service"
[policy.forking.soft]
when = [{ memory_above = "10MiB" }]
do = ["nominate"]
[policy.forking.hard]
when = [{ memory_above = "40MiB" }]
do = ["snapshot", "notify", { reclaim = { size = "4MiB", within = "1s" } }, "kill"]
[policy.forking.victim]
take = "unit"
"""


@dataclass(frozen=True)
class Variant:
    """A machine; what `status` says is degraded with the shipped policy, and what more with the two guards."""

    options: dict[str, Any]
    degraded: set[str] = field(default_factory=set)
    more: set[str] = field(default_factory=set)
    doctor: tuple[str, ...] = ()  # what the doctor has to say of it
    limits: bool = True  # whether anybody counts a service's memory


VARIANTS = {
    "psi=0": Variant({"append": "psi=0"}, NO_PRESSURE, doctor=("pressure",)),
    "cgroup_disable=memory": Variant(
        {"append": "cgroup_disable=memory"}, {"cgroups"}, doctor=("cgroup",), limits=False
    ),
    "6.1": Variant({"kernel": "bookworm"}),
    "5.10": Variant({"kernel": "bullseye"}, {"process_mrelease", "kill"}, {"reclaim"}, doctor=OLD),
    "v1": Variant(
        {"kernel": "bookworm", "append": V1},
        {"brake", "kill", "protection"},
        {"tripwire", "reclaim", "slab", "policy policy.limited.tripwire", ASKED},
        doctor=("cgroup",),
    ),
}


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> Variant:
    return VARIANTS[request.param]


@pytest.fixture
def vm(able: None, variant: Variant, request: pytest.FixtureRequest) -> Iterator[Machine]:
    with Machine(**variant.options) as machine:
        request.node.stash[MACHINE] = machine
        yield machine
        judge_again(machine)


def degraded(vm: Machine) -> dict[str, str]:
    return {entry["what"]: entry["why"] for entry in status(vm)["degraded"]}


def ended(vm: Machine, service: Service, policy: str) -> dict[str, Any]:
    """The incident of a leak that we, and nobody else, have ended."""
    service.start(vm)
    assert vm.wait_for(f"! systemctl is-active -q {service.name}", 90), journal(vm, UNIT)
    assert vm.run("dmesg | grep -E 'oom-kill|Killed process'").out == ""
    found = incidents(vm)
    assert [it["policy"] for it in found if it["kind"] == "hard"][:1] == [policy], found
    incident = next(it for it in found if it["kind"] == "hard")
    assert incident["killed_by"] == "oomguard"
    assert {victim["cgroup"].strip("/") for victim in incident["victims"]} == {service.cgroup}
    whole = json.loads(vm.check(f"oomguard incidents show {incident['id']} --json"))
    assert whole["complete"]
    assert whole["freed_bytes"] > 100 << 20
    assert "killed python3[" in vm.check(f"oomguard incidents show {incident['id']}")
    return incident


def test_what_is_missing_is_named_and_a_leak_of_the_machine_ends(vm: Machine, variant: Variant) -> None:
    assert degraded(vm).keys() == variant.degraded, degraded(vm)
    found = json.loads(vm.run("oomguard doctor --json", timeout=120).out)
    told = {
        finding["name"]
        for finding in found["findings"]
        if finding["topic"] == "kernel" and finding["severity"] != "fine"
    }
    assert set(variant.doctor) <= told, found
    CANARY.start(vm)
    INNOCENT.start(vm)
    ended(vm, LEAK, "host")
    for service in (CANARY, INNOCENT):
        assert vm.check(f"systemctl is-active {service.name}").strip() == "active"
    assert status(vm)["memory"]["major_faults"] == 0


def test_a_service_with_a_limit(vm: Machine, variant: Variant) -> None:
    if not variant.limits:
        vm.put("/etc/oomguard/conf.d/50-limited.toml", LIMITED_GUARD)
        assert "there are no cgroups here that count memory" in vm.run("oomguard check").out
        return
    add_policy(vm, "limited", LIMITED_GUARD + FORKING_GUARD)
    ended(vm, LIMITED, "limited")
    now = {what for what in degraded(vm) if not what.endswith(".cgroup")}
    assert now == variant.degraded | variant.more, degraded(vm)


def test_a_service_that_forks_all_the_time_is_ended_whole(vm: Machine, variant: Variant) -> None:
    if not variant.limits:
        pytest.skip("nobody counts a service's memory there")
    add_policy(vm, "forking", FORKING_GUARD)
    vm.put("/run/probe/forks.py", FORKS)
    vm.check("systemd-run -q --unit=forking --slice=work.slice -p OOMPolicy=continue -p TasksMax=infinity "
             "/usr/bin/python3 -I -S /run/probe/forks.py")  # fmt: skip
    assert vm.wait_for("! systemctl is-active -q forking", 60), journal(vm, UNIT)
    assert not vm.run("pgrep -f '[f]orks.py'").out
    (incident,) = [it for it in incidents(vm) if it["policy"] == "forking"]
    assert incident["killed_by"] == "oomguard"
