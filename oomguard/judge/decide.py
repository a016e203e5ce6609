"""The judge: ``decide(plan, state, seen) -> (state, actions)``. The same fold serves the daemon and replay.

A turn goes: facts into memory (what came, went, answered), then every target of which there is news is judged:
conditions, phase, what to do in that phase, when to look again. Nothing here knows a clock but ``seen.at_ns``.
"""

from collections.abc import Iterable
from typing import Final

from ..model.facts import Observation, TargetId
from ..model.policy import Guard, Plan
from ..model.verdict import Action
from . import inform, kill, lent, news, nominee, pace, phases
from .desk import MACHINE, MS, Desk
from .detect import Sight, any_holds, crossed, since
from .state import State, TargetState, evolve
from .trend import follow, span, tracked

UNSEEN_NS: Final = 100 * MS  # a target without facts, or whose survey did not come, is asked for again after that
HEARD_NS: Final = 50 * MS  # listened to again for so long before a deadline: what is at its tripwire speaks first


def begin(ours: Iterable[int], own_cgroup: str) -> State:
    """The state before the first observation: our own pids, and our cgroup ("" where others live in it too)."""
    return State(ours=frozenset(ours), own_cgroup=own_cgroup)


def decide(plan: Plan, state: State, seen: Observation) -> tuple[State, tuple[Action, ...]]:
    """One turn. Pure: the same plan, state and observation give the same state and actions."""
    desk = Desk(plan, state, seen)
    news.remember(desk)
    _judge_all(desk)
    return desk.close()


def _judge_all(desk: Desk) -> None:
    # A target at rest is judged when something was seen of it: its deadline may have been put off.
    due = {
        t
        for t, s in desk.targets.items()
        if (s.look_ns <= desk.at and not (s.glance_bytes or s.quiet_bytes)) or s.pursuit is not None
    }
    due |= (desk.fresh | desk.news | _answered(desk)) & desk.targets.keys()
    for target in sorted(due, key=lambda t: (-len(t.cgroup), t)):  # the innermost guard first
        state = desk.targets[target]
        if desk.host is not None and (target.cgroup == MACHINE or state.facts is not None):
            _judge(desk, desk.guards[target.guard], state)
        else:
            desk.targets[target] = evolve(state, look_ns=desk.at + UNSEEN_NS)


def _answered(desk: Desk) -> set[TargetId]:
    tokens = {result.token for result in desk.seen.results}
    if not tokens:
        return set()
    return {t for t, s in desk.targets.items() if s.nominee is not None and s.nominee.token in tokens}


def _follow(desk: Desk, guard: Guard, state: TargetState, sight: Sight) -> tuple[TargetState, Sight]:
    """What some conditions have to know of what was before, and to what it has come."""
    tracks = []
    for condition in tracked(guard):
        track, value = sight.track(condition.number), sight.value(condition)
        if value is not None and (not track or track[-1][0] < desk.at):
            track = follow(track, desk.at, value, span(condition))
        tracks.append((condition.number, track))
    state = evolve(state, tracks=tuple(tracks))
    return state, desk.sight(state)


def _judge(desk: Desk, guard: Guard, state: TargetState) -> None:
    sight = desk.sight(state)
    if state.id in desk.fresh and tracked(guard):
        state, sight = _follow(desk, guard, state, sight)
    state = _measure(desk, guard, state, sight)
    soft = crossed(guard.soft, state.soft_since, desk.at)
    hard = crossed(guard.hard, state.hard_since, desk.at)
    state = lent.expire(desk, nominee.lost(desk, kill.deadman(desk, guard, state)))
    survey = next((s for s in desk.seen.surveys if s.target == state.id), None)
    if survey is not None:
        state = evolve(state, asked="", survey_ns=desk.at, survey_took_ns=survey.took_ns)
        state = nominee.nominate(desk, guard, state, survey, sight)
    elif state.asked:
        state = evolve(state, asked="", missed_ns=desk.at + UNSEEN_NS)
    if state.phase == "draining":
        state = kill.drain(desk, guard, state, sight)
    state = phases.move(desk, guard, state, sight, soft, hard)
    if state.phase == "firing":
        state = kill.fire(desk, guard, state, sight, survey, hard)
    if state.phase == "armed":
        state = nominee.refresh(desk, guard, state)
    if state.tell_soft_ns or state.tell_hard_ns:
        state = inform.again(desk, guard, state, sight, soft, hard)
    state = lent.mute(desk, guard, state, sight)
    look_ns = desk.at + pace.next_look(guard, state, sight, state.tripped)
    if state.tripped and state.muted_ns > desk.at and not state.asked:  # a survey that was asked for comes at once
        look_ns = max(look_ns, state.muted_ns + HEARD_NS)
    desk.targets[state.id] = evolve(
        state,
        look_ns=look_ns,
        glance_bytes=pace.glance(guard, state, sight),
        quiet_bytes=pace.quiet(guard, state, sight),
    )


def _measure(desk: Desk, guard: Guard, state: TargetState, sight: Sight) -> TargetState:
    if state.id not in desk.fresh:
        return state
    # In calm there is nothing to be clear of, and calm turns are nearly all.
    over = state.phase == "calm" or any_holds(guard.soft, sight, "clear") or any_holds(guard.hard, sight, "clear")
    return evolve(
        state,
        soft_since=since(guard.soft, sight, state.soft_since),
        hard_since=since(guard.hard, sight, state.hard_since),
        clear_since_ns=0 if over else state.clear_since_ns or desk.at,
        falling_ns=desk.at if sight.used_bytes > state.used_bytes else state.falling_ns,
        used_bytes=sight.used_bytes,
    )
