"""The JSON Schema of the language: it takes what we ship, refuses what is wrong, and describes every key."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tomli
from hypothesis import HealthCheck, given, settings

from oomguard.policy import described, schema, toml

from .grammar import POLICIES

ROOT = Path(__file__).parents[2]
DOCUMENT = described.document()
CHECK = jsonschema.Draft7Validator(DOCUMENT)


def wrong(text: str) -> list[str]:
    """Where it is wrong, outermost."""
    return sorted(".".join(map(str, error.path)) for error in CHECK.iter_errors(tomli.loads(text)))


def test_it_is_a_json_schema() -> None:
    jsonschema.Draft7Validator.check_schema(DOCUMENT)


@pytest.mark.parametrize("path", [ROOT / "etc/oomguard.toml", *sorted((ROOT / "etc/examples").glob("*.toml"))])
def test_what_we_ship_is_right(path: Path) -> None:
    assert wrong(path.read_text()) == []


def test_every_table_and_every_key_is_described() -> None:
    """WORDS lacks a key: document() raises. It has one too many: here."""
    for name, words in described.WORDS.items():
        table = getattr(schema, name)
        assert words.keys() == {field.alias or key for key, field in table.model_fields.items()}, name
    assert described.WORDS.keys() <= DOCUMENT["$defs"].keys()


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much], deadline=None)
@given(POLICIES)
def test_what_the_models_take_the_schema_takes(tables: dict[str, Any]) -> None:
    assert wrong(toml.document(tables)) == []


GOOD = """\
[policy.host]
cgroup = "/"
[policy.host.hard]
when = [{ available_below = ["5%", 1024] , lasting = "10s" }]
do = ["kill"]
"""


def test_a_good_one() -> None:
    assert wrong(GOOD) == []


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ('"5%"', "0.05", "policy.host.hard.when.0.available_below"),
        ('"5%"', '"5 percent"', "policy.host.hard.when.0.available_below"),
        ("available_below", "availble_below", "policy.host.hard.when.0"),
        ('available_below = ["5%", 1024] , ', "", "policy.host.hard.when.0"),
        ('"10s"', "10", "policy.host.hard.when.0.lasting"),
        ('"10s"', '"10"', "policy.host.hard.when.0.lasting"),
        ('["kill"]', '"kill"', "policy.host.hard.do"),
        ('"kill"', '"kil"', "policy.host.hard.do.0"),
        ('"kill"', '"set_high"', "policy.host.hard.do.0"),
        ('"kill"', "{ kill = {}, notify = {} }", "policy.host.hard.do.0"),
        ('"kill"', "{ kill = { graze = '1s' } }", "policy.host.hard.do.0"),
        ('cgroup = "/"', 'cgroup = "system.slice"', "policy.host.cgroup"),
        ('cgroup = "/"', "cgroup = '/'\nmode = 'dry'", "policy.host.mode"),
        ('cgroup = "/"', "cgroup = '/'\nvictim = { never = [{}] }", "policy.host.victim.never.0"),
        ('cgroup = "/"', "cgroup = '/'\nvictim = { never = [{ name = 'x' }] }", "policy.host.victim.never.0"),
        ('cgroup = "/"', "cgroup = '/'\nbudget = { kills = 0, per = '1s' }", "policy.host.budget.kills"),
        ("[policy.host]", "[policy.'no name']\n[policy.host]", "policy"),
        ("[policy.host]", "[demon]\n[policy.host]", ""),
        ("[policy.host]", "[daemon]\nheap = '2MB'\n[policy.host]", "daemon.heap"),
    ],
)
def test_what_is_wrong_is_found_where_it_stands(old: str, new: str, where: str) -> None:
    assert old in GOOD
    assert where in wrong(GOOD.replace(old, new, 1))
