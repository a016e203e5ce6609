"""Who would be ended: looked for, named, kept under watch, and dropped again."""

from dataclasses import replace
from typing import Final

from ..model.facts import Survey
from ..model.policy import FreezeStep, Guard, NominateStep, SetOomScoreAdjStep, UnitStep
from ..model.verdict import Dismiss, Look, Nominate, Victim
from . import budget, lent
from .desk import MS, SECOND, Desk
from .detect import Sight
from .match import unit_path
from .measure import looks_back, remembered
from .rank import UNITS, is_outweighed, rank, why_no_unit, why_not_whole
from .state import Ban, Hold, TargetState, evolve

REFRESH_NS: Final = 100 * MS  # shortest time between two surveys while armed
REFRESH_SHARE: Final = 8  # surveys take at most one eighth of the time
BAN_NS: Final = (60 * SECOND, 3600 * SECOND)  # the first one, and the longest
WEIGHED_NS: Final = 5 * SECOND  # between two times that are remembered of what units weigh
WEIGHED_MOST: Final = 64  # units of each
ESRCH: Final = 3


def dismiss(desk: Desk, state: TargetState) -> TargetState:
    """It is no nominee any more, nor is there another one yet."""
    return _drop(desk, lent.release(desk, state, "insurance"))


def _drop(desk: Desk, state: TargetState) -> TargetState:
    if (victim := state.nominee) is not None:
        state = lent.release_steps(desk, state)
        desk.actions.append(Dismiss(state.id, victim.token))
        state = evolve(state, former=victim)
    return evolve(state, nominee=None, ranking=None, reserve=(), hold=None)


def look(desk: Desk, state: TargetState, depth: str) -> TargetState:
    """Ask for a survey; it comes with the next observation."""
    if depth == "heaviest":
        desk.actions.append(Look(state.id, "heaviest"))
        return evolve(state, asked="heaviest")
    desk.actions.append(Look(state.id, "whole"))
    return evolve(state, asked="whole")


def _remember_weights(desk: Desk, state: TargetState, survey: Survey) -> TargetState:
    """What units weigh now, for what grows and thrashes: two times of it, the older one to compare with."""
    if state.weighed and desk.at - state.weighed[-1][0] < WEIGHED_NS:
        return state
    rows = sorted((f.path, remembered(f)) for f in survey.cgroups if f.stat is not None)
    rows = sorted(rows, key=lambda row: -row[1][0])[:WEIGHED_MOST]
    return evolve(state, weighed=(*state.weighed[-1:], (desk.at, tuple(rows))))


def refresh(desk: Desk, guard: Guard, state: TargetState) -> TargetState:
    """Survey again while armed, at a bounded share of the time."""
    wants = guard.soft is not None and any(isinstance(step, NominateStep) for step in guard.soft.do)
    if not wants or state.asked or desk.at < state.missed_ns or desk.at - state.survey_ns < every(state):
        return state
    return look(desk, state, "heaviest")


def nominate(desk: Desk, guard: Guard, state: TargetState, survey: Survey, sight: Sight) -> TargetState:
    """Rank whom this survey has found; name the first, insure and brake it. Who is named already stays named."""
    if state.phase in ("calm", "draining"):
        return state
    before = dict(state.weighed[0][1]) if state.weighed else None
    victims, ranking = rank(guard.victim, survey, desk.bounds(), before)
    if looks_back(guard.victim):
        state = _remember_weights(desk, state, survey)
    if not victims:
        state = lent.release(desk, evolve(dismiss(desk, state), ranking=ranking), "brake")
        return look(desk, state, "whole") if survey.depth == "heaviest" else state
    if survey.depth == "heaviest" and is_outweighed(guard.victim, survey, ranking):
        return look(desk, state, "whole")
    best, held = victims[0], state.nominee
    if held is not None and _identity(held) == _identity(best):
        best = replace(best, token=held.token)
    else:
        state = _drop(desk, state)
        best = replace(best, token=desk.new_token(state.id))
        desk.actions.append(Nominate(state.id, best, ranking, budget.not_before(desk, guard, state)))
        state = _score(desk, guard, evolve(state, nominee=best), sight)
    state = evolve(state, nominee=best, ranking=ranking, reserve=victims[1:])
    if _takes_whole(guard):
        state = _take_hold(desk, guard, state, survey)
    state = lent.insure(desk, guard, state, survey)
    return lent.brake(desk, guard, state, survey, sight)


def _take_hold(desk: Desk, guard: Guard, state: TargetState, survey: Survey) -> TargetState:
    """Whether the nominee's cgroup may be stopped as a whole, while it is known who lives in it."""
    assert state.nominee is not None
    path, inode = state.nominee.cgroup, state.nominee.inode
    if state.facts is not None and state.facts.path == path:
        inode = inode or state.facts.inode  # a survey tells of what is below the guard's cgroup, not of itself
    bounds = desk.bounds()
    around = unit_path(state.id.cgroup)
    home = around if around.endswith(UNITS) else unit_path(path)
    why_no = why_no_unit(guard.victim, survey, home, bounds)
    why_not = why_not_whole(guard.victim, survey, path, bounds)
    state = evolve(state, hold=Hold(path, inode, why_not, home.rpartition("/")[2], why_no))
    return lent.thaw(desk, state, path)


def _score(desk: Desk, guard: Guard, state: TargetState, sight: Sight) -> TargetState:
    """What the soft watermark's steps set of a nominee, for one that was not there when they were due."""
    for step in guard.soft.do if guard.soft is not None and state.phase == "armed" else ():
        if isinstance(step, SetOomScoreAdjStep):
            state = lent.set_step(desk, guard, state, sight, step)
    return state


def lost(desk: Desk, state: TargetState) -> TargetState:
    """A nominee that could not be opened is none: the next survey names another, and comes soon."""
    victim = state.nominee
    if victim is None or state.phase == "draining":
        return state
    token = victim.token
    failed = [r.errno for r in desk.seen.results if r.token == token and r.errno and r.what == "Nominate"]
    if not failed and not any(gone.token == token for gone in desk.seen.gone):
        return state
    if failed and failed[0] != ESRCH and not desk.is_shadow(state.id):
        ban(desk, victim)
    return evolve(dismiss(desk, state), survey_ns=min(state.survey_ns, desk.at - every(state) // 2))


def ban(desk: Desk, victim: Victim) -> None:
    """Not to be named again for a while: one that cannot be ended would hide everybody behind it.

    Not for ever: what it waits for (a disk, a server) may come back, and so may our right to signal it.
    """
    known = {(ban.pid, ban.start_ticks): ban for ban in desk.stuck if ban.until_ns + ban.for_ns > desk.at}
    for process in victim.processes:
        key = (process.pid, process.start_ticks)
        for_ns = min(2 * known[key].for_ns, BAN_NS[1]) if key in known else BAN_NS[0]
        known[key] = Ban(*key, desk.at + for_ns, for_ns)
    desk.stuck = tuple(known.values())


def _takes_whole(guard: Guard) -> bool:
    """Whether something of this guard is done to all of the nominee's cgroup."""
    marks = (mark for mark in (guard.soft, guard.hard) if mark is not None)
    return any(isinstance(step, FreezeStep | UnitStep) for mark in marks for step in mark.do)


def every(state: TargetState) -> int:
    """Between two surveys while armed."""
    return max(REFRESH_NS, REFRESH_SHARE * state.survey_took_ns)


def _identity(victim: Victim) -> tuple[object, ...]:
    if victim.take == "cgroup":
        return ("cgroup", victim.cgroup, victim.inode)
    return (victim.take, victim.cgroup, frozenset((p.pid, p.start_ticks) for p in victim.processes))
