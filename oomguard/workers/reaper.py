"""The hand for what may block: freeing a dying process's memory, and writing to memory.high.

Single file, in the order in which the core asked, but that writes come last. It opens its own pidfds when a victim is
nominated, so that reaping needs nothing but the one call. When the core is gone it puts back all leases, and ends.
"""

import errno
import os
import select
import time
from typing import TYPE_CHECKING, Any, Final

from ..linux import leases, libc, pidfd, procfs
from ..linux.cgroup2 import Cgroup
from .pool import Mailbox

if TYPE_CHECKING:
    from ..linux.dbus import Call

# process_mrelease answers EAGAIN while the victim holds its own mmap lock: a few tries, a few ms apart.
BITE: Final = 8 << 20  # bytes reclaimed at a time: between two of them it can do something else
SLOW: Final = frozenset({"write", "reclaim"})
TRIES: Final = 5
RETRY_S: Final = 0.004


JOB_MS: Final = 500  # between two looks whether systemd has taken too long
JOB_PATIENCE_NS: Final = 5_000_000_000  # PID 1 is slow where memory is gone, and was not locked as we are


def _call() -> "type[Call]":
    """Loaded when a policy asks for it: before anything is short (``prepare``)."""
    from ..linux.dbus import Call

    return Call


class Deputy:
    """Who ends the nominee where the core cannot (``core.deadman``); it lives here, locked and awake. This: nobody."""

    def guard(self, token: int, ward: bytes) -> None:
        """This nominee is handed to it."""

    def leave(self, token: int) -> None:
        """It is a nominee no more."""

    def timeout_ms(self) -> int | None:
        """When it wants to look; None: never."""
        return None

    def look(self) -> list[int]:
        """Look; the tokens of those that it has ended now."""
        return []


class Reaper:
    """``orders`` from the core, ``answers`` to it: (token, what, errno, took_ns, value)."""

    def __init__(
        self,
        orders: Mailbox,
        answers: Mailbox,
        alive: int,
        runtime_dir: str,
        cgroup: str,
        proc: str,
        deputy: Deputy | None = None,
    ) -> None:
        self.orders, self.answers, self.alive = orders, answers, alive
        self.deputy = deputy or Deputy()
        self.runtime_dir, self.cgroup, self.proc = runtime_dir, cgroup, proc
        self.proc_fd = procfs.open_proc(proc)
        self.held: dict[int, list[tuple[int, int]]] = {}  # token: (pid, pidfd)
        self.jobs: dict[int, tuple[int, Call, int]] = {}  # fd: (token, what systemd was asked for, since)

    def run(self) -> None:
        """Until the core is gone."""
        try:
            os.setpriority(os.PRIO_PROCESS, 0, -10)
        except PermissionError:
            pass
        self.rehearse()
        poll = select.poll()
        poll.register(self.orders.bell, select.POLLIN)
        poll.register(self.alive, select.POLLHUP)
        waiting: list[tuple[Any, ...]] = []
        while True:
            for fd in self.jobs:
                poll.register(fd, select.POLLIN)
            ready = dict(poll.poll(0 if waiting else self._timeout_ms()))
            for fd in list(self.jobs):
                poll.unregister(fd)
                self._job(fd, fd in ready)
            if self.alive in ready:  # what was ordered last is of no interest any more: it would be undone at once
                self.put_back()
                return
            messages, lost = self.orders.take()
            waiting += messages
            if lost:
                self.answers.post((0, "Lost", 0, 0, 0))
            self._work(waiting)
            for token in self.deputy.look():
                self.obey(("reap", token))

    def _timeout_ms(self) -> int | None:
        wanted = self.deputy.timeout_ms()
        return wanted if not self.jobs else JOB_MS if wanted is None else min(wanted, JOB_MS)

    def rehearse(self) -> None:
        """Reap ourselves, which the kernel refuses: what has run once does not fault when it is needed."""
        start_ticks = procfs.start_ticks(self.proc_fd, os.getpid())
        self._open(0, [(os.getpid(), start_ticks or 0)])
        self._reap(0)
        self._close(0)

    def _work(self, waiting: list[tuple[Any, ...]]) -> None:
        """Up to the first that may take long. All else goes first, and what has come since goes before the next.

        No order depends on another one's write: there is one a file at a time. Reclaim goes last of all, bite by bite.
        """
        for message in [message for message in waiting if message[0] not in SLOW]:
            waiting.remove(message)
            self.obey(message)
        slow = next((message for message in waiting if message[0] == "write"), waiting[0] if waiting else None)
        if slow is None:
            return
        waiting.remove(slow)
        if slow[0] == "write":
            self.obey(slow)
        elif (rest := self._bite(*slow[1:])) is not None:
            waiting.append(rest)

    def _bite(
        self, token: int, path: str, inode: int, size: int, until_ns: int, had: int = 0, began: int = 0
    ) -> tuple[Any, ...] | None:
        """Reclaim a little of what is asked for. What is left to do; None: enough, or no more to be had, and told."""
        now = time.monotonic_ns()
        began, number, took = began or now, 0, 0
        if now < until_ns:
            try:
                took = self._reclaim(path, inode, min(BITE, size - had))
            except OSError as error:
                number = error.errno or errno.EIO
        had += took
        if took and had < size and time.monotonic_ns() < until_ns:
            return ("reclaim", token, path, inode, size, until_ns, had, began)
        self.answers.post((token, "Reclaim", 0 if had else number or errno.EAGAIN, time.monotonic_ns() - began, had))
        return None

    def _reclaim(self, path: str, inode: int, size: int) -> int:
        """How many bytes the cgroup had less after it; 0: nothing more is to be had. OSError: it cannot be asked."""
        group = Cgroup.open(self.cgroup, path)
        if group is None or (inode and group.inode != inode):
            raise OSError(errno.ESRCH, "the cgroup is gone")
        try:
            return size if group.reclaim(size) else 0
        finally:
            group.close()

    def obey(self, message: tuple[Any, ...]) -> None:
        """One order. Whatever goes wrong is an answer."""
        what, token, *rest = message
        began = time.monotonic_ns()
        value = 0
        number = 0
        try:
            match what:
                case "open":
                    self._open(token, rest[0])
                    if rest[1:]:
                        self.deputy.guard(token, rest[1])
                case "close":
                    self._close(token)
                    self.deputy.leave(token)
                case "reap":
                    value = self._reap(token)
                case "write":
                    number = self._write(leases.Entry(*rest[0]))
                case "unit":
                    number = self._ask(token, *rest)
                case "prepare":  # the very road of a job, to its end: what is loaded and answered now is so later
                    number = self._ask(0, "look", "")
                case "undo":
                    value = bool(leases.undo(leases.Entry(*rest[0]), self.cgroup, self.proc))
                case _:
                    number = errno.ENOSYS
        except OSError as error:
            number = error.errno or errno.EIO
        if what in ("unit", "prepare") and number:
            self.answers.post((token, "UnitJob", number, time.monotonic_ns() - began, 0))
        if what in ("reap", "write", "undo"):
            name = {"reap": "Reap", "write": "Lease", "undo": "Release"}[what]
            self.answers.post((token, name, number, time.monotonic_ns() - began, value))

    def _ask(self, token: int, verb: str, unit: str) -> int:
        """Ask systemd for a job. An errno; 0: it is asked, and ``_job`` hears the answer."""
        try:
            if verb == "look":
                call = _call()("GetDefaultTarget")
            else:
                call = _call()("RestartUnit" if verb == "restart" else "StopUnit", unit, "replace")
        except OSError as error:
            return error.errno or errno.EIO
        self.jobs[call.fd] = (token, call, time.monotonic_ns())
        return 0

    def _job(self, fd: int, readable: bool) -> None:
        token, call, since_ns = self.jobs[fd]
        number = call.go() if readable else None
        if number is None and time.monotonic_ns() - since_ns > JOB_PATIENCE_NS:
            number = errno.ETIMEDOUT
        if number is None:
            return
        del self.jobs[fd]
        call.close()
        if call.error:
            os.write(2, f"<4>oomguard: systemd has refused a job: {call.error}\n".encode("utf-8", "backslashreplace"))
        self.answers.post((token, "UnitJob", number, time.monotonic_ns() - since_ns, 0))

    def _open(self, token: int, processes: list[tuple[int, int]]) -> None:
        self._close(token)
        self.held[token] = []
        for pid, start_ticks in processes:
            fd = pidfd.open_verified(self.proc_fd, pid, start_ticks)
            if fd is not None:
                self.held[token].append((pid, fd))

    def _close(self, token: int) -> None:
        for _, fd in self.held.pop(token, []):
            os.close(fd)

    def _write(self, entry: leases.Entry) -> int:
        """An errno. ESRCH: gone; ECANCELED: since the core looked somebody else has written there: it is his."""
        now = leases.read_value(entry, self.cgroup, self.proc)
        if now is None:
            return errno.ESRCH
        if not leases.stands(entry, now):
            return errno.ECANCELED
        return 0 if leases.write_value(entry, entry.value, self.cgroup, self.proc) else errno.ESRCH

    def _reap(self, token: int) -> int:
        """Free what the victim's processes hold; how many bytes were there when we came."""
        freed = 0
        for pid, fd in self.held.get(token, []):
            process = procfs.read_process(self.proc_fd, pid, cgroup="")
            if _release(fd) and process is not None:
                freed += process.anon_bytes + process.swap_bytes
        return freed

    def put_back(self) -> None:
        """The core is gone: nothing that it changed stays."""
        for sentence in leases.undo_all(self.runtime_dir, self.cgroup, self.proc):
            os.write(2, f"<4>oomguard: {sentence}\n".encode("utf-8", "backslashreplace"))


def _release(fd: int) -> bool:
    """process_mrelease; False: it was gone already, or this kernel or these rights do not allow it."""
    for attempt in range(TRIES):
        try:
            libc.process_mrelease(fd)
        except OSError as error:
            if error.errno != errno.EAGAIN or attempt == TRIES - 1:
                return False
            time.sleep(RETRY_S)
        else:
            return True
    return False
