"""An incident judged again: by the policy of its day, which must rule the same, or by another one.

``again`` starts with what the judge remembered when the incident opened (``Turn.seed``) and compares every action of
every turn. ``under`` gives all turns of the ring to another policy, whose judge remembers nothing. What was recorded is
what followed from what was done then: after the first kill that differs it shows another world, and nothing is claimed.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Final

from ..judge.decide import begin, decide
from ..judge.detect import mib
from ..judge.glob import is_inside
from ..judge.recall import joined, recall
from ..judge.select import selects
from ..judge.state import State
from ..model.codec import from_plain
from ..model.facts import CgroupFacts, Observation, Result, Stalled, Survey, TargetId, TargetSeen, VictimGone
from ..model.incident import Turn
from ..model.policy import Budget, Daemon, Guard, LevelAbove, Plan, StallAbove
from ..model.verdict import Action, Close, Dismiss, Kill, Lease, Look, Mute, Nominate, Notify, Release, Snapshot, Victim

_FRESH_NS: Final = 2_000_000_000  # a look as old as that may stand in for one that nobody took
_LATE_NS: Final = 10_000_000_000  # and one that was taken as much later


class CannotReplay(ValueError):
    """There is nothing in it that could be judged. The text says why."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One turn that was judged otherwise; lines for people, as it was recorded and as it is judged now."""

    number: int
    at_ms: float
    was: tuple[str, ...]
    now: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fate:
    """The first kill of an engagement: of whom, and when (ms from the opening); None: nobody was to die."""

    what: str
    at_ms: float
    identity: tuple[object, ...]


@dataclass(slots=True)
class Replay:
    """What came of it. ``part``: why not all of it could be judged; empty: all."""

    id: str
    turns: int = 0
    differences: list[Difference] = field(default_factory=list)
    was: Fate | None = None
    now: Fate | None = None
    part: str = ""
    exact: bool = True  # judged by the policy of its day, from the very memory of that moment

    @property
    def changed(self) -> bool:
        """By the same policy: whether any action is another. By another policy: whether another dies, or somebody."""
        if self.exact:
            return bool(self.differences)
        return (self.was and self.was.identity) != (self.now and self.now.identity)

    def plain(self) -> dict[str, object]:
        """For programs."""
        return {
            "id": self.id,
            "turns": self.turns,
            "exact": self.exact,
            "part": self.part,
            "changed": self.changed,
            "was": _plain_fate(self.was),
            "now": _plain_fate(self.now),
            "differences": [
                {"number": d.number, "at_ms": d.at_ms, "was": list(d.was), "now": list(d.now)} for d in self.differences
            ],
        }


def again(incident: Mapping[str, Any]) -> Replay:
    """The same policy over the same turns. CannotReplay: it has none, or is older than the seed of a replay."""
    turns = _turns(incident)
    target, number = TargetId(incident["policy"], incident["cgroup"]), incident["number"]
    any_one = incident["kind"] == "recording"
    opening = (place for place, t in enumerate(turns) if t.seed and (any_one or _opens(t, target, number)))
    start = next(opening, None)
    if start is None:
        raise CannotReplay(_why_not(incident, turns))
    first = turns[start].seed
    assert first is not None
    plan, state = _plan(first.guards, first.budget), recall(first)
    replay = Replay(incident["id"], part=_lost(incident, turns[start:]))
    theirs = _nominees(state)
    ours, opened = dict(theirs), incident["opened_ns"]
    for turn in turns[start:]:
        if not _was_judged(turn):
            continue
        if turn.seed is not None:
            state, plan = joined(state, turn.seed), _plan(turn.seed.guards, turn.seed.budget)
        before = state
        state, actions = decide(plan, state, turn.seen)
        known = before.targets.keys() | state.targets.keys()
        was = tuple(action for action in turn.actions if action.target in known)
        theirs |= _victims(was)
        ours |= _victims(actions)
        replay.turns += 1
        if was != actions and _wordless(was) != _wordless(actions):
            replay.differences.append(_difference(turn, opened, _lines(was, theirs), _lines(actions, ours)))
        replay.was = replay.was or _first_kill(was, theirs, turn, opened)
        replay.now = replay.now or _first_kill(actions, ours, turn, opened)
    return replay


def under(incident: Mapping[str, Any], guards: Sequence[Guard]) -> Replay:
    """Another policy over the same turns, from the first one of the ring to the first kill of either."""
    turns = _turns(incident)
    if not turns:
        raise CannotReplay(_why_not(incident, turns))
    court = _Court(incident, turns, guards)
    replay = Replay(incident["id"], part=_lost(incident, turns), exact=False)
    opened = incident["opened_ns"]
    for turn in turns:  # glances, too: another policy might have seen more in them
        was, now = court.judge(turn)
        replay.turns += 1
        told, tells = _lines(was, court.theirs), _lines(now, court.ours)
        if told != tells:
            replay.differences.append(Difference(turn.number, _ms(turn.seen.at_ns - opened), told, tells))
        replay.was = replay.was or _first_kill(was, court.theirs, turn, opened)
        replay.now = replay.now or _first_kill(now, court.ours, turn, opened)
        if replay.was and replay.now:
            break
    replay.part = replay.part or court.doubt()
    return replay


# -- the same judge ----------------------------------------------------------------------------------------------------


def _turns(incident: Mapping[str, Any]) -> list[Turn]:
    try:
        return [from_plain(plain) for plain in incident["ring"] if plain["kind"] == "Turn"]
    except (KeyError, TypeError) as error:
        raise CannotReplay(f"its turns are of another version: {error}") from None


def _opens(turn: Turn, target: TargetId, number: int) -> bool:
    return any(isinstance(a, Snapshot) and a.target == target and a.incident == number for a in turn.actions)


def _why_not(incident: Mapping[str, Any], turns: Sequence[Turn]) -> str:
    if incident["kind"] == "recording":
        return "nothing began in it, so there is no verdict; say --policy FILE to try one on it"
    if not incident["policy"]:
        return "no guard covers it: nothing was judged"
    if not turns:
        return "it holds no turns"
    if lost := _lost(incident, ()):
        return f"the turn in which it began is not in it: lost {lost}"
    return f"oomguard {incident['version']} did not record with what memory the judge began"


def _plan(guards: Sequence[Guard], budget: Budget | None = None) -> Plan:
    return Plan("replay", Daemon(budget=budget), tuple(guards))


def _lost(incident: Mapping[str, Any], turns: Iterable[Turn]) -> str:
    lost = {what: count for what, count in incident["lost"].items() if what in ("ring_gaps", "ring_cut", "ring")}
    if cut := sum(turn.cut > 0 for turn in turns):
        lost["turns whose surveys were cut"] = cut
    return ", ".join(f"{count} {what}" for what, count in lost.items())


def _was_judged(turn: Turn) -> bool:
    """Not a glance, and not what the daemon says of itself."""
    sources = {wake.source for wake in turn.seen.wakes}
    return sources != {"glance"} and (bool(sources) or turn.seen.host is not None or turn.seen.cgroups != ())


def _nominees(state: State) -> dict[int, Victim]:
    return {known.nominee.token: known.nominee for known in state.targets.values() if known.nominee is not None}


def _difference(turn: Turn, opened_ns: int, was: tuple[str, ...], now: tuple[str, ...]) -> Difference:
    if was == now:  # the same verdict, done in another way
        was, now = ("as recorded",), ("other leases or looks",)
    return Difference(turn.number, _ms(turn.seen.at_ns - opened_ns), was, now)


_WORDS = {"why", "text", "outcome", "descent"}


def _wordless(value: object) -> object:
    """What was decided, without what was said of it: another version may say the same in other words."""
    if type(value) is tuple:
        return tuple(_wordless(each) for each in value)
    if is_dataclass(value):
        told = (each.name for each in fields(value) if each.name not in _WORDS)
        return type(value), tuple(_wordless(getattr(value, name)) for name in told)
    return value


# -- another judge -----------------------------------------------------------------------------------------------------


class _Court:
    """Another policy's judge, and the recording as it would have been brought before it.

    Tokens are given out by each judge for itself, so what was told of a victim is told by who that is.
    """

    def __init__(self, incident: Mapping[str, Any], turns: Sequence[Turn], guards: Sequence[Guard]) -> None:
        seeds = [turn.seed for turn in turns if turn.seed]
        self.plan = _plan(guards)
        ours, own = (seeds[0].ours, seeds[0].own_cgroup) if seeds else ((), "")
        self.state = begin(incident.get("ours", ours), incident.get("own_cgroup", own))
        self.recording = incident["kind"] == "recording"
        self.target = TargetId(incident["policy"], incident["cgroup"])
        told = incident.get("guards") or [guard for guard in [incident["guard"]] if guard]
        recorded = seeds[0].guards if seeds else from_plain(told)
        self.stalls = {s.number: s for guard in recorded for s in _stalls(guard)}
        self.theirs: dict[int, Victim] = {}
        self.ours: dict[int, Victim] = {}
        self.asked: list[Look] = []
        self.surveys = [(turn.seen.at_ns, survey) for turn in turns for survey in turn.seen.surveys]
        self.paths = sorted({facts.path for turn in turns for facts in _all_cgroups(turn.seen)})
        self.known: set[TargetId] = set()
        self.unseen = 0
        self.borrowed_ns = 0
        self.deaf = False
        self.own = incident["cgroup"]

    def judge(self, turn: Turn) -> tuple[tuple[Action, ...], tuple[Action, ...]]:
        """(what was decided then, what would be now), without what is between judge and senses."""
        self.theirs |= _victims(turn.actions)
        seen = self._brought(turn.seen)
        self.state, actions = decide(self.plan, self.state, seen)
        self.asked = [action for action in actions if isinstance(action, Look)]
        self.ours |= _victims(actions)
        was = tuple(action for action in turn.actions if action.target == self.target or self.recording)
        was = tuple(action for action in was if action.target.guard)  # else it is of the daemon itself
        now = tuple(action for action in actions if self._concerns(action.target))
        return was, now

    def _concerns(self, target: TargetId) -> bool:
        """Another guard's engagement elsewhere is another incident's."""
        return is_inside(target.cgroup, self.own) or is_inside(self.own, target.cgroup)

    def doubt(self) -> str:
        """What was not recorded because that day's policy had not asked for it."""
        doubts = []
        if self.unseen:
            doubts.append("nobody had looked who could be taken")
        if self.borrowed_ns:
            doubts.append(f"who is taken is told by a look {abs(self.borrowed_ns) / 1e9:.1f} s away")
        if self.deaf:
            doubts.append("its stall_above was not listened to")
        if asked := sorted({guard.xattr_name for guard in self.plan.guards if guard.xattr}):
            doubts.append(f"which cgroups had {', '.join(asked)} is not recorded: every one is taken to have it")
        return "; ".join(doubts)

    def _brought(self, seen: Observation) -> Observation:
        groups = {facts.path: facts for facts in _all_cgroups(seen)}
        appeared = tuple(self._appear(groups, first=not self.known))
        here = tuple(groups[path] for path in groups if any(path == target.cgroup for target in self.known))
        gone_paths = {target.cgroup for target in seen.vanished}
        vanished = tuple(target for target in self.known if target.cgroup in gone_paths)
        self.known -= set(vanished)
        return replace(
            seen,
            appeared=appeared,
            vanished=vanished,
            cgroups=here,
            stalls=tuple(self._stalled(seen.stalls)),
            surveys=tuple(self._looked(seen)),
            gone=tuple(VictimGone(t, gone.at_ns) for gone in seen.gone for t in self._token(gone.token)),
            results=tuple(replace(r, token=t) for r in seen.results if _is_answer(r) for t in self._token(r.token)),
        )

    def _appear(self, groups: Mapping[str, CgroupFacts], first: bool) -> Iterator[TargetSeen]:
        for guard in self.plan.guards:
            if guard.cgroup == "/":
                found = ["/"] if first else []
            else:
                found = [path for path in self.paths if path in groups and selects(guard.cgroup, path)]
            for path in found:
                target = TargetId(guard.name, path)
                if target not in self.known:
                    self.known.add(target)
                    yield TargetSeen(target, groups.get(path))

    def _stalled(self, stalls: Iterable[Stalled]) -> Iterator[Stalled]:
        for target in self.known:
            guard = next(guard for guard in self.plan.guards if guard.name == target.guard)
            for wanted in _stalls(guard):
                same = [n for n, s in self.stalls.items() if replace(s, number=0) == replace(wanted, number=0)]
                self.deaf = self.deaf or not same
                if any(s.condition in same and s.target.cgroup == target.cgroup for s in stalls):
                    yield Stalled(target, wanted.number)

    def _looked(self, seen: Observation) -> Iterator[Survey]:
        for look in self.asked:
            found = next((s for s in seen.surveys if is_inside(look.target.cgroup, s.target.cgroup)), None)
            if found is None:
                found = self._borrowed(look, seen.at_ns)
            if found is not None:
                yield _narrowed(found, look)

    def _borrowed(self, look: Look, at_ns: int) -> Survey | None:
        near = [(at, s) for at, s in self.surveys if is_inside(look.target.cgroup, s.target.cgroup)]
        before = [pair for pair in near if 0 <= at_ns - pair[0] <= _FRESH_NS]
        after = [pair for pair in near if 0 < pair[0] - at_ns <= _LATE_NS]
        if not before and not after:
            self.unseen += 1
            return None
        at, survey = before[-1] if before else after[0]
        if not self.borrowed_ns or abs(at - at_ns) > abs(self.borrowed_ns):
            self.borrowed_ns = at - at_ns
        return survey

    def _token(self, theirs: int) -> Iterator[int]:
        victim = self.theirs.get(theirs)
        if victim is not None:
            yield from (token for token, known in self.ours.items() if _identity(known) == _identity(victim))


def _is_answer(result: Result) -> bool:
    return result.what in ("Kill", "Nominate", "Reap")


def _narrowed(survey: Survey, look: Look) -> Survey:
    inside = look.target.cgroup
    return replace(
        survey,
        target=look.target,
        depth=look.depth,
        cgroups=tuple(facts for facts in survey.cgroups if is_inside(facts.path, inside)),
        processes=tuple(process for process in survey.processes if is_inside(process.cgroup, inside)),
    )


def _all_cgroups(seen: Observation) -> Iterator[CgroupFacts]:
    for survey in seen.surveys:
        yield from survey.cgroups
    yield from (new.facts for new in seen.appeared if new.facts is not None)
    yield from seen.cgroups  # last: what was read for its own sake counts


def _stalls(guard: Guard) -> Iterator[StallAbove | LevelAbove]:
    for watermark in (guard.soft, guard.hard):
        for clause in watermark.when if watermark is not None else ():
            yield from (condition for condition in clause.all_of if isinstance(condition, StallAbove | LevelAbove))


# -- in words ----------------------------------------------------------------------------------------------------------


def _victims(actions: Iterable[Action]) -> dict[int, Victim]:
    return {action.victim.token: action.victim for action in actions if isinstance(action, Nominate)}


def _identity(victim: Victim) -> tuple[object, ...]:
    if victim.take == "cgroup" or not victim.processes:
        return ("cgroup", victim.cgroup)
    return (victim.take, victim.processes[0].pid, victim.processes[0].start_ticks)


def _name(victim: Victim | None) -> str:
    if victim is None:
        return "its nominee"
    if victim.take == "cgroup" or not victim.processes:
        return victim.cgroup
    root = f"{victim.processes[0].comm}[{victim.processes[0].pid}]"
    return root if victim.count <= 1 else f"{root} and {victim.count - 1} below it"


def _first_kill(actions: Iterable[Action], victims: Mapping[int, Victim], turn: Turn, opened_ns: int) -> Fate | None:
    for action in actions:
        if isinstance(action, Kill):
            victim = victims.get(action.token)
            identity = _identity(victim) if victim is not None else ("token", action.token)
            return Fate(_name(victim), _ms(turn.seen.at_ns - opened_ns), identity)
    return None


def _lines(actions: Iterable[Action], victims: Mapping[int, Victim]) -> tuple[str, ...]:
    """What a reader calls a verdict, a line each; looks, mutes and leases are how, not what."""
    return tuple(line for action in actions if (line := _line(action, victims)))


def _line(action: Action, victims: Mapping[int, Victim]) -> str:
    match action:
        case Snapshot():
            return f"{action.watermark}: {action.why}"
        case Nominate():
            return f"nominate: {_name(action.victim)}, which holds {mib(action.victim.held_bytes)}"
        case Kill():
            return f"kill: SIG{action.signal} to {_name(victims.get(action.token))}"
        case Notify():
            return f"tell {action.message}: {action.text}"
        case Close():
            return f"close: {action.outcome}"
        case Dismiss():
            return f"dismiss: {_name(victims.get(action.token))}"
        case Look() | Mute() | Lease() | Release():
            return ""
        case _:
            return ""


def _plain_fate(fate: Fate | None) -> dict[str, object] | None:
    return None if fate is None else {"what": fate.what, "at_ms": fate.at_ms}


def _ms(ns: int) -> float:
    return round(ns / 1e6, 3)
