"""What the core stores into its page: of many targets the foremost, what was done, who grows; and when nothing new."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from oomguard.core.growth import FORGOTTEN_NS, SPAN_NS, Growth
from oomguard.core.status import EVERY_NS, Status
from oomguard.judge.escalate import begin as pursue
from oomguard.judge.state import State, TargetState
from oomguard.model import policy
from oomguard.model.facts import (
    CgroupFacts,
    MemInfo,
    Observation,
    Pressure,
    Share,
    Stall,
    Survey,
    TargetId,
    TargetSeen,
)
from oomguard.model.policy import Amount, Clause, Daemon, Guard, MemoryAbove, Plan, Watermark
from oomguard.model.statuslayout import GROWTH, KINDS
from oomguard.model.statuspage import Averages, StatusPage, read
from oomguard.model.verdict import Action, Close, Kill, Notify, ProcessRef, Snapshot, Victim

SECOND = 10**9
MIB = 1 << 20
HOST = MemInfo(16 << 30, 1 << 30, 4 << 30, 2 << 30, 1 << 30)
WEB = Guard(
    "web",
    "/web-*",
    soft=Watermark((Clause((MemoryAbove(Amount(share=0.8)),)), Clause((MemoryAbove(Amount(bytes=5)),), 7)), ()),
    hard=Watermark((Clause((MemoryAbove(Amount(share=0.9)),)),), ()),
)
PLAN = Plan("1.2.3", Daemon(), (Guard("host", "/"), WEB))


class Desk:
    """A page, and the turns that are told on it."""

    def __init__(self, tmp_path: Path) -> None:
        self.path = f"{tmp_path}/status"
        self.status = Status(self.path, "1.2.3")
        self.at_ns = 100 * SECOND

    def turn(
        self,
        *targets: TargetState,
        plan: Plan = PLAN,
        actions: tuple[Action, ...] = (),
        after_ns: int = SECOND,
        shares: tuple[Share, ...] = (),
        **seen: object,
    ) -> StatusPage:
        self.at_ns += after_ns
        state = State(targets=MappingProxyType({it.id: it for it in targets}), host=HOST)
        self.status.publish(plan, state, Observation(self.at_ns, shares=shares, **seen), 0, actions)  # type: ignore[arg-type]
        return read(self.path)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def web(number: int, phase: str = "calm", used_mib: int = 1, **more: object) -> TargetState:
    path = f"/web-{number}"
    facts = CgroupFacts(path, number, used_mib * MIB, swap_bytes=3, limit_bytes=100 * MIB, swap_limit_bytes=9)
    changes = {"phase": phase, "facts": facts, "used_bytes": used_mib * MIB, **more}
    return replace(TargetState(TargetId("web", path)), **changes)  # type: ignore[arg-type]


MACHINE = TargetState(TargetId("host", "/"), used_bytes=12 << 30)


def victim(token: int = 1) -> Victim:
    refs = (ProcessRef(77, 1, "leak", "/web-2/a", 9 * MIB), ProcessRef(78, 1, "below", "/web-2/a", MIB))
    return Victim(token, "subtree", "/web-2/a", 5, "web-2.service", refs, 10 * MIB, 2)


# --------------------------------------------------------------------------------------------------------------- guards


def test_of_many_targets_the_foremost_is_told(desk: Desk) -> None:
    """The furthest in its phase; of those the fullest."""
    host, guard = desk.turn(MACHINE, web(1, used_mib=5), web(2, used_mib=50), web(3, used_mib=7)).guards
    assert (host.path, host.used_bytes, host.limit_bytes, host.swap_bytes) == ("/", 12 << 30, 16 << 30, 1 << 30)
    assert (guard.path, guard.used_bytes, guard.limit_bytes) == ("/web-2", 50 * MIB, 100 * MIB)
    assert (guard.swap_bytes, guard.swap_limit_bytes, guard.targets, guard.phase) == (3, 9, 3, "calm")
    guard = desk.turn(MACHINE, web(1, "armed", 5), web(2, used_mib=50), web(3, "armed", 7)).guards[1]
    assert (guard.path, guard.phase, guard.used_bytes) == ("/web-3", "armed", 7 * MIB)
    guard = desk.turn(MACHINE).guards[1]
    assert (guard.path, guard.targets, guard.used_bytes, guard.phase) == ("", 0, 0, "calm")


def test_a_guard_has_its_lines_and_what_holds_of_them(desk: Desk) -> None:
    pressure = Pressure(Stall(1.25, 2.5, 3, 4), Stall(0.5, 0, 100, 9))
    target = web(1, soft_since=(0, 5), hard_since=(7,), entered_ns=99)
    target = replace(target, facts=replace(target.facts, pressure=pressure))  # type: ignore[type-var]
    guard = desk.turn(MACHINE, target).guards[1]
    assert [(it.all_of[0].unit, it.all_of[0].number, it.lasting_ns, it.holds) for it in guard.soft] == [
        ("millionths", 800_000, 0, False),
        ("bytes", 5, 7, True),
    ]
    assert [it.holds for it in guard.hard] == [True]
    assert guard.pressure == Averages((1.25, 2.5, 3.0), (0.5, 0.0, 100.0))
    assert guard.entered_ns == 99


CONDITIONS: list[policy.Condition] = [
    policy.AvailableBelow(Amount(share=0.5)),
    policy.SwapFreeBelow(Amount(bytes=5)),
    policy.MemoryAbove(Amount(bytes=5)),
    policy.SwapAbove(Amount(bytes=5)),
    policy.StallAbove("full", 150_000, 1_000_000, 0),
    policy.PressureAbove("some", 0.2, "300s"),
    policy.PressureRising("some", 0.2, "60s"),
    policy.ZramAbove("disk", Amount(bytes=5)),
    policy.GrowthAbove(Amount(bytes=5), 3, 1),
    policy.ExhaustsWithin(4, 2),
    policy.RefaultsAbove("anon", Amount(bytes=5), 6, 3),
    policy.EventsAbove("oom", 8, 9, 4),
    policy.LevelAbove("medium", "default", 5),
]


def test_every_condition_can_be_told(desk: Desk) -> None:
    """In the words of the policy language."""
    guard = replace(WEB, soft=Watermark((Clause(tuple(CONDITIONS)),), ()))
    told = desk.turn(web(1), plan=replace(PLAN, guards=(guard,))).guards[0].soft[0].all_of
    assert tuple(it.kind for it in told) == KINDS
    assert [(it.word, it.unit, it.number, it.over_ns) for it in told] == [
        ("", "millionths", 500_000, 0),
        *[("", "bytes", 5, 0)] * 3,
        ("full", "us", 150_000, SECOND),
        ("some", "millionths", 200_000, 300 * SECOND),
        ("some", "millionths", 200_000, 60 * SECOND),
        ("disk", "bytes", 5, 0),
        ("", "bytes", 5, 3),
        ("", "count", 0, 4),
        ("anon", "bytes", 5, 6),
        ("oom", "count", 8, 9),
        ("medium", "count", 0, policy.LEVEL_HOLDS_NS),
    ]


def test_another_policy_has_other_guards(desk: Desk) -> None:
    desk.turn(MACHINE, web(1), actions=(kill(1),))
    other = Guard("other", "/other", "observe")
    page = desk.turn(MACHINE, web(1), plan=replace(PLAN, guards=(other, WEB)))
    assert [(it.name, it.mode, it.kills) for it in page.guards] == [("other", "observe", 0), ("web", "enforce", 1)]
    assert page.guards[1].path == "/web-1"
    assert desk.turn(plan=replace(PLAN, guards=(other,))).guards[0].soft == ()


# --------------------------------------------------------------------------------------------------------------- events

TARGET = TargetId("web", "/web-2")


def kill(token: int, signal: str = "KILL") -> Kill:
    return Kill(TARGET, token, signal, "why")  # type: ignore[arg-type]


def told(page: StatusPage) -> list[tuple[str, str, str]]:
    return [(it.kind, it.guard, it.text) for it in reversed(page.events)]


def test_what_was_done_is_told_once(desk: Desk) -> None:
    """To write down why, and to notify, is one event."""
    page = desk.turn(actions=(Snapshot(TARGET, "soft", 1, "why"), Notify(TARGET, "SOFT", "why")))
    page = desk.turn(actions=(Snapshot(TARGET, "hard", 1, "more"), kill(1), Notify(TARGET, "KILLED", "killed it")))
    page = desk.turn(actions=(Close(TARGET, 1, "killed it; calm"), Notify(TARGET, "CALM", "calm again")))
    assert told(page) == [
        ("SOFT", "web", "why"),
        ("HARD", "web", "more"),
        ("KILLED", "web", "killed it"),
        ("CALM", "web", "killed it; calm"),
    ]
    assert (page.guards[1].kills, page.guards[1].snapshots) == (1, 2)


def test_a_kill_is_counted_once(desk: Desk) -> None:
    """SIGTERM and then SIGKILL are one; what is only observed is none."""
    page = desk.turn(actions=(kill(1, "TERM"),))
    page = desk.turn(actions=(kill(1),))
    assert page.guards[1].kills == 1
    assert desk.turn(actions=(kill(2),)).guards[1].kills == 2
    observed = replace(PLAN, guards=(replace(WEB, mode="observe"),))
    assert desk.turn(plan=observed, actions=(kill(3),)).guards[0].kills == 0


def test_the_last_events_are_kept(desk: Desk) -> None:
    for number in range(60):
        page = desk.turn(actions=(Notify(TARGET, "MEASURE", str(number)),))
    assert [it.text for it in page.events] == [str(number) for number in range(59, 35, -1)]
    assert page.left_out == ()


def test_what_becomes_degraded_while_it_runs_is_an_event(desk: Desk) -> None:
    desk.status.degraded("psi", "at the start")
    desk.status.arm()
    desk.status.degraded("herald", "it ended")
    desk.status.degraded("herald", "it ended again")
    page = desk.turn()
    assert told(page) == [("DEGRADED", "", "herald: it ended")]
    assert page.degraded == (("psi", "at the start"), ("herald", "it ended again"))


def test_who_is_held_open_is_told_and_forgotten(desk: Desk) -> None:
    whole = Victim(2, "cgroup", "/web-3", 5, "web-3.service", (), 5 * MIB, 12)
    page = desk.turn(web(2, "armed", nominee=victim()), web(3, "draining", pursuit=pursue(whole, 0, 0)))
    first, second = page.nominees
    assert (first.guard, first.what, first.pid, first.count, first.held_bytes) == ("web", "leak", 77, 2, 10 * MIB)
    assert (first.take, first.cgroup) == ("subtree", "/web-2/a")
    assert (second.what, second.pid, second.count, second.take) == ("web-3.service", 0, 12, "cgroup")
    assert desk.turn(web(2), web(3)).nominees == ()


# -------------------------------------------------------------------------------------------------------------- mending


@pytest.mark.parametrize("guard", ["web", "shadow:web"])
def test_a_cgroup_has_come(desk: Desk, guard: str) -> None:
    """What the compiler said of this moment is over; what it says of the policy is not."""
    name = f'"{guard}"' if ":" in guard else guard
    for what, why in (
        (f"policy policy.{name}.cgroup", "/web-* matches no cgroup now"),
        (f"policy policy.{name}.xattr", "none of its 3 cgroups has user.x now"),
        (f"policy policy.{name}.soft", "can never be reached on this machine"),
        ("policy policy.other.cgroup", "/other matches no cgroup now"),
    ):
        desk.status.degraded(what, why)
    desk.status.came([TargetId(guard, "/web-1"), TargetId("host", "/")])
    assert [what for what, _ in desk.turn().degraded] == [f"policy policy.{name}.soft", "policy policy.other.cgroup"]


def test_another_doubt_about_the_cgroup_stays(desk: Desk) -> None:
    desk.status.degraded("policy policy.web.cgroup", "/web-1 has no memory.max: shares are of the machine's memory")
    desk.status.came([TARGET])
    assert len(desk.turn().degraded) == 1


# ------------------------------------------------------------------------------------------------------------ how often


def test_not_more_often_than_anybody_could_read_it(desk: Desk) -> None:
    desk.turn(web(1))
    assert desk.turn(web(1, used_mib=9), after_ns=EVERY_NS - 1).guards[1].used_bytes == MIB
    page = desk.turn(web(1, used_mib=9), after_ns=0, actions=(Notify(TARGET, "SOFT", "x"),))
    assert page.guards[1].used_bytes == 9 * MIB, "what was done is told at once"
    many = [web(number) for number in range(1000)]
    desk.turn(*many)
    assert desk.turn(*many, web(1000), after_ns=3 * EVERY_NS).guards[1].targets == 1000, "many are looked over seldom"
    assert desk.turn(*many, web(1000), after_ns=EVERY_NS + SECOND).guards[1].targets == 1001


def test_who_comes_and_goes_is_told_at_once(desk: Desk) -> None:
    """Of a guard that has nothing else to watch there may be no other turn for hours."""
    it = web(1)
    desk.turn(MACHINE)
    came = desk.turn(MACHINE, it, after_ns=1, appeared=(TargetSeen(it.id, it.facts),))
    assert came.guards[1].targets == 1
    assert desk.turn(MACHINE, after_ns=1, vanished=(it.id,)).guards[1].targets == 0


def test_a_glance_tells_of_the_machine_alone(desk: Desk) -> None:
    before = desk.turn(MACHINE, web(1))
    pressure = Pressure(Stall(1.25, 2.5, 3, 4), Stall(0.5, 0, 100, 9))
    desk.status.glance(State(), Observation(7, host=replace(HOST, available_bytes=5), pressure=pressure), 3)
    page = read(desk.path)
    assert (page.pressure, page.pressure_ns) == (pressure, 7), "and not read a second time"
    assert (page.numbers.mem_available_bytes, page.numbers.drops, page.beat_ns) == (5, 3, 7)
    assert (page.guards, page.version) == (before.guards, "1.2.3")


# --------------------------------------------------------------------------------------------------------------- growth


def shares(**sizes: int) -> tuple[Share, ...]:
    return tuple(Share(f"/{name}", size) for name, size in sizes.items())


def test_growth_is_over_some_seconds(desk: Desk) -> None:
    """Memory comes in steps: the second between two looks tells little."""
    for second in range(21):
        page = desk.turn(shares=shares(a=second * MIB, b=7))
    a, b = sorted(page.growing, key=lambda it: it.cgroup)
    assert (a.bytes, a.per_second) == (20 * MIB, MIB)
    assert SPAN_NS <= a.at_ns - a.before_ns <= 2 * SPAN_NS
    assert (b.bytes, b.per_second) == (7, 0)


def test_surveys_tell_of_growth_too() -> None:
    growth = Growth()
    for at in (0, 6 * SECOND):
        facts = CgroupFacts("/a", 1, at)
        assert growth.take(Observation(at, surveys=(Survey(TARGET, "heaviest", (facts,), (), 1),)))
    assert not growth.take(Observation(7 * SECOND))
    assert growth.known["/a"][:4] == (6 * SECOND, 6 * SECOND, 0, 0)


def test_what_is_gone_grows_no_more() -> None:
    growth = Growth()
    growth.take(Observation(0, shares=(Share(TARGET.cgroup, 1), Share("/a", 1))))
    assert growth.take(Observation(SECOND, vanished=(TARGET,)))
    assert list(growth.known) == ["/a"]


def test_no_more_than_there_is_room_for() -> None:
    """The largest, and those that grow; who was not seen for long is forgotten."""
    growth = Growth()
    many = tuple(Share(f"/{number}", number * MIB) for number in range(200))
    growth.take(Observation(SECOND, shares=many))
    assert set(growth.known) == {f"/{number}" for number in range(200 - GROWTH.room, 200)}
    growth.take(Observation(2 * SECOND, shares=(Share("/new", 0),)))
    assert "/new" not in growth.known
    growth.known["/199"] = (0, 0, 0, 0, 0, 0)
    fast = growth.known["/170"]
    growth.take(Observation(10 * SECOND, shares=(Share("/170", fast[0] + 100 * MIB), *many[:100])))
    assert max(growth.known, key=lambda path: growth.known[path][0]) == "/170"
    growth.take(Observation(FORGOTTEN_NS + 11 * SECOND, shares=many[:33]))
    assert set(growth.known) == {f"/{number}" for number in range(1, 33)}
