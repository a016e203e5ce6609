"""The man pages: made of what the program goes by, complete, and without a complaint of those who format them."""

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from oomguard import policy
from oomguard.cli import completion, manual, tree
from oomguard.model.messages import FIELDS, MESSAGE_IDS
from oomguard.policy import described

ROOT = Path(__file__).resolve().parents[2]
UNITS = sorted((ROOT / "systemd").glob("oomguard*.s*"), key=lambda path: (path.stem != "oomguard", path.name))
UNITS = [path for path in UNITS if path.suffix in (".service", ".socket")]


def test_all_is_put_where_it_is_looked_for(tmp_path: Path) -> None:
    manual.manual(tmp_path, UNITS)
    found = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    places = (ROOT / "tools/places.sh").read_text()
    (listed,) = re.findall(r"^made=\(\n(.*?)^\)", places, re.MULTILINE | re.DOTALL)
    assert set(found) == {*listed.split(), "oomguard/policy.schema.json"}, "uninstalling knows them by that list"
    assert found["bash-completion/completions/oomguard"] == completion.script(completion.Shell.BASH, tree.whole())


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """All of them as files."""
    where = tmp_path_factory.mktemp("man")
    texts = {
        "oomguard.1": manual.command_page(tree.whole()),
        "oomguard.toml.5": manual.policy_page(described.document()),
        "oomguard.service.8": manual.service_page(UNITS),
    }
    for name, text in texts.items():
        (where / name).write_text(text)
    return {name: where / name for name in texts}


NAMES = ("oomguard.1", "oomguard.toml.5", "oomguard.service.8")


def unescaped(page: Path) -> str:
    """The words of a page, without what is for roff."""
    text = re.sub(r"\\f[BIR]|\\&", "", page.read_text())
    return text.replace("\\-", "-").replace("\\(ga", "`").replace("\\e", "\\")


# ------------------------------------------------------------------------------------------------------- those who read


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="mandoc is not installed")
@pytest.mark.parametrize("name", NAMES)
def test_mandoc_has_nothing_to_say(pages: dict[str, Path], name: str) -> None:
    done = subprocess.run(["mandoc", "-Tlint", "-Wwarning", pages[name]], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.skipif(shutil.which("man") is None, reason="man is not installed")
@pytest.mark.parametrize("name", NAMES)
def test_man_has_nothing_to_say(pages: dict[str, Path], name: str) -> None:
    words = ["man", "--warnings", "--local-file", "-Tutf8", str(pages[name])]
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "80", "MANROFFOPT": ""}
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "SEE ALSO" in re.sub("\x1b\\[[0-9;]*m|.\b", "", done.stdout)


@pytest.mark.skipif(shutil.which("mandoc") is None, reason="mandoc is not installed")
def test_mandoc_would_have_something_to_say(tmp_path: Path) -> None:
    page = tmp_path / "bad.1"
    page.write_text(".SH NAME\n.PP\n")
    done = subprocess.run(["mandoc", "-Tlint", "-Wwarning", page], capture_output=True, check=False)
    assert done.returncode != 0


# --------------------------------------------------------------------------------------------------------- completeness


def test_every_command_and_option_is_in_the_page_of_the_command(pages: dict[str, Path]) -> None:
    text = unescaped(pages["oomguard.1"])
    for command in tree.whole().walk():
        if not command.commands:
            assert f'.SS "{" ".join(command.path)}' in text
        for option in command.options:
            assert f"{', '.join(option.names)}{f' {option.metavar}' if option.metavar else ''}\n" in text
    assert "compile" not in text, "that one is for ourselves"


def keys(table: object) -> Iterator[str]:
    if isinstance(table, dict):
        yield from table.get("properties", {})
        for value in table.values():
            yield from keys(value)


def test_every_key_of_the_policy_is_in_its_page(pages: dict[str, Path]) -> None:
    text = unescaped(pages["oomguard.toml.5"])
    document = described.document()
    wanted = set(keys(document["$defs"]))
    assert len(wanted) > 60
    assert not {key for key in wanted if f".TP\n{key} = " not in text}
    for table in document["$defs"].values():
        for form in table.get("properties", {}).values():
            assert form["description"] in text


def test_its_example_is_a_policy(tmp_path: Path) -> None:
    assert tomllib.loads(manual.EXAMPLE)["policy"]["web"]["tripwire"] is True
    path = tmp_path / "oomguard.toml"
    path.write_text(manual.EXAMPLE)
    assert [guard.name for guard in policy.load([path]).guards] == ["web"]


def test_every_setting_of_the_units_and_every_message_is_in_its_page(pages: dict[str, Path]) -> None:
    text = unescaped(pages["oomguard.service.8"])
    for unit in UNITS:
        told = [setting for setting, _ in manual.settings(unit.read_text())]
        there = re.findall(r"^[A-Z]\w+=.*", unit.read_text(), re.MULTILINE)
        assert len(told) > 1
        assert set(there) - set(told) <= {
            it for it in there if it.startswith(("Description=", "Documentation=", "WantedBy=", "Also="))
        }
        assert not [setting for setting in told if setting not in text]
    assert not [it for it in (*MESSAGE_IDS, *MESSAGE_IDS.values(), *FIELDS) if it not in text]


@pytest.mark.parametrize("text", [".so /etc/passwd", "'ig", "a\\*b", "\\n(.x", "x\n.de y"])
def test_words_of_others_are_never_requests(text: str) -> None:
    lines = manual.escaped(text).split("\n")
    assert not [line for line in lines if line.startswith((".", "'"))]
    assert "\\" not in "".join(lines).replace("\\e", "").replace("\\&", "").replace("\\-", "")
