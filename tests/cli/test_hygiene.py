"""What every command owes whoever calls it: JSON, exit codes, one-line errors, no colors in a pipe, a quiet Ctrl-C.

The table names every command of the tree, so that a new one is looked at as well.
"""

import contextlib
import importlib
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import oomguard as package
from oomguard.cli import app, say, tree
from oomguard.cli.main import main

from .command import HOST, TIMEOUT_S
from .test_status import RECORDED

ROOT = Path(package.__file__).parent.parent

# How each is called so that it prints, in a place with a policy and an incident; "" is the place. None: it prints
# nothing of that kind, and why.
CALLS: dict[str, list[str] | None] = {
    "run": None,  # becomes the daemon
    "check": ["--config", "/oomguard.toml"],
    "show": ["--config", "/oomguard.toml"],
    "schema": [],
    "explain": ["/", "--config", "/oomguard.toml"],
    "import": ["earlyoom", "/earlyoom"],
    "status": ["--runtime-dir", "/run"],
    "top": ["--once", "--runtime-dir", "/run"],
    "doctor": ["--config", "/oomguard.toml", "--runtime-dir", "/run"],
    "drill": None,  # leaks: test_drill.py
    "record": None,  # of a running daemon: test_record.py
    "exporter": ["--once", "--runtime-dir", "/run", "--state-dir", "/"],
    "completion": ["bash"],
    "notify-test": ["--config", "/oomguard.toml", "--runtime-dir", "/run"],
    "undo": ["--runtime-dir", "/run"],
    "incidents list": ["--state-dir", "/"],
    "incidents show": ["last", "--state-dir", "/"],
    "incidents report": ["last", "--state-dir", "/", "-o", "/report.html"],
    "incidents diff": ["last", "last", "--state-dir", "/"],
    "incidents export": ["last", "--state-dir", "/", "-o", "/out.tar.zst"],
    "incidents prune": ["--keep", "9", "--state-dir", "/"],
    "incidents replay": ["last", "--state-dir", "/"],
    "incidents follow": ["--once", "--state-dir", "/"],
}
# What prints something that is no table and no sentence.
NO_JSON = {
    "run": "it becomes the daemon",
    "schema": "it is JSON",
    "completion": "it is a script",
}
SILENT = {"undo", "status", "top", "incidents prune"}  # where nothing runs, and nothing is to be done

LEAVES = [command for command in tree.whole().walk() if not command.commands]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy, another daemon's configuration, an incident, and nobody who runs."""
    where = tmp_path_factory.mktemp("place")
    (where / "oomguard.toml").write_text(HOST)
    (where / "earlyoom").write_text('EARLYOOM_ARGS="-m 5"\n')
    incident = where / "incidents" / RECORDED.parent.name
    incident.mkdir(parents=True)
    (incident / "incident.json").write_bytes(RECORDED.read_bytes())
    (where / "run").mkdir()
    return where


def words(command: str, place: Path) -> list[str]:
    """Its command line."""
    call = CALLS[command]
    assert call is not None
    own = command.startswith(("incidents", "exporter"))  # for explain, / is a cgroup
    return [
        *command.split(),
        *(f"{place}{word}" if word[:1] == "/" and (own or word != "/") else word for word in call),
    ]


CALLED = [name for name, call in CALLS.items() if call is not None]


class Forked:
    """The command in a child of this process, where all is imported already; its streams are files of its own."""

    def __init__(self, words: list[str], out: int | str, err: Path, user: int = 0) -> None:
        self.err = err
        out = os.open(out, os.O_WRONLY | os.O_CREAT) if isinstance(out, str) else out
        self.pid = os.fork()
        if self.pid == 0:
            os._exit(self._be(words, out, os.open(err, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), user))

    @staticmethod
    def _be(words: list[str], out: int, err: int, user: int) -> int:
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if user:
            os.setgroups([])
            os.setresuid(user, user, user)
        sys.argv = ["oomguard", *words]
        code = 99
        try:
            main()
        except SystemExit as error:
            code = int(error.code or 0)
        except BaseException as error:  # noqa: BLE001  # Python would print it
            os.write(2, f"Traceback: {error!r}\n".encode())
        try:
            sys.stdout.flush()  # as Python does at its exit
        except OSError as error:
            os.write(2, f"Exception ignored: {error!r}\n".encode())
        return code

    def ended(self) -> tuple[int, str]:
        """(exit code, what it said on standard error); there is never a traceback."""
        _, status = os.waitpid(self.pid, 0)
        said = self.err.read_text()
        assert "Traceback" not in said, said
        assert "Exception" not in said, said
        return os.waitstatus_to_exitcode(status), said


def test_the_table_has_every_command() -> None:
    """A new one has to be given its line."""
    assert {" ".join(command.path[1:]) for command in LEAVES} == set(CALLS)


@pytest.mark.parametrize("command", LEAVES, ids=lambda it: " ".join(it.path[1:]))
def test_everything_has_its_word(command: tree.Command) -> None:
    """In --help, and in the manual, which is made of the same."""
    assert command.help
    assert len(command.summary) > 5
    for option in command.options:
        assert option.help, option.names
        assert option.means == "switch" or option.metavar


# ---------------------------------------------------------------------------------------------------------------- JSON


@pytest.mark.parametrize("command", LEAVES, ids=lambda it: " ".join(it.path[1:]))
def test_what_prints_prints_json(command: tree.Command) -> None:
    has = any("--json" in option.names for option in command.options)
    assert has != (" ".join(command.path[1:]) in NO_JSON)


@pytest.mark.parametrize("command", [name for name in CALLED if name not in NO_JSON])
def test_json_is_json(command: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One document, ASCII, and nothing beside it."""
    code = _called([*words(command, place), "--json"])
    out = capsys.readouterr().out
    assert code in (say.FINE, say.FOUND)
    json.loads(out)
    assert out.isascii()


def _called(words: list[str]) -> int:
    """As ``main`` does, in this process: its imports are here already."""
    try:
        return app.call(words)
    except SystemExit as error:
        return int(error.code or 0)


# -------------------------------------------------------------------------------------------------------- used wrongly


@pytest.mark.parametrize("command", LEAVES, ids=lambda it: " ".join(it.path[1:]))
def test_an_unknown_option_is_told_in_one_line_with_a_hint(
    command: tree.Command, capsys: pytest.CaptureFixture[str]
) -> None:
    option = next(
        (name for it in command.options for name in it.names if name.startswith("--") and name != "--help"), ""
    )
    slip = option[:-1] + "x" if option else "--x"
    code = _called([*command.path[1:], slip])
    said = capsys.readouterr()
    assert (code, said.out) == (say.WRONG_USE, "")
    assert said.err.startswith(f"oomguard: no such option: {slip}")
    assert said.err.endswith(f"; {' '.join(command.path)} --help says what there is\n")
    assert said.err.count("\n") == 1
    assert option in said.err


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (["statsu"], "no such command 'statsu'. Did you mean 'status'"),
        (["incidents", "lst"], "no such command 'lst'. Did you mean 'list'"),
        (["status", "more"], "got unexpected extra argument"),
        (["check", "--config"], "option '--config' requires an argument"),
        (["incidents", "show"], "missing argument 'ID'"),
        (["import", "earlyom", "x"], "'earlyom' is not one of 'earlyoom', 'nohang'"),
        (["incidents", "prune", "--keep", "x"], "invalid value for '--keep'"),
        (["incidents", "export", "last", "--redact", "all"], "--redact all: it may be secrets, names, none"),
        (["exporter", "--every", "1 parsec"], "--every: "),
        (["exporter", "--listen", "everywhere"], "neither ADDRESS:PORT"),
        (["exporter", "--json"], "--json is for --once"),
        (["exporter", "--listen", "[::1]:0", "--textfile", "x"], "one of them"),
        (["\x1b[2J"], "no such command '\\x1b[2J'"),
    ],
)  # fmt: skip
def test_a_slip_is_told_in_one_line(wrong: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = _called(wrong)
    said = capsys.readouterr()
    assert (code, said.out) == (say.WRONG_USE, "")
    assert told in said.err
    assert said.err.count("\n") == 1
    assert "\x1b" not in said.err


# --------------------------------------------------------------------------------------------------------- permissions


CLOSED = "closed"  # beside it somebody else may look; into it only root


@pytest.fixture
def closed(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place, which can be seen from here, and not entered; what is above is no matter: it is named from here."""
    shutil.copytree(place, tmp_path / CLOSED)
    (tmp_path / CLOSED).chmod(0o700)
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    return Path(CLOSED)


def as_nobody(call: list[str], tmp_path: Path) -> tuple[int, str]:
    _called(call)  # what it imports may not be his to read, either
    return Forked(call, os.devnull, tmp_path / "err", user=65534).ended()


MAY_NOT_READ = [
    *("incidents list", "incidents show", "incidents report", "incidents export", "incidents diff"),
    *(
        "incidents prune",
        "incidents replay",
        "show",
        "check",
        "explain",
        "import",
        "status",
        "top",
        "notify-test",
        "undo",
    ),
]  # the exporter's page tells that it is not up


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
@pytest.mark.parametrize("command", MAY_NOT_READ)
def test_what_is_not_permitted_ends_with_3(command: str, closed: Path, tmp_path: Path) -> None:
    """As somebody who may read none of it."""
    code, said = as_nobody(words(command, closed), tmp_path)
    assert code == say.NOT_PERMITTED, said
    assert CLOSED in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become nobody")
@pytest.mark.parametrize("option", ["--config", "--state-dir", "--runtime-dir"])
def test_nor_is_it_used_wrongly_to_name_it(option: str, closed: Path, tmp_path: Path) -> None:
    """The directory itself, or a file, that is there and may not be read: click would call it an invalid value."""
    (closed / "oomguard.toml").rename(path := tmp_path / "oomguard.toml")
    path.chmod(0o600)
    call = {"--config": ["check"], "--state-dir": ["incidents", "list"], "--runtime-dir": ["status"]}[option]
    code, said = as_nobody([*call, option, str(path if option == "--config" else closed)], tmp_path)
    assert code == say.NOT_PERMITTED, said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("command", ["status", "incidents list", "exporter", "explain", "doctor", "top"])
def test_a_user_without_a_home_or_a_name(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a service's DynamicUser= is: the exporter's first start in a machine was a traceback."""
    for name in ("HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    call = {"exporter": ["--once"], "explain": ["/"], "top": ["--once"]}.get(command, [])
    call = [*command.split(), *call]
    _called(call)  # what it imports may not be his to read
    code, _ = Forked(call, os.devnull, tmp_path / "err", user=61234).ended()
    assert code in (say.FINE, say.FOUND, say.WRONG_USE, say.NOT_PERMITTED)


def callbacks() -> Iterator[Callable[..., object]]:
    """What each command calls."""
    for module, attribute in app.COMMANDS.values():
        command = getattr(importlib.import_module(f"oomguard.cli.{module}"), attribute)
        yield from [it.callback for it in getattr(command, "registered_commands", ())] or [command]


@pytest.mark.parametrize("callback", list(callbacks()), ids=lambda it: it.__name__)
def test_whether_a_file_may_be_read_is_found_out_by_who_reads_it(callback: Callable[..., object]) -> None:
    for name, hint in typing.get_type_hints(callback, include_extras=True).items():
        said = [it for it in getattr(hint, "__metadata__", ()) if hasattr(it, "readable")]
        if "Path" in str(typing.get_args(hint)[:1]):
            assert said and not said[0].readable, name  # noqa: PT018


# ------------------------------------------------------------------------------------------------------------- streams


@pytest.mark.parametrize("command", CALLED)
def test_a_closed_pipe_is_the_readers_affair(command: str, place: Path, tmp_path: Path) -> None:
    """`oomguard ... | head`: nothing is said, and nothing is wrong."""
    reader, writer = os.pipe()
    os.close(reader)
    code, said = Forked(words(command, place), writer, tmp_path / "err").ended()
    os.close(writer)
    assert code in (say.FINE, say.FOUND), said
    assert "pipe" not in said


@pytest.mark.parametrize("command", [name for name in CALLED if name not in SILENT])
def test_a_full_disk_is_told(command: str, place: Path, tmp_path: Path) -> None:
    code, said = Forked(words(command, place), "/dev/full", tmp_path / "err").ended()
    assert code == say.FOUND
    assert said.splitlines()[-1] == "oomguard: standard output: No space left on device"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_no_stream_at_all(place: Path, closed: str) -> None:
    """What cron, or a careless script, may have closed."""
    line = f"{sys.executable} -m oomguard incidents list --no-others --state-dir {place} {closed}"
    done = subprocess.run(
        ["bash", "-c", line], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert (done.returncode, done.stderr) == (say.FINE, "")


# -------------------------------------------------------------------------------------------------------------- colors


def on_terminal(words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **environment: str) -> str:
    """What a terminal of its own is sent."""
    for name, value in {"TERM": "xterm", "NO_COLOR": "", **environment}.items():
        monkeypatch.setenv(name, value)
    ours, theirs = pty.openpty()
    process = Forked(words, theirs, Path(os.ttyname(theirs)))
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # EIO: everybody has closed it
        while part := os.read(ours, 65536):
            said += part
    os.close(ours)
    os.waitpid(process.pid, 0)
    assert b"Traceback" not in said
    return said.decode()


def wrong_policy(place: Path) -> list[str]:
    wrong = place / "wrong.toml"
    wrong.write_text("[policy.host]\ncgroup = 7\n")
    return ["check", "--config", str(wrong)]


@pytest.mark.parametrize("what", ["incident", "fault"])
def test_colors_are_for_terminals_whose_owner_has_nothing_against_them(
    what: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = words("incidents show", place) if what == "incident" else wrong_policy(place)
    assert "\x1b[" in on_terminal(call, monkeypatch, tmp_path)
    assert "\x1b" not in on_terminal(call, monkeypatch, tmp_path, NO_COLOR="1")
    assert "\x1b" not in on_terminal(call, monkeypatch, tmp_path, TERM="dumb")
    _, said = Forked(call, str(tmp_path / "out"), tmp_path / "err").ended()
    assert "\x1b" not in said + (tmp_path / "out").read_text()


def test_help_is_never_colored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "\x1b" not in on_terminal(["status", "--help"], monkeypatch, tmp_path)


# -------------------------------------------------------------------------------------------------------------- Ctrl-C


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """An incident that can be opened and never ends: who reads it waits, until he is interrupted."""
    incident = tmp_path / "incidents" / RECORDED.parent.name
    incident.mkdir(parents=True)
    fifo = incident / "incident.json"
    os.mkfifo(fifo)
    return fifo


def wait_for_reader(fifo: Path) -> int:
    """A descriptor to write to, once somebody has it open to read."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            assert time.monotonic() < deadline, "nobody reads it"
            time.sleep(0.01)


@pytest.mark.parametrize("command", ["list", "show last", "report last", "diff last last", "export last", "replay"])
def test_ctrl_c_in_the_midst_of_reading(endless: Path, command: str, tmp_path: Path) -> None:
    call = ["incidents", *command.split(), "--state-dir", str(endless.parents[2])]
    process = Forked(call, os.devnull, tmp_path / "err")
    fd = wait_for_reader(endless)
    # Pressed again where it does not help: between opening and reading a signal is noted, and interrupts nothing.
    presses = 0
    with open(os.pidfd_open(process.pid), "rb") as end:
        while presses == 0 or not select.select([end], [], [], 5.0)[0]:
            os.kill(process.pid, signal.SIGINT)
            presses += 1
            assert presses < TIMEOUT_S / 5, "it does not end"
    assert process.ended() == (say.INTERRUPTED, "")
    os.close(fd)


@pytest.mark.parametrize("module", ["typer", "oomguard.cli.quick"])
def test_ctrl_c_while_it_is_starting(module: str) -> None:
    """Typer's own answer, and Python's, would be a word and 1, or a traceback."""
    text = """
import os, signal, sys
module = sys.argv.pop()
class Hook:
    @staticmethod
    def find_spec(name, *_):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Hook)
import oomguard.cli.main as command
sys.argv = ["oomguard", "status"]
command.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", text, module], cwd=ROOT, capture_output=True, timeout=TIMEOUT_S, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (say.INTERRUPTED, b"", b"")


def test_ctrl_c_where_nothing_may_fail() -> None:
    """As within pydantic's core: Python prints a traceback, forgets it, and goes on."""
    text = """
import time
import oomguard.cli.app as app, oomguard.cli.main as command
class Callback:
    def __del__(self):
        raise KeyboardInterrupt
def call(words):
    Callback()
    time.sleep(60)
app.call = call
command.main()
"""
    call = [sys.executable, "-c", text, "status"]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, timeout=TIMEOUT_S, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (say.INTERRUPTED, b"", b"")


# ----------------------------------------------------------------------------------------------------------- quickness

# One interpreter with typer, which all commands need, and a child of it for each: what else has each imported?
TELLING = f"""
import json, os, sys
sys.path.insert(0, {str(ROOT)!r})
import typer.main
for words in json.loads(sys.argv[1]):
    if os.fork() == 0:
        from oomguard.cli.main import main
        sys.argv = ["oomguard", *words]
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            main()
        except SystemExit:
            os.write(2, (json.dumps([words, sorted(sys.modules)]) + "\\n").encode())
        os._exit(0)
    os.wait()
"""
COMPILER = "oomguard.policy.schema"  # a hundred models of pydantic
# What each must do without, since it would be felt: 300 ms from the word to the first letter is all that there is.
HEAVY = {"rich", "plotly", "jinja2", "psutil", "prometheus_client", "yaml", "asyncio", "ssl", COMPILER}
MAY: dict[str, set[str]] = {
    "check": {COMPILER},
    "show": {COMPILER},
    "notify-test": {COMPILER},
    "schema": {COMPILER},
    "doctor": {COMPILER},
    "explain": {COMPILER, "psutil"},
    "import": {COMPILER},
    "top": {"rich"},
    "exporter": {"prometheus_client", "ssl"},
    "incidents report": {"jinja2", "plotly"},
}


def test_nothing_heavy_is_imported_for_nothing(place: Path) -> None:
    calls = {name: words(name, place) for name in CALLED} | {"--help": ["--help"], "--version": ["--version"]}
    done = subprocess.run(
        [sys.executable, "-c", TELLING, json.dumps(list(calls.values()))],
        cwd=place,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    told = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("[[")]
    loaded = {name: set(modules) & HEAVY for name, call in calls.items() for words, modules in told if words == call}
    assert loaded.keys() == calls.keys(), done.stderr
    assert {name: found - MAY.get(name, set()) for name, found in loaded.items() if found - MAY.get(name, set())} == {}
    assert loaded["check"] == {COMPILER}, "it would be seen"
