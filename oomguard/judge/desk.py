"""The working table of one turn: what is known, what is decided so far, and what all who judge at it share."""

from types import MappingProxyType
from typing import Final

from ..model.facts import Observation, TargetId
from ..model.policy import SHADOW, Plan, Watermark
from ..model.verdict import Action, Notify, Ranking, Snapshot, Victim, heads
from .detect import TABLE, Event, Sight, describe, mib
from .rank import Bounds
from .state import State, TargetState, evolve

MS: Final = 1_000_000
SECOND: Final = 1000 * MS

TELL_AGAIN_NS: Final = 30 * SECOND  # "nobody may be taken" and "budget spent" are said again after that
MACHINE: Final = "/"
_NOBODY: Final[MappingProxyType[TargetId, tuple[int, int]]] = MappingProxyType({})


class Desk:
    """One turn's; nothing of it outlives the turn."""

    def __init__(self, plan: Plan, state: State, seen: Observation) -> None:
        self.guards = {guard.name: guard for guard in plan.guards}
        self.seen = seen
        self.at = seen.at_ns
        self.before = state
        self.targets = state.targets.copy()  # not dict(): that hashes every key anew
        self.host = seen.host or state.host
        self.pressure = seen.pressure or state.pressure
        self.refaults = seen.refaults or state.refaults
        self.compressed = seen.compressed or state.compressed
        self.stuck = state.stuck
        self.budget, self.spent = plan.daemon.budget, state.spent
        self.token = state.next_token
        self.shadows = state.shadows
        self.incident = state.next_incident
        self.counters = state.counters
        self.past = state.past.copy()
        self.struck = state.struck.copy()
        self.actions: list[Action] = []
        self.fresh: set[TargetId] = set()
        self.news: set[TargetId] = set()

    def close(self) -> tuple[State, tuple[Action, ...]]:
        """The next state, and what is to be done."""
        state = evolve(
            self.before,
            targets=MappingProxyType(self.targets),
            stuck=self.stuck,
            spent=self.spent,
            host=self.host,
            pressure=self.pressure,
            refaults=self.refaults,
            compressed=self.compressed,
            next_token=self.token,
            next_incident=self.incident,
            shadows=self.shadows,
            counters=self.counters,
            renewed=(),
            past=MappingProxyType(self.past),
            struck=MappingProxyType(self.struck) if self.struck else _NOBODY,
        )
        return state, tuple(self.actions)

    def sight(self, state: TargetState) -> Sight:
        """What is known of this target."""
        assert self.host is not None
        pressure = self.pressure if state.facts is None else state.facts.pressure
        return Sight(
            self.at, self.host, state.facts, pressure, state.stalls, state.tracks, self.refaults, self.compressed
        )

    def to(self, state: TargetState, event: Event) -> TargetState:
        """Another phase, as ``detect.TABLE`` has it."""
        return evolve(state, phase=TABLE[state.phase, event], entered_ns=self.at)

    def open_incident(self, state: TargetState) -> int:
        """A number for what begins there; the one of the kernel's kill of a moment ago goes on."""
        number = self.struck.pop(state.id, (0, 0))[0]
        if not number and self.is_shadow(state.id):
            number = self.new_token(state.id)
        elif not number:
            number, self.incident = self.incident, self.incident + 1
        self.targets[state.id] = evolve(self.targets.get(state.id, state), incident=number)
        return number

    def is_shadow(self, target: TargetId) -> bool:
        return target.guard.startswith(SHADOW)

    def new_token(self, target: TargetId) -> int:
        """A name for what is to be done, in which its result will come back."""
        if self.is_shadow(target):
            self.shadows -= 1
            return self.shadows
        self.token += 1
        return self.token - 1

    def why(self, watermark: Watermark, clause: int, sight: Sight) -> str:
        """What of a clause holds, for people."""
        return ", ".join(describe(condition, sight) for condition in watermark.when[clause].all_of)

    def snapshot(self, state: TargetState, why: str, hard: bool) -> TargetState:
        """Have the evidence taken, into this target's incident."""
        number = state.incident or self.open_incident(state)
        if not self.is_shadow(state.id):
            self.counters = evolve(self.counters, snapshots=self.counters.snapshots + 1)
        self.actions.append(Snapshot(state.id, "hard" if hard else "soft", number, why))
        return evolve(state, incident=number, last_soft_ns=self.at)

    def tell(self, state: TargetState, message: str, text: str) -> None:
        """Tell people."""
        if message == "SHADOW" or not self.is_shadow(state.id):  # of a shadow, its verdicts alone
            self.actions.append(Notify(state.id, message, text))

    def bounds(self) -> Bounds:
        """Who is not to be named, whatever the policy says."""
        banned = frozenset((ban.pid, ban.start_ticks) for ban in self.stuck if ban.until_ns > self.at)
        return Bounds(self.before.ours, banned, self.before.own_cgroup)

    def complain(self, state: TargetState, message: str, text: str) -> TargetState:
        """Say why nothing is done, at once and every now and then."""
        if state.told_ns and self.at - state.told_ns < TELL_AGAIN_NS:
            return state
        self.tell(state, message, text)
        return evolve(state, told_ns=self.at)


def who(victim: Victim) -> str:
    """A victim, for people."""
    if victim.take == "cgroup" or not victim.processes:
        return f"{victim.cgroup} ({heads(victim.count)})"
    root = victim.processes[0]
    where = "below it" if victim.take == "subtree" else f"of its {victim.take.replace('_', ' ')}"
    more = f" and {victim.count - 1} {where}" if victim.count > 1 else ""
    return f"{root.comm}[{root.pid}]{more}"


def nobody(ranking: Ranking | None) -> str:
    """Why there is nobody to take, for people."""
    if ranking is None or not ranking.candidates:
        return "nobody holds memory that killing would free"
    first = ranking.candidates[0]
    return f"nobody may be killed; the largest, {first.what} with {mib(first.held_bytes)}: {first.why}"
