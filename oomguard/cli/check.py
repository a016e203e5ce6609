"""``oomguard check``: what ``run`` would say about the policy, without running it."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from .. import policy
from ..model.policy import Plan
from ..policy import Fault, PolicyError, files
from . import run, say
from .run import Config

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with 1 if there is a warning.")]


def check(config: Config = files.DEFAULT, json: Json = False, strict: Strict = False) -> None:
    """Check the policy: 0 it is right, 2 it is not. Warnings change nothing, unless --strict."""
    try:
        paths = files.find(config)
        plan = policy.load(paths)
    except PolicyError as error:
        if not json:
            say.faults(error)
        say.as_json(_report(error.faults, (), None))
        raise typer.Exit(say.WRONG_USE) from None
    warnings = run.doubts(plan)
    if json:
        say.as_json(_report((), warnings, plan))
    else:
        _print(plan, warnings)
    raise typer.Exit(say.FOUND if warnings and strict else say.FINE)


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
        sys.stdout.write(f"{fault.as_warning()}\n")
    for guard in plan.guards:
        say.line(f"policy {guard.name}: {guard.mode} on {guard.cgroup} ({guard.origin})")
    number = len(warnings)
    say.line(f"{', '.join(plan.files)}: fine" + (f", {number} warning{'s' * (number != 1)}" if number else ""))
