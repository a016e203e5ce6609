"""The herald: a follower of the ring that tells people. Unprivileged, never waited for, never in the way.

What the judge wants told (Notify) goes to the journal as a structured entry with a fixed MESSAGE_ID (model.messages),
so that nobody has to parse a sentence; without a journal, and on a terminal, to stderr. A storm is told in few words:
after a burst, entries are held back, counted, and summed up in one line. The incident on disk misses none of them.

Where the policy has sinks, an outbox (``sinks``, loaded for them only) gathers what they want to hear, for the
processes that send it.
"""

import contextlib
import os
import select
import signal
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from ..linux import procfs, systemd
from ..model.codec import from_plain
from ..model.facts import TargetId
from ..model.incident import Turn
from ..model.messages import MESSAGE_IDS
from ..model.policy import Guard, Plan
from ..model.ring import Ring
from ..model.verdict import Close, Dismiss, Kill, Nominate, Notify, Snapshot, Victim
from . import follow
from .nobody import drop_privileges
from .pool import Mailbox, hush
from .story import Death, Story
from .words import covers, name, short_id

if TYPE_CHECKING:
    from .sinks import Outbox

JOURNAL: Final = "/run/systemd/journal/socket"
BURST: Final = 24  # an engagement makes six entries: four of them at once are told in full
PER_S: Final = 1.0
_SUM_UP_S: Final = 5.0
_WAITING_MAX: Final = 256  # entries that the journal did not take yet
_STORIES_MAX: Final = 64
_LAST_S: Final = 0.5  # when the daemon ends, its last processes have no more than that
_TEXT_MAX: Final = 4000
_NOTE_MAX: Final = 400  # of what status is told of a sink

# syslog(3): 3 an administrator must look, 4 something happened to somebody, 5 worth knowing
_PRIORITY: Final = {
    "STARTED": 5,
    "STOPPED": 5,
    "RELOADED": 5,
    "RELOAD_REFUSED": 3,
    "DEGRADED": 4,
    "WORKER_RESTARTED": 3,
    "LEASE_UNDONE": 5,
    "SOFT": 5,
    "HARD": 4,
    "MEASURE": 5,
    "KILLED": 4,
    "VICTIM_GONE": 5,
    "VICTIM_STUCK": 3,
    "NO_VICTIM": 3,
    "BUDGET_SPENT": 3,
    "SHADOW": 5,
    "CALM": 5,
    "KERNEL_KILLED": 3,
}
_ABOUT_A_VICTIM: Final = frozenset({"HARD", "SOFT", "KILLED", "VICTIM_GONE", "VICTIM_STUCK"})
_LEAD: Final = {"SOFT": "soft watermark crossed: ", "HARD": "hard watermark crossed: "}
# The codec is a module, which is loaded at its first use: now, not when it may not be read any more. The refusal of a
# policy has line breaks, and on standard error they are escaped.
"".encode("unicode_escape")
_PUT_BACK: Final = " is put back to "  # between the path and the value
_AS_FOUND: Final = ", as it was found"

Entry = dict[str, str]


def run(ring: Ring, bell: int, alive: int, plan: Plan, journal: str = JOURNAL, words: Mailbox | None = None) -> None:
    """Follow the ring until ``alive`` hangs up; then tell the last and return.

    ``bell``: an eventfd, readable when a turn has something to tell. ``words``: to the core, for status: (what, why).
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # our end is told by ``alive``: the last words are still to be said
    poller = select.poll()
    herald = Herald(ring, plan, Mouth(journal), poller, words)
    drop_privileges()
    poller.register(bell, select.POLLIN)
    poller.register(alive, 0)  # POLLHUP always comes
    while True:
        herald.follow()
        events = dict(poller.poll(herald.patience_ms()))
        if bell in events:
            hush(bell)
        if alive in events:
            herald.follow()
            herald.finish()
            return


class Herald:
    """From turns to entries."""

    def __init__(
        self, ring: Ring, plan: Plan, mouth: "Mouth", poller: select.poll, words: Mailbox | None = None
    ) -> None:
        self._ring, self._version = ring, plan.version
        self._guards = {guard.name: guard for guard in plan.guards}
        self._position = ring.oldest()
        self._since_ns = follow.born_ns(plan.daemon.proc)  # what was said before, a predecessor of ours has told
        self._boot_id = ""
        with contextlib.suppress(OSError, ValueError):
            self._boot_id = procfs.boot_id(plan.daemon.proc)
        self._stories: dict[TargetId, Story] = {}
        self._nominated: dict[TargetId, Nominate] = {}
        self.mouth = mouth
        self._poller, self._words = poller, words
        self.outbox: Outbox | None = None
        self._aim(plan)

    def _aim(self, plan: Plan) -> None:
        """The sinks of a policy: the first one brings what it takes."""
        if self.outbox is None and plan.sinks:
            from .sinks import Outbox

            self.outbox = Outbox(self._poller, self._of_sink, self._note)
        if self.outbox is not None:
            self.outbox.aim(plan)

    def _of_sink(self, what: str, why: str, urgent: bool) -> None:
        entry = self._entry("DEGRADED", f"{what}: {why}"[:_TEXT_MAX]) | {"OOMGUARD_WHAT": what, "OOMGUARD_ERROR": why}
        if urgent:
            entry["PRIORITY"] = "3"
        self.mouth.say("DEGRADED", entry)

    def _note(self, what: str, why: str) -> None:
        if self._words is not None:
            self._words.post((what, why[:_NOTE_MAX]))

    def follow(self) -> None:
        """Tell of every turn since the last one."""
        while True:
            payloads, self._position, lost = self._ring.read(self._position)
            if lost:
                self._lost()
            for payload in payloads:
                self._record(follow.decode(payload))
            if not payloads:
                break
        if self.outbox is not None:
            self.outbox.look()
            self.outbox.go()
        self.mouth.sum_up()
        self.mouth.speak()

    def _lost(self) -> None:
        self.mouth.lost += 1
        self._gap("some of what happened was overwritten before it could be told")

    def _gap(self, why: str) -> None:
        """Sinks are not left to believe that they have heard everything."""
        if self.outbox is not None:
            self.outbox.tell("NO_VICTIM", self._entry("", f"{why}; oomguard incidents list has it all"))

    def patience_ms(self) -> float:
        """How long may be slept."""
        patience = self.outbox.patience_ms() if self.outbox is not None else None
        return self.mouth.patience_ms() if patience is None else min(patience, self.mouth.patience_ms())

    def finish(self) -> None:
        """The daemon ends: what waits is handed over as it is."""
        if self.outbox is not None:
            self.outbox.go(at_once=True)
        self.mouth.finish()

    def _record(self, plain: dict[str, Any]) -> None:
        if plain["kind"] == "Plan":
            plan: Plan = from_plain(plain)
            self._version = plan.version
            self._guards = {guard.name: guard for guard in plan.guards}
            self._aim(plan)
        elif plain["kind"] == "Turn" and (self._stories or plain["actions"] or plain["seen"]["kernel_kills"]):
            for story in self._stories.values():
                story.weigh(plain["seen"]["surveys"])
            plain["seen"]["surveys"] = []
            self._turn(from_plain(plain))

    def _turn(self, turn: Turn) -> None:
        for action in turn.actions:
            match action:
                case Nominate():
                    self._nominated[action.target] = action
                case Dismiss():
                    self._nominated.pop(action.target, None)
                case Snapshot():
                    self._open(turn, action)
                case _:
                    pass
        for story in self._stories.values():
            story.add(turn)
        if turn.seen.at_ns >= self._since_ns:
            for action in turn.actions:
                if isinstance(action, Notify):
                    self._notify(turn, action)
            self._kernel_kills(turn)
        for action in turn.actions:
            if isinstance(action, Close):
                self._stories.pop(action.target, None)

    def _open(self, turn: Turn, snapshot: Snapshot) -> None:
        known = self._stories.get(snapshot.target)
        if known is not None and known.number == snapshot.incident:
            return
        if known is None and len(self._stories) >= _STORIES_MAX:
            return  # it is told, without numbers
        target, at_ns = snapshot.target, turn.seen.at_ns
        guard, nominated = self._guards.get(target.guard), self._nominated.get(target)
        self._stories[target] = Story(target, snapshot.incident, at_ns, snapshot.watermark, guard, nominated)

    # -- entries

    def _notify(self, turn: Turn, notify: Notify) -> None:
        if not notify.target.guard:
            self._own(notify)
            return
        story = self._stories.get(notify.target)
        guard = self._guards.get(notify.target.guard)
        entry = self._entry(notify.message, "")
        entry |= _about(notify.target, guard)
        text = _LEAD.get(notify.message, "") + notify.text
        if notify.message in ("SOFT", "HARD", "NO_VICTIM", "BUDGET_SPENT"):
            entry["OOMGUARD_REASON"] = notify.text
        if story is not None:
            entry |= self._from_story(notify.message, story)
            if notify.message == "VICTIM_GONE" and "OOMGUARD_FREED_BYTES" in entry:
                text += f"; {story.freed()[1]}"
        if notify.message == "KILLED":
            text = _corrected(turn, notify, entry, text)
        incident = f" (incident {entry['OOMGUARD_INCIDENT']})" if "OOMGUARD_INCIDENT" in entry else ""
        self._say(notify.message, entry, f"{notify.target.guard} on {notify.target.cgroup}: {text}{incident}")

    def _own(self, notify: Notify) -> None:
        """The daemon of itself: "what: why", or a sentence."""
        entry = self._entry(notify.message, "")
        what, colon, why = notify.text.partition(": ")
        if notify.message == "DEGRADED" and colon:
            entry |= {"OOMGUARD_WHAT": what, "OOMGUARD_ERROR": why}
        elif notify.message == "RELOAD_REFUSED":
            entry["OOMGUARD_ERROR"] = notify.text
        elif notify.message == "WORKER_RESTARTED":
            if notify.text.startswith("the herald "):
                self._gap("the herald had ended, and with it what it had gathered for this sink")
            entry |= {"OOMGUARD_WHAT": notify.text.split()[1], "OOMGUARD_ERROR": "see the lines above"}
        elif notify.message == "LEASE_UNDONE" and notify.text.endswith(_AS_FOUND):
            path, _, value = notify.text.removesuffix(_AS_FOUND).rpartition(_PUT_BACK)
            entry |= {"OOMGUARD_PATH": path, "OOMGUARD_VALUE": value}
        lead = {"DEGRADED": "degraded: ", "RELOADED": "reloaded: ", "RELOAD_REFUSED": "not reloaded: "}
        self._say(notify.message, entry, lead.get(notify.message, "") + notify.text, limited=False)

    def _kernel_kills(self, turn: Turn) -> None:
        """Those that no guard speaks of: the ledger names them all the same."""
        told = [a.target.cgroup for a in turn.actions if isinstance(a, Notify) and a.message == "KERNEL_KILLED"]
        for kill in turn.seen.kernel_kills:
            if any(covers(cgroup, kill.cgroup) for cgroup in told):
                continue
            who = f"{kill.comm}[{kill.pid}]" if kill.pid else f"{kill.count} process(es)"
            entry = self._entry("KERNEL_KILLED", "") | {"OOMGUARD_VICTIM": who, "OOMGUARD_VICTIM_CGROUP": kill.cgroup}
            if kill.pid:
                entry["OOMGUARD_VICTIM_PID"] = str(kill.pid)
            text = f"the kernel's OOM killer ended {who} in {kill.cgroup}; no guard covers it"
            self._say("KERNEL_KILLED", entry, text)

    def _entry(self, message: str, text: str) -> Entry:
        entry = {"MESSAGE": text, "PRIORITY": str(_PRIORITY.get(message, 5)), "SYSLOG_IDENTIFIER": "oomguard"}
        if message in MESSAGE_IDS:
            entry["MESSAGE_ID"] = MESSAGE_IDS[message]
        return entry | {"OOMGUARD_VERSION": self._version}

    def _from_story(self, message: str, story: Story) -> Entry:
        entry = {"OOMGUARD_INCIDENT": short_id(self._boot_id, story.target, story.opened_ns)}
        death = max(story.deaths.values(), key=lambda death: death.signalled_ns, default=None)
        victim = death.victim if death is not None and death.victim is not None else story.nominee
        if victim is not None and message in _ABOUT_A_VICTIM:
            entry |= _of_victim(victim)
        if message == "KERNEL_KILLED" and story.kernel_kills:
            kill = story.kernel_kills[-1]
            entry["OOMGUARD_VICTIM_CGROUP"] = str(kill["cgroup"])
            if kill["pid"]:
                entry |= {"OOMGUARD_VICTIM": f"{kill['comm']}[{kill['pid']}]", "OOMGUARD_VICTIM_PID": str(kill["pid"])}
        if message in ("KILLED", "VICTIM_GONE", "CALM"):
            entry |= _numbers(message, story, death)
        return entry

    def _say(self, message: str, entry: Entry, text: str, limited: bool = True) -> None:
        entry["MESSAGE"] = text[:_TEXT_MAX]
        if self.outbox is not None:
            self.outbox.tell(message, entry)
        self.mouth.say(message, entry, limited)


def _about(target: TargetId, guard: Guard | None) -> Entry:
    entry = {"OOMGUARD_POLICY": target.guard, "OOMGUARD_CGROUP": target.cgroup}
    return entry | {"OOMGUARD_MODE": guard.mode} if guard is not None else entry


def _of_victim(victim: Victim) -> Entry:
    entry = {
        "OOMGUARD_VICTIM": name(victim),
        "OOMGUARD_VICTIM_CGROUP": victim.cgroup,
        "OOMGUARD_VICTIM_BYTES": str(victim.held_bytes),
    }
    if victim.processes and victim.take != "cgroup":
        entry["OOMGUARD_VICTIM_PID"] = str(victim.processes[0].pid)
    return entry


def _numbers(message: str, story: Story, death: Death | None) -> Entry:
    entry: Entry = {}
    freed_bytes, _ = story.freed()
    if message == "KILLED":
        if "hard" in story.why:
            entry["OOMGUARD_REASON"] = story.why["hard"]
        if death is not None and story.hard_ns is not None and death.signalled_ns >= story.hard_ns:
            entry["OOMGUARD_LATENCY_MS"] = str(round((death.signalled_ns - story.hard_ns) / 1e6, 3))
    elif freed_bytes:
        entry["OOMGUARD_FREED_BYTES"] = str(freed_bytes)
    return entry


def _corrected(turn: Turn, notify: Notify, entry: Entry, text: str) -> str:
    """The judge says "killed" before the hands have tried: what they met is in the same turn."""
    tokens = {a.token for a in turn.actions if isinstance(a, Kill) and a.target == notify.target}
    errors = [outcome.errno for outcome in turn.outcomes if outcome.what == "Kill" and outcome.token in tokens]
    if not errors or 0 in errors:
        return text
    entry.pop("MESSAGE_ID", None)  # it says that somebody was killed
    entry["PRIORITY"] = "3"
    entry["OOMGUARD_ERROR"] = os.strerror(errors[-1])
    return f"not {text}: {os.strerror(errors[-1])}"


class Mouth:
    """To the journal, and to stderr where that is all there is, or where somebody is looking. Bounded in every way."""

    def __init__(self, journal: str) -> None:
        self._journal = journal
        self._tokens, self._filled_s = float(BURST), time.monotonic()
        self._waiting: deque[Entry] = deque()
        self._held: dict[str, int] = {}
        self._held_since_s = 0.0
        self._terminal = os.isatty(2)
        self.lost = 0  # entries or gaps of which nothing is left but this number

    def say(self, message: str, entry: Entry, limited: bool = True) -> None:
        """Queue one entry, or hold it back in a storm."""
        now_s = time.monotonic()
        self._tokens = min(float(BURST), self._tokens + (now_s - self._filled_s) * PER_S)
        self._filled_s = now_s
        if limited and self._tokens < 1:
            self._held_since_s = self._held_since_s or now_s
            self._held[message] = self._held.get(message, 0) + 1
            return
        self._tokens -= limited
        self._queue(entry)

    def sum_up(self, at_once: bool = False) -> None:
        """One line for all that was held back, five seconds after the first of it."""
        if not self._held or (not at_once and time.monotonic() - self._held_since_s < _SUM_UP_S):
            return
        most = sorted(self._held.items(), key=lambda held: -held[1])
        counts = ", ".join(f"{count} {message}" for message, count in most)
        self._held.clear()
        self._held_since_s = 0.0
        text = f"held back in a storm: {counts}; oomguard incidents list has them all"
        self._queue({"MESSAGE": text, "PRIORITY": "4", "SYSLOG_IDENTIFIER": "oomguard"})

    def _queue(self, entry: Entry) -> None:
        if len(self._waiting) >= _WAITING_MAX:
            self._waiting.popleft()
            self.lost += 1
        self._waiting.append(entry)

    def speak(self) -> None:
        """Send what waits, as far as it is taken."""
        while self._waiting or self.lost:
            if self.lost and len(self._waiting) < _WAITING_MAX:
                text = f"{self.lost} messages were lost: nobody took them in time"
                self._waiting.append({"MESSAGE": text, "PRIORITY": "4", "SYSLOG_IDENTIFIER": "oomguard"})
                self.lost = 0
            entry = self._waiting[0]
            if not self._to_journal(entry):
                if os.path.exists(self._journal):
                    return  # it is full, or restarting: we come again
                _to_stderr(entry, prefix=not self._terminal)
            elif self._terminal:
                _to_stderr(entry, prefix=False)
            self._waiting.popleft()

    def finish(self) -> None:
        """The last words: a busy journal has a moment to take them, then they go to stderr."""
        self.sum_up(at_once=True)
        until_s = time.monotonic() + _LAST_S
        self.speak()
        while self._waiting and time.monotonic() < until_s:
            time.sleep(0.02)
            self.speak()
        for entry in self._waiting:
            _to_stderr(entry, prefix=not self._terminal)

    def _to_journal(self, entry: Entry) -> bool:
        try:
            return systemd.journal_send(entry, self._journal)
        except OSError:
            return False

    def patience_ms(self) -> float:
        """How long may be slept: while something waits, not long."""
        if self._waiting:
            return 200
        return 1000 * (_SUM_UP_S if self._held else follow.IDLE_S)


def _to_stderr(entry: Entry, prefix: bool) -> None:
    """One line whatever is in it; "<N>" is the priority (sd-daemon(3))."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in entry["MESSAGE"])
    line = f"<{entry['PRIORITY']}>oomguard: {text}\n" if prefix else f"oomguard: {text}\n"
    with contextlib.suppress(OSError):
        sys.stderr.buffer.write(line.encode("utf-8", "backslashreplace"))
        sys.stderr.flush()
