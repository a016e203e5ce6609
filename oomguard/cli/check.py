"""``oomguard check``: what ``run`` would say about the policy, without running it; here or on another machine."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from .. import policy
from ..model.policy import Plan
from ..policy import Fault, PolicyError, files
from . import run, say
from .run import Config

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with 1 if there is a warning.")]
Against = Annotated[
    Path | None,
    typer.Option(
        "--against", metavar="DIR", help="On another machine: DIR holds its proc and sys/fs/cgroup.", readable=False
    ),
]
NO_CGROUPS = "there are no cgroups here that count memory"


def check(config: Config = files.DEFAULT, against: Against = None, json: Json = False, strict: Strict = False) -> None:
    """Check the policy: 0 it is right, 2 it is not. Warnings change nothing, unless --strict.

    3: a file may not be read. 4: it is right, and this kernel can do nothing of it.
    """
    if against is not None and not (against / "proc/meminfo").is_file():
        say.fail(say.WRONG_USE, f"{against}/proc/meminfo is not there: copy proc and sys/fs/cgroup of that machine")
    try:
        paths = files.find(config)
        plan = policy.load(paths)
    except PolicyError as error:
        if json:
            say.as_json(_report(error.faults, (), None))
            raise typer.Exit(say.fault_code(error)) from None
        say.faults(error)
    warnings = run.doubts(plan if against is None else _elsewhere(plan, against))
    if plan.sinks and against is None:
        from . import senders

        wrong, doubtful = senders.faults(plan)
        warnings += doubtful
        if wrong:
            _refuse(wrong, warnings, plan, json)
    if json:
        say.as_json(_report((), warnings, plan))
    else:
        _print(plan, warnings)
    raise typer.Exit(_code(plan, warnings, strict))


def _refuse(wrong: list[Fault], warnings: list[Fault], plan: Plan, json: bool) -> NoReturn:
    """A sink that would deliver nothing. The daemon would run, and say so in status."""
    if json:
        say.as_json(_report(wrong, warnings, plan))
        raise typer.Exit(say.WRONG_USE)
    say.faults(PolicyError(wrong))


def _elsewhere(plan: Plan, tree: Path) -> Plan:
    daemon = replace(plan.daemon, proc=str(tree / "proc"), cgroup=str(tree / "sys/fs/cgroup"))
    return replace(plan, daemon=daemon)


def _code(plan: Plan, warnings: Sequence[Fault], strict: bool) -> int:
    if sum(fault.message.startswith(NO_CGROUPS) for fault in warnings) == len(plan.guards):
        return say.KERNEL_CANNOT
    return say.FOUND if warnings and strict else say.FINE


def _report(faults: Sequence[Fault], warnings: Sequence[Fault], plan: Plan | None) -> dict[str, object]:
    guards = plan.guards if plan else ()
    return {
        "ok": not faults,
        "files": list(plan.files) if plan else [],
        "faults": [fault.plain() for fault in faults],
        "warnings": [fault.plain() for fault in warnings],
        "policies": [
            {"name": guard.name, "cgroup": guard.cgroup, "mode": guard.mode, "origin": guard.origin} for guard in guards
        ],
    }


def _print(plan: Plan, warnings: list[Fault]) -> None:
    for fault in warnings:
        say.fault(fault, "warning: ", sys.stdout)
    for guard in plan.guards:
        say.line(f"policy {guard.name}: {guard.mode} on {guard.cgroup} ({guard.origin})")
    number = len(warnings)
    say.line(f"{', '.join(plan.files)}: fine" + (f", {number} warning{'s' * (number != 1)}" if number else ""))
