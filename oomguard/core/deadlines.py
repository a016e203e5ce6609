"""Whose time it is: deadlines, and what puts them off. Judges nothing, and reads only what is cheap.

Most deadlines of a calm machine end with the same answer as before: plenty, by MemFree alone, or at least by
MemAvailable, or by the cgroup's own memory.current. Then they are put off, though not for ever.
"""

from collections.abc import Callable, Iterable
from typing import Final

from ..judge import pace
from ..judge.state import State, TargetState
from ..linux.procfs import VmStatFile
from ..model.facts import TargetId

SECOND: Final = 1_000_000_000
# A deadline is put off for so long at most; with many targets for longer, so that some 16 a second are looked at. Where
# the machine alone is guarded each glance tells all of it.
PUT_OFF_NS: Final = (10 * SECOND, 300 * SECOND)
PUT_OFF_EACH_NS: Final = 300_000_000
MANY: Final = 16  # from so many on one read of /proc/vmstat is cheaper than a memory.current each
TOGETHER_SHARE: Final = 6  # and when one is looked at, so are those that would be next
AT_ONCE: Final = 64  # targets that are read and judged in one turn at most, some 100 us each
# When one must be read, so are those that have used half of what may be handed out until their turn: who came at
# different times, or was read while something was under way, is soon read together with all others.
NEARLY_SHARE: Final = 2
# Of which memory.current is read before the next poll while anything is under way, some 3 us each; the rest comes then.
READ_AT_ONCE: Final = 128


class Deadlines:
    """See the module."""

    def __init__(
        self,
        free_ram: Callable[[], int] | None,
        available: Callable[[], int],
        vmstat: VmStatFile,
        current: Callable[[str], int | None],
    ) -> None:
        """Bytes each: MemFree, if it can be asked for alone, MemAvailable, and the memory.current of a cgroup."""
        self.free_ram, self._available, self.vmstat, self._current = free_ram, available, vmstat, current
        self.later: dict[TargetId, int] = {}  # a deadline that only a look at the cgroup's own files put off
        self.bounds: dict[str, tuple[int, int]] = {}  # (a line of that cgroup, up to how much handed out it is under)
        self._off: tuple[int, int, bool, int] = (0, 0, True, 0)  # what was found to put deadlines off, and for whom
        self._off_for: object = None

    def forget(self) -> None:
        """What put deadlines off no longer does."""
        self._off_for = None

    def leave(self, target: TargetId) -> None:
        """There is no such target any more, or it has another guard."""
        self.later.pop(target, None)
        self.bounds.pop(target.cgroup, None)

    def put_off(self, state: State) -> tuple[int, int, bool, int]:
        """What settles deadlines, and until when: (the highest line that memory is over, how much the kernel may have
        handed out since boot, whether all whom that settles are behind tripwires); 0: that settles nothing.
        """
        if self._off_for is state.targets:
            return self._off
        most_ns = self._longest(state)
        line, bound, tripped, until_ns = 0, pace.NEVER, True, pace.NEVER
        plenty, allocated = self._plenty(state.targets.values()), self._allocated(state)
        for target in state.targets.values():  # of a thousand, half a microsecond each
            own, look_ns = target.glance_bytes, target.look_ns + most_ns
            if own and own < plenty:
                line = max(line, own)
            elif allocated and (own := self._bound(target)) > allocated:
                bound, tripped = min(bound, own), tripped and target.tripped
            else:
                look_ns = self._deadline(target)
            until_ns = min(until_ns, look_ns)
        self._off_for, self._off = state.targets, (line, 0 if bound == pace.NEVER else bound, tripped, until_ns)
        return self._off

    def _allocated(self, state: State) -> int:
        """All that the kernel has handed out since boot, bytes; 0 where nobody should ask, or it cannot be told.

        No cgroup has grown by more than the kernel has allocated: so what was handed out since memory.current was last
        read is a bound on its growth, the same for a thousand cgroups. Only while all is calm: for each read of this
        file the kernel allocates.
        """
        quiet = 0
        for target in state.targets.values():
            if target.phase != "calm":
                return 0
            quiet += target.quiet_bytes > 0
        return self.vmstat.allocated_bytes() if quiet >= MANY else 0

    def _bound(self, target: TargetState) -> int:
        """Until the kernel has handed out so much, this target's memory.current is under its line; 0: not known."""
        quiet_bytes, bound = self.bounds.get(target.id.cgroup, (0, 0))
        return bound if quiet_bytes == target.quiet_bytes else 0

    def _plenty(self, targets: Iterable[TargetState]) -> int:
        """MemFree; MemAvailable where that is more, and MemFree alone does not settle them all. -1: not known."""
        free = self.free_ram() if self.free_ram is not None else -1
        if free >= 0 and any(target.glance_bytes >= free for target in targets):
            return max(free, self._available())
        return free

    @staticmethod
    def _longest(state: State) -> int:
        if all(target.cgroup == "/" for target in state.targets):
            return PUT_OFF_NS[1]
        return min(max(PUT_OFF_NS[0], len(state.targets) * PUT_OFF_EACH_NS), PUT_OFF_NS[1])

    def due(self, state: State, at_ns: int) -> list[TargetId]:
        """Whose deadline is over, and not put off: the most urgent of them, if there are many."""
        self._off_for = None
        targets = state.targets.values()  # of a thousand, most are settled by the first of the two
        over = [target for target in targets if target.look_ns <= at_ns and self._deadline(target) <= at_ns]
        if not over:
            return []
        plenty, allocated = self._plenty(over), self._allocated(state)
        most_ns = self._longest(state)
        soon_ns = at_ns - most_ns + most_ns // TOGETHER_SHARE
        spent = any(target.quiet_bytes and self._bound(target) <= allocated for target in over)
        due, reads = [], 0
        for target in over:
            settled = target.look_ns > soon_ns
            if settled and target.glance_bytes and target.glance_bytes < plenty:
                continue
            if settled and target.quiet_bytes:
                margin = target.quiet_bytes // NEARLY_SHARE if spent else 0
                if allocated and self._bound(target) - allocated > margin:
                    continue
                reads += 1
                hurry = reads > READ_AT_ONCE and not allocated
                if hurry or self._is_quiet(target, at_ns, allocated):
                    continue
            due.append(target)
        due.sort(key=lambda target: (target.phase == "calm", target.look_ns))
        return [target.id for target in due[:AT_ONCE]]

    def _deadline(self, target: TargetState) -> int:
        if target.glance_bytes or target.quiet_bytes:  # at rest: a look at its own files may have put it off
            return max(target.look_ns, self.later.get(target.id, 0))
        return target.look_ns

    def _is_quiet(self, target: TargetState, at_ns: int, allocated: int) -> bool:
        """Whether memory.current alone shows that nothing can have happened; then there is a later deadline."""
        current = self._current(target.id.cgroup)
        if current is None or current >= target.quiet_bytes:
            return False
        self.later[target.id] = at_ns + pace.until_near(target.quiet_bytes, current, target.tripped)
        if allocated:  # read before memory.current was: what came in between counts as well
            self.bounds[target.id.cgroup] = target.quiet_bytes, allocated + target.quiet_bytes - current
        return True
