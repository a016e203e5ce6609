"""What became of it, 1, 10 and 60 s after the act: the same few facts each time, and whether the victim is back.

Each look is a handful of small reads; who was killed is looked for where it lived.
"""

import os
import re
import time
from collections.abc import Mapping
from typing import Any, Final

from ..linux import cgroup2, procfs

AT_S: Final = (1.0, 10.0, 60.0)
_VICTIMS_MAX: Final = 4
_PROCS_MAX: Final = 512
_AVG10: Final = re.compile(rb"full avg10=([0-9.]+) avg60=([0-9.]+)")


def look(
    proc: str, root: str, cgroup: str, acted_ns: int, victims: list[dict[str, Any]], kernel_kills: int | None
) -> dict[str, Any]:
    """One line of ``after``. ``kernel_kills``: vmstat's oom_kill when it opened; what is not known is None."""
    meminfo = _numbers(f"{proc}/meminfo", 1024)
    oom_kill = _numbers(f"{proc}/vmstat", 1).get("oom_kill")
    pressure = f"{proc}/pressure/memory" if cgroup == "/" else pressure_file(root, cgroup)
    full = full_averages(pressure)
    current = read(f"{root}{cgroup}/{cgroup2.kind(root).CURRENT}")
    return {
        "at_s": round((time.monotonic_ns() - acted_ns) / 1e9, 3),
        "available_bytes": meminfo.get("MemAvailable"),
        "swap_free_bytes": meminfo.get("SwapFree"),
        "full_avg10": full[0] if full else None,
        "cgroup_bytes": int(current) if current.strip().isdigit() else None,
        "kernel_kills": None if oom_kill is None or kernel_kills is None else max(0, oom_kill - kernel_kills),
        "victims": [_victim(proc, root, row, acted_ns) for row in victims[:_VICTIMS_MAX]],
    }


def pressure_file(root: str, cgroup: str) -> str:
    """Where the pressure of a cgroup is told; a name that leads nowhere, where nobody tells it."""
    return f"{cgroup2.kind(root).pressure_root(root) or ''}{cgroup}/memory.pressure"


def _victim(proc: str, root: str, row: Mapping[str, Any], acted_ns: int) -> dict[str, Any]:
    """Whether something of that name lives in its place again, and how much it has."""
    pids = read(f"{root}{row['cgroup']}/cgroup.procs").split()[:_PROCS_MAX] if row["cgroup"] else []
    age_ns = time.monotonic_ns() - acted_ns
    since_ticks = (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - age_ns) * os.sysconf("SC_CLK_TCK") // 1_000_000_000
    held = count = 0
    fd = procfs.open_proc(proc)
    try:
        for pid in pids:
            try:
                facts = procfs.read_process(fd, int(pid), row["cgroup"])
            except (OSError, ValueError):
                continue
            if facts is not None and facts.comm == row["comm"] and facts.start_ticks >= since_ticks:
                count, held = count + 1, held + facts.held_bytes
    finally:
        os.close(fd)
    again = held * 2 >= row["bytes"] > 0
    back = {"comm": row["comm"], "cgroup": row["cgroup"], "restarted": count > 0, "bytes": held}
    return back | {"again": again}


def full_averages(path: str) -> tuple[float, float] | None:
    """(avg10, avg60) in percent of the "full" line of a pressure file; None: not there."""
    found = _AVG10.search(read(path))
    return (float(found[1]), float(found[2])) if found else None


def _numbers(path: str, scale: int) -> dict[str, int]:
    found: dict[str, int] = {}
    for line in read(path).splitlines():
        words = line.split()
        if len(words) >= 2 and words[1].isdigit():
            found[words[0].rstrip(b":").decode("ascii", "replace")] = int(words[1]) * scale
    return found


def read(path: str) -> bytes:
    """A small file; empty: it is not there."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(65536) or b""
    except (OSError, ValueError):
        return b""


def verdict(story: Mapping[str, Any], after: list[dict[str, Any]]) -> dict[str, Any]:
    """On ourselves. ``story``: the incident as it is told by its turns, ``no_guard`` included.

    {"helped": bool or None where nothing was done or it is not known yet, "kernel_killed", "unable": the reason or
    None, "again": the victim came back and holds half as much, "text"}.
    """
    struck = [kill for kill in story["kills"] if kill["errno"] == 0 and not kill["held"]]
    kernel = bool(story["kernel_kills"]) or story["killed_by"] == "kernel"
    kernel = kernel or (bool(struck) and any(look["kernel_kills"] for look in after))
    again = [victim for look in after for victim in look["victims"] if victim["again"]]
    helped: bool | None = None
    unable = story["no_guard"]["reason"] if story["no_guard"] is not None and not struck else None
    if struck and kernel:
        helped, text = False, "the kernel killed as well"
    elif struck and again:
        helped, text = False, f"it helped until {again[0]['comm']} came back and took as much again"
    elif struck and story["outcome"]:
        helped = story["freed_bytes"] is None or story["freed_bytes"] > 0
        many = f"{len(struck)} kills" if len(struck) > 1 else "one kill"
        text = f"it helped: {many}, and memory was clear" if helped else "it freed nothing"
    elif struck:
        text = "it is not known yet whether it helped"
    elif unable is not None:
        text = f"nobody acted: {story['no_guard']['text']}"
    elif story["mode"] == "observe" and story["kills"]:
        text = "observe mode: nothing was touched"
    else:
        text = "nothing had to be done"
    return {"helped": helped, "kernel_killed": kernel, "unable": unable, "again": bool(again), "text": text}
