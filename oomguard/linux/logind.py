"""Who is logged in: the files of systemd-logind, by which sd-login(3) knows it too. elogind keeps the same."""

import os
from dataclasses import dataclass
from typing import Final

SESSIONS: Final = "/run/systemd/sessions"
_SCREENS: Final = frozenset({"x11", "wayland", "mir"})
_MOST: Final = 4096  # bytes of one file: a dozen short lines


@dataclass(frozen=True, slots=True)
class Login:
    """One user. ``graphical``: one of his sessions says that it has a screen; a desktop begun on a tty does not."""

    uid: int
    user: str
    graphical: bool


def logins(directory: str = SESSIONS) -> list[Login]:
    """Everybody with a session of his own that is not ending, by uid; none where there is no logind."""
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    found: dict[int, Login] = {}
    for name in names:
        login = parse_session(_content(f"{directory}/{name}"))
        if login is not None and (login.uid not in found or login.graphical):
            found[login.uid] = login
    return [found[uid] for uid in sorted(found)]


def _content(path: str) -> bytes:
    """b"": it is gone by now, or one of the fifos that lie there as well."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return b""
    try:
        return os.read(fd, _MOST)
    except OSError:
        return b""
    finally:
        os.close(fd)


def parse_session(content: bytes) -> Login | None:
    """None: nobody's (a login screen, a manager), or it is ending."""
    # UID=1000
    # USER=anna
    # STATE=active
    # TYPE=wayland
    # CLASS=user
    said = dict(line.split("=", 1) for line in content.decode("utf-8", "replace").splitlines() if "=" in line)
    uid = said.get("UID", "")
    if not uid.isdecimal() or said.get("STATE") not in ("active", "online"):
        return None
    if said.get("CLASS") not in ("user", "user-early", "user-light"):
        return None
    return Login(int(uid), said.get("USER", uid), said.get("TYPE") in _SCREENS)
