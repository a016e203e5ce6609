"""Leases on the kernel's own files: memory.high in whole pages, and oom_score_adj of living processes.

The journal itself, and every way to be killed with it, is in test_leases.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from oomguard.linux import leases, procfs
from oomguard.linux.leases import HIGH, MAX, SCORE, Entry, Journal

from .trees import KernelTree

pytestmark = pytest.mark.kernel
ROOT = Path(__file__).resolve().parent.parent.parent
Child = Callable[..., "subprocess.Popen[str]"]


def high(tree: KernelTree, value: int, found: int = MAX, path: str = "/web", token: int = 1) -> Entry:
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


def test_what_its_owner_wrote_since_is_his(tmp_path: Path, child: Child) -> None:
    pid = child().pid
    entry = score(pid, 1000, adj(pid))
    journal(tmp_path, entry)
    Path(f"/proc/{pid}/oom_score_adj").write_text("500")
    assert leases.undo_all(str(tmp_path), "/nowhere", "/proc") == []
    assert adj(pid) == 500


def test_another_process_with_that_number_is_left_alone(tmp_path: Path, child: Child) -> None:
    pid = child().pid
    other = score(pid, 1000, start_ticks=1)
    journal(tmp_path, other)
    Path(f"/proc/{pid}/oom_score_adj").write_text("1000")
    assert leases.undo_all(str(tmp_path), "/nowhere", "/proc") == []
    assert leases.write_value(other, 0, "/nowhere", "/proc") is False
    assert adj(pid) == 1000


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


def test_whoever_comes_after_a_sigkill_puts_back(tmp_path: Path, child: Child) -> None:
    pid = child().pid
    Path(f"/proc/{pid}/oom_score_adj").write_text("0")
    died = subprocess.run([sys.executable, "-c", HOLDER, f"{tmp_path}/leases", str(pid)], check=False)
    assert died.returncode == -signal.SIGKILL
    assert adj(pid) == 1000
    assert len(leases.undo_all(str(tmp_path), "/nowhere", "/proc")) == 1
    assert adj(pid) == 0
