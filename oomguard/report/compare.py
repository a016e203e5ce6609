"""Two incidents beside each other: is it the same again, and what is other?"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from . import series
from .words import duration, size

_NOISE = 16 << 20  # bytes of one name that are no news


@dataclass(frozen=True, slots=True)
class Row:
    """One thing in both, in words. ``telling``: where it differs, it is not the same trouble again."""

    what: str
    one: str
    other: str
    telling: bool = False

    @property
    def differs(self) -> bool:
        """Whether it is not the same in both."""
        return self.one != self.other

    def plain(self) -> dict[str, object]:
        """For programs."""
        return {"what": self.what, "one": self.one, "other": self.other, "differs": self.differs}


def rows(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[Row]:
    """What happened, and how; then the policy where it differs; then who held more or less."""
    found = [Row(what, tell(one), tell(other), telling) for what, tell, telling in _TOLD]
    return [*found, *_policy(one["guard"] or {}, other["guard"] or {}), *_holders(one, other)]


def _victims(it: Mapping[str, Any]) -> str:
    names = sorted({victim["comm"] for victim in it["victims"]})
    return ", ".join(names[:4]) + (" ..." if len(names) > 4 else "") or "nobody"


def _least(it: Mapping[str, Any]) -> str:
    points = series.host(it, "available_bytes")
    return size(int(min(value for _, value in points))) if points else "?"


def _took(it: Mapping[str, Any]) -> str:
    entries = [entry["at_ms"] for entry in it["timeline"]]
    return duration(max(entries)) if entries else "?"


def _rate(it: Mapping[str, Any]) -> str:
    pids = {victim["pid"] for victim in it["victims"]}
    for growth in series.growths(it):
        if growth.pid in pids and growth.seconds > 0:
            return f"{size(int(growth.bytes / growth.seconds))}/s"
    return "?"


_TOLD = (
    ("time", lambda it: str(it["time"]), False),
    ("host", lambda it: str(it["hostname"]), False),
    ("kernel", lambda it: str(it.get("kernel", "")), False),
    ("version", lambda it: str(it["version"]), False),
    ("policy", lambda it: str(it["policy"] or "none"), True),
    ("cgroup", lambda it: str(it["cgroup"]), True),
    ("mode", lambda it: str(it["mode"]), True),
    ("kind", lambda it: str(it["kind"]), True),
    ("killed by", lambda it: str(it["killed_by"]), True),
    ("victims", _victims, True),
    ("victim grew by", _rate, False),
    ("least available", _least, False),
    ("line to signal", lambda it: duration(it["latency_ms"]), False),
    ("signal to end", lambda it: duration(it["gone_ms"]), False),
    ("freed", lambda it: size(it["freed_bytes"]), False),
    ("kills", lambda it: str(len(it["kills"])), False),
    ("kernel kills", lambda it: str(len(it["kernel_kills"])), False),
    ("from first to last", _took, False),
    ("outcome", lambda it: str(it["outcome"] or it["ended"]), False),
)


def _policy(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[Row]:
    for key in dict.fromkeys([*one, *other]):
        if key not in ("kind", "origin", "name", "cgroup", "mode") and one.get(key) != other.get(key):
            yield Row(f"policy: {key}", _short(one.get(key)), _short(other.get(key)))


def _short(value: Any) -> str:
    """A value of the compiled policy without the words of the format."""
    if isinstance(value, Mapping):
        inner = ", ".join(f"{key}={_short(item)}" for key, item in value.items() if key != "kind" and item is not None)
        return f"{value.get('kind', '')}({inner})"
    if isinstance(value, list):
        return "[" + ", ".join(map(_short, value)) + "]"
    return str(value)


def _holders(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[Row]:
    sums = [_by_name(it) for it in (one, other)]
    names = sorted({*sums[0], *sums[1]}, key=lambda name: -abs(sums[0].get(name, 0) - sums[1].get(name, 0)))
    for name in names[:8]:
        before, after = sums[0].get(name, 0), sums[1].get(name, 0)
        if abs(before - after) >= _NOISE:
            yield Row(f"held by {name}", size(before), size(after))


def _by_name(it: Mapping[str, Any]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for row in series.processes(it):
        sums[row["comm"]] = sums.get(row["comm"], 0) + int(row["held_bytes"])
    return sums
