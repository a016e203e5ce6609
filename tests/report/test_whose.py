"""Whose the memory was: "in no process" is an answer, and so is a tmpfs by its name, a cgroup's kernel memory, swap."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from oomguard.report import page, text, whose
from oomguard.workers import owners
from oomguard.workers.evidence import numbers

from .test_page import LEAK, incident

MIB = 1 << 20
MEMINFO = numbers(b"""MemTotal: 1024000 kB
MemFree: 40960 kB
Cached: 409600 kB
Shmem: 358400 kB
AnonPages: 204800 kB
Slab: 92160 kB
PageTables: 15360 kB
KernelStack: 2048 kB
HugePages_Total: 50
HugePages_Free: 45
Hugepagesize: 2048 kB
Hugetlb: 102400 kB
SwapTotal: 524288 kB
SwapFree: 217088 kB
""")
PARTS: dict[str, list[owners.Part]] = {
    "shared memory and tmpfs": [
        {"what": "/dev/shm", "kind": "tmpfs", "bytes": 300 * MIB, "limit_bytes": 500 * MIB},
        {"what": "/run/a\nb", "kind": "tmpfs", "bytes": 40 * MIB, "limit_bytes": 100 * MIB},
    ],
    "slab": [{"what": "dentry", "kind": "slab", "bytes": 60 * MIB, "objects": 300_000}],
    "huge pages": owners.huge(MEMINFO),
}
ZRAM = {"stored_bytes": 300 * MIB, "compressed_bytes": 100 * MIB, "memory_bytes": 110 * MIB}


@pytest.fixture(scope="module")
def recorded() -> dict[str, Any]:
    return incident()


@pytest.fixture
def full(recorded: dict[str, Any]) -> dict[str, Any]:
    """A machine that is full while every process is small, as the scribe counts it."""
    doc = copy.deepcopy(recorded)
    doc["evidence"]["owners"] = {"soft": owners.rows(MEMINFO, 110 * MIB, PARTS)}
    doc["evidence"]["meminfo"] = {"soft": MEMINFO}
    doc["evidence"]["zram"] = {"soft.zram0": ZRAM, "hard.zram0": ZRAM}
    for row, swapped in zip(doc["evidence"]["processes"], (80 * MIB, 5 * MIB), strict=False):
        row["swap_bytes"] = swapped
    return doc


def test_what_no_process_holds_is_named(full: dict[str, Any]) -> None:
    shown = text.half_page(full, 1000)
    assert "Whose memory it was, of 1.0 GiB" in shown
    assert "processes 200 MiB; cache 50.0 MiB; free 40.0 MiB; in no process 710 MiB (71 %): shared" in shown
    for words in (
        "shared memory and tmpfs 350 MiB (/dev/shm 300 MiB, /run/a\\nb 40.0 MiB), zram 110 MiB",
        "zram 110 MiB (zram0 (300 MiB of pages) 110 MiB), huge pages 100 MiB",
        "(reserved and unused, of 2048 KiB each 90.0 MiB), slab 90.0 MiB (dentry 60.0 MiB)",
        "unaccounted 43.0 MiB, page tables 15.0 MiB.",
    ):
        assert words in shown
    names = [f"{row['comm']}[{row['pid']}]" for row in full["evidence"]["processes"][:2]]
    assert f"Swap: 300 MiB of 512 MiB: {names[0]} 80.0 MiB, {names[1]} 5.0 MiB, in no process 215 MiB." in shown


def test_all_of_it_by_request(full: dict[str, Any]) -> None:
    shown = text.half_page(full, 200, whole=True)
    for line in (
        "2.0 MiB  kernel stacks, in no process",
        "300 MiB  /dev/shm",
        "60.0 MiB  dentry",
        "200 MiB  processes\n",
    ):
        assert line in shown


@pytest.mark.parametrize("whole", [False, True])
def test_it_fits_the_terminal(full: dict[str, Any], whole: bool) -> None:
    long = f"{LEAK}/{'deep/' * 20}"
    for cgroup in ("/", long):
        doc = full | {"cgroup": cgroup}
        doc["evidence"]["cgroups"] = {"soft": {long: {"memory.stat": {"anon": MIB}, "memory.current": 2 * MIB}}}
        page = text.half_page(doc, 60, whole=whole)
        assert "Whose memory it was" in page
        assert max(len(line) for line in page.splitlines()) <= 60


def test_it_adds_up(full: dict[str, Any]) -> None:
    told = whose.account(full)
    assert told is not None
    assert sum(row.bytes for row in told.rows) == told.total_bytes == 1000 * MIB
    assert told.hidden_bytes == full["evidence"]["owners"]["soft"]["not_in_processes_bytes"]


def test_of_a_cgroup_what_its_own_statistics_say(full: dict[str, Any]) -> None:
    stat = {"anon": 60 * MIB, "file": 130 * MIB, "shmem": 120 * MIB, "slab": 8 * MIB, "sock": 4 * MIB, "pgfault": 9}
    files = {
        "memory.stat": stat,
        "memory.current": 200 * MIB,
        "memory.swap.current": 30 * MIB,
        "memory.swap.max": "max",
    }
    full |= {"cgroup": LEAK}
    full["evidence"]["cgroups"] = {"soft": {LEAK: files, "/": {"memory.stat": {"anon": 1}}}}
    shown = text.half_page(full, 1000)
    assert f"Whose memory it was in {LEAK}, of 200 MiB" in shown
    assert "processes 60.0 MiB; cache 10.0 MiB; in no process 130 MiB (65 %): shared memory and tmpfs 120 MiB," in shown
    assert "120 MiB, slab 8.0 MiB, network buffers 4.0 MiB." in shown
    assert "Swap: 30.0 MiB." in shown


def test_of_a_cgroup_of_the_old_kind(full: dict[str, Any]) -> None:
    total = {"total_rss": 60 * MIB, "total_cache": 130 * MIB, "total_shmem": 120 * MIB, "total_swap": 30 * MIB}
    files = {
        "memory.stat": total | {"rss": 5},
        "memory.usage_in_bytes": 200 * MIB,
        "memory.kmem.usage_in_bytes": 8 * MIB,
    }
    full |= {"cgroup": LEAK}
    full["evidence"]["cgroups"] = {"soft": {LEAK: files}}
    shown = text.half_page(full, 1000)
    assert "processes 60.0 MiB; cache 10.0 MiB; in no process 130 MiB (65 %): shared memory and tmpfs 120 MiB," in shown
    assert "120 MiB, kernel memory 8.0 MiB." in shown
    assert "Swap: 30.0 MiB." in shown


@pytest.mark.parametrize("files", [{}, {"memory.current": 5}, {"memory.stat": {"anon": 1}}])
def test_who_was_not_counted_is_not_told_of(full: dict[str, Any], files: dict[str, Any]) -> None:
    full |= {"cgroup": LEAK}
    full["evidence"]["cgroups"] = {"soft": {LEAK: files}}
    assert whose.account(full) is None
    full |= {"cgroup": "/"}
    del full["evidence"]["owners"]
    assert whose.account(full) is None
    assert "Whose memory" not in text.half_page(full)


def test_the_page_has_it_as_text(full: dict[str, Any]) -> None:
    shown = page.page(full)
    for words in ("/dev/shm 300 MiB", "dentry 60.0 MiB", "<small>in no process</small>", "Swap: 300 MiB of 512 MiB"):
        assert words in shown
