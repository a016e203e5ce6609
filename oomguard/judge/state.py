"""What the judge remembers from turn to turn. Frozen; ``decide`` makes the next one."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final, Literal, TypeVar

from ..model.codec import PLAIN, from_plain, to_plain
from ..model.facts import CgroupFacts, MemInfo, Pressure, TargetId
from ..model.verdict import Ranking, Victim
from .detect import Phase
from .escalate import Pursuit


@dataclass(frozen=True, slots=True)
class Held:
    """A lease that is out: what was set, where, for what, and until when (0: until it is released)."""

    token: int
    purpose: Literal["tripwire", "brake", "step", "insurance"]
    cgroup: str
    inode: int
    pid: int
    value: int
    until_ns: int = 0


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
    missed_ns: int = 0  # a survey did not come: none is asked for before that
    nominee: Victim | None = None
    former: Victim | None = None  # the nominee before: what the dead man has struck may be that one
    ranking: Ranking | None = None
    reserve: tuple[Victim, ...] = ()
    pursuit: Pursuit | None = None
    grace_ns: int = 0
    again_ns: int = 0  # nothing else is ended before that
    told_ns: int = 0  # when "nobody may be taken" or "budget spent" was last said
    leases: tuple[Held, ...] = ()
    uninsurable: frozenset[int] = frozenset()  # pids whose oom_score_adj could not be raised, until it is calm
    kills: tuple[int, ...] = ()  # when, as far as a budget reaches back

    @property
    def tripped(self) -> bool:
        """Whether a tripwire is out: then the kernel itself stops what crosses it."""
        return any(lease.purpose == "tripwire" for lease in self.leases)


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
    targets: Mapping[TargetId, TargetState] = field(default_factory=lambda: MappingProxyType({}))
    stuck: frozenset[tuple[int, int]] = frozenset()
    host: MemInfo | None = None
    pressure: Pressure | None = None
    past: Mapping[TargetId, tuple[int, ...]] = field(default_factory=lambda: MappingProxyType({}))  # kills before
    next_token: int = 1
    next_incident: int = 1
    counters: Counters = Counters()


_Own = TypeVar("_Own", Held, Pursuit, Counters)
_OURS: Final = frozenset((TargetState, Held, Pursuit, Counters))
_BY_TARGET: Final = ("targets", "past")
REMEMBERED: Final = 64  # targets of one checkpoint: those at rest among a thousand have no say in an engagement


def remember(state: State, first: Iterable[TargetId] = ()) -> dict[str, Any]:
    """The state as plain data, for the record: of the targets ``first``, then those that are not calm, then others.

    {"kind": "State", "targets": [...], "left_out": how many more there were, and the other fields of State};
    ``recall`` takes it back.
    """
    wanted = set(first)
    order = sorted(state.targets, key=lambda t: (t not in wanted, state.targets[t].phase == "calm"))
    chosen = set(order[:REMEMBERED])
    plain: dict[str, Any] = {"kind": PLAIN}
    plain |= {name: _plain(getattr(state, name)) for name in _PARTS[State] if name not in _BY_TARGET}
    plain["targets"] = [_plain(known) for target, known in state.targets.items() if target in chosen]
    plain["past"] = [[to_plain(target), list(kills)] for target, kills in state.past.items()][:REMEMBERED]
    plain["left_out"] = max(0, len(order) - REMEMBERED)
    return plain


def recall(plain: Mapping[str, Any]) -> State:
    """The state that was remembered. Fields that this version does not know are ignored.

    KeyError, TypeError: it was not made by ``remember``.
    """
    known: dict[str, Any] = {name: plain[name] for name in _PARTS[State] if name in plain and name not in _BY_TARGET}
    known |= {name: from_plain(known.get(name)) for name in ("host", "pressure")}
    known |= {"ours": frozenset(known["ours"]), "stuck": frozenset((pid, ticks) for pid, ticks in known["stuck"])}
    targets = [_target(row) for row in plain["targets"]]
    return State(
        **known | {"counters": _own(Counters, known["counters"])},
        targets=MappingProxyType({target.id: target for target in targets}),
        past=MappingProxyType({from_plain(target): tuple(kills) for target, kills in plain["past"]}),
    )


def _plain(value: Any) -> Any:
    if type(value) in _OURS:
        return {part.name: _plain(getattr(value, part.name)) for part in fields(type(value))}
    if isinstance(value, frozenset):
        return sorted(_plain(item) for item in value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return to_plain(value)


def _target(row: Mapping[str, Any]) -> TargetState:
    parts = ("pursuit", "leases", "uninsurable")
    known = {name: from_plain(row[name]) for name in _PARTS[TargetState] if name in row and name not in parts}
    pursuit = row["pursuit"]
    return TargetState(
        **known
        | {
            "pursuit": None if pursuit is None else _own(Pursuit, pursuit | {"victim": from_plain(pursuit["victim"])}),
            "leases": tuple(_own(Held, lease) for lease in row["leases"]),
            "uninsurable": frozenset(row["uninsurable"]),
        }
    )


def _own(kind: type[_Own], row: Mapping[str, Any]) -> _Own:
    return kind(**{part.name: row[part.name] for part in fields(kind) if part.name in row})


_Known = TypeVar("_Known", TargetState, State, Counters)
_PARTS = {kind: tuple(part.name for part in fields(kind)) for kind in (TargetState, State, Counters)}
_TAKE = {kind: attrgetter(*names) for kind, names in _PARTS.items()}


def evolve(known: _Known, **changes: Any) -> _Known:
    """``dataclasses.replace`` for what changes several times in every turn, in half its time: 6 us against 12."""
    kind = type(known)
    parts = dict(zip(_PARTS[kind], _TAKE[kind](known), strict=True))
    parts.update(changes)
    return kind(**parts)
