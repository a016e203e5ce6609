"""``oomguard explain``: who guards it, how far it is, who would die and why nobody else. On a machine made of files."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oomguard.cli.machine import Machine
from oomguard.core.observe import Senses
from oomguard.judge.rank import Bounds, rank
from oomguard.judge.state import State
from oomguard.model.facts import ProcessFacts, Survey, TargetId
from oomguard.model.policy import Daemon
from oomguard.policy import load

from .command import Answer, oomguard
from .tree import Tree

POLICY = """\
[policy.host]
cgroup = "/"
soft = { when = [{ available_below = "12%" }], do = ["nominate"] }
hard = { when = [{ available_below = "5%", swap_free_below = "10%" }], do = ["kill"] }
victim = { never = [{ comm = "sshd*" }], avoid = [{ comm = "postgres" }] }
[policy.web]
cgroup = "/system.slice/web-*.service"
mode = "observe"
[policy.web.hard]
when = [{ memory_above = "90%" }, { pressure_above = { full = "40%" }, lasting = "10s" }]
do = ["kill"]
"""
WEB = "/system.slice/web-1.service"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    tree = Tree(tmp_path / "machine")
    tree.group("/system.slice", 500)
    tree.group(WEB, 100, limit_mib=128, cache_mib=20)
    tree.group("/system.slice/db.service", 200)
    tree.group("/user.slice/session-1.scope", 150)
    tree.process(100, "master", WEB, 10)
    tree.process(101, "worker", WEB, 80, ppid=100)
    tree.process(200, "postgres", "/system.slice/db.service", 190)
    tree.process(300, "sshd", "/user.slice/session-1.scope", 5)
    tree.process(301, "build", "/user.slice/session-1.scope", 140)
    (tmp_path / "p.toml").write_text(POLICY)
    return tree


def explain(tree: Tree, subject: str, *words: str) -> Answer:
    return oomguard("explain", subject, "--config", tree.root.parent / "p.toml", *tree.options, *words)


def report(tree: Tree, subject: str) -> dict[str, Any]:
    return {policy["name"]: policy for policy in explain(tree, subject, "--json").json["policies"]}


def test_a_guard_by_attribute_guards_who_has_it(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(POLICY.replace("[policy.web]", '[policy.web]\nxattr = "user.tier=batch"'))
    assert [policy["name"] for policy in explain(tree, WEB, "--json").json["policies"]] == ["host"]
    os.setxattr(tree.cgroup / WEB.lstrip("/"), "user.tier", b"batch")
    assert [policy["name"] for policy in explain(tree, WEB, "--json").json["policies"]] == ["web", "host"]


def test_the_guards_around_it_the_innermost_first(tree: Tree) -> None:
    assert list(report(tree, WEB)) == ["web", "host"]
    assert list(report(tree, "/user.slice/session-1.scope")) == ["host"]
    assert list(report(tree, "101")) == ["web", "host"]
    assert list(report(tree, f"{tree.cgroup}{WEB}/")) == ["web", "host"]  # as people copy paths


def test_how_far_it_is_from_each_watermark(tree: Tree) -> None:
    found = report(tree, WEB)
    (clause, _) = found["web"]["hard"]
    assert clause["conditions"] == [
        {"holds": False, "text": "memory 100.0 MiB above 115.2 MiB (90 % of 128.0 MiB): 15.2 MiB away"}
    ]
    (clause,) = found["host"]["soft"]
    assert clause["conditions"][0]["text"] == "available 900.0 MiB below 122.9 MiB (12 % of 1024.0 MiB): 777.1 MiB away"
    assert clause["holds"] is False


def test_what_memavailable_misses_is_counted_as_the_daemon_does(tree: Tree, tmp_path: Path) -> None:
    tree.memory(40)
    (tmp_path / "arcstats").write_text(f"c_min 4 {100 << 20}\nsize 4 {300 << 20}\n")
    also = f'[daemon]\nalso_available = {{ file = "{tmp_path}/arcstats", key = "size", less = "c_min" }}\n'
    (tmp_path / "p.toml").write_text(also + POLICY)
    (clause,) = report(tree, "/")["host"]["soft"]
    assert clause["conditions"][0]["text"].startswith("available 240.0 MiB below 122.9 MiB")


def test_what_holds_now_is_said_so(tree: Tree) -> None:
    tree.memory(40, swap_mib=0)
    assert report(tree, "/")["host"]["hard"][0]["holds"] is True
    text = explain(tree, "/").out
    assert "  hard: holds now\n" in text
    assert "yes  no swap\n" in text


@pytest.mark.parametrize(
    ("subject", "policy", "fate"),
    [
        ("301", "host", "would be ended"),
        ("300", "host", 'would be spared: never: comm = "sshd*"'),
        ("200", "host", "would live: /system.slice/db.service comes as number 3, with 200.0 MiB"),
        ("/user.slice/session-1.scope", "host", "would lose build[301] in /user.slice/session-1.scope"),
        ("/", "host", "would lose build[301] in /user.slice/session-1.scope"),
        ("101", "web", "would be ended"),
        ("100", "web", f"would live: the first is {WEB}, and of it worker[101] in {WEB} holds most"),
        (WEB, "web", f"would lose worker[101] in {WEB}"),
    ],
)
def test_what_would_become_of_it(tree: Tree, subject: str, policy: str, fate: str) -> None:
    found = report(tree, subject)[policy]["subject"]
    assert found.startswith(fate)


def test_everybody_s_reason_is_told(tree: Tree) -> None:
    ranking = report(tree, "/")["host"]["ranking"]
    why = {candidate["what"]: (candidate["rank"], candidate["why"]) for candidate in ranking["candidates"]}
    assert why["sshd[300]"] == (0, 'never: comm = "sshd*"')
    assert why["/user.slice/session-1.scope"][0] == 1
    assert ranking["descent"]


def test_what_is_guarded_inside_of_it(tree: Tree) -> None:
    assert "inside of it, policy web guards /system.slice/web-1.service\n" in explain(tree, "/system.slice").out


def test_a_policy_that_ends_nobody(tree: Tree) -> None:
    (tree.root.parent / "p.toml").write_text(POLICY.replace('do = ["kill"]', 'do = ["notify"]'))
    assert "  it is safe from it: this policy ends nobody\n" in explain(tree, "301").out


@pytest.mark.parametrize(
    ("subject", "code", "said"),
    [
        ("99999", 1, "there is no process 99999"),
        ("9" * 400, 1, "there is no process"),
        ("/nowhere", 1, "there is no cgroup /nowhere"),
        ("nowhere", 2, "nowhere is neither a process nor a path"),
        ("/a\x1b[31m", 1, "there is no cgroup /a\\x1b[31m"),
    ],
)
def test_what_is_not_there(tree: Tree, subject: str, code: int, said: str) -> None:
    answer = explain(tree, subject)
    assert (answer.code, answer.out) == (code, "")
    assert said in answer.err


def test_nobody_guards_it(tree: Tree) -> None:
    (tree.root.parent / "p.toml").write_text(POLICY[POLICY.index("[policy.web]") :])
    answer = explain(tree, "301")
    assert answer.code == 1
    assert answer.out.endswith("no policy guards it\n")


def _known(survey: Survey) -> list[ProcessFacts]:
    """Its processes, without what the daemon reads only where a rule asks for it."""
    bare = [replace(process, pgid=0, sid=0, exe=None, oom_score=0) for process in survey.processes]
    return sorted(bare, key=lambda process: process.pid)


def test_it_sees_what_the_daemon_sees(tree: Tree) -> None:
    """One survey of ours, one of the daemon's senses, of the same machine: the same victim, for the same reasons."""
    plan = load([tree.root.parent / "p.toml"])
    guard = plan.guards[0]
    where = Daemon(proc=str(tree.proc), cgroup=str(tree.cgroup))
    senses = Senses(type(plan)(plan.version, where, plan.guards), str(tree.cgroup), lambda _what, _why: None)
    senses.aim(senses.plan)
    target = TargetId("host", "/")
    senses.ask(target, "whole")
    (theirs,) = senses.observe(State(host=senses.host), 0).surveys
    machine = Machine(str(tree.proc), str(tree.cgroup))
    ours = machine.survey(target, machine.processes())
    assert _known(ours) == _known(theirs)
    assert rank(guard.victim, ours, Bounds()) == rank(guard.victim, theirs, Bounds())
