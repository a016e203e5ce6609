"""What happened, turn by turn: the unit of the flight recorder and of replay."""

from dataclasses import dataclass

from .facts import Compressed, MemInfo, Observation, Pressure, Refaults, TargetId
from .policy import Budget, Guard
from .verdict import Action, Outcome

# 2: the kind "stall"; kernel_reports, no_guard, after, verdict. A version that is older stays readable.
SCHEMA_VERSION = 2


@dataclass(frozen=True, slots=True)
class Seed:
    """What the judge remembered before a turn: with it the turns that follow can be judged again (``judge.state``).

    ``targets`` are those that were not at rest, and those of which an incident begins; each as its fields by position,
    named once in ``names``. ``guards``: of the plan in force, so that the same judge judges by the same policy.
    """

    names: tuple[str, ...]
    targets: tuple[tuple[object, ...], ...]
    guards: tuple[Guard, ...]
    ours: tuple[int, ...]
    own_cgroup: str
    stuck: tuple[tuple[int, ...], ...]  # as ``judge.state.Ban``
    host: MemInfo | None
    pressure: Pressure | None
    next_token: int
    next_incident: int
    refaults: Refaults | None = None
    compressed: Compressed | None = None
    budget: Budget | None = None  # the host's
    spent: tuple[int, ...] = ()  # kills that count for it
    shadows: int = 0
    struck: tuple[tuple[TargetId, int, int], ...] = ()  # target, incident, when
    past: tuple[tuple[TargetId, tuple[int, ...]], ...] = ()  # kills in cgroups that are gone, and may come back
    renewed: tuple[str, ...] = ()  # guards whose policy was changed just before


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of the loop: what was seen, what was decided, what came of it at once.

    ``cut``: so many facts of its surveys were too many to keep; judged again it may come out differently. A turn whose
    only wake is a glance was not judged.
    """

    number: int
    seen: Observation
    actions: tuple[Action, ...]
    outcomes: tuple[Outcome, ...]
    phases: tuple[tuple[str, str, str], ...] = ()  # (guard, cgroup, phase) of the targets that moved
    cut: int = 0
    seed: Seed | None = None  # if it opens an incident, or is the first under new guards
