"""Our own installation: does it run, with this policy, and can it keep what it sees."""

from collections.abc import Iterator

from ...report import mend as mending
from .facts import Facts, Ours, Unit
from .finding import Finding, Severity, size

_UNIT = "oomguard.service"
_DOES_NOT = "the policy does not do here what it says"
LEAST_BYTES = 64 << 20  # an incident is a few MiB with its raw files; a full disk must not be the reason to have none

# As policy.doubts begins them: the guard never acts, or would at once.
_GRAVE = ("can never be reached", "there are no cgroups", "always holds")


def of(facts: Facts) -> Iterator[Finding]:
    """The unit, the daemon, its policy, its tripwires, its directory."""
    ours = facts.ours
    yield from _unit(ours)
    yield from _daemon(ours)
    yield from _policy(ours)
    yield from _tripwires(ours)
    yield from _state(ours)


def _found(name: str, severity: Severity, text: str, means: str = "", mend: str = "") -> Finding:
    return Finding("service", name, severity, text, means, mend)


def _unit(ours: Ours) -> Iterator[Finding]:
    if not ours.systemd:
        means = "nobody starts oomguard at boot, or again after a crash, unless your own init does"
        yield _found("unit", "note", "this machine was not booted with systemd", means)
        return
    unit = ours.unit
    if unit is None:
        return
    if unit.load != "loaded":
        means = "nobody starts it at boot, or again after a crash; in the checkout:"
        yield _found(
            "unit", "matters", f"{_UNIT} is {unit.load}", means, f"make install && systemctl enable --now {_UNIT}"
        )
        return
    yield from _loaded(unit)


def _loaded(unit: Unit) -> Iterator[Finding]:
    if unit.enabled in ("enabled", "enabled-runtime", "static", "indirect", "generated", "linked", "alias"):
        yield _found("enabled", "fine", f"{_UNIT} is {unit.enabled}")
    else:
        means = "after the next boot nobody guards"
        yield _found(
            "enabled", "matters", f"{_UNIT} is {unit.enabled or 'not enabled'}", means, f"systemctl enable {_UNIT}"
        )
    if unit.active == "active":
        yield _found("active", "fine", f"{_UNIT} is active")
    else:
        again = "systemctl reset-failed oomguard.service; " if unit.active == "failed" else ""
        means = "nobody guards now; journalctl -xu oomguard.service says why" if again else "nobody guards now"
        yield _found("active", "matters", f"{_UNIT} is {unit.active}", means, f"{again}systemctl start {_UNIT}")
    if unit.needs_reload:
        means = "systemd goes on with the unit as it was read before"
        mend = f"systemctl daemon-reload && systemctl restart {_UNIT}"
        yield _found("unit file", "note", f"the file of {_UNIT} has changed", means, mend)
    if unit.restarts:
        text = f"systemd had to start it again {unit.restarts} times"
        yield _found(
            "restarts", "note", text, "something ends it, and the journal knows what", f"journalctl -u {_UNIT}"
        )


def _daemon(ours: Ours) -> Iterator[Finding]:
    if ours.pid is None:
        if not ours.systemd or (ours.unit is not None and ours.unit.load != "loaded"):
            yield _found("running", "matters", "oomguard does not run", "nobody guards now", "oomguard run")
        return
    yield _found("running", "fine", f"oomguard {ours.version} runs, pid {ours.pid}")
    if ours.version != ours.installed:
        text = f"version {ours.version} runs, {ours.installed} is installed"
        mend = f"systemctl restart {_UNIT}" if ours.systemd else ""
        yield _found("version", "note", text, "the new one takes over with a restart", mend)
    for what, why in ours.degraded:
        yield _found(f"degraded {what}", "note", f"it says of itself: {what}: {why}", mending.mend(what, why))


def _policy(ours: Ours) -> Iterator[Finding]:
    files = ", ".join(ours.files)
    if ours.faults:
        first = ours.faults[0]
        more = f" (and {len(ours.faults) - 1} more)" if len(ours.faults) > 1 else ""
        running = "the policy in force stays until the files are right" if ours.pid else "the daemon does not start"
        means = f"{first.hint}; {running}" if first.hint else running
        text = f"the policy files are wrong: {first.where}: {first.message}{more}"
        yield _found("policy", "matters", text, means, _check(ours))
        return
    if files:
        yield _found("policy", "fine", f"the policy is right: {files}")
    for doubt in ours.doubts:
        severity: Severity = "matters" if doubt.message.startswith(_GRAVE) else "note"
        yield _found("doubt", severity, f"{doubt.where}: {doubt.message}", doubt.hint or _DOES_NOT, _check(ours))
    if ours.changed and ours.pid is not None:
        mend = f"systemctl reload {_UNIT}" if ours.systemd else f"kill -HUP {ours.pid}"
        means = "what is in force is what they said before"
        yield _found("changed", "note", "the policy files have changed since the daemon read them", means, mend)


def _check(ours: Ours) -> str:
    """Where every fault and doubt of the files stands, with its line."""
    return f"oomguard check{f' --config {ours.config}' if ours.config else ''}"


def _tripwires(ours: Ours) -> Iterator[Finding]:
    for guard in ours.guards:
        if not guard.tripwire or guard.laid is None or ours.pid is None or guard.mode != "enforce":
            continue
        text = f"policy {guard.name}: {guard.laid} of {guard.limited} tripwires are in force"
        if guard.laid < guard.limited:
            means = "a fast leak in the others may outrun the guard (an own memory.high under the line does as well)"
            yield _found(f"tripwires {guard.name}", "note", text, means)
        elif guard.limited:
            yield _found(f"tripwires {guard.name}", "fine", text)


def _state(ours: Ours) -> Iterator[Finding]:
    directory = ours.state_dir
    if ours.writable:
        mend = f"install -d -m 0750 -g oomguard {directory}" if ours.group else f"install -d -m 0750 {directory}"
        means = "incidents cannot be written: nobody will be able to say what happened"
        yield _found("state directory", "matters", f"{directory}: {ours.writable}", means, mend)
    elif ours.writable == "":
        yield _found("state directory", "fine", f"{directory} can be written")
    if ours.free_bytes is not None and ours.free_bytes < LEAST_BYTES:
        means = "an incident may be cut short"
        yield _found(
            "space",
            "matters",
            f"{directory} has {size(ours.free_bytes)} left",
            means,
            "oomguard incidents prune --keep 20",
        )
    elif ours.free_bytes is not None and ours.free_bytes < ours.incidents_max_bytes:
        text = f"{directory} has {size(ours.free_bytes)} left; the policy allows {size(ours.incidents_max_bytes)}"
        means = "the disk is full before the oldest incidents go ([daemon] incidents)"
        yield _found("space", "note", text, means, "oomguard incidents prune --keep 20")
    elif ours.free_bytes is not None:
        yield _found("space", "fine", f"{directory} has {size(ours.free_bytes)} left")
    if ours.group is False:
        means = "incidents can be read by root alone"
        yield _found("group", "note", "there is no group oomguard", means, "groupadd --system oomguard")
    elif ours.group:
        yield _found("group", "fine", "the group oomguard is there, whose members may read incidents")
