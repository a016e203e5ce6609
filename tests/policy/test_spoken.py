"""A plan in its own language: what is shown is a policy, and means the same."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from oomguard.model.policy import Plan
from oomguard.policy import PolicyError, load, spoken, toml, units
from oomguard.policy.origins import Origins

from .grammar import POLICIES, text
from .helpers import plan_of

ROOT = Path(__file__).parents[2]


def bare(plan: Plan) -> Plan:
    """Without what tells only where it stood. A URL that stood in a policy stands elsewhere in what is shown of it."""
    sinks = tuple(replace(sink, origin="", file="" if sink.service else sink.file) for sink in plan.sinks)
    return replace(plan, guards=tuple(replace(guard, origin="") for guard in plan.guards), files=(), sinks=sinks)


def shown(plan: Plan) -> str:
    return toml.document(spoken.tables(plan), Origins(plan.files).remark)


def again(directory: Path, plan: Plan) -> Plan:
    return plan_of(directory, shown(plan))


@pytest.mark.parametrize("path", [ROOT / "etc/oomguard.toml", *sorted((ROOT / "etc/examples").glob("*.toml"))])
def test_what_we_ship_means_the_same_when_it_is_shown(tmp_path: Path, path: Path) -> None:
    copy = tmp_path / "copy.toml"
    copy.write_text(path.read_text())
    plan = load([copy])
    assert bare(again(tmp_path, plan)) == bare(plan)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much], deadline=None)
@given(POLICIES)
def test_any_policy_means_the_same_when_it_is_shown(tables: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        try:
            plan = plan_of(directory, text(tables))
        except PolicyError:
            return  # test_any_text is about those
        assert bare(again(directory, plan)) == bare(plan)


@pytest.mark.parametrize("number", [1, 999, 1000, 1500, 10**6, 10**9, 90 * 10**9, 3600 * 10**9, 10**9 + 1])
def test_a_time_is_shown_to_the_nanosecond(number: int) -> None:
    assert units.duration(units.shown_duration(number)) == number


@pytest.mark.parametrize("share", ["5%", "33.3333333333333333%", "0.0000001%", "100%", "12.5%", "7.1%"])
def test_a_share_is_shown_to_the_last_bit(share: str) -> None:
    assert units.share(units.shown_share(units.share(share))) == units.share(share)


FIRST = """\
[policy.host]
cgroup = "/"
cooldown = "7s"
[policy.host.soft]
when = [
  { available_below = "12%" },
  { stall_above = { some = "150ms" } },
]
do = ["snapshot", { kill = {} }]
[policy.old]
cgroup = "/old"
hard = { when = [{ available_below = "5%" }], do = ["kill"] }
"""
SECOND = """\
[policy.host]
cooldown = "9s"
[policy.host.victim]
never = [{ comm = "sshd*" }]
[policy.old]
disabled = true
"""


def test_everything_says_where_it_comes_from(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, FIRST, SECOND)
    one, two = (str(tmp_path / f"{number}.toml") for number in (0, 1))
    pairs = [line.split("  # ") for line in shown(plan).splitlines() if "  # " in line]
    lines = {said.strip(): origin for said, origin in pairs}
    assert lines["[policy.host]"] == f"{one}:1"
    assert lines['cgroup = "/"'] == f"{one}:2"
    assert lines['cooldown = "9s"'] == f"{two}:2"
    assert lines['mode = "enforce"'] == "default"
    assert lines['{ available_below = "12%" },'] == f"{one}:6"
    assert lines['{ stall_above = { some = "150ms", within = "1s" } },'] == f"{one}:7; within by default"
    assert lines["[policy.host.victim]"] == f"{two}:3"
    assert lines['{ comm = "sshd*" },'] == f"{two}:4"
    assert lines["avoid = []"] == "default"
    assert lines["[daemon]"] == "default"
    assert list(Origins(plan.files).disabled()) == [("old", two, 6)]
