"""Memory that would come back and that MemAvailable misses, as some file tells it: ZFS's cache. Decides nothing.

Loaded only where a policy asks. The ARC of ZFS is neither page cache nor reclaimable slab, it has a shrinker of its own
(openzfs: module/os/linux/zfs/arc_os.c): MemAvailable is too low by size less c_min, perhaps half of the machine.
"""

import os
from dataclasses import replace
from typing import Final

from oomguard.model.facts import MemInfo

MOST: Final = 65536  # bytes of the file that are looked at; arcstats has some 8,000


def parse(data: bytes, key: str) -> int | None:
    """The number at the end of the line that begins with this name, bytes ("kB" behind it is minded); None: none is.

    size                            4    4012345678
    """
    for line in data.splitlines():
        words = line.split()
        if len(words) < 2 or os.fsdecode(words[0].rstrip(b":")) != key:
            continue
        unit, number = (1024, words[-2]) if words[-1] == b"kB" else (1, words[-1])
        return int(number) * unit if number.isdigit() else None
    return None


class Elsewhere:
    """That file, opened anew at every look: it goes with its module."""

    __slots__ = ("file", "key", "less", "why")

    def __init__(self, file: str, key: str, less: str = "") -> None:
        self.file, self.key, self.less = file, key, less
        self.why = ""  # why nothing was added at the last look

    def added_to(self, host: MemInfo) -> MemInfo:
        """The same machine with more available; as it was, and ``why``, where the file does not tell."""
        more = self._bytes()
        return replace(host, available_bytes=min(host.total_bytes, host.available_bytes + more)) if more > 0 else host

    def _bytes(self) -> int:
        try:
            fd = os.open(self.file, os.O_RDONLY | os.O_CLOEXEC)
            try:
                data = os.read(fd, MOST)
            finally:
                os.close(fd)
        except OSError as error:
            self.why = f"{self.file}: {error.strerror}"
            return 0
        there, stays = parse(data, self.key), parse(data, self.less) if self.less else 0
        self.why = "" if there is not None and stays is not None else f"{self.file} has no such line"
        return (there or 0) - (stays or 0) if not self.why else 0
