"""Who dies, given this tree. The trees are those of the field's complaints; the complaint stands beside each."""

import random
from collections.abc import Iterable

import pytest

from oomguard.judge.match import describes, unit_name, unit_path
from oomguard.judge.rank import (
    MEMBERS,
    Bounds,
    is_corridor,
    is_inside,
    rank,
    refusal,
)
from oomguard.model.facts import CgroupFacts, ProcessFacts
from oomguard.model.policy import Match, VictimRule
from oomguard.model.verdict import Ranking, Victim

from .world import MIB, cgroup, process, survey

SESSION = "/user.slice/user-1000.slice/user@1000.service"
APPS = f"{SESSION}/app.slice"
TERMINAL = f"{APPS}/app-terminal.scope"
DB = "/system.slice/postgresql.service"
CORE_RULES = (
    Match(unit="init.scope"),
    Match(unit="systemd-*.service", cgroup="/system.slice/**"),
    Match(unit="dbus*.service"),
    Match(comm="sshd*"),
)


def first(
    processes: Iterable[ProcessFacts],
    rule: VictimRule = VictimRule(),
    cgroups: Iterable[CgroupFacts] = (),
    root: str = "/",
    bounds: Bounds = Bounds(),
) -> tuple[Victim | None, Ranking]:
    victims, ranking = rank(rule, survey(root, processes, cgroups), bounds)
    return (victims[0] if victims else None), ranking


def says(victim: Victim | None) -> str:
    """``take what``: the cgroup, or the comms and pids that are meant."""
    if victim is None:
        return "nobody"
    if victim.take == "cgroup":
        return f"cgroup {victim.cgroup}"
    return f"{victim.take} {' '.join(f'{p.comm}[{p.pid}]' for p in victim.processes[:4])}"


def many(count: int, first_pid: int, comm: str, path: str, held: float, ppid: int = 1) -> list[ProcessFacts]:
    return [process(first_pid + i, comm, path, held, ppid) for i in range(count)]


# -- the field's history -------------------------------------------------------------------------------------------

WORKERS = many(250, 1000, "worker", "/system.slice/pool.service", 4)
INNOCENT = process(900, "innocent", "/system.slice/innocent.service", 150)
LEAK = process(500, "leak", "/system.slice/leak.service", 2000)

SCOPE_HOG = [
    process(10, "systemd", f"{SESSION}/init.scope", 12),
    process(20, "gnome-shell", f"{SESSION}/session.slice/org.gnome.Shell@wayland.service", 400),
    process(30, "firefox", f"{APPS}/app-firefox.scope", 900),
    process(40, "terminal", TERMINAL, 40),
    process(41, "bash", TERMINAL, 6, 40),
    process(42, "python3", TERMINAL, 5400, 41),
]

# 2,000 processes below one terminal (omarchy 9799): sleeping shells, and one build that holds most.
BUILD = [
    process(40, "terminal", TERMINAL, 40),
    *many(1850, 100, "bash", TERMINAL, 1, 40),
    process(5000, "bash", TERMINAL, 4, 40),
    process(5001, "make", TERMINAL, 10, 5000),
    *many(147, 5002, "cc1plus", TERMINAL, 60, 5001),
]

BROWSER = f"{APPS}/app-chrome.scope"
ELECTRON = [
    process(600, "electron", BROWSER, 180),
    process(601, "electron", BROWSER, 5, 600, adj=300, score=867),
    process(602, "node", f"{APPS}/app-node.scope", 5400, score=890),
]

CONTAINERS = [
    process(3000 + i, f"app{i}", f"/machine.slice/libpod-{i:02d}.scope", 40 + (i == 17)) for i in range(52)
]  # Start9 4010: each below five percent, together the machine

AVOIDED = VictimRule(avoid=(Match(unit="postgresql*.service"),))
LEAKING_DB = [process(800, "postgres", DB, 14_400), process(801, "bystander", "/system.slice/by.service", 5)]

SMALL_DB = [process(800, "postgres", DB, 400), process(801, "hog", "/system.slice/hog.service", 300)]
PREFERRED = VictimRule(prefer=(Match(cgroup="/user.slice/**"),))
USER_AND_SYSTEM = [process(30, "firefox", f"{APPS}/app-firefox.scope", 900), process(70, "java", "/a.service", 1500)]
BYSTANDER = [process(30, "notes", f"{APPS}/app-notes.scope", 5), process(70, "java", "/a.service", 5400)]

SYSTEM = [
    process(1, "systemd", "/init.scope", 700),
    process(2, "kthreadd", "/", 0, 0, kernel=True),
    process(300, "sshd", "/system.slice/ssh.service", 600),
    process(301, "systemd-journal", "/system.slice/systemd-journald.service", 800),
    process(302, "dbus-daemon", "/system.slice/dbus.service", 500),
    process(303, "guarded", "/system.slice/guarded.service", 900, adj=-1000),
    process(304, "hog", "/system.slice/hog.service", 50),
]

TMPFS = [process(70, "cp", "/system.slice/copy.service", 5), process(71, "leak", "/system.slice/leak.service", 2000)]
TMPFS_FACTS = [cgroup("/system.slice/copy.service", 3000, shmem=2990), cgroup("/system.slice/leak.service", 2000)]

CACHE = [
    process(70, "reader", "/system.slice/read.service", 10),
    process(71, "leak", "/system.slice/leak.service", 900),
]
CACHE_FACTS = [cgroup("/system.slice/read.service", 5000, cache=None), cgroup("/system.slice/leak.service", 900)]

GROUP = "/kubepods.slice/pod1.slice"
GROUPED = [
    process(70, "java", f"{GROUP}/cri-a.scope", 900),
    process(71, "sidecar", f"{GROUP}/cri-a.scope", 20, 70),
    process(72, "other", f"{GROUP}/cri-b.scope", 30),
    process(73, "else", "/system.slice/else.service", 300),
]
OOM_GROUP = [cgroup(f"{GROUP}/cri-a.scope", 920, oom_group=True)]
POD_GROUP = [*OOM_GROUP, cgroup(GROUP, 950, oom_group=True)]


@pytest.mark.parametrize(
    ("processes", "rule", "cgroups", "expected"),
    [
        pytest.param(
            [*WORKERS, INNOCENT],
            VictimRule(),
            [],
            "cgroup /system.slice/pool.service",
            id="250 small workers do not hide behind one large innocent: their cgroup goes whole",
        ),
        pytest.param(
            SCOPE_HOG,
            VictimRule(),
            [],
            "process python3[42]",
            id="SD 35270: a hog in one scope of user@1000 never takes the session",
        ),
        pytest.param(
            BUILD,
            VictimRule(),
            [],
            "subtree make[5001] cc1plus[5002] cc1plus[5003] cc1plus[5004]",
            id="omarchy 9799: the build dies, the terminal and its 1,851 shells live",
        ),
        pytest.param(
            ELECTRON,
            VictimRule(),
            [],
            "process node[602]",
            id="EO 103, 261, 344: a 5 MB renderer with adj 300 never dies before a 5.4 GB hog",
        ),
        pytest.param(
            CONTAINERS,
            VictimRule(),
            [],
            "process app17[3017]",
            id="Start9 4010: of 52 containers below 5 % each one is taken; never 'considered, nothing'",
        ),
        pytest.param(
            LEAKING_DB,
            AVOIDED,
            [],
            "process postgres[800]",
            id="EO 103: an avoided database that leaks 90 % is taken before a 5 MB bystander",
        ),
        pytest.param(
            SMALL_DB, AVOIDED, [], "process hog[801]", id="an avoided database that holds a like amount lives"
        ),
        pytest.param(
            SMALL_DB,
            VictimRule(avoid=(Match(comm="postgres"),)),
            [],
            "process hog[801]",
            id="a database that is avoided by its name lives, though it has a unit",
        ),
        pytest.param(
            SMALL_DB,
            VictimRule(prefer=(Match(comm="hog"),)),
            [],
            "process hog[801]",
            id="who is preferred by name is taken, though it has a unit",
        ),
        pytest.param(USER_AND_SYSTEM, PREFERRED, [], "process firefox[30]", id="preferred at a like amount"),
        pytest.param(
            BYSTANDER, PREFERRED, [], "process java[70]", id="EO 261: preferred, but 5 MB against a leak of 5.4 GB"
        ),
        pytest.param(
            SYSTEM, VictimRule(never=CORE_RULES), [], "process hog[304]", id="never sshd, systemd, dbus, pid 1, -1000"
        ),
        pytest.param(
            SYSTEM[:6], VictimRule(never=CORE_RULES), [], "nobody", id="rather nobody than one of those that must live"
        ),
        pytest.param(
            TMPFS, VictimRule(), TMPFS_FACTS, "process leak[71]", id="files in tmpfs are not freed by any death"
        ),
        pytest.param(
            CACHE, VictimRule(), CACHE_FACTS, "process leak[71]", id="cache is not use, though memory.stat was not read"
        ),
        pytest.param(
            GROUPED, VictimRule(), OOM_GROUP, f"cgroup {GROUP}/cri-a.scope", id="memory.oom.group: whole or not at all"
        ),
        pytest.param(
            GROUPED,
            VictimRule(),
            POD_GROUP,
            f"cgroup {GROUP}",
            id="memory.oom.group: the outermost, as the kernel does",
        ),
        pytest.param(
            GROUPED,
            VictimRule(never=(Match(comm="other"),)),
            POD_GROUP,
            "process java[70]",
            id="memory.oom.group further out never takes one that must live",
        ),
    ],
)
def test_the_right_one_dies(
    processes: list[ProcessFacts], rule: VictimRule, cgroups: list[CgroupFacts], expected: str
) -> None:
    victim, ranking = first(processes, rule, cgroups)
    assert says(victim) == expected
    assert ranking.candidates
    assert all(candidate.why for candidate in ranking.candidates)


def test_the_build_dies_complete_with_its_root_first() -> None:
    victim, _ = first(BUILD)
    assert victim is not None
    assert victim.processes[0].comm == "make"
    assert victim.count == len(victim.processes) == 148


def test_a_tree_too_large_to_hold_open_loses_its_root_and_its_largest() -> None:
    """What is signalled one by one is bounded: those that hold the memory count, not those that were found first."""
    shells = many(2 * MEMBERS, 6000, "sh", TERMINAL, 1, 5001)
    jobs = many(200, 9000, "cc1plus", TERMINAL, 60, 5001)
    victim, _ = first([process(40, "terminal", TERMINAL, 900), process(5001, "make", TERMINAL, 10, 40), *shells, *jobs])
    assert victim is not None
    assert victim.take == "subtree"
    assert victim.processes[0].comm == "make"
    assert victim.count == 1 + 2 * MEMBERS + 200
    assert {p.pid for p in jobs} <= {p.pid for p in victim.processes}


# -- a cgroup is taken whole only when all of it may die -----------------------------------------------------------


def test_one_that_must_live_saves_the_cgroup_but_not_the_others_in_it() -> None:
    keeper = process(999, "sshd", "/system.slice/pool.service", 1)
    victim, ranking = first([*WORKERS, keeper], VictimRule(never=CORE_RULES))
    assert victim is not None
    assert victim.take == "subtree"
    assert 999 not in {p.pid for p in victim.processes}
    assert any("must live" in line for line in ranking.descent)


def test_one_that_must_live_saves_the_cgroup_below_a_unit_too() -> None:
    """A guard on a cgroup inside a service: whom it spares counts there, not at the service."""
    inner = "/system.slice/app.service/workers"
    workers = [process(1000 + i, "worker", inner, 4) for i in range(50)]
    victim, _ = first([*workers, process(999, "keeper", inner, 1, adj=-1000)], root=inner)
    assert victim is not None
    assert victim.take != "cgroup"
    assert 999 not in {p.pid for p in victim.processes}


def test_a_session_is_not_taken_for_what_lives_loose_in_it() -> None:
    """Workers straight in app.slice belong to no unit but user@1000.service: that is not theirs to take along."""
    loose = many(50, 2000, "worker", APPS, 40)
    victim, _ = first([*SCOPE_HOG[:4], *loose], cgroups=[cgroup(SESSION, 4000), cgroup(APPS, 3000)])
    assert victim is not None
    assert victim.take != "cgroup"
    assert {p.comm for p in victim.processes} == {"worker"}


def test_one_small_process_loose_in_a_session_does_not_die_for_all_of_it() -> None:
    loose = process(2000, "loose", APPS, 2)
    victim, _ = first([*SCOPE_HOG, loose], cgroups=[cgroup(SESSION, 6800)])
    assert says(victim) == "process python3[42]"


def test_units_that_the_survey_did_not_open_save_the_cgroup_around_them_as_well() -> None:
    """A look at the heaviest lists the processes of three units; the others are there all the same."""
    loose = many(50, 2000, "worker", APPS, 40)
    victim, _ = first(loose, cgroups=[cgroup(SESSION, 2500), cgroup(f"{APPS}/app-editor.scope", 30)])
    assert victim is not None
    assert victim.take != "cgroup"


def test_our_own_cgroup_is_never_inside_a_victim() -> None:
    pool = "/system.slice/pool.service"
    bounds = Bounds(frozenset({7}), frozenset(), f"{pool}/guard")
    ours = [process(7, "oomguard", f"{pool}/guard", 30), process(8, "archiver", f"{pool}/guard", 900, 7)]
    victim, ranking = first([*WORKERS, *ours], bounds=bounds)
    assert victim is not None
    assert victim.take != "cgroup"
    assert not {7, 8} & {p.pid for p in victim.processes}
    assert {c.why for c in ranking.candidates if c.rank == 0} == {"oomguard itself"}
    victim, _ = first(WORKERS, bounds=bounds)
    assert victim is not None
    assert victim.take != "cgroup", "not even where its processes were not listed"


def test_whoever_is_not_below_the_guard_is_not_its_victim() -> None:
    """Between the list of a cgroup's pids and the look at each, one may have moved elsewhere."""
    moved = process(700, "moved", "/system.slice/other.service", 900)
    stays = process(701, "stays", DB, 90)
    victim, _ = first([moved, stays], root=DB)
    assert says(victim) == "process stays[701]"


# -- down to the smallest thing that holds most --------------------------------------------------------------------


def test_down_through_cgroups_trees_and_processes() -> None:
    build = f"{TERMINAL}/build"
    processes = [
        process(40, "terminal", TERMINAL, 40),
        process(50, "ninja", build, 10),
        process(51, "sh", build, 2, 50),
        process(52, "ld", build, 900, 51),
        process(53, "cc", build, 100, 50),
    ]
    victim, ranking = first(processes)
    assert says(victim) == "process ld[52]"
    assert [line.split(":")[0] for line in ranking.descent] == [
        TERMINAL,
        build,
        "ninja[50] and below",
        "sh[51] and below",
        "ld[52]",
    ]


@pytest.mark.parametrize(
    ("take", "expected"),
    [
        ("auto", "process python3[42]"),
        ("process", "process python3[42]"),
        ("subtree", "subtree python3[42] child[43]"),
        ("cgroup", f"cgroup {TERMINAL}"),
    ],
)
def test_what_is_taken_is_what_was_asked_for(take: str, expected: str) -> None:
    rule = VictimRule(take=take)  # type: ignore[arg-type]
    victim, _ = first([*SCOPE_HOG, process(43, "child", TERMINAL, 1, 42)], rule)
    assert says(victim) == expected


def test_a_slice_is_never_taken_whole() -> None:
    victim, _ = first(many(40, 100, "worker", "/user.slice", 30), VictimRule(take="cgroup"), root="/user.slice")
    assert victim is not None
    assert victim.take != "cgroup"


def test_without_units_every_tree_stands_for_itself() -> None:
    """No systemd: everybody lives in the root, and pid 1 is everybody's parent."""
    login = [process(100, "login", "/", 2), process(101, "sh", "/", 2, 100)]
    pool = [process(200, "master", "/", 3), *many(99, 201, "worker", "/", 4, 200)]
    big = [process(400, "innocent", "/", 150)]
    victim, _ = first([process(1, "init", "/", 5, 0), *login, *pool, *big])
    assert victim is not None
    assert victim.take == "subtree"
    assert victim.processes[0].pid == 200
    assert victim.count == 100


def test_those_that_hold_nothing_are_no_help() -> None:
    victim, ranking = first([process(i, "idle", f"/system.slice/i{i}.service", 0.5) for i in range(10, 40)])
    assert victim is None
    assert not [c for c in ranking.candidates if c.rank]


def test_by_oom_score_the_kernels_order_is_ours() -> None:
    processes = [process(10, "a", "/a.service", 900, score=700), process(11, "b", "/b.service", 90, score=800)]
    assert says(first(processes, VictimRule(by="oom_score"))[0]) == "process b[11]"


def test_by_oom_score_whoever_holds_nothing_stays() -> None:
    renderer = process(10, "renderer", "/a.service", 0.5, adj=1000, score=1333)
    assert says(first([renderer, LEAK], VictimRule(by="oom_score"))[0]) == "process leak[500]"


def test_swap_counts_as_held() -> None:
    swapped = process(10, "swapped", "/a.service", 10, swap=900)
    facts = [cgroup("/a.service", 10, swap=900), cgroup("/b.service", 500)]
    assert says(first([swapped, process(11, "b", "/b.service", 500)], cgroups=facts)[0]) == "process swapped[10]"


# -- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (process(1, "init", "/", 900), "pid 1"),
        (process(9, "kswapd0", "/", 0, 2, kernel=True), "kernel thread"),
        (process(7, "oomguard", "/x.service", 30), "oomguard itself"),
        (process(8, "worker", "/x.service", 30, 7), "oomguard itself"),
        (process(12, "x", "/oomguard.service", 30), "oomguard itself"),
        (process(13, "x", "/oomguard.service/sub", 30), "oomguard itself"),
        (process(50, "x", "/x.service", 30, adj=-1000), "oom_score_adj -1000"),
        (process(51, "x", "/x.service", 30, start=99), "was tried before and did not end"),
        (process(52, "sshd-session", "/x.service", 30), 'never: comm = "sshd*"'),
        (process(53, "x", "/x.service", 30), ""),
        (process(51, "x", "/x.service", 30, start=100), ""),
    ],
)
def test_refusals_say_why(one: ProcessFacts, why: str) -> None:
    rule = VictimRule(never=CORE_RULES)
    assert refusal(one, rule, Bounds(frozenset({7}), frozenset({(51, 99)}), "/oomguard.service")) == why


def test_a_never_for_a_cgroup_covers_what_lives_deeper_in_it() -> None:
    """A container makes cgroups of its own inside its own: that does not lift the hand held over it."""
    rule = VictimRule(never=(Match(cgroup="/machine.slice/db.scope"),))
    inside = process(70, "postgres", "/machine.slice/db.scope/payload/init", 900)
    for take in ("auto", "process", "subtree", "cgroup"):
        for by in ("memory", "oom_score"):
            chosen = VictimRule(by, take, rule.never)  # type: ignore[arg-type]
            assert first([inside], chosen)[0] is None, (by, take)


@pytest.mark.parametrize(
    ("match", "comm", "path", "expected"),
    [
        (Match(comm="ssh*"), "sshd", "/a", True),
        (Match(comm="kworker*"), "kworker/0:1", "/a", True),
        (Match(unit="web-*.service"), None, "/system.slice/web-1.service/inner", True),
        (Match(unit="web-*.service"), "x", "/system.slice/db.service", False),
        (Match(cgroup="/user.slice/**"), "x", "/user.slice/a/b", True),
        (Match(cgroup="/user.slice/*"), "x", "/user.slice/a", True),
        (Match(comm="x", unit="a.service"), "x", "/b.service", False),
        (Match(comm="x"), None, "/b.service", False),
    ],
)
def test_matches(match: Match, comm: str | None, path: str, expected: bool) -> None:
    one = None if comm is None else process(7, comm, path)
    assert describes(match, path, one) is expected


# -- hostile facts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("comm", ["", ") R 1 1", "a\nb", "\udcff\udcfe", "*", "**", "?", "[1]", "sshd\x00", "a" * 15])
def test_hostile_names_rank_like_others(comm: str) -> None:
    victim, ranking = first([process(66, comm, "/x.service", 900), INNOCENT], VictimRule(never=CORE_RULES))
    if comm.startswith("sshd"):
        assert says(victim) == "process innocent[900]"
    else:
        assert victim is not None
        assert victim.processes[0].pid == 66
    assert f"{comm}[66]" in {c.what for c in ranking.candidates} | {f"{p.comm}[{p.pid}]" for p in victim.processes}


def test_pids_in_a_loop_end_and_hide_nobody() -> None:
    """/proc is read one by one: a pid may be used again meanwhile, and be its own grandparent."""
    loop = [
        process(10, "a", "/x.service", 300, 12),
        process(11, "b", "/x.service", 5, 10),
        process(12, "c", "/x.service", 5, 11),
    ]
    assert says(first(loop)[0]) == "process a[10]"
    in_root = [process(p.pid, p.comm, "/", p.anon_bytes / MIB, p.ppid) for p in loop]
    victim, _ = first(in_root)
    assert victim is not None
    assert 10 in {p.pid for p in victim.processes}
    itself = process(20, "self", "/", 400, 20)
    assert says(first([itself])[0]) == "process self[20]"


def test_a_pid_that_is_listed_twice_is_weighed_once_and_ends_the_descent() -> None:
    """Used again, or moved from one cgroup to the next while both were read."""
    twice = [
        process(3, "top", "/x.service", 1, start=1),
        process(5, "a", "/x.service", 1, 3, start=2),
        process(5, "b", "/x.service", 1, 7, start=9),
        process(7, "c", "/x.service", 1, 5, start=8),
        *many(9, 80, "d", "/x.service", 10, 7),
    ]
    victim, _ = first(twice)
    assert victim is not None
    pids = [p.pid for p in victim.processes]
    assert len(pids) == len(set(pids))


def test_five_thousand_processes_in_a_thousand_units() -> None:
    dice = random.Random(7)
    processes = [
        process(
            10 + i, "w", f"/system.slice/u{i % 1000}.service", dice.randint(1, 50), dice.choice([1, max(1, 9 + i // 2)])
        )
        for i in range(5000)
    ]
    victim, ranking = first(processes, VictimRule(never=CORE_RULES * 20))
    assert victim is not None
    assert len(ranking.candidates) <= 24, "a ranking is read by people, and lies in the ring"


def test_one_chain_of_five_thousand_processes() -> None:
    chain = [process(10 + i, "c", "/x.service", 2, 9 + i) for i in range(5000)]
    victim, _ = first(chain)
    assert victim is not None
    star = [process(10, "top", "/y.service", 2), *many(4999, 11, "leaf", "/y.service", 2, 10)]
    assert says(first(star)[0]) == "cgroup /y.service"


# -- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("/", "/"),
        ("/system.slice", "/system.slice"),
        ("/system.slice/a.service", "/system.slice/a.service"),
        ("/system.slice/a.service/b/c", "/system.slice/a.service"),
        (f"{APPS}/x.scope/y", f"{APPS}/x.scope"),
        ("/docker/0a1b", "/docker/0a1b"),
        ("/system.slice/dev-disk\\x2dby.service", "/system.slice/dev-disk\\x2dby.service"),
        ("/.service", "/.service"),
    ],
)
def test_units(path: str, unit: str) -> None:
    assert unit_path(path) == unit
    assert unit_name(path) == unit.rpartition("/")[2]


def test_corridors_and_insides() -> None:
    assert is_corridor("/")
    assert is_corridor("/user.slice")
    assert not is_corridor("/user.slice/a.service")
    assert is_inside("/a/b", "/a")
    assert is_inside("/a", "/a")
    assert is_inside("/a", "/")
    assert not is_inside("/ab", "/a")
    assert not is_inside("/", "/a")
