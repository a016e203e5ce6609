"""How many may be ended, and how many were: the guard's budget, the host's, and the cooldown."""

from ..model.policy import Budget, Guard
from . import shadow
from .desk import SECOND, Desk
from .detect import Sight, any_holds
from .state import TargetState, evolve


def why_not(desk: Desk, guard: Guard, state: TargetState) -> str:
    """Whose budget is spent, and until when; empty: none is."""
    ours = ("this guard's", guard.budget, state.kills)
    for whose, budget, kills in (ours, ("the host's", desk.budget, desk.spent)):
        free_ns = _free_again(budget, kills)
        if budget is not None and free_ns > desk.at:
            spent = f"{budget.kills} in {budget.per_ns / SECOND:g} s"
            return f"{whose} kill budget ({spent}) is spent for another {(free_ns - desk.at) / SECOND:.0f} s"
    return ""


def not_before(desk: Desk, guard: Guard, state: TargetState) -> int:
    """When cooldown and budgets allow the next kill."""
    return max(
        state.again_ns, state.rest_ns, _free_again(guard.budget, state.kills), _free_again(desk.budget, desk.spent)
    )


def rested_at(guard: Guard, kills: tuple[int, ...]) -> int:
    """When the cooldown after the last of these is over (ns); 0: there was none."""
    return kills[-1] + guard.cooldown_ns if kills and guard.mode == "enforce" else 0


def reaches(guard: Guard | None, kills: tuple[int, ...], at_ns: int) -> bool:
    """Whether the last of these counts for anything yet: the cooldown, or the budget."""
    if guard is None or not kills:
        return False
    per_ns = guard.budget.per_ns if guard.budget is not None else 0
    return at_ns < kills[-1] + max(guard.cooldown_ns, per_ns)


def rests(desk: Desk, guard: Guard, state: TargetState, sight: Sight) -> bool:
    """Whether whoever was ended before it was calm, or before this cgroup was made anew, is still being waited for."""
    return desk.at < state.rest_ns and not any_holds(guard.hard, sight, "deep")


def say_rest(desk: Desk, state: TargetState) -> TargetState:
    """A hard watermark at which nothing happens is told why."""
    left = (state.rest_ns - desk.at) / SECOND
    return desk.complain(state, "MEASURE", f"nothing is ended for another {left:.1f} s: the cooldown of the last kill")


def counted(desk: Desk, guard: Guard, state: TargetState) -> TargetState:
    """Somebody was signalled."""
    desk.counters = evolve(desk.counters, kills=desk.counters.kills + 1)
    shadow.done_by(desk, "policy", state.id.cgroup, f"{state.id.guard} killed")
    return spend(desk, guard, state)


def spend(desk: Desk, guard: Guard, state: TargetState) -> TargetState:
    """One more that counts for cooldown and budgets."""
    if guard.mode != "enforce":
        return state
    kept = () if guard.budget is None else state.kills[-(guard.budget.kills + 1) :]
    if desk.budget is not None:
        desk.spent = (*desk.spent[-(desk.budget.kills + 1) :], desk.at)
    return evolve(state, kills=(*kept, desk.at), again_ns=desk.at + guard.cooldown_ns)


def not_counted(desk: Desk, state: TargetState) -> TargetState:
    """The last kill was none."""
    desk.counters = evolve(desk.counters, kills=desk.counters.kills - 1)
    last = len(desk.spent) - 1 - desk.spent[::-1].index(state.kills[-1]) if state.kills[-1] in desk.spent else -1
    desk.spent = desk.spent if last < 0 else (*desk.spent[:last], *desk.spent[last + 1 :])
    return evolve(state, kills=state.kills[:-1])


def _free_again(budget: Budget | None, kills: tuple[int, ...]) -> int:
    """When this budget allows the next kill (ns); 0: it always did."""
    if budget is None or len(kills) < budget.kills:
        return 0
    return kills[-budget.kills] + budget.per_ns
