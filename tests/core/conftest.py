"""What the tests of the core share: worlds, daemons and processes that end with the test."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .world import Daemon, World, until


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    """As many as may be had, as the boot does it: what is watched depends on it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20_000), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """One that hooks and users without rights may look into.

    pytest's own is root's. Who opens it opens it for all other tests of this run, and the next pytest closes it again.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Starts daemons that do not outlive the test, nor their directory, and shows their log if it fails."""
    started: list[Daemon] = []

    def start(world: World, text: str, watchdog_usec: int = 0, cgroup: str = "", under: tuple[str, ...] = ()) -> Daemon:
        started.append(Daemon.start(world, text, watchdog_usec, cgroup, under))
        return started[-1]

    yield start
    for one in started:
        one.close()
    from tests.incidents import judged  # not in the virtual machine, and neither are the tests of a whole daemon

    for world in {id(one.world): one.world for one in started}.values():
        print((world.root / "log").read_text(errors="replace"))
        judged.all_again(world.root / "state" / "incidents")


@pytest.fixture
def hog() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a process that holds so many MiB under a name (comm), and does ``then``; with ``stdin``, after that."""
    started: list[subprocess.Popen[bytes]] = []

    def start(mib: int, comm: bytes = b"hog", then: str = "", stdin: bool = False) -> subprocess.Popen[bytes]:
        text = (
            "import os, signal, sys, threading, time\n"
            "signal.pthread_sigmask(signal.SIG_SETMASK, ())\n"
            f"open('/proc/self/comm', 'wb').write({comm!r})\n"
            f"held = b'x' * ({mib} << 20)\n"
            f"{'' if stdin else then}\n"
            "os.write(1, b'r')\n"
            f"{then if stdin else ''}\n"
            "while True: time.sleep(999)\n"
        )
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", text], stdin=subprocess.PIPE if stdin else None, stdout=subprocess.PIPE
        )
        started.append(process)
        assert process.stdout is not None
        assert os.read(process.stdout.fileno(), 1) == b"r"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


@pytest.fixture
def no_leak() -> Iterator[None]:
    """Fails if the test leaves a descriptor open."""
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    until(lambda: sorted(os.listdir("/proc/self/fd")) == before, "descriptors were left open")
