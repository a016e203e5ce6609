"""Regular expressions as globs or tables: exactly, or refused."""

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from oomguard.judge.glob import matches
from oomguard.policy.expression import compiled
from oomguard.policy.faults import Wrong
from oomguard.policy.importers import patterns


@pytest.mark.parametrize(
    ("expression", "globs"),
    [
        ("foo", ["*foo*"]),
        ("^foo$", ["foo"]),
        ("^foo", ["foo*"]),
        ("(^|/)(init|X|sshd)$", ["init", "X", "sshd", "*/init", "*/X", "*/sshd"]),  # earlyoom's own example
        ("^(Web Content|Isolated Web Co)$", ["Web Content", "Isolated Web Co"]),
        ("^java.*server$", ["java*server"]),
        ("^a.+b$", ["a?*b"]),
        ("^colou?r$", ["color", "colour"]),
        ("^php-fpm[78]$", ["php-fpm7", "php-fpm8"]),
        ("^a[0-2]$", ["a0", "a1", "a2"]),
        (r"^(?:a|b)\.sh$", ["a.sh", "b.sh"]),
        ("^$", []),
        ("a^b|^c$", ["c"]),
        (r"\w+d$", [{"re": r".*(?:\w+d$).*"}]),
        ("(?i)^chrom", [{"re": "(?i).*(?:^chrom).*"}]),
        ("^(ab)+$", [{"re": ".*(?:^(ab)+$).*"}]),
        ("^a{16}$", []),  # no name is so long
    ],
)
def test_names(expression: str, globs: list[patterns.Pattern]) -> None:
    assert patterns.comms(expression) == globs


@pytest.mark.parametrize(
    ("expression", "globs"),
    [
        (r"^/system\.slice/", ["/system.slice/**"]),
        (r"/foo\.service$", ["/foo.service", "/**/foo.service"]),
        ("^/workload", ["/workload**"]),
        ("docker", ["/**docker**"]),
        (r"/pod\d{3}/", [{"re": r".*(?:/pod\d{3}/).*"}]),
    ],
)
def test_cgroups(expression: str, globs: list[patterns.Pattern]) -> None:
    assert patterns.cgroups(expression) == globs


@pytest.mark.parametrize(
    "expression",
    [
        r"\bx",
        r"(a)\1",
        "a{2,1}",
        "a(?i)x",
        "(a|b)*a(a|b){9}",
        "(",
        "a)",
        "[a",
        "x\\",
        "*",
        "(?=a)b",
        "+",
    ],
)
def test_what_cannot_be_said_exactly_is_refused(expression: str) -> None:
    with pytest.raises(Wrong):
        patterns.comms(expression)


PIECES = st.sampled_from(
    [
        "\\w",
        "[^a]",
        "a{2}",
        "(ab)+",
        "b*",
        "a",
        "b",
        ".",
        ".*",
        ".+",
        "^",
        "$",
        "(",
        ")",
        "|",
        "a?",
        "[ab]",
        "\\.",
        "/",
        "(a|b)",
    ]
)


@given(st.lists(PIECES, max_size=6).map("".join), st.text("ab./", min_size=1, max_size=6))
def test_a_glob_matches_what_the_expression_finds(expression: str, name: str) -> None:
    try:
        globs = patterns.comms(expression)
    except Wrong:
        return
    assume(
        "/" not in name or not any(isinstance(glob, str) and "?" in glob for glob in globs)
    )  # no one character of a glob is a /
    found = re.search(expression, name) is not None
    assert any(_is(glob, name) for glob in globs) == found


def _is(pattern: patterns.Pattern, name: str) -> bool:
    if isinstance(pattern, str):
        return matches(pattern.replace("*", "**"), name)
    return compiled(pattern["re"]).describes(name)
