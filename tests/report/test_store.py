"""The list of incidents survives what a bad night leaves behind."""

import json
import os
import shutil
from pathlib import Path

import jsonschema
import pytest

import oomguard.report
from oomguard.model.codec import from_plain
from oomguard.model.incident import SCHEMA_VERSION, Turn
from oomguard.report import compare, export, packed, page, replay, store, text

RECORDED = Path(__file__).parent / "incidents"
ONE = "20260131T031204Z-host-072511"


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    """A state directory with the recorded incident."""
    shutil.copytree(RECORDED / "schema-1", tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION + 1))
def test_an_incident_of_every_schema_stays_readable(version: int) -> None:
    directory = RECORDED / f"schema-{version}"
    (summary,) = store.list_incidents(directory)
    assert not summary.damaged
    schema = json.loads((Path(oomguard.report.__file__).parent / "incident.schema.json").read_text())
    doc = store.load(directory, summary.id)
    if version == SCHEMA_VERSION:
        jsonschema.validate(doc, schema)
    turns = [from_plain(turn) for turn in doc["ring"]]
    assert turns
    assert all(isinstance(turn, Turn) for turn in turns)


@pytest.mark.parametrize("version", range(1, SCHEMA_VERSION + 1))
def test_whatever_is_made_of_an_incident_is_made_of_one_of_every_schema(version: int, tmp_path: Path) -> None:
    doc = store.load(RECORDED / f"schema-{version}", "last")
    for whole in (False, True):
        assert text.half_page(doc, whole=whole).startswith("oomguard killed ")
    assert f"<title>{doc['id']}</title>" in page.page(doc)
    newest = store.load(RECORDED / f"schema-{SCHEMA_VERSION}", "last")
    assert compare.rows(doc, newest)
    for level in ("secrets", "names", "none"):
        path = tmp_path / f"{level}.tar.zst"
        with packed.writing(path) as file:
            export.write(file, doc, None, level)  # type: ignore[arg-type]
        assert store.load_file(path)["schema"] == version


def test_an_incident_of_the_first_day_of_this_schema_is_told_and_judged_as_then() -> None:
    """The judge has learnt since (other leases), but the same one dies, at the same turn."""
    doc = store.load(RECORDED / "schema-2", "last")
    assert text.sentence(doc).startswith("oomguard killed ((([46], holding 63.7 MiB, because the machine ran out")
    told = replay.again(doc)
    assert told.was == told.now is not None
    assert all(difference.was == ("as recorded",) for difference in told.differences)


def test_what_the_list_says(state_dir: Path) -> None:
    (summary,) = store.list_incidents(state_dir)
    plain = summary.plain()
    (victim,) = plain.pop("victims")
    assert plain == {
        "id": ONE,
        "time": "2026-01-31T03:12:04.977Z",
        "policy": "host",
        "cgroup": "/",
        "kind": "hard",
        "mode": "enforce",
        "killed_by": "oomguard",
        "freed_bytes": 739246080,
        "latency_ms": 3.0,
        "complete": True,
        "ended": "",
        "damaged": "",
    }
    assert {key: victim[key] for key in ("pid", "comm", "bytes")} == {"pid": 1234, "comm": "import", "bytes": 700 << 20}


def test_the_list_does_not_read_the_turns(state_dir: Path) -> None:
    path = state_dir / "incidents" / ONE / "incident.json"
    head, _, _ = path.read_bytes().partition(b'\n"ring": [')
    path.write_bytes(head + b'\n"ring": [' + b"what is here is read when the incident is shown")
    (summary,) = store.list_incidents(state_dir)
    assert (summary.damaged, summary.kind) == ("", "hard")
    with pytest.raises(store.Damaged):
        store.load(state_dir, ONE)


def test_an_incident_that_somebody_formatted_anew(state_dir: Path) -> None:
    path = state_dir / "incidents" / ONE / "incident.json"
    doc = json.loads(path.read_text())
    for written in (json.dumps(doc, indent=2), json.dumps(doc)):
        path.write_text(written)
        assert store.list_incidents(state_dir)[0].kind == "hard"
        assert store.load(state_dir, ONE) == doc


def test_newest_first(state_dir: Path) -> None:
    for name in ("20250101T000000Z-web-000001", "20270101T000000Z-web-000002"):
        shutil.copytree(state_dir / "incidents" / ONE, state_dir / "incidents" / name)
    assert [summary.id[:4] for summary in store.list_incidents(state_dir)] == ["2027", "2026", "2025"]


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b"{}", b'{"schema": 99}', b'{"schema": 1}', b"\xff\x00"])
def test_a_damaged_incident_is_listed_as_one(state_dir: Path, content: bytes | None) -> None:
    directory = state_dir / "incidents" / "20270101T000000Z-we-b-abcdef"
    directory.mkdir()
    if content is not None:
        (directory / "incident.json").write_bytes(content)
    damaged, whole = store.list_incidents(state_dir)
    assert (damaged.time, damaged.policy) == ("2027-01-01T00:00:00Z", "we-b")
    assert damaged.damaged
    assert not whole.damaged


def test_a_file_that_was_cut_at_any_byte_is_damaged_or_told_right(state_dir: Path) -> None:
    path = state_dir / "incidents" / ONE / "incident.json"
    data = path.read_bytes()
    for end in range(0, len(data), 997):
        path.write_bytes(data[:end])
        (summary,) = store.list_incidents(state_dir)
        assert summary.damaged or summary.kind == "hard"


def test_what_is_no_incident_is_not_listed(state_dir: Path) -> None:
    incidents = state_dir / "incidents"
    (incidents / "lost+found").mkdir()
    (incidents / "20270101T000000Z-web-abcdef").write_text("a file")
    (incidents / "20270101T000000Z-web-abcde0").symlink_to(incidents / ONE)
    assert [summary.id for summary in store.list_incidents(state_dir)] == [ONE]


def test_no_directory_is_no_incident(tmp_path: Path) -> None:
    assert store.list_incidents(tmp_path / "none") == []
    with pytest.raises(store.NoSuchIncident, match="no incident last"):
        store.load(tmp_path / "none", "last")


@pytest.mark.parametrize("wanted", [ONE, "20260131", "2026", "072511", "last"])
def test_an_incident_is_found_by_its_beginning_or_its_end(state_dir: Path, wanted: str) -> None:
    assert store.load(state_dir, wanted)["id"] == ONE


@pytest.mark.parametrize("wanted", ["", "2", "x", "../incidents", "host", "72511"])
def test_what_is_not_found_or_more_than_one(state_dir: Path, wanted: str) -> None:
    shutil.copytree(state_dir / "incidents" / ONE, state_dir / "incidents" / "20270101T000000Z-host-abcdef")
    with pytest.raises(store.NoSuchIncident):
        store.load(state_dir, wanted)


def test_an_open_incident_has_the_turns_beside_it(state_dir: Path) -> None:
    directory = state_dir / "incidents" / ONE
    doc = json.loads((directory / "incident.json").read_text())
    ring = doc.pop("ring")
    (directory / "incident.json").write_text(json.dumps({**doc, "ring": []}))
    cut = json.dumps(ring[2])[:50]
    (directory / "ring.jsonl").write_text("".join(json.dumps(turn) + "\n" for turn in ring[:2]) + cut)
    assert store.load(state_dir, "last")["ring"] == ring[:2]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_directory_that_may_not_be_read_is_an_error(state_dir: Path) -> None:
    (state_dir / "incidents").chmod(0)
    with pytest.raises(PermissionError):
        store.list_incidents(state_dir)
