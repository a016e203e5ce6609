"""A whole recording: every turn of some time, kept so that a policy can be tried on a day on which nothing happened.

One file of JSON lines, packed with zstd. The first is the head, the others are turns as they stand in an incident, the
last counts what was lost. What was cut off (no power, a full disk) costs the turns that were not written yet.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
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
    "kernel_reports": [],
    "no_guard": None,
    "after": [],
    "verdict": None,
    "boot_id": "",
    "kernel": "",
    "evidence": {"taken": []},
}
_TIMELINE_MAX: Final = 400
# What an action is called in a timeline ("": by its watermark), and which of its fields says why.
_WORDS: Final = {"Snapshot": ("", "why"), "Kill": ("kill", "why"), "Close": ("close", "outcome")}


def quiet(head: Mapping[str, Any], turns: Iterable[Mapping[str, Any]], lost: Mapping[str, int]) -> dict[str, Any]:
    """As what a replay or a report takes for an incident; it counts from the first turn."""
    ring = list(turns)
    opened = ring[0]["seen"]["at_ns"] if ring else 0
    told = [entry for turn in ring for entry in _told(turn, opened)]
    count = dict(lost) | ({"timeline": len(told) - _TIMELINE_MAX} if len(told) > _TIMELINE_MAX else {})
    machine = next((guard for guard in head.get("guards", ()) if guard["cgroup"] == "/"), None)
    more = {"opened_ns": opened, "lost": count, "guard": machine, "timeline": told[:_TIMELINE_MAX], "ring": ring}
    return {**_QUIET, **head, **more}


def _told(turn: Mapping[str, Any], opened_ns: int) -> Iterator[dict[str, Any]]:
    """What happened in a turn, whichever guard's it was, as entries of a timeline."""
    at_ms = round((turn["seen"]["at_ns"] - opened_ns) / 1e6, 3)
    for kill in turn["seen"].get("kernel_kills", ()):
        who = f"{kill['comm']}[{kill['pid']}]" if kill["pid"] else f"{kill['count']}"
        yield {"at_ms": at_ms, "what": "kernel", "text": f"the kernel's OOM killer killed {who} in {kill['cgroup']}"}
    for action in turn.get("actions", ()):
        if (words := _WORDS.get(action["kind"])) is not None:
            text = f"{action['target']['guard']} on {action['target']['cgroup']}: {action[words[1]]}"
            yield {"at_ms": at_ms, "what": words[0] or action["watermark"], "text": text}


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
