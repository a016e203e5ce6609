"""The journal of leases: whenever its writer is killed, everything is put back, and nothing else is touched."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oomguard.linux import leases, procfs
from oomguard.linux.cgroup2 import Cgroup
from oomguard.linux.leases import HIGH, MAX, PATH_BYTES, SCORE, SLOTS, Entry, Journal

from .trees import FakeTree

MIB = 1 << 20
Child = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeTree:
    """memory.high as a file: the kernel's own rules on it are tested in the virtual machine."""

    def replace(_group: Cgroup, fd: int, _name: str, value: bytes) -> bool:
        os.ftruncate(fd, 0)  # a kernel file takes a new value whole, however long the old one was
        os.write(fd, value)
        return True

    monkeypatch.setattr(Cgroup, "_write_fd", replace)
    (tmp_path / "cgroup").mkdir()
    return FakeTree(tmp_path / "cgroup")


@pytest.fixture
def runtime(tmp_path: Path) -> str:
    (tmp_path / "run").mkdir()
    return str(tmp_path / "run")


def of(tree: FakeTree, path: str, token: int = 1, value: int = 200 * MIB, found: int = MAX) -> Entry:
    where = tree.prefix + path
    return Entry(HIGH, token, os.stat(tree.root + where).st_ino, 0, 0, value, found, found, where)


def high(tree: FakeTree, path: str) -> str:
    return (tree.at(path) / "memory.high").read_text()


def set_high(tree: FakeTree, path: str, text: str) -> None:
    (tree.at(path) / "memory.high").write_text(text)


def journal(runtime: str) -> Journal:
    return Journal(f"{runtime}/{leases.NAME}")


def journalled(runtime: str) -> list[Entry]:
    book = journal(runtime)
    try:
        return [entry for _, entry in book.entries()]
    finally:
        book.close()


def undo_all(runtime: str, tree: FakeTree) -> list[str]:
    return leases.undo_all(runtime, tree.root, "/proc")


# ------------------------------------------------------------------------------------------------------------- journal


entries = st.builds(
    Entry,
    kind=st.sampled_from([HIGH, SCORE]),
    token=st.integers(1, 2**63),
    inode=st.integers(0, 2**64 - 1),
    start_ticks=st.integers(0, 2**64 - 1),
    pid=st.integers(0, 2**22),
    value=st.integers(-1000, 2**62),
    before=st.integers(-1000, 2**62),
    found=st.integers(-1000, 2**62),
    path=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=100),
    since_ticks=st.integers(0, 2**64 - 1),
)


@given(st.lists(entries, max_size=20, unique_by=lambda entry: entry.token))
@settings(deadline=None, max_examples=50)
def test_what_is_journalled_is_read_by_the_next(tmp_path_factory: pytest.TempPathFactory, made: list[Entry]) -> None:
    path = str(tmp_path_factory.mktemp("journal") / leases.NAME)
    first = Journal(path)
    for entry in made:
        assert first.out(entry)
    first.close()
    second = Journal(path)
    assert sorted(entry for _, entry in second.entries()) == sorted(made)
    for number, _ in second.entries():
        second.clear(number)
    assert second.entries() == []
    second.close()


def test_a_moved_value_stays_one_entry(runtime: str, tree: FakeTree) -> None:
    tree.make("/a")
    book = journal(runtime)
    first = of(tree, "/a", value=200 * MIB)
    moved = first._replace(value=300 * MIB, before=200 * MIB)
    assert book.out(first)
    assert book.out(moved)
    assert [entry for _, entry in book.entries()] == [moved]
    book.back(first.token)
    assert book.entries() == []
    book.back(first.token)  # twice is no harm
    book.close()


def test_most_of_an_empty_journal_is_not_in_our_memory(runtime: str, tree: FakeTree) -> None:
    """And what is leased first lies where it is."""

    def resident() -> int:
        maps = Path("/proc/self/smaps").read_text().partition(f"{runtime}/{leases.NAME}\n")[2]
        return int(maps.partition("Rss:")[2].split()[0]) << 10

    tree.make("/a")
    journal(runtime).close()
    book = journal(runtime)
    held = resident()
    assert leases.HELD * leases.SLOT_BYTES <= held < SLOTS * leases.SLOT_BYTES // 2
    for token in range(1, leases.HELD + 1):
        assert book.out(of(tree, "/a", token))
    assert resident() == held
    book.close()


def test_a_full_journal_says_so_and_has_room_again(runtime: str, tree: FakeTree) -> None:
    tree.make("/a")
    book = journal(runtime)
    for token in range(1, SLOTS + 1):
        assert book.out(of(tree, "/a", token))
    assert book.out(of(tree, "/a", SLOTS + 1)) is False
    assert book.out(of(tree, "/a", 5, value=7)) is True, "one that is out already needs no room"
    book.back(9)
    assert book.out(of(tree, "/a", SLOTS + 1)) is True
    assert len(book.entries()) == SLOTS
    book.close()


def test_a_path_that_does_not_fit_is_not_journalled(runtime: str) -> None:
    book = journal(runtime)
    entry = Entry(HIGH, 1, 2, 0, 0, 3, 4, 5, "/" + "x" * PATH_BYTES)
    assert book.out(entry) is False
    assert book.entries() == []
    assert book.out(entry._replace(path="/" + "x" * (PATH_BYTES - 1))) is True
    umlauts = entry._replace(token=2, path="/" + "ü" * (PATH_BYTES // 2))  # bytes count, not letters
    assert book.out(umlauts) is False
    assert len(book.entries()[0][1].path) == PATH_BYTES
    book.close()


def test_slots_that_a_former_daemon_could_not_undo_are_not_taken(runtime: str, tree: FakeTree) -> None:
    tree.make("/a")
    first = journal(runtime)
    first.out(of(tree, "/a", 1))
    first.close()
    second = journal(runtime)
    other = Entry(SCORE, 1, 0, 5, 6, 7, 8, 9, "/b")  # the same token: tokens begin anew with every daemon
    assert second.out(other)
    assert {entry.path for _, entry in second.entries()} == {tree.prefix + "/a", "/b"}
    second.back(1)
    assert {entry.path for _, entry in second.entries()} == {tree.prefix + "/a"}
    second.close()


@pytest.mark.parametrize("content", [b"", b"oomguard leases 0\n" + b"\1" * 9000, os.urandom(5000)], ids=len)
def test_what_is_no_journal_of_ours_is_made_one(runtime: str, tree: FakeTree, content: bytes) -> None:
    Path(runtime, leases.NAME).write_bytes(content)
    assert undo_all(runtime, tree) == []
    book = journal(runtime)
    assert book.entries() == []
    assert book.out(Entry(HIGH, 1, 2, 0, 0, 3, 4, 5, "/a"))
    book.close()


def test_a_slot_full_of_nonsense_ends_nobody(runtime: str, tree: FakeTree) -> None:
    """No path may hold NUL; the rest of the journal is undone all the same."""
    tree.make("/a")
    set_high(tree, "/a", f"{200 * MIB}\n")
    book = journal(runtime)
    book.out(Entry(HIGH, 1, 2, 0, 0, 3, 4, 5, "/a\0b"))
    book.out(Entry(77, 2, 2, 3, 4, 3, 4, 5, ""))
    book.out(of(tree, "/a", 3))
    book.close()
    said = undo_all(runtime, tree)
    assert len(said) == 3
    assert [sentence.startswith("could not be put back") for sentence in said] == [True, True, False]
    assert "kind 77" in said[1], "of a newer version: told, not taken for something else"
    assert high(tree, "/a") == "max"


def test_a_link_in_its_place_is_not_followed(runtime: str, tmp_path: Path, tree: FakeTree) -> None:
    (tmp_path / "precious").write_text("precious")
    Path(runtime, leases.NAME).symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"):
        journal(runtime)
    assert (tmp_path / "precious").read_text() == "precious"


# ---------------------------------------------------------------------------------------------------------------- undo


@pytest.mark.parametrize(("found", "text"), [(MAX, "max"), (150 * MIB, str(150 * MIB)), (0, "0")])
def test_what_was_found_is_put_back(runtime: str, tree: FakeTree, found: int, text: str) -> None:
    tree.make("/web.service")
    set_high(tree, "/web.service", f"{200 * MIB}\n")
    book = journal(runtime)
    book.out(of(tree, "/web.service", found=found))
    book.close()
    assert undo_all(runtime, tree) == [
        f"memory.high of {tree.prefix}/web.service is put back to {text}, as it was found"
    ]
    assert high(tree, "/web.service") == text
    assert journalled(runtime) == []
    assert undo_all(runtime, tree) == []


@pytest.mark.parametrize("standing", [200 * MIB, 300 * MIB])
def test_either_value_of_a_lease_that_is_being_moved_is_ours(runtime: str, tree: FakeTree, standing: int) -> None:
    """Killed between the journal and the write: the old value stands. After it: the new one."""
    tree.make("/a")
    set_high(tree, "/a", f"{standing}\n")
    book = journal(runtime)
    book.out(of(tree, "/a", value=200 * MIB))
    book.out(of(tree, "/a", value=300 * MIB)._replace(before=200 * MIB))
    book.close()
    assert len(undo_all(runtime, tree)) == 1
    assert high(tree, "/a") == "max"


def test_what_somebody_else_wrote_since_is_his(runtime: str, tree: FakeTree) -> None:
    tree.make("/a")
    set_high(tree, "/a", f"{123 * MIB}\n")
    book = journal(runtime)
    book.out(of(tree, "/a"))
    book.close()
    assert undo_all(runtime, tree) == []
    assert high(tree, "/a") == f"{123 * MIB}\n"
    assert journalled(runtime) == []


def test_the_kernel_keeps_memory_high_in_whole_pages(
    runtime: str, tree: FakeTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 KiB on some machines: what was written is read back smaller, and is still ours."""
    monkeypatch.setattr(leases.mmap, "PAGESIZE", 65536)
    tree.make("/a")
    entry = of(tree, "/a", value=200 * MIB + 4096)
    assert leases.stands(entry, 200 * MIB)
    assert not leases.stands(entry, 200 * MIB - 65536)
    assert not leases.stands(entry._replace(kind=SCORE, value=70000), 65536)


def test_a_cgroup_that_was_made_anew_is_left_alone(runtime: str, tree: FakeTree) -> None:
    tree.make("/a")
    entry = of(tree, "/a")
    tree.make("/b")  # keeps the inode of the removed one from being used again at once
    tree.remove("/a")
    tree.make("/c")
    tree.make("/a")
    assert os.stat(tree.at("/a")).st_ino != entry.inode
    set_high(tree, "/a", f"{200 * MIB}\n")
    book = journal(runtime)
    book.out(entry)
    book.close()
    assert undo_all(runtime, tree) == []
    assert high(tree, "/a") == f"{200 * MIB}\n"
    assert leases.write_value(entry, 5, tree.root, "/proc") is False
    assert leases.read_value(entry, tree.root, "/proc") is None


def test_a_cgroup_that_is_gone_is_forgotten(runtime: str, tree: FakeTree) -> None:
    tree.make("/a")
    book = journal(runtime)
    book.out(of(tree, "/a"))
    book.close()
    tree.remove("/a")
    assert undo_all(runtime, tree) == []
    assert journalled(runtime) == []


def test_what_cannot_be_undone_stays_in_the_journal(
    runtime: str, tree: FakeTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.make("/a")
    tree.make("/b")
    book = journal(runtime)
    for token, path in ((1, "/a"), (2, "/b")):
        set_high(tree, path, f"{200 * MIB}\n")
        book.out(of(tree, path, token))
    book.close()
    write = Cgroup.write

    def broken(group: Cgroup, name: str, value: str, nonblock: bool = True) -> bool:
        if group.path.endswith("/a"):
            raise OSError(5, "Input/output error", group.where(name))
        return write(group, name, value, nonblock)

    with monkeypatch.context() as patched:
        patched.setattr(Cgroup, "write", broken)
        said = undo_all(runtime, tree)
    assert len(said) == 2
    assert high(tree, "/b") == "max"
    assert [entry.path for entry in journalled(runtime)] == [tree.prefix + "/a"]
    assert len(undo_all(runtime, tree)) == 1
    assert high(tree, "/a") == "max"


def test_a_score_is_put_back(runtime: str, child: Child, tree: FakeTree) -> None:
    process = child()
    fd = procfs.open_proc()
    start = procfs.start_ticks(fd, process.pid)
    os.close(fd)
    assert start is not None
    score = Path(f"/proc/{process.pid}/oom_score_adj")
    found = int(score.read_text())
    entry = Entry(SCORE, 1, 0, start, process.pid, 1000, found, found, "/any")
    assert leases.read_value(entry, tree.root, "/proc") == found
    book = journal(runtime)
    book.out(entry)
    assert leases.write_value(entry, 1000, tree.root, "/proc") is True
    assert score.read_text() == "1000\n"
    book.close()
    said = undo_all(runtime, tree)
    assert said == [f"oom_score_adj of process {process.pid} is put back to {found}, as it was found"]
    assert int(score.read_text()) == found


def test_another_process_of_the_same_number_is_left_alone(runtime: str, child: Child, tree: FakeTree) -> None:
    process = child()
    score = Path(f"/proc/{process.pid}/oom_score_adj")
    score.write_text("900")
    entry = Entry(SCORE, 1, 0, 12345, process.pid, 900, 900, 0, "/any")  # another start time
    book = journal(runtime)
    book.out(entry)
    book.close()
    assert undo_all(runtime, tree) == []
    assert score.read_text() == "900\n"
    assert leases.write_value(entry, 950, tree.root, "/proc") is False
    process.kill()
    process.wait()
    assert leases.write_value(entry, 950, tree.root, "/proc") is False


def test_no_journal_is_nothing_to_do(tmp_path: Path, tree: FakeTree) -> None:
    assert leases.undo_all(str(tmp_path / "nowhere"), tree.root, "/proc") == []


# ---------------------------------------------------------------------------------------------- killed at any moment


def _lease_for_ever(runtime: str, tree: FakeTree, paths: list[str]) -> None:
    """What core and reaper do together: journal, write, move, write, put back, free; over and over."""
    book = journal(runtime)
    dice = random.Random(os.getpid())
    token = 0
    while True:
        token += 1
        path = dice.choice(paths)
        entry = of(tree, path, token)
        now = leases.read_value(entry, tree.root, "/proc")
        assert now is not None
        entry = entry._replace(value=now, before=now, found=now)
        for _ in range(dice.randrange(1, 4)):
            entry = entry._replace(before=entry.value, value=dice.randrange(1, 1 << 20) * 4096)
            assert book.out(entry)
            # In one write, as the kernel takes it.
            fd = os.open(tree.at(path) / "memory.high", os.O_WRONLY)
            os.write(fd, b"%-20d\n" % entry.value)
            os.close(fd)
        fd = os.open(tree.at(path) / "memory.high", os.O_WRONLY)
        os.write(fd, b"%-20s\n" % (b"max" if entry.found == MAX else b"%d" % entry.found))
        os.close(fd)
        book.back(token)


def test_killed_at_any_moment_everything_is_put_back(runtime: str, tree: FakeTree) -> None:
    owners = {"/a": "max", "/b": str(512 * MIB), "/c": str(100 * MIB), "/d": "max"}
    for path in owners:
        tree.make(path)
    dice = random.Random(6)
    hit = 0
    for _ in range(60):
        for path, text in owners.items():
            set_high(tree, path, text.ljust(20) + "\n")
        pid = os.fork()
        if pid == 0:
            try:
                _lease_for_ever(runtime, tree, list(owners))
            finally:
                os._exit(1)
        time.sleep(dice.uniform(0.001, 0.03))  # the point of the test: any moment
        os.kill(pid, signal.SIGKILL)
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL, "the child has failed by itself"
        hit += len(journalled(runtime))
        undo_all(runtime, tree)
        assert {path: high(tree, path).strip() for path in owners} == owners
        assert journalled(runtime) == []
    assert hit > 5, "it was never caught with a lease out"
