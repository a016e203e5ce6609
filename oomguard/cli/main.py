"""The command ``oomguard``: the one place where an error becomes a sentence.

What the unit calls between a crash and the next start is tried first, without typer (``quick``); all else, and all of
that too when it is asked for in any other way, is the command proper (``app``).
"""

import sys

from . import quick, say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> "NoReturn":
    """Entry point of the console script and of ``python -m oomguard``."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # in a C locale, too, a name can be printed
    try:
        if not quick.answer(sys.argv[1:]):
            from . import app

            app.mount(sys.argv[1] if len(sys.argv) > 1 else None)
            app.app(prog_name="oomguard")
    except BrokenPipeError:
        _close_quietly()
    except KeyboardInterrupt:
        raise SystemExit(say.INTERRUPTED) from None
    except PermissionError as error:
        _end(say.NOT_PERMITTED, error)
    except OSError as error:
        _end(say.FOUND, error)
    raise SystemExit(say.FINE)


def _end(code: int, error: OSError) -> "NoReturn":
    where = f"{error.filename}: " if error.filename else ""
    say.aside(f"oomguard: {where}{error.strerror or error}")
    raise SystemExit(code)


def _close_quietly() -> "NoReturn":
    """The reader of a pipe has gone (`oomguard status | head`): nothing is left to say, not even at exit."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    raise SystemExit(say.FINE)
