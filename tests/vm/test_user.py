"""A user without any rights: his own daemon, his own services, his own cgroups that systemd has delegated to him."""

from __future__ import annotations

import json
import shlex

from .machine import PYTHON, Machine
from .storms import UNIT, journal

NAME, UID = "alice", 1000
MANAGER = f"/user.slice/user-{UID}.slice/user@{UID}.service"
HOME, RUN = f"/home/{NAME}", f"/run/user/{UID}"
POLICY = f"""\
[policy.mine]
cgroup = "{MANAGER}/app.slice/*"
[policy.mine.soft]
when = [{{ memory_above = "60%" }}]
do = ["snapshot", "notify", "nominate"]
[policy.mine.hard]
when = [{{ memory_above = "75%" }}]
do = ["kill"]
"""
# What he does without; the leak is ended all the same.
OUT_OF_REACH = {
    "CAP_KILL",
    "CAP_IPC_LOCK",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_NICE",
    "CAP_DAC_OVERRIDE",
    "CAP_SYS_PTRACE",
    "oom_score_adj",
    "real time",
    "memory lock",
}


def his(command: str) -> str:
    """The command as he would give it."""
    return f"runuser -u {NAME} -- env HOME={HOME} XDG_RUNTIME_DIR={RUN} sh -c {shlex.quote(command)}"


def test_his_own_daemon_ends_a_leak_of_his_and_says_what_is_out_of_reach(installed_vm: Machine) -> None:
    vm = installed_vm
    # pam_systemd would say where his runtime directory is; it is not in this guest.
    vm.check("mkdir -p /etc/systemd/system/user@.service.d")
    vm.put("/etc/systemd/system/user@.service.d/here.conf", "[Service]\nEnvironment=XDG_RUNTIME_DIR=/run/user/%i\n")
    vm.check(f"systemctl daemon-reload && useradd --create-home --uid {UID} {NAME} && loginctl enable-linger {NAME}")
    assert vm.wait_for(f"test -S {RUN}/systemd/private", 60), journal(vm, f"user@{UID}.service")
    vm.check(his("mkdir -p ~/.config/oomguard"))
    vm.put(f"{HOME}/.config/oomguard/oomguard.toml", POLICY)
    started = vm.run(his("systemctl --user enable --now oomguard.service"), timeout=120)
    assert started.rc == 0, started.err + vm.run("journalctl -q -b | tail -60").out
    status = json.loads(vm.check(his("oomguard status --json")))
    assert [policy["name"] for policy in status["policies"]] == ["mine"], "his daemon, not the machine's"
    degraded = {entry["what"] for entry in status["degraded"] if entry["what"] != "policy policy.mine.cgroup"}
    assert degraded == OUT_OF_REACH, "of the policy it says that his services have no limit; that is true"

    vm.check(his(f"systemd-run --user -q --unit=quiet {PYTHON}hog.py --size 20 --log {RUN}/quiet.ring"))
    leak = f"{PYTHON}hog.py --size 1024 --rate 30 --log {RUN}/leak.ring"
    vm.check(his(f"systemd-run --user -q --unit=leak -p MemoryMax=200M -p OOMPolicy=continue {leak}"))
    assert vm.wait_for(his("! systemctl --user is-active -q leak"), 60)
    assert vm.check(his("systemctl --user show -P ExecMainStatus leak")).strip() == "9"
    assert vm.check(his("systemctl --user is-active quiet")).strip() == "active"
    assert "oom-kill" not in vm.check("dmesg")
    assert vm.wait_for(his("oomguard incidents list --json | grep -q killed_by"), 30), vm.check("journalctl -q -b")
    (incident,) = json.loads(vm.check(his("oomguard incidents list --no-others --json")))
    assert (incident["killed_by"], incident["cgroup"]) == ("oomguard", f"{MANAGER}/app.slice/leak.service")
    assert "killed python3[" in vm.check(his(f"oomguard incidents show {incident['id']}"))

    # The machine's own daemon had nothing to do with it, and each ends without the other.
    assert json.loads(vm.check("oomguard status --json"))["counters"]["kills"] == 0
    vm.check(his("systemctl --user stop oomguard.service"), timeout=60)
    assert vm.check(f"systemctl is-active {UNIT}").strip() == "active"
    vm.check(f"loginctl disable-linger {NAME}")
