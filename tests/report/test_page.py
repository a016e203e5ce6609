"""The report, looked at in a real browser: wide and narrow, light and dark, and with names that want to break out."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oomguard.model.codec import to_plain
from oomguard.report import page, series
from oomguard.workers import owners
from tests.incidents.recorded import Recorded, recording
from tests.judge.world import MIB, Body, host_guard, limit_guard, plan, process
from tests.linux.test_oomreport import MEMCG
from tests.linux.test_oomreport import told as reports_of

from .browser import Browser

HOSTILE = (
    "</script><script>window.pwned=1</script>",
    "<img src=x onerror=window.pwned=1>",
    "\"'><svg onload=window.pwned=1>",
    "]]>--><b>bold</b>&lt;i&gt;",
    "line\nbreak\r\x1b[2J\u202eevil",
    "\\xff\\xfe {{ 7*7 }} ${1} %s",
    '<a href="javascript:window.pwned=1">x</a>',
    "@import url(http://example.invalid/x)",
)
LEAK = "/system.slice/leak.service"


def incident(comm: str = "leak", cgroup: str = LEAK, **guard: Any) -> dict[str, Any]:
    bodies = [Body(process(500, comm, cgroup, 10), 60), Body(process(30, "postgres", "/system.slice/pg.service", 200))]
    world = Recorded(plan(host_guard(brake=True, **guard)), bodies)
    world.run(120_000, lambda w: bool(w.died) and all(s.phase == "calm" for s in w.state.targets.values()))
    return world.incident()


def owners_of(*mounts: str) -> dict[str, object]:
    """An account of memory with file systems of these names."""
    meminfo = {"MemTotal": 1000 * MIB, "MemFree": 100 * MIB, "AnonPages": 500 * MIB, "Shmem": 300 * MIB}
    found: list[owners.Part] = [{"what": name, "bytes": (9 - number) * MIB} for number, name in enumerate(mounts)]
    return owners.rows(meminfo, 0, {"shared memory and tmpfs": found})


def poisoned() -> dict[str, Any]:
    """Every name in it is somebody's attempt."""
    doc = incident()
    doc["hostname"] = HOSTILE[0]
    for number, row in enumerate(doc["evidence"]["processes"]):
        doc["evidence"]["processes"][number] = row | {"comm": HOSTILE[number]}
    row = doc["evidence"]["processes"][0]
    for number, name in enumerate(HOSTILE):
        more = {"comm": name, "pid": 9000 + number, "cgroup": f"/{name}", "held_bytes": 20 * MIB}
        doc["evidence"]["processes"].append(row | more)
    doc["evidence"]["cmdlines"] = {"500": " ".join(HOSTILE)}
    doc["evidence"]["kernel_log"] = list(HOSTILE)
    doc["evidence"]["owners"] = {"soft": owners_of(*HOSTILE)}
    (report,) = reports_of(MEMCG)
    names = {"invoked_by": HOSTILE[1], "oom_memcg": HOSTILE[0], "unit": HOSTILE[2], "container": HOSTILE[6]}
    tasks = [{**report["tasks"][0], "comm": name} for name in HOSTILE]
    doc["kernel_reports"] = [{**report, **names, "victim": {**report["victim"], "comm": HOSTILE[0]}, "tasks": tasks}]
    doc["timeline"] += [{"at_ms": 1.0 * n, "what": "notify", "text": name} for n, name in enumerate(HOSTILE)]
    text = json.dumps(doc)
    return json.loads(text.replace('"leak"', json.dumps(HOSTILE[0])).replace("leak[500]", json.dumps(HOSTILE[6])[1:-1]))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    made = Browser()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def nothing_to_complain_of(request: pytest.FixtureRequest) -> Iterator[None]:
    """No exception, no violated policy, and no request for anything but the file itself."""
    yield
    if "browser" in request.fixturenames:
        seen: Browser = request.getfixturevalue("browser")
        assert seen.complaints == []
        assert {url.partition(":")[0] for url in seen.asked} <= {"file", "data", "blob", "about"}


def test_it_is_drawn_and_fits_wide_and_narrow_light_and_dark(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "raw" / "soft").mkdir(parents=True)
    (tmp_path / "raw" / "soft" / "meminfo").write_bytes(b"MemTotal: 1\n\xff\0" + b"x" * 100_000)
    path = tmp_path / "report.html"
    doc = incident()
    doc["evidence"]["owners"] = {"soft": owners_of("/dev/shm", "/run/" + "long" * 60)}
    path.write_text(page.page(doc, tmp_path))
    browser.look(path, 1280, "light")
    assert browser.says("document.documentElement.dataset.drawn") == "2"
    told = browser.says("document.body.textContent")
    for words in ("soft 120 MiB", "hard 50.0 MiB", "available", "brake on /system.slice/leak.service", "meminfo"):
        assert words in told
    assert "/dev/shm 9.0 MiB" in told
    assert "bytes more" in told, "a raw file is cut, and says so"
    for width, scheme in ((1280, "light"), (1280, "dark"), (390, "dark"), (390, "light")):
        browser.turn(width, scheme)
        browser.until(f"document.documentElement.scrollWidth <= {width}", "it fits")
        assert browser.says("document.querySelectorAll('.picture svg.main-svg').length") >= 2
        assert browser.says("document.querySelectorAll('.treemaplayer .slice').length") > 4
        ground = browser.says("getComputedStyle(document.body).backgroundColor")
        assert (max(map(int, ground[4:-1].split(","))) < 80) == (scheme == "dark")
        bright = "Math.min(...getComputedStyle(document.querySelector('.ytick text')).fill.match(/\\d+/g)) > 120"
        browser.until(f"({bright}) === {'true' if scheme == 'dark' else 'false'}", "the picture goes with the page")


def test_hostile_names_are_only_names(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(page.page(poisoned()))
    browser.look(path, 800, "light")
    assert browser.says("document.documentElement.dataset.drawn") == "2"
    assert browser.says("window.pwned") is None
    assert browser.says("document.querySelectorAll('img, iframe, object, body a, body b ~ script').length") == 0
    assert browser.says("document.querySelectorAll('body script').length") == 4, "two figures, plotly, the page's own"
    told = browser.says("document.querySelector('main').textContent")
    for name in (HOSTILE[0], HOSTILE[1], HOSTILE[3], HOSTILE[5], "line\\nbreak\\r\\x1b[2J\\u202eevil"):
        assert name in told


def test_a_limited_cgroup_and_one_of_which_nothing_is_known(browser: Browser, tmp_path: Path) -> None:
    world = Recorded(
        plan(limit_guard(LEAK, tripwire=True)), [Body(process(5, "leak", LEAK, 9), 60)], limits={LEAK: 256}
    )
    world.run(60_000, lambda w: bool(w.died))
    bare = copy.deepcopy(incident())
    bare |= {"ring": [], "ranking": None, "guard": None, "evidence": {"taken": []}, "complete": False, "timeline": []}
    for number, (doc, pictures) in enumerate(((world.incident(), "2"), (bare, "1"))):
        path = tmp_path / f"{number}.html"
        path.write_text(page.page(doc))
        browser.look(path, 1000, "light")
        assert browser.says("document.documentElement.dataset.drawn") == pictures
    assert "tripwire" in (tmp_path / "0.html").read_text()


def test_a_recording_is_drawn_whole(browser: Browser, tmp_path: Path) -> None:
    """What `oomguard record` has kept is a report as well: all of its time, and what every guard did in it."""
    world = Recorded(plan(host_guard()), [Body(process(500, "leak", LEAK, 10), 60)])
    world.run(60_000, lambda w: False)
    doc = recording(world.turns, guards=to_plain((host_guard(),)))
    (tmp_path / "report.html").write_text(page.page(doc))
    browser.look(tmp_path / "report.html", 1000, "light")
    assert browser.says("document.documentElement.dataset.drawn") == "2"
    told = browser.says("document.body.textContent")
    assert "A recording of 60 s" in told
    for words in (
        "1 soft watermark, 1 hard watermark, 1 signal",
        "under host",
        "host on /: leak[500] holding",
        "soft 120",
    ):
        assert words in told
    shown = browser.says("document.getElementById('over-time').layout.xaxis.range")
    assert shown == [0, round((doc["ring"][-1]["seen"]["at_ns"] - doc["opened_ns"]) / 1e9, 3)]


def test_a_long_line_keeps_its_peaks() -> None:
    day = [(1000.0 * n, 500.0) for n in range(86_400)]
    day[40_000], day[70_001] = (40_000_000.0, 3.0), (70_001_000.0, 900.0)
    thin = series.thinned(day, 4000)
    assert len(thin) <= 4000
    assert {day[0], day[40_000], day[70_001]} <= set(thin)
    assert thin == sorted(thin)
    assert series.thinned(day[:4000], 4000) == day[:4000]


def test_without_the_extra_there_is_one_line(tmp_path: Path) -> None:
    """As on a machine on which plotly was never installed."""
    program = "import sys; sys.modules['plotly'] = None; from oomguard.cli.incidents import app; app()"
    done = subprocess.run(
        [sys.executable, "-c", program, "report", "last", "--state-dir", tmp_path], capture_output=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.decode() == "oomguard: plotly is not installed; it comes with: pip install 'oomguard[report]'\n"
