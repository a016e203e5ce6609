"""The command proper: mounts the commands on typer, which knows their options and their help."""

from importlib import import_module
from typing import Annotated, Final

import typer

from .. import __version__
from . import say

# Where each command lives. Only the one that is asked for is imported: pydantic is a second of a starved machine.
COMMANDS: Final = {
    "run": ("run", "run"),
    "check": ("check", "check"),
    "show": ("show", "show"),
    "schema": ("schema", "schema"),
    "explain": ("explain", "explain"),
    "import": ("import_", "import_"),
    "status": ("status", "status"),
    "top": ("top", "top"),
    "incidents": ("incidents", "app"),
    "record": ("record", "record"),
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
