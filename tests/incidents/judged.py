"""Every incident that a test makes is judged again, and the verdicts must be the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oomguard.report import replay, store

# Nothing was judged in these; all others must be judged again.
NOTHING = ("no guard covers it", "it holds no turns", "the turn in which it began is not in it: lost")


def again(doc: Mapping[str, Any]) -> replay.Replay | None:
    """The replay; None: there was nothing to judge. Fails where a verdict is not the same."""
    try:
        found = replay.again(doc)
    except replay.CannotReplay as error:
        if str(error).startswith(NOTHING) or not doc.get("complete"):  # of a prefix the beginning may be missing
            return None
        raise
    if not found.part:  # else turns are missing, and what the judge saw in them
        assert found.differences == [], f"{doc['id']} is not judged the same again: {found.differences[:3]}"
    return found


def all_again(incidents: Path) -> list[replay.Replay]:
    """All that lie in this directory. One that is not there, or not whole (the test may have wanted that), has none."""
    done = []
    for path in sorted(incidents.glob("*/incident.json")):
        try:
            doc = store.load_file(path.parent)
        except (store.Damaged, json.JSONDecodeError):
            continue
        if not doc.get("complete") and not doc.get("ended"):
            continue  # it is being written
        found = again(doc)
        if found is not None:
            done.append(found)
    return done
