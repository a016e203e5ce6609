"""Memory that is special: a balloon, NUMA nodes, huge pages, tmpfs, swap that comes and goes, MGLRU on and off.

Run by `make kernels`, not by `make test`: the machine with two nodes and a balloon boots once, in a minute or two.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import MACHINE, judge_again
from .machine import PYTHON, Machine
from .storms import CANARY, INNOCENT, UNIT, ZRAM, Service, journal, status
from .test_kernels import LEAK, ended

MIB = 1 << 20
TMPFS = "/usr/bin/dd if=/dev/zero of=/dev/shm/full bs=1M count={mib} status=none"


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
    assert vm.wait_for(f'oomguard status --json | python3 -c "{script}"', 120), memory(vm)


def owner(vm: Machine, incident: dict[str, Any], what: str) -> int:
    """Of an incident's account of all memory, bytes."""
    whole = json.loads(vm.check(f"oomguard incidents show {incident['id']} --json"))
    rows = [row for stage in whole["evidence"]["owners"].values() for row in stage["rows"]]
    return max((int(row["bytes"]) for row in rows if row["what"] == what), default=0)


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


def test_huge_pages_are_in_use_from_the_moment_they_are_reserved(vm: Machine) -> None:
    before = memory(vm)["available_bytes"]
    vm.check("sysctl -qw vm.nr_hugepages=100")
    becomes(vm, "available_bytes", 0, before - 150 * MIB)
    incident = ended(vm, LEAK, "host")
    assert owner(vm, incident, "huge pages") > 150 * MIB
    vm.check("sysctl -qw vm.nr_hugepages=0")
    becomes(vm, "available_bytes", before - 80 * MIB, before + 80 * MIB)


def test_tmpfs_is_no_process_and_no_innocent_dies_for_it(vm: Machine) -> None:
    """A full tmpfs that nobody's death gives back: the leak beside it ends, and the story says where the rest is."""
    INNOCENT.start(vm)
    vm.check("mount -o remount,size=90% /dev/shm; systemd-run -q --wait --unit=tmpfs --slice=work.slice "
             + TMPFS.format(mib=300), timeout=60)  # fmt: skip
    incident = ended(vm, LEAK, "host")
    assert owner(vm, incident, "shared memory and tmpfs") > 250 * MIB
    assert vm.check(f"systemctl is-active {INNOCENT.name} {CANARY.name}").split() == ["active", "active"]


def test_swap_comes_and_goes(vm: Machine) -> None:
    """The lines on swap hold where there is none, and no longer when it has come."""
    assert memory(vm)["swap_total_bytes"] == 0
    vm.check(ZRAM)
    becomes(vm, "swap_total_bytes", 500 * MIB, 520 * MIB)
    vm.check("swapoff -a")
    becomes(vm, "swap_total_bytes", 0, 0)
    ended(vm, LEAK, "host")
    vm.check("swapon -p 100 /dev/zram0")
    becomes(vm, "swap_total_bytes", 500 * MIB, 520 * MIB)


@pytest.mark.parametrize("bits", ["0x0007", "0x0000"])
def test_with_and_without_mglru(vm: Machine, bits: str) -> None:
    vm.check(f"echo {bits} > /sys/kernel/mm/lru_gen/enabled")
    said = vm.run("oomguard doctor --json", timeout=120).out
    findings = {finding["name"]: finding["text"] for finding in json.loads(said)["findings"]}
    assert findings["mglru"].startswith(f"MGLRU is {'on' if bits != '0x0000' else 'off'} ({bits})")
    ended(vm, LEAK, "host")
