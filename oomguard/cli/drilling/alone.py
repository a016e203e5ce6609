"""A daemon of the drill's own: one guard on the scratch cgroup, in directories of its own, gone afterwards.

It is the same program with the same rights, started as by hand; whatever other daemon runs does not know of it.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from ...model.policy import Plan
from .. import live, scratch
from . import children
from .course import Course

READY_S = 60.0  # as the unit allows
LOOK_S = 0.2  # between two looks whether it has ended
ENDING_S = 20.0  # it writes out what it has begun; the unit waits 15 s


class Alone:
    """A context manager: whatever was started is gone after it."""

    _process: "subprocess.Popen[bytes] | None" = None
    _home: Path | None = None

    def __init__(self, plan: Plan, course: Course, keep: Path | None) -> None:
        self._keep = keep
        self._manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        daemon = replace(plan.daemon, shadow="", budget=None)
        self.plan = replace(plan, daemon=daemon, guards=(course.guard,), sinks=())  # nobody is called for a try

    def start(self) -> None:
        """Running and armed. OSError, with what was started: it does not start."""
        with children.undisturbed():
            self._home = Path(tempfile.mkdtemp(prefix=f"{scratch.name()}-", dir=_volatile()))
        self.runtime_dir, self.state_dir = self._home / "run", self._keep or self._home / "state"
        self._run(self._home)
        self._arm()

    def _run(self, home: Path) -> None:
        from ...policy import spoken, toml

        config = home / "drill.toml"
        config.write_text(toml.document(spoken.tables(self.plan)), encoding="utf-8")
        words = [sys.executable, "-m", "oomguard", "run", "--config", str(config)]
        words += ["--runtime-dir", str(self.runtime_dir), "--state-dir", str(self.state_dir)]
        self._manager.bind(f"{home}/notify")
        environment = {name: value for name, value in os.environ.items() if name not in _MANAGERS}
        environment["NOTIFY_SOCKET"] = f"{home}/notify"
        with open(home / "log", "wb") as log, children.undisturbed():
            # SIGTERM: whatever ends us, it puts everything back and goes in order.
            self._process = children.start(words, signal.SIGTERM, environment, subprocess.DEVNULL, log, log)

    def _arm(self) -> None:
        """Until it has said READY=1, as to a service manager: then everything is rehearsed and memory is locked."""
        assert self._process is not None
        end = time.monotonic() + READY_S
        self._manager.settimeout(LOOK_S)
        while time.monotonic() < end:
            try:
                if b"READY=1" in self._manager.recv(4096).split(b"\n"):
                    return
            except TimeoutError:
                pass
            if self._process.poll() is not None:
                said = f"it ended with {self._process.returncode}: {self._last_words()}"
                raise ChildProcessError(0, said, "oomguard run")
        raise TimeoutError(0, f"it was not ready in {READY_S:.0f} s: {self._last_words()}", "oomguard run")

    def _last_words(self) -> str:
        assert self._home is not None
        lines = (self._home / "log").read_text("utf-8", "replace").strip().splitlines()
        return "; ".join(lines[-3:])

    def __enter__(self) -> "Alone":
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            process.terminate()
            try:
                process.wait(ENDING_S)
            except subprocess.TimeoutExpired:
                process.kill()  # its reaper puts everything back
                process.wait()
        self._manager.close()
        if self._home is not None:
            shutil.rmtree(self._home, ignore_errors=True)


def sweep() -> list[str]:
    """Remove the directories that killed drills have left behind, once their daemons are gone; which they were."""
    swept = []
    for home in sorted(Path(_volatile() or tempfile.gettempdir()).glob("oomguard-drill-*-*-*")):
        if home.stat().st_uid == os.geteuid() and not scratch.maker_lives(home.name):
            _gone(home / "run")
            shutil.rmtree(home, ignore_errors=True)
            swept.append(str(home))
    return swept


def _gone(runtime_dir: Path) -> None:
    """It was sent SIGTERM when its drill ended: until it has put back and written what it had to."""
    end = time.monotonic() + ENDING_S
    while time.monotonic() < end:
        try:
            live.page(runtime_dir)
        except (live.NotRunning, OSError):
            return
        time.sleep(0.05)


# What systemd has told whoever started the drill is not meant for this daemon.
_MANAGERS = ("WATCHDOG_USEC", "WATCHDOG_PID", "INVOCATION_ID", "JOURNAL_STREAM")


def _volatile() -> str | None:
    """Where nothing of it survives a boot."""
    return "/run" if os.access("/run", os.W_OK) else None
