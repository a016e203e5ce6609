"""The kernel's stall triggers: one for each target while these are few; for many, one above them all and a closer look.

A trigger of a cgroup is a kernel thread (psimon), and a thousand guarded cgroups must not mean a thousand threads. What
stalls in a cgroup stalls in its ancestors: their "some" is at least its "some", and that at least its "full". So where
a guard means more than ``DIRECT`` cgroups, its only standing trigger is "some" on the directory that its pattern begins
with. When that speaks, the stall totals below are read twice, ``ZOOM_NS`` apart, and the cgroups that stalled most in
between get triggers of their own, ``CLOSE`` at most, until it has been quiet for ``QUIET_NS``.
"""

import os
import select
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from ..judge.pace import NEVER
from ..linux import psi
from ..linux.cgroup2 import full_path
from ..model.facts import TargetId
from ..model.policy import StallAbove

MS: Final = 1_000_000
SECOND: Final = 1000 * MS
DIRECT: Final = 32  # targets of one guard that have triggers of their own without being asked
CLOSE: Final = 32  # the same, of those that are looked at closely
HANDFUL: Final = 256  # pressure files read in one turn, some 15 us each
ZOOM_NS: Final = 100 * MS
QUIET_NS: Final = 30 * SECOND


class Target(NamedTuple):
    """Where a target's pressure is told, and the condition that waits for it."""

    id: TargetId
    condition: StallAbove
    path: str  # of the pressure file


class Stalls:
    """All triggers of all guards."""

    def __init__(
        self,
        listen: Callable[[int, int, Callable[[int], None]], None],
        ignore: Callable[[int], None],
        tell: Callable[[TargetId, int], None],
        say: Callable[[str, str], None],
    ) -> None:
        """``tell``: (target, number of its condition) has stalled. ``say``: (what, why) of what is degraded."""
        self._listen, self._ignore, self._tell, self._say = listen, ignore, tell, say
        self.fds: dict[TargetId, dict[int, int]] = {}  # of each target: number of the condition, descriptor
        self.crowds: dict[tuple[str, int], Crowd] = {}  # by guard and condition

    def come(self, target: Target, above: str) -> None:
        """A target to listen to. ``above``: the pressure file of what its guard's pattern begins with, "" if none."""
        key = target.id.guard, target.condition.number
        crowd = self.crowds.setdefault(key, Crowd(above))
        crowd.targets[target.id] = target
        if crowd.fd >= 0:
            return
        if len(crowd.targets) <= DIRECT or not above or above == target.path:
            self._open(target)
            return
        fd = self._trigger(above, target.condition, "some", lambda mask: self._on_crowd(key, mask))
        if fd < 0:
            self._open(target)  # better a thread each than deaf
            return
        crowd.fd = fd
        for known in crowd.targets.values():
            self._close(known)

    def leave(self, target: TargetId) -> None:
        """It is gone, or nobody's business any more."""
        for number in list(self.fds.get(target, ())):
            self._drop(target, number)
        self.fds.pop(target, None)
        for key, crowd in list(self.crowds.items()):
            if key[0] == target.guard and crowd.targets.pop(target, None) is not None and not crowd.targets:
                self._forget(key)

    def until_ns(self) -> int:
        """When ``look`` is due."""
        return min((crowd.look_ns for crowd in self.crowds.values()), default=NEVER)

    def look(self, now_ns: int) -> None:
        """The next handful of what is to be read closely, or the end of looking closely."""
        for crowd in self.crowds.values():
            if crowd.look_ns > now_ns:
                continue
            if crowd.queue:
                self._read(crowd, now_ns)
            else:
                crowd.look_ns = NEVER
                for target in crowd.targets.values():
                    self._close(target)

    # -- a crowd -------------------------------------------------------------------------------------------------

    def _on_crowd(self, key: tuple[str, int], mask: int) -> None:
        crowd = self.crowds[key]
        if mask & select.EPOLLERR:  # what is above is gone, and with it everybody
            self._ignore(crowd.fd)
            os.close(crowd.fd)
            crowd.fd = -1
            for target in list(crowd.targets.values()):
                self._open(target)
            return
        if not crowd.queue:
            crowd.first, crowd.grown = {}, []
            crowd.queue = list(crowd.targets.values())
            crowd.look_ns = crowd.began_ns = time.monotonic_ns()

    def _read(self, crowd: "Crowd", now_ns: int) -> None:
        """The totals of a handful: first all for the first time, and ``ZOOM_NS`` later again those that were there."""
        handful, crowd.queue = crowd.queue[:HANDFUL], crowd.queue[HANDFUL:]
        again = crowd.again
        for target in handful:
            total = _total(target) if target.id in crowd.targets else -1
            if total < 0:
                continue
            if not again:
                crowd.first[target.id] = total
            elif total > crowd.first.get(target.id, total):
                crowd.grown.append((total - crowd.first[target.id], target))
        if crowd.queue:
            return
        crowd.again = not again
        if not again:
            crowd.queue = [target for target in crowd.targets.values() if target.id in crowd.first]
            crowd.look_ns = max(now_ns, crowd.began_ns + ZOOM_NS)
        if again or not crowd.queue:
            crowd.again = False
            self._zoom(crowd)
            crowd.look_ns = now_ns + QUIET_NS

    def _zoom(self, crowd: "Crowd") -> None:
        crowd.grown.sort(key=lambda pair: -pair[0])
        close = [target for _, target in crowd.grown[:CLOSE] if target.id in crowd.targets]
        kept = {target.id for target in close}
        for target in crowd.targets.values():
            if target.id not in kept:
                self._close(target)
        for target in close:
            self._open(target)

    def _forget(self, key: tuple[str, int]) -> None:
        crowd = self.crowds.pop(key)
        if crowd.fd >= 0:
            self._ignore(crowd.fd)
            os.close(crowd.fd)

    # -- one trigger ---------------------------------------------------------------------------------------------

    def _open(self, target: Target) -> None:
        number = target.condition.number
        if number in self.fds.get(target.id, ()):
            return

        def spoke(mask: int) -> None:
            if mask & select.EPOLLERR:  # the cgroup is gone, or its pressure is not accounted any more
                self._drop(target.id, number)
            else:
                self._tell(target.id, number)

        fd = self._trigger(target.path, target.condition, target.condition.line, spoke)
        if fd >= 0:
            self.fds.setdefault(target.id, {})[number] = fd

    def _close(self, target: Target) -> None:
        if target.condition.number in self.fds.get(target.id, ()):
            self._drop(target.id, target.condition.number)

    def _drop(self, target: TargetId, number: int) -> None:
        fd = self.fds[target].pop(number)
        self._ignore(fd)
        os.close(fd)

    def _trigger(self, path: str, condition: StallAbove, line: str, spoke: Callable[[int], None]) -> int:
        """-1: it cannot be had, which was said."""
        stall_us, window_us = condition.stall_us, condition.window_us
        try:
            fd, stall, window = psi.open_trigger(path, "some" if line == "some" else "full", stall_us, window_us)
        except OSError as error:
            self._say("stall_above", f"{path}: {error.strerror}: that condition cannot hold")
            return -1
        if window != window_us:
            self._say(
                "stall_above",
                f"{path}: {stall // 1000} ms within {window // 1000} ms instead of {stall_us // 1000} ms "
                f"within {window_us // 1000} ms: shorter windows need CAP_SYS_RESOURCE",
            )
        self._listen(fd, select.EPOLLPRI, spoke)
        return fd


class Crowd:
    """The targets of one condition of one guard."""

    def __init__(self, above: str) -> None:
        self.above = above
        self.targets: dict[TargetId, Target] = {}
        self.fd = -1  # of the trigger above them; -1: each has its own
        self.look_ns = NEVER
        self.began_ns = 0  # when it was last begun to look closely
        self.queue: list[Target] = []  # still to be read
        self.again = False  # for the second time
        self.first: dict[TargetId, int] = {}  # stall totals (us) as first read
        self.grown: list[tuple[int, Target]] = []


def pressure_above(root: str, pattern: str, proc: str) -> str:
    """The pressure file of the directory with which a pattern begins: all that it can mean lies below."""
    parts = pattern.strip("/").split("/")
    plain = next((number for number, part in enumerate(parts) if "*" in part or "?" in part), len(parts))
    if not plain:
        return f"{proc}/pressure/memory"
    return f"{full_path(root, '/' + '/'.join(parts[:plain]))}/memory.pressure"


def _total(target: Target) -> int:
    """Microseconds stalled since it was made; -1: it cannot be read (any more)."""
    try:
        file = psi.PressureFile(target.path)
    except OSError:
        return -1
    try:
        pressure = file.read()
    except OSError:
        return -1
    finally:
        file.close()
    if pressure is None:
        return -1
    return pressure.some.total_us if target.condition.line == "some" else pressure.full.total_us
