"""Who else kills when memory is short, and in which cgroups: two guards on the same memory kill twice."""

from collections.abc import Iterator

from ...judge.glob import is_inside
from .facts import Facts, Guarded, Managed, Other
from .finding import Finding, Severity

OOMD = "systemd-oomd"


def of(facts: Facts) -> Iterator[Finding]:
    """Other daemons, and what systemd-oomd may kill in."""
    for other in facts.others:
        yield from _other(other, facts)
    if not any(other.pid is not None for other in facts.others):
        yield Finding("neighbours", "alone", "fine", "no other out-of-memory daemon runs")


def _other(other: Other, facts: Facts) -> Iterator[Finding]:
    off = f"systemctl disable --now {other.unit}" if other.unit else f"kill {other.pid}"
    if other.name == OOMD:
        off += " systemd-oomd.socket"
    if other.pid is None:
        if other.enabled:
            text = f"{other.name} does not run, and is enabled ({other.unit})"
            yield _found(other.name, "note", text, "from the next boot on it kills beside oomguard", off)
        return
    if other.name == OOMD:
        yield from _oomd(other, facts, off)
        return
    both = [guard.name for guard in facts.ours.guards if guard.mode == "enforce"]
    means = "it guards the whole machine: two guards kill twice" + (f" (policies {', '.join(both)})" if both else "")
    yield _found(other.name, "matters", f"{other.name} runs, pid {other.pid}", means, off)


def _found(name: str, severity: Severity, text: str, means: str, mend: str) -> Finding:
    return Finding("neighbours", name, severity, text, means, mend)


def _oomd(other: Other, facts: Facts, off: str) -> Iterator[Finding]:
    """It kills only in cgroups that have ManagedOOM*=kill."""
    if not facts.managed:
        text = f"{OOMD} runs, pid {other.pid}, and no cgroup is its own (ManagedOOMSwap=, ManagedOOMMemoryPressure=)"
        yield _found(OOMD, "note", text, "it kills nobody as long as that is so", off)
        return
    for managed in facts.managed:
        ours = [guard.name for guard in facts.ours.guards if guard.mode == "enforce" and shares(guard, managed)]
        text = f"{OOMD} (pid {other.pid}) owns {managed.cgroup} by {managed.by}"
        if ours:
            means = f"so do{'es' * (len(ours) == 1)} our {_policies(ours)}: whoever is first kills, or both do"
            yield _found(f"{OOMD} {managed.cgroup} {managed.by}", "matters", text, means, off)
        else:
            means = "no policy of ours that kills is about it"
            yield _found(f"{OOMD} {managed.cgroup} {managed.by}", "note", text, means, off)


def _policies(names: list[str]) -> str:
    return f"polic{'y' if len(names) == 1 else 'ies'} {', '.join(names)}"


def shares(guard: Guarded, managed: Managed) -> bool:
    """Whether there is a process that both may end."""
    targets = ("/",) if guard.cgroup == "/" else guard.targets
    return any(is_inside(target, managed.cgroup) or is_inside(managed.cgroup, target) for target in targets)
