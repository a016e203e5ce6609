"""docs/client.md: its examples are right, and it names every error."""

import re
from pathlib import Path

import pytest

from oomguard import client
from oomguard.client import errors
from oomguard.policy import load

MANUAL = (Path(__file__).parents[2] / "docs/client.md").read_text()
POLICIES = re.findall(r"^```toml\n(.*?)^```", MANUAL, re.MULTILINE | re.DOTALL)
PROGRAMS = re.findall(r"^```python\n(.*?)^```", MANUAL, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", POLICIES)
def test_policies(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.toml"
    path.write_text(text)
    assert load([path]).guards


@pytest.mark.parametrize("text", PROGRAMS)
def test_programs(text: str) -> None:
    compile(text, "client.md", "exec")
    used = set(re.findall(r"\bclient\.(\w+)", text))
    assert used <= set(client.__all__), used


def test_there_are_examples() -> None:
    assert len(POLICIES) >= 2
    assert len(PROGRAMS) >= 3


def test_every_error_is_named_with_its_number() -> None:
    known = [name for name, value in vars(errors).items() if isinstance(value, type)]
    assert [name for name in known if f"`{name}`" not in MANUAL and f"`client.{name}`" not in MANUAL] == []
    for number in re.findall(r"\bE[A-Z]{3,}\b", errors.__doc__ or ""):
        assert number in MANUAL, number
