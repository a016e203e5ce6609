"""The exporter's HTTP: /metrics, and a line for who looks at /. Bounded in how much at once and how long it waits."""

import socket
import sys
import threading
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import make_wsgi_app

from . import say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from .exporter import Source


def serve(where: socket.socket, source: "Source", most: int, patience_s: float) -> None:
    """Answers until the process is ended."""
    server = _Server(where, most, patience_s)
    server.set_app(_app(make_wsgi_app(source)))
    server.serve_forever(poll_interval=3600)  # nothing is polled for: connections wake it, signals end it


def _app(metrics: "Callable[..., Iterable[bytes]]") -> "WSGIApplication":
    def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> "Iterable[bytes]":
        match environ["PATH_INFO"]:
            case "/metrics":
                return metrics(environ, start_response)
            case "/":
                status, text = "200 OK", "oomguard exporter: /metrics\n"
            case _:
                status, text = "404 Not Found", "there is nothing but /metrics\n"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(text)))])
        return [text.encode()]

    return app


class _Handler(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """A scrape every few seconds is no news."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    address_family = socket.AF_UNIX  # of a socket that the base class makes: the unit allows no other

    def __init__(self, where: socket.socket, most: int, patience_s: float) -> None:
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.socket.close()  # the one that its base class has made
        self.socket = where
        self.server_name, self.server_port = "oomguard", 0
        self.setup_environ()
        self._free = threading.BoundedSemaphore(most)
        self._patience_s = patience_s

    def get_request(self) -> tuple[socket.socket, Any]:
        """Who is silent for too long is not waited for. A unix socket's clients have no address."""
        connection, address = self.socket.accept()
        connection.settimeout(self._patience_s)
        return connection, address or ("unix", 0)

    def process_request(self, request: Any, client_address: Any) -> None:
        """A thread for each; who comes when all are busy is turned away, and Prometheus comes again."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Of one connection; the others go on."""
        error = sys.exception()
        if not isinstance(error, (TimeoutError, ConnectionError)):
            say.aside(f"oomguard: a request from {client_address[0]} failed: {error!r}")
