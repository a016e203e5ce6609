"""``oomguard drill`` as a black box: what it refuses and how that is mended, and that nothing of it is ever left."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oomguard import policy
from oomguard.cli import hierarchies, scratch
from oomguard.cli.scratch import ALONE
from oomguard.model import codec, kept
from oomguard.model.statuspage import GuardLine, Numbers
from tests import pages
from tests.incidents import judged

from .command import HOST, Answer, oomguard
from .test_status import core

__all__ = ["core"]
MOUNTS = hierarchies.find()
PATIENCE_S = 60.0
pytestmark = [
    pytest.mark.kernel,
    pytest.mark.usefixtures("the_only_drill"),
    pytest.mark.skipif(
        MOUNTS.memory is None or not os.access(MOUNTS.memory, os.W_OK),
        reason="no memory controller that we may write to",
    ),
]
LATE = """
[policy.late]
cgroup = "/x"
hard = { when = [{ memory_above = "99.9%" }], do = ["kill"] }
"""


def in_force(directory: Path, pid: int, text: str, phase: str = "calm") -> None:
    """A daemon that runs, as a drill sees it from outside: its page and its plan."""
    config = directory / "oomguard.toml"
    config.write_text(text)
    plan = json.dumps(codec.to_plain(policy.load((config,)))).encode()
    (directory / kept.NAME).write_bytes(kept.wrapped("", plan))
    pages.publish(directory, Numbers(pid=pid, armed=1), [GuardLine("host", "/", "enforce", phase, 1, 5 << 20, 9 << 20)])


def drill(directory: Path, *words: str) -> Answer:
    return oomguard("drill", "--runtime-dir", directory, *words)


def nothing_is_left() -> bool:
    """No cgroup, no hog, no directory of a daemon's own."""
    assert MOUNTS.memory is not None
    cgroups = [*Path(MOUNTS.memory).glob("oomguard-drill*")]
    comms = [path for path in Path("/proc").glob("[0-9]*/comm") if _text(path) == f"{scratch.COMM}\n"]
    return cgroups == [] and comms == [] and [*Path("/run").glob("oomguard-drill-*")] == []


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def until(true: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.01)


# ----------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--alone", "--policy", "x.toml"), "leave out one of --alone and --policy"),
        (("--state-dir", "x"), "--state-dir is for a daemon of its own"),
        (("--alone", "--limit", "5"), "--limit 5: from 1MiB to 1TiB"),
        (("--alone", "--rate", "fast"), "--rate: 'fast' is not a size"),
    ],
)
def test_used_wrongly(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    answer = drill(tmp_path, *words)
    assert answer.code == 2
    assert said in answer.err


def test_where_no_daemon_runs(tmp_path: Path) -> None:
    answer = drill(tmp_path)
    assert answer.code == 1
    assert "oomguard is not running" in answer.err
    assert "oomguard drill --alone" in answer.err


def test_a_policy_that_covers_no_scratch_cgroup_and_what_mends_it(tmp_path: Path, core: Any) -> None:
    in_force(tmp_path, core.pid, HOST)
    answer = drill(tmp_path)
    assert answer.code == 1
    assert "oomguard drill --print-policy > /etc/oomguard/conf.d/90-drill.toml" in answer.err
    printed = drill(tmp_path, "--print-policy")
    assert printed.code == 0
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/90-drill.toml").write_text(printed.out)
    checked = oomguard("check", "--config", tmp_path / "oomguard.toml", "--json").json
    assert [it["name"] for it in checked["policies"]] == ["host", "drill"]
    assert not [it for it in checked["warnings"] if "matches no cgroup" in it["message"]], "that is so between drills"


def test_a_policy_that_is_not_read_yet(tmp_path: Path, core: Any) -> None:
    """`systemctl reload` comes back before the daemon has compiled."""
    in_force(tmp_path, core.pid, HOST)
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/90-drill.toml").write_text(drill(tmp_path, "--print-policy").out)
    answer = drill(tmp_path, "--config", str(tmp_path / "oomguard.toml"))
    assert answer.code == 1
    assert "which is not in force: systemctl reload oomguard.service" in answer.err


def test_a_guard_that_is_not_there(tmp_path: Path, core: Any) -> None:
    in_force(tmp_path, core.pid, HOST)
    answer = drill(tmp_path, "--guard", "hsot")
    assert (answer.code, answer.err) == (1, "oomguard: there is no policy hsot: there is host\n")
    told = drill(tmp_path, "--guard", "hsot", "--json")
    assert (told.code, told.json) == (
        1,
        {"ok": False, "why": "there is no policy hsot: there is host", "incident": None},
    )


def test_not_while_a_guard_is_armed(tmp_path: Path, core: Any) -> None:
    printed = drill(tmp_path, "--print-policy").out
    in_force(tmp_path, core.pid, HOST + printed, phase="armed")
    answer = drill(tmp_path)
    assert answer.code == 1
    assert "oomguard: policy host is armed: 5 MiB of 9 MiB are in use\n" in answer.err
    assert "--force" in answer.err
    assert nothing_is_left()


def test_not_without_room(tmp_path: Path) -> None:
    answer = drill(tmp_path, "--alone", "--limit", "1TiB")
    assert answer.code == 1
    assert "are available, and " in answer.err
    assert nothing_is_left()


def test_a_wrong_policy(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text('[policy.x]\ncgroop = "/"\n')
    answer = drill(tmp_path, "--policy", str(tmp_path / "p.toml"))
    assert answer.code == 2
    assert f"{tmp_path}/p.toml:2: " in answer.err


def test_a_policy_of_the_machine_cannot_be_tried_on_a_cgroup(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(HOST)
    answer = drill(tmp_path, "--policy", str(tmp_path / "p.toml"))
    assert answer.code == 1
    assert "policy host does not act on the memory of a cgroup alone" in answer.err


# -------------------------------------------------------------------------------------------------- whatever happens


def start(*words: str) -> "subprocess.Popen[bytes]":
    """A drill of its own that has made its cgroup, in a session of its own as by a shell."""
    process = subprocess.Popen(
        [sys.executable, "-m", "oomguard", "drill", "--alone", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    home = Path(f"{MOUNTS.memory}{ALONE}")
    until(lambda: process.poll() is not None or any(home.glob("oomguard-drill-*/")), "there was no cgroup")
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_whatever_ends_it_nothing_is_left(number: signal.Signals, code: int) -> None:
    process = start("--rate", "1MiB")
    os.killpg(process.pid, number)  # as a terminal does: all of them
    _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == code, said
    assert b"Traceback" not in said
    assert nothing_is_left()


def test_one_at_a_time_and_what_a_killed_one_has_left_the_next_one_removes(tmp_path: Path) -> None:
    process = start("--rate", "1MiB")
    try:
        answer = drill(tmp_path, "--alone")
        assert answer.code == 1
        assert f"another drill is under way in {MOUNTS.memory}{ALONE}/oomguard-drill-{process.pid}-" in answer.err
    finally:
        process.kill()
        process.communicate(timeout=PATIENCE_S)
    assert MOUNTS.memory is not None
    (left,) = Path(f"{MOUNTS.memory}{ALONE}").glob("oomguard-drill-*/")
    until(lambda: (left / "cgroup.procs").read_text() == "", "the hog ends with it")
    answer = drill(tmp_path)
    assert f"oomguard: an earlier drill had left {left}: removed\n" in answer.err
    assert not left.exists()
    until(nothing_is_left, "its daemon ends as well")


def test_a_drill_on_this_machine(tmp_path: Path) -> None:
    """To its end. Slowly: on v1 there is no tripwire, and a second lies between the watermark and the limit.

    Nobody is called out of bed for a policy that is only tried.
    """
    tried, called = tmp_path / "tried.toml", tmp_path / "called"
    tried.write_text(f'[sinks.ops]\nrun = ["/usr/bin/touch", "{called}"]\n{drill(tmp_path, "--print-policy").out}')
    words = ("--policy", str(tried), "--rate", "20MiB", "--state-dir", str(tmp_path / "kept"), "--json")
    answer = drill(tmp_path, *words)
    assert not called.exists()
    assert (answer.code, answer.json["why"], answer.json["killed_by"]) == (0, "", "oomguard")
    assert (answer.json["kernel_kills"], answer.json["tripwire"]) == (0, True if MOUNTS.version == 2 else None)
    assert answer.json["crossed_to_signal_ms"] >= 0
    assert answer.json["signal_to_death_ms"] >= 0
    shown = oomguard("incidents", "show", "last", "--state-dir", tmp_path / "kept")
    assert answer.json["story"] in " ".join(shown.out.split())
    assert len(judged.all_again(tmp_path / "kept" / "incidents")) == 1
    assert nothing_is_left()


@pytest.mark.skipif(MOUNTS.version == 2, reason="a tripwire holds the leak under its limit: only v1 can be outrun so")
def test_where_the_kernel_is_first_it_is_said(tmp_path: Path) -> None:
    """A watermark a page under the limit, and as fast as it goes."""
    policy = tmp_path / "late.toml"
    policy.write_text(LATE)
    kept = ("--state-dir", str(tmp_path / "kept"))
    answer = drill(tmp_path, "--policy", str(policy), "--rate", "100GiB", "--limit", "32MiB", *kept)
    assert answer.code == 1
    assert answer.out.endswith("not as it should be: the kernel was first\n")
    judged.all_again(tmp_path / "kept" / "incidents")
    assert nothing_is_left()


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root, and unshare of util-linux")
def test_in_a_container_whose_cgroups_are_read_only(tmp_path: Path) -> None:
    """As docker mounts them. What was begun by then is ended."""
    mount = f"mount --bind {MOUNTS.memory} {MOUNTS.memory} && mount -o remount,ro,bind {MOUNTS.memory} && echo mounted"
    script = f"{mount} && exec {shlex.join([sys.executable, '-m', 'oomguard', 'drill', '--alone'])}"
    answer = Answer(subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, timeout=90, check=False))
    if not answer.out.startswith("mounted\n"):
        pytest.skip(f"no mounts of our own here: {answer.err}")
    assert (answer.code, answer.out) == (3, "mounted\n")
    assert f"oomguard: {MOUNTS.memory}{ALONE}: Read-only file system\n" in answer.err
    assert nothing_is_left()
