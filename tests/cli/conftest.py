"""What the tests of the commands share."""

from __future__ import annotations

from pathlib import Path

import pytest

from .command import HOST


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A policy file with one policy, of the whole machine."""
    path = tmp_path / "oomguard.toml"
    path.write_text(HOST)
    return path
