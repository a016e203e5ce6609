"""What the daemon changes for a time: journalled here, written by the reaper, put back by whoever is left."""

import os
from typing import Final

from ..linux import leases
from ..model.verdict import Lease
from ..workers.pool import Mailbox

_EIO: Final = 5
_ENOSPC: Final = 28
_ESRCH: Final = 3


class LeaseBook:
    """The leases that are out, by token. Without a journal (no runtime directory) nothing is leased at all."""

    def __init__(self, journal: leases.Journal | None, orders: Mailbox, cgroup: str, proc: str) -> None:
        self.journal, self.orders, self.cgroup, self.proc = journal, orders, cgroup, proc
        self.out: dict[int, leases.Entry] = {}

    def lend(self, action: Lease) -> int:
        """Journal it, then have it written. An errno, 0 for well: the write's own comes back as a Result later."""
        if self.journal is None:
            return _EIO
        entry = self._entry(action)
        if entry is None:
            return _ESRCH
        if not self.journal.out(entry):
            return _ENOSPC
        self.out[action.token] = entry
        self.orders.post(("write", action.token, tuple(entry)))
        return 0

    def _entry(self, action: Lease) -> leases.Entry | None:
        kind = leases.HIGH if action.file == "memory.high" else leases.SCORE
        known = self.out.get(action.token)
        if known is not None:
            return known._replace(value=action.value, before=known.value)
        entry = leases.Entry(
            kind,
            action.token,
            action.inode,
            action.start_ticks,
            action.pid,
            action.value,
            action.value,
            0,
            action.cgroup,
        )
        found = leases.read_value(entry, self.cgroup, self.proc)
        return None if found is None else entry._replace(found=found)

    def end(self, token: int) -> int:
        """Have it put back; ``settled`` frees its journal entry once that is done."""
        entry = self.out.get(token)
        if entry is None:
            return _ESRCH
        self.orders.post(("undo", token, tuple(entry)))
        return 0

    def settled(self, token: int) -> None:
        """The reaper has put it back, or there was nothing to put back any more."""
        if self.out.pop(token, None) is not None and self.journal is not None:
            self.journal.back(token)

    def end_all(self) -> list[str]:
        """At the end of the daemon: all of it, here and now. A sentence for each."""
        said = []
        for token, entry in list(self.out.items()):
            try:
                sentence = leases.undo(entry, self.cgroup, self.proc)
            except OSError as error:
                said.append(f"{error.filename}: could not be put back: {os.strerror(error.errno or 0)}")
                continue
            self.settled(token)
            if sentence:
                said.append(sentence)
        return said
