"""The contract of a cgroup, whichever version has its memory: one for plain files and for the kernel, of v1 and of v2.

Whoever opens a cgroup need not know which of the four it is. What only one of them has is in test_cgroup1.py and
test_cgroup2.py.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable

import pytest

from oomguard.linux import cgroup2, files
from oomguard.linux.cgroup2 import Cgroup
from oomguard.model.facts import Pressure

from .trees import HOG, HOSTILE_NAMES, Tree, grow, held, until

Child = Callable[..., "subprocess.Popen[str]"]


# --------------------------------------------------------------------------------------------------------- one cgroup


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
        assert broken.value.filename == cgroup.where("memory.events")
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


def test_freeze_and_thaw(tree: Tree, child: Child, no_leak: None) -> None:
    tree.make("/web")
    tree.enter("/web", child().pid)
    with held(tree, "/web") as cgroup:
        assert cgroup.freeze(True) is True
        assert cgroup.limit("cgroup.freeze") == 1
        until(lambda: tree.frozen("/web"))
        assert cgroup.freeze(False) is True
        assert cgroup.limit("cgroup.freeze") == 0
        until(lambda: not tree.frozen("/web"))


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


# ----------------------------------------------------------------------------------------------------------- the tree


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


# ------------------------------------------------------------------------------------------ memory, by the kernel alone


def test_memory_is_counted(counted_tree: Tree, python: Callable[[str], subprocess.Popen[str]]) -> None:
    counted_tree.make("/web/worker")
    hog = python(HOG)
    counted_tree.enter("/web/worker", hog.pid)
    with held(counted_tree, "/web") as cgroup:
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
        walked = {path: current for path, _, current in cgroup2.walk(counted_tree.root, counted_tree.prefix, 1 << 20)}
        assert walked[f"{counted_tree.prefix}/web"] >= 31 << 20
        assert walked[f"{counted_tree.prefix}/web/worker"] >= 31 << 20


def test_all_memory_files_of_a_removed_cgroup_say_gone(counted_tree: Tree) -> None:
    counted_tree.make("/web")
    with held(counted_tree, "/web") as cgroup:
        assert cgroup.facts(stat=True, events=True, pressure=True) is not None
        counted_tree.remove("/web")
        assert (cgroup.current(), cgroup.stat(), cgroup.events(), cgroup.pressure()) == (None,) * 4
        assert cgroup.swap_current() is None
        assert cgroup.write("memory.high", "max") is False
