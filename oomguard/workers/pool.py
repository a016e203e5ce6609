"""Preforked workers: started before the core locks its memory, watched through pidfds, woken through eventfds.

What the core says goes through shared memory (``Ring``) and an eventfd: neither allocates in the kernel, so that it
works when nothing else does. No worker is ever waited for.
"""

import marshal
import mmap
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from ..linux import libc, memlock
from ..model.ring import Ring

MAILBOX_BYTES: Final = 96 << 10  # some 1,500 commands; more in flight than that are lost, and told as lost


class Mailbox:
    """One direction between two processes: values that marshal knows, and a bell."""

    __slots__ = ("_position", "bell", "ring")

    def __init__(self, size_bytes: int = MAILBOX_BYTES) -> None:
        self.ring = Ring.create(size_bytes)
        self.bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._position = 0

    def post(self, message: tuple[Any, ...]) -> bool:
        """False: too long, not sent."""
        if not self.ring.append(marshal.dumps(message)):
            return False
        ring_bell(self.bell)
        return True

    def take(self) -> tuple[list[tuple[Any, ...]], int]:
        """What has come since, and 1 if some of it was lost."""
        hush(self.bell)
        messages: list[tuple[Any, ...]] = []
        lost = 0
        while True:
            payloads, self._position, missed = self.ring.read(self._position)
            lost |= missed
            if not payloads:
                return messages, lost
            messages += [marshal.loads(payload) for payload in payloads]

    def rewind(self) -> None:
        """Only what is posted from now on: for a worker that takes the place of a dead one."""
        self._position = self.ring.head()


def ring_bell(bell: int) -> None:
    """Wake whoever polls this eventfd. It never fills: the counter saturates at 2**64 - 2."""
    try:
        os.eventfd_write(bell, 1)
    except BlockingIOError:
        pass


def hush(bell: int) -> None:
    """Take the wakeup back."""
    try:
        os.eventfd_read(bell)
    except BlockingIOError:
        pass


class Pulse:
    """What core and dead man share: when the core last turned, and the right to kill, which one has at a time."""

    __slots__ = ("_words", "right")

    def __init__(self) -> None:
        self._words = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")
        self._words[0] = 0
        self.right = os.eventfd(1, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def beat(self, at_ns: int) -> None:
        """The core has turned (CLOCK_MONOTONIC, ns)."""
        self._words[0] = at_ns

    def last(self) -> int:
        """When it last did; 0: never yet."""
        return self._words[0]

    def take(self) -> bool:
        """The right to kill. False: the other one has it."""
        try:
            os.eventfd_read(self.right)
        except BlockingIOError:
            return False
        return True

    def give(self) -> None:
        """It is free again. To give it twice is no harm: whoever takes it takes all of it."""
        ring_bell(self.right)


class Worker:
    """A forked process: its pidfd is readable when it ends."""

    __slots__ = ("bell", "heap_bytes", "keep", "main", "name", "pid", "pidfd", "restarts")

    def __init__(self, name: str, bell: int, keep: tuple[int, ...], main: Callable[[], None]) -> None:
        self.name, self.bell, self.keep, self.main = name, bell, keep, main
        self.pid = self.pidfd = -1
        self.restarts = 0
        self.heap_bytes = 0


class Pool:
    """All workers of a daemon. ``alive`` is a pipe whose write end the core alone holds: EOF tells of its end."""

    __slots__ = ("_core_end", "alive", "heap_bytes", "pulse", "workers")

    def __init__(self, heap_bytes: int) -> None:
        self.heap_bytes = heap_bytes
        self.pulse = Pulse()
        self.alive, self._core_end = os.pipe2(os.O_CLOEXEC)
        self.workers: dict[str, Worker] = {}

    def add(
        self, name: str, bell: int, keep: tuple[int, ...], main: Callable[[], None], heap_bytes: int | None = None
    ) -> Worker:
        """Fork a worker that runs ``main`` and ends with it. ``keep``: descriptors that it needs besides.

        ``heap_bytes``: what it reserves and locks, where that is not what all workers do; 0: it does neither.
        """
        worker = Worker(name, bell, keep, main)
        worker.heap_bytes = self.heap_bytes if heap_bytes is None else heap_bytes
        self.workers[name] = worker
        self.fork(worker)
        return worker

    def fork(self, worker: Worker) -> None:
        """(Re)start it. Forking a locked process is dear: after a start, only while all is calm."""
        pid = os.fork()
        if pid == 0:
            self._be(worker)
        try:
            worker.pidfd = os.pidfd_open(pid)
        except OSError:  # it cannot be watched, so it must not be
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        worker.pid = pid

    def bury(self, worker: Worker) -> int:
        """Its exit status, after its pidfd became readable."""
        os.close(worker.pidfd)
        worker.pidfd = -1
        _, status = os.waitpid(worker.pid, 0)
        return os.waitstatus_to_exitcode(status)

    def kill(self, name: str, patience_s: float) -> bool:
        """End this worker now; False: it has not ended in that time (then it sleeps where no signal wakes it)."""
        worker = self.workers[name]
        if worker.pidfd < 0:
            return True
        signal.pidfd_send_signal(worker.pidfd, signal.SIGKILL)
        return self._ended([worker], time.monotonic() + patience_s)

    def end(self, patience_s: float) -> bool:
        """Let all workers see that the core ends, and wait for them. False: some are still at it."""
        os.close(self._core_end)
        return self._ended([w for w in self.workers.values() if w.pidfd >= 0], time.monotonic() + patience_s)

    def _ended(self, workers: list[Worker], until: float) -> bool:
        for worker in workers:
            poll = select.poll()
            poll.register(worker.pidfd, select.POLLIN)
            if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
                return False
            self.bury(worker)
        return True

    def pids(self) -> frozenset[int]:
        """Of all that live."""
        return frozenset(worker.pid for worker in self.workers.values() if worker.pidfd >= 0)

    def _be(self, worker: Worker) -> None:
        """The child. Never returns."""
        code = 1
        try:
            os.close(self._core_end)
            _close_all_but({0, 1, 2, self.alive, worker.bell, *worker.keep})
            _be_ordinary()
            libc.prctl_set_name(b"oomguard-" + worker.name.encode())
            # They end when the core does, not when somebody signals the whole group: Ctrl-C, systemctl stop.
            signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
            if worker.heap_bytes:
                memlock.reserve(worker.heap_bytes)
                memlock.lock()
            worker.main()
            code = 0
        except BaseException as error:  # noqa: BLE001 - the top of a process: it ends here, and says why
            import traceback

            os.write(2, f"<3>oomguard {worker.name}: {''.join(traceback.format_exception(error))}".encode())
        finally:
            sys.stderr.flush()
            os._exit(code)


def _be_ordinary() -> None:
    """Not a real-time process like the core, if that is one."""
    try:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    except PermissionError:
        pass  # started in the idle class (chrt -i), which only CAP_SYS_NICE may leave: neither is the core real-time


def _close_all_but(keep: set[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd not in keep:
            try:
                os.close(fd)
            except OSError:
                pass  # the directory that was just listed
