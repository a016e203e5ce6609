"""What an epoll can wait for besides kernel files: signals as a descriptor, and cgroups that come and go."""

import errno
import os
import signal
import struct
from collections.abc import Iterable
from typing import Final

from . import libc

# <sys/inotify.h>
_IN_MODIFY: Final = 0x02
_IN_ATTRIB: Final = 0x04
_IN_MOVED_FROM: Final = 0x40
_IN_MOVED_TO: Final = 0x80
_IN_CREATE: Final = 0x100
_IN_DELETE: Final = 0x200
_IN_DELETE_SELF: Final = 0x400
_IN_Q_OVERFLOW: Final = 0x4000
_IN_IGNORED: Final = 0x8000
_IN_ONLYDIR: Final = 0x0100_0000

# What a TreeWatch can be told to watch for: entries of a directory that come and go, or writes to a file. Somebody's
# write to a cgroup's memory.max goes through the VFS and is told as any other; the kernel's own changes are not.
ENTRIES: Final = _IN_MOVED_FROM | _IN_MOVED_TO | _IN_CREATE | _IN_DELETE | _IN_DELETE_SELF | _IN_ONLYDIR
WRITES: Final = _IN_MODIFY
# The same, and attributes of the directory and of what is in it (setxattr, chown, chmod).
ENTRIES_AND_ATTRIBUTES: Final = ENTRIES | _IN_ATTRIB

_EVENT: Final = struct.Struct("=iIII")  # struct inotify_event: watch, mask, cookie, length of the name that follows
_SIGINFO_BYTES: Final = 128  # struct signalfd_siginfo; the signal number is its first u32

# In the set that ``TreeWatch.drain`` returns: the kernel's queue was full, anything may have happened anywhere.
ANYWHERE: Final = ""


def signal_fd(signals: Iterable[int]) -> int:
    """Block these signals in this thread and get them through a non-blocking descriptor instead.

    To be called before other threads and children exist: the mask is inherited by both, and through exec.
    """
    mask = frozenset(signals)
    signal.pthread_sigmask(signal.SIG_BLOCK, mask)
    return libc.signalfd(mask)


def read_signals(fd: int) -> list[int]:
    """The signals that have come, at most sixteen at once; [] if none has."""
    try:
        data = os.read(fd, 16 * _SIGINFO_BYTES)
    except BlockingIOError:
        return []
    return [struct.unpack_from("=I", data, at)[0] for at in range(0, len(data) - _SIGINFO_BYTES + 1, _SIGINFO_BYTES)]


def drain(eventfd: int) -> bool:
    """Take back what an eventfd tells; whether it told anything."""
    try:
        os.eventfd_read(eventfd)
    except BlockingIOError:
        return False
    return True


def parse_inotify(data: bytes) -> list[tuple[int, int]]:
    """(watch, mask) of every whole event."""
    events: list[tuple[int, int]] = []
    at = 0
    while at + _EVENT.size <= len(data):
        watch, mask, _, length = _EVENT.unpack_from(data, at)
        at += _EVENT.size + length
        if at > len(data):
            break
        events.append((watch, mask))
    return events


class TreeWatch:
    """Tells in which of the watched directories something came or went. What that was, the caller looks up himself.

    Not recursive, as inotify is not: watch a directory first, then list it, and nothing is missed. kernfs may not tell
    of the end of a watched directory itself (IN_DELETE_SELF); its parent's event does.
    """

    __slots__ = ("_mask", "_paths", "fd")

    def __init__(self, mask: int = ENTRIES) -> None:
        """Where the kernel has no more of them (EMFILE: fs.inotify.max_user_instances) it is deaf: ``fd`` is -1."""
        self._mask = mask
        try:
            self.fd = libc.inotify_init()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            self.fd = -1
        self._paths: dict[int, str] = {}

    def watch(self, path: str) -> bool:
        """Begin (again) with this directory (or file, for ``WRITES``). False: gone.

        OSError ENOSPC: fs.inotify.max_user_watches; EMFILE: it is deaf.
        """
        if self.fd < 0:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "inotify_init1")
        try:
            self._paths[libc.inotify_add_watch(self.fd, os.fsencode(path), self._mask)] = path
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENODEV):
                return False
            raise
        return True

    def unwatch(self, path: str) -> None:
        """End it, if there is one."""
        for watch in [watch for watch, known in self._paths.items() if known == path]:
            del self._paths[watch]
            try:
                libc.inotify_rm_watch(self.fd, watch)
            except OSError as error:
                if error.errno != errno.EINVAL:  # it ended with its directory
                    raise

    def drain(self) -> set[str]:
        """The directories of all events so far, as they were given to ``watch``; ``ANYWHERE`` if some were lost."""
        changed: set[str] = set()
        while self.fd >= 0:
            try:
                data = os.read(self.fd, 16384)
            except BlockingIOError:
                return changed
            for watch, mask in parse_inotify(data):
                if mask & _IN_Q_OVERFLOW:
                    changed.add(ANYWHERE)
                path = self._paths.get(watch)
                if path is None:
                    continue  # of a watch that was ended with events still in the queue
                changed.add(path)
                if mask & _IN_IGNORED:
                    del self._paths[watch]
        return changed

    def close(self) -> None:
        """Once."""
        if self.fd >= 0:
            os.close(self.fd)
