"""What both followers of the ring need: its records as plain data, and when they were born."""

import os
import time
from collections.abc import Callable
from typing import Any, Final

from ..linux import procfs
from ..model import codec
from ..model.ring import Ring

# A calm turn a second rings no bell. They are taken by the handful, lest the first turn that has something to tell
# waits behind hours of them, and without waking a quiet machine for each; sooner where they are large (Recorder).
IDLE_S: Final = 120.0


def decode(payload: bytes) -> dict[str, Any]:
    """A record of the ring in its plain form: a Turn, or the Plan that is in force from now on."""
    return codec.unpack(payload)


def read(ring: Ring, position: int, take: Callable[[dict[str, Any]], None]) -> int:
    """Hands over every record since this position, for a follower whom a gap need not trouble; the position after."""
    while True:
        payloads, position, _ = ring.read(position)
        for payload in payloads:
            take(decode(payload))
        if not payloads:
            return position


def born_ns(proc: str) -> int:
    """When this process was forked, in CLOCK_MONOTONIC. What is older in the ring, a predecessor has had.

    The kernel tells it in ticks of CLOCK_BOOTTIME, which unlike CLOCK_MONOTONIC runs on in a suspended machine.
    """
    try:
        with open(f"{proc}/self/stat", "rb") as file:
            stat = procfs.parse_stat(file.read())
    except OSError:
        stat = None
    if stat is None:
        return 0
    # A process that loses the processor between the two clocks would be born later than it was, and what happened in
    # between told by nobody. Of several looks the one with the least time between them is the nearest, and not later.
    ahead_ns = min(-time.monotonic_ns() + time.clock_gettime_ns(time.CLOCK_BOOTTIME) for _ in range(8))
    return stat[4] * 1_000_000_000 // os.sysconf("SC_CLK_TCK") - ahead_ns - 20_000_000  # two ticks: it is rounded down
