"""Compressed swap: as zram's files and meminfo tell of it, and on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from oomguard.linux.refaults import parse_refaults
from oomguard.linux.zram import Zram, parse_mm_stat, parse_zswap
from oomguard.model.facts import Compressed, Refaults

from .trees import plant

# As Linux 6.12 writes them, of a device that is in use and of one that has no size yet.
MM_STAT = b"436207616 97402880 101658624        0 101658624    23211        0        0        0\n"
FRESH = b"       0        0        0        0        0        0        0        0        0\n"
MEMINFO = b"MemTotal:  24684084 kB\nZswap:       1024 kB\nZswapped:    4096 kB\nDirty:  12 kB\n"


def test_two_devices_and_zswap(tmp_path: Path, no_leak: None) -> None:
    plant(
        tmp_path,
        {
            "sys/block/zram0/mm_stat": MM_STAT,
            "sys/block/zram0/disksize": b"1073741824\n",
            "sys/block/zram1/mm_stat": FRESH,
            "sys/block/zram1/disksize": b"0\n",
            "sys/block/sda/size": b"8\n",
            "proc/meminfo": MEMINFO,
        },
    )
    found = Zram(str(tmp_path / "proc"), str(tmp_path / "sys")).read()
    assert found == Compressed(101658624 + (1 << 20), 436207616, 1 << 30)


def test_none_and_one_that_goes_away(tmp_path: Path, no_leak: None) -> None:
    plant(tmp_path, {"proc/meminfo": b"MemTotal:  24684084 kB\n"})
    zram = Zram(str(tmp_path / "proc"), str(tmp_path / "sys"))
    assert zram.read() == Compressed(0)
    plant(tmp_path, {"sys/block/zram0/mm_stat": MM_STAT})
    assert zram.read() == Compressed(0), "without its size it is half gone"


def test_without_a_meminfo_it_is_broken(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="meminfo"):
        Zram(str(tmp_path), str(tmp_path)).read()


@pytest.mark.parametrize("size", range(len(MM_STAT)))
def test_half_a_file(size: int) -> None:
    found = parse_mm_stat(MM_STAT[:size])
    assert found is None or found[0] == 436207616


def test_half_a_meminfo() -> None:
    assert [parse_zswap(MEMINFO[:size]) for size in (0, 30, 40, 46)] == [0, 0, 0, 1 << 20]


@pytest.mark.kernel
def test_this_machine(no_leak: None) -> None:
    """Whatever it has: what is stored fits on the disks."""
    found = Zram().read()
    assert 0 <= found.stored_bytes <= found.disk_bytes
    assert found.memory_bytes >= 0


# -- refaults --------------------------------------------------------------------------------------------------------

NEW = b"nr_dirty 1\nworkingset_refault_anon 3\nworkingset_refault_file 17\noom_kill 0\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (NEW, Refaults(3 * 4096, 17 * 4096)),
        (b"workingset_refault 17\nworkingset_activate 3\n", Refaults(0, 17 * 4096)),  # before Linux 5.9
        (b"anon 1\n", None),
        (b"", None),
        (NEW[:60], None),
    ],
)
def test_refaults_are_counted_in_bytes(text: bytes, expected: Refaults | None) -> None:
    assert parse_refaults(text) == expected


@pytest.mark.kernel
def test_refaults_of_this_machine() -> None:
    text = Path("/proc/vmstat").read_bytes()
    assert parse_refaults(text) is not None
