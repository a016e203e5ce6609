"""What decides nothing, since something before it has decided; and nothing else."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oomguard.judge.glob import matches
from oomguard.judge.match import describes
from oomguard.model.facts import ProcessFacts
from oomguard.model.policy import Match
from oomguard.policy import hidden

from .helpers import guard_of

CLAUSES = """\
[policy.it]
cgroup = "/"
[policy.it.hard]
when = [{}]
do = ["kill"]
"""
VICTIM = """\
[policy.it]
cgroup = "/"
hard = {{ when = [{{ available_below = "5%" }}], do = ["kill"] }}
victim = {{ {} }}
"""


@pytest.mark.parametrize(
    ("when", "where"),
    [
        ('{ available_below = "5%" }, { available_below = "3%" }', [1]),
        ('{ available_below = "3%" }, { available_below = "5%" }', [0]),
        ('{ available_below = "5%" }, { available_below = "5%" }', [1]),
        ('{ available_below = "5%" }, { available_below = "5%", swap_free_below = "9%" }', [1]),
        ('{ available_below = "5%", lasting = "9s" }, { available_below = "5%" }', [0]),
        ('{ available_below = "5%" }, { swap_free_below = "3%" }', []),
        ('{ available_below = "5%" }, { available_below = "1GiB" }', []),  # that depends on the machine
    ],
)
def test_a_table_of_when_that_another_one_holds_for(tmp_path: Path, when: str, where: list[int]) -> None:
    found = list(hidden.rules(guard_of(tmp_path, CLAUSES.format(when)), matches))
    assert [key for key, _, _ in found] == [("hard", "when", index) for index in where]


@pytest.mark.parametrize(
    ("victim", "where"),
    [
        ('never = [{ comm = "ssh*" }, { comm = "sshd" }]', [("never", 1)]),
        ('never = [{ comm = "sshd" }, { comm = "ssh*" }]', []),
        ('never = [{ unit = "a.service" }, { unit = "a.service", comm = "x" }]', [("never", 1)]),
        ('never = [{ unit = "a.service", comm = "x" }, { unit = "a.service" }]', []),
        ('never = [{ cgroup = "/a" }, { cgroup = "/a/b/**" }]', [("never", 1)]),  # and all below it
        ('never = [{ cgroup = "/a/*" }, { cgroup = "/a/**" }]', [("never", 1)]),  # what is deeper is inside of one
        ('never = [{ cgroup = "/a/*/b" }, { cgroup = "/a/**/b" }]', []),
        ('never = [{ cgroup = "/a/**" }, { cgroup = "/a/*" }]', [("never", 1)]),
        ('never = [{ comm = "a?*" }, { comm = "a*" }]', []),
        ('never = [{ comm = "x" }], avoid = [{ comm = "x" }]', [("avoid", 0)]),
        ('avoid = [{ comm = "x*" }], prefer = [{ comm = "xy" }, { comm = "z" }]', [("prefer", 0)]),
        ('prefer = [{ comm = "x*" }], avoid = [{ comm = "xy" }]', []),
    ],
)
def test_a_match_behind_a_wider_one(tmp_path: Path, victim: str, where: list[tuple[str, int]]) -> None:
    found = list(hidden.rules(guard_of(tmp_path, VICTIM.format(victim)), matches))
    assert [(key[1], key[2]) for key, _, _ in found] == where


PATTERNS = st.text(st.sampled_from("ab*?/"), min_size=1, max_size=5).filter(lambda text: "***" not in text)


@given(PATTERNS, PATTERNS, st.text("ab/", max_size=6))
def test_what_is_called_hidden_is(wide: str, narrow: str, name: str) -> None:
    for one, other, comm, cgroup in (
        (Match(comm=wide), Match(comm=narrow), name, "/"),
        (Match(unit=wide), Match(unit=narrow), "x", f"/{name}.service"),
        (Match(cgroup=f"/{wide}"), Match(cgroup=f"/{narrow}"), "x", f"/{name}"),
    ):
        process = ProcessFacts(7, 7, 1, comm, cgroup, 0, "S", 0, 0, 0)
        if hidden.covers(one, other, matches) and describes(other, cgroup, process):
            assert describes(one, cgroup, process), (one, other, process)
