"""The dead man on real processes: whom it ends when the core stands still, whom never, and how the two keep apart."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from oomguard.core.deadman import LOOK_MS, DeadMan
from oomguard.linux import procfs
from oomguard.model.codec import pack
from oomguard.model.facts import TargetId
from oomguard.model.policy import Amount, AvailableBelow, Clause, Daemon, KillStep, MemoryAbove, StallAbove, Watermark
from oomguard.model.verdict import ProcessRef, Victim, Ward
from oomguard.workers.pool import Mailbox, Pulse

from .world import HOST as HOST_POLICY
from .world import PATIENCE_S, World, gone, policy, start_ticks, until
from .world import Daemon as GuardingDaemon

MS = 1_000_000
SECOND = 1000 * MS
HOST = TargetId("host", "/")
Running = subprocess.Popen[bytes]
Hog = Callable[..., Running]
Start = Callable[..., GuardingDaemon]


def below(percent: float, lasting_ns: int = 0) -> Watermark:
    return Watermark((Clause((AvailableBelow(Amount(share=percent / 100)),), lasting_ns),), (KillStep(),))


class Rig:
    """A dead man, with a clock and a core that are ours."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = world
        self.pulse, self.answers = Pulse(), Mailbox()
        self.man = DeadMan(Daemon(proc=str(world.proc), deadman_ns=2 * SECOND), None, self.pulse, self.answers)
        self.now = time.monotonic_ns()
        self.said: list[str] = []
        monkeypatch.setattr(time, "monotonic_ns", lambda: self.now)
        monkeypatch.setattr("oomguard.core.deadman._say", lambda ward, *rest: self.said.append(ward.victim.unit))
        self.pulse.beat(self.now)

    def hand(self, token: int, *processes: Running, **more: object) -> None:
        """The core's nominee: these. ``more`` are fields of the ward."""
        ward = Ward(HOST, victim(*processes), below(10), 0)
        self.man.guard(token, pack(replace(ward, **more)))  # type: ignore[arg-type]

    def later(self, ms: float) -> list[int]:
        self.now += int(ms * MS)
        return self.man.look()

    def silence(self, ms: float = 2000) -> list[int]:
        """So long without a turn, and both looks that it takes."""
        return [*self.later(ms), *self.later(LOOK_MS)]

    def told(self) -> list[tuple[object, ...]]:
        return [(token, what, number) for token, what, number, _, _ in self.answers.take()[0]]

    def close(self) -> None:
        for token in list(self.man.watched):
            self.man.leave(token)
        fds = [self.man.proc_fd, self.man.meminfo.fd, self.pulse.right, self.answers.bell]
        for fd in fds:
            os.close(fd)
        if self.man.pressure is not None:
            self.man.pressure.close()


@pytest.fixture
def rig(world: World, monkeypatch: pytest.MonkeyPatch, no_leak: None) -> Iterator[Rig]:
    made = Rig(world, monkeypatch)
    made.world.available(50)  # of 1024: the hard watermark holds
    yield made
    monkeypatch.undo()
    made.close()


def victim(*processes: Running) -> Victim:
    fd = procfs.open_proc()
    refs = []
    for process in processes:
        found = procfs.read_process(fd, process.pid)
        assert found is not None
        refs.append(ProcessRef(process.pid, found.start_ticks, found.comm, found.cgroup, found.held_bytes))
    os.close(fd)
    return Victim(1, "subtree", refs[0].cgroup, 0, "", tuple(refs), 1, len(refs))


@pytest.fixture
def leak(world: World, hog: Hog) -> Running:
    return seen(world, hog(20, b"leak"))


def seen(world: World, process: Running) -> Running:
    world.see(process.pid)
    return process


def ended(process: Running) -> bool:
    fd = os.pidfd_open(process.pid)
    try:
        return gone(fd)
    finally:
        os.close(fd)


# -------------------------------------------------------------------------------------------------------------- in time


def test_the_nominee_is_ended_when_the_core_has_been_silent_for_so_long(rig: Rig, leak: Running) -> None:
    rig.hand(7, leak)
    assert rig.later(10) == []
    assert rig.later(1980) == []
    assert rig.later(20) == [], "late: but a machine that stood still as a whole looks just like that"
    assert rig.later(LOOK_MS) == [7]
    assert leak.wait(20) == -signal.SIGKILL
    assert rig.told() == [(7, "Deadman", 0)]
    assert len(rig.said) == 1
    assert rig.silence() == [], "once"
    assert rig.man.timeout_ms() is None


def test_a_core_that_turns_is_left_to_do_it(rig: Rig, leak: Running) -> None:
    rig.hand(7, leak)
    for _ in range(100):
        assert rig.later(1990) == []
        rig.pulse.beat(rig.now)
    assert rig.later(2000) == []
    rig.pulse.beat(rig.now)  # in the last moment
    assert rig.later(LOOK_MS) == []
    assert not ended(leak)
    assert rig.pulse.take(), "nobody has the right to kill"
    rig.pulse.give()


def test_it_asks_for_no_wakeup_while_nobody_is_handed_to_it(rig: Rig, leak: Running) -> None:
    assert rig.man.timeout_ms() is None
    rig.hand(7, leak)
    assert rig.man.timeout_ms() == 0, "to be opened at once"
    assert rig.later(500) == []
    assert rig.man.timeout_ms() == 1501, "when the core could have been silent for too long"
    rig.later(2000)
    assert rig.man.timeout_ms() == LOOK_MS
    rig.man.leave(7)
    assert rig.man.timeout_ms() is None


# --------------------------------------------------------------------------------------------------------- whom it ends


def test_the_rehearsal_leaves_nothing_behind(rig: Rig) -> None:
    rig.man.rehearse()
    assert (rig.man.fresh, rig.man.watched, rig.told(), rig.said) == ({}, {}, [], [])
    assert rig.man.timeout_ms() is None


def test_nobody_is_ended_while_there_is_memory(rig: Rig, leak: Running) -> None:
    """Stopped for hours by a debugger."""
    rig.world.available(200)
    rig.hand(7, leak)
    assert [rig.silence(60_000) for _ in range(10)] == [[]] * 10
    rig.world.available(50)
    assert rig.later(LOOK_MS) == [7]


def test_a_watermark_that_has_to_last_has_to_last(rig: Rig, leak: Running) -> None:
    rig.hand(7, leak, hard=below(10, lasting_ns=3 * SECOND))
    assert rig.silence() == []
    assert rig.later(2900) == []
    assert rig.later(100) == [7]


def test_what_only_the_kernels_trigger_tells_does_not_hold(rig: Rig, leak: Running) -> None:
    rig.hand(7, leak, hard=Watermark((Clause((StallAbove("full", 1000, 500_000, 0),)),), (KillStep(),)))
    assert rig.silence(60_000) == []


def test_cooldown_and_budget_are_kept(rig: Rig, leak: Running) -> None:
    rig.hand(7, leak, not_before_ns=rig.now + 60 * SECOND)
    assert rig.silence() == []
    assert rig.later(57_000) == []
    assert rig.later(1000) == [7]


def test_one_after_the_other_the_innermost_guard_first(rig: Rig, world: World, hog: Hog) -> None:
    one, other = seen(world, hog(20)), seen(world, hog(20))
    rig.hand(7, one)
    rig.hand(8, other)
    assert rig.silence() == [7]
    assert rig.later(900) == [], "what was just freed is not counted at once"
    assert rig.later(100) == [8]
    assert rig.told() == [(7, "Deadman", 0), (8, "Deadman", 0)]


def test_who_is_dismissed_is_left_alone(rig: Rig, leak: Running) -> None:
    rig.hand(7, leak)
    rig.later(0)
    rig.man.leave(7)
    assert rig.silence() == []
    assert not ended(leak)


def test_who_has_ended_is_no_reason_to_tell_anybody(rig: Rig, leak: Running) -> None:
    rig.hand(7, leak)
    rig.later(0)
    leak.kill()
    leak.wait()
    assert rig.silence() == []
    assert rig.told() == []
    assert rig.pulse.take(), "the right to kill was not kept"
    rig.pulse.give()


def test_another_process_of_that_number(rig: Rig, leak: Running) -> None:
    who = victim(leak)
    other = replace(who.processes[0], start_ticks=start_ticks(leak.pid) + 1)
    rig.hand(7, leak, victim=replace(who, processes=(other,)))
    assert rig.silence() == []
    assert not ended(leak)


def test_one_that_has_become_another_program_since(rig: Rig, world: World, hog: Hog) -> None:
    """It was opened as a leak an hour ago; what it is now has done nothing, and ``never`` may protect it."""
    then = "sys.stdin.readline(); os.execv('/bin/sleep', ['sleep', '1000'])"
    process = seen(world, hog(60, b"leak", then, stdin=True))
    rig.hand(7, process)
    rig.later(0)
    assert list(rig.man.watched) == [7]
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()
    while Path(f"/proc/{process.pid}/comm").read_text() != "sleep\n":
        time.sleep(0.002)
    assert rig.silence() == []
    assert not ended(process)
    assert rig.man.watched == {}


def test_of_a_tree_all_are_ended(rig: Rig, world: World, hog: Hog) -> None:
    tree = [seen(world, hog(1)) for _ in range(5)]
    rig.hand(7, *tree)
    assert rig.silence() == [7]
    assert [process.wait(20) for process in tree] == [-signal.SIGKILL] * 5


# ---------------------------------------------------------------------------------------------------- who has the right


def test_a_core_in_the_middle_of_a_kill_is_not_doubled(rig: Rig, leak: Running) -> None:
    rig.hand(7, leak)
    assert rig.pulse.take()
    assert rig.silence() == []
    assert rig.told() == []
    rig.pulse.give()
    assert rig.later(LOOK_MS) == [7]


def test_a_core_that_has_turned_since_the_look_is_not_doubled(
    rig: Rig, leak: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.hand(7, leak)
    rig.later(2000)
    take = Pulse.take

    def late(pulse: Pulse) -> bool:
        pulse.beat(rig.now)
        return take(pulse)

    monkeypatch.setattr(Pulse, "take", late)
    assert rig.later(LOOK_MS) == []
    monkeypatch.setattr(Pulse, "take", take)
    assert not ended(leak)
    assert rig.pulse.take(), "the right was given back"
    rig.pulse.give()


def test_after_a_kill_the_right_is_the_cores_when_it_has_heard_of_it(rig: Rig, leak: Running) -> None:
    rig.hand(7, leak)
    assert rig.silence() == [7]
    assert not rig.pulse.take(), "a core that is in the middle of a turn must not take another one now"
    rig.pulse.beat(rig.now)  # what the core does when the answer comes
    rig.pulse.give()
    assert rig.pulse.take()
    rig.pulse.give()


def test_a_kill_that_is_refused_is_told(rig: Rig, leak: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oomguard.core.nominee.Nominee.kill", lambda *_: errno.EPERM)
    rig.hand(7, leak)
    assert rig.silence() == []
    assert rig.told() == [(7, "Deadman", 0), (7, "Kill", errno.EPERM)]
    assert rig.man.watched == {}


def test_what_cannot_be_read_ends_nobody(rig: Rig, leak: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_file: procfs.MemInfoFile) -> object:
        raise OSError(errno.EIO, "Input/output error", "/proc/meminfo")

    rig.hand(7, leak)
    with monkeypatch.context() as patched:
        patched.setattr(procfs.MemInfoFile, "read", broken)
        assert rig.silence() == []
    assert rig.later(LOOK_MS) == [7]


def test_descriptors_are_given_back(rig: Rig, world: World, hog: Hog) -> None:
    tree = [seen(world, hog(1)) for _ in range(3)]
    before = len(os.listdir("/proc/self/fd"))
    for number in range(300):
        rig.hand(number, *tree)
        rig.later(0)
        rig.hand(number, *tree[:2])
        rig.later(0)
        rig.man.leave(number)
    assert len(os.listdir("/proc/self/fd")) == before


# ------------------------------------------------------------------------------------------------- a guard with a limit


def test_a_guard_with_a_limit_goes_by_its_own_memory(
    world: World, leak: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cache is not use, here as in the judge."""
    group = tmp_path / "cgroup" / "web"
    group.mkdir(parents=True)
    mib = 1 << 20
    files = {"memory.max": 100 * mib, "memory.current": 99 * mib, "memory.swap.current": 0, "memory.high": "max"}
    for name, value in files.items():
        (group / name).write_text(f"{value}\n")
    stat = "anon {}\nfile {}\nshmem 0\nslab_reclaimable 0\n"
    (group / "memory.stat").write_text(stat.format(20 * mib, 79 * mib))
    rig = Rig(world, monkeypatch)
    rig.man.root = str(tmp_path / "cgroup")
    above = Watermark((Clause((MemoryAbove(Amount(share=0.9)),)),), (KillStep(),))
    rig.hand(7, leak, target=TargetId("web", "/web"), hard=above)
    assert rig.silence() == []
    (group / "memory.stat").write_text(stat.format(95 * mib, 4 * mib))
    assert rig.later(LOOK_MS) == [7]
    monkeypatch.undo()
    rig.close()


# ----------------------------------------------------------------------------------------------------- the whole daemon


PATIENT = HOST_POLICY.replace('cooldown = "1s"', 'cooldown = "60s"')


def switches(pid: int) -> int:
    """How often it has gone to sleep."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


@pytest.fixture
def start(world: World, daemon: Start) -> Start:
    def begin(body: str, own: str = "") -> GuardingDaemon:
        made = daemon(world, policy(body, world).replace("[daemon]\n", f"[daemon]\n{own}\n"))
        made.hear("READY=1")
        return made

    return begin


def test_a_stopped_core_is_stood_in_for(world: World, start: Start, leak: Running, hog: Hog) -> None:
    """SIGSTOP in the middle of a storm; and after SIGCONT nobody else is ended for it, though memory is still short."""
    second = seen(world, hog(10, b"second"))
    guarding = start(PATIENT)
    world.available(200)
    guarding.phase("armed")
    until(lambda: "pidfd" in links(guarding.workers()["reaper"]))
    guarding.process.send_signal(signal.SIGSTOP)
    world.available(50)
    assert leak.wait(PATIENCE_S) == -signal.SIGKILL
    guarding.logged(f"the dead man has ended leak[{leak.pid}] by SIGKILL")
    guarding.process.send_signal(signal.SIGCONT)
    until(lambda: guarding.status().numbers.kills == 1, guarding.log())
    guarding.phase("cooling")
    turns = guarding.status().numbers.turns
    until(lambda: guarding.status().numbers.turns > turns + 20)
    assert second.poll() is None
    assert guarding.status().numbers.kills == 1
    assert "stood still" in dict(guarding.status().degraded)["core"]
    world.available(900)
    guarding.phase("calm")
    until(lambda: list((world.root / "state" / "incidents").glob("*/incident.json")))
    until(lambda: "the dead man has acted" in incident(world), guarding.log())
    assert json.loads(incident(world))["killed_by"] == "oomguard"
    assert guarding.end() == 0


def incident(world: World) -> str:
    (path,) = (world.root / "state" / "incidents").glob("*/incident.json")
    return path.read_text()


def links(pid: int) -> str:
    names = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            names.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return " ".join(names)


@pytest.mark.parametrize(
    ("body", "own"),
    [
        (HOST_POLICY, 'deadman = "0s"'),
        (HOST_POLICY.replace('"enforce"', '"observe"'), ""),
        (HOST_POLICY.replace(', "nominate"', ""), ""),
    ],
    ids=["switched off", "observing", "no nominee"],
)
def test_nobody_stands_in(world: World, start: Start, leak: Running, body: str, own: str) -> None:
    guarding = start(body, own)
    world.available(200)
    guarding.phase("armed")
    turns = guarding.status().numbers.turns
    until(lambda: guarding.status().numbers.turns > turns + 10)
    guarding.process.send_signal(signal.SIGSTOP)
    world.available(50)
    time.sleep(3)  # what must not happen has this long to happen
    assert leak.poll() is None
    world.available(900)
    guarding.process.send_signal(signal.SIGCONT)
    guarding.phase("calm")
    assert guarding.end() == 0


def test_in_calm_the_reaper_is_never_awake(world: World, start: Start, leak: Running) -> None:
    guarding = start(HOST_POLICY)
    reaper = guarding.workers()["reaper"]
    world.available(200)
    guarding.phase("armed")
    until(lambda: "pidfd" in links(reaper))
    world.available(900)
    guarding.phase("calm")
    until(lambda: "pidfd" not in links(reaper))
    before = switches(reaper)
    guarding.process.send_signal(signal.SIGSTOP)  # not even then
    time.sleep(3)
    assert switches(reaper) - before <= 1, "it may have been on its way to sleep"
    guarding.process.send_signal(signal.SIGCONT)
    assert guarding.end() == 0


def test_a_stopped_core_that_is_killed_at_last(world: World, start: Start, leak: Running) -> None:
    """The watchdog's bite: the journal has been told already."""
    guarding = start(HOST_POLICY)
    world.available(200)
    guarding.phase("armed")
    until(lambda: "pidfd" in links(guarding.workers()["reaper"]))
    guarding.process.send_signal(signal.SIGSTOP)
    world.available(50)
    assert leak.wait(PATIENCE_S) == -signal.SIGKILL
    reaper = os.pidfd_open(guarding.workers()["reaper"])
    guarding.end(signal.SIGKILL)
    assert select.select([reaper], [], [], PATIENCE_S)[0]
    os.close(reaper)
    assert guarding.log().count("the dead man has ended") == 1


def test_a_new_reaper_is_handed_the_nominee_too(world: World, start: Start, leak: Running) -> None:
    guarding = start(PATIENT)
    world.available(250)  # over 128 MiB: a worker may be started again while armed
    guarding.phase("armed")
    first = guarding.workers()["reaper"]
    until(lambda: "pidfd" in links(first))
    os.kill(first, signal.SIGKILL)
    until(lambda: guarding.workers().get("reaper", first) != first)
    until(lambda: "pidfd" in links(guarding.workers()["reaper"]))
    guarding.process.send_signal(signal.SIGSTOP)
    world.available(50)
    assert leak.wait(PATIENCE_S) == -signal.SIGKILL
    guarding.process.send_signal(signal.SIGCONT)
    until(lambda: guarding.status().numbers.kills == 1, guarding.log())
    world.available(900)
    guarding.phase("calm")
    assert guarding.end() == 0
