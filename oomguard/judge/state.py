"""What the judge remembers from turn to turn. Frozen; ``decide`` makes the next one."""

from dataclasses import dataclass, field, fields
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final, Literal, TypeVar

from ..model.facts import CgroupFacts, Compressed, MemInfo, Pressure, Refaults, TargetId
from ..model.incident import Seed
from ..model.policy import Plan
from ..model.verdict import Action, LeaseFile, Purpose, Ranking, Snapshot, Victim
from .detect import Phase
from .escalate import AT_THE_FOOT, Climb, Pursuit
from .trend import Track

SOFT_QUIET_NS: Final = 60_000_000_000  # what hovers at its soft watermark makes one incident in so long at most


@dataclass(frozen=True, slots=True)
class Held:
    """A lease that is out: what was set, where, for what, and until when (0: until it is released)."""

    token: int
    purpose: Purpose
    cgroup: str
    inode: int
    pid: int
    value: int
    until_ns: int = 0
    file: LeaseFile = "memory.high"


@dataclass(frozen=True, slots=True)
class Hold:
    """The cgroup in which the nominee lives, for what is done to all of it; ``why_not``: it must not be, "" it may.

    The same of the unit that systemd could be asked to restart.
    """

    path: str
    inode: int
    why_not: str
    unit: str = ""
    unit_why_not: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A kill that was decided and not done; and who did what about it since: (when, what), 0 nobody."""

    at_ns: int
    what: str
    kernel: tuple[int, str] = (0, "")
    policy: tuple[int, str] = (0, "")


@dataclass(frozen=True, slots=True)
class Ban:
    """A process that could not be ended is not named again until then; the next time for twice as long."""

    pid: int
    start_ticks: int
    until_ns: int
    for_ns: int


@dataclass(frozen=True, slots=True)
class TargetState:
    """One guard on one cgroup."""

    id: TargetId
    phase: Phase = "calm"
    entered_ns: int = 0  # when the phase was entered
    facts: CgroupFacts | None = None  # the last seen; None: the machine, or not seen yet
    soft_since: tuple[int, ...] = ()  # per clause: holds since, 0 does not
    hard_since: tuple[int, ...] = ()
    clear_since_ns: int = 0  # clearly over both watermarks since then, 0: is not
    stalls: tuple[tuple[int, int], ...] = ()  # (number of a stall_above condition, holds until)
    tracks: tuple[tuple[int, Track], ...] = ()  # (number of a condition, what was before), of those that ask for it
    falling_ns: int = 0  # when headroom was last seen to shrink, 0: never
    used_bytes: int = 0
    look_ns: int = 0  # the next deadline
    glance_bytes: int = 0  # while MemFree is over this, that deadline may be put off; 0: it may not
    quiet_bytes: int = 0  # the same for memory.current, while it is under this
    muted_ns: int = 0
    incident: int = 0  # number of the open one, 0: none
    hard_told: bool = False  # this engagement's hard watermark is in the incident
    ended: int = 0  # victims of this engagement that are gone
    last_soft_ns: int = 0  # when the last soft snapshot was taken
    asked: Literal["", "heaviest", "whole"] = ""  # the survey that is to come
    survey_ns: int = 0
    survey_took_ns: int = 0
    weighed: tuple[tuple[int, tuple[tuple[str, tuple[int, int]], ...]], ...] = ()  # (when, units as then weighed)
    missed_ns: int = 0  # a survey did not come: none is asked for before that
    nominee: Victim | None = None
    former: Victim | None = None  # the nominee before: what the dead man has struck may be that one
    ranking: Ranking | None = None
    reserve: tuple[Victim, ...] = ()
    pursuit: Pursuit | None = None
    soft_climb: Climb = AT_THE_FOOT  # how far soft's list of actions has come in this engagement
    hard_climb: Climb = AT_THE_FOOT
    by_soft: bool = False  # whether soft's own list has led to firing
    hold: Hold | None = None  # of the nominee, as a whole; only for policies that ask for it
    grace_ns: int = 0
    again_ns: int = 0  # nothing else is ended before that
    rest_ns: int = 0  # the same, for a victim of an engagement before this one; twice as bad as hard cuts it short
    tell_soft_ns: int = 0  # when programs were last told to give memory back, at soft and at hard; 0: never
    tell_hard_ns: int = 0
    told_ns: int = 0  # when "nobody may be taken" or "budget spent" was last said
    leases: tuple[Held, ...] = ()
    uninsurable: frozenset[int] = frozenset()  # pids whose oom_score_adj could not be raised, until it is calm
    verdict: Verdict | None = None  # whom it would have killed in this engagement, and did not
    kills: tuple[int, ...] = ()  # when, as far as a budget reaches back

    @property
    def tripped(self) -> bool:
        """Whether a tripwire is out: then the kernel itself stops what crosses it."""
        return "tripwire" in [lease.purpose for lease in self.leases]  # any() takes three times as long

    def told_lately(self, at_ns: int) -> bool:
        """Whether its last soft snapshot was a moment ago: then there is no incident of another one."""
        return self.last_soft_ns > 0 and at_ns - self.last_soft_ns < SOFT_QUIET_NS


@dataclass(frozen=True, slots=True)
class Counters:
    """Since the start, for status."""

    snapshots: int = 0
    kills: int = 0
    kernel_oom_kills: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """Everything. ``ours`` are the daemon's own pids, ``own_cgroup`` where it lives."""

    ours: frozenset[int] = frozenset()
    own_cgroup: str = ""
    targets: MappingProxyType[TargetId, TargetState] = field(default_factory=lambda: MappingProxyType({}))
    stuck: tuple[Ban, ...] = ()
    host: MemInfo | None = None
    pressure: Pressure | None = None
    refaults: Refaults | None = None
    compressed: Compressed | None = None
    # When those were killed that are gone.
    past: MappingProxyType[TargetId, tuple[int, ...]] = field(default_factory=lambda: MappingProxyType({}))
    spent: tuple[int, ...] = ()  # when anybody was killed, as far as the host's budget reaches back
    # Where the kernel has killed in calm: the number of that incident, and when it struck last.
    struck: MappingProxyType[TargetId, tuple[int, int]] = field(default_factory=lambda: MappingProxyType({}))
    next_token: int = 1
    next_incident: int = 1
    shadows: int = 0  # tokens and incidents of shadows are below 0: what they decide changes no number of the others
    counters: Counters = Counters()
    renewed: tuple[str, ...] = ()  # guards whose policy was changed since the last turn, and that go on (``renew``)


# Of the state, what a seed has under the same name. ``recall`` reads it by the same list.
KEPT = (
    "ours",
    "own_cgroup",
    "stuck",
    "host",
    "pressure",
    "refaults",
    "compressed",
    "spent",
    "shadows",
    "next_token",
    "next_incident",
    "renewed",
)
_HOME = __name__.rpartition(".")[0]
_Known = TypeVar("_Known", TargetState, State, Counters)
_PARTS = {kind: tuple(part.name for part in fields(kind)) for kind in (TargetState, State, Counters)}
_TAKE = {kind: attrgetter(*names) for kind, names in _PARTS.items()}


def evolve(known: _Known, **changes: Any) -> _Known:
    """``dataclasses.replace`` for what changes several times in every turn, in half its time: 6 us against 12."""
    kind = type(known)
    parts = dict(zip(_PARTS[kind], _TAKE[kind](known), strict=True))
    parts.update(changes)
    return kind(**parts)


def seed(plan: Plan, before: State, actions: tuple[Action, ...], renewed: bool = False, at_ns: int = 0) -> Seed | None:
    """The memory with which a turn was judged that opened an incident; None: it opened none.

    ``renewed``: by new guards for the first time; an incident that is open goes on under them. ``at_ns``: the turn's.
    """
    known = before.targets
    opened = {a.target for a in actions if isinstance(a, Snapshot)}
    opened = {target for target in opened if target not in known or not known[target].incident}
    if not opened and not (renewed and any(state.incident for state in known.values())):
        return None
    told = [s for s in known.values() if s.phase != "calm" or s.id in opened or _remembers(s, at_ns)]
    names = _PARTS[TargetState]
    return Seed(
        names=names,
        targets=tuple(tuple(_told(getattr(state, name)) for name in names) for state in told),
        guards=plan.guards,
        budget=plan.daemon.budget,
        struck=tuple((target, number, at_ns) for target, (number, at_ns) in before.struck.items()),
        past=tuple(before.past.items()),
        **{name: _told(getattr(before, name)) for name in KEPT},
    )


def _remembers(state: TargetState, at_ns: int) -> bool:
    """Whether a calm one is not as a new one would be: it has just told of itself, or has killed."""
    return state.told_lately(at_ns) or bool(state.kills) or state.rest_ns > at_ns


def _told(value: Any) -> Any:
    """In values of the model alone, which is what the recorder's code knows."""
    if type(value) is tuple:
        return tuple(_told(item) for item in value)
    if type(value).__module__.startswith(_HOME):
        return tuple(_told(getattr(value, part.name)) for part in fields(value))
    return tuple(value) if isinstance(value, frozenset) else value
