"""docs/kernels.md and containers.md say what works where, and name the test that shows it: each must be there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = "".join((ROOT / "docs" / name).read_text() for name in ("kernels.md", "containers.md"))


def named(text: str) -> tuple[set[str], set[str]]:
    """(files, tests) in the cells and sentences: `tests/x/test_y.py: test_z`."""
    quoted = re.findall(r"`([^`]+)`", text)
    files = {path for words in quoted for path in re.findall(r"(?:tests/\S+|test_\w+)\.py", words)}
    tests = {name for words in quoted for name in re.findall(r"\btest_\w+\b(?!\.py)", words)}
    return files, tests


def known() -> set[str]:
    return {
        name
        for path in ROOT.glob("tests/**/test_*.py")
        for name in re.findall(r"^ *def (test_\w+)", path.read_text(), re.M)
    }


@pytest.mark.parametrize("path", sorted(named(TEXT)[0]))
def test_the_file_is_there(path: str) -> None:
    assert list(ROOT.glob(path if "/" in path else f"tests/**/{path}")), path


@pytest.mark.parametrize("name", sorted(named(TEXT)[1]))
def test_the_test_is_there(name: str) -> None:
    assert name in known()


def test_one_that_is_not_there_would_be_seen() -> None:
    files, tests = named("| x | `tests/nowhere/test_nothing.py: test_of_nothing` | `test_other.py` |")
    assert files == {"tests/nowhere/test_nothing.py", "test_other.py"}
    assert tests == {"test_of_nothing"}
    assert not tests & known()
