"""The judge: ``decide(plan, state, seen) -> (state, actions)``. The same fold serves the daemon and replay.

A turn goes: facts into memory (what came, went, answered), then every target of which there is news is judged:
conditions, phase, what to do in that phase, when to look again. Nothing here knows a clock but ``seen.at_ns``.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final, Literal, assert_never

from ..model.facts import CgroupFacts, Observation, Result, Survey, TargetId
from ..model.policy import (
    SHADOW,
    AvailableBelow,
    Budget,
    FreezeStep,
    Guard,
    KillStep,
    LimitStep,
    MemoryAbove,
    NominateStep,
    NotifyStep,
    Plan,
    ReclaimStep,
    RunStep,
    SetHighStep,
    SetMaxStep,
    SetOomScoreAdjStep,
    SetSwapMaxStep,
    SnapshotStep,
    StallAbove,
    Step,
    UnitStep,
    WaitStep,
    Watermark,
)
from ..model.verdict import (
    Action,
    Close,
    Dismiss,
    Kill,
    Lease,
    LeaseFile,
    Look,
    Mute,
    Nominate,
    Notify,
    ProcessRef,
    Ranking,
    Reap,
    Reclaim,
    Release,
    Run,
    Score,
    Snapshot,
    UnitJob,
    Victim,
)
from . import escalate, pace
from .detect import TABLE, Event, Sight, any_holds, crossed, describe, mib, since
from .glob import is_inside
from .match import unit_path
from .measure import looks_back, remembered
from .rank import UNITS, Bounds, is_corridor, is_outweighed, rank, why_no_unit, why_not_whole
from .state import Ban, Held, Hold, State, TargetState, Verdict, evolve
from .trend import follow, span, tracked

MS: Final = 1_000_000
SECOND: Final = 1000 * MS

CLEAR_FOR_NS: Final = SECOND  # clearly over for so long, before a phase is left for calm
SOFT_QUIET_NS: Final = 60 * SECOND  # a service that hovers at its soft watermark makes one incident a minute at most
SETTLE_NS: Final = 300 * MS  # after a death, before "twice as bad as hard" may cut the cooldown short
STALE_NS: Final = SECOND  # an older nomination is made anew before anybody is killed
STALE_TURNS: Final = 2  # but not one that is as new as slow surveys allow
REFRESH_NS: Final = 100 * MS  # shortest time between two surveys while armed
REFRESH_SHARE: Final = 8  # surveys take at most one eighth of the time
STRUCK_QUIET_NS: Final = 60 * SECOND  # a service whose restarts the kernel kills makes one incident, until it pauses
TELL_AGAIN_NS: Final = 30 * SECOND  # "nobody may be taken" and "budget spent" are said again after that
BAN_NS: Final = (60 * SECOND, 3600 * SECOND)  # the first one, and the longest
WEIGHED_NS: Final = 5 * SECOND  # between two times that are remembered of what units weigh
WEIGHED_MOST: Final = 64  # units of each
UNSEEN_NS: Final = 100 * MS  # a target without facts, or whose survey did not come, is asked for again after that
AFTER_NS: Final = SECOND  # nobody was there to take: look again for one after that
ESRCH: Final = 3
EBUSY: Final = 16

# The tripwire lies this much under the hard watermark: the kernel charges in batches of 64 pages per CPU, so that
# memory.current runs ahead of use by that; and what crosses the tripwire must still reach the watermark, throttled.
TRIPWIRE_SHARE: Final = 128  # one 128th of the limit
TRIPWIRE_MIN: Final = 1 << 20
MUTE_NS: Final = (100 * MS, 2 * SECOND)
HEARD_NS: Final = 50 * MS  # listened to again for so long before a deadline: what is at its tripwire speaks first
BRAKE_SLACK: Final = 16 << 20  # left to the nominee at least, lest a brake on an old number stops it at once
BRAKE_STEP: Final = 4 << 20  # a brake is moved only for more than this
PAGE: Final = 4096
# What the kernel's killer prefers to everything else that has not asked for it itself (mm/oom_kill.c: 1000 counts as
# much as all memory). Of a nominee with many processes the largest few: it takes one at a time, and ours is to be first
# and second, not all of a fork bomb; each of them is a lease, and a walk over /proc when it ends.
INSURED_ADJ: Final = 1000
INSURED_MOST: Final = 4

_MACHINE: Final = "/"
_NOBODY: Final[Mapping[TargetId, tuple[int, int]]] = MappingProxyType({})
_LIMIT_FILES: Final[dict[type, LeaseFile]] = {
    SetHighStep: "memory.high",
    SetMaxStep: "memory.max",
    SetSwapMaxStep: "memory.swap.max",
}


def begin(ours: Iterable[int], own_cgroup: str) -> State:
    """The state before the first observation: our own pids, and our cgroup ("" where others live in it too)."""
    return State(ours=frozenset(ours), own_cgroup=own_cgroup)


def decide(plan: Plan, state: State, seen: Observation) -> tuple[State, tuple[Action, ...]]:
    """One turn. Pure: the same plan, state and observation give the same state and actions."""
    desk = _Desk(plan, state, seen)
    desk.remember()
    desk.judge()
    return desk.close()


class _Desk:
    """The working table of one turn; nothing of it outlives the turn."""

    def __init__(self, plan: Plan, state: State, seen: Observation) -> None:
        self.guards = {guard.name: guard for guard in plan.guards}
        self.seen = seen
        self.at = seen.at_ns
        self.before = state
        self.targets = dict(state.targets)
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
        self.past = dict(state.past)
        self.struck = dict(state.struck)
        self.actions: list[Action] = []
        self.fresh: set[TargetId] = set()
        self.news: set[TargetId] = set()

    def close(self) -> tuple[State, tuple[Action, ...]]:
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
            past=MappingProxyType(self.past),
            struck=MappingProxyType(self.struck) if self.struck else _NOBODY,
        )
        return state, tuple(self.actions)

    # -- facts into memory ---------------------------------------------------------------------------------------

    def remember(self) -> None:
        seen = self.seen
        for target in (*seen.vanished, *(t for t in self.targets if t.guard not in self.guards)):
            self._vanish(target)
        for new in seen.appeared:
            if new.target.guard in self.guards:
                self._appear(new.target, None if new.target.cgroup == _MACHINE else new.facts)
        for result in seen.results:
            self._unleased(result)
            if result.errno:
                self._in_vain(result.token)
        self._see()
        for stall in seen.stalls:
            if stall.target in self.targets:
                self._stall(stall.target, stall.condition)
        self.news |= {survey.target for survey in seen.surveys}
        if any(result.what == "Deadman" for result in seen.results):
            self.news |= self.targets.keys()
        for kill in seen.kernel_kills:
            self._kernel_killed(kill.cgroup, kill.count, kill.comm, kill.pid)
        if self.struck:
            self._quieten()

    def _see(self) -> None:
        seen, by_path = self.seen, {facts.path: facts for facts in self.seen.cgroups}
        for target in tuple(self.targets):
            if target.cgroup == _MACHINE:
                if seen.host is not None:
                    self.fresh.add(target)
            elif target.cgroup in by_path:
                self._renew(target, by_path[target.cgroup])

    def _appear(self, target: TargetId, facts: CgroupFacts | None) -> None:
        self._vanish(target)  # as another directory under the same path; it is no more
        kills = self.past.pop(target, ())
        self.targets[target] = TargetState(target, entered_ns=self.at, facts=facts, look_ns=self.at, kills=kills)
        self.fresh.add(target)
        self._tripwire(self.targets[target])

    def _vanish(self, target: TargetId) -> None:
        old = self.targets.pop(target, None)
        if old is None:
            return
        if old.kills:
            self.past[target] = old.kills  # a budget is for a name: a service that was killed comes back
        outcome = "the cgroup is gone, or no longer under this guard"
        if old.pursuit is not None:
            outcome = f"the victim is gone: {_who(old.pursuit.victim)}, and the cgroup with it"
            self._tell(old, "VICTIM_GONE", outcome)
        for lease in old.leases:
            self.actions.append(Release(target, lease.token))
        if old.nominee is not None:
            self.actions.append(Dismiss(target, old.nominee.token))
        if old.incident:
            outcome, score = self._scored(old, outcome)
            self.actions.append(Close(target, old.incident, outcome, score))

    def _unleased(self, result: Result) -> None:
        """A lease that could not be written: nobody may rely on it, and what the journal holds of it can go."""
        if result.what != "Lease" or not result.errno:
            return
        for target, state in self.targets.items():
            if any(lease.token == result.token for lease in state.leases):
                self.actions.append(Release(target, result.token))
                leases = tuple(lease for lease in state.leases if lease.token != result.token)
                bare = frozenset(x.pid for x in state.leases if x.token == result.token and x.purpose == "insurance")
                self.targets[target] = evolve(state, leases=leases, uninsurable=state.uninsurable | bare)

    def _in_vain(self, token: int) -> None:
        """What a list has tried could not be done: it is not waited for."""
        for target, state in self.targets.items():
            if token in state.soft_climb.tried or token in state.hard_climb.tried:
                soft, hard = escalate.failed(state.soft_climb, token), escalate.failed(state.hard_climb, token)
                self.targets[target] = evolve(state, soft_climb=soft, hard_climb=hard)
                self.news.add(target)

    def _renew(self, target: TargetId, facts: CgroupFacts) -> None:
        old = self.targets[target]
        if old.facts is not None and old.facts.inode != facts.inode:
            self._appear(target, facts)
            return
        limits = (facts.limit_bytes, facts.high_bytes)
        moved = old.facts is not None and (old.facts.limit_bytes, old.facts.high_bytes) != limits
        self.targets[target] = evolve(old, facts=facts)
        self.fresh.add(target)
        if moved:
            self._tripwire(self.targets[target])

    def _stall(self, target: TargetId, number: int) -> None:
        old = self.targets[target]
        window = next(
            (stall.window_us * 1000 for stall in _stalls(self.guards[target.guard]) if stall.number == number), 0
        )
        others = tuple(stall for stall in old.stalls if stall[0] != number and stall[1] > self.at)
        self.targets[target] = evolve(old, stalls=(*others, (number, self.at + window)))
        self.news.add(target)

    def _kernel_killed(self, cgroup: str, count: int, comm: str, pid: int) -> None:
        self.counters = evolve(self.counters, kernel_oom_kills=self.counters.kernel_oom_kills + count)
        who = f"{comm}[{pid}]" if comm else f"{count} process(es)"
        self._done_by("kernel", cgroup, who)
        covering = [t for t in self.targets if is_inside(cgroup, t.cgroup) and not self._is_shadow(t)]
        if not covering:
            return
        target = max(covering, key=lambda t: len(t.cgroup))
        state = self.targets[target]
        text = f"the kernel's OOM killer ended {who} in {cgroup}"
        number = state.incident or self._open(state)
        self.actions.append(Snapshot(target, "kernel", number, text))
        self.actions.append(Notify(target, "KERNEL_KILLED", text))
        if state.phase == "calm":  # one that is started again and killed again, all night, is one incident
            self.struck[target] = (number, self.at)
            self.targets[target] = evolve(self.targets[target], incident=0)
        self.news.add(target)

    def _quieten(self) -> None:
        """The kernel has not struck there for a while: what it did is told."""
        for target, (number, at_ns) in tuple(self.struck.items()):
            if self.at - at_ns >= STRUCK_QUIET_NS or target.guard not in self.guards:
                del self.struck[target]
                self.actions.append(Close(target, number, "no watermark of this guard was crossed before"))

    # -- judgement -----------------------------------------------------------------------------------------------

    def judge(self) -> None:
        called = self.fresh | self.news | self._answered()
        # A target at rest is judged when something was seen of it: its deadline may have been put off.
        due = [
            t
            for t, s in self.targets.items()
            if t in called or s.pursuit is not None or (s.look_ns <= self.at and not (s.glance_bytes or s.quiet_bytes))
        ]
        for target in sorted(due, key=lambda t: (-len(t.cgroup), t)):  # the innermost guard first
            state = self.targets[target]
            if self.host is not None and (target.cgroup == _MACHINE or state.facts is not None):
                self._judge(self.guards[target.guard], state)
            else:
                self.targets[target] = evolve(state, look_ns=self.at + UNSEEN_NS)

    def _answered(self) -> set[TargetId]:
        tokens = {result.token for result in self.seen.results}
        return {t for t, s in self.targets.items() if s.nominee is not None and s.nominee.token in tokens}

    def _sight(self, state: TargetState) -> Sight:
        assert self.host is not None
        pressure = self.pressure if state.facts is None else state.facts.pressure
        return Sight(
            self.at, self.host, state.facts, pressure, state.stalls, state.tracks, self.refaults, self.compressed
        )

    def _follow(self, guard: Guard, state: TargetState, sight: Sight) -> tuple[TargetState, Sight]:
        """What some conditions have to know of what was before, and to what it has come."""
        tracks = []
        for condition in tracked(guard):
            track, value = sight.track(condition.number), sight.value(condition)
            if value is not None and (not track or track[-1][0] < self.at):
                track = follow(track, self.at, value, span(condition))
            tracks.append((condition.number, track))
        state = evolve(state, tracks=tuple(tracks))
        return state, self._sight(state)

    def _judge(self, guard: Guard, state: TargetState) -> None:
        sight = self._sight(state)
        if state.id in self.fresh and tracked(guard):
            state, sight = self._follow(guard, state, sight)
        state = self._measure(guard, state, sight)
        soft = crossed(guard.soft, state.soft_since, self.at)
        hard = crossed(guard.hard, state.hard_since, self.at)
        state = self._expire(self._lost_nominee(self._deadman(guard, state)))
        survey = next((s for s in self.seen.surveys if s.target == state.id), None)
        if survey is not None:
            state = evolve(state, asked="", survey_ns=self.at, survey_took_ns=survey.took_ns)
            state = self._nominate(guard, state, survey, sight)
        elif state.asked:
            state = evolve(state, asked="", missed_ns=self.at + UNSEEN_NS)
        if state.phase == "draining":
            state = self._drain(guard, state, sight)
        state = self._move(guard, state, sight, soft, hard)
        if state.phase == "firing":
            state = self._fire(guard, state, sight, survey, hard)
        if state.phase == "armed":
            state = self._refresh(guard, state)
        state = self._mute(guard, state, sight)
        look_ns = self.at + pace.next_look(guard, state, sight, state.tripped)
        if state.tripped and state.muted_ns > self.at:
            look_ns = max(look_ns, state.muted_ns + HEARD_NS)
        self.targets[state.id] = evolve(
            state,
            look_ns=look_ns,
            glance_bytes=pace.glance(guard, state, sight),
            quiet_bytes=pace.quiet(guard, state, sight),
        )

    def _measure(self, guard: Guard, state: TargetState, sight: Sight) -> TargetState:
        if state.id not in self.fresh:
            return state
        # In calm there is nothing to be clear of, and calm turns are nearly all.
        over = state.phase == "calm" or any_holds(guard.soft, sight, "clear") or any_holds(guard.hard, sight, "clear")
        return evolve(
            state,
            soft_since=since(guard.soft, sight, state.soft_since),
            hard_since=since(guard.hard, sight, state.hard_since),
            clear_since_ns=0 if over else state.clear_since_ns or self.at,
            falling_ns=self.at if sight.used_bytes > state.used_bytes else state.falling_ns,
            used_bytes=sight.used_bytes,
        )

    def _move(self, guard: Guard, state: TargetState, sight: Sight, soft: int | None, hard: int | None) -> TargetState:
        clear = bool(state.clear_since_ns) and self.at - state.clear_since_ns >= CLEAR_FOR_NS
        if clear and hard is None and state.phase not in ("calm", "draining"):
            return self._calm(state)
        match state.phase:
            case "calm" | "armed":
                if hard is not None:
                    return self._enter_hard(guard, state, sight, hard)
                if soft is not None and state.phase == "calm":
                    return self._arm(guard, state, sight, soft)
                if soft is not None:
                    return self._climb_soft(guard, state, sight, soft)
            case "firing":
                if hard is None and (soft is None or not _kills(guard.soft)):
                    return self._to(state, "eased")
            case "cooling":
                if hard is not None and self._may_again(guard, state, sight):
                    return self._enter_hard(guard, state, sight, hard)
                if hard is None and self.at >= state.again_ns:
                    return self._to(state, "cooled")
            case "draining":
                pass
        return state

    def _to(self, state: TargetState, event: Event) -> TargetState:
        return evolve(state, phase=TABLE[state.phase, event], entered_ns=self.at)

    def _may_again(self, guard: Guard, state: TargetState, sight: Sight) -> bool:
        if guard.mode != "enforce":
            return False  # the world did not follow our verdict: one verdict an engagement
        if self.at >= state.again_ns:
            return True
        settled = self.at - state.entered_ns >= SETTLE_NS
        return settled and state.ended > 0 and any_holds(guard.hard, sight, "deep")

    # -- phases --------------------------------------------------------------------------------------------------

    def _open(self, state: TargetState) -> int:
        number = self.struck.pop(state.id, (0, 0))[0]
        if not number and self._is_shadow(state.id):
            number = self._new_token(state.id)
        elif not number:
            number, self.incident = self.incident, self.incident + 1
        self.targets[state.id] = evolve(self.targets.get(state.id, state), incident=number)
        return number

    def _is_shadow(self, target: TargetId) -> bool:
        return target.guard.startswith(SHADOW)

    def _new_token(self, target: TargetId) -> int:
        if self._is_shadow(target):
            self.shadows -= 1
            return self.shadows
        self.token += 1
        return self.token - 1

    def _why(self, watermark: Watermark, clause: int, sight: Sight) -> str:
        return ", ".join(describe(condition, sight) for condition in watermark.when[clause].all_of)

    def _snapshot(self, state: TargetState, why: str, hard: bool) -> TargetState:
        number = state.incident or self._open(state)
        if not self._is_shadow(state.id):
            self.counters = evolve(self.counters, snapshots=self.counters.snapshots + 1)
        self.actions.append(Snapshot(state.id, "hard" if hard else "soft", number, why))
        return evolve(state, incident=number, last_soft_ns=self.at)

    def _tell(self, state: TargetState, message: str, text: str) -> None:
        if message == "SHADOW" or not self._is_shadow(state.id):  # of a shadow, its verdicts alone
            self.actions.append(Notify(state.id, message, text))

    def _arm(self, guard: Guard, state: TargetState, sight: Sight, clause: int) -> TargetState:
        assert guard.soft is not None
        return self._climb_soft(guard, evolve(self._to(state, "soft"), soft_climb=escalate.AT_THE_FOOT), sight, clause)

    def _climb_soft(self, guard: Guard, state: TargetState, sight: Sight, clause: int) -> TargetState:
        """As far up soft's list as it goes now; on to its kill, if it has one and that is reached."""
        mark = guard.soft
        assert mark is not None
        if state.soft_climb.stand != "over":
            state = self._climb(guard, state, sight, mark, clause)
        if state.soft_climb.stand == "aiming":
            return self._enter_hard(guard, state, sight, clause, mark)
        return state

    def _climb(self, guard: Guard, state: TargetState, sight: Sight, mark: Watermark, clause: int) -> TargetState:
        """Do what is next in this watermark's list, up to a wait, a look that is needed first, or the list's end."""
        climb = self._rested(guard, state.soft_climb if mark is guard.soft else state.hard_climb, sight)
        told = mark is guard.soft and 0 < state.last_soft_ns < state.entered_ns  # in an engagement before this one
        quiet = told and self.at - state.last_soft_ns < SOFT_QUIET_NS
        why = self._why(mark, clause, sight)
        while climb.stand == "climbing":
            if climb.next >= len(mark.do):
                climb = escalate.move(climb, escalate.ends(mark.do))
                break
            step = mark.do[climb.next]
            if isinstance(step, WaitStep):
                climb = escalate.move(escalate.done(climb), "wait", self.at + step.for_ns)
                climb = self._rested(guard, climb, sight)
                continue
            if isinstance(step, FreezeStep | UnitStep) and state.nominee is None and state.survey_ns != self.at:
                if not state.asked and self.at >= state.missed_ns:
                    state = self._look(state, "heaviest")
                break  # whom to freeze is told by the next turn
            if isinstance(step, RunStep):
                climb = self._run(guard, state, step, climb, why)
                continue
            state, climb = self._step(guard, state, sight, step, climb, "" if quiet else why)
        return evolve(state, soft_climb=climb) if mark is guard.soft else evolve(state, hard_climb=climb)

    def _rested(self, guard: Guard, climb: escalate.Climb, sight: Sight) -> escalate.Climb:
        """What was tried had its time, or needs none."""
        if climb.stand != "waiting":
            return climb
        if self.at >= climb.until_ns:
            return escalate.move(climb, "late")
        if climb.hopes and not climb.tried:
            return escalate.move(climb, "vain")
        return escalate.move(climb, "deeper") if any_holds(guard.hard, sight, "deep") else climb

    def _step(
        self, guard: Guard, state: TargetState, sight: Sight, step: Step, climb: escalate.Climb, why: str
    ) -> tuple[TargetState, escalate.Climb]:
        """One action of a list. ``why`` is empty where this was told a moment ago: nothing is told or written again."""
        soft = state.phase == "armed"
        match step:
            case SnapshotStep():
                shadow = guard.mode == "shadow"
                state = self._snapshot(state, why, hard=False) if soft and why and not shadow else state
            case NotifyStep():
                if soft and why:
                    self._tell(state, "SOFT", why)
            case NominateStep():
                state = self._look(state, "heaviest") if soft else state
            case KillStep():
                state = evolve(state, grace_ns=step.grace_ns)
            case SetHighStep() | SetMaxStep() | SetSwapMaxStep() | SetOomScoreAdjStep():
                state = self._set(guard, state, sight, step)
            case ReclaimStep():
                return self._reclaim(guard, state, sight, step, climb)
            case FreezeStep():
                return self._freeze(guard, state, step, climb)
            case UnitStep():
                return self._unit(guard, state, step, climb)
            case WaitStep() | RunStep():
                raise AssertionError("the list itself sees to these")
            case _:
                assert_never(step)
        return state, escalate.done(climb)

    def _enter_hard(
        self, guard: Guard, state: TargetState, sight: Sight, clause: int, watermark: Watermark | None = None
    ) -> TargetState:
        watermark = watermark or guard.hard
        assert watermark is not None
        state = self._to(state, "hard")
        why = self._why(watermark, clause, sight)
        if not state.hard_told and guard.mode != "shadow":
            state = evolve(self._snapshot(state, why, hard=True), hard_told=True, told_ns=0)
            if any(isinstance(step, NotifyStep) for step in watermark.do) or watermark.kills:
                self._tell(state, "HARD", why)
        if watermark is guard.soft:  # its list has led here
            return evolve(state, by_soft=True)
        again = escalate.again(state.hard_climb, watermark.do)
        return self._climb_hard(guard, evolve(state, hard_climb=again, by_soft=False), sight, clause)

    def _climb_hard(self, guard: Guard, state: TargetState, sight: Sight, clause: int) -> TargetState:
        """As far up hard's list as it goes now. It stays in firing for as long as there is something to try."""
        assert guard.hard is not None
        state = self._climb(guard, state, sight, guard.hard, clause)
        if state.hard_climb.stand == "over":
            return evolve(self._to(state, "spent"), again_ns=self.at + guard.cooldown_ns)
        return state

    def _calm(self, state: TargetState) -> TargetState:
        state = self._dismiss(self._to(state, "clear"))
        for lease in state.leases:
            if lease.purpose != "tripwire":
                self.actions.append(Release(state.id, lease.token))
        killed = "the victim is gone, " if state.ended else ""
        outcome, score = self._scored(state, f"{killed}memory is clearly over both watermarks")
        if state.incident:
            self.actions.append(Close(state.id, state.incident, outcome, score))
            if state.hard_told:
                self._tell(state, "CALM", "calm again")
        trip = tuple(lease for lease in state.leases if lease.purpose == "tripwire")
        state = evolve(state, leases=trip, incident=0, hard_told=False, ended=0, asked="", pursuit=None)
        foot = escalate.AT_THE_FOOT
        state = evolve(state, weighed=())
        return evolve(state, uninsurable=frozenset(), soft_climb=foot, hard_climb=foot, verdict=None)

    def _dismiss(self, state: TargetState) -> TargetState:
        """It is no nominee any more, nor is there another one yet."""
        return self._drop(self._release(state, "insurance"))

    def _drop(self, state: TargetState) -> TargetState:
        if (victim := state.nominee) is not None:
            state = self._release_of_nominee(state)
            self.actions.append(Dismiss(state.id, victim.token))
            state = evolve(state, former=victim)
        return evolve(state, nominee=None, ranking=None, reserve=(), hold=None)

    # -- nominees ------------------------------------------------------------------------------------------------

    def _look(self, state: TargetState, depth: str) -> TargetState:
        if depth == "heaviest":
            self.actions.append(Look(state.id, "heaviest"))
            return evolve(state, asked="heaviest")
        self.actions.append(Look(state.id, "whole"))
        return evolve(state, asked="whole")

    def _remember(self, state: TargetState, survey: Survey) -> TargetState:
        """What units weigh now, for what grows and thrashes: two times of it, the older one to compare with."""
        if state.weighed and self.at - state.weighed[-1][0] < WEIGHED_NS:
            return state
        rows = sorted((f.path, remembered(f)) for f in survey.cgroups if f.stat is not None)
        rows = sorted(rows, key=lambda row: -row[1][0])[:WEIGHED_MOST]
        return evolve(state, weighed=(*state.weighed[-1:], (self.at, tuple(rows))))

    def _refresh(self, guard: Guard, state: TargetState) -> TargetState:
        """Survey again while armed, at a bounded share of the time."""
        wants = guard.soft is not None and any(isinstance(step, NominateStep) for step in guard.soft.do)
        if not wants or state.asked or self.at < state.missed_ns or self.at - state.survey_ns < _every(state):
            return state
        return self._look(state, "heaviest")

    def _nominate(self, guard: Guard, state: TargetState, survey: Survey, sight: Sight) -> TargetState:
        if state.phase in ("calm", "draining"):
            return state
        before = dict(state.weighed[0][1]) if state.weighed else None
        victims, ranking = rank(guard.victim, survey, self._bounds(), before)
        if looks_back(guard.victim):
            state = self._remember(state, survey)
        if not victims:
            state = self._release(evolve(self._dismiss(state), ranking=ranking), "brake")
            return self._look(state, "whole") if survey.depth == "heaviest" else state
        if survey.depth == "heaviest" and is_outweighed(guard.victim, survey, ranking):
            return self._look(state, "whole")
        best, held = victims[0], state.nominee
        if held is not None and _identity(held) == _identity(best):
            best = replace(best, token=held.token)
        else:
            state = self._drop(state)
            best = replace(best, token=self._new_token(state.id))
            self.actions.append(Nominate(state.id, best, ranking, self._not_before(guard, state)))
            state = self._score(guard, evolve(state, nominee=best), sight)
        state = evolve(state, nominee=best, ranking=ranking, reserve=victims[1:])
        if _takes_whole(guard):
            state = self._take_hold(guard, state, survey)
        state = self._insure(guard, state, survey)
        return self._brake(guard, state, survey, sight)

    def _take_hold(self, guard: Guard, state: TargetState, survey: Survey) -> TargetState:
        """Whether the nominee's cgroup may be stopped as a whole, while it is known who lives in it."""
        assert state.nominee is not None
        path, inode = state.nominee.cgroup, state.nominee.inode
        if state.facts is not None and state.facts.path == path:
            inode = inode or state.facts.inode  # a survey tells of what is below the guard's cgroup, not of itself
        bounds = self._bounds()
        around = unit_path(state.id.cgroup)
        home = around if around.endswith(UNITS) else unit_path(path)
        why_no = why_no_unit(guard.victim, survey, home, bounds)
        why_not = why_not_whole(guard.victim, survey, path, bounds)
        state = evolve(state, hold=Hold(path, inode, why_not, home.rpartition("/")[2], why_no))
        return self._thaw(state, path)

    def _thaw(self, state: TargetState, but: str = "") -> TargetState:
        """Whoever was frozen goes on, but for the nominee of now."""
        over = [x for x in state.leases if x.file == "cgroup.freeze" and not (but and is_inside(but, x.cgroup))]
        for lease in over:
            self.actions.append(Release(state.id, lease.token))
        return evolve(state, leases=tuple(x for x in state.leases if x not in over)) if over else state

    def _insure(self, guard: Guard, state: TargetState, survey: Survey) -> TargetState:
        """If the kernel is faster after all, it is to kill the one that we would have killed."""
        meant = _to_insure(guard, state, survey)
        kept = [x for x in state.leases if x.purpose == "insurance" and x.pid in meant][:INSURED_MOST]
        for lease in state.leases:
            if lease.purpose == "insurance" and lease not in kept:
                self.actions.append(Release(state.id, lease.token))
        known = {lease.pid for lease in kept}
        for process in [p for p in meant.values() if p.pid not in known][: INSURED_MOST - len(kept)]:
            lease = Held(self.token, "insurance", process.cgroup, 0, process.pid, INSURED_ADJ, file="oom_score_adj")
            self._lease(state.id, lease, process.start_ticks)
            kept.append(lease)
        return evolve(state, leases=(*(x for x in state.leases if x.purpose != "insurance"), *kept))

    def _score(self, guard: Guard, state: TargetState, sight: Sight) -> TargetState:
        """What the soft watermark's steps set of a nominee, for one that was not there when they were due."""
        for step in guard.soft.do if guard.soft is not None and state.phase == "armed" else ():
            if isinstance(step, SetOomScoreAdjStep):
                state = self._set(guard, state, sight, step)
        return state

    def _release_of_nominee(self, state: TargetState) -> TargetState:
        """What steps have set of it. Its insurance may go over to the next: they may have processes in common."""
        over = [lease for lease in state.leases if lease.pid and lease.purpose == "step"]
        for lease in over:
            self.actions.append(Release(state.id, lease.token))
        return evolve(state, leases=tuple(lease for lease in state.leases if lease not in over))

    def _lost_nominee(self, state: TargetState) -> TargetState:
        """A nominee that could not be opened is none: the next survey names another, and comes soon."""
        victim = state.nominee
        if victim is None or state.phase == "draining":
            return state
        token = victim.token
        failed = [r.errno for r in self.seen.results if r.token == token and r.errno and r.what == "Nominate"]
        if not failed and not any(gone.token == token for gone in self.seen.gone):
            return state
        if failed and failed[0] != ESRCH and not self._is_shadow(state.id):
            self._ban(victim)
        return evolve(self._dismiss(state), survey_ns=min(state.survey_ns, self.at - _every(state) // 2))

    def _ban(self, victim: Victim) -> None:
        """Not to be named again for a while: one that cannot be ended would hide everybody behind it.

        Not for ever: what it waits for (a disk, a server) may come back, and so may our right to signal it.
        """
        known = {(ban.pid, ban.start_ticks): ban for ban in self.stuck if ban.until_ns + ban.for_ns > self.at}
        for process in victim.processes:
            key = (process.pid, process.start_ticks)
            for_ns = min(2 * known[key].for_ns, BAN_NS[1]) if key in known else BAN_NS[0]
            known[key] = Ban(*key, self.at + for_ns, for_ns)
        self.stuck = tuple(known.values())

    def _bounds(self) -> Bounds:
        banned = frozenset((ban.pid, ban.start_ticks) for ban in self.stuck if ban.until_ns > self.at)
        return Bounds(self.before.ours, banned, self.before.own_cgroup)

    # -- the kill ------------------------------------------------------------------------------------------------

    def _fire(
        self, guard: Guard, state: TargetState, sight: Sight, survey: Survey | None, hard: int | None
    ) -> TargetState:
        if state.asked:
            return state
        if not state.by_soft:
            if hard is not None and state.hard_climb.stand != "aiming":
                state = self._climb_hard(guard, state, sight, hard)
            if state.hard_climb.stand != "aiming" or state.asked:
                return state
        if guard.mode != "shadow" and self._other_pursuit(state):  # in a shadow's world nobody else is pursued
            return state
        if (why := self._over_budget(guard, state)) and guard.mode == "enforce":
            return self._spent(guard, state, "BUDGET_SPENT", f"{why}: nobody is killed")
        if state.nominee is None and survey is not None:
            return self._spent(guard, state, "NO_VICTIM", _nobody(state.ranking))
        stale = self.at - state.survey_ns > max(STALE_NS, STALE_TURNS * _every(state))
        if (state.nominee is None or stale) and self.at >= state.missed_ns:
            return self._look(state, "heaviest")
        return state if state.nominee is None else self._signal(guard, state, sight)

    def _other_pursuit(self, state: TargetState) -> bool:
        """Whether the death of another guard's victim gives memory back here: it is awaited, and so is its memory."""
        return any(
            _overlaps(other.pursuit.victim, state.id.cgroup)
            if other.pursuit is not None
            else other.ended
            and other.phase == "cooling"
            and self.at - other.entered_ns < SETTLE_NS
            and (is_inside(other.id.cgroup, state.id.cgroup) or is_inside(state.id.cgroup, other.id.cgroup))
            for other in self.targets.values()
            if other.id != state.id
        )

    def _over_budget(self, guard: Guard, state: TargetState) -> str:
        """Whose budget is spent, and until when; empty: none is."""
        ours = ("this guard's", guard.budget, state.kills)
        for whose, budget, kills in (ours, ("the host's", self.budget, self.spent)):
            free_ns = _free_again(budget, kills)
            if budget is not None and free_ns > self.at:
                spent = f"{budget.kills} in {budget.per_ns / SECOND:g} s"
                return f"{whose} kill budget ({spent}) is spent for another {(free_ns - self.at) / SECOND:.0f} s"
        return ""

    def _spent(self, guard: Guard, state: TargetState, message: str, text: str) -> TargetState:
        state = self._complain(state, message, text)
        return evolve(self._to(state, "spent"), again_ns=self.at + max(AFTER_NS, guard.cooldown_ns))

    def _complain(self, state: TargetState, message: str, text: str) -> TargetState:
        """Say why nothing is done, at once and every now and then."""
        if state.told_ns and self.at - state.told_ns < TELL_AGAIN_NS:
            return state
        self._tell(state, message, text)
        return evolve(state, told_ns=self.at)

    def _signal(self, guard: Guard, state: TargetState, sight: Sight) -> TargetState:
        victim = state.nominee
        assert victim is not None
        grace = 0 if any_holds(guard.hard, sight, "deep") else state.grace_ns
        text = f"{_who(victim)} holding {mib(victim.held_bytes)}"
        if grace:
            state = self._thaw(state)  # who is frozen cannot end itself
        if guard.mode == "shadow":
            state = self._foreshadow(guard, state, sight, text)
        self.actions.append(Kill(state.id, victim.token, "TERM" if grace else "KILL", text, state.ranking))
        if not grace:
            self.actions.append(Reap(state.id, victim.token))
        if guard.mode != "enforce":
            self._tell(state, "KILLED", f"would have killed {text} (observe mode)")
            state = evolve(state, verdict=state.verdict or Verdict(self.at, text))
            return evolve(self._to(state, "spent"), again_ns=pace.NEVER)
        self._tell(state, "KILLED", f"killed {text}")
        state = self._counted(guard, self._to(state, "fired"))
        return evolve(state, pursuit=escalate.begin(victim, grace, self.at))

    def _not_before(self, guard: Guard, state: TargetState) -> int:
        """When cooldown and budgets allow the next kill."""
        return max(state.again_ns, _free_again(guard.budget, state.kills), _free_again(self.budget, self.spent))

    def _foreshadow(self, guard: Guard, state: TargetState, sight: Sight, text: str) -> TargetState:
        """A shadow's verdict: in the incident of the policy in force if that has acted, else in one of its own."""
        said = f"{state.id.guard} would have killed {text}"
        acted = self._in_force(state, acted=True)
        for other in acted:
            self._tell(other, "SHADOW", said)
        if not acted:
            mark, began = (guard.soft, state.soft_since) if state.by_soft else (guard.hard, state.hard_since)
            clause = crossed(mark, began, self.at)
            why = self._why(mark, clause, sight) if mark is not None and clause is not None else ""
            state = self._snapshot(state, why, hard=True)
            self._tell(state, "SHADOW", f"would have killed {text}; the policy in force has not acted")
        return state

    def _in_force(self, shadow: TargetState, acted: bool) -> list[TargetState]:
        """Guards in force of the same memory; those with an open incident that their hard watermark is in."""
        return [
            other
            for other in self.targets.values()
            if not self._is_shadow(other.id) and (other.hard_told or not acted) and _shares(other.id, shadow.id)
        ]

    def _done_by(self, who: str, cgroup: str, text: str) -> None:
        """Somebody has ended something: whoever has only said that he would have remembers it."""
        for target, state in self.targets.items():
            verdict = state.verdict
            if verdict is None or not _shares(TargetId("", cgroup), target):
                continue
            if who == "kernel" and not verdict.kernel[0]:
                self.targets[target] = evolve(state, verdict=replace(verdict, kernel=(self.at, text)))
            elif who == "policy" and not verdict.policy[0]:
                self.targets[target] = evolve(state, verdict=replace(verdict, policy=(self.at, text)))

    def _scored(self, state: TargetState, ended: str) -> tuple[str, Score | None]:
        """How the engagement ended, for people; and what became of a verdict that was not carried out."""
        verdict = state.verdict
        if verdict is None:
            return ended, None
        (kernel_ns, whom), (policy_ns, which) = verdict.kernel, verdict.policy
        score = Score("itself", self.at - verdict.at_ns, verdict.what)
        what = f"it was over {score.after_ns / SECOND:.1f} s later by itself"
        if kernel_ns and not 0 < policy_ns < kernel_ns:
            score = replace(score, ended_by="kernel", after_ns=kernel_ns - verdict.at_ns)
            what = f"the kernel's OOM killer ended {whom} {score.after_ns / SECOND:.1f} s later"
        elif policy_ns:
            score = replace(score, ended_by="policy", after_ns=policy_ns - verdict.at_ns)
            what = f"{which} {score.after_ns / SECOND:.1f} s later"
        text = f"would have killed {verdict.what}; {what}"
        if self._is_shadow(state.id):
            others = [other for other in self._in_force(state, acted=False) if other.incident]
            for other in others or [state]:
                self._tell(other, "SHADOW", text if other is state else f"{state.id.guard} {text}")
        return f"{text}; {ended}", score

    def _counted(self, guard: Guard, state: TargetState) -> TargetState:
        self.counters = evolve(self.counters, kills=self.counters.kills + 1)
        self._done_by("policy", state.id.cgroup, f"{state.id.guard} killed")
        return self._spend(guard, state)

    def _spend(self, guard: Guard, state: TargetState) -> TargetState:
        """One more that counts for cooldown and budgets."""
        if guard.mode != "enforce":
            return state
        kept = () if guard.budget is None else state.kills[-(guard.budget.kills + 1) :]
        if self.budget is not None:
            self.spent = (*self.spent[-(self.budget.kills + 1) :], self.at)
        return evolve(state, kills=(*kept, self.at), again_ns=self.at + guard.cooldown_ns)

    def _deadman(self, guard: Guard, state: TargetState) -> TargetState:
        """We stood still, and the dead man has ended our nominee: it is pursued like a victim of our own."""
        for result in self.seen.results:
            for victim in (state.nominee, state.former):
                if result.what == "Deadman" and victim is not None and victim.token == result.token:
                    state = self._struck(guard, state, victim, result)
        return state

    def _struck(self, guard: Guard, state: TargetState, victim: Victim, result: Result) -> TargetState:
        silence = f"we had not turned for {result.took_ns / SECOND:.1f} s"
        why = f"the dead man has acted: {silence}, and the hard watermark held"
        pursuit = escalate.begin(victim, 0, result.value or self.at)
        if state.phase != "calm" and not state.hard_told:
            state = evolve(self._snapshot(state, why, hard=True), hard_told=True, told_ns=0)
        text = f"{_who(victim)} holding {mib(victim.held_bytes)}; {why}"
        self.actions.append(Kill(state.id, victim.token, "KILL", text, state.ranking, "deadman"))
        self._tell(state, "KILLED", f"killed {text}")
        if state.pursuit is not None and state.pursuit.victim.token == victim.token:  # we had signalled it before
            return evolve(state, pursuit=pursuit)
        before, state = state.phase, self._counted(guard, state)
        if victim is state.nominee:
            return evolve(self._to(state, "struck"), pursuit=pursuit)
        again = max(state.again_ns, self.at + SETTLE_NS)
        yields = before in ("armed", "firing")
        return evolve(self._to(state, "yielded") if yields else state, again_ns=again)

    def _drain(self, guard: Guard, state: TargetState, sight: Sight) -> TargetState:
        pursuit = state.pursuit
        assert pursuit is not None
        if self._was_refused(pursuit):
            return self._yielded(state)
        turn = self._turn(guard, pursuit, sight)
        if turn is None:
            return state
        after = escalate.advance(pursuit, turn, self.at)
        if after.stage == "gone":
            first = pursuit.stage == "term" or pursuit.until_ns == pursuit.since_ns + escalate.PATIENCE_NS
            return self._gone(state, after, first)
        if after.stage == "stuck":
            return self._stuck(state, after, turn)
        if after.stage == "kill" and pursuit.stage == "term":
            token = pursuit.victim.token
            why = "did not end in its grace" if turn == "late" else "no time for its grace: twice as bad by now"
            self.actions.append(Kill(state.id, token, "KILL", why))
            self.actions.append(Reap(state.id, token))
        return evolve(state, pursuit=after)

    def _was_refused(self, pursuit: escalate.Pursuit) -> bool:
        """The dead man was faster by less than this turn has taken."""
        token = pursuit.victim.token
        return any(r.token == token and r.what == "Kill" and r.errno == EBUSY for r in self.seen.results)

    def _yielded(self, state: TargetState) -> TargetState:
        """Our signal was not sent; that of the dead man is counted when its answer comes."""
        again = max(state.again_ns, self.at + SETTLE_NS)
        return evolve(self._to(self._not_counted(state), "yielded"), pursuit=None, again_ns=again)

    def _not_counted(self, state: TargetState) -> TargetState:
        """The last kill was none."""
        self.counters = evolve(self.counters, kills=self.counters.kills - 1)
        last = len(self.spent) - 1 - self.spent[::-1].index(state.kills[-1]) if state.kills[-1] in self.spent else -1
        self.spent = self.spent if last < 0 else (*self.spent[:last], *self.spent[last + 1 :])
        return evolve(state, kills=state.kills[:-1])

    def _turn(self, guard: Guard, pursuit: escalate.Pursuit, sight: Sight) -> escalate.Turn | None:
        token = pursuit.victim.token
        if any(gone.token == token for gone in self.seen.gone):
            return "gone"
        for result in self.seen.results:
            if result.token == token and result.errno and result.what in ("Kill", "Nominate"):
                return "gone" if result.errno == ESRCH else "failed"
        if self.at >= pursuit.until_ns:
            return "late"
        if pursuit.stage == "term" and any_holds(guard.hard, sight, "deep"):
            return "deeper"
        return None

    def _gone(self, state: TargetState, pursuit: escalate.Pursuit, first: bool) -> TargetState:
        who, token = _who(pursuit.victim), pursuit.victim.token
        missed = {r.what for r in self.seen.results if r.token == token and r.errno == ESRCH}
        if "Kill" in missed and first:  # the first signal met nobody: nothing was ended by us
            if "Nominate" not in missed:
                self._ban(pursuit.victim)  # it was open, and yet nobody was there; if it is gone, nothing is lost
            self._tell(state, "VICTIM_GONE", f"{who} had ended by itself before the signal")
            state = evolve(self._not_counted(state), again_ns=0)
        else:
            took = (self.at - pursuit.since_ns) // MS
            self._tell(state, "VICTIM_GONE", f"{who} is gone, {took} ms after the signal")
            state = evolve(state, ended=state.ended + 1)
        again = max(state.again_ns, self.at + SETTLE_NS)
        state = self._dismiss(evolve(self._to(state, "gone"), pursuit=None, again_ns=again))
        return self._thaw(self._release(state, "brake"))

    def _stuck(self, state: TargetState, pursuit: escalate.Pursuit, turn: escalate.Turn) -> TargetState:
        how = "could not be signalled" if turn == "failed" else "did not end in time and is left alone"
        self._tell(state, "VICTIM_STUCK", f"{_who(pursuit.victim)} {how}; the next one is taken")
        self._ban(pursuit.victim)
        state = self._dismiss(evolve(self._to(state, "stuck"), pursuit=None))
        return self._thaw(self._release(state, "brake"))

    # -- leases --------------------------------------------------------------------------------------------------

    def _tripwire(self, state: TargetState) -> None:
        """memory.high just under the hard watermark, as long as the guard lives and the cgroup has a limit."""
        held = next((lease for lease in state.leases if lease.purpose == "tripwire"), None)
        value = self._tripwire_bytes(self.guards[state.id.guard], state.facts, held)
        if value is None or state.facts is None:
            self.targets[state.id] = self._release(state, "tripwire")
            return
        # Moved under its own token: taken anew, it would find its own old value and put that back for ever.
        token = self.token if held is None else held.token
        lease = Held(token, "tripwire", state.facts.path, state.facts.inode, 0, value)
        self._lease(state.id, lease, 0)
        others = tuple(other for other in state.leases if other.purpose != "tripwire")
        self.targets[state.id] = evolve(state, leases=(*others, lease))

    def _tripwire_bytes(self, guard: Guard, facts: CgroupFacts | None, held: Held | None) -> int | None:
        if not guard.tripwire or guard.mode != "enforce" or facts is None or facts.limit_bytes is None:
            return None
        if self.before.own_cgroup and is_inside(facts.path, self.before.own_cgroup):
            return None  # whoever throttles the killer waits for it
        if self.host is not None and facts.limit_bytes >= self.host.total_bytes:
            return None  # the machine runs out first
        line = _hard_line(guard, facts.limit_bytes)
        if line is None:
            return None
        value = (line - max(TRIPWIRE_MIN, facts.limit_bytes // TRIPWIRE_SHARE)) // PAGE * PAGE
        if value <= 0 or (facts.high_bytes is not None and facts.high_bytes <= value and not _is_ours(facts, held)):
            return None  # the owner's own memory.high is lower: it is a tripwire already
        return value

    def _brake(self, guard: Guard, state: TargetState, survey: Survey, sight: Sight) -> TargetState:
        """memory.high of the nominee's cgroup: what it has and what is left to the hard watermark."""
        victim = state.nominee
        line = _available_line(guard, sight)
        if victim is None or line is None or not guard.brake or guard.mode != "enforce" or sight.facts is not None:
            return state
        facts = next((f for f in survey.cgroups if f.path == victim.cgroup), None)
        held = next((lease for lease in state.leases if lease.purpose == "brake"), None)
        if held is not None and held.cgroup != victim.cgroup:
            state, held = self._release(state, "brake"), None
        if facts is None or is_corridor(facts.path) or not facts.inode or facts.path == self.before.own_cgroup:
            return state
        left = max(BRAKE_SLACK, sight.host.available_bytes - line)
        value = (facts.current_bytes + left) // PAGE * PAGE
        if facts.high_bytes is not None and held is None and facts.high_bytes <= value:
            return state  # its owner brakes it already
        if held is not None and abs(held.value - value) < BRAKE_STEP:
            return state
        lease = Held(held.token if held else self.token, "brake", facts.path, facts.inode, 0, value)
        self._lease(state.id, lease, 0)
        others = tuple(other for other in state.leases if other.purpose != "brake")
        return evolve(state, leases=(*others, lease))

    def _set(self, guard: Guard, state: TargetState, sight: Sight, step: LimitStep | SetOomScoreAdjStep) -> TargetState:
        if guard.mode != "enforce":
            return state
        if isinstance(step, SetOomScoreAdjStep):
            victim = state.nominee
            if victim is None or not victim.processes:
                return state
            root = victim.processes[0]
            token = self._step_token(state, root.cgroup, root.pid, "oom_score_adj")
            until_ns = self.at + step.for_ns
            lease = Held(token, "step", root.cgroup, 0, root.pid, step.to, until_ns, "oom_score_adj")
            self._lease(state.id, lease, root.start_ticks)
        else:
            if state.facts is None or not state.facts.inode:
                return state
            facts, file = state.facts, _LIMIT_FILES[type(step)]
            total = sight.swap_limit_bytes if file == "memory.swap.max" else sight.limit_bytes
            value = step.to.of(total) // PAGE * PAGE
            token = self._step_token(state, facts.path, 0, file)
            if file == "memory.high" and _is_lower_already(state, facts, token, value):
                return state
            lease = Held(token, "step", facts.path, facts.inode, 0, value, self.at + step.for_ns, file)
            self._lease(state.id, lease, 0)
        others = tuple(other for other in state.leases if other.token != lease.token)
        return evolve(state, leases=(*others, lease))

    def _reclaim(
        self, guard: Guard, state: TargetState, sight: Sight, step: ReclaimStep, climb: escalate.Climb
    ) -> tuple[TargetState, escalate.Climb]:
        path, inode = (_MACHINE, 0) if state.facts is None else (state.facts.path, state.facts.inode)
        size = step.amount.of(sight.limit_bytes)
        token = self._new_token(state.id)
        self.actions.append(Reclaim(state.id, token, path, inode, size, self.at + step.within_ns))
        self._try(guard, state, f"{mib(size)} of {path} is reclaimed")
        return state, escalate.done(climb, token)

    def _freeze(
        self, guard: Guard, state: TargetState, step: FreezeStep, climb: escalate.Climb
    ) -> tuple[TargetState, escalate.Climb]:
        hold = state.hold
        if state.nominee is None or hold is None:
            self._tell(state, "MEASURE", f"nobody is frozen: {_nobody(state.ranking)}")
            return state, escalate.done(climb, hoped=True)
        if hold.why_not or not hold.inode:
            self._tell(state, "MEASURE", f"{hold.path} is not frozen: {hold.why_not or 'it is no cgroup of its own'}")
            return state, escalate.done(climb, hoped=True)
        self._try(guard, state, f"{hold.path} is frozen for {step.for_ns / SECOND:g} s")
        if guard.mode != "enforce":
            return state, escalate.done(climb)
        token = self._step_token(state, hold.path, 0, "cgroup.freeze")
        lease = Held(token, "step", hold.path, hold.inode, 0, 1, self.at + step.for_ns, "cgroup.freeze")
        self._lease(state.id, lease, 0)
        others = tuple(other for other in state.leases if other.token != token)
        return evolve(state, leases=(*others, lease)), escalate.done(climb, token)

    def _run(self, guard: Guard, state: TargetState, step: RunStep, climb: escalate.Climb, why: str) -> escalate.Climb:
        token = self._new_token(state.id)
        mark: Literal["soft", "hard"] = "soft" if state.phase == "armed" else "hard"
        self.actions.append(Run(state.id, token, step.argv, step.user, step.deadline_ns, mark, why))
        self._try(guard, state, f"{step.argv[0]} is run")
        return escalate.done(climb, token)

    def _unit(
        self, guard: Guard, state: TargetState, step: UnitStep, climb: escalate.Climb
    ) -> tuple[TargetState, escalate.Climb]:
        """It ends a service's processes, so it counts as a kill, for every budget."""
        hold = state.hold
        done = "restarted" if step.verb == "restart" else "stopped"
        if hold is None or state.nominee is None:
            why = f"no unit is {done}: {_nobody(state.ranking)}"
        elif hold.unit_why_not:
            why = f"{hold.unit or hold.path} is not {done}: {hold.unit_why_not}"
        elif step.verb == "restart" and not hold.unit.endswith(".service"):
            why = f"{hold.unit} is not restarted: what somebody else has started cannot be started again"
        else:
            why = self._over_budget(guard, state) if guard.mode == "enforce" else ""
            if not why:
                token = self._new_token(state.id)
                self.actions.append(UnitJob(state.id, token, step.verb, hold.unit, hold.path))
                self._try(guard, state, f"{hold.unit} is {done}")
                return self._spend(guard, state), escalate.done(climb, token)
            state = self._complain(state, "BUDGET_SPENT", f"{why}: {hold.unit} is not {done}")
            return state, escalate.done(climb, hoped=True)
        self._tell(state, "MEASURE", why)
        return state, escalate.done(climb, hoped=True)

    def _try(self, guard: Guard, state: TargetState, text: str) -> None:
        """Say what is tried before anybody is killed."""
        self._tell(state, "MEASURE", text if guard.mode == "enforce" else f"would have been done: {text}")

    def _step_token(self, state: TargetState, cgroup: str, pid: int, file: LeaseFile) -> int:
        """A lease that is out already is prolonged under its own token."""
        steps = (x for x in state.leases if x.purpose == "step")
        return next((x.token for x in steps if (x.cgroup, x.pid, x.file) == (cgroup, pid, file)), self.token)

    def _lease(self, target: TargetId, lease: Held, start_ticks: int) -> None:
        self.token = max(self.token, lease.token + 1)
        self.actions.append(
            Lease(
                target,
                lease.token,
                lease.file,
                lease.cgroup,
                lease.inode,
                lease.pid,
                start_ticks,
                lease.value,
                lease.purpose,
            )
        )

    def _release(self, state: TargetState, purpose: str) -> TargetState:
        for lease in state.leases:
            if lease.purpose == purpose:
                self.actions.append(Release(state.id, lease.token))
        return evolve(state, leases=tuple(lease for lease in state.leases if lease.purpose != purpose))

    def _expire(self, state: TargetState) -> TargetState:
        over = [lease for lease in state.leases if lease.until_ns and lease.until_ns <= self.at]
        for lease in over:
            self.actions.append(Release(state.id, lease.token))
        return evolve(state, leases=tuple(x for x in state.leases if x not in over)) if over else state

    def _mute(self, guard: Guard, state: TargetState, sight: Sight) -> TargetState:
        """Events that cache explains are not listened to for as long as the distance to the watermark allows."""
        facts = state.facts
        spoke = any(wake.source == "events" and wake.path == state.id.cgroup for wake in self.seen.wakes)
        if facts is None or not spoke or guard.mode == "shadow":
            return state
        if state.phase not in ("calm", "armed") or state.id not in self.fresh:
            return state
        tripped = state.tripped
        to_hard = pace.time_to(guard.hard, state.hard_since, sight, tripped)
        if to_hard < MUTE_NS[0]:
            return state
        until = self.at + min(to_hard, MUTE_NS[1])
        if tripped:  # no longer than to the next deadline: one turn then serves both
            until = min(until, self.at + max(MUTE_NS[0], pace.next_look(guard, state, sight, tripped)))
        self.actions.append(Mute(state.id, until))
        return evolve(state, muted_ns=until)


# -- small parts -------------------------------------------------------------------------------------------------


def _stalls(guard: Guard) -> Iterable[StallAbove]:
    for watermark in (guard.soft, guard.hard):
        for clause in watermark.when if watermark is not None else ():
            yield from (condition for condition in clause.all_of if isinstance(condition, StallAbove))


def _hard_line(guard: Guard, limit_bytes: int) -> int | None:
    """The lowest memory_above of the hard watermark, in bytes."""
    clauses = guard.hard.when if guard.hard is not None else ()
    lines = [c.amount.of(limit_bytes) for clause in clauses for c in clause.all_of if isinstance(c, MemoryAbove)]
    return min(lines, default=None)


def _available_line(guard: Guard, sight: Sight) -> int | None:
    """The highest available_below of the hard watermark, in bytes; of one clause, the lowest counts."""
    lines = []
    for clause in guard.hard.when if guard.hard is not None else ():
        below = [c.amount.of(sight.host.total_bytes) for c in clause.all_of if isinstance(c, AvailableBelow)]
        if below:
            lines.append(min(below))
    return max(lines, default=None)


def _free_again(budget: Budget | None, kills: tuple[int, ...]) -> int:
    """When this budget allows the next kill (ns); 0: it always did."""
    if budget is None or len(kills) < budget.kills:
        return 0
    return kills[-budget.kills] + budget.per_ns


def _takes_whole(guard: Guard) -> bool:
    """Whether something of this guard is done to all of the nominee's cgroup."""
    marks = (mark for mark in (guard.soft, guard.hard) if mark is not None)
    return any(isinstance(step, FreezeStep | UnitStep) for mark in marks for step in mark.do)


def _kills(watermark: Watermark | None) -> bool:
    return watermark is not None and watermark.kills


def _to_insure(guard: Guard, state: TargetState, survey: Survey) -> dict[int, ProcessRef]:
    """By pid, the processes of the nominee that the kernel may be pointed at, the largest first.

    Not one whose owner has lowered its score: that says whom the kernel is to spare, and is not overruled. What a step
    of the policy sets is the policy's.
    """
    steps = [step for mark in (guard.soft, guard.hard) if mark is not None for step in mark.do]
    kills = _kills(guard.soft) or _kills(guard.hard)
    own = any(isinstance(step, SetOomScoreAdjStep) for step in steps)
    if not (guard.insurance and guard.mode == "enforce" and kills and not own and state.nominee is not None):
        return {}
    more = state.phase in ("armed", "cooling")  # who is killed in this very turn needs no insurance
    found = {(p.pid, p.start_ticks): p.oom_score_adj for p in survey.processes}
    known = {lease.pid for lease in state.leases if lease.purpose == "insurance"}
    able = [
        process
        for process in state.nominee.processes
        if process.pid in known or (more and 0 <= found.get((process.pid, process.start_ticks), -1) < INSURED_ADJ)
        if process.pid not in state.uninsurable
    ]
    return {process.pid: process for process in sorted(able, key=lambda p: -p.held_bytes)}


def _every(state: TargetState) -> int:
    """Between two surveys while armed."""
    return max(REFRESH_NS, REFRESH_SHARE * state.survey_took_ns)


def _overlaps(victim: Victim, cgroup: str) -> bool:
    """Whether the victim's end gives memory back to this cgroup."""
    if is_inside(victim.cgroup, cgroup) or (victim.take == "cgroup" and is_inside(cgroup, victim.cgroup)):
        return True
    return any(is_inside(process.cgroup, cgroup) for process in victim.processes)


def _shares(one: TargetId, other: TargetId) -> bool:
    """Whether what is freed in one of them is had back in the other."""
    return is_inside(one.cgroup, other.cgroup) or is_inside(other.cgroup, one.cgroup)


def _is_ours(facts: CgroupFacts, held: Held | None) -> bool:
    """Whether the memory.high that was found is what this lease has put there."""
    return held is not None and facts.high_bytes == held.value


def _is_lower_already(state: TargetState, facts: CgroupFacts, token: int, value: int) -> bool:
    """Whether its owner, or another lease of ours, keeps memory.high lower than that."""
    mine = next((lease for lease in state.leases if lease.token == token), None)
    if facts.high_bytes is not None and facts.high_bytes <= value and not _is_ours(facts, mine):
        return True
    high = (x for x in state.leases if x.file == "memory.high" and x.cgroup == facts.path and x.token != token)
    return any(lease.value <= value for lease in high)


def _identity(victim: Victim) -> tuple[object, ...]:
    if victim.take == "cgroup":
        return ("cgroup", victim.cgroup, victim.inode)
    return (victim.take, victim.cgroup, frozenset((p.pid, p.start_ticks) for p in victim.processes))


def _who(victim: Victim) -> str:
    if victim.take == "cgroup" or not victim.processes:
        return f"{victim.cgroup} ({victim.count} processes)"
    root = victim.processes[0]
    where = "below it" if victim.take == "subtree" else f"of its {victim.take.replace('_', ' ')}"
    more = f" and {victim.count - 1} {where}" if victim.count > 1 else ""
    return f"{root.comm}[{root.pid}]{more}"


def _nobody(ranking: Ranking | None) -> str:
    if ranking is None or not ranking.candidates:
        return "nobody holds memory that killing would free"
    first = ranking.candidates[0]
    return f"nobody may be killed; the largest, {first.what} with {mib(first.held_bytes)}: {first.why}"
