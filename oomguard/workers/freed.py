"""What the deaths of an incident gave back, as measured: between the first signal and what came after the last end."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ..model.facts import CgroupFacts, MemInfo, Observation, TargetId
from .words import size

# What a death gives back arrives within milliseconds of the last thread's end; what is free seconds later has other
# causes as well. Two seconds leave room for a reaper that is still at work.
_SETTLED_NS: Final = 2_000_000_000
_LEVELS: Final = 16  # a core that stood still turns a few times before it hears what was done in its place
_UNKNOWN: Final = (None, "no measurement after the end")


@dataclass(slots=True)
class Level:
    """Memory at one moment: what the machine had free and what the target could not give back."""

    at_ns: int
    available_bytes: int | None
    unreclaimable_bytes: int | None
    exact: bool  # memory.stat was read: not merely memory.current


class Gauge:
    """Memory of the machine and of the target, turn by turn."""

    def __init__(self, target: TargetId) -> None:
        self._target = target
        self._host: MemInfo | None = None
        self._host_ns = 0
        self._before: Level | None = None
        self._after: Level | None = None
        self._levels: deque[Level] = deque(maxlen=_LEVELS)  # of the last turns, newest last

    def look(self, seen: Observation) -> None:
        """Comes first in every turn."""
        if seen.host is not None:
            self._host, self._host_ns = seen.host, seen.at_ns

    def strike(self, seen: Observation, struck_ns: int | None = None) -> None:
        """A first signal. ``struck_ns``: when the dead man sent it; memory may have come back since."""
        if self._before is None and struck_ns is not None:
            self._before = next((level for level in reversed(self._levels) if level.at_ns <= struck_ns), None)
        self._before = self._before or self.level(seen)

    def measure(self, seen: Observation, ends: Sequence[int | None]) -> None:
        """Comes last in every turn. ``ends``: of all who were struck, None for who is not gone yet. The best level
        between the last end and two seconds after it is kept."""
        if self._is_after(seen, ends):
            level = self.level(seen)
            self._after = level if self._after is None else _better(self._after, level)
        self._levels.append(self.level(seen))

    def _is_after(self, seen: Observation, ends: Sequence[int | None]) -> bool:
        if self._before is None or not ends or None in ends:
            return False
        if seen.at_ns > max(end for end in ends if end is not None) + _SETTLED_NS and self._after is not None:
            return False
        looked = self._host_ns > self._before.at_ns  # since the kill; the very turn of the death may not have
        return looked or _own(seen, self._target) is not None or self._target in seen.vanished

    def level(self, seen: Observation) -> Level:
        """Of this turn; of the machine, as it was last seen."""
        facts = _own(seen, self._target)
        host = seen.host or self._host
        return Level(
            seen.at_ns,
            host.available_bytes if host else None,
            facts.unreclaimable_bytes if facts else (0 if self._target in seen.vanished else None),
            facts is not None and facts.stat is not None,
        )

    def freed(self, reaped_bytes: int) -> tuple[int | None, str]:
        """Bytes, and how that was measured. None: not known. ``reaped_bytes``: what the reaper says."""
        before, after = self._before, self._after
        if before is None or after is None:
            return (
                (reaped_bytes, "what the reaper took back") if reaped_bytes else (None, "no measurement after the end")
            )
        ways = []
        if before.available_bytes is not None and after.available_bytes is not None:
            how = f"MemAvailable rose from {size(before.available_bytes)} to {size(after.available_bytes)}"
            ways.append((self._target.cgroup != "/", after.available_bytes - before.available_bytes, how))
        if before.unreclaimable_bytes is not None and after.unreclaimable_bytes is not None:
            what = "unreclaimable memory" if before.exact else "memory.current"
            fell = f"fell from {size(before.unreclaimable_bytes)} to {size(after.unreclaimable_bytes)}"
            freed = before.unreclaimable_bytes - after.unreclaimable_bytes
            ways.append((self._target.cgroup == "/", freed, f"{what} of {self._target.cgroup} {fell}"))
        if not ways:
            return _UNKNOWN
        _, freed, how = min(ways)
        return max(0, freed), how


def _own(seen: Observation, target: TargetId) -> CgroupFacts | None:
    for facts in seen.cgroups:
        if facts.path == target.cgroup:
            return facts
    return None


def _better(old: Level, new: Level) -> Level:
    """The lowest use and the most available memory of the two moments."""
    available = [value for value in (old.available_bytes, new.available_bytes) if value is not None]
    used = [value for value in (old.unreclaimable_bytes, new.unreclaimable_bytes) if value is not None]
    return Level(new.at_ns, max(available, default=None), min(used, default=None), old.exact and new.exact)


def rose(before: Level, after: Level, cgroup: str) -> str:
    """What memory did between the two: of a cgroup what it uses, else what the machine has."""
    used = (before.unreclaimable_bytes, after.unreclaimable_bytes)
    if used[0] is not None and used[1] is not None and cgroup != "/":
        return f"{cgroup} used {size(used[1])}, and {size(used[0])} before"
    free = (before.available_bytes, after.available_bytes)
    if free[0] is not None and free[1] is not None:
        return f"{size(free[1])} were available, and {size(free[0])} before"
    return "nothing is known of memory"
