"""What to try next, by rules: each looks at one incident and says nothing, or what it saw and what would help.

A rule says only what the record shows. They are tried in the order of ``RULES``, the most telling first.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from . import series
from .series import Growth
from .words import printable, size

_MIB: Final = 1 << 20
_MANY: Final = 50  # processes; a browser has thirty
_AT_ONCE_MS: Final = 1500  # between two looks in calm there is a second
_SHARE: Final = 0.2  # of the machine (or the cgroup): less of tmpfs or kernel memory is ordinary


@dataclass(frozen=True, slots=True)
class Advice:
    """``rule``: its name, for programs. ``saw``: what the record shows. ``do``: what may help, a line each."""

    rule: str
    saw: str
    do: tuple[str, ...]

    def plain(self) -> dict[str, object]:
        """For programs."""
        return {"rule": self.rule, "saw": self.saw, "do": list(self.do)}


class Case:
    """An incident, with what several rules ask of it."""

    def __init__(self, incident: Mapping[str, Any]) -> None:
        self.it = incident
        self.evidence: Mapping[str, Any] = incident["evidence"]
        self.victims: list[Mapping[str, Any]] = list(incident["victims"])
        self.growths = series.growths(incident)

    @property
    def whole_machine(self) -> bool:
        """Whether it is the machine that ran short."""
        return bool(self.it["cgroup"] == "/")

    def culprit(self) -> Growth | None:
        """The victim as it grew; where nobody was killed, who grew most."""
        pids = {victim["pid"] for victim in self.victims}
        return next((g for g in self.growths if g.pid in pids), None) or next(iter(self.growths), None)

    def readings(self) -> series.Points:
        """What the machine, or the guard's cgroup, could not give back, until the first signal."""
        end = min((kill["at_ms"] for kill in self.it["kills"]), default=float("inf"))
        own = str(self.it["cgroup"])
        if self.whole_machine:
            points = [(at, -left) for at, left in series.host(self.it, "available_bytes")]
        else:
            points = series.used(self.it, own)
        return [(at, value) for at, value in points if at <= end]

    def meminfo(self, field: str) -> int:
        """The last value before anybody was gone; 0: not known."""
        stages = self.evidence.get("meminfo", {})
        return int(next((stages[s][field] for s in ("hard", "soft", "late") if field in stages.get(s, {})), 0))

    def cgroup(self, path: str, file: str) -> Any:
        """A file of a cgroup, from the latest stage before the end that has it."""
        stages = self.evidence.get("cgroups", {})
        found = (stages.get(stage, {}).get(path, {}).get(file) for stage in ("hard", "soft", "late"))
        return next((value for value in found if value is not None), None)

    def home(self) -> str:
        """The victim's cgroup, or the guard's."""
        return str(self.victims[0]["cgroup"] if self.victims else self.it["cgroup"])

    def taken_whole(self) -> int:
        """How many processes died together."""
        return max((kill["count"] or 0 for kill in self.it["kills"]), default=0)

    def command(self, pid: int) -> str:
        """Its command line; empty: not known."""
        return str(self.evidence.get("cmdlines", {}).get(str(pid), ""))

    def rises(self, file: str, counter: str, of: str = "") -> tuple[float, float]:
        """(how much a counter rose, in how many seconds) from the first stage of evidence to the last."""
        taken = {entry["stage"]: entry["at_ms"] for entry in reversed(self.evidence.get("taken", ()))}
        table = self.evidence.get(file, {})
        values = []
        for stage in ("soft", "hard", "late", "gone", "close"):
            found = table.get(stage, {}).get(of, {}).get("memory.stat", {}) if of else table.get(stage, {})
            if counter in found and stage in taken:
                values.append((taken[stage], found[counter]))
        if len(values) < 2:
            return 0.0, 0.0
        return float(values[-1][1] - values[0][1]), (values[-1][0] - values[0][0]) / 1000


def advise(incident: Mapping[str, Any], most: int = 3) -> list[Advice]:
    """At most so many, the most telling first."""
    case = Case(incident)
    return [advice for rule in RULES.values() if (advice := rule(case))][:most]


# -- the rules ---------------------------------------------------------------------------------------------------------


def nobody_to_take(case: Case) -> Advice | None:
    """The hard watermark held, and nobody was killed."""
    told = [entry["text"] for entry in case.it["timeline"] if entry["what"] == "notify"]
    if case.it["kind"] != "hard" or case.it["killed_by"] != "none" or case.it["mode"] == "observe" or not told:
        return None
    policy = f"[policy.{case.it['policy']}]"
    if any("budget" in text for text in told):
        saw = "The kill budget was spent, so nobody was killed."
        more = "What was killed before comes back: a unit that restarts into the same leak wants a limit, or a fix."
        do = f"Raise `budget` of {policy} if another kill is what should have happened."
        return Advice("budget spent", saw, (do, more))
    loosen = f"Loosen `never` of {policy}, or guard the cgroup that grew by a policy of its own."
    return Advice("nobody to take", f"Memory ran out and the policy let nobody be taken: {told[-1]}.", (loosen,))


def no_guard(case: Case) -> Advice | None:
    """The kernel killed where nobody watched, or something stood still there."""
    stalled = case.it["kind"] == "stall" and case.it["killed_by"] == "none"
    if case.it["policy"] or not (stalled or case.it["killed_by"] == "kernel"):
        return None
    if stalled:
        limit = 'stall_above = { full = "150ms", within = "1s" }'
        table = f'[policy.NAME] cgroup = "{case.it["cgroup"]}", with a soft and a hard {limit}'
        saw = f"{case.it['cgroup']} stood still, and no policy watches it."
        return Advice("no guard", saw, (f"Add {table}.", "Where a limit of its own holds it, raise that."))
    table = f'[policy.NAME] cgroup = "{case.it["cgroup"]}", tripwire = true, with a soft and a hard memory_above'
    return Advice("no guard", f"The kernel killed in {case.it['cgroup']}, which no policy covers.", (f"Add {table}.",))


def kernel_first(case: Case) -> Advice | None:
    """We were too late, or were told to observe."""
    if case.it["killed_by"] != "kernel" or not case.it["policy"]:
        return None
    if case.it["mode"] == "observe":
        do = (f'Set mode = "enforce" in [policy.{case.it["policy"]}] if you agree with whom it would have taken.',)
        return Advice("observe mode", "The policy only observed, and the kernel had to kill.", do)
    guard = case.it["guard"] or {}
    more = ["Raise the hard watermark: there was too little left between it and the end."]
    if not case.whole_machine and not guard.get("tripwire"):
        more.insert(0, f"Set tripwire = true in [policy.{case.it['policy']}]: the kernel then stops who crosses it.")
    saw = "The kernel killed before the hard watermark had led to anything."
    return Advice("the kernel was first", saw, tuple(more))


def fork_storm(case: Case) -> Advice | None:
    """Many small processes, and more of them all the time."""
    many, counted = case.taken_whole(), [count for _, count in series.counts(case.it, case.home())]
    if many < _MANY or len(counted) < 2 or max(counted) < 1.1 * counted[0]:
        return None
    saw = f"{case.home()} went from {counted[0]:.0f} to {max(counted):.0f} processes, {_each(case)}."
    do = f"Bound their number: systemctl set-property {_unit(case.home())} TasksMax={many // 2}"
    return Advice("fork storm", saw, (do,))


def many_processes(case: Case) -> Advice | None:
    """Many small ones whose sum is too much; their number stays."""
    many = case.taken_whole()
    if many < _MANY or fork_storm(case) is not None:
        return None
    saw = f"{many} processes of {case.home()}, {_each(case)}, were too much together."
    do = "Start fewer workers, or give the service a MemoryMax that they share."
    return Advice("many processes", saw, (do,))


def back_again(case: Case) -> Advice | None:
    """The victim was started again, and a minute later it held half as much as when it died, or more."""
    looks: list[Any] = case.it.get("after") or []
    back = [it for it in (looks[-1]["victims"] if looks else ()) if it["again"]]
    if not back:
        return None
    unit, when = _unit(back[0]["cgroup"]), looks[-1]["at_s"]
    saw = f"{printable(back[0]['comm'])} was started again, and {when:.0f} s later held {size(back[0]['bytes'])} again."
    do = (f"Slow its restarts down: RestartSec=, StartLimitBurst= and StartLimitIntervalSec= of {unit}",)
    return Advice("back again", saw, do)


def heap_without_limit(case: Case) -> Advice | None:
    """A JVM or a Node whose command line bounds no heap."""
    for victim in case.victims:
        command = case.command(victim["pid"])
        words = command.split()
        program = words[0].rpartition("/")[2] if words else ""
        if program == "java" and not re.search(r"-Xmx|-XX:Max(Heap|RAM)", command):
            do = "Set -XX:MaxRAMPercentage=75 under a MemoryMax of its unit, or an -Xmx that fits beside the others."
            return Advice("heap without a limit", f"java[{victim['pid']}] runs without -Xmx.", (do,))
        if program in ("node", "nodejs") and "--max-old-space-size" not in command:
            do = "Set --max-old-space-size (or NODE_OPTIONS) to what its unit may have, less a quarter for buffers."
            return Advice("heap without a limit", f"node[{victim['pid']}] runs without --max-old-space-size.", (do,))
    return None


def large_allocation(case: Case) -> Advice | None:
    """Most of the growth between two looks; if it died before the next look at it, between two readings.

    These also jump by themselves in a machine that swaps: no jump is needed where a steady growth explains as much.
    """
    growth = case.culprit()
    found = _jump(growth.points) if growth is not None else None
    who, unit = (_who(growth), _unit(growth.cgroup)) if growth is not None else ("Somebody", "UNIT")
    if found is None:
        readings = case.readings()
        found = _jump(readings)
        if found is not None and growth is not None and _is_steady(growth) and growth.bytes >= found[1]:
            return None
        if found is not None and case.victims:
            who, unit = f"{printable(case.victims[0]['comm'])}[{case.victims[0]['pid']}]", _unit(case.home())
    if found is None:
        return None
    _, more, ms = found
    saw = f"{who} took {size(int(more))} within {ms:.0f} ms: one large allocation, no slow leak."
    do = (
        f"Let it fail alone: systemctl set-property {unit} MemoryMax=SIZE (below what the machine can spare)",
        "If the job is meant to need so much, run it where that much is free, or lower its batch size.",
    )
    return Advice("one large allocation", saw, do)


def leak(case: Case) -> Advice | None:
    """Steady growth of one process, look by look."""
    growth = case.culprit()
    if growth is None or not _is_steady(growth):
        return None
    rate = growth.bytes / growth.seconds
    saw = (
        f"{_who(growth)} grew look after look, by {size(int(growth.bytes))} in {growth.seconds:.1f} s"
        f" ({size(int(rate))}/s): a leak, or work without a bound."
    )
    unit = _unit(growth.cgroup)
    bound = f"Bound it, so that nobody else suffers: systemctl set-property {unit} MemoryMax=SIZE (of an ordinary day)"
    guard = f'and guard it by itself: [policy.NAME] cgroup = "{growth.cgroup}", tripwire = true'
    return Advice("leak", saw, (bound, guard) if case.whole_machine else (bound,))


def tight_limit(case: Case) -> Advice | None:
    """A service at its limit without growing, on a machine with plenty."""
    limit = series.limit(case.it, case.it["cgroup"])
    available, total = case.meminfo("MemAvailable"), case.meminfo("MemTotal")
    growth = case.culprit()
    if case.whole_machine or not limit or not available or available < max(limit, total // 4):
        return None
    if growth is not None and (_is_steady(growth) or large_allocation(case)):
        return None
    wanted = _above(max((value for _, value in series.used(case.it, case.it["cgroup"])), default=limit))
    saw = (
        f"{case.it['cgroup']} came near its limit of {size(limit)} without growing steadily,"
        f" while the machine had {size(available)} available."
    )
    return Advice("limit too tight", saw, (f"systemctl set-property {_unit(case.it['cgroup'])} MemoryMax={wanted}",))


def throttled(case: Case) -> Advice | None:
    """An owner's memory.high that holds a service back for ever: no limit is hit, no OOM comes."""
    for path in dict.fromkeys((case.home(), case.it["cgroup"])):
        high, current = case.cgroup(path, "memory.high"), case.cgroup(path, "memory.current")
        events = case.cgroup(path, "memory.events") or {}
        ours = {a["value"] for _, turn in series.turns(case.it) for a in turn["actions"] if a["kind"] == "Lease"}
        if not isinstance(high, int) or not isinstance(current, int) or high in ours:
            continue
        if current >= 0.98 * high and events.get("high", 0) >= 100:
            saw = f"{path} stands at its own memory.high of {size(high)} and was throttled {events['high']} times."
            do = (
                f"What needs more is only slow there: systemctl set-property {_unit(path)} MemoryHigh={_above(high)}",
                "or none at all: a MemoryMax and a guard do the rest.",
            )
            return Advice("throttled by memory.high", saw, do)
    return None


def thrash(case: Case) -> Advice | None:
    """The page cache is read again as fast as it is dropped."""
    rose, seconds = case.rises("vmstat", "workingset_refault_file")
    cached, total = case.meminfo("Cached"), case.meminfo("MemTotal")
    if not case.whole_machine:
        rose, seconds = case.rises("cgroups", "workingset_refault_file", case.it["cgroup"])
        cached = (case.cgroup(case.it["cgroup"], "memory.stat") or {}).get("file", 0)
    again = rose * 4096
    if seconds <= 0 or again < max(0.5 * cached, 32 * _MIB, total // 64):
        return None
    saw = (
        f"{size(int(again))} of files were read again in {seconds:.1f} s, with {size(cached)} of page cache left:"
        " programs did not stay in memory."
    )
    do = (
        "Protect who must answer: systemctl set-property UNIT MemoryLow=SIZE (of what it works with)",
        'and act on the stall: soft or hard with { stall_above = { full = "150ms", within = "1s" } }',
    )
    return Advice("page cache thrash", saw, do)


def tmpfs(case: Case) -> Advice | None:
    """Memory that lies in files of tmpfs, or in shared segments."""
    shmem, total = case.meminfo("Shmem"), case.meminfo("MemTotal")
    if not case.whole_machine:
        stat = case.cgroup(case.it["cgroup"], "memory.stat") or {}
        shmem, total = stat.get("shmem", 0), series.limit(case.it, case.it["cgroup"]) or total
    if not total or shmem < _SHARE * total:
        return None
    saw = f"{size(shmem)} ({100 * shmem // total} %) lay in tmpfs or shared memory: a process's end may not free it."
    do = ("df -h -t tmpfs; ls -la /dev/shm /tmp; ipcs -m", "Bound it with mount -o size=, or PrivateTmp= on a disk.")
    return Advice("tmpfs", saw, do)


def kernel_memory(case: Case) -> Advice | None:
    """Memory of the kernel's own, which no kill gives back."""
    parts = {name: case.meminfo(name) for name in ("SUnreclaim", "PageTables", "KernelStack", "Percpu", "VmallocUsed")}
    total, sum_ = case.meminfo("MemTotal"), sum(parts.values())
    if not case.whole_machine or not total or sum_ < _SHARE * total:
        return None
    most = max(parts, key=lambda name: parts[name])
    saw = f"The kernel itself held {size(sum_)} ({100 * sum_ // total} %), most of it {most}: no kill gives that back."
    do = ("slabtop -o -s c | head -20; the table of that moment is raw/soft/slabinfo",)
    return Advice("kernel memory", saw, do)


RULES: Final[Mapping[str, Callable[[Case], Advice | None]]] = {
    "no guard": no_guard,
    "the kernel was first": kernel_first,
    "nobody to take": nobody_to_take,
    "back again": back_again,
    "throttled by memory.high": throttled,
    "heap without a limit": heap_without_limit,
    "fork storm": fork_storm,
    "many processes": many_processes,
    "one large allocation": large_allocation,
    "leak": leak,
    "limit too tight": tight_limit,
    "tmpfs": tmpfs,
    "kernel memory": kernel_memory,
    "page cache thrash": thrash,
}


# -- small parts -------------------------------------------------------------------------------------------------------


def _each(case: Case) -> str:
    home = case.home()
    largest = max((growth.points[-1][1] for growth in case.growths if growth.cgroup == home), default=0)
    return f"none larger than {size(int(largest))}" if largest else "all of them small"


def _jump(points: series.Points) -> tuple[float, float, float] | None:
    """(value before, how much more, in how many ms) of one step that is most of all growth; None: there is none."""
    if len(points) < 3:
        return None
    steps = [(after[1] - before[1], before, after) for before, after in pairwise(points)]
    more, before, after = max(steps, key=lambda step: step[0])
    grown = after[1] - min(value for _, value in points)
    if more < max(64 * _MIB, 0.6 * grown) or after[0] - before[0] > _AT_ONCE_MS:
        return None
    return before[1], more, after[0] - before[0]


def _is_steady(growth: Growth) -> bool:
    """Four looks or more, nine steps of ten upwards, a tenth more in the end, and no step that is most of it."""
    steps = growth.steps
    if len(steps) < 3 or growth.seconds <= 0:
        return False
    up = sum(step > 0 for step in steps)
    enough = growth.bytes >= max(4 * _MIB, 0.02 * growth.points[-1][1])
    return enough and up >= 0.5 * len(steps) and min(steps) > -0.1 * growth.bytes and max(steps) < 0.6 * growth.bytes


def _who(growth: Growth) -> str:
    return f"{printable(growth.comm)}[{growth.pid}]"


def _unit(cgroup: str) -> str:
    """The innermost systemd unit, for systemctl."""
    units = [part for part in cgroup.split("/") if part.endswith((".service", ".scope", ".slice"))]
    return units[-1] if units else "UNIT"


def _above(count: float) -> str:
    """A quarter more, as systemd writes it."""
    return f"{max(16, -(-int(count * 1.25) // _MIB))}M"
