"""What both followers of the ring call things: incidents, victims, sizes."""

import binascii

from ..model.facts import TargetId
from ..model.verdict import Victim, heads


def short_id(boot_id: str, target: TargetId, opened_ns: int) -> str:
    """Six hex digits for the incident that this target opened then. Two processes that saw the turn agree on it.

    A checksum is enough, with the time in the directory's name; hashlib would bring OpenSSL into locked memory.
    """
    seed = f"{boot_id}\0{target.guard}\0{target.cgroup}\0{opened_ns}"
    return f"{binascii.crc32(seed.encode('utf-8', 'surrogateescape')) & 0xFFFFFF:06x}"


def covers(cgroup: str, path: str) -> bool:
    """Whether ``path`` is that cgroup or below it."""
    return cgroup in ("/", path) or path.startswith(cgroup + "/")


def size(count: int) -> str:
    """Bytes for people: three digits and a unit."""
    value, unit = float(abs(count)), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1000:
            break
        value, unit = value / 1024, larger
    digits = 0 if unit == "B" or value >= 100 else 1
    return f"{'-' if count < 0 else ''}{value:.{digits}f} {unit}"


def name(victim: Victim) -> str:
    """The victim in a few words: ``stress[1234]``, a tree by its root, a cgroup by its path."""
    if victim.take == "cgroup" or not victim.processes:
        return f"{victim.cgroup} ({heads(victim.count)})"
    root = f"{victim.processes[0].comm}[{victim.processes[0].pid}]"
    more = "its tree" if victim.take == "subtree" else f"its {victim.take.replace('_', ' ')}"
    return root if victim.take == "process" else f"{root} and {more} ({heads(victim.count)})"
