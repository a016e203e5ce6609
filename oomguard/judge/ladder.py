"""The list of actions of a watermark, climbed as far as it goes now. How it is climbed is ``escalate.LADDER``."""

from typing import Literal, assert_never

from ..model.policy import (
    Amount,
    FreezeStep,
    Guard,
    KillStep,
    NominateStep,
    NotifyStep,
    ReclaimStep,
    RunStep,
    SetHighStep,
    SetMaxStep,
    SetOomScoreAdjStep,
    SetSwapMaxStep,
    SnapshotStep,
    Step,
    TellStep,
    UnitStep,
    WaitStep,
    Watermark,
)
from ..model.verdict import Reclaim, Run, UnitJob
from . import budget, escalate, inform, lent, nominee
from .desk import MACHINE, SECOND, Desk, nobody
from .detect import Sight, any_holds, mib
from .state import Held, TargetState, evolve


def climb(desk: Desk, guard: Guard, state: TargetState, sight: Sight, mark: Watermark, clause: int) -> TargetState:
    """Do what is next in this watermark's list, up to a wait, a look that is needed first, or the list's end."""
    climb = _rested(desk, guard, state.soft_climb if mark is guard.soft else state.hard_climb, sight)
    told = mark is guard.soft and 0 < state.last_soft_ns < state.entered_ns  # in an engagement before this one
    quiet = told and state.told_lately(desk.at)
    why = desk.why(mark, clause, sight)
    while climb.stand == "climbing":
        if climb.next >= len(mark.do):
            climb = escalate.move(climb, escalate.ends(mark.do))
            break
        step = mark.do[climb.next]
        if isinstance(step, WaitStep):
            climb = escalate.move(escalate.done(climb), "wait", desk.at + step.for_ns)
            climb = _rested(desk, guard, climb, sight)
            continue
        if isinstance(step, FreezeStep | UnitStep) and state.nominee is None and state.survey_ns != desk.at:
            if not state.asked and desk.at >= state.missed_ns:
                state = nominee.look(desk, state, "heaviest")
            break  # whom to freeze is told by the next turn
        if isinstance(step, UnitStep) and budget.rests(desk, guard, state, sight):
            state = budget.say_rest(desk, state)
            break
        if isinstance(step, RunStep):
            climb = _run(desk, guard, state, step, climb, why)
            continue
        if isinstance(step, TellStep):
            state, climb = inform.inform(desk, guard, state, step, climb, why)
            continue
        state, climb = _step(desk, guard, state, sight, step, climb, "" if quiet else why)
    return evolve(state, soft_climb=climb) if mark is guard.soft else evolve(state, hard_climb=climb)


def _rested(desk: Desk, guard: Guard, climb: escalate.Climb, sight: Sight) -> escalate.Climb:
    """What was tried had its time, or needs none."""
    if climb.stand != "waiting":
        return climb
    if desk.at >= climb.until_ns:
        return escalate.move(climb, "late")
    if climb.hopes and not climb.tried:
        return escalate.move(climb, "vain")
    return escalate.move(climb, "deeper") if any_holds(guard.hard, sight, "deep") else climb


def _step(
    desk: Desk, guard: Guard, state: TargetState, sight: Sight, step: Step, climb: escalate.Climb, why: str
) -> tuple[TargetState, escalate.Climb]:
    """One action of a list. ``why`` is empty where this was told a moment ago: nothing is told or written again."""
    soft = state.phase == "armed"
    match step:
        case SnapshotStep():
            shadow = guard.mode == "shadow"
            state = desk.snapshot(state, why, hard=False) if soft and why and not shadow else state
        case NotifyStep():
            if soft and why:
                desk.tell(state, "SOFT", why)
        case NominateStep():
            state = nominee.look(desk, state, "heaviest") if soft else state
        case KillStep():
            state = evolve(state, grace_ns=step.grace_ns)
        case SetHighStep() | SetMaxStep() | SetSwapMaxStep() | SetOomScoreAdjStep():
            state = lent.set_step(desk, guard, state, sight, step)
        case ReclaimStep():
            return _reclaim(desk, guard, state, sight, step, climb)
        case FreezeStep():
            return _freeze(desk, guard, state, step, climb)
        case UnitStep():
            return _unit(desk, guard, state, step, climb)
        case WaitStep() | RunStep() | TellStep():
            raise AssertionError("the list itself sees to these")
        case _:
            assert_never(step)
    return state, escalate.done(climb)


def _reclaim(
    desk: Desk, guard: Guard, state: TargetState, sight: Sight, step: ReclaimStep, climb: escalate.Climb
) -> tuple[TargetState, escalate.Climb]:
    path, inode = (MACHINE, 0) if state.facts is None else (state.facts.path, state.facts.inode)
    if step.by_high:
        return _squeeze(desk, guard, state, sight, step), escalate.done(climb, hoped=state.facts is None)
    size = step.amount.of(sight.limit_bytes)
    token = desk.new_token(state.id)
    desk.actions.append(Reclaim(state.id, token, path, inode, size, desk.at + step.within_ns))
    _try(desk, guard, state, f"{mib(size)} of {path} is reclaimed")
    return state, escalate.done(climb, token)


def _squeeze(desk: Desk, guard: Guard, state: TargetState, sight: Sight, step: ReclaimStep) -> TargetState:
    """Without memory.reclaim (Linux 5.19): memory.high at what is left without so much, for that time."""
    facts = state.facts
    if facts is None:
        desk.tell(state, "MEASURE", "nothing is reclaimed: without memory.reclaim only a cgroup's memory could be")
        return state
    size = step.amount.of(sight.limit_bytes)
    _try(desk, guard, state, f"{mib(size)} of {facts.path} is reclaimed by memory.high")
    left = SetHighStep(Amount(bytes=max(lent.PAGE, facts.current_bytes - size)), step.within_ns)
    return lent.set_step(desk, guard, state, sight, left)


def _freeze(
    desk: Desk, guard: Guard, state: TargetState, step: FreezeStep, climb: escalate.Climb
) -> tuple[TargetState, escalate.Climb]:
    hold = state.hold
    if state.nominee is None or hold is None:
        desk.tell(state, "MEASURE", f"nobody is frozen: {nobody(state.ranking)}")
        return state, escalate.done(climb, hoped=True)
    if hold.why_not or not hold.inode:
        desk.tell(state, "MEASURE", f"{hold.path} is not frozen: {hold.why_not or 'it is no cgroup of its own'}")
        return state, escalate.done(climb, hoped=True)
    _try(desk, guard, state, f"{hold.path} is frozen for {step.for_ns / SECOND:g} s")
    if guard.mode != "enforce":
        return state, escalate.done(climb)
    token = lent.step_token(desk, state, hold.path, 0, "cgroup.freeze")
    lease = Held(token, "step", hold.path, hold.inode, 0, 1, desk.at + step.for_ns, "cgroup.freeze")
    lent.lend(desk, state.id, lease, 0)
    others = tuple(other for other in state.leases if other.token != token)
    return evolve(state, leases=(*others, lease)), escalate.done(climb, token)


def _run(
    desk: Desk, guard: Guard, state: TargetState, step: RunStep, climb: escalate.Climb, why: str
) -> escalate.Climb:
    token = desk.new_token(state.id)
    mark: Literal["soft", "hard"] = "soft" if state.phase == "armed" else "hard"
    desk.actions.append(Run(state.id, token, step.argv, step.user, step.deadline_ns, mark, why))
    _try(desk, guard, state, f"{step.argv[0]} is run")
    return escalate.done(climb, token)


def _unit(
    desk: Desk, guard: Guard, state: TargetState, step: UnitStep, climb: escalate.Climb
) -> tuple[TargetState, escalate.Climb]:
    """It ends a service's processes, so it counts as a kill, for every budget."""
    hold = state.hold
    done = "restarted" if step.verb == "restart" else "stopped"
    if hold is None or state.nominee is None:
        why = f"no unit is {done}: {nobody(state.ranking)}"
    elif hold.unit_why_not:
        why = f"{hold.unit or hold.path} is not {done}: {hold.unit_why_not}"
    elif step.verb == "restart" and not hold.unit.endswith(".service"):
        why = f"{hold.unit} is not restarted: what somebody else has started cannot be started again"
    else:
        why = budget.why_not(desk, guard, state) if guard.mode == "enforce" else ""
        if not why:
            token = desk.new_token(state.id)
            desk.actions.append(UnitJob(state.id, token, step.verb, hold.unit, hold.path))
            _try(desk, guard, state, f"{hold.unit} is {done}")
            return budget.spend(desk, guard, state), escalate.done(climb, token)
        state = desk.complain(state, "BUDGET_SPENT", f"{why}: {hold.unit} is not {done}")
        return state, escalate.done(climb, hoped=True)
    desk.tell(state, "MEASURE", why)
    return state, escalate.done(climb, hoped=True)


def _try(desk: Desk, guard: Guard, state: TargetState, text: str) -> None:
    """Say what is tried before anybody is killed."""
    desk.tell(state, "MEASURE", text if guard.mode == "enforce" else f"would have been done: {text}")
