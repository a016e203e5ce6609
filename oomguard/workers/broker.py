"""The pressure broker (``tell`` in a policy): a follower of the ring, in a process that only policies with one have.

Whoever listens at a policy's socket or FIFO is told when memory is short, in the protocol of $MEMORY_PRESSURE_WATCH
(systemd, docs/PRESSURE.md): something to read is all that counts; what we write is the watermark's name. What
listeners write (their $MEMORY_PRESSURE_WRITE) is read and thrown away. Nobody is waited for: who has not read yet what
he was told before is not told once more.

Some facts about sd-event (systemd 257, sd-event.c: source_memory_pressure_initiate_dispatch), since that's why this
code is the way it is. When a socket's other end is closed it reads nothing, calls its handler, and does so again at
once: it spins. When the other end is closed with something unread in it, read(2) says ECONNRESET, and its loop ends. So
no connection is closed by us while its listener lives, not even by our death: all are kept once more, in a socket that
the core and PID 1 hold (``Keep``), and whoever comes after us finds them there.
"""

import contextlib
import errno
import fcntl
import os
import pwd
import select
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from ..model.codec import from_plain
from ..model.policy import Plan, TellStep
from ..model.ring import Ring
from ..model.verdict import Tell
from . import follow
from .nobody import drop_privileges
from .pool import Mailbox, hush
from .words import covers

NAME: Final = "pressure"  # the directory, in the runtime directory
LISTENERS_MAX: Final = 1024  # of all; who comes then waits in a queue of the kernel's until somebody leaves
EACH_MAX: Final = 256  # of one user who is not root; more of his are closed
BACKLOG: Final = 64
BATCH: Final = 32  # new ones at a time, and then a pause: who connects and leaves all day costs us little
PAUSE_S: Final = 0.05
HEARD_MAX: Final = 64 << 10  # bytes that a listener may write; what comes then is not read any more
STALE_NS: Final = 60_000_000_000  # what nobody has read of a FIFO by then is taken back: it is not so any more
NAMES_MAX: Final = 8  # of those who were told, in an incident
_CMSG: Final = 200  # descriptors in one message; the kernel takes 253 (SCM_MAX_FD)
_UCRED: Final = struct.Struct("3i")


def run(ring: Ring, bell: int, alive: int, plan: Plan, answers: Mailbox, keep: "Keep") -> None:
    """Until the core is gone. ``keep``: where the connections of a predecessor are."""
    broker = Broker(ring, plan, answers, keep)
    broker.open()
    drop_privileges()
    broker.epoll.register(bell, select.EPOLLIN)
    broker.epoll.register(alive, 0)
    while True:
        events = dict(broker.epoll.poll(broker.timeout_s()))
        if bell in events:
            hush(bell)
        if alive in events:
            return
        broker.follow()
        broker.attend(events)


class Keep:
    """A pair of connected sockets: what is sent into one stays in the other, descriptors too, while anybody has it."""

    __slots__ = ("_into", "_messages", "_out")

    def __init__(self, into: int, out: int) -> None:
        """Two ends of SOCK_SEQPACKET, not blocking; the descriptors stay the caller's."""
        self._into, self._out = (socket.socket(fileno=os.dup(fd)) for fd in (into, out))
        self._messages = 0

    def put(self, fds: list[int]) -> None:
        """Keep these, and no other ones. OSError: they could not be sent."""
        old, self._messages = self._messages, 0
        for start in range(0, len(fds), _CMSG):
            part = fds[start : start + _CMSG]
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(part)}i", *part))
            self._into.sendmsg([b"k"], [rights])
            self._messages += 1
        for _ in range(old):  # the new ones come first: between the two they are there twice, and never not at all
            for fd in self._take():
                os.close(fd)

    def take(self) -> list[int]:
        """What somebody has put there, each once; it stays ours to close."""
        found: dict[int, int] = {}
        while fds := self._take():
            for fd in fds:
                os.close(fd) if found.setdefault(os.fstat(fd).st_ino, fd) != fd else None
        self._messages = 0
        return list(found.values())

    def _take(self) -> list[int]:
        room = socket.CMSG_SPACE(4 * _CMSG)
        try:
            _, rights, _, _ = self._out.recvmsg(1, room, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return []
        return [fd for _, _, data in rights for (fd,) in struct.iter_unpack("i", data)]


class Listener:
    """A connection, and who has made it."""

    __slots__ = ("cgroup", "comm", "heard", "pid", "policy", "sock", "uid")

    def __init__(self, sock: socket.socket, proc: str) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 0)  # as little as the kernel allows: some 4 KiB
        self.sock, self.policy = sock, _policy(sock)
        self.pid, self.uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        self.comm = _line(f"{proc}/{self.pid}/comm")[:15]
        self.cgroup = next((line[3:] for line in _lines(f"{proc}/{self.pid}/cgroup") if line.startswith("0::")), "")
        self.heard = 0

    def __str__(self) -> str:
        user = f" (uid {self.uid})" if self.uid else ""
        return f"{self.comm or '?'}[{self.pid}]{user}"

    def tell(self, word: bytes) -> bool:
        """False: it has not read yet what it was told before. OSError: it is gone."""
        waiting = struct.unpack("i", fcntl.ioctl(self.sock, _SIOCOUTQ, bytes(4)))[0]
        if waiting:
            return False
        try:
            return self.sock.send(word, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) == len(word)
        except BlockingIOError:
            return False


class Fifo:
    """One that a policy names. We have it open for reading as well: it never has an end, whoever comes and goes."""

    __slots__ = ("fd", "name", "policy", "told_ns")

    def __init__(self, policy: str, name: str, fd: int) -> None:
        self.policy, self.name, self.fd = policy, name, fd
        self.told_ns = 0

    def __str__(self) -> str:
        return f"{self.policy}.{self.name}.fifo"

    def waiting(self) -> int:
        """Bytes that nobody has read."""
        count: int = struct.unpack("i", fcntl.ioctl(self.fd, _FIONREAD, bytes(4)))[0]
        return count

    def tell(self, word: bytes) -> bool:
        """False: what it was told before has not been read."""
        if self.waiting():
            return False
        self.told_ns = time.monotonic_ns()
        return os.write(self.fd, word) == len(word)


_SIOCOUTQ: Final = 0x5411  # <linux/sockios.h>: bytes that the other end has not read
_FIONREAD: Final = 0x541B  # <asm-generic/ioctls.h>


class Broker:
    """From turns to listeners. ``answers``: to the core, (token, "Tell", errno, took_ns, how many, who)."""

    def __init__(self, ring: Ring, plan: Plan, answers: Mailbox, keep: Keep) -> None:
        self._ring, self._plan, self._answers, self._keep = ring, plan, answers, keep
        self._proc = plan.daemon.proc
        self._position = ring.head()  # what was asked for before is not told once more
        self._since_ns = follow.born_ns(self._proc)
        self.epoll = select.epoll()
        self.doors: dict[int, socket.socket] = {}
        self.listeners: dict[int, Listener] = {}
        self.fifos: list[Fifo] = []
        self._paused = self._changed = False
        self._directory = -1

    # -- before privileges are dropped -----------------------------------------------------------------------------

    def open(self) -> None:
        """Take over what is kept, open what the policy names. What cannot be is told the core."""
        sockets, fifos = wanted(self._plan)
        left, old = self._take_over()
        try:
            self._open_places(sockets, fifos, left)
        finally:
            for fd in old:  # a FIFO that is the same one is open again by now: its reader has seen no end
                os.close(fd)

    def _open_places(
        self, sockets: list[str], fifos: list[tuple[str, str, str]], left: dict[str, socket.socket]
    ) -> None:
        try:
            self._directory = _directory(f"{self._plan.daemon.runtime_dir}/{NAME}")
        except OSError as error:
            self._lacks(NAME, error)
            return
        for policy in sockets:
            try:
                self._open_door(policy, left.pop(policy, None))
            except OSError as error:
                self._lacks(f"{policy}.sock", error)
        for policy, name, user in fifos:
            try:
                fd = _fifo(self._directory, f"{policy}.{name}.fifo", user)
                self.fifos.append(Fifo(policy, name, fd))
            except OSError as error:
                self._lacks(f"{policy}.{name}.fifo", error)
        for policy, door in left.items():  # its policy tells nobody any more
            self._close_door(policy, door)
        self._remember()

    def _take_over(self) -> tuple[dict[str, socket.socket], list[int]]:
        """Connections become listeners again; doors, by policy, and FIFOs are for who still wants them."""
        doors: dict[str, socket.socket] = {}
        fifos: list[int] = []
        for fd in self._keep.take():
            if stat.S_ISFIFO(os.fstat(fd).st_mode):
                fifos.append(fd)
                continue
            sock = socket.socket(fileno=fd)
            if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                doors[_policy(sock)] = sock
            else:
                self._admit(sock)
        return doors, fifos

    def _open_door(self, policy: str, door: socket.socket | None) -> None:
        name = f"{policy}.sock"
        there = _mode(self._directory, name)
        if door is not None and not stat.S_ISSOCK(there):  # its path went with the runtime directory
            self._empty(door)
            door = None
        if door is None:
            if there:
                os.unlink(name, dir_fd=self._directory)
            door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            before = os.umask(0o111)  # anybody may listen, as anybody may read /proc/pressure/memory
            try:
                door.bind(f"/proc/self/fd/{self._directory}/{name}")  # an address is shorter than a path may be
            finally:
                os.umask(before)
            door.listen(BACKLOG)
        door.setblocking(False)
        self.doors[door.fileno()] = door
        self.epoll.register(door.fileno(), select.EPOLLIN)

    def _close_door(self, policy: str, door: socket.socket) -> None:
        if stat.S_ISSOCK(_mode(self._directory, f"{policy}.sock")):
            os.unlink(f"{policy}.sock", dir_fd=self._directory)
        self._empty(door)

    def _empty(self, door: socket.socket) -> None:
        """Whoever waits at it would be reset when it is closed."""
        door.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while not self._full():
                self._admit(_accepted(door))
        door.close()

    def _lacks(self, what: str, error: OSError) -> None:
        self._answers.post((0, "Tell", error.errno or errno.EIO, 0, 0, f"{what}: {error.strerror}"))

    # -- who comes and goes ----------------------------------------------------------------------------------------

    def timeout_s(self) -> float:
        """Until there is something to do that nobody tells of."""
        if self._paused and not self._full():
            return PAUSE_S
        told = any(fifo.told_ns for fifo in self.fifos)
        return STALE_NS / 1e9 if told else follow.IDLE_S

    def _full(self) -> bool:
        return len(self.listeners) >= LISTENERS_MAX

    def attend(self, events: dict[int, int]) -> None:
        """To listeners and doors, after whoever was to be told."""
        self._pause(False)
        for fd, mask in events.items():  # those who leave make room for those who come
            if (listener := self.listeners.get(fd)) is not None:
                self._hear(listener, mask)
        for fd in events.keys() & self.doors.keys():
            self._answer_door(self.doors[fd])
        if self._full():
            self._pause(True)
        if self._changed:
            self._remember()
        for fifo in self.fifos:
            if fifo.told_ns and time.monotonic_ns() - fifo.told_ns > STALE_NS:
                fifo.told_ns = 0
                with contextlib.suppress(BlockingIOError):
                    os.read(fifo.fd, 65536)

    def _answer_door(self, door: socket.socket) -> None:
        for _ in range(BATCH):
            if self._full():
                break
            try:
                sock = _accepted(door)
            except BlockingIOError:
                return
            except OSError:  # it has gone already; or no descriptor is left, and there may be one later
                break
            self._admit(sock)
        self._pause(True)

    def _pause(self, pause: bool) -> None:
        if pause != self._paused:
            self._paused = pause
            for fd in self.doors:
                self.epoll.modify(fd, 0 if pause else select.EPOLLIN)

    def _admit(self, sock: socket.socket) -> None:
        try:
            listener = Listener(sock, self._proc)
        except OSError:
            sock.close()
            return
        same = sum(other.uid == listener.uid for other in self.listeners.values()) if listener.uid else 0
        if same >= EACH_MAX:
            sock.close()
            return
        self.listeners[sock.fileno()] = listener
        self.epoll.register(sock.fileno(), select.EPOLLIN)
        self._changed = True

    def _hear(self, listener: Listener, mask: int) -> None:
        try:
            said = listener.sock.recv(4096) if mask & select.EPOLLIN else b""
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if not said:
            self._part(listener)
            return
        listener.heard += len(said)
        if listener.heard > HEARD_MAX:  # it has nothing to say that takes so long
            self.epoll.modify(listener.sock.fileno(), 0)

    def _part(self, listener: Listener) -> None:
        fd = listener.sock.fileno()
        self.epoll.unregister(fd)
        del self.listeners[fd]
        listener.sock.close()
        self._changed = True

    def _remember(self) -> None:
        self._changed = False
        with contextlib.suppress(OSError):  # then a restart of ours cuts those off who came last
            self._keep.put([*self.doors, *(fifo.fd for fifo in self.fifos), *self.listeners])

    # -- telling ---------------------------------------------------------------------------------------------------

    def follow(self) -> None:
        """Tell whom the turns since the last one name."""
        self._position = follow.read(self._ring, self._position, self._record)

    def _record(self, plain: dict[str, Any]) -> None:
        if plain["kind"] != "Turn" or plain["seen"]["at_ns"] < self._since_ns:
            return
        for action in plain["actions"]:
            if action["kind"] == "Tell" and not _is_held(plain, action["token"]):
                self.tell(from_plain(action))

    def tell(self, action: Tell) -> None:
        """All whom it is for, at once; the answer says who they were."""
        began = time.monotonic_ns()
        policy, cgroup = action.target.guard, action.target.cgroup
        mine = [listener for listener in self.listeners.values() if listener.policy == policy]
        meant = [one for one in mine if action.to == "all" or covers(cgroup, one.cgroup)]
        told: list[str] = []
        busy: list[str] = []
        word = f"{action.watermark}\n".encode()
        ends: list[Listener | Fifo] = [*meant, *(fifo for fifo in self.fifos if fifo.policy == policy)]
        for one in ends:
            try:
                (told if one.tell(word) else busy).append(str(one))
            except OSError:
                pass  # it has just gone, and its end is on the way to us
        number = 0 if told else errno.EAGAIN if busy else errno.ENOTCONN
        took_ns = time.monotonic_ns() - began
        said = _account(told, busy, len(mine) - len(meant), cgroup)
        self._answers.post((action.token, "Tell", number, took_ns, len(told), said))


def wanted(plan: Plan) -> tuple[list[str], list[tuple[str, str, str]]]:
    """What this plan needs: policies with a socket; (policy, name, user) of FIFOs."""
    sockets: dict[str, None] = {}
    fifos: dict[tuple[str, str, str], None] = {}
    for guard in plan.guards:
        if guard.mode == "shadow":
            continue
        for mark in (guard.soft, guard.hard):
            for step in mark.do if mark is not None else ():
                if isinstance(step, TellStep):
                    sockets[guard.name] = None
                    fifos |= dict.fromkeys((guard.name, name, user) for name, user in step.fifos)
    return list(sockets), list(fifos)


def _account(told: list[str], busy: list[str], outside: int, cgroup: str) -> str:
    """Who was told, for people."""
    parts = [_some(told) if told else "nobody"]
    if busy:
        verb = "has" if len(busy) == 1 else "have"
        parts.append(f"{len(busy)} {verb} not read what was told before: {_some(busy)}")
    if outside:
        parts.append(f"{outside} listen{'s' if outside == 1 else ''} outside of {cgroup}")
    return "; ".join(parts)


def _some(names: list[str]) -> str:
    more = len(names) - NAMES_MAX
    return ", ".join(names[:NAMES_MAX]) + (f" and {more} more" if more > 0 else "")


def _is_held(turn: dict[str, Any], token: int) -> bool:
    outcomes = turn["outcomes"]
    return any(o["what"] == "Tell" and o["token"] == token and (o["held"] or o["errno"]) for o in outcomes)


def _accepted(door: socket.socket) -> socket.socket:
    """BlockingIOError: nobody has come. By the interpreter's own part of socket: the rest is not loaded here."""
    fd, _ = door._accept()  # type: ignore[attr-defined]
    return socket.socket(fileno=fd)


def _policy(sock: socket.socket) -> str:
    """Whose socket it is: an accepted one has the address of the one at which it was accepted."""
    name = sock.getsockname()
    return os.path.basename(name if isinstance(name, str) else "").removesuffix(".sock")


def _lines(path: str) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8", errors="backslashreplace") as file:
            yield from file.read(65536).splitlines()
    except OSError:
        return


def _line(path: str) -> str:
    """A name, of which every character can be seen."""
    text = next(iter(_lines(path)), "")
    return "".join(letter if letter.isprintable() else "?" for letter in text)


# -- files -------------------------------------------------------------------------------------------------------------


def _directory(path: str) -> int:
    """Ours alone to write to, open to all. OSError: it is not to be had, or somebody else's (EPERM)."""
    before = os.umask(0o022)
    try:
        os.makedirs(path, 0o755, exist_ok=True)
    finally:
        os.umask(before)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    if os.fstat(fd).st_uid != os.geteuid():
        os.close(fd)
        raise OSError(errno.EPERM, "it belongs to somebody else", path)
    return fd


def _mode(directory: int, name: str) -> int:
    """0: there is no such file."""
    try:
        return os.lstat(name, dir_fd=directory).st_mode
    except FileNotFoundError:
        return 0


def _fifo(directory: int, name: str, user: str) -> int:
    """Open, of that user and for him alone. One that is there already stays: somebody may have it open.

    OSError ENOENT: there is no such user.
    """
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise OSError(errno.ENOENT, f"there is no user {user!r}") from None
    if not _is_fifo_of(directory, name, entry.pw_uid):
        if _mode(directory, name):
            os.unlink(name, dir_fd=directory)
        _make_fifo(directory, name, entry.pw_uid, entry.pw_gid)
    return os.open(name, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)


def _is_fifo_of(directory: int, name: str, uid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        status = os.lstat(name, dir_fd=directory)
        return stat.S_ISFIFO(status.st_mode) and status.st_uid == uid
    return False


def _make_fifo(directory: int, name: str, uid: int, gid: int) -> None:
    """Without CAP_CHOWN, which our unit does not have: by that user, in a directory that is open to him for so long."""
    if uid == os.geteuid():
        os.mkfifo(name, 0o600, dir_fd=directory)
        return
    nest = f".{name}"
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(nest, dir_fd=directory)
    before = os.umask(0)
    os.mkdir(nest, 0o730, dir_fd=directory)  # its group is ours, and while we are him it is still ours
    try:
        inside = os.open(nest, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            _as_user(uid, lambda: os.mkfifo(name, 0o600, dir_fd=inside))
            os.rename(name, name, src_dir_fd=inside, dst_dir_fd=directory)
        finally:
            os.close(inside)
    finally:
        os.umask(before)
        os.rmdir(nest, dir_fd=directory)
    if not _is_fifo_of(directory, name, uid):
        raise OSError(errno.EPERM, f"it could not be made for uid {uid} (gid {gid})", name)


def _as_user(uid: int, act: Callable[[], None]) -> None:
    own = os.geteuid()
    os.seteuid(uid)
    try:
        act()
    finally:
        os.seteuid(own)
