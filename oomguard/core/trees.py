"""Which cgroups the guards mean, now and as they come and go. Watches directories; reads no memory files."""

import errno
import os
from collections.abc import Iterable
from typing import Final

from ..judge.glob import matches
from ..linux import files
from ..linux.cgroup2 import full_path
from ..linux.events import ANYWHERE, ENTRIES, ENTRIES_AND_ATTRIBUTES, TreeWatch

WATCHES: Final = 8192  # directories watched at most: a `**` over a machine with more is looked through once a minute


# What answers so is no cgroup (any more), or none that has a path.
UNREACHABLE: Final = files.GONE | {errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP}


class Forest:
    """The cgroups under all patterns. ``changed`` says whether a look is due; ``matching`` looks."""

    def __init__(self, root: str, patterns: tuple[str, ...], attributes: bool = False) -> None:
        """``attributes``: changes of extended attributes are a reason to look, too."""
        self.root = root
        self.patterns = patterns
        self.watch = TreeWatch(ENTRIES_AND_ATTRIBUTES if attributes else ENTRIES)
        self.watched: dict[str, int] = {}  # directory: its inode when it was watched
        self.visited: set[str] = set()
        self.overflowed = False

    def fileno(self) -> int:
        """Readable when a cgroup came or went; -1: nobody tells, and every look is to be followed by another one."""
        return self.watch.fd

    def changed(self) -> bool:
        """Drain the events; whether there was any."""
        changed = self.watch.drain()
        for path in self.watched:  # where something happened the watch itself may have ended
            if ANYWHERE in changed or full_path(self.root, path) in changed:
                self.watched[path] = 0
        return bool(changed)

    def matching(self) -> dict[str, int]:
        """Path to inode of every cgroup that some pattern describes. OSError: it cannot be looked at now (EMFILE)."""
        found: dict[str, int] = {}
        self.visited.clear()
        self.overflowed = False
        for pattern in self.patterns:
            parts = pattern.strip("/").split("/")
            level: dict[str, int] = {"/": 0}
            for number, part in enumerate(parts):
                if "**" in part:
                    level = self._all_below(level)
                    found.update((path, inode) for path, inode in level.items() if matches(pattern, path))
                    break
                level = self._children(level, part)
                if number == len(parts) - 1:
                    found.update(level)
        # A removed cgroup's watch does not end by itself: kernfs keeps the link count, and with it the inode.
        for path in self.watched.keys() - self.visited:
            self._unwatch(path)
        return found

    def _children(self, parents: Iterable[str], part: str) -> dict[str, int]:
        found: dict[str, int] = {}
        for parent in parents:
            self._watch(parent)
            prefix = "" if parent == "/" else parent
            if "*" not in part and "?" not in part:
                found.update(self._inodes((f"{prefix}/{part}",)))
                continue
            found.update(
                (f"{prefix}/{name}", inode) for name, inode in self._below(parent).items() if matches(part, name)
            )
        return found

    def _all_below(self, parents: Iterable[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        waiting = list(parents)
        while waiting:
            parent = waiting.pop()
            self._watch(parent)
            prefix = "" if parent == "/" else parent
            below = {f"{prefix}/{name}": inode for name, inode in self._below(parent).items()}
            found.update(below)
            waiting += below
        return found

    def _below(self, path: str) -> dict[str, int]:
        """Name to inode, as the directory itself has it: of a thousand none is asked."""
        try:
            with os.scandir(full_path(self.root, path)) as entries:
                return {entry.name: entry.inode() for entry in entries if entry.is_dir(follow_symlinks=False)}
        except OSError as error:
            if error.errno in UNREACHABLE:
                return {}  # gone meanwhile; what is above it tells
            raise

    def _inodes(self, paths: Iterable[str]) -> dict[str, int]:
        found = {}
        for path in paths:
            try:
                found[path] = os.stat(full_path(self.root, path), follow_symlinks=False).st_ino
            except OSError as error:
                if error.errno not in UNREACHABLE:
                    raise
        return found

    def _watch(self, path: str) -> None:
        inode = self._inodes((path,)).get(path)
        if inode is None:
            return
        self.visited.add(path)
        if self.watched.get(path) == inode:
            return
        self._unwatch(path)  # it was made anew: the old watch is another directory's
        if len(self.watched) >= WATCHES:
            self.overflowed = True
            return
        try:
            if self.watch.watch(full_path(self.root, path)):
                self.watched[path] = inode
        except OSError:  # fs.inotify.max_user_watches
            self.overflowed = True

    def _unwatch(self, path: str) -> None:
        if self.watched.pop(path, None) is not None:
            self.watch.unwatch(full_path(self.root, path))

    def close(self) -> None:
        """The watch."""
        self.watch.close()
