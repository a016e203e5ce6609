"""Swap that is kept compressed in memory: zram devices in /sys/block, and zswap in /proc/meminfo. Decides nothing.

Loaded only where a policy asks. Devices come and go (zram-generator, hot_add), so they are looked up at every read:
some 50 us with one of them. /sys/block/zramN/mm_stat takes no lock that waits for I/O.
"""

import os

from oomguard.model.facts import Compressed

from . import files


def parse_mm_stat(data: bytes) -> tuple[int, int] | None:
    """(orig_data_size, mem_used_total) in bytes of a zram's mm_stat; None: not whole. Zeros until it has a disksize.

    436207616 97402880 101658624        0 101658624    23211        0        0        0
    """
    words = data.split()
    try:
        return int(words[0]), int(words[2])
    except (ValueError, IndexError):
        return None


def parse_zswap(data: bytes) -> int:
    """The line "Zswap:   1234 kB" of /proc/meminfo, bytes: what the pool takes. 0 where there is none (before 5.19)."""
    at = data.find(b"\nZswap:")
    end = data.find(b" kB", at + 1)
    return (files.number(data[at + 7 : end]) or 0) << 10 if at >= 0 and end >= 0 else 0


class Zram:
    """Both, under these mounts."""

    __slots__ = ("block", "proc")

    def __init__(self, proc: str = "/proc", sys: str = "/sys") -> None:
        self.proc, self.block = proc, f"{sys}/block"

    def read(self) -> Compressed:
        """What they say now. A device that goes away meanwhile counts nothing. OSError: /proc cannot be read."""
        memory = stored = disk = 0
        for name in self._devices():
            found = self._device(f"{self.block}/{name}")
            memory, stored, disk = memory + found[0], stored + found[1], disk + found[2]
        return Compressed(memory + parse_zswap(_whole(f"{self.proc}/meminfo") or b""), stored, disk)

    def _devices(self) -> list[str]:
        try:
            return [name for name in os.listdir(self.block) if name.startswith("zram")]
        except OSError:
            return []  # no block devices at all, in a container

    def _device(self, path: str) -> tuple[int, int, int]:
        try:
            sizes, disk = parse_mm_stat(_whole(f"{path}/mm_stat") or b""), files.number(_whole(f"{path}/disksize"))
        except OSError:
            return 0, 0, 0
        return (0, 0, 0) if sizes is None else (sizes[1], sizes[0], disk or 0)


def _whole(path: str) -> bytes | None:
    fd = os.open(path, os.O_RDONLY)
    try:
        return files.read_kept(fd, path)
    finally:
        os.close(fd)
