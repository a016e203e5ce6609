"""The page that everybody reads: never torn, never an odd exception, whatever is in it."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oomguard.model import statuspage
from oomguard.model.statuspage import GUARDS, NOTES_BYTES, SIZE, GuardLine, Numbers, Writer, decode, read


def line(name: str = "host", number: int = 1, cgroup: str = "/") -> GuardLine:
    return GuardLine(name, cgroup, "enforce", "calm", number, number, number)


def test_what_is_published_is_read(tmp_path: Path) -> None:
    path = f"{tmp_path}/status"
    writer = Writer(path)
    assert read(path).guards == (), "a page that nobody has written yet is one all the same"
    numbers = Numbers(*range(1, 16))
    guards = (line(), GuardLine("web", "/system.slice/web-*.service", "observe", "draining", 3, 2**40, 2**63))
    writer.publish(numbers, guards, b"1.2.3\npsi\tno pressure here\nnonsense without a tab\nx\ty", 99)
    page = read(path)
    assert (page.numbers, page.guards, page.version, page.beat_ns) == (numbers, guards, "1.2.3", 99)
    assert page.degraded == (("psi", "no pressure here"), ("x", "y"))
    writer.publish(numbers, None, None, 100)
    assert read(path) == statuspage.StatusPage(numbers, guards, "1.2.3", page.degraded, 100), "None leaves it as it is"
    writer.publish(numbers, (), b"1.2.4", 101)
    assert (read(path).guards, read(path).version, read(path).degraded) == ((), "1.2.4", ())


def test_too_long_and_too_many(tmp_path: Path) -> None:
    """Cut, not refused: the killer must not die of somebody's name."""
    path = f"{tmp_path}/status"
    writer = Writer(path)
    writer.publish(Numbers(), (GuardLine("host", "/", "enforce", "calm", 1, -4096, -1),), None, 1)
    assert (read(path).guards[0].used_bytes, read(path).guards[0].limit_bytes) == (0, 0)
    hostile = ["x" * 300, "ü" * 100, "\udcff\udcfe", "a\nb\tc", ""]
    guards = tuple(line(name, 1, "/" + name) for name in hostile) + tuple(line(str(n), n) for n in range(500))
    writer.publish(Numbers(), guards, b"v" * (NOTES_BYTES + 1000), 1)
    page = read(path)
    assert len(page.guards) == GUARDS
    assert page.guards[0].name == "x" * 64
    assert page.guards[0].cgroup == "/" + "x" * 239
    assert page.guards[1].name == "ü" * 32
    assert page.guards[2].name == "??"
    assert page.version == "v" * NOTES_BYTES
    notes = ("1\n" + "\n".join(f"what{n}\t{'ü' * 50}" for n in range(1000))).encode()
    writer.publish(Numbers(), None, notes, 2)
    page = read(path)
    assert page.version == "1"
    assert 100 < len(page.degraded) < 1000
    assert len(page.guards) == GUARDS


@given(st.binary(max_size=2000), st.integers(0, 600))
@settings(deadline=None)
def test_garbage_is_no_page(data: bytes, at: int) -> None:
    good = bytearray(SIZE)
    good[:12] = statuspage.MAGIC + b"\1\0\0\0"
    page = bytes(good[:at]) + data + bytes(good[at + len(data) :])
    for content in (data, page, page[: len(data)]):
        with contextlib.suppress(ValueError):
            assert decode(content).version is not None


@pytest.mark.parametrize(
    "content", [b"", b"oomguard", os.urandom(SIZE), bytes(SIZE), statuspage.MAGIC + b"\xff" * SIZE]
)
def test_a_file_of_something_else(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "status").write_bytes(content)
    with pytest.raises(ValueError, match=r"status page|stands still"):
        read(f"{tmp_path}/status")


def test_no_page_is_no_daemon(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(f"{tmp_path}/status")


def test_everybody_may_read_it(tmp_path: Path) -> None:
    """Whatever the umask: the unit's is 0027."""
    before = os.umask(0o077)
    try:
        Writer(f"{tmp_path}/status")
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(f"{tmp_path}/status").st_mode) == 0o644


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "status.new").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"):
        Writer(f"{tmp_path}/status")
    assert (tmp_path / "precious").read_text() == "precious"


def _publish_for_ever(path: str) -> None:
    writer = Writer(path)
    number = 0
    while True:
        number += 1
        guards = tuple(line(str(number), number) for _ in range(1 + number % 60))
        notes = str(number).encode() + b"".join(b"\nn\t%d" % number for _ in range(number % 300))
        writer.publish(Numbers(*[number] * 15), guards, notes, number)


def test_a_reader_never_sees_half_of_two_pages(tmp_path: Path) -> None:
    """A writer that never pauses; in every copy all numbers are the same."""
    path = f"{tmp_path}/status"
    Writer(path)
    pid = os.fork()
    if pid == 0:
        try:
            _publish_for_ever(path)
        finally:
            os._exit(1)
    seen: set[int] = set()
    restless = 0
    try:
        while len(seen) < 2000:
            assert os.waitpid(pid, os.WNOHANG) == (0, 0), "the writer has failed"
            try:
                page = read(path)
            except ValueError as error:
                if "never stands still" not in str(error):
                    raise
                restless += 1
                assert restless < 1000
                continue
            number = page.beat_ns
            if number == 0:  # not begun yet
                continue
            seen.add(number)
            assert page.numbers == Numbers(*[number] * 15)
            assert page.guards == (line(str(number), number),) * (1 + number % 60)
            assert page.version == str(number)
            assert page.degraded == (("n", str(number)),) * (number % 300)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
