"""The flight recorder: one writer, many readers, one piece of shared memory, no system call.

A record is a length (u32), a checksum (u32) and a payload; it never wraps: what does not fit before the end is
preceded by a skip mark. Positions count bytes since the beginning and only grow; ``position % size`` is the place. The
writer first moves ``oldest`` past what it will overwrite, then writes, then moves ``head``; a reader copies first and
then looks whether ``oldest`` has overtaken it. Loads and stores of 8 aligned bytes are atomic on every 64-bit machine
Linux runs on.

Their order is not, but on x86: another processor may see ``head`` before the record, or a record of the next lap before
``oldest``, and Python has no barrier. So the checksum is begun with the position: a record that is not whole yet, or
belongs to another lap, is no record, in whatever order its bytes arrive. The reader looks again, and then later.
"""

import binascii
import mmap
from typing import Final

# The minutes of the flight recorder (core.record): one thin record a second, with at most so many bytes.
THIN: Final = 1536  # some 30 cgroups with names of 30 bytes
MINUTES_BYTES: Final = 128 * THIN  # 128 seconds at least

_HEADER: Final = 4096  # head at 0, oldest at 8, records ever written at 16
_SKIP: Final = 0xFFFFFFFF
_MARK: Final = 8  # length and checksum
_TRIES: Final = 100  # what another processor has stored is here by then, if it is to come


class Ring:
    """``size_bytes`` of payload space, shared over fork, touched at once so that no later write faults."""

    __slots__ = ("_data", "_map", "_size", "_words")

    def __init__(self, memory: mmap.mmap) -> None:
        self._map = memory
        self._size = len(memory) - _HEADER
        view = memoryview(memory)
        self._words = view[:_HEADER].cast("Q")
        self._data = view[_HEADER:]

    @classmethod
    def create(cls, size_bytes: int) -> "Ring":
        """A new, empty ring; the size is rounded up to whole pages."""
        pages = -(-size_bytes // mmap.PAGESIZE)
        memory = mmap.mmap(-1, _HEADER + pages * mmap.PAGESIZE)
        for place in range(0, len(memory), mmap.PAGESIZE):
            memory[place] = 0
        return cls(memory)

    @property
    def size_bytes(self) -> int:
        """Payload space in bytes."""
        return self._size

    def head(self) -> int:
        """Where the next record will be written."""
        return self._words[0]

    def oldest(self) -> int:
        """Where the oldest record that is still whole begins."""
        return self._words[1]

    def written(self) -> int:
        """Records ever appended."""
        return self._words[2]

    def append(self, payload: bytes) -> bool:
        """Write one record; False (and nothing written) if it is larger than a quarter of the ring."""
        need = _pad(_MARK + len(payload))
        if need > self._size // 4:
            return False
        head = self._words[0]
        place = head % self._size
        skip = self._size - place if place + need > self._size else 0
        self._make_room(head + skip + need)
        if skip:
            self._data[place : place + _MARK] = _mark(_SKIP, b"", head)
            head, place = head + skip, 0
        self._data[place + _MARK : place + _MARK + len(payload)] = payload
        self._data[place : place + _MARK] = _mark(len(payload), payload, head)
        self._words[0] = head + need
        self._words[2] += 1
        return True

    def _make_room(self, end: int) -> None:
        oldest = self._words[1]
        while end - oldest > self._size:
            oldest = self._after(oldest)
        self._words[1] = oldest

    def _after(self, position: int) -> int:
        place = position % self._size
        length = int.from_bytes(self._data[place : place + 4], "little")
        return position + (self._size - place if length == _SKIP else _pad(_MARK + length))

    def read(self, position: int, limit: int = 64) -> tuple[list[bytes], int, int]:
        """Up to ``limit`` payloads from ``position``, the next position, and 1 if records were lost in between.

        Lost means that the writer lapped the reader; reading goes on at the oldest record that is whole.
        """
        found: list[bytes] = []
        lost = tries = 0
        while len(found) < limit and position < self._words[0]:
            if position < self._words[1]:
                position, lost = self._words[1], 1
                continue
            place = position % self._size
            mark = bytes(self._data[place : place + _MARK])
            length = int.from_bytes(mark[:4], "little")
            skip = length == _SKIP
            payload = b"" if skip else bytes(self._data[place + _MARK : place + _MARK + min(length, self._size)])
            if position < self._words[1]:  # overwritten while we copied
                continue
            if mark != _mark(length, payload, position):
                tries += 1
                if tries > _TRIES:
                    break
                continue
            tries = 0
            if skip:
                position += self._size - place
                continue
            found.append(payload)
            position += _pad(_MARK + length)
        return found, position, lost


def _mark(length: int, payload: bytes, position: int) -> bytes:
    """What stands before a record at this position."""
    begun = (position ^ position >> 32 ^ length) & 0xFFFFFFFF
    return (binascii.crc32(payload, begun) << 32 | length).to_bytes(_MARK, "little")


def _pad(length: int) -> int:
    return (length + 7) & ~7
