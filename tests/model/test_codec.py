"""Everything of the model goes to plain data and comes back the same. Made from type hints: nothing is forgotten."""

import json
from dataclasses import fields, is_dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oomguard.model import codec, facts, incident, policy, verdict
from oomguard.model.codec import from_plain, to_plain

KINDS = [
    thing
    for module in (facts, policy, verdict, incident)
    for thing in vars(module).values()
    if isinstance(thing, type) and is_dataclass(thing) and thing.__module__ == module.__name__
]
# Bytes that are not UTF-8 arrive as surrogate escapes: names are that hostile, and the codec must not mind.
texts = st.text(st.characters(codec="utf-8") | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF), max_size=15)
st.register_type_strategy(str, texts)
st.register_type_strategy(float, st.floats(allow_nan=False))
# ``object`` in a seed is whatever a field of the judge's memory holds: plain values, or some of the model.
st.register_type_strategy(object, st.none() | st.integers() | texts | st.tuples(st.integers(), texts))

SAMPLE = verdict.ProcessRef(7, 8, "x", "/", 9)


def values(kind: type) -> st.SearchStrategy[object]:
    return st.from_type(kind)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_there_and_back(kind: type, data: st.DataObject) -> None:
    value = data.draw(values(kind))
    assert from_plain(to_plain(value)) == value


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_there_and_back_through_json(kind: type, data: st.DataObject) -> None:
    """The sealed plan and incident.json are JSON: nothing else than JSON has may come out."""
    value = data.draw(values(kind))
    again = from_plain(json.loads(json.dumps(to_plain(value))))
    assert again == value
    assert hash(again) == hash(value), "lists must have become tuples again, all the way down"


def test_every_kind_is_known_and_its_name_is_its_own() -> None:
    names = [kind.__name__ for kind in KINDS]
    assert len(names) == len(set(names)), "kind is how a value finds back to its class"
    assert {*names, "TargetId"} == set(codec._BY_KIND), "that one is a tuple, for it is a key"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_value_is_frozen_and_slotted(kind: type) -> None:
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert "__slots__" in vars(kind)
    assert "kind" not in {f.name for f in fields(kind)}, "the codec uses that name"


def test_a_newer_writers_fields_are_ignored() -> None:
    plain = {**to_plain(SAMPLE), "since": 12}
    assert from_plain(plain) == SAMPLE


def test_an_unknown_kind_and_a_missing_field_are_refused() -> None:
    with pytest.raises(KeyError):
        from_plain({"kind": "Nonsense"})
    with pytest.raises(KeyError):
        from_plain({"pid": 7})
    with pytest.raises(TypeError):
        from_plain({"kind": "ProcessRef", "pid": 7})


def test_defaults_stand_for_what_an_older_writer_did_not_know() -> None:
    assert from_plain({"kind": "Observation", "at_ns": 5}) == facts.Observation(5)


# -- the arithmetic of the model -----------------------------------------------------------------------------------


def test_the_machine_uses_what_is_not_available() -> None:
    assert facts.MemInfo(100, 5, 30, 0, 0).used_bytes == 70


@pytest.mark.parametrize(
    ("stat", "current", "unreclaimable"),
    [
        pytest.param(None, 100, 100, id="without memory.stat its upper bound"),
        pytest.param(facts.MemoryStat(10, 90, 0, 0), 100, 10, id="cache is not use"),
        pytest.param(facts.MemoryStat(10, 90, 80, 0), 100, 90, id="tmpfs is"),
        pytest.param(facts.MemoryStat(10, 40, 0, 50), 100, 10, id="slab that can be reclaimed is not"),
        pytest.param(facts.MemoryStat(0, 200, 0, 0), 100, 0, id="read a moment later: never below nothing"),
        pytest.param(facts.MemoryStat(10, 20, 30, 0), 100, 100, id="read a moment apart: shmem over file"),
    ],
)
def test_what_a_cgroup_holds(stat: facts.MemoryStat | None, current: int, unreclaimable: int) -> None:
    assert facts.CgroupFacts("/x", 1, current, stat).unreclaimable_bytes == unreclaimable


def test_what_a_process_holds() -> None:
    process = facts.ProcessFacts(7, 8, 1, "x", "/", 0, "S", 10, 20, 30)
    assert process.held_bytes == 60
    assert replace(process, swap_bytes=0).held_bytes == 30


def test_amounts_are_bytes_or_a_share() -> None:
    assert policy.Amount(bytes=7).of(1000) == 7
    assert policy.Amount(share=0.5).of(1000) == 500
    assert policy.Amount(bytes=0, share=0.5).of(1000) == 0
