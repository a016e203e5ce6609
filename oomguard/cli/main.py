"""The command ``oomguard``: mounts the commands, and is the one place where an error becomes a sentence."""

import sys
from importlib import import_module
from typing import Annotated, Final, NoReturn

import typer

from .. import __version__
from . import say

# Where each command lives. Only the one that is asked for is imported: `oomguard undo` stands between a crash and the
# next start, and pydantic is a second of an emulated or starved machine.
COMMANDS: Final = {
    "run": ("run", "run"),
    "check": ("check", "check"),
    "status": ("status", "status"),
    "incidents": ("incidents", "app"),
    "undo": ("undo", "undo"),
    "compile": ("run", "compile_"),
}
HIDDEN: Final = frozenset({"compile"})

# Plain help, no rich: `oomguard run` starts under memory pressure, on slow machines, at boot.
app = typer.Typer(
    name="oomguard",
    help="Acts before the kernel's OOM killer does, and can explain afterwards what happened and why.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        say.line(f"oomguard {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def mount(asked: str | None) -> None:
    """Add the asked command to the app; all of them if it is none of ours (help, a slip of the pen)."""
    for name in [asked] if asked in COMMANDS else COMMANDS:
        module, attribute = COMMANDS[name]
        command = getattr(import_module(f".{module}", __package__), attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name, hidden=name in HIDDEN)(command)


def main() -> NoReturn:
    """Entry point of the console script and of ``python -m oomguard``."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # in a C locale, too, a name can be printed
    mount(sys.argv[1] if len(sys.argv) > 1 else None)
    try:
        app(prog_name="oomguard")
    except BrokenPipeError:
        _close_quietly()
    except PermissionError as error:
        _end(say.NOT_PERMITTED, error)
    except OSError as error:
        _end(say.FOUND, error)
    raise SystemExit(say.FINE)


def _end(code: int, error: OSError) -> NoReturn:
    where = f"{error.filename}: " if error.filename else ""
    say.aside(f"oomguard: {where}{error.strerror or error}")
    raise SystemExit(code)


def _close_quietly() -> NoReturn:
    """The reader of a pipe has gone (`oomguard status | head`): nothing is left to say, not even at exit."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    raise SystemExit(say.FINE)
