"""Policies out of the language's own JSON Schema: a key that is new to the language is new to these tests as well."""

from functools import cache
from typing import Any

from hypothesis import strategies as st
from pydantic import ValidationError

from oomguard.policy import described, schema, toml

Table = dict[str, Any]

DOCUMENT = described.document()
SIZES = ["1", "512MiB", "1.5G", "4096B", "2 GiB", "1E"]
SHARES = ["5%", "12.5%", "100%", "0.001%", "33.3333333333333333%", "90 %"]
RATES = ["5MiB/s", "5MiB", "1%/s", "0.5 % /s", "4096/s", "33%"]
TIMES = ["0s", "500ms", "1s", "2.5s", "1m 30s", "5m", "1h", "150ms", "1000000.5us", "1d"]
EXPRESSIONS = [
    "sshd|cron",
    "(ba|z)?sh",
    "web-[0-9]{1,3}\\.service",
    "(?i)chrom.*",
    "/a/[^/]+",
    "a{300}",
    "(?=x)",
    "[",
    "^$",
]
NAMES = ["sshd*", "*", "web-?.service", "/", "/a/**", "/system.slice/*.service", "it", "(sd-pam)", 'a"b\\c', "\u202ee"]


def strategy(form: Table) -> st.SearchStrategy[Any]:
    """Values that this form accepts; most of them are policy, the rest nearly."""
    if "$ref" in form:
        return table(form["$ref"].rpartition("/")[2])
    if "anyOf" in form and "properties" not in form:
        return st.one_of(*map(strategy, form["anyOf"]))
    if "enum" in form or "const" in form:
        return st.sampled_from(form.get("enum") or [form["const"]])
    match form.get("type"):
        case "boolean":
            return st.booleans()
        case "integer":
            low, high = form.get("minimum", 0), form.get("maximum", 1 << 40)
            return st.sampled_from([low, high]) | st.integers(low, high)
        case "array":
            return st.lists(strategy(form["items"]), min_size=form.get("minItems", 0), max_size=3)
        case "string":
            return _text(form.get("pattern", ""))
        case "object":
            return _object(form)
        case kind:
            raise AssertionError(f"{kind} in {form}: the grammar of the tests does not know it")


def _text(pattern: str) -> st.SearchStrategy[str]:
    known = {described._SHARE["pattern"]: SHARES, described._DURATION["pattern"]: TIMES}
    known |= {described._SIZE["anyOf"][1]["pattern"]: SIZES, described._RATE["anyOf"][1]["pattern"]: RATES}
    known |= {described._EXPRESSION["properties"]["re"]["pattern"]: EXPRESSIONS}
    return st.sampled_from(known.get(pattern, NAMES))


def _object(form: Table) -> st.SearchStrategy[Table]:
    properties = form.get("properties", {})
    required = {key: strategy(properties[key]) for key in form.get("required", ())}
    most = form.get("maxProperties", 5)
    optional = {key: strategy(value) for key, value in properties.items() if key not in required}
    some = st.lists(st.sampled_from(sorted(optional)), unique=True, max_size=most) if optional else st.just([])
    return some.flatmap(lambda keys: st.fixed_dictionaries(required | {key: optional[key] for key in keys}))


@cache
def table(name: str) -> st.SearchStrategy[Table]:
    """A table of the language by the name of its model."""
    return st.deferred(lambda: _object(DOCUMENT["$defs"][name]))


def right(name: str) -> st.SearchStrategy[Table]:
    """A table that by itself is right."""
    model: type[schema.Table] = getattr(schema, name)

    def accepts(value: Table) -> bool:
        try:
            model.model_validate(value)
        except ValidationError:
            return False
        return True

    return table(name).filter(accepts)


STEPS = st.sampled_from(described._bare_steps()) | right("StepTable")
WATERMARKS = st.fixed_dictionaries(
    {"when": st.lists(right("ClauseTable"), min_size=1, max_size=3), "do": st.lists(STEPS, min_size=1, max_size=4)}
)
SINKS = st.builds(
    lambda rest, what: {key: value for key, value in rest.items() if key not in schema.SINKS} | what,
    right("SinkTable").map(lambda sink: {key: value for key, value in sink.items() if key != "disabled"}),
    st.sampled_from(
        [
            {"url": "json://host/secret-token"},
            {"url_file": "/etc/oomguard/secrets/ops"},
            {"run": ["/usr/bin/true", "a b"]},
            {"desktop": True},
        ]
    ),
)
APART = ("notify", "disabled", "tripwire", *schema.SELECTORS)
GUARDS = st.builds(
    lambda rest, victim, whom, marks: {**rest, **marks, "victim": victim, **whom},
    right("GuardTable").map(lambda guard: {k: v for k, v in guard.items() if k not in APART}),
    right("VictimTable"),
    st.sampled_from(
        [
            *({"cgroup": path} for path in ("/", "/system.slice/web-*.service", "/a/**")),
            {"unit": "web-*.service"},
            {"slice": "user-*.slice"},
            {"container": "docker"},
            {"pod": "any"},
        ]
    ),
    st.dictionaries(st.sampled_from(["soft", "hard"]), WATERMARKS, min_size=1, max_size=2),
)
POLICIES = st.fixed_dictionaries(
    {"policy": st.dictionaries(st.sampled_from(["host", "web-1", "9"]), GUARDS, min_size=1, max_size=2)},
    optional={
        "daemon": right("DaemonTable"),
        "sinks": st.dictionaries(st.sampled_from(["ops", "2"]), SINKS, max_size=2),
    },
)


def text(tables: Table) -> str:
    """As a file."""
    return toml.document(tables)
