"""Deadlines that are put off: only while MemFree alone shows that nothing can have happened."""

from oomguard.core.observe import Senses
from oomguard.judge.decide import begin, decide
from oomguard.judge.state import State
from oomguard.model.facts import MemInfo, Observation, TargetId, TargetSeen
from oomguard.model.policy import (
    Amount,
    AvailableBelow,
    Clause,
    Daemon,
    Guard,
    KillStep,
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


def look(free: int, past_ns: int) -> int:
    """What the senses say ``past_ns`` after the last turn, the deadline being over, with so much MemFree."""
    this = plan(SHORT)
    senses = Senses(this, None, lambda _what, _why: None)
    try:
        state = calm_state(this)
        senses.free_ram = lambda: free
        senses.last_turn_ns = 10 * SECOND
        now = senses.last_turn_ns + past_ns
        later = senses._glance(state, now)
        return later - now if later else 0
    finally:
        senses.epoll.close()


def test_with_room_the_deadline_is_put_off_by_what_the_fastest_leak_needs() -> None:
    room = GIB // 2 - int(GIB * 0.1) - GIB // 32
    assert look(GIB // 2, 0) == max(100_000_000, room * SECOND // (6000 << 20))


def test_without_room_it_is_not() -> None:
    assert look(int(GIB * 0.1), 0) == 0


def test_a_turn_a_second_is_made_whatever_memory_says() -> None:
    assert look(GIB, SECOND) == 0
    assert 0 < look(GIB, SECOND - 1_000_000) <= 1_000_000


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
