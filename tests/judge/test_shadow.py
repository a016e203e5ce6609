"""A policy that is only tried out: judged on the same observations, told, scored, and without any effect."""

from dataclasses import replace

import pytest
from hypothesis import given

from oomguard.judge.decide import begin, decide
from oomguard.model.facts import KernelKill, TargetId, TargetSeen, VictimGone
from oomguard.model.policy import SHADOW, Guard, Plan
from oomguard.model.verdict import Action, Close, Kill, Lease, Notify, Release, Score

from .test_properties import OURS, TARGETS, observation, plans, stories, thorough
from .world import MS, START, Court, host_guard, meminfo, plan, process, survey

HOST, TRIED = TargetId("host", "/"), TargetId("shadow:host", "/")
LEAK = process(70, "leak", "/system.slice/web.service", 500)


def shadow(guard: Guard) -> Guard:
    return replace(guard, name=SHADOW + guard.name, mode="shadow")


def court(in_force: Guard, tried: Guard) -> Court:
    made = Court(plan(in_force, shadow(tried)))
    made.sees(0, host=meminfo(900), appeared=(TargetSeen(HOST, None), TargetSeen(TRIED, None)))
    return made


def looks(made: Court, at_ms: int, **facts: object) -> list[str]:
    """A turn, and the one that brings what it has asked for."""
    said = made.sees(at_ms, **facts)
    asked = [target for target, state in made.state.targets.items() if state.asked]
    found = tuple(replace(survey("/", [LEAK]), target=target) for target in asked)
    return said + made.sees(at_ms + 5, surveys=found)


def told(made: Court) -> list[tuple[str, str]]:
    return [(a.target.guard, a.text) for a in made.said if isinstance(a, Notify) and a.message == "SHADOW"]


def test_it_would_have_acted_and_the_policy_in_force_did_not() -> None:
    """An incident of its own, and what became of it."""
    it = court(host_guard(soft=4, hard=2), host_guard(soft=20, hard=10))
    looks(it, 1000, host=meminfo(150))
    assert it.said[-1:] != [], "it has looked"
    said = looks(it, 1100, host=meminfo(90))
    assert [line for line in said if line.startswith(("KILL", "snapshot"))] == ["snapshot hard #-2", "KILL -1"]
    it.sees(2000, host=meminfo(900))
    it.sees(3100, host=meminfo(900))
    (_, first), (_, second) = told(it)
    assert first == "would have killed leak[70] holding 500.0 MiB; the policy in force has not acted"
    assert second == "would have killed leak[70] holding 500.0 MiB; it was over 2.0 s later by itself"
    (close,) = [a for a in it.said if isinstance(a, Close)]
    assert close.target == TRIED
    assert close.score == Score("itself", 2000 * MS, "leak[70] holding 500.0 MiB")


def test_both_act_and_it_is_told_in_the_incident_of_the_policy_in_force() -> None:
    it = court(host_guard(soft=20, hard=10), host_guard(soft=20, hard=8))
    looks(it, 1000, host=meminfo(150))
    it.sees(1100, host=meminfo(90))
    assert [a.target for a in it.said if isinstance(a, Kill)] == [HOST]
    looks(it, 1500, host=meminfo(70))
    assert told(it) == [("host", "shadow:host would have killed leak[70] holding 500.0 MiB")]
    token = next(a.token for a in it.said if isinstance(a, Kill))
    it.sees(1600, host=meminfo(900), gone=(VictimGone(token, 0),))
    it.sees(2700, host=meminfo(900))
    assert not [a for a in it.said if isinstance(a, Close) and a.target == TRIED], "it had no incident of its own"
    assert len(told(it)) == 2


def test_the_kernel_was_faster_than_the_policy_in_force() -> None:
    it = court(host_guard(soft=4, hard=2), host_guard(soft=20, hard=10))
    looks(it, 1000, host=meminfo(90))
    it.sees(4000, host=meminfo(1), kernel_kills=(KernelKill("/", 1, 71, "other"),))
    it.sees(5000, host=meminfo(900))
    it.sees(6100, host=meminfo(900))
    (close,) = [a for a in it.said if isinstance(a, Close) and a.target == TRIED]
    assert close.score == Score("kernel", 2995 * MS, "leak[70] holding 500.0 MiB")
    assert "the kernel's OOM killer ended other[71] 3.0 s later" in close.outcome


def test_the_policy_in_force_came_later() -> None:
    it = court(host_guard(soft=20, hard=5), host_guard(soft=20, hard=10))
    looks(it, 1000, host=meminfo(150))
    looks(it, 1100, host=meminfo(90))
    looks(it, 3105, host=meminfo(40))
    killed = [a for a in it.said if isinstance(a, Kill) and a.target == HOST]
    it.sees(3200, host=meminfo(900), gone=(VictimGone(killed[0].token, 0),))
    it.sees(4300, host=meminfo(900))
    (close,) = [a for a in it.said if isinstance(a, Close) and a.target == TRIED]
    assert close.score is not None
    assert close.score.ended_by == "policy"
    assert "host killed 2.0 s later" in close.outcome


def test_an_observers_verdict_is_scored_as_well() -> None:
    it = Court(plan(host_guard(mode="observe")))
    it.sees(0, host=meminfo(900), appeared=(TargetSeen(HOST, None),))
    it.sees(1000, host=meminfo(100))
    it.sees(1010, surveys=(survey("/", [LEAK]),))
    it.sees(1100, host=meminfo(40))
    it.sees(2100, host=meminfo(900))
    it.sees(3200, host=meminfo(900))
    (close,) = [a for a in it.said if isinstance(a, Close)]
    assert close.score == Score("itself", 2100 * MS, "leak[70] holding 500.0 MiB")


@pytest.mark.parametrize("before_ms", [0, 2000])
def test_a_verdict_is_of_its_engagement(before_ms: int) -> None:
    it = court(host_guard(soft=4, hard=2), host_guard(soft=20, hard=10))
    looks(it, 1000 + before_ms, host=meminfo(90))
    it.sees(4000, host=meminfo(900))
    it.sees(5100, host=meminfo(900))
    assert it.target("shadow:host").verdict is None
    it.sees(6000, host=meminfo(150))
    it.sees(9000, host=meminfo(900))
    it.sees(10_100, host=meminfo(900))
    assert len([a for a in it.said if isinstance(a, Close)]) == 1, "it was only armed"


def shadowed(policy: Plan) -> Plan:
    return replace(policy, guards=(*policy.guards, *(shadow(guard) for guard in policy.guards)))


@given(plans, stories)
@thorough
def test_a_shadow_never_has_an_effect(policy: Plan, story: list[dict[str, object]]) -> None:
    """With it and without it the same is done, to the last token; and what it does itself touches nothing."""
    both = shadowed(policy)
    tried = tuple(target._replace(guard=SHADOW + target.guard) for target in TARGETS)
    alone, beside, at = begin(OURS, "/oomguard.service"), begin(OURS, "/oomguard.service"), START
    first = observation(alone, at, {**FIRST, "host": meminfo(500)})
    seen = replace(first, appeared=tuple(TargetSeen(target, None) for target in TARGETS))
    alone, _ = decide(policy, alone, seen)
    beside, _ = decide(both, beside, replace(seen, appeared=(*seen.appeared, *(TargetSeen(t, None) for t in tried))))
    for what in story:
        at += int(str(what["after_ms"])) * MS
        seen = observation(alone, at, what)
        asked = [target for target in tried if target in beside.targets and beside.targets[target].asked]
        more = tuple(replace(one, target=target) for target in asked for one in seen.surveys[:1])
        alone, was = decide(policy, alone, seen)
        beside, now = decide(both, beside, replace(seen, surveys=(*seen.surveys, *more)))
        assert [a for a in now if not _is_of_shadow(a)] == list(was)
        for action in now:
            assert not (_is_of_shadow(action) and isinstance(action, Lease | Release))
    for target, state in alone.targets.items():
        assert beside.targets[target] == state


FIRST: dict[str, object] = {
    "cgroups": (), "vanish": None, "appear": None, "survey": "late", "found": [], "gone": "", "errno": 0,
    "what": "Kill", "stall": None, "kernel": None, "events": False,
}  # fmt: skip


def _is_of_shadow(action: Action) -> bool:
    return action.target.guard.startswith(SHADOW) or (isinstance(action, Notify) and action.message == "SHADOW")
