"""Sinks, all the way: a real daemon, a real kill, a real web server, and what status says when that is gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.workers.sending import Web

from .world import HOST, OOMGUARD, Daemon, World, gone, policy, until

Start = Callable[..., Daemon]
Hog = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def open_world() -> Iterator[World]:
    """One into which nobody may look: the herald and the sender are."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield World(Path(name))


@pytest.fixture
def web() -> Iterator[Web]:
    made = Web()
    yield made
    made.close()


def ops(world: World, web: Web) -> str:
    """The sink, its URL in a file of its own."""
    secret = world.root / "ops.url"
    secret.write_text(web.url)
    secret.chmod(0o600)
    return f'[sinks.ops]\nurl_file = "{secret}"\nevery = "0s"\n'


def report_of(world: World) -> Any:
    words = ("notify-test", "--json", "--config", str(world.root / "policy.toml"))
    done = subprocess.run([*OOMGUARD, *words], capture_output=True, check=False)
    return json.loads(done.stdout)


def notes(guarding: Daemon) -> dict[str, str]:
    return dict(guarding.status().degraded)


def senders_of(guarding: Daemon) -> list[str]:
    children = Path(f"/proc/{guarding.process.pid}/task/{guarding.process.pid}/children").read_text().split()
    return [child for child in children if "oomguard.workers.sender" in Path(f"/proc/{child}/cmdline").read_text()]


def test_a_kill_is_told(open_world: World, daemon: Start, hog: Hog, web: Web) -> None:
    world = open_world
    guarding = daemon(world, policy(HOST + ops(world, web), world))
    guarding.hear("READY=1")
    until(lambda: set(guarding.workers()) == {"reaper", "scribe", "herald", "sender"})
    leak = hog(64, b"leak")
    world.see(leak.pid)
    world.available(50)
    assert leak.wait(60) == -signal.SIGKILL
    world.available(900)
    got = web.next()
    assert got["title"].endswith(": killed")
    assert f"killed leak[{leak.pid}]" in got["message"]
    assert "TopSecretToken" not in guarding.log()
    everything = [path for path in world.root.rglob("*") if path.is_file() and path.suffix != ".url"]
    secret = [path for path in everything if "proc" not in path.parts and b"TopSecretToken" in path.read_bytes()]
    assert secret == [], "the URL is in the plan that is kept, or in an incident"
    assert guarding.end() == 0


def test_a_sink_comes_with_a_reload_and_its_sender_may_die(open_world: World, daemon: Start, web: Web) -> None:
    world = open_world
    guarding = daemon(world, policy(HOST, world))
    guarding.hear("READY=1")
    assert "sender" not in guarding.workers(), "nobody pays who has no sinks"
    (world.root / "policy.toml").write_text(policy(HOST + ops(world, web), world))
    guarding.process.send_signal(signal.SIGHUP)
    guarding.hear("RELOADING=1")
    guarding.hear("READY=1")
    until((world.root / "run/sender").exists)
    report = report_of(world)
    assert [(sink["sink"], sink["ok"], sink["by"]) for sink in report["sinks"]] == [
        ("journal", True, ""),
        ("ops", True, "daemon"),
    ]
    assert web.next()["title"].endswith(": TEST")
    os.kill(guarding.workers()["sender"], signal.SIGKILL)
    guarding.logged("the sender had ended and was started again")
    assert report_of(world)["ok"]

    # It dies, and a reload comes before it is started again: it is started once.
    until(lambda: len(senders_of(guarding)) == 1)
    guarding.process.send_signal(signal.SIGHUP)
    os.kill(int(senders_of(guarding)[0]), signal.SIGKILL)
    guarding.hear("RELOADING=1")
    guarding.hear("READY=1")
    until(lambda: "sender" not in notes(guarding), "status still says that it has ended")
    until(lambda: len(senders_of(guarding)) == 1)
    (world.root / "policy.toml").write_text(policy(HOST, world))
    guarding.process.send_signal(signal.SIGHUP)
    guarding.hear("RELOADING=1")
    guarding.hear("READY=1")
    until(lambda: senders_of(guarding) == [], "without sinks there is nobody to send")
    assert guarding.end() == 0


def test_a_sink_that_takes_nothing_is_in_status_and_journal(
    open_world: World, daemon: Start, hog: Hog, web: Web
) -> None:
    world = open_world
    guarding = daemon(world, policy(HOST + ops(world, web), world))
    guarding.hear("READY=1")
    web.close()
    leak = hog(64, b"leak")
    world.see(leak.pid)
    world.available(50)
    assert leak.wait(60) == -signal.SIGKILL
    world.available(900)
    until(lambda: "sink ops" in notes(guarding), "status says nothing of it")
    assert notes(guarding)["sink ops"].startswith("connection refused (nobody listens at that host and port); 1 wait")
    guarding.logged("sink ops: not delivered, and tried again: connection refused")
    assert guarding.status().numbers.major_faults == 0
    report = report_of(world)
    assert not report["ok"]
    assert report["sinks"][1]["error"] == "connection refused"
    assert guarding.end() == 0


def test_a_herald_that_dies_says_that_something_may_be_missing(open_world: World, daemon: Start, web: Web) -> None:
    world = open_world
    guarding = daemon(world, policy(HOST + ops(world, web), world))
    guarding.hear("READY=1")
    os.kill(guarding.workers()["herald"], signal.SIGKILL)
    got = web.next()
    assert got["title"].endswith(": failed")
    assert got["message"].startswith("the herald had ended, and with it what it had gathered")
    assert guarding.end() == 0


def test_a_sender_that_stands_still_holds_up_nobody(open_world: World, daemon: Start, hog: Hog, web: Web) -> None:
    """Neither the kill nor the journal; and however the daemon ends, it ends as soon as it can."""
    world = open_world
    guarding = daemon(world, policy(HOST + ops(world, web), world))
    guarding.hear("READY=1")
    until((world.root / "run/sender").exists)
    fd = os.pidfd_open(guarding.workers()["sender"])
    signal.pidfd_send_signal(fd, signal.SIGSTOP)
    leak = hog(64, b"leak")
    world.see(leak.pid)
    world.available(50)
    assert leak.wait(60) == -signal.SIGKILL
    world.available(900)
    guarding.logged(f"killed leak[{leak.pid}]")
    guarding.process.kill()
    signal.pidfd_send_signal(fd, signal.SIGCONT)
    until(lambda: gone(fd), "the sender outlives its daemon")
    os.close(fd)


def test_nothing_of_it_is_loaded_where_no_policy_asks() -> None:
    text = "import sys\nimport oomguard.workers.herald\nprint('oomguard.workers.sinks' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
