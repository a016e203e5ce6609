"""The command ``oomguard``: the one place where an error becomes a sentence.

What the unit calls between a crash and the next start is tried first, without typer (``quick``); all else, and all of
that too when it is asked for in any other way, is the command proper (``app``).
"""

import errno
import os
import sys

try:
    from . import quick, say
except KeyboardInterrupt:  # before anything has begun
    raise SystemExit(130) from None

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> "NoReturn":
    """Entry point of the console script and of ``python -m oomguard``."""
    _streams()
    sys.unraisablehook = _unraisable
    try:
        code = _answered(sys.argv[1:])
        sys.stdout.flush()  # here, where a full disk can still be told
        raise SystemExit(code)
    except BrokenPipeError:  # `oomguard status | head`: nothing is left to say
        _forget()
        raise SystemExit(say.FINE) from None
    except KeyboardInterrupt:
        raise SystemExit(say.INTERRUPTED) from None
    except PermissionError as error:
        _end(say.NOT_PERMITTED, error)
    except OSError as error:
        _end(say.FOUND, error)


def _answered(words: list[str]) -> int:
    """The exit code of what was asked for."""
    try:
        if quick.answer(words):
            return say.FINE
        from . import app

        return app.call(words)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else say.FINE


def _unraisable(what: "sys.UnraisableHookArgs") -> None:
    """Ctrl-C where nothing may fail (pydantic's core, a destructor) is noted and forgotten: it is pressed once more."""
    if what.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(what)
        return
    import signal
    import threading

    again = threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGINT))
    again.daemon = True
    again.start()


def _streams() -> None:
    """There are two, whatever the caller has closed, and in a C locale, too, a name can be printed."""
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _end(code: int, error: OSError) -> "NoReturn":
    full = error.errno == errno.ENOSPC  # whoever writes a file of his own names it
    where = f"{error.filename}: " if error.filename else "standard output: " if full else ""
    _forget()
    say.aside(f"oomguard: {where}{error.strerror or error}")
    raise SystemExit(code)


def _forget() -> None:
    """What is not written yet cannot be; and Python would try again at its exit, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    try:
        sys.stderr.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
