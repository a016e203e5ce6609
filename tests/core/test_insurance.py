"""The nominee's oom_score_adj while a guard is armed: 1000, and the owner's again whatever becomes of whom."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .world import HOST, OOMGUARD, PATIENCE_S, Daemon, World, policy, until

Start = Callable[..., Daemon]
Hog = Callable[..., "subprocess.Popen[bytes]"]
FORKS = """
for line in sys.stdin:
    if os.fork() == 0: time.sleep(999)
"""


def adj(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Nominee:
    """A hog that forks when it is told to, and what its score was."""

    def __init__(self, world: World, process: subprocess.Popen[bytes]) -> None:
        self.world, self.process, self.pid = world, process, process.pid
        self.before = adj(process.pid)
        self.heirs: list[int] = []
        world.see(process.pid)

    def fork(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()
        until(lambda: len(children(self.pid)) > len(self.heirs))
        self.heirs = children(self.pid)
        self.world.see(self.heirs[-1])
        return self.heirs[-1]

    def insured(self) -> None:
        until(lambda: adj(self.pid) == 1000, "it was never insured")

    def as_it_was(self) -> bool:
        return all(adj(pid) == self.before for pid in (self.pid, *self.heirs))


@pytest.fixture
def nominee(world: World, hog: Hog) -> Iterator[Nominee]:
    made = Nominee(world, hog(60, b"leak", FORKS, stdin=True))
    yield made
    for pid in made.heirs:
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def guarding(world: World, daemon: Start, nominee: Nominee) -> Daemon:
    """Armed, and the nominee is insured."""
    made = daemon(world, policy(HOST, world))
    made.hear("READY=1")
    assert adj(nominee.pid) == nominee.before
    world.available(200)
    made.phase("armed")
    nominee.insured()
    return made


def test_it_ends_with_calm(world: World, guarding: Daemon, nominee: Nominee) -> None:
    assert adj(nominee.fork()) == 1000
    world.available(900)
    guarding.phase("calm")
    until(nominee.as_it_was, guarding.log())
    assert guarding.end() == 0


def test_it_ends_with_the_daemon(guarding: Daemon, nominee: Nominee) -> None:
    nominee.fork()
    assert guarding.end() == 0
    assert nominee.as_it_was()


def test_it_ends_with_a_daemon_that_is_killed(guarding: Daemon, nominee: Nominee) -> None:
    nominee.fork()
    guarding.end(signal.SIGKILL)
    until(nominee.as_it_was, guarding.log())


def test_undo_puts_back_what_neither_core_nor_reaper_could(world: World, guarding: Daemon, nominee: Nominee) -> None:
    nominee.fork()
    reaper = guarding.workers()["reaper"]
    fd = os.pidfd_open(reaper)
    guarding.process.send_signal(signal.SIGSTOP)
    os.kill(reaper, signal.SIGKILL)
    guarding.end(signal.SIGKILL)
    assert select.select([fd], [], [], PATIENCE_S)[0]
    os.close(fd)
    assert adj(nominee.pid) == 1000
    command = [*OOMGUARD, "undo", "--json", "--runtime-dir", str(world.root / "run"), "--proc", str(world.proc)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (said,) = json.loads(done.stdout)["done"]
    assert "1 process(es) that it had started" in said
    assert nominee.as_it_was()


def test_what_its_owner_sets_meanwhile_stands(world: World, guarding: Daemon, nominee: Nominee) -> None:
    Path(f"/proc/{nominee.pid}/oom_score_adj").write_text("700")
    world.available(900)
    guarding.phase("calm")
    assert guarding.end() == 0
    assert adj(nominee.pid) == 700


def test_a_victim_that_dies_leaves_heirs_as_they_were(world: World, guarding: Daemon, nominee: Nominee) -> None:
    child = nominee.fork()
    assert adj(child) == 1000
    world.available(50)
    assert select.select([guarding.pidfd], [], [], 0)[0] == []
    assert nominee.process.wait(PATIENCE_S) == -signal.SIGKILL
    until(lambda: adj(child) == nominee.before, guarding.log())
    world.available(900)
    guarding.phase("calm")
    assert guarding.end() == 0


def test_switched_off(world: World, daemon: Start, nominee: Nominee) -> None:
    made = daemon(world, policy(HOST.replace('cgroup = "/"\n', 'cgroup = "/"\ninsurance = false\n'), world))
    made.hear("READY=1")
    world.available(200)
    made.phase("armed")
    turns = made.status().numbers.turns
    until(lambda: made.status().numbers.turns > turns + 20)
    assert adj(nominee.pid) == nominee.before
    assert made.end() == 0
