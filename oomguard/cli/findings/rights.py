"""What we may do: capabilities one by one, limits, seccomp. Of the daemon that runs, else of one started from here."""

from collections.abc import Iterator

from .facts import Facts, Rights
from .finding import Finding, Severity, size

# What each is for: without it this is different. The bool: it matters to a daemon that is to guard others.
CAPABILITIES: dict[str, tuple[bool, str]] = {
    "CAP_KILL": (True, "only processes of the same user can be ended"),
    "CAP_DAC_OVERRIDE": (True, "cgroup files and oom_score_adj of other users cannot be written"),
    "CAP_IPC_LOCK": (False, "memory can be locked only up to RLIMIT_MEMLOCK"),
    "CAP_SYS_RESOURCE": (False, "PSI windows are multiples of 2 s, and the kernel may choose the daemon itself"),
    "CAP_SYS_NICE": (False, "the daemon runs at ordinary priority, unless RLIMIT_RTPRIO allows more"),
    "CAP_SYS_PTRACE": (False, "the evidence has no smaps_rollup and no command lines of other users' processes"),
    "CAP_DAC_READ_SEARCH": (False, "some files of the evidence cannot be read"),
    "CAP_SYSLOG": (False, "where kernel.dmesg_restrict is 1, who was killed by the kernel has no name"),
    "CAP_SETUID": (False, "the herald, who talks to the outside, keeps the rights that he was started with"),
    "CAP_SETGID": (False, "the herald keeps the groups that he was started with"),
}

LOCKED_BYTES = 32 << 20  # core, reaper and scribe lock some 24 MiB together; each of them less
RR_PRIORITY = 20  # as core.arm asks for
DESCRIPTORS = 4096  # some ten for every guarded cgroup
PIDS = 16  # workers that are started again, a compiler at a reload, hooks

_BY_UNIT = "systemctl revert oomguard.service && systemctl restart oomguard.service"


def of(facts: Facts) -> Iterator[Finding]:
    """Capabilities, limits, seccomp."""
    rights = facts.rights
    mend = _BY_UNIT if rights.running and facts.ours.unit is not None and facts.ours.unit.active == "active" else ""
    if not rights.root:
        yield _found(
            "root",
            "matters" if rights.running else "note",
            f"{rights.whose} is not root's",
            "only processes of that user can be guarded, and little can be locked or set",
            "systemctl enable --now oomguard.service" if facts.ours.systemd else "",
        )
    else:
        yield from _capabilities(rights, mend)
    yield from _limits(rights, mend)
    if rights.seccomp:
        yield _found("seccomp", "fine", f"{rights.whose} has a seccomp filter; what it forbids is found by trying")


def _found(name: str, severity: Severity, text: str, means: str = "", mend: str = "") -> Finding:
    return Finding("rights", name, severity, text, means, mend)


def _capabilities(rights: Rights, mend: str) -> Iterator[Finding]:
    if rights.capabilities is None:
        return
    for name, (matters, without) in CAPABILITIES.items():
        if name in rights.capabilities:
            yield _found(name, "fine", f"{rights.whose} has {name}")
        else:
            yield _found(name, "matters" if matters else "note", f"{rights.whose} has no {name}", without, mend)


def _limits(rights: Rights, mend: str) -> Iterator[Finding]:
    have, limits = rights.capabilities or frozenset(), rights.limits
    checks = (
        ("RLIMIT_MEMLOCK", LOCKED_BYTES, "CAP_IPC_LOCK" in have, "the daemon cannot lock all that it needs", size),
        ("RLIMIT_RTPRIO", RR_PRIORITY, "CAP_SYS_NICE" in have, "SCHED_RR is refused: a busy machine may delay us", str),
        ("RLIMIT_NOFILE", DESCRIPTORS, False, "not many cgroups can be guarded: ten descriptors each", str),
    )
    for name, least, exempt, without, shown in checks:
        if name not in limits:
            continue
        limit = limits[name]
        if exempt or limit is None or limit >= least:
            text = "does not bind" if exempt else "unlimited" if limit is None else shown(limit)
            yield _found(name, "fine", f"{name} of {rights.whose}: {text}")
        else:
            text = f"{name} of {rights.whose} is {shown(limit)}, less than {shown(least)}"
            yield _found(name, "note", text, without, mend)
    if rights.pids is not None:
        used, most = rights.pids
        if most - used < PIDS:
            text = f"the cgroup of {rights.whose} has {used} of {most} processes (pids.max)"
            mend = "systemctl set-property oomguard.service TasksMax=64" if rights.running and mend else ""
            yield _found("pids", "note", text, "a worker that has ended may not be started again", mend)
        else:
            yield _found("pids", "fine", f"{most - used} more processes may be started (pids.max)")
