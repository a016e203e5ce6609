"""The processes that send for sinks, asked from here: those of the running daemon, or one of our own.

They are executed, never imported: apprise is a second of a busy machine, and their rights are not ours.
"""

import itertools
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..model.codec import pack
from ..model.policy import Plan, Sink
from ..policy import Fault

PATIENCE_S = 60.0  # for an answer: a delivery has 20 s, and loading apprise may take as long on an emulated machine
AT_ONCE = 4  # the sender takes eight, and what is real comes meanwhile
_BYTES_MAX = 160_000


class NotPermitted(Exception):
    """The daemon does not talk to us."""


def kind_of(sink: Sink) -> str:
    """Which process sends for it."""
    return "desktop" if sink.by == "desktop" else "sender"


def faults(plan: Plan) -> tuple[list[Fault], list[Fault]]:
    """(faults, warnings) of sinks that no policy file can tell: what is not installed, not there, not to be read."""
    wrong: list[Fault] = []
    doubtful: list[Fault] = []
    for kind in sorted({kind_of(sink) for sink in plan.sinks}):
        with _started(kind, plan, "--check", stdout=subprocess.PIPE) as process:
            said, _ = process.communicate(timeout=PATIENCE_S)
        ended = {"error": f"cannot be checked: the {kind} ended with {process.returncode}", "hint": ""}
        found = (
            json.loads(said) if process.returncode == 0 else dict.fromkeys((sink.name for sink in plan.sinks), ended)
        )
        for sink in plan.sinks:
            answer = found.get(sink.name)
            if answer and answer["error"]:
                file, _, line = sink.origin.rpartition(":")
                fault = Fault(file, int(line), f"sinks.{sink.name}", answer["error"], answer["hint"])
                (doubtful if answer["hint"] == "ask as root" else wrong).append(fault)
    return wrong, doubtful


def tested(plan: Plan, sinks: Iterable[Sink], policy: str, directory: Path) -> Iterator[tuple[Sink, dict[str, Any]]]:
    """Send each of them one test message. Answers as the sender's, and ``by``: "daemon", or "this command"."""
    sinks = list(sinks)
    for kind in sorted({kind_of(sink) for sink in sinks}):
        mine = {sink.name: sink for sink in sinks if kind_of(sink) == kind}
        end = _daemon(directory / kind)
        if end is not None:
            with end:
                yield from _asked(end, mine, policy, "daemon")
            continue
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs, _started(kind, plan, "--channel", str(theirs.fileno()), keep=(theirs.fileno(),)):
            theirs.close()
            yield from _asked(ours, mine, policy, "this command")
            ours.close()  # it ends by that


def _daemon(path: Path) -> socket.socket | None:
    """None: no daemon sends for such sinks now."""
    end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        end.connect(str(path))
    except OSError:
        end.close()
        return None
    return end


@contextmanager
def _started(
    kind: str, plan: Plan, *words: str, keep: tuple[int, ...] = (), stdout: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    told = os.memfd_create("sinks", 0)
    alive, end = os.pipe()
    try:
        os.write(told, pack(plan))
        argv = [sys.executable, "-I", "-m", "oomguard.workers.sender", kind, "--plan-fd", str(told)]
        argv += ["--alive", str(alive), *words] if words != ("--check",) else ["--check", "yes"]
        # In a session of its own: Ctrl-C is for us, and it ends by that.
        with subprocess.Popen(argv, pass_fds=(told, alive, *keep), stdout=stdout, start_new_session=True) as process:
            yield process
    finally:
        for fd in (told, alive, end):
            os.close(fd)


def _asked(end: socket.socket, sinks: dict[str, Sink], policy: str, by: str) -> Iterator[tuple[Sink, dict[str, Any]]]:
    waiting, asked = dict(sinks), iter(sinks)
    try:
        for name in itertools.islice(asked, AT_ONCE):
            _ask(end, name, policy)
        while waiting:
            answer = json.loads(_next(end, time.monotonic() + PATIENCE_S))
            if (sink := waiting.pop(answer["sink"], None)) is not None:
                for name in itertools.islice(asked, 1):
                    _ask(end, name, policy)
                yield sink, answer | {"by": by}
    except TimeoutError:
        lost = f"no answer in {PATIENCE_S:.0f} s"
    except (BrokenPipeError, ConnectionError, EOFError):
        if by == "daemon" and len(waiting) == len(sinks) and os.geteuid() != 0:
            raise NotPermitted from None
        lost = "the process that sends it has ended"
    else:
        return
    for sink in waiting.values():
        yield sink, {"error": lost, "hint": "journalctl -t oomguard may know more", "note": "", "took_ms": 0, "by": by}


def _ask(end: socket.socket, name: str, policy: str) -> None:
    end.send(json.dumps({"sink": name, "number": 1, "test": policy}).encode(), socket.MSG_NOSIGNAL)


def _next(end: socket.socket, until: float) -> bytes:
    poll = select.poll()
    poll.register(end, select.POLLIN)
    if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
        raise TimeoutError
    data = end.recv(_BYTES_MAX)
    if not data:
        raise EOFError
    return data
