"""One's own memory: reserved, locked, and left alone by the collector. Knows nothing of other processes.

Measured (CPython 3.11, kernel 6.18): full mlockall breaks copy-on-write after a fork and costs 29 MiB PSS for three
processes; ONFAULT with only one's own heap touched costs 19 to 20. Locks are not inherited: each process locks itself.
Nothing of this helps unless the interpreter was started with PYTHONMALLOC=malloc: pymalloc takes its arenas with mmap.
"""

import contextlib
import errno
import gc
import resource

from . import libc


def reserve(heap_bytes: int) -> None:
    """Make malloc keep ``heap_bytes`` of touched heap from which everything later is served.

    One arena of small pages, grown by brk only, never given back: one block of that size, written and freed, stays.
    """
    # khugepaged makes huge pages of any heap, locked ones too: it takes the small pages away, copies, and whoever
    # touches them meanwhile faults and waits. Seen in the VM (Debian, THP "always"): 3 to 4 faults in 500 scans, one
    # for each thp_collapse_alloc in vmstat; without huge pages none.
    with contextlib.suppress(OSError):
        libc.prctl_set_thp_disable(True)
    libc.malloc_trim()  # first back with what the imports left free: what is reserved is what is kept
    libc.mallopt(libc.M_MMAP_MAX, 0)  # a large block would be mapped, and unmapped when freed: a fault each time
    libc.mallopt(libc.M_TRIM_THRESHOLD, -1)  # as unsigned: never
    libc.mallopt(libc.M_ARENA_MAX, 1)  # another thread's arena would be another, untouched heap
    refill(heap_bytes)


def refill(heap_bytes: int) -> None:
    """Make the reserve whole again: what is missing faults now, and what is there is only written. MemoryError."""
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


def populate() -> bool:
    """Touch every page that we may write or run, so that none faults later. False: a kernel before 5.14.

    Writable private pages are *written*: after a fork they are shared with the children until the first write, and that
    write would fault although the page is locked. Text is read: a page of it that was never run is not there yet.
    """
    with open("/proc/self/maps", "rb") as maps:
        lines = maps.read().split(b"\n")
    for line in lines:
        words = line.split(None, 5)
        if len(words) < 5 or words[-1].startswith(b"[v"):  # [vdso], [vvar], [vsyscall]
            continue
        start, end = (int(number, 16) for number in words[0].split(b"-"))
        if words[1] == b"rw-p":
            advice = libc.MADV_POPULATE_WRITE
        elif words[1] == b"r-xp":
            advice = libc.MADV_POPULATE_READ
        else:
            continue
        try:
            libc.madvise(start, end - start, advice)
        except OSError as error:
            if error.errno == errno.EINVAL and words[1] == b"r-xp":
                return False
            if error.errno not in (errno.EINVAL, errno.ENOMEM, errno.EFAULT):
                raise
    return True


def faults() -> tuple[int, int]:
    """(minor, major) page faults of this process since it began."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_minflt, usage.ru_majflt


def settle() -> None:
    """No more garbage collection: what lives now lives on, and what comes must not make cycles."""
    gc.collect()
    gc.freeze()
    gc.disable()
