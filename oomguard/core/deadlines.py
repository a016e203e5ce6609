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
# Of more than a thousand an eighth, since to see who is left costs as much as to read half of them.
READ_AT_ONCE: Final = 128
READ_SHARE: Final = 8
# Bytes that are free while a cgroup with a limit is in trouble and the machine is not: the kernel may allocate for us.
ROOM: Final = 128 << 20


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
        # Those at rest, together: up to which lines and until when they are settled. Of five thousand two or three
        # change in a turn, and these lines only become stricter by them, until all are looked through again.
        self._line, self._bound_of_all, self._tripped, self._rest_ns = 0, pace.NEVER, True, 0
        self._highest = self._quiet = 0  # of the lines on what is free; how many have one on memory.current
        self._known: list[TargetState] = []  # all of them, as they were when they were last looked through
        self._awake: dict[TargetId, TargetState] = {}  # who is not settled with the others
        self._stale = True

    def forget(self) -> None:
        """What put deadlines off no longer does."""
        self._off_for = None
        self._stale = True

    def leave(self, target: TargetId) -> None:
        """There is no such target any more, or it has another guard."""
        self.later.pop(target, None)
        self.bounds.pop(target.cgroup, None)
        self._stale = True

    def put_off(self, state: State) -> tuple[int, int, bool, int]:
        """What settles deadlines, and until when: (the highest line that memory is over, how much the kernel may have
        handed out since boot, whether all whom that settles are behind tripwires); 0: that settles nothing.
        """
        if self._off_for is state.targets:
            return self._off
        most_ns = self._longest(state)
        changed = self._changed(state)
        plenty, allocated = self._plenty(self._highest), self._allocated()
        if not (self._stale or self._holds(plenty, allocated)):
            self._stale = True
            changed = self._changed(state)
        line, bound, tripped, rest_ns, awake = (
            self._line,
            self._bound_of_all,
            self._tripped,
            self._rest_ns,
            self._awake,
        )
        for target in changed:  # of a thousand, half a microsecond each
            own, look_ns = target.glance_bytes, target.look_ns + most_ns
            if own and own < plenty:
                line = max(line, own)
            elif allocated and (own := self._bound(target)) > allocated:
                bound, tripped = min(bound, own), tripped and target.tripped
            else:
                awake[target.id] = target
                continue
            awake.pop(target.id, None)
            rest_ns = min(rest_ns, look_ns)
        self._line, self._bound_of_all, self._tripped, self._rest_ns, self._stale = line, bound, tripped, rest_ns, False
        until_ns = min(rest_ns, *map(self._deadline, awake.values())) if awake else rest_ns
        self._off_for, self._off = state.targets, (line, 0 if bound == pace.NEVER else bound, tripped, until_ns)
        return self._off

    def _changed(self, state: State) -> list[TargetState]:
        """Who is another than when they were last looked through; all, if that was for others or holds no longer."""
        known, self._known = self._known, list(state.targets.values())
        if not self._stale and len(known) == len(self._known):
            pairs = [(old, new) for old, new in zip(known, self._known, strict=True) if old is not new]
            # Behind a tripwire now: perhaps the last one of all, and then naps are sixty times as long.
            loosened = not self._tripped and any(new.tripped and not old.tripped for old, new in pairs)
            if not loosened and all(old.id == new.id for old, new in pairs):
                changed = [new for _, new in pairs]
                self._highest = max([self._highest, *(target.glance_bytes for target in changed)])
                self._awake.update((target.id, target) for target in changed)
                return changed
        self._stale = True
        self._line, self._bound_of_all, self._tripped, self._rest_ns = 0, pace.NEVER, True, pace.NEVER
        self._highest = max((target.glance_bytes for target in self._known), default=0)
        self._quiet = sum(target.quiet_bytes > 0 for target in self._known)
        self._awake = {target.id: target for target in self._known if target.phase != "calm"}
        return self._known

    def _holds(self, plenty: int, allocated: int) -> bool:
        """Whether those at rest are still settled by what settled them."""
        return self._line < max(plenty, 1) and (self._bound_of_all == pace.NEVER or 0 < allocated < self._bound_of_all)

    def _allocated(self) -> int:
        """All that the kernel has handed out since boot, bytes; 0 where nobody should ask, or it cannot be told.

        No cgroup has grown by more than the kernel has allocated: so what was handed out since memory.current was last
        read is a bound on its growth, the same for a thousand cgroups. For each read of this file the kernel allocates:
        so it is read while all is calm, or those that are not have limits of their own, and the machine has room.
        """
        if self._quiet < MANY:
            return 0
        stirred = [target for target in self._awake.values() if target.phase != "calm"]
        if stirred and (self._free() <= ROOM or any(target.id.cgroup == "/" for target in stirred)):
            return 0
        return self.vmstat.allocated_bytes()

    def _free(self) -> int:
        return self.free_ram() if self.free_ram is not None else -1

    def _bound(self, target: TargetState) -> int:
        """Until the kernel has handed out so much, this target's memory.current is under its line; 0: not known."""
        quiet_bytes, bound = self.bounds.get(target.id.cgroup, (0, 0))
        return bound if quiet_bytes == target.quiet_bytes else 0

    def _plenty(self, highest: int) -> int:
        """MemFree; MemAvailable where that is more, and MemFree alone is not over that line. -1: not known."""
        free = self._free()
        return max(free, self._available()) if 0 <= free <= highest else free

    @staticmethod
    def _longest(state: State) -> int:
        if all(target.cgroup == "/" for target in state.targets):
            return PUT_OFF_NS[1]
        return min(max(PUT_OFF_NS[0], len(state.targets) * PUT_OFF_EACH_NS), PUT_OFF_NS[1])

    def due(self, state: State, at_ns: int) -> list[TargetId]:
        """Whose deadline is over, and not put off: the most urgent of them, if there are many."""
        if self._off_for is not state.targets:
            self.put_off(state)
        self._off_for = None
        plenty, allocated = self._plenty(self._highest), self._allocated()
        targets: Iterable[TargetState] = self._awake.values()
        if at_ns >= self._rest_ns or not self._holds(plenty, allocated):
            targets, self._stale = self._known, True  # of a thousand, most are settled by the first of the two
        over = [target for target in targets if target.look_ns <= at_ns and self._deadline(target) <= at_ns]
        if not over:
            return []
        most_ns = self._longest(state)
        soon_ns = at_ns - most_ns + most_ns // TOGETHER_SHARE
        spent = any(target.quiet_bytes and self._bound(target) <= allocated for target in over)
        due, reads, most_reads = [], 0, max(READ_AT_ONCE, len(self._known) // READ_SHARE)
        calm = all(target.phase == "calm" for target in self._awake.values())
        for target in over:
            settled = target.look_ns > soon_ns
            if settled and target.glance_bytes and target.glance_bytes < plenty:
                continue
            if settled and target.quiet_bytes:
                margin = target.quiet_bytes // NEARLY_SHARE if spent else 0
                if allocated and self._bound(target) - allocated > margin:
                    continue
                reads += 1
                hurry = reads > most_reads and not (allocated and calm)
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
            self._stale = True
        return True
