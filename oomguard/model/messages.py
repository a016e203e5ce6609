"""The names of what we tell people, each with the MESSAGE_ID by which the journal and its catalog know it.

An id never changes its meaning and is never used again: tools filter on it (``journalctl MESSAGE_ID=...``). The text
that ``journalctl -x`` shows for an id stands in systemd/oomguard.catalog; tests/test_packaging.py keeps both in step.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

# 128 random bits each, as systemd wants them (systemd-id128 new). Shape: 32 lower-case hex digits.
MESSAGE_IDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        # the daemon itself
        "STARTED": "cf7b9e00daa34fb9a5af010de4427f2d",
        "STOPPED": "29ba1ab9c9454cc8b57bc1422c301c1a",
        "RELOADED": "e08c1bf6315041efa571c2ce264dd72f",
        "RELOAD_REFUSED": "431696279c4141d49288e0ca1a9cca47",
        "DEGRADED": "d88fcbdf9e104d1ab665222fe83a0bc7",
        "WORKER_RESTARTED": "71525297663a4f69821f3d4e29427a9c",
        "LEASE_UNDONE": "b25870c48a214b7e861caca6ff9e88cb",
        # an engagement, in the order in which it goes
        "SOFT": "2225d11cc89041d7a64d4fb28d433dc2",
        "HARD": "9f6e001583484a0c8aab1dea73339f3c",
        "MEASURE": "1e3f9fb3082d470baf95a61513d6834e",
        "KILLED": "c0e654a522584be6a3b01677051314fd",
        "VICTIM_GONE": "80c2717536b846069ee7cff05ec0243c",
        "VICTIM_STUCK": "ccbdd0fe0e734ebea0cf00b846756948",
        "NO_VICTIM": "c52aa29e9be84c21ac819de4265737d9",
        "BUDGET_SPENT": "8ffdfab748244c3dbf9f1c9e82ab9fe6",
        "SHADOW": "e0e1b118450e49e8a505f212fea0003b",
        "CALM": "4cec501ad5aa41f1b76a6e432641d7b7",
        # not us
        "KERNEL_KILLED": "cedb3bd2dd68417292650a0bba18e7f7",
    }
)

# What the entries carry besides MESSAGE and PRIORITY, so that nobody has to parse a sentence. Bytes and milliseconds
# are plain decimal numbers. A field that is not known is left out, never empty.
FIELDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "OOMGUARD_VERSION": "version of the daemon",
        "OOMGUARD_POLICY": "name of the guard: the NAME of its [policy.NAME] table",
        "OOMGUARD_CGROUP": "cgroup that the guard watches, from the cgroup root",
        "OOMGUARD_MODE": "enforce; observe or shadow: decided and recorded, nothing touched",
        "OOMGUARD_REASON": "the condition that held, with its numbers",
        "OOMGUARD_INCIDENT": "id of the incident, for `oomguard incidents show`",
        "OOMGUARD_VICTIM": "what was chosen: comm[pid], a process tree or a cgroup",
        "OOMGUARD_VICTIM_PID": "pid of the victim, or of the root of the tree",
        "OOMGUARD_VICTIM_CGROUP": "cgroup of the victim",
        "OOMGUARD_VICTIM_BYTES": "what the victim held when it was chosen",
        "OOMGUARD_FREED_BYTES": "what its death gave back",
        "OOMGUARD_LATENCY_MS": "from the observation that crossed the hard watermark to the signal",
        "OOMGUARD_PATH": "file in question: a kernel file, or the policy file",
        "OOMGUARD_VALUE": "value that was put back",
        "OOMGUARD_WHAT": "what is missing on this machine, or the name of the worker",
        "OOMGUARD_ERROR": "the error, for people",
    }
)
