"""What memory has done lately: a few points of the past for each condition that asks, and what can be told from them.

A rate is the lowest of three: of the newest third of a window, the one before it and the one before that. One sample
that is off, a step, a pause or the end of growth each spoil at least one third, so none of them is taken for growth;
what remains is a lower bound of it, without a guess about the kind of noise.
"""

from typing import Final

from ..model.policy import EventsAbove, ExhaustsWithin, GrowthAbove, Guard, RefaultsAbove, Tracked

SECOND: Final = 1_000_000_000
STEPS: Final = 9  # points that are kept of a window: three for each third. Two windows are: some 2 KiB
THIRDS: Final = 3
LOOKS: Final = 6  # looks in a window while nothing holds: two for each third
# So much of the past is asked for a forecast: a quarter of what is foretold. The kernel's counters move in steps of
# tens of milliseconds (per-CPU batches): a third shorter than that would be noise alone.
EVIDENCE_SHARE: Final = 4
EVIDENCE_NS: Final = (450_000_000, 30 * SECOND)

Track = tuple[tuple[int, int], ...]  # (at_ns, value), the oldest first


def span(condition: Tracked) -> int:
    """How far back it looks, ns."""
    match condition:
        case ExhaustsWithin():
            return min(max(EVIDENCE_NS[0], condition.within_ns // EVIDENCE_SHARE), EVIDENCE_NS[1])
        case EventsAbove():
            return condition.per_ns
        case GrowthAbove() | RefaultsAbove():
            return condition.over_ns


def follow(track: Track, at_ns: int, value: int, span_ns: int) -> Track:
    """The track with one more point: always the newest, those before it a step apart, and one older than the window."""
    if len(track) > 1 and track[-1][0] - track[-2][0] < span_ns // STEPS:
        track = track[:-1]
    first = 0
    while first + 1 < len(track) and track[first + 1][0] <= at_ns - 2 * span_ns:
        first += 1
    return (*track[first:], (at_ns, value))


def rate(track: Track, span_ns: int) -> int:
    """By how much the value has surely grown in a second; 0: it has not, or too little is known.

    Where looks are further apart than a third, the thirds are as long as the looks are apart.
    """
    lowest, end = None, len(track) - 1
    for _ in range(THIRDS):
        begin = end - 1
        while begin >= 0 and track[end][0] - track[begin][0] < span_ns // THIRDS:
            begin -= 1
        if begin < 0:
            return 0
        grown = (track[end][1] - track[begin][1]) * SECOND // (track[end][0] - track[begin][0])
        lowest = grown if lowest is None else min(lowest, grown)
        end = begin
    return max(0, lowest or 0)


def last_rate(track: Track) -> int:
    """The same between the two newest points, whatever that is worth."""
    if len(track) < 2 or track[-1][0] <= track[-2][0]:
        return 0
    return max(0, (track[-1][1] - track[-2][1]) * SECOND // (track[-1][0] - track[-2][0]))


def gained(track: Track, span_ns: int) -> int:
    """By how much a counter has grown in the window, which begins with the look before it."""
    if not track:
        return 0
    begin = len(track) - 1
    while begin > 0 and track[begin][0] > track[-1][0] - span_ns:
        begin -= 1
    return track[-1][1] - track[begin][1]


# Which conditions of a guard need a track, by identity of the guard: this is asked in every turn, of every target.
_known: dict[int, tuple[Guard, tuple[Tracked, ...]]] = {}
_MOST: Final = 512


def tracked(guard: Guard) -> tuple[Tracked, ...]:
    """The conditions of this guard that need to know what was before."""
    known = _known.get(id(guard))
    if known is None or known[0] is not guard:
        if len(_known) >= _MOST:
            _known.clear()
        marks = (mark for mark in (guard.soft, guard.hard) if mark is not None)
        kinds = GrowthAbove | ExhaustsWithin | RefaultsAbove | EventsAbove
        found = tuple(c for mark in marks for clause in mark.when for c in clause.all_of if isinstance(c, kinds))
        known = _known[id(guard)] = (guard, found)
    return known[1]
