"""The reaper as it runs: forked, obeying a mailbox, with real processes to reap and a tree of files to write to."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from oomguard.core.rehearse import syscalls as rehearse
from oomguard.linux import dbus, leases, libc, pidfd, procfs
from oomguard.linux.cgroup2 import Cgroup
from oomguard.linux.leases import HIGH, MAX, SCORE, Entry
from oomguard.workers import reaper as reaper_module
from oomguard.workers.pool import Mailbox, Pool
from oomguard.workers.reaper import Reaper

MIB = 1 << 20
PATIENCE_S = 30.0


@dataclass
class Rig:
    """A reaper in a process of its own, and what the core would hold of it."""

    pool: Pool
    orders: Mailbox
    answers: Mailbox
    cgroup: Path
    runtime: str

    def ask(self, *order: Any) -> tuple[Any, ...]:
        """The answer to one order."""
        self.orders.post(order)
        return self.answer()

    def answer(self) -> tuple[Any, ...]:
        poll = select.poll()
        poll.register(self.answers.bell, select.POLLIN)
        assert poll.poll(PATIENCE_S * 1000), "no answer"
        (message,), lost = self.answers.take()
        assert lost == 0
        token, what, number, took_ns, value = message
        assert took_ns > 0
        return token, what, number, value

    def make(self, path: str) -> Path:
        directory = self.cgroup / path.strip("/")
        directory.mkdir(parents=True)
        (directory / "memory.high").write_text("max\n")
        (directory / "cgroup.procs").write_text("")
        return directory / "memory.high"

    def entry(self, path: str, token: int = 1, value: int = 200 * MIB) -> Entry:
        return Entry(HIGH, token, os.stat(self.cgroup / path.strip("/")).st_ino, 0, 0, value, MAX, MAX, path)

    def fds(self) -> int:
        return len(os.listdir(f"/proc/{self.pool.workers['reaper'].pid}/fd"))


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    def replace(_group: Cgroup, fd: int, _name: str, value: bytes) -> bool:
        os.ftruncate(fd, 0)  # a kernel file takes a new value whole, however long the old one was
        os.write(fd, value)
        return True

    monkeypatch.setattr(Cgroup, "_write_fd", replace)
    (tmp_path / "run").mkdir()
    (tmp_path / "cgroup").mkdir()
    pool, orders, answers = Pool(1 << 20), Mailbox(), Mailbox()
    made = Rig(pool, orders, answers, tmp_path / "cgroup", str(tmp_path / "run"))

    def main() -> None:
        os.dup2(os.open(tmp_path / "said", os.O_WRONLY | os.O_CREAT), 2)
        Reaper(orders, answers, pool.alive, made.runtime, str(made.cgroup), "/proc").run()

    pool.add("reaper", orders.bell, (answers.bell,), main)
    yield made
    assert pool.kill("reaper", PATIENCE_S)
    for fd in (orders.bell, answers.bell, pool.alive):
        os.close(fd)


Hog = Callable[[int], tuple[int, int]]


@pytest.fixture
def hog() -> Iterator[Hog]:
    """Starts a process that holds so many MiB; (pid, start_ticks)."""
    started: list[subprocess.Popen[bytes]] = []

    def start(mib: int) -> tuple[int, int]:
        text = (
            f"import sys, time; held = b'x' * ({mib} << 20); sys.stdout.write('r'); sys.stdout.flush(); time.sleep(999)"
        )
        process = subprocess.Popen([sys.executable, "-I", "-S", "-c", text], stdout=subprocess.PIPE)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.read(1) == b"r"
        ticks = start_ticks(process.pid)
        assert ticks is not None
        return process.pid, ticks

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def start_ticks(pid: int) -> int | None:
    fd = procfs.open_proc()
    try:
        return procfs.start_ticks(fd, pid)
    finally:
        os.close(fd)


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, "it did not come to that in time"
        time.sleep(0.002)


# -------------------------------------------------------------------------------------------------------------- reaping


FREEZER = Path("/sys/fs/cgroup/freezer")


@pytest.fixture
def ice() -> Iterator[Path]:
    """A frozen cgroup of v1: who is in it cannot die, whatever is sent to him, nor free his memory himself."""
    if not (FREEZER / "tasks").exists():
        pytest.skip("no freezer of cgroup v1 here; nothing else holds a killed process still")
    made = FREEZER / f"oomguard-test-{os.getpid()}"
    made.mkdir()
    yield made
    (made / "freezer.state").write_text("THAWED")
    until(lambda: (made / "tasks").read_text() == "")
    made.rmdir()


@pytest.mark.kernel
def test_what_a_victim_holds_is_freed_though_it_cannot_die(rig: Rig, hog: Hog, ice: Path) -> None:
    """The thing itself: SIGKILL is pending, the victim sleeps where it does not wake, and its memory is free."""
    pid, ticks = hog(64)
    fd = os.pidfd_open(pid)
    rig.orders.post(("open", 7, [(pid, ticks)]))
    assert rig.ask("write", 1, _nowhere())[2] == errno.ESRCH  # single file: by now it has opened the other
    (ice / "tasks").write_text(str(pid))
    (ice / "freezer.state").write_text("FROZEN")
    until(lambda: (ice / "freezer.state").read_text() == "FROZEN\n")
    pidfd.send(fd, signal.SIGKILL)
    token, what, number, value = rig.ask("reap", 7)
    assert (token, what, number) == (7, "Reap", 0)
    assert value >= 64 * MIB
    assert select.select([fd], [], [], 0)[0] == [], "it has not ended"
    assert held(pid) < 4 * MIB
    (ice / "freezer.state").write_text("THAWED")
    assert select.select([fd], [], [], PATIENCE_S)[0] == [fd]
    os.close(fd)


def held(pid: int) -> int:
    fd = procfs.open_proc()
    try:
        process = procfs.read_process(fd, pid)
    finally:
        os.close(fd)
    assert process is not None
    return process.anon_bytes


def test_who_is_gone_already_needs_no_reaping(rig: Rig, hog: Hog) -> None:
    pid, ticks = hog(1)
    fd = os.pidfd_open(pid)
    rig.orders.post(("open", 7, [(pid, ticks)]))
    rig.ask("reap", 1)
    pidfd.send(fd, signal.SIGKILL)
    assert select.select([fd], [], [], PATIENCE_S)[0] == [fd]
    assert rig.ask("reap", 7) == (7, "Reap", 0, 0)
    os.close(fd)


def _nowhere() -> tuple[Any, ...]:
    return tuple(Entry(HIGH, 1, 1, 0, 0, 1, 1, 1, "/nowhere"))


def test_what_a_process_holds_that_cannot_die_yet_is_freed_by_us(
    rig: Rig, hog: Hog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EAGAIN is tried again, a few times."""
    calls: list[int] = []

    def busy(_fd: int) -> None:
        calls.append(1)
        if len(calls) < 3:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(libc, "process_mrelease", busy)
    monkeypatch.setattr(reaper_module, "RETRY_S", 0.0)
    mine = Reaper(Mailbox(), Mailbox(), rig.pool.alive, rig.runtime, str(rig.cgroup), "/proc")
    pid, ticks = hog(16)
    mine.obey(("open", 7, [(pid, ticks)]))
    mine.obey(("reap", 7))
    ((token, what, number, _, value),), _ = mine.answers.take()
    assert (token, what, number, len(calls)) == (7, "Reap", 0, 3)
    assert value >= 16 * MIB
    monkeypatch.setattr(libc, "process_mrelease", lambda _fd: _raise(errno.EAGAIN))
    mine.obey(("reap", 7))
    ((_, _, number, _, value),), _ = mine.answers.take()
    assert (number, value) == (0, 0)
    mine.obey(("close", 7))
    for fd in (mine.proc_fd, mine.orders.bell, mine.answers.bell):
        os.close(fd)


def _raise(number: int) -> None:
    raise OSError(number, os.strerror(number))


def test_nobody_is_reaped_who_was_not_told_to_die(rig: Rig, hog: Hog) -> None:
    """process_mrelease refuses a process without a pending SIGKILL: a mistaken order costs nobody his memory."""
    pid, ticks = hog(16)
    rig.orders.post(("open", 7, [(pid, ticks)]))
    assert rig.ask("reap", 7) == (7, "Reap", 0, 0)
    assert held(pid) >= 16 * MIB


def test_an_order_for_an_unknown_token_is_answered(rig: Rig) -> None:
    assert rig.ask("reap", 99) == (99, "Reap", 0, 0)
    rig.orders.post(("close", 99))
    rig.orders.post(("something else", 1))
    assert rig.ask("reap", 98) == (98, "Reap", 0, 0), "it lives"


def test_another_process_of_the_same_number_is_not_opened(rig: Rig, hog: Hog) -> None:
    pid, ticks = hog(1)
    rig.ask("reap", 1)
    before = rig.fds()
    rig.orders.post(("open", 7, [(pid, ticks + 1), (2**22 - 1, 5)]))
    rig.ask("reap", 7)
    assert rig.fds() == before
    rig.orders.post(("open", 7, [(pid, ticks)]))
    rig.ask("reap", 7)
    assert rig.fds() == before + 1


def test_what_was_opened_is_closed(rig: Rig, hog: Hog) -> None:
    """A nominee a tenth of a second, for hours: opened twice under one token, closed once, or dead already."""
    processes = [hog(1) for _ in range(3)]
    rig.ask("reap", 1)
    before = rig.fds()
    for number in range(300):
        rig.orders.post(("open", number, processes))
        rig.orders.post(("open", number, processes[:2]))
        rig.orders.post(("close", number))
    rig.ask("reap", 1)
    assert rig.fds() == before


# -------------------------------------------------------------------------------------------------------------- writing


def test_a_value_is_written_and_put_back(rig: Rig) -> None:
    high = rig.make("/web.service")
    entry = rig.entry("/web.service")
    assert rig.ask("write", 5, tuple(entry)) == (5, "Lease", 0, 0)
    assert high.read_text() == str(200 * MIB)
    assert rig.ask("undo", 5, tuple(entry)) == (5, "Release", 0, 1)
    assert high.read_text() == "max"
    assert rig.ask("undo", 5, tuple(entry)) == (5, "Release", 0, 0)


def test_what_somebody_else_wrote_since_the_core_looked_is_his(rig: Rig) -> None:
    """Between the journal and the write systemd set MemoryHigh: it stays, and it is not "put back" later either."""
    high = rig.make("/web.service")
    entry = rig.entry("/web.service")
    high.write_text(f"{123 * MIB}\n")
    assert rig.ask("write", 5, tuple(entry)) == (5, "Lease", errno.ECANCELED, 0)
    assert high.read_text() == f"{123 * MIB}\n"
    assert rig.ask("undo", 5, tuple(entry)) == (5, "Release", 0, 0)
    assert high.read_text() == f"{123 * MIB}\n"


def test_gone_and_broken_are_answers(rig: Rig) -> None:
    high = rig.make("/a")
    entry = rig.entry("/a")
    anew = entry._replace(inode=entry.inode + 1)
    assert rig.ask("write", 1, tuple(anew)) == (1, "Lease", errno.ESRCH, 0)
    assert rig.ask("write", 2, _nowhere()) == (2, "Lease", errno.ESRCH, 0)
    assert rig.ask("undo", 3, _nowhere()) == (3, "Release", 0, 0)
    high.unlink()
    assert rig.ask("write", 4, tuple(entry)) == (4, "Lease", errno.ENOENT, 0)
    assert rig.ask("reap", 5) == (5, "Reap", 0, 0), "it lives"


def test_a_score_is_raised_and_put_back(rig: Rig, hog: Hog) -> None:
    pid, ticks = hog(1)
    score = Path(f"/proc/{pid}/oom_score_adj")
    found = int(score.read_text())
    entry = Entry(SCORE, 9, 0, ticks, pid, 1000, found, found, "/any")
    assert rig.ask("write", 9, tuple(entry)) == (9, "Lease", 0, 0)
    assert score.read_text() == "1000\n"
    assert rig.ask("undo", 9, tuple(entry)) == (9, "Release", 0, 1)
    assert int(score.read_text()) == found


# --------------------------------------------------------------------------------------------------- when the core dies


def test_when_the_core_is_gone_all_leases_are_put_back(rig: Rig, tmp_path: Path) -> None:
    files = [rig.make(f"/{name}") for name in "abc"]
    book = leases.Journal(f"{rig.runtime}/{leases.NAME}")
    for token, name in enumerate("abc", 1):
        entry = rig.entry(f"/{name}", token)
        assert book.out(entry)
        assert rig.ask("write", token, tuple(entry))[2] == 0
    book.close()
    worker = rig.pool.workers["reaper"]
    assert rig.pool.end(PATIENCE_S)
    assert worker.pidfd == -1
    assert [file.read_text() for file in files] == ["max"] * 3
    assert (tmp_path / "said").read_text().count("is put back to max") == 3


def test_what_was_ordered_last_is_not_done_when_the_core_is_gone(rig: Rig) -> None:
    """A write that stands in the mailbox while the core dies would come after the undoing of a clean stop."""
    high = rig.make("/a")
    worker = rig.pool.workers["reaper"]
    os.kill(worker.pid, signal.SIGSTOP)
    until(lambda: Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    rig.orders.post(("write", 1, tuple(rig.entry("/a"))))
    os.close(rig.pool._core_end)
    os.kill(worker.pid, signal.SIGCONT)
    assert select.select([worker.pidfd], [], [], PATIENCE_S)[0]
    assert high.read_text() == "max\n"


# ------------------------------------------------------------------------------------------------------------ rehearsal


def test_the_rehearsal_works_here_and_leaves_nobody(no_new_fds: None) -> None:
    fd = procfs.open_proc()
    assert rehearse(fd) == []
    os.close(fd)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.fixture
def no_new_fds() -> Iterator[None]:
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("number", "name"),
    [(errno.ENOSYS, "process_mrelease"), (errno.EPERM, "process_mrelease"), (errno.EAGAIN, ""), (errno.ESRCH, "")],
)
def test_what_does_not_work_is_named(monkeypatch: pytest.MonkeyPatch, number: int, name: str, no_new_fds: None) -> None:
    def refuse(_fd: int) -> None:
        raise OSError(number, os.strerror(number), "process_mrelease")

    monkeypatch.setattr(libc, "process_mrelease", refuse)
    fd = procfs.open_proc()
    assert [what for what, _ in rehearse(fd)] == ([name] if name else [])
    os.close(fd)


def test_a_kernel_that_forbids_signals_is_named(monkeypatch: pytest.MonkeyPatch, no_new_fds: None) -> None:
    def refuse(_fd: int, _number: int) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(pidfd, "send", refuse)
    fd = procfs.open_proc()
    assert [what for what, _ in rehearse(fd)] == ["pidfd_send_signal"]
    os.close(fd)


def test_reaping_does_not_wait_behind_a_write(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write to memory.high may take as long as reclaim does; what has come while it lasted goes before the next."""
    done: list[str] = []
    mine = Reaper(Mailbox(), Mailbox(), -1, rig.runtime, str(rig.cgroup), "/proc")

    def obey(message: tuple[Any, ...]) -> None:
        done.append(f"{message[0]} {message[1]}")

    monkeypatch.setattr(mine, "obey", obey)
    waiting: list[tuple[Any, ...]] = [("write", 1), ("write", 2), ("open", 3), ("reap", 3), ("undo", 4)]
    mine._work(waiting)
    waiting.append(("reap", 5))
    while waiting:
        mine._work(waiting)
    assert done == ["open 3", "reap 3", "undo 4", "write 1", "reap 5", "write 2"]
    for fd in (mine.proc_fd, mine.orders.bell, mine.answers.bell):
        os.close(fd)


def test_orders_that_were_lost_are_told(tmp_path: Path) -> None:
    """The core lapped a reaper that was stuck: it must know, to give them again."""
    pool, orders, answers = Pool(1 << 20), Mailbox(4096), Mailbox()
    for number in range(1000):
        orders.post(("close", number))

    def main() -> None:
        Reaper(orders, answers, pool.alive, str(tmp_path), str(tmp_path), "/proc").run()

    pool.add("reaper", orders.bell, (answers.bell,), main)
    assert select.select([answers.bell], [], [], PATIENCE_S)[0]
    assert answers.take() == ([(0, "Lost", 0, 0, 0)], 0)
    assert pool.end(PATIENCE_S)
    for fd in (orders.bell, answers.bell, pool.alive):
        os.close(fd)


# -- reclaim -----------------------------------------------------------------------------------------------------


class Kernel:
    """A memory.reclaim that has so much to give."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, bites: int, error: int = 0) -> None:
        self.bites, self.error = bites, error
        monkeypatch.setattr(Cgroup, "reclaim", self.reclaim)

    def reclaim(self, size_bytes: int) -> bool:
        assert 0 < size_bytes <= reaper_module.BITE, "bite by bite"
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        self.bites -= 1
        return self.bites >= 0


def by_hand(tmp_path: Path) -> tuple[Reaper, list[tuple[Any, ...]]]:
    """A reaper in this very process, and what it has to do."""
    (tmp_path / "cgroup.procs").write_text("")
    return Reaper(Mailbox(), Mailbox(), -1, str(tmp_path), str(tmp_path), "/proc"), []


def reclaimed(reaper: Reaper, waiting: list[tuple[Any, ...]], size: int, for_s: float = 60.0) -> tuple[int, int, int]:
    """(turns of the reaper, errno, bytes)."""
    waiting.append(("reclaim", 7, "/", 0, size, time.monotonic_ns() + int(for_s * 1e9)))
    turns = 0
    while waiting:
        reaper._work(waiting)
        turns += 1
    ((token, what, number, took_ns, value),) = reaper.answers.take()[0]
    assert (token, what) == (7, "Reclaim")
    assert took_ns >= 0
    return turns, number, value


def test_reclaim_goes_bite_by_bite_and_stops_when_it_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reaper, waiting = by_hand(tmp_path)
    kernel = Kernel(monkeypatch, 100)
    assert reclaimed(reaper, waiting, 20 * MIB) == (3, 0, 20 * MIB)
    assert kernel.bites == 97


def test_reclaim_stops_when_there_is_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reaper, waiting = by_hand(tmp_path)
    Kernel(monkeypatch, 2)
    assert reclaimed(reaper, waiting, 1 << 40) == (3, 0, 16 * MIB)


def test_reclaim_of_nothing_is_told_as_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reaper, waiting = by_hand(tmp_path)
    Kernel(monkeypatch, 0)
    assert reclaimed(reaper, waiting, MIB) == (1, errno.EAGAIN, 0)


def test_a_kernel_without_memory_reclaim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before Linux 5.19."""
    reaper, waiting = by_hand(tmp_path)
    Kernel(monkeypatch, 5, errno.ENOENT)
    assert reclaimed(reaper, waiting, MIB) == (1, errno.ENOENT, 0)


def test_reclaim_that_comes_too_late_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reaper, waiting = by_hand(tmp_path)
    kernel = Kernel(monkeypatch, 5)
    assert reclaimed(reaper, waiting, MIB, for_s=-1) == (1, errno.EAGAIN, 0)
    assert kernel.bites == 5


def test_a_kill_and_a_write_go_before_the_next_bite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reaper, waiting = by_hand(tmp_path)
    Kernel(monkeypatch, 100)
    done: list[str] = []
    monkeypatch.setattr(reaper, "obey", lambda message: done.append(message[0]))
    order = ("reclaim", 7, "/", 0, 24 * MIB, time.monotonic_ns() + 10**12)
    waiting.append(order)
    reaper._work(waiting)
    waiting += [("write", 8, ()), ("reap", 9)]
    reaper._work(waiting)
    assert done == ["reap", "write"]
    assert [message[0] for message in waiting] == ["reclaim"], "and it goes on where it was"
    assert waiting[0][6] == 8 * MIB


def test_only_the_very_cgroup_is_reclaimed(rig: Rig) -> None:
    rig.make("/web")
    (rig.cgroup / "web" / "memory.reclaim").write_text("")
    until = time.monotonic_ns() + 10**11
    assert rig.ask("reclaim", 1, "/web", 4711, MIB, until) == (1, "Reclaim", errno.ESRCH, 0)
    inode = os.stat(rig.cgroup / "web").st_ino
    assert rig.ask("reclaim", 2, "/web", inode, MIB, until) == (2, "Reclaim", 0, MIB)
    assert (rig.cgroup / "web" / "memory.reclaim").read_text() == str(MIB)


@pytest.mark.parametrize(
    ("kind", "name", "found", "value"),
    [
        (leases.LIMIT, "memory.max", MAX, 300 * MIB),
        (leases.SWAP, "memory.swap.max", 500 * MIB, 0),
        (leases.FREEZE, "cgroup.freeze", 0, 1),
    ],
)
def test_every_file_that_is_lent_is_written_and_put_back_when_the_core_is_gone(
    rig: Rig, kind: int, name: str, found: int, value: int
) -> None:
    rig.make("/web")
    file = rig.cgroup / "web" / name
    file.write_text(leases.shown(kind, found))
    entry = rig.entry("/web", value=value)._replace(kind=kind, before=found, found=found)
    book = leases.Journal(f"{rig.runtime}/{leases.NAME}")
    assert book.out(entry)
    assert rig.ask("write", 1, tuple(entry)) == (1, "Lease", 0, 0)
    assert file.read_text() == str(value)
    said = leases.undo_all(rig.runtime, str(rig.cgroup), "/proc")
    assert said == [f"{name} of /web is put back to {leases.shown(kind, found)}, as it was found"]
    assert file.read_text() == leases.shown(kind, found)


# -- units ---------------------------------------------------------------------------------------------------------


def test_systemd_is_asked_and_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It listens, and does not answer: PID 1 starves with everybody else."""
    monkeypatch.setattr(dbus, "PRIVATE", str(tmp_path / "private"))
    monkeypatch.setattr(reaper_module, "JOB_PATIENCE_NS", 0)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(dbus.PRIVATE)
    listener.listen()
    reaper, _ = by_hand(tmp_path)
    with listener:
        reaper.obey(("unit", 7, "restart", "web.service"))
        (fd,) = reaper.jobs
        assert reaper.answers.take()[0] == []
        reaper._job(fd, readable=False)
    ((token, what, number, took_ns, _),) = reaper.answers.take()[0]
    assert (token, what, number) == (7, "UnitJob", errno.ETIMEDOUT)
    assert took_ns > 0
    assert reaper.jobs == {}


def test_no_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PRIVATE", "SYSTEM_BUS"):
        monkeypatch.setattr(dbus, name, str(tmp_path / "none"))
    reaper, _ = by_hand(tmp_path)
    reaper.obey(("unit", 7, "stop", "web.service"))
    ((token, what, number, _, _),) = reaper.answers.take()[0]
    assert (token, what, number) == (7, "UnitJob", errno.ENOENT)


def test_who_asks_for_no_unit_holds_no_code_for_it() -> None:
    """It would be in everybody's locked memory."""
    text = "import sys, oomguard.workers.reaper; print('oomguard.linux.dbus' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
