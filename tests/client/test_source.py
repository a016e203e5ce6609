"""Where a program is to listen, and every way in which the environment can be wrong."""

from __future__ import annotations

import base64
import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oomguard.client import BadArgument, BadEnvironment, Disabled, NotSupported, PressureError
from oomguard.client import source as places

WATCH, WRITE = places.WATCH, places.WRITE


def number(error: pytest.ExceptionInfo[PressureError]) -> str:
    assert error.value.errno is not None
    return "EOPNOTSUPP" if error.value.errno == errno.EOPNOTSUPP else errno.errorcode[error.value.errno]


@pytest.mark.parametrize("path", ["", "/dev/null", "//dev//null", "/dev/./null"])
def test_the_environment_may_switch_it_off(path: str) -> None:
    with pytest.raises(Disabled) as error:
        places.find({WATCH: path})
    assert number(error) == "EHOSTDOWN"


@pytest.mark.parametrize("path", ["x", "run/x.sock", "./x", "/run/../x", "/run/./x", "/run//x", "/", "//", "/a\0b"])
def test_a_path_must_be_absolute_and_plain(path: str) -> None:
    with pytest.raises(BadEnvironment) as error:
        places.find({WATCH: path})
    assert number(error) == "EBADMSG"
    assert error.value.filename == path


@pytest.mark.parametrize("text", ["?", "a", "c29tZQ", "c29tZSAyMDAwMDAgMjAwMDAwMAA=x", "ä", "====", "YQ==YQ=="])
def test_what_is_to_be_written_must_be_base64(text: str) -> None:
    with pytest.raises(BadEnvironment) as error:
        places.find({WATCH: "/run/x", WRITE: text})
    assert number(error) == "EILSEQ"


def test_what_systemd_says() -> None:
    """The very words of systemd 257 in a service."""
    path = "/sys/fs/cgroup/system.slice/web.service/memory.pressure"
    found = places.find({WATCH: path, WRITE: "c29tZSAyMDAwMDAgMjAwMDAwMAA="})
    assert (found.path, found.write, found.fixed) == (path, b"some 200000 2000000\0", True)
    assert found.write == places.parameters(places.TYPE, places.THRESHOLD_US, places.WINDOW_US)


def test_what_is_written_without_what_is_watched_means_nothing() -> None:
    assert not places.find({WRITE: "?"}, proc="/proc").fixed


@given(st.binary(max_size=400), st.text("\n\t ", max_size=3))
def test_any_bytes_may_be_written(data: bytes, space: str) -> None:
    text = base64.b64encode(data).decode()
    half = len(text) // 2
    assert places.decoded(text[:half] + space + text[half:]) == data


@given(st.text(max_size=60), st.none() | st.text(max_size=60))
def test_any_environment_is_understood_or_refused_with_an_errno(path: str, write: str | None) -> None:
    try:
        found = places.find({WATCH: path} | ({} if write is None else {WRITE: write}))
    except PressureError as refused:
        if refused.errno not in (errno.EHOSTDOWN, errno.EBADMSG, errno.EILSEQ):
            raise
        return
    assert found.path == path
    assert found.fixed
    assert path.startswith("/")
    assert os.path.normpath(path) in (path, path.rstrip("/"))


@given(st.lists(st.sampled_from(["a", "b.sock", "..", ".", "", "dev", "null"]), min_size=1, max_size=5))
def test_no_path_goes_up(parts: list[str]) -> None:
    path = "/" + "/".join(parts)
    try:
        found = places.find({WATCH: path})
    except PressureError:
        return
    assert not {"..", "."} & set(found.path.split("/"))


def tree(path: Path, cgroup: str = "0::/work.slice/web.service\n", mounts: str = "") -> tuple[str, str]:
    """A /proc and a cgroup tree; what the mounts say of the latter is the test's."""
    (path / "proc/self").mkdir(parents=True)
    (path / "proc/pressure").mkdir()
    (path / "proc/pressure/memory").touch()
    (path / "proc/self/cgroup").write_text(cgroup)
    (path / "proc/self/mountinfo").write_text(mounts)
    (path / "cgroup").mkdir()
    return str(path / "proc"), str(path / "cgroup")


def mount(path: Path, kind: str) -> str:
    device = path.stat().st_dev
    return f"36 35 {os.major(device)}:{os.minor(device)} / {path} rw shared:9 - {kind} none rw\n"


def test_without_environment_the_own_cgroup_then_the_machine(tmp_path: Path) -> None:
    proc, cgroup = tree(tmp_path, mounts=mount(tmp_path, "cgroup2"))
    found = places.find({}, proc, cgroup)
    assert found.path == f"{cgroup}/work.slice/web.service/memory.pressure"
    assert found.fallback == f"{proc}/pressure/memory"
    assert (found.write, found.fixed) == (b"some 200000 2000000\0", False)


@pytest.mark.parametrize("kind", ["tmpfs", "cgroup"])
def test_on_a_hybrid_or_an_old_machine_the_machine_alone(tmp_path: Path, kind: str) -> None:
    proc, cgroup = tree(tmp_path, "11:memory:/web\n0::/web\n", mount(tmp_path, kind))
    found = places.find({}, proc, cgroup)
    assert (found.path, found.fallback) == (f"{proc}/pressure/memory", "")


def test_in_the_root_cgroup(tmp_path: Path) -> None:
    proc, cgroup = tree(tmp_path, "0::/\n", mount(tmp_path, "cgroup2"))
    assert places.find({}, proc, cgroup).path == f"{cgroup}/memory.pressure"


def test_a_kernel_without_pressure(tmp_path: Path) -> None:
    with pytest.raises(NotSupported) as error:
        places.find({}, str(tmp_path), str(tmp_path))
    assert number(error) == "EOPNOTSUPP"


@pytest.mark.parametrize(
    ("kind", "stall", "window", "said"),
    [("most", 1, 1, "EINVAL"), ("some", 0, 1, "ERANGE"), ("some", 1, -1, "ERANGE"), ("full", 3, 2, "EINVAL")],
)
def test_wrong_parameters(kind: str, stall: int, window: int, said: str) -> None:
    with pytest.raises(BadArgument) as error:
        places.parameters(kind, stall, window)
    assert number(error) == said
    assert isinstance(error.value, ValueError)


def test_what_may_be_listened_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").touch()
    found = {}
    for name in ("fifo", "file", "."):
        fd = os.open(tmp_path / name, os.O_PATH)
        try:
            found[name] = places.kind_of(name, fd)
        except BadEnvironment as error:
            found[name] = errno.errorcode[error.errno or 0]
        finally:
            os.close(fd)
    assert found == {"fifo": "fifo", "file": "ENOTTY", ".": "EISDIR"}
    fd = os.open("/proc/meminfo", os.O_PATH)
    assert places.kind_of("/proc/meminfo", fd) == "pressure"
    os.close(fd)


def test_a_symbolic_link_is_followed_and_a_disk_is_nothing(tmp_path: Path) -> None:
    fd = os.open("/dev/null", os.O_PATH)
    assert places.kind_of("/dev/null", fd) == "fifo", "a character device is read from, as by systemd"
    os.close(fd)


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a device")
def test_a_block_device_is_refused(tmp_path: Path) -> None:
    try:
        os.mknod(tmp_path / "disk", 0o600 | 0o060000, os.makedev(7, 200))
    except PermissionError as error:
        pytest.skip(f"no device can be made here: {error}")
    fd = os.open(tmp_path / "disk", os.O_PATH)
    with pytest.raises(BadEnvironment) as error_:
        places.kind_of("disk", fd)
    os.close(fd)
    assert number(error_) == "EBADF"
