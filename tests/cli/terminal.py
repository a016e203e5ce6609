"""A terminal of any size with a command in it: what stands on its screen, and what was done to it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator

import pyte

PATIENCE_S = 40.0


class Terminal:
    """``screen`` as a VT100 would show it; ``raw`` all that was written to it."""

    def __init__(self, columns: int, lines: int, *words: object, env: dict[str, str] | None = None) -> None:
        self.screen = pyte.Screen(columns, lines)
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.master, self.slave = os.openpty()
        self.resize(columns, lines)
        self.modes = termios.tcgetattr(self.slave)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "oomguard", *map(str, words)],
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            env={"TERM": "xterm-256color", "LANG": "C.UTF-8", "PATH": os.environ["PATH"], **(env or {})},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - so that Ctrl-C is a signal
        )

    def resize(self, columns: int, lines: int) -> None:
        """As somebody who pulls at the corner of the window; the kernel sends SIGWINCH."""
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.screen.resize(lines, columns)

    def press(self, keys: str) -> None:
        """At the keyboard."""
        os.write(self.master, keys.encode())

    def read(self, most_s: float = 0.05) -> None:
        """What has been written meanwhile."""
        while select.select([self.master], [], [], most_s)[0]:
            with contextlib.suppress(OSError):
                data = os.read(self.master, 65536)
                self.raw += data
                self.stream.feed(data)
                most_s = 0.0
                continue
            return

    def lines(self) -> list[str]:
        """Without the blanks at the ends."""
        return [line.rstrip() for line in self.screen.display]

    def text(self) -> str:
        """All of it."""
        return "\n".join(self.lines())

    def until(self, seen: Callable[[str], object], what: str = "") -> str:
        """Wait for it; the screen then."""
        end = time.monotonic() + PATIENCE_S
        while not seen(self.text()):
            assert time.monotonic() < end, f"never seen: {what}\n{self.text()}"
            self.read()
        return self.text()

    def sees(self, part: str) -> str:
        """Wait until that stands there."""
        return self.until(lambda text: part in text, part)

    def end(self) -> int:
        """Wait for its end; the exit code, below 0 a signal."""
        end = time.monotonic() + PATIENCE_S
        while self.process.poll() is None:
            assert time.monotonic() < end, f"it does not end\n{self.text()}"
            self.read()
        self.read()
        return self.process.returncode

    def is_as_before(self) -> bool:
        """Its modes are those it had, the first screen is back, and the cursor can be seen."""
        entered, left = self.raw.rfind(b"\x1b[?1049h"), self.raw.rfind(b"\x1b[?1049l")
        hidden, shown = self.raw.rfind(b"\x1b[?25l"), self.raw.rfind(b"\x1b[?25h")
        return termios.tcgetattr(self.slave) == self.modes and left >= entered and shown >= hidden

    def close(self) -> None:
        """Whatever became of it."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@contextlib.contextmanager
def terminal(columns: int, lines: int, *words: object, env: dict[str, str] | None = None) -> Iterator[Terminal]:
    """One that is closed."""
    made = Terminal(columns, lines, *words, env=env)
    try:
        yield made
    finally:
        made.close()
