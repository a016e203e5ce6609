"""The herald as it runs: forked, following a real ring, speaking to a journal's socket that is ours."""

import contextlib
import os
import pty
import queue
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from oomguard.linux import systemd
from oomguard.model.codec import pack
from oomguard.model.facts import KernelKill, MemInfo, Observation, TargetId, VictimGone
from oomguard.model.incident import Turn
from oomguard.model.messages import FIELDS, MESSAGE_IDS
from oomguard.model.policy import Daemon, Guard, Plan
from oomguard.model.ring import Ring
from oomguard.model.verdict import (
    Action,
    Close,
    Kill,
    Nominate,
    Notify,
    Outcome,
    ProcessRef,
    Ranking,
    Snapshot,
    Victim,
)
from oomguard.workers import herald
from oomguard.workers.words import short_id

MS = 1_000_000
MIB = 1 << 20
HOST = TargetId("host", "/")
SELF = TargetId("", "")
PATIENCE_S = 20
KNOWN = {"MESSAGE", "MESSAGE_ID", "PRIORITY", "SYSLOG_IDENTIFIER", *FIELDS}


def parse(datagram: bytes) -> dict[str, str]:
    """A datagram of the journal's native protocol."""
    entry = {}
    while datagram:
        line, _, rest = datagram.partition(b"\n")
        key, equals, value = line.partition(b"=")
        if not equals:
            (length,) = struct.unpack_from("<Q", rest)
            value, rest = rest[8 : 8 + length], rest[8 + length + 1 :]
        entry[key.decode()] = value.decode("utf-8", "surrogateescape")
        datagram = rest
    assert set(entry) <= KNOWN
    assert "" not in entry.values()
    return entry


class Journal:
    """A socket that anybody may write to, read as fast as it is filled, as the journal's."""

    def __init__(self) -> None:
        self.directory = tempfile.TemporaryDirectory()
        os.chmod(self.directory.name, 0o755)
        self.path = f"{self.directory.name}/socket"
        self.entries: queue.Queue[dict[str, str]] = queue.Queue()
        self.listen()

    def listen(self) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path + ".new")
        os.chmod(self.path + ".new", 0o777)
        os.rename(self.path + ".new", self.path)
        self.reader = threading.Thread(target=self.read, args=(self.socket,), daemon=True)
        self.reader.start()

    def read(self, end: socket.socket) -> None:
        while datagram := end.recv(1 << 16):
            self.entries.put(parse(datagram))

    def deafen(self) -> None:
        """The name stands, nobody listens."""
        self.socket.shutdown(socket.SHUT_RDWR)
        self.reader.join(PATIENCE_S)
        self.socket.close()

    def take(self) -> dict[str, str]:
        return self.entries.get(timeout=PATIENCE_S)

    def rest(self) -> list[dict[str, str]]:
        """All that was said, after the herald has ended."""
        self.deafen()
        return [self.entries.get_nowait() for _ in range(self.entries.qsize())]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.deafen()
        self.directory.cleanup()


@dataclass
class Core:
    """What the core does to the herald."""

    journal: str
    stderr: int = -1
    guards: tuple[Guard, ...] = (Guard("host", "/"), Guard("web", "/system.slice/web*.service"))
    ring: Ring = field(default_factory=lambda: Ring.create(1 << 20))
    number: int = 0
    pid: int = 0

    def start(self) -> "Core":
        self.bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.alive, self.core_end = os.pipe2(os.O_CLOEXEC)
        plan = Plan("1.2.3", Daemon(), self.guards)
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.close(self.core_end)
                if self.stderr >= 0:
                    os.dup2(self.stderr, 2)
                sys.stderr = os.fdopen(os.dup(2), "w")
                herald.run(self.ring, self.bell, self.alive, plan, self.journal)
                code = 0
            finally:
                if code:
                    import traceback

                    traceback.print_exc()
                    sys.stderr.flush()
                os._exit(code)
        return self

    def turn(self, *actions: Action, outcomes: tuple[Outcome, ...] = (), **seen: Any) -> int:
        at_ns = seen.pop("at_ns", None) or time.monotonic_ns()
        self.number += 1
        turn = Turn(self.number, Observation(at_ns, **seen), actions, outcomes)
        assert self.ring.append(pack(turn))
        os.eventfd_write(self.bell, 1)
        return at_ns

    def end(self) -> None:
        os.close(self.core_end)
        deadline = time.monotonic() + PATIENCE_S
        while (done := os.waitpid(self.pid, os.WNOHANG)) == (0, 0):
            assert time.monotonic() < deadline, "the herald does not end"
            time.sleep(0.01)
        self.pid = 0
        assert done[1] == 0


@pytest.fixture
def journal() -> Iterator[Journal]:
    made = Journal()
    yield made
    made.close()


@pytest.fixture
def core(journal: Journal) -> Iterator[Core]:
    made = Core(journal.path)
    yield made
    if made.pid:
        os.kill(made.pid, signal.SIGKILL)
        os.waitpid(made.pid, 0)


def machine(available_mib: int) -> MemInfo:
    return MemInfo(1024 * MIB, 10 * MIB, available_mib * MIB, 0, 0)


def victim(comm: str = "leak") -> Victim:
    ref = ProcessRef(812, 1, comm, "/system.slice/leak.service", 700 * MIB)
    return Victim(7, "process", ref.cgroup, 4711, "leak.service", (ref,), ref.held_bytes, 1)


def test_an_engagement_in_the_journal(core: Core, journal: Journal) -> None:
    core.start()
    opened = core.turn(
        Snapshot(HOST, "soft", 1, "available 100 MiB, below 122 MiB"),
        Notify(HOST, "SOFT", "available 100 MiB, below 122 MiB"),
        host=machine(100),
    )
    short = short_id(Path("/proc/sys/kernel/random/boot_id").read_text().strip(), HOST, opened)
    soft = journal.take()
    assert soft == {
        "MESSAGE": f"host on /: soft watermark crossed: available 100 MiB, below 122 MiB (incident {short})",
        "MESSAGE_ID": MESSAGE_IDS["SOFT"],
        "PRIORITY": "5",
        "SYSLOG_IDENTIFIER": "oomguard",
        "OOMGUARD_VERSION": "1.2.3",
        "OOMGUARD_POLICY": "host",
        "OOMGUARD_CGROUP": "/",
        "OOMGUARD_MODE": "enforce",
        "OOMGUARD_REASON": "available 100 MiB, below 122 MiB",
        "OOMGUARD_INCIDENT": short,
    }
    core.turn(Nominate(HOST, victim(), Ranking("memory", "auto", (), ())))
    at_ns = time.monotonic_ns()
    core.turn(
        Snapshot(HOST, "hard", 1, "available 40 MiB, below 51 MiB"),
        Notify(HOST, "HARD", "available 40 MiB, below 51 MiB"),
        Kill(HOST, 7, "KILL", "leak[812] holding 700 MiB"),
        Notify(HOST, "KILLED", "killed leak[812] holding 700 MiB"),
        outcomes=(Outcome("Kill", 7, 0, at_ns + 3 * MS),),
        at_ns=at_ns,
        host=machine(40),
    )
    hard, killed = journal.take(), journal.take()
    assert (hard["MESSAGE_ID"], hard["PRIORITY"]) == (MESSAGE_IDS["HARD"], "4")
    assert killed["MESSAGE"] == f"host on /: killed leak[812] holding 700 MiB (incident {short})"
    assert killed["OOMGUARD_VICTIM"] == "leak[812]"
    assert killed["OOMGUARD_VICTIM_PID"] == "812"
    assert killed["OOMGUARD_VICTIM_CGROUP"] == "/system.slice/leak.service"
    assert killed["OOMGUARD_VICTIM_BYTES"] == str(700 * MIB)
    assert killed["OOMGUARD_LATENCY_MS"] == "3.0"
    assert killed["OOMGUARD_REASON"] == "available 40 MiB, below 51 MiB"
    core.turn(
        Notify(HOST, "VICTIM_GONE", "leak[812] is gone, 30 ms after the signal"),
        gone=(VictimGone(7, at_ns + 33 * MS),),
        host=machine(740),
        at_ns=at_ns + 33 * MS,
    )
    gone = journal.take()
    assert gone["OOMGUARD_FREED_BYTES"] == str(700 * MIB)
    assert "MemAvailable rose from 40.0 MiB to 740 MiB" in gone["MESSAGE"]
    core.turn(Close(HOST, 1, "calm"), Notify(HOST, "CALM", "calm again"))
    assert journal.take()["OOMGUARD_INCIDENT"] == short
    core.end()
    assert journal.rest() == []


def test_what_the_daemon_says_of_itself(core: Core, journal: Journal) -> None:
    core.start()
    core.turn(Notify(SELF, "STARTED", "oomguard 1.2.3 guards: host (enforce)"))
    core.turn(Notify(SELF, "DEGRADED", "psi: /proc/pressure/memory: boot with psi=1"))
    core.turn(Notify(SELF, "LEASE_UNDONE", "memory.high of /a b is put back to max, as it was found"))
    started, degraded, undone = journal.take(), journal.take(), journal.take()
    assert (started["MESSAGE_ID"], started["OOMGUARD_VERSION"]) == (MESSAGE_IDS["STARTED"], "1.2.3")
    assert "OOMGUARD_POLICY" not in started
    assert (degraded["OOMGUARD_WHAT"], degraded["PRIORITY"]) == ("psi", "4")
    assert degraded["OOMGUARD_ERROR"] == "/proc/pressure/memory: boot with psi=1"
    assert (undone["OOMGUARD_PATH"], undone["OOMGUARD_VALUE"]) == ("memory.high of /a b", "max")


def test_the_last_words_are_said(core: Core, journal: Journal) -> None:
    core.start()
    core.turn(Notify(SELF, "STOPPED", "oomguard ends"))
    core.end()
    assert [entry["MESSAGE"] for entry in journal.rest()] == ["oomguard ends"]


def test_a_kill_that_failed_is_not_told_as_a_kill(core: Core, journal: Journal) -> None:
    core.start()
    core.turn(Kill(HOST, 7, "KILL", "x"), Notify(HOST, "KILLED", "killed x"), outcomes=(Outcome("Kill", 7, 1, 5),))
    entry = journal.take()
    assert entry["MESSAGE"] == "host on /: not killed x: Operation not permitted"
    assert "MESSAGE_ID" not in entry
    assert entry["PRIORITY"] == "3"


def test_a_new_plan_is_known_from_then_on(core: Core, journal: Journal) -> None:
    core.start()
    plan = Plan("2.0", Daemon(), (Guard("host", "/", mode="observe"),))
    assert core.ring.append(pack(plan))
    core.turn(Notify(HOST, "SOFT", "x"))
    entry = journal.take()
    assert (entry["OOMGUARD_MODE"], entry["OOMGUARD_VERSION"]) == ("observe", "2.0")


def test_a_kernel_kill_without_a_guard(core: Core, journal: Journal) -> None:
    core.start()
    core.turn(Notify(HOST, "KERNEL_KILLED", "in host"), kernel_kills=(KernelKill("/a", 1, 5, "x"),))
    assert "in host" in journal.take()["MESSAGE"]
    core.turn(kernel_kills=(KernelKill("/b", 1, 6, "y"),))
    entry = journal.take()
    assert (entry["MESSAGE_ID"], entry["OOMGUARD_VICTIM_PID"]) == (MESSAGE_IDS["KERNEL_KILLED"], "6")
    assert entry["MESSAGE"] == "the kernel's OOM killer ended y[6] in /b; no guard covers it"


def test_a_storm_is_few_messages(core: Core, journal: Journal) -> None:
    core.start()
    for number in range(100):
        core.turn(Notify(HOST, "KILLED", f"killed {number}"))
    core.turn(Notify(SELF, "STOPPED", "oomguard ends"))
    core.end()
    told = [entry["MESSAGE"] for entry in journal.rest()]
    assert herald.BURST <= len(told) <= herald.BURST + 7
    assert told[0] == "host on /: killed 0"
    assert told[-1].startswith("held back in a storm: ")
    held = int(told[-1].split(": ")[1].split()[0])
    assert held + len(told) - 2 == 100


def test_a_successor_does_not_say_it_all_again(core: Core, journal: Journal) -> None:
    core.start()
    core.turn(Notify(HOST, "SOFT", "before"))
    journal.take()
    os.kill(core.pid, signal.SIGKILL)
    os.waitpid(core.pid, 0)
    time.sleep(0.05)  # more than the two ticks to which the kernel tells when a process began
    core.start()
    core.turn(Notify(HOST, "SOFT", "after"))
    assert "after" in journal.take()["MESSAGE"]


def test_a_journal_that_restarts_gets_it_later(core: Core, journal: Journal) -> None:
    core.start()
    core.turn(Notify(HOST, "SOFT", "first"))
    journal.take()
    journal.deafen()
    core.turn(Notify(HOST, "SOFT", "second"))
    time.sleep(0.3)
    journal.listen()
    assert "second" in journal.take()["MESSAGE"]


def read_all(fd: int) -> str:
    parts = []
    with contextlib.suppress(OSError):
        while data := os.read(fd, 4096):
            parts.append(data)
    return b"".join(parts).decode()


@pytest.mark.parametrize("comm", ["a\nb", "\x1b[2J", "ab\udcff", "\u202eevil", "<3>fake"])
def test_without_a_journal_it_is_stderr_one_line_each(comm: str) -> None:
    reader, writer = os.pipe()
    core = Core("/nonexistent/socket", stderr=writer).start()
    os.close(writer)
    core.turn(Notify(HOST, "KILLED", f"killed {comm}"))
    core.end()
    said = read_all(reader)
    os.close(reader)
    assert said.startswith("<4>oomguard: host on /: killed ")
    assert said.count("\n") == 1
    assert said.endswith("\n")
    assert said.rstrip("\n").isprintable()


def test_on_a_terminal_it_is_both_and_without_prefix(journal: Journal) -> None:
    reader, writer = pty.openpty()
    core = Core(journal.path, stderr=writer).start()
    os.close(writer)
    core.turn(Notify(HOST, "SOFT", "low"))
    core.end()
    assert journal.take()["MESSAGE"] == "host on /: soft watermark crossed: low"
    assert read_all(reader) == "oomguard: host on /: soft watermark crossed: low\r\n"
    os.close(reader)


@pytest.mark.parametrize("comm", ["a\nb\nMESSAGE_ID=0", "ab\udcff"])
def test_hostile_names_in_the_journal(core: Core, journal: Journal, comm: str) -> None:
    core.start()
    core.turn(Snapshot(HOST, "hard", 1, "x"), Nominate(HOST, victim(comm), Ranking("", "", (), ())))
    core.turn(Notify(HOST, "KILLED", f"killed {comm}"))
    entry = journal.take()
    assert entry["OOMGUARD_VICTIM"] == f"{comm}[812]"
    assert entry["MESSAGE_ID"] == MESSAGE_IDS["KILLED"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: there is nothing to drop")
def test_it_is_nobody(core: Core, journal: Journal) -> None:
    core.start()
    core.turn(Notify(SELF, "STARTED", "x"))
    journal.take()
    status = dict(line.split(":", 1) for line in Path(f"/proc/{core.pid}/status").read_text().splitlines())
    assert "0" not in status["Uid"].split()
    assert "0" not in status["Gid"].split()
    assert status["Groups"].strip() == ""
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0


def test_it_waits_for_nobody_and_remembers_a_bounded_number(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that takes nothing: the newest entries wait, the others are a number."""
    monkeypatch.setattr(herald, "_LAST_S", PATIENCE_S)  # for a busy machine
    mouth = herald.Mouth(journal.path)
    journal.deafen()
    for number in range(1000):
        mouth.say("STARTED", {"MESSAGE": str(number), "PRIORITY": "5"}, limited=False)
    began = time.monotonic()
    mouth.speak()
    assert time.monotonic() - began < 1
    journal.listen()
    mouth.finish()
    told = [entry["MESSAGE"] for entry in journal.rest()]
    assert told[-2:] == ["999", "744 messages were lost: nobody took them in time"]
    assert told[0] == "744"


def test_what_was_lost_is_said_even_where_all_the_rest_is_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    monkeypatch.setattr(systemd, "journal_send", lambda entry, path: taken.append(entry["MESSAGE"]) or True)
    mouth = herald.Mouth("/nowhere")
    for number in range(1000):
        mouth.say("STARTED", {"MESSAGE": str(number), "PRIORITY": "5"}, limited=False)
    mouth.finish()
    assert (taken[0], taken[-1]) == ("744", "744 messages were lost: nobody took them in time")
    assert (len(taken), mouth.lost) == (257, 0)
