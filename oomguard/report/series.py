"""What an incident's turns say over time, as columns of numbers: for the advice and for the pictures.

Times are milliseconds from the opening, sizes bytes. Turns that read nothing of a thing add nothing to its series.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

Incident = Mapping[str, Any]
Points = list[tuple[float, float]]
Process = tuple[int, int]  # (pid, start_ticks)


@dataclass(frozen=True, slots=True)
class Growth:
    """One process over the looks that were taken at it."""

    pid: int
    comm: str
    cgroup: str
    points: Points  # held bytes

    @property
    def bytes(self) -> float:
        """From the first look to the last."""
        return self.points[-1][1] - self.points[0][1]

    @property
    def seconds(self) -> float:
        """Between the two."""
        return (self.points[-1][0] - self.points[0][0]) / 1000

    @property
    def steps(self) -> list[float]:
        """From each look to the next."""
        return [after[1] - before[1] for before, after in pairwise(self.points)]


def turns(incident: Incident) -> Iterator[tuple[float, Mapping[str, Any]]]:
    """(ms, what was seen) of every turn."""
    opened = incident["opened_ns"]
    for turn in incident["ring"]:
        if turn["kind"] == "Turn":
            yield (turn["seen"]["at_ns"] - opened) / 1e6, turn


def host(incident: Incident, field: str) -> Points:
    """A field of MemInfo, such as ``available_bytes``."""
    return [(at, turn["seen"]["host"][field]) for at, turn in turns(incident) if turn["seen"]["host"]]


def pressure(incident: Incident, line: str) -> Points:
    """Percent of wall time stalled, machine-wide or in the guard's cgroup: from the totals of two turns, not avg10,
    which tells of it seconds later. ``line``: some or full."""
    own = incident["cgroup"]
    points: Points = []
    last: tuple[float, float] | None = None
    for at, turn in turns(incident):
        found = turn["seen"]["pressure"] if own == "/" else _pressure_of(turn["seen"], own)
        if not found:
            continue
        total = float(found[line]["total_us"])
        if last is None:
            last = (at, total)
        elif at - last[0] >= 100:  # the kernel adds up the present stall only now and then
            points.append((at, max(0.0, min(100.0, (total - last[1]) / (at - last[0]) / 10))))
            last = (at, total)
    return points


def thinned(points: Points, most: int) -> Points:
    """At most so many of them: of each stretch the lowest and the highest, so that no peak is lost."""
    if len(points) <= most:
        return points
    wide = -(-len(points) * 2 // most)
    found: Points = []
    for begin in range(0, len(points), wide):
        stretch = points[begin : begin + wide]
        ends = {min(stretch, key=lambda it: it[1]), max(stretch, key=lambda it: it[1])}
        found += sorted(ends)
    return found


def used(incident: Incident, cgroup: str) -> Points:
    """What a cgroup could not give back: of its own readings, and of surveys."""
    return [(at, unreclaimable(facts)) for at, turn in turns(incident) for facts in _facts_of(turn["seen"], cgroup)]


def limit(incident: Incident, cgroup: str) -> int | None:
    """The last effective limit that was seen; None: the machine."""
    found: int | None = None
    for _, turn in turns(incident):
        for facts in _facts_of(turn["seen"], cgroup):
            if facts["limit_bytes"] is not None:
                found = int(facts["limit_bytes"])
    return found


def unreclaimable(facts: Mapping[str, Any]) -> int:
    """As the judge counts it: cache that can be dropped is no use."""
    stat = facts["stat"]
    if stat is None:
        return int(facts["current_bytes"])
    cache = int(max(0, stat["file_bytes"] - stat["shmem_bytes"]) + stat["slab_reclaimable_bytes"])
    return max(0, int(facts["current_bytes"]) - cache)


def growths(incident: Incident) -> list[Growth]:
    """Every process that was looked at, up to the first signal: the largest growth first."""
    end = min((kill["at_ms"] for kill in incident["kills"]), default=float("inf"))
    found: dict[Process, Growth] = {}
    for at, turn in turns(incident):
        for process in (p for survey in turn["seen"]["surveys"] for p in survey["processes"] if at <= end):
            key = (process["pid"], process["start_ticks"])
            growth = found.setdefault(key, Growth(key[0], process["comm"], process["cgroup"], []))
            growth.points.append((at, held(process)))
    return sorted(found.values(), key=lambda growth: -growth.bytes)


def held(process: Mapping[str, Any]) -> int:
    """What its end gives back at most."""
    return int(process["anon_bytes"] + process["shmem_bytes"] + process["swap_bytes"])


def processes(incident: Incident) -> list[Mapping[str, Any]]:
    """The process table; where the evidence has none (there was no time), what the last look before the end found."""
    table = incident["evidence"].get("processes")
    if table:
        return list(table)
    end = min((kill["at_ms"] for kill in incident["kills"]), default=float("inf"))
    found: list[Mapping[str, Any]] = []
    for at, turn in turns(incident):
        for survey in turn["seen"]["surveys"] if at <= end else ():
            found = [{**row, "held_bytes": held(row), "growth_bytes": None} for row in survey["processes"]]
    return sorted(found, key=lambda row: -int(row["held_bytes"]))


def counts(incident: Incident, cgroup: str) -> Points:
    """Processes in and below a cgroup, by survey."""
    return [
        (at, float(sum(p["cgroup"] == cgroup or p["cgroup"].startswith(cgroup + "/") for p in survey["processes"])))
        for at, turn in turns(incident)
        for survey in turn["seen"]["surveys"]
    ]


def _facts_of(seen: Mapping[str, Any], cgroup: str) -> Iterator[Mapping[str, Any]]:
    own = [facts for facts in seen["cgroups"] if facts["path"] == cgroup]
    yield from own or [f for survey in seen["surveys"] for f in survey["cgroups"] if f["path"] == cgroup]


def _pressure_of(seen: Mapping[str, Any], cgroup: str) -> Mapping[str, Any] | None:
    return next((facts["pressure"] for facts in _facts_of(seen, cgroup)), None)
