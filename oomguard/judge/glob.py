"""Globs for names and cgroup paths. ``*`` stops at "/", ``**`` does not, ``?`` is one character that is not "/".

Matching walks the text once and keeps the set of places in the pattern that are still possible: at most
len(pattern) x len(text) steps, whatever the pattern. Nothing here can backtrack.
"""

from functools import lru_cache

_ANY = 0  # "**"
_NAME = 1  # "*"
_ONE = 2  # "?"


@lru_cache(maxsize=512)
def _parse(pattern: str) -> tuple[int | str, ...]:
    parts: list[int | str] = []
    at = 0
    while at < len(pattern):
        if pattern.startswith("**", at):
            parts.append(_ANY)
            at += 2
        else:
            letter = pattern[at]
            parts.append(_NAME if letter == "*" else _ONE if letter == "?" else letter)
            at += 1
    return tuple(parts)


@lru_cache(maxsize=512)
def _plain_prefix(pattern: str) -> str:
    return pattern[: min((pattern.find(c) for c in "*?" if c in pattern), default=len(pattern))]


def matches(pattern: str, text: str) -> bool:
    """Whether the whole text is described by the pattern."""
    prefix = _plain_prefix(pattern)
    if not text.startswith(prefix):
        return False
    if len(prefix) == len(pattern):
        return len(text) == len(prefix)
    tail = pattern[len(prefix) + 1 :]
    if pattern[len(prefix)] == "*" and "*" not in tail and "?" not in tail:  # as most are: one star and no more
        end = len(text) - len(tail)
        return end >= len(prefix) and text.endswith(tail) and text.find("/", len(prefix), end) < 0
    parts = _parse(pattern)
    places = _closure({0}, parts)
    for letter in text:
        places = _closure(set(_step(places, parts, letter)), parts)
        if not places:
            return False
    return len(parts) in places


def _step(places: set[int], parts: tuple[int | str, ...], letter: str) -> list[int]:
    onward = []
    for place in places:
        if place == len(parts):
            continue
        part = parts[place]
        if part == _ANY or (part == _NAME and letter != "/"):
            onward.append(place)
        elif part == letter or (part == _ONE and letter != "/"):
            onward.append(place + 1)
    return onward


def _closure(places: set[int], parts: tuple[int | str, ...]) -> set[int]:
    """Stars may match nothing: from a star its successor is possible too."""
    whole = set(places)
    for place in places:
        after = place
        while after < len(parts) and parts[after] in (_ANY, _NAME):
            after += 1
            if after in whole:
                break  # its own successors are there, or come when it is looked at
            whole.add(after)
    return whole


def is_inside(path: str, root: str) -> bool:
    """Whether path is root or below it."""
    return root in ("/", path) or path.startswith(root + "/")
