"""Telling programs to give memory back: when, and when again. Who they are is the broker's to know."""

from typing import Final, Literal

from ..model.policy import Guard, TellStep, Watermark
from ..model.verdict import Tell
from . import escalate
from .desk import SECOND, Desk
from .detect import Sight
from .state import TargetState, evolve

ONCE_NS: Final = 60 * SECOND  # what is told once an engagement is not told once a second where memory comes and goes

_Mark = Literal["soft", "hard"]


def inform(
    desk: Desk, guard: Guard, state: TargetState, step: TellStep, climb: escalate.Climb, why: str
) -> tuple[TargetState, escalate.Climb]:
    """The step of a list. Nobody is told who was told a moment ago, in an engagement before this one."""
    mark: _Mark = "soft" if state.phase == "armed" else "hard"
    last = state.tell_soft_ns if mark == "soft" else state.tell_hard_ns
    if last and desk.at - last < (step.every_ns or ONCE_NS):
        return state, escalate.done(climb)
    text = "whoever listens is told to give memory back"
    desk.tell(state, "MEASURE", text if guard.mode == "enforce" else f"would have been done: {text}")
    token = desk.new_token(state.id)
    return _told(desk, state, step, mark, why, token), escalate.done(climb, token)


def again(
    desk: Desk, guard: Guard, state: TargetState, sight: Sight, soft: int | None, hard: int | None
) -> TargetState:
    """While a watermark holds at which they were told: they may have more to give by now."""
    if state.phase == "calm":
        return state
    marks: tuple[tuple[_Mark, Watermark | None, int | None, int, int], ...] = (
        ("soft", guard.soft, soft, state.soft_climb.next, state.tell_soft_ns),
        ("hard", guard.hard, hard, state.hard_climb.next, state.tell_hard_ns),
    )
    for name, mark, clause, climbed, last in marks:
        if mark is None or clause is None or not last:
            continue
        step = next((step for step in mark.do[:climbed] if isinstance(step, TellStep)), None)
        if step is not None and step.every_ns and desk.at - last >= step.every_ns:
            state = _told(desk, state, step, name, desk.why(mark, clause, sight), desk.new_token(state.id))
    return state


def _told(desk: Desk, state: TargetState, step: TellStep, mark: _Mark, why: str, token: int) -> TargetState:
    desk.actions.append(Tell(state.id, token, mark, step.to, why))
    return evolve(state, tell_soft_ns=desk.at) if mark == "soft" else evolve(state, tell_hard_ns=desk.at)
