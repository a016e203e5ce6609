"""Who has how much: named for the record, walked for seldom, and never more than there is room for."""

import time
from pathlib import Path

import pytest

from oomguard.core import shares
from oomguard.core.shares import Shares
from oomguard.linux.cgroup2 import Cgroup
from oomguard.model.facts import MemInfo, Share

SECOND = 1_000_000_000
GIB = 1 << 30


def tree(root: Path, sizes: dict[str, int]) -> str:
    for path, size in sizes.items():
        (root / path).mkdir(parents=True)
        (root / path / "memory.current").write_text(f"{size}\n")
    return str(root)


def host(total_bytes: int, available_bytes: int = 0) -> MemInfo:
    return MemInfo(total_bytes, available_bytes, available_bytes, 0, 0)


def broken(error: OSError) -> None:
    raise AssertionError(error)


def test_the_guarded_are_told_every_time_and_the_largest_after_a_walk(tmp_path: Path) -> None:
    root = tree(tmp_path, {"web.service": 5, "system.slice": GIB, "system.slice/db.service": GIB - 1})
    group = Cgroup.open(root, "/web.service")
    assert group is not None
    it = Shares(root, broken)
    assert it.look(SECOND, [group]) == (Share("/web.service", 5),)
    it.walk(SECOND, host(2 * GIB))
    expected = {"/web.service": 5, "/system.slice": GIB, "/system.slice/db.service": GIB - 1}
    assert {share.cgroup: share.current_bytes for share in it.look(2 * SECOND, [group])} == expected
    assert it.look(3 * SECOND, [group]) == (Share("/web.service", 5),)
    group.close()


def test_what_a_guarded_cgroup_lies_in_is_told_though_it_is_small(tmp_path: Path) -> None:
    """Not among the largest, and too small for the walk to go down there."""
    large = {f"big{n}.slice": GIB + n for n in range(shares.LARGEST)}
    root = tree(tmp_path, {"a": 9, "a/b": 7, "a/b/web.service": 5, **large})
    group = Cgroup.open(root, "/a/b/web.service")
    assert group is not None
    it = Shares(root, broken)
    it.look(SECOND, [group])
    it.walk(SECOND, host(GIB))
    told = it.look(2 * SECOND, [group])
    assert told[:3] == (Share("/a/b/web.service", 5), Share("/a/b", 7), Share("/a", 9))
    assert len(told) == 3 + shares.LARGEST
    (tmp_path / "a/b/memory.current").unlink()
    it.walk(2 * SECOND, host(GIB, GIB // 2))
    assert it.look(3 * SECOND, [group])[1:3] == (Share("/a/b", 0), Share("/a", 9))
    group.close()


def test_a_walk_names_no_more_than_it_may(tmp_path: Path) -> None:
    it = Shares(tree(tmp_path, {f"{n}.service": n for n in range(600)}), broken)
    it.walk(SECOND, host(100))
    found = it.look(SECOND, [])
    assert {share.current_bytes for share in found} == set(range(600 - shares.LARGEST, 600))


@pytest.mark.parametrize(("moves", "share"), [(True, shares.WALK_SHARE[0]), (False, shares.WALK_SHARE[1])])
def test_a_walk_takes_no_more_than_its_share_of_the_time(tmp_path: Path, moves: bool, share: int) -> None:
    it = Shares(tree(tmp_path, {f"{n}.service": n for n in range(600)}), broken)
    began = time.monotonic_ns()
    it.walk(SECOND, host(GIB, GIB))
    assert it.look(SECOND, [])
    took_ns = time.monotonic_ns() - began
    least_ns = share * 600 * 1000  # a cgroup takes more than a microsecond on any computer
    assert share * took_ns > least_ns
    now = host(GIB, 0 if moves else GIB)
    it.walk(SECOND + least_ns, now)
    assert not it.look(2 * SECOND, [])
    it.walk(SECOND + max(shares.STILL_NS, share * took_ns), now)
    assert it.look(2 * SECOND, []), "but no less either"


def test_where_nothing_moves_it_is_seldom_walked_and_else_every_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the largest are told as often as the machine is, in the minutes that matter."""
    monkeypatch.setattr(shares, "WALK_SHARE", (0, 0))  # however slow this computer is
    it = Shares(tree(tmp_path, {"web.service": 5}), broken)

    def walked(at_s: int, available_bytes: int) -> bool:
        it.walk(at_s * SECOND, host(GIB, available_bytes))
        return bool(it.look(at_s * SECOND, []))

    step = GIB // shares.MOVED_SHARE
    assert walked(1, GIB // 2)
    assert it.walk_ns == 2 * SECOND, "it asks every second"
    assert not any(walked(second, GIB // 2 - step) for second in range(2, 30))
    assert all(walked(second, GIB // 2 - (second - 28) * (step + 1)) for second in range(30, 40))
    still = GIB // 2 - 11 * (step + 1)
    assert [second for second in range(40, 300) if walked(second, still)] == [159, 279], "seen in every two minutes"


def test_what_has_little_is_not_descended_into(tmp_path: Path) -> None:
    it = Shares(tree(tmp_path, {"small": 1 << 20, "small/inner": 1 << 20}), broken)
    it.walk(SECOND, host(GIB))
    assert it.look(SECOND, []) == (Share("/small", 1 << 20),)


def test_without_cgroups_there_is_nothing_to_tell() -> None:
    it = Shares(None, broken)
    it.walk(SECOND, host(GIB))
    assert it.look(SECOND, []) == ()
