"""The flight recorder: one writer, many readers, one piece of shared memory, no system call.

A record is a length (u32) and a payload; it never wraps: what does not fit before the end is preceded by a skip mark.
Positions count bytes since the beginning and only grow; ``position % size`` is the place. The writer first moves
``oldest`` past what it will overwrite, then writes, then moves ``head``; a reader copies first and then looks whether
``oldest`` has overtaken it. Loads and stores of 8 aligned bytes are atomic on every 64-bit machine Linux runs on.
"""

import mmap
from typing import Final

_HEADER: Final = 4096  # head at 0, oldest at 8, records ever written at 16
_SKIP: Final = 0xFFFFFFFF
_WORD: Final = 4


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
        need = _pad(_WORD + len(payload))
        if need > self._size // 4:
            return False
        head = self._words[0]
        place = head % self._size
        skip = self._size - place if place + need > self._size else 0
        self._make_room(head + skip + need)
        if skip:
            self._data[place : place + _WORD] = _SKIP.to_bytes(_WORD, "little")
            place = 0
        self._data[place + _WORD : place + _WORD + len(payload)] = payload
        self._data[place : place + _WORD] = len(payload).to_bytes(_WORD, "little")
        self._words[0] = head + skip + need
        self._words[2] += 1
        return True

    def _make_room(self, end: int) -> None:
        oldest = self._words[1]
        while end - oldest > self._size:
            oldest = self._after(oldest)
        self._words[1] = oldest

    def _after(self, position: int) -> int:
        place = position % self._size
        length = int.from_bytes(self._data[place : place + _WORD], "little")
        return position + (self._size - place if length == _SKIP else _pad(_WORD + length))

    def read(self, position: int, limit: int = 64) -> tuple[list[bytes], int, int]:
        """Up to ``limit`` payloads from ``position``, the next position, and 1 if records were lost in between.

        Lost means that the writer lapped the reader; reading goes on at the oldest record that is whole.
        """
        found: list[bytes] = []
        lost = 0
        while len(found) < limit and position < self._words[0]:
            if position < self._words[1]:
                position, lost = self._words[1], 1
                continue
            place = position % self._size
            length = int.from_bytes(self._data[place : place + _WORD], "little")
            skip = length == _SKIP
            payload = b"" if skip else bytes(self._data[place + _WORD : place + _WORD + min(length, self._size)])
            if position < self._words[1]:  # overwritten while we copied
                continue
            if skip:
                position += self._size - place
                continue
            found.append(payload)
            position += _pad(_WORD + length)
        return found, position, lost


def _pad(length: int) -> int:
    return (length + 7) & ~7
