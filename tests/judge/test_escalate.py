"""One victim's way from the first signal to its end."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oomguard.judge.escalate import PATIENCE_NS, TABLE, Pursuit, Stage, Turn, advance, begin
from oomguard.model.verdict import Victim

from .world import SECOND

VICTIM = Victim(1, "process", "/x.service", 0, "x.service", (), 0, 1)
STAGES: tuple[Stage, ...] = get_args(Stage)
TURNS: tuple[Turn, ...] = get_args(Turn)


@pytest.mark.parametrize(
    ("grace_s", "turns", "expected"),
    [
        pytest.param(2, ["gone"], ["gone"], id="it obeys SIGTERM"),
        pytest.param(2, ["late", "gone"], ["kill", "gone"], id="it does not, and is killed"),
        pytest.param(2, ["deeper", "gone"], ["kill", "gone"], id="no time for its grace"),
        pytest.param(2, ["late", "late"], ["kill", "stuck"], id="uninterruptible: given up"),
        pytest.param(2, ["failed"], ["stuck"], id="not permitted: given up at once"),
        pytest.param(0, ["deeper", "deeper", "gone"], ["kill", "kill", "gone"], id="there is nothing after SIGKILL"),
        pytest.param(0, ["late", "gone"], ["stuck", "stuck"], id="what was given up is not counted as ended"),
        pytest.param(0, ["gone", "late", "failed"], ["gone", "gone", "gone"], id="gone is gone"),
    ],
)
def test_ways(grace_s: int, turns: list[Turn], expected: list[Stage]) -> None:
    pursuit = begin(VICTIM, grace_s * SECOND, 100)
    found = []
    for i, turn in enumerate(turns):
        pursuit = advance(pursuit, turn, 200 + i)
        found.append(pursuit.stage)
    assert found == expected


def test_the_first_signal_is_term_only_with_a_grace() -> None:
    assert begin(VICTIM, 0, 100) == Pursuit(VICTIM, "kill", 100, 100 + PATIENCE_NS)
    assert begin(VICTIM, 7, 100) == Pursuit(VICTIM, "term", 100, 107)


def test_after_its_grace_the_patience_begins_anew_and_the_first_signal_is_remembered() -> None:
    after = advance(begin(VICTIM, 7, 100), "late", 150)
    assert after == Pursuit(VICTIM, "kill", 100, 150 + PATIENCE_NS)


@given(st.integers(0, 10), st.lists(st.sampled_from(TURNS), max_size=20))
def test_no_way_leads_back(grace: int, turns: list[Turn]) -> None:
    pursuit, order = begin(VICTIM, grace, 0), list(STAGES)
    for i, turn in enumerate(turns):
        after = advance(pursuit, turn, i)
        assert order.index(after.stage) >= order.index(pursuit.stage)
        assert after.stage == pursuit.stage or (pursuit.stage, turn) in TABLE
        pursuit = after


def test_every_stage_before_the_end_has_an_end() -> None:
    for stage in ("term", "kill"):
        assert (stage, "late") in TABLE, "time alone must get us on"
        assert (stage, "gone") in TABLE
        assert (stage, "failed") in TABLE
