"""Regular expressions as tables: the same as Python's own on what both have, and refused by name on all else."""

import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from oomguard.judge.match import describes, of_name, say
from oomguard.model import codec
from oomguard.model.policy import Expression, Match
from oomguard.policy import expression, spoken
from oomguard.policy.faults import Wrong
from tests.judge.world import process

from .helpers import faults_of, guard_of

LETTERS = "abAB0/-.\n\\]é\ud7ff\udc80"  # a comm may hold bytes that are no UTF-8


def escaped(letter: str) -> str:
    return re.escape(letter) if letter != "\n" else "\\n"


# Trees as texts: what is made of smaller ones is in a group, so that it stays together.
_letter = st.sampled_from(LETTERS).map(escaped)
_member = _letter | st.sampled_from(["a-z", "0-9", "\\d", "\\W", "\\s", "A-b"])
_set = st.builds(
    lambda no, members: f"[{no}{''.join(members)}]", st.sampled_from(["", "^"]), st.lists(_member, min_size=1)
)
_atom = _letter | _set | st.sampled_from([".", "\\d", "\\D", "\\w", "\\W", "\\s", "\\S", "^", "$", "()"])
_sign = st.sampled_from(["*", "+", "?", "*?", "{2}", "{0,2}", "{1,}", "{0}", "{3,4}?"])
TREES = st.recursive(
    _atom,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda ways: f"({'|'.join(ways)})"),
        st.builds(lambda what, sign: f"(?:{what}){sign}", inner, _sign),
    ),
    max_leaves=8,
)
TEXTS = st.text(st.sampled_from(LETTERS + "zZ 9_"), max_size=8)


def pythons(text: str) -> re.Pattern[str]:
    """Of $ Python says that a newline may follow."""
    plain = re.sub(r"(\\.)|(\[\^?\]?(?:\\.|[^\]\\])*\])|\$", lambda m: m[1] or m[2] or r"\Z", text, flags=re.DOTALL)
    return re.compile(plain, re.DOTALL | re.ASCII)


def table(text: str) -> Expression | None:
    """None: too large, or of nothing."""
    try:
        return expression.compiled(text)
    except Wrong as wrong:
        if "needs a table" in wrong.message or "never matches anything" in wrong.message:
            return None
        raise


@given(TREES, st.sampled_from(["", "(?i)"]), st.lists(TEXTS, min_size=1, max_size=8))
@example("[^a]", "(?i)", ["A", "a", "b"])
@example("(a|)*$^", "", ["", "a"])
@example("a|^b|c$", "", ["b", "cc"])
@example("[\\]a-]", "", ["]", "-", "b"])
def test_it_is_what_python_means(tree: str, folded: str, texts: list[str]) -> None:
    ours = table(folded + tree)
    theirs = pythons(folded + tree)
    for text in texts:
        described = ours is not None and ours.describes(text)
        assert ours is None or described == bool(theirs.fullmatch(text)), (tree, text)


@given(st.text(max_size=40) | st.text(st.sampled_from("ab(|)[]{}*+?^$.\\,-0123:=!<Pid"), max_size=40))
def test_any_text_is_a_table_or_refused(text: str) -> None:
    try:
        made = expression.compiled(text)
    except Wrong:
        return
    states = len(made.accepts)
    assert states <= expression.MOST_STATES + 1
    assert len(made.table) == states * (len(made.cuts) + 1) <= expression.MOST_CELLS
    assert codec.from_plain(json.loads(json.dumps(codec.to_plain(made)))) == made
    made.describes(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (r"(a)\1", "asks for what was matched before"),
        ("a(?=b)", "looks ahead"),
        ("(?<!a)b", "looks behind"),
        ("(?P<name>a)", "(? is not in the language"),
        (r"\bssh", r"\b is not in the language"),
        (r"\pL", r"\p is not in the language"),
        ("[[:alpha:]]", "[: :] is not in the language"),
        ("a**", "* after a repeat"),
        ("a*+", "+ after a repeat"),
        ("^*a", "* after ^ or $"),
        ("*a", "nothing stands before *"),
        ("a{x}", "{ is no {3}, {3,} or {3,5}"),
        ("a{3", "{ is no {3}, {3,} or {3,5}"),
        ("a{3,2}", "{3,2} is out of range"),
        ("a{256}", "{256} is out of range"),
        ("(a", "a ( is not closed"),
        ("a)", "a ) without its ("),
        ("[a", "a [ is not closed"),
        ("[z-a]", "a range in [ ] is from one letter to a later one"),
        ("a\\", "ends in a \\"),
        ("a^", "never matches anything"),
        (r"[^\s\S]", "never matches anything"),
        ("(a|b)*a(a|b){9}", "needs a table of more than 255 states"),
        ("((((){255}){255}){255}){255}", "needs a table"),
        ("(" * 60 + ")" * 60, "more than 50 groups in each other"),
        ("a" * 513, "more than 512 letters"),
    ],
)
def test_what_no_table_can_say_is_refused_by_name(text: str, said: str) -> None:
    with pytest.raises(Wrong) as caught:
        expression.compiled(text)
    assert said in caught.value.message


def test_of_the_whole_text_and_of_no_longer_one_than_a_path() -> None:
    assert [text for text in ("ssh", "sshd", "xsshd") if expression.compiled("sshd?").describes(text)] == [
        "ssh",
        "sshd",
    ]
    every = expression.compiled(".*")
    assert (every.describes("a" * 4096), every.describes("a" * 4097)) == (True, False)


def test_a_text_that_ruins_others_takes_a_step_a_letter() -> None:
    """(a*)*b over many a: with backtracking, longer than the machine will be there."""
    ruin = expression.compiled("(a*)*b")
    assert not ruin.describes("a" * 4096)


def test_in_a_policy(tmp_path: object) -> None:
    from pathlib import Path

    assert isinstance(tmp_path, Path)
    text = """
[policy.it]
cgroup = "/"
hard = { when = [{ available_below = "5%" }], do = ["kill"] }
[policy.it.victim]
never = [{ comm = { re = '(?i)(ssh|cron)d?' } }]
avoid = [{ unit = { re = '(web|db)-[0-9]+\\.service' }, exe = { re = '/usr/(s?bin|lib)/.*' } }]
prefer = [{ cgroup = { re = '/user\\.slice/user-1[0-9]{3}\\.slice' } }]
"""
    rule = guard_of(tmp_path, text).victim
    assert [spoken.match(match) for match in (*rule.never, *rule.avoid, *rule.prefer)] == [
        {"comm": {"re": "(?i)(ssh|cron)d?"}},
        {"unit": {"re": r"(web|db)-[0-9]+\.service"}, "exe": {"re": "/usr/(s?bin|lib)/.*"}},
        {"cgroup": {"re": r"/user\.slice/user-1[0-9]{3}\.slice"}},
    ]
    session = "/user.slice/user-1000.slice/session-3.scope"
    assert describes(rule.never[0], session, process(1, "SSHd", session))
    assert not describes(rule.never[0], session, process(1, "sshd2", session))
    assert describes(rule.prefer[0], session), "what is said of a cgroup holds for what is inside of it"
    assert say(rule.never[0]) == 'comm = { re = "(?i)(ssh|cron)d?" }'
    slip = text.replace("cron)d?", "cron)d{16}")
    (fault,) = faults_of(tmp_path, slip)
    assert (fault.line, fault.key) == (6, "policy.it.victim.never[0].comm")
    assert fault.message.endswith("never matches: the kernel keeps 15 bytes of a name")


def test_a_slash_in_a_name_is_a_letter() -> None:
    assert of_name("kworker*", "kworker/0:1")
    assert of_name(expression.compiled("kworker.*"), "kworker/0:1")
    assert Match(comm=expression.compiled("a")) == Match(comm=expression.compiled("a"))
