"""How far a guard is from its watermarks, in numbers and in words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from oomguard.model.facts import Pressure, Stall
from oomguard.model.statuslayout import KINDS
from oomguard.model.statuspage import Averages, Clause, Condition, GuardLine, Numbers, StatusPage
from oomguard.report.near import by_nearness, described, lines, near, used

GIB = 1 << 30
MACHINE = Numbers(
    mem_total_bytes=16 * GIB, mem_available_bytes=8 * GIB, swap_total_bytes=4 * GIB, swap_free_bytes=3 * GIB
)
HOST = GuardLine("host", "/", "enforce", "calm", 1, 0, 16 * GIB, path="/")
WEB = GuardLine(
    "web", "/web", "enforce", "calm", 1, 2 * GIB, 4 * GIB, path="/web", swap_bytes=GIB, swap_limit_bytes=GIB
)


def page(numbers: Numbers = MACHINE, pressure: Pressure | None = None) -> StatusPage:
    return StatusPage(numbers, (), "1", (), 0, pressure)


def share(kind: str, percent: float, word: str = "", over_s: int = 0) -> Condition:
    return Condition(kind, word, "millionths", round(percent * 10_000), over_s * 10**9)


def clause(*conditions: Condition, holds: bool = False, lasting_s: int = 0) -> Clause:
    return Clause(conditions, lasting_s * 10**9, holds)


AVAILABLE = share("available_below", 25)
MET = share("available_below", 60)
STALL = Condition("stall_above", "full", "us", 150_000, 10**9)
QUARTER = "available below 4.0 GiB (4.0 GiB away)"
TOLD = "a full stall of 150 ms in 1 s"


@pytest.mark.parametrize(
    ("guard", "clauses", "away", "words"),
    [
        (HOST, [clause(AVAILABLE)], "4.0 GiB", QUARTER),
        (HOST, [clause(share("swap_free_below", 50))], "1.0 GiB", "free swap below 2.0 GiB (1.0 GiB away)"),
        (WEB, [clause(share("memory_above", 75))], "1.0 GiB", "memory above 3.0 GiB (1.0 GiB away)"),
        (WEB, [clause(share("swap_above", 50))], "reached", "swap above 512 MiB (holds)"),
        (WEB, [clause(share("swap_above", 50), holds=True)], "holds", "swap above 512 MiB (holds)"),
        # All of a clause must hold: what is furthest away counts. Any of the clauses will do: what is nearest.
        (
            HOST,
            [clause(share("available_below", 1), share("swap_free_below", 74))],
            "7.8 GiB",
            "available below 164 MiB (7.8 GiB away) and free swap below 3.0 GiB (41.0 MiB away)",
        ),
        (HOST, [clause(share("available_below", 1)), clause(AVAILABLE)], "4.0 GiB", QUARTER),
        # ["60%", "6GiB"]: the smaller of the two is the line.
        (
            HOST,
            [clause(share("available_below", 60), Condition("available_below", "", "bytes", 6 * GIB, 0))],
            "2.0 GiB",
            "available below 6.0 GiB (2.0 GiB away)",
        ),
        # No number tells of a stall. A clause without one is told first, as long as it does not hold.
        (HOST, [clause(STALL)], "stall", TOLD),
        (HOST, [clause(MET, STALL)], "stall", f"available below 9.6 GiB (holds) and {TOLD}"),
        (HOST, [clause(MET, STALL), clause(AVAILABLE)], "4.0 GiB", QUARTER),
        (HOST, [clause(AVAILABLE), clause(STALL, holds=True)], "holds", TOLD),
        (HOST, [clause(AVAILABLE, lasting_s=10)], "4.0 GiB", f"{QUARTER}, for 10 s"),
    ],
)  # fmt: skip
def test_the_nearest_clause(guard: GuardLine, clauses: list[Clause], away: str, words: str) -> None:
    found = near(guard, page(), clauses)
    assert found is not None
    assert (found.away, found.words, found.others) == (away, words, len(clauses) - 1)


def test_pressure_is_of_its_own_average() -> None:
    averages = Averages((1.0, 2.0, 3.0), (10.0, 20.0, 30.0))
    guard = replace(WEB, pressure=averages)
    for over, word, away in ((10, "full", "30 %"), (60, "full", "20 %"), (300, "some", "37 %")):
        found = near(guard, page(), [clause(share("pressure_above", 40, word, over))])
        assert found is not None
        assert found.away == away
    machine = page(pressure=Pressure(Stall(50, 0, 0, 0), Stall(0, 0, 0, 0)))
    found = near(HOST, machine, [clause(share("pressure_above", 40, "some", 10))])
    assert found is not None
    assert (found.share, found.words) == (1.0, "some pressure above 40 % over 10 s (holds)")
    unread = near(HOST, page(), [clause(share("pressure_above", 40, "some", 10))])
    assert unread is not None
    assert (unread.share, unread.away) == (None, "pressure")


def test_without_swap_none_is_free() -> None:
    bare = page(replace(MACHINE, swap_total_bytes=0, swap_free_bytes=0))
    found = near(HOST, bare, [clause(share("swap_free_below", 50), AVAILABLE)])
    assert found is not None
    assert found.words == "no swap (holds) and available below 4.0 GiB (4.0 GiB away)"
    assert found.away == "4.0 GiB"


def test_the_way_is_from_nothing_to_the_line() -> None:
    for available, expected in ((16, 0.0), (10, 0.5), (4, 1.0), (1, 1.0), (20, 0.0)):
        found = near(HOST, page(replace(MACHINE, mem_available_bytes=available * GIB)), [clause(AVAILABLE)])
        assert found is not None
        assert found.share == expected, available


def test_the_foremost_is_first() -> None:
    """By phase, then by the way that is done; nothing to watch comes last."""
    full = replace(WEB, name="full", used_bytes=4 * GIB, hard=(clause(share("memory_above", 100)),))
    half = replace(full, name="half", used_bytes=2 * GIB)
    empty = replace(full, name="empty", targets=0)
    armed = replace(full, name="armed", phase="armed", used_bytes=0)
    draining = replace(armed, name="draining", phase="draining")
    found = by_nearness(replace(page(), guards=(empty, half, armed, full, draining)))
    assert [guard.name for guard in found] == ["draining", "armed", "full", "half", "empty"]


def test_nothing_to_watch_is_near_nothing() -> None:
    assert near(replace(WEB, targets=0), page(), [clause(AVAILABLE)]) is None
    assert near(WEB, page(), []) is None


def test_where_the_lines_are_drawn() -> None:
    """On the scale of what is used: other conditions have no place on it."""
    clauses = [clause(AVAILABLE, STALL), clause(share("swap_free_below", 10)), clause(share("memory_above", 50))]
    assert lines(HOST, page(), clauses) == [0.5, 0.75]
    assert lines(WEB, page(), clauses) == [0.5], "what the machine has left has none on a cgroup's"
    assert lines(replace(WEB, limit_bytes=0), page(), clauses) == []
    assert (used(HOST, page()), used(WEB, page())) == (8 * GIB, 2 * GIB)


def test_every_kind_has_its_words() -> None:
    said = [described(Condition(kind, "some", "bytes", 5 << 20, 10**10)) for kind in KINDS]
    assert len(set(said)) == len(KINDS)
    assert all(text and "{" not in text for text in said)
    assert described(Condition("events_above", "oom_kill", "count", 3, 10**10)) == "more than 3 oom_kill events in 10 s"
    assert described(share("growth_above", 2.5, "", 3)) == "growth above 2.5 % a second over 3 s"
