"""What a thousand readers do to the turn that publishes: ``python -m tests.core.readers [READERS] [SECONDS]``.

A core's ``Status`` with the shipped policy publishes every 5 ms; the readers, a process each, all read the page whole
at the same instant, once a second. Told are the publisher's times, how often it had to wait for something (a
voluntary switch; its own sleeps between two turns are counted beside) and how often others were given its processor.
"""

from __future__ import annotations

import mmap
import os
import resource
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import MappingProxyType

from oomguard.core.status import EVERY_NS, Status
from oomguard.judge.state import State, TargetState
from oomguard.model import statuslayout, statuspage
from oomguard.model.facts import MemInfo, Observation, TargetId
from oomguard.model.policy import Plan
from oomguard.policy import compile as compiler

POLICY = Path(__file__).parents[2] / "etc/oomguard.toml"
PAUSE_S, READ_S = 0.005, 1.0  # as often as `oomguard top`


def read_on(path: str, reads: mmap.mmap, place: int) -> None:
    """Until it is killed, or nobody measures any more; how often it has read is counted in its place."""
    parent = os.getppid()
    counted = memoryview(reads).cast("I")
    while os.getppid() == parent:
        time.sleep(READ_S - time.monotonic() % READ_S)
        statuspage.read(path)
        counted[place] += 1


def publish(status: Status, plan: Plan, state: State, seconds: float) -> tuple[list[float], int, int]:
    """Microseconds of each, sorted; voluntary switches inside of it; and how often it was pushed aside."""
    took: list[float] = []
    at_ns, end = EVERY_NS, time.monotonic() + seconds
    waited = pushed = 0
    while time.monotonic() < end:
        time.sleep(PAUSE_S)
        at_ns += EVERY_NS
        seen = Observation(at_ns)
        before, began = resource.getrusage(resource.RUSAGE_THREAD), time.perf_counter_ns()
        status.publish(plan, state, seen, 0)
        took.append((time.perf_counter_ns() - began) / 1000)
        after = resource.getrusage(resource.RUSAGE_THREAD)
        waited += after.ru_nvcsw - before.ru_nvcsw
        pushed += after.ru_nivcsw - before.ru_nivcsw
    return sorted(took), waited, pushed


def main(readers: int = 1000, seconds: float = 8.0) -> None:
    plan = compiler.plan([POLICY])
    target = TargetState(TargetId(plan.guards[0].name, "/"), used_bytes=1 << 30)
    state = State(targets=MappingProxyType({target.id: target}), host=MemInfo(4 << 30, 1, 2 << 30, 0, 0))
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        path = f"{directory}/{statuslayout.NAME}"
        status = Status(path, "1")
        reads = mmap.mmap(-1, readers * 4)
        counted = memoryview(reads).cast("I")
        for count in (0, readers):
            pids = [fork(path, reads, place) for place in range(count)]
            try:
                while count and min(counted) == 0:  # all of them are at it
                    time.sleep(0.1)
                before = sum(counted)
                took, waited, pushed = publish(status, plan, state, seconds)
                read = sum(counted) - before
            finally:
                for pid in pids:
                    os.kill(pid, signal.SIGKILL)
                for pid in pids:
                    os.waitpid(pid, 0)
            middle, late, most = (took[min(int(len(took) * part), len(took) - 1)] for part in (0.5, 0.99, 1.0))
            print(
                f"{count} readers ({read} reads): {len(took)} pages, "
                f"{middle:.1f} us each, 99 % within {late:.1f}, at most {most:.1f}; "
                f"waited {waited} times, was pushed aside {pushed} times"
            )


def fork(path: str, reads: mmap.mmap, place: int) -> int:
    pid = os.fork()
    if pid == 0:
        try:
            read_on(path, reads, place)
        finally:
            os._exit(1)
    return pid


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:]))
