"""The contract of a cgroup: one for plain files and for the kernel. Then what only the kernel can play."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oomguard.linux import cgroup2, files, psi
from oomguard.linux.cgroup2 import Cgroup
from oomguard.model.facts import MemoryEvents, MemoryStat, Pressure, Stall

from .trees import HOSTILE_NAMES, MEMORY_STAT, FakeTree, KernelTree, Tree, plant, until

Child = Callable[..., "subprocess.Popen[str]"]


@contextlib.contextmanager
def held(tree: Tree, path: str = "") -> Iterator[Cgroup]:
    cgroup = Cgroup.open(tree.root, tree.prefix + path)
    assert cgroup is not None
    try:
        yield cgroup
    finally:
        cgroup.close()


# --------------------------------------------------------------------------------------------- the contract: one cgroup


def test_an_empty_cgroup(tree: Tree, no_leak: None) -> None:
    tree.make("/web")
    with held(tree, "/web") as cgroup:
        assert cgroup.path == f"{tree.prefix}/web"
        assert cgroup.inode == os.stat(tree.at("/web")).st_ino
        assert cgroup.alive()
        assert cgroup.same()
        assert not cgroup.populated()
        assert cgroup.procs() == []
        assert cgroup.children() == []
        assert isinstance(cgroup.pressure(), Pressure)
        assert cgroup.where("cgroup.procs") == str(tree.at("/web/cgroup.procs"))


def test_who_lives_in_it(tree: Tree, child: Child, no_leak: None) -> None:
    tree.make("/web/worker")
    pid = child().pid
    tree.enter("/web/worker", pid)
    with held(tree, "/web") as above, held(tree, "/web/worker") as cgroup:
        assert cgroup.procs() == [pid]
        assert cgroup.populated()
        assert above.procs() == [], "procs are its own, not those below"
        assert above.populated(), "populated counts those below"
        assert above.children() == ["worker"]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_names_are_bytes(tree: Tree, name: str, no_leak: None) -> None:
    tree.make(f"/{name}/below")
    with held(tree) as top, held(tree, f"/{name}") as cgroup:
        assert top.children() == [name]
        assert cgroup.children() == ["below"]
        assert cgroup.same()
    paths = [path for path, _, _ in cgroup2.walk(tree.root, tree.prefix)]
    assert paths == [f"{tree.prefix}/{name}", f"{tree.prefix}/{name}/below"]


def test_gone_is_a_value(tree: Tree, no_leak: None) -> None:
    tree.make("/web/below")
    with held(tree, "/web") as cgroup:
        cgroup.prepare_kill()
        assert (cgroup.populated(), cgroup.pressure() is None) == (False, False)  # held open from here on
        tree.remove("/web")
        assert (cgroup.alive(), cgroup.same(), cgroup.populated()) == (False, False, False)
        assert (cgroup.procs(), cgroup.children()) == ([], [])
        assert cgroup.pressure() is None
        assert cgroup.facts(stat=True, events=True, pressure=True) is None
        assert cgroup.settled() is None
        assert (cgroup.current(), cgroup.stat(), cgroup.swap_current(), cgroup.events()) == (None,) * 4
        assert (cgroup.limit(), cgroup.high(), cgroup.oom_group()) == (None, None, False)
        assert cgroup.write("cgroup.freeze", "1") is False
        assert cgroup.freeze(True) is False
        with pytest.raises(FileNotFoundError) as broken:
            cgroup.events_fd()
        assert broken.value.filename == str(tree.at("/web/memory.events"))
    assert Cgroup.open(tree.root, f"{tree.prefix}/web") is None
    assert list(cgroup2.walk(tree.root, f"{tree.prefix}/web")) == []


def test_what_is_gone_before_its_files_were_opened(tree: Tree, no_leak: None) -> None:
    tree.make("/web")
    with held(tree, "/web") as cgroup:
        tree.remove("/web")
        assert (cgroup.populated(), cgroup.pressure(), cgroup.current()) == (False, None, None)
        assert cgroup.kill() is False, "nobody is left to be killed"


def test_a_cgroup_made_again_is_another_one(tree: Tree, child: Child, no_leak: None) -> None:
    """oomd kept inodes for this: a path that was made again must not be killed by mistake."""
    tree.make("/web")
    with held(tree, "/web") as old:
        tree.remove("/web")
        tree.make("/web")
        innocent = child()
        tree.enter("/web", innocent.pid)
        with held(tree, "/web") as new:
            assert new.inode != old.inode
            assert (new.same(), new.alive()) == (True, True)
            assert (old.same(), old.alive()) == (False, False)
            assert old.procs() == []
            assert old.kill() is False
            assert old.write("cgroup.freeze", "1") is False
            assert new.procs() == [innocent.pid]
        assert innocent.poll() is None


def test_prepared_to_kill_a_cgroup_that_is_made_again(tree: Tree, child: Child, no_leak: None) -> None:
    tree.make("/web")
    with held(tree, "/web") as old:
        old.prepare_kill()
        tree.remove("/web")
        tree.make("/web")
        innocent = child()
        tree.enter("/web", innocent.pid)
        old.kill()
        assert (tree.at("/web") / "cgroup.procs").read_text() == f"{innocent.pid}\n"
        assert innocent.poll() is None


def test_kill_takes_everybody_below(tree: Tree, child: Child, no_leak: None) -> None:
    tree.make("/web/worker")
    victims = [child(), child()]
    tree.enter("/web/worker", victims[0].pid)
    if tree.real:
        tree.enter("/web/worker", victims[1].pid)
    with held(tree, "/web") as cgroup:
        cgroup.prepare_kill()
        assert cgroup.kill() is True
        if isinstance(tree, FakeTree):
            assert (tree.at("/web") / "cgroup.kill").read_bytes() == b"1"
            return
        assert [victim.wait(20) for victim in victims] == [-9, -9]
        until(lambda: not cgroup.populated())


def test_freeze_and_thaw(tree: Tree, child: Child, no_leak: None) -> None:
    tree.make("/web")
    tree.enter("/web", child().pid)
    events = tree.at("/web") / "cgroup.events"
    with held(tree, "/web") as cgroup:
        assert cgroup.freeze(True) is True
        assert (tree.at("/web") / "cgroup.freeze").read_bytes().startswith(b"1")
        if tree.real:
            until(lambda: b"frozen 1" in events.read_bytes())
        assert cgroup.freeze(False) is True
        if tree.real:
            until(lambda: b"frozen 0" in events.read_bytes())


def test_a_file_that_is_not_there_is_not_a_cgroup_that_is_gone(tree: Tree, no_leak: None) -> None:
    with held(tree) as cgroup, pytest.raises(FileNotFoundError) as broken:
        cgroup.write("memory.nothing", "1")
    assert broken.value.filename == str(tree.at("/memory.nothing"))


def test_the_root_has_no_memory_files_and_is_never_empty(tree: Tree, no_leak: None) -> None:
    root = Cgroup.open(tree.root, "/")
    assert root is not None
    assert (root.current(), root.swap_current(), root.events(), root.limit(), root.facts(stat=True)) == (None,) * 5
    if tree.real and tree.has_memory:
        assert root.stat() is not None, "but it does have memory.stat"
    assert root.populated()
    assert root.same()
    assert os.path.basename(tree.prefix) in root.children()
    with pytest.raises(FileNotFoundError):
        root.populated_fd()
    with pytest.raises(FileNotFoundError):
        root.prepare_kill()
    root.close()
    root.close()


# ----------------------------------------------------------------------------------------------- the contract: the tree


def test_walk_tells_every_cgroup_once_and_level_by_level(tree: Tree, no_leak: None) -> None:
    for path in ("/a/1/x", "/a/2", "/b/1", "/c"):
        tree.make(path)
    seen = list(cgroup2.walk(tree.root, tree.prefix))
    paths = [path.removeprefix(tree.prefix) for path, _, _ in seen]
    assert sorted(paths) == ["/a", "/a/1", "/a/1/x", "/a/2", "/b", "/b/1", "/c"]
    assert [path.count("/") for path in paths] == [1, 1, 1, 2, 2, 2, 3]
    assert all(inode == os.stat(tree.root + path).st_ino for path, inode, _ in seen)
    everything = [path for path, _, _ in cgroup2.walk(tree.root)]
    assert {path for path, _, _ in seen} < set(everything)


def test_siblings_survive_one_that_vanishes_between_levels(tree: Tree, no_leak: None) -> None:
    """systemd issue 40705: one vanished cgroup aborted the whole enumeration."""
    for path in ("/a/1", "/b/1", "/c/1"):
        tree.make(path)
    paths = []
    for path, _, _ in cgroup2.walk(tree.root, tree.prefix):
        if not paths:
            tree.remove("/b")
        paths.append(path.removeprefix(tree.prefix))
    assert sorted(paths) == ["/a", "/a/1", "/b", "/c", "/c/1"]


def test_siblings_survive_one_that_vanishes_while_they_are_read(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, no_leak: None
) -> None:
    names = [f"/{name}/below" for name in "abcdef"]
    for path in names:
        tree.make(path)
    read_at, removed = files.read_at, []

    def remove_others_first(directory: int, name: str, path: str, size: int = 4096) -> bytes | None:
        if not removed:
            reading = "/" + name.partition("/")[0]
            removed.extend([other for other in ("/a", "/b", "/c") if other != reading][:2])
            for other in removed:
                tree.remove(other)
        return read_at(directory, name, path, size)

    monkeypatch.setattr(files, "read_at", remove_others_first)
    paths = {path.removeprefix(tree.prefix) for path, _, _ in cgroup2.walk(tree.root, tree.prefix)}
    survivors = {f"/{name}" for name in "abcdef"} - set(removed)
    assert {path for path in paths if path.count("/") == 1} - set(removed) == survivors
    assert {path for path in paths if path.count("/") == 2} == {f"{path}/below" for path in survivors}


def test_walk_while_cgroups_come_and_go(tree: Tree, no_leak: None) -> None:
    steady = {f"/steady{number}/below" for number in range(5)}
    for path in steady:
        tree.make(path)
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            for name in "xyz":
                tree.make(f"/{name}/1")
            for name in "xyz":
                tree.remove(f"/{name}")

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(60):
            paths = {path.removeprefix(tree.prefix) for path, _, _ in cgroup2.walk(tree.root, tree.prefix)}
            assert steady <= paths
    finally:
        stop.set()
        thread.join()


def test_a_walk_that_is_given_up_closes_what_it_holds(tree: Tree, no_leak: None) -> None:
    tree.make("/a/1")
    walk = cgroup2.walk(tree.root, tree.prefix)
    next(walk)
    walk.close()


def test_a_tree_deeper_than_a_path_may_be_long_does_not_end_the_walk(tree: Tree, no_leak: None) -> None:
    """A user can nest cgroups in his delegated tree so deep that no path leads there. He is seen at his ancestors."""
    name = "d" * 200
    here = os.open(tree.at(""), os.O_RDONLY)
    made = []
    for _ in range(25):
        os.mkdir(name, dir_fd=here)
        made.append(here)
        here = os.open(name, os.O_RDONLY, dir_fd=here)
    tree.make("/z")
    try:
        paths = [path for path, _, _ in cgroup2.walk(tree.root, tree.prefix)]
        assert f"{tree.prefix}/z" in paths
        assert 15 < len(paths) < 26
    finally:
        os.close(here)
        for directory in reversed(made):
            os.rmdir(name, dir_fd=directory)
            os.close(directory)


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


# ---------------------------------------------------------------------------------------------------------- the machine


def mounts(proc: Path, *lines: str) -> str:
    plant(proc, {"self/mounts": "".join(f"{line}\n" for line in lines).encode()})
    return str(proc)


def test_the_mount_of_v2(tmp_path: Path) -> None:
    root = plant(tmp_path / "sys fs", {"cgroup.controllers": b"cpuset cpu io memory pids\n"})
    escaped = str(root).replace(" ", "\\040")
    proc = mounts(tmp_path, "proc /proc proc rw 0 0", "odd", f"cgroup2 {escaped} cgroup2 rw,nsdelegate 0 0")
    assert cgroup2.find_mount(proc) == (str(root), "v2")


@pytest.mark.parametrize(
    ("lines", "flavour"),
    [
        (["cgroup2 /u cgroup2 rw 0 0", "cgroup /m cgroup rw,relatime,memory 0 0"], "hybrid"),
        (["cgroup /m cgroup rw,relatime,memory 0 0"], "v1"),
        (["cgroup /m cgroup rw,relatime,memory_of_cpu 0 0"], "none"),
        (["cgroup2 /u cgroup2 rw 0 0"], "none"),
        ([], "none"),
    ],
)
def test_machines_without_it(tmp_path: Path, lines: list[str], flavour: str) -> None:
    plant(tmp_path / "u", {"cgroup.controllers": b"cpu pids\n"})
    proc = mounts(tmp_path, *(line.replace(" /u", f" {tmp_path}/u") for line in lines))
    assert cgroup2.find_mount(proc) == (None, flavour)


def test_no_proc_is_broken(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as broken:
        cgroup2.find_mount(str(tmp_path))
    assert broken.value.filename == f"{tmp_path}/self/mounts"


@pytest.mark.kernel
def test_this_machine_has_a_flavour() -> None:
    mount, flavour = cgroup2.find_mount("/proc")
    assert (flavour == "v2") == (mount is not None)
    assert flavour in ("v2", "hybrid", "v1", "none")


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


HOG = """
ready()
for line in sys.stdin:
    keep = bytearray(int(line))
    keep[::4096] = b'x' * len(keep[::4096])
    ready()
"""


def grow(hog: subprocess.Popen[str], size_bytes: int) -> None:
    assert hog.stdin is not None
    hog.stdin.write(f"{size_bytes}\n")
    hog.stdin.flush()


@pytest.mark.kernel
def test_memory_is_counted(memory_tree: KernelTree, python: Callable[[str], subprocess.Popen[str]]) -> None:
    memory_tree.make("/web/worker")
    hog = python(HOG)
    memory_tree.enter("/web/worker", hog.pid)
    with held(memory_tree, "/web") as cgroup:
        before = cgroup.facts(stat=True, events=True, pressure=True)
        grow(hog, 32 << 20)
        assert hog.stdout is not None
        hog.stdout.readline()
        after = cgroup.facts(stat=True, events=True, pressure=True, known=cgroup.settled())
        assert before is not None
        assert before.stat is not None
        assert after is not None
        assert after.stat is not None
        assert after.current_bytes - before.current_bytes >= 31 << 20
        assert after.stat.anon_bytes - before.stat.anon_bytes >= 31 << 20
        assert after.unreclaimable_bytes >= 31 << 20
        assert after.events is not None
        assert after.pressure is not None
        assert (after.populated, after.limit_bytes, after.high_bytes) == (True, None, None)
        walked = {path: current for path, _, current in cgroup2.walk(memory_tree.root, memory_tree.prefix, 1 << 20)}
        assert walked[f"{memory_tree.prefix}/web"] >= 31 << 20
        assert walked[f"{memory_tree.prefix}/web/worker"] >= 31 << 20


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


@pytest.mark.kernel
def test_all_memory_files_of_a_removed_cgroup_say_gone(memory_tree: KernelTree) -> None:
    memory_tree.make("/web")
    with held(memory_tree, "/web") as cgroup:
        assert cgroup.facts(stat=True, events=True, pressure=True) is not None
        memory_tree.remove("/web")
        assert (cgroup.current(), cgroup.stat(), cgroup.events(), cgroup.pressure()) == (None,) * 4
        assert cgroup.swap_current() is None
        assert cgroup.write("memory.high", "max") is False
