"""When to look again: the time that the fastest plausible leak needs to the next watermark, never longer."""

from typing import Final

from ..model.policy import (
    AvailableBelow,
    Clause,
    Condition,
    EventsAbove,
    ExhaustsWithin,
    GrowthAbove,
    Guard,
    LevelAbove,
    MemoryAbove,
    PressureAbove,
    PressureRising,
    RefaultsAbove,
    StallAbove,
    SwapAbove,
    SwapFreeBelow,
    Watermark,
    ZramAbove,
)
from .detect import Sight, compressed, holds, is_moot
from .state import TargetState
from .trend import LOOKS, last_rate, span

MIB: Final = 1 << 20
# Bytes per second. The first two are what rfjakob/earlyoom measured as the fastest that memory and swap can fill.
FILL: Final = 6000 * MIB
SWAP_FILL: Final = 800 * MIB
# Behind a tripwire the kernel itself stops the fastest, at the very page. What is left to deadlines is to see the
# soft watermark in time for a look around, and cache turning into memory while the tripwire's event is muted.
TRIPPED_FILL: Final = 100 * MIB

NEVER: Final = 1 << 62
MS: Final = 1_000_000
SECOND: Final = 1000 * MS
AVERAGES_NS: Final = 2 * SECOND  # the kernel renews its pressure averages every 2 s (psi.c, PSI_FREQ)

CALM_NS: Final = (100 * MS, 10 * SECOND)
_SHORTEST_NS, _LONGEST_NS = CALM_NS
TRIPPED_NS: Final = (250 * MS, 10 * SECOND)
ARMED_NS: Final = (5 * MS, 250 * MS)
STEADY_NS: Final = 20 * MS  # shortest look while armed, but headroom does not shrink
# The kernel's counters are per CPU and folded in batches and once a second: MemAvailable falls in steps of megabytes,
# and stands still for tens of milliseconds in the middle of a fast leak.
FALLING_NS: Final = 500 * MS
DRAINING_NS: Final = 20 * MS
NEAR: Final = 4  # times a forecast: growth that would exhaust in that time is looked at more often
# The kernel's own reserve, which MemAvailable leaves out of MemFree: the zones' high watermarks and what lower zones
# keep from higher ones. 2 % on 1 GiB, less on larger machines; a thirty-second is 3 %.
KEPT_SHARE: Final = 32


def next_look(guard: Guard, target: TargetState, sight: Sight, tripped: bool) -> int:
    """Nanoseconds from ``sight.at_ns`` until this target must be looked at again."""
    if target.asked:
        return 0
    if target.phase == "draining":
        return DRAINING_NS
    to_hard = time_to(guard.hard, target.hard_since, sight, tripped)
    if target.phase == "calm":
        low, high = TRIPPED_NS if tripped else CALM_NS
        return min(max(low, min(to_hard, time_to(guard.soft, target.soft_since, sight, tripped))), high)
    low, high = ARMED_NS
    for climb in (target.soft_climb, target.hard_climb):
        if climb.stand == "waiting":
            high = min(high, max(low, climb.until_ns - sight.at_ns))
    falling = bool(target.falling_ns) and sight.at_ns - target.falling_ns < FALLING_NS
    return min(max(low if falling else STEADY_NS, to_hard), high)


def glance(guard: Guard, target: TargetState, sight: Sight) -> int:
    """While MemFree alone is over this many bytes, nothing that this target waits for can have happened; 0: no line.

    MemFree costs one short system call and a comparison for all targets together, where a turn costs a hundred
    microseconds. MemAvailable is never below it by more than the kernel keeps for itself, and what is free is in use by
    no cgroup: so a line on available memory is one on MemFree, and so is a line on a cgroup's use.
    """
    if not _at_rest(target):
        return 0
    lines = [_lowest(clause, sight) for clause in _awaited(guard, sight)]
    return 0 if 0 in lines else max(lines, default=0) + sight.host.total_bytes // KEPT_SHARE


def quiet(guard: Guard, target: TargetState, sight: Sight) -> int:
    """The same for a cgroup's own memory.current: while it is under this many bytes; 0: no line."""
    if sight.facts is None or not _at_rest(target):
        return 0
    limit = sight.limit_bytes
    return min(
        (
            max((c.amount.of(limit) for c in clause.all_of if isinstance(c, MemoryAbove)), default=0)
            for clause in _awaited(guard, sight)
        ),
        default=0,
    )


def until_near(quiet_bytes: int, current_bytes: int, tripped: bool) -> int:
    """Nanoseconds until memory.current could have grown to ``quiet_bytes``."""
    return max(until_filled(quiet_bytes - current_bytes, tripped), TRIPPED_NS[0] if tripped else 0)


def until_filled(room_bytes: int, tripped: bool = False) -> int:
    """Nanoseconds until so much more could be in use; within what is slept in calm."""
    full_ns = room_bytes * SECOND // (TRIPPED_FILL if tripped else FILL)
    return _SHORTEST_NS if full_ns < _SHORTEST_NS else _LONGEST_NS if full_ns > _LONGEST_NS else full_ns


def _at_rest(target: TargetState) -> bool:
    return target.phase == "calm" and not any(target.soft_since) and not any(target.hard_since)


def _awaited(guard: Guard, sight: Sight) -> list[Clause]:
    """The clauses that deadlines are for. Of a stall the kernel's trigger tells, whatever was put off."""
    marks = [mark for mark in (guard.soft, guard.hard) if mark is not None]
    clauses = [clause for mark in marks for clause in mark.when if not is_moot(clause, sight)]
    return [clause for clause in clauses if not any(isinstance(c, StallAbove | LevelAbove) for c in clause.all_of)]


def _lowest(clause: Clause, sight: Sight) -> int:
    """The lowest line on MemFree that follows from any of its conditions, for all have to hold; 0: none does."""
    total = sight.host.total_bytes
    lines = [c.amount.of(total) for c in clause.all_of if isinstance(c, AvailableBelow)]
    lines += [max(1, total - c.amount.of(sight.limit_bytes)) for c in clause.all_of if isinstance(c, MemoryAbove)]
    if sight.facts is None:  # what is left of the machine is not gone any sooner
        lines += [max(1, FILL * c.within_ns // SECOND) for c in clause.all_of if isinstance(c, ExhaustsWithin)]
    return min(lines, default=0)


def time_to(watermark: Watermark | None, since: tuple[int, ...], sight: Sight, tripped: bool) -> int:
    """The shortest time in which the watermark could be crossed; NEVER where only a kernel event can tell."""
    if watermark is None:
        return NEVER
    began = (*since, *(0,) * len(watermark.when))
    return min(_clause(clause, began[i], sight, tripped) for i, clause in enumerate(watermark.when))


def _clause(clause: Clause, began_ns: int, sight: Sight, tripped: bool) -> int:
    if began_ns:
        return max(0, clause.lasting_ns - (sight.at_ns - began_ns))
    if is_moot(clause, sight):
        return NEVER
    return max(_condition(condition, sight, tripped) for condition in clause.all_of)


def _condition(condition: Condition, sight: Sight, tripped: bool) -> int:
    if holds(condition, sight):
        return 0
    fill = TRIPPED_FILL if tripped else FILL
    match condition:
        case AvailableBelow(amount):
            return _fill(sight.host.available_bytes - amount.of(sight.host.total_bytes), fill)
        case SwapFreeBelow(amount):
            return _fill(sight.host.swap_free_bytes - amount.of(sight.host.swap_total_bytes), SWAP_FILL)
        case MemoryAbove(amount):
            return _fill(amount.of(sight.limit_bytes) - sight.used_bytes, fill)
        case SwapAbove(amount):
            return _fill(amount.of(sight.swap_limit_bytes) - sight.swap_bytes, SWAP_FILL)
        case ZramAbove(amount=amount):
            now, total = compressed(condition, sight)
            return _fill(amount.of(total) - now, SWAP_FILL) if total else NEVER
        case PressureAbove() | PressureRising():
            return AVERAGES_NS if sight.pressure is not None else NEVER
        case StallAbove() | LevelAbove():
            return NEVER
        case ExhaustsWithin():
            return _forecast(condition, sight)
        case GrowthAbove() | RefaultsAbove() | EventsAbove():
            return span(condition) // LOOKS


def _forecast(condition: ExhaustsWithin, sight: Sight) -> int:
    """Every third of its window twice, once there is growth that could come to something; else now and then."""
    grown, back = last_rate(sight.track(condition.number)), span(condition)
    near = sight.room_bytes * SECOND < grown * condition.within_ns * NEAR
    return back // LOOKS if near else back // 2


def _fill(room_bytes: int, rate: int) -> int:
    return max(0, room_bytes) * SECOND // rate
