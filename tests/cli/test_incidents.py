"""``oomguard incidents`` as people and programs call it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.incidents.recorded import Recorded
from tests.judge.world import Body, host_guard, plan, process

Done = subprocess.CompletedProcess[str]
RECORDED = Path(__file__).parent.parent / "report" / "incidents" / "schema-1"
ONE = "20260131T031204Z-host-072511"
CALL = [sys.executable, "-c", "from oomguard.cli.incidents import app; app(prog_name='incidents')"]


@pytest.fixture(autouse=True)
def journal(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A journal in which nobody else has killed, whatever this machine's says; write lines to it to have more."""
    directory = tmp_path_factory.mktemp("bin")
    tool = directory / "journalctl"
    tool.write_text(f"#!/bin/sh\n[ -s {directory}/lines ] || exit 1\ncat {directory}/lines\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return directory / "lines"


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    shutil.copytree(RECORDED, tmp_path / "state")
    return tmp_path / "state"


def incidents(
    *arguments: str | Path | int, as_module: bool = False, **environment: str
) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "COLUMNS": "100", **environment}
    call = [sys.executable, "-m", "oomguard", "incidents"] if as_module else CALL
    return subprocess.run([*call, *map(str, arguments)], capture_output=True, text=True, env=env, check=False)


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


def test_the_ledger_has_what_others_killed(state_dir: Path, journal: Path) -> None:
    kernel = "Out of memory: Killed process 77 (node) total-vm:8392kB, anon-rss:4096kB, file-rss:0kB, shmem-rss:0kB"
    told = [
        {"SYSLOG_IDENTIFIER": "earlyoom", "MESSAGE": 'sending SIGTERM to process 9 uid 1 "x": badness 1, VmRSS 9 MiB'},
        {"SYSLOG_IDENTIFIER": "kernel", "_TRANSPORT": "kernel", "MESSAGE": kernel},
    ]
    at_us = (1800000000_000000, 1700000000_000000)  # one before the incident, one after it
    entries = [row | {"__REALTIME_TIMESTAMP": str(at)} for row, at in zip(told, at_us, strict=True)]
    journal.write_text("\n".join(map(json.dumps, entries)))
    _, *rows = incidents("list", "--state-dir", state_dir).stdout.splitlines()
    assert [row.split()[:4] for row in rows] == [
        ["2027-01-15T08:00:00Z", "other", "earlyoom", "x[9]"],
        ["2026-01-31T03:12:04Z", "hard", "host", "oomguard"],
        ["2023-11-14T22:13:20Z", "kernel", "kernel", "node[77]"],
    ]
    plain = json.loads(incidents("list", "--json", "--state-dir", state_dir).stdout)
    assert [row["killed_by"] for row in plain] == ["earlyoom", "oomguard", "kernel"]
    assert all(set(plain[1]) <= set(row) for row in plain), "one form for all: programs need not ask which it is"
    assert len(incidents("list", "--no-others", "--state-dir", state_dir).stdout.splitlines()) == 2


def test_a_ledger_without_a_journal_says_so(state_dir: Path, journal: Path) -> None:
    tool = journal.parent / "journalctl"
    tool.write_text("#!/bin/sh\necho 'No journal files were found.' >&2\nexit 1\n")
    done = incidents("list", "--state-dir", state_dir)
    assert (done.returncode, ONE in done.stdout) == (0, True)
    assert done.stderr == "what others killed is not known: No journal files were found.\n"


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


# -- replay, report, diff, export, prune: as commands ------------------------------------------------------------------


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    """A state directory with an incident that can be judged again."""
    leak = Body(process(500, "leak", "/system.slice/leak.service", 10), 60)
    world = Recorded(plan(host_guard()), [leak, Body(process(30, "postgres", "/system.slice/pg.service", 200))])
    world.run(120_000, lambda w: bool(w.died) and all(s.phase == "calm" for s in w.state.targets.values()))
    directory = tmp_path / "judged" / "incidents" / ONE
    directory.mkdir(parents=True)
    (directory / "incident.json").write_text(json.dumps(world.incident(id=ONE)))
    return tmp_path / "judged"


def policy(path: Path, hard: str, never: str = "") -> Path:
    path.write_text(
        '[policy.host]\ncgroup = "/"\nsoft = { when = [{ available_below = "50%" }], do = ["snapshot", "nominate"] }\n'
        f'hard = {{ when = [{{ available_below = "{hard}" }}], do = ["kill"] }}\nvictim = {{ never = [{never}] }}\n'
    )
    path.chmod(0o644)
    return path


def test_replay_by_the_same_policy(judged: Path) -> None:
    done = incidents("replay", "--state-dir", judged)
    assert done.stdout.splitlines()[0].startswith(f"{ONE}  the same: leak[500] killed at +")
    assert done.stdout.splitlines()[-1].endswith("1 the same, 0 changed")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_backtest_is_a_gate(judged: Path, tmp_path: Path) -> None:
    """As a policy repository's CI would call it: 0 the same one dies, perhaps earlier; 1 another one, or nobody."""
    same = incidents("replay", judged, "--policy", policy(tmp_path / "a.toml", "10%"), "--json")
    told = json.loads(same.stdout)
    assert (same.returncode, told["changed"], told["judged"]) == (0, [], 1)
    assert told["incidents"][0]["now"]["at_ms"] < told["incidents"][0]["was"]["at_ms"]
    other = incidents("replay", judged, "--policy", policy(tmp_path / "b.toml", "10%", '{ comm = "leak" }'))
    assert other.returncode == 1
    assert "CHANGED: was leak[500] killed at" in other.stdout
    wrong = incidents("replay", judged, "--policy", policy(tmp_path / "c.toml", "soup"))
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "c.toml:4" in wrong.stderr


def test_what_cannot_be_judged_is_said(state_dir: Path) -> None:
    done = incidents("replay", "--state-dir", state_dir)
    assert done.returncode == 1
    assert "did not record with what memory the judge began" in done.stdout


def test_export_diff_and_what_they_make(judged: Path, tmp_path: Path) -> None:
    ticket = tmp_path / "ticket.tar.zst"
    done = incidents("export", "last", "-o", ticket, "--state-dir", judged)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{ticket}\n", "")
    assert ticket.stat().st_mode & 0o777 == 0o640
    assert incidents("show", ticket).stdout.startswith("oomguard killed leak[500],")
    assert incidents("replay", ticket).returncode == 0
    same = incidents("diff", ticket, judged / "incidents" / ONE)
    assert (same.returncode, same.stdout.splitlines()[-1]) == (0, "the same trouble again")
    other = incidents("diff", ticket, RECORDED / "incidents" / ONE, "--json")
    assert (other.returncode, json.loads(other.stdout)["same"]) == (1, False)
    wrong = incidents("export", "last", "--redact", "all", "--state-dir", judged)
    assert (wrong.returncode, wrong.stderr) == (2, "oomguard: --redact all: it may be secrets, names, none\n")


def test_prune(judged: Path) -> None:
    older = judged / "incidents" / "20200101T000000Z-host-abcdef"
    shutil.copytree(judged / "incidents" / ONE, older)
    told = incidents("prune", "--keep", 1, "--dry-run", "--json", "--state-dir", judged)
    assert json.loads(told.stdout)["removed"] == [older.name]
    assert older.exists()
    assert incidents("prune", "--older-than", "30000d", "--state-dir", judged).stdout == ""
    assert incidents("prune", "--older-than", "365d", "--state-dir", judged).stdout == f"removed {older.name}\n"
    assert not older.exists()
    for words in ([], ["--max-bytes", "much"], ["--older-than", "1 fortnight"]):
        done = incidents("prune", *words, "--state-dir", judged)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)


def test_report(judged: Path, tmp_path: Path) -> None:
    done = incidents("report", "last", "-o", tmp_path / "x.html", "--state-dir", judged)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{tmp_path}/x.html\n", "")
    assert "leak[500]" in (tmp_path / "x.html").read_text()
    done = incidents("report", "last", "-o", tmp_path / "none" / "x.html", "--state-dir", judged, as_module=True)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
