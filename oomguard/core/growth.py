"""Who has grown lately, for the status page: of what was read anyway, for the record and for surveys. Reads nothing."""

from collections.abc import Iterable
from typing import Final

from ..model.facts import Observation
from ..model.statuslayout import GROWTH

SPAN_NS: Final = 5_000_000_000  # growth is told over so long at least, twice as long at most: memory comes in steps
FORGOTTEN_NS: Final = 300_000_000_000  # a walk of a large tree is made in minutes
SURVEYED: Final = 16  # of a survey, which is ordered by weight

# Of a cgroup: what it has and when, what it had and when that is told from, and the last that was put by for that.
_Seen = tuple[int, int, int, int, int, int]


class Growth:
    """See the module. ``known`` is by cgroup, and no longer than the page has room."""

    __slots__ = ("known",)

    def __init__(self) -> None:
        self.known: dict[str, _Seen] = {}

    def take(self, seen: Observation) -> bool:
        """Whether there was anything in it."""
        at_ns, known = seen.at_ns, self.known
        for target in seen.vanished:
            known.pop(target.cgroup, None)
        for share in seen.shares:
            known[share.cgroup] = _after(known.get(share.cgroup), share.current_bytes, at_ns)
        for survey in seen.surveys:
            for facts in survey.cgroups[:SURVEYED]:
                known[facts.path] = _after(known.get(facts.path), facts.current_bytes, at_ns)
        if len(known) > GROWTH.room:
            self.known = dict(_first(known.items(), at_ns))
        return bool(seen.shares or seen.surveys or seen.vanished)


def _after(before: _Seen | None, now_bytes: int, at_ns: int) -> _Seen:
    if before is None:
        return now_bytes, at_ns, now_bytes, at_ns, now_bytes, at_ns
    _, _, was_bytes, was_ns, kept_bytes, kept_ns = before
    if at_ns - kept_ns < SPAN_NS:
        return now_bytes, at_ns, was_bytes, was_ns, kept_bytes, kept_ns
    return now_bytes, at_ns, kept_bytes, kept_ns, now_bytes, at_ns


def _first(known: Iterable[tuple[str, _Seen]], at_ns: int) -> list[tuple[str, _Seen]]:
    """As many as there is room for: of those seen lately who has most, ten times what it gained counted with it."""
    fresh = [item for item in known if at_ns - item[1][1] < FORGOTTEN_NS]
    fresh.sort(key=lambda item: -item[1][0] - 10 * max(0, item[1][0] - item[1][2]))
    return fresh[: GROWTH.room]
