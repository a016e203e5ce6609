"""A policy that is changed under a guard: what goes on, what begins anew, and what is put back."""

from dataclasses import replace
from typing import Any

import pytest

from oomguard.core.reload import renewed
from oomguard.judge.renew import renew
from oomguard.model.facts import TargetId, TargetSeen, VictimGone
from oomguard.model.policy import (
    AvailableBelow,
    Budget,
    GrowthAbove,
    Guard,
    KillStep,
    Match,
    MemoryAbove,
    Plan,
    ReclaimStep,
    StallAbove,
    VictimRule,
    WaitStep,
)
from oomguard.model.verdict import Kill, Lease

from .world import (
    MIB,
    MS,
    SOFT_STEPS,
    Court,
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

WEB = "/system.slice/web.service"
HOG, OTHER = process(500, "hog", "/a.service", 300), process(600, "other", "/b.service", 100)
LOOK = (survey("/", [HOG, OTHER]),)


def reload(court: Court, *guards: Guard) -> None:
    """As the loop does it."""
    before = court.plan
    court.plan, _, changed = renewed(before, Plan("test", before.daemon, guards))
    by_name = [{guard.name: guard for guard in made.guards} for made in (before, court.plan)]
    court.state = renew(court.state, by_name[0], by_name[1], changed)


def host_court(guard: Guard) -> Court:
    court = Court(plan(guard))
    court.sees(0, host=meminfo(500), appeared=(TargetSeen(TargetId(guard.name, "/"), None),))
    return court


def armed(guard: Guard) -> Court:
    court = host_court(guard)
    court.sees(100, host=meminfo(110))
    court.sees(105, host=meminfo(100), surveys=LOOK)
    assert (court.phase, court.target().nominee is not None) == ("armed", True)
    return court


def limited(guard: Guard, use: float = 10) -> Court:
    court = Court(plan(guard))
    seen = TargetSeen(TargetId(guard.name, WEB), cgroup(WEB, use, limit=100, inode=7))
    court.sees(0, host=meminfo(900), appeared=(seen,), cgroups=(seen.facts,))
    return court


def test_an_armed_guard_stays_armed_in_the_same_incident_and_names_its_victim_anew() -> None:
    court = armed(host_guard(insurance=True))
    reload(court, host_guard(hard=4, insurance=True))
    said = court.sees(200, host=meminfo(100))
    assert said == ["release 2", "dismiss 1", "look heaviest"]
    assert (court.phase, court.target().incident) == ("armed", 1)
    assert court.sees(205, host=meminfo(100), surveys=LOOK) == [
        "nominate 3: process 500",
        "lease 4: insurance oom_score_adj /a.service",
    ]
    assert court.sees(300, host=meminfo(45)) == [], "4 % by now"
    assert "KILL 3" in court.sees(400, host=meminfo(39))


def test_who_must_live_by_the_new_policy_lives_even_if_it_is_hard_in_the_very_next_turn() -> None:
    court = armed(host_guard())
    reload(court, host_guard(rule=VictimRule(never=(Match(comm="hog"),))))
    court.sees(200, host=meminfo(40))
    court.sees(205, host=meminfo(40), surveys=LOOK)
    (kill,) = [action for action in court.said if isinstance(action, Kill)]
    assert kill.why.startswith("other[600]")


def test_a_victim_that_dies_is_waited_for_and_counted() -> None:
    court = armed(host_guard(cooldown_ms=60_000))
    assert "KILL 1" in court.sees(200, host=meminfo(40))
    reload(court, host_guard(hard=6, budget=Budget(1, 3600 * 10**9), cooldown_ms=60_000))
    assert court.sees(220, host=meminfo(40)) == []
    assert (court.phase, court.state.counters.kills) == ("draining", 1)
    court.sees(240, host=meminfo(40), gone=(VictimGone(1, 0),))
    assert court.phase == "cooling"
    for at in range(260, 1000, 20):
        court.sees(at, host=meminfo(40), surveys=LOOK if court.target().asked else ())
    assert court.state.counters.kills == 1, "the cooldown of that kill holds on"


def test_a_cooldown_that_is_shortened_is_shorter_for_the_last_kill_as_well() -> None:
    court = armed(host_guard(cooldown_ms=60_000))
    court.sees(200, host=meminfo(40))
    for at in (220, 1300):
        court.sees(at, host=meminfo(600), gone=(VictimGone(1, 0),) if at == 220 else ())
    assert court.phase == "calm"
    reload(court, host_guard(cooldown_ms=3000))
    for at in (2000, 2010):
        court.sees(at, host=meminfo(40), surveys=LOOK if court.target().asked else ())
    assert court.state.counters.kills == 1, "it is not over yet"
    for at in (3190, 3200, 3210):
        court.sees(at, host=meminfo(40), surveys=LOOK if court.target().asked else ())
    assert court.state.counters.kills == 2


def test_what_has_held_for_a_while_has_still() -> None:
    """A clause that stands there as it stood, wherever; that of another amount begins."""
    slow = when(AvailableBelow(share(20)), lasting_ms=10_000)
    guard = replace(host_guard(), soft=watermark(slow, do=SOFT_STEPS[:2]))
    for more, after_ms in ((when(MemoryAbove(share(99))), 10_000), (None, 16_000)):
        court = host_court(guard)
        court.sees(100, host=meminfo(150))
        court.sees(6000, host=meminfo(150))
        clauses = (more, slow) if more else (when(AvailableBelow(share(21)), lasting_ms=10_000),)
        reload(court, replace(guard, soft=watermark(*clauses, do=SOFT_STEPS[:2])))
        first = next(at for at in range(6100, 20_000, 100) if court.sees(at, host=meminfo(150)))
        assert first == pytest.approx(after_ms + 100, abs=100)


def test_what_a_condition_has_seen_it_has_seen() -> None:
    grows = GrowthAbove(share(10), 3000 * MS, 0)
    guard = replace(limit_guard(WEB), hard=watermark(when(grows), do=(KillStep(),)))
    court = limited(guard)
    for at in range(500, 3500, 500):
        court.sees(at, host=meminfo(900), cgroups=(cgroup(WEB, 10 + at / 50, limit=1000, inode=7),))
    known = court.target().tracks
    assert known
    assert len(known[0][1]) > 3
    reload(court, replace(guard, cooldown_ns=1, hard=watermark(when(StallAbove("full", 1, 2, 5)), when(grows), do=())))
    court.sees(3500, host=meminfo(900), cgroups=(cgroup(WEB, 80, limit=1000, inode=7),))
    assert court.target().tracks[0][1][:-1] == known[0][1][-len(court.target().tracks[0][1]) + 1 :]


def test_a_tripwire_moves_and_goes_with_the_policy() -> None:
    court = limited(limit_guard(WEB, hard=95, tripwire=True))
    lines = [action.value // MIB for action in court.said if isinstance(action, Lease)]
    reload(court, limit_guard(WEB, hard=90, tripwire=True))
    assert court.sees(100) == [f"lease 1: tripwire memory.high {WEB}"]
    lines += [action.value // MIB for action in court.said[-1:] if isinstance(action, Lease)]
    assert lines == [94, 89]
    reload(court, limit_guard(WEB, hard=90))
    assert court.sees(200) == ["release 1"]
    reload(court, limit_guard(WEB, hard=90, tripwire=True))
    assert court.sees(300) == [f"lease 2: tripwire memory.high {WEB}"]


def test_a_brake_goes_with_the_policy() -> None:
    court = host_court(host_guard(brake=True))
    court.sees(100, host=meminfo(110))
    look = (survey("/", [HOG, OTHER], [cgroup("/a.service", 300, inode=9), cgroup("/b.service", 100, inode=8)]),)
    assert "lease 2: brake memory.high /a.service" in court.sees(105, host=meminfo(100), surveys=look)
    reload(court, host_guard(brake=False))
    court.sees(200, host=meminfo(100))
    assert "release 2" in court.sees(205, host=meminfo(100), surveys=look)


STEPS = (ReclaimStep(share(10), 1000 * MS), WaitStep(5000 * MS), KillStep())


def waiting() -> tuple[Court, Guard]:
    guard = replace(limit_guard(WEB), hard=watermark(when(MemoryAbove(share(95))), do=STEPS))
    court = limited(guard)
    look = (survey(WEB, [process(700, "web", WEB, 96)], guard=guard.name),)
    facts = (cgroup(WEB, 96, limit=100, inode=7),)
    assert any(line.startswith("reclaim") for line in court.sees(100, host=meminfo(900), cgroups=facts))
    court.sees(110, host=meminfo(900), cgroups=facts, surveys=look)
    assert court.target().hard_climb.stand == "waiting"
    return court, guard


@pytest.mark.parametrize(
    ("change", "stand", "next_step"),
    [
        ({"cooldown_ns": 1}, "waiting", 2),
        ({"victim": VictimRule(take="process")}, "waiting", 2),
        ({"hard": watermark(when(MemoryAbove(share(94))), do=STEPS)}, "waiting", 2),
        (
            {"hard": watermark(when(MemoryAbove(share(95))), do=(*STEPS[:2], *STEPS))},
            "waiting",
            2,
        ),
        ({"hard": watermark(when(MemoryAbove(share(95))), do=(WaitStep(1), STEPS[2]))}, "climbing", 0),
    ],
)
def test_how_far_a_list_has_come(change: dict[str, Any], stand: str, next_step: int) -> None:
    court, guard = waiting()
    reload(court, replace(guard, **change))
    climb = court.target().hard_climb
    assert (climb.stand, climb.next) == (stand, next_step)


def test_a_list_without_its_kill_ends_nobody() -> None:
    """Firing for soft's own list, and at once neither soft nor hard may kill."""
    kills = watermark(when(AvailableBelow(share(12))), do=(KillStep(),))
    court = host_court(replace(host_guard(), soft=kills))
    court.sees(100, host=meminfo(40))
    assert court.phase == "firing"
    tells = [watermark(when(AvailableBelow(share(at))), do=SOFT_STEPS[:2]) for at in (12, 5)]
    reload(court, replace(host_guard(), soft=tells[0], hard=tells[1]))
    for at in range(110, 3000, 50):
        court.sees(at, host=meminfo(40), surveys=LOOK)
    assert not [action for action in court.said if isinstance(action, Kill)]


def test_nothing_is_told_twice_and_a_reload_before_the_turn_is_one() -> None:
    court = armed(host_guard())
    reload(court, host_guard(hard=4))
    reload(court, host_guard(hard=3))
    assert court.state.renewed == ("host",)
    court.sees(200, host=meminfo(100))
    assert court.state.renewed == ()
    assert court.sees(210, host=meminfo(100), surveys=LOOK) == ["nominate 2: process 500"]
