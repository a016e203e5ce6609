"""The black box: one file that lies ready, into which an incident goes before it goes anywhere else.

An incident's own files are made while memory is gone: names are looked up, blocks are found, a journal is written. The
box has its blocks, its descriptor and its buffer since the start. It is written past the page cache (O_DIRECT) where
the file system allows it, and what ``add`` has returned from is on the disk (O_DSYNC).

A ring of blocks. A frame begins with a block: a head with a checksum of all of it, then its payload; it never wraps.
Frames are numbered for ever, so that after any cut the whole ones can be told from what is torn or left over. The next
start gives back to the incidents what only the box has (``scribe``).
"""

import binascii
import contextlib
import errno
import mmap
import os
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

BYTES: Final = 8 << 20
BLOCK: Final = 4096
NAME: Final = "blackbox"
# incident.json without turns; lines of ring.jsonl; written whole: nothing to give back; the line of the turn that
# opened it, ahead of the others, which begin two minutes earlier
HEAD, TURNS, END, OPENING = 1, 2, 3, 4
_BUFFER: Final = 64 << 10
_ROOM: Final = 4  # a disk must have so many times its size free, or there is none
_MAGIC: Final = b"OOMBOX1\0"
# magic, checksum of what follows and of the payload, kind, length of the payload, number, name of the incident
_FRAME: Final = struct.Struct("<8sIIIxxxxQ96s")
_CHECKED: Final = 12  # from there on


class Frame(NamedTuple):
    """A whole frame: where its payload is."""

    number: int
    kind: int
    name: str
    offset: int
    length: int


class BlackBox:
    """``prepare`` comes first; until it is through, ``add`` does nothing."""

    __slots__ = ("_buffer", "_fd", "_next", "_number", "direct", "path", "size")

    def __init__(self, path: str, size: int = 0) -> None:
        """``size``: in bytes, whole blocks; 0: ``BYTES``."""
        self.path, self.size = path, size or BYTES
        self.direct = False
        self._buffer = memoryview(mmap.mmap(-1, _BUFFER))
        self._buffer[:] = bytes(_BUFFER)
        self._fd = -1
        self._next = 0
        self._number = 0

    @property
    def ready(self) -> bool:
        """Whether it takes anything."""
        return self._fd >= 0

    def prepare(self) -> Iterator[None]:
        """Open it, make it where it is not there in its size. OSError: there is none, and nothing of it is left.

        A little at a time, and never a wait for all of it: an incident may open in between.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_DSYNC | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(self.path, flags, 0o600)
        try:
            if os.fstat(fd).st_size != self.size:
                yield from self._make(fd)
            for frame in self.frames():
                if frame is None:
                    yield
                elif frame.number > self._number:
                    self._number, self._next = frame.number, _end(frame)
            self._fd = self._open()
        finally:
            os.close(fd)

    def _make(self, fd: int) -> Iterator[None]:
        """Zeros, not a hole and not merely reserved: the first write to those would change the file system's tables."""
        room = os.statvfs(self.path)
        if room.f_bavail * room.f_frsize < _ROOM * self.size:
            os.unlink(self.path)
            raise OSError(errno.ENOSPC, "less than 32 MiB are free: no black box", self.path)
        try:
            os.ftruncate(fd, 0)
            for offset in range(0, self.size, _BUFFER):
                if os.pwrite(fd, bytes(min(_BUFFER, self.size - offset)), offset) <= 0:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)
                yield
            os.fsync(fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(self.path)
            raise

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_DSYNC | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(self.path, flags | os.O_DIRECT)
            self.direct = True
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            fd = os.open(self.path, flags)
        return fd

    def add(self, kind: int, name: str, payload: bytes = b"") -> None:
        """On the disk when it returns; what is larger than a quarter of the box is not taken. OSError: it is not."""
        if self._fd < 0 or _FRAME.size + len(payload) > self.size // 4:
            return
        place, number = self._next, self._number + 1
        if place + _FRAME.size + len(payload) > self.size:
            place = 0
        head = _FRAME.pack(_MAGIC, 0, kind, len(payload), number, name.encode("utf-8", "replace"))
        check = binascii.crc32(payload, binascii.crc32(head[_CHECKED:]))
        self._write(place, head[:8] + check.to_bytes(4, "little") + head[_CHECKED:], payload)
        self._next, self._number = _up(place + _FRAME.size + len(payload)), number

    def _write(self, place: int, head: bytes, payload: bytes) -> None:
        """By way of the one buffer that is locked and aligned."""
        buffer, done = self._buffer, 0
        while head or done < len(payload):
            piece = payload[done : done + _BUFFER - len(head)]
            used = len(head) + len(piece)
            buffer[: len(head)] = head
            buffer[len(head) : used] = piece
            whole = _up(used)
            buffer[used:whole] = bytes(whole - used)
            if os.pwrite(self._fd, buffer[:whole], place) != whole:
                raise OSError(errno.EIO, os.strerror(errno.EIO), self.path)
            done, place, head = done + len(piece), place + whole, b""

    # -- reading

    def frames(self) -> Iterator[Frame | None]:
        """Every whole frame, as they lie; None after each piece that was looked through. OSError."""
        fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            place = seen = 0
            while place < self.size:
                frame = self._frame(fd, place)
                if frame is not None:
                    yield frame
                place = _end(frame) if frame is not None else place + BLOCK
                if place - seen >= _BUFFER:
                    seen = place
                    yield None
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)

    def _frame(self, fd: int, place: int) -> Frame | None:
        head = os.pread(fd, _FRAME.size, place)
        if len(head) < _FRAME.size or not head.startswith(_MAGIC):
            return None
        _, check, kind, length, number, name = _FRAME.unpack(head)
        offset = place + _FRAME.size
        if offset + length > self.size:
            return None
        found, at = binascii.crc32(head[_CHECKED:]), offset
        while at < offset + length:
            piece = os.pread(fd, min(_BUFFER, offset + length - at), at)
            if not piece:
                return None
            found, at = binascii.crc32(piece, found), at + len(piece)
        if found != check:
            return None
        return Frame(number, kind, name.rstrip(b"\0").decode("utf-8", "replace"), offset, length)

    def payload(self, frame: Frame) -> bytes:
        """What was put in. OSError."""
        with open(self.path, "rb") as file:
            file.seek(frame.offset)
            return file.read(frame.length)

    def unended(self) -> dict[str, list[Frame]]:
        """By incident, the frames of those that were never written whole, in order. OSError."""
        found: dict[str, list[Frame]] = {}
        for frame in sorted(frame for frame in self.frames() if frame is not None):
            if frame.kind == END:
                found.pop(frame.name, None)
            elif frame.name:
                found.setdefault(frame.name, []).append(frame)
        return found

    def close(self) -> None:
        """Once."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _up(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _end(frame: Frame) -> int:
    return _up(frame.offset + frame.length)
