"""What this kernel can do: each thing is done, on a child or in a cgroup of our own. Nothing else is changed."""

import errno
import fcntl
import os
import signal
from collections.abc import Callable

from ...linux import libc, memlock, psi
from .. import scratch
from ..findings.facts import Kernel, Trial
from ..hierarchies import Hierarchies
from ..scratch import Scratch
from .places import Places
from .tried import Victim, on_a_child, why

_SLOW_US, _WINDOW_US, _STALL_US = 2_000_000, 1_000_000, 150_000  # 150 ms of a second, as the shipped policy asks


def look(places: Places) -> Kernel:
    """On another machine's files: only what can be read."""
    mounts = places.mounts
    pressure = _readable(f"{places.proc}/pressure/memory")
    kernel = Kernel(pressure=pressure, flavour=mounts.flavour, mount=mounts.memory)
    if not places.here:
        places.miss("system calls and stall triggers", "these are another machine's files")
        return kernel
    return Kernel(
        pressure=pressure,
        trigger=None if pressure else on_a_child(lambda: _trigger(_WINDOW_US)),
        slow_trigger=None if pressure else on_a_child(lambda: _trigger(_SLOW_US)),
        flavour=mounts.flavour,
        mount=mounts.memory,
        files=_files(places, mounts) if mounts.flavour == "v2" else {},
        calls={name: on_a_child(call) for name, call in CALLS.items() if places.root or name not in _ROOTS},
        grub=os.path.isfile("/etc/default/grub"),
    )


def _readable(path: str) -> Trial:
    try:
        with open(path, "rb") as file:
            file.read()
    except FileNotFoundError:
        return "this kernel has none (CONFIG_PSI), or it is switched off (psi=0)"  # no file either way (seen with 6.12)
    except OSError as error:
        # EOPNOTSUPP: psi=0, or CONFIG_PSI_DEFAULT_DISABLED
        return "it is switched off" if error.errno == errno.EOPNOTSUPP else why(error)
    return ""


def _trigger(window_us: int) -> None:
    fd, _, got_us = psi.open_trigger("/proc/pressure/memory", "some", _STALL_US, window_us)
    os.close(fd)
    if got_us != window_us:
        raise PermissionError(errno.EPERM, "")


# ------------------------------------------------------------------------------------------------------- system calls


def _pidfd_open() -> None:
    with Victim() as pid:
        os.close(os.pidfd_open(pid))


def _pidfd_send_signal() -> None:
    with Victim() as pid:
        fd = os.pidfd_open(pid)
        signal.pidfd_send_signal(fd, signal.SIGKILL)
        os.close(fd)


def _process_mrelease() -> None:
    with Victim() as pid:
        fd = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        try:
            libc.process_mrelease(fd)
        except OSError as error:
            # It has gone meanwhile, or just lets go of its memory by itself: the call works.
            if error.errno not in (errno.ESRCH, errno.EAGAIN):
                raise
        os.close(fd)


def _mlockall() -> None:
    if refused := memlock.lock():
        raise PermissionError(errno.EPERM, refused)


def _populate() -> None:
    if not memlock.populate():
        raise OSError(errno.EINVAL, "")


def _real_time() -> None:
    os.sched_setscheduler(0, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(20))


def _score(*values: bytes) -> None:
    for value in values:
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        try:
            os.write(fd, value)
        finally:
            os.close(fd)


def _insurance() -> None:
    """Raised, and put back: below what it was before somebody needs CAP_SYS_RESOURCE."""
    with open("/proc/self/oom_score_adj", "rb") as file:
        _score(b"1000", file.read())


def _inotify() -> None:
    fd = libc.inotify_init()
    libc.inotify_add_watch(fd, b"/proc/self", 0x100)
    os.close(fd)


def _signalfd() -> None:
    os.close(libc.signalfd((signal.SIGUSR1,)))


def _memfd() -> None:
    fd = os.memfd_create("oomguard-doctor", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL)
    os.close(fd)


def _kmsg() -> None:
    fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.read(fd, 8192)
    except BlockingIOError:
        pass  # nothing new: it may be read
    os.close(fd)


CALLS: dict[str, Callable[[], None]] = {
    "pidfd_open": _pidfd_open,
    "pidfd_send_signal": _pidfd_send_signal,
    "process_mrelease": _process_mrelease,
    "mlockall": _mlockall,
    "madvise populate": _populate,
    "sched_setscheduler": _real_time,
    "oom_score_adj": lambda: _score(b"-1000"),
    "insurance": _insurance,
    "inotify": _inotify,
    "signalfd": _signalfd,
    "memfd_create": _memfd,
    "kmsg": _kmsg,
}
# What only root can do would be refused to anybody else, and say nothing of the kernel.
_ROOTS = frozenset({"mlockall", "sched_setscheduler", "oom_score_adj", "kmsg"})


# ------------------------------------------------------------------------------------------------ files of a v2 cgroup


def _files(places: Places, mounts: Hierarchies) -> dict[str, Trial]:
    """Each is written or read in a cgroup of our own, which is gone afterwards."""
    if not places.root:
        places.miss("files of a cgroup", "only root can make one to try them in")
        return {}
    own = Scratch(mounts, f"/{scratch.name()}")
    try:
        with own:
            return {name: _of_a_file(trial, own) for name, trial in FILES.items()}
    except OSError as error:
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):  # so in most containers; and so for the daemon
            return dict.fromkeys(FILES, f"{error.filename}: {why(error)}")
        places.miss("files of a cgroup", f"{error.filename}: {error.strerror}")
        return {}


def _of_a_file(trial: Callable[[Scratch], None], own: Scratch) -> str:
    try:
        trial(own)
    except FileNotFoundError:
        return "this kernel has none"
    except OSError as error:
        return why(error)
    return ""


def _write(own: Scratch, name: str, *values: str) -> None:
    for value in values:
        fd = os.open(f"{own.directory}/{name}", os.O_WRONLY)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)


def _kill(own: Scratch) -> None:
    with Victim() as pid:
        own.admit(pid)
        _write(own, "cgroup.kill", "1")


def _reclaim(own: Scratch) -> None:
    try:
        _write(own, "memory.reclaim", "4096")
    except BlockingIOError:
        pass  # EAGAIN: there was nothing to take back from an empty cgroup


def _peak(own: Scratch) -> None:
    with open(f"{own.directory}/memory.peak", "rb") as file:
        file.read()


FILES: dict[str, Callable[[Scratch], None]] = {
    "memory.high": lambda own: _write(own, "memory.high", "1048576", "max"),
    "cgroup.kill": _kill,
    "cgroup.freeze": lambda own: _write(own, "cgroup.freeze", "1", "0"),
    "memory.reclaim": _reclaim,
    "memory.oom.group": lambda own: _write(own, "memory.oom.group", "1", "0"),
    "memory.peak": _peak,
}
