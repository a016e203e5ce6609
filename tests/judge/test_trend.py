"""What was before: growth that is growth, forecasts that nobody dies for in vain, and a past that stays small."""

import random
from dataclasses import replace
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oomguard.judge.trend import STEPS, follow, gained, last_rate, rate, span, tracked
from oomguard.model.facts import Compressed, MemoryEvents, Refaults, TargetId, TargetSeen
from oomguard.model.policy import (
    Amount,
    Condition,
    EventsAbove,
    ExhaustsWithin,
    GrowthAbove,
    Guard,
    KillStep,
    NotifyStep,
    RefaultsAbove,
    ZramAbove,
)

from .world import MIB, MS, SECOND, START, Court, cgroup, host_guard, meminfo, plan, share, watermark, when

WEB: Final = "/web.service"
FORECAST: Final = ExhaustsWithin(3 * SECOND, 0)  # told from the last 750 ms


def tell(condition: Condition, path: str = "/") -> Guard:
    return Guard("g", path, soft=watermark(when(condition), do=(NotifyStep(),)))


def court(condition: Condition, path: str = "/") -> Court:
    judge = Court(plan(tell(condition, path)))
    facts = None if path == "/" else cgroup(path, 0, limit=1000)
    judge.sees(0, appeared=(TargetSeen(TargetId("g", path), facts),), host=meminfo(9000, 10_000))
    return judge


def told_at(judge: Court, values: list[float], every_ms: int = 100, **swap: int) -> int | None:
    """When soft was told of, ms; of a machine of 1000 MiB that uses so much at each look."""
    for i, used in enumerate(values, 1):
        if "tell SOFT" in judge.sees(i * every_ms, host=meminfo(1000 - used, **swap)):
            return i * every_ms
    return None


RISE = [100 + 30 * i for i in range(20)]  # 300 MiB/s


@pytest.mark.parametrize(
    ("used", "expected"),
    [
        pytest.param([100.0] * 40, None, id="a machine that rests"),
        pytest.param(RISE, 1000, id="300 MiB/s: with 630 MiB left it has 2.1 s, and was seen for long enough"),
        pytest.param([100, 100, 100, 700, 100, 100, 100, 100], None, id="one look that is off"),
        pytest.param([*[100.0] * 8, *[800.0] * 20], None, id="a large program starts: a step is no slope"),
        pytest.param([*[100.0] * 8, 500, 850, *[850.0] * 20], None, id="in two steps"),
        pytest.param([*RISE[:8], *[RISE[7]] * 20], None, id="growth that has stopped before there was reason to act"),
        pytest.param([100 + (i % 8) * 60 for i in range(80)], None, id="a sawtooth: a collector of garbage at work"),
        pytest.param([100 + 3 * i for i in range(200)], None, id="30 MiB/s, and 300 MiB left after 20 s"),
        pytest.param([100.0 + 3 * i for i in range(290)], 27_200, id="the same, until it has come to that"),
        pytest.param([900 - 20 * i for i in range(40)], None, id="memory that is given back"),
    ],
)
def test_a_forecast(used: list[float], expected: int | None) -> None:
    assert told_at(court(FORECAST), used) == expected


def test_memory_that_goes_to_swap_has_not_stopped_growing() -> None:
    """MemAvailable stands still while the kernel swaps out as fast as the leak allocates."""
    judge = court(FORECAST)
    for i in range(1, 12):
        host = meminfo(20, 1000, swap_total=1000, swap_free=700 - 60 * i)
        if "tell SOFT" in judge.sees(i * 100, host=host):
            return
    raise AssertionError("600 MiB/s into swap, and nobody said so")


@pytest.mark.parametrize("condition", [FORECAST, GrowthAbove(Amount(bytes=50 * MIB), 3 * SECOND, 0)])
def test_cache_is_no_growth(condition: Condition) -> None:
    """A reader of files fills its limit with cache at 300 MiB/s."""
    judge = court(condition, WEB)
    for i in range(1, 40):
        filled = min(999, 30 * i)
        assert not judge.sees(i * 100, host=meminfo(5000, 10_000), cgroups=(cgroup(WEB, filled, filled - 5, 1000),))


def test_without_memory_stat_nothing_is_learned() -> None:
    """memory.current alone is use and cache: it is not taken for growth where memory.stat was not read."""
    judge = court(FORECAST, WEB)
    for i in range(1, 40):
        assert not judge.sees(i * 100, host=meminfo(5000, 10_000), cgroups=(cgroup(WEB, 25 * i, None, 1000),))


def test_a_forecast_of_a_limit() -> None:
    judge = court(FORECAST, WEB)
    said = [judge.sees(i * 100, cgroups=(cgroup(WEB, 25 * i, limit=1000),)) for i in range(1, 20)]
    assert [i for i, lines in enumerate(said, 1) if lines] == [11]


def test_a_forecast_is_over_when_growth_is() -> None:
    """Armed by it, and calm again a second after memory has stopped growing."""
    judge = court(FORECAST)
    assert told_at(judge, RISE) == 1000
    phases = []
    for i in range(11, 40):
        judge.sees(i * 100, host=meminfo(1000 - RISE[9]))
        phases.append(judge.phase)
    assert phases[0] == "armed"
    assert phases[-1] == "calm"


def test_a_forecast_that_kills_needs_growth_to_the_end() -> None:
    guard = host_guard(hard=1)
    assert guard.hard is not None
    guard = replace(guard, hard=replace(guard.hard, when=(when(FORECAST),), do=(KillStep(),)))
    judge = Court(plan(guard))
    judge.sees(0, appeared=(TargetSeen(TargetId("host", "/"), None),), host=meminfo(900))
    assert told_at(judge, RISE[:9]) is None
    judge.sees(1000, host=meminfo(1000 - RISE[9]))
    assert judge.phase == "firing"
    for i in range(11, 16):
        judge.sees(i * 100, host=meminfo(1000 - RISE[9]))
    assert judge.phase != "firing", "it has stopped, and nobody has been killed for it"


@pytest.mark.parametrize(
    ("of", "rates", "expected"),
    [
        ("file", (0, 20), True),
        ("file", (20, 0), False),
        ("anon", (20, 0), True),
        ("any", (6, 6), True),
        ("any", (4, 4), False),
    ],
)
def test_refaults_of_a_kind(of: str, rates: tuple[int, int], expected: bool) -> None:
    judge = court(RefaultsAbove(of, Amount(bytes=10 * MIB), SECOND, 0), WEB)  # type: ignore[arg-type]
    for i in range(1, 16):
        read = Refaults(rates[0] * i * MIB // 10, rates[1] * i * MIB // 10)
        judge.sees(i * 100, cgroups=(replace(cgroup(WEB, 10, limit=1000), refaults=read),))
    assert (judge.phase == "armed") is expected


def test_refaults_of_the_machine() -> None:
    judge = court(RefaultsAbove("any", Amount(bytes=10 * MIB), SECOND, 0))
    for i in range(1, 16):
        judge.sees(i * 100, host=meminfo(500), refaults=Refaults(i * MIB, i * MIB))
    assert judge.phase == "armed"


def test_events_are_counted_from_when_they_were_first_seen() -> None:
    judge = court(EventsAbove("high", 100, 10 * SECOND, 0), WEB)

    def at(ms: int, high: int) -> str:
        judge.sees(ms, cgroups=(replace(cgroup(WEB, 10, limit=1000), events=MemoryEvents(high=high)),))
        return judge.phase

    assert at(100, 90_000) == "calm", "what was before us is nobody's business"
    assert at(5000, 90_050) == "calm"
    assert at(9000, 90_101) == "armed"
    assert at(12_000, 90_101) == "armed", "they are within ten seconds still"
    assert at(21_000, 90_101) == "armed", "clearly over for less than a second"
    assert at(22_500, 90_101) == "calm"


def test_compressed_swap() -> None:
    judge = court(ZramAbove("memory", share(50)))
    judge.sees(100, host=meminfo(500), compressed=Compressed(400 * MIB))
    assert judge.phase == "calm"
    judge.sees(200, host=meminfo(500), compressed=Compressed(501 * MIB))
    assert judge.phase == "armed"


# -- what is kept of the past --------------------------------------------------------------------------------------

steps = st.lists(st.tuples(st.integers(1, 3 * SECOND), st.integers(0, 1 << 40)), min_size=1, max_size=200)


@given(steps, st.sampled_from([450 * MS, SECOND, 3 * SECOND, 30 * SECOND]))
def test_the_past_stays_small_and_ends_now(happened: list[tuple[int, int]], span_ns: int) -> None:
    track: tuple[tuple[int, int], ...] = ()
    at = START
    for after_ns, value in happened:
        at += after_ns
        track = follow(track, at, value, span_ns)
        assert track[-1] == (at, value)
        assert len(track) <= 2 * STEPS + 3
        assert list(track) == sorted(track, key=lambda point: point[0])
    assert set(track) <= {(t, v) for t, v in _times(happened)}


def _times(happened: list[tuple[int, int]]) -> list[tuple[int, int]]:
    at, found = START, []
    for after_ns, value in happened:
        at += after_ns
        found.append((at, value))
    return found


@given(st.integers(10_000, 1 << 40), st.integers(20, 400), st.randoms())
def test_steady_growth_is_told_as_it_is_however_often_one_looks(per_s: int, every_ms: int, dice: random.Random) -> None:
    track: tuple[tuple[int, int], ...] = ()
    at = START
    while at < START + 12 * SECOND:
        at += dice.randint(every_ms // 2, every_ms) * MS
        track = follow(track, at, at * per_s // SECOND, 3 * SECOND)
    assert abs(rate(track, 3 * SECOND) - per_s) <= per_s // 1000


@given(steps)
def test_no_growth_is_told_that_was_not_there(happened: list[tuple[int, int]]) -> None:
    """The lower bound: whatever was seen, memory has grown at least so much in the window's whole."""
    track: tuple[tuple[int, int], ...] = ()
    for at, value in _times(happened):
        track = follow(track, at, value, 3 * SECOND)
    told = rate(track, 3 * SECOND)
    if told:
        begin = next(point for point in reversed(track) if track[-1][0] - point[0] >= 3 * SECOND)
        assert track[-1][1] > begin[1]
        assert track[-1][1] - track[-2][1] >= 0 or last_rate(track) == 0


def test_one_look_alone_tells_nothing() -> None:
    assert rate((), SECOND) == gained((), SECOND) == last_rate(()) == 0
    assert rate(((START, 5),), SECOND) == gained(((START, 5),), SECOND) == last_rate(((START, 5),)) == 0


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (ExhaustsWithin(SECOND, 0), 450 * MS),
        (ExhaustsWithin(8 * SECOND, 0), 2 * SECOND),
        (ExhaustsWithin(600 * SECOND, 0), 30 * SECOND),
        (GrowthAbove(share(1), 7 * SECOND, 0), 7 * SECOND),
        (EventsAbove("oom", 1, 9 * SECOND, 0), 9 * SECOND),
    ],
)
def test_how_far_back_is_looked(condition: Condition, expected: int) -> None:
    assert span(condition) == expected  # type: ignore[arg-type]


def test_who_does_not_ask_remembers_nothing() -> None:
    judge = Court(plan(host_guard()))
    judge.sees(0, appeared=(TargetSeen(TargetId("host", "/"), None),), host=meminfo(900))
    assert tracked(host_guard()) == ()
    assert judge.target().tracks == ()


def test_a_cgroup_made_anew_has_no_past() -> None:
    judge = court(FORECAST, WEB)
    for i in range(1, 10):
        judge.sees(i * 100, cgroups=(cgroup(WEB, 25 * i, limit=1000),))
    judge.sees(1000, cgroups=(cgroup(WEB, 900, limit=1000, inode=77),))
    assert [len(track) for _, track in judge.target().tracks] == [1]
    assert judge.phase == "calm"
