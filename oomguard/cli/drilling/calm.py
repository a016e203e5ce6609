"""May there be a drill now? Pure: numbers in, reasons against it out. A drill must not be what makes memory short."""

from dataclasses import dataclass

from ...model.facts import MemInfo
from ...model.policy import (
    AvailableBelow,
    Condition,
    Guard,
    MemoryAbove,
    Plan,
    PressureAbove,
    PressureRising,
    StallAbove,
)
from ...model.statuspage import StatusPage
from . import course as courses
from .course import Course

SHARE = 10  # a tenth of the machine's memory stays available, whatever the policies say
TIMES = 2  # and so much more than the drill takes, since others go on meanwhile

_STALLS = (StallAbove, PressureAbove, PressureRising)


@dataclass(frozen=True, slots=True)
class Room:
    """What the cgroup around the scratch one has left: (path, bytes)."""

    path: str
    left_bytes: int


def against(
    plan: Plan, course: Course, host: MemInfo, page: StatusPage | None = None, room: Room | None = None
) -> list[str]:
    """Every reason. ``page``: of the daemon that runs, if any. ``room``: where somebody above has a limit."""
    reasons = [
        f"policy {guard.name} is {guard.phase}: {_mib(guard.used_bytes)} of {_mib(guard.limit_bytes)} are in use"
        for guard in (page.guards if page is not None else ())
        if guard.phase != "calm" and guard.mode != "shadow"
    ]
    floor, whose = _floor(plan, host)
    need = floor + TIMES * course.limit_bytes
    if host.available_bytes < need:
        reasons.append(
            f"{_mib(host.available_bytes)} of {_mib(host.total_bytes)} are available, and {_mib(need)} should be: "
            f"{TIMES} times the {_mib(course.limit_bytes)} of the drill over {_mib(floor)} ({whose})"
        )
    if room is not None and room.left_bytes < TIMES * course.limit_bytes:
        reasons.append(f"{room.path} has {_mib(room.left_bytes)} left of its limit, and the drill is charged to it")
    for guard in courses.beside(plan, course):
        reasons.append(f"policy {guard.name} covers the place of the drill as well ({guard.cgroup})")
    for guard in plan.guards:
        if guard.mode == "enforce" and guard.cgroup == "/" and _by_stalls(guard):
            reasons.append(f"policy {guard.name} ends somebody for a stall of the machine alone, and a drill makes one")
    return reasons


def _floor(plan: Plan, host: MemInfo) -> tuple[int, str]:
    """(what must stay available, whose line that is): where a guard of the machine would begin to stir."""
    lines = [(host.total_bytes // SHARE, "a tenth of the machine's memory")]
    for guard in plan.guards:
        for name, mark in (("soft", guard.soft), ("hard", guard.hard)):
            for clause in mark.when if mark is not None and guard.cgroup == "/" and guard.mode != "shadow" else ():
                if levels := [level for it in clause.all_of if (level := _level(it, host.total_bytes)) is not None]:
                    lines.append((min(levels), f"{name} of policy {guard.name}"))  # all of a clause must hold
    return max(lines)


def _level(condition: Condition, total_bytes: int) -> int | None:
    """MemAvailable below which it holds, bytes; None: it is about something else."""
    match condition:
        case AvailableBelow(amount):
            return amount.of(total_bytes)
        case MemoryAbove(amount):
            return total_bytes - amount.of(total_bytes)
        case _:
            return None


def _by_stalls(guard: Guard) -> bool:
    marks = [mark for mark in (guard.soft, guard.hard) if mark is not None and mark.kills]
    return any(all(isinstance(it, _STALLS) for it in clause.all_of) for mark in marks for clause in mark.when)


def _mib(number: int) -> str:
    return f"{number / (1 << 20):.0f} MiB" if number < 10 << 30 else f"{number / (1 << 30):.1f} GiB"
