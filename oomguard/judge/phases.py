"""The way of a guard into armed and firing and back to calm, and what is done on it. The table is ``detect.TABLE``."""

from typing import Final

from ..model.policy import Guard, KillStep, NotifyStep, UnitStep, Watermark
from ..model.verdict import Close, Release
from . import budget, escalate, ladder, nominee, shadow
from .desk import MS, SECOND, Desk
from .detect import Sight, any_holds
from .state import TargetState, evolve

CLEAR_FOR_NS: Final = SECOND  # clearly over for so long, before a phase is left for calm
SETTLE_NS: Final = 300 * MS  # after a death, before "twice as bad as hard" may cut the cooldown short


def move(desk: Desk, guard: Guard, state: TargetState, sight: Sight, soft: int | None, hard: int | None) -> TargetState:
    """One step in that table, if any; ``soft``, ``hard``: the number of the clause that holds now."""
    clear = bool(state.clear_since_ns) and desk.at - state.clear_since_ns >= CLEAR_FOR_NS
    if clear and hard is None and state.phase not in ("calm", "draining"):
        return _calm(desk, guard, state)
    match state.phase:
        case "calm" | "armed":
            if hard is not None:
                return _enter_hard(desk, guard, state, sight, hard)
            if soft is not None and state.phase == "calm":
                return _arm(desk, guard, state, sight, soft)
            if soft is not None:
                return _climb_soft(desk, guard, state, sight, soft)
        case "firing":
            if hard is None and (soft is None or not (guard.soft and guard.soft.kills)):
                return desk.to(state, "eased")
        case "cooling":
            if hard is not None and _may_again(desk, guard, state, sight):
                return _enter_hard(desk, guard, state, sight, hard)
            if hard is None and desk.at >= state.again_ns:
                return desk.to(state, "cooled")
        case "draining":
            pass
    return state


def _may_again(desk: Desk, guard: Guard, state: TargetState, sight: Sight) -> bool:
    if guard.mode != "enforce":
        return False  # the world did not follow our verdict: one verdict an engagement
    if desk.at >= state.again_ns:
        return True
    settled = desk.at - state.entered_ns >= SETTLE_NS
    return settled and state.ended > 0 and any_holds(guard.hard, sight, "deep")


def _arm(desk: Desk, guard: Guard, state: TargetState, sight: Sight, clause: int) -> TargetState:
    assert guard.soft is not None
    return _climb_soft(desk, guard, evolve(desk.to(state, "soft"), soft_climb=escalate.AT_THE_FOOT), sight, clause)


def _climb_soft(desk: Desk, guard: Guard, state: TargetState, sight: Sight, clause: int) -> TargetState:
    """As far up soft's list as it goes now; on to its kill, if it has one and that is reached."""
    mark = guard.soft
    assert mark is not None
    if state.soft_climb.stand != "over":
        state = ladder.climb(desk, guard, state, sight, mark, clause)
    if state.soft_climb.stand == "aiming":
        return _enter_hard(desk, guard, state, sight, clause, mark)
    return state


def _enter_hard(
    desk: Desk, guard: Guard, state: TargetState, sight: Sight, clause: int, watermark: Watermark | None = None
) -> TargetState:
    watermark = watermark or guard.hard
    assert watermark is not None
    state = desk.to(state, "hard")
    why = desk.why(watermark, clause, sight)
    if not (state.hard_told or guard.mode == "shadow" or _told_lately(desk, state, watermark)):
        state = evolve(desk.snapshot(state, why, hard=True), hard_told=True, told_ns=0)
        if any(isinstance(step, NotifyStep) for step in watermark.do) or watermark.kills:
            desk.tell(state, "HARD", why)
    if watermark is guard.soft:  # its list has led here
        return evolve(state, by_soft=True)
    again = escalate.again(state.hard_climb, watermark.do)
    return climb_hard(desk, guard, evolve(state, hard_climb=again, by_soft=False), sight, clause)


def _told_lately(desk: Desk, state: TargetState, mark: Watermark) -> bool:
    """A watermark that ends nobody may come and go for hours: it makes one incident a minute, as soft does."""
    ends = any(isinstance(step, KillStep | UnitStep) for step in mark.do)
    return state.told_lately(desk.at) and not ends and not state.incident


def climb_hard(desk: Desk, guard: Guard, state: TargetState, sight: Sight, clause: int) -> TargetState:
    """As far up hard's list as it goes now. It stays in firing for as long as there is something to try."""
    assert guard.hard is not None
    state = ladder.climb(desk, guard, state, sight, guard.hard, clause)
    if state.hard_climb.stand == "over":
        return evolve(desk.to(state, "spent"), again_ns=desk.at + guard.cooldown_ns)
    return state


def _calm(desk: Desk, guard: Guard, state: TargetState) -> TargetState:
    state = nominee.dismiss(desk, desk.to(state, "clear"))
    for lease in state.leases:
        if lease.purpose != "tripwire":
            desk.actions.append(Release(state.id, lease.token))
    killed = "the victim is gone, " if state.ended else ""
    outcome, score = shadow.scored(desk, state, f"{killed}memory is clearly over both watermarks")
    if state.incident:
        desk.actions.append(Close(state.id, state.incident, outcome, score))
        if state.hard_told:
            desk.tell(state, "CALM", "calm again")
    trip = tuple(lease for lease in state.leases if lease.purpose == "tripwire")
    state = evolve(state, leases=trip, incident=0, hard_told=False, ended=0, asked="", pursuit=None)
    foot = escalate.AT_THE_FOOT
    state = evolve(state, weighed=(), rest_ns=budget.rested_at(guard, state.kills))
    return evolve(state, uninsurable=frozenset(), soft_climb=foot, hard_climb=foot, verdict=None)
