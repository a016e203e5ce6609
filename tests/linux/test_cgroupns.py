"""From within a cgroup namespace: everybody is called as the host calls them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from oomguard.linux import cgroupns, mounts, procfs

BOX = "/machine.slice/libpod-1.scope"


@pytest.fixture(autouse=True)
def _leave() -> Iterator[None]:
    yield
    cgroupns.leave()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The host's whole tree, as a container sees it beside its own part."""
    for path in ("system.slice/ssh.service", "machine.slice/libpod-2.scope", f"{BOX[1:]}/container"):
        (tmp_path / "host" / path).mkdir(parents=True)
    (tmp_path / "host/cgroup.controllers").write_text("cpu memory\n")
    return tmp_path / "host"


@pytest.mark.parametrize(
    ("root", "shown", "real"),
    [
        (BOX, "/", BOX),
        (BOX, "/container", f"{BOX}/container"),
        (BOX, "/../libpod-2.scope", "/machine.slice/libpod-2.scope"),
        (BOX, "/../../system.slice/ssh.service", "/system.slice/ssh.service"),
        (BOX, "/../..", "/"),
        (BOX, "/..x", f"{BOX}/..x"),  # somebody's name
        (BOX, "", ""),  # there is none
        ("/", "/system.slice", "/system.slice"),
    ],
)
def test_what_is_shown_is_led_back(root: str, shown: str, real: str) -> None:
    assert cgroupns.absolute(root, shown) == real


def test_a_tree_that_is_named_may_hold_our_own(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "USUAL", str(tree / BOX[1:]))
    assert mounts.find("/proc", str(tree)) == (str(tree), "v2")
    assert procfs.cgroup_in(b"0::/\n") == BOX
    assert procfs.cgroup_in(b"0::/../../system.slice/ssh.service\n") == "/system.slice/ssh.service"


@pytest.mark.parametrize("own", ["same", "elsewhere"])
def test_the_same_tree_and_another_change_nothing(tree: Path, own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree.parent / "elsewhere").mkdir()
    (tree.parent / "same").symlink_to(tree)
    monkeypatch.setattr(mounts, "USUAL", str(tree.parent / own))
    mounts.find("/proc", str(tree))
    assert procfs.cgroup_in is procfs.parse_cgroup


def test_on_another_file_system_is_a_copy(tree: Path) -> None:
    assert cgroupns.root_in(str(tree), "/proc") is None
