"""Whom the tables of a rule describe: by name, place, owner, score and age. Nothing here can backtrack.

What a process is called can be borrowed by whoever starts processes; whose it is (``uid``) cannot.
"""

from collections.abc import Iterable
from typing import Final

from ..model.facts import ProcessFacts
from ..model.policy import Expression, Match, Pattern
from .glob import matches

TICK_NS: Final = 10_000_000  # USER_HZ is 100 on every architecture that has cgroup v2
_UNITS: Final = (".service", ".scope")


def unit_path(path: str) -> str:
    """The cgroup of the innermost service or scope on the way, else the cgroup itself."""
    parts = path.split("/")
    for end in range(len(parts), 0, -1):
        if parts[end - 1].endswith(_UNITS):
            return "/".join(parts[:end])
    return path


def unit_name(path: str) -> str:
    """The last part of the unit's path: "web-1.service"."""
    return unit_path(path).rpartition("/")[2]


def way_up(path: str) -> Iterable[str]:
    """The cgroup and those around it: what is said of a container holds for what it makes inside of itself."""
    yield path
    while path not in ("", "/"):
        path = path.rpartition("/")[0] or "/"
        yield path


def describes(
    match: Match, cgroup: str, process: ProcessFacts | None = None, now_ticks: int = 0, unknown: bool = False
) -> bool:
    """Whether the match describes this process, or (None) this cgroup as a whole.

    ``unknown``: the answer where all else fits and something cannot be told: a rule that spares must spare then.
    """
    if process is None:
        if _of_processes(match):
            return False
    elif not _fits(match, process):
        return False
    if match.unit is not None and not _is(match.unit, unit_name(cgroup)):
        return False
    if match.cgroup is not None and not any(_is(match.cgroup, path) for path in way_up(cgroup)):
        return False
    if process is None:
        return True
    if (match.exe is not None and process.exe is None) or (_asks_age(match) and not now_ticks):
        return unknown
    return _fits_exe(match, process) and _fits_age(match, process, now_ticks)


def _is(pattern: Pattern, text: str) -> bool:
    return matches(pattern, text) if isinstance(pattern, str) else pattern.describes(text)


def of_name(pattern: Pattern, comm: str) -> bool:
    """A comm may hold slashes ("kworker/0:1"), which mean nothing in it: there a star is any text."""
    return _is(pattern.replace("*", "**") if isinstance(pattern, str) else pattern, comm)


def _of_processes(match: Match) -> bool:
    named = (match.comm, match.exe, match.uid, match.oom_score_adj)
    return any(key is not None for key in named) or _asks_age(match)


def _asks_age(match: Match) -> bool:
    return bool(match.older_ns or match.younger_ns)


def _fits(match: Match, process: ProcessFacts) -> bool:
    if match.comm is not None and not of_name(match.comm, process.comm):
        return False
    if match.uid is not None and not match.uid[0] <= process.uid <= match.uid[1]:
        return False
    adj = match.oom_score_adj
    return adj is None or adj[0] <= process.oom_score_adj <= adj[1]


def _fits_exe(match: Match, process: ProcessFacts) -> bool:
    return match.exe is None or (process.exe is not None and _is(match.exe, process.exe))


def _fits_age(match: Match, process: ProcessFacts, now_ticks: int) -> bool:
    if not _asks_age(match):
        return True
    age_ns = (now_ticks - process.start_ticks) * TICK_NS
    return age_ns >= match.older_ns and (not match.younger_ns or age_ns < match.younger_ns)


# Answers of ``first``, per list of rules: a survey asks the same of every worker of a service, again every 100 ms, and
# the shipped policy has a hundred rules. Kept by identity of the list (held here, so that no other can have its id).
_Key = tuple[object, ...]
_memos: dict[int, tuple[tuple[Match, ...], dict[_Key, Match | None], bool, bool]] = {}
_MEMO: Final = 4096  # answers a list; hostile comms must not grow it for ever
_MEMOS: Final = 512  # lists: three a guard


def first(
    rules: tuple[Match, ...],
    cgroup: str,
    process: ProcessFacts | None = None,
    now_ticks: int = 0,
    unknown: bool = False,
) -> Match | None:
    """The first of them that describes it, as ``describes`` does."""
    if not rules:
        return None
    known = _memos.get(id(rules))
    if known is None or known[0] is not rules:
        if len(_memos) >= _MEMOS:
            _memos.clear()
        more = any(m.uid or m.exe is not None or m.oom_score_adj is not None for m in rules)
        known = _memos[id(rules)] = (rules, {}, more, any(_asks_age(m) for m in rules))
    _, memo, more, aged = known
    if aged and process is not None:
        return next((match for match in rules if describes(match, cgroup, process, now_ticks, unknown)), None)
    key: _Key = (process.comm if process is not None else None, cgroup, unknown)
    if more and process is not None:
        key = (*key, process.uid, process.exe, process.oom_score_adj)
    if key not in memo:
        if len(memo) >= _MEMO:
            memo.clear()
        memo[key] = next((match for match in rules if describes(match, cgroup, process, now_ticks, unknown)), None)
    return memo[key]


def say(match: Match) -> str:
    """The table as people wrote it, nearly."""
    given: list[tuple[str, object]] = [("comm", match.comm), ("exe", match.exe), ("unit", match.unit)]
    given += [("cgroup", match.cgroup), ("uid", _span(match.uid)), ("oom_score_adj", _span(match.oom_score_adj))]
    given += [("older_than", _age(match.older_ns)), ("younger_than", _age(match.younger_ns))]
    return ", ".join(f"{name} = {_quoted(value)}" for name, value in given if value is not None)


def _quoted(value: object) -> str:
    return f'{{ re = "{value.text}" }}' if isinstance(value, Expression) else f'"{value}"'


def _span(bounds: tuple[int, int] | None) -> str | None:
    if bounds is None:
        return None
    return str(bounds[0]) if bounds[0] == bounds[1] else f"{bounds[0]}..{bounds[1]}"


def _age(ns: int) -> str | None:
    return f"{ns / 1_000_000_000:g}s" if ns else None
