"""A story is a fold over turns: the numbers of an incident, by tables of turns."""

from dataclasses import replace

import pytest

from oomguard.model.codec import to_plain
from oomguard.model.facts import (
    CgroupFacts,
    KernelKill,
    MemInfo,
    MemoryStat,
    Observation,
    ProcessFacts,
    Result,
    Survey,
    TargetId,
    VictimGone,
)
from oomguard.model.incident import Turn
from oomguard.model.verdict import (
    Action,
    Close,
    Kill,
    Lease,
    Nominate,
    Outcome,
    ProcessRef,
    Ranking,
    Release,
    Snapshot,
    Tell,
    Victim,
)
from oomguard.workers.story import Story
from oomguard.workers.words import covers, name, short_id, size

MS = 1_000_000
MIB = 1 << 20
HOST = TargetId("host", "/")
WEB = TargetId("web", "/web")
NOBODY = Ranking("memory", "auto", (), ())


def victim(token: int = 7, pid: int = 1, held_mib: int = 100) -> Victim:
    return Victim(
        token, "process", "/web", 5, "", (ProcessRef(pid, 1, "leak", "/web", held_mib * MIB),), held_mib * MIB, 1
    )


def host(available_mib: int) -> MemInfo:
    return MemInfo(1000 * MIB, 0, available_mib * MIB, 0, 0)


def web(current_mib: int, cache_mib: int | None = 0) -> CgroupFacts:
    stat = None if cache_mib is None else MemoryStat(0, cache_mib * MIB, 0, 0)
    return CgroupFacts("/web", 5, current_mib * MIB, stat)


def turn(at_ms: int, *actions: Action, outcomes: tuple[Outcome, ...] = (), **seen: object) -> Turn:
    return Turn(at_ms, Observation(at_ms * MS, **seen), actions, outcomes)  # type: ignore[arg-type]


def killed(
    target: TargetId, at_ms: int = 10, token: int = 7, errno: int = 0, held: bool = False, **seen: object
) -> Turn:
    outcome = Outcome("Kill", token, errno, at_ms * MS + 2 * MS, held)
    return turn(
        at_ms, Snapshot(target, "hard", 1, "why"), Kill(target, token, "KILL", "why"), outcomes=(outcome,), **seen
    )


def gone(at_ms: int, token: int = 7, **seen: object) -> Turn:
    return turn(at_ms, gone=(VictimGone(token, at_ms * MS),), **seen)


def told(target: TargetId, *turns: Turn) -> Story:
    story = Story(target, 1, turns[0].seen.at_ns, "soft", None)
    story.add(turn(0, Nominate(target, victim(), NOBODY)))
    for each in turns:
        story.add(each)
    return story


FREED = [
    pytest.param(HOST, [killed(HOST, host=host(40)), gone(30, host=host(540))], 500, "MemAvailable", id="machine"),
    pytest.param(
        HOST,
        [killed(HOST, host=host(40)), gone(30), turn(500, host=host(340)), turn(1000, host=host(540))],
        500,
        "MemAvailable",
        id="the reaper needs a moment",
    ),
    pytest.param(
        HOST,
        [killed(HOST, host=host(40)), gone(30, host=host(140)), turn(5000, host=host(940))],
        100,
        "MemAvailable",
        id="what comes back seconds later has other causes",
    ),
    pytest.param(
        HOST,
        [turn(5, host=host(50)), killed(HOST), gone(30, host=host(150))],
        100,
        "MemAvailable",
        id="the kill's own turn did not look: the last look before it",
    ),
    pytest.param(
        HOST,
        [killed(HOST, host=host(40)), turn(20, host=host(500)), gone(30)],
        460,
        "MemAvailable",
        id="the turn of its death did not look: the last look before it, after the kill",
    ),
    pytest.param(
        WEB,
        [killed(WEB, cgroups=(web(250, 50),), host=host(700)), gone(30, cgroups=(web(60, 50),), host=host(600))],
        190,
        "unreclaimable memory of /web",
        id="a cgroup is measured by itself",
    ),
    pytest.param(
        WEB,
        [killed(WEB, cgroups=(web(250, None),)), gone(30, cgroups=(web(60, None),))],
        190,
        "memory.current of /web",
        id="without memory.stat",
    ),
    pytest.param(
        WEB,
        [killed(WEB, cgroups=(web(250),)), gone(30, vanished=(WEB,))],
        250,
        "to 0 B",
        id="the cgroup went with it",
    ),
    pytest.param(
        HOST, [killed(HOST, host=host(40)), gone(30, host=host(10))], 0, "MemAvailable", id="another leak ate it all"
    ),
    pytest.param(HOST, [killed(HOST, host=host(40))], None, "no measurement", id="it never ended"),
    pytest.param(HOST, [killed(HOST, errno=3)], 0, "nothing was killed", id="the kill failed"),
    pytest.param(HOST, [killed(HOST, held=True)], 0, "observe mode", id="observe mode"),
]


@pytest.mark.parametrize(("target", "turns", "freed_mib", "how"), FREED)
def test_what_was_freed(target: TargetId, turns: list[Turn], freed_mib: int | None, how: str) -> None:
    freed, told_how = told(target, *turns).freed()
    assert freed == (None if freed_mib is None else freed_mib * MIB)
    assert how in told_how


def test_freed_by_two_kills_is_measured_from_the_first_to_the_last() -> None:
    story = told(HOST, killed(HOST, host=host(40)), gone(30, host=host(140)))
    story.add(turn(40, Nominate(HOST, victim(8, 2), NOBODY)))
    story.add(killed(HOST, 50, 8, host=host(130)))
    assert story.freed()[0] == 100 * MIB
    story.add(gone(70, 8, host=host(640)))
    assert story.freed()[0] == 600 * MIB
    assert [row["pid"] for row in story.victims()] == [1, 2]


KILLED_BY = [
    ([killed(HOST)], "oomguard"),
    ([killed(HOST, held=True)], "none"),
    ([killed(HOST, errno=1)], "none"),
    ([turn(5, kernel_kills=(KernelKill("/x", 1),))], "kernel"),
    ([turn(5, kernel_kills=(KernelKill("/x", 1),)), killed(HOST)], "kernel"),
    ([killed(HOST), turn(20, kernel_kills=(KernelKill("/x", 1),))], "oomguard"),
    ([turn(5)], "none"),
]


@pytest.mark.parametrize(("turns", "by"), KILLED_BY)
def test_killed_by_is_who_struck_first(turns: list[Turn], by: str) -> None:
    assert told(HOST, *turns).killed_by() == by


KIND = [
    ([turn(5)], "soft"),
    ([killed(HOST)], "hard"),
    ([turn(5, kernel_kills=(KernelKill("/x", 1),))], "kernel"),
    ([turn(5, kernel_kills=(KernelKill("/x", 1),)), killed(HOST)], "hard"),
    ([killed(HOST), turn(20, kernel_kills=(KernelKill("/x", 1),))], "hard"),
    ([killed(HOST), turn(20, Snapshot(HOST, "soft", 1, "again"))], "hard"),
]


@pytest.mark.parametrize(("turns", "kind"), KIND)
def test_the_kind_is_the_watermark_that_was_reached(turns: list[Turn], kind: str) -> None:
    assert told(HOST, *turns).kind == kind


def test_whom_we_would_have_killed_the_kernel_did() -> None:
    story = told(HOST, killed(HOST, held=True), turn(200, kernel_kills=(KernelKill("/web", 1, 1, "leak"),)))
    assert (story.kind, story.killed_by()) == ("hard", "kernel")
    assert [(row["pid"], row["by"]) for row in story.victims()] == [(1, "kernel")]


def test_other_targets_are_not_our_story() -> None:
    story = told(HOST, killed(WEB), turn(20, Close(WEB, 2, "x"), kernel_kills=()))
    assert (story.kind, story.killed_by(), story.closed) == ("soft", "none", False)


def test_the_kernels_victim_is_named_once() -> None:
    story = told(HOST, turn(5, kernel_kills=(KernelKill("/x", 1),)))
    for _ in range(2):
        story.kernel_named(812, "stress", "/x/y", 5 * MIB)
    story.kernel_named(813, "other", "/x/y", MIB)
    assert [(row["pid"], row["cgroup"], row["bytes"]) for row in story.victims()] == [
        (812, "/x/y", 5 * MIB),
        (813, "/x/y", MIB),
    ]
    assert [entry["text"] for entry in story.timeline if entry["what"] == "kernel"] == [
        "the kernel's OOM killer killed stress[812] in /x/y, which held 5.0 MiB",
        "the kernel's OOM killer killed other[813] in /x/y, which held 1.0 MiB",
    ]


def test_a_kernel_kill_is_told_once_though_the_judge_speaks_of_it_too() -> None:
    spoken = Snapshot(HOST, "kernel", 1, "the kernel's OOM killer ended 1 process(es) in /x")
    story = told(HOST, turn(5, spoken, kernel_kills=(KernelKill("/x", 1),)))
    assert [entry["text"] for entry in story.timeline if entry["what"] == "kernel"] == [
        "the kernel's OOM killer killed 1 process in /x"
    ]


def test_in_observe_mode_there_is_no_signal_to_count_from() -> None:
    story = told(HOST, killed(HOST, held=True), gone(900))
    assert story.gone_ms() is None
    assert story.timeline[-1]["text"] == "leak[1] is gone"


def test_a_cgroup_of_which_nobody_is_known_by_name() -> None:
    whole = Victim(7, "cgroup", "/many", 5, "", (), 900 * MIB, 250)
    story = Story(HOST, 1, 0, "soft", None, Nominate(HOST, whole, NOBODY))
    story.add(killed(HOST))
    assert story.victims() == [{"pid": 0, "comm": "many", "cgroup": "/many", "bytes": 900 * MIB, "by": "oomguard"}]
    assert story.plain()["kills"][0]["what"] == "/many (250 processes)"  # type: ignore[index]


def test_weighing_the_nominee_again() -> None:
    def survey(pid: int, start: int, held_mib: int) -> Survey:
        return Survey(HOST, "heaviest", (), (ProcessFacts(pid, start, 0, "x", "/", 0, "R", held_mib * MIB, 0, 0),), 0)

    story = told(HOST, turn(1))
    story.weigh([to_plain(survey(1, 1, 400))])
    assert story.nominee is not None
    assert story.nominee.held_bytes == story.nominee.processes[0].held_bytes == 400 * MIB
    story.weigh([to_plain(survey(1, 2, 900)), to_plain(survey(2, 1, 900))])  # a reused pid, and somebody else
    assert story.nominee.held_bytes == 400 * MIB
    story.add(killed(HOST))
    story.weigh([to_plain(survey(1, 1, 3))])  # dying
    assert story.victims()[0]["bytes"] == 400 * MIB


def test_a_cgroup_gets_more_members_until_it_dies() -> None:
    def survey(*pids: int) -> Survey:
        rows = tuple(ProcessFacts(pid, 1, 0, "w", "/many/x", 0, "R", pid * MIB, 0, 0) for pid in pids)
        other = ProcessFacts(99, 1, 0, "o", "/other", 0, "R", MIB, 0, 0)
        return Survey(HOST, "heaviest", (), (*rows, other), 0)

    two = Victim(7, "cgroup", "/many", 5, "", (ProcessRef(1, 1, "w", "/many/x", MIB),) * 2, 2 * MIB, 2)
    story = Story(HOST, 1, 0, "soft", None, Nominate(HOST, two, NOBODY))
    story.weigh([to_plain(survey(1))])  # it did not look at all of them
    assert story.nominee == two
    story.weigh([to_plain(survey(1, 2, 3))])
    assert story.nominee is not None
    assert (story.nominee.count, story.nominee.held_bytes) == (3, 6 * MIB)
    story.add(killed(HOST))
    assert [row["pid"] for row in story.victims()] == [3, 2, 1]


def test_a_lease_that_moves_is_told_once_and_its_end_too() -> None:
    def lease(token: int, value_mib: int) -> Lease:
        return Lease(WEB, token, "memory.high", "/web", 5, 0, 0, value_mib * MIB, "brake")

    story = told(
        WEB, turn(1, lease(1, 200)), turn(2, lease(2, 210)), turn(3, Release(WEB, 2)), turn(4, Release(WEB, 99))
    )
    assert [entry["text"] for entry in story.timeline if entry["what"] in ("lease", "release")] == [
        "memory.high of /web set to 200 MiB for a time (brake)",
        "memory.high of /web put back",
    ]


def test_everything_is_bounded() -> None:
    story = told(HOST, turn(1))
    for number in range(2000):
        who = replace(victim(), token=number + 100, processes=victim(pid=number + 1).processes)
        story.add(turn(number, Nominate(HOST, who, NOBODY), kernel_kills=(KernelKill("/", 1, number + 1, "x"),)))
        story.add(killed(HOST, number, number + 100))
    plain = story.plain()
    assert len(plain["timeline"]) == 400  # type: ignore[arg-type]
    assert story.timeline_cut > 2000
    assert len(plain["kills"]) == len(plain["kernel_kills"]) == 200  # type: ignore[arg-type]
    assert len(plain["victims"]) <= 1000  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cgroup", "path", "yes"),
    [("/", "/a", True), ("/a", "/a", True), ("/a", "/a/b", True), ("/a", "/ab", False), ("/a/b", "/a", False)],
)
def test_covers(cgroup: str, path: str, yes: bool) -> None:
    assert covers(cgroup, path) is yes


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KiB"),
        (5 * MIB, "5.0 MiB"),
        (700 * MIB, "700 MiB"),
        (1536 * MIB, "1.5 GiB"),
        (1 << 50, "1024 TiB"),
        (-MIB, "-1.0 MiB"),
    ],
)
def test_size(count: int, text: str) -> None:
    assert size(count) == text


def test_names() -> None:
    tree = replace(victim(), take="subtree", count=5)
    assert (name(victim()), name(tree)) == ("leak[1]", "leak[1] and its tree (5 processes)")


def test_the_short_id_differs_by_boot_guard_cgroup_and_time() -> None:
    ids = {
        short_id(boot, TargetId(guard, cgroup), at_ns)
        for boot in "ab"
        for guard in "cd"
        for cgroup in ("/e", "/\udcff")
        for at_ns in range(100)
    }
    assert len(ids) >= 798
    assert all(len(each) == 6 for each in ids)


def test_a_kill_of_the_dead_man_is_told_when_the_core_is_back() -> None:
    """It struck at 3000, the core came back at 8990, found memory free, and heard at 9000 why."""
    text = "leak[1] holding 100 MiB; the dead man has acted: we had not turned for 2.5 s, and the hard watermark held"
    back = turn(
        9000,
        Snapshot(HOST, "hard", 1, "the dead man has acted"),
        Kill(HOST, 7, "KILL", text, None, "deadman"),
        outcomes=(Outcome("Kill", 7, 0, 9001 * MS),),
        results=(Result(7, "Deadman", 0, 2500 * MS, 3000 * MS),),
        gone=(VictimGone(7, 9000 * MS),),
        host=host(540),
    )
    plain = told(HOST, turn(500, host=host(40)), turn(8990, host=host(539)), back).plain()
    assert (plain["killed_by"], plain["kind"], plain["freed_bytes"]) == ("oomguard", "hard", 500 * MIB)
    assert (plain["latency_ms"], plain["gone_ms"]) == (None, 6000)
    lines = [(entry["at_ms"], entry["what"]) for entry in plain["timeline"]]  # type: ignore[attr-defined]
    assert lines[-3:] == [(2500, "kill"), (8500, "hard"), (8500, "gone")]
    assert text in plain["timeline"][-3]["text"]  # type: ignore[index]


# -- programs that were told


def asked(at_ms: int, token: int, *, held: bool = False, target: TargetId = HOST, **seen: object) -> Turn:
    outcome = Outcome("Tell", token, 0, at_ms * MS, held)
    return turn(at_ms, Tell(target, token, "soft", "inside", "why"), outcomes=(outcome,), **seen)


def answered(at_ms: int, token: int, who: str = "", count: int = 0, errno: int = 0, **seen: object) -> Turn:
    return turn(at_ms, results=(Result(token, "Tell", errno, 2 * MS, count, who),), **seen)


def measures(story: Story) -> list[str]:
    return [str(entry["text"]) for entry in story.timeline if entry["what"] == "measure"]


def test_who_was_told_and_what_came_back() -> None:
    story = told(
        HOST,
        asked(10, 3, host=host(100)),
        answered(12, 3, "web[8], db[9] (uid 7)", 2),
        turn(4000, host=host(300)),
        turn(5100, host=host(400)),
        turn(9000, host=host(900)),
    )
    assert measures(story) == [
        "told at soft to give memory back: web[8], db[9] (uid 7) (2.0 ms)",
        "5.1 s after programs were told at soft, 400 MiB were available, and 100 MiB before",
    ]


def test_of_a_cgroup_what_it_uses() -> None:
    story = told(
        WEB,
        asked(10, 3, target=WEB, cgroups=(web(240),)),
        answered(12, 3, "web[8]", 1),
        turn(6000, cgroups=(web(90),)),
    )
    assert measures(story)[-1] == "6.0 s after programs were told at soft, /web used 90.0 MiB, and 240 MiB before"


def test_what_came_back_until_the_kill_and_not_through_it() -> None:
    story = told(
        HOST,
        asked(10, 3, host=host(100)),
        answered(12, 3, "web[8]", 1),
        killed(HOST, 1010, host=host(60)),
        gone(1100, host=host(600)),
        turn(7000, host=host(600)),
    )
    assert measures(story)[1:] == [
        "1.0 s after programs were told at soft, 60.0 MiB were available, and 100 MiB before"
    ]


def test_nobody_listened_and_nothing_is_said_of_what_they_gave() -> None:
    story = told(HOST, asked(10, 3, host=host(100)), answered(12, 3, "nobody", 0, 107), turn(9000))
    assert measures(story) == ["told at soft to give memory back: nobody (2.0 ms)"]


def test_the_same_ones_again_and_again_are_told_of_once() -> None:
    turns = [asked(10, 1, host=host(100)), answered(11, 1, "a[1]", 1)]
    for token in range(2, 500):
        turns += [asked(token * 10_000, token, host=host(100)), answered(token * 10_000 + 1, token, "a[1]", 1)]
    story = told(HOST, *turns)
    assert len(measures(story)) == 2
    assert story.timeline_cut == 0
    story.add(answered(6_000_000, 499, "a[1], b[2]", 2))
    assert len(measures(story)) == 2, "each answer is taken once"


def test_observe_has_asked_nobody() -> None:
    story = told(HOST, asked(10, 3, held=True, host=host(100)), turn(9000, host=host(500)))
    assert measures(story) == []
