"""Pressure files and triggers. What a trigger of the kernel does under real pressure is for the virtual machine."""

from __future__ import annotations

import contextlib
import errno
import os
import select
from pathlib import Path

import pytest

from oomguard.linux import procfs, psi
from oomguard.model.facts import Pressure, Stall

from .trees import KernelTree, plant

PRESSURE = (
    b"some avg10=0.13 avg60=99.83 avg300=100.00 total=8961007\nfull avg10=0.00 avg60=1.00 avg300=0.50 total=18446744\n"
)
VALUE = Pressure(Stall(0.13, 99.83, 100.0, 8961007), Stall(0.0, 1.0, 0.5, 18446744))


def test_a_pressure_file(tmp_path: Path, no_leak: None) -> None:
    plant(tmp_path, {"memory.pressure": PRESSURE})
    file = psi.PressureFile(f"{tmp_path}/memory.pressure")
    assert file.read() == VALUE
    plant(tmp_path, {"memory.pressure": PRESSURE.replace(b"8961007", b"8961008")})
    again = file.read()
    assert again is not None
    assert again.some.total_us == 8961008
    file.close()
    directory = os.open(tmp_path, os.O_PATH)
    relative = psi.PressureFile("memory.pressure", directory)
    assert relative.read() is not None
    relative.close()
    os.close(directory)


def test_no_such_file_is_broken(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as broken:
        psi.PressureFile(f"{tmp_path}/memory")
    assert broken.value.filename == f"{tmp_path}/memory"


@pytest.mark.parametrize(
    ("error", "expected"), [(errno.ENODEV, None), (errno.EOPNOTSUPP, None), (errno.EIO, OSError)], ids=str
)
def test_gone_switched_off_and_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, expected: type | None
) -> None:
    plant(tmp_path, {"memory": PRESSURE})
    file = psi.PressureFile(f"{tmp_path}/memory")

    def refuse(*_: object) -> bytes:
        raise OSError(error, os.strerror(error))

    with monkeypatch.context() as patched:
        patched.setattr(os, "pread", refuse)
        if expected is None:
            assert file.read() is None
        else:
            with pytest.raises(OSError, match="error") as broken:
                file.read()
            assert broken.value.filename == f"{tmp_path}/memory"
    file.close()


@pytest.mark.kernel
def test_the_pressure_of_this_machine() -> None:
    if not os.path.exists("/proc/pressure/memory"):
        pytest.skip("this kernel has no PSI (CONFIG_PSI, or psi=1 on its command line)")
    file = psi.PressureFile("/proc/pressure/memory")
    first, second = file.read(), file.read()
    file.close()
    assert first is not None
    assert second is not None
    assert 0 <= first.some.total_us <= second.some.total_us
    assert 0 <= first.full.avg10 <= 100


def test_a_trigger_is_one_line_that_ends_with_nul(tmp_path: Path, no_leak: None) -> None:
    """/proc/pressure takes the last byte of whatever is written for the end of the line."""
    plant(tmp_path, {"memory": b""})
    fd, stall, window = psi.open_trigger(f"{tmp_path}/memory", "full", 150_000, 1_000_000)
    os.close(fd)
    assert (stall, window) == (150_000, 1_000_000)
    assert (tmp_path / "memory").read_bytes() == b"full 150000 1000000\0"


@pytest.mark.parametrize("error", [errno.EINVAL, errno.EPERM])
@pytest.mark.parametrize(
    ("asked", "in_force"),
    [
        ((150_000, 1_000_000), (300_000, 2_000_000)),
        ((50_000, 500_000), (200_000, 2_000_000)),
        ((1_000_000, 3_000_000), (1_333_333, 4_000_000)),
        ((900_000, 9_000_001), (999_999, 10_000_000)),
    ],
)
def test_without_cap_sys_resource_the_window_is_widened(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: int,
    asked: tuple[int, int],
    in_force: tuple[int, int],
    no_leak: None,
) -> None:
    plant(tmp_path, {"memory": b""})
    write, lines = os.write, []

    def strict(fd: int, data: bytes) -> int:
        lines.append(data)
        if int(data.rstrip(b"\0").split()[2]) % 2_000_000:
            raise OSError(error, os.strerror(error))
        return write(fd, data)

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", strict)
        fd, *got = psi.open_trigger(f"{tmp_path}/memory", "some", *asked)
    os.close(fd)
    assert tuple(got) == in_force
    assert lines == [b"some %d %d\0" % asked, b"some %d %d\0" % in_force]


def test_what_is_refused_with_every_window_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_leak: None
) -> None:
    plant(tmp_path, {"memory": b""})

    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", refuse)
        for window in (1_000_000, 2_000_000):
            with pytest.raises(OSError, match="Invalid") as broken:
                psi.open_trigger(f"{tmp_path}/memory", "some", 1000, window)
            assert broken.value.filename == f"{tmp_path}/memory"
    with pytest.raises(FileNotFoundError):
        psi.open_trigger(f"{tmp_path}/nothing", "some", 1000, 1_000_000)


@pytest.mark.kernel
@pytest.mark.parametrize("line", ["some", "full"])
def test_a_trigger_of_the_kernel(real_tree: KernelTree, line: str, no_leak: None) -> None:
    real_tree.make("/web")
    path = str(real_tree.at("/web") / "memory.pressure")
    if not os.path.exists(path):
        pytest.skip("this kernel has no PSI for cgroups (cgroup_no_v1, psi=0 or cgroup.pressure=0)")
    fd, stall, window = psi.open_trigger(path, line, 150_000, 1_000_000)  # type: ignore[arg-type]
    if "CAP_SYS_RESOURCE" in procfs.capabilities():
        assert (stall, window) == (150_000, 1_000_000)
    else:
        assert (stall, window) == (300_000, 2_000_000)
    with contextlib.closing(select.epoll()) as epoll:
        epoll.register(fd, select.EPOLLPRI)
        assert epoll.poll(0) == []
        real_tree.remove("/web")
        assert epoll.poll(20)[0][1] & select.EPOLLERR, "a removed cgroup does wake those who wait for its pressure"
    os.close(fd)


@pytest.mark.kernel
def test_the_kernel_refuses_a_window_of_a_minute(real_tree: KernelTree, no_leak: None) -> None:
    path = str(real_tree.at("") / "memory.pressure")
    if not os.path.exists(path):
        pytest.skip("this kernel has no PSI for cgroups (cgroup_no_v1, psi=0 or cgroup.pressure=0)")
    with pytest.raises(OSError, match="Invalid") as broken:
        psi.open_trigger(path, "some", 1_000_000, 60_000_000)
    assert (broken.value.errno, broken.value.filename) == (errno.EINVAL, path)
