"""What others may see of us, stored into the page that they read. Never waited for, never asked."""

import os
import time
from collections.abc import Iterable
from typing import Final

from ..judge import pace
from ..judge.state import State, TargetState
from ..linux import memlock, psi
from ..model import policy
from ..model.facts import MemInfo, Observation, Pressure, Stall, TargetId
from ..model.policy import Amount, Condition, Guard, Plan
from ..model.statuslayout import (
    CONDITIONS,
    EVENT_KINDS,
    EVENTS,
    GROWTH,
    MODES,
    NAMES,
    NOMINEES,
    NUMBERS_OF,
    PHASES,
    TAKES,
    UNITS,
    UNKNOWN,
    UNKNOWN_32,
    WORDS,
)
from ..model.verdict import Action, Close, Kill, Notify, Snapshot, Victim
from .growth import Growth
from .page import Writer, text

EVERY_NS: Final = 250_000_000  # while something goes on; in calm, whenever the loop is awake anyway
EACH_NS: Final = 1_000_000  # of many targets: all are looked over, for the foremost
PRESSURE_NS: Final = 1_000_000_000  # the machine's is read so often at most, 4 us each; the kernel averages every 2 s
# Written out: str.upper() would be the first to read its table, and that page of the interpreter faults in mid-storm.
_KINDS: Final = {"soft": "SOFT", "hard": "HARD", "kernel": "KERNEL_KILLED"}
_NO_PRESSURE: Final = (*(UNKNOWN,) * 8, 0)
_NO_AVERAGES: Final = (UNKNOWN_32,) * 6
_NOTHING: Final = (0, 0, 0, 0, *_NO_AVERAGES, 0, 0, 0, 0, 0)  # of a guard without targets
_NOBODY: Final = (0, None)
_PLACES: Final = {phase: 1000 * place for place, phase in enumerate(PHASES)}  # further on than any share of a limit


class Line:
    """What is known of a guard besides its state."""

    __slots__ = ("kills", "path", "place", "snapshots", "token")

    def __init__(self, place: int) -> None:
        self.place, self.path = place, ""
        self.snapshots = self.kills = self.token = 0


class Status:
    """The page, if the runtime directory takes one."""

    def __init__(self, path: str, version: str) -> None:
        """OSError with the path."""
        self.path = path
        self.page = Writer(path)
        self.version = version
        self.started_ns = time.time_ns()
        self.faults = (0, 0)
        self.armed = False
        self.undone = 0
        self.turns = 0
        self.notes: dict[str, str] = {}
        self.notes_stale = True
        self.last_ns = 0
        self.plan: Plan | None = None
        self.plan_stale = False
        self.lines: dict[str, Line] = {}
        self.nominated = 0
        self.growth = Growth()
        self.growth_stale = False
        self.events: list[tuple[int, str, str, str]] = []  # not in the page yet
        self.happened = 0
        self.pressure_file: psi.PressureFile | None = None
        self.pressure: tuple[int, ...] = _NO_PRESSURE

    def degraded(self, what: str, why: str) -> bool:
        """Something works less well than it could. Whether that is new; the last ``why`` of each ``what`` stands."""
        new = what not in self.notes
        if new and self.armed:
            self.tell("DEGRADED", "", f"{what}: {why}")
        self.notes[what] = why.replace("\n", " ").replace("\t", " ")
        self.notes_stale = True
        return new

    def mended(self, what: str) -> None:
        """It works again, or never was so."""
        if self.notes.pop(what, None) is not None:
            self.notes_stale = True

    def came(self, targets: Iterable[TargetId]) -> None:
        """Of a guard that had nothing to watch the compiler has said so; now it has something."""
        for guard in {target.guard for target in targets}:
            name = f'"{guard}"' if ":" in guard else guard  # a shadow's, as keys are written
            for what in (f"policy policy.{name}.{key}" for key in ("cgroup", "xattr")):
                if self.notes.get(what, "").endswith(" now"):
                    self.mended(what)

    def remove(self) -> None:
        """The daemon has ended as it was asked to: no page, rather than the page of a process that is gone."""
        try:
            os.unlink(self.path)
        except OSError:
            pass  # somebody was faster

    def arm(self) -> None:
        """From here on page faults count."""
        self.faults = memlock.faults()
        self.armed = True

    def counted(self) -> tuple[int, int]:
        """(minor, major) page faults since the core was armed."""
        minor, major = memlock.faults()
        return minor - self.faults[0], major - self.faults[1]

    def excuse(self, before: tuple[int, int]) -> None:
        """What was begun with so many counted may take pages, being done in calm only: its own do not count."""
        minor, major = memlock.faults()
        self.faults = minor - before[0], major - before[1]

    def publish(
        self, plan: Plan, state: State, seen: Observation, dropped: int, actions: tuple[Action, ...] = ()
    ) -> None:
        """Store what is known now; at most four times a second unless something was done, or came or went.

        What came may be of a guard that has nothing else to do: the next turn may be hours away.
        """
        self.turns += 1
        if plan is not self.plan:
            self._know(plan)
        if actions:
            self._remember(actions)
        if seen.shares or seen.surveys or seen.vanished:
            self.growth_stale |= self.growth.take(seen)
        pause_ns = max(EVERY_NS, EACH_NS * len(state.targets))
        news = actions or seen.appeared or seen.vanished or self.notes_stale
        if not news and seen.at_ns - self.last_ns < pause_ns:
            return
        self.last_ns = seen.at_ns
        numbers = self._numbers(state, state.host, dropped, seen)
        foremost, nominated = _look_over(state)
        self.page.begin()
        if self.plan_stale:
            self._plan(plan)
        for guard in plan.guards:
            targets, target = foremost.get(guard.name, _NOBODY)
            self._guard(guard, targets, target, state)
        if nominated or self.nominated:
            self._nominees(nominated)
        self._rest()
        self.page.end(numbers)

    def glance(self, state: State, seen: Observation, dropped: int) -> None:
        """The machine's numbers, on which there was nothing to judge."""
        if seen.shares:
            self.growth_stale |= self.growth.take(seen)
        numbers = self._numbers(state, seen.host, dropped, seen)
        self.page.begin()
        self._rest()
        self.page.end(numbers)

    # -- what happens --------------------------------------------------------------------------------------------

    def tell(self, kind: str, guard: str, what: str) -> None:
        """For the next page: ``kind`` is a name of ``model.messages``, ``guard`` "" where it is the daemon's own."""
        self.events.append((time.time_ns(), kind, guard, what))

    def _remember(self, actions: tuple[Action, ...]) -> None:
        """What was done is told once: to write down why, and to notify, is one event."""
        told: set[tuple[str, TargetId]] = set()
        for action in actions:
            match action:
                case Snapshot(target, mark, _, what):
                    kind = _KINDS[mark]
                    self.lines[target.guard].snapshots += 1
                case Notify(target, kind, what):
                    pass
                case Close(target, _, what):
                    kind = "CALM"
                case Kill(target, token):
                    line = self.lines[target.guard]
                    line.kills += token != line.token
                    line.token = token
                    continue
                case _:
                    continue
            if (kind, target) not in told:
                told.add((kind, target))
                self.tell(kind, target.guard, what)

    # -- what is in it -------------------------------------------------------------------------------------------

    def _know(self, plan: Plan) -> None:
        """Another policy: guards of the same name go on counting."""
        self.plan, self.plan_stale = plan, True
        known, self.lines = self.lines, {}
        for place, guard in enumerate(plan.guards):
            line = self.lines[guard.name] = known.get(guard.name) or Line(place)
            line.place, line.path = place, ""
        marks = [mark for guard in plan.guards for mark in (guard.soft, guard.hard) if mark is not None]
        conditions = sum(len(clause.all_of) for mark in marks for clause in mark.when)
        before = self.counted()
        guards = len(plan.guards)
        for section, number in ((NUMBERS_OF, guards), (NAMES, guards), (CONDITIONS, conditions)):
            self.page.touch(section, number)
        self.excuse(before)  # a policy comes in calm

    def _plan(self, plan: Plan) -> None:
        """What changes with the policy alone."""
        self.plan_stale = False
        for guard in plan.guards:
            self._name(guard, "")
        number = 0
        for place, guard in enumerate(plan.guards):
            for mark, watermark in enumerate((guard.soft, guard.hard)):
                for index, clause in enumerate(watermark.when if watermark is not None else ()):
                    for condition in clause.all_of:
                        words = _spoken(condition)
                        self.page.put(CONDITIONS, number, place, mark, min(index, 255), *words, clause.lasting_ns)
                        number += 1
        for section, count in ((NUMBERS_OF, len(plan.guards)), (NAMES, len(plan.guards)), (CONDITIONS, number)):
            self.page.count(section, count)

    def _name(self, guard: Guard, path: str) -> None:
        line = self.lines[guard.name]
        line.path = path
        words = text(guard.name, 72), text(guard.cgroup, 180), MODES.index(guard.mode), text(path, 192, tail=True)
        self.page.put(NAMES, line.place, *words)

    def _guard(self, guard: Guard, targets: int, foremost: TargetState | None, state: State) -> None:
        line = self.lines[guard.name]
        path = "" if foremost is None else foremost.id.cgroup
        if path != line.path:
            self._name(guard, path)
        counts = line.kills if guard.mode == "enforce" else 0, line.snapshots
        if foremost is None:
            self.page.put(NUMBERS_OF, line.place, *_NOTHING, *counts)
            return
        phase = PHASES.index(foremost.phase)
        self.page.put(NUMBERS_OF, line.place, phase, targets, *_numbers_of(foremost, state), *counts)

    def _nominees(self, nominated: list[tuple[str, Victim]]) -> None:
        self.nominated = len(nominated)
        for place, (guard, victim) in enumerate(nominated[: NOMINEES.room]):
            first = victim.processes[0] if victim.processes and victim.take != "cgroup" else None
            what = victim.unit or victim.cgroup if first is None else first.comm
            numbers = self.lines[guard].place, TAKES.index(victim.take), victim.count, 0 if first is None else first.pid
            names = text(what, 64), text(victim.cgroup, 192, tail=True)
            self.page.put(NOMINEES, place, *numbers, max(0, victim.held_bytes), *names)
        self.page.count(NOMINEES, len(nominated))

    def _numbers(self, state: State, host: MemInfo | None, dropped: int, seen: Observation) -> tuple[int, ...]:
        minor, major = self.counted()
        counters, at_ns = state.counters, seen.at_ns
        if seen.pressure is not None:  # read a moment ago, for whoever is judged by it
            self.pressure = _plain(seen.pressure, at_ns)
        elif self.pressure_file is not None and at_ns - self.pressure[-1] >= PRESSURE_NS:
            self.pressure = self._pressure(self.pressure_file, at_ns)
        return (
            os.getpid(),
            self.started_ns,
            int(self.armed),
            self.turns,
            minor,
            major,
            counters.snapshots,
            counters.kills,
            counters.kernel_oom_kills,
            self.undone,
            dropped,
            host.total_bytes if host else 0,
            host.free_bytes if host else 0,
            host.available_bytes if host else 0,
            host.swap_total_bytes if host else 0,
            host.swap_free_bytes if host else 0,
            *self.pressure,
            at_ns,
        )

    def _pressure(self, file: psi.PressureFile, at_ns: int) -> tuple[int, ...]:
        try:
            pressure = file.read()
        except OSError:
            pressure = None  # whoever judges by it says so
        return (*_NO_PRESSURE[:-1], at_ns) if pressure is None else _plain(pressure, at_ns)

    def _rest(self) -> None:
        """What has changed since the last page, and is no target's own."""
        page = self.page
        if self.growth_stale:
            self.growth_stale = False
            for place, (path, numbers) in enumerate(self.growth.known.items()):
                page.put(GROWTH, place, text(path, 192, tail=True), *numbers[:4])
            page.count(GROWTH, len(self.growth.known))
        if self.events:
            for at_ns, kind, guard, what in self.events:
                names = text(guard, 72), text(what, 168)
                page.put(EVENTS, self.happened % EVENTS.room, at_ns, EVENT_KINDS.index(kind), 0, *names)
                self.happened += 1
            self.events.clear()
            page.count(EVENTS, self.happened)
        if self.notes_stale:
            self.notes_stale = False
            lines = [self.version, *(f"{what}\t{why}" for what, why in self.notes.items())]
            page.notes("\n".join(lines).encode("utf-8", "replace"))


def _look_over(state: State) -> tuple[dict[str, tuple[int, TargetState]], list[tuple[str, Victim]]]:
    """By guard how many targets it has, and which is the foremost; and whoever is held open."""
    counts: dict[str, int] = {}
    firsts: dict[str, tuple[float, TargetState]] = {}
    nominated = []
    for (guard, _), target in state.targets.items():  # of a thousand, a fifth of a microsecond each
        facts, counts[guard] = target.facts, counts.get(guard, 0) + 1
        limit = (facts.limit_bytes if facts is not None else None) or pace.NEVER
        place = target.used_bytes / limit + _PLACES[target.phase]
        if guard not in firsts or place > firsts[guard][0]:
            firsts[guard] = place, target
        victim = target.pursuit.victim if target.pursuit is not None else target.nominee
        if victim is not None:
            nominated.append((guard, victim))
    return {guard: (counts[guard], target) for guard, (_, target) in firsts.items()}, nominated


def _numbers_of(target: TargetState, state: State) -> tuple[int, ...]:
    """As NUMBERS_OF has them, but for the first and the last two."""
    host, facts = state.host, target.facts
    limit = facts.limit_bytes if facts is not None else None
    swap_limit = facts.swap_limit_bytes if facts is not None else None
    pressure = facts.pressure if facts is not None else state.pressure
    if limit is None:
        limit = host.total_bytes if host else 0
    if swap_limit is None:
        swap_limit = host.swap_total_bytes if host else 0
    return (
        _holds(target.soft_since),
        _holds(target.hard_since),
        *(_NO_AVERAGES if pressure is None else (*_averages(pressure.some), *_averages(pressure.full))),
        target.entered_ns,
        max(0, target.used_bytes),  # MemAvailable may be over MemTotal, in containers
        max(0, limit),
        facts.swap_bytes if facts is not None else host.swap_total_bytes - host.swap_free_bytes if host else 0,
        swap_limit,
    )


def _holds(since: tuple[int, ...]) -> int:
    """A bit for each clause; of more than 32 the first."""
    return sum(1 << place for place, began_ns in enumerate(since[:32]) if began_ns) if any(since) else 0


def _plain(pressure: Pressure, at_ns: int) -> tuple[int, ...]:
    """As NUMBERS have it, and when it was read."""
    some, full = _averages(pressure.some), _averages(pressure.full)
    return (*some, pressure.some.total_us, *full, pressure.full.total_us, at_ns)


def _averages(stall: Stall) -> tuple[int, int, int]:
    """In hundredths of a percent."""
    return int(stall.avg10 * 100), int(stall.avg60 * 100), int(stall.avg300 * 100)


_CLASSES: Final = (  # in the order of KINDS
    policy.AvailableBelow,
    policy.SwapFreeBelow,
    policy.MemoryAbove,
    policy.SwapAbove,
    policy.StallAbove,
    policy.PressureAbove,
    policy.PressureRising,
    policy.ZramAbove,
    policy.GrowthAbove,
    policy.ExhaustsWithin,
    policy.RefaultsAbove,
    policy.EventsAbove,
    policy.LevelAbove,
)


def _spoken(condition: Condition) -> tuple[int, int, int, int, int]:
    """As CONDITIONS has it: kind, word, unit, number, over_ns."""
    kind = _CLASSES.index(type(condition))
    match condition:
        case policy.StallAbove(word, stall_us, window_us):
            return kind, WORDS.index(word), UNITS.index("us"), stall_us, window_us * 1000
        case policy.LevelAbove(word):
            return kind, WORDS.index(word), UNITS.index("count"), 0, policy.LEVEL_HOLDS_NS
        case policy.PressureAbove(word, share, over) | policy.PressureRising(word, share, over):
            return kind, WORDS.index(word), *_amount(Amount(share=share)), int(over[:-1]) * policy.SECOND_NS
        case policy.ExhaustsWithin(within_ns):
            return kind, 0, UNITS.index("count"), 0, within_ns
        case policy.EventsAbove(word, count, per_ns):
            return kind, WORDS.index(word), UNITS.index("count"), count, per_ns
        case policy.RefaultsAbove(word, amount, over_ns):
            return kind, WORDS.index(word), *_amount(amount), over_ns
        case policy.GrowthAbove(amount, over_ns):
            return kind, 0, *_amount(amount), over_ns
        case policy.ZramAbove(word, amount):
            return kind, WORDS.index(word), *_amount(amount), 0
        case policy.AvailableBelow(amount) | policy.SwapFreeBelow(amount):
            return kind, 0, *_amount(amount), 0
        case policy.MemoryAbove(amount) | policy.SwapAbove(amount):
            return kind, 0, *_amount(amount), 0


def _amount(amount: Amount) -> tuple[int, int]:
    if amount.bytes is not None:
        return UNITS.index("bytes"), amount.bytes
    return UNITS.index("millionths"), round((amount.share or 0.0) * 1e6)
