"""What the judge wants done. An action is data: it can be described, refused, replayed.

Tokens name things that outlive a turn: a victim, a lease. The judge gives them out, the hands answer by them.
"""

from dataclasses import dataclass
from typing import Literal

from .facts import TargetId
from .policy import Watermark

LeaseFile = Literal["memory.high", "memory.max", "memory.swap.max", "cgroup.freeze", "oom_score_adj"]
Purpose = Literal["tripwire", "brake", "step", "insurance"]


@dataclass(frozen=True, slots=True)
class ProcessRef:
    """A process by identity, with what a reader wants to see beside it."""

    pid: int
    start_ticks: int
    comm: str
    cgroup: str
    held_bytes: int


@dataclass(frozen=True, slots=True)
class Victim:
    """Who is to die: one process, a process tree, those of a process group or session, or a whole cgroup.

    ``processes`` are those that are signalled one by one, the root of the tree first; for a cgroup they are its
    largest members, for the record only: the kill itself is one write to cgroup.kill.
    """

    token: int
    take: Literal["process", "subtree", "process_group", "session", "cgroup"]
    cgroup: str
    inode: int  # of the cgroup directory, 0: unknown
    unit: str
    processes: tuple[ProcessRef, ...]
    held_bytes: int
    count: int  # processes meant


def heads(count: int) -> str:
    """So many processes, for people."""
    return "1 process" if count == 1 else f"{count} processes"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One line of a ranking: what was weighed, and what came of it. ``why`` is for people."""

    what: str  # cgroup path, or "comm[pid]"
    cgroup: str
    score: int
    held_bytes: int
    rank: int  # 1 is first; 0: excluded
    why: str


@dataclass(frozen=True, slots=True)
class Ranking:
    """Every candidate with its reason; ``descent`` is the way from the guard's root to the victim, a line a step."""

    by: str
    take: str
    candidates: tuple[Candidate, ...]
    descent: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Look:
    """Bring a survey of this target with the next observation."""

    target: TargetId
    depth: Literal["heaviest", "whole"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Take the evidence and open or deepen the target's incident."""

    target: TargetId
    watermark: Literal["soft", "hard", "kernel"]
    incident: int
    why: str


@dataclass(frozen=True, slots=True)
class Notify:
    """Tell people. ``message`` is a name in ``model.messages``."""

    target: TargetId
    message: str
    text: str


@dataclass(frozen=True, slots=True)
class Nominate:
    """Open and verify this victim, so that its kill is one system call.

    ``not_before_ns``: who ends it in our place (the dead man) has to wait until then, for cooldown and budget.
    """

    target: TargetId
    victim: Victim
    ranking: Ranking
    not_before_ns: int = 0


@dataclass(frozen=True, slots=True)
class Ward:
    """A nominee as it is handed to the dead man, with what must hold for it to be ended."""

    target: TargetId
    victim: Victim
    hard: Watermark
    not_before_ns: int


@dataclass(frozen=True, slots=True)
class Dismiss:
    """The victim of this token is not wanted any more: close what was opened."""

    target: TargetId
    token: int


@dataclass(frozen=True, slots=True)
class Kill:
    """Signal the victim of this token, which was nominated before.

    ``ranking``: of the last survey, newer than the nomination's own where the nominee stayed the same. ``by`` the dead
    man: it was signalled already, and nothing is left to do but to await its end.
    """

    target: TargetId
    token: int
    signal: Literal["TERM", "KILL"]
    why: str
    ranking: Ranking | None = None
    by: Literal["core", "deadman"] = "core"


@dataclass(frozen=True, slots=True)
class Reap:
    """process_mrelease on the victim's processes, by the reaper."""

    target: TargetId
    token: int


@dataclass(frozen=True, slots=True)
class Lease:
    """Set a kernel file for a time. Journalled before it is done, undone by ``Release``, by stop, and after a crash.

    ``file`` is one of the cgroup's (``pid`` 0) or oom_score_adj (of ``pid``).
    """

    target: TargetId
    token: int
    file: LeaseFile
    cgroup: str
    inode: int
    pid: int
    start_ticks: int
    value: int
    purpose: Purpose


@dataclass(frozen=True, slots=True)
class Release:
    """Put back what the lease of this token found."""

    target: TargetId
    token: int


@dataclass(frozen=True, slots=True)
class Reclaim:
    """memory.reclaim, by the reaper, in bites; until so much is taken back or the time is over."""

    target: TargetId
    token: int
    cgroup: str
    inode: int
    bytes: int
    until_ns: int


@dataclass(frozen=True, slots=True)
class UnitJob:
    """Ask systemd to restart or stop this unit. It is not waited for: whether it helps is seen in memory."""

    target: TargetId
    token: int
    verb: Literal["restart", "stop"]
    unit: str
    cgroup: str


@dataclass(frozen=True, slots=True)
class Run:
    """Run a hook. Its runner follows the ring: this record is the order."""

    target: TargetId
    token: int
    argv: tuple[str, ...]
    user: str
    deadline_ns: int
    watermark: Literal["soft", "hard"]
    why: str


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell whoever listens at this policy's socket and FIFOs. The broker follows the ring: this record is the order."""

    target: TargetId
    token: int
    watermark: Literal["soft", "hard"]
    to: Literal["inside", "all"]
    why: str


@dataclass(frozen=True, slots=True)
class Mute:
    """Do not listen to the target's memory.events until then: cache explains them, or nothing can come of them."""

    target: TargetId
    until_ns: int


@dataclass(frozen=True, slots=True)
class Score:
    """What became of a verdict that was not carried out: the shortage ended by itself, or somebody else ended it.

    ``after_ns``: from the verdict to that.
    """

    ended_by: Literal["itself", "kernel", "policy"]
    after_ns: int
    what: str  # who would have been killed


@dataclass(frozen=True, slots=True)
class Close:
    """The engagement is over: finish the incident. ``outcome`` is for people."""

    target: TargetId
    incident: int
    outcome: str
    score: Score | None = None  # of a verdict that was not carried out


Action = (
    Look
    | Snapshot
    | Notify
    | Nominate
    | Dismiss
    | Kill
    | Reap
    | Lease
    | Release
    | Reclaim
    | UnitJob
    | Run
    | Tell
    | Mute
    | Close
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a hand did at once. ``held``: observe mode, nothing was touched. ``at_ns``: after the system call."""

    what: str
    token: int
    errno: int
    at_ns: int
    held: bool = False
