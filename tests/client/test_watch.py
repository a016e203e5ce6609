"""Real sockets, FIFOs and pressure files: who is told, what is said, and all that can go wrong."""

from __future__ import annotations

import asyncio
import base64
import errno
import gc
import os
import select
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from oomguard.client import (
    BadArgument,
    Closed,
    Forked,
    Locked,
    NotPressure,
    NotSupported,
    PressureError,
    Watch,
)
from oomguard.client import source as places
from oomguard.client import watch as module

PATIENCE_S = 60.0


class Teller:
    """The other end: a stream socket in the file system."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listening.bind(self.path)
        self.listening.listen(8)
        self.listening.settimeout(PATIENCE_S)
        self.peers: list[socket.socket] = []

    def accept(self) -> socket.socket:
        peer, _ = self.listening.accept()
        peer.settimeout(PATIENCE_S)
        self.peers.append(peer)
        return peer

    def tell(self, what: bytes = b"soft\n") -> None:
        for peer in self.peers:
            peer.send(what)

    def close(self) -> None:
        for each in (*self.peers, self.listening):
            each.close()
        os.unlink(self.path)


@pytest.fixture
def teller(tmp_path: Path) -> Iterator[Teller]:
    made = Teller(tmp_path / "web.sock")
    yield made
    if os.path.exists(made.path):
        made.close()


def environment(path: str, write: bytes | None = None) -> dict[str, str]:
    given = {} if write is None else {places.WRITE: base64.b64encode(write).decode()}
    return {places.WATCH: path} | given


def eventually(condition: Callable[[], bool]) -> None:
    for _ in range(int(PATIENCE_S * 100)):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("not in a minute")


def code(error: pytest.ExceptionInfo[PressureError]) -> str:
    number = error.value.errno or 0
    return "EOPNOTSUPP" if number == errno.EOPNOTSUPP else errno.errorcode[number]  # which is ENOTSUP on Linux


# -- sockets


def test_a_socket_is_told_what_we_want_and_tells(teller: Teller) -> None:
    with Watch(environment(teller.path, b"some 1 2\0")) as watch:
        assert watch.kind == "socket"
        assert watch.path == teller.path
        peer = teller.accept()
        watch.start()
        assert peer.recv(100) == b"some 1 2\0"
        assert not watch.wait(0)
        teller.tell(b"soft\n")
        teller.tell(b"hard\n")
        assert watch.wait(PATIENCE_S)
        assert watch.level == "hard"
        assert not watch.wait(0), "what was told is told once"


def test_nothing_is_written_where_nothing_is_to_be(teller: Teller) -> None:
    with Watch(environment(teller.path)) as watch:
        watch.start()
        peer = teller.accept()
        peer.setblocking(False)
        with pytest.raises(BlockingIOError):
            peer.recv(1)


def test_a_path_longer_than_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    monkeypatch.chdir(deep)
    teller = Teller(Path("s"))
    with Watch(environment(str(deep / "s"))) as watch:
        watch.start()
        teller.accept()
        teller.tell()
        assert watch.wait(PATIENCE_S)
    teller.close()


def test_any_loop_sees_it_by_the_descriptor(teller: Teller) -> None:
    with Watch(environment(teller.path)) as watch:
        poll = select.poll()
        poll.register(watch.fileno(), select.POLLIN)
        teller.accept()
        assert poll.poll(0) == []
        teller.tell()
        assert poll.poll(PATIENCE_S * 1000) == [(watch.fileno(), select.POLLIN)]
        assert watch.read()
        assert poll.poll(0) == []
        assert not watch.read()


def test_nobody_spins_when_the_other_end_is_gone_and_it_is_had_again(
    teller: Teller, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """sd-event of systemd 257 does: the descriptor stays readable, and its handler is called again and again."""
    monkeypatch.setattr(module, "_AGAIN_S", (0.01, 0.02))
    with Watch(environment(teller.path)) as watch:
        number = watch.fileno()
        teller.accept()
        teller.close()
        assert not watch.wait(0.2), "the end is nothing that anybody is told"
        assert not watch.connected
        again = Teller(tmp_path / "web.sock")
        again.listening.settimeout(None)
        accepted = threading.Thread(target=again.accept)
        accepted.start()
        eventually(lambda: watch.wait(0.02) or watch.connected)
        accepted.join()
        again.tell()
        assert watch.wait(PATIENCE_S)
        assert watch.fileno() == number
        again.close()


def test_a_reset_is_an_end_like_any_other(teller: Teller) -> None:
    """Closed before it had read what we wrote: ECONNRESET, which ends the whole loop of a program on sd-event."""
    with Watch(environment(teller.path, b"never read")) as watch:
        watch.start()
        teller.accept()
        teller.close()
        assert not watch.wait(0.2)
        assert not watch.connected


def test_nobody_listens_at_the_socket(tmp_path: Path) -> None:
    teller = Teller(tmp_path / "s")
    teller.listening.close()
    with pytest.raises(ConnectionRefusedError) as error:
        Watch(environment(str(tmp_path / "s")))
    assert error.value.filename == str(tmp_path / "s")


def test_there_is_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Watch(environment(str(tmp_path / "nothing")))


def test_what_fails_leaves_nothing_open(tmp_path: Path) -> None:
    gc.collect()
    before = os.listdir("/proc/self/fd")
    for path in (tmp_path, tmp_path / "nothing", Path(__file__)):
        with pytest.raises(OSError, match=r"."):
            Watch(environment(str(path)))
    gc.collect()
    assert os.listdir("/proc/self/fd") == before


# -- FIFOs


def test_a_fifo(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    writer = os.open(tmp_path / "fifo", os.O_RDWR | os.O_NONBLOCK)
    os.write(writer, b"soft\n")
    with Watch(environment(str(tmp_path / "fifo"))) as watch:
        assert watch.kind == "fifo"
        assert watch.wait(PATIENCE_S), "what was told before is told"
        os.write(writer, b"hard\n")
        assert watch.wait(PATIENCE_S)
        assert watch.level == "hard"
    os.close(writer)


def test_our_own_words_in_a_fifo_are_nobody_elses(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with Watch(environment(str(tmp_path / "fifo"), b"some 200000 2000000\0")) as watch:
        assert not watch.wait(0.05)
        writer = os.open(tmp_path / "fifo", os.O_WRONLY | os.O_NONBLOCK)
        os.write(writer, b"soft\n")
        os.close(writer)
        assert watch.wait(PATIENCE_S)
        assert watch.connected, "it is open for writing too: no end is ever seen"


def test_a_fifo_whose_writer_goes_is_opened_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AGAIN_S", (0.01, 0.02))
    os.mkfifo(tmp_path / "fifo")
    with Watch(environment(str(tmp_path / "fifo"))) as watch:
        watch.start()
        os.close(os.open(tmp_path / "fifo", os.O_WRONLY))
        assert not watch.wait(0.2)
        eventually(lambda: watch.wait(0.02) or watch.connected)
        writer = os.open(tmp_path / "fifo", os.O_WRONLY)
        os.write(writer, b"x")
        assert watch.wait(PATIENCE_S)
        os.close(writer)


# -- the kernel's files


@pytest.fixture
def pressure() -> None:
    try:
        os.close(os.open("/proc/pressure/memory", os.O_RDWR))
    except OSError as error:
        pytest.skip(f"no pressure on this kernel, or not for us: {error}")


@pytest.mark.kernel
@pytest.mark.usefixtures("pressure")
def test_the_machines_own_pressure(tmp_path: Path) -> None:
    with Watch({}, cgroup=str(tmp_path)) as watch:
        assert (watch.path, watch.kind) == ("/proc/pressure/memory", "pressure")
        watch.set_type("full")
        watch.set_period(1.0, 4.0)
        watch.start()
        watch.wait(0)
        assert watch.connected
        for late in (lambda: watch.set_type("some"), lambda: watch.set_period(0.2, 2.0)):
            with pytest.raises(Locked) as error:
                late()
            assert code(error) == "EBUSY"


@pytest.mark.kernel
@pytest.mark.usefixtures("pressure")
def test_a_loop_that_polls_the_descriptor_takes_the_kernels_word_away(tmp_path: Path) -> None:
    """What it saw is believed: there is nothing left to see for ourselves."""
    with Watch({}, cgroup=str(tmp_path)) as watch:
        watch.fileno()
        assert watch.read()


@pytest.mark.kernel
@pytest.mark.usefixtures("pressure")
def test_the_kernel_refuses(tmp_path: Path) -> None:
    with Watch({}, cgroup=str(tmp_path)) as watch:
        watch.set_period(1.0, 20.0)
        with pytest.raises(OSError, match="Invalid argument") as error:
            watch.start()
        assert error.value.filename == "/proc/pressure/memory"


@pytest.mark.kernel
@pytest.mark.usefixtures("pressure")
def test_pressure_that_is_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CONFIG_PSI_DEFAULT_DISABLED: the file is there, opens, and refuses the write."""

    def write(fd: int, data: bytes) -> int:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    with Watch({}, cgroup=str(tmp_path)) as watch:
        monkeypatch.setattr(module.os, "write", write)
        with pytest.raises(NotSupported) as error:
            watch.start()
        monkeypatch.undo()
    assert code(error) == "EOPNOTSUPP"


def test_a_cgroup_without_the_file_falls_back(tmp_path: Path) -> None:
    """And a type is the kernel's files' alone: EDOM."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/pressure").mkdir()
    os.mkfifo(tmp_path / "proc/pressure/memory")
    (tmp_path / "proc/self/cgroup").write_text("0::/gone\n")
    device = tmp_path.stat().st_dev
    line = f"36 35 {os.major(device)}:{os.minor(device)} / / rw - cgroup2 none rw\n"
    (tmp_path / "proc/self/mountinfo").write_text(line)
    with Watch({}, proc=str(tmp_path / "proc"), cgroup=str(tmp_path)) as watch:
        assert watch.path == str(tmp_path / "proc/pressure/memory")
        with pytest.raises(NotPressure) as error:
            watch.set_type("full")
        assert code(error) == "EDOM"


# -- what may be set, and when


def test_the_environment_is_never_overruled(teller: Teller) -> None:
    with Watch(environment(teller.path)) as watch:
        for setting in (lambda: watch.set_type("full"), lambda: watch.set_period(0.2, 2.0)):
            with pytest.raises(Locked) as error:
                setting()
            assert code(error) == "EBUSY"
        with pytest.raises(BadArgument) as wrong:
            watch.set_type("most")
        assert code(wrong) == "EINVAL"
        for stall, window, said in ((0, 1, "ERANGE"), (1, 0, "ERANGE"), (-1, 1, "ERANGE"), (2, 1, "EINVAL")):
            with pytest.raises(BadArgument) as wrong:
                watch.set_period(stall, window)
            assert code(wrong) == said


# -- the end


def test_what_was_closed_says_so(teller: Teller) -> None:
    watch = Watch(environment(teller.path))
    watch.close()
    watch.close()
    for use in (watch.start, watch.fileno, watch.read, watch.wait, lambda: watch.set_type("some"), watch.in_thread):
        with pytest.raises(Closed) as error:
            use()  # type: ignore[operator]
        assert code(error) == "ESTALE"


def test_who_waits_is_told_of_the_end(teller: Teller) -> None:
    watch, said = Watch(environment(teller.path)), []

    def wait() -> None:
        try:
            watch.wait(PATIENCE_S)
        except Closed as error:
            said.append(error.errno)

    waiting = [threading.Thread(target=wait) for _ in range(3)]
    for thread in waiting:
        thread.start()
    eventually(lambda: watch._users == 3)
    watch.close()
    for thread in waiting:
        thread.join(PATIENCE_S)
    assert said == [errno.ESTALE] * 3
    assert watch._epoll.closed


def test_what_is_forgotten_is_closed(teller: Teller) -> None:
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    Watch(environment(teller.path)).start()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


# -- threads and loops


def test_a_thread_of_its_own(teller: Teller, monkeypatch: pytest.MonkeyPatch) -> None:
    told, broke = [], []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: broke.append(arguments.exc_type))

    def drop() -> None:
        told.append(watch.level)
        raise KeyError("the first time, and it goes on")

    with Watch(environment(teller.path)) as watch:
        watch.in_thread(drop)
        teller.accept()
        for count in (1, 2):
            teller.tell()
            eventually(lambda count=count: len(broke) == count)  # type: ignore[misc]
    assert told == ["soft", "soft"]
    assert broke == [KeyError, KeyError]
    eventually(lambda: not any(thread.name == "oomguard-pressure" for thread in threading.enumerate()))


def test_one_thread_of_many_is_told(teller: Teller) -> None:
    told: list[bool] = []
    with Watch(environment(teller.path)) as watch:
        watch.start()
        teller.accept()
        teller.tell()
        waiting = [threading.Thread(target=lambda: told.append(watch.wait(0.2))) for _ in range(3)]
        for thread in waiting:
            thread.start()
        for thread in waiting:
            thread.join(PATIENCE_S)
    assert sorted(told) == [False, False, True]


def test_asyncio(teller: Teller) -> None:
    async def program() -> list[str]:
        levels: list[str] = []
        with Watch(environment(teller.path)) as watch:
            task = asyncio.create_task(listen(watch, levels))
            other = asyncio.create_task(watch.told())
            peer = await asyncio.to_thread(teller.accept)
            for word in (b"soft\n", b"hard\n"):
                count = len(levels)
                peer.send(word)
                while len(levels) == count:
                    await asyncio.sleep(0.01)
            await asyncio.wait_for(other, PATIENCE_S)
            watch.close()
            await asyncio.wait_for(task, PATIENCE_S)
        return levels

    async def listen(watch: Watch, levels: list[str]) -> None:
        async for level in watch:
            levels.append(level)

    assert asyncio.run(program()) == ["soft", "hard"]


def test_a_coroutine_that_is_cancelled_leaves_the_loop_alone(teller: Teller) -> None:
    async def program() -> None:
        with Watch(environment(teller.path)) as watch:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(watch.told(), 0.05)
            assert not asyncio.get_running_loop().remove_reader(watch.fileno())

    asyncio.run(program())


# -- forks: by programs of their own, since a test that forks has threads


def program(text: str, path: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", text],
        env={**os.environ, places.WATCH: path},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


CHILD = """
import errno, os
from oomguard import client
watch = client.Watch()
watch.start()
if os.fork() == 0:
    try:
        watch.wait()
    except client.Forked as error:
        print(errno.errorcode[error.errno], flush=True)
    watch.close()
    held = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            held.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            pass
    print(sum("eventpoll" in name or name.startswith("socket:") for name in held), flush=True)
    os._exit(0)
os.wait()
print(watch.connected, watch.wait(0))
"""


def test_the_child_of_a_fork_has_nothing_of_it(teller: Teller) -> None:
    assert program(CHILD, teller.path).split() == ["ECHILD", "0", "True", "False"]


FOLLOWS = """
import os, sys, time
from oomguard import client
client.Watch().in_thread(lambda: os.write(1, b"told %d\\n" % (os.getpid() == parent)), follow_forks=True)
parent = os.getpid()
child = os.fork()
print("up", flush=True)
sys.stdin.readline()
if child:
    os.wait()
"""


def test_a_thread_follows_into_the_child(teller: Teller) -> None:
    command, said = [sys.executable, "-c", FOLLOWS], {**os.environ, places.WATCH: teller.path}
    with subprocess.Popen(command, env=said, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        teller.accept()
        teller.accept()
        whose = [peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12) for peer in teller.peers]
        pids = {struct.unpack("3i", one)[0] for one in whose}
        assert len(pids) == 2, "each has opened its own"
        teller.tell()
        lines = sorted(running.stdout.readline().strip() for _ in range(4))
        assert lines == [b"told 0", b"told 1", b"up", b"up"]
        running.communicate(b"\n\n", timeout=PATIENCE_S)


def test_a_setuid_program_does_not_believe_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(places.WATCH, "/dev/null")
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    assert not places.find().fixed


def test_everything_public_is_typed() -> None:
    import oomguard

    assert (Path(oomguard.__file__).parent / "py.typed").exists()
    hints: Any = Watch.wait.__annotations__
    assert set(hints) == {"timeout_s", "return"}


def test_a_forked_watch_says_whose_it_is(teller: Teller, monkeypatch: pytest.MonkeyPatch) -> None:
    with Watch(environment(teller.path)) as watch:
        monkeypatch.setattr(module.os, "getpid", lambda: 1)
        with pytest.raises(Forked):
            watch.start()
        monkeypatch.undo()
