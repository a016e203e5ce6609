"""``oomguard incidents follow``: each incident as one line, as soon as it is told to its end; for a log pipeline.

Costs the daemon nothing: the directory tells when one is begun, and only while one is open it is looked at each second.
A line is short enough for pipelines that cut at 16 KiB; the whole lies on the disk.
"""

import contextlib
import json
import select
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ..linux import events
from ..policy import files
from ..report import store, text
from . import say
from .incidents import Config, StateDir, where

_OPEN_S = 1.0  # how often one is looked at that is not told to its end yet
_ABSENT_S = 5.0  # and whether there is a directory, before the daemon's first start
_VICTIMS = 20
_TEXT = 1000
_FIELDS = (
    *("id", "time", "boot_id", "version", "hostname", "kernel", "policy", "cgroup", "kind", "mode", "killed_by"),
    *("freed_bytes", "latency_ms", "gone_ms", "complete", "ended"),
)

Json = Annotated[bool, typer.Option("--json", help="Each as one line of JSON.")]
Once = Annotated[bool, typer.Option("--once", help="Tell what there is, and end.")]
Cursor = Annotated[
    Path | None,
    typer.Option(
        "--cursor", metavar="FILE", help="Note there what was told: the next start goes on from it.", readable=False
    ),
]


def follow(
    state_dir: StateDir = None,
    config: Config = files.DEFAULT,
    as_json: Json = False,
    once: Once = False,
    cursor: Cursor = None,
) -> None:
    """Tell each incident in a line when it is over; from now on, or from where --cursor has ended."""
    directory = where(state_dir, config)
    told = _Told(cursor)
    if not told.known and not once:
        told.add(id for id in _ids(directory) if _doc(directory, id) is not None)
    for doc in _over(directory, told, once):
        line = _line(doc)
        sys.stdout.write(f"{_dumped(line)}\n" if as_json else say.printable(f"{line['time']}  {line['text']}") + "\n")
        sys.stdout.flush()
        told.add([str(doc["id"])], _ids(directory))


class _Told:
    """Which were told, of those that still lie there."""

    def __init__(self, path: Path | None) -> None:
        """A file that is not there is a first start; one that cannot be read is told, and ends the command."""
        self._path = path
        self._ids: set[str] = set()
        self.known = False
        if path is None:
            return
        with contextlib.suppress(FileNotFoundError):
            self._ids = set(path.read_text().split())
            self.known = True

    def __contains__(self, known: str) -> bool:
        return known in self._ids

    def add(self, told: Iterator[str] | list[str], there: list[str] | None = None) -> None:
        """These were; of the others those are kept that are ``there``."""
        self._ids |= set(told)
        if there is not None:
            self._ids &= set(there)
        if self._path is not None:
            fresh = self._path.with_name(f"{self._path.name}.new")
            fresh.write_text("".join(f"{known}\n" for known in sorted(self._ids)))
            fresh.replace(self._path)


def _over(directory: Path, told: _Told, once: bool) -> Iterator[dict[str, Any]]:
    """Those that are over and not told, oldest first, as they come."""
    with contextlib.closing(events.TreeWatch()) as watch:
        while True:
            there = once or watch.watch(str(directory / "incidents"))  # first watched, then listed: none is missed
            waiting = False
            for known in _ids(directory):
                doc = None if known in told else _doc(directory, known)
                if doc is not None:
                    yield doc
                waiting = waiting or (doc is None and known not in told)
            if once:
                return
            _sleep(watch, None if there and not waiting else _OPEN_S if there else _ABSENT_S)


def _sleep(watch: events.TreeWatch, seconds: float | None) -> None:
    poller = select.poll()
    poller.register(watch.fd, select.POLLIN)
    poller.poll(None if seconds is None else seconds * 1000)
    watch.drain()


def _ids(directory: Path) -> list[str]:
    try:
        return store.ids(directory)
    except OSError as error:
        say.fail(say.NOT_PERMITTED, f"{error.filename} cannot be read: {error.strerror}: run as root, or in its group")


def _doc(directory: Path, known: str) -> dict[str, Any] | None:
    """The incident, without its turns; None: it is not told to its end yet. What is damaged is told as that."""
    place = directory / "incidents" / known
    if (place / "ring.jsonl").exists() or not (place / "incident.json").exists():
        return None
    try:
        return store.head(directory, known)
    except (store.Damaged, OSError) as error:
        return {"id": known, "damaged": str(error)}


def _line(doc: dict[str, Any]) -> dict[str, Any]:
    if "damaged" in doc:
        return {"id": doc["id"], "time": "", "text": f"{doc['id']}: damaged: {doc['damaged']}"}
    victims = [{key: it[key] for key in ("pid", "comm", "cgroup", "bytes", "by")} for it in doc["victims"][:_VICTIMS]]
    return {
        **{key: doc[key] for key in _FIELDS if key in doc},
        "text": text.sentence(doc)[:_TEXT],
        "why": {mark: why[:_TEXT] for mark, why in doc["why"].items()},
        "victims": victims,
        "victims_seen": len(doc["victims"]),
        "containers": doc["evidence"].get("containers", {}),
        "verdict": doc.get("verdict"),
    }


def _dumped(line: dict[str, Any]) -> str:
    return json.dumps(line, separators=(",", ":"))
