"""Regular expressions as globs: exactly, or refused."""

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from oomguard.judge.glob import matches
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
    ],
)
def test_names(expression: str, globs: list[str]) -> None:
    assert patterns.comms(expression) == globs


@pytest.mark.parametrize(
    ("expression", "globs"),
    [
        (r"^/system\.slice/", ["/system.slice/**"]),
        (r"/foo\.service$", ["/foo.service", "/**/foo.service"]),
        ("^/workload", ["/workload**"]),
        ("docker", ["/**docker**"]),
    ],
)
def test_cgroups(expression: str, globs: list[str]) -> None:
    assert patterns.cgroups(expression) == globs


@pytest.mark.parametrize(
    "expression",
    [
        r"\w+",
        "[^a]",
        "a{2,3}",
        "(?i)x",
        "(ab)+",
        "a*",
        "(",
        "a)",
        "[a",
        "x\\",
        r"^a\*b$",
        "*",
        "(?=a)b",
        "[a-z][a-z]",
        "+",
    ],
)
def test_what_cannot_be_said_exactly_is_refused(expression: str) -> None:
    with pytest.raises(Wrong):
        patterns.comms(expression)


PIECES = st.sampled_from(["a", "b", ".", ".*", ".+", "^", "$", "(", ")", "|", "a?", "[ab]", "\\.", "/", "(a|b)"])


@given(st.lists(PIECES, max_size=6).map("".join), st.text("ab./", min_size=1, max_size=6))
def test_a_glob_matches_what_the_expression_finds(expression: str, name: str) -> None:
    try:
        globs = patterns.comms(expression)
    except Wrong:
        return
    assume("/" not in name or not any("?" in glob for glob in globs))  # no one character of a glob is a /
    found = re.search(expression, name) is not None
    assert any(matches(glob.replace("*", "**"), name) for glob in globs) == found
