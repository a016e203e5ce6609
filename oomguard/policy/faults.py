"""A wrong policy is one error with every fault in it: file, line, key, what is wrong, and what to do."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

_LONGEST_QUOTE = 80
DENIED = "cannot be read: Permission denied"  # the message of a file that is not for us


def printable(text: str) -> str:
    """The text with everything escaped that could move a cursor, break a line or turn the writing direction."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shown(value: object) -> str:
    """A value of a TOML file as a message quotes it: short, and without going into what is nested."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value) if isinstance(value, str | int | float) else str(value)
    return text if len(text) <= _LONGEST_QUOTE else text[:_LONGEST_QUOTE] + "..."


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One thing that is wrong, or (as a warning) doubtful. ``line`` counts from 1; ``key`` is the dotted way to it."""

    file: str
    line: int
    key: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return self.text("")

    def as_warning(self) -> str:
        """The same for a fault that keeps nothing from running."""
        return self.text("warning: ")

    def text(self, word: str) -> str:
        """For people, the word before the message."""
        where = f"{self.file}:{self.line}: {self.key}: " if self.key else f"{self.file}:{self.line}: "
        text = printable(where + word + self.message)
        return text + (f"\n    hint: {printable(self.hint)}" if self.hint else "")

    def plain(self) -> dict[str, str | int]:
        """For JSON."""
        return asdict(self)


class PolicyError(Exception):
    """The files are not a policy. ``faults`` are all of them, in the order of the files."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


class Wrong(ValueError):
    """A value that cannot be taken, before it is known where it stands. Becomes a ``Fault``."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
