"""Configurations of other daemons, said in our language. What cannot be said is told, setting by setting.

One module each; ``READERS`` names them. A reader gets the files as they are and fills a ``Draft``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NoReturn

from ...model.policy import Plan
from .. import files
from ..faults import Fault, PolicyError
from ..spoken import Value

DESKTOP: Final = "a sink tells desktops; it needs jeepney: make install EXTRAS=desktop"
READERS: Final = ("earlyoom", "nohang", "oomd", "systemd-oomd", "kubelet")


@dataclass(frozen=True, slots=True)
class Page:
    """One file of theirs."""

    file: str
    text: str

    def line_of(self, word: str, start: int = 0) -> int:
        """The line on which the word first stands, 1 where it does not."""
        at = self.text.find(word, start)
        return self.text.count("\n", 0, at) + 1 if at >= 0 else 1

    def wrong(self, line: int, key: str, message: str, hint: str = "") -> NoReturn:
        """This is no configuration of theirs."""
        raise PolicyError([Fault(self.file, line, key, message, hint)])


@dataclass(slots=True)
class Draft:
    """What has become of it. ``left``: settings without words of ours; ``differs``: said, but not quite the same."""

    guards: dict[str, dict[str, Value]] = field(default_factory=dict)
    sinks: dict[str, dict[str, Value]] = field(default_factory=dict)
    left: list[Fault] = field(default_factory=list)
    differs: list[Fault] = field(default_factory=list)

    def lose(self, page: Page, line: int, key: str, why: str, hint: str = "") -> None:
        """A setting that cannot be said here."""
        self.left.append(Fault(page.file, line, key, why, hint))

    def differ(self, page: Page, line: int, key: str, how: str) -> None:
        """A setting that is said nearly."""
        self.differs.append(Fault(page.file, line, key, how))

    def tables(self) -> dict[str, Value]:
        """The policy file."""
        return {"policy": dict(self.guards), **({"sinks": dict(self.sinks)} if self.sinks else {})}


Reader = Callable[[Sequence[Page]], Draft]


def read(kind: str, paths: Sequence[Path]) -> Draft:
    """These files of that daemon. PolicyError: they cannot be read, or are none of its files."""
    reader: Reader = import_module(f".{kind.replace('-', '_')}", __package__).read
    return reader([_page(path) for path in paths])


def compiled(draft: Draft) -> Plan:
    """What it means. PolicyError: their numbers are none of ours; lines are those of the policy that was made."""
    from .. import compile as compiler
    from .. import toml

    name = "the policy that this means"
    return compiler.plan_of([files.parsed(name, toml.document(draft.tables()))], [Path(name)])


def _page(path: Path) -> Page:
    try:
        with open(path, "rb") as file:
            raw = file.read(files.MOST_BYTES + 1)
    except OSError as error:
        raise PolicyError([Fault(str(path), 1, "", f"cannot be read: {error.strerror}")]) from None
    if len(raw) > files.MOST_BYTES:
        raise PolicyError([Fault(str(path), 1, "", "more than 1 MiB: this is no configuration")])
    try:
        return Page(str(path), raw.decode("utf-8-sig").replace("\r\n", "\n"))
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise PolicyError([Fault(str(path), line, "", f"byte 0x{raw[error.start]:02x} is not UTF-8")]) from None


def victim(draft: dict[str, Any], which: str, match: dict[str, Value]) -> None:
    """One more table of never, avoid or prefer; each once."""
    matches = draft.setdefault(which, [])
    if match not in matches:
        matches.append(match)
