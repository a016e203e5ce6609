"""A whole recording: every turn of some time, kept so that a policy can be tried on a day on which nothing happened.

One file of JSON lines, packed with zstd. The first is the head, the others are turns as they stand in an incident, the
last counts what was lost. What was cut off (no power, a full disk) costs the turns that were not written yet.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from . import packed

VERSION: Final = 1
# What an incident has, of a time in which none began; a replay asks for it.
_QUIET: Final[dict[str, Any]] = {
    "schema": 1,
    "kind": "recording",
    "policy": "",
    "cgroup": "/",
    "guard": None,
    "mode": "",
    "killed_by": "none",
    "victims": [],
    "kills": [],
    "kernel_kills": [],
    "timeline": [],
    "ranking": None,
    "why": {},
    "outcome": "",
    "ended": "",
    "complete": True,
    "freed_bytes": None,
    "freed_how": "",
    "latency_ms": None,
    "gone_ms": None,
    "number": 0,
    "evidence": {"taken": []},
}


def quiet(head: Mapping[str, Any], turns: Iterable[Mapping[str, Any]], lost: Mapping[str, int]) -> dict[str, Any]:
    """As what a replay takes for an incident; it counts from the first turn."""
    ring = list(turns)
    opened = ring[0]["seen"]["at_ns"] if ring else 0
    return {**_QUIET, **head, "opened_ns": opened, "lost": dict(lost), "ring": ring}


class Writer:
    """Writes one, no larger than ``most_bytes`` on disk. Raises OSError."""

    def __init__(self, path: Path, head: Mapping[str, Any], most_bytes: int) -> None:
        self._plain = path.open("xb")  # never over an older one
        self._file = packed.writing(self._plain)
        self._most = most_bytes
        self.turns = self.gaps = 0
        self._line({"recording": VERSION, **head})

    @property
    def bytes(self) -> int:
        """On disk so far; the packer holds some back."""
        return self._plain.tell()

    @property
    def full(self) -> bool:
        """Whether no more may be written."""
        return self.bytes >= self._most

    def turn(self, plain: Mapping[str, Any]) -> None:
        """One turn in its plain form."""
        self.turns += 1
        self._line(plain)

    def close(self) -> None:
        """With the count of what was lost."""
        self._line({"end": True, "ring_gaps": self.gaps})
        self._file.close()
        self._plain.close()

    def _line(self, value: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n")


def read(path: Path) -> dict[str, Any]:
    """The recording as what a replay takes for an incident. ValueError: it is none; OSError."""
    head: dict[str, Any] | None = None
    turns: list[dict[str, Any]] = []
    lost: dict[str, int] = {"ring": 1}  # until the last line says otherwise
    try:
        with packed.reading(path) as file:
            for line in file:
                value = json.loads(line)
                if head is None:
                    head = value
                    if value.get("recording") != VERSION:
                        raise ValueError("it is no recording, or one of a newer version")
                elif value.get("end"):
                    lost = {"ring_gaps": value["ring_gaps"]} if value["ring_gaps"] else {}
                else:
                    turns.append(value)
    except (EOFError, packed.Error, json.JSONDecodeError) as error:
        if head is None:
            raise ValueError(f"it is no recording: {error}") from None
    if head is None:
        raise ValueError("it is empty")
    return quiet(head, turns, lost)
