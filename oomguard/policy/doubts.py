"""What in a right plan is dangerous, or can never happen on this machine: warnings, never faults.

A machine may get swap tomorrow and a cgroup may appear in a minute, so nothing here keeps a plan from running.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from ..model import policy as model
from . import files, hidden, spoken
from .faults import Fault
from .files import Source
from .locate import Key

Matches = Callable[[str, str], bool]


def of(plan: model.Plan, matches: Matches) -> list[Fault]:
    """All doubts, guard by guard. Reads /proc and the cgroup tree where the plan says they are."""
    machine = Machine(Path(plan.daemon.proc), Path(plan.daemon.cgroup), Path(plan.daemon.sys))
    sources = [source for path in plan.files if isinstance(source := files.read(Path(path)), Source)]
    return _of_sinks(plan, sources) + [
        _warning(guard, sources, way, message, hint)
        for guard in plan.guards
        for doubts in (
            _dangers(guard),
            _wide(guard, matches),
            _limits(guard, machine, matches),
            _never_fires(guard, machine),
            _always(guard, machine),
            _readers(guard, machine),
            hidden.rules(guard, matches),
        )
        for way, message, hint in doubts
    ]


def _of_sinks(plan: model.Plan, sources: list[Source]) -> list[Fault]:
    found: list[Fault] = []
    for sink in plan.sinks:
        home = {source.file: source for source in sources}.get(sink.file)
        if sink.service and home is not None and _others_read(sink.file):
            hint = f"chmod 0600 {sink.file}, or url_file = a file of its own"
            found.append(
                home.fault(("sinks", sink.name, "url"), "that URL is a secret, and others may read it here", hint)
            )
        listed = [guard.notify for guard in plan.guards if guard.mode != "shadow"]
        if not {"kernel", "daemon"} & set(sink.at) and all(
            names is not None and sink.name not in names for names in listed
        ):
            file, _, line = sink.origin.rpartition(":")
            hint = "name it in the notify of a policy"
            found.append(Fault(file, int(line), f"sinks.{sink.name}", "no policy tells this sink anything", hint))
    return found


def _others_read(path: str) -> bool:
    try:
        return bool(os.stat(path).st_mode & 0o004)
    except OSError:
        return False


_DRILLS = "/oomguard-drill/"
_NO_LIMIT = (1 << 63) - (1 << 16)  # what cgroup v1 says where there is none, to the page
_ZSWAP_ENABLED = "module/zswap/parameters/enabled"


class Machine:
    """The few facts of this machine that decide whether a condition can ever hold."""

    def __init__(self, proc: Path, cgroup: Path, sys: Path = Path("/sys")) -> None:
        self.cgroup = cgroup
        self.has_swap = _swap_total_kib(proc / "meminfo") != 0
        self.has_pressure = _opens(proc / "pressure/memory")  # psi=0 on the kernel command line: there, but EOPNOTSUPP
        self.has_refaults = b"\nworkingset_refault" in _said(proc / "vmstat")
        self.has_zram = any(Path(sys, "block").glob("zram*"))
        self.has_zswap = b"\nZswap:" in _said(proc / "meminfo") and _said(sys / _ZSWAP_ENABLED) != b"N\n"
        self.has_cgroups, self.is_v1 = b"memory" in _said(cgroup / "cgroup.controllers").split(), False
        for memory in (cgroup, cgroup / "memory"):
            if not self.has_cgroups and (memory / "memory.usage_in_bytes").exists():
                self.cgroup, self.has_cgroups, self.is_v1 = memory, True, True
        self.is_this_one = proc == Path("/proc")

        self.total_bytes = _total(proc / "meminfo", "MemTotal:")
        self.swap_bytes = _total(proc / "meminfo", "SwapTotal:")

    def cgroups(self) -> Iterator[str]:
        """Every cgroup there is now, from the cgroup root."""
        for directory, names, _ in os.walk(self.cgroup):
            names.sort()
            path = directory.removeprefix(str(self.cgroup))
            yield path or "/"

    def bears(self, path: str, wanted: str, matches: Matches) -> bool:
        """Whether this cgroup has the extended attribute that is asked for, if any is."""
        name, _, pattern = wanted.partition("=")
        try:
            value = os.getxattr(self.cgroup / path.lstrip("/"), name, follow_symlinks=False) if name else b""
        except OSError:
            return False
        return not name or matches(pattern.replace("*", "**"), value.rstrip(b"\0\n").decode("utf-8", "surrogateescape"))

    def limit_on_the_way(self, path: str) -> bool:
        """Whether this cgroup or one above it has a memory.max; in v1, where that is always a number, a low one."""
        here, name = Path(path.lstrip("/")), "memory.limit_in_bytes" if self.is_v1 else "memory.max"
        return any(_number_in(self.cgroup / way / name) for way in (here, *here.parents))


def _swap_total_kib(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text("ascii", "replace").splitlines()
    except OSError:
        return None
    # SwapTotal:       2097148 kB
    fields = [line.split() for line in lines if line.startswith("SwapTotal:")]
    return int(fields[0][1]) if fields and len(fields[0]) > 1 and fields[0][1].isdigit() else None


def _said(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _total(meminfo: Path, name: str) -> int:
    """Bytes; 0: not known."""
    try:
        lines = meminfo.read_text("ascii", "replace").splitlines()
    except OSError:
        return 0
    fields = next((line.split() for line in lines if line.startswith(name)), [])
    return int(fields[1]) << 10 if len(fields) > 1 and fields[1].isdigit() else 0


def _opens(path: Path) -> bool:
    try:
        path.read_bytes()
    except OSError:
        return False
    return True


def _number_in(path: Path) -> bool:
    try:
        text = path.read_text("ascii").strip()
        return text.isdigit() and int(text) < _NO_LIMIT
    except (OSError, UnicodeDecodeError):
        return False


def _warning(guard: model.Guard, sources: list[Source], way: Key, message: str, hint: str) -> Fault:
    """Where it stands: in the last file that says it; what nobody says stands where the guard begins."""
    key: Key = ("policy", guard.name, *way)
    for source in reversed(sources):
        if source.lines.know(key):
            return source.fault(key, message, hint)
    file, _, line = guard.origin.rpartition(":")
    return Fault(file, int(line), files.dotted(key), message, hint)


_Doubts = Iterator[tuple[Key, str, str]]


def _watermarks(guard: model.Guard) -> Iterator[tuple[str, model.Watermark]]:
    if guard.soft:
        yield "soft", guard.soft
    if guard.hard:
        yield "hard", guard.hard


def _kills(watermark: model.Watermark | None) -> bool:
    return watermark is not None and watermark.kills


def _readers(guard: model.Guard, machine: Machine) -> _Doubts:
    """Users of FIFOs who are not there (yet). Of another machine's users nothing is known."""
    if not machine.is_this_one:
        return
    for mark, watermark in _watermarks(guard):
        for index, step in enumerate(watermark.do):
            for name, user in step.fifos if isinstance(step, model.TellStep) else ():
                if not _is_user(user):
                    way: Key = (mark, "do", index, "tell", "fifos", name)
                    yield way, f"there is no user {user!r} here: nobody can read this FIFO", "getent passwd lists them"


def _is_user(name: str) -> bool:
    import pwd

    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _dangers(guard: model.Guard) -> _Doubts:
    if _kills(guard.soft):
        yield (
            ("soft", "do"),
            "kills at the soft watermark already",
            "kill at hard, and snapshot, notify and nominate at soft",
        )
    if guard.cgroup == "/" and not guard.victim.never and (_kills(guard.soft) or _kills(guard.hard)):
        hint = 'begin with never = [{ comm = "sshd*" }, { unit = "systemd-*.service" }]'
        yield ("victim", "never"), "any process of the machine may be killed, the one you log in by too", hint
    if guard.hard and not guard.soft:
        yield ("soft",), "no soft watermark: there is no warning, and the victim is looked for at the last moment", ""


_WAY_IN = ("sshd", "/system.slice/ssh.service")


def _wide(guard: model.Guard, matches: Matches) -> _Doubts:
    """Where the way in is one candidate among others, it is to be spared by name."""
    comm, path = _WAY_IN
    around = any(guard.cgroup == above or matches(guard.cgroup, above) for above in list(_way_up(path))[1:])
    told = guard.cgroup == "/" and not guard.victim.never
    if not around or told or not (_kills(guard.soft) or _kills(guard.hard)):
        return
    if not any(_spares(match, comm, path, matches) for match in guard.victim.never):
        yield ("victim", "never"), f"{comm} may be ended, by which one logs in", 'never = [{ comm = "sshd*" }]'


def _spares(match: model.Match, comm: str, path: str, matches: Matches) -> bool:
    """Whether the match describes them by what is known of them here: name, unit and cgroup."""
    others = [key for key in spoken.match(match) if key not in ("comm", "unit", "cgroup", "uid")]
    if (
        others
        or (match.uid is not None and match.uid[0] > 0)
        or (match.comm is not None and not _is(match.comm, comm, matches, of_name=True))
    ):
        return False
    if match.unit is not None and not _is(match.unit, path.rpartition("/")[2], matches):
        return False
    return match.cgroup is None or any(_is(match.cgroup, above, matches) for above in _way_up(path))


def _is(pattern: model.Pattern, text: str, matches: Matches, of_name: bool = False) -> bool:
    if isinstance(pattern, model.Expression):
        return pattern.describes(text)
    return matches(pattern.replace("*", "**") if of_name else pattern, text)


def _way_up(path: str) -> Iterator[str]:
    yield path
    while path != "/":
        path = path.rpartition("/")[0] or "/"
        yield path


def _limits(guard: model.Guard, machine: Machine, matches: Matches) -> _Doubts:
    """What the guard's cgroups are now: none at all, or without the limit that its shares are of."""
    if guard.cgroup == "/":
        return
    if not machine.has_cgroups:
        yield ("cgroup",), "there are no cgroups here that count memory: this guard has nothing to watch", ""
        return
    if machine.is_v1:
        yield from _of_v1(guard)
    named = [path for path in machine.cgroups() if matches(guard.cgroup, path)]
    found = [path for path in named if machine.bears(path, guard.xattr, matches)]
    if named and not found:
        yield ("xattr",), f"none of its {len(named)} cgroups has {guard.xattr} now", "setfattr -n NAME -v VALUE sets it"
        return
    if not found and guard.cgroup.startswith(_DRILLS):
        return  # there is one during a drill (cli/scratch), and at no other time
    if not found:
        yield ("cgroup",), f"{guard.cgroup} matches no cgroup now", "see systemd-cgls, or ls -R /sys/fs/cgroup"
        return
    unlimited = [path for path in found if not machine.limit_on_the_way(path)]
    if not unlimited:
        return
    what = unlimited[0] if len(unlimited) == 1 else f"{unlimited[0]} (and {len(unlimited) - 1} more)"
    if guard.tripwire and not machine.is_v1:
        yield ("tripwire",), f"{what} has no memory.max to lay a tripwire under", "set MemoryMax= in its unit"
    if _uses_shares_of_limit(guard):
        hint = "set MemoryMax= in its unit, or write sizes"
        yield ("cgroup",), f"{what} has no memory.max: shares are of the machine's memory", hint


def _of_v1(guard: model.Guard) -> _Doubts:
    """What cgroup v1 has not, and what is there instead."""
    if guard.tripwire:
        instead = "a threshold wakes there, but nobody is slowed, and deadlines are shorter instead"
        yield ("tripwire",), f"cgroup v1 has no memory.high: {instead}", ""
    for name, watermark in _watermarks(guard):
        for index, step in enumerate(watermark.do):
            if isinstance(step, model.SetHighStep):
                yield (name, "do", index), "cgroup v1 has no memory.high: that action does nothing here", ""
            if isinstance(step, model.ReclaimStep):
                yield (name, "do", index), "cgroup v1 has no memory.reclaim: that action does nothing here", ""


def _uses_shares_of_limit(guard: model.Guard) -> bool:
    return any(
        isinstance(condition, model.MemoryAbove) and condition.amount.share is not None
        for _, watermark in _watermarks(guard)
        for clause in watermark.when
        for condition in clause.all_of
    )


def _never_fires(guard: model.Guard, machine: Machine) -> _Doubts:
    for name, watermark in _watermarks(guard):
        dead = 0
        for index, clause in enumerate(watermark.when):
            reasons = {reason for condition in clause.all_of if (reason := _impossible(condition, machine))}
            dead += bool(reasons)
            for reason in sorted(reasons):
                yield (name, "when", index), f"can never hold on this machine: {reason}", ""
        if dead == len(watermark.when):
            yield (name,), "can never be reached on this machine", "none of its conditions can hold"


def _always(guard: model.Guard, machine: Machine) -> _Doubts:
    """Sizes of another machine: what is below more than all there is holds from the first moment."""
    for name, watermark in _watermarks(guard):
        for index, clause in enumerate(watermark.when):
            levels = [_too_much(condition, machine) for condition in clause.all_of]
            if all(levels):
                hint = 'write a share, or the smaller of two: ["12%", "6GiB"]'
                yield (name, "when", index), f"always holds on this machine: {levels[0]}", hint


def _too_much(condition: model.Condition, machine: Machine) -> str:
    """Why this holds at all times, or nothing."""
    match condition:
        case model.AvailableBelow(amount) if 0 < machine.total_bytes <= (amount.bytes or 0):
            return f"it has {_gib(machine.total_bytes)} of memory in all"
        case model.SwapFreeBelow(amount) if 0 < machine.swap_bytes < (amount.bytes or 0):
            return f"it has {_gib(machine.swap_bytes)} of swap in all"
        case _:
            return ""


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB" if size >= 10 << 30 else f"{size / (1 << 20):.0f} MiB"


def _impossible(condition: model.Condition, machine: Machine) -> str:
    """Why this cannot hold here, or nothing. swap_free_below holds without swap: then none is free."""
    match condition:
        case model.SwapAbove() if not machine.has_swap:
            return "it has no swap"
        case model.ZramAbove(of="disk") if not machine.has_zram:
            return "it has no zram"
        case model.ZramAbove() if not (machine.has_zram or machine.has_zswap):
            return "it has neither zram nor zswap"
        case model.RefaultsAbove() if not machine.has_refaults:
            return "its kernel does not count refaults"
        case model.MemoryAbove(amount) if 0 < machine.total_bytes <= (amount.bytes or 0):
            return f"it has {_gib(machine.total_bytes)} of memory in all"
        case model.LevelAbove() if not machine.is_v1:
            return "memory.pressure_level is cgroup v1's alone"
        case model.StallAbove() | model.PressureAbove() | model.PressureRising() if not machine.has_pressure:
            return "its kernel reports no pressure (CONFIG_PSI, or psi=1 on the kernel command line)"
        case _:
            return ""
