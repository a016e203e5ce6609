"""The processes that send what the herald has gathered: ``sender`` (URLs by apprise, programs), and ``desktop``.

    python -m oomguard.workers.sender KIND --plan-fd N --alive M (--directory DIR | --channel FD | --check)

A Python of its own with all its library, executed by a worker of the daemon, and only where a policy has such a sink.
It reads its secrets, opens its socket, loads what it needs, and gives up every right that it does not need.
The first that the kernel should take when memory is short, limited in memory, and waited for by nobody. Each delivery
is a child with a deadline: whatever hangs in there, or grows, ends with it.

Who may ask: root (`oomguard notify-test`), and a process that the daemon has forked, as this one (the herald).
"""

import json
import os
import resource
import select
import signal
import socket
import stat
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Final

from ..linux import libc, procfs
from ..model.codec import from_plain, unpack
from ..model.policy import Plan, Sink
from .answer import DEADLINE_S, Answer

LAST_S: Final = 3.0  # when the daemon ends, what is under way has no more; the core waits 4 s for all its workers
DELIVERIES_MAX: Final = 8  # at once; who asks for more is answered that it is busy
PEERS_MAX: Final = 8
HEAP_MAX: Final = 256 << 20  # RLIMIT_DATA; with all of apprise's services loaded it is 35 MiB
_BYTES_MAX: Final = 160_000
_SECRET_MAX: Final = 8192

BEGAN_AS: Final = os.getuid()  # whoever may start us may ask us

Deliver = Callable[[Sink, dict[str, Any]], Answer]


def main(argv: list[str]) -> int:
    """See the module. Exit code 0: the daemon has ended, or whoever was at the channel."""
    kind, *words = argv
    options = dict(zip(words[::2], words[1::2], strict=False))
    plan: Plan = from_plain(unpack(_content(int(options["--plan-fd"]))))
    mine = [sink for sink in plan.sinks if (sink.by == "desktop") == (kind == "desktop")]
    libc.prctl_set_name(b"oomguard-" + kind.encode())
    _expendable()
    listener = _listener(f"{options['--directory']}/{kind}") if "--directory" in options else None
    deliver = _desktop(options) if kind == "desktop" else _sender(mine)
    if "--check" in options:
        sys.stdout.write(json.dumps({sink.name: asdict(deliver(sink, {"check": True})) for sink in mine}))
        return 0
    loop = Sender({sink.name: sink for sink in mine}, deliver, int(options["--alive"]), listener)
    if "--channel" in options:
        loop.greet(socket.socket(fileno=int(options["--channel"])))
    loop.run()
    return 0


def _content(fd: int) -> bytes:
    os.lseek(fd, 0, os.SEEK_SET)
    with os.fdopen(fd, "rb") as file:
        return file.read()


def _expendable() -> None:
    """Nothing is lost if we are: somebody hears of it later."""
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")
    resource.setrlimit(resource.RLIMIT_DATA, (HEAP_MAX, HEAP_MAX))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # there are secrets in it
    os.nice(5)


def _listener(path: str) -> socket.socket:
    """OSError with the path. Everybody may connect; who may stay is found out then."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        if os.path.lexists(path):
            os.unlink(path)
        made.bind(path)
        os.chmod(path, 0o666)
    except OSError as error:
        error.filename = path
        raise
    made.listen(PEERS_MAX)
    return made


def _sender(sinks: list[Sink]) -> Deliver:
    secrets = {sink.name: _secret(sink) for sink in sinks if sink.by == "url"}
    from . import services
    from .nobody import drop_privileges

    made = services.Services(sinks, secrets)  # all is loaded now: nobody may not be able to read where Python lies
    drop_privileges()
    return made.deliver


def _desktop(options: dict[str, str]) -> Deliver:
    from . import desktop

    made = desktop.Desktop(*(options[option] for option in ("--sessions", "--run-user") if option in options))
    desktop.keep_only_setuid()
    return made.deliver


def _secret(sink: Sink) -> str | Answer:
    """The URL of a sink, while we may still read it; or why there is none."""
    try:
        return _in_policy(sink) if sink.service else _in_file(sink.file)
    except FileNotFoundError:
        return Answer(f"there is no file {sink.file}", "it holds the URL and nothing else, mode 0600")
    except OSError as error:
        return Answer(f"{sink.file}: {error.strerror}", "ask as root" if error.errno == 13 else "")
    except ValueError as error:
        return Answer(*error.args)


def _in_file(path: str) -> str:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        seen = os.fstat(fd)
        if not stat.S_ISREG(seen.st_mode):
            raise ValueError(f"{path} is not a regular file", "it holds the URL and nothing else")
        if seen.st_mode & 0o077 and (seen.st_mode & 0o007 or seen.st_gid != 0):
            mode = f"{stat.S_IMODE(seen.st_mode):04o}"
            raise ValueError(f"others may read {path} (mode {mode}), and it holds a secret", f"chmod 0600 {path}")
        if seen.st_uid not in (0, os.geteuid()):
            raise ValueError(f"{path} belongs to uid {seen.st_uid}, not to root", f"chown root:root {path}")
        lines = file.read(_SECRET_MAX).decode("utf-8", "replace").splitlines()
    urls = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if len(urls) != 1 or "://" not in urls[0]:
        raise ValueError(f"{path} does not hold one URL", "one line, as in mailtos://user:password@example.org")
    return urls[0]


def _in_policy(sink: Sink) -> str:
    import tomllib

    with open(sink.file, "rb") as file:
        try:
            url = tomllib.load(file)["sinks"][sink.name]["url"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{sink.file} has changed: its URL is not there", "systemctl reload oomguard") from None
    return str(url)


class Delivery:
    """One message under way, in a child of its own."""

    def __init__(self, peer: socket.socket, request: dict[str, Any], work: Callable[[], Answer]) -> None:
        self.peer, self.request = peer, request
        self.began = time.monotonic()
        self.late = False
        self.output, mouth = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.pid = os.fork()
        if self.pid == 0:
            _child(work, mouth)
        os.close(mouth)
        self.pidfd = os.pidfd_open(self.pid)

    def kill(self) -> None:
        """It, and whatever it has started."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # it has not come to setsid() yet, or they are another user
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def answer(self) -> Answer:
        """After its end."""
        try:
            said = os.read(self.output, 65536)
        except BlockingIOError:
            said = b""
        os.close(self.output)
        os.close(self.pidfd)
        _, status = os.waitpid(self.pid, 0)
        if self.late:
            return Answer(f"it took more than {DEADLINE_S:.0f} s, and was ended", "is the service reachable from here?")
        try:
            return Answer(**json.loads(said))
        except (ValueError, TypeError):
            return Answer(f"the delivery ended with {os.waitstatus_to_exitcode(status)} and without a word")


def _child(work: Callable[[], Answer], mouth: int) -> None:
    """Never returns."""
    try:
        os.setsid()
        libc.prctl_set_pdeathsig(signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        answer = work()
        os.write(mouth, json.dumps(asdict(answer)).encode()[:65536])
    except BaseException as error:  # noqa: BLE001 - the top of a process: it ends here, and says why
        os.write(mouth, json.dumps({"error": f"{type(error).__name__} while it was sent"}).encode())
    finally:
        os._exit(0)


class Sender:
    """Requests to deliveries, and their answers back."""

    def __init__(self, sinks: dict[str, Sink], deliver: Deliver, alive: int, listener: socket.socket | None) -> None:
        self._sinks, self._deliver, self._alive, self._listener = sinks, deliver, alive, listener
        self._core, self._owner = os.getppid(), BEGAN_AS
        self._peers: dict[int, socket.socket] = {}
        self._deliveries: list[Delivery] = []
        self._end_s = 0.0  # 0: not yet

    def run(self) -> None:
        """Until the daemon ends, or until nobody is there who could ask."""
        while not self._over():
            poll = select.poll()
            for delivery in self._deliveries:
                poll.register(delivery.pidfd, select.POLLIN)
            for fd in self._peers:
                poll.register(fd, select.POLLIN)
            if self._listener is not None and not self._end_s:
                poll.register(self._listener, select.POLLIN)
            if not self._end_s:
                poll.register(self._alive, 0)
            events = dict(poll.poll(self._patience_ms()))
            if self._alive in events and not self._end_s:
                self._end_s = time.monotonic() + LAST_S
            self._look(events)

    def _over(self) -> bool:
        if self._end_s:
            return time.monotonic() >= self._end_s or not (self._peers or self._deliveries)
        return self._listener is None and not self._peers and not self._deliveries

    def _patience_ms(self) -> float | None:
        ends = [delivery.began + DEADLINE_S for delivery in self._deliveries if not delivery.late]
        ends += [self._end_s] if self._end_s else []
        return max(0.0, (min(ends) - time.monotonic()) * 1000 + 1) if ends else None

    def _look(self, events: dict[int, int]) -> None:
        for fd in [fd for fd in self._peers if fd in events]:
            self._hear(self._peers[fd])
        if self._listener is not None and self._listener.fileno() in events:
            self._accept(self._listener)
        now = time.monotonic()
        for delivery in list(self._deliveries):
            if delivery.pidfd in events:
                self._deliveries.remove(delivery)
                self._tell(delivery.peer, delivery.request, delivery.answer(), now - delivery.began)
            elif now >= delivery.began + DEADLINE_S and not delivery.late:
                delivery.late = True
                delivery.kill()

    def _accept(self, listener: socket.socket) -> None:
        try:
            peer, _ = listener.accept()
        except OSError:
            return
        if len(self._peers) < PEERS_MAX and self._trusts(peer):
            self.greet(peer)
        else:
            peer.close()

    def _trusts(self, peer: socket.socket) -> bool:
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid, uid, _ = struct.unpack("3i", credentials)
        if uid in (0, self._owner):
            return True
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                found = procfs.parse_stat(file.read())
        except OSError:
            return False
        return found is not None and found[3] == self._core

    def greet(self, peer: socket.socket) -> None:
        """Somebody may ask from now on."""
        peer.setblocking(False)
        self._peers[peer.fileno()] = peer

    def _hear(self, peer: socket.socket) -> None:
        try:
            data = peer.recv(_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            del self._peers[peer.fileno()]
            peer.close()
            return
        try:
            request = json.loads(data)
            sink = self._sinks.get(request["sink"])
        except (ValueError, KeyError, TypeError):
            return
        self._begin(peer, request, sink)

    def _begin(self, peer: socket.socket, request: dict[str, Any], sink: Sink | None) -> None:
        if sink is None:
            answer = Answer("the running daemon does not know this sink", "systemctl reload oomguard")
            self._tell(peer, request, answer, 0.0)
        elif len(self._deliveries) >= DELIVERIES_MAX:
            self._tell(peer, request, Answer(f"{DELIVERIES_MAX} messages are under way already"), 0.0)
        else:
            try:
                self._deliveries.append(Delivery(peer, request, lambda: self._deliver(sink, _filled(request))))
            except OSError as error:
                self._tell(peer, request, Answer(f"no process for it: {error.strerror}"), 0.0)

    def _tell(self, peer: socket.socket, request: dict[str, Any], answer: Answer, took_s: float) -> None:
        said = asdict(answer) | {"sink": request["sink"], "number": request.get("number", 0)}
        said["took_ms"] = round(took_s * 1000)
        try:
            peer.send(json.dumps(said).encode(), socket.MSG_NOSIGNAL)
        except OSError:
            pass  # it has hung up: nobody wants to know


def _filled(request: dict[str, Any]) -> dict[str, Any]:
    """A test is written here, so that nobody can take it for anything else."""
    if "test" not in request:
        return request
    policy = f" for policy {request['test']}" if request["test"] else ""
    text = f"This is a test of oomguard's notifications{policy}. Nothing has happened, and nobody was killed."
    event = {
        "what": "test",
        "at": time.strftime("%H:%M:%SZ", time.gmtime()),
        "policy": str(request["test"]),
        "text": text,
    }
    return {
        "title": f"oomguard on {os.uname().nodename}: TEST",
        "body": text,
        "priority": 5,
        "count": 1,
        "counts": {"test": 1},
        "events": [event],
        "number": request.get("number", 0),
        "sink": request["sink"],
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
