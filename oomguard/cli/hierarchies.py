"""Where cgroups are mounted, for commands that make or look for one: the mount that has the memory controller first."""

import os
import re
from dataclasses import dataclass
from typing import Literal

Flavour = Literal["v2", "hybrid", "v1", "none"]


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """``memory``: the mount that has the memory controller, None: nobody has. ``v1``: mounts by controller."""

    flavour: Flavour
    memory: str | None
    unified: str | None
    v1: dict[str, str]

    @property
    def version(self) -> int:
        """Of the hierarchy that has the memory: 2 or 1."""
        return 2 if self.flavour == "v2" else 1


def find(proc: str = "/proc", cgroup: str = "") -> Hierarchies:
    """``cgroup``: a tree that somebody has named, taken for v2. OSError, with the path: no /proc."""
    if cgroup:
        return Hierarchies("v2", cgroup, cgroup, {})
    path = f"{proc}/self/mounts"
    with open(path, "rb") as file:
        return parse(file.read())


def parse(mounts: bytes) -> Hierarchies:
    """/proc/self/mounts.

    cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0
    cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0
    """
    unified: str | None = None
    v1: dict[str, str] = {}
    for line in mounts.split(b"\n"):
        words = line.split(b" ")
        if len(words) < 4 or words[2] not in (b"cgroup", b"cgroup2"):
            continue
        point = _plain(words[1])
        if words[2] == b"cgroup":
            v1 |= {os.fsdecode(option): point for option in words[3].split(b",")}
        elif _has_memory(point):
            return Hierarchies("v2", point, point, v1)
        elif unified is None:
            unified = point
    if "memory" not in v1:
        return Hierarchies("none", None, unified, v1)
    return Hierarchies("v1" if unified is None else "hybrid", v1["memory"], unified, v1)


def _plain(word: bytes) -> str:
    r"""Blanks and the like are octal in this file: ``\040``."""
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), word))


def _has_memory(mount: str) -> bool:
    try:
        with open(f"{mount}/cgroup.controllers", encoding="ascii") as file:
            return "memory" in file.read().split()
    except OSError:
        return False
