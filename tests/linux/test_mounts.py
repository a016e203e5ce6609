"""Where cgroups are mounted: by mountinfo as kernels write it, by trees that somebody names, and on this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from oomguard.linux import cgroup1, cgroup2, mounts

from .trees import FakeTree1, plant

LINE = "35 31 0:32 / {point} rw,nosuid,relatime shared:12 - {kind} {kind} {options}"


def mountinfo(proc: Path, *lines: str) -> str:
    plant(proc, {"self/mountinfo": "".join(f"{line}\n" for line in lines).encode()})
    return str(proc)


def line(point: Path | str, kind: str, options: str) -> str:
    return LINE.format(point=str(point).replace(" ", "\\040"), kind=kind, options=options)


def test_v2(tmp_path: Path) -> None:
    root = plant(tmp_path / "sys fs", {"cgroup.controllers": b"cpuset cpu io memory pids\n"})
    proc = mountinfo(tmp_path, "22 1 0:5 / /proc rw - proc proc rw", "odd", line(root, "cgroup2", "rw,nsdelegate"))
    assert mounts.find(proc) == (str(root), "v2")
    assert cgroup2.kind(str(root)) is cgroup2.Cgroup


@pytest.mark.parametrize(
    ("unified", "controllers", "flavour"),
    [(True, "rw,memory", "hybrid"), (False, "rw,cpu,memory", "v1"), (True, "rw,memory_of_cpu", "none")],
)
def test_machines_without_it(tmp_path: Path, unified: bool, controllers: str, flavour: str) -> None:
    plant(tmp_path / "u", {"cgroup.controllers": b"cpu pids\n"})
    lines = [line(tmp_path / "m", "cgroup", controllers), *([line(tmp_path / "u", "cgroup2", "rw")] if unified else [])]
    proc = mountinfo(tmp_path, *lines)
    memory = None if flavour == "none" else str(tmp_path / "m")
    assert mounts.find(proc) == (memory, flavour)
    if memory is not None:
        assert cgroup2.kind(memory) is cgroup1.Cgroup
        assert cgroup1.Cgroup.pressure_root(memory) == (str(tmp_path / "u") if unified else None)


def test_a_machine_without_any(tmp_path: Path) -> None:
    assert mounts.find(mountinfo(tmp_path)) == (None, "none")


def test_v2_is_taken_where_both_are_mounted_and_it_has_the_memory(tmp_path: Path) -> None:
    plant(tmp_path / "u", {"cgroup.controllers": b"memory\n"})
    old = line(tmp_path / "m", "cgroup", "rw,net_cls")
    assert mounts.find(mountinfo(tmp_path, old, line(tmp_path / "u", "cgroup2", "rw"))) == (str(tmp_path / "u"), "v2")


def test_no_proc_is_broken(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as broken:
        mounts.find(str(tmp_path))
    assert broken.value.filename == f"{tmp_path}/self/mountinfo"


def test_a_tree_that_is_named_is_what_lies_in_it(tmp_path: Path) -> None:
    """--cgroup: a host's roots, mounted elsewhere; of v1 one may name the memory hierarchy or what holds them all."""
    plant(tmp_path / "v2", {"cgroup.controllers": b"cpu memory\n"})
    assert mounts.find(cgroup=str(tmp_path / "v2")) == (str(tmp_path / "v2"), "v2")
    tree = FakeTree1(plant(tmp_path / "v1", {}) / ".")
    for named in (tmp_path / "v1", tmp_path / "v1/memory"):
        assert mounts.find(cgroup=str(named)) == (str(tmp_path / "v1/memory"), "hybrid")
    assert cgroup1.Cgroup.pressure_root(str(tmp_path / "v1/memory")) == str(tmp_path / "v1/unified")
    tree.close()


@pytest.mark.parametrize("length", range(0, 200, 7))
def test_half_a_mountinfo_has_the_whole_lines(length: int) -> None:
    whole = "".join(f"{line(f'/m{number}', 'cgroup', 'rw,memory')}\n" for number in range(3)).encode()
    found = mounts.parse_mountinfo(whole[:length])
    assert found == mounts.parse_mountinfo(whole)[: whole[:length].count(b"\n")]


@pytest.mark.kernel
def test_this_machine_has_a_flavour() -> None:
    mount, flavour = mounts.find("/proc")
    assert flavour in ("v2", "hybrid", "v1", "none")
    assert (flavour == "none") == (mount is None)
    assert mount is None or os.path.isdir(mount)


def test_v1_is_loaded_only_where_it_has_the_memory(tmp_path: Path) -> None:
    """Every module is paid for in each of four processes, all day."""
    plant(tmp_path, {"cgroup.controllers": b"memory\n"})
    text = f"from oomguard.linux import mounts; print(mounts.find(cgroup={str(tmp_path)!r})); import sys; "
    text += "print([name for name in sys.modules if 'cgroup1' in name])"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout == f"({str(tmp_path)!r}, 'v2')\n[]\n"


def test_nobody_else_loads_it() -> None:
    house = Path(mounts.__file__).resolve().parents[1]
    asking = [path for path in sorted(house.rglob("*.py")) if "import cgroup1" in path.read_text()]
    assert asking == [house / "linux" / "mounts.py"]
