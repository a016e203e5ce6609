"""Who else kills on this machine, told at the start: two guards on the same memory kill twice. The doctor says more.

Looked for by the names of processes, before the core is there. Where there is none, which is nearly always, that is all
that it costs; only beside systemd-oomd, which kills in some cgroups and not in others, one question is asked. Nobody is
stopped by us: the command that does it is told. Which of them run is part of what a plan was made from (``origin``): a
start that compiles nothing, since nothing has changed, tells what the last one has found. Nothing slow is imported.
"""

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..model.policy import Plan

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
WHAT = "neighbour"  # what status calls it by, with its name


def running(proc: str) -> dict[str, int]:
    """pid by name. A process can call itself what it likes: a name is a hint, and the finding says the pid."""
    found: dict[str, int] = {}
    try:
        pids = sorted(int(name) for name in os.listdir(proc) if name.isdecimal())
    except OSError:
        return found
    for pid in pids:
        name = _comm(f"{proc}/{pid}/comm")
        if name in DAEMONS:
            found.setdefault(DAEMONS[name][0], pid)
    return found


def _comm(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # gone, or hidden
        return ""
    try:
        return os.read(fd, 64).rstrip(b"\n").decode("utf-8", "replace")
    except OSError:
        return ""
    finally:
        os.close(fd)


def remarks(plan: "Plan") -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """((what, why), ...) of those that may kill where a policy of ours does, for status; a sentence of each other."""
    asides: tuple[str, ...] = ()
    pids = running(plan.daemon.proc)
    if not pids:
        return (), ()
    from ..model.policy import Daemon
    from .findings import neighbours as meaning
    from .findings.facts import Facts, Ours
    from .probe import Places, neighbours, service

    cgroup = plan.daemon.cgroup if plan.daemon.cgroup != Daemon().cgroup else ""
    places = Places(plan.daemon.proc, cgroup, plan.daemon.sys)
    others = neighbours.running(places, pids)
    managed = neighbours.managed(places, others, briefly=True)
    if not places.here:
        deaf = [other for other in others if other.name == meaning.OOMD]
        others = tuple(other for other in others if other not in deaf)
        asides = tuple(f"{meaning.OOMD} runs, pid {it.pid}: its cgroups cannot be asked for from here" for it in deaf)
    facts = Facts(others=others, managed=managed, ours=Ours(guards=service.guarded(places, plan)))
    found = tuple(meaning.of(facts))
    why = {it.name: f"{it.text}: {it.means}; to leave it to oomguard: {it.mend}" for it in found}
    matters = tuple((f"{WHAT} {it.name}", why[it.name]) for it in found if it.severity == "matters")
    return matters, asides + tuple(f"{it.text}: {it.means}" for it in found if it.severity == "note")
