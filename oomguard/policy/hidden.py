"""What stands in a policy and decides nothing, since something before it has decided: tables of ``when``, and matches.

Only what is sure: a pattern is tried with every kind of name that the other one describes, and must match them all.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import product

from ..model.policy import Guard, Match, Watermark
from . import compare, spoken, toml
from .locate import Key

Matches = Callable[[str, str], bool]

# What may stand where a pattern has a star: nothing, a little, more. No pattern has these letters itself.
_STANDINS = {"**": ("", "\x01", "\x01\x02", "\x01/\x02", "/"), "*": ("", "\x01", "\x01\x02"), "?": ("\x01",)}
_MOST = 200  # texts a pattern is tried with; one with more stars is left alone


def rules(guard: Guard, matches: Matches) -> Iterator[tuple[Key, str, str]]:
    """(where it stands, what it is, hint)."""
    for name, mark in (("soft", guard.soft), ("hard", guard.hard)):
        if mark is not None:
            yield from _clauses(name, mark)
    victim = guard.victim
    yield from _matches(("never", victim.never), (), matches)
    yield from _matches(("avoid", victim.avoid), (("never", victim.never),), matches)
    yield from _matches(("prefer", victim.prefer), (("never", victim.never), ("avoid", victim.avoid)), matches)


def _clauses(name: str, mark: Watermark) -> Iterator[tuple[Key, str, str]]:
    for index, clause in enumerate(mark.when):
        for other, wider in enumerate(mark.when):
            same = compare.implies(wider, clause)
            if other != index and compare.implies(clause, wider) and (not same or other < index):
                message = f"decides nothing: when[{other}] holds whenever this does"
                yield (name, "when", index), message, "one table is enough; write what both need into one"
                break


def _matches(
    these: tuple[str, Sequence[Match]], before: Sequence[tuple[str, Sequence[Match]]], matches: Matches
) -> Iterator[tuple[Key, str, str]]:
    name, own = these
    for index, match in enumerate(own):
        wider = next(
            (
                f"{where}[{number}]"
                for where, others in (*before, (name, own[:index]))
                for number, other in enumerate(others)
                if covers(other, match, matches)
            ),
            "",
        )
        if wider:
            said = toml.inline(spoken.match(match))
            yield ("victim", name, index), f"{said} decides nothing: {wider} matches all that it does", ""


def covers(wide: Match, narrow: Match, matches: Matches) -> bool:
    """Whether the one surely matches whatever the other does."""
    said = spoken.match(narrow)
    for key, pattern in spoken.match(wide).items():
        other = said.get(key)
        if not isinstance(pattern, str) or not isinstance(other, str):
            if pattern != other:
                return False
        elif not _covers(key, pattern, other, matches):
            return False
    return True


def _covers(key: str, wide: str, narrow: str, matches: Matches) -> bool:
    if wide == narrow:
        return True
    if key == "comm":  # there a star is any text
        wide, narrow = wide.replace("*", "**"), narrow.replace("*", "**")
    texts = _texts(narrow)
    return bool(texts) and all(any(matches(wide, way) for way in _ways(key, text)) for text in texts)


def _ways(key: str, text: str) -> Iterator[str]:
    """What is said of a cgroup holds for what is inside of it."""
    yield text
    while key == "cgroup" and text not in ("", "/"):
        text = text.rpartition("/")[0] or "/"
        yield text


def _texts(pattern: str) -> list[str]:
    """Names that the pattern describes, of every kind; none: there would be too many."""
    parts: list[tuple[str, ...]] = []
    at = 0
    while at < len(pattern):
        sign = next((sign for sign in _STANDINS if pattern.startswith(sign, at)), "")
        parts.append(_STANDINS.get(sign, (pattern[at],)))
        at += len(sign) or 1
    count = 1
    for part in parts:
        count *= len(part)
    return ["".join(text) for text in product(*parts)] if count <= _MOST else []
