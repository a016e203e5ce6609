"""The herald's outbox: what is gathered, what goes when, and what becomes of it when nobody takes it."""

from __future__ import annotations

import json
import os
import select
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from oomguard.model.policy import Daemon, Guard, Plan, Sink, Told
from oomguard.workers import sinks
from oomguard.workers.sinks import GATHER_MOST_NS, GATHER_NS, LINES, RETRY_NS, SECOND_NS, Outbox

AT: tuple[Told, ...] = ("killed", "failed", "kernel")
OPS = Sink("ops", "url", AT, 60 * SECOND_NS)
GUARDS = (Guard("host", "/"), Guard("web", "/web", notify=("ops",)), Guard("quiet", "/quiet", notify=()))


class Rig:
    """An outbox whose clock is ours, and whose sender we are."""

    def __init__(self, directory: str, *given: Sink) -> None:
        self.directory, self.now_ns = directory, 1000 * SECOND_NS
        self.said: list[tuple[str, str, bool]] = []
        self.notes: dict[str, str] = {}
        self.box = Outbox(select.poll(), lambda *words: self.said.append(words), self.notes.__setitem__)
        self.box.clock = lambda: self.now_ns
        self.plan = Plan("1", Daemon(runtime_dir=directory), GUARDS, sinks=given or (OPS,))
        self.box.aim(self.plan)
        self.listener: socket.socket | None = None
        self.end: socket.socket | None = None
        self.come()

    def come(self) -> None:
        """The sender is there (again)."""
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        self.listener.bind(f"{self.directory}/sender")
        self.listener.listen()

    def leave(self) -> None:
        """It dies."""
        for part in (self.listener, self.end):
            if part is not None:
                part.close()
        self.listener = self.end = None
        os.unlink(f"{self.directory}/sender")

    def tell(self, message: str, text: str = "x", policy: str = "host", **more: str) -> None:
        self.box.tell(message, {"MESSAGE": text, "PRIORITY": "4", "OOMGUARD_POLICY": policy} | more)

    def later(self, nanoseconds: int) -> list[dict[str, Any]]:
        """So much later the herald wakes: what the sender is given."""
        self.now_ns += nanoseconds
        self.box.look()
        self.box.go()
        return self.given()

    def given(self) -> list[dict[str, Any]]:
        found = []
        if self.end is None and self.listener is not None:
            try:
                self.end, _ = self.listener.accept()
                self.end.setblocking(False)
            except BlockingIOError:
                return []
        while self.end is not None:
            try:
                data = self.end.recv(1 << 20)
            except BlockingIOError:
                break
            if not data:
                self.end = None
                break
            found.append(json.loads(data))
        return found

    def answer(self, request: dict[str, Any], error: str = "", hint: str = "") -> None:
        assert self.end is not None
        said = {"sink": request["sink"], "number": request["number"], "error": error, "hint": hint, "note": ""}
        self.end.send(json.dumps(said).encode())
        self.box.look()


@pytest.fixture
def rig() -> Iterator[Rig]:
    with tempfile.TemporaryDirectory() as directory:
        yield Rig(directory)


def test_a_kill_is_one_message(rig: Rig) -> None:
    rig.tell("KILLED", "host on /: killed java[812]", OOMGUARD_INCIDENT="26e4ae", OOMGUARD_VICTIM="java[812]")
    assert rig.later(GATHER_NS - 1) == [], "more may belong to it"
    (message,) = rig.later(1)
    assert message["title"] == f"oomguard on {os.uname().nodename}: killed"
    assert message["body"] == "host on /: killed java[812]"
    (event,) = message["events"]
    assert (event["policy"], event["incident"], event["victim"]) == ("host", "26e4ae", "java[812]")
    rig.answer(message)
    assert rig.box.patience_ms() is None
    assert (rig.said, rig.notes) == ([], {"sink ops": ""})


def test_a_storm_of_forty_kills_is_one_message_that_says_so(rig: Rig) -> None:
    for number in range(40):
        rig.tell("KILLED", f"host on /: killed leak[{number}]")
        assert rig.later(GATHER_NS // 10) == []
    rig.tell("NO_VICTIM", "host on /: nobody is left")
    (message,) = rig.later(GATHER_NS)
    assert message["title"].endswith(": 40 killed, 1 failed")
    assert message["counts"] == {"killed": 40, "failed": 1}
    lines = message["body"].splitlines()
    assert len(lines) == 2 * LINES + 2
    assert lines[0].endswith("killed leak[0]")
    assert lines[LINES] == f"... {41 - 2 * LINES} more ..."
    assert lines[-2].endswith("nobody is left")
    assert lines[-1] == "oomguard incidents list has them all"
    rig.answer(message)
    assert rig.later(3600 * SECOND_NS) == []


def test_a_storm_that_does_not_end_is_told_of_all_the_same(rig: Rig) -> None:
    told: list[dict[str, Any]] = []
    for _ in range(200):
        rig.tell("KILLED")
        for message in rig.later(SECOND_NS):
            told.append(message)
            rig.answer(message)
    told += rig.later(60 * SECOND_NS)
    assert [message["count"] for message in told[:2]] == [GATHER_MOST_NS // SECOND_NS, 60]
    assert sum(message["count"] for message in told) == 200, "nothing is lost"
    assert len(told) == 4


def test_no_more_often_than_the_sink_wants_it(rig: Rig) -> None:
    rig.tell("KILLED")
    (first,) = rig.later(GATHER_NS)
    rig.answer(first)
    rig.tell("KILLED")
    assert rig.later(OPS.every_ns - 1) == []
    assert [message["count"] for message in rig.later(1)] == [1]


@pytest.mark.parametrize(
    ("message", "policy", "more", "wanted"),
    [
        ("KILLED", "host", {}, True),
        ("KILLED", "web", {}, True),
        ("KILLED", "quiet", {}, False),
        ("SOFT", "host", {}, False),
        ("CALM", "host", {}, False),
        ("KERNEL_KILLED", "", {}, True),
        ("KILLED", "host", {"OOMGUARD_ERROR": "Operation not permitted"}, True),
        ("BUDGET_SPENT", "host", {}, True),
        ("SHADOW", "shadow:host", {}, False),
        ("DEGRADED", "", {}, False),
    ],
)
def test_who_is_told_what(rig: Rig, message: str, policy: str, more: dict[str, str], wanted: bool) -> None:
    rig.tell(message, "x", policy, **more)
    assert bool(rig.later(GATHER_NS)) is wanted


def test_a_kill_that_was_refused_is_told_as_a_failure(rig: Rig) -> None:
    rig.tell("KILLED", "not killed x: Operation not permitted", OOMGUARD_ERROR="Operation not permitted")
    (message,) = rig.later(GATHER_NS)
    assert message["counts"] == {"failed": 1}


def test_a_policy_that_only_observes_has_killed_nobody(rig: Rig) -> None:
    rig.tell("KILLED", "host on /: would have killed x[1] (observe mode)", OOMGUARD_MODE="observe")
    (message,) = rig.later(GATHER_NS)
    assert message["title"].endswith(": would have killed")


def test_a_sink_may_want_all_of_it(rig: Rig) -> None:
    every: tuple[Told, ...] = ("soft", "hard", "measure", "killed", "gone", "failed", "kernel", "calm", "daemon")
    rig.box.aim(replace(rig.plan, sinks=(replace(OPS, at=every),)))
    for message in sinks._TOLD:
        rig.tell(message)
    (sent,) = rig.later(GATHER_NS)
    assert sent["counts"].keys() == set(every)


def test_what_cannot_be_delivered_is_tried_again_and_grows(rig: Rig) -> None:
    rig.tell("KILLED", "one")
    (first,) = rig.later(GATHER_NS)
    rig.answer(first, "connection refused", "nobody listens")
    rig.tell("KILLED", "two")
    assert rig.said == [("sink ops", "not delivered, and tried again: connection refused (nobody listens)", False)]
    assert rig.notes["sink ops"] == "connection refused (nobody listens); 1 wait"
    assert rig.later(RETRY_NS[0] - 1) == []
    (again,) = rig.later(1)
    assert again["body"].splitlines()[0].endswith("one")
    assert again["count"] == 2
    rig.answer(again)
    assert rig.said[1:] == [("sink ops", "works again", False)]
    assert rig.notes["sink ops"] == ""


def test_the_tries_are_bounded_and_what_is_given_up_is_counted(rig: Rig) -> None:
    rig.tell("KILLED", "one")
    (request,) = rig.later(GATHER_NS)
    for wait_ns in RETRY_NS:
        rig.answer(request, "it does not answer in time")
        (request,) = rig.later(wait_ns)
    rig.answer(request, "it does not answer in time")
    what, why, urgent = rig.said[-1]
    assert (what, urgent) == ("sink ops", True)
    assert why == "1 messages were not delivered, and are given up after 6 tries: it does not answer in time"
    assert rig.notes["sink ops"] == "it does not answer in time; 1 messages were lost"
    assert len(rig.said) == 2, "the same reason is said once"
    assert rig.later(24 * 3600 * SECOND_NS) == []
    rig.tell("KILLED", "two")
    (request,) = rig.later(GATHER_NS)
    assert request["count"] == 1
    rig.answer(request)
    assert rig.notes["sink ops"] == "1 messages were lost", "that stays true"


def test_however_much_waits_it_is_ten_lines(rig: Rig) -> None:
    """The bounded queue: a sink that takes nothing for a day, and a machine that kills all the time."""
    rig.leave()
    rig.tell("KILLED", "the first")
    for number in range(10_000):
        rig.tell("KILLED", f"n{number}" + "\U0001f4a9" * 500)
        if number % 100 == 0:
            rig.later(10 * SECOND_NS)
    group = rig.box._outlets["ops"].waiting
    assert group is not None
    assert (len(group.first), len(group.last), group.count) == (LINES, LINES, 10_001)
    assert rig.notes["sink ops"].startswith("the process that sends it (sender) is not there; ")
    assert rig.notes["sink ops"].endswith(" wait")
    rig.come()
    (message,) = rig.later(10 * SECOND_NS)
    assert message["count"] == 10_001
    assert message["body"].splitlines()[0].endswith("the first")
    assert message["events"][-1]["text"].startswith("n9999")
    rig.answer(message)
    assert rig.said[-1] == ("sink ops", "works again", False)
    assert rig.notes["sink ops"] == ""


def test_a_sender_that_dies_while_it_is_at_it(rig: Rig) -> None:
    rig.tell("KILLED", "one")
    assert rig.later(GATHER_NS)
    rig.leave()
    rig.come()
    assert rig.later(0) == []
    assert rig.said == [("sink ops", "not delivered, and tried again: the sender ended while it was at it", False)]
    (again,) = rig.later(RETRY_NS[0])
    assert again["body"] == "one"


def test_a_sender_that_does_not_answer(rig: Rig) -> None:
    """Its answer comes after all, when the message was sent once more: nobody counts it twice."""
    rig.tell("KILLED", "one")
    (late,) = rig.later(GATHER_NS)
    assert rig.later(sinks.ANSWER_NS) == []
    assert rig.said == [("sink ops", "not delivered, and tried again: the sender has not answered", False)]
    (again,) = rig.later(RETRY_NS[0]) or rig.later(0)
    rig.answer(late)
    assert rig.box._outlets["ops"].sending is not None
    rig.answer(again)
    assert rig.box._outlets["ops"].sending is None


def test_a_reload_keeps_what_waits_and_forgets_who_is_no_sink_any_more(rig: Rig) -> None:
    rig.tell("KILLED", "one")
    (request,) = rig.later(GATHER_NS)
    rig.answer(request, "connection refused")
    rig.box.aim(rig.plan)
    assert [message["body"] for message in rig.later(RETRY_NS[0])] == ["one"]
    rig.box.aim(replace(rig.plan, sinks=()))
    assert rig.notes["sink ops"] == ""
    assert rig.box.patience_ms() is None


def test_at_the_end_all_is_handed_over(rig: Rig) -> None:
    rig.tell("KILLED", "one")
    rig.box.go(at_once=True)
    assert [message["body"] for message in rig.given()] == ["one"]


def test_a_hostile_name_is_one_line(rig: Rig) -> None:
    rig.tell("KILLED", "killed a\nb\x1b[2J\u202ec[1]")
    (message,) = rig.later(GATHER_NS)
    assert message["body"] == "killed a\\nb\\x1b[2J\\u202ec[1]"
