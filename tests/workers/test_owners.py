"""Whose the memory is, from the kernel's own words, and on the real machine."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oomguard.workers import owners
from oomguard.workers.evidence import numbers

NAMES = (
    *("MemTotal", "MemFree", "Buffers", "Cached", "Shmem", "AnonPages", "Slab", "PageTables", "SecPageTables"),
    *("KernelStack", "VmallocUsed", "Percpu", "Hugetlb", "Zswap"),
)
SLABINFO = b"""slabinfo - version: 2.1
# name            <active_objs> <num_objs> <objsize> <objperslab> <pagesperslab> : tunables ... : slabdata ...
dentry             61446  61446    192   21    1 : tunables    0    0    0 : slabdata   2926   2926      0
kmalloc-8k            32     32   8192    4    8 : tunables    0    0    0 : slabdata      8      8      0
empty                  0      0     16  256    1 : tunables    0    0    0 : slabdata      0      0      0
cut off             61446  61
"""
SHM = b"""  key shmid perms     size cpid lpid nattch uid gid cuid cgid atime dtime      ctime     rss swap
    0     3  1600  1048576  812  812      0   0   0    0    0     0     0 1738292000 1044480    0
"""


def sizes(found: list[dict[str, object]]) -> dict[object, object]:
    return {part["what"]: part["bytes"] for part in found}


@given(st.fixed_dictionaries({}, optional={name: st.integers(0, 1 << 44) for name in NAMES}), st.integers(0, 1 << 40))
def test_the_rows_add_up_to_all_memory_whatever_the_kernel_says(meminfo: dict[str, int], zram: int) -> None:
    told: Any = owners.rows(meminfo, zram, {})
    assert sum(row["bytes"] for row in told["rows"]) == told["total_bytes"] == meminfo.get("MemTotal", 0)
    assert told["rows"][-1]["what"] == "unaccounted"


def test_tmpfs_is_not_cache_and_stacks_are_not_counted_twice() -> None:
    meminfo = {"MemTotal": 1000, "Cached": 500, "Shmem": 450, "KernelStack": 30, "VmallocUsed": 40}
    told: Any = owners.rows(meminfo, 7, {"slab": [{"what": "x"}]})
    assert {row["what"]: row["bytes"] for row in told["rows"]} == {
        "cache": 50,
        "shared memory and tmpfs": 450,
        "kernel stacks": 30,
        "vmalloc": 10,
        "zram": 7,
        "unaccounted": 453,
    }
    assert told["not_in_processes_bytes"] == 950


def test_slabs_by_name_the_largest_first() -> None:
    assert sizes(owners.slabs(SLABINFO, 4096)) == {"dentry": 2926 * 4096, "kmalloc-8k": 8 * 8 * 4096}
    assert next(iter(sizes(owners.slabs(SLABINFO, 4096)))) == "dentry"


def test_a_segment_that_nobody_is_attached_to_is_told() -> None:
    expected = {"what": "System V segment 3", "kind": "sysv", "bytes": 1044480, "made_by_pid": 812, "attached": 0}
    assert owners.sysv(SHM) == [expected]


@given(st.binary(max_size=200))
def test_no_text_of_the_kernel_makes_them_fail(data: bytes) -> None:
    for text in (data, SLABINFO + data, SHM + data):
        owners.slabs(text)
        owners.sysv(text)
        owners.tmpfs(text, "/nonexistent")


def test_of_this_very_machine() -> None:
    meminfo = numbers(Path("/proc/meminfo").read_bytes())
    told: Any = owners.rows(meminfo, 0, {})
    rest = told["rows"][-1]["bytes"]
    assert abs(rest) < meminfo["MemTotal"] // 4, f"what most of the memory is for is not known: {told}"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a file system of its own")
def test_a_tmpfs_that_somebody_filled(tmp_path: Path) -> None:
    """The machine is full, and no process is large: the usual suspect."""
    place = tmp_path / "a place\\with\tspaces"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", place], stderr=subprocess.PIPE, check=False)
    if done.returncode:
        pytest.skip(f"no mount here: {done.stderr.decode()}")
    try:
        (place / "big").write_bytes(bytes(3 << 20))
        found = owners.tmpfs(Path("/proc/self/mounts").read_bytes(), "")
        (mine,) = [part for part in found if part["what"] == str(place)]
        assert (mine["kind"], mine["bytes"], mine["limit_bytes"]) == ("tmpfs", 3 << 20, 8 << 20)
        # Behind a file system that may hang nobody looks.
        remote = b"server:/x %s nfs4 rw 0 0\n" % os.fsencode(tmp_path)
        behind = owners.tmpfs(remote + Path("/proc/self/mounts").read_bytes(), "")
        assert str(place) not in sizes(behind)
    finally:
        subprocess.run(["umount", place], check=True)
