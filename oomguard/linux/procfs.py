"""/proc: the machine's memory, and its processes. Ranks nobody.

Some facts (fs/proc):

- stat, status, statm, comm, cgroup, oom_score and oom_score_adj take no lock that a thrashing process can hold.
  cmdline, environ, maps and smaps do (mmap_lock, or they page in its stack), and may block for seconds: never read.
- A descriptor of /proc/PID stays with its process: after it has ended, openat answers ESRCH, also when the pid has a
  new owner. All the facts of one process are read through one such descriptor, and so are of one process.
- A zombie leader whose threads live still owns its memory, but has let go of it itself: its status has no Rss lines,
  that of any living thread has them.
- comm holds any bytes, newlines and parentheses too: in stat it ends at the last ")". status escapes it.
"""

import errno
import mmap
import os
import time
from collections.abc import Callable
from typing import Final, NamedTuple

from oomguard.model.facts import MemInfo, ProcessFacts, Refaults

from . import files
from .refaults import parse_refaults

PF_KTHREAD: Final = 0x0020_0000  # <linux/sched.h>
_DIRECTORY: Final = os.O_DIRECTORY | os.O_RDONLY

# <linux/capability.h>, in order; what a newer kernel adds is named by its number.
_CAPABILITIES: Final = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
    "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN "
    "SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE "
    "MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
)


# --------------------------------------------------------------------------------------------------------- the machine


def parse_meminfo(data: bytes) -> MemInfo | None:
    """/proc/meminfo; None: not whole up to SwapFree.

    MemTotal:       24684084 kB
    MemFree:        24329304 kB
    MemAvailable:   24304968 kB
    ...
    SwapTotal:             0 kB
    SwapFree:              0 kB

    2.5 us, of which the value is 0.6. In whatever order, though it has never changed: knowing it would save 0.4 us, a
    regex nothing; a split of all lines costs 2 more.
    """
    try:
        total = data.index(b"MemTotal:")
        free = data.index(b"\nMemFree:")
        available = data.index(b"\nMemAvailable:")
        swap_total = data.index(b"\nSwapTotal:")
        swap_free = data.index(b"\nSwapFree:")
        return MemInfo(
            int(data[total + 9 : data.index(b" kB\n", total)]) << 10,
            int(data[free + 9 : data.index(b" kB\n", free)]) << 10,
            int(data[available + 14 : data.index(b" kB\n", available)]) << 10,
            int(data[swap_total + 11 : data.index(b" kB\n", swap_total)]) << 10,
            int(data[swap_free + 10 : data.index(b" kB\n", swap_free)]) << 10,
        )
    except ValueError:
        return None


class MemInfoFile:
    """/proc/meminfo, kept open. 1.9 us a read here, several hundred on a machine with many CPUs or under emulation."""

    __slots__ = ("fd", "path")

    def __init__(self, proc: str) -> None:
        """OSError: no /proc."""
        self.path = f"{proc}/meminfo"
        self.fd = os.open(self.path, os.O_RDONLY)

    def read(self) -> MemInfo:
        """What it says now. OSError EBADMSG: it lacks one of the five lines (no kernel since 3.14 does)."""
        data = files.read_kept(self.fd, self.path)
        info = None if data is None else parse_meminfo(data)
        if info is None:
            raise OSError(errno.EBADMSG, "not a meminfo that can be used", self.path)
        return info

    def close(self) -> None:
        """Once."""
        os.close(self.fd)


def parse_oom_kill(data: bytes) -> int | None:
    """The line "oom_kill 3" of /proc/vmstat; None: not there, or not whole."""
    at = data.find(b"\noom_kill ")
    end = data.find(b"\n", at + 1)
    if at < 0 or end < 0:
        return None
    return files.number(data[at + 10 : end])


def parse_pgalloc(data: bytes) -> int:
    """The sum of the lines "pgalloc_normal 4711" of /proc/vmstat, one for each zone, in pages; 0: none is there."""
    pages, at = 0, data.find(b"\npgalloc_")
    while at >= 0:
        end = data.find(b"\n", at + 1)
        if end < 0:
            return 0  # not whole
        pages += files.number(data[data.rfind(b" ", at, end) + 1 : end]) or 0
        at = data.find(b"\npgalloc_", end)
    return pages


class VmStatFile:
    """/proc/vmstat, kept open, for a few counters."""

    __slots__ = ("fd", "path")

    def __init__(self, proc: str) -> None:
        """OSError: no /proc."""
        self.path = f"{proc}/vmstat"
        self.fd = os.open(self.path, os.O_RDONLY)

    def oom_kill(self) -> int:
        """How many processes the kernel's OOM killer has killed since boot; 0 before 4.13, which does not count them.

        Dear (27 us, all counters of all CPUs are summed up): for the ledger, not for every turn.
        """
        data = files.read_records(self.fd, self.path)
        return (None if data is None else parse_oom_kill(data)) or 0

    def allocated_bytes(self) -> int:
        """What the kernel has handed out since boot, to whomever and for whatever; 0 where it does not tell.

        pgalloc_dma, _dma32, _normal, _movable ...: counted for every page at the moment of its allocation
        (mm/page_alloc.c), exact when read. As dear as the one above.
        """
        data = files.read_records(self.fd, self.path)
        return 0 if data is None else parse_pgalloc(data) * mmap.PAGESIZE

    def refaults(self) -> Refaults | None:
        """What was read again since boot, as dear; None: this kernel does not count it."""
        data = files.read_records(self.fd, self.path)
        return None if data is None else parse_refaults(data)

    def close(self) -> None:
        """Once."""
        os.close(self.fd)


def boot_id(proc: str = "/proc") -> str:
    """36 characters that change with every boot."""
    with open(f"{proc}/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def capabilities(proc: str = "/proc") -> frozenset[str]:
    """The effective capabilities of this process: "CAP_KILL", ..."""
    with open(f"{proc}/self/status", "rb") as file:
        return parse_capabilities(file.read())


def in_user_namespace(proc: str = "/proc") -> bool:
    """Whether this process is in a user namespace of somebody's, in which its capabilities count and no further."""
    try:
        # Of the first one:          0          0 4294967295
        with open(f"{proc}/self/uid_map", "rb") as file:
            return file.read().split() != [b"0", b"0", b"4294967295"]
    except FileNotFoundError:
        return False  # CONFIG_USER_NS


def parse_capabilities(data: bytes) -> frozenset[str]:
    """The names in the line "CapEff:\\t000001ffffffffff" of a status; none if it is not there."""
    at = data.find(b"\nCapEff:\t")
    try:
        mask = int(data[at + 9 : at + 25], 16) if at >= 0 else 0
    except ValueError:
        mask = 0
    names = _CAPABILITIES.split()
    known = {f"CAP_{name}" for bit, name in enumerate(names) if mask >> bit & 1}
    return frozenset(known | {f"CAP_{bit}" for bit in range(len(names), 64) if mask >> bit & 1})


def uptime_ticks() -> int:
    """Now, as the start times of processes count: clock ticks since boot, suspension included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK") // 1_000_000_000


# ------------------------------------------------------------------------------------------------------- the processes


def parse_stat(data: bytes) -> tuple[int, bytes, str, int, int, int] | None:
    """(pid, comm, state, ppid, start_ticks, flags) of /proc/PID/stat; None: not whole up to the start time.

    30738 (cat) R 30734 30734 29756 0 -1 4194304 103 0 0 0 0 0 0 0 20 0 1 0 94336 3133440 416 ...

    1.1 us. comm is at most 15 bytes (a kernel thread's may be longer), so that it cannot hold 20 forged fields.
    """
    opening = data.find(b" (")
    closing = data.rfind(b") ")
    fields = data[closing + 2 :].split(b" ", 20)
    if opening < 0 or closing < opening or len(fields) < 21:
        return None
    try:
        return (
            int(data[:opening]),
            data[opening + 2 : closing],
            chr(fields[0][0]),
            int(fields[1]),
            int(fields[19]),
            int(fields[6]),
        )
    except (ValueError, IndexError):
        return None


class Status(NamedTuple):
    """What is used of /proc/PID/status. ``resident`` says whether it has memory lines at all."""

    uid: int  # the real one
    anon_bytes: int
    shmem_bytes: int
    swap_bytes: int
    threads: int
    resident: bool


def parse_status(data: bytes) -> Status | None:
    """/proc/PID/status; None: not whole up to Threads. Kernel threads and zombies have no memory lines: 0.

    Uid:	1000	1000	1000	1000
    RssAnon:	     112 kB
    RssFile:	    1664 kB
    RssShmem:	       0 kB
    VmSwap:	       0 kB
    Threads:	1
    """
    try:
        uid = data.index(b"\nUid:\t") + 6
        threads = data.index(b"\nThreads:\t") + 10
        anon = data.find(b"\nRssAnon:")
        owner = int(data[uid : data.index(b"\t", uid)])
        count = int(data[threads : data.index(b"\n", threads)])
        if anon < 0:
            return Status(owner, 0, 0, 0, count, False)
        shmem = data.index(b"\nRssShmem:") + 10
        swap = data.index(b"\nVmSwap:") + 8
        return Status(
            owner,
            int(data[anon + 9 : data.index(b"k", anon)]) << 10,
            int(data[shmem : data.index(b"k", shmem)]) << 10,
            int(data[swap : data.index(b"k", swap)]) << 10,
            count,
            True,
        )
    except ValueError:
        return None


def parse_cgroup(data: bytes) -> str:
    """The path in /proc/PID/cgroup; "" if there is none.

    0::/system.slice/ssh.service

    On a machine without cgroup v2 that line is missing or says "/": then the systemd hierarchy, then the memory one. A
    removed cgroup's path ends in " (deleted)", and so may the name that somebody gave a living one: it is left there,
    so that nobody's process is counted to his neighbour.
    """
    unified = _hierarchy(data, b"0::")
    if len(unified) > 1:
        return unified
    for line in data.split(b"\n"):
        if line.endswith(b":/"):
            continue
        _, _, rest = line.partition(b":")
        if rest.startswith(b"name=systemd:/"):
            return os.fsdecode(rest[13:])
    for line in data.split(b"\n"):
        _, _, rest = line.partition(b":")
        controllers, colon, path = rest.partition(b":")
        if colon and b"memory" in controllers.split(b",") and path.startswith(b"/"):
            return os.fsdecode(path)
    return unified


# Whoever knows better puts his own here: where cgroup v1 has the memory, the path that counts is another one.
cgroup_in: Callable[[bytes], str] = parse_cgroup


def cgroup_of(proc_fd: int, pid: int) -> str | None:
    """Where it lives now; None: gone, or hidden."""
    try:
        data = files.read_at(proc_fd, f"{pid}/cgroup", "/proc")
    except OSError:
        return None
    return None if data is None else cgroup_in(data)


def _hierarchy(data: bytes, start: bytes) -> str:
    at = 0 if data.startswith(start) else data.find(b"\n" + start) + 1
    if at == 0 and not data.startswith(start):
        return ""
    end = data.find(b"\n", at)
    return os.fsdecode(data[at + len(start) : end if end >= 0 else len(data)])


def open_proc(proc: str = "/proc") -> int:
    """The descriptor that the functions below want."""
    return os.open(proc, _DIRECTORY)


def pids(proc_fd: int) -> list[int]:
    """Every process (thread group), oldest number first. A snapshot only: some are gone already."""
    return [int(name) for name in os.listdir(proc_fd) if name.isdecimal()]


def start_ticks(proc_fd: int, pid: int) -> int | None:
    """When it started, in clock ticks since boot: with the pid, its identity. None: gone."""
    data = files.read_at(proc_fd, f"{pid}/stat", "/proc")
    stat = None if data is None else parse_stat(data)
    return None if stat is None else stat[4]


def parse_groups(data: bytes) -> tuple[int, int]:
    """(process group, session) of a whole /proc/PID/stat; 0 is one of another pid namespace."""
    fields = data[data.rfind(b") ") + 2 :].split(b" ", 4)
    return int(fields[2]), int(fields[3])


def read_process(
    proc_fd: int,
    pid: int,
    cgroup: str | None = None,
    scores: bool = False,
    *,
    groups: bool = False,
    exe: bool = False,
) -> ProcessFacts | None:
    """One process, 17 us; None: gone. ``cgroup``: where it was found, if that is known; else it is read.

    ``oom_score`` is 0 unless ``scores``; process group and session are 0 unless ``groups``, ``exe`` None unless asked.
    ``cgroup`` "" is one that the kernel cannot tell (a path over 4096 bytes).
    """
    path = f"/proc/{pid}"
    directory = files.open_at(proc_fd, str(pid), "/proc", os.O_PATH | os.O_DIRECTORY)
    if directory is None:
        return None
    try:
        data = files.read_at(directory, "stat", path)
        stat = None if data is None else parse_stat(data)
        if stat is None:
            return None
        data_of_stat = data or b""
        _, comm, state, ppid, started, flags = stat
        name = comm.decode("utf-8", "surrogateescape")
        if flags & PF_KTHREAD:
            return ProcessFacts(pid, started, ppid, name, cgroup or "/", 0, state, 0, 0, 0, kernel_thread=True)
        data = files.read_at(directory, "status", path)
        status = None if data is None else parse_status(data)
        if status is None:
            return None
        if not status.resident and status.threads > 1:
            status = _of_a_thread(directory, status, path)
        if cgroup is None:
            cgroup = _cgroup(directory, path)
            if cgroup is None:
                return None
        adj = files.number(files.read_at(directory, "oom_score_adj", path))
        score = files.number(files.read_at(directory, "oom_score", path)) if scores else 0
        if adj is None or score is None:
            return None
        return ProcessFacts(
            pid,
            started,
            ppid,
            name,
            cgroup,
            status.uid,
            state,
            status.anon_bytes,
            status.shmem_bytes,
            status.swap_bytes,
            score,
            adj,
            False,
            *(parse_groups(data_of_stat) if groups else (0, 0)),
            _exe(directory) if exe else None,
        )
    finally:
        os.close(directory)


def _exe(directory: int) -> str | None:
    """Where /proc/PID/exe leads; None: nowhere (a zombie), or it is not for us to see (CAP_SYS_PTRACE).

    A link takes no lock that a thrashing process can hold (fs/proc/base.c: task_lock, and exe_file by reference).
    """
    try:
        return os.readlink("exe", dir_fd=directory).removesuffix(" (deleted)")  # replaced by an upgrade since
    except OSError:
        return None


def _cgroup(directory: int, path: str) -> str | None:
    try:
        data = files.read_at(directory, "cgroup", path)
    except OSError as error:
        # fs/proc refuses paths over PATH_MAX. Whoever nests that deep must not end the scan of all others.
        if error.errno == errno.ENAMETOOLONG:
            return ""
        raise
    return None if data is None else cgroup_in(data)


def _of_a_thread(directory: int, leader: Status, path: str) -> Status:
    """The memory of a process whose leader has ended before its threads."""
    tasks = files.open_at(directory, "task", path, _DIRECTORY)
    if tasks is None:
        return leader
    try:
        for name in os.listdir(tasks):
            data = files.read_at(tasks, f"{name}/status", path)
            status = None if data is None else parse_status(data)
            if status is not None and status.resident:
                return status
    except OSError as error:
        if error.errno not in files.GONE:
            raise
    finally:
        os.close(tasks)
    return leader
