"""Which guard is drilled, where, under which limit; and when there is no time for a drill. Tables, nothing is run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from oomguard.cli.drilling import calm, course
from oomguard.cli.drilling.course import DEFAULT_BYTES, Course, Unfit
from oomguard.cli.drilling.outcome import Outcome, Seen, Told
from oomguard.cli.drilling.told import told
from oomguard.model.facts import MemInfo
from oomguard.model.policy import (
    Amount,
    AvailableBelow,
    Clause,
    Condition,
    Daemon,
    Guard,
    KillStep,
    MemoryAbove,
    NotifyStep,
    Plan,
    PressureAbove,
    StallAbove,
    Watermark,
)
from oomguard.model.statuspage import GuardLine, Numbers, StatusPage

MIB = 1 << 20
MARK = "oomguard-drill-1-2"
PLACE = f"/oomguard-drill/{MARK}"
ALONE = f"/oomguard-drill-alone/{MARK}"


def mark(*conditions: Condition, kill: bool = True) -> Watermark:
    """One clause."""
    return Watermark((Clause(conditions),), (KillStep(),) if kill else (NotifyStep(),))


def above(share: float) -> MemoryAbove:
    return MemoryAbove(Amount(share=share))


AVAILABLE = AvailableBelow(Amount(share=0.05))
STALL = StallAbove("full", 150_000, 1_000_000, 1)
HOST = Guard("host", "/", soft=mark(AvailableBelow(Amount(share=0.12)), kill=False), hard=mark(AVAILABLE))
DRILL = Guard("drill", "/oomguard-drill/*", hard=mark(above(0.85)))
WEB = Guard("web", "/system.slice/web-*.service", hard=mark(above(0.9)))


def plan(*guards: Guard) -> Plan:
    return Plan("1", Daemon(), guards)


# ---------------------------------------------------------------------------------------------------------- the course


def test_under_the_policy_in_force_the_guard_of_the_drills_own_place() -> None:
    it = course.in_force(plan(HOST, WEB, DRILL), None, MARK, DEFAULT_BYTES)
    assert it == Course(DRILL, PLACE, 128 * MIB, int(128 * MIB * 0.85))


def test_a_policy_that_covers_no_such_place_is_told_how_to() -> None:
    with pytest.raises(Unfit) as why:
        course.in_force(plan(HOST, WEB), None, MARK, DEFAULT_BYTES)
    command = "oomguard drill --print-policy > /etc/oomguard/conf.d/90-drill.toml && systemctl reload oomguard.service"
    assert command in str(why.value)


@pytest.mark.parametrize(
    ("cgroup", "path"),
    [
        ("/system.slice/web-*.service", f"/system.slice/web-{MARK}.service"),
        ("/user.slice/**", f"/user.slice/{MARK}"),
        ("/a/*/b-*.scope", f"/a/{MARK}/b-{MARK}.scope"),
        ("/a/?b-*", f"/a/xb-{MARK}"),
    ],
)
def test_a_place_that_is_nobodys(cgroup: str, path: str) -> None:
    assert course.in_force(plan(replace(WEB, cgroup=cgroup)), "web", MARK, DEFAULT_BYTES).cgroup == path


@pytest.mark.parametrize(
    ("guard", "said"),
    [
        (replace(WEB, cgroup="/system.slice/web.service"), "covers /system.slice/web.service alone"),
        (replace(WEB, cgroup="/"), "covers / alone"),
        (replace(WEB, cgroup="unit=web-*.service"), "covers unit=web-*.service alone"),
        (replace(WEB, xattr="user.web=1"), "only cgroups with the extended attribute user.web: its rules"),
        (replace(WEB, mode="observe"), 'mode = "observe"'),
        (replace(WEB, hard=None), "ends nobody"),
        (replace(WEB, hard=mark(above(0.9), kill=False)), "ends nobody"),
        (replace(WEB, hard=mark(AVAILABLE)), "memory of a cgroup alone"),
        (replace(WEB, hard=mark(above(0.9), AVAILABLE)), "memory of a cgroup alone"),
        (replace(WEB, hard=mark(STALL)), "memory of a cgroup alone"),
        (replace(WEB, hard=mark(above(1.0))), "the kernel is there first"),
    ],
)
def test_what_cannot_be_drilled(guard: Guard, said: str) -> None:
    with pytest.raises(Unfit, match=r".") as why:
        course.in_force(plan(HOST, guard), "web", MARK, DEFAULT_BYTES)
    assert said in str(why.value)


def test_a_name_that_is_none() -> None:
    with pytest.raises(Unfit, match="there is no policy wbe: there is host, web"):
        course.in_force(plan(HOST, WEB), "wbe", MARK, DEFAULT_BYTES)


def test_a_watermark_in_bytes_brings_its_limit_along() -> None:
    """The drill must be able to reach it: 500 MiB under a limit of 128 never come."""
    it = course.in_force(plan(replace(WEB, hard=mark(MemoryAbove(Amount(bytes=500 * MIB))))), "web", MARK, 128 * MIB)
    assert it.line_bytes == 500 * MIB
    assert it.limit_bytes >= 550 * MIB


def test_alone_the_guard_is_moved_onto_the_scratch_cgroup() -> None:
    """So the rules of a service can be tried where nobody lives, and the machine's guard is not even there."""
    it = course.alone(
        plan(HOST, replace(WEB, cgroup="/system.slice/web.service", xattr="user.web=1")), None, MARK, DEFAULT_BYTES
    )
    assert it.guard.xattr == ""
    assert (it.guard.name, it.guard.cgroup, it.cgroup) == ("web", ALONE, ALONE)
    assert course.beside(plan(HOST, DRILL), it) == [], (
        "a daemon that runs with the policy of the drill is not in the way"
    )
    with pytest.raises(Unfit, match="policy host does not act on the memory of a cgroup alone"):
        course.alone(plan(HOST), None, MARK, DEFAULT_BYTES)


# ----------------------------------------------------------------------------------------------------------- is it calm

COURSE = Course(DRILL, PLACE, 128 * MIB, 109 * MIB)
EASY = MemInfo(1024 * MIB, 700 * MIB, 700 * MIB, 0, 0)


def page(phase: str = "calm") -> StatusPage:
    return StatusPage(Numbers(pid=1), (GuardLine("host", "/", "enforce", phase, 1, 900 * MIB, 1024 * MIB),), "1", (), 0)


def test_a_calm_machine() -> None:
    assert calm.against(plan(HOST, DRILL, WEB), COURSE, EASY, page()) == []


@pytest.mark.parametrize(
    ("guards", "host", "phase", "room", "said"),
    [
        ((HOST, DRILL), EASY, "armed", None, "policy host is armed: 900 MiB of 1024 MiB are in use"),
        # 12 % of 1 GiB is 123 MiB, and twice the drill's 128
        (
            (HOST, DRILL),
            replace(EASY, available_bytes=300 * MIB),
            "calm",
            None,
            "300 MiB of 1024 MiB are available, and 379 MiB should be: 2 times the 128 MiB of the drill over 123 MiB "
            "(soft of policy host)",
        ),
        ((DRILL,), replace(EASY, available_bytes=300 * MIB), "calm", None, "102 MiB (a tenth of the machine's memory)"),
        # ["12%", "6GiB"] is the smaller of the two: both must hold
        (
            (
                DRILL,
                replace(HOST, soft=mark(AvailableBelow(Amount(share=0.12)), AvailableBelow(Amount(bytes=6 << 30)))),
            ),
            replace(EASY, available_bytes=300 * MIB),
            "calm",
            None,
            "over 123 MiB (soft of policy host)",
        ),
        ((DRILL,), EASY, "calm", calm.Room("/a", 100 * MIB), "/a has 100 MiB left of its limit"),
        (
            (DRILL, Guard("all", "/oomguard-drill", hard=mark(above(0.5)))),
            EASY,
            "calm",
            None,
            "policy all covers the place of the drill as well (/oomguard-drill)",
        ),
        # A tripwire makes the leak stall, and the machine's pressure is that of all: whom would such a guard end?
        ((DRILL, replace(HOST, hard=mark(STALL))), EASY, "calm", None, "policy host ends somebody for a stall"),
        (
            (DRILL, replace(HOST, hard=mark(PressureAbove("some", 0.2, "10s")))),
            EASY,
            "calm",
            None,
            "policy host ends somebody for a stall",
        ),
    ],
)
def test_no_time_for_a_drill(
    guards: tuple[Guard, ...], host: MemInfo, phase: str, room: calm.Room | None, said: str
) -> None:
    (reason,) = calm.against(plan(*guards), COURSE, host, page(phase), room)
    assert said in reason


# ---------------------------------------------------------------------------------------------------------- the outcome

SEEN = Seen(crossed_ns=1_000_000, died_ns=21_000_000, peak_bytes=110 * MIB, kernel_kills=0)
TOLD = Told("id", "It was so.", "oomguard", 5_000_000, 2_000_000, 16.0, "")


def outcome(seen: Seen = SEEN, told: Told | None = TOLD) -> Outcome:
    return Outcome(COURSE, "in force", MIB, 9, True, seen, told)


def test_the_guard_was_first() -> None:
    it = outcome()
    assert (it.ok, it.why, it.to_signal_ms, it.to_death_ms) == (True, "", 4.0, 16.0)
    assert it.plain() | {"crossed_to_signal_ms": 4.0, "incident": "id", "story": "It was so."} == it.plain()


def test_what_an_incident_says_of_a_drill() -> None:
    """Of one that the daemon has written: its signal on the clock of whoever looked on."""
    (recorded,) = Path(__file__).parents[1].glob("report/incidents/schema-2/incidents/*/incident.json")
    doc = json.loads(recorded.read_text())
    it = told(doc)
    (kill,) = doc["kills"]
    assert (it.id, it.killed_by, it.gone_ms) == (doc["id"], "oomguard", kill["gone_ms"])
    assert it.signalled_ns == doc["opened_ns"] + round(kill["at_ms"] * 1e6)
    assert it.hard_ns == it.signalled_ns - round(kill["latency_ms"] * 1e6)
    assert it.story.startswith("oomguard killed ")
    assert told(doc | {"kills": [], "killed_by": None}).signalled_ns is None


def test_the_crossing_is_the_first_that_anybody_saw() -> None:
    assert outcome(replace(SEEN, crossed_ns=None)).to_signal_ms == 3.0
    assert outcome(told=replace(TOLD, hard_ns=500_000)).to_signal_ms == 4.5


@pytest.mark.parametrize(
    ("seen", "told", "why"),
    [
        (replace(SEEN, kernel_kills=1), None, "the kernel was first"),
        (replace(SEEN, kernel_kills=1), TOLD, "the kernel killed as well"),
        (SEEN, replace(TOLD, killed_by="kernel", signalled_ns=None), "the kernel was first"),
        (replace(SEEN, died_ns=None), TOLD, "nobody has ended the leak, though it was over the watermark"),
        (replace(SEEN, died_ns=None, crossed_ns=None), None, "nobody has ended the leak, and it never came to"),
        (SEEN, None, "no incident tells by whom"),
        (SEEN, replace(TOLD, killed_by=""), "not by the guard: It was so."),
    ],
)
def test_not_as_it_should_be(seen: Seen, told: Told | None, why: str) -> None:
    it = outcome(seen, told)
    assert why in it.why
    assert not it.ok
