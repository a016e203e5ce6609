"""The dead man: if the core stands still while the hard watermark holds, its nominee is ended all the same.

Lives in the reaper's process, and judges by the judge's own ``detect`` on facts that it reads itself. It nominates
nobody: it knows whom the core has handed to it, and ends at most that one for each guard, once. While nothing is
handed to it, it asks for no wakeup; while something is, for one each time that the core's silence could be too long.

What stands still: a core that was stopped, one that sleeps where no signal wakes it, one that is busy for too long.
The last may come back at any moment, with a kill of its own in hand: so the right to kill is one that core and dead man
take from each other (``Pulse``), and the answer is there before the signal is sent. A core that comes back finds both.
"""

import os
import signal
import time
from collections.abc import Callable
from typing import Final

from ..judge.detect import Sight, crossed, since
from ..linux import procfs, psi
from ..linux.cgroup2 import Cgroup
from ..model.codec import from_plain, pack, unpack
from ..model.facts import CgroupFacts, MemInfo, Pressure, TargetId
from ..model.policy import Amount, AvailableBelow, Clause, Daemon, PressureAbove, PressureRising, Watermark
from ..model.verdict import ProcessRef, Victim, Ward
from ..workers.pool import Mailbox, Pulse
from ..workers.reaper import Deputy
from .nominee import Nominee

MS: Final = 1_000_000
# Between two looks while the core is silent; and the one that is believed is so much later than the first: on a machine
# that stood still as a whole (a paused virtual machine) the core, a real-time process, has long turned by then.
LOOK_MS: Final = 50
MEMBERS: Final = 256  # the most processes that a victim names (judge.rank)
SETTLE_NS: Final = 1000 * MS  # between two kills: memory that was just freed is not counted at once


class _Watched:
    """A ward, and what is open for it."""

    def __init__(self, ward: Ward, nominee: Nominee) -> None:
        self.ward, self.nominee = ward, nominee
        self.group: Cgroup | None = None  # the guard's; None: the machine
        self.began: tuple[int, ...] = ()  # as judge.detect keeps it: per clause, since when it holds

    def close(self) -> None:
        self.nominee.close()
        if self.group is not None:
            self.group.close()


class DeadMan(Deputy):
    """``answers``: to the core, (token, what, errno, took_ns, value), as the reaper's."""

    def __init__(self, daemon: Daemon, root: str | None, pulse: Pulse, answers: Mailbox) -> None:
        self.after_ns, self.root, self.pulse, self.answers = daemon.deadman_ns, root, pulse, answers
        self.proc_fd = procfs.open_proc(daemon.proc)
        self.meminfo = procfs.MemInfoFile(daemon.proc)
        self.more: Callable[[MemInfo], MemInfo] = lambda host: host
        if daemon.also_available is not None:
            from ..linux.elsewhere import Elsewhere

            also = daemon.also_available
            self.more = Elsewhere(also.file, also.key, also.less).added_to
        try:
            self.pressure: psi.PressureFile | None = psi.PressureFile(f"{daemon.proc}/pressure/memory")
        except OSError:
            self.pressure = None  # no PSI: the core has said so
        self.fresh: dict[int, bytes] = {}
        self.watched: dict[int, _Watched] = {}
        self.beat_ns = self.silent_ns = self.struck_ns = 0
        self.has_right = False

    def rehearse(self) -> None:
        """All but the kill, once: code that has run is in memory, and so is what the largest nominee takes."""
        refs = tuple(ProcessRef(0, 1, f"rehearsal {number}", "/rehearsal.slice", 0) for number in range(MEMBERS))
        clause = Clause((AvailableBelow(Amount(share=1.0)), PressureAbove("full", 1.0, "10s")))
        victim = Victim(0, "subtree", "/rehearsal.slice", 0, "", refs, 0, len(refs))
        ward = Ward(TargetId("", "/"), victim, Watermark((clause,), ()), 0)
        self.guard(0, pack(ward))
        self.look()
        self._holds(_Watched(ward, Nominee(victim, self.proc_fd, self.root)), time.monotonic_ns())

    # -- what the core says --------------------------------------------------------------------------------------

    def guard(self, token: int, ward: bytes) -> None:
        """This is the nominee now. Opened when there is nothing else to do: reaping goes first."""
        self.leave(token)
        self.fresh[token] = ward

    def leave(self, token: int) -> None:
        """It is the nominee no more."""
        self.fresh.pop(token, None)
        watched = self.watched.pop(token, None)
        if watched is not None:
            watched.close()

    # -- watching ------------------------------------------------------------------------------------------------

    def timeout_ms(self) -> int | None:
        """When to look again; None: there is nobody to watch."""
        if self.fresh:
            return 0
        if not self.watched:
            return None
        early_ns = self.pulse.last() + self.after_ns - time.monotonic_ns()
        return max(LOOK_MS, early_ns // MS + 1)

    def look(self) -> list[int]:
        """The tokens of those that were ended now."""
        while self.fresh:
            self._open(*self.fresh.popitem())
        beat_ns, now = self.pulse.last(), time.monotonic_ns()
        if beat_ns != self.beat_ns:
            self._core_lives(beat_ns)
        if not self.watched or not beat_ns or now - beat_ns < self.after_ns:
            return []
        self.silent_ns = self.silent_ns or now
        order = sorted(self.watched.items(), key=lambda item: (-len(item[1].ward.target.cgroup), item[0]))
        return [token for token, watched in order if self._holds(watched, now) and self._strike(token, watched, now)]

    def _core_lives(self, beat_ns: int) -> None:
        self.beat_ns, self.silent_ns, self.has_right = beat_ns, 0, False
        for watched in self.watched.values():
            watched.began = ()

    def _open(self, token: int, packed: bytes) -> None:
        ward = from_plain(unpack(packed))
        if not isinstance(ward, Ward):
            raise TypeError("the core has handed over something else than a ward")
        watched = _Watched(ward, Nominee(ward.victim, self.proc_fd, self.root))
        try:
            known = watched.nominee.open()
            if ward.target.cgroup != "/" and self.root is not None:
                watched.group = Cgroup.open(self.root, ward.target.cgroup)
                known = known and watched.group is not None
        except OSError:
            known = False  # the core could open it, a moment ago; if it can again, it hands it over again
        if known:
            self.watched[token] = watched
        else:
            watched.close()

    # -- judging -------------------------------------------------------------------------------------------------

    def _holds(self, watched: _Watched, now: int) -> bool:
        try:
            sight = self._sight(watched, now)
        except OSError:
            return False
        if sight is None:
            return False
        watched.began = since(watched.ward.hard, sight, watched.began)
        believed = now - self.silent_ns >= LOOK_MS * MS
        return believed and crossed(watched.ward.hard, watched.began, now) is not None

    def _sight(self, watched: _Watched, now: int) -> Sight | None:
        """What the core would see. What only that is told (stall_above) or has seen before (growth) does not hold."""
        host = self.more(self.meminfo.read())
        conditions = (condition for clause in watched.ward.hard.when for condition in clause.all_of)
        wants = any(isinstance(condition, PressureAbove | PressureRising) for condition in conditions)
        if watched.ward.target.cgroup == "/":
            return Sight(now, host, None, self._pressure() if wants else None)
        facts = None if watched.group is None else _facts(watched.group, wants)
        return None if facts is None else Sight(now, host, facts, facts.pressure)

    def _pressure(self) -> Pressure | None:
        return None if self.pressure is None else self.pressure.read()

    # -- the kill ------------------------------------------------------------------------------------------------

    def _strike(self, token: int, watched: _Watched, now: int) -> bool:
        """Whether a signal was sent. The core is told first, so that it cannot see the death and not the cause."""
        if now < watched.ward.not_before_ns or now - self.struck_ns < SETTLE_NS:
            return False
        if not _still_there(watched.nominee):
            self.leave(token)
            return False
        if not self._take_right():
            return False
        silence_ns = now - self.beat_ns
        self.answers.post((token, "Deadman", 0, silence_ns, now))
        number = watched.nominee.kill(signal.SIGKILL)
        if number:
            self.answers.post((token, "Kill", number, 0, 0))
        self.struck_ns = now
        self.leave(token)
        _say(watched.ward, silence_ns, number)
        return number == 0

    def _take_right(self) -> bool:
        """Once taken it is ours until the core has heard of it, and turned."""
        if not self.has_right and not self.pulse.take():
            return False  # the core is in the middle of a kill
        self.has_right = True
        if self.pulse.last() == self.beat_ns:
            return True
        self.pulse.give()  # it has turned since we looked
        self.has_right = False
        return False


def _still_there(nominee: Nominee) -> bool:
    try:
        return nominee.verify()
    except OSError:
        return False


def _facts(group: Cgroup, pressure: bool) -> CgroupFacts | None:
    settled = group.settled()
    return None if settled is None else group.facts(stat=True, pressure=pressure, known=settled)


def _say(ward: Ward, silence_ns: int, number: int) -> None:
    """At once, to the journal: the core may never come back to tell it."""
    victim = ward.victim
    who = victim.cgroup
    if victim.take != "cgroup" and victim.processes:
        who = f"{victim.processes[0].comm}[{victim.processes[0].pid}]"
    done = f"could not end {who}: {os.strerror(number)}" if number else f"has ended {who} by SIGKILL"
    text = f"{ward.target.guard} on {ward.target.cgroup}: the dead man {done}"
    text += f": the core has not turned for {silence_ns / 1e9:.1f} s, and the hard watermark holds"
    os.write(2, f"<2>oomguard: {text}\n".encode("utf-8", "backslashreplace"))
