"""A small world for the judge: cgroups and processes as literals, and time that passes when the judge looks away.

Nothing here decides anything. Memory grows at a rate, a victim obeys after a while, the hands answer by token, and the
senses bring what ``oomguard.core`` would bring: the machine, the cgroups that are due, the surveys that were asked for.
Sizes are MiB, times are milliseconds, and a test counts both from 0.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal, assert_never

from oomguard.judge.decide import begin, decide
from oomguard.judge.glob import is_inside
from oomguard.judge.match import unit_path
from oomguard.judge.pace import NEVER
from oomguard.judge.rank import is_corridor
from oomguard.judge.state import State, TargetState
from oomguard.model.facts import (
    CgroupFacts,
    KernelKill,
    MemInfo,
    MemoryStat,
    Observation,
    Pressure,
    ProcessFacts,
    Result,
    Stall,
    Stalled,
    Survey,
    TargetId,
    TargetSeen,
    VictimGone,
    Wake,
)
from oomguard.model.policy import (
    Amount,
    AvailableBelow,
    Budget,
    Clause,
    Condition,
    Daemon,
    Guard,
    KillStep,
    MemoryAbove,
    NominateStep,
    NotifyStep,
    Plan,
    SnapshotStep,
    Step,
    VictimRule,
    Watermark,
)
from oomguard.model.verdict import (
    Action,
    Close,
    Dismiss,
    Kill,
    Lease,
    Look,
    Mute,
    Nominate,
    Notify,
    Reap,
    Reclaim,
    Release,
    Run,
    Snapshot,
    Tell,
    UnitJob,
)

MIB: Final = 1 << 20
MS: Final = 1_000_000
SECOND: Final = 1000 * MS
START: Final = 1000 * SECOND  # a machine that has been up for a while: no test may lean on a clock that begins at 0
THROTTLED: Final = 20.0  # MiB/s that a leak still gets past memory.high, less than one percent over it
ESRCH: Final = 3
EPERM: Final = 1
EBUSY: Final = 16

SOFT_STEPS: Final[tuple[Step, ...]] = (SnapshotStep(), NotifyStep(), NominateStep())


# -- policies as literals ------------------------------------------------------------------------------------------


def when(*conditions: Condition, lasting_ms: int = 0) -> Clause:
    return Clause(conditions, lasting_ms * MS)


def share(percent: float) -> Amount:
    return Amount(share=percent / 100)


def watermark(*clauses: Clause, do: tuple[Step, ...]) -> Watermark:
    return Watermark(clauses, do)


def host_guard(
    soft: float = 12,
    hard: float = 5,
    *,
    grace_ms: int = 0,
    rule: VictimRule = VictimRule(),
    mode: Literal["enforce", "observe"] = "enforce",
    cooldown_ms: int = 5000,
    budget: Budget | None = None,
    brake: bool = False,
    insurance: bool = False,
    name: str = "host",
) -> Guard:
    """The whole machine, by available memory in percent."""
    return Guard(
        name,
        "/",
        mode,
        watermark(when(AvailableBelow(share(soft))), do=SOFT_STEPS),
        watermark(when(AvailableBelow(share(hard))), do=(KillStep(grace_ms * MS),)),
        rule,
        brake=brake,
        insurance=insurance,
        cooldown_ns=cooldown_ms * MS,
        budget=budget,
    )


def limit_guard(
    cgroup: str,
    soft: float = 80,
    hard: float = 95,
    *,
    grace_ms: int = 0,
    rule: VictimRule = VictimRule(),
    mode: Literal["enforce", "observe"] = "enforce",
    cooldown_ms: int = 5000,
    budget: Budget | None = None,
    tripwire: bool = False,
    insurance: bool = False,
    name: str = "limited",
) -> Guard:
    """A cgroup with a limit, by unreclaimable memory in percent of it."""
    return Guard(
        name,
        cgroup,
        mode,
        watermark(when(MemoryAbove(share(soft))), do=SOFT_STEPS),
        watermark(when(MemoryAbove(share(hard))), do=(KillStep(grace_ms * MS),)),
        rule,
        tripwire=tripwire,
        insurance=insurance,
        cooldown_ns=cooldown_ms * MS,
        budget=budget,
    )


def plan(*guards: Guard, budget: Budget | None = None) -> Plan:
    return Plan("test", Daemon(budget=budget), guards)


# -- facts as literals ---------------------------------------------------------------------------------------------


def meminfo(available: float, total: int = 1000, swap_total: int = 0, swap_free: int = 0) -> MemInfo:
    size = int(available * MIB)
    return MemInfo(total * MIB, size // 2, size, swap_total * MIB, swap_free * MIB)


def process(
    pid: int,
    comm: str,
    cgroup: str,
    held: float = 10,
    ppid: int = 1,
    *,
    start: int | None = None,
    adj: int = 0,
    kernel: bool = False,
    swap: float = 0,
    shmem: float = 0,
    score: int = 0,
) -> ProcessFacts:
    """``start`` as on a machine that gives out pids in order: later pids are younger."""
    start = pid if start is None else start
    anon, shared, out = int(held * MIB), int(shmem * MIB), int(swap * MIB)
    return ProcessFacts(pid, start, ppid, comm, cgroup, 0, "S", anon, shared, out, score, adj, kernel)


def cgroup(
    path: str,
    current: float,
    cache: float | None = 0,
    limit: float | None = None,
    *,
    shmem: float = 0,
    inode: int = 0,
    high: float | None = None,
    oom_group: bool = False,
    swap: float = 0,
    pressure: Pressure | None = None,
) -> CgroupFacts:
    """``cache`` None: memory.stat was not read."""
    anon = int((current - (cache or 0) - shmem) * MIB)
    stat = None if cache is None else MemoryStat(anon, int((cache + shmem) * MIB), int(shmem * MIB), 0)
    return CgroupFacts(
        path,
        inode or inode_of(path),
        int(current * MIB),
        stat,
        int(swap * MIB),
        None if limit is None else int(limit * MIB),
        None if limit is None else path,
        high_bytes=None if high is None else int(high * MIB),
        pressure=pressure,
        oom_group=oom_group,
    )


def inode_of(path: str) -> int:
    """A number that every path has for itself, the same in every run."""
    return 1000 + sum(ord(letter) * (i + 7) for i, letter in enumerate(path))


def survey(
    root: str,
    processes: Iterable[ProcessFacts],
    cgroups: Iterable[CgroupFacts] = (),
    guard: str = "host",
    depth: Literal["heaviest", "whole"] = "heaviest",
    took_ms: int = 2,
) -> Survey:
    """What a look below ``root`` brings: cgroups that are not given are made from what lives in them."""
    found = tuple(processes)
    given = {facts.path: facts for facts in cgroups}
    for path in sorted({unit_path(p.cgroup) for p in found} - set(given)):
        if not is_corridor(path):
            given[path] = cgroup(path, sum(p.anon_bytes for p in found if is_inside(p.cgroup, path)) / MIB)
    return Survey(TargetId(guard, root), depth, tuple(given.values()), found, took_ms * MS)


def pressure(some: float = 0, full: float = 0) -> Pressure:
    return Pressure(Stall(some, some, some, 0), Stall(full, full, full, 0))


# -- a transcript: observations in, lines out ----------------------------------------------------------------------


def brief(action: Action) -> str:  # noqa: C901, PLR0911, PLR0912 - one line a kind
    """One action as a line, for tables of what is expected."""
    match action:
        case Look():
            return f"look {action.depth}"
        case Snapshot():
            return f"snapshot {action.watermark} #{action.incident}"
        case Notify():
            return f"tell {action.message}"
        case Nominate():
            victim = action.victim
            who = victim.cgroup if victim.take == "cgroup" else ",".join(str(p.pid) for p in victim.processes)
            return f"nominate {victim.token}: {victim.take} {who}"
        case Dismiss():
            return f"dismiss {action.token}"
        case Kill():
            return f"{action.signal} {action.token}{' by the dead man' if action.by == 'deadman' else ''}"
        case Reap():
            return f"reap {action.token}"
        case Lease():
            return f"lease {action.token}: {action.purpose} {action.file} {action.cgroup or action.pid}"
        case Release():
            return f"release {action.token}"
        case Reclaim():
            return f"reclaim {action.token}: {action.bytes // MIB} MiB of {action.cgroup}"
        case Run():
            return f"run {action.token}: {' '.join(action.argv)}"
        case Tell():
            return f"inform {action.token}: {action.to}, at {action.watermark}"
        case UnitJob():
            return f"{action.verb} {action.token}: {action.unit}"
        case Mute():
            return f"mute {(action.until_ns - START) // MS}"
        case Close():
            return f"close #{action.incident}"
        case _:
            assert_never(action)


def deadline(state: State) -> int:
    """The earliest ``look_ns`` of all targets (CLOCK_MONOTONIC), NEVER if there is none."""
    return min((target.look_ns for target in state.targets.values()), default=NEVER)


class Court:
    """The judge, observation by observation: for tests that write the facts themselves."""

    def __init__(self, policy: Plan, ours: Iterable[int] = (), own_cgroup: str = "") -> None:
        self.plan = policy
        self.state = begin(ours, own_cgroup)
        self.said: list[Action] = []

    def sees(self, at_ms: int, **facts: object) -> list[str]:
        """One turn at this time; the actions as lines. ``facts`` are fields of Observation."""
        seen = Observation(START + at_ms * MS, **facts)  # type: ignore[arg-type]
        self.state, actions = decide(self.plan, self.state, seen)
        self.said += actions
        return [brief(action) for action in actions]

    def target(self, guard: str = "") -> TargetState:
        """The only target, or the only one of that guard."""
        (found,) = (state for state in self.state.targets.values() if guard in ("", state.id.guard))
        return found

    @property
    def phase(self) -> str:
        return self.target().phase

    @property
    def sleeps_ms(self) -> float:
        """How long the judge would sleep from its last look, by its own deadline; START is 0."""
        return (deadline(self.state) - START) / MS


# -- a world over time ---------------------------------------------------------------------------------------------


@dataclass
class Body:
    """A process that lives: ``grows`` in MiB/s; ``obeys`` says what ends it, ``dies_ms`` how long that takes."""

    facts: ProcessFacts
    grows: float = 0
    obeys: Literal["TERM", "KILL", "nothing"] = "KILL"
    dies_ms: float = 20
    ends_ns: int = 0
    size_mib: float = 0

    @property
    def pid(self) -> int:
        return self.facts.pid


@dataclass(frozen=True)
class Moment:
    """One turn of the loop in the world."""

    at_ms: float
    seen: Observation
    actions: tuple[Action, ...]
    phases: Mapping[TargetId, str]


@dataclass
class World:
    """A machine of ``total`` MiB without swap. Kernel and system take ``base``; the rest is processes and cache."""

    policy: Plan
    bodies: list[Body]
    limits: Mapping[str, float] = field(default_factory=dict)
    caches: Mapping[str, float] = field(default_factory=dict)
    oom_groups: frozenset[str] = frozenset()
    total: int = 1000
    base: float = 100
    survey_ms: float = 2
    ours: frozenset[int] = frozenset()
    own_cgroup: str = ""
    refuse: Callable[[Nominate], int] = lambda action: 0  # errno of opening a victim
    pressure: Callable[["World"], Pressure | None] = lambda world: None

    def __post_init__(self) -> None:
        self.at = START
        self.state: State = begin(self.ours, self.own_cgroup)
        self.moments: list[Moment] = []
        self.tokens: dict[int, Nominate] = {}
        self.awaited: dict[int, list[Body]] = {}
        self.asked: list[Look] = []
        self.results: list[Result] = []
        self.gone: list[VictimGone] = []
        self.stalls: list[Stalled] = []
        self.died: list[tuple[float, int, str]] = []  # (when ms, pid, by whom)
        self.leases: dict[int, Lease] = {}
        self.kernel_killed = 0
        self.inodes: dict[str, int] = {}
        self.known: set[TargetId] = set()
        self.spoke: set[str] = set()
        for body in self.bodies:
            body.size_mib = body.facts.held_bytes / MIB

    # -- what there is

    def held(self, path: str = "/") -> float:
        return sum(body.size_mib for body in self.bodies if is_inside(body.facts.cgroup, path))

    @property
    def available(self) -> float:
        return self.total - self.base - self.held()

    def alive(self, pid: int) -> bool:
        return any(body.pid == pid for body in self.bodies)

    def facts_of(self, path: str) -> CgroupFacts:
        limits = [(size, at) for at, size in self.limits.items() if is_inside(path, at)]
        size, owner = min(limits, default=(None, None))
        held, cache = self.held(path), self.caches.get(path, 0)
        facts = cgroup(path, held + cache, cache, size, inode=self.inodes.get(path, 0))
        return replace(facts, limit_path=owner, oom_group=path in self.oom_groups, pressure=self.pressure(self))

    def processes(self, path: str) -> tuple[ProcessFacts, ...]:
        return tuple(
            replace(body.facts, anon_bytes=int(body.size_mib * MIB))
            for body in self.bodies
            if is_inside(body.facts.cgroup, path)
        )

    # -- time

    def run(self, for_ms: float, until: Callable[["World"], bool] = lambda world: False) -> "World":
        """Turn after turn, as the loop would, until that much time is over or something has happened."""
        end = self.at + int(for_ms * MS)
        while self.at < end and not until(self):
            self.turn(end)
        return self

    def turn(self, latest: int = 1 << 62) -> Moment:
        wake = min(deadline(self.state), latest)
        if self.asked or self.results or self.gone or not self.state.targets:
            wake = self.at
        pids = [body.ends_ns for body in self.bodies if body.ends_ns]
        wires = [self._trips_ns(lease) for lease in self.leases.values()]
        self._pass(max(min([wake, *pids, *wires]), self.at + MS // 2))  # a turn takes half a millisecond
        seen = self._observe()
        self.state, actions = decide(self.policy, self.state, seen)
        for action in actions:
            self._perform(action)
        phases = {target: state.phase for target, state in self.state.targets.items()}
        moment = Moment((self.at - START) / MS, seen, actions, phases)
        self.moments.append(moment)
        return moment

    def _pass(self, until: int) -> None:
        span = (until - self.at) / SECOND
        self.at = until
        for body in self.bodies:
            body.size_mib = max(0.0, body.size_mib + body.grows * span)
        self._throttle(span)
        for body in [b for b in self.bodies if b.ends_ns and b.ends_ns <= self.at]:
            self._end(body, "us")
        while self.available <= 0 and self.bodies:  # the kernel's killer: the largest, whoever that is
            self.kernel_killed += 1
            self._end(max(self.bodies, key=lambda b: b.size_mib), "kernel")

    def _trips_ns(self, lease: Lease) -> int:
        """When the cgroup will run into its memory.high; the kernel tells once, and holds it there."""
        inside = [body for body in self.bodies if is_inside(body.facts.cgroup, lease.cgroup)]
        room, rate = lease.value / MIB - sum(b.size_mib for b in inside), sum(b.grows for b in inside)
        if lease.file != "memory.high" or lease.target.cgroup != lease.cgroup or rate <= 0 or room <= 0:
            return 1 << 62
        return self.at + int(room / rate * SECOND)

    def _throttle(self, span: float) -> None:
        """Whoever grows beyond memory.high sleeps most of the time: it gets on, but slowly."""
        for lease in self.leases.values():
            inside = [b for b in self.bodies if lease.file == "memory.high" and is_inside(b.facts.cgroup, lease.cgroup)]
            over = sum(b.size_mib for b in inside) - lease.value / MIB
            for body in inside:
                if over >= 0 and body.grows > 0:
                    self.spoke.add(lease.cgroup)
                    body.size_mib -= min(over, max(0.0, body.grows - THROTTLED) * span)

    def _end(self, body: Body, by: str) -> None:
        self.bodies.remove(body)
        self.died.append(((self.at - START) / MS, body.pid, by))
        for token, waiting in list(self.awaited.items()):
            if body in waiting:
                waiting.remove(body)
                if not waiting:
                    self.gone.append(VictimGone(token, self.at))
                    del self.awaited[token]

    def exits(self, pid: int) -> None:
        """That process ends by itself, now."""
        self._end(next(body for body in self.bodies if body.pid == pid), "itself")

    # -- senses

    def _targets(self) -> set[TargetId]:
        return {TargetId(guard.name, guard.cgroup) for guard in self.policy.guards}

    def _observe(self) -> Observation:
        appeared = tuple(
            TargetSeen(t, None if t.cgroup == "/" else self.facts_of(t.cgroup))
            for t in sorted(self._targets() - self.known)
        )
        self.known |= self._targets()
        due = {t.cgroup for t, s in self.state.targets.items() if s.look_ns <= self.at}
        due |= {look.target.cgroup for look in self.asked} | {stall.target.cgroup for stall in self.stalls}
        due |= {new.target.cgroup for new in appeared}
        spoke = self.spoke & {target.cgroup for target in self.known}
        due |= spoke
        span = int(self.survey_ms * MS)
        surveys = tuple(Survey(look.target, look.depth, *self._survey(look.target.cgroup), span) for look in self.asked)
        self.at += span * len(surveys)
        seen = Observation(
            self.at,
            (Wake("deadline"), *(Wake("events", path) for path in sorted(spoke))),
            meminfo(self.available, self.total) if "/" in due or not self.moments else None,
            self.pressure(self) if "/" in due else None,
            appeared,
            (),
            tuple(self.facts_of(path) for path in sorted(due - {"/"})),
            tuple(self.stalls),
            surveys,
            tuple(self.gone),
            tuple(self.results),
            (KernelKill("/", self.kernel_killed),) if self.kernel_killed else (),
        )
        self.asked, self.gone, self.results, self.stalls, self.kernel_killed = [], [], [], [], 0
        self.spoke.clear()
        return seen

    def _survey(self, root: str) -> tuple[tuple[CgroupFacts, ...], tuple[ProcessFacts, ...]]:
        found = self.processes(root)
        paths = {unit_path(p.cgroup) for p in found} | {path for path in self.oom_groups if is_inside(path, root)}
        return tuple(self.facts_of(path) for path in sorted(paths) if not is_corridor(path)), found

    # -- hands

    def _perform(self, action: Action) -> None:
        match action:
            case Look():
                self.asked.append(action)
            case Nominate():
                self._nominate(action)
            case Dismiss():
                self.awaited.pop(action.token, None)
                self.tokens.pop(action.token, None)
            case Kill():
                self._kill(action)
            case Lease():
                self.leases[action.token] = action
            case Release():
                del self.leases[action.token]
            case _:
                pass

    def _nominate(self, action: Nominate) -> None:
        errno = self.refuse(action)
        bodies = self._meant(action)
        if errno or not bodies:
            self.results.append(Result(action.victim.token, "Nominate", errno or ESRCH))
            return
        self.tokens[action.victim.token] = action
        self.awaited[action.victim.token] = bodies

    def _meant(self, action: Nominate) -> list[Body]:
        victim = action.victim
        if victim.take == "cgroup":
            return [body for body in self.bodies if is_inside(body.facts.cgroup, victim.cgroup)]
        meant = {(p.pid, p.start_ticks) for p in victim.processes}
        return [body for body in self.bodies if (body.pid, body.facts.start_ticks) in meant]

    def _kill(self, action: Kill) -> None:
        guard = next(g for g in self.policy.guards if g.name == action.target.guard)
        if guard.mode == "observe" or action.by == "deadman":
            return
        nominated = self.tokens.get(action.token)
        bodies = self._meant(nominated) if nominated is not None else []
        if not bodies:
            self.results.append(Result(action.token, "Kill", ESRCH))
        for body in bodies:
            if body.obeys == action.signal or (body.obeys == "TERM" and action.signal == "KILL"):
                ends = self.at + int(body.dies_ms * MS)
                body.ends_ns = min(body.ends_ns or ends, ends)

    # -- what happened

    def lines(self) -> list[str]:
        """Every action as "<ms> <line>"."""
        return [f"{moment.at_ms:.0f} {brief(action)}" for moment in self.moments for action in moment.actions]

    def told(self, message: str) -> list[str]:
        return [a.text for m in self.moments for a in m.actions if isinstance(a, Notify) and a.message == message]

    def actions(self, kind: type) -> list[Action]:
        return [action for moment in self.moments for action in moment.actions if isinstance(action, kind)]

    def killed(self) -> list[int]:
        return [pid for _, pid, by in self.died if by == "us"]

    def phases(self, guard: str = "host") -> list[str]:
        """The phases of this guard's target, each change once."""
        way: list[str] = []
        for moment in self.moments:
            for target, phase in moment.phases.items():
                if target.guard == guard and (not way or way[-1] != phase):
                    way.append(phase)
        return way
