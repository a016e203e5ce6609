"""What a guard keeps when its policy is changed under it: its phase, its leases, its kills, and what it has seen.

A condition and a list of actions that stand there as they stood go on where they were; what is new begins. Whom it has
named was named by other rules, and is named anew in the next turn (``news``).
"""

from collections.abc import Mapping
from types import MappingProxyType

from ..model.facts import TargetId
from ..model.policy import (
    Clause,
    EventsAbove,
    ExhaustsWithin,
    GrowthAbove,
    Guard,
    LevelAbove,
    RefaultsAbove,
    StallAbove,
    Watermark,
)
from . import budget
from .escalate import AT_THE_FOOT, Climb
from .state import State, TargetState, evolve

Guards = Mapping[str, Guard]


def renew(state: State, before: Guards, after: Guards, changed: frozenset[str]) -> State:
    """The memory with which the new guards begin. Conditions that are the same have the same numbers in both."""
    targets: dict[TargetId, TargetState] = dict(state.targets)
    for target, known in state.targets.items():
        if target.guard in changed:
            targets[target] = _renewed(known, before[target.guard], after[target.guard])
    names = tuple(sorted(changed.union(state.renewed)))
    return evolve(state, targets=MappingProxyType(targets), renewed=names)


def _renewed(state: TargetState, old: Guard, new: Guard) -> TargetState:
    numbers = _numbers(new)
    return evolve(
        state,
        soft_since=_since(old.soft, new.soft, state.soft_since),
        hard_since=_since(old.hard, new.hard, state.hard_since),
        clear_since_ns=0,
        stalls=tuple(stall for stall in state.stalls if stall[0] in numbers),
        soft_climb=_climb(old.soft, new.soft, state.soft_climb),
        hard_climb=_climb(old.hard, new.hard, state.hard_climb),
        by_soft=state.by_soft and new.soft is not None and new.soft.kills,
        rest_ns=budget.rested_at(new, state.kills) if state.rest_ns else 0,
        weighed=state.weighed if old.victim == new.victim else (),
        look_ns=0,
        glance_bytes=0,
        quiet_bytes=0,
        survey_ns=0,
    )


def _numbers(guard: Guard) -> set[int]:
    kinds = StallAbove | LevelAbove | GrowthAbove | ExhaustsWithin | RefaultsAbove | EventsAbove
    marks = (mark for mark in (guard.soft, guard.hard) if mark is not None)
    return {c.number for mark in marks for clause in mark.when for c in clause.all_of if isinstance(c, kinds)}


def _since(old: Watermark | None, new: Watermark | None, since: tuple[int, ...]) -> tuple[int, ...]:
    """Of each clause that was there, since when it holds. ``lasting`` may be longer or shorter by now."""
    if old is None or new is None:
        return ()
    known: dict[tuple[object, ...], int] = {}
    for clause, began_ns in zip(old.when, since, strict=False):
        known.setdefault(clause.all_of, began_ns)
    return tuple(_began(known, clause) for clause in new.when)


def _began(known: Mapping[tuple[object, ...], int], clause: Clause) -> int:
    return known.get(clause.all_of, 0)


def _climb(old: Watermark | None, new: Watermark | None, climb: Climb) -> Climb:
    """Where it was, if all that was done stands there still; else at the foot: nothing of the new list was tried."""
    if old is None or new is None or old.do[: climb.next] != new.do[: climb.next]:
        return AT_THE_FOOT
    if climb.stand in ("aiming", "over") and old.do != new.do:
        return Climb(next=climb.next)  # there may be more to do now, or no kill
    return climb
