"""One's own memory. The proof that the killer does not fault is made in an interpreter started as the core is."""

from __future__ import annotations

import mmap
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from oomguard.linux import libc, memlock

ROOT = Path(__file__).resolve().parent.parent.parent

SCANS = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from oomguard.linux import cgroup2, memlock, procfs, psi

memlock.reserve(4 << 20)
proc = procfs.open_proc()
meminfo = procfs.MemInfoFile('/proc')

def scan():
    meminfo.read()
    return [procfs.read_process(proc, pid, scores=True) for pid in procfs.pids(proc)]

scan()
why = memlock.lock()
if why:
    sys.exit(why)
assert memlock.populate()  # what was trimmed, or never touched, inside the heap
memlock.settle()
for _ in range(20):
    scan()
    procfs.read_process(proc, 4194303)  # what is gone takes other roads
before = memlock.faults()
for _ in range(500):
    scan()
after = memlock.faults()
print(after[0] - before[0], after[1] - before[1], len(scan()))
"""


def run(text: str, **options: object) -> subprocess.CompletedProcess[str]:
    """In an interpreter started as the core is."""
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [sys.executable, "-S", "-c", text],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONMALLOC": "malloc", "PATH": os.environ["PATH"]},
        **options,
    )


@pytest.mark.kernel
def test_five_hundred_scans_without_a_fault() -> None:
    if os.geteuid() != 0 and resource.getrlimit(resource.RLIMIT_MEMLOCK)[1] < 256 << 20:
        pytest.skip("this user may not lock enough memory (RLIMIT_MEMLOCK)")
    done = run(SCANS)
    assert done.returncode == 0, done.stderr
    minor, major, processes = map(int, done.stdout.split())
    assert (minor, major) == (0, 0)
    assert processes > 1


FORKS = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from oomguard.linux import memlock, procfs

memlock.reserve(4 << 20)
proc = procfs.open_proc()

def scan():
    return [procfs.read_process(proc, pid) for pid in procfs.pids(proc)]

why = memlock.lock()
if why:
    sys.exit(why)
memlock.settle()
scan()
child = os.fork()
if child == 0:
    signal.pause()
if POPULATE:
    assert memlock.populate()
scan()
before = memlock.faults()
for _ in range(50):
    scan()
after = memlock.faults()
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
keep = bytearray(b'x') * (3 << 20)
print(after[0] - before[0], memlock.faults()[0] - after[0])
"""


@pytest.mark.kernel
@pytest.mark.parametrize("populate", [True, False])
def test_after_a_fork_our_pages_are_made_our_own_again(populate: bool) -> None:
    """A fork shares every page until the next write, and that write faults, locked or not: on all of the reserve."""
    done = run(FORKS.replace("POPULATE", str(populate)))
    assert done.returncode == 0, done.stderr
    scans, reserve = map(int, done.stdout.split())
    if populate:
        assert (scans, reserve < 10) == (0, True)
    else:
        assert reserve > 500, "so that the line above can fail"


@pytest.mark.kernel
def test_huge_pages_are_off_for_who_reserves() -> None:
    done = run(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from oomguard.linux import memlock\n"
        "memlock.reserve(1 << 20)\n"
        "print(open('/proc/self/status').read())"
    )
    assert "THP_enabled:\t0" in done.stdout or "THP_enabled" not in done.stdout, done.stderr


@pytest.mark.kernel
def test_without_the_reserve_it_would_fault() -> None:
    """So that the test above can fail: the same memory, fresh from the kernel."""
    done = run(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from oomguard.linux import memlock\n"
        "before = memlock.faults()\n"
        "keep = [bytes(1 << 20) for _ in range(8)]\n"
        "keep = [bytearray(piece) for piece in keep]\n"
        "print(memlock.faults()[0] - before[0])\n"
    )
    assert int(done.stdout) > 1000


@pytest.mark.kernel
def test_the_reserve_is_served_from() -> None:
    done = run(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from oomguard.linux import memlock\n"
        "memlock.reserve(16 << 20)\n"
        "before = memlock.faults()\n"
        "for _ in range(3):\n"
        "    keep = [bytearray(b'x') * (1 << 20) for _ in range(8)]\n"
        "    del keep\n"
        "print(memlock.faults()[0] - before[0])\n"
    )
    assert int(done.stdout) < 20, done.stderr


@pytest.mark.kernel
def test_who_may_not_lock_is_told_why() -> None:
    text = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import os, resource\n"
        "from oomguard.linux import memlock\n"
        "resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))\n"
        "if os.geteuid() == 0: os.setresuid(65534, 65534, 65534)\n"
        "print(memlock.lock())\n"
    )
    done = run(text)
    assert "RLIMIT_MEMLOCK is 65536 bytes" in done.stdout, done.stderr


def test_faults_only_grow() -> None:
    before = memlock.faults()
    with mmap.mmap(-1, 8 << 20) as fresh:  # what malloc gives may be there already
        fresh[::4096] = b"x" * (len(fresh) // 4096)
    after = memlock.faults()
    assert after[0] > before[0]
    assert after[1] >= before[1]


def test_malloc_memset_free() -> None:
    block = libc.malloc(1 << 16)
    libc.memset(block, 0x41, 1 << 16)
    libc.free(block)
    assert isinstance(libc.malloc_trim(), bool)
    with pytest.raises(OSError, match="mallopt"):
        libc.mallopt(1, 1 << 20)  # M_MXFAST, more than it may be
