"""``oomguard drill``: a bounded leak in a cgroup of its own, and how long it took until somebody acted.

Under the policy in force it is the running daemon that is tried, and it must cover a cgroup that is nobody's; with
``--policy`` or ``--alone`` it is a daemon of the drill's own with one guard. Either way the leak is held by a limit,
everything that was made is removed again, and no process but the hog can be meant.
"""

import errno
import sys
import textwrap
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..policy import PolicyError, files
from . import live, say
from .run import Config

if TYPE_CHECKING:
    from ..model.policy import Plan
    from ..model.statuspage import StatusPage
    from .drilling.course import Course
    from .drilling.outcome import Outcome
    from .hierarchies import Hierarchies
    from .scratch import Scratch

Policy = Annotated[
    Path | None,
    typer.Option(
        "--policy", metavar="FILE", help="A daemon of its own under this policy, not the one that runs.", readable=False
    ),
]
GuardName = Annotated[
    str | None, typer.Option("--guard", metavar="NAME", help="This policy (default: the one of /oomguard-drill).")
]
Own = Annotated[bool, typer.Option("--alone", help="A daemon of its own, under the policy that comes with the drill.")]
Print = Annotated[bool, typer.Option("--print-policy", help="Print the policy that lets a running daemon be drilled.")]
Limit = Annotated[str, typer.Option("--limit", metavar="SIZE", help="The limit in which it leaks.")]
Rate = Annotated[str, typer.Option("--rate", metavar="SIZE", help="How fast, a second.")]
Within = Annotated[int, typer.Option("--within", metavar="SECONDS", min=1, max=600, help="How long to wait for it.")]
Force = Annotated[bool, typer.Option("--force", help="Although the machine is not calm.")]
Keep = Annotated[
    Path | None,
    typer.Option("--state-dir", metavar="DIR", help="Keep the incident there (a daemon of its own).", readable=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

SHIPPED = Path(__file__).parent / "drilling" / "drill.toml"
IN_FORCE = "in force"
LACK_S = 5.0  # a daemon that says it lacks cgroups may not have looked again since
TARGET_S = 30.0  # until the daemon has found the cgroup: milliseconds, on a starved machine seconds


class Refused(Exception):
    """There is no drill: the text says why, and what to do; ``code`` is the command's."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for. ``own``: the policy of a daemon of the drill's own, None: it is the one that runs."""

    own: Path | None
    guard: str | None
    limit_bytes: int
    rate_bytes: int
    within_s: int
    force: bool
    keep: Path | None
    config: Path
    runtime_dir: Path


@dataclass(frozen=True, slots=True)
class Duty:
    """The daemon that is tried."""

    plan: "Plan"
    course: "Course"
    runtime_dir: Path
    state_dir: Path
    source: str


def drill(
    policy: Policy = None,
    guard: GuardName = None,
    alone: Own = False,
    limit: Limit = "128MiB",
    rate: Rate = "100MiB",
    within: Within = 30,
    force: Force = False,
    state_dir: Keep = None,
    config: Config = files.DEFAULT,
    runtime_dir: live.Runtime = None,
    print_policy: Print = False,
    json: Json = False,
) -> None:
    """Leak in a cgroup of its own, and report how long it took until the guard ended it.

    0 the guard was first, 1 it was not, or it is not calm enough for a drill. Needs root.
    """
    if print_policy:
        sys.stdout.write(SHIPPED.read_text("utf-8"))
        raise typer.Exit
    if alone and policy is not None:
        say.fail(say.WRONG_USE, "--alone has a policy of its own: leave out one of --alone and --policy")
    if state_dir is not None and not alone and policy is None:
        say.fail(say.WRONG_USE, "--state-dir is for a daemon of its own (--alone, --policy); the others have theirs")
    size, speed = _measured("--limit", limit), _measured("--rate", rate)
    own = policy if policy is not None else SHIPPED if alone else None
    order = Order(own, guard, size, speed, within, force, state_dir, config, live.runtime_dir(runtime_dir, config))
    try:
        outcome = _drilled(order)
    except Refused as refused:
        if json:
            say.as_json({"ok": False, "why": str(refused), "incident": None})
        say.fail(refused.code, str(refused))
    if json:
        say.as_json(outcome.plain())
    else:
        _print(outcome)
    raise typer.Exit(say.FINE if outcome.ok else say.FOUND)


# -------------------------------------------------------------------------------------------------------- beforehand


def _measured(option: str, text: str) -> int:
    from ..policy import units
    from .incidents import measured

    size = measured(units.size, option, text)
    if not 1 << 20 <= size <= 1 << 40:
        say.fail(say.WRONG_USE, f"{option} {text}: from 1MiB to 1TiB")
    return size


def _able() -> "Hierarchies":
    import os

    from . import hierarchies

    mounts = hierarchies.find()
    if mounts.memory is None:
        raise Refused(
            say.KERNEL_CANNOT, "no memory controller is mounted, neither of cgroup v2 nor of v1: there is no limit"
        )
    if os.geteuid() != 0:
        raise Refused(say.NOT_PERMITTED, "only root may make a cgroup with a limit: sudo oomguard drill")
    return mounts


def _swept(mounts: "Hierarchies") -> None:
    from . import scratch
    from .drilling import alone

    left, alive = scratch.leftovers(mounts)
    if alive:
        raise Refused(say.FOUND, f"another drill is under way in {alive[0]}")
    for directory in left:
        why = scratch.sweep(directory)
        say.aside(f"oomguard: an earlier drill had left {directory}: {'; '.join(why) or 'removed'}")
    for home in alone.sweep():
        say.aside(f"oomguard: an earlier drill had left {home}: removed")


def _running(order: Order, mounts: "Hierarchies") -> Duty:
    """The daemon that runs, under its policy in force."""
    from .drilling import course

    found = _in_force(order.runtime_dir)
    if found is None:
        why = "oomguard is not running: systemctl start oomguard.service, or oomguard drill --alone"
        raise Refused(say.FOUND, why)
    plan, page = found
    try:
        it = course.in_force(plan, order.guard, _mark(), order.limit_bytes)
    except course.Uncovered as why_not:
        raise Refused(say.FOUND, _not_yet(order.config) or str(why_not)) from None
    except course.Unfit as why_not:
        raise Refused(say.FOUND, str(why_not)) from None
    _calm(plan, it, mounts, page, order.force)
    return Duty(plan, it, order.runtime_dir, Path(plan.daemon.state_dir), IN_FORCE)


def _in_force(directory: Path) -> "tuple[Plan, StatusPage] | None":
    """What a daemon that runs there has in force; None: none does."""
    from .show import kept_plan

    try:
        page = live.page(directory)
    except live.NotRunning:
        return None
    return kept_plan(directory), page


def _not_yet(config: Path) -> str:
    """What to say where the files cover the drill's place and the daemon has not read them; "": they do not."""
    from .. import policy
    from .drilling import course

    try:
        course.in_force(policy.load(files.find(config)), None, _mark(), course.DEFAULT_BYTES)
    except (PolicyError, course.Unfit):
        return ""
    return "the files have a policy for a drill, which is not in force: systemctl reload oomguard.service, and a moment"


def _own(stack: ExitStack, order: Order, file: Path, mounts: "Hierarchies") -> Duty:
    """A daemon of the drill's own, under one guard of that policy."""
    from .. import policy
    from .drilling import course
    from .drilling.alone import Alone

    try:
        plan = policy.load((file.absolute(),))
        found = course.alone(plan, order.guard, _mark(), order.limit_bytes)
    except PolicyError as error:
        say.faults(error)
    except course.Unfit as why:
        raise Refused(say.FOUND, str(why)) from None
    # It is the daemon that runs, if one does, who must not be stirred up: of this policy only that guard comes to life.
    others, page = _in_force(order.runtime_dir) or (replace(plan, guards=()), None)
    _calm(others, found, mounts, page, order.force)
    made = Alone(plan, found, order.keep.absolute() if order.keep is not None else None)
    stack.push(made)  # before it is begun: whatever happens from here on, it is ended
    made.start()
    return Duty(made.plan, found, made.runtime_dir, made.state_dir, "its own" if file == SHIPPED else str(file))


def _mark() -> str:
    from . import scratch

    return scratch.name()


def _calm(plan: "Plan", course: "Course", mounts: "Hierarchies", page: "StatusPage | None", force: bool) -> None:
    from ..linux.procfs import MemInfoFile
    from . import scratch
    from .drilling import calm

    above = scratch.room_above(mounts, course.cgroup)
    room = calm.Room(*above) if above is not None else None
    reasons = calm.against(plan, course, MemInfoFile("/proc").read(), page, room)
    for reason in reasons:
        say.aside(f"oomguard: {reason}")
    if reasons and not force:
        raise Refused(say.FOUND, f"this is no time for a drill, --force has one all the same: {reasons[0]}")


# ---------------------------------------------------------------------------------------------------------- the drill


def _drilled(order: Order) -> "Outcome":
    from .drilling import children

    mounts = _able()
    with children.in_order(), ExitStack() as stack:
        try:
            _swept(mounts)
            duty = _running(order, mounts) if order.own is None else _own(stack, order, order.own, mounts)
            return _tried(stack, duty, mounts, order)
        finally:
            children.deaf()


def _tried(stack: ExitStack, duty: Duty, mounts: "Hierarchies", order: Order) -> "Outcome":
    from .drilling import told as told_by
    from .drilling.leak import Hog
    from .drilling.outcome import Outcome
    from .scratch import Scratch

    before = _targets(duty) if duty.source == IN_FORCE else 0
    incidents = told_by.Incidents(duty.state_dir)
    scratch = Scratch(mounts, duty.course.cgroup)
    hog = Hog(scratch, duty.course, order.rate_bytes, order.within_s)
    stack.push(scratch)
    stack.push(hog)
    _made(scratch, duty.course.limit_bytes)
    hog.start()
    tripwire = _covered(duty, scratch, before)
    seen = hog.leak(order.within_s)
    patience_s = told_by.LATE_S if seen.died_ns is None or seen.kernel_kills else told_by.PATIENCE_S
    told = incidents.of(duty.course.cgroup, patience_s)
    return Outcome(duty.course, duty.source, order.rate_bytes, hog.pid, tripwire, seen, told)


def _made(scratch: "Scratch", limit_bytes: int) -> None:
    """The cgroup with its limit; where that cannot be, a container mostly, it is said what is in the way."""
    try:
        scratch.make()
        scratch.limit(limit_bytes)
    except OSError as error:
        code = say.KERNEL_CANNOT if error.errno == errno.ENOENT else say.NOT_PERMITTED
        raise Refused(code, f"{error.filename}: {error.strerror}") from None


def _targets(duty: Duty) -> int:
    lines = live.page(duty.runtime_dir).guards
    return sum(line.targets for line in lines if line.name == duty.course.guard.name)


def _covered(duty: Duty, scratch: "Scratch", before: int) -> bool | None:
    """Wait until the daemon watches the cgroup; whether its tripwire is laid by then, None: none is asked for.

    The end of the drill if it never does.
    """
    wanted = duty.course.guard.tripwire and scratch.brakes
    sees, waited, began = False, 0.0, time.monotonic()
    while waited < TARGET_S:
        sees = sees or _targets(duty) > before
        if sees and (not wanted or scratch.braked()):
            return wanted or None
        lack = dict(live.page(duty.runtime_dir).degraded).get("cgroups")
        if not sees and lack is not None and waited > LACK_S:
            raise Refused(say.KERNEL_CANNOT, f"the daemon cannot guard single cgroups here: {lack}")
        time.sleep(0.02)
        waited = time.monotonic() - began
    if not sees:
        why = "; ".join(f"{what}: {why}" for what, why in live.page(duty.runtime_dir).degraded) or "oomguard status?"
        say.fail(
            say.FOUND, f"policy {duty.course.guard.name} has not seen {duty.course.cgroup} in {waited:.0f} s: {why}"
        )
    return False


# ----------------------------------------------------------------------------------------------------------- to people


def _print(outcome: "Outcome") -> None:
    course, seen, told = outcome.course, outcome.seen, outcome.told
    whose = f"policy {course.guard.name} ({outcome.source})"
    say.line(f"drill     {whose}: {_mib(outcome.rate_bytes)}/s under a limit of {_mib(course.limit_bytes)}")
    say.line(f"cgroup    {course.cgroup}")
    if outcome.tripwire is not None:
        say.line(f"tripwire  {'laid' if outcome.tripwire else 'not laid'}")
    say.line(f"crossed   {_mib(course.line_bytes)}, the hard watermark; at most {_mib(seen.peak_bytes)} were seen")
    if (to_signal := outcome.to_signal_ms) is not None:
        say.line(f"signal    {to_signal:.1f} ms after that")
    if (to_death := outcome.to_death_ms) is not None:
        say.line(f"death     {to_death:.1f} ms after the signal")
    say.line(f"kernel    {'had nothing to do' if not seen.kernel_kills else f'killed {seen.kernel_kills}'}")
    if told is not None:
        say.line(f"incident  {told.id}")
        for line in textwrap.wrap(told.story, 110, break_on_hyphens=False):
            say.line(f"          {line}")
    say.line("the guard was first" if outcome.ok else f"not as it should be: {outcome.why}")


def _mib(number: int) -> str:
    return f"{number / (1 << 20):.0f} MiB"
