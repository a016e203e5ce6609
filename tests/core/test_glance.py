"""Deadlines that are put off: only while MemFree alone shows that nothing can have happened."""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import MappingProxyType
from typing import ClassVar

import pytest

from oomguard.core import deadlines, observe
from oomguard.core.observe import Senses
from oomguard.core.watch import Watch
from oomguard.judge.decide import begin, decide
from oomguard.judge.pace import NEVER
from oomguard.judge.state import Held, State, TargetState
from oomguard.model.facts import CgroupFacts, MemInfo, Observation, TargetId, TargetSeen
from oomguard.model.policy import (
    Amount,
    AvailableBelow,
    Clause,
    Daemon,
    Guard,
    KillStep,
    MemoryAbove,
    Plan,
    PressureAbove,
    StallAbove,
    Watermark,
)

SECOND = 1_000_000_000
GIB = 1 << 30
PRESSURE = PressureAbove("full", 0.5, "10s")


def plan(*clauses: Clause) -> Plan:
    return Plan("0", Daemon(), (Guard("host", "/", hard=Watermark(clauses, (KillStep(),))),))


def calm_state(plan: Plan, available: int = GIB // 2) -> State:
    host = MemInfo(GIB, available, available, 0, 0)
    seen = Observation(SECOND, host=host, appeared=(TargetSeen(TargetId("host", "/"), None),))
    return decide(plan, begin((), ""), seen)[0]


def glance_bytes(plan: Plan, available: int = GIB // 2) -> int:
    return next(iter(calm_state(plan, available).targets.values())).glance_bytes


SHORT = Clause((AvailableBelow(Amount(share=0.1)),))


def test_a_line_only_where_every_clause_wants_memory_to_be_short() -> None:
    tenth = int(GIB * 0.1)
    assert tenth < glance_bytes(plan(SHORT)) < tenth + GIB // 16
    assert glance_bytes(plan(SHORT, Clause((AvailableBelow(Amount(bytes=1)), PRESSURE)))) == glance_bytes(plan(SHORT))
    assert glance_bytes(plan(SHORT, Clause((PRESSURE,)))) == 0
    stall = Clause((AvailableBelow(Amount(share=0.9)), StallAbove("full", 150_000, 1_000_000, 0)))
    assert glance_bytes(plan(SHORT, stall)) == glance_bytes(plan(SHORT)), "of a stall the kernel tells"
    # The lowest of one clause counts: it has to hold as well.
    both = Clause((AvailableBelow(Amount(share=0.1)), AvailableBelow(Amount(share=0.5))))
    assert glance_bytes(plan(both)) == glance_bytes(plan(SHORT))


def test_no_line_once_something_holds() -> None:
    assert glance_bytes(plan(Clause((AvailableBelow(Amount(share=0.6)),), lasting_ns=SECOND))) == 0


class Naps:
    """An epoll in which something is ready as soon as it was asked ``count`` times."""

    def __init__(self, count: int = 1) -> None:
        self.count = count
        self.timeouts: list[float] = []

    def poll(self, timeout: float, _most: int) -> list[tuple[int, int]]:
        if not timeout:
            return []
        self.timeouts.append(timeout)
        return [(-1, 1)] if len(self.timeouts) >= self.count else []

    def close(self) -> None:
        """Nothing is open."""


def doze(free: Callable[[], int], naps: Naps, turn_ns: int = 0, kept_ns: int = 0, available: int = 0) -> object:
    """The senses so long after the last turn and the last record, the machine's deadline being over."""
    this = plan(SHORT)
    senses = Senses(this, None, lambda _what, _why: None)
    senses.epoll.close()
    senses.epoll = naps  # type: ignore[assignment]
    senses.deadlines.free_ram = free
    senses._read_host = lambda: MemInfo(GIB, 0, available, 0, 0)  # type: ignore[method-assign]
    now = time.monotonic_ns()
    senses.kept_ns = now - kept_ns
    state = calm_state(this)
    targets = {key: replace(target, look_ns=now - turn_ns) for key, target in state.targets.items()}
    return senses._wait(replace(state, targets=targets), NEVER)


def nap(free: int, turn_ns: int = 0, kept_ns: int = 0, available: int = 0) -> int:
    """How long it naps with so much MemFree, ns; 0: there is a turn at once."""
    naps = Naps()
    doze(lambda: free, naps, turn_ns, kept_ns, available)
    return round(naps.timeouts[0] * SECOND) if naps.timeouts else 0


def test_with_room_the_deadline_is_put_off_by_what_the_fastest_leak_needs() -> None:
    room = GIB // 2 - int(GIB * 0.1) - GIB // 32
    assert nap(GIB // 2) == max(100_000_000, room * SECOND // (6000 << 20))


def test_without_room_it_is_not() -> None:
    assert nap(int(GIB * 0.1)) == 0


def test_memory_full_of_cache_is_room_as_well() -> None:
    assert nap(0, available=GIB // 2) == nap(GIB // 2)


def test_a_turn_is_made_now_and_then_whatever_memory_says() -> None:
    assert nap(GIB, turn_ns=300 * SECOND) == 0
    assert 0 < nap(GIB, turn_ns=300 * SECOND - 1_000_000) <= 1_000_000


def test_one_observation_a_second_is_kept() -> None:
    naps = Naps(count=99)
    assert doze(lambda: GIB // 2, naps, turn_ns=SECOND, kept_ns=SECOND) is None
    assert naps.timeouts == []
    assert doze(lambda: 0, naps, turn_ns=SECOND, kept_ns=SECOND) == [TargetId("host", "/")], "without room it is judged"


def test_where_nothing_is_guarded_the_machine_is_shown_all_the_same() -> None:
    """A policy whose cgroups are not there (yet): by hand, without a watchdog, nothing else would wake for it."""
    senses = Senses(plan(SHORT), None, lambda _what, _why: None)
    senses.epoll.close()
    senses.epoll = Naps(count=99)  # type: ignore[assignment]
    senses.kept_ns = time.monotonic_ns() - observe.STILL_NS
    assert senses.observe(begin((), ""), NEVER).host is not None
    senses.epoll = naps = Naps()  # type: ignore[assignment]
    senses.observe(begin((), ""), NEVER)
    assert 0 < naps.timeouts[0] <= observe.STILL_NS / SECOND


def test_a_look_at_memfree_is_one_wakeup(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times a second, all day: no nap besides the one in epoll."""
    sleeps: list[float] = []
    monkeypatch.setattr(time, "sleep", sleeps.append)
    naps = Naps(count=5)
    doze(lambda: GIB // 2, naps)
    assert len(naps.timeouts) == 5
    assert sleeps == []


def test_it_ends_when_memfree_does() -> None:
    free = [GIB // 2, GIB // 2, GIB // 2, GIB // 2, 0]
    naps = Naps(count=99)
    assert doze(lambda: free.pop(0) if free else 0, naps) == [TargetId("host", "/")]
    assert len(naps.timeouts) == 2


def test_while_memory_stands_still_memfree_is_asked_for_once_a_nap(senses: Senses) -> None:
    asked: list[int] = []
    senses.deadlines.free_ram = lambda: asked.append(0) or GIB // 2  # type: ignore[func-returns-value]
    senses.epoll.close()
    senses.epoll = naps = Naps(count=5)  # type: ignore[assignment]
    senses.kept_plenty, line = GIB // 2, GIB // 2 - (1200 << 20)
    assert senses._doze(60 * SECOND, line, GIB // 2, 1 << 20) == [(-1, 1)]
    assert naps.timeouts == [pytest.approx(0.2)] * 5, "1200 MiB at 6000 a second"
    assert len(asked) == 4


@pytest.mark.parametrize("free", [GIB // 2 - (2 << 20), GIB // 2 + (2 << 20), GIB // 4])
def test_it_wakes_when_memory_has_moved(senses: Senses, free: int) -> None:
    senses.deadlines.free_ram = lambda: free
    senses.epoll.close()
    senses.epoll = naps = Naps(count=9)  # type: ignore[assignment]
    senses.kept_plenty = GIB // 2
    assert senses._doze(60 * SECOND, GIB // 4, GIB // 2, 1 << 20) == []
    assert len(naps.timeouts) == 1


def test_a_sign_of_life_is_no_turn_where_memory_settles_all(senses: Senses) -> None:
    """With a thousand targets a turn takes 20 ms of the emulated machine, and systemd wants to hear of us all day."""
    now, calm = time.monotonic_ns(), calm_state(senses.plan)
    state = replace(calm, targets={key: replace(target, look_ns=now) for key, target in calm.targets.items()})
    seen = senses.observe(state, time.monotonic_ns())
    assert (senses.glanced, [wake.source for wake in seen.wakes]) == (True, ["glance"])
    senses._read_host = lambda: MemInfo(GIB, 0, 0, 0, 0)  # type: ignore[method-assign]
    senses.deadlines.free_ram = lambda: 0
    senses.deadlines.forget()
    senses.observe(state, time.monotonic_ns())
    assert not senses.glanced


def test_a_slow_look_does_not_blind_us() -> None:
    """The last look took half a second of wall time; the next new cgroup is looked at soon all the same."""
    senses = Senses(plan(SHORT), None, lambda _what, _why: None)
    try:
        senses.forest = Rustle()  # type: ignore[assignment]
        senses.last_turn_ns = 10 * SECOND
        senses.look_took_ns = SECOND // 2
        senses._on_tree(0)
        assert 10 * SECOND < senses.rescan_ns <= 10 * SECOND + 400_000_000
    finally:
        senses.forest = None
        senses.epoll.close()


class Rustle:
    """A forest in which something always happens."""

    def changed(self) -> bool:
        return True


# ------------------------------------------------------------------------------------------------------- many targets


def at_rest(number: int, look_ns: int, **kind: int) -> TargetState:
    return TargetState(TargetId("each", f"/{number}.service"), look_ns=look_ns, **kind)  # type: ignore[arg-type]


@pytest.fixture
def senses() -> Iterator[Senses]:
    made = Senses(plan(SHORT), None, lambda _what, _why: None)
    made.deadlines.free_ram = lambda: GIB // 2
    yield made
    made.epoll.close()


def test_what_is_free_is_in_use_by_no_cgroup(senses: Senses) -> None:
    """A line on a cgroup's use is one on MemFree: one system call settles a thousand of them."""
    limit = Guard("each", "/*.service", hard=Watermark((Clause((MemoryAbove(Amount(share=0.9)),)),), (KillStep(),)))
    target = TargetId("each", "/1.service")
    facts = CgroupFacts("/1.service", 1, 1 << 20, None, 0, None, None, None, None, None, True, False)
    seen = Observation(SECOND, host=MemInfo(GIB, GIB // 2, GIB // 2, 0, 0), appeared=(TargetSeen(target, facts),))
    state = decide(Plan("0", Daemon(), (limit,)), begin((), ""), seen)[0].targets[target]
    assert state.glance_bytes == GIB - int(GIB * 0.9) + GIB // 32
    assert state.quiet_bytes == int(GIB * 0.9)


def test_deadlines_that_memory_settles_are_nobodys_turn(senses: Senses) -> None:
    now = time.monotonic_ns()
    settled = [at_rest(number, now - SECOND, glance_bytes=GIB // 4) for number in range(1000)]
    urgent = at_rest(1000, now - SECOND, glance_bytes=GIB)
    senses._read_host = lambda: MemInfo(GIB, 0, GIB // 2, 0, 0)  # type: ignore[method-assign]
    state = State(targets={target.id: target for target in (*settled, urgent)})
    assert senses.deadlines.due(state, now) == [urgent.id]
    assert senses.deadlines.put_off(state) == (GIB // 4, 0, True, urgent.look_ns)


def test_a_thousand_are_not_read_while_something_is_under_way_waits(senses: Senses) -> None:
    """So many reads between two polls; the others come with the next ones, and nobody is left out."""
    now, reads = time.monotonic_ns(), []
    senses.deadlines.free_ram = lambda: 0
    senses.deadlines._current = lambda path: reads.append(path) or 1  # type: ignore[func-returns-value]
    calm = [at_rest(number, now - SECOND, quiet_bytes=GIB) for number in range(1000)]
    armed = replace(at_rest(1000, now - 1), phase="armed")
    state = State(targets=MappingProxyType({target.id: target for target in (*calm, armed)}))
    assert senses.deadlines.due(state, now) == [armed.id]
    assert 0 < len(reads) <= deadlines.READ_AT_ONCE
    while len(reads) < 1000:
        assert senses.deadlines.due(state, now) == [armed.id]
    assert len(set(reads)) == 1000
    assert senses.deadlines.due(state, now) == [armed.id]
    assert len(reads) == 1000, "all have a later deadline now"


def test_each_is_looked_at_now_and_then_and_together_with_those_that_would_be_next(senses: Senses) -> None:
    now = time.monotonic_ns()
    ages = [deadlines.PUT_OFF_EACH_NS * number for number in range(610)]
    state = State(targets={t.id: t for t in (at_rest(n, now - age, glance_bytes=1) for n, age in enumerate(ages))})
    longest = senses.deadlines._longest(state)
    assert longest == 610 * deadlines.PUT_OFF_EACH_NS
    assert senses.deadlines.due(state, now) == [], "nobody's time is over"
    now += deadlines.PUT_OFF_EACH_NS
    due = senses.deadlines.due(state, now)
    assert len(due) == deadlines.AT_ONCE, "the oldest first, so many in one turn"
    assert due[0].cgroup == "/609.service"
    assert all(state.targets[target].look_ns <= now - longest + longest // deadlines.TOGETHER_SHARE for target in due)


def test_a_small_cgroup_is_a_look_at_one_number(senses: Senses) -> None:
    """No room on the machine, but memory.current is far from the line: no facts, no judgement, a later deadline."""

    class Group:
        sizes: ClassVar = [1 << 20, None, 99 << 20]

        def current(self) -> int | None:
            return self.sizes.pop(0)

    senses.deadlines.free_ram = lambda: 0
    senses._read_host = lambda: MemInfo(GIB, 0, 0, 0, 0)  # type: ignore[method-assign]
    now = time.monotonic_ns()
    target = at_rest(1, now, glance_bytes=1, quiet_bytes=64 << 20)
    watch = Watch(Group(), ())  # type: ignore[arg-type]
    senses.watches["/1.service"] = watch
    state = State(targets={target.id: target})
    assert senses.deadlines.due(state, now) == []
    assert senses.deadlines.later[target.id] == now + 100_000_000
    assert senses.deadlines.due(state, now) == [], "and it is not read again before that"
    assert senses.deadlines.due(state, now + 100_000_000) == [target.id], "gone"
    assert senses.deadlines.due(state, now + 100_000_000) == [target.id], "too large"


class Counted:
    """A cgroup of 1 MiB, and how often it was read; the last one leaks."""

    def __init__(self) -> None:
        self.reads = 0
        self.size = 1 << 20

    def current(self) -> int:
        self.reads += 1
        return self.size


class Handed:
    """A /proc/vmstat of which only that is asked."""

    def __init__(self, size: int) -> None:
        self.size = size

    def allocated_bytes(self) -> int:
        return self.size


@pytest.fixture
def crowd(senses: Senses) -> tuple[State, list[Counted], Handed]:
    """A hundred small cgroups under a line of 64 MiB each, on a machine whose MemFree settles nothing."""
    senses.deadlines.free_ram = lambda: 0
    senses._read_host = lambda: MemInfo(GIB, 0, 0, 0, 0)  # type: ignore[method-assign]
    handed = Handed(GIB)
    senses.vmstat = senses.deadlines.vmstat = handed  # type: ignore[assignment]
    now = time.monotonic_ns()
    targets = [at_rest(number, now, quiet_bytes=64 << 20) for number in range(100)]
    groups = [Counted() for _ in targets]
    for target, group in zip(targets, groups, strict=True):
        senses.watches[target.id.cgroup] = Watch(group, ())  # type: ignore[arg-type]
    state = State(targets={target.id: target for target in targets})
    assert senses.deadlines.due(state, now) == []
    assert [group.reads for group in groups] == [1] * 100
    return state, groups, handed


LATER_NS = 4 * SECOND  # less than anything is put off for ever


def test_no_cgroup_has_grown_by_more_than_the_kernel_has_handed_out(
    senses: Senses, crowd: tuple[State, list[Counted], Handed]
) -> None:
    state, groups, handed = crowd
    now = next(iter(state.targets.values())).look_ns
    handed.size += 62 << 20
    assert senses.deadlines.due(state, now + LATER_NS) == []
    assert [group.reads for group in groups] == [1] * 100, "one read of /proc/vmstat settles them all"
    assert senses.deadlines.put_off(state)[1] == GIB + (63 << 20)
    handed.size += 1 << 20
    groups[7].size = 64 << 20
    assert senses.deadlines.due(state, now + LATER_NS) == [TargetId("each", "/7.service")]
    assert [group.reads for group in groups] == [2] * 100
    assert senses.deadlines.put_off(state)[1] == GIB + (63 + 63 << 20), "and the others are settled again"


def test_what_puts_deadlines_off_is_worked_out_anew_when_it_may_have_changed(
    senses: Senses, crowd: tuple[State, list[Counted], Handed]
) -> None:
    """Two looks at the same targets, with nothing but a record in between, need it once."""
    state, _, handed = crowd
    found = senses.deadlines.put_off(state)
    assert found[1] == GIB + (63 << 20)
    handed.size += 64 << 20
    assert senses.deadlines.put_off(state) == found, "nobody was told yet"
    changed = dict(state.targets)
    assert senses.deadlines.put_off(replace(state, targets=changed))[1] == 0
    senses.deadlines.due(state, next(iter(changed.values())).look_ns + LATER_NS)
    assert senses.deadlines.put_off(state)[1] == GIB + (64 + 63 << 20)


def test_what_was_handed_out_settles_nothing_under_another_line_nor_when_something_is_armed(
    senses: Senses, crowd: tuple[State, list[Counted], Handed]
) -> None:
    state, groups, _ = crowd
    first = next(iter(state.targets.values()))
    lower = {**state.targets, first.id: replace(first, quiet_bytes=1 << 20)}
    assert senses.deadlines.due(replace(state, targets=lower), first.look_ns + LATER_NS) == [first.id]
    assert groups[0].reads == 2
    armed = {**state.targets, first.id: replace(first, phase="armed")}
    senses.deadlines.due(replace(state, targets=armed), first.look_ns + LATER_NS)
    assert [group.reads for group in groups[1:]] == [2] * 99, "each is read: the kernel would allocate for a vmstat"


def unsettled(made: deadlines.Deadlines, state: State, at_ns: int, free: int, handed: int) -> set[TargetId]:
    """Who is to be looked at, by walking over all: nothing settles him, and his own deadline is over."""
    most_ns, found = made._longest(state), set()
    for target in state.targets.values():
        if max(target.look_ns, made.later.get(target.id, 0)) > at_ns:
            continue
        line, bound = made.bounds.get(target.id.cgroup, (0, 0))
        by_free = target.glance_bytes and target.glance_bytes < free
        by_bound = target.quiet_bytes and handed and line == target.quiet_bytes and bound > handed
        if target.look_ns + most_ns <= at_ns or not (by_free or by_bound):
            found.add(target.id)
    return found


@pytest.mark.parametrize("seed", range(40))
def test_what_changes_little_by_little_is_told_as_by_a_walk_over_all(senses: Senses, seed: int) -> None:
    """A few targets change in each turn, and the others are not looked through: nobody is forgotten for that, and the
    time for which all are put off is never longer than the first of them allows."""
    draw = random.Random(seed)
    free, handed, now = [GIB // 2], Handed(GIB), SECOND
    sizes: dict[str, int] = {}
    made = deadlines.Deadlines(lambda: free[0], lambda: free[0], handed, lambda path: sizes.get(path, 64 << 20))  # type: ignore[arg-type]

    def some(number: int) -> TargetState:
        if draw.random() < 0.1:
            return replace(at_rest(number, now + draw.randrange(SECOND)), phase="armed")
        kind = draw.choice(({"glance_bytes": draw.choice((GIB // 8, GIB // 3))}, {"quiet_bytes": 64 << 20}, {}))
        return at_rest(number, now - draw.randrange(20 * SECOND), **kind)

    targets = {target.id: target for target in map(some, range(200))}
    for _turn in range(60):
        for number in draw.sample(range(200), draw.choice((0, 1, 3))):
            changed = some(number)
            if changed.id in targets or draw.random() < 0.5:
                targets[changed.id] = changed
        if draw.random() < 0.1:
            gone = draw.choice(list(targets))
            del targets[gone]
            made.leave(gone)
        sizes = {target.cgroup: draw.choice((1, 1, 1, 1, 65)) << 20 for target in targets}
        state = State(targets=MappingProxyType(dict(targets)))
        line, bound, _, until_ns = made.put_off(state)
        if line < free[0] and (not bound or handed.size < bound):
            assert not unsettled(made, state, until_ns - 1, free[0], handed.size * bool(bound)), "put off for too long"
        now += draw.randrange(SECOND)
        free[0] = draw.choice((GIB // 2, GIB // 2, GIB // 4, GIB // 16))
        handed.size += draw.choice((0, 1 << 20, 30 << 20))
        wanted = unsettled(made, state, now, free[0], handed.size * (made._allocated() > 0))
        told = set(made.due(state, now))
        read = {target for target in wanted if made.later.get(target, 0) > now}
        left = wanted - told - read
        assert not left or len(told) == deadlines.AT_ONCE or len(read) >= deadlines.READ_AT_ONCE, "forgotten"


def test_where_the_kernel_does_not_tell_each_is_read(
    senses: Senses, crowd: tuple[State, list[Counted], Handed]
) -> None:
    state, groups, handed = crowd
    handed.size = 0
    assert senses.deadlines.due(state, time.monotonic_ns() + LATER_NS) == []
    assert [group.reads for group in groups] == [2] * 100
    assert senses.deadlines.put_off(state)[1] == 0


def test_the_nap_lasts_until_so_much_could_have_been_handed_out(
    senses: Senses, crowd: tuple[State, list[Counted], Handed]
) -> None:
    state, _, handed = crowd
    senses.kept_ns = time.monotonic_ns()
    senses.epoll.close()
    senses.epoll = naps = Naps(count=3)  # type: ignore[assignment]
    far = {key: replace(target, look_ns=senses.kept_ns) for key, target in state.targets.items()}
    senses.deadlines.bounds = dict.fromkeys((key.cgroup for key in far), (64 << 20, handed.size + 1200 * (1 << 20)))
    senses._wait(replace(state, targets=far), NEVER)
    assert [round(nap, 1) for nap in naps.timeouts] == [0.2] * 3, "1200 of 6000 MiB a second"


def test_behind_tripwires_what_was_handed_out_is_seldom_asked_for(
    senses: Senses, crowd: tuple[State, list[Counted], Handed]
) -> None:
    """There the kernel stops the fastest leak, which could otherwise fill them all the while."""
    state, _, handed = crowd
    wire = Held(1, "tripwire", "/x", 1, 0, 1)
    for leases, nap_s in (((wire,), 1.0), ((), 0.1)):
        senses.kept_ns = time.monotonic_ns()
        senses.epoll.close()
        senses.epoll = naps = Naps(count=3)  # type: ignore[assignment]
        trips = {
            key: replace(target, look_ns=senses.kept_ns, leases=leases if number else (wire,))
            for number, (key, target) in enumerate(state.targets.items())
        }
        senses.deadlines.bounds = dict.fromkeys(
            (key.cgroup for key in trips), (64 << 20, handed.size + 100 * (1 << 20))
        )
        senses._wait(replace(state, targets=trips), NEVER)
        assert [round(nap, 1) for nap in naps.timeouts] == [nap_s] * 3, "100 MiB a second, or 6000"


def test_who_gets_a_tripwire_is_not_taken_for_one_without(
    senses: Senses, crowd: tuple[State, list[Counted], Handed]
) -> None:
    """A thousand that come get them a few turns later, one by one: only the last one makes the naps long."""
    state, _, _ = crowd
    wire, targets = Held(1, "tripwire", "/x", 1, 0, 1), dict(state.targets)
    told = []
    for target in state.targets.values():
        targets[target.id] = replace(target, leases=(wire,))
        told.append(senses.deadlines.put_off(replace(state, targets=dict(targets)))[2])
    assert told == [False] * 99 + [True]
    targets[target.id] = target
    assert not senses.deadlines.put_off(replace(state, targets=targets))[2], "one of them has lost it"


def test_what_was_put_off_in_calm_is_not_when_something_holds(senses: Senses) -> None:
    now = time.monotonic_ns()
    armed = TargetState(TargetId("each", "/1.service"), phase="armed", look_ns=now)
    senses.deadlines.later[armed.id] = now + SECOND
    assert senses.deadlines.due(State(targets={armed.id: armed}), now) == [armed.id]
