"""``oomguard notify-test``, where no daemon runs; and what ``check`` and ``show`` make of sinks."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workers.sending import PATIENCE_S, Web

from .command import HOST, oomguard

WEB = '[policy.web]\ncgroup = "/web"\nnotify = ["ops"]\nhard = { when = [{ memory_above = "90%" }], do = ["kill"] }\n'


@pytest.fixture
def web() -> Iterator[Web]:
    made = Web()
    yield made
    made.close()


@pytest.fixture
def config(tmp_path: Path, web: Web) -> Path:
    secret = tmp_path / "ops.url"
    secret.write_text(web.url)
    secret.chmod(0o600)
    path = tmp_path / "oomguard.toml"
    sinks = f'[sinks.ops]\nurl_file = "{secret}"\n[sinks.hook]\nrun = ["/usr/bin/false"]\n'
    path.write_text(f'[daemon]\nruntime_dir = "{tmp_path / "run"}"\n{HOST}{WEB}{sinks}')
    return path


def test_the_sinks_of_a_policy(config: Path, web: Web) -> None:
    answer = oomguard("notify-test", "web", "--config", config)
    assert answer.code == 0, answer.out + answer.err
    ops = answer.out.splitlines()[1]
    assert ops.startswith("ops      delivered (")
    assert ops.endswith("sent by this command)")
    assert "The daemon does not run with such sinks now" in answer.out
    got = web.next()
    assert got["title"].endswith(": TEST")
    assert "for policy web. Nothing has happened" in got["message"]


def test_all_sinks_and_what_is_wrong_with_them(config: Path, web: Web) -> None:
    web.close()
    answer = oomguard("notify-test", "--json", "--config", config)
    assert (answer.code, answer.json["ok"]) == (1, False)
    said = {sink["sink"]: (sink["ok"], sink["error"], sink["hint"]) for sink in answer.json["sinks"]}
    assert said["journal"][0]
    assert said["ops"] == (False, "connection refused", "nobody listens at that host and port")
    assert said["hook"] == (False, "/usr/bin/false ended with 1", "")
    assert "TopSecretToken" not in answer.out + answer.err


# What a stranger writes, and what he is told: the sink's table, or the URL of its file, the error, and what to do.
SLIPS = {
    "refused": ("json://127.0.0.1:9/x", "connection refused", "nobody listens at that host and port"),
    "no-name": ("json://no-such-host.invalid/x", "the server's name cannot be resolved", "no network, or no DNS?"),
    "unknown": ("nosuch://TopSecretToken/x", "apprise knows no such URL (nosuch://...)", "says how its URLs look"),
    "too-short": ("slack://TopSecretToken", "apprise knows no such URL (slack://...)", "says how its URLs look"),
    "no-url": ("TopSecretToken", "url-no-url does not hold one URL", "one line, as in mailtos://user:password@"),
    "moved": ("json://{host}/404/x", "it does not know that address", "is the URL still right?"),
    "revoked": ("json://{host}/403/x", "it refuses us", "is the token or the password still right?"),
    "broken": ("json://{host}/500/x", "the server has an error of its own", "its log says more"),
    "no-tls": ("jsons://{host}/x", "it does not speak TLS there", "json:// and not jsons://"),
    "open": ("json://{host}/x", "others may read", "chmod 0600"),
    "gone": (None, "there is no file", "it holds the URL and nothing else, mode 0600"),
}
PROGRAMS = {
    "fails": ("#!/bin/sh\necho no such pager >&2; exit 7\n", 0o755, "ended with 7: no such pager", ""),
    "no-bit": ("#!/bin/sh\n", 0o644, "Permission denied", "chmod a+rx"),
    "no-head": ("true\n", 0o755, "Exec format error", "a script's first line names its interpreter: #!/bin/sh"),
    "no-shell": (
        "#!/bin/no-such-shell\n",
        0o755,
        "No such file or directory",
        "its interpreter may be what is missing",
    ),
}


@pytest.fixture
def open_place() -> Iterator[Path]:
    """Which the user may look into as whom programs run."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def test_whatever_is_wrong_with_a_sink_is_told_with_what_to_do(open_place: Path, web: Web) -> None:
    """All of it at once, more than the sender sends at a time; and one that is right among them."""
    lines = [f'[daemon]\nruntime_dir = "{open_place}/run"\n{HOST}[sinks.right]\nurl = "{web.url}"\n']
    for name, (url, _, _) in SLIPS.items():
        secret = open_place / f"url-{name}"
        if url is not None:
            secret.write_text(url.format(host=web.url.split("/")[2]))
            secret.chmod(0o644 if name == "open" else 0o600)
        lines.append(f'[sinks.{name}]\nurl_file = "{secret}"\n')
    for name, (text, mode, _, _) in PROGRAMS.items():
        (open_place / name).write_text(text)
        (open_place / name).chmod(mode)
        lines.append(f'[sinks.{name}]\nrun = ["{open_place / name}"]\n')
    config = open_place / "oomguard.toml"
    config.write_text("".join(lines))
    config.chmod(0o600)
    answer = oomguard("notify-test", "--json", "--config", config)
    assert (answer.code, answer.err) == (1, "")
    told = {sink["sink"]: (sink["error"], sink["hint"]) for sink in answer.json["sinks"]}
    assert told.pop("journal") == told.pop("right") == ("", "")
    expected = {name: slip[-2:] for name, slip in (*SLIPS.items(), *PROGRAMS.items())}
    assert told.keys() == expected.keys()
    for name, (error, hint) in expected.items():
        assert error in told[name][0], name
        assert hint in told[name][1], name
    assert "TopSecretToken" not in answer.out


def test_a_desktop_where_nobody_is(tmp_path: Path) -> None:
    """No fault of the sink's; that nobody has seen it is said."""
    path = tmp_path / "oomguard.toml"
    path.write_text(f'[daemon]\nruntime_dir = "{tmp_path}/run"\n{HOST}[sinks.screen]\ndesktop = true\n')
    if os.path.isdir("/run/systemd/sessions") and os.listdir("/run/systemd/sessions"):
        pytest.skip("somebody is logged in here, who would be shown it")
    answer = oomguard("notify-test", "--config", path)
    assert answer.code == 0, answer.out + answer.err
    assert answer.out.splitlines()[1].startswith("screen   nobody is logged in (/run/systemd/sessions) (")


@pytest.mark.parametrize(("library", "sink"), [("apprise", 'url = "json://h/x"'), ("jeepney", "desktop = true")])
def test_a_library_that_is_missing(tmp_path: Path, library: str, sink: str) -> None:
    """The sender is a Python of its own, which PYTHONPATH does not reach: so one without it."""
    path = tmp_path / "oomguard.toml"
    path.write_text(f'[daemon]\nruntime_dir = "{tmp_path}/run"\n{HOST}[sinks.it]\n{sink}\n')
    path.chmod(0o600)
    (tmp_path / "python").write_text(WITHOUT.format(python=sys.executable, library=library))
    (tmp_path / "python").chmod(0o755)
    code = f"import sys; sys.executable = {str(tmp_path / 'python')!r}; import oomguard.cli.main as it; it.main()"
    for words, exit_code in ((["notify-test"], 1), (["check"], 2)):
        call = [sys.executable, "-c", code, *words, "--config", str(path)]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        assert done.returncode == exit_code, done.stdout + done.stderr
        assert f"{library} is not installed" in done.stdout + done.stderr
        assert "make install EXTRAS=" in done.stdout + done.stderr


WITHOUT = """\
#!{python} -I
import runpy, sys
sys.modules[{library!r}] = None
at = sys.argv.index("-m")
sys.argv = sys.argv[at + 1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def test_ctrl_c_is_quiet(config: Path, web: Web) -> None:
    """A terminal sends it to all: the process that sends has nothing to say of it, and does not stay."""
    web.mode = "mute"
    call = [sys.executable, "-m", "oomguard", "notify-test", "web", "--config", str(config)]
    process = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    web.asked.wait(PATIENCE_S)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_S)  # the sender has the same standard error: it has ended, too
    assert (process.returncode, err) == (130, b""), out


def test_a_policy_that_is_not_there(config: Path) -> None:
    answer = oomguard("notify-test", "wbe", "--config", config)
    assert (answer.code, answer.err) == (2, "oomguard: there is no policy wbe: there are host, web\n")


def test_without_sinks_there_is_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "oomguard.toml"
    path.write_text(HOST)
    answer = oomguard("notify-test", "--config", path)
    assert answer.code == 0
    assert answer.out.startswith("journal  ")
    assert answer.out.splitlines()[-1].startswith("There is no sink besides the journal")


def test_check_finds_what_a_sink_lacks(config: Path) -> None:
    assert oomguard("check", "--config", config).code == 0
    text = config.read_text().replace("/usr/bin/false", "/usr/bin/no-such-program")
    config.write_text(text)
    answer = oomguard("check", "--config", config)
    line = text.splitlines().index("[sinks.hook]") + 1
    assert answer.code == 2
    assert f"{config}:{line}: sinks.hook: there is no file /usr/bin/no-such-program" in answer.err
    answer = oomguard("check", "--json", "--config", config)
    assert (answer.code, answer.json["ok"]) == (2, False)


def test_show_says_everything_but_the_secret(tmp_path: Path) -> None:
    path = tmp_path / "oomguard.toml"
    path.write_text(f'{HOST}[sinks.ops]\nurl = "slack://TokenOfAll/Secrets/Here"\n')
    path.chmod(0o600)
    for words in ((), ("--json",), ("--plain",)):
        answer = oomguard("show", "--config", path, *words)
        assert "slack://***" in answer.out
        assert "TokenOfAll" not in answer.out
    answer = oomguard("show", "--config", path)
    line = path.read_text().splitlines().index("[sinks.ops]") + 2
    assert f'url = "slack://***"                       # {path}:{line}\n' in answer.out
