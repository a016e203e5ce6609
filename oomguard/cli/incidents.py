"""``oomguard incidents``: what happened, when nobody looked. Reads what the daemon wrote; needs no daemon."""

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..policy import files
from ..report import store
from . import live, say

app = typer.Typer(
    help="What happened: list incidents, show one, draw it, judge it again.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

StateDir = Annotated[
    Path | None, typer.Option("--state-dir", metavar="DIR", help="Where incidents are (default: as configured).")
]
Config = Annotated[Path, typer.Option("--config", metavar="FILE", help="The policy file that says where they are.")]
Id = Annotated[str, typer.Argument(metavar="ID", help="Its id, a beginning of it, its last digits, 'last', or a path.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_(state_dir: StateDir = None, config: Config = files.DEFAULT, json: Json = False) -> None:
    """List all incidents, newest first."""
    directory = where(state_dir, config)
    found = store.list_incidents(directory)
    if json:
        say.as_json([summary.plain() for summary in found])
    elif found:
        _table(found)
    else:
        say.aside(f"no incidents in {directory / 'incidents'}")


@app.command()
def show(
    incident: Id,
    state_dir: StateDir = None,
    config: Config = files.DEFAULT,
    json: Json = False,
    whole: Annotated[bool, typer.Option("--all", help="Every line of every table.")] = False,
) -> None:
    """Tell what happened: 0 told, 1 there is no such incident."""
    doc = load(where(state_dir, config), incident)
    if json:
        from ..report.advice import advise

        say.as_json({**doc, "advice": [advice.plain() for advice in advise(doc, most=99)]})
        return
    from ..report import text

    color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    sys.stdout.write(text.half_page(doc, width, color, whole))


def load(state_dir: Path, incident: str) -> dict[str, Any]:
    """The incident of this id, or at this path; else the end of the command."""
    try:
        return store.load_file(Path(incident)) if "/" in incident else store.load(state_dir, incident)
    except (store.NoSuchIncident, store.Damaged) as error:
        say.fail(say.FOUND, str(error.args[0]))
    except FileNotFoundError as error:
        say.fail(say.FOUND, f"{error.filename} is missing: the incident was never written whole")


def where(asked: Path | None, config: Path) -> Path:
    """The asked state directory, else the configured one; without root, one's own where only that has incidents."""
    if asked is not None:
        return asked
    configured, own = Path(files.state_dir(config)), live.own_state_dir()
    if not os.path.exists(configured / "incidents") and os.path.exists(own / "incidents"):
        return own
    return configured


def _table(found: list[store.Summary]) -> None:
    from ..report.words import duration, size

    rows: list[tuple[str, ...]] = []
    for it in found:
        if it.damaged:
            rows.append((it.time, "damaged", it.policy, "", "", "", "", f"{it.id}: {it.damaged}"))
            continue
        names = [f"{victim['comm']}[{victim['pid']}]" for victim in it.victims]
        victims = ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
        observed = f"{it.kind} (observe)" if it.mode == "observe" and it.policy else it.kind
        freed = size(it.freed_bytes) if it.freed_bytes else ""
        late = duration(it.latency_ms) if it.latency_ms is not None else ""
        killed_by = it.killed_by if it.killed_by != "none" else "-"
        rows.append((it.time[:19] + "Z", observed, it.policy, killed_by, victims, freed, late, it.id))
    say.table(("TIME", "KIND", "POLICY", "KILLED BY", "VICTIM", "FREED", "LATENCY", "ID"), rows)


def _mount() -> None:
    from . import replay

    app.command("replay")(replay.replay)


_mount()
