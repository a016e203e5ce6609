"""Patterns: what they mean, checked against a plain definition of it, and that none of them can cost much."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oomguard.judge.glob import matches


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("", "", True),
        ("", "a", False),
        ("a", "", False),
        ("sshd", "sshd", True),
        ("sshd", "sshd-session", False),
        ("sshd*", "sshd", True),
        ("sshd*", "sshd-session", True),
        ("*sshd", "my-sshd", True),
        ("s?hd", "sshd", True),
        ("s?hd", "s/hd", False),
        ("?", "", False),
        ("*", "", True),
        ("*", "a/b", False),
        ("**", "a/b/c", True),
        ("**", "", True),
        ("/user.slice/*", "/user.slice/a", True),
        ("/user.slice/*", "/user.slice/a/b", False),
        ("/user.slice/**", "/user.slice/a/b", True),
        ("/user.slice/**", "/user.slice", False),
        ("/**/x.scope", "/a/b/x.scope", True),
        ("/system.slice/web-*.service", "/system.slice/web-1.service", True),
        ("/system.slice/web-*.service", "/system.slice/web-1/x.service", False),
        ("a*b*c", "a-b-b-c", True),
        ("a*b*c", "a-b-b-d", False),
        ("***", "a/b", True),
        ("[ab]", "a", False),  # nothing but stars and question marks means anything
        ("[ab]", "[ab]", True),
        ("a.c", "abc", False),
        ("\\*", "\\x", True),
        ("\\x2d*", "\\x2d-", True),
        ("t*", "été", False),
        ("*té", "été", True),
        ("*\udcff", "a\udcff", True),  # a name that is not UTF-8
        ("a*", "a\nb", True),
    ],
)
def test_a_pattern_describes_the_whole_text(pattern: str, text: str, expected: bool) -> None:
    assert matches(pattern, text) is expected


def as_regex(pattern: str) -> str:
    """The same meaning, said in a language that may backtrack: fine for short texts, and nowhere else."""
    parts = re.split(r"(\*\*|\*|\?)", pattern)
    known = {"**": "(?s:.*)", "*": "[^/]*", "?": "[^/]"}
    return "".join(known.get(part, re.escape(part)) for part in parts)


@given(st.text("ab/*?", max_size=6), st.text("ab/", max_size=8))
def test_it_means_what_the_regular_expression_means(pattern: str, text: str) -> None:
    assert matches(pattern, text) is (re.fullmatch(as_regex(pattern), text) is not None)


@given(st.text(max_size=20))
def test_every_text_matches_itself_unless_it_holds_a_star_or_a_question(text: str) -> None:
    if not set(text) & {"*", "?"}:
        assert matches(text, text)
    assert matches("**", text)
    assert matches(f"{text}**", text) or {"*", "?"} & set(text)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        ("*a" * 100 + "b", "a" * 500),
        ("**a" * 100 + "b", "a/" * 250),
        ("*" * 500 + "b", "a" * 500),
        ("?" * 2000, "a" * 1999),
    ],
)
def test_no_pattern_backtracks(pattern: str, text: str) -> None:
    """Each of these takes a backtracking matcher longer than the universe has had."""
    assert matches(pattern, text) is False
