"""Between the death of a daemon and the next one: what is quick is the same as what is slow, and never more than that.

The plan that was in force goes on only where compiling would make it again. The core is replaced by one that says what
it was handed.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import oomguard as package
from oomguard.cli import become, origin, quick
from oomguard.linux import leases
from oomguard.model import codec, kept, statuspage
from oomguard.model.policy import Daemon, Plan

from .command import HOST, TIMEOUT_S
from .test_status import publish
from .test_undo import lease

ROOT = Path(package.__file__).parent.parent

# Without site: were anything but the standard library needed, it could not be found.
TELLING = f"""
import atexit, os, sys
sys.path.insert(0, {str(ROOT)!r})
atexit.register(lambda: print(*sorted(sys.modules), file=sys.stderr))
from oomguard.cli.main import main
main()
"""


def modules(*words: str | Path) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """What a command has imported when it ends."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", TELLING, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return done, set(done.stderr.splitlines()[-1].split())


# ---------------------------------------------------------------------------------------------------------------- undo


class TestUndo:
    def test_nothing_but_the_standard_library_is_imported(self, tmp_path: Path) -> None:
        lease(tmp_path, tmp_path / "cgroup", 4096)
        done, imported = modules("undo", "--runtime-dir", tmp_path, "--cgroup", tmp_path / "cgroup")
        assert (done.returncode, done.stdout) == (0, "memory.high of /web is put back to max, as it was found\n")
        tops = {name.partition(".")[0] for name in imported}
        assert tops - sys.stdlib_module_names == {"oomguard", "__main__"}

    def test_where_nothing_is_out_next_to_nothing_is(self, tmp_path: Path) -> None:
        leases.Journal(str(tmp_path / leases.NAME)).close()
        done, imported = modules("undo", "--runtime-dir", tmp_path)
        assert done.returncode == 0
        assert not imported & {"dataclasses", "typing", "json", "re", "pathlib", "hashlib", "oomguard.linux.leases"}

    def test_the_unit_calls_it_in_the_way_that_is_quick(self) -> None:
        unit = (ROOT / "systemd/oomguard.service").read_text()
        for setting, name in (("ExecStopPost", "undo"), ("ExecStart", "run")):
            (line,) = [line for line in unit.splitlines() if line.startswith(f"{setting}=")]
            words = line.partition("=")[2].split()
            assert words[1] == name
            assert quick._options(words[2:], ("--config", *quick._PLACES), "--json") is not None

    def test_help_and_slips_are_left_to_the_command_proper(self, tmp_path: Path) -> None:
        os.makedirs(tmp_path / "run")
        for words in (
            ["undo"],
            ["undo", "--help"],
            ["undo", "--runtime-dir"],
            ["undo", "--runtime-dir", "run"],
            ["undo", "--runtime-dir", f"{tmp_path}/"],
            ["undo", "--runtime-dir", str(tmp_path), "more"],
            ["undo", "--runtime-dir", str(tmp_path), "--runtime-dir", str(tmp_path)],
            ["undo", "--runtime-dir", str(tmp_path), "--config", "/etc/x"],
            ["undo", "--runtime-dir", str(tmp_path), "--json=1"],
            ["undoing"],
            [],
        ):
            assert not quick.answer(words), words
        assert quick.answer(["undo", f"--runtime-dir={tmp_path}/run"])

    def test_who_lives_is_read_where_the_core_writes_it(self, tmp_path: Path) -> None:
        text = "import sys; print(flush=True); sys.stdin.read()"
        words = [sys.executable, "-S", "-c", text, "--plan-fd", "3"]
        assert quick.running(str(tmp_path)) is None
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as core:
            assert core.stdout is not None
            core.stdout.readline()  # until exec is over its arguments are not there
            publish(tmp_path, core.pid)
            assert statuspage.read(str(tmp_path / statuspage.NAME)).numbers.pid == core.pid
            assert quick.running(str(tmp_path)) == core.pid
            page = bytearray((tmp_path / statuspage.NAME).read_bytes())
            page[8:16] = b"\x01\0\0\0\0\0\0\0"
            (tmp_path / statuspage.NAME).write_bytes(page)
            assert quick.running(str(tmp_path)) == core.pid, "of whatever version: an upgrade must not undo his leases"
            core.communicate()
        assert quick.running(str(tmp_path)) is None
        (tmp_path / statuspage.NAME).write_bytes(b"x" * 100)
        assert quick.running(str(tmp_path)) is None

    def test_defaults_are_those_of_the_policy(self) -> None:
        daemon = Daemon()
        assert (daemon.proc, daemon.cgroup, daemon.runtime_dir) == (quick.PROC, quick.CGROUP, kept.RUNTIME_DIR)


# ---------------------------------------------------------------------------------------------------- what holds still


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A configuration of two files, and a machine."""
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "oomguard.toml").write_text(HOST)
    (tmp_path / "conf.d/10-mode.toml").write_text('[policy.host]\nmode = "observe"\n')
    (tmp_path / "proc").mkdir()
    meminfo(tmp_path, 1000, 500)
    (tmp_path / "run").mkdir(mode=0o755)
    return tmp_path


def meminfo(place: Path, total: int, swap: int) -> None:
    free = time.monotonic_ns() % 1000  # as in any meminfo, what is free is never the same
    (place / "proc/meminfo").write_text(f"MemTotal: {total} kB\nMemFree: {free} kB\nSwapTotal: {swap} kB\n")


def digest(place: Path, *more: str) -> str:
    config = str(place / "oomguard.toml")
    return origin.digest(become.again(config, False, {}) + more, config, str(place / "proc"))


def forged(place: Path) -> None:
    """Another policy with the size and the times of the first one."""
    path = place / "oomguard.toml"
    seen = path.stat()
    path.write_text(HOST.replace("12%", "11%"))
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))


def there_and_back(place: Path) -> None:
    """The same bytes again, after others stood there for a moment."""
    path = place / "oomguard.toml"
    seen = path.stat()
    forged(place)
    time.sleep(0.02)  # the kernel's clock for files moves in steps of up to 10 ms
    path.write_text(HOST)
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))


def replaced(place: Path) -> None:
    (place / "new").write_text(HOST)
    (place / "new").rename(place / "oomguard.toml")


CHANGES: dict[str, Callable[[Path], object]] = {
    "another policy": lambda place: (place / "oomguard.toml").write_text(HOST + 'mode = "observe"\n'),
    "another policy that looks the same": forged,
    "another policy for a moment": there_and_back,
    "another file of the same content": replaced,
    "touched": lambda place: os.utime(place / "oomguard.toml"),
    "others may write": lambda place: (place / "oomguard.toml").chmod(0o666),
    "another owner": lambda place: os.chown(place / "oomguard.toml", *((1, -1) if os.geteuid() == 0 else (-1, -1))),
    "a file more in conf.d": lambda place: (place / "conf.d/20.toml").write_text(""),
    "a file less in conf.d": lambda place: (place / "conf.d/10-mode.toml").unlink(),
    "a file renamed in conf.d": lambda place: (place / "conf.d/10-mode.toml").rename(place / "conf.d/20.toml"),
    "no conf.d": lambda place: (place / "conf.d").rename(place / "conf.old"),
    "more memory": lambda place: meminfo(place, 2000, 500),
    "no swap": lambda place: meminfo(place, 1000, 0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_shows(place: Path, change: str) -> None:
    before = digest(place)
    assert before
    time.sleep(0.02)  # as above
    meminfo(place, 1000, 500)
    assert digest(place) == before, "nothing has changed"
    CHANGES[change](place)
    assert digest(place) not in ("", before)


def test_so_does_what_is_asked_for_and_by_whom(place: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = digest(place)
    assert digest(place, "--observe") != before
    for where, name, value in (
        (origin, "__version__", "0.0.0"),
        (origin, "BOOT_ID", os.devnull),
        (sys, "version", "4.0"),
        (sys, "executable", str(tmp_path / "bin/python")),
        (os, "geteuid", lambda: 12345),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(where, name, value)
            assert digest(place) != before, name
    assert digest(place) == before


def test_so_does_our_own_code(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rooms = ("", "model/", "judge/", "policy/", "cli/")
    for room in rooms:
        (place / "house/oomguard" / room).mkdir(parents=True, exist_ok=True)
        (place / f"house/oomguard/{room}a.py").write_text("x = 1\n")
    monkeypatch.setattr(origin, "__file__", str(place / "house/oomguard/cli/origin.py"))
    for room in rooms:
        before = digest(place)
        time.sleep(0.02)  # as above
        (place / f"house/oomguard/{room}a.py").write_text("x = 2\n")
        assert digest(place) not in ("", before)
    before = digest(place)
    (place / "house/pydantic-3.dist-info").mkdir()
    assert digest(place) not in ("", before)


@pytest.mark.parametrize("what", ["fifo", "large", "directory", "none"])
def test_what_cannot_be_told_equals_nothing(place: Path, what: str) -> None:
    odd = place / "conf.d/50.toml"
    match what:
        case "fifo":
            os.mkfifo(odd)
        case "large":
            odd.write_bytes(b"#" * (origin.MOST_BYTES + 1))
        case "directory":
            odd.mkdir()
        case _:
            (place / "oomguard.toml").unlink()
    assert digest(place) == ""


# ----------------------------------------------------------------------------------------------------------------- run

SAYING = """
import os, sys
sys.path.insert(0, {root!r})
{first}
def say(python, argv, env):
    print(os.pread(int(argv[argv.index("--plan-fd") + 1]), 1 << 24, 0).decode(), flush=True)
    print("compiled" if "pydantic" in sys.modules else "kept", file=sys.stderr, flush=True)
    os._exit(0)
os.execve = say
from oomguard.cli.main import main
main()
"""
GOES_ON = "the plan that was in force goes on"


class Service:
    """What systemd starts again and again, and the runtime directory that it keeps meanwhile."""

    def __init__(self, place: Path) -> None:
        self.place, self.run = place, place / "run"
        self.file = self.run / kept.NAME

    def start(self, *more: str, first: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        words = ["run", "--config", str(self.place / "oomguard.toml"), "--proc", str(self.place / "proc")]
        text = SAYING.format(root=str(ROOT), first=first)
        clean = {name: value for name, value in os.environ.items() if name != "INVOCATION_ID"}
        return subprocess.run(
            [sys.executable, "-c", text, *words, "--runtime-dir", str(self.run), *more],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            env=clean | {"INVOCATION_ID": "0123"} | environment,
        )

    def keep(self, plan: str) -> None:
        """As the core does it."""
        self.file.write_bytes(kept.wrapped(json.loads(plan)["made_from"], plan.encode()))
        self.file.chmod(0o600)


@pytest.fixture
def service(place: Path) -> Service:
    """A daemon that was started, kept its plan, and is no more."""
    service = Service(place)
    done = service.start()
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "compiled"
    service.keep(done.stdout.strip())
    return service


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root's service goes on with a kept plan")


def edited(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"observe", b"enforce"))


@needs_root
class TestRun:
    def test_the_plan_goes_on_where_nothing_has_changed(self, service: Service) -> None:
        done = service.start()
        assert done.returncode == 0, done.stderr
        assert done.stderr.splitlines()[-1] == "kept"
        assert GOES_ON in done.stderr
        service.file.unlink()
        again = service.start()
        assert again.stderr.splitlines()[-1] == "compiled"
        assert codec.from_plain(json.loads(done.stdout)) == codec.from_plain(json.loads(again.stdout))

    def test_it_needs_nothing_but_the_standard_library(self, service: Service) -> None:
        text = SAYING.format(root=str(ROOT), first="").replace('"pydantic" in sys.modules', "sorted(sys.modules)")
        words = ["run", "--config", str(service.place / "oomguard.toml"), "--proc", str(service.place / "proc")]
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", text, *words, "--runtime-dir", str(service.run)],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            env={"INVOCATION_ID": "0123"},
        )
        assert GOES_ON in done.stderr
        assert isinstance(codec.from_plain(json.loads(done.stdout)), Plan)

    @pytest.mark.parametrize("change", [name for name in CHANGES if name not in ("others may write", "another owner")])
    def test_what_has_changed_is_compiled(self, service: Service, change: str) -> None:
        CHANGES[change](service.place)
        done = service.start()
        assert done.returncode == 0, done.stderr
        assert done.stderr.splitlines()[-1] == "compiled"
        assert "it is compiled again" in done.stderr
        modes = [guard["mode"] for guard in json.loads(done.stdout)["guards"]]
        gone = change in ("a file less in conf.d", "no conf.d")
        assert modes == ["enforce" if gone else "observe"], "what is in force is what the files say now"

    def test_a_shadow_is_a_part_of_it(self, service: Service) -> None:
        """It goes on with a shadow too, and not with another one than the file is now."""
        shadow = service.place / "tomorrow.toml"
        shadow.write_text(HOST)
        (service.place / "conf.d/20.toml").write_text('[daemon]\nshadow = "../tomorrow.toml"\n')
        done = service.start()
        assert done.stderr.splitlines()[-1] == "compiled"
        service.keep(done.stdout.strip())
        done = service.start()
        assert done.stderr.splitlines()[-1] == "kept", done.stderr
        assert [guard["name"] for guard in json.loads(done.stdout)["guards"]] == ["host", "shadow:host"]
        for change in (
            lambda: shadow.write_text(HOST.replace("12%", "11%")),
            lambda: os.utime(shadow),
            lambda: shadow.write_text("[policy.host]\ncgroup = 7\n"),
            shadow.unlink,
        ):
            change()
            done = service.start()
            assert done.stderr.splitlines()[-1] != "kept"
            assert GOES_ON not in done.stderr
        shadow.write_text(HOST)
        done = service.start()
        assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "compiled"), "another file of the same content"

    def test_a_shadow_that_changes_while_it_is_compiled(self, service: Service) -> None:
        shadow = service.place / "tomorrow.toml"
        shadow.write_text(HOST)
        (service.place / "conf.d/20.toml").write_text('[daemon]\nshadow = "../tomorrow.toml"\n')
        first = "import os, oomguard.policy as policy\nload = policy.load\n"
        first += f"policy.load = lambda *a, **k: (load(*a, **k), os.utime({str(shadow)!r}))[0]"
        done = service.start(first=first)
        assert json.loads(done.stdout)["made_from"] == ""

    def test_what_may_no_longer_be_trusted_is_looked_at(self, service: Service) -> None:
        (service.place / "oomguard.toml").chmod(0o666)
        done = service.start()
        assert "others than root may write to it" in done.stderr
        assert GOES_ON not in done.stderr

    def test_another_wish_is_another_plan(self, service: Service) -> None:
        done = service.start("--observe")
        assert (done.stderr.splitlines()[-1], done.returncode) == ("compiled", 0)

    def test_another_version_compiles(self, service: Service) -> None:
        done = service.start(first="import oomguard; oomguard.__version__ = '9.9'")
        assert done.stderr.splitlines()[-1] == "compiled"
        assert json.loads(done.stdout)["version"] == "9.9"

    def test_by_hand_it_is_compiled(self, service: Service) -> None:
        done = service.start(first="import os; os.environ.pop('INVOCATION_ID')")
        assert done.stderr.splitlines() == ["compiled"]

    @pytest.mark.parametrize(
        ("spoil", "why"),
        [
            (lambda service: os.chown(service.file, 1, 1), "not uid 0's alone"),
            (lambda service: service.file.chmod(0o620), "not uid 0's alone"),
            (lambda service: service.run.chmod(0o777), "not uid 0's alone"),
            (lambda service: service.file.write_bytes(service.file.read_bytes()[:-1]), "not whole"),
            (lambda service: service.file.write_bytes(service.file.read_bytes()[:20]), "not a kept plan"),
            (lambda service: service.file.write_bytes(b""), "not a kept plan"),
            (lambda service: service.file.write_bytes(os.urandom(9000)), "not a kept plan"),
            (lambda service: edited(service.file), "not whole"),
            (lambda service: (service.file.unlink(), os.mkfifo(service.file, 0o600)), "not a regular file"),
            (lambda service: (service.file.rename(service.run / "x"), service.file.symlink_to("x")), "symbolic links"),
        ],
        ids=["owner", "mode", "directory", "cut", "head", "empty", "garbage", "edited", "fifo", "link"],
    )
    def test_what_is_not_surely_ours_is_compiled_and_said(
        self, service: Service, spoil: Callable[[Service], object], why: str
    ) -> None:
        spoil(service)
        done = service.start()
        assert done.returncode == 0, done.stderr
        assert done.stderr.splitlines()[-1] == "compiled"
        assert "cannot be used, the policy is compiled: " in done.stderr
        assert why in done.stderr

    def test_a_plan_in_place_of_a_wrong_policy_is_never_taken_for_right(self, service: Service) -> None:
        (service.place / "oomguard.toml").write_text("[policy.host]\ncgroup = 7\n")
        for _ in range(2):  # and the core keeps that plan in its turn
            done = service.start()
            assert done.returncode == 0, done.stderr
            plan = json.loads(done.stdout)
            assert plan["made_from"] == ""
            assert [what for what, _ in plan["remarks"]].count("reload") == 1
            service.keep(done.stdout.strip())
        assert "last good policy is in force" in done.stderr

    def test_a_file_that_changes_while_it_is_compiled(self, service: Service) -> None:
        service.file.unlink()
        done = service.start(
            first="import os, oomguard.policy.files as files\n"
            "find = files.find\n"
            "files.find = lambda path: (os.utime(path), find(path))[1]"
        )
        assert json.loads(done.stdout)["made_from"] == ""


@pytest.mark.parametrize("shadow", ["", "/etc/oomguard/tomorrow.toml", "/a b/\udcff"])
def test_which_shadow_it_was_stands_in_the_digest(place: Path, shadow: str) -> None:
    assert origin.shadow_of(f"ab+{os.fsencode(shadow).hex()}" if shadow else "ab") == shadow
    path = place / "tomorrow.toml"
    path.write_text(HOST)
    made = origin.digest((), str(place / "oomguard.toml"), str(place / "proc"), str(path))
    assert origin.shadow_of(made) == str(path)
    assert made.partition("+")[0] != origin.digest((), str(place / "oomguard.toml"), str(place / "proc"))
    assert origin.digest((), str(place / "oomguard.toml"), str(place / "proc"), str(place / "gone")) == ""


def test_a_kept_plan_comes_back() -> None:
    assert kept.unwrapped(kept.wrapped("ab", b"{}\n{}")) == ("ab", b"{}\n{}")
    assert kept.unwrapped(kept.wrapped("", b"{}")) == ("", b"{}")
