"""Which of two clauses is reached first, as far as their numbers alone can tell."""

from collections.abc import Sequence

from ..model.policy import (
    Amount,
    AvailableBelow,
    Clause,
    Condition,
    EventsAbove,
    ExhaustsWithin,
    GrowthAbove,
    LevelAbove,
    MemoryAbove,
    PressureAbove,
    PressureRising,
    RefaultsAbove,
    StallAbove,
    SwapAbove,
    SwapFreeBelow,
    ZramAbove,
)


def reached_before(hard: Clause, soft: Sequence[Clause]) -> int | None:
    """The soft clause that can only hold when the hard one holds already: its number, or None.

    If any soft clause comes no later than the hard one, all is well.
    """
    if any(implies(hard, clause) for clause in soft):
        return None
    return next((index for index, clause in enumerate(soft) if implies(clause, hard)), None)


_LEVELS = ("low", "medium", "critical")


def implies(one: Clause, other: Clause) -> bool:
    """Whether the other clause surely holds whenever this one does."""
    return one.lasting_ns >= other.lasting_ns and all(
        any(_condition_implies(mine, theirs) for mine in one.all_of) for theirs in other.all_of
    )


def _condition_implies(mine: Condition, theirs: Condition) -> bool:
    match mine, theirs:
        case (AvailableBelow(low), AvailableBelow(high)) | (SwapFreeBelow(low), SwapFreeBelow(high)):
            return _no_more(low, high)
        case (MemoryAbove(high), MemoryAbove(low)) | (SwapAbove(high), SwapAbove(low)):
            return _no_more(low, high)
        case StallAbove(), StallAbove():
            return _sees(mine.line, theirs.line) and (
                mine.window_us == theirs.window_us and mine.stall_us >= theirs.stall_us
            )
        case LevelAbove(), LevelAbove():
            return mine.mode == theirs.mode and _LEVELS.index(mine.level) >= _LEVELS.index(theirs.level)
        case PressureAbove(), PressureAbove():
            return _sees(mine.line, theirs.line) and mine.over == theirs.over and mine.share >= theirs.share
        case PressureRising(), PressureAbove() | PressureRising():
            same = mine.line == theirs.line and mine.over == theirs.over
            return same and mine.share >= theirs.share
        case _:
            return _trend_implies(mine, theirs)


def _trend_implies(mine: Condition, theirs: Condition) -> bool:
    match mine, theirs:
        case GrowthAbove(), GrowthAbove():
            return mine.over_ns == theirs.over_ns and _no_more(theirs.amount, mine.amount)
        case ExhaustsWithin(), ExhaustsWithin():
            return mine.within_ns <= theirs.within_ns
        case RefaultsAbove(), RefaultsAbove():
            sees = theirs.of in (mine.of, "any")
            return sees and mine.over_ns == theirs.over_ns and _no_more(theirs.amount, mine.amount)
        case EventsAbove(), EventsAbove():
            return mine.event == theirs.event and mine.per_ns <= theirs.per_ns and mine.count >= theirs.count
        case ZramAbove(), ZramAbove():
            return mine.of == theirs.of and _no_more(theirs.amount, mine.amount)
        case _:
            return False


def _no_more(one: Amount, other: Amount) -> bool:
    """Surely at most the other; a share and a size cannot be compared without a machine."""
    if one.bytes is not None and other.bytes is not None:
        return one.bytes <= other.bytes
    if one.share is not None and other.share is not None:
        return one.share <= other.share
    return False


def _sees(mine: str, theirs: str) -> bool:
    """Where all tasks stall, some do."""
    return mine == theirs or (mine == "full" and theirs == "some")
