"""Who is logged in, from the files that logind keeps."""

import os
from pathlib import Path

import pytest

from oomguard.linux.logind import Login, logins, parse_session

# systemd 252: /run/systemd/sessions/2
REAL = b"""\
# This is private data. Do not parse.
UID=1000
USER=anna
ACTIVE=1
IS_DISPLAY=1
STATE=active
REMOTE=0
LEADER_FD_SAVED=1
TYPE=wayland
ORIGINAL_TYPE=wayland
CLASS=user
SCOPE=session-2.scope
FIFO=/run/systemd/sessions/2.ref
SEAT=seat0
TTY=tty2
POSITION=2
LEADER=1403
AUDIT=2
REALTIME=1668857212063911
MONOTONIC=21383412
CONTROLLER=:1.34
"""


def test_a_real_one() -> None:
    assert parse_session(REAL) == Login(1000, "anna", True)
    assert parse_session(REAL.replace(b"TYPE=wayland", b"TYPE=tty")) == Login(1000, "anna", False)
    assert parse_session(REAL.replace(b"STATE=active", b"STATE=online")) == Login(1000, "anna", True)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"UID=1000", b"UID="),
        (b"UID=1000", b"UID=-1"),
        (b"UID=1000", b"UID=\xb2"),
        (b"STATE=active", b"STATE=closing"),
        (b"STATE=active", b""),
        (b"CLASS=user", b"CLASS=greeter"),
        (b"CLASS=user", b"CLASS=manager"),
        (b"CLASS=user", b"CLASS=lock-screen"),
    ],
)
def test_nobody(old: bytes, new: bytes) -> None:
    assert parse_session(REAL.replace(old, new)) is None


@pytest.mark.parametrize("cut", range(0, len(REAL), 7))
def test_a_file_that_is_not_whole(cut: int) -> None:
    found = parse_session(REAL[:cut])
    assert found is None or found.uid == 1000


def test_a_directory_of_them(tmp_path: Path) -> None:
    (tmp_path / "2").write_bytes(REAL)
    (tmp_path / "c1").write_bytes(REAL.replace(b"=wayland", b"=tty"))
    (tmp_path / "7").write_bytes(REAL.replace(b"1000", b"4").replace(b"anna", b"sync").replace(b"=wayland", b"=tty"))
    os.mkfifo(tmp_path / "2.ref")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert logins(str(tmp_path)) == [Login(4, "sync", False), Login(1000, "anna", True)]


def test_without_logind_nobody_is(tmp_path: Path) -> None:
    assert logins(str(tmp_path / "sessions")) == []
