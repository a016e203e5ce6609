"""The running daemon as seen from outside: its status page, its processes, what they hold. Nothing here wakes it."""

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ..model import statuspage
from ..model.statuspage import StatusPage
from ..policy import files
from .quick import lives

Runtime = Annotated[
    Path | None, typer.Option("--runtime-dir", metavar="DIR", help="Where the daemon runs (default: as configured).")
]


class NotRunning(Exception):
    """There is no page, or nobody behind it. The text says which."""


def runtime_dir(asked: Path | None, config: Path) -> Path:
    """The asked one, else the configured one; where that has no page, the one of a daemon started without root."""
    if asked is not None:
        return asked
    configured = Path(files.runtime_dir(config))
    if not os.path.exists(configured / statuspage.NAME):  # for Path.exists, what may not be seen is an error
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
        raise NotRunning(f"{path} cannot be read: {error}") from None
    if not lives(found.numbers.pid):
        raise NotRunning(f"oomguard is not running: pid {found.numbers.pid} of {path} has ended without a word")
    return found


@dataclass(frozen=True, slots=True)
class Held:
    """What core and workers hold together, in KiB: their share of memory, and as much of it as is locked."""

    pss_kib: int
    locked_kib: int


def held(pid: int) -> Held | None:
    """None where the kernel does not let us look (not root)."""
    import psutil

    try:
        pids = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
        rollups = [Path(f"/proc/{number}/smaps_rollup").read_bytes() for number in pids]
    except (OSError, psutil.Error):
        return None
    return Held(sum(_kib(rollup, b"Pss") for rollup in rollups), sum(_kib(rollup, b"Locked") for rollup in rollups))


def _kib(rollup: bytes, name: bytes) -> int:
    # Pss:                2345 kB
    for line in rollup.splitlines():
        key, _, value = line.partition(b":")
        if key == name:
            return int(value.split()[0])
    return 0
