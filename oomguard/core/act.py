"""The hands. They do what an action says, at once and without asking why; what cannot be done is an errno."""

import errno
import os
import select
import signal
import time
from collections.abc import Iterable
from typing import Final, assert_never

from ..judge.rank import is_inside
from ..linux import pidfd, procfs
from ..linux.cgroup2 import Cgroup, walk
from ..model.facts import ProcessFacts, Result
from ..model.policy import Plan
from ..model.verdict import (
    Action,
    Close,
    Dismiss,
    Kill,
    Lease,
    Look,
    Mute,
    Nominate,
    Notify,
    Outcome,
    ProcessRef,
    Reap,
    Release,
    Snapshot,
    Victim,
)
from ..workers.pool import Mailbox
from .lease import LeaseBook
from .observe import Senses

_SIGNALS: Final = {"TERM": signal.SIGTERM, "KILL": signal.SIGKILL}


class Held:
    """A nominee that is open: pidfds of its processes, or its cgroup with cgroup.kill ready."""

    __slots__ = ("fds", "group", "killed", "populated_fd", "token", "victim")

    def __init__(self, victim: Victim) -> None:
        self.victim, self.token = victim, victim.token
        self.fds: list[int] = []
        self.group: Cgroup | None = None
        self.populated_fd = -1
        self.killed = False


class Hands:
    """Opens, signals, leases. ``senses`` waits for deaths; ``orders`` goes to the reaper."""

    def __init__(self, plan: Plan, root: str | None, senses: Senses, orders: Mailbox, book: LeaseBook) -> None:
        self.root, self.senses, self.orders, self.book = root, senses, orders, book
        self.proc_fd = procfs.open_proc(plan.daemon.proc)
        self.held: dict[int, Held] = {}
        self.aim(plan)

    def aim(self, plan: Plan) -> None:
        """Which guards only observe."""
        self.observing = frozenset(guard.name for guard in plan.guards if guard.mode == "observe")

    def perform(self, action: Action) -> Outcome | None:
        """None: nothing to do here; the record of the turn is what the followers act upon."""
        match action:
            case Kill():
                return self._done(action.token, "Kill", self._kill(action), action.target.guard in self.observing)
            case Nominate():
                return self._done(action.victim.token, "Nominate", self._open(action.victim), False)
            case Dismiss():
                self._close(action.token)
            case Reap():
                if action.target.guard not in self.observing:
                    self.orders.post(("reap", action.token))
            case Lease():
                return self._done(action.token, "Lease", self.book.lend(action), False)
            case Release():
                return self._done(action.token, "Release", self.book.end(action.token), False)
            case Look():
                self.senses.ask(action.target, action.depth)
            case Mute():
                self.senses.mute(action.target, action.until_ns)
            case Snapshot() | Notify() | Close():
                pass
            case _:
                assert_never(action)
        return None

    def _done(self, token: int, what: str, number: int, held: bool) -> Outcome:
        at_ns = time.monotonic_ns()
        if number:
            self.senses.tell(Result(token, what, number))
        return Outcome(what, token, number, at_ns, held)

    # -- opening -------------------------------------------------------------------------------------------------

    def _open(self, victim: Victim) -> int:
        held = Held(victim)
        try:
            opened = self._open_cgroup(held) if victim.take == "cgroup" else self._open_processes(held)
        except OSError as error:
            self._release(held)
            return error.errno or errno.EIO
        if not opened:
            self._release(held)
            return errno.ESRCH
        self.held[victim.token] = held
        self.orders.post(("open", victim.token, [(p.pid, p.start_ticks) for p in victim.processes]))
        return 0

    def _open_cgroup(self, held: Held) -> bool:
        """The very cgroup that was ranked (by inode), its cgroup.kill open for writing."""
        if self.root is None:
            return self._open_processes(held)
        group = Cgroup.open(self.root, held.victim.cgroup)
        if group is None:
            return False
        held.group = group
        if held.victim.inode and group.inode != held.victim.inode:
            return False
        try:
            group.prepare_kill()
        except FileNotFoundError:  # before Linux 5.14: one by one
            held.group = None
            group.close()
            return self._open_processes(held)
        fd = group.populated_fd()
        self.senses.listen(fd, select.EPOLLPRI, lambda _mask: self._look_whether_empty(held))
        held.populated_fd = fd
        return group.populated()  # the event tells only of what changes from here on

    def _open_processes(self, held: Held) -> bool:
        """Those that are still who they were when ranked, and still where they were."""
        hidden = False
        for process in held.victim.processes:
            fd = pidfd.open_verified(self.proc_fd, process.pid, process.start_ticks)
            if fd is None:
                hidden |= procfs.start_ticks(self.proc_fd, process.pid) == process.start_ticks
                continue
            held.fds.append(fd)
            now = procfs.read_process(self.proc_fd, process.pid)
            if now is None or _another(now, process):
                os.close(held.fds.pop())
                continue
            self._await(held, fd)
        if hidden and not held.fds:  # not gone, which would be ESRCH: it must not hide those behind it
            raise OSError(errno.ESTALE, "it is there, and no pidfd leads to it: a /proc of another pid namespace")
        return bool(held.fds)

    def _await(self, held: Held, fd: int) -> None:
        def ended(_mask: int) -> None:
            self.senses.ignore(fd)
            held.fds.remove(fd)
            os.close(fd)
            if not held.fds:
                self.senses.tell_gone(held.token)

        self.senses.listen(fd, select.EPOLLIN, ended)

    def _look_whether_empty(self, held: Held) -> None:
        try:
            empty = held.group is None or not held.group.populated()
        except OSError:
            empty = False
        if empty and held.populated_fd in self.senses.handlers:
            self.senses.ignore(held.populated_fd)
            self.senses.tell_gone(held.token)

    def look(self) -> None:
        """Whether a cgroup that was killed is empty, in every turn.

        The kernel tells of a second change within 10 ms later, by a timer; who removes the cgroup before that removes
        the timer too, and nobody is ever told (kernel/cgroup/cgroup.c: cgroup_file_notify, cgroup_rm_file).
        """
        for held in self.held.values():
            if held.killed and held.group is not None:
                self._look_whether_empty(held)

    def _close(self, token: int) -> None:
        held = self.held.pop(token, None)
        if held is not None:
            self._release(held)
            self.orders.post(("close", token))

    def _release(self, held: Held) -> None:
        for fd in held.fds:
            self.senses.ignore(fd)
            os.close(fd)
        held.fds.clear()
        if held.group is not None:
            if held.populated_fd >= 0:
                self.senses.ignore(held.populated_fd)
            held.group.close()
            held.group = None

    # -- the kill ------------------------------------------------------------------------------------------------

    def _kill(self, action: Kill) -> int:
        """One system call a process, or one for a whole cgroup. An errno; ESRCH: nobody is left."""
        held = self.held.get(action.token)
        if held is None:
            return errno.ESRCH
        if action.target.guard in self.observing:
            return 0
        held.killed = True
        if held.group is not None and action.signal == "KILL":
            return self._kill_cgroup(held.group)
        if held.group is not None:
            return self._signal_members(held.group, _SIGNALS[action.signal])
        return _best(_send(fd, _SIGNALS[action.signal]) for fd in held.fds)

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

    def let_go(self) -> None:
        """At the end: close whatever is open."""
        for token in list(self.held):
            self._close(token)


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
