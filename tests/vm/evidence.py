"""What became of a machine in a storm, by the record of the witness: who died, by whose hand, and when."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .storms import Storm

MIB = 1 << 20
SI_KERNEL = 128
SIGKILL = 9
KEPT = 20  # kills of a storm that are told one by one
DRAWN = 160  # points of a time line
COURSE = ("ms", "available MiB", "free swap MiB", "PSI some ms", "PSI full ms", "culprit MiB")
Thresholds = tuple[float, float]  # it acts when less than these shares of memory and of swap are left
AGENT = "probe-agent"
UDEV = "systemd-udevd"  # which ends its own workers when they have nothing to do
UDEV_WORKERS = "system.slice/systemd-udevd.service/udev"
NO_DAEMONS = ("work.slice/", "probe.slice/")  # whoever kills from another cgroup is a daemon


@dataclass(frozen=True, slots=True)
class Kill:
    at_ms: float  # since the culprit's start
    by: str  # "kernel", the sender's unit without its suffix, or the sender's comm
    signal: int
    pid: int
    comm: str
    cgroup: str  # "?" when the witness did not know the process


@dataclass(frozen=True, slots=True)
class StormResult:
    storm: str
    kills: tuple[Kill, ...]  # the first of them
    killed: dict[str, int]  # cgroup -> how many of its processes were signalled
    killed_by: str  # who sent the culprit its first signal; "nobody"
    survived: bool  # the culprit was still there at the end
    innocents: tuple[str, ...]  # cgroups of others that were signalled
    vanished: tuple[str, ...]  # processes outside the culprit's cgroup that were there before and not after
    line_ms: float | None  # the reference line, since the culprit's start
    signal_after_line_ms: float | None
    signal_after_own_ms: float | None  # after the killer's own thresholds; None where it has none to compare
    exit_after_line_ms: float | None
    signal_to_exit_ms: float | None
    kernel_oom_kills: int  # vmstat oom_kill
    events: dict[str, int]  # memory.events of work.slice and all below
    canary_max_gap_ms: float | None
    canary_stalled_ms: float | None
    psi_some_ms: float
    psi_full_ms: float
    min_available_mib: float
    available_at_signal_mib: float | None
    culprit_at_signal_mib: float | None
    rate_mib_s: float | None
    vmstat: dict[str, int]
    witness_late_ms: float  # the longest delay of the witness itself
    culprit_pids: tuple[int, ...]
    course: tuple[tuple[float, ...], ...] = ()  # COURSE, thinned
    snapshot_after_ms: float | None = None  # from the first kill to the evidence of the hard watermark on the disk
    written_after_ms: float | None = None  # and to the last byte of the incident
    faults: dict[str, int] = field(default_factory=dict)  # of the core since it was armed
    incidents: tuple[dict[str, Any], ...] = ()
    journal: str = ""
    kernel_log: str = ""
    wall_s: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class Written:
    """Of the incidents on the disk, CLOCK_MONOTONIC in ns: the last write to any, and when the last evidence of a hard
    watermark had been read (None: there is none)."""

    last: int
    hard: int | None


class Evidence:
    """The witness's record, and the questions that are put to it."""

    def __init__(self, storm: Storm, record: dict[str, Any], acts_at: Thresholds | None = None) -> None:
        self.storm, self.record, self.acts_at = storm, record, acts_at
        self.rows: list[list[int]] = record["rows"]
        self.canary: list[list[int]] = []
        self.growth: list[list[int]] = []
        self.exits = {entry["pid"]: entry["at"] for entry in record["exits"]}
        self.oom_victims = {entry["pid"] for entry in record["oom_victims"]}
        self.cgroup_of = {
            pid: cgroup
            for part in ("processes_after", "processes_before", "members")
            for cgroup, pids in record[part].items()
            for pid in pids
        }
        self.daemons = {unit_name(cgroup) for cgroup in self.cgroup_of.values() if not cgroup.startswith(NO_DAEMONS)}
        self.culprits = {pid for pid, cgroup in self.cgroup_of.items() if cgroup == storm.culprit.cgroup}

    def result(self, written: Written | None = None, **more: Any) -> StormResult:
        """`written`: what is known of the incidents on the disk."""
        kills = self.kills()
        first = next((kill for kill in kills if kill.cgroup == self.storm.culprit.cgroup), None)
        signalled = first and self.start + round(first.at_ms * 1e6)
        ended = self.exits.get(first.pid) if first else self.record["emptied_at"] or None
        line = next((r[0] for r in self.rows if self.crossed(r)), None)
        until = (ended or self.record["ended_at"]) + 10**9
        during = [row for row in self.rows if self.start <= row[0] <= until] or self.rows
        gaps = self.canary_gaps(until)
        born_late = {kill.pid for kill in kills if kill.cgroup == self.storm.culprit.cgroup}
        at_signal = min(self.rows, key=lambda row: abs(row[0] - signalled)) if signalled else None
        return StormResult(
            storm=self.storm.name,
            kills=kills[:KEPT],
            killed=dict(Counter(kill.cgroup for kill in kills)),
            killed_by=first.by if first else "nobody",
            survived=not self.record["emptied_at"],
            innocents=tuple(sorted({kill.cgroup for kill in kills if self.is_innocent(kill)})),
            vanished=self.vanished(),
            line_ms=between(self.start, line),
            signal_after_line_ms=between(line, signalled),
            signal_after_own_ms=between(self.own_line(), signalled),
            exit_after_line_ms=between(line, ended),
            signal_to_exit_ms=between(signalled, ended),
            kernel_oom_kills=self.record["vmstat"]["oom_kill"],
            events=self.events(),
            canary_max_gap_ms=max(gaps, default=None),
            canary_stalled_ms=round(sum(gap - 10 for gap in gaps if gap > 50), 1) if gaps else None,
            psi_some_ms=(during[-1][4] - during[0][4]) / 1000,
            psi_full_ms=(during[-1][5] - during[0][5]) / 1000,
            min_available_mib=round(min(row[1] for row in during) / 1024, 1),
            available_at_signal_mib=round(at_signal[1] / 1024, 1) if at_signal else None,
            culprit_at_signal_mib=round(at_signal[6] / MIB, 1) if at_signal else None,
            rate_mib_s=self.rate(),
            vmstat=self.record["vmstat"],
            witness_late_ms=round(self.record["late_max_ms"], 1),
            culprit_pids=tuple(sorted(self.culprits | born_late)),
            course=self.course(until),
            snapshot_after_ms=between(signalled, written and self.snapshot_at(written)),
            written_after_ms=between(signalled, written and written.last),
            **more,
        )

    def snapshot_at(self, written: Written) -> int | None:
        """When an incident.json was in its place that held the evidence of the hard watermark: the first that the
        witness saw put there after the last of it was read; of one that came when the witness had gone, the last write.
        """
        if written.hard is None:
            return None
        held = (at for at, _ in self.record["incident_writes"] if at >= written.hard)
        return min((*held, written.last))

    @property
    def start(self) -> int:
        """When the culprit began to grow; without a log of its own, when its cgroup was first seen to hold memory."""
        if self.growth:
            return self.growth[0][0]
        return next((row[0] for row in self.rows if row[6]), self.rows[0][0])

    def crossed(self, row: list[int]) -> bool:
        return row[0] >= self.start and self.storm.crossed(row, self.record["mem_total_kb"])

    def own_line(self) -> int | None:
        """When the thresholds of the daemon on duty were first crossed; under a limit, the line itself."""
        if self.storm.limit_bytes or not self.acts_at:
            return next((row[0] for row in self.rows if self.crossed(row)), None) if self.acts_at else None
        memory, swap = self.acts_at
        least_memory = memory * self.record["mem_total_kb"]
        least_swap = swap * max(row[2] for row in self.rows)
        crossed = (
            row[0] for row in self.rows if row[0] >= self.start and row[1] < least_memory and row[2] <= least_swap
        )
        return next(crossed, None)

    def course(self, until: int) -> tuple[tuple[float, ...], ...]:
        """The time line, thinned: see COURSE."""
        rows = [row for row in self.rows if self.start - 500_000_000 <= row[0] <= until]
        step = max(1, len(rows) // DRAWN)
        return tuple(
            (
                round((row[0] - self.start) / 1e6),
                round(row[1] / 1024, 1),
                round(row[2] / 1024, 1),
                round((row[4] - rows[0][4]) / 1000, 1),
                round((row[5] - rows[0][5]) / 1000, 1),
                round(row[6] / MIB, 1),
            )
            for row in rows[::step]
        )

    def kills(self) -> tuple[Kill, ...]:
        """Who was signalled by whom: the first signal each, and every SIGKILL."""
        kills: list[Kill] = []
        for entry in self.record["signals"]:
            pid = entry["to_pid"]
            if entry["signal"] != SIGKILL and any(kill.pid == pid for kill in kills):
                continue
            kill = self.kill(entry)
            if self.counts(kill):
                kills.append(kill)
        return tuple(kills)

    def is_innocent(self, kill: Kill) -> bool:
        return kill.cgroup != self.storm.culprit.cgroup and not (kill.cgroup == UDEV_WORKERS and kill.by == UDEV)

    def counts(self, kill: Kill) -> bool:
        """Not the shells of the agent, and of the processes that the witness did not know only a killer's victims."""
        if kill.by == AGENT or kill.cgroup.startswith("probe.slice"):
            return False
        return kill.cgroup != "?" or kill.by in ("kernel", *self.daemons - {""})

    def kill(self, entry: dict[str, Any]) -> Kill:
        pid, comm = entry["to_pid"], entry["to_comm"]
        cgroup = self.cgroup_of.get(pid, "?")
        if cgroup == "?" and self.storm.track and comm.startswith("python"):
            cgroup = self.storm.culprit.cgroup  # a worker born after the witness last looked
        at_ms = round((entry["at"] - self.start) / 1e6, 3)
        return Kill(at_ms, self.sender(entry), entry["signal"], pid, comm, cgroup)

    def sender(self, entry: dict[str, Any]) -> str:
        if entry["code"] == SI_KERNEL and entry["to_pid"] in self.oom_victims:
            return "kernel"
        return unit_name(self.cgroup_of.get(entry["by_pid"], "")) or str(entry["by_comm"])

    def vanished(self) -> tuple[str, ...]:
        after = {pid for pids in self.record["processes_after"].values() for pid in pids}
        ignored = (self.storm.culprit.cgroup, "probe.slice", UDEV_WORKERS)
        return tuple(
            sorted(
                f"{cgroup}:{pid}"
                for cgroup, pids in self.record["processes_before"].items()
                for pid in pids
                if pid not in after and not cgroup.startswith(ignored)
            )
        )

    def events(self) -> dict[str, int]:
        before, after = (counters(self.record[part]) for part in ("events_before", "events_after"))
        return {key: value - before.get(key, 0) for key, value in after.items()}

    def canary_gaps(self, until: int) -> list[float]:
        """Milliseconds between the end of a tick and the end of the next; 10 is nominal, 20 is noise."""
        ticks = [tick for tick in self.canary if tick[1] >= self.start and tick[0] <= until]
        gaps = [round((b[1] - a[1]) / 1e6, 1) for a, b in itertools.pairwise(ticks)]
        if self.canary and self.canary[-1][1] < until - 10**9:  # it never came back
            gaps.append(round((until - self.canary[-1][1]) / 1e6, 1))
        return gaps

    def rate(self) -> float | None:
        if len(self.growth) < 2:
            return None
        (start, base), (end, top) = self.growth[0], self.growth[-1]
        return round((top - base) / MIB / ((end - start) / 1e9), 1) if end > start else None


def unit_name(cgroup: str) -> str:
    """The service of that cgroup, without its suffix; empty when it is none."""
    name = cgroup.rsplit("/", 1)[-1]
    return name.removesuffix(".service") if name.endswith(".service") else ""


def counters(text: str) -> dict[str, int]:
    return {key: int(value) for key, value in (line.split() for line in text.splitlines())}


def between(start: int | None, end: int | None) -> float | None:
    return None if start is None or end is None else round((end - start) / 1e6, 1)
