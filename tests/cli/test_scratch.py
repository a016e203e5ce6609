"""A cgroup of our own on the real kernel, v2 or v1: made, limited, emptied and removed; and what others left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from oomguard.cli import hierarchies, scratch
from oomguard.cli.hierarchies import Hierarchies
from oomguard.cli.scratch import HOME, Scratch

MIB = 1 << 20
NAMED = "open('/proc/self/comm', 'w').write('oomguard-drill')"  # as drilling/hog.py calls itself
MOUNTS = hierarchies.find()
pytestmark = [
    pytest.mark.kernel,
    pytest.mark.usefixtures("the_only_drill"),
    pytest.mark.skipif(
        MOUNTS.memory is None or not os.access(MOUNTS.memory, os.W_OK),
        reason="no memory controller that we may write to",
    ),
]


@pytest.fixture
def mounts() -> Hierarchies:
    return MOUNTS


@pytest.fixture
def sleeper() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Processes that wait; gone afterwards."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()


def sleeps(started: list[subprocess.Popen[bytes]], name: str = NAMED) -> subprocess.Popen[bytes]:
    code = f"import sys; {name}; print('up', flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    started.append(process)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    return process


def test_it_is_made_limited_and_removed(mounts: Hierarchies, sleeper: list[subprocess.Popen[bytes]]) -> None:
    with Scratch(mounts, f"{HOME}/{scratch.name()}") as it:
        it.limit(64 * MIB)
        assert int(Path(it.file("memory.max", "memory.limit_in_bytes")).read_text()) == 64 * MIB
        process = sleeps(sleeper)
        it.admit(process.pid)
        assert str(process.pid) in Path(it.directory, "cgroup.procs").read_text().split()
        assert it.used() is not None
        assert it.oom_kills() in (0, None)
    assert process.wait(30) == -signal.SIGKILL
    assert not Path(it.directory).exists()
    assert not Path(f"{mounts.memory}{HOME}").exists()


def test_it_is_removed_when_it_could_not_be_made_whole(mounts: Hierarchies, monkeypatch: pytest.MonkeyPatch) -> None:
    it = Scratch(mounts, f"{HOME}/{scratch.name()}")
    monkeypatch.setattr(Scratch, "file", lambda *_: "/nowhere/memory.max")
    with pytest.raises(OSError, match="no memory controller for what is below"), it:
        pass
    assert not Path(f"{mounts.memory}{HOME}").exists()


def test_who_is_none_of_ours_is_left_alone(mounts: Hierarchies, sleeper: list[subprocess.Popen[bytes]]) -> None:
    """Whoever was put there by mistake, or by malice."""
    it = Scratch(mounts, f"{HOME}/{scratch.name()}")
    it.make()
    stranger = sleeps(sleeper, "pass")
    it.admit(stranger.pid)
    try:
        left = it.remove()
        assert f"{it.directory}: pid {stranger.pid} is none of ours, and was left alone" in left
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
        assert it.remove() == []
    assert not Path(it.directory).exists()


def test_what_a_killed_drill_has_left_is_found_and_removed(
    mounts: Hierarchies, sleeper: list[subprocess.Popen[bytes]]
) -> None:
    maker = sleeps(sleeper, "pass")
    ticks = Path(f"/proc/{maker.pid}/stat").read_text().rpartition(")")[2].split()[19]
    path = f"{HOME}/oomguard-drill-{maker.pid}-{ticks}"
    it = Scratch(mounts, path)
    it.make()
    hog = sleeps(sleeper)
    it.admit(hog.pid)
    assert it.directory in scratch.leftovers(mounts)[1], "its maker lives: that is a drill, and no leftover"
    maker.kill()
    maker.wait()
    left, alive = scratch.leftovers(mounts)
    assert (it.directory in left, it.directory in alive) == (True, False)
    assert scratch.sweep(it.directory) == []
    assert hog.wait(30) == -signal.SIGKILL
    assert not Path(it.directory).exists()


def test_a_later_process_with_that_number_is_not_its_maker(mounts: Hierarchies) -> None:
    it = Scratch(mounts, f"{HOME}/oomguard-drill-{os.getpid()}-1")
    it.make()
    assert it.directory in scratch.leftovers(mounts)[0]
    assert scratch.sweep(it.directory) == []


def test_room_above(mounts: Hierarchies) -> None:
    with Scratch(mounts, f"{HOME}/{scratch.name()}") as it:
        assert scratch.room_above(mounts, it.path) is None
        it.limit(64 * MIB)
        above, left = scratch.room_above(mounts, f"{it.path}/below") or ("", 0)
        assert above == it.path
        assert 0 < left <= 64 * MIB


def test_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "PATIENCE_S", 0.0)
    began = time.monotonic()
    assert not scratch._until(lambda: False)
    assert time.monotonic() - began < 30
