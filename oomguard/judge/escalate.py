"""One victim's way from the first signal to its end, as one table.

TERM   asked to end; may take its grace
KILL   SIGKILL is sent; the kernel ends it as soon as it may
GONE   the last thread is gone, or the cgroup is empty
STUCK  it did not end in time: in uninterruptible sleep, most likely. It is never asked again; the next one is.
"""

from dataclasses import dataclass
from typing import Final, Literal

from ..model.verdict import Victim

Stage = Literal["term", "kill", "gone", "stuck"]
Turn = Literal["gone", "late", "deeper", "failed"]

TABLE: Final[dict[tuple[Stage, Turn], Stage]] = {
    ("term", "gone"): "gone",
    ("term", "late"): "kill",
    ("term", "deeper"): "kill",
    ("term", "failed"): "stuck",
    ("kill", "gone"): "gone",
    ("kill", "late"): "stuck",
    ("kill", "failed"): "stuck",
}

# A killed process that is not gone by then sleeps where no signal wakes it. Teardown of 100 GB takes about 10 s on one
# core; process_mrelease has freed the memory long before.
PATIENCE_NS: Final = 10_000_000_000


@dataclass(frozen=True, slots=True)
class Pursuit:
    """A victim that was signalled, first at ``since_ns``. ``until_ns`` ends the present stage."""

    victim: Victim
    stage: Stage
    since_ns: int
    until_ns: int


def begin(victim: Victim, grace_ns: int, at_ns: int) -> Pursuit:
    """The first signal: TERM where a grace is given, else KILL."""
    if grace_ns:
        return Pursuit(victim, "term", at_ns, at_ns + grace_ns)
    return Pursuit(victim, "kill", at_ns, at_ns + PATIENCE_NS)


def advance(pursuit: Pursuit, turn: Turn, at_ns: int) -> Pursuit:
    """The pursuit after that turn; the same where the table knows none."""
    stage = TABLE.get((pursuit.stage, turn), pursuit.stage)
    if stage == pursuit.stage:
        return pursuit
    return Pursuit(pursuit.victim, stage, pursuit.since_ns, at_ns + PATIENCE_NS)
