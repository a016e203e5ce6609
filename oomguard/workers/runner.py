"""The runner of hooks (``run`` in a policy): a follower of the ring, in a process that only policies with one have.

A hook is a program with its arguments, never a shell. It is told everything as JSON on its standard input, is not the
user that we are, has a deadline after which it is killed with all that it has started, and what it writes goes to the
journal as far as it is short. Nobody waits for it: how it ended is an answer to the core, like any other.
"""

import errno
import json
import os
import pwd
import select
import signal
import time
from typing import Any, Final

from ..linux import libc, procfs, systemd
from ..model.codec import from_plain, to_plain
from ..model.facts import TargetId
from ..model.incident import Turn
from ..model.policy import Plan
from ..model.ring import Ring
from ..model.verdict import Nominate, Run, Snapshot
from . import follow
from .pool import Mailbox, hush

CONTEXT_VERSION: Final = 1
OUTPUT_MAX: Final = 8192  # bytes of what a hook writes that are kept; the rest is read and thrown away
HOOKS_MAX: Final = 4  # at once: in a storm every target may ask for one
USERS: Final = ("oomguard", "nobody")
CANNOT: Final = 126  # as a shell says it
ENVIRONMENT: Final = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
_ENCODER: Final = json.JSONEncoder(check_circular=False)  # the real module, loaded now and not when a hook is due
_JOURNAL: Final = "/run/systemd/journal/socket"


def run(ring: Ring, bell: int, alive: int, plan: Plan, answers: Mailbox) -> None:
    """Until the core is gone; what still runs then is ended."""
    runner = Runner(ring, plan, answers)
    while True:
        poll = select.poll()
        poll.register(bell, select.POLLIN)
        poll.register(alive, 0)
        for hook in runner.hooks:
            poll.register(hook.pidfd, select.POLLIN)
            if hook.output >= 0:
                poll.register(hook.output, select.POLLIN)
        events = dict(poll.poll(runner.timeout_ms()))
        if bell in events:
            hush(bell)
        if alive in events:
            runner.end()
            return
        runner.look(events)
        runner.follow()


class Hook:
    """One that runs."""

    def __init__(self, action: Run, pid: int, output: int) -> None:
        self.action, self.pid, self.output = action, pid, output
        self.pidfd = os.pidfd_open(pid)
        self.began_ns = time.monotonic_ns()
        self.late = False
        self.said = b""

    @property
    def until_ns(self) -> int:
        return self.began_ns + self.action.deadline_ns

    def kill(self) -> None:
        """It, and whatever it has started and not sent away."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def listen(self) -> None:
        """What it has written by now."""
        while self.output >= 0:
            try:
                more = os.read(self.output, 65536)
            except BlockingIOError:
                return
            self.said += more[: OUTPUT_MAX - len(self.said)]
            if not more:
                self._deaf()

    def _deaf(self) -> None:
        os.close(self.output)
        self.output = -1

    def close(self) -> None:
        """All that is open."""
        if self.output >= 0:
            self._deaf()
        os.close(self.pidfd)


class Runner:
    """From turns to programs. ``answers``: to the core, (token, what, errno, took_ns, value), as the reaper's."""

    def __init__(self, ring: Ring, plan: Plan, answers: Mailbox, journal: str = _JOURNAL) -> None:
        self._ring, self._plan, self._answers, self._journal = ring, plan, answers, journal
        self._position = ring.head()  # what was asked for before is not done once more
        self._since_ns = follow.born_ns(plan.daemon.proc)
        self._nominated: dict[TargetId, Nominate] = {}
        self._incident: dict[TargetId, Snapshot] = {}
        self.hooks: list[Hook] = []

    def follow(self) -> None:
        """Begin what the turns since the last one ask for."""
        self._position = follow.read(self._ring, self._position, self._record)

    def _record(self, plain: dict[str, Any]) -> None:
        if plain["kind"] == "Plan":
            self._plan = from_plain(plain)
        elif plain["kind"] == "Turn" and any(a["kind"] in ("Run", "Nominate", "Snapshot") for a in plain["actions"]):
            plain["seen"]["surveys"] = []
            turn: Turn = from_plain(plain)
            for action in turn.actions:
                match action:
                    case Nominate():
                        self._nominated[action.target] = action
                    case Snapshot():
                        self._incident[action.target] = action
                    case Run() if turn.seen.at_ns >= self._since_ns and not _is_held(turn, action):
                        self.begin(turn, action)
                    case _:
                        pass

    # -- one hook ------------------------------------------------------------------------------------------------

    def begin(self, turn: Turn, action: Run) -> None:
        """Start it; that it cannot be is an answer."""
        if len(self.hooks) >= HOOKS_MAX or any(_same(hook.action, action) for hook in self.hooks):
            self._answers.post((action.token, "Run", errno.EBUSY, 0, 0))
            return
        try:
            self.hooks.append(_spawned(action, _ENCODER.encode(self.context(turn, action)).encode()))
        except (OSError, KeyError) as error:
            number = error.errno or errno.EIO if isinstance(error, OSError) else errno.EINVAL
            self._answers.post((action.token, "Run", number, 0, 0))

    def context(self, turn: Turn, action: Run) -> dict[str, Any]:
        """What a hook is told. Sizes are bytes; times are CLOCK_MONOTONIC, ns."""
        target, seen = action.target, turn.seen
        nominated, incident = self._nominated.get(target), self._incident.get(target)
        guard = next((guard for guard in self._plan.guards if guard.name == target.guard), None)
        return {
            "version": CONTEXT_VERSION,
            "policy": target.guard,
            "cgroup": target.cgroup,
            "watermark": action.watermark,
            "why": action.why,
            "origin": guard.origin if guard else "",
            "at_ns": seen.at_ns,
            "boot_id": procfs.boot_id(self._plan.daemon.proc),
            "incident": {"watermark": incident.watermark, "why": incident.why} if incident else None,
            "machine": to_plain(seen.host),
            "facts": to_plain(next((facts for facts in seen.cgroups if facts.path == target.cgroup), None)),
            "nominee": to_plain(nominated.victim) if nominated else None,
            "candidates": to_plain(nominated.ranking.candidates) if nominated else [],
        }

    # -- those that run ------------------------------------------------------------------------------------------

    def timeout_ms(self) -> float:
        """Until the next deadline."""
        ends = [hook.until_ns for hook in self.hooks if not hook.late]
        return max(0.0, (min(ends) - time.monotonic_ns()) / 1e6 + 1) if ends else follow.IDLE_S * 1000

    def look(self, events: dict[int, int]) -> None:
        """Who has ended, and for whom it is time to."""
        now_ns = time.monotonic_ns()
        for hook in list(self.hooks):
            hook.listen()
            if hook.pidfd in events:
                self._ended(hook)
            elif now_ns >= hook.until_ns and not hook.late:
                hook.late = True
                hook.kill()

    def _ended(self, hook: Hook) -> None:
        self.hooks.remove(hook)
        hook.kill()  # whom it has left behind
        hook.listen()
        _, status = os.waitpid(hook.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        number = errno.ETIMEDOUT if hook.late else errno.ECHILD if code else 0
        self._tell(hook, code)
        hook.close()
        self._answers.post((hook.action.token, "Run", number, time.monotonic_ns() - hook.began_ns, code))

    def _tell(self, hook: Hook, code: int) -> None:
        """To the journal, in one entry: it may be many lines."""
        how = "took too long and was killed" if hook.late else f"ended with {code}"
        text = hook.said.decode("utf-8", "replace").rstrip()
        target = hook.action.target
        entry = {
            "MESSAGE": f"{hook.action.argv[0]} {how}{': ' if text else ''}{text}",
            "PRIORITY": "4" if code else "6",
            "SYSLOG_IDENTIFIER": "oomguard-hook",
            "OOMGUARD_POLICY": target.guard,
            "OOMGUARD_CGROUP": target.cgroup,
        }
        try:
            told = systemd.journal_send(entry, self._journal)
        except OSError:
            told = False
        if not told:
            os.write(2, f"<{entry['PRIORITY']}>oomguard: {entry['MESSAGE']!a}\n".encode())

    def end(self) -> None:
        """The daemon ends, and they with it."""
        for hook in self.hooks:
            hook.kill()
            os.waitpid(hook.pid, 0)


def _is_held(turn: Turn, action: Run) -> bool:
    return any(o.what == "Run" and o.token == action.token and (o.held or o.errno) for o in turn.outcomes)


def _same(one: Run, other: Run) -> bool:
    return (one.target, one.argv) == (other.target, other.argv)


def account(user: str) -> tuple[int, int] | None:
    """(uid, gid) of who is to run a hook: the user named, else an account of nobody's. None: we are not root.

    KeyError: there is no such user.
    """
    if os.geteuid() != 0:
        return None
    for name in (user,) if user else USERS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            if user:
                raise
        else:
            return entry.pw_uid, entry.pw_gid
    return 65534, 65534


def _spawned(action: Run, context: bytes) -> Hook:
    who = account(action.user)
    told = os.memfd_create("context", os.MFD_CLOEXEC)
    output, mouth = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        os.write(told, context)
        os.lseek(told, 0, os.SEEK_SET)
        pid = os.fork()
        if pid == 0:
            _become(action.argv, who, told, mouth)
    except OSError:
        os.close(output)
        raise
    finally:
        os.close(told)
        os.close(mouth)
    return Hook(action, pid, output)


def _become(argv: tuple[str, ...], who: tuple[int, int] | None, told: int, mouth: int) -> None:
    """The child. Never returns; never runs anything with rights that it should have lost."""
    try:
        os.setsid()
        os.set_blocking(mouth, True)
        for fd, number in ((told, 0), (mouth, 1), (mouth, 2)):
            os.dup2(fd, number)
        _give_up_protection()
        if who is not None:
            os.setgroups([])
            os.setresgid(who[1], who[1], who[1])
            os.setresuid(who[0], who[0], who[0])
        libc.prctl_set_pdeathsig(signal.SIGKILL)
        os.chdir("/")
        os.umask(0o022)
        for number in (signal.SIGPIPE, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execve(argv[0], argv, ENVIRONMENT)
    except OSError as error:
        os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(CANNOT)


def _give_up_protection() -> None:
    """We are the last whom the kernel's killer may take. A hook is not."""
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("0")
