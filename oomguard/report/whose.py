"""Whose the memory was when it got short, of the machine or of the guarded cgroup, and whose the swap.

"In no process" is an answer: tmpfs, slab, page tables, huge pages, zram. The machine's account is the scribe's own
(workers/owners.py); a cgroup's is its memory.stat, in the same words.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from .series import Incident
from .words import printable, size

STAGES: Final = ("soft", "late", "hard")  # of evidence; the process table is of the first that is there
PROCESSES: Final = "processes"
_OTHERWISE: Final = (PROCESSES, "cache", "free")  # all other rows are memory that is in no process
_PARTS: Final = 2  # named on half a page
_SHARE: Final = 100  # what is less than a hundredth of all is no line of half a page
_SWAPPED: Final = 3
# memory.stat of a cgroup, kernel/cgroup-v2.rst: "anon", "file" with shmem in it, the kernel's own by kind.
_STAT: Final = {
    PROCESSES: ("anon",),
    "shared memory and tmpfs": ("shmem",),
    "slab": ("slab",),
    "page tables": ("pagetables", "sec_pagetables"),
    "kernel stacks": ("kernel_stack",),
    "vmalloc": ("vmalloc",),
    "per-cpu": ("percpu",),
    "network buffers": ("sock",),
    "huge pages": ("hugetlb",),
    "zswap": ("zswap",),
}


@dataclass(frozen=True, slots=True)
class Row:
    """``parts``: by name, the largest first, and not all of it."""

    what: str
    bytes: int
    parts: tuple[tuple[str, int], ...] = ()

    @property
    def hidden(self) -> bool:
        """No list of processes shows it."""
        return self.what not in _OTHERWISE


@dataclass(frozen=True, slots=True)
class Account:
    """The rows add up to ``total_bytes``; "unaccounted" may be below zero. ``swapped``: the largest, then the rest."""

    cgroup: str
    total_bytes: int
    rows: tuple[Row, ...]
    swap_bytes: int = 0
    swap_total_bytes: int | None = None  # None: no limit is known
    swapped: tuple[tuple[str, int], ...] = ()

    @property
    def hidden_bytes(self) -> int:
        return sum(row.bytes for row in self.rows if row.hidden)


def account(incident: Incident) -> Account | None:
    """Of what the incident is about; None: nobody has counted."""
    return machine(incident) if incident["cgroup"] == "/" else _cgroup(incident, incident["cgroup"])


def machine(incident: Incident) -> Account | None:
    evidence = incident["evidence"]
    stage, told = _first(evidence.get("owners", {}))
    if told is None:
        return None
    rows = tuple(Row(row["what"], row["bytes"], _parts(evidence, stage, row)) for row in told["rows"] if row["bytes"])
    meminfo = evidence.get("meminfo", {}).get(stage, {})
    total = meminfo.get("SwapTotal", 0)
    processes = sorted(evidence.get("processes", ()), key=lambda row: -int(row["swap_bytes"]))
    # The table of processes was read a moment later.
    used = max(total - meminfo.get("SwapFree", total), sum(row["swap_bytes"] for row in processes))
    return Account("/", told["total_bytes"], rows, used, total, tuple(_swapped(processes, used)))


def _parts(evidence: Mapping[str, Any], stage: str, row: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
    found = [(part["what"], part["bytes"]) for part in row.get("parts", ()) if part["bytes"]]
    if row["what"] == "zram":
        devices = evidence.get("zram", {}).items()
        found += [
            (f"{at.partition('.')[2]} ({size(device['stored_bytes'])} of pages)", device["memory_bytes"])
            for at, device in devices
            if at.startswith(f"{stage}.") and device["memory_bytes"]
        ]
    return tuple(found)


def _swapped(rows: list[Mapping[str, Any]], used: int) -> Iterator[tuple[str, int]]:
    for row in rows[:_SWAPPED]:
        if row["swap_bytes"]:
            yield f"{row['comm']}[{row['pid']}]", row["swap_bytes"]
    others = sum(row["swap_bytes"] for row in rows[_SWAPPED:])
    if others:
        yield "other processes", others
    rest = used - sum(row["swap_bytes"] for row in rows)
    if rest > 0 and rows:
        yield "in no process", rest


def _cgroup(incident: Incident, path: str) -> Account | None:
    _, files = _first({stage: found[path] for stage, found in _stages(incident).items() if path in found})
    stat = files.get("memory.stat") if files else None
    total = files.get("memory.current", files.get("memory.usage_in_bytes")) if files else None
    if not isinstance(stat, dict) or not isinstance(total, int):
        return None  # nobody has read it
    sizes = _v1(stat, files) if "total_rss" in stat else _v2(stat)
    rows = [Row(what, count) for what, count in sizes.items() if count]
    rows.append(Row("unaccounted", total - sum(sizes.values())))
    limit = files.get("memory.swap.max")
    swap = files.get("memory.swap.current", stat.get("total_swap", 0))
    return Account(path, total, tuple(rows), swap, limit if isinstance(limit, int) else None)


def _v2(stat: Mapping[str, int]) -> dict[str, int]:
    sizes = {what: sum(stat.get(name, 0) for name in names) for what, names in _STAT.items()}
    return sizes | {"cache": max(0, stat.get("file", 0) - stat.get("shmem", 0))}


def _v1(stat: Mapping[str, int], files: Mapping[str, Any]) -> dict[str, int]:
    """With all below it; total_cache holds total_shmem. Of kernel memory only the sum is told."""
    kernel = files.get("memory.kmem.usage_in_bytes", 0)
    return {
        PROCESSES: stat["total_rss"],
        "cache": max(0, stat.get("total_cache", 0) - stat.get("total_shmem", 0)),
        "shared memory and tmpfs": stat.get("total_shmem", 0),
        "kernel memory": kernel if isinstance(kernel, int) else 0,
    }


def _stages(incident: Incident) -> Mapping[str, Mapping[str, Any]]:
    found: Mapping[str, Mapping[str, Any]] = incident["evidence"].get("cgroups", {})
    return found


def _first(stages: Mapping[str, Any]) -> tuple[str, Any]:
    return next(((stage, stages[stage]) for stage in STAGES if stage in stages), ("", None))


# -- in words


def brief(told: Account) -> list[str]:
    """Two lines for half a page, the second where there is anything in swap."""
    least = told.total_bytes // _SHARE
    shown = sorted((row for row in told.rows if row.bytes > least), key=lambda row: -row.bytes)
    seen = [f"{row.what} {size(row.bytes)}" for row in shown if not row.hidden]
    hidden = ", ".join(_named(row) for row in shown if row.hidden)
    if told.hidden_bytes > least and hidden:
        share = 100 * told.hidden_bytes // max(1, told.total_bytes)
        seen.append(f"in no process {size(told.hidden_bytes)} ({share} %): {hidden}")
    return ["; ".join(seen) + "."] * bool(seen) + swap(told)


def swap(told: Account) -> list[str]:
    """One line, or none."""
    if told.swap_bytes < (1 << 20):
        return []
    of = f" of {size(told.swap_total_bytes)}" if told.swap_total_bytes else ""
    who = ", ".join(f"{printable(what)} {size(count)}" for what, count in told.swapped)
    return [f"Swap: {size(told.swap_bytes)}{of}" + (f": {who}." if who else ".")]


def _named(row: Row) -> str:
    parts = ", ".join(f"{printable(what)} {size(count)}" for what, count in row.parts[:_PARTS])
    return f"{row.what} {size(row.bytes)}" + (f" ({parts})" if parts else "")


def whole(told: Account) -> Iterator[tuple[str, str]]:
    """(how much, whose), every row, and below it its parts."""
    for row in told.rows:
        yield size(row.bytes), row.what + (", in no process" if row.hidden else "")
        for what, count in row.parts:
            yield "", f"{size(count)}  {printable(what)}"
