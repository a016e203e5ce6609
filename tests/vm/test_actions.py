"""What a policy may do, on real cgroups and real units: reclaim, freeze, limits, a unit restarted.

And what is kept: cooldowns, budgets, what is lent for a time, and a shadow that touches nobody.
"""

from __future__ import annotations

import json
import time

from .machine import Machine
from .storms import UNIT, add_policy, incidents, journal, status

SLICE = "/sys/fs/cgroup/work.slice"
WEB = "/run/probe/restarted"

# Each service is guarded by a line in bytes; memory is not short, so nothing but the policy touches it.
POLICIES = """\
[policy.reclaimed]
cgroup = "/work.slice/reclaimed.service"
cooldown = "1h"
[policy.reclaimed.hard]
when = [{ memory_above = "16MiB" }]
do = [{ reclaim = { size = "100MiB", within = "20s" } }]

[policy.frozen]
cgroup = "/work.slice/frozen.service"
[policy.frozen.hard]
when = [{ memory_above = "40MiB" }]
do = [{ freeze = { for = "60s" } }, { wait = "8s" }, "kill"]

[policy.lent]
cgroup = "/work.slice/lent.service"
cooldown = "1h"
[policy.lent.hard]
when = [{ memory_above = "16MiB" }]
do = [
  { freeze = { for = "5m" } },
  { set_max = { to = "200MiB", for = "5m" } },
  { set_swap_max = { to = "0", for = "5m" } },
  { set_high = { to = "180MiB", for = "5m" } },
]

[policy.tripped]
cgroup = "/work.slice/tripped.service"
tripwire = true
[policy.tripped.hard]
when = [{ memory_above = "90%" }]
do = ["kill"]

[policy.restarted]
cgroup = "/work.slice/restarted.service"
[policy.restarted.hard]
when = [{ memory_above = "16MiB" }]
do = [{ run = ["/usr/bin/id"] }, "restart_unit", { wait = "1h" }, "kill"]
"""
HOLD = "import time; {first}held = bytearray(b'x') * ({mib} << 20); time.sleep(3600)"
CACHE = "import os; open('/var/tmp/cache', 'wb').write(bytes(120 << 20)); os.sync(); "
GROW = """\
import time
held = []
while True:
    held.append(bytearray(b"x") * (2 << 20))
    time.sleep(0.1)
"""
# Leaks in its first life, and not in its second.
ONCE = f"""\
import os, time
leaks = not os.path.exists("{WEB}")
open("{WEB}", "w").close()
held = bytearray(b"x") * (30 * leaks << 20)
time.sleep(3600)
"""


def start(vm: Machine, name: str, program: str, settings: str = "") -> None:
    """systemd writes the limits of what runs already anew, after each daemon-reload: ours must stand all the same."""
    vm.put(f"/run/probe/{name}.py", program)
    unit = f"[Service]\nSlice=work.slice\n{settings}ExecStart=/usr/bin/python3 -I -S /run/probe/{name}.py\n"
    vm.put(f"/run/systemd/system/{name}.service", unit)
    vm.check(f"systemctl daemon-reload && systemctl start {name}.service", timeout=60)


def start_all(vm: Machine, programs: dict[str, str], settings: dict[str, str] | None = None) -> None:
    """At once, and without waiting: a machine under load takes its time for each."""
    for name, program in programs.items():
        vm.put(f"/run/probe/{name}.py", program)
        more = (settings or {}).get(name, "")
        slice_of = "" if "Slice=" in more else "Slice=work.slice\n"
        unit = f"[Service]\n{slice_of}{more}ExecStart=/usr/bin/python3 -I -S /run/probe/{name}.py\n"
        vm.put(f"/run/systemd/system/{name}.service", unit)
    names = " ".join(f"{name}.service" for name in programs)
    vm.check(f"systemctl daemon-reload && systemctl start --no-block {names}", timeout=120)


def value(vm: Machine, name: str, file: str) -> str:
    return vm.check(f"cat {SLICE}/{name}.service/{file}").strip()


def told(vm: Machine, policy: str, message: str) -> list[str]:
    rows = [json.loads(line) for line in vm.check(f"journalctl -q -o json OOMGUARD_POLICY={policy}").splitlines()]
    return [row["MESSAGE"] for row in rows if message in row["MESSAGE"]]


def until_told(vm: Machine, policy: str, words: str) -> None:
    """The journal comes after what it tells of, on a machine under load by seconds."""
    asked = f"journalctl -q OOMGUARD_POLICY={policy} | grep -q '{words}'"
    assert vm.wait_for(asked, 120), journal(vm, UNIT)


def test_all_that_is_milder_than_a_kill(installed_vm: Machine) -> None:
    vm = installed_vm
    add_policy(vm, "actions", POLICIES)
    lacking = {row["what"] for row in status(vm)["degraded"]}
    assert not {what for what in lacking if not what.startswith("policy ")}, "this machine can do all of it"
    start(vm, "tripped", HOLD.format(mib=24, first=""), "MemoryMax=100M\n")
    assert vm.wait_for(f"test $(cat {SLICE}/tripped.service/memory.high) != max", 30), journal(vm, UNIT)
    tripwire = value(vm, "tripped", "memory.high")
    start(vm, "reclaimed", HOLD.format(mib=24, first=CACHE))
    start(vm, "frozen", GROW)
    start(vm, "lent", HOLD.format(mib=24, first=""))
    start(vm, "restarted", ONCE)

    # A unit restarted: another process, and it is not killed an hour later.
    assert vm.wait_for("test $(systemctl show -P NRestarts restarted) = 0 && journalctl -q OOMGUARD_POLICY=restarted "
                       "| grep -q 'restarted.service is restarted'", 60)  # fmt: skip
    assert vm.wait_for("journalctl -q -u restarted | grep -c Started | grep -q 2", 60), journal(vm, UNIT)

    # Its hook was somebody else; the runner came with the reload.
    hook = "journalctl -q -t oomguard-hook | grep -q 'uid=[1-9]'"
    assert vm.wait_for(hook, 60), vm.run("journalctl -q -t oomguard-hook").out + journal(vm, UNIT)

    # Frozen, looked at, and killed.
    assert vm.wait_for("journalctl -q OOMGUARD_POLICY=frozen | grep -q 'is frozen for'", 60), journal(vm, UNIT)
    assert vm.wait_for("journalctl -q OOMGUARD_POLICY=frozen | grep -q 'is gone'", 60), journal(vm, UNIT)
    assert told(vm, "frozen", "killed ")

    # Reclaimed: the cache is gone, and the process is not.
    assert vm.wait_for(f"test $(cat {SLICE}/reclaimed.service/memory.current) -lt {90 << 20}", 60), journal(vm, UNIT)
    assert vm.check("systemctl is-active reclaimed").strip() == "active"

    # Lent, all of it; and back, however the daemon ends.
    assert vm.wait_for(f"grep -q 'frozen 1' {SLICE}/lent.service/cgroup.events", 60), journal(vm, UNIT)
    files = {"memory.max": str(200 << 20), "memory.swap.max": "0", "memory.high": str(180 << 20), "cgroup.freeze": "1"}
    deadline = time.monotonic() + 30
    while {file: value(vm, "lent", file) for file in files} != files:
        assert time.monotonic() < deadline, {file: value(vm, "lent", file) for file in files}
        time.sleep(0.5)
    assert value(vm, "tripped", "memory.high") == tripwire
    vm.check(f"systemctl kill -s KILL {UNIT}; systemctl stop {UNIT}", timeout=60)
    assert value(vm, "tripped", "memory.high") == "max"
    back = {"memory.max": "max", "memory.swap.max": "max", "memory.high": "max", "cgroup.freeze": "0"}
    assert {file: value(vm, "lent", file) for file in back} == back
    assert vm.wait_for(f"grep -q 'frozen 0' {SLICE}/lent.service/cgroup.events", 10)
    vm.check(f"systemctl start {UNIT}", timeout=90)
    found = incidents(vm)
    assert {"reclaimed", "frozen", "lent", "restarted"} <= {incident["policy"] for incident in found}
    assert [incident["killed_by"] for incident in found if incident["policy"] == "restarted"] == ["none"]


# What ends processes, and what it leaves; the leader of each service holds nothing, its children do.
ENDING = """\
[daemon]
budget = { kills = 6, per = "1h" }
shadow = "/etc/oomguard/tomorrow.toml"

[policy.scored]
cgroup = "/work.slice/scored.service"
[policy.scored.soft]
when = [{ memory_above = "16MiB" }]
do = ["nominate", { set_oom_score_adj = { to = 700, for = "15s" } }]

[policy.thawed]
cgroup = "/work.slice/thawed.service"
cooldown = "1h"
[policy.thawed.hard]
when = [{ memory_above = "16MiB" }]
do = [{ freeze = { for = "3s" } }]

[policy.stopped]
cgroup = "/work.slice/stopped.service"
[policy.stopped.hard]
when = [{ memory_above = "16MiB" }]
do = ["stop_unit", { wait = "1h" }, "kill"]

[policy.asked]
cgroup = "/work.slice/asked.service"
hard = { when = [{ memory_above = "44MiB" }], do = [{ kill = { grace = "5s" } }] }
victim = { take = "session" }

[policy.paced]
cgroup = "/work.slice/paced.service"
cooldown = "6s"
hard = { when = [{ memory_above = "16MiB" }], do = ["kill"] }
victim = { take = "process" }

[policy.again]
cgroup = "/work.slice/again.service"
cooldown = "1h"
hard = { when = [{ memory_above = "16MiB" }], do = ["kill"] }

[policy.spent]
cgroup = "/work.slice/spent.service"
cooldown = "0s"
budget = { kills = 1, per = "1h" }
hard = { when = [{ memory_above = "16MiB" }], do = ["kill"] }
victim = { take = "process" }

[policy.last]
cgroup = "/work.slice/last.service"
hard = { when = [{ memory_above = "16MiB" }], do = ["kill"] }
"""
TOMORROW = """\
[policy.scored]
cgroup = "/work.slice/scored.service"
hard = { when = [{ memory_above = "16MiB" }], do = ["kill"] }
"""
# Two that hold 24 MiB each: one ends when it is asked to, the other does not. Who has started them tells when each of
# them was asked, and when and how it ended.
LEADER = """\
import os, signal, sys, time
def tell(*words):
    print(*words, time.monotonic(), flush=True)
def asked(number, frame):
    tell("asked")
    if first:
        os._exit(0)
signal.signal(signal.SIGTERM, asked)
for first in (True, False):
    if not os.fork():
        held = bytearray(b"x") * (24 << 20)
        while True:
            time.sleep(0.05)  # Python's handler of a signal that came before runs when this ends
for _ in range(2):
    tell("ended", os.waitstatus_to_exitcode(os.wait()[1]))
time.sleep(3600)
"""
# Says for how long it has stood still, when that was long.
TICKS = """\
import time
last = time.monotonic()  # it may be stopped while it grows
held = bytearray(b"x") * (24 << 20)
while True:
    time.sleep(0.05)
    now = time.monotonic()
    if now - last > 2.5:
        print("stood still for", now - last, flush=True)
    last = now
"""


def said(vm: Machine, name: str) -> list[list[str]]:
    """What a leader has written, by line and word."""
    lines = [line.split() for line in vm.check(f"journalctl -q -o cat -u {name}").splitlines()]
    return [line for line in lines if line and line[0] in ("asked", "ended")]


def until_ended(vm: Machine, name: str, children: int) -> list[list[str]]:
    count = f"test $(journalctl -q -o cat -u {name} | grep -c '^ended ') -ge {children}"
    assert vm.wait_for(count, 120), f"{said(vm, name)}\n{journal(vm, UNIT)}"
    return [line for line in said(vm, name) if line[0] == "ended"]


def test_what_ends_processes_and_what_stops_that(installed_vm: Machine) -> None:
    vm = installed_vm
    vm.put("/etc/oomguard/tomorrow.toml", TOMORROW)
    add_policy(vm, "ending", ENDING)
    hold = HOLD.format(mib=24, first="")
    start_all(vm, {"scored": hold, "thawed": TICKS})
    score = "cat /proc/$(systemctl show -P MainPID scored)/oom_score_adj"
    assert vm.wait_for(f"test $({score}) = 700", 60), journal(vm, UNIT)

    # Asked, and killed when the grace was over; who leads the session is spared, since the others hold most.
    start_all(vm, {"asked": LEADER})
    ends = until_ended(vm, "asked", 2)
    assert [status for _, status, _ in ends] == ["0", "-9"]
    asked = next(float(line[1]) for line in said(vm, "asked") if line[0] == "asked")
    assert float(ends[1][2]) - asked > 4, "it had its grace"
    assert vm.check("systemctl is-active asked").strip() == "active"

    # A unit stopped: by systemd, which does not start it again.
    restarts = dict.fromkeys(("stopped", "again"), "Restart=always\nRestartSec=3\n")
    start_all(vm, {**dict.fromkeys(restarts, hold), **dict.fromkeys(("paced", "spent"), LEADER)}, restarts)
    until_told(vm, "stopped", "stopped.service is stopped")
    assert vm.wait_for("systemctl show -P ActiveState stopped | grep -q '^inactive'", 60), journal(vm, UNIT)
    assert not told(vm, "stopped", "killed ")

    # The next one after the cooldown.
    ends = until_ended(vm, "paced", 2)
    assert [status for _, status, _ in ends] == ["-9", "-9"]
    assert float(ends[1][2]) - float(ends[0][2]) > 4, "counted from the signal, and not from the end"

    # It holds for a service that systemd starts anew, too: its second life is let live, and that is said.
    until_told(vm, "again", "the cooldown of the last kill")
    assert sorted(vm.check("systemctl show -P NRestarts -P ActiveState again").split()) == ["1", "active"]
    assert len(told(vm, "again", "killed ")) == 1

    # One may be ended, the other lives: the budget is spent, and that is said.
    until_ended(vm, "spent", 1)
    loudly = "journalctl -q -p 3 OOMGUARD_POLICY={} | grep -q '{} kill budget .* is spent .* nobody is killed'"
    assert vm.wait_for(loudly.format("spent", "this guard.s"), 60), journal(vm, UNIT)
    start_all(vm, {"last": hold})
    assert vm.wait_for(loudly.format("last", "the host.s"), 60), journal(vm, UNIT)
    assert vm.check("systemctl is-active last").strip() == "active"
    assert len(until_ended(vm, "spent", 1)) == 1
    kinds = [event["kind"] for event in status(vm)["events"]]
    assert "BUDGET_SPENT" in kinds, kinds

    # What was lent for a time was taken back when that was over.
    until_told(vm, "thawed", "is frozen for 3 s")
    assert vm.wait_for("journalctl -q -o cat -u thawed | grep -q 'stood still'", 60), journal(vm, UNIT)
    assert vm.check(f"cat {SLICE}/thawed.service/cgroup.freeze").strip() == "0"
    assert vm.wait_for(f"test $({score}) = 0", 60), journal(vm, UNIT)
    assert vm.check("systemctl is-active scored thawed").split() == ["active", "active"]

    # The shadow's verdict touched nobody; what became of it is told.
    verdict = f"journalctl -q -u {UNIT} | grep -q 'would have killed python3.* holding .*{{}}'"
    assert vm.wait_for(verdict.format("the policy in force has not acted"), 60), journal(vm, UNIT)
    vm.check("systemctl stop scored")
    assert vm.wait_for(verdict.format("by itself"), 60), journal(vm, UNIT)
