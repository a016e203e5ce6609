"""A guard's watermarks as lines in a picture: bytes that something must not fall under, or rise over."""

from collections.abc import Mapping
from typing import Any, Final

_PLAIN: Final = {"AvailableBelow", "MemoryAbove", "SwapFreeBelow"}
_OF_WHAT: Final = {"AvailableBelow": "available", "MemoryAbove": "used"}


def watermark(guard: Mapping[str, Any] | None, name: str, what: str, total_bytes: int) -> int | None:
    """The line of ``what`` ("available" or "used") at which the watermark "soft" or "hard" can hold; None: it has none.

    All conditions of a clause must hold, any clause is enough: so the stricter of a clause, and the nearer of all.
    """
    mark = (guard or {}).get(name)
    clauses = [clause["all_of"] for clause in mark["when"]] if mark else []
    plain = [clause for clause in clauses if {condition["kind"] for condition in clause} <= _PLAIN]
    lines: list[int] = []
    for clause in plain or clauses:  # one that waits for a stall as well is no line
        found = [_bytes(it["amount"], total_bytes) for it in clause if _OF_WHAT.get(it["kind"]) == what]
        if found:
            lines.append(min(found) if what == "available" else max(found))
    if not lines:
        return None
    return max(lines) if what == "available" else min(lines)


def _bytes(amount: Mapping[str, Any], total_bytes: int) -> int:
    return int(amount["bytes"] if amount["bytes"] is not None else total_bytes * (amount["share"] or 0.0))
