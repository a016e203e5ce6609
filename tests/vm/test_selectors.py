"""Whom a guard means, and what its conditions see, on real cgroups: units, slices, attributes, containers, users; zram,
refaults. And ``explain`` about them, which on a machine made of files is tested in tests/cli.
"""

from __future__ import annotations

import json
import time
from typing import Any

from .machine import Machine
from .storms import UNIT, ZRAM, add_policy, journal, status
from .test_actions import HOLD, SLICE, start_all, until_told

ROOT = "/sys/fs/cgroup"
# Memory is not short, and only `batch` and `people` ever get to act.
POLICIES = """\
[policy.units]
unit = "job-*.service"
hard = { when = [{ memory_above = "900MiB" }], do = ["kill"] }
[policy.slices]
slice = "wor*.slice"
hard = { when = [{ memory_above = "900MiB" }], do = ["kill"] }
victim = { by = "memory", take = "process", avoid = [{ unit = "packed.service" }], never = [{ unit = "thrash*" }] }
[policy.batch]
cgroup = "/work.slice/*"
xattr = "user.tier=batch*"
hard = { when = [{ memory_above = "8MiB" }], do = ["kill"] }
victim = { never = [{ comm = { re = "(ba|z)?sh" } }] }
[policy.boxes]
container = "docker"
hard = { when = [{ memory_above = "95%" }], do = ["kill"] }
[policy.pods]
pod = "burstable"
hard = { when = [{ memory_above = "95%" }], do = ["kill"] }
[policy.thrashing]
unit = "thrash.service"
soft = { when = [{ refaults_above = { file = "1MiB", over = "1s" } }], do = ["notify"] }
[policy.packed]
cgroup = "/"
soft = { when = [{ zram_above = "1%" }], do = ["notify"] }
"""
PEOPLE = """\
[policy.people]
cgroup = "/user.slice"
cooldown = "1h"
hard = { when = [{ memory_above = "48MiB" }], do = ["kill"] }
victim = { by = "fair_share", take = "process" }
"""
ID = "0123456789abcdef" * 4
CONTAINERS = (f"system.slice/docker-{ID}.scope", f"docker/{ID}")  # as the drivers systemd and cgroupfs call them
PODS = ("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice", "kubepods/burstable/pod1")
# More than it may have, read again and again, and not too fast: what was evicted a moment ago comes back.
THRASH = """\
import time
open("/var/tmp/twice", "wb").write(bytes(32 << 20))
while True:
    with open("/var/tmp/twice", "rb", buffering=0) as file:
        while file.read(1 << 20):
            time.sleep(0.05)
"""
PACKED = "import os, time; held = os.urandom(32 << 20); time.sleep(3600)"  # does not get smaller
MARK = "python3 -I -S -c \"import os; os.setxattr('{path}', '{name}', b'{value}')\""


def make(vm: Machine, path: str) -> None:
    """A cgroup of its own whose memory is counted, as an engine would make it."""
    above = path.split("/")[:-1]
    ways = ["/".join(above[:depth]) for depth in range(1, len(above) + 1)]
    counted = "".join(f"echo +memory > {ROOT}/{way}/cgroup.subtree_control && " for way in ways)
    vm.check(f"mkdir -p {ROOT}/{path} && {counted}test -e {ROOT}/{path}/memory.current")


def targets(vm: Machine) -> dict[str, int]:
    return {policy["name"]: policy["targets"] for policy in status(vm)["policies"]}


def until_guarded(vm: Machine, counted: dict[str, int]) -> None:
    deadline = time.monotonic() + 60
    while not counted.items() <= (found := targets(vm)).items():
        assert time.monotonic() < deadline, sorted(found.items() - counted.items())
        vm.pause(0.5)


def explained(vm: Machine, subject: str) -> dict[str, dict[str, Any]]:
    found = json.loads(vm.check(f"oomguard explain --json {subject}", timeout=60))
    assert found["in_force"], "as the running daemon has it"
    return {policy["name"]: policy for policy in found["policies"]}


def first_of_the_slice(vm: Machine) -> str:
    """In which cgroup somebody would be ended for the guard on work.slice, were it short now."""
    victim = explained(vm, f"{ROOT}/work.slice")["slices"]["victim"]
    return str(victim["cgroup"]).rpartition("/")[2]


def mark(vm: Machine, name: str, attribute: str, value: str = "1") -> None:
    vm.check(MARK.format(path=f"{SLICE}/{name}.service", name=attribute, value=value))


def test_guards_and_conditions_on_real_cgroups(installed_vm: Machine) -> None:
    vm = installed_vm
    vm.check(ZRAM, timeout=60)
    for path in (*CONTAINERS, *PODS):
        make(vm, path)
    add_policy(vm, "selectors", POLICIES)
    jobs = {f"job-{number}": HOLD.format(mib=mib, first="") for number, mib in ((1, 32), (2, 16))}
    start_all(vm, {**jobs, "thrash": THRASH, "packed": PACKED}, {"thrash": "MemoryMax=20M\n"})
    held = {"job-1": 32, "job-2": 16, "packed": 32}
    for name, mib in held.items():
        assert vm.wait_for(f"test $(cat {SLICE}/{name}.service/memory.current) -gt {mib << 20}", 120), name

    # By unit and by slice, by the names that engines give; by an attribute that nobody has yet.
    until_guarded(
        vm, {"host": 1, "units": 2, "slices": 1, "batch": 0, "thrashing": 1, "packed": 1, "boxes": 2, "pods": 2}
    )
    pid = vm.check("systemctl show -P MainPID job-2").strip()
    around = explained(vm, pid)
    assert list(around) == ["units", "slices", "host", "packed"], "the innermost first"
    assert around["units"]["cgroup"] == "/work.slice/job-2.service"

    # What an owner says of his cgroup counts if that is root, or whose the guard's cgroup is.
    assert first_of_the_slice(vm) == "job-1.service"
    mark(vm, "job-1", "trusted.oomd_avoid")
    assert first_of_the_slice(vm) == "job-1.service", "the daemon may not read that, and neither does who explains it"
    mark(vm, "job-1", "user.oomd_avoid")
    assert first_of_the_slice(vm) == "job-2.service"
    mark(vm, "job-2", "user.oomd_omit")
    assert explained(vm, pid)["slices"]["subject"] == "would be spared: /work.slice/job-2.service: oomd_omit"
    assert first_of_the_slice(vm) != "job-2.service"
    vm.check(f"chown nobody {SLICE}/job-1.service {SLICE}/job-2.service")
    assert first_of_the_slice(vm) == "job-1.service", "neither counts any more"

    # What memory does: it is read again, and it is packed.
    until_told(vm, "thrashing", "file refaults")
    vm.run(f"echo 28M > {SLICE}/packed.service/memory.reclaim", timeout=120)  # EAGAIN where it was not all
    until_told(vm, "packed", "taken by zram")

    # Whoever gets the attribute is guarded from then on: over the line already, it is ended. Nobody else is.
    mark(vm, "job-1", "user.tier", "batch-7")
    assert vm.wait_for("! systemctl is-active -q job-1", 60), journal(vm, UNIT)
    until_told(vm, "batch", "killed ")
    assert vm.check("systemctl is-active job-2").strip() == "active"

    # The user who has the most pays, and neither the largest process of all nor that user's smaller unit.
    people = {"mine-1": 24, "mine-2": 20, "yours": 32}
    users = {name: f"Slice=user-{1001 if name.startswith('mine') else 1002}.slice\n" for name in people}
    start_all(vm, {name: HOLD.format(mib=mib, first="") for name, mib in people.items()}, users)
    for name, mib in people.items():
        cgroup = f"{ROOT}/user.slice/{users[name].strip().removeprefix('Slice=')}/{name}.service"
        assert vm.wait_for(f"test $(cat {cgroup}/memory.current) -gt {mib << 20}", 60), name
    add_policy(vm, "people", PEOPLE)
    assert vm.wait_for("! systemctl is-active -q mine-1", 60), journal(vm, UNIT)
    until_told(vm, "people", "killed ")
    assert vm.check("systemctl is-active mine-2 yours").split() == ["active", "active"]
