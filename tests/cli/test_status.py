"""``oomguard status``: the daemon's page, for people and for programs, and what is said where there is none."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oomguard.cli import app, live
from oomguard.model import statuspage
from oomguard.model.statuspage import Clause, Condition
from tests import pages

from .command import oomguard

(RECORDED,) = Path(__file__).parents[1].glob("report/incidents/schema-2/incidents/*/incident.json")


@pytest.fixture
def core() -> Iterator[subprocess.Popen[bytes]]:
    """Somebody who looks like a core from outside."""
    with pages.core() as process:
        yield process
        process.kill()


SOFT = Clause((Condition("available_below", "", "millionths", 120000, 0),), 0, False)
WITH_STALL = Clause((SOFT.all_of[0], Condition("stall_above", "full", "us", 150000, 10**9)), 10**10, False)
HARD = Clause((Condition("available_below", "", "bytes", 1 << 20, 0),), 0, False)
NEAR = Clause((Condition("memory_above", "", "millionths", 800000, 0),), 0, True)
FULL = Clause((Condition("memory_above", "", "millionths", 900000, 0),), 0, False)


def publish(directory: Path, pid: int, why: str = "no swap", cgroup: str = "/system.slice/web-*.service") -> None:
    numbers = statuspage.Numbers(
        pid=pid,
        started_ns=time.time_ns(),
        armed=1,
        turns=77,
        minor_faults=1,
        major_faults=0,
        snapshots=2,
        kills=3,
        kernel_oom_kills=4,
        mem_total_bytes=16 << 30,
        mem_available_bytes=3 << 30,
        swap_total_bytes=1 << 30,
        swap_free_bytes=1 << 29,
    )
    guards = (
        statuspage.GuardLine(
            "host", "/", "observe", "calm", 1, 12 << 30, 16 << 30, path="/", soft=(SOFT, WITH_STALL), hard=(HARD,)
        ),
        statuspage.GuardLine(
            *("web", cgroup, "enforce", "armed", 7, 210 << 20, 256 << 20),
            path="/system.slice/web-3.service",
            soft=(NEAR,),
            hard=(FULL,),
            kills=3,
            snapshots=2,
        ),
    )
    pages.publish(directory, numbers, guards, degraded=[("swap_above", why), ("psi", "not here")])


def test_for_programs(tmp_path: Path, core: subprocess.Popen[bytes]) -> None:
    publish(tmp_path, core.pid)
    answer = oomguard("status", "--runtime-dir", tmp_path, "--json")
    assert answer.code == 0
    seen: dict[str, Any] = answer.json
    memory = seen.pop("memory")
    assert set(seen.pop("lately") or {"last"}) >= {"last"}
    assert (seen["pid"], seen["version"], seen["armed"]) == (core.pid, "9.9.9", True)
    assert seen["turned_ms_ago"] < 3600_000
    host, web = seen["policies"]
    assert host == {
        "name": "host",
        "cgroup": "/",
        "mode": "observe",
        "phase": "calm",
        "phase_ms": None,
        "targets": 1,
        "path": "/",
        "used_bytes": 13 << 30,
        "limit_bytes": 16 << 30,
        "swap_bytes": 0,
        "pressure": None,
        "kills": 0,
        "snapshots": 0,
        "soft": {
            "holds": False,
            "share": 0.9233,
            "words": "available below 1.9 GiB (1.1 GiB away)",
            "other_clauses": 1,
            "kind": "available_below",
            "unit": "bytes",
            "now": 3 << 30,
            "line": int((16 << 30) * 0.12),
            "at": [0.88, 0.88],
        },
        "hard": {
            "holds": False,
            "share": 0.8125,
            "words": "available below 1.0 MiB (3.0 GiB away)",
            "other_clauses": 0,
            "kind": "available_below",
            "unit": "bytes",
            "now": 3 << 30,
            "line": 1 << 20,
            "at": [0.9999],
        },
    }
    assert (web["soft"]["holds"], web["soft"]["words"]) == (True, "memory above 205 MiB (holds)")
    assert (web["hard"]["holds"], web["hard"]["words"]) == (False, "memory above 230 MiB (20.4 MiB away)")
    assert (web["kills"], web["snapshots"], web["path"]) == (3, 2, "/system.slice/web-3.service")
    assert seen["host"]["available_bytes"] == 3 << 30
    assert seen["counters"] == {
        "turns": 77,
        "snapshots": 2,
        "kills": 3,
        "kernel_oom_kills": 4,
        "leases_undone": 0,
        "dropped_records": 0,
    }
    assert [it["what"] for it in seen["degraded"]] == ["swap_above", "psi"]
    assert "psi=1" in seen["degraded"][1]["mend"]
    assert (memory["minor_faults"], memory["major_faults"]) == (1, 0)
    (process,) = memory["processes"]
    assert (process["name"], process["locked_bytes"]) == ("core", 0), "nothing is locked in our stand-in"
    assert process["resident_bytes"] > 1 << 20


def test_for_people(tmp_path: Path, core: subprocess.Popen[bytes]) -> None:
    publish(tmp_path, core.pid)
    answer = oomguard("status", "--runtime-dir", tmp_path)
    assert answer.code == 0
    assert answer.out.startswith(f"oomguard 9.9.9, pid {core.pid}, since 2")
    assert ": armed\n" in answer.out
    assert "memory    3.0 GiB of 16.0 GiB available\n" in answer.out
    assert "did       2 snapshots, 3 kills, 4 by the kernel\n" in answer.out
    row = "web     armed  enforce  7        210 MiB   256 MiB   holds    20.4 MiB  /system.slice/web-3.service (of 7: "
    assert row in answer.out
    assert "\nhost is soft at: available below 1.9 GiB (1.1 GiB away); or 1 more\n" in answer.out
    assert "\ndegraded: psi: not here\n    mend: boot with psi=1" in answer.out
    every = oomguard("status", "--runtime-dir", tmp_path, "--all").out
    stall = "available below 1.9 GiB (1.1 GiB away) and a full stall of 150 ms in 1 s, for 10 s"
    assert f"\nhost or soft at: {stall}\n" in every


def test_all_in_observe_mode_and_starting_are_no_guard(tmp_path: Path, core: subprocess.Popen[bytes]) -> None:
    for armed, mode, said in ((1, "observe", "armed, in observe mode: it ends nobody"), (0, "enforce", "starting")):
        guards = [statuspage.GuardLine("host", "/", mode, "calm", 1, 1, 2, path="/")]
        pages.publish(tmp_path, statuspage.Numbers(pid=core.pid, armed=armed), guards)
        assert f": {said}" in oomguard("status", "--runtime-dir", tmp_path).out


def test_one_that_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It lives, and does nothing: stopped, or stuck in the kernel."""
    monkeypatch.setattr(live, "lives", lambda page: True)  # nobody here is as old as that page
    guards = [statuspage.GuardLine("host", "/", "enforce", "calm", 1, 1, 2, path="/")]
    numbers = statuspage.Numbers(pid=1, armed=1)
    pages.publish(tmp_path, numbers, guards, beat_ns=time.monotonic_ns() - 100 * 10**9)
    assert app.call(["status", "--runtime-dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert ": STANDS STILL: no turn for 1" in out
    assert "systemctl restart oomguard" in out
    idle = [replace(guards[0], targets=0, path="")]
    pages.publish(tmp_path, numbers, idle, beat_ns=time.monotonic_ns() - 100 * 10**9)
    assert app.call(["status", "--runtime-dir", str(tmp_path)]) == 0
    assert ": armed\n" in capsys.readouterr().out, "nothing to watch, nothing to wake for"


def test_many_are_one_screen(tmp_path: Path, core: subprocess.Popen[bytes]) -> None:
    """Those that are nearest; whoever wants them all says so."""
    guards = [
        statuspage.GuardLine(f"g{n}", f"/g{n}", "enforce", "calm", 1, n, 200, path=f"/g{n}", soft=(NEAR, NEAR))
        for n in range(150)
    ]
    guards[3] = replace(guards[3], phase="firing")
    degraded = [(f"policy policy.g{n}", "x") for n in range(9)]
    pages.publish(tmp_path, statuspage.Numbers(pid=core.pid, armed=1), guards, degraded=degraded)
    out = oomguard("status", "--runtime-dir", tmp_path).out
    assert len(out.splitlines()) <= 40
    rows = [line.split()[0] for line in out.splitlines() if line.startswith("g") and "enforce" in line]
    assert rows == ["g3", "g127", "g126", "g125", "g124", "g123", "g122", "g121"]
    assert "\nand 120 more policies, further away: --all\n" in out
    assert "\nand 5 more that are degraded: --all\n" in out
    assert "\nleft out: 22 policies, for which the status page has no room\n" in out
    every = oomguard("status", "--runtime-dir", tmp_path, "--all").out
    assert all(f"\ng{n} " in every for n in range(128))


def test_a_daemon_of_another_version(tmp_path: Path, core: subprocess.Popen[bytes]) -> None:
    """It was upgraded and not restarted."""
    publish(tmp_path, core.pid)
    page = bytearray((tmp_path / "status").read_bytes())
    page[8] = 1
    (tmp_path / "status").write_bytes(page)
    answer = oomguard("status", "--runtime-dir", tmp_path)
    assert answer.code == 1
    assert (
        "/status cannot be read: it is of layout 1, and this version of oomguard reads layout 2: restart the"
        in answer.err
    )


def test_the_verdicts_of_the_last_day(tmp_path: Path, core: subprocess.Popen[bytes]) -> None:
    """Did we help? An incident says so; yesterday's is history, and a damaged one says nothing."""
    publish(tmp_path, core.pid)
    config = tmp_path / "oomguard.toml"
    config.write_text(f'[daemon]\nstate_dir = "{tmp_path}"\n[policy.host]\ncgroup = "/"\n')
    doc = json.loads(RECORDED.read_bytes())
    doc["verdict"] |= {
        "helped": False,
        "again": True,
        "text": "it helped until import came back and took as much again",
    }
    told = json.dumps(doc).encode()
    for hours, content in ((1, told), (2, b"{"), (30, told)):
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() - hours * 3600))
        directory = tmp_path / "incidents" / f"{stamp}-host-072511"
        directory.mkdir(parents=True)
        (directory / "incident.json").write_bytes(content)
    arguments = ("status", "--runtime-dir", tmp_path, "--config", config)
    lately = oomguard(*arguments, "--json").json["lately"]
    last = lately.pop("last")
    assert lately == {"helped": 0, "did_not_help": 1, "kernel_killed": 0, "unable": 0}
    assert (last["again"], last["text"]) == (True, "it helped until import came back and took as much again")
    assert f"lately    1 did not help; last: {last['text']} ({last['id']})\n" in oomguard(*arguments).out


def test_workers_count_too(tmp_path: Path) -> None:
    forked = "os.fork() or (open('/proc/self/comm', 'w').write('oomguard-reaper'), sys.stdin.read(), os._exit(0)); "
    with pages.core(forked) as core:
        publish(tmp_path, core.pid)
        told = oomguard("status", "--runtime-dir", tmp_path, "--json").json["memory"]["processes"]
        assert {it["name"] for it in told} == {"core", "reaper"}
        assert all(it["resident_bytes"] > 1 << 20 for it in told)
        shown = next(
            line for line in oomguard("status", "--runtime-dir", tmp_path).out.splitlines() if "itself" in line
        )
        core.communicate()
    assert re.search(r"itself    core [0-9.]+ MiB, reaper [0-9.]+ MiB; 1 minor and 0 major page faults since", shown)


LISTENING = """
import sys
place = sys.argv.pop(1)
def heard(event, arguments):
    if event == "open" and str(arguments[0]).startswith(("/proc/", place)):
        print(arguments[0], file=sys.stderr)
sys.addaudithook(heard)
from oomguard.cli.main import main
main()
"""


@pytest.mark.parametrize("command", ["status", "top --once", "top --json --once", "exporter --once"])
def test_that_page_is_read_and_of_the_processes_what_takes_no_lock_of_theirs(
    tmp_path: Path, core: subprocess.Popen[bytes], command: str
) -> None:
    """cmdline, environ, maps and smaps take the mmap_lock, which the core may want for itself."""
    publish(tmp_path, core.pid)
    words = [*command.split(), "--runtime-dir", str(tmp_path)]
    call = [sys.executable, "-c", LISTENING, str(tmp_path), *words]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    opened = [line for line in done.stderr.splitlines() if line.startswith("/")]
    of_the_core = {name.rpartition("/")[2] for name in opened if name.startswith(f"/proc/{core.pid}/")}
    assert of_the_core <= {"stat", "status", "children"}, opened
    assert "stat" in of_the_core, "it would be seen"
    assert [name for name in opened if not name.startswith("/proc/")] == [f"{tmp_path}/status"]


def test_hostile_names_move_no_cursor(tmp_path: Path, core: subprocess.Popen[bytes]) -> None:
    publish(tmp_path, core.pid, why="\x1b[31m\u202e[red]\rx", cgroup="/a\x1b]0;x\x07/[b]\n")
    answer = oomguard("status", "--runtime-dir", tmp_path)
    assert "degraded: swap_above: \\x1b[31m\\u202e[red]\\rx\n" in answer.out
    assert ": /a\\x1b]0;x\\x07/[b]\\n)\n" in answer.out
    assert "\x1b" not in answer.out


def test_the_configured_directory_is_looked_into(tmp_path: Path, core: subprocess.Popen[bytes]) -> None:
    publish(tmp_path, core.pid)
    config = tmp_path / "a.toml"
    config.write_text(f"[daemon]\nruntime_dir = '{tmp_path}'\n[policy.broken]\nx = 1\n")
    assert oomguard("status", "--config", config, "--json").json["pid"] == core.pid


def test_a_daemon_without_root_is_found(tmp_path: Path, core: subprocess.Popen[bytes]) -> None:
    (tmp_path / "oomguard").mkdir()
    publish(tmp_path / "oomguard", core.pid)
    config = tmp_path / "a.toml"
    config.write_text(f"[daemon]\nruntime_dir = '{tmp_path}/none'\n")
    answer = oomguard("status", "--config", config, "--json", env={"XDG_RUNTIME_DIR": str(tmp_path)})
    assert answer.json["pid"] == core.pid


def test_where_nobody_runs(tmp_path: Path) -> None:
    answer = oomguard("status", "--runtime-dir", tmp_path)
    assert (answer.code, answer.out) == (1, "")
    mend = "systemctl start oomguard.service, or oomguard run"
    assert answer.err == f"oomguard: oomguard is not running: there is no {tmp_path}/status: {mend}\n"
    assert oomguard("status", "--runtime-dir", tmp_path, "--json").json["pid"] is None


def test_one_whom_the_kernel_hides_from_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/proc with hidepid: of another user's process there is no directory, and signals tell that it is there."""

    def kill(pid: int, number: int) -> None:
        raise PermissionError

    publish(tmp_path, 2**22 + 1)
    monkeypatch.setattr(live.os, "kill", kill)
    assert live.page(tmp_path).numbers.pid == 2**22 + 1


def test_a_later_process_of_that_number_and_name(tmp_path: Path, core: subprocess.Popen[bytes]) -> None:
    """An exporter, say, that has begun after the page's last word."""
    publish(tmp_path, core.pid)
    assert oomguard("status", "--runtime-dir", tmp_path).code == 0
    page = statuspage.read(str(tmp_path / "status"))
    pages.publish(tmp_path, page.numbers, beat_ns=page.beat_ns - 3600 * 10**9)
    answer = oomguard("status", "--runtime-dir", tmp_path)
    assert (answer.code, "has ended without a word" in answer.err) == (1, True)


@pytest.mark.parametrize(
    "pid", [0, 2**63, 2**22 + 1, os.getpid(), 1], ids=["none", "hostile", "nobody", "other", "init"]
)
def test_the_page_of_one_who_has_ended(tmp_path: Path, pid: int) -> None:
    """No such pid, or a later process that has the number now."""
    publish(tmp_path, pid)
    answer = oomguard("status", "--runtime-dir", tmp_path)
    assert answer.code == 1
    assert f"oomguard is not running: pid {pid} of {tmp_path}/status has ended without a word" in answer.err


@pytest.mark.parametrize(
    "page", [b"", b"\0" * 10, b"\xff" * 200000, b"oomguard" + b"\xff" * 200000, b"oomguard" + b"\1" * 200000]
)
def test_a_page_of_something_else(tmp_path: Path, page: bytes) -> None:
    (tmp_path / "status").write_bytes(page)
    answer = oomguard("status", "--runtime-dir", tmp_path)
    assert answer.code == 1
    assert answer.err.startswith(f"oomguard: {tmp_path}/status cannot be read: ")


def test_a_place_that_may_not_be_looked_at(tmp_path: Path) -> None:
    (tmp_path / "status").mkdir()
    answer = oomguard("status", "--runtime-dir", tmp_path)
    assert answer.code in (1, 3)
    assert answer.err.startswith("oomguard: ")
