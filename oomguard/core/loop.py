"""The loop. All else in this house serves these lines."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from ..judge.decide import decide
from ..judge.pace import NEVER
from ..judge.renew import renew
from ..judge.state import State, seed
from ..linux import memlock, systemd
from ..model.policy import Plan, UnitStep
from ..model.verdict import Action, Close, Kill, Notify, Outcome
from ..workers.pool import Pool, Worker
from .act import Hands
from .boot import fitted
from .observe import Senses
from .record import Recorder
from .reload import Reload, keep_plan, renewed
from .status import Status

PLENTY: Final = 128 << 20  # bytes: a compiler takes 50 MB for half a second, a new worker 10
RESTARTS: Final = 20  # of one worker; after that it stays dead, and status says so
EARLY_SHARE: Final = 2  # of the time between two signs of life: when the loop is awake anyway, so much sooner
GROWN: Final = 64  # targets that have come, some 3 KiB each: from so many on the reserve is made whole again


class Loop:
    """The parts, put together by ``boot``, and what holds them together while they run."""

    def __init__(
        self,
        plan: Plan,
        state: State,
        senses: Senses,
        hands: Hands,
        recorder: Recorder,
        status: Status,
        pool: Pool,
        notify_socket: str | None,
    ) -> None:
        self.plan, self.state = plan, state
        self.senses, self.hands, self.recorder, self.status, self.pool = senses, hands, recorder, status, pool
        self.notify_socket = notify_socket
        self.watchdog_ns = 0  # how often systemd wants to hear of us, 0: never
        self.watchdog_due_ns = 0
        self.stopping = False
        self.renewed = False  # the next turn is the first under a new plan
        self.reload = Reload(senses, self._swap, self._refuse)
        self.dead: list[Worker] = []
        self.grown = 0  # targets that have come since the reserve was whole
        self.hook_up: Callable[[Plan], None] = lambda _plan: None

    def run(self) -> None:
        """Until SIGTERM or SIGINT."""
        while not self.stopping:
            self.turn()

    def turn(self, until_ns: int | None = None) -> None:
        """Observe, judge, act, record."""
        until = (self.watchdog_due_ns if self.watchdog_ns else NEVER) if until_ns is None else until_ns
        faults = self.status.counted()
        seen = self.senses.observe(self.state, until)
        before = self.state  # a new policy may have come meanwhile, and with it what is remembered under that
        if self.senses.glanced:  # nothing can have happened: this one is for the record
            self.recorder.keep(seen)
            self.status.glance(before, seen, self.recorder.dropped)
            self._housekeeping(seen.at_ns)
            self.pool.pulse.beat(time.monotonic_ns())
            return
        self.state, actions = decide(self.plan, before, seen)
        outcomes: list[Outcome] = []
        for action in actions:
            outcome = self.hands.perform(action)
            if outcome is not None:
                outcomes.append(outcome)
        if actions:
            self._tell_budgets(actions)
        if seen.appeared:
            self.status.came(new.target for new in seen.appeared)
            self.grown += len(seen.appeared)
        self.hands.look()
        memory = seed(self.plan, before, actions, self.renewed, seen.at_ns) if actions or self.renewed else None
        self.renewed = False
        self.recorder.turn(before.targets, self.state.targets, seen, actions, tuple(outcomes), memory)
        self.status.publish(self.plan, self.state, seen, self.recorder.dropped, actions)
        self._housekeeping(seen.at_ns)
        if self.grown >= GROWN and self.calm():
            self._refill()
            self.status.excuse(faults)  # who is watched takes memory when he comes; from here on faults count again
        self.pool.pulse.beat(time.monotonic_ns())

    def _tell_budgets(self, actions: tuple[Action, ...]) -> None:
        """A budget that is spent stands in status until somebody may be killed again, or need not be."""
        for action in actions:
            match action:
                case Notify(message="BUDGET_SPENT"):
                    self.status.degraded(f"budget of {action.target.guard}", f"{action.target.cgroup}: {action.text}")
                case Close() | Kill():
                    self.status.mended(f"budget of {action.target.guard}")
                case _:
                    pass

    def _refill(self) -> None:
        """Those who have come are watched out of the reserve. It is for storms, and made whole while all is calm."""
        self.grown = 0
        try:
            self.hands.book.refill()
            memlock.refill(self.plan.daemon.heap_bytes)
            self.status.mended("reserve")
        except MemoryError:
            why = f"{self.plan.daemon.heap_bytes >> 10} KiB cannot be had: the core may have to take memory in a storm"
            self.status.degraded("reserve", why)

    def _say(self, message: str, text: str) -> None:
        """For the journal, and for whoever looks on."""
        self.recorder.say(message, text, time.monotonic_ns())
        self.status.tell(message, "", text)

    def calm(self) -> bool:
        """The time for what needs memory: nobody is being ended, and nothing is armed or there is plenty all the same.

        A soft watermark that always holds must not keep the policy that would correct it from being read.
        """
        phases = {target.phase for target in self.state.targets.values()}
        host = self.state.host
        plenty = host is not None and host.available_bytes > PLENTY
        return phases <= {"calm"} or (phases <= {"calm", "armed"} and plenty)

    def _housekeeping(self, at_ns: int) -> None:
        if self.watchdog_ns and at_ns >= self.watchdog_due_ns - self.watchdog_ns // EARLY_SHARE:
            systemd.notify(b"WATCHDOG=1", self.notify_socket)
            self.watchdog_due_ns = at_ns + self.watchdog_ns
        for number in self.senses.signals:
            if number == signal.SIGHUP:
                self.reload.wanted = True
            else:
                self.stopping = True
        self.senses.signals.clear()
        self.reload.hurry(at_ns)
        if self.reload.wanted and self.calm():
            before = self.status.counted()
            self.reload.begin(self.plan, self.notify_socket)
            self.status.excuse(before)  # posix_spawn takes a page for the child's stack
        if self.dead and self.calm():
            self._revive()
        self.hands.book.retry(at_ns)
        self.senses.look_around(self.state, at_ns)

    # -- workers -------------------------------------------------------------------------------------------------

    def mind(self, worker: Worker) -> None:
        """Be told when this worker ends."""

        def ended(_mask: int) -> None:
            self.senses.ignore(worker.pidfd)
            code = self.pool.bury(worker)
            if worker.name == "reaper":
                self.pool.pulse.give()  # it may have had the right to kill
            self.dead.append(worker)
            self.status.degraded(
                worker.name, f"the {worker.name} ended with {code}; it is started again when all is calm"
            )

        self.senses.listen(worker.pidfd, 1, ended)

    def _revive(self) -> None:
        worker = self.dead.pop()
        worker.restarts += 1
        if worker.restarts > RESTARTS:
            self.status.degraded(
                worker.name, f"the {worker.name} ended {RESTARTS} times and stays dead; see the journal"
            )
            return
        self.hands.orders.rewind()  # what the last reaper was told is done, or is done again below
        try:
            self.pool.fork(worker)
        except OSError as error:
            self.dead.append(worker)
            self.status.degraded(worker.name, f"the {worker.name} ended and cannot be started: {error.strerror}")
            return
        self.came(worker)
        self.hands.book.again()
        self.hands.again()
        self.status.mended(worker.name)
        self.recorder.plan(self.plan)  # it was forked with the plan of the boot
        self._say("WORKER_RESTARTED", f"the {worker.name} had ended and was started again")

    def came(self, worker: Worker) -> None:
        """It was forked from the armed core."""
        self.mind(worker)
        memlock.populate()  # the fork has left our pages shared with it: the next write to each would fault
        self.status.arm()  # what that took is no sign of anything
        self.state = replace(self.state, ours=frozenset({os.getpid(), *self.pool.pids()}))

    # -- reload --------------------------------------------------------------------------------------------------

    def _swap(self, plan: Plan, text: bytes) -> None:
        """The new plan is in force. Guards keep their phases and leases, but for what is new in them."""
        old_daemon = self.plan.daemon
        before = {guard.name: guard for guard in self.plan.guards}
        asked, (plan, keep, changed) = plan, renewed(self.plan, fitted(plan, self.senses.root))
        self.state = renew(self.state, before, {guard.name: guard for guard in plan.guards}, changed)
        self.senses.aim(plan, keep, changed)
        self.hands.aim(plan)
        if replace(plan.daemon, budget=old_daemon.budget, shadow=old_daemon.shadow) != old_daemon:
            self.status.degraded("daemon", "the [daemon] table has changed: that takes a restart")
        for what, _ in self.plan.remarks:
            self.status.mended(what)
        for what, why in plan.remarks:
            self.status.degraded(what, why)
        self.status.came(self.senses.targets)
        self.plan, self.renewed = plan, True
        self.grown = GROWN  # the plan itself, and all that is known of its guards
        if any(isinstance(step, UnitStep) for step in plan.steps()):
            self.hands.orders.post(("prepare", 0))
        self.hook_up(asked)
        keep_plan(plan, text)
        self.recorder.plan(plan)
        self.status.mended("reload")
        self._say("RELOADED", f"{len(plan.guards)} policies from {', '.join(plan.files)}")
        systemd.notify(b"READY=1", self.notify_socket)

    def _refuse(self, why: str) -> None:
        """The old plan stays."""
        first = why.strip().splitlines()[0] if why.strip() else "the compiler said nothing"
        self.status.degraded("reload", f"the new policy was refused and the old one is in force: {first}")
        self._say("RELOAD_REFUSED", f"the old policy stays in force: {why.strip()}")
        systemd.notify(b"READY=1", self.notify_socket)
