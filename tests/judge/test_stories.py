"""Whole engagements in a small world: memory grows, the loop sleeps as long as the judge lets it, victims obey or not.

The machine has 1,000 MiB without swap, 100 of them the system's. Nothing here reads a clock or waits.
"""

from dataclasses import replace

import pytest

from oomguard.model.facts import TargetId
from oomguard.model.policy import AvailableBelow, Budget, KillStep, Match, PressureAbove, VictimRule
from oomguard.model.verdict import Close, Kill, Lease, Look, Mute, Nominate, Release, Snapshot

from .world import (
    EPERM,
    SOFT_STEPS,
    Body,
    World,
    host_guard,
    limit_guard,
    plan,
    pressure,
    process,
    share,
    watermark,
    when,
)

LEAK, POOL = "/system.slice/leak.service", "/system.slice/pool.service"
SSHD = Body(process(20, "sshd", "/system.slice/ssh.service", 8))
CANARY = Body(process(21, "canary", "/system.slice/canary.service", 20))
RULE = VictimRule(never=(Match(comm="sshd*"),))


def leak(pid: int = 500, held: float = 10, grows: float = 100, **more: object) -> Body:
    return Body(process(pid, "leak", LEAK, held), grows, **more)  # type: ignore[arg-type]


def settled(world: World) -> bool:
    """Everything that was begun is over."""
    return bool(world.died) and all(state.phase == "calm" for state in world.state.targets.values())


# -- the machine ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [20, 100, 400, 1500])
def test_a_leak_dies_before_the_kernel_is_asked_and_nobody_else(rate: float) -> None:
    world = World(plan(host_guard(rule=RULE)), [leak(grows=rate), SSHD, CANARY]).run(120_000, settled)
    assert world.died == [(pytest.approx(world.died[0][0]), 500, "us")]
    assert world.phases() == ["calm", "armed", "draining", "cooling", "calm"]
    assert [type(a) for a in world.actions(Kill)] == [Kill]
    assert len(world.actions(Close)) == 1
    assert world.told("VICTIM_GONE")
    assert not world.leases


def test_the_kill_is_in_the_very_turn_that_sees_the_hard_watermark() -> None:
    """Nominated at soft: between crossing and signal lies no survey, however many processes there are."""
    world = World(plan(host_guard()), [leak()], survey_ms=50).run(60_000, settled)
    (moment,) = (m for m in world.moments if any(isinstance(a, Kill) for a in m.actions))
    assert any(isinstance(a, Snapshot) and a.watermark == "hard" for a in moment.actions)
    assert not moment.seen.surveys


def test_a_slow_survey_does_not_make_its_own_nominee_stale() -> None:
    """A survey of 300 ms comes every 2.4 s; a nominee of two seconds ago is as new as it gets, and dies at once."""
    world = World(plan(host_guard()), [leak(held=700, grows=20)], survey_ms=300).run(60_000, settled)
    (moment,) = (m for m in world.moments if any(isinstance(a, Kill) for a in m.actions))
    assert any(isinstance(a, Snapshot) and a.watermark == "hard" for a in moment.actions)


def test_while_nothing_happens_next_to_nothing_is_looked_at() -> None:
    world = World(plan(host_guard()), [CANARY], total=64_000).run(600_000)
    assert len(world.moments) <= 70, "every ten seconds"
    assert not world.actions(Look)


def test_surveys_while_armed_take_their_share_of_the_time_and_no_more() -> None:
    world = World(plan(host_guard()), [leak(held=800, grows=0)], survey_ms=40).run(60_000)
    assert world.phases() == ["armed"]
    assert len(world.actions(Look)) * 40 <= 60_000 / 8


def test_many_small_workers_go_whole_and_the_large_innocent_lives() -> None:
    workers = [Body(process(1000 + i, "worker", POOL, 0.1), grows=0.5) for i in range(250)]
    innocent = Body(process(900, "innocent", "/system.slice/innocent.service", 150))
    world = World(plan(host_guard(rule=RULE)), [*workers, innocent, SSHD, CANARY]).run(60_000, settled)
    assert set(world.killed()) == {body.pid for body in workers}
    assert {body.pid for body in world.bodies} == {900, 20, 21}
    assert len(world.actions(Kill)) == 1


def test_a_second_leak_is_taken_after_the_first_not_together_with_it() -> None:
    other = Body(process(501, "other", "/system.slice/other.service", 10), grows=60)
    world = World(plan(host_guard(cooldown_ms=1000)), [leak(), other]).run(120_000, lambda w: len(w.killed()) == 2)
    (first, one, _), (second, two, _) = world.died
    assert (one, two) == (500, 501)
    assert second - first > 1000


def test_a_victim_that_cannot_die_is_passed_over() -> None:
    stuck = leak(held=1200, grows=5, obeys="nothing")
    other = Body(process(501, "other", "/system.slice/other.service", 300))
    world = World(plan(host_guard()), [stuck, other], total=2000).run(
        180_000, lambda w: bool(w.told("VICTIM_STUCK")) and bool(w.killed())
    )
    assert world.killed() == [501]
    nominated = [a.victim.processes[0].pid for a in world.actions(Nominate) if isinstance(a, Nominate)]
    assert nominated.count(500) == 1


def test_candidates_that_cannot_be_opened_do_not_hide_the_one_that_can() -> None:
    closed = [Body(process(400 + i, "closed", f"/system.slice/c{i}.service", 150)) for i in range(4)]
    world = World(
        plan(host_guard()),
        [*closed, leak(held=100)],
        refuse=lambda action: EPERM if action.victim.processes[0].comm == "closed" else 0,
    ).run(60_000, settled)
    assert world.killed() == [500]


def test_a_polite_victim_gets_its_grace() -> None:
    world = World(plan(host_guard(grace_ms=3000)), [leak(grows=2, held=800, obeys="TERM", dies_ms=500)])
    world.run(120_000, settled)
    assert [a.signal for a in world.actions(Kill) if isinstance(a, Kill)] == ["TERM"]


def test_an_impolite_one_loses_it_when_it_gets_twice_as_bad() -> None:
    world = World(plan(host_guard(grace_ms=30_000)), [leak(grows=10, held=700)]).run(120_000, settled)
    assert [a.signal for a in world.actions(Kill) if isinstance(a, Kill)] == ["TERM", "KILL"]
    assert world.died[0][2] == "us"


def test_a_victim_that_ends_by_itself_is_not_replaced() -> None:
    world = World(plan(host_guard()), [leak(), CANARY])
    world.run(60_000, lambda w: w.available < 70)
    world.exits(500)
    world.run(10_000)
    assert not world.actions(Kill)
    assert world.phases()[-1] == "calm"


def test_observe_mode_sees_the_same_and_touches_nothing() -> None:
    """The kernel has to do it; our verdict was there before."""
    enforce = World(plan(host_guard()), [leak(), CANARY]).run(60_000, settled)
    observe = World(plan(host_guard(mode="observe", brake=True)), [leak(), CANARY])
    observe.run(60_000, lambda w: bool(w.died))
    assert [(by, pid) for _, pid, by in observe.died] == [("kernel", 500)]
    verdicts = [[a.victim for a in w.actions(Nominate) if isinstance(a, Nominate)][-1] for w in (enforce, observe)]
    assert verdicts[0].processes[0].pid == verdicts[1].processes[0].pid == 500
    assert observe.state.counters.kills == 0
    assert not observe.actions(Lease)


def test_the_brake_is_off_again_after_it_all() -> None:
    world = World(plan(host_guard(brake=True)), [leak(), CANARY]).run(60_000, settled)
    assert world.actions(Lease)
    assert world.actions(Release)
    assert not world.leases


def test_a_budget_bounds_a_service_that_is_started_again_and_again() -> None:
    world = World(plan(host_guard(budget=Budget(3, 300 * 1_000_000_000), cooldown_ms=500)), [leak(grows=300)])
    for life in range(6):
        world.run(20_000, lambda w, life=life: len(w.died) > life)  # type: ignore[misc]
        world.bodies.append(leak(pid=501 + life, grows=300))
    by_us = [pid for _, pid, by in world.died if by == "us"]
    assert len(by_us) == 3
    assert len(world.told("BUDGET_SPENT")) >= 1


def test_pressure_that_has_not_come_down_yet_ends_nobody_else() -> None:
    """syncloud 769: avg10 stays high for ten seconds after the relief."""
    clause = when(AvailableBelow(share(10)), PressureAbove("full", 0.3, "10s"))
    guard = replace(host_guard(), hard=watermark(clause, do=(KillStep(),)))
    others = [Body(process(600 + i, "app", f"/system.slice/app{i}.service", 60)) for i in range(5)]
    world = World(plan(guard), [leak(), *others], pressure=lambda w: pressure(60, 60))
    world.run(60_000)
    assert world.killed() == [500]


# -- one cgroup ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [20, 50, 200, 1000])
def test_a_service_with_a_limit_is_stopped_under_it(rate: float) -> None:
    world = World(plan(limit_guard(LEAK, tripwire=True)), [leak(grows=rate), CANARY], limits={LEAK: 256})
    peak = []
    world.run(60_000, lambda w: bool(peak.append(w.held(LEAK)) or w.died))
    assert world.killed() == [500]
    assert max(peak) < 256, "the kernel was never asked"


def test_a_hog_below_one_user_takes_neither_session_nor_shell() -> None:
    session = "/user.slice/user-1000.slice/user@1000.service"
    scope = f"{session}/app.slice/app-terminal.scope"
    bodies = [
        Body(process(30, "systemd", f"{session}/init.scope", 12)),
        Body(process(31, "gnome-shell", f"{session}/session.slice/shell.service", 200)),
        Body(process(40, "terminal", scope, 40)),
        Body(process(41, "bash", scope, 6, 40)),
        Body(process(42, "python3", scope, 10, 41), grows=150),
    ]
    world = World(plan(limit_guard("/user.slice")), bodies, limits={"/user.slice": 600}).run(60_000, settled)
    assert world.killed() == [42]


def test_a_healthy_reader_is_left_in_peace_for_an_hour() -> None:
    """At its limit all the time, with cache."""
    reader = Body(process(70, "reader", LEAK, 1))
    world = World(plan(limit_guard(LEAK, tripwire=True)), [reader], limits={LEAK: 256}, caches={LEAK: 254})
    world.run(3_600_000)
    assert world.phases("limited") == ["calm"]
    assert not world.actions(Kill) + world.actions(Look) + world.actions(Mute)
    assert len(world.moments) <= 15_000, "a look every quarter of a second at most"


def test_the_machine_and_the_cgroup_do_not_kill_twice_for_one_leak() -> None:
    world = World(
        plan(host_guard(), limit_guard(LEAK)), [leak(grows=300, dies_ms=400), CANARY], limits={LEAK: 850}
    ).run(60_000, settled)
    assert len(world.actions(Kill)) == 1
    assert world.state.counters.kills == 1
    assert {body.pid for body in world.bodies} == {21}
    assert TargetId("host", "/") in world.state.targets


def test_without_nominating_it_costs_one_more_turn() -> None:
    guard = replace(host_guard(), soft=watermark(when(AvailableBelow(share(12))), do=SOFT_STEPS[:2]))
    world = World(plan(guard), [leak(), CANARY]).run(60_000, settled)
    assert world.killed() == [500]
    assert len(world.actions(Look)) == 1
