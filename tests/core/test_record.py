"""The flight recorder: what is kept, and when its followers are woken."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

from oomguard.core.record import Recorder
from oomguard.judge.state import TargetState
from oomguard.model.codec import from_plain, unpack
from oomguard.model.facts import (
    CgroupFacts,
    MemInfo,
    Observation,
    ProcessFacts,
    Share,
    Survey,
    TargetId,
    VictimGone,
    Wake,
)
from oomguard.model.incident import Turn
from oomguard.model.policy import Daemon, Plan
from oomguard.model.ring import MINUTES_BYTES, Ring
from oomguard.model.verdict import Kill, Look, Notify, Outcome
from oomguard.workers.pool import hush

HOST = TargetId("host", "/")
SECOND = 1_000_000_000
CALM = {HOST: TargetState(HOST)}
ARMED = {HOST: TargetState(HOST, phase="armed")}
KILL = Kill(HOST, 7, "KILL", "")


class Follower:
    """A recorder and one who follows it."""

    def __init__(self, size: int = 2 << 20) -> None:
        self.ring = Ring.create(size)
        self.bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.recorder = Recorder(self.ring, (self.bell,))
        self.position = 0

    def new(self) -> list[Turn | Plan]:
        payloads, self.position, lost = self.ring.read(self.position, 1000)
        assert lost == 0
        return [from_plain(unpack(payload)) for payload in payloads]

    def woken(self) -> bool:
        try:
            os.eventfd_read(self.bell)
        except BlockingIOError:
            return False
        return True


@pytest.fixture
def follower() -> Iterator[Follower]:
    made = Follower()
    yield made
    hush(made.bell)
    os.close(made.bell)


def test_a_glance_is_kept_as_it_is_and_counts_as_the_one_of_its_second(follower: Follower) -> None:
    glance = Observation(10 * SECOND, (Wake("glance"),), MemInfo(100, 50, 60, 0, 0))
    follower.recorder.keep(glance)
    follower.recorder.turn(CALM, CALM, Observation(10 * SECOND + 1), (), ())
    assert follower.new() == [Turn(1, glance, (), ())]
    assert not follower.woken()


def test_in_calm_one_a_second_is_kept_and_nobody_is_woken(follower: Follower) -> None:
    for tenth in range(1, 51):
        follower.recorder.turn(CALM, CALM, Observation(10 * SECOND + tenth * SECOND // 10), (), ())
    turns = follower.new()
    assert [turn.seen.at_ns // (SECOND // 10) for turn in turns if isinstance(turn, Turn)] == [101, 111, 121, 131, 141]
    assert not follower.woken()


def test_every_turn_counts_while_something_goes_on(follower: Follower) -> None:
    host = MemInfo(1, 2, 3, 4, 5)
    for number in range(20):
        follower.recorder.turn(ARMED, ARMED, Observation(SECOND + number, host=host), (), ())
    assert len(follower.new()) == 20
    assert not follower.woken(), "nothing has happened but time"


@pytest.mark.parametrize(
    ("seen", "actions", "woken"),
    [
        (Observation(1), (), False),
        (Observation(1), (Look(HOST, "whole"),), False),
        (Observation(1), (KILL,), True),
        (Observation(1, gone=(VictimGone(7, 1),)), (), True),
    ],
)
def test_who_follows_is_woken_for_news(
    follower: Follower, seen: Observation, actions: tuple[Look | Kill, ...], woken: bool
) -> None:
    outcome = Outcome("Kill", 7, 0, 1)
    follower.recorder.turn(ARMED, ARMED, seen, actions, (outcome,))
    (turn,) = follower.new()
    assert isinstance(turn, Turn)
    assert (turn.seen, turn.actions, turn.outcomes) == (seen, actions, (outcome,))
    assert follower.woken() is woken


def test_nobody_misses_a_calm_of_very_many_cgroups(follower: Follower) -> None:
    seen = Observation(0, cgroups=tuple(CgroupFacts(f"/many.slice/{i}", i, i) for i in range(1000)))
    for second in range(1, 20):
        follower.recorder.turn(CALM, CALM, replace(seen, at_ns=second * SECOND), (), ())
        if follower.woken():
            break
    assert follower.new()[0].number == 1, "all of it is there"
    assert second > 1, "not for each"


def test_phases_that_moved_are_told(follower: Follower) -> None:
    follower.recorder.turn({}, CALM, Observation(1), (), ())
    follower.recorder.turn(CALM, ARMED, Observation(2), (), ())
    follower.recorder.turn(ARMED, ARMED, Observation(3), (), ())
    follower.recorder.turn(ARMED, CALM, Observation(4), (), ())
    turns = [turn for turn in follower.new() if isinstance(turn, Turn)]
    assert [turn.phases for turn in turns] == [
        (("host", "/", "calm"),),
        (("host", "/", "armed"),),
        (),
        (("host", "/", "calm"),),
    ]
    assert [turn.number for turn in turns] == [1, 2, 3, 4]


def test_words_and_plans_are_for_the_followers(follower: Follower) -> None:
    plan = Plan("1", Daemon(), ())
    follower.recorder.plan(plan)
    follower.recorder.say("STARTED", "here I am", 9)
    first, second = follower.new()
    assert first == plan
    assert isinstance(second, Turn)
    assert second.actions == (Notify(TargetId("", ""), "STARTED", "here I am"),)
    assert follower.woken()


def test_a_verdict_over_a_large_machine_is_recorded_all_the_same(follower: Follower) -> None:
    """20,000 processes do not fit into the ring; what was done, and the heaviest, do."""
    processes = tuple(
        ProcessFacts(pid, pid, 1, f"worker {pid}", f"/system.slice/{pid}.service", 0, "S", pid << 20, 0, 0)
        for pid in range(1, 20_001)
    )
    cgroups = tuple(CgroupFacts(f"/system.slice/{pid}.service", pid, pid << 20) for pid in range(1, 4001))
    seen = Observation(1, surveys=(Survey(HOST, "whole", cgroups, processes, 1),))
    follower.recorder.turn(ARMED, ARMED, seen, (KILL,), ())
    (turn,) = follower.new()
    assert isinstance(turn, Turn)
    assert turn.actions == (KILL,)
    kept = turn.seen.surveys[0]
    assert {process.pid for process in kept.processes} == set(range(19_001, 20_001))
    assert {facts.inode for facts in kept.cgroups} == set(range(3001, 4001))
    assert follower.recorder.dropped == 1
    assert follower.woken()


def test_a_ring_too_small_for_anything_but_the_deed() -> None:
    follower = Follower(8192)
    long = "x" * 100
    processes = tuple(ProcessFacts(pid, 1, 1, long, long, 0, "S", pid, 0, 0) for pid in range(5000))
    seen = Observation(1, surveys=(Survey(HOST, "whole", (), processes, 1),))
    follower.recorder.turn(ARMED, ARMED, seen, (KILL,), ())
    (turn,) = follower.new()
    assert isinstance(turn, Turn)
    assert turn.actions == (KILL,)
    assert len(turn.seen.surveys[0].processes) == 10
    follower.recorder.plan(Plan("1" * 3000, Daemon(), ()))
    assert follower.new() == []
    assert follower.recorder.dropped == 2
    os.close(follower.bell)


def test_all_of_the_largest_are_in_the_minutes() -> None:
    """With names as systemd gives them, 32 of them are more than a thin observation has room for."""
    minutes = Ring.create(MINUTES_BYTES)
    recorder = Recorder(Ring.create(1 << 18), (), minutes)
    app = "/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome"
    largest = tuple(Share(f"{app}-{number}.scope", number << 30) for number in range(32))
    for second in range(1, 13):
        guarded = Share("/system.slice/web.service", second)
        shares = (guarded, *largest) if second in (1, 11) else (guarded,)
        recorder.turn(CALM, CALM, Observation(second * SECOND, shares=shares), (), ())
    kept = [from_plain(unpack(payload)).seen for payload in minutes.read(0, 100)[0]]
    assert {share for seen in kept[:4] for share in seen.shares} >= set(largest)
    assert [seen.shares[0].current_bytes for seen in kept] == list(range(1, 13)), "and the guarded in each"
    assert [len(seen.shares) for seen in kept[4:10]] == [1] * 6, "and each once"


def test_what_is_kept_of_calm_is_in_both(follower: Follower) -> None:
    """A thin one as it is; of one that is not thin, what there is room for."""
    minutes = Ring.create(MINUTES_BYTES)
    follower.recorder.minutes = minutes
    host = MemInfo(5, 4, 3, 2, 1)
    many = tuple(Share(f"/system.slice/{'long' * 30}-{number}.service", number) for number in range(64))
    for second, shares in ((1, ()), (2, many), (3, ())):
        follower.recorder.keep(Observation(second * SECOND, (Wake("glance"),), host, shares=shares))
    thin = [from_plain(unpack(payload)).seen for payload in minutes.read(0, 10)[0]]
    assert [(seen.at_ns, seen.host) for seen in thin] == [(second * SECOND, host) for second in (1, 2, 3)]
    assert thin[0].shares == ()
    assert (*thin[1].shares, *thin[2].shares)[: len(thin[1].shares) + 5] == many[: len(thin[1].shares) + 5]
    whole = [turn.seen for turn in follower.new() if isinstance(turn, Turn)]
    assert [len(seen.shares) for seen in whole] == [0, 64, 0]


def test_two_minutes_are_kept_whatever_a_storm_does_to_the_ring() -> None:
    """Thin ones, one a second, of a machine whose cgroups have long names, while turns of 17 kB come all the time."""
    ring, minutes = Ring.create(1 << 18), Ring.create(MINUTES_BYTES)
    recorder = Recorder(ring, (), minutes)
    processes = tuple(ProcessFacts(pid, pid, 1, "worker", "/w.slice", 0, "S", pid << 20, 0, 0) for pid in range(250))
    shares = tuple(Share(f"/system.slice/{'long' * 30}-{number}.service", number << 20) for number in range(64))
    host = MemInfo(1 << 40, 2 << 40, 3 << 40, 4 << 40, 5 << 40)
    for tenth in range(3000):
        at_ns = SECOND + tenth * SECOND // 10
        more = {"shares": shares} if tenth % 10 == 0 else {"surveys": (Survey(HOST, "heaviest", (), processes, 1),)}
        recorder.turn(ARMED, ARMED, Observation(at_ns, host=host, **more), (), ())  # type: ignore[arg-type]
    kept = [from_plain(unpack(payload)) for payload in minutes.read(0, 10_000)[0]]
    seconds = [turn.seen.at_ns // SECOND for turn in kept]
    assert seconds == list(range(seconds[0], 301)), "one a second, and none is missing"
    assert len(seconds) >= 120
    assert all(turn.seen.host == host and not turn.seen.surveys for turn in kept)
    assert all(share in shares for turn in kept for share in turn.seen.shares)
    assert all(turn.seen.shares for turn in kept), "as many as there is room for"
