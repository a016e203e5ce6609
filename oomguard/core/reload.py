"""A new policy for a running daemon: compiled by a child above the waterline, taken over whole or not at all."""

import json
import os
import select
import signal
import time
from collections.abc import Callable
from typing import Final

from ..linux import systemd
from ..model.codec import from_plain
from ..model.policy import Plan
from .observe import Senses

PLAN_MAX: Final = 4 << 20
WORDS_MAX: Final = 16384  # of what the compiler says


class Reload:
    """``wanted`` by SIGHUP, begun by the loop when all is calm: compiling takes 50 MB that must be there."""

    def __init__(self, senses: Senses, swap: Callable[[Plan], None], refuse: Callable[[str], None]) -> None:
        self.senses, self.swap, self.refuse = senses, swap, refuse
        self.wanted = False
        self.running = False

    def begin(self, plan: Plan, notify_socket: str | None) -> None:
        """Start the compiler; its end comes as an event."""
        if self.running:
            return
        self.wanted = False
        state = f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"
        systemd.notify(state, notify_socket)
        opened: list[int] = []
        pid = 0
        try:
            for name in ("plan", "faults"):
                opened.append(os.memfd_create(name, os.MFD_CLOEXEC))
            pid = self._spawn(plan.argv, *opened)
            opened.append(os.pidfd_open(pid))
            self.senses.listen(opened[2], select.EPOLLIN, lambda _mask: self._end(pid, opened[2], opened[0], opened[1]))
            self.running = True
        except (OSError, IndexError) as error:
            for fd in opened:
                os.close(fd)
            if pid:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            self.refuse(f"the compiler could not be started: {error}")

    def _spawn(self, argv: tuple[str, ...], out: int, err: int) -> int:
        actions = [(os.POSIX_SPAWN_DUP2, out, 1), (os.POSIX_SPAWN_DUP2, err, 2)]
        environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LANG": "C.UTF-8"}
        return os.posix_spawn(argv[0], argv, environment, file_actions=actions, setsigmask=())

    def _end(self, pid: int, child: int, out: int, err: int) -> None:
        self.running = False
        self.senses.ignore(child)
        _, status = os.waitpid(pid, 0)
        try:
            if os.waitstatus_to_exitcode(status) != 0:
                words = os.pread(err, WORDS_MAX, 0).decode("utf-8", "replace")
                return self.refuse(words)
            plan = from_plain(json.loads(os.pread(out, min(PLAN_MAX, os.fstat(out).st_size), 0)))
            if not isinstance(plan, Plan):
                return self.refuse("the compiler gave something else than a plan")
            return self.swap(plan)
        except (ValueError, KeyError, TypeError) as error:
            return self.refuse(f"the compiler's plan cannot be read: {error}")
        finally:
            for fd in (child, out, err):
                os.close(fd)
