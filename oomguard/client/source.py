"""Where pressure is told: from the environment first, then the own cgroup, then the whole machine. Nothing is opened.

The order and its refusals are systemd's (docs/PRESSURE.md; sd_event_add_memory_pressure(3)): a program in Python hears
what one in C would hear in its place.
"""

from __future__ import annotations

import binascii
import errno
import os
import stat

from .errors import BadArgument, BadEnvironment, Disabled, NotSupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Final, Literal

    Kind = Literal["pressure", "fifo", "socket"]

WATCH: Final = "MEMORY_PRESSURE_WATCH"
WRITE: Final = "MEMORY_PRESSURE_WRITE"
# The level on which Android and GNOME agree is 100 ms in 1 s. Twice of both: windows that are no multiple of 2 s are
# refused to whoever is not root (Linux, kernel/sched/psi.c).
TYPE: Final = "some"
THRESHOLD_US: Final = 200_000
WINDOW_US: Final = 2_000_000
_KERNELS: Final = ("proc", "cgroup2")  # what a pressure file of the kernel lies in


class Source:
    """One place to listen at. ``write``: what is to be written there first; ``fixed``: somebody else has said so."""

    __slots__ = ("fallback", "fixed", "path", "write")

    def __init__(self, path: str, write: bytes, fixed: bool, fallback: str = "") -> None:
        self.path, self.write, self.fixed, self.fallback = path, write, fixed, fallback


def find(environment: Mapping[str, str] | None = None, proc: str = "/proc", cgroup: str = "/sys/fs/cgroup") -> Source:
    """Where this process is to listen. ``environment``: os.environ, but for a program that runs setuid.

    Disabled; BadEnvironment EBADMSG, EILSEQ; NotSupported: there is nothing at all, not even a default.
    """
    if environment is None:
        own = os.getuid() == os.geteuid() and os.getgid() == os.getegid()  # secure_getenv(3)
        environment = os.environ if own else {}
    if WATCH in environment:
        return from_environment(environment)
    machine = f"{proc}/pressure/memory"
    if not os.path.exists(machine):
        raise NotSupported(errno.EOPNOTSUPP, "this kernel tells of no pressure (CONFIG_PSI, psi=1)", machine)
    write = parameters(TYPE, THRESHOLD_US, WINDOW_US)
    own_group = _own_cgroup(proc) if filesystem(cgroup, proc) == "cgroup2" else None
    if own_group is None:
        return Source(machine, write, False)
    return Source(f"{cgroup}{own_group.rstrip('/')}/memory.pressure", write, False, machine)


def from_environment(environment: Mapping[str, str]) -> Source:
    """What $MEMORY_PRESSURE_WATCH and $MEMORY_PRESSURE_WRITE say. Disabled; BadEnvironment EBADMSG, EILSEQ."""
    path = environment[WATCH]
    if not path or (path.startswith("/") and _parts(path) == ["dev", "null"]):
        raise Disabled(errno.EHOSTDOWN, f"${WATCH} says that pressure is not to be listened to", path)
    plain = path.rstrip("/").split("/")[1:]
    if not path.startswith("/") or "\0" in path or not plain or {"", ".", ".."} & set(plain):
        raise BadEnvironment(errno.EBADMSG, f"${WATCH} is not an absolute, plain path", path)
    return Source(path, decoded(environment.get(WRITE, "")), True)


def decoded(text: str) -> bytes:
    """$MEMORY_PRESSURE_WRITE as bytes. White space is nothing, as for systemd. BadEnvironment EILSEQ."""
    try:
        return binascii.a2b_base64("".join(text.split()).encode("ascii"), strict_mode=True)
    except ValueError as error:  # binascii.Error and UnicodeEncodeError are
        raise BadEnvironment(errno.EILSEQ, f"${WRITE} is not Base64: {error}") from None


def parameters(kind: str, threshold_us: int, window_us: int) -> bytes:
    """What the kernel's file is told. It ends in a NUL: /proc takes the last byte away. BadArgument EINVAL, ERANGE."""
    if kind not in ("some", "full"):
        raise BadArgument(errno.EINVAL, f"{kind!r} is neither some nor full")
    if threshold_us <= 0 or window_us <= 0:
        raise BadArgument(errno.ERANGE, "both times are over 0")
    if threshold_us > window_us:
        raise BadArgument(errno.EINVAL, "the stall is longer than its window")
    return b"%s %d %d\0" % (kind.encode(), threshold_us, window_us)


def kind_of(path: str, fd: int, proc: str = "/proc") -> Kind:
    """What that descriptor (O_PATH is enough) is. BadEnvironment ENOTTY, EISDIR, EBADF."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISSOCK(mode):
        return "socket"
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        return "fifo"
    if stat.S_ISDIR(mode):
        raise BadEnvironment(errno.EISDIR, "", path)
    if not stat.S_ISREG(mode):
        raise BadEnvironment(errno.EBADF, "neither a file, nor a FIFO, nor a socket", path)
    if filesystem(fd, proc) not in _KERNELS:
        raise BadEnvironment(errno.ENOTTY, "a regular file, and not one of the kernel's", path)
    return "pressure"


def filesystem(where: str | int, proc: str = "/proc") -> str:
    """The type of the file system in which that lies; "" if it is not there. statfs(2) is not in Python's library.

    36 35 0:31 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw
    """
    try:
        device = os.stat(where).st_dev
        with open(f"{proc}/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            lines = file.readlines()
    except OSError:
        return ""
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in lines:
        fields = line.split()
        if len(fields) > 6 and fields[2] == number and "-" in fields:
            return fields[fields.index("-") + 1]
    return ""


def _own_cgroup(proc: str) -> str | None:
    """0::/system.slice/web.service"""
    with open(f"{proc}/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        return next((line.rstrip("\n")[3:] for line in file if line.startswith("0::/")), None)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]
