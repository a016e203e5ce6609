"""The two datagram protocols, seen from the other end: this test is the service manager, and the journal."""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from oomguard.linux import systemd


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"{tmp_path}/socket" if request.param == "path" else f"@oomguard-test-{os.getpid()}"


@pytest.fixture
def server(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + address[1:] if address.startswith("@") else address)
        listening.settimeout(20)
        yield listening


@pytest.mark.parametrize("state", ["READY=1\nSTATUS=ünï\udcff", b"READY=1\nSTATUS=\xc3\xbcn\xc3\xaf\xff"])
def test_notify(server: socket.socket, address: str, state: str | bytes) -> None:
    assert systemd.notify(state, address) is True
    assert server.recv(1000) == b"READY=1\nSTATUS=\xc3\xbcn\xc3\xaf\xff"


@pytest.mark.parametrize("path", [None, "", "/nowhere/at/all", "@oomguard-nobody-listens"])
def test_nobody_to_notify(path: str | None) -> None:
    assert systemd.notify("READY=1", path) is False


def test_who_does_not_read_is_not_waited_for(server: socket.socket, address: str) -> None:
    assert not all(systemd.notify(b"x" * 1000, address) for _ in range(10_000))


def decode(message: bytes) -> dict[str, bytes]:
    """As journald does."""
    fields = {}
    while message:
        line, _, rest = message.partition(b"\n")
        key, equals, value = line.partition(b"=")
        if not equals:
            (length,) = struct.unpack_from("<Q", rest)
            value, rest = rest[8 : 8 + length], rest[8 + length :]
            assert rest[:1] == b"\n"
            rest = rest[1:]
        fields[key.decode()] = value
        message = rest
    return fields


FIELDS: dict[str, str | bytes] = {
    "MESSAGE": "killed a=b",
    "OOMGUARD_COMM": b"a\nPRIORITY=0\n\xff",
    "OOMGUARD_EMPTY": "",
    "OOMGUARD_NAME": "\udcffx",
    "PRIORITY": "5",
}
ENCODED = {
    "MESSAGE": b"killed a=b",
    "OOMGUARD_COMM": b"a\nPRIORITY=0\n\xff",
    "OOMGUARD_EMPTY": b"",
    "OOMGUARD_NAME": b"\xffx",
    "PRIORITY": b"5",
}


def test_a_value_with_newlines_cannot_become_another_field(server: socket.socket, address: str) -> None:
    assert systemd.journal_send(FIELDS, address) is True
    assert decode(server.recv(1000)) == ENCODED


def test_what_is_too_long_goes_through_a_sealed_memfd(server: socket.socket, address: str, no_leak: None) -> None:
    long = b"line\n" * 1_000_000
    assert systemd.journal_send({"MESSAGE": long}, address) is True
    message, ancillary, _, _ = server.recvmsg(1000, socket.CMSG_SPACE(4))
    assert message == b""
    ((_, kind, data),) = ancillary
    assert kind == socket.SCM_RIGHTS
    (fd,) = array.array("i", data)
    seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    assert seals & fcntl.F_SEAL_WRITE
    assert seals & fcntl.F_SEAL_SHRINK
    assert decode(os.pread(fd, 10_000_000, 0)) == {"MESSAGE": long}
    os.close(fd)


def test_no_journal(tmp_path: Path, no_leak: None) -> None:
    assert systemd.journal_send(FIELDS, f"{tmp_path}/none") is False
    assert systemd.journal_send({"MESSAGE": b"x" * 10_000_000}, f"{tmp_path}/none") is False


@pytest.mark.kernel
def test_the_journal_of_this_machine() -> None:
    if not os.path.exists("/run/systemd/journal/socket"):
        pytest.skip("no journald on this machine; test_in_vm.py asks the one in the virtual machine")
    token = os.urandom(8).hex()
    assert systemd.journal_send(FIELDS | {"OOMGUARD_TOKEN": token, "OOMGUARD_LONG": "y\n" * 500_000})
    subprocess.run(["journalctl", "--sync"], check=True)
    command = ["journalctl", "-o", "cat", "--output-fields=OOMGUARD_COMM", f"OOMGUARD_TOKEN={token}"]
    assert subprocess.run(command, check=True, capture_output=True).stdout == b"a\nPRIORITY=0\n\xff\n"


ASK = f"""
import sys
sys.path.insert(0, {str(Path(__file__).resolve().parent.parent.parent)!r})
from oomguard.linux import systemd
print(systemd.on_journal())
"""


@pytest.mark.parametrize(("shift", "expected"), [(0, "True"), (1, "False")])
def test_whether_stderr_is_the_journal(tmp_path: Path, shift: int, expected: str) -> None:
    with open(tmp_path / "stderr", "wb") as stderr:
        status = os.fstat(stderr.fileno())
        env = os.environ | {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + shift}"}
        done = subprocess.run([sys.executable, "-c", ASK], env=env, stderr=stderr, stdout=subprocess.PIPE, check=True)
    assert done.stdout.decode().strip() == expected


def test_without_the_variable_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    assert systemd.on_journal() is False
