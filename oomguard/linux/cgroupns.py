"""Seen from within a cgroup namespace: the kernel tells of cgroups from where our own begins, whoever's /proc it is.

In a container with a namespace of its own (podman's, and those of unprivileged pods) /proc/PID/cgroup says "/" of us
and "/../../system.slice/ssh.service" of others (cgroup_namespaces(7)), while the host's tree, mounted beside, has them
by their names. So what is read is led back to those: our own root is the directory of that tree with the inode of our
/sys/fs/cgroup, for there is one cgroup2 and every mount shows a part of it. Loaded where that is so.
"""

import os

from . import procfs


def root_in(tree: str, own: str) -> str | None:
    """The path, in the whole ``tree``, at which the mount ``own`` begins; "/" is the same; None: it is no part."""
    try:
        whole, ours = os.stat(tree), os.stat(own)
    except OSError:
        return None
    if whole.st_dev != ours.st_dev:
        return None
    if whole.st_ino == ours.st_ino:
        return "/"
    waiting = [tree]
    while waiting:
        directory = waiting.pop()
        try:
            with os.scandir(directory) as entries:
                below = [entry for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:  # removed meanwhile
            continue
        for entry in below:
            if entry.inode() == ours.st_ino:
                return entry.path.removeprefix(tree.rstrip("/"))
        waiting += [entry.path for entry in below]
    return None


def enter(root: str) -> None:
    """From now on what /proc tells is led back to the whole tree; ``root``: where our namespace begins in it."""

    def parse_cgroup(data: bytes) -> str:
        return absolute(root, procfs.parse_cgroup(data))

    procfs.cgroup_in = parse_cgroup


def leave() -> None:
    """For tests."""
    procfs.cgroup_in = procfs.parse_cgroup


def absolute(root: str, shown: str) -> str:
    """ "/../a" seen from "/b/c" is "/b/a". What is no path stays as it is."""
    if not shown.startswith("/"):
        return shown
    parts, words = root.strip("/").split("/"), shown.strip("/").split("/")
    while words and words[0] == "..":
        parts, words = parts[:-1], words[1:]
    return "/" + "/".join(part for part in (*parts, *words) if part)
