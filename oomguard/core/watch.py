"""One cgroup under guard: its files, kept open, and what its guards want to know of it."""

from collections.abc import Iterable
from typing import Final

from ..linux.cgroup2 import Cgroup
from ..model.facts import CgroupFacts, TargetId
from ..model.policy import (
    AvailableBelow,
    EventsAbove,
    ExhaustsWithin,
    GrowthAbove,
    Guard,
    MemoryAbove,
    PressureAbove,
    PressureRising,
    RefaultsAbove,
    SwapFreeBelow,
    ZramAbove,
)

NEAR: Final = 0.8  # of the lowest memory_above: from there on, cache is told from use
PRESSURE: Final = (PressureAbove, PressureRising)


class Watch:
    """Its events and triggers are in the epoll of the senses."""

    def __init__(self, group: Cgroup, guards: tuple[Guard, ...]) -> None:
        self.group = group
        self.settled: CgroupFacts | None = None
        self.settled_ns = 0
        self.last: CgroupFacts | None = None  # as last read without an error
        self.lost = False  # memory.current is not there any more
        self.kills = -1  # of the kernel's killer, as far as they were told; -1: not looked at yet
        self.events_fd = -1
        self.targets: set[TargetId] = set()
        self.aim(guards)

    def aim(self, guards: tuple[Guard, ...]) -> None:
        """It is these guards' business now."""
        self.guards = guards
        self.wants_pressure = wanted(guards, *PRESSURE)
        self.wants_host = wanted(guards, AvailableBelow, SwapFreeBelow, ExhaustsWithin, ZramAbove)
        self.wants_use = wanted(guards, GrowthAbove, ExhaustsWithin)  # at every look, or cache would seem to be growth
        self.wants_refaults = wanted(guards, RefaultsAbove)
        self.wants_events = wanted(guards, EventsAbove)

    def line_bytes(self, total_bytes: int) -> int:
        """Below this memory.current alone settles every condition."""
        return int(min(self.lines(total_bytes), default=self._limit(total_bytes)) * NEAR)

    def lines(self, total_bytes: int) -> list[int]:
        """Of memory_above."""
        limit = self._limit(total_bytes)
        return [c.amount.of(limit) for g in self.guards for c in conditions(g) if isinstance(c, MemoryAbove)]

    def _limit(self, total_bytes: int) -> int:
        limit = None if self.settled is None else self.settled.limit_bytes
        return total_bytes if limit is None else min(total_bytes, limit)


def conditions(guard: Guard) -> Iterable[object]:
    for watermark in (guard.soft, guard.hard):
        for clause in watermark.when if watermark is not None else ():
            yield from clause.all_of


def wanted(guards: Iterable[Guard], *kinds: type) -> bool:
    """Whether any of them has a condition of one of these kinds."""
    return any(isinstance(condition, kinds) for guard in guards for condition in conditions(guard))
