"""Whose all the memory is. "Not in any process" is an answer: tmpfs, slab, page tables, zram, huge pages.

The rows add up to MemTotal; the last one, "unaccounted", is what nobody claims: pages that a driver took for itself
(graphics, network buffers, a balloon), and what moved while it was read. It may be negative, since some counts overlap.
Functions of bytes, but for ``tmpfs``, which asks each mount how full it is: that takes no lock and no disk.
"""

import os
from collections.abc import Mapping
from typing import Final

SLABS: Final = 12  # caches by name; the others are in the sum
MOUNTS_MAX: Final = 256
PARTS_MAX: Final = 16
_MEMORY: Final = (b"tmpfs", b"ramfs", b"devtmpfs")
# Whoever walks through one of these may wait for another machine, or for a process that is gone.
_REMOTE: Final = (b"autofs", b"nfs", b"nfs4", b"cifs", b"smb3", b"9p", b"ceph", b"afs", b"fuse")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")

Part = dict[str, object]


def rows(meminfo: Mapping[str, int], zram_bytes: int, parts: Mapping[str, list[Part]]) -> dict[str, object]:
    """``meminfo`` in bytes; ``parts`` by row. {"total_bytes", "not_in_processes_bytes", "rows": [...]}.

    Cached holds Shmem (fs/proc/meminfo.c); VmallocUsed holds the kernel's stacks where they are mapped, as on x86 and
    arm64 (CONFIG_VMAP_STACK); Zswap and zram live in zsmalloc, which meminfo does not tell.
    """

    def of(*names: str) -> int:
        return sum(meminfo.get(name, 0) for name in names)

    found = (
        ("free", of("MemFree"), False),
        ("cache", max(0, of("Cached") - of("Shmem")) + of("Buffers"), False),
        ("processes", of("AnonPages"), False),
        ("shared memory and tmpfs", of("Shmem"), True),
        ("slab", of("Slab") or of("SReclaimable", "SUnreclaim"), True),
        ("page tables", of("PageTables", "SecPageTables"), True),
        ("kernel stacks", of("KernelStack"), True),
        ("vmalloc", max(0, of("VmallocUsed") - of("KernelStack")), True),
        ("per-cpu", of("Percpu"), True),
        ("huge pages", of("Hugetlb"), True),
        ("zram", zram_bytes, True),
        ("zswap", of("Zswap"), True),
    )
    total = of("MemTotal")
    rest = total - sum(size for _, size, _ in found)
    told = [_row(what, size, parts.get(what, [])) for what, size, _ in found if size]
    return {
        "total_bytes": total,
        "not_in_processes_bytes": sum(size for _, size, hidden in found if hidden) + rest,
        "rows": [*told, _row("unaccounted", rest, [])],
    }


def _row(what: str, size: int, parts: list[Part]) -> dict[str, object]:
    return {"what": what, "bytes": size} | ({"parts": parts} if parts else {})


def tmpfs(mounts: bytes, root: str) -> list[Part]:
    """How full every file system in memory is, the fullest first; pages that were swapped out are counted too.

    ``mounts`` as in /proc/PID/mounts, ``root`` the way to that process's root ("/proc/1/root": ours may be a sandbox).
    """
    found: dict[int, Part] = {}
    behind: list[bytes] = []
    for line in mounts.splitlines()[:MOUNTS_MAX]:
        words = line.split(b" ")
        if len(words) < 3:
            continue
        where = _unescape(words[1])
        if words[2].partition(b".")[0] in _REMOTE:
            behind.append(where.rstrip(b"/") + b"/")
        if words[2] not in _MEMORY or any(where.startswith(remote) for remote in behind):
            continue
        try:
            path = os.fsencode(root) + where
            stat, device = os.statvfs(path), os.stat(path).st_dev
        except (OSError, ValueError):
            continue  # unmounted meanwhile, or not ours to see
        used = (stat.f_blocks - stat.f_bfree) * stat.f_frsize
        name = where.decode("utf-8", "surrogateescape")
        if used > 0 and device not in found:  # the same one may be mounted at many places
            kind = words[2].decode("ascii")
            found[device] = {"what": name, "kind": kind, "bytes": used, "limit_bytes": stat.f_blocks * stat.f_frsize}
    return _largest(list(found.values()))


def _unescape(path: bytes) -> bytes:
    r"""A space is \040 there, a backslash \134."""
    for octal, byte in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
        path = path.replace(octal, byte)
    return path


def sysv(data: bytes) -> list[Part]:
    """System V segments, the largest first: they outlive their makers.

    key shmid perms size cpid lpid nattch uid gid cuid cgid atime dtime ctime rss swap
    """
    lines = data.splitlines()
    names = lines[0].split() if lines else []
    found: list[Part] = []
    for line in lines[1:]:
        values = line.split()
        if len(values) != len(names):
            continue
        row = dict(zip(names, values, strict=True))
        try:
            size = int(row.get(b"rss", row[b"size"]))
            text = f"System V segment {int(row[b'shmid'])}"
            if size:
                made, users = int(row[b"cpid"]), int(row[b"nattch"])
                found.append({"what": text, "kind": "sysv", "bytes": size, "made_by_pid": made, "attached": users})
        except (ValueError, KeyError):
            continue
    return _largest(found)


def slabs(data: bytes, page_bytes: int = _PAGE) -> list[Part]:
    """The largest caches of /proc/slabinfo, in pages that they hold.

    dentry  61446 61446  192 21 1 : tunables 0 0 0 : slabdata 2926 2926 0
    """
    found: list[Part] = []
    for line in data.splitlines():
        head, _, slabdata = line.partition(b": slabdata")
        words, counts = head.split(), slabdata.split()
        try:
            size = int(words[5]) * int(counts[1]) * page_bytes
            name, active = words[0].decode("utf-8", "surrogateescape"), int(words[1])
        except (ValueError, IndexError):
            continue  # its two lines of heading, or one that was cut
        if size:
            found.append({"what": name, "kind": "slab", "bytes": size, "objects": active})
    return _largest(found, SLABS)


def huge(meminfo: Mapping[str, int]) -> list[Part]:
    """The pool of the default size: how much of it nobody uses."""
    size = meminfo.get("Hugepagesize", 0)
    free = meminfo.get("HugePages_Free", 0)
    if not (size and meminfo.get("HugePages_Total")):
        return []
    return [{"what": f"reserved and unused, of {size >> 10} KiB each", "kind": "hugetlb", "bytes": free * size}]


def _largest(found: list[Part], most: int = PARTS_MAX) -> list[Part]:
    return sorted(found, key=lambda part: -int(str(part["bytes"])))[:most]
