"""The core on the kernel's own memory files: events, kills, limits and leases of cgroup v2, for real."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from oomguard.core.lease import LeaseBook
from oomguard.core.observe import Senses
from oomguard.judge.state import State, TargetState
from oomguard.linux import leases
from oomguard.model.facts import Observation, TargetId
from oomguard.model.policy import Amount, Clause, Daemon, Guard, KillStep, MemoryAbove, Plan, Watermark
from oomguard.model.verdict import Lease
from oomguard.workers.pool import Mailbox, Pool
from oomguard.workers.reaper import Reaper

from .world import MIB, PATIENCE_S, cgroup2_mount, until

pytestmark = pytest.mark.kernel

MOUNT = cgroup2_mount()
NEVER = 1 << 62


class Place:
    """A cgroup of our own with the memory controller."""

    def __init__(self, root: Path) -> None:
        self.root, self.prefix = root, f"/oomguard-memory-{os.getpid()}"
        self.started: list[subprocess.Popen[bytes]] = []
        self.make("")

    def at(self, path: str, name: str = "") -> Path:
        return Path(f"{self.root}{self.prefix}{path}") / name

    def make(self, path: str, **limits: int) -> None:
        directory = self.at(path)
        missing = [above for above in (directory, *directory.parents) if not above.exists()]
        for above in reversed(missing):
            (above.parent / "cgroup.subtree_control").write_text("+memory")
            above.mkdir()
        for name, value in limits.items():
            self.at(path, f"memory.{name}").write_text(str(value))

    def read(self, path: str, name: str) -> str:
        return self.at(path, name).read_text().strip()

    def grow(self, path: str, mib: int) -> subprocess.Popen[bytes]:
        """A process in there that takes so many MiB when told to (a byte on stdin), and then waits."""
        text = f"import os, time; os.read(0, 1); held = b'x' * ({mib} << 20); os.write(1, b'r'); time.sleep(9999)"
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.started.append(process)
        self.at(path, "cgroup.procs").write_text(str(process.pid))
        return process

    def go(self, process: subprocess.Popen[bytes], wait: bool = True) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"g")
        process.stdin.flush()
        if wait:
            assert os.read(process.stdout.fileno(), 1) == b"r"

    def remove(self, path: str) -> None:
        for where, _, _ in os.walk(self.at(path), topdown=False):
            until(lambda where=where: "populated 0" in Path(where, "cgroup.events").read_text())
            os.rmdir(where)

    def close(self) -> None:
        for process in self.started:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                assert stream is not None
                stream.close()
        self.remove("")


@pytest.fixture
def place() -> Iterator[Place]:
    if MOUNT is None or "memory" not in (MOUNT / "cgroup.controllers").read_text().split():
        pytest.skip("cgroup v2 has no memory controller on this machine; test_in_vm.py runs this in the virtual one")
    made = Place(MOUNT)
    yield made
    made.close()


class Rig:
    """Senses on it, with a judge who only looks when told to."""

    def __init__(self, place: Place, *patterns: str) -> None:
        hard = Watermark((Clause((MemoryAbove(Amount(share=0.9)),)),), (KillStep(),))
        guards = tuple(Guard(str(n), place.prefix + pattern, hard=hard) for n, pattern in enumerate(patterns))
        self.place = place
        self.plan = Plan("test", Daemon(cgroup=str(place.root)), guards)
        self.said: list[tuple[str, str]] = []
        self.senses = Senses(self.plan, str(place.root), lambda what, why: self.said.append((what, why)))
        self.senses.deadlines.free_ram = None
        self.senses.aim(self.plan)

    def turn(self, due: bool = False, until_ns: int = 0) -> Observation:
        look_ns = 0 if due else NEVER
        targets = {target: TargetState(target, look_ns=look_ns) for target in self.senses.targets}
        return self.senses.observe(State(host=self.senses.host, targets=targets), until_ns)

    def wait(self, true: Callable[[Observation], object]) -> Observation:
        end = time.monotonic() + PATIENCE_S
        while True:
            seen = self.turn(until_ns=time.monotonic_ns() + 50_000_000)
            if true(seen):
                return seen
            assert time.monotonic() < end, "it was never seen"

    def close(self) -> None:
        senses = self.senses
        senses.aim(replace(self.plan, guards=()))
        for fd in (senses.signal_fd, senses.limits.fd, senses.proc_fd, senses.meminfo.fd, senses.vmstat.fd):
            os.close(fd)
        if senses.pressure_file is not None:
            senses.pressure_file.close()
        senses.epoll.close()


@pytest.fixture
def watch(place: Place) -> Iterator[Callable[..., Rig]]:
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    made: list[Rig] = []

    def start(*patterns: str) -> Rig:
        made.append(Rig(place, *patterns))
        return made[-1]

    yield start
    for rig in made:
        rig.close()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


Watching = Callable[..., Rig]


def paths(seen: Observation, place: Place) -> list[str]:
    return [facts.path.removeprefix(place.prefix) for facts in seen.cgroups]


# --------------------------------------------------------------------------------------------------------------- senses


def test_crossing_memory_high_wakes(place: Place, watch: Watching) -> None:
    place.make("/web", high=40 * MIB)
    rig = watch("/web")
    rig.turn(due=True)
    process = place.grow("/web", 60)
    assert rig.turn().cgroups == ()
    place.go(process, wait=False)
    seen = rig.wait(lambda seen: seen.cgroups)
    assert paths(seen, place) == ["/web"]
    assert seen.cgroups[0].events is not None
    assert seen.cgroups[0].events.high > 0
    assert ("events", f"{place.prefix}/web") in [(wake.source, wake.path) for wake in seen.wakes]


def test_muted_is_not_woken(place: Place, watch: Watching) -> None:
    place.make("/web", high=40 * MIB)
    rig = watch("/web")
    rig.turn(due=True)
    process = place.grow("/web", 60)
    until_ns = time.monotonic_ns() + 1_500_000_000
    rig.senses.mute(TargetId("0", f"{place.prefix}/web"), until_ns)
    place.go(process, wait=False)
    until(lambda: " 0" not in place.read("/web", "memory.events").splitlines()[1])
    assert rig.senses.epoll.poll(0) == []
    seen = rig.turn(until_ns=NEVER)
    assert seen.at_ns >= until_ns


def test_a_kernel_kill_is_told_once_and_of_the_innermost(place: Place, watch: Watching) -> None:
    """Three cgroups of one line count it, and so does the machine."""
    place.make("/pods/pod/web", max=40 * MIB)
    place.at("/pods/pod/web", "memory.swap.max").write_text("0")
    rig = watch("/pods", "/pods/pod", "/pods/pod/web")
    rig.turn(due=True)
    process = place.grow("/pods/pod/web", 100)
    place.go(process, wait=False)
    process.wait()
    told: dict[str, int] = {}

    def add(seen: Observation) -> bool:
        for kill in seen.kernel_kills:
            told[kill.cgroup] = told.get(kill.cgroup, 0) + kill.count
        return bool(told)

    rig.wait(add)
    rig.senses.ledger._looked_ns = 0  # the machine's own count is looked at now
    for _ in range(5):
        add(rig.turn(due=True))
    assert told == {f"{place.prefix}/pods/pod/web": 1}


def test_a_limit_that_is_set_later_is_known_at_once(place: Place, watch: Watching) -> None:
    place.make("/slice/web")
    rig = watch("/slice/web")
    rig.turn(due=True)
    place.at("/slice", "memory.max").write_text(str(64 * MIB))
    seen = rig.wait(lambda seen: seen.cgroups)
    assert (seen.cgroups[0].limit_bytes, seen.cgroups[0].limit_path) == (64 * MIB, f"{place.prefix}/slice")


def test_recreated_and_without_controller(place: Place, watch: Watching) -> None:
    place.make("/slice/web")
    rig = watch("/slice/web")
    rig.turn(due=True)
    place.remove("/slice/web")
    place.make("/slice/web")
    seen = rig.wait(lambda seen: seen.vanished)
    seen = seen if seen.appeared else rig.wait(lambda seen: seen.appeared)
    place.at("/slice", "cgroup.subtree_control").write_text("-memory")
    rig.turn(due=True)
    rig.wait(lambda _seen: not rig.senses.targets)
    until(lambda: rig.turn() and not rig.senses.epoll.poll(0), "its files speak for ever")
    place.at("/slice", "cgroup.subtree_control").write_text("+memory")
    rig.wait(lambda seen: seen.appeared)


def test_watches_on_limits_end_with_their_cgroups(place: Place, watch: Watching) -> None:
    rig = watch("/*/*")
    rig.turn()
    before = inotify(rig)
    for number in range(20):
        place.make(f"/{number}/web")
        rig.wait(lambda _seen: rig.senses.targets)
        place.remove(f"/{number}")
        rig.wait(lambda _seen: not rig.senses.targets)
    assert inotify(rig) == before


def inotify(rig: Rig) -> int:
    forest = rig.senses.forest
    assert forest is not None
    fds = (forest.fileno(), rig.senses.limits.fd)
    return sum(Path(f"/proc/self/fdinfo/{fd}").read_text().count("inotify wd:") for fd in fds)


# --------------------------------------------------------------------------------------------------------------- leases


class Lender:
    """A book of the core's, and a reaper in a process of its own."""

    def __init__(self, place: Place, runtime: Path) -> None:
        self.place, self.runtime = place, runtime
        self.orders, self.answers, self.pool = Mailbox(), Mailbox(), Pool(1 << 20)
        self.journal = leases.Journal(str(runtime / leases.NAME))
        self.book = LeaseBook(self.journal, self.orders, str(place.root), "/proc")
        arguments = (str(runtime), str(place.root), "/proc")
        main = Reaper(self.orders, self.answers, self.pool.alive, *arguments).run
        self.pool.add("reaper", self.orders.bell, (self.answers.bell,), main)

    def lend(self, token: int, path: str, value: int) -> int:
        inode = os.stat(self.place.at(path)).st_ino
        where = self.place.prefix + path
        return self.book.lend(Lease(TargetId("g", where), token, "memory.high", where, inode, 0, 0, value, "brake"))

    def settle(self) -> None:
        """Until the reaper has answered all."""
        end = time.monotonic() + PATIENCE_S
        while any(file.busy for file in self.book.files.values()):
            assert time.monotonic() < end, "no answer"
            select.select([self.answers.bell], [], [], 0.2)
            for token, what, number, _, _ in self.answers.take()[0]:
                self.book.settled(token, what, number)

    def close(self) -> None:
        self.pool.kill("reaper", PATIENCE_S)
        for fd in (self.orders.bell, self.answers.bell, self.pool.alive):
            os.close(fd)
        self.journal.close()


@pytest.fixture
def lender(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lender]:
    # The descriptor of /proc that the reaper opens before the fork is one that the pool would close.
    made: list[Reaper] = []
    run = Reaper.run

    def reopened(reaper: Reaper) -> None:
        reaper.proc_fd = os.open("/proc", os.O_DIRECTORY)
        made.append(reaper)
        run(reaper)

    monkeypatch.setattr(Reaper, "run", reopened)
    lending = Lender(place, tmp_path)
    yield lending
    lending.close()


@pytest.mark.parametrize("owner", ["max", str(512 * MIB)])
def test_lent_moved_and_put_back(place: Place, lender: Lender, owner: str) -> None:
    place.make("/web")
    place.at("/web", "memory.high").write_text(owner)
    for value in (200 * MIB, 300 * MIB, 100 * MIB + 12345):
        assert lender.lend(1, "/web", value) == 0
        lender.settle()
        assert place.read("/web", "memory.high") == str(value // 4096 * 4096)
    lender.book.end(1)
    lender.settle()
    assert place.read("/web", "memory.high") == owner
    assert lender.book.files == {}


def test_two_on_one_real_file(place: Place, lender: Lender) -> None:
    place.make("/web")
    lender.lend(1, "/web", 240 * MIB)
    lender.lend(2, "/web", 200 * MIB)
    lender.settle()
    assert place.read("/web", "memory.high") == str(200 * MIB)
    lender.book.end(1)
    lender.settle()
    assert place.read("/web", "memory.high") == str(200 * MIB)
    lender.book.end(2)
    lender.settle()
    assert place.read("/web", "memory.high") == "max"


def test_a_cgroup_made_anew_is_left_alone(place: Place, lender: Lender) -> None:
    place.make("/web")
    lender.lend(1, "/web", 200 * MIB)
    lender.settle()
    place.remove("/web")
    place.make("/web")
    place.at("/web", "memory.high").write_text(str(200 * MIB))
    lender.book.end(1)
    lender.settle()
    assert place.read("/web", "memory.high") == str(200 * MIB)
    assert lender.book.files == {}


def test_killed_while_it_lends(place: Place, lender: Lender) -> None:
    """The core is gone: its reaper puts it back, whatever it was doing."""
    place.make("/web")
    process = place.grow("/web", 60)
    place.go(process)
    lender.lend(1, "/web", 30 * MIB)  # under what it has: the write reclaims, and there is nothing to reclaim
    lender.lend(1, "/web", 20 * MIB)
    assert lender.pool.end(PATIENCE_S)
    assert place.read("/web", "memory.high") == "max"


def test_one_file_does_not_hold_up_the_others(place: Place, lender: Lender) -> None:
    """A write under what is used takes as long as reclaim does; measured here, since the reaper is single file."""
    place.make("/full")
    place.make("/free")
    process = place.grow("/full", 200)
    place.go(process)
    began = time.monotonic()
    lender.lend(1, "/full", 20 * MIB)
    lender.lend(2, "/free", 20 * MIB)
    lender.settle()
    print(f"the write under use took {time.monotonic() - began:.3f} s on {os.uname().release}")
    assert place.read("/full", "memory.high") == str(20 * MIB)
    assert place.read("/free", "memory.high") == str(20 * MIB)
    for token in (1, 2):
        lender.book.end(token)
    lender.settle()
    assert place.read("/full", "memory.high") == "max"
