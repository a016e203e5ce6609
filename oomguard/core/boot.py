"""From a sealed plan to the fork of the workers. What only the core needs is imported after it (``arm``), and what only
a worker needs is imported by the worker: nobody's memory holds what he never uses.
"""

import errno
import fcntl
import json
import os
import resource
import signal
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ..linux import cgroup2, leases, libc, mounts, procfs, systemd
from ..model.codec import from_plain
from ..model.policy import Plan, ReclaimStep, RunStep, TellStep, UnitStep, Watermark
from ..model.ring import MINUTES_BYTES, Ring
from ..workers.pool import Mailbox, Pool
from . import senders

if TYPE_CHECKING:
    from .deadman import DeadMan
    from .pressure import Pressure

REAPER_HEAP: Final = 256 << 10  # it holds a few numbers; what the dead man takes it takes at its rehearsal
NOT_LOCKED: Final = 0  # the herald: nobody waits for it, and what it says in a storm may come a little later
WORDS_BYTES: Final = 4 << 10  # what the herald says of its sinks: a few sentences an hour, if it is bad
LOCK_WAIT_S: Final = 5.0  # the reaper of a daemon that was killed still puts things back and holds the lock so long

# What a capability is for, where it is missing.
NEEDED: Final = {
    "CAP_KILL": "only our own processes can be killed",
    "CAP_IPC_LOCK": "memory can be locked only up to RLIMIT_MEMLOCK",
    "CAP_SYS_RESOURCE": "PSI windows are multiples of 2 s",
    "CAP_SYS_NICE": "the daemon runs at ordinary priority",
    "CAP_DAC_OVERRIDE": "cgroup files and oom_score_adj of others cannot be written",
    "CAP_SYS_PTRACE": "facts about other users' processes may be hidden",
}


def main(argv: list[str]) -> int:
    """Exit codes: 0 ended as asked, 2 used wrongly, 3 another one runs or this directory is not ours."""
    if len(argv) != 2 or argv[0] != "--plan-fd":
        sys.stderr.write("oomguard.core is started by `oomguard run`\n")
        return 2
    with os.fdopen(int(argv[1]), "rb") as file:
        file.seek(0)
        plan_text = file.read()
    libc.prctl_set_name(b"oomguard")  # not "python", in ps, top and the kernel's own reports
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
    try:
        boot = Boot(plan_text)
        from .arm import Arm

        armed = Arm(boot)
        loop = armed.loop()
    except OSError as error:
        sys.stderr.write(f"<3>oomguard: {error.filename or ''}: {error.strerror}\n")
        return 3
    try:
        loop.run()
    finally:
        armed.stop(loop)
    return 0


class Boot:
    """The steps, in the order in which they must be."""

    def __init__(self, plan_text: bytes) -> None:
        """OSError with the path: no runtime directory, or another daemon has it (EBUSY). ValueError: not a plan."""
        plan = from_plain(json.loads(plan_text))
        if not isinstance(plan, Plan):
            raise ValueError("not a plan")
        self.asked, self.plan_text = plan, plan_text
        daemon = plan.daemon
        os.makedirs(daemon.runtime_dir, 0o755, exist_ok=True)
        self.lock_fd = _only_one(f"{daemon.runtime_dir}/lock")
        self.lacks: dict[str, str] = {}  # what works less well here, and why
        self.undone: list[str] = []  # what a daemon before us had left behind
        self.root, flavour = mounts.find(daemon.proc, daemon.cgroup)
        if self.root is None:
            self.lacks["cgroups"] = f"cgroup {flavour}: nobody counts memory there, so processes are told apart alone"
        self.plan = self.told = fitted(plan, self.root)  # told: the one that the herald is forked with
        self._put_back()
        self._state_dir()
        self._protect()
        self.passed = systemd.listen_fds()
        self._fork()
        self.journal = self._journal()

    def _put_back(self) -> None:
        daemon = self.plan.daemon
        self.undone = leases.undo_all(daemon.runtime_dir, self.root or daemon.cgroup, daemon.proc)

    def _state_dir(self) -> None:
        try:
            os.makedirs(f"{self.plan.daemon.state_dir}/incidents", 0o750, exist_ok=True)
        except OSError as error:
            self.lacks["incidents"] = f"{error.filename}: {error.strerror}: incidents cannot be written"

    def _protect(self) -> None:
        """What workers inherit."""
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # some ten descriptors for every guarded cgroup
        try:
            with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
                file.write("-1000")
        except OSError as error:
            self.lacks["oom_score_adj"] = f"{error.strerror}: the kernel may choose the daemon itself as its victim"
        if procfs.in_user_namespace():
            self.lacks["user namespace"] = (
                "capabilities count only inside of it: processes and cgroups of others cannot be touched, "
                "PSI windows are multiples of 2 s"
            )
        have = procfs.capabilities()
        for name, why in NEEDED.items():
            if name not in have:
                self.lacks[name] = why

    def _fork(self) -> None:
        plan, daemon = self.plan, self.plan.daemon
        self.ring, self.minutes = Ring.create(daemon.ring_bytes), Ring.create(MINUTES_BYTES)
        self.orders, self.answers, self.words = Mailbox(), Mailbox(), Mailbox(WORDS_BYTES)
        self.hooked: Mailbox | None = None  # the answers of hooks, for a policy with any
        self.pressure: Pressure | None = None  # the broker, for a policy that tells programs
        self.pool = Pool(daemon.worker_heap_bytes)
        self.bells = bells = {name: os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for name in ("scribe", "herald")}
        pool, ring, minutes, root = self.pool, self.ring, self.minutes, self.root or daemon.cgroup

        def reap() -> None:
            from ..workers import reaper

            arguments = (daemon.runtime_dir, root, daemon.proc, self._dead_man() if daemon.deadman_ns else None)
            made = reaper.Reaper(self.orders, self.answers, pool.alive, *arguments)
            if any(isinstance(step, UnitStep) for step in plan.steps()):
                made.obey(("prepare", 0))
            made.run()

        def write() -> None:
            from ..workers import scribe

            scribe.run(ring, bells["scribe"], pool.alive, plan, daemon.state_dir, minutes=minutes)

        def tell() -> None:
            from ..workers import herald

            herald.run(ring, bells["herald"], pool.alive, self.told, words=self.words)

        if any(isinstance(step, RunStep) for step in plan.steps()):
            self.start_runner(plan)
        if any(isinstance(step, TellStep) for step in plan.steps()):
            self.start_broker(plan)
        pool.add("reaper", self.orders.bell, (self.answers.bell, self.lock_fd, pool.pulse.right), reap, REAPER_HEAP)
        pool.add("scribe", bells["scribe"], (), write)
        pool.add("herald", bells["herald"], (self.words.bell,), tell, NOT_LOCKED)
        senders.start(pool, plan)

    def start_runner(self, plan: Plan) -> Mailbox:
        """The process for hooks, for a policy that has any."""
        self.hooked = hooked = Mailbox()
        bell = self.bells["runner"] = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        pool, ring = self.pool, self.ring

        def hooks() -> None:
            from ..workers import runner

            runner.run(ring, bell, pool.alive, plan, hooked)

        pool.add("runner", bell, (hooked.bell,), hooks, NOT_LOCKED)
        return hooked

    def start_broker(self, plan: Plan) -> "Pressure":
        """The process that tells programs, for a policy that does. OSError: it cannot be forked."""
        from .pressure import Pressure

        self.pressure = Pressure(self, plan)
        return self.pressure

    def _dead_man(self) -> "DeadMan":
        from .deadman import DeadMan

        made = DeadMan(self.plan.daemon, self.root, self.pool.pulse, self.answers)
        made.rehearse()
        return made

    def _journal(self) -> leases.Journal | None:
        path = f"{self.plan.daemon.runtime_dir}/{leases.NAME}"
        try:
            return leases.Journal(path)
        except OSError as error:
            self.lacks["leases"] = f"{path}: {error.strerror}: no tripwire, no brake, nothing is set for a time"
            return None


def fitted(plan: Plan, root: str | None) -> Plan:
    """The plan without what these cgroups cannot do: then nobody relies on it, and nothing is tried in vain."""
    lacks = {} if root is None else cgroup2.kind(root).LACKS
    if "tripwire" in lacks:
        return replace(plan, guards=tuple(replace(guard, tripwire=False, brake=False) for guard in plan.guards))
    if root is None or os.path.exists(f"{root}/memory.reclaim"):
        return plan
    marked = ((guard, _by_high(guard.soft), _by_high(guard.hard)) for guard in plan.guards)
    return replace(plan, guards=tuple(replace(guard, soft=soft, hard=hard) for guard, soft, hard in marked))


def _by_high(mark: Watermark | None) -> Watermark | None:
    """Before 5.19 there is no memory.reclaim: memory.high does it, and slows who allocates meanwhile."""
    if mark is None or not any(isinstance(step, ReclaimStep) for step in mark.do):
        return mark
    do = tuple(replace(step, by_high=True) if isinstance(step, ReclaimStep) else step for step in mark.do)
    return replace(mark, do=do)


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
