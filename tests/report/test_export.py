"""What an incident is handed on with: no secrets, or no names either; and two incidents beside each other."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from oomguard.report import compare, export, replay, store
from tests.incidents.recorded import Recorded
from tests.judge.world import MIB, Body, host_guard, plan, process

SECRETS = (  # what stands in a command line, and what of it must be gone
    ("mysql --password=hunter2", "hunter2"),
    ("curl -H 'Authorization: Bearer abcdef123456'", "abcdef123456"),
    ("psql postgres://joe:s3cr3t@db/x", "s3cr3t"),
    ("run TOKEN=xyzzy99", "xyzzy99"),
    ("deploy ghp_0123456789abcdefghijABCDEFGHIJ", "ghp_0123456789"),
    ("aws AKIAABCDEFGHIJKLMNOP", "AKIAABCDEFGHIJKLMNOP"),
)


@pytest.fixture(scope="module")
def incident() -> dict[str, Any]:
    leak = Body(process(500, "payroll", "/system.slice/payroll-db.service", 10), 60)
    world = Recorded(plan(host_guard()), [leak, Body(process(30, "sshd", "/system.slice/ssh.service", 200))])
    world.run(120_000, lambda w: bool(w.died) and all(s.phase == "calm" for s in w.state.targets.values()))
    doc = world.incident()
    doc["hostname"] = "bank17"
    doc["evidence"]["cmdlines"] = {str(number): line for number, (line, _) in enumerate(SECRETS)}
    doc["evidence"]["kernel_log"] = ["[ 1.0] payroll invoked oom-killer"]
    return doc


def test_by_default_no_secret_leaves(incident: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "raw" / "soft").mkdir(parents=True)
    (tmp_path / "raw" / "soft" / "mounts").write_bytes(b"//nas/x /x cifs rw,password=hunter2 0 0\n\xff\n")
    (tmp_path / "raw" / "soft" / "link").symlink_to("/etc/shadow")
    file = io.BytesIO()
    names = export.write(file, incident, tmp_path, "secrets")
    assert names == [f"{incident['id']}/incident.json", f"{incident['id']}/raw/soft/mounts"]
    file.seek(0)
    with tarfile.open(fileobj=file) as tar:
        content = b"".join(tar.extractfile(member).read() for member in tar)  # type: ignore[union-attr]
    for _, secret in SECRETS:
        assert secret.encode() not in content
    assert b"\xff" in content, "what is not UTF-8 stays as it is"


def test_without_secrets_it_is_still_judged_the_same(incident: dict[str, Any]) -> None:
    assert replay.again(export.redacted(incident, "secrets")).differences == []


def test_without_names_nobody_is_known(incident: dict[str, Any]) -> None:
    doc = export.redacted(incident, "names")
    text = json.dumps(doc)
    for name in ("payroll", "bank17", "sshd", "ssh.service"):
        assert name not in text
    assert "cmdlines" not in doc["evidence"]
    victim = doc["victims"][0]
    assert victim["cgroup"].startswith("/system.slice/name-")
    assert victim["cgroup"].endswith(".service")
    assert any(victim["comm"] in entry["text"] for entry in doc["timeline"]), "the same other name everywhere"
    assert replay.again(doc).was is not None, "and it can be judged: nobody was named in the policy"


def test_as_it_is(incident: dict[str, Any]) -> None:
    assert export.redacted(incident, "none") == incident


@pytest.mark.parametrize("text", ["", "x" * 10_000, "a\nb", "\udcff raw", "password=" + "y" * 5000])
def test_a_text_of_any_length(text: str) -> None:
    cleaned = export.clean_text(text)
    assert cleaned.count("\n") == text.count("\n")
    assert "yyyy" not in cleaned or len(text) > 2000


def test_a_tar_is_an_incident_again(incident: dict[str, Any], tmp_path: Path) -> None:
    from oomguard.report import packed

    path = tmp_path / "ticket.tar.zst"
    with packed.writing(path) as file:
        export.write(file, incident, None, "none")
    assert store.load_file(path) == incident
    assert path.read_bytes()[:4] == packed.MAGIC
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(store.Damaged):
        store.load_file(path)
    path.write_bytes(b"no zstd at all")
    with pytest.raises(store.Damaged):
        store.load_file(path)


# -- diff --------------------------------------------------------------------------------------------------------------


def test_an_incident_is_the_same_as_itself(incident: dict[str, Any]) -> None:
    assert not any(row.differs for row in compare.rows(incident, incident))


def test_what_differs_is_said(incident: dict[str, Any]) -> None:
    other = json.loads(json.dumps(incident))
    other["victims"][0]["comm"] = "cron"
    other["guard"]["cooldown_ns"] = 1
    other["evidence"]["processes"][0]["held_bytes"] += 100 * MIB
    found = {row.what: row for row in compare.rows(incident, other) if row.differs}
    assert found["victims"].telling
    assert (found["victims"].one, found["victims"].other) == ("payroll", "cron")
    assert found["policy: cooldown_ns"].other == "1"
    assert "held by payroll" in found


# -- prune -------------------------------------------------------------------------------------------------------------


def test_the_oldest_go_and_what_is_open_stays(tmp_path: Path) -> None:
    for day in range(1, 6):
        path = tmp_path / "incidents" / f"2026010{day}T000000Z-host-00000{day}"
        path.mkdir(parents=True)
        (path / "incident.json").write_bytes(b"x" * 8192)
    (tmp_path / "incidents" / "20260101T000000Z-host-000001" / "ring.jsonl").touch()
    found = store.kept(tmp_path)
    assert [it.open for it in found] == [True, False, False, False, False]
    days = [it.id[7:8] for it in store.too_many(found, count=3)]
    assert days == ["2", "3"]
    assert [it.id[7:8] for it in store.too_many(found, most_bytes=8192)] == ["2", "3", "4", "5"]
    assert [it.id[7:8] for it in store.too_many(found, before_s=found[2].time_s)] == ["2"]
    assert store.too_many(found) == []
