"""On which line of a TOML text a key stands. tomli tells what a text says, but not where it says it.

Not a parser: it walks over a text that tomli has accepted and writes down where keys, array items and table headers
begin. Where it should lose its way it keeps what it found, and ``Lines.of`` answers with the nearest table around.
"""

import re
from bisect import bisect_right
from contextlib import suppress

import tomli

Key = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[^\s.=\[\]{}\"'#,]+")
# A closing triple may be preceded by one or two quotes that belong to the text: """a""""" ends with the last three.
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?!")' r"|'''.*?'''(?!')" r'|"(?:[^"\\\n]|\\.)*"' r"|'[^'\n]*'",
    re.DOTALL,
)
_OTHER_VALUE = re.compile(r"[^,\]}\n#]+")  # numbers, booleans, dates (which may hold a space)


class Lines:
    """The lines of all keys of one text."""

    def __init__(self, text: str) -> None:
        self._breaks = [match.start() for match in re.finditer("\n", text)]
        walk = _Walk(text)
        with suppress(_Lost, RecursionError):
            walk.document()
        self._offsets = walk.found

    def of(self, key: Key) -> int:
        """The line of this key, or of the innermost table around it that is known; counted from 1."""
        while key and key not in self._offsets:
            key = key[:-1]
        return self.at(self._offsets[key]) if key else 1

    def know(self, key: Key) -> bool:
        """Whether the key itself stands somewhere in the text."""
        return key in self._offsets

    def at(self, offset: int) -> int:
        """The line of a character."""
        return bisect_right(self._breaks, offset) + 1


class _Lost(Exception):
    """The text is not what it should be."""


def _decoded(raw: str) -> str:
    """A key without its quotes and escapes."""
    try:
        return next(iter(tomli.loads(f"{raw} = 0")))
    except tomli.TOMLDecodeError:
        raise _Lost from None


class _Walk:
    """One pass over the text. ``found`` maps a key to the offset at which it first stands by itself."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.offset = 0
        self.found: dict[Key, int] = {}
        self.counts: dict[Key, int] = {}  # arrays of tables: how many [[headers]] so far

    def document(self) -> None:
        table: Key = ()
        while self.peek_after(_BLANK):
            if self.text[self.offset] == "[":
                table = self.header()
            else:
                self.pair(table)

    def header(self) -> Key:
        """``[a.b]`` or ``[[a.b]]``: the table that the following pairs belong to."""
        start = self.offset
        is_array = self.text.startswith("[[", start)
        self.offset += 2 if is_array else 1
        parts = self.dotted()
        self.take("]]" if is_array else "]")
        key: Key = ()
        for part in parts[:-1]:
            key = self.last_of((*key, part))
            self.found.setdefault(key, start)
        key = (*key, parts[-1])
        if is_array:
            self.found.setdefault(key, start)
            self.counts[key] = self.counts.get(key, 0) + 1
            key = self.last_of(key)
        self.found[key] = start  # its own header says more than a header of a table inside it, that stood before
        return key

    def last_of(self, key: Key) -> Key:
        """For an array of tables its newest table, to which headers below refer."""
        return (*key, self.counts[key] - 1) if key in self.counts else key

    def pair(self, table: Key) -> None:
        start = self.offset
        key = table
        for part in self.dotted():
            key = (*key, part)
            self.found.setdefault(key, start)
        self.take("=")
        self.value(key)

    def dotted(self) -> list[str]:
        """``a . "b.c" . 'd'``: the parts, decoded."""
        parts = []
        while True:
            first = self.peek_after(_SPACE)
            if first in ('"', "'"):
                raw = self.match(_STRING)
                parts.append(_decoded(raw))
            else:
                parts.append(self.match(_BARE_KEY))
            if self.peek_after(_SPACE) != ".":
                return parts
            self.offset += 1

    def value(self, key: Key) -> None:
        first = self.peek_after(_SPACE)
        if first in ('"', "'"):
            self.match(_STRING)
        elif first == "[":
            self.array(key)
        elif first == "{":
            self.inline_table(key)
        else:
            self.match(_OTHER_VALUE)

    def array(self, key: Key) -> None:
        self.offset += 1
        index = 0
        while (first := self.peek_after(_BLANK)) != "]":
            if first == ",":
                self.offset += 1
                continue
            self.found[(*key, index)] = self.offset
            self.value((*key, index))
            index += 1
        self.offset += 1

    def inline_table(self, key: Key) -> None:
        self.offset += 1
        while (first := self.peek_after(_BLANK)) != "}":
            if first == ",":
                self.offset += 1
            else:
                self.pair(key)
        self.offset += 1

    def peek_after(self, skipped: re.Pattern[str]) -> str:
        """The next character after what may be skipped; "" at the end of the text."""
        match = skipped.match(self.text, self.offset)
        self.offset = match.end() if match else self.offset
        return self.text[self.offset : self.offset + 1]

    def match(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.offset)
        if match is None:
            raise _Lost
        self.offset = match.end()
        return match[0]

    def take(self, wanted: str) -> None:
        if self.peek_after(_SPACE) and self.text.startswith(wanted, self.offset):
            self.offset += len(wanted)
            return
        raise _Lost
