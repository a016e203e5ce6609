"""What the kernel said, as values. A fact is never corrected, only superseded by a later one.

Units are in the names: ``_bytes``, ``_ns`` (CLOCK_MONOTONIC unless said otherwise), ``_us``, ``_ticks``. ``None`` is
"absent" or "not read this turn"; it is never an error: what is broken is an OSError at the reader.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple


@dataclass(frozen=True, slots=True)
class Stall:
    """One line of a pressure file. Averages in percent of wall time, total in microseconds since boot."""

    avg10: float
    avg60: float
    avg300: float
    total_us: int


@dataclass(frozen=True, slots=True)
class Pressure:
    """/proc/pressure/memory or a cgroup's memory.pressure."""

    some: Stall
    full: Stall


@dataclass(frozen=True, slots=True)
class MemInfo:
    """The part of /proc/meminfo that decisions need."""

    total_bytes: int
    free_bytes: int
    available_bytes: int
    swap_total_bytes: int
    swap_free_bytes: int

    @property
    def used_bytes(self) -> int:
        """What cannot be had back without killing or swapping: MemTotal less MemAvailable."""
        return self.total_bytes - self.available_bytes


@dataclass(frozen=True, slots=True)
class MemoryEvents:
    """memory.events: how often since the cgroup was made (hierarchical)."""

    low: int = 0
    high: int = 0
    max: int = 0
    oom: int = 0
    oom_kill: int = 0


@dataclass(frozen=True, slots=True)
class MemoryStat:
    """The part of memory.stat that tells use from cache."""

    anon_bytes: int
    file_bytes: int  # page cache, shmem included
    shmem_bytes: int
    slab_reclaimable_bytes: int

    @property
    def reclaimable_bytes(self) -> int:
        """Cache that the kernel can drop. Shared memory and tmpfs are counted as file but cannot be dropped."""
        return max(0, self.file_bytes - self.shmem_bytes) + self.slab_reclaimable_bytes


@dataclass(frozen=True, slots=True)
class Refaults:
    """What had been taken away and was read again, since the boot or since the cgroup was made."""

    anon_bytes: int
    file_bytes: int


@dataclass(frozen=True, slots=True)
class Compressed:
    """Swap that is kept compressed in memory."""

    memory_bytes: int  # what zram and zswap take of it
    stored_bytes: int = 0  # in zram, before compression
    disk_bytes: int = 0  # disksize of all zram devices


@dataclass(frozen=True, slots=True)
class CgroupFacts:
    """One cgroup, as far as this turn had to look. ``path`` is relative to the cgroup root and starts with "/"."""

    path: str
    inode: int
    current_bytes: int
    stat: MemoryStat | None = None  # read only when current_bytes alone could not settle it
    swap_bytes: int = 0
    limit_bytes: int | None = None  # effective: the smallest memory.max on the way up; None: the machine
    limit_path: str | None = None  # whose limit that is
    swap_limit_bytes: int | None = None  # effective memory.swap.max; None: the machine's swap
    high_bytes: int | None = None  # memory.high as found, None: "max"
    events: MemoryEvents | None = None
    pressure: Pressure | None = None
    populated: bool = True
    oom_group: bool = False
    refaults: Refaults | None = None  # read only where a policy asks
    min_bytes: int = 0  # memory.min and memory.low of its own, of those that a survey weighs
    low_bytes: int = 0
    preference: Literal["", "prefer", "avoid", "omit"] = ""  # of its owner, by xattr, if he may say so here

    @property
    def unreclaimable_bytes(self) -> int:
        """What cannot be reclaimed; without memory.stat its upper bound, memory.current."""
        if self.stat is None:
            return self.current_bytes
        return max(0, self.current_bytes - self.stat.reclaimable_bytes)


@dataclass(frozen=True, slots=True)
class ProcessFacts:
    """One process (thread group). (pid, start_ticks) is its identity; a pid alone is not.

    ``comm`` is at most 15 bytes of anything; bytes that are not UTF-8 arrive as surrogate escapes.
    """

    pid: int
    start_ticks: int  # field 22 of stat, clock ticks since boot
    ppid: int
    comm: str
    cgroup: str
    uid: int
    state: str
    anon_bytes: int
    shmem_bytes: int
    swap_bytes: int
    oom_score: int = 0
    oom_score_adj: int = 0
    kernel_thread: bool = False
    pgid: int = 0  # its process group and its session, by the pid of their leaders; 0: of another pid namespace
    sid: int = 0
    exe: str | None = None  # what /proc/PID/exe leads to; None: not asked for, or not to be had

    @property
    def held_bytes(self) -> int:
        """What its death gives back at most: anonymous and shared memory, and swap."""
        return self.anon_bytes + self.shmem_bytes + self.swap_bytes


Source = Literal["start", "deadline", "pressure", "events", "pidfd", "signal", "worker", "tree", "control", "glance"]


@dataclass(frozen=True, slots=True)
class Wake:
    """Why the loop is awake. ``path`` names the cgroup whose file spoke, if one did."""

    source: Source
    path: str = ""


class TargetId(NamedTuple):
    """One guard on one cgroup. A guard with a glob has as many targets as cgroups match.

    A tuple, for it is a key: with a thousand targets, hashing those of a dataclass is most of a turn.
    """

    guard: str
    cgroup: str


@dataclass(frozen=True, slots=True)
class TargetSeen:
    """A cgroup has come under a guard, or was there at the start."""

    target: TargetId
    facts: CgroupFacts | None  # None: the machine itself, on a kernel or mount without memory files at the root


@dataclass(frozen=True, slots=True)
class Stalled:
    """The kernel's PSI trigger of a stall_above condition fired; ``condition`` is its number in the plan."""

    target: TargetId
    condition: int


@dataclass(frozen=True, slots=True)
class Survey:
    """A close look below a target: its cgroups, and the processes of the heaviest of them.

    ``depth`` "heaviest": processes only of the largest units; "whole": of all. ``took_ns`` bounds how often it may be
    repeated.
    """

    target: TargetId
    depth: Literal["heaviest", "whole"]
    cgroups: tuple[CgroupFacts, ...]
    processes: tuple[ProcessFacts, ...]
    took_ns: int
    now_ticks: int = 0  # when, in clock ticks since boot: what the start of a process is counted in; 0: not known


@dataclass(frozen=True, slots=True)
class VictimGone:
    """Everything that was meant by this victim's token has ended. ``at_ns`` is when we were told."""

    token: int
    at_ns: int


@dataclass(frozen=True, slots=True)
class Result:
    """What became of an action, told when it is known: ``errno`` 0 is success.

    ``token`` is the action's; ``what`` its class name; ``value`` what the hand measured (bytes reaped, for "Reap").
    ``who``, for people: those who were told, for "Tell".
    "Deadman" is no action: the dead man has ended the nominee of that token, at ``value`` (CLOCK_MONOTONIC, ns), after
    ``took_ns`` without a turn of ours.
    """

    token: int
    what: str
    errno: int
    took_ns: int = 0
    value: int = 0
    who: str = ""


@dataclass(frozen=True, slots=True)
class KernelKill:
    """The kernel's OOM killer struck: from memory.events of a target, or vmstat's oom_kill for the machine."""

    cgroup: str
    count: int
    pid: int = 0
    comm: str = ""


@dataclass(frozen=True, slots=True)
class Share:
    """What a cgroup has, for the record of the minutes before: nobody is judged by it."""

    cgroup: str
    current_bytes: int


@dataclass(frozen=True, slots=True)
class Observation:
    """All that the judge may know in this turn. ``at_ns`` (CLOCK_MONOTONIC, read once) is the only clock.

    ``shares`` are not for the judge, and may be left out of a record.
    """

    at_ns: int
    wakes: tuple[Wake, ...] = ()
    host: MemInfo | None = None
    pressure: Pressure | None = None
    appeared: tuple[TargetSeen, ...] = ()
    vanished: tuple[TargetId, ...] = ()
    cgroups: tuple[CgroupFacts, ...] = ()
    stalls: tuple[Stalled, ...] = ()
    surveys: tuple[Survey, ...] = ()
    gone: tuple[VictimGone, ...] = ()
    results: tuple[Result, ...] = ()
    kernel_kills: tuple[KernelKill, ...] = ()
    shares: tuple[Share, ...] = ()
    refaults: Refaults | None = None  # of the machine; these two are read only where a policy asks
    compressed: Compressed | None = None
