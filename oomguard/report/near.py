"""How far a guard is from its watermarks, in numbers and in words, from the status page alone.

Of some conditions no number tells: a stall is the kernel's to tell, growth and events take time. They are named.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from ..model.statuspage import Averages, Clause, Condition, GuardLine, StatusPage
from .words import size

_SECOND = 1_000_000_000
_ORDER = ("calm", "cooling", "armed", "draining", "firing")  # of urgency


@dataclass(frozen=True, slots=True)
class Level:
    """A condition as a number and its line. ``unit``: "bytes", or "percent" of wall time."""

    kind: str
    words: str  # "available below 1.9 GiB"
    unit: str
    now: float
    line: float
    share: float  # of the way from nothing to the line, 0 to 1
    holds: bool

    @property
    def away(self) -> str:
        """For people; "" where it holds."""
        if self.holds:
            return ""
        left = abs(self.now - self.line)
        return size(int(left)) if self.unit == "bytes" else f"{left:.0f} %"


@dataclass(frozen=True, slots=True)
class Near:
    """The clause of a watermark that is nearest to holding.

    ``share`` of the way to it, None: no number tells. ``level`` is its condition that is furthest away, None: of those
    with a number all hold. ``untold``: kinds of what else has to happen. ``others``: how many more clauses there are.
    """

    holds: bool
    share: float | None
    level: Level | None
    words: str
    untold: tuple[str, ...]
    others: int

    @property
    def away(self) -> str:
        """For a column: "holds", "1.2 GiB", "12 %", what else it takes ("stall"), or "reached": that is time alone."""
        if self.holds:
            return "holds"
        if self.level is not None:
            return self.level.away
        return self.untold[0].partition("_")[0] if self.untold else "reached"


def near(guard: GuardLine, page: StatusPage, clauses: Iterable[Clause]) -> Near | None:
    """None where there is no such watermark, or nothing to watch."""
    found = [_near(guard, page, clause) for clause in clauses]
    if not found or not guard.targets:
        return None
    first = max(found, key=lambda it: (it.holds, it.share is not None and not it.untold, it.share or 0.0))
    return Near(first.holds, first.share, first.level, first.words, first.untold, len(found) - 1)


def _near(guard: GuardLine, page: StatusPage, clause: Clause) -> Near:
    found = [(condition, measured(condition, guard, page)) for condition in clause.all_of]
    levels = _strictest([level for _, level in found if level is not None])
    untold = [condition for condition, level in found if level is None]
    words = [f"{level.words} ({f'{level.away} away' if level.away else 'holds'})" for level in levels]
    words += [described(condition) for condition in untold]
    unmet = [level for level in levels if not level.holds]
    text = " and ".join(words) + (f", for {seconds(clause.lasting_ns)}" if clause.lasting_ns else "")
    share = min((level.share for level in levels), default=None)
    furthest = min(unmet, key=lambda level: level.share, default=None)
    return Near(clause.holds, share, furthest, text, tuple(condition.kind for condition in untold), 0)


def _strictest(levels: list[Level]) -> list[Level]:
    """["12%", "6GiB"] are two conditions, of which one follows from the other."""
    found: dict[tuple[str, str], Level] = {}
    for level in levels:
        key = level.kind, level.words if level.unit == "percent" else ""
        if key not in found or level.share < found[key].share:
            found[key] = level
    return list(found.values())


def by_nearness(page: StatusPage) -> list[GuardLine]:
    """The furthest in their phase first, of these the nearest to a watermark, then as the policy has them."""
    return sorted(page.guards, key=lambda guard: (-urgency(guard), -_nearest(guard, page)))


def urgency(guard: GuardLine) -> int:
    """Of its phase; 0: calm."""
    return _ORDER.index(guard.phase)


def _nearest(guard: GuardLine, page: StatusPage) -> float:
    marks = (near(guard, page, guard.soft), near(guard, page, guard.hard))
    return max((mark.share or 0.0 for mark in marks if mark is not None), default=-1.0)


def used(guard: GuardLine, page: StatusPage) -> int:
    """Bytes: of the machine as of the last second, of a cgroup as last seen."""
    if guard.path == "/":
        return max(0, page.numbers.mem_total_bytes - page.numbers.mem_available_bytes)
    return guard.used_bytes


def lines(guard: GuardLine, page: StatusPage, clauses: Iterable[Clause]) -> list[float]:
    """Where the watermark stands on the scale from 0 to the limit, by its clauses that have a line on it."""
    found = []
    for clause in clauses:
        for condition in clause.all_of:
            level = measured(condition, guard, page)
            if level is not None and guard.limit_bytes:
                if level.kind == "memory_above":
                    found.append(level.line / guard.limit_bytes)
                elif level.kind == "available_below" and guard.path == "/":
                    found.append(1 - level.line / guard.limit_bytes)
    return sorted(found)


def measured(condition: Condition, guard: GuardLine, page: StatusPage) -> Level | None:
    """None: no number on the page tells whether it holds."""
    numbers = page.numbers
    match condition.kind:
        case "available_below":
            return _below("available", condition, numbers.mem_available_bytes, numbers.mem_total_bytes)
        case "swap_free_below":
            return _below("free swap", condition, numbers.swap_free_bytes, numbers.swap_total_bytes)
        case "memory_above":
            return _above("memory", condition, used(guard, page), guard.limit_bytes)
        case "swap_above":
            return _above("swap", condition, guard.swap_bytes, guard.swap_limit_bytes)
        case "pressure_above":
            return _pressure(condition, guard, page)
        case _:
            return None


def _below(what: str, condition: Condition, now: int, total: int) -> Level:
    line = _amount(condition, total)
    holds = now < line or (what == "free swap" and not total)
    share = 1.0 if holds else min(1.0, (total - now) / (total - line)) if total > line else 1.0
    words = "no swap" if what == "free swap" and not total else f"{what} below {size(line)}"
    return Level(condition.kind, words, "bytes", now, line, max(0.0, share), holds)


def _above(what: str, condition: Condition, now: int, total: int) -> Level:
    line = _amount(condition, total)
    share = min(1.0, now / line) if line else 1.0
    return Level(condition.kind, f"{what} above {size(line)}", "bytes", now, line, share, now > line)


def _pressure(condition: Condition, guard: GuardLine, page: StatusPage) -> Level | None:
    averages = guard.pressure
    if guard.path == "/" and page.pressure is not None:
        some, full = page.pressure.some, page.pressure.full
        averages = Averages((some.avg10, some.avg60, some.avg300), (full.avg10, full.avg60, full.avg300))
    if averages is None:
        return None
    over = {10: 0, 60: 1, 300: 2}[condition.over_ns // _SECOND]
    now = (averages.full if condition.word == "full" else averages.some)[over]
    line = condition.number / 1e4
    share = min(1.0, now / line) if line else 1.0
    return Level(condition.kind, described(condition), "percent", now, line, share, now > line)


def _amount(condition: Condition, total: int) -> int:
    """Its number in bytes."""
    return condition.number if condition.unit == "bytes" else int(condition.number * total / 1e6)


_WORDS = {
    "available_below": "available below {amount}",
    "swap_free_below": "free swap below {amount}",
    "memory_above": "memory above {amount}",
    "swap_above": "swap above {amount}",
    "stall_above": "a {word} stall of {time} in {over}",
    "level_above": "the kernel's word of {word} pressure",
    "pressure_above": "{word} pressure above {amount} over {over}",
    "pressure_rising": "{word} pressure rising above {amount} over {over}",
    "zram_above": "zram ({word}) above {amount}",
    "growth_above": "growth above {amount} a second over {over}",
    "exhausts_within": "exhaustion within {over}",
    "refaults_above": "{word} refaults above {amount} a second over {over}",
    "events_above": "more than {number} {word} events in {over}",
}


def described(condition: Condition) -> str:
    """The condition in words, without today's numbers."""
    it = condition
    return _WORDS[it.kind].format(
        word=it.word,
        number=it.number,
        amount=size(it.number) if it.unit == "bytes" else f"{it.number / 1e4:g} %",
        time=seconds(it.number * 1000),
        over=seconds(it.over_ns),
    )


def seconds(ns: int) -> str:
    """A time for people: "150 ms", "2.5 s"."""
    return f"{ns / _SECOND:.3g} s" if ns >= _SECOND else f"{ns // 1_000_000} ms"
