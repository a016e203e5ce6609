"""``oomguard incidents`` as people and programs call it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

RECORDED = Path(__file__).parent.parent / "report" / "incidents" / "schema-1"
ONE = "20260131T031204Z-host-072511"
CALL = [sys.executable, "-c", "from oomguard.cli.incidents import app; app(prog_name='incidents')"]


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    shutil.copytree(RECORDED, tmp_path / "state")
    return tmp_path / "state"


def incidents(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "COLUMNS": "100", **environment}
    return subprocess.run([*CALL, *map(str, arguments)], capture_output=True, text=True, env=env, check=False)


def test_list_for_programs(state_dir: Path) -> None:
    done = incidents("list", "--json", "--state-dir", state_dir)
    (found,) = json.loads(done.stdout)
    relied_upon = {
        "id",
        "time",
        "policy",
        "cgroup",
        "kind",
        "mode",
        "killed_by",
        "victims",
        "freed_bytes",
        "latency_ms",
    }
    assert relied_upon <= set(found)
    assert {"pid", "comm", "cgroup", "bytes"} <= set(found["victims"][0])
    assert (done.returncode, done.stderr) == (0, "")


def test_list_for_people(state_dir: Path) -> None:
    shutil.copytree(state_dir / "incidents" / ONE, state_dir / "incidents" / "20250101T000000Z-x-abcdef")
    (state_dir / "incidents" / "20250101T000000Z-x-abcdef" / "incident.json").write_text("{")
    head, newest, damaged = incidents("list", "--state-dir", state_dir).stdout.splitlines()
    assert head.split() == ["TIME", "KIND", "POLICY", "KILLED", "BY", "VICTIM", "FREED", "LATENCY", "ID"]
    expected = ["2026-01-31T03:12:04Z", "hard", "host", "oomguard", "import[1234]", "705", "MiB", "3.0", "ms", ONE]
    assert newest.split() == expected
    assert damaged.startswith("2025-01-01T00:00:00Z  damaged  x ")


def test_none_yet(tmp_path: Path) -> None:
    done = incidents("list", "--state-dir", tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == f"no incidents in {tmp_path}/incidents\n"
    assert json.loads(incidents("list", "--json", "--state-dir", tmp_path).stdout) == []


@pytest.mark.parametrize("wanted", [ONE, "072511", "20260131", "last"])
def test_show(state_dir: Path, wanted: str) -> None:
    done = incidents("show", wanted, "--state-dir", state_dir)
    assert done.stdout.startswith("oomguard killed import[1234], holding 700 MiB,")
    assert "\x1b" not in done.stdout  # a pipe is no terminal
    assert (done.returncode, done.stderr) == (0, "")


def test_show_for_programs_is_the_incident_itself(state_dir: Path) -> None:
    done = incidents("show", ONE, "--json", "--state-dir", state_dir)
    told = json.loads(done.stdout)
    assert isinstance(told.pop("advice"), list)  # what is not in the file, but made from it
    assert told == json.loads((state_dir / "incidents" / ONE / "incident.json").read_text())


@pytest.mark.parametrize("arguments", [["nope"], ["nope", "--json"]])
def test_no_such_incident(state_dir: Path, arguments: list[str]) -> None:
    done = incidents("show", *arguments, "--state-dir", state_dir)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"oomguard: there is no incident nope in {state_dir}/incidents\n"


@pytest.mark.parametrize("content", [None, "{"])
def test_a_damaged_one_is_a_sentence_not_a_traceback(state_dir: Path, content: str | None) -> None:
    path = state_dir / "incidents" / ONE / "incident.json"
    path.unlink()
    if content:
        path.write_text(content)
    done = incidents("show", ONE, "--state-dir", state_dir)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1)


def test_the_configured_state_directory(state_dir: Path, tmp_path: Path) -> None:
    config = tmp_path / "oomguard.toml"
    config.write_text(f'[daemon]\nstate_dir = "{state_dir}"\n')
    config.chmod(0o644)
    assert ONE in incidents("list", "--config", config).stdout


def test_a_wrong_policy_does_not_hide_the_past(state_dir: Path, tmp_path: Path) -> None:
    config = tmp_path / "oomguard.toml"
    config.write_text(f'[daemon]\nstate_dir = "{state_dir}"\nnonsense = 1\n[policy.x]\n')
    config.chmod(0o644)
    assert ONE in incidents("list", "--config", config).stdout


def test_ones_own_incidents_without_root(state_dir: Path, tmp_path: Path) -> None:
    """`make run` without root keeps them in one's own state directory."""
    home = tmp_path / "xdg"
    shutil.copytree(state_dir, home / "oomguard")
    config = tmp_path / "oomguard.toml"
    config.write_text(f'[daemon]\nstate_dir = "{tmp_path}/none"\n')
    config.chmod(0o644)
    assert ONE in incidents("list", "--config", config, XDG_STATE_HOME=str(home)).stdout
