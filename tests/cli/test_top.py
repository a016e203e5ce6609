"""``oomguard top``: what stands on the screen of a terminal of any size, and what becomes of the terminal."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from oomguard.cli.screen import SORTS, View, draw
from oomguard.cli.top import SORTS as ASKED
from oomguard.core.page import Writer
from oomguard.model.facts import Pressure, Stall
from oomguard.model.statuslayout import MODES, NAME, PHASES, TAKES
from oomguard.model.statuspage import (
    Clause,
    Condition,
    Event,
    Growing,
    GuardLine,
    Nominee,
    Numbers,
    StatusPage,
    decode,
)
from tests import pages

from .command import oomguard
from .terminal import Terminal, terminal

MIB, GIB = 1 << 20, 1 << 30
HOSTILE = "\x1b]0;pwned\x07\x1b[2J\n\r\t\u202e\u2066[red]x"


class Core:
    """Somebody who looks like a core from outside, and his page."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.start()
        self.writer: Writer | None = None

    def start(self) -> None:
        self.process = pages.core()

    def publish(self, **changes: Any) -> None:
        page = story(self.process.pid) | changes
        self.writer = pages.publish(self.writer or self.directory, **page)

    def end(self) -> None:
        """As after SIGKILL: the page stays."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def core(tmp_path: Path) -> Iterator[Core]:
    made = Core(tmp_path)
    made.publish()
    yield made
    made.end()


def mark(kind: str, percent: int, holds: bool = False) -> tuple[Clause, ...]:
    return (Clause((Condition(kind, "", "millionths", percent * 10_000, 0),), 0, holds),)


def web(number: int, phase: str = "calm", used_mib: int = 100, mode: str = "enforce", **more: Any) -> GuardLine:
    path = f"/system.slice/web-{number}.service"
    marks = {"soft": mark("memory_above", 80, phase != "calm"), "hard": mark("memory_above", 90)}
    sizes = used_mib * MIB, 256 * MIB
    return GuardLine(f"web-{number}", "/system.slice/web-*.service", mode, phase, 1, *sizes, path=path, **marks | more)


HOST = GuardLine(
    *("host", "/", "enforce", "calm", 1, 0, 16 * GIB),
    path="/",
    soft=mark("available_below", 12),
    hard=mark("available_below", 5),
)


def story(pid: int) -> dict[str, Any]:
    """A machine on which something goes on."""
    now_ns, clock_ns = time.monotonic_ns(), time.time_ns()
    return {
        "numbers": Numbers(
            pid=pid,
            started_ns=clock_ns,
            armed=1,
            kills=3,
            kernel_oom_kills=1,
            mem_total_bytes=16 * GIB,
            mem_available_bytes=4 * GIB,
            swap_total_bytes=8 * GIB,
            swap_free_bytes=6 * GIB,
        ),
        "guards": [HOST, web(1), web(2, "draining", 250), web(3, "armed", 210, "observe")],
        "degraded": [("psi", "there is none")],
        "pressure": Pressure(Stall(12.3, 4.5, 1.2, 9), Stall(1.1, 0.5, 0.2, 9)),
        "growing": [
            Growing("/slow", GIB, now_ns, GIB - MIB, now_ns - 10**10),
            Growing("/fast", MIB * 500, now_ns, MIB * 300, now_ns - 10**10),
            Growing("/large", 2 * GIB, now_ns, 2 * GIB, now_ns - 10**10),
        ],
        "nominees": [
            Nominee("web-2", "process", 1, 4711, 180 * MIB, "python3", "/system.slice/web-2.service"),
            Nominee("web-3", "cgroup", 12, 0, 90 * MIB, "web-3.service", "/system.slice/web-3.service"),
        ],
        "events": [
            Event(clock_ns, "KILLED", "web-2", "killed python3[4711] holding 180 MiB"),
            Event(clock_ns - 10**9, "SOFT", "web-2", "memory 210 MiB above 205 MiB"),
            Event(clock_ns - 10**10, "STARTED", "", "oomguard 9.9.9 guards"),
        ],
    }


def watching(core: Core, columns: int, lines: int, *more: object, **env: str) -> Any:
    return terminal(columns, lines, "top", "--runtime-dir", core.directory, "--interval", "0.2", *more, env=env)


# -------------------------------------------------------------------------------------------------------- what it shows


def test_80x24(core: Core) -> None:
    with watching(core, 80, 24) as screen:
        text = screen.sees("q quit")
        lines = screen.lines()
        assert lines[0].startswith(f"oomguard: armed (9.9.9, pid {core.process.pid})")
        assert re.search(r"\d\d:\d\d:\d\d$", lines[0])
        assert lines[1] == "memory [#######################........] 12.0 GiB of 16.0 GiB, 4.0 GiB available"
        assert lines[2] == "swap 6.0 GiB of 8.0 GiB free  pressure some 12.3 4.5 1.2  full 1.1 0.5 0.2 %"
        assert " ".join(lines[3].split()) == "POLICY PHASE USED OF s soft, h hard TO SOFT TO HARD"
        assert [line.split()[:2] for line in lines[4:8]] == [
            ["web-2", "draining"],
            ["(web-3)", "armed"],
            ["host", "calm"],
            ["web-1", "calm"],
        ], "whoever is not calm first, then the nearest to a watermark"
        assert re.fullmatch(r"web-2 +draining +250 MiB +256 MiB \[#{16}s#h##\] +holds +reached", lines[4])
        assert re.fullmatch(r"host +calm +12.0 GiB +16.0 GiB \[#{16}..s.?h\.*\] +2.1 GiB +3.2 GiB", lines[6])
        assert "web-2: python3[4711] (process), 180 MiB in /system.slice/web-2.service" in lines
        assert "web-3: web-3.service, all 12 (cgroup), 90.0 MiB" in text
        order = [text.index(f"\n{name} ") for name in ("/fast", "/slow", "/large")]
        assert order == sorted(order), "the fastest first"
        assert re.search(r"^/fast +\+20.0 MiB +500 MiB$", text, re.M)
        assert re.search(r"^\d\d:\d\d:\d\d killed: web-2: killed python3\[4711\] holding 180 MiB$", text, re.M)
        assert re.search(r"^\d\d:\d\d:\d\d started: oomguard 9.9.9 guards$", text, re.M)
        assert "psi: there is none" in lines
        assert re.fullmatch(r"3 killed, 1 by the kernel, 1 degraded +q quit  p pause  s sort: near", lines[23])
        screen.press("q")
        assert screen.end() == 0
        assert screen.is_as_before()
        assert screen.raw.count(b"\x1b[?1049h") == 1


def test_the_bar_has_its_watermarks_where_they_stand() -> None:
    page = StatusPage(Numbers(mem_total_bytes=16 * GIB), (web(1, used_mib=128),), "1", (), 0)
    (line,) = (line.plain for line in draw(page, View(), 101, 24) if line.plain.startswith("web-1"))
    bar = line[line.index("[") + 1 : line.index("]")]
    width = len(bar)
    assert bar.count("#") == round(width / 2)
    assert (bar.index("s"), bar.index("h")) == (int(width * 0.8), int(width * 0.9))


def test_wide(core: Core) -> None:
    with watching(core, 160, 50) as screen:
        text = screen.sees("q quit")
        assert re.search(r"TO HARD CGROUP", text)
        assert re.search(r"^web-1 .* /system.slice/web-1.service$", text, re.M)
        assert "over 10, 60, 300 s" in text
        assert screen.lines()[49].endswith("s sort: near"), "the keys stand in the last line"


@pytest.mark.parametrize(("columns", "lines"), [(40, 12), (30, 8), (20, 3), (250, 5)])
def test_narrow_and_low(core: Core, columns: int, lines: int) -> None:
    """What there is room for, the guards first; nothing wraps, nothing scrolls."""
    with watching(core, columns, lines) as screen:
        text = screen.sees("armed")
        if lines >= 8:
            assert re.search(r"^web-2 +draining.*reached$", text, re.M)
        assert "draining" in text or lines < 8
        screen.press("q")
        assert screen.end() == 0


def test_another_size_is_another_frame(core: Core) -> None:
    with watching(core, 80, 24, "--interval", "60") as screen:
        screen.sees("q quit")
        assert "CGROUP" not in screen.text()
        screen.resize(150, 40)
        screen.sees("CGROUP")
        screen.resize(60, 10)
        screen.until(lambda text: len(text.splitlines()) == 10 and "CGROUP" not in text and "q quit" in text)


def test_many_policies_are_cut_and_it_is_said(core: Core) -> None:
    core.publish(guards=[web(number, used_mib=number) for number in range(140)], nominees=[])
    with watching(core, 80, 24) as screen:
        text = screen.sees("q quit")
        assert re.search(r"^POLICY \d+/128 ", text, re.M)
        assert re.search(r"^web-127 ", text, re.M)
        core.publish(guards=[web(number, "armed" if number == 5 else "calm") for number in range(140)], nominees=[])
        screen.until(lambda text: re.search(r"^web-5 +armed", text, re.M))
        assert "left out: 12 policies" in screen.text()


# ------------------------------------------------------------------------------------------------------------ the keys


def test_p_holds_it_still(core: Core) -> None:
    with watching(core, 80, 24) as screen:
        screen.sees("q quit")
        screen.press("p")
        screen.sees("PAUSED")
        core.publish(degraded=[("news", "of the hour")])
        for _ in range(10):
            screen.read(0.1)
        assert "news: of the hour" not in screen.text()
        screen.press("p")
        screen.sees("news: of the hour")
        assert "PAUSED" not in screen.text()


def test_s_sorts(core: Core) -> None:
    def first() -> str:
        return screen.lines()[4].split()[0]

    core.publish(guards=[web(2, used_mib=1), web(1, used_mib=50), replace(HOST, name="zoo")], nominees=[])
    with watching(core, 80, 24, "--sort", "policy") as screen:
        screen.sees("s sort: policy")
        assert first() == "web-2"
        for by, expected in (("name", "web-1"), ("used", "zoo"), ("near", "zoo"), ("policy", "web-2")):
            screen.press("s")
            screen.sees(f"s sort: {by}")
            screen.until(lambda _, expected=expected: first() == expected, f"{expected} first by {by}")


def test_other_keys_do_nothing(core: Core) -> None:
    """An arrow key is an escape and more, and over a slow line the escape may come alone."""
    with watching(core, 80, 24) as screen:
        screen.sees("q quit")
        for keys in ("\x1b[A", "\x1b", "x", "\t", "ä"):
            screen.press(keys)
            screen.read(0.1)
        assert screen.process.poll() is None
        screen.press("q")
        assert screen.end() == 0


def test_keys_that_come_together_all_count(core: Core) -> None:
    """On a slow line, or a busy machine: only the first was looked at, and q was lost."""
    with watching(core, 80, 24) as screen:
        screen.sees("q quit")
        os.kill(screen.process.pid, signal.SIGSTOP)
        screen.press("x\x1b[A\x1bOA\x1b\tq")
        os.kill(screen.process.pid, signal.SIGCONT)
        assert screen.end() == 0


# --------------------------------------------------------------------------------------------------------- the terminal


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (lambda screen: screen.press("\x03"), 130),
        (lambda screen: screen.process.terminate(), 128 + signal.SIGTERM),
        (lambda screen: screen.process.send_signal(signal.SIGHUP), 128 + signal.SIGHUP),
    ],
    ids=["Ctrl-C", "SIGTERM", "SIGHUP"],
)
def test_the_terminal_is_as_it_was(core: Core, end: Callable[[Terminal], None], code: int) -> None:
    with watching(core, 80, 24, "--interval", "60") as screen:
        screen.sees("q quit")
        assert not screen.is_as_before()
        end(screen)
        assert screen.end() == code
        assert screen.is_as_before()
        assert b"Traceback" not in screen.raw


def test_ctrl_z_gives_the_terminal_back_and_takes_it_again(core: Core) -> None:
    with watching(core, 80, 24, "--interval", "60") as screen:
        screen.sees("q quit")
        screen.press("\x1a")
        assert os.WIFSTOPPED(os.waitpid(screen.process.pid, os.WUNTRACED)[1])
        screen.read()
        assert screen.is_as_before()
        screen.raw = b""
        screen.screen.reset()
        screen.process.send_signal(signal.SIGCONT)
        screen.sees("q quit")
        screen.press("q")
        assert screen.end() == 0
        assert screen.is_as_before()


# ----------------------------------------------------------------------------------------------------------- the daemon


def test_a_daemon_that_goes_and_comes_back(core: Core) -> None:
    with watching(core, 200, 24) as screen:
        screen.sees(f"armed (9.9.9, pid {core.process.pid})")
        core.end()
        text = screen.sees("GONE, waiting for it")
        assert "has ended without a word" in text
        assert "web-2" in text, "the last that was known stays"
        (core.directory / NAME).unlink()
        core.start()
        core.writer = None
        core.publish(version="10.0")
        screen.sees(f"armed (10.0, pid {core.process.pid})")


def test_one_of_another_layout_is_told(core: Core) -> None:
    """Upgraded while we look on."""
    with watching(core, 160, 24) as screen:
        screen.sees("q quit")
        page = bytearray((core.directory / NAME).read_bytes())
        page[8] = 77
        (core.directory / "new").write_bytes(page)
        (core.directory / "new").rename(core.directory / NAME)
        assert "it is of layout 77, and this" in screen.sees("GONE, waiting for it")


def test_without_a_daemon_there_is_nothing_to_watch(tmp_path: Path) -> None:
    with terminal(100, 24, "top", "--runtime-dir", tmp_path) as screen:
        assert screen.end() == 1
        assert "oomguard is not running: there is no" in screen.text().replace("\n", "")
    answer = oomguard("top", "--runtime-dir", tmp_path, "--once", "--json")
    assert (answer.code, answer.json["pid"]) == (1, None)


# ----------------------------------------------------------------------------------------------- colours, or no screen


def colours(raw: bytes) -> list[bytes]:
    return re.findall(rb"\x1b\[(?:\d+;)*(?:3[0-7]|9[0-7]|38|48)[;m]", raw)


def test_colours_only_where_they_are_wanted(core: Core) -> None:
    with watching(core, 80, 24) as screen:
        screen.sees("q quit")
        assert colours(screen.raw)
    with watching(core, 80, 24, NO_COLOR="1") as screen:
        text = screen.sees("q quit")
        assert colours(screen.raw) == []
        assert re.search(r"^web-2 +draining.*holds", text, re.M), "nothing is told by colour alone"


def test_a_dumb_terminal_gets_one_frame(core: Core) -> None:
    with watching(core, 80, 24, TERM="dumb") as screen:
        assert screen.end() == 0
        assert "q quit" not in screen.text()
        assert b"\x1b" not in screen.raw
        assert b"web-2: python3[4711]" in screen.raw


def test_what_is_no_terminal_gets_one_frame(core: Core) -> None:
    answer = oomguard("top", "--runtime-dir", core.directory)
    assert answer.code == 0
    assert "\x1b" not in answer.out
    assert max(len(line) for line in answer.out.splitlines()) <= 80
    assert "web-1: " not in answer.out
    assert answer.out.count("web-1") == 1
    once = oomguard("top", "--runtime-dir", core.directory, "--once", env={"COLUMNS": "160"})
    assert "CGROUP" in once.out


def test_a_frame_as_a_picture(core: Core) -> None:
    """One file, which asks nobody for a font."""
    drawn = core.directory / "top.svg"
    assert oomguard("top", "--runtime-dir", core.directory, "--svg", drawn).code == 0
    text = drawn.read_text()
    assert text.startswith("<svg")
    assert "draining" in text
    assert "font-face" not in text
    assert "url(http" not in text
    answer = oomguard("top", "--runtime-dir", core.directory, "--svg", core.directory / "none/top.svg")
    assert (answer.code, answer.err) == (1, f"oomguard: {core.directory}/none/top.svg: No such file or directory\n")


def test_as_json_it_goes_on_line_by_line(core: Core) -> None:
    words = [sys.executable, "-m", "oomguard", "top", "--json", "--interval", "0.1", "--runtime-dir", core.directory]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        first, second = (json.loads(process.stdout.readline()) for _ in range(2))
        assert first["pid"] == second["pid"] == core.process.pid
        assert [it["name"] for it in first["policies"]] == ["host", "web-1", "web-2", "web-3"]
        assert first["policies"][2]["soft"]["holds"] is True
        assert first["nominees"][0]["what"] == "python3"
        assert [it["bytes_per_s"] // MIB for it in first["growing"]] == [0, 20, 0]
        assert first["events"][0]["kind"] == "KILLED"
        core.end()
        while json.loads(process.stdout.readline())["pid"] is not None:
            pass
        process.send_signal(signal.SIGINT)
        assert process.wait(40) == 130
        assert process.stderr.read() == b""
    once = oomguard("top", "--json", "--once", "--runtime-dir", core.directory)
    assert once.code == 1


def test_the_reader_of_a_pipe_may_go(core: Core) -> None:
    command = f"{sys.executable} -m oomguard top --json --interval 0.1 --runtime-dir {core.directory} | head -1"
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout)["pid"] == core.process.pid


@pytest.mark.parametrize(
    "wrong", [("--interval", "0"), ("--interval", "x"), ("--sort", "colour"), ("--interval", "nan")]
)
def test_what_is_used_wrongly_is_said(core: Core, wrong: tuple[str, str]) -> None:
    answer = oomguard("top", "--runtime-dir", core.directory, "--once", *wrong)
    assert (answer.code, answer.out) == (2, "")
    assert wrong[0] in answer.err


# -------------------------------------------------------------------------------------------------------- hostile names


def hostile(pid: int) -> dict[str, Any]:
    wide = "名前" * 20
    return story(pid) | {
        "guards": [replace(web(1, "armed"), name=HOSTILE[:20], cgroup=HOSTILE, path=f"/{HOSTILE}"), web(2)],
        "degraded": [(HOSTILE.replace("\n", " ").replace("\t", " "), "x")],
        "growing": [
            Growing(f"/{HOSTILE}/end", GIB, time.monotonic_ns(), 0, 0),
            Growing(wide, 5, time.monotonic_ns(), 0, 0),
        ],
        "nominees": [Nominee("web-2", "process", 1, 5, 6, HOSTILE, f"/{HOSTILE}")],
        "events": [Event(time.time_ns(), "KILLED", "web-2", f"killed {HOSTILE}")],
        "version": "1" + HOSTILE.replace("\n", ""),
    }


def test_hostile_names_are_harmless(core: Core) -> None:
    """Nobody's name sets the title, clears the screen, breaks a line, turns the writing direction or is markup."""
    core.publish(**hostile(core.process.pid))
    with watching(core, 120, 30) as screen:
        text = screen.sees("q quit")
        assert b"\x1b]0;pwned" not in screen.raw
        assert b"\x1b[2J\n" not in screen.raw
        assert "\u202e" not in screen.raw.decode()
        assert "killed \\x1b]0;pwned\\x07\\x1b[2J\\n\\r\\t\\u202e\\u2066[red]x" in text
        assert screen.lines()[29].endswith("s sort: near"), "nothing has scrolled"
        assert "/end" in text
        screen.press("q")
        assert screen.end() == 0


# ------------------------------------------------------------------------------------------------------------ any page

NAMES = st.text(max_size=40)
SIZES = st.integers(0, 1 << 63)
CLAUSES = st.lists(
    st.builds(
        Clause,
        st.lists(
            st.builds(
                Condition,
                st.sampled_from(("available_below", "memory_above", "stall_above", "swap_free_below")),
                st.just("full"),
                st.sampled_from(("bytes", "millionths")),
                SIZES,
                SIZES,
            ),
            min_size=1,
            max_size=2,
        ).map(tuple),
        SIZES,
        st.booleans(),
    ),
    max_size=2,
).map(tuple)
GUARDS = st.builds(
    GuardLine,
    NAMES,
    NAMES,
    st.sampled_from(MODES),
    st.sampled_from(PHASES),
    st.integers(0, 5),
    SIZES,
    SIZES,
    path=NAMES | st.just("/"),
    soft=CLAUSES,
    hard=CLAUSES,
)
PAGES = st.builds(
    StatusPage,
    st.builds(Numbers, mem_total_bytes=SIZES, mem_available_bytes=SIZES, armed=st.integers(0, 1)),
    st.lists(GUARDS, max_size=5).map(tuple),
    NAMES,
    st.lists(st.tuples(NAMES, NAMES), max_size=3).map(tuple),
    SIZES,
    growing=st.lists(st.builds(Growing, NAMES, SIZES, SIZES, SIZES, SIZES), max_size=3).map(tuple),
    nominees=st.lists(
        st.builds(Nominee, NAMES, st.sampled_from(TAKES), SIZES, SIZES, SIZES, NAMES, NAMES), max_size=3
    ).map(tuple),
    events=st.lists(st.builds(Event, st.integers(0, 1 << 61), st.just("KILLED"), NAMES, NAMES), max_size=3).map(tuple),
)


@given(PAGES, st.integers(1, 300), st.integers(1, 60), st.sampled_from(SORTS), st.booleans())
@settings(deadline=None)
def test_any_page_fits_on_any_screen(page: StatusPage, width: int, height: int, sort: str, keys: bool) -> None:
    frame = draw(page, View(sort, keys=keys), width, height)
    assert len(frame) <= max(height, 1)
    for line in frame:
        assert cell_len(line.plain) <= max(width, 20)
        assert line.plain.isprintable()


def test_what_may_be_asked_for_is_what_can_be_drawn() -> None:
    assert ASKED == SORTS


def test_the_story_is_a_page(core: Core) -> None:
    """What these tests show was written and read as the daemon's own."""
    page = decode((core.directory / NAME).read_bytes())
    assert [guard.name for guard in page.guards] == ["host", "web-1", "web-2", "web-3"]
