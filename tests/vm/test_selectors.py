"""Whom a guard means, and what its conditions see, on real cgroups: units, slices, attributes, zram, refaults.

And ``explain`` about them, which on a machine made of files is tested in tests/cli.
"""

from __future__ import annotations

import json
from typing import Any

from .machine import Machine
from .storms import UNIT, ZRAM, add_policy, journal, status
from .test_actions import HOLD, SLICE, start

POLICIES = """\
[policy.units]
unit = "probe-*.service"
hard = { when = [{ memory_above = "900MiB" }], do = ["kill"] }
[policy.slices]
slice = "wor*.slice"
hard = { when = [{ memory_above = "900MiB" }], do = ["kill"] }
victim = { by = "memory", take = "process" }
[policy.batch]
cgroup = "/work.slice/*"
xattr = "user.tier=batch*"
hard = { when = [{ memory_above = "16MiB" }], do = ["kill"] }
victim = { never = [{ comm = { re = "(ba|z)?sh" } }] }
[policy.thrashing]
unit = "thrash.service"
hard = { when = [{ refaults_above = { file = "1MiB", over = "1s" } }], do = ["notify"] }
[policy.packed]
cgroup = "/"
soft = { when = [{ zram_above = "2%" }], do = ["notify"] }
"""
# Twice what it may have, read over and over: what was evicted a moment ago comes back.
THRASH = """\
open("/var/tmp/twice", "wb").write(bytes(96 << 20))
while True:
    with open("/var/tmp/twice", "rb", buffering=0) as file:
        while file.read(1 << 20):
            pass
"""
PACKED = "import os, time; held = os.urandom(96 << 20); time.sleep(3600)"  # does not get smaller
MARK = "python3 -c \"import os; os.setxattr('{path}', '{name}', b'{value}')\""


def targets(vm: Machine) -> dict[str, int]:
    return {policy["name"]: policy["targets"] for policy in status(vm)["policies"]}


def explained(vm: Machine, subject: str) -> dict[str, dict[str, Any]]:
    found = json.loads(vm.check(f"oomguard explain --json {subject}", timeout=60))
    assert found["in_force"], "as the running daemon has it"
    return {policy["name"]: policy for policy in found["policies"]}


def until_told(vm: Machine, policy: str, words: str) -> None:
    asked = f"journalctl -q OOMGUARD_POLICY={policy} | grep -q '{words}'"
    assert vm.wait_for(asked, 60), journal(vm, UNIT)


def test_guards_and_conditions_on_real_cgroups(installed_vm: Machine) -> None:
    vm = installed_vm
    vm.check(ZRAM)
    add_policy(vm, "selectors", POLICIES)
    start(vm, "thrash", THRASH, "MemoryMax=48M\n")
    start(vm, "packed", PACKED, "MemoryHigh=24M\n")
    for name in ("probe-1", "probe-2"):
        start(vm, name, HOLD.format(mib=24, first=""))

    # By unit and by slice; by an attribute that nobody has yet.
    one, two = (f"{SLICE}/probe-{number}.service" for number in (1, 2))
    assert vm.wait_for(f"grep -q . {two}/cgroup.procs", 30)
    counted = {"host": 1, "units": 2, "slices": 1, "batch": 0, "thrashing": 1, "packed": 1}
    assert vm.wait_for("oomguard status --json | grep -q '\"targets\": 2'", 30), journal(vm, UNIT)
    assert counted.items() <= targets(vm).items()
    vm.check(MARK.format(path=two, name="user.oomd_omit", value="1"))
    around = explained(vm, "/work.slice/probe-2.service")
    assert list(around) == ["units", "slices", "host", "packed"], "the innermost first"
    spared = [row for row in around["slices"]["ranking"]["candidates"] if "oomd_omit" in row["why"]]
    assert spared, "its owner's word is heard"

    # Whoever gets the attribute is guarded from then on: over the line already, it is ended. Nobody else is.
    vm.check(MARK.format(path=one, name="user.tier", value="batch-7"))
    assert vm.wait_for("! systemctl is-active -q probe-1", 60), journal(vm, UNIT)
    until_told(vm, "batch", "killed ")
    pid = vm.check("systemctl show -P MainPID probe-2").strip()
    around = explained(vm, pid)
    assert around["units"]["cgroup"] == "/work.slice/probe-2.service"
    assert around["slices"]["subject"] == "would be spared: /work.slice/probe-2.service: oomd_omit"
    assert vm.check("systemctl is-active probe-2").strip() == "active"

    until_told(vm, "thrashing", "file refaults")
    until_told(vm, "packed", "taken by zram")
