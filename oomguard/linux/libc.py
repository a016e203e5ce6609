"""The calls that Python's os module lacks. ctypes lives here alone; nothing here decides anything.

Every wrapper raises OSError with errno and what was called. glibc is assumed (mallopt and malloc_trim are its own).
"""

import ctypes
import os
from collections.abc import Iterable

_libc = ctypes.CDLL(None, use_errno=True)

_libc.mlockall.argtypes = (ctypes.c_int,)
_libc.munlockall.argtypes = ()
_libc.mallopt.argtypes = (ctypes.c_int, ctypes.c_int)
_libc.malloc_trim.argtypes = (ctypes.c_size_t,)
_libc.malloc.argtypes = (ctypes.c_size_t,)
_libc.malloc.restype = ctypes.c_void_p
_libc.free.argtypes = (ctypes.c_void_p,)
_libc.free.restype = None
_libc.memset.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
_libc.memset.restype = ctypes.c_void_p
_libc.syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_uint)
_libc.syscall.restype = ctypes.c_long
_libc.signalfd.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
_libc.inotify_init1.argtypes = (ctypes.c_int,)
_libc.inotify_add_watch.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)
_libc.inotify_rm_watch.argtypes = (ctypes.c_int, ctypes.c_int)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.capget.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
_libc.capset.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
_libc.prctl.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)

# <bits/mman.h>, the same on every architecture that Debian calls a release architecture
MCL_CURRENT = 1
MCL_FUTURE = 2
MCL_ONFAULT = 4

# <asm-generic/mman-common.h>, in v5.14
MADV_POPULATE_READ = 22
MADV_POPULATE_WRITE = 23

# <malloc.h>
M_TRIM_THRESHOLD = -1
M_TOP_PAD = -2
M_MMAP_THRESHOLD = -3
M_MMAP_MAX = -4
M_ARENA_MAX = -8

# New system calls have one number everywhere since 5.x (only alpha differs): arch/*/syscall.tbl
_SYS_PROCESS_MRELEASE = 448

_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_SET_NAME = 15
_PR_SET_THP_DISABLE = 41
_SFD_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC  # SFD_* and IN_* are defined as these
_FREE_PAGES, _PAGE_BYTES = os.sysconf_names["SC_AVPHYS_PAGES"], os.sysconf("SC_PAGE_SIZE")
_SIGSET_WORDS = 16  # glibc's sigset_t: 1024 bits


def oserror(what: str) -> OSError:
    """The error of the call that has just failed, with ``what`` in the place of the file name."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), what)


def mlockall(flags: int) -> None:
    """Lock pages (MCL_*). EPERM or ENOMEM: RLIMIT_MEMLOCK without CAP_IPC_LOCK; EINVAL: a kernel without ONFAULT."""
    if _libc.mlockall(flags) != 0:
        raise oserror("mlockall")


def munlockall() -> None:
    """Unlock all pages of this process."""
    if _libc.munlockall() != 0:
        raise oserror("munlockall")


def mallopt(param: int, value: int) -> None:
    """Tune malloc (M_*). glibc gives no errno: EINVAL is ours."""
    if _libc.mallopt(param, value) != 1:
        ctypes.set_errno(22)
        raise oserror(f"mallopt({param}, {value})")


def malloc_trim(pad_bytes: int = 0) -> bool:
    """Give the free top of the heap back; whether anything was."""
    return bool(_libc.malloc_trim(pad_bytes) == 1)


def malloc(size_bytes: int) -> int:
    """The address of fresh memory; MemoryError if there is none."""
    address = _libc.malloc(size_bytes)
    if not address:
        raise MemoryError(size_bytes)
    return int(address)


def free(address: int) -> None:
    """What ``malloc`` gave."""
    _libc.free(address)


def memset(address: int, byte: int, size_bytes: int) -> None:
    """Fill memory: the way to touch it."""
    _libc.memset(address, byte, size_bytes)


def free_ram() -> int:
    """MemFree, in bytes: 0.2 us, where /proc/meminfo takes 4 and allocates.

    The C library asks sysinfo(2) for it, and sysconf is there without ctypes, which takes as long again.
    """
    return os.sysconf(_FREE_PAGES) * _PAGE_BYTES


def madvise(address: int, size_bytes: int, advice: int) -> None:
    """MADV_* on whole pages. EINVAL: this kernel, or this kind of mapping, does not know the advice."""
    if _libc.madvise(address, size_bytes, advice) != 0:
        raise oserror("madvise")


def process_mrelease(pidfd: int) -> None:
    """Free the memory of a dying process from here (Linux kernel commit 884a7e5964e0, in v5.15).

    ESRCH: it is gone; EINVAL: it is not dying yet, or shares its memory with one that is not; EAGAIN: try again (its
    memory is being taken down by itself, or mmap_lock was busy); ENOSYS: an older kernel.
    """
    if _libc.syscall(_SYS_PROCESS_MRELEASE, pidfd, 0) != 0:
        raise oserror("process_mrelease")


def signalfd(mask: Iterable[int]) -> int:
    """A non-blocking signalfd for these signals, which the caller has blocked."""
    words = (ctypes.c_ulong * _SIGSET_WORDS)()
    bits = 8 * ctypes.sizeof(ctypes.c_ulong)
    for number in mask:
        words[(number - 1) // bits] |= 1 << (number - 1) % bits
    fd = int(_libc.signalfd(-1, ctypes.addressof(words), _SFD_FLAGS))
    if fd < 0:
        raise oserror("signalfd")
    return fd


_cap_header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # <linux/capability.h>: _LINUX_CAPABILITY_VERSION_3; this thread
_cap_data = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable of capabilities 0 to 31; of 32 to 63
_CAP_SYS_RESOURCE = 1 << 24


class WithoutSysResource:
    """``with``: this thread has no CAP_SYS_RESOURCE; nothing changes where it had none, or cannot lay it down."""

    def __enter__(self) -> None:
        self.had = _in_force()
        self._set(self.had & ~_CAP_SYS_RESOURCE)

    def __exit__(self, *_: object) -> None:
        self._set(self.had)

    def _set(self, effective: int) -> None:
        if _cap_data[0] != effective:
            _cap_data[0] = effective
            _libc.capset(ctypes.addressof(_cap_header), ctypes.addressof(_cap_data))


def _in_force() -> int:
    """This thread's capabilities (bits 0 to 31), and the rest of them where capset takes them from."""
    if _libc.capget(ctypes.addressof(_cap_header), ctypes.addressof(_cap_data)) != 0:
        raise oserror("capget")
    return _cap_data[0]


def capset(mask: int) -> None:
    """This thread has these capabilities (bits 0 to 31) and no others, now or ever. EPERM: it lacks one of them."""
    data = (ctypes.c_uint32 * 6)(mask, mask)
    if _libc.capset(ctypes.addressof(_cap_header), ctypes.addressof(data)) != 0:
        raise oserror("capset")


CAP_SYS_ADMIN = 21


def lay_down(capability: int) -> None:
    """This thread goes on without this capability in force, whether it had it or not."""
    _cap_data[0] = _in_force() & ~(1 << capability)
    if _libc.capset(ctypes.addressof(_cap_header), ctypes.addressof(_cap_data)) != 0:
        raise oserror("capset")


def prctl_set_keepcaps() -> None:
    """The next setuid away from root keeps the permitted capabilities."""
    if _libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0) != 0:
        raise oserror("PR_SET_KEEPCAPS")


def inotify_init() -> int:
    """A non-blocking inotify descriptor. EMFILE: fs.inotify.max_user_instances."""
    fd = int(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    if fd < 0:
        raise oserror("inotify_init1")
    return fd


def inotify_add_watch(fd: int, path: bytes, mask: int) -> int:
    """The watch descriptor; the same one for the same inode. ENOSPC: fs.inotify.max_user_watches."""
    watch = int(_libc.inotify_add_watch(fd, path, mask))
    if watch < 0:
        raise oserror(os.fsdecode(path))
    return watch


def inotify_rm_watch(fd: int, watch: int) -> None:
    """End a watch. EINVAL: it ended by itself, with its directory."""
    if _libc.inotify_rm_watch(fd, watch) != 0:
        raise oserror("inotify_rm_watch")


def prctl_set_pdeathsig(signal: int) -> None:
    """Be sent this signal when the *thread* that forked us ends. Compare getppid() afterwards: it may have, already."""
    if _libc.prctl(_PR_SET_PDEATHSIG, signal, 0, 0, 0) != 0:
        raise oserror("PR_SET_PDEATHSIG")


def prctl_set_thp_disable(on: bool) -> None:
    """No huge pages for this process, its children and what they execute. EINVAL: this kernel has none anyway."""
    if _libc.prctl(_PR_SET_THP_DISABLE, int(on), 0, 0, 0) != 0:
        raise oserror("PR_SET_THP_DISABLE")


def prctl_set_name(name: bytes) -> None:
    """This thread's comm, cut to 15 bytes by the kernel."""
    buffer = ctypes.create_string_buffer(name)
    if _libc.prctl(_PR_SET_NAME, ctypes.addressof(buffer), 0, 0, 0) != 0:
        raise oserror("PR_SET_NAME")
