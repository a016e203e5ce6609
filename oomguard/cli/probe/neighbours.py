"""Other out-of-memory daemons: processes by name, units by systemd, and the cgroups that systemd-oomd may kill in."""

from .. import beside
from ..findings.facts import Managed, Other
from . import systemd
from .places import Places

_STARTED_AT_BOOT = frozenset({"enabled", "enabled-runtime"})
_MANAGED = {"ManagedOOMSwap": "swap", "ManagedOOMMemoryPressure": "memory pressure"}


def look(places: Places) -> tuple[Other, ...]:
    """Those that run, and those that the next boot starts."""
    running = beside.running(places.proc)
    enabled: set[str] = set()
    active: dict[str, int] = {}
    units = sorted({unit for _, unit in beside.DAEMONS.values()})
    if systemd.is_init(places):
        for unit in systemd.show(places, ("Id", "UnitFileState", "MainPID"), *units):
            if unit.get("UnitFileState") in _STARTED_AT_BOOT:
                enabled.add(unit["Id"])
            if (pid := unit.get("MainPID", "0")).isdigit() and int(pid):
                active[unit["Id"]] = int(pid)
    found = {}
    for name, service in beside.DAEMONS.values():
        lives = active.get(service, running.get(name))
        if lives is not None or service in enabled:
            found[name] = Other(name, service if systemd.is_init(places) else "", lives, service in enabled)
    if active.get("nohang-desktop.service") and active.get("nohang.service") is None:
        found.pop("nohang", None)  # the same program: it is the one with the unit
    return tuple(found.values())


def running(places: Places, pids: dict[str, int]) -> tuple[Other, ...]:
    """Those of which a process is known, and nobody asked."""
    units = dict(beside.DAEMONS.values())
    return tuple(Other(name, units[name] if systemd.is_init(places) else "", pid) for name, pid in pids.items())


def managed(places: Places, others: tuple[Other, ...], briefly: bool = False) -> tuple[Managed, ...]:
    """Where systemd-oomd may kill, if it runs: what units ask for, and what it says itself (users' own units, too).

    ``briefly``: only what it says itself, where it answers: one question instead of one about every unit.
    """
    if not any(other.name == "systemd-oomd" and other.pid is not None for other in others):
        return ()
    found: dict[Managed, None] = {}
    said = systemd.asked(places, ["oomctl", "dump"]) if places.here else None
    if said is not None:
        found |= dict.fromkeys(of_oomctl(said))
    if said is None or not briefly:
        for unit in systemd.show(places, ("ControlGroup", *_MANAGED), "*") if systemd.is_init(places) else ():
            for name, by in _MANAGED.items():
                if unit.get(name) == "kill" and unit.get("ControlGroup"):
                    found[Managed(unit["ControlGroup"], by)] = None
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
