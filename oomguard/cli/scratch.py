"""A cgroup of our own, to try things in: made, limited, emptied and removed, on v2 and on v1.

Its name says who made it, so that whoever comes later finds what a killed one has left behind, and touches nothing
else. It stands directly below the root of the hierarchy, or where a guard is that is to be tried.
"""

import contextlib
import errno
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ..linux import procfs
from .hierarchies import Hierarchies

HOME = "/oomguard-drill"  # what the shipped drill policy guards
ALONE = "/oomguard-drill-alone"  # and where a daemon of the drill's own does: what that policy does not cover
COMM = "oomguard-drill"  # the name of the only processes that ever live in there
_MARK = re.compile(r"oomguard-drill-([0-9]{1,10})-([0-9]{1,20})")
PATIENCE_S = 20.0  # for the dying to leave it, on a starved machine


def name() -> str:
    """Of a cgroup that this process makes: its pid and when it started."""
    return f"oomguard-drill-{os.getpid()}-{_start_ticks(os.getpid())}"


def _start_ticks(pid: int) -> int | None:
    proc = procfs.open_proc()
    try:
        return procfs.start_ticks(proc, pid)
    finally:
        os.close(proc)


@dataclass(slots=True)
class Scratch:
    """One such cgroup. ``path`` from the root of the hierarchy, as a policy writes it. A context manager."""

    mounts: Hierarchies
    path: str
    made: list[str] = field(default_factory=list)  # directories, outermost first

    @property
    def directory(self) -> str:
        """Where it is."""
        return f"{self.mounts.memory}{self.path}"

    def make(self) -> None:
        """Every level that is missing, with the memory controller. OSError, with the path.

        What is made here is removed by ``remove``, however far it came.
        """
        at = self.mounts.memory or ""
        for part in self.path.strip("/").split("/"):
            above, at = at, f"{at}/{part}"
            if os.path.isdir(at):
                continue
            if self.mounts.version == 2:
                self._enable(above)
            self.made.append(at)  # before it is there: whatever interrupts us in between, it is removed
            os.mkdir(at)
        probe = self.file("memory.max", "memory.limit_in_bytes")
        if not os.path.exists(probe):
            why = f"no memory controller for what is below: echo +memory > {os.path.dirname(at)}/cgroup.subtree_control"
            raise OSError(errno.ENOENT, why, probe)

    def _enable(self, above: str) -> None:
        """The memory controller for what is below; only in directories that are ours. Elsewhere it is there or not."""
        if above in self.made or _is_home(above):
            _write(f"{above}/cgroup.subtree_control", "+memory")

    def file(self, v2: str, v1: str) -> str:
        """The path of one of its files, as this version names it."""
        return f"{self.directory}/{v2 if self.mounts.version == 2 else v1}"

    def limit(self, size_bytes: int) -> None:
        """No more memory than this, and no swap."""
        _write(self.file("memory.max", "memory.limit_in_bytes"), str(size_bytes))
        # Without swap accounting there is no such file; then a leak may be swapped out, and takes a little longer.
        with contextlib.suppress(OSError):
            swap = self.file("memory.swap.max", "memory.memsw.limit_in_bytes")
            _write(swap, "0" if self.mounts.version == 2 else str(size_bytes))

    def admit(self, pid: int) -> None:
        """This process lives there from now on."""
        _write(f"{self.directory}/cgroup.procs", str(pid))

    def used(self) -> int | None:
        """memory.current less what the kernel can drop, as a guard counts it; None: gone."""
        try:
            current = int(_read(self.file("memory.current", "memory.usage_in_bytes")))
            stat = dict(line.split() for line in _read(f"{self.directory}/memory.stat").splitlines())
        except (OSError, ValueError):
            return None
        cache = int(stat.get("file", stat.get("cache", 0))) - int(stat.get("shmem", 0))
        return max(0, current - max(0, cache) - int(stat.get("slab_reclaimable", 0)))

    def oom_kills(self) -> int | None:
        """How often the kernel has killed in it; None: it does not count that here (v1 before 4.13), or it is gone."""
        try:
            text = _read(self.file("memory.events", "memory.oom_control"))
        except OSError:
            return None
        counts = dict(line.split() for line in text.splitlines())
        return int(counts["oom_kill"]) if "oom_kill" in counts else None

    @property
    def brakes(self) -> bool:
        """Whether it has a memory.high, under which a tripwire can be laid: v1 has none."""
        return self.mounts.version == 2

    def braked(self) -> bool:
        """Whether somebody has set that."""
        try:
            return _read(f"{self.directory}/memory.high").strip() != "max"
        except OSError:
            return False

    def remove(self) -> list[str]:
        """End what lives in it and remove it, the levels above that were made for it, too. What stays, and why."""
        left = _emptied(self.directory)
        for directory in reversed(self.made):
            if why := _rmdir(directory):
                left.append(f"{directory}: {why}")
        _leave(os.path.dirname(self.directory))
        return left

    def __enter__(self) -> "Scratch":
        try:
            self.make()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def room_above(mounts: Hierarchies, path: str) -> tuple[str, int] | None:
    """(cgroup, bytes left) of the tightest limit above this place; None: nobody above has one."""
    found = []
    two = mounts.version == 2
    limit_name, current_name = (
        ("memory.max", "memory.current") if two else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    )
    while path := path.rpartition("/")[0]:
        try:
            limit = _read(f"{mounts.memory}{path}/{limit_name}").strip()
            current = int(_read(f"{mounts.memory}{path}/{current_name}"))
        except (OSError, ValueError):
            continue  # not made yet, or without a limit of its own
        if limit.isdigit() and int(limit) < 1 << 62:  # v1 says "no limit" by a number near that
            found.append((path, int(limit) - current))
    return min(found, key=lambda it: it[1], default=None)


# ---------------------------------------------------------------------------------------------------------- leftovers


def leftovers(mounts: Hierarchies) -> tuple[list[str], list[str]]:
    """(directories of cgroups whose makers are gone, those whose makers still live)."""
    left: list[str] = []
    alive: list[str] = []
    for directory in _marked(mounts.memory or ""):
        mark = os.path.basename(directory)
        if not maker_lives(mark):
            left.append(directory)
        elif name() not in mark:
            alive.append(directory)
    # What is inside of another one goes first.
    return sorted(left, key=len, reverse=True), alive


def maker_lives(mark: str) -> bool:
    """Whether the process that has made what is named so still lives; a later one with its number is another."""
    found = _MARK.search(mark)
    return found is not None and _start_ticks(int(found[1])) == int(found[2])


def sweep(directory: str) -> list[str]:
    """Remove what a predecessor has left; what stays, and why."""
    left = _emptied(directory)
    if why := _rmdir(directory):
        left.append(f"{directory}: {why}")
    _leave(os.path.dirname(directory))
    return left


def _is_home(directory: str) -> bool:
    return directory.endswith((HOME, ALONE))


def _leave(above: str) -> None:
    """A home in which nobody is any more; a predecessor's, or in use by somebody else."""
    if _is_home(above):
        with contextlib.suppress(OSError):
            os.rmdir(above)


def _marked(root: str) -> Iterator[str]:
    for directory, names, _ in os.walk(root):
        yield from (f"{directory}/{it}" for it in names if _MARK.search(it))


def _emptied(directory: str) -> list[str]:
    """SIGKILL to every process of ours in it, until nobody is left; others are named and left alone."""
    others: set[int] = set()

    def empty() -> bool:
        pids = set(_pids(directory)) - others
        for pid in pids:
            if not _end(pid, directory):
                others.add(pid)
        return not pids

    _until(empty)
    return [f"{directory}: pid {pid} is none of ours, and was left alone" for pid in sorted(others)]


def _end(pid: int, directory: str) -> bool:
    """Whether it was ours. Opened first, then looked at: the number cannot come to mean somebody else."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return True  # gone
    try:
        if _comm(pid) not in (COMM, None):
            return pid not in _pids(directory)  # gone meanwhile, and the number is somebody else's
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(fd, signal.SIGKILL)
        return True
    finally:
        os.close(fd)


def _comm(pid: int) -> str | None:
    try:
        return _read(f"/proc/{pid}/comm").rstrip("\n")
    except OSError:
        return None


def _pids(directory: str) -> list[int]:
    try:
        return [int(word) for word in _read(f"{directory}/cgroup.procs").split()]
    except OSError:
        return []


def _rmdir(directory: str) -> str:
    """ "" when it is gone. EBUSY passes: who has just died leaves it a little later."""
    why = ""

    def gone() -> bool:
        nonlocal why
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            why = ""
        except OSError as error:
            why = error.strerror or str(error)
            return error.errno != errno.EBUSY or bool(_pids(directory)) or _has_children(directory)
        else:
            why = ""
        return True

    _until(gone)
    return why


def _has_children(directory: str) -> bool:
    try:
        with os.scandir(directory) as entries:
            return any(entry.is_dir(follow_symlinks=False) for entry in entries)
    except OSError:
        return False


def _until(true: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE_S
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def _write(path: str, value: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, value.encode())
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(fd)
