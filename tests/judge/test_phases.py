"""The phases of a guard are the table and nothing else: it is complete, and no observation leads around it."""

from typing import get_args

from oomguard.judge.detect import TABLE, Event, Phase

PHASES: tuple[Phase, ...] = get_args(Phase)
EVENTS: tuple[Event, ...] = get_args(Event)
MOVES = {(before, after) for (before, _), after in TABLE.items()}

# What has no line in the table cannot happen there; why is what this list is for.
NOT_THERE = {
    "calm": "there is nothing to end, to wait for or to leave",
    "armed": "nothing was signalled; a new soft crossing is no news",
    "firing": "nothing was signalled yet; soft and hard are no news",
    "draining": "a victim is awaited whatever memory looks like meanwhile: only its end or its patience moves us",
    "cooling": "nothing is signalled, and soft is no news",
}


def test_every_phase_is_reached_and_left() -> None:
    assert {before for before, _ in MOVES} == set(PHASES)
    assert {after for _, after in MOVES} == set(PHASES)


def test_every_event_moves_something() -> None:
    assert {event for _, event in TABLE} == set(EVENTS)
    assert set(TABLE.values()) <= set(PHASES)


def test_calm_leads_everywhere_and_everything_leads_to_calm() -> None:
    for start in PHASES:
        reached = {start}
        while more := {after for before, after in MOVES if before in reached} - reached:
            reached |= more
        assert reached == set(PHASES), start


def test_nobody_is_awaited_but_after_a_signal() -> None:
    assert {key for key, after in TABLE.items() if after == "draining"} == {
        ("firing", "fired"),
        ("armed", "struck"),
        ("firing", "struck"),
        ("cooling", "struck"),
    }


def test_a_victim_is_awaited_to_its_end() -> None:
    """Or not at all, where the dead man was faster and our signal was never sent."""
    assert {event for before, event in TABLE if before == "draining"} == {"gone", "stuck", "yielded"}


def test_only_a_hard_watermark_or_a_stuck_victim_leads_to_firing() -> None:
    assert {event for (_, event), after in TABLE.items() if after == "firing"} == {"hard", "stuck"}


def test_what_is_not_in_the_table_has_its_reason() -> None:
    assert set(NOT_THERE) == {before for before in PHASES if any((before, event) not in TABLE for event in EVENTS)}
