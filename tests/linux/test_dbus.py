"""A job asked of systemd: by a server of our own that speaks as systemd does, and as it does when it is in trouble."""

import errno
import os
import queue
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oomguard.linux import dbus

PATIENCE_S = 20.0
Serve = Callable[[Callable[[socket.socket], None]], str]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Listens; whoever comes is given to a function in a thread."""
    started: list[threading.Thread] = []

    def start(talk: Callable[[socket.socket], None]) -> str:
        path = str(tmp_path / "private")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()

        def run() -> None:
            with listener, listener.accept()[0] as peer:
                peer.settimeout(PATIENCE_S)
                talk(peer)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        started.append(thread)
        return path

    yield start
    for thread in started:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def asked(call: dbus.Call) -> int:
    """The answer, as the reaper awaits it."""
    poll = select.poll()
    poll.register(call.fd, select.POLLIN)
    while True:
        assert poll.poll(PATIENCE_S * 1000), "no answer"
        number = call.go()
        if number is not None:
            call.close()
            return number


def greeted(peer: socket.socket) -> bytes:
    """Authentication as systemd does it; what comes after it."""
    got = b""
    while b"BEGIN\r\n" not in got:
        got += peer.recv(4096)
    assert got.startswith(b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\n")
    peer.sendall(b"OK 0123456789abcdef0123456789abcdef\r\n")
    got = got.partition(b"BEGIN\r\n")[2]
    while dbus.split_message(got) is None:
        got += peer.recv(4096)
    return got


def reply(kind: int, serial: int, error: str = "", body: bytes = b"") -> bytes:
    array = b"\x05\x01u\0" + struct.pack("<I", serial)
    if error:
        array += b"\x04\x01s\0" + struct.pack("<I", len(error)) + error.encode() + b"\0"
    head = struct.pack("<cBBBIII", b"l", kind, 0, 1, len(body), 1, len(array))
    return head + array + bytes(-len(head + array) % 8) + body


def test_a_job_is_asked_for_and_taken(serve: Serve) -> None:
    heard: list[bytes] = []

    def talk(peer: socket.socket) -> None:
        heard.append(greeted(peer))
        peer.sendall(reply(2, 2, body=b"\x08\0\0\0/job/123\0"))

    call = dbus.Call("RestartUnit", "web@\u00e4.service", "replace", path=serve(talk))
    assert asked(call) == 0
    kind, fields, rest = dbus.split_message(heard[0]) or (0, {}, b"")
    assert kind == 1
    assert rest == b""
    assert fields[3] == "RestartUnit"
    assert fields[8] == "ss"
    assert heard[0].endswith(b"web@\xc3\xa4.service\0\0" + b"\x07\0\0\0replace\0")


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("org.freedesktop.systemd1.NoSuchUnit", errno.ENOENT),
        ("org.freedesktop.DBus.Error.AccessDenied", errno.EACCES),
        ("com.example.Whatever", errno.EIO),
    ],
)
def test_a_refusal_is_an_errno_and_a_name(serve: Serve, name: str, number: int) -> None:
    def talk(peer: socket.socket) -> None:
        greeted(peer)
        peer.sendall(reply(3, 2, name))

    call = dbus.Call("StopUnit", "web.service", "replace", path=serve(talk))
    assert asked(call) == number
    assert call.error == name


def test_an_answer_in_pieces_and_what_is_for_nobody(serve: Serve) -> None:
    """A signal, and the reply to Hello, come first on the system bus."""

    def talk(peer: socket.socket) -> None:
        greeted(peer)
        for byte in reply(4, 0) + reply(2, 1) + reply(2, 2):
            peer.sendall(bytes((byte,)))

    assert asked(dbus.Call("StopUnit", "web.service", "replace", path=serve(talk))) == 0


def test_one_who_refuses_us_is_not_told_anything(serve: Serve) -> None:
    heard: queue.Queue[bytes] = queue.Queue()

    def talk(peer: socket.socket) -> None:
        peer.recv(4096)
        peer.sendall(b"REJECTED\r\n")
        heard.put(peer.recv(4096))

    assert asked(dbus.Call("StopUnit", "web.service", "replace", path=serve(talk))) == errno.EACCES
    assert heard.get(timeout=PATIENCE_S) == b""


def test_one_who_hangs_up(serve: Serve) -> None:
    def talk(peer: socket.socket) -> None:
        greeted(peer)

    assert asked(dbus.Call("StopUnit", "web.service", "replace", path=serve(talk))) == errno.EPIPE


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file") as caught:
        dbus.Call("StopUnit", "web.service", "replace", path=str(tmp_path / "none"))
    assert caught.value.filename == str(tmp_path / "none")


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40), st.integers(1, 1 << 31))
def test_what_is_written_can_be_read(unit: str, serial: int) -> None:
    data = dbus.message(serial, dbus.MANAGER, "RestartUnit", unit, "replace")
    for end in range(len(data)):
        assert dbus.split_message(data[:end]) is None, "not before it is whole"
    kind, fields, rest = dbus.split_message(data + b"rest") or (0, {}, b"")
    assert (kind, fields[1], fields[6], rest) == (1, dbus.MANAGER[1], dbus.MANAGER[0], b"rest")
