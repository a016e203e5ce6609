"""``oomguard top``: the daemon's page, looked at again and again. It asks the daemon nothing and cannot hold it up."""

import contextlib
import json as json_
import os
import re
import select
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..model import statuspage
from ..model.statuspage import StatusPage
from ..policy import files
from . import live, say
from .run import Config

if TYPE_CHECKING:
    from .screen import View

Once = Annotated[bool, typer.Option("--once", help="One frame, and the end.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on a line for every frame.")]
Interval = Annotated[float, typer.Option("--interval", "-n", metavar="SECONDS", help="0.1 to 3600.")]
Svg = Annotated[
    Path | None, typer.Option("--svg", metavar="FILE", help="One frame, drawn into a file.", readable=False)
]
Sort = Annotated[str, typer.Option("--sort", metavar="near|policy|name|used", help="What comes first.")]

SORTS = ("near", "policy", "name", "used")  # as cli.screen has them, which takes rich
PLAIN_WIDTH = 80  # where nobody says how wide it is
SUSPEND = "\x1a"
ESCAPES = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|O.)?", re.DOTALL)  # arrow keys and the like, and the key Esc
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SIGNALS = (signal.SIGWINCH, signal.SIGTSTP, *_ENDS)


def top(
    runtime_dir: live.Runtime = None,
    config: Config = files.DEFAULT,
    once: Once = False,
    json: Json = False,
    interval: Interval = 1.0,
    sort: Sort = "near",
    svg: Svg = None,
) -> None:
    """Watch the daemon: policies against their watermarks, who grows, who would be ended, what happened.

    On a terminal until q is pressed (p pauses, s sorts otherwise); elsewhere one frame, or with --json one a line until
    it is ended. 0 fine, 1 no daemon runs.
    """
    if not 0.1 <= interval <= 3600:
        say.fail(say.WRONG_USE, f"--interval {interval:g}: from 0.1 to 3600 seconds")
    if sort not in SORTS:
        say.fail(say.WRONG_USE, f"--sort {sort}: one of {', '.join(SORTS)}")
    watched = Watched(live.runtime_dir(runtime_dir, config))
    page = watched.look()
    if page is None and (once or svg or not json):
        if json:
            _line({"pid": None, "error": watched.gone})
        say.fail(say.NOT_PERMITTED if watched.denied else say.FOUND, watched.gone + watched.mend)
    if svg is not None and page is not None:
        _draw_picture(page, sort, svg)
    elif json:
        _print_lines(watched, interval, once)
    elif once or not _is_screen():
        assert page is not None
        _print_frame(page, sort)
    else:
        _show(watched, interval, sort)


@dataclass(slots=True)
class Watched:
    """The daemon of a directory. ``page``: the last that was read; ``gone``: why there is none now, "" there is.

    ``denied``: it may not be read.
    """

    directory: Path
    page: StatusPage | None = None
    gone: str = ""
    denied: bool = False
    mend: str = ""  # what to do about it

    def look(self) -> StatusPage | None:
        """The page as it is now. None: nobody is behind it, or it cannot be read."""
        last = self.page
        try:
            self.page = live.page(self.directory) if last is None or self.gone else self._again(last)
            self.gone = ""
        except live.NotRunning as error:
            self.gone, self.mend = str(error), error.whole().removeprefix(str(error))
        except OSError as error:
            self.gone, self.denied = f"{error.filename}: {error.strerror}", isinstance(error, PermissionError)
        return None if self.gone else self.page

    def _again(self, last: StatusPage) -> StatusPage:
        """Whose page moves is alive: only where it does not, the process is looked for."""
        path = str(self.directory / statuspage.NAME)
        try:
            page = statuspage.read(path)
        except (FileNotFoundError, ValueError):
            return live.page(self.directory)  # which says what is wrong
        if (page.beat_ns, page.numbers.pid) == (last.beat_ns, last.numbers.pid) and not live.lives(page):
            return live.page(self.directory)
        return page


# -------------------------------------------------------------------------------------------------------- for programs


def _print_lines(watched: Watched, interval: float, once: bool) -> None:
    from .frame import plain

    due = time.monotonic()
    while True:
        page = watched.page
        _line({"pid": None, "error": watched.gone} if watched.gone or page is None else plain(page))
        if once:
            return
        due = max(due + interval, time.monotonic())
        time.sleep(due - time.monotonic())
        watched.look()


def _line(value: object) -> None:
    sys.stdout.write(json_.dumps(value) + "\n")
    sys.stdout.flush()


# ---------------------------------------------------------------------------------------------------------- for people


def _is_screen() -> bool:
    """Whether a frame can be drawn over the last one there, and a key be read."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown", "")


def _print_frame(page: StatusPage, sort: str) -> None:
    """As wide as what it goes to; all of it, however long."""
    from rich.console import Console

    from .screen import View, draw

    console = Console(highlight=False, no_color=not say.colors(sys.stdout))
    for line in draw(page, View(sort, keys=False), *_size()):
        line.rstrip()
        console.print(line, soft_wrap=True)


def _size() -> tuple[int, int]:
    """As wide as what it goes to, as long as it is; but for who says otherwise, as watch(1) does."""
    columns, lines = (
        int(told) if (told := os.environ.get(name, "")).isdecimal() else 0 for name in ("COLUMNS", "LINES")
    )
    if sys.stdout.isatty():
        columns, lines = os.get_terminal_size(1).columns, 0
    return min(columns, 1000) or PLAIN_WIDTH, min(lines, 1000) or 1000


def _draw_picture(page: StatusPage, sort: str, path: Path) -> None:
    """As a terminal shows it, in colours, without a font from elsewhere. OSError with the path."""
    from io import StringIO

    from rich.console import Console

    from .screen import View, draw

    width, lines = _size()
    console = Console(record=True, width=width, file=StringIO(), force_terminal=True, color_system="truecolor")
    for line in draw(page, View(sort, keys=False), width, lines):
        console.print(line, soft_wrap=True, highlight=False)
    drawn = console.export_svg(title="oomguard top")
    path.write_text(re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL), encoding="utf-8")


def _show(watched: Watched, interval: float, sort: str) -> None:
    """Until q or Ctrl-C. Whatever ends it, the terminal is as it was before."""
    from rich.console import Console, Group
    from rich.live import Live

    from .screen import View, draw

    console, view = Console(highlight=False, no_color=not say.colors(sys.stdout)), View(sort)

    def frame() -> Group:
        size = console.size
        view.now, view.now_ns = time.time(), time.monotonic_ns()
        assert watched.page is not None
        return Group(*draw(watched.page, view, size.width, size.height))

    with Keys() as keys, Live(frame(), console=console, screen=True, auto_refresh=False) as screen:
        due = time.monotonic() + interval
        while True:
            key = keys.wait(due - time.monotonic())
            if key in ("q", "Q", "\x04"):
                return
            if key == SUSPEND:
                screen.stop()
                keys.suspend()
                screen.start()
            _press(key, view)
            if time.monotonic() >= due:
                due = time.monotonic() + interval
                if not view.paused:
                    watched.look()
                    view.gone = watched.gone
            screen.update(frame(), refresh=True)


def _press(key: str, view: "View") -> None:
    if key in ("p", "P", " "):
        view.paused = not view.paused
    elif key in ("s", "S"):
        view.sort = SORTS[(SORTS.index(view.sort) + 1) % len(SORTS)]


class Keys:
    """Single keys, as they are pressed. The terminal is without line editing and echo; Ctrl-C and Ctrl-Z still work.

    A change of the window's size ends the wait for a key, too.
    """

    def __init__(self) -> None:
        import termios

        self.fd = sys.stdin.fileno()
        self.before = termios.tcgetattr(self.fd)
        self.heard, self.bell = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.wakeup = signal.set_wakeup_fd(self.bell, warn_on_full_buffer=False)
        self.typed: list[str] = []
        self.suspended = False
        self.ended_by = 0
        self.handlers = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}

    def _on_signal(self, number: int, _frame: object) -> None:
        """Remembered until the next wait: nothing is left half drawn."""
        if number == signal.SIGTSTP:
            self.suspended = True
        elif number in _ENDS:
            self.ended_by = number

    def __enter__(self) -> "Keys":
        import tty

        tty.setcbreak(self.fd)
        return self

    def __exit__(self, *_: object) -> None:
        self._put_back()
        signal.set_wakeup_fd(self.wakeup)
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        os.close(self.heard)
        os.close(self.bell)

    def _put_back(self) -> None:
        import termios

        with contextlib.suppress(termios.error):  # the terminal itself is gone
            termios.tcsetattr(self.fd, termios.TCSADRAIN, self.before)

    def suspend(self) -> None:
        """Ctrl-Z: until the shell lets us go on."""
        self._put_back()
        os.kill(os.getpid(), signal.SIGSTOP)
        self.suspended = False
        self.__enter__()

    def wait(self, most_s: float) -> str:
        """The next key, "" if there was none in this time; "q" when there will never be another."""
        ready, _, _ = select.select([self.fd, self.heard], [], [], 0.0 if self.typed else max(0.0, most_s))
        if self.heard in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self.heard, 4096)
        if self.ended_by:
            raise SystemExit(128 + self.ended_by)
        if self.suspended:
            return SUSPEND
        if self.fd in ready and not self.typed:  # on a slow line many come at once: each counts
            pressed = os.read(self.fd, 64)
            self.typed = list(ESCAPES.sub(b"", pressed).decode("latin-1")) if pressed else ["q"]
        return self.typed.pop(0) if self.typed else ""
