"""Hooks by real forks: what they are told, as whom they run, and that none of them outlives its deadline."""

from __future__ import annotations

import errno
import json
import os
import select
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from oomguard.model.codec import pack
from oomguard.model.facts import CgroupFacts, MemInfo, Observation, TargetId
from oomguard.model.incident import Turn
from oomguard.model.policy import Daemon, Guard, Plan
from oomguard.model.ring import Ring
from oomguard.model.verdict import Nominate, Outcome, ProcessRef, Ranking, Run, Snapshot, Victim
from oomguard.workers import runner as module
from oomguard.workers.pool import Mailbox
from oomguard.workers.runner import OUTPUT_MAX, Runner, account

PATIENCE_S = 60.0
PYTHON = shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable  # ours may be in somebody's home
WEB = TargetId("web", "/web")
PLAN = Plan("1", Daemon(), (Guard("web", "/web", origin="a.toml:3"),))
HOST = MemInfo(1 << 30, 1, 2, 3, 4)


class Rig:
    """A runner in this very process, and the ring that it follows."""

    def __init__(self, tmp_path: Path) -> None:
        self.ring = Ring.create(1 << 20)
        self.answers = Mailbox()
        self.path = tmp_path
        self.runner = Runner(self.ring, PLAN, self.answers, str(tmp_path / "journal"))
        self.number = 0

    def turn(self, *actions: object, outcomes: tuple[Outcome, ...] = ()) -> None:
        self.number += 1
        seen = Observation(time.monotonic_ns(), host=HOST, cgroups=(CgroupFacts("/web", 7, 99),))
        assert self.ring.append(pack(Turn(self.number, seen, actions, outcomes)))  # type: ignore[arg-type]
        self.runner.follow()

    def asks(self, text: str, *arguments: str, token: int = 1, deadline_s: float = PATIENCE_S, user: str = "") -> None:
        argv = (PYTHON, "-I", "-S", "-c", text, *arguments)
        self.turn(Run(WEB, token, argv, user, int(deadline_s * 1e9), "hard", "memory is gone"))

    def answer(self) -> tuple[int, int, int]:
        """(token, errno, exit status) of the next hook that ends."""
        end = time.monotonic() + PATIENCE_S
        while True:
            found, _ = self.answers.take()
            if found:
                ((token, what, number, _, value),) = found
                assert what == "Run"
                return token, number, value
            assert time.monotonic() < end, "no end"
            poll = select.poll()
            for hook in self.runner.hooks:
                poll.register(hook.pidfd, select.POLLIN)
                if hook.output >= 0:
                    poll.register(hook.output, select.POLLIN)
            self.runner.look(dict(poll.poll(min(self.runner.timeout_ms(), 1000))))


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """One that hooks may look into, which are somebody else; pytest's own is root's."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.runner.end()


def written(tmp_path: Path, text: str = "") -> tuple[str, Path]:
    """A program that writes what it knows into a file that anybody may write to."""
    path = tmp_path / "out"
    path.touch()
    path.chmod(0o666)
    return f"import json, os, sys; out = open({str(path)!r}, 'w'); {text}", path


def test_it_is_told_everything(rig: Rig, tmp_path: Path) -> None:
    program, path = written(tmp_path, "out.write(sys.stdin.read())")
    victim = Victim(3, "process", "/web", 7, "web.service", (ProcessRef(70, 1, "leak", "/web", 500),), 500, 1)
    rig.turn(Snapshot(WEB, "hard", 1, "it is"), Nominate(WEB, victim, Ranking("memory", "auto", (), ())))
    rig.asks(program, "an argument; $(rm -rf /)")
    assert rig.answer() == (1, 0, 0)
    told = json.loads(path.read_text())
    assert (told["policy"], told["cgroup"], told["watermark"], told["why"]) == ("web", "/web", "hard", "memory is gone")
    assert told["machine"]["total_bytes"] == 1 << 30
    assert told["facts"]["current_bytes"] == 99
    assert told["nominee"]["processes"][0]["comm"] == "leak"
    assert told["origin"] == "a.toml:3"


def test_no_shell_and_no_environment_of_ours(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    program, path = written(tmp_path, "json.dump([sys.argv[1:], sorted(os.environ), os.getcwd()], out)")
    rig.asks(program, "$HOME; `id`", "*")
    assert rig.answer() == (1, 0, 0)
    arguments, environment, where = json.loads(path.read_text())
    assert arguments == ["$HOME; `id`", "*"]
    assert set(environment) <= {"PATH", "LANG", "LC_CTYPE"}
    assert where == "/"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_it_is_somebody_else_and_not_protected(rig: Rig, tmp_path: Path) -> None:
    text = "json.dump([os.getresuid(), os.getresgid(), os.getgroups(), open('/proc/self/oom_score_adj').read()], out)"
    program, path = written(tmp_path, text)
    rig.asks(program)
    assert rig.answer() == (1, 0, 0)
    uids, gids, groups, adj = json.loads(path.read_text())
    who = account("")
    assert who is not None
    assert uids == [who[0]] * 3
    assert uids[0] != 0
    assert gids == [who[1]] * 3
    assert groups == []
    assert adj.strip() == "0"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_as_a_user_that_is_named_or_not_at_all(rig: Rig, tmp_path: Path) -> None:
    program, path = written(tmp_path, "json.dump(os.getuid(), out)")
    rig.asks(program, user="daemon")
    assert rig.answer() == (1, 0, 0)
    named = account("daemon")
    assert named is not None
    assert json.loads(path.read_text()) == named[0]
    rig.asks(program, user="no-such-user", token=2)
    assert rig.answer() == (2, errno.EINVAL, 0)


def test_it_takes_too_long_and_ends_with_all_that_it_has_started(rig: Rig, tmp_path: Path) -> None:
    program, path = written(tmp_path, "pid = os.fork(); (pid and (out.write(str(pid)), out.flush())); "
                                      "import time; time.sleep(3600)")  # fmt: skip
    rig.asks(program, deadline_s=3)
    token, number, value = rig.answer()
    assert (token, number, value) == (1, errno.ETIMEDOUT, -9)
    child = path.read_text()
    if child:  # it had come so far
        deadline = time.monotonic() + PATIENCE_S
        while os.path.exists(f"/proc/{child}") and "Z" not in Path(f"/proc/{child}/stat").read_text():
            assert time.monotonic() < deadline, "it outlives its parent"


def test_what_it_writes_is_told_and_bounded(rig: Rig, capfd: pytest.CaptureFixture[str]) -> None:
    rig.asks("print('x' * 1000000); import sys; sys.exit(3)")
    assert rig.answer() == (1, errno.ECHILD, 3)
    said = capfd.readouterr().err
    assert "ended with 3: xxx" in said
    assert said.count("x") < OUTPUT_MAX + 100


def test_a_program_that_is_not_there(rig: Rig, capfd: pytest.CaptureFixture[str]) -> None:
    rig.turn(Run(WEB, 1, ("/no/such/program",), "", 10**10, "soft", ""))
    assert rig.answer() == (1, errno.ECHILD, module.CANNOT)
    assert "/no/such/program: No such file or directory" in capfd.readouterr().err


def test_one_of_each_at_a_time(rig: Rig) -> None:
    rig.asks("import time; time.sleep(3600)", token=1)
    rig.asks("import time; time.sleep(3600)", token=2)
    assert rig.answer() == (2, errno.EBUSY, 0)


def test_what_was_held_is_not_run(rig: Rig, tmp_path: Path) -> None:
    program, path = written(tmp_path, "out.write('run')")
    action = Run(WEB, 1, (PYTHON, "-c", program), "", 10**10, "hard", "")
    rig.turn(action, outcomes=(Outcome("Run", 1, 0, 5, held=True),))
    assert rig.runner.hooks == []
    assert path.read_text() == ""


def test_no_descriptor_stays_open(rig: Rig) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for token in range(5):
        rig.asks("pass", token=token)
        rig.answer()
    assert len(os.listdir("/proc/self/fd")) == before
