"""The broker over real sockets and FIFOs: who is told, who is not waited for, and who is cut off (nobody)."""

from __future__ import annotations

import errno
import os
import pwd
import select
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from oomguard.model.codec import pack
from oomguard.model.facts import MemInfo, Observation, TargetId
from oomguard.model.incident import Turn
from oomguard.model.policy import Daemon, Guard, Plan, TellStep, Watermark
from oomguard.model.ring import Ring
from oomguard.model.verdict import Outcome, Tell
from oomguard.workers import broker as module
from oomguard.workers.broker import Broker, Keep
from oomguard.workers.pool import Mailbox

PATIENCE_S = 60.0
HOST = MemInfo(1 << 30, 1, 2, 3, 4)
MACHINE, WEB = TargetId("web", "/"), TargetId("web", "/web")
ME = pwd.getpwuid(os.geteuid()).pw_name


def tells(name: str, *fifos: tuple[str, str], mode: str = "enforce") -> Guard:
    return Guard(name, "/", mode=mode, soft=Watermark((), (TellStep(0, "inside", fifos),)))  # type: ignore[arg-type]


class Rig:
    """A broker in this very process, the ring that it follows, and what PID 1 would hold for it."""

    def __init__(self, path: Path) -> None:
        self.path, self.ring, self.answers = path, Ring.create(1 << 20), Mailbox()
        self.ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self.number = 0
        self.guards: tuple[Guard, ...] = (tells("web", ("thumbs", ME)),)
        self.broker = self.started()
        self.clients: list[socket.socket] = []

    def started(self) -> Broker:
        daemon = Daemon(runtime_dir=str(self.path))
        made = Broker(self.ring, Plan("1", daemon, self.guards), self.answers, Keep(*(e.fileno() for e in self.ends)))
        made.open()
        return made

    def dies(self) -> None:
        """As by SIGKILL: everything that it has open is closed, and nobody says good-bye."""
        broker, keep = self.broker, self.broker._keep
        for each in (*broker.doors.values(), *(one.sock for one in broker.listeners.values()), keep._into, keep._out):
            each.close()
        for fd in (*(fifo.fd for fifo in broker.fifos), broker._directory):
            if fd >= 0:
                os.close(fd)
        broker.epoll.close()

    def restarts(self) -> None:
        self.dies()
        self.broker = self.started()

    def turns(self, count: int = 4) -> None:
        for _ in range(count):
            self.broker.attend(dict(self.broker.epoll.poll(0)))

    def file(self, name: str) -> Path:
        return self.path / "pressure" / name

    def connects(self, policy: str = "web", write: bytes = b"") -> socket.socket:
        """A listener, accepted."""
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.connect(str(self.file(f"{policy}.sock")))
        client.setblocking(False)
        if write:
            client.send(write)
        self.clients.append(client)
        self.turns()
        return client

    def says(self, target: TargetId = MACHINE, token: int = 1, to: str = "inside", *outcomes: Outcome) -> None:
        self.number += 1
        action = Tell(target, token, "soft", to, "memory is short")  # type: ignore[arg-type]
        turn = Turn(self.number, Observation(time.monotonic_ns(), host=HOST), (action,), outcomes)
        assert self.ring.append(pack(turn))
        self.broker.follow()

    def answer(self) -> tuple[int, int, int, str]:
        """(token, errno, how many, who)"""
        ((token, what, number, took_ns, count, who),), _ = self.answers.take()
        assert what == "Tell"
        assert took_ns >= 0
        return token, number, count, who


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.dies()
    for client in (*made.clients, *made.ends):
        client.close()


def heard(client: socket.socket) -> bytes | None:
    """None: nothing; b"": the other end is gone."""
    try:
        return client.recv(4096)
    except BlockingIOError:
        return None


def myself() -> str:
    comm = Path("/proc/self/comm").read_text().strip()
    return f"{comm}[{os.getpid()}]" + (f" (uid {os.getuid()})" if os.getuid() else "")


# -- telling


def test_a_listener_is_told_and_it_is_known_who_it_was(rig: Rig) -> None:
    client = rig.connects()
    rig.says(token=7)
    assert heard(client) == b"soft\n"
    fifo = "web.thumbs.fifo"
    assert rig.answer() == (7, 0, 2, f"{myself()}, {fifo}")


def test_nobody_listens(rig: Rig) -> None:
    rig.guards = (tells("web"),)
    rig.restarts()
    rig.says(token=7)
    assert rig.answer() == (7, errno.ENOTCONN, 0, "nobody")


def test_every_listener_of_this_policy_and_of_no_other(rig: Rig) -> None:
    rig.guards = (tells("web"), tells("other"))
    rig.restarts()
    mine, other = [rig.connects() for _ in range(20)], rig.connects("other")
    rig.says()
    assert [heard(client) for client in mine] == [b"soft\n"] * 20
    assert heard(other) is None
    _, _, count, who = rig.answer()
    assert count == 20
    assert who.endswith(" and 12 more")


def test_those_outside_of_the_cgroup_only_where_all_are_meant(rig: Rig) -> None:
    rig.guards = (tells("web"),)
    rig.restarts()
    client = rig.connects()
    rig.says(WEB)
    assert heard(client) is None
    assert rig.answer() == (1, errno.ENOTCONN, 0, "nobody; 1 listens outside of /web")
    next(iter(rig.broker.listeners.values())).cgroup = "/web/worker"
    rig.says(WEB)
    assert heard(client) == b"soft\n"
    next(iter(rig.broker.listeners.values())).cgroup = "/website"
    rig.says(WEB)
    assert heard(client) is None
    rig.says(WEB, 2, "all")
    assert heard(client) == b"soft\n"


def test_the_cgroup_of_a_listener_is_its_own(rig: Rig) -> None:
    rig.connects()
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    (listener,) = rig.broker.listeners.values()
    assert f"0::{listener.cgroup}" in lines or not [line for line in lines if line.startswith("0::")]
    assert (listener.pid, listener.uid) == (os.getpid(), os.getuid())


def test_what_was_held_is_not_told(rig: Rig) -> None:
    """Observe mode; or the core knew that there is nobody to do it."""
    client = rig.connects()
    rig.says(MACHINE, 1, "inside", Outcome("Tell", 1, 0, 0, held=True))
    rig.says(MACHINE, 2, "inside", Outcome("Tell", 2, errno.ENOSYS, 0))
    assert heard(client) is None
    assert rig.answers.take()[0] == []


def test_what_was_asked_for_before_is_not_told_once_more(rig: Rig) -> None:
    client = rig.connects()
    rig.says()
    assert heard(client) == b"soft\n"
    rig.restarts()
    rig.broker.follow()
    assert heard(client) is None


# -- nobody is waited for


def test_a_listener_that_never_reads_is_told_once_and_costs_nothing(rig: Rig) -> None:
    deaf, client = rig.connects(), rig.connects()
    for token in range(1000):
        rig.says(token=token)
        assert heard(client) == b"soft\n"
        _, number, count, who = rig.answer()
        assert (number, count) == (0, 3 if token == 0 else 1)
        assert token == 0 or f"2 have not read what was told before: {myself()}, web.thumbs.fifo" in who
    assert heard(deaf) == b"soft\n", "once"
    assert heard(deaf) is None
    rig.says()
    assert heard(deaf) == b"soft\n"


def test_only_deaf_ones_are_an_answer_too(rig: Rig) -> None:
    rig.guards = (tells("web"),)
    rig.restarts()
    rig.connects()
    rig.says()
    rig.says()
    rig.answers.take()
    rig.says(token=3)
    assert rig.answer() == (3, errno.EAGAIN, 0, f"nobody; 1 has not read what was told before: {myself()}")


def test_one_whose_buffer_is_full_is_not_waited_for(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel does not tell how much is unread, EAGAIN does."""
    monkeypatch.setattr(module.fcntl, "ioctl", lambda *_: bytes(4))
    rig.connects()
    counts = []
    for _ in range(300):
        rig.says()
        counts.append(rig.answer()[2])
    assert counts[0] == 2
    assert counts[-1] == 1, "the FIFO has 64 KiB"


def test_who_has_gone_is_forgotten(rig: Rig) -> None:
    client = rig.connects()
    client.close()
    rig.says()
    assert rig.answer()[2] == 1, "the FIFO: that it is gone may not have come yet, and is no error"
    rig.turns()
    assert not rig.broker.listeners


def test_what_listeners_write_is_thrown_away(rig: Rig) -> None:
    """$MEMORY_PRESSURE_WRITE. Unread when we die, it would end the loop of who is on sd-event: ECONNRESET."""
    client = rig.connects(write=b"some 200000 2000000\0")
    rig.dies()
    rig.ends[0].close()
    rig.ends[1].close()
    assert heard(client) == b"", "an end, not a reset"
    rig.ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    rig.broker = rig.started()


def test_who_talks_without_end_is_not_listened_to(rig: Rig) -> None:
    client, sent = rig.connects(), 0
    for _ in range(200):
        try:
            sent += client.send(bytes(4096))
        except BlockingIOError:
            break
        rig.turns(1)
    else:
        raise AssertionError("it was read for ever")
    assert sent >= module.HEARD_MAX
    assert rig.broker.epoll.poll(0) == [], "and wakes nobody"
    rig.says()
    assert heard(client) == b"soft\n", "told it is all the same"
    client.close()
    rig.turns()
    assert not rig.broker.listeners


def test_too_many_of_one_user_are_closed_and_of_root_they_are_not(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EACH_MAX", 2)
    clients = [rig.connects() for _ in range(3)]
    closed = [heard(client) == b"" for client in clients]
    assert closed == [False, False, os.getuid() != 0]
    for listener in rig.broker.listeners.values():
        listener.uid = 4711
    monkeypatch.setattr(module.Listener, "__init__", _as(4711, module.Listener.__init__))
    assert heard(rig.connects()) == b""


def _as(uid: int, init: object) -> object:
    def wrapped(self: module.Listener, sock: socket.socket, proc: str) -> None:
        init(self, sock, proc)  # type: ignore[operator]
        self.uid = uid

    return wrapped


def test_who_comes_when_all_places_are_taken_waits_and_is_not_closed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LISTENERS_MAX", 2)
    first, _, third = (rig.connects() for _ in range(3))
    assert len(rig.broker.listeners) == 2
    assert heard(third) is None
    assert rig.broker.epoll.poll(0) == [], "it wakes nobody"
    assert rig.broker.timeout_s() > 1
    first.close()
    rig.turns()
    rig.says()
    assert heard(third) == b"soft\n"


def test_newcomers_are_taken_by_the_handful(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BATCH", 3)
    for _ in range(8):
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.connect(str(rig.file("web.sock")))
        rig.clients.append(client)
    rig.turns(1)
    assert len(rig.broker.listeners) == 3
    assert rig.broker.epoll.poll(0) == []
    assert rig.broker.timeout_s() == module.PAUSE_S
    rig.turns(8)
    assert len(rig.broker.listeners) == 8


# -- over its death


def test_nobody_is_cut_off_by_a_restart(rig: Rig) -> None:
    clients = [rig.connects() for _ in range(5)]
    rig.restarts()
    rig.restarts()
    late = rig.connects()
    rig.says()
    assert [heard(client) for client in (*clients, late)] == [b"soft\n"] * 6
    assert len(rig.broker.listeners) == 6


def test_more_than_a_message_holds(rig: Rig) -> None:
    clients = [rig.connects() for _ in range(450)]
    rig.restarts()
    rig.says()
    assert {heard(client) for client in clients} == {b"soft\n"}


def test_who_leaves_while_nobody_looks(rig: Rig) -> None:
    client, other = rig.connects(), rig.connects()
    rig.dies()
    client.close()
    rig.broker = rig.started()
    rig.turns()
    assert len(rig.broker.listeners) == 1
    rig.says()
    assert heard(other) == b"soft\n"
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        rig.restarts()
        rig.turns()
    assert len(os.listdir("/proc/self/fd")) == before, "nothing is kept twice"


def test_who_comes_while_nobody_looks(rig: Rig) -> None:
    """The door is kept as well: he waits at it, and is neither refused nor reset."""
    rig.dies()
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.connect(str(rig.file("web.sock")))
    client.setblocking(False)
    rig.clients.append(client)
    rig.broker = rig.started()
    rig.turns()
    rig.says()
    assert heard(client) == b"soft\n"


def test_the_runtime_directory_was_removed(rig: Rig) -> None:
    """systemctl stop, then start: the sockets are new ones, and who was connected is connected."""
    client = rig.connects()
    rig.dies()
    for path in rig.file("").iterdir():
        path.unlink()
    rig.file("").rmdir()
    rig.broker = rig.started()
    late = rig.connects()
    rig.says()
    assert (heard(client), heard(late)) == (b"soft\n", b"soft\n")


def test_a_policy_that_tells_no_more_leaves_its_listeners_alone(rig: Rig) -> None:
    client = rig.connects()
    rig.guards = (tells("other"),)
    rig.restarts()
    assert not rig.file("web.sock").exists()
    assert heard(client) is None, "it is not cut off"
    rig.guards = (tells("web"),)
    rig.restarts()
    rig.says(token=2)
    assert heard(client) == b"soft\n"


def test_a_shadow_has_no_socket(rig: Rig) -> None:
    rig.guards = (tells("shadow:web", mode="shadow"),)
    rig.restarts()
    assert not rig.broker.doors


# -- files


def test_anybody_may_listen_and_nobody_else_may_read_a_fifo(rig: Rig) -> None:
    modes = {path.name: stat.S_IMODE(path.lstat().st_mode) for path in rig.file("").iterdir()}
    assert modes == {"web.sock": 0o666, "web.thumbs.fifo": 0o600}
    assert stat.S_IMODE(rig.file("").stat().st_mode) == 0o755


def test_a_fifo_is_told_whether_its_reader_came_before_or_after(rig: Rig) -> None:
    before = os.open(rig.file("web.thumbs.fifo"), os.O_RDONLY | os.O_NONBLOCK)
    rig.says()
    assert os.read(before, 100) == b"soft\n"
    os.close(before)
    rig.says()
    after = os.open(rig.file("web.thumbs.fifo"), os.O_RDWR | os.O_NONBLOCK)
    assert os.read(after, 100) == b"soft\n"
    poll = select.poll()
    poll.register(after, select.POLLIN)
    rig.restarts()
    assert poll.poll(0) == [], "neither an end nor anything to read"
    rig.says()
    assert os.read(after, 100) == b"soft\n", "the same FIFO, after a restart"
    os.close(after)


def test_a_reader_that_does_not_write_sees_no_end_when_we_die(rig: Rig) -> None:
    """sd-event would take it for an error, and listen no more."""
    reader = os.open(rig.file("web.thumbs.fifo"), os.O_RDONLY | os.O_NONBLOCK)
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    rig.dies()
    assert poll.poll(0) == []
    rig.broker = rig.started()
    assert poll.poll(0) == []
    rig.says()
    assert os.read(reader, 100) == b"soft\n"
    os.close(reader)


def test_what_nobody_has_read_of_a_fifo_is_taken_back(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.says()
    rig.turns()
    (fifo,) = rig.broker.fifos
    assert fifo.waiting()
    assert rig.broker.timeout_s() == module.STALE_NS / 1e9
    monkeypatch.setattr(module, "STALE_NS", -1)
    rig.turns()
    assert not fifo.waiting()


def test_what_is_there_under_the_name_makes_place(rig: Rig) -> None:
    rig.dies()
    for name in ("web.sock", "web.thumbs.fifo"):
        rig.file(name).unlink()
        rig.file(name).write_text("not ours")
    rig.broker = rig.started()
    assert rig.answers.take()[0] == []
    assert stat.S_ISFIFO(rig.file("web.thumbs.fifo").lstat().st_mode)
    client = rig.connects()
    rig.says()
    assert heard(client) == b"soft\n"


def test_a_symbolic_link_is_not_followed(rig: Rig, tmp_path: Path) -> None:
    rig.dies()
    os.mkfifo(tmp_path / "victim")
    for name in ("web.sock", "web.thumbs.fifo"):
        rig.file(name).unlink()
        rig.file(name).symlink_to(tmp_path / "victim")
    rig.broker = rig.started()
    assert not rig.file("web.thumbs.fifo").is_symlink()
    assert not rig.file("web.sock").is_symlink()
    assert stat.S_ISFIFO((tmp_path / "victim").lstat().st_mode)


def test_a_user_that_is_not_there_is_told_the_core(rig: Rig) -> None:
    rig.guards = (tells("web", ("thumbs", "nobody-here")),)
    rig.restarts()
    ((token, what, number, _, _, why),), _ = rig.answers.take()
    assert (token, what, number) == (0, "Tell", errno.ENOENT)
    assert why == "web.thumbs.fifo: there is no user 'nobody-here'"
    client = rig.connects()
    rig.says()
    assert heard(client) == b"soft\n", "the rest works"


def test_a_directory_that_is_not_to_be_had(rig: Rig, tmp_path: Path) -> None:
    rig.dies()
    rig.path = tmp_path / "nothing"
    rig.path.write_text("a file")
    rig.broker = rig.started()
    ((_, _, number, _, _, why),), _ = rig.answers.take()
    assert (number, why) == (errno.ENOTDIR, "pressure: Not a directory")


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_a_fifo_of_another_user_without_the_right_to_give_it_away(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the shipped unit, which has no CAP_CHOWN."""
    monkeypatch.setattr(os, "chown", None)
    rig.guards = (tells("web", ("thumbs", "nobody")),)
    rig.restarts()
    assert rig.answers.take()[0] == []
    status = rig.file("web.thumbs.fifo").lstat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (pwd.getpwnam("nobody").pw_uid, 0o600)
    assert {path.name for path in rig.file("").iterdir()} == {"web.sock", "web.thumbs.fifo"}
    rig.says()
    assert rig.answer()[2] == 1
