"""The journal of what was changed and must be put back: memory.high and oom_score_adj. Nothing changed outlives us.

A file of fixed slots in the runtime directory (tmpfs), mapped: an entry is made by storing to memory, without a system
call, and is there for whoever comes after, however we end. Journalled before it is done, cleared after it is undone.

Undoing puts back what was found only where our own value still stands: what somebody else wrote since is his. A
memory.high whose cgroup was made anew (other inode) and an oom_score_adj whose process is another (other start time)
are left alone.
"""

import errno
import mmap
import os
import struct
import sys
from typing import Final, NamedTuple

from . import cgroup2, files, leasefile, procfs
from .leasefile import FILE_BYTES, FIRST_SLOT_AT, FREE, MAGIC, OUT, SLOT_BYTES

NAME: Final = leasefile.NAME
SLOTS: Final = leasefile.SLOTS
HELD: Final = 256  # slots whose pages are touched and locked from the start; a page of the rest is at its first lease
MAX: Final = -1  # as a value of memory.high: "max"

# state, kind, token, inode, start_ticks, pid, length of the path, value that we set, the one we set before, the one
# found; then the path. ``state`` is stored last when an entry is made and first when it is cleared.
_SLOT: Final = struct.Struct("=IIQQQIIqqq")
PATH_BYTES: Final = SLOT_BYTES - _SLOT.size
_VALUE_AT: Final = 40
_BEFORE_AT: Final = 48

HIGH: Final = 1
SCORE: Final = 2


class Entry(NamedTuple):
    """One lease that is out. ``before`` is the value of ours that may still stand while a new one is being written."""

    kind: int
    token: int
    inode: int
    start_ticks: int
    pid: int
    value: int
    before: int
    found: int
    path: str


class Journal:
    """The mapped file. Raises OSError where it cannot be made; the caller then leases nothing."""

    __slots__ = ("_free", "_map", "_slots", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fresh = os.pread(fd, len(MAGIC), 0) != MAGIC
            if fresh:
                os.ftruncate(fd, 0)
            # Allocated now: a hole in a full tmpfs is a SIGBUS at the worst moment.
            os.posix_fallocate(fd, 0, FILE_BYTES)
            self._map = mmap.mmap(fd, FILE_BYTES)
            if fresh:
                self._map[: len(MAGIC)] = MAGIC
            # Read and not mapped: half a megabyte that is hardly ever needed would count as ours.
            states = [os.pread(fd, 4, self._place(number)) for number in range(SLOTS)]
        finally:
            os.close(fd)
        for place in range(0, self._place(min(HELD, SLOTS)), mmap.PAGESIZE):
            self._map[place] = self._map[place]
        self._slots: dict[int, int] = {}
        # The first is at the end, where it is taken from.
        self._free = [number for number in range(SLOTS)[::-1] if int.from_bytes(states[number], sys.byteorder) == FREE]

    def _place(self, number: int) -> int:
        return FIRST_SLOT_AT + number * SLOT_BYTES

    def _state(self, number: int) -> int:
        return int.from_bytes(self._map[self._place(number) : self._place(number) + 4], sys.byteorder)

    def entries(self) -> list[tuple[int, Entry]]:
        """(slot, entry) of all that are out."""
        found = []
        for number in range(SLOTS):
            if self._state(number) == OUT:
                place = self._place(number)
                _, kind, token, inode, start, pid, length, value, before, was = _SLOT.unpack_from(self._map, place)
                path = os.fsdecode(self._map[place + _SLOT.size : place + _SLOT.size + min(length, PATH_BYTES)])
                found.append((number, Entry(kind, token, inode, start, pid, value, before, was, path)))
        return found

    def out(self, entry: Entry) -> bool:
        """Journal a lease, or a new value of one that is out. False: no slot, or the path is too long: do not do it."""
        path = os.fsencode(entry.path)
        number = self._slots.get(entry.token)
        if number is None:
            if not self._free or len(path) > PATH_BYTES:
                return False
            number = self._slots[entry.token] = self._free.pop()
        place = self._place(number)
        if self._state(number) == OUT:
            # ``before`` first: whenever we end in between, the value that stands is one of the two.
            for at, value in ((place + _BEFORE_AT, entry.before), (place + _VALUE_AT, entry.value)):
                self._map[at : at + 8] = value.to_bytes(8, sys.byteorder, signed=True)
            return True
        fields = (entry.kind, entry.token, entry.inode, entry.start_ticks, entry.pid, len(path))
        self._map[place + _SLOT.size : place + _SLOT.size + len(path)] = path
        _SLOT.pack_into(self._map, place, FREE, *fields, entry.value, entry.before, entry.found)
        self._map[place : place + 4] = OUT.to_bytes(4, sys.byteorder)
        return True

    def back(self, token: int) -> None:
        """The lease of this token is undone."""
        number = self._slots.pop(token, None)
        if number is not None:
            self.clear(number)

    def clear(self, number: int) -> None:
        """Free a slot."""
        place = self._place(number)
        self._map[place : place + 4] = FREE.to_bytes(4, sys.byteorder)
        self._free.append(number)

    def close(self) -> None:
        """Unmap; the file stays."""
        self._map.close()


def read_value(entry: Entry, cgroup: str, proc: str) -> int | None:
    """What the file says now (``MAX`` for "max"); None: its cgroup or process is gone, or another one."""
    if entry.kind == HIGH:
        group = cgroup2.Cgroup.open(cgroup, entry.path)
        if group is None:
            return None
        try:
            if group.inode != entry.inode or not group.alive():
                return None
            value = group.high()
            return MAX if value is None else value
        finally:
            group.close()
    proc_fd = procfs.open_proc(proc)
    try:
        if procfs.start_ticks(proc_fd, entry.pid) != entry.start_ticks:
            return None
        return files.number(files.read_at(proc_fd, f"{entry.pid}/oom_score_adj", proc))
    finally:
        os.close(proc_fd)


def write_value(entry: Entry, value: int, cgroup: str, proc: str) -> bool:
    """Write it, to the same cgroup or process only. False: gone. memory.high may block as long as reclaim does."""
    if entry.kind == HIGH:
        group = cgroup2.Cgroup.open(cgroup, entry.path)
        if group is None:
            return False
        try:
            return group.inode == entry.inode and group.write("memory.high", "max" if value == MAX else str(value))
        finally:
            group.close()
    proc_fd = procfs.open_proc(proc)
    try:
        # Held by its directory: openat below it fails once the process is gone, whoever has the number then.
        process = files.open_at(proc_fd, str(entry.pid), proc, os.O_PATH | os.O_DIRECTORY)
        if process is None:
            return False
        try:
            if procfs.start_ticks(proc_fd, entry.pid) != entry.start_ticks:
                return False
            fd = files.open_at(process, "oom_score_adj", f"{proc}/{entry.pid}", os.O_WRONLY)
            if fd is None:
                return False
            try:
                os.write(fd, str(value).encode())
            finally:
                os.close(fd)
        finally:
            os.close(process)
    except OSError as error:
        if error.errno == errno.ESRCH:
            return False
        raise
    finally:
        os.close(proc_fd)
    return True


def stands(entry: Entry, now: int) -> bool:
    """Whether what the file says is ours. The kernel keeps memory.high in whole pages, not of 4 KiB everywhere."""
    if entry.kind == HIGH:
        page = mmap.PAGESIZE
        return now in (entry.value, entry.before, entry.value // page * page, entry.before // page * page)
    return now in (entry.value, entry.before)


def undo(entry: Entry, cgroup: str, proc: str) -> str:
    """Put back what was found, where ours still stands. A sentence for the journal, "" where nothing was to do."""
    where = f"memory.high of {entry.path}" if entry.kind == HIGH else f"oom_score_adj of process {entry.pid}"
    found = "max" if entry.kind == HIGH and entry.found == MAX else str(entry.found)
    now = read_value(entry, cgroup, proc)
    if now is None or not stands(entry, now) or now == entry.found:
        return ""
    if not write_value(entry, entry.found, cgroup, proc):
        return ""
    return f"{where} is put back to {found}, as it was found"


def undo_all(runtime_dir: str, cgroup: str, proc: str) -> list[str]:
    """Undo whatever is still out in ``runtime_dir``; what was done or failed, a sentence each. No journal: []."""
    path = f"{runtime_dir}/{NAME}"
    if not os.path.exists(path):
        return []
    journal = Journal(path)
    said = []
    try:
        for number, entry in journal.entries():
            try:
                sentence = undo(entry, cgroup, proc)
            except (OSError, ValueError) as error:  # ValueError: no path, but something else in the slot
                said.append(f"could not be put back: {error}")
                continue
            journal.clear(number)
            if sentence:
                said.append(sentence)
    finally:
        journal.close()
    return said
