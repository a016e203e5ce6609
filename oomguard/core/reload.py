"""A new policy for a running daemon: compiled by a child above the waterline, taken over whole or not at all.

The plan in force also lies in the runtime directory. Should the daemon crash while the policy files are wrong, its next
start goes on with that: a wrong policy never replaces a good one, nor leaves the machine without any.
"""

import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count, repeat
from typing import Any, Final

from ..linux import systemd
from ..model import kept
from ..model.codec import from_plain
from ..model.policy import (
    Clause,
    Condition,
    EventsAbove,
    ExhaustsWithin,
    GrowthAbove,
    Guard,
    LevelAbove,
    Plan,
    RefaultsAbove,
    StallAbove,
    Watermark,
)
from .observe import Senses

PLAN_MAX: Final = 4 << 20
PATIENCE_NS: Final = 60_000_000_000  # half a second is usual
WORDS_MAX: Final = 16384  # of what the compiler says


def keep_plan(plan: Plan, text: bytes) -> None:
    """Leave the plan, as it came, for a next start. Whether that works changes nothing for this one."""
    path = f"{plan.daemon.runtime_dir}/{kept.NAME}"
    try:
        fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(kept.wrapped(plan.made_from, text))
        os.rename(f"{path}.new", path)
    except OSError:
        pass


def renewed(before: Plan, after: Plan) -> tuple[Plan, frozenset[str], frozenset[str]]:
    """The new plan; the names of the guards that mean what they meant, and keep all that is known of them; and of those
    that have changed and go on all the same (``judge.renew``): all whose mode is the same.

    On which line a guard stands, what stands before it, and which sinks hear of it, means nothing. By the numbers of
    its conditions it is known to judge and triggers: so those that stand there still keep them, and no other one gets
    any that was in use.
    """
    known = {guard.name: guard for guard in before.guards}
    used = [condition.number for guard in before.guards for condition in _numbered(guard)]
    fresh = count(max(used, default=-1) + 1)
    same = {guard.name for guard in after.guards if guard.name in known and _bare(known[guard.name]) == _bare(guard)}
    changed = {g.name for g in after.guards if g.name in known and g.name not in same and known[g.name].mode == g.mode}
    guards = [
        replace(known[guard.name], origin=guard.origin, notify=guard.notify)
        if guard.name in same
        else _carried(known[guard.name], guard, fresh)
        if guard.name in changed
        else _renumbered(guard, fresh)
        for guard in after.guards
    ]
    return replace(after, guards=tuple(guards)), frozenset(same), frozenset(changed)


def _carried(old: Guard, new: Guard, fresh: Iterator[int]) -> Guard:
    """With the old numbers of those conditions that are in both."""
    left = _numbered(old)
    numbers = []
    for condition in _numbered(new):
        same = next((known for known in left if replace(known, number=0) == replace(condition, number=0)), None)
        numbers.append(next(fresh) if same is None else same.number)
        if same is not None:
            left.remove(same)
    return _renumbered(new, iter(numbers))


_WITH_NUMBER: Final = (StallAbove, LevelAbove, GrowthAbove, ExhaustsWithin, RefaultsAbove, EventsAbove)


def _numbered(guard: Guard) -> list[Any]:
    marks = (mark for mark in (guard.soft, guard.hard) if mark is not None)
    clauses = (clause for mark in marks for clause in mark.when)
    return [condition for clause in clauses for condition in clause.all_of if isinstance(condition, _WITH_NUMBER)]


def _bare(guard: Guard) -> Guard:
    return _renumbered(replace(guard, origin="", notify=None), repeat(0))


def _renumbered(guard: Guard, numbers: Iterator[int]) -> Guard:
    def mark(old: Watermark | None) -> Watermark | None:
        return None if old is None else replace(old, when=tuple(map(clause, old.when)))

    def clause(old: Clause) -> Clause:
        return replace(old, all_of=tuple(map(condition, old.all_of)))

    def condition(old: Condition) -> Condition:
        return replace(old, number=next(numbers)) if isinstance(old, _WITH_NUMBER) else old

    return replace(guard, soft=mark(guard.soft), hard=mark(guard.hard))


class Reload:
    """``wanted`` by SIGHUP, begun by the loop when all is calm: compiling takes 50 MB that must be there."""

    def __init__(self, senses: Senses, swap: Callable[[Plan, bytes], None], refuse: Callable[[str], None]) -> None:
        self.senses, self.swap, self.refuse = senses, swap, refuse
        self.wanted = False
        self.running = False
        self.child = -1
        self.late_ns = 0

    def begin(self, plan: Plan, notify_socket: str | None) -> None:
        """Start the compiler; its end comes as an event."""
        if self.running:
            return
        self.wanted = False
        state = f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"
        systemd.notify(state, notify_socket)
        opened: list[int] = []
        pid = 0
        try:
            for name in ("plan", "faults"):
                opened.append(os.memfd_create(name, os.MFD_CLOEXEC))
            pid = self._spawn(plan.argv, *opened)
            opened.append(os.pidfd_open(pid))
            self.senses.listen(opened[2], select.EPOLLIN, lambda _mask: self._end(pid, opened[2], opened[0], opened[1]))
            self.running = True
            self.child = opened[2]
            self.late_ns = time.monotonic_ns() + PATIENCE_NS
        except (OSError, IndexError) as error:
            for fd in opened:
                os.close(fd)
            if pid:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            self.refuse(f"the compiler could not be started: {error}")

    def hurry(self, at_ns: int) -> None:
        """A compiler that does not come to an end (its file is a pipe, or on a server that is gone) is ended."""
        if self.running and at_ns >= self.late_ns:
            self.late_ns = at_ns + PATIENCE_NS
            signal.pidfd_send_signal(self.child, signal.SIGKILL)

    def _spawn(self, argv: tuple[str, ...], out: int, err: int) -> int:
        actions = [(os.POSIX_SPAWN_DUP2, out, 1), (os.POSIX_SPAWN_DUP2, err, 2)]
        environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LANG": "C.UTF-8"}
        return os.posix_spawn(argv[0], argv, environment, file_actions=actions, setsigmask=())

    def _end(self, pid: int, child: int, out: int, err: int) -> None:
        self.running = False
        self.senses.ignore(child)
        _, status = os.waitpid(pid, 0)
        try:
            if os.waitstatus_to_exitcode(status) != 0:
                words = os.pread(err, WORDS_MAX, 0).decode("utf-8", "replace")
                return self.refuse(words or f"the compiler ended with {os.waitstatus_to_exitcode(status)}")
            text = os.pread(out, min(PLAN_MAX, os.fstat(out).st_size), 0)
            plan = from_plain(json.loads(text))
            if not isinstance(plan, Plan):
                return self.refuse("the compiler gave something else than a plan")
            return self.swap(plan, text)
        except (ValueError, KeyError, TypeError) as error:
            return self.refuse(f"the compiler's plan cannot be read: {error}")
        finally:
            for fd in (child, out, err):
                os.close(fd)
