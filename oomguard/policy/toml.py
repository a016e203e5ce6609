"""Values as TOML text, a line for everything that has a place of its own. tomli reads and does not write."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .locate import Key

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SHORT = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r", '"': '\\"', "\\": "\\\\"}
_WIDTH = 40  # remarks stand in one column, where what they are about leaves room for it

Remark = Callable[[Key, object], str]  # what is to be said beside a key with this value, "": nothing


def document(tables: Mapping[str, Any], remark: Remark = lambda _key, _value: "") -> str:
    """``tables`` to TOML: plain values first, then the tables below; lists of tables an item a line."""
    return "\n".join(_table((), tables, remark)).strip("\n") + "\n"


def _table(key: Key, table: Mapping[str, Any], remark: Remark) -> Iterator[str]:
    plain = {word: value for word, value in table.items() if not _is_section((*key, word), value)}
    if key and (plain or not table):
        yield ""
        yield _beside("[" + ".".join(name(part) for part in key) + "]", remark(key, None))
    for word, value in plain.items():
        yield from _pair((*key, word), word, value, remark)
    for word, value in table.items():
        if word not in plain:
            yield from _table((*key, word), value, remark)


def _is_section(key: Key, value: object) -> bool:
    """``[policy.host.soft]`` has a header of its own, ``budget = { ... }`` has not."""
    if not isinstance(value, Mapping):
        return False
    return len(key) <= 2 or any(isinstance(inner, list | Mapping) for inner in value.values())


def _pair(key: Key, word: str, value: object, remark: Remark) -> Iterator[str]:
    if isinstance(value, list) and value and (isinstance(value[0], Mapping) or len(value) > 1):
        yield _beside(f"{name(word)} = [", remark(key, None))
        for index, item in enumerate(value):
            yield _beside(f"  {inline(item)},", remark((*key, index), item))
        yield "]"
        return
    yield _beside(f"{name(word)} = {inline(value)}", remark(key, value))


def _beside(text: str, remark: str) -> str:
    return f"{text.ljust(_WIDTH)}  # {remark}" if remark else text


def name(word: object) -> str:
    """A key, bare where it may be."""
    text = str(word)
    return text if _BARE.fullmatch(text) else quoted(text)


def inline(value: object) -> str:
    """A value on one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{name(key)} = {inline(inner)}" for key, inner in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    return quoted(value) if isinstance(value, str) else str(value)


def quoted(text: str) -> str:
    """A string, with everything escaped that TOML refuses, and what would move a cursor."""
    return '"' + "".join(_SHORT.get(c) or (c if c.isprintable() else f"\\U{ord(c):08x}") for c in text) + '"'
