"""Half a page for a tired person: what it must say, and what must not get through."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from oomguard.report import store, text

RECORDED = Path(__file__).parent / "incidents" / "schema-1"
ANSI = re.compile(r"\x1b\[[0-9;]*m")
HOSTILE = ("a\nb", "\x1b[2J", "\u202eevil", "\x07", "[bold]x[/]", "é", "a" * 500)


@pytest.fixture
def incident() -> dict[str, Any]:
    return copy.deepcopy(store.load(RECORDED, "last"))


def test_the_page_answers_every_question(incident: dict[str, Any]) -> None:
    page = text.half_page(incident, 100)
    assert page.startswith(
        "oomguard killed import[1234], holding 700 MiB, because the machine ran out of memory.\n"
        "2026-01-31T03:12:04.977Z  example  policy host on /"
    )
    for answer in (
        "hard: available 40 MiB, below 51 MiB",  # why then
        "victim  import[1234], 700 MiB: holds most of it",  # why this one
        "runner-up  db[2], 150 MiB: holds less",  # why not the others
        "spared  sshd[3], 5.0 MiB: never: unit ssh.service",
        "+610 MiB to 700 MiB  import[1234]",  # who grew
        "Freed 705 MiB: MemAvailable rose from 40.0 MiB to 745 MiB.",
        "3.0 ms from seeing the hard watermark crossed to the signal",
        "It helped: one kill, and memory was clear.",
        "oomguard incidents show 072511 --all",
    ):
        assert answer in page
    assert len(page.splitlines()) <= 40


@pytest.mark.parametrize("width", [1, 40, 60, 80, 200])
def test_no_line_is_wider_than_the_terminal(incident: dict[str, Any], width: int) -> None:
    page = text.half_page(incident, width)
    assert max(len(line) for line in page.splitlines()) <= max(width, 40)


@pytest.mark.parametrize("whole", [False, True])
def test_color_changes_nothing_but_color(incident: dict[str, Any], whole: bool) -> None:
    colored = text.half_page(incident, 80, color=True, whole=whole)
    assert "\x1b[" in colored
    assert ANSI.sub("", colored) == text.half_page(incident, 80, whole=whole)


def test_a_storm_fits_on_half_a_page_and_all_shows_all(incident: dict[str, Any]) -> None:
    line = {"at_ms": 5.0, "what": "reap", "text": "x"}
    incident["timeline"] = [incident["timeline"][0], *[line] * 300, *incident["timeline"][1:]]
    candidate = incident["ranking"]["candidates"][1]
    incident["ranking"]["candidates"] += [{**candidate, "rank": rank} for rank in range(3, 200)]
    page = text.half_page(incident, 100)
    assert len(page.splitlines()) <= 40
    assert "kill: SIGKILL" in page  # what decided is not what is cut
    assert "more)" in page
    assert len(text.half_page(incident, 100, whole=True).splitlines()) > 500


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_move_no_cursor(incident: dict[str, Any], name: str) -> None:
    def poison(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: poison(item) for key, item in value.items()}
        if isinstance(value, list):
            return [poison(item) for item in value]
        return value.replace("import", name) if isinstance(value, str) else value

    page = text.half_page(poison(incident), 100, whole=True)
    assert all(line.isprintable() for line in page.splitlines())
    if name == "[bold]x[/]":
        assert name in page


def kill(incident: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**incident["kills"][0], **changes}


def test_sentences(incident: dict[str, Any]) -> None:
    def told(**changes: Any) -> str:
        return text.sentence({**incident, **changes})

    nobody = {"killed_by": "none", "victims": [], "kills": []}
    notify = {"at_ms": 1.0, "what": "notify", "text": "the kill budget is spent, nobody is killed"}
    kernel = {"killed_by": "kernel", "kind": "kernel", "kills": []}
    assert told(**nobody, kind="soft") == "Memory of the machine got short and recovered; nobody was killed."
    assert told(**nobody, kind="hard", timeline=[notify]) == (
        "The machine ran out of memory, and nobody was killed: the kill budget is spent, nobody is killed."
    )
    assert told(**kernel, cgroup="/a") == "The kernel's OOM killer killed import[1234], holding 700 MiB, in /a."
    assert told(**{**kernel, "victims": []}, policy="", cgroup="/a") == (
        "The kernel's OOM killer killed somebody it did not name, in /a, which no guard covers."
    )
    assert told(killed_by="none", mode="observe") == (
        "oomguard would have killed import[1234], holding 700 MiB, because the machine ran out of memory"
        " (observe mode: nothing was done)."
    )
    three = [kill(incident, what=f"{name}[1]") for name in "abc"]
    assert told(kills=three).startswith("oomguard killed a[1], b[1] and 1 more, holding 2.1 GiB,")


UNCOVERED = {"reason": "uncovered", "text": "no guard covers /a"}


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"kernel_kills": [{"at_ns": 1}]}, "It did not help enough: the kernel killed as well."),
        ({"complete": False, "ended": "the daemon ended", "outcome": ""}, "Whether it helped is not recorded."),
        ({"killed_by": "kernel"}, "The kernel had to act: oomguard was too late."),
        ({"killed_by": "kernel", "kind": "kernel"}, "The kernel had to act: the hard watermark had not been crossed."),
        ({"killed_by": "kernel", "policy": ""}, "The kernel had to act: no guard covers this cgroup."),
        ({"killed_by": "none", "kind": "soft"}, "It calmed down by itself."),
        ({"killed_by": "none", "mode": "observe"}, "so what followed is what happens without oomguard."),
        ({"killed_by": "none"}, "Nothing was done; see above why."),
        (
            {"killed_by": "none", "kind": "stall", "policy": "", "mode": "observe", "no_guard": UNCOVERED},
            "Nobody acted: no guard covers /a.",
        ),
    ],
)
def test_did_it_help(incident: dict[str, Any], changes: dict[str, Any], verdict: str) -> None:
    assert verdict in text.half_page({**incident, **changes})


def test_observing_says_what_it_would_have_been_worth(incident: dict[str, Any]) -> None:
    at_ns = incident["opened_ns"] + 213_000_000
    incident |= {"killed_by": "kernel", "mode": "observe", "kernel_kills": [{"at_ns": at_ns}]}
    incident["victims"] = [{**incident["victims"][0], "bytes": 255 << 20, "by": "kernel"}]
    page = text.half_page(incident, 200)
    assert page.startswith("The kernel's OOM killer killed import[1234], holding 255 MiB.")
    assert "from seeing the hard watermark crossed to the verdict" in page
    assert "oomguard was told to observe only, and would have acted 200 ms earlier." in page


def test_more_than_one_kill(incident: dict[str, Any]) -> None:
    incident["kills"].append(kill(incident, token=8))
    assert "It took 2 kills until memory was clear." in text.half_page(incident)


def test_what_was_lost_is_said(incident: dict[str, Any]) -> None:
    incident["lost"] = {"ring_gaps": 2}
    assert "Could not be kept: 2 ring_gaps." in text.half_page(incident)


def test_an_incident_with_next_to_nothing_in_it(incident: dict[str, Any]) -> None:
    """The scribe wrote it at its opening, and then the machine died."""
    incident |= {"timeline": [], "ranking": None, "evidence": {"taken": []}, "kills": [], "victims": [], "outcome": ""}
    incident |= {"complete": False, "killed_by": "none", "latency_ms": None, "gone_ms": None, "freed_bytes": None}
    page = text.half_page(incident)
    assert "This incident is not complete: it is still open." in page


def test_what_it_looked_like_later(incident: dict[str, Any]) -> None:
    victim = {"comm": "import", "cgroup": "/x", "restarted": True, "bytes": 400 << 20, "again": True}
    looks = [
        {"at_s": at_s, "available_bytes": 700 << 20, "victims": [victim][: at_s > 30]} for at_s in (1.0, 10.0, 60.2)
    ]
    page = text.half_page({**incident, "after": looks})
    assert "60 s later: 700 MiB available; import was started again and holds 400 MiB again." in page
    assert "1 s later" not in page


ID = "545e05317229cfe9b2f1b2ad6c951acc3269d8c4255c8a95588d64b951bf93de"
BOX = f"/machine.slice/libpod-{ID}.scope"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"engine": "podman", "name": "web"}, "container web (podman 545e05317229)"),
        ({"engine": "docker"}, "container docker 545e05317229"),
        (
            {"engine": "pod", "pod": "web-0", "namespace": "shop", "container": "app"},
            "container app of pod shop/web-0 (545e05317229)",
        ),
        ({"engine": "containerd", "pod": "web-0", "namespace": "shop"}, "pod shop/web-0 (containerd 545e05317229)"),
    ],
)
def test_the_sentence_names_the_container(incident: dict[str, Any], row: dict[str, str], said: str) -> None:
    incident["evidence"]["containers"] = {BOX: {"id": ID, "pod_uid": "", "name": "", **row}}
    for victim in incident["victims"]:
        victim["cgroup"] = f"{BOX}/container"
    page = text.half_page(incident, 200, whole=True)
    assert f"oomguard killed import[1234] in {said}, holding 700 MiB, because the machine ran out of memory." in page
    assert f"{BOX} is {said}." in page


def test_victims_of_two_containers_are_not_said_to_be_in_one(incident: dict[str, Any]) -> None:
    incident["evidence"]["containers"] = {BOX: {"engine": "podman", "id": ID, "pod_uid": "", "name": "web"}}
    first = incident["victims"][0]
    incident["victims"] = [{**first, "cgroup": BOX}, {**first, "cgroup": "/system.slice/x.service"}]
    assert "container" not in text.sentence(incident)
