"""The command tree as plain values, read from the objects that make --help: for man pages, completions and tests."""

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

# What a word on the command line is: it decides what a shell offers for it.
Means = Literal["switch", "file", "directory", "choice", "incident", "text"]
_BY_METAVAR: dict[str, Means] = {"FILE": "file", "DIR": "directory", "ID": "incident", "SHELL": "choice"}


@dataclass(frozen=True, slots=True)
class Option:
    """``names``: all spellings; ``metavar`` is empty for a switch; ``default`` as it would be written, "" is none."""

    names: tuple[str, ...]
    metavar: str
    help: str
    means: Means
    choices: tuple[str, ...] = ()
    default: str = ""


@dataclass(frozen=True, slots=True)
class Argument:
    """``shown`` as usage has it: ID, [ID]..., FILE..."""

    shown: str
    help: str
    means: Means
    choices: tuple[str, ...] = ()
    many: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    """``path``: ("oomguard", "incidents", "show"). ``help`` is whole; ``summary`` is what lists show."""

    path: tuple[str, ...]
    help: str
    options: tuple[Option, ...]
    arguments: tuple[Argument, ...]
    commands: "tuple[Command, ...]" = ()

    @property
    def name(self) -> str:
        return self.path[-1]

    @property
    def summary(self) -> str:
        """Its first sentence as far as a colon: what it does, without the exit codes."""
        return re.split(r"[.:](?:\s|$)", " ".join(self.help.split()), maxsplit=1)[0]

    def walk(self) -> "Iterator[Command]":
        """Itself, and everything below."""
        yield self
        for command in self.commands:
            yield from command.walk()


def whole() -> Command:
    """All commands that are shown to people."""
    import typer.main

    from . import app

    app.mount(None)
    return _command(typer.main.get_command(app.app), ("oomguard",))


def _command(it: Any, path: tuple[str, ...]) -> Command:
    shown = [param for param in it.params if not getattr(param, "hidden", False)]
    below = getattr(it, "commands", {})
    return Command(
        path,
        (it.help or "").strip(),
        (*(_option(param) for param in shown if param.opts[0].startswith("-")), _HELP),
        tuple(_argument(param) for param in shown if not param.opts[0].startswith("-")),
        tuple(_command(command, (*path, name)) for name, command in below.items() if not command.hidden),
    )


_HELP = Option(("--help", "-h"), "", "Show this and exit.", "switch")


def _option(param: Any) -> Option:
    names = (*param.opts, *param.secondary_opts)
    if param.is_flag:
        return Option(names, "", _line(param.help), "switch")
    choices = _choices(param) or _listed(param.metavar or "")
    metavar = param.metavar or ("|".join(choices) if choices else param.name.upper())
    default = "" if param.default is None or callable(param.default) else str(param.default)
    return Option(names, metavar, _line(param.help), _means(metavar, choices), choices, default)


def _argument(param: Any) -> Argument:
    choices, many = _choices(param), param.nargs != 1
    shown = param.metavar or param.name.upper()
    bare = shown.strip("[].")
    optional = not param.required and not shown.startswith("[")
    return Argument(f"[{shown}]" if optional else shown, _line(param.help), _means(bare, choices), choices, many)


def _means(metavar: str, choices: tuple[str, ...]) -> Means:
    return "choice" if choices else _BY_METAVAR.get(metavar, "text")


def _choices(param: Any) -> tuple[str, ...]:
    """Of an enumeration: where typer keeps what was annotated, or, before it had its own click, in click's type."""
    annotation = getattr(getattr(param, "type_descriptor", None), "annotation", None)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return tuple(str(member.value) for member in annotation)
    return tuple(map(str, getattr(getattr(param, "type", None), "choices", ())))


def _listed(metavar: str) -> tuple[str, ...]:
    """near|policy|name: words that are checked elsewhere. CGROUP|PID are kinds of words."""
    return tuple(metavar.split("|")) if "|" in metavar and metavar.islower() else ()


def _line(text: str | None) -> str:
    return " ".join((text or "").split())
