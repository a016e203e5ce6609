"""Why no guard acted, in words: a kill by the kernel has a reason, and so has a machine that stood still."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from ..model.facts import MemInfo, TargetId
from ..model.policy import AvailableBelow, Condition, Guard, KillStep, MemoryAbove, SwapFreeBelow

Reason = Literal["uncovered", "observe", "no kill", "budget", "candidates", "watermark", "late"]
_MINUTE_NS: Final = 60_000_000_000
_SHARE: Final = 1000


@dataclass(slots=True)
class Before:
    """The worst that the recorder saw of a target in the minute before."""

    host: MemInfo | None = None
    used_bytes: int = -1  # -1: not seen
    limit_bytes: int | None = None

    def see(self, cgroup: str, plain: Mapping[str, Any], opened_ns: int) -> None:
        """One observation in its plain form."""
        if not opened_ns - _MINUTE_NS <= plain["at_ns"] < opened_ns:
            return
        host = plain["host"]
        if host is not None and (self.host is None or host["available_bytes"] < self.host.available_bytes):
            self.host = MemInfo(**{name: host[name] for name in _HOST})
        for facts in plain["cgroups"]:
            if facts["path"] == cgroup:
                self.limit_bytes = facts["limit_bytes"]
                self.used_bytes = max(self.used_bytes, _used(facts))
        for share in plain.get("shares", ()):
            if share["cgroup"] == cgroup and self.used_bytes < 0:
                self.used_bytes = share["current_bytes"]


_HOST: Final = ("total_bytes", "free_bytes", "available_bytes", "swap_total_bytes", "swap_free_bytes")


def _used(facts: Mapping[str, Any]) -> int:
    stat = facts["stat"]
    if stat is None:
        return int(facts["current_bytes"])
    cache = max(0, stat["file_bytes"] - stat["shmem_bytes"]) + stat["slab_reclaimable_bytes"]
    return max(0, int(facts["current_bytes"]) - int(cache))


def why(
    target: TargetId,
    guard: Guard | None,
    crossed: bool,
    acted: bool,
    refused: tuple[str, str],
    before: Before,
    cgroup: str = "",
    limit_of: str = "",
) -> dict[str, str]:
    """{"reason", "text"}. ``crossed``: the hard watermark; ``acted``: a signal was sent; ``refused``: the last message
    that nobody could be taken, and its text; ``cgroup``: where it happened, if not the target's own; ``limit_of``:
    whose limit the kernel enforced, "" the machine's."""
    if guard is None or not target.guard:
        return _told("uncovered", f"no guard covers {cgroup or target.cgroup}")
    name = f"policy {guard.name}"
    if target.cgroup == "/" and limit_of not in ("", "/"):
        return _told("uncovered", f"no guard watches the limit of {limit_of}; {name} watches the machine")
    if guard.mode == "observe":
        return _told("observe", f"{name} was told to observe only")
    if refused[0] == "BUDGET_SPENT":
        return _told("budget", f"{name}: the kill budget is spent")
    if refused[0] == "NO_VICTIM":
        return _told("candidates", f"{name}: {refused[1]}")
    marks = [mark for mark in (guard.soft, guard.hard) if mark is not None]
    if not any(isinstance(step, KillStep) for mark in marks for step in mark.do):
        return _told("no kill", f"{name} has no kill among its steps")
    if acted:
        return _told("late", f"{name} had acted as well, and that was not enough or not in time")
    if crossed:
        return _told("late", f"{name} had crossed its hard watermark, but nobody had been signalled yet")
    return _told("watermark", f"{name}: {_distance(target, guard, before)}")


def unwatched(cgroup: str, nearest: TargetId) -> dict[str, str]:
    """The same for a cgroup that is below a guarded one, though no guard watches it."""
    watches = "the machine" if nearest.cgroup == "/" else nearest.cgroup
    return _told("uncovered", f"no guard watches {cgroup} itself; policy {nearest.guard} watches {watches}")


def _told(reason: Reason, text: str) -> dict[str, str]:
    return {"reason": reason, "text": text}


def _distance(target: TargetId, guard: Guard, before: Before) -> str:
    clauses = guard.hard.when if guard.hard is not None else guard.soft.when if guard.soft is not None else ()
    ways = []
    for clause in clauses:
        told = [text for condition in clause.all_of if (text := _gap(target, condition, before))]
        if told:
            ways.append(" and ".join(told))
    if not ways:
        return "its watermark was not seen to be reached"
    return f"its watermark was not seen to be reached in the minute before: {'; or '.join(ways[:3])}"


def _gap(target: TargetId, condition: Condition, before: Before) -> str:
    """One condition that did not hold, with the nearest that it came; "": it held, or nothing is known."""
    host = before.host
    match condition:
        case MemoryAbove(amount):
            machine = target.cgroup == "/"
            used = host.used_bytes if machine and host is not None else before.used_bytes
            limit = before.limit_bytes or (host.total_bytes if host is not None else 0)
            line = amount.of(limit)
            if used < 0 or not limit or used > line:
                return ""
            return f"memory {_share(used, limit)} of {_share(line, limit)}"
        case AvailableBelow(amount) if host is not None:
            line = amount.of(host.total_bytes)
            if host.available_bytes < line:
                return ""
            total = host.total_bytes
            return f"available {_share(host.available_bytes, total)}, the line is {_share(line, total)}"
        case SwapFreeBelow(amount) if host is not None and host.swap_total_bytes:
            line = amount.of(host.swap_total_bytes)
            if host.swap_free_bytes < line:
                return ""
            total = host.swap_total_bytes
            return f"free swap {_share(host.swap_free_bytes, total)}, the line is {_share(line, total)}"
        case _:
            return ""


def _share(part: int, whole: int) -> str:
    return f"{round(_SHARE * part / whole) / 10:g} %" if whole else f"{part} B"
