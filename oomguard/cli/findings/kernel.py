"""What this kernel can do, from what was tried on it. No version is looked at: distributions carry things over."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .facts import Facts, Kernel, Trial
from .finding import Finding, Severity, sysctl

_UNIFIED = "systemd.unified_cgroup_hierarchy=1"


@dataclass(frozen=True, slots=True)
class _Thing:
    """Something that is tried: how bad it is without, and what is different then."""

    name: str
    severity: Severity
    without: str


# Of a cgroup that has the memory controller.
_FILES = (
    _Thing("memory.high", "matters", "no tripwire and no brake: a fast leak may outrun a guard"),
    _Thing("cgroup.kill", "note", "a cgroup is ended process by process (Linux 5.14 has it)"),
    _Thing("cgroup.freeze", "note", "the action freeze cannot be done (Linux 5.2 has it)"),
    _Thing("memory.reclaim", "note", "the action reclaim cannot be done (Linux 5.19 has it)"),
    _Thing(
        "memory.oom.group", "note", "an owner cannot ask for his cgroup to be killed as a whole (Linux 4.19 has it)"
    ),
    _Thing("memory.peak", "note", "incidents do not tell the highest use of a cgroup (Linux 5.19 has it)"),
)

_CALLS = (
    _Thing("pidfd_open", "matters", "no process can be held, so nobody can be ended safely: oomguard cannot guard"),
    _Thing("pidfd_send_signal", "matters", "nobody can be ended: oomguard cannot guard"),
    _Thing("process_mrelease", "note", "memory of a dying process comes back a little later (Linux 5.15 has it)"),
    _Thing("mlockall", "matters", "the daemon's own memory may be swapped out in the very moment it is needed"),
    _Thing("madvise populate", "note", "a page of the daemon may still fault (Linux 5.14 has it)"),
    _Thing("sched_setscheduler", "note", "SCHED_RR is refused: a busy machine may delay the daemon"),
    _Thing("oom_score_adj", "note", "the kernel's killer may choose the daemon: only with CAP_SYS_RESOURCE it cannot"),
    _Thing("insurance", "matters", "nominees cannot be insured: should the kernel be faster, it takes whom it likes"),
    _Thing("inotify", "matters", "new cgroups are noticed late: an inotify instance is missing"),
    _Thing("signalfd", "matters", "the daemon cannot be told to stop or reload"),
    _Thing("memfd_create", "matters", "the plan cannot be handed over sealed: the daemon does not start"),
    _Thing("kmsg", "note", "who was killed by the kernel is told by counters alone, without a name"),
)

_MENDS = {"inotify": sysctl("fs.inotify.max_user_instances", 1024)}


def of(facts: Facts) -> Iterator[Finding]:
    """PSI, control groups, what a kill takes, MGLRU."""
    yield from _pressure(facts.kernel)
    yield from _hierarchy(facts)
    if facts.kernel.flavour == "v2":
        yield from _tried(_FILES, facts.kernel.files, " of a cgroup")
    yield from _tried(_CALLS, facts.kernel.calls)
    yield from _lru(facts)


def _found(name: str, severity: Severity, text: str, means: str = "", mend: str = "") -> Finding:
    return Finding("kernel", name, severity, text, means, mend)


def _boot_with(kernel: Kernel, word: str) -> str:
    """Debian's way to a word on the kernel's command line; elsewhere there are too many ways to name one."""
    if not kernel.grub:
        return ""
    return f"""sed -i 's/^GRUB_CMDLINE_LINUX="/&{word} /' /etc/default/grub && update-grub && systemctl reboot"""


def _pressure(kernel: Kernel) -> Iterator[Finding]:
    if kernel.pressure:
        yield _found(
            "pressure",
            "matters",
            f"pressure stall information (PSI): {kernel.pressure}",
            "a machine that only thrashes is not recognised; put psi=1 on the kernel's command line",
            _boot_with(kernel, "psi=1"),
        )
        return
    if kernel.pressure == "":
        yield _found("pressure", "fine", "pressure stall information (PSI) is on")
    if kernel.trigger == "":
        yield _found("trigger", "fine", "stall triggers with windows of 1 s")
    elif kernel.trigger and kernel.slow_trigger == "":
        text = f"stall triggers have windows of 2 s: {kernel.trigger}"
        yield _found("trigger", "note", text, "a stall is told up to a second later; CAP_SYS_RESOURCE is missing")
    elif kernel.trigger:
        text = f"no stall triggers: {kernel.slow_trigger or kernel.trigger}"
        yield _found("trigger", "matters", text, "stall_above never holds, only deadlines wake the daemon")


def _hierarchy(facts: Facts) -> Iterator[Finding]:
    kernel = facts.kernel
    if kernel.flavour == "v2":
        yield _found("cgroup", "fine", f"cgroup v2 with the memory controller at {kernel.mount}")
        return
    what = {
        "hybrid": f"cgroup hybrid: v2 is mounted, but memory is accounted on v1 at {kernel.mount}",
        "v1": f"cgroup v1, memory at {kernel.mount}",
        "none": "no memory controller: neither cgroup v2 nor v1",
    }[kernel.flavour]
    means = "no memory.high and no memory.reclaim: no tripwire and no brake; thresholds and shorter deadlines stand in"
    if kernel.flavour == "none":
        means = "processes are told apart alone; policies of single cgroups have nothing to watch"
    inside = any(guard.cgroup != "/" for guard in facts.ours.guards)
    mend = _boot_with(kernel, _UNIFIED) if facts.ours.systemd and kernel.flavour != "none" else ""
    yield _found("cgroup", "matters" if inside and kernel.flavour == "none" else "note", what, means, mend)


def _tried(things: tuple[_Thing, ...], trials: Mapping[str, Trial], where: str = "") -> Iterator[Finding]:
    for thing in things:
        why = trials.get(thing.name)
        if why == "":
            yield _found(thing.name, "fine", f"{thing.name} works")
        elif why is not None:
            text = f"{thing.name}{where}: {why}"
            yield _found(thing.name, thing.severity, text, thing.without, _MENDS.get(thing.name, ""))


def _lru(facts: Facts) -> Iterator[Finding]:
    """Documentation/admin-guide/mm/multigen_lru.rst"""
    bits, ttl_ms = facts.memory.lru_gen, facts.memory.min_ttl_ms
    if bits is None:
        return
    if ttl_ms:
        yield _found(
            "mglru",
            "note",
            f"MGLRU protects the working set of the last {ttl_ms} ms (min_ttl_ms)",
            "the kernel's own killer acts as soon as that cannot be kept, perhaps before any watermark",
            "echo 0 > /sys/kernel/mm/lru_gen/min_ttl_ms",
        )
    else:
        yield _found("mglru", "fine", f"MGLRU is {'on' if bits & 1 else 'off'} (0x{bits:04x}), min_ttl_ms 0")
