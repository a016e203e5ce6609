"""The kernel's own report of a kill, put together from the lines of its log. A fold: no file, no clock.

    stress invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0
    memory: usage 262144kB, limit 262144kB, failcnt 33
    [  pid  ]   uid  tgid total_vm      rss rss_anon rss_file rss_shmem pgtables_bytes swapents oom_score_adj name
    [    812]     0   812    67584    65536    65000      536         0   593920        0             0 stress
    oom-kill:constraint=CONSTRAINT_MEMCG,...
    Memory cgroup out of memory: Killed process 812 (stress) total-vm:270336kB, anon-rss:262144kB, ...

Lines of two reports do not mix: the kernel holds oom_lock while it writes one. Lines of others may stand in between.
"""

import os
import re
from typing import Final

from . import containers
from .kmsg import Kill, OomKill, parse_kill, parse_oom_kill

TASKS: Final = 20  # the largest of the table
_ROWS_MAX: Final = 20_000
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_INVOKED: Final = " invoked oom-killer: gfp_mask="
_USAGE: Final = re.compile(r"memory: usage (\d+)kB, limit (\d+)kB, failcnt \d+")
_ROW: Final = re.compile(r"\[ *(\d+)\] +(.*)")
_ADJ: Final = re.compile(r"oom_score_adj:(-?\d+)")
_UNIT: Final = re.compile(r"[^/]+\.(?:service|scope|socket|mount|swap)")


class Report:
    """One kill, as far as its lines have come."""

    def __init__(self) -> None:
        self._begin("")

    def _begin(self, invoked_by: str) -> None:
        self._invoked = invoked_by
        self._usage: tuple[int, int] | None = None
        self._columns: list[str] = []
        self._tasks: list[dict[str, object]] = []
        self._seen = 0
        self._context: OomKill | None = None

    def line(self, text: str) -> dict[str, object] | None:
        """Take one line; the whole report if that was its last."""
        if _INVOKED in text:
            self._begin(text.partition(_INVOKED)[0])
        elif text.startswith("[  pid  ]"):
            self._columns = text.partition("]")[2].split()
        elif self._columns and (row := _ROW.fullmatch(text)):
            self._task(int(row[1]), row[2])
        elif usage := _USAGE.match(text):
            self._usage = int(usage[1]) << 10, int(usage[2]) << 10
        elif context := parse_oom_kill(text):
            self._context = context
        elif kill := parse_kill(text):
            told = self._told(kill, text)
            self._begin("")
            return told
        return None

    def _task(self, pid: int, rest: str) -> None:
        self._seen += 1
        words = rest.split(None, len(self._columns) - 1)
        if len(words) != len(self._columns) or self._seen > _ROWS_MAX:
            return
        row = dict(zip(self._columns, words, strict=True))
        try:
            task: dict[str, object] = {
                "pid": pid,
                "comm": row["name"],
                "uid": int(row["uid"]),
                "rss_bytes": int(row["rss"]) * _PAGE,
                "swap_bytes": int(row["swapents"]) * _PAGE,
                "oom_score_adj": int(row["oom_score_adj"]),
            }
        except (ValueError, KeyError):
            return
        self._tasks.append(task)
        if len(self._tasks) > 4 * TASKS:
            self._tasks = _largest(self._tasks)

    def _told(self, kill: Kill, text: str) -> dict[str, object]:
        context = self._context if self._context is not None and self._context.pid == kill.pid else None
        cgroup = context.task_memcg if context is not None else ""
        adj = _ADJ.search(text)
        usage, limit = self._usage or (None, None)
        return {
            "invoked_by": self._invoked,
            "constraint": context.constraint if context is not None else "",
            "memcg": kill.memcg,
            "oom_memcg": context.oom_memcg if context is not None else "",
            "task_memcg": cgroup,
            "unit": unit(cgroup),
            "container": container(cgroup),
            "usage_bytes": usage,
            "limit_bytes": limit,
            "victim": {
                "pid": kill.pid,
                "comm": kill.comm,
                "uid": kill.uid,
                "anon_bytes": kill.anon_kb << 10,
                "file_bytes": kill.file_kb << 10,
                "shmem_bytes": kill.shmem_kb << 10,
                "oom_score_adj": int(adj[1]) if adj else None,
            },
            "tasks": _largest(self._tasks),
            "tasks_seen": self._seen,
        }


def _largest(tasks: list[dict[str, object]]) -> list[dict[str, object]]:
    return sorted(tasks, key=lambda task: -int(str(task["rss_bytes"])) - int(str(task["swap_bytes"])))[:TASKS]


def unit(cgroup: str) -> str:
    """The unit that owns it: of nested ones the innermost, a user's own services included; "": none."""
    found = _UNIT.findall(cgroup)
    return found[-1] if found else ""


def container(cgroup: str) -> str:
    """``docker 0123456789ab``, ``lxc web``: by the path, as the usual engines name theirs; "": none that is known."""
    found = containers.of(cgroup)
    return str(found) if found is not None else ""
