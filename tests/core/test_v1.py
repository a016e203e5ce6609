"""The whole daemon where cgroup v1 has the memory: real leaks, in cgroups of the test's own, with limits.

It sees the machine's real /proc, but guards nothing else: no policy here has a guard on more than that.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from oomguard.linux import cgroup1
from tests.linux.trees import KernelTree1, cgroup1_mounts

from .world import PATIENCE_S, Daemon, World, policy, until

pytestmark = pytest.mark.kernel

Start = Callable[..., Daemon]
Live = Callable[..., "subprocess.Popen[bytes]"]
MIB = 1 << 20

# Grows to so many MiB and no further. The kernel has no reason to be faster than we, however slow this machine is.
LEAK = "held = [bytearray(b'x' * (1 << 20)) for _ in range({mib})]\ntime.sleep(999)"
SLOW_LEAK = """
held = []
while len(held) < {mib}:
    held.append(bytearray(b'x' * (1 << 20)))
    time.sleep(0.005)
time.sleep(999)
"""


@pytest.fixture
def tree() -> Iterator[KernelTree1]:
    points = cgroup1_mounts()
    if points is None:
        pytest.skip("no cgroup v1 with memory and freezer is mounted on this machine, or it is not ours to write to")
    made = KernelTree1(points)
    yield made
    made.close()


@pytest.fixture
def v1(world: World) -> World:
    """With the real /proc: whom the daemon ends, and what is forked meanwhile, is found there."""
    world.proc = Path("/proc")
    return world


def let_go(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.flush()


@pytest.fixture
def live(tree: KernelTree1) -> Iterator[Live]:
    """Starts a process in a cgroup, under a name (comm); it goes on to do ``text`` once it is there."""
    started: list[subprocess.Popen[bytes]] = []

    def start(
        path: str,
        text: str = "time.sleep(999)",
        comm: bytes = b"hog",
        mib: int = 0,
        under: tuple[str, ...] = (),
        held: bool = False,
    ) -> subprocess.Popen[bytes]:
        head = f"import os, sys, time\nopen('/proc/self/comm', 'wb').write({comm!r})\nsys.stdin.readline()\n"
        command = [*under, sys.executable, "-I", "-S", "-c", head + text.format(mib=mib)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE)
        started.append(process)
        tree.enter(path, process.pid)
        if not held:
            let_go(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()


GUARD = """
[policy.host]
cgroup = "{path}"
tripwire = {tripwire}
cooldown = "1s"
[policy.host.soft]
when = [{{ {soft} }}]
do = ["snapshot", "notify", "nominate"]
[policy.host.hard]
when = [{{ {hard} }}]
do = ["snapshot", "notify", "kill"]
[policy.host.victim]
take = "{take}"
never = [{{ comm = "spared" }}]
"""


def guard(
    tree: KernelTree1,
    soft: str = 'memory_above = "40%"',
    hard: str = 'memory_above = "60%"',
    take: str = "auto",
    tripwire: str = "false",
) -> str:
    return GUARD.format(path=f"{tree.prefix}/web", soft=soft, hard=hard, take=take, tripwire=tripwire)


def limit(tree: KernelTree1, path: str, mib: int) -> None:
    (tree.at(path) / "memory.limit_in_bytes").write_text(str(mib * MIB))


def incidents(world: World) -> list[dict[str, Any]]:
    """Those that are whole."""
    found = [json.loads(path.read_text()) for path in sorted(world.root.glob("state/incidents/*/incident.json"))]
    return [incident for incident in found if incident.get("complete")]


@pytest.mark.skipif(resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 20_000, reason="RLIMIT_NOFILE is under 20,000")
def test_many_that_come_take_no_page_in_the_storm(tree: KernelTree1, v1: World, daemon: Start, live: Live) -> None:
    """Sixteen hundred take more than what is reserved: it is made whole again in calm, before one of them leaks."""
    tree.make("/crowd")
    body = 'when = [{ swap_above = "1GiB" }]\ndo = ["snapshot"]\n'  # no threshold: each would take the kernel 18 ms
    crowd = f'[policy.crowd]\ncgroup = "{tree.prefix}/crowd/*"\n[policy.crowd.soft]\n{body}'
    guarding = daemon(v1, policy(guard(tree).replace("/web", "/crowd/150") + crowd, v1), cgroup="/sys/fs/cgroup")
    guarding.hear("READY=1")
    for number in range(1600):
        tree.make(f"/crowd/{number}")
        limit(tree, f"/crowd/{number}", 64)
    until(lambda: guarding.guard("crowd").targets == 1600)
    leak = live("/crowd/150", SLOW_LEAK, mib=60)
    assert leak.wait(PATIENCE_S) == -signal.SIGKILL
    until(lambda: guarding.status().numbers.kills == 1)
    numbers = guarding.status().numbers
    assert (numbers.minor_faults, numbers.major_faults, numbers.kernel_oom_kills) == (0, 0, 0)
    assert guarding.end() == 0


def test_a_leak_is_ended_and_who_is_small_or_spared_lives(
    tree: KernelTree1, v1: World, daemon: Start, live: Live
) -> None:
    for path in ("/web/worker", "/web/other"):
        tree.make(path)
    limit(tree, "/web", 256)
    spared = live("/web/other", LEAK, b"spared", 40)
    small = live("/web/other", LEAK, b"small", 8)
    guarding = daemon(v1, policy(guard(tree, tripwire="true"), v1), cgroup="/sys/fs/cgroup")
    guarding.hear("READY=1")
    why = dict(guarding.status().degraded)
    assert "a threshold of memory.usage_in_bytes wakes there instead" in why["tripwire"]
    assert "process by process" in why["kill"]
    leak = live("/web/worker", SLOW_LEAK, b"leak", 190)
    assert leak.wait(PATIENCE_S) == -signal.SIGKILL
    assert (spared.poll(), small.poll()) == (None, None)
    guarding.phase("calm")
    until(lambda: incidents(v1), guarding.log())
    (incident,) = incidents(v1)
    assert [(victim["comm"], victim["pid"]) for victim in incident["victims"]] == [("leak", leak.pid)]
    assert incident["cgroup"] == f"{tree.prefix}/web"
    taken = {path.name.rpartition(".memory.")[2] for path in v1.root.glob("state/incidents/*/raw/hard/cgroup.*")}
    assert {"usage_in_bytes", "stat", "limit_in_bytes", "oom_control", "failcnt"} <= taken, "v1's own files are kept"
    assert cgroup1.parse_oom_control((tree.at("/web") / "memory.oom_control").read_bytes())[2] == 0
    assert guarding.status().numbers.kills == 1
    assert guarding.end() == 0


def test_a_cgroup_that_hangs_with_the_killer_disabled_is_freed(
    tree: KernelTree1, v1: World, daemon: Start, live: Live
) -> None:
    """oom_kill_disable: whoever needs memory sleeps until there is some, and the kernel makes none."""
    for path in ("/web/worker", "/web/other"):
        tree.make(path)
    limit(tree, "/web", 64)
    (tree.at("/web") / "memory.oom_control").write_text("1")
    bystander = live("/web/other", LEAK, b"bystander", 4)
    text = policy(guard(tree, 'memory_above = "95%"', 'memory_above = "98%"'), v1)
    guarding = daemon(v1, text, cgroup="/sys/fs/cgroup")
    guarding.hear("READY=1")
    leak = live("/web/worker", LEAK, b"leak", 200)
    assert leak.wait(PATIENCE_S) == -signal.SIGKILL, guarding.log()
    until(lambda: not cgroup1.parse_oom_control((tree.at("/web") / "memory.oom_control").read_bytes())[1])
    assert bystander.poll() is None
    guarding.phase("calm")
    assert (tree.at("/web") / "memory.oom_control").read_text().startswith("oom_kill_disable 1"), "it is its owner's"
    assert guarding.end() == 0


# A family that never holds still: the first one starts others, and each of these one more, that live a moment longer.
FORKS = """
held = bytearray(b'x' * (4 << 20))
def live(depth):
    own = bytearray(b'x' * (2 << 20))
    for _ in range(2 if depth else 0):
        if os.fork() == 0:
            live(depth - 1)
    time.sleep(0.05)
    os._exit(0)
import signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    if os.fork() == 0:
        live(2)
    time.sleep(0.02)
"""


def test_not_one_child_of_a_cgroup_that_forks_is_lost(tree: KernelTree1, v1: World, daemon: Start, live: Live) -> None:
    """There is no cgroup.kill: it is gone through again and again, and in every turn, until nobody is left."""
    tree.make("/web/forks.service")
    limit(tree, "/web", 256)
    guarding = daemon(
        v1, policy(guard(tree, 'memory_above = "30MiB"', 'memory_above = "40MiB"', "unit"), v1), cgroup="/sys/fs/cgroup"
    )
    guarding.hear("READY=1")
    root = live("/web/forks.service", FORKS, b"forks")
    procs = tree.at("/web/forks.service") / "cgroup.procs"
    assert root.wait(PATIENCE_S) == -signal.SIGKILL, guarding.log()
    until(lambda: not procs.read_text(), guarding.log())
    guarding.phase("calm", "cooling", "armed")
    assert not procs.read_text(), "and nobody has come since"
    assert guarding.end() == 0


@pytest.mark.parametrize(
    "level", ['"medium"', '{ level = "critical", mode = "hierarchy" }', '{ level = "low", mode = "local" }']
)
def test_pressure_levels_are_told(tree: KernelTree1, v1: World, daemon: Start, live: Live, level: str) -> None:
    """Nothing else is asked for: it is the kernel's own word that ends the leak. The killer is disabled meanwhile."""
    tree.make("/web")
    limit(tree, "/web", 48)
    (tree.at("/web") / "memory.oom_control").write_text("1")
    text = policy(guard(tree, f"level_above = {level}", f'level_above = {level}, memory_above = "50%"'), v1)
    guarding = daemon(v1, text, cgroup="/sys/fs/cgroup")
    guarding.hear("READY=1")
    leak = live("/web", LEAK, b"leak", 200)
    assert leak.wait(PATIENCE_S) == -signal.SIGKILL, guarding.log()
    word = level.split('"')[1]
    until(lambda: f"pressure level {word}" in guarding.log(), guarding.log())
    assert guarding.end() == 0


def test_who_lives_deeper_in_a_cgroup_that_is_taken_whole_is_asked_about_too(
    tree: KernelTree1, v1: World, daemon: Start, live: Live
) -> None:
    """In v1 an inner cgroup has processes of its own. Four of them share what is too much: no single one holds most of
    it. Below them somebody lives who may not be ended, too small to be looked at for his own sake.
    """
    for path in ("/web/inner/deep/deeper", "/web/other", "/web/third"):
        tree.make(path)
    limit(tree, "/web", 256)
    spared = live("/web/inner/deep/deeper", LEAK, b"spared", 1)
    for path in ("/web/other", "/web/third"):
        live(path, LEAK, b"large", 20)
    guarding = daemon(v1, policy(guard(tree), v1), cgroup="/sys/fs/cgroup")
    guarding.hear("READY=1")
    # All there before any grows, and then so slowly that none is far ahead.
    workers = [live("/web/inner", SLOW_LEAK, b"worker", 30, held=True) for _ in range(4)]
    for worker in workers:
        let_go(worker)
    assert {worker.wait(PATIENCE_S) for worker in workers} == {-signal.SIGKILL}, guarding.log()
    guarding.phase("calm")
    assert spared.poll() is None, guarding.log()
    assert guarding.end() == 0


def test_who_is_frozen_is_let_go_to_die(tree: KernelTree1, v1: World, daemon: Start, live: Live) -> None:
    """The freezer of v1 is another hierarchy, and holds its own even against SIGKILL."""
    tree.make("/web/worker")
    limit(tree, "/web", 256)
    text = policy(guard(tree), v1).replace(
        '"notify", "kill"]', '{ freeze = { for = "30s" } }, { wait = "200ms" }, "kill"]'
    )
    guarding = daemon(v1, text, cgroup="/sys/fs/cgroup")
    guarding.hear("READY=1")
    leak = live("/web/worker", SLOW_LEAK, b"leak", 190)
    until(lambda: tree.frozen("/web/worker"), guarding.log())
    assert leak.wait(PATIENCE_S) == -signal.SIGKILL, guarding.log()
    assert not tree.frozen("/web/worker")
    assert guarding.end() == 0


def test_what_was_set_is_put_back_when_the_core_is_killed(
    tree: KernelTree1, v1: World, daemon: Start, live: Live
) -> None:
    """A limit and a freeze, by files that v1 has and in two hierarchies."""
    tree.make("/web/worker")
    limit(tree, "/web", 256)
    steps = '{ set_max = { to = "90%", for = "60s" } }, { freeze = { for = "60s" } }, { wait = "60s" }, "kill"]'
    guarding = daemon(v1, policy(guard(tree), v1).replace('"notify", "kill"]', steps), cgroup="/sys/fs/cgroup")
    guarding.hear("READY=1")
    leak = live("/web/worker", SLOW_LEAK, b"leak", 190)
    limited = tree.at("/web") / "memory.limit_in_bytes"
    until(lambda: tree.frozen("/web/worker"), guarding.log())
    until(lambda: int(limited.read_text()) == 256 * MIB * 9 // 10 // 4096 * 4096, guarding.log())
    guarding.process.kill()
    guarding.process.wait()
    until(lambda: not tree.frozen("/web/worker"), guarding.log())
    until(lambda: int(limited.read_text()) == 256 * MIB, guarding.log())
    assert leak.poll() is None


def test_the_nominee_is_insured_and_its_swap_is_shut(tree: KernelTree1, v1: World, daemon: Start, live: Live) -> None:
    """Both while the daemon lives, and no longer. The swap limit of v1 is one on memory and swap together."""
    tree.make("/web/worker")
    limit(tree, "/web", 256)
    swap = tree.at("/web") / "memory.memsw.limit_in_bytes"
    if not swap.exists():
        pytest.skip("this kernel was booted without swapaccount=1")
    before = swap.read_text()
    steps = '{ set_swap_max = { to = "0", for = "60s" } }, { wait = "60s" }, "kill"]'
    guarding = daemon(v1, policy(guard(tree), v1).replace('"notify", "kill"]', steps), cgroup="/sys/fs/cgroup")
    guarding.hear("READY=1")
    leak = live("/web/worker", SLOW_LEAK, b"leak", 190)
    score = Path(f"/proc/{leak.pid}/oom_score_adj")
    own = score.read_text()
    until(lambda: score.read_text() == "1000\n", guarding.log())
    until(lambda: int(swap.read_text()) == 256 * MIB, guarding.log())
    assert guarding.end() == 0
    assert (score.read_text(), swap.read_text()) == (own, before)
    assert leak.poll() is None


def test_a_kill_of_the_kernel_is_told(tree: KernelTree1, v1: World, daemon: Start, live: Live) -> None:
    """v1 counts it in the very cgroup of the victim, and tells of the OOM in the one that is full."""
    tree.make("/web/worker")
    limit(tree, "/web", 64)
    text = policy(guard(tree, 'memory_above = "95%"', 'memory_above = "99%"'), v1)
    guarding = daemon(v1, text.replace("[policy.host]", '[policy.host]\nmode = "observe"'), cgroup="/sys/fs/cgroup")
    guarding.hear("READY=1")
    leak = live("/web/worker", LEAK, b"leak", 200)
    assert leak.wait(PATIENCE_S) == -signal.SIGKILL, guarding.log()
    until(lambda: guarding.status().numbers.kernel_oom_kills, guarding.log())
    assert guarding.status().numbers.kills == 0
    assert guarding.end() == 0


# ----------------------------------------------------------------------------------------------------------- few rights

NOBODY = 65534
# Reading is left to it, for Debian's tests may run with a Python that lies in root's home.
AS_NOBODY = (
    *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--bounding-set=-all,+dac_read_search"),
    *("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"),
)


@pytest.fixture
def hidden(tmp_path: Path) -> Iterator[Path]:
    """A /proc that hides from everybody what is not his."""
    place = tmp_path / "hidden"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "proc", "-o", "hidepid=2", "proc", str(place)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"/proc cannot be mounted once more: {done.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def give(world: World) -> None:
    """Its directories to a user without rights."""
    for name in (".", "state", "run"):
        os.chown(world.root / name, NOBODY, NOBODY)


@pytest.mark.parametrize("hides", [False, True], ids=["sees all", "hidepid"])
def test_a_user_guards_his_own_cgroup(
    tree: KernelTree1, v1: World, daemon: Start, live: Live, hidden: Path, hides: bool
) -> None:
    """What is larger, and another's, is out of his reach: it costs a turn, and it is said."""
    tree.make("/web/worker")
    limit(tree, "/web", 256)
    give(v1)
    v1.proc = hidden if hides else v1.proc
    root = live("/web/worker", LEAK, b"root", 120)
    own = live("/web/worker", LEAK, b"own", 60, AS_NOBODY)
    text = policy(guard(tree, 'memory_above = "50%"', 'memory_above = "60%"'), v1)
    guarding = daemon(v1, text, cgroup="/sys/fs/cgroup", under=AS_NOBODY)
    guarding.hear("READY=1")
    assert dict(guarding.status().degraded)["CAP_KILL"] == "only our own processes can be killed"
    assert own.wait(PATIENCE_S) == -signal.SIGKILL, guarding.log()
    assert root.poll() is None
    assert guarding.end() == 0
    refused = "root[" in guarding.log()
    assert refused != hides, guarding.log()


def test_in_a_user_namespace_it_guards_what_is_inside_and_says_what_is_not(
    tree: KernelTree1, v1: World, daemon: Start, live: Live
) -> None:
    """As in an unprivileged container: every capability is there, and none counts outside."""
    inside = ("unshare", "--user", "--map-root-user")
    if subprocess.run([*inside, "true"], check=False).returncode:
        pytest.skip("no user namespaces here (user.max_user_namespaces, kernel.unprivileged_userns_clone)")
    tree.make("/web/worker")
    limit(tree, "/web", 256)
    text = policy(guard(tree, 'memory_above = "10%"', 'memory_above = "40%"'), v1)
    guarding = daemon(v1, text, cgroup="/sys/fs/cgroup", under=inside)
    guarding.hear("READY=1")
    degraded = dict(guarding.status().degraded)
    assert degraded["user namespace"].startswith("capabilities count only inside of it")
    assert "CAP_KILL" not in degraded, "it has that one, in there"
    leak = live("/web/worker", SLOW_LEAK, b"leak", 180)
    assert leak.wait(PATIENCE_S) == -signal.SIGKILL, guarding.log()
    guarding.phase("calm")
    assert guarding.end() == 0
