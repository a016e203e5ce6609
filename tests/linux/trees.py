"""Two cgroup trees of one shape: one of plain files in a temporary directory, one of the kernel itself.

And the same two where cgroup v1 has the memory. The contract in test_cgroup.py runs over all of them, so that the fake
is as true as the kernel makes it. Everything happens below ``prefix``; the kernel's tree is removed with all in it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from oomguard.linux import mounts
from oomguard.linux.cgroup2 import Cgroup

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

    def frozen(self, path: str) -> bool:
        """Whether it has come to that."""
        return (self.at(path) / "cgroup.freeze").read_bytes() != b"0\n"

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

    def frozen(self, path: str) -> bool:
        """Whether it has come to that."""
        return b"frozen 1" in (self.at(path) / "cgroup.events").read_bytes()

    def close(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self.at("") / "cgroup.kill").write_text("1")
            self.remove("")


# ------------------------------------------------------------------------------------------------------------ cgroup v1

MEMORY_STAT_1 = b"""cache 0
rss 4096
rss_huge 0
shmem 0
mapped_file 0
dirty 0
swap 0
workingset_refault_anon 0
workingset_refault_file 0
inactive_anon 4096
active_anon 0
inactive_file 0
active_file 0
unevictable 0
hierarchical_memory_limit 9223372036854771712
hierarchical_memsw_limit 9223372036854771712
total_cache 263192576
total_rss 1052672
total_rss_huge 0
total_shmem 4096
total_mapped_file 0
total_dirty 0
total_swap 0
total_workingset_refault_anon 3
total_workingset_refault_file 17
total_inactive_anon 1019904
total_active_anon 0
total_inactive_file 263164928
total_active_file 24576
total_unevictable 0
"""

OOM_CONTROL = b"oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"
NO_LIMIT = b"9223372036854771712\n"

CGROUP1_FILES = {
    "cgroup.procs": b"",
    "cgroup.event_control": b"",
    "memory.usage_in_bytes": b"0\n",
    "memory.memsw.usage_in_bytes": b"0\n",
    "memory.kmem.usage_in_bytes": b"1033296\n",
    "memory.limit_in_bytes": NO_LIMIT,
    "memory.memsw.limit_in_bytes": NO_LIMIT,
    "memory.stat": MEMORY_STAT_1,
    "memory.failcnt": b"3\n",
    "memory.oom_control": OOM_CONTROL,
    "memory.pressure_level": b"",
    "memory.use_hierarchy": b"1\n",
}


class FakeTree1:
    """As ``FakeTree``: three hierarchies beside each other, as systemd mounts them on a hybrid machine."""

    real = False
    has_memory = True
    prefix = "/oomguard-test"

    def __init__(self, root: Path) -> None:
        self.mounts = {name: root / name for name in ("memory", "freezer", "unified")}
        plant(self.mounts["memory"], CGROUP1_FILES)
        plant(self.mounts["freezer"], {"cgroup.procs": b"1\n"})
        plant(self.mounts["unified"], {"cgroup.controllers": b"", "cgroup.procs": b"1\n", "memory.pressure": PRESSURE})
        (self.mounts["memory"] / "cgroup.procs").write_bytes(b"1\n")
        self.root = str(self.mounts["memory"])
        assert mounts.find(cgroup=str(root)) == (self.root, "hybrid")
        self.make("")

    def at(self, path: str, hierarchy: str = "memory") -> Path:
        return Path(str(self.mounts[hierarchy]) + self.prefix + path)

    def make(self, path: str) -> None:
        files = {
            "memory": CGROUP1_FILES,
            "freezer": {"cgroup.procs": b"", "freezer.state": b"THAWED\n"},
            "unified": {"cgroup.procs": b"", "memory.pressure": PRESSURE},
        }
        for hierarchy, mount in self.mounts.items():
            directory = self.at(path, hierarchy)
            above = [cgroup for cgroup in directory.parents if str(cgroup).startswith(f"{mount}/")]
            for cgroup in [cgroup for cgroup in (directory, *above) if not cgroup.exists()]:
                plant(cgroup, files[hierarchy])

    def remove(self, path: str) -> None:
        """As ``FakeTree.remove``."""
        for hierarchy in self.mounts:
            for file in self.at(path, hierarchy).rglob("*"):
                if file.is_file():
                    os.truncate(file, 0)
            shutil.rmtree(self.at(path, hierarchy))

    def enter(self, path: str, pid: int) -> None:
        for hierarchy in self.mounts:
            (self.at(path, hierarchy) / "cgroup.procs").write_text(f"{pid}\n")

    def frozen(self, path: str) -> bool:
        return (self.at(path, "freezer") / "freezer.state").read_bytes().startswith(b"FROZEN")

    def close(self) -> None:
        pass


class KernelTree1:
    """As ``KernelTree``: below cgroups of our own in each of the three hierarchies."""

    real = True
    has_memory = True

    def __init__(self, points: dict[str, Path]) -> None:
        self.mounts = points
        root, _ = mounts.find()
        assert root == str(points["memory"])
        self.root = root
        self.prefix = f"/oomguard-test-{os.getpid()}"
        self.make("")

    def at(self, path: str, hierarchy: str = "memory") -> Path:
        return Path(str(self.mounts[hierarchy]) + self.prefix + path)

    def make(self, path: str) -> None:
        for hierarchy in self.mounts:
            self.at(path, hierarchy).mkdir(parents=True, exist_ok=True)

    def remove(self, path: str) -> None:
        for hierarchy in self.mounts:
            below = [Path(where) for where, _, _ in os.walk(self.at(path, hierarchy), topdown=False)]
            for cgroup in below:
                until(lambda cgroup=cgroup: not (cgroup / "cgroup.procs").read_bytes())
                until(lambda cgroup=cgroup: _rmdir(cgroup))

    def enter(self, path: str, pid: int) -> None:
        for hierarchy in self.mounts:
            (self.at(path, hierarchy) / "cgroup.procs").write_text(str(pid))

    def frozen(self, path: str) -> bool:
        return (self.at(path, "freezer") / "freezer.state").read_bytes() == b"FROZEN\n"

    def close(self) -> None:
        """Whoever is still in it was started by the test, and ends with it."""
        for where, _, _ in os.walk(self.at("", "freezer"), topdown=False):
            (Path(where) / "freezer.state").write_text("THAWED")
        for where, _, _ in os.walk(self.at("")):
            for pid in (Path(where) / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        self.remove("")


def _rmdir(cgroup: Path) -> bool:
    """Who has just left keeps it busy for a moment."""
    try:
        os.rmdir(cgroup)
    except OSError:
        return False
    return True


def cgroup1_mounts() -> dict[str, Path] | None:
    """The hierarchies of a machine where v1 has the memory, by name; None where it has not, or they are not ours."""
    found = {}
    for mount in mounts.parse_mountinfo(Path("/proc/self/mountinfo").read_bytes()):
        for name in ("memory", "freezer"):
            if mount.kind == "cgroup" and name in mount.controllers:
                found[name] = Path(mount.point)
        if mount.kind == "cgroup2":
            found["unified"] = Path(mount.point)
    able = {"memory", "freezer"} <= found.keys() and all(os.access(point, os.W_OK) for point in found.values())
    return found if able else None


Tree = FakeTree | KernelTree | FakeTree1 | KernelTree1


@contextlib.contextmanager
def held(tree: Tree, path: str = "") -> Iterator[Cgroup]:
    """The cgroup as the kernel's version of it wants it opened; closed at the end."""
    cgroup = Cgroup.open(tree.root, tree.prefix + path)
    assert cgroup is not None
    try:
        yield cgroup
    finally:
        cgroup.close()
