"""What came of a drill. Pure: what was seen from outside and what the daemon has recorded, put together."""

from dataclasses import dataclass
from typing import Any

from .course import Course


@dataclass(frozen=True, slots=True)
class Seen:
    """``crossed_ns``: the first look at which it was over the line. None: that was never seen."""

    crossed_ns: int | None
    died_ns: int | None
    peak_bytes: int
    kernel_kills: int


@dataclass(frozen=True, slots=True)
class Told:
    """Times are CLOCK_MONOTONIC. ``story``: the incident in one sentence."""

    id: str
    story: str
    killed_by: str
    signalled_ns: int | None
    hard_ns: int | None  # when the daemon saw the hard watermark crossed
    gone_ms: float | None
    outcome: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """``source``: whose policy it was. ``tripwire``: whether it was laid, None: none is asked for, or v1 has none."""

    course: Course
    source: str
    rate_bytes: int
    pid: int
    tripwire: bool | None
    seen: Seen
    told: Told | None

    @property
    def crossed_ns(self) -> int | None:
        """The first that anybody saw of it, we from outside or the daemon."""
        times = (self.seen.crossed_ns, self.told.hard_ns if self.told is not None else None)
        return min((it for it in times if it is not None), default=None)

    @property
    def to_signal_ms(self) -> float | None:
        """From the crossing to the signal."""
        signalled = self.told.signalled_ns if self.told is not None else None
        return _ms(self.crossed_ns, signalled)

    @property
    def to_death_ms(self) -> float | None:
        """From the signal to the end of the last thread, as its pidfd told us."""
        return _ms(self.told.signalled_ns if self.told is not None else None, self.seen.died_ns)

    @property
    def why(self) -> str:
        """What went wrong; "": nothing."""
        seen, told = self.seen, self.told
        if seen.kernel_kills or (told is not None and told.killed_by == "kernel"):
            return "the kernel was first" if told is None or not told.signalled_ns else "the kernel killed as well"
        if seen.died_ns is None:
            crossed = "though it was over the watermark" if seen.crossed_ns else "and it never came to the watermark"
            return f"nobody has ended the leak, {crossed}"
        if told is None:
            return "the leak was ended, and no incident tells by whom: the daemon has not written one"
        if told.killed_by != "oomguard":
            return f"the leak was ended, and not by the guard: {told.story}"
        return ""

    @property
    def ok(self) -> bool:
        """The guard was first, and the kernel had nothing to do."""
        return not self.why

    def plain(self) -> dict[str, Any]:
        """As ``oomguard drill --json`` prints it. Times in ms, sizes in bytes."""
        told = self.told
        return {
            "ok": self.ok,
            "why": self.why,
            "policy": self.course.guard.name,
            "source": self.source,
            "cgroup": self.course.cgroup,
            "limit_bytes": self.course.limit_bytes,
            "line_bytes": self.course.line_bytes,
            "rate_bytes": self.rate_bytes,
            "pid": self.pid,
            "tripwire": self.tripwire,
            "peak_bytes": self.seen.peak_bytes,
            "kernel_kills": self.seen.kernel_kills,
            "killed_by": told.killed_by if told is not None else "",
            "crossed_to_signal_ms": self.to_signal_ms,
            "signal_to_death_ms": self.to_death_ms,
            "recorded_gone_ms": told.gone_ms if told is not None else None,
            "incident": told.id if told is not None else None,
            "story": told.story if told is not None else None,
        }


def _ms(since: int | None, until: int | None) -> float | None:
    return None if since is None or until is None else round((until - since) / 1e6, 3)
