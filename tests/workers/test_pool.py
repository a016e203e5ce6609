"""Workers as they are forked: what they keep, how they end, and that nobody is left when the core is killed."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oomguard.workers.pool import Mailbox, Pool, Worker

HEAP = 1 << 20
PATIENCE_S = 30


@pytest.fixture
def pool() -> Iterator[Pool]:
    made = Pool(HEAP)
    yield made
    for worker in made.workers.values():
        if worker.pidfd >= 0:
            os.kill(worker.pid, signal.SIGKILL)
            made.bury(worker)
    for fd in (made.alive, made._core_end):
        with contextlib.suppress(OSError):
            os.close(fd)


def until_end(pool: Pool) -> Callable[[], None]:
    """What every worker does: wait for the end of the core."""

    def main() -> None:
        poll = select.poll()
        poll.register(pool.alive, select.POLLHUP)
        poll.poll()

    return main


def ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(PATIENCE_S * 1000))


def told(fd: int) -> dict[str, object]:
    """What a worker wrote about itself."""
    with os.fdopen(fd, "rb") as file:
        value = json.loads(file.read())
    assert isinstance(value, dict)
    return value


def test_a_worker_says_who_it_is(pool: Pool) -> None:
    """No descriptor but its own, deaf to what is sent to the whole group, its own name, not of real time."""
    answer, into = os.pipe()
    other = os.open("/dev/null", os.O_RDONLY)
    box = Mailbox()

    def main() -> None:
        state = {
            "fds": sorted(int(fd) for fd in os.listdir("/proc/self/fd")),
            "comm": Path("/proc/self/comm").read_text(),
            "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
            "scheduler": os.sched_getscheduler(0),
        }
        os.write(into, json.dumps(state).encode())

    worker = pool.add("reaper", box.bell, (into,), main)
    os.close(into)
    state = told(answer)
    besides = set(state["fds"]) - {0, 1, 2, pool.alive, box.bell, into}  # type: ignore[call-overload]
    assert len(besides) == 1, "the listing itself, and nothing else"
    assert {pool.alive, box.bell, into} <= set(state["fds"])  # type: ignore[arg-type]
    assert other not in state["fds"]  # type: ignore[operator]
    assert pool._core_end not in state["fds"], "else nobody would learn of the core's end"  # type: ignore[operator]
    assert state["comm"] == "oomguard-reaper\n"
    assert state["blocked"] >= sorted([signal.SIGHUP, signal.SIGINT, signal.SIGTERM])  # type: ignore[operator]
    assert state["scheduler"] == os.SCHED_OTHER
    assert ended(worker.pidfd)
    assert pool.bury(worker) == 0
    os.close(other)
    os.close(box.bell)


def test_ctrl_c_and_systemctl_stop_are_the_cores_business(pool: Pool) -> None:
    worker = pool.add("scribe", os.eventfd(0, os.EFD_CLOEXEC), (), until_end(pool))
    comm = Path(f"/proc/{worker.pid}/comm")
    end = time.monotonic() + PATIENCE_S
    while comm.read_text() != "oomguard-scribe\n" or "SigBlk" not in Path(f"/proc/{worker.pid}/status").read_text():
        assert time.monotonic() < end
    blocked = ""
    while not blocked.endswith("4003"):  # HUP (bit 0), INT (1), TERM (14)
        assert time.monotonic() < end
        lines = Path(f"/proc/{worker.pid}/status").read_text().splitlines()
        blocked = next(line for line in lines if line.startswith("SigBlk:"))
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        os.kill(worker.pid, number)
    poll = select.poll()
    poll.register(worker.pidfd, select.POLLIN)
    assert poll.poll(0) == []
    assert pool.pids() == {worker.pid}
    assert pool.end(PATIENCE_S)
    assert pool.pids() == frozenset()
    os.close(worker.bell)


@pytest.mark.parametrize(("how", "code"), [("returns", 0), ("raises", 1), ("is killed", -9), ("exits", 1)])
def test_the_end_of_a_worker_is_seen(pool: Pool, how: str, code: int, capfd: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        if how == "raises":
            raise OSError(5, "Input/output error", "/broken")
        if how == "exits":
            raise SystemExit(7)
        if how == "is killed":
            os.kill(os.getpid(), signal.SIGKILL)

    bell = os.eventfd(0, os.EFD_CLOEXEC)
    worker = pool.add("scribe", bell, (), main)
    assert ended(worker.pidfd)
    fd = worker.pidfd
    assert pool.bury(worker) == code
    assert worker.pidfd == -1
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    if how == "raises":
        assert "<3>oomguard scribe: " in capfd.readouterr().err, "the journal shows it as an error"
    os.close(bell)


def test_a_worker_is_started_again_in_its_place(pool: Pool) -> None:
    bell = os.eventfd(0, os.EFD_CLOEXEC)
    answer, into = os.pipe()
    worker = pool.add("scribe", bell, (into,), lambda: os.write(into, b"x") and None)
    first = worker.pid
    assert os.read(answer, 1) == b"x"
    assert ended(worker.pidfd)
    pool.bury(worker)
    pool.fork(worker)
    assert os.read(answer, 1) == b"x"
    assert worker.pid != first
    assert pool.workers == {"scribe": worker}
    assert ended(worker.pidfd)
    pool.bury(worker)
    for fd in (bell, answer, into):
        os.close(fd)


def test_starting_again_does_not_pile_up_descriptors(pool: Pool) -> None:
    bell = os.eventfd(0, os.EFD_CLOEXEC)
    worker = pool.add("scribe", bell, (), lambda: None)
    assert ended(worker.pidfd)
    pool.bury(worker)
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(30):
        pool.fork(worker)
        assert ended(worker.pidfd)
        pool.bury(worker)
    assert sorted(os.listdir("/proc/self/fd")) == before
    os.close(bell)


def test_a_worker_that_cannot_be_watched_is_not_left_alone(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """EMFILE at pidfd_open: the child is ended and waited for, and the caller is told."""
    worker = Worker("scribe", os.eventfd(0, os.EFD_CLOEXEC), (), until_end(pool))
    forked = []
    fork = os.fork
    monkeypatch.setattr(os, "fork", lambda: forked.append(fork()) or forked[-1])

    def refuse(_pid: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", refuse)
    with pytest.raises(OSError, match="Too many"):
        pool.fork(worker)
    assert len(forked) == 1
    with pytest.raises(ChildProcessError):
        os.waitpid(forked[0], os.WNOHANG)
    os.close(worker.bell)


def test_nobody_is_left_when_the_core_is_killed() -> None:
    """SIGKILL gives the core no chance to say anything: the pipe's end does."""
    answer, into = os.pipe()
    core = os.fork()
    if core == 0:
        try:
            own = Pool(HEAP)
            bells = [os.eventfd(0, os.EFD_CLOEXEC) for _ in range(3)]
            names = ("reaper", "scribe", "herald")
            pids = [own.add(name, bell, (), until_end(own)).pid for name, bell in zip(names, bells, strict=True)]
            # One of them is started again: it must not hold what keeps the others alive.
            own.kill("scribe", PATIENCE_S)
            own.fork(own.workers["scribe"])
            pids[1] = own.workers["scribe"].pid
            os.write(into, json.dumps({"pids": pids}).encode())
            os.close(into)
            while True:
                signal.pause()
        finally:
            os._exit(1)
    os.close(into)
    pids = told(answer)["pids"]
    fds = [os.pidfd_open(pid) for pid in pids]  # type: ignore[attr-defined]
    try:
        assert len(fds) == 3
        assert all(not select.select([fd], [], [], 0)[0] for fd in fds)
    finally:
        os.kill(core, signal.SIGKILL)
        os.waitpid(core, 0)
    for fd in fds:
        assert ended(fd)
        os.close(fd)


def test_a_worker_can_be_ended_now(pool: Pool) -> None:
    bell = os.eventfd(0, os.EFD_CLOEXEC)
    pool.add("reaper", bell, (), until_end(pool))
    assert pool.kill("reaper", PATIENCE_S)
    assert pool.kill("reaper", PATIENCE_S), "twice is no harm"
    assert pool.pids() == frozenset()
    os.close(bell)


def test_who_does_not_end_in_time_is_told(pool: Pool) -> None:
    bell = os.eventfd(0, os.EFD_CLOEXEC)

    def deaf() -> None:
        while True:
            signal.pause()

    pool.add("scribe", bell, (), deaf)
    assert pool.end(0.05) is False
    pool._core_end = os.dup(pool.alive)  # the fixture closes it once more
    os.close(bell)
