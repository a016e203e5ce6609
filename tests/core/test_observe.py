"""The senses: what is read in which turn, what is told, and that nothing that cannot be read ends the daemon."""

from __future__ import annotations

import errno
import itertools
import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oomguard.core import deadlines, ledger, observe
from oomguard.core.observe import Senses
from oomguard.core.stalls import Target
from oomguard.judge.state import State, TargetState
from oomguard.linux import procfs, psi
from oomguard.linux.cgroup2 import Cgroup
from oomguard.model.facts import (
    Compressed,
    KernelKill,
    Observation,
    ProcessFacts,
    Refaults,
    Result,
    Stalled,
    Survey,
    TargetId,
)
from oomguard.model.policy import (
    AlsoAvailable,
    Amount,
    AvailableBelow,
    Clause,
    Condition,
    Daemon,
    EventsAbove,
    ExhaustsWithin,
    GrowthAbove,
    Guard,
    KillStep,
    MemoryAbove,
    Plan,
    PressureAbove,
    PressureRising,
    RefaultsAbove,
    StallAbove,
    VictimRule,
    Watermark,
    ZramAbove,
)

from .world import MIB, PATIENCE_S, World, cgroup2_mount, until

SECOND = 1_000_000_000
NEVER = 1 << 62

STAT = "anon {anon}\nfile {file}\nkernel 0\nshmem 0\nslab_reclaimable 0\nslab_unreclaimable 0\n"
REFAULTS = "workingset_refault_file 2\n"
EVENTS = "low 0\nhigh {high}\nmax 0\noom 0\noom_kill {kills}\noom_group_kill 0\n"
PRESSURE = "some avg10={0:.2f} avg60=0.00 avg300=0.00 total=0\nfull avg10={0:.2f} avg60=0.00 avg300=0.00 total=0\n"


class Groups:
    """Cgroups of plain files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        (root / "cgroup.controllers").write_text("memory\n")
        (root / "cgroup.procs").write_text("")

    def at(self, path: str) -> Path:
        return self.root / path.strip("/")

    def make(self, path: str, current: int = 0, limit: int | None = None, procs: tuple[int, ...] = ()) -> None:
        directory = self.at(path)
        missing = [above for above in (directory, *directory.parents) if not above.exists()]
        for above in reversed(missing):
            above.mkdir()
            self._plant(above)
        self.set(path, "memory.current", str(current))
        self.set(path, "memory.stat", STAT.format(anon=current, file=0))
        self.set(path, "memory.max", "max" if limit is None else str(limit))
        self.set(path, "cgroup.procs", "".join(f"{pid}\n" for pid in procs))

    def _plant(self, directory: Path) -> None:
        for name, text in {
            "cgroup.procs": "",
            "cgroup.events": "populated 1\nfrozen 0\n",
            "memory.current": "0\n",
            "memory.stat": STAT.format(anon=0, file=0),
            "memory.events": EVENTS.format(high=0, kills=0),
            "memory.max": "max\n",
            "memory.high": "max\n",
            "memory.swap.current": "0\n",
            "memory.swap.max": "max\n",
            "memory.oom.group": "0\n",
            "memory.pressure": PRESSURE.format(0),
        }.items():
            (directory / name).write_text(text)

    def set(self, path: str, name: str, text: str) -> None:
        """In place, since the file is kept open, and in one write: who is told of it may read at once."""
        with open(self.at(path) / name, "rb+", buffering=0) as file:
            file.write((text.rstrip("\n") + "\n").ljust(os.fstat(file.fileno()).st_size, "\n").encode())

    def remove(self, path: str) -> None:
        """Kept files say nothing afterwards, as the kernel's answer ENODEV."""
        for file in self.at(path).rglob("*"):
            if file.is_file():
                os.truncate(file, 0)
        shutil.rmtree(self.at(path))


def guard(name: str, cgroup: str, *hard: Condition, rule: VictimRule | None = None) -> Guard:
    when = Watermark((Clause(hard or (MemoryAbove(Amount(share=0.9)),)),), (KillStep(),))
    return Guard(name, cgroup, hard=when, victim=rule or VictimRule())


class Rig:
    """Senses over a made-up machine, and a judge who looks again when he is told to."""

    def __init__(self, world: World, root: str | None, *guards: Guard, **daemon: Any) -> None:
        self.world = world
        self.plan = Plan("test", Daemon(proc=str(world.proc), cgroup=root or "/nowhere", **daemon), guards)
        self.said: list[tuple[str, str]] = []
        self.senses = Senses(self.plan, root, lambda what, why: self.said.append((what, why)))
        self.state = State(host=self.senses.host)
        self.senses.aim(self.plan)

    def due(self, *names: str) -> None:
        """These guards' targets are to be looked at now, all others never."""
        self.state = replace(
            self.state,
            targets={
                target: TargetState(target, look_ns=0 if target.guard in names else NEVER)
                for target in self.senses.targets
            },
        )

    def turn(self, *names: str, until_ns: int = 0) -> Observation:
        self.due(*names)
        return self.senses.observe(self.state, until_ns)

    def survey(self, target: TargetId, depth: str = "heaviest") -> Survey:
        self.senses.ask(target, depth)  # type: ignore[arg-type]
        (survey,) = self.turn().surveys
        return survey

    def wait(self, true: Callable[[Observation], object]) -> Observation:
        """Turns until one of them is it."""
        end = time.monotonic() + PATIENCE_S
        while True:
            seen = self.turn(until_ns=time.monotonic_ns() + 20_000_000)
            if true(seen):
                return seen
            assert time.monotonic() < end, "it was never seen"

    def close(self) -> None:
        senses = self.senses
        senses.aim(replace(self.plan, guards=()))
        senses.limits.close()
        for fd in (senses.signal_fd, senses.proc_fd, senses.meminfo.fd, senses.vmstat.fd):
            os.close(fd)
        if senses.pressure_file is not None:
            senses.pressure_file.close()
        senses.epoll.close()


Start = Callable[..., Rig]


@pytest.fixture
def start(world: World, no_leak: None) -> Iterator[Start]:
    """Rigs; what they opened must be closed when their guards are gone."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    made: list[Rig] = []

    def begin(root: object, *guards: Guard, **daemon: Any) -> Rig:
        made.append(Rig(world, None if root is None else str(root), *guards, **daemon))
        return made[-1]

    yield begin
    for rig in made:
        rig.close()
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@pytest.fixture
def groups(tmp_path: Path) -> Groups:
    return Groups(tmp_path / "cgroup")


class Reads:
    """Which files are read, by name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        group, host = Cgroup._read, procfs.MemInfoFile.read

        def read(one: Cgroup, name: str) -> bytes | None:
            self.names.append(f"{one.path} {name}")
            return group(one, name)

        def meminfo(one: procfs.MemInfoFile) -> object:
            self.names.append("meminfo")
            return host(one)

        monkeypatch.setattr(Cgroup, "_read", read)
        monkeypatch.setattr(procfs.MemInfoFile, "read", meminfo)

    def take(self) -> list[str]:
        names, self.names = self.names, []
        return names


# ---------------------------------------------------------------------------------------------------- what is read when


def test_the_first_turn_tells_who_is_there(start: Start, groups: Groups) -> None:
    groups.make("/web-1", 5 * MIB, 100 * MIB)
    groups.make("/web-2", 6 * MIB)
    rig = start(groups.root, guard("host", "/", AvailableBelow(Amount(share=0.1))), guard("web", "/web-*"))
    seen = rig.turn()
    assert {new.target for new in seen.appeared} == {
        TargetId("host", "/"),
        TargetId("web", "/web-1"),
        TargetId("web", "/web-2"),
    }
    facts = {new.target.cgroup: new.facts for new in seen.appeared}
    assert facts["/"] is None
    assert facts["/web-1"] is not None
    assert (facts["/web-1"].limit_bytes, facts["/web-1"].limit_path) == (100 * MIB, "/web-1")
    assert facts["/web-1"].inode == os.stat(groups.at("/web-1")).st_ino
    assert seen.host is not None
    assert rig.turn().appeared == ()


def test_who_is_not_due_is_not_read(start: Start, groups: Groups, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        groups.make(f"/{name}", 5 * MIB, 100 * MIB)
    rig = start(groups.root, guard("host", "/", AvailableBelow(Amount(share=0.1))), guard("a", "/a"), guard("b", "/b"))
    rig.turn("a", "b", "host")
    reads = Reads(monkeypatch)
    assert rig.turn().cgroups == ()
    assert reads.take() == []
    seen = rig.turn("a")
    assert [facts.path for facts in seen.cgroups] == ["/a"]
    assert seen.host is None
    assert not any("/b" in name or name == "meminfo" for name in reads.take())
    seen = rig.turn("host")
    assert seen.host is not None
    assert reads.take() == ["meminfo"]


def test_memory_stat_is_read_near_the_line_only(start: Start, groups: Groups, monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs milliseconds, and memory.current is an upper bound. 80 % of the lowest line, 90 MiB, are 72."""
    groups.make("/web", 5 * MIB, 100 * MIB)
    rig = start(groups.root, guard("web", "/web"))
    rig.turn("web")
    reads = Reads(monkeypatch)
    for current, near in ((5, False), (71, False), (72, True), (99, True), (10, False)):
        groups.set("/web", "memory.current", str(current * MIB))
        (facts,) = rig.turn("web").cgroups
        assert facts.current_bytes == current * MIB
        assert (facts.stat is not None) is near
        assert ("/web memory.stat" in reads.take()) is near


def test_pressure_is_read_for_those_who_mind_it(start: Start, groups: Groups) -> None:
    groups.make("/a")
    groups.set("/a", "memory.pressure", PRESSURE.format(12.5))
    condition = PressureAbove("some", 0.2, "10s")
    rig = start(groups.root, guard("plain", "/a"))
    (facts,) = rig.turn("plain").cgroups
    assert facts.pressure is None
    # A guard that comes later on the same cgroup: it is read for both then.
    rig.senses.aim(replace(rig.plan, guards=(*rig.plan.guards, guard("minds", "/a", condition))), frozenset({"plain"}))
    (facts,) = rig.turn("plain", "minds").cgroups
    assert facts.pressure is not None
    assert facts.pressure.some.avg10 == 12.5
    rig.senses.aim(rig.plan, frozenset({"plain"}))
    (facts,) = rig.turn("plain").cgroups
    assert facts.pressure is None


def test_what_few_policies_ask_for_is_read_for_them_alone(
    start: Start, groups: Groups, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups.make("/a", 5 * MIB, 100 * MIB)
    groups.set("/a", "memory.stat", STAT.format(anon=5 * MIB, file=0) + "workingset_refault_anon 1\n" + REFAULTS)
    wants: list[tuple[Condition, str]] = [
        (MemoryAbove(Amount(share=0.9)), ""),
        (ExhaustsWithin(3 * SECOND, 1), "memory.stat"),
        (GrowthAbove(Amount(bytes=1), 3 * SECOND, 2), "memory.stat"),
        (RefaultsAbove("any", Amount(bytes=1), 3 * SECOND, 3), "memory.stat"),
        (EventsAbove("max", 1, 3 * SECOND, 4), "memory.events"),
        (PressureRising("some", 0.2, "10s"), "memory.pressure"),
    ]
    reads = Reads(monkeypatch)
    for condition, name in wants:
        rig = start(groups.root, guard("a", "/a", condition))
        rig.turn("a")
        reads.take()
        (facts,) = rig.turn("a").cgroups
        dear = {f"/a memory.{name}" for name in ("stat", "events", "pressure")} & set(reads.take())
        assert dear == ({f"/a {name}"} if name else set()), condition
        assert (facts.refaults == Refaults(4096, 2 * 4096)) is isinstance(condition, RefaultsAbove)
        assert (facts.stat is not None) is isinstance(condition, ExhaustsWithin | GrowthAbove)
        assert rig.senses.zram is None


def test_the_machines_refaults_and_compressed_swap(start: Start, world: World, tmp_path: Path) -> None:
    (world.proc / "vmstat").write_text("nr_free_pages 1\nworkingset_refault_anon 3\n" + REFAULTS + "oom_kill 0\n")
    device = tmp_path / "sys/block/zram0"
    device.mkdir(parents=True)
    (device / "mm_stat").write_text("4096 100 8192 0 8192 0 0 0 0\n")
    (device / "disksize").write_text("65536\n")
    conditions = (RefaultsAbove("any", Amount(bytes=1), SECOND, 1), ZramAbove("disk", Amount(share=0.5)))
    rig = start(None, guard("plain", "/", AvailableBelow(Amount(share=0.1))))
    seen = rig.turn("plain")
    assert seen.refaults is None
    assert seen.compressed is None
    plan = replace(rig.plan, guards=(guard("minds", "/", *conditions),))
    rig.senses.aim(replace(plan, daemon=replace(plan.daemon, sys=str(tmp_path / "sys"))))
    seen = rig.turn("minds")
    assert seen.refaults == Refaults(3 * 4096, 2 * 4096)
    assert seen.compressed == Compressed(8192, 4096, 65536)


def test_a_guard_on_a_cgroup_may_mind_the_machine(start: Start, groups: Groups, world: World) -> None:
    """available_below on a service: "if the machine runs short, this one goes first"."""
    groups.make("/batch", 5 * MIB)
    groups.make("/other", 5 * MIB)
    rig = start(groups.root, guard("batch", "/batch", AvailableBelow(Amount(share=0.1))), guard("other", "/other"))
    rig.turn()
    world.available(33)
    seen = rig.turn("other")
    assert seen.host is None
    seen = rig.turn("batch")
    assert seen.host is not None
    assert seen.host.available_bytes == 33 * MIB


def test_limits_are_looked_up_again_now_and_then(start: Start, groups: Groups, monkeypatch: pytest.MonkeyPatch) -> None:
    groups.make("/web", 5 * MIB, 100 * MIB)
    rig = start(groups.root, guard("web", "/web"))
    rig.turn("web")
    with monkeypatch.context() as patched:
        patched.setattr(observe, "SETTLED_NS", 0)
        (groups.at("/web") / "memory.max").write_text(f"{50 * MIB}\n")
        (facts,) = rig.turn("web").cgroups
    assert facts.limit_bytes == 50 * MIB


def test_limits_on_the_way_up_are_listened_to_as_long_as_somebody_is_below(start: Start, groups: Groups) -> None:
    for path in ("/a/b/1", "/a/b/2", "/a/c"):
        groups.make(path, 5 * MIB)
    rig = start(groups.root, guard("all", "/a/b/*"), guard("twice", "/a/b/1"), guard("c", "/a/c"))
    rig.turn("all", "c")
    groups.set("/a/b", "memory.max", str(50 * MIB))
    limits = {facts.path: facts.limit_bytes for facts in rig.turn(until_ns=NEVER).cgroups}
    assert limits == {"/a/b/1": 50 * MIB, "/a/b/2": 50 * MIB}
    assert rig.senses.limited == {"/a": 3, "/a/b": 2, "/a/b/1": 1, "/a/b/2": 1, "/a/c": 1}
    rig.senses.aim(replace(rig.plan, guards=rig.plan.guards[1:2]), frozenset({"twice"}))
    assert rig.senses.limited == {"/a": 1, "/a/b": 1, "/a/b/1": 1}
    rig.senses.aim(replace(rig.plan, guards=()))
    assert rig.senses.limited == {}
    assert rig.senses.limits._paths == {}


def test_memory_high_is_the_owners_not_ours(start: Start, groups: Groups) -> None:
    groups.make("/web", 5 * MIB, 100 * MIB)
    groups.set("/web", "memory.high", str(90 * MIB))
    rig = start(groups.root)
    asked: list[tuple[str, int | None]] = []
    rig.senses.found_high = lambda path, _inode, now: asked.append((path, now)) or None  # type: ignore[func-returns-value]
    rig.senses.aim(replace(rig.plan, guards=(guard("web", "/web"),)))
    (new,) = rig.turn().appeared
    assert new.facts is not None
    assert new.facts.high_bytes is None
    assert set(asked) == {("/web", 90 * MIB)}, "what stands there, and nothing else, is what it is asked about"


@pytest.mark.parametrize(
    ("adj", "owners", "score", "seen"),
    [(1000, 0, 1340, 674), (1000, 200, 1340, 807), (300, 300, 900, 900), (0, 0, 668, 668)],
)
def test_a_score_is_the_owners_not_ours(start: Start, adj: int, owners: int, score: int, seen: int) -> None:
    """Ranked by the score that we have given it, a nominee would stay the first for ever."""
    rig = start(None)
    rig.senses.surveyor.found_score = lambda _pid, _start_ticks, now: owners if now == 1000 else now
    process = ProcessFacts(7, 70, 1, "leak", "/web", 0, "S", 0, 0, 0, score, adj)
    found = rig.senses.surveyor._uninsured(process)
    assert (found.oom_score_adj, found.oom_score) == (owners, seen)


# -------------------------------------------------------------------------------------------------------- come and gone


def test_cgroups_come_and_go(start: Start, groups: Groups) -> None:
    rig = start(groups.root, guard("web", "/web-*"))
    assert rig.turn().appeared == ()
    groups.make("/web-1", 5 * MIB)
    (new,) = rig.wait(lambda seen: seen.appeared).appeared
    assert new.target == TargetId("web", "/web-1")
    groups.remove("/web-1")
    seen = rig.wait(lambda seen: seen.vanished)
    assert seen.vanished == (TargetId("web", "/web-1"),)
    assert rig.senses.watches == {}


def test_a_changed_guard_stays_on_what_it_still_means(start: Start, groups: Groups) -> None:
    for name in ("/web-1", "/web-2", "/db"):
        groups.make(name, 5 * MIB)
    rig = start(groups.root, guard("web", "/web-*"), guard("host", "/"))
    assert len(rig.turn().appeared) == 3
    changed = (guard("web", "/web-1"), guard("host", "/", AvailableBelow(Amount(share=0.1))))
    rig.senses.aim(replace(rig.plan, guards=changed), changed=frozenset(("web", "host")))
    seen = rig.turn("web", "host")
    assert (seen.appeared, seen.vanished) == ((), (TargetId("web", "/web-2"),))
    assert rig.senses.targets == {TargetId("web", "/web-1"), TargetId("host", "/")}
    rig.senses.aim(replace(rig.plan, guards=(guard("web", "/"),)), changed=frozenset(("web",)))
    seen = rig.turn()
    assert set(seen.vanished) == {TargetId("web", "/web-1"), TargetId("host", "/")}
    assert [new.target for new in seen.appeared] == [TargetId("web", "/")]


def test_an_attribute_comes_changes_and_goes(start: Start, groups: Groups) -> None:
    """Whoever starts a job writes on its cgroup what it is, a moment after that was made."""
    groups.make("/job-1", 5 * MIB)
    groups.make("/job-2", 5 * MIB)
    batch = replace(guard("batch", "/job-*"), xattr="user.tier=batch*")
    rig = start(groups.root, batch, guard("all", "/job-*"))
    first, second = groups.root / "job-1", groups.root / "job-2"

    def guarded() -> set[tuple[str, str]]:
        rig.turn(until_ns=time.monotonic_ns() + 20_000_000)
        return {(target.guard, target.cgroup) for target in rig.senses.targets}

    everybody = {("all", "/job-1"), ("all", "/job-2")}
    assert guarded() == everybody
    os.setxattr(first, "user.tier", b"batch-7\n")
    until(lambda: guarded() == everybody | {("batch", "/job-1")})
    os.setxattr(first, "user.tier", b"web")
    os.setxattr(second, "user.tier", b"batch")
    until(lambda: guarded() == everybody | {("batch", "/job-2")})
    os.removexattr(second, "user.tier")
    until(lambda: guarded() == everybody)
    assert set(rig.senses.watches) == {"/job-1", "/job-2"}


def test_one_that_was_made_anew_is_gone_and_there(start: Start, groups: Groups) -> None:
    groups.make("/web", 5 * MIB)
    rig = start(groups.root, guard("web", "/web"), guard("more", "/w*"))
    first = {new.facts.inode for new in rig.turn().appeared if new.facts is not None}
    groups.remove("/web")
    groups.make("/aside")
    groups.make("/web", 7 * MIB)
    seen = rig.wait(lambda seen: seen.vanished)
    both = {TargetId("web", "/web"), TargetId("more", "/web")}
    assert set(seen.vanished) == both
    assert {new.target for new in seen.appeared} == both
    assert first.isdisjoint({new.facts.inode for new in seen.appeared if new.facts is not None})
    (facts,) = rig.turn("web", "more").cgroups
    assert facts.current_bytes == 7 * MIB


def test_one_that_vanishes_while_it_is_read(start: Start, groups: Groups, monkeypatch: pytest.MonkeyPatch) -> None:
    """At any of its files: no facts, and the tree tells the rest."""
    for name in ("memory.current", "memory.stat", "memory.swap.current", "memory.events"):
        groups.make("/web", 99 * MIB, 100 * MIB)
        rig = start(groups.root, guard("web", "/web"))
        rig.turn("web")
        rig.senses.watches["/web"].kills = -1
        read = Cgroup._read

        def vanish(group: Cgroup, wanted: str, name: str = name, read: object = read) -> bytes | None:
            if wanted == name and groups.at("/web").exists():
                groups.remove("/web")
            return read(group, wanted)  # type: ignore[operator, no-any-return]

        with monkeypatch.context() as patched:
            patched.setattr(Cgroup, "_read", vanish)
            rig.turn("web")
        seen = rig.wait(lambda seen: seen.vanished)
        assert seen.vanished == (TargetId("web", "/web"),)


def test_one_whose_memory_is_not_accounted_any_more(
    start: Start, groups: Groups, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The directory stays, its memory files answer ENODEV: it leaves, lest it be looked at in every turn for ever."""
    groups.make("/web", 5 * MIB)
    rig = start(groups.root, guard("web", "/web"))
    rig.turn("web")
    real = Cgroup.current
    with monkeypatch.context() as patched:
        patched.setattr(Cgroup, "current", lambda group: None if group.path == "/web" else real(group))
        assert rig.turn("web").cgroups == ()
        seen = rig.wait(lambda seen: seen.vanished)
        assert seen.vanished == (TargetId("web", "/web"),)
        assert rig.senses.targets == set()
        assert rig.senses.rescan_ns, "it is looked for again"
    (new,) = rig.wait(lambda seen: seen.appeared).appeared
    assert new.target.cgroup == "/web"


def test_one_that_gets_its_memory_controller_a_moment_later(start: Start, groups: Groups) -> None:
    """systemd makes the directory and enables the controller then, of which nobody is told."""
    rig = start(groups.root, guard("web", "/web"))
    rig.turn()
    groups.make("/web", 5 * MIB)
    (groups.at("/web") / "memory.current").rename(groups.root / "aside")
    first = rig.wait(lambda _: rig.senses.patience_ns > observe.SOON_NS)
    assert first.appeared == ()
    (groups.root / "aside").rename(groups.at("/web") / "memory.current")
    began = time.monotonic_ns()
    (new,) = rig.wait(lambda seen: seen.appeared).appeared
    assert new.target.cgroup == "/web"
    # It took no longer than it had waited in vain by then: far from the minute after which strangers are looked for.
    assert time.monotonic_ns() - began < 10 * SECOND
    assert rig.senses.patience_ns == observe.SOON_NS


def test_a_limit_that_is_set_while_it_is_adopted(start: Start, groups: Groups, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd sets it between our first look and the watch that would have told of it."""
    groups.make("/web", 5 * MIB)
    watch = Senses._watch_limits

    def just_before(senses: Senses, path: str) -> None:
        groups.set(path, "memory.max", str(64 * MIB))
        watch(senses, path)

    monkeypatch.setattr(Senses, "_watch_limits", just_before)
    rig = start(groups.root, guard("web", "/web"))
    (new,) = rig.turn().appeared
    assert new.facts is not None
    assert new.facts.limit_bytes == 64 * MIB


def test_a_storm_of_new_cgroups_is_looked_through_at_a_bounded_rate(
    start: Start, groups: Groups, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observe, "COMING_NS", NEVER)
    rig = start(groups.root, guard("all", "/**"))
    looks: list[int] = []
    look = rig.senses._look_through
    monkeypatch.setattr(rig.senses, "_look_through", lambda: looks.append(time.monotonic_ns()) or look())
    for number in range(200):
        groups.make(f"/{number}")
        rig.turn(until_ns=time.monotonic_ns() + 2_000_000)
    rig.wait(lambda _seen: len(rig.senses.targets) == 200)
    assert len(looks) > 1
    assert all(later - earlier >= 90_000_000 for earlier, later in itertools.pairwise(looks))


def test_many_that_come_do_so_in_many_turns(start: Start, groups: Groups, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is watched already is not left alone meanwhile; one at least comes in each. Between them it sleeps: the
    kernel ends a real-time process that has not for ten seconds, and a thousand may take so long."""
    monkeypatch.setattr(observe, "COMING_NS", 0)
    rig = start(groups.root, guard("all", "/*"))
    for number in range(10):
        groups.make(f"/{number}", 5 * MIB)
    came: list[int] = []
    ends: list[int] = []

    def all_there(seen: Observation) -> bool:
        came.append(len(seen.appeared))
        if seen.appeared:
            assert rig.senses.rescan_ns == 0 or rig.senses.rescan_ns > seen.at_ns + observe.COMING_PAUSE_NS
            ends.append(seen.at_ns)
        return len(rig.senses.targets) == 10

    rig.wait(all_there)
    assert max(came) == 1
    assert sum(came) == 10
    assert all(later - earlier > observe.COMING_PAUSE_NS for earlier, later in itertools.pairwise(ends))


def test_where_not_all_can_be_watched_events_still_count(
    start: Start, groups: Groups, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The looks in between are in addition, not instead."""
    monkeypatch.setattr("oomguard.core.trees.WATCHES", 1)
    monkeypatch.setattr(observe, "UNWATCHED_NS", (3600 * SECOND, 3600 * SECOND))
    groups.make("/a")
    groups.make("/b")
    rig = start(groups.root, guard("all", "/**"))
    rig.turn()
    assert rig.senses.rescan_ns > time.monotonic_ns() + 3000 * SECOND
    groups.make("/c")  # in the root, which is watched
    (new,) = rig.wait(lambda seen: seen.appeared).appeared
    assert new.target.cgroup == "/c"


# --------------------------------------------------------------------------------------------------------------- events


class Bells:
    """memory.events that can be polled: a socket's urgent data is the one thing besides kernfs that says EPOLLPRI."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pairs: dict[str, tuple[socket.socket, socket.socket]] = {}
        events = Cgroup.events

        def events_fd(group: Cgroup) -> int:
            self.hear(group.path)
            return self.pairs[group.path][0].fileno()

        def read(group: Cgroup) -> object:
            self.hear(group.path)
            return events(group)

        monkeypatch.setattr(Cgroup, "events_fd", events_fd)
        monkeypatch.setattr(Cgroup, "events", read)

    def hear(self, path: str) -> None:
        if path not in self.pairs:
            self.pairs[path] = socket.socketpair()
            self.pairs[path][0].setblocking(False)
        try:
            self.pairs[path][0].recv(1, socket.MSG_OOB)
        except OSError:
            pass

    def ring(self, path: str) -> None:
        self.pairs[path][1].send(b"!", socket.MSG_OOB)

    def close(self) -> None:
        for pair in self.pairs.values():
            for one in pair:
                one.close()


@pytest.fixture
def bells(monkeypatch: pytest.MonkeyPatch, no_leak: None) -> Iterator[Bells]:
    made = Bells(monkeypatch)
    yield made
    made.close()


def test_events_wake_and_bring_their_cgroup(bells: Bells, start: Start, groups: Groups) -> None:
    groups.make("/a", 5 * MIB)
    groups.make("/b", 6 * MIB)
    rig = start(groups.root, guard("a", "/a"), guard("b", "/b"))
    rig.turn("a", "b")
    bells.ring("/b")
    seen = rig.turn(until_ns=NEVER)
    assert [facts.path for facts in seen.cgroups] == ["/b"]
    assert [(wake.source, wake.path) for wake in seen.wakes] == [("events", "/b")]
    assert seen.cgroups[0].events is not None
    assert rig.senses.epoll.poll(0) == [], "reading takes it back"


def test_muted_events_do_not_wake_until_their_time(bells: Bells, start: Start, groups: Groups) -> None:
    groups.make("/a", 5 * MIB)
    groups.make("/b", 6 * MIB)
    rig = start(groups.root, guard("a", "/a"), guard("b", "/b"))
    rig.turn("a", "b")
    until_ns = time.monotonic_ns() + 200_000_000
    rig.senses.mute(TargetId("a", "/a"), until_ns)
    rig.senses.mute(TargetId("x", "/nowhere"), until_ns)
    bells.ring("/a")
    assert rig.senses.epoll.poll(0) == []
    seen = rig.turn(until_ns=until_ns + 50_000_000)
    assert seen.at_ns >= until_ns + 50_000_000, "to listen again is no reason for a turn"
    assert seen.cgroups == (), "what came while nobody listened is over"
    bells.ring("/a")
    seen = rig.turn(until_ns=NEVER)
    assert [facts.path for facts in seen.cgroups] == ["/a"]
    assert rig.senses.muted == {}


def test_a_muted_cgroup_may_vanish(bells: Bells, start: Start, groups: Groups) -> None:
    groups.make("/a", 5 * MIB)
    rig = start(groups.root, guard("a", "/a"))
    rig.turn("a")
    rig.senses.mute(TargetId("a", "/a"), time.monotonic_ns() + 50_000_000)
    groups.remove("/a")
    rig.wait(lambda seen: seen.vanished)
    assert rig.senses.muted == {}
    rig.turn(until_ns=time.monotonic_ns() + 100_000_000)


def test_what_speaks_for_ever_does_not_spin(bells: Bells, start: Start, groups: Groups) -> None:
    """A handler that takes nothing back: at most a thousand turns a second, and each of them sleeps."""
    rig = start(groups.root)
    receive, send = socket.socketpair()
    rig.senses.listen(receive.fileno(), select.EPOLLIN, lambda _mask: None)
    send.send(b"x")
    rig.turn()
    times = [rig.turn(until_ns=NEVER).at_ns for _ in range(100)]
    assert all(later - earlier >= observe.TURN_NS for earlier, later in itertools.pairwise(times))
    rig.senses.ignore(receive.fileno())
    for one in (receive, send):
        one.close()


def test_a_glance_does_not_put_off_the_tree(start: Start, groups: Groups, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine is due and has plenty, and a cgroup has come: it is looked at when that is due, not spun for."""
    rig = start(groups.root, host(), guard("web", "/web"))
    rig.turn("host")
    rig.senses.deadlines.free_ram = lambda: 1 << 40
    target, now = TargetId("host", "/"), time.monotonic_ns()
    rig.state = State(host=rig.senses.host, targets={target: TargetState(target, look_ns=now, glance_bytes=1)})
    groups.make("/web")
    rig.senses.rescan_ns = time.monotonic_ns() + 50_000_000
    rig.senses.forest.changed()  # type: ignore[union-attr]
    counting = Counting(rig.senses.epoll)
    monkeypatch.setattr(rig.senses, "epoll", counting)
    seen = rig.senses.observe(rig.state, NEVER)
    assert [new.target.cgroup for new in seen.appeared] == ["/web"]
    assert 1 < counting.polls < 5


def test_while_memory_stands_still_less_is_kept(start: Start, groups: Groups, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = start(groups.root, host())
    rig.turn("host")
    moved = rig.senses.host.total_bytes // observe.MOVED_SHARE
    target = TargetId("host", "/")
    state = TargetState(target, look_ns=time.monotonic_ns() + 300 * observe.SECOND, glance_bytes=1)
    rig.state = State(host=rig.senses.host, targets={target: state})
    monkeypatch.setattr(observe, "KEEP_NS", 1)
    told: list[int] = []

    def kept(*free_bytes: int) -> int:
        """After how many looks at what is free."""
        told[:] = free_bytes
        rig.senses.deadlines.free_ram = lambda: told.pop(0)
        rig.senses.deadlines.forget()
        rig.senses.observe(rig.state, NEVER)
        assert rig.senses.glanced
        return len(free_bytes) - len(told)

    free = 2 * moved  # the first look of each tells whether deadlines can be put off
    assert kept(free, free, 0) == 2
    less = free - moved - 1
    assert kept(free, free, free + moved, free - moved, less, less, 0) == 6, "and once more, for it has woken"
    monkeypatch.setattr(observe, "STILL_NS", 1)
    assert kept(free - moved, free - moved, 0) == 2, "but now and then all the same"


class Counting:
    """An epoll that knows how often it was asked."""

    def __init__(self, epoll: select.epoll) -> None:
        self.epoll, self.polls = epoll, 0

    def poll(self, timeout: float, most: int) -> list[tuple[int, int]]:
        self.polls += 1
        return self.epoll.poll(timeout, most)

    def __getattr__(self, name: str) -> object:
        return getattr(self.epoll, name)


def test_ignored_twice_and_closed_before(start: Start, groups: Groups) -> None:
    rig = start(groups.root)
    read, write = os.pipe()
    rig.senses.listen(read, select.EPOLLIN, lambda _mask: None)
    os.close(read)
    rig.senses.ignore(read)
    rig.senses.ignore(read)
    os.close(write)
    with pytest.raises(OSError, match="Bad file"):
        rig.senses.listen(read, select.EPOLLIN, lambda _mask: None)
    assert read not in rig.senses.handlers, "a handler without its descriptor would be another one's"


# --------------------------------------------------------------------------------------------------------- kernel kills


def kills(seen: Observation) -> dict[str, int]:
    return {kill.cgroup: kill.count for kill in seen.kernel_kills}


def test_a_kernel_kill_is_told_of_the_innermost_target_once(
    bells: Bells, start: Start, groups: Groups, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The count is hierarchical, every ancestor speaks, and the machine counts it as well."""
    monkeypatch.setattr(ledger, "LEDGER_NS", 0)
    for path in ("/a", "/a/b", "/a/b/c", "/other"):
        groups.make(path, 5 * MIB)
    rig = start(groups.root, guard("all", "/**"), guard("twice", "/a/b"))
    rig.turn("all", "twice")
    for path in ("/a", "/a/b", "/a/b/c"):
        groups.set(path, "memory.events", EVENTS.format(high=0, kills=2))
    world.kernel_kills(2)
    bells.ring("/a")  # the others come later: at most one event in 10 ms
    seen = rig.turn(until_ns=NEVER)
    assert kills(seen) == {"/a/b/c": 2}
    for path in ("/a/b", "/a/b/c"):
        bells.ring(path)
    assert kills(rig.turn(until_ns=NEVER)) == {}
    assert kills(rig.turn("all")) == {}
    groups.set("/a", "memory.events", EVENTS.format(high=0, kills=3))  # in /a/x, which nobody watches
    world.kernel_kills(4)  # and another one, in no target at all
    bells.ring("/a")
    assert kills(rig.turn(until_ns=NEVER)) == {"/a": 1, "/": 1}
    assert kills(rig.turn("all")) == {}


def test_the_machines_count_does_not_tell_again_what_nobody_heard(
    start: Start, groups: Groups, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target is muted: its kill is found when the machine's count has moved, and told of the target."""
    monkeypatch.setattr(ledger, "LEDGER_NS", 0)
    groups.make("/a", 5 * MIB)
    rig = start(groups.root, guard("a", "/a"))
    rig.turn("a")
    groups.set("/a", "memory.events", EVENTS.format(high=9, kills=1))
    world.kernel_kills(1)
    assert kills(rig.turn()) == {"/a": 1}
    assert kills(rig.turn("a")) == {}
    world.kernel_kills(3)
    assert rig.turn().kernel_kills == (KernelKill("/", 2),)
    assert kills(rig.turn()) == {}


def test_a_kill_of_the_kernels_is_told_though_all_is_calm_and_nobody_has_a_turn(
    start: Start, groups: Groups, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a cgroup that nobody guards, on a machine with plenty of memory: the next turn may be minutes away."""
    monkeypatch.setattr(ledger, "LEDGER_NS", 0)
    monkeypatch.setattr(observe, "STILL_NS", 1)
    rig = start(groups.root, host())
    rig.turn("host")
    rig.senses.deadlines.free_ram = lambda: 1 << 40
    target = TargetId("host", "/")
    state = TargetState(target, look_ns=time.monotonic_ns() + 2 * observe.SECOND, glance_bytes=1)
    rig.state = State(host=rig.senses.host, targets={target: state})
    assert rig.senses.observe(rig.state, NEVER).kernel_kills == ()
    assert rig.senses.glanced
    world.kernel_kills(2)
    seen = rig.senses.observe(rig.state, NEVER)
    assert (rig.senses.glanced, seen.kernel_kills, seen.host is None) == (False, (KernelKill("/", 2),), False)
    assert rig.senses.observe(rig.state, NEVER).kernel_kills == ()
    assert rig.senses.glanced, "told once"


def test_where_the_machine_does_not_count_its_cgroups_tell(
    bells: Bells, start: Start, groups: Groups, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before 4.13 there is no oom_kill in vmstat."""
    monkeypatch.setattr(ledger, "LEDGER_NS", 0)
    (world.proc / "vmstat").write_text("nr_free_pages 1\n")
    groups.make("/a", 5 * MIB)
    rig = start(groups.root, guard("a", "/a"))
    rig.turn("a")
    groups.set("/a", "memory.events", EVENTS.format(high=0, kills=2))
    bells.ring("/a")
    assert kills(rig.turn(until_ns=NEVER)) == {"/a": 2}
    assert kills(rig.turn("a")) == {}


def test_kills_before_us_are_not_told(start: Start, groups: Groups, world: World) -> None:
    groups.make("/a", 5 * MIB)
    groups.set("/a", "memory.events", EVENTS.format(high=0, kills=7))
    world.kernel_kills(9)
    rig = start(groups.root, guard("a", "/a"))
    for _ in range(3):
        assert kills(rig.turn("a")) == {}


# ---------------------------------------------------------------------------------------------- what cannot be read now

ERRORS = [errno.EIO, errno.ENOMEM, errno.EMFILE, errno.EACCES]


@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("name", ["memory.current", "memory.stat", "memory.events", "memory.swap.current"])
def test_a_broken_file_ends_nobody(
    start: Start, groups: Groups, monkeypatch: pytest.MonkeyPatch, name: str, number: int
) -> None:
    """What was known before stands, so that cache is not taken for use; and it is said."""
    groups.make("/web", 99 * MIB, 100 * MIB)
    groups.set("/web", "memory.stat", STAT.format(anon=0, file=98 * MIB))
    rig = start(groups.root, guard("web", "/web"))
    (before,) = rig.turn("web").cgroups
    assert before.stat is not None
    read = Cgroup._read

    def broken(group: Cgroup, wanted: str) -> bytes | None:
        if wanted == name:
            raise OSError(number, os.strerror(number), group.where(wanted))
        return read(group, wanted)

    with monkeypatch.context() as patched:
        patched.setattr(Cgroup, "_read", broken)
        rig.senses.watches["/web"].kills = -1
        rig.senses.watches["/web"].settled_ns = 0
        (facts,) = rig.turn("web").cgroups
        assert facts.unreclaimable_bytes == before.unreclaimable_bytes
        assert facts.limit_bytes == 100 * MIB
        assert rig.said
        assert name in rig.said[-1][1]
    groups.set("/web", "memory.current", str(50 * MIB))
    (facts,) = rig.turn("web").cgroups
    assert facts.current_bytes == 50 * MIB


@pytest.mark.parametrize("number", [*ERRORS, errno.EBADMSG], ids=errno.errorcode.get)
def test_a_machine_that_cannot_be_read_ends_nobody(
    start: Start, world: World, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    rig = start(None, guard("host", "/", AvailableBelow(Amount(share=0.1)), PressureAbove("some", 0.5, "10s")))
    before = rig.turn("host").host
    monkeypatch.setattr(ledger, "LEDGER_NS", 0)

    def broken(*_: object) -> None:
        raise OSError(number, os.strerror(number), "/proc/something")

    with monkeypatch.context() as patched:
        patched.setattr(procfs.MemInfoFile, "read", broken)
        patched.setattr(procfs.VmStatFile, "oom_kill", broken)
        patched.setattr(psi.PressureFile, "read", broken)
        seen = rig.turn("host")
    assert seen.host == before, "so that the pace is kept"
    assert seen.pressure is None
    assert rig.said
    world.available(77)
    again = rig.turn("host").host
    assert again is not None
    assert again.available_bytes == 77 * MIB


@pytest.mark.parametrize("depth", ["heaviest", "whole"])
@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.get)
def test_a_survey_brings_what_can_be_read(
    start: Start, groups: Groups, world: World, monkeypatch: pytest.MonkeyPatch, number: int, depth: str
) -> None:
    """One cgroup in three cannot be opened, one process in two cannot be read."""
    for name in ("a", "b", "c"):
        groups.make(f"/{name}.service", 50 * MIB, procs=(os.getpid(),))
    world.see(os.getpid())
    rig = start(groups.root, guard("host", "/", AvailableBelow(Amount(share=0.1))))
    rig.turn("host")
    opened, read = Cgroup.open.__func__, procfs.read_process  # type: ignore[attr-defined]
    calls: list[int] = []

    def some(root: str, path: str) -> object:
        if path == "/b.service":
            raise OSError(number, os.strerror(number), path)
        return opened(Cgroup, root, path)

    def half(*arguments: object, **more: object) -> object:
        calls.append(1)
        if len(calls) % 2:
            raise OSError(number, os.strerror(number), "/proc/1")
        return read(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Cgroup, "open", some)
    monkeypatch.setattr(procfs, "read_process", half)
    survey = rig.survey(TargetId("host", "/"), depth)
    assert {facts.path for facts in survey.cgroups} == {"/a.service", "/c.service"}
    assert [process.pid for process in survey.processes] == [os.getpid()]


@pytest.mark.parametrize("number", ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("name", ["scandir", "stat"])
def test_a_tree_that_cannot_be_looked_at_has_not_vanished(
    start: Start, groups: Groups, monkeypatch: pytest.MonkeyPatch, number: int, name: str
) -> None:
    """Out of descriptors, a look finds nothing: that is not the end of all that was there."""
    groups.make("/a/b", 5 * MIB)
    rig = start(groups.root, guard("all", "/*/*"), guard("one", "/a"))
    rig.turn("all", "one")
    groups.make("/c/d")

    def refuse(path: object, **_: object) -> object:
        raise OSError(number, os.strerror(number), path)

    with monkeypatch.context() as patched:
        patched.setattr(os, name, refuse)
        rig.senses._look_through()
    assert 0 < rig.senses.rescan_ns <= time.monotonic_ns() + SECOND, "and it is looked at again"
    assert "reading" in dict(rig.said)
    seen = rig.wait(lambda seen: seen.appeared or seen.vanished)
    assert seen.vanished == ()
    (new,) = seen.appeared
    assert new.target.cgroup == "/c/d"


def test_descriptors_are_left_for_the_kill(start: Start, groups: Groups, monkeypatch: pytest.MonkeyPatch) -> None:
    """More cgroups than can be kept open: the first are watched, and it is said."""
    for number in range(10):
        groups.make(f"/{number}")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    monkeypatch.setattr(observe, "DESCRIPTORS", limit // 4)
    rig = start(groups.root, guard("all", "/*"))
    assert len(rig.turn().appeared) == 4
    assert [what for what, _ in rig.said].count("cgroups") >= 1
    monkeypatch.setattr(observe, "DESCRIPTORS", 12)
    groups.make("/more")
    rig.wait(lambda _seen: len(rig.senses.watches) == 11)


def test_an_instance_limit_of_inotify_is_no_end(start: Start, groups: Groups, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there is guarded, and what comes is looked for."""
    groups.make("/web", 5 * MIB)

    def refuse() -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "inotify_init1")

    monkeypatch.setattr("oomguard.linux.libc.inotify_init", refuse)
    monkeypatch.setattr(observe, "UNWATCHED_NS", (10**7, 10**7))
    rig = start(groups.root, guard("web", "/web*"))
    assert {"cgroups", "limits"} <= {what for what, _ in rig.said}
    assert [new.target.cgroup for new in rig.turn().appeared] == ["/web"]
    groups.make("/web-2", 5 * MIB)
    (new,) = rig.wait(lambda seen: seen.appeared).appeared
    assert new.target.cgroup == "/web-2"


# -------------------------------------------------------------------------------------------------------------- surveys


def process(world: World, pid: int, cgroup: str, rss_mib: int, comm: str = "worker", kernel: bool = False) -> None:
    """A process of files."""
    directory = world.proc / str(pid)
    directory.mkdir()
    flags = procfs.PF_KTHREAD if kernel else 4194304
    zeros = " ".join(["0"] * 12)
    (directory / "stat").write_text(f"{pid} ({comm}) S 1 1 1 0 -1 {flags} {zeros} {1000 + pid} 0 0\n")
    memory = f"RssAnon:\t{rss_mib << 10} kB\nRssFile:\t0 kB\nRssShmem:\t0 kB\nVmSwap:\t0 kB\n"
    (directory / "status").write_text(f"Name:\t{comm}\nUid:\t0\t0\t0\t0\n{memory}Threads:\t1\n")
    (directory / "oom_score_adj").write_text("0\n")
    (directory / "oom_score").write_text(f"{rss_mib}\n")
    (directory / "cgroup").write_text(f"0::{cgroup}\n")


HOST = TargetId("host", "/")


def host(**rule: str) -> Guard:
    return guard("host", "/", AvailableBelow(Amount(share=0.1)), rule=VictimRule(**rule))  # type: ignore[arg-type]


def test_the_heaviest_units_and_all(start: Start, groups: Groups, world: World) -> None:
    sizes = {"a": 300, "b": 200, "c": 100, "d": 50, "e": 3}
    for number, (name, size) in enumerate(sizes.items()):
        groups.make("/system.slice", sum(sizes.values()) * MIB)
        groups.make(f"/system.slice/{name}.service", size * MIB, procs=(100 + number,))
        process(world, 100 + number, f"/system.slice/{name}.service", size)
    rig = start(groups.root, host())
    survey = rig.survey(HOST)
    assert survey.depth == "heaviest"
    assert survey.took_ns > 0
    assert {p.pid for p in survey.processes} == {100, 101, 102}
    assert {f.path.rpartition("/")[2] for f in survey.cgroups} >= {"a.service", "b.service", "c.service"}
    whole = rig.survey(HOST, "whole")
    assert {p.pid for p in whole.processes} == {100, 101, 102, 103, 104}


def test_who_lives_deep_inside_of_a_heavy_unit_is_seen_however_little_he_holds(
    start: Start, groups: Groups, world: World
) -> None:
    """Taken whole, it would take him as well, and whoever is not seen cannot be spared."""
    groups.make("/a.service", 300 * MIB)
    groups.make("/a.service/work", 299 * MIB, procs=(100,))
    groups.make("/a.service/small", MIB // 2)
    groups.make("/a.service/small/deep", MIB // 2, procs=(101,))
    for pid, place in ((100, "work"), (101, "small/deep")):
        process(world, pid, f"/a.service/{place}", 1)
    survey = start(groups.root, host()).survey(HOST)
    assert {(p.pid, p.cgroup) for p in survey.processes} == {(100, "/a.service/work"), (101, "/a.service/small/deep")}


def test_cache_does_not_make_a_unit_heavy(start: Start, groups: Groups, world: World) -> None:
    for number, name in enumerate(("reader", "a", "b", "c")):
        groups.make(f"/{name}.service", 200 * MIB - number, procs=(100 + number,))
        process(world, 100 + number, f"/{name}.service", 100)
    groups.set("/reader.service", "memory.stat", STAT.format(anon=MIB, file=199 * MIB))
    survey = start(groups.root, host()).survey(HOST)
    assert {p.pid for p in survey.processes} == {101, 102, 103}


def test_by_oom_score_all_are_asked_for_theirs(start: Start, groups: Groups, world: World) -> None:
    for number, size in enumerate((300, 200, 100, 50)):
        groups.make(f"/{number}.service", size * MIB, procs=(100 + number,))
        process(world, 100 + number, f"/{number}.service", size)
    survey = start(groups.root, host(by="oom_score")).survey(HOST)
    assert {p.pid: p.oom_score for p in survey.processes} == {100: 300, 101: 200, 102: 100, 103: 50}


def test_kernel_threads_are_left_out(start: Start, groups: Groups, world: World) -> None:
    process(world, 2, "/", 0, "kthreadd", kernel=True)
    process(world, 50, "/", 10)
    (groups.root / "cgroup.procs").write_text("2\n50\n")
    groups.make("/a.service", 50 * MIB)
    assert {p.pid for p in start(groups.root, host()).survey(HOST, "whole").processes} == {50}
    assert {p.pid for p in start(None, host()).survey(HOST).processes} == {50}


def test_what_its_owner_wants_killed_as_a_whole_is_told(start: Start, groups: Groups, world: World) -> None:
    """memory.oom.group of the unit, and of the cgroups above it up to the guard's own."""
    groups.make("/pods.slice", 300 * MIB)
    groups.make("/pods.slice/pod", 300 * MIB)
    groups.make("/pods.slice/pod/web.service", 300 * MIB, procs=(100,))
    process(world, 100, "/pods.slice/pod/web.service", 300)
    groups.set("/pods.slice/pod", "memory.oom.group", "1")
    survey = start(groups.root, host()).survey(HOST)
    assert {f.path for f in survey.cgroups if f.oom_group} == {"/pods.slice/pod"}


def test_what_is_asked_for_inside_of_a_unit_is_told(start: Start, groups: Groups, world: World) -> None:
    """Of a cgroup that a service has made for itself, and of one between; of the silent ones nothing is read."""
    paths = ["/web.service", *(f"/web.service/{inner}" for inner in ("a", "a/b", "c"))]
    for number, path in enumerate(paths):
        groups.make(path, 300 * MIB, procs=(100 + number,))
        process(world, 100 + number, path, 70)
    os.setxattr(groups.root / "web.service/a", "user.oomd_avoid", b"1")
    survey = start(groups.root, host()).survey(HOST)
    assert {f.path: f.preference for f in survey.cgroups} == {"/web.service": "", "/web.service/a": "avoid"}


def test_below_a_guard_only(start: Start, groups: Groups, world: World) -> None:
    groups.make("/a", 300 * MIB, procs=(100,))
    groups.make("/a/sub", 200 * MIB, procs=(101,))
    groups.make("/ab", 400 * MIB, procs=(102,))
    for pid, path in ((100, "/a"), (101, "/a/sub"), (102, "/ab")):
        process(world, pid, path, 100)
    rig = start(groups.root, guard("a", "/a"))
    assert {p.pid for p in rig.survey(TargetId("a", "/a"), "whole").processes} == {100, 101}


def test_a_survey_of_what_is_gone_is_empty(start: Start, groups: Groups) -> None:
    rig = start(groups.root, guard("a", "/a"))
    survey = rig.survey(TargetId("a", "/a"))
    assert (survey.cgroups, survey.processes) == ((), ())


def test_descriptors_do_not_grow_with_the_machine(start: Start, groups: Groups, world: World) -> None:
    """5,000 processes in 1,000 cgroups, surveyed whole, by a guard on each of them."""
    pid = 1000
    for number in range(1000):
        pids = tuple(range(pid, pid + 5))
        groups.make(f"/{number}.service", MIB, procs=pids)
        for one in pids:
            process(world, one, f"/{number}.service", 1)
        pid += 5
    rig = start(groups.root, host())
    rig.turn("host")
    before = len(os.listdir("/proc/self/fd"))
    for depth in ("heaviest", "whole", "whole"):
        survey = rig.survey(HOST, depth)
        assert len(os.listdir("/proc/self/fd")) == before
    assert len(survey.processes) == 5000
    rig.senses.aim(replace(rig.plan, guards=(guard("each", "/*.service"),)), at_once=True)
    for _ in range(20):
        assert len(rig.turn("each").cgroups) == deadlines.AT_ONCE
    assert len(os.listdir("/proc/self/fd")) - before <= 8 * 1000


# ----------------------------------------------------------------------------------------------------- the kernel's own


def stall(name: str, number: int, cgroup: str = "/") -> Guard:
    return guard(name, cgroup, StallAbove("some", 2_000, 2_000_000, number))


MOUNT = cgroup2_mount()
MEMORY = Path("/sys/fs/cgroup/memory")

# Reads a file of its own that does not fit into its limit, over and over: it faults, and waits for its pages.
THRASH = """
import mmap, os, sys
os.read(0, 1)
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
for _ in range(64):
    os.write(fd, bytes(1 << 20))
    os.fsync(fd)
view = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
while True:
    for at in range(0, len(view), 4096): view[at]
"""


# Grows over memory.high, where the kernel makes it wait.
GROW = """
import os
os.read(0, 1)
held = []
while True: held.append(bytes(1 << 20))
"""


@pytest.fixture
def stalled(tmp_path: Path) -> Iterator[Path]:
    """A cgroup (v2) whose processes really wait for memory: by memory.high, or by a limit of v1 where v2 has none."""
    if MOUNT is None:
        pytest.skip("no cgroup2 to make cgroups in; test_in_vm.py runs this in the virtual machine")
    group = MOUNT / f"oomguard-test-{os.getpid()}"
    limit = group
    if "memory" not in (MOUNT / "cgroup.controllers").read_text():
        limit = MEMORY / group.name
        limit.mkdir()
    group.mkdir()
    (limit / ("memory.high" if limit == group else "memory.limit_in_bytes")).write_text(str(16 * MIB))
    command = [sys.executable, "-I", "-S", "-c", GROW if limit == group else THRASH]
    thrasher = [subprocess.Popen([*command, f"{tmp_path}/{n}"], stdin=subprocess.PIPE) for n in range(2)]
    for one in thrasher:
        (limit / "cgroup.procs").write_text(str(one.pid))
        (group / "cgroup.procs").write_text(str(one.pid))
        assert one.stdin is not None
        one.stdin.close()
    yield group
    for one in thrasher:
        one.kill()
        one.wait()
    for made in {limit, group}:
        if made.exists():
            until(lambda made=made: not (made / "cgroup.procs").read_text())
            until(lambda made=made: _removed(made))


def _removed(path: Path) -> bool:
    try:
        path.rmdir()
    except OSError:
        return False
    return True


@pytest.mark.kernel
def test_real_stalls_of_the_machine_are_told(start: Start, stalled: Path) -> None:
    rig = start(None, stall("one", 7), stall("other", 8))
    told: set[Stalled] = set()
    rig.wait(lambda seen: told.update(seen.stalls) or len(told) == 2)
    assert told == {Stalled(TargetId("one", "/"), 7), Stalled(TargetId("other", "/"), 8)}


@pytest.mark.kernel
def test_a_guard_that_stays_keeps_its_trigger(start: Start, stalled: Path) -> None:
    """Its neighbour goes at a reload; both had theirs on the same file."""
    rig = start(None, stall("goes", 7), stall("stays", 8))
    rig.senses.aim(replace(rig.plan, guards=(rig.plan.guards[1],)), frozenset({"stays"}))
    assert rig.wait(lambda seen: seen.stalls).stalls == (Stalled(TargetId("stays", "/"), 8),)
    assert list(rig.senses.triggers.fds) == [TargetId("stays", "/")]


@pytest.mark.kernel
def test_real_stalls_of_a_cgroup_and_its_end(start: Start, stalled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Afterwards its trigger says EPOLLERR for ever: it is dropped at once, and nobody spins."""
    # On this machine cgroup v2 has no memory files but this one.
    monkeypatch.setattr(Cgroup, "current", lambda group: 0 if group.alive() else None)
    rig = start(MOUNT, stall("web", 7, f"/{stalled.name}"))
    assert len(rig.senses.triggers.fds) == 1
    seen = rig.wait(lambda seen: seen.stalls)
    assert seen.stalls == (Stalled(TargetId("web", f"/{stalled.name}"), 7),)
    assert [facts.path for facts in seen.cgroups] == [f"/{stalled.name}"], "it holds for its window: it is judged now"
    (stalled / "cgroup.kill").write_text("1")
    until(lambda: "populated 0" in (stalled / "cgroup.events").read_text())
    stalled.rmdir()
    rig.wait(lambda seen: seen.vanished)
    assert rig.senses.triggers.fds == {}
    assert rig.senses.triggers.crowds == {}
    until(lambda: rig.turn() and not rig.senses.epoll.poll(0), "something speaks for ever")


@pytest.mark.kernel
def test_a_trigger_whose_cgroup_is_gone_is_dropped_though_nobody_says_so(start: Start) -> None:
    """rmdir, and the tree's event not read yet."""
    if MOUNT is None:
        pytest.skip("no cgroup2 to make cgroups in; test_in_vm.py runs this in the virtual machine")
    group = MOUNT / f"oomguard-test-{os.getpid()}"
    group.mkdir()
    rig = start(MOUNT)
    target = TargetId("web", f"/{group.name}")
    condition = StallAbove("some", 100_000, 2_000_000, 7)
    rig.senses.triggers.come(Target(target, condition, str(group / "memory.pressure")), "")
    (fd,) = rig.senses.triggers.fds[target].values()
    group.rmdir()
    rig.turn()
    until(lambda: not rig.senses.epoll.poll(0) and not rig.turn().stalls)
    assert rig.senses.triggers.fds[target] == {}
    assert fd not in rig.senses.handlers


def test_where_pressure_is_not_known_it_is_said(start: Start, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (world.proc / "pressure").unlink()
    rig = start(None, stall("host", 7), guard("other", "/", PressureAbove("some", 0.5, "10s")))
    assert {what for what, _ in rig.said} == {"psi", "stall_above"}
    assert rig.turn("other").pressure is None


@pytest.mark.kernel
def test_what_memavailable_misses_is_added_where_the_policy_says_so(start: Start, world: World) -> None:
    """ZFS's cache. Where it cannot be read nothing is added, and that is said."""
    file = world.root / "arcstats"
    file.write_text(f"c_min 4 {100 * MIB}\nsize 4 {300 * MIB}\n")
    world.available(50)
    machine = guard("host", "/", AvailableBelow(Amount(share=0.1)))
    rig = start(None, machine, also_available=AlsoAvailable(str(file), "size", "c_min"))
    seen = rig.turn("host")
    assert seen.host is not None
    assert seen.host.available_bytes == 250 * MIB
    assert rig.said == []
    file.unlink()
    seen = rig.turn("host")
    assert seen.host is not None
    assert seen.host.available_bytes == 50 * MIB
    assert rig.said == [("also_available", f"{file}: No such file or directory: nothing is added to MemAvailable")]


def test_signals_and_answers_are_facts(start: Start) -> None:
    rig = start(None)
    signal.pthread_kill(threading.get_ident(), signal.SIGHUP)  # another thread of the test's has not blocked it
    seen = rig.turn(until_ns=NEVER)
    assert [wake.source for wake in seen.wakes] == ["signal"]
    assert rig.senses.signals == [signal.SIGHUP]
    rig.senses.tell(Result(3, "Reap", 0))
    rig.senses.tell_gone(4)
    seen = rig.turn(until_ns=NEVER)
    assert seen.results == (Result(3, "Reap", 0),)
    assert [(gone.token, gone.at_ns <= seen.at_ns) for gone in seen.gone] == [(4, True)]
    assert rig.turn().results == ()
