"""docs/policies.md: every policy in it is one, and every key of the language is in it."""

import re
from pathlib import Path

import pytest

from oomguard.policy import schema

from .helpers import plan_of
from .test_shipped import TEXT as SHIPPED

MANUAL = (Path(__file__).parents[2] / "docs/policies.md").read_text()
EXAMPLES = re.findall(r"^```toml\n(.*?)^```", MANUAL, flags=re.MULTILINE | re.DOTALL)
REMAINDER = '[policy.remainder]\ncgroup = "/x"\nhard = { when = [{ available_below = "5%" }], do = ["kill"] }\n'


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_every_example_is_right(number: int, tmp_path: Path) -> None:
    """By itself, or as the later file that it says it is."""
    example = EXAMPLES[number]
    first = "" if "cgroup =" in example else SHIPPED
    assert plan_of(tmp_path, first + REMAINDER, example).guards


def test_every_key_is_there() -> None:
    tables = [value for value in vars(schema).values() if isinstance(value, type) and issubclass(value, schema.Table)]
    for table in tables:
        for name, field in table.model_fields.items():
            assert re.search(rf"\b{field.alias or name}\b", MANUAL), (table.__name__, name)
