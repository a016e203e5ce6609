"""``oomguard status``: what the running daemon says about itself, read from its page."""

import time
from pathlib import Path
from typing import Annotated

import typer

from ..model.statuspage import GuardLine, StatusPage
from ..policy import files
from ..report import store
from . import live, say
from .run import Config

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def status(runtime_dir: live.Runtime = None, config: Config = files.DEFAULT, json: Json = False) -> None:
    """Show what the daemon guards, how near it is, and what it costs: 0 it runs, 1 it does not."""
    try:
        page = live.page(live.runtime_dir(runtime_dir, config))
    except live.NotRunning as error:
        if json:
            say.as_json({"pid": None, "error": str(error)})
        say.fail(say.FOUND, str(error))
    held = live.held(page.numbers.pid)
    lately = _lately(Path(files.state_dir(config)))
    if json:
        say.as_json({**report(page, held), "lately": lately})
    else:
        _print(page, held)
        _print_lately(lately)


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


def _print_lately(lately: dict[str, object] | None) -> None:
    last = lately["last"] if lately is not None else None
    if lately is None or not isinstance(last, dict):
        return
    words = ("helped", "did_not_help", "kernel_killed", "unable")
    told = ", ".join(f"{lately[word]} {word.replace('_', ' ')}" for word in words if lately[word])
    say.line(f"lately    {told + '; ' if told else ''}last: {say.printable(last['text'])} ({last['id']})")


def report(page: StatusPage, held: live.Held | None) -> dict[str, object]:
    """The page as other programs rely upon it."""
    numbers = page.numbers
    return {
        "pid": numbers.pid,
        "version": page.version,
        "policies": [
            {
                "name": guard.name,
                "cgroup": guard.cgroup,
                "mode": guard.mode,
                "phase": guard.phase,
                "targets": guard.targets,
                "used_bytes": guard.used_bytes,
                "limit_bytes": guard.limit_bytes,
            }
            for guard in page.guards
        ],
        "memory": {
            "pss_kib": held.pss_kib if held else None,
            "locked_kib": held.locked_kib if held else None,
            "minor_faults": numbers.minor_faults,
            "major_faults": numbers.major_faults,
        },
        "counters": {
            "turns": numbers.turns,
            "snapshots": numbers.snapshots,
            "kills": numbers.kills,
            "kernel_oom_kills": numbers.kernel_oom_kills,
        },
        "degraded": [{"what": what, "why": why} for what, why in page.degraded],
    }


def _print(page: StatusPage, held: live.Held | None) -> None:
    numbers = page.numbers
    say.line(f"oomguard {page.version}, pid {numbers.pid}{'' if numbers.armed else ', starting'}")
    say.line(f"memory    {_size(numbers.mem_available_bytes)} of {_size(numbers.mem_total_bytes)} available")
    if numbers.swap_total_bytes:
        say.line(f"swap      {_size(numbers.swap_free_bytes)} of {_size(numbers.swap_total_bytes)} free")
    say.line(
        f"since     {numbers.snapshots} snapshots, {numbers.kills} kills, {numbers.kernel_oom_kills} by the kernel"
    )
    own = f"{_size(held.pss_kib * 1024)}, {_size(held.locked_kib * 1024)} of it locked; " if held else ""
    say.line(f"itself    {own}{numbers.minor_faults} minor and {numbers.major_faults} major page faults since armed")
    say.line()
    say.table(("POLICY", "PHASE", "MODE", "TARGETS", "USED", "LIMIT", "CGROUP"), [_row(guard) for guard in page.guards])
    for what, why in page.degraded:
        say.line(f"degraded: {what}: {why}")


def _row(guard: GuardLine) -> tuple[str, ...]:
    numbers = (str(guard.targets), _size(guard.used_bytes), _size(guard.limit_bytes))
    return (guard.name, guard.phase, guard.mode, *numbers, guard.cgroup)


def _size(number: int) -> str:
    if number < 10 << 20:
        return f"{number / (1 << 10):.0f} KiB"
    return f"{number / (1 << 20):.0f} MiB" if number < 10 << 30 else f"{number / (1 << 30):.1f} GiB"
