"""Whatever stands in a file: a plan, or faults with lines in that file. Never a traceback, never silence."""

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from oomguard.model import codec
from oomguard.model.policy import Plan
from oomguard.policy import PolicyError, load, schema

GOOD = """\
[daemon]
heap = "4MiB"
incidents = { max_count = 7, max_bytes = "1GiB" }
[policy.host]
cgroup = "/"
mode = "observe"
cooldown = "1m"
budget = { kills = 3, per = "5m" }
[policy.host.soft]
when = [
  { available_below = ["12%", "6GiB"], swap_free_below = 1024, lasting = "2s" },
  { stall_above = { full = "1s", within = "2s" }, memory_above = "80%" },
]
do = ["snapshot", { notify = {} }, "nominate"]
[policy.host.hard]
when = [{ memory_above = "95%" }, { pressure_above = { full = "20%", over = "60s" } }]
do = [{ set_oom_score_adj = { to = 1000, for = "1h" } }, { kill = { grace = "2s" } }]
[policy.host.victim]
take = "subtree"
never = [{ comm = "sshd*", unit = "ssh.service" }, { cgroup = "/user.slice/**" }]
"""

TABLES = [value for value in vars(schema).values() if isinstance(value, type) and issubclass(value, schema.Table)]
WORDS = sorted({field.alias or name for table in TABLES for name, field in table.model_fields.items()})


def compiled(raw: bytes) -> Plan | PolicyError:
    """What becomes of a file, checked for what must hold of anything."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "a.toml"
        path.write_bytes(raw)
        result = _loaded(path)
    if isinstance(result, Plan):
        assert codec.from_plain(codec.to_plain(result)) == result
        return result
    assert result.faults
    for fault in result.faults:
        assert fault.file == str(path)
        assert 1 <= fault.line <= raw.count(b"\n") + 1, fault
        assert fault.message
        assert len(str(fault).splitlines()) <= 2, "the message, and the hint"
    return result


def _loaded(path: Path) -> Plan | PolicyError:
    try:
        return load([path])
    except PolicyError as error:
        return error


def test_the_text_that_is_mangled_below_is_right() -> None:
    assert isinstance(compiled(GOOD.encode()), Plan)


@given(st.binary())
def test_any_bytes(raw: bytes) -> None:
    compiled(raw)


@example("'\x1e")  # ends a line for str.splitlines, not for TOML
@given(st.text() | st.text(st.sampled_from("[]{}=.,\"'\\#\n policy.host1")))
def test_any_text(text: str) -> None:
    compiled(text.encode("utf-8", "surrogatepass"))


@given(st.data())
@settings(max_examples=300)
def test_a_policy_with_pieces_lost_doubled_and_misplaced(data: st.DataObject) -> None:
    text = GOOD
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 30)))
        there = data.draw(st.integers(0, len(text)))
        piece = data.draw(st.sampled_from(["", text[start:end], '"', "\n", "{", "]", "= 1", *WORDS]))
        text = text[:there] + piece + text[there + data.draw(st.integers(0, 9)) :]
    compiled(text.encode())


def written(value: Any) -> str:
    """A value as TOML."""
    match value:
        case bool():
            return str(value).lower()
        case dict():
            return "{" + ", ".join(f"{_quoted(key)} = {written(inner)}" for key, inner in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(written, value)) + "]"
        case str():
            return _quoted(value)
        case _:
            return str(value)


def _quoted(text: str) -> str:
    return '"' + "".join(c if c.isalnum() or c in " /*.%-_" else f"\\U{ord(c):08x}" for c in text) + '"'


NAMES = st.sampled_from(WORDS) | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
SCALARS = (
    st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["5%", "150ms", "1s", "1GiB", "/", "/a/**", "kill", "observe", "auto", "60s", *WORDS])
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4), max_leaves=12
)
# Every key of the language with any value at all: what pydantic can find fault with, it will.
PLAUSIBLE = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=6),
    max_leaves=25,
)


@given(st.dictionaries(NAMES | st.sampled_from(["policy", "daemon"]), VALUES, max_size=5))
def test_any_table(table: dict[str, Any]) -> None:
    compiled("\n".join(f"{_quoted(key)} = {written(value)}" for key, value in table.items()).encode())


@given(st.dictionaries(st.sampled_from(sorted(schema.GuardTable.model_fields)), PLAUSIBLE, max_size=8))
@settings(max_examples=300)
@example({"hard": {"when": [{"memory_above": [[[]]]}], "do": [[]]}})
@example({"disabled": True, "hard": 3})
@example({"disabled": 1})
@example({"cooldown": "9" * 70 + "d"})
@example({"budget": {"kills": 10**30, "per": "99999d"}})
def test_any_guard(table: dict[str, Any]) -> None:
    lines = [f"{_quoted(key)} = {written(value)}" for key, value in table.items()]
    compiled(("[policy.host]\n" + "\n".join(lines)).encode())


def test_what_is_nested_deeply_is_quoted_shortly() -> None:
    depth = 150
    error = compiled(b"[policy.host]\ncgroup = " + b"[" * depth + b"]" * depth)
    assert isinstance(error, PolicyError)
    assert "a list is not text" in str(error)


def test_what_is_long_is_quoted_shortly() -> None:
    error = compiled(b"[policy.host]\nmode = '" + b"x" * 100_000 + b"'\n" + b"y" * 100_000 + b" = 1")
    assert isinstance(error, PolicyError)
    assert max(len(fault.message) for fault in error.faults) < 200
