"""docs/benchmarks.md from the records of `make bench`: the bars, a table for each storm, and its picture."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import bench_pictures as pictures
from . import peers
from .campaign import host, utc, versions
from .evidence import UDEV_WORKERS
from .machine import ROOT
from .storms import STORMS

REPORT = ROOT / "docs" / "benchmarks.md"
US = "oomguard"
NO_RIVALS = (US, "none", "limit")

Run = dict[str, Any]
Records = Mapping[str, list[Run]]
Cell = Callable[[list[Run]], str]
Column = tuple[str, Cell]

OTHER_TITLES = {
    "idle": "one minute of nothing, 1 GiB",
    "idle-40G": "one minute of nothing, 40 GiB",
    "idle-cgroups": "one minute of nothing, 1,000 guarded cgroups, 2 GiB",
    "neighbours": "a reader, a database and a build that are always at MemoryMax=128M, of page cache",
}


def write(records: Records) -> list[Path]:
    """The document and its pictures; their paths."""
    written = [REPORT]
    for name, runs in records.items():
        if name in STORMS and (good := [run for run in runs if "error" not in run]):
            written.append(pictures.draw(name, STORMS[name].title, good, REPORT.parent / "benchmarks" / f"{name}.svg"))
    REPORT.write_text(report(records))
    return written


def report(records: Records) -> str:
    head = HEAD.format(date=utc()[:10], commits=commits(records), versions=versions(), host=host())
    parts = [head, *(f"- **{name}**: {peers.load(name).describe}" for name in peers.NAMES)]
    parts.append("\n## The bars\n\n" + "\n".join(bar_lines(records)))
    if missing := [name for name, runs in records.items() if not results_of(runs, US)]:
        parts.append(f"\nNot measured with oomguard yet: {', '.join(missing)}.")
    for name, runs in records.items():
        if not runs:
            continue
        title = STORMS[name].title if name in STORMS else OTHER_TITLES[name]
        parts.append(f"\n## {name}: {title}\n\n{table(name, runs)}")
        if name in STORMS:
            parts.append(f"\n![time lines of {name}](benchmarks/{name}.svg)")
        parts += [f"\nNot measured: {run['peer']}, {run['error']}" for run in runs if "error" in run]
    return "\n".join(parts) + "\n"


def commits(records: Records) -> str:
    """Which states of oomguard were measured."""
    found = sorted({run["commit"] for runs in records.values() for run in runs if "commit" in run})
    return ", ".join(found) or "?"


# -- tables


def middle(key: str, scale: float = 1, digits: int = 0) -> Cell:
    """Median (least..most) of a figure over the runs that have it."""

    def cell(results: list[Run]) -> str:
        return told([result[key] * scale for result in results if result.get(key) is not None], digits)

    return cell


def told(values: list[float], digits: int = 0) -> str:
    if not values:
        return "-"
    text = f"{statistics.median(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ({min(values):.{digits}f}..{max(values):.{digits}f})"


def tally(word: Callable[[Run], str]) -> Cell:
    """How often each of the words applied; the word alone when it always did."""

    def cell(results: list[Run]) -> str:
        counts = Counter(map(word, results))
        return ", ".join(text if count == len(results) else f"{text} {count}" for text, count in counts.most_common())

    return cell


def others(result: Run) -> str:
    names = {cgroup.rsplit("/", 1)[-1].removesuffix(".service") for cgroup in harm(result)}
    return " ".join(sorted(names)) or "none"


def harm(result: Run) -> set[str]:
    """Cgroups of innocents who got a signal, or are gone. (Older records tell of what udevd does to its own, too.)"""
    return {*result["innocents"], *(gone.rpartition(":")[0] for gone in result["vanished"])} - {UDEV_WORKERS}


def own_ms(result: Run, peer: str) -> float | None:
    """From the crossing of the daemon's own thresholds to its signal; 0 when it was faster than the witness's 5 ms."""
    if result["killed_by"] != peers.load(peer).name_in_records or peers.load(peer).acts_at is None:
        return None
    found = result["signal_after_own_ms"]
    return 0.0 if found is None else max(0.0, found)


def own(results: list[Run]) -> str:
    return told([value for result in results if (value := own_ms(result, result["peer"])) is not None])


STORM_COLUMNS: tuple[Column, ...] = (
    ("n", lambda results: str(len(results))),
    ("culprit killed by", tally(lambda result: result["killed_by"])),
    ("others killed", tally(others)),
    ("kernel's OOM kills", middle("kernel_oom_kills")),
    ("signal after its own thresholds, ms", own),
    ("signal after the line, ms", middle("signal_after_line_ms")),
    ("end after the line, ms", middle("exit_after_line_ms")),
    ("bystander's longest stall, ms", middle("canary_max_gap_ms")),
    ("bystander stalled in all, ms", middle("canary_stalled_ms")),
    ("PSI full, ms", middle("psi_full_ms")),
    ("available at the signal, MiB", middle("available_at_signal_mib")),
)
IDLE_COLUMNS: tuple[Column, ...] = (
    ("n", lambda results: str(len(results))),
    ("CPU, ms in 60 s", middle("cpu_ns", 1e-6)),
    ("wakeups in 60 s", middle("voluntary")),
    ("PSS, MiB", middle("pss_kb", 1 / 1024, 1)),
    ("RSS, MiB", middle("rss_kb", 1 / 1024, 1)),
    ("locked, MiB", middle("locked_kb", 1 / 1024, 1)),
    ("processes", middle("processes")),
    ("threads", middle("threads")),
)
NEIGHBOUR_COLUMNS: tuple[Column, ...] = (
    ("n", lambda results: str(len(results))),
    ("reader, MB/s", middle("reader_mb_s")),
    ("database, reads/s", middle("database_per_s")),
    ("build, jobs/s", middle("build_per_s", 1, 2)),
    ("memory.events a second", middle("events_per_s")),
    ("CPU of the daemon, %", middle("cpu_percent", 1, 2)),
    ("services alive", middle("alive")),
)


def table(name: str, runs: list[Run]) -> str:
    columns = STORM_COLUMNS if name in STORMS else NEIGHBOUR_COLUMNS if name == "neighbours" else IDLE_COLUMNS
    lines = ["| | " + " | ".join(title for title, _ in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for peer in peers.NAMES:
        if results := results_of(runs, peer):
            bold = f"**{peer}**" if peer == US else peer
            lines.append(f"| {bold} | " + " | ".join(cell(results) for _, cell in columns) + " |")
    return "\n".join(lines)


def results_of(runs: list[Run], peer: str) -> list[Run]:
    return [run["result"] | {"peer": peer} for run in runs if run["peer"] == peer and "error" not in run]


# -- the bars


@dataclass(frozen=True, slots=True)
class Bar:
    what: str
    wanted: str
    measured: str
    met: bool
    why: str = ""  # what holds it back, where it is not met


def bar_lines(records: Records) -> list[str]:
    """What oomguard set out to reach, and whether it did."""
    lines = ["| | wanted | measured | |", "|---|---|---|---|"]
    found = list(bars(records))
    lines += [f"| {b.what} | {b.wanted} | {b.measured} | {'yes' if b.met else '**no**'} |" for b in found]
    held_back = [f"- *{b.what}*: {b.why}" for b in found if not b.met and b.why]
    return lines + (["\nWhat holds back what is not reached:\n", *held_back] if held_back else [])


def bars(records: Records) -> Iterator[Bar]:
    yield from latency_bars(records)
    yield from harm_bars(records)
    yield from cost_bars(records)


def values(runs: list[Run], peer: str, key: str) -> list[float]:
    return [result[key] for result in results_of(runs, peer) if result.get(key) is not None]


def median_of(runs: list[Run], peer: str, key: str) -> float | None:
    found = values(runs, peer, key)
    return statistics.median(found) if found else None


def best_rival(runs: list[Run], figure: Callable[[str], float | None]) -> tuple[str, float] | None:
    """The daemon, other than us and the reference, that has least of it."""
    found = [(name, value) for name in peers.NAMES if name not in NO_RIVALS and (value := figure(name)) is not None]
    return min(found, key=lambda pair: pair[1], default=None)


def latency_bars(records: Records) -> Iterator[Bar]:
    runs = records.get("leak-flat", [])

    def own_of(peer: str) -> float | None:
        found = [value for result in results_of(runs, peer) if (value := own_ms(result, peer)) is not None]
        return statistics.median(found) if found else None

    ours, reference, best = own_of(US), own_of("limit"), best_rival(runs, own_of)
    if ours is not None and reference is not None:
        most = 1.5 * reference + 5
        wanted = f"1.5 x limit + 5 ms = {most:.0f} ms"
        yield Bar("signal after its own thresholds, leak-flat", wanted, f"{ours:.0f} ms", ours <= most)
    if ours is not None and best:
        wanted = f"1/5 of the best other: {best[1] / 5:.0f} ms ({best[0]})"
        yield Bar("the same", wanted, f"{ours:.0f} ms", ours <= best[1] / 5)
    few, many = (latencies(records.get(f"processes-{count}", [])) for count in (50, 5000))
    if few and many:
        ratio = statistics.median(many) / statistics.median(few)
        text = f"{statistics.median(many):.1f} to {statistics.median(few):.1f} ms: {ratio:.2f}"
        yield Bar("observation to signal, 5,000 processes to 50", "1.5 x", text, ratio <= 1.5)
    for key, what, why in (
        ("snapshot_after_ms", "the snapshot of the hard watermark is whole on the disk, after the signal", ""),
        ("written_after_ms", "the incident is, its second of calm included", WHY_WRITTEN),
    ):
        if times := [ms for name in records for ms in values(records[name], US, key)]:
            yield Bar(what, "2000 ms", f"{told(times)} ms", max(times) <= 2000, why)


def latencies(runs: list[Run]) -> list[float]:
    """Observation of the watermark to the signal, ms, as the incidents tell."""
    entries = [entry for result in results_of(runs, US) for entry in result["incidents"] if entry["kind"] == "hard"]
    return [entry["latency_ms"] for entry in entries if entry.get("latency_ms") is not None]


def harm_bars(records: Records) -> Iterator[Bar]:
    runs = records.get("limited-50", [])
    if kills := values(runs, US, "kernel_oom_kills"):
        saved = {name: values(runs, name, "kernel_oom_kills") for name in peers.NAMES if name not in NO_RIVALS}
        rivals = ", ".join(
            f"{name} {sum(not kill for kill in theirs)} of {len(theirs)}" for name, theirs in saved.items()
        )
        text = f"{sum(kills):.0f} in {len(kills)} runs (saved: {rivals})"
        yield Bar("the kernel's kills in a limited cgroup", "0", text, not sum(kills))
    for name in ("leak-flat", "leak-zram", "leak-swapfile", "workers"):
        runs = records.get(name, [])
        ours = median_of(runs, US, "canary_max_gap_ms")
        best = best_rival(runs, lambda peer, runs=runs: median_of(runs, peer, "canary_max_gap_ms"))  # type: ignore[misc]
        if ours is not None and best:
            wanted = f"not longer than the best other: {best[1]:.0f} ms ({best[0]})"
            yield Bar(f"the bystander's longest stall, {name}", wanted, f"{ours:.0f} ms", ours <= best[1], WHY_STALL)
    ours_in = [result for name in STORMS for result in results_of(records.get(name, []), US)]
    harmed = [result for result in ours_in if harm(result)]
    yield Bar("innocents killed in all storms", "0", f"{len(harmed)} in {len(ours_in)} storms", not harmed)
    faults = [sum(result["faults"].values()) for result in ours_in if result.get("faults")]
    yield Bar(
        "page faults of the core since it was armed",
        "0",
        f"{sum(faults)}; none in {faults.count(0)} of {len(faults)} storms",
        not sum(faults),
        WHY_FAULTS,
    )


def cost_bars(records: Records) -> Iterator[Bar]:
    idle = records.get("idle", [])
    ours, best = median_of(idle, US, "cpu_ns"), best_rival(idle, lambda peer: median_of(idle, peer, "cpu_ns"))
    if ours is not None and best:
        wanted = f"half of the cheapest other: {best[1] / 2e6:.0f} ms ({best[0]})"
        yield Bar("idle CPU in 60 s", wanted, f"{ours / 1e6:.0f} ms", ours <= best[1] / 2, WHY_CPU)
    wakeups = median_of(idle, US, "voluntary")
    if wakeups is not None:
        yield Bar("idle wakeups in 60 s, 1 GiB", "240", f"{wakeups:.0f}", wakeups <= 240, WHY_WAKEUPS)
    roomy = median_of(records.get("idle-40G", []), US, "voluntary")
    if roomy is not None:
        yield Bar("idle wakeups in 60 s, 40 GiB", "12", f"{roomy:.0f}", roomy <= 12)
    crowd = records.get("idle-cgroups", [])
    ours = median_of(crowd, US, "cpu_ns")
    for peer in ("systemd_oomd", "oomd"):
        theirs = median_of(crowd, peer, "cpu_ns")
        if ours is not None and theirs is not None:
            wanted = f"1/5 of {peer}'s: {theirs / 5e6:.0f} ms"
            yield Bar("1,000 idle cgroups, CPU in 60 s", wanted, f"{ours / 1e6:.0f} ms", ours <= theirs / 5, WHY_CROWD)
    sizes = [result["pss_kb_of"] for result in results_of(idle, US)]
    if sizes:
        names = ("oomguard", "oomguard-reaper", "oomguard-scribe", "oomguard-herald")
        core, reaper, scribe, herald = (statistics.median(size[name] for size in sizes) / 1024 for name in names)
        locked = core + reaper + scribe
        text = f"{core:.1f}, {locked:.1f}, {herald:.1f} MiB"
        met = core <= 12 and locked <= 24 and herald <= 12
        yield Bar("PSS: core; with reaper and scribe; herald", "12, 24, 12 MiB", text, met)


WHY_WRITTEN = (
    "the longest is among 5,000 processes: the snapshot is there with the others', but a second of calm, after which "
    "the incident is closed, is found later. It is the longest of all runs that is held to the bar, not their median."
)
WHY_FAULTS = (
    "minor ones, while kcompactd makes huge pages for others: it moves locked memory as well, and who touches it "
    "waits (traced: each within a migration, most of them in the text of Python). vm.compact_unevictable_allowed=0 "
    "ends that for the whole machine; it is its owner's to set, and `oomguard doctor` names it."
)
WHY_STALL = (
    "oomd ends the leak at the first pressure, 9 to 13 s before anybody else lets go of the swap, and so it is the "
    "quietest where it acts at all. Between the others and us it is a throw of dice: traced, the longest stall of a "
    "run was one direct reclaim, 80 ms of compressing pages, of the bystander itself (beside earlyoom) or of the "
    "witness, which is real-time and so in its way (beside us); no turn of ours was in it."
)
WHY_WAKEUPS = (
    "700 MiB of headroom at 6000 MiB/s, the fastest fill rate that is assumed, is 117 ms, and what is sensed at each "
    "is one number. A tripwire on the top slices (memory.high) would need no poll while much is free, but a daemon "
    "that is stopped then would leave the whole system throttled: never to make things worse comes first."
)
WHY_CPU = (
    "a wakeup costs less than one of earlyoom's, in C, does, but there are nine a second, see the next line; three "
    "times a minute a record is kept and systemd told that we live, and these three are an eighth of it."
)
WHY_CROWD = (
    "systemd-oomd reads a few averages once a second and knows no limits; this is a look at the machine six to nine "
    "times a second, and twice a second a bound on the growth of each of the cgroups, from /proc/vmstat."
)

HEAD = """\
# Benchmarks: the same storms, side by side

Written by `make bench` on {date}; oomguard at commit {commits}. Do not edit. The raw records are in benchmarks/.

Every run is a virtual machine of its own (1 GiB, 2 CPUs), restored from a saved boot: Debian with systemd, cgroup v2
and PSI, one daemon running, the disk throttled to 150 MB/s and 5000 IOPS. The workloads are services of one slice,
beside a bystander that touches 20 MB of file and 20 MB of anonymous memory every 80 ms. A witness (locked, real-time,
5 ms) records memory, pressure and, through the kernel's tracepoints, who signalled whom and who exited when. The
daemons take turns; figures are medians (least..most).

*The line* is 10 % of memory available; for a limited service, 90 % of its limit used. A negative time came before it.
Each daemon acts by its own thresholds, below, so a later signal is not always a worse one: *after its own thresholds*
counts from when the witness saw those crossed (0: the signal came before the witness saw it, within 5 ms). What counts
is who died, whether the kernel had to kill, and what the bystander suffered (10 ms is nominal, 20 is noise). `limit` is
no daemon but a reference of what is reachable: a real-time loop that reads the watermark every 5 ms, picks the largest
cgroup, kills it, and does nothing else.

The CPU is emulated, and time in the machine is counted: 1 ns an instruction, whichever of its processors executes it,
and real time only while all of them sleep. So it is a computer of a billion instructions a second, some five
times slower than a real one, and no figure depends on what else the host does. Compare the daemons with each other,
not with another machine's numbers.

Versions: {versions}; {host}.

The daemons:
"""
