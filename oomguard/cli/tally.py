"""Incidents counted, each once, for as long as the exporter lives: what the status page has no room for.

A counter must not fall when old incidents are removed, so what was counted stays counted. Read only.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ..report import store

KINDS: Final = ("soft", "hard", "kernel", "stall")
OUTCOMES: Final = ("gone", "stuck", "failed", "held")
VERDICTS: Final = ("helped", "did_not_help", "kernel_killed", "unable")
# A kill takes a millisecond on a real machine and ten on an emulated one; the end of a victim up to ten seconds, after
# which it is called stuck.
BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
MOST_POLICIES: Final = 32  # each is forty time series; those of years of changed policies must not add up
OTHERS: Final = "(others)"
NOBODY: Final = "(none)"  # no guard covers where the kernel struck
LOOKS: Final = 3  # 1, 10 and 60 s after the last act
SETTLED_S: Final = 120  # by then they were made, or never will be


@dataclass(slots=True)
class Spread:
    """A histogram: how many took no longer than each of the bounds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_S) + 1))
    sum_s: float = 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        self.counts[sum(bound < seconds for bound in BOUNDS_S)] += 1
        self.sum_s += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """(le, count), cumulative, as Prometheus has them."""
        names = (*map(str, BOUNDS_S), "+Inf")
        return [(name, float(sum(self.counts[: index + 1]))) for index, name in enumerate(names)]


@dataclass(slots=True)
class Tally:
    """The counts. Keys are the values of a metric's labels, in their order; the first of them is the policy."""

    incidents: dict[tuple[str, ...], float] = field(default_factory=dict)
    kills: dict[tuple[str, ...], float] = field(default_factory=dict)
    verdicts: dict[tuple[str, ...], float] = field(default_factory=dict)
    freed_bytes: dict[tuple[str, ...], float] = field(default_factory=dict)
    latency: dict[tuple[str, ...], Spread] = field(default_factory=dict)
    end: dict[tuple[str, ...], Spread] = field(default_factory=dict)
    policies: set[str] = field(default_factory=set)
    others: set[str] = field(default_factory=set)
    _acts: set[str] = field(default_factory=set)  # ids of which all but the verdict is counted
    _whole: set[str] = field(default_factory=set)

    def expect(self, policies: Iterable[str]) -> None:
        """Begin at zero for these: a time series that begins at one has, for Prometheus, never risen."""
        for policy in policies:
            self._name(policy)

    def look(self, state_dir: Path) -> bool:
        """Count what is new. False: it may not be read."""
        try:
            there = set(store.ids(state_dir))
        except OSError:
            return False
        self._acts &= there
        self._whole &= there
        for name in sorted(there - self._whole):
            self._count(state_dir, name)
        return True

    def _count(self, state_dir: Path, name: str) -> None:
        try:
            doc = store.head(state_dir, name)
        except (OSError, store.Damaged):
            if _is_old(name):
                self._whole.add(name)  # it was never whole, and never will be
            return
        try:
            self._count_doc(name, doc)
        except (KeyError, TypeError, AttributeError):
            self._whole.add(name)  # not as the scribe writes it: what there was of it is counted

    def _count_doc(self, name: str, doc: dict[str, Any]) -> None:
        if doc["complete"] is not True and not doc["ended"]:
            return
        policy = self._name(doc["policy"] or NOBODY)
        if name not in self._acts:
            self._acts.add(name)
            self._count_acts(policy, doc)
        verdict = doc.get("verdict")
        if len(doc.get("after") or ()) < LOOKS and not _is_old(name):
            return
        self._whole.add(name)
        for word in _said(verdict) if verdict is not None else ():
            self.verdicts[policy, word] += 1

    def _count_acts(self, policy: str, doc: dict[str, Any]) -> None:
        self.incidents[policy, doc["kind"]] += 1
        self.freed_bytes[policy,] += doc["freed_bytes"] or 0
        for kill in doc["kills"]:
            self.kills[policy, _outcome(kill)] += 1
            if kill["latency_ms"] is not None and not kill["held"]:
                self.latency[policy,].add(kill["latency_ms"] / 1e3)
            if kill["gone_ms"] is not None:
                self.end[policy,].add(kill["gone_ms"] / 1e3)

    def _name(self, policy: str) -> str:
        if policy not in self.policies:
            if len(self.policies) >= MOST_POLICIES and policy not in (OTHERS, NOBODY):
                self.others.add(policy)
                policy = OTHERS
            self.policies.add(policy)
            self._zero(policy)
        return policy

    def _zero(self, policy: str) -> None:
        for counts, words in ((self.incidents, KINDS), (self.kills, OUTCOMES), (self.verdicts, VERDICTS)):
            for word in words:
                counts.setdefault((policy, word), 0)
        self.freed_bytes.setdefault((policy,), 0)
        self.latency.setdefault((policy,), Spread())
        self.end.setdefault((policy,), Spread())


def _outcome(kill: dict[str, Any]) -> str:
    if kill["held"]:
        return "held"
    if kill["errno"]:
        return "failed"
    return "stuck" if kill["gone_ms"] is None else "gone"


def _said(verdict: dict[str, Any]) -> list[str]:
    words = {
        "helped": verdict["helped"] is True,
        "did_not_help": verdict["helped"] is False,
        "kernel_killed": bool(verdict["kernel_killed"]),
        "unable": verdict["unable"] is not None,
    }
    return [word for word, holds in words.items() if holds]


def _is_old(name: str) -> bool:
    """Whether it was opened so long ago that nothing more can be said of it by itself."""
    since = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() - SETTLED_S))
    return name < since
