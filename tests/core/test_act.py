"""The hands, on real processes and on the kernel's own cgroups: opened, verified, ended, told, let go."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from oomguard.core.act import Hands
from oomguard.core.lease import LeaseBook
from oomguard.core.observe import Senses
from oomguard.judge.state import State
from oomguard.linux import pidfd, procfs
from oomguard.linux.cgroup2 import Cgroup
from oomguard.model.codec import from_plain, unpack
from oomguard.model.facts import Observation, TargetId
from oomguard.model.policy import Amount, AvailableBelow, Clause, Guard, KillStep, NotifyStep, Plan, Watermark
from oomguard.model.policy import Daemon as DaemonTable
from oomguard.model.verdict import (
    Dismiss,
    Kill,
    Lease,
    Nominate,
    Outcome,
    ProcessRef,
    Ranking,
    Reap,
    Release,
    Victim,
    Ward,
)
from oomguard.workers.pool import Mailbox, Pulse

from .world import PATIENCE_S, World, cgroup2_mount, gone, start_ticks, until

HOST = TargetId("host", "/")
WATCHER = TargetId("watcher", "/")
NOBODY = Ranking("memory", "auto", (), ())
MOUNT = cgroup2_mount()
Hog = Callable[..., "subprocess.Popen[bytes]"]


class Rig:
    """Hands with senses of their own, and what they told the reaper."""

    def __init__(self, world: World, root: str | None) -> None:
        table = DaemonTable(proc=str(world.proc), cgroup=root or "/nowhere")
        self.plan = Plan("test", table, (Guard("host", "/"), Guard("watcher", "/", mode="observe")))
        self.degraded: list[tuple[str, str]] = []
        self.senses = Senses(self.plan, root, lambda what, why: self.degraded.append((what, why)))
        self.orders = Mailbox()
        self.book = LeaseBook(None, self.orders, root or "/nowhere", "/proc")
        self.pulse = Pulse()
        self.hands = Hands(self.plan, root, self.senses, self.orders, self.book, self.pulse)
        # The tests nominate real processes, whatever the made-up machine shows.
        os.close(self.hands.proc_fd)
        self.hands.proc_fd = procfs.open_proc()

    def do(self, action: Nominate | Kill | Dismiss | Reap | Lease | Release) -> Outcome | None:
        return self.hands.perform(action)

    def errno(self, action: Nominate | Kill | Lease | Release) -> int:
        outcome = self.do(action)
        assert outcome is not None
        assert outcome.at_ns > 0
        return outcome.errno

    def ordered(self) -> list[str]:
        return [message[0] for message in self.orders.take()[0]]

    def see(self) -> Observation:
        """One turn, at once."""
        self.hands.look()
        return self.senses.observe(State(host=self.senses.host), 0)

    def told_gone(self, token: int) -> None:
        """Wait until the death is told, once."""
        found: list[int] = []
        end = time.monotonic() + PATIENCE_S
        while not found:
            assert time.monotonic() < end, "nobody told"
            self.hands.look()
            seen = self.senses.observe(State(host=self.senses.host), time.monotonic_ns() + 20_000_000)
            found += [victim.token for victim in seen.gone]
        assert found == [token]

    def fds(self) -> int:
        return len(os.listdir("/proc/self/fd"))

    def close(self) -> None:
        self.hands.let_go()
        senses = self.senses
        kept = [senses.signal_fd, senses.limits.fd, senses.proc_fd, self.hands.proc_fd, self.orders.bell]
        for fd in (*kept, self.pulse.right, senses.meminfo.fd, senses.vmstat.fd):
            os.close(fd)
        if senses.pressure_file is not None:
            senses.pressure_file.close()
        senses.epoll.close()


@pytest.fixture
def blocked_signals() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.fixture
def rig(world: World, blocked_signals: None, no_leak: None) -> Iterator[Rig]:
    made = Rig(world, None)
    yield made
    made.close()


class Tree:
    """A cgroup of our own in the kernel's hierarchy."""

    def __init__(self) -> None:
        self.path = f"/oomguard-act-{os.getpid()}"
        self.make("")

    def at(self, name: str = "") -> Path:
        return Path(f"{MOUNT}{self.path}{name}")

    def make(self, name: str) -> None:
        self.at(name).mkdir(parents=True)

    def enter(self, name: str, pid: int) -> None:
        (self.at(name) / "cgroup.procs").write_text(str(pid))

    def remove(self, name: str = "") -> None:
        for where, _, _ in os.walk(self.at(name), topdown=False):
            until(lambda where=where: b"populated 0" in Path(where, "cgroup.events").read_bytes())
            os.rmdir(where)

    def pids(self, name: str = "") -> list[int]:
        return [
            int(pid)
            for where, _, _ in os.walk(self.at(name))
            for pid in Path(where, "cgroup.procs").read_text().split()
        ]


@pytest.fixture
def tree() -> Iterator[Tree]:
    if MOUNT is None:
        pytest.skip("no cgroup2 to make cgroups in; test_in_vm.py runs this in the virtual machine")
    made = Tree()
    yield made
    if made.at().exists():
        (made.at() / "cgroup.kill").write_text("1")
        made.remove()


@pytest.fixture
def grove(tree: Tree, world: World, blocked_signals: None, no_leak: None) -> Iterator[Rig]:
    """Hands on the kernel's cgroups."""
    made = Rig(world, str(MOUNT))
    yield made
    made.close()


def where(pid: int) -> str:
    fd = procfs.open_proc()
    process = procfs.read_process(fd, pid)
    os.close(fd)
    assert process is not None
    return process.cgroup


def ref(pid: int, cgroup: str | None = None, ticks: int | None = None) -> ProcessRef:
    return ProcessRef(
        pid, start_ticks(pid) if ticks is None else ticks, "hog", where(pid) if cgroup is None else cgroup, 1
    )


def victim(token: int, *processes: ProcessRef) -> Victim:
    return Victim(token, "subtree", processes[0].cgroup, 0, "", processes, 1, len(processes))


def whole(token: int, tree: Tree, name: str, *processes: ProcessRef) -> Victim:
    return Victim(token, "cgroup", tree.path + name, os.stat(tree.at(name)).st_ino, "", processes, 1, 1)


def nominate(victim: Victim, target: TargetId = HOST) -> Nominate:
    return Nominate(target, victim, NOBODY)


# ------------------------------------------------------------------------------------------------------------ processes


def test_a_process_is_ended_and_its_death_is_told(rig: Rig, hog: Hog) -> None:
    process = hog(1)
    assert rig.errno(nominate(victim(7, ref(process.pid)))) == 0
    assert rig.ordered() == ["open"]
    assert rig.see().gone == ()
    assert process.poll() is None
    assert rig.errno(Kill(HOST, 7, "KILL", "")) == 0
    rig.told_gone(7)
    assert process.wait(PATIENCE_S) == -signal.SIGKILL
    assert rig.errno(Kill(HOST, 7, "KILL", "")) == errno.ESRCH, "nobody is left"
    rig.do(Dismiss(HOST, 7))
    assert rig.ordered() == ["close"]


def test_a_nominee_that_ends_by_itself_is_told(rig: Rig, hog: Hog) -> None:
    process = hog(1)
    rig.do(nominate(victim(7, ref(process.pid))))
    process.kill()
    rig.told_gone(7)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_term_and_kill(rig: Rig, hog: Hog, number: int) -> None:
    process = hog(1)
    rig.do(nominate(victim(7, ref(process.pid))))
    assert rig.errno(Kill(HOST, 7, "TERM" if number == signal.SIGTERM else "KILL", "")) == 0
    assert process.wait(PATIENCE_S) == -number


def test_a_tree_is_gone_when_the_last_of_it_is(rig: Rig, hog: Hog) -> None:
    processes = [hog(1) for _ in range(5)]
    rig.do(nominate(victim(7, *(ref(process.pid) for process in processes))))
    for process in processes[:4]:
        process.kill()
        process.wait()
    for _ in range(5):
        assert rig.see().gone == ()
    assert rig.errno(Kill(HOST, 7, "KILL", "")) == 0
    rig.told_gone(7)


def test_a_zombie_leader_is_not_gone_while_a_thread_of_it_lives(rig: Rig, hog: Hog) -> None:
    text = "import ctypes\nthreading.Thread(target=lambda: time.sleep(999)).start()\n"
    process = hog(1, b"zombie", text + "os.write(1, b'r')\nctypes.CDLL(None).syscall(60, 0)")
    until(lambda: ") Z " in Path(f"/proc/{process.pid}/stat").read_text())
    assert rig.errno(nominate(victim(7, ref(process.pid)))) == 0
    for _ in range(5):
        assert rig.see().gone == ()
    assert rig.errno(Kill(HOST, 7, "KILL", "")) == 0
    rig.told_gone(7)


# ------------------------------------------------------------------------------------- who is not who he was is refused


def test_another_process_of_that_number(rig: Rig, hog: Hog) -> None:
    process = hog(1)
    assert rig.errno(nominate(victim(7, ref(process.pid, ticks=start_ticks(process.pid) - 1)))) == errno.ESRCH
    assert rig.errno(Kill(HOST, 7, "KILL", "")) == errno.ESRCH
    assert process.poll() is None
    assert rig.ordered() == []


def test_one_that_has_ended(rig: Rig, hog: Hog) -> None:
    process = hog(1)
    nominee = victim(7, ref(process.pid))
    process.kill()
    process.wait()
    assert rig.errno(nominate(nominee)) == errno.ESRCH
    assert [result.errno for result in rig.see().results] == [errno.ESRCH], "the judge is told, to name another"


def test_one_that_has_moved_to_another_cgroup(grove: Rig, tree: Tree, hog: Hog) -> None:
    """What protects a cgroup protects who has moved into it since."""
    process = hog(1)
    tree.make("/other")
    nominee = victim(7, ref(process.pid))
    tree.enter("/other", process.pid)
    assert grove.errno(nominate(nominee)) == errno.ESRCH
    assert grove.errno(nominate(victim(8, ref(process.pid)))) == 0
    assert process.poll() is None


def test_one_that_has_become_another_program(rig: Rig, hog: Hog) -> None:
    """Same pid, same start, same cgroup; but what held the memory is gone, and `never` may protect what is there."""
    process = hog(20, b"hog", "if os.read(0, 1): os.execv('/bin/sleep', ['sleep', '999'])\n", stdin=True)
    held = victim(7, replace(ref(process.pid), held_bytes=20 << 20))
    renamed = victim(8, replace(ref(process.pid), held_bytes=20 << 20, comm="another"))
    assert rig.errno(nominate(held)) == 0
    assert rig.errno(nominate(renamed)) == 0, (
        "a name alone is nothing: whoever changes it all the time is no less a victim"
    )
    assert process.stdin is not None
    process.stdin.write(b"g")
    process.stdin.flush()
    until(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n")
    assert rig.errno(nominate(held)) == errno.ESRCH
    assert process.poll() is None


def test_of_a_tree_those_are_taken_that_are_the_same(rig: Rig, hog: Hog) -> None:
    one, other = hog(1), hog(1)
    assert rig.errno(nominate(victim(7, ref(one.pid, ticks=1), ref(other.pid)))) == 0
    assert rig.errno(Kill(HOST, 7, "KILL", "")) == 0
    rig.told_gone(7)
    assert other.wait(PATIENCE_S) == -signal.SIGKILL
    assert one.poll() is None


def test_unknown_tokens_are_nobody(rig: Rig) -> None:
    assert rig.errno(Kill(HOST, 99, "KILL", "")) == errno.ESRCH
    assert rig.do(Dismiss(HOST, 99)) is None
    assert rig.errno(Release(HOST, 99)) == errno.ESRCH
    assert rig.errno(Lease(HOST, 1, "memory.high", "/a", 1, 0, 0, 1, "step")) == errno.EIO, "no journal, no lease"


def test_observing_touches_nobody(rig: Rig, hog: Hog) -> None:
    process = hog(1)
    assert rig.errno(nominate(victim(7, ref(process.pid)), WATCHER)) == 0
    for name in ("TERM", "KILL"):
        outcome = rig.do(Kill(WATCHER, 7, name, ""))  # type: ignore[arg-type]
        assert outcome is not None
        assert (outcome.errno, outcome.held) == (0, True)
    rig.do(Reap(WATCHER, 7))
    assert rig.ordered() == ["open"]
    fd = os.pidfd_open(process.pid)
    assert not gone(fd)
    os.close(fd)


# ---------------------------------------------------------------------------------------------------------- descriptors


# --------------------------------------------------------------------------------------------------------- the dead man


def test_a_dead_man_that_has_just_struck_is_yielded_to_but_once(rig: Rig, hog: Hog) -> None:
    """Two would die for one shortage; but one that never answers must not bind us for ever."""
    process = hog(1)
    assert rig.errno(nominate(victim(7, ref(process.pid)))) == 0
    assert rig.pulse.take()
    assert rig.errno(Kill(HOST, 7, "KILL", "x")) == errno.EBUSY
    assert process.poll() is None
    assert rig.errno(Kill(HOST, 7, "KILL", "x")) == 0
    assert process.wait(PATIENCE_S) == -signal.SIGKILL
    assert rig.pulse.take(), "the right to kill is held for the kill alone"
    rig.do(Dismiss(HOST, 7))


def test_what_the_dead_man_has_signalled_is_only_awaited(rig: Rig, hog: Hog) -> None:
    process = hog(1)
    assert rig.errno(nominate(victim(7, ref(process.pid)))) == 0
    assert rig.errno(Kill(HOST, 7, "KILL", "x", by="deadman")) == 0
    assert process.poll() is None, "it was signalled already; not here, but so it was said"
    process.kill()
    rig.told_gone(7)
    rig.do(Dismiss(HOST, 7))
    assert rig.errno(Kill(HOST, 7, "KILL", "x", by="deadman")) == 0, "dismissed meanwhile"


def test_only_who_may_be_killed_is_handed_to_the_dead_man(rig: Rig, hog: Hog) -> None:
    clause = Clause((AvailableBelow(Amount(share=0.1)),))
    kills, tells = Watermark((clause,), (KillStep(),)), Watermark((clause,), (NotifyStep(),))
    guards = (
        Guard("hard", "/", hard=kills, soft=tells),
        Guard("soft", "/", soft=kills),
        Guard("tells", "/", hard=tells),
        Guard("watches", "/", mode="observe", hard=kills),
    )
    rig.hands.aim(replace(rig.plan, guards=guards))
    who = victim(7, ref(hog(1).pid))
    handed = {}
    for guard in guards:
        assert rig.errno(replace(nominate(who, TargetId(guard.name, "/")), not_before_ns=5)) == 0
        ((what, token, processes, *ward),) = rig.orders.take()[0]
        assert (what, token, processes) == ("open", 7, [(who.processes[0].pid, who.processes[0].start_ticks)])
        handed[guard.name] = [from_plain(unpack(packed)) for packed in ward]
        rig.hands.again()
        assert rig.ordered() == ["open"], "to another reaper the same"
        rig.do(Dismiss(HOST, 7))
        rig.orders.take()
    expected = {name: [Ward(TargetId(name, "/"), who, kills, 5)] for name in ("hard", "soft")}
    assert handed == expected | {"tells": [], "watches": []}


def test_descriptors_are_given_back(rig: Rig, hog: Hog) -> None:
    """A nominee a tenth of a second, for hours; every other one is never dismissed but dies, or cannot be opened."""
    process = hog(1)
    whom = ref(process.pid)
    before = rig.fds()
    for token in range(1000):
        assert rig.errno(nominate(victim(token, whom, whom))) == 0
        rig.do(Dismiss(HOST, token))
        assert rig.errno(nominate(victim(token, ref(process.pid, ticks=1)))) == errno.ESRCH
    assert rig.fds() == before
    assert len(rig.hands.held) == 0
    assert set(rig.senses.handlers) == {rig.senses.signal_fd, rig.senses.limits.fd}


def test_descriptors_of_the_dead_are_given_back(rig: Rig) -> None:
    before = rig.fds()
    for token in range(200):
        process = subprocess.Popen(["sleep", "1000"])
        rig.do(nominate(victim(token, ref(process.pid))))
        rig.do(Kill(HOST, token, "KILL", ""))
        rig.told_gone(token)
        process.wait()
        rig.do(Dismiss(HOST, token))
    assert rig.fds() == before


@pytest.mark.parametrize("at", range(1, 8))
def test_descriptors_are_given_back_when_there_are_no_more(
    rig: Rig, hog: Hog, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """EMFILE at any open of a nomination: an errno, and nothing stays open."""
    processes = [ref(hog(1).pid) for _ in range(2)]
    before = rig.fds()
    calls = []
    really = pidfd.open_verified
    read = procfs.read_process

    def count() -> None:
        calls.append(1)
        if len(calls) == at:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(pidfd, "open_verified", lambda *a: count() or really(*a))
    monkeypatch.setattr(procfs, "read_process", lambda *a: count() or read(*a))
    number = rig.errno(nominate(victim(7, *processes)))
    assert number == (errno.EMFILE if at <= 4 else 0)
    monkeypatch.undo()
    rig.do(Dismiss(HOST, 7))
    assert rig.fds() == before


def test_a_number_with_a_new_owner_is_not_woken_for_the_old_one(rig: Rig, hog: Hog) -> None:
    """Two deaths in one batch; the first handler closes both, and opens something under the second's number."""
    one, other = hog(1), hog(1)
    rig.do(nominate(victim(1, ref(one.pid))))
    rig.do(nominate(victim(2, ref(other.pid))))
    woken: list[int] = []
    first, second = sorted(next(iter(rig.hands.held[token].fds)) for token in (1, 2))
    for fd in (first, second):
        handler = rig.senses.handlers[fd]

        def both(mask: int, handler: Callable[[int], None] = handler) -> None:
            handler(mask)
            for token in (1, 2):
                rig.do(Dismiss(HOST, token))
            if len(rig.senses.handlers) == 2:
                for _ in range(2):
                    read, write = os.pipe()
                    opened.extend((read, write))
                    rig.senses.listen(read, 1, woken.append)

        rig.senses.handlers[fd] = both
    opened: list[int] = []
    for process in (one, other):
        process.kill()
        process.wait()
    rig.see()
    assert len(opened) == 4, "no number was used again: the test does not test anything"
    assert {first, second} & set(opened)
    assert woken == [], "nothing has come through these pipes"
    for fd in opened:
        rig.senses.ignore(fd)
        os.close(fd)


# -------------------------------------------------------------------------------------------------------------- cgroups

pytestmark = pytest.mark.kernel

FORKER = """
import os, sys, time
os.read(0, 1)
for _ in range(200):
    if os.fork() == 0:
        time.sleep(999)
os.write(1, b'r')
while True:
    if os.fork() == 0:      # forks in flight while it is killed
        os._exit(0)
    os.wait()
"""


def test_a_fork_bomb_dies_as_one(grove: Rig, tree: Tree) -> None:
    tree.make("/bomb")
    bomb = subprocess.Popen([sys.executable, "-I", "-S", "-c", FORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert bomb.stdin is not None
    assert bomb.stdout is not None
    tree.enter("/bomb", bomb.pid)
    bomb.stdin.close()
    assert os.read(bomb.stdout.fileno(), 1) == b"r"
    assert len(tree.pids("/bomb")) >= 200
    assert grove.errno(nominate(whole(7, tree, "/bomb", ref(bomb.pid)))) == 0
    assert grove.see().gone == ()
    assert grove.errno(Kill(HOST, 7, "KILL", "")) == 0
    grove.told_gone(7)
    assert bomb.wait(PATIENCE_S) == -signal.SIGKILL
    assert tree.pids("/bomb") == []
    bomb.stdout.close()
    grove.do(Dismiss(HOST, 7))


def test_a_cgroup_made_anew_is_another(grove: Rig, tree: Tree, hog: Hog) -> None:
    tree.make("/web")
    process = hog(1)
    tree.enter("/web", process.pid)
    old = whole(7, tree, "/web", ref(process.pid))
    tree.make("/aside")
    tree.enter("/aside", process.pid)
    tree.remove("/web")
    tree.make("/web")
    tree.enter("/web", process.pid)
    assert grove.errno(nominate(old)) == errno.ESRCH
    assert process.poll() is None


def test_a_cgroup_that_was_removed_after_the_nomination(grove: Rig, tree: Tree, hog: Hog) -> None:
    """Its files answer ENODEV and may poll for ever, or never again: it is told once, and nothing spins."""
    tree.make("/web")
    process = hog(1)
    tree.enter("/web", process.pid)
    grove.do(nominate(whole(7, tree, "/web", ref(process.pid))))
    assert grove.errno(Kill(HOST, 7, "KILL", "")) == 0
    process.wait()
    tree.remove("/web")
    grove.told_gone(7)
    assert grove.errno(Kill(HOST, 7, "KILL", "")) == errno.ESRCH
    assert grove.senses.epoll.poll(0) == []
    tree.make("/web")
    other = hog(1)
    tree.enter("/web", other.pid)
    assert grove.errno(Kill(HOST, 7, "KILL", "")) == errno.ESRCH, "whoever lives there now"
    assert grove.errno(Kill(HOST, 7, "TERM", "")) == errno.ESRCH
    assert other.poll() is None
    grove.do(Dismiss(HOST, 7))


def test_an_empty_cgroup_is_no_victim(grove: Rig, tree: Tree, hog: Hog) -> None:
    """Its end would never be told: nothing changes any more."""
    tree.make("/web")
    process = hog(1)
    nominee = whole(7, tree, "/web", ref(process.pid))
    assert grove.errno(nominate(nominee)) == errno.ESRCH


def test_a_cgroup_is_asked_to_end_with_all_that_is_below_it(grove: Rig, tree: Tree, hog: Hog) -> None:
    """A container's processes live in cgroups of its own making; its own directory is empty."""
    tree.make("/pod/a/b")
    tree.make("/pod/c")
    inside = [hog(1), hog(1), hog(1)]
    outside = hog(1)
    for process, name in zip(inside, ("/pod/a/b", "/pod/a/b", "/pod/c"), strict=True):
        tree.enter(name, process.pid)
    assert grove.errno(nominate(whole(7, tree, "/pod", *(ref(process.pid) for process in inside)))) == 0
    assert grove.errno(Kill(HOST, 7, "TERM", "")) == 0
    for process in inside:
        assert process.wait(PATIENCE_S) == -signal.SIGTERM
    grove.told_gone(7)
    assert outside.poll() is None
    grove.do(Dismiss(HOST, 7))


def test_a_kernel_without_cgroup_kill(grove: Rig, tree: Tree, hog: Hog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 5.14 the members are opened one by one."""
    tree.make("/web")
    process = hog(1)
    tree.enter("/web", process.pid)

    def absent(_group: Cgroup) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(Cgroup, "prepare_kill", absent)
    assert grove.errno(nominate(whole(7, tree, "/web", ref(process.pid)))) == 0
    assert grove.errno(Kill(HOST, 7, "KILL", "")) == 0
    grove.told_gone(7)


def test_a_threaded_cgroup_is_ended_one_by_one(
    grove: Rig, tree: Tree, hog: Hog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cgroup.kill says EOPNOTSUPP there."""
    tree.make("/web")
    process = hog(1)
    tree.enter("/web", process.pid)

    def threaded(group: Cgroup) -> bool:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported", group.where("cgroup.kill"))

    monkeypatch.setattr(Cgroup, "kill", threaded)
    grove.do(nominate(whole(7, tree, "/web", ref(process.pid))))
    assert grove.errno(Kill(HOST, 7, "KILL", "")) == 0
    grove.told_gone(7)


def test_a_process_whose_threads_live_in_cgroups_of_their_own(grove: Rig, tree: Tree, hog: Hog) -> None:
    """As libvirt does it: cgroup.procs lists the process at the domain, its own file says where its leader is."""
    tree.make("/machine/emulator")
    process = hog(1)
    (tree.at("/machine/emulator") / "cgroup.type").write_text("threaded")
    tree.enter("/machine", process.pid)
    (tree.at("/machine/emulator") / "cgroup.threads").write_text(str(process.pid))
    assert where(process.pid) == f"{tree.path}/machine/emulator"
    assert (tree.at("/machine") / "cgroup.procs").read_text() == f"{process.pid}\n"
    assert grove.errno(nominate(victim(7, ref(process.pid, tree.path + "/machine")))) == 0
    assert grove.errno(nominate(victim(8, ref(process.pid, tree.path + "/mach")))) == errno.ESRCH
    assert grove.errno(Kill(HOST, 7, "KILL", "")) == 0
    grove.told_gone(7)


def test_descriptors_of_cgroups_are_given_back(grove: Rig, tree: Tree, hog: Hog) -> None:
    tree.make("/web")
    process = hog(1)
    tree.enter("/web", process.pid)
    nominee = whole(7, tree, "/web", ref(process.pid))
    before = grove.fds()
    for _ in range(1000):
        assert grove.errno(nominate(nominee)) == 0
        grove.do(Dismiss(HOST, 7))
    assert grove.fds() == before


def test_observing_touches_no_cgroup(grove: Rig, tree: Tree, hog: Hog) -> None:
    tree.make("/web")
    process = hog(1)
    tree.enter("/web", process.pid)
    grove.do(nominate(whole(7, tree, "/web", ref(process.pid)), WATCHER))
    for name in ("TERM", "KILL"):
        assert grove.errno(Kill(WATCHER, 7, name, "")) == 0  # type: ignore[arg-type]
    assert tree.pids("/web") == [process.pid]
    grove.do(Dismiss(WATCHER, 7))
