"""What the daemon's processes weigh, as the kernel tells anybody: no right is needed, and nothing is asked of them."""

import os
from dataclasses import dataclass
from pathlib import Path

MOST = 16  # core, reaper, scribe, herald, runner; hooks are gone in no time


@dataclass(frozen=True, slots=True)
class Process:
    """One of them. ``name``: core, reaper, scribe, herald ...; sizes in bytes, ``cpu_s`` user and system together."""

    name: str
    resident_bytes: int
    locked_bytes: int
    cpu_s: float


def of(core: int) -> list[Process]:
    """The core of this pid and its workers; those that are gone, or not ours to see, are left out."""
    found = {name: it for pid in [core, *_children(core)][:MOST] for name, it in _read(pid, core)}
    return list(found.values())


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _read(pid: int, core: int) -> list[tuple[str, Process]]:
    try:
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return []
    # Name:\toomguard-reaper
    # VmLck:\t    2748 kB
    fields = dict(line.partition(":")[::2] for line in status.splitlines())
    name = "core" if pid == core else fields.get("Name", "").strip().removeprefix("oomguard-")
    ticks = stat.rpartition(")")[2].split()
    user, system = int(ticks[11]), int(ticks[12])  # utime and stime, fields 14 and 15
    process = Process(
        name, _bytes(fields, "VmRSS"), _bytes(fields, "VmLck"), (user + system) / os.sysconf("SC_CLK_TCK")
    )
    return [(name, process)]


def _bytes(fields: dict[str, str], key: str) -> int:
    words = fields.get(key, "0").split()
    return int(words[0]) * 1024 if words else 0
