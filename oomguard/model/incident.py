"""What happened, turn by turn: the unit of the flight recorder and of replay."""

from dataclasses import dataclass

from .facts import Observation
from .verdict import Action, Outcome

SCHEMA_VERSION = 1


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
