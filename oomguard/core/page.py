"""The writing half of the status page (``model.statuslayout``): stores to memory and no system call, so that no reader,
however many there are and whatever they do, can make the core wait.
"""

import binascii
import mmap
import os
from typing import Final

from ..linux import libc
from ..model.statuslayout import (
    CONDITIONS,
    COUNTS,
    FRONT,
    HEAD,
    LAYOUT,
    MAGIC,
    NAMES,
    NOTES,
    NUMBERS,
    NUMBERS_OF,
    PID_AT,
    SECTIONS,
    SEQUENCE_AT,
    SIZE,
    SUM_AT,
    Section,
)

_CUT: Final = "…".encode()
_BY_POLICY: Final = (NUMBERS_OF, NAMES, CONDITIONS)  # as many as it has, which are few


class Writer:
    """Mapped once. ``begin``, then any of what is between them here, then ``end``. What nothing is put into stays."""

    __slots__ = ("_bytes", "_counts", "_map", "_sequence", "_stale", "_sums")

    def __init__(self, path: str) -> None:
        """Makes the file anew under a temporary name and puts it in place. OSError with the path."""
        fresh = f"{path}.new"
        fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            os.fchmod(fd, 0o644)  # for everybody, whatever the umask
            os.posix_fallocate(fd, 0, SIZE)
            self._map = mmap.mmap(fd, SIZE)
        finally:
            os.close(fd)
        self._bytes = memoryview(self._map)
        for section in SECTIONS:
            if section not in _BY_POLICY:
                self.touch(section, section.room)
        self._sequence = 0
        self._counts = [0] * len(COUNTS)
        self._sums = [0] * len(SECTIONS)  # of nothing
        self._stale = [False] * len(SECTIONS)
        FRONT.pack_into(self._map, 0, MAGIC, LAYOUT, SIZE, 0)
        self.begin()
        self.end((0,) * len(NUMBERS))
        os.rename(fresh, path)

    def touch(self, section: Section, number: int) -> None:
        """So many of its records can be written without a fault. What no policy needs takes no memory.

        Not by reading first: the kernel maps sixteen pages around each that is read.
        """
        end = section.at + min(number, section.room) * section.record.size
        first = section.at // mmap.PAGESIZE * mmap.PAGESIZE
        try:
            self._map.madvise(libc.MADV_POPULATE_WRITE, first, end - first)
        except OSError:  # EINVAL: before Linux 5.14
            for place in (*range(section.at, end, mmap.PAGESIZE), max(section.at, end - 1)):
                self._map[place] = self._map[place]

    def begin(self) -> None:
        """From here to ``end`` nobody can read it."""
        self._sequence += 1
        self._map[SEQUENCE_AT:PID_AT] = self._sequence.to_bytes(8, "little")

    def count(self, section: Section, number: int) -> None:
        """How many records there are, whether there is room for all of them or not."""
        self._counts[section.counted] = number
        self._stale[section.number] = True

    def put(self, section: Section, place: int, *values: int | bytes) -> None:
        """One record; what there is no room for is left out."""
        if place < section.room:
            section.record.pack_into(self._map, section.at + place * section.record.size, *values)
            self._stale[section.number] = True

    def notes(self, text: bytes) -> None:
        """All of them."""
        self.count(NOTES, len(text))
        text = text[: NOTES.room]
        self._map[NOTES.at : NOTES.at + len(text)] = text

    def end(self, numbers: tuple[int, ...]) -> None:
        """``numbers`` in the order of NUMBERS."""
        for section in SECTIONS:
            if self._stale[section.number]:
                used = min(self._counts[section.counted], section.room) * section.record.size
                self._sums[section.number] = binascii.crc32(self._bytes[section.at : section.at + used])
                self._stale[section.number] = False
        self._sequence += 1
        # Not the magic and the sequence with them: pack_into fills the place with zeros before it packs.
        HEAD.pack_into(self._map, PID_AT, *numbers, *self._counts, *self._sums)
        own = binascii.crc32(self._bytes[PID_AT:SUM_AT], self._sequence & 0xFFFFFFFF)
        self._map[SUM_AT : SUM_AT + 4] = own.to_bytes(4, "little")
        self._map[SEQUENCE_AT:PID_AT] = self._sequence.to_bytes(8, "little")


def text(value: str, room: int, tail: bool = False) -> bytes:
    """As a string of the page: in UTF-8, cut to this room; ``tail``: the end of it tells more than the beginning."""
    raw = value.encode("utf-8", "replace")
    if len(raw) <= room:
        return raw
    raw = raw[len(raw) - room + len(_CUT) :] if tail else raw[: room - len(_CUT)]
    whole = raw.decode("utf-8", "ignore").encode()  # not in the middle of a character
    return _CUT + whole if tail else whole + _CUT
