"""Notifications on real session buses of other users, each with a small notification server behind it."""

from __future__ import annotations

import json
import os
import pwd
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from oomguard.model.policy import Sink
from oomguard.workers import desktop
from oomguard.workers.answer import Answer

from .sending import PATIENCE_S, Sending

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: another user's bus lets nobody else in"),
    pytest.mark.skipif(shutil.which("dbus-daemon") is None, reason="dbus-daemon is not installed"),
]
ANNA, BEN = 1, 2  # accounts that every Debian has: daemon, bin
SCREEN = Sink("screen", "desktop", ("killed",), 0)


class Bus:
    """A session bus of that user, as logind and systemd make them."""

    def __init__(self, run_user: Path, uid: int) -> None:
        self.uid, self.home = uid, run_user / str(uid)
        self.home.mkdir(mode=0o700)
        os.chown(self.home, uid, uid)
        self.address = f"unix:path={self.home}/bus"
        argv = ["dbus-daemon", "--session", "--nofork", "--nopidfile", f"--address={self.address}"]
        self.process = subprocess.Popen(argv, user=uid, group=uid, extra_groups=(), stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE_S
        while not (self.home / "bus").exists():
            assert self.process.poll() is None
            assert time.monotonic() < deadline, "no bus"
            time.sleep(0.02)
        self.server = 0
        self.told = -1

    def serve(self, *can: str, deaf: bool = False) -> None:
        """A notification server, that user's too; what it is told can be read here. ``deaf``: it never answers."""
        self.told, mouth = os.pipe()
        ready, told_ready = os.pipe()
        from jeepney.io import blocking  # noqa: F401 - before that user may not read where Python lies

        self.server = os.fork()
        if self.server == 0:
            try:
                desktop.become(self.uid)
                serve(self.address, can, mouth, told_ready, deaf)
            finally:
                os._exit(1)
        os.close(mouth)
        os.close(told_ready)
        assert os.read(ready, 1) == b"r", "no server"
        os.close(ready)

    def next(self) -> dict[str, Any]:
        poll = select.poll()
        poll.register(self.told, select.POLLIN)
        assert poll.poll(PATIENCE_S * 1000), "nothing is shown"
        shown: dict[str, Any] = json.loads(os.read(self.told, 1 << 16))
        return shown

    def close(self) -> None:
        if self.server:
            os.kill(self.server, signal.SIGKILL)
            os.waitpid(self.server, 0)
            os.close(self.told)
        self.process.kill()
        self.process.wait()


def serve(address: str, can: tuple[str, ...], mouth: int, ready: int, deaf: bool) -> None:
    """org.freedesktop.Notifications, as far as it is asked."""
    from jeepney import DBusAddress, HeaderFields, MessageType, new_method_call, new_method_return
    from jeepney.bus_messages import message_bus
    from jeepney.io.blocking import open_dbus_connection

    with open_dbus_connection(bus=address) as connection:
        connection.send_and_get_reply(message_bus.RequestName("org.freedesktop.Notifications"))
        os.write(ready, b"r")
        bus = DBusAddress("/org/freedesktop/DBus", "org.freedesktop.DBus", "org.freedesktop.DBus")
        while True:
            message = connection.receive()
            if message.header.message_type is not MessageType.method_call or deaf:
                continue
            fields = message.header.fields
            if fields[HeaderFields.member] == "GetCapabilities":
                connection.send(new_method_return(message, "as", (list(can),)))
                continue
            who = new_method_call(bus, "GetConnectionUnixUser", "s", (fields[HeaderFields.sender],))
            (uid,) = connection.send_and_get_reply(who).body  # before the answer: with that it goes away
            connection.send(new_method_return(message, "u", (1,)))
            name, _, icon, title, body, _, hints, _ = message.body
            shown = {
                "name": name,
                "icon": icon,
                "title": title,
                "body": body,
                "urgency": hints["urgency"][1],
                "uid": uid,
            }
            os.write(mouth, json.dumps(shown).encode())


class Place:
    """logind's sessions, the users' directories, and the daemon's own."""

    def __init__(self, root: Path) -> None:
        self.root, self.sessions, self.run_user = root, root / "sessions", root / "user"
        for directory in (self.sessions, self.run_user):
            directory.mkdir()
        self.buses: list[Bus] = []

    def login(self, name: str, uid: int, **said: str) -> None:
        user = pwd.getpwuid(uid).pw_name
        lines = {"UID": str(uid), "USER": user, "STATE": "active", "TYPE": "wayland", "CLASS": "user"} | said
        text = "# This is private data. Do not parse.\n" + "".join(f"{key}={value}\n" for key, value in lines.items())
        (self.sessions / name).write_text(text)

    def bus(self, uid: int) -> Bus:
        self.buses.append(Bus(self.run_user, uid))
        return self.buses[-1]


@pytest.fixture
def place() -> Iterator[Place]:
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        made = Place(Path(name))
        yield made
        for bus in made.buses:
            bus.close()


@pytest.fixture
def start(place: Place) -> Iterator[Callable[[], Sending]]:
    started: list[Sending] = []

    def begin() -> Sending:
        words = ("--sessions", str(place.sessions), "--run-user", str(place.run_user))
        started.append(Sending("desktop", place.root, SCREEN, words=words))
        return started[-1]

    yield begin
    for one in started:
        assert one.close() == 0


Start = Callable[[], Sending]


def test_each_is_told_on_his_own_screen(place: Place, start: Start) -> None:
    place.login("1", ANNA)
    place.login("c2", BEN, TYPE="tty", STATE="online")
    anna, ben = place.bus(ANNA), place.bus(BEN)
    anna.serve("body", "body-markup")
    ben.serve("body")
    answer = start().told("screen", title="oomguard on box: killed", body="killed <b>&[812]", priority=4)
    assert (answer["error"], answer["note"]) == ("", "shown to daemon, bin")
    assert anna.next() == {
        "name": "oomguard",
        "icon": "dialog-warning",
        "title": "oomguard on box: killed",
        "body": "killed &lt;b&gt;&amp;[812]",
        "urgency": 1,
        "uid": ANNA,
    }
    shown = ben.next()
    assert (shown["body"], shown["uid"]) == ("killed <b>&[812]", BEN)


def test_it_can_become_others_and_nothing_else(place: Place, start: Start) -> None:
    sending = start()
    assert sending.told("screen")["note"].startswith("nobody is logged in")
    status = sending.status()
    assert set(status["Uid"].split()) == {"65534"}
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 1 << 6 | 1 << 7
    assert int(status["CapInh"], 16) == 0


def test_who_is_left_alone(place: Place, start: Start) -> None:
    """A login screen, who is just going, and root: to be on its bus is to be root."""
    place.bus(ANNA).serve()
    said = [{"CLASS": "greeter"}, {"CLASS": "manager"}, {"STATE": "closing"}, {"STATE": "opening"}, {"UID": "0"}]
    for number, lines in enumerate([*said, {"UID": "-1"}]):
        place.login(str(number), ANNA, **lines)
    assert start().told("screen")["note"].startswith("nobody is logged in")


def test_a_bus_without_a_server_is_no_error(place: Place, start: Start) -> None:
    place.login("1", ANNA)
    place.bus(ANNA)
    answer = start().told("screen")
    assert (answer["error"], answer["note"]) == ("", "daemon: no notification server on that bus")


def test_one_that_does_not_answer_takes_nothing_from_the_other(place: Place, start: Start) -> None:
    place.login("1", ANNA)
    place.login("2", BEN)
    place.bus(ANNA).serve(deaf=True)
    ben = place.bus(BEN)
    ben.serve()
    answer = start().told("screen")
    assert answer["error"] == ""
    assert answer["note"].startswith("shown to bin; daemon: ")
    assert ben.next()["uid"] == BEN


def test_a_bus_that_is_a_trap(place: Place, start: Start) -> None:
    """A user may put anything in its place: a socket that takes all and says nothing, or no end of it."""
    place.login("1", ANNA)
    home = place.run_user / str(ANNA)
    home.mkdir()
    os.chown(home, ANNA, ANNA)
    trap = socket.socket(socket.AF_UNIX)
    trap.bind(str(home / "bus"))
    os.chmod(home / "bus", 0o777)
    trap.listen()
    assert start().told("screen")["error"].startswith("daemon: ")
    trap.close()


def test_a_user_without_a_bus_says_what_may_be_wrong(place: Place, start: Start) -> None:
    place.login("1", ANNA)
    answer = start().told("screen")
    assert answer["error"] == "daemon: No such file or directory"
    assert "ProtectHome" in answer["hint"]


def test_all_in_one_answer() -> None:
    good, bad, none = Answer(), Answer("it hangs"), Answer(note="no notification server on that bus")
    assert desktop.summed_up({"a": good, "b": bad}) == Answer(note="shown to a; b: it hangs")
    assert desktop.summed_up({"a": none, "b": bad}).error == "a: no notification server on that bus; b: it hangs"
    assert desktop.summed_up({"a": none}) == Answer(note="a: no notification server on that bus")
    assert [desktop.urgency(priority) for priority in (0, 3, 4, 5, 7)] == [2, 2, 1, 0, 0]
