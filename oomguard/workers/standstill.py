"""Who has stood still for a minute, by the kernel's own averages, and no guard could act. It reads, and writes nothing.

In calm this is one small read in half a minute: what stalls in a cgroup stalls in its ancestors, the machine among them
("some" above is at least "some" or "full" below), so where the machine's "some" is low there is nothing to look for.
Only then the guarded cgroups are read, and the tree is walked for those that no guard watches.
"""

import os
import re
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final, NamedTuple

from ..model.facts import TargetId
from ..model.policy import SHADOW
from .aftercare import read
from .words import covers

# "Full" is the share of time in which nothing at all could run for want of memory. systemd-oomd ends somebody at 60 %
# of ten seconds; a machine that loses a third of a minute is one that nobody can work on.
BOUND: Final = 33.0
# The averages of two files are not of the same instant: each is renewed every two seconds, when it is looked at.
_SLACK: Final = 0.9
GUARDED_MAX: Final = 64
READS_MAX: Final = 256  # of one walk, some 20 us each
NAMED_MAX: Final = 3
_AT_LIMIT: Final = 0.9  # who is throttled hovers about memory.high, and falls back from memory.max
ACTED_NS: Final = 60_000_000_000
LONGEST_NS: Final = 600_000_000_000
# What no guard watches is told once an hour: a service that its owner throttles for good is no news.
UNWATCHED_AGAIN_NS: Final = 3_600_000_000_000
_UNWATCHED_MAX: Final = 64
_AVG60: Final = re.compile(rb"some avg10=[0-9.]+ avg60=([0-9.]+).*\nfull avg10=[0-9.]+ avg60=([0-9.]+)")


class Minute(NamedTuple):
    """Percent of the last minute: some task waited for memory, all of them did."""

    some: float
    full: float


class Still(NamedTuple):
    """A cgroup that has stood still; ``held``: by a limit of its own, at which it is."""

    cgroup: str
    full: float
    held: bool = False


class News(NamedTuple):
    """One of them stands still, or does not any more (``over``: how it ended)."""

    target: TargetId  # without a guard where none watches the cgroup itself
    nearest: TargetId | None  # the innermost target that it is in
    text: str
    over: str = ""


class Watch:
    """What the turns tell of every target, and with it who stands still while nobody acts."""

    def __init__(self, proc: str, root: str) -> None:
        self._proc, self._root = proc, root
        self.phases: dict[TargetId, str] = {}
        self.refused: dict[TargetId, tuple[str, str]] = {}  # the last message that nobody could be taken, and its text
        self._acted_ns: dict[TargetId, int] = {}
        self._lasting: set[TargetId] = set()  # for longer than an incident is: not told again until it eases
        self._unwatched: dict[str, int] = {}  # when it was told of a cgroup that no guard watches

    def follow(self, plain: Mapping[str, Any]) -> None:
        """One turn in its plain form. A shadow guards nothing."""
        for guard, cgroup, phase in plain["phases"]:
            if not guard.startswith(SHADOW):
                self.phases[TargetId(guard, cgroup)] = phase
        for gone in plain["seen"]["vanished"]:
            target = TargetId(gone["guard"], gone["cgroup"])
            self.phases.pop(target, None)
            self.refused.pop(target, None)
            self._acted_ns.pop(target, None)
            self._lasting.discard(target)
        for action in plain["actions"]:
            if action["kind"] in ("Kill", "Notify"):
                target = TargetId(action["target"]["guard"], action["target"]["cgroup"])
                if action["kind"] == "Kill":
                    self._acted_ns[target] = plain["seen"]["at_ns"]
                elif action["message"] in ("NO_VICTIM", "BUDGET_SPENT", "CALM"):
                    self.refused[target] = (action["message"], action["text"])

    def look(self, now_ns: int, begun: Mapping[TargetId, int]) -> Iterator[News]:
        """``begun``: of which it was told that they stand still, and when."""
        machine = minute(f"{self._proc}/pressure/memory")
        still: list[Still] = []
        targets = dict.fromkeys(begun)
        if machine is None:  # told of cgroups at most: a container may have none of its own
            targets |= dict.fromkeys(self.phases)
        elif machine.some >= BOUND * _SLACK:
            still = worst(self._root)
            targets |= dict.fromkeys(self.phases)
        else:
            self._lasting.clear()
        # On an idle machine one service at its own limit makes all of it "full": nobody else wants to run.
        theirs = bool(still) and all(it.held for it in still)
        target = next((target for target in targets if target.cgroup == "/"), TargetId("", "/"))
        if machine is not None and (target in begun or not theirs):
            also = ", ".join(f"{it.cgroup} ({it.full:.0f} %)" for it in still)
            yield from self._told(target, machine.full, now_ns, begun, f"; most of all {also}" if also else "")
        targets = {target: None for target in targets if target.cgroup != "/"}
        for target in list(targets)[:GUARDED_MAX]:
            told = minute(f"{self._root}{target.cgroup}/memory.pressure")
            yield from self._told(target, told.full if told is not None else 0.0, now_ns, begun)
        known = {target.cgroup for target in targets}
        if machine is None or machine.full < BOUND or theirs:  # else it is the machine, and they were named with it
            for it in still:
                if it.cgroup not in known:
                    yield from self._told(TargetId("", it.cgroup), it.full, now_ns, begun)

    def _told(
        self, target: TargetId, full: float, now_ns: int, begun: Mapping[TargetId, int], also: str = ""
    ) -> Iterator[News]:
        nearest = None if target.guard else self._nearest(target.cgroup)
        if full < BOUND / 2:
            self._lasting.discard(target)
            if target in begun:
                yield News(target, nearest, "", "the pressure has eased")
        elif target in begun:
            if now_ns - begun[target] > LONGEST_NS:
                self._lasting.add(target)
                yield News(target, nearest, "", "it goes on; these were its first ten minutes")
        elif full >= BOUND and not self._is_known(target, nearest, now_ns):
            who = "the machine" if target.cgroup == "/" else target.cgroup
            yield News(target, nearest, f"{who} stood still for {full:.0f} % of a minute (PSI full){also}")

    def _nearest(self, path: str) -> TargetId | None:
        covering = [target for target in self.phases if covers(target.cgroup, path)]
        return max(covering, key=lambda target: len(target.cgroup), default=None)

    def _is_known(self, target: TargetId, nearest: TargetId | None, now_ns: int) -> bool:
        """Whether it was told of already, or a guard has ended somebody there within the minute."""
        acted = [self._acted_ns[it] for it in (target, nearest) if it in self._acted_ns]
        if target in self._lasting or any(now_ns - at_ns < ACTED_NS for at_ns in acted):
            return True
        if target.guard or target.cgroup == "/":
            return False
        told_ns = self._unwatched.get(target.cgroup)
        if told_ns is not None and now_ns - told_ns < UNWATCHED_AGAIN_NS:
            return True
        if len(self._unwatched) >= _UNWATCHED_MAX:
            del self._unwatched[min(self._unwatched, key=self._unwatched.__getitem__)]
        self._unwatched[target.cgroup] = now_ns
        return False


def minute(path: str) -> Minute | None:
    """A pressure file; None: it is not there."""
    found = _AVG60.search(read(path))
    return Minute(float(found[1]), float(found[2])) if found else None


def worst(root: str) -> list[Still]:
    """Which cgroups of the tree have stood still, the longest first, from one bounded walk.

    Of a cgroup and those in it one is named: the one at whose limit they are, or else the innermost.
    """
    still = _walk(root)
    inner = [path for path in still if not any(other.startswith(path + "/") for other in still)]
    named = dict.fromkeys(_owner(root, path, still) for path in inner)
    found = [Still(path, still[path], held) for path, held in named]
    return sorted(found, key=lambda it: (-it.full, it.cgroup))[:NAMED_MAX]


def _walk(root: str) -> dict[str, float]:
    """Every cgroup that was "full" for so long; nothing below a calm "some" is looked at."""
    found: dict[str, float] = {}
    reads, queue = 0, deque([""])
    while queue and reads < READS_MAX:
        above = queue.popleft()
        for name in _children(root + above, READS_MAX - reads):
            reads += 1
            told = minute(f"{root}{above}/{name}/memory.pressure")
            if told is not None and told.some >= BOUND * _SLACK:
                queue.append(f"{above}/{name}")
                if told.full >= BOUND:
                    found[f"{above}/{name}"] = told.full
    return found


def _children(path: str, most: int) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return list(islice((entry.name for entry in entries if entry.is_dir(follow_symlinks=False)), most))
    except OSError:
        return []


def _owner(root: str, path: str, still: dict[str, float]) -> tuple[str, bool]:
    """The innermost one of the way up, as far as it stood still, that is at a limit of its own; else ``path``."""
    at = path
    while at in still:
        values = [read(f"{root}{at}/{file}").strip() for file in ("memory.max", "memory.high")]
        limits = [int(value) for value in values if value.isdigit()]
        current = read(f"{root}{at}/memory.current").strip()
        if limits and current.isdigit() and int(current) >= min(limits) * _AT_LIMIT:
            return at, True
        at = at.rpartition("/")[0]
    return path, False
