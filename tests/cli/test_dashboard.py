"""The dashboard by Grafana's own schema: its SDK, which is made of it, must know every key, and every value must fit.

There is no Grafana here. What the panels ask, Prometheus itself answers in ``test_exporter``.
"""

import copy
import enum
import json
import typing
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from grafana_foundation_sdk.cog import runtime
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import heatmap, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.models.dashboard import Dashboard

from .test_exporter import DASHBOARD

DOC = json.loads(DASHBOARD.read_text())
for panel in (heatmap, stat, statetimeline, table, timeseries):
    runtime.register_panelcfg_variant(panel.variant_config())
runtime.register_dataquery_variant(prometheus.variant_config())

# Grafana writes them, and Prometheus's plugin reads them; the schema has what data sources have in common.
BESIDE_THE_SCHEMA = {"definition", "titleFormat", "textFormat", "step"}


def lost(ours: Any, theirs: Any, where: str = "") -> Iterator[str]:
    """What does not come back from the SDK: a key that it does not know, in a panel of that kind."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            if key in theirs:
                yield from lost(value, theirs[key], f"{where}/{key}")
            elif key not in BESIDE_THE_SCHEMA:
                yield f"{where}/{key}"
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for number, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from lost(one, other, f"{where}/{number}")
    elif ours != theirs:
        yield where


def unfit(value: Any, hint: Any, where: str = "") -> Iterator[str]:
    """Values that are not of the type, or none of the words, that the schema has there."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hasattr(value, "to_json"):
        for name, below in typing.get_type_hints(type(value)).items():
            yield from unfit(getattr(value, name), below, f"{where}/{name}")
    elif origin is typing.Union:
        if not any(not list(unfit(value, one)) for one in inner):
            yield where
    elif origin in (list, dict) and isinstance(value, origin):
        for key, one in value.items() if origin is dict else enumerate(value):
            yield from unfit(one, inner[-1], f"{where}/{key}")
    elif isinstance(hint, type) and issubclass(hint, enum.Enum):
        if value not in [word.value for word in hint]:
            yield f"{where}: {value!r}"
    elif isinstance(hint, type) and hint is not object and not fits(value, hint):
        yield f"{where}: {value!r}"


def fits(value: Any, hint: type) -> bool:
    """A whole number is a number, and True is none."""
    return isinstance(value, (hint, int) if hint is float else hint) and (hint is bool or not isinstance(value, bool))


def faults(doc: dict[str, Any]) -> list[str]:
    known = Dashboard.from_json(doc)
    return [*lost(doc, json.loads(JSONEncoder().encode(known))), *unfit(known, Dashboard)]


def test_grafana_knows_every_key_and_every_word() -> None:
    assert faults(DOC) == []


def stat_of(doc: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(panel for panel in doc["panels"] if panel["type"] == "stat")
    return found


@pytest.mark.parametrize(
    "slip",
    [
        lambda doc: doc.update(templates=doc.pop("templating")),
        lambda doc: stat_of(doc).update(colour="red"),
        lambda doc: stat_of(doc)["fieldConfig"]["defaults"].update(unitt="bytes"),
        lambda doc: stat_of(doc).setdefault("options", {}).update(colorMode="rainbow"),
        lambda doc: stat_of(doc).setdefault("options", {}).update(colormode="value"),
        lambda doc: stat_of(doc)["targets"][0].update(expression="up"),
        lambda doc: stat_of(doc)["gridPos"].update(w="4"),
        lambda doc: doc["templating"]["list"][1].update(type="querry"),
        lambda doc: doc["templating"]["list"][1].update(multi="yes"),
    ],
)
def test_a_slip_would_be_seen(slip: Callable[[dict[str, Any]], None]) -> None:
    doc = copy.deepcopy(DOC)
    slip(doc)
    assert len(faults(doc)) == 1


def test_every_panel_has_something_to_ask_and_where() -> None:
    kinds = {panel["type"] for panel in DOC["panels"]}
    assert kinds == {"row", "stat", "timeseries", "heatmap", "state-timeline", "table"}, (
        "those that are registered above"
    )
    variables = {"${" + it["name"] + "}" for it in DOC["templating"]["list"]}
    for panel in DOC["panels"]:
        if panel["type"] == "row":
            continue
        letters = [target["refId"] for target in panel["targets"]]
        assert letters, panel["title"]
        assert len(letters) == len(set(letters)), panel["title"]
        assert {it["datasource"]["uid"] for it in (panel, *panel["targets"])} <= variables, panel["title"]
