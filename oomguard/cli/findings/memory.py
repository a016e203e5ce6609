"""Swap, zram, and how the kernel was tuned: what the owner of the machine has set, and what that does to watermarks."""

from collections.abc import Iterator
from math import isqrt

from .facts import Facts, Memory
from .finding import Finding, Severity, size, sysctl

ARC_SHARE = 50  # a fiftieth of the machine: less is no news
ZRAM_SWAPPINESS = 100  # from here on anonymous pages go first: reading back from zram costs less than a read of a disk
SCALE_FACTOR_MOST = 500  # 5 % of the memory: what lies between min, low and high


def of(facts: Facts) -> Iterator[Finding]:
    """Everything about memory."""
    memory = facts.memory
    yield from _swap(memory)
    yield from _compressed(memory)
    yield from _arc(memory)
    yield from _nodes(memory)
    yield from _overcommit(memory)
    yield from _kernel_kills(memory)
    yield from _reserves(memory)
    yield from _compaction(memory)


def _found(name: str, severity: Severity, text: str, means: str = "", mend: str = "") -> Finding:
    return Finding("memory", name, severity, text, means, mend)


def _swap(memory: Memory) -> Iterator[Finding]:
    if not memory.total_bytes:
        return
    if memory.swap_bytes:
        yield _found("swap", "fine", f"{size(memory.swap_bytes)} of swap beside {size(memory.total_bytes)} of memory")
    else:
        yield _found(
            "swap",
            "note",
            f"no swap beside {size(memory.total_bytes)} of memory",
            "there is no time between the last free page and the kernel's killer; conditions on swap hold, or never do",
        )


def _compressed(memory: Memory) -> Iterator[Finding]:
    if memory.zram and memory.zswap:
        yield _found(
            "zswap",
            "note",
            f"zswap is on before swap on zram ({', '.join(memory.zram)})",
            "pages are compressed twice, and memory that is called swap is memory all the same",
            "echo N > /sys/module/zswap/parameters/enabled",
        )
    elif memory.zswap and memory.swap_bytes:
        yield _found("zswap", "fine", "zswap is on: swap is kept compressed in memory first")
    if memory.zram:
        yield _found("zram", "fine", f"swap on zram: {', '.join(memory.zram)}")
    if memory.zram and memory.swappiness is not None:
        text = f"vm.swappiness is {memory.swappiness} with swap on zram"
        if memory.swappiness < ZRAM_SWAPPINESS:
            means = "file pages that are needed go before anonymous ones that are not: it thrashes earlier"
            yield _found("swappiness", "note", text, means, sysctl("vm.swappiness", 180))
        else:
            yield _found("swappiness", "fine", text)


def _arc(memory: Memory) -> Iterator[Finding]:
    if memory.arc_bytes * ARC_SHARE >= memory.total_bytes > 0:
        yield _found(
            "zfs",
            "note",
            f"ZFS would give back {size(memory.arc_bytes)} of its cache (ARC), which MemAvailable does not count",
            "watermarks on what is available are crossed that much earlier",
            'in [daemon]: also_available = { file = "/proc/spl/kstat/zfs/arcstats", key = "size", less = "c_min" }',
        )


def _nodes(memory: Memory) -> Iterator[Finding]:
    if memory.nodes > 1:
        yield _found(
            "numa",
            "note",
            f"memory is on {memory.nodes} NUMA nodes",
            "watermarks are on all of them together; who is bound to one (AllowedMemoryNodes=, membind) and fills it "
            "is ended by the kernel, unless a policy with memory_above on his cgroup is sooner",
        )


def _overcommit(memory: Memory) -> Iterator[Finding]:
    if memory.overcommit is None:
        return
    if memory.overcommit != 2:
        yield _found("overcommit", "fine", f"vm.overcommit_memory is {memory.overcommit}")
        return
    limit = memory.commit_limit_bytes or 0
    below = limit < memory.total_bytes
    yield _found(
        "overcommit",
        "note",
        f"vm.overcommit_memory is 2: {size(limit)} may be promised of {size(memory.total_bytes)} of memory"
        f" (vm.overcommit_ratio {memory.overcommit_ratio} %)",
        "programs are refused memory and fail by themselves"
        + (", long before a watermark is reached" if below else ", perhaps before a watermark is reached"),
        sysctl("vm.overcommit_memory", 0),
    )


def _kernel_kills(memory: Memory) -> Iterator[Finding]:
    match memory.panic_on_oom:
        case None:
            pass
        case 0:
            yield _found("panic_on_oom", "fine", "vm.panic_on_oom is 0")
        case 1:
            means = "should the kernel be faster after all, the whole machine goes down"
            mend = sysctl("vm.panic_on_oom", 0)
            yield _found("panic_on_oom", "matters", "vm.panic_on_oom is 1: no kill, a panic", means, mend)
        case _:
            means = "one cgroup at its own limit takes the whole machine down; `oomguard drill` would, too"
            text = f"vm.panic_on_oom is {memory.panic_on_oom}: a panic, for a cgroup at its limit as well"
            yield _found("panic_on_oom", "matters", text, means, sysctl("vm.panic_on_oom", 0))
    if memory.oom_kill_allocating_task:
        yield _found(
            "oom_kill_allocating_task",
            "note",
            "vm.oom_kill_allocating_task is on",
            "should the kernel be faster, it takes whoever asks next, not the nominee: the insurance is worth nothing",
            sysctl("vm.oom_kill_allocating_task", 0),
        )
    elif memory.oom_kill_allocating_task == 0:
        yield _found("oom_kill_allocating_task", "fine", "vm.oom_kill_allocating_task is 0")


def _reserves(memory: Memory) -> Iterator[Finding]:
    """As mm/page_alloc.c reckons it: 4 times the square root of the memory in KiB, 128 KiB to 256 MiB."""
    if memory.min_free_bytes is not None and memory.total_bytes:
        usual = min(max(4 * isqrt(memory.total_bytes >> 10), 128), 256 << 10) << 10
        text = f"vm.min_free_kbytes is {memory.min_free_bytes >> 10}"
        mend = sysctl("vm.min_free_kbytes", usual >> 10)
        if memory.min_free_bytes < usual // 2:
            means = f"the kernel's usual is {usual >> 10}: with less, network and disk may fail before anybody is ended"
            yield _found("min_free_kbytes", "note", text, means, mend)
        elif memory.min_free_bytes > max(memory.total_bytes // 20, 2 * usual):
            means = f"{size(memory.min_free_bytes)} are never available: watermarks are reached that much earlier"
            yield _found("min_free_kbytes", "note", text, means, mend)
        else:
            yield _found("min_free_kbytes", "fine", text)
    factor = memory.watermark_scale_factor
    if factor is not None and factor > SCALE_FACTOR_MOST:
        means = f"the kernel begins to reclaim {factor / 100:g} % before the end, and MemAvailable counts that as gone"
        text = f"vm.watermark_scale_factor is {factor}"
        yield _found("watermark_scale_factor", "note", text, means, sysctl("vm.watermark_scale_factor", 10))
    elif factor is not None:
        yield _found("watermark_scale_factor", "fine", f"vm.watermark_scale_factor is {factor}")


def _compaction(memory: Memory) -> Iterator[Finding]:
    """kcompactd moves locked pages as well (mm/compaction.c); who touches one meanwhile faults and waits."""
    text = f"vm.compact_unevictable_allowed is {memory.compact_unevictable}"
    if memory.compact_unevictable:
        means = (
            "for huge pages the kernel also moves memory that is locked, and its owner, such as our core, waits for "
            "milliseconds; with 0 what is locked stays where it is: where others lock much, huge pages become rarer"
        )
        yield _found("compaction", "note", text, means, sysctl("vm.compact_unevictable_allowed", 0))
    elif memory.compact_unevictable == 0:
        yield _found("compaction", "fine", text)
