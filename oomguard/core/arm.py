"""From the fork of the workers to READY=1: open, rehearse, reserve, lock; and the way back at the end.

Whatever this machine lacks is named here, once, in ``status`` and in the journal.
"""

import gc
import os
import resource
import time
from typing import Final

from ..judge import decide as judge
from ..linux import cgroup2, memlock, procfs, systemd
from ..model import statuslayout
from ..model.facts import Observation, Result
from ..model.policy import Plan, RunStep, TellStep
from ..workers.pool import Mailbox
from . import rehearse, senders
from .act import Hands
from .boot import Boot
from .lease import LeaseBook
from .loop import Loop
from .observe import Senses
from .record import Recorder
from .reload import keep_plan
from .status import Status

RR_PRIORITY: Final = 20  # over everything that does not ask for real time, under what keeps a machine alive (50, 99)
RTTIME_US: Final = (
    10_000_000  # a real-time loop that spins so long is ended by the kernel, and started again by systemd
)
ENDING_S: Final = 4.0  # for workers to finish what they have begun; the unit waits 15 s for us


class Arm:
    """The core, put together from what ``boot`` has left it."""

    def __init__(self, boot: Boot) -> None:
        """OSError with the path: the status page cannot be made."""
        self.plan, self.plan_text, self.root, self.pool = boot.plan, boot.plan_text, boot.root, boot.pool
        self.orders, self.answers, self.journal = boot.orders, boot.answers, boot.journal
        self.boot = boot
        self.recorder = Recorder(boot.ring, tuple(boot.bells.values()), boot.minutes)
        self.status = Status(f"{self.plan.daemon.runtime_dir}/{statuslayout.NAME}", self.plan.version)
        self.status.undone = len(boot.undone)
        self.said = [("LEASE_UNDONE", sentence) for sentence in boot.undone]  # for the journal, once there is a herald
        self.announced = False
        for what, why in (*boot.lacks.items(), *self.plan.remarks):
            self.degraded(what, why)

    def degraded(self, what: str, why: str) -> None:
        """Named in status, and in the journal."""
        if not self.status.degraded(what, why):
            return
        if self.announced:
            self.recorder.say("DEGRADED", f"{what}: {why}", time.monotonic_ns())
        else:
            self.said.append(("DEGRADED", f"{what}: {why}"))

    def loop(self) -> Loop:
        """Everything opened, rehearsed, locked; READY=1 is out."""
        plan, daemon, boot = self.plan, self.plan.daemon, self.boot
        senses = Senses(plan, self.root, self.degraded)
        root = self.root or daemon.cgroup
        book = LeaseBook(self.journal, self.orders, root, daemon.proc)
        book.say = self.degraded
        senses.found_high, senses.surveyor.found_score = book.found_high, book.found_score
        senses.found_limit = book.found_limit
        self.status.pressure_file = senses.pressure_file
        hands = Hands(plan, self.root, senses, self.orders, book, self.pool.pulse)
        ours = {os.getpid(), *self.pool.pids()}
        state = judge.begin(ours, _own_cgroup(ours, self.root, daemon.proc))
        socket = os.environ.get("NOTIFY_SOCKET")
        loop = Loop(plan, state, senses, hands, self.recorder, self.status, self.pool, socket)
        for worker in self.pool.workers.values():
            loop.mind(worker)
        senses.listen(self.answers.bell, 1, lambda _mask: self._answers(senses, book, hands))
        senses.listen(boot.words.bell, 1, lambda _mask: self._words())
        if boot.hooked is not None:
            self._hear_hooks(boot.hooked, senses, hands)
        if boot.pressure is not None:
            boot.pressure.hear(senses, hands, self.degraded)
        loop.hook_up = lambda plan: self._hook_up(plan, loop)
        for what, why in rehearse.syscalls(senses.proc_fd):
            self.degraded(what, why)
        for what, why in rehearse.measures(self.boot.asked, self.root):
            self.degraded(what, why)
        rehearse.storm(plan)
        loop.watchdog_ns = _watchdog_ns()
        senses.aim(plan, at_once=True)
        self._real_time()
        self._lock()
        loop.turn(until_ns=0)
        self._announce(loop)
        self.status.arm()
        return loop

    def _words(self) -> None:
        """What the herald says of its sinks. The journal it tells by itself."""
        for what, why in self.boot.words.take()[0]:
            if why:
                self.status.degraded(what, why)
            else:
                self.status.mended(what)

    def _hear_hooks(self, hooked: Mailbox, senses: Senses, hands: Hands) -> None:
        def heard(_mask: int) -> None:
            for token, what, number, took_ns, value in hooked.take()[0]:
                senses.tell(Result(token, what, number, took_ns, value))

        hands.runs_hooks = True
        senses.listen(hooked.bell, 1, heard)

    def _hook_up(self, plan: Plan, loop: Loop) -> None:
        """A reload has brought new actions; the first hook takes a process of its own, and all is calm."""
        for what, why in rehearse.measures(plan, self.root):
            self.degraded(what, why)
        self._sink_up(plan, loop)
        steps = plan.steps()
        if self.boot.hooked is None and any(isinstance(step, RunStep) for step in steps):
            self._first_hook(plan, loop)
        if self.boot.pressure is not None:
            self.boot.pressure.renew(plan, loop)
        elif any(isinstance(step, TellStep) for step in steps):
            self._first_tell(plan, loop)

    def _first_hook(self, plan: Plan, loop: Loop) -> None:
        try:
            hooked = self.boot.start_runner(plan)
        except OSError as error:
            self.degraded("runner", f"{error.strerror}: no hook is run")
            return
        self.recorder.bells = tuple(self.boot.bells.values())
        self._hear_hooks(hooked, loop.senses, loop.hands)
        loop.came(self.pool.workers["runner"])

    def _first_tell(self, plan: Plan, loop: Loop) -> None:
        try:
            pressure = self.boot.start_broker(plan)
        except OSError as error:
            self.degraded("pressure", f"{error.strerror}: no program is told")
            return
        self.recorder.bells = tuple(self.boot.bells.values())
        pressure.hear(loop.senses, loop.hands, self.degraded)
        loop.came(self.pool.workers["broker"])

    def _sink_up(self, plan: Plan, loop: Loop) -> None:
        """Who sends is started anew: its sinks are others perhaps, or their secrets.

        So is a herald that had no sinks: what it needs for them it must load before it is nobody.
        """
        before, self.boot.told = self.boot.told, plan
        herald = self.pool.workers["herald"]
        first = plan.sinks and not before.sinks and herald.pidfd >= 0
        try:
            loop.dead = [worker for worker in loop.dead if worker.name not in senders.NAMES]
            for name in senders.NAMES:
                self.status.mended(name)
            senders.end(self.pool, (*senders.NAMES, *(["herald"] if first else ())), loop.senses.ignore)
            if first:
                self.pool.fork(herald)
                loop.came(herald)
            for worker in senders.start(self.pool, plan):
                loop.came(worker)
        except OSError as error:
            self.degraded("sender", f"{error.strerror}: sinks are told nothing")

    def _answers(self, senses: Senses, book: LeaseBook, hands: Hands) -> None:
        messages, lost = self.answers.take()
        for token, what, number, took_ns, value in messages:
            if what == "Lost":
                lost = 1
                continue
            if what == "UnitJob" and not token:  # the rehearsal's
                if number:
                    why = f"systemd cannot be asked for jobs: {os.strerror(number)}: no unit is restarted or stopped"
                    self.degraded("units", why)
                continue
            senses.tell(Result(token, what, number, took_ns, value))
            if what in ("Lease", "Release"):
                book.settled(token, what, number)
            elif what == "Deadman":
                self._came_back(took_ns)
        if lost:
            self.status.degraded("reaper", "some of its orders or answers were lost: more than 1,500 at once")
            book.again()
            hands.again()

    def _came_back(self, silence_ns: int) -> None:
        """We stood still, and the dead man has acted. From here on nobody but we may kill again."""
        self.pool.pulse.beat(time.monotonic_ns())
        self.pool.pulse.give()
        self.degraded("core", f"it stood still for {silence_ns / 1e9:.1f} s, and the dead man has ended its nominee")

    def _real_time(self) -> None:
        try:
            resource.setrlimit(resource.RLIMIT_RTTIME, (RTTIME_US, RTTIME_US))
            policy = os.SCHED_RR | os.SCHED_RESET_ON_FORK
            os.sched_setscheduler(0, policy, os.sched_param(RR_PRIORITY))
        except (OSError, ValueError) as error:
            self.degraded("real time", f"SCHED_RR: {error}: a busy machine may delay us")

    def _lock(self) -> None:
        gc.collect()
        memlock.reserve(self.plan.daemon.heap_bytes)
        why = memlock.lock()
        if why is not None:
            self.degraded("memory lock", why)
        memlock.populate()
        memlock.settle()

    def _announce(self, loop: Loop) -> None:
        plan = self.plan
        at_ns = time.monotonic_ns()
        mode = ", ".join(f"{guard.name} ({guard.mode})" for guard in plan.guards) or "none"
        self.recorder.say("STARTED", f"oomguard {plan.version} guards: {mode}", at_ns)
        self.status.tell("STARTED", "", f"oomguard {plan.version} guards: {mode}")
        for message, text in self.said:
            self.recorder.say(message, text, at_ns)
        self.said.clear()
        self.announced = True
        self.status.publish(plan, loop.state, Observation(at_ns), self.recorder.dropped)
        keep_plan(plan, self.plan_text)
        systemd.notify(f"READY=1\nSTATUS=guarding: {mode}\nMAINPID={os.getpid()}", loop.notify_socket)

    def stop(self, loop: Loop) -> None:
        """Put everything back, say so, and let the workers finish."""
        systemd.notify(b"STOPPING=1", loop.notify_socket)
        # First the reaper, lest an order that it has not come to yet undoes what is put back here.
        self.pool.kill("reaper", ENDING_S)
        for sentence in loop.hands.book.end_all():
            self.recorder.say("LEASE_UNDONE", sentence, time.monotonic_ns())
        loop.hands.let_go()
        self.recorder.say("STOPPED", "oomguard ends; everything it had set for a time is put back", time.monotonic_ns())
        self.pool.end(ENDING_S)
        self.status.remove()


def _own_cgroup(ours: set[int], root: str | None, proc: str) -> str:
    """Our cgroup, if nobody else lives in it."""
    proc_fd = procfs.open_proc(proc)
    try:
        me = procfs.read_process(proc_fd, os.getpid())
    finally:
        os.close(proc_fd)
    group = cgroup2.Cgroup.open(root, me.cgroup) if me is not None and root is not None else None
    if group is None:
        return ""
    try:
        return group.path if set(group.procs()) <= ours else ""
    finally:
        group.close()


def _watchdog_ns() -> int:
    """Half of what systemd asks for, as sd_watchdog_enabled(3) advises; 0: it does not ask."""
    try:
        return int(os.environ.get("WATCHDOG_USEC", "0")) * 1000 // 2
    except ValueError:
        return 0
