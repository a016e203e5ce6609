"""The compiled policy: what a TOML file means, with every default filled in. Values only; judging is elsewhere."""

from dataclasses import dataclass
from typing import Literal

SECOND_NS = 1_000_000_000
PATH_MAX = 4096


@dataclass(frozen=True, slots=True)
class Amount:
    """Bytes, or a share of something the context names (0.85 is 85 %). Exactly one of the two is set."""

    bytes: int | None = None
    share: float | None = None

    def of(self, total_bytes: int) -> int:
        """In bytes, of that total."""
        if self.bytes is not None:
            return self.bytes
        return int(total_bytes * (self.share or 0.0))


@dataclass(frozen=True, slots=True)
class AvailableBelow:
    """MemAvailable is below this; shares are of MemTotal."""

    amount: Amount


@dataclass(frozen=True, slots=True)
class SwapFreeBelow:
    """SwapFree is below this; shares are of SwapTotal. Holds where there is no swap: none is left."""

    amount: Amount


@dataclass(frozen=True, slots=True)
class MemoryAbove:
    """Unreclaimable memory is above this; shares are of the effective limit (the machine where there is none)."""

    amount: Amount


@dataclass(frozen=True, slots=True)
class SwapAbove:
    """Swap in use is above this; shares are of the effective memory.swap.max (SwapTotal where there is none)."""

    amount: Amount


@dataclass(frozen=True, slots=True)
class StallAbove:
    """A PSI trigger of the kernel: tasks stalled for ``stall_us`` within any ``window_us``.

    ``number`` is unique in the plan: senses and judge name the trigger by it.
    """

    line: Literal["some", "full"]
    stall_us: int
    window_us: int
    number: int


LEVEL_HOLDS_NS = SECOND_NS  # the kernel tells again for every 512 pages that it looks through for something to reclaim


@dataclass(frozen=True, slots=True)
class LevelAbove:
    """memory.pressure_level of cgroup v1: the kernel told of this level or a higher one, within ``LEVEL_HOLDS_NS``.

    ``mode``: what is told of pressure below: "default", where nobody there listens himself; "hierarchy", all; "local",
    none. ``number`` as in ``StallAbove``.
    """

    level: Literal["low", "medium", "critical"]
    mode: Literal["default", "hierarchy", "local"]
    number: int


@dataclass(frozen=True, slots=True)
class PressureAbove:
    """The kernel's running average is above this share of wall time (0.2 is 20 %)."""

    line: Literal["some", "full"]
    share: float
    over: Literal["10s", "60s", "300s"]


@dataclass(frozen=True, slots=True)
class PressureRising:
    """The kernel's average over 10 s (60 s) is above this share, and a tenth over that of 60 s (300 s)."""

    line: Literal["some", "full"]
    share: float
    over: Literal["10s", "60s"]


@dataclass(frozen=True, slots=True)
class ZramAbove:
    """Swap that is kept compressed in memory. Of "memory": what zram and zswap take; shares are of MemTotal.

    Of "disk": what is stored in zram, before compression; shares are of its disksize.
    """

    of: Literal["memory", "disk"]
    amount: Amount


@dataclass(frozen=True, slots=True)
class GrowthAbove:
    """Unreclaimable memory and swap grow by more than this a second, in each third of ``over_ns``.

    Shares are of the effective limit. ``number`` is unique in the plan, here and below: what was seen is kept by it.
    """

    amount: Amount
    over_ns: int
    number: int


@dataclass(frozen=True, slots=True)
class ExhaustsWithin:
    """Memory and swap will be gone in this time, if they go on as in the slowest third of the time before."""

    within_ns: int
    number: int


@dataclass(frozen=True, slots=True)
class RefaultsAbove:
    """Memory that was taken away is read again: more than this a second, in each third of ``over_ns``."""

    of: Literal["anon", "file", "any"]
    amount: Amount
    over_ns: int
    number: int


@dataclass(frozen=True, slots=True)
class EventsAbove:
    """memory.events of the cgroup and all below it: this line has counted more than so many in ``per_ns``."""

    event: Literal["low", "high", "max", "oom", "oom_kill"]
    count: int
    per_ns: int
    number: int


Tracked = GrowthAbove | ExhaustsWithin | RefaultsAbove | EventsAbove  # those that need to know what was before
Condition = (
    AvailableBelow
    | SwapFreeBelow
    | MemoryAbove
    | SwapAbove
    | StallAbove
    | LevelAbove
    | PressureAbove
    | PressureRising
    | ZramAbove
    | Tracked
)


@dataclass(frozen=True, slots=True)
class Clause:
    """One table of a ``when`` list: all of its conditions must hold, without a break for ``lasting_ns``."""

    all_of: tuple[Condition, ...]
    lasting_ns: int = 0


@dataclass(frozen=True, slots=True)
class SnapshotStep:
    """Take the evidence."""


@dataclass(frozen=True, slots=True)
class NotifyStep:
    """Tell the journal (and whoever listens)."""


@dataclass(frozen=True, slots=True)
class NominateStep:
    """Rank the candidates and hold the first one open."""


@dataclass(frozen=True, slots=True)
class KillStep:
    """End the victim: SIGTERM first if ``grace_ns`` is not 0, SIGKILL after it."""

    grace_ns: int = 0


@dataclass(frozen=True, slots=True)
class SetHighStep:
    """Lease memory.high of the target's cgroup for a time. Shares are of the effective limit."""

    to: Amount
    for_ns: int


@dataclass(frozen=True, slots=True)
class SetMaxStep:
    """Lease memory.max of the target's cgroup for a time. Shares are of the effective limit."""

    to: Amount
    for_ns: int


@dataclass(frozen=True, slots=True)
class SetSwapMaxStep:
    """Lease memory.swap.max of the target's cgroup for a time. Shares are of the effective one."""

    to: Amount
    for_ns: int


@dataclass(frozen=True, slots=True)
class SetOomScoreAdjStep:
    """Lease oom_score_adj of the nominee for a time."""

    to: int
    for_ns: int


@dataclass(frozen=True, slots=True)
class WaitStep:
    """What was done so far has so long to help. The list goes on only while the watermark holds."""

    for_ns: int


@dataclass(frozen=True, slots=True)
class ReclaimStep:
    """Have the kernel take back so much of the target's cgroup, in bites, for ``within_ns`` at most.

    Shares are of the effective limit. ``by_high``: by a memory.high for that time, where there is no memory.reclaim.
    """

    amount: Amount
    within_ns: int
    by_high: bool = False


@dataclass(frozen=True, slots=True)
class FreezeStep:
    """Stop the nominee's cgroup for a time (cgroup.freeze)."""

    for_ns: int


@dataclass(frozen=True, slots=True)
class UnitStep:
    """Have systemd restart or stop the unit: of the guard's cgroup, or where that is in none, of the nominee."""

    verb: Literal["restart", "stop"]


@dataclass(frozen=True, slots=True)
class RunStep:
    """Run a program, as this user ("": the one that may do nothing), for so long at most."""

    argv: tuple[str, ...]
    user: str
    deadline_ns: int


@dataclass(frozen=True, slots=True)
class TellStep:
    """Tell whoever listens at the policy's socket and FIFOs to give memory back.

    ``every_ns``: again after that, while the watermark holds; 0: once. ``to``: those inside of the target's cgroup, or
    all that listen. ``fifos``: (name, the user who may read it).
    """

    every_ns: int
    to: Literal["inside", "all"] = "inside"
    fifos: tuple[tuple[str, str], ...] = ()


LimitStep = SetHighStep | SetMaxStep | SetSwapMaxStep
Step = (
    SnapshotStep
    | NotifyStep
    | NominateStep
    | KillStep
    | SetHighStep
    | SetMaxStep
    | SetSwapMaxStep
    | SetOomScoreAdjStep
    | WaitStep
    | ReclaimStep
    | FreezeStep
    | UnitStep
    | RunStep
    | TellStep
)


@dataclass(frozen=True, slots=True)
class Watermark:
    """Any clause is enough; then the steps, in order."""

    when: tuple[Clause, ...]
    do: tuple[Step, ...]

    @property
    def kills(self) -> bool:
        """Whether somebody is ended at it."""
        return any(isinstance(step, KillStep) for step in self.do)


@dataclass(frozen=True, slots=True)
class Expression:
    """A regular expression as the table of an automaton (``policy.expression``): one step a letter, whatever it is.

    ``cuts``: where a class of letters ends and the next begins; ``table``: by state and class the next state, as a
    letter of that number; state 0 is the dead end, 1 the first. ``accepts``: by state whether the text may end there.
    """

    text: str
    cuts: tuple[int, ...]
    table: str
    accepts: str

    def describes(self, text: str) -> bool:
        """Whether it is of the whole text. One of more than a path's length is of no name that there is."""
        if len(text) > PATH_MAX:
            return False
        cuts, table, state = self.cuts, self.table, 1
        width = len(cuts) + 1
        for letter in text:
            code, low, high = ord(letter), 0, len(cuts)
            while low < high:
                middle = (low + high) // 2
                low, high = (low, middle) if code < cuts[middle] else (middle + 1, high)
            state = ord(table[state * width + low])
            if not state:
                return False
        return self.accepts[state] == "1"


Pattern = str | Expression


@dataclass(frozen=True, slots=True)
class Match:
    """A candidate matches when every pattern that is given matches. A text is a glob (``judge.glob``).

    ``unit`` is the innermost systemd unit of the cgroup; ``cgroup`` is the path from the cgroup root. ``exe`` is what
    /proc/PID/exe leads to. ``uid`` (the real one) and ``oom_score_adj``: from, to. An age of 0 is any.
    """

    comm: Pattern | None = None
    unit: Pattern | None = None
    cgroup: Pattern | None = None
    exe: Pattern | None = None
    uid: tuple[int, int] | None = None
    oom_score_adj: tuple[int, int] | None = None
    older_ns: int = 0
    younger_ns: int = 0


@dataclass(frozen=True, slots=True)
class VictimRule:
    """Who may be a victim, and in what order. ``mix``: of several measures, each with its weight, where by is "mix"."""

    by: Literal[
        "memory", "oom_score", "growth", "swap", "pressure", "refaults", "oldest", "newest", "fair_share", "mix"
    ] = "memory"
    take: Literal["auto", "process", "process_group", "session", "subtree", "cgroup", "unit"] = "auto"
    never: tuple[Match, ...] = ()
    avoid: tuple[Match, ...] = ()  # weighed a quarter of what it holds
    prefer: tuple[Match, ...] = ()  # weighed four times
    mix: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Budget:
    """At most so many kills in any ``per_ns``."""

    kills: int
    per_ns: int


# shadow: a guard of another policy that is only tried out beside the one in force; its name begins with SHADOW.
Mode = Literal["enforce", "observe", "shadow"]
SHADOW = "shadow:"


@dataclass(frozen=True, slots=True)
class Guard:
    """One ``[policy.NAME]`` table."""

    name: str
    cgroup: str  # a glob over cgroup paths, or another selector (``judge.select``); "/" is the machine
    mode: Mode = "enforce"
    soft: Watermark | None = None
    hard: Watermark | None = None
    victim: VictimRule = VictimRule()
    tripwire: bool = False
    brake: bool = True
    insurance: bool = True  # the nominee's oom_score_adj is 1000 while armed
    cooldown_ns: int = 5 * SECOND_NS
    budget: Budget | None = None
    notify: tuple[str, ...] | None = None  # the sinks that hear of it; None: all
    origin: str = ""  # file:line
    xattr: str = ""  # "NAME=GLOB": of those cgroups only the ones with that extended attribute; "" all

    @property
    def xattr_name(self) -> str:
        """Which extended attribute; "" none."""
        return self.xattr.partition("=")[0]


Told = Literal["soft", "hard", "measure", "killed", "gone", "failed", "kernel", "calm", "daemon"]


@dataclass(frozen=True, slots=True)
class Sink:
    """One ``[sinks.NAME]`` table: who is told besides the journal.

    A URL is a secret, so it is in no plan, only the file in which it stands: the policy itself, if ``service`` (the
    URL's scheme) is given, else a file with nothing else in it. Whoever sends reads it there.
    """

    name: str
    by: Literal["url", "run", "desktop"]
    at: tuple[Told, ...]
    every_ns: int
    service: str = ""
    file: str = ""
    argv: tuple[str, ...] = ()
    origin: str = ""  # file:line


@dataclass(frozen=True, slots=True)
class AlsoAvailable:
    """Memory that comes back when it is wanted, and that MemAvailable misses: ZFS's cache (ARC), as a file tells it.

    ``file`` has lines that begin with a name and end with a number of bytes; ``key`` less ``less`` counts as available.
    """

    file: str
    key: str
    less: str = ""


@dataclass(frozen=True, slots=True)
class Daemon:
    """The ``[daemon]`` table, paths absolute."""

    state_dir: str = "/var/lib/oomguard"
    runtime_dir: str = "/run/oomguard"
    proc: str = "/proc"
    cgroup: str = "/sys/fs/cgroup"
    sys: str = "/sys"
    heap_bytes: int = 1792 << 10  # reserved and touched at start (core)
    worker_heap_bytes: int = 1 << 20  # the same in the scribe
    ring_bytes: int = 1 << 20  # the flight recorder
    deadman_ns: int = 2 * SECOND_NS  # so long without a turn of the core, and the dead man acts; 0: never
    incidents_max_count: int = 200
    incidents_max_bytes: int = 512 << 20
    incidents_max_age_ns: int = 0  # 0: none is too old
    budget: Budget | None = None  # of all guards together
    shadow: str = ""  # the file of a policy that is judged beside this one, and never acts
    also_available: AlsoAvailable | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """All that the core is told. Made by ``oomguard.policy.compile``, handed over in a sealed memfd."""

    version: str
    daemon: Daemon
    guards: tuple[Guard, ...]
    files: tuple[str, ...] = ()  # where it came from, in order
    argv: tuple[str, ...] = ()  # how to compile it again (reload)
    remarks: tuple[tuple[str, str], ...] = ()  # (what, why): doubts of the compiler, for status
    made_from: str = ""  # a digest of all that it depends upon (cli.origin); "": nothing equals it
    sinks: tuple[Sink, ...] = ()

    def steps(self) -> tuple[Step, ...]:
        """All that any guard may do."""
        marks = [mark for guard in self.guards for mark in (guard.soft, guard.hard) if mark is not None]
        return tuple(step for mark in marks for step in mark.do)

    def conditions(self) -> tuple[Condition, ...]:
        """All that any guard waits for."""
        marks = [mark for guard in self.guards for mark in (guard.soft, guard.hard) if mark is not None]
        return tuple(condition for mark in marks for clause in mark.when for condition in clause.all_of)
