"""Two cgroup trees of one shape: one of plain files in a temporary directory, one of the kernel itself.

The contract in test_cgroup2.py runs over both, so that the fake is as true as the kernel makes it. Everything happens
below ``prefix``; the kernel's tree is removed with all that is in it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

PRESSURE = b"some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"

MEMORY_STAT = b"""anon 1052672
file 263192576
kernel 2281472
kernel_stack 49152
pagetables 180224
sec_pagetables 0
percpu 2400
sock 0
vmalloc 0
shmem 4096
file_mapped 0
file_dirty 0
file_writeback 0
inactive_anon 1019904
active_anon 0
inactive_file 263168000
active_file 24576
unevictable 0
slab_reclaimable 1033296
slab_unreclaimable 842960
slab 1876256
workingset_refault_file 17
pgfault 72619
"""

MEMORY_EVENTS = b"low 0\nhigh 12\nmax 3\noom 2\noom_kill 1\noom_group_kill 0\n"

CGROUP_FILES = {
    "cgroup.controllers": b"memory\n",
    "cgroup.procs": b"",
    "cgroup.events": b"populated 0\nfrozen 0\n",
    "cgroup.kill": b"",
    "cgroup.freeze": b"0\n",
    "memory.pressure": PRESSURE,
    "memory.current": b"0\n",
    "memory.stat": MEMORY_STAT,
    "memory.events": MEMORY_EVENTS,
    "memory.max": b"max\n",
    "memory.high": b"max\n",
    "memory.oom.group": b"0\n",
    "memory.swap.current": b"0\n",
    "memory.swap.max": b"max\n",
}

# As cgroup_mkdir(2) takes them: anything but "/" and newlines. systemd escapes, others do not.
HOSTILE_NAMES = ["a b", "x\\x2dy.service", "-rf", "populated 1", "100%", "ünï", os.fsdecode(b"\xff\xfe"), "a,task=b"]


def plant(root: Path, files: dict[str, bytes]) -> Path:
    """A tree as a literal: path -> content."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


def until(true: Callable[[], bool], deadline_s: float = 20.0) -> None:
    """Wait for the kernel; fail after the deadline."""
    end = time.monotonic() + deadline_s
    while not true():
        assert time.monotonic() < end, "the kernel did not get there in time"
        time.sleep(0.002)


def cgroup2_mount() -> str | None:
    """Any cgroup2, with or without the memory controller."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        words = line.split()
        if words[2] == "cgroup2":
            return words[1]
    return None


class FakeTree:
    """Plain files. What a write does not change here, a test of the contract must not look at."""

    real = False
    has_memory = True
    prefix = "/oomguard-test"

    def __init__(self, root: Path) -> None:
        self.root = str(root)
        (root / "cgroup.controllers").write_bytes(b"memory\n")
        (root / "cgroup.procs").write_bytes(b"1\n")
        (root / "memory.pressure").write_bytes(PRESSURE)
        self.make("")

    def at(self, path: str) -> Path:
        return Path(self.root + self.prefix + path)

    def make(self, path: str) -> None:
        directory = self.at(path)
        above = [cgroup for cgroup in directory.parents if str(cgroup).startswith(self.root + "/")]
        for cgroup in [cgroup for cgroup in (directory, *above) if not cgroup.exists()]:
            plant(cgroup, CGROUP_FILES)

    def remove(self, path: str) -> None:
        """Files that are held open say nothing afterwards, as the kernel's answer ENODEV."""
        for file in self.at(path).rglob("*"):
            if file.is_file():
                os.truncate(file, 0)
        shutil.rmtree(self.at(path))

    def enter(self, path: str, pid: int) -> None:
        (self.at(path) / "cgroup.procs").write_text(f"{pid}\n")
        directory = self.at(path)
        while str(directory) != self.root:
            (directory / "cgroup.events").write_bytes(b"populated 1\nfrozen 0\n")
            directory = directory.parent

    def close(self) -> None:
        pass


class KernelTree:
    """Below a cgroup of our own in the kernel's hierarchy. Only processes that a test started are ever put there."""

    real = True

    def __init__(self, root: str) -> None:
        self.root = root
        self.has_memory = "memory" in Path(root, "cgroup.controllers").read_text().split()
        self.prefix = f"/oomguard-test-{os.getpid()}"
        self.make("")

    def at(self, path: str) -> Path:
        return Path(self.root + self.prefix + path)

    def make(self, path: str) -> None:
        missing = [self.at(path)]
        while not missing[-1].parent.exists():
            missing.append(missing[-1].parent)
        for directory in reversed(missing):
            if self.has_memory:
                (directory.parent / "cgroup.subtree_control").write_text("+memory")
            directory.mkdir()

    def remove(self, path: str) -> None:
        directory = self.at(path)
        below = [Path(where) for where, _, _ in os.walk(directory, topdown=False)]
        for cgroup in below:
            until(lambda cgroup=cgroup: b"populated 0" in (cgroup / "cgroup.events").read_bytes())
            os.rmdir(cgroup)

    def enter(self, path: str, pid: int) -> None:
        (self.at(path) / "cgroup.procs").write_text(str(pid))

    def close(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self.at("") / "cgroup.kill").write_text("1")
            self.remove("")


Tree = FakeTree | KernelTree
