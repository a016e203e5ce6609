"""``oomguard status``: what the running daemon says about itself, on one screen, read from its page.

What its processes weigh and whether it lives is asked of /proc, where that takes no lock that the daemon may need.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ..model.statuspage import GuardLine, StatusPage
from ..policy import files
from ..report import store
from ..report.mend import mend
from ..report.near import Near, by_nearness, near, used
from ..report.words import size
from . import frame, live, processes, say
from .processes import Process
from .run import Config

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
All = Annotated[bool, typer.Option("--all", help="Every policy, and every clause of its watermarks.")]

MOST_GUARDS = 8  # on one screen: those nearest to their watermarks
MOST_DEGRADED = 4
MOST_INCIDENTS = 3
TARDY_S = 30.0  # no turn and no glance for so long: it stands still. With many targets it may look once in five minutes
EACH_TARDY_S = 0.4


def status(
    runtime_dir: live.Runtime = None, config: Config = files.DEFAULT, json: Json = False, whole: All = False
) -> None:
    """Show what the daemon guards, how near it is, what is degraded and what it costs: 0 it runs, 1 it does not."""
    try:
        page = live.page(live.runtime_dir(runtime_dir, config))
    except live.NotRunning as error:
        if json:
            say.as_json({"pid": None, "error": str(error)})
        say.fail(say.FOUND, error.whole())
    weighed = processes.of(page.numbers.pid)
    state_dir = Path(files.state_dir(config))
    if json:
        say.as_json({**frame.plain(page, weighed), "lately": _lately(state_dir), "incidents": _incidents(state_dir)})
        return
    _print_head(page, weighed)
    _print_guards(page, whole)
    _print_degraded(page, whole)
    _print_incidents(state_dir)


def _lately(state_dir: Path) -> dict[str, object] | None:
    """What the incidents of the last day say of us; None: they may not be read."""
    since = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() - 86400))
    try:
        verdicts = store.lately(state_dir, since)
    except OSError:
        return None
    return {
        "helped": sum(verdict["helped"] is True for verdict in verdicts),
        "did_not_help": sum(verdict["helped"] is False for verdict in verdicts),
        "kernel_killed": sum(verdict["kernel_killed"] for verdict in verdicts),
        "unable": sum(verdict["unable"] is not None for verdict in verdicts),
        "last": verdicts[0] if verdicts else None,
    }


def _incidents(state_dir: Path) -> list[dict[str, Any]] | None:
    """The newest; None: they may not be read."""
    try:
        return [it.plain() for it in store.list_incidents(state_dir, MOST_INCIDENTS)]
    except OSError:
        return None


# ------------------------------------------------------------------------------------------------------------ to people


def tardy(page: StatusPage) -> float | None:
    """Seconds since its last turn, if that is longer than it may take. Who has nothing to watch may sleep for ever."""
    targets = sum(guard.targets for guard in page.guards)
    quiet_s = (time.monotonic_ns() - page.beat_ns) / 1e9
    return quiet_s if targets and quiet_s > TARDY_S + EACH_TARDY_S * targets else None


def state_of(page: StatusPage) -> str:
    """Armed or not, in a word or two."""
    if (quiet_s := tardy(page)) is not None:
        return f"STANDS STILL: no turn for {quiet_s:.0f} s (journalctl -u oomguard; systemctl restart oomguard)"
    if not page.numbers.armed:
        return "starting: not armed yet"
    modes = {guard.mode for guard in page.guards} - {"shadow"}
    return "armed" if "enforce" in modes else "armed, in observe mode: it ends nobody"


def _print_head(page: StatusPage, weighed: Sequence[Process]) -> None:
    numbers = page.numbers
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(numbers.started_ns / 1e9))
    say.line(f"oomguard {page.version}, pid {numbers.pid}, since {since}: {state_of(page)}")
    say.line(f"memory    {size(numbers.mem_available_bytes)} of {size(numbers.mem_total_bytes)} available")
    if numbers.swap_total_bytes:
        say.line(f"swap      {size(numbers.swap_free_bytes)} of {size(numbers.swap_total_bytes)} free")
    if page.pressure is not None:
        some, full = page.pressure.some, page.pressure.full
        say.line(f"pressure  some {some.avg10:.1f} %, full {full.avg10:.1f} % of the last 10 s")
    say.line(
        f"did       {numbers.snapshots} snapshots, {numbers.kills} kills, {numbers.kernel_oom_kills} by the kernel"
    )
    own = ", ".join(f"{it.name} {size(it.resident_bytes)}" for it in weighed)
    faults = f"{numbers.minor_faults} minor and {numbers.major_faults} major page faults since armed"
    say.line(f"itself    {own + '; ' if own else ''}{faults}")
    say.line()


def _print_guards(page: StatusPage, whole: bool) -> None:
    guards = list(page.guards)
    if len(guards) > MOST_GUARDS and not whole:
        guards = by_nearness(page)[:MOST_GUARDS]
    heads = ("POLICY", "PHASE", "MODE", "TARGETS", "USED", "LIMIT", "TO SOFT", "TO HARD", "CGROUP")
    say.table(heads, [_row(guard, page) for guard in guards])
    if len(guards) < len(page.guards):
        say.line(f"and {len(page.guards) - len(guards)} more policies, further away: --all")
    say.line()
    for guard in guards if whole else [guard for guard in guards if guard.targets][:4]:
        _print_marks(guard, page, whole)


def _row(guard: GuardLine, page: StatusPage) -> tuple[str, ...]:
    marks = (_away(near(guard, page, guard.soft)), _away(near(guard, page, guard.hard)))
    numbers = (str(guard.targets), size(used(guard, page)), size(guard.limit_bytes))
    if not guard.targets:
        numbers = ("none", "-", "-")
    cgroup = guard.path if guard.targets > 1 else guard.cgroup
    more = f" (of {guard.targets}: {guard.cgroup})" if guard.targets > 1 else ""
    return (guard.name, guard.phase, guard.mode, *numbers, *marks, f"{cgroup}{more}")


def _away(mark: Near | None) -> str:
    return "-" if mark is None else mark.away


def _print_marks(guard: GuardLine, page: StatusPage, whole: bool) -> None:
    for name, clauses in (("soft", guard.soft), ("hard", guard.hard)):
        if whole:
            for number, clause in enumerate(clauses):
                if (mark := near(guard, page, (clause,))) is not None:
                    say.line(f"{guard.name} {'is ' if not number else 'or '}{name} at: {mark.words}")
        elif (mark := near(guard, page, clauses)) is not None:
            more = f"; or {mark.others} more" if mark.others else ""
            say.line(f"{guard.name} is {name} at: {mark.words}{more}")


def _print_degraded(page: StatusPage, whole: bool) -> None:
    shown = page.degraded if whole else page.degraded[:MOST_DEGRADED]
    for what, why in shown:
        say.line(f"degraded: {what}: {why}")
        say.line(f"    mend: {mend(what, why)}")
    if len(shown) < len(page.degraded):
        say.line(f"and {len(page.degraded) - len(shown)} more that are degraded: --all")
    for what, number in page.left_out:
        say.line(f"left out: {number} {what}, for which the status page has no room")


def _print_incidents(state_dir: Path) -> None:
    lately, incidents = _lately(state_dir), _incidents(state_dir)
    if incidents is None:
        say.line("incidents cannot be read by you: join the group oomguard, or sudo oomguard incidents list")
        return
    words = ("helped", "did_not_help", "kernel_killed", "unable")
    last = lately["last"] if lately is not None else None
    if lately is not None and isinstance(last, dict):
        told = ", ".join(f"{lately[word]} {word.replace('_', ' ')}" for word in words if lately[word])
        say.line(f"lately    {told + '; ' if told else ''}last: {say.printable(last['text'])} ({last['id']})")
    for it in incidents:
        victims = ", ".join(f"{victim['comm']}[{victim['pid']}]" for victim in it["victims"][:2])
        what = it["damaged"] or (f"{it['killed_by']} killed {victims}" if victims else it["kind"])
        say.line(f"incident  {it['time'][:19]}Z {it['policy']}: {what} ({it['id'][-6:]})")
