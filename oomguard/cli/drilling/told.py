"""The incident that the daemon has written about the drill, as soon as it is whole; nothing is computed here."""

import os
import time
from pathlib import Path
from typing import Any

from ...report import store
from .outcome import Told

PATIENCE_S = 30.0  # it is closed a second after the last victim, and then written
LATE_S = 3.0  # where the guard has not acted: perhaps what there is tells why
LOOK_S = 0.1


class Incidents:
    """Those of a state directory that were not there before the drill."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._before = set(self._names())

    def _names(self) -> list[str]:
        try:
            return sorted(os.listdir(self._state_dir / "incidents"))
        except OSError:
            return []

    def of(self, cgroup: str, patience_s: float) -> Told | None:
        """The one about this cgroup, whole if that comes to be in time; None: there is none."""
        end = time.monotonic() + patience_s
        while True:
            doc = self._latest(cgroup)
            if (doc is not None and doc.get("complete")) or time.monotonic() > end:
                return None if doc is None else told(doc)
            time.sleep(LOOK_S)

    def _latest(self, cgroup: str) -> dict[str, Any] | None:
        for name in reversed([name for name in self._names() if name not in self._before]):
            try:
                doc = store.load(self._state_dir, name)
            except (OSError, store.Damaged, store.NoSuchIncident):
                continue  # not written yet
            if doc.get("cgroup") == cgroup:
                return doc
        return None


def told(doc: dict[str, Any]) -> Told:
    """What a drill wants to know of an incident."""
    from ...report.text import sentence

    kill = next(iter(doc["kills"]), None)
    signalled = doc["opened_ns"] + int(kill["at_ms"] * 1e6) if kill is not None else None
    latency = kill["latency_ms"] if kill is not None else None
    return Told(
        id=doc["id"],
        story=sentence(doc),
        killed_by=doc["killed_by"] or "",
        signalled_ns=signalled,
        hard_ns=signalled - int(latency * 1e6) if signalled is not None and latency is not None else None,
        gone_ms=kill["gone_ms"] if kill is not None else None,
        outcome=doc["outcome"] or "",
    )
