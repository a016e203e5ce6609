"""When to look again: seconds while far away, milliseconds while near, and never in the past."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oomguard.judge.detect import Phase, Sight
from oomguard.judge.pace import (
    ARMED_NS,
    CALM_NS,
    DRAINING_NS,
    FALLING_NS,
    FILL,
    NEVER,
    STEADY_NS,
    SWAP_FILL,
    TRIPPED_NS,
    next_look,
    time_to,
)
from oomguard.judge.state import TargetState
from oomguard.model.facts import Compressed, MemInfo, TargetId
from oomguard.model.policy import (
    AvailableBelow,
    EventsAbove,
    ExhaustsWithin,
    GrowthAbove,
    Guard,
    LevelAbove,
    MemoryAbove,
    PressureAbove,
    PressureRising,
    StallAbove,
    SwapFreeBelow,
    Watermark,
    ZramAbove,
)

from .test_detect import sights
from .world import MS, SECOND, START, cgroup, host_guard, limit_guard, meminfo, pressure, share, when

HOST = TargetState(TargetId("host", "/"))
GIB = 1 << 30


def machine(available_gib: float, total_gib: int = 64) -> Sight:
    size = int(available_gib * GIB)
    return Sight(START, MemInfo(total_gib * GIB, size, size, 0, 0), None, None)


def sleeps(sight: Sight, phase: Phase = "calm", guard: Guard = host_guard(), falling: bool = False) -> float:
    """In milliseconds."""
    state = replace(HOST, phase=phase, falling_ns=sight.at_ns if falling else 0)
    return next_look(guard, state, sight, False) / MS


@pytest.mark.parametrize(
    ("available_gib", "low", "high"),
    [
        pytest.param(100, 10_000, 10_000, id="far away: ten seconds"),
        pytest.param(39, 5000, 5500, id="over 30 GiB to the soft watermark: twelve times a minute at most"),
        pytest.param(20, 1900, 2200, id="12 GiB to the soft watermark at 6 GiB/s: two seconds"),
        pytest.param(8, 100, 100, id="just over it: a tenth of a second"),
    ],
)
def test_a_calm_machine_is_looked_at_as_often_as_it_could_fill(available_gib: int, low: float, high: float) -> None:
    assert low <= sleeps(machine(available_gib, max(64, available_gib))) <= high


def test_an_armed_machine_is_looked_at_more_often_while_it_falls() -> None:
    near = machine(3.21)
    assert sleeps(near, "armed") == STEADY_NS / MS
    assert sleeps(near, "armed", falling=True) == ARMED_NS[0] / MS
    assert sleeps(machine(7), "armed") == ARMED_NS[1] / MS


def test_a_fall_is_remembered_for_a_while() -> None:
    """MemAvailable falls in steps: it stands still for tens of milliseconds in the middle of a fast leak."""
    sight = machine(3.21)
    for age, expected in ((0, ARMED_NS[0]), (FALLING_NS - 1, ARMED_NS[0]), (FALLING_NS, STEADY_NS)):
        state = replace(HOST, phase="armed", falling_ns=sight.at_ns - age)
        assert next_look(host_guard(), state, sight, False) == expected


def test_a_draining_victim_is_looked_after_at_a_steady_pace() -> None:
    assert sleeps(machine(0), "draining") == DRAINING_NS / MS


def test_an_asked_survey_comes_at_once() -> None:
    assert next_look(host_guard(), replace(HOST, phase="armed", asked="whole"), machine(60), False) == 0


def test_behind_a_tripwire_deadlines_may_be_longer() -> None:
    path = "/x.service"
    guard = limit_guard(path, soft=50)
    state = TargetState(TargetId("limited", path))
    sight = Sight(START, meminfo(900), cgroup(path, 10, limit=400), None)
    bare, tripped = (next_look(guard, state, sight, wire) for wire in (False, True))
    assert CALM_NS[0] == bare < TRIPPED_NS[0] < tripped


def test_the_nearest_watermark_counts_and_within_a_table_the_furthest_condition() -> None:
    sight = replace(machine(60), host=MemInfo(64 * GIB, GIB, 60 * GIB, 8 * GIB, 8 * GIB))
    soft = Watermark((when(AvailableBelow(share(50))), when(AvailableBelow(share(90)))), ())
    both = Watermark((when(AvailableBelow(share(50)), SwapFreeBelow(share(10))),), ())
    assert time_to(soft, (0, 0), sight, False) < time_to(both, (0,), sight, False)
    assert time_to(None, (), sight, False) == NEVER


@pytest.mark.parametrize(
    ("clause", "sight", "expected"),
    [
        pytest.param(when(StallAbove("some", 1, 2, 3)), machine(60), NEVER, id="only the kernel can tell"),
        pytest.param(when(LevelAbove("low", "default", 3)), machine(60), NEVER, id="nor of a level of v1"),
        pytest.param(when(PressureAbove("full", 0.2, "10s")), machine(60), NEVER, id="PSI is off: it never will"),
        pytest.param(
            when(PressureAbove("full", 0.2, "10s")),
            replace(machine(60), pressure=pressure()),
            2 * SECOND,
            id="averages are renewed every two seconds",
        ),
        pytest.param(when(PressureRising("full", 0.2, "10s")), machine(60), NEVER, id="nor will it rise"),
        pytest.param(when(ZramAbove("memory", share(50))), machine(60), NEVER, id="nothing is compressed here"),
        pytest.param(
            when(ZramAbove("memory", share(50))),
            replace(machine(60), compressed=Compressed(31 * GIB)),
            GIB * SECOND // SWAP_FILL,
            id="compressed swap fills as any other",
        ),
        pytest.param(when(GrowthAbove(share(1), 6 * SECOND, 1)), machine(60), SECOND, id="two looks in each third"),
        pytest.param(when(EventsAbove("high", 9, 6 * SECOND, 1)), machine(60), SECOND, id="the same for a count"),
        pytest.param(when(ExhaustsWithin(3 * SECOND, 1)), machine(9), 375 * MS, id="a forecast, while nothing grows"),
        pytest.param(
            when(ExhaustsWithin(3 * SECOND, 1)),
            replace(machine(9), tracks=((1, ((START - SECOND, 0), (START, GIB))),)),
            125 * MS,
            id="a forecast that comes near",
        ),
        pytest.param(
            when(ExhaustsWithin(3 * SECOND, 1), AvailableBelow(share(50))),
            machine(60),
            28 * GIB * SECOND // FILL,
            id="a forecast only below a line: there is time until then",
        ),
        pytest.param(when(SwapFreeBelow(share(10))), machine(60), NEVER, id="there is no swap"),
        pytest.param(when(AvailableBelow(share(50))), machine(1), 0, id="it holds"),
    ],
)
def test_times_that_are_not_room_over_rate(clause: object, sight: Sight, expected: int) -> None:
    assert time_to(Watermark((clause,), ()), (0,), sight, False) == expected  # type: ignore[arg-type]


def test_what_lasts_is_looked_at_when_its_time_is_over() -> None:
    mark = Watermark((when(AvailableBelow(share(50)), lasting_ms=10_000),), ())
    sight = replace(machine(1), at_ns=START + 4 * SECOND)
    assert time_to(mark, (START,), sight, False) == 6 * SECOND
    assert time_to(mark, (START - 60 * SECOND,), sight, False) == 0


def test_clauses_that_were_never_measured_are_as_if_they_did_not_hold() -> None:
    mark = Watermark((when(AvailableBelow(share(5))), when(MemoryAbove(share(99)))), ())
    assert time_to(mark, (), machine(60), False) == time_to(mark, (0, 0), machine(60), False) > 0


@given(sights, st.sampled_from(["calm", "armed", "firing", "draining", "cooling"]), st.booleans(), st.booleans())
def test_no_look_is_now_and_none_is_late(sight: Sight, phase: Phase, tripped: bool, falling: bool) -> None:
    """A deadline that does not move is a loop that spins; one that is far away is a guard that sleeps through it."""
    state = replace(HOST, phase=phase, falling_ns=sight.at_ns if falling else 0)
    for guard in (host_guard(), limit_guard("/x")):
        assert ARMED_NS[0] <= next_look(guard, state, sight, tripped) <= TRIPPED_NS[1]
