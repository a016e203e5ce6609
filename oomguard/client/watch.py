"""Listening: one descriptor for any loop, a coroutine, or a thread. What sd_event_add_memory_pressure(3) is for C.

Some facts about the kernel's pressure files, since that's why this code is the way it is. A trigger that has spoken
says so to the first poll(2) that looks, whoever that is, and is silent again (kernel/sched/psi.c: psi_trigger_poll). A
loop that polls our epoll takes the event away by looking: what it finds in there when it comes to read is nothing. So
``read`` believes who calls it.

And about sockets: when the other end is closed the descriptor stays readable for ever. A listener that only reads and
goes on spins. So what was lost is closed, and tried again after a while.
"""

from __future__ import annotations

import errno
import os
import select
import struct
import sys
import time
from _thread import RLock, allocate_lock
from _weakref import ref

from . import source as places
from .errors import Closed, Forked, Locked, NotPressure, NotSupported
from .memory import trim

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Callable, Mapping
    from types import TracebackType
    from typing import Final, Self

    from .source import Kind, Source

_BYTES: Final = 4096  # PIPE_BUF, as sd-event reads; whoever tells sends less than that
_AGAIN_S: Final = (1.0, 60.0)  # what was lost is tried again after the first, twice as long each time, up to the second
_live: set[ref[Watch]] = set()  # for the child of a fork
_live_lock = [allocate_lock()]


class Watch:
    """Told when memory is short, from where the environment says, the own cgroup, or the machine.

    Opened when it is made, so that what is wrong is said there; it begins with ``start``, which everything that listens
    calls by itself. May be used from any thread. Belongs to the process that has made it: after a fork the child's is
    closed, says Forked, and takes nothing from the parent's.
    """

    def __init__(
        self,
        environment: Mapping[str, str] | None = None,
        *,
        proc: str = "/proc",
        cgroup: str = "/sys/fs/cgroup",
    ) -> None:
        """``environment``: os.environ. Disabled, BadEnvironment, NotSupported; OSError of what could not be opened."""
        self._environment, self._proc, self._cgroup = environment, proc, cgroup
        self._pid = os.getpid()
        self._lock = RLock()
        self._closed = self._started = False
        self._users = 0  # who is asleep on a descriptor: it is not closed under them
        self._again_s = _AGAIN_S[0]
        self._waiting: list[asyncio.Future[None]] = []
        self._fd = self._timer = self._bell = -1
        self._echo = b""  # our own words in a FIFO: we are the first to read them
        self.level = ""  # the last word that was told: "soft" or "hard" by oomguard, "" by the kernel
        self._source: Source = places.find(environment, proc, cgroup)
        self._write = self._source.write
        self._epoll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._bell, select.EPOLLIN)
        self._fd, self.kind = self._open()
        with _live_lock[0]:
            _live.add(ref(self, _live.discard))

    # -- how it is set

    @property
    def path(self) -> str:
        """What is listened to."""
        return self._source.path

    @property
    def connected(self) -> bool:
        """Whether there is anything that could tell: False while what was lost is tried again."""
        return self._fd >= 0

    def set_type(self, kind: str) -> None:
        """Tell of "some" (a task has waited for memory) or "full" (all have). Locked, NotPressure, BadArgument."""
        with self._lock:
            places.parameters(kind, 1, 1)
            _, threshold_us, window_us = self._parameters()
            self._write = places.parameters(kind, threshold_us, window_us)

    def set_period(self, stall_s: float, window_s: float) -> None:
        """Tell when so much of any window was waited. Locked, NotPressure, BadArgument EINVAL, ERANGE.

        The kernel takes windows of 0.5 s to 10 s, and of multiples of 2 s from whoever has not CAP_SYS_RESOURCE.
        """
        with self._lock:
            times = round(stall_s * 1e6), round(window_s * 1e6)
            places.parameters("some", *times)
            self._write = places.parameters(self._parameters()[0], *times)

    def _parameters(self) -> tuple[str, int, int]:
        self._check()
        if self._source.fixed:
            raise Locked(errno.EBUSY, f"${places.WATCH} has fixed what is listened to", self.path)
        if self._started:
            raise Locked(errno.EBUSY, "it listens already: to be set before it starts", self.path)
        if self.kind != "pressure":
            raise NotPressure(errno.EDOM, "only the kernel's files have a type and a period", self.path)
        kind, threshold, window = self._write.rstrip(b"\0").split()
        return kind.decode(), int(threshold), int(window)

    def start(self) -> None:
        """Begin. Once is enough. NotSupported: pressure is switched off (psi=0); OSError: the kernel's refusal."""
        with self._lock:
            self._check()
            if not self._started:
                self._begin()
                self._started = True

    # -- listening

    def fileno(self) -> int:
        """A descriptor that is readable when there is something to ``read``. It stays the same until ``close``."""
        self.start()
        return self._epoll.fileno()

    def read(self) -> bool:
        """Whether it was told; to be called when ``fileno`` is readable. Does not wait. What was told is told once.

        False: something else was the matter (the other end is gone, or back again).
        """
        self.start()
        with self._lock:
            return self._look(self._epoll.poll(0), believe=True)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Sleep until it is told. False: the time is over. Closed: by another thread, meanwhile."""
        self.start()
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left = -1 if end is None else max(0.0, end - time.monotonic())
            with self._lock:
                self._check()
                self._users += 1
            try:
                events = self._epoll.poll(left)
            finally:
                self._left()
            with self._lock:
                if self._look(events):
                    return True
            if end is not None and time.monotonic() >= end:
                return False

    async def told(self) -> None:
        """Until it is told, in the running loop of asyncio. Several tasks may wait: each is told. Closed."""
        import asyncio

        self.start()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        with self._lock:
            self._check()
            self._users += 1
            if not self._waiting:
                loop.add_reader(self._epoll.fileno(), self._ready)
            self._waiting.append(future)
        try:
            await future
        finally:
            with self._lock:
                self._waiting.remove(future)
                if not self._waiting:
                    loop.remove_reader(self._epoll.fileno())
            self._left()

    async def __aiter__(self) -> AsyncIterator[str]:
        """``async for level in watch``: each time it is told, until it is closed."""
        while True:
            try:
                await self.told()
            except Closed:
                return
            yield self.level

    def _ready(self) -> None:
        error: Closed | None = None
        try:
            if not self.read():
                return
        except Closed as closed:
            error = closed
        for future in self._waiting:
            if not future.done():
                future.set_result(None) if error is None else future.set_exception(error)

    def in_thread(self, callback: Callable[[], object] = trim, *, follow_forks: bool = False) -> None:
        """Call that from a thread of its own, each time it is told, until ``close``. By default: ``trim``.

        What it raises is threading.excepthook's, and ends nothing. ``follow_forks``: the child of a fork opens its own
        and goes on with it; else nobody listens in the child.
        """
        import threading

        self.start()
        self._follow = callback if follow_forks else None
        threading.Thread(target=self._serve, args=(callback,), name="oomguard-pressure", daemon=True).start()

    _follow: Callable[[], object] | None = None

    def _serve(self, callback: Callable[[], object]) -> None:
        import threading

        while True:
            try:
                self.wait()
            except (Closed, Forked):
                return
            try:
                callback()
            except Exception:  # noqa: BLE001 - the top of a thread; the next time it may work
                threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))

    # -- the end

    def close(self) -> None:
        """Stop listening. Whoever waits is told so (Closed). May be called twice, and in the child of a fork."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._users:
                os.eventfd_write(self._bell, 1)
            else:
                self._shut()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_bell", -1) >= 0 and not self._closed:
            self._shut()

    def _left(self) -> None:
        with self._lock:
            self._users -= 1
            if self._closed and not self._users:
                self._shut()

    def _shut(self) -> None:
        for fd in (self._fd, self._timer, self._bell):
            if fd >= 0:
                os.close(fd)
        self._fd = self._timer = self._bell = -1
        self._epoll.close()

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise Forked(errno.ECHILD, "it belongs to the process that has forked this one: make another", self.path)
        if self._closed:
            raise Closed(errno.ESTALE, "it was closed", self.path)

    # -- what is listened to

    def _open(self) -> tuple[int, Kind]:
        path, flags = self._source.path, os.O_PATH | os.O_CLOEXEC
        try:
            place = os.open(path, flags)
        except FileNotFoundError:
            if not self._source.fallback:
                raise
            path = self._source.path = self._source.fallback
            place = os.open(path, flags)
        try:
            kind = places.kind_of(path, place, self._proc)
            return (_connected(path, place) if kind == "socket" else _reopened(path, place, bool(self._write))), kind
        finally:
            os.close(place)

    def _begin(self) -> None:
        """Say what we want to be told, then listen: of a kernel's file nothing else would do."""
        try:
            if self._write:
                os.write(self._fd, self._write)  # a few bytes: they go at once or not at all
                self._echo = self._write if self.kind == "fifo" else b""
        except BlockingIOError:
            pass  # nobody reads there, as little as anybody has to
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:  # CONFIG_PSI_DEFAULT_DISABLED: the file is there and does nothing
                why = "pressure is switched off in this kernel (psi=1 switches it on)"
                raise NotSupported(errno.EOPNOTSUPP, why, self.path) from None
            error.filename = self.path
            raise
        self._epoll.register(self._fd, select.EPOLLPRI if self.kind == "pressure" else select.EPOLLIN)

    def _look(self, events: list[tuple[int, int]], believe: bool = False) -> bool:
        """What these events mean. ``believe``: whoever polls us has been told so."""
        self._check()
        told = believe and not events and self.kind == "pressure" and self.connected
        for fd, mask in events:
            if fd == self._timer:
                self._retry()
            elif fd == self._fd and mask & select.EPOLLPRI:
                told = True
            elif fd == self._fd:
                told |= self._drain(mask)
        return told

    def _drain(self, mask: int) -> bool:
        """Whether there was anything to read. At its end it is given up, for a while."""
        said = b""
        try:
            said = os.read(self._fd, _BYTES) if mask & select.EPOLLIN else b""
            ended = not said
        except BlockingIOError:
            ended = False
        except OSError:  # reset: the other end was closed before it had read what we wrote
            ended = True
        if ended:
            self._lose()
        if self._echo and said.startswith(self._echo):
            said, self._echo = said[len(self._echo) :], b""
        if said:
            self.level = said.split()[-1].decode("ascii", "replace") if said.split() else ""
        return bool(said)

    def _lose(self) -> None:
        self._epoll.unregister(self._fd)
        os.close(self._fd)
        self._fd = -1
        self._again_s = _AGAIN_S[0]
        if self._timer < 0:
            self._timer = _timer()
            self._epoll.register(self._timer, select.EPOLLIN)
        _set_timer(self._timer, self._again_s)

    def _retry(self) -> None:
        os.read(self._timer, 8)
        try:
            self._fd, self.kind = self._open()
            self._begin()
        except OSError:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
            self._again_s = min(2 * self._again_s, _AGAIN_S[1])
            _set_timer(self._timer, self._again_s)

    # -- forks

    def _forked(self) -> None:
        """In the child: the parent's descriptors are not ours to read from, nor to keep open."""
        self._lock = RLock()  # another thread of the parent's may have had it
        self._shut()
        self._closed, self._users, self._waiting = True, 0, []
        follow = self._follow
        if follow is not None:
            Watch(self._environment, proc=self._proc, cgroup=self._cgroup).in_thread(follow, follow_forks=True)


def _after_fork() -> None:
    _live_lock[0] = allocate_lock()
    inherited = [watch for known in tuple(_live) if (watch := known()) is not None and not watch._closed]
    for watch in inherited:
        try:
            watch._forked()
        except OSError as error:  # it cannot be opened here: that must not end the child
            sys.stderr.write(f"oomguard.client: nobody listens for memory pressure in {os.getpid()}: {error}\n")


os.register_at_fork(after_in_child=_after_fork)


def _connected(path: str, place: int) -> int:
    """A stream to that socket. The path may be longer than an address: /proc/self/fd is not."""
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as to:
        try:
            to.connect(f"/proc/self/fd/{place}")
        except OSError as error:
            error.filename = path
            raise
        return to.detach()


def _reopened(path: str, place: int, writes: bool) -> int:
    mode = os.O_RDWR if writes else os.O_RDONLY
    try:
        return os.open(f"/proc/self/fd/{place}", mode | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        error.filename = path
        raise


def _timer() -> int:
    if sys.version_info >= (3, 13):
        return os.timerfd_create(time.CLOCK_MONOTONIC, flags=os.TFD_NONBLOCK | os.TFD_CLOEXEC)
    import ctypes

    fd: int = ctypes.CDLL(None, use_errno=True).timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return fd


def _set_timer(fd: int, after_s: float) -> None:
    if sys.version_info >= (3, 13):
        os.timerfd_settime(fd, initial=after_s)
        return
    import ctypes

    whole = int(after_s)
    value = struct.pack("@qqqq", 0, 0, whole, int((after_s - whole) * 1e9))  # struct itimerspec: every, then once
    ctypes.CDLL(None).timerfd_settime(fd, 0, value, None)
