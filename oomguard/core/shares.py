"""Who has how much, for the record alone: the minutes before an incident are only worth keeping if somebody is named.

Nobody is judged by this. Once a second the guarded cgroups, one small read each. While memory comes or goes every
second, else every two minutes, what these lie in, and the largest of the whole tree, for which it is walked as far down
as there is much: at most so often that it takes one 2000th of the time, or one 10,000th while nothing comes or goes.
"""

import time
from collections.abc import Callable, Iterable
from typing import Final

from ..linux.cgroup2 import Cgroup, walk
from ..model.facts import MemInfo, Share

EVERY_NS: Final = 1_000_000_000
STILL_NS: Final = 120_000_000_000  # while MemAvailable stands where it stood; the minutes hold at least so much
MOVED_SHARE: Final = 256  # of all memory; less is nobody's growth
WALK_SHARE: Final = (2000, 10_000)  # of the time, while memory comes or goes, and while it stands still
LARGEST: Final = 32
WATCHED: Final = 32  # a glob may cover a thousand; the largest of them are found by the walk
PRUNE_SHARE: Final = 512  # of all memory; what has less is told, but not descended into
_KEPT: Final = 256


class Shares:
    """See the module."""

    __slots__ = (
        *("_available", "_broken", "_found", "_guarded", "_root", "_took_ns", "_walked_ns"),
        *("next_ns", "walk_ns"),
    )

    def __init__(self, root: str | None, broken: Callable[[OSError], None]) -> None:
        self._root, self._broken = root, broken
        self._guarded: list[str] = []
        self._found: list[Share] = []
        self.next_ns = self.walk_ns = 0  # when the next look and the next walk are due
        self._walked_ns = self._available = 0
        self._took_ns = 0  # the last walk

    def look(self, at_ns: int, groups: Iterable[Cgroup]) -> tuple[Share, ...]:
        """The guarded cgroups as they are now, and what the last walk has found, once."""
        self.next_ns = at_ns + EVERY_NS
        found: list[Share] = []
        self._guarded = []
        for group, _ in zip(groups, range(WATCHED), strict=False):
            self._guarded.append(group.path)
            try:
                current = group.current()
            except OSError:
                continue  # whoever judges by it says so
            if current is not None:
                found.append(Share(group.path, current))
        known = {share.cgroup for share in found}
        found += [share for share in self._found if share.cgroup not in known]
        self._found = []
        return tuple(found)

    def walk(self, at_ns: int, host: MemInfo) -> None:
        """Through the whole tree, for the next look, if it may show anything that the last one did not."""
        self.walk_ns = at_ns + EVERY_NS
        moved = abs(host.available_bytes - self._available) > host.total_bytes // MOVED_SHARE
        least_ns, share = (EVERY_NS, WALK_SHARE[0]) if moved else (STILL_NS, WALK_SHARE[1])
        wait_ns = max(least_ns, share * self._took_ns)
        if self._root is None or (self._walked_ns and at_ns - self._walked_ns < wait_ns):
            return
        self._walked_ns, self._available = at_ns, host.available_bytes
        began = time.monotonic_ns()
        self._found = self._largest(self._root, host.total_bytes)
        known = {share.cgroup for share in self._found}
        above = dict.fromkeys(path for guarded in self._guarded for path in _ancestors(guarded) if path not in known)
        self._found[:0] = [Share(path, self._current(self._root, path)) for path in list(above)[:WATCHED]]
        self._took_ns = time.monotonic_ns() - began

    def _current(self, root: str, path: str) -> int:
        try:
            group = Cgroup.open(root, path)
            if group is None:
                return 0
            try:
                return group.current() or 0
            finally:
                group.close()
        except OSError as error:
            self._broken(error)
            return 0

    def _largest(self, root: str, total_bytes: int) -> list[Share]:
        found: list[Share] = []
        try:
            for path, _, current in walk(root, "/", total_bytes // PRUNE_SHARE):
                found.append(Share(path, current))
                if len(found) > _KEPT:
                    found = _first(found)
        except OSError as error:
            self._broken(error)
        return _first(found)


def _ancestors(path: str) -> list[str]:
    """Up to the root, which is the machine."""
    found = []
    while path := path.rpartition("/")[0]:
        found.append(path)
    return found


def _first(shares: list[Share]) -> list[Share]:
    return sorted(shares, key=lambda share: (-share.current_bytes, share.cgroup))[:LARGEST]
