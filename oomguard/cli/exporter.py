"""``oomguard exporter``: the daemon's numbers for Prometheus, over HTTP or in a file of node_exporter's.

It reads the status page and the incidents, needs no right but to read them, and cannot wake, block or ask the daemon.
"""

import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ..model.statuspage import StatusPage
from ..policy import files, units
from . import incidents, live, metrics, processes, say
from .run import Config
from .tally import Tally

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

# All of 9100 to 9999 is taken by others (the exporters' list of default ports).
DEFAULT: Final = "127.0.0.1:10066"
MOST_AT_ONCE: Final = 8  # answers; two Prometheus servers and somebody who looks are three
PATIENCE_S: Final = 10.0  # with who connects and says nothing
FIRST_FD: Final = 3  # sd_listen_fds(3)

Listen = Annotated[
    str | None,
    typer.Option("--listen", metavar="WHERE", help=f"ADDRESS:PORT or the path of a socket (default: {DEFAULT})."),
]
Textfile = Annotated[
    Path | None,
    typer.Option(
        "--textfile",
        metavar="FILE",
        help="Write them to this file instead (of node_exporter), and again.",
        readable=False,
    ),
]
Every = Annotated[str, typer.Option("--every", metavar="TIME", help="How often the file is written.")]
Once = Annotated[bool, typer.Option("--once", help="Print them, or write the file, once.")]
Json = Annotated[bool, typer.Option("--json", help="With --once: print JSON.")]


def exporter(
    listen: Listen = None,
    textfile: Textfile = None,
    every: Every = "15s",
    once: Once = False,
    runtime_dir: live.Runtime = None,
    state_dir: incidents.StateDir = None,
    config: Config = files.DEFAULT,
    json: Json = False,
) -> None:
    """Tell Prometheus what the status page says: over HTTP, or in a file for node_exporter."""
    if textfile is not None and listen is not None:
        say.fail(say.WRONG_USE, "--listen and --textfile: one of them")
    if json and (not once or textfile is not None):
        say.fail(say.WRONG_USE, "--json is for --once: with HTTP and a file the format is Prometheus's")
    pause_s = incidents.measured(units.duration, "--every", every) / 1e9
    source = Source(live.runtime_dir(runtime_dir, config), incidents.where(state_dir, config))
    _needs_client()
    if once and textfile is None:
        _print(source, json)
    elif textfile is not None:
        _write_again(source, textfile, None if once else pause_s)
    else:
        _serve(source, listen)


def _needs_client() -> None:
    try:
        import prometheus_client  # noqa: F401
    except ModuleNotFoundError:
        say.fail(
            say.FOUND,
            "prometheus-client is not installed; it comes with: make install EXTRAS=metrics, "
            "or pip install 'oomguard[metrics]'",
        )


class Source:
    """What is scraped: a collector in the words of prometheus_client. One look at a time."""

    def __init__(self, runtime_dir: Path, state_dir: Path) -> None:
        self.runtime_dir = runtime_dir
        self.state_dir = state_dir
        self.tally = Tally()
        self._said = ""
        self._lock = threading.Lock()

    def collect(self) -> "Iterable[Family]":
        """All families with samples, as of now."""
        with self._lock:
            return list(self.sheet().families())

    def sheet(self) -> metrics.Sheet:
        """All samples, as of now."""
        page = self._page()
        if page is not None:
            self.tally.expect(guard.name for guard in page.guards)
        readable = self.tally.look(self.state_dir)
        weighed = processes.of(page.numbers.pid) if page is not None else []
        return metrics.sheet(page, self.tally if readable else None, weighed, time.time(), time.monotonic_ns())

    def _page(self) -> StatusPage | None:
        """None: nobody runs, or it cannot be read; why is said once, and when it has changed."""
        try:
            page, why = live.page(self.runtime_dir), ""
        except live.NotRunning as error:
            page, why = None, str(error)
        except OSError as error:
            page, why = None, f"{error.filename}: {error.strerror}"
        if why != self._said:
            say.aside(f"oomguard: {why or f'the status page in {self.runtime_dir} can be read'}")
            self._said = why
        return page


# ------------------------------------------------------------------------------------------------------------- a file


def _print(source: Source, as_json: bool) -> None:
    from prometheus_client import generate_latest

    if as_json:
        say.as_json([_plain(family) for family in source.collect()])
    else:
        sys.stdout.write(generate_latest(source).decode())


def _plain(family: "Family") -> dict[str, object]:
    samples = [{"name": it.name, "labels": it.labels, "value": it.value} for it in family.samples]
    return {"name": family.name, "type": family.type, "help": family.documentation, "samples": samples}


def _write_again(source: Source, path: Path, pause_s: float | None) -> None:
    """Until it is stopped, when the file goes as well: an old one would be taken for the truth."""
    ended = threading.Event()
    if pause_s is not None:
        signal.signal(signal.SIGTERM, lambda *_: ended.set())
    write(source, path)  # what is wrong with the place is said at once, and ends it
    try:
        while pause_s is not None and not ended.wait(pause_s):
            try:
                write(source, path)
            except OSError as error:  # a full disk: the next one may be written
                say.aside(f"oomguard: {path}: {error.strerror}")
    finally:
        if pause_s is not None:
            path.unlink(missing_ok=True)


def write(source: Source, path: Path) -> None:
    """The file, whole or not at all; for everybody to read. OSError with the path."""
    from prometheus_client import generate_latest

    content = generate_latest(source)
    fd, fresh = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # node_exporter reads *.prom
    try:
        with open(fd, "wb") as file:
            file.write(content)
            os.fchmod(fd, 0o644)
        os.rename(fresh, path)
    except OSError as error:
        os.unlink(fresh)
        raise OSError(error.errno, error.strerror, str(path)) from None


# --------------------------------------------------------------------------------------------------------------- HTTP


def _serve(source: Source, listen: str | None) -> None:
    from . import http

    passed = _passed()
    if passed is not None and listen is not None:
        say.fail(say.WRONG_USE, "--listen: systemd has handed over a socket already (oomguard-exporter.socket)")
    where = passed or bound(listen or DEFAULT)
    source.collect()  # what is wrong is said now, and the incidents of years are counted before anybody waits
    made = Path(where.getsockname()) if passed is None and where.family == socket.AF_UNIX else None
    try:
        signal.signal(signal.SIGTERM, _end)
        say.aside(f"oomguard: metrics are at {_shown(where)}")
        http.serve(where, source, MOST_AT_ONCE, PATIENCE_S)
    finally:
        if made is not None:
            made.unlink(missing_ok=True)


def _end(*_: Any) -> None:
    raise SystemExit(say.FINE)


def _passed() -> socket.socket | None:
    """systemd's, if it has opened one for us: then we need no network of our own."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        return None
    return socket.socket(fileno=FIRST_FD)


def bound(listen: str) -> socket.socket:
    """A listening socket. Ends the command where that cannot be."""
    try:
        return _unix(listen) if listen.startswith("/") else _tcp(listen)
    except OSError as error:
        code = say.NOT_PERMITTED if isinstance(error, PermissionError) else say.FOUND
        say.fail(code, f"--listen {listen}: {error.strerror}")


def _tcp(listen: str) -> socket.socket:
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        say.fail(say.WRONG_USE, f"--listen {listen}: neither ADDRESS:PORT, as {DEFAULT} or [::1]:10066, nor a path")
    host = host.removeprefix("[").removesuffix("]")
    family, kind, protocol, _, address = socket.getaddrinfo(
        host or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    it = socket.socket(family, kind, protocol)
    it.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return _listening(it, address)


def _unix(path: str) -> socket.socket:
    it = socket.socket(socket.AF_UNIX)
    if _is_left_over(path):
        os.unlink(path)
    return _listening(it, path)


def _is_left_over(path: str) -> bool:
    """A socket that nobody listens at any more."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return Path(path).is_socket()
        except OSError:
            return False
    return False


def _listening(it: socket.socket, address: Any) -> socket.socket:
    try:
        it.bind(address)
        it.listen()
    except OSError:
        it.close()
        raise
    return it


def _shown(where: socket.socket) -> str:
    name = where.getsockname()
    if where.family == socket.AF_UNIX:
        return str(name)
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"http://{host}:{name[1]}/metrics"
