"""``oomguard show``: the policy as all files together mean it, every default written out, and who said what."""

import json as plain_json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import policy
from ..model import codec, kept
from ..model.policy import Plan
from ..policy import PolicyError, files
from ..policy.locate import Key
from . import live, origin, say
from .run import Config

InForce = Annotated[bool, typer.Option("--in-force", help="The policy of the running daemon, not of the files.")]
Plain = Annotated[bool, typer.Option("--plain", help="Without origins.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def show(
    config: Config = files.DEFAULT,
    in_force: InForce = False,
    runtime_dir: live.Runtime = None,
    plain: Plain = False,
    json: Json = False,
) -> None:
    """Print the whole policy as TOML, with the origin of every value. What is printed is a policy again."""
    plan = kept_plan(live.runtime_dir(runtime_dir, config)) if in_force else compiled(config)
    from ..policy import spoken, toml
    from ..policy.origins import Origins

    tables = spoken.tables(plan)
    origins = Origins(plan.files if not in_force or is_current(plan) else ())
    if json:
        say.as_json({"files": list(plan.files), **tables, "origins": _origins(tables, origins)})
        return
    say.line(f"# {'In force' if in_force else 'Effective'}, of {', '.join(plan.files)}")
    if in_force and (words := _options(plan)):
        say.line(f"# Started with {' '.join(words)}, which comes before the files.")
    if in_force and not origins.sources:
        say.line("# The files have changed since it was compiled: they cannot tell who said what.")
    for name, file, line in origins.disabled():
        say.line(f"# policy {name} is disabled ({file}:{line})")
    text = toml.document(tables) if plain or not origins.sources else toml.document(tables, _remarks(plan, origins))
    for line_ in text.rstrip("\n").split("\n"):
        say.line(line_)


def _remarks(plan: Plan, origins: Any) -> Callable[[Key, object], str]:
    """Who has said it, and of what a share is."""
    from ..policy import shares

    machine = {guard.name for guard in plan.guards if guard.cgroup == "/"}

    def remark(key: Key, value: object) -> str:
        of_what = shares.of(key, value, machine=len(key) > 1 and key[1] in machine)
        return "; ".join(filter(None, (origins.remark(key, value), of_what)))

    return remark


def compiled(config: Path) -> Plan:
    """The plan of the files, or the end with all their faults."""
    try:
        return policy.load(files.find(config))
    except PolicyError as error:
        say.faults(error)


def kept_plan(directory: Path) -> Plan:
    """The plan of the daemon that runs, or ran last, there."""
    path = directory / kept.NAME
    try:
        _, content = kept.unwrapped(path.read_bytes())
        plan = codec.from_plain(plain_json.loads(content))
    except FileNotFoundError:
        say.fail(say.FOUND, f"no policy is in force: there is no {path}")
    except (ValueError, KeyError, TypeError) as error:
        say.fail(say.FOUND, f"{path} is no plan of this version: {error}")
    if not isinstance(plan, Plan):
        say.fail(say.FOUND, f"{path} is no plan")
    return plan


def is_current(plan: Plan) -> bool:
    """Whether the files still are what the plan was made from."""
    made_from = origin.digest(plan.argv, plan.files[0], _place(plan), plan.daemon.shadow)
    return bool(plan.made_from) and plan.made_from == made_from


def _options(plan: Plan) -> list[str]:
    """What was said on the command line besides the file."""
    words = list(plan.argv)
    return words[words.index("--config") + 2 :] if "--config" in words else []


def _place(plan: Plan) -> str:
    words = list(plan.argv)
    return words[words.index("--proc") + 1] if "--proc" in words else ""


def _origins(tables: dict[str, Any], origins: Any) -> dict[str, str | None]:
    from ..policy.origins import leaves

    found = {key: origins.of(key) for key in leaves((), tables)}
    return {files.dotted(key): f"{at[0]}:{at[1]}" if at else None for key, at in found.items()}
