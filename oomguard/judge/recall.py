"""What the judge remembered, put together again from what was recorded of it: ``state.seed`` the other way round.

Only a replay does that; the core never loads it.
"""

from dataclasses import fields, replace
from types import MappingProxyType
from typing import Any, Final

from ..model.facts import TargetId
from ..model.incident import Seed
from .escalate import Climb, Pursuit
from .state import KEPT, Ban, Held, Hold, State, TargetState, Verdict

FOREVER: Final = 1 << 62  # before bans ended by themselves
# What a record has as plain tuples. The others are values of the model, and stand there as they are.
_GROWN: Final[dict[str, type]] = {"pursuit": Pursuit, "verdict": Verdict, "hold": Hold}
_CLIMBS: Final = ("soft_climb", "hard_climb")


def recall(seed: Seed) -> State:
    """The memory that was told. What this version does not know is left out; what it alone knows begins anew."""
    targets = [_target(dict(zip(seed.names, values, strict=True))) for values in seed.targets]
    told = {name: getattr(seed, name) for name in KEPT} | {
        "ours": frozenset(seed.ours),
        "stuck": tuple(Ban(*(*ban, FOREVER, FOREVER)[:4]) for ban in seed.stuck),
        "struck": MappingProxyType({target: (number, at_ns) for target, number, at_ns in seed.struck}),
        "past": MappingProxyType(dict(seed.past)),
    }
    return State(targets=MappingProxyType({target.id: target for target in targets}), **told)


def joined(state: State, seed: Seed) -> State:
    """An incident of another target begins, or a new policy: from here on that is judged as well, or by that."""
    fresh = recall(seed)
    known = {target: known for target, known in state.targets.items() if target.guard not in seed.renewed}
    targets: dict[TargetId, TargetState] = {**state.targets, **fresh.targets, **known}
    past = {**state.past, **fresh.past}
    return replace(fresh, targets=MappingProxyType(targets), past=MappingProxyType(past), counters=state.counters)


def _target(values: dict[str, Any]) -> TargetState:
    known = {part.name for part in fields(TargetState)}
    told = {name: value for name, value in values.items() if name in known}
    told["leases"] = tuple(Held(*lease) for lease in told.get("leases", ()))
    for name, kind in _GROWN.items():
        told[name] = None if told.get(name) is None else kind(*told[name])
    for name in _CLIMBS:
        told[name] = Climb(*told.get(name, ()))
    told["uninsurable"] = frozenset(told.get("uninsurable", ()))
    return TargetState(**told)
