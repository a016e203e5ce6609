"""What Prometheus is told: names by its conventions, bounded, of one page and of incidents that are counted once."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from oomguard.cli import metrics, tally
from oomguard.cli.processes import Process
from oomguard.model.facts import Pressure, Stall
from oomguard.model.statuspage import Averages, Clause, Condition, Growing, GuardLine, Numbers, StatusPage

from .test_status import RECORDED

MIB = 1 << 20
PROCESSES = [Process("core", 20 * MIB, 12 * MIB, 1.5), Process("reaper", 10 * MIB, MIB, 0.1)]
EIGHTY = Clause((Condition("memory_above", "", "millionths", 800_000, 0),), 0, False)
LAST = Clause((Condition("memory_above", "", "bytes", 240 * MIB, 0),), 0, True)
STALL = Clause((Condition("stall_above", "some", "us", 150_000, 10**9),), 0, False)


def page(**changes: Any) -> StatusPage:
    """A machine of 16 GiB with two policies."""
    numbers = Numbers(
        pid=7,
        started_ns=1_700_000_000 * 10**9,
        armed=1,
        turns=77,
        kills=3,
        kernel_oom_kills=4,
        mem_total_bytes=16 << 30,
        mem_available_bytes=4 << 30,
        swap_total_bytes=1 << 30,
        swap_free_bytes=1 << 29,
    )
    web = GuardLine("web", "/system.slice/web-*.service", "enforce", "armed", 7, 200 * MIB, 256 * MIB)
    more = {
        "path": "/system.slice/web-1.service",
        "entered_ns": 90 * 10**9,
        "kills": 2,
        "snapshots": 3,
        "pressure": Averages((12.5, 3.0, 1.0), (2.5, 1.0, 0.0)),
        "soft": (EIGHTY, STALL),
        "hard": (LAST,),
    }
    guards = (
        GuardLine("host", "/", "observe", "calm", 1, 12 << 30, 16 << 30),
        GuardLine(**{name: getattr(web, name) for name in web.__slots__} | more),
    )
    stall = Stall(1.0, 1.0, 1.0, 5_000_000)
    known = {
        "pressure": Pressure(stall, stall),
        "growing": (Growing("/system.slice/web-1.service", 200 * MIB, 10**10, 100 * MIB, 5 * 10**9),),
        "degraded": (("psi", "not here"),),
    }
    return StatusPage(
        **{"numbers": numbers, "guards": guards, "version": "9.9.9", "degraded": (), "beat_ns": 99 * 10**9}
        | known
        | changes
    )


def told(shown: StatusPage | None = None, counted: tally.Tally | None = None) -> metrics.Sheet:
    return metrics.sheet(page() if shown is None else shown, counted, PROCESSES, 1_700_000_100.0, 100 * 10**9)


# --------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("it", metrics.METRICS, ids=lambda it: it.name)
def test_a_name_is_as_prometheus_wants_it(it: metrics.Metric) -> None:
    """prometheus.io/docs/practices/naming: base units, _total for what only rises, a unit for what has one."""
    assert re.fullmatch(r"oomguard(_[a-z]+)+", it.name)
    assert (it.kind == "counter") == it.name.endswith("_total")
    assert not re.search(r"_(ms|milliseconds|kb|kib|mib|percent|count|sum|bucket)(_|$)", it.name)
    assert it.kind != "histogram" or it.name.endswith("_seconds")
    assert it.help.endswith(".")
    assert len(it.help) > 12
    assert not {"instance", "job", "le"} & set(it.labels), "these are Prometheus's"


def test_no_name_twice_and_none_unused(tmp_path: Path) -> None:
    names = [it.name for it in metrics.METRICS]
    assert len(names) == len(set(names))
    counted = tally.Tally()
    counted.expect(["web"])
    assert {family.name for family in told(None, counted).families()} == {name.removesuffix("_total") for name in names}


def test_labels_are_those_of_the_list() -> None:
    counted = tally.Tally()
    counted.expect(["web"])
    made = told(None, counted)
    labels = {it.name: it.labels for it in metrics.METRICS}
    for name, samples in [*made.values.items(), *made.spreads.items()]:
        assert {len(values) for values in samples} == {len(labels[name])}, name


# -------------------------------------------------------------------------------------------------------------- values


def test_nobody_runs() -> None:
    made = metrics.sheet(None, None, [], 0.0, 0)
    assert made.values == {"oomguard_up": {(): False}, "oomguard_incidents_readable": {(): False}}


def test_times_are_those_of_the_wall() -> None:
    values = told().values
    assert values["oomguard_start_time_seconds"] == {(): 1_700_000_000.0}
    assert values["oomguard_last_turn_time_seconds"] == {(): 1_700_000_099.0}
    assert values["oomguard_policy_phase_start_time_seconds"] == {("web",): 1_700_000_090.0}


def test_phases_are_one_and_zero() -> None:
    phases = {
        labels[1]: value for labels, value in told().values["oomguard_policy_phase"].items() if labels[0] == "web"
    }
    assert phases == {"calm": 0, "armed": 1, "firing": 0, "draining": 0, "cooling": 0}


def of(kind: str, number: int, unit: str = "bytes") -> Condition:
    return Condition(kind, "", unit, number, 0)


def one(*conditions: Condition) -> Clause:
    return Clause(conditions, 0, False)


@pytest.mark.parametrize(
    ("clauses", "left"),
    [
        ((), None),
        ((STALL,), None),
        ((EIGHTY,), int(0.8 * 256 * MIB) - 200 * MIB),
        ((LAST,), 40 * MIB),
        ((LAST, EIGHTY), int(0.8 * 256 * MIB) - 200 * MIB),  # one of the tables is enough
        ((one(*LAST.all_of, *EIGHTY.all_of),), 40 * MIB),  # all of a table must hold
        ((one(*LAST.all_of, *STALL.all_of),), 40 * MIB),
        ((one(of("available_below", 5 << 30)),), -(1 << 30)),  # crossed
        ((one(of("available_below", 125_000, "millionths")),), 2 << 30),
        ((one(of("available_below", 1 << 30), of("swap_free_below", 1 << 28)),), 3 << 30),
        ((one(of("swap_above", 10 * MIB)),), 10 * MIB),
    ],
)
def test_the_distance_to_a_watermark(clauses: tuple[Clause, ...], left: float | None) -> None:
    shown = page()
    assert metrics.distance_bytes(shown, shown.guards[1], clauses) == left


def test_a_condition_on_swap_where_there_is_none_is_no_distance() -> None:
    numbers = Numbers(mem_total_bytes=16 << 30, mem_available_bytes=4 << 30)
    shown = page(numbers=numbers)
    both = one(of("available_below", 1 << 30), of("swap_free_below", 1 << 28))
    assert metrics.distance_bytes(shown, shown.guards[0], (both,)) == 3 << 30
    assert metrics.distance_bytes(shown, shown.guards[0], (one(of("swap_free_below", 1 << 28)),)) is None


# -------------------------------------------------------------------------------------------------------------- bounds


def test_no_machine_makes_it_large() -> None:
    """As many policies as a daemon takes, with paths and notes as long as there is room for."""
    guards = tuple(
        GuardLine(f"policy{n}", f"/{'x' * 200}{n}", "enforce", "calm", 1, 1, 2, soft=(EIGHTY,), hard=(LAST,))
        for n in range(128)
    )
    growing = tuple(Growing(f"/{'y' * 180}{n}", n, 2, 1, 1) for n in range(32))
    counted = tally.Tally()
    counted.expect(guard.name for guard in guards)
    left_out = (("cgroups that grow", 5),)
    made = told(
        page(guards=guards, growing=growing, degraded=[(f"w{n}", "y") for n in range(90)], left_out=left_out), counted
    )
    samples = [sample for family in made.families() for sample in family.samples]
    assert len(samples) < 5000
    assert max(len(value) for sample in samples for value in sample.labels.values()) <= metrics.MOST_PATH
    assert made.values["oomguard_exporter_cut"] == {
        ("cgroups",): 32 - metrics.MOST_CGROUPS + 5,
        ("paths",): 128 + 32,
        ("degraded",): 90 - metrics.MOST_NOTES,
        ("policies",): 128 - tally.MOST_POLICIES,
    }
    assert len(made.values["oomguard_cgroup_memory_bytes"]) == metrics.MOST_CGROUPS
    assert {labels[0][:3] for labels in made.values["oomguard_cgroup_memory_bytes"]} == {"..."}


# ----------------------------------------------------------------------------------------------------------- incidents

HEAD = {
    "schema": 2,
    "policy": "web",
    "kind": "hard",
    "complete": True,
    "ended": "",
    "freed_bytes": 1000,
    "kills": [{"held": False, "errno": 0, "latency_ms": 3.0, "gone_ms": 30.0}],
    "after": [1, 2, 3],
    "verdict": {"helped": True, "kernel_killed": False, "unable": None},
}
KILL = HEAD["kills"][0]  # type: ignore[index]


def write(place: Path, number: int = 1, at_s: float | None = None, **changes: Any) -> Path:
    """An incident as far as it is read."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() if at_s is None else at_s))
    directory = place / "incidents" / f"{stamp}-web-{number:06x}"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "incident.json").write_text(json.dumps(HEAD | changes))
    return directory


def count(place: Path, counted: tally.Tally | None = None) -> tally.Tally:
    counted = counted or tally.Tally()
    assert counted.look(place)
    return counted


def test_a_real_incident_is_counted(tmp_path: Path) -> None:
    directory = tmp_path / "incidents" / RECORDED.parent.name
    directory.mkdir(parents=True)
    (directory / "incident.json").write_bytes(RECORDED.read_bytes())
    doc = json.loads(RECORDED.read_text())
    counted = count(tmp_path)
    assert counted.incidents[doc["policy"], doc["kind"]] == 1
    assert sum(counted.kills.values()) == len(doc["kills"]) > 0
    assert counted.latency[doc["policy"],].sum_s == pytest.approx(sum(it["latency_ms"] for it in doc["kills"]) / 1e3)
    assert counted.freed_bytes[doc["policy"],] == doc["freed_bytes"]
    assert sum(counted.verdicts.values()) >= 1


def test_each_is_counted_once_and_stays_counted_when_it_is_removed(tmp_path: Path) -> None:
    first = write(tmp_path)
    counted = count(count_twice := tmp_path)
    count(count_twice, counted)
    assert counted.incidents["web", "hard"] == 1
    (first / "incident.json").unlink()
    first.rmdir()
    write(tmp_path, 2)
    count(tmp_path, counted)
    assert counted.incidents["web", "hard"] == 2
    assert counted.kills["web", "gone"] == 2
    assert counted.verdicts["web", "helped"] == 2


def test_what_goes_on_is_counted_when_it_has_ended_and_its_verdict_when_that_is_known(tmp_path: Path) -> None:
    write(tmp_path, complete=False, after=[], verdict=None)
    counted = count(tmp_path)
    assert not counted.incidents
    write(tmp_path, after=[1], verdict={"helped": None, "kernel_killed": False, "unable": None})
    count(tmp_path, counted)
    assert (counted.incidents["web", "hard"], sum(counted.verdicts.values())) == (1, 0)
    write(tmp_path)
    count(tmp_path, counted)
    assert (counted.incidents["web", "hard"], counted.verdicts["web", "helped"]) == (1, 1)


def test_an_old_one_whose_last_look_never_came_is_counted_as_it_is(tmp_path: Path) -> None:
    write(tmp_path, at_s=time.time() - 3600, after=[1], ended="the daemon ended", complete=False)
    assert count(tmp_path).verdicts["web", "helped"] == 1


@pytest.mark.parametrize(
    ("kill", "outcome"),
    [
        ({}, "gone"),
        ({"gone_ms": None}, "stuck"),
        ({"errno": 1, "gone_ms": None}, "failed"),
        ({"held": True, "gone_ms": None}, "held"),
    ],
)
def test_what_became_of_a_victim(tmp_path: Path, kill: dict[str, Any], outcome: str) -> None:
    write(tmp_path, kills=[KILL | kill])
    counted = count(tmp_path)
    assert {words[1]: number for words, number in counted.kills.items() if number} == {outcome: 1}


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        ({"helped": False}, ["did_not_help"]),
        ({"helped": None, "kernel_killed": True}, ["kernel_killed"]),
        (
            {"helped": False, "kernel_killed": True, "unable": "nobody may be ended"},
            ["did_not_help", "kernel_killed", "unable"],
        ),
    ],
)
def test_what_the_minute_after_says(tmp_path: Path, verdict: dict[str, Any], words: list[str]) -> None:
    write(tmp_path, verdict=HEAD["verdict"] | verdict)  # type: ignore[operator]
    assert [key[1] for key, number in count(tmp_path).verdicts.items() if number] == words


def test_where_no_policy_guards(tmp_path: Path) -> None:
    write(tmp_path, policy="", kind="kernel", kills=[])
    assert count(tmp_path).incidents[tally.NOBODY, "kernel"] == 1


def test_policies_of_years_are_put_together(tmp_path: Path) -> None:
    for number in range(tally.MOST_POLICIES + 5):
        write(tmp_path, number, policy=f"policy{number}")
    counted = count(tmp_path)
    assert counted.incidents[tally.OTHERS, "hard"] == 5
    assert len(counted.others) == 5
    assert len({policy for policy, _ in counted.incidents}) == tally.MOST_POLICIES + 1


def test_a_policy_begins_at_zero(tmp_path: Path) -> None:
    """A time series that begins at one has, for Prometheus, never risen: no alert."""
    counted = tally.Tally()
    counted.expect(["web"])
    assert set(counted.kills.values()) == {0}
    assert {outcome for _, outcome in counted.kills} == set(tally.OUTCOMES)
    assert counted.latency["web",].buckets()[-1] == ("+Inf", 0.0)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"schema": 99}',
        '{"schema": 2, "complete": true}',
        '{"schema": 2, "complete": true, "ended": "", "policy": "x", "kind": "y"}',
    ],
)
def test_a_damaged_one_is_none(tmp_path: Path, content: str) -> None:
    directory = write(tmp_path)
    (directory / "incident.json").write_text(content)
    assert not any(count(tmp_path).kills.values())
    (directory / "incident.json").unlink()
    assert not any(count(tmp_path).kills.values())


def test_a_damaged_one_is_looked_at_again_for_as_long_as_it_may_be_written(tmp_path: Path) -> None:
    fresh, old = write(tmp_path, 1), write(tmp_path, 2, at_s=time.time() - 3600)
    for it in (fresh, old):
        (it / "incident.json").write_text("{")
    counted = count(tmp_path)
    for it in (fresh, old):
        (it / "incident.json").write_text(json.dumps(HEAD))
    count(tmp_path, counted)
    assert counted.incidents["web", "hard"] == 1


def test_what_may_not_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "incidents").touch()
    assert not tally.Tally().look(tmp_path)


def test_a_spread_is_cumulative() -> None:
    spread = tally.Spread()
    for seconds in (0.0005, 0.001, 0.0011, 0.2, 99.0):
        spread.add(seconds)
    buckets: dict[str, float] = dict(spread.buckets())
    assert (buckets["0.001"], buckets["0.0025"], buckets["0.1"], buckets["0.25"]) == (2, 3, 3, 4)
    assert (buckets["10.0"], buckets["+Inf"]) == (4, 5)
    assert spread.sum_s == pytest.approx(99.2026)
