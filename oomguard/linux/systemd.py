"""systemd's two datagram protocols: the service state (sd_notify) and the journal's own. No library of systemd's.

Both never block: who cannot be told is not waited for, and the caller learns it.
"""

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Mapping
from typing import Final

# <linux/fcntl.h>, since Python 3.8 on Linux only by these names
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_NOBODY: Final = frozenset({errno.ENOENT, errno.ECONNREFUSED, errno.EAGAIN, errno.ENOBUFS, errno.EPERM, errno.EACCES})


def notify(state: bytes | str, socket_path: str | None, fd: int | None = None) -> bool:
    """Tell the service manager ("READY=1", "STATUS=...", "WATCHDOG=1"). ``socket_path`` is $NOTIFY_SOCKET.

    ``fd`` goes with it ("FDSTORE=1"). False: no socket, or nobody at it. A name that begins with @ is abstract.
    """
    if not socket_path:
        return False
    message = state.encode("utf-8", "surrogateescape") if isinstance(state, str) else state
    return _send(socket_path, message, fd)


def listen_fds() -> dict[str, int]:
    """What the service manager has passed on (sd_listen_fds_with_names(3)), by name; no child of ours inherits it."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    fds = range(3, 3 + int(os.environ.get("LISTEN_FDS", "0")))
    for fd in fds:
        os.set_inheritable(fd, False)
    return dict(zip(names, fds, strict=False))


def journal_send(fields: Mapping[str, str | bytes], path: str = "/run/systemd/journal/socket") -> bool:
    """One journal entry. Keys are journal field names (A to Z, 0 to 9, _); values any bytes, newlines too.

    False: no journal, or it does not take more now. What is too long for a datagram goes through a sealed memfd.
    """
    message = encode_fields(fields)
    try:
        return _send(path, message)
    except OSError as error:
        if error.errno != errno.EMSGSIZE:
            raise
    fd = os.memfd_create("journal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(message)
        while view:
            view = view[os.write(fd, view) :]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)  # journald takes no memfd that may still change
        return _send(path, b"", fd)
    finally:
        os.close(fd)


def encode_fields(fields: Mapping[str, str | bytes]) -> bytes:
    r"""KEY=value\n, or for values with newlines: KEY\n, 64 bit length (little endian), value, \n."""
    parts: list[bytes] = []
    for key, value in fields.items():
        data = value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
        if b"\n" in data:
            parts.append(b"%s\n%s%s\n" % (key.encode(), struct.pack("<Q", len(data)), data))
        else:
            parts.append(b"%s=%s\n" % (key.encode(), data))
    return b"".join(parts)


def on_journal() -> bool:
    """Whether stderr goes to the journal itself: $JOURNAL_STREAM is its device:inode."""
    stream = os.environ.get("JOURNAL_STREAM", "")
    try:
        status = os.fstat(2)
    except OSError:
        return False
    return stream == f"{status.st_dev}:{status.st_ino}"


def _send(path: str, message: bytes, fd: int | None = None) -> bool:
    address = "\0" + path[1:] if path.startswith("@") else path
    rights = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", fd))]
    out = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        out.sendmsg([message], rights, socket.MSG_NOSIGNAL, address)
    except OSError as error:
        if error.errno in _NOBODY:
            return False
        error.filename = path
        raise
    finally:
        out.close()
    return True
