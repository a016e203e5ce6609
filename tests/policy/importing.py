"""An imported policy before the judge: given this machine, for so long, does anybody die of it, and by what signal?"""

from pathlib import Path
from typing import Any

from oomguard.model.facts import CgroupFacts, Compressed, Pressure, ProcessFacts, Survey, TargetId, TargetSeen
from oomguard.model.policy import Plan
from oomguard.model.verdict import Kill, Look
from oomguard.policy import importers, toml
from tests.judge.world import MIB, Court, cgroup, meminfo, pressure, process, survey

from .helpers import plan_of

NOBODY_MS = 500  # between two observations


def draft(directory: Path, kind: str, *files: tuple[str, str]) -> importers.Draft:
    """Of files with these names and texts."""
    paths = []
    for name, text in files:
        path = directory / "theirs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        paths.append(path)
    return importers.read(kind, paths)


def plan(directory: Path, draft: importers.Draft) -> Plan:
    """As `check` and the daemon would read it."""
    return plan_of(directory, toml.document(draft.tables()))


def lost(draft: importers.Draft) -> dict[str, int]:
    """Setting to line, of what cannot be said."""
    return {fault.key: fault.line for fault in draft.left}


class Machine:
    """Every guard of the plan on its own cgroup, seeing the same, for as long as it lasts."""

    def __init__(self, plan: Plan, processes: tuple[ProcessFacts, ...] = ()) -> None:
        self.court = Court(plan)
        self.plan = plan
        self.processes = processes or (process(100, "hog", "/system.slice/hog.service", 500, score=900, swap=100),)

    def ends(
        self,
        *,
        available: float = 90,
        swap_free: float = 100,
        swap_total: int = 1000,
        full: float = 0,
        some: float = 0,
        zram: float = 0,
        used: dict[str, float] | None = None,
        seconds: float = 0.5,
        **_: Any,
    ) -> str:
        """The first signal, and to whom: "KILL hog"; "" for none. Shares in percent, of 1000 MiB."""
        host = meminfo(available * 10, 1000, swap_total, int(swap_total * swap_free / 100))
        stall = pressure(max(some, full), full)
        swap = Compressed(int(zram * 10 * MIB))
        ids = [TargetId(guard.name, path) for guard in self.plan.guards for path in (_plain(guard.cgroup),)]
        groups = tuple(_group(t.cgroup, stall, (used or {}).get(t.cgroup, 1)) for t in ids if t.cgroup != "/")
        facts = {group.path: group for group in groups}
        seen: dict[str, Any] = {"appeared": tuple(TargetSeen(t, facts.get(t.cgroup)) for t in ids)}
        at, looks = 0, ()
        while at <= seconds * 1000:
            surveys = tuple(self._survey(look) for look in looks)
            before = len(self.court.said)
            self.court.sees(at, host=host, pressure=stall, cgroups=groups, surveys=surveys, compressed=swap, **seen)
            seen, new = {}, self.court.said[before:]
            looks = tuple(action for action in new if isinstance(action, Look))
            for action in new:
                if isinstance(action, Kill):
                    state = self.court.state.targets[action.target]
                    assert state.pursuit is not None
                    return f"{action.signal} {state.pursuit.victim.processes[0].comm}"
            at += NOBODY_MS if not looks else 1
        return ""

    def _survey(self, look: Look) -> Survey:
        inside = [p for p in self.processes if look.target.cgroup == "/" or p.cgroup.startswith(look.target.cgroup)]
        return survey(look.target.cgroup, inside, guard=look.target.guard, depth=look.depth)


def _plain(pattern: str) -> str:
    return pattern.replace("**", "x").replace("*", "1")


def _group(path: str, stall: Pressure, used: float) -> CgroupFacts:
    return cgroup(path, used * 10, pressure=stall)
