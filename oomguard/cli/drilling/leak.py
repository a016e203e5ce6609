"""The hog in its cgroup, and what is seen of it from outside: when it crossed the line, and when it was gone.

All times are CLOCK_MONOTONIC, as the daemon's are: they can be subtracted.
"""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time

from ..scratch import Scratch
from . import children
from .course import Course
from .outcome import Seen

OVER_BYTES = 16 << 20  # the hog is bounded: so much over the limit, where nothing enforces that
LOOK_MS = 1  # between two looks at what it holds


class Hog:
    """The process, waiting in the scratch cgroup for ``leak``. A context manager: gone after it, whatever came."""

    _process: "subprocess.Popen[bytes] | None" = None
    _fd = -1

    def __init__(self, scratch: Scratch, course: Course, rate_bytes: int, within_s: int) -> None:
        self._scratch, self._course = scratch, course
        script = os.path.join(os.path.dirname(__file__), "hog.py")
        size = course.limit_bytes + OVER_BYTES
        self._argv = [sys.executable, "-I", "-S", script, str(size), str(rate_bytes), str(2 * within_s + 60)]

    def start(self) -> None:
        """In its cgroup, and ready. OSError: that could not be."""
        with children.undisturbed():
            pipe = subprocess.PIPE
            self._process = children.start(self._argv, signal.SIGKILL, {"LC_ALL": "C"}, pipe, pipe, None)
            self._fd = os.pidfd_open(self._process.pid)
        self._scratch.admit(self._process.pid)
        out = self._process.stdout
        if out is None or out.readline() != b"ready\n":
            raise ChildProcessError(0, f"the hog has ended with {self._process.wait()}", self._argv[0])

    def __enter__(self) -> "Hog":
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        if process is None:
            return
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def pid(self) -> int:
        """Its number; 0: it was not started."""
        return self._process.pid if self._process is not None else 0

    def leak(self, within_s: float) -> Seen:
        """Let it go, and look until it is gone or the time is over."""
        kills = self._scratch.oom_kills() or 0
        process = self._process
        assert process is not None
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        crossed: int | None = None
        died: int | None = None
        peak = 0
        end_ns = time.monotonic_ns() + int(within_s * 1e9)
        while died is None and (now := time.monotonic_ns()) < end_ns:
            used = self._scratch.used() or 0
            peak = max(peak, used)
            if crossed is None and used >= self._course.line_bytes:
                crossed = now
            if poll.poll(LOOK_MS):
                died = time.monotonic_ns()
        return Seen(crossed, died, peak, (self._scratch.oom_kills() or 0) - kills)
