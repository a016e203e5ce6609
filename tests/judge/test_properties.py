"""What holds whatever is seen: facts are made up here, contradictory ones too, and the judge is watched."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from oomguard.core.reload import renewed
from oomguard.judge import escalate
from oomguard.judge.decide import begin, decide
from oomguard.judge.desk import TELL_AGAIN_NS
from oomguard.judge.detect import TABLE
from oomguard.judge.glob import is_inside
from oomguard.judge.rank import Bounds, rank, refusal
from oomguard.judge.renew import renew
from oomguard.judge.state import State
from oomguard.model.facts import (
    CgroupFacts,
    KernelKill,
    Observation,
    ProcessFacts,
    Result,
    Stalled,
    Survey,
    TargetId,
    TargetSeen,
    VictimGone,
    Wake,
)
from oomguard.model.policy import (
    Amount,
    Budget,
    FreezeStep,
    Guard,
    KillStep,
    Match,
    Plan,
    ReclaimStep,
    RunStep,
    SetHighStep,
    SetOomScoreAdjStep,
    StallAbove,
    Step,
    TellStep,
    UnitStep,
    VictimRule,
    WaitStep,
)
from oomguard.model.verdict import (
    Action,
    Close,
    Dismiss,
    Kill,
    Lease,
    Look,
    Nominate,
    Notify,
    Release,
    Snapshot,
    Victim,
)

from .world import (
    EPERM,
    ESRCH,
    MIB,
    MS,
    SECOND,
    SOFT_STEPS,
    START,
    cgroup,
    host_guard,
    limit_guard,
    meminfo,
    plan,
    process,
    share,
    watermark,
    when,
)

LEAVES = (
    "/init.scope",
    "/system.slice/db.service",
    "/system.slice/db.service/inner",
    "/system.slice/web.service",
    "/user.slice/user-1000.slice/user@1000.service/app.slice",
    "/user.slice/user-1000.slice/user@1000.service/app.slice/a.scope",
    "/user.slice/user-1000.slice/user@1000.service/app.slice/b.scope/sub",
    "/oomguard.service",
    "/docker/c1",
    "/docker/c1/deep",
    "/",
)
ROOTS = ("/", "/system.slice", "/system.slice/db.service", "/docker/c1", "/user.slice")
COMMS = ("init", "sshd", "worker", "a\nb", ")", "")
OURS = frozenset({5, 6})
EXAMPLES = int(os.environ.get("OOMGUARD_EXAMPLES", "50"))  # for each property; a campaign takes thousands

processes = st.builds(
    process,
    pid=st.integers(1, 30),
    comm=st.sampled_from(COMMS),
    cgroup=st.sampled_from(LEAVES),
    held=st.sampled_from([0, 0.5, 2, 40, 41, 900]),
    ppid=st.integers(0, 30),
    start=st.integers(0, 5),
    adj=st.sampled_from([0, 0, 0, 300, -1000]),
    kernel=st.sampled_from([False, False, False, True]),
    swap=st.sampled_from([0, 0, 70]),
    shmem=st.sampled_from([0, 0, 50]),
    score=st.integers(0, 1333),
)
groups = st.builds(
    cgroup,
    path=st.sampled_from([leaf for leaf in (*LEAVES, "/system.slice", "/user.slice", "/docker") if leaf != "/"]),
    current=st.sampled_from([0, 3, 100, 950]),
    cache=st.sampled_from([None, 0, 3]),
    oom_group=st.sampled_from([False, False, False, True]),
)
matches = st.builds(
    Match,
    comm=st.none() | st.sampled_from(["sshd", "w*", "*"]),
    unit=st.none() | st.sampled_from(["db.service", "*.scope"]),
    cgroup=st.none() | st.sampled_from(["/user.slice/**", "/docker/*", "/system.slice/db.service"]),
).filter(lambda match: match != Match())
some = st.lists(matches, max_size=2).map(tuple)
rules = st.builds(
    VictimRule,
    by=st.sampled_from(["memory", "memory", "oom_score"]),
    take=st.sampled_from(["auto", "auto", "process", "subtree", "cgroup"]),
    never=some,
    avoid=some,
    prefer=some,
)
stuck = st.frozensets(st.tuples(st.integers(1, 30), st.integers(0, 5)), max_size=3)
all_bounds = st.builds(Bounds, st.just(OURS), stuck, st.sampled_from(["", "/oomguard.service"]))


@st.composite
def surveys(draw: st.DrawFn, target: TargetId | None = None) -> Survey:
    target = target or TargetId("host", draw(st.sampled_from(ROOTS)))
    found = draw(st.lists(processes, max_size=14))
    cgroups = draw(st.lists(groups, max_size=5, unique_by=lambda facts: facts.path))
    return Survey(
        target, draw(st.sampled_from(["heaviest", "whole"])), tuple(cgroups), tuple(found), draw(st.just(2 * MS))
    )


# -- ranking -------------------------------------------------------------------------------------------------------


def meant(victim: Victim, survey: Survey) -> Iterable[ProcessFacts]:
    """Whoever of the survey would die: by name, or by living below a cgroup that is killed whole."""
    by_name = {(p.pid, p.start_ticks) for p in victim.processes}
    for one in survey.processes:
        inside = victim.take == "cgroup" and is_inside(one.cgroup, victim.cgroup)
        if inside or (victim.take != "cgroup" and (one.pid, one.start_ticks) in by_name):
            yield one


def distinct(survey: Survey) -> bool:
    """No pid twice. Of one that is read twice the later reading counts, which a check by pid cannot tell."""
    return len({p.pid for p in survey.processes}) == len(survey.processes)


@given(rules, surveys(), all_bounds)
@settings(max_examples=6 * EXAMPLES, deadline=None)
def test_nobody_that_must_live_is_ever_in_a_victim(rule: VictimRule, survey: Survey, bounds: Bounds) -> None:
    assume(distinct(survey))
    victims, _ = rank(rule, survey, bounds)
    for victim in victims:
        for one in meant(victim, survey):
            assert not refusal(one, rule, bounds), victim
            assert one.pid != 1
            assert not one.kernel_thread
            assert one.oom_score_adj > -1000
            assert one.pid not in OURS
        if bounds.own_cgroup:
            assert victim.take != "cgroup" or not is_inside(bounds.own_cgroup, victim.cgroup)


@given(rules, surveys(), all_bounds)
@settings(max_examples=EXAMPLES, deadline=None)
def test_a_victim_is_somebody_below_the_guard(rule: VictimRule, survey: Survey, bounds: Bounds) -> None:
    victims, ranking = rank(rule, survey, bounds)
    for victim in victims:
        assert victim.processes
        assert victim.count >= len(victim.processes)
        assert victim.token == 0
        assert is_inside(victim.cgroup, survey.target.cgroup)
        assert all(is_inside(p.cgroup, survey.target.cgroup) for p in victim.processes)
        assert len({p.pid for p in victim.processes}) == len(victim.processes)
        assert victim.take != "process" or victim.count == 1
    assert bool(victims) == any(candidate.rank for candidate in ranking.candidates)
    assert all(candidate.why for candidate in ranking.candidates)
    ranks = [candidate.rank for candidate in ranking.candidates if candidate.rank]
    assert ranks == list(range(1, len(ranks) + 1))


@given(rules, surveys(), all_bounds, st.randoms())
@settings(max_examples=2 * EXAMPLES, deadline=None)
def test_the_verdict_does_not_depend_on_the_order_of_reading(
    rule: VictimRule, survey: Survey, bounds: Bounds, dice: object
) -> None:
    assume(distinct(survey))
    shuffled = [list(survey.processes), list(survey.cgroups)]
    for items in shuffled:
        dice.shuffle(items)  # type: ignore[attr-defined]
    other = replace(survey, processes=tuple(shuffled[0]), cgroups=tuple(shuffled[1]))

    def names(found: tuple[Victim, ...]) -> list[tuple[str, str, frozenset[int]]]:
        return [(v.take, v.cgroup, frozenset(p.pid for p in v.processes)) for v in found]

    assert names(rank(rule, survey, bounds)[0]) == names(rank(rule, other, bounds)[0])


@given(
    st.lists(processes, min_size=1, max_size=14, unique_by=lambda one: one.pid),
    all_bounds,
    st.sampled_from(["auto", "process"]),
    st.data(),
)
@settings(max_examples=4 * EXAMPLES, deadline=None)
def test_holding_more_makes_nobody_safer(
    found: list[ProcessFacts], bounds: Bounds, take: str, data: st.DataObject
) -> None:
    """Who would be taken is still taken, all else equal, when he holds ten times as much."""
    survey = Survey(TargetId("host", "/"), "whole", (), tuple(found), MS)
    rule = VictimRule(take=take)  # type: ignore[arg-type]
    victims, _ = rank(rule, survey, bounds)
    if not victims:
        return
    one = data.draw(st.sampled_from(sorted(meant(victims[0], survey), key=lambda p: p.pid)))
    fatter = replace(one, anon_bytes=one.anon_bytes * 10 + 2000 * MIB)
    after = replace(survey, processes=tuple(fatter if p is one else p for p in survey.processes))
    victims, _ = rank(rule, after, bounds)
    assert (one.pid, one.start_ticks) in {(p.pid, p.start_ticks) for p in meant(victims[0], after)}


# -- deciding ------------------------------------------------------------------------------------------------------

WEB, DB = "/system.slice/web.service", "/system.slice/db.service"
HOST, LIMITED, OTHER = TargetId("host", "/"), TargetId("limited", WEB), TargetId("other", DB)
TARGETS = (HOST, LIMITED, OTHER)
SOFT = (*SOFT_STEPS, SetOomScoreAdjStep(1000, 2 * SECOND), SetHighStep(share(90), 2 * SECOND))


RECLAIM, FREEZE = ReclaimStep(Amount(bytes=64 * MIB), SECOND), FreezeStep(2 * SECOND)
RUN = RunStep(("/bin/true",), "", SECOND)
TELL = TellStep(SECOND)
MORE = (*SOFT, TELL, RECLAIM, WaitStep(400 * MS), FREEZE)


def lists(kill: Step) -> st.SearchStrategy[tuple[Step, ...]]:
    """What hard does: mostly the kill alone, or after something milder; now and then nobody is killed."""
    wait = WaitStep(400 * MS)
    short, long = (RECLAIM, wait), (TELL, RECLAIM, FREEZE, UnitStep("restart"), wait, RUN, wait)
    return st.sampled_from([(kill,), (kill,), (*short, kill), (*long, kill), (*long, FREEZE, kill), (*short, FREEZE)])


@st.composite
def guards(draw: st.DrawFn, guard: Guard) -> Guard:
    soft, hard = guard.soft, guard.hard
    assert soft is not None
    assert hard is not None
    lasting = draw(st.sampled_from([0, 0, 300]))
    stall = StallAbove("full", 1, 500_000, 1)
    kill = KillStep(draw(st.sampled_from([0, 1500])) * MS)
    return replace(
        guard,
        soft=draw(st.sampled_from([None, replace(soft, do=SOFT), watermark(*soft.when, when(stall), do=MORE)])),
        hard=replace(hard, when=(replace(hard.when[0], lasting_ns=lasting * MS),), do=draw(lists(kill))),
        mode=draw(st.sampled_from(["enforce", "enforce", "enforce", "observe"])),
        tripwire=draw(st.booleans()),
        brake=draw(st.booleans()),
        cooldown_ns=draw(st.sampled_from([0, 500, 5000])) * MS,
        budget=draw(st.sampled_from([None, Budget(1, 3 * SECOND), Budget(2, 60 * SECOND)])),
        victim=VictimRule(never=(Match(comm="sshd"),)),
    )


budgets = st.sampled_from([None, None, Budget(1, 3 * SECOND), Budget(2, 60 * SECOND)])
plans = st.builds(
    plan, guards(host_guard()), guards(limit_guard(WEB)), guards(limit_guard(DB, name="other")), budget=budgets
)

# Found by most surveys, so that most stories get as far as a kill.
HOGS = [
    [process(31, "hog", "/hog.service", 950, start=9), process(32, "web", WEB, 80), process(33, "db", DB, 80)],
    [process(34, "web", WEB, 4, start=9), process(35, "web", WEB, 4), process(36, "web", WEB, 4)],
    [],
]
machines = st.sampled_from([48, 40, 118, 60, 24, 5, 130, 500, 900]).map(meminfo)
limited = st.builds(
    cgroup,
    path=st.sampled_from([WEB, DB]),
    current=st.sampled_from([96, 99, 90, 82, 60, 10]),
    cache=st.sampled_from([None, 0, 0, 60]),
    limit=st.sampled_from([100, 100, 100, 200, None]),
    inode=st.sampled_from([0, 0, 0, 0, 9]),
    high=st.sampled_from([None, None, 94, 50]),
)


@st.composite
def happenings(draw: st.DrawFn) -> dict[str, object]:
    """What happens in one turn, without tokens and without what the senses owe: those are filled in by ``play``."""
    return {
        "after_ms": draw(st.sampled_from([20, 1, 5, 100, 400, 1100, 12_000])),
        "host": draw(st.one_of(machines, machines, machines, st.none())),
        "cgroups": tuple(draw(st.lists(limited, max_size=2, unique_by=lambda facts: facts.path))),
        "vanish": draw(st.sampled_from([None, None, None, None, None, None, LIMITED, OTHER, HOST])),
        "appear": draw(st.sampled_from([None, None, None, LIMITED, OTHER, HOST])),
        "stall": draw(st.sampled_from([None, None, None, LIMITED, HOST])),
        "survey": draw(st.sampled_from(["asked", "asked", "asked", "late", "unasked"])),
        "found": [*draw(st.lists(processes, max_size=5, unique_by=lambda one: one.pid)), *draw(st.sampled_from(HOGS))],
        "gone": draw(st.sampled_from(["", "pursued", "", "nominee", "nonsense"])),
        "errno": draw(st.sampled_from([0, 0, 0, ESRCH, EPERM])),
        "what": draw(st.sampled_from(["Kill", "Nominate", "Lease", "Release", "Reclaim", "UnitJob", "Run"])),
        "kernel": draw(st.sampled_from([*[None] * 18, "/", WEB])),
        "events": draw(st.booleans()),
    }


@dataclass
class Turn:
    before: State
    seen: Observation
    actions: tuple[Action, ...]
    after: State


def observation(state: State, at: int, what: dict[str, object]) -> Observation:
    """The happening as the senses would tell it: with the tokens that are out, and the surveys that are owed."""
    known = sorted(state.targets)
    asked = [t for t in known if state.targets[t].asked]
    looked = {"asked": asked, "late": [], "unasked": known}[str(what["survey"])]
    tokens = {
        "pursued": [s.pursuit.victim.token for s in state.targets.values() if s.pursuit],
        "nominee": [s.nominee.token for s in state.targets.values() if s.nominee],
        "nonsense": [4711],
    }
    out = [token for t in known for token in _out(state, t)]
    facts: tuple[CgroupFacts, ...] = what["cgroups"]  # type: ignore[assignment]
    by_path = {one.path: one for one in facts}
    vanish, appear = what["vanish"], what["appear"]
    new = by_path.get(appear.cgroup) if isinstance(appear, TargetId) else None
    found: list[ProcessFacts] = what["found"]  # type: ignore[assignment]
    return Observation(
        at,
        tuple(Wake("events", one.path) for one in facts) if what["events"] else (),
        what["host"],  # type: ignore[arg-type]
        None,
        (TargetSeen(appear, new),)
        if isinstance(appear, TargetId) and (appear not in known or vanish == appear)
        else (),
        (vanish,) if isinstance(vanish, TargetId) else (),
        facts,
        (Stalled(what["stall"], 1),) if isinstance(what["stall"], TargetId) else (),
        tuple(Survey(t, state.targets[t].asked or "whole", facts, tuple(found), 2 * MS) for t in looked),
        tuple(VictimGone(token, at) for token in tokens.get(str(what["gone"]), ())),
        tuple(Result(token, str(what["what"]), int(str(what["errno"]))) for token in out[:1]),
        (KernelKill(str(what["kernel"]), 1),) if what["kernel"] else (),
    )


def _tokens(state: State, target: TargetId) -> list[int]:
    one = state.targets[target]
    return [lease.token for lease in one.leases] + ([one.nominee.token] if one.nominee else [])


def _out(state: State, target: TargetId) -> list[int]:
    """What may still be answered."""
    one = state.targets[target]
    return [*one.soft_climb.tried, *one.hard_climb.tried, *_tokens(state, target)]


def play(policy: Plan, story: list[dict[str, object]], later: Plan | None = None) -> list[Turn]:
    """The fold over a made-up story; in the middle of it ``later`` comes into force."""
    state, at, turns = begin(OURS, "/oomguard.service"), START, []
    first = Observation(at, appeared=tuple(TargetSeen(t, None) for t in TARGETS), host=meminfo(500))
    state, actions = decide(policy, state, first)
    for number, what in enumerate(story):
        at += int(str(what["after_ms"])) * MS
        seen = observation(state, at, what)
        if later is not None and number == len(story) // 2:
            policy, state, seen = reloaded(policy, later, state, seen)
        before = state
        state, actions = decide(policy, before, seen)
        turns.append(Turn(before, seen, actions, state))
    return turns


def reloaded(old: Plan, new: Plan, state: State, seen: Observation) -> tuple[Plan, State, Observation]:
    """As the loop does it, and the senses tell of it."""
    plan, same, changed = renewed(old, new)
    state = renew(state, {g.name: g for g in old.guards}, {g.name: g for g in plan.guards}, changed)
    gone = tuple(target for target in state.targets if target.guard not in same | changed)
    return plan, state, replace(seen, vanished=(*seen.vanished, *gone))


stories = st.lists(happenings(), min_size=1, max_size=30)
thorough = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def every(turns: list[Turn], kind: type) -> list[Action]:
    return [action for turn in turns for action in turn.actions if isinstance(action, kind)]


@given(plans, stories)
@thorough
def test_phases_move_only_as_the_table_says(policy: Plan, story: list[dict[str, object]]) -> None:
    """Several moves may fall into one turn: each of them is one of the table's."""
    near = {(before, after) for (before, _), after in TABLE.items()} | {(phase, phase) for phase, _ in TABLE}
    ways = near
    for _ in range(4):
        ways = ways | {(a, c) for a, b in ways for x, c in near if x == b}
    for turn in play(policy, story):
        for target, state in turn.after.targets.items():
            old = turn.before.targets.get(target)
            if old is not None and not any(new.target == target for new in turn.seen.appeared):
                assert (old.phase, state.phase) in ways
            assert (state.phase == "draining") == (state.pursuit is not None)


@given(plans, stories, st.none() | plans)
@thorough
def test_tokens_are_given_once_and_kills_follow_nominations(
    policy: Plan, story: list[dict[str, object]], later: Plan | None
) -> None:
    given_out: set[int] = set()
    open_tokens: dict[int, Nominate] = {}
    leased: set[int] = set()
    for turn in play(policy, story, later):
        for action in turn.actions:
            match action:
                case Nominate():
                    assert action.victim.token not in given_out
                    given_out.add(action.victim.token)
                    open_tokens[action.victim.token] = action
                case Lease():
                    assert action.token not in given_out or action.token in leased, "a lease moves under its own token"
                    given_out.add(action.token)
                    leased.add(action.token)
                case Kill():
                    assert action.token in open_tokens, "nominated before, and not dismissed since"
                    assert open_tokens[action.token].target == action.target
                case Dismiss():
                    assert action.token in open_tokens
                    del open_tokens[action.token]
                case Release():
                    assert action.token in leased
                    leased.remove(action.token)
                case _:
                    pass
        held = {token for state in turn.after.targets.values() for token in _tokens(turn.after, state.id)}
        assert held == leased | set(open_tokens), "what is open is what is remembered"


@given(plans, stories)
@thorough
def test_a_list_is_climbed_and_never_back_before_calm(policy: Plan, story: list[dict[str, object]]) -> None:
    """But for its last part, which is done again while its watermark holds."""
    lists = {guard.name: (guard.soft, guard.hard) for guard in policy.guards}
    for turn in play(policy, story):
        for target, state in turn.after.targets.items():
            old = turn.before.targets.get(target)
            if old is None or any(new.target == target for new in turn.seen.appeared) or state.phase == "calm":
                continue
            if old.facts is not None and state.facts is not None and old.facts.inode != state.facts.inode:
                continue  # another directory under the same path: all begins anew
            climbs = ((old.soft_climb, state.soft_climb), (old.hard_climb, state.hard_climb))
            for mark, (before, after) in zip(lists[target.guard], climbs, strict=True):
                steps = mark.do if mark is not None else ()
                again = escalate.again(before, steps).next
                assert after.next >= min(before.next, again) or old.phase == "calm"
                assert after.next <= len(steps)
                if after.stand == "waiting":
                    assert isinstance(steps[after.next - 1], WaitStep)


@given(plans, stories)
@thorough
def test_nothing_is_left_behind_after_calm(policy: Plan, story: list[dict[str, object]]) -> None:
    for turn in play(policy, story):
        for state in turn.after.targets.values():
            if state.phase == "calm":
                assert {lease.purpose for lease in state.leases} <= {"tripwire"}
                assert state.nominee is None
                assert state.incident == 0
        mode = {guard.name: guard.mode for guard in policy.guards}
        assert all(not state.leases or mode[state.id.guard] == "enforce" for state in turn.after.targets.values())


@given(plans, stories)
@thorough
def test_every_incident_is_opened_once_and_closed_once(policy: Plan, story: list[dict[str, object]]) -> None:
    turns = play(policy, story)
    opened: set[int] = set()
    for turn in turns:
        for action in turn.actions:
            if isinstance(action, Snapshot):
                opened.add(action.incident)
            if isinstance(action, Close):
                assert action.incident in opened
    closed = [action.incident for action in every(turns, Close) if isinstance(action, Close)]
    assert len(closed) == len(set(closed))
    still = {state.incident for state in turns[-1].after.targets.values()} - {0}
    still |= {number for number, _ in turns[-1].after.struck.values()}
    assert opened == set(closed) | still
    assert not set(closed) & still


@given(plans, stories)
@thorough
def test_no_victim_is_signalled_twice_but_for_its_grace(policy: Plan, story: list[dict[str, object]]) -> None:
    signals: dict[int, list[str]] = {}
    for action in every(play(policy, story), Kill):
        assert isinstance(action, Kill)
        signals.setdefault(action.token, []).append(action.signal)
    for sent in signals.values():
        assert sent in (["KILL"], ["TERM"], ["TERM", "KILL"])


@given(plans, stories)
@thorough
def test_nobody_that_must_live_is_ever_nominated(policy: Plan, story: list[dict[str, object]]) -> None:
    for turn in play(policy, story):
        for action in turn.actions:
            if isinstance(action, Nominate):
                survey = next(one for one in turn.seen.surveys if one.target == action.target)
                rule = next(guard.victim for guard in policy.guards if guard.name == action.target.guard)
                for one in meant(action.victim, survey):
                    assert not refusal(one, rule, Bounds(OURS, frozenset(), "/oomguard.service"))


@given(plans, stories)
@thorough
def test_the_budget_is_never_exceeded(policy: Plan, story: list[dict[str, object]]) -> None:
    """Counted without those that were met by nobody: their kills are given back."""
    limits = {guard.name: guard.budget for guard in policy.guards if guard.mode == "enforce"}
    when_killed: dict[TargetId, list[int]] = {}
    for turn in play(policy, story):
        before, after = turn.before.counters.kills, turn.after.counters.kills
        if after < before:
            return
        for action in turn.actions:
            if isinstance(action, Kill) and turn.after.targets[action.target].entered_ns == turn.seen.at_ns:
                when_killed.setdefault(action.target, []).append(turn.seen.at_ns)
    all_times = [at for target, times in when_killed.items() if target.guard in limits for at in times]
    checked = [(limits[target.guard], times) for target, times in when_killed.items() if target.guard in limits]
    for budget, times in (*checked, (policy.daemon.budget, all_times)):
        for at in times:
            if budget is not None:
                assert sum(at - budget.per_ns < other <= at for other in times) <= budget.kills


@given(plans, stories)
@thorough
def test_kills_are_counted_where_they_are_made(policy: Plan, story: list[dict[str, object]]) -> None:
    observing = {guard.name for guard in policy.guards if guard.mode == "observe"}
    turns = play(policy, story)
    signalled = {a.token for a in every(turns, Kill) if isinstance(a, Kill) and a.target.guard not in observing}
    assert 0 <= turns[-1].after.counters.kills <= len(signalled)


@given(plans, stories)
@thorough
def test_the_deadline_moves_on_unless_a_survey_is_asked_for(policy: Plan, story: list[dict[str, object]]) -> None:
    for turn in play(policy, story):
        looks = [a.target for a in turn.actions if isinstance(a, Look)]
        for target, state in turn.after.targets.items():
            assert not state.asked or target in looks, "what is awaited was asked for in this very turn"
            at_rest = state.glance_bytes or state.quiet_bytes  # that one's the senses may put off
            if not state.asked and not at_rest:
                assert state.look_ns > turn.seen.at_ns


@given(plans, stories)
@settings(max_examples=EXAMPLES, deadline=None)
def test_deciding_is_a_function(policy: Plan, story: list[dict[str, object]]) -> None:
    for turn in play(policy, story):
        assert decide(policy, turn.before, turn.seen) == (turn.after, turn.actions)


@given(plans, stories)
@thorough
def test_people_are_not_told_the_same_all_the_time(policy: Plan, story: list[dict[str, object]]) -> None:
    told: dict[tuple[TargetId, str], int] = {}
    for turn in play(policy, story):
        for action in turn.actions:
            if isinstance(action, Notify) and action.message in ("NO_VICTIM", "BUDGET_SPENT"):
                last = told.get((action.target, action.message))
                assert last is None or turn.seen.at_ns - last >= TELL_AGAIN_NS
                told[action.target, action.message] = turn.seen.at_ns
            if isinstance(action, Close):
                told = {key: at for key, at in told.items() if key[0] != action.target}


@given(plans, stories)
@thorough
def test_once_all_is_calm_for_a_while_everything_is_given_back(policy: Plan, story: list[dict[str, object]]) -> None:
    """Whatever happened: an hour of plenty ends every engagement, and only tripwires stay."""
    turns = play(policy, story)
    state, at = turns[-1].after, turns[-1].seen.at_ns
    for _ in range(30):
        at += 500 * MS
        facts = tuple(cgroup(path, 10, limit=100, inode=_inode(state, path)) for path in (WEB, DB))
        gone = tuple(VictimGone(s.pursuit.victim.token, at) for s in state.targets.values() if s.pursuit)
        state, _ = decide(policy, state, Observation(at, host=meminfo(900), cgroups=facts, gone=gone))
    for one in state.targets.values():
        assert one.phase == "calm"
        assert one.nominee is None
        assert one.incident == 0
        assert {lease.purpose for lease in one.leases} <= {"tripwire"}


def _inode(state: State, path: str) -> int:
    known = [s.facts.inode for s in state.targets.values() if s.facts is not None and s.facts.path == path]
    return known[0] if known else 0


@given(plans, stories)
@thorough
def test_whatever_happened_a_machine_that_starves_is_acted_upon(policy: Plan, story: list[dict[str, object]]) -> None:
    """Never "it never fired" again: in a minute of starving with a hog in sight it is signalled, or it is said why."""
    turns = play(policy, story)
    state, at = turns[-1].after, turns[-1].seen.at_ns
    hog = process(29, "hog", "/system.slice/hog.service", 900, start=9)
    if HOST not in state.targets:
        state, _ = decide(policy, state, Observation(at, appeared=(TargetSeen(HOST, None),)))
    said: list[Action] = []
    host = next(guard for guard in policy.guards if guard.name == "host")
    if host.mode == "observe":
        return
    for _ in range(3000):
        at += 20 * MS
        looked = tuple(
            Survey(t, s.asked, (cgroup("/system.slice/hog.service", 900),), (hog,), 2 * MS)
            for t, s in state.targets.items()
            if s.asked
        )
        state, actions = decide(policy, state, Observation(at, host=meminfo(20), surveys=looked))
        said += actions
        if any(isinstance(a, Kill) and a.target == HOST for a in said):
            return
    if host.hard is not None and not host.hard.kills:  # as its policy says: what is mild, over and over
        assert any(isinstance(a, Notify) and a.message == "MEASURE" for a in said), said[-5:]
        return
    assert any(isinstance(a, Notify) and a.message == "BUDGET_SPENT" for a in said) or HOST.guard == "", said[-5:]


@given(plans, st.lists(happenings(), min_size=5, max_size=15))
@settings(max_examples=EXAMPLES, deadline=None)
def test_with_plenty_of_memory_nobody_is_killed(policy: Plan, story: list[dict[str, object]]) -> None:
    """With plenty of it nothing is ever signalled, whatever else is told."""
    plenty = [
        {**what, "host": meminfo(900), "cgroups": tuple(replace(one, current_bytes=MIB) for one in what["cgroups"])}  # type: ignore[attr-defined]
        for what in story
    ]
    assert not every(play(policy, plenty), Kill)
