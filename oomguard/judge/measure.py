"""What is weighed: one number for each candidate and measure, more is sooner. Of whom, ``rank`` decides."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from ..model.facts import CgroupFacts, ProcessFacts
from ..model.policy import VictimRule

BY_PROCESS: Final = ("memory", "oom_score", "swap", "oldest", "newest")  # the others are told of cgroups only


class Wants(NamedTuple):
    """What a survey has to bring for a rule, besides memory."""

    whole: bool = False  # all units, not only the largest
    scores: bool = False
    groups: bool = False  # process groups and sessions
    exe: bool = False
    pressure: bool = False
    refaults: bool = False


ALL: Final = Wants(True, True, True, True, True, True)


def wants(rule: VictimRule) -> Wants:
    """What this rule cannot do without."""
    kinds = {rule.by, *(kind for kind, _ in rule.mix)}
    return Wants(
        whole=rule.by != "memory",
        scores="oom_score" in kinds,
        groups=rule.take in ("process_group", "session"),
        exe=any(match.exe is not None for match in (*rule.never, *rule.avoid, *rule.prefer)),
        pressure="pressure" in kinds,
        refaults="refaults" in kinds,
    )


def looks_back(rule: VictimRule) -> bool:
    """Whether it compares with an earlier survey."""
    return rule.by in ("growth", "refaults") or any(kind in ("growth", "refaults") for kind, _ in rule.mix)


class Weighed(NamedTuple):
    """A unit as it is weighed. ``facts``: of its own cgroup, None where it has none."""

    path: str
    held: int
    members: tuple[ProcessFacts, ...]
    facts: CgroupFacts | None


def values(kind: str, processes: Sequence[ProcessFacts]) -> list[int]:
    """Of processes one by one, for the measures of ``BY_PROCESS``."""
    if kind == "oom_score":
        return [p.oom_score for p in processes]
    if kind == "swap":
        return [p.swap_bytes for p in processes]
    if kind in ("oldest", "newest"):
        return _ages(kind, [p.start_ticks for p in processes])
    return [p.held_bytes for p in processes]


def _ages(kind: str, starts: list[int]) -> list[int]:
    """In clock ticks: by how much older than the youngest, or younger than the oldest; at least 1."""
    youngest, oldest = max(starts, default=0), min(starts, default=0)
    return [youngest - start + 1 if kind == "oldest" else start - oldest + 1 for start in starts]


def weights(kind: str, units: Sequence[Weighed], before: Mapping[str, tuple[int, int]]) -> list[int]:
    """Of units, by any measure. ``before``: (bytes held, bytes refaulted) of each in an earlier survey."""
    match kind:
        case "oldest" | "newest":  # a unit is as old as its oldest process
            return _ages(kind, [min((p.start_ticks for p in unit.members), default=0) for unit in units])
        case "swap":
            return [_swap(unit) for unit in units]
        case "pressure":
            return [_pressure(unit) for unit in units]
        case "growth":
            return [max(0, now - before.get(u.path, (0, 0))[0]) if before else 0 for u, now in _sizes(units)]
        case "refaults":
            return [max(0, now - before[u.path][1]) if u.path in before else 0 for u, now in _refaults(units)]
        case "fair_share":
            return _over_share(units)
        case "oom_score":
            return [max((p.oom_score for p in unit.members), default=0) for unit in units]
        case _:
            return [_unprotected(unit) for unit in units]


def remembered(facts: CgroupFacts) -> tuple[int, int]:
    """What is kept of a unit for a later survey."""
    return facts.unreclaimable_bytes + facts.swap_bytes, refaulted(facts)


def refaulted(facts: CgroupFacts | None) -> int:
    """Bytes that were read again since the cgroup was made; 0 where that was not read."""
    found = None if facts is None else facts.refaults
    return 0 if found is None else found.anon_bytes + found.file_bytes


def _unprotected(unit: Weighed) -> int:
    """What it holds over its memory.low."""
    return unit.held if unit.facts is None else max(0, unit.held - unit.facts.low_bytes)


def _swap(unit: Weighed) -> int:
    return sum(p.swap_bytes for p in unit.members) if unit.facts is None else unit.facts.swap_bytes


def _pressure(unit: Weighed) -> int:
    """In hundredths of a percent of the last ten seconds in which all of it waited."""
    pressure = None if unit.facts is None else unit.facts.pressure
    return 0 if pressure is None else int(pressure.full.avg10 * 100)


def _sizes(units: Sequence[Weighed]) -> list[tuple[Weighed, int]]:
    return [(u, u.held if u.facts is None else remembered(u.facts)[0]) for u in units]


def _refaults(units: Sequence[Weighed]) -> list[tuple[Weighed, int]]:
    return [(u, refaulted(u.facts)) for u in units]


def user_of(path: str) -> str:
    """The slice of the user in whose session this lives: "user-1000.slice"; "" for the machine's own."""
    return next((part for part in path.split("/") if part.startswith("user-") and part.endswith(".slice")), "")


def _over_share(units: Sequence[Weighed]) -> list[int]:
    """By how much the unit's user holds more than each user would if all held the same."""
    sums: dict[str, int] = {}
    for unit in units:
        if user := user_of(unit.path):
            sums[user] = sums.get(user, 0) + unit.held
    share = sum(sums.values()) // len(sums) if sums else 0
    return [max(0, sums.get(user_of(unit.path), 0) - share) for unit in units]
