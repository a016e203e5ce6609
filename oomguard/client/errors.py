"""What can go wrong, by the errno that sd_event_add_memory_pressure(3) gives for it.

PressureError                   an OSError: all of these have an errno, and the file that it is about, if any
  Disabled                      EHOSTDOWN   $MEMORY_PRESSURE_WATCH says that nothing is to be listened to
  BadEnvironment                            what $MEMORY_PRESSURE_WATCH or _WRITE says cannot be done
                                EBADMSG     not an absolute, plain path
                                EILSEQ      not Base64 (EINVAL or EPIPE in C)
                                ENOTTY      a regular file that is not the kernel's
                                EISDIR      a directory
                                EBADF       neither a file, nor a FIFO, nor a socket
  NotSupported                  EOPNOTSUPP  this kernel tells of no pressure
  Locked                        EBUSY       the type or period came too late, or the environment has fixed it
  NotPressure                   EDOM        it has no type or period: what is listened to is not the kernel's
  BadArgument                   EINVAL      ... which is a ValueError as well
                                ERANGE      a time that is not over 0
  Closed                        ESTALE      the watch was closed
  Forked                        ECHILD      the watch belongs to the process from which we were forked

What a call of the system itself says is an OSError as it came: FileNotFoundError, PermissionError, and so on.
"""

import os


class PressureError(OSError):
    """See the module: the root of them."""

    def __init__(self, number: int, why: str = "", path: str | None = None) -> None:
        """``why`` for people; what strerror says where it is empty."""
        text = why or os.strerror(number)
        super().__init__(*((number, text) if path is None else (number, text, path)))


class Disabled(PressureError):
    """EHOSTDOWN: go on without; it is meant."""


class BadEnvironment(PressureError):
    """EBADMSG, EILSEQ, ENOTTY, EISDIR, EBADF."""


class NotSupported(PressureError):
    """EOPNOTSUPP."""


class Locked(PressureError):
    """EBUSY."""


class NotPressure(PressureError):
    """EDOM."""


class BadArgument(PressureError, ValueError):
    """EINVAL, ERANGE."""


class Closed(PressureError):
    """ESTALE."""


class Forked(PressureError):
    """ECHILD."""
