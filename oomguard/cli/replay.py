"""``oomguard incidents replay``: was that right, and what would another policy have done? Needs no daemon.

The judge and the compiler are imported when they are asked: ``incidents list`` needs neither.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ..policy import files
from ..report import store
from . import incidents, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..model.policy import Guard
    from ..report.replay import Fate, Replay

Ids = Annotated[
    list[str] | None,
    typer.Argument(metavar="[ID]...", help="As for show; a directory of incidents means all of them. Default: all."),
]
Policy = Annotated[
    Path | None,
    typer.Option(
        "--policy", metavar="FILE", help="Judge by this policy: what would have been different?", readable=False
    ),
]
Whole = Annotated[bool, typer.Option("--all", help="Every turn that was judged otherwise, and what could not be.")]
_TURNS = 12  # lines of differences that are shown of one incident


def replay(
    ids: Ids = None,
    other: Policy = None,
    state_dir: incidents.StateDir = None,
    config: incidents.Config = files.DEFAULT,
    json: incidents.Json = False,
    whole: Whole = False,
) -> None:
    """Judge incidents again: 0 every verdict is the same, 1 one is not (or nothing could be judged)."""
    from ..report.replay import CannotReplay, again, under

    guards = None if other is None else _guards(other)
    done: list[Replay] = []  # a local annotation is not evaluated
    failed: dict[str, str] = {}
    for name, doc in _docs(incidents.where(state_dir, config), ids or []):
        try:
            if doc is None:
                raise CannotReplay("it cannot be read")
            done.append(again(doc) if guards is None else under(doc, guards))
        except CannotReplay as error:
            failed[name] = str(error)
    if json:
        say.as_json(_summary(done, failed) | {"incidents": [it.plain() for it in done]})
    else:
        _print(done, failed, whole)
    raise typer.Exit(say.FOUND if any(it.changed for it in done) or not done else say.FINE)


def _guards(path: Path) -> "tuple[Guard, ...]":
    from .. import policy
    from ..policy import PolicyError

    try:
        return policy.load(files.find(path)).guards
    except PolicyError as error:
        say.faults(error)


def _docs(state_dir: Path, ids: Sequence[str]) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """(name, incident); None: it is damaged, and was not asked for by name."""
    for wanted in ids:
        if "/" in wanted and not Path(wanted, "incident.json").exists() and Path(wanted).is_dir():
            yield from _whole_directory(Path(wanted))
        else:
            yield wanted, incidents.load(state_dir, wanted)
    if not ids:
        yield from _whole_directory(state_dir)


def _whole_directory(path: Path) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """All of a state directory, of its incidents/, or of any directory of directories with an incident.json."""
    inside = path / "incidents" if (path / "incidents").is_dir() else path
    for found in sorted(inside.glob("*/incident.json")):
        try:
            yield found.parent.name, store.load_file(found.parent)
        except store.Damaged:
            yield found.parent.name, None


def _summary(done: "Sequence[Replay]", failed: dict[str, str]) -> dict[str, Any]:
    return {
        "judged": len(done),
        "turns": sum(it.turns for it in done),
        "changed": [it.id for it in done if it.changed],
        "not_judged": failed,
    }


def _print(done: "Sequence[Replay]", failed: dict[str, str], whole: bool) -> None:
    for it in done:
        if it.changed or len(done) == 1 or whole:
            _print_one(it, whole or len(done) == 1)
    for name, why in failed.items() if whole or not done else ():
        say.line(f"{name}  not judged: {why}")
    same, changed = sum(not it.changed for it in done), sum(it.changed for it in done)
    turns = sum(it.turns for it in done)
    if done or failed:
        left = f", {len(failed)} not judged (--all says why)" if failed else ""
        say.line(f"{len(done)} incidents, {turns} turns: {same} the same, {changed} changed{left}")
    else:
        say.aside("there are no incidents")


def _print_one(it: "Replay", turns: bool) -> None:
    say.line(f"{it.id}  {'CHANGED' if it.changed else 'the same'}: {_verdict(it)}")
    if it.part:
        say.line(f"  in part: {it.part}")
    lines = [
        f"  {sign} {difference.at_ms / 1000:+.3f} s  {text}"
        for difference in it.differences
        for sign, texts in (("-", difference.was), ("+", difference.now))
        for text in texts
    ]
    for line in lines if turns else lines[:_TURNS]:
        say.line(line)
    if not turns and len(lines) > _TURNS:
        say.line(f"  ({len(lines) - _TURNS} more)")


def _verdict(it: "Replay") -> str:
    if it.exact or it.was is None or it.now is None or it.changed:
        return _fate(it.was) if it.was == it.now else f"was {_fate(it.was)}, would be {_fate(it.now)}"
    moved = (it.now.at_ms - it.was.at_ms) / 1000
    when = "at the same moment" if abs(moved) < 0.001 else f"{abs(moved):.3f} s {'later' if moved > 0 else 'earlier'}"
    return f"{_fate(it.was)}, {when}"


def _fate(fate: "Fate | None") -> str:
    return "nobody killed" if fate is None else f"{fate.what} killed at {fate.at_ms / 1000:+.3f} s"
