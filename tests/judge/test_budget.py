"""The budget of the host, and bans: both end, and neither is silent."""

from dataclasses import replace

from oomguard.judge.nominee import BAN_NS
from oomguard.model.facts import Result, TargetId, TargetSeen, VictimGone
from oomguard.model.policy import Budget
from oomguard.model.verdict import Kill, Nominate, Notify

from .world import (
    EPERM,
    ESRCH,
    SECOND,
    Court,
    cgroup,
    host_guard,
    limit_guard,
    meminfo,
    plan,
    process,
    survey,
)

HOST = TargetId("host", "/")
ONE = process(70, "one", "/a.service", 500)
TWO = process(71, "two", "/b.service", 400)


def court(budget: Budget | None = None, **more: object) -> Court:
    made = Court(plan(host_guard(cooldown_ms=0), budget=budget))
    made.sees(0, host=meminfo(900), appeared=(TargetSeen(HOST, None),), **more)
    return made


def starve(it: Court, at_ms: int, *processes: object, host: float = 40) -> None:
    """Until somebody is signalled, or is not."""
    it.sees(at_ms, host=meminfo(host))
    it.sees(at_ms + 5, host=meminfo(host), surveys=(survey("/", processes),))  # type: ignore[arg-type]


def kills(it: Court) -> list[int]:
    return [action.token for action in it.said if isinstance(action, Kill)]


def spent(it: Court) -> list[str]:
    return [a.text for a in it.said if isinstance(a, Notify) and a.message == "BUDGET_SPENT"]


def test_the_hosts_budget_binds_all_guards_together() -> None:
    path = "/a.service"
    it = Court(plan(host_guard(cooldown_ms=0), limit_guard(path, cooldown_ms=0), budget=Budget(1, 60 * SECOND)))
    limited = TargetId("limited", path)
    facts = cgroup(path, 10, 0, 100)
    it.sees(0, host=meminfo(900), appeared=(TargetSeen(HOST, None), TargetSeen(limited, facts)))
    it.sees(1000, cgroups=(cgroup(path, 97, 0, 100),))
    it.sees(1005, surveys=(survey(path, [process(70, "one", path, 97)], guard="limited"),))
    (token,) = kills(it)
    it.sees(1100, cgroups=(facts,), gone=(VictimGone(token, 0),))
    starve(it, 3000, TWO)
    assert len(kills(it)) == 1
    assert spent(it) == ["the host's kill budget (1 in 60 s) is spent for another 58 s: nobody is killed"]
    starve(it, 61_100, TWO)
    assert len(kills(it)) == 2, "it is free again"


def test_it_is_said_again_for_as_long_as_it_lasts() -> None:
    it = court(Budget(1, 300 * SECOND))
    starve(it, 1000, ONE)
    it.sees(1100, host=meminfo(40), gone=(VictimGone(kills(it)[0], 0),))
    for at in range(2000, 100_000, 1000):
        starve(it, at, TWO)
    assert len(kills(it)) == 1
    assert len(spent(it)) == 4, "at once, and every 30 s"


def test_whoever_had_ended_by_itself_costs_nothing() -> None:
    it = court(Budget(1, 300 * SECOND))
    starve(it, 1000, ONE)
    it.sees(1100, host=meminfo(40), results=(Result(kills(it)[0], "Kill", ESRCH),))
    assert it.state.spent == ()
    starve(it, 3000, TWO)
    assert len(kills(it)) == 2


def test_the_dead_man_is_told_of_the_hosts_budget() -> None:
    it = court(Budget(1, 60 * SECOND))
    starve(it, 1000, ONE)
    it.sees(1100, host=meminfo(100), gone=(VictimGone(kills(it)[0], 0),))
    starve(it, 2000, TWO, host=100)
    first, second = [action for action in it.said if isinstance(action, Nominate)]
    assert first.not_before_ns == 0
    assert second.not_before_ns == it.state.spent[0] + 60 * SECOND


def test_without_a_budget_nothing_is_remembered() -> None:
    it = court()
    starve(it, 1000, ONE)
    assert it.state.spent == ()


def test_a_ban_ends_and_the_next_is_twice_as_long() -> None:
    """It waited for a server that is back now; or we may signal it by now."""
    it = court()
    starve(it, 1000, ONE)
    it.sees(1010, host=meminfo(40), results=(Result(kills(it)[0], "Kill", EPERM),))
    (ban,) = it.state.stuck
    assert (ban.pid, ban.for_ns) == (70, BAN_NS[0])
    before = len(kills(it))
    starve(it, 31_000, ONE)
    assert len(kills(it)) == before, "nobody else is there, and it is banned"
    starve(it, 1010 + 60_000, ONE)
    assert len(kills(it)) == before + 1
    it.sees(61_050, host=meminfo(40), results=(Result(kills(it)[-1], "Kill", EPERM),))
    (ban,) = it.state.stuck
    assert ban.for_ns == 2 * BAN_NS[0]


def test_bans_are_forgotten_and_never_longer_than_an_hour() -> None:
    it = court()
    at = 1000
    for _ in range(10):
        starve(it, at, ONE)
        it.sees(at + 10, host=meminfo(40), results=(Result(kills(it)[-1], "Kill", EPERM),))
        (ban,) = it.state.stuck
        assert ban.for_ns <= BAN_NS[1]
        at += ban.for_ns // 1_000_000 + 1000
    assert ban.for_ns == BAN_NS[1]
    at += 3 * BAN_NS[1] // 1_000_000
    starve(it, at, TWO)
    it.sees(at + 10, host=meminfo(40), results=(Result(kills(it)[-1], "Kill", EPERM),))
    assert [ban.pid for ban in it.state.stuck] == [71]


def test_of_cgroups_that_are_gone_no_more_is_kept_than_counts() -> None:
    """Jobs whose names never come back, each killed: the core does not remember them for ever."""
    court = Court(plan(limit_guard("/work/*", budget=Budget(1, 60 * SECOND), cooldown_ms=1000)))
    for number in range(20):
        at, path = 1000 + number * 20_000, f"/work/job-{number}"
        job = TargetId("limited", path)
        full = cgroup(path, 99, limit=100, inode=50 + number)
        court.sees(at, appeared=(TargetSeen(job, full),), cgroups=(full,), host=meminfo(500))
        body = survey(path, [process(700 + number, "job", path, 99)], [full], guard="limited")
        court.sees(at + 10, cgroups=(full,), surveys=(body,))
        court.sees(at + 50, vanished=(job,))
    assert court.state.counters.kills == 20
    assert len(court.state.past) == 3


def test_observing_spends_no_budget() -> None:
    it = Court(plan(replace(host_guard(), mode="observe"), budget=Budget(1, 60 * SECOND)))
    it.sees(0, host=meminfo(900), appeared=(TargetSeen(HOST, None),))
    starve(it, 1000, ONE)
    assert kills(it)
    assert it.state.spent == ()
