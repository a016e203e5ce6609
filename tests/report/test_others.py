"""What other daemons write into the journal when they kill, as they write it."""

import json
from pathlib import Path
from typing import Any

import pytest

from oomguard.report import others
from oomguard.report.others import Kill, NoJournal, parse

AT = "2026-01-31T03:12:04.977Z"
SCOPE = "/user.slice/user-1000.slice/user@1000.service/app.slice/a.scope"


def entry(by: str, message: object) -> bytes:
    told = {"SYSLOG_IDENTIFIER": by, "MESSAGE": message, "__REALTIME_TIMESTAMP": "1769829124977123"}
    return json.dumps(told).encode()


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
    "line",
    [
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


def test_the_journal_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = entry("earlyoom", 'sending SIGKILL to process 812 uid 1000 "stress": badness 700, VmRSS 900 MiB').decode()
    (tmp_path / "line").write_text(line + "\n")
    journalctl(tmp_path, f"cat {tmp_path}/line", monkeypatch)
    why = "badness 700, VmRSS 900 MiB"
    assert others.kills() == [Kill(AT, "earlyoom", 812, "stress", "", 900 << 20, "SIGKILL", why)]


def test_a_journal_that_cannot_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journalctl(tmp_path, "echo 'No journal files: insufficient permissions.' >&2; exit 1", monkeypatch)
    with pytest.raises(NoJournal, match="insufficient permissions"):
        others.kills()
    monkeypatch.setattr(others, "_PATIENCE_S", 0.2)
    journalctl(tmp_path, "exec sleep 20", monkeypatch)
    with pytest.raises(NoJournal, match="did not answer"):
        others.kills()
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(NoJournal, match="no journalctl"):
        others.kills()
