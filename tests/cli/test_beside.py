"""Who else kills is told at the start: who it is, which cgroup is whose, and the one command; and nobody is touched."""

from pathlib import Path

import pytest

from oomguard.cli import beside, origin
from oomguard.cli.probe import systemd
from oomguard.cli.probe.places import Places
from oomguard.model.policy import Daemon, Guard, Plan

from .tree import Tree

OOMCTL = """\
Dry Run: no
Swap Monitored CGroups:
Memory Pressure Monitored CGroups:
        Path: /system.slice
                Memory Pressure Limit: 60.00%
        Path: /user.slice/user-1000.slice/user@1000.service
                Memory Pressure Limit: 50.00%
"""


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    found = Tree(tmp_path)
    found.group("/system.slice/web.service", 10)
    found.group("/user.slice/user-1000.slice/user@1000.service", 10)
    return found


def plan(tree: Tree, *guards: Guard) -> Plan:
    return Plan("1", Daemon(proc=str(tree.proc), cgroup=str(tree.cgroup)), guards)


def run(tree: Tree, comm: str, pid: int = 77) -> None:
    (tree.proc / str(pid)).mkdir()
    (tree.proc / str(pid) / "comm").write_text(f"{comm}\n")


def test_where_nobody_else_is_nobody_is_asked(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "asked", lambda *_: pytest.fail("a start is no time for questions"))
    run(tree, "earlyoomlike")
    assert beside.remarks(plan(tree, Guard("host", "/"))) == ((), ())


def test_one_that_guards_the_whole_machine(tree: Tree) -> None:
    run(tree, "earlyoom")
    ((what, why),), asides = beside.remarks(plan(tree, Guard("host", "/")))
    assert (what, asides) == ("neighbour earlyoom", ())
    assert why == (
        "earlyoom runs, pid 77: it guards the whole machine: two guards kill twice (policies host); "
        "to leave it to oomguard: kill 77"
    )


@pytest.fixture
def with_oomd(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """This very machine, with a systemd that answers; the words of oomctl are those of 257."""

    def asked(_: Places, words: list[str]) -> str:
        assert words == ["oomctl", "dump"], "one question"
        return OOMCTL

    monkeypatch.setattr(Places, "here", True)
    monkeypatch.setattr(systemd, "is_init", lambda _: True)
    monkeypatch.setattr(systemd, "asked", asked)
    run(tree, "systemd-oomd", 12)
    return tree


def test_which_cgroup_is_whose(with_oomd: Tree) -> None:
    web = Guard("web", "/system.slice/*.service")
    (only,), (other,) = beside.remarks(plan(with_oomd, web))
    assert only == (
        "neighbour systemd-oomd /system.slice memory pressure",
        "systemd-oomd (pid 12) owns /system.slice by memory pressure: so does our policy web: whoever is first kills, "
        "or both do; to leave it to oomguard: systemctl disable --now systemd-oomd.service systemd-oomd.socket",
    )
    assert other == (
        "systemd-oomd (pid 12) owns /user.slice/user-1000.slice/user@1000.service by memory pressure: "
        "no policy of ours that kills is about it"
    )


def test_who_only_observes_shares_nothing(with_oomd: Tree) -> None:
    matters, asides = beside.remarks(plan(with_oomd, Guard("host", "/", mode="observe")))
    assert (matters, len(asides)) == ((), 2)


def test_from_within_a_container_its_cgroups_cannot_be_asked_for(tree: Tree) -> None:
    run(tree, "systemd-oomd", 12)
    assert beside.remarks(plan(tree, Guard("host", "/"))) == (
        (),
        ("systemd-oomd runs, pid 12: its cgroups cannot be asked for from here",),
    )


def test_a_plan_that_was_made_beside_nobody_is_made_again(tree: Tree, tmp_path: Path) -> None:
    """A start compiles nothing where nothing has changed: another daemon is a change."""
    (tmp_path / "oomguard.toml").write_text("")
    call = ((), str(tmp_path / "oomguard.toml"), str(tree.proc))
    alone = origin.digest(*call)
    assert alone == origin.digest(*call) != ""
    run(tree, "systemd-oomd")
    assert origin.digest(*call) not in (alone, "")
