"""Who has said it: for every value of a merged policy its file and line, or that it is a default."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from . import files
from .files import Source
from .locate import Key

DEFAULT = "default"


class Origins:
    """Of the files that a plan was made from, in their order."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.sources = [source for path in paths if isinstance(source := files.read(Path(path)), Source)]

    def of(self, key: Key) -> tuple[str, int] | None:
        """(file, line); None: a default. A later file wins key by key within ``[policy.NAME]`` and ``[daemon]``."""
        named = key[:1] in (("policy",), ("sinks",))
        whole = key[: 3 if named else 2]
        knowing = [source for source in self.sources if source.lines.know(whole)]
        if not knowing or not knowing[-1].lines.know(key):
            return None
        source = knowing[0] if len(key) < 3 and named else knowing[-1]
        return source.file, source.lines.of(key)

    def remark(self, key: Key, value: object) -> str:
        """The same for people; what inside of the value is a default is named."""
        found = self.of(key)
        if found is None:
            return DEFAULT
        defaults = [str(way[-1]) for way in leaves(key, value) if self.of(way) is None]
        said = f"{found[0]}:{found[1]}"
        return f"{said}; {' and '.join(defaults)} by {DEFAULT}" if defaults else said

    def disabled(self) -> Iterator[tuple[str, str, int]]:
        """(name, file, line) of every policy that the files take out."""
        last: dict[str, Source] = {}
        for source in self.sources:
            tables = source.table.get("policy", {})
            for name, table in tables.items() if isinstance(tables, dict) else ():
                if isinstance(table, dict) and "disabled" in table:
                    last[name] = source
        for name, source in last.items():
            if source.table["policy"][name]["disabled"] is True:
                yield name, source.file, source.lines.of(("policy", name, "disabled"))


def leaves(key: Key, value: object) -> Iterator[Key]:
    """The ways to all plain values in it."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from leaves((*key, name), inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from leaves((*key, index), inner)
    else:
        yield key
