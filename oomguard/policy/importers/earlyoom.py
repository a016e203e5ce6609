"""earlyoom(1): its options, in /etc/default/earlyoom (EARLYOOM_ARGS), a unit (ExecStart=), or alone in a file.

It sends SIGTERM once memory and swap are both below their first number, SIGKILL below the second, to the process with
the highest oom_score. So its first numbers are our soft watermark, which here kills with a grace, the second our hard.
"""

import getopt
import re
import shlex
from collections.abc import Sequence
from typing import Any

from .. import units
from ..faults import Wrong
from ..values import COMM_BYTES
from . import DESKTOP, Draft, Page, patterns, victim

_SHORT = "m:s:M:S:kidvr:pngN:P:w:h"
_LONG = (
    *("prefer=", "avoid=", "ignore=", "dryrun", "ignore-root-user", "sort-by-rss", "syslog", "kernel-oom"),
    *("debug", "help", "version"),
)
_GRACE = 10.0  # s; it waits for so long until it takes the next one (kill.c, kill_wait; -w since 1.9)
_BEFORE = "200ms"  # so long has what it runs beforehand (earlyoom(1), -P)

# What is in neither list changes nothing that it does: -k, -i, -d, -v, -h, --syslog.
_OTHERWISE = {
    "-r": "there is no report by the clock: oomguard status tells at any time",
    "-p": "the daemon's own priority is its unit's: it is real-time and never chosen",
    "-n": DESKTOP,
}
_LOST = {
    "--kernel-oom": "the kernel's killer is not called: the victim is chosen here",
}


def read(pages: Sequence[Page]) -> Draft:
    """One guard of the whole machine."""
    draft = Draft()
    page = pages[-1]
    line, words = _words(page)
    options = _options(page, line, words)
    guard: dict[str, Any] = {"cgroup": "/"}
    if "--dryrun" in options:
        guard["mode"] = "observe"
    term, kill = _thresholds(page, line, options)
    before = _beforehand(draft, page, line, options)
    if term != kill:
        grace = _grace(page, line, options)
        guard["soft"] = {"when": [term], "do": ["snapshot", "notify", *before, {"kill": {"grace": grace}}]}
    guard["hard"] = {"when": [kill], "do": [*before, "kill"]}
    guard["victim"] = _victim(draft, page, line, options)
    for option in options:
        if how := _OTHERWISE.get(option):
            draft.differ(page, line, option, how)
        elif why := _LOST.get(option):
            draft.lose(page, line, option, why)
    draft.guards["earlyoom"] = guard
    _tell(draft, page, line, options)
    return draft


def _grace(page: Page, line: int, options: dict[str, str]) -> str:
    text = options.get("-w", str(_GRACE))
    if not re.fullmatch(r"[0-9]{1,5}(\.[0-9]*)?", text):
        page.wrong(line, "-w", f"{text!r} is not a number of seconds", "as in -w 10")
    return units.shown_duration(int(float(text) * 10**9))


_OTHER_WORDS = "it gets JSON on its standard input, not EARLYOOM_PID and the like, and is run as oomguard or nobody"


def _beforehand(draft: Draft, page: Page, line: int, options: dict[str, str]) -> list[Any]:
    """What is run before a kill, with the time that it has."""
    if not (script := options.get("-P", "")):
        return []
    if not script.startswith("/"):
        draft.lose(page, line, "-P", f"{script!r} is no absolute path, and no PATH is searched")
        return []
    draft.differ(page, line, "-P", _OTHER_WORDS)
    return [{"run": [script]}, {"wait": _BEFORE}]


def _tell(draft: Draft, page: Page, line: int, options: dict[str, str]) -> None:
    """Who is told of a kill."""
    if "-n" in options:
        draft.sinks["desktop"] = {"desktop": True, "at": ["killed"]}
    if not (script := options.get("-N", "")):
        return
    if not script.startswith("/"):
        draft.lose(page, line, "-N", f"{script!r} is no absolute path, and no PATH is searched")
        return
    draft.sinks["script"] = {"run": [script], "at": ["killed"], "every": "0s"}
    draft.differ(page, line, "-N", f"{_OTHER_WORDS}; kills within three seconds are one message")


def _words(page: Page) -> tuple[int, list[str]]:
    """The last line that gives options; else the whole file is options."""
    found = (1, page.text)
    for number, text in enumerate(page.text.split("\n"), 1):
        if match := re.match(r"\s*(?:export\s+)?EARLYOOM_ARGS=(.*)", text):
            found = (number, " ".join(_split(page, number, match[1])))
        elif match := re.match(r"\s*ExecStart=\S+\s?(.*)", text):
            found = (number, match[1].replace("$EARLYOOM_ARGS", ""))
    number, text = found
    return number, [
        word for word in _split(page, number, text) if word != "earlyoom" and not word.endswith("/earlyoom")
    ]


def _split(page: Page, line: int, text: str) -> list[str]:
    try:
        return shlex.split(text, comments=True)
    except ValueError as error:
        page.wrong(line, "", f"not what a shell would read: {str(error).lower()}")


def _options(page: Page, line: int, words: list[str]) -> dict[str, str]:
    try:
        pairs, rest = getopt.gnu_getopt(words, _SHORT, list(_LONG))
    except getopt.GetoptError as error:
        page.wrong(line, f"-{error.opt}" if error.opt else "", f"no option of earlyoom: {error.msg}")
    if rest:
        page.wrong(
            line, rest[0], "is no option of earlyoom", 'options stand in EARLYOOM_ARGS="..." or alone in the file'
        )
    return dict(pairs)


def _thresholds(page: Page, line: int, options: dict[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(SIGTERM, SIGKILL). The size and the percentage of one thing: the lower one counts, so both must hold."""
    found: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    for key, percent, size in (("available_below", "-m", "-M"), ("swap_free_below", "-s", "-S")):
        shares = _pair(page, line, percent, options.get(percent, "" if size in options else "10"))
        sizes = _pair(page, line, size, options.get(size, ""))
        for clause, share, kib in zip(found, shares, sizes, strict=True):
            amounts = (
                [f"{share:.10g}%"] if share is not None and not (key == "swap_free_below" and share >= 100) else []
            )
            amounts += [units.shown_size(max(1, round(kib * 1024)))] if kib is not None else []
            if amounts:
                clause[key] = amounts if len(amounts) > 1 else amounts[0]
    return found


def _pair(page: Page, line: int, option: str, text: str) -> tuple[float | None, float | None]:
    if not text:
        return None, None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    most = 100.0 if option in ("-m", "-s") else 2.0**50
    if len(numbers) not in (1, 2) or not all(0 < number <= most for number in numbers):
        page.wrong(line, option, f"{text!r} is not one number or two", f"as in {option} 10,5")
    return numbers[0], numbers[1] if len(numbers) == 2 else numbers[0] / 2


def _victim(draft: Draft, page: Page, line: int, options: dict[str, str]) -> dict[str, Any]:
    rule: dict[str, Any] = {"by": "oom_score", "take": "process"}
    if "--sort-by-rss" in options:
        rule["by"] = "memory"
        draft.differ(
            page, line, "--sort-by-rss", "anonymous and shared memory and swap are weighed, not the resident set"
        )
    if "-g" in options:
        rule["take"] = "process_group"
        draft.differ(page, line, "-g", "the leader of the group is spared where the others hold most")
    if "--ignore-root-user" in options:
        victim(rule, "never", {"uid": 0})
    for option, which in (("--ignore", "never"), ("--avoid", "avoid"), ("--prefer", "prefer")):
        if option in options:
            names(draft, page, line, rule, (option, which, options[option]))
    if {"--avoid", "--prefer"} & options.keys():
        draft.differ(page, line, "--avoid, --prefer", "weigh a quarter and four times, not 300 points of oom_score")
    return rule


def names(draft: Draft, page: Page, line: int, rule: dict[str, Any], what: tuple[str, str, str]) -> None:
    """Names of processes by a regular expression, as patterns; (setting, never | avoid | prefer, expression)."""
    setting, which, expression = what
    try:
        found = patterns.comms(expression)
    except Wrong as wrong:
        draft.lose(page, line, setting, wrong.message)
        return
    for glob in found:
        if isinstance(glob, str) and len(glob.replace("*", "").encode()) > COMM_BYTES:
            draft.differ(page, line, setting, f"{glob} is left out: no name is so long, and it never matched")
        else:
            victim(rule, which, {"comm": patterns.as_value(glob)})
