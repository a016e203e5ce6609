"""``oomguard run`` up to the moment when it is the core: what the core is handed, and that nothing else is left.

The core is replaced by one that says what it was given. The real one has tests of its own.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import oomguard as package
from oomguard.model import codec
from oomguard.model import kept as kept_plan
from oomguard.model.policy import Plan

from .command import HOST, TIMEOUT_S, Answer, oomguard

TELLING_CORE = """\
import errno, json, os, sys
fd = int(sys.argv[sys.argv.index("--plan-fd") + 1])
refused = []
for attempt in (lambda: os.write(fd, b"x"), lambda: os.ftruncate(fd, 0), lambda: os.ftruncate(fd, 1 << 20)):
    try:
        attempt()
    except OSError as error:
        refused.append(errno.errorcode[error.errno])
open_fds = [int(name) for name in os.listdir("/proc/self/fd")]
json.dump({
    "pid": os.getpid(), "argv": sys.argv, "env": dict(os.environ), "refused": refused,
    "name": os.readlink(f"/proc/self/fd/{fd}"), "plan": os.pread(fd, 1 << 24, 0).decode(),
    "offset": os.lseek(fd, 0, os.SEEK_CUR), "fds": [n for n in open_fds if n > 2 and n != fd],
    "flags": [sys.flags.no_site, sys.flags.no_user_site, sys.flags.safe_path, sys.flags.dont_write_bytecode],
    "path": sys.path, "modules": sorted(sys.modules),
}, sys.stdout)
"""


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of the package with the telling core in it."""
    home = Path(package.__file__).parent
    shutil.copytree(home, tmp_path / "house/oomguard", ignore=shutil.ignore_patterns("core", "__pycache__"))
    core = tmp_path / "house/oomguard/core"
    core.mkdir()
    (core / "__main__.py").write_text(TELLING_CORE)
    return tmp_path / "house"


def told(house: Path, *words: str | Path, env: dict[str, str] | None = None, **how: Any) -> Any:
    answer = oomguard("run", *words, env={"PYTHONPATH": str(house), **(env or {})}, cwd=house, **how)
    assert answer.code == 0, answer.err
    return answer.json


def test_the_core_is_the_same_process(house: Path, config: Path) -> None:
    words = [sys.executable, "-m", "oomguard", "run", "--config", str(config)]
    with subprocess.Popen(words, cwd=house, env={"PYTHONPATH": str(house)}, stdout=subprocess.PIPE) as run:
        answer = json.loads(run.communicate(timeout=TIMEOUT_S)[0])
    assert answer["pid"] == run.pid
    assert answer["argv"][0] == str(house / "oomguard/core/__main__.py")


def test_the_plan_can_never_be_changed(house: Path, config: Path) -> None:
    answer = told(house, "--config", config)
    assert answer["refused"] == ["EPERM", "EPERM", "EPERM"]
    assert answer["name"].startswith("/memfd:oomguard-plan")
    assert answer["offset"] == 0
    plan = codec.from_plain(json.loads(answer["plan"]))
    assert isinstance(plan, Plan)
    assert plan.guards[0].name == "host"
    assert plan.files == (str(config),)


def test_the_core_can_find_the_standard_library_alone(house: Path, config: Path) -> None:
    answer = told(house, "--config", config)
    assert answer["flags"] == [1, 1, True, 1]
    assert not [place for place in answer["path"] if "site-packages" in place or str(house) in place]
    assert not [name for name in answer["modules"] if name.startswith(("pydantic", "typer", "tomli", "oomguard"))]


def test_the_environment_is_made_from_nothing(house: Path, config: Path) -> None:
    hostile = {
        "LD_LIBRARY_PATH": "/tmp",
        "MALLOC_ARENA_MAX": "9",
        "PYTHONSTARTUP": "/tmp/x",
        "HOME": "/tmp",
        "FOO": "1",
    }
    systemd = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "3", "WATCHDOG_PID": "1", "INVOCATION_ID": "i"}
    env = told(house, "--config", config, env=hostile | systemd | {"PATH": "/tmp/evil"})["env"]
    assert env.pop("PATH") == "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert env.pop("PYTHONMALLOC") == "malloc"
    assert env.pop("PYTHONUTF8") == "1"
    assert env.pop("LANG") == "C.UTF-8"
    env.pop("LC_CTYPE", None)  # CPython's own, where the locale was C
    assert env == systemd


def test_no_other_descriptor_is_left(house: Path, config: Path) -> None:
    # The one that lists the descriptors is closed by then, but was open while they were listed.
    assert len(told(house, "--config", config)["fds"]) <= 1


def test_the_plan_says_how_to_compile_it_again(house: Path, config: Path) -> None:
    answer = told(house, "--config", "../oomguard.toml", "--observe", "--state-dir", "s")
    plan = codec.from_plain(json.loads(answer["plan"]))
    assert plan.argv == (
        *(sys.executable, "-I", "-m", "oomguard", "compile", "--config", str(config), "--observe"),
        *("--state-dir", str(house / "s")),
    )
    again = subprocess.run(plan.argv, capture_output=True, timeout=TIMEOUT_S, check=True, cwd="/", env={})
    # Another place, another origin: the house is a copy of what ``-I`` finds.
    assert replace(codec.from_plain(json.loads(again.stdout)), made_from="") == replace(plan, made_from="")


def test_a_wrong_policy_does_not_start(house: Path, config: Path) -> None:
    config.write_text(HOST + "x = 1")
    answer = oomguard("run", "--config", config, env={"PYTHONPATH": str(house)}, cwd=house)
    assert (answer.code, answer.out) == (2, "")
    assert f"{config}:7: policy.host.x: unknown key 'x'" in answer.err


def test_a_start_says_what_it_doubts(house: Path, config: Path) -> None:
    config.write_text(HOST.replace('{ comm = "sshd*" }', ""))
    answer = oomguard("run", "--config", config, env={"PYTHONPATH": str(house)}, cwd=house)
    assert answer.code == 0
    assert "warning: any process of the machine may be killed" in answer.err


class TestCompile:
    def test_writes_the_plan(self, config: Path) -> None:
        answer = oomguard("compile", "--config", config)
        assert answer.code == 0
        assert isinstance(codec.from_plain(answer.json), Plan)

    def test_writes_it_to_a_descriptor(self, config: Path) -> None:
        reader, writer = os.pipe()
        with open(reader, "rb") as pipe:
            answer = oomguard("compile", "--config", config, "--fd", str(writer), pass_fds=(writer,))
            os.close(writer)
            assert (answer.code, answer.out) == (0, "")
            assert isinstance(codec.from_plain(json.loads(pipe.read())), Plan)

    def test_says_what_is_wrong_and_writes_nothing(self, config: Path) -> None:
        config.write_text("[policy")
        answer = oomguard("compile", "--config", config)
        assert (answer.code, answer.out) == (2, "")
        assert answer.err.startswith(f"{config}:1: not TOML: ")

    def test_a_descriptor_that_is_not_open(self, config: Path) -> None:
        answer = oomguard("compile", "--config", config, "--fd", "77")
        assert answer.code == 1
        assert answer.err == "oomguard: Bad file descriptor\n"


NOBODY = 65534

# The interpreter of these tests may live where nobody else can reach it. So everything is imported first, then root is
# given up for good, and what would be executed is said instead.
AS_NOBODY = f"""\
import encodings.ascii, encodings.utf_8_sig, os, sys
import oomguard.cli.app, oomguard.cli.main, oomguard.cli.run
import oomguard.judge.glob, oomguard.policy.compile, oomguard.policy.doubts
def say(python, argv, env):
    plan = os.pread(int(argv[argv.index("--plan-fd") + 1]), 1 << 24, 0).decode()
    print(plan, flush=True)
    os._exit(0)
os.execve = say
os.setgroups([])
os.setresgid({NOBODY}, {NOBODY}, {NOBODY})
os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
oomguard.cli.main.main()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
class TestWithoutRoot:
    @pytest.fixture
    def home(self) -> Iterator[Path]:
        """A home of somebody else, with a policy in it."""
        with tempfile.TemporaryDirectory() as name:
            home = Path(name)
            (home / "oomguard.toml").write_text(HOST)
            for path in (home, home / "oomguard.toml"):
                os.chown(path, NOBODY, NOBODY)
            yield home

    def run(self, home: Path, **env: str) -> Answer:
        words = [sys.executable, "-c", AS_NOBODY, "run", "--config", str(home / "oomguard.toml")]
        env = {**os.environ, "HOME": str(home), "XDG_STATE_HOME": "", "XDG_RUNTIME_DIR": "", **env}
        return Answer(subprocess.run(words, capture_output=True, timeout=TIMEOUT_S, check=False, env=env, cwd=home))

    def test_own_directories_are_used_and_said(self, home: Path) -> None:
        answer = self.run(home, XDG_RUNTIME_DIR=str(home))
        assert answer.code == 0, answer.err
        daemon = codec.from_plain(answer.json).daemon
        assert daemon.state_dir == f"{home}/.local/state/oomguard"
        assert daemon.runtime_dir == f"{home}/oomguard"
        assert "not root: only your own processes can be guarded" in answer.err
        assert f"/var/lib/oomguard cannot be written, {home}/.local/state/oomguard is used instead" in answer.err

    def test_without_a_runtime_directory(self, home: Path) -> None:
        daemon = codec.from_plain(self.run(home, XDG_STATE_HOME=f"{home}/state").json).daemon
        assert (daemon.state_dir, daemon.runtime_dir) == (f"{home}/state/oomguard", f"{home}/state/oomguard/run")

    def test_a_reload_keeps_to_them(self, home: Path) -> None:
        plan = codec.from_plain(self.run(home, XDG_RUNTIME_DIR=str(home)).json)
        assert plan.argv[-4:] == ("--state-dir", plan.daemon.state_dir, "--runtime-dir", plan.daemon.runtime_dir)

    def test_what_was_asked_for_is_not_replaced(self, home: Path) -> None:
        with (home / "oomguard.toml").open("a") as config:
            config.write('[daemon]\nstate_dir = "/srv/none/of/yours"\n')
        answer = self.run(home)
        assert (answer.code, answer.out) == (3, "")
        assert f"oomguard: /srv/none/of/yours cannot be written by uid {NOBODY}\n" in answer.err

    def test_a_policy_that_may_not_be_read(self, home: Path) -> None:
        os.chown(home / "oomguard.toml", 0, 0)
        (home / "oomguard.toml").chmod(0o600)
        answer = self.run(home)
        assert (answer.code, answer.out) == (3, "")
        assert "cannot be read: Permission denied" in answer.err


class TestAfterACrash:
    """systemd starts the daemon again, and by now somebody has broken the policy."""

    @pytest.fixture
    def kept(self, tmp_path: Path) -> Path:
        """The plan that a core left in its runtime directory."""
        good = tmp_path / "good.toml"
        good.write_text(HOST)
        plan = oomguard("compile", "--config", good).out
        (tmp_path / "plan").write_bytes(kept_plan.wrapped("", plan.encode()))
        (tmp_path / "plan").chmod(0o600)
        return tmp_path

    def start(self, kept: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        (kept / "wrong.toml").write_text("[policy.host]\ncgroup = 7\n")
        text = (
            "import os, sys\n"
            "def say(python, argv, env):\n"
            "    print(os.pread(int(argv[argv.index('--plan-fd') + 1]), 1 << 24, 0).decode(), flush=True)\n"
            "    os._exit(0)\n"
            "os.execve = say\n"
            "from oomguard.cli.main import main\n"
            "main()\n"
        )
        argv = [sys.executable, "-c", text, "run", "--config", str(kept / "wrong.toml"), "--runtime-dir", str(kept)]
        clean = {name: value for name, value in os.environ.items() if name != "INVOCATION_ID"}
        return subprocess.run(argv, capture_output=True, text=True, check=False, env=clean | environment)

    def test_the_last_good_policy_goes_on_and_says_so(self, kept: Path) -> None:
        done = self.start(kept, INVOCATION_ID="0123")
        assert done.returncode == 0, done.stderr
        plan = json.loads(done.stdout)
        assert [guard["name"] for guard in plan["guards"]] == ["host"]
        ((what, why),) = plan["remarks"]
        assert what == "reload"
        assert "last good policy is in force" in why
        assert "wrong.toml:2" in done.stderr
        assert plan["argv"][-1] == str(kept) or str(kept / "wrong.toml") in plan["argv"]

    def test_by_hand_a_wrong_policy_ends_the_start(self, kept: Path) -> None:
        done = self.start(kept)
        assert (done.returncode, done.stdout) == (2, "")

    @pytest.mark.parametrize("spoilt", ["nothing", "[]", "others", "version"])
    def test_only_a_plan_of_our_own_counts(self, kept: Path, spoilt: str) -> None:
        path = kept / "plan"
        if spoilt == "others":
            path.chmod(0o666)
        elif spoilt == "version":
            plan = json.loads(kept_plan.unwrapped(path.read_bytes())[1]) | {"version": "0.0.0"}
            path.write_bytes(kept_plan.wrapped("", json.dumps(plan).encode()))
        else:
            path.write_text("" if spoilt == "nothing" else spoilt)
        assert self.start(kept, INVOCATION_ID="0123").returncode == 2
