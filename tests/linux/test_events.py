"""Signals as a descriptor, and directories that come and go; of files and of the kernel's cgroups."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from oomguard.linux import events
from oomguard.linux.events import ANYWHERE, TreeWatch

from .trees import HOSTILE_NAMES, Tree

WANTED = [signal.SIGUSR1, signal.SIGUSR2, signal.SIGRTMAX]


@pytest.fixture
def signals() -> Iterator[int]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    fd = events.signal_fd(WANTED)
    yield fd
    events.read_signals(fd)
    os.close(fd)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_signals_come_through_the_descriptor(signals: int) -> None:
    assert events.read_signals(signals) == []
    for number in WANTED:
        os.kill(os.getpid(), number)
    with contextlib.closing(select.epoll()) as epoll:
        epoll.register(signals, select.EPOLLIN)
        assert [fd for fd, _ in epoll.poll(20)] == [signals]
        assert sorted(events.read_signals(signals)) == sorted(WANTED)
        assert epoll.poll(0) == []


def test_signals_that_were_not_asked_for_stay_as_they_were(signals: int) -> None:
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) >= set(WANTED)
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.fixture
def watch() -> Iterator[TreeWatch]:
    made = TreeWatch()
    yield made
    made.close()


def test_what_comes_and_goes_is_told_by_its_parent(tree: Tree, watch: TreeWatch) -> None:
    tree.make("/a")
    tree.make("/b")
    a, b = str(tree.at("/a")), str(tree.at("/b"))
    assert watch.watch(a)
    assert watch.watch(b)
    assert watch.drain() == set()
    tree.make("/a/1")
    assert watch.drain() == {a}
    tree.make("/b/1")
    tree.remove("/a/1")
    assert watch.drain() == {a, b}
    assert watch.drain() == set()
    tree.make("/a/2/below")
    assert watch.drain() == {a}, "not recursive"


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_names_are_bytes(tree: Tree, watch: TreeWatch, name: str) -> None:
    tree.make(f"/{name}")
    path = str(tree.at(f"/{name}"))
    assert watch.watch(path)
    tree.make(f"/{name}/{name}")
    assert watch.drain() == {path}


def test_the_readable_descriptor_and_the_end_of_a_watch(tree: Tree, watch: TreeWatch) -> None:
    tree.make("/a")
    path = str(tree.at("/a"))
    watch.watch(path)
    with contextlib.closing(select.epoll()) as epoll:
        epoll.register(watch.fd, select.EPOLLIN)
        assert epoll.poll(0) == []
        tree.make("/a/1")
        assert [fd for fd, _ in epoll.poll(20)] == [watch.fd]
        watch.unwatch(path)
        watch.unwatch(path)
        assert watch.drain() == set(), "what was still in the queue is of no interest any more"
        tree.make("/a/2")
        assert watch.drain() == set()


def test_a_watched_directory_that_is_made_again(tree: Tree, watch: TreeWatch) -> None:
    tree.make("/a")
    top, path = str(tree.at("")), str(tree.at("/a"))
    watch.watch(top)
    watch.watch(path)
    tree.remove("/a")
    assert top in watch.drain()
    assert watch.watch(path) is False, "gone is a value"
    tree.make("/a")
    assert top in watch.drain()
    assert watch.watch(path)
    watch.drain()
    tree.make("/a/1")
    assert watch.drain() == {path}
    watch.unwatch(path)


def test_writes_to_a_file_are_told_too(tree2: Tree) -> None:
    """memory.max that an administrator changes while we watch (here: cgroup.freeze, which every kernel has)."""
    tree2.make("/a")
    path = str(tree2.at("/a") / "cgroup.freeze")
    watch = TreeWatch(events.WRITES)
    assert watch.watch(path)
    assert watch.watch(str(tree2.at("/a") / "nothing")) is False
    Path(path).read_bytes()
    assert watch.drain() == set()
    Path(path).write_bytes(b"0")
    assert watch.drain() == {path}
    assert watch.drain() == set()
    watch.unwatch(path)
    watch.close()


def test_a_file_is_no_directory(tmp_path: Path, watch: TreeWatch) -> None:
    (tmp_path / "file").touch()
    assert watch.watch(str(tmp_path / "file")) is False


def test_events_that_were_lost_are_told(tmp_path: Path, watch: TreeWatch) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 1 << 17:
        pytest.skip(f"fs.inotify.max_queued_events is {limit}: filling that queue would take minutes")
    for name in "ab":
        (tmp_path / name).mkdir()
        watch.watch(str(tmp_path / name))
    one, other = tmp_path / "a" / "x", tmp_path / "b" / "x"
    # Equal neighbours are merged into one event: so from two directories in turn.
    for _ in range(limit // 2 + 10):
        for path in (one, other):
            if path.exists():
                path.rmdir()
            else:
                path.mkdir()
    assert watch.drain() == {str(tmp_path / "a"), str(tmp_path / "b"), ANYWHERE}


def test_half_an_event_is_none() -> None:
    whole = b"\1\0\0\0\0\1\0\0\0\0\0\0\4\0\0\0a\0\0\0" + b"\2\0\0\0\0\2\0\0\0\0\0\0\0\0\0\0"
    assert events.parse_inotify(whole) == [(1, 0x100), (2, 0x200)]
    assert events.parse_inotify(whole[:-1]) == [(1, 0x100)]
    assert events.parse_inotify(whole[:19]) == []
