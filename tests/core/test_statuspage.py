"""The page that everybody reads: never torn, never an odd exception, whatever is in it."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
import signal
import stat
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oomguard.core.page import Writer
from oomguard.model.facts import Pressure, Stall
from oomguard.model.messages import MESSAGE_IDS
from oomguard.model.statuslayout import (
    COUNTS,
    EVENT_KINDS,
    FRONT,
    GUARDS,
    HEAD,
    LAYOUT,
    MAGIC,
    NOTES_BYTES,
    NUMBERS,
    NUMBERS_OF,
    PID_AT,
    SECTIONS,
    SIZE,
    SUM_AT,
    UNKNOWN,
)
from oomguard.model.statuspage import (
    Averages,
    Clause,
    Condition,
    Event,
    Growing,
    GuardLine,
    Nominee,
    Numbers,
    StatusPage,
    decode,
    read,
)
from tests.pages import publish


def test_everything_that_people_are_told_has_its_kind() -> None:
    assert set(EVENT_KINDS) == set(MESSAGE_IDS)


def line(name: str = "host", number: int = 1, cgroup: str = "/", **more: Any) -> GuardLine:
    return GuardLine(name, cgroup, "enforce", "calm", number, number, number, **more)


def condition(kind: str = "available_below", word: str = "", unit: str = "bytes", number: int = 1) -> Condition:
    return Condition(kind, word, unit, number, 5)


STALL = Stall(12.34, 5.5, 0.01, 2**40)


def test_what_is_published_is_read(tmp_path: Path) -> None:
    path = f"{tmp_path}/status"
    writer = Writer(path)
    assert read(path) == StatusPage(Numbers(), (), "", (), 0), "a page that nobody has written yet is one all the same"
    numbers = Numbers(*range(1, 17))
    soft = (
        Clause((condition(), condition("stall_above", "full", "us", 150000)), 0, True),
        Clause((condition("memory_above", "", "millionths", 800000),), 7, False),
    )
    hard = (Clause((condition("events_above", "oom_kill", "count", 3),), 0, True),)
    averages = Averages((1.5, 2.0, 3.25), (0.0, 100.0, 0.01))
    guards = (
        line(),
        GuardLine(
            *("web", "/system.slice/web-*.service", "observe", "draining", 3, 2**40, 2**63),
            *("/system.slice/web-1.service", 5, 6, 7, 8, 9, averages, soft, hard),
        ),
    )
    growing = (Growing("/a", 10**9, 20, 10**8, 10), Growing("/b", 0, 5, 0, 5))
    nominees = (Nominee("web", "subtree", 3, 77, 2**33, "make", "/a"), Nominee("host", "cgroup", 9, 0, 1, "b", "/b"))
    events = (Event(3, "KILLED", "web", "killed make[77]"), Event(1, "STARTED", "", "2 policies"))
    degraded = (("psi", "no pressure here"), ("x", "y"))
    more: Any = {"growing": growing, "nominees": nominees, "events": events, "pressure": Pressure(STALL, STALL)}
    publish(writer, numbers, guards, "1.2.3", degraded, beat_ns=99, **more)
    expected = StatusPage(numbers, guards, "1.2.3", degraded, 99, Pressure(STALL, STALL), 99, growing, nominees, events)
    assert read(path) == expected
    assert [it.per_second for it in growing] == [9e16, 0.0]
    writer.begin()
    writer.end((*range(16), *(UNKNOWN,) * 8, 0, 100))
    after = read(path)
    assert after.beat_ns == 100
    assert (after.numbers, after.pressure) == (Numbers(*range(16)), None)
    kept = {"numbers": after.numbers, "beat_ns": 100, "pressure": None, "pressure_ns": 0}
    assert after == replace(expected, **kept), "what nothing was put into stays"
    publish(writer, version="1.2.4")
    assert (read(path).guards, read(path).version, read(path).degraded) == ((), "1.2.4", ())


def test_too_long_and_too_many(tmp_path: Path) -> None:
    """Cut, not refused: the killer must not die of somebody's name. And what is cut is said."""
    hostile = ["x" * 300, "ü" * 100, "\udcff\udcfe", "a\nb\tc", ""]
    guards = [line(name, 1, "/" + name, path=f"/{name}/end") for name in hostile]
    guards += [line(str(n), n, soft=(Clause((condition(number=n),) * 4, 0, False),)) for n in range(500)]
    growing = [Growing(f"/{n}", n, 2, 0, 1) for n in range(100)]
    nominees = [Nominee("1", "process", 1, n, 1, "y" * 99, "/") for n in range(100)]
    events = [Event(n, "SOFT", "z" * 99, "ü" * 999) for n in range(1000, 0, -1)]
    writer = publish(
        tmp_path, None, guards, "v" * (NOTES_BYTES + 1000), growing=growing, nominees=nominees, events=events
    )
    path = f"{tmp_path}/status"
    page = read(path)
    assert len(page.guards) == GUARDS
    assert page.guards[0].name == "x" * 69 + "…"
    assert page.guards[0].cgroup == "/" + "x" * 176 + "…"
    assert page.guards[0].path == "…" + "x" * 185 + "/end", "of a path the end tells more"
    assert page.guards[1].name == "ü" * 34 + "…", "no half of a character"
    assert page.guards[2].name == "??"
    assert page.version == "v" * NOTES_BYTES
    assert [it.at_ns for it in page.events] == list(range(1000, 976, -1))
    assert page.events[0].text == "ü" * 82 + "…"
    assert page.left_out == (
        ("policies", 505 - GUARDS),
        ("conditions", 2000 - 384),
        ("nominees", 84),
        ("bytes of what is degraded", 1000),
    )
    publish(writer, degraded=[(f"what{n}", "ü" * 50) for n in range(1000)])
    page = read(path)
    assert page.version == "9.9.9"
    assert 100 < len(page.degraded) < 1000
    assert page.left_out[0][0] == "bytes of what is degraded"


@given(st.binary(max_size=2000), st.integers(0, 3000))
@settings(deadline=None)
def test_garbage_is_no_page(data: bytes, at: int) -> None:
    """Not even where its checksums are right: whatever a number says, it is told as a wrong page."""
    good = bytearray(SIZE)
    FRONT.pack_into(good, 0, MAGIC, LAYOUT, SIZE, 0)
    page = bytearray(bytes(good[:at]) + data + bytes(good[at + len(data) :]))
    signed = page[:SIZE]
    signed[: FRONT.size] = good[: FRONT.size]
    sign(signed)
    for content in (data, page, page[: len(data)], signed):
        with contextlib.suppress(ValueError):
            assert decode(bytes(content)).version is not None


def sign(page: bytearray) -> None:
    """Make its checksums right."""
    values = list(HEAD.unpack_from(page, PID_AT))
    counts = values[len(NUMBERS) : len(NUMBERS) + len(COUNTS)]
    for section in SECTIONS:
        used = min(counts[section.counted], section.room) * section.record.size
        values[len(NUMBERS) + len(COUNTS) + section.number] = zlib.crc32(page[section.at : section.at + used])
    HEAD.pack_into(page, PID_AT, *values)
    page[SUM_AT : SUM_AT + 4] = zlib.crc32(page[PID_AT:SUM_AT], 0).to_bytes(4, "little")


def test_half_of_another_page_is_no_page(tmp_path: Path) -> None:
    """A processor may show the sequence before what was written under it: every single byte is held by a checksum."""
    guards = [line(str(n), soft=(Clause((condition(),), 0, True),)) for n in range(3)]
    writer = publish(tmp_path, Numbers(*range(16)), guards, degraded=[("a", "b")], growing=[Growing("/a", 1, 2, 3, 4)])
    before = (tmp_path / "status").read_bytes()
    old = [replace(guard, name=f"{guard.name}x", used_bytes=7, targets=9, soft=()) for guard in guards]
    publish(writer, Numbers(*range(1, 17)), old, degraded=[("c", "d")], growing=[Growing("/b", 5, 6, 7, 8)])
    after = (tmp_path / "status").read_bytes()
    different = [place for place in range(SIZE) if before[place] != after[place]]
    assert len(different) > 50
    decode(after)
    for place in different:
        torn = bytearray(after)
        torn[place] = before[place]
        with pytest.raises(ValueError, match="damaged"):
            decode(bytes(torn))


def test_another_layout_is_told(tmp_path: Path) -> None:
    """After an upgrade the command is newer than the daemon, until that is restarted; or the other way round."""
    publish(tmp_path)
    page = bytearray((tmp_path / "status").read_bytes())
    for number, size in ((1, 61440), (LAYOUT + 1, SIZE + 4096)):
        page[8:12] = number.to_bytes(4, "little")
        (tmp_path / "status").write_bytes(bytes(page).ljust(size, b"\0")[:size])
        with pytest.raises(
            ValueError, match=rf"layout {number}, and this .* reads layout {LAYOUT}: restart the daemon"
        ):
            read(f"{tmp_path}/status")


@pytest.mark.parametrize("content", [b"", b"oomguard", os.urandom(SIZE), bytes(SIZE), MAGIC + b"\xff" * SIZE])
def test_a_file_of_something_else(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "status").write_bytes(content)
    with pytest.raises(ValueError, match=r"status page|it is of layout"):
        read(f"{tmp_path}/status")


@pytest.mark.parametrize("sequence", [7, 8])
def test_one_that_never_stands_still(tmp_path: Path, sequence: int) -> None:
    """Its writer was stopped in the midst of it; or the file is damaged."""
    publish(tmp_path)
    page = bytearray((tmp_path / "status").read_bytes())
    page[16:24] = sequence.to_bytes(8, "little")
    (tmp_path / "status").write_bytes(page)
    with pytest.raises(ValueError, match="never stands still"):
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


def of_number(number: int) -> dict[str, Any]:
    """A page in which all numbers are the same, and its length follows from it."""
    text = str(number)
    return {
        "numbers": Numbers(*[number] * 16),
        "guards": tuple(
            line(text, number, soft=(Clause((condition(number=number),), 0, True),)) for _ in range(1 + number % 60)
        ),
        "version": text,
        "degraded": (("n", text),) * (number % 300),
        "growing": (Growing(text, number, number, number, number),) * (number % 32),
        "events": (Event(number, "SOFT", text, text),) * (number % 24),
    }


def _publish_for_ever(path: Path) -> None:
    writer = Writer(str(path / "status"))
    number = 0
    while True:
        number += 1
        publish(writer, **of_number(number), beat_ns=number)


def _read_on(path: str, enough: int) -> int:
    """Exit code: 0 all that was read was whole, 1 something was not, 2 there was nothing to read."""
    seen: set[int] = set()
    restless = 0
    while len(seen) < enough and restless < 1000:
        try:
            page = read(path)
        except ValueError as error:
            if "never stands still" not in str(error):
                return 2
            restless += 1
            continue
        if number := page.beat_ns:
            seen.add(number)
            expected = of_number(number)
            if any(getattr(page, name) != value for name, value in expected.items()):
                return 1
    return 0 if len(seen) >= enough else 3


def test_a_reader_never_sees_half_of_two_pages(tmp_path: Path) -> None:
    """A writer that never pauses, and many readers; in every copy all numbers are the same."""
    Writer(f"{tmp_path}/status")
    writer = _forked(lambda: _publish_for_ever(tmp_path))
    readers = [_forked(lambda: os._exit(_read_on(f"{tmp_path}/status", 60))) for _ in range(6)]
    try:
        for reader in readers:
            assert os.waitstatus_to_exitcode(os.waitpid(reader, 0)[1]) == 0
        assert os.waitpid(writer, os.WNOHANG) == (0, 0), "the writer has failed"
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)


def _forked(do: Callable[[], None]) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            do()
        finally:
            os._exit(9)
    return pid


PR_SET_SECCOMP, SECCOMP_MODE_STRICT = 22, 1


def test_nothing_that_a_reader_does_can_hold_up_the_writer(tmp_path: Path) -> None:
    """It makes no system call, so there is nothing to wait in: proven by the kernel, which kills it for any other than
    read and write. Meanwhile the page is locked, leased, mapped and held by readers who have stopped in their midst.
    """
    writer = publish(tmp_path, **of_number(59))
    path = f"{tmp_path}/status"
    readers = [_forked(lambda: _hold(path)) for _ in range(20)]
    for reader in readers:
        assert os.WIFSTOPPED(os.waitpid(reader, os.WUNTRACED)[1])
    heard, tell = os.pipe()

    def write() -> None:
        publish(writer, **of_number(58))  # what is allocated once is allocated
        assert ctypes.CDLL(None).prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) == 0
        for _ in range(500):
            writer.begin()
            writer.put(NUMBERS_OF, 3, *[4] * 17)
            writer.notes(b"x" * 99)
            writer.end((7,) * len(NUMBERS))
        os.write(tell, b"done")

    child = _forked(write)
    os.close(tell)
    try:
        assert os.read(heard, 4) == b"done", "it has asked the kernel for something"
        assert read(path).beat_ns == 7
    finally:
        os.close(heard)
        for pid in (child, *readers):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _hold(path: str) -> None:
    """All that somebody can do to a file that he may only read."""
    fd = os.open(path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    held = mmap.mmap(fd, SIZE, prot=mmap.PROT_READ)
    held[:]
    os.pread(fd, SIZE // 2, 0)
    with contextlib.suppress(OSError):  # only its owner, and root, may ask for one
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    os.kill(os.getpid(), signal.SIGSTOP)
