"""From a sealed plan to READY=1: prefork, rehearse, reserve, lock. Whatever this machine lacks is named here, once."""

import errno
import fcntl
import gc
import json
import os
import resource
import signal
import sys
import time
from typing import Final

from ..judge import decide as judge
from ..linux import cgroup2, leases, libc, memlock, procfs, systemd
from ..model import statuspage
from ..model.codec import from_plain
from ..model.facts import Result
from ..model.policy import Daemon, Plan
from ..workers import herald, reaper, scribe
from ..workers.pool import Mailbox, Pool
from ..workers.ring import Ring
from .act import Hands
from .lease import LeaseBook
from .loop import Loop
from .observe import Senses
from .record import Recorder
from .status import Status

RR_PRIORITY: Final = 20  # over everything that does not ask for real time, under what keeps a machine alive (50, 99)
RTTIME_US: Final = (
    10_000_000  # a real-time loop that spins so long is ended by the kernel, and started again by systemd
)
ENDING_S: Final = 4.0  # for workers to finish what they have begun; the unit waits 15 s for us
LOCK_WAIT_S: Final = 5.0  # the reaper of a daemon that was killed still puts things back and holds the lock so long

# What a capability is for, where it is missing.
NEEDED: Final = {
    "CAP_KILL": "only our own processes can be killed",
    "CAP_IPC_LOCK": "memory can be locked only up to RLIMIT_MEMLOCK",
    "CAP_SYS_RESOURCE": "PSI windows are multiples of 2 s, and oom_score_adj cannot be lowered",
    "CAP_SYS_NICE": "the daemon runs at ordinary priority",
    "CAP_DAC_OVERRIDE": "cgroup files of others cannot be written",
    "CAP_SYS_PTRACE": "facts about other users' processes may be hidden",
}

# Modules that only their importers needed at import time (dataclasses pulls in inspect). Dropped before locking: the
# heap that they held is the first that is used later.
SPENT: Final = ("inspect", "ast", "dis", "opcode", "tokenize", "token", "linecache", "importlib.machinery", "typing")


def main(argv: list[str]) -> int:
    """Exit codes: 0 ended as asked, 2 used wrongly, 3 another one runs or this directory is not ours."""
    if len(argv) != 2 or argv[0] != "--plan-fd":
        sys.stderr.write("oomguard.core is started by `oomguard run`\n")
        return 2
    plan = read_plan(int(argv[1]))
    libc.prctl_set_name(b"oomguard")  # not "python", in ps, top and the kernel's own reports
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
    try:
        boot = Boot(plan)
    except OSError as error:
        sys.stderr.write(f"<3>oomguard: {error.filename or ''}: {error.strerror}\n")
        return 3
    loop = boot.loop()
    try:
        loop.run()
    finally:
        boot.stop(loop)
    return 0


def read_plan(fd: int) -> Plan:
    """The plan in that descriptor, which is closed. ValueError: not a plan."""
    with os.fdopen(fd, "rb") as file:
        file.seek(0)
        plan = from_plain(json.loads(file.read()))
    if not isinstance(plan, Plan):
        raise ValueError("not a plan")
    return plan


class Boot:
    """The steps, in the order in which they must be."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        daemon = plan.daemon
        os.makedirs(daemon.runtime_dir, 0o755, exist_ok=True)
        self.lock_fd = _only_one(f"{daemon.runtime_dir}/lock")
        self.status = Status(f"{daemon.runtime_dir}/{statuspage.NAME}", plan.version)
        self.said: list[tuple[str, str]] = []  # messages for the journal, once there is a herald
        self.announced = False
        self.root, flavour = _cgroup_root(daemon)
        if self.root is None:
            self.degraded(
                "cgroups", f"cgroup {flavour}: no memory files of cgroup v2, so processes are told apart alone"
            )
        self._put_back()
        self._state_dir()
        self._protect()
        self._fork()
        self.journal = self._journal()

    def degraded(self, what: str, why: str) -> None:
        """Named in status, and in the journal."""
        if not self.status.degraded(what, why):
            return
        if self.announced:
            self.recorder.say("DEGRADED", f"{what}: {why}", time.monotonic_ns())
        else:
            self.said.append(("DEGRADED", f"{what}: {why}"))

    # -- before anything is forked -------------------------------------------------------------------------------

    def _put_back(self) -> None:
        daemon = self.plan.daemon
        sentences = leases.undo_all(daemon.runtime_dir, self.root or daemon.cgroup, daemon.proc)
        self.status.undone = len(sentences)
        self.said += [("LEASE_UNDONE", sentence) for sentence in sentences]

    def _state_dir(self) -> None:
        try:
            os.makedirs(f"{self.plan.daemon.state_dir}/incidents", 0o750, exist_ok=True)
        except OSError as error:
            self.degraded("incidents", f"{error.filename}: {error.strerror}: incidents cannot be written")

    def _protect(self) -> None:
        """What workers inherit."""
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # some ten descriptors for every guarded cgroup
        try:
            with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
                file.write("-1000")
        except OSError as error:
            self.degraded("oom_score_adj", f"{error.strerror}: the kernel may choose the daemon itself as its victim")
        have = procfs.capabilities()
        for name, why in NEEDED.items():
            if name not in have:
                self.degraded(name, why)

    def _fork(self) -> None:
        plan, daemon = self.plan, self.plan.daemon
        self.ring = Ring.create(daemon.ring_bytes)
        self.orders, self.answers = Mailbox(), Mailbox()
        self.pool = Pool(daemon.worker_heap_bytes)
        bells = {name: os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for name in ("scribe", "herald")}
        pool, ring, root = self.pool, self.ring, self.root or daemon.cgroup

        def beat(place: int) -> None:
            pool.beats.set(place, time.monotonic_ns())

        def reap() -> None:
            arguments = (daemon.runtime_dir, root, daemon.proc, lambda: beat(0))
            reaper.Reaper(self.orders, self.answers, pool.alive, *arguments).run()

        def write() -> None:
            scribe.run(ring, bells["scribe"], pool.alive, plan, daemon.state_dir, lambda: beat(1))

        def tell() -> None:
            herald.run(ring, bells["herald"], pool.alive, plan, lambda: beat(2))

        pool.add("reaper", self.orders.bell, (self.answers.bell, self.lock_fd), reap)
        pool.add("scribe", bells["scribe"], (), write)
        pool.add("herald", bells["herald"], (), tell)
        self.recorder = Recorder(ring, tuple(bells.values()))

    def _journal(self) -> leases.Journal | None:
        path = f"{self.plan.daemon.runtime_dir}/{leases.NAME}"
        try:
            return leases.Journal(path)
        except OSError as error:
            self.degraded("leases", f"{path}: {error.strerror}: no tripwire, no brake, nothing is set for a time")
            return None

    # -- the core itself -----------------------------------------------------------------------------------------

    def loop(self) -> Loop:
        """Everything opened, rehearsed, locked; READY=1 is out."""
        plan, daemon = self.plan, self.plan.daemon
        senses = Senses(plan, self.root, self.degraded)
        root = self.root or daemon.cgroup
        book = LeaseBook(self.journal, self.orders, root, daemon.proc)
        senses.found_high = book.found_high
        hands = Hands(plan, self.root, senses, self.orders, book)
        ours = {os.getpid(), *self.pool.pids()}
        state = judge.begin(ours, _own_cgroup(ours, self.root, daemon.proc))
        socket = os.environ.get("NOTIFY_SOCKET")
        loop = Loop(plan, state, senses, hands, self.recorder, self.status, self.pool, socket)
        for worker in self.pool.workers.values():
            loop.mind(worker)
        senses.listen(self.answers.bell, 1, lambda _mask: self._answers(senses, book))
        for what, why in reaper.rehearse(senses.proc_fd):
            self.degraded(what, why)
        loop.watchdog_ns = _watchdog_ns()
        senses.aim(plan)
        self._real_time()
        self._lock()
        loop.turn(until_ns=0)
        self._announce(loop)
        self.status.arm()
        return loop

    def _answers(self, senses: Senses, book: LeaseBook) -> None:
        messages, lost = self.answers.take()
        for token, what, number, took_ns, value in messages:
            senses.tell(Result(token, what, number, took_ns, value))
            if what in ("Lease", "Release"):
                book.settled(token, what, number)
        if lost:
            self.status.degraded("reaper", "some of its answers were lost: more than 4,000 at once")

    def _real_time(self) -> None:
        try:
            resource.setrlimit(resource.RLIMIT_RTTIME, (RTTIME_US, RTTIME_US))
            policy = os.SCHED_RR | os.SCHED_RESET_ON_FORK
            os.sched_setscheduler(0, policy, os.sched_param(RR_PRIORITY))
        except (OSError, ValueError) as error:
            self.degraded("real time", f"SCHED_RR: {error}: a busy machine may delay us")

    def _lock(self) -> None:
        for name in SPENT:
            sys.modules.pop(name, None)
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
        for message, text in self.said:
            self.recorder.say(message, text, at_ns)
        self.said.clear()
        self.announced = True
        self.status.publish(plan, loop.state, at_ns, self.recorder.dropped)
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


def _only_one(path: str) -> int:
    """The lock that only one daemon can have, its reaper included. OSError EBUSY: another one has it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    end = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            if time.monotonic() > end:
                raise OSError(errno.EBUSY, "another oomguard runs with this runtime directory", path) from None
            time.sleep(0.05)


def _cgroup_root(daemon: Daemon) -> tuple[str | None, str]:
    if daemon.cgroup != Daemon().cgroup:
        return daemon.cgroup, "v2"
    return cgroup2.find_mount(daemon.proc)


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
