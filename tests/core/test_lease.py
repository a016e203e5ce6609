"""The lease book: whatever is lent on one file by whomever, in whatever order it ends, the owner's value comes back."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from oomguard.core.lease import SPARE, LeaseBook
from oomguard.linux import leases
from oomguard.linux.cgroup2 import Cgroup
from oomguard.model.facts import TargetId
from oomguard.model.verdict import Lease
from oomguard.workers.pool import Mailbox
from oomguard.workers.reaper import Reaper

MIB = 1 << 20
HOST = TargetId("host", "/")


class Rig:
    """A book, and a reaper that works when it is told to."""

    def __init__(self, root: Path, journal: bool = True) -> None:
        self.root = root
        (root / "run").mkdir()
        self.path = f"{root}/run/{leases.NAME}"
        self.orders, self.answers = Mailbox(), Mailbox()
        self.journal = leases.Journal(self.path) if journal else None
        self.book = LeaseBook(self.journal, self.orders, str(root), "/proc")
        self.reaper = self.new_reaper()
        self.pending: list[tuple[object, ...]] = []

    def new_reaper(self) -> Reaper:
        return Reaper(self.orders, self.answers, -1, f"{self.root}/run", str(self.root), "/proc")

    def make(self, name: str, high: str = "max") -> None:
        (self.root / name).mkdir()
        (self.root / name / "cgroup.procs").write_text("")
        self.write(name, high)

    def write(self, name: str, high: str) -> None:
        (self.root / name / "memory.high").write_text(high + "\n")

    def high(self, name: str) -> str:
        return (self.root / name / "memory.high").read_text().strip()

    def lend(self, token: int, name: str, value: int) -> int:
        inode = os.stat(self.root / name).st_ino
        return self.book.lend(Lease(HOST, token, "memory.high", f"/{name}", inode, 0, 0, value, "brake"))

    def fetch(self) -> None:
        self.pending += self.orders.take()[0]

    def work(self, most: int = 1000) -> None:
        """The reaper does that many orders, and the core hears of them."""
        self.fetch()
        while self.pending and most:
            self.reaper.obey(self.pending.pop(0))
            self.hear()
            self.fetch()
            most -= 1

    def hear(self) -> None:
        for token, what, number, _, _ in self.answers.take()[0]:
            self.book.settled(token, what, number)

    def entries(self) -> list[leases.Entry]:
        assert self.journal is not None
        return [entry for _, entry in self.journal.entries()]

    def close(self) -> None:
        os.close(self.reaper.proc_fd)
        for box in (self.orders, self.answers):
            os.close(box.bell)
        if self.journal is not None:
            self.journal.close()


def _replace(_group: Cgroup, fd: int, _name: str, value: bytes) -> bool:
    os.ftruncate(fd, 0)  # a kernel file takes a new value whole, however long the old one was
    os.write(fd, value)
    return True


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(Cgroup, "_write_fd", _replace)
    made = Rig(tmp_path)
    yield made
    made.close()


def test_lent_and_ended(rig: Rig) -> None:
    rig.make("web", str(512 * MIB))
    assert rig.lend(1, "web", 200 * MIB) == 0
    assert [(entry.value, entry.found) for entry in rig.entries()] == [(200 * MIB, 512 * MIB)], "before it is done"
    assert rig.high("web") == str(512 * MIB)
    rig.work()
    assert rig.high("web") == str(200 * MIB)
    assert rig.book.end(1) == 0
    rig.work()
    assert rig.high("web") == str(512 * MIB)
    assert rig.entries() == []
    assert rig.book.files == {}
    assert rig.book.end(1) == errno.ESRCH


def test_ended_before_it_was_written(rig: Rig) -> None:
    rig.make("web")
    rig.lend(1, "web", 200 * MIB)
    rig.book.end(1)
    rig.work()
    assert rig.high("web") == "max"
    assert rig.book.files == {}
    assert rig.entries() == []


def test_lent_again_while_it_is_being_put_back(rig: Rig) -> None:
    """A new limit: the old tripwire is released and a new one lent in one turn. No owner ever had the old one."""
    rig.make("web")
    rig.lend(1, "web", 200 * MIB)
    rig.work()
    rig.book.end(1)
    rig.lend(2, "web", 300 * MIB)
    rig.work()
    assert rig.high("web") == str(300 * MIB)
    rig.book.end(2)
    rig.work()
    assert rig.high("web") == "max"
    assert rig.book.files == {}


@pytest.mark.parametrize("first", [1, 2])
def test_two_on_one_file(rig: Rig, first: int) -> None:
    """A guard's tripwire and another guard's brake: whichever ends first, the owner's value comes back at the end."""
    rig.make("web")
    rig.lend(1, "web", 240 * MIB)
    rig.work()
    rig.lend(2, "web", 200 * MIB)
    rig.work()
    assert rig.high("web") == str(200 * MIB)
    assert len(rig.entries()) == 1
    rig.book.end(first)
    rig.work()
    assert rig.high("web") == str(200 * MIB if first == 1 else 240 * MIB)
    rig.book.end(3 - first)
    rig.work()
    assert rig.high("web") == "max"
    assert rig.entries() == []


def test_a_looser_one_does_not_loosen(rig: Rig) -> None:
    """Not another guard's, and not the owner's."""
    rig.make("web", str(100 * MIB))
    rig.lend(1, "web", 200 * MIB)
    rig.work()
    assert rig.high("web") == str(100 * MIB)
    rig.lend(2, "web", 50 * MIB)
    rig.work()
    rig.lend(3, "web", 70 * MIB)
    rig.work()
    assert rig.high("web") == str(50 * MIB)
    for token in (2, 1, 3):
        rig.book.end(token)
    rig.work()
    assert rig.high("web") == str(100 * MIB)
    assert rig.book.files == {}


def test_a_brake_that_moves_faster_than_the_reaper(rig: Rig) -> None:
    """The reaper sits in a write that reclaims; the brake is moved ten times. Killed now, all of it is put back."""
    rig.make("web")
    rig.lend(1, "web", 100 * MIB)
    rig.fetch()
    stuck = rig.pending.pop(0)
    for number in range(10):
        rig.lend(1, "web", (101 + number) * MIB)
    rig.fetch()
    assert rig.pending == [], "one order a file"
    rig.reaper.obey(stuck)  # it has written, and is not heard any more: the core is killed
    assert leases.undo_all(f"{rig.root}/run", str(rig.root), "/proc") != []
    assert rig.high("web") == "max"


def test_what_was_moved_meanwhile_is_done_afterwards(rig: Rig) -> None:
    rig.make("web")
    rig.lend(1, "web", 100 * MIB)
    for number in range(10):
        rig.lend(1, "web", (101 + number) * MIB)
    rig.work()
    assert rig.high("web") == str(110 * MIB)


def test_somebody_else_writes(rig: Rig) -> None:
    """Then it is his: before our write, and after it."""
    rig.make("web")
    rig.lend(1, "web", 100 * MIB)
    rig.write("web", "12345")
    rig.work()
    assert rig.high("web") == "12345"
    assert rig.book.files == {}
    assert rig.lend(1, "web", 4096) == 0
    rig.work()
    rig.write("web", "23456")
    rig.book.end(1)
    rig.work()
    assert rig.high("web") == "23456"
    assert rig.entries() == []


def test_what_its_owner_gave_it_is_known(rig: Rig) -> None:
    rig.make("web", str(512 * MIB))
    inode = os.stat(rig.root / "web").st_ino
    assert rig.book.found_high("/web", inode, 512 * MIB) == 512 * MIB
    rig.lend(1, "web", 200 * MIB)
    rig.work()
    assert rig.book.found_high("/web", inode, 200 * MIB) == 512 * MIB
    assert rig.book.found_high("/web", inode, 77 * MIB) == 77 * MIB, "somebody else's by now"
    assert rig.book.found_high("/web", inode + 1, 200 * MIB) == 200 * MIB
    rig.make("free")
    rig.lend(2, "free", 200 * MIB)
    assert rig.book.found_high("/free", os.stat(rig.root / "free").st_ino, 200 * MIB) is None


@pytest.mark.parametrize("owners", ["max", str(512 * MIB)])
def test_systemd_writes_the_units_settings_anew(rig: Rig, owners: str) -> None:
    """After a daemon-reload, when a unit beside it is started: what was before is there again, and ours is lost."""
    rig.make("web", owners)
    inode = os.stat(rig.root / "web").st_ino
    found = None if owners == "max" else int(owners)
    rig.lend(1, "web", 300 * MIB)
    rig.lend(2, "web", 200 * MIB)
    rig.work()
    rig.write("web", owners)
    assert rig.book.found_high("/web", inode, found) == found
    assert rig.book.found_high("/web", inode, found) == found, "on its way by now: nothing is ordered twice"
    rig.fetch()
    assert len(rig.pending) == 1
    rig.work()
    assert rig.high("web") == str(200 * MIB)
    rig.book.end(2)
    rig.work()
    assert rig.high("web") == str(300 * MIB)
    rig.write("web", owners)
    rig.book.end(1)
    rig.work()
    assert rig.book.found_high("/web", inode, found) == found
    rig.work()
    assert rig.high("web") == owners, "what is over is not written again"
    assert rig.entries() == []


def test_what_somebody_wrote_on_purpose_is_left_alone(rig: Rig) -> None:
    rig.make("web")
    rig.lend(1, "web", 200 * MIB)
    rig.work()
    rig.write("web", str(900 * MIB))
    assert rig.book.found_high("/web", os.stat(rig.root / "web").st_ino, 900 * MIB) == 900 * MIB
    rig.work()
    assert rig.high("web") == str(900 * MIB)


def test_a_limit_too_is_written_again(rig: Rig) -> None:
    rig.make("web")
    (rig.root / "web" / "memory.max").write_text("max\n")
    inode = os.stat(rig.root / "web").st_ino
    rig.book.lend(Lease(HOST, 1, "memory.max", "/web", inode, 0, 0, 200 * MIB, "step"))
    rig.work()
    (rig.root / "web" / "memory.max").write_text("max\n")
    assert rig.book.found_limit("memory.max", "/web", None) is None
    rig.work()
    assert (rig.root / "web" / "memory.max").read_text().strip() == str(200 * MIB)


def test_a_cgroup_that_is_gone(rig: Rig) -> None:
    rig.make("web")
    rig.lend(1, "web", 100 * MIB)
    for name in ("memory.high", "cgroup.procs"):
        (rig.root / "web" / name).unlink()
    (rig.root / "web").rmdir()
    rig.work()
    assert rig.book.files == {}
    assert rig.entries() == []


def test_what_cannot_be_written_is_told_and_what_cannot_be_put_back_is_tried_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.make("web")
    rig.lend(1, "web", 100 * MIB)
    rig.work()

    def broken(group: Cgroup, *_: object) -> bool:
        raise OSError(errno.EIO, "Input/output error", group.where("memory.high"))

    with monkeypatch.context() as patched:
        patched.setattr(Cgroup, "_write_fd", broken)
        rig.book.end(1)
        rig.work()
        assert len(rig.entries()) == 1, "still known to whoever comes after"
        rig.book.retry(10**12)
        rig.work()
        assert rig.high("web") == str(100 * MIB)
    rig.book.retry(10**12 + 1)
    rig.work()
    assert rig.high("web") == str(100 * MIB), "not in every turn"
    rig.book.retry(2 * 10**12)
    rig.work()
    assert rig.high("web") == "max"
    assert rig.book.files == {}


def test_what_could_not_be_written_is_not_taken_for_written(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.make("web")
    rig.lend(1, "web", 100 * MIB)
    rig.work()

    def broken(group: Cgroup, *_: object) -> bool:
        raise OSError(errno.EBUSY, "Device or resource busy", group.where("memory.high"))

    with monkeypatch.context() as patched:
        patched.setattr(Cgroup, "_write_fd", broken)
        rig.lend(1, "web", 90 * MIB)
        rig.work()
    rig.lend(1, "web", 80 * MIB)
    rig.work()
    assert rig.high("web") == str(80 * MIB)
    rig.book.end(1)
    rig.work()
    assert rig.high("web") == "max"


def test_a_score_that_may_not_be_raised_is_named(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another user's process, and no CAP_DAC_OVERRIDE."""
    said: list[tuple[str, str]] = []
    rig.book.say = lambda what, why: said.append((what, why))

    def refuse(*_: object) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", "/proc/1/oom_score_adj")

    with monkeypatch.context() as patched:
        patched.setattr(leases, "read_value", lambda *_: 0)
        patched.setattr(leases, "write_value", refuse)
        assert rig.book.lend(Lease(HOST, 1, "oom_score_adj", "/web", 0, 7, 70, 1000, "insurance")) == 0
        rig.work()
    ((what, why),) = said
    assert what == "insurance"
    assert "process 7: Permission denied" in why


def test_the_score_that_its_owner_gave_it_is_known(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "read_value", lambda *_: 200)
    assert rig.book.lend(Lease(HOST, 1, "oom_score_adj", "/web", 0, 7, 70, 1000, "insurance")) == 0
    assert rig.book.found_score(7, 70, 1000) == 200
    assert rig.book.found_score(7, 70, 500) == 500, "somebody has changed it since"
    assert rig.book.found_score(7, 71, 1000) == 1000, "another process"


def test_the_reaper_dies(rig: Rig) -> None:
    """With one order done and not told, one not begun, and one to come."""
    for name in ("done", "not", "later", "settled"):
        rig.make(name)
    rig.lend(4, "settled", 100 * MIB)
    rig.work()
    rig.lend(1, "done", 100 * MIB)
    rig.lend(2, "not", 100 * MIB)
    rig.fetch()
    rig.reaper.obey(rig.pending.pop(0))
    rig.answers.take()
    rig.pending.clear()
    rig.lend(2, "not", 90 * MIB)
    rig.book.end(1)
    rig.orders.rewind()
    rig.book.again()
    rig.lend(3, "later", 100 * MIB)
    rig.work()
    assert [rig.high(name) for name in ("done", "not", "later", "settled")] == [
        "max",
        str(90 * MIB),
        str(100 * MIB),
        str(100 * MIB),
    ]
    for token in (2, 3, 4):
        rig.book.end(token)
    rig.work()
    assert {rig.high(name) for name in ("done", "not", "later", "settled")} == {"max"}
    assert rig.book.files == {}


def test_at_the_end_all_of_it_at_once(rig: Rig) -> None:
    for name in ("a", "b", "c"):
        rig.make(name)
    rig.lend(1, "a", 100 * MIB)
    rig.work()
    rig.lend(2, "b", 100 * MIB)
    rig.lend(3, "c", 100 * MIB)
    rig.book.end(3)
    said = rig.book.end_all()
    assert said == ["memory.high of /a is put back to max, as it was found"]
    assert [rig.high(name) for name in "abc"] == ["max"] * 3
    assert rig.entries() == []


def test_a_full_journal_and_no_journal(tmp_path: Path, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.make("web")
    assert rig.journal is not None
    for token in range(leases.SLOTS):
        rig.journal.out(leases.Entry(leases.HIGH, 10_000 + token, 1, 0, 0, 1, 1, 1, "/x"))
    assert rig.lend(1, "web", 100 * MIB) == errno.ENOSPC
    assert rig.book.files == {}
    rig.fetch()
    assert rig.pending == []
    (tmp_path / "other").mkdir()
    none = Rig(tmp_path / "other", journal=False)
    none.make("web")
    assert none.lend(1, "web", 100 * MIB) == errno.EIO
    none.close()


def test_tripwires_leave_room_for_the_leases_of_a_storm(rig: Rig) -> None:
    assert rig.journal is not None
    for token in range(leases.SLOTS - SPARE):
        rig.journal.out(leases.Entry(leases.HIGH, 10_000 + token, 1, 0, 0, 1, 1, 1, "/x"))
    for name in ("web", "leak"):
        rig.make(name)
    inode = os.stat(rig.root / "web").st_ino
    wire = Lease(HOST, 1, "memory.high", "/web", inode, 0, 0, 100 * MIB, "tripwire")
    assert rig.book.lend(wire) == errno.ENOSPC
    assert rig.lend(2, "leak", 100 * MIB) == 0, "a brake"
    rig.work()
    assert (rig.high("web"), rig.high("leak")) == ("max", str(100 * MIB))


def test_nothing_is_known_of_leases_that_have_ended(rig: Rig) -> None:
    """Tokens and places are found by name: hovering for a year leaves none behind."""
    rig.make("web")
    for token in range(1, 50):
        rig.lend(token, "web", 100 * MIB + token)
        if token % 3:
            rig.work()
        rig.book.end(token)
        if token % 2:
            rig.work()
    rig.work()
    assert (rig.book.files, rig.book.places, rig.book.keys) == ({}, {}, {})
    assert rig.high("web") == "max"


def test_a_path_that_cannot_be_journalled_is_not_lent(rig: Rig) -> None:
    deep = "/".join(["x" * 200] * 3)
    (rig.root / deep).mkdir(parents=True)
    (rig.root / deep / "cgroup.procs").write_text("")
    (rig.root / deep / "memory.high").write_text("max\n")
    assert rig.lend(1, deep, 100 * MIB) == errno.ENOSPC
    rig.fetch()
    assert rig.pending == []


def test_what_cannot_be_read_is_an_errno(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.make("web")

    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Cgroup, "open", refuse)
    assert rig.lend(1, "web", 100 * MIB) == errno.EMFILE


# --------------------------------------------------------------------------------------------------------- in any order


class AnyOrder(RuleBasedStateMachine):
    """Leases come, move and end; the reaper lags; core or reaper are killed. The owner's value always comes back."""

    root: Path

    def __init__(self) -> None:
        super().__init__()
        AnyOrder.count += 1
        root = self.root / str(AnyOrder.count)
        root.mkdir()
        self.rig = Rig(root)
        self.owners = {"a": "max", "b": str(64 * MIB)}
        for name, high in self.owners.items():
            self.rig.make(name, high)
        self.out: dict[int, tuple[str, int]] = {}
        self.token = 0

    count = 0

    @rule(name=st.sampled_from("ab"), pages=st.integers(1, 40))
    def lend(self, name: str, pages: int) -> None:
        self.token += 1
        assert self.rig.lend(self.token, name, pages * MIB) == 0
        self.out[self.token] = (name, pages * MIB)

    @precondition(lambda self: self.out)
    @rule(which=st.integers(0, 100), pages=st.integers(1, 40))
    def move(self, which: int, pages: int) -> None:
        token = sorted(self.out)[which % len(self.out)]
        name, _ = self.out[token]
        assert self.rig.lend(token, name, pages * MIB) == 0
        self.out[token] = (name, pages * MIB)

    @precondition(lambda self: self.out)
    @rule(which=st.integers(0, 100))
    def end(self, which: int) -> None:
        token = sorted(self.out)[which % len(self.out)]
        assert self.rig.book.end(token) == 0
        del self.out[token]

    @rule(most=st.integers(1, 3))
    def work(self, most: int) -> None:
        self.rig.work(most)

    @rule()
    def the_reaper_is_killed(self) -> None:
        self.rig.fetch()
        if self.rig.pending:
            self.rig.reaper.obey(self.rig.pending[0])
        self.rig.answers.take()
        self.rig.pending.clear()
        self.rig.orders.rewind()
        self.rig.book.again()

    @rule()
    def all_is_quiet(self) -> None:
        self.rig.work()
        for name in self.owners:
            values = [value for where, value in self.out.values() if where == name]
            assert self.rig.high(name) == (str(min(values)) if values else self.owners[name])
        assert len(self.rig.book.files) == len({name for name, _ in self.out.values()})
        assert len(self.rig.entries()) == len(self.rig.book.files)

    @invariant()
    def killed_now_all_would_be_put_back(self) -> None:
        """On a copy of the journal and of the files, so that the story goes on."""
        kept = {name: self.rig.high(name) for name in self.owners}
        journal = Path(self.rig.path)
        saved = journal.read_bytes()
        leases.undo_all(f"{self.rig.root}/run", str(self.rig.root), "/proc")
        assert {name: self.rig.high(name) for name in self.owners} == self.owners
        _store(journal, saved)
        for name, high in kept.items():
            self.rig.write(name, high)

    def teardown(self) -> None:
        for token in list(self.out):
            self.rig.book.end(token)
        self.rig.work()
        assert {name: self.rig.high(name) for name in self.owners} == self.owners
        assert self.rig.book.files == {}
        assert self.rig.entries() == []
        self.rig.close()


def _store(path: Path, data: bytes) -> None:
    """In place: it is mapped."""
    fd = os.open(path, os.O_WRONLY)
    os.pwrite(fd, data, 0)
    os.close(fd)


def test_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cgroup, "_write_fd", _replace)
    monkeypatch.setattr(leases, "SLOTS", 16)  # a small journal is copied quickly
    AnyOrder.root = tmp_path
    run_state_machine_as_test(AnyOrder, settings=settings(max_examples=60, stateful_step_count=40, deadline=None))
