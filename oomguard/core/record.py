"""The flight recorder: every turn that mattered, and one a second of those that did not, fewer while nothing moves.

Two rings. The first holds turns as they were judged, surveys and all; a storm fills it in seconds. The second, the
minutes, holds no more than one thin observation a second whatever happens: the machine, the guarded cgroups, the
largest of all. A thin one has at most ``THIN`` bytes, so that the minutes are never less than two; of whom there is no
room in it, the next one tells.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from ..judge.state import TargetState
from ..model.codec import pack
from ..model.facts import Observation, Share, TargetId
from ..model.incident import Seed, Turn
from ..model.policy import Plan
from ..model.ring import THIN, Ring
from ..model.verdict import Action, Look, Mute, Notify, Outcome
from ..workers.pool import ring_bell

CALM_NS: Final = 1_000_000_000  # in calm, one observation a second is kept
SHARES: Final = 96  # guarded ones, what they lie in, and the largest of all; what has not been told by then is old

# A survey of 5,000 processes is 570 kB and more than a quarter of the default ring. Of such a one so many are kept.
CUTS: Final = (1000, 100, 10, 0)

_Targets = Mapping[TargetId, TargetState]


class Recorder:
    """Writes turns into the ring and rings the followers' bells when there is something to follow."""

    def __init__(self, ring: Ring, bells: tuple[int, ...], minutes: Ring | None = None) -> None:
        self.ring, self.bells, self.minutes = ring, bells, minutes
        self.number = 0
        self.dropped = 0  # turns that were too large for the ring, and cut
        self.last_ns = self.thin_ns = 0
        self._rest: tuple[Share, ...] = ()  # for whom there was no room in the last thin observation
        self.untold = 0  # bytes since the bells rang last

    def turn(
        self,
        before: _Targets,
        after: _Targets,
        seen: Observation,
        actions: tuple[Action, ...],
        outcomes: tuple[Outcome, ...],
        seed: Seed | None = None,
    ) -> None:
        """One turn of the loop. ``seed``: what the judge remembered before it, if it opened an incident."""
        self.number += 1
        self._minute(seen)
        moved = tuple(
            (target.guard, target.cgroup, state.phase)
            for target, state in after.items()
            if state is not (old := before.get(target)) and (old is None or old.phase != state.phase)
        )
        quiet = not actions and not moved and not _news(seen) and all(s.phase == "calm" for s in after.values())
        if quiet and seen.at_ns - self.last_ns < CALM_NS:
            return
        self.last_ns = seen.at_ns
        self._write(Turn(self.number, seen, actions, outcomes, moved, seed=seed))
        if _news(seen) or any(not isinstance(action, Look | Mute) for action in actions):
            self._ring()

    def keep(self, seen: Observation) -> None:
        """An observation of calm on which there was nothing to judge."""
        self.number += 1
        self.last_ns = seen.at_ns
        packed = pack(Turn(self.number, seen, (), ()))
        self._minute(seen, packed)
        if not self._append(packed):
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
        if self._append(pack(value)):
            return
        self.dropped += 1
        if isinstance(value, Turn):  # what was done must be known, whatever is left out of what was seen
            any(self.ring.append(pack(_cut_turn(value, most))) for most in CUTS)

    def _append(self, packed: bytes) -> bool:
        if not self.ring.append(packed):
            return False
        self.untold += len(packed)
        if self.untold > self.ring.size_bytes // 4:  # calm, but of very many cgroups: nobody may miss any of it
            self._ring()
        return True

    def _minute(self, seen: Observation, packed: bytes | None = None) -> None:
        """``packed``: all of it, as it is in the other ring; where that is thin enough it is not made twice."""
        if self.minutes is None or seen.at_ns - self.thin_ns < CALM_NS:
            return
        self.thin_ns = seen.at_ns
        if packed is not None and not self._rest and len(packed) <= THIN - 16:
            self.minutes.append(packed)
            return
        known = {share.cgroup for share in seen.shares}
        rest = (share for share in self._rest if share.cgroup not in known)
        cgroups, shares = seen.cgroups[:4], (*seen.shares, *rest)[:SHARES]
        told = shares
        while True:
            thin = Observation(seen.at_ns, (), seen.host, seen.pressure, cgroups=cgroups, shares=shares)
            packed = pack(Turn(self.number, thin, (), ()))
            if len(packed) <= THIN - 16 or not (cgroups or shares):
                break
            cgroups, shares = cgroups[: len(cgroups) // 2], shares[: len(shares) * 3 // 4]
        self._rest = told[len(shares) :]
        self.minutes.append(packed)

    def _ring(self) -> None:
        self.untold = 0
        for bell in self.bells:
            ring_bell(bell)


def _cut_turn(turn: Turn, most: int) -> Turn:
    seen = _cut(turn.seen, most)
    return replace(turn, seen=seen, cut=_facts(turn.seen) - _facts(seen), seed=turn.seed if most else None)


def _facts(seen: Observation) -> int:
    return len(seen.cgroups) + sum(len(survey.cgroups) + len(survey.processes) for survey in seen.surveys)


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
