"""etc/examples: on the machine that each is for it leaves no doubt, and it takes whom its comments say."""

import os
from pathlib import Path
from typing import Any

import pytest

from oomguard.judge.select import fits
from oomguard.model import policy as model
from oomguard.policy import load, warnings
from tests.cli.tree import Tree
from tests.judge.world import process

from .importing import Machine

EXAMPLES = sorted((Path(__file__).parents[2] / "etc/examples").glob("*.toml"))
USER = "/user.slice/user-1.slice"
MANAGER = f"{USER}/user@1.service"
PG = "/system.slice/system-postgresql.slice/postgresql@1.service"
POD = "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1.slice/cri-containerd-1.scope"
JOB = "/system.slice/job-1.service"
PLACES = {  # where it is for: cgroup and whether that has a limit
    "batch-jobs": [(JOB, True)],
    "ci-runner": [("/system.slice/gitlab-runner.service", True)],
    "coding-agents": [(f"{MANAGER}/app.slice/agent-1.scope", True)],
    "container-host": [("/system.slice/docker-1.scope", True), ("/kubepods.slice", False)],
    "database": [(PG, True)],
    "desktop": [(MANAGER, False)],
    "shell-server": [(USER, False)],
    "web-workers": [("/system.slice/web-1.service", True)],
}


def example(directory: Path, name: str) -> model.Plan:
    path = directory / f"{name}.toml"
    path.write_text((EXAMPLES[0].parent / f"{name}.toml").read_text())
    return load([path])


def test_all_are_known_here() -> None:
    assert [path.stem for path in EXAMPLES] == sorted(PLACES)


@pytest.mark.parametrize("name", PLACES)
def test_it_leaves_no_doubt_where_it_belongs(tmp_path: Path, name: str) -> None:
    tree = Tree(tmp_path / "machine", total_mib=64 << 10, available_mib=32 << 10)
    for path, limited in PLACES[name]:
        tree.group(path, 100, limit_mib=8 << 10 if limited else None)
        if name == "batch-jobs":
            os.setxattr(tree.cgroup / path.strip("/"), "user.tier", b"batch")
    plan = example(tmp_path, name)
    here = model.Daemon(proc=str(tree.proc), cgroup=str(tree.cgroup))
    assert warnings(model.Plan(plan.version, here, plan.guards, plan.files), fits) == []


WEB = "/system.slice/web-1.service"
CI = "/system.slice/gitlab-runner.service"
AGENT = f"{MANAGER}/app.slice/agent-1.scope"


@pytest.mark.parametrize(
    ("name", "processes", "seen", "expected"),
    [
        (
            "web-workers",
            [
                process(10, "web-master", WEB, 400),
                process(11, "worker", WEB, 300, 10),
                process(12, "worker2", WEB, 90, 10),
            ],
            {"used": {WEB: 93}},
            "TERM worker",
        ),
        ("web-workers", [process(11, "worker", WEB, 800)], {"used": {WEB: 85}}, ""),
        (
            "batch-jobs",
            [
                process(10, "bash", JOB, 200),
                process(11, "task-7", JOB, 90, 10),
                process(12, "helper", JOB, 100, 10),
            ],
            {"used": {JOB: 820}},
            "KILL task-7",  # this machine has less than the line: there is no time for a grace
        ),
        ("batch-jobs", [process(11, "task-7", JOB, 90)], {"used": {JOB: 700}}, ""),
        (
            "database",
            [process(10, "postgres", PG, 100), process(11, "session", PG, 600, 10)],
            {"used": {PG: 91}},
            "TERM session",
        ),
        (
            "ci-runner",
            [
                process(10, "gitlab-runner", CI, 30),
                process(11, "ninja", CI, 20, 10),
                process(12, "ld.gold", CI, 500, 11),
            ],
            {"used": {CI: 94}, "seconds": 6},
            "TERM ld.gold",
        ),
        ("ci-runner", [process(12, "ld.gold", CI, 500)], {"used": {CI: 94}, "seconds": 1}, ""),  # it waits
        (
            "desktop",
            [
                process(9, "gnome-shell", f"{MANAGER}/session.slice/shell.service", 600),
                process(10, "firefox", f"{MANAGER}/app.slice/app-firefox.scope", 150),
                process(11, "Isolated Web Co", f"{MANAGER}/app.slice/app-firefox.scope", 400, 10),
            ],
            {"available": 9, "full": 50, "seconds": 7},
            "TERM Isolated Web Co",
        ),
        ("desktop", [process(10, "make", f"{MANAGER}/a.scope", 400)], {"available": 9, "full": 50, "seconds": 4}, ""),
        ("desktop", [process(10, "make", f"{MANAGER}/a.scope", 400)], {"available": 50, "full": 90, "seconds": 9}, ""),
        (
            "container-host",
            [process(10, "java", POD, 500), process(11, "sidecar", POD, 20, 10)],
            {"available": 3},
            "KILL java",
        ),
        (
            "shell-server",
            [
                process(10, "bash", f"{USER}/session-1.scope", 10),
                process(11, "tmux: server", f"{USER}/session-1.scope", 600, 10),
                process(12, "simulation", f"{USER}/session-1.scope", 900, 11),
            ],
            {"used": {USER: 1300}},
            "KILL simulation",  # as above
        ),
        ("shell-server", [process(12, "simulation", f"{USER}/session-1.scope", 900)], {"used": {USER: 1200}}, ""),
        (
            "coding-agents",
            [
                process(10, "tmux: server", AGENT, 5),
                process(11, "claude", AGENT, 500, 10),
                process(12, "pytest", AGENT, 300, 11),
                process(13, "worker", AGENT, 90, 12),
            ],
            {"used": {AGENT: 89}},
            "TERM pytest",
        ),
    ],
)
def test_it_takes_whom_it_says(tmp_path: Path, name: str, processes: list[Any], seen: Any, expected: str) -> None:
    assert Machine(example(tmp_path, name), tuple(processes)).ends(**seen) == expected


def test_on_a_machine_of_many_people_the_one_who_takes_too_much_is_slowed_first(tmp_path: Path) -> None:
    (guard,) = example(tmp_path, "shell-server").guards
    assert guard.soft is not None
    assert not guard.soft.kills
    assert any(isinstance(step, model.SetHighStep) for step in guard.soft.do)
