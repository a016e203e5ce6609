"""What others may see of us, stored into the page that they read. Never waited for, never asked."""

import os
import time
from typing import Final

from ..judge import pace
from ..judge.state import State, TargetState
from ..linux import memlock
from ..model.facts import MemInfo, Observation
from ..model.policy import Guard, Plan
from ..model.statuspage import NOTES_BYTES, PHASES, GuardLine, Numbers, Writer

EVERY_NS: Final = 250_000_000  # while something goes on; in calm, whenever the loop is awake anyway


class Status:
    """The page, if the runtime directory takes one."""

    def __init__(self, path: str, version: str) -> None:
        """OSError with the path."""
        self.path = path
        self.page = Writer(path)
        self.version = version
        self.started_ns = time.time_ns()
        self.faults = (0, 0)
        self.armed = False
        self.undone = 0
        self.turns = 0
        self.notes: dict[str, str] = {}
        self.notes_stale = True
        self.last_ns = 0

    def degraded(self, what: str, why: str) -> bool:
        """Something works less well than it could. Whether that is new; the last ``why`` of each ``what`` stands."""
        new = what not in self.notes
        self.notes[what] = why.replace("\n", " ").replace("\t", " ")
        self.notes_stale = True
        return new

    def mended(self, what: str) -> None:
        """It works again."""
        if self.notes.pop(what, None) is not None:
            self.notes_stale = True

    def remove(self) -> None:
        """The daemon has ended as it was asked to: no page, rather than the page of a process that is gone."""
        try:
            os.unlink(self.path)
        except OSError:
            pass  # somebody was faster

    def arm(self) -> None:
        """From here on page faults count."""
        self.faults = memlock.faults()
        self.armed = True

    def excuse(self, before: tuple[int, int]) -> None:
        """What was begun with so many faults may take pages, being done in calm only: its own do not count."""
        now = memlock.faults()
        self.faults = (self.faults[0] + now[0] - before[0], self.faults[1] + now[1] - before[1])

    def publish(self, plan: Plan, state: State, at_ns: int, dropped: int, moved: bool = True) -> None:
        """Store what is known now; at most four times a second unless a phase ``moved``."""
        self.turns += 1
        if not moved and not self.notes_stale and at_ns - self.last_ns < EVERY_NS:
            return
        self.last_ns = at_ns
        guards = tuple(_line(guard, state) for guard in plan.guards)
        notes = self._notes() if self.notes_stale else None
        self.page.publish(self._numbers(state, state.host, dropped), guards, notes, at_ns)

    def glance(self, state: State, seen: Observation, dropped: int) -> None:
        """The machine's numbers, on which there was nothing to judge."""
        self.page.publish(self._numbers(state, seen.host, dropped), None, None, seen.at_ns)

    def _numbers(self, state: State, host: MemInfo | None, dropped: int) -> Numbers:
        minor, major = memlock.faults()
        return Numbers(
            os.getpid(),
            self.started_ns,
            int(self.armed),
            self.turns,
            minor - self.faults[0],
            major - self.faults[1],
            state.counters.snapshots,
            state.counters.kills,
            state.counters.kernel_oom_kills,
            self.undone,
            dropped,
            host.total_bytes if host else 0,
            host.available_bytes if host else 0,
            host.swap_total_bytes if host else 0,
            host.swap_free_bytes if host else 0,
        )

    def _notes(self) -> bytes:
        self.notes_stale = False
        lines = [self.version, *(f"{what}\t{why}" for what, why in self.notes.items())]
        return "\n".join(lines).encode("utf-8", "replace")[:NOTES_BYTES]


def _line(guard: Guard, state: State) -> GuardLine:
    mine = [target for key, target in state.targets.items() if key.guard == guard.name]
    phase = max((target.phase for target in mine), key=PHASES.index, default="calm")
    worst = max(mine, key=_share, default=None)
    used = 0 if worst is None else worst.used_bytes
    return GuardLine(guard.name, guard.cgroup, guard.mode, phase, len(mine), used, _limit(worst, state))


def _limit(target: TargetState | None, state: State) -> int:
    if target is not None and target.facts is not None and target.facts.limit_bytes is not None:
        return target.facts.limit_bytes
    return state.host.total_bytes if state.host else 0


def _share(target: TargetState) -> float:
    limit = target.facts.limit_bytes if target.facts is not None else None
    return target.used_bytes / limit if limit else target.used_bytes / pace.NEVER
