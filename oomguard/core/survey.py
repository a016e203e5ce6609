"""Who is there, for the judge to choose from: cgroups by use, and the processes of the heaviest. Judges nothing.

A survey is made when the judge asks for one, and reads what this guard's list of victims needs, no more.
"""

import errno
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final, Literal

from ..judge.glob import is_inside
from ..judge.match import unit_path, way_up
from ..judge.measure import Wants, wants
from ..judge.rank import WEIGHT, is_corridor
from ..linux import procfs
from ..linux.cgroup2 import Cgroup, asks, owner, walk
from ..model.facts import CgroupFacts, MemInfo, ProcessFacts, Survey, TargetId
from ..model.policy import Guard

Depth = Literal["heaviest", "whole"]

# A survey reads the processes of the heaviest units only: the judge goes down to one of them, or asks for all.
HEAVIEST: Final = 3
WEIGHED: Final = 8  # units whose memory.stat is read, the largest by memory.current first
OUTWEIGHS: Final = 2 * WEIGHT  # more than "prefer" can make up for
PRUNE_SHARE: Final = 64  # cgroups with less than a 64th of the whole are not descended into
PRUNE_MIN: Final = 1 << 20


class Surveyor:
    """See the module."""

    def __init__(self, root: str | None, unified: bool, proc_fd: int, broken: Callable[[OSError], None]) -> None:
        """``root``: of the cgroups that have memory, or None; ``unified``: they are cgroup v2."""
        self.root, self.unified, self.proc_fd, self._broken = root, unified, proc_fd, broken
        self.found_score: Callable[[int, int, int], int] = lambda _pid, _start_ticks, now: now
        self.wants = Wants()  # of the survey that is made, and whose the guard's cgroup is
        self.owner = 0

    def survey(self, target: TargetId, depth: Depth, guard: Guard | None, host: MemInfo) -> Survey:
        """The candidates of this target, as that guard would have them told apart."""
        began, now_ticks = time.monotonic_ns(), procfs.uptime_ticks()
        self.wants = Wants() if guard is None else wants(guard.victim)
        if self.root is None:
            cgroups: tuple[CgroupFacts, ...] = ()
            processes = self._all_processes(target.cgroup)
        else:
            cgroups, processes = self._units(self.root, target.cgroup, depth, host)
        return Survey(target, depth, cgroups, processes, time.monotonic_ns() - began, now_ticks)

    def _all_processes(self, path: str) -> tuple[ProcessFacts, ...]:
        found: list[ProcessFacts] = []
        for pid in procfs.pids(self.proc_fd):
            self._process(pid, None, found)
        return tuple(process for process in found if is_inside(process.cgroup, path))

    def _units(
        self, root: str, path: str, depth: Depth, host: MemInfo
    ) -> tuple[tuple[CgroupFacts, ...], tuple[ProcessFacts, ...]]:
        """The heaviest units (all of them for "whole"), what lives in them, and the cgroups above them."""
        whole = depth == "whole" or self.wants.whole
        self.owner = owner(root, path)
        swapped = host.swap_total_bytes - host.swap_free_bytes > host.total_bytes // PRUNE_SHARE
        prune = 0 if whole else PRUNE_MIN if swapped else max(PRUNE_MIN, host.used_bytes // PRUNE_SHARE)
        leaves: dict[str, list[str]] = {}
        sizes: dict[str, int] = {}
        for cgroup, _, current in self._walk(root, path, prune):
            unit = unit_path(cgroup)
            leaves.setdefault(unit, []).append(cgroup)
            sizes[unit] = max(sizes.get(unit, 0), current)
        # Only leaves hold processes (the rule of no internal processes), but for the root: there it is kernel threads,
        # or everybody where there is no systemd; then no unit is found, and the judge asks for the whole.
        aside = [unit for unit in leaves if unit == path or (whole and is_corridor(unit))]
        order = [unit for unit in leaves if unit not in aside and not is_corridor(unit)]
        if swapped and not whole:  # what was swapped out is not in memory.current
            for unit in order:
                sizes[unit] += self._swap_of(root, unit)
        order.sort(key=lambda unit: (-sizes[unit], unit))
        weighed = self._weigh_in_order(root, order, sizes, whole)
        if not whole:
            weighed.sort(key=lambda facts: -(facts.unreclaimable_bytes + facts.swap_bytes))
            order = [facts.path for facts in weighed[:HEAVIEST]]
        groups = {facts.path: facts for facts in weighed}
        processes: list[ProcessFacts] = []
        for unit in [*aside, *order]:
            seen_all = whole or (unit in aside and self.unified)  # v2: only leaves have processes
            for leaf in leaves[unit] if seen_all or is_corridor(unit) else self._homes(root, unit):
                self._processes(root, leaf, processes)
        for unit in order:
            self._above(root, unit, path, groups)
        for unit in [*aside, *order]:
            for leaf in leaves[unit]:
                self._inside(root, leaf, unit, groups)
        return tuple(groups.values()), tuple(processes)

    def _homes(self, root: str, unit: str) -> Iterable[str]:
        """Where its processes are, and whoever would go with them if it were taken whole.

        However little a cgroup inside holds, and however deep it lies: who must not be ended there is known before, or
        he is ended unseen. In v1 that may be another unit's: inner cgroups have processes of their own.
        """
        return [path for path, _, _ in self._walk(root, unit, 0)]

    def _walk(self, root: str, path: str, prune: int) -> Iterable[tuple[str, int, int]]:
        yield path, 0, 0
        try:
            yield from walk(root, path, prune)
        except OSError as error:
            self._broken(error)

    def _weigh_in_order(self, root: str, order: list[str], sizes: dict[str, int], whole: bool) -> list[CgroupFacts]:
        """Use of the units, largest memory.current first; no further than where it cannot matter any more.

        memory.stat costs milliseconds on a large tree, and memory.current is an upper bound of use (swap aside): once
        one unit holds ``OUTWEIGHS`` times what the next can hold, that and all after it are left out.
        """
        weighed: list[CgroupFacts] = []
        best = 0
        for unit in order:
            if not whole and (len(weighed) >= WEIGHED or sizes[unit] * OUTWEIGHS < best):
                break
            facts = self._weigh(root, unit)
            if facts is not None:
                weighed.append(facts)
                best = max(best, facts.unreclaimable_bytes + facts.swap_bytes)
        return weighed

    def _swap_of(self, root: str, path: str) -> int:
        try:
            group = Cgroup.open(root, path)
            if group is None:
                return 0
            try:
                return group.swap_current() or 0
            finally:
                group.close()
        except OSError as error:
            self._broken(error)
            return 0

    def _weigh(self, root: str, path: str, stat: bool = True) -> CgroupFacts | None:
        try:
            group = Cgroup.open(root, path)
            if group is None:
                return None
            try:
                wants = self.wants
                return group.weighed(
                    self.owner, stat=stat, pressure=stat and wants.pressure, refaults=stat and wants.refaults
                )
            finally:
                group.close()
        except OSError as error:
            self._broken(error)
            return None

    def _above(self, root: str, unit: str, top: str, groups: dict[str, CgroupFacts]) -> None:
        """memory.oom.group on the way up to the guard's cgroup counts: the kernel's killer minds it as well."""
        path = unit.rpartition("/")[0]
        while path not in ("", "/") and is_inside(path, top) and path not in groups:
            facts = self._weigh(root, path, stat=False)
            if facts is not None:
                groups[path] = facts
            path = path.rpartition("/")[0]

    def _inside(self, root: str, leaf: str, unit: str, groups: dict[str, CgroupFacts]) -> None:
        """What owners of cgroups inside of a unit have asked for. Few have asked: the others cost one listxattr."""
        for path in way_up(leaf):
            if path in (unit, "/") or path in groups:
                return
            if asks(root, path) and (facts := self._weigh(root, path, stat=False)) is not None:
                groups[path] = facts

    def _processes(self, root: str, path: str, into: list[ProcessFacts]) -> None:
        try:
            group = Cgroup.open(root, path)
            if group is None:
                return
            try:
                pids = group.procs()
            finally:
                group.close()
        except OSError as error:
            self._broken(error)
            return
        # Of v1 only the memory is known by that path: what systemd has made inside of it is asked for.
        known = path if self.unified else None
        for pid in pids:
            self._process(pid, known, into)

    def _process(self, pid: int, path: str | None, into: list[ProcessFacts]) -> None:
        wants = self.wants
        try:
            process = procfs.read_process(self.proc_fd, pid, path, wants.scores, groups=wants.groups, exe=wants.exe)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM):  # hidepid, another user's
                self._broken(error)
            return
        if process is not None and not process.kernel_thread:
            into.append(self._uninsured(process) if process.oom_score_adj else process)

    def _uninsured(self, process: ProcessFacts) -> ProcessFacts:
        """As its owner left it. Who were ranked by the score that we have given him would stay the first for ever."""
        owners = self.found_score(process.pid, process.start_ticks, process.oom_score_adj)
        more = process.oom_score_adj - owners
        if not more:
            return process
        # fs/proc/base.c: (1000 + badness in thousandths of all memory) * 2 / 3, and the badness holds the adj (Linux
        # kernel commit 9066e5cfb73c ("mm, oom: make the calculation of oom badness more accurate"), in v5.9).
        return replace(process, oom_score_adj=owners, oom_score=max(0, process.oom_score - more * 2 // 3))
