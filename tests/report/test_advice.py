"""The rules of the advice: each speaks of the incident that it is for, and is silent where all is well."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from oomguard.report import store
from oomguard.report.advice import RULES, Case, advise
from tests.incidents.recorded import Recorded
from tests.judge.world import MIB, Body, host_guard, limit_guard, plan, process

from . import example

LEAK, WEB = "/system.slice/leak.service", "/system.slice/web.service"
Doc = dict[str, Any]


def settled(world: Any) -> bool:
    return bool(world.died) and all(state.phase == "calm" for state in world.state.targets.values())


def leaking(grows: float = 60, comm: str = "leak") -> Doc:
    body = Body(process(500, comm, LEAK, 10), grows)
    world = Recorded(plan(host_guard()), [body, Body(process(30, "postgres", "/system.slice/pg.service", 200))])
    world.run(120_000, settled)
    return world.incident()


def at_its_limit(held: float = 240, grows: float = 0) -> Doc:
    """Of 256 MiB, and the machine has plenty."""
    body = Body(process(500, "web", WEB, 200), grows)
    world = Recorded(plan(limit_guard(WEB)), [body], limits={WEB: 256}, total=4000)
    world.run(100)
    world.bodies[0].size_mib = held
    world.run(30_000, settled)
    doc = world.incident()
    doc["evidence"]["meminfo"] = {"soft": {"MemAvailable": 3000 * MIB, "MemTotal": 4000 * MIB}}
    return doc


def sudden() -> Doc:
    """From 50 to 750 MiB between two looks."""
    bodies = [Body(process(500, "batch", LEAK, 50)), Body(process(30, "postgres", "/system.slice/pg.service", 150))]
    world = Recorded(plan(host_guard(soft=80)), bodies)
    world.run(3000)
    world.bodies[0].size_mib = 720
    world.run(60_000, settled)
    return world.incident()


def many(start: int, end: int) -> Doc:
    """A service whose workers were so many at first, and then so many."""
    workers = [Body(process(1000 + i, "worker", WEB, 3)) for i in range(start)]
    world = Recorded(plan(host_guard(soft=60)), workers, total=1000)
    world.run(1000)
    while world.available > 40:
        number = len(world.bodies)
        if number < end:
            world.bodies.append(Body(process(1000 + number, "worker", WEB, 3), size_mib=3))
        else:
            for body in world.bodies:
                body.size_mib += 0.2
        world.run(20)
    world.run(60_000, settled)
    return world.incident()


def with_command(doc: Doc, command: str) -> Doc:
    doc = copy.deepcopy(doc)
    doc["evidence"]["cmdlines"] = {"500": command}
    return doc


def with_evidence(doc: Doc, **parts: Any) -> Doc:
    doc = copy.deepcopy(doc)
    doc["evidence"] |= {"taken": [{"stage": "soft", "at_ms": 0.0}, {"stage": "hard", "at_ms": 2000.0}], **parts}
    return doc


def cgroup_files(high: object, current: int, throttled: int) -> dict[str, Any]:
    files = {"memory.high": high, "memory.current": current, "memory.events": {"high": throttled}}
    return {"hard": {LEAK: files}}


def refaults(again: int) -> Doc:
    stages = {"soft": {"workingset_refault_file": 1000}, "hard": {"workingset_refault_file": 1000 + again}}
    meminfo = {"hard": {"Cached": 60 * MIB, "MemTotal": 1000 * MIB}}
    return with_evidence(LEAKING, vmstat=stages, meminfo=meminfo)


def memory(**fields: int) -> Doc:
    return with_evidence(LEAKING, meminfo={"hard": {"MemTotal": 1000 * MIB, **{n: v * MIB for n, v in fields.items()}}})


def told(**changes: Any) -> Doc:
    return {**copy.deepcopy(LEAKING), **changes}


def notified(text: str) -> Doc:
    entry = {"at_ms": 1.0, "what": "notify", "text": text}
    return told(kind="hard", killed_by="none", victims=[], kills=[], timeline=[entry])


def look(again: bool) -> dict[str, Any]:
    victim = {"comm": "leak", "cgroup": LEAK, "restarted": True, "bytes": 400 * MIB if again else MIB, "again": again}
    return {"at_s": 60.1, "available_bytes": 300 * MIB, "victims": [victim]}


LEAKING, TIGHT = leaking(), at_its_limit()
CASES: dict[str, tuple[Callable[[], Doc], Callable[[], Doc]]] = {  # rule: (speaks of this, is silent about that)
    "leak": (lambda: LEAKING, sudden),
    "one large allocation": (sudden, lambda: LEAKING),
    "limit too tight": (lambda: TIGHT, lambda: at_its_limit(210, grows=6)),
    "fork storm": (lambda: many(80, 280), lambda: many(200, 200)),
    "many processes": (lambda: many(200, 200), lambda: LEAKING),
    "heap without a limit": (
        lambda: with_command(LEAKING, "/usr/bin/java -jar app.jar"),
        lambda: with_command(LEAKING, "/usr/bin/java -Xmx512m -jar app.jar"),
    ),
    "throttled by memory.high": (
        lambda: with_evidence(LEAKING, cgroups=cgroup_files(500 * MIB, 499 * MIB, 40_000)),
        lambda: with_evidence(LEAKING, cgroups=cgroup_files("max", 499 * MIB, 0)),
    ),
    "page cache thrash": (lambda: refaults(40_000), lambda: refaults(500)),
    "tmpfs": (lambda: memory(Shmem=400), lambda: memory(Shmem=20)),
    "kernel memory": (lambda: memory(SUnreclaim=350, PageTables=20), lambda: memory(SUnreclaim=40, PageTables=20)),
    "back again": (lambda: told(after=[look(again=True)]), lambda: told(after=[look(again=False)])),
    "no guard": (lambda: told(killed_by="kernel", policy="", guard=None), lambda: LEAKING),
    "the kernel was first": (lambda: told(killed_by="kernel", kind="kernel"), lambda: LEAKING),
    "nobody to take": (
        lambda: notified("nobody may be killed; the largest, postgres[30] with 200 MiB: never: comm postgres"),
        lambda: LEAKING,
    ),
}


def test_what_stood_still_where_nobody_watches() -> None:
    doc = told(kind="stall", killed_by="none", policy="", cgroup="/lxc.payload/c1", guard=None)
    (advice,) = [advice for advice in advise(doc, most=99) if advice.rule == "no guard"]
    assert advice.saw == "/lxc.payload/c1 stood still, and no policy watches it."
    assert 'cgroup = "/lxc.payload/c1"' in advice.do[0]


def test_every_rule_has_its_case() -> None:
    assert set(CASES) == set(RULES)


@pytest.mark.parametrize("rule", CASES)
def test_it_speaks_of_what_it_is_for(rule: str) -> None:
    advice = RULES[rule](Case(CASES[rule][0]()))
    assert advice is not None
    assert advice.rule in (rule, "observe mode", "budget spent")
    assert advice.saw.endswith(".")
    assert advice.do


@pytest.mark.parametrize("rule", CASES)
def test_it_is_silent_where_that_is_well(rule: str) -> None:
    assert RULES[rule](Case(CASES[rule][1]())) is None


@pytest.mark.parametrize(
    ("doc", "first"),
    [
        (lambda: LEAKING, "leak"),
        (sudden, "one large allocation"),
        (lambda: many(80, 280), "fork storm"),
        (lambda: many(200, 200), "many processes"),
        (lambda: TIGHT, "limit too tight"),
        (lambda: notified("the kill budget is spent, nobody is killed"), "budget spent"),
        (lambda: told(killed_by="kernel", mode="observe"), "observe mode"),
        (lambda: with_command(leaking(comm="node"), "node server.js"), "heap without a limit"),
    ],
)
def test_what_is_said_first(doc: Callable[[], Doc], first: str) -> None:
    assert advise(doc())[0].rule == first


def test_a_brake_of_ours_is_not_called_its_owners_limit() -> None:
    world = Recorded(plan(host_guard(brake=True)), [Body(process(500, "leak", LEAK, 10), 60)])
    world.run(120_000, settled)
    doc = world.incident()
    ours = next(a["value"] for t in doc["ring"] for a in t["actions"] if a["kind"] == "Lease")
    doc = with_evidence(doc, cgroups=cgroup_files(ours, ours, 4000))
    assert RULES["throttled by memory.high"](Case(doc)) is None
    doc = with_evidence(doc, cgroups=cgroup_files(ours + 4096, ours + 4096, 4000))
    assert RULES["throttled by memory.high"](Case(doc)) is not None


def test_a_machine_that_swaps_makes_no_large_allocation_of_a_leak() -> None:
    """MemAvailable fell by 118 MiB within a second there, while the leak took 30."""
    assert [advice.rule for advice in advise(store.load_file(example.PACKED))] == ["leak"]


def test_hostile_names_stay_one_line() -> None:
    for advice in advise(leaking(comm="a\nb\x1b[2J"), most=99):
        assert advice.saw.isprintable()
