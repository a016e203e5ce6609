"""The doctor and the fire drill on the real thing: a neighbour is found and named, and the daemon is drilled."""

from __future__ import annotations

import json

from .machine import Machine
from .storms import UNIT, journal, status

MANAGED = "systemctl set-property --runtime system.slice ManagedOOMMemoryPressure=kill"
DROP_IN = "/etc/oomguard/conf.d/90-drill.toml"


def test_the_doctor_names_a_neighbour_and_the_drill_ends_as_it_should(installed_vm: Machine) -> None:
    vm = installed_vm
    healthy = vm.run("oomguard doctor --json", timeout=60)
    found = {it["name"]: it for it in json.loads(healthy.out)["findings"]}
    assert (healthy.rc, json.loads(healthy.out)["unseen"]) == (0, []), healthy.out
    assert {it["name"] for it in found.values() if it["severity"] != "fine"} == {"swap", "compaction"}
    vm.check(found["compaction"]["mend"])
    assert vm.check("cat /proc/sys/vm/compact_unevictable_allowed").strip() == "0"
    assert {"cgroup.kill", "memory.reclaim", "process_mrelease", "CAP_KILL", "active", "enabled"} <= found.keys()

    vm.check(f"systemctl start systemd-oomd.service && {MANAGED}", timeout=60)
    beside = vm.run("oomguard doctor --json", timeout=60)
    (neighbour,) = [it for it in json.loads(beside.out)["findings"] if it["topic"] == "neighbours"]
    assert (beside.rc, neighbour["severity"]) == (1, "matters")
    assert "owns /system.slice by memory pressure" in neighbour["text"]
    assert "policy host" in neighbour["means"]
    vm.check(f"systemctl restart {UNIT}", timeout=90)  # and a start says so as well, and touches nobody
    (told,) = status(vm)["degraded"]
    assert told["what"] == "neighbour systemd-oomd /system.slice memory pressure"
    assert told["why"].endswith(f"to leave it to oomguard: {neighbour['mend']}")
    assert told["what"] in journal(vm, UNIT)
    assert vm.run("systemctl is-active systemd-oomd.service").rc == 0

    vm.check(f"{neighbour['mend']} 2>&1", timeout=60)  # what it says mends it does
    assert vm.run("systemctl is-active systemd-oomd.service").rc != 0

    refused = vm.run("oomguard drill", timeout=60)
    assert refused.rc == 1
    mend = refused.err.partition(": oomguard drill --print")[2].partition(" (or ")[0]
    vm.check(f"oomguard drill --print{mend}", timeout=60)
    assert vm.wait_for("grep -q /oomguard-drill /run/oomguard/plan", 60), "it is not taken"
    assert status(vm)["degraded"] == [], "between two drills nothing is missing"
    drilled = vm.run("oomguard drill --json", timeout=120)
    told = json.loads(drilled.out)
    assert (drilled.rc, told["ok"], told["why"]) == (0, True, ""), drilled.out + drilled.err
    assert (told["killed_by"], told["kernel_kills"], told["tripwire"]) == ("oomguard", 0, True)
    assert told["crossed_to_signal_ms"] >= 0
    assert told["signal_to_death_ms"] > 0
    assert f"killed oomguard-drill[{told['pid']}]" in told["story"]
    assert told["incident"] in vm.check("oomguard incidents list --json")
    assert vm.run("ls -d /sys/fs/cgroup/oomguard-drill* /run/oomguard-drill*").out == ""
    assert vm.check(f"systemctl show -P NRestarts {UNIT}").strip() == "0"
