"""The house keeps its floors: every import goes down, and below the waterline there is the standard library alone.

The rooms and who may look into which are the table of docs/architecture.md. The checker proves on small fake houses
that it can fail; then it walks the real one.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "oomguard"

# Each room, and the rooms below that it may look into.
MAY_IMPORT: dict[str, frozenset[str]] = {
    "model": frozenset(),
    "linux": frozenset({"model"}),
    "judge": frozenset({"model"}),
    "workers": frozenset({"model", "linux"}),
    "core": frozenset({"model", "linux", "judge", "workers"}),
    # ---------- the waterline ----------
    "policy": frozenset({"model"}),
    "report": frozenset({"model", "judge"}),
    "client": frozenset(),
    "cli": frozenset({"model", "linux", "judge", "policy", "report", "client"}),  # the core is executed, never imported
}
BELOW_WATERLINE = ("model", "linux", "judge", "workers", "core")

# Above the waterline, and nowhere else. Of the workers: a process of its own, and only if a policy names a sink.
THIRD_PARTY: dict[str, frozenset[str]] = {
    "workers": frozenset({"apprise", "jeepney"}),
    "policy": frozenset({"pydantic", "pydantic_core", "tomli", "yaml"}),
    "report": frozenset({"jinja2", "plotly", "backports", "compression"}),  # compression: Python's own from 3.14 on
    "cli": frozenset({"psutil", "typer", "rich", "prometheus_client"}),
}

# The judge is pure: whoever needs one of these there needs another field in Observation.
IMPURE = frozenset({"os", "io", "time", "datetime", "random", "socket", "select", "signal", "subprocess", "pathlib"})

ROOM_FILES = frozenset({"__init__.py", "__main__.py"})  # beside the rooms, in the hall


def imported_names(path: Path, house: Path) -> Iterator[tuple[int, str]]:
    """Line and absolute dotted name of everything that a file imports, wherever in the file the import stands."""
    package = [PACKAGE, *path.relative_to(house).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(), filename=str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            for alias in node.names:
                yield node.lineno, ".".join([*base, *([node.module] if node.module else []), alias.name])


def fault(room: str, name: str) -> str | None:
    """What is wrong with importing this name in this room, None if nothing is."""
    top, *rest = name.split(".")
    if top == PACKAGE:
        other = rest[0] if rest else ""
        if other not in MAY_IMPORT or other == room or other in MAY_IMPORT[room]:
            return None
        allowed = ", ".join(sorted(MAY_IMPORT[room])) or "no other room"
        return f"{room} may not look into {other} (it may: {allowed})"
    if top in sys.stdlib_module_names:
        return f"judge is pure, it may not import {top}" if room == "judge" and top in IMPURE else None
    if top in THIRD_PARTY.get(room, ()):
        return None
    homes = [home for home, names in THIRD_PARTY.items() if top in names]
    return f"{top} has its only home in {homes[0]}" if homes else f"{top} is a stranger in this house"


def breaches(house: Path) -> list[str]:
    """Every import that goes up or sideways, every stranger, and every room that the table does not know."""
    found = []
    for path in sorted(house.rglob("*.py")):
        place = path.relative_to(house)
        room = place.parts[0]
        if room in ROOM_FILES:
            continue
        if room not in MAY_IMPORT:
            found.append(f"{PACKAGE}/{place}: {room} is no room of this house: {', '.join(MAY_IMPORT)}")
            continue
        for line, name in imported_names(path, house):
            if wrong := fault(room, name):
                found.append(f"{PACKAGE}/{place}:{line}: {wrong}")
    return found


def fake_house(where: Path, files: dict[str, str]) -> Path:
    """A house of these files (room/module) with these contents."""
    for name, text in files.items():
        path = where / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return where


@pytest.mark.parametrize(
    ("room", "text", "said"),
    [
        ("model", "import pydantic", "pydantic has its only home in policy"),
        ("core", "import requests", "requests is a stranger in this house"),
        ("core", "from oomguard.policy import schema", "core may not look into policy (it may: judge, linux,"),
        ("core", "from oomguard import policy", "core may not look into policy (it may: judge, linux,"),
        ("core", "import oomguard.cli.main", "core may not look into cli (it may: judge, linux,"),
        ("linux", "from ..judge.rank import rank", "linux may not look into judge (it may: model)"),
        ("linux", "from .. import judge", "linux may not look into judge (it may: model)"),
        ("judge", "def f():\n    from ..linux import psi", "judge may not look into linux (it may: model)"),
        ("judge", "import time", "judge is pure, it may not import time"),
        ("judge", "from os import path", "judge is pure, it may not import os"),
        ("client", "from oomguard.model import facts", "client may not look into model (it may: no other room)"),
        ("report", "import psutil", "psutil has its only home in cli"),
        ("cli", "from oomguard.core import loop", "cli may not look into core"),
        ("cli", "from oomguard.workers import pool", "cli may not look into workers"),
        ("cellar", "", "cellar is no room of this house"),
    ],
)
def test_the_checker_sees_a_breach(tmp_path: Path, room: str, text: str, said: str) -> None:
    (breach,) = breaches(fake_house(tmp_path, {f"{room}/bad": text}))
    assert said in breach
    assert breach.startswith(f"{PACKAGE}/{room}/bad.py:")


def test_the_checker_sees_into_packages_within_a_room(tmp_path: Path) -> None:
    text = "from ...judge import rank\nfrom ...model import policy\n"
    (breach,) = breaches(fake_house(tmp_path, {"policy/importers/nohang": text}))
    assert breach == f"{PACKAGE}/policy/importers/nohang.py:1: policy may not look into judge (it may: model)"


def test_the_checker_lets_good_neighbours_be(tmp_path: Path) -> None:
    house = fake_house(
        tmp_path,
        {
            "model/facts": "import dataclasses\nfrom oomguard import __version__",
            "judge/rank": "from ..model.facts import Pressure\nfrom . import detect\nimport math",
            "core/loop": "import os\nfrom oomguard.judge import decide\nfrom oomguard.linux.libc import mlockall",
            "policy/schema": "import pydantic\nimport tomli",
            "cli/main": "import typer, psutil\nfrom oomguard.report import text",
            "__init__": "",
        },
    )
    assert breaches(house) == []


def test_imports_go_down_only() -> None:
    found = breaches(ROOT / PACKAGE)
    assert not found, "\n" + "\n".join(found)


# Runs in an interpreter of its own: imports every module of one room, then prints what is loaded that was not before.
RECORD = """
import importlib, pkgutil, sys
before = set(sys.modules)
room = importlib.import_module("oomguard." + sys.argv[1])
for module in pkgutil.walk_packages(room.__path__, room.__name__ + "."):
    if not module.name.endswith(".__main__"):
        importlib.import_module(module.name)
print(*sorted(set(sys.modules) - before))
"""


def loaded_by(room: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", RECORD, room],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("room", BELOW_WATERLINE)
def test_below_the_waterline_only_the_standard_library_is_loaded(room: str) -> None:
    """What the walk over the source cannot see: an import that happens in the depth of another one."""
    if not (ROOT / PACKAGE / room).is_dir():
        pytest.fail(f"{PACKAGE}/{room} is missing")
    strangers = set()
    for name in loaded_by(room):
        top, *rest = name.split(".")
        ours = top == PACKAGE and (not rest or rest[0] in {room, *MAY_IMPORT[room]})
        if not ours and top not in sys.stdlib_module_names and not top.startswith("_sysconfigdata"):
            strangers.add(name)
    assert not strangers, f"importing {room} loads {', '.join(sorted(strangers))}"


def test_the_recorder_sees_a_stranger() -> None:
    assert "pydantic" in loaded_by("policy")


def tool(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *argv], cwd=ROOT, capture_output=True, text=True, check=False)


def test_ruff_is_content() -> None:
    done = tool("ruff", "check", "--output-format=concise", ".")
    assert done.returncode == 0, "\n" + done.stdout + done.stderr


def test_mypy_strict_is_content() -> None:
    done = tool("mypy", "--strict", "--no-error-summary")
    assert done.returncode == 0, "\n" + done.stdout + done.stderr
