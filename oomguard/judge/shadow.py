"""Verdicts that are not carried out, of shadows and of guards that only observe, and what became of them."""

from dataclasses import replace

from ..model.facts import TargetId
from ..model.policy import Guard
from ..model.verdict import Score
from .desk import SECOND, Desk
from .detect import Sight, crossed
from .glob import is_inside
from .state import TargetState, evolve


def foreshadow(desk: Desk, guard: Guard, state: TargetState, sight: Sight, text: str) -> TargetState:
    """A shadow's verdict: in the incident of the policy in force if that has acted, else in one of its own."""
    said = f"{state.id.guard} would have killed {text}"
    acted = _in_force(desk, state, acted=True)
    for other in acted:
        desk.tell(other, "SHADOW", said)
    if not acted:
        mark, began = (guard.soft, state.soft_since) if state.by_soft else (guard.hard, state.hard_since)
        clause = crossed(mark, began, desk.at)
        why = desk.why(mark, clause, sight) if mark is not None and clause is not None else ""
        state = desk.snapshot(state, why, hard=True)
        desk.tell(state, "SHADOW", f"would have killed {text}; the policy in force has not acted")
    return state


def _in_force(desk: Desk, shadow: TargetState, acted: bool) -> list[TargetState]:
    """Guards in force of the same memory; those with an open incident that their hard watermark is in."""
    return [
        other
        for other in desk.targets.values()
        if not desk.is_shadow(other.id) and (other.hard_told or not acted) and _shares(other.id, shadow.id)
    ]


def done_by(desk: Desk, who: str, cgroup: str, text: str) -> None:
    """Somebody has ended something: whoever has only said that he would have remembers it."""
    for target, state in desk.targets.items():
        verdict = state.verdict
        if verdict is None or not _shares(TargetId("", cgroup), target):
            continue
        if who == "kernel" and not verdict.kernel[0]:
            desk.targets[target] = evolve(state, verdict=replace(verdict, kernel=(desk.at, text)))
        elif who == "policy" and not verdict.policy[0]:
            desk.targets[target] = evolve(state, verdict=replace(verdict, policy=(desk.at, text)))


def scored(desk: Desk, state: TargetState, ended: str) -> tuple[str, Score | None]:
    """How the engagement ended, for people; and what became of a verdict that was not carried out."""
    verdict = state.verdict
    if verdict is None:
        return ended, None
    (kernel_ns, whom), (policy_ns, which) = verdict.kernel, verdict.policy
    score = Score("itself", desk.at - verdict.at_ns, verdict.what)
    what = f"it was over {score.after_ns / SECOND:.1f} s later by itself"
    if kernel_ns and not 0 < policy_ns < kernel_ns:
        score = replace(score, ended_by="kernel", after_ns=kernel_ns - verdict.at_ns)
        what = f"the kernel's OOM killer ended {whom} {score.after_ns / SECOND:.1f} s later"
    elif policy_ns:
        score = replace(score, ended_by="policy", after_ns=policy_ns - verdict.at_ns)
        what = f"{which} {score.after_ns / SECOND:.1f} s later"
    text = f"would have killed {verdict.what}; {what}"
    if desk.is_shadow(state.id):
        others = [other for other in _in_force(desk, state, acted=False) if other.incident]
        for other in others or [state]:
            desk.tell(other, "SHADOW", text if other is state else f"{state.id.guard} {text}")
    return f"{text}; {ended}", score


def _shares(one: TargetId, other: TargetId) -> bool:
    """Whether what is freed in one of them is had back in the other."""
    return is_inside(one.cgroup, other.cgroup) or is_inside(other.cgroup, one.cgroup)
