"""Each condition with its margins: at the watermark, clearly over it, and twice as bad."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oomguard.judge.detect import (
    Sight,
    any_holds,
    clause_holds,
    crossed,
    describe,
    holds,
    is_moot,
    mib,
    since,
)
from oomguard.model.facts import Compressed, MemInfo, Pressure, Stall
from oomguard.model.policy import (
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
    Watermark,
    ZramAbove,
)

from .world import MIB, MS, SECOND, START, cgroup, meminfo, pressure, share, when

BARE = Sight(START, meminfo(500), None, None)
AVAILABLE = AvailableBelow(share(10))
SWAP_FREE = SwapFreeBelow(share(10))
MEMORY = MemoryAbove(share(80))
SWAP = SwapAbove(share(50))
STALL = StallAbove("some", 150_000, 1_000_000, 3)
PRESSURE = PressureAbove("full", 0.20, "10s")
RISING = PressureRising("full", 0.10, "10s")
ZRAM = ZramAbove("memory", share(50))
DISK = ZramAbove("disk", share(50))
GROWTH = GrowthAbove(Amount(bytes=10 * MIB), 3 * SECOND, 1)
EXHAUSTS = ExhaustsWithin(3 * SECOND, 1)
REFAULTS = RefaultsAbove("file", share(1), 3 * SECOND, 1)
EVENTS = EventsAbove("high", 100, 10 * SECOND, 1)


def host(available: float, **swap: int) -> Sight:
    return replace(BARE, host=meminfo(available, **swap))


def inside(current: float, limit: float | None = 100, **facts: object) -> Sight:
    return replace(BARE, facts=cgroup("/x.service", current, limit=limit, **facts))  # type: ignore[arg-type]


def swapped(out: float, limit_mib: int | None = None, total: int = 1000) -> Sight:
    facts = cgroup("/x.service", 10, swap=out)
    facts = replace(facts, swap_limit_bytes=None if limit_mib is None else limit_mib * MIB)
    return replace(BARE, host=meminfo(500, swap_total=total, swap_free=total), facts=facts)


def stressed(full: float) -> Sight:
    return replace(BARE, pressure=pressure(full=full))


def averages(now: float, before: float) -> Sight:
    return replace(BARE, pressure=Pressure(Stall(0, 0, 0, 0), Stall(now, before, before, 0)))


def packed(memory: int, stored: int = 0, disk: int = 0) -> Sight:
    return replace(BARE, compressed=Compressed(memory * MIB, stored * MIB, disk * MIB))


def grown(rate: float, sight: Sight = BARE, seconds: int = 4, unit: int = MIB) -> Sight:
    """Four looks a second, and at each of them so much more than at the one before."""
    points = tuple((START - i * SECOND // 4, int((1000 - i * rate / 4) * unit)) for i in range(seconds * 4, -1, -1))
    return replace(sight, tracks=((1, points),))


# at: the watermark holds; clear: it is not clearly over yet; deep: it is twice as bad
@pytest.mark.parametrize(
    ("condition", "sight", "expected"),
    [
        pytest.param(AVAILABLE, host(500), "", id="plenty"),
        pytest.param(AVAILABLE, host(121), "", id="available: over 10 % by 2 % of the total"),
        pytest.param(AVAILABLE, host(119), "clear", id="available: in between"),
        pytest.param(AVAILABLE, host(100), "clear", id="available: at the very line"),
        pytest.param(AVAILABLE, host(99), "at clear", id="available: below"),
        pytest.param(AVAILABLE, host(49), "at clear deep", id="available: below half"),
        pytest.param(AvailableBelow(Amount(bytes=10 * MIB)), host(21), "", id="a small amount doubles at most"),
        pytest.param(AvailableBelow(Amount(bytes=10 * MIB)), host(19), "clear", id="a small amount, in between"),
        pytest.param(AvailableBelow(Amount(bytes=10 * MIB)), host(9), "at clear", id="bytes"),
        pytest.param(SWAP_FREE, host(500, swap_total=100, swap_free=50), "", id="swap: half of it free"),
        pytest.param(SWAP_FREE, host(500, swap_total=100, swap_free=11), "clear", id="swap: in between"),
        pytest.param(SWAP_FREE, host(500, swap_total=100, swap_free=9), "at clear", id="swap: low"),
        pytest.param(SWAP_FREE, host(500, swap_total=100, swap_free=4), "at clear deep", id="swap: very low"),
        pytest.param(SWAP_FREE, host(500), "at clear deep", id="no swap: none is free"),
        pytest.param(MEMORY, inside(77), "", id="memory: under 80 % by 2 % of the limit"),
        pytest.param(MEMORY, inside(79), "clear", id="memory: in between"),
        pytest.param(MEMORY, inside(81), "at clear", id="memory: above"),
        pytest.param(MEMORY, inside(91), "at clear deep", id="memory: more than half of the rest is gone"),
        pytest.param(MEMORY, inside(100, cache=99), "", id="memory: at the limit, but it is cache"),
        pytest.param(
            MEMORY, inside(100, cache=None), "at clear deep", id="memory: without memory.stat its upper bound"
        ),
        pytest.param(MEMORY, inside(100, cache=10, shmem=85), "at clear", id="memory: tmpfs is not cache"),
        pytest.param(MEMORY, inside(100, limit=None), "", id="memory: no limit, so of the machine"),
        pytest.param(MEMORY, inside(900, limit=None), "at clear", id="memory: no limit, most of the machine"),
        pytest.param(MEMORY, inside(850, limit=9999), "at clear", id="memory: a limit over the machine's memory"),
        pytest.param(MEMORY, host(150), "at clear", id="memory of the machine: total less available"),
        pytest.param(MEMORY, inside(1, limit=0), "at clear deep", id="memory: a limit of nothing"),
        pytest.param(SWAP, swapped(400), "", id="swap in use: some"),
        pytest.param(SWAP, swapped(490), "clear", id="swap in use: in between"),
        pytest.param(SWAP, swapped(510), "at clear", id="swap in use: half of the machine's"),
        pytest.param(SWAP, swapped(60, limit_mib=100), "at clear", id="swap in use: of the cgroup's own limit"),
        pytest.param(SWAP, swapped(90, limit_mib=100), "at clear deep", id="swap in use: most of it"),
        pytest.param(SWAP, swapped(0, limit_mib=0), "", id="swap in use: none is allowed"),
        pytest.param(SWAP, swapped(0, total=0), "", id="swap in use: there is none"),
        pytest.param(SWAP, host(500, swap_total=100, swap_free=40), "at clear", id="swap in use, of the machine"),
        pytest.param(PRESSURE, BARE, "", id="pressure: PSI is off"),
        pytest.param(PRESSURE, stressed(15), "", id="pressure: low"),
        pytest.param(PRESSURE, stressed(17), "clear", id="pressure: in between"),
        pytest.param(PRESSURE, stressed(21), "at clear deep", id="pressure: above; how much says nothing"),
        pytest.param(RISING, BARE, "", id="rising: PSI is off"),
        pytest.param(RISING, averages(30, 10), "at clear deep", id="rising"),
        pytest.param(RISING, averages(9, 1), "clear", id="rising, but not as high"),
        pytest.param(RISING, averages(30, 30), "clear", id="risen: it stays there"),
        pytest.param(RISING, averages(30, 28), "clear", id="risen by less than a tenth"),
        pytest.param(RISING, averages(12, 60), "clear", id="falling, and not clearly over"),
        pytest.param(RISING, averages(7, 60), "", id="falling, and over"),
        pytest.param(ZRAM, BARE, "", id="zram: not read"),
        pytest.param(ZRAM, packed(400), "", id="zram: takes 40 % of memory"),
        pytest.param(ZRAM, packed(490), "clear", id="zram: in between"),
        pytest.param(ZRAM, packed(510), "at clear", id="zram: takes half of memory"),
        pytest.param(ZRAM, packed(800), "at clear deep", id="zram: takes most of memory"),
        pytest.param(DISK, packed(800), "", id="zram: there is no disk, it is all zswap"),
        pytest.param(DISK, packed(10, 60, 100), "at clear", id="zram: its disk is over half full"),
        pytest.param(DISK, packed(10, 40, 100), "", id="zram: its disk is not"),
        pytest.param(GROWTH, BARE, "", id="growth: nothing is known yet"),
        pytest.param(GROWTH, grown(11), "at clear deep", id="growth"),
        pytest.param(GROWTH, grown(9), "clear", id="growth: in between"),
        pytest.param(GROWTH, grown(7), "", id="growth: slow"),
        pytest.param(GROWTH, grown(-50), "", id="growth: shrinks"),
        pytest.param(GROWTH, grown(50, seconds=2), "", id="growth: not seen for long enough"),
        pytest.param(EXHAUSTS, grown(10), "", id="exhausts: 500 MiB at 10 MiB/s"),
        pytest.param(EXHAUSTS, grown(100), "clear", id="exhausts: in 5 s"),
        pytest.param(EXHAUSTS, grown(200), "at clear", id="exhausts: in 2.5 s"),
        pytest.param(EXHAUSTS, grown(400), "at clear deep", id="exhausts: in 1.25 s"),
        pytest.param(EXHAUSTS, grown(0, host(0)), "", id="exhausts: nothing is left, and nothing grows"),
        pytest.param(
            EXHAUSTS, grown(200, host(500, swap_total=500, swap_free=500)), "clear", id="exhausts: swap counts"
        ),
        pytest.param(EXHAUSTS, grown(20, inside(60)), "at clear", id="exhausts: 40 MiB to its limit"),
        pytest.param(EXHAUSTS, grown(200, inside(60, limit=None)), "at clear", id="exhausts: no limit, the machine"),
        pytest.param(EXHAUSTS, grown(200, inside(60, limit=9999)), "at clear", id="exhausts: the machine first"),
        pytest.param(REFAULTS, grown(11), "at clear deep", id="refaults: over 1 % of memory a second"),
        pytest.param(REFAULTS, grown(7), "", id="refaults: below"),
        pytest.param(EVENTS, grown(11, seconds=12, unit=1), "at clear deep", id="events: 110 in 10 s"),
        pytest.param(EVENTS, grown(9, seconds=12, unit=1), "clear", id="events: 90 in 10 s"),
        pytest.param(EVENTS, grown(7, seconds=12, unit=1), "", id="events: 70 in 10 s"),
        pytest.param(STALL, BARE, "", id="stall: the trigger is silent"),
        pytest.param(STALL, replace(BARE, stalls=((3, START + 1),)), "at clear deep", id="stall: within its window"),
        pytest.param(STALL, replace(BARE, stalls=((3, START),)), "", id="stall: the window is over"),
        pytest.param(STALL, replace(BARE, stalls=((4, START + 1),)), "", id="stall: another trigger"),
    ],
)
def test_conditions_and_their_margins(condition: Condition, sight: Sight, expected: str) -> None:
    found = [margin for margin in ("at", "clear", "deep") if holds(condition, sight, margin)]  # type: ignore[arg-type]
    assert " ".join(found) == expected


def test_all_conditions_of_a_table_must_hold() -> None:
    clause = when(AVAILABLE, PRESSURE)
    assert not clause_holds(clause, host(50))
    assert not clause_holds(clause, stressed(90))
    assert clause_holds(clause, replace(host(50), pressure=pressure(full=90)))


def test_only_a_level_can_be_twice_as_bad() -> None:
    awful = replace(host(10), pressure=pressure(full=99), stalls=((3, START + 1),))
    assert clause_holds(when(AVAILABLE, PRESSURE), awful, "deep")
    assert not clause_holds(when(PRESSURE), awful, "deep")
    assert not clause_holds(when(STALL, PRESSURE), awful, "deep")
    assert not clause_holds(when(SWAP_FREE, PRESSURE), awful, "deep"), "no swap is no level"


def test_free_swap_alone_says_nothing_without_swap() -> None:
    assert is_moot(when(SWAP_FREE), host(500))
    assert not is_moot(when(SWAP_FREE), host(500, swap_total=100, swap_free=1))
    assert not is_moot(when(SWAP_FREE, AVAILABLE), host(500))
    assert not clause_holds(when(SWAP_FREE), host(1))
    assert clause_holds(when(SWAP_FREE, AVAILABLE), host(1))


def test_since_keeps_the_beginning_and_forgets_it_at_the_first_break() -> None:
    mark = Watermark((when(AVAILABLE), when(PRESSURE)), ())
    first = since(mark, host(50), ())
    assert first == (START, 0)
    later = replace(host(40), at_ns=START + 5)
    assert since(mark, later, first) == (START, 0)
    assert since(mark, replace(host(500), at_ns=START + 6), first) == (0, 0)
    assert since(None, host(50), first) == ()


def test_crossed_is_the_first_clause_that_has_lasted() -> None:
    mark = Watermark((when(AVAILABLE, lasting_ms=100), when(PRESSURE)), ())
    assert crossed(mark, (START, 0), START + 99 * MS) is None
    assert crossed(mark, (START, 0), START + 100 * MS) == 0
    assert crossed(mark, (0, START), START) == 1
    assert crossed(mark, (0, 0), START) is None
    assert crossed(mark, (), START) is None
    assert crossed(None, (START,), START) is None
    assert not any_holds(None, host(0), "at")


amounts = st.one_of(
    st.builds(Amount, bytes=st.integers(0, 1 << 40)),
    st.builds(Amount, share=st.floats(0, 1)),
)
conditions = st.one_of(
    *(st.builds(kind, amounts) for kind in (AvailableBelow, SwapFreeBelow, MemoryAbove, SwapAbove)),
    st.builds(
        PressureAbove, st.sampled_from(["some", "full"]), st.floats(0, 1), st.sampled_from(["10s", "60s", "300s"])
    ),
    st.builds(StallAbove, st.just("some"), st.just(1), st.just(2), st.integers(0, 3)),
    st.builds(LevelAbove, st.just("low"), st.just("local"), st.integers(0, 3)),
    st.builds(PressureRising, st.sampled_from(["some", "full"]), st.floats(0, 1), st.sampled_from(["10s", "60s"])),
    st.builds(ZramAbove, st.sampled_from(["memory", "disk"]), amounts),
    st.builds(GrowthAbove, amounts, st.integers(1, 10 * SECOND), st.integers(0, 3)),
    st.builds(ExhaustsWithin, st.integers(1, 10 * SECOND), st.integers(0, 3)),
    st.builds(
        RefaultsAbove, st.sampled_from(["anon", "file", "any"]), amounts, st.integers(1, 10 * SECOND), st.integers(0, 3)
    ),
    st.builds(EventsAbove, st.just("max"), st.integers(0, 99), st.integers(1, 10 * SECOND), st.integers(0, 3)),
)
tracks = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.lists(st.tuples(st.integers(0, 1 << 36), st.integers(0, 1 << 40))).map(
            lambda points: tuple(sorted({at: (at, value) for at, value in points}.values()))
        ),
    ),
    max_size=3,
    unique_by=lambda pair: pair[0],
).map(tuple)
sizes = st.integers(0, 1 << 40)
machines = st.builds(MemInfo, sizes, sizes, sizes, sizes, sizes)
sights = st.builds(
    Sight,
    st.integers(1, 1 << 50),
    machines,
    st.none()
    | st.builds(cgroup, st.just("/x"), st.floats(0, 1e6), st.none() | st.just(0), st.none() | st.floats(0, 1e6)),
    st.none() | st.builds(pressure, st.floats(0, 100), st.floats(0, 100)),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1 << 50)), max_size=3).map(tuple),
    tracks,
    st.none(),
    st.none() | st.builds(Compressed, sizes, sizes, sizes),
)


@given(st.lists(conditions, min_size=1, max_size=3), sights)
def test_deep_is_at_and_at_is_not_clear(some: list[Condition], sight: Sight) -> None:
    """A phase that is left while its watermark holds would be entered again in the next turn, for ever."""
    clause = Clause(tuple(some))
    if clause_holds(clause, sight, "deep"):
        assert clause_holds(clause, sight, "at")
    if clause_holds(clause, sight, "at"):
        assert clause_holds(clause, sight, "clear")


@given(conditions, sights)
def test_every_condition_can_be_said(condition: Condition, sight: Sight) -> None:
    assert describe(condition, sight)


@pytest.mark.parametrize(
    ("condition", "sight", "expected"),
    [
        (AvailableBelow(share(5)), host(47), "available 47.0 MiB below 50.0 MiB (5 % of 1000.0 MiB)"),
        (AvailableBelow(Amount(bytes=64 * MIB)), host(47), "available 47.0 MiB below 64.0 MiB"),
        (SWAP_FREE, host(47), "no swap"),
        (SWAP_FREE, host(47, swap_total=100, swap_free=5), "free swap 5.0 MiB below 10.0 MiB (10 % of 100.0 MiB)"),
        (MEMORY, inside(90), "memory 90.0 MiB above 80.0 MiB (80 % of 100.0 MiB)"),
        (SWAP, swapped(600), "swap 600.0 MiB above 500.0 MiB (50 % of 1000.0 MiB)"),
        (STALL, BARE, "some stall over 150 ms in 1000 ms"),
        (PRESSURE, stressed(23.456), "full pressure 23.5 % above 20 % over 10s"),
        (RISING, averages(30, 10), "full pressure rising: 30.0 % over 10s, 10.0 % over 60s, above 10 %"),
        (ZRAM, packed(600), "taken by zram and zswap 600.0 MiB above 500.0 MiB (50 % of 1000.0 MiB)"),
        (GROWTH, grown(12), "growth 12.0 MiB above 10.0 MiB a second over 3 s"),
        (
            EXHAUSTS,
            grown(200),
            "exhausted in 2.5 s, within 3 s: 500.0 MiB left at 200.0 MiB a second at least over 750 ms",
        ),
        (EXHAUSTS, BARE, "exhaustion within 3 s: no growth"),
        (REFAULTS, grown(12), "file refaults 12.0 MiB above 10.0 MiB (1 % of 1000.0 MiB) a second over 3 s"),
        (EVENTS, grown(12, seconds=12, unit=1), "120 high events above 100 in 10 s"),
    ],
)
def test_conditions_are_said_with_todays_numbers(condition: Condition, sight: Sight, expected: str) -> None:
    assert describe(condition, sight) == expected


def test_sizes_for_people() -> None:
    assert mib(5400 * MIB) == "5400.0 MiB"
    assert mib(64 << 30) == "64.0 GiB"
