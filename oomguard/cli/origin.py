"""Everything that a compiled plan depends upon, as one digest: the same digest, the same plan.

A start after a crash compares it with that of the plan which was in force, instead of compiling again: pydantic alone
is a second of an emulated or starved machine, in which nobody guards. Whatever is not the same, a time stamp or a file
in conf.d that is no policy included, means compiling: to do so once too often costs a second, once too seldom would be
a stale policy. What compiling *doubts* (a guard that matches nothing now) may change with the cgroups of every minute
and is no part of it: it is told as it was told at the last start, just as a daemon that had not crashed would.

Nothing slow is imported here, and nothing decided.
"""

import os
import stat
import sys

from .. import __version__
from ..model import kept
from . import beside

MOST_BYTES = 1 << 20  # as policy.files: what is larger is no policy
BOOT_ID = "/proc/sys/kernel/random/boot_id"


def digest(argv: tuple[str, ...], config: str, proc: str, shadow: str = "") -> str:
    """Of what the command ``argv`` would compile ``config`` from. "": that cannot be told, so it equals nothing.

    ``shadow``: the file that the policy names so. It is part of the digest, and stands behind it: who compares must not
    have to read TOML to know which file that was (``shadow_of``).
    """
    try:
        parts = (
            *(argv, os.geteuid(), __version__, sys.version, _code()),
            *(_configuration(config), _machine(proc or "/proc"), _read(BOOT_ID)),
            sorted(beside.running(proc or "/proc").items()),
            *([_file(shadow)] if shadow else []),
        )
    except (OSError, ValueError):
        return ""
    found = kept.digest(repr(parts).encode("utf-8", "surrogateescape"))
    return f"{found}+{os.fsencode(shadow).hex()}" if shadow else found


def shadow_of(digested: str) -> str:
    """The shadow that is part of this digest; "": none. ValueError: it is no digest."""
    return os.fsdecode(bytes.fromhex(digested.partition("+")[2]))


def _configuration(config: str) -> list[tuple[object, ...]]:
    """The file and all that lies in conf.d: who may have written it, when, and every byte."""
    beside = f"{os.path.dirname(config)}/conf.d"
    try:
        names = sorted(os.listdir(beside))
    except (FileNotFoundError, NotADirectoryError):
        names = []
    return [_file(path) for path in (config, *(f"{beside}/{name}" for name in names))]


def _file(path: str) -> tuple[object, ...]:
    # O_NONBLOCK: a fifo must not hold up a start.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        seen = os.fstat(fd)
        if not stat.S_ISREG(seen.st_mode):
            raise ValueError(f"{path} is not a regular file")
        return (path, *_stamp(seen), seen.st_uid, seen.st_gid, seen.st_mode, kept.digest(_whole(fd)))
    finally:
        os.close(fd)


def _whole(fd: int) -> bytes:
    content = b""
    while piece := os.read(fd, MOST_BYTES + 1):
        content += piece
        if len(content) > MOST_BYTES:
            raise ValueError("more than 1 MiB")
    return content


def _stamp(seen: os.stat_result) -> tuple[int, ...]:
    # The time of change cannot be set by anybody: who writes A, B and A again leaves another one.
    return (seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns)


def _code() -> list[tuple[object, ...]]:
    """Our own files, and the directories in which an upgrade of pydantic or tomli must add and remove entries."""
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    beside = f"{os.path.dirname(os.path.dirname(sys.executable))}/lib/{python}/site-packages"
    found: list[tuple[object, ...]] = []
    for directory in (os.path.dirname(home), beside):
        if os.path.isdir(directory):
            found.append((directory, *_stamp(os.stat(directory))))
    for directory in (home, *(f"{home}/{room}" for room in ("model", "judge", "policy", "cli"))):
        for name in sorted(os.listdir(directory)):
            if name.endswith(".py"):
                found.append((directory, name, *_stamp(os.stat(f"{directory}/{name}"))))
    return found


def _machine(proc: str) -> list[bytes]:
    """MemTotal and SwapTotal: shares are of them."""
    return [line for line in _read(f"{proc}/meminfo").splitlines() if line.startswith((b"MemTotal:", b"SwapTotal:"))]


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _whole(fd)
    finally:
        os.close(fd)
