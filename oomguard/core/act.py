"""The hands. They do what an action says, at once and without asking why; what cannot be done is an errno."""

import errno
import os
import select
import signal
import time
from typing import Final, assert_never

from ..linux import cgroup2, procfs
from ..linux.cgroup2 import Cgroup
from ..model.codec import pack
from ..model.facts import Result
from ..model.policy import Guard, Plan, Watermark
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
    Reap,
    Reclaim,
    Release,
    Run,
    Snapshot,
    Tell,
    UnitJob,
    Victim,
    Ward,
)
from ..workers.pool import Mailbox, Pulse
from .lease import LeaseBook
from .nominee import Nominee
from .observe import Senses

_SIGNALS: Final = {"TERM": signal.SIGTERM, "KILL": signal.SIGKILL}


class Held(Nominee):
    """A nominee whose end is awaited."""

    __slots__ = ("ended", "killed", "order", "populated_fd", "token")

    def __init__(self, victim: Victim, proc_fd: int, root: str | None) -> None:
        super().__init__(victim, proc_fd, root)
        self.token = victim.token
        self.populated_fd = -1
        self.killed = False
        self.ended = False  # and was told of
        self.order: tuple[object, ...] = ()  # to the reaper, to open it as well


class Hands:
    """Opens, signals, leases. ``senses`` waits for deaths; ``orders`` goes to the reaper."""

    def __init__(
        self, plan: Plan, root: str | None, senses: Senses, orders: Mailbox, book: LeaseBook, pulse: Pulse
    ) -> None:
        self.root, self.senses, self.orders, self.book, self.pulse = root, senses, orders, book, pulse
        self.proc_fd = procfs.open_proc(plan.daemon.proc)
        self.held: dict[int, Held] = {}
        self.yielded = False
        self.runs_hooks = self.has_broker = False
        self.aim(plan)

    def aim(self, plan: Plan) -> None:
        """Which guards there are, and which of them only observe."""
        self.guards = {guard.name: guard for guard in plan.guards}
        self.observing = frozenset(guard.name for guard in plan.guards if guard.mode != "enforce")
        self.shadows = frozenset(guard.name for guard in plan.guards if guard.mode == "shadow")

    def perform(self, action: Action) -> Outcome | None:
        """None: nothing to do here; the record of the turn is what the followers act upon."""
        match action:
            case Kill():
                return self._done(action.token, "Kill", self._kill(action), action.target.guard in self.observing)
            case Nominate():
                return self._done(action.victim.token, "Nominate", self._open(action), False)
            case Dismiss():
                self._close(action.token)
            case Reap():
                if action.target.guard not in self.observing:
                    self.orders.post(("reap", action.token))
            case Lease() | Release() | Reclaim() | UnitJob() | Run() | Tell():
                return self._change(action)
            case Look():
                self.senses.ask(action.target, action.depth)
            case Mute():
                self.senses.mute(action.target, action.until_ns)
            case Snapshot() | Notify() | Close():
                pass
            case _:
                assert_never(action)
        return None

    def _change(self, action: Lease | Release | Reclaim | UnitJob | Run | Tell) -> Outcome:
        """What changes something in the kernel, and nobody's life: the reaper does it."""
        match action:
            case Lease():
                return self._done(action.token, "Lease", self.book.lend(action), False)
            case Release():
                return self._done(action.token, "Release", self.book.end(action.token), False)
            case Reclaim():
                held = action.target.guard in self.observing
                size, until_ns = action.bytes, action.until_ns
                if not held:
                    self.orders.post(("reclaim", action.token, action.cgroup, action.inode, size, until_ns))
                return self._done(action.token, "Reclaim", 0, held)
            case Run():  # the record of the turn is the order
                held = action.target.guard in self.observing
                return self._done(action.token, "Run", 0 if held or self.runs_hooks else errno.ENOSYS, held)
            case Tell():  # so it is of this one
                held = action.target.guard in self.observing
                return self._done(action.token, "Tell", 0 if held or self.has_broker else errno.ENOSYS, held)
            case UnitJob():
                held = action.target.guard in self.observing
                if not held:
                    self.orders.post(("unit", action.token, action.verb, action.unit))
                return self._done(action.token, "UnitJob", 0, held)

    def _done(self, token: int, what: str, number: int, held: bool) -> Outcome:
        at_ns = time.monotonic_ns()
        if number:
            self.senses.tell(Result(token, what, number))
        return Outcome(what, token, number, at_ns, held)

    # -- opening -------------------------------------------------------------------------------------------------

    def _open(self, action: Nominate) -> int:
        victim = action.victim
        if action.target.guard in self.shadows:
            return 0  # nobody is held open for what is never done
        held = Held(victim, self.proc_fd, self.root)
        try:
            opened = held.open() and self._listen(held)
        except OSError as error:
            self._release(held)
            return error.errno or errno.EIO
        if not opened:
            self._release(held)
            return errno.ESRCH
        self.held[victim.token] = held
        held.order = ("open", victim.token, [(p.pid, p.start_ticks) for p in victim.processes])
        ward = self._ward(action)
        if ward is None or not self.orders.post((*held.order, ward)):
            self.orders.post(held.order)
        else:
            held.order = (*held.order, ward)
        return 0

    def _listen(self, held: Held) -> bool:
        if held.group is None:
            for fd in held.fds:
                self._await(held, fd)
            return True
        if not held.sweeps or cgroup2.kind(held.group.root) is Cgroup:  # v1 tells nobody: it is looked at (``look``)
            fd = held.group.populated_fd()
            self.senses.listen(fd, select.EPOLLPRI, lambda _mask: self._look_whether_empty(held))
            held.populated_fd = fd
        return held.group.populated()  # the event tells only of what changes from here on

    def _ward(self, action: Nominate) -> bytes | None:
        """What the dead man must know, if it may ever end this one."""
        guard = self.guards.get(action.target.guard)
        mark = killing(guard) if guard is not None and guard.mode == "enforce" else None
        return None if mark is None else pack(Ward(action.target, action.victim, mark, action.not_before_ns))

    def again(self) -> None:
        """The reaper is another one, or has missed some orders: whoever is open is to be opened by it."""
        for held in self.held.values():
            self.orders.post(held.order)

    def _await(self, held: Held, fd: int) -> None:
        def ended(_mask: int) -> None:
            self.senses.ignore(fd)
            del held.fds[fd]
            os.close(fd)
            if not held.fds:
                self.senses.tell_gone(held.token)

        self.senses.listen(fd, select.EPOLLIN, ended)

    def _look_whether_empty(self, held: Held) -> None:
        try:
            empty = held.group is None or not held.group.populated()
        except OSError:
            empty = False
        if empty and not held.ended:
            held.ended = True
            self.senses.ignore(held.populated_fd)
            self.senses.tell_gone(held.token)

    def look(self) -> None:
        """Whether a cgroup that was killed is empty, in every turn.

        The kernel tells of a second change within 10 ms later, by a timer; who removes the cgroup before that removes
        the timer too, and nobody is ever told (kernel/cgroup/cgroup.c: cgroup_file_notify, cgroup_rm_file).
        """
        for held in self.held.values():
            if held.killed and held.group is not None and not held.ended:
                held.sweep()
                self._look_whether_empty(held)

    def _close(self, token: int) -> None:
        held = self.held.pop(token, None)
        if held is not None:
            self._release(held)
            self.orders.post(("close", token))

    def _release(self, held: Held) -> None:
        for fd in held.fds:
            self.senses.ignore(fd)
        if held.populated_fd >= 0:
            self.senses.ignore(held.populated_fd)
        held.close()

    # -- the kill ------------------------------------------------------------------------------------------------

    def _kill(self, action: Kill) -> int:
        """An errno. ESRCH: nobody is left; EBUSY: the dead man was faster, and its answer is on the way."""
        held = self.held.get(action.token)
        if action.by == "deadman":
            if held is not None:
                held.killed, held.sweeping = True, held.sweeps
            return 0
        if action.target.guard in self.shadows:
            return 0
        if held is None:
            return errno.ESRCH
        if action.target.guard in self.observing:
            return 0
        if not self._may_kill():
            return errno.EBUSY
        held.killed = True
        try:
            return held.kill(_SIGNALS[action.signal])
        finally:
            self.pulse.give()

    def _may_kill(self) -> bool:
        """To a dead man that has just struck we yield, but once: one that never answers must not bind us for ever."""
        may = self.pulse.take() or self.yielded
        self.yielded = not may
        return may

    def let_go(self) -> None:
        """At the end: close whatever is open."""
        for token in list(self.held):
            self._close(token)


def killing(guard: Guard) -> Watermark | None:
    """The watermark of this guard at which somebody is ended."""
    marks = (mark for mark in (guard.hard, guard.soft) if mark is not None)
    return next((mark for mark in marks if mark.kills), None)
