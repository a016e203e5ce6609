"""A nominee that is open: its processes by pidfd, or its cgroup with cgroup.kill ready. Verified, signalled, closed.

The hands have one of each, and so has the dead man: both verify and kill in the very same way. Who is waited for, and
when somebody is killed, is decided elsewhere.
"""

import errno
import os
import signal
from collections.abc import Iterable

from ..judge.glob import is_inside
from ..linux import pidfd, procfs
from ..linux.cgroup2 import Cgroup, walk
from ..model.facts import ProcessFacts
from ..model.verdict import ProcessRef, Victim


class Nominee:
    """``fds``: pidfds of those that are signalled one by one. ``group``: the cgroup that is killed whole."""

    __slots__ = ("fds", "group", "proc_fd", "root", "victim")

    def __init__(self, victim: Victim, proc_fd: int, root: str | None) -> None:
        self.victim, self.proc_fd, self.root = victim, proc_fd, root
        self.fds: dict[int, ProcessRef] = {}
        self.group: Cgroup | None = None

    def open(self) -> bool:
        """False: nobody of it is left. OSError: it is there, and cannot be opened. Either way, ``close`` it."""
        if self.victim.take != "cgroup" or self.root is None:
            return self._open_processes()
        self.group = group = Cgroup.open(self.root, self.victim.cgroup)
        if group is None or (self.victim.inode and group.inode != self.victim.inode):
            return False  # the very cgroup that was ranked, by inode
        try:
            group.prepare_kill()
        except FileNotFoundError:  # before Linux 5.14: one by one
            self.group = None
            group.close()
            return self._open_processes()
        return True

    def _open_processes(self) -> bool:
        """Those that are still who they were when ranked, and still where they were."""
        hidden = False
        for process in self.victim.processes:
            fd = pidfd.open_verified(self.proc_fd, process.pid, process.start_ticks)
            if fd is None:
                hidden |= procfs.start_ticks(self.proc_fd, process.pid) == process.start_ticks
                continue
            self.fds[fd] = process
            self._drop_another(fd, process)
        if hidden and not self.fds:  # not gone, which would be ESRCH: it must not hide those behind it
            raise OSError(errno.ESTALE, "it is there, and no pidfd leads to it: a /proc of another pid namespace")
        return bool(self.fds)

    def _drop_another(self, fd: int, process: ProcessRef) -> None:
        now = procfs.read_process(self.proc_fd, process.pid)
        if now is None or _another(now, process):
            del self.fds[fd]
            os.close(fd)

    def verify(self) -> bool:
        """Once more, a while after it was opened: whether anybody is left who still is what was ranked."""
        if self.group is not None:
            return self.group.populated()
        for fd, process in list(self.fds.items()):
            self._drop_another(fd, process)
        return bool(self.fds)

    def kill(self, number: int) -> int:
        """One system call a process, or one for a whole cgroup. An errno; ESRCH: nobody is left."""
        if self.group is None:
            return _best(_send(fd, number) for fd in self.fds)
        return self._kill_cgroup(self.group) if number == signal.SIGKILL else self._signal_members(self.group, number)

    def _kill_cgroup(self, group: Cgroup) -> int:
        try:
            return 0 if group.kill() else errno.ESRCH
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:  # a threaded cgroup
                return self._signal_members(group, signal.SIGKILL)
            return error.errno or errno.EIO

    def _signal_members(self, group: Cgroup, number: int) -> int:
        """Everybody in it and below: there is no cgroup.kill for SIGTERM. Opened one by one: they may be thousands."""
        if not group.same():
            return errno.ESRCH
        try:
            below = [path for path, _, _ in walk(group.root, group.path)]
            return _best(self._signal_one(pid, number) for path in (group.path, *below) for pid in _procs(group, path))
        except OSError as error:
            return error.errno or errno.EIO

    def _signal_one(self, pid: int, number: int) -> int:
        try:
            start = procfs.start_ticks(self.proc_fd, pid)
            fd = None if start is None else pidfd.open_verified(self.proc_fd, pid, start)
        except OSError as error:
            return error.errno or errno.EIO
        if fd is None:
            return errno.ESRCH
        try:
            return _send(fd, number)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Everything; may be called twice."""
        for fd in self.fds:
            os.close(fd)
        self.fds.clear()
        if self.group is not None:
            self.group.close()
            self.group = None


def _another(now: ProcessFacts, then: ProcessRef) -> bool:
    """Whether it is not what was ranked: moved, or become another program (exec gives the memory back)."""
    # Below is no other place: a threaded domain lists its processes, whose leaders are in cgroups below it (libvirt).
    same = now.cgroup == then.cgroup or (then.cgroup != "/" and is_inside(now.cgroup, then.cgroup))
    moved = now.start_ticks != then.start_ticks or not same
    return moved or (now.comm != then.comm and now.held_bytes < then.held_bytes // 2)


def _send(fd: int, number: int) -> int:
    try:
        pidfd.send(fd, number)
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _best(numbers: Iterable[int]) -> int:
    """0 if any of them is; else what is worse than ESRCH; ESRCH: nobody was there. All are drawn."""
    seen = set(numbers)
    return 0 if 0 in seen else max(seen - {errno.ESRCH}, default=errno.ESRCH)


def _procs(group: Cgroup, path: str) -> list[int]:
    child = Cgroup.open(group.root, path)
    if child is None:
        return []
    try:
        return child.procs()
    finally:
        child.close()
