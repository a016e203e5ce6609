"""This machine (or a copied tree of one) as the judge sees it: the facts that the daemon's senses bring, in one look.

Nothing here is remembered, and nothing wakes the daemon.
"""

import errno
import os

from ..judge.glob import is_inside
from ..judge.match import unit_path, way_up
from ..judge.measure import ALL, Wants
from ..judge.rank import is_corridor
from ..linux import cgroup2, mounts, procfs, psi
from ..linux.cgroup2 import Cgroup
from ..linux.elsewhere import Elsewhere
from ..model.facts import CgroupFacts, Compressed, MemInfo, Pressure, ProcessFacts, Survey, TargetId
from ..model.policy import AlsoAvailable, Daemon


class Machine:
    """``root``: the mount of the cgroups that have the memory, None where there is none; ``flavour``: what they are."""

    def __init__(self, proc: str, cgroup: str, also: AlsoAvailable | None = None) -> None:
        """``also``: what comes back when it is wanted, and MemAvailable misses. OSError, with the path: no /proc."""
        self.proc = proc
        self.proc_fd = procfs.open_proc(proc)
        self.root, self.flavour = mounts.find(proc, cgroup)
        self.host: MemInfo = procfs.MemInfoFile(proc).read()
        if also is not None:
            self.host = Elsewhere(also.file, also.key, also.less).added_to(self.host)

    def pressure(self) -> Pressure | None:
        """The machine's; None: no PSI in this kernel."""
        try:
            return psi.PressureFile(f"{self.proc}/pressure/memory").read()
        except OSError:
            return None

    def compressed(self) -> Compressed | None:
        """Swap that is kept in memory; of a copied tree nothing is known."""
        if self.proc != Daemon().proc:
            return None
        from ..linux.zram import Zram

        return Zram().read()

    def facts(self, path: str) -> CgroupFacts | None:
        """Everything of one cgroup; None: gone, or without memory files."""
        group = Cgroup.open(self.root, path) if self.root is not None else None
        if group is None:
            return None
        try:
            return group.facts(stat=True, events=True, pressure=True, known=group.settled())
        finally:
            group.close()

    def exists(self, path: str) -> bool:
        """Whether there is such a cgroup."""
        group = Cgroup.open(self.root, path) if self.root is not None else None
        if group is not None:
            group.close()
        return group is not None or path == "/"

    def xattr(self, path: str, name: str) -> str | None:
        """An extended attribute of this cgroup."""
        return None if self.root is None else cgroup2.xattr(self.root, path, name)

    def below(self, path: str) -> list[str]:
        """Every cgroup below."""
        return [] if self.root is None else [name for name, _, _ in cgroup2.walk(self.root, path)]

    def process(self, pid: int) -> ProcessFacts | None:
        """One process, its score too; None: gone, or not for us to see."""
        try:
            return procfs.read_process(self.proc_fd, pid, None, scores=True, groups=True, exe=True)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM):
                return None
            raise

    def processes(self) -> list[ProcessFacts]:
        """All that are no kernel threads."""
        found = [self.process(pid) for pid in procfs.pids(self.proc_fd)]
        return [process for process in found if process is not None and not process.kernel_thread]

    def survey(self, target: TargetId, processes: list[ProcessFacts]) -> Survey:
        """A whole look below the target: the units of these processes, and what is above them for memory.oom.group."""
        inside = tuple(process for process in processes if is_inside(process.cgroup, target.cgroup))
        units = {unit_path(process.cgroup) for process in inside} - {target.cgroup}
        groups: dict[str, CgroupFacts] = {}
        for unit in sorted(units):
            if not is_corridor(unit):
                self._weigh(target.cgroup, unit, groups, ALL)
            for inner in sorted({p.cgroup for p in inside if p.cgroup != unit and is_inside(p.cgroup, unit)}):
                self._ask(target.cgroup, inner, unit, groups)
            above = os.path.dirname(unit)
            while above not in ("", "/") and is_inside(above, target.cgroup) and above not in groups:
                self._weigh(target.cgroup, above, groups, None)
                above = os.path.dirname(above)
        return Survey(target, "whole", tuple(groups.values()), inside, 0, procfs.uptime_ticks())

    def _ask(self, top: str, path: str, unit: str, groups: dict[str, CgroupFacts]) -> None:
        """What owners of cgroups inside of a unit have asked for."""
        for inner in way_up(path):
            if inner in (unit, "/") or inner in groups:
                return
            if cgroup2.asks(self.root or "", inner):
                self._weigh(top, inner, groups, None)

    def _weigh(self, top: str, path: str, groups: dict[str, CgroupFacts], wants: Wants | None) -> None:
        group = Cgroup.open(self.root, path) if self.root is not None else None
        if group is None:
            return
        try:
            owner = cgroup2.owner(self.root or "", top)
            stat, pressure, refaults = (True, wants.pressure, wants.refaults) if wants is not None else (False,) * 3
            facts = group.weighed(owner, stat=stat, pressure=pressure, refaults=refaults)
            if facts is not None:
                groups[path] = facts
        finally:
            group.close()
