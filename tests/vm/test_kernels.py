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

NO_PRESSURE = {"psi", "stall_above", "policy policy.host.soft.when[1]", "policy policy.host.hard.when[1]"}
LEAK = Service("hog", "hog.py --rate 60 --size 3072")
LIMITED = Service("limited", "hog.py --rate 50 --size 1024", ("MemoryMax=256M",))

# Asks for what older kernels have not.
ASKING_GUARD = """\
[policy.asking]
cgroup = "/work.slice/asking.service"
[policy.asking.soft]
when = [{ memory_above = "10MiB" }]
do = ["nominate"]
[policy.asking.hard]
when = [{ memory_above = "40MiB" }]
do = ["snapshot", "notify", { reclaim = { size = "4MiB", within = "1s" } }, "kill"]
[policy.asking.victim]
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
        assert "there are no cgroups here that count memory" in vm.run("oomguard check").err
        return
    add_policy(vm, "limited", LIMITED_GUARD + ASKING_GUARD)
    ended(vm, LIMITED, "limited")
    now = {what for what in degraded(vm) if not what.endswith(".cgroup")}
    assert now == variant.degraded | variant.more, degraded(vm)
