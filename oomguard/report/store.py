"""The incidents on disk, for readers: list them, find one, load it, and which are too many. Never writes.

What is damaged is listed as damaged, with the reason: an incident is read the morning after a bad night.
"""

import calendar
import json
import os
import re
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ..model.incident import SCHEMA_VERSION

# The directory's name: time, guard, six hex digits.
_NAME = re.compile(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z-(.+)-([0-9a-f]{6})", re.ASCII)
_FIELDS = (
    "time", "policy", "cgroup", "kind", "mode", "killed_by", "victims", "freed_bytes", "latency_ms", "complete", "ended"
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Summary:
    """One line of the list. ``damaged``: why no more than the directory's name is known; empty: it is whole."""

    id: str
    time: str
    policy: str
    cgroup: str = ""
    kind: str = ""
    mode: str = ""
    killed_by: str = ""
    victims: list[dict[str, Any]] = field(default_factory=list)
    freed_bytes: int | None = None
    latency_ms: float | None = None
    complete: bool = False
    ended: str = ""
    damaged: str = ""

    def plain(self) -> dict[str, Any]:
        """As ``oomguard incidents list --json`` prints it."""
        return {name: getattr(self, name) for name in self.__slots__}


class NoSuchIncident(LookupError):
    """There is none of that name, or more than one. The text says which."""


class Damaged(ValueError):
    """There is one, but it cannot be read. The text says why."""


def list_incidents(state_dir: Path, most: int | None = None) -> list[Summary]:
    """Newest first, no more than ``most``. OSError: the directory may not be read; one that is not there has none."""
    return [_summary(state_dir, name) for name in sorted(_names(state_dir), reverse=True)[:most]]


def find(state_dir: Path, wanted: str) -> str:
    """The whole id of an incident, of which a beginning or the last six digits are given; "last" is the newest."""
    names = sorted(_names(state_dir))
    if wanted == "last" and names:
        return names[-1]
    if wanted in names:
        return wanted
    found = [name for name in names if wanted and (name.startswith(wanted) or name.endswith(f"-{wanted}"))]
    if len(found) == 1:
        return found[0]
    if found:
        raise NoSuchIncident(f"{wanted} may be any of {len(found)}: {', '.join(found[:5])}{' ...' * (len(found) > 5)}")
    raise NoSuchIncident(f"there is no incident {wanted} in {state_dir / 'incidents'}")


def load(state_dir: Path, wanted: str) -> dict[str, Any]:
    """The incident. While it is open, the turns so far come from the file beside it.

    Raises NoSuchIncident, Damaged, OSError.
    """
    return load_file(state_dir / "incidents" / find(state_dir, wanted))


def load_file(path: Path) -> dict[str, Any]:
    """An incident by path: its directory, an incident.json anywhere, what ``export`` has written, or a recording.

    Raises Damaged, OSError; ModuleNotFoundError where nothing can unpack it.
    """
    if path.name.endswith((".tar.zst", ".zst")):
        return _unpacked(path)
    directory = path if path.is_dir() else path.parent
    doc = _parse(directory / "incident.json" if path.is_dir() else path, whole=True)
    if not doc.get("ring"):
        doc["ring"] = list(_turns(directory / "ring.jsonl"))
    return doc


def _unpacked(path: Path) -> dict[str, Any]:
    from . import export, packed, recording

    try:
        if not path.name.endswith(".tar.zst"):
            return recording.read(path)
        with packed.reading(path) as file:
            return _known(export.read(file), path.name)
    except (packed.Error, tarfile.TarError, ValueError, EOFError) as error:
        raise Damaged(f"{path.name} is neither an exported incident nor a recording: {error}") from None


@dataclass(frozen=True, slots=True)
class Kept:
    """An incident as it lies on disk: ``bytes`` with all that belongs to it, ``time_s`` of its opening."""

    id: str
    bytes: int
    time_s: float
    open: bool  # somebody writes it, or did when the machine stopped


def kept(state_dir: Path) -> list[Kept]:
    """All that lie there, oldest first."""
    found = []
    for name in sorted(_names(state_dir)):
        path = state_dir / "incidents" / name
        files = [file.lstat() for file in path.rglob("*") if not file.is_dir()]
        opened = calendar.timegm(time.strptime(name[:16], "%Y%m%dT%H%M%SZ"))
        unfinished = (path / "ring.jsonl").exists() or not (path / "incident.json").exists()
        found.append(Kept(name, sum(stat.st_blocks * 512 for stat in files), opened, unfinished))
    return found


def too_many(
    found: list[Kept], count: int | None = None, most_bytes: int | None = None, before_s: float | None = None
) -> list[Kept]:
    """Which of them are to go, oldest first: the fewest that leave no more than that. What is open stays."""
    left, total, going = len(found), sum(it.bytes for it in found), []
    for it in found:
        old = before_s is not None and it.time_s < before_s
        over = (count is not None and left > count) or (most_bytes is not None and total > most_bytes)
        if (old or over) and not it.open:
            going.append(it)
            left, total = left - 1, total - it.bytes
    return going


def lately(state_dir: Path, since: str, most: int = 20) -> list[dict[str, Any]]:
    """The verdicts on ourselves of incidents since then (as in their names: 20260131T031204Z), newest first.

    What cannot be read, or is of schema 1, has none. No more than the ``most`` newest are looked at. OSError.
    """
    found = []
    for name in sorted((name for name in _names(state_dir) if name >= since), reverse=True)[:most]:
        try:
            doc = _parse(state_dir / "incidents" / name / "incident.json", whole=False)
        except (OSError, Damaged):
            continue
        if doc.get("verdict") is not None:
            found.append({"id": name, **doc["verdict"]})
    return found


def ids(state_dir: Path) -> list[str]:
    """All that lie there, oldest first. OSError: the directory may not be read."""
    return sorted(_names(state_dir))


def head(state_dir: Path, known: str) -> dict[str, Any]:
    """The incident of this whole id as it is by now, without its turns. Raises Damaged, OSError."""
    return _parse(state_dir / "incidents" / known / "incident.json", whole=False)


def _names(state_dir: Path) -> Iterator[str]:
    try:
        with os.scandir(state_dir / "incidents") as entries:
            for entry in entries:
                if _NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                    yield entry.name
    except FileNotFoundError:
        return


def _summary(state_dir: Path, name: str) -> Summary:
    found = _NAME.fullmatch(name)
    assert found is not None
    year, month, day, hour, minute, second, guard, _ = found.groups()
    time = f"{year}-{month}-{day}T{hour}:{minute}:{second}Z"
    try:
        doc = _parse(state_dir / "incidents" / name / "incident.json", whole=False)
        return Summary(name, **{key: doc[key] for key in _FIELDS})
    except (OSError, Damaged) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
    except KeyError as error:
        why = f"{error.args[0]} is missing"
    return Summary(name, time, guard, damaged=why or "it cannot be read")


def _parse(path: Path, whole: bool) -> dict[str, Any]:
    """incident.json; unless ``whole`` without its turns, which are most of it and stand last."""
    try:
        with path.open("rb") as file:
            doc = json.loads(file.read() if whole else _head(file))
    except ValueError as error:
        raise Damaged(f"{path.name} is not whole: {error}") from None
    return _known(doc, path.name)


def _known(doc: Any, name: str) -> dict[str, Any]:
    if not isinstance(doc, dict):
        raise Damaged(f"{name} is not an incident")
    if doc.get("schema") not in range(1, SCHEMA_VERSION + 1):
        raise Damaged(f"schema {doc.get('schema')!r} is not known to this version")
    return doc


def _head(file: BinaryIO) -> bytes:
    """The object as it is before its turns. The scribe puts one field on a line; who formats it anew is read whole."""
    lines: list[bytes] = []
    for line in file:
        if line.startswith(b'"ring": ['):
            return b"".join(lines).rstrip(b",\n") + b"}"
        lines.append(line)
    return b"".join(lines)


def _turns(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines; what a crash cut off is left out."""
    try:
        with path.open("rb") as file:
            for line in file:
                yield json.loads(line)
    except (FileNotFoundError, ValueError):
        return
