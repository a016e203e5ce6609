"""Whole reads of small kernel files, kept or once. Knows nothing of what is in them."""

import errno
import os
from typing import Final

# What the kernel answers for things that have ended: ENOENT by name, ENODEV through a kept descriptor of a removed
# cgroup, ESRCH in /proc/PID.
GONE: Final = frozenset({errno.ENOENT, errno.ENODEV, errno.ESRCH})

# Big enough for a single-record file of today in one call: meminfo 1.6 kB, status 1.6 kB, memory.stat 2 kB.
USUAL_BYTES: Final = 4096

# Nothing read here is longer than a few pages except lists of pids and a status with 65,536 groups. A fake, or a kernel
# gone mad, must not make the killer allocate without end.
MOST_BYTES: Final = 1 << 20


def read_kept(fd: int, path: str, size: int = USUAL_BYTES) -> bytes | None:
    """A single-record file from its start, whole; None: gone. Broken is an OSError with ``path``.

    Single-record files (meminfo, pressure, memory.*, /proc/PID/*) come whole from one pread if the buffer is larger
    than they are: fs/seq_file.c grows its own buffer until the record fits. So a read that does not fill ours is all.
    """
    try:
        data = os.pread(fd, size, 0)
        if len(data) < size:
            return data
        return _rest(fd, data)
    except OSError as error:
        if error.errno in GONE:
            return None
        error.filename = path
        raise


def read_records(fd: int, path: str) -> bytes | None:
    """A file of many records (cgroup.procs, vmstat) from its start, whole; None: gone.

    Such a read ends where the next record would not fit the kernel's page, whatever was asked for: read until nothing
    comes. Between two reads the file may move, as any list that is longer than a page does.
    """
    try:
        return _rest(fd, b"")
    except OSError as error:
        if error.errno in GONE:
            return None
        error.filename = path
        raise


def _rest(fd: int, head: bytes) -> bytes:
    data = head
    while len(data) < MOST_BYTES:
        more = os.pread(fd, 4 * USUAL_BYTES, len(data))
        if not more:
            break
        data += more
    return data


def open_at(directory: int, name: str, path: str, flags: int = os.O_RDONLY) -> int | None:
    """openat; None: gone (or never there). Broken is an OSError with ``path``/``name``."""
    try:
        return os.open(name, flags, dir_fd=directory)
    except OSError as error:
        if error.errno in GONE:
            return None
        error.filename = f"{path}/{name}"
        raise


def read_at(directory: int, name: str, path: str, size: int = USUAL_BYTES) -> bytes | None:
    """Open, read, close a single-record file; None: gone."""
    fd = open_at(directory, name, path)
    if fd is None:
        return None
    try:
        data = os.pread(fd, size, 0)
        return data if len(data) < size else _rest(fd, data)
    except OSError as error:
        if error.errno in GONE:
            return None
        error.filename = f"{path}/{name}"
        raise
    finally:
        os.close(fd)


def number(data: bytes | None) -> int | None:
    """``123\\n`` as a number; None for "max", for gone and for anything else."""
    if data is None:
        return None
    try:
        return int(data)
    except ValueError:
        return None
