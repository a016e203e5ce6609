"""Leases on the kernel's own files: memory.high in whole pages, and oom_score_adj of living processes.

The journal itself, and every way to be killed with it, is in test_leases.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
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


# ------------------------------------------------------------------------------------------------------------- heirs

OURS = 987  # nobody else on this machine has that, nor wants it
FAMILY = """
def start(text="time.sleep(999)"):
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, b"r")
        exec(text)
        os._exit(0)
    os.read(reader, 1)
    return pid
"""


def lease(directory: Path, pid: int, path: str | None = None) -> Entry:
    """The process's oom_score_adj is ours, from now on."""
    proc = procfs.open_proc()
    process = procfs.read_process(proc, pid)
    os.close(proc)
    assert process is not None
    since = procfs.uptime_ticks()
    where = process.cgroup if path is None else path
    entry = Entry(SCORE, 1, 0, process.start_ticks, pid, OURS, adj(pid), adj(pid), where, since)
    journal(directory, entry)
    assert leases.write_value(entry, OURS, "/nowhere", "/proc")
    return entry


def tell(process: subprocess.Popen[str], text: str) -> str:
    """Have it run a line; what it prints."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(text + "\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


@pytest.fixture
def family(python: Callable[[str], subprocess.Popen[str]]) -> Callable[[], subprocess.Popen[str]]:
    """A process that does what it is told, line by line; what it has started ends with the test."""
    return lambda: python(FAMILY + "ready()\nfor line in sys.stdin: exec(line)")


def end(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def test_what_its_children_inherited_is_put_back_with_it(
    tmp_path: Path, family: Callable[[], subprocess.Popen[str]]
) -> None:
    nominee = family()
    before = adj(nominee.pid)
    elder = int(tell(nominee, "print(start(), flush=True)"))
    Path(f"/proc/{elder}/oom_score_adj").write_text(str(OURS))  # its own choice, and older than the lease
    time.sleep(0.02)  # two ticks
    entry = lease(tmp_path, nominee.pid)
    child = int(tell(nominee, "print(start(), flush=True)"))
    other = int(tell(nominee, "print(start(), flush=True)"))
    assert (adj(child), adj(other)) == (OURS, OURS)
    Path(f"/proc/{other}/oom_score_adj").write_text("988")  # somebody has changed it since
    (said,) = leases.undo_all(str(tmp_path), "/nowhere", "/proc")
    assert "1 process(es) that it had started" in said
    assert (adj(nominee.pid), adj(child), adj(other), adj(elder)) == (before, before, 988, OURS)
    assert leases.undo(entry, "/nowhere", "/proc") == "", "all of it is done"
    end(elder, child, other)


def test_heirs_outlive_the_nominee(tmp_path: Path, family: Callable[[], subprocess.Popen[str]]) -> None:
    """It was killed, by us or by the kernel; what it had started while insured is nobody's child now."""
    nominee = family()
    before = adj(nominee.pid)
    lease(tmp_path, nominee.pid)
    child = int(tell(nominee, "print(start(), flush=True)"))
    nominee.kill()
    nominee.wait()
    assert adj(child) == OURS
    assert len(leases.undo_all(str(tmp_path), "/nowhere", "/proc")) == 1
    assert adj(child) == before
    end(child)


def test_heirs_that_live_elsewhere_are_known_by_their_parents(
    tmp_path: Path, family: Callable[[], subprocess.Popen[str]]
) -> None:
    """A container's first process is moved to a cgroup of its own by whoever has started it."""
    nominee, stranger = family(), family()
    before = adj(nominee.pid)
    lease(tmp_path, nominee.pid, "/where/none/of/them/is")
    grandchild = "p = start('print(start(), flush=True); time.sleep(999)')"
    below = int(tell(nominee, grandchild))
    theirs = int(tell(stranger, "print(start(), flush=True)"))
    Path(f"/proc/{theirs}/oom_score_adj").write_text(str(OURS))
    assert adj(below) == OURS
    (said,) = leases.undo_all(str(tmp_path), "/nowhere", "/proc")
    assert "2 process(es)" in said
    assert (adj(below), adj(theirs)) == (before, OURS)
    end(below, theirs)


UNPRIVILEGED = """
os.setuid(65534)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: its own files in /proc are its own again
def score(value):
    try:
        with open("/proc/self/oom_score_adj", "w") as file: file.write(str(value))
        return "done"
    except OSError as error: return error.strerror
score(300)
ready()
for line in sys.stdin: exec(line)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="root sets the scores of others")
def test_its_owner_may_lower_it_as_far_as_before(
    tmp_path: Path, python: Callable[[str], subprocess.Popen[str]]
) -> None:
    """A write with CAP_SYS_RESOURCE sets the least that the owner may go down to as well, and nobody can see that."""
    process = python(UNPRIVILEGED)
    assert adj(process.pid) == 300
    lease(tmp_path, process.pid)
    assert adj(process.pid) == OURS
    assert len(leases.undo_all(str(tmp_path), "/nowhere", "/proc")) == 1
    assert adj(process.pid) == 300
    assert tell(process, "print(score(100), flush=True)") == "done"


def test_the_least_is_set_by_who_has_the_capability(python: Callable[[str], subprocess.Popen[str]]) -> None:
    """What the test before is about: so it can fail."""
    if os.geteuid() != 0 or "CAP_SYS_RESOURCE" not in procfs.capabilities():
        pytest.skip("root with CAP_SYS_RESOURCE alone can show that")
    process = python(UNPRIVILEGED)
    Path(f"/proc/{process.pid}/oom_score_adj").write_text("300")
    assert tell(process, "print(score(100), flush=True)") == "Permission denied"
