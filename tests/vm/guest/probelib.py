"""Shared by the programs in the guest. Standard library only: they run under `python3 -I -S`."""

import ctypes
import mmap
import os
import time
from array import array

MS = 1_000_000  # ns
MIB = 1 << 20
PAGE = 4096
RUN = "/run/probe"
CGROUPS = "/sys/fs/cgroup"

now = time.monotonic_ns


def protect(fifo=0, adj=None):
    """Locks our memory; optionally sets a SCHED_FIFO priority and oom_score_adj."""
    ctypes.CDLL(None, use_errno=True).mlockall(3)
    if adj is not None:
        put("/proc/self/oom_score_adj", str(adj))
    if fifo:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(fifo))


def put(path, text):
    with open(path, "w") as file:
        file.write(text)


def text_of(path):
    """The file's text; empty when it is gone."""
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def anonymous(size, huge=False):
    """Private memory, not touched yet. Without huge pages a leak grows page by page, as most do."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_NORESERVE)
    if not huge:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return memory


def content(size, zeros_percent=0):
    """`size` bytes of which so many percent of every page are zeros and the rest is random."""
    keep = PAGE * (100 - zeros_percent) // 100
    return b"".join(os.urandom(keep) + bytes(PAGE - keep) for _ in range(size // PAGE))


def cgroup_pids(root=CGROUPS):
    """cgroup path below /sys/fs/cgroup -> pids, of every cgroup from `root` down that has any."""
    found = {}
    for directory, _, _ in os.walk(root):
        pids = text_of(f"{directory}/cgroup.procs").split()
        if pids:
            found[directory[len(CGROUPS) + 1 :] or "/"] = [int(pid) for pid in pids]
    return found


class Ring:
    """Records of n int64 in a preallocated tmpfs file: what a killed process has written, stays."""

    def __init__(self, path, rows, columns):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        size = 8 * (1 + rows * columns)
        os.posix_fallocate(fd, 0, size)
        self.cells = memoryview(mmap.mmap(fd, size)).cast("q")
        for i in range(0, len(self.cells), PAGE // 8):  # touch every page now, not in the storm
            self.cells[i] = 0
        self.rows, self.columns, self.used = rows, columns, 0

    def add(self, *values):
        if self.used >= self.rows:
            return
        at = 1 + self.used * self.columns
        self.cells[at : at + len(values)] = memoryview(array("q", values))
        self.used += 1
        self.cells[0] = self.used
