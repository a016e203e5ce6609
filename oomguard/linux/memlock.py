"""One's own memory: reserved, locked, and left alone by the collector. Knows nothing of other processes.

Measured (CPython 3.11, kernel 6.18): full mlockall breaks copy-on-write after a fork and costs 29 MiB PSS for three
processes; ONFAULT with only one's own heap touched costs 19 to 20. Locks are not inherited: each process locks itself.
Nothing of this helps unless the interpreter was started with PYTHONMALLOC=malloc: pymalloc takes its arenas with mmap.
"""

import errno
import gc
import resource

from . import libc

_PAGE = resource.getpagesize()


def reserve(heap_bytes: int) -> None:
    """Make malloc keep ``heap_bytes`` of touched heap from which everything later is served.

    One arena, grown by brk only, never given back: then one block of that size, written page by page and freed, stays.
    """
    libc.mallopt(libc.M_MMAP_MAX, 0)  # a large block would be mapped, and unmapped when freed: a fault each time
    libc.mallopt(libc.M_TRIM_THRESHOLD, -1)  # as unsigned: never
    libc.mallopt(libc.M_ARENA_MAX, 1)  # another thread's arena would be another, untouched heap
    block = libc.malloc(heap_bytes)
    libc.memset(block, 0x55, heap_bytes)
    libc.free(block)


def lock() -> str | None:
    """Lock what is there and what will come, each page from its first touch on. None: locked; else why not."""
    try:
        try:
            libc.mlockall(libc.MCL_CURRENT | libc.MCL_FUTURE | libc.MCL_ONFAULT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            # Before 4.4, and on gVisor: all of it at once then.
            libc.mlockall(libc.MCL_CURRENT | libc.MCL_FUTURE)
    except OSError as error:
        limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
        if error.errno in (errno.EPERM, errno.ENOMEM) and limit != resource.RLIM_INFINITY:
            return f"memory is not locked: no CAP_IPC_LOCK, and RLIMIT_MEMLOCK is {limit} bytes ({error.strerror})"
        return f"memory is not locked: mlockall: {error.strerror}"
    return None


def faults() -> tuple[int, int]:
    """(minor, major) page faults of this process since it began."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_minflt, usage.ru_majflt


def settle() -> None:
    """No more garbage collection: what lives now lives on, and what comes must not make cycles."""
    gc.collect()
    gc.freeze()
    gc.disable()
