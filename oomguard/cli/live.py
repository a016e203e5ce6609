"""The running daemon as seen from outside: its status page, and whether it lives. Nothing here wakes or locks it."""

import os
import struct
import time
from pathlib import Path
from typing import Annotated

import typer

from ..model import statuspage
from ..model.policy import Daemon
from ..model.statuspage import StatusPage
from ..policy import files

Runtime = Annotated[
    Path | None,
    typer.Option(
        "--runtime-dir", metavar="DIR", help="Where the daemon runs (default: as configured).", readable=False
    ),
]


class NotRunning(Exception):
    """There is no page, or nobody behind it. The text says which; ``mend`` what to do about it."""

    def __init__(self, text: str, mend: str = "systemctl start oomguard.service, or oomguard run") -> None:
        super().__init__(text)
        self.mend = mend

    def whole(self) -> str:
        """For whoever has asked, in one line."""
        return f"{self}: {self.mend}" if self.mend else str(self)


def runtime_dir(asked: Path | None, config: Path) -> Path:
    """The asked one, else the configured one; without root, and where that has no page, the one of one's own daemon."""
    if asked is not None:
        return asked
    configured = Path(files.runtime_dir(config))
    own_first = os.geteuid() != 0 and configured == Path(Daemon().runtime_dir)
    if own_first or not os.path.exists(configured / statuspage.NAME):  # Path.exists: what may not be seen is an error
        for own in own_runtime_dirs():
            if os.path.exists(own / statuspage.NAME):
                return own
    return configured


def own_state_dir() -> Path:
    """Where incidents go without root."""
    home = os.path.expanduser("~")  # as it is, for a user without an entry: a service's DynamicUser=
    home = home if os.path.isabs(home) else "/nonexistent"
    return Path(os.environ.get("XDG_STATE_HOME") or f"{home}/.local/state") / "oomguard"


def own_runtime_dirs() -> list[Path]:
    """Where the page may be without root, best first."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    return ([Path(runtime) / "oomguard"] if runtime else []) + [own_state_dir() / "run"]


def page(directory: Path) -> StatusPage:
    """The page of a daemon that lives. Raises ``NotRunning``; OSError where it may not be read."""
    path = directory / statuspage.NAME
    try:
        found = statuspage.read(str(path))
    except FileNotFoundError:
        raise NotRunning(f"oomguard is not running: there is no {path}") from None
    except (ValueError, IndexError, struct.error) as error:
        raise NotRunning(f"{path} cannot be read: {error}", mend="") from None
    if not lives(found):
        raise NotRunning(f"oomguard is not running: pid {found.numbers.pid} of {path} has ended without a word")
    return found


def lives(page: StatusPage) -> bool:
    """Whether who wrote it is still there, and not a later process of that number: it would be younger than the page.

    /proc/PID/stat is made without any lock of that process; cmdline, maps and smaps take one that the core may need.
    """
    pid = page.numbers.pid
    if not _is_there(pid):
        return False
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            head, _, rest = file.read().rpartition(b")")
    except OSError:
        return True  # hidepid: somebody is there
    # 812 (oomguard) S 1 812 812 0 -1 4194624 ...: the name, and as field 22 when it was started
    started_ns = int(rest.split()[19]) * 10**9 // os.sysconf("SC_CLK_TCK")  # CLOCK_BOOTTIME
    asleep_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.monotonic_ns()
    return head.endswith(b"(oomguard") and started_ns - asleep_ns <= page.beat_ns


def _is_there(pid: int) -> bool:
    try:
        if pid > 0:
            os.kill(pid, 0)  # is sent to nobody
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return pid > 0
