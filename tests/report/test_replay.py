"""Replay: the same policy rules the same, in every world; another one is compared up to the first kill that differs."""

from __future__ import annotations

import copy
import json
from dataclasses import fields, replace
from typing import Any

import pytest

from oomguard.judge.state import State, TargetState, seed
from oomguard.model.facts import TargetId
from oomguard.model.incident import Seed
from oomguard.model.policy import Budget, Match, VictimRule
from oomguard.model.verdict import Snapshot
from oomguard.report import replay
from tests.incidents.recorded import Recorded
from tests.judge.world import SECOND, Body, host_guard, limit_guard, plan, process

LEAK, POOL = "/system.slice/leak.service", "/system.slice/pool.service"
SSHD = Body(process(20, "sshd", "/system.slice/ssh.service", 8))
DATABASE = Body(process(30, "postgres", "/system.slice/postgresql.service", 300))


def leak(pid: int = 500, held: float = 10, grows: float = 100, **more: Any) -> Body:
    return Body(process(pid, "leak", LEAK, held), grows, **more)


def settled(world: Any) -> bool:
    return bool(world.died) and all(state.phase == "calm" for state in world.state.targets.values())


def ended(*guards: Any, bodies: list[Body], for_ms: float = 120_000, until: Any = settled, **more: Any) -> Recorded:
    world = Recorded(plan(*guards), [copy.deepcopy(body) for body in bodies], **more)
    world.run(for_ms, until)
    return world


WORLDS = {
    "a leak": lambda: ended(host_guard(), bodies=[leak(), SSHD, DATABASE]),
    "with everything lent": lambda: ended(host_guard(brake=True, insurance=True), bodies=[leak(), SSHD, DATABASE]),
    "a grace": lambda: ended(host_guard(grace_ms=2000), bodies=[leak(grows=20, obeys="TERM"), SSHD]),
    "observe": lambda: ended(
        host_guard(mode="observe"), bodies=[leak()], for_ms=8_600, until=lambda w: w.available < 20
    ),
    "a victim that cannot die": lambda: ended(
        host_guard(), bodies=[leak(held=700, grows=5, obeys="nothing"), DATABASE], for_ms=60_000, until=lambda w: False
    ),
    "a budget": lambda: ended(
        host_guard(budget=Budget(1, 300 * SECOND)), bodies=[leak(), leak(501, grows=60)], for_ms=40_000
    ),
    "a tripwire": lambda: ended(limit_guard(LEAK, tripwire=True, insurance=True), bodies=[leak()], limits={LEAK: 256}),
    "two guards at once": lambda: ended(
        limit_guard(LEAK, tripwire=True), host_guard(), bodies=[leak(), leak(600, 500, 60)], limits={LEAK: 256}
    ),
    "many workers": lambda: ended(
        host_guard(), bodies=[Body(process(1000 + i, "w", POOL, 0.1), grows=0.5) for i in range(100)]
    ),
}


@pytest.mark.parametrize("name", WORLDS)
def test_the_same_policy_rules_the_same(name: str) -> None:
    world = WORLDS[name]()
    for target in {TargetId(a.target.guard, a.target.cgroup) for t in world.turns if t.seed for a in t.actions}:
        told = replay.again(world.incident(target))
        assert told.differences == []
        assert told.turns > 1


def test_another_version_may_say_the_same_in_other_words() -> None:
    doc = WORLDS["a leak"]().incident()
    told = json.loads(json.dumps(doc).replace("the heaviest", "what holds most"))
    assert told != doc
    assert replay.again(told).differences == []
    moved = json.loads(json.dumps(doc).replace('"rank": 1', '"rank": 2'))
    assert moved != doc
    assert replay.again(moved).differences[0].now == ("other leases or looks",)


def test_what_the_judge_remembers_is_in_the_seed() -> None:
    """What is new in the judge's memory must be told as well, or it cannot be judged again."""
    left_out = {"counters"}  # numbers for the status
    assert {part.name for part in fields(State)} - {part.name for part in fields(Seed)} == left_out


@pytest.mark.parametrize("more", [{"last_soft_ns": 50 * SECOND}, {"kills": (1,)}, {"rest_ns": 101 * SECOND}])
def test_who_is_calm_but_not_as_new_is_in_the_seed(more: dict[str, Any]) -> None:
    """He has just told of himself, or has killed: an engagement of his during another's incident goes by that."""
    opening, bystander = TargetId("opening", "/"), TargetId("bystander", "/")
    action = (Snapshot(opening, "hard", 1, "low"),)

    def told(state: TargetState) -> int:
        before = State(targets={opening: TargetState(opening), bystander: state})
        found = seed(plan(), before, action, at_ns=100 * SECOND)
        assert found is not None
        return len(found.targets)

    assert told(TargetState(bystander)) == 1
    assert told(TargetState(bystander, last_soft_ns=40 * SECOND, rest_ns=100 * SECOND)) == 1, "that is over"
    assert told(TargetState(bystander, **more)) == 2


def test_a_verdict_that_was_not_ours_is_found() -> None:
    """The replay that finds nothing must be able to find something: a turn of the ring is changed."""
    doc = WORLDS["a leak"]().incident()
    turn = next(turn for turn in doc["ring"] if any(action["kind"] == "Kill" for action in turn["actions"]))
    turn["seen"]["host"]["available_bytes"] *= 10
    found = replay.again(doc)
    assert found.changed
    assert "kill: SIGKILL to leak[500]" in found.differences[0].was
    assert found.differences[0].now == ()


def test_an_incident_without_a_seed_says_so() -> None:
    doc = WORLDS["a leak"]().incident()
    for turn in doc["ring"]:
        del turn["seed"]
    with pytest.raises(replay.CannotReplay, match="did not record with what memory"):
        replay.again(doc)
    with pytest.raises(replay.CannotReplay, match="not in it: lost 3 ring_gaps"):
        replay.again({**doc, "lost": {"ring_gaps": 3}})
    with pytest.raises(replay.CannotReplay, match="holds no turns"):
        replay.again({**doc, "ring": []})
    with pytest.raises(replay.CannotReplay, match="no guard"):
        replay.again({**doc, "policy": ""})


# -- another policy ------------------------------------------------------------------------------------------------


def judged(doc: dict[str, Any], *guards: Any) -> replay.Replay:
    return replay.under(doc, guards)


def test_the_same_policy_as_another_one_changes_nothing() -> None:
    found = judged(WORLDS["a leak"]().incident(), host_guard())
    assert not found.changed
    assert found.was == found.now
    assert found.differences == []


def test_an_earlier_watermark_kills_the_same_one_earlier() -> None:
    found = judged(WORLDS["a leak"]().incident(), host_guard(soft=30, hard=20))
    assert not found.changed, "the same one dies"
    assert found.was is not None
    assert found.now is not None
    assert found.now.at_ms < found.was.at_ms
    assert "a look" in found.part, "nobody had looked so early"


def test_a_lower_watermark_would_have_killed_nobody() -> None:
    """It rose again at the kill, so that the recording never gets there."""
    found = judged(WORLDS["a leak"]().incident(), host_guard(soft=4, hard=1))
    assert found.changed
    assert found.now is None


def test_who_is_never_to_be_taken_is_not() -> None:
    rule = VictimRule(never=(Match(comm="leak*"),))
    found = judged(WORLDS["a leak"]().incident(), host_guard(rule=rule))
    assert found.changed
    assert found.now is not None
    assert found.now.what == "postgres[30]"


def test_another_guard_on_a_cgroup_is_judged_by_what_was_seen_of_it() -> None:
    found = judged(WORLDS["a tripwire"]().incident(), limit_guard("/system.slice/*.service", soft=50, hard=60))
    assert found.now is not None
    assert found.now.what == "leak[500]"


def test_observe_mode_would_have_killed_as_well() -> None:
    found = judged(WORLDS["a leak"]().incident(), replace(host_guard(), mode="observe"))
    assert not found.changed
