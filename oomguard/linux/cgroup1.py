"""The memory controller of cgroup v1: the same cgroup, told by other files. Loaded only where v1 has the memory.

Whoever opens a cgroup (``cgroup2.Cgroup.open``) gets this one where the memory is v1's, and need not know. Some facts
(mm/memcontrol-v1.c, mm/vmpressure.c, Documentation/admin-guide/cgroup-v1/memory.rst):

- The lines of memory.stat that begin with total_ count what is below as well; the others do not. usage_in_bytes does.
- usage_in_bytes holds kernel memory too, and memory.stat tells nothing of that: not which part of it is reclaimable.
- Nothing is told by poll on a file. Who wants to be woken gives an eventfd to cgroup.event_control; closing that ends
  it, and removal of the cgroup makes it readable once more.
- memory.usage_in_bytes has thresholds, told when they are crossed, either way; looked at every 128 pages of a CPU.
- memory.oom_control tells of an OOM when it comes, and counts kills of processes of this very cgroup, none below.
- With oom_kill_disable nobody is killed: whoever needs memory sleeps (mem_cgroup_oom_synchronize) until there is some,
  under_oom is 1 meanwhile, here and below, and nothing comes by itself any more. A SIGKILL wakes the sleeper.
- A limit that was never set is the largest number of whole pages. memory.memsw.* (memory and swap together) is there
  only with swap accounting.
- There is no memory.high, no memory.min and low, no memory.reclaim, no cgroup.kill, no cgroup.events. The freezer is
  another hierarchy; who is frozen in it does not even die of SIGKILL.
- Inner cgroups may hold processes of their own.
"""

import errno
import os
import select
from collections.abc import Iterable
from typing import Final

from oomguard.model.facts import MemoryEvents, MemoryStat, Pressure, Refaults

from . import cgroup2, events, files, procfs, psi
from .cgroup2 import Owners
from .refaults import parse_refaults

# "Unlimited" is LONG_MAX rounded down to a page, of up to 64 KiB (mm/page_counter.c: PAGE_COUNTER_MAX).
UNLIMITED: Final = (1 << 63) - (1 << 16)

# Files of v2 that have a counterpart. The swap limit has none of its own: it is the difference of two.
NAMES: Final = {
    "memory.current": "memory.usage_in_bytes",
    "memory.max": "memory.limit_in_bytes",
    "memory.swap.max": "memory.memsw.limit_in_bytes",
    "memory.events": "memory.oom_control",
}

_OOM: Final = ("memory.oom_control", "")

_PLACES: Final[dict[str, tuple[str | None, str | None]]] = {}  # mount point: (that of cgroup2, that of the freezer)

LACKS: Final = {
    "tripwire": "cgroup v1 has no memory.high: nobody is slowed at the watermark; a threshold of "
    "memory.usage_in_bytes wakes there instead, and deadlines are shorter",
    "brake": "cgroup v1 has no memory.high: the nominee is not slowed while a guard is armed",
    "set_high": "cgroup v1 has no memory.high: that action does nothing",
    "reclaim": "cgroup v1 has no memory.reclaim (memory.force_empty would take what is in use too): nothing is "
    "reclaimed before a kill",
    "kill": "cgroup v1 has no cgroup.kill: a cgroup is ended process by process, again and again until it is empty",
    "pressure": "only cgroup v1 is mounted: nobody tells the pressure of cgroups, and conditions on it never hold; "
    "level_above does",
    "protection": "cgroup v1 has no memory.min and memory.low: nobody is spared by them",
    "slab": "cgroup v1 does not tell which kernel memory is reclaimable: none of it counts as use",
}

EVIDENCE: Final = (
    "memory.usage_in_bytes",
    "memory.stat",
    "memory.limit_in_bytes",
    "memory.soft_limit_in_bytes",
    "memory.max_usage_in_bytes",
    "memory.failcnt",
    "memory.memsw.usage_in_bytes",
    "memory.memsw.limit_in_bytes",
    "memory.kmem.usage_in_bytes",
    "memory.oom_control",
    "memory.use_hierarchy",
    "memory.swappiness",
)


def enter(memory: str, unified: str | None, freezer: str | None) -> None:
    """Cgroups below the mount point ``memory`` are read as told here. ``unified``: where pressure is told, if it is."""
    _PLACES[memory] = unified, freezer
    cgroup2.KINDS[memory] = Cgroup
    procfs.cgroup_in = parse_cgroup


def leave() -> None:
    """For who has entered a tree of files, and comes to the next."""
    _PLACES.clear()
    cgroup2.KINDS.clear()
    procfs.cgroup_in = procfs.parse_cgroup


# ------------------------------------------------------------------------------------------------------------- parsers


def parse_stat(data: bytes, kernel_bytes: int = 0) -> MemoryStat | None:
    """memory.stat; None: not whole.

    cache 0
    ...
    total_cache 1848344576
    total_rss 2067308544
    ...
    total_shmem 430575616
    ...
    total_inactive_file 1067520000
    total_active_file 350232576

    What is cached and on neither list of files cannot be dropped: shared memory, and what is locked. Kernels that do
    not count total_shmem (before 4.18) still have the lists. ``kernel_bytes`` counts as reclaimable, all of it: slab
    that a healthy reader of many files fills his limit with is not told from the rest here, and who misreads cache as
    use kills the innocent.
    """
    data = b"\n" + data
    cache, rss = _line(data, b"\ntotal_cache "), _line(data, b"\ntotal_rss ")
    inactive, active = _line(data, b"\ntotal_inactive_file "), _line(data, b"\ntotal_active_file ")
    if cache is None or rss is None or inactive is None or active is None:
        return None
    kept = max(_line(data, b"\ntotal_shmem ") or 0, cache - inactive - active)
    return MemoryStat(rss, cache, min(kept, cache), kernel_bytes)


def parse_cgroup(data: bytes) -> str:
    """The path in /proc/PID/cgroup: where its memory is counted, or what systemd has made inside of that.

    9:name=systemd:/system.slice/ssh.service
    4:memory:/system.slice
    0::/system.slice/ssh.service

    A service without MemoryAccounting= is counted in its slice, and is a unit all the same.
    """
    home, memory = "", None
    for line in data.split(b"\n"):
        number, _, rest = line.partition(b":")
        controllers, _, path = rest.partition(b":")
        if not path.startswith(b"/"):
            continue
        if (number == b"0" and not controllers) or (controllers == b"name=systemd" and len(home) < 2):
            home = os.fsdecode(path) if len(path) > 1 else home
        elif b"memory" in controllers.split(b","):
            memory = os.fsdecode(path)
    inside = memory is None or home.startswith(memory.rstrip("/") + "/")
    return home if home and inside else memory or "/"


def parse_oom_control(data: bytes) -> tuple[bool, bool, int]:
    """(oom_kill_disable, under_oom, oom_kill); what is not told is not so. oom_kill is counted since Linux 4.13.

    oom_kill_disable 0
    under_oom 0
    oom_kill 0
    """
    data = b"\n" + data
    disabled, under = _line(data, b"\noom_kill_disable "), _line(data, b"\nunder_oom ")
    return disabled == 1, under == 1, _line(data, b"\noom_kill ") or 0


def parse_limit(data: bytes | None) -> int | None:
    """A limit in bytes; None: there is none."""
    value = files.number(data)
    return None if value is None or value >= UNLIMITED else value


def _line(data: bytes, name: bytes) -> int | None:
    at = data.find(name)
    end = data.find(b"\n", at + 1)
    return None if at < 0 or end < 0 else files.number(data[at + len(name) : end])


# --------------------------------------------------------------------------------------------------------- one cgroup


class Cgroup(cgroup2.Cgroup):
    """As ``cgroup2.Cgroup``, which see; what that has by a file of its own is put together here."""

    __slots__ = ("_alarm", "_counted", "_former", "_lines", "_ooms", "deaf")

    CURRENT = NAMES["memory.current"]
    LIMIT = NAMES["memory.max"]
    EVIDENCE = EVIDENCE
    SPEAKS = select.EPOLLIN
    LACKS = LACKS

    def __init__(self, root: str, path: str, directory: int) -> None:
        super().__init__(root, path, directory)
        self.deaf = ""
        self._alarm = -1  # the eventfd of OOM and thresholds
        self._lines: tuple[int, ...] = ()
        self._ooms = 0  # how often it was found under OOM: v1 does not count that
        self._counted: dict[int, int] = {}  # kills, by the inode of the cgroup that they happened in
        self._former = 0  # and in those that are gone by now

    def close(self) -> None:
        """Everything that is held; may be called twice."""
        if self._alarm >= 0:
            os.close(self._alarm)
            self._alarm = -1
        super().close()

    def where(self, name: str) -> str:
        """The absolute path of one of its files, by the name that v2 has for it."""
        if name == "memory.pressure":
            return f"{cgroup2.full_path(_PLACES[self.root][0] or self.root, self.path)}/{name}"
        return super().where(NAMES.get(name, name))

    # ---- reading

    def current(self) -> int | None:
        """memory.usage_in_bytes; the root has one here, but is the machine all the same: None."""
        return None if self.path == "/" else files.number(self._read(self.CURRENT))

    def swap_current(self) -> int | None:
        """What memory and swap together are more than memory alone; None: no swap accounting."""
        if self.path == "/":
            return None
        both, memory = files.number(self._read("memory.memsw.usage_in_bytes")), files.number(self._read(self.CURRENT))
        return None if both is None or memory is None else max(0, both - memory)

    def stat(self) -> MemoryStat | None:
        """memory.stat. While it is under OOM the kernel has just found nothing to reclaim: then all of it is use."""
        data = self._read("memory.stat")
        if not data:
            return None
        stat = parse_stat(data, files.number(self._read("memory.kmem.usage_in_bytes")) or 0)
        if stat is None:
            raise OSError(errno.EBADMSG, "not a memory.stat that can be used", self.where("memory.stat"))
        control = self._read("memory.oom_control")
        if control is not None and parse_oom_control(control)[1]:
            return MemoryStat(stat.anon_bytes, stat.file_bytes, stat.file_bytes, 0)
        return stat

    def refaults(self) -> Refaults | None:
        """Of itself and below."""
        data = self._read("memory.stat")
        return None if data is None else parse_refaults(data[data.find(b"total_") :].replace(b"\ntotal_", b"\n"))

    def events(self) -> MemoryEvents | None:
        """``max``: memory.failcnt. ``oom_kill``: of it and all below. ``oom``: these, and how often it was under one.

        Takes back what ``events_fd`` told.
        """
        self._drain()
        control = self._read("memory.oom_control")
        if control is None or self.path == "/":
            return None
        _, under, own = parse_oom_control(control)
        self._ooms += under
        failures, kills = files.number(self._read("memory.failcnt")) or 0, self._kills(own)
        return MemoryEvents(max=failures, oom=self._ooms + kills, oom_kill=kills)

    def _kills(self, own: int) -> int:
        """Its own and those below, as far as they were seen while their cgroups lived."""
        found = {self.inode: own}
        for path, inode, _ in cgroup2.walk(self.root, self.path):
            data = files.read_at(self._directory, f"{path[len(self.path) + 1 :]}/memory.oom_control", self.path)
            found[inode] = 0 if data is None else parse_oom_control(data)[2]
        self._former += sum(kills for inode, kills in self._counted.items() if inode not in found)
        self._counted = {inode: kills for inode, kills in found.items() if kills}
        return self._former + sum(found.values())

    def pressure(self) -> Pressure | None:
        """memory.pressure of the cgroup2 of the same name, where systemd has made one beside; None: nobody tells."""
        if _PLACES[self.root][0] is None:
            return None
        try:
            file = psi.PressureFile(self.where("memory.pressure"))
        except OSError as error:
            if error.errno in files.GONE or error.errno == errno.EOPNOTSUPP:
                return None
            raise
        try:
            return file.read() if self.alive() else None
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                return None
            raise
        finally:
            file.close()

    def populated(self) -> bool:
        """Whether a process lives in it or below."""
        if self.procs():
            return True
        below = cgroup2.walk(self.root, self.path) if self.alive() else ()
        return any(_procs(self.root, path) for path, _, _ in below)

    def limit(self, name: str = "memory.max") -> int | None:
        """As v2 would have it; of cgroup.freeze 1 or 0."""
        if name == "cgroup.freeze":
            return int(b"THAWED" not in (self._freezer("freezer.state") or b"THAWED"))
        if name == "memory.swap.max":
            both, memory = (parse_limit(self._once(NAMES[n])) for n in ("memory.swap.max", "memory.max"))
            return None if both is None else max(0, both - (memory or 0))
        return parse_limit(self._once(NAMES[name])) if name in NAMES else None

    def protection(self, name: str) -> int:
        """There is none: a soft limit spares nobody, it only says who is reclaimed from first."""
        return 0

    def oom_group(self) -> bool:
        """v1 knows no such wish."""
        return False

    def limits(self, owners: Owners | None = None) -> tuple[int | None, str | None, int | None]:
        """(effective limit, whose it is, the effective one of swap): see ``effective_limit`` here."""
        limit, whose = effective_limit(self.root, self.path, "memory.max", owners)
        stated, both = _hierarchical(self._read("memory.stat") or b"")
        plain = limit if owners is None else effective_limit(self.root, self.path)[0]
        if stated is not None and (plain is None or stated < plain):
            limit, whose = stated, "/"  # somebody's above the mount: in a container its own cgroup is the root
        swap, _ = effective_limit(self.root, self.path, "memory.swap.max", owners)
        if swap is None and both is not None and limit is not None:
            swap = max(0, both - limit)
        return limit, whose, swap

    # ---- being woken

    def events_fd(self) -> int:
        """An eventfd that is readable from an OOM, or a threshold that was crossed, until ``events`` is asked.

        OSError (ENOENT, with the path): gone, or there is none.
        """
        if self._alarm < 0:
            try:
                self._alarm = self._eventfd([_OOM, *((self.CURRENT, str(at)) for at in self._lines)])
            except OSError as error:
                if error.errno != errno.EOPNOTSUPP:  # PREEMPT_RT has no thresholds
                    raise
                self.deaf = f"{self.where('memory.current')}: {error.strerror}: no thresholds, deadlines alone"
                self._alarm = self._eventfd([_OOM])
        self._drain()
        return self._alarm

    def alarm_at(self, lines: Iterable[int]) -> bool:
        """Tell by ``events_fd`` too when use and cache together cross one of these. Whether that is another fd now."""
        lines = tuple(sorted(set(lines)))
        if lines == self._lines:
            return False
        self._lines = lines
        if self._alarm >= 0:
            os.close(self._alarm)
            self._alarm = -1
        return True

    def level_fd(self, level: str) -> int:
        """An eventfd (the caller's) that tells of memory.pressure_level: "medium", "low,local", "critical,hierarchy".

        Readable when pressure has come to that level or over it. OSError as ``events_fd``.
        """
        return self._eventfd([("memory.pressure_level", level)])

    def _eventfd(self, sources: Iterable[tuple[str, str]]) -> int:
        alarm = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        try:
            for name, argument in sources:
                fd = files.open_at(self._directory, name, cgroup2.full_path(self.root, self.path))
                if fd is None:
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.where(name))
                try:
                    self._put("cgroup.event_control", f"{alarm} {fd} {argument}".rstrip())
                finally:
                    os.close(fd)
        except OSError:
            os.close(alarm)
            raise
        return alarm

    def _drain(self) -> None:
        if self._alarm >= 0:
            events.drain(self._alarm)

    def _poll_fd(self, name: str) -> int:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.where(name))

    # ---- acting

    def prepare_kill(self) -> None:
        """FileNotFoundError: there is no cgroup.kill in v1."""
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.where("cgroup.kill"))

    def write(self, name: str, value: str, nonblock: bool = True) -> bool:
        """As v2 would have it. ENOENT: v1 has no such file. EBUSY: more is in use than that limit, and cannot go."""
        if name == "cgroup.freeze":
            return self._freeze(value == "1")
        if name == "memory.swap.max" and value != "max":
            memory = parse_limit(self._once(NAMES["memory.max"]))
            if memory is None:
                raise OSError(errno.EINVAL, "no limit of memory, so none of swap alone", self.where(name))
            value = str(memory + int(value))
        if name in NAMES:
            value = "-1" if value == "max" else value
        return super().write(NAMES.get(name, name), value, nonblock)

    def _put(self, name: str, value: str) -> None:
        """A write that must reach it."""
        if not super().write(name, value):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.where(name))

    # ---- the freezer, a hierarchy of its own

    def _freezer(self, name: str) -> bytes | None:
        mount = _PLACES[self.root][1]
        if mount is None:
            return None
        try:
            with open(f"{cgroup2.full_path(mount, self.path)}/{name}", "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def _freeze(self, on: bool) -> bool:
        """Where the freezer has a cgroup of that name in which the same processes live. False: gone."""
        if not self.alive():
            return False
        mount = _PLACES[self.root][1]
        place = f"{mount}{self.path}"
        if mount is None or not os.path.isdir(place):
            raise FileNotFoundError(errno.ENOENT, "the freezer has no cgroup of that name", place)
        if on and _everybody(mount, self.path) != _everybody(self.root, self.path):
            raise FileNotFoundError(errno.ENOENT, "in the freezer others live in the cgroup of that name", place)
        with open(f"{place}/freezer.state", "wb", buffering=0) as file:
            file.write(b"FROZEN" if on else b"THAWED")
        return True

    @classmethod
    def charges_up(cls, root: str) -> bool:
        """Whether what is below is counted above: before Linux 5.11 somebody may have switched that off."""
        try:
            with open(f"{root}/memory.use_hierarchy", "rb") as file:
                return file.read() != b"0\n"
        except OSError:
            return True

    @classmethod
    def pressure_root(cls, root: str) -> str | None:
        """Where memory.pressure of a path is looked for; None: nowhere."""
        return _PLACES[root][0]


def effective_limit(
    root: str, path: str, name: str = "memory.max", owners: Owners | None = None
) -> tuple[int | None, str | None]:
    """As ``cgroup2.effective_limit``, no further up than limits count (memory.use_hierarchy, before Linux 5.11)."""
    smallest: int | None = None
    whose: str | None = None
    while path not in ("", "/"):
        group = Cgroup.open(root, path)
        if group is not None:
            try:
                value = group.limit(name)
            finally:
                group.close()
            value = value if owners is None else owners(name, path, value)
            if value is not None and (smallest is None or value < smallest):
                smallest, whose = value, path
        path = path.rpartition("/")[0]
        if path and not Cgroup.charges_up(cgroup2.full_path(root, path)):
            break
    return smallest, whose


def _hierarchical(data: bytes) -> tuple[int | None, int | None]:
    """The limits in force, of whomever they are: (memory, memory and swap)."""
    data = b"\n" + data
    found = (_line(data, b"\nhierarchical_%s_limit " % what) for what in (b"memory", b"memsw"))
    memory, both = (None if value is None or value >= UNLIMITED else value for value in found)
    return memory, both


def _everybody(mount: str, path: str) -> set[int]:
    paths = [path, *(below for below, _, _ in cgroup2.walk(mount, path))]
    return {pid for one in paths for pid in _procs(mount, one)}


def _procs(mount: str, path: str) -> list[int]:
    try:
        with open(f"{cgroup2.full_path(mount, path)}/cgroup.procs", "rb") as file:
            return cgroup2.parse_pids(file.read())
    except OSError as error:
        if error.errno in files.GONE:
            return []
        raise
