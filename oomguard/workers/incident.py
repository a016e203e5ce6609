"""An incident that is being written: its story, its evidence, its place on disk, and what of it could not be kept."""

import sys
from collections.abc import Callable
from typing import Any, Final

from ..model.verdict import ProcessRef
from . import aftercare, shelf
from .evidence import Evidence
from .story import Story

BEFORE_NS: Final = 120_000_000_000  # how much of the ring before the opening goes into an incident
_HOMES_MAX: Final = 64
_GROWTH_MAX: Final = 1024  # processes whose growth is known: those that a survey found among the heaviest


class Incident:
    """An incident that is being written."""

    def __init__(self, story: Story, folder: shelf.Folder, head: dict[str, object], evidence: Evidence) -> None:
        self.story = story
        self.folder = folder
        self.head = head
        self.evidence = evidence
        self.ended = ""
        self.lost: dict[str, int] = {}
        self.said: set[str] = set()
        self.since_ns = story.opened_ns - BEFORE_NS
        self.position = 0  # in the ring: the next turn to copy
        self.ready = False  # it has an incident.json: turns may be put beside it
        self.copying = False
        self.until: int | None = None  # where to stop; None: follow
        self.copied = -1  # number of the last turn
        self.ring_bytes = 0
        self.first: dict[tuple[int, int], int] = {}
        self.last: dict[tuple[int, int], int] = {}
        self.opening: bytes | None = None  # the turn's record, until the black box has it
        self.fresh: list[bytes] = []  # turns that the black box has not yet
        self.raw: list[tuple[str, bytes]] = []  # read, not written yet; bounded by the limit of all evidence
        self.log: list[str] = []
        self.after: list[dict[str, Any]] = []
        self.afters = self.nominations = 0
        self.kernel_ns = story.opened_ns  # of the last kill by the kernel

    @property
    def id(self) -> str:
        """The directory's name."""
        return str(self.head["id"])

    def lose(self, what: str, count: int = 1) -> None:
        """Something could not be kept."""
        if count:
            self.lost[what] = self.lost.get(what, 0) + count

    def attempt(self, what: str, action: Callable[[], None]) -> bool:
        """Write; a disk that is full, read-only or gone is counted, and said once."""
        try:
            action()
        except OSError as error:
            self.lose(what)
            if what not in self.said:
                self.said.add(what)
                say(3, f"incident {self.id}: {what} not written: {error}")
            return False
        return True

    def doc(self, complete: bool) -> dict[str, object]:
        """incident.json, the turns excepted."""
        story = self.story.plain()
        lost = {**self.lost, "timeline": self.story.timeline_cut, "evidence": self.evidence.cut}
        return {
            "schema": story.pop("schema"),
            **self.head,
            **story,
            "complete": complete,
            "ended": self.ended,
            "lost": {what: count for what, count in lost.items() if count},
            **self.told_after(story),
            "evidence": self._evidence(),
        }

    def told_after(self, story: dict[str, object] | None = None) -> dict[str, object]:
        """What is amended later."""
        return {"after": self.after, "verdict": aftercare.verdict(story or self.story.plain(), self.after)}

    def _evidence(self) -> dict[str, object]:
        facts = dict(self.evidence.facts)
        rows = facts.get("processes")
        for row in rows if isinstance(rows, list) else []:
            identity = (row["pid"], row["start_ticks"])
            if identity in self.first:
                row["growth_bytes"] = max(self.last[identity], row["held_bytes"]) - self.first[identity]
        if self.log:
            facts["kernel_log"] = self.log
        return facts

    def oom_kills(self) -> int | None:
        """The machine's count of the kernel's kills when it opened."""
        stages = self.evidence.facts.get("vmstat")
        first: dict[str, int] = next(iter(stages.values()), {}) if isinstance(stages, dict) else {}
        return first.get("oom_kill")

    def lighten(self) -> None:
        """It is written, and only looked after from now on: what has become of it needs no evidence in memory."""
        kills = self.oom_kills()
        self.evidence.facts = {"vmstat": {"soft": {"oom_kill": kills}}} if kills is not None else {}
        self.first, self.last, self.log, self.fresh, self.opening = {}, {}, [], [], None

    def notice(self, plain: dict[str, Any]) -> None:
        """Who held how much, for growth."""
        for survey in plain["seen"]["surveys"]:
            for process in survey["processes"]:
                identity = (process["pid"], process["start_ticks"])
                held = process["anon_bytes"] + process["shmem_bytes"] + process["swap_bytes"]
                if identity in self.first:
                    self.last[identity] = held
                elif len(self.first) < _GROWTH_MAX:
                    self.first[identity] = self.last[identity] = held

    def victims(self) -> tuple[ProcessRef, ...]:
        """The processes whose own files are worth reading first."""
        return self.story.nominee.processes if self.story.nominee else ()

    def cgroups(self) -> list[str]:
        """The cgroups whose files are worth reading, with their ancestors."""
        nominee = self.story.nominee
        return [self.story.target.cgroup, *([nominee.cgroup] if nominee and nominee.cgroup else [])]

    def homes(self) -> list[str]:
        """The cgroups whose containers are worth a name: the guard's, the nominee's, those of whoever was killed."""
        killed = [str(row["cgroup"]) for row in (*self.story.victims(), *self.story.kernel_kills)]
        return list(dict.fromkeys([*self.cgroups(), *killed]))[:_HOMES_MAX]


def say(level: int, text: str) -> None:
    """To the journal by way of stderr, whose first bytes are the level (sd-daemon(3)). Not by way of the herald: what
    we have to say is that something is broken."""
    try:
        sys.stderr.write(f"<{level}>oomguard scribe: {text.encode('ascii', 'backslashreplace').decode()}\n")
        sys.stderr.flush()
    except OSError:
        pass
