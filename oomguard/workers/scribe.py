"""The scribe: a follower of the ring that gathers evidence and writes incidents. It obeys Snapshot and Close.

One loop. The bell says that a turn has something to tell; then every turn since the last one is taken. What takes time
(reading evidence, copying turns, writing, pruning) is a generator that does a little and yields, so that a hard
watermark is served in the middle of the soft one's evidence: the victim's files are there for milliseconds only.

Nothing here can delay a kill: the core waits for nobody. What cannot be written is kept in memory (bounded), tried
again at the incident's next milestone, counted in its ``lost``, and said once on stderr.
"""

import contextlib
import gc
import os
import select
import signal
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from functools import partial
from typing import Any, Final

from ..linux import cgroup2, mounts, procfs
from ..model.codec import from_plain, pack
from ..model.facts import KernelKill, Observation, TargetId
from ..model.incident import Turn
from ..model.policy import Daemon, Plan
from ..model.ring import Ring
from ..model.verdict import Dismiss, Nominate, Snapshot
from . import aftercare, blackbox, follow, shelf, standstill
from .evidence import Evidence
from .incident import Incident, say
from .kernellog import KernelLog
from .pool import hush
from .story import Milestone, Story
from .words import covers, short_id

RING_BYTES: Final = (
    4 << 20
)  # of an incident's turns as JSON; then only turns in which something happened, to 1.25 of it
_OPEN_MAX: Final = 16  # a glob may cover a thousand cgroups; the host's own incident tells their story too
_BEAT_S: Final = 1.0  # while an incident is open: calm turns have no bell
_NICE: Final = -5  # a victim's files are there for milliseconds; behind the core and the reaper, before everybody else
_QUIET_NS: Final = 60_000_000_000  # a storm of kernel kills that no guard covers is one incident, until it pauses
_PRESSED_EVERY_NS: Final = 29_000_000_000  # the kernel's own average of a minute is read, so that is often enough
_LOOKS_MAX: Final = 12
_BEFORE_BOX: Final = 64  # turns that wait for a black box that is just being made
_AFTERS_MAX: Final = 10  # times that evidence of a nominee, or "after", is gathered in a storm of kills

Task = Iterator[None]


def run(
    ring: Ring,
    bell: int,
    alive: int,
    plan: Plan,
    state_dir: str,
    kmsg: str = "/dev/kmsg",
    minutes: Ring | None = None,
) -> None:
    """Follow the ring until ``alive`` hangs up; then finish what is open and return.

    ``bell``: an eventfd, readable when a turn has something to tell. ``minutes``: the recorder's other ring, of thin
    observations.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # our end is told by ``alive``: the last turns are still to be written
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    scribe = Scribe(ring, plan, state_dir, kmsg, minutes)
    scribe.rehearse()
    poller = select.poll()
    poller.register(bell, select.POLLIN)
    poller.register(alive, 0)  # POLLHUP always comes
    scribe.follow()
    while True:
        busy = scribe.step()
        events = dict(poller.poll(0 if busy else 1000 * scribe.patience_s()))
        if bell in events:
            hush(bell)
        if bell in events or not (events or busy):
            scribe.follow()
        scribe.look_back()
        if alive in events:
            scribe.follow()
            scribe.end()
            return


class Scribe:
    """Everything between two wakeups."""

    def __init__(self, ring: Ring, plan: Plan, state_dir: str, kmsg: str, minutes: Ring | None = None) -> None:
        self._ring, self._minutes, self._plan = ring, minutes, plan
        self._guards = {guard.name: guard for guard in plan.guards}
        daemon = plan.daemon
        bounds = daemon.incidents_max_count, daemon.incidents_max_bytes, daemon.incidents_max_age_ns / 1e9
        self._shelf = shelf.Shelf(state_dir, *bounds)
        self._box = blackbox.BlackBox(f"{state_dir}/{blackbox.NAME}")
        self._boxless = False  # there will be none
        self._boot_id = _boot_id(daemon.proc)
        self._cgroup = _cgroup_root(daemon)
        self._position = ring.oldest()
        self._open: dict[TargetId, Incident] = {}
        self._nominated: dict[TargetId, Nominate] = {}  # with or without an incident
        self._finishing: list[Incident] = []
        self._done: set[str] = set()  # short ids that this ring's turns would open again, after our own restart
        self._told: set[tuple[TargetId, int]] = set()  # and their numbers, for the rest of their turns
        self._urgent: deque[Task] = deque()
        self._tasks: deque[Task] = deque()
        self._refused = 0
        self._kernel = KernelLog(kmsg)
        told = cgroup2.kind(self._cgroup).pressure_root(self._cgroup)
        self._watch = standstill.Watch(daemon.proc, told or self._cgroup)
        self._pressed_ns = time.monotonic_ns()  # the minute before our start was a predecessor's
        self._afters: list[tuple[int, Incident]] = []  # (when, CLOCK_MONOTONIC in ns; of whom) a look is due
        self._replaying = ring.head() > 0  # a predecessor of ours may have begun what the ring still tells
        if self._replaying:
            self._done = {name.rpartition("-")[2] for name in self._shelf_names() if not self._unfinished(name)}
        self._tasks.append(self._start())

    def rehearse(self) -> None:
        """Do once, for nobody, what an incident needs: pages that were touched are locked, those that were not are on a
        disk that will be busy. (The first soft evidence in a starving machine began a quarter of a second late.)
        """
        target = TargetId("", "/")
        turn = Turn(0, Observation(time.monotonic_ns()), (Snapshot(target, "soft", 0, "rehearsal"),), ())
        plain = follow.decode(pack(turn))
        story = Story(target, 0, turn.seen.at_ns, "soft", None)
        story.add(from_plain(plain))
        incident = self._new("000000", story)
        deque(incident.evidence.soft(["/"], ()), maxlen=0)
        shelf.encode(incident.doc(complete=False))

    def patience_s(self) -> float:
        """How long it may sleep when nobody rings."""
        if self.writing():
            return _BEAT_S
        due_ns = min((due for due, _ in self._afters), default=None)
        if due_ns is None:
            return follow.IDLE_S
        return min(max(0.0, (due_ns - time.monotonic_ns()) / 1e9), follow.IDLE_S)

    def writing(self) -> bool:
        """Whether an incident is open."""
        return bool(self._open or self._finishing)

    # -- following

    def follow(self) -> None:
        """Take every turn since the last one."""
        while True:
            payloads, self._position, lost = self._ring.read(self._position)
            for incident in self._open.values() if lost else ():
                incident.lose("ring_gaps")
            for payload in payloads:
                self._turn(payload)
            if not payloads:
                break
        self._replaying = False
        self._copy_all()

    def look_back(self) -> None:
        """No judge closes an incident outside every guard: it is over when nothing has followed for a while."""
        now_ns = time.monotonic_ns()
        for incident in list(self._open.values()):
            story = incident.story
            if story.kind != "stall" and not story.target.guard and now_ns > incident.kernel_ns + _QUIET_NS:
                story.end("the kernel's own kill: no guard covers this cgroup")
                self._close(incident)
        for due_ns, incident in [after for after in self._afters if after[0] <= now_ns]:
            self._afters.remove((due_ns, incident))
            self._tasks.append(self._after(incident))
        if now_ns - self._pressed_ns >= _PRESSED_EVERY_NS:
            self._pressed_ns = now_ns
            self._look_at_pressure(now_ns)

    def _look_at_pressure(self, now_ns: int) -> None:
        """Whoever stood still for a minute, and no guard could act, is an incident."""
        begun = {t: incident.story.opened_ns for t, incident in self._open.items() if incident.story.kind == "stall"}
        for news in list(self._watch.look(now_ns, begun)):
            known = self._open.get(news.target)
            if known is None:
                self._stall(news, now_ns)
            elif news.over:
                known.story.end(news.over)
                self._close(known)
            elif "stall" not in known.story.why:
                known.story.stalled(now_ns, news.text)

    def _stall(self, news: standstill.News, now_ns: int) -> None:
        target = news.target
        story = Story(target, 0, now_ns, "stall", self._guards.get(target.guard), self._nominated.get(target))
        story.stalled(now_ns, news.text)
        story.nearest = news.nearest
        story.refused = self._watch.refused.get(target, ("", ""))
        story.crossed = self._watch.phases.get(target) in ("firing", "draining", "cooling")
        self._begin(story)

    def _turn(self, payload: bytes) -> None:
        plain = follow.decode(payload)
        if plain["kind"] == "Plan":
            self._plan = from_plain(plain)
            self._guards = {guard.name: guard for guard in self._plan.guards}
            return
        seen = plain["seen"]
        self._watch.follow(plain)
        opens = plain["actions"] or seen["kernel_kills"]
        if not self._open and not opens:
            return
        for incident in self._open.values():
            incident.story.weigh(seen["surveys"])
        plain["seed"] = None  # for replay alone
        seen["surveys"] = []  # no story needs more of them, and they are most of the work of making a Turn
        try:
            turn: Turn = from_plain(plain)
        except (KeyError, TypeError):  # a core newer than we are: it cannot be, we were forked from it
            return
        for action in turn.actions:
            if isinstance(action, Nominate):
                self._nominated[action.target] = action
            elif isinstance(action, Dismiss):
                self._nominated.pop(action.target, None)
            elif isinstance(action, Snapshot):
                self._snapshot(turn, action, payload)
        for kill in _uncovered(turn, self._open):
            self._begin(Story(TargetId("", kill.cgroup), 0, turn.seen.at_ns, "kernel", None), payload)
        for incident in list(self._open.values()):
            self._milestones(incident, incident.story.add(turn), turn)

    def _snapshot(self, turn: Turn, snapshot: Snapshot, payload: bytes) -> None:
        known = self._open.get(snapshot.target)
        if known is not None and known.story.number != snapshot.incident:
            if known.story.kind == "stall":
                known.story.end("a watermark of this guard was crossed")
            else:
                known.ended = "another incident began before it was closed"
            self._close(known)
            known = None
        if known is None:
            target, at_ns = snapshot.target, turn.seen.at_ns
            guard, nominated = self._guards.get(target.guard), self._nominated.get(target)
            self._begin(Story(target, snapshot.incident, at_ns, snapshot.watermark, guard, nominated), payload)

    def _begin(self, story: Story, opening: bytes | None = None) -> None:
        short = short_id(self._boot_id, story.target, story.opened_ns)
        if short in self._done or (story.target, story.number) in self._told:
            self._told.add((story.target, story.number))
            return
        if len(self._open) >= _OPEN_MAX:
            self._refused += 1
            if self._refused == 1:
                say(4, f"more than {_OPEN_MAX} incidents at once: the others are not written")
            return
        # The directory is searched only then: at any other time that might mean to wait for a disk.
        incident = (self._adopt(short, story) if self._replaying else None) or self._new(short, story)
        incident.position = self._ring.oldest()
        incident.opening = opening
        self._open[story.target] = incident
        self._tasks.append(self._opening(incident))

    def _new(self, short: str, story: Story) -> Incident:
        opened_s = time.time() - (time.monotonic_ns() - story.opened_ns) / 1e9
        whole = time.gmtime(opened_s)
        name = shelf.name(time.strftime("%Y%m%dT%H%M%SZ", whole), story.target.guard or story.kind, short)
        head: dict[str, object] = {
            "id": name,
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", whole) + f".{int(opened_s % 1 * 1000):03d}Z",
            "boot_id": self._boot_id,
            "version": self._plan.version,
            "hostname": os.uname().nodename,
            "kernel": os.uname().release,
        }
        return self._incident(story, self._shelf.folder(name), head)

    def _adopt(self, short: str, story: Story) -> Incident | None:
        """Go on with what a predecessor of ours left open in this very ring."""
        try:
            name = self._shelf.find(short)
            if name is None:
                return None
            folder = self._shelf.folder(name)
            doc = folder.read()
            copied = folder.resume()
        except (OSError, ValueError):
            return None
        keys = ("id", "time", "boot_id", "version", "hostname", "kernel")
        incident = self._incident(story, folder, {key: doc[key] for key in keys if key in doc})
        evidence = doc.get("evidence")
        if isinstance(evidence, dict):
            incident.evidence.facts = evidence
        incident.copied = copied
        incident.lose("scribe_restarts")
        return incident

    def _incident(self, story: Story, folder: shelf.Folder, head: dict[str, object]) -> Incident:
        def keep(place: str, data: bytes) -> None:
            incident.raw.append((place, data))

        evidence = Evidence(self._plan.daemon.proc, self._cgroup, keep, story.opened_ns)
        incident = Incident(story, folder, head, evidence)
        return incident

    def _milestones(self, incident: Incident, reached: set[Milestone], turn: Turn) -> None:
        if ("hard" in reached or "killed" in reached) and not self._urgent:
            self._urgent.append(incident.evidence.hard(incident.cgroups(), incident.victims()))
            self._tasks.append(self._save(incident))
        if "nominated" in reached and incident.nominations < _AFTERS_MAX:
            incident.nominations += 1
            self._tasks.append(
                self._save(incident, incident.evidence.nominated(incident.cgroups()[1:], incident.victims()))
            )
        if "gone" in reached and incident.afters < _AFTERS_MAX:
            incident.afters += 1
            self._tasks.append(self._save(incident, incident.evidence.after("gone", incident.cgroups())))
        if "killed" in reached or "kernel" in reached:
            self._expect(incident)
            self._tasks.append(self._named(incident))
        if "kernel" in reached:
            incident.kernel_ns = turn.seen.at_ns
            self._tasks.append(self._save(incident, self._kernel_log(incident)))
        if "closed" in reached:
            self._close(incident)

    def _close(self, incident: Incident) -> None:
        if self._open.pop(incident.story.target, None) is not None:
            incident.until = self._ring.head()
            self._finishing.append(incident)
            self._tasks.append(self._finish(incident))

    # -- tasks

    def step(self) -> bool:
        """Do a little of the most urgent task. False: there is none."""
        queue = self._urgent or self._tasks
        if not queue:
            return False
        task = queue.popleft()
        try:
            next(task)
        except StopIteration:
            return bool(self._urgent or self._tasks)
        except OSError as error:  # what was not foreseen costs a task, not the scribe
            say(3, f"{getattr(task, '__name__', 'task')} was given up: {error}")
            return True
        # What is urgent is done in one go; the others take turns.
        (self._urgent.appendleft if queue is self._urgent else self._tasks.append)(task)
        return True

    def _opening(self, incident: Incident) -> Generator[None]:
        # First everything is read, then it is written: making a file may wait for a disk that is busy swapping.
        if "processes" not in incident.evidence.facts:  # else a predecessor of ours has had the better moment
            yield from incident.evidence.soft(incident.cgroups(), incident.victims())
        incident.attempt("ring", incident.folder.begin)
        self._write(incident)
        self._box_opening(incident)
        incident.ready = True
        yield from self._flush(incident)
        yield from self._prune()

    def _save(self, incident: Incident, first: Iterable[None] = ()) -> Generator[None]:
        yield from first
        while not incident.ready:
            yield
        yield from self._flush(incident)
        if incident.until is None:  # else it is being finished, and will be written whole
            self._write(incident)

    def _named(self, incident: Incident) -> Generator[None]:
        """An engine forgets at once what was started with --rm."""
        yield from incident.evidence.named(incident.homes())

    def _flush(self, incident: Incident) -> Generator[None]:
        while incident.raw:
            incident.attempt("raw", partial(incident.folder.keep, *incident.raw.pop(0)))
            yield

    def _finish(self, incident: Incident) -> Generator[None]:
        while not incident.ready:
            yield
        yield from self._copy(incident)
        yield from incident.evidence.after("close", incident.cgroups())
        yield from incident.evidence.rest(incident.cgroups())
        if incident.story.killed_by() == "kernel" or incident.story.kernel_kills:
            yield from self._kernel_log(incident)
        yield from incident.evidence.named(incident.homes())
        yield from self._copy(incident)
        yield from self._flush(incident)
        self._write(incident, final=True)
        self._finishing.remove(incident)
        incident.lighten()
        gc.collect()  # off in a worker: this is the moment when nobody waits

    def _expect(self, incident: Incident) -> None:
        """To look 1, 10 and 60 s after this act; what was expected of an earlier one is not any more."""
        acted_ns = incident.story.acted_ns()
        if acted_ns is not None and len(incident.after) < _LOOKS_MAX:
            self._afters = [after for after in self._afters if after[1] is not incident]
            self._afters += [(acted_ns + int(at_s * 1e9), incident) for at_s in aftercare.AT_S]

    def _after(self, incident: Incident) -> Generator[None]:
        """One look, and an incident that was written to its end is amended by it."""
        self._look_after(incident)
        yield
        if incident.id not in self._ours():
            incident.attempt("after", lambda: incident.folder.amend(incident.told_after()))

    def _look_after(self, incident: Incident) -> None:
        story, acted_ns = incident.story, incident.story.acted_ns()
        if acted_ns is not None:
            arguments = (story.target.cgroup, acted_ns, story.victims(), incident.oom_kills())
            incident.after.append(aftercare.look(self._plan.daemon.proc, self._cgroup, *arguments))

    def _write(self, incident: Incident, final: bool = False) -> None:
        doc = incident.doc(complete=final and incident.story.closed and not incident.ended)
        if not final:
            self._box_head(incident, doc)
        if final and not incident.attempt("incident.json", lambda: incident.folder.write(doc, ring=True)):
            doc["lost"] = incident.lost  # perhaps it has room for the small part
            incident.attempt("incident.json", lambda: incident.folder.write(doc))
        elif not final:
            incident.attempt("incident.json", lambda: incident.folder.write(doc))
        if final:
            incident.folder.close()
            if incident.folder.unfinished():  # perhaps there is more room at the next start
                doc |= {"complete": False, "ended": incident.ended or "it could not be written before the next start"}
                self._box_head(incident, doc)
            else:
                incident.attempt("blackbox", lambda: self._box.add(blackbox.END, incident.id))

    def _prune(self) -> Generator[None]:
        try:
            yield from self._shelf.prune(self._ours())
        except OSError as error:
            say(4, f"old incidents not removed: {error}")

    def _start(self) -> Generator[None]:
        try:
            yield from self._box.prepare()
            for incident in self._open.values():
                self._box_head(incident)
                self._box_opening(incident)
            yield from self._give_back()
        except OSError as error:
            self._boxless = not self._box.ready
            say(4, f"black box: {error}")
        yield from self._tidy()

    def _give_back(self) -> Generator[None]:
        """To the incidents, what only the black box has of them: the power went, or the disk would not take them.

        What is unfinished then is finished like any other.
        """
        for name, frames in self._box.unended().items():
            yield
            if name in self._ours() or not shelf.is_name(name):
                continue
            heads = [frame for frame in frames if frame.kind == blackbox.HEAD]
            folder = self._shelf.folder(name)
            if heads and not folder.is_whole():
                turns = (self._box.payload(frame) for frame in frames if frame.kind == blackbox.TURNS)
                opening = (self._box.payload(frame) for frame in frames if frame.kind == blackbox.OPENING)
                try:
                    folder.restore(self._box.payload(heads[-1]), turns, opening)
                except (OSError, ValueError) as error:
                    say(4, f"{name}: what the black box has of it could not be given back: {error}")
                    continue
            self._box.add(blackbox.END, name)

    def _tidy(self) -> Generator[None]:
        """Finish what an earlier daemon, or a machine that lost power, has left open."""
        damaged: list[str] = []
        for name in self._shelf_names():
            yield
            if name not in self._ours() and self._unfinished(name):
                try:
                    self._finish_for_another(name)
                except (OSError, ValueError) as error:
                    damaged.append(f"{name}: {error}")
        if damaged:
            say(4, f"{len(damaged)} incidents are damaged and stay as they are, the last of them {damaged[-1]}")

    def _finish_for_another(self, name: str) -> None:
        folder = self._shelf.folder(name)
        if folder.is_empty():
            self._shelf.discard(name)
            return
        doc = folder.read()
        if doc.get("complete") is True:
            folder.forget_ring()
            return
        folder.resume()
        doc.pop("ring", None)
        doc["ended"] = doc.get("ended") or "the daemon or the machine stopped before it was finished"
        if folder.reached_ns < int(str(doc.get("opened_ns", 0))):
            doc["ended"] = f"{doc['ended']}, and of its turns only those before its opening were kept"
        folder.write(doc, ring=True)

    def _ours(self) -> set[str]:
        return {incident.id for incident in [*self._open.values(), *self._finishing]}

    # -- turns

    def _copy_all(self) -> None:
        for incident in self._open.values():
            if incident.ready and not incident.copying:
                incident.copying = True
                self._tasks.append(self._copy(incident))

    def _copy(self, incident: Incident) -> Generator[None]:
        """Append what the ring has for this incident since the last time."""
        if self._minutes is not None and incident.copied < 0:
            yield from self._copy_minutes(self._minutes, incident)
        while incident.until is None or incident.position < incident.until:
            payloads, incident.position, lost = self._ring.read(incident.position, 8)
            incident.lose("ring_gaps", lost)
            for payload in payloads:
                plain = follow.decode(payload)
                if plain["kind"] == "Turn":
                    self._copy_one(incident, plain)
            self._to_box(incident)
            if not payloads:
                break
            yield
        incident.copying = False

    def _box_head(self, incident: Incident, doc: dict[str, object] | None = None) -> None:
        if self._box.ready:
            head = shelf.encode(doc or incident.doc(complete=False)).encode("ascii")
            incident.attempt("blackbox", lambda: self._box.add(blackbox.HEAD, incident.id, head))

    def _box_opening(self, incident: Incident) -> None:
        """The turn that opened it, with what the judge remembered: ahead of two minutes that may take their time."""
        if self._box.ready and incident.opening is not None:
            line = shelf.encode(follow.decode(incident.opening)).encode("ascii")
            incident.attempt("blackbox", lambda: self._box.add(blackbox.OPENING, incident.id, line))
            incident.opening = None

    def _to_box(self, incident: Incident) -> None:
        """The turns since the last time, in one write. Only while it is open: what is finished at once needs none."""
        lines, incident.fresh = incident.fresh, []
        if not self._box.ready:
            incident.fresh = [] if self._boxless else lines[-_BEFORE_BOX:]
        elif lines:
            payload = b"\n".join(lines)
            incident.attempt("blackbox", lambda: self._box.add(blackbox.TURNS, incident.id, payload))

    def _copy_minutes(self, minutes: Ring, incident: Incident) -> Generator[None]:
        """Thin observations of the time before the other ring begins: a storm of turns may have filled that."""
        oldest, _, _ = self._ring.read(incident.position, 4)
        first = next((plain["number"] for plain in map(follow.decode, oldest) if plain["kind"] == "Turn"), None)
        position = minutes.oldest()
        while True:
            payloads, position, _ = minutes.read(position, 8)
            for plain in map(follow.decode, payloads):
                if first is not None and plain["number"] >= first:
                    return
                self._copy_one(incident, plain)
            self._to_box(incident)
            if not payloads:
                return
            yield

    def _copy_one(self, incident: Incident, plain: dict[str, Any]) -> None:
        number = int(plain["number"])
        if number <= incident.copied or plain["seen"]["at_ns"] < incident.since_ns:
            return
        incident.copied = number
        incident.notice(plain)
        incident.story.before.see(incident.story.target.cgroup, plain["seen"], incident.story.opened_ns)
        seen = plain["seen"]
        told = seen["gone"] or seen["results"] or seen["kernel_kills"]
        told = told or any(action["kind"] not in ("Look", "Mute") for action in plain["actions"])
        if incident.ring_bytes > (RING_BYTES * 3 // 2 if told else RING_BYTES):
            incident.lose("ring_cut")
            return
        line = shelf.encode(plain).encode("ascii")
        incident.fresh.append(line)
        if incident.attempt("ring", lambda: incident.folder.append(line)):
            incident.ring_bytes += len(line)

    # -- the kernel's own words

    def _kernel_log(self, incident: Incident) -> Generator[None]:
        """Whom did the kernel kill, in its own words: the facts of a turn only count."""
        yield from self._kernel.drain()
        if self._kernel.why:
            incident.evidence.facts["kernel_log_why"] = self._kernel.why
        incident.log = self._kernel.lines() or incident.log
        for report in self._kernel.reports():
            cgroup, victim = report["task_memcg"], report["victim"]
            if not cgroup or covers(incident.story.target.cgroup, cgroup):
                held_bytes = victim["anon_bytes"] + victim["shmem_bytes"]
                incident.story.kernel_named(victim["pid"], victim["comm"], cgroup, held_bytes)
                incident.story.report(report)

    # -- the end

    def end(self) -> None:
        """The core has gone, and who stops a service gives its last processes a moment at most: no more evidence."""
        self._urgent.clear()
        unfinished = [*self._open.values(), *self._finishing]
        for incident in self._open.values():
            incident.ended = "the daemon ended"
        for incident in unfinished:
            for task in (self._copy(incident), self._flush(incident)):
                deque(task, maxlen=0)
            self._write(incident, final=True)

    def _shelf_names(self) -> list[str]:
        try:
            return self._shelf.names()
        except OSError as error:
            say(3, f"incidents cannot be listed: {error}")
            return []

    def _unfinished(self, name: str) -> bool:
        return self._shelf.folder(name).unfinished()


def _uncovered(turn: Turn, known: dict[TargetId, Incident]) -> list[KernelKill]:
    """Kernel kills that no open incident tells of. Seen in a cgroup and on the machine it is one kill: the nearer."""
    kills = turn.seen.kernel_kills
    return [
        kill
        for kill in kills
        if not any(covers(target.cgroup, kill.cgroup) for target in known)
        and not any(other is not kill and covers(kill.cgroup, other.cgroup) for other in kills)
    ]


def _boot_id(proc: str) -> str:
    try:
        return procfs.boot_id(proc)
    except (OSError, ValueError):
        return ""


def _cgroup_root(daemon: Daemon) -> str:
    """Where the cgroups are that have the memory; that need not be /sys/fs/cgroup itself."""
    try:
        return mounts.find(daemon.proc, daemon.cgroup)[0] or daemon.cgroup
    except OSError:
        return daemon.cgroup
