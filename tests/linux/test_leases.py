"""The journal of leases: what was changed is put back by whoever comes after, and nothing else is touched."""

from __future__ import annotations

import mmap
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from oomguard.linux import leases, procfs
from oomguard.linux.leases import HIGH, MAX, PATH_BYTES, SCORE, SLOTS, Entry, Journal

from .trees import FakeTree, KernelTree, plant

ROOT = Path(__file__).resolve().parent.parent.parent
Child = Callable[..., "subprocess.Popen[str]"]


def high(tree: FakeTree | KernelTree, value: int, found: int = MAX, path: str = "/web", token: int = 1) -> Entry:
    inode = os.stat(tree.at(path)).st_ino
    return Entry(HIGH, token, inode, 0, 0, value, found, found, tree.prefix + path)


def score(pid: int, value: int, found: int = 0, token: int = 1, start_ticks: int | None = None) -> Entry:
    proc = procfs.open_proc()
    started = procfs.start_ticks(proc, pid) if start_ticks is None else start_ticks
    os.close(proc)
    return Entry(SCORE, token, 0, started or 0, pid, value, found, found, "")


def journal(directory: Path, *entries: Entry) -> None:
    made = Journal(f"{directory}/{leases.NAME}")
    assert [made.out(entry) for entry in entries] == [True] * len(entries)
    made.close()


def out(directory: Path) -> list[Entry]:
    made = Journal(f"{directory}/{leases.NAME}")
    try:
        return [entry for _, entry in made.entries()]
    finally:
        made.close()


def adj(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


@pytest.fixture
def fake(tmp_path: Path) -> FakeTree:
    (tmp_path / "cgroup").mkdir()
    tree = FakeTree(tmp_path / "cgroup")
    tree.make("/web")
    return tree


# -------------------------------------------------------------------------------------------------------- the journal


def test_what_is_journalled_is_there_for_the_next(tmp_path: Path, no_leak: None) -> None:
    entries = [
        Entry(HIGH, 7, 1 << 60, 0, 0, 1 << 40, MAX, MAX, os.fsdecode(b"/web \xff\n")),
        Entry(SCORE, 8, 0, 94336, 4194303, 1000, -17, -17, ""),
    ]
    journal(tmp_path, *entries)
    assert sorted(out(tmp_path)) == sorted(entries)


def test_a_new_value_keeps_what_was_found(tmp_path: Path) -> None:
    first = Entry(HIGH, 7, 1, 0, 0, 100, MAX, MAX, "/web")
    second = first._replace(value=200, before=100)
    journal(tmp_path, first, second)
    assert out(tmp_path) == [second]


def test_what_is_undone_is_gone(tmp_path: Path, no_leak: None) -> None:
    made = Journal(f"{tmp_path}/leases")
    entries = [Entry(SCORE, token, 0, 1, token, 1, 0, 0, "") for token in range(1, 4)]
    for entry in entries:
        assert made.out(entry)
    made.back(2)
    made.back(2)
    made.back(99)
    assert sorted(entry.token for _, entry in made.entries()) == [1, 3]
    made.close()


def test_a_full_journal_and_a_long_path_say_so(tmp_path: Path) -> None:
    made = Journal(f"{tmp_path}/leases")
    entry = Entry(HIGH, 0, 1, 0, 0, 1, 0, 0, "/" + "p" * (PATH_BYTES - 1))
    assert made.out(entry)
    assert not made.out(entry._replace(token=-1, path=entry.path + "p"))
    assert [made.out(entry._replace(token=token)) for token in range(1, SLOTS)] == [True] * (SLOTS - 1)
    assert not made.out(entry._replace(token=SLOTS))
    made.back(17)
    assert made.out(entry._replace(token=SLOTS))
    made.close()


def test_a_journal_is_nobodys_link(tmp_path: Path) -> None:
    os.symlink("/etc/passwd", tmp_path / "leases")
    with pytest.raises(OSError, match="symbolic links"):
        Journal(f"{tmp_path}/leases")


def test_another_version_begins_anew(tmp_path: Path) -> None:
    plant(tmp_path, {"leases": b"oomguard leases 0\n" + b"\1" * 100_000})
    assert out(tmp_path) == []


def test_no_journal_is_nothing_to_undo(tmp_path: Path, no_leak: None) -> None:
    assert leases.undo_all(str(tmp_path), "/nowhere", "/proc") == []
    assert os.listdir(tmp_path) == []


def test_a_journal_of_noise_ends_nobody(tmp_path: Path, fake: FakeTree) -> None:
    """There is no power cut for tmpfs, but there are stray writes: noise must not keep the daemon from starting."""
    dice = random.Random(1)
    journal(tmp_path)
    before = {file: file.read_bytes() for file in fake.at("").rglob("*") if file.is_file()}
    with open(tmp_path / "leases", "r+b") as file:
        page = mmap.mmap(file.fileno(), 0)
        for number in range(SLOTS):
            place = mmap.PAGESIZE + number * leases.SLOT_BYTES
            page[place : place + leases.SLOT_BYTES] = (1).to_bytes(4, sys.byteorder) + dice.randbytes(508)
            kind = dice.choice([HIGH, SCORE, 77])
            page[place + 4 : place + 8] = kind.to_bytes(4, sys.byteorder)
        page.close()
    leases.undo_all(str(tmp_path), fake.root, "/proc")
    assert {file: file.read_bytes() for file in fake.at("").rglob("*") if file.is_file()} == before


# -------------------------------------------------------------------------------------------------------- memory.high


@pytest.mark.parametrize(
    ("now", "found", "after"),
    [
        (b"4096000\n", MAX, b"max"),  # ours stands
        (b"4096000\n", 8192, b"8192"),
        (b"8192000\n", MAX, b"8192000\n"),  # somebody else's is left alone
        (b"max\n", MAX, b"max\n"),  # never got that far
        (b"", MAX, b""),  # gone
    ],
)
def test_memory_high_is_put_back_where_ours_stands(
    tmp_path: Path, fake: FakeTree, now: bytes, found: int, after: bytes, no_leak: None
) -> None:
    journal(tmp_path, high(fake, 4096000, found))
    plant(fake.at("/web"), {"memory.high": now})
    said = leases.undo_all(str(tmp_path), fake.root, "/proc")
    assert (fake.at("/web") / "memory.high").read_bytes().startswith(after)
    assert len(said) == (now != after)
    assert out(tmp_path) == []


def test_between_two_values_either_may_stand(tmp_path: Path, fake: FakeTree) -> None:
    """We ended between journalling the second value and writing it: the first stands, and is ours as well."""
    first = high(fake, 4096000)
    for now in (b"4096000\n", b"8192000\n"):
        journal(tmp_path, first, first._replace(value=8192000, before=4096000))
        plant(fake.at("/web"), {"memory.high": now})
        assert len(leases.undo_all(str(tmp_path), fake.root, "/proc")) == 1
        assert (fake.at("/web") / "memory.high").read_bytes().startswith(b"max")


def test_a_cgroup_made_again_is_left_alone(tmp_path: Path, fake: FakeTree, no_leak: None) -> None:
    held = os.open(fake.at("/web"), os.O_PATH)  # so that its inode is not given away at once
    journal(tmp_path, high(fake, 4096000))
    fake.remove("/web")
    fake.make("/web")
    plant(fake.at("/web"), {"memory.high": b"4096000\n"})
    assert leases.undo_all(str(tmp_path), fake.root, "/proc") == []
    assert (fake.at("/web") / "memory.high").read_bytes() == b"4096000\n"
    os.close(held)


def test_what_cannot_be_put_back_now_stays_journalled(tmp_path: Path, fake: FakeTree) -> None:
    entry = high(fake, 4096000)
    journal(tmp_path, entry)
    os.unlink(fake.at("/web/memory.high"))
    os.mkdir(fake.at("/web/memory.high"))
    (said,) = leases.undo_all(str(tmp_path), fake.root, "/proc")
    assert "could not be put back" in said
    assert "memory.high" in said
    assert out(tmp_path) == [entry]


@pytest.mark.kernel
def test_memory_high_of_the_kernel(tmp_path: Path, memory_tree: KernelTree) -> None:
    memory_tree.make("/web")
    file = memory_tree.at("/web") / "memory.high"
    file.write_text(str(96 << 20))
    odd = (64 << 20) + 123  # the kernel keeps whole pages
    entry = high(memory_tree, odd, 96 << 20)
    journal(tmp_path, entry)
    assert leases.write_value(entry, odd, memory_tree.root, "/proc")
    assert file.read_text() == f"{64 << 20}\n"
    assert len(leases.undo_all(str(tmp_path), memory_tree.root, "/proc")) == 1
    assert file.read_text() == f"{96 << 20}\n"
    journal(tmp_path, high(memory_tree, 64 << 20))
    leases.write_value(entry, 64 << 20, memory_tree.root, "/proc")
    leases.undo_all(str(tmp_path), memory_tree.root, "/proc")
    assert file.read_text() == "max\n"
    journal(tmp_path, high(memory_tree, 64 << 20))
    memory_tree.remove("/web")
    memory_tree.make("/web")
    file.write_text(str(64 << 20))
    assert leases.undo_all(str(tmp_path), memory_tree.root, "/proc") == []
    assert file.read_text() == f"{64 << 20}\n"


# ------------------------------------------------------------------------------------------------------ oom_score_adj


@pytest.mark.kernel
def test_oom_score_adj_is_put_back(tmp_path: Path, child: Child, no_leak: None) -> None:
    pid = child().pid
    entry = score(pid, 1000, adj(pid))
    journal(tmp_path, entry)
    assert leases.write_value(entry, 1000, "/nowhere", "/proc")
    assert adj(pid) == 1000
    (said,) = leases.undo_all(str(tmp_path), "/nowhere", "/proc")
    assert str(pid) in said
    assert adj(pid) == entry.found
    assert out(tmp_path) == []


@pytest.mark.kernel
def test_what_its_owner_wrote_since_is_his(tmp_path: Path, child: Child) -> None:
    pid = child().pid
    entry = score(pid, 1000, adj(pid))
    journal(tmp_path, entry)
    Path(f"/proc/{pid}/oom_score_adj").write_text("500")
    assert leases.undo_all(str(tmp_path), "/nowhere", "/proc") == []
    assert adj(pid) == 500


@pytest.mark.kernel
def test_another_process_with_that_number_is_left_alone(tmp_path: Path, child: Child) -> None:
    pid = child().pid
    other = score(pid, 1000, start_ticks=1)
    journal(tmp_path, other)
    Path(f"/proc/{pid}/oom_score_adj").write_text("1000")
    assert leases.undo_all(str(tmp_path), "/nowhere", "/proc") == []
    assert leases.write_value(other, 0, "/nowhere", "/proc") is False
    assert adj(pid) == 1000


@pytest.mark.kernel
def test_a_process_that_is_gone(tmp_path: Path, child: Child, no_leak: None) -> None:
    process = child()
    entry = score(process.pid, 1000)
    journal(tmp_path, entry)
    process.kill()
    process.wait()
    assert leases.read_value(entry, "/nowhere", "/proc") is None
    assert leases.write_value(entry, 0, "/nowhere", "/proc") is False
    assert leases.undo_all(str(tmp_path), "/nowhere", "/proc") == []
    assert out(tmp_path) == []


HOLDER = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from oomguard.linux import leases, procfs
proc = procfs.open_proc()
pid = int(sys.argv[2])
entry = leases.Entry(leases.SCORE, 1, 0, procfs.start_ticks(proc, pid), pid, 1000, 0, 0, "")
journal = leases.Journal(sys.argv[1])
journal.out(entry)
leases.write_value(entry, 1000, "/nowhere", "/proc")
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.kernel
def test_whoever_comes_after_a_sigkill_puts_back(tmp_path: Path, child: Child) -> None:
    pid = child().pid
    Path(f"/proc/{pid}/oom_score_adj").write_text("0")
    died = subprocess.run([sys.executable, "-c", HOLDER, f"{tmp_path}/leases", str(pid)], check=False)
    assert died.returncode == -signal.SIGKILL
    assert adj(pid) == 1000
    assert len(leases.undo_all(str(tmp_path), "/nowhere", "/proc")) == 1
    assert adj(pid) == 0
