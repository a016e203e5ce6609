"""The sender as it runs: executed, its secrets read, its rights given up; against servers that behave badly."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oomguard.model.policy import Sink
from oomguard.workers import sender as module
from oomguard.workers.answer import Answer
from oomguard.workers.sender import Sender
from oomguard.workers.services import reason, unmentioned, without

from .sending import PATIENCE_S, SECOND_NS, Sending, Web, url_sink

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: there is nothing to drop")
SECRET = "TopSecretToken"

Start = Callable[..., Sending]


@pytest.fixture
def place() -> Iterator[Path]:
    """A runtime directory that anybody may look into."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture
def start(place: Path) -> Iterator[Start]:
    started: list[Sending] = []

    def begin(*sinks: Sink) -> Sending:
        started.append(Sending("sender", place, *sinks))
        return started[-1]

    yield begin
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


@pytest.fixture
def web() -> Iterator[Web]:
    made = Web()
    yield made
    made.close()


def test_a_url_is_told(place: Path, start: Start, web: Web) -> None:
    sending = start(url_sink(place, web.url))
    answer = sending.told(number=7)
    assert (answer["error"], answer["sink"], answer["number"]) == ("", "ops", 7)
    got = web.next()
    assert (got["path"], got["title"], got["message"], got["type"]) == (
        *(f"/{SECRET}", "oomguard on box: killed", "killed x", "warning"),
    )
    assert sending.close() == 0


def test_a_url_of_the_policy_itself(place: Path, start: Start, web: Web) -> None:
    policy = place / "policy.toml"
    policy.write_text(f'[sinks.ops]\nurl = "{web.url}"\n')
    sending = start(Sink("ops", "url", ("killed",), 0, service="json", file=str(policy)))
    assert sending.told()["error"] == ""
    assert web.next()["message"] == "killed x"


def test_whatever_the_server_does_is_an_answer(place: Path, start: Start, web: Web) -> None:
    """And no word of it has the token, which stands in the URL."""
    sending = start(url_sink(place, web.url))
    for mode, error in {
        "mute": "it does not answer in time",
        "forbidden": "it refuses us",
        "broken": "",
        "gone": "",
        "refuses": "connection refused",
    }.items():
        web.mode = mode
        if mode == "refuses":
            web.close()
        answer = sending.told()
        assert answer["error"], mode
        assert answer["error"] == error or not error
        assert SECRET not in json.dumps(answer)


def test_one_that_hangs_keeps_nobody_from_being_told(place: Path, start: Start, web: Web) -> None:
    web.mode = "mute"
    quick = Web()
    mute = url_sink(place, web.url.replace("rto=1", "rto=60"), "mute")
    sending = start(mute, url_sink(place, quick.url, "quick"))
    sending.ask("mute")
    sending.ask("quick")
    assert sending.answer()["sink"] == "quick"
    quick.close()


WRONG = {
    "open": ("json://127.0.0.1:1/x", 0o644, "others may read"),
    "empty": ("", 0o600, "does not hold one URL"),
    "two": ("json://a/x\njson://b/x", 0o600, "does not hold one URL"),
    "strange": ("nosuchservice://TopSecretToken", 0o600, "apprise knows no such URL (nosuchservice://...)"),
    "gone": (None, 0, "there is no file"),
}


def test_a_secret_that_is_not_as_it_should_be(place: Path, start: Start, web: Web) -> None:
    """The sink says so, each time; the others and the daemon go on."""
    sinks = {name: url_sink(place, text or "", name) for name, (text, _, _) in WRONG.items()}
    for name, (text, mode, _) in WRONG.items():
        if text is None:
            os.unlink(sinks[name].file)
        else:
            os.chmod(sinks[name].file, mode)
    sending = start(*sinks.values(), url_sink(place, web.url))
    for name, (_, _, said) in WRONG.items():
        answer = sending.told(name)
        assert said in answer["error"]
        assert SECRET not in json.dumps(answer)
    assert sending.told()["error"] == ""
    sending.process.kill()
    assert SECRET not in sending.words()


@AS_ROOT
def test_it_has_no_rights_and_is_the_first_to_go(place: Path, start: Start, web: Web) -> None:
    sending = start(url_sink(place, web.url))
    assert sending.told()["error"] == ""
    status = sending.status()
    assert "0" not in status["Uid"].split()
    assert status["Groups"].strip() == ""
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert Path(f"/proc/{sending.process.pid}/oom_score_adj").read_text().strip() == "1000"
    limits = Path(f"/proc/{sending.process.pid}/limits").read_text()
    assert f"Max data size             {module.HEAP_MAX}" in limits


@AS_ROOT
def test_nobody_else_may_ask(place: Path, start: Start, web: Web) -> None:
    """Hooks run as the same user as the sender: they are strangers too."""
    start(url_sink(place, web.url))
    ask = (
        "import socket\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
        f"s.connect('{place}/sender')\n"
        """s.send(b'{"sink": "ops", "number": 1, "test": ""}')\n"""
        "s.settimeout(60)\n"
        "print(s.recv(1000))\n"
    )
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if python is None:
        pytest.skip("no Python that everybody may execute")
    for uid in (65534, 4242):
        shell = f"{python} -I -S -c {shlex.quote(ask)}; true"  # not our child: we are in the place of the core
        argv = ["/bin/sh", "-c", shell]
        done = subprocess.run(argv, check=False, user=uid, group=uid, extra_groups=(), capture_output=True)
        assert done.stdout in (b"b''\n", b""), done
        assert b"PermissionError" not in done.stderr, "it was not even heard"
    assert web.got == []


def hook(directory: Path, text: str) -> Sink:
    path = directory / "hook"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return Sink("ops", "run", ("killed",), 0, argv=(str(path), "a b"))


def test_a_program_is_told_everything_as_json(place: Path, start: Start) -> None:
    out = place / "out"
    out.mkdir()
    out.chmod(0o777)
    sending = start(hook(place, f'echo "$1" > {out}/argument; cat > {out}/told'))
    assert sending.told(title="it")["error"] == ""
    assert (out / "argument").read_text() == "a b\n"
    told = json.loads((out / "told").read_text())
    assert (told["version"], told["title"], told["counts"]) == (1, "it", {"killed": 1})
    if os.geteuid() == 0:
        assert (out / "told").stat().st_uid != 0


def test_a_program_that_fails_says_why(place: Path, start: Start) -> None:
    answer = start(hook(place, "echo no paper >&2; exit 3")).told()
    assert answer["error"] == f"{place}/hook ended with 3: no paper"


def test_a_test_says_that_it_is_one(place: Path, start: Start, web: Web) -> None:
    sending = start(url_sink(place, web.url))
    sending.end.send(b'{"sink": "ops", "number": 1, "test": "web"}')
    assert sending.answer()["error"] == ""
    got = web.next()
    assert got["title"].endswith(": TEST")
    assert "for policy web. Nothing has happened" in got["message"]


def test_a_sink_that_it_does_not_know(place: Path, start: Start, web: Web) -> None:
    answer = start(url_sink(place, web.url)).told("other")
    assert answer["hint"] == "systemctl reload oomguard"


def test_what_is_no_request_is_no_end(place: Path, start: Start, web: Web) -> None:
    sending = start(url_sink(place, web.url))
    for data in (b"{", b"[]", b"3", b'{"sink": []}', b"\xff"):
        sending.end.send(data)
    assert sending.told()["error"] == ""


def test_it_ends_with_the_daemon_and_delivers_what_it_was_given(place: Path, start: Start, web: Web) -> None:
    sending = start(url_sink(place, web.url))
    sending.ask()
    assert sending.close() == 0
    assert web.next()["message"] == "killed x"


def test_apprise_that_is_not_there(place: Path, web: Web, tmp_path: Path) -> None:
    """Told for each sink that needs it, with what to install; a program needs nothing."""
    text = (
        "import sys\nsys.modules['apprise'] = None\n"
        "from oomguard.model.policy import Sink\nfrom oomguard.workers.services import Services\n"
        "made = Services([], {'ops': 'json://x/y'})\n"
        "print(made.deliver(Sink('ops', 'url', (), 0), {'check': True}))"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert "apprise is not installed" in done.stdout
    assert "EXTRAS=notify" in done.stdout


# -- the deadline, in this very process


def test_a_delivery_that_hangs_is_ended_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DEADLINE_S", 0.2)

    def hang(_sink: Sink, _request: object) -> Answer:
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
        while True:
            time.sleep(100)

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    alive, core_end = os.pipe()
    loop = Sender({"ops": Sink("ops", "url", (), SECOND_NS)}, hang, alive, None)
    loop.greet(theirs)
    thread = threading.Thread(target=loop.run)
    ours.send(b'{"sink": "ops", "number": 1, "test": ""}')
    ours.settimeout(PATIENCE_S)
    thread.start()
    answer = json.loads(ours.recv(1 << 20))
    assert answer["error"] == "it took more than 0 s, and was ended"
    ours.close()
    os.close(core_end)
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    os.close(alive)


def test_no_more_than_eight_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LAST_S", 0.5)

    def hang(_sink: Sink, _request: object) -> Answer:
        time.sleep(PATIENCE_S)
        return Answer()

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    alive, core_end = os.pipe()
    loop = Sender({"ops": Sink("ops", "url", (), SECOND_NS)}, hang, alive, None)
    loop.greet(theirs)
    for number in range(module.DELIVERIES_MAX + 1):
        ours.send(json.dumps({"sink": "ops", "number": number, "test": ""}).encode())
    os.close(core_end)
    loop.run()
    ours.settimeout(PATIENCE_S)
    answer = json.loads(ours.recv(1 << 20))
    assert (answer["number"], answer["error"]) == (module.DELIVERIES_MAX, "8 messages are under way already")
    os.close(alive)
    for delivery in loop._deliveries:
        delivery.kill()
        os.waitpid(delivery.pid, 0)


# -- words


def test_no_part_of_a_url_is_told() -> None:
    url = "slack://Bot@TokenOfAll/b%40c%20d/%23channel?token=x1234"
    text = "failed: https://hooks.slack.com/TokenOfAll/b@c d/#channel x1234 Bot"
    assert without(text, url) == "failed: https://hooks.slack.com/***/***/*** *** Bot"


def test_a_process_cannot_wake_a_whole_channel() -> None:
    for name in ("@everyone", "@here", "<!channel>", "<@U123>"):
        assert name not in unmentioned(f"killed {name}[812]")
    assert unmentioned("user@1000.service: a@b.org") == "user@1000.service: a@b.org"


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("Socket Exception: [Errno 101] Network is unreachable", "there is no network here"),
        ("Socket Exception: [Errno 97] Address family not supported by protocol", "there is no network here"),
        ("NameResolutionError: Failed to resolve 'x' ([Errno -3] ...)", "the server's name cannot be resolved"),
        (
            "SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]",
            "its certificate cannot be verified",
        ),
        ("Failed to send: Unauthorized - Invalid Token, error=401.", "it refuses us"),
        ("Failed to send: error=429.", "it is told too much"),
        ("Failed in its own way", "Failed in its own way"),
    ],
)
def test_a_reason_has_a_name(line: str, error: str) -> None:
    assert reason([(10, "POST URL"), (30, line)]).error == error
