"""The kernel's own report of a kill, in sentences: who asked, whose limit it was, whom it took, from among whom."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from .words import printable, size

_LARGEST: Final = 3
_WHERE: Final = {
    "CONSTRAINT_NONE": "the whole machine was out of memory",
    "CONSTRAINT_CPUSET": "the memory nodes of its cpuset were full",
    "CONSTRAINT_MEMORY_POLICY": "the memory nodes of its policy were full",
}


def sentences(report: Mapping[str, Any]) -> Iterator[str]:
    """Three: why, whom, from among whom."""
    yield f"{printable(report['invoked_by']) or 'Somebody'} asked for memory, and {_where(report)}."
    yield f"Taken: {_victim(report)}."
    if report["tasks"]:
        largest = ", ".join(task(one) for one in report["tasks"][:_LARGEST])
        yield f"It chose from {report['tasks_seen']} processes, the largest {largest}."


def task(one: Mapping[str, Any]) -> str:
    """One row of the kernel's table."""
    swap = f" and {size(one['swap_bytes'])} in swap" if one["swap_bytes"] else ""
    return f"{printable(one['comm'])}[{one['pid']}] {size(one['rss_bytes'])}{swap}"


def _where(report: Mapping[str, Any]) -> str:
    if report["oom_memcg"]:
        use = f", {size(report['usage_bytes'])} of {size(report['limit_bytes'])}" if report["limit_bytes"] else ""
        return f"{printable(report['oom_memcg'])} was at its limit{use}"
    if report["memcg"]:
        return "a cgroup was at its limit"
    return _WHERE.get(report["constraint"], "there was none")


def _victim(report: Mapping[str, Any]) -> str:
    it = report["victim"]
    sizes = [
        f"{size(it[f'{kind}_bytes'])} {name}"
        for kind, name in (("anon", "of its own"), ("shmem", "shared"), ("file", "of files"))
        if it[f"{kind}_bytes"]
    ]
    adj = f", oom_score_adj {it['oom_score_adj']}" if it["oom_score_adj"] is not None else ""
    where = " in ".join(printable(name) for name in (report["container"], report["unit"]) if name)
    place = f" in {where or printable(report['task_memcg'])}" if where or report["task_memcg"] else ""
    return f"{printable(it['comm'])}[{it['pid']}]{place}: {', '.join(sizes) or 'nothing of its own'}{adj}"
