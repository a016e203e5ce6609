"""What users of other daemons complained of, as recordings: what we conclude from each must stay true."""

from __future__ import annotations

import tarfile
from typing import Any

import pytest

from oomguard.model.codec import from_plain
from oomguard.model.policy import Guard
from oomguard.report import packed, replay, store, text
from oomguard.report.advice import advise

from .field import COMPLAINTS, FILES


def recorded(name: str) -> dict[str, Any]:
    (path,) = FILES.glob(f"{name}.*")
    return store.load_file(path)


def guards_of(doc: dict[str, Any]) -> tuple[Guard, ...]:
    """The policy of that day."""
    seeds = [turn["seed"] for turn in doc["ring"] if turn.get("seed")]
    found: tuple[Guard, ...] = from_plain(seeds[0]["guards"]) if seeds else ()
    return found


def test_every_complaint_has_its_file_and_every_file_its_complaint() -> None:
    assert {path.name.partition(".")[0] for path in FILES.iterdir()} == set(COMPLAINTS)


@pytest.mark.parametrize("name", COMPLAINTS)
def test_who_dies_and_who_lives(name: str) -> None:
    complaint, doc = COMPLAINTS[name], recorded(name)
    killed = {victim["comm"] for victim in doc["victims"]}
    assert killed.isdisjoint(complaint.lives)
    assert bool(killed) == bool(complaint.dies)
    guards = guards_of(doc)
    assert guards or not complaint.dies
    found = replay.under(doc, guards or from_plain(doc.get("guards", ())))  # by the judge of today
    assert (found.now.what if found.now else "") == complaint.dies
    assert not found.changed


@pytest.mark.parametrize("name", [name for name, complaint in COMPLAINTS.items() if complaint.advice])
def test_what_is_advised(name: str) -> None:
    advice = advise(recorded(name))
    assert advice
    assert advice[0].rule in (COMPLAINTS[name].advice, "budget spent")


def test_nobody_is_told_why_nobody() -> None:
    """The fifth complaint: the sentence itself says it."""
    told = text.sentence(recorded("05-nobody-can-say-why"))
    assert told.startswith("The machine ran out of memory, and nobody was killed: nobody may be killed; the largest, ")
    assert told.endswith('never: cgroup = "/**".')


def test_on_a_healthy_machine_nothing_even_begins() -> None:
    doc = recorded("04-healthy-machine")
    assert doc["kind"] == "recording"
    assert all(not turn["actions"] or turn["actions"][0]["kind"] in ("Look", "Mute") for turn in doc["ring"])


def test_the_limit_is_never_reached() -> None:
    doc = recorded("08-limit-livelock")
    assert doc["killed_by"] == "oomguard"
    used = [facts["current_bytes"] for turn in doc["ring"] for facts in turn["seen"]["cgroups"]]
    assert max(used) < 256 << 20


def test_an_idle_machine_is_hardly_looked_at() -> None:
    """The shipped policy in the virtual machine, two minutes in which nothing happened."""
    doc = recorded("11-idle")
    turns = doc["ring"]
    seconds = (turns[-1]["seen"]["at_ns"] - turns[0]["seen"]["at_ns"]) / 1e9
    judged = [turn for turn in turns if {wake["source"] for wake in turn["seen"]["wakes"]} - {"glance"}]
    assert seconds > 100
    assert len(judged) <= seconds / 5
    assert len(turns) <= seconds * 1.1, "and looked at about once a second"
    assert not [turn for turn in turns if turn["seen"]["surveys"] or turn["seen"]["stalls"]]
    assert doc["lost"] == {}


def test_everything_is_there_afterwards() -> None:
    """Who was there, who grew, as what it was started; the kernel's own files of that moment; and no secret."""
    doc = recorded("06-no-evidence")
    evidence = doc["evidence"]
    names = [row["comm"] for row in evidence["processes"]]
    assert names[:2] == ["report-job", "postgres"]
    assert {"sshd", "bash", *(f"worker-{n}" for n in range(12))} < set(names)
    assert evidence["processes_seen"]["user"] == len(names) == 16
    assert evidence["processes"][0]["growth_bytes"] > 30 << 20
    assert evidence["cmdlines"]["7"].endswith("--token [redacted] --job nightly")
    assert [entry["stage"] for entry in evidence["taken"]][:3] == ["soft", "soft", "hard"], (
        "of the nominee a little later"
    )
    assert [look["at_s"] // 1 for look in doc["after"]] == [1, 10]
    assert doc["verdict"]["helped"] is True
    with packed.reading(FILES / "06-no-evidence.tar.zst") as file, tarfile.open(fileobj=file, mode="r|") as tar:
        members = {member.name.partition("/")[2] for member in tar}
    stages = [f"raw/{stage}/{name}" for stage in ("soft", "hard") for name in ("meminfo", "vmstat", "victim.7.status")]
    assert {"incident.json", *stages} <= members
    text_of_all = packed.reading(FILES / "06-no-evidence.tar.zst").read()
    assert b"s3cr3t" not in text_of_all
