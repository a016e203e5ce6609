"""What other daemons did, from the journal: systemd-oomd, earlyoom, nohang. Asked only when somebody asks.

Their words are no interface, and change: what is not recognised is left out, never guessed.
"""

import json
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

SINCE = "-30 days"
MOST = 1000
_PATIENCE_S = 10
# Killed /user.slice/x.scope due to memory pressure for /user.slice being 65.55% > 50.00% for > 20s with reclaim ...
# Marked /user.slice/x.scope for killing due to memory used (...) / total (...) and swap used ... (systemd 258)
_OOMD = re.compile(r"(?:Killed|Marked) (?P<cgroup>/.*?)(?: for killing)? due to (?P<why>.*)", re.DOTALL)
# sending SIGTERM to process 812 uid 1000 "stress": oom_score 1300, VmRSS 900 MiB, cmdline "..."   (earlyoom 1.8)
# sending SIGTERM to process 812 uid 1000 "stress": badness 700, VmRSS 900 MiB                     (until 1.7)
_EARLYOOM = re.compile(
    r'sending (?P<signal>SIG\w+) to process (?P<pid>\d+) uid \d+ "(?P<comm>.*)": '
    r"(?P<why>(?:oom_score|badness) -?\d+.*?VmRSS (?P<rss>\d+) MiB)",
    re.DOTALL,
)
# [ OK ] Sending SIGTERM to stress ...
_NOHANG = re.compile(r"\[ OK \] Sending (?P<signal>SIG\w+) to (?P<comm>.{1,15}?)(?:;|,| \(|\s*$)")
_KNOWN = {"systemd-oomd": _OOMD, "earlyoom": _EARLYOOM, "nohang": _NOHANG, "nohang-desktop": _NOHANG}


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
        """As a line of ``oomguard incidents list --others --json``."""
        return {name: getattr(self, name) for name in self.__slots__}


class NoJournal(RuntimeError):
    """It cannot be read here. The text says why."""


def kills() -> list[Kill]:
    """Of the last thirty days, newest first, a thousand at most. Raises NoJournal."""
    names = [word for name in _KNOWN for word in ("-t", name)]
    command = ["journalctl", "-q", "-o", "json", "--no-pager", "-r", "-n", str(10 * MOST), f"--since={SINCE}", *names]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_PATIENCE_S, check=False)
    except FileNotFoundError:
        raise NoJournal("there is no journalctl here") from None
    except subprocess.TimeoutExpired:
        raise NoJournal(f"journalctl did not answer within {_PATIENCE_S} s") from None
    if done.returncode and not done.stdout:
        raise NoJournal(done.stderr.decode("utf-8", "replace").strip() or f"journalctl: {done.returncode}")
    return parse(done.stdout.splitlines())[:MOST]


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


def _kill(entry: dict[str, Any]) -> Kill | None:
    by = entry["SYSLOG_IDENTIFIER"]
    message = entry["MESSAGE"]
    if isinstance(message, list):  # bytes, since a name in it is not UTF-8
        message = bytes(message).decode("utf-8", "backslashreplace")
    told = _KNOWN[by].search(message)
    if told is None:
        return None
    parts = told.groupdict()
    rss = parts.get("rss")
    at = datetime.fromtimestamp(int(entry["__REALTIME_TIMESTAMP"]) / 1e6, UTC)
    return Kill(
        at.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z",
        by,
        int(parts.get("pid") or 0),
        parts.get("comm") or "",
        parts.get("cgroup") or "",
        int(rss) << 20 if rss else None,
        parts.get("signal") or "SIGKILL",
        parts.get("why") or "",
    )
