"""The list of actions of a watermark, and one victim's way from the first signal to its end: a table each.

A list is climbed from its first action to its last, and never back before it is calm again:

CLIMBING  the next action is to be done in this turn
WAITING   what was done so far has a while to help
AIMING    the kill is reached: from here on victims are taken, one after the other
OVER      there is nothing left in the list

TERM   asked to end; may take its grace
KILL   SIGKILL is sent; the kernel ends it as soon as it may
GONE   the last thread is gone, or the cgroup is empty
STUCK  it did not end in time: in uninterruptible sleep, most likely. It is never asked again; the next one is.
"""

from dataclasses import dataclass
from typing import Final, Literal

from ..model.policy import KillStep, Step, WaitStep
from ..model.verdict import Victim

Stand = Literal["climbing", "waiting", "aiming", "over"]
Move = Literal["wait", "kill", "end", "late", "vain", "deeper", "again"]

LADDER: Final[dict[tuple[Stand, Move], Stand]] = {
    ("climbing", "wait"): "waiting",
    ("climbing", "kill"): "aiming",
    ("climbing", "end"): "over",
    ("waiting", "late"): "climbing",  # it had its time, and the watermark holds
    ("waiting", "vain"): "climbing",  # nothing of it could be done: there is nothing to wait for
    ("waiting", "deeper"): "climbing",  # twice as bad as hard: there is no time
    ("over", "again"): "climbing",  # the watermark holds after the cooldown: what came after the last wait, once more
    ("aiming", "again"): "climbing",
}


@dataclass(frozen=True, slots=True)
class Climb:
    """How far a list has come: ``next`` is the number of the action that is to be done.

    ``tried``: tokens of what was begun since the last wait and may still help; ``hopes``: whether there was any.
    """

    stand: Stand = "climbing"
    next: int = 0
    until_ns: int = 0
    tried: tuple[int, ...] = ()
    hopes: bool = False


AT_THE_FOOT: Final = Climb()


def move(climb: Climb, how: Move, until_ns: int = 0) -> Climb:
    """The climb after that move; the same where the table knows none."""
    stand = LADDER.get((climb.stand, how), climb.stand)
    if stand == climb.stand:
        return climb
    if stand == "climbing":  # whatever was tried before is not waited for any more
        return Climb(stand, climb.next)
    return Climb(stand, climb.next, until_ns, climb.tried, climb.hopes)


def done(climb: Climb, token: int = 0, hoped: bool = False) -> Climb:
    """The next action is done. ``token``: of what may help yet; ``hoped`` without one: it could not even be begun."""
    tried = (*climb.tried, token) if token else climb.tried
    return Climb(climb.stand, climb.next + 1, climb.until_ns, tried, climb.hopes or hoped or bool(token))


def failed(climb: Climb, token: int) -> Climb:
    """What was begun under this token could not be done after all."""
    if token not in climb.tried:
        return climb
    tried = tuple(other for other in climb.tried if other != token)
    return Climb(climb.stand, climb.next, climb.until_ns, tried, climb.hopes)


def again(climb: Climb, steps: tuple[Step, ...]) -> Climb:
    """Back to what comes after the last wait, for another round of it."""
    if climb.stand not in ("over", "aiming"):
        return climb
    waits = [number for number, step in enumerate(steps) if isinstance(step, WaitStep)]
    return Climb(LADDER[climb.stand, "again"], waits[-1] + 1 if waits else 0)


def ends(steps: tuple[Step, ...]) -> Move:
    """How this list ends: in a kill, or not."""
    return "kill" if any(isinstance(step, KillStep) for step in steps) else "end"


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
