"""When to look again: the time that the fastest plausible leak needs to the next watermark, never longer."""

from typing import Final

from ..model.policy import (
    AvailableBelow,
    Clause,
    Condition,
    Guard,
    MemoryAbove,
    PressureAbove,
    StallAbove,
    SwapAbove,
    SwapFreeBelow,
    Watermark,
)
from .detect import Sight, holds, is_moot
from .state import TargetState

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

CALM_NS: Final = (100 * MS, 5 * SECOND)
TRIPPED_NS: Final = (250 * MS, 10 * SECOND)
ARMED_NS: Final = (5 * MS, 250 * MS)
STEADY_NS: Final = 20 * MS  # shortest look while armed, but headroom does not shrink
# The kernel's counters are per CPU and folded in batches and once a second: MemAvailable falls in steps of megabytes,
# and stands still for tens of milliseconds in the middle of a fast leak.
FALLING_NS: Final = 500 * MS
DRAINING_NS: Final = 20 * MS
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
    falling = bool(target.falling_ns) and sight.at_ns - target.falling_ns < FALLING_NS
    return min(max(low if falling else STEADY_NS, to_hard), high)


def glance(guard: Guard, target: TargetState, sight: Sight) -> int:
    """While MemFree alone is over this many bytes, nothing that this target waits for can have happened; 0: no line.

    MemFree costs one short system call and a comparison, where a turn costs a hundred microseconds; MemAvailable is
    never below it by more than the kernel keeps for itself. For the machine in calm, if every clause wants it short.
    """
    if target.phase != "calm" or sight.facts is not None or any(target.soft_since) or any(target.hard_since):
        return 0
    marks = [mark for mark in (guard.soft, guard.hard) if mark is not None]
    # What waits for a stall is woken by the kernel's trigger, whatever was put off.
    clauses = [clause for mark in marks for clause in mark.when if not _waits_for_a_stall(clause)]
    lines = [min(_available(clause, sight.host.total_bytes), default=0) for clause in clauses]
    if not lines or 0 in lines:
        return 0
    return max(lines) + sight.host.total_bytes // KEPT_SHARE


def _waits_for_a_stall(clause: Clause) -> bool:
    return any(isinstance(condition, StallAbove) for condition in clause.all_of)


def _available(clause: Clause, total_bytes: int) -> list[int]:
    return [c.amount.of(total_bytes) for c in clause.all_of if isinstance(c, AvailableBelow)]


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
        case StallAbove():
            return NEVER
        case PressureAbove():
            return AVERAGES_NS if sight.pressure is not None else NEVER


def _fill(room_bytes: int, rate: int) -> int:
    return max(0, room_bytes) * SECOND // rate
