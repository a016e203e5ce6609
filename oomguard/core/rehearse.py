"""Everything that a kill needs, once, before it is needed: system calls on a child of our own, code on a made-up storm.

What a missing capability or a seccomp filter forbids is named at the start and not found out at the first real kill
(rfjakob/earlyoom, pull request 315). And code that has run is in memory, and stays: only what was touched is locked.
"""

import errno
import os
import signal
from dataclasses import replace
from typing import Final

from ..judge.decide import begin, decide
from ..judge.state import seed
from ..linux import libc, pidfd, procfs
from ..linux.cgroup2 import kind
from ..model.facts import (
    CgroupFacts,
    MemInfo,
    MemoryStat,
    Observation,
    ProcessFacts,
    Stalled,
    Survey,
    TargetId,
    TargetSeen,
    VictimGone,
)
from ..model.policy import (
    KillStep,
    MemoryAbove,
    Plan,
    PressureAbove,
    PressureRising,
    ReclaimStep,
    RunStep,
    SetHighStep,
    StallAbove,
)
from ..model.ring import Ring
from ..model.verdict import Action, Nominate
from .record import Recorder

WORKERS: Final = 300  # of the made-up service: what the hottest turn of a real storm looks like
FEW: Final = 8  # of the same service in most turns, and names among them all: a start is short
_STALLS: Final = (StallAbove, PressureAbove, PressureRising)
_SECOND: Final = 1_000_000_000


def syscalls(proc_fd: int) -> list[tuple[str, str]]:
    """Every system call of a kill, once, on a child of our own. (what, why) of each that does not work here."""
    missing: list[tuple[str, str]] = []
    core = os.getpid()
    pid = os.fork()
    if pid == 0:
        # It has inherited the lock and the pipe by which workers learn of the core's end: it must not outlive the core.
        libc.prctl_set_pdeathsig(signal.SIGKILL)
        while os.getppid() == core:
            signal.pause()
        os._exit(0)
    start = procfs.start_ticks(proc_fd, pid)
    fd = None
    try:
        fd = pidfd.open_verified(proc_fd, pid, start or 0)
        if fd is None:
            missing.append(("pidfd_open", "our own child could not be opened"))
            os.kill(pid, signal.SIGKILL)
        else:
            pidfd.send(fd, signal.SIGKILL)
            libc.process_mrelease(fd)
    except OSError as error:
        name = "process_mrelease" if error.filename == "process_mrelease" else "pidfd_send_signal"
        # The child may have gone between the two calls: then there is nothing left to release, and the call works.
        # EAGAIN: it is just letting go of its memory by itself.
        if error.errno not in (errno.ESRCH, errno.EAGAIN):
            missing.append((name, f"{os.strerror(error.errno or 0)}; a kill then frees memory a little later"))
        os.kill(pid, signal.SIGKILL)
    finally:
        if fd is not None:
            os.close(fd)
        os.waitpid(pid, 0)
    return missing


def measures(plan: Plan, root: str | None) -> list[tuple[str, str]]:
    """What this policy's actions take besides, where it is missing. What systemd says is asked for by the reaper."""
    missing: list[tuple[str, str]] = []
    steps = plan.steps()
    lacks = {} if root is None else kind(root).LACKS
    told = root is None or kind(root).pressure_root(root) is not None
    asked = [what for what in _asked(plan) if what != "pressure" or not told]
    missing += [(what, lacks[what]) for what in asked if what in lacks]
    reclaims = "reclaim" not in lacks and any(isinstance(step, ReclaimStep) for step in steps)
    if reclaims and not os.access(f"{root}/memory.reclaim", os.W_OK):
        there = os.path.exists(f"{root}/memory.reclaim")
        why = "memory.high does it, and slows who allocates meanwhile" if not there else "nothing is reclaimed"
        missing.append(("reclaim", f"there is no memory.reclaim that we may write to (Linux 5.19): {why}"))
    if "kill" not in lacks and any(isinstance(step, KillStep) for step in steps) and not _ends_at_once(root):
        why = "there is no cgroup.kill (Linux 5.14): a cgroup is ended process by process, until it is empty"
        missing.append(("kill", why))
    for step in steps:
        if isinstance(step, RunStep) and not os.access(step.argv[0], os.X_OK):
            missing.append((f"hook {step.argv[0]}", "there is no such program: it is not run"))
    return missing


def _ends_at_once(root: str | None) -> bool:
    """Whether a cgroup can be ended by one write. The root has no such file: any cgroup in it tells."""
    try:
        below = [] if root is None else [entry.path for entry in os.scandir(root) if entry.is_dir()]
    except OSError:
        return True  # not known
    return not below or os.path.exists(f"{below[0]}/cgroup.kill")


def _asked(plan: Plan) -> list[str]:
    """What this policy asks for that not every kind of cgroup has, as ``LACKS`` names it; "tripwire" first."""
    steps = plan.steps()
    inner = replace(plan, guards=tuple(guard for guard in plan.guards if guard.cgroup != "/"))
    brakes = any(guard.brake and guard.cgroup == "/" for guard in plan.guards)
    asked = {
        "tripwire": any(guard.tripwire for guard in plan.guards),
        "brake": brakes,
        "set_high": any(isinstance(step, SetHighStep) for step in steps),
        "reclaim": any(isinstance(step, ReclaimStep) for step in steps),
        "kill": any(isinstance(step, KillStep) for step in steps),
        "slab": any(isinstance(condition, MemoryAbove) for condition in plan.conditions()),
        "pressure": any(isinstance(condition, _STALLS) for condition in inner.conditions()),
        "protection": any(isinstance(step, KillStep) for step in steps),
    }
    return [what for what, does in asked.items() if does]


def storm(plan: Plan) -> tuple[Action, ...]:
    """Judge and record an engagement of every guard that nobody has seen. What was decided, for tests to look at."""
    ring = Ring.create(1 << 20)
    recorder = Recorder(ring, (), ring)
    state = begin((), "")
    done: list[Action] = []
    for seen in _turns(plan):
        before = state
        state, actions = decide(plan, state, seen)
        recorder.turn(before.targets, state.targets, seen, actions, (), seed(plan, before, actions))
        tokens = [action.victim.token for action in actions if isinstance(action, Nominate)]
        if tokens:
            gone = Observation(seen.at_ns + 1, gone=tuple(VictimGone(token, seen.at_ns) for token in tokens))
            before, (state, more) = state, decide(plan, state, gone)
            recorder.turn(before.targets, state.targets, gone, more, ())
            done += more
        done += actions
    return tuple(done)


def _turns(plan: Plan) -> list[Observation]:
    total = 1 << 40
    calm, low = MemInfo(total, total, total, total, total), MemInfo(total, 1, 1, total, 1)
    work = "/rehearsal.slice/rehearsal.service"
    targets = [TargetId(guard.name, "/" if guard.cgroup == "/" else work) for guard in plan.guards]
    full = CgroupFacts(work, 1, total // 2, MemoryStat(total // 2, 0, 0, 0), 0, total // 2, work)
    empty = CgroupFacts(work, 1, 0, MemoryStat(0, 0, 0, 0), 0, total // 2, work)
    crowd = tuple(
        ProcessFacts(100 + i, 1, 100 if i else 1, f"rehearsal {i % FEW}", work, 0, "S", total // 1024, 0, 0)
        for i in range(WORKERS)
    )
    hot, plain = (
        tuple(Survey(target, "heaviest", (full,), processes, 1) for target in targets)
        for processes in (crowd, crowd[:FEW])
    )
    stalls = tuple(Stalled(target, number) for target in targets for number in range(4))
    seen = tuple(TargetSeen(target, None if target.cgroup == "/" else empty) for target in targets)
    storm = [Observation(_SECOND, host=calm, appeared=seen, cgroups=(empty,))]
    for second in range(2, 32, 2):  # longer than any "lasting" that is likely: what is not reached is not rehearsed
        surveys = hot if second in (2, 30) else plain
        storm.append(Observation(second * _SECOND, host=low, cgroups=(full,), stalls=stalls, surveys=surveys))
    storm += [Observation(second * _SECOND, host=calm, cgroups=(empty,)) for second in (40, 42, 44)]
    return [*storm, Observation(50 * _SECOND, host=calm, vanished=tuple(targets))]
