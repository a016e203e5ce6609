"""Memory that is special: a balloon, and NUMA nodes of which one is full.

Run by `make kernels`, not by `make test`: the machine with two nodes and a balloon boots once, in a minute or two.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import MACHINE, judge_again
from .machine import PYTHON, Machine
from .storms import CANARY, UNIT, Service, journal, status
from .test_kernels import LEAK, ended

MIB = 1 << 20


@pytest.fixture
def vm(able: None, request: pytest.FixtureRequest) -> Iterator[Machine]:
    with Machine(nodes=2, balloon=True) as machine:
        request.node.stash[MACHINE] = machine
        CANARY.start(machine)
        yield machine
        judge_again(machine)


def memory(vm: Machine) -> dict[str, Any]:
    found: dict[str, Any] = status(vm)["host"]
    return found


def becomes(vm: Machine, what: str, least: int, most: int) -> None:
    """A number of `oomguard status` is between these, soon."""
    script = f"import json,sys; sys.exit(not {least} <= json.load(sys.stdin)['host']['{what}'] <= {most})"
    assert vm.wait_for(f'oomguard status --json | python3 -c "{script}"', 40), memory(vm)


def test_a_balloon_takes_memory_and_gives_it_back(vm: Machine) -> None:
    """The machine has become smaller: shares are of what there is now."""
    before = memory(vm)["total_bytes"]
    vm.inflate(640)
    becomes(vm, "total_bytes", 400 * MIB, before - 300 * MIB)
    ended(vm, LEAK, "host")
    vm.inflate(1024)
    becomes(vm, "total_bytes", before - 8 * MIB, before + 8 * MIB)
    assert status(vm)["counters"]["kills"] == 1


def test_one_node_is_full_and_the_other_is_not(vm: Machine) -> None:
    """Who may use both goes on in the other: nothing is short. Who is bound to one is the kernel's, which is told."""
    told = json.loads(vm.run("oomguard doctor --json", timeout=120).out)["findings"]
    assert [it["text"] for it in told if it["name"] == "numa"] == ["memory is on 2 NUMA nodes"]
    vm.check("systemd-run -q --unit=filler --slice=work.slice -p AllowedMemoryNodes=1 "
             f"{PYTHON}hog.py --size 400 --log /run/probe/filler.ring")  # fmt: skip
    free = "awk '/MemFree/ {print $4}' /sys/devices/system/node/node1/meminfo"
    assert vm.wait_for(f"[ $({free}) -lt 120000 ]", 60), vm.check(free)
    vm.pause(3)
    assert status(vm)["counters"]["kills"] == 0
    bound = Service("bound", "hog.py --rate 60 --size 1024", ("AllowedMemoryNodes=1",))
    bound.start(vm)
    assert vm.wait_for("dmesg | grep -q oom-kill", 60)
    assert "CONSTRAINT_CPUSET" in vm.check("dmesg | grep oom-kill")
    assert vm.wait_for("oomguard incidents list --json | grep -q kernel", 40), journal(vm, UNIT)
    assert status(vm)["counters"]["kills"] == 0, "the machine was not short: nothing of ours to do"
