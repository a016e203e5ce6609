"""The kill: whether it may be now, the signal, one victim's way to its end (``escalate.TABLE``), and the dead man's."""

from typing import Final

from ..model.facts import Result, Survey
from ..model.policy import Guard
from ..model.verdict import Kill, Reap, Victim
from . import budget, escalate, lent, nominee, pace, phases, shadow
from .desk import MS, SECOND, Desk, nobody, who
from .detect import Sight, any_holds, mib
from .glob import is_inside
from .state import TargetState, Verdict, evolve

STALE_NS: Final = SECOND  # an older nomination is made anew before anybody is killed
STALE_TURNS: Final = 2  # but not one that is as new as slow surveys allow
AFTER_NS: Final = SECOND  # nobody was there to take: look again for one after that
ESRCH: Final = 3
EBUSY: Final = 16


def fire(
    desk: Desk, guard: Guard, state: TargetState, sight: Sight, survey: Survey | None, hard: int | None
) -> TargetState:
    """The nominee is signalled as soon as the list has come to it, nobody else is awaited and budgets allow it."""
    if state.asked:
        return state
    if not state.by_soft:
        if hard is not None and state.hard_climb.stand != "aiming":
            state = phases.climb_hard(desk, guard, state, sight, hard)
        if state.hard_climb.stand != "aiming" or state.asked:
            return state
    if guard.mode != "shadow" and _other_pursuit(desk, state):  # in a shadow's world nobody else is pursued
        return state
    if budget.rests(desk, guard, state, sight):
        return budget.say_rest(desk, state)
    if (why := budget.why_not(desk, guard, state)) and guard.mode == "enforce":
        return _spent(desk, guard, state, "BUDGET_SPENT", f"{why}: nobody is killed")
    if state.nominee is None and survey is not None:
        return _spent(desk, guard, state, "NO_VICTIM", nobody(state.ranking))
    stale = desk.at - state.survey_ns > max(STALE_NS, STALE_TURNS * nominee.every(state))
    if (state.nominee is None or stale) and desk.at >= state.missed_ns:
        return nominee.look(desk, state, "heaviest")
    return state if state.nominee is None else _signal(desk, guard, state, sight)


def _other_pursuit(desk: Desk, state: TargetState) -> bool:
    """Whether the death of another guard's victim gives memory back here: it is awaited, and so is its memory."""
    return any(
        _overlaps(other.pursuit.victim, state.id.cgroup)
        if other.pursuit is not None
        else other.ended
        and other.phase == "cooling"
        and desk.at - other.entered_ns < phases.SETTLE_NS
        and (is_inside(other.id.cgroup, state.id.cgroup) or is_inside(state.id.cgroup, other.id.cgroup))
        for other in desk.targets.values()
        if other.id != state.id
    )


def _spent(desk: Desk, guard: Guard, state: TargetState, message: str, text: str) -> TargetState:
    state = desk.complain(state, message, text)
    return evolve(desk.to(state, "spent"), again_ns=desk.at + max(AFTER_NS, guard.cooldown_ns))


def _signal(desk: Desk, guard: Guard, state: TargetState, sight: Sight) -> TargetState:
    victim = state.nominee
    assert victim is not None
    grace = 0 if any_holds(guard.hard, sight, "deep") else state.grace_ns
    text = f"{who(victim)} holding {mib(victim.held_bytes)}"
    if grace:
        state = lent.thaw(desk, state)  # who is frozen cannot end itself
    if guard.mode == "shadow":
        state = shadow.foreshadow(desk, guard, state, sight, text)
    desk.actions.append(Kill(state.id, victim.token, "TERM" if grace else "KILL", text, state.ranking))
    if not grace:
        desk.actions.append(Reap(state.id, victim.token))
    if guard.mode != "enforce":
        desk.tell(state, "KILLED", f"would have killed {text} (observe mode)")
        state = evolve(state, verdict=state.verdict or Verdict(desk.at, text))
        return evolve(desk.to(state, "spent"), again_ns=pace.NEVER)
    desk.tell(state, "KILLED", f"killed {text}")
    state = budget.counted(desk, guard, desk.to(state, "fired"))
    return evolve(state, pursuit=escalate.begin(victim, grace, desk.at))


def deadman(desk: Desk, guard: Guard, state: TargetState) -> TargetState:
    """We stood still, and the dead man has ended our nominee: it is pursued like a victim of our own."""
    for result in desk.seen.results:
        for victim in (state.nominee, state.former):
            if result.what == "Deadman" and victim is not None and victim.token == result.token:
                state = _struck(desk, guard, state, victim, result)
    return state


def _struck(desk: Desk, guard: Guard, state: TargetState, victim: Victim, result: Result) -> TargetState:
    silence = f"we had not turned for {result.took_ns / SECOND:.1f} s"
    why = f"the dead man has acted: {silence}, and the hard watermark held"
    pursuit = escalate.begin(victim, 0, result.value or desk.at)
    if state.phase != "calm" and not state.hard_told:
        state = evolve(desk.snapshot(state, why, hard=True), hard_told=True, told_ns=0)
    text = f"{who(victim)} holding {mib(victim.held_bytes)}; {why}"
    desk.actions.append(Kill(state.id, victim.token, "KILL", text, state.ranking, "deadman"))
    desk.tell(state, "KILLED", f"killed {text}")
    if state.pursuit is not None and state.pursuit.victim.token == victim.token:  # we had signalled it before
        return evolve(state, pursuit=pursuit)
    before, state = state.phase, budget.counted(desk, guard, state)
    if victim is state.nominee:
        return evolve(desk.to(state, "struck"), pursuit=pursuit)
    again = max(state.again_ns, desk.at + phases.SETTLE_NS)
    yields = before in ("armed", "firing")
    return evolve(desk.to(state, "yielded") if yields else state, again_ns=again)


def drain(desk: Desk, guard: Guard, state: TargetState, sight: Sight) -> TargetState:
    """The victim's next step to its end; to cooling when it is gone, on to the next one if it is stuck."""
    pursuit = state.pursuit
    assert pursuit is not None
    if _was_refused(desk, pursuit):
        return _yielded(desk, state)
    turn = _turn(desk, guard, pursuit, sight)
    if turn is None:
        return state
    after = escalate.advance(pursuit, turn, desk.at)
    if after.stage == "gone":
        first = pursuit.stage == "term" or pursuit.until_ns == pursuit.since_ns + escalate.PATIENCE_NS
        return _gone(desk, state, after, first)
    if after.stage == "stuck":
        return _stuck(desk, state, after, turn)
    if after.stage == "kill" and pursuit.stage == "term":
        token = pursuit.victim.token
        why = "did not end in its grace" if turn == "late" else "no time for its grace: twice as bad by now"
        desk.actions.append(Kill(state.id, token, "KILL", why))
        desk.actions.append(Reap(state.id, token))
    return evolve(state, pursuit=after)


def _was_refused(desk: Desk, pursuit: escalate.Pursuit) -> bool:
    """The dead man was faster by less than this turn has taken."""
    token = pursuit.victim.token
    return any(r.token == token and r.what == "Kill" and r.errno == EBUSY for r in desk.seen.results)


def _yielded(desk: Desk, state: TargetState) -> TargetState:
    """Our signal was not sent; that of the dead man is counted when its answer comes."""
    again = max(state.again_ns, desk.at + phases.SETTLE_NS)
    return evolve(desk.to(budget.not_counted(desk, state), "yielded"), pursuit=None, again_ns=again)


def _turn(desk: Desk, guard: Guard, pursuit: escalate.Pursuit, sight: Sight) -> escalate.Turn | None:
    token = pursuit.victim.token
    if any(gone.token == token for gone in desk.seen.gone):
        return "gone"
    for result in desk.seen.results:
        if result.token == token and result.errno and result.what in ("Kill", "Nominate"):
            return "gone" if result.errno == ESRCH else "failed"
    if desk.at >= pursuit.until_ns:
        return "late"
    if pursuit.stage == "term" and any_holds(guard.hard, sight, "deep"):
        return "deeper"
    return None


def _gone(desk: Desk, state: TargetState, pursuit: escalate.Pursuit, first: bool) -> TargetState:
    whom, token = who(pursuit.victim), pursuit.victim.token
    missed = {r.what for r in desk.seen.results if r.token == token and r.errno == ESRCH}
    if "Kill" in missed and first:  # the first signal met nobody: nothing was ended by us
        if "Nominate" not in missed:
            nominee.ban(desk, pursuit.victim)  # it was open, and yet nobody was there; if it is gone, nothing is lost
        desk.tell(state, "VICTIM_GONE", f"{whom} had ended by itself before the signal")
        state = evolve(budget.not_counted(desk, state), again_ns=0)
    else:
        took = (desk.at - pursuit.since_ns) // MS
        desk.tell(state, "VICTIM_GONE", f"{whom} is gone, {took} ms after the signal")
        state = evolve(state, ended=state.ended + 1)
    again = max(state.again_ns, desk.at + phases.SETTLE_NS)
    state = nominee.dismiss(desk, evolve(desk.to(state, "gone"), pursuit=None, again_ns=again))
    return lent.thaw(desk, lent.release(desk, state, "brake"))


def _stuck(desk: Desk, state: TargetState, pursuit: escalate.Pursuit, turn: escalate.Turn) -> TargetState:
    how = "could not be signalled" if turn == "failed" else "did not end in time and is left alone"
    desk.tell(state, "VICTIM_STUCK", f"{who(pursuit.victim)} {how}; the next one is taken")
    nominee.ban(desk, pursuit.victim)
    state = nominee.dismiss(desk, evolve(desk.to(state, "stuck"), pursuit=None))
    return lent.thaw(desk, lent.release(desk, state, "brake"))


def _overlaps(victim: Victim, cgroup: str) -> bool:
    """Whether the victim's end gives memory back to this cgroup."""
    if is_inside(victim.cgroup, cgroup) or (victim.take == "cgroup" and is_inside(cgroup, victim.cgroup)):
        return True
    return any(is_inside(process.cgroup, cgroup) for process in victim.processes)
