"""Why nobody of ours acted: a table of all reasons, and the numbers that a person wants to see."""

from dataclasses import replace
from typing import Any

import pytest

from oomguard.model.codec import to_plain
from oomguard.model.facts import CgroupFacts, MemInfo, MemoryStat, Observation, Share, TargetId
from oomguard.model.policy import Amount, AvailableBelow, Clause, Guard, KillStep, MemoryAbove, NotifyStep, Watermark
from oomguard.workers.whynot import Before, why

MIB = 1 << 20
SECOND = 1_000_000_000
WEB = TargetId("web", "/system.slice/web.service")
HOST = TargetId("host", "/")
GUARD = Guard("web", WEB.cgroup, hard=Watermark((Clause((MemoryAbove(Amount(share=0.85)),)),), (KillStep(),)))
MACHINE = Guard("host", "/", hard=Watermark((Clause((AvailableBelow(Amount(bytes=51 * MIB)),)),), (KillStep(),)))


def seen(at_s: float, used_mib: int = 0, available_mib: int = 500, **more: Any) -> dict[str, Any]:
    facts = CgroupFacts(WEB.cgroup, 1, (used_mib + 40) * MIB, MemoryStat(0, 40 * MIB, 0, 0), limit_bytes=256 * MIB)
    host = MemInfo(1024 * MIB, 0, available_mib * MIB, 0, 0)
    plain: dict[str, Any] = to_plain(Observation(int(at_s * SECOND), host=host, cgroups=(facts,), **more))
    return plain


def before(target: TargetId, *observations: dict[str, Any]) -> Before:
    found = Before()
    for plain in observations:
        found.see(target.cgroup, plain, 100 * SECOND)
    return found


@pytest.mark.parametrize(
    ("guard", "crossed", "acted", "refused", "expected"),
    [
        (None, False, False, ("", ""), ("uncovered", "no guard covers /system.slice/web.service")),
        (replace(GUARD, mode="observe"), True, False, ("", ""), ("observe", "policy web was told to observe only")),
        (GUARD, True, False, ("BUDGET_SPENT", "x"), ("budget", "policy web: the kill budget is spent")),
        (GUARD, True, False, ("NO_VICTIM", "all are spared"), ("candidates", "policy web: all are spared")),
        (replace(GUARD, hard=None), False, False, ("", ""), ("no kill", "policy web has no kill among its steps")),
        (GUARD, True, True, ("", ""), ("late", "policy web had acted as well, and that was not enough or not in time")),
    ],
)
def test_every_reason(
    guard: Guard | None, crossed: bool, acted: bool, refused: tuple[str, str], expected: tuple[str, str]
) -> None:
    target = WEB if guard is not None else TargetId("", WEB.cgroup)
    told = why(target, guard, crossed, acted, refused, Before())
    assert (told["reason"], told["text"]) == expected


def test_how_near_it_came_to_the_watermark_is_told() -> None:
    """Not after the kill, when there is plenty again, and not of an hour ago: the worst of the minute before."""
    worst = before(WEB, seen(30, 250), seen(90, 182), seen(95, 100), seen(101, 3))
    told = why(WEB, GUARD, False, False, ("", ""), worst)
    assert told["reason"] == "watermark"
    assert told["text"].endswith("in the minute before: memory 71.1 % of 85 %")
    told = why(HOST, MACHINE, False, False, ("", ""), before(HOST, seen(95, 1, 212), seen(96, 1, 300)))
    assert told["text"].endswith("in the minute before: available 20.7 %, the line is 5 %")


def test_what_only_a_share_tells_is_better_than_nothing() -> None:
    plain: dict[str, Any] = to_plain(Observation(99 * SECOND, shares=(Share(WEB.cgroup, 100 * MIB),)))
    found = before(WEB, plain)
    assert found.used_bytes == 100 * MIB
    told = why(WEB, GUARD, False, False, ("", ""), Before())
    assert told["text"].endswith("its watermark was not seen to be reached")


def test_a_cgroups_own_limit_under_a_guard_of_the_machine() -> None:
    told = why(HOST, MACHINE, False, False, ("", ""), Before(), limit_of=WEB.cgroup)
    assert told["reason"] == "uncovered"
    assert told["text"] == f"no guard watches the limit of {WEB.cgroup}; policy host watches the machine"


def test_a_guard_that_only_tells_has_no_kill() -> None:
    tells = replace(GUARD, hard=Watermark((), (NotifyStep(),)))
    assert why(WEB, tells, True, False, ("", ""), Before())["reason"] == "no kill"
