"""The journal of what was changed and must be put back: limits, freezes and oom_score_adj. Nothing changed outlives us.

A file of fixed slots in the runtime directory (tmpfs), mapped: an entry is made by storing to memory, without a system
call, and is there for whoever comes after, however we end. Journalled before it is done, cleared after it is undone.

Undoing puts back what was found only where our own value still stands: what somebody else wrote since is his. A
cgroup that was made anew (other inode) and a process that is another (other start time) are
left alone.

A process hands its oom_score_adj down to whatever it starts. So with the value of a process that of its heirs is put
back: whoever started since the lease was made, has our very value, and lives in the same cgroup or below, or descends
from that process. An heir that has left both (a daemon, moved elsewhere after its parents had ended) is not known for
one, and keeps it.
"""

import errno
import mmap
import os
import struct
import sys
from typing import Final, NamedTuple

from . import cgroup2, files, leasefile, libc, procfs
from .leasefile import FILE_BYTES, FIRST_SLOT_AT, FREE, MAGIC, OUT, SLOT_BYTES

NAME: Final = leasefile.NAME
SLOTS: Final = leasefile.SLOTS
HELD: Final = 256  # slots whose pages are touched and locked from the start, and ahead of those in use (``refill``)
MAX: Final = -1  # as a value of a limit: "max"

# state, kind, token, inode, start_ticks, pid, length of the path, value that we set, the one we set before, the one
# found, since_ticks; then the path. ``state`` is stored last when an entry is made and first when it is cleared.
_SLOT: Final = struct.Struct("=IIQQQIIqqqQ")
PATH_BYTES: Final = SLOT_BYTES - _SLOT.size
_VALUE_AT: Final = 40
_BEFORE_AT: Final = 48

# What kind of file an entry is about. A number never changes its meaning: the next version reads what this one wrote.
HIGH: Final = 1
SCORE: Final = 2
LIMIT: Final = 3
SWAP: Final = 4
FREEZE: Final = 5
FILES: Final = {
    HIGH: "memory.high",
    SCORE: "oom_score_adj",
    LIMIT: "memory.max",
    SWAP: "memory.swap.max",
    FREEZE: "cgroup.freeze",
}
KINDS: Final = {name: kind for kind, name in FILES.items()}
LIMITS: Final = frozenset({HIGH, LIMIT, SWAP})  # bytes, or "max"

PASSES: Final = 5  # over all processes, for heirs: those that an heir has started meanwhile are found by the next
GENERATIONS: Final = 64  # upwards, from an heir to the process whose value it has


class Entry(NamedTuple):
    """One lease that is out. ``before`` is the value of ours that may still stand while a new one is being written.

    ``since_ticks``: when it was made, in clock ticks since boot as /proc/PID/stat counts; for oom_score_adj only.
    """

    kind: int
    token: int
    inode: int
    start_ticks: int
    pid: int
    value: int
    before: int
    found: int
    path: str
    since_ticks: int = 0


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
        self._slots: dict[int, int] = {}
        # The first is at the end, where it is taken from.
        self._free = [number for number in range(SLOTS)[::-1] if int.from_bytes(states[number], sys.byteorder) == FREE]
        self.refill()

    def refill(self) -> None:
        """Touch the pages of the slots in use and of the next ``HELD``, in calm: no lease faults in a storm."""
        most = min(max(self._slots.values(), default=0) + HELD, SLOTS)
        for place in range(0, self._place(most), mmap.PAGESIZE):
            self._map[place] = self._map[place]

    def free(self) -> int:
        """Slots for further leases."""
        return len(self._free)

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
                _, kind, token, inode, start, pid, length, value, *rest = _SLOT.unpack_from(self._map, place)
                before, was, since = rest
                path = os.fsdecode(self._map[place + _SLOT.size : place + _SLOT.size + min(length, PATH_BYTES)])
                found.append((number, Entry(kind, token, inode, start, pid, value, before, was, path, since)))
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
        numbers = (entry.value, entry.before, entry.found, entry.since_ticks)
        _SLOT.pack_into(self._map, place, FREE, *fields, *numbers)
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
    if entry.kind != SCORE:
        group = cgroup2.Cgroup.open(cgroup, entry.path)
        if group is None:
            return None
        try:
            if group.inode != entry.inode or not group.alive():
                return None
            value = group.limit(FILES[entry.kind])
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
    """Write it, to the same cgroup or process only. False: gone. A lower limit may block as long as reclaim does."""
    if entry.kind != SCORE:
        group = cgroup2.Cgroup.open(cgroup, entry.path)
        if group is None:
            return False
        try:
            return group.inode == entry.inode and group.write(FILES[entry.kind], shown(entry.kind, value))
        finally:
            group.close()
    proc_fd = procfs.open_proc(proc)
    try:
        return _write_score(proc_fd, entry.pid, entry.start_ticks, value, proc)
    finally:
        os.close(proc_fd)


def _write_score(proc_fd: int, pid: int, start_ticks: int, value: int, proc: str) -> bool:
    # Held by its directory: openat below it fails once the process is gone, whoever has the number then.
    process = files.open_at(proc_fd, str(pid), proc, os.O_PATH | os.O_DIRECTORY)
    if process is None:
        return False
    try:
        if procfs.start_ticks(proc_fd, pid) != start_ticks:
            return False
        fd = files.open_at(process, "oom_score_adj", f"{proc}/{pid}", os.O_WRONLY)
        if fd is None:
            return False
        try:
            _store_score(fd, str(value).encode())
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno == errno.ESRCH:
            return False
        raise
    finally:
        os.close(process)
    return True


def _store_score(fd: int, value: bytes) -> None:
    """Without CAP_SYS_RESOURCE wherever that suffices.

    Who has it sets with the value also the least to which the process may lower it by itself (fs/proc/base.c:
    oom_score_adj_min): a browser that moves its renderers between 200 and 300 could not go back to 200 any more, for as
    long as they live. What was found is never under that least, so to put it back takes no capability either.
    """
    try:
        with libc.WithoutSysResource():
            os.write(fd, value)
    except PermissionError:
        os.write(fd, value)


def shown(kind: int, value: int) -> str:
    """As the kernel's file has it."""
    return "max" if kind in LIMITS and value == MAX else str(value)


def stands(entry: Entry, now: int) -> bool:
    """Whether what the file says is ours. The kernel keeps limits in whole pages, not of 4 KiB everywhere."""
    if entry.kind in LIMITS:
        page = mmap.PAGESIZE
        return now in (entry.value, entry.before, entry.value // page * page, entry.before // page * page)
    return now in (entry.value, entry.before)


def undo(entry: Entry, cgroup: str, proc: str) -> str:
    """Put back what was found, where ours still stands. A sentence for the journal, "" where nothing was to do.

    ValueError: an entry of another version, about a file that this one does not know.
    """
    if entry.kind not in FILES:
        raise ValueError(f"the journal has an entry of kind {entry.kind}, which this version does not know")
    where = f"{FILES[entry.kind]} of {f'process {entry.pid}' if entry.kind == SCORE else entry.path}"
    found = shown(entry.kind, entry.found)
    now = read_value(entry, cgroup, proc)
    stood = now is not None and stands(entry, now) and now != entry.found
    done = stood and write_value(entry, entry.found, cgroup, proc)
    heirs = _undo_heirs(entry, proc) if entry.kind == SCORE else 0
    if not done and not heirs:
        return ""
    more = f", and that of {heirs} process(es) that it had started" if heirs else ""
    return f"{where} is put back to {found}, as it was found{more}"


def _undo_heirs(entry: Entry, proc: str) -> int:
    """How many there were. Also when the process itself is gone: those that it had started may live on."""
    ours = frozenset((entry.value, entry.before)) - {entry.found}
    if not ours:
        return 0
    count = 0
    proc_fd = procfs.open_proc(proc)
    try:
        for _ in range(PASSES):
            done = sum(_undo_heir(pid, entry, ours, proc_fd, proc) for pid in procfs.pids(proc_fd))
            count += done
            if not done:
                break
    finally:
        os.close(proc_fd)
    return count


def _undo_heir(pid: int, entry: Entry, ours: frozenset[int], proc_fd: int, proc: str) -> bool:
    try:
        if pid == entry.pid or files.number(files.read_at(proc_fd, f"{pid}/oom_score_adj", proc)) not in ours:
            return False  # nearly everybody: one read a process
        process = procfs.read_process(proc_fd, pid)
        if process is None or process.start_ticks < entry.since_ticks:
            return False
        if not _is_inside(process.cgroup, entry.path) and not _descends(process.ppid, entry, proc_fd):
            return False
        return _write_score(proc_fd, pid, process.start_ticks, entry.found, proc)
    except OSError:
        return False  # hidden from us, or refused: one heir is no reason to leave the others


def _is_inside(path: str, above: str) -> bool:
    """In the same cgroup or below. In the root only in the same one: below it is everybody."""
    return path == above or (above not in ("", "/") and path.startswith(f"{above}/"))


def _descends(pid: int, entry: Entry, proc_fd: int) -> bool:
    for _ in range(GENERATIONS):
        if pid == entry.pid:
            return procfs.start_ticks(proc_fd, pid) == entry.start_ticks
        process = procfs.read_process(proc_fd, pid, cgroup="") if pid > 1 else None
        if process is None or process.start_ticks < entry.start_ticks:
            return False
        pid = process.ppid
    return False


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
