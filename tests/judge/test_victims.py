"""By what measure, how much of it, and whom the tables of a rule describe."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oomguard.judge.match import describes
from oomguard.judge.rank import Bounds, rank
from oomguard.model.facts import CgroupFacts, ProcessFacts, Refaults, Survey, TargetId
from oomguard.model.policy import Match, VictimRule

from .test_properties import all_bounds, distinct, meant, processes, surveys
from .test_rank import first, says
from .world import MIB, cgroup, pressure, process, survey

OLD = "/system.slice/old.service"
NEW = "/system.slice/new.service"
UNITS = [process(100, "old", OLD, 300), process(200, "new", NEW, 200), process(201, "new", NEW, 50, 200)]
A, B, C = "/a.service", "/b.service", "/c.service"
THREE = [process(10, "a", A, 100), process(20, "b", B, 90), process(30, "c", C, 80)]


def told(path: str, current: float, **facts: object) -> CgroupFacts:
    return replace(cgroup(path, current), **facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rule", "cgroups", "expected"),
    [
        (VictimRule(by="oldest"), [], "process old[100]"),
        (VictimRule(by="newest"), [], "process new[200]"),
        (VictimRule(by="newest", take="process"), [], "process new[201]"),
        (VictimRule(by="oldest", take="process"), [], "process old[100]"),
        (VictimRule(by="swap"), [told(OLD, 300), told(NEW, 250, swap_bytes=9)], "process new[200]"),
        (
            VictimRule(by="pressure"),
            [told(OLD, 300, pressure=pressure(full=5)), told(NEW, 250, pressure=pressure(full=6))],
            "process new[200]",
        ),
        (VictimRule(by="pressure"), [], "process old[100]"),  # nobody stalls: by memory
        (VictimRule(by="mix", mix=(("memory", 1), ("newest", 3))), [], "process new[200]"),
        (VictimRule(by="mix", mix=(("memory", 7), ("newest", 1))), [], "process old[100]"),
        (VictimRule(by="oldest", take="unit"), [], f"cgroup {OLD}"),
    ],
)
def test_by_what(rule: VictimRule, cgroups: list[CgroupFacts], expected: str) -> None:
    victim, ranking = first(UNITS, rule, cgroups)
    assert says(victim) == expected
    assert ranking.by == rule.by


def test_who_has_grown_and_who_thrashes_since_the_last_look() -> None:
    groups = [told(path, held, refaults=Refaults(0, 5 * MIB)) for path, held in ((A, 100), (B, 90), (C, 80))]
    seen = survey("/", THREE, groups)
    before = {A: (95 * MIB, 4 * MIB), B: (50 * MIB, 5 * MIB), C: (60 * MIB, 0)}
    for by, expected in (("growth", "process b[20]"), ("refaults", "process c[30]"), ("memory", "process a[10]")):
        (victim, *_), _ = rank(VictimRule(by=by), seen, Bounds(), before)  # type: ignore[arg-type]
        assert says(victim) == expected
        (victim, *_), _ = rank(VictimRule(by=by), seen, Bounds())  # type: ignore[arg-type]
        assert says(victim) == "process a[10]", "the first look knows nothing of before: by memory"
    del before[A]
    (victim, *_), _ = rank(VictimRule(by="growth"), seen, Bounds(), before)
    assert says(victim) == "process a[10]", "one that was not there has grown by all that it has"


# -- users ---------------------------------------------------------------------------------------------------------


def in_session(user: int, name: str) -> str:
    return f"/user.slice/user-{user}.slice/session-{name}.scope"


MANY = [process(1000 + i, "worker", in_session(1000, f"m{i}"), 20) for i in range(40)]  # 800 MiB, none of them large
ONE = [process(50, "editor", in_session(1001, "e"), 300)]
LITTLE = [process(60, "shell", in_session(1002, "s"), 5)]


def test_the_user_with_the_most_over_his_share_pays() -> None:
    """EO 336, 150: forty small ones of one user against the one large program of another."""
    victim, _ = first([*MANY, *ONE, *LITTLE])
    assert says(victim) == "process editor[50]"
    victim, ranking = first([*MANY, *ONE, *LITTLE], VictimRule(by="fair_share"))
    assert victim is not None
    assert victim.processes[0].comm == "worker"
    assert ranking.candidates[0].score == (800 + 300 + 5) * MIB // 3 * -1 + 800 * MIB
    victim, _ = first([*MANY[:5], *ONE, *LITTLE], VictimRule(by="fair_share"))
    assert says(victim) == "process editor[50]"


def test_a_user_alone_and_nobody_are_by_memory() -> None:
    services = [process(5, "web", "/system.slice/web.service", 400)]
    assert says(first([*services, *ONE], VictimRule(by="fair_share"))[0]) == "process web[5]"
    assert says(first([*services, *ONE, *LITTLE], VictimRule(by="fair_share"))[0]) == "process editor[50]"


# -- how much of it ------------------------------------------------------------------------------------------------

TTY = "/user.slice/user-1000.slice/user@1000.service/app.slice/app-terminal.scope"


def job(pid: int, comm: str, held: float, ppid: int, pgid: int, sid: int) -> ProcessFacts:
    return replace(process(pid, comm, TTY, held, ppid), pgid=pgid, sid=sid)


# A terminal with a shell in it, and a build in the shell: make and its compilers are one process group.
BUILD = [
    job(40, "terminal", 60, 1, 40, 40),
    job(41, "bash", 6, 40, 41, 41),
    job(50, "make", 10, 41, 50, 41),
    *(job(51 + i, "cc1plus", 90, 50, 50, 41) for i in range(8)),
    job(70, "less", 3, 41, 70, 41),
]
# An agent that starts its tools without a session of their own.
AGENT = [job(80, "agent", 400, 1, 80, 80), job(81, "sh", 2, 80, 80, 80), job(82, "python3", 5400, 81, 80, 80)]


@pytest.mark.parametrize(
    ("found", "rule", "expected"),
    [
        (BUILD, VictimRule(take="process_group"), {"cc1plus"}),
        (BUILD, VictimRule(take="session"), {"make", "cc1plus", "less"}),
        (BUILD, VictimRule(take="subtree"), {"cc1plus"}),
        (AGENT, VictimRule(take="process_group"), {"sh", "python3"}),
        (AGENT, VictimRule(take="session"), {"sh", "python3"}),
        (AGENT, VictimRule(take="auto"), {"python3"}),
        ([AGENT[0], *BUILD[:2]], VictimRule(take="session"), {"agent"}),  # its leader is what holds the memory
        (BUILD, VictimRule(take="session", never=(Match(comm="make"),)), {"cc1plus", "less"}),
        (BUILD, VictimRule(take="session", by="pressure"), {"make", "cc1plus", "less"}),
        (BUILD, VictimRule(take="process_group", by="newest"), {"less"}),
    ],
)
def test_a_leader_lives_where_its_job_is_the_hog(
    found: list[ProcessFacts], rule: VictimRule, expected: set[str]
) -> None:
    victim, ranking = first(found, rule)
    assert victim is not None
    assert {p.comm for p in victim.processes} == expected
    assert victim.cgroup == TTY
    assert ranking.candidates[0].rank == 1


def test_many_small_ones_of_a_session_do_not_hide_behind_one_that_is_larger() -> None:
    single = replace(process(5, "single", "/x.service", 200), pgid=5, sid=5)
    victim, _ = first([single, *BUILD], VictimRule(take="session"))
    assert victim is not None
    assert victim.take == "session"


def test_of_another_pid_namespace_everybody_stands_for_himself() -> None:
    victim, _ = first([job(5, "a", 300, 1, 0, 0), job(6, "b", 200, 1, 0, 0)], VictimRule(take="session"))
    assert says(victim) == "process a[5]"


def test_cgroup_is_the_smallest_that_holds_most_and_unit_is_all_of_it() -> None:
    unit = "/system.slice/pool.service"
    found = [process(5, "w", f"{unit}/hot", 300), process(6, "w", f"{unit}/cold", 20)]
    assert says(first(found, VictimRule(take="cgroup"))[0]) == f"cgroup {unit}/hot"
    assert says(first(found, VictimRule(take="unit"))[0]) == f"cgroup {unit}"


# -- whom a table describes ----------------------------------------------------------------------------------------

ONE_OF_ALL = replace(process(7, "python3", A, 10, start=1000, adj=300), uid=1000, exe="/usr/bin/python3.11")
NOW = 1000 + 90 * 100  # a minute and a half later


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        (Match(uid=(1000, 1000)), True),
        (Match(uid=(1001, 60_000)), False),
        (Match(comm="python*", uid=(0, 0)), False),
        (Match(exe="/usr/bin/python*"), True),
        (Match(exe="/opt/**"), False),
        (Match(oom_score_adj=(1, 1000)), True),
        (Match(oom_score_adj=(-1000, 299)), False),
        (Match(older_ns=60 * 10**9), True),
        (Match(older_ns=91 * 10**9), False),
        (Match(younger_ns=91 * 10**9), True),
        (Match(younger_ns=60 * 10**9), False),
        (Match(older_ns=60 * 10**9, younger_ns=100 * 10**9, unit="a.service"), True),
    ],
)
def test_a_process(match: Match, expected: bool) -> None:
    assert describes(match, A, ONE_OF_ALL, NOW) is expected
    assert not describes(match, A), "a cgroup as a whole has no owner, file or age"


def test_what_cannot_be_told_spares() -> None:
    """A never that could not be checked must not kill; a prefer that could not be must not either."""
    hidden = replace(process(70, "secret", B, 900), exe=None)
    other = process(71, "other", C, 100)
    for rule in (Match(exe="/opt/**"), Match(older_ns=10**9), Match(comm="secret", exe="/opt/**")):
        assert says(first([hidden, other], VictimRule(never=(rule,)))[0]) in ("process other[71]", "nobody")
        assert says(first([hidden, other], VictimRule(prefer=(rule,)))[0]) == "process secret[70]"
    assert says(first([hidden, other], VictimRule(never=(Match(comm="other", exe="/opt/**"),)))[0]) == (
        "process secret[70]"
    ), "it is not described by the rest of the table"


def test_a_name_is_borrowed_a_user_is_not() -> None:
    """Below his own manager a user may call anything sshd, and a unit of his docker.service."""
    fake = replace(process(70, "sshd", in_session(1000, "x"), 900), uid=1000)
    real = replace(process(71, "sshd", "/system.slice/ssh.service", 100), uid=0)
    by_name, by_owner = (VictimRule(never=(match,)) for match in (Match(comm="sshd"), Match(comm="sshd", uid=(0, 0))))
    assert says(first([fake, real], by_name)[0]) == "nobody"
    assert says(first([fake, real], by_owner)[0]) == "process sshd[70]"


# -- what protects a cgroup ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, "process a[10]"),
        ({"preference": "omit"}, "process b[20]"),
        ({"preference": "avoid"}, "process b[20]"),
        ({"min_bytes": 100 * MIB}, "process b[20]"),
        ({"min_bytes": 99 * MIB}, "process a[10]"),
        ({"low_bytes": 9 * MIB}, "process a[10]"),
        ({"low_bytes": 11 * MIB}, "process b[20]"),
    ],
)
def test_what_the_owner_of_a_cgroup_has_asked_for(more: dict[str, object], expected: str) -> None:
    victim, ranking = first(THREE, VictimRule(), [told(A, 100, **more)])
    assert says(victim) == expected
    assert any("a" in candidate.what for candidate in ranking.candidates), "and it is said why"


def test_preferred_by_its_owner() -> None:
    victim, ranking = first(THREE, VictimRule(), [told(C, 80, preference="prefer")])
    assert says(victim) == "process c[30]"
    assert "oomd_prefer" in ranking.candidates[0].why


@pytest.mark.parametrize("by", ["memory", "oom_score", "swap", "oldest", "pressure", "mix"])
@pytest.mark.parametrize("take", ["process", "process_group", "session", "subtree"])
def test_one_by_one_the_owner_of_its_cgroup_is_heard_too(by: str, take: str) -> None:
    """A quarter, and four times, of whatever is measured; nobody in an omitted one; and it is said why."""
    found = [
        replace(process(10 * i, name, path, held, score=held, swap=held, start=1000 - 100 * i), pgid=i, sid=i)
        for i, (name, path, held) in enumerate((("a", A, 300), ("b", B, 200), ("c", C, 100)), 1)
    ]
    stalls = {A: 30.0, B: 20.0, C: 10.0}

    def who(**words: str) -> str:
        groups = [
            told(path, 300, preference=words.get(name, ""), pressure=pressure(0, stalls[path]))
            for name, path in (("a", A), ("b", B), ("c", C))
        ]
        mix = (("memory", 1), ("swap", 1)) if by == "mix" else ()
        rule = VictimRule(by=by, take=take, mix=mix)  # type: ignore[arg-type]
        victim, ranking = first(found, rule, groups)
        assert victim is not None
        assert any("oomd_" in candidate.why for candidate in ranking.candidates) or not words
        return victim.processes[0].comm

    ages = by == "oldest"
    assert who() == ("c" if ages else "a")
    assert who(a="avoid", c="avoid") == "b"
    assert who(a="omit", c="omit") == "b"
    if not ages:
        assert who(c="prefer") == "c"


def test_inside_of_a_unit_its_parts_are_heard() -> None:
    """Of a service that has made cgroups of its own: the part that is to be avoided, the one that is preferred."""
    parts = [f"{A}/{name}" for name in ("web", "batch", "cache")]
    found = [process(10 + i, part.rpartition("/")[2], part, 100 + i) for i, part in enumerate(parts)]
    for take in ("auto", "process", "cgroup"):
        groups = [told(A, 400), told(parts[2], 102, preference="avoid"), told(parts[1], 101, preference="prefer")]
        victim, _ = first(found, VictimRule(take=take), groups)  # type: ignore[arg-type]
        assert victim is not None
        assert (victim.cgroup, [p.pid for p in victim.processes]) == (parts[1], [11]), take
    heavy = process(20, "other", B, 150)  # all of A hold 303, of which three quarters are to be avoided
    groups = [told(A, 303), told(B, 150), *(told(part, 100, preference="avoid") for part in parts)]
    assert says(first([*found, heavy], VictimRule(), groups)[0]) == "process other[20]"


def test_omitted_is_spared_by_every_rule_and_what_is_above_it_is_not_taken_whole() -> None:
    inner = f"{A}/inner.scope"
    found = [process(10, "a", f"{A}/own", 100), process(11, "i", inner, 500)]
    groups = [told(A, 600), told(inner, 500, preference="omit")]
    for take in ("auto", "process", "session", "unit", "cgroup"):
        victim, _ = first(found, VictimRule(take=take), groups)  # type: ignore[arg-type]
        assert victim is not None
        assert {p.pid for p in victim.processes} == {10}
        assert victim.take != "cgroup" or victim.cgroup == f"{A}/own"


def test_the_guards_own_cgroup_does_not_protect_itself() -> None:
    """A guard of a service ends somebody in it, whatever protects the service from its neighbours."""
    groups = [told(A, 100, min_bytes=200 * MIB, preference="omit")]
    assert says(first(THREE[:1], VictimRule(), groups, root=A)[0]) == "process a[10]"


# -- whatever the rule ---------------------------------------------------------------------------------------------

uids = st.none() | st.sampled_from([(0, 0), (1000, 60_000)])
tables = st.builds(
    Match,
    comm=st.none() | st.sampled_from(["sshd", "w*"]),
    exe=st.none() | st.sampled_from(["/usr/**", "/opt/*"]),
    uid=uids,
    oom_score_adj=st.none() | st.just((1, 1000)),
    older_ns=st.sampled_from([0, 20_000_000]),
    younger_ns=st.sampled_from([0, 0, 40_000_000]),
).filter(lambda match: match != Match())
lists = st.lists(tables, max_size=2).map(tuple)
MEASURES = ["memory", "oom_score", "growth", "swap", "pressure", "refaults", "oldest", "newest", "fair_share", "mix"]
TAKES = ["auto", "process", "process_group", "session", "subtree", "cgroup", "unit"]
rules = st.builds(
    VictimRule,
    by=st.sampled_from(MEASURES),
    take=st.sampled_from(TAKES),
    never=lists,
    avoid=lists,
    prefer=lists,
    mix=st.just((("memory", 3), ("swap", 1), ("oldest", 2))),
)


@st.composite
def looks(draw: st.DrawFn) -> Survey:
    seen = draw(surveys())
    found = tuple(
        replace(
            one,
            uid=draw(st.sampled_from([0, 1000])),
            exe=draw(st.sampled_from([None, "/usr/bin/x", "/opt/y"])),
            pgid=draw(st.integers(0, 5)),
            sid=draw(st.integers(0, 3)),
        )
        for one in seen.processes
    )
    words, least = st.sampled_from(["", "", "omit", "avoid"]), st.sampled_from([0, 0, 1 << 30])
    groups = tuple(replace(one, preference=draw(words), min_bytes=draw(least)) for one in seen.cgroups)
    return replace(seen, processes=found, cgroups=groups, now_ticks=draw(st.sampled_from([0, 6])))


@given(rules, looks(), all_bounds)
@settings(max_examples=300, deadline=None)
def test_who_must_live_lives_whatever_is_measured_and_taken(rule: VictimRule, seen: Survey, bounds: Bounds) -> None:
    if not distinct(seen):
        return
    groups = {facts.path: facts for facts in seen.cgroups}
    victims, ranking = rank(rule, seen, bounds)
    assert all(candidate.why for candidate in ranking.candidates)
    for victim in victims:
        for one in meant(victim, seen):
            assert one.pid != 1
            assert one.pid not in bounds.ours
            assert one.oom_score_adj > -1000
            for match in rule.never:
                assert not describes(match, one.cgroup, one, seen.now_ticks, unknown=True)
            if one.cgroup != seen.target.cgroup:
                known = groups.get(one.cgroup)
                assert known is None or known.preference != "omit"


@given(rules, looks(), all_bounds, st.randoms())
@settings(max_examples=150, deadline=None)
def test_the_order_of_reading_does_not_matter(rule: VictimRule, seen: Survey, bounds: Bounds, dice: object) -> None:
    if not distinct(seen):
        return
    found, groups = list(seen.processes), list(seen.cgroups)
    dice.shuffle(found)  # type: ignore[attr-defined]
    dice.shuffle(groups)  # type: ignore[attr-defined]
    other = replace(seen, processes=tuple(found), cgroups=tuple(groups))
    first_names, names = (
        [(v.take, v.cgroup, frozenset(p.pid for p in v.processes)) for v in rank(rule, one, bounds)[0]]
        for one in (seen, other)
    )
    assert names == first_names


@given(
    st.lists(processes, min_size=1, max_size=12, unique_by=lambda one: one.pid),
    st.sampled_from(["memory", "fair_share", "mix", "growth"]),
    st.data(),
)
@settings(max_examples=150, deadline=None)
def test_holding_more_makes_nobody_safer(found: list[ProcessFacts], by: str, data: st.DataObject) -> None:
    """Of the one who would be taken, and by measures that memory has a part in."""
    rule = VictimRule(by=by, mix=(("memory", 2), ("swap", 1)))  # type: ignore[arg-type]
    seen = Survey(TargetId("host", "/"), "whole", (), tuple(found), 1)
    victims, _ = rank(rule, seen, Bounds())
    if not victims:
        return
    one = data.draw(st.sampled_from(sorted(meant(victims[0], seen), key=lambda p: p.pid)))
    fatter = replace(one, anon_bytes=one.anon_bytes * 10 + 2000 * MIB)
    after = replace(seen, processes=tuple(fatter if p is one else p for p in seen.processes))
    victims, _ = rank(rule, after, Bounds())
    assert one.pid in {p.pid for p in meant(victims[0], after)}
