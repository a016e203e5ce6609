"""The line of a key, whatever the formatting. tomli is the judge of what the text says, we only of where."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import tomli
from hypothesis import example, given
from hypothesis import strategies as st

from oomguard.policy.locate import Key, Lines

HOSTILE = '''\
# [policy.comment]
title = """
[policy.text]
cgroup = "in a string"
""\\"""\\
"""
literal = \'\'\'
x = 1 # '' "" \'\'\'
[ policy . "a.b" . 'c]d' ]  # header with "everything" = 1
"quo\\"ted = [" = [ "]", # ]
  { inner = "}", deep . er = [
      1979-05-27 07:32:00, ], },

  [ [ ], 2 ] ]
after = 'C:\\'
[[policy.list]]
n = 1
[policy.list.sub]
n = 2
[[policy.list]]
n = 3
[policy.list.sub]
n = 4
[late.child]
x = 1
[late]
y = 2
"\\u0041" = 3
ends = """a""\"""
five = """""\\" ""\\""""""
last = 1'''


@pytest.mark.parametrize(
    ("key", "line"),
    [
        (("title",), 2),
        (("literal",), 7),
        (("policy",), 9),
        (("policy", "a.b"), 9),
        (("policy", "a.b", "c]d"), 9),
        (("policy", "a.b", "c]d", 'quo"ted = ['), 10),
        (("policy", "a.b", "c]d", 'quo"ted = [', 0), 10),
        (("policy", "a.b", "c]d", 'quo"ted = [', 1), 11),
        (("policy", "a.b", "c]d", 'quo"ted = [', 1, "inner"), 11),
        (("policy", "a.b", "c]d", 'quo"ted = [', 1, "deep", "er", 0), 12),
        (("policy", "a.b", "c]d", 'quo"ted = [', 2), 14),
        (("policy", "a.b", "c]d", 'quo"ted = [', 2, 1), 14),
        (("policy", "a.b", "c]d", "after"), 15),
        (("policy", "list"), 16),
        (("policy", "list", 0, "n"), 17),
        (("policy", "list", 0, "sub"), 18),
        (("policy", "list", 0, "sub", "n"), 19),
        (("policy", "list", 1), 20),
        (("policy", "list", 1, "n"), 21),
        (("policy", "list", 1, "sub", "n"), 23),
        (("late", "child", "x"), 25),
        (("late",), 26),  # its own header, though a child's stood before
        (("late", "y"), 27),
        (("late", "A"), 28),
        (("late", "ends"), 29),
        (("late", "five"), 30),
        (("late", "last"), 31),
    ],
)
def test_hostile_formatting(key: Key, line: int) -> None:
    assert _get(tomli.loads(HOSTILE), key) is not None
    assert Lines(HOSTILE).of(key) == line


@pytest.mark.parametrize(
    ("key", "line"),
    [
        (("late", "nothing"), 26),
        (("late", "y", "deeper", 3), 27),
        (("policy", "list", 7), 16),
        (("nothing",), 1),
        ((), 1),
    ],
)
def test_what_does_not_stand_there_is_where_its_table_is(key: Key, line: int) -> None:
    assert Lines(HOSTILE).of(key) == line
    assert not Lines(HOSTILE).know(key)


def _get(value: Any, key: Key) -> Any:
    for part in key:
        value = value[part]
    return value


# Documents are written by a machine that notes where it writes each key; tomli must agree about what they say.

BLANKS = st.sampled_from(["", " ", "\t", "  \t "])
GAPS = st.sampled_from(["", "\n", " \n\n", "# ] } \"\"\" '''\n", "\t# x = 1\n  ", "\n#\n"])
ODD_NAMES = st.text(st.sampled_from("ab-_1 .#=[]{}\"'\\\té💥,"), max_size=4)
SCALARS = st.sampled_from(
    [
        "1",
        "-1_000",
        "1.5e3",
        "true",
        "nan",
        "0xff",
        "1979-05-27",
        "1979-05-27 07:32:00Z",
        "07:32:00",
        '""',
        '"]}\\"#\\\\"',
        "''",
        "'\"]#\\'",
        '"""\n[x]\n"""',
        '""""two"""""',
        '"""\\\n  y = """',
        "'''\n]'\n'''",
        "''''''",
    ]
)


@dataclass
class Writer:
    """A text that grows, and the line of every key in it."""

    text: str = ""
    keys: dict[Key, int] = field(default_factory=dict)
    count: int = 0

    def note(self, key: Key) -> None:
        self.keys.setdefault(key, self.text.count("\n") + 1)

    def name(self, draw: Any) -> tuple[str, str]:
        """A key that is new, as it is and as it is written."""
        self.count += 1
        odd = draw(ODD_NAMES) + str(self.count)
        form = draw(st.sampled_from(["bare", "basic", "literal"]))
        if form == "bare":
            return f"k-{self.count}", f"k-{self.count}"
        if form == "literal" and "'" not in odd:
            return odd, f"'{odd}'"
        escaped = odd.replace("\\", "\\\\").replace('"', '\\"').replace("\t", "\\t")
        return odd, f'"{escaped}"'


@st.composite
def documents(draw: Any) -> Writer:
    out = Writer()
    for _ in range(draw(st.integers(0, 3))):
        _pair(draw, out, (), 0)
    for _ in range(draw(st.integers(0, 3))):
        _table(draw, out)
    return out


def _table(draw: Any, out: Writer) -> None:
    out.text += draw(GAPS) + draw(BLANKS)
    start = out.text.count("\n") + 1
    names = [out.name(draw) for _ in range(draw(st.integers(1, 3)))]
    many = draw(st.booleans())
    blank = draw(BLANKS)
    header = f"{blank}.{blank}".join(written for _, written in names)
    for number in range(draw(st.integers(1, 2)) if many else 1):
        if number:
            start = out.text.count("\n") + 1
        key: Key = ()
        for name, _ in names:
            key = (*key, name)
            out.keys.setdefault(key, start)
        if many:
            key = (*key, number)
            out.keys[key] = start
        out.text += (f"[[{blank}{header}{blank}]]" if many else f"[{blank}{header}{blank}]") + draw(BLANKS) + "\n"
        for _ in range(draw(st.integers(0, 3))):
            _pair(draw, out, key, 0)


def _pair(draw: Any, out: Writer, table: Key, depth: int) -> None:
    out.text += draw(GAPS) if depth == 0 else ""
    out.text += draw(BLANKS)
    names = [out.name(draw) for _ in range(draw(st.integers(1, 2)))]
    key = table
    for name, _ in names:
        key = (*key, name)
        out.note(key)
    blank = draw(BLANKS)
    out.text += f"{blank}.{blank}".join(written for _, written in names) + f"{blank}={blank}"
    _value(draw, out, key, depth)
    out.text += draw(st.sampled_from(["\n", " # ]\n", "\t\n"])) if depth == 0 else draw(BLANKS)


def _value(draw: Any, out: Writer, key: Key, depth: int) -> None:
    kind = draw(st.sampled_from(["scalar", "scalar", "array", "table"])) if depth < 3 else "scalar"
    if kind == "scalar":
        out.text += draw(SCALARS)
    elif kind == "array":
        out.text += "["
        for index in range(draw(st.integers(0, 3))):
            out.text += draw(GAPS) + draw(BLANKS)
            out.note((*key, index))
            _value(draw, out, (*key, index), depth + 1)
            out.text += draw(GAPS) + ","
        out.text += draw(GAPS) + "]"
    else:
        out.text += "{"
        for index in range(draw(st.integers(0, 3))):
            out.text += "," if index else ""
            _pair(draw, out, key, depth + 1)
        out.text += "}"


@given(documents())
def test_every_key_of_any_document_is_found_where_it_was_written(written: Writer) -> None:
    table = tomli.loads(written.text)
    lines = Lines(written.text)
    assert {key: lines.of(key) for key in written.keys} == written.keys
    for key in written.keys:
        _get(table, key)
        assert lines.know(key)


@example('"\\0"')
@given(st.text() | st.text(st.sampled_from("a.=[]{}\"'#,\\\n 1"), max_size=60))
def test_it_gets_lost_in_no_text_at_all(text: str) -> None:
    assert Lines(text).of(("a", 0, "b")) >= 1


def test_it_survives_depth() -> None:
    lines = Lines("a = 1\nb = " + "[" * 100_000)
    assert lines.of(("b", 0, 0)) == 2
