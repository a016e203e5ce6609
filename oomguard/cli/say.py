"""How anything reaches people: escaped on a terminal, as JSON for programs, and with one of five exit codes.

Nothing slow is imported here.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn, TextIO

    from ..policy.faults import Fault, PolicyError

FINE = 0
FOUND = 1  # found something, or did not find what was asked for
WRONG_USE = 2  # a wrong option, or a wrong policy file
NOT_PERMITTED = 3
KERNEL_CANNOT = 4
INTERRUPTED = 130  # Ctrl-C, as every shell has it


def printable(text: str) -> str:
    """The text with everything escaped that could move a cursor, break a line or turn the writing direction."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def line(text: str = "") -> None:
    """One line on standard output. Whatever is in the text, it stays one line and moves no cursor."""
    sys.stdout.write(printable(text) + "\n")


def aside(text: str) -> None:
    """One line on standard error."""
    sys.stderr.write(printable(text) + "\n")


def table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Columns as wide as they need to be: a name that is cut off is no name."""
    lines = [heads, *(tuple(printable(cell) for cell in row) for row in rows)]
    widths = [max(len(row[column]) for row in lines) for column in range(len(heads))]
    for row in lines:
        line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def as_json(value: object) -> None:
    """One JSON document on standard output; ASCII, so that no terminal and no pipe can stumble over a name."""
    import json

    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def fail(code: int, text: str) -> "NoReturn":
    """The end of a command that could not do what it was asked for."""
    aside(f"oomguard: {text}")
    raise SystemExit(code)


def colors(stream: "TextIO") -> bool:
    """Whether that is a terminal, whose owner has nothing against colors (no-color.org)."""
    import os

    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def fault(it: "Fault", word: str, stream: "TextIO") -> None:
    """A fault, or with its word a warning; on a terminal with its place bold, the word colored, and a pale hint."""
    text = it.text(word)
    if colors(stream):
        text, _, hint = text.partition("\n")
        place = f"{printable(it.file)}:{it.line}:"
        rest = text.removeprefix(place).replace(word, f"\x1b[33m{word}\x1b[0m", 1) if word else text.removeprefix(place)
        text = f"\x1b[1m{place}\x1b[0m{rest}" + (f"\n\x1b[2m{hint}\x1b[0m" if hint else "")
    stream.write(f"{text}\n")


def faults(error: "PolicyError", what: str = "the policy") -> "NoReturn":
    """Every fault of a wrong file, on standard error, and the exit code for it."""
    for it in error.faults:
        fault(it, "", sys.stderr)
    number = len(error.faults)
    fail(fault_code(error), f"{what} has {number} fault{'s' * (number != 1)}")


def fault_code(error: "PolicyError") -> int:
    """Wrong use; or not permitted, if nothing but that was found."""
    from ..policy.faults import DENIED

    return NOT_PERMITTED if all(it.message == DENIED for it in error.faults) else WRONG_USE
