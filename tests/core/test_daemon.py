"""The daemon as a black box: what it tells its service manager, and whom it ends, on real processes of the test."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import random
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from oomguard.client import Watch
from oomguard.linux import leases
from oomguard.model.ring import MINUTES_BYTES

from .disks import BAD_DAYS, BOX, disk, frozen
from .world import HOST, MIB, PATIENCE_S, Daemon, World, gone, policy, until

Start = Callable[..., Daemon]
Hog = Callable[..., "subprocess.Popen[bytes]"]

OBSERVE = HOST.replace('mode = "enforce"', 'mode = "observe"')


# --------------------------------------------------------------------------------------------- what the manager is told


def test_a_start_and_a_stop(world: World, daemon: Start) -> None:
    guarding = daemon(world, policy(HOST, world))
    ready = guarding.hear("READY=1")
    assert "STATUS=guarding: host (enforce)" in ready
    assert f"MAINPID={guarding.process.pid}" in ready, "compiling and guarding are one process"
    page = guarding.status()
    assert page.numbers.pid == guarding.process.pid
    assert [(guard.name, guard.cgroup, guard.phase, guard.targets) for guard in page.guards] == [
        ("host", "/", "calm", 1)
    ]
    assert set(guarding.workers()) == {"reaper", "scribe", "herald"}
    workers = [os.pidfd_open(pid) for pid in guarding.workers().values()]
    assert guarding.end() == 0
    for fd in workers:
        assert gone(fd), "a clean end waits for the workers"
        os.close(fd)
    assert "Traceback" not in guarding.log()


def test_it_says_that_it_stops(world: World, daemon: Start) -> None:
    guarding = daemon(world, policy(HOST, world))
    guarding.hear("READY=1")
    guarding.process.send_signal(signal.SIGINT)
    assert guarding.process.wait(PATIENCE_S) == 0
    assert guarding.manager.recv(65536) == b"STOPPING=1"


def test_a_guard_on_what_is_not_there_yet_is_no_reason_to_wait(world: World, daemon: Start) -> None:
    """No target, no deadline: the first turn must not sleep until the manager loses patience."""
    (world.root / "cgroup").mkdir()
    (world.root / "cgroup" / "cgroup.controllers").write_text("memory\n")
    text = """
[policy.host]
cgroup = "/system.slice/web.service"
hard = { when = [{ memory_above = "90%" }], do = ["kill"] }
"""
    guarding = daemon(world, policy(text, world), cgroup=str(world.root / "cgroup"))
    guarding.hear("READY=1")
    assert guarding.guard().targets == 0
    assert guarding.end() == 0


def test_a_guard_is_not_degraded_any_more_when_its_cgroup_has_come(world: World, daemon: Start) -> None:
    """It matched no cgroup at the start, and the compiler said so."""
    root = world.root / "cgroup"
    root.mkdir()
    (root / "cgroup.controllers").write_text("memory\n")
    text = """
[policy.web]
cgroup = "/web.service"
hard = { when = [{ memory_above = "90%" }], do = ["kill"] }
[policy.db]
cgroup = "/db.service"
hard = { when = [{ memory_above = "90%" }], do = ["kill"] }
"""

    def lacking() -> set[str]:
        return {what for what, why in guarding.status().degraded if why.endswith("matches no cgroup now")}

    guarding = daemon(world, policy(text, world), cgroup=str(root))
    guarding.hear("READY=1")
    assert lacking() == {"policy policy.web.cgroup", "policy policy.db.cgroup"}
    make(root / "web.service")
    until(lambda: guarding.guard("web").targets == 1, guarding.log())
    until(lambda: lacking() == {"policy policy.db.cgroup"}, str(guarding.status().degraded))
    assert guarding.guard("web").path == "/web.service"
    assert guarding.end() == 0


def make(cgroup: Path) -> None:
    """The files of a cgroup, complete when its directory appears."""
    fresh = cgroup.parent.parent / "fresh"
    fresh.mkdir()
    for name, text in {
        "memory.current": "1048576",
        "memory.max": "268435456",
        "memory.high": "max",
        "memory.swap.current": "0",
        "memory.swap.max": "max",
        "memory.stat": "anon 1048576\nfile 0\nshmem 0\nslab_reclaimable 0",
        "memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0",
        "cgroup.events": "populated 1\nfrozen 0",
        "cgroup.procs": "",
        "memory.oom.group": "0",
    }.items():
        (fresh / name).write_text(f"{text}\n")
    fresh.rename(cgroup)


def test_the_watchdog_hears_of_it_though_nothing_happens(world: World, daemon: Start) -> None:
    guarding = daemon(world, policy(HOST, world), watchdog_usec=100_000)
    guarding.hear("READY=1")
    for _ in range(5):
        guarding.hear("WATCHDOG=1")
    assert guarding.end() == 0


def test_only_one_may_guard(world: World, daemon: Start) -> None:
    first = daemon(world, policy(HOST, world))
    first.hear("READY=1")
    second = Daemon.start(world, policy(HOST, world))
    try:
        assert second.process.wait(PATIENCE_S) == 3
    finally:
        second.close()
    assert "another oomguard runs with this runtime directory" in first.log()
    assert first.status().numbers.pid == first.process.pid, "the page is still the first one's"
    assert first.end() == 0


def test_the_next_may_start_at_once(world: World, daemon: Start) -> None:
    for _ in range(3):
        guarding = daemon(world, policy(HOST, world))
        guarding.hear("READY=1")
        guarding.process.kill()
        guarding.process.wait()


# --------------------------------------------------------------------------------------------------------------- reload


def test_a_good_policy_is_taken_over(world: World, daemon: Start) -> None:
    guarding = daemon(world, policy(HOST, world))
    guarding.hear("READY=1")
    (world.root / "policy.toml").write_text(policy(HOST + HOST.replace("policy.host", "policy.other"), world))
    guarding.process.send_signal(signal.SIGHUP)
    reloading = guarding.hear("RELOADING=1")
    assert "MONOTONIC_USEC=" in reloading
    guarding.hear("READY=1")
    until(lambda: [guard.name for guard in guarding.status().guards] == ["host", "other"])
    (world.root / "policy.toml").write_text(policy(OBSERVE, world))
    guarding.process.send_signal(signal.SIGHUP)
    guarding.hear("RELOADING=1")
    guarding.hear("READY=1")
    until(lambda: [(guard.name, guard.mode) for guard in guarding.status().guards] == [("host", "observe")])
    assert guarding.end() == 0


def test_an_armed_guard_goes_on_under_a_changed_policy(world: World, daemon: Start, hog: Hog) -> None:
    """Its phase, its incident and its flight recorder; and the victim is the one that the new policy means."""
    heavy, small = hog(60), hog(40, b"other")
    for process in (heavy, small):
        world.see(process.pid)
    guarding = daemon(world, policy(HOST, world))
    guarding.hear("READY=1")
    world.available(200)
    guarding.phase("armed")
    changed = HOST.replace("never = [", 'never = [{ comm = "hog" }, ')
    assert changed != HOST
    (world.root / "policy.toml").write_text(policy(changed, world))
    guarding.process.send_signal(signal.SIGHUP)
    guarding.hear("RELOADING=1")
    guarding.hear("READY=1")
    assert "reload" not in dict(guarding.status().degraded)
    assert guarding.guard().phase == "armed"
    world.available(20)
    assert small.wait(PATIENCE_S) == -signal.SIGKILL
    assert heavy.poll() is None
    world.available(900)
    guarding.phase("calm")
    until(lambda: incidents(world))
    assert len(incidents(world)) == 1, "one engagement, under two policies"
    assert guarding.end() == 0


def test_a_hook_has_a_process_of_its_own_from_the_reload_that_brings_it(world: World, daemon: Start) -> None:
    guarding = daemon(world, policy(OBSERVE, world))
    guarding.hear("READY=1")
    assert "runner" not in guarding.workers(), "who has no hook has no such process"
    told = world.root / "told"
    told.touch()
    told.chmod(0o666)
    hooked = HOST.replace('"notify", "kill"]', f'"notify", {{ run = ["/usr/bin/tee", "{told}"] }}]')
    assert hooked != HOST
    (world.root / "policy.toml").write_text(policy(hooked, world))
    guarding.process.send_signal(signal.SIGHUP)
    guarding.hear("RELOADING=1")
    guarding.hear("READY=1")
    until(lambda: "runner" in guarding.workers())
    world.available(50)
    until(lambda: told.read_text().endswith("}"))
    assert json.loads(told.read_text())["watermark"] == "hard"
    world.available(900)
    guarding.phase("calm")
    assert guarding.end() == 0
    again = daemon(world, policy(hooked, world))
    again.hear("READY=1")
    assert "runner" in again.workers()
    assert again.end() == 0


def test_programs_are_told_from_the_reload_that_brings_it_and_over_a_death_of_the_broker(
    world: World, daemon: Start
) -> None:
    guarding = daemon(world, policy(OBSERVE, world))
    guarding.hear("READY=1")
    assert "broker" not in guarding.workers(), "who tells nobody has no such process"
    tells = HOST.replace('"notify", "kill"]', '"notify", { tell = { every = "1s" } }]')
    assert tells != HOST
    (world.root / "policy.toml").write_text(policy(tells, world))
    guarding.process.send_signal(signal.SIGHUP)
    guarding.hear("RELOADING=1")
    guarding.hear("READY=1")
    door = world.root / "run" / "pressure" / "host.sock"
    until(door.exists)
    with Watch({"MEMORY_PRESSURE_WATCH": str(door)}) as watch:
        watch.start()
        world.available(50)
        for _ in range(2):
            assert watch.wait(PATIENCE_S)
            assert watch.level == "hard"
        world.available(900)
        guarding.phase("calm")
        before = guarding.workers()["broker"]
        os.kill(before, signal.SIGKILL)
        until(lambda: guarding.workers().get("broker", before) != before)
        other = tells.replace("policy.host", "policy.other")
        more = tells + other.replace('every = "1s"', 'fifos = { x = "no-such-user" }')
        (world.root / "policy.toml").write_text(policy(more, world))
        guarding.process.send_signal(signal.SIGHUP)
        guarding.hear("RELOADING=1")
        guarding.hear("READY=1")
        until(door.with_name("other.sock").exists)
        until(lambda: "no-such-user" in dict(guarding.status().degraded).get("pressure", ""))
        while watch.wait(0):
            pass
        world.available(50)
        assert watch.wait(PATIENCE_S), "it was never cut off"
        assert watch.connected
        world.available(900)
        guarding.phase("calm")
    assert guarding.end() == 0
    assert "Traceback" not in guarding.log()


def test_a_wrong_policy_is_refused_and_the_old_one_stays(world: World, daemon: Start, hog: Hog) -> None:
    guarding = daemon(world, policy(HOST, world))
    guarding.hear("READY=1")
    good = (world.root / "policy.toml").read_text()
    (world.root / "policy.toml").write_text(good + "\n[policy.host.sotf]\n")
    guarding.process.send_signal(signal.SIGHUP)
    guarding.hear("RELOADING=1")
    guarding.hear("READY=1")
    until(lambda: "reload" in dict(guarding.status().degraded))
    assert "the old one is in force" in dict(guarding.status().degraded)["reload"]
    guarding.logged("the old policy stays in force")
    assert "had ended" not in guarding.log(), "nobody falls over a line break"
    assert guarding.guard().mode == "enforce"
    victim = hog(30)
    world.see(victim.pid)
    world.available(50)
    assert victim.wait(PATIENCE_S) == -signal.SIGKILL, "and it works"
    world.available(900)
    guarding.phase("calm")
    (world.root / "policy.toml").write_text(good)
    guarding.process.send_signal(signal.SIGHUP)
    guarding.hear("READY=1")
    until(lambda: "reload" not in dict(guarding.status().degraded))
    assert guarding.end() == 0


def test_a_compiler_that_is_not_there_is_a_refusal(world: World, daemon: Start) -> None:
    """The package is being replaced just now: nothing to compile with, and nothing lost."""
    guarding = daemon(world, policy(HOST, world))
    guarding.hear("READY=1")
    os.rename(world.root / "policy.toml", world.root / "elsewhere.toml")
    guarding.process.send_signal(signal.SIGHUP)
    guarding.hear("RELOADING=1")
    guarding.hear("READY=1")
    until(lambda: "reload" in dict(guarding.status().degraded))
    assert guarding.guard().phase == "calm"
    assert guarding.end() == 0


# -------------------------------------------------------------------------------------------------------------- workers


@pytest.mark.parametrize("name", ["reaper", "scribe", "herald"])
def test_a_worker_that_dies_is_started_again(world: World, daemon: Start, name: str) -> None:
    guarding = daemon(world, policy(HOST, world))
    guarding.hear("READY=1")
    first = guarding.workers()[name]
    os.kill(first, signal.SIGKILL)
    until(lambda: guarding.workers().get(name, first) != first, guarding.log())
    until(lambda: name not in dict(guarding.status().degraded))
    assert len(guarding.workers()) == 3
    guarding.logged(f"the {name} had ended and was started again")
    assert guarding.end() == 0


def test_workers_end_with_a_core_that_is_killed(world: World, daemon: Start) -> None:
    guarding = daemon(world, policy(HOST, world))
    guarding.hear("READY=1")
    fds = [os.pidfd_open(pid) for pid in guarding.workers().values()]
    assert len(fds) == 3
    guarding.end(signal.SIGKILL)
    for fd in fds:
        assert select.select([fd], [], [], PATIENCE_S)[0]
        os.close(fd)


# ---------------------------------------------------------------------------------------------------------- engagements


def incidents(world: World) -> list[dict[str, object]]:
    """Those that are on disk."""
    return [json.loads(path.read_text()) for path in sorted(world.root.glob("state/incidents/*/incident.json"))]


HOSTILE = [b"hog", b"a b", b"x) R 1 1 1\n0", b"\n\n", b"(((", b"\xff\xfe)", b") S 1 (", b"%s%n\\", b"0::/\n"]


@pytest.mark.parametrize("comm", HOSTILE, ids=repr)
def test_the_heaviest_is_ended_and_nobody_else(world: World, daemon: Start, hog: Hog, comm: bytes) -> None:
    """Soft, nominate, hard, kill, gone, calm; whatever the victim calls itself."""
    victim, small, canary = hog(60, comm), hog(20), hog(90, b"canary")
    for process in (victim, small, canary):
        world.see(process.pid)
    guarding = daemon(world, policy(HOST, world))
    guarding.hear("READY=1")
    assert guarding.guard().phase == "calm"
    world.available(200)
    guarding.phase("armed")
    assert victim.poll() is None
    world.available(50)
    assert victim.wait(PATIENCE_S) == -signal.SIGKILL
    guarding.phase("cooling", "armed", "firing")
    world.available(900)
    guarding.phase("calm")
    assert guarding.status().numbers.kills == 1
    assert small.poll() is None
    assert canary.poll() is None
    until(lambda: any(incident["victims"] for incident in incidents(world)), guarding.log())
    assert guarding.end() == 0
    assert "Traceback" not in guarding.log()


def test_whoever_looks_on_sees_it_happen(world: World, daemon: Start, hog: Hog) -> None:
    """The page: its lines, the nominee, what was done and what it freed; all of it locked in memory, not much of it."""
    victim = hog(60, b"leak\n\x1b[31m")
    world.see(victim.pid)
    guarding = daemon(world, policy(HOST, world))
    guarding.hear("READY=1")
    until(lambda: guarding.status().numbers.armed)
    size, locked = page_kib(guarding.process.pid)
    assert size == locked, "a page that is swapped out would have to be read from the disk"
    assert 0 < size <= 64, "what this policy does not need of it is not there"
    (clause,) = guarding.guard().soft
    assert [(it.kind, it.unit, it.number) for it in clause.all_of] == [("available_below", "millionths", 300_000)]
    assert not clause.holds
    world.available(250)
    until(lambda: guarding.status().nominees, "no nominee")
    page = guarding.status()
    (nominee,) = page.nominees
    assert (nominee.guard, nominee.pid, nominee.what) == ("host", victim.pid, "leak\n\x1b[31m")
    assert nominee.held_bytes > 50 * MIB
    assert (page.guards[0].phase, page.guards[0].soft[0].holds, page.guards[0].hard[0].holds) == ("armed", True, False)
    world.available(90)
    victim.wait(PATIENCE_S)
    world.available(900)
    guarding.phase("calm")
    page = guarding.status()
    kinds = [it.kind for it in reversed(page.events)]
    assert kinds == ["STARTED", "SOFT", "HARD", "KILLED", "VICTIM_GONE", "CALM"]
    assert (page.guards[0].kills, page.numbers.kills, page.nominees) == (1, 1, ())
    assert page.pressure is not None
    assert page.left_out == ()
    assert guarding.end() == 0


def page_kib(pid: int) -> tuple[int, int]:
    """(resident, locked) of the core's status page."""
    lines = Path(f"/proc/{pid}/smaps").read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.endswith("/run/status"))
    sizes = dict(line.split(":", 1) for line in lines[start + 1 : start + 24] if ":" in line.split()[0])
    return int(sizes["Rss"].split()[0]), int(sizes["Locked"].split()[0])


def test_observing_touches_nobody(world: World, daemon: Start, hog: Hog) -> None:
    victim = hog(60)
    world.see(victim.pid)
    guarding = daemon(world, policy(OBSERVE, world))
    guarding.hear("READY=1")
    world.available(200)
    guarding.phase("armed")
    world.available(50)
    guarding.logged("would have killed hog")
    world.available(900)
    guarding.phase("calm")
    assert victim.poll() is None
    assert guarding.status().numbers.kills == 0
    assert guarding.end() == 0


def test_one_after_the_other_while_it_does_not_get_better(world: World, daemon: Start, hog: Hog) -> None:
    """The next only when the last is gone, and the cooldown over."""
    hogs = [hog(size, b"hog%d" % size) for size in (30, 40, 50)]
    canary = hog(90, b"canary")
    for process in (*hogs, canary):
        world.see(process.pid)
    guarding = daemon(world, policy(HOST.replace('"auto"', '"process"'), world))
    guarding.hear("READY=1")
    world.available(95)
    for process in reversed(hogs):
        assert process.wait(PATIENCE_S) == -signal.SIGKILL
        (world.proc / str(process.pid)).unlink()
    guarding.logged("nobody")
    assert canary.poll() is None
    world.available(900)
    guarding.phase("calm")
    assert guarding.status().numbers.kills == 3
    assert guarding.end() == 0


def test_one_who_cannot_be_opened_does_not_hide_the_next(world: World, daemon: Start, hog: Hog) -> None:
    """/proc shows it, and no pidfd leads to it (another pid namespace): the second heaviest must go instead."""
    hidden, second = hog(90), hog(60)
    (world.proc / "4000000").symlink_to(f"/proc/{hidden.pid}")
    world.see(second.pid)
    guarding = daemon(world, policy(HOST.replace('"auto"', '"process"'), world))
    guarding.hear("READY=1")
    world.available(50)
    assert second.wait(PATIENCE_S) == -signal.SIGKILL
    assert hidden.poll() is None
    assert guarding.end() == 0


def test_who_may_end_by_himself_is_asked_first(world: World, daemon: Start, hog: Hog) -> None:
    """TERM, its grace, then KILL; a service that obeys is never killed."""
    deaf = hog(60, b"deaf", "signal.signal(signal.SIGTERM, lambda *_: os.write(1, b't'))")
    good = hog(40, b"good", "signal.signal(signal.SIGTERM, lambda *_: os._exit(7))")
    for process in (deaf, good):
        world.see(process.pid)
    text = HOST.replace('do = ["snapshot", "notify", "kill"]', 'do = [{ kill = { grace = "300ms" } }]')
    guarding = daemon(world, policy(text, world))
    guarding.hear("READY=1")
    world.available(95)
    assert deaf.wait(PATIENCE_S) == -signal.SIGKILL
    assert deaf.stdout is not None
    assert deaf.stdout.read(1) == b"t", "it was asked"
    (world.proc / str(deaf.pid)).unlink()
    assert good.wait(PATIENCE_S) == 7
    assert guarding.end() == 0


def test_a_leader_that_left_its_threads_behind(world: World, daemon: Start, hog: Hog) -> None:
    """stat says Z, and the memory is still held: it is a victim like any other, gone when the last thread is."""
    text = "import ctypes\nthreading.Thread(target=lambda: (os.write(1, b'r'), time.sleep(999))).start()\n"
    victim = hog(60, b"zombie", text + "time.sleep(.05)\nctypes.CDLL(None).syscall(60, 0)")
    stat = Path(f"/proc/{victim.pid}/stat")
    until(lambda: ") Z " in stat.read_text())
    world.see(victim.pid)
    guarding = daemon(world, policy(HOST, world))
    guarding.hear("READY=1")
    world.available(50)
    assert victim.wait(PATIENCE_S) == -signal.SIGKILL
    guarding.logged("is gone")
    assert guarding.end() == 0


def test_kernel_kills_are_counted(world: World, daemon: Start) -> None:
    world.kernel_kills(5)
    guarding = daemon(world, policy(HOST, world))
    guarding.hear("READY=1")
    assert guarding.status().numbers.kernel_oom_kills == 0, "what was before us is not our story"
    world.kernel_kills(7)
    until(lambda: guarding.status().numbers.kernel_oom_kills == 2, guarding.log())
    assert guarding.end() == 0


# --------------------------------------------------------------------------------------------------------------- leases

SCORED = HOST.replace(
    'do = ["snapshot", "notify", "kill"]', 'do = [{ set_oom_score_adj = { to = 900, for = "10m" } }, "notify"]'
)


def leased(world: World, daemon: Start, hog: Hog) -> tuple[Daemon, Path]:
    """A daemon that has raised its nominee's oom_score_adj for ten minutes."""
    victim = hog(60)
    world.see(victim.pid)
    guarding = daemon(world, policy(SCORED, world))
    guarding.hear("READY=1")
    score = Path(f"/proc/{victim.pid}/oom_score_adj")
    before = score.read_text()
    world.available(200)
    guarding.phase("armed")
    until(lambda: f"{victim.pid}" in guarding.log() or guarding.status().numbers.turns > 20)
    world.available(50)
    until(lambda: score.read_text() == "900\n", guarding.log())
    score_before = world.root / "before"
    score_before.write_text(before)
    return guarding, score


def test_a_lease_ends_with_the_daemon(world: World, daemon: Start, hog: Hog) -> None:
    guarding, score = leased(world, daemon, hog)
    assert guarding.end() == 0
    assert score.read_text() == (world.root / "before").read_text()
    book = leases.Journal(str(world.root / "run" / leases.NAME))
    assert book.entries() == []
    book.close()


def test_a_lease_ends_with_a_daemon_that_is_killed(world: World, daemon: Start, hog: Hog) -> None:
    """The reaper puts it back."""
    guarding, score = leased(world, daemon, hog)
    guarding.end(signal.SIGKILL)
    until(lambda: score.read_text() == (world.root / "before").read_text(), guarding.log())


def test_a_lease_ends_with_calm(world: World, daemon: Start, hog: Hog) -> None:
    guarding, score = leased(world, daemon, hog)
    world.available(900)
    guarding.phase("calm")
    until(lambda: score.read_text() == (world.root / "before").read_text(), guarding.log())
    assert guarding.end() == 0


def test_killed_at_any_moment_of_an_engagement(world: World, daemon: Start, hog: Hog) -> None:
    """Twelve times, with and without its reaper: then, or at the latest after the next start, nothing is left."""
    dice = random.Random(3)
    victim = hog(60)
    world.see(victim.pid)
    score = Path(f"/proc/{victim.pid}/oom_score_adj")
    before = score.read_text()
    caught = 0
    for number in range(12):
        world.available(900)
        guarding = daemon(world, policy(SCORED, world))
        guarding.hear("READY=1")
        assert score.read_text() == before
        reaper = guarding.workers()["reaper"]
        fd = os.pidfd_open(reaper)
        world.available(200)
        guarding.phase("armed")
        world.available(50)
        if number % 2:
            until(lambda: score.read_text() != before)
            caught += 1
        time.sleep(dice.uniform(0, 0.1))  # the point of the test: any moment
        if number % 3 == 0:
            guarding.process.send_signal(signal.SIGSTOP)
            os.kill(reaper, signal.SIGKILL)
        guarding.end(signal.SIGKILL)
        assert select.select([fd], [], [], PATIENCE_S)[0]
        os.close(fd)
        if number % 3:
            assert score.read_text() == before, "the reaper is gone, and has left something"
    assert caught == 6, "with a lease out"
    world.available(900)
    last = daemon(world, policy(SCORED, world))
    last.hear("READY=1")
    assert score.read_text() == before
    assert last.end() == 0


def test_the_next_start_puts_back_what_nobody_could(world: World, daemon: Start, hog: Hog) -> None:
    """Core and reaper killed at once: the machine's own OOM killer, or a careless kill -9 of all of us."""
    guarding, score = leased(world, daemon, hog)
    reaper = guarding.workers()["reaper"]
    guarding.process.send_signal(signal.SIGSTOP)
    os.kill(reaper, signal.SIGKILL)
    guarding.end(signal.SIGKILL)
    assert score.read_text() == "900\n"
    world.available(900)
    again = daemon(world, policy(SCORED, world))
    again.hear("READY=1")
    assert score.read_text() == (world.root / "before").read_text()
    assert again.status().numbers.leases_undone == 1
    assert again.end() == 0


def test_a_new_reaper_does_not_do_again_what_is_over(world: World, daemon: Start, hog: Hog) -> None:
    """The orders of an hour stand in the ring: a reaper that began at the first one would write them all again."""
    guarding, score = leased(world, daemon, hog)
    world.available(900)
    guarding.phase("calm")
    until(lambda: score.read_text() == (world.root / "before").read_text(), guarding.log())
    first = guarding.workers()["reaper"]
    os.kill(first, signal.SIGKILL)
    until(lambda: guarding.workers().get("reaper", first) != first)
    until(lambda: "reaper" not in dict(guarding.status().degraded))
    world.available(200)  # it is asked to open a nominee, so it has come past the old orders
    guarding.phase("armed")
    reaper = guarding.workers()["reaper"]
    until(lambda: len(os.listdir(f"/proc/{reaper}/fd")) > 8 or any("pidfd" in link for link in links(reaper)))
    assert score.read_text() == (world.root / "before").read_text()
    assert guarding.end() == 0


def links(pid: int) -> list[str]:
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
        except OSError:
            continue
    return found


# ------------------------------------------------------------------------------------------------------ memory and time


def test_no_page_fault_while_nothing_happens(world: World, daemon: Start) -> None:
    """Hundreds of turns after READY=1: not one, minor or major."""
    world.available(300)  # so near to the watermark that it looks often
    guarding = daemon(world, policy(HOST.replace("30%", "29%"), world), watchdog_usec=20_000)
    guarding.hear("READY=1")
    until(lambda: guarding.status().numbers.turns > 300)
    numbers = guarding.status().numbers
    assert (numbers.minor_faults, numbers.major_faults) == (0, 0)
    assert guarding.end() == 0


def test_no_page_fault_while_armed(world: World, daemon: Start, hog: Hog) -> None:
    """Surveys, nominations and snapshots over and over."""
    for process in (hog(60), hog(40), hog(20)):
        world.see(process.pid)
    guarding = daemon(world, policy(OBSERVE, world))
    guarding.hear("READY=1")
    world.available(200)
    guarding.phase("armed")
    begun = guarding.status().numbers.turns
    until(lambda: guarding.status().numbers.turns > begun + 300)
    numbers = guarding.status().numbers
    assert (numbers.minor_faults, numbers.major_faults) == (0, 0)
    assert numbers.drops == 0
    assert guarding.end() == 0


def test_the_recorder_is_locked_memory_of_a_size_that_was_asked_for(world: World, daemon: Start, hog: Hog) -> None:
    """Turns and minutes: every page is there and locked, before and after there was much to record."""
    asked = policy(HOST, world).replace("[daemon]", '[daemon]\nring = "512KiB"')
    sizes = {(512 << 10) + mmap.PAGESIZE, MINUTES_BYTES + mmap.PAGESIZE}
    guarding = daemon(world, asked)
    guarding.hear("READY=1")
    if "memory lock" in dict(guarding.status().degraded):
        pytest.skip("memory may not be locked here")
    assert recorders(guarding.process.pid, sizes) == sizes
    victim = hog(60)
    world.see(victim.pid)
    world.available(50)
    assert victim.wait(PATIENCE_S) == -signal.SIGKILL
    assert recorders(guarding.process.pid, sizes) == sizes
    assert guarding.end() == 0


def recorders(pid: int, sizes: set[int]) -> set[int]:
    """Of the shared memory of these sizes that process has, what is in memory and locked to the last page."""
    found = set()
    for mapping in re.split(r"\n(?=[0-9a-f]+-)", Path(f"/proc/{pid}/smaps").read_text()):
        values = dict(re.findall(r"^(\w+): +(.+)$", mapping, re.MULTILINE))
        size = int(values["Size"].split()[0]) << 10
        whole = (
            values["Rss"] == values["Size"] and "lo" in values["VmFlags"].split() and "sh" in values["VmFlags"].split()
        )
        if size in sizes and whole:
            found.add(size)
    return found


def test_descriptors_do_not_grow(world: World, daemon: Start, hog: Hog) -> None:
    for process in (hog(60), hog(40), hog(20)):
        world.see(process.pid)
    guarding = daemon(world, policy(OBSERVE, world))
    guarding.hear("READY=1")
    world.available(200)
    guarding.phase("armed")
    pids = [guarding.process.pid, *guarding.workers().values()]
    counts = {pid: [] for pid in pids}  # type: dict[int, list[int]]
    for available in (200, 190, 180, 170):
        world.available(available)
        begun = guarding.status().numbers.turns
        until(lambda begun=begun: guarding.status().numbers.turns > begun + 60)
        for pid in pids:
            counts[pid].append(len(os.listdir(f"/proc/{pid}/fd")))
    for seen in counts.values():
        assert max(seen[1:]) <= seen[0] + 2, "a survey or a snapshot may be under way, not more"
    assert guarding.end() == 0


# ----------------------------------------------------------------------------------------- reload and respawn under way


def test_a_soft_watermark_that_always_holds_can_be_corrected(world: World, daemon: Start) -> None:
    """Armed for ever, by mistake: the better policy must be read all the same."""
    guarding = daemon(world, policy(HOST, world))
    guarding.hear("READY=1")
    world.available(250)
    guarding.phase("armed")
    (world.root / "policy.toml").write_text(policy(HOST.replace("30%", "20%"), world))
    guarding.process.send_signal(signal.SIGHUP)
    guarding.hear("RELOADING=1")
    guarding.hear("READY=1")
    guarding.phase("calm")
    assert guarding.end() == 0


def test_nobody_reloads_while_somebody_dies(world: World, daemon: Start, hog: Hog) -> None:
    """The compiler needs memory that is not there; what is wanted is done afterwards."""
    deaf = hog(60, b"deaf", "signal.signal(signal.SIGTERM, lambda *_: os.write(1, b't'))")
    world.see(deaf.pid)
    text = HOST.replace('do = ["snapshot", "notify", "kill"]', 'do = [{ kill = { grace = "60s" } }]')
    guarding = daemon(world, policy(text, world))
    guarding.hear("READY=1")
    world.available(95)
    guarding.phase("draining")
    (world.root / "policy.toml").write_text(policy(text + text.replace("policy.host", "policy.other"), world))
    guarding.process.send_signal(signal.SIGHUP)
    begun = guarding.status().numbers.turns
    until(lambda: guarding.status().numbers.turns > begun + 20)
    assert len(guarding.status().guards) == 1
    deaf.kill()
    world.available(900)
    guarding.hear("RELOADING=1")
    guarding.hear("READY=1")
    until(lambda: len(guarding.status().guards) == 2)
    assert guarding.end() == 0


def test_a_nominee_is_let_go_when_its_guard_is_gone(world: World, daemon: Start, hog: Hog) -> None:
    """The guard that had chosen it is not in the new policy any more."""
    victim = hog(60)
    world.see(victim.pid)
    guarding = daemon(world, policy(SCORED, world))
    guarding.hear("READY=1")
    until(lambda: guarding.status().numbers.armed)  # by then the socket on which it said so is closed
    before = len(links(guarding.process.pid))
    world.available(250)
    guarding.phase("armed")
    until(lambda: len(links(guarding.process.pid)) > before)
    other = HOST.replace("policy.host", "policy.other").replace("30%", "5%").replace("10%", "2%")
    (world.root / "policy.toml").write_text(policy(other, world))
    guarding.process.send_signal(signal.SIGHUP)
    guarding.hear("READY=1")
    until(lambda: [guard.name for guard in guarding.status().guards] == ["other"])
    until(lambda: len(links(guarding.process.pid)) == before)
    world.available(90)
    begun = guarding.status().numbers.turns
    until(lambda: guarding.status().numbers.turns > begun + 3)
    assert victim.poll() is None
    assert guarding.end() == 0


def test_two_workers_at_once(world: World, daemon: Start) -> None:
    guarding = daemon(world, policy(HOST, world))
    guarding.hear("READY=1")
    first = guarding.workers()
    for pid in first.values():
        os.kill(pid, signal.SIGKILL)
    until(lambda: len(guarding.workers()) == 3 and not set(guarding.workers().values()) & set(first.values()))
    for name in first:
        until(lambda name=name: name not in dict(guarding.status().degraded))
    assert guarding.end() == 0


def test_a_worker_that_always_dies_is_given_up_and_said(world: World, daemon: Start) -> None:
    guarding = daemon(world, policy(HOST, world))
    guarding.hear("READY=1")
    seen: set[int] = set()
    while "stays dead" not in dict(guarding.status().degraded).get("scribe", ""):
        pid = guarding.workers().get("scribe")
        if pid is not None and pid not in seen:
            seen.add(pid)
            os.kill(pid, signal.SIGKILL)
        assert guarding.process.poll() is None
    assert len(seen) == 21
    assert set(guarding.workers()) == {"reaper", "herald"}
    assert guarding.end() == 0


def test_a_killed_reaper_leaves_no_lease_behind(world: World, daemon: Start, hog: Hog) -> None:
    """It dies while a lease is out; calm comes only afterwards."""
    guarding, score = leased(world, daemon, hog)
    first = guarding.workers()["reaper"]
    os.kill(first, signal.SIGKILL)
    until(lambda: "reaper" in dict(guarding.status().degraded))
    world.available(900)
    guarding.phase("calm")
    until(lambda: score.read_text() == (world.root / "before").read_text(), guarding.log())
    assert guarding.end() == 0


def test_no_page_fault_after_a_worker_was_started_again(world: World, daemon: Start, hog: Hog) -> None:
    """The fork leaves all our pages shared with the child; each would fault at its next write, if it stayed so."""
    world.see(hog(60).pid)
    guarding = daemon(world, policy(OBSERVE, world))
    guarding.hear("READY=1")
    world.available(200)
    guarding.phase("armed")  # so that every way has been gone once
    world.available(900)
    guarding.phase("calm")
    first = guarding.workers()["scribe"]
    os.kill(first, signal.SIGKILL)
    until(lambda: guarding.workers().get("scribe", first) != first)
    until(lambda: "scribe" not in dict(guarding.status().degraded))
    before = guarding.status().numbers
    world.available(200)
    guarding.phase("armed")
    until(lambda: guarding.status().numbers.turns > before.turns + 200)
    after = guarding.status().numbers
    assert (before.minor_faults, after.minor_faults, after.major_faults) == (0, 0, 0)
    assert guarding.end() == 0


# ---------------------------------------------------------------------------------------------------- how it cannot run

CORE = Path(leases.__file__).parents[1] / "core" / "__main__.py"


@pytest.mark.parametrize("arguments", [[], ["--plan-fd"], ["--help"], ["--plan-fd", "3", "more"]])
def test_the_core_is_not_started_by_hand(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-S", CORE, *arguments], capture_output=True, check=False)
    assert done.returncode == 2
    assert b"started by `oomguard run`" in done.stderr


@pytest.mark.parametrize("in_its_place", ["lock", "status.new", "."])
def test_a_runtime_directory_that_is_not_ours(world: World, in_its_place: str) -> None:
    """Something lies where our files go, or it is no directory: one line says what, and nothing is left running."""
    if in_its_place == ".":
        (world.root / "run").rmdir()
        (world.root / "run").write_text("")
    else:
        (world.root / "precious").write_text("precious")
        (world.root / "run" / in_its_place).symlink_to(world.root / "precious")
    refused = Daemon.start(world, policy(HOST, world))
    try:
        assert refused.process.wait(PATIENCE_S) == 3
    finally:
        refused.close()
    assert str(world.root / "run") in refused.log()
    assert "Traceback" not in refused.log()
    if in_its_place != ".":
        assert (world.root / "precious").read_text() == "precious"


def test_a_journal_that_cannot_be_made_costs_the_leases_only(world: World, daemon: Start, hog: Hog) -> None:
    (world.root / "precious").write_text("precious")
    (world.root / "run" / "leases").symlink_to(world.root / "nowhere")
    victim = hog(60)
    world.see(victim.pid)
    guarding = daemon(world, policy(HOST, world))
    guarding.hear("READY=1")
    assert "leases" in dict(guarding.status().degraded)
    world.available(50)
    assert victim.wait(PATIENCE_S) == -signal.SIGKILL
    assert guarding.end() == 0


def test_a_state_directory_that_cannot_be_made_costs_the_incidents_only(world: World, daemon: Start, hog: Hog) -> None:
    (world.root / "state").rmdir()
    (world.root / "state").write_text("")
    victim = hog(60)
    world.see(victim.pid)
    guarding = daemon(world, policy(HOST, world))
    guarding.hear("READY=1")
    assert "incidents" in dict(guarding.status().degraded)
    world.available(50)
    assert victim.wait(PATIENCE_S) == -signal.SIGKILL
    assert guarding.end() == 0


def one_is_ended(world: World, guarding: Daemon, hog: Hog) -> None:
    """Memory is short until a process has died for it; then it is calm again."""
    victim = hog(60)
    world.see(victim.pid)
    world.available(50)
    assert victim.wait(PATIENCE_S) == -signal.SIGKILL
    world.available(900)
    guarding.phase("calm")


def test_a_disk_that_hangs_delays_no_kill(world: World, daemon: Start, hog: Hog) -> None:
    """Whoever writes there waits, and no signal wakes him: that is the scribe, and he alone."""
    state = world.root / "state"
    try:
        here = contextlib.ExitStack()
        here.enter_context(disk(state, "ext4"))
    except OSError as error:
        pytest.skip(f"no file system of our own here: {error}")
    with here:
        guarding = daemon(world, policy(HOST, world))
        guarding.hear("READY=1")
        until(lambda: (state / "blackbox").exists() and (state / "blackbox").stat().st_size == BOX)
        with frozen(state):
            for _ in range(2):
                one_is_ended(world, guarding, hog)
            assert incidents(world) == [], "the disk has taken nothing"
            assert guarding.status().numbers.kills == 2
        until(lambda: len([doc for doc in incidents(world) if doc["complete"]]) == 2, guarding.log())
        assert guarding.end() == 0


@pytest.mark.parametrize("day", ["full", "read-only", "vanished"])
def test_a_disk_that_takes_nothing_costs_no_kill_and_is_said(world: World, daemon: Start, hog: Hog, day: str) -> None:
    """One that has vanished is made anew, on what lies below it: then nothing is lost."""
    state = world.root / "state"
    kind, worse = BAD_DAYS[day]
    with contextlib.ExitStack() as here:
        try:
            here.enter_context(disk(state, kind))
        except OSError as error:
            pytest.skip(f"no file system of our own here: {error}")
        guarding = daemon(world, policy(HOST, world))
        guarding.hear("READY=1")
        if kind != "ro":
            until(lambda: (state / "blackbox").exists() and (state / "blackbox").stat().st_size == BOX)
        here.enter_context(worse(state))
        one_is_ended(world, guarding, hog)
        assert guarding.status().numbers.kills == 1
        if day == "vanished":
            until(lambda: [doc for doc in incidents(world) if doc["complete"]], guarding.log())
        else:
            guarding.logged("incident.json not written")
        assert guarding.end() == 0


def test_the_page_goes_with_the_daemon(world: World, daemon: Start) -> None:
    guarding = daemon(world, policy(HOST, world))
    guarding.hear("READY=1")
    assert (world.root / "run" / "status").exists()
    assert guarding.end() == 0
    assert not (world.root / "run" / "status").exists()
