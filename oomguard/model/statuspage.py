"""The page that the core publishes and everybody reads: fixed layout, one writer, no lock, no wakeup.

Sequence-locked: the writer makes the counter odd, writes, makes it even; a reader that saw the counter move, or odd,
reads again. Numbers little-endian and 8-byte aligned, strings NUL-padded UTF-8.
"""

import mmap
import os
import struct
from dataclasses import dataclass
from typing import Final

NAME: Final = "status"
MAGIC: Final = b"oomguard"
LAYOUT: Final = 1
GUARDS: Final = 128
PHASES: Final = ("calm", "armed", "firing", "draining", "cooling")
MODES: Final = ("enforce", "observe", "shadow")

# sequence; pid, started (CLOCK_REALTIME ns), armed (bool), turns, minor, major; snapshots, kills, kernel kills;
# undone leases, drops; MemTotal, MemAvailable, SwapTotal, SwapFree; guards in use; length of the notes; last beat (ns)
_HEAD: Final = struct.Struct("=8sIIQ" + "Q" * 18)
_HEAD_AT: Final = 0
_COUNTS: Final = struct.Struct("=" + "Q" * 18)  # the head's part after the sequence
_COUNTS_AT: Final = _HEAD.size - _COUNTS.size
_GUARD: Final = struct.Struct("=64s240sIIQQQ")  # name, cgroup glob, mode, phase, targets, used, limit (bytes)
_GUARDS_AT: Final = 512
_NOTES_AT: Final = _GUARDS_AT + GUARDS * _GUARD.size
NOTES_BYTES: Final = 16384
SIZE: Final = (_NOTES_AT + NOTES_BYTES + mmap.PAGESIZE - 1) // mmap.PAGESIZE * mmap.PAGESIZE


@dataclass(frozen=True, slots=True)
class Numbers:
    """The counters of the page's head, in the order of the layout. Times in ns, sizes in bytes."""

    pid: int = 0
    started_ns: int = 0
    armed: int = 0
    turns: int = 0
    minor_faults: int = 0
    major_faults: int = 0
    snapshots: int = 0
    kills: int = 0
    kernel_oom_kills: int = 0
    leases_undone: int = 0
    drops: int = 0
    mem_total_bytes: int = 0
    mem_available_bytes: int = 0
    swap_total_bytes: int = 0
    swap_free_bytes: int = 0


@dataclass(frozen=True, slots=True)
class GuardLine:
    """One guard: the worst phase of its targets, and the numbers of the target nearest to its hard watermark."""

    name: str
    cgroup: str
    mode: str
    phase: str
    targets: int
    used_bytes: int
    limit_bytes: int


@dataclass(frozen=True, slots=True)
class StatusPage:
    """A consistent copy. ``notes``: lines "what\\twhy" of what is degraded; the first line is the version."""

    numbers: Numbers
    guards: tuple[GuardLine, ...]
    version: str
    degraded: tuple[tuple[str, str], ...]
    beat_ns: int  # CLOCK_MONOTONIC of the last turn


_NUMBERS: Final = tuple(Numbers.__dataclass_fields__)


class Writer:
    """The core's side: mapped once, then only stores to memory."""

    __slots__ = ("_map", "_sequence")

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
        self._sequence = 0
        self._map[:] = bytes(SIZE)
        _HEAD.pack_into(self._map, _HEAD_AT, MAGIC, LAYOUT, *(0,) * (len(_NUMBERS) + 5))
        os.rename(fresh, path)

    def publish(
        self, numbers: Numbers, guards: tuple[GuardLine, ...] | None, notes: bytes | None, beat_ns: int
    ) -> None:
        """Store what has changed; None leaves guards or notes as they are."""
        notes = None if notes is None else notes[:NOTES_BYTES]
        self._mark(1)
        head = self._map
        count = head[_HEAD_AT + _HEAD.size - 24 : _HEAD_AT + _HEAD.size - 16]
        in_use = int.from_bytes(count, "little") if guards is None else min(len(guards), GUARDS)
        length_at = _HEAD_AT + _HEAD.size - 16
        length = int.from_bytes(head[length_at : length_at + 8], "little") if notes is None else len(notes)
        values = [getattr(numbers, name) for name in _NUMBERS]
        # Not the magic and the sequence with them: pack_into fills the place with zeros before it packs.
        _COUNTS.pack_into(head, _COUNTS_AT, *values, in_use, length, beat_ns)
        for number, guard in enumerate((guards or ())[:GUARDS]):
            _GUARD.pack_into(
                head,
                _GUARDS_AT + number * _GUARD.size,
                guard.name.encode("utf-8", "replace")[:64],
                guard.cgroup.encode("utf-8", "replace")[:240],
                MODES.index(guard.mode),
                PHASES.index(guard.phase),
                guard.targets,
                max(0, guard.used_bytes),  # MemAvailable may be over MemTotal, in containers
                max(0, guard.limit_bytes),
            )
        if notes is not None:
            head[_NOTES_AT : _NOTES_AT + len(notes)] = notes
        self._mark(2)

    def _mark(self, step: int) -> None:
        self._sequence = (self._sequence | 1) if step == 1 else (self._sequence + 1)
        self._map[16:24] = self._sequence.to_bytes(8, "little")


def read(path: str) -> StatusPage:
    """A consistent copy. OSError: no daemon has run; ValueError: another version's page, or never still."""
    with open(path, "rb") as file:
        for _ in range(1000):
            data = os.pread(file.fileno(), SIZE, 0)
            if len(data) < SIZE or data[:8] != MAGIC:
                raise ValueError(f"{path} is not a status page of oomguard")
            again = os.pread(file.fileno(), 8, 16)
            sequence = int.from_bytes(data[16:24], "little")
            if sequence & 1 == 0 and again == data[16:24]:
                return decode(data)
    raise ValueError(f"{path} never stands still")


def decode(data: bytes) -> StatusPage:
    """The page's bytes. ValueError: a layout that this version does not know, or no page at all."""
    try:
        return _decode(data)
    except (struct.error, IndexError) as error:
        raise ValueError(f"not a status page of oomguard: {error}") from None


def _decode(data: bytes) -> StatusPage:
    _, layout, _, _, *rest = _HEAD.unpack_from(data, _HEAD_AT)
    if layout != LAYOUT:
        raise ValueError(f"status page of layout {layout}; this version reads {LAYOUT}")
    values, (count, length, beat_ns) = rest[: len(_NUMBERS)], rest[len(_NUMBERS) :]
    guards = []
    for number in range(min(count, GUARDS)):
        name, cgroup, mode, phase, *sizes = _GUARD.unpack_from(data, _GUARDS_AT + number * _GUARD.size)
        guards.append(GuardLine(_text(name), _text(cgroup), MODES[mode], PHASES[phase], *sizes))
    notes = data[_NOTES_AT : _NOTES_AT + min(length, NOTES_BYTES)].decode("utf-8", "replace").split("\n")
    degraded = tuple((what, why) for what, tab, why in (line.partition("\t") for line in notes[1:]) if tab)
    return StatusPage(Numbers(*values), tuple(guards), notes[0], degraded, beat_ns)


def _text(padded: bytes) -> str:
    return padded.rstrip(b"\0").decode("utf-8", "replace")
