"""Be told when memory is short, and give back what can be spared, before anybody has to be killed.

    from oomguard import client

    client.register(thumbnails)                    # a functools cache, a dict, a function: what trim() drops
    client.Watch().in_thread()                     # trim() whenever it is told

For Python what sd_event_add_memory_pressure(3) is for C: it listens where $MEMORY_PRESSURE_WATCH says (systemd, or
oomguard's policies with ``tell``), else to its own cgroup, else to the machine. docs/client.md has the rest. Only the
standard library, and nothing else of oomguard.
"""

from .errors import (
    BadArgument,
    BadEnvironment,
    Closed,
    Disabled,
    Forked,
    Locked,
    NotPressure,
    NotSupported,
    PressureError,
)
from .memory import held_bytes, register, trim, unregister
from .watch import Watch

__all__ = [
    "BadArgument",
    "BadEnvironment",
    "Closed",
    "Disabled",
    "Forked",
    "Locked",
    "NotPressure",
    "NotSupported",
    "PressureError",
    "Watch",
    "held_bytes",
    "register",
    "trim",
    "unregister",
]
