"""A nominee that is open: its processes by pidfd, or its cgroup with cgroup.kill ready. Verified, signalled, closed.

The hands have one of each, and so has the dead man: both verify and kill in the very same way. Who is waited for, and
when somebody is killed, is decided elsewhere.
"""

import errno
import os
import signal
from collections.abc import Iterable
from typing import Final

from ..judge.glob import is_inside
from ..linux import cgroup2, pidfd, procfs
from ..linux.cgroup2 import Cgroup, walk
from ..model.facts import ProcessFacts
from ..model.verdict import ProcessRef, Victim

PASSES: Final = 64  # through a cgroup at one time; what is left of a fork bomb then is for the next turn
IDLE: Final = 4  # of them without anybody new


class Nominee:
    """``fds``: pidfds of those that are signalled one by one. ``group``: the cgroup that is killed whole.

    ``sweeps``: there is no cgroup.kill (v1, and v2 before Linux 5.14), and it is ended process by process, whoever
    lives in it then, until nobody does.
    """

    __slots__ = ("fds", "group", "proc_fd", "root", "sweeping", "sweeps", "victim")

    def __init__(self, victim: Victim, proc_fd: int, root: str | None) -> None:
        self.victim, self.proc_fd, self.root = victim, proc_fd, root
        self.fds: dict[int, ProcessRef] = {}
        self.group: Cgroup | None = None
        self.sweeps = self.sweeping = False

    def open(self) -> bool:
        """False: nobody of it is left. OSError: it is there, and cannot be opened. Either way, ``close`` it."""
        if self.victim.take != "cgroup" or self.root is None:
            return self._open_processes()
        self.group = group = Cgroup.open(self.root, self.victim.cgroup)
        if group is None and not self.victim.inode:
            return self._open_processes()  # a unit that is counted in its slice, and has no cgroup of its own
        if group is None or (self.victim.inode and group.inode != self.victim.inode):
            return False  # the very cgroup that was ranked, by inode
        try:
            group.prepare_kill()
        except FileNotFoundError:
            self.sweeps = True
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
        self.sweeping = number == signal.SIGKILL and self.sweeps
        if self.group is None:
            done = _best(_send(fd, number) for fd in self.fds)
        elif number == signal.SIGKILL and not self.sweeps:
            done = self._kill_cgroup(self.group)
        else:
            done = self._signal_members(self.group, number)
        if number == signal.SIGKILL:
            self._thaw()
        return done

    def sweep(self) -> None:
        """Whoever came since the kill: a fork that was on its way is seen in the cgroup only when it is done."""
        if self.sweeping and self.group is not None:
            self._signal_members(self.group, signal.SIGKILL)

    def _kill_cgroup(self, group: Cgroup) -> int:
        try:
            return 0 if group.kill() else errno.ESRCH
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:  # a threaded cgroup
                return self._signal_members(group, signal.SIGKILL)
            return error.errno or errno.EIO

    def _signal_members(self, group: Cgroup, number: int) -> int:
        """Everybody in it and below, once each, for as long as somebody new is found. Opened one by one: they may be
        thousands. Who has a SIGKILL waiting begins no fork any more, but may be in the middle of one, whose child is
        not listed yet: so after the last new one it is looked a few times more.
        """
        if not group.same():
            return errno.ESRCH
        done: dict[int, int] = {}
        idle = 0
        try:
            for _ in range(PASSES):
                below = [path for path, _, _ in walk(group.root, group.path)]
                found = [pid for path in (group.path, *below) for pid in _procs(group, path)]
                fresh = {pid: self._signal_one(group, pid, number) for pid in found if pid not in done}
                done.update(fresh)
                idle = 0 if fresh else idle + 1
                if not found or idle >= IDLE:
                    break
        except OSError as error:
            return error.errno or errno.EIO
        return _best(done.values())

    def _signal_one(self, group: Cgroup, pid: int, number: int) -> int:
        """First opened, then looked at: who is found there now is who was opened, or that one has ended."""
        try:
            fd = os.pidfd_open(pid)
        except OSError as error:
            return errno.ESRCH if error.errno in (errno.ESRCH, errno.EINVAL, errno.ENOENT) else error.errno or errno.EIO
        try:
            where = procfs.cgroup_of(self.proc_fd, pid)
            if where is None or not is_inside(where, group.path) or not pidfd.is_called(self.proc_fd, fd, pid):
                return errno.ESRCH
            return _send(fd, number)
        finally:
            os.close(fd)

    def _thaw(self) -> None:
        """Who is frozen by the freezer of v1 does not die of SIGKILL until he is let go."""
        if self.root is None or cgroup2.kind(self.root) is Cgroup:
            return
        group = self.group or Cgroup.open(self.root, self.victim.cgroup)
        try:
            if group is not None and group.limit("cgroup.freeze"):
                group.freeze(False)
        except OSError:
            pass  # whoever has frozen it lets it go when the lease is over
        finally:
            if group is not None and group is not self.group:
                group.close()

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
