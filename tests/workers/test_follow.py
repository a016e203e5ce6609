"""When a follower of the ring was born: what is older has been told by its predecessor, what is younger by nobody."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from oomguard.workers import follow

SECOND_NS = 10**9
TICKS = 500


@pytest.mark.parametrize("slow", ["monotonic_ns", "clock_gettime_ns"])
def test_one_that_loses_the_processor_is_not_born_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    """On a busy machine a second may go by between two looks at two clocks; here before the first of either."""
    (tmp_path / "self").mkdir()
    (tmp_path / "self/stat").write_text(f"7 (x) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {TICKS} 0 0\n")
    now = {"ns": 100 * SECOND_NS, "lost": SECOND_NS}
    suspended_ns = 30 * SECOND_NS  # what the clock of the boot has more

    def look(name: str) -> int:
        if name == slow:
            now["ns"] += now["lost"]
            now["lost"] = 0
        return now["ns"] + (suspended_ns if name == "clock_gettime_ns" else 0)

    clocks = SimpleNamespace(
        CLOCK_BOOTTIME=time.CLOCK_BOOTTIME,
        monotonic_ns=lambda: look("monotonic_ns"),
        clock_gettime_ns=lambda _clock: look("clock_gettime_ns"),
    )
    monkeypatch.setattr(follow, "time", clocks)
    born_ns = TICKS * SECOND_NS // os.sysconf("SC_CLK_TCK") - suspended_ns
    assert follow.born_ns(str(tmp_path)) == born_ns - 20_000_000
