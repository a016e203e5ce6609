"""One incident as a fold over turns: what the scribe writes down and what the herald tells. No clock, no file.

A story belongs to one target. It opens with the turn that holds a Snapshot (or, for a kernel kill that no guard
covers, with the fact), takes every turn that follows, and ends with Close. Numbers come from the turns alone, so
that the same story can be told again from a recording.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal

from ..model.codec import to_plain
from ..model.facts import KernelKill, Observation, Result, TargetId
from ..model.incident import SCHEMA_VERSION, Turn
from ..model.policy import Guard
from ..model.verdict import (
    Candidate,
    Close,
    Kill,
    Lease,
    Nominate,
    Notify,
    Outcome,
    ProcessRef,
    Ranking,
    Reclaim,
    Release,
    Run,
    Snapshot,
    Tell,
    UnitJob,
    Victim,
)
from .freed import Gauge, Level, rose
from .whynot import Before, unwatched, why
from .words import covers, name, size

Kind = Literal["soft", "hard", "kernel", "stall"]
Milestone = Literal["nominated", "hard", "killed", "gone", "kernel", "closed"]

# What an incident is called by: the watermark that was reached. "kernel": the kernel killed, and our hard watermark had
# not even been crossed. (That it killed beside us, or because we only observed, is told by killed_by.)
_WORSE: Final[dict[str, int]] = {"stall": -1, "soft": 0, "kernel": 1, "hard": 2}
_NS_PER_MS: Final = 1_000_000
_GIVEN_NS: Final = 5_000_000_000  # a collection of garbage and a trim of a large heap take a second or two
# A storm can go on for hours; its first and worst minutes are what is read.
_REPORTS_MAX: Final = 10
_REFUSALS: Final = ("NO_VICTIM", "BUDGET_SPENT")
_TIMELINE_MAX: Final = 400
_KILLS_MAX: Final = 200
_VICTIMS_MAX: Final = 1000
_MEMBERS_MAX: Final = 512  # of a cgroup, by name; all of them are counted
# These say what the timeline already says in its own words.
_TOLD_OTHERWISE: Final = frozenset({"SOFT", "HARD", "KILLED", "VICTIM_GONE", "CALM", "KERNEL_KILLED"})


@dataclass(slots=True)
class Death:
    """One attempt at one victim, from its first signal to its end."""

    token: int
    victim: Victim | None
    why: str
    signal: str
    errno: int | None  # None: no outcome was recorded
    held: bool
    signalled_ns: int
    gone_ns: int | None = None
    reaped_bytes: int = 0

    @property
    def struck(self) -> bool:
        """The signal was really sent."""
        return self.errno == 0 and not self.held

    @property
    def gone_ms(self) -> float | None:
        """From the signal to the end; in observe mode there was no signal."""
        return _ms(self.gone_ns - self.signalled_ns) if self.struck and self.gone_ns is not None else None


class Story:
    """See the module. ``guard`` is None for a kernel kill outside every guard, or a guard that is no longer known."""

    def __init__(
        self,
        target: TargetId,
        number: int,
        opened_ns: int,
        kind: Kind,
        guard: Guard | None,
        nominated: Nominate | None = None,
    ) -> None:
        """``nominated``: who was nominated already; a service that hovers at its soft watermark keeps its nominee."""
        self.target = target
        self.number = number
        self.opened_ns = opened_ns
        self.kind: Kind = kind
        self.guard = guard
        self.why: dict[str, str] = {}
        self.hard_ns: int | None = None
        self.nominee: Victim | None = nominated.victim if nominated else None
        self.ranking: Ranking | None = nominated.ranking if nominated else None
        self.deaths: dict[int, Death] = {}
        self.kernel_kills: list[dict[str, object]] = []
        self.kernel_reports: list[dict[str, object]] = []
        self.refused = ("", "")  # the last message that nobody could be taken, and its text
        self.before = Before()
        self.nearest: TargetId | None = None  # the target that an unwatched cgroup is below
        self.timeline: list[dict[str, object]] = []
        self.timeline_cut = 0
        self.held = False
        self.crossed = False  # the hard watermark, before this story began
        self.outcome = ""
        self.closed = False
        self._gauge = Gauge(target)
        self._leases: dict[int, str] = {}
        self._leased: set[str] = set()
        self._measures: dict[int, str] = {}  # by token, what was begun and has not come back
        self._asked: dict[str, Level] = {}  # by watermark, what there was when programs were told to give back
        self._answered: set[str] = set()  # those of which that was said
        self._who, self._some = "", False  # was told last; whether anybody ever was
        self._nameless: list[dict[str, object]] = []  # timeline entries of kernel kills whose victim has no name yet
        if self.nominee is not None:
            held = f"it held {size(self.nominee.held_bytes)} then"
            self._tell(opened_ns, "nominate", f"{name(self.nominee)} was nominated already; {held}")

    # -- the fold

    def add(self, turn: Turn) -> set[Milestone]:
        """Take one turn; say what it was a milestone of."""
        reached: set[Milestone] = set()
        seen = turn.seen
        self._gauge.look(seen)
        self._facts(seen, reached)
        for kill in seen.kernel_kills:
            if self._ours(kill, turn):
                self.kernel_killed(kill, seen.at_ns)
                reached.add("kernel")
        outcomes = list(turn.outcomes)
        for action in turn.actions:
            match action:
                case Snapshot(target=self.target):
                    self._snapshot(action, seen.at_ns, reached)
                case Nominate(target=self.target):
                    self._nominate(action, seen, reached)
                case Kill(target=self.target):
                    self._kill(action, _take(outcomes, "Kill", action.token), seen, reached)
                case (
                    Lease(target=self.target)
                    | Release(target=self.target)
                    | Reclaim(target=self.target)
                    | UnitJob(target=self.target)
                    | Run(target=self.target)
                ):
                    self._change(action, outcomes, seen.at_ns)
                case Tell(target=self.target):
                    self._ask(action, _take(outcomes, "Tell", action.token), seen)
                case Notify(target=self.target) if action.message not in _TOLD_OTHERWISE:
                    self._notice(action, seen.at_ns)
                case Close(target=self.target):
                    self.outcome, self.closed = action.outcome, True
                    self._tell(seen.at_ns, "close", action.outcome)
                    reached.add("closed")
                case _:
                    pass
        self._given(seen, reached)
        self._gauge.measure(seen, [death.gone_ns for death in self.deaths.values() if death.struck])
        return reached

    def _notice(self, action: Notify, at_ns: int) -> None:
        self._tell(at_ns, "notify", action.text)
        if action.message in _REFUSALS:
            self.refused = (action.message, action.text)

    def _facts(self, seen: Observation, reached: set[Milestone]) -> None:
        self._gone(seen, reached)
        for result in seen.results:
            death = self.deaths.get(result.token)
            if death is not None and result.what == "Reap":
                death.reaped_bytes += result.value
                if result.value:
                    self._tell(seen.at_ns, "reap", f"the reaper took back {size(result.value)} of {self._named(death)}")
            elif result.token in self._measures:
                self._came_of(result, self._measures.pop(result.token), seen.at_ns)

    def _ask(self, action: Tell, outcome: Outcome | None, seen: Observation) -> None:
        if outcome is not None and outcome.held:
            return
        if len(self._measures) < _KILLS_MAX:
            self._measures[action.token] = f"told at {action.watermark} to give memory back"
        if action.watermark not in self._answered:
            self._asked.setdefault(action.watermark, self._gauge.level(seen))

    def _given(self, seen: Observation, reached: set[Milestone]) -> None:
        """What came back after programs were first told, before anything else was done: none of it need be theirs."""
        now, over = self._gauge.level(seen), bool(reached & {"killed", "closed"})
        for mark, before in tuple(self._asked.items()):
            if over or seen.at_ns - before.at_ns >= _GIVEN_NS:
                del self._asked[mark]
                self._answered.add(mark)
                after = f"{_ms(seen.at_ns - before.at_ns) / 1000:.1f} s after programs were told at {mark}"
                self._tell(seen.at_ns, "measure", f"{after}, {rose(before, now, self.target.cgroup)}")

    def _came_of(self, result: Result, what: str, at_ns: int) -> None:
        if result.what == "Tell":
            self._came_of_telling(result, what, at_ns)
            return
        text = f"{what} in {_ms(result.took_ns):.0f} ms"
        if result.what == "Reclaim":
            text = f"{what}: {size(result.value)} in {_ms(result.took_ns):.0f} ms"
        if result.errno:
            text = f"{what}: nothing came of it, errno {result.errno}"
        self._tell(at_ns, "measure", text)

    def _came_of_telling(self, result: Result, what: str, at_ns: int) -> None:
        """Each time anew only if they were others: it is told again and again while it lasts."""
        said = result.who or f"nobody, errno {result.errno}"
        if said != self._who:
            self._who = said
            self._tell(at_ns, "measure", f"{what}: {said} ({_ms(result.took_ns):.1f} ms)")
        self._some = self._some or bool(result.value)
        if not self._some:  # nobody can have given anything
            self._asked.clear()

    def _gone(self, seen: Observation, reached: set[Milestone]) -> None:
        for gone in seen.gone:
            death = self.deaths.get(gone.token)
            if death is not None and death.gone_ns is None:
                death.gone_ns = gone.at_ns
                took = f", {_ms(gone.at_ns - death.signalled_ns):.0f} ms after the signal" if death.struck else ""
                self._tell(gone.at_ns, "gone", f"{self._named(death)} is gone{took}")
                reached.add("gone")

    def _ours(self, kill: KernelKill, turn: Turn) -> bool:
        """The judge names the guard whose kill it is, the innermost; where it names none, whoever covers it."""
        named = [a.target for a in turn.actions if isinstance(a, Snapshot) and a.watermark == "kernel"]
        among = [target for target in named if covers(target.cgroup, kill.cgroup)] or [self.target]
        inner = max(among, key=lambda target: len(target.cgroup))
        return inner == self.target and covers(self.target.cgroup, kill.cgroup)

    def weigh(self, surveys: Iterable[Mapping[str, Any]]) -> None:
        """What the nominee holds by now, from surveys in their plain form. It is nominated once, and grows."""
        nominee = self.nominee
        if nominee is None or nominee.token in self.deaths:
            return
        rows = [row for survey in surveys for row in survey["processes"]]
        if nominee.take == "cgroup":
            self.nominee = _regrouped(nominee, [row for row in rows if covers(nominee.cgroup, row["cgroup"])])
        else:
            self.nominee = _reweighed(nominee, {(row["pid"], row["start_ticks"]): _held(row) for row in rows})

    def kernel_killed(self, kill: KernelKill, at_ns: int) -> None:
        """The kernel's OOM killer struck under our target."""
        self._worsen("kernel")
        who = f"{kill.comm}[{kill.pid}]" if kill.pid else f"{kill.count} process{'es' if kill.count > 1 else ''}"
        if len(self.kernel_kills) < _KILLS_MAX:
            self.kernel_kills.append({"at_ns": at_ns, "pid": kill.pid, "comm": kill.comm, "cgroup": kill.cgroup})
        told = self._tell(at_ns, "kernel", f"the kernel's OOM killer killed {who} in {kill.cgroup}")
        if told is not None and not kill.pid and kill.count == 1:
            self._nameless.append(told)

    def kernel_named(self, pid: int, comm: str, cgroup: str, held_bytes: int) -> None:
        """The kernel's log has named a victim: the facts of a turn may know no more than that there was one.

        When it happened is told by the facts: the log's clock and CLOCK_MONOTONIC drift apart.
        """
        if any(kill.get("pid") == pid and "bytes" in kill for kill in self.kernel_kills):
            return
        known = next((kill for kill in self.kernel_kills if kill.get("pid") in (0, pid)), None)
        at_ns = int(str((known or {"at_ns": self.opened_ns})["at_ns"]))
        row: dict[str, object] = {"pid": pid, "comm": comm, "cgroup": cgroup, "bytes": held_bytes, "at_ns": at_ns}
        if known is not None:
            row["cgroup"] = cgroup or known["cgroup"]
            known.update(row)
        elif len(self.kernel_kills) < _KILLS_MAX:
            self.kernel_kills.append(row)
        self._worsen("kernel")
        text = (
            f"the kernel's OOM killer killed {comm}[{pid}] in {row.get('cgroup') or '?'}, which held {size(held_bytes)}"
        )
        if known is not None and self._nameless:
            self._nameless.pop(0)["text"] = text
        else:
            self._tell(at_ns, "kernel", text)

    def report(self, report: dict[str, object]) -> None:
        """The kernel's own words about one kill, each once."""
        if report not in self.kernel_reports and len(self.kernel_reports) < _REPORTS_MAX:
            self.kernel_reports.append(report)

    def stalled(self, at_ns: int, text: str) -> None:
        """The pressure file says so; who opened it for that, says so too."""
        self.why.setdefault("stall", text)
        self._tell(at_ns, "stall", text)

    def no_guard(self) -> dict[str, str] | None:
        """Why no guard acted, where the kernel did, or nobody in a machine that stood still; None: nobody asks."""
        theirs = self.killed_by() == "kernel"
        if not theirs and self.kind != "stall":
            return None
        if self.nearest is not None and not self.target.guard:
            return unwatched(self.target.cgroup, self.nearest)
        acted = any(death.struck for death in self.deaths.values())
        where = next((str(kill["cgroup"]) for kill in self.kernel_kills if kill["cgroup"]), self.target.cgroup)
        crossed = self.crossed or self.hard_ns is not None
        limit_of = next((str(report["oom_memcg"]) for report in self.kernel_reports), "")
        return why(self.target, self.guard, crossed, acted, self.refused, self.before, where, limit_of)

    def acted_ns(self) -> int | None:
        """When somebody was last struck, by whomever; None: nobody was."""
        ours = [death.signalled_ns for death in self.deaths.values() if death.struck]
        theirs = [int(str(kill["at_ns"])) for kill in self.kernel_kills]
        return max(ours + theirs, default=None)

    def end(self, outcome: str) -> None:
        """Closed by somebody else than the judge."""
        self.outcome, self.closed = outcome, True

    def _snapshot(self, snapshot: Snapshot, at_ns: int, reached: set[Milestone]) -> None:
        self._worsen(snapshot.watermark)
        self.why.setdefault(snapshot.watermark, snapshot.why)
        if snapshot.watermark == "hard":
            reached.add("hard")
            if self.hard_ns is None:
                self.hard_ns = at_ns
        elif snapshot.watermark == "kernel":
            reached.add("kernel")
        if snapshot.watermark != "kernel" or not self.kernel_kills:  # else the fact itself has been told
            self._tell(at_ns, snapshot.watermark, snapshot.why)

    def _nominate(self, action: Nominate, seen: Observation, reached: set[Milestone]) -> None:
        changed = self.nominee is None or _identity(self.nominee) != _identity(action.victim)
        self.nominee, self.ranking = action.victim, action.ranking
        if changed:
            text = f"nominated {name(action.victim)}, which holds {size(action.victim.held_bytes)}"
            self._tell(seen.at_ns, "nominate", text)
            reached.add("nominated")

    def _kill(self, action: Kill, outcome: Outcome | None, seen: Observation, reached: set[Milestone]) -> None:
        errno, held, at_ns = (outcome.errno, outcome.held, outcome.at_ns) if outcome else (None, False, seen.at_ns)
        struck_ns: int | None = None
        if action.by == "deadman":  # it struck before this turn, and memory may have come back since
            struck = (r.value for r in seen.results if r.what == "Deadman" and r.token == action.token)
            at_ns = struck_ns = next(struck, at_ns)
        self.held = self.held or held
        self.ranking = action.ranking or self.ranking
        death = self.deaths.get(action.token)
        if death is None:
            victim = self.nominee if self.nominee is not None and self.nominee.token == action.token else None
            death = Death(action.token, victim, action.why, action.signal, errno, held, at_ns)
            if len(self.deaths) < _KILLS_MAX:
                self.deaths[action.token] = death
            self._gauge.strike(seen, struck_ns)
        else:  # the same victim again: SIGKILL after SIGTERM
            death.signal = action.signal
            death.errno = 0 if 0 in (death.errno, errno) else errno
        self._tell(at_ns, "kill", _kill_text(action, self._named(death), errno, held))
        reached.add("killed")
        self._gone(seen, reached)  # the death that the dead man has caused may have been told together with it

    def _change(self, action: Lease | Release | Reclaim | UnitJob | Run, outcomes: list[Outcome], at_ns: int) -> None:
        match action:
            case Lease():
                self._lease(action, at_ns, _take(outcomes, "Lease", action.token))
            case Release() if action.token in self._leases:
                self._tell(at_ns, "release", f"{self._leases.pop(action.token)} put back")
            case Reclaim() if len(self._measures) < _KILLS_MAX:
                self._measures[action.token] = f"reclaimed from {action.cgroup}"
            case Run() if len(self._measures) < _KILLS_MAX:
                self._measures[action.token] = f"{action.argv[0]} has ended"
            case UnitJob() if len(self._measures) < _KILLS_MAX:
                self._measures[action.token] = f"systemd has taken the order to {action.verb} {action.unit}"
            case _:
                pass

    def _lease(self, action: Lease, at_ns: int, outcome: Outcome | None) -> None:
        what = f"{action.file} of {f'pid {action.pid}' if action.pid else action.cgroup}"
        self._leases[action.token] = what
        if what in self._leased or len(self._leased) > _KILLS_MAX:
            return  # a brake moves many times; its first time is the news
        self._leased.add(what)
        value = size(action.value) if action.file.startswith("memory.") else str(action.value)
        held = " (observe mode: not done)" if outcome and outcome.held else ""
        failed = f" (failed: errno {outcome.errno})" if outcome and outcome.errno else ""
        self._tell(at_ns, "lease", f"{what} set to {value} for a time ({action.purpose}){held}{failed}")

    def _worsen(self, kind: Kind) -> None:
        if _WORSE[kind] > _WORSE[self.kind]:
            self.kind = kind

    def _tell(self, at_ns: int, what: str, text: str) -> dict[str, object] | None:
        if len(self.timeline) >= _TIMELINE_MAX:
            self.timeline_cut += 1
            return None
        entry: dict[str, object] = {"at_ms": _ms(at_ns - self.opened_ns), "what": what, "text": text}
        self.timeline.append(entry)
        return entry

    def _named(self, death: Death) -> str:
        return name(death.victim) if death.victim is not None else f"victim {death.token}"

    # -- what is asked about it

    def freed(self) -> tuple[int | None, str]:
        """Bytes that the deaths gave back, and how that was measured. None: not known."""
        struck = [death for death in self.deaths.values() if death.struck]
        if not struck:
            return 0, "observe mode: nothing was touched" if self.held else "nothing was killed by oomguard"
        return self._gauge.freed(sum(death.reaped_bytes for death in struck))

    def victims(self) -> list[dict[str, object]]:
        """Who was killed, by whom; in observe mode who would have been."""
        found: list[dict[str, object]] = []
        theirs = {kill.get("pid") for kill in self.kernel_kills}
        for death in self.deaths.values():
            if death.victim is None or death.errno != 0:
                continue
            by = "none" if death.held else "oomguard"
            for ref in death.victim.processes or (_stand_in(death.victim),):
                row = {"pid": ref.pid, "comm": ref.comm, "cgroup": ref.cgroup, "bytes": ref.held_bytes, "by": by}
                if not (death.held and ref.pid in theirs):  # whom we would have killed, the kernel did: told once
                    found.append(row)
        for kill in self.kernel_kills:
            if kill.get("pid"):
                row = {key: kill.get(key) for key in ("pid", "comm", "cgroup")}
                found.append({**row, "bytes": kill.get("bytes", 0), "by": "kernel"})
        return found[:_VICTIMS_MAX]

    def killed_by(self) -> str:
        """oomguard if it struck first, kernel if only the kernel did, or before us; else none."""
        ours = min((death.signalled_ns for death in self.deaths.values() if death.struck), default=None)
        theirs = min((int(str(kill["at_ns"])) for kill in self.kernel_kills), default=None)
        if theirs is None and "kernel" in self.why:
            theirs = self.opened_ns
        if ours is None:
            return "none" if theirs is None else "kernel"
        return "oomguard" if theirs is None or ours <= theirs else "kernel"

    def latency_ms(self) -> float | None:
        """From the observation that crossed the hard watermark to the first signal; None: the dead man came before."""
        first = self._first()
        return None if first is None else _latency_ms(first, self.hard_ns)

    def gone_ms(self) -> float | None:
        """From the first signal to the end of that victim."""
        first = self._first()
        return None if first is None else first.gone_ms

    def _first(self) -> Death | None:
        done = [death for death in self.deaths.values() if death.errno == 0]
        return min(done, key=lambda death: death.signalled_ns, default=None)

    def runner_up(self) -> Candidate | None:
        """Who would have been next."""
        ranked = [c for c in self.ranking.candidates if c.rank > 1] if self.ranking else []
        return min(ranked, key=lambda candidate: candidate.rank, default=None)

    def plain(self) -> dict[str, object]:
        """The part of incident.json that turns alone can tell."""
        freed_bytes, freed_how = self.freed()
        held = self.held or not self.target.guard if self.guard is None else self.guard.mode != "enforce"
        mode = "observe" if held else "enforce"
        return {
            "schema": SCHEMA_VERSION,
            "policy": self.target.guard,
            "cgroup": self.target.cgroup,
            "kind": self.kind,
            "mode": mode,
            "killed_by": self.killed_by(),
            "victims": self.victims(),
            "freed_bytes": freed_bytes,
            "freed_how": freed_how,
            "latency_ms": self.latency_ms(),
            "gone_ms": self.gone_ms(),
            "outcome": self.outcome,
            "number": self.number,
            "opened_ns": self.opened_ns,
            "why": dict(self.why),
            "nominee": to_plain(self.nominee),
            "kills": [_plain_death(death, self.hard_ns, self.opened_ns) for death in self.deaths.values()],
            "kernel_kills": list(self.kernel_kills),
            "kernel_reports": list(self.kernel_reports),
            "no_guard": self.no_guard(),
            "ranking": to_plain(self.ranking),
            "timeline": sorted(self.timeline, key=lambda entry: float(str(entry["at_ms"]))),
            "guard": to_plain(self.guard),
        }


def _held(row: Mapping[str, Any]) -> int:
    return int(row["anon_bytes"] + row["shmem_bytes"] + row["swap_bytes"])


def _reweighed(victim: Victim, held: Mapping[tuple[int, int], int]) -> Victim:
    """The same processes, as heavy as they are by now."""
    refs = tuple(
        replace(ref, held_bytes=held.get((ref.pid, ref.start_ticks), ref.held_bytes)) for ref in victim.processes
    )
    grown = sum(ref.held_bytes for ref in refs) - sum(ref.held_bytes for ref in victim.processes)
    return replace(victim, processes=refs, held_bytes=max(0, victim.held_bytes + grown))


def _regrouped(victim: Victim, rows: list[Mapping[str, Any]]) -> Victim:
    """The same cgroup with the processes that it has by now: it is the cgroup that dies."""
    if len(rows) < len(victim.processes):  # a survey of the heaviest may not have looked at all of it
        return victim
    rows.sort(key=_held, reverse=True)
    refs = tuple(
        ProcessRef(row["pid"], row["start_ticks"], row["comm"], row["cgroup"], _held(row))
        for row in rows[:_MEMBERS_MAX]
    )
    return replace(victim, processes=refs, held_bytes=sum(map(_held, rows)), count=max(victim.count, len(rows)))


def _latency_ms(death: Death, hard_ns: int | None) -> float | None:
    return None if hard_ns is None or death.signalled_ns < hard_ns else _ms(death.signalled_ns - hard_ns)


def _ms(ns: int) -> float:
    return round(ns / _NS_PER_MS, 3)


def _take(outcomes: list[Outcome], what: str, token: int) -> Outcome | None:
    """The outcome of one action; each is used once, since a turn may signal the same victim twice."""
    for place, outcome in enumerate(outcomes):
        if outcome.what == what and outcome.token == token:
            return outcomes.pop(place)
    return None


def _identity(victim: Victim) -> tuple[object, ...]:
    if victim.take == "cgroup" or not victim.processes:
        return (victim.cgroup, victim.inode)
    return (victim.processes[0].pid, victim.processes[0].start_ticks)


def _stand_in(victim: Victim) -> ProcessRef:
    """A cgroup of which no member is known by name."""
    return ProcessRef(0, 0, victim.unit or victim.cgroup.rsplit("/", 1)[-1], victim.cgroup, victim.held_bytes)


def _kill_text(action: Kill, who: str, errno: int | None, held: bool) -> str:
    # The judge's reason for a first signal names the victim itself: "leak[812] holding 700 MiB".
    to = action.why if " holding " in action.why else f"{who}: {action.why}"
    if held:
        return f"would have sent SIG{action.signal} to {to} (observe mode)"
    if errno:
        return f"SIG{action.signal} failed with errno {errno}: {to}"
    return f"SIG{action.signal} to {to}"


def _plain_death(death: Death, hard_ns: int | None, opened_ns: int) -> dict[str, object]:
    return {
        "token": death.token,
        "what": name(death.victim) if death.victim else "",
        "take": death.victim.take if death.victim else None,
        "count": death.victim.count if death.victim else None,
        "held_bytes": death.victim.held_bytes if death.victim else None,
        "signal": death.signal,
        "why": death.why,
        "errno": death.errno,
        "held": death.held,
        "at_ms": _ms(death.signalled_ns - opened_ns),
        "latency_ms": _latency_ms(death, hard_ns),
        "gone_ms": death.gone_ms,
        "reaped_bytes": death.reaped_bytes,
    }
