"""Status pages for tests of those who read them, written by the daemon's own hand."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from oomguard.core.page import Writer, text
from oomguard.model import statuslayout as layout
from oomguard.model.facts import Pressure, Stall
from oomguard.model.statuspage import Averages, Clause, Event, Growing, GuardLine, Nominee, Numbers


def core(more: str = "") -> subprocess.Popen[bytes]:
    """Somebody who looks like a core from outside, until he is killed or his standard input ends."""
    text = f"open('/proc/self/comm', 'w').write('oomguard'); {more}print('up', flush=True); sys.stdin.read()"
    words = [sys.executable, "-S", "-c", f"import os, sys; {text}", "--plan-fd", "3"]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    return process


def publish(
    place: Path | Writer,
    numbers: Numbers | None = None,
    guards: Sequence[GuardLine] = (),
    version: str = "9.9.9",
    degraded: Sequence[tuple[str, str]] = (),
    *,
    beat_ns: int | None = None,
    pressure: Pressure | None = None,
    growing: Sequence[Growing] = (),
    nominees: Sequence[Nominee] = (),
    events: Sequence[Event] = (),
) -> Writer:
    """A page with this, in the directory or by the writer; ``events`` newest first, as they are read."""
    writer = Writer(str(place / layout.NAME)) if isinstance(place, Path) else place
    names = {guard.name: number for number, guard in enumerate(guards)}
    numbers = numbers or Numbers()
    beat_ns = time.monotonic_ns() if beat_ns is None else beat_ns
    writer.begin()
    number = 0
    for guard_number, guard in enumerate(guards):
        _guard(writer, guard_number, guard)
        for mark, clauses in enumerate((guard.soft, guard.hard)):
            number = _conditions(writer, number, guard_number, mark, clauses)
    for place_, it in enumerate(growing):
        values = text(it.cgroup, 192, tail=True), it.bytes, it.at_ns, it.before_bytes, it.before_ns
        writer.put(layout.GROWTH, place_, *values)
    for place_, nominee in enumerate(nominees):
        heads = names[nominee.guard], layout.TAKES.index(nominee.take), nominee.count, nominee.pid
        ends = text(nominee.what, 64), text(nominee.cgroup, 192, tail=True)
        writer.put(layout.NOMINEES, place_, *heads, nominee.held_bytes, *ends)
    for place_, event in enumerate(reversed(events)):
        words = text(event.guard, 72), text(event.text, 168)
        kind = layout.EVENT_KINDS.index(event.kind)
        writer.put(layout.EVENTS, place_ % layout.EVENTS.room, event.at_ns, kind, 0, *words)
    for section, count in (
        (layout.NUMBERS_OF, len(guards)),
        (layout.NAMES, len(guards)),
        (layout.CONDITIONS, number),
        (layout.GROWTH, min(len(growing), layout.GROWTH.room)),
        (layout.NOMINEES, len(nominees)),
        (layout.EVENTS, len(events)),
    ):
        writer.count(section, count)
    writer.notes("\n".join([version, *(f"{what}\t{why}" for what, why in degraded)]).encode("utf-8", "replace"))
    head = {name: getattr(numbers, name) for name in Numbers.__dataclass_fields__}
    writer.end((*head.values(), *_pressure(pressure, beat_ns), beat_ns))
    return writer


def _guard(writer: Writer, place: int, guard: GuardLine) -> None:
    names = text(guard.name, 72), text(guard.cgroup, 180), layout.MODES.index(guard.mode)
    writer.put(layout.NAMES, place, *names, text(guard.path, 192, tail=True))
    marks = (sum(1 << n for n, clause in enumerate(clauses) if clause.holds) for clauses in (guard.soft, guard.hard))
    sizes = guard.entered_ns, guard.used_bytes, guard.limit_bytes, guard.swap_bytes, guard.swap_limit_bytes
    averages = _averages(guard.pressure)
    phase = layout.PHASES.index(guard.phase)
    writer.put(layout.NUMBERS_OF, place, phase, guard.targets, *marks, *averages, *sizes, guard.kills, guard.snapshots)


def _conditions(writer: Writer, number: int, guard: int, mark: int, clauses: Sequence[Clause]) -> int:
    for clause_number, clause in enumerate(clauses):
        for it in clause.all_of:
            words = layout.KINDS.index(it.kind), layout.WORDS.index(it.word), layout.UNITS.index(it.unit)
            values = guard, mark, clause_number, *words, it.number, it.over_ns, clause.lasting_ns
            writer.put(layout.CONDITIONS, number, *values)
            number += 1
    return number


def _averages(pressure: Averages | None) -> tuple[int, ...]:
    if pressure is None:
        return (layout.UNKNOWN_32,) * 6
    return tuple(round(part * 100) for part in (*pressure.some, *pressure.full))


def _pressure(pressure: Pressure | None, at_ns: int) -> tuple[int, ...]:
    if pressure is None:
        return (*(layout.UNKNOWN,) * 8, 0)
    return (*_stall(pressure.some), *_stall(pressure.full), at_ns)


def _stall(stall: Stall) -> tuple[int, ...]:
    return *(round(part * 100) for part in (stall.avg10, stall.avg60, stall.avg300)), stall.total_us
