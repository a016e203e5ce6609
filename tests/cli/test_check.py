"""``oomguard check``: for people and for programs, and the exit codes that scripts rely upon."""

import errno
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from oomguard.cli import check
from oomguard.policy import files

from .command import HOST, oomguard
from .tree import Tree

Capsys = pytest.CaptureFixture[str]


def test_a_right_policy(config: Path) -> None:
    answer = oomguard("check", "--config", config)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out == f"policy host: enforce on / ({config}:2)\n{config}: fine\n"


def test_a_right_policy_for_programs(config: Path) -> None:
    answer = oomguard("check", "--config", config, "--json")
    assert answer.code == 0
    assert answer.json == {
        "ok": True,
        "files": [str(config)],
        "faults": [],
        "warnings": [],
        "policies": [{"name": "host", "cgroup": "/", "mode": "enforce", "origin": f"{config}:2"}],
    }


def test_a_wrong_policy(config: Path) -> None:
    config.write_text(HOST.replace('"12%"', "0.12").replace("kill", "kil"))
    answer = oomguard("check", "--config", config)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == (
        f"{config}:4: policy.host.soft.when[0].available_below: 0.12 is neither a share nor a size\n"
        '    hint: did you mean "0.12%" or "12%"?\n'
        f"{config}:5: policy.host.hard.do[0]: unknown action 'kil'\n"
        "    hint: did you mean kill?\n"
        "oomguard: the policy has 2 faults\n"
    )


def test_a_wrong_policy_for_programs(config: Path) -> None:
    config.write_text(HOST + 'mode = "off"\nbrake = 1\n')
    answer = oomguard("check", "--config", config, "--json")
    assert answer.code == 2
    assert answer.json["ok"] is False
    assert answer.json["policies"] == answer.json["warnings"] == []
    assert answer.json["faults"] == [
        {
            "file": str(config),
            "line": 7,
            "key": "policy.host.mode",
            "message": "unknown value 'off'",
            "hint": "there are enforce, observe",
        },
        {
            "file": str(config),
            "line": 8,
            "key": "policy.host.brake",
            "message": "1 is neither true nor false",
            "hint": "without quotes",
        },
    ]


def test_warnings_keep_nothing_from_running_unless_asked(config: Path) -> None:
    config.write_text(HOST.replace('{ comm = "sshd*" }', ""))
    answer = oomguard("check", "--config", config)
    assert answer.code == 0
    assert f"{config}:6: policy.host.victim.never: warning: any process of the machine may be killed" in answer.out
    assert answer.out.endswith("fine, 1 warning\n")
    strict = oomguard("check", "--config", config, "--strict", "--json")
    assert strict.code == 1
    assert strict.json["ok"] is True
    assert [warning["key"] for warning in strict.json["warnings"]] == ["policy.host.victim.never"]


def test_conf_d_beside_the_file_is_part_of_it(config: Path) -> None:
    (config.parent / "conf.d").mkdir()
    (config.parent / "conf.d/local.toml").write_text('[policy.host]\nmode = "observe"\n')
    answer = oomguard("check", "--config", config, "--json")
    assert [policy["mode"] for policy in answer.json["policies"]] == ["observe"]
    assert answer.json["files"] == [str(config), str(config.parent / "conf.d/local.toml")]


def test_a_relative_path_is_fine(config: Path) -> None:
    assert oomguard("check", "--config", config.name, cwd=config.parent).code == 0


@pytest.mark.parametrize(
    "name", ["none.toml", ".", "a\nb\x1b[2J.toml", os.fsdecode(b"\xff.toml"), "[bold]x[/bold].toml"]
)
def test_no_such_file(name: str, tmp_path: Path) -> None:
    answer = oomguard("check", "--config", tmp_path / name)
    assert answer.code == 2
    assert "\x1b" not in answer.err
    assert answer.err.count("\n") == 2, "one fault, and how many there are"
    assert oomguard("check", "--config", tmp_path / name, "--json").json["faults"][0]["line"] == 1


def test_hostile_names_move_no_cursor(config: Path) -> None:
    config.write_text('[policy."\\u001b[2J\\n[red]"]\n"\\u009b" = 1\n')
    answer = oomguard("check", "--config", config)
    assert answer.code == 2
    assert "\x1b" not in answer.err
    assert "\x9b" not in answer.err
    assert "'\\x1b[2J\\n[red]' is not a name" in answer.err


def test_a_terminal_that_knows_ascii_only(tmp_path: Path) -> None:
    config = tmp_path / "größe.toml"
    config.write_text(HOST)
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
    answer = oomguard("check", "--config", config, env=ascii_only)
    assert answer.code == 0
    assert answer.out.isascii()


def test_a_reader_that_does_not_read_to_the_end(config: Path) -> None:
    config.write_text("".join(HOST.replace("host", f"p{number}") for number in range(100)))
    words = [sys.executable, "-m", "oomguard", "check", "--json", "--config", str(config)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as check:
        assert check.stdout
        assert check.stderr
        check.stdout.close()
        assert check.stderr.read() == b""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root distrusts files: run as root")
def test_root_does_not_obey_a_file_that_others_may_write(config: Path) -> None:
    config.chmod(0o666)
    answer = oomguard("check", "--config", config)
    assert answer.code == 2
    assert f"hint: chmod go-w {config}" in answer.err


@pytest.mark.parametrize("words", [("--nope",), ("--config",), ("one", "two"), ("--config", ""), ("--json=3",)])
def test_used_wrongly(words: tuple[str, ...]) -> None:
    assert oomguard("check", *words).code == 2


def test_against_another_machine(config: Path, tmp_path: Path) -> None:
    tree = Tree(tmp_path / "machine", swap_mib=0)
    config.write_text(HOST.replace('{ available_below = "5%" }', '{ available_below = "5%" }, { swap_above = "9%" }'))
    answer = oomguard("check", "--config", config, "--against", tree.root)
    assert answer.code == 0
    assert (
        f"{config}:5: policy.host.hard.when[1]: warning: can never hold on this machine: it has no swap\n" in answer.out
    )
    tree.memory(900, swap_mib=512)
    assert oomguard("check", "--config", config, "--against", tree.root).out.count("warning") == 0


def test_against_what_is_no_machine(config: Path, tmp_path: Path) -> None:
    answer = oomguard("check", "--config", config, "--against", tmp_path)
    assert (answer.code, answer.out) == (2, "")
    assert (
        answer.err == f"oomguard: {tmp_path}/proc/meminfo is not there: copy proc and sys/fs/cgroup of that machine\n"
    )


def test_a_kernel_that_can_do_nothing_of_it(config: Path, tmp_path: Path) -> None:
    tree = Tree(tmp_path / "machine")
    (tree.cgroup / "cgroup.controllers").unlink()
    config.write_text(HOST.replace('cgroup = "/"', 'cgroup = "/system.slice/web.service"'))
    assert oomguard("check", "--config", config, "--against", tree.root).code == 4


def test_a_file_that_may_not_be_read(config: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capsys) -> None:
    """In this process: there is no file that root may not read."""

    def refuse(path: Path) -> bytes:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(files, "_trusted_bytes", refuse)
    with pytest.raises(SystemExit) as end:
        check.check(config)
    assert end.value.code == 3
    assert f"{config}:1: cannot be read: Permission denied\n    hint: ask as root\n" in capsys.readouterr().err


def test_colors_are_for_terminals(config: Path) -> None:
    config.write_text(HOST.replace('{ comm = "sshd*" }', ""))
    words = [sys.executable, "-m", "oomguard", "check", "--config", str(config)]
    ours, theirs = pty.openpty()
    done = subprocess.run(words, stdout=theirs, check=False, env={**os.environ, "TERM": "xterm", "NO_COLOR": ""})
    shown = os.read(ours, 65536)
    assert done.returncode == 0
    assert b"\x1b[33mwarning: \x1b[0m" in shown
    subprocess.run(words, stdout=theirs, check=False, env={**os.environ, "TERM": "xterm", "NO_COLOR": "1"})
    assert b"\x1b[" not in os.read(ours, 65536)
    os.close(ours)
    os.close(theirs)
    assert "\x1b[" not in oomguard("check", "--config", config).out


def test_an_interrupt_is_no_traceback(tmp_path: Path) -> None:
    config = tmp_path / "p.toml"
    config.write_text(HOST)
    tree = Tree(tmp_path / "machine")
    (tree.proc / "meminfo").unlink()
    os.mkfifo(tree.proc / "meminfo")
    words = [sys.executable, "-m", "oomguard", "explain", "/", "--config", str(config), *tree.options]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=_heed) as process:  # noqa: PLW1509
        end = time.monotonic() + 60
        while (writer := _writer(tree.proc / "meminfo")) < 0:  # from there on it stands in the middle of its work
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        os.close(writer)
    assert (process.returncode, out, err) == (130, b"", b"")


def _heed() -> None:
    """What runs in the background of a shell is born deaf to interrupts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _writer(fifo: Path) -> int:
    """-1: nobody reads it yet."""
    try:
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return -1
