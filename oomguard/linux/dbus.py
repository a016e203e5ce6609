"""As much of D-Bus as it takes to ask systemd for one job, without a library and without waiting.

systemd listens itself at /run/systemd/private, for root alone: whoever asks there needs nobody but PID 1 awake. Where
that is missing, the system bus is asked, which needs the bus's own daemon as well.

Wire format: D-Bus specification, "Message Protocol" and "Authentication Protocol" (EXTERNAL: by the socket's own
credentials). Little-endian, every value at a multiple of its size.
"""

import errno
import os
import socket
import struct
from typing import Final

PRIVATE: Final = "/run/systemd/private"
SYSTEM_BUS: Final = "/run/dbus/system_bus_socket"
MANAGER: Final = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
BUS: Final = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
MOST_BYTES: Final = 1 << 20  # of all that is ever read of one answer: a job's path takes a hundred

_CALL, _RETURN, _ERROR = 1, 2, 3
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL, _DESTINATION, _SIGNATURE = 1, 2, 3, 4, 5, 6, 8
_HEAD: Final = struct.Struct("<cBBBIII")

# What systemd answers, as an errno. Everything else is EIO.
_ERRORS: Final = {
    "org.freedesktop.systemd1.NoSuchUnit": errno.ENOENT,
    "org.freedesktop.systemd1.UnitMasked": errno.EPERM,
    "org.freedesktop.systemd1.JobTypeNotApplicable": errno.EOPNOTSUPP,
    "org.freedesktop.systemd1.OnlyByDependency": errno.EPERM,
    "org.freedesktop.DBus.Error.AccessDenied": errno.EACCES,
    "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired": errno.EACCES,
    "org.freedesktop.DBus.Error.UnknownMethod": errno.ENOSYS,
    "org.freedesktop.DBus.Error.ServiceUnknown": errno.ESRCH,
}


class Call:
    """One method of systemd's manager that takes strings, asked for and awaited without blocking.

    OSError: nobody listens. ``go`` whenever ``fd`` is readable, until it says an errno. Then ``close``.
    """

    def __init__(self, method: str, *arguments: str, path: str = "") -> None:
        self.error = ""  # the name of systemd's error, for people
        self._socket, private = _connected(path)
        self.fd = self._socket.fileno()
        self._got = b""
        self._authenticated = False
        hello = b"" if private else message(1, BUS, "Hello")
        self._serial = 2
        self._message = hello + message(self._serial, MANAGER, method, *arguments)
        # The first byte carries our credentials; who has not been accepted yet is not told anything.
        try:
            self._send(b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\nBEGIN\r\n")
        except OSError:
            self.close()
            raise

    def go(self) -> int | None:
        """None: not yet. 0: systemd has taken it. Else why it has not; EPIPE: it hung up."""
        try:
            more = self._socket.recv(65536)
        except BlockingIOError:
            return None
        except OSError as error:
            return error.errno or errno.EIO
        self._got += more
        if not more or len(self._got) > MOST_BYTES:
            return errno.EPIPE
        if not self._authenticated:
            line, end, self._got = self._got.partition(b"\r\n")
            if not end:
                self._got = line
                return None
            if not line.startswith(b"OK "):
                return errno.EACCES
            self._authenticated = True
            self._send(self._message)
        return self._answered()

    def _answered(self) -> int | None:
        while (split := split_message(self._got)) is not None:
            kind, fields, self._got = split
            if fields.get(_REPLY_SERIAL) != self._serial:
                continue  # what the bus says to who has just come
            if kind == _RETURN:
                return 0
            if kind == _ERROR:
                self.error = str(fields.get(_ERROR_NAME, ""))
                return _ERRORS.get(self.error, errno.EIO)
        return None

    def _send(self, data: bytes) -> None:
        if self._socket.send(data, socket.MSG_NOSIGNAL) != len(data):
            raise OSError(errno.EAGAIN, "systemd does not take a message of two hundred bytes", PRIVATE)

    def close(self) -> None:
        """Whatever is still to come is not heard."""
        self._socket.close()


def _connected(path: str) -> tuple[socket.socket, bool]:
    """A socket, and whether systemd itself is at its other end."""
    last = OSError(errno.ENOENT, "systemd does not listen", PRIVATE)
    for where in (path,) if path else (PRIVATE, SYSTEM_BUS):
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            made.connect(where)
        except OSError as error:
            made.close()
            error.filename = where
            last = error
        else:
            return made, where != SYSTEM_BUS
    raise last


def message(serial: int, whom: tuple[str, str, str], method: str, *arguments: str) -> bytes:
    """A method call whose arguments are all strings."""
    destination, path, interface = whom
    body = b""
    for argument in arguments:
        body = _string(body, argument)
    array = b""
    fields = ((_PATH, "o", path), (_INTERFACE, "s", interface), (_MEMBER, "s", method))
    for code, kind, value in (*fields, (_DESTINATION, "s", destination)):
        array = _string(_padded(array, 8) + bytes((code, 1)) + kind.encode() + b"\0", value)
    if arguments:
        kinds = b"s" * len(arguments)
        array = _padded(array, 8) + bytes((_SIGNATURE, 1)) + b"g\0" + bytes((len(kinds),)) + kinds + b"\0"
    head = _HEAD.pack(b"l", _CALL, 0, 1, len(body), serial, len(array))
    return _padded(head + array, 8) + body


def _string(data: bytes, text: str) -> bytes:
    value = text.encode("utf-8", "surrogateescape")
    return _padded(data, 4) + struct.pack("<I", len(value)) + value + b"\0"


def _padded(data: bytes, to: int) -> bytes:
    return data + bytes(-len(data) % to)


def split_message(data: bytes) -> tuple[int, dict[int, object], bytes] | None:
    """(type, header fields by number, what comes after it) of the first message; None: it is not whole yet.

    Of the fields only numbers and strings are read, which is all there are but for lists of none.
    """
    if len(data) < _HEAD.size:
        return None
    order, kind, _, _, body, _, fields_bytes = _HEAD.unpack_from(data)
    if order != b"l":
        return _ERROR, {_REPLY_SERIAL: 2, _ERROR_NAME: "big-endian"}, b""  # nobody on this machine speaks so
    begin = _HEAD.size
    end = begin + fields_bytes
    whole = end + -end % 8 + body
    if len(data) < whole:
        return None
    found: dict[int, object] = {}
    at = begin
    while at < end:
        at += -at % 8
        code, length = data[at], data[at + 1]
        signature = data[at + 2 : at + 2 + length]
        at += 3 + length
        if signature in (b"s", b"o"):
            at += -at % 4
            (size,) = struct.unpack_from("<I", data, at)
            found[code] = data[at + 4 : at + 4 + size].decode("utf-8", "replace")
            at += 5 + size
        elif signature == b"u":
            at += -at % 4
            (found[code],) = struct.unpack_from("<I", data, at)
            at += 4
        elif signature == b"g":
            found[code] = data[at + 1 : at + 1 + data[at]].decode("ascii", "replace")
            at += 2 + data[at]
        else:
            break
    return kind, found, data[whole:]
