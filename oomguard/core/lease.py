"""What the daemon changes for a time: journalled here, written by the reaper, put back by whoever is left.

Several leases may be on one file (a tripwire, and another guard's brake): there is one journal entry a file, which
knows what its owner had there, and at most one order a file is with the reaper. So what stands in the file is always
one of the two values that the journal names, whatever moment we are killed at.
"""

import errno
import os
from collections.abc import Callable
from typing import Final

from ..linux import leases, procfs
from ..model.verdict import Lease
from ..workers.pool import Mailbox

RETRY_NS: Final = 10_000_000_000  # what could not be put back is tried again after that

# What is left of the journal's slots to the leases of a storm: a thousand tripwires must not cost the insurance.
SPARE: Final = 16

_Key = tuple[int, str, int, int, int]  # kind, path, inode, pid, start_ticks
_Place = tuple[int, str] | tuple[int, int]  # kind and path; of a process pid and start_ticks


class _File:
    """One file that is not as its owner left it. ``wanted``: token to value, of all leases on it, oldest first."""

    __slots__ = ("busy", "entry", "failed", "order", "wanted")

    def __init__(self, entry: leases.Entry) -> None:
        self.entry = entry
        self.wanted: dict[int, int] = {}
        self.busy = self.failed = False
        self.order = 0  # token under which the last order was given

    def in_force(self) -> int:
        """Of several limits the lowest, and never a looser one than its owner's; else what was asked last."""
        entry = self.entry
        if entry.kind not in leases.LIMITS or not self.wanted:
            return next(reversed(self.wanted.values()), entry.found)
        lowest = min(self.wanted.values())
        return lowest if entry.found == leases.MAX else min(lowest, entry.found)


def _place(entry: leases.Entry) -> _Place:
    return (entry.pid, entry.start_ticks) if entry.kind == leases.SCORE else (entry.kind, entry.path)


class LeaseBook:
    """The leases that are out. Without a journal (no runtime directory) nothing is leased at all."""

    def __init__(self, journal: leases.Journal | None, orders: Mailbox, cgroup: str, proc: str) -> None:
        self.journal, self.orders, self.cgroup, self.proc = journal, orders, cgroup, proc
        self.files: dict[_Key, _File] = {}
        self.places: dict[_Place, _File] = {}  # the same by what a reader knows of them; with a thousand none is sought
        self.keys: dict[int, _Key] = {}  # by token, of all leases on those files and of the last order for each
        self.retry_ns = 0
        self.say: Callable[[str, str], None] = lambda _what, _why: None  # of what may not be written here

    # -- lending -------------------------------------------------------------------------------------------------

    def lend(self, action: Lease) -> int:
        """Journal it, then have it written. An errno, 0 for well: the write's own comes back as a Result later."""
        key = (leases.KINDS[action.file], action.cgroup, action.inode, action.pid, action.start_ticks)
        if action.purpose == "tripwire" and (self.journal is None or self.journal.free() <= SPARE):
            return errno.ENOSPC
        try:
            return self._lend(key, action.token, action.value)
        except OSError as error:
            return error.errno or errno.EIO

    def _lend(self, key: _Key, token: int, value: int) -> int:
        if self.journal is None:
            return errno.EIO
        file = self.files.get(key)
        if file is None:
            kind, path, inode, pid, start = key
            since = procfs.uptime_ticks() if kind == leases.SCORE else 0
            entry = leases.Entry(kind, token, inode, start, pid, 0, 0, 0, path, since)
            found = leases.read_value(entry, self.cgroup, self.proc)
            if found is None:
                return errno.ESRCH
            file = _File(entry._replace(value=found, before=found, found=found))
        file.wanted.pop(token, None)
        file.wanted[token] = value
        if not file.busy and not self._issue(file, token):
            return errno.ENOSPC
        self.files[key] = self.places[_place(file.entry)] = file
        self.keys[token] = key
        return 0

    def _issue(self, file: _File, token: int) -> bool:
        """Have the reaper do what is wanted now. False: it cannot be journalled, so it is not done."""
        if file.order != token and file.order not in file.wanted:
            self.keys.pop(file.order, None)
        file.order = token
        if not file.wanted:
            self.orders.post(("undo", token, tuple(file.entry)))
            file.busy = True
            return True
        entry = file.entry._replace(before=file.entry.value, value=file.in_force())
        if entry.value == entry.before and entry.value != entry.found:
            return True  # another lease holds it there
        if self.journal is None or not self.journal.out(entry):
            return False
        file.entry = entry
        self.orders.post(("write", token, tuple(entry)))
        file.busy = True
        return True

    def found_high(self, path: str, inode: int, now: int | None) -> int | None:
        """The memory.high that its owner gave this cgroup, where ``now`` is ours. None: "max"."""
        file = self.files.get((leases.HIGH, path, inode, 0, 0))
        return now if file is None else self._owners(file, now)

    def found_limit(self, name: str, path: str, now: int | None) -> int | None:
        """The limit of this name that its owner gave this cgroup, where ``now`` is ours. None: "max"."""
        file = self.places.get((leases.KINDS[name], path))
        return now if file is None else self._owners(file, now)

    def _owners(self, file: _File, now: int | None) -> int | None:
        """What the owner of a limit gave it, where ``now`` is ours; and where the owner's is back, ours once more.

        systemd writes all limits of a unit anew after a daemon-reload, when it or a unit beside it is started or
        changed: it does not know of ours, and did not mean it. Any other value is somebody's will, and left alone.
        """
        value = leases.MAX if now is None else now
        entry = file.entry
        if value == entry.found:
            if value != entry.value and file.wanted and not file.busy:
                file.entry = entry._replace(value=value)
                self._issue(file, next(reversed(file.wanted)))
            return now
        if not leases.stands(entry, value):
            return now
        return None if entry.found == leases.MAX else entry.found

    def found_score(self, pid: int, start_ticks: int, now: int) -> int:
        """The oom_score_adj that its owner gave this process, where ``now`` is ours."""
        file = self.places.get((pid, start_ticks))
        return now if file is None or not leases.stands(file.entry, now) else file.entry.found

    def refill(self) -> None:
        """In calm: what the next leases are journalled in shall not fault."""
        if self.journal is not None:
            self.journal.refill()

    # -- ending --------------------------------------------------------------------------------------------------

    def end(self, token: int) -> int:
        """Have it put back, or have what the other leases on that file want; ``settled`` is told when that is done."""
        file = self.files.get(self.keys[token]) if token in self.keys else None
        if file is None or token not in file.wanted:
            return errno.ESRCH
        del file.wanted[token]
        if not file.busy:
            self._issue(file, token)
        elif token != file.order:
            del self.keys[token]
        return 0

    def settled(self, token: int, what: str, number: int) -> None:
        """The reaper has answered ("Lease", "Release") with this errno."""
        key = self.keys.get(token)
        file = self.files.get(key) if key is not None else None
        if key is None or file is None or not file.busy or file.order != token:
            return
        file.busy = False
        if number in (errno.EPERM, errno.EACCES):
            self._refused(file.entry, number)
        if what == "Release":
            self._put_back(key, file, number)
        elif number in (errno.ESRCH, errno.ECANCELED):  # gone; or somebody else has written there since: it is his
            self._forget(key)
        else:
            tried = file.entry.value
            if number:
                file.entry = file.entry._replace(value=file.entry.before)
            if not file.wanted or file.in_force() != tried:
                self._issue(file, token)

    def _refused(self, entry: leases.Entry, number: int) -> None:
        if entry.kind != leases.SCORE:
            what = "is not stopped" if entry.kind == leases.FREEZE else "is not slowed"
            self.say(leases.FILES[entry.kind], f"{entry.path}: {os.strerror(number)}: a leak in there {what}")
        else:
            why = f"oom_score_adj of process {entry.pid}: {os.strerror(number)}"
            self.say("insurance", f"{why}: if the kernel is faster than we, it chooses whom to kill by itself")

    def _put_back(self, key: _Key, file: _File, number: int) -> None:
        if number:
            file.failed = not file.wanted
            if file.wanted:
                self._issue(file, next(reversed(file.wanted)))
            return
        self._forget(key)
        for token, value in file.wanted.items():  # lent again while it was being put back
            self._lend(key, token, value)

    def _forget(self, key: _Key) -> None:
        file = self.files.pop(key)
        if self.places.get(_place(file.entry)) is file:
            del self.places[_place(file.entry)]
        for token in (*file.wanted, file.order):
            self.keys.pop(token, None)
        if self.journal is not None:
            self.journal.back(file.entry.token)

    def retry(self, at_ns: int) -> None:
        """Now and then: what could not be put back."""
        if not self.files or at_ns < self.retry_ns:
            return
        self.retry_ns = at_ns + RETRY_NS
        for file in self.files.values():
            if file.failed and not file.busy:
                file.failed = False
                self._issue(file, file.order)

    def again(self) -> None:
        """The reaper is another one: what the last one was told and did not answer is to be done again."""
        for key, file in list(self.files.items()):
            if not file.busy:
                continue
            file.busy = False
            try:
                now = leases.read_value(file.entry, self.cgroup, self.proc)
            except OSError:
                file.failed = True
                continue
            gone = now is None and file.entry.kind != leases.SCORE  # a process that is gone may have left heirs
            if gone or (now is not None and now != file.entry.found and not leases.stands(file.entry, now)):
                self._forget(key)  # or somebody else's by now
                continue
            if file.wanted and now is not None:
                file.entry = file.entry._replace(value=now)
            self._issue(file, file.order)

    def end_all(self) -> list[str]:
        """At the end of the daemon, when the reaper is gone: all of it, here and now. A sentence for each."""
        said = []
        for key, file in list(self.files.items()):
            try:
                sentence = leases.undo(file.entry, self.cgroup, self.proc)
            except OSError as error:
                said.append(f"{error.filename}: could not be put back: {os.strerror(error.errno or 0)}")
                continue
            self._forget(key)
            if sentence:
                said.append(sentence)
        return said
