"""Other out-of-memory daemons: processes by name, units by systemd, and the cgroups that systemd-oomd may kill in."""

import os

from ...linux import procfs
from ..findings.facts import Managed, Other
from . import systemd
from .places import Places

# name of the process (15 bytes at most) -> (what it is called, its unit). All of them end processes by themselves.
DAEMONS = {
    "earlyoom": ("earlyoom", "earlyoom.service"),
    "nohang": ("nohang", "nohang.service"),
    "nohang-desktop": ("nohang-desktop", "nohang-desktop.service"),
    "systemd-oomd": ("systemd-oomd", "systemd-oomd.service"),
    "oomd": ("oomd", "oomd.service"),
    "oomd_bin": ("oomd", "oomd.service"),
    "bustd": ("bustd", "bustd.service"),
    "low-memory-moni": ("low-memory-monitor", "low-memory-monitor.service"),
    "thrash-protect": ("thrash-protect", "thrash-protect.service"),
    "mgd": ("mgd", "mgd.service"),
    "lmkd": ("lmkd", "lmkd.service"),
}
_STARTED_AT_BOOT = frozenset({"enabled", "enabled-runtime"})
_MANAGED = {"ManagedOOMSwap": "swap", "ManagedOOMMemoryPressure": "memory pressure"}


def look(places: Places) -> tuple[Other, ...]:
    """Those that run, and those that the next boot starts."""
    running = _running(places)
    enabled: set[str] = set()
    active: dict[str, int] = {}
    units = sorted({unit for _, unit in DAEMONS.values()})
    if systemd.is_init(places):
        for unit in systemd.show(places, ("Id", "UnitFileState", "MainPID"), *units):
            if unit.get("UnitFileState") in _STARTED_AT_BOOT:
                enabled.add(unit["Id"])
            if (pid := unit.get("MainPID", "0")).isdigit() and int(pid):
                active[unit["Id"]] = int(pid)
    found = {}
    for name, service in DAEMONS.values():
        lives = active.get(service, running.get(name))
        if lives is not None or service in enabled:
            found[name] = Other(name, service if systemd.is_init(places) else "", lives, service in enabled)
    if active.get("nohang-desktop.service") and active.get("nohang.service") is None:
        found.pop("nohang", None)  # the same program: it is the one with the unit
    return tuple(found.values())


def _running(places: Places) -> dict[str, int]:
    """pid by name. A process can call itself what it likes: a name is a hint, and the finding says the pid."""
    found: dict[str, int] = {}
    proc = procfs.open_proc(places.proc)
    try:
        for pid in procfs.pids(proc):
            comm = (places.text(f"{places.proc}/{pid}/comm") or "").rstrip("\n")
            if comm in DAEMONS:
                found.setdefault(DAEMONS[comm][0], pid)
    finally:
        os.close(proc)
    return found


def managed(places: Places, others: tuple[Other, ...]) -> tuple[Managed, ...]:
    """Where systemd-oomd may kill, if it runs: what units ask for, and what it says itself (users' own units, too)."""
    if not any(other.name == "systemd-oomd" and other.pid is not None for other in others):
        return ()
    found: dict[Managed, None] = {}
    for unit in systemd.show(places, ("ControlGroup", *_MANAGED), "*"):
        for name, by in _MANAGED.items():
            if unit.get(name) == "kill" and unit.get("ControlGroup"):
                found[Managed(unit["ControlGroup"], by)] = None
    if (text := systemd.asked(places, ["oomctl", "dump"])) is not None:
        found |= dict.fromkeys(of_oomctl(text))
    return tuple(sorted(found, key=lambda it: (it.cgroup, it.by)))


def of_oomctl(text: str) -> list[Managed]:
    """What ``oomctl`` prints: a section each for swap and for memory pressure, and in it a path a cgroup.

    Swap Monitored CGroups:
    Memory Pressure Monitored CGroups:
            Path: /user.slice/user-1000.slice/user@1000.service
                    Memory Pressure Limit: 50.00%
    """
    found, by = [], ""
    for line in text.splitlines():
        words = line.strip()
        if words == "Swap Monitored CGroups:":
            by = "swap"
        elif words == "Memory Pressure Monitored CGroups:":
            by = "memory pressure"
        elif by and words.startswith("Path: "):
            found.append(Managed(words.removeprefix("Path: ").strip(), by))
    return found
