"""The black box: whatever is cut off, what is whole can be told, and is all that is given back."""

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oomguard.workers import blackbox
from oomguard.workers.blackbox import BLOCK, END, HEAD, TURNS, BlackBox

SIZE = 32 * BLOCK
ONE, OTHER = "20260131T031204Z-host-072511", "20260131T031205Z-web-0a1b2c"


def opened(path: Path, size: int = SIZE) -> BlackBox:
    box = BlackBox(str(path), size)
    for _ in box.prepare():
        pass
    assert box.ready
    return box


@pytest.fixture
def box(tmp_path: Path) -> Iterator[BlackBox]:
    made = opened(tmp_path / "blackbox")
    yield made
    made.close()


@pytest.fixture(scope="module")
def quick() -> Iterator[Path]:
    """In memory where there is room for it: hundreds of boxes that wait for a disk each time take minutes."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as path:
        yield Path(path)


def contents(box: BlackBox) -> list[tuple[int, str, bytes]]:
    return [(frame.kind, frame.name, box.payload(frame)) for frame in sorted(filter(None, box.frames()))]


def test_what_was_added_is_there_in_order_and_after_another_start_too(box: BlackBox) -> None:
    added = [(HEAD, ONE, b"{}"), (TURNS, ONE, b"x" * 200_00), (TURNS, OTHER, b""), (HEAD, OTHER, b"y" * 30_000)]
    for kind, name, payload in added:
        box.add(kind, name, payload)
    assert contents(box) == added
    again = opened(Path(box.path))
    again.add(END, ONE)
    assert contents(again) == [*added, (END, ONE, b"")]
    assert set(again.unended()) == {OTHER}
    again.close()


def test_it_has_its_blocks_from_the_start(box: BlackBox) -> None:
    assert os.stat(box.path).st_blocks * 512 >= SIZE
    assert os.stat(box.path).st_mode & 0o777 == 0o600
    before = os.stat(box.path).st_blocks
    for number in range(100):
        box.add(TURNS, ONE, bytes([number]) * 9000)
    assert (os.stat(box.path).st_blocks, os.stat(box.path).st_size) == (before, SIZE)


def direct_io(path: Path) -> bool:
    """Whether that file system lets anybody past the page cache."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_DIRECT))
    except OSError:
        return False
    return True


def test_it_is_written_past_the_page_cache_where_that_can_be(box: BlackBox, monkeypatch: pytest.MonkeyPatch) -> None:
    assert box.direct == direct_io(Path(box.path))
    real = os.open

    def older(path: str, flags: int, *more: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "this file system cannot")
        return real(path, flags, *more)

    monkeypatch.setattr(blackbox.os, "open", older)
    box.add(HEAD, ONE, b"{}")
    again = opened(Path(box.path))
    assert not again.direct
    again.add(TURNS, ONE, b"x" * 9000)
    assert contents(again) == [(HEAD, ONE, b"{}"), (TURNS, ONE, b"x" * 9000)]
    again.close()


def test_what_is_too_large_is_not_taken_and_harms_nothing(box: BlackBox) -> None:
    box.add(HEAD, ONE, b"first")
    box.add(TURNS, ONE, bytes(SIZE // 4))
    assert contents(box) == [(HEAD, ONE, b"first")]


payloads = st.lists(st.tuples(st.sampled_from([HEAD, TURNS, END]), st.integers(0, 7 * BLOCK)), min_size=1, max_size=40)


@given(payloads, st.data())
@settings(max_examples=40, deadline=None)
def test_a_cut_at_any_block_costs_that_frame_and_what_it_was_written_over(
    quick: Path, story: list[tuple[int, int]], data: st.DataObject
) -> None:
    """The last write came to the disk in part, its blocks in any order: the kernel and the drive promise no more."""
    path = quick / "blackbox"
    path.unlink(missing_ok=True)
    box = opened(path)
    added = []
    for number, (kind, length) in enumerate(story[:-1]):
        added.append((kind, ONE, bytes([number % 251 + 1]) * length))
        box.add(*added[-1])
    before = path.read_bytes()
    known = contents(box)
    box.add(story[-1][0], OTHER, b"the last" * (story[-1][1] // 8))
    after = path.read_bytes()
    changed = [i for i in range(0, SIZE, BLOCK) if before[i : i + BLOCK] != after[i : i + BLOCK]]
    kept = data.draw(st.sets(st.sampled_from(changed)))
    torn = bytearray(before)
    for block in kept:
        torn[block : block + BLOCK] = after[block : block + BLOCK]
    path.write_bytes(torn)
    again = opened(path)
    found = contents(again)
    last = [frame for frame in found if frame[1] == OTHER]
    assert bool(last) == (kept == set(changed))
    assert [frame for frame in found if frame[1] == ONE] == [frame for frame in known if frame in found]
    again.add(HEAD, OTHER, b"it goes on")
    assert contents(again)[-1] == (HEAD, OTHER, b"it goes on")
    box.close()
    again.close()


@given(st.binary(max_size=3 * BLOCK), st.integers(0, SIZE // BLOCK - 1))
@settings(max_examples=30, deadline=None)
def test_nonsense_is_no_frame(quick: Path, data: bytes, block: int) -> None:
    path = quick / "blackbox"
    path.unlink(missing_ok=True)
    content = bytearray(SIZE)
    head = blackbox._MAGIC + data
    content[block * BLOCK : block * BLOCK + len(head)] = head
    path.write_bytes(content[:SIZE])
    box = opened(path)
    assert contents(box) == []
    box.close()


def test_a_file_of_another_size_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "blackbox"
    path.write_bytes(b"what is this")
    box = opened(path)
    assert path.stat().st_size == SIZE
    assert contents(box) == []
    box.close()


def test_without_room_there_is_none_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blackbox, "_ROOM", 1 << 40)
    box = BlackBox(str(tmp_path / "blackbox"), SIZE)
    with pytest.raises(OSError, match="no black box"):
        list(box.prepare())
    assert not box.ready
    box.add(HEAD, ONE, b"is not taken, and is no error")
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("precious")
    (tmp_path / "blackbox").symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        list(BlackBox(str(tmp_path / "blackbox"), SIZE).prepare())
    assert target.read_text() == "precious"
