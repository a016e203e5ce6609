"""The ring against a model of it, its reader against a writer in another process, and the mailbox on top."""

from __future__ import annotations

import os
import select
import signal
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from oomguard.model.ring import Ring
from oomguard.workers.pool import Mailbox, hush, ring_bell

PAGE = 4096


class RingModel(RuleBasedStateMachine):
    """Every record ever written is remembered, with its number: what a reader gets must be a run of them."""

    def __init__(self) -> None:
        super().__init__()
        self.ring = Ring.create(PAGE)
        self.written: list[bytes] = []
        self.position = 0
        self.next = 0  # number of the record that the reader expects

    @rule(size=st.integers(0, PAGE // 4 - 8), letter=st.integers(0, 255))
    def append(self, size: int, letter: int) -> None:
        payload = bytes([letter]) * size
        assert self.ring.append(payload) is True
        self.written.append(payload)

    @rule(data=st.binary(max_size=40))
    def append_hostile(self, data: bytes) -> None:
        """What looks like a skip mark or a length is a payload like any other."""
        payload = b"\xff" * (len(data) % 9) + data
        assert self.ring.append(payload) is True
        self.written.append(payload)

    @rule(more=st.integers(1, PAGE))
    def append_too_much(self, more: int) -> None:
        before = self.ring.head(), self.ring.oldest(), self.ring.written()
        assert self.ring.append(bytes(PAGE // 4 - 8 + more)) is False
        assert (self.ring.head(), self.ring.oldest(), self.ring.written()) == before

    @rule(limit=st.integers(1, 100))
    def read(self, limit: int) -> None:
        payloads, self.position, lost = self.ring.read(self.position, limit)
        assert len(payloads) <= limit
        assert lost in (0, 1)
        if lost:
            self.next = self._after_loss(payloads)
        assert payloads == self.written[self.next : self.next + len(payloads)]
        self.next += len(payloads)
        if len(payloads) < limit:
            assert self.next == len(self.written), "less than asked for means that there is no more"

    def _after_loss(self, payloads: list[bytes]) -> int:
        """Reading goes on at the oldest record that is whole: the ring knows which number that is only by its place."""
        kept, _, again = self.ring.read(self.ring.oldest(), 1 << 20)
        assert again == 0
        assert kept[: len(payloads)] == payloads
        first = len(self.written) - len(kept)
        assert first > self.next, "nothing was lost"
        return first

    @precondition(lambda self: self.written)
    @rule()
    def a_new_reader_sees_all_that_is_whole(self) -> None:
        kept, position, lost = self.ring.read(self.ring.oldest(), 1 << 20)
        assert lost == 0
        assert position == self.ring.head()
        assert kept == self.written[len(self.written) - len(kept) :]
        assert kept, "the newest record is always there"

    @invariant()
    def counts(self) -> None:
        assert self.ring.written() == len(self.written)
        assert self.ring.head() - self.ring.oldest() <= self.ring.size_bytes


TestRingModel = RingModel.TestCase
TestRingModel.settings = settings(max_examples=80, stateful_step_count=60, deadline=None)


@given(st.integers(1, 5 * PAGE))
@settings(max_examples=30, deadline=None)
def test_a_ring_is_at_least_as_large_as_asked_for(size: int) -> None:
    ring = Ring.create(size)
    assert size <= ring.size_bytes < size + PAGE
    assert ring.append(bytes(ring.size_bytes // 4 - 8))
    assert not ring.append(bytes(ring.size_bytes // 4 - 7))


def test_a_ring_that_is_all_skip_marks_and_small_records() -> None:
    """Sizes that never fit before the end: every lap ends with a skip mark."""
    ring = Ring.create(PAGE)
    position = 0
    for number in range(2000):
        payload = number.to_bytes(4, "little") * 150  # 608 bytes with its mark: 6 to a lap, 448 are skipped
        assert ring.append(payload)
        found, position, lost = ring.read(position)
        assert (found, lost) == ([payload], 0)


class _Slow:
    """A ring's bytes whose copying takes so long that the writer comes past in between."""

    def __init__(self, data: memoryview, meanwhile: Callable[[], None]) -> None:
        self.data, self.meanwhile = data, meanwhile

    def __getitem__(self, place: slice) -> memoryview:
        value = self.data[place]
        copied = memoryview(bytes(value))
        if self.meanwhile is not None:
            meanwhile, self.meanwhile = self.meanwhile, None
            meanwhile()
        return copied if place.stop - place.start == 8 else value


class _SlowRing(Ring):
    __slots__ = ("_data",)


@pytest.mark.parametrize("stale", ["a skip mark", "a length"])
def test_who_is_overtaken_while_reading_is_told_so(stale: str) -> None:
    """What the reader took for a skip mark was overwritten meanwhile: records are lost, and it must say so."""
    ring = Ring.create(PAGE)
    size = PAGE // 4 - 8
    position = 0
    if stale == "a skip mark":
        for _ in range(3):
            ring.append(bytes(size))
        ring.append(bytes(8))
        position = ring.head()
        ring.append(bytes(size))  # does not fit any more: skipped to the start
    else:
        ring.append(bytes(8))

    def lap() -> None:
        for number in range(9):
            assert writer.append(bytes([number]) * size)

    writer = Ring(ring._map)
    reader = _SlowRing(ring._map)
    reader._data = _Slow(memoryview(ring._map)[4096:], lap)  # type: ignore[assignment]
    found, position, lost = reader.read(position)
    assert lost == 1
    assert found == [bytes([number]) * size for number in (6, 7, 8)] or found == [
        bytes([number]) * size for number in (5, 6, 7, 8)
    ]
    assert position == ring.head()


def _write_for_ever(ring: Ring, go: int) -> None:
    os.read(go, 1)
    number = 0
    while True:
        number += 1
        body = number.to_bytes(8, "little") * (number * 7919 % 190)
        ring.append(zlib.crc32(body).to_bytes(4, "little") + number.to_bytes(8, "little") + body)


def test_a_reader_never_sees_a_torn_or_reordered_record_of_another_process() -> None:
    """The writer laps the reader all the time: what is read is whole and in order, and what is lost is told."""
    ring = Ring.create(2 * PAGE)
    wait, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _write_for_ever(ring, wait)
        finally:
            os._exit(1)
    os.write(go, b"g")
    last = position = laps = records = 0
    try:
        while laps < 200 or records < 20_000:
            payloads, position, lost = ring.read(position)
            for payload in payloads:
                number = int.from_bytes(payload[4:12], "little")
                assert zlib.crc32(payload[12:]) == int.from_bytes(payload[:4], "little"), "torn"
                assert payload[12:] == payload[4:12] * (number * 7919 % 190), "torn"
                assert number > last
                if not lost:
                    assert number == last + 1, "records are missing, and it was not said"
                last = number
            records += len(payloads)
            laps += lost
            if laps < 200 and records % 1000 < 64:
                os.sched_yield()
                for _ in range(50_000):  # let ourselves be lapped
                    pass
            assert os.waitpid(pid, os.WNOHANG) == (0, 0), "the writer has failed"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(wait)
        os.close(go)


def test_a_writer_that_dies_in_the_middle_leaves_a_ring_that_can_be_read() -> None:
    """SIGKILL at any point of an append: the records up to the head are whole."""
    for _ in range(30):
        ring = Ring.create(PAGE)
        wait, go = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                _write_for_ever(ring, wait)
            finally:
                os._exit(1)
        os.write(go, b"g")
        while ring.written() < 100:
            assert os.waitpid(pid, os.WNOHANG) == (0, 0)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(wait)
        os.close(go)
        payloads, position, lost = ring.read(ring.oldest(), 1 << 20)
        assert (position, lost) == (ring.head(), 0)
        for payload in payloads:
            assert zlib.crc32(payload[12:]) == int.from_bytes(payload[:4], "little")


# ------------------------------------------------------------------------------------------------------------- mailbox


def test_what_is_posted_arrives_once_and_in_order() -> None:
    box = Mailbox()
    assert box.take() == ([], 0)
    sent = [("open", 7, [(1, 2), (3, 4)]), ("write", 8, (1, -1, None, "ü", b"\xff", True)), ("x",)]
    for message in sent:
        assert box.post(message)
    assert box.take() == (sent, 0)
    assert box.take() == ([], 0)
    os.close(box.bell)


def test_hundreds_at_once() -> None:
    """More than one read of the ring takes."""
    box = Mailbox()
    sent = [("n", number) for number in range(500)]
    for message in sent:
        box.post(message)
    assert box.take() == (sent, 0)
    os.close(box.bell)


def test_too_many_are_told_as_lost_and_the_newest_are_there() -> None:
    box = Mailbox(PAGE)
    sent = [("n", number) for number in range(1000)]
    for message in sent:
        box.post(message)
    messages, lost = box.take()
    assert lost == 1
    assert messages == sent[-len(messages) :]
    assert len(messages) > 50
    assert box.post(("x" * PAGE,)) is False
    os.close(box.bell)


def test_the_bell_rings_until_it_is_heard() -> None:
    box = Mailbox()
    poll = select.poll()
    poll.register(box.bell, select.POLLIN)
    assert poll.poll(0) == []
    box.post(("a",))
    box.post(("b",))
    assert poll.poll(0) == [(box.bell, select.POLLIN)]
    assert len(box.take()[0]) == 2
    assert poll.poll(0) == []
    hush(box.bell)
    os.eventfd_write(box.bell, 2**64 - 2)
    ring_bell(box.bell)  # full: it rings already
    assert poll.poll(0) == [(box.bell, select.POLLIN)]
    os.close(box.bell)


def test_who_comes_later_is_not_told_what_is_over() -> None:
    box = Mailbox()
    box.post(("write", 1))
    box.rewind()
    box.post(("write", 2))
    assert box.take() == ([("write", 2)], 0)
    os.close(box.bell)


@pytest.mark.parametrize("torn", ["a byte of it is not there yet", "its length is not", "it belongs to another lap"])
def test_a_record_that_is_not_whole_yet_is_no_record(torn: str) -> None:
    """Where stores are seen in another order (arm64), ``head`` may be there before the record."""
    ring = Ring.create(PAGE)
    assert ring.append(b"before")
    position = ring.head()
    assert ring.append(b"a record")
    memory, place = ring._map, 4096 + position
    whole = memory[place : place + 16]
    if torn == "a byte of it is not there yet":
        memory[place + 9 : place + 10] = b"\0"
    elif torn == "its length is not":
        memory[place : place + 4] = bytes(4)
    else:
        ahead = Ring.create(PAGE)
        for number in range(300):
            ahead.append(bytes([number % 256] * 8))
        memory[place : place + 16] = ahead._map[4096 + position : 4096 + position + 16]
    assert ring.read(0) == ([b"before"], position, 0)
    memory[place : place + 16] = whole
    assert ring.read(position) == ([b"a record"], ring.head(), 0)
