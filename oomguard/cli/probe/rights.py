"""What the daemon that runs may do; where none runs, what one could that is started from here."""

from ...linux import procfs
from ..findings.facts import Rights
from .places import Places

# /proc/PID/limits names them so.
_LIMITS = {
    "Max locked memory": "RLIMIT_MEMLOCK",
    "Max realtime priority": "RLIMIT_RTPRIO",
    "Max open files": "RLIMIT_NOFILE",
}


def look(places: Places, pid: int | None) -> Rights:
    """``pid``: of a daemon that runs. Of another machine's files nothing is known."""
    if not places.here:
        places.miss("rights", "these are another machine's files")
        return Rights(capabilities=None)
    who = "self" if pid is None else str(pid)
    status = places.text(f"/proc/{who}/status") or ""
    limits = places.text(f"/proc/{who}/limits")
    if pid is not None and limits is None:
        places.miss(f"limits of pid {pid}", "only root sees them")
    return Rights(
        whose="this shell" if pid is None else f"the daemon (pid {pid})",
        running=pid is not None,
        root=_field(status, "Uid").split()[1:2] == ["0"],
        capabilities=procfs.parse_capabilities(status.encode()) if status else None,
        limits=hard_limits(limits or ""),
        pids=_pids(places, who),
        seccomp=int(_field(status, "Seccomp") or 0),
    )


def hard_limits(text: str) -> dict[str, int | None]:
    """The hard limits that concern us; None: unlimited.

    Limit                     Soft Limit           Hard Limit           Units
    Max locked memory         8388608              8388608              bytes
    """
    found: dict[str, int | None] = {}
    for line in text.splitlines():
        for name, ours in _LIMITS.items():
            words = line.removeprefix(name).split()
            if line.startswith(name) and len(words) >= 2:
                found[ours] = int(words[1]) if words[1].isdigit() else None
    return found


def _field(status: str, name: str) -> str:
    return next((line.partition(":")[2].strip() for line in status.splitlines() if line.startswith(f"{name}:")), "")


def _pids(places: Places, who: str) -> tuple[int, int] | None:
    """(in use, most) of the tightest pids.max on the way up; None: none is set."""
    text = places.text(f"/proc/{who}/cgroup") or ""
    found: list[tuple[int, int]] = []
    for root, own in _hierarchies(places, text):
        path = own
        while path not in ("", "/"):
            most = places.number(f"{root}{path}/pids.max")
            used = places.number(f"{root}{path}/pids.current")
            if most is not None and used is not None:
                found.append((used, most))
            path = path.rpartition("/")[0]
    return min(found, key=lambda it: it[1] - it[0], default=None)


def _hierarchies(places: Places, cgroups: str) -> list[tuple[str, str]]:
    """(mount, path) of v2, and of pids on v1. 0::/system.slice/x.service, 8:pids:/y"""
    found = []
    for line in cgroups.splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            found.append((places.mounts.unified or places.mounts.memory, path))
        elif "pids" in controllers.split(","):
            found.append((places.mounts.v1.get("pids"), path))
    return [(root, path) for root, path in found if root is not None]
