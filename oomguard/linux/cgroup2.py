"""The unified cgroup hierarchy: its files, kept open by cgroup; its tree, walked. Decides nothing.

Some facts about it (kernel/cgroup/cgroup.c, mm/memcontrol.c, fs/kernfs):

- A directory descriptor is the cgroup itself. When that is removed, kept files answer ENODEV and new openat calls
  ENOENT; a cgroup made again under the same name is another inode, and no old descriptor leads to it.
- The root has no memory.current, memory.events, memory.max, cgroup.events, cgroup.kill and cgroup.freeze; it does have
  memory.stat. A cgroup whose parent does not enable the memory controller has no memory.* but memory.pressure.
- memory.current costs a read of one counter. memory.stat flushes the statistics of the whole subtree: milliseconds on
  large trees. memory.events does not flush.
- poll on memory.events and cgroup.events says EPOLLPRI (always with EPOLLERR) from a change until *this* descriptor
  reads it again. Removal itself wakes nobody who already waits for them (6.12, 6.18); who arms again or waits for
  memory.pressure is told, the former for ever. After each wake read, forget what is gone, and watch the parent.
- At most one such event per 10 ms and file (CGROUP_FILE_NOTIFY_MIN_INTV).
- Writing memory.high or memory.max reclaims in the writer's context and may take seconds. O_NONBLOCK leaves the
  reclaim to the cgroup itself (Linux kernel commit c8e6002bd611); older kernels ignore the flag.
- SIGKILL reaches frozen v2 tasks and those throttled over memory.high, not those in uninterruptible sleep.
"""

import errno
import os
import select
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final, Literal

from oomguard.model.facts import CgroupFacts, MemoryEvents, MemoryStat, Pressure, Refaults

from . import files, psi
from .refaults import parse_refaults

Owners = Callable[[str, str, int | None], int | None]

_DIRECTORY: Final = os.O_DIRECTORY | os.O_NOFOLLOW

Preference = Literal["", "prefer", "avoid", "omit"]
_PREFERENCES: Final[tuple[tuple[str, Preference], ...]] = (
    ("user.oomd_omit", "omit"),
    ("trusted.oomd_avoid", "avoid"),
    ("user.oomd_avoid", "avoid"),
    ("trusted.oomd_prefer", "prefer"),
    ("user.oomd_prefer", "prefer"),
)

# A tree deeper than PATH_MAX cannot be opened by path. Its owner must not be able to break the walk with it: what is
# below is charged to its ancestors, and seen and killed there.
_UNREACHABLE: Final = files.GONE | {errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP}

# Mount points where cgroup v1 has the memory, and how a cgroup is read there: ``linux.cgroup1`` enters itself, where it
# is loaded. Everywhere else it is as told here, and whoever opens a cgroup need not know.
KINDS: Final[dict[str, type["Cgroup"]]] = {}


def kind(root: str) -> type["Cgroup"]:
    """How the cgroups below that mount point are read."""
    return KINDS.get(root, Cgroup)


def asks(root: str, path: str) -> bool:
    """Whether anything is written on the cgroup that an owner could ask of us (``Cgroup.preference``)."""
    try:
        return bool(os.listxattr(full_path(root, path), follow_symlinks=False))
    except OSError:
        return False


def xattr(root: str, path: str, name: str) -> str | None:
    """An extended attribute of a cgroup as text, without the NUL or newline that some writers end it with.

    None: it has none of that name, is gone, or the name is not to be read (trusted.* without CAP_SYS_ADMIN).
    """
    try:
        value = os.getxattr(full_path(root, path), name, follow_symlinks=False)
    except OSError:
        return None
    return value.rstrip(b"\0\n").decode("utf-8", "surrogateescape")


def owner(root: str, path: str) -> int:
    """Whose this cgroup is (uid); root's where it is gone."""
    try:
        return os.stat(full_path(root, path), follow_symlinks=False).st_uid
    except OSError:
        return 0


def full_path(root: str, path: str) -> str:
    """``path`` ("/" or "/a/b") below the mount point ``root``."""
    return root if path == "/" else root + path


# ------------------------------------------------------------------------------------------------------------- parsers


def parse_stat(data: bytes) -> MemoryStat | None:
    """memory.stat; None: not whole.

    anon 1052672
    file 263192576
    ...
    shmem 0
    ...
    slab_reclaimable 1033296

    2.0 us; a split of all 60 lines into a dict takes 10. The order is no promise of the kernel's, and who misreads
    cache as use kills the innocent: so each line by its name.
    """
    data = b"\n" + data
    try:
        anon = data.index(b"\nanon ") + 6
        file = data.index(b"\nfile ") + 6
        shmem = data.index(b"\nshmem ") + 7
        slab = data.index(b"\nslab_reclaimable ") + 18
        return MemoryStat(
            int(data[anon : data.index(b"\n", anon)]),
            int(data[file : data.index(b"\n", file)]),
            int(data[shmem : data.index(b"\n", shmem)]),
            int(data[slab : data.index(b"\n", slab)]),
        )
    except ValueError:
        return None


def parse_events(data: bytes) -> MemoryEvents | None:
    """memory.events; None: not whole.

    low 0
    high 12
    max 0
    oom 0
    oom_kill 0
    oom_group_kill 0
    """
    words = data[: data.rfind(b"\n") + 1].split()
    values = dict(zip(words[::2], words[1::2], strict=False))
    try:
        return MemoryEvents(
            int(values[b"low"]),
            int(values[b"high"]),
            int(values[b"max"]),
            int(values[b"oom"]),
            int(values[b"oom_kill"]),
        )
    except (ValueError, KeyError):
        return None


def parse_populated(data: bytes) -> bool | None:
    """cgroup.events ("populated 1\\nfrozen 0\\n"); None: not there."""
    at = data.find(b"populated ")
    value = data[at + 10 : at + 12]
    if at < 0 or value not in (b"0\n", b"1\n"):
        return None
    return value == b"1\n"


def parse_pids(data: bytes) -> list[int]:
    """cgroup.procs, a pid a line. 0 is a process of another pid namespace, left out as is half a line at the end."""
    whole = data[: data.rfind(b"\n") + 1]
    try:
        pids = [int(line) for line in whole.split()]
    except ValueError:
        pids = [int(line) for line in whole.split() if line.isdigit()]
    return [pid for pid in pids if pid > 0]


def unit_of(path: str) -> str:
    """The systemd unit of a cgroup path, still escaped: the innermost service or scope, else slice or the like; or "".

    Below a user manager's service the names are the user's own: what may protect a process must not rest on them.
    """
    parts = path.split("/")
    for part in reversed(parts):
        if part.endswith((".service", ".scope")):
            return part
    for part in reversed(parts):
        if part.endswith((".slice", ".mount", ".socket", ".swap")):
            return part
    return ""


# --------------------------------------------------------------------------------------------------------- one cgroup


class Cgroup:
    """One cgroup, by a descriptor of its directory, with the files that were read kept open.

    Readers return None when it is gone, and when the file is not there (the root; no memory controller). All else is
    OSError with the path. ``path`` is relative to ``root``; "/" is the root of the hierarchy.
    """

    __slots__ = ("_directory", "_files", "_kill", "inode", "path", "root")

    # What the two versions call differently, for those who need the name.
    CURRENT = "memory.current"
    LIMIT = "memory.max"
    EVIDENCE: tuple[str, ...] = ()  # what an incident keeps of it; of v2 the scribe knows
    SPEAKS = select.EPOLLPRI  # how the epoll tells of ``events_fd``
    deaf = ""  # why the kernel does not tell of something that it should
    LACKS: Mapping[str, str] = {}  # of what a policy may ask for: what cannot be done here, and what is instead

    def __init__(self, root: str, path: str, directory: int) -> None:
        """``directory``: a descriptor (O_PATH is enough) that from now on belongs to this object."""
        self.root = root
        self.path = path
        self.inode = os.fstat(directory).st_ino
        self._directory = directory
        self._files: dict[str, int] = {}
        self._kill = -1

    @classmethod
    def open(cls, root: str, path: str) -> "Cgroup | None":
        """None: no such cgroup (any more)."""
        try:
            return kind(root)(root, path, os.open(full_path(root, path), os.O_PATH | _DIRECTORY))
        except OSError as error:
            if error.errno in _UNREACHABLE:
                return None
            raise

    def close(self) -> None:
        """Everything that is held; may be called twice."""
        for fd in self._files.values():
            os.close(fd)
        self._files.clear()
        if self._kill >= 0:
            os.close(self._kill)
            self._kill = -1
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1

    def fileno(self) -> int:
        """The directory (O_PATH)."""
        return self._directory

    def where(self, name: str) -> str:
        """The absolute path of one of its files, for people and for those who open it themselves."""
        return f"{full_path(self.root, self.path)}/{name}"

    # ---- reading

    def _read(self, name: str) -> bytes | None:
        fd = self._files.get(name)
        if fd is None:
            fd = self._open(name)
            if fd is None:
                return None
        try:
            data = os.pread(fd, files.USUAL_BYTES, 0)
            if len(data) < files.USUAL_BYTES:
                return data
        except OSError as error:
            if error.errno in files.GONE:
                return None
            error.filename = self.where(name)
            raise
        return files.read_kept(fd, name, 16 * files.USUAL_BYTES)

    def _open(self, name: str) -> int | None:
        fd = files.open_at(self._directory, name, full_path(self.root, self.path))
        if fd is not None:
            self._files[name] = fd
        return fd

    def _once(self, name: str) -> bytes | None:
        return files.read_at(self._directory, name, full_path(self.root, self.path))

    def current(self) -> int | None:
        """memory.current, bytes; cache included."""
        return files.number(self._read("memory.current"))

    def swap_current(self) -> int | None:
        """memory.swap.current, bytes."""
        return files.number(self._read("memory.swap.current"))

    def stat(self) -> MemoryStat | None:
        """memory.stat. Dear: flushes the subtree's statistics. OSError EBADMSG: it lacks one of the four lines."""
        data = self._read("memory.stat")
        if not data:
            return None
        stat = parse_stat(data)
        if stat is None:
            # Not None: without it cache counts as use, and a healthy reader of files would be a victim.
            raise OSError(errno.EBADMSG, "not a memory.stat that can be used", self.where("memory.stat"))
        return stat

    def refaults(self) -> Refaults | None:
        """Counted in memory.stat, by a read of its own: few policies ask. None: gone, or not counted there."""
        data = self._read("memory.stat")
        return None if data is None else parse_refaults(data)

    def events(self) -> MemoryEvents | None:
        """memory.events (hierarchical). Takes back the EPOLLPRI of ``events_fd``."""
        data = self._read("memory.events")
        return None if data is None else parse_events(data)

    def pressure(self) -> Pressure | None:
        """memory.pressure; None also where PSI is off."""
        try:
            data = self._read("memory.pressure")
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                return None
            raise
        return None if data is None else psi.parse(data)

    def populated(self) -> bool:
        """Whether a process lives in it or below. Takes back the EPOLLPRI of ``populated_fd``. Gone is False."""
        data = self._read("cgroup.events")
        if data is None:
            return self.path == "/"  # the root has no such file, and is never empty
        return parse_populated(data) is True

    def events_fd(self) -> int:
        """The kept memory.events, for EPOLLPRI. Read here, so that only what follows wakes.

        OSError (ENOENT, with the path): gone, or there is none.
        """
        return self._poll_fd("memory.events")

    def alarm_at(self, lines: Iterable[int]) -> bool:
        """v2 has no thresholds: its tripwire does that. Whether ``events_fd`` is another one now."""
        return False

    def level_fd(self, level: str) -> int:
        """memory.pressure_level is v1's alone: FileNotFoundError."""
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.where("memory.pressure_level"))

    def populated_fd(self) -> int:
        """The kept cgroup.events, for EPOLLPRI; as ``events_fd``."""
        return self._poll_fd("cgroup.events")

    def _poll_fd(self, name: str) -> int:
        if self._read(name) is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.where(name))
        return self._files[name]

    def limit(self, name: str = "memory.max") -> int | None:
        """A limit of its own, bytes; None: "max". Gone and absent limit nothing and are None too: ask ``alive``."""
        return files.number(self._once(name))

    def protection(self, name: str) -> int:
        """memory.min or memory.low of its own, bytes: "max" is more than there is, absent and gone are nothing."""
        data = self._once(name)
        return 1 << 62 if data == b"max\n" else files.number(data) or 0

    def high(self) -> int | None:
        """memory.high, bytes; as ``limit``."""
        return files.number(self._once("memory.high"))

    def oom_group(self) -> bool:
        """Whether its owner wants it killed as a whole or not at all (memory.oom.group)."""
        return self._once("memory.oom.group") == b"1\n"

    def procs(self) -> list[int]:
        """Its own processes, not those below; [] when gone. A threaded cgroup has none of its own: [] too."""
        path = full_path(self.root, self.path)
        fd = files.open_at(self._directory, "cgroup.procs", path)
        if fd is None:
            return []
        try:
            data = files.read_records(fd, f"{path}/cgroup.procs")
        except OSError as error:
            # Processes of a threaded cgroup are listed at its threaded domain, above.
            if error.errno == errno.EOPNOTSUPP:
                return []
            raise
        finally:
            os.close(fd)
        return [] if data is None else parse_pids(data)

    def facts(
        self,
        *,
        stat: bool,
        swap: bool = True,
        events: bool = False,
        pressure: bool = False,
        refaults: bool = False,
        known: CgroupFacts | None = None,
    ) -> CgroupFacts | None:
        """What was asked for, and nothing else; None: gone, or without memory files (the root).

        Limits, memory.high, populated and oom_group are carried over from ``known`` (``settled`` makes it), or left at
        their defaults.
        """
        current = self.current()
        if current is None:
            return None
        seen_stat = self.stat() if stat else None
        if stat and seen_stat is None:
            return None  # removed between the two reads: memory.current alone would count its cache as use
        seen_swap = (self.swap_current() or 0) if swap else 0
        seen_events = self.events() if events else None
        seen_pressure = self.pressure() if pressure else None
        seen_refaults = self.refaults() if refaults else None
        if known is None:
            return CgroupFacts(
                self.path,
                self.inode,
                current,
                seen_stat,
                seen_swap,
                events=seen_events,
                pressure=seen_pressure,
                refaults=seen_refaults,
            )
        return CgroupFacts(
            self.path,
            self.inode,
            current,
            seen_stat,
            seen_swap,
            known.limit_bytes,
            known.limit_path,
            known.swap_limit_bytes,
            known.high_bytes,
            seen_events,
            seen_pressure,
            known.populated,
            known.oom_group,
            seen_refaults,
        )

    def settled(self, owners: Owners | None = None) -> CgroupFacts | None:
        """What seldom changes: effective limits, memory.high, populated, oom_group. Opens a few files a level."""
        current = self.current()
        if current is None:
            return None
        limit, whose, swap_limit = self.limits(owners)
        return CgroupFacts(
            self.path,
            self.inode,
            current,
            limit_bytes=limit,
            limit_path=whose,
            swap_limit_bytes=swap_limit,
            high_bytes=self.high(),
            populated=self.populated(),
            oom_group=self.oom_group(),
        )

    def limits(self, owners: Owners | None = None) -> tuple[int | None, str | None, int | None]:
        """(effective memory.max, whose it is, effective memory.swap.max)."""
        limit, whose = effective_limit(self.root, self.path, "memory.max", owners)
        return limit, whose, effective_limit(self.root, self.path, "memory.swap.max", owners)[0]

    def weighed(
        self, guard_uid: int, *, stat: bool, pressure: bool = False, refaults: bool = False
    ) -> CgroupFacts | None:
        """What a candidate is judged by: its use, memory.high, what protects it, what its owner wants.

        ``guard_uid``: whose the cgroup of the guard is, see ``preference``.
        """
        facts = self.facts(stat=stat, pressure=pressure, refaults=refaults)
        if facts is None:
            return None
        return replace(
            facts,
            high_bytes=self.high(),
            oom_group=self.oom_group(),
            min_bytes=self.protection("memory.min"),
            low_bytes=self.protection("memory.low"),
            preference=self.preference(guard_uid),
        )

    def preference(self, guard_uid: int) -> Preference:
        """What its owner has asked of userspace OOM killers by xattr, as systemd (ManagedOOMPreference=) and oomd do.

        Whoever owns a cgroup may set user.* on it, and a user owns all below his manager's. So, as systemd-oomd does,
        his word counts where the guard's cgroup is his as well (``guard_uid``), and root's counts everywhere. Only root
        can set trusted.*, and nobody reads it without CAP_SYS_ADMIN.
        """
        path = full_path(self.root, self.path)
        try:
            names = os.listxattr(path, follow_symlinks=False)
            mine = bool(names) and os.stat(self._directory).st_uid in (0, guard_uid)
            for name, meant in _PREFERENCES:
                heard = name in names and (mine or name.startswith("trusted."))
                if heard and os.getxattr(path, name, follow_symlinks=False).strip(b"\0\n") == b"1":
                    return meant
        except OSError:
            pass  # gone, or a hierarchy without xattrs (before Linux 5.7): nothing was asked
        return ""

    # ---- its place in the tree

    @classmethod
    def charges_up(cls, root: str) -> bool:
        """Whether what a cgroup holds is counted in those above it."""
        return True

    @classmethod
    def pressure_root(cls, root: str) -> str | None:
        """Below which directory the memory.pressure of a path is; None: nowhere."""
        return root

    def alive(self) -> bool:
        """Whether the cgroup that we hold still exists, wherever its path leads now."""
        try:
            os.stat("cgroup.procs", dir_fd=self._directory)
        except OSError as error:
            if error.errno in files.GONE:
                return False
            error.filename = self.where("cgroup.procs")
            raise
        return True

    def same(self) -> bool:
        """Whether its path still leads to it."""
        try:
            return os.stat(full_path(self.root, self.path), follow_symlinks=False).st_ino == self.inode
        except OSError as error:
            if error.errno in _UNREACHABLE:
                return False
            raise

    def children(self) -> list[str]:
        """Names of the cgroups directly below; [] when gone."""
        fd = files.open_at(self._directory, ".", full_path(self.root, self.path), os.O_RDONLY | _DIRECTORY)
        if fd is None:
            return []
        try:
            return _directories(fd)
        finally:
            os.close(fd)

    # ---- acting

    def prepare_kill(self) -> None:
        """Open cgroup.kill, so that ``kill`` is one write. ENOENT: gone, the root, or a kernel before 5.14."""
        if self._kill < 0:
            self._kill = self._open_for_writing("cgroup.kill", os.O_WRONLY)

    def kill(self) -> bool:
        """SIGKILL everything in it and below, forks in flight included. False: gone, nobody is left to kill.

        Opens the file if ``prepare_kill`` has not. EOPNOTSUPP: a threaded cgroup.
        """
        if self._kill < 0:
            try:
                self.prepare_kill()
            except FileNotFoundError:
                if self.alive():
                    raise
                return False
        return self._write_fd(self._kill, "cgroup.kill", b"1")

    def freeze(self, on: bool) -> bool:
        """cgroup.freeze. False: gone. It takes effect a little later: cgroup.events says "frozen 1"."""
        return self.write("cgroup.freeze", "1" if on else "0")

    def reclaim(self, size_bytes: int) -> bool:
        """memory.reclaim (since Linux 5.19), for as long as that takes. False: there was less than that, or it is gone.

        ENOENT: no such file. A signal ends it early: False.
        """
        try:
            return self.write("memory.reclaim", str(size_bytes), nonblock=False)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EINTR):
                return False
            raise

    def write(self, name: str, value: str, nonblock: bool = True) -> bool:
        """Write one of its files. False: gone. ENOENT: the cgroup lives, but has no such file.

        Without ``nonblock``, and on kernels that ignore it, memory.high and memory.max take as long as reclaim does.
        """
        flags = os.O_WRONLY | (os.O_NONBLOCK if nonblock else 0)
        try:
            fd = self._open_for_writing(name, flags)
        except FileNotFoundError:
            if self.alive():
                raise
            return False
        try:
            return self._write_fd(fd, name, value.encode())
        finally:
            os.close(fd)

    def _open_for_writing(self, name: str, flags: int) -> int:
        try:
            return os.open(name, flags, dir_fd=self._directory)
        except OSError as error:
            error.filename = self.where(name)
            raise

    def _write_fd(self, fd: int, name: str, value: bytes) -> bool:
        try:
            os.write(fd, value)
        except OSError as error:
            if error.errno == errno.ENODEV:
                return False
            error.filename = self.where(name)
            raise
        return True


# ----------------------------------------------------------------------------------------------------------- the tree


def effective_limit(
    root: str, path: str, name: str = "memory.max", owners: Owners | None = None
) -> tuple[int | None, str | None]:
    """(bytes, path of the cgroup whose limit that is): the smallest ``name`` on the way up, the innermost of equals.

    ``owners`` tells (name, path, what was read) what the owner of a cgroup has set, where we have set something else.

    (None, None): no limit at all. A level that is gone or has no such file limits nothing.
    """
    smallest: int | None = None
    whose: str | None = None
    while path not in ("", "/"):
        directory = full_path(root, path)
        try:
            fd = os.open(f"{directory}/{name}", os.O_RDONLY)
        except OSError as error:
            if error.errno not in _UNREACHABLE:
                raise
        else:
            try:
                value = files.number(files.read_kept(fd, f"{directory}/{name}"))
            finally:
                os.close(fd)
            if owners is not None:
                value = owners(name, path, value)
            if value is not None and (smallest is None or value < smallest):
                smallest, whose = value, path
        path = path.rpartition("/")[0]
    return smallest, whose


def walk(root: str, path: str = "/", prune_bytes: int = 0) -> Iterator[tuple[str, int, int]]:
    """(path, inode, memory.current in bytes) of every cgroup below ``path``, breadth first.

    What has less than ``prune_bytes`` is still told, but not descended into: the hierarchy charges upwards, so nothing
    below can have more. Where the memory controller is off, 0 bytes. A cgroup that vanishes on the way takes only
    itself and what was below it out of the walk (systemd-oomd lost all siblings: systemd issue 40705). Three
    descriptors at most; about 9 us a cgroup.
    """
    try:
        top = os.open(full_path(root, path), os.O_PATH | _DIRECTORY)
    except OSError as error:
        if error.errno in _UNREACHABLE:
            return
        raise
    prefix = "" if path == "/" else path
    as_kind = kind(root)
    prune_bytes = prune_bytes if prune_bytes and as_kind.charges_up(root) else 0
    try:
        waiting = deque([""])
        while waiting:
            parent = waiting.popleft()
            where = f"{full_path(root, path)}/{parent}"
            for name, inode, current, leaf in _children(top, parent, where, as_kind.CURRENT):
                below = f"{parent}/{name}" if parent else name
                if not leaf and current >= prune_bytes:
                    waiting.append(below)
                yield f"{prefix}/{below}", inode, current
    finally:
        os.close(top)


def _children(top: int, parent: str, path: str, size: str) -> list[tuple[str, int, int, bool]]:
    """(name, inode, bytes by the file ``size``, whether it has no children) of those directly below ``parent``."""
    found: list[tuple[str, int, int, bool]] = []
    try:
        here = os.open(parent or ".", os.O_RDONLY | _DIRECTORY, dir_fd=top)
    except OSError as error:
        if error.errno in _UNREACHABLE:
            return found
        error.filename = path
        raise
    try:
        for name in _directories(here):
            try:
                status = os.stat(name, dir_fd=here, follow_symlinks=False)
                current = files.number(files.read_at(here, f"{name}/{size}", path, 64))
            except OSError as error:
                if error.errno in _UNREACHABLE:
                    continue
                raise
            # A directory has a link for each directory in it, its own and its name: kernfs keeps that count (as do
            # ext4 and tmpfs; btrfs and overlayfs say 1), and it spares us listing 60 files a leaf.
            found.append((name, status.st_ino, current or 0, status.st_nlink == 2))
    finally:
        os.close(here)
    return found


def _directories(fd: int) -> list[str]:
    try:
        with os.scandir(fd) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        if error.errno in files.GONE:
            return []
        raise
