"""``oomguard incidents``: what happened, when nobody looked. Reads what the daemon wrote; needs no daemon."""

import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..policy import files, units
from ..policy.faults import Wrong
from ..report import store
from . import live, say

if TYPE_CHECKING:
    from ..report.others import Kill

LEVELS = ("secrets", "names", "none")  # as report.export has them

app = typer.Typer(
    help="What happened: list incidents, show one, draw it, judge it again.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

StateDir = Annotated[
    Path | None,
    typer.Option("--state-dir", metavar="DIR", help="Where incidents are (default: as configured).", readable=False),
]
Config = Annotated[
    Path, typer.Option("--config", metavar="FILE", help="The policy file that says where they are.", readable=False)
]
Id = Annotated[str, typer.Argument(metavar="ID", help="Its id, a beginning of it, its last digits, 'last', or a path.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_(
    state_dir: StateDir = None,
    config: Config = files.DEFAULT,
    json: Json = False,
    others: Annotated[
        bool,
        typer.Option(
            "--others/--no-others", help="With what others killed (the kernel, other daemons), by the journal."
        ),
    ] = True,
) -> None:
    """Who killed what: all incidents, and what others killed, newest first."""
    directory = where(state_dir, config)
    found = store.list_incidents(directory)
    more = _others(found) if others else []
    if json:
        plain = [summary.plain() for summary in found] + [kill.plain() for kill in more]
        say.as_json(sorted(plain, key=lambda row: str(row["time"]), reverse=True))
    elif found or more:
        _table(found, more)
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

    color = say.colors(sys.stdout)
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    sys.stdout.write(text.half_page(doc, width, color, whole))


@app.command()
def report(
    incident: Id,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where to (default: ID.html here).", readable=False),
    ] = None,
    state_dir: StateDir = None,
    config: Config = files.DEFAULT,
    raw: Annotated[bool, typer.Option("--raw/--no-raw", help="With the kernel's files of that moment.")] = True,
    json: Json = False,
) -> None:
    """Draw it: one HTML file that needs no network."""
    try:
        from ..report import page
    except ModuleNotFoundError as error:
        say.fail(
            say.FOUND,
            f"{str(error.name).partition('.')[0]} is not installed; it comes with: pip install 'oomguard[report]'",
        )
    directory = where(state_dir, config)
    doc = load(directory, incident)
    path = output or Path(f"{doc['id']}.html")
    text = page.page(doc, _lies(directory, incident, doc) if raw else None)
    with open(path, "w", encoding="utf-8", opener=_private) as file:
        file.write(text)
    if json:
        say.as_json({"file": str(path), "bytes": path.stat().st_size})
    else:
        say.line(str(path))


@app.command()
def diff(
    one: Id,
    other: Id,
    state_dir: StateDir = None,
    config: Config = files.DEFAULT,
    json: Json = False,
    whole: Annotated[bool, typer.Option("--all", help="Also what is the same.")] = False,
) -> None:
    """Compare two: 0 it is the same trouble again, 1 it is another (cgroup, policy, kind, victim)."""
    from ..report import compare

    directory = where(state_dir, config)
    rows = compare.rows(load(directory, one), load(directory, other))
    same = not any(row.telling and row.differs for row in rows)
    if json:
        say.as_json({"same": same, "rows": [row.plain() for row in rows]})
    else:
        shown = [row for row in rows if whole or row.differs]
        say.table(("", "ONE", "OTHER"), [(row.what, row.one, row.other) for row in shown])
        say.line("the same trouble again" if same else "not the same trouble")
    raise typer.Exit(say.FINE if same else say.FOUND)


@app.command()
def export(
    incident: Id,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where to (default: ID.tar.zst here).", readable=False),
    ] = None,
    redact: Annotated[
        str,
        typer.Option(
            metavar="secrets|names|none", help="secrets: without them; names: nor who it was; none: as it is."
        ),
    ] = "secrets",
    state_dir: StateDir = None,
    config: Config = files.DEFAULT,
    json: Json = False,
) -> None:
    """Pack one for a ticket: a tar.zst that `show`, `report` and `replay` take as well."""
    if redact not in LEVELS:
        say.fail(say.WRONG_USE, f"--redact {redact}: it may be {', '.join(LEVELS)}")
    needs("backports.zstd")
    from ..report import export as exporting
    from ..report import packed

    directory = where(state_dir, config)
    doc = load(directory, incident)
    path = output or Path(f"{doc['id']}.tar.zst")
    with open(path, "wb", opener=_private) as plain, packed.writing(plain) as file:
        level: exporting.Level = redact  # type: ignore[assignment]  # looked at above
        names = exporting.write(file, doc, _lies(directory, incident, doc), level)
    if json:
        say.as_json({"file": str(path), "bytes": path.stat().st_size, "redact": redact, "members": names})
    else:
        say.line(str(path))


@app.command()
def prune(
    keep: Annotated[int | None, typer.Option(metavar="N", min=0, help="Keep so many, the newest.")] = None,
    most: Annotated[str | None, typer.Option("--max-bytes", metavar="SIZE", help="Keep so much: 100MiB.")] = None,
    older: Annotated[str | None, typer.Option("--older-than", metavar="AGE", help="Remove what is older: 30d.")] = None,
    state_dir: StateDir = None,
    config: Config = files.DEFAULT,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    json: Json = False,
) -> None:
    """Remove the oldest. One that is open is never removed. The daemon keeps its own bounds by itself."""
    if keep is None and most is None and older is None:
        say.fail(say.WRONG_USE, "say what to keep: --keep N, --max-bytes SIZE or --older-than AGE")
    directory = where(state_dir, config)
    most_bytes = None if most is None else measured(units.size, "--max-bytes", most)
    before_s = None if older is None else time.time() - measured(units.duration, "--older-than", older) / 1e9
    going = store.too_many(store.kept(directory), keep, most_bytes, before_s)
    for it in () if dry_run else going:
        shutil.rmtree(directory / "incidents" / it.id)
    if json:
        say.as_json({"removed": [it.id for it in going], "bytes": sum(it.bytes for it in going), "dry_run": dry_run})
        return
    for it in going:
        say.line(f"{'would remove' if dry_run else 'removed'} {it.id}")
    from ..report.words import size

    say.aside(f"{len(going)} incidents, {size(sum(it.bytes for it in going))}")


def measured(parse: Callable[[object], int], option: str, text: str) -> int:
    """An option with a unit, as number; else the end of the command."""
    try:
        return parse(text)
    except Wrong as wrong:
        say.fail(say.WRONG_USE, f"{option}: {wrong.message}: {wrong.hint}")


def _lies(state_dir: Path, incident: str, doc: dict[str, Any]) -> Path | None:
    """Where its raw files are; None: it is a single file."""
    if "/" not in incident and not incident.endswith(".zst"):
        return state_dir / "incidents" / str(doc["id"])
    place = Path(incident) if Path(incident).is_dir() else Path(incident).parent
    return place if (place / "incident.json").exists() else None


def needs(package: str) -> None:
    """zstd came with Python 3.14."""
    try:
        from ..report import packed  # noqa: F401
    except ModuleNotFoundError:
        say.fail(say.FOUND, f"{package} is not installed; it comes with: pip install 'oomguard[report]'")


def _private(path: str, flags: int) -> int:
    """An incident is for its readers alone, and so is what is made of it."""
    return os.open(path, flags, 0o640)


def load(state_dir: Path, incident: str) -> dict[str, Any]:
    """The incident of this id, or at this path; else the end of the command."""
    try:
        if incident.endswith(".zst"):
            needs("backports.zstd")
        if "/" in incident or incident.endswith(".zst"):
            return store.load_file(Path(incident))
        return store.load(state_dir, incident)
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


def _others(found: list[store.Summary]) -> "list[Kill]":
    from ..report import others

    try:
        told = others.kills()
    except others.NoJournal as error:
        say.aside(f"what others killed is not known: {error}")
        return []
    if told.doubt:
        say.aside(f"others may have killed more: {told.doubt}")
    return others.unheard(told.kills, ((it.time, it.victims) for it in found))


def _table(found: list[store.Summary], others: "Sequence[Kill]" = ()) -> None:
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
    for kill in others:
        who = (f"{kill.comm}[{kill.pid}]" if kill.pid else kill.comm) or kill.cgroup
        rows.append((kill.time[:19] + "Z", kill.kind, "", kill.by, who, "", "", ""))
    rows.sort(key=lambda row: row[0], reverse=True)
    say.table(("TIME", "KIND", "POLICY", "KILLED BY", "VICTIM", "FREED", "LATENCY", "ID"), rows)


def _mount() -> None:
    from . import follow, replay

    app.command("replay")(replay.replay)
    app.command("follow")(follow.follow)


_mount()
