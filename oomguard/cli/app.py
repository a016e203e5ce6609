"""The command proper: mounts the commands on typer, which knows their options and their help."""

from importlib import import_module
from typing import Annotated, Any, Final, NoReturn

import typer
import typer.main

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
    "doctor": ("doctor", "doctor"),
    "drill": ("drill", "drill"),
    "incidents": ("incidents", "app"),
    "record": ("record", "record"),
    "exporter": ("exporter", "exporter"),
    "completion": ("completion", "completion"),
    "notify-test": ("notify_test", "notify_test"),
    "undo": ("undo", "undo"),
    "compile": ("run", "compile_"),
    "manual": ("manual", "manual"),
}
HIDDEN: Final = frozenset({"compile", "manual"})

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
    """Have the app know the asked command; all of them if it is none of ours (help, a slip of the pen)."""
    app.registered_commands.clear()
    app.registered_groups.clear()
    for name in [asked] if asked in COMMANDS else COMMANDS:
        module, attribute = COMMANDS[name]
        command = getattr(import_module(f".{module}", __package__), attribute)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name, hidden=name in HIDDEN)(command)


def call(words: list[str]) -> int:
    """Run what was asked for: its exit code. What is used wrongly is told in one line, with where to find more."""
    mount(words[0] if words else None)
    command = typer.main.get_command(app)
    try:
        with command.make_context("oomguard", list(words)) as context:
            command.invoke(context)
    except typer.Exit as ended:
        return ended.exit_code
    except _Wrong as wrong:
        _told(wrong, words)
    return say.FINE


# Base of all that can be wrong with a command line. typer brings a click of its own, or, before 0.26, uses click.
_Wrong: Final[Any] = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")


def _told(wrong: Any, words: list[str]) -> NoReturn:
    if type(wrong).__name__ == "NoArgsIsHelpError":
        wrong.show()
        raise SystemExit(say.WRONG_USE)
    text = wrong.format_message().replace("Value error, ", "").rstrip(".?")
    context = getattr(wrong, "ctx", None)
    path = context.command_path if context is not None else " ".join(["oomguard", *words[:1]])
    say.fail(say.WRONG_USE, f"{text[:1].lower()}{text[1:]}; {path} --help says what there is")
