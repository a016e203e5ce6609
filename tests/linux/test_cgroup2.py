"""What only a cgroup of v2 has, as plain files and as the kernel has it; what both versions do is in test_cgroup.py."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from oomguard.linux import cgroup2, files, psi
from oomguard.model.facts import MemoryEvents, MemoryStat, Pressure, Stall

from .trees import HOG, MEMORY_STAT, FakeTree, KernelTree, grow, held, plant, until

Child = Callable[..., "subprocess.Popen[str]"]


# ---------------------------------------------------------------------------------------------------------- cgroup.kill


def test_prepared_to_kill_a_cgroup_that_is_made_again(
    tree2: FakeTree | KernelTree, child: Child, no_leak: None
) -> None:
    tree2.make("/web")
    with held(tree2, "/web") as old:
        old.prepare_kill()
        tree2.remove("/web")
        tree2.make("/web")
        innocent = child()
        tree2.enter("/web", innocent.pid)
        old.kill()
        assert (tree2.at("/web") / "cgroup.procs").read_text() == f"{innocent.pid}\n"
        assert innocent.poll() is None


def test_kill_takes_everybody_below(tree2: FakeTree | KernelTree, child: Child, no_leak: None) -> None:
    tree2.make("/web/worker")
    victims = [child(), child()]
    tree2.enter("/web/worker", victims[0].pid)
    if tree2.real:
        tree2.enter("/web/worker", victims[1].pid)
    with held(tree2, "/web") as cgroup:
        cgroup.prepare_kill()
        assert cgroup.kill() is True
        if isinstance(tree2, FakeTree):
            assert (tree2.at("/web") / "cgroup.kill").read_bytes() == b"1"
            return
        assert [victim.wait(20) for victim in victims] == [-9, -9]
        until(lambda: not cgroup.populated())


# -------------------------------------------------------------------------------- of files alone: numbers of our choice


@pytest.fixture
def fake(tmp_path: Path) -> FakeTree:
    return FakeTree(tmp_path)


def test_facts_are_what_was_asked_for(fake: FakeTree, no_leak: None) -> None:
    fake.make("/web")
    plant(fake.at("/web"), {"memory.current": b"268435456\n", "memory.swap.current": b"4096\n"})
    with held(fake, "/web") as cgroup:
        facts = cgroup.facts(stat=False)
        assert facts is not None
        assert (facts.current_bytes, facts.swap_bytes) == (268435456, 4096)
        assert (facts.stat, facts.events, facts.pressure) == (None, None, None)
        full = cgroup.facts(stat=True, swap=False, events=True, pressure=True)
        assert full is not None
        assert full.stat == MemoryStat(1052672, 263192576, 4096, 1033296)
        assert full.events == MemoryEvents(low=0, high=12, max=3, oom=2, oom_kill=1)
        assert full.pressure == Pressure(Stall(0, 0, 0, 0), Stall(0, 0, 0, 0))
        assert full.swap_bytes == 0
        assert full.unreclaimable_bytes == 268435456 - (263192576 - 4096) - 1033296


def test_a_memory_stat_that_says_nothing_of_cache_is_broken(fake: FakeTree, no_leak: None) -> None:
    """Without it all memory would look like use, and a service that reads files like a leak."""
    plant(fake.at(""), {"memory.current": b"268435456\n", "memory.stat": MEMORY_STAT.replace(b"shmem", b"shared")})
    with held(fake) as cgroup:
        with pytest.raises(OSError, match=r"not a memory\.stat") as broken:
            cgroup.facts(stat=True)
        assert (broken.value.errno, broken.value.filename) == (errno.EBADMSG, str(fake.at("/memory.stat")))
        assert cgroup.facts(stat=False) is not None


def test_a_cgroup_that_ends_between_two_reads_is_gone(fake: FakeTree, no_leak: None) -> None:
    plant(fake.at(""), {"memory.current": b"268435456\n"})
    os.unlink(fake.at("/memory.stat"))
    with held(fake) as cgroup:
        assert cgroup.facts(stat=True) is None


def test_what_seldom_changes_is_carried_over(fake: FakeTree, no_leak: None) -> None:
    fake.make("/a/web")
    plant(fake.at("/a"), {"memory.max": b"1048576\n", "memory.swap.max": b"8192\n"})
    plant(fake.at("/a/web"), {"memory.high": b"524288\n", "memory.oom.group": b"1\n"})
    fake.enter("/a/web", 42)
    with held(fake, "/a/web") as cgroup:
        known = cgroup.settled()
        assert known is not None
        plant(fake.at("/a/web"), {"memory.current": b"77\n"})
        facts = cgroup.facts(stat=False, known=known)
    assert facts is not None
    assert (facts.current_bytes, facts.limit_bytes, facts.limit_path) == (77, 1048576, f"{fake.prefix}/a")
    assert (facts.swap_limit_bytes, facts.high_bytes, facts.oom_group, facts.populated) == (8192, 524288, True, True)


def test_kept_files_are_read_anew(fake: FakeTree, no_leak: None) -> None:
    with held(fake) as cgroup:
        for value in (1, 123456789, 7):
            plant(fake.at(""), {"memory.current": b"%d\n" % value})
            assert cgroup.current() == value
        assert cgroup.limit() is None
        plant(fake.at(""), {"memory.max": b"4096\n"})
        assert cgroup.limit() == 4096
        assert cgroup.limit("memory.swap.max") is None


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, (None, None)),
        ({"/a": 100}, (100, "/a")),
        ({"/a": 100, "/a/b": 50}, (50, "/a/b")),
        ({"/a": 50, "/a/b/c": 100}, (50, "/a")),
        ({"/a": 50, "/a/b/c": 50}, (50, "/a/b/c")),
        ({"/a/b": 0}, (0, "/a/b")),
    ],
)
def test_the_smallest_limit_on_the_way_up(
    fake: FakeTree, limits: dict[str, int], expected: tuple[int | None, str | None], no_leak: None
) -> None:
    fake.make("/a/b/c")
    for path in ("/a", "/a/b", "/a/b/c"):
        plant(fake.at(path), {"memory.max": b"max\n"})
    for path, limit in limits.items():
        plant(fake.at(path), {"memory.max": b"%d\n" % limit})
    limit, whose = cgroup2.effective_limit(fake.root, f"{fake.prefix}/a/b/c")
    assert (limit, whose) == (expected[0], expected[1] and fake.prefix + expected[1])


def test_walk_does_not_go_down_where_there_is_too_little(fake: FakeTree, no_leak: None) -> None:
    for path, current in (("/big", 1000), ("/big/small", 10), ("/big/small/x", 10), ("/tiny", 9), ("/tiny/x", 9)):
        fake.make(path)
        plant(fake.at(path), {"memory.current": b"%d\n" % current})
    seen = {path.removeprefix(fake.prefix): current for path, _, current in cgroup2.walk(fake.root, fake.prefix, 100)}
    assert seen == {"/big": 1000, "/tiny": 9, "/big/small": 10}


@pytest.mark.parametrize("lines", [100, 2_000, 30_000])
def test_long_files_are_read_whole(fake: FakeTree, lines: int, no_leak: None) -> None:
    """memory.stat has grown from 30 to 70 lines; cgroup.procs of a busy service is far longer than a page."""
    junk = b"".join(b"workingset_%d 12345678\n" % number for number in range(lines))
    head, _, tail = MEMORY_STAT.partition(b"inactive_anon")
    pids = list(range(1, 20 * lines))
    plant(
        fake.at(""),
        {"memory.stat": head + junk + b"inactive_anon" + tail, "cgroup.procs": b"".join(b"%d\n" % pid for pid in pids)},
    )
    with held(fake) as cgroup:
        stat = cgroup.stat()
        if len(junk) < files.MOST_BYTES:
            assert stat == MemoryStat(1052672, 263192576, 4096, 1033296)
        found = cgroup.procs()
        assert found == pids[: len(found)]
        assert len(found) == len(pids) or len(found) * 8 > files.MOST_BYTES * 0.9


def test_broken_is_an_error_with_its_path(fake: FakeTree, no_leak: None) -> None:
    os.unlink(fake.at("/memory.current"))
    os.mkdir(fake.at("/memory.current"))
    with held(fake) as cgroup, pytest.raises(OSError, match="directory") as broken:
        cgroup.current()
    assert broken.value.errno == errno.EISDIR
    assert broken.value.filename == str(fake.at("/memory.current"))


@pytest.mark.parametrize(
    ("error", "method"),
    [(errno.EOPNOTSUPP, "pressure"), (errno.EOPNOTSUPP, "procs")],
    ids=["pressure accounting off", "threaded cgroup"],
)
def test_what_a_cgroup_may_refuse(
    fake: FakeTree, monkeypatch: pytest.MonkeyPatch, error: int, method: str, no_leak: None
) -> None:
    def refuse(*_: object) -> bytes:
        raise OSError(error, "refused")

    with held(fake) as cgroup:
        monkeypatch.setattr(os, "pread", refuse)
        assert not getattr(cgroup, method)()


# ------------------------------------------------------------------------------------------------------------ its name


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("/", ""),
        ("/system.slice", "system.slice"),
        ("/system.slice/ssh.service", "ssh.service"),
        ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service"),
        ("/system.slice/ssh.service/child/deeper", "ssh.service"),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/app-x.scope", "app-x.scope"),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice", "user@1000.service"),
        ("/system.slice/docker-0a1b.scope/kubepods.slice", "docker-0a1b.scope"),
        ("/machine.slice/home\\x2dbackup.mount", "home\\x2dbackup.mount"),
        ("/init.scope", "init.scope"),
        ("/dev-sda2.swap", "dev-sda2.swap"),
        ("/system.slice/web.service.d", "system.slice"),
        ("/lxc/foo", ""),
    ],
)
def test_the_unit_of_a_path(path: str, unit: str) -> None:
    assert cgroup2.unit_of(path) == unit


# ---------------------------------------------------------------------------------------- what only the kernel can play


@pytest.mark.kernel
def test_the_last_one_leaving_wakes_the_poller_once(real_tree: KernelTree, child: Child, no_leak: None) -> None:
    real_tree.make("/web")
    leaver = child()
    real_tree.enter("/web", leaver.pid)
    with held(real_tree, "/web") as cgroup, contextlib.closing(select.epoll()) as epoll:
        fd = cgroup.populated_fd()
        epoll.register(fd, select.EPOLLPRI)
        assert epoll.poll(0) == [], "what was there when we began does not wake us"
        leaver.kill()
        leaver.wait()
        woken = epoll.poll(20)
        assert [found for found, _ in woken] == [fd]
        assert woken[0][1] & select.EPOLLPRI
        until(lambda: not cgroup.populated())
        assert epoll.poll(0) == [], "reading takes the event back"


@pytest.mark.kernel
def test_removal_wakes_nobody_but_who_looks_again_is_woken_for_ever(real_tree: KernelTree, no_leak: None) -> None:
    """Two traps: who only waits never learns of it, and who arms again without reading, spins."""
    real_tree.make("/web")
    with held(real_tree, "/web") as cgroup, contextlib.closing(select.epoll()) as epoll:
        fd = cgroup.populated_fd()
        epoll.register(fd, select.EPOLLPRI)
        real_tree.remove("/web")
        assert epoll.poll(0) == []
        epoll.modify(fd, select.EPOLLPRI)
        for _ in range(3):
            assert [found for found, _ in epoll.poll(20)] == [fd]
            assert not cgroup.populated()
        assert not cgroup.alive()


@pytest.mark.kernel
def test_sigkill_reaches_the_frozen(real_tree: KernelTree, child: Child, no_leak: None) -> None:
    real_tree.make("/web")
    victim = child()
    real_tree.enter("/web", victim.pid)
    with held(real_tree, "/web") as cgroup:
        cgroup.freeze(True)
        until(lambda: b"frozen 1" in (real_tree.at("/web") / "cgroup.events").read_bytes())
        assert cgroup.kill()
        assert victim.wait(20) == -9


@pytest.mark.kernel
def test_limits_are_read_as_they_were_written(memory_tree: KernelTree) -> None:
    memory_tree.make("/web/worker")
    with held(memory_tree, "/web") as above, held(memory_tree, "/web/worker") as cgroup:
        assert cgroup.high() is None
        assert above.write("memory.max", str(64 << 20))
        assert cgroup.write("memory.max", str(96 << 20), nonblock=False)
        assert cgroup.write("memory.high", str(32 << 20))
        assert cgroup.write("memory.oom.group", "1")
        assert (cgroup.limit(), cgroup.high(), cgroup.oom_group()) == (96 << 20, 32 << 20, True)
        settled = cgroup.settled()
        assert settled is not None
        assert (settled.limit_bytes, settled.limit_path) == (64 << 20, above.path)
        assert cgroup.write("memory.high", "max")
        assert cgroup.high() is None


@pytest.mark.kernel
def test_the_tripwire_wakes_through_memory_events(
    memory_tree: KernelTree, python: Callable[[str], subprocess.Popen[str]]
) -> None:
    memory_tree.make("/web")
    hog = python(HOG)
    memory_tree.enter("/web", hog.pid)
    with held(memory_tree, "/web") as cgroup, contextlib.closing(select.epoll()) as epoll:
        cgroup.write("memory.high", str(24 << 20))
        fd = cgroup.events_fd()
        epoll.register(fd, select.EPOLLPRI)
        assert epoll.poll(0) == []
        grow(hog, 40 << 20)
        assert [found for found, _ in epoll.poll(20)] == [fd]
        events = cgroup.events()
        assert events is not None
        assert events.high > 0
        assert events.oom_kill == 0
        assert cgroup.kill()


@pytest.mark.kernel
def test_the_kernel_reports_a_stall(memory_tree: KernelTree, python: Callable[[str], subprocess.Popen[str]]) -> None:
    """A leak over memory.high is made to wait, and waiting for memory is what PSI measures."""
    memory_tree.make("/web")
    hog = python(HOG)
    memory_tree.enter("/web", hog.pid)
    with held(memory_tree, "/web") as cgroup, contextlib.closing(select.epoll()) as epoll:
        cgroup.write("memory.high", str(16 << 20))
        fd, stall_us, window_us = psi.open_trigger(cgroup.where("memory.pressure"), "full", 100_000, 1_000_000)
        epoll.register(fd, select.EPOLLPRI)
        grow(hog, 200 << 20)
        woken = epoll.poll(30)
        assert [(found, bool(mask & select.EPOLLPRI), bool(mask & select.EPOLLERR)) for found, mask in woken] == [
            (fd, True, False)
        ]
        pressure = cgroup.pressure()
        assert pressure is not None
        assert pressure.full.total_us >= stall_us
        assert window_us >= 1_000_000
        assert cgroup.kill(), "the throttled die of SIGKILL at once"
        assert hog.wait(20) == -9
        os.close(fd)
