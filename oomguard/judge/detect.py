"""Conditions, and the phases of a guard. Everything that affects the phase of a guard lives in ``TABLE``.

CALM      neither watermark holds
ARMED     soft holds: a victim is nominated and held open, the brake is on
FIRING    hard holds: a victim is being chosen or is about to be signalled
DRAINING  a victim was signalled and is not gone yet
COOLING   it is gone (or there was none to take): memory settles before anything else is ended
"""

from dataclasses import dataclass
from typing import Final, Literal

from ..model.facts import CgroupFacts, Compressed, MemInfo, Pressure, Refaults, Stall
from ..model.policy import (
    Amount,
    AvailableBelow,
    Clause,
    Condition,
    EventsAbove,
    ExhaustsWithin,
    GrowthAbove,
    LevelAbove,
    MemoryAbove,
    PressureAbove,
    PressureRising,
    RefaultsAbove,
    StallAbove,
    SwapAbove,
    SwapFreeBelow,
    Tracked,
    Watermark,
    ZramAbove,
)
from .trend import Track, gained, rate, span

Phase = Literal["calm", "armed", "firing", "draining", "cooling"]
Event = Literal["soft", "hard", "clear", "eased", "fired", "gone", "stuck", "spent", "cooled", "struck", "yielded"]

TABLE: Final[dict[tuple[Phase, Event], Phase]] = {
    ("calm", "soft"): "armed",
    ("calm", "hard"): "firing",
    ("armed", "hard"): "firing",
    ("armed", "clear"): "calm",
    ("armed", "struck"): "draining",  # by the dead man, while we stood still
    ("armed", "yielded"): "cooling",  # it has taken another one than we would now: that one is waited for
    ("firing", "fired"): "draining",  # a signal was sent
    ("firing", "spent"): "cooling",  # nobody may be taken, or only observing
    ("firing", "eased"): "armed",  # memory came back before a signal was sent: nobody dies for it
    ("firing", "clear"): "calm",
    ("firing", "struck"): "draining",
    ("firing", "yielded"): "cooling",
    ("draining", "gone"): "cooling",
    ("draining", "stuck"): "firing",  # the next one; the stuck one is not asked again
    ("draining", "yielded"): "cooling",
    ("cooling", "hard"): "firing",
    ("cooling", "cooled"): "armed",
    ("cooling", "clear"): "calm",
    ("cooling", "struck"): "draining",
}

# How much better than the watermark things must be before a phase is left, and how much worse before a grace is cut.
CLEAR_SHARE: Final = 0.02  # of the total (machine or limit): 2 %, about the noise of a busy machine in one second
CLEAR_PRESSURE: Final = 0.8  # of the threshold; of rates and counts as well
CLEAR_TIME: Final = 2  # times the forecast
RISING: Final = 1.1  # times the longer average: as much as they differ on a machine that is just busy
SECOND: Final = 1_000_000_000

Margin = Literal["at", "clear", "deep"]


@dataclass(frozen=True, slots=True)
class Sight:
    """What is known of one target in one turn. ``facts`` None: the target is the machine itself."""

    at_ns: int
    host: MemInfo
    facts: CgroupFacts | None
    pressure: Pressure | None
    stalls: tuple[tuple[int, int], ...] = ()  # (number of the condition, holds until, ns)
    tracks: tuple[tuple[int, Track], ...] = ()  # (number of the condition, what was before)
    refaults: Refaults | None = None
    compressed: Compressed | None = None

    @property
    def limit_bytes(self) -> int:
        """The effective limit: the smallest memory.max on the way up, else the machine."""
        if self.facts is not None and self.facts.limit_bytes is not None:
            return min(self.facts.limit_bytes, self.host.total_bytes)
        return self.host.total_bytes

    @property
    def used_bytes(self) -> int:
        """Unreclaimable memory of the target: cache is not use."""
        return self.host.used_bytes if self.facts is None else self.facts.unreclaimable_bytes

    @property
    def swap_limit_bytes(self) -> int:
        """The effective memory.swap.max, else all swap."""
        if self.facts is not None and self.facts.swap_limit_bytes is not None:
            return min(self.facts.swap_limit_bytes, self.host.swap_total_bytes)
        return self.host.swap_total_bytes

    @property
    def swap_bytes(self) -> int:
        """Swap in use by the target."""
        if self.facts is None:
            return self.host.swap_total_bytes - self.host.swap_free_bytes
        return self.facts.swap_bytes

    @property
    def room_bytes(self) -> int:
        """What is left to it until nothing is: of its limits, and of the machine; swap counts too."""
        memory, swap = self.host.available_bytes, self.host.swap_free_bytes
        if self.facts is not None:
            memory = min(memory, self.limit_bytes - self.used_bytes)
            swap = min(swap, self.swap_limit_bytes - self.swap_bytes)
        return max(0, memory) + max(0, swap)

    def track(self, number: int) -> Track:
        """What was seen for that condition."""
        return next((track for mine, track in self.tracks if mine == number), ())

    def value(self, condition: Tracked) -> int | None:
        """What that condition follows, as it is now; None: not known, or only with cache in it."""
        match condition:
            case GrowthAbove() | ExhaustsWithin():
                known = self.facts is None or self.facts.stat is not None
                return self.used_bytes + self.swap_bytes if known else None
            case RefaultsAbove():
                found = self.refaults if self.facts is None else self.facts.refaults
                if found is None:
                    return None
                return found.anon_bytes * (condition.of != "file") + found.file_bytes * (condition.of != "anon")
            case EventsAbove():
                events = None if self.facts is None else self.facts.events
                return None if events is None else int(getattr(events, condition.event))


def holds(condition: Condition, sight: Sight, margin: Margin = "at") -> bool:
    """Whether the condition holds. With margin "clear": is not clearly over yet; with "deep": is twice as bad."""
    match condition:
        case AvailableBelow(amount):
            return sight.host.available_bytes < _below(amount, sight.host.total_bytes, margin)
        case SwapFreeBelow(amount):
            if sight.host.swap_total_bytes == 0:
                return True  # no swap: none is left
            return sight.host.swap_free_bytes < _below(amount, sight.host.swap_total_bytes, margin)
        case MemoryAbove(amount):
            return sight.used_bytes > _above(amount, sight.limit_bytes, margin)
        case SwapAbove(amount):
            total = sight.swap_limit_bytes
            return total > 0 and sight.swap_bytes > _above(amount, total, margin)
        case StallAbove() | LevelAbove():
            return any(number == condition.number and until > sight.at_ns for number, until in sight.stalls)
        case PressureAbove():
            return _pressure(condition, sight.pressure) > condition.share * (CLEAR_PRESSURE if margin == "clear" else 1)
        case PressureRising():
            return _rises(condition, sight.pressure, margin)
        case ZramAbove():
            now, total = compressed(condition, sight)
            return total > 0 and now > _above(condition.amount, total, margin)
        case _:
            return _trend(condition, sight, margin)


def _trend(condition: Tracked, sight: Sight, margin: Margin) -> bool:
    track, back = sight.track(condition.number), span(condition)
    part = CLEAR_PRESSURE if margin == "clear" else 1
    match condition:
        case GrowthAbove() | RefaultsAbove():
            return rate(track, back) > condition.amount.of(sight.limit_bytes) * part
        case EventsAbove():
            return gained(track, back) > condition.count * part
        case ExhaustsWithin(within_ns):
            if margin != "at":
                within_ns = within_ns * CLEAR_TIME if margin == "clear" else within_ns // 2
            grown = rate(track, back)
            return grown > 0 and sight.room_bytes * SECOND < grown * within_ns


def _below(amount: Amount, total: int, margin: Margin) -> int:
    line = amount.of(total)
    if margin == "clear":
        return line + min(line, int(total * CLEAR_SHARE))
    return line // 2 if margin == "deep" else line


def _above(amount: Amount, total: int, margin: Margin) -> int:
    line = amount.of(total)
    if margin == "clear":
        return line - min(line // 8, int(total * CLEAR_SHARE))
    return line + max(0, total - line) // 2 if margin == "deep" else line


def _pressure(condition: PressureAbove, pressure: Pressure | None) -> float:
    if pressure is None:
        return 0.0
    line = pressure.some if condition.line == "some" else pressure.full
    return _average(line, condition.over) / 100


def _average(line: Stall, over: str) -> float:
    return line.avg10 if over == "10s" else line.avg60 if over == "60s" else line.avg300


def _rises(condition: PressureRising, pressure: Pressure | None, margin: Margin) -> bool:
    """One that has risen and stays there is not clearly over: only how high it is counts for that."""
    if pressure is None:
        return False
    line = pressure.some if condition.line == "some" else pressure.full
    now, before = _average(line, condition.over), _average(line, "60s" if condition.over == "10s" else "300s")
    if margin == "clear":
        return now > condition.share * 100 * CLEAR_PRESSURE
    return now > condition.share * 100 and now > before * RISING


def compressed(condition: ZramAbove, sight: Sight) -> tuple[int, int]:
    """(bytes now, of how many)."""
    seen = sight.compressed
    if seen is None:
        return 0, 0
    if condition.of == "disk":
        return seen.stored_bytes, seen.disk_bytes
    return seen.memory_bytes, sight.host.total_bytes


def clause_holds(clause: Clause, sight: Sight, margin: Margin = "at") -> bool:
    """All conditions of one table, regardless of how long.

    Only a level (or a forecast) can be "deep": averages lag by their window, a trigger does not say how bad it is.
    """
    if is_moot(clause, sight) or (margin == "deep" and not any(_is_level(c, sight) for c in clause.all_of)):
        return False
    return all(holds(condition, sight, margin) for condition in clause.all_of)


def is_moot(clause: Clause, sight: Sight) -> bool:
    """Whether nothing but free swap is asked for, on a machine without swap: that says nothing, and kills nobody."""
    return not sight.host.swap_total_bytes and all(isinstance(c, SwapFreeBelow) for c in clause.all_of)


_NO_LEVEL: Final = StallAbove | LevelAbove | PressureAbove | PressureRising | GrowthAbove | RefaultsAbove | EventsAbove


def _is_level(condition: Condition, sight: Sight) -> bool:
    if isinstance(condition, SwapFreeBelow):
        return sight.host.swap_total_bytes > 0
    return not isinstance(condition, _NO_LEVEL)


def since(watermark: Watermark | None, sight: Sight, before: tuple[int, ...]) -> tuple[int, ...]:
    """Per clause: since when it holds without a break (ns), 0 where it does not."""
    if watermark is None:
        return ()
    return tuple(
        (before[i] if i < len(before) and before[i] else sight.at_ns) if clause_holds(clause, sight) else 0
        for i, clause in enumerate(watermark.when)
    )


def crossed(watermark: Watermark | None, began: tuple[int, ...], at_ns: int) -> int | None:
    """The number of the first clause that has lasted long enough, None if none has."""
    if watermark is None:
        return None
    for i, clause in enumerate(watermark.when[: len(began)]):
        if began[i] and at_ns - began[i] >= clause.lasting_ns:
            return i
    return None


def any_holds(watermark: Watermark | None, sight: Sight, margin: Margin) -> bool:
    """Whether any clause holds with this margin, however short."""
    return watermark is not None and any(clause_holds(clause, sight, margin) for clause in watermark.when)


def describe(condition: Condition, sight: Sight) -> str:
    """The condition with today's numbers, for people: "available 47 MiB below 48 MiB (5 % of 961 MiB)"."""
    match condition:
        case AvailableBelow(amount):
            return _compare("available", sight.host.available_bytes, "below", amount, sight.host.total_bytes)
        case SwapFreeBelow(amount):
            if sight.host.swap_total_bytes == 0:
                return "no swap"
            return _compare("free swap", sight.host.swap_free_bytes, "below", amount, sight.host.swap_total_bytes)
        case MemoryAbove(amount):
            return _compare("memory", sight.used_bytes, "above", amount, sight.limit_bytes)
        case SwapAbove(amount):
            return _compare("swap", sight.swap_bytes, "above", amount, sight.swap_limit_bytes)
        case StallAbove() | LevelAbove():
            return _describe_told(condition)
        case PressureAbove():
            now = _pressure(condition, sight.pressure) * 100
            return f"{condition.line} pressure {now:.1f} % above {condition.share * 100:g} % over {condition.over}"
        case PressureRising():
            return _describe_rise(condition, sight.pressure)
        case ZramAbove():
            now_bytes, total = compressed(condition, sight)
            what = "stored in zram" if condition.of == "disk" else "taken by zram and zswap"
            return _compare(what, now_bytes, "above", condition.amount, total)
        case _:
            return _describe_trend(condition, sight)


def _describe_told(condition: StallAbove | LevelAbove) -> str:
    if isinstance(condition, LevelAbove):
        mode = "" if condition.mode == "default" else f" ({condition.mode})"
        return f"pressure level {condition.level}{mode} or over"
    return f"{condition.line} stall over {condition.stall_us // 1000} ms in {condition.window_us // 1000} ms"


def _describe_rise(condition: PressureRising, pressure: Pressure | None) -> str:
    if pressure is None:
        return f"no {condition.line} pressure is told"
    line = pressure.some if condition.line == "some" else pressure.full
    longer = "60s" if condition.over == "10s" else "300s"
    now, before = _average(line, condition.over), _average(line, longer)
    over = f"over {condition.over}, {before:.1f} % over {longer}"
    return f"{condition.line} pressure rising: {now:.1f} % {over}, above {condition.share * 100:g} %"


def _describe_trend(condition: Tracked, sight: Sight) -> str:
    track, back = sight.track(condition.number), span(condition)
    match condition:
        case GrowthAbove() | RefaultsAbove():
            what = "growth" if isinstance(condition, GrowthAbove) else f"{condition.of} refaults"
            text = _compare(what, rate(track, back), "above", condition.amount, sight.limit_bytes)
            return f"{text} a second over {seconds(back)}"
        case EventsAbove():
            return f"{gained(track, back)} {condition.event} events above {condition.count} in {seconds(back)}"
        case ExhaustsWithin():
            grown = rate(track, back)
            if not grown:
                return f"exhaustion within {seconds(condition.within_ns)}: no growth"
            left = sight.room_bytes * SECOND // grown
            text = f"exhausted in {seconds(left)}, within {seconds(condition.within_ns)}"
            return f"{text}: {mib(sight.room_bytes)} left at {mib(grown)} a second at least over {seconds(back)}"


def seconds(ns: int) -> str:
    """A time for people: "150 ms", "2.5 s"."""
    return f"{ns / SECOND:.3g} s" if ns >= SECOND else f"{ns // 1_000_000} ms"


def _compare(what: str, now: int, word: str, amount: Amount, total: int) -> str:
    share = "" if amount.share is None else f" ({amount.share * 100:g} % of {mib(total)})"
    return f"{what} {mib(now)} {word} {mib(amount.of(total))}{share}"


def mib(size: int) -> str:
    """Bytes for people, in MiB or GiB."""
    return f"{size / (1 << 30):.1f} GiB" if size >= 10 << 30 else f"{size / (1 << 20):.1f} MiB"
