"""The incidents on disk, for readers: list them, find one, load it. Never writes.

What is damaged is listed as damaged, with the reason: an incident is read the morning after a bad night.
"""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

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


def list_incidents(state_dir: Path) -> list[Summary]:
    """Newest first. OSError: the directory may not be read; a directory that is not there has none."""
    return [_summary(state_dir, name) for name in sorted(_names(state_dir), reverse=True)]


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
    """An incident by path: its directory, or an incident.json that lies anywhere. Raises Damaged, OSError."""
    directory = path if path.is_dir() else path.parent
    doc = _parse(directory / "incident.json" if path.is_dir() else path, whole=True)
    if not doc.get("ring"):
        doc["ring"] = list(_turns(directory / "ring.jsonl"))
    return doc


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
    if not isinstance(doc, dict):
        raise Damaged(f"{path.name} is not an incident")
    if doc.get("schema") != 1:
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
