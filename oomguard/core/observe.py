"""The senses: asleep until the kernel or the next deadline, then awake with an Observation. Judges nothing.

What is read in a turn: the machine's memory if a guard on it is due, the cgroups that are due or whose events spoke,
the surveys that the judge asked for. ``memory.current`` first; ``memory.stat`` only where it can change a verdict.
"""

import errno
import os
import resource
import select
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ..judge import pace
from ..judge.glob import is_inside
from ..judge.select import bears, globs, selects
from ..judge.state import State
from ..linux import events, files, libc, procfs, psi
from ..linux.cgroup2 import Cgroup, kind, xattr
from ..model.facts import (
    CgroupFacts,
    Compressed,
    MemInfo,
    Observation,
    Pressure,
    Refaults,
    Result,
    Share,
    Stalled,
    Survey,
    TargetId,
    TargetSeen,
    VictimGone,
    Wake,
)
from ..model.policy import (
    Guard,
    LevelAbove,
    Plan,
    RefaultsAbove,
    StallAbove,
    ZramAbove,
)
from .deadlines import Deadlines
from .ledger import Ledger
from .shares import Shares
from .stalls import Stalls, Target, pressure_above
from .survey import Depth, Surveyor
from .trees import Forest
from .watch import PRESSURE, Watch, conditions, wanted

if TYPE_CHECKING:
    from ..linux.elsewhere import Elsewhere
    from ..linux.zram import Zram

MS: Final = 1_000_000
SECOND: Final = 1000 * MS
SETTLED_NS: Final = 10 * SECOND  # limits, memory.high and the like are looked up again after that
RESCAN_NS: Final = 100 * MS  # a machine that makes cgroups all the time: looked through ten times a second at most
RESCAN_SHARE: Final = 8  # and at most an eighth of the time
# But a new cgroup is not left alone for longer than that, whatever the last look took: a leak may fill it in a second.
# (A virtual machine's processor may be taken away for half a second in the middle of a look of 5 ms: 4 s of blindness.)
RESCAN_MOST_NS: Final = 400 * MS
# A thousand come in 0.3 s, and in v1, where each threshold waits for an RCU grace period, in 18: so much of it a turn.
# Then it sleeps: a real-time process that has not for ten seconds is ended by the kernel (RLIMIT_RTTIME).
COMING_NS: Final = 50 * MS
COMING_PAUSE_NS: Final = 10 * MS
SOON_NS: Final = 10 * MS  # what came without its files is looked for again after twice that, and twice that, ...
# Where not every directory could be watched all are looked through again, for a hundredth of the time.
UNWATCHED_NS: Final = (SECOND, 60 * SECOND)
UNWATCHED_SHARE: Final = 100
DESCRIPTORS: Final = 12  # a watched cgroup keeps six open: at most half of what we may have
LONGEST_S: Final = 3600.0
UNREAD_NS: Final = 100 * MS  # what could not be read is read again after that
KEEP_NS: Final = SECOND  # in calm one observation a second, for the record; less often while memory stands still
STILL_NS: Final = 20 * SECOND  # as often as systemd wants a sign of life, as shipped
MOVED_SHARE: Final = 1024  # of all memory; a quiet machine breathes by less
BATCH: Final = 256  # events taken at once; what is left comes with the next poll
TURN_NS: Final = MS  # a bound on turns per second: a real-time loop that spins takes the machine with it


class Senses:
    """Everything that is open for reading, and one epoll over it."""

    def __init__(self, plan: Plan, root: str | None, say: Callable[[str, str], None]) -> None:
        """``root``: mount point of the cgroups that have memory, or None. ``say``: (what, why) of what is degraded."""
        self.plan, self.root, self.say = plan, root, say
        self.kind = Cgroup if root is None else kind(root)
        self.pressure_root = None if root is None else self.kind.pressure_root(root)
        self.proc = plan.daemon.proc
        self.proc_fd = procfs.open_proc(self.proc)
        self.meminfo = procfs.MemInfoFile(self.proc)
        self.elsewhere = _elsewhere(plan)
        self.vmstat = procfs.VmStatFile(self.proc)
        self.pressure_file = self._pressure_file()
        self.wants_pressure = self.wants_refaults = False
        self.by_xattr = False  # whether any guard asks for one
        self.zram: Zram | None = None
        self.epoll = select.epoll()
        self.handlers: dict[int, Callable[[int], None]] = {}
        self.watches: dict[str, Watch] = {}
        self.targets: set[TargetId] = set()
        free_ram = libc.free_ram if self.proc == "/proc" else None  # of this machine; not of a made-up one
        self.deadlines = Deadlines(free_ram, lambda: self._read_host().available_bytes, self.vmstat, self._current)
        self.forest: Forest | None = None
        self.rescan_ns = 0
        self.patience_ns = SOON_NS
        self.limits = events.TreeWatch(events.WRITES)  # memory.max of all that is watched, and above
        self.look_took_ns = 0
        self.shares = Shares(root, self._broken)
        self.surveyor = Surveyor(root, self.kind is Cgroup, self.proc_fd, self._broken)
        self.triggers = Stalls(self.listen, self.ignore, self._stalled, say)
        self.levels: dict[TargetId, list[int]] = {}  # eventfds of memory.pressure_level
        self.muted: dict[str, int] = {}  # path: until when its events are not listened to
        self.found_high: Callable[[str, int, int | None], int | None] = lambda _path, _inode, now: now
        self.found_limit: Callable[[str, str, int | None], int | None] | None = None
        self.limited: dict[str, int] = {}  # how many watched cgroups are limited by this one's memory.max
        self.host = self._add(self.meminfo.read())
        self.ledger = Ledger(self.watches, self.vmstat, self._broken)
        self.last_turn_ns = self.kept_ns = 0
        self.kept_plenty = 0  # what was free, or available, at that time
        self.glanced = False
        self.signals: list[int] = []
        self.signal_fd = events.signal_fd((signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
        self.listen(self.signal_fd, select.EPOLLIN, self._on_signal)
        if self.limits.fd >= 0:
            self.listen(self.limits.fd, select.EPOLLIN, self._on_limit)
        self._forget()

    def _forget(self) -> None:
        """Empty the tray on which the next observation is put together."""
        self.wakes: list[Wake] = []
        self.appeared: list[TargetSeen] = []
        self.vanished: list[TargetId] = []
        self.stalls: list[Stalled] = []
        self.asked: list[tuple[TargetId, Depth]] = []
        self.gone: list[VictimGone] = []
        self.results: list[Result] = []
        self.spoke: set[str] = set()

    # -- for the hands and the loop ------------------------------------------------------------------------------

    def listen(self, fd: int, mask: int, handler: Callable[[int], None]) -> None:
        """Call ``handler`` with the event mask when it comes."""
        self.epoll.register(fd, mask)
        self.handlers[fd] = handler

    def ignore(self, fd: int) -> None:
        """Before a descriptor is closed."""
        if self.handlers.pop(fd, None) is not None:
            try:
                self.epoll.unregister(fd)
            except OSError:
                pass  # closed, or removed with what it stood for

    def ask(self, target: TargetId, depth: Depth) -> None:
        """A survey is to come with the next observation."""
        self.asked.append((target, depth))

    def mute(self, target: TargetId, until_ns: int) -> None:
        """Do not listen to that cgroup's events until then."""
        watch = self.watches.get(target.cgroup)
        if watch is not None and watch.events_fd >= 0:
            self.ignore(watch.events_fd)
            self.muted[target.cgroup] = until_ns

    def tell(self, result: Result) -> None:
        """A fact for the next observation."""
        self.results.append(result)

    def tell_gone(self, token: int) -> None:
        """The victim of this token has ended: a fact for the next observation."""
        self.gone.append(VictimGone(token, time.monotonic_ns()))

    # -- the turn ------------------------------------------------------------------------------------------------

    def observe(self, state: State, until_ns: int) -> Observation:
        """Sleep until the kernel speaks, a deadline is over that cannot be put off, or ``until_ns``; then see."""
        show_ns = pace.NEVER if state.targets else self.kept_ns + STILL_NS  # nothing is guarded: for who looks at it
        due = self._wait(state, min(until_ns, show_ns))
        if due is None and self.ledger.speaks(time.monotonic_ns()):
            due = [target for target in state.targets if target.cgroup == "/"]
        self.glanced = due is None
        if due is None:
            self.kept_ns = at_ns = time.monotonic_ns()
            wakes, shares = (Wake("glance"),), self._shares(at_ns)
            return Observation(at_ns, wakes, self._read_host(), self._pressure(), shares=shares)
        early_ns = self.last_turn_ns + TURN_NS - time.monotonic_ns()
        if early_ns > 0:
            time.sleep(early_ns / SECOND)  # whatever is ready already
        self.last_turn_ns = self.kept_ns = at_ns = time.monotonic_ns()
        if not self.wakes:
            self.wakes.append(Wake("deadline"))
        self._rescan(at_ns)
        machine = not state.targets or any(t.cgroup == "/" for t in due)
        machine = machine or any(s.target.cgroup == "/" for s in self.stalls)
        machine = machine or any(new.target.cgroup == "/" for new in self.appeared)
        machine = machine or any(target.cgroup == "/" for target, _ in self.asked)
        paths = {t.cgroup for t in due} | self.spoke | {target.cgroup for target, _ in self.asked}
        paths |= {stalled.target.cgroup for stalled in self.stalls}  # it holds for its window: judged now or not at all
        machine = machine or any(self.watches[path].wants_host for path in paths & self.watches.keys())
        host = self._read_host() if machine else None
        surveys = tuple(self._survey(target, depth) for target, depth in self.asked)
        cgroups = self._cgroups(at_ns, paths)
        seen = Observation(
            at_ns,
            tuple(self.wakes),
            host or (self.host if state.host is None else None),
            self._pressure() if machine else None,
            tuple(self.appeared),
            tuple(self.vanished),
            cgroups,
            tuple(self.stalls),
            surveys,
            tuple(self.gone),
            tuple(self.results),
            self.ledger.look(at_ns),
            self._shares(at_ns),
            self._refaults() if machine and self.wants_refaults else None,
            self._compressed() if machine and self.zram is not None else None,
        )
        self._forget()
        return seen

    def look_around(self, state: State, at_ns: int) -> None:
        """After a turn, when nothing is left to be done: for the record of the next one."""
        if at_ns >= self.shares.walk_ns and all(target.phase == "calm" for target in state.targets.values()):
            self.shares.walk(at_ns, self.host)

    def _shares(self, at_ns: int) -> tuple[Share, ...]:
        due = at_ns >= self.shares.next_ns
        return self.shares.look(at_ns, [watch.group for watch in self.watches.values()]) if due else ()

    def _anything(self) -> bool:
        """Whether something lies ready that must not wait."""
        return bool(self.results or self.gone or self.appeared or self.vanished or self.asked or self.stalls)

    def _wait(self, state: State, until_ns: int) -> list[TargetId] | None:
        """Until something is to be judged; whose deadlines are over then. None: nothing is, but for the record.

        The inner lines run ten times a second on a small machine, all day: between two naps there is one system call
        and a comparison.
        """
        clock, free_ram = time.monotonic_ns, self.deadlines.free_ram or (lambda: -1)
        keep_ns, still_ns = self.kept_ns + KEEP_NS, min(self.kept_ns + STILL_NS, until_ns)
        moved, free, plenty = self.host.total_bytes // MOVED_SHARE, -1, 0
        while True:
            now_ns = clock()
            line, bound, tripped, end_ns = self.deadlines.put_off(state)
            # While MemFree settles it, who waits for a sign of life gets a glance; else a turn.
            turn_ns, show_ns = (pace.NEVER, still_ns) if line else (until_ns, pace.NEVER)
            end_ns = 0 if self._anything() else min(end_ns, turn_ns, self.rescan_ns or turn_ns)
            chore_ns, bound_ns = self._next_chore(), now_ns if bound else pace.NEVER
            while now_ns < end_ns:
                if now_ns >= bound_ns:
                    if (spare := bound - self.vmstat.allocated_bytes()) <= 0:
                        self.deadlines.forget()
                        break
                    bound_ns = now_ns + pace.until_filled(spare, tripped)
                if line:
                    free = plenty = free_ram()
                    if free <= line and (plenty := self._read_host().available_bytes) <= line:
                        self.deadlines.forget()
                        break
                    if now_ns >= show_ns or (now_ns >= keep_ns and abs(plenty - self.kept_plenty) > moved):
                        self.kept_plenty = plenty
                        return None
                nap_ns = min(end_ns, chore_ns, bound_ns, show_ns) - now_ns
                batch = self._nap(nap_ns, line, free, plenty, moved)
                now_ns = clock()
                if batch:
                    self._handle(batch)
                    return self.deadlines.due(state, now_ns)
                if now_ns >= chore_ns:
                    self._chores(now_ns)
                    chore_ns = self._next_chore()
            if now_ns >= end_ns:
                self._handle(self.epoll.poll(0, BATCH))
                due = self.deadlines.due(state, now_ns)
                if due or self.wakes or self._anything() or now_ns >= min(until_ns, self.rescan_ns or until_ns):
                    return due

    def _nap(self, most_ns: int, line: int, free: int, plenty: int, moved: int) -> list[tuple[int, int]]:
        """What is ready; nothing when ``most_ns`` are over, or ``line`` should be looked at again, or was reached."""
        if line and free > line:
            return self._doze(most_ns, line, free, moved)
        if line:
            most_ns = min(most_ns, pace.until_filled(plenty - line))
        return self.epoll.poll(_seconds(most_ns), BATCH)

    def _doze(self, most_ns: int, line: int, free: int, moved: int) -> list[tuple[int, int]]:
        """As many naps as fit, each as long as the fastest leak needs from what is free to the line.

        What is ready; nothing when it is over, or MemFree has come to the line, or is not what was kept of it. This
        runs ten times a second, all day: nothing is in it that could be outside.
        """
        poll, clock, free_ram = self.epoll.poll, time.monotonic, self.deadlines.free_ram or libc.free_ram
        low, high = max(line + 1, self.kept_plenty - moved), self.kept_plenty + moved
        shortest, each = pace.CALM_NS[0] / SECOND, 1 / pace.FILL
        now = clock()
        end = now + _seconds(most_ns)
        while True:
            nap, left = (free - line) * each, end - now
            if nap < shortest:  # noqa: PLR1730  (a call of max takes five times as long)
                nap = shortest
            batch = poll(nap if nap < left else left, BATCH)
            now = clock()
            if batch or now >= end:
                return batch
            free = free_ram()
            if not low <= free <= high:
                return batch

    def _handle(self, batch: list[tuple[int, int]]) -> None:
        # A handler may close what comes later in the batch, and its number may have a new owner by then.
        for fd, mask, handler in [(fd, mask, self.handlers.get(fd)) for fd, mask in batch]:
            if handler is not None and self.handlers.get(fd) is handler:
                handler(mask)
        self._chores(time.monotonic_ns())

    def _next_chore(self) -> int:
        return min(*self.muted.values(), self.triggers.until_ns(), pace.NEVER)

    def _chores(self, now_ns: int) -> None:
        """What has its time, but is nobody's turn."""
        if self.muted:
            self._unmute(now_ns)
        if self.triggers.until_ns() <= now_ns:
            self.triggers.look(now_ns)

    def _on_signal(self, _mask: int) -> None:
        self.signals += events.read_signals(self.signal_fd)
        self.wakes.append(Wake("signal"))

    def _current(self, path: str) -> int | None:
        watch = self.watches.get(path)
        return None if watch is None else watch.group.current()

    def _survey(self, target: TargetId, depth: Depth) -> Survey:
        guard = next((guard for guard in self.plan.guards if guard.name == target.guard), None)
        return self.surveyor.survey(target, depth, guard, self.host)

    # -- targets -------------------------------------------------------------------------------------------------

    def aim(
        self,
        plan: Plan,
        keep: frozenset[str] = frozenset(),
        changed: frozenset[str] = frozenset(),
        at_once: bool = False,
    ) -> None:
        """Watch what this plan's guards mean. Targets of guards in ``keep`` stay as they are.

        Those of ``changed`` ones stay, too, where the new one still means them; it is listened for what that waits for.
        ``at_once``: all that are there now are taken in, however long it takes.
        """
        self.plan = plan
        self.by_xattr = any(guard.xattr for guard in plan.guards)
        self._ask_of_the_machine()
        for target in list(self.targets):
            guard = self._guard_of(target)
            if guard is None or guard.name not in keep | changed:
                self._leave(target)
            elif guard.name in changed:
                self.deadlines.leave(target)
                self.triggers.leave(target)
                self._leave_levels(target)
                self._listen_stalls(guard, target)
        for path, watch in self.watches.items():
            watch.aim(self._guards(path))
            self._move_alarm(watch)
        patterns = tuple(sorted({glob for guard in plan.guards if guard.cgroup != "/" for glob in globs(guard.cgroup)}))
        if self.forest is not None:
            self.ignore(self.forest.fileno())
            self.forest.close()
            self.forest = None
        if patterns and self.root is None:
            self.say("cgroups", "no cgroups with the memory controller are mounted: only guards on / work here")
        elif patterns and self.root is not None:
            self.forest = Forest(self.root, patterns, attributes=self.by_xattr)
            if self.forest.fileno() >= 0:
                self.listen(self.forest.fileno(), select.EPOLLIN, self._on_tree)
            else:
                self.say("cgroups", "inotify: fs.inotify.max_user_instances: new cgroups are looked for once a second")
        for guard in plan.guards:
            if guard.cgroup == "/":
                self._come_machine(guard)
        self._look_through(at_once)

    def _guard_of(self, target: TargetId) -> Guard | None:
        """The guard of that name, if it means that cgroup."""
        guards = self._guards(target.cgroup) if target.cgroup != "/" else self.plan.guards
        found = next((guard for guard in guards if guard.name == target.guard), None)
        return None if found is None or (found.cgroup == "/") != (target.cgroup == "/") else found

    def _ask_of_the_machine(self) -> None:
        """What few policies ask for is not read, or even loaded, for the others."""
        guards = [guard for guard in self.plan.guards if guard.cgroup == "/"]
        self.wants_pressure = wanted(guards, *PRESSURE)
        self.wants_refaults = wanted(guards, RefaultsAbove)
        self.zram = None
        if wanted(self.plan.guards, ZramAbove):
            from ..linux.zram import Zram

            self.zram = Zram(self.proc, self.plan.daemon.sys)

    def _on_tree(self, _mask: int) -> None:
        if self.forest is not None and self.forest.changed():
            pause = min(RESCAN_SHARE * self.look_took_ns, RESCAN_MOST_NS)
            self._rescan_by(self.last_turn_ns + max(RESCAN_NS, pause))
            self.patience_ns = SOON_NS
        self.wakes.append(Wake("tree"))

    def _rescan_by(self, at_ns: int) -> None:
        self.rescan_ns = min(self.rescan_ns or at_ns, at_ns)

    def _rescan(self, at_ns: int) -> None:
        if self.rescan_ns and at_ns >= self.rescan_ns:
            self.rescan_ns = 0
            self._look_through()
            self.look_took_ns = time.monotonic_ns() - at_ns

    def _look_through(self, at_once: bool = False) -> None:
        if self.forest is None or self.root is None:
            return
        try:
            found = self.forest.matching()
        except OSError as error:
            self._broken(error)
            self._rescan_by(time.monotonic_ns() + SECOND)
            return
        for path, watch in list(self.watches.items()):
            if found.get(path) != watch.group.inode or (watch.lost and not self._readable(watch)):
                for target in tuple(watch.targets):
                    self._leave(target)
        late, until_ns = False, pace.NEVER if at_once else time.monotonic_ns() + COMING_NS
        for path in found:
            known = self.watches.get(path)
            guards = self._guards(path) if known is None or self.by_xattr else known.guards
            if known is not None and guards != known.guards:  # an xattr came, went, or has another value
                self._aim_again(known, guards)
            missing = [g for g in guards if TargetId(g.name, path) not in self.targets]
            if missing and not self._come(path, missing):
                late = True
            elif missing and time.monotonic_ns() >= until_ns:
                self._rescan_by(time.monotonic_ns() + COMING_PAUSE_NS)
                break
        self._look_again(late, self.forest.overflowed)

    def _aim_again(self, watch: Watch, guards: tuple[Guard, ...]) -> None:
        names = {guard.name for guard in guards}
        for target in [target for target in watch.targets if target.guard not in names]:
            self._leave(target)
        watch.aim(guards)

    def _look_again(self, late: bool, overflowed: bool) -> None:
        """For what comes without an event: soon at first, for one that has no memory files (yet); in a minute.

        systemd makes a service's directory first, and gives it the memory controller a moment later.
        """
        least_ns, most_ns = UNWATCHED_NS
        self.patience_ns = min(2 * self.patience_ns, most_ns) if late else SOON_NS
        if late or overflowed:
            unwatched_ns = max(least_ns, min(UNWATCHED_SHARE * self.look_took_ns, most_ns))
            self._rescan_by(time.monotonic_ns() + (self.patience_ns if late else unwatched_ns))

    def _readable(self, watch: Watch) -> bool:
        try:
            return watch.group.current() is not None
        except OSError:
            return True  # broken is not gone

    def _guards(self, path: str) -> tuple[Guard, ...]:
        found = tuple(guard for guard in self.plan.guards if guard.cgroup != "/" and selects(guard.cgroup, path))
        if not self.by_xattr or self.root is None:
            return found
        root = self.root
        return tuple(g for g in found if not g.xattr or bears(g, xattr(root, path, g.xattr_name)))

    def _watch_limits(self, path: str) -> None:
        """Be told when a limit on the way up is written. systemd makes a service's cgroup first and limits it then."""
        while path not in ("", "/"):
            self.limited[path] = self.limited.get(path, 0) + 1
            try:
                self.limits.watch(f"{self.root}{path}/{self.kind.LIMIT}")
            except OSError as error:
                self.say("limits", f"{error.filename}: {error.strerror}: limits are looked up every 10 s only")
            path = path.rpartition("/")[0]

    def _unwatch_limits(self, path: str) -> None:
        while path not in ("", "/"):
            self.limited[path] -= 1
            if not self.limited[path]:
                del self.limited[path]
                self.limits.unwatch(f"{self.root}{path}/{self.kind.LIMIT}")
            path = path.rpartition("/")[0]

    def _on_limit(self, _mask: int) -> None:
        changed = {path.removeprefix(self.root or "").rpartition("/")[0] for path in self.limits.drain()}
        for path, watch in self.watches.items():
            if "" in changed or any(is_inside(path, above) for above in changed):
                watch.settled_ns = 0
                self.spoke.add(path)
        self.wakes.append(Wake("tree"))

    def _come_machine(self, guard: Guard) -> None:
        target = TargetId(guard.name, "/")
        if target in self.targets:
            return
        self.targets.add(target)
        self.appeared.append(TargetSeen(target, None))
        self._listen_stalls(guard, target)

    def _listen_stalls(self, guard: Guard, target: TargetId) -> None:
        for condition in conditions(guard):
            if isinstance(condition, LevelAbove):
                self._listen_level(target, condition)
            if not isinstance(condition, StallAbove):
                continue
            if target.cgroup == "/":
                self.triggers.come(Target(target, condition, f"{self.proc}/pressure/memory"), "")
                continue
            patterns = globs(guard.cgroup)
            start = patterns[0] if len(patterns) == 1 and self.pressure_root is not None else "/*"
            above = pressure_above(self.pressure_root or "", start, self.proc)
            file = self.watches[target.cgroup].group.where("memory.pressure")
            self.triggers.come(Target(target, condition, file), above)

    def _come(self, path: str, guards: Iterable[Guard]) -> bool:
        """False: there is nothing to read there (any more)."""
        watch = self.watches.get(path) or self._open(path)
        facts = None if watch is None else self._settle(watch, time.monotonic_ns())
        if watch is None or facts is None:
            if watch is not None and path not in self.watches:
                watch.group.close()
            return False
        if path not in self.watches:
            self.watches[path] = watch
            self._watch_limits(path)
            # Once more, now that writes are told: systemd makes the directory, and sets memory.max a millisecond later.
            # A limit that came between the first look and the watch would not be known for ten seconds.
            facts = self._settle(watch, time.monotonic_ns()) or facts
        watch.aim(self._guards(path))
        for guard in guards:
            target = TargetId(guard.name, path)
            self.targets.add(target)
            watch.targets.add(target)
            self.appeared.append(TargetSeen(target, facts))
            self._listen_stalls(guard, target)
        self._listen_events(watch)
        return True

    def _open(self, path: str) -> Watch | None:
        assert self.root is not None
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // DESCRIPTORS
        if len(self.watches) >= most:  # what is left is for the kill
            self.say("cgroups", f"{most} are watched, and no more: RLIMIT_NOFILE is {most * DESCRIPTORS}")
            return None
        try:
            group = Cgroup.open(self.root, path)
        except OSError as error:
            self._broken(error)
            return None
        return None if group is None else Watch(group, self._guards(path))

    def _leave(self, target: TargetId) -> None:
        self.targets.discard(target)
        self.deadlines.leave(target)
        self.vanished.append(target)
        self.triggers.leave(target)
        self._leave_levels(target)
        watch = self.watches.get(target.cgroup)
        if watch is None:
            return
        watch.targets.discard(target)
        if not watch.targets:
            del self.watches[target.cgroup]
            self.muted.pop(target.cgroup, None)
            if watch.events_fd >= 0:
                self.ignore(watch.events_fd)
            watch.group.close()
            self._unwatch_limits(target.cgroup)

    def _stalled(self, target: TargetId, number: int) -> None:
        self.stalls.append(Stalled(target, number))
        self.wakes.append(Wake("pressure", target.cgroup))

    def _listen_level(self, target: TargetId, condition: LevelAbove) -> None:
        """memory.pressure_level, which v1 alone has; of the machine it is that of the root."""

        def spoke(_mask: int) -> None:
            if events.drain(fd) and target in self.targets:
                self._stalled(target, condition.number)

        try:
            group = None if self.root is None else Cgroup.open(self.root, target.cgroup)
            if group is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "memory.pressure_level")
            try:
                mode = "" if condition.mode == "default" else f",{condition.mode}"
                fd = group.level_fd(f"{condition.level}{mode}")
            finally:
                group.close()
            self.listen(fd, select.EPOLLIN, spoke)
        except OSError as error:
            self.say("level_above", f"{error.filename}: {error.strerror}: that condition cannot hold")
            return
        self.levels.setdefault(target, []).append(fd)

    def _leave_levels(self, target: TargetId) -> None:
        for fd in self.levels.pop(target, ()):
            self.ignore(fd)
            os.close(fd)

    # -- memory.events -------------------------------------------------------------------------------------------

    def _listen_events(self, watch: Watch) -> None:
        if watch.events_fd >= 0:
            return
        path = watch.group.path

        def spoke(_mask: int) -> None:
            self.spoke.add(path)
            self.wakes.append(Wake("events", path))

        try:
            watch.group.alarm_at(watch.lines(self.host.total_bytes))
            fd = watch.group.events_fd()
            self.listen(fd, self.kind.SPEAKS, spoke)
        except OSError as error:
            if error.errno not in files.GONE:  # else it is gone, or the memory controller is off in it
                self.say("events", f"{error.filename}: {error.strerror}: nothing wakes for it but deadlines")
            return
        if watch.group.deaf:
            self.say("events", watch.group.deaf)
        watch.events_fd = fd

    def _move_alarm(self, watch: Watch) -> None:
        """The lines have moved: v1 has thresholds there, and is to tell of the new ones."""
        if self.kind is Cgroup or watch.events_fd not in self.handlers:
            return
        self.ignore(watch.events_fd)  # it is closed now, if they have
        watch.events_fd = -1
        self._listen_events(watch)

    def _unmute(self, now_ns: int) -> None:
        for path in [path for path, until_ns in self.muted.items() if until_ns <= now_ns]:
            del self.muted[path]
            watch = self.watches[path]
            watch.events_fd = -1
            self._listen_events(watch)  # reads them, so that only what comes from now on wakes

    # -- reading -------------------------------------------------------------------------------------------------

    def _settle(self, watch: Watch, at_ns: int) -> CgroupFacts | None:
        """What seldom changes. None: gone, or no memory controller there."""
        watch.settled_ns = at_ns
        try:
            settled = watch.group.settled(self.found_limit)
        except OSError as error:
            self._broken(error)
            return watch.settled
        if settled is not None:
            high = self.found_high(settled.path, settled.inode, settled.high_bytes)
            moved = watch.settled is None or watch.settled.limit_bytes != settled.limit_bytes
            watch.settled = replace(settled, high_bytes=high)
            if moved:
                self._move_alarm(watch)
        return watch.settled if settled is not None else None

    def _broken(self, error: OSError) -> None:
        """A file that should be readable is not: said once, and what was known before stands until it is."""
        self.say("reading", f"{error.filename}: {error.strerror}: what was read there before is taken for true")

    def _read_host(self) -> MemInfo:
        try:
            self.host = self._add(self.meminfo.read())
        except OSError as error:
            self._broken(error)
        return self.host

    def _add(self, host: MemInfo) -> MemInfo:
        """What comes back when it is wanted, and MemAvailable misses."""
        if self.elsewhere is None:
            return host
        host = self.elsewhere.added_to(host)
        if self.elsewhere.why:
            self.say("also_available", f"{self.elsewhere.why}: nothing is added to MemAvailable")
        return host

    def _cgroups(self, at_ns: int, paths: set[str]) -> tuple[CgroupFacts, ...]:
        found = []
        for path in sorted(paths & self.watches.keys()):
            watch = self.watches[path]
            try:
                facts = watch.last = self._read(watch, at_ns)
            except OSError as error:
                self._broken(error)
                facts = watch.last
            if facts is not None:
                found.append(facts)
            for target in watch.targets:
                self.deadlines.later[target] = 0 if facts is not None else at_ns + UNREAD_NS
        return tuple(found)

    def _read(self, watch: Watch, at_ns: int) -> CgroupFacts | None:
        if at_ns - watch.settled_ns >= SETTLED_NS:
            self._settle(watch, at_ns)
        current = watch.group.current()
        watch.lost = current is None
        if current is None:
            if watch.events_fd >= 0:
                self.ignore(watch.events_fd)  # it would speak for ever
            self._rescan_by(at_ns)  # gone: the forest will tell who came instead
            return None
        facts = watch.group.facts(
            stat=watch.wants_use or current >= watch.line_bytes(self.host.total_bytes),
            events=watch.wants_events or watch.group.path in self.spoke or watch.kills < 0,
            pressure=watch.wants_pressure,
            refaults=watch.wants_refaults,
            known=watch.settled,
        )
        if facts is not None and facts.events is not None:
            self.ledger.tell(watch, facts.events.oom_kill)
        return facts

    def _pressure_file(self) -> psi.PressureFile | None:
        try:
            return psi.PressureFile(f"{self.proc}/pressure/memory")
        except OSError as error:
            self.say("psi", f"{error.filename}: {error.strerror}: pressure conditions never hold; boot with psi=1")
            return None

    def _pressure(self) -> Pressure | None:
        if self.pressure_file is None or not self.wants_pressure:
            return None
        try:
            return self.pressure_file.read()
        except OSError as error:
            self._broken(error)
            return None

    def _refaults(self) -> Refaults | None:
        try:
            return self.vmstat.refaults()
        except OSError as error:
            self._broken(error)
            return None

    def _compressed(self) -> Compressed | None:
        try:
            return None if self.zram is None else self.zram.read()
        except OSError as error:
            self._broken(error)
            return None


def _seconds(nap_ns: int) -> float:
    return min(max(0.0, nap_ns / SECOND), LONGEST_S)


def _elsewhere(plan: Plan) -> "Elsewhere | None":
    """What few policies ask for is loaded for them alone."""
    asked = plan.daemon.also_available
    if asked is None:
        return None
    from ..linux.elsewhere import Elsewhere

    return Elsewhere(asked.file, asked.key, asked.less)
