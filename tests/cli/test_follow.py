"""`oomguard incidents follow`: a line for each incident that is over, each once, however it is started again."""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .command import TIMEOUT_S, oomguard
from .test_status import RECORDED

FIRST = "20260131T031204Z-host-072511"
SECOND = "20260131T041204Z-host-072512"


def lay(state: Path, name: str, whole: bool = True, **changes: Any) -> Path:
    """An incident as the scribe leaves it; one that is not whole has its turns beside it."""
    place = state / "incidents" / name
    place.mkdir(parents=True)
    doc = json.loads(RECORDED.read_text()) | {"id": name} | changes
    if not whole:
        (place / "ring.jsonl").write_text("")
    (place / "incident.json").write_text(json.dumps(doc))
    return place


def told(*more: str) -> list[dict[str, Any]]:
    answer = oomguard("incidents", "follow", "--json", "--once", *more)
    assert (answer.code, answer.err) == (0, "")
    return [json.loads(line) for line in answer.out.splitlines()]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    (tmp_path / "incidents").mkdir()
    return tmp_path


def test_a_line_says_what_a_pipeline_wants_to_know(state: Path) -> None:
    box = {"engine": "podman", "id": "5" * 64, "pod_uid": "", "name": "web"}
    evidence = {"taken": [], "containers": {"/a.scope": box}}
    lay(state, FIRST, evidence=evidence)
    answer = oomguard("incidents", "follow", "--json", "--once", "--state-dir", str(state))
    assert len(answer.out) < 16 << 10, "longer lines are cut by container engines"
    line = json.loads(answer.out)
    assert (line["id"], line["policy"], line["killed_by"]) == (FIRST, "host", "oomguard")
    assert line["text"].startswith("oomguard killed (((")
    assert line["victims"][0]["comm"].startswith("(((")
    assert line["containers"] == {"/a.scope": box}
    assert not {"ring", "evidence", "guard", "timeline"} & line.keys()


def test_what_is_open_waits(state: Path) -> None:
    place = lay(state, FIRST, whole=False)
    assert told("--state-dir", str(state)) == []
    (place / "ring.jsonl").unlink()
    assert [line["id"] for line in told("--state-dir", str(state))] == [FIRST]


def test_each_is_told_once(state: Path) -> None:
    call = ("--state-dir", str(state), "--cursor", str(state / "cursor"))
    lay(state, SECOND)
    assert [line["id"] for line in told(*call)] == [SECOND]
    lay(state, FIRST)  # an older one, which was open for longer
    assert [line["id"] for line in told(*call)] == [FIRST]
    assert told(*call) == []
    shutil.rmtree(state / "incidents" / FIRST)
    lay(state, "20260131T051204Z-host-072513")
    assert len(told(*call)) == 1
    assert FIRST not in (state / "cursor").read_text(), "what is gone is forgotten"


def test_what_is_damaged_is_told_as_that(state: Path) -> None:
    place = lay(state, FIRST)
    (place / "incident.json").write_text("{")
    (line,) = told("--state-dir", str(state))
    assert "damaged" in line["text"]


@pytest.fixture
def following(state: Path) -> Iterator["subprocess.Popen[str]"]:
    """It runs, and has noted what there was before it."""
    lay(state, FIRST)
    call = [sys.executable, "-m", "oomguard", "incidents", "follow", "--json", "--state-dir", str(state)]
    call += ["--cursor", str(state / "cursor")]
    with subprocess.Popen(call, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: "subprocess.Popen[str]") -> dict[str, Any]:
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], TIMEOUT_S)[0], "it says nothing"
    found: dict[str, Any] = json.loads(process.stdout.readline())
    return found


def test_it_follows(state: Path, following: "subprocess.Popen[str]") -> None:
    while not (state / "cursor").exists():
        assert following.poll() is None
    place = lay(state, SECOND, whole=False)
    (place / "ring.jsonl").unlink()
    assert line_of(following)["id"] == SECOND, "and not what was there before it began"
    os.kill(following.pid, signal.SIGINT)
    assert following.wait(TIMEOUT_S) == 130


def test_there_need_not_be_any_directory_yet(tmp_path: Path) -> None:
    assert told("--state-dir", str(tmp_path / "nowhere")) == []
