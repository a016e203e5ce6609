"""Of what a share is, in words beside it: "85%" of one thing is another amount than of another."""

from collections.abc import Iterator, Mapping
from typing import Final

from .locate import Key

_LIMIT, _SWAP = ("MemTotal", "its limit"), ("SwapTotal", "its swap limit")  # of the machine, of a cgroup
_OF: Final[Mapping[str, tuple[str, str]]] = {
    "available_below": ("MemTotal", "MemTotal"),
    "swap_free_below": ("SwapTotal", "SwapTotal"),
    "memory_above": _LIMIT,
    "swap_above": _SWAP,
    "growth_above": _LIMIT,
    "refaults_above": _LIMIT,
    "pressure_above": ("time", "time"),
    "pressure_rising": ("time", "time"),
    "set_high": _LIMIT,
    "set_max": _LIMIT,
    "set_swap_max": _SWAP,
    "reclaim": _LIMIT,
}
_ZRAM: Final = {"memory": "MemTotal", "disk": "disksize"}


def of(key: Key, value: object, *, machine: bool) -> str:
    """ "memory_above of its limit", of a table of ``when`` or an action of ``do``; "": there is no share in it.

    ``machine``: the guard's cgroup is "/". A limit is the smallest one on the way up, or the machine's memory.
    """
    if key[-2:-1] not in (("when",), ("do",)) or not isinstance(value, Mapping):
        return ""
    return ", ".join(f"{name} of {what}" for name, what in _told(value, machine))


def _told(table: Mapping[str, object], machine: bool) -> Iterator[tuple[str, str]]:
    for name, value in table.items():
        if name == "zram_above" and isinstance(value, Mapping):
            yield from ((name, _ZRAM[which]) for which, amount in value.items() if _is_share(amount))
        elif name in _OF and any(map(_is_share, _plain(value))):
            yield name, _OF[name][0 if machine else 1]


def _plain(value: object) -> Iterator[object]:
    if isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, list):
        yield from value
    else:
        yield value


def _is_share(value: object) -> bool:
    return isinstance(value, str) and value.removesuffix("/s").endswith("%")
