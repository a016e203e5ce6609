"""A small world with a recorder: what the judge saw and did in it, as the incident that the scribe would write."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from oomguard.judge.state import seed
from oomguard.model.codec import from_plain, to_plain
from oomguard.model.facts import TargetId
from oomguard.model.incident import Turn
from oomguard.model.verdict import Kill, Lease, Outcome
from oomguard.report.recording import quiet
from oomguard.workers.shelf import encode
from oomguard.workers.story import Story
from tests.judge.world import Moment, World

OBSERVED = ("Kill", "Lease")  # what a hand has an outcome for


@dataclass
class Recorded(World):
    """``turns`` is the recorder's ring."""

    turns: list[Turn] = field(default_factory=list)

    def turn(self, latest: int = 1 << 62) -> Moment:
        before = self.state
        moment = super().turn(latest)
        moved = tuple(
            (target.guard, target.cgroup, now)
            for target, now in moment.phases.items()
            if target not in before.targets or before.targets[target].phase != now
        )
        observed = {guard.name for guard in self.policy.guards if guard.mode == "observe"}
        outcomes = tuple(
            Outcome(type(a).__name__, a.token, 0, moment.seen.at_ns + 100_000, a.target.guard in observed)
            for a in moment.actions
            if isinstance(a, Kill | Lease)
        )
        memory = seed(self.policy, before, moment.actions)
        self.turns.append(Turn(len(self.turns) + 1, moment.seen, moment.actions, outcomes, moved, seed=memory))
        return moment

    def incident(self, target: TargetId | None = None, **more: object) -> dict[str, Any]:
        """The first incident of that target (or the first of all), in the form in which it lies on disk."""
        return incident(self.turns, target, **more)


def incident(turns: list[Turn], target: TargetId | None = None, **more: object) -> dict[str, Any]:
    """Told by the scribe's own story; ``more`` goes over its head and evidence."""
    opening = next(t for t in turns if t.seed and any(_opened(a) in (target, None) or not target for a in t.actions))
    snapshot = next(a for a in opening.actions if _opened(a) is not None and target in (None, a.target))
    guard = next(g for g in opening.seed.guards if g.name == snapshot.target.guard)  # type: ignore[union-attr]
    story = Story(snapshot.target, snapshot.incident, opening.seen.at_ns, snapshot.watermark, guard)
    for turn in turns:
        if turn.number >= opening.number and not story.closed:
            story.weigh(to_plain(turn.seen)["surveys"])
            story.add(turn)
    since = opening.seen.at_ns - 120_000_000_000
    doc = {
        **story.plain(),
        "id": "20260131T031204Z-host-072511",
        "time": "2026-01-31T03:12:04.977Z",
        "boot_id": "5ffba529-0000-4000-8000-000000000000",
        "version": "0.1.0",
        "hostname": "example",
        "kernel": "6.12.0",
        "complete": story.closed,
        "ended": "",
        "lost": {},
        "evidence": {"taken": [], "processes": processes(turns, opening)},
        "ring": [to_plain(turn) for turn in turns if turn.seen.at_ns >= since],
        **more,
    }
    told: dict[str, Any] = json.loads(encode(doc))
    return told


def recording(turns: list[Turn], **more: object) -> dict[str, Any]:
    """Turns as `oomguard record` keeps them; ``more`` goes over its head."""
    head = {"id": "20260131T031204Z-recording", "time": "2026-01-31T03:12:04Z", "version": "0.1.0", "hostname": "x"}
    head |= more
    told: dict[str, Any] = json.loads(encode(quiet(head, [to_plain(turn) for turn in turns], {})))
    return told


def processes(turns: list[Turn], opening: Turn) -> list[dict[str, Any]]:
    """The table, from the surveys: the last look at each, and how much more it holds than at the first."""
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    for process in (p for turn in turns for survey in turn.seen.surveys for p in survey.processes):
        row = {key: value for key, value in to_plain(process).items() if key not in ("kind", "kernel_thread")}
        first = rows.get((process.pid, process.start_ticks), {"first": process.held_bytes})["first"]
        row |= {"held_bytes": process.held_bytes, "growth_bytes": process.held_bytes - first, "first": first}
        rows[process.pid, process.start_ticks] = row
    for row in rows.values():
        del row["first"]
    return sorted(rows.values(), key=lambda row: -row["held_bytes"])


def _opened(action: object) -> TargetId | None:
    return getattr(action, "target", None) if type(action).__name__ == "Snapshot" else None


def turns_of(doc: dict[str, Any]) -> list[Turn]:
    return [from_plain(plain) for plain in doc["ring"]]
