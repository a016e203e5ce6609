"""What the herald has to tell to others than the journal: gathered, counted, and handed to the processes that send it.

Only for policies with sinks. Nothing here waits: a sender that is slow, gone or not there yet finds one message more
when it comes back. What is given up is counted, and told in the journal and in status.
"""

import json
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from ..model.policy import Plan, Sink

SECOND_NS: Final = 1_000_000_000
KINDS: Final = {"url": "sender", "run": "sender", "desktop": "desktop"}  # which process sends for which sink
GATHER_NS: Final = 3 * SECOND_NS  # so long it must have been quiet before a message goes: a kill is several events
GATHER_MOST_NS: Final = 20 * SECOND_NS  # a storm that does not end is told of all the same
RETRY_NS: Final = tuple(seconds * SECOND_NS for seconds in (10, 30, 90, 300, 900))  # then it is given up
ANSWER_NS: Final = 40 * SECOND_NS  # a sender gives up after half of that by itself (``sender.DEADLINE_S``)
ABSENT_NS: Final = 60 * SECOND_NS  # to start, a sender needs a second or, on an emulated machine, twenty
CONNECT_NS: Final = 2 * SECOND_NS
LINES: Final = 5  # of a group so many are told from its beginning, and as many from its end
_BYTES_MAX: Final = 160_000  # of one datagram: ten texts, twice, with every letter as six
_TEXT_MAX: Final = 400
_ENCODER: Final = json.JSONEncoder(check_circular=False)  # the real module, now and not when there is something to say

# What a policy calls the messages (model.messages). Those that are missing are for the journal alone.
_TOLD: Final = {
    "SOFT": "soft",
    "HARD": "hard",
    "MEASURE": "measure",
    "KILLED": "killed",
    "VICTIM_GONE": "gone",
    "VICTIM_STUCK": "failed",
    "NO_VICTIM": "failed",
    "BUDGET_SPENT": "failed",
    "KERNEL_KILLED": "kernel",
    "CALM": "calm",
    "DEGRADED": "daemon",
    "RELOAD_REFUSED": "daemon",
    "WORKER_RESTARTED": "daemon",
}
WOULD: Final = "would have killed"  # a policy that only observes
_WORDS: Final = {
    "soft": "soft watermark",
    "hard": "hard watermark",
    "measure": "measures taken",
    "gone": "victims gone",
    "kernel": "killed by the kernel",
    "daemon": "about the daemon itself",
}


class Group:
    """What one sink is told in one message. However much it is, it takes the memory of ten lines."""

    __slots__ = ("count", "first", "last", "last_ns", "priority", "since_ns", "words")

    def __init__(self, at_ns: int) -> None:
        self.since_ns = self.last_ns = at_ns
        self.count, self.priority = 0, 7
        self.words: dict[str, int] = {}
        self.first: list[dict[str, str]] = []
        self.last: deque[dict[str, str]] = deque(maxlen=LINES)

    def add(self, word: str, event: dict[str, str], at_ns: int) -> None:
        """One more of this ``word``."""
        self.count += 1
        self.last_ns = at_ns
        self.words[word] = self.words.get(word, 0) + 1
        self.priority = min(self.priority, int(event["priority"]))
        if len(self.first) < LINES:
            self.first.append(event)
        else:
            self.last.append(event)

    def join(self, later: "Group") -> None:
        """What has come while this one could not be sent."""
        events = [*later.first, *later.last]
        for event in events:
            if len(self.first) < LINES:
                self.first.append(event)
            else:
                self.last.append(event)
        for word, count in later.words.items():
            self.words[word] = self.words.get(word, 0) + count
        self.count += later.count
        self.last_ns, self.priority = later.last_ns, min(self.priority, later.priority)

    def message(self) -> dict[str, Any]:
        """``title`` and ``body`` for people; ``counts`` and ``events`` for programs."""
        events = [*self.first, *self.last]
        lines = [event["text"] if self.count == 1 else f"{event['at']} {event['text']}" for event in events]
        if hidden := self.count - len(events):
            lines.insert(LINES, f"... {hidden} more ...")
        if self.count > 1:
            lines.append("oomguard incidents list has them all")
        return {
            "title": f"oomguard on {os.uname().nodename}: {summed_up(self.words, self.count)}",
            "body": "\n".join(lines),
            "priority": self.priority,
            "count": self.count,
            "counts": self.words,
            "events": events,
        }


def summed_up(words: dict[str, int], count: int) -> str:
    """ "killed", or "40 killed, 2 failed"."""
    if count == 1:
        return "".join(_WORDS.get(word, word) for word in words)
    return ", ".join(f"{number} {_WORDS.get(word, word)}" for word, number in sorted(words.items(), key=_most_first))


def _most_first(item: tuple[str, int]) -> int:
    return -item[1]


class Outlet:
    """One sink: what waits for it, and the message that is under way."""

    __slots__ = ("failing", "lost", "not_before_ns", "number", "sending", "sink", "tries", "until_ns", "waiting")

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.waiting: Group | None = None
        self.sending: Group | None = None
        self.number = self.tries = self.lost = 0
        self.not_before_ns = 0  # for its rate, or the next try
        self.until_ns = 0  # when an answer must have come
        self.failing = ""

    def add(self, word: str, event: dict[str, str], at_ns: int) -> None:
        """One more that waits."""
        if self.waiting is None:
            self.waiting = Group(at_ns)
        self.waiting.add(word, event, at_ns)

    def due_ns(self) -> int | None:
        """When there is something to do; None: nothing waits."""
        if self.sending is not None:
            return self.until_ns
        if self.waiting is None:
            return None
        quiet_ns = min(self.waiting.last_ns + GATHER_NS, self.waiting.since_ns + GATHER_MOST_NS)
        return max(quiet_ns, self.not_before_ns)

    def note(self) -> str:
        """For status; "": all is well."""
        waiting = self.waiting.count if self.waiting else 0
        lost = f"{self.lost} messages were lost" if self.lost else ""
        if not self.failing:
            return lost
        return "; ".join(part for part in (self.failing, lost, f"{waiting} wait" if waiting else "") if part)


class Channel:
    """A connection to one of the sending processes, whenever that is there."""

    __slots__ = ("_again_ns", "_path", "_poller", "absent_since_ns", "end")

    def __init__(self, path: str, poller: select.poll) -> None:
        self._path, self._poller = path, poller
        self._again_ns = self.absent_since_ns = 0
        self.end: socket.socket | None = None

    def open(self, at_ns: int) -> socket.socket | None:
        """None: nobody is there now."""
        if self.end is not None or at_ns < self._again_ns:
            return self.end
        self._again_ns = at_ns + CONNECT_NS
        end = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            end.connect(self._path)
        except OSError:
            end.close()
            self.absent_since_ns = self.absent_since_ns or at_ns
            return None
        self.end, self.absent_since_ns = end, 0
        self._poller.register(end.fileno(), select.POLLIN)
        return end

    def send(self, message: dict[str, Any], at_ns: int) -> bool:
        """False: not now."""
        end = self.open(at_ns)
        if end is None:
            return False
        try:
            end.send(_ENCODER.encode(message).encode(), socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        except OSError:
            self.close()
            return False
        return True

    def answers(self) -> tuple[list[dict[str, Any]], bool]:
        """All that have come, and whether it hung up."""
        found: list[dict[str, Any]] = []
        while self.end is not None:
            try:
                data = self.end.recv(_BYTES_MAX)
            except BlockingIOError:
                return found, False
            except OSError:
                data = b""
            if not data:
                self.close()
                return found, True
            found.append(json.loads(data))
        return found, False

    def close(self) -> None:
        """It is opened again when there is something to send."""
        if self.end is not None:
            self._poller.unregister(self.end.fileno())
            self.end.close()
            self.end = None


class Outbox:
    """All sinks of the plan in force.

    ``say``: (what, why, whether somebody must look) to the journal. ``note``: (what, why or "") to status.
    """

    def __init__(
        self, poller: select.poll, say: Callable[[str, str, bool], None], note: Callable[[str, str], None]
    ) -> None:
        self._poller, self._say, self._note = poller, say, note
        self._outlets: dict[str, Outlet] = {}
        self._lists: dict[str, tuple[str, ...] | None] = {}
        self._channels: dict[str, Channel] = {}
        self.clock: Callable[[], int] = time.monotonic_ns

    def aim(self, plan: Plan) -> None:
        """Go by this plan. What waits for a sink that stays is kept."""
        for name in self._outlets.keys() - {sink.name for sink in plan.sinks}:
            if self._outlets.pop(name).note():
                self._note(f"sink {name}", "")
        for sink in plan.sinks:
            if sink.name not in self._outlets:
                self._outlets[sink.name] = Outlet(sink)
                self._note(f"sink {sink.name}", "")  # a herald before us may have had something to say of it
            self._outlets[sink.name].sink = sink
            kind = KINDS[sink.by]
            if kind not in self._channels:
                self._channels[kind] = Channel(f"{plan.daemon.runtime_dir}/{kind}", self._poller)
        self._lists = {guard.name: guard.notify for guard in plan.guards}

    def tell(self, message: str, entry: dict[str, str]) -> None:
        """What the journal is told, for whoever wants to hear of it."""
        word = _TOLD.get(message)
        if message == "KILLED" and "OOMGUARD_ERROR" in entry:
            word = "failed"
        if word is None:
            return
        policy = entry.get("OOMGUARD_POLICY", "")
        listed, at_ns = self._lists.get(policy), self.clock()
        event = {
            "what": word,
            "at": time.strftime("%H:%M:%SZ", time.gmtime()),
            "policy": policy,
            "text": printable(entry["MESSAGE"])[:_TEXT_MAX],
            "priority": entry["PRIORITY"],
            "incident": entry.get("OOMGUARD_INCIDENT", ""),
            "victim": printable(entry.get("OOMGUARD_VICTIM", ""))[:200],
        }
        shown = WOULD if word == "killed" and entry.get("OOMGUARD_MODE") == "observe" else word
        for name, outlet in self._outlets.items():
            if word in outlet.sink.at and (listed is None or name in listed):
                outlet.add(shown, event, at_ns)

    def look(self) -> None:
        """Take the answers."""
        for kind, channel in self._channels.items():
            answers, hung_up = channel.answers()
            for answer in answers:
                self._answered(answer)
            if hung_up:
                self._hung_up(kind, f"the {kind} ended while it was at it")

    def _hung_up(self, kind: str, why: str) -> None:
        for outlet in self._outlets.values():
            if KINDS[outlet.sink.by] == kind and outlet.sending is not None:
                self._failed(outlet, why)

    def _answered(self, answer: dict[str, Any]) -> None:
        outlet = self._outlets.get(str(answer.get("sink")))
        if outlet is None or outlet.sending is None or answer.get("number") != outlet.number:
            return  # it comes too late, and was tried again
        if error := str(answer.get("error", "")):
            hint = str(answer.get("hint", ""))
            self._failed(outlet, f"{error} ({hint})" if hint else error)
            return
        outlet.sending, outlet.tries = None, 0
        if outlet.failing:
            outlet.failing = ""
            self._say(f"sink {outlet.sink.name}", "works again", False)
            self._note(f"sink {outlet.sink.name}", outlet.note())

    def _failed(self, outlet: Outlet, why: str) -> None:
        group, outlet.sending = outlet.sending, None
        if group is None:
            return
        what, tries = f"sink {outlet.sink.name}", outlet.tries
        outlet.tries += 1
        if tries >= len(RETRY_NS):
            outlet.tries = 0
            outlet.lost += group.count
            outlet.not_before_ns = self.clock() + outlet.sink.every_ns
            text = f"{group.count} messages were not delivered, and are given up after {tries + 1} tries: {why}"
            self._say(what, text, True)
        else:
            if outlet.waiting is not None:
                group.join(outlet.waiting)
            outlet.waiting = group
            outlet.not_before_ns = self.clock() + RETRY_NS[tries]
            if outlet.failing != why:
                self._say(what, f"not delivered, and tried again: {why}", False)
        outlet.failing = why
        self._note(what, outlet.note())

    def go(self, at_once: bool = False) -> None:
        """Send what is due, and miss what has not come. ``at_once``: whatever waits; there will be no later."""
        now_ns = self.clock()
        for outlet in self._outlets.values():
            due_ns = outlet.due_ns()
            if due_ns is None or (due_ns > now_ns and not (at_once and outlet.sending is None)):
                continue
            if outlet.sending is not None:
                kind = KINDS[outlet.sink.by]
                self._channels[kind].close()  # whoever does not answer one does not answer others
                self._hung_up(kind, f"the {kind} has not answered")
            else:
                self._send(outlet, now_ns)

    def _send(self, outlet: Outlet, now_ns: int) -> None:
        group = outlet.waiting
        if group is None:
            return
        kind = KINDS[outlet.sink.by]
        channel = self._channels[kind]
        message = {"sink": outlet.sink.name, "number": outlet.number + 1, **group.message()}
        if channel.send(message, now_ns):
            outlet.number += 1
            outlet.sending, outlet.waiting = group, None
            outlet.until_ns = now_ns + ANSWER_NS
            outlet.not_before_ns = now_ns + outlet.sink.every_ns
            return
        outlet.not_before_ns = now_ns + CONNECT_NS
        absent = channel.absent_since_ns
        if absent and now_ns - absent > ABSENT_NS and not outlet.failing:
            outlet.failing = f"the process that sends it ({kind}) is not there"
            self._say(f"sink {outlet.sink.name}", outlet.failing, False)
            self._note(f"sink {outlet.sink.name}", outlet.note())

    def patience_ms(self) -> float | None:
        """How long may be slept; None: nothing waits."""
        dues = [due for outlet in self._outlets.values() if (due := outlet.due_ns()) is not None]
        return max(0.0, (min(dues) - self.clock()) / 1e6 + 1) if dues else None


def printable(text: str) -> str:
    """One line, whatever a process calls itself: nothing in it breaks a line, moves a cursor or turns the text."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
