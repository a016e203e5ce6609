"""The processes for sinks beyond the journal, for policies that have any: forked, and at once another Python.

They need all of the standard library and what is installed beside it, and none of the core's memory.
"""

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace

from ..model.codec import pack
from ..model.policy import Plan
from ..workers.pool import Pool, Worker

NAMES = ("sender", "desktop")
PATIENCE_S = 0.5  # for one that is ended; what sleeps where no signal wakes it is left to be told of later


def wanted(plan: Plan) -> set[str]:
    """Which of the two this plan needs."""
    return {"desktop" if sink.by == "desktop" else "sender" for sink in plan.sinks}


def start(pool: Pool, plan: Plan) -> list[Worker]:
    """Start those that are wanted."""
    return [_started(pool, name, plan) for name in NAMES if name in wanted(plan)]


def end(pool: Pool, names: Iterable[str], forget: Callable[[int], None]) -> None:
    """End those of them that run, and wait for it. ``forget``: that pidfd is about to go."""
    for name in names:
        worker = pool.workers.get(name)
        if worker is not None and worker.pidfd >= 0:
            forget(worker.pidfd)
            pool.kill(name, PATIENCE_S)


def _started(pool: Pool, name: str, plan: Plan) -> Worker:
    def main() -> None:
        _become(name, plan, pool.alive)

    known = pool.workers.get(name)
    if known is None:
        return pool.add(name, pool.alive, (), main, 0)
    known.main = main
    if known.pidfd < 0:  # else it does not die, and is replaced when it has
        pool.fork(known)
    return known


def _become(name: str, plan: Plan, alive: int) -> None:
    fd = os.memfd_create("sinks")
    os.write(fd, pack(replace(plan, guards=(), remarks=())))
    os.set_inheritable(fd, True)
    os.set_inheritable(alive, True)
    directory = plan.daemon.runtime_dir
    words = ["-m", "oomguard.workers.sender", name, "--plan-fd", str(fd), "--alive", str(alive)]
    environment = {key: value for key, value in os.environ.items() if key in ("PATH", "LANG") or "_proxy" in key}
    os.execve(sys.executable, [sys.executable, "-I", "-B", *words, "--directory", directory], environment)
