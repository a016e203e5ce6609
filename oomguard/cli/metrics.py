"""What Prometheus is told: every metric by name, and its samples from one copy of the status page and the tally.

``METRICS`` is the whole list: what is not in it is not told. How it gets out (HTTP, a file) is ``exporter``.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from ..model.statuspage import PHASES, Clause, Condition, GuardLine, StatusPage
from ..report.near import measured, used
from .processes import Process
from .tally import Spread, Tally

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

Kind = Literal["gauge", "counter", "histogram"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One name. ``labels`` in the order in which a sample gives their values."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


METRICS: Final = (
    Metric("oomguard_up", "gauge", "1: the daemon lives and its status page can be read."),
    Metric("oomguard_build_info", "gauge", "Always 1; the version of the daemon.", ("version",)),
    Metric("oomguard_ready", "gauge", "1: rehearsed, memory locked; 0: still starting."),
    Metric("oomguard_start_time_seconds", "gauge", "When the daemon was started, since the epoch."),
    Metric("oomguard_last_turn_time_seconds", "gauge", "When it last looked at the machine, since the epoch."),
    Metric("oomguard_turns_total", "counter", "Turns of the loop: observed, judged, acted, recorded."),
    Metric(
        "oomguard_degraded", "gauge", "Always 1; what works less well than it could (the status says why).", ("what",)
    ),
    Metric("oomguard_dropped_total", "counter", "Records and orders that a worker was too slow for."),
    Metric("oomguard_memory_total_bytes", "gauge", "MemTotal, as the daemon last saw it."),
    Metric("oomguard_memory_available_bytes", "gauge", "MemAvailable, as the daemon last saw it."),
    Metric("oomguard_swap_total_bytes", "gauge", "SwapTotal, as the daemon last saw it."),
    Metric("oomguard_swap_free_bytes", "gauge", "SwapFree, as the daemon last saw it."),
    Metric("oomguard_stalled_seconds_total", "counter", "PSI: tasks (some, all) waited for memory.", ("tasks",)),
    Metric("oomguard_policy_info", "gauge", "Always 1; what a policy guards, and how.", ("policy", "cgroup", "mode")),
    Metric(
        "oomguard_policy_phase", "gauge", "1 for the worst phase of its cgroups, 0 for others.", ("policy", "phase")
    ),
    Metric("oomguard_policy_targets", "gauge", "Cgroups that it watches.", ("policy",)),
    Metric("oomguard_policy_used_bytes", "gauge", "Unreclaimable memory of its nearest cgroup.", ("policy",)),
    Metric("oomguard_policy_limit_bytes", "gauge", "The limit of that cgroup, or MemTotal.", ("policy",)),
    Metric("oomguard_policy_swap_bytes", "gauge", "Swap in use by that cgroup.", ("policy",)),
    Metric("oomguard_policy_swap_limit_bytes", "gauge", "The limit of that, or SwapTotal.", ("policy",)),
    Metric(
        "oomguard_policy_distance_bytes",
        "gauge",
        "Until a watermark is reached, as far as it is one of bytes; below 0 it is crossed.",
        ("policy", "watermark"),
    ),
    Metric("oomguard_policy_watermark_holds", "gauge", "1: a table of the watermark holds.", ("policy", "watermark")),
    Metric(
        "oomguard_policy_pressure_ratio",
        "gauge",
        "PSI of that cgroup, share of the last 10 s; only where a policy asks for it.",
        ("policy", "tasks"),
    ),
    Metric("oomguard_policy_phase_start_time_seconds", "gauge", "When the phase was entered.", ("policy",)),
    Metric("oomguard_policy_snapshots_total", "counter", "Times that the evidence was taken.", ("policy",)),
    Metric("oomguard_policy_kills_total", "counter", "Victims that were signalled.", ("policy",)),
    Metric("oomguard_cgroup_memory_bytes", "gauge", "memory.current, cache included, of the largest.", ("cgroup",)),
    Metric("oomguard_cgroup_growth_bytes_per_second", "gauge", "How fast that grows; below 0 it shrinks.", ("cgroup",)),
    Metric("oomguard_snapshots_total", "counter", "Times that the evidence was taken."),
    Metric("oomguard_kills_total", "counter", "Victims that were signalled, of all policies."),
    Metric("oomguard_kernel_oom_kills_total", "counter", "Processes that the kernel killed for want of memory."),
    Metric("oomguard_leases_undone_total", "counter", "Changes of a dead predecessor that were put back."),
    Metric("oomguard_page_faults_total", "counter", "Of the core, since its memory was locked.", ("kind",)),
    Metric("oomguard_process_resident_memory_bytes", "gauge", "Resident, shared pages counted in each.", ("process",)),
    Metric("oomguard_process_locked_memory_bytes", "gauge", "Locked: it cannot be taken away.", ("process",)),
    Metric("oomguard_process_cpu_seconds_total", "counter", "User and system time.", ("process",)),
    Metric("oomguard_incidents_readable", "gauge", "1: incidents can be read; 0: the metrics below are missing."),
    Metric(
        "oomguard_incidents_total",
        "counter",
        "Incidents that have ended: soft, hard, kernel (it killed, and no watermark had been crossed), stall.",
        ("policy", "kind"),
    ),
    Metric(
        "oomguard_policy_victims_total",
        "counter",
        "Signals to victims: gone, stuck (did not end), failed (not sent), held (observe mode).",
        ("policy", "outcome"),
    ),
    Metric(
        "oomguard_verdicts_total",
        "counter",
        "What the minute after an incident says: helped, did_not_help, kernel_killed, unable.",
        ("policy", "verdict"),
    ),
    Metric("oomguard_freed_bytes_total", "counter", "Memory that the end of victims gave back.", ("policy",)),
    Metric(
        "oomguard_kill_latency_seconds",
        "histogram",
        "From the look that crossed the hard watermark to the signal.",
        ("policy",),
    ),
    Metric("oomguard_victim_end_seconds", "histogram", "From the signal to the victim's end.", ("policy",)),
    Metric("oomguard_exporter_cut", "gauge", "What was left out, or put together, since it is too many.", ("what",)),
)

MOST_NOTES: Final = 32  # each is a time series, and a plan of a hundred policies may have a hundred doubts
MOST_CGROUPS: Final = 10  # the largest that the page has; which they are changes, and Prometheus keeps each that was
MOST_PATH: Final = 128  # characters of a label


@dataclass(slots=True)
class Sheet:
    """Samples by metric, until Prometheus's library makes families of them."""

    values: dict[str, dict[tuple[str, ...], float]] = field(default_factory=dict)
    spreads: dict[str, dict[tuple[str, ...], Spread]] = field(default_factory=dict)

    def put(self, name: str, value: float, *labels: str) -> None:
        """One sample; of several with the same labels the last."""
        self.values.setdefault(name, {})[labels] = value

    def families(self) -> "Iterator[Family]":
        """In the order of the list; a metric without samples is not told: not known is not zero."""
        for it in METRICS:
            family = self._spread(it) if it.kind == "histogram" else self._numbers(it)
            if family.samples:
                yield family

    def _numbers(self, it: Metric) -> "Family":
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        kind = CounterMetricFamily if it.kind == "counter" else GaugeMetricFamily
        family = kind(it.name, it.help, labels=it.labels)
        for labels, value in self.values.get(it.name, {}).items():
            family.add_metric(labels, value)
        return family

    def _spread(self, it: Metric) -> "Family":
        from prometheus_client.core import HistogramMetricFamily

        family = HistogramMetricFamily(it.name, it.help, labels=it.labels)
        for labels, spread in self.spreads.get(it.name, {}).items():
            family.add_metric(labels, spread.buckets(), spread.sum_s)
        return family


def sheet(
    page: StatusPage | None, tally: Tally | None, processes: Iterable[Process], now_s: float, now_ns: int
) -> Sheet:
    """Everything that is known. ``page`` None: nobody runs; ``tally`` None: incidents cannot be read.

    ``now_s`` since the epoch and ``now_ns`` of CLOCK_MONOTONIC are the same moment.
    """
    made = Sheet()
    made.put("oomguard_up", page is not None)
    if page is not None:
        _daemon(made, page, now_s, now_ns)
        _policies(made, page, now_s - now_ns / 1e9)
        _cgroups(made, page)
        _notes(made, page)
    for process in processes:
        made.put("oomguard_process_resident_memory_bytes", process.resident_bytes, process.name)
        made.put("oomguard_process_locked_memory_bytes", process.locked_bytes, process.name)
        made.put("oomguard_process_cpu_seconds_total", process.cpu_s, process.name)
    made.put("oomguard_incidents_readable", tally is not None)
    if tally is not None:
        _tally(made, tally)
    return made


def _daemon(made: Sheet, page: StatusPage, now_s: float, now_ns: int) -> None:
    numbers = page.numbers
    if page.pressure is not None:
        made.put("oomguard_stalled_seconds_total", page.pressure.some.total_us / 1e6, "some")
        made.put("oomguard_stalled_seconds_total", page.pressure.full.total_us / 1e6, "all")
    made.put("oomguard_build_info", 1, page.version)
    made.put("oomguard_ready", numbers.armed)
    made.put("oomguard_start_time_seconds", numbers.started_ns / 1e9)
    made.put("oomguard_last_turn_time_seconds", now_s - max(0, now_ns - page.beat_ns) / 1e9)
    made.put("oomguard_page_faults_total", numbers.minor_faults, "minor")
    made.put("oomguard_page_faults_total", numbers.major_faults, "major")
    for name, value in {
        "oomguard_turns_total": numbers.turns,
        "oomguard_dropped_total": numbers.drops,
        "oomguard_memory_total_bytes": numbers.mem_total_bytes,
        "oomguard_memory_available_bytes": numbers.mem_available_bytes,
        "oomguard_swap_total_bytes": numbers.swap_total_bytes,
        "oomguard_swap_free_bytes": numbers.swap_free_bytes,
        "oomguard_snapshots_total": numbers.snapshots,
        "oomguard_kills_total": numbers.kills,
        "oomguard_kernel_oom_kills_total": numbers.kernel_oom_kills,
        "oomguard_leases_undone_total": numbers.leases_undone,
    }.items():
        made.put(name, value)


def _policies(made: Sheet, page: StatusPage, to_wall_s: float) -> None:
    for guard in page.guards:
        name = guard.name
        made.put("oomguard_policy_info", 1, name, _cut(guard.cgroup), guard.mode)
        for phase in PHASES:
            made.put("oomguard_policy_phase", phase == guard.phase, name, phase)
        made.put("oomguard_policy_targets", guard.targets, name)
        made.put("oomguard_policy_snapshots_total", guard.snapshots, name)
        made.put("oomguard_policy_kills_total", guard.kills, name)
        if guard.targets:
            _target(made, page, guard, to_wall_s)


def _target(made: Sheet, page: StatusPage, guard: GuardLine, to_wall_s: float) -> None:
    """Of the foremost cgroup of a policy."""
    name = guard.name
    made.put("oomguard_policy_used_bytes", used(guard, page), name)
    made.put("oomguard_policy_limit_bytes", guard.limit_bytes, name)
    made.put("oomguard_policy_swap_bytes", guard.swap_bytes, name)
    made.put("oomguard_policy_swap_limit_bytes", guard.swap_limit_bytes, name)
    if guard.entered_ns:
        made.put("oomguard_policy_phase_start_time_seconds", guard.entered_ns / 1e9 + to_wall_s, name)
    if guard.pressure is not None:
        made.put("oomguard_policy_pressure_ratio", guard.pressure.some[0] / 100, name, "some")
        made.put("oomguard_policy_pressure_ratio", guard.pressure.full[0] / 100, name, "all")
    for mark, clauses in (("soft", guard.soft), ("hard", guard.hard)):
        if clauses:
            made.put("oomguard_policy_watermark_holds", any(clause.holds for clause in clauses), name, mark)
        left = distance_bytes(page, guard, clauses)
        if left is not None:
            made.put("oomguard_policy_distance_bytes", left, name, mark)


def distance_bytes(page: StatusPage, guard: GuardLine, clauses: tuple[Clause, ...]) -> float | None:
    """What is left until one of these tables holds; None: none of them is about bytes.

    Of the conditions of a table all must hold, so the farthest counts. What is not about bytes (a stall, a growth) is
    not counted: such a table may be reached later than this says, never earlier.
    """
    lefts = [[left for it in clause.all_of if (left := _left(page, guard, it)) is not None] for clause in clauses]
    found = [max(left) for left in lefts if left and max(left) > _HOLDS]
    return min(found, default=None)


_HOLDS: Final = float("-inf")  # a condition on swap, where there is none


def _left(page: StatusPage, guard: GuardLine, it: Condition) -> float | None:
    level = measured(it, guard, page)
    if level is None or level.unit != "bytes":
        return None
    if it.kind == "swap_free_below" and not page.numbers.swap_total_bytes:
        return _HOLDS
    return level.now - level.line if it.kind.endswith("_below") else level.line - level.now


def _cgroups(made: Sheet, page: StatusPage) -> None:
    largest = sorted(page.growing, key=lambda it: -it.bytes)
    for it in largest[:MOST_CGROUPS]:
        made.put("oomguard_cgroup_memory_bytes", it.bytes, _cut(it.cgroup))
        made.put("oomguard_cgroup_growth_bytes_per_second", it.per_second, _cut(it.cgroup))
    left_out = dict(page.left_out).get("cgroups that grow", 0)
    made.put("oomguard_exporter_cut", max(0, len(largest) - MOST_CGROUPS) + left_out, "cgroups")
    long = [
        path for path in (*(it.cgroup for it in page.growing), *(it.cgroup for it in page.guards)) if path != _cut(path)
    ]
    made.put("oomguard_exporter_cut", len(long), "paths")


def _cut(cgroup: str) -> str:
    """The end tells more than the beginning."""
    return cgroup if len(cgroup) <= MOST_PATH else f"...{cgroup[3 - MOST_PATH :]}"


def _notes(made: Sheet, page: StatusPage) -> None:
    for what, _ in page.degraded[:MOST_NOTES]:
        made.put("oomguard_degraded", 1, what)
    made.put("oomguard_exporter_cut", max(0, len(page.degraded) - MOST_NOTES), "degraded")


def _tally(made: Sheet, tally: Tally) -> None:
    made.values["oomguard_incidents_total"] = dict(tally.incidents)
    made.values["oomguard_policy_victims_total"] = dict(tally.kills)
    made.values["oomguard_verdicts_total"] = dict(tally.verdicts)
    made.values["oomguard_freed_bytes_total"] = dict(tally.freed_bytes)
    made.spreads["oomguard_kill_latency_seconds"] = tally.latency
    made.spreads["oomguard_victim_end_seconds"] = tally.end
    made.put("oomguard_exporter_cut", len(tally.others), "policies")
