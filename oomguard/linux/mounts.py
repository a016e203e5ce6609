"""Where cgroups are mounted, and which hierarchy has the memory. Chosen by what is there, never by version.

``linux.cgroup1`` is loaded here, and only where it is v1 that has the memory: nobody else pays for it.
"""

import os
from typing import Final, NamedTuple

# Blanks in mountinfo are octal: ``\040``. These are all that the kernel writes so (fs/proc_namespace.c). The backslash
# last: what it makes is no escape. By hand, since ``re`` is half a megabyte in every process.
_ESCAPES: Final = ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\043", b"#"), (b"\\134", b"\\"))

USUAL: Final = "/sys/fs/cgroup"


class Mount(NamedTuple):
    """One cgroup hierarchy. ``controllers`` of v1 are the mount's own options: "memory", "freezer", "name=systemd"."""

    kind: str  # "cgroup" or "cgroup2"
    point: str
    controllers: frozenset[str]


def parse_mountinfo(data: bytes) -> list[Mount]:
    """The cgroup hierarchies in /proc/self/mountinfo, in order; half a line at the end is left out.

    35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
    41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
    """
    found = []
    for line in data[: data.rfind(b"\n") + 1].split(b"\n"):
        head, dash, tail = line.partition(b" - ")
        words, last = head.split(b" "), tail.split(b" ")
        if dash and len(words) > 4 and len(last) > 2 and last[0] in (b"cgroup", b"cgroup2"):
            options = frozenset(map(os.fsdecode, last[2].split(b",")))
            found.append(Mount(last[0].decode(), unescape(words[4]), options))
    return found


def unescape(word: bytes) -> str:
    """A path as mountinfo writes it."""
    for escape, plain in _ESCAPES:
        word = word.replace(escape, plain)
    return os.fsdecode(word)


def find(proc: str = "/proc", cgroup: str = USUAL) -> tuple[str | None, str]:
    """(mount point of the hierarchy that has the memory controller, flavour).

    The flavour is "v2"; "hybrid" where there is a cgroup2, but memory belongs to v1; "v1" with only v1 hierarchies;
    "none" (and no mount point) without cgroups, or without the memory controller. ``cgroup`` other than the usual place
    is where to look instead of asking ``proc``. OSError, with the path, if /proc cannot be read.
    """
    if cgroup != USUAL:
        return _named(cgroup)
    path = f"{proc}/self/mountinfo"
    with open(path, "rb") as file:
        mounts = parse_mountinfo(file.read())
    unified = [mount.point for mount in mounts if mount.kind == "cgroup2"]
    for point in unified:
        if has_memory(point):
            return point, "v2"
    old = {name: mount.point for mount in mounts if mount.kind == "cgroup" for name in mount.controllers}
    if "memory" not in old:
        return None, "none"
    return _v1(old["memory"], unified[0] if unified else None, old.get("freezer"))


def _named(cgroup: str) -> tuple[str | None, str]:
    """A tree that somebody has named: the mount itself, or what holds the mounts of a v1 machine."""
    if os.path.exists(f"{cgroup}/cgroup.controllers") and has_memory(cgroup):
        _from_within(cgroup)
        return cgroup, "v2"
    around = os.path.dirname(cgroup.rstrip("/"))
    for memory, beside in ((cgroup, around), (f"{cgroup}/memory", cgroup)):
        if os.path.exists(f"{memory}/memory.usage_in_bytes"):
            unified, freezer = f"{beside}/unified", f"{beside}/freezer"
            unified_there = os.path.exists(f"{unified}/cgroup.controllers")
            return _v1(memory, unified if unified_there else None, freezer if os.path.isdir(freezer) else None)
    return cgroup, "v2"


def _from_within(tree: str) -> None:
    """Our own mount may show a part of that tree, from which /proc counts; a copy of a tree is another device."""
    try:
        ours, whole = os.stat(USUAL), os.stat(tree)
    except OSError:
        return
    if ours.st_dev == whole.st_dev and ours.st_ino != whole.st_ino:
        from . import cgroupns

        if (root := cgroupns.root_in(tree, USUAL)) is not None:
            cgroupns.enter(root)


def _v1(memory: str, unified: str | None, freezer: str | None) -> tuple[str, str]:
    from . import cgroup1

    cgroup1.enter(memory, unified, freezer)
    return memory, "v1" if unified is None else "hybrid"


def has_memory(mount: str) -> bool:
    """Whether this mount of cgroup2 has the memory controller."""
    try:
        with open(f"{mount}/cgroup.controllers", "rb") as controllers:
            return b"memory" in controllers.read().split()
    except OSError:
        return False  # mounted over, or not for us: not usable
