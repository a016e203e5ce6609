"""Which files are read, in which order, and which are not to be trusted."""

import os
from pathlib import Path

import pytest

from oomguard.policy import Fault, PolicyError, files, load

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root distrusts files: run as root")


def fault_of(path: Path) -> Fault:
    found = files.read(path)
    assert isinstance(found, Fault)
    assert found.file == str(path)
    return found


def test_conf_d_beside_the_file_is_read_after_it_and_by_name(tmp_path: Path) -> None:
    beside = tmp_path / "conf.d"
    beside.mkdir()
    for name in ("20-b.toml", "10-a.toml", "9.toml", ".10-a.toml.swp", ".hidden.toml", "README", "x.toml~"):
        (beside / name).touch()
    config = tmp_path / "oomguard.toml"
    assert files.find(config) == (config, beside / "10-a.toml", beside / "20-b.toml", beside / "9.toml")


def test_without_conf_d_there_is_the_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert files.find(Path("a.toml")) == (tmp_path / "a.toml",), "absolute: a reload may run elsewhere"


def test_a_missing_file_is_a_fault(tmp_path: Path) -> None:
    assert fault_of(tmp_path / "none.toml").message == "there is no such file"


@pytest.mark.parametrize("kind", ["directory", "fifo", "device", "loop"])
def test_what_is_no_file_is_a_fault_and_holds_up_nobody(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    match kind:
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/zero")
        case _:
            path.symlink_to(path)
    assert fault_of(path).line == 1


def test_a_file_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(b"#" * (1 << 20))
    assert not isinstance(files.read(path), Fault)
    path.write_bytes(b"#" * ((1 << 20) + 1))
    assert fault_of(path).message == "more than 1 MiB: this is no policy"


# The words between are tomli's, and may change with it.
@pytest.mark.parametrize(
    ("content", "line", "message", "hint"),
    [
        (b"a = 1\nb = '\xff'\n", 2, "byte 0xff is not UTF-8", "save the file as UTF-8"),
        (b"a = 1\nb = /\n", 2, "not TOML: ", 'text stands in quotes ("85%"), true and false are lower case'),
        (b"a = 1\r\nb = 2\r\nb = 3\r\n", 3, "not TOML: ", "every key and every table may stand once in a file"),
        (b"[a]\nb = 1\n[c]\n[a]\n", 4, "not TOML: ", "every key and every table may stand once in a file"),
        (b"\n\n[policy.host\ncgroup = '/'", 3, "not TOML: ", ""),
        (b"a = [1,\n2,\n", 2, "not TOML: ", "a bracket or a quote is not closed"),
        (b"a = '''\n\n\n", 3, "not TOML: ", "a bracket or a quote is not closed"),
        (b"a = 1\nb = " + b"9" * 5000, 2, "a number has too many digits", ""),
        (b"a = " + b"[" * 100_000, 1, "arrays or tables are nested too deeply", "no policy needs more than six levels"),
        (b"a = 1\nb = '\x00'", 2, "not TOML: ", ""),
    ],
)
def test_what_is_no_toml(content: bytes, line: int, message: str, hint: str, tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(content)
    fault = fault_of(path)
    assert (fault.line, fault.hint) == (line, hint)
    assert fault.message.startswith(message)


def test_a_byte_order_mark_and_foreign_line_ends_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(b"\xef\xbb\xbf# x\r\n[policy.host]\r\ncgroup = 3\r\n")
    source = files.read(path)
    assert isinstance(source, files.Source)
    assert source.lines.of(("policy", "host", "cgroup")) == 3


@ROOT_ONLY
class TestRootTrusts:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "a.toml"
        path.write_text("")
        return path

    @pytest.mark.parametrize("mode", [0o600, 0o644, 0o664])  # group root is nobody else
    def test_its_own_files(self, path: Path, mode: int) -> None:
        path.chmod(mode)
        assert not isinstance(files.read(path), Fault)

    def test_no_file_of_somebody_else(self, path: Path) -> None:
        os.chown(path, 1000, 0)
        fault = fault_of(path)
        assert fault.message == "belongs to uid 1000, not to root"
        assert fault.hint == f"chown root:root {path}"

    def test_no_link_to_a_file_of_somebody_else(self, path: Path) -> None:
        os.chown(path, 1000, 0)
        link = path.with_name("link.toml")
        link.symlink_to(path)
        assert fault_of(link).message == "belongs to uid 1000, not to root"

    def test_no_file_that_anybody_may_write(self, path: Path) -> None:
        path.chmod(0o646)
        fault = fault_of(path)
        assert fault.message == "others than root may write to it (mode 0646)"
        assert fault.hint == f"chmod go-w {path}"

    def test_no_file_that_a_group_may_write(self, path: Path) -> None:
        path.chmod(0o664)
        os.chown(path, 0, 1000)
        assert "mode 0664" in fault_of(path).message

    def test_and_says_so_for_each_file_at_once(self, path: Path) -> None:
        path.chmod(0o666)
        (path.parent / "conf.d").mkdir()
        other = path.parent / "conf.d/x.toml"
        other.write_text("")
        os.chown(other, 1000, 1000)
        with pytest.raises(PolicyError) as caught:
            load(files.find(path))
        assert [fault.file for fault in caught.value.faults] == [str(path), str(other)]


class TestWhereTheDaemonRuns:
    """For commands that only look: a policy that is wrong must not hide a daemon that runs."""

    def test_as_the_last_file_says(self, tmp_path: Path) -> None:
        config = tmp_path / "a.toml"
        config.write_text('[daemon]\nruntime_dir = "/run/a"')
        (tmp_path / "conf.d").mkdir()
        (tmp_path / "conf.d/b.toml").write_text('[daemon]\nruntime_dir = "/run/b"\n[policy]\nwrong = 3')
        assert files.runtime_dir(config) == "/run/b"

    @pytest.mark.parametrize(
        "text", ["", "[daemon", "daemon = 3", "[daemon]\nruntime_dir = 3", "[daemon]\nruntime_dir='x'"]
    )
    def test_as_by_default(self, text: str, tmp_path: Path) -> None:
        config = tmp_path / "a.toml"
        config.write_text(text)
        assert files.runtime_dir(config) == "/run/oomguard"
        assert files.runtime_dir(tmp_path / "none.toml") == "/run/oomguard"
