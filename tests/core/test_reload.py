"""A new policy for a running daemon: whatever the compiler does, the daemon goes on."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from oomguard.core import reload
from oomguard.core.reload import Reload, renewed
from oomguard.model.codec import from_plain, to_plain
from oomguard.model.policy import (
    Amount,
    AvailableBelow,
    Clause,
    Daemon,
    EventsAbove,
    Guard,
    KillStep,
    Plan,
    StallAbove,
    Watermark,
)

from .world import PATIENCE_S


class Senses:
    """What a reload needs of them."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.handlers: dict[int, Callable[[int], None]] = {}

    def listen(self, fd: int, mask: int, handler: Callable[[int], None]) -> None:
        self.epoll.register(fd, mask)
        self.handlers[fd] = handler

    def ignore(self, fd: int) -> None:
        self.epoll.unregister(fd)
        del self.handlers[fd]


class Rig:
    def __init__(self) -> None:
        self.senses = Senses()
        self.plans: list[Plan] = []
        self.refusals: list[str] = []
        self.reload = Reload(self.senses, self.swap, self.refusals.append)  # type: ignore[arg-type]

    def swap(self, plan: Plan, text: bytes) -> None:
        assert from_plain(json.loads(text)) == plan
        self.plans.append(plan)

    def begin(self, text: str) -> None:
        """With a compiler of this Python."""
        argv = (sys.executable, "-I", "-S", "-c", "import os, sys\n" + text)
        self.reload.begin(Plan("1", Daemon(), (), argv=argv), None)

    def wait(self) -> None:
        end = time.monotonic() + PATIENCE_S
        while self.reload.running:
            assert time.monotonic() < end, "no end"
            for fd, mask in self.senses.epoll.poll(0.1):
                self.senses.handlers[fd](mask)
            self.reload.hurry(time.monotonic_ns())


@pytest.fixture
def rig(no_leak: None) -> Iterator[Rig]:
    made = Rig()
    yield made
    made.senses.epoll.close()
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_plan_is_taken_over(rig: Rig) -> None:
    plan = Plan("2", Daemon(ring_bytes=5), (Guard("host", "/"),), ("/etc/x",), ("a", "b"))
    rig.begin(f"sys.stdout.write({json.dumps(to_plain(plan))!r})")
    assert rig.reload.running
    rig.begin("raise SystemExit(5)")  # one at a time
    rig.wait()
    assert (rig.plans, rig.refusals) == ([plan], [])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sys.stderr.write('line 3: no'); sys.exit(2)", "line 3: no"),
        ("sys.exit(2)", "ended with 2"),
        ("os.kill(os.getpid(), 9)", "ended with -9"),
        ("pass", "cannot be read"),
        ("print('{')", "cannot be read"),
        ("print('[1, 2]')", "something else"),
        ('print(\'{"kind": "Guard", "name": "x", "cgroup": "/"}\')', "something else"),
        ('print(\'{"kind": "Plan"}\')', "cannot be read"),
        ('print(\'{"kind": "Nonsense"}\')', "cannot be read"),
        ("os.write(1, b'\\xff\\xfe')", "cannot be read"),
        ("sys.stderr.write('x' * 100000); sys.exit(1)", "xxx"),
    ],
)
def test_anything_else_is_a_refusal(rig: Rig, text: str, said: str) -> None:
    rig.begin(text)
    rig.wait()
    assert rig.plans == []
    assert len(rig.refusals) == 1
    assert said in rig.refusals[0]
    assert len(rig.refusals[0]) <= reload.WORDS_MAX


@pytest.mark.parametrize("argv", [(), ("/nowhere/python",), ("/etc/passwd",)])
def test_no_compiler(rig: Rig, argv: tuple[str, ...]) -> None:
    rig.reload.begin(Plan("1", Daemon(), (), argv=argv), None)
    assert not rig.reload.running
    assert "could not be started" in rig.refusals[0]
    assert rig.reload.wanted is False


@pytest.mark.parametrize("name", ["memfd_create", "pidfd_open", "posix_spawn"])
def test_no_descriptors_no_memory(rig: Rig, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(os, name, refuse)
        rig.begin("import time; time.sleep(999)")
    assert not rig.reload.running
    assert "Too many open files" in rig.refusals[0]


def test_a_compiler_that_does_not_end(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is a pipe that nobody writes to."""
    monkeypatch.setattr(reload, "PATIENCE_NS", 50_000_000)
    rig.begin("import time; time.sleep(9999)")
    rig.wait()
    assert rig.refusals == ["the compiler ended with -9"]
    rig.reload.hurry(1 << 62)


def test_the_compiler_hears_signals(rig: Rig, tmp_path: Path) -> None:
    """The core has blocked them; its child must not inherit that."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
    rig.begin(f"import signal; open('{tmp_path}/mask', 'w').write(str(signal.pthread_sigmask(signal.SIG_BLOCK, ())))")
    rig.wait()
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert (tmp_path / "mask").read_text() == "set()"


# -- what a guard keeps ----------------------------------------------------------------------------------------------


def stalls(name: str, *numbers: int, stall_us: int = 1000, origin: str = "a.toml:1") -> Guard:
    clauses = tuple(Clause((StallAbove("some", stall_us, 500_000, number),)) for number in numbers)
    return Guard(name, "/", hard=Watermark(clauses, (KillStep(),)), origin=origin)


def numbers(plan: Plan) -> dict[str, list[int]]:
    marks = {guard.name: guard.hard.when if guard.hard else () for guard in plan.guards}
    return {name: [c.number for clause in when for c in clause.all_of] for name, when in marks.items()}  # type: ignore[union-attr]


def test_a_guard_before_it_and_another_line_change_nothing_about_a_guard() -> None:
    """Who adds a comment or another policy must not make an armed guard begin anew."""
    before = Plan("1", Daemon(), (stalls("host", 0, 1), stalls("web", 2)))
    after = Plan("1", Daemon(), (stalls("new", 0), stalls("host", 1, 2, origin="a.toml:9"), stalls("web", 3)))
    plan, keep, changed = renewed(before, after)
    assert (keep, changed) == ({"host", "web"}, frozenset())
    assert numbers(plan) == {"new": [3], "host": [0, 1], "web": [2]}
    assert plan.guards[1].origin == "a.toml:9"


def test_what_means_something_else_has_new_numbers() -> None:
    before = Plan("1", Daemon(), (stalls("host", 0), stalls("web", 1)))
    after = Plan("1", Daemon(), (stalls("host", 0, stall_us=2000), stalls("web", 1)))
    plan, keep, changed = renewed(before, after)
    assert (keep, changed) == ({"web"}, {"host"})
    assert numbers(plan) == {"host": [2], "web": [1]}, "a trigger of old is not taken for the new one"


def test_what_stands_there_still_keeps_its_number_wherever() -> None:
    several = Guard("host", "/", soft=stalls("", 0).hard, hard=stalls("", 1, 2, stall_us=2000).hard)
    changed = Guard("host", "/", soft=stalls("", 9, stall_us=2000).hard, hard=stalls("", 7, 8, stall_us=1000).hard)
    plan, keep, renew = renewed(Plan("1", Daemon(), (several,)), Plan("1", Daemon(), (changed,)))
    assert (keep, renew) == (frozenset(), {"host"})
    soft, hard = plan.guards[0].soft, plan.guards[0].hard
    assert soft is not None
    assert hard is not None
    found = [c.number for mark in (soft, hard) for clause in mark.when for c in clause.all_of]  # type: ignore[union-attr]
    assert found == [1, 0, 3], "the second of two that are the same is new"


def test_another_mode_is_another_guard() -> None:
    """What was lent goes back, and a verdict that was not carried out is scored."""
    before = Plan("1", Daemon(), (stalls("host", 0),))
    after = replace(before, guards=(replace(before.guards[0], mode="observe"),))
    assert renewed(before, after)[1:] == (frozenset(), frozenset())


def test_conditions_that_look_back_keep_their_numbers_too() -> None:
    events = Watermark((Clause((EventsAbove("high", 10, 10**9, 4),)),), (KillStep(),))
    levels = Watermark((Clause((AvailableBelow(Amount(share=0.1)),)),), (KillStep(),))
    before = Plan("1", Daemon(), (Guard("web", "/web", soft=levels, hard=events),))
    shifted = Watermark((Clause((EventsAbove("high", 10, 10**9, 0),)),), (KillStep(),))
    plan, keep, _ = renewed(before, Plan("1", Daemon(), (Guard("web", "/web", soft=levels, hard=shifted),)))
    assert keep == {"web"}
    assert plan.guards[0].hard == events


def test_no_number_is_given_twice() -> None:
    before = Plan("1", Daemon(), (stalls("a", 5), stalls("b", 7)))
    after = Plan("1", Daemon(), (stalls("c", 0, 1), stalls("b", 2), stalls("d", 3)))
    plan, *_ = renewed(before, after)
    given = [number for of_guard in numbers(plan).values() for number in of_guard]
    assert len(set(given)) == len(given)
