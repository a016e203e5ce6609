"""The command itself: help, version, misuse."""

import pytest

from oomguard import __version__

from .command import oomguard


def test_version() -> None:
    answer = oomguard("--version")
    assert (answer.code, answer.out) == (0, f"oomguard {__version__}\n")


def test_help_names_every_command_and_hides_the_inner_one() -> None:
    answer = oomguard("--help")
    assert answer.code == 0
    for command in ("run", "check", "show", "explain", "import", "schema", "status", "incidents", "undo"):
        assert f"  {command} " in answer.out
    assert "compile" not in answer.out
    nothing_asked = oomguard()
    assert (nothing_asked.code, nothing_asked.out + nothing_asked.err) == (2, answer.out)


@pytest.mark.parametrize("command", ["run", "check", "status", "undo", "compile"])
def test_every_command_has_help_of_its_own(command: str) -> None:
    answer = oomguard(command, "--help")
    assert answer.code == 0
    assert "Usage: oomguard" in answer.out
    assert "--config" in answer.out


@pytest.mark.parametrize("words", [("nope",), ("\x1b[2J",), ("--nope",), ("run", "x"), ("incidents", "nope")])
def test_used_wrongly(words: tuple[str, ...]) -> None:
    answer = oomguard(*words)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err
