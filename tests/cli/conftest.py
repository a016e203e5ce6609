"""What the tests of the commands share."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .command import HOST


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A policy file with one policy, of the whole machine."""
    path = tmp_path / "oomguard.toml"
    path.write_text(HOST)
    return path


@pytest.fixture
def the_only_drill() -> Iterator[None]:
    """Nobody else drills meanwhile: of two drills one is refused, and what is left would be anybody's."""
    place = Path("/run/lock") if os.access("/run/lock", os.W_OK) else Path(tempfile.gettempdir())
    with open(place / "oomguard-drill-tests", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
