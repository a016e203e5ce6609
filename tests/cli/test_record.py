"""``oomguard record``: one more reader of the running daemon's flight recorder, which notices nothing of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from oomguard.report import recording, store

from .command import HOST, oomguard

CALL = (sys.executable, "-m", "oomguard")


def until(what: str, *words: str | Path) -> None:
    deadline = time.monotonic() + 60
    while oomguard(*words).code != 0:
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Path]:
    """A daemon that only observes, as it runs."""
    if os.geteuid() != 0:
        pytest.skip("only root may read the recorder of another process")
    path = tmp_path / "policy.toml"
    path.write_text(f'[daemon]\nruntime_dir = "{tmp_path}/run"\nstate_dir = "{tmp_path}/state"\n{HOST}')
    path.chmod(0o644)
    with (tmp_path / "log").open("wb") as log:
        daemon = subprocess.Popen([*CALL, "run", "--observe", "--config", path], stderr=log)
    try:
        until(f"the daemon does not start: {(tmp_path / 'log').read_text()}", "status", "--config", path)
        yield path
    finally:
        daemon.terminate()
        daemon.wait()


def test_what_the_daemon_sees_is_kept_and_can_be_judged(config: Path, tmp_path: Path) -> None:
    file = tmp_path / "day.zst"
    done = oomguard("record", "--for", "3s", "-o", file, "--config", config, "--json")
    assert (done.code, done.err) == (0, "")
    assert done.json["turns"] >= 2
    assert done.json["gaps"] == 0
    doc = store.load_file(file)
    assert len(doc["ring"]) == done.json["turns"]
    assert doc["guards"][0]["name"] == "host"
    assert oomguard("incidents", "replay", file, "--policy", config).code == 0, "nobody would have been killed"
    assert oomguard("incidents", "show", file).out.startswith("A recording of ")
    report = tmp_path / "day.html"
    assert oomguard("incidents", "report", file, "-o", report).code == 0
    assert "under host" in report.read_text()
    again = oomguard("record", "--for", "3s", "-o", file, "--config", config)
    assert (again.code, again.err) == (1, f"oomguard: {file} exists already; name another with -o\n")


def test_ctrl_c_leaves_a_whole_file(config: Path, tmp_path: Path) -> None:
    file = tmp_path / "cut.zst"
    recorder = subprocess.Popen([*CALL, "record", "-o", file, "--config", config], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(0.5)
    recorder.send_signal(signal.SIGINT)
    _, said = recorder.communicate(timeout=60)
    assert (recorder.returncode, said) == (0, b"")
    assert store.load_file(file)["lost"] == {}


def test_it_has_a_bound(tmp_path: Path) -> None:
    writer = recording.Writer(tmp_path / "x.zst", {"id": "x"}, 20_000)
    turn = {"kind": "Turn", "seen": {"at_ns": 1}, "noise": ""}
    while not writer.full:
        writer.turn({**turn, "noise": os.urandom(500).hex()})
    writer.close()
    assert (tmp_path / "x.zst").stat().st_size < 400_000, "what the packer held back comes on top"
    assert len(recording.read(tmp_path / "x.zst")["ring"]) == writer.turns


def test_a_recording_that_was_cut_off_says_so(tmp_path: Path) -> None:
    path = tmp_path / "x.zst"
    writer = recording.Writer(path, {"id": "x"}, 1 << 30)
    for _ in range(2000):
        writer.turn({"kind": "Turn", "seen": {"at_ns": 1}, "noise": os.urandom(200).hex()})
    writer.close()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    doc = recording.read(path)
    assert doc["lost"] == {"ring": 1}
    assert 0 < len(doc["ring"]) < 2000


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--for", "soon"), 2, "--for: 'soon' is not a time"),
        (("--max-bytes", "much"), 2, "--max-bytes: 'much' is not a size"),
        (("--runtime-dir", "/nowhere"), 1, "/nowhere"),
    ],
)
def test_used_wrongly(words: tuple[str, ...], code: int, said: str) -> None:
    done = oomguard("record", *words)
    assert (done.code, done.out, len(done.err.splitlines())) == (code, "", 1)
    assert said in done.err


def test_what_is_no_recording(tmp_path: Path) -> None:
    (tmp_path / "no.zst").write_bytes(b"x")
    done = oomguard("incidents", "replay", tmp_path / "no.zst")
    assert (done.code, done.out, len(done.err.splitlines())) == (1, "", 1)
    assert "neither an exported incident nor a recording" in done.err
