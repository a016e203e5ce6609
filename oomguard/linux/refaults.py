"""Refaults: what was taken away and is read again. Counted in memory.stat of a cgroup, and in /proc/vmstat."""

import os
from typing import Final

from oomguard.model.facts import Refaults

from . import files

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def parse_refaults(data: bytes) -> Refaults | None:
    """The lines workingset_refault_anon and _file of memory.stat or /proc/vmstat, in pages; None: not there.

    Before Linux 5.9 there is one line for both, which is of files.
    """
    data = b"\n" + data
    file = _line(data, b"\nworkingset_refault_file ")
    if file is None:
        file = _line(data, b"\nworkingset_refault ")
    if file is None:
        return None
    return Refaults((_line(data, b"\nworkingset_refault_anon ") or 0) * _PAGE, file * _PAGE)


def _line(data: bytes, name: bytes) -> int | None:
    at = data.find(name)
    end = data.find(b"\n", at + 1)
    return None if at < 0 or end < 0 else files.number(data[at + len(name) : end])
