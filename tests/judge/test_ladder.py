"""Lists of actions: what is mild first, the kill last, and each has its time to help.

Given a policy with waits, when memory is short for so long, then that much of the list has been done.
"""

from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oomguard.judge import escalate
from oomguard.judge.escalate import LADDER, Climb, Move, Stand
from oomguard.judge.rank import Bounds, why_no_unit, why_not_whole
from oomguard.model.facts import Result, TargetId, TargetSeen, VictimGone
from oomguard.model.policy import (
    Amount,
    AvailableBelow,
    Budget,
    FreezeStep,
    Guard,
    KillStep,
    Match,
    MemoryAbove,
    NominateStep,
    NotifyStep,
    ReclaimStep,
    RunStep,
    SetMaxStep,
    SetSwapMaxStep,
    SnapshotStep,
    Step,
    UnitStep,
    VictimRule,
    WaitStep,
)
from oomguard.model.verdict import Lease, Notify, Reclaim, Run

from .world import (
    MIB,
    MS,
    SECOND,
    SOFT_STEPS,
    Body,
    Court,
    World,
    cgroup,
    host_guard,
    limit_guard,
    meminfo,
    plan,
    process,
    share,
    survey,
    watermark,
    when,
)

STANDS: tuple[Stand, ...] = get_args(Stand)
MOVES: tuple[Move, ...] = get_args(Move)
RECLAIM = ReclaimStep(Amount(bytes=64 * MIB), 2 * SECOND)
FREEZE = FreezeStep(5 * SECOND)
WEB = "/system.slice/web.service"
HOST = TargetId("host", "/")


def wait(ms: int) -> WaitStep:
    return WaitStep(ms * MS)


def guard(*hard: Step, soft: tuple[Step, ...] = SOFT_STEPS, **more: object) -> Guard:
    """The machine, at 12 % and 5 %."""
    made = replace(
        host_guard(),
        soft=watermark(when(AvailableBelow(share(12))), do=soft),
        hard=watermark(when(AvailableBelow(share(5))), do=hard),
    )
    return replace(made, **more)  # type: ignore[arg-type]


def court(*hard: Step, **more: object) -> Court:
    made = Court(plan(guard(*hard, **more)))  # type: ignore[arg-type]
    made.sees(0, host=meminfo(900), appeared=(TargetSeen(HOST, None),))
    return made


def leak(held: float = 500, path: str = WEB) -> tuple[object, ...]:
    return (survey("/", [process(70, "leak", path, held), process(71, "other", "/system.slice/b.service", 20)]),)


def done(said: list[str]) -> list[str]:
    """What was done, without what was told and looked at."""
    return [line for line in said if line.split()[0] not in ("tell", "look", "snapshot", "nominate", "close")]


# -- the table -----------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(MOVES), max_size=20))
def test_a_climb_moves_as_the_table_says_and_not_otherwise(moves: list[Move]) -> None:
    climb = Climb("waiting", 3, 100, (7,), True)
    for how in moves:
        after = escalate.move(climb, how, 200)
        assert after.stand == LADDER.get((climb.stand, how), climb.stand)
        assert after.next == climb.next, "only what is done counts"
        climb = after


def test_every_stand_is_reached_and_none_is_the_last() -> None:
    assert set(LADDER.values()) == set(STANDS)
    assert {before for before, _ in LADDER} == set(STANDS)


def test_time_alone_gets_us_on() -> None:
    assert LADDER["waiting", "late"] == "climbing"


@pytest.mark.parametrize(
    ("steps", "after"),
    [
        ((RECLAIM, KillStep()), 0),
        ((RECLAIM, wait(1), KillStep()), 2),
        ((RECLAIM, wait(1), FREEZE, wait(1), NotifyStep(), KillStep()), 4),
        ((RECLAIM, wait(1), FREEZE), 2),
    ],
)
def test_what_comes_after_the_last_wait_is_done_again(steps: tuple[Step, ...], after: int) -> None:
    ended = Climb("aiming" if escalate.ends(steps) == "kill" else "over", len(steps))
    assert escalate.again(ended, steps) == Climb("climbing", after)
    assert escalate.again(Climb("waiting", 1, 5, (3,), True), steps).stand == "waiting", "it is not at its end"


# -- hard ----------------------------------------------------------------------------------------------------------


def test_reclaim_has_its_time_and_then_the_victim_is_taken() -> None:
    it = court(RECLAIM, wait(2000), KillStep())
    assert done(it.sees(1000, host=meminfo(100))) == []
    it.sees(1010, surveys=leak())
    assert done(it.sees(1100, host=meminfo(40))) == ["reclaim 2: 64 MiB of /"]
    assert it.phase == "firing"
    assert done(it.sees(2000, host=meminfo(40))) == []
    assert done(it.sees(3099, host=meminfo(40))) == []
    it.sees(3100, host=meminfo(40))  # a nominee of two seconds ago is looked at again
    assert done(it.sees(3110, surveys=leak())) == ["KILL 1", "reap 1"]


def test_it_has_helped_and_nobody_is_killed() -> None:
    it = court(RECLAIM, wait(2000), KillStep())
    it.sees(1000, host=meminfo(40))
    it.sees(1500, host=meminfo(60))
    assert it.phase == "armed"
    for at in range(2000, 9000, 250):
        assert "KILL 1" not in done(it.sees(at, host=meminfo(60)))
    assert it.phase == "armed"


def test_eased_for_a_moment_begins_nothing_anew() -> None:
    it = court(RECLAIM, wait(2000), KillStep())
    assert done(it.sees(1000, host=meminfo(40))) == ["reclaim 1: 64 MiB of /"]
    it.sees(1500, host=meminfo(60))
    assert done(it.sees(1600, host=meminfo(40), surveys=leak())) == [], "it waits for the same still"
    it.sees(2500, host=meminfo(60))
    said = done(it.sees(4000, host=meminfo(40), surveys=leak()))
    assert said == ["KILL 2", "reap 2"], "what was tried was tried"


def test_calm_begins_at_the_top() -> None:
    it = court(RECLAIM, wait(2000), KillStep())
    assert done(it.sees(1000, host=meminfo(40))) == ["reclaim 1: 64 MiB of /"]
    it.sees(2000, host=meminfo(900))
    it.sees(3500, host=meminfo(900))
    assert it.phase == "calm"
    assert done(it.sees(9000, host=meminfo(40))) == ["reclaim 2: 64 MiB of /"]


def test_what_could_not_be_done_is_not_waited_for() -> None:
    """A kernel before 5.19 has no memory.reclaim."""
    it = court(RECLAIM, wait(60_000), KillStep())
    assert done(it.sees(1000, host=meminfo(40))) == ["reclaim 1: 64 MiB of /"]
    assert it.sees(1010, host=meminfo(40), results=(Result(1, "Reclaim", 2),))[-1:] == ["look heaviest"]
    assert done(it.sees(1020, surveys=leak())) == ["KILL 2", "reap 2"]


def test_one_of_two_may_help_still() -> None:
    it = court(RECLAIM, FREEZE, wait(60_000), KillStep())
    it.sees(1000, host=meminfo(100))
    it.sees(1010, surveys=leak())
    assert done(it.sees(1100, host=meminfo(40))) == [
        "reclaim 2: 64 MiB of /",
        f"lease 3: step cgroup.freeze {WEB}",
    ]
    assert done(it.sees(1110, host=meminfo(40), results=(Result(2, "Reclaim", 11),))) == []
    said = done(it.sees(1120, host=meminfo(40), results=(Result(3, "Lease", 1),)))
    assert said == ["release 3", "KILL 1", "reap 1"]


def test_who_is_only_told_has_all_of_the_wait() -> None:
    """Nothing was tried, so nothing can have failed: people have that long to see to it."""
    it = court(NotifyStep(), wait(5000), KillStep())
    it.sees(1000, host=meminfo(40), results=(Result(9, "Reclaim", 2),))
    assert done(it.sees(5990, host=meminfo(40))) == []
    assert "look heaviest" in it.sees(6000, host=meminfo(40))


def test_twice_as_bad_leaves_no_time() -> None:
    it = court(RECLAIM, wait(60_000), FREEZE, wait(60_000), KillStep())
    it.sees(1000, host=meminfo(40))
    assert it.sees(1010, host=meminfo(24))[-1:] == ["look heaviest"]
    assert done(it.sees(1020, surveys=leak())) == [f"lease 3: step cgroup.freeze {WEB}", "KILL 2", "reap 2"]


def test_a_list_without_a_kill_ends_and_its_end_is_done_again() -> None:
    it = court(RECLAIM, wait(1000), NotifyStep(), ReclaimStep(Amount(share=0.1), SECOND), cooldown_ns=5 * SECOND)
    assert done(it.sees(1000, host=meminfo(40))) == ["reclaim 1: 64 MiB of /"]
    assert done(it.sees(2000, host=meminfo(40))) == ["reclaim 2: 100 MiB of /"]
    assert it.phase == "cooling"
    assert done(it.sees(6999, host=meminfo(40))) == []
    assert done(it.sees(7000, host=meminfo(40))) == ["reclaim 3: 100 MiB of /"]


def test_an_old_list_is_done_in_one_turn_as_ever() -> None:
    it = court(KillStep())
    it.sees(1000, host=meminfo(100))
    it.sees(1010, surveys=leak())
    assert done(it.sees(1100, host=meminfo(40))) == ["KILL 1", "reap 1"]


def test_a_world_in_which_the_leak_does_not_stop() -> None:
    """With reclaim that brings nothing the leak dies before memory is gone, wait or not."""
    bodies = [
        Body(process(70, "leak", WEB, 100), grows=100),
        Body(process(71, "other", "/system.slice/b.service", 20)),
    ]
    world = World(plan(guard(RECLAIM, wait(10_000), KillStep())), bodies).run(20_000)
    assert world.killed() == [70]
    assert [by for _, _, by in world.died] == ["us"]
    assert len(world.actions(Reclaim)) == 1


# -- soft ----------------------------------------------------------------------------------------------------------


def test_softs_list_waits_as_well() -> None:
    soft = (*SOFT_STEPS, RECLAIM, wait(3000), SetMaxStep(share(90), SECOND), FREEZE)
    it = court(KillStep(), soft=soft)
    said = it.sees(1000, host=meminfo(100))
    assert said == ["snapshot soft #1", "tell SOFT", "look heaviest", "reclaim 1: 64 MiB of /", "tell MEASURE"]
    it.sees(1010, surveys=leak())
    assert done(it.sees(3990, host=meminfo(100))) == []
    assert done(it.sees(4000, host=meminfo(100))) == [f"lease 3: step cgroup.freeze {WEB}"]
    assert done(it.sees(8999, host=meminfo(100))) == []
    assert done(it.sees(9000, host=meminfo(100))) == ["release 3"], "its time is over"
    assert it.phase == "armed"


def test_softs_list_stands_still_while_soft_does_not_hold() -> None:
    it = court(KillStep(), soft=(*SOFT_STEPS, wait(1000), RECLAIM))
    it.sees(1000, host=meminfo(100))
    it.sees(1500, host=meminfo(130))
    assert done(it.sees(3000, host=meminfo(130))) == []
    assert done(it.sees(3100, host=meminfo(100))) == ["reclaim 1: 64 MiB of /"]


def test_a_kill_in_softs_list_comes_after_its_waits() -> None:
    it = court(KillStep(), soft=(*SOFT_STEPS, wait(2000), KillStep()))
    it.sees(1000, host=meminfo(100))
    it.sees(1010, surveys=leak())
    assert done(it.sees(2990, host=meminfo(100))) == []
    assert done(it.sees(3000, host=meminfo(100), surveys=leak())) == ["KILL 1", "reap 1"]


def test_what_was_told_a_moment_ago_is_not_told_again_after_a_wait() -> None:
    it = court(KillStep(), soft=(SnapshotStep(), wait(1000), NotifyStep()))
    it.sees(1000, host=meminfo(100))
    assert "tell SOFT" in it.sees(2000, host=meminfo(100)), "it is the first time that this is told"
    it.sees(3000, host=meminfo(900))
    it.sees(4500, host=meminfo(900))
    it.sees(5000, host=meminfo(100))
    assert "tell SOFT" not in it.sees(6000, host=meminfo(100)), "within a minute"


# -- freezing ------------------------------------------------------------------------------------------------------


def test_frozen_looked_at_and_let_go_when_calm() -> None:
    it = court(FREEZE, wait(3000), KillStep())
    it.sees(1000, host=meminfo(100))
    it.sees(1010, surveys=leak())
    (line,) = done(it.sees(1100, host=meminfo(40)))
    assert line == f"lease 2: step cgroup.freeze {WEB}"
    assert [a.value for a in it.said if isinstance(a, Lease)] == [1]
    it.sees(1500, host=meminfo(900))
    assert "release 2" in it.sees(2600, host=meminfo(900))


def test_whom_to_freeze_is_looked_for_first() -> None:
    it = court(FREEZE, wait(3000), KillStep(), soft=(SnapshotStep(),))
    assert it.sees(1000, host=meminfo(40))[-1:] == ["look heaviest"]
    assert done(it.sees(1010, surveys=leak())) == [f"lease 2: step cgroup.freeze {WEB}"]


def test_the_frozen_go_on_before_they_are_asked_to_end() -> None:
    """SIGTERM does nothing to who is frozen."""
    it = court(FREEZE, wait(1000), KillStep(2 * SECOND))
    it.sees(1000, host=meminfo(100))
    it.sees(1010, surveys=leak())
    it.sees(1100, host=meminfo(40))
    it.sees(2050, surveys=leak())
    assert done(it.sees(2100, host=meminfo(40))) == ["release 2", "TERM 1"]


def test_sigkill_needs_no_thaw_and_the_lease_ends_with_the_victim() -> None:
    it = court(FREEZE, wait(500), KillStep())
    it.sees(1000, host=meminfo(100))
    it.sees(1010, surveys=leak())
    it.sees(1100, host=meminfo(40))
    assert done(it.sees(1600, host=meminfo(40))) == ["KILL 1", "reap 1"]
    said = it.sees(1620, host=meminfo(500), gone=(VictimGone(1, 0),))
    assert done(said) == ["dismiss 1", "release 2"]


def test_another_nominee_lets_the_frozen_one_go() -> None:
    it = court(KillStep(), soft=(*SOFT_STEPS, FREEZE))
    it.sees(1000, host=meminfo(100))
    assert f"lease 2: step cgroup.freeze {WEB}" in it.sees(1010, host=meminfo(100), surveys=leak())
    other = (survey("/", [process(70, "leak", WEB, 5), process(71, "other", "/system.slice/b.service", 800)]),)
    assert "release 2" in it.sees(1500, host=meminfo(100), surveys=other)


def test_the_guards_own_cgroup_is_known_without_a_survey_of_it() -> None:
    """Seen on a real machine: a survey lists what is below the cgroup that it is of."""
    path = "/work.slice/frozen.service"
    hard = watermark(when(MemoryAbove(share(95))), do=(FREEZE, wait(1000), KillStep()))
    it = Court(plan(replace(limit_guard(path), hard=hard)))
    it.sees(0, host=meminfo(900), appeared=(TargetSeen(TargetId("limited", path), cgroup(path, 1, 0, 100)),))
    it.sees(1000, cgroups=(cgroup(path, 97, 0, 100),))
    seen = replace(survey(path, [process(70, "leak", path, 97)], guard="limited"), cgroups=())
    assert f"lease 2: step cgroup.freeze {path}" in it.sees(1010, surveys=(seen,))
    (lease,) = [action for action in it.said if isinstance(action, Lease)]
    assert lease.inode == cgroup(path, 1).inode


OURS = 7


@pytest.mark.parametrize(
    ("path", "rule", "own", "who", "why"),
    [
        pytest.param(WEB, VictimRule(never=()), "", "db", "", id="an ordinary service"),
        pytest.param("/user.slice/user-0.slice/session-3.scope", VictimRule(), "", "x", "log in", id="a login"),
        pytest.param("/system.slice/systemd-journald.service", VictimRule(), "", "x", "log in", id="the journal"),
        pytest.param("/system.slice/ssh.service", VictimRule(), "", "x", "log in", id="the way in"),
        pytest.param("/init.scope", VictimRule(), "", "x", "log in", id="pid 1"),
        pytest.param("/a.slice", VictimRule(), "", "x", "only holds others", id="a slice"),
        pytest.param("/guard.service", VictimRule(), "/guard.service", "x", "oomguard itself", id="ourselves"),
        pytest.param("/guard.service", VictimRule(), "/guard.service/inner", "x", "oomguard itself", id="around us"),
    ],
)
def test_whom_a_freeze_would_stop(path: str, rule: VictimRule, own: str, who: str, why: str) -> None:
    seen = survey("/", [process(70, "leak", path, 500), process(72, who, path, 20)])
    said = why_not_whole(rule, seen, path, Bounds(frozenset({OURS}), frozenset(), own))
    assert (why in said) if why else said == ""


def test_one_who_must_not_be_killed_keeps_those_around_it_from_being_frozen() -> None:
    it = court(FREEZE, wait(9000), KillStep(), victim=VictimRule(never=(Match(comm="precious"),)))
    both = survey("/", [process(70, "leak", WEB, 500), process(71, "precious", WEB, 20)])
    it.sees(1000, host=meminfo(100))
    it.sees(1010, surveys=(both,))
    assert done(it.sees(1100, host=meminfo(40))) == ["KILL 1", "reap 1"], "and nobody waits for it"
    told = [a.text for a in it.said if isinstance(a, Notify) and a.message == "MEASURE"]
    assert told == [f'{WEB} is not frozen: precious[71] lives there: never: comm = "precious"']


# -- limits --------------------------------------------------------------------------------------------------------


def test_limits_are_lent_and_end_when_it_is_calm() -> None:
    steps = (SetMaxStep(share(95), 30 * SECOND), SetSwapMaxStep(Amount(bytes=0), 30 * SECOND))
    hard = watermark(when(MemoryAbove(share(95))), do=steps)
    it = Court(plan(replace(limit_guard("/a.service"), hard=hard)))
    new = TargetSeen(TargetId("limited", "/a.service"), cgroup("/a.service", 1, 0, 100))
    it.sees(0, host=meminfo(900), appeared=(new,))
    said = it.sees(1000, cgroups=(cgroup("/a.service", 97, 0, 100),))
    assert [line for line in said if line.startswith("lease")] == [
        "lease 1: step memory.max /a.service",
        "lease 2: step memory.swap.max /a.service",
    ]
    assert [a.value for a in it.said if isinstance(a, Lease)] == [95 * MIB, 0]
    it.sees(2000, cgroups=(cgroup("/a.service", 10, 0, 100),))
    assert done(it.sees(3100, cgroups=(cgroup("/a.service", 10, 0, 100),))) == ["release 1", "release 2"]


# -- observing -----------------------------------------------------------------------------------------------------


def test_an_observer_says_what_would_have_been_done_and_lends_nothing() -> None:
    it = court(RECLAIM, FREEZE, wait(1000), KillStep(), mode="observe")
    it.sees(1000, host=meminfo(100))
    it.sees(1010, surveys=leak())
    it.sees(1100, host=meminfo(40))
    it.sees(2050, surveys=leak())
    it.sees(2100, host=meminfo(40))
    told = [a.text for a in it.said if isinstance(a, Notify) and a.message in ("MEASURE", "KILLED")]
    assert told[:2] == [
        "would have been done: 64.0 MiB of / is reclaimed",
        f"would have been done: {WEB} is frozen for 5 s",
    ]
    assert told[2].startswith("would have killed leak[70]")
    assert not [a for a in it.said if isinstance(a, Lease)]


def test_nominate_step_is_of_soft_alone() -> None:
    it = court(NominateStep(), RECLAIM, wait(1000), KillStep(), soft=(SnapshotStep(),))
    said = it.sees(1000, host=meminfo(40))
    assert said == ["snapshot hard #1", "tell HARD", "reclaim 1: 64 MiB of /", "tell MEASURE"]


# -- units ---------------------------------------------------------------------------------------------------------

RESTART, STOP = UnitStep("restart"), UnitStep("stop")


def measures(it: Court) -> list[str]:
    return [a.text for a in it.said if isinstance(a, Notify) and a.message in ("MEASURE", "BUDGET_SPENT")]


def test_the_nominees_unit_is_restarted_and_killed_if_that_does_not_help() -> None:
    it = court(RESTART, wait(20_000), KillStep())
    it.sees(1000, host=meminfo(100))
    it.sees(1010, surveys=leak())
    assert done(it.sees(1100, host=meminfo(40))) == ["restart 2: web.service"]
    assert done(it.sees(21_090, host=meminfo(40))) == []
    it.sees(21_100, host=meminfo(40))
    assert done(it.sees(21_110, surveys=leak())) == ["KILL 1", "reap 1"]


def test_systemd_has_refused_and_nobody_waits() -> None:
    it = court(RESTART, wait(20_000), KillStep())
    it.sees(1000, host=meminfo(100))
    it.sees(1010, surveys=leak())
    it.sees(1100, host=meminfo(40))
    assert done(it.sees(1110, host=meminfo(40), results=(Result(2, "UnitJob", 2),))) == ["KILL 1", "reap 1"]


def test_the_guards_own_unit_comes_first() -> None:
    """Its cgroup lies in a service: that is what is restarted, whatever is nominated inside of it."""
    hard = watermark(when(MemoryAbove(share(95))), do=(STOP,))
    path = "/system.slice/app.service"
    it = Court(plan(replace(limit_guard(path), hard=hard)))
    it.sees(0, host=meminfo(900), appeared=(TargetSeen(TargetId("limited", path), cgroup(path, 1, 0, 100)),))
    it.sees(1000, cgroups=(cgroup(path, 97, 0, 100),))
    inner = process(70, "leak", f"{path}/worker", 97)
    assert "stop 2: app.service" in it.sees(1010, surveys=(survey(path, [inner], guard="limited"),))


def test_a_restart_counts_for_the_budget() -> None:
    it = court(RESTART, budget=Budget(1, 60 * SECOND), cooldown_ns=0)
    it.sees(1000, host=meminfo(40))
    assert done(it.sees(1010, surveys=leak())) == ["restart 2: web.service"]
    it.sees(2000, host=meminfo(40), surveys=leak())
    it.sees(3000, host=meminfo(40), surveys=leak())
    assert measures(it)[-1].startswith("this guard's kill budget (1 in 60 s) is spent for another")
    assert measures(it)[-1].endswith("web.service is not restarted")
    assert len([line for line in map(str, it.said) if "UnitJob" in line]) == 1


def test_a_restart_waits_for_the_cooldown_of_the_last_one() -> None:
    it = court(RESTART, cooldown_ns=30 * SECOND)
    it.sees(1000, host=meminfo(40))
    assert done(it.sees(1010, surveys=leak())) == ["restart 2: web.service"]
    for at in (2000, 3100):
        it.sees(at, host=meminfo(900))
    for at in range(5000, 31_000, 500):
        assert done(it.sees(at, host=meminfo(40), surveys=leak())) == []
    assert measures(it)[1:] == ["nothing is ended for another 26.0 s: the cooldown of the last kill"]
    it.sees(31_000, host=meminfo(40), surveys=leak())
    assert done(it.sees(31_020, host=meminfo(40), surveys=leak()))[:1] == ["restart 4: web.service"]


@pytest.mark.parametrize(
    ("path", "why"),
    [
        (WEB, ""),
        ("/docker/c1", "it is not in a unit"),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/a.service", "a user's own manager"),
        ("/system.slice/systemd-journald.service", "log in"),
        ("/init.scope", "log in"),
        ("/system.slice/guard.service", "oomguard itself"),
    ],
)
def test_which_units_are_left_alone(path: str, why: str) -> None:
    bounds = Bounds(frozenset(), frozenset(), "/system.slice/guard.service")
    said = why_no_unit(VictimRule(), survey("/", [process(70, "leak", path, 500)]), path, bounds)
    assert (why in said) if why else said == ""


def test_a_scope_is_not_restarted_but_may_be_stopped() -> None:
    scope = "/system.slice/docker-1.scope"
    for step, last in ((RESTART, "KILL 1"), (STOP, "stop 2: docker-1.scope")):
        it = court(step, wait(5000), KillStep())
        it.sees(1000, host=meminfo(100))
        it.sees(1010, surveys=leak(path=scope))
        assert done(it.sees(1100, host=meminfo(40)))[0] == last


def test_an_observer_restarts_nothing() -> None:
    it = court(RESTART, mode="observe", budget=Budget(1, SECOND))
    it.sees(1000, host=meminfo(100))
    it.sees(1010, surveys=leak())
    it.sees(1100, host=meminfo(40))
    assert measures(it) == ["would have been done: web.service is restarted"]


# -- hooks ---------------------------------------------------------------------------------------------------------

DRAIN = RunStep(("/usr/local/bin/drain", "--now"), "web", 10 * SECOND)


def test_a_hook_has_its_time_and_then_the_victim_is_taken() -> None:
    it = court(DRAIN, wait(5000), KillStep())
    it.sees(1000, host=meminfo(100))
    it.sees(1010, surveys=leak())
    assert done(it.sees(1100, host=meminfo(40))) == ["run 2: /usr/local/bin/drain --now"]
    (run,) = [a for a in it.said if isinstance(a, Run)]
    assert (run.user, run.watermark, run.deadline_ns) == ("web", "hard", 10 * SECOND)
    assert run.why == "available 40.0 MiB below 50.0 MiB (5 % of 1000.0 MiB)"
    assert done(it.sees(3000, host=meminfo(40), results=(Result(2, "Run", 0),))) == [], "it may help still"
    it.sees(6100, host=meminfo(40))
    assert done(it.sees(6110, surveys=leak())) == ["KILL 1", "reap 1"]


def test_a_hook_that_failed_is_not_waited_for() -> None:
    it = court(DRAIN, wait(5000), KillStep())
    it.sees(1000, host=meminfo(100))
    it.sees(1010, surveys=leak())
    it.sees(1100, host=meminfo(40))
    assert done(it.sees(1200, host=meminfo(40), results=(Result(2, "Run", 10, 0, 3),))) == ["KILL 1", "reap 1"]


def test_a_hook_of_soft_is_told_that_it_is_soft() -> None:
    it = court(KillStep(), soft=(*SOFT_STEPS, DRAIN))
    it.sees(1000, host=meminfo(100))
    assert [a.watermark for a in it.said if isinstance(a, Run)] == ["soft"]
