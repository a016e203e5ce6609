"""A machine for the daemon: made-up memory, real processes, and a service manager that listens.

``World`` is a /proc in which meminfo and vmstat are files of ours while every process is a link to the real one: so the
whole chain from the watermark to the death runs for real, on processes that a test started, and on no others.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from oomguard.linux import procfs
from oomguard.model import statuspage
from oomguard.model.statuspage import GuardLine, StatusPage

MIB = 1 << 20
PATIENCE_S = 40.0
OOMGUARD = [sys.executable, "-m", "oomguard"]


def until(true: Callable[[], object], what: str = "it did not come to that in time") -> None:
    """Wait for it; fail after the deadline."""
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.002)


def cgroup2_mount() -> Path | None:
    """Any cgroup2 that we may make cgroups in, with or without the memory controller."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2" and os.access(where, os.W_OK):
            return Path(where)
    return None


def start_ticks(pid: int) -> int:
    """Of a process that lives."""
    fd = procfs.open_proc()
    try:
        ticks = procfs.start_ticks(fd, pid)
    finally:
        os.close(fd)
    assert ticks is not None
    return ticks


def gone(pidfd: int) -> bool:
    """Whether that process has ended, now."""
    return bool(select.select([pidfd], [], [], 0)[0])


MEMINFO = """MemTotal:       {total:8d} kB
MemFree:        {free:8d} kB
MemAvailable:   {available:8d} kB
Buffers:               0 kB
Cached:                0 kB
SwapTotal:      {swap:8d} kB
SwapFree:       {swap_free:8d} kB
"""


class World:
    """Below ``root``: proc, state, run and the policy."""

    def __init__(self, root: Path, total_mib: int = 1024) -> None:
        self.root, self.total_mib = root, total_mib
        for name in ("proc", "state", "run"):
            (root / name).mkdir()
        self.proc = root / "proc"
        # Without cgroups: no survey of made-up memory may come upon the real cgroup that all of us live in.
        (self.proc / "self").mkdir()
        (self.proc / "self" / "mountinfo").touch()
        for name in ("stat", "status"):
            (self.proc / "self" / name).symlink_to(f"/proc/self/{name}")
        (self.proc / "pressure").symlink_to("/proc/pressure")
        (self.proc / "sys").symlink_to("/proc/sys")
        self.available(total_mib * 9 // 10)
        self.kernel_kills(0)

    def available(self, mib: int) -> None:
        """MemAvailable from now on. In place and in one write: the file is kept open by the daemon."""
        text = MEMINFO.format(total=self.total_mib << 10, free=mib << 10, available=mib << 10, swap=0, swap_free=0)
        self._store(self.proc / "meminfo", text)

    def kernel_kills(self, count: int) -> None:
        """vmstat's oom_kill."""
        self._store(self.proc / "vmstat", f"nr_free_pages 1\noom_kill {count:8d}\n")

    def _store(self, path: Path, text: str) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT)
        os.pwrite(fd, text.encode(), 0)
        os.close(fd)

    def see(self, pid: int) -> None:
        """This process is part of the world."""
        (self.proc / str(pid)).symlink_to(f"/proc/{pid}")


def policy(body: str, world: World) -> str:
    """A policy file for this world."""
    return f'[daemon]\nstate_dir = "{world.root / "state"}"\nruntime_dir = "{world.root / "run"}"\n{body}'


HOST = """
[policy.host]
cgroup = "/"
mode = "enforce"
cooldown = "1s"
[policy.host.soft]
when = [{ available_below = "30%" }]
do = ["snapshot", "notify", "nominate"]
[policy.host.hard]
when = [{ available_below = "10%" }]
do = ["snapshot", "notify", "kill"]
[policy.host.victim]
by = "memory"
take = "auto"
never = [{ comm = "canary" }]
"""


@dataclass
class Daemon:
    """A running `oomguard run`, and the service manager's end of its socket."""

    world: World
    process: subprocess.Popen[bytes]
    manager: socket.socket
    pidfd: int
    said: list[str] = field(default_factory=list)

    @classmethod
    def start(
        cls, world: World, text: str, watchdog_usec: int = 0, cgroup: str = "", under: tuple[str, ...] = ()
    ) -> Daemon:
        """As systemd would. ``under``: the command that starts it with fewer rights."""
        (world.root / "policy.toml").write_text(text)
        address = world.root / f"notify{len(list(world.root.iterdir()))}"
        manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        manager.bind(str(address))
        address.chmod(0o777)
        environment = dict(os.environ, NOTIFY_SOCKET=str(address))
        if watchdog_usec:
            environment["WATCHDOG_USEC"] = str(watchdog_usec)
        command = [*under, *OOMGUARD, "run", "--config", str(world.root / "policy.toml")]
        command += ["--proc", str(world.proc), *(["--cgroup", cgroup] if cgroup else [])]
        with open(world.root / "log", "ab") as log:
            process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return cls(world, process, manager, os.pidfd_open(process.pid))

    def hear(self, word: str) -> str:
        """The next message to the service manager that has this line."""
        end = time.monotonic() + PATIENCE_S
        while True:
            for number, message in enumerate(self.said):
                if word in message.split("\n"):
                    del self.said[: number + 1]
                    return message
            self.said.clear()
            left = end - time.monotonic()
            assert left > 0, f"{word} was never said\n{self.log()}"
            ready, _, _ = select.select([self.manager, self.pidfd], [], [], left)
            if self.manager in ready:
                self.said.append(self.manager.recv(65536).decode())
            else:
                assert not ready, f"the daemon has ended: {self.process.wait()}\n{self.log()}"

    def log(self) -> str:
        """What it wrote to stderr."""
        return (self.world.root / "log").read_text(errors="replace")

    def logged(self, text: str) -> None:
        """Wait until it has said so."""
        until(lambda: text in self.log(), f"{text!r} was never logged\n{self.log()}")

    def status(self) -> StatusPage:
        """What everybody sees."""
        return statuspage.read(str(self.world.root / "run" / statuspage.NAME))

    def guard(self, name: str = "host") -> GuardLine:
        """One guard of it."""
        return next(guard for guard in self.status().guards if guard.name == name)

    def phase(self, *wanted: str) -> None:
        """Wait until the guard is in one of these."""
        until(lambda: self.guard().phase in wanted, f"still {self.guard()}\n{self.log()}")

    def workers(self) -> dict[str, int]:
        """Name to pid of its children."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        found = {}
        for child in children:
            with contextlib.suppress(OSError):
                found[Path(f"/proc/{child}/comm").read_text().strip().removeprefix("oomguard-")] = int(child)
        return found

    def end(self, number: int = signal.SIGTERM) -> int:
        """Its exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        """Whatever became of it."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.manager.close()
        os.close(self.pidfd)
