"""What stands beside a share in ``show``."""

import pytest

from oomguard.policy import described, schema, shares

WHEN, DO = ("policy", "it", "hard", "when", 0), ("policy", "it", "soft", "do", 1)


@pytest.mark.parametrize(
    ("key", "value", "machine", "said"),
    [
        (WHEN, {"available_below": "5%"}, True, "available_below of MemTotal"),
        (WHEN, {"available_below": ["5%", "2GiB"]}, False, "available_below of MemTotal"),
        (WHEN, {"available_below": "2GiB", "lasting": "1s"}, True, ""),
        (
            WHEN,
            {"memory_above": "9%", "swap_above": "5%"},
            False,
            "memory_above of its limit, swap_above of its swap limit",
        ),
        (WHEN, {"memory_above": "90%"}, True, "memory_above of MemTotal"),
        (WHEN, {"growth_above": {"rate": "1%/s", "over": "3s"}}, False, "growth_above of its limit"),
        (WHEN, {"pressure_above": {"full": "20%", "over": "10s"}}, False, "pressure_above of time"),
        (WHEN, {"zram_above": {"disk": "80%"}}, True, "zram_above of disksize"),
        (DO, {"set_high": {"to": "90%", "for": "30s"}}, False, "set_high of its limit"),
        (DO, {"reclaim": {"size": "64MiB", "within": "2s"}}, False, ""),
        (DO, "kill", False, ""),
        (("policy", "it", "cooldown"), "5s", False, ""),
    ],
)
def test_of_what(key: tuple[str | int, ...], value: object, machine: bool, said: str) -> None:
    assert shares.of(key, value, machine=machine) == said


def test_no_condition_and_no_action_with_a_share_is_missing() -> None:
    """A key that is new to the language is new here as well."""
    text = described.document()["$defs"]
    for table in (schema.ClauseTable, schema.StepTable):
        for name, form in text[table.__name__]["properties"].items():
            inner = [text[ref.rpartition("/")[2]] for ref in _refs(form)]
            if "%" in str([form, *inner]):
                assert name in {*shares._OF, "zram_above"}, name


def _refs(form: object) -> list[str]:
    if isinstance(form, dict):
        own = [form["$ref"]] if "$ref" in form else []
        return own + [ref for value in form.values() for ref in _refs(value)]
    return [ref for value in form for ref in _refs(value)] if isinstance(form, list) else []
