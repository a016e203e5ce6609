"""Pressure stall information: the averages of a pressure file, and the kernel's triggers. Keeps no history.

Some facts about triggers (kernel/sched/psi.c):

- One trigger per descriptor; a second write is EBUSY. Closing the descriptor ends it.
- The event is EPOLLPRI, at most one per window; the kernel looks ten times a window.
- /proc/pressure eats the last byte that is written, cgroups do not: so the line ends with a NUL.
- Windows are 500 ms to 10 s. Without CAP_SYS_RESOURCE only multiples of 2 s, and EINVAL for all others: it does not
  mean bad syntax (Linux kernel commit d82caa273565 ("sched/psi: Allow unprivileged polling of N*2s period"); before it
  such a process could not open the file for writing at all: EPERM).
- A removed cgroup answers reads with ENODEV and wakes its pollers with EPOLLERR: forget it, or spin.
"""

import errno
import os
from typing import Literal

from oomguard.model.facts import Pressure, Stall

from . import files

_UNPRIVILEGED_WINDOW_US = 2_000_000


def parse(data: bytes) -> Pressure | None:
    """A pressure file; None: not whole.

    some avg10=0.13 avg60=0.83 avg300=0.70 total=8961007
    full avg10=0.00 avg60=0.00 avg300=0.00 total=0

    3.4 us, of which the three values are 1.6; splitting at "=" instead or a regex was no faster.
    """
    words = data.split(None, 10)
    if len(words) < 10 or data[:5] != b"some " or words[5] != b"full" or data[-1:] != b"\n":
        return None
    try:
        return Pressure(
            Stall(float(words[1][6:]), float(words[2][6:]), float(words[3][7:]), int(words[4][6:])),
            Stall(float(words[6][6:]), float(words[7][6:]), float(words[8][7:]), int(words[9][6:])),
        )
    except ValueError:
        return None


class PressureFile:
    """/proc/pressure/memory or a memory.pressure, kept open.

    The constructor raises OSError (with the path) when the file is not there: no PSI in this kernel, or no cgroup.
    """

    __slots__ = ("fd", "path")

    def __init__(self, path: str, dir_fd: int | None = None) -> None:
        """``path`` is relative to ``dir_fd`` if that is given."""
        self.path = path
        self.fd = os.open(path, os.O_RDONLY, dir_fd=dir_fd)

    def read(self) -> Pressure | None:
        """What it says now; None: the cgroup is gone, or its accounting was switched off (cgroup.pressure)."""
        try:
            data = files.read_kept(self.fd, self.path)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                return None
            raise
        return None if data is None else parse(data)

    def close(self) -> None:
        """Once; later reads are EBADF."""
        os.close(self.fd)


def open_trigger(path: str, line: Literal["some", "full"], stall_us: int, window_us: int) -> tuple[int, int, int]:
    """A descriptor that epoll reports with EPOLLPRI when tasks stalled for ``stall_us`` within ``window_us``.

    Returns (descriptor, stall_us, window_us) as they are in force: without CAP_SYS_RESOURCE the window is rounded up to
    a multiple of 2 s and the stall grows with it, so that the share of time stays. OSError with the path: ENOENT (no
    such cgroup, or no PSI), EINVAL (out of the kernel's bounds), EOPNOTSUPP (PSI is off), EBUSY.
    """
    try:
        return _trigger(path, line, stall_us, window_us), stall_us, window_us
    except OSError as error:
        window = -(-window_us // _UNPRIVILEGED_WINDOW_US) * _UNPRIVILEGED_WINDOW_US
        if error.errno not in (errno.EINVAL, errno.EPERM) or window == window_us:
            raise
        stall = stall_us * window // window_us
        return _trigger(path, line, stall, window), stall, window


def _trigger(path: str, line: str, stall_us: int, window_us: int) -> int:
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        os.write(fd, b"%s %d %d\0" % (line.encode(), stall_us, window_us))
    except OSError as error:
        os.close(fd)
        error.filename = path
        raise
    return fd
