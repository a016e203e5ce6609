"""How a thing is tried: on a child of our own, which a seccomp filter may kill and which no call can hang."""

import errno
import os
import signal
from collections.abc import Callable

from ...linux import libc
from ..scratch import COMM

PATIENCE_S = 10  # of a child; nothing that is tried takes a hundredth of it, a starved machine may


def on_a_child(call: Callable[[], None]) -> str:
    """ "" if the call raises nothing there; else what the kernel said."""
    reads, writes = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _child(call, writes)
    os.close(writes)
    with open(reads, "rb") as pipe:
        said = pipe.read().decode("utf-8", "replace")
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        return {
            signal.SIGSYS: "a seccomp filter kills whoever calls it",
            signal.SIGALRM: f"it did not come back in {PATIENCE_S} s",
        }.get(signal.Signals(number), f"the caller was killed by {signal.Signals(number).name}")
    return said


def _child(call: Callable[[], None], pipe: int) -> None:
    said = ""
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(PATIENCE_S)
        libc.prctl_set_pdeathsig(signal.SIGKILL)
        call()
    except OSError as error:
        said = why(error)
    except BaseException as error:  # noqa: BLE001 - the top of a process: this child must never return into its parent's program
        said = f"{type(error).__name__}: {error}"
    finally:
        os.write(pipe, said.encode())
        os._exit(0)


def why(error: OSError) -> str:
    """The kernel's words, with its name for them."""
    number = error.errno or 0
    return f"{os.strerror(number)} ({errno.errorcode.get(number, number)})"


class Victim:
    """A process that waits to be ended, as a context manager; it is gone and waited for afterwards."""

    def __enter__(self) -> int:
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            libc.prctl_set_pdeathsig(signal.SIGKILL)
            libc.prctl_set_name(COMM.encode())
            while os.getppid() == parent:
                signal.pause()
            os._exit(0)
        return self.pid

    def __exit__(self, *_: object) -> None:
        os.kill(self.pid, signal.SIGKILL)  # at the latest a zombie: its number is ours until it has been waited for
        os.waitpid(self.pid, 0)
