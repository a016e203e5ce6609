"""What other daemons write into the journal when they kill, as they write it."""

import json
from pathlib import Path
from typing import Any

import pytest

from oomguard.report import others
from oomguard.report.others import Kill, NoJournal, Told, parse

AT = "2026-01-31T03:12:04.977Z"
SCOPE = "/user.slice/user-1000.slice/user@1000.service/app.slice/a.scope"


def entry(by: str, message: object, **more: str) -> bytes:
    told = {"SYSLOG_IDENTIFIER": by, "MESSAGE": message, "__REALTIME_TIMESTAMP": "1769829124977123", **more}
    return json.dumps(told).encode()


KERNEL = {"_TRANSPORT": "kernel"}
KILLED = (
    "Memory cgroup out of memory: Killed process 812 (a) total-vm:9kB, x) total-vm:8392kB, anon-rss:4096kB, "
    "file-rss:1024kB, shmem-rss:0kB, UID:1000 pgtables:52kB oom_score_adj:0"
)
FBOOMD = (
    "oomd kill: 10.00 60.00 600.00 system.slice/a b.service 734003200 ruleset:[x] detectorgroup:[y] killer:{}kill v2"
)


@pytest.mark.parametrize(
    ("by", "message", "expected"),
    [
        (
            "systemd-oomd",
            f"Killed {SCOPE} due to memory pressure for /user.slice being 65.55% > 50.00% for > 20s with reclaim",
            ("", 0, SCOPE, None, "SIGKILL"),
        ),
        (
            "systemd-oomd",
            f"Marked {SCOPE} for killing due to memory used (990) / total (1000) and swap used (95) / total (100)",
            ("", 0, SCOPE, None, "SIGKILL"),
        ),
        (
            "earlyoom",
            'sending SIGTERM to process 812 uid 1 "a": b": oom_score 1300, oom_score_adj 0, VmRSS 900 MiB, cmdline "x"',
            ('a": b', 812, "", 900 << 20, "SIGTERM"),
        ),
        (
            "earlyoom",
            'sending SIGKILL to process 812 uid 1000 "stress": badness 700, VmRSS 900 MiB',
            ("stress", 812, "", 900 << 20, "SIGKILL"),
        ),
        (
            "earlyoom",
            list(b'sending SIGKILL to process 812 uid 0 "\xff": badness 7, VmRSS 9 MiB'),
            ("\\xff", 812, "", 9 << 20, "SIGKILL"),
        ),
        ("nohang", "[ OK ] Sending SIGTERM to tail; total response time: 14.0 ms", ("tail", 0, "", None, "SIGTERM")),
    ],
)
def test_every_daemons_words(by: str, message: object, expected: tuple[Any, ...]) -> None:
    (kill,) = parse([entry(by, message)])
    assert (kill.time, kill.by) == (AT, by)
    assert (kill.comm, kill.pid, kill.cgroup, kill.bytes, kill.signal) == expected


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (KILLED, ("kernel", "a) total-vm:9kB, x", 812, "", 4 << 20, "Memory cgroup out of memory")),
        (FBOOMD.format(""), ("oomd", "", 0, "/system.slice/a b.service", 700 << 20, "10.00 60.00 600.00")),
    ],
)
def test_what_the_kernels_log_tells(message: str, expected: tuple[Any, ...]) -> None:
    (kill,) = parse([entry("kernel", message, **KERNEL)])
    assert (kill.by, kill.comm, kill.pid, kill.cgroup, kill.bytes, kill.why) == expected
    assert parse([entry("kernel", message, _TRANSPORT="syslog")]) == [], "anybody may call himself the kernel"


EARLYOOM = 'sending SIGKILL to process 812 uid 1000 "stress": badness 700, VmRSS 900 MiB'


@pytest.mark.parametrize(
    "line",
    [
        entry("kernel", FBOOMD.format("(dry)"), **KERNEL),
        entry("kernel", "Killed process 812 (a)", **KERNEL),
        entry("earlyoom", EARLYOOM, _SYSTEMD_UNIT="session-3.scope"),
        entry("earlyoom", EARLYOOM, _SYSTEMD_UNIT="user@1000.service"),
        entry("earlyoom", "low memory! at or below SIGTERM limits: mem 10.00%, swap 10.00%"),
        entry("earlyoom", 'sending 0 (no-op signal) to process 1 uid 0 "x": badness 0, VmRSS 1 MiB'),
        entry("systemd-oomd", "Failed to kill any cgroup(s) under /a based on pressure: x"),
        entry("somebody", 'sending SIGKILL to process 812 uid 1000 "stress": badness 700, VmRSS 900 MiB'),
        entry("nohang", None),
        b'{"MESSAGE": "cut o',
        b"[]",
        b"",
    ],
)
def test_what_is_no_kill_is_left_out(line: bytes) -> None:
    assert parse([line]) == []


def journalctl(directory: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = directory / "journalctl"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")


@pytest.fixture
def line(tmp_path: Path) -> Path:
    """A file with one kill."""
    path = tmp_path / "line"
    path.write_bytes(entry("earlyoom", EARLYOOM) + b"\n")
    return path


EXPECTED = Kill(AT, "earlyoom", 812, "stress", "", 900 << 20, "SIGKILL", "badness 700, VmRSS 900 MiB")


def test_the_journal_is_asked(tmp_path: Path, line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journalctl(tmp_path, f"cat {line}", monkeypatch)
    assert others.kills() == Told([EXPECTED])
    journalctl(tmp_path, "exit 1", monkeypatch)  # with -g: there is none
    assert others.kills() == Told([])


def test_what_has_not_come_in_time_is_said_to_be_missing(
    tmp_path: Path, line: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journalctl(tmp_path, f"cat {line}; exec sleep 1000", monkeypatch)
    clock = iter((0.0, 0.0, 1000.0))  # time is over when the first line has come
    monkeypatch.setattr(others.time, "monotonic", lambda: next(clock))
    told = others.kills(patience_s=60)
    monkeypatch.undo()
    assert told.doubt == "journalctl had not answered within 60 s, or not all"
    assert told.kills == [EXPECTED]


def test_a_journalctl_that_cannot_search(tmp_path: Path, line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = f'case "$*" in *" -g "*) echo "Compiled without pattern matching support" >&2; exit 1;; esac; cat {line}'
    journalctl(tmp_path, script, monkeypatch)
    assert others.kills() == Told([EXPECTED])


def test_no_more_than_a_thousand(tmp_path: Path, line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line.write_bytes(line.read_bytes() * (others.MOST + 1))
    journalctl(tmp_path, f"cat {line}", monkeypatch)
    told = others.kills(patience_s=60)
    assert (len(told.kills), told.doubt) == (others.MOST, "more than 1000; these are the newest")


HINT = """Hint: You are currently not seeing messages from other users and the system.
      Users in groups 'adm', 'systemd-journal' can see all messages.
      Pass -q to turn off this notice."""


def test_a_journal_that_cannot_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journalctl(tmp_path, "echo 'No journal files: insufficient permissions.' >&2; exit 1", monkeypatch)
    with pytest.raises(NoJournal, match="insufficient permissions"):
        others.kills()
    journalctl(tmp_path, f'echo "{HINT}" >&2; exit 1', monkeypatch)
    with pytest.raises(NoJournal, match="may not read the system's journal"):
        others.kills()
    journalctl(tmp_path, "exec sleep 1000", monkeypatch)
    with pytest.raises(NoJournal, match="had not answered"):
        others.kills(patience_s=0.2)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(NoJournal, match="no journalctl"):
        others.kills()


def test_what_an_incident_tells_is_told_once() -> None:
    (known,) = parse([entry("kernel", KILLED, **KERNEL)])
    told = {"pid": 812, "by": "kernel"}
    hour_before = "2026-01-31T02:12:04Z"
    assert others.unheard([known], [(hour_before, [told])]) == []
    assert others.unheard([known, EXPECTED], [(AT, [told])]) == [EXPECTED], "another daemon's kill is another fact"
    assert others.unheard([known], [(hour_before, [{"pid": 812, "by": "oomguard"}])]) == [known]
    assert others.unheard([known], [("2026-01-29T02:12:04Z", [told])]) == [known], "a pid is given out again"
    assert others.unheard([known], [("2026-02-01T02:12:04Z", [told])]) == [known]
