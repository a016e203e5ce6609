"""A thousand cgroups, one kernel thread, and a closer look where it stalls."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oomguard.core import stalls
from oomguard.core.stalls import CLOSE, DIRECT, HANDFUL, QUIET_NS, ZOOM_NS, Stalls, Target, pressure_above
from oomguard.linux import psi
from oomguard.model.facts import TargetId
from oomguard.model.policy import StallAbove

FULL = StallAbove("full", 150_000, 1_000_000, 7)
PRESSURE = "some avg10=0.00 avg60=0.00 avg300=0.00 total={}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total={}\n"


class Kernel:
    """Pressure files, and triggers that fire when a test says so."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.open: dict[int, tuple[str, str]] = {}  # descriptor: (path, line)
        self.handlers: dict[int, Callable[[int], None]] = {}
        self.told: list[tuple[str, int]] = []
        self.said: list[str] = []
        self.refuses: set[str] = set()
        self.stalls = Stalls(
            lambda fd, _mask, handler: self.handlers.__setitem__(fd, handler),
            self._ignore,
            lambda target, number: self.told.append((target.cgroup, number)),
            lambda _what, why: self.said.append(why),
        )
        monkeypatch.setattr(psi, "open_trigger", self._trigger)
        (root / "web.slice").mkdir()
        (root / "web.slice" / "memory.pressure").write_text(PRESSURE.format(0, 0))

    def _trigger(self, path: str, line: str, stall_us: int, window_us: int) -> tuple[int, int, int]:
        if path in self.refuses:
            raise OSError(2, "No such file or directory", path)
        fd = os.eventfd(0)
        self.open[fd] = (path, line)
        return fd, stall_us, window_us

    def _ignore(self, fd: int) -> None:
        del self.handlers[fd], self.open[fd]

    def come(self, count: int, condition: StallAbove = FULL) -> None:
        for number in range(count):
            directory = self.root / "web.slice" / f"{number}.service"
            directory.mkdir(exist_ok=True)
            self.total(number, 0)
            target = TargetId("web", f"/web.slice/{number}.service")
            above = pressure_above(str(self.root), "/web.slice/*.service", "/proc")
            self.stalls.come(Target(target, condition, f"{directory}/memory.pressure"), above)

    def total(self, number: int, full: int) -> None:
        path = self.root / "web.slice" / f"{number}.service" / "memory.pressure"
        path.write_text(PRESSURE.format(full + 5, full))

    def fire(self, path: str, mask: int = select.EPOLLPRI) -> None:
        (fd,) = (fd for fd, (where, _) in self.open.items() if where == f"{self.root}{path}/memory.pressure")
        self.handlers[fd](mask)

    def listened(self) -> list[str]:
        return sorted(
            path.removeprefix(str(self.root)).removesuffix("/memory.pressure") for path, _ in self.open.values()
        )

    def look(self, times: int) -> None:
        for _ in range(times):
            self.stalls.look(max(time.monotonic_ns(), self.stalls.until_ns()))


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kernel]:
    made = Kernel(tmp_path, monkeypatch)
    yield made
    for fd in made.open:
        os.close(fd)


def test_a_few_have_their_own(kernel: Kernel) -> None:
    kernel.come(DIRECT)
    assert len(kernel.open) == DIRECT
    assert {line for _, line in kernel.open.values()} == {"full"}
    kernel.fire("/web.slice/3.service")
    assert kernel.told == [("/web.slice/3.service", 7)]
    assert kernel.stalls.until_ns() == stalls.NEVER


def test_many_have_one_above_them_all(kernel: Kernel) -> None:
    kernel.come(1000)
    assert kernel.listened() == ["/web.slice"]
    assert [line for _, line in kernel.open.values()] == ["some"], 'a "full" below may be no "full" above'


def test_it_zooms_to_what_stalls(kernel: Kernel) -> None:
    kernel.come(1000)
    kernel.fire("/web.slice")
    kernel.fire("/web.slice")  # and again, before anything was read
    assert kernel.told == [], "who stalls is not known yet"
    rounds = -(-1000 // HANDFUL)
    kernel.look(rounds)
    kernel.total(77, 90_000)
    kernel.total(500, 20_000)
    (crowd,) = kernel.stalls.crowds.values()
    assert kernel.stalls.until_ns() >= crowd.began_ns + ZOOM_NS
    kernel.look(rounds)
    assert kernel.listened() == ["/web.slice", "/web.slice/500.service", "/web.slice/77.service"]
    kernel.fire("/web.slice/77.service")
    assert kernel.told == [("/web.slice/77.service", 7)]
    kernel.look(1)
    assert kernel.listened() == ["/web.slice"], "after a while of quiet nobody is looked at closely"
    assert kernel.stalls.until_ns() == stalls.NEVER


def test_a_storm_everywhere_is_bounded(kernel: Kernel) -> None:
    kernel.come(200)
    kernel.fire("/web.slice")
    kernel.look(1)
    for number in range(200):
        kernel.total(number, 1000 + number)
    kernel.look(1)
    assert len(kernel.open) == 1 + CLOSE
    assert "/web.slice/199.service" in kernel.listened(), "those that stalled most"
    # The next event looks anew; who is looked at already keeps his trigger, and what it has counted.
    kernel.fire("/web.slice")
    kernel.look(1)
    kernel.total(199, 9000)
    kernel.total(3, 9000)
    before = {path: fd for fd, (path, _) in kernel.open.items()}
    kernel.look(1)
    assert kernel.listened() == ["/web.slice", "/web.slice/199.service", "/web.slice/3.service"]
    after = {path: fd for fd, (path, _) in kernel.open.items()}
    kept = f"{kernel.root}/web.slice/199.service/memory.pressure"
    assert after[kept] == before[kept]


def test_nothing_grew(kernel: Kernel) -> None:
    kernel.come(100)
    kernel.fire("/web.slice")
    kernel.look(2)
    assert kernel.listened() == ["/web.slice"]
    assert kernel.stalls.until_ns() >= time.monotonic_ns() + QUIET_NS // 2


def test_they_come_and_go_while_it_looks(kernel: Kernel) -> None:
    kernel.come(100)
    kernel.fire("/web.slice")
    kernel.look(1)
    for number in range(50):
        kernel.total(number, 1000)
    for number in range(40):
        kernel.stalls.leave(TargetId("web", f"/web.slice/{number}.service"))
    (kernel.root / "web.slice" / "41.service" / "memory.pressure").unlink()
    kernel.refuses.add(f"{kernel.root}/web.slice/42.service/memory.pressure")
    kernel.look(1)
    assert kernel.listened() == ["/web.slice", *(f"/web.slice/{n}.service" for n in (40, *range(43, 50)))]
    assert any("42.service" in why for why in kernel.said)
    for number in range(100):
        kernel.stalls.leave(TargetId("web", f"/web.slice/{number}.service"))
    assert kernel.open == {}
    assert kernel.stalls.crowds == {}


def test_where_nothing_can_be_had_above_each_has_its_own(kernel: Kernel) -> None:
    kernel.refuses.add(f"{kernel.root}/web.slice/memory.pressure")
    kernel.come(DIRECT + 5)
    assert len(kernel.open) == DIRECT + 5


def test_the_end_of_what_is_above(kernel: Kernel) -> None:
    kernel.come(DIRECT + 1)
    kernel.fire("/web.slice", select.EPOLLERR | select.EPOLLPRI)
    assert "/web.slice" not in kernel.listened()
    assert len(kernel.open) == DIRECT + 1, "better a thread each than deaf"
    kernel.fire("/web.slice/1.service", select.EPOLLERR)
    assert "/web.slice/1.service" not in kernel.listened()
    assert kernel.told == []


def test_where_a_pattern_begins() -> None:
    assert pressure_above("/c", "/a.slice/*.service", "/proc") == "/c/a.slice/memory.pressure"
    assert pressure_above("/c", "/a/b/x-?.scope/**", "/proc") == "/c/a/b/memory.pressure"
    assert pressure_above("/c", "/**", "/proc") == "/proc/pressure/memory"
    assert pressure_above("/c", "/a/b", "/proc") == "/c/a/b/memory.pressure"
