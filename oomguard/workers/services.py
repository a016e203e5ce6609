"""What the sender delivers: URLs by apprise, and programs. The only home of apprise; loaded at the sender's start.

No token leaves this process but to its service: what apprise says of a failure is told without any part of the URL.
"""

import errno
import json
import logging
import re
import subprocess
import warnings
from typing import Any, Final
from urllib.parse import unquote

from ..model.policy import Sink
from .answer import DEADLINE_S, Answer
from .runner import ENVIRONMENT

_INSTALL: Final = "make install EXTRAS=notify, or pip install 'oomguard[notify]'"
_SHORTEST: Final = 4  # a shorter part of a URL is no secret, and would black out words
_PRIORITIES: Final = ((3, "failure"), (4, "warning"), (7, "info"))

# Words of an error, wherever they stand: what it is, and how to mend it.
_REASONS: Final = (
    (
        r"Network is unreachable|Address family not supported|Errno 97\b|Errno 101\b",
        "there is no network here",
        "the service has none unless you allow it: docs/policies.md, Telling people",
    ),
    (
        r"[Nn]ame resolution|Name or service not known|NameResolutionError|getaddrinfo|No address associated",
        "the server's name cannot be resolved",
        "no network, or no DNS? the service has none unless you allow it: docs/policies.md, Telling people",
    ),
    (r"Connection refused|Errno 111\b", "connection refused", "nobody listens at that host and port"),
    (r"timed out|[Tt]imeout", "it does not answer in time", "a firewall, or a busy server"),
    (
        r"WRONG_VERSION_NUMBER|wrong version number|record layer failure",
        "it does not speak TLS there",
        "is the port right? without TLS it is json:// and not jsons://, mailto:// and not mailtos://",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|certificate verify failed|SSLError",
        "its certificate cannot be verified",
        "add its CA to the system's, or verify=no to the URL",
    ),
    (r"error=40[13]\b|[Uu]nauthorized|[Ff]orbidden", "it refuses us", "is the token or the password still right?"),
    (r"error=404\b|Not Found", "it does not know that address", "is the URL still right?"),
    (r"error=5\d\d\b", "the server has an error of its own", "its log says more; what is real is tried again"),
    (r"error=429\b|[Tt]oo [Mm]any", "it is told too much", "raise every in the sink's table"),
)


class Services:
    """All sinks of a sender. ``secrets``: their URLs, or why there is none."""

    def __init__(self, sinks: list[Sink], secrets: dict[str, str | Answer]) -> None:
        self._secrets, self._plugins = secrets, dict[str, Any]()
        self._faults = {name: secret for name, secret in secrets.items() if isinstance(secret, Answer)}
        if any(isinstance(secret, str) for secret in secrets.values()):
            self._load()

    def _load(self) -> None:
        try:
            import apprise
        except ImportError:
            missing = Answer("apprise is not installed", _INSTALL)
            self._faults |= {name: missing for name, secret in self._secrets.items() if isinstance(secret, str)}
            return
        logging.getLogger("apprise").propagate = False
        logging.lastResort = None  # what it says of a URL that it does not like has the URL in it
        warnings.simplefilter("ignore")
        asset = apprise.AppriseAsset(app_id="oomguard", app_desc="oomguard", async_mode=False, secure_logging=True)
        for name, secret in self._secrets.items():
            if isinstance(secret, Answer):
                continue
            plugin = apprise.Apprise.instantiate(secret, asset=asset, suppress_exceptions=True)
            if plugin is None:
                scheme = secret.partition("://")[0]
                hint = "https://github.com/caronc/apprise/wiki says how its URLs look"
                self._faults[name] = Answer(f"apprise knows no such URL ({scheme}://...)", hint)
                continue
            self._plugins[name] = apprise.Apprise(asset=asset)
            self._plugins[name].add(plugin)

    def deliver(self, sink: Sink, request: dict[str, Any]) -> Answer:
        """In a child, with a deadline. ``request["check"]``: only whether it could be done."""
        if sink.by == "run":
            return _runs(sink.argv) if "check" in request else _run(sink.argv, request)
        if (fault := self._faults.get(sink.name)) is not None or "check" in request:
            return fault or Answer()
        secret = self._secrets[sink.name]
        return _sent(self._plugins[sink.name], secret if isinstance(secret, str) else "", request)


class _Heard(logging.Handler):
    """What apprise says to its log: it tells its caller no more than that it failed."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.levelno, record.getMessage()))


def _sent(service: Any, url: str, request: dict[str, Any]) -> Answer:
    logger, heard = logging.getLogger("apprise"), _Heard()
    logger.addHandler(heard)
    logger.setLevel(logging.DEBUG)
    kind = next(kind for most, kind in _PRIORITIES if request["priority"] <= most)
    body = unmentioned(request["body"])
    if service.notify(body=body, title=unmentioned(request["title"]), notify_type=kind, body_format="text"):
        return Answer()
    return reason([(level, without(text, url)) for level, text in heard.lines])


def reason(lines: list[tuple[int, str]]) -> Answer:
    """From what a service has logged: the first reason that is known, else its own words."""
    everything = "\n".join(text for _, text in lines)
    for pattern, error, hint in _REASONS:
        if re.search(pattern, everything):
            return Answer(error, hint)
    said = [text for level, text in lines if level >= logging.WARNING]
    return Answer(said[0][:300] if said else "the service did not take it, and said nothing")


def without(text: str, url: str) -> str:
    """The text without any part of the URL but its scheme: a host may be a token."""
    rest = url.partition("://")[2]
    parts = re.split(r"[/:@?&=,#]+", rest)
    parts = sorted({*parts, *map(unquote, parts)}, key=len, reverse=True)
    for part in parts:
        if len(part) >= _SHORTEST:
            text = text.replace(part, "***")
    return text


def unmentioned(text: str) -> str:
    """A process that calls itself @everyone or <!channel> wakes nobody: a space without width takes the sense away."""
    return re.sub(r"@(?=everyone|here|channel|all\b)|<(?=[!@#])", lambda found: f"{found[0]}\u200b", text)


def _runs(argv: tuple[str, ...]) -> Answer:
    import os

    if not os.path.exists(argv[0]):
        return Answer(f"there is no file {argv[0]}")
    if not os.access(argv[0], os.X_OK):
        return Answer(
            f"{argv[0]} may not be executed by uid {os.getuid()}", f"chmod a+rx {argv[0]}, and what it lies in"
        )
    return Answer()


_MEND: Final = {
    errno.ENOENT: "a path from the root on; of a script, its interpreter may be what is missing",
    errno.EACCES: "chmod a+rx {}, and what it lies in: it runs as a user without rights",
    errno.ENOEXEC: "a script's first line names its interpreter: #!/bin/sh",
}


def _run(argv: tuple[str, ...], request: dict[str, Any]) -> Answer:
    """The program has its standard input, and that deadline for itself and all that it starts."""
    told = json.dumps({"version": 1, **request}).encode()
    try:
        done = subprocess.run(
            argv, input=told, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=ENVIRONMENT, cwd="/",
            timeout=DEADLINE_S, check=False,
        )  # fmt: skip
    except OSError as error:
        return Answer(f"{argv[0]}: {error.strerror}", _MEND.get(error.errno or 0, "").format(argv[0]))
    except subprocess.TimeoutExpired:
        return Answer(f"{argv[0]} took more than {DEADLINE_S:.0f} s, and was ended")
    if done.returncode == 0:
        return Answer()
    said = done.stdout.decode("utf-8", "replace").strip().splitlines()
    return Answer(f"{argv[0]} ended with {done.returncode}{': ' if said else ''}{said[-1][:200] if said else ''}")
