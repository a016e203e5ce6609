"""How a drill starts processes so that no signal comes in between: each is known to who ends it, or is not there."""

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO

from ...linux import libc

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


@contextmanager
def in_order() -> Iterator[None]:
    """Whatever ends us ends us as an exception, once: everything that was made is removed on the way."""

    def ended(number: int, _frame: object) -> None:
        deaf()
        raise SystemExit(128 + number)

    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, or a shell's background
            signal.signal(number, ended)
    yield


def deaf() -> None:
    """From here on things are put back, and that is not interrupted. It takes seconds at most."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def undisturbed() -> Iterator[None]:
    """A signal waits until the end of this: for what is made and noted in two steps."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start(
    words: Sequence[str],
    last: signal.Signals,
    env: dict[str, str],
    stdin: int,
    out: int | IO[bytes],
    err: IO[bytes] | None,
) -> "subprocess.Popen[bytes]":
    """A child in a group of its own (Ctrl-C is for us) that is sent ``last`` when we end, however that comes about."""
    parent = os.getpid()

    def bound() -> None:
        libc.prctl_set_pdeathsig(last)  # it stays over execve
        os.setpgid(0, 0)
        for number in ENDING:
            signal.signal(number, signal.SIG_DFL)  # our handlers are not his
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        if os.getppid() != parent:
            os._exit(1)

    # There is no other thread here, so that preexec_fn is safe.
    return subprocess.Popen(words, stdin=stdin, stdout=out, stderr=err, env=env, preexec_fn=bound)  # noqa: PLW1509
