"""The broker as the core sees it: its process, its answers, and where its connections outlive it and us.

Loaded only for policies that tell programs (``tell``).
"""

import os
import socket
from typing import TYPE_CHECKING, Final

from ..linux import systemd
from ..model.facts import Result
from ..model.policy import Plan, TellStep
from ..workers.pool import Mailbox

if TYPE_CHECKING:
    from collections.abc import Callable

    from .act import Hands
    from .boot import Boot
    from .loop import Loop
    from .observe import Senses

# Under these names PID 1 holds the two ends of a socket for us (FileDescriptorStoreMax= in the unit), and in it lie the
# connections of those who listen: a restart of ours closes none of them.
KEPT: Final = ("oomguard-keep-into", "oomguard-keep-out")
_PATIENCE_S: Final = 2.0


class Pressure:
    """The broker's process. It is another one after a reload that names other sockets: only root opens those."""

    def __init__(self, boot: "Boot", plan: Plan) -> None:
        """OSError: it cannot be forked."""
        self.boot, self.plan = boot, plan
        self.answers = Mailbox()
        self.bell = boot.bells["broker"] = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.keep = _kept(boot.passed)
        boot.pool.add("broker", self.bell, (self.answers.bell, *self.keep), self._be, 0)

    def _be(self) -> None:
        from ..workers import broker

        boot = self.boot
        broker.run(boot.ring, self.bell, boot.pool.alive, self.plan, self.answers, broker.Keep(*self.keep))

    def hear(self, senses: "Senses", hands: "Hands", degraded: "Callable[[str, str], None]") -> None:
        """Its answers are facts of later turns."""

        def heard(_mask: int) -> None:
            for token, what, number, took_ns, value, who in self.answers.take()[0]:
                if token:
                    senses.tell(Result(token, what, number, took_ns, value, who))
                else:
                    degraded("pressure", f"{who}: nobody can listen there")

        hands.has_broker = True
        senses.listen(self.answers.bell, 1, heard)

    def renew(self, plan: Plan, loop: "Loop") -> None:
        """Another policy, and all is calm."""
        before, self.plan = self.plan, plan
        worker = self.boot.pool.workers["broker"]
        if _places(before) == _places(plan) or worker.pidfd < 0:
            return
        loop.senses.ignore(worker.pidfd)
        loop.status.mended("pressure")
        if self.boot.pool.kill("broker", _PATIENCE_S):
            self.boot.pool.fork(worker)
            loop.came(worker)
        else:
            loop.mind(worker)  # when it ends after all, the next one comes


def _places(plan: Plan) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    """The sockets and FIFOs that a plan asks for."""
    return {
        (guard.name, step.fifos)
        for guard in plan.guards
        for mark in (guard.soft, guard.hard)
        for step in (mark.do if mark is not None else ())
        if isinstance(step, TellStep)
    }


def _kept(passed: dict[str, int]) -> tuple[int, int]:
    """The two ends: those that PID 1 has kept for us, or new ones, which it is given to keep."""
    if KEPT[0] in passed and KEPT[1] in passed:
        return passed[KEPT[0]], passed[KEPT[1]]
    kind = socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    into, out = (end.detach() for end in socket.socketpair(socket.AF_UNIX, kind))
    for name, fd in zip(KEPT, (into, out), strict=True):
        systemd.notify(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", os.environ.get("NOTIFY_SOCKET"), fd)
    return into, out
