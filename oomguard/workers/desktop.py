"""Notifications on the screens of those who are logged in: each on his own session's bus, as that user.

The bus of a session lets nobody in but its owner, and who is in may do anything that he may. So whoever speaks there is
a child that has become that user for good, has nothing of ours, and ends after one message. The process that makes such
children keeps one of root's rights, to become another user. It reads no secret, and no answer but a few words.
"""

import json
import os
import pwd
import select
import signal
import time
from dataclasses import asdict
from typing import Any, Final

from ..linux import libc, logind
from ..model.policy import Sink
from .answer import Answer

RUN_USER: Final = "/run/user"
_WHERE: Final = ("/org/freedesktop/Notifications", "org.freedesktop.Notifications", "org.freedesktop.Notifications")
_EACH_S: Final = 10  # for one user; all are told at the same time
_USERS_MAX: Final = 16
_CALL_S: Final = 5.0
_CAP_SETGID, _CAP_SETUID = 6, 7
_NOBODY_THERE: Final = ("ServiceUnknown", "NameHasNoOwner")


def keep_only_setuid() -> None:
    """Become nobody, who may become another user and nothing else. Without root's rights: stay who we are."""
    if os.geteuid() != 0:
        return
    libc.prctl_set_keepcaps()
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    libc.capset(1 << _CAP_SETUID | 1 << _CAP_SETGID)


class Desktop:
    """Made before rights are given up. ``sessions``: logind's directory; ``run_user``: where each user's bus is."""

    def __init__(self, sessions: str = logind.SESSIONS, run_user: str = RUN_USER) -> None:
        self._sessions, self._run_user = sessions, run_user
        self._owner = os.geteuid()
        self._becomes = self._owner == 0
        self._missing = _missing()

    def deliver(self, _sink: Sink, request: dict[str, Any]) -> Answer:
        """To everybody who has a session. That nobody is there is no error."""
        if self._missing is not None or "check" in request:
            return self._missing or Answer()
        logins = [login for login in logind.logins(self._sessions) if self._may_be(login.uid)][:_USERS_MAX]
        if not logins:
            return Answer(note=f"nobody is logged in ({self._sessions})")
        return summed_up({login.user: answer for login, answer in self._told(logins, request)})

    def _may_be(self, uid: int) -> bool:
        """Not root: its bus would be root's rights again."""
        return uid != 0 and (self._becomes or uid == self._owner)

    def _told(self, logins: list[logind.Login], request: dict[str, Any]) -> list[tuple[logind.Login, Answer]]:
        begun = [(login, *self._begun(login, request)) for login in logins]
        until = time.monotonic() + _EACH_S
        return [(login, _ended(pid, output, until)) for login, pid, output in begun]

    def _begun(self, login: logind.Login, request: dict[str, Any]) -> tuple[int, int]:
        output, mouth = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid:
            os.close(mouth)
            return pid, output
        try:
            os.close(output)
            signal.alarm(_EACH_S)
            if self._becomes:
                become(login.uid)
            libc.prctl_set_pdeathsig(signal.SIGKILL)
            answer = notify(f"unix:path={self._run_user}/{login.uid}/bus", request, login.graphical)
            os.write(mouth, json.dumps(asdict(answer)).encode())
        except BaseException as error:  # noqa: BLE001 - the top of a process: it ends here, and says why
            os.write(mouth, json.dumps({"error": _said(error)}).encode())
        finally:
            os._exit(0)


def _missing() -> Answer | None:
    try:
        import jeepney.io.blocking  # noqa: F401
    except ImportError:
        return Answer("jeepney is not installed", "make install EXTRAS=desktop, or pip install 'oomguard[desktop]'")
    return None


def become(uid: int) -> None:
    """That user and no more, for good. KeyError: there is none such any more."""
    entry = pwd.getpwuid(uid)
    os.setgroups([])
    os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
    os.setresuid(uid, uid, uid)
    libc.capset(0)  # the kernel takes them by itself only from who was root


def notify(bus: str, request: dict[str, Any], starts: bool) -> Answer:
    """One message on this bus. ``starts``: a server that is not there yet may be started for it."""
    from jeepney import DBusAddress, HeaderFields, MessageFlag, MessageType, new_method_call
    from jeepney.io.blocking import open_dbus_connection

    path, name, interface = _WHERE
    with open_dbus_connection(bus=bus) as connection:

        def call(method: str, signature: str | None = None, body: tuple[Any, ...] = ()) -> Any:
            message = new_method_call(DBusAddress(path, name, interface), method, signature, body)
            if not starts:
                message.header.flags |= MessageFlag.no_auto_start
            reply = connection.send_and_get_reply(message, timeout=_CALL_S)
            if reply.header.message_type is MessageType.error:
                raise ConnectionError(reply.header.fields.get(HeaderFields.error_name, ""))
            return reply.body

        try:
            (can,) = call("GetCapabilities")
            body = escaped(request["body"]) if "body-markup" in can else request["body"]
            hints = {"urgency": ("y", urgency(request["priority"])), "category": ("s", "device.error")}
            call("Notify", "susssasa{sv}i", ("oomguard", 0, "dialog-warning", request["title"], body, [], hints, -1))
        except ConnectionError as error:
            if str(error).endswith(_NOBODY_THERE):
                return Answer(note="no notification server on that bus")
            raise
    return Answer()


def escaped(text: str) -> str:
    """A body is markup, and a process may call itself <b>."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def urgency(priority: int) -> int:
    """0 low, 1 normal, 2 critical: stays until it is dismissed. From a priority of syslog's."""
    return 2 if priority <= 3 else 1 if priority == 4 else 0


def _ended(pid: int, output: int, until: float) -> Answer:
    poll = select.poll()
    poll.register(output, select.POLLIN)
    said = os.read(output, 4096) if poll.poll(max(0.0, until - time.monotonic()) * 1000) else b""
    os.close(output)
    try:
        os.kill(pid, signal.SIGKILL)
    except PermissionError:
        pass  # it is another user by now; its alarm ends it
    if not said:
        return Answer(f"the bus took more than {_EACH_S} s")
    return Answer(**json.loads(said))


def _said(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {error}"[:200]


def summed_up(answers: dict[str, Answer]) -> Answer:
    """Of all users. An error only if nobody has seen it and somebody should have."""
    told = [user for user, answer in answers.items() if not answer.error and not answer.note]
    rest = [f"{user}: {answer.error or answer.note}" for user, answer in answers.items() if user not in told]
    note = "; ".join([f"shown to {', '.join(told)}"] * bool(told) + rest)
    if told or not any(answer.error for answer in answers.values()):
        return Answer(note=note)
    hidden = all(answer.error == "No such file or directory" for answer in answers.values() if answer.error)
    hint = "is /run/user hidden from the service (ProtectHome=), or has that user no session bus?" if hidden else ""
    return Answer("; ".join(rest), hint)
