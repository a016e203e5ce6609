"""What ``oomguard doctor`` has found out about a machine. Values only: ``probe`` makes them, the rules judge them.

``Trial``: what became of something that was really tried: "" it works, a text why it does not, None it was not tried.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Trial = str | None
Flavour = Literal["v2", "hybrid", "v1", "none"]


@dataclass(frozen=True, slots=True)
class Kernel:
    """``files``: of a cgroup; ``calls``: system calls and what else a kill or a quiet minute takes."""

    pressure: Trial = None  # /proc/pressure/memory
    trigger: Trial = None  # a window of 1 s
    slow_trigger: Trial = None  # a window of 2 s, which needs no capability
    flavour: Flavour = "v2"
    mount: str | None = None  # where the memory controller is, v2 or v1
    files: Mapping[str, Trial] = field(default_factory=dict)
    calls: Mapping[str, Trial] = field(default_factory=dict)
    grub: bool = False  # there is a /etc/default/grub to write words for the kernel into


@dataclass(frozen=True, slots=True)
class Rights:
    """Of the running daemon, or where none runs of one that would be started from here.

    ``limits``: hard limits by their names in getrlimit(2), None: unlimited. ``pids``: (in use, most) of its cgroup.
    """

    whose: str = "this shell"
    running: bool = False
    root: bool = True
    capabilities: frozenset[str] | None = None
    limits: Mapping[str, int | None] = field(default_factory=dict)
    pids: tuple[int, int] | None = None
    seccomp: int | None = None  # as in /proc/PID/status: 0 none, 1 strict, 2 a filter


@dataclass(frozen=True, slots=True)
class Memory:
    """The machine's memory and what its owner has set; sizes in bytes. None: cannot be told here."""

    total_bytes: int = 0
    swap_bytes: int = 0
    zram: tuple[str, ...] = ()  # devices in use as swap
    zswap: bool | None = None
    swappiness: int | None = None
    overcommit: int | None = None  # vm.overcommit_memory
    overcommit_ratio: int | None = None  # percent
    commit_limit_bytes: int | None = None
    panic_on_oom: int | None = None
    oom_kill_allocating_task: int | None = None
    min_free_bytes: int | None = None
    watermark_scale_factor: int | None = None  # ten-thousandths of the memory
    compact_unevictable: int | None = None  # vm.compact_unevictable_allowed
    nodes: int = 1  # of NUMA, those that have memory
    arc_bytes: int = 0  # what ZFS's cache would give back
    lru_gen: int | None = None  # the bits of MGLRU that are on
    min_ttl_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Other:
    """Another out-of-memory daemon: whether it runs, and whether it is started at the next boot."""

    name: str
    unit: str
    pid: int | None = None
    enabled: bool = False


@dataclass(frozen=True, slots=True)
class Managed:
    """A cgroup in which systemd-oomd may kill (ManagedOOM*=kill)."""

    cgroup: str
    by: str  # "swap", "memory pressure"


@dataclass(frozen=True, slots=True)
class Guarded:
    """One guard of the policy and the cgroups that it means now. ``laid``: tripwires found in force, of ``limited``."""

    name: str
    cgroup: str
    mode: str
    targets: tuple[str, ...] = ()
    tripwire: bool = False
    limited: int = 0
    laid: int | None = None


@dataclass(frozen=True, slots=True)
class Unit:
    """oomguard.service as systemd has it, in systemd's words."""

    load: str = "not-found"
    active: str = "inactive"
    enabled: str = ""
    needs_reload: bool = False
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class Doubt:
    """A fault or a doubt of the policy files: what, and where it stands."""

    where: str
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Ours:
    """Our own installation."""

    systemd: bool = True  # is it pid 1
    unit: Unit | None = None
    pid: int | None = None  # of a daemon that runs
    version: str = ""  # of that daemon
    installed: str = ""
    degraded: tuple[tuple[str, str], ...] = ()
    files: tuple[str, ...] = ()
    faults: tuple[Doubt, ...] = ()
    doubts: tuple[Doubt, ...] = ()
    changed: bool = False  # the files are not what the policy in force was made from
    guards: tuple[Guarded, ...] = ()
    state_dir: str = "/var/lib/oomguard"
    writable: Trial = None  # the state directory
    free_bytes: int | None = None
    incidents_max_bytes: int = 0
    group: bool | None = None
    config: str = ""  # the policy file, as a shell takes it; empty: the usual one


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything. ``unseen``: what could not be looked at, and why."""

    kernel: Kernel = Kernel()
    rights: Rights = Rights()
    memory: Memory = Memory()
    others: tuple[Other, ...] = ()
    managed: tuple[Managed, ...] = ()
    ours: Ours = Ours()
    unseen: tuple[str, ...] = ()
