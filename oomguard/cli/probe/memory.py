"""Swap, zram and how the kernel was tuned: a few small files."""

from pathlib import Path

from ...linux import elsewhere
from ..findings.facts import Memory
from .places import Places


def look(places: Places) -> Memory:
    """Nothing of this needs rights; in a container some of it is not there."""
    meminfo = _meminfo(places.text(f"{places.proc}/meminfo") or "")
    vm, lru = f"{places.proc}/sys/vm", f"{places.sys}/kernel/mm/lru_gen"
    min_free_kib = places.number(f"{vm}/min_free_kbytes")
    return Memory(
        total_bytes=meminfo.get("MemTotal", 0),
        swap_bytes=meminfo.get("SwapTotal", 0),
        zram=zram(places.text(f"{places.proc}/swaps") or ""),
        zswap=_switch(places, f"{places.sys}/module/zswap/parameters/enabled"),
        swappiness=places.number(f"{vm}/swappiness"),
        overcommit=places.number(f"{vm}/overcommit_memory"),
        overcommit_ratio=places.number(f"{vm}/overcommit_ratio"),
        commit_limit_bytes=meminfo.get("CommitLimit"),
        panic_on_oom=places.number(f"{vm}/panic_on_oom"),
        oom_kill_allocating_task=places.number(f"{vm}/oom_kill_allocating_task"),
        min_free_bytes=None if min_free_kib is None else min_free_kib << 10,
        watermark_scale_factor=places.number(f"{vm}/watermark_scale_factor"),
        compact_unevictable=places.number(f"{vm}/compact_unevictable_allowed"),
        nodes=_nodes(places),
        arc_bytes=_arc(places.text(f"{places.proc}/spl/kstat/zfs/arcstats") or ""),
        lru_gen=places.number(f"{lru}/enabled"),
        min_ttl_ms=places.number(f"{lru}/min_ttl_ms"),
    )


def _meminfo(text: str) -> dict[str, int]:
    """Bytes by name. MemTotal:       24684084 kB"""
    found = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdigit():
            found[name] = int(words[0]) << 10
    return found


def _nodes(places: Places) -> int:
    """NUMA nodes with memory of their own. /sys/devices/system/node/has_memory is a list of ranges: 0-1,3"""
    text = places.text(f"{places.sys}/devices/system/node/has_memory") or ""
    ends = [part.split("-") for part in text.split(",")]
    return sum(int(end[-1]) - int(end[0]) + 1 for end in ends if all(word.strip().isdigit() for word in end)) or 1


def _arc(arcstats: str) -> int:
    """What ZFS's cache holds above the least that it keeps."""
    data = arcstats.encode()
    return max(0, (elsewhere.parse(data, "size") or 0) - (elsewhere.parse(data, "c_min") or 0))


def zram(swaps: str) -> tuple[str, ...]:
    """Devices of /proc/swaps that are zram.

    Filename                                Type            Size            Used            Priority
    /dev/zram0                              partition       524284          0               100
    """
    names = [line.split()[0] for line in swaps.splitlines()[1:] if line.strip()]
    return tuple(name for name in names if Path(name).name.startswith("zram"))


def _switch(places: Places, path: str) -> bool | None:
    text = places.text(path)
    return None if text is None else text.strip() in ("Y", "1")
