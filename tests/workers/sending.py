"""The processes that send, as they are executed; and a web server that behaves badly when told to."""

from __future__ import annotations

import json
import os
import re
import select
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from oomguard.model.codec import pack
from oomguard.model.policy import Daemon, Plan, Sink

PATIENCE_S = 90.0
SECOND_NS = 10**9


def url_sink(directory: Path, url: str, name: str = "ops") -> Sink:
    """With its URL in a file that we alone may read."""
    path = directory / f"{name}.url"
    path.write_text(f"# of the operators\n{url}\n")
    path.chmod(0o600)
    return Sink(name, "url", ("killed",), SECOND_NS, file=str(path), origin="a.toml:1")


class Sending:
    """One such process, and a connection to it."""

    def __init__(self, kind: str, directory: Path, *sinks: Sink, words: tuple[str, ...] = ()) -> None:
        self.directory, self.kind = directory, kind
        plan = os.memfd_create("plan", 0)
        os.write(plan, pack(Plan("1", Daemon(), (), sinks=sinks)))
        alive, self.core_end = os.pipe()
        argv = [sys.executable, "-I", "-m", "oomguard.workers.sender", kind, "--plan-fd", str(plan)]
        argv += ["--alive", str(alive), "--directory", str(directory), *words]
        self.process = subprocess.Popen(argv, pass_fds=(plan, alive), stderr=subprocess.PIPE)
        os.close(plan)
        os.close(alive)
        self.end = self.connected()

    def connected(self) -> socket.socket:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            try:
                end.connect(f"{self.directory}/{self.kind}")
            except OSError:
                end.close()
                assert self.process.poll() is None, self.words()
                assert time.monotonic() < deadline, "it does not come"
                time.sleep(0.02)
            else:
                end.settimeout(PATIENCE_S)
                return end

    def ask(self, sink: str = "ops", number: int = 1, **more: Any) -> None:
        event = {"what": "killed", "at": "03:12:00Z", "policy": "host", "text": "killed x", "victim": "x"}
        message = {"title": "oomguard on box: killed", "body": "killed x", "priority": 4, "count": 1} | more
        message |= {"sink": sink, "number": number, "counts": {"killed": 1}, "events": [event]}
        self.end.send(json.dumps(message).encode())

    def answer(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.end.recv(1 << 20))
        return answer

    def told(self, sink: str = "ops", **more: Any) -> dict[str, Any]:
        self.ask(sink, **more)
        return self.answer()

    def words(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def status(self) -> dict[str, str]:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return dict(line.split(":", 1) for line in text.splitlines())

    def close(self) -> int:
        """The daemon ends."""
        os.close(self.core_end)
        self.end.close()
        code = self.process.wait(PATIENCE_S)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code


class Web:
    """``mode``: ok, forbidden, broken, mute (never answers), gone (hangs up); /404/ in a URL is a code."""

    def __init__(self) -> None:
        self.mode = "ok"
        self.got: list[dict[str, Any]] = []
        outer, self.leave, self.asked = self, threading.Event(), threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.asked.set()
                if outer.mode == "mute":
                    outer.leave.wait(PATIENCE_S)
                if outer.mode in ("mute", "gone"):
                    self.connection.close()
                    return
                outer.got.append({"path": self.path} | json.loads(body))
                asked = re.match(r"/([45]\d\d)/", self.path)
                self.send_response(int(asked[1]) if asked else {"forbidden": 403, "broken": 500}.get(outer.mode, 200))
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"json://127.0.0.1:{self.server.server_port}/TopSecretToken?cto=5&rto=1"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    def next(self) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE_S
        while not self.got:
            assert time.monotonic() < deadline, "nothing came"
            time.sleep(0.02)
        return self.got.pop(0)

    def close(self) -> None:
        """Nobody listens there any more."""
        if self.thread.is_alive():
            self.leave.set()
            self.server.shutdown()
            self.server.server_close()
            self.thread.join(PATIENCE_S)


def readable(end: socket.socket, patience_s: float) -> bool:
    """Whether something comes."""
    poll = select.poll()
    poll.register(end, select.POLLIN)
    return bool(poll.poll(patience_s * 1000))
