"""What an administrator relies on: status, reload, the journal, stop, uninstall."""

from __future__ import annotations

import json
import time

from .machine import SOURCE, Machine
from .storms import LIMITED_GUARD, UNIT, Service, add_policy, status
from .trials import differences, hovering_leak, marks


def test_the_service_is_up_and_says_how_it_is(installed_vm: Machine) -> None:
    vm = installed_vm
    assert vm.check(f"systemctl is-active {UNIT}").strip() == "active"
    told = status(vm)
    assert told["pid"] == int(vm.check(f"systemctl show -P MainPID {UNIT}"))
    assert vm.check("oomguard --version").split()[-1] == told["version"]
    for policy in told["policies"]:
        assert {"name", "cgroup", "mode", "phase", "targets"} <= policy.keys()
    (host,) = [policy for policy in told["policies"] if policy["cgroup"] == "/"]
    assert host["mode"] == "enforce"
    weighed = {process["name"]: process for process in told["memory"]["processes"]}
    assert {"core", "reaper", "scribe", "herald"} <= weighed.keys()
    assert weighed["core"]["locked_bytes"] > 0
    assert told["memory"]["major_faults"] == 0
    assert told["counters"] == {"snapshots": 0, "kills": 0, "kernel_oom_kills": 0} | told["counters"]
    assert told["degraded"] == []  # everything that a guard can want is here: cgroup v2, PSI, root


def test_the_daemon_is_locked_and_the_last_to_die(installed_vm: Machine) -> None:
    vm = installed_vm
    pid = status(vm)["pid"]
    assert vm.check(f"cat /proc/{pid}/oom_score_adj").strip() == "-1000"
    assert vm.check(f"chrt -p {pid}").count("SCHED_RR") == 1
    locked = int(vm.check(f"sed -n 's/^VmLck: *//p' /proc/{pid}/status").split()[0])
    assert locked > 1024
    assert "pydantic" not in vm.check(f"cat /proc/{pid}/maps")


def test_a_restart_goes_on_with_the_plan_until_a_file_changes(installed_vm: Machine) -> None:
    """What the core keeps is what the next start takes; what the files say by then comes before it."""
    vm = installed_vm
    goes_on, compiled = "the plan that was in force goes on", "it is compiled again"
    vm.check(f"systemctl kill --kill-who=main -s KILL {UNIT}; sleep 1")
    assert vm.wait_for(f"systemctl is-active -q {UNIT} && journalctl -qu {UNIT} | grep -q '{goes_on}'", 60)
    assert compiled not in vm.check(f"journalctl -qu {UNIT}")
    vm.put("/etc/oomguard/conf.d/60-mode.toml", '[policy.host]\nmode = "observe"\n')
    vm.check(f"systemctl kill --kill-who=main -s KILL {UNIT}; sleep 1")
    assert vm.wait_for(f"systemctl is-active -q {UNIT} && journalctl -qu {UNIT} | grep -q '{compiled}'", 60)
    assert {policy["mode"] for policy in status(vm)["policies"]} == {"observe"}
    assert status(vm)["degraded"] == []


def test_a_wrong_file_leaves_the_old_policy_in_force(installed_vm: Machine) -> None:
    vm = installed_vm
    add_policy(vm, "limited", LIMITED_GUARD)
    assert "limited" in {policy["name"] for policy in status(vm)["policies"]}
    before = status(vm)
    vm.put(
        "/etc/oomguard/conf.d/60-wrong.toml",
        '[policy.wrong]\ncgroup = "/x"\n[policy.wrong.hard]\nwhen = [{ memry_above = "9%" }]\n',
    )
    vm.run(f"systemctl reload {UNIT}", timeout=60)
    assert vm.wait_for(f"journalctl -q -u {UNIT} | grep -q memry_above", 60)
    after = status(vm)
    assert after["pid"] == before["pid"]
    assert {policy["name"] for policy in after["policies"]} == {policy["name"] for policy in before["policies"]}
    assert "60-wrong.toml" in json.dumps(after["degraded"])
    assert "60-wrong.toml" in vm.check("oomguard status")
    checked = vm.run("oomguard check --json")
    assert checked.rc == 2
    assert "60-wrong.toml" in checked.out
    vm.check(f"rm /etc/oomguard/conf.d/60-wrong.toml && systemctl reload {UNIT}", timeout=60)
    deadline = time.monotonic() + 60
    while "60-wrong.toml" in json.dumps(status(vm)["degraded"]):  # among the events it stays
        assert time.monotonic() < deadline, "a policy that is right again is not taken"
        time.sleep(0.5)


def test_the_journal_explains_itself(installed_vm: Machine) -> None:
    """journalctl -x shows the catalog's text under our messages."""
    text = installed_vm.check(f"journalctl -q -x --no-pager -u {UNIT}")
    assert "░░" in text or "-- Subject" in text
    ids = installed_vm.check(
        f"journalctl -q -o json --output-fields=MESSAGE_ID,SYSLOG_IDENTIFIER -t oomguard -u {UNIT}"
    )
    assert "MESSAGE_ID" in ids
    known = installed_vm.check("journalctl --list-catalog")
    assert "oomguard" in known.lower()


def test_stop_undoes_everything(installed_vm: Machine) -> None:
    """Stopped in the middle of an engagement."""
    vm = installed_vm
    add_policy(vm, "limited", LIMITED_GUARD)
    before = marks(vm)
    leak: Service = hovering_leak(vm, limited=True)
    leak.start(vm)
    assert vm.wait_for("test $(cat /sys/fs/cgroup/work.slice/limited.service/memory.high) != max", 20), "no tripwire"
    vm.check(f"systemctl stop {UNIT}", timeout=60)
    assert differences(before, marks(vm)) == ()
    assert vm.check(f"systemctl show -P Result {UNIT}").strip() == "success"


def test_status_and_top_tell_what_goes_on(installed_vm: Machine) -> None:
    """A guard whose cgroup comes later; then it is armed by a leak that stops short of its hard watermark."""
    vm = installed_vm
    add_policy(vm, "limited", LIMITED_GUARD)
    assert [it["what"] for it in status(vm)["degraded"]] == ["policy policy.limited.cgroup"]
    page = f"/proc/{status(vm)['pid']}/smaps"
    size, locked = (
        int(vm.check(f"grep -A30 /run/oomguard/status {page} | sed -n 's/^{word}: *//p' | head -1").split()[0])
        for word in ("Rss", "Locked")
    )
    assert size == locked > 0, "the page is locked in memory"
    hovering_leak(vm, limited=True).start(vm)
    assert vm.wait_for('oomguard top --once --json | grep -q \'"phase": "armed"\'', 40)
    assert vm.wait_for('oomguard top --once --json | grep -q \'"what": "python3\'', 40)
    told = json.loads(vm.check("oomguard top --once --json"))
    assert told["degraded"] == [], "it has a cgroup now"
    (limited,) = [policy for policy in told["policies"] if policy["name"] == "limited"]
    assert (limited["path"], limited["soft"]["holds"], limited["hard"]["holds"]) == (
        "/work.slice/limited.service",
        True,
        False,
    )
    assert 0 < limited["hard"]["line"] - limited["hard"]["now"] < 30 << 20
    (nominee,) = told["nominees"]
    assert (nominee["policy"], nominee["cgroup"]) == ("limited", "/work.slice/limited.service")
    assert told["host"]["pressure"] is not None
    assert "/work.slice/limited.service" in {it["cgroup"] for it in told["growing"]}
    assert ("SOFT", "limited") in {(it["kind"], it["policy"]) for it in told["events"]}
    assert "limited is hard at: memory above 230 MiB (" in vm.check("oomguard status")
    assert "NOMINEES" in vm.check("oomguard top")
    assert status(vm)["memory"]["major_faults"] == 0


def test_uninstall_leaves_nothing_of_ours(installed_vm: Machine) -> None:
    """What stays is the administrator's: incidents, an edited configuration, and the group that owns them."""
    vm = installed_vm
    vm.check(f"systemctl disable --now {UNIT}", timeout=60)
    vm.check(f"make -C {SOURCE} uninstall", timeout=120)
    found = vm.check(
        f"find / -xdev -iname '*oomguard*' -not -path '{SOURCE}*' -not -path '/proc/*' -not -path '/var/lib/oomguard*'"
    )
    assert found.split() == []
    assert vm.run(f"systemctl cat {UNIT}").rc != 0
    assert "oomguard" not in vm.check("journalctl --list-catalog").lower()
