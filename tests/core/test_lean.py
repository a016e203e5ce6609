"""Stand-ins for the standard library: the same program in two interpreters, with them and without, does the same."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from oomguard.core import lean

ROOT = Path(__file__).resolve().parents[2]

LEAN = "from oomguard.core import lean; lean.install()\n"


def said(text: str) -> str:
    """What this program prints in an interpreter that was started as the core is."""
    environment = {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", "PATH": os.environ["PATH"]}
    argv = [sys.executable, "-s", "-S", "-B", "-c", f"import os, sys\n{text}"]
    done = subprocess.run(argv, env=environment, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Everything that can be told of the values below the waterline: their fields, defaults, equality, order, plain form.
VALUES = """
import importlib, pkgutil
from dataclasses import fields, replace

def example(kind, count):
    return kind(*(f"v{number}" for number in range(count)))

def least(kind):
    for count in range(30):
        try:
            return example(kind, count)
        except TypeError:
            pass

def tell(kind, names):
    one, same, other = (example(kind, len(names)) for _ in range(3))
    print(kind.__module__, kind.__qualname__, names, kind.__match_args__, one, least(kind))
    print(one == same, one != same, one == names, hash(one) == hash(same) if kind.__hash__ else "no hash")
    if names:
        other = one._replace(**{names[-1]: 1}) if isinstance(one, tuple) else replace(one, **{names[-1]: 1})
        print(other, one == other, hasattr(one, "__dict__") and not isinstance(one, tuple))

for room in ("model", "linux", "judge", "workers"):
    package = importlib.import_module("oomguard." + room)
    for found in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        for kind in list(vars(importlib.import_module(found.name)).values()):
            if isinstance(kind, type) and kind.__module__ == found.name:
                if hasattr(kind, "__dataclass_fields__"):
                    tell(kind, [field.name for field in fields(kind)])
                elif hasattr(kind, "_fields"):
                    tell(kind, list(kind._fields))

from oomguard.judge.glob import matches
from oomguard.judge.state import State, TargetState, evolve
from oomguard.model import codec, facts
targets = [facts.TargetId(*words) for words in ("ba", "ab", "aa")]
print(sorted(targets), min(targets), {targets[0]: 1}[facts.TargetId("b", "a")])
print(evolve(TargetState(targets[0]), ended=2), State(), State().targets is State().targets)
print(codec.pack(facts.Observation(5, wakes=(facts.Wake("start"),))).hex())
print(codec.from_plain(codec.to_plain(facts.VictimGone(1, 2))), [matches("a*", text) for text in ("ab", "b", "a/b")])
match targets[0]:
    case facts.TargetId(guard, cgroup):
        print(guard, cgroup)
"""


def test_values_are_the_same_with_them_and_without() -> None:
    real = said(VALUES)
    assert real.count("oomguard.model.") > 40
    assert "oomguard.linux.leases Entry" in real
    assert said(LEAN + VALUES) == real


@pytest.mark.parametrize(
    "text",
    [
        "import typing; print(typing.get_args(typing.Optional[int]))",
        "from typing import Generic, Protocol; print(Generic)",
        "import dataclasses; print(dataclasses.is_dataclass(3), dataclasses.MISSING.__class__.__name__)",
        "import collections.abc; print(collections.Counter('aab').most_common(), collections.abc.Mapping)",
        "from collections import namedtuple, deque; print(namedtuple('X', 'a b')(1, 2), deque([1], maxlen=3))",
        "import signal; print(signal.Signals(9), int(signal.SIGTERM))",
        "import socket; a, b = socket.socketpair(); print(a.send(b'x'), b.recv(1))",
        "from contextlib import ExitStack, suppress\nwith suppress(KeyError): {}[1]\nprint(ExitStack)",
        "from functools import lru_cache, wraps\n@lru_cache\ndef f(x): return x\nprint(f(1), f(1), f.__name__)",
        "from functools import lru_cache\n@lru_cache(maxsize=None)\ndef f(x): return x\nprint(f(1), f(1), f.__name__)",
        "import operator; print(operator.attrgetter('real')(3), operator.length_hint([1]))",
        "import traceback; print(traceback.format_exception_only(ValueError('x')))",
        "import logging, subprocess, tempfile, inspect, threading, json; print(json.JSONDecodeError)",
        'import json; print(json.loads(b\'{"a": [1, 2.5, "\\\\u00e9", null, true, NaN]}\'), json.dumps([1]))',
        "import json; print(json.loads(' [] '), json.loads('7'))",
    ],
)
def test_a_stand_in_gives_way(text: str) -> None:
    """To the real module, for whatever it lacks: another's import in the middle of the standard library."""
    assert said(LEAN + text) == said(text)


@pytest.mark.parametrize("text", ["", "[1, x]", "[1] 2", '{"a"', '"'])
def test_what_is_no_json_is_a_value_error(text: str) -> None:
    program = f"import json\ntry: json.loads({text.encode()!r})\nexcept ValueError as error: print(type(error), error)"
    assert "JSONDecodeError" in said(program)
    assert said(LEAN + program) == said(program)


# What each process must not hold: the core and the hand that are needed in a storm, and the one that writes.
HEAVY = {"inspect", "ast", "dis", "tokenize", "importlib.machinery", "traceback", "selectors", "keyword"}
LOADED = """
print(*(name for name, module in sys.modules.items() if name not in lean._stand_ins() or type(module) is lean.StandIn))
"""


@pytest.mark.parametrize(
    ("imports", "allowed"),
    [
        ("core.boot, oomguard.core.arm, oomguard.workers.reaper", set()),
        ("core.boot, oomguard.workers.herald", set()),
        ("core.boot, oomguard.workers.scribe", {"re", "enum", "threading", "json"}),
    ],
)
def test_nothing_that_is_not_needed_is_loaded(imports: str, allowed: set[str]) -> None:
    loaded = set(said(f"{LEAN}import oomguard.{imports}{LOADED}").split())
    assert not loaded & HEAVY
    assert not loaded & ({"re", "enum", "threading"} - allowed)
    assert set(lean._stand_ins()) - loaded <= allowed, "these have given way: who asks for more than they have?"


def asked(text: str) -> set[tuple[str, str]]:
    """(module, name) of all that this source asks stand-ins for, on whatever path."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.ImportFrom(module=module, names=names, level=0):
                found |= {(str(module), name.name) for name in names}
            case ast.Attribute(value=ast.Name(id=module), attr=name):
                found.add((module, name))
    return {(module, name) for module, name in found if module in lean._stand_ins()}


def test_what_is_asked_for_is_seen() -> None:
    text = "from typing import Final, cast\ndef f(socket):\n    import json\n    return json.dumps(os.sep)"
    assert asked(text) == {("typing", "Final"), ("typing", "cast"), ("json", "dumps")}


def test_no_stand_in_is_asked_for_more_than_it_has_on_any_path() -> None:
    """It would load the real module from disk, in the middle of a storm perhaps. Shelf and runner do so at once."""
    have = {(module, name) for module, content in lean._stand_ins().items() for name in content}
    package = ROOT / "oomguard"
    more = {
        f"{path.relative_to(package)}: {module}.{name}"
        for room in ("model", "linux", "judge", "workers", "core")
        for path in (package / room).glob("*.py")
        for module, name in asked(path.read_text()) - have
    }
    at_once = tuple(f"workers/{name}.py: json." for name in ("shelf", "runner", "sinks", "containers"))
    at_once += tuple(f"workers/{name}.py: " for name in ("sender", "services", "desktop"))  # Pythons of their own
    assert {line for line in more if not line.startswith(at_once)} == set()


def test_another_kind_of_dataclass_is_refused() -> None:
    class Parent:
        x: int

    class Child(Parent):
        y: int

    class Careful:
        x: int

        def __post_init__(self) -> None:
            pass

    with pytest.raises(TypeError, match="has slots"):
        lean.dataclass(slots=False)
    for other in (Child, Careful):
        with pytest.raises(TypeError, match="has parents, or __post_init__"):
            lean.dataclass(slots=True)(other)
    with pytest.raises(TypeError, match="kw_only"):
        lean.dataclass(slots=True, kw_only=True)  # type: ignore[call-arg]


def test_the_core_loads_nothing_that_only_readers_need() -> None:
    """What others read of us, and how: a page of our own, of which we know the writing half."""
    text = "import oomguard.core.arm\nprint(*sorted(name for name in sys.modules if name.startswith('oomguard.')))"
    loaded = set(said(LEAN + text).split())
    assert {"oomguard.core.page", "oomguard.model.statuslayout"} <= loaded
    assert "oomguard.model.statuspage" not in loaded
