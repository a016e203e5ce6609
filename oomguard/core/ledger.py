"""The kernel's own kills: told once each, of the cgroup that is nearest, or of the machine."""

from collections.abc import Callable, Mapping
from typing import Final

from ..judge.glob import is_inside
from ..linux.procfs import VmStatFile
from ..model.facts import KernelKill
from .watch import Watch

LEDGER_NS: Final = 10_000_000_000  # the kernel's own count of its kills: dear to read, and never urgent


class Ledger:
    """See the module."""

    def __init__(self, watches: Mapping[str, Watch], vmstat: VmStatFile, broken: Callable[[OSError], None]) -> None:
        self._watches, self._vmstat, self._broken = watches, vmstat, broken
        self._told = self._counted = vmstat.oom_kill()
        self._looked_ns = 0
        self._kills: list[KernelKill] = []

    def speaks(self, at_ns: int) -> bool:
        """Whether the next ``look`` tells of any: while all is calm nobody may look for minutes."""
        if self._count(at_ns) and self._counted > self._told:
            self._looked_ns = 0
        return bool(self._kills) or self._counted > self._told

    def _count(self, at_ns: int) -> bool:
        """Whether it was read now."""
        if at_ns - self._looked_ns < LEDGER_NS:
            return False
        self._looked_ns = at_ns
        try:
            self._counted = self._vmstat.oom_kill()
        except OSError as error:
            self._broken(error)
        return True

    def look(self, at_ns: int) -> tuple[KernelKill, ...]:
        """The machine's own count, less what the cgroups' events have told already."""
        if self._count(at_ns) and self._counted > self._told + sum(kill.count for kill in self._kills):
            for path in sorted(self._watches, key=len, reverse=True):  # some do not speak: muted, or rate limited
                self._look_for_kills(self._watches[path])
        self._told += sum(kill.count for kill in self._kills)
        if self._counted > self._told:
            self._kills.append(KernelKill("/", self._counted - self._told))
            self._told = self._counted
        kills, self._kills = tuple(self._kills), []
        return kills

    def tell(self, watch: Watch, count: int) -> None:
        """The count is hierarchical: what happened in a cgroup below that is watched as well is told of that one."""
        if watch.kills < 0:
            watch.kills = count
        if count <= watch.kills:
            return
        path = watch.group.path
        for below in sorted((p for p in self._watches if p != path and is_inside(p, path)), key=len, reverse=True):
            self._look_for_kills(self._watches[below])
        if count > watch.kills:
            self._kills.append(KernelKill(path, count - watch.kills))
            for other, above in self._watches.items():
                if is_inside(path, other) and above.kills >= 0:
                    above.kills += count - watch.kills if other != path else 0
            watch.kills = count

    def _look_for_kills(self, watch: Watch) -> None:
        try:
            events_now = watch.group.events()
        except OSError as error:
            self._broken(error)
            return
        if events_now is not None:
            self.tell(watch, events_now.oom_kill)
