"""A process held fast: opened, verified, signalled, waited for. Never by number alone.

A pidfd stays with its process when the number has a new owner. It is readable once the *last* thread is gone, also when
nobody has waited for the zombie yet. Opening takes no lock of the victim's and no memory but the kernel's own.
"""

import errno
import os
import select
import signal

from . import files, procfs


def open_verified(proc_fd: int, pid: int, start_ticks: int) -> int | None:
    """A descriptor of the process that is (pid, start_ticks); None: gone, or another one has the number.

    First opened, then looked at: if the number still belongs to who started then, the descriptor (which is no younger)
    is of the same process, or of one that has ended, to which a signal does nothing.
    """
    try:
        fd = os.pidfd_open(pid)
    except OSError as error:
        # EINVAL, and ENOENT since 6.9: the number of a thread, not of a process.
        if error.errno in (errno.ESRCH, errno.EINVAL, errno.ENOENT):
            return None
        error.filename = f"pidfd_open({pid})"
        raise
    try:
        if procfs.start_ticks(proc_fd, pid) == start_ticks and is_called(proc_fd, fd, pid):
            return fd
    except OSError:
        os.close(fd)
        raise
    os.close(fd)
    return None


def is_called(proc_fd: int, fd: int, pid: int) -> bool:
    """Whether that /proc has this number for whom we hold.

    A host's /proc in a container tells of the host's numbers, and pidfd_open knows the container's alone: somebody
    else may have the same. fdinfo tells the number in the pid namespace of the /proc that it is read from.
    """
    data = files.read_at(proc_fd, f"self/fdinfo/{fd}", "/proc")
    at = -1 if data is None else data.find(b"\nPid:\t")
    if data is None or at < 0:
        return True  # a /proc of files, or a kernel before 5.4: nothing is known
    return files.number(data[at + 6 : data.find(b"\n", at + 1)]) == pid


def send(fd: int, number: int) -> None:
    """A signal. OSError ESRCH: it has ended and been waited for; EPERM: no CAP_KILL."""
    signal.pidfd_send_signal(fd, number)


def gone(fd: int) -> bool:
    """Whether all of its threads have ended; its memory is free then, unless others share it."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))
