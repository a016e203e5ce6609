"""The status page as everybody reads it: a consistent copy, as values. Reading wakes nobody and locks nothing.

The layout, of which ``model.statuslayout`` has the numbers. One file, NAME in the runtime directory, of SIZE bytes; one
writer, no lock, no wakeup. Numbers are little-endian u64 if not said otherwise. Strings are UTF-8, padded with NULs;
"…" stands for the rest of one that is too long. Times: ns of CLOCK_MONOTONIC, unless said otherwise.

    0    magic "oomguard", u32 layout, u32 SIZE, sequence, and the pid of the core: these in every layout, for ever
    24   NUMBERS and COUNTS; then a u32 checksum of each section, in their order; and last a u32 of all that from 24 on
    1024 the sections, each an array of records

    section      one record for       holds
    NUMBERS_OF   each guard           u32: phase, targets, clauses of soft and of hard that hold (a bit each), pressure:
                                      some avg10, 60, 300, full avg10, 60, 300 (hundredths of a percent); then: when the
                                      phase was entered, used, its limit, swap used, its limit (bytes, as last seen),
                                      kills and snapshots of this guard since the start
    NAMES        each guard           name[72], for which cgroups[180], u32 mode, path[192] of its foremost target,
                                      of which the numbers are: the furthest in its phase, of these the fullest
    CONDITIONS   each condition       u16 guard, u8: watermark, clause, kind, word, unit; number, over_ns, and the
                                      lasting_ns of its clause. The clauses of a watermark are any-of, the conditions
                                      of a clause all-of
    GROWTH       each cgroup of note  path[192], memory.current (bytes), when, and some seconds before that, when
    NOMINEES     who is held open     u32: guard, take, processes meant, pid (0: a cgroup); bytes held, what[64],
                                      cgroup[192]
    EVENTS       each of the last     when (CLOCK_REALTIME ns), u32 kind, u32 unused, guard's name[72], text[168]; the
                                      newest is the one before place ``events % 24``
    NOTES        byte of a text       the version, then a line "what\\twhy" for each of what is degraded

COUNTS tells how many there are of each, and the page has as many of them as there is room for: what is left out is the
difference. A phase, mode, watermark, take, kind, word or unit is the place in the tuple of that name there.

The writer makes the sequence odd, writes, and makes it even. Who saw it odd, or saw it move, reads again. On an arm64,
which reorders stores, that alone is not enough, and Python has no barrier: therefore the checksums (CRC-32). The head's
is begun with the sequence, and the head holds those of the sections, each of the records in use: pieces of two pages
never make one.
"""

import binascii
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from . import statuslayout as layout
from .facts import Pressure, Stall
from .statuslayout import GUARDS, MODES, NAME, PHASES

__all__ = ["GUARDS", "MODES", "NAME", "PHASES", "StatusPage", "decode", "read"]

_TRIES: Final = 200
_PAUSE_S: Final = 0.002  # after the first tries: a writer that was interrupted in its midst needs the processor, too


@dataclass(frozen=True, slots=True)
class Numbers:
    """The counters of the page's head, in the order of the layout. Times in ns, sizes in bytes."""

    pid: int = 0
    started_ns: int = 0  # CLOCK_REALTIME
    armed: int = 0  # whether the daemon is ready
    turns: int = 0
    minor_faults: int = 0
    major_faults: int = 0
    snapshots: int = 0
    kills: int = 0
    kernel_oom_kills: int = 0
    leases_undone: int = 0
    drops: int = 0
    mem_total_bytes: int = 0
    mem_free_bytes: int = 0
    mem_available_bytes: int = 0
    swap_total_bytes: int = 0
    swap_free_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition of a watermark: ``kind`` and ``word`` as in the policy (``stall_above``, ``full``).

    ``number`` in ``unit``: "bytes", "millionths" of what the kind is a share of, "us", or "count"; ``over_ns`` as the
    policy has it with ``within``, ``over`` or ``per``, 0: without.
    """

    kind: str
    word: str
    unit: str
    number: int
    over_ns: int


@dataclass(frozen=True, slots=True)
class Clause:
    """All of them must hold, for ``lasting_ns``; ``holds``: they do, if not yet for so long."""

    all_of: tuple[Condition, ...]
    lasting_ns: int
    holds: bool


@dataclass(frozen=True, slots=True)
class Averages:
    """Pressure of a cgroup, percent of wall time."""

    some: tuple[float, float, float]  # over 10, 60 and 300 s
    full: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class GuardLine:
    """One guard, with the numbers of its foremost target: the furthest in its phase, of these the fullest.

    In calm a number may be ten seconds old, with many targets five minutes: nothing can have happened meanwhile.
    """

    name: str
    cgroup: str  # for which it is
    mode: str
    phase: str
    targets: int
    used_bytes: int
    limit_bytes: int
    path: str = ""  # of the foremost target; "": there is none
    swap_bytes: int = 0
    swap_limit_bytes: int = 0
    entered_ns: int = 0  # since when it is in this phase
    kills: int = 0
    snapshots: int = 0
    pressure: Averages | None = None  # None: no policy asks for it
    soft: tuple[Clause, ...] = ()
    hard: tuple[Clause, ...] = ()


@dataclass(frozen=True, slots=True)
class Growing:
    """What a cgroup has (memory.current, so with its cache), and had some seconds before."""

    cgroup: str
    bytes: int
    at_ns: int
    before_bytes: int
    before_ns: int

    @property
    def per_second(self) -> float:
        """Bytes; below 0 it shrinks."""
        took_ns = self.at_ns - self.before_ns
        return (self.bytes - self.before_bytes) * 1e9 / took_ns if took_ns > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Nominee:
    """Who would be ended, or is being ended where the guard is draining. ``take`` as in the policy; ``pid`` 0: many."""

    guard: str
    take: str
    count: int
    pid: int
    held_bytes: int
    what: str
    cgroup: str


@dataclass(frozen=True, slots=True)
class Event:
    """Something that was decided, or that befell us. ``at_ns``: CLOCK_REALTIME; ``guard`` "": the daemon itself."""

    at_ns: int
    kind: str
    guard: str
    text: str


@dataclass(frozen=True, slots=True)
class StatusPage:
    """A consistent copy. ``degraded``: (what, why). ``left_out``: how many of what the page had no room for."""

    numbers: Numbers
    guards: tuple[GuardLine, ...]
    version: str
    degraded: tuple[tuple[str, str], ...]
    beat_ns: int  # CLOCK_MONOTONIC of the last turn or glance
    pressure: Pressure | None = None  # of the machine, None: it has none to tell
    pressure_ns: int = 0  # when that was read
    growing: tuple[Growing, ...] = ()
    nominees: tuple[Nominee, ...] = ()
    events: tuple[Event, ...] = ()  # newest first
    left_out: tuple[tuple[str, int], ...] = ()


def read(path: str) -> StatusPage:
    """A consistent copy. OSError: no daemon has run; ValueError: another version's page, or never still."""
    with open(path, "rb") as file:
        for attempt in range(_TRIES):
            before = os.pread(file.fileno(), 8, layout.SEQUENCE_AT)
            data = os.pread(file.fileno(), layout.SIZE, 0)
            after = os.pread(file.fileno(), 8, layout.SEQUENCE_AT)
            _known(data)
            if before == after and before[0] & 1 == 0 and _whole(data):
                return decode(data)
            if attempt > _TRIES // 10:
                time.sleep(_PAUSE_S)
    raise ValueError("it never stands still: its writer was stopped in its midst, or the file is damaged")


def decode(data: bytes) -> StatusPage:
    """The page's bytes. ValueError: a layout that this version does not know, or no page at all."""
    _known(data)
    if not _whole(data):
        raise ValueError("it is damaged: not what its checksums say")
    try:
        return _decode(data)
    except IndexError as error:
        raise ValueError(f"it has a number in it that means nothing: {error}") from None


def _known(data: bytes) -> None:
    """ValueError where it is none, or of another layout."""
    if len(data) < layout.FRONT.size or data[: len(layout.MAGIC)] != layout.MAGIC:
        raise ValueError("it is not a status page of oomguard")
    _, number, size, _ = layout.FRONT.unpack_from(data)
    if number != layout.LAYOUT:
        raise ValueError(
            f"it is of layout {number}, and this version of oomguard reads layout {layout.LAYOUT}: "
            "restart the daemon, or use the command of the version that runs"
        )
    if len(data) < layout.SIZE or size != layout.SIZE:
        raise ValueError(f"it is not a status page of oomguard: {len(data)} bytes in place of {layout.SIZE}")


def _whole(data: bytes) -> bool:
    """Whether all of it is of one and the same writing."""
    sequence = int.from_bytes(data[layout.SEQUENCE_AT : layout.PID_AT], "little")
    own = int.from_bytes(data[layout.SUM_AT : layout.SUM_AT + 4], "little")
    if sequence & 1 or binascii.crc32(data[layout.PID_AT : layout.SUM_AT], sequence & 0xFFFFFFFF) != own:
        return False
    _, counts, sums = _head(data)
    return all(
        binascii.crc32(data[section.at : section.at + _used(section, counts) * section.record.size])
        == sums[section.number]
        for section in layout.SECTIONS
    )


def _head(data: bytes) -> tuple[dict[str, int], tuple[int, ...], tuple[int, ...]]:
    """NUMBERS by name, COUNTS, checksums."""
    values = layout.HEAD.unpack_from(data, layout.PID_AT)
    first, second = len(layout.NUMBERS), len(layout.NUMBERS) + len(layout.COUNTS)
    return dict(zip(layout.NUMBERS, values[:first], strict=True)), values[first:second], values[second:]


def _used(section: layout.Section, counts: tuple[int, ...]) -> int:
    return min(counts[section.counted], section.room)


def _records(data: bytes, section: layout.Section, counts: tuple[int, ...]) -> Iterator[tuple[Any, ...]]:
    end = section.at + _used(section, counts) * section.record.size
    return section.record.iter_unpack(data[section.at : end])


def _decode(data: bytes) -> StatusPage:
    head, counts, _ = _head(data)
    used = _used(layout.NOTES, counts)
    notes = data[layout.NOTES.at : layout.NOTES.at + used].decode("utf-8", "replace").split("\n")
    guards = _guards(data, counts)
    return StatusPage(
        Numbers(**{name: head[name] for name in Numbers.__dataclass_fields__}),
        guards,
        notes[0],
        tuple((what, why) for what, tab, why in (line.partition("\t") for line in notes[1:]) if tab),
        head["beat_ns"],
        _pressure(head),
        head["pressure_ns"],
        tuple(Growing(_text(path), *rest) for path, *rest in _records(data, layout.GROWTH, counts)),
        tuple(
            Nominee(guards[guard].name, layout.TAKES[take], count, pid, held, _text(what), _text(cgroup))
            for guard, take, count, pid, held, what, cgroup in _records(data, layout.NOMINEES, counts)
        ),
        _events(data, counts),
        tuple(
            (name, counts[section.counted] - section.room)
            for section, name in _TOLD
            if section is not layout.EVENTS and counts[section.counted] > section.room
        ),
    )


_TOLD: Final = (
    (layout.NUMBERS_OF, "policies"),
    (layout.CONDITIONS, "conditions"),
    (layout.GROWTH, "cgroups that grow"),
    (layout.NOMINEES, "nominees"),
    (layout.NOTES, "bytes of what is degraded"),
)


def _guards(data: bytes, counts: tuple[int, ...]) -> tuple[GuardLine, ...]:
    clauses = _clauses(data, counts)
    found = []
    both = zip(_records(data, layout.NAMES, counts), _records(data, layout.NUMBERS_OF, counts), strict=True)
    for place, ((name, cgroup, mode, path), numbers) in enumerate(both):
        phase, targets, soft, hard, *averages = numbers[:10]
        entered, used, limit, swap, swap_limit, kills, snapshots = numbers[10:]
        found.append(
            GuardLine(
                *(_text(name), _text(cgroup), MODES[mode], PHASES[phase], targets, used, limit, _text(path)),
                *(swap, swap_limit, entered, kills, snapshots, _averages(averages)),
                _of(clauses, place, 0, soft),
                _of(clauses, place, 1, hard),
            )
        )
    return tuple(found)


def _averages(parts: list[int]) -> Averages | None:
    if layout.UNKNOWN_32 in parts:
        return None
    some10, some60, some300, full10, full60, full300 = (part / 100 for part in parts)
    return Averages((some10, some60, some300), (full10, full60, full300))


_Clauses = dict[tuple[int, int], dict[int, tuple[list[Condition], int]]]


def _clauses(data: bytes, counts: tuple[int, ...]) -> _Clauses:
    """By guard and watermark: number of the clause to its conditions and how long they are to last."""
    found: _Clauses = {}
    for guard, mark, clause, kind, word, unit, *numbers in _records(data, layout.CONDITIONS, counts):
        number, over_ns, lasting_ns = numbers
        conditions, _ = found.setdefault((guard, mark), {}).setdefault(clause, ([], lasting_ns))
        conditions.append(
            Condition(layout.KINDS[kind], layout.WORDS[word], layout.UNITS[unit], number, over_ns),
        )
    return found


def _of(clauses: _Clauses, guard: int, mark: int, holds: int) -> tuple[Clause, ...]:
    mine = clauses.get((guard, mark), {})
    return tuple(
        Clause(tuple(conditions), lasting_ns, bool(holds >> number & 1))
        for number, (conditions, lasting_ns) in mine.items()
    )


def _pressure(head: dict[str, int]) -> Pressure | None:
    if head["some_avg10"] == layout.UNKNOWN or not head["pressure_ns"]:
        return None
    some, full = (
        Stall(
            head[f"{line}_avg10"] / 100,
            head[f"{line}_avg60"] / 100,
            head[f"{line}_avg300"] / 100,
            head[f"{line}_total_us"],
        )
        for line in ("some", "full")
    )
    return Pressure(some, full)


def _events(data: bytes, counts: tuple[int, ...]) -> tuple[Event, ...]:
    """The page holds them in a ring."""
    found = [
        Event(at_ns, layout.EVENT_KINDS[kind], _text(guard), _text(text))
        for at_ns, kind, _, guard, text in _records(data, layout.EVENTS, counts)
    ]
    newest = counts[layout.EVENTS.counted] % len(found) if found else 0
    return tuple(reversed(found[newest:] + found[:newest]))


def _text(padded: bytes) -> str:
    return padded.rstrip(b"\0").decode("utf-8", "replace")
