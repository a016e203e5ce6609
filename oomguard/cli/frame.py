"""The daemon's page as other programs rely upon it: what ``status --json`` and ``top --json`` print."""

import time
from collections.abc import Sequence
from typing import Any

from ..model.facts import Stall
from ..model.statuspage import Clause, GuardLine, StatusPage
from ..report.mend import mend
from ..report.near import lines, near, used
from .processes import Process


def plain(page: StatusPage, processes: Sequence[Process] | None = None) -> dict[str, Any]:
    """Sizes in bytes, shares of 1, pressure in percent, times as their names say. ``None``: not known here."""
    numbers = page.numbers
    return {
        "pid": numbers.pid,
        "version": page.version,
        "armed": bool(numbers.armed),
        "started": _utc(numbers.started_ns),
        "turned_ms_ago": _age_ms(page.beat_ns),
        "policies": [_guard(guard, page) for guard in page.guards],
        "host": {
            "total_bytes": numbers.mem_total_bytes,
            "free_bytes": numbers.mem_free_bytes,
            "available_bytes": numbers.mem_available_bytes,
            "swap_total_bytes": numbers.swap_total_bytes,
            "swap_free_bytes": numbers.swap_free_bytes,
            "pressure": None
            if page.pressure is None
            else {"some": _stall(page.pressure.some), "full": _stall(page.pressure.full)},
        },
        "memory": {
            "minor_faults": numbers.minor_faults,
            "major_faults": numbers.major_faults,
            "processes": None if processes is None else [_process(it) for it in processes],
        },
        "counters": {
            "turns": numbers.turns,
            "snapshots": numbers.snapshots,
            "kills": numbers.kills,
            "kernel_oom_kills": numbers.kernel_oom_kills,
            "leases_undone": numbers.leases_undone,
            "dropped_records": numbers.drops,
        },
        "growing": [
            {
                "cgroup": it.cgroup,
                "bytes": it.bytes,
                "bytes_per_s": round(it.per_second),
                "seen_ms_ago": _age_ms(it.at_ns),
            }
            for it in page.growing
        ],
        "nominees": [
            {
                "policy": it.guard,
                "what": it.what,
                "pid": it.pid or None,
                "take": it.take,
                "processes": it.count,
                "held_bytes": it.held_bytes,
                "cgroup": it.cgroup,
            }
            for it in page.nominees
        ],
        "events": [
            {"time": _utc(it.at_ns), "kind": it.kind, "policy": it.guard or None, "text": it.text} for it in page.events
        ],
        "degraded": [{"what": what, "why": why, "mend": mend(what, why)} for what, why in page.degraded],
        "left_out": dict(page.left_out),
    }


def _process(it: Process) -> dict[str, Any]:
    return {"name": it.name, "resident_bytes": it.resident_bytes, "locked_bytes": it.locked_bytes, "cpu_s": it.cpu_s}


def _guard(guard: GuardLine, page: StatusPage) -> dict[str, Any]:
    return {
        "name": guard.name,
        "cgroup": guard.cgroup,
        "mode": guard.mode,
        "phase": guard.phase,
        "phase_ms": _age_ms(guard.entered_ns) if guard.entered_ns else None,
        "targets": guard.targets,
        "path": guard.path or None,
        "used_bytes": used(guard, page),
        "limit_bytes": guard.limit_bytes,
        "swap_bytes": guard.swap_bytes,
        "pressure": None
        if guard.pressure is None
        else {
            line: dict(zip(("avg10", "avg60", "avg300"), averages, strict=True))
            for line, averages in (("some", guard.pressure.some), ("full", guard.pressure.full))
        },
        "kills": guard.kills,
        "snapshots": guard.snapshots,
        "soft": _mark(guard, page, guard.soft),
        "hard": _mark(guard, page, guard.hard),
    }


def _mark(guard: GuardLine, page: StatusPage, clauses: tuple[Clause, ...]) -> dict[str, Any] | None:
    """The nearest clause of a watermark; ``at``: where it stands on the scale from 0 to the limit."""
    found = near(guard, page, clauses)
    if found is None:
        return None
    level = found.level
    return {
        "holds": found.holds,
        "share": None if found.share is None else round(found.share, 4),
        "words": found.words,
        "other_clauses": found.others,
        "kind": None if level is None else level.kind,
        "unit": None if level is None else level.unit,
        "now": None if level is None else level.now,
        "line": None if level is None else level.line,
        "at": [round(line, 4) for line in lines(guard, page, clauses)],
    }


def _stall(stall: Stall) -> dict[str, float]:
    return {"avg10": stall.avg10, "avg60": stall.avg60, "avg300": stall.avg300, "total_us": stall.total_us}


def _age_ms(then_ns: int) -> int:
    return max(0, time.monotonic_ns() - then_ns) // 1_000_000


def _utc(at_ns: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at_ns / 1e9))
