"""Memory that MemAvailable misses: ZFS's arcstats, and files like it."""

from __future__ import annotations

from pathlib import Path

import pytest

from oomguard.linux.elsewhere import Elsewhere, parse
from oomguard.model.facts import MemInfo

# 13 1 0x01 123 33456 7766554 1234567890
ARCSTATS = b"""\
13 1 0x01 123 33456 7766554 1234567890
name                            type data
hits                            4    993846
c                               4    8589934592
c_min                           4    1073741824
c_max                           4    8589934592
size                            4    4294967296
compressed_size                 4    3221225472
"""
GIB = 1 << 30
HOST = MemInfo(16 * GIB, GIB, 2 * GIB, 0, 0)


def test_a_line_by_its_whole_name() -> None:
    assert parse(ARCSTATS, "size") == 4 * GIB, "not compressed_size"
    assert parse(ARCSTATS, "c") == 8 * GIB
    assert parse(ARCSTATS, "c_mi") is None
    assert parse(b"Foo:  12 kB\n", "Foo") == 12 << 10


@pytest.mark.parametrize("data", [b"", b"size", b"size 4 x", b"size -3", b"\xff\xfe size 4", b"size kB"])
def test_what_is_no_number_is_not_known(data: bytes) -> None:
    assert parse(data, "size") is None


def test_it_is_added_to_what_is_available(tmp_path: Path) -> None:
    file = tmp_path / "arcstats"
    file.write_bytes(ARCSTATS)
    arc = Elsewhere(str(file), "size", "c_min")
    assert (arc.added_to(HOST).available_bytes, arc.why) == (5 * GIB, "")
    assert Elsewhere(str(file), "size").added_to(HOST).available_bytes == 6 * GIB
    full = MemInfo(3 * GIB, GIB, 2 * GIB, 0, 0)
    assert arc.added_to(full).available_bytes == 3 * GIB, "never more than there is"
    less = Elsewhere(str(file), "c_min", "size")
    assert less.added_to(HOST) == HOST, "nothing is taken away"


def test_where_it_does_not_tell_nothing_is_added_and_why_is_known(tmp_path: Path) -> None:
    gone = Elsewhere(str(tmp_path / "none"), "size")
    assert gone.added_to(HOST) == HOST
    assert gone.why == f"{tmp_path}/none: No such file or directory"
    (tmp_path / "none").write_bytes(b"other 4 1\n")
    assert gone.added_to(HOST) == HOST
    assert gone.why.endswith("has no such line")
    (tmp_path / "none").write_bytes(b"size 4 1024\n")
    assert gone.added_to(HOST).available_bytes == 2 * GIB + 1024
    assert gone.why == "", "the module has come"
