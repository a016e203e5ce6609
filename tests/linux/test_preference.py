"""What an owner asks for by xattr, what protects a cgroup, and who a process belongs to: a fake tree and the kernel."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from oomguard.linux import procfs
from oomguard.linux.cgroup2 import Cgroup, owner, xattr

from .trees import FakeTree, KernelTree

NOBODY = 65_534


def preference(tree: FakeTree | KernelTree, path: str, guard_uid: int = 0) -> str:
    group = Cgroup.open(tree.root, tree.prefix + path)
    assert group is not None
    try:
        return group.preference(guard_uid)
    finally:
        group.close()


def ask(tree: FakeTree | KernelTree, path: str, name: str, value: bytes = b"1") -> None:
    try:
        os.setxattr(tree.at(path), name, value)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EPERM):
            pytest.skip(f"no {name} can be set here: {error.strerror}")
        raise


@pytest.mark.parametrize(
    ("value", "text"), [(b"batch", "batch"), (b"batch\n\0", "batch"), (b"", ""), (b"\xff", "\udcff")]
)
def test_any_attribute_as_text(fake: FakeTree, value: bytes, text: str) -> None:
    fake.make("/a")
    assert xattr(fake.root, f"{fake.prefix}/a", "user.tier") is None
    ask(fake, "/a", "user.tier", value)
    assert xattr(fake.root, f"{fake.prefix}/a", "user.tier") == text
    assert xattr(fake.root, f"{fake.prefix}/gone", "user.tier") is None
    assert xattr(fake.root, f"{fake.prefix}/a", "nonsense") is None


@pytest.fixture
def fake(tmp_path: Path) -> FakeTree:
    return FakeTree(tmp_path)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], ""),
        (["user.oomd_avoid"], "avoid"),
        (["user.oomd_prefer"], "prefer"),
        (["user.oomd_omit"], "omit"),
        (["user.oomd_prefer", "user.oomd_avoid"], "avoid"),
        (["user.oomd_prefer", "user.oomd_omit", "user.oomd_avoid"], "omit"),
        (["user.comment"], ""),
    ],
)
def test_what_is_asked(fake: FakeTree, names: list[str], expected: str) -> None:
    fake.make("/a")
    for name in names:
        ask(fake, "/a", name)
    assert preference(fake, "/a") == expected


def test_zero_is_no(fake: FakeTree) -> None:
    fake.make("/a")
    ask(fake, "/a", "user.oomd_omit", b"0")
    assert preference(fake, "/a") == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_users_word_counts_where_the_guards_cgroup_is_his(fake: FakeTree) -> None:
    """systemd-oomd's rule: of root's cgroups always, of others below a cgroup of the same owner."""
    fake.make("/a")
    ask(fake, "/a", "user.oomd_omit")
    os.chown(fake.at("/a"), NOBODY, NOBODY)
    assert preference(fake, "/a", 0) == ""
    assert preference(fake, "/a", 1000) == ""
    assert preference(fake, "/a", NOBODY) == "omit"
    assert owner(fake.root, fake.prefix + "/a") == NOBODY
    assert owner(fake.root, fake.prefix + "/gone") == 0


@pytest.mark.kernel
def test_of_the_kernels_cgroups(real_tree: KernelTree, no_leak: None) -> None:
    real_tree.make("/a")
    assert preference(real_tree, "/a") == ""
    ask(real_tree, "/a", "user.oomd_avoid")
    assert preference(real_tree, "/a") == "avoid"


def test_what_protects(fake: FakeTree, no_leak: None) -> None:
    fake.make("/a")
    (fake.at("/a") / "memory.min").write_text("4096\n")
    (fake.at("/a") / "memory.low").write_text("max\n")
    group = Cgroup.open(fake.root, fake.prefix + "/a")
    assert group is not None
    facts = group.weighed(0, stat=True)
    assert facts is not None
    assert (facts.min_bytes, facts.preference, facts.pressure, facts.refaults) == (4096, "", None, None)
    facts = group.weighed(0, stat=True, pressure=True, refaults=True)
    assert facts is not None
    assert facts.pressure is not None
    assert facts.refaults is not None
    assert facts.low_bytes >= 1 << 60, "max is all there is"
    group.close()


@pytest.mark.kernel
def test_group_session_and_file_of_a_process(python: Callable[[str], subprocess.Popen[str]]) -> None:
    child = python("os.setsid()\nready()\nsys.stdin.readline()\n")
    proc_fd = procfs.open_proc()
    try:
        one = procfs.read_process(proc_fd, child.pid, groups=True, exe=True)
        assert one is not None
        assert (one.pgid, one.sid) == (child.pid, child.pid)
        assert one.exe == os.readlink(f"/proc/{child.pid}/exe")
        bare = procfs.read_process(proc_fd, child.pid)
        assert bare is not None
        assert (bare.pgid, bare.sid, bare.exe) == (0, 0, None)
    finally:
        os.close(proc_fd)


def test_groups_behind_a_hostile_name() -> None:
    assert procfs.parse_groups(b"7 (a) b) (c 1 2) S 1 50 41 0 -1 4194560 1 0") == (50, 41)


SEEN = """\
import os, sys
from oomguard.linux import libc
os.setxattr(sys.argv[1], "trusted.oomd_avoid", b"1")
before = os.listxattr(sys.argv[1])
libc.lay_down(libc.CAP_SYS_ADMIN)
print("trusted.oomd_avoid" in before, "trusted.oomd_avoid" in os.listxattr(sys.argv[1]))
"""


@pytest.mark.kernel
def test_who_lays_the_right_down_sees_nothing_that_only_root_may_set(tmp_path: Path) -> None:
    if "CAP_SYS_ADMIN" not in procfs.capabilities():
        pytest.skip("needs CAP_SYS_ADMIN")
    done = subprocess.run([sys.executable, "-c", SEEN, tmp_path], capture_output=True, text=True, check=False)
    if "Operation not supported" in done.stderr:
        pytest.skip("no trusted.* can be set here")
    assert done.stdout == "True False\n", done.stderr
