"""The flight recorder: every turn that mattered, and one a second of those that did not."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from ..judge.state import TargetState
from ..model.codec import pack
from ..model.facts import Observation, TargetId
from ..model.incident import Turn
from ..model.policy import Plan
from ..model.verdict import Action, Look, Mute, Notify, Outcome
from ..workers.pool import ring_bell
from ..workers.ring import Ring

CALM_NS: Final = 1_000_000_000  # in calm, one observation a second is kept

# A survey of 5,000 processes is 570 kB and more than a quarter of the default ring. Of such a one so many are kept.
CUTS: Final = (1000, 100, 10, 0)

_Targets = Mapping[TargetId, TargetState]


class Recorder:
    """Writes turns into the ring and rings the followers' bells when there is something to follow."""

    def __init__(self, ring: Ring, bells: tuple[int, ...]) -> None:
        self.ring, self.bells = ring, bells
        self.number = 0
        self.dropped = 0  # turns that were too large for the ring, and cut
        self.last_ns = 0

    def turn(
        self,
        before: _Targets,
        after: _Targets,
        seen: Observation,
        actions: tuple[Action, ...],
        outcomes: tuple[Outcome, ...],
    ) -> None:
        """One turn of the loop."""
        self.number += 1
        moved = tuple(
            (target.guard, target.cgroup, state.phase)
            for target, state in after.items()
            if state is not (old := before.get(target)) and (old is None or old.phase != state.phase)
        )
        quiet = not actions and not moved and not _news(seen) and all(s.phase == "calm" for s in after.values())
        if quiet and seen.at_ns - self.last_ns < CALM_NS:
            return
        self.last_ns = seen.at_ns
        self._write(Turn(self.number, seen, actions, outcomes, moved))
        if _news(seen) or any(not isinstance(action, Look | Mute) for action in actions):
            self._ring()

    def keep(self, seen: Observation) -> None:
        """An observation of calm on which there was nothing to judge."""
        self.number += 1
        self.last_ns = seen.at_ns
        self._write(Turn(self.number, seen, (), ()))

    def plan(self, plan: Plan) -> None:
        """The followers shall go by this plan from now on."""
        self._write(plan)
        self._ring()

    def say(self, message: str, text: str, at_ns: int) -> None:
        """Something of the daemon's own, without a target: started, reloaded, degraded."""
        self.number += 1
        self._write(Turn(self.number, Observation(at_ns), (Notify(TargetId("", ""), message, text),), ()))
        self._ring()

    def _write(self, value: Turn | Plan) -> None:
        if self.ring.append(pack(value)):
            return
        self.dropped += 1
        if isinstance(value, Turn):  # what was done must be known, whatever is left out of what was seen
            any(self.ring.append(pack(replace(value, seen=_cut(value.seen, most)))) for most in CUTS)

    def _ring(self) -> None:
        for bell in self.bells:
            ring_bell(bell)


def _cut(seen: Observation, most: int) -> Observation:
    """The same with the ``most`` heaviest of all that a survey has found."""
    surveys = tuple(
        replace(
            survey,
            cgroups=tuple(sorted(survey.cgroups, key=lambda facts: -facts.current_bytes)[:most]),
            processes=tuple(sorted(survey.processes, key=lambda process: -process.held_bytes)[:most]),
        )
        for survey in seen.surveys
    )
    return replace(seen, surveys=surveys, cgroups=seen.cgroups[:most])


def _news(seen: Observation) -> bool:
    return bool(seen.gone or seen.results or seen.kernel_kills)
