"""The fold as a transcript: given these observations, so is decided. Each test is one story, told turn by turn."""

import errno
from dataclasses import replace

import pytest

from oomguard.judge import decide as decide_module
from oomguard.judge.decide import decide
from oomguard.model.facts import (
    KernelKill,
    MemInfo,
    ProcessFacts,
    Result,
    Stalled,
    TargetId,
    TargetSeen,
    VictimGone,
    Wake,
)
from oomguard.model.policy import (
    Amount,
    AvailableBelow,
    Budget,
    Guard,
    KillStep,
    Match,
    MemoryAbove,
    NotifyStep,
    PressureAbove,
    ReclaimStep,
    SetHighStep,
    SetOomScoreAdjStep,
    StallAbove,
    Step,
    VictimRule,
)
from oomguard.model.verdict import Close, Kill, Lease, Nominate, Notify, Release, Snapshot

from .world import (
    EBUSY,
    EPERM,
    ESRCH,
    MIB,
    MS,
    SECOND,
    SOFT_STEPS,
    START,
    Court,
    cgroup,
    deadline,
    host_guard,
    limit_guard,
    meminfo,
    plan,
    pressure,
    process,
    share,
    survey,
    watermark,
    when,
)

HOST = TargetId("host", "/")
LEAK = process(500, "leak", "/system.slice/leak.service", 600)
SMALL = process(501, "small", "/system.slice/small.service", 50)
WORLD = (LEAK, SMALL)


def host_court(guard: Guard | None = None, **options: object) -> Court:
    """A guard on the machine that has seen one calm look."""
    court = Court(plan(guard or host_guard(**options)))  # type: ignore[arg-type]
    court.sees(0, appeared=(TargetSeen(HOST, None),), host=meminfo(500))
    return court


def firing(court: Court, at_ms: int = 1000) -> list[str]:
    """Through the soft watermark with a nominee to the hard one, at ``at_ms``."""
    court.sees(at_ms - 100, host=meminfo(100))
    court.sees(at_ms - 90, host=meminfo(100), surveys=(survey("/", WORLD),))
    return court.sees(at_ms, host=meminfo(40))


# -- the straight way ----------------------------------------------------------------------------------------------


def test_nominate_at_soft_fire_at_hard_and_calm_again() -> None:
    court = host_court()
    assert court.sees(1000, host=meminfo(500)) == []
    assert court.phase == "calm"
    assert court.sees(1100, host=meminfo(110)) == ["snapshot soft #1", "tell SOFT", "look heaviest"]
    assert court.phase == "armed"
    assert court.sees(1105, host=meminfo(100), surveys=(survey("/", WORLD),)) == ["nominate 1: process 500"]
    assert court.sees(1200, host=meminfo(45)) == ["snapshot hard #1", "tell HARD", "KILL 1", "reap 1", "tell KILLED"]
    assert court.phase == "draining"
    assert court.sees(1220, host=meminfo(40)) == []
    assert court.sees(1240, host=meminfo(600), gone=(VictimGone(1, 0),)) == ["tell VICTIM_GONE", "dismiss 1"]
    assert court.phase == "cooling"
    assert court.sees(1500, host=meminfo(640)) == []
    assert court.sees(2300, host=meminfo(640)) == ["close #1", "tell CALM"]
    assert court.phase == "calm"


def test_without_a_soft_watermark_the_survey_comes_first_and_the_kill_in_the_next_turn() -> None:
    court = host_court(replace(host_guard(), soft=None))
    assert court.sees(100, host=meminfo(40)) == ["snapshot hard #1", "tell HARD", "look heaviest"]
    assert court.sees(105, host=meminfo(39), surveys=(survey("/", WORLD),)) == [
        "nominate 1: process 500",
        "KILL 1",
        "reap 1",
        "tell KILLED",
    ]


def test_soft_hovers_and_nobody_is_killed_for_it() -> None:
    court = host_court()
    for i in range(300):
        looked = (survey("/", WORLD),) if court.state.targets and court.target().asked else ()
        court.sees(1000 + i * 20, host=meminfo(115 if i % 2 else 125), surveys=looked)
    assert court.phase == "armed"
    assert not [a for a in court.said if isinstance(a, Kill)]
    assert len([a for a in court.said if isinstance(a, Snapshot)]) == 1


def test_a_soft_watermark_that_comes_and_goes_makes_one_snapshot_a_minute() -> None:
    court = host_court(replace(host_guard(), soft=watermark(when(AvailableBelow(share(12))), do=SOFT_STEPS[:2])))
    for second in range(4, 184, 4):  # three minutes; down, then well over it for long enough to be calm
        court.sees(second * 1000, host=meminfo(110))
        court.sees(second * 1000 + 1000, host=meminfo(300))
        court.sees(second * 1000 + 2100, host=meminfo(300))
        assert court.phase == "calm"
    assert len([a for a in court.said if isinstance(a, Snapshot)]) == 3
    assert len([a for a in court.said if isinstance(a, Notify) and a.message == "SOFT"]) == 3


def test_lasting_is_unbroken_time() -> None:
    clause = when(AvailableBelow(share(5)), lasting_ms=10_000)
    court = host_court(replace(host_guard(), soft=None, hard=watermark(clause, do=(KillStep(),))))
    for at in range(1000, 10_000, 500):
        court.sees(at, host=meminfo(40))
    court.sees(10_000, host=meminfo(60))
    for at in range(10_500, 20_500, 500):
        court.sees(at, host=meminfo(40))
    assert court.phase == "calm"
    assert court.sees(20_500, host=meminfo(40)) == ["snapshot hard #1", "tell HARD", "look heaviest"]


def test_swap_that_is_still_free_keeps_the_hard_watermark_from_firing() -> None:
    """Healthy machines with swap run at little available memory: conditions of one table are AND-ed (syncloud 769)."""
    from oomguard.model.policy import SwapFreeBelow

    clause = when(AvailableBelow(share(5)), SwapFreeBelow(share(10)))
    court = host_court(replace(host_guard(), soft=None, hard=watermark(clause, do=(KillStep(),))))
    assert court.sees(1000, host=meminfo(0, swap_total=1000, swap_free=900)) == []
    assert court.phase == "calm"
    assert court.sees(2000, host=meminfo(0, swap_total=1000, swap_free=90))[:1] == ["snapshot hard #1"]


# -- it kills only while it must -----------------------------------------------------------------------------------


def test_memory_that_came_back_during_the_survey_saves_the_victim() -> None:
    """The hard watermark was crossed, but no longer is when the victim is known: then nobody dies for it."""
    court = host_court(replace(host_guard(), soft=None))
    assert court.sees(100, host=meminfo(40))[-1] == "look heaviest"
    assert court.sees(150, host=meminfo(60), surveys=(survey("/", WORLD),)) == ["nominate 1: process 500"]
    assert court.phase == "armed"
    assert "KILL 1" in court.sees(200, host=meminfo(45)), "and it is armed: the next crossing is one call away"


def test_a_nominee_that_ended_by_itself_is_not_replaced_once_memory_is_back() -> None:
    court = host_court()
    court.sees(100, host=meminfo(100))
    court.sees(110, host=meminfo(100), surveys=(survey("/", WORLD),))
    assert court.sees(120, host=meminfo(40), gone=(VictimGone(1, 0),))[:1] == ["dismiss 1"]
    court.sees(125, host=meminfo(70), surveys=(survey("/", [SMALL]),))
    assert court.phase == "armed"
    assert not [a for a in court.said if isinstance(a, Kill)]


def test_a_stale_nominee_at_the_hard_watermark_is_replaced_in_two_turns_while_memory_is_short() -> None:
    court = host_court()
    court.sees(100, host=meminfo(100))
    court.sees(110, host=meminfo(100), surveys=(survey("/", WORLD),))
    assert "look heaviest" in court.sees(120, host=meminfo(40), gone=(VictimGone(1, 0),))
    assert "KILL 2" in court.sees(125, host=meminfo(40), surveys=(survey("/", [SMALL]),))


def test_a_kill_that_met_nobody_counts_for_nothing_and_costs_no_cooldown() -> None:
    """ESRCH: it ended between nomination and signal. Another is looked for as soon as its memory should be back."""
    court = host_court(budget=Budget(1, 60 * SECOND))
    assert "KILL 1" in firing(court)
    court.sees(1001, host=meminfo(41), results=(Result(1, "Kill", ESRCH),))
    assert court.phase == "cooling"
    assert court.state.counters.kills == 0
    assert court.sees(1100, host=meminfo(41)) == [], "memory settles first"
    assert court.sees(1350, host=meminfo(41)) == ["look heaviest"]
    assert "KILL 2" in court.sees(1355, host=meminfo(41), surveys=(survey("/", [SMALL]),)), "the budget was not spent"
    assert court.state.counters.kills == 1


def test_one_that_is_listed_but_never_met_is_not_aimed_at_for_ever() -> None:
    """SD 23755: a candidate where nothing is ever killed, again and again. If it is gone, banning it costs nothing."""
    court = host_court()
    firing(court)
    court.sees(1001, host=meminfo(41), results=(Result(1, "Kill", ESRCH),))
    court.sees(1350, host=meminfo(41))
    assert "nominate 2: process 501" in court.sees(1355, host=meminfo(41), surveys=(survey("/", WORLD),))


def test_one_that_had_only_moved_when_it_was_opened_is_named_again() -> None:
    court = host_court(replace(host_guard(), soft=None))
    court.sees(100, host=meminfo(40))
    court.sees(105, host=meminfo(40), surveys=(survey("/", WORLD),))
    both = (Result(1, "Nominate", ESRCH), Result(1, "Kill", ESRCH))
    court.sees(106, host=meminfo(40), results=both)
    court.sees(500, host=meminfo(40))
    assert "nominate 2: process 500" in court.sees(505, host=meminfo(40), surveys=(survey("/", WORLD),))


def test_a_victim_that_took_longer_than_the_cooldown_still_has_its_memory_settle() -> None:
    court = host_court(grace_ms=10_000, cooldown_ms=1000)
    assert "TERM 1" in firing(court)
    court.sees(7000, host=meminfo(45))
    assert court.sees(7010, host=meminfo(45), gone=(VictimGone(1, 0),)) == ["tell VICTIM_GONE", "dismiss 1"]
    assert court.phase == "cooling"
    assert court.sees(7030, host=meminfo(45)) == []
    assert court.sees(7330, host=meminfo(45)) == ["look heaviest"]


def test_the_cooldown_is_kept_while_it_is_short_but_not_worse() -> None:
    court = host_court()
    firing(court)
    court.sees(1020, host=meminfo(40), gone=(VictimGone(1, 0),))
    for at in range(1040, 5980, 20):
        assert court.sees(at, host=meminfo(40)) == []
    assert court.sees(6000, host=meminfo(40)) == ["look heaviest"]


def test_twice_as_bad_cuts_the_cooldown_once_the_first_death_has_settled() -> None:
    court = host_court()
    firing(court)
    court.sees(1020, host=meminfo(20), gone=(VictimGone(1, 0),))
    assert court.sees(1300, host=meminfo(20)) == []
    assert court.sees(1320, host=meminfo(20)) == ["look heaviest"]


def calm_after_a_kill(court: Court) -> None:
    """At 1000 ms, and calm since 2300."""
    firing(court)
    court.sees(1020, host=meminfo(600), gone=(VictimGone(1, 0),))
    court.sees(1300, host=meminfo(600))
    court.sees(2300, host=meminfo(600))
    assert court.phase == "calm"


def short_again(court: Court, at_ms: int, available: float = 40) -> list[str]:
    court.sees(at_ms - 100, host=meminfo(100))
    court.sees(at_ms - 90, host=meminfo(100), surveys=(survey("/", (SMALL,)),))
    return court.sees(at_ms, host=meminfo(available))


def test_the_cooldown_is_kept_though_it_was_calm_in_between_and_that_is_said() -> None:
    court = host_court(cooldown_ms=20_000)
    calm_after_a_kill(court)
    assert short_again(court, 5000) == ["snapshot hard #2", "tell HARD", "tell MEASURE"]
    assert court.said[-1].text == "nothing is ended for another 16.0 s: the cooldown of the last kill"
    for at in range(5500, 20_990, 500):
        said = court.sees(at, host=meminfo(40), surveys=(survey("/", (SMALL,)),) if court.target().asked else ())
        assert not [line for line in said if line.startswith(("KILL", "TERM", "tell"))], "and said once"
    court.sees(20_995, host=meminfo(40), surveys=(survey("/", (SMALL,)),))
    assert "KILL 2" in court.sees(21_000, host=meminfo(40))


def test_twice_as_bad_cuts_that_short_too() -> None:
    court = host_court(cooldown_ms=20_000)
    calm_after_a_kill(court)
    short_again(court, 5000)
    assert "KILL 2" in court.sees(5010, host=meminfo(20))


def test_what_is_short_after_the_cooldown_is_acted_upon_at_once() -> None:
    court = host_court(cooldown_ms=3000)
    calm_after_a_kill(court)
    assert "KILL 2" in short_again(court, 5000)


def test_who_only_observes_waits_for_no_cooldown() -> None:
    court = host_court(mode="observe", cooldown_ms=20_000)
    firing(court)
    for at in (1500, 2600):
        court.sees(at, host=meminfo(600))
    assert court.phase == "calm"
    assert "KILL 2" in short_again(court, 5000), "a verdict that is held back by the hands"


def test_a_cooldown_outlives_the_cgroup_that_it_is_for() -> None:
    """As systemd restarts a service that leaks from its first moment: another directory under the same name."""
    path = "/system.slice/web.service"
    web = TargetId("limited", path)
    court = Court(plan(limit_guard(path, cooldown_ms=30_000)))
    for life in range(5):
        at = 1000 + life * 10_000
        full = cgroup(path, 96, limit=100, inode=50 + life)
        body = survey(path, [process(700 + life, "web", path, 96)], [full], guard="limited")
        court.sees(at, appeared=(TargetSeen(web, full),), cgroups=(full,), host=meminfo(500))
        if court.target().asked:
            court.sees(at + 10, cgroups=(full,), surveys=(body,))
        court.sees(at + 50, vanished=(web,))
    kills = [action for action in court.said if isinstance(action, Kill)]
    assert len(kills) == 2, "in the first life, and in the fourth"


@pytest.mark.parametrize(
    "condition",
    [
        pytest.param(PressureAbove("full", 0.2, "10s"), id="pressure averages lag by ten seconds"),
        pytest.param(StallAbove("full", 150_000, 1_000_000, 7), id="a trigger does not say how bad it is"),
    ],
)
def test_pressure_alone_is_never_twice_as_bad(condition: PressureAbove | StallAbove) -> None:
    """syncloud 769: three healthy apps killed, one after the other, by a PSI average that had not come down yet."""
    guard = replace(host_guard(), soft=None, hard=watermark(when(condition), do=(KillStep(2000 * MS),)))
    court = host_court(guard)
    bad = {"host": meminfo(400), "pressure": pressure(90, 90), "stalls": (Stalled(HOST, 7),)}
    assert court.sees(1000, **bad)[-1] == "look heaviest"
    assert "TERM 1" in court.sees(1010, **bad, surveys=(survey("/", WORLD),)), "the grace is granted"
    court.sees(1100, **bad, gone=(VictimGone(1, 0),))
    for at in range(1200, 6000, 100):
        assert court.sees(at, **bad) == [], "the cooldown is kept"
    assert court.sees(6010, **bad) == ["look heaviest"]


def test_a_machine_without_swap_does_not_fire_because_it_has_no_swap() -> None:
    """swap_free_below alone says nothing where there is no swap: it must not kill for ever on a healthy machine."""
    from oomguard.model.policy import SwapFreeBelow

    clause = when(SwapFreeBelow(share(10)))
    court = host_court(replace(host_guard(), soft=None, hard=watermark(clause, do=(KillStep(),))))
    assert court.sees(1000, host=meminfo(900)) == []
    assert court.phase == "calm"
    assert court.sleeps_ms >= 5900, "and it sleeps as if it were not there"


# -- the way of a victim -------------------------------------------------------------------------------------------


def test_term_then_kill_when_the_grace_is_over() -> None:
    court = host_court(grace_ms=2000)
    assert firing(court)[-2:] == ["TERM 1", "tell KILLED"]
    assert court.sees(2990, host=meminfo(40)) == []
    assert court.sees(3010, host=meminfo(40)) == ["KILL 1", "reap 1"]
    assert court.sees(3030, host=meminfo(40)) == []
    assert court.state.counters.kills == 1


def test_the_grace_is_cut_short_when_it_gets_twice_as_bad() -> None:
    court = host_court(grace_ms=10_000)
    firing(court)
    assert court.sees(1100, host=meminfo(26)) == []
    assert court.sees(1120, host=meminfo(24)) == ["KILL 1", "reap 1"]
    kills = [a for a in court.said if isinstance(a, Kill)]
    assert "twice as bad" in kills[-1].why


def test_no_grace_where_it_is_twice_as_bad_already() -> None:
    court = host_court(grace_ms=10_000)
    court.sees(900, host=meminfo(100))
    court.sees(910, host=meminfo(100), surveys=(survey("/", WORLD),))
    assert "KILL 1" in court.sees(1000, host=meminfo(20))


def test_a_victim_that_cannot_die_is_left_alone_and_never_asked_again() -> None:
    """A task in uninterruptible sleep takes no SIGKILL. oomd and systemd-oomd loop on such a one (SD 23755)."""
    court = host_court()
    firing(court)
    for at in range(1020, 11_000, 500):
        assert court.sees(at, host=meminfo(40)) == []
    assert court.sees(11_000, host=meminfo(40)) == ["tell VICTIM_STUCK", "dismiss 1", "look heaviest"]
    assert "KILL 2" in court.sees(11_010, host=meminfo(40), surveys=(survey("/", WORLD),))
    nominees = [a.victim.processes[0].pid for a in court.said if isinstance(a, Nominate)]
    assert nominees == [500, 501]
    court.sees(21_020, host=meminfo(40))
    assert court.sees(21_030, host=meminfo(40), surveys=(survey("/", WORLD),)) == ["look whole"]
    assert court.sees(21_040, host=meminfo(40), surveys=(survey("/", WORLD, depth="whole"),)) == ["tell NO_VICTIM"]


def test_after_a_stuck_victim_nobody_else_dies_if_memory_is_back() -> None:
    court = host_court()
    firing(court)
    assert court.sees(11_000, host=meminfo(60))[:2] == ["tell VICTIM_STUCK", "dismiss 1"]
    assert court.phase == "armed"


def test_a_victim_that_cannot_be_signalled_makes_room_for_the_next_one() -> None:
    """SD 31573: EINVAL for every candidate, for ever."""
    court = host_court()
    firing(court)
    assert court.sees(1001, host=meminfo(40), results=(Result(1, "Kill", EPERM),))[0] == "tell VICTIM_STUCK"
    assert "KILL 2" in court.sees(1005, host=meminfo(40), surveys=(survey("/", WORLD),))
    assert court.target().pursuit is not None
    assert court.target().pursuit.victim.processes[0].pid == 501


def test_a_victim_that_cannot_be_opened_makes_room_for_the_next_one() -> None:
    """Otherwise every survey names it again, and every turn asks for a survey."""
    court = host_court()
    court.sees(100, host=meminfo(100))
    court.sees(105, host=meminfo(100), surveys=(survey("/", WORLD),))
    court.sees(110, host=meminfo(100), results=(Result(1, "Nominate", EPERM),))
    assert court.sees(300, host=meminfo(100)) == ["look heaviest"]
    assert court.sees(305, host=meminfo(100), surveys=(survey("/", WORLD),)) == ["nominate 2: process 501"]


def test_a_nominee_that_is_lost_in_every_turn_does_not_make_the_loop_spin() -> None:
    """Short-lived processes: each is gone before it can be opened. Looks stay paced while nothing has to die yet."""
    court = host_court()
    looks = 0
    court.sees(100, host=meminfo(100))
    for at in range(101, 1101):  # a turn a millisecond
        results, surveys = (), ()
        state = court.target()
        if state.asked:
            surveys = (survey("/", [process(1000 + at, "brief", "/system.slice/x.service", 90)]),)
            looks += 1
        elif state.nominee is not None:
            results = (Result(state.nominee.token, "Nominate", ESRCH),)
        court.sees(at, host=meminfo(100), results=results, surveys=surveys)
    assert looks <= 60


def test_a_second_look_at_a_draining_victim_does_not_kill_it_twice() -> None:
    court = host_court()
    firing(court)
    for at in range(1001, 1100):
        assert court.sees(at, host=meminfo(10), surveys=(survey("/", WORLD),)) == []


# -- nobody to take ------------------------------------------------------------------------------------------------


def test_nobody_to_take_is_said_once_in_half_a_minute_and_looked_for_all_the_time() -> None:
    """Start9 4010: "considered 10 cgroups", for seven minutes, and no word why."""
    court = host_court(cooldown_ms=1000)
    at, whole = 1000, 0
    court.sees(at, host=meminfo(40))
    while at < 60_000:
        at += 100
        asked = court.target().asked
        surveys = (survey("/", [process(1, "init", "/init.scope", 300)], depth=asked),) if asked else ()
        whole += asked == "whole"
        court.sees(at, host=meminfo(40), surveys=surveys)
    said = [a for a in court.said if isinstance(a, Notify) and a.message == "NO_VICTIM"]
    assert len(said) == 2
    assert "pid 1" in said[0].text
    assert whole > 20


def test_the_budget_is_a_bound_and_says_so_once() -> None:
    court = host_court(cooldown_ms=0, budget=Budget(2, 300 * SECOND))
    at, token = 1000, 0
    court.sees(at, host=meminfo(40))
    while at < 30_000:
        at += 400
        state = court.target()
        surveys = (survey("/", [process(at, "again", "/system.slice/again.service", 300)]),) if state.asked else ()
        gone = (VictimGone(state.pursuit.victim.token, 0),) if state.pursuit is not None else ()
        court.sees(at, host=meminfo(40), surveys=surveys, gone=gone)
        token += 1
    assert court.state.counters.kills == 2
    assert len([a for a in court.said if isinstance(a, Notify) and a.message == "BUDGET_SPENT"]) == 1


def test_a_budget_outlives_the_cgroup_that_it_is_for() -> None:
    """A service that is killed whole comes back as a new cgroup: its kills of the last minutes still count."""
    path = "/system.slice/web.service"
    web = TargetId("limited", path)
    court = Court(plan(limit_guard(path, budget=Budget(2, 300 * SECOND), cooldown_ms=0)))
    for life in range(5):
        at = 1000 + life * 10_000
        full = cgroup(path, 99, limit=100, inode=50 + life)
        body = survey(path, [process(700 + life, "web", path, 99)], [full], guard="limited")
        court.sees(at, appeared=(TargetSeen(web, full),), cgroups=(full,), host=meminfo(500))
        if court.target().asked:
            court.sees(at + 10, cgroups=(full,), surveys=(body,))
        if court.target().pursuit is not None:
            court.sees(at + 50, gone=(VictimGone(court.target().pursuit.victim.token, 0),), vanished=(web,))
        else:
            court.sees(at + 50, vanished=(web,))
    assert court.state.counters.kills == 2


def test_observe_mode_gives_the_verdict_and_counts_no_kill() -> None:
    court = host_court(mode="observe", brake=True)
    said = firing(court)
    assert said == ["snapshot hard #1", "tell HARD", "KILL 1", "reap 1", "tell KILLED"]
    assert court.phase == "cooling"
    assert court.state.counters.kills == 0
    for at in range(1100, 60_000, 100):
        assert court.sees(at, host=meminfo(10)) == [], "the world did not follow: one verdict an engagement"
    court.sees(60_100, host=meminfo(500))
    assert court.sees(61_200, host=meminfo(500)) == ["dismiss 1", "close #1", "tell CALM"]
    assert not [a for a in court.said if isinstance(a, Lease)]


def test_an_incident_says_that_the_victim_is_gone_only_if_there_was_one() -> None:
    court = host_court()
    firing(court)
    court.sees(1100, host=meminfo(600), gone=(VictimGone(1, 0),))
    court.sees(2200, host=meminfo(600))
    court.sees(2300, host=meminfo(600))
    court.sees(80_000, host=meminfo(40))
    court.sees(80_010, host=meminfo(600), surveys=(survey("/", WORLD),))
    court.sees(81_100, host=meminfo(600))
    first, second = (a for a in court.said if isinstance(a, Close))
    assert "the victim is gone" in first.outcome
    assert "the victim is gone" not in second.outcome


def test_the_heaviest_three_are_not_enough_to_take_one_that_is_to_be_avoided() -> None:
    """The fourth may hold nearly as much and be nobody's favourite: it is looked for before the database dies."""
    rule = VictimRule(never=(Match(comm="shell"),), avoid=(Match(unit="db.service"),))
    shell = process(700, "shell", "/shell.service", 300)
    db, other = process(701, "db", "/db.service", 280), process(702, "other", "/other.service", 270)
    fourth = process(703, "fourth", "/fourth.service", 260)
    court = host_court(rule=rule)
    court.sees(100, host=meminfo(100))
    three = survey("/", [shell, db, process(704, "sshd", "/ssh.service", 1)], [cgroup("/fourth.service", 260)])
    assert court.sees(105, host=meminfo(100), surveys=(three,)) == ["look whole"]
    whole = survey("/", [shell, db, other, fourth], depth="whole")
    assert court.sees(110, host=meminfo(100), surveys=(whole,)) == ["nominate 1: process 702"]


def test_the_heaviest_three_are_enough_where_nothing_is_weighed_differently() -> None:
    court = host_court()
    court.sees(100, host=meminfo(100))
    three = survey("/", [LEAK, SMALL], [cgroup("/fourth.service", 45)])
    assert court.sees(105, host=meminfo(100), surveys=(three,)) == ["nominate 1: process 500"]


# -- surveys that do not come --------------------------------------------------------------------------------------


def test_a_survey_that_never_comes_is_asked_for_again_at_a_pace() -> None:
    court = host_court()
    court.sees(100, host=meminfo(40))
    for at in range(101, 2101):
        court.sees(at, host=meminfo(40))
    looks = [a for a in court.said if type(a).__name__ == "Look"]
    assert 5 <= len(looks) <= 25, "neither given up nor in a spin"
    assert "KILL 1" in court.sees(2110, host=meminfo(40), surveys=(survey("/", WORLD),))


def test_a_survey_of_a_target_that_is_gone_by_then_is_nothing() -> None:
    path = "/system.slice/web.service"
    web = TargetId("limited", path)
    court = Court(plan(limit_guard(path)))
    full = cgroup(path, 99, limit=100)
    seen = court.sees(0, appeared=(TargetSeen(web, full),), cgroups=(full,), host=meminfo(500))
    assert seen[-1] == "look heaviest"
    late = survey(path, [process(700, "web", path, 99)], [full], guard="limited")
    assert court.sees(10, vanished=(web,), surveys=(late,)) == ["close #1"]
    assert court.sees(20, surveys=(late,)) == []
    assert not court.state.targets


def test_a_survey_that_comes_after_calm_leaves_nothing_behind() -> None:
    court = host_court(brake=True)
    court.sees(100, host=meminfo(100))
    court.sees(200, host=meminfo(500))
    court.sees(1300, host=meminfo(500))
    assert court.phase == "calm"
    assert court.sees(1310, host=meminfo(500), surveys=(survey("/", WORLD),)) == []


# -- the loop's clock ----------------------------------------------------------------------------------------------


def test_the_deadline_never_stands_still_though_the_facts_do_not_come() -> None:
    """A cgroup whose files cannot be read this turn, a machine not read yet: still no spin."""
    path = "/system.slice/web.service"
    web = TargetId("limited", path)
    court = Court(plan(limit_guard(path), host_guard()))
    full = cgroup(path, 95, limit=100)
    court.sees(0, appeared=(TargetSeen(web, full), TargetSeen(HOST, None)))
    for _ in range(20):
        at = max(court.sleeps_ms, 0)
        court.sees(int(at))
        assert court.sleeps_ms > at
    court.sees(5000, host=meminfo(500))
    assert court.target("host").look_ns > 5000 * MS + START


def test_the_deadline_of_one_at_rest_stands_until_something_is_seen_of_it() -> None:
    """The senses may put it off; a turn for another one's sake does not judge on what was seen long ago."""
    path = "/system.slice/web.service"
    court = Court(plan(limit_guard(path)))
    little = cgroup(path, 10, limit=100)
    court.sees(0, appeared=(TargetSeen(TargetId("limited", path), little),), host=meminfo(500))
    first = court.sleeps_ms
    court.sees(1000, host=meminfo(500))
    assert court.sleeps_ms == first
    court.sees(2000, cgroups=(little,))
    assert court.sleeps_ms > 2000


def test_news_before_the_first_look_is_no_crash() -> None:
    path = "/system.slice/web.service"
    web = TargetId("limited", path)
    court = Court(plan(limit_guard(path)))
    court.sees(0, appeared=(TargetSeen(web, cgroup(path, 10, limit=100)),))
    court.sees(1, host=meminfo(500), stalls=(Stalled(web, 3),))
    assert court.phase == "calm"


def test_guards_that_are_no_longer_in_the_plan_are_let_go() -> None:
    path = "/system.slice/web.service"
    guard = limit_guard(path, tripwire=True)
    court = Court(plan(guard))
    court.sees(0, appeared=(TargetSeen(TargetId("limited", path), cgroup(path, 10, limit=100)),), host=meminfo(500))
    court.plan = plan(host_guard())
    assert court.sees(10, host=meminfo(500)) == ["release 1"]
    assert not court.state.targets


def test_more_clauses_than_before_are_no_crash() -> None:
    court = host_court()
    two = watermark(when(AvailableBelow(share(12))), when(PressureAbove("full", 0.5, "10s")), do=SOFT_STEPS)
    court.plan = plan(replace(host_guard(), soft=two, hard=two))
    court.sees(5, stalls=(Stalled(HOST, 3),))
    assert court.phase == "calm"


# -- several guards ------------------------------------------------------------------------------------------------

WEB = "/system.slice/web.service"
HOG = process(600, "hog", WEB, 390)


def both(host_available: float, current: float, at: int, court: Court, **more: object) -> list[str]:
    return court.sees(at, host=meminfo(host_available), cgroups=(cgroup(WEB, current, limit=400),), **more)


def test_two_guards_that_cover_one_victim_kill_once() -> None:
    court = Court(plan(host_guard(), limit_guard(WEB)))
    target = TargetId("limited", WEB)
    first = cgroup(WEB, 100, limit=400)
    court.sees(0, appeared=(TargetSeen(HOST, None), TargetSeen(target, first)), cgroups=(first,), host=meminfo(500))
    looked = (survey(WEB, [HOG], guard="limited"), survey("/", [HOG, SMALL]))
    both(100, 350, 100, court)
    both(100, 350, 110, court, surveys=looked)
    both(40, 399, 200, court)
    assert [a.target.guard for a in court.said if isinstance(a, Kill)] == ["limited"], "the innermost guard"
    assert court.target("host").phase == "firing"
    for at in range(220, 400, 20):
        both(40, 399, at, court)
    token = court.target("limited").pursuit.victim.token
    other = court.target("host").nominee.token
    both(42, 10, 400, court, gone=(VictimGone(token, 0), VictimGone(other, 0)))
    both(60, 10, 420, court, surveys=(survey("/", [SMALL]),))
    both(430, 10, 440, court)
    assert len([a for a in court.said if isinstance(a, Kill)]) == 1
    assert court.state.counters.kills == 1


def test_the_other_guards_victim_has_its_memory_settle_before_the_machine_takes_another() -> None:
    court = Court(plan(host_guard(), limit_guard(WEB)))
    target = TargetId("limited", WEB)
    first = cgroup(WEB, 100, limit=400)
    court.sees(0, appeared=(TargetSeen(HOST, None), TargetSeen(target, first)), cgroups=(first,), host=meminfo(500))
    both(100, 350, 100, court)
    both(100, 350, 110, court, surveys=(survey(WEB, [HOG], guard="limited"), survey("/", [SMALL])))
    both(40, 399, 200, court)
    token = court.target("limited").pursuit.victim.token
    both(40, 10, 220, court, gone=(VictimGone(token, 0),))
    both(40, 10, 240, court)
    assert court.state.counters.kills == 1, "what just died is not counted as free memory yet"
    both(40, 10, 560, court, surveys=(survey("/", [SMALL]),))
    assert court.state.counters.kills == 2, "but if it stays short, it was not enough"


def test_a_victim_elsewhere_does_not_keep_a_guard_with_its_own_limit_from_acting() -> None:
    """The machine's victim is stuck in a dead NFS mount; web.service must not run into its limit meanwhile."""
    court = Court(plan(host_guard(), limit_guard(WEB)))
    target = TargetId("limited", WEB)
    first = cgroup(WEB, 100, limit=400)
    court.sees(0, appeared=(TargetSeen(HOST, None), TargetSeen(target, first)), cgroups=(first,), host=meminfo(500))
    both(100, 100, 100, court)
    both(100, 100, 110, court, surveys=(survey("/", [LEAK]),))
    both(40, 100, 200, court)
    assert court.target("host").phase == "draining"
    both(40, 350, 300, court)
    both(40, 350, 310, court, surveys=(survey(WEB, [HOG], guard="limited"),))
    both(40, 399, 400, court)
    assert court.target("limited").phase == "draining"


# -- steps ---------------------------------------------------------------------------------------------------------


def test_a_soft_watermark_that_kills_does_so_again_while_it_lasts() -> None:
    soft = watermark(when(AvailableBelow(share(12))), do=(KillStep(),))
    court = host_court(replace(host_guard(), soft=soft, hard=None))
    kills, at = 0, 100
    while at < 21_000:
        state = court.target()
        surveys = (survey("/", [process(at, "again", "/system.slice/again.service", 300)]),) if state.asked else ()
        gone = (VictimGone(state.pursuit.victim.token, 0),) if state.pursuit is not None else ()
        kills += sum(line.startswith("KILL") for line in court.sees(at, host=meminfo(100), surveys=surveys, gone=gone))
        at += 20
    assert 4 <= kills <= 5, "one a cooldown"


def test_a_hard_watermark_that_only_tells_takes_nobody() -> None:
    hard = watermark(when(AvailableBelow(share(5))), do=(NotifyStep(),))
    court = host_court(replace(host_guard(), hard=hard))
    firing(court)
    for at in range(1020, 20_000, 100):
        court.sees(at, host=meminfo(30), surveys=(survey("/", WORLD),))
    assert not [a for a in court.said if isinstance(a, Kill)]
    assert len([a for a in court.said if isinstance(a, Notify) and a.message == "HARD"]) == 1


@pytest.mark.parametrize(("steps", "incidents"), [((NotifyStep(),), 3), ((NotifyStep(), KillStep()), 11)])
def test_a_hard_watermark_that_comes_and_goes_and_ends_nobody_makes_one_incident_a_minute(
    steps: tuple[Step, ...], incidents: int
) -> None:
    guard = replace(host_guard(), soft=None, hard=watermark(when(AvailableBelow(share(5))), do=steps))
    court = host_court(guard)
    for at in range(1000, 151_000, 15_000):
        for later, available in ((0, 40), (500, 600), (2000, 600)):
            surveys = (survey("/", ()),) if court.target().asked else ()
            court.sees(at + later, host=meminfo(available), surveys=surveys)
        assert court.phase == "calm"
    court.sees(160_000, host=meminfo(40))
    opened = [action.incident for action in court.said if isinstance(action, Snapshot)]
    assert opened == list(range(1, incidents + 1))
    assert len([a for a in court.said if isinstance(a, Notify) and a.message == "HARD"]) == incidents


def test_a_step_sets_the_score_of_the_nominee_and_gives_it_back_with_it() -> None:
    steps = (*SOFT_STEPS, SetOomScoreAdjStep(1000, 60 * SECOND))
    court = host_court(replace(host_guard(), soft=watermark(when(AvailableBelow(share(12))), do=steps)))
    court.sees(100, host=meminfo(100))
    assert court.sees(110, host=meminfo(100), surveys=(survey("/", WORLD),)) == [
        "nominate 1: process 500",
        "lease 2: step oom_score_adj /system.slice/leak.service",
    ]
    court.sees(220, host=meminfo(100))
    grown = replace(SMALL, anon_bytes=800 * MIB)
    assert court.sees(230, host=meminfo(100), surveys=(survey("/", [LEAK, grown]),)) == [
        "release 2",
        "dismiss 1",
        "nominate 3: process 501",
        "lease 4: step oom_score_adj /system.slice/small.service",
    ]
    court.sees(300, host=meminfo(500))
    assert court.sees(1400, host=meminfo(500)) == ["release 4", "dismiss 3", "close #1"]


# -- the dead man --------------------------------------------------------------------------------------------------


def struck(token: int, silent_ms: int = 3000) -> Result:
    return Result(token, "Deadman", 0, silent_ms * MS)


def armed(guard: Guard | None = None) -> Court:
    """With a nominee, 500, as token 1."""
    court = host_court(guard)
    court.sees(1000, host=meminfo(100))
    assert court.sees(1010, host=meminfo(100), surveys=(survey("/", WORLD),)) == ["nominate 1: process 500"]
    return court


def test_who_comes_back_after_the_dead_man_has_acted_takes_nobody_else() -> None:
    """Stopped for three seconds; the victim is gone, and what it held has not come back yet."""
    court = armed()
    assert court.sees(4100, host=meminfo(40), results=(struck(1),), gone=(VictimGone(1, 0),)) == [
        "snapshot hard #1",
        "KILL 1 by the dead man",
        "tell KILLED",
        "tell VICTIM_GONE",
        "dismiss 1",
    ]
    told = next(a.text for a in court.said if isinstance(a, Notify) and a.message == "KILLED")
    assert told == (
        "killed leak[500] holding 600.0 MiB; the dead man has acted: we had not turned for 3.0 s, "
        "and the hard watermark held"
    )
    assert (court.phase, court.state.counters.kills) == ("cooling", 1)
    for at in range(4120, 9000, 100):
        assert not [line for line in court.sees(at, host=meminfo(40)) if "KILL" in line]
    assert court.sees(9110, host=meminfo(40)) == ["look heaviest"], "but after the cooldown it was not enough"


def test_a_victim_of_the_dead_man_is_awaited_like_ours() -> None:
    court = armed()
    court.sees(4100, host=meminfo(40), results=(struck(1),))
    assert court.phase == "draining"
    assert court.sees(4200, host=meminfo(30)) == []
    assert court.sees(4300, host=meminfo(600), gone=(VictimGone(1, 0),)) == ["tell VICTIM_GONE", "dismiss 1"]
    assert court.sees(5200, host=meminfo(600)) == []
    assert court.sees(5400, host=meminfo(600)) == ["close #1", "tell CALM"]


def test_it_cannot_end_it_either() -> None:
    court = armed()
    said = court.sees(4100, host=meminfo(40), results=(struck(1), Result(1, "Kill", EPERM)))
    assert said[-3:] == ["tell VICTIM_STUCK", "dismiss 1", "look heaviest"]
    assert court.phase == "firing"


def test_both_took_the_same_one() -> None:
    """SIGKILL was sent, and then we were stopped; or SIGTERM, with a grace that nobody waits for any more."""
    for grace_ms, stage in ((0, "kill"), (60_000, "kill")):
        court = armed(host_guard(hard=5, grace_ms=grace_ms))
        court.sees(1100, host=meminfo(40))
        assert court.phase == "draining"
        assert court.sees(4200, host=meminfo(40), results=(struck(1),)) == ["KILL 1 by the dead man", "tell KILLED"]
        assert court.target().pursuit.stage == stage
        assert court.state.counters.kills == 1


def test_a_busy_core_that_would_take_another_one_yields() -> None:
    """A survey took three seconds. It names another nominee, and in the same turn we signal that: too late."""
    court = armed()
    grown = replace(SMALL, anon_bytes=800 * MIB)
    court.sees(1120, host=meminfo(100))
    said = court.sees(4200, host=meminfo(40), surveys=(survey("/", [LEAK, grown]),))
    assert said[:2] == ["dismiss 1", "nominate 2: process 501"]
    assert "KILL 2" in said
    both = (Result(2, "Kill", EBUSY), struck(1))
    assert court.sees(4201, host=meminfo(40), results=both) == ["KILL 1 by the dead man", "tell KILLED"]
    assert (court.phase, court.state.counters.kills) == ("cooling", 1)
    for at in range(4220, 9100, 100):
        assert not [line for line in court.sees(at, host=meminfo(40)) if "KILL" in line]


def test_the_answer_may_come_a_turn_later() -> None:
    court = armed()
    grown = replace(SMALL, anon_bytes=800 * MIB)
    court.sees(1120, host=meminfo(100))
    court.sees(4200, host=meminfo(40), surveys=(survey("/", [LEAK, grown]),))
    assert court.sees(4201, host=meminfo(40), results=(Result(2, "Kill", EBUSY),)) == []
    assert (court.phase, court.state.counters.kills) == ("cooling", 0)
    assert court.sees(4202, host=meminfo(40), results=(struck(1),)) == ["KILL 1 by the dead man", "tell KILLED"]
    assert (court.phase, court.state.counters.kills) == ("cooling", 1)


def test_it_is_told_though_all_is_calm_by_now() -> None:
    court = armed()
    court.sees(1100, host=meminfo(500))
    court.sees(2200, host=meminfo(500))
    assert court.phase == "calm"
    assert court.sees(2210, host=meminfo(500), results=(struck(1),)) == ["KILL 1 by the dead man", "tell KILLED"]
    assert court.phase == "calm"


def test_cooldown_and_budget_bind_the_dead_man_too() -> None:
    guard = host_guard(budget=Budget(1, 60 * SECOND), cooldown_ms=5000)
    court = armed(guard)
    (first,) = [action for action in court.said if isinstance(action, Nominate)]
    assert first.not_before_ns == 0
    court.sees(1100, host=meminfo(40))
    court.sees(1120, host=meminfo(500), gone=(VictimGone(1, 0),))
    court.sees(2300, host=meminfo(500))
    court.sees(3000, host=meminfo(100))
    court.sees(3010, host=meminfo(100), surveys=(survey("/", [SMALL]),))
    second = [action for action in court.said if isinstance(action, Nominate)][-1]
    assert second.not_before_ns == START + 1100 * MS + 60 * SECOND, "the budget is spent until then"
    unbound = replace(guard, budget=None)
    court = armed(unbound)
    court.sees(1100, host=meminfo(40))
    court.sees(1120, host=meminfo(500), gone=(VictimGone(1, 0),))
    court.sees(2300, host=meminfo(500))
    court.sees(3000, host=meminfo(100))
    court.sees(3010, host=meminfo(100), surveys=(survey("/", [SMALL]),))
    second = [action for action in court.said if isinstance(action, Nominate)][-1]
    assert second.not_before_ns == START + 6100 * MS, "five seconds after the last"


# -- insurance -----------------------------------------------------------------------------------------------------


def insured(*found: ProcessFacts, at_ms: int = 110, guard: Guard | None = None) -> tuple[Court, list[str]]:
    """Armed, with this survey."""
    court = host_court(guard or host_guard(insurance=True))
    court.sees(100, host=meminfo(100))
    return court, court.sees(at_ms, host=meminfo(100), surveys=(survey("/", found or WORLD),))


def test_the_nominee_is_insured_while_armed_and_not_any_longer() -> None:
    """If the kernel is faster after all, it kills the process that we would have killed."""
    court, said = insured()
    assert said == ["nominate 1: process 500", "lease 2: insurance oom_score_adj /system.slice/leak.service"]
    lease = next(action for action in court.said if isinstance(action, Lease))
    assert (lease.pid, lease.start_ticks, lease.value) == (500, LEAK.start_ticks, 1000)
    court.sees(220, host=meminfo(100))
    assert court.sees(230, host=meminfo(100), surveys=(survey("/", WORLD),)) == [], "the same one: nothing to do"
    grown = replace(SMALL, anon_bytes=800 * MIB)
    court.sees(340, host=meminfo(100))
    assert court.sees(350, host=meminfo(100), surveys=(survey("/", [LEAK, grown]),)) == [
        "dismiss 1",
        "nominate 3: process 501",
        "release 2",
        "lease 4: insurance oom_score_adj /system.slice/small.service",
    ]
    court.sees(400, host=meminfo(500))
    assert court.sees(1500, host=meminfo(500)) == ["release 4", "dismiss 3", "close #1"]


def test_insurance_ends_with_its_nominee() -> None:
    court, _ = insured()
    assert "KILL 1" in court.sees(200, host=meminfo(40))
    assert court.sees(220, host=meminfo(40), gone=(VictimGone(1, 0),)) == ["tell VICTIM_GONE", "release 2", "dismiss 1"]
    assert court.target().leases == ()


@pytest.mark.parametrize(
    "guard",
    [
        host_guard(insurance=False),
        host_guard(insurance=True, mode="observe"),
        replace(host_guard(insurance=True), hard=watermark(when(AvailableBelow(share(5))), do=(NotifyStep(),))),
        replace(host_guard(insurance=True), hard=None),
    ],
    ids=["switched off", "observing", "a guard that only tells", "no hard watermark"],
)
def test_who_does_not_kill_insures_nobody(guard: Guard) -> None:
    court, said = insured(guard=guard)
    assert said == ["nominate 1: process 500"]
    assert not [action for action in court.said if isinstance(action, Lease)]


def test_the_policys_own_score_stands() -> None:
    steps = (*SOFT_STEPS, SetOomScoreAdjStep(300, 60 * SECOND))
    soft = watermark(when(AvailableBelow(share(12))), do=steps)
    court, _ = insured(guard=replace(host_guard(insurance=True), soft=soft))
    assert [action.value for action in court.said if isinstance(action, Lease)] == [300]


@pytest.mark.parametrize(("adj", "value"), [(-999, 0), (-1, 0), (0, 1000), (200, 1000), (999, 1000), (1000, 0)])
def test_an_owner_who_asked_the_kernel_to_spare_it_is_heard(adj: int, value: int) -> None:
    court, _ = insured(process(500, "leak", "/system.slice/leak.service", 300, adj=adj))
    assert [action.value for action in court.said if isinstance(action, Lease)] == ([value] if value else [])


def test_of_many_processes_the_largest_few_are_insured() -> None:
    """The kernel takes one at a time; all of a fork bomb would be a lease for each."""
    court = host_court(host_guard(insurance=True))
    court.sees(100, host=meminfo(100))
    crowd = [process(600 + i, "worker", "/system.slice/many.service", 4 + i) for i in range(20)]
    court.sees(110, host=meminfo(100), surveys=(survey("/", crowd),))
    assert [a.pid for a in court.said if isinstance(a, Lease)] == [619, 618, 617, 616]
    court.sees(220, host=meminfo(100))
    # The largest has ended; another one has become the largest. Those that are insured stay so, as long as they live.
    later = [*crowd[:-1], process(700, "worker", "/system.slice/many.service", 90)]
    assert court.sees(230, host=meminfo(100), surveys=(survey("/", later),)) == [
        "release 2",
        "lease 6: insurance oom_score_adj /system.slice/many.service",
    ]
    assert [a.pid for a in court.said if isinstance(a, Lease)][-1] == 700


def test_a_score_that_may_not_be_raised_is_tried_once_an_engagement() -> None:
    court, _ = insured()
    assert court.sees(115, results=(Result(2, "Lease", EPERM),)) == ["release 2"]
    for at in range(220, 1000, 110):
        court.sees(at, host=meminfo(100))
        court.sees(at + 10, host=meminfo(100), surveys=(survey("/", WORLD),))
    assert len([action for action in court.said if isinstance(action, Lease)]) == 1
    court.sees(1100, host=meminfo(500))
    court.sees(2200, host=meminfo(500))
    assert court.phase == "calm"
    court.sees(2300, host=meminfo(100))
    court.sees(2310, host=meminfo(100), surveys=(survey("/", WORLD),))
    assert len([action for action in court.said if isinstance(action, Lease)]) == 2


def test_who_is_killed_in_the_same_turn_needs_no_insurance() -> None:
    court = host_court(replace(host_guard(insurance=True), soft=None))
    court.sees(100, host=meminfo(40))
    said = court.sees(105, host=meminfo(39), surveys=(survey("/", WORLD),))
    assert said == ["nominate 1: process 500", "KILL 1", "reap 1", "tell KILLED"]


def test_set_high_leaves_an_owners_lower_memory_high_alone() -> None:
    hard = watermark(when(MemoryAbove(share(95))), do=(SetHighStep(share(90), 30 * SECOND),))
    court = Court(plan(replace(limit_guard(WEB), soft=None, hard=hard)))
    full = cgroup(WEB, 390, limit=400, high=200)
    court.sees(0, appeared=(TargetSeen(TargetId("limited", WEB), full),), cgroups=(full,), host=meminfo(500))
    assert not [a for a in court.said if isinstance(a, Lease)]


def test_set_high_is_a_lease_that_ends_by_itself() -> None:
    soft = watermark(when(MemoryAbove(share(80))), do=(SetHighStep(share(90), 3 * SECOND),))
    court = Court(plan(replace(limit_guard(WEB), soft=soft)))
    full = cgroup(WEB, 350, limit=400)
    said = court.sees(0, appeared=(TargetSeen(TargetId("limited", WEB), full),), cgroups=(full,), host=meminfo(500))
    assert said == ["lease 1: step memory.high /system.slice/web.service"]
    assert court.sees(2990, cgroups=(full,)) == []
    assert court.sees(3010, cgroups=(full,)) == ["release 1"]


def test_reclaim_by_memory_high_is_such_a_lease_too() -> None:
    """Where there is no memory.reclaim: memory.high at what is left without so much, for that time."""
    soft = watermark(when(MemoryAbove(share(80))), do=(ReclaimStep(Amount(bytes=64 << 20), 3 * SECOND, by_high=True),))
    court = Court(plan(replace(limit_guard(WEB), soft=soft)))
    full = cgroup(WEB, 350, limit=400)
    said = court.sees(0, appeared=(TargetSeen(TargetId("limited", WEB), full),), cgroups=(full,), host=meminfo(500))
    assert [line for line in said if not line.startswith("tell")] == [
        "lease 1: step memory.high /system.slice/web.service"
    ]
    assert [a.value for a in court.said if isinstance(a, Lease)] == [286 << 20]
    assert court.sees(2990, cgroups=(full,)) == []
    assert court.sees(3010, cgroups=(full,)) == ["release 1"]


# -- tripwires -----------------------------------------------------------------------------------------------------


def tripped(**facts: object) -> Court:
    court = Court(plan(limit_guard(WEB, tripwire=True)))
    first = cgroup(WEB, 100, **{"limit": 400, **facts})  # type: ignore[arg-type]
    court.sees(0, appeared=(TargetSeen(TargetId("limited", WEB), first),), cgroups=(first,), host=meminfo(500))
    return court


def wires(court: Court) -> list[tuple[int, int]]:
    return [(a.token, a.value) for a in court.said if isinstance(a, Lease)]


def test_the_tripwire_lies_just_under_the_hard_watermark_in_whole_pages() -> None:
    ((token, value),) = wires(tripped())
    assert token == 1
    assert 370 * MIB < value < 380 * MIB - MIB
    assert value % 4096 == 0


def test_the_tripwire_moves_with_the_limit_as_one_lease() -> None:
    """Released and taken anew it would find its own old value in memory.high, and put that back for ever."""
    court = tripped()
    wider = cgroup(WEB, 100, limit=800, high=wires(court)[0][1] / MIB)
    assert court.sees(1000, cgroups=(wider,)) == ["lease 1: tripwire memory.high /system.slice/web.service"]
    assert wires(court)[1][1] > 750 * MIB
    narrower = cgroup(WEB, 100, limit=200, high=wires(court)[1][1] / MIB)
    court.sees(2000, cgroups=(narrower,))
    assert wires(court)[2][1] < 190 * MIB
    assert not [a for a in court.said if isinstance(a, Release)]


def test_the_tripwire_goes_when_the_limit_does() -> None:
    court = tripped()
    assert court.sees(1000, cgroups=(cgroup(WEB, 100),)) == ["release 1"]


def test_the_tripwire_goes_with_the_cgroup() -> None:
    assert tripped().sees(1000, vanished=(TargetId("limited", WEB),)) == ["release 1"]


def test_an_owners_own_lower_memory_high_is_left_alone() -> None:
    assert wires(tripped(high=300)) == []


def test_an_owners_higher_memory_high_is_undercut() -> None:
    assert len(wires(tripped(high=399))) == 1


def test_no_tripwire_in_observe_mode() -> None:
    court = Court(plan(limit_guard(WEB, tripwire=True, mode="observe")))
    first = cgroup(WEB, 100, limit=400)
    court.sees(0, appeared=(TargetSeen(TargetId("limited", WEB), first),), cgroups=(first,), host=meminfo(500))
    assert wires(court) == []


def test_no_tripwire_that_could_never_trip() -> None:
    """A limit over the machine's memory: the machine is what runs out, and deadlines have to stay short for it."""
    assert wires(tripped(limit=64_000)) == []


def test_no_tripwire_on_ourselves() -> None:
    court = Court(plan(limit_guard(WEB, tripwire=True)), own_cgroup=WEB)
    first = cgroup(WEB, 100, limit=400)
    court.sees(0, appeared=(TargetSeen(TargetId("limited", WEB), first),), cgroups=(first,), host=meminfo(500))
    assert wires(court) == []


def test_a_tripwire_that_could_not_be_laid_is_not_relied_upon() -> None:
    """The write failed: from now on deadlines have to do what the kernel would have done."""
    court, without = tripped(), Court(plan(limit_guard(WEB)))
    near = cgroup(WEB, 300, limit=400)
    without.sees(0, appeared=(TargetSeen(TargetId("limited", WEB), near),), cgroups=(near,), host=meminfo(500))
    assert court.sees(500, results=(Result(1, "Lease", EPERM),)) == ["release 1"]
    court.sees(1000, cgroups=(near,))
    assert court.sleeps_ms - 1000 == without.sleeps_ms
    assert court.target().leases == ()


def test_of_many_tripwires_those_that_found_no_place_are_each_given_up() -> None:
    """In one turn, as when five thousand come at the start and the journal holds a thousand."""
    paths = [f"/web.slice/{number}" for number in range(8)]
    court = Court(plan(limit_guard("/web.slice/*", tripwire=True)))
    first = [cgroup(path, 100, limit=400) for path in paths]
    came = tuple(TargetSeen(TargetId("limited", facts.path), facts) for facts in first)
    court.sees(0, appeared=came, cgroups=tuple(first), host=meminfo(500))
    laid = {a.cgroup: a.token for a in court.said if isinstance(a, Lease)}
    refused = paths[2:7]
    answers = (Result(laid[paths[0]], "Lease", 0), *(Result(laid[path], "Lease", errno.ENOSPC) for path in refused))
    assert court.sees(100, results=answers) == [f"release {laid[path]}" for path in refused]
    held = {target.cgroup: state.leases for target, state in court.state.targets.items()}
    assert {path for path, leases in held.items() if not leases} == set(refused)
    # What answers to the giving up, and to what nobody holds, changes nothing.
    assert court.sees(200, results=tuple(Result(laid[path], "Release", ESRCH) for path in refused)) == []
    assert {target.cgroup: state.leases for target, state in court.state.targets.items()} == held


def test_a_cgroup_made_anew_under_the_same_path_is_a_new_target() -> None:
    court = tripped()
    court.sees(500, cgroups=(cgroup(WEB, 350, limit=400),))
    assert court.phase == "armed"
    anew = cgroup(WEB, 10, limit=400, inode=77)
    assert court.sees(1000, cgroups=(anew,)) == [
        "release 1",
        "close #1",
        "lease 2: tripwire memory.high /system.slice/web.service",
    ]
    assert court.phase == "calm"


def test_a_cgroup_that_appears_twice_leaves_no_lease_behind() -> None:
    court = tripped()
    anew = cgroup(WEB, 10, limit=400, inode=77)
    said = court.sees(1000, appeared=(TargetSeen(TargetId("limited", WEB), anew),), cgroups=(anew,))
    assert said == ["release 1", "lease 2: tripwire memory.high /system.slice/web.service"]


def test_a_service_that_was_killed_whole_and_removed_has_its_end_told() -> None:
    """systemd removes the cgroup at once: its vanishing is the news of the victim's death."""
    court = Court(plan(limit_guard(WEB)))
    web = TargetId("limited", WEB)
    workers = [process(700 + i, "web", WEB, 4) for i in range(99)]
    full = cgroup(WEB, 399, limit=400)
    court.sees(0, appeared=(TargetSeen(web, full),), cgroups=(full,), host=meminfo(500))
    assert "KILL 1" in court.sees(10, cgroups=(full,), surveys=(survey(WEB, workers, [full], guard="limited"),))
    said = court.sees(30, vanished=(web,), gone=(VictimGone(1, 0),))
    assert said == ["tell VICTIM_GONE", "dismiss 1", "close #1"]
    (close,) = (a for a in court.said if isinstance(a, Close))
    assert "the victim is gone" in close.outcome


# -- cache is not use ----------------------------------------------------------------------------------------------


def test_a_reader_full_of_cache_is_never_armed_and_its_events_are_muted() -> None:
    """1.2 GB read over and over under MemoryMax=256M: at the limit all the time, with 1 MB of its own."""
    court = Court(plan(limit_guard(WEB, tripwire=True)))
    first = cgroup(WEB, 256, cache=255, limit=256)
    court.sees(0, appeared=(TargetSeen(TargetId("limited", WEB), first),), cgroups=(first,), host=meminfo(500))
    awake = 0
    at, muted_until = 0, 0
    while at < 60_000:
        at = max(at + 16, muted_until)  # 60 events a second, as measured
        said = court.sees(at, cgroups=(first,), wakes=(Wake("events", WEB),))
        assert [line.split()[0] for line in said] == ["mute"]
        muted_until = int(said[0].split()[1])
        assert court.sleeps_ms > muted_until + 16, "one turn, not one for the deadline as well"
        awake += 1
    assert court.phase == "calm"
    assert awake <= 61, "at most once a second"


def test_events_of_another_cgroup_mute_nobody() -> None:
    court = tripped()
    assert court.sees(500, cgroups=(cgroup(WEB, 200, limit=400),), wakes=(Wake("events", "/other.slice"),)) == []


def test_events_far_below_the_watermark_are_muted_without_memory_stat_too() -> None:
    """An owner's own low memory.high raises events all day; memory.current alone says that nothing is near."""
    court = tripped(limit=900, high=100)
    near = cgroup(WEB, 100, cache=None, limit=900, high=100)
    assert court.sees(500, cgroups=(near,), wakes=(Wake("events", WEB),)) == ["mute 625"]


def test_a_survey_that_was_asked_for_is_not_put_off_by_a_mute() -> None:
    court = tripped(limit=400)
    (muted,) = court.sees(500, cgroups=(cgroup(WEB, 200, limit=400),), wakes=(Wake("events", WEB),))
    assert int(muted.split()[1]) > 550
    assert "look heaviest" in court.sees(550, cgroups=(cgroup(WEB, 340, limit=400),))
    assert court.sleeps_ms == 550


# -- the brake -----------------------------------------------------------------------------------------------------


def test_the_brake_leaves_the_nominee_what_is_left_to_the_hard_watermark() -> None:
    court = host_court(brake=True)
    court.sees(100, host=meminfo(110))
    facts = cgroup("/system.slice/leak.service", 600)
    assert court.sees(110, host=meminfo(100), surveys=(survey("/", WORLD, [facts]),)) == [
        "nominate 1: process 500",
        "lease 2: brake memory.high /system.slice/leak.service",
    ]
    (lease,) = (a for a in court.said if isinstance(a, Lease))
    assert lease.value == 650 * MIB


def test_the_brake_follows_the_nominee_and_goes_with_it() -> None:
    court = host_court(brake=True)
    court.sees(100, host=meminfo(110))
    court.sees(110, host=meminfo(100), surveys=(survey("/", WORLD),))
    court.sees(300, host=meminfo(90))
    grown = replace(SMALL, anon_bytes=800 * MIB)
    assert court.sees(310, host=meminfo(90), surveys=(survey("/", [LEAK, grown]),)) == [
        "dismiss 1",
        "nominate 3: process 501",
        "release 2",
        "lease 4: brake memory.high /system.slice/small.service",
    ]
    court.sees(500, host=meminfo(90))
    said = court.sees(510, host=meminfo(90), surveys=(survey("/", [process(1, "init", "/init.scope")]),))
    assert said == ["dismiss 3", "release 4", "look whole"], "nobody is braked for nothing"


def test_no_brake_on_ourselves_on_slices_and_under_an_owners_own() -> None:
    for own, where, high in (("/a.service", "/a.service", None), ("", "/a.slice", None), ("", "/a.service", 500)):
        court = Court(plan(host_guard(brake=True)), own_cgroup=own)
        court.sees(0, appeared=(TargetSeen(HOST, None),), host=meminfo(100))
        facts = cgroup(where, 600, high=high)
        court.sees(10, host=meminfo(100), surveys=(survey("/", [process(500, "leak", where, 600)], [facts]),))
        assert not [a for a in court.said if isinstance(a, Lease)]


# -- the kernel's killer -------------------------------------------------------------------------------------------


def test_the_kernels_kills_are_recorded_though_we_did_not_act() -> None:
    court = host_court()
    said = court.sees(100, host=meminfo(500), kernel_kills=(KernelKill("/", 1, 4711, "java"),))
    assert said == ["snapshot kernel #1", "tell KERNEL_KILLED"]
    assert "java[4711]" in next(a.text for a in court.said if isinstance(a, Notify))
    assert court.state.counters.kernel_oom_kills == 1
    assert court.sees(61_000, host=meminfo(500)) == ["close #1"]


def test_a_service_that_the_kernel_kills_at_every_start_makes_one_incident() -> None:
    """systemd starts it again, in a new cgroup of the same name; until there is a minute's peace it is one story."""
    web = limit_guard("/system.slice/web.service")
    court, target = Court(plan(web)), TargetId(web.name, web.cgroup)
    said = []
    for start in range(5):
        at_ms = start * 40_000
        facts = cgroup(web.cgroup, 10, limit=100, inode=start + 1)
        said += court.sees(at_ms, appeared=(TargetSeen(target, facts),), host=meminfo(500), cgroups=(facts,))
        said += court.sees(at_ms + 10_000, host=meminfo(500), kernel_kills=(KernelKill(web.cgroup, 1),))
        said += court.sees(at_ms + 10_100, host=meminfo(500), vanished=(target,))
    assert [word for word in said if "#" in word] == ["snapshot kernel #1"] * 5
    assert "close #1" in court.sees(5 * 40_000 + 31_000, host=meminfo(500))
    assert not court.state.struck


def test_a_watermark_after_the_kernels_kill_goes_on_with_its_incident() -> None:
    court = host_court()
    court.sees(100, host=meminfo(500), kernel_kills=(KernelKill("/", 1),))
    assert "snapshot soft #1" in court.sees(5000, host=meminfo(100))
    assert not court.state.struck


def test_the_kernel_was_faster_in_the_middle_of_an_engagement() -> None:
    court = host_court()
    court.sees(100, host=meminfo(100))
    assert court.sees(110, host=meminfo(30), kernel_kills=(KernelKill("/", 1),))[:2] == [
        "snapshot kernel #1",
        "tell KERNEL_KILLED",
    ], "one incident, not two"


# -- the fold ------------------------------------------------------------------------------------------------------


def test_the_same_observation_twice_gives_the_same_answer_from_the_same_state() -> None:
    court = host_court()
    court.sees(100, host=meminfo(100))
    seen = decide_module.Observation(START + 110 * MS, host=meminfo(40), surveys=(survey("/", WORLD),))
    assert decide(court.plan, court.state, seen) == decide(court.plan, court.state, seen)


def test_the_first_deadline_of_a_calm_machine_is_seconds_away() -> None:
    court = host_court(host_guard())
    court.sees(10, host=MemInfo(128 << 30, 100 << 30, 120 << 30, 0, 0))
    assert deadline(court.state) - (START + 10 * MS) == 10 * SECOND


def test_an_amount_without_anything_is_nothing() -> None:
    assert Amount().of(1 << 30) == 0
