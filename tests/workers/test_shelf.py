"""How many incidents are kept: by number, by bytes, by age."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path

import pytest

from oomguard.workers.shelf import Shelf

DAY_S = 86400


@pytest.fixture
def five(tmp_path: Path) -> Path:
    """One a day, the newest of today."""
    for age in range(5):
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() - age * DAY_S - 60))
        directory = tmp_path / "incidents" / f"{stamp}-host-00000{age}"
        directory.mkdir(parents=True)
        (directory / "incident.json").write_bytes(bytes(8192))
    (tmp_path / "incidents" / "notes").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("bounds", "keep", "left"),
    [
        ((10, 1 << 30, 0), "", "01234"),
        ((2, 1 << 30, 0), "", "01"),
        ((10, 16384, 0), "", "01"),
        ((10, 1 << 30, 2.5 * DAY_S), "", "012"),
        ((10, 1 << 30, 2.5 * DAY_S), "4", "0124"),
        ((10, 1 << 30, 1), "", ""),
    ],
)
def test_what_is_left(five: Path, bounds: tuple[int, int, float], keep: str, left: str) -> None:
    shelf = Shelf(str(five), *bounds)
    deque(shelf.prune({name for name in shelf.names() if keep and name.endswith(keep)}), maxlen=0)
    assert sorted(name[-1] for name in shelf.names()) == sorted(left)
    assert (five / "incidents" / "notes").exists()
