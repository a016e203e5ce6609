"""Programs that listen give their caches back in a real leak, and nobody is killed: sd-event's own and oomguard.client.

They stay connected whatever becomes of the daemon. sd-event of systemd 257 spins when its socket is closed.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from .machine import PROBES, SOURCE, Machine
from .storms import UNIT, add_policy, incidents, journal, status

HERE = Path(__file__).resolve().parent
SLICE = "work-shop.slice"
CGROUP = f"/work.slice/{SLICE}"
# Three listeners of 50 MiB each. The first leak alone stays under soft; with what they hold it goes over hard.
POLICY = f"""\
[policy.shop]
cgroup = "{CGROUP}"
[policy.shop.soft]
when = [{{ memory_above = "200MiB" }}]
do = ["snapshot", {{ tell = {{ every = "2s", fifos = {{ thumbs = "nobody" }} }} }}, "nominate"]
[policy.shop.hard]
when = [{{ memory_above = "280MiB" }}]
do = ["kill"]
"""
SOCKET = "Environment=MEMORY_PRESSURE_WATCH=/run/oomguard/pressure/shop.sock\n"  # and systemd's own _WRITE
FIFO = (
    "User=nobody\nMemoryPressureWatch=skip\nEnvironment=MEMORY_PRESSURE_WATCH=/run/oomguard/pressure/shop.thumbs.fifo\n"
)
LISTENER = f"{PROBES}/listener"  # nothing in /run may be executed
PYTHON = f"""\
import sys, threading
sys.path.insert(0, "{SOURCE}")
from oomguard import client
cache = client.register([bytes(1000 + i % 7) for i in range(50_000)])
told = 0
def drop():
    global told
    told += 1
    print("told", told, watch.level, client.trim() >> 20, "MiB", flush=True)
watch = client.Watch()
watch.in_thread(drop)
print("up", flush=True)
threading.Event().wait()
"""
LEAK = """\
import sys, time
held = [bytearray(b"x") * (30 << 20)]
while len(held) < int(sys.argv[1]) - 30:
    held.append(bytearray(b"x") * (1 << 20))
    time.sleep(0.1)
time.sleep(3600)
"""
LISTENERS = ("c-socket", "c-fifo", "py-socket")


def compiled(tmp_path: Path) -> bytes:
    program = tmp_path / "listener"
    command = ["cc", "-O1", "-Wall", "-Wextra", "-Werror", "-o", program, HERE / "guest/listener.c", "-ldl"]
    subprocess.run(command, check=True)
    return program.read_bytes()


def unit(vm: Machine, name: str, command: str, settings: str = "") -> None:
    vm.put(f"/run/systemd/system/{name}.service", f"[Service]\nSlice={SLICE}\n{settings}ExecStart={command}\n")


def said(vm: Machine, name: str) -> list[str]:
    return vm.run(f"journalctl -q -o cat -u {name}").out.splitlines()


def times_told(vm: Machine, name: str) -> int:
    return sum(line.startswith("told ") for line in said(vm, name))


def cpu_s(vm: Machine, name: str) -> float:
    return int(vm.check(f"systemctl show -P CPUUsageNSec {name}")) / 1e9


def everybody_is_told(vm: Machine, before: dict[str, int]) -> None:
    for name in LISTENERS:
        more = f"test $(journalctl -q -o cat -u {name} | grep -c '^told ') -gt {before[name]}"
        assert vm.wait_for(more, 60), f"{name}: {said(vm, name)}\n{journal(vm, UNIT)}"


def until_calm(vm: Machine) -> None:
    deadline = time.monotonic() + 30
    while [row["phase"] for row in status(vm)["policies"] if row["name"] == "shop"] != ["calm"]:
        assert time.monotonic() < deadline, journal(vm, UNIT)
        time.sleep(0.5)


def test_programs_are_told_and_nobody_is_killed(installed_vm: Machine, tmp_path: Path) -> None:
    vm = installed_vm
    vm.put(LISTENER, compiled(tmp_path), 0o755)
    vm.put("/run/probe/py.py", PYTHON)
    vm.put("/run/probe/leak.py", LEAK)
    vm.put(f"/run/systemd/system/{SLICE}", "[Slice]\n")
    add_policy(vm, "shop", POLICY)
    assert vm.wait_for("test -S /run/oomguard/pressure/shop.sock", 30), journal(vm, UNIT)
    assert "pressure" not in {row["what"] for row in status(vm)["degraded"]}, journal(vm, UNIT)
    unit(vm, "c-socket", f"{LISTENER} 50", SOCKET)
    unit(vm, "c-fifo", f"{LISTENER} 50", FIFO)
    unit(vm, "py-socket", "/usr/bin/python3 -I -S /run/probe/py.py", SOCKET)
    for number in (1, 2):
        unit(vm, f"leak-{number}", f"/usr/bin/python3 -I -S /run/probe/leak.py {150 - 30 * number}")
    vm.check(f"systemctl daemon-reload && systemctl start {' '.join(LISTENERS)}", timeout=60)
    for name in LISTENERS:
        assert vm.wait_for(f"journalctl -q -o cat -u {name} | grep -q '^up'", 60), said(vm, name)
        assert times_told(vm, name) == 0, said(vm, name)

    vm.check("systemctl start leak-1")
    everybody_is_told(vm, dict.fromkeys(LISTENERS, 0))
    assert any("soft" in line for line in said(vm, "py-socket"))
    assert vm.wait_for(f"test $(cat /sys/fs/cgroup{CGROUP}/memory.current) -lt {160 << 20}", 30), said(vm, "py-socket")
    until_calm(vm)

    # Whatever becomes of the daemon, they are connected, and do not spin.
    before = {name: cpu_s(vm, name) for name in LISTENERS}
    vm.check(f"systemctl kill -s KILL {UNIT}", timeout=60)
    assert vm.wait_for(f"test $(systemctl show -P NRestarts {UNIT}) = 1 && systemctl is-active {UNIT}", 60)
    vm.check(f"systemctl stop {UNIT} && sleep 1 && systemctl start {UNIT}", timeout=120)
    spent = {name: cpu_s(vm, name) - before[name] for name in LISTENERS}
    assert max(spent.values()) < 1, f"{spent}: it spins"
    counts = {name: times_told(vm, name) for name in LISTENERS}
    assert max(counts.values()) < 20, counts

    # Those at the socket are the same connections as before; the FIFO went with the directory when it was stopped.
    vm.check("systemctl restart c-fifo && systemctl start leak-2")
    everybody_is_told(vm, counts)
    for name in (*LISTENERS, "leak-1", "leak-2"):
        state = vm.check(f"systemctl show -P ActiveState -P NRestarts {name}").split()
        assert sorted(state) == ["0", "active"], name
    vm.check("systemctl stop leak-1 leak-2")
    found = [incident for incident in incidents(vm, "soft") if incident["policy"] == "shop"]
    assert {incident["killed_by"] for incident in found} == {"none"}
    story = vm.check(f"oomguard incidents show {found[-1]['id']} --all")
    assert "told at soft to give memory back: " in story, story
    assert "listener[" in story
    assert "python3[" in story
    assert "shop.thumbs.fifo" in story
    assert "after programs were told at soft" in story, story
