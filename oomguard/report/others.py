"""What others killed, from the journal: the kernel while nobody of ours looked, systemd-oomd, earlyoom, nohang, oomd.

The ledger is asked for at bad moments: it is read newest first, for three seconds at most, and what has not come by
then is said to miss. Their words are no interface, and change: what is not recognised is left out, never guessed.
"""

import json
import os
import re
import select
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

SINCE = "-30 days"
MOST = 1000  # kills
PATIENCE_S = 3.0
_PIECE: Final = 64 << 10
_SAID: Final = 200  # of what journalctl says: one line is for people
_TOGETHER: Final = timedelta(seconds=60)  # the journal's clock and ours, and an incident that opens after the fact
_LONGEST: Final = timedelta(hours=12)  # of an incident

# Killed /user.slice/x.scope due to memory pressure for /user.slice being 65.55% > 50.00% for > 20s with reclaim ...
# Marked /user.slice/x.scope for killing due to memory used (...) / total (...) and swap used ... (systemd 258)
_OOMD = re.compile(r"(?:Killed|Marked) (?P<cgroup>/.*?)(?: for killing)? due to (?P<why>.*)", re.DOTALL)
# sending SIGTERM to process 812 uid 1000 "stress": oom_score 1300, VmRSS 900 MiB, cmdline "..."   (earlyoom 1.8)
# sending SIGTERM to process 812 uid 1000 "stress": badness 700, VmRSS 900 MiB                     (until 1.7)
_EARLYOOM = re.compile(
    r'sending (?P<signal>SIG\w+) to process (?P<pid>\d+) uid \d+ "(?P<comm>.*)": '
    r"(?P<why>(?:oom_score|badness) -?\d+.*?VmRSS (?P<mib>\d+) MiB)",
    re.DOTALL,
)
# [ OK ] Sending SIGTERM to stress ...
_NOHANG = re.compile(r"\[ OK \] Sending (?P<signal>SIG\w+) to (?P<comm>.{1,15}?)(?:;|,| \(|\s*$)")
# Memory cgroup out of memory: Killed process 812 (stress) total-vm:8392kB, anon-rss:4096kB, file-rss:0kB, ...
_KERNEL = re.compile(
    r"(?P<why>.*out of memory.*): Killed process (?P<pid>\d+) \((?P<comm>.*)\) total-vm:\d+kB, anon-rss:(?P<kib>\d+)kB",
    re.DOTALL | re.IGNORECASE,
)
# oomd kill: 10.00 60.00 600.00 system.slice/x.service 1999 ruleset:[..] detectorgroup:[..] killer:...
# Into the kernel's log. In a dry run the killer's name begins with (dry).
_FBOOMD = re.compile(
    r"oomd kill: (?P<why>[\d.]+ [\d.]+ [\d.]+) (?P<cgroup>\S.*?) (?P<bytes>\d+) (?!.*killer:\(dry\))ruleset:\[",
    re.DOTALL,
)
_KNOWN = {"systemd-oomd": _OOMD, "earlyoom": _EARLYOOM, "nohang": _NOHANG, "nohang-desktop": _NOHANG}
# One expression that lets all of these through, and little else: journalctl looks before it prints.
_GREP: Final = r"Killed|Marked|sending SIG|Sending SIG|oomd kill: "
# What a user logs under another's name is no kill: units below these are a user's own.
_USERS: Final = ("user@", "session-")


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill by somebody else. ``pid`` 0, ``comm`` "" and ``bytes`` None where the journal does not say."""

    time: str  # RFC 3339, UTC
    by: str
    pid: int
    comm: str
    cgroup: str
    bytes: int | None
    signal: str
    why: str

    def plain(self) -> dict[str, Any]:
        """As a line of ``oomguard incidents list --json``: of the same form as an incident, with an empty id."""
        victim = {"pid": self.pid, "comm": self.comm, "cgroup": self.cgroup, "bytes": self.bytes, "by": self.by}
        return {
            "id": "",
            "time": self.time,
            "policy": "",
            "cgroup": self.cgroup,
            "kind": self.kind,
            "mode": "",
            "killed_by": self.by,
            "victims": [victim],
            "freed_bytes": None,
            "latency_ms": None,
            "complete": True,
            "ended": "",
            "damaged": "",
            "signal": self.signal,
            "why": self.why,
        }

    @property
    def kind(self) -> str:
        """As an incident's: ``kernel``, or ``other`` for another daemon."""
        return "kernel" if self.by == "kernel" else "other"


@dataclass(frozen=True, slots=True)
class Told:
    """Kills, newest first. ``doubt``: why there may be more of them; empty: there are none."""

    kills: list[Kill]
    doubt: str = ""


class NoJournal(RuntimeError):
    """It cannot be read here. The text says why."""


def kills(patience_s: float = PATIENCE_S) -> Told:
    """Of the last thirty days, a thousand at most. Raises NoJournal."""
    lines, doubt = _asked(("-g", _GREP), patience_s)
    if "pattern matching" in doubt or "PCRE" in doubt:  # a journalctl without it
        lines, doubt = _asked((), patience_s)
    found = parse(lines)
    if doubt and not found:
        raise NoJournal(doubt)
    if len(found) > MOST:
        doubt = f"more than {MOST}; these are the newest"
    return Told(found[:MOST], doubt)


def parse(lines: Iterable[bytes]) -> list[Kill]:
    """The kills among these lines of ``journalctl -o json``, in their order."""
    found = []
    for line in lines:
        try:
            entry = json.loads(line)
            kill = _kill(entry)
        except (ValueError, KeyError, TypeError):
            continue  # half a line, or an entry of another making
        if kill is not None:
            found.append(kill)
    return found


def unheard(found: Iterable[Kill], incidents: Iterable[tuple[str, Sequence[dict[str, Any]]]]) -> list[Kill]:
    """Without the kernel's kills that an incident tells of. ``incidents``: (time of opening, victims) of each."""
    told: dict[int, list[datetime]] = {}
    for time_, victims in incidents:
        for victim in victims:
            if victim.get("by") == "kernel":
                told.setdefault(victim.get("pid", 0), []).append(_moment(time_))
    return [kill for kill in found if kill.by != "kernel" or not _is_told(kill, told.get(kill.pid, []))]


def _is_told(kill: Kill, openings: Iterable[datetime]) -> bool:
    at = _moment(kill.time)
    return any(opened - _TOGETHER <= at <= opened + _LONGEST for opened in openings)


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _asked(more: Sequence[str], patience_s: float) -> tuple[list[bytes], str]:
    """journalctl's lines, and why they may not be all. Raises NoJournal."""
    names = [f"SYSLOG_IDENTIFIER={name}" for name in _KNOWN]
    kernel = ["+", "_TRANSPORT=kernel", "PRIORITY=3", "+", "_TRANSPORT=kernel", "SYSLOG_FACILITY=1"]
    command = ["journalctl", "-o", "json", "--no-pager", "-r", "-n", str(10 * MOST), f"--since={SINCE}"]
    command += ["--output-fields=SYSLOG_IDENTIFIER,MESSAGE,_TRANSPORT,_SYSTEMD_UNIT", *more, *names, *kernel]
    try:
        asked = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise NoJournal("there is no journalctl here") from None
    with asked:
        told, said, late = _within(asked, patience_s)
    lines = told.splitlines()
    if late:
        return lines, f"journalctl had not answered within {patience_s:g} s, or not all"
    return lines, _complaint(said, asked.returncode)


def _within(asked: "subprocess.Popen[bytes]", patience_s: float) -> tuple[bytes, bytes, bool]:
    """(what it printed, what it said on stderr, whether it was stopped for taking too long)."""
    assert asked.stdout is not None
    assert asked.stderr is not None
    parts: dict[int, list[bytes]] = {asked.stdout.fileno(): [], asked.stderr.fileno(): []}
    told, said = parts.values()
    poller, open_ = select.poll(), set(parts)
    for fd in parts:
        poller.register(fd, select.POLLIN)
    until = time.monotonic() + patience_s
    while open_ and (left := until - time.monotonic()) > 0:
        for fd, _ in poller.poll(left * 1000):
            data = os.read(fd, _PIECE)
            parts[fd].append(data)
            if not data:
                poller.unregister(fd)
                open_.discard(fd)
    if open_:
        asked.kill()
    return b"".join(told), b"".join(said), bool(open_)


def _complaint(said: bytes, code: int) -> str:
    """Why what it found may not be all; empty: it is."""
    text = " ".join(said.decode("utf-8", "replace").split())
    if (
        "not seeing messages from" in text
    ):  # Hint: You are currently not seeing messages from other users and the system.
        return "this user may not read the system's journal (the group systemd-journal may)"
    return text[:_SAID] or (f"journalctl: {code}" if code > 1 else "")  # 1: with -g, nothing was found


def _kill(entry: dict[str, Any]) -> Kill | None:
    message = entry["MESSAGE"]
    if isinstance(message, list):  # bytes, since a name in it is not UTF-8
        message = bytes(message).decode("utf-8", "backslashreplace")
    by, form = _speaker(entry, message)
    told = form.search(message) if form is not None else None
    if told is None:
        return None
    parts = told.groupdict()
    at = datetime.fromtimestamp(int(entry["__REALTIME_TIMESTAMP"]) / 1e6, UTC)
    cgroup = parts.get("cgroup") or ""
    return Kill(
        at.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z",
        by,
        int(parts.get("pid") or 0),
        parts.get("comm") or "",
        f"/{cgroup.strip('/')}" if cgroup else "",
        _held(parts),
        parts.get("signal") or "SIGKILL",
        parts.get("why") or "",
    )


def _speaker(entry: dict[str, Any], message: str) -> tuple[str, re.Pattern[str] | None]:
    """Who says it, by what nobody can forge, and in what form."""
    if entry.get("_TRANSPORT") == "kernel":
        return ("oomd", _FBOOMD) if message.startswith("oomd kill: ") else ("kernel", _KERNEL)
    if str(entry.get("_SYSTEMD_UNIT", "")).startswith(_USERS):
        return "", None
    name = entry["SYSLOG_IDENTIFIER"]
    return name, _KNOWN.get(name)


def _held(parts: dict[str, str | None]) -> int | None:
    for unit, shift in (("mib", 20), ("kib", 10), ("bytes", 0)):
        if (value := parts.get(unit)) is not None:
            return int(value) << shift
    return None
