"""``oomguard doctor``: what this kernel and these rights allow, who else kills, and how our own installation is.

``probe`` looks and tries, ``findings`` says what it means. Everything that was tried is undone before it is told.
"""

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from ..policy import files
from . import live, say
from .findings import Facts, Finding
from .run import Cgroup, Config, Proc

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
All = Annotated[bool, typer.Option("--all", help="Also in full what is fine.")]
Sys = Annotated[str, typer.Option("--sys", metavar="DIR", hidden=True)]

_TITLES = {
    "kernel": "Kernel",
    "rights": "Rights",
    "memory": "Memory",
    "neighbours": "Other daemons",
    "service": "oomguard",
}
_COLORS = {"fine": "32", "note": "33", "matters": "31;1"}
_INDENT = " " * 11
_WIDTH = 110


def doctor(
    config: Config = files.DEFAULT,
    runtime_dir: live.Runtime = None,
    json: Json = False,
    whole: All = False,
    proc: Proc = "/proc",
    cgroup: Cgroup = "",
    sys_: Sys = "/sys",
) -> None:
    """Say what this kernel, these rights and this installation allow, and which other daemon kills beside us.

    0 nothing that matters, 1 something that does. Whatever is tried is undone. Without root less can be seen.
    """
    from . import findings, probe

    places = probe.Places(proc, cgroup, sys_, Path(config), live.runtime_dir(runtime_dir, config))
    facts = probe.look(places)
    found = findings.of(facts)
    matters = sum(finding.severity == "matters" for finding in found)
    if json:
        say.as_json({"matters": matters, "findings": [it.plain() for it in found], "unseen": list(facts.unseen)})
    else:
        _print(found, facts, whole)
    raise typer.Exit(say.FOUND if matters else say.FINE)


def _print(found: tuple[Finding, ...], facts: Facts, whole: bool) -> None:
    for topic, title in _TITLES.items():
        lines = list(_topic([it for it in found if it.topic == topic], whole))
        if lines:
            say.line(title)
        for line in lines:
            sys.stdout.write(f"{line}\n")
    for text in facts.unseen:
        say.line(f"not looked at: {text}")
    notes = sum(it.severity == "note" for it in found)
    matters = sum(it.severity == "matters" for it in found)
    what = f"{matters} matter{'s' * (matters == 1)}" if matters else "nothing that matters"
    say.line(f"{what}, {notes} note{'s' * (notes != 1)}")


def _topic(found: list[Finding], whole: bool) -> Iterator[str]:
    """What matters first; what is fine in one line, by name."""
    for severity in ("matters", "note"):
        for it in found:
            if it.severity == severity:
                yield from _block(it)
    fine = [it for it in found if it.severity == "fine"]
    if whole:
        for it in fine:
            yield from _block(it)
    elif fine:
        yield from _wrapped("fine", ", ".join(it.name for it in fine))


def _block(it: Finding) -> Iterator[str]:
    yield from _wrapped(it.severity, it.text)
    if it.means:
        yield from _wrapped("", it.means)
    if it.mend:
        yield f"{_INDENT}# {say.printable(it.mend)}"  # never wrapped: it is there to be copied


def _wrapped(word: str, text: str) -> Iterator[str]:
    lines = textwrap.wrap(say.printable(text), _WIDTH - len(_INDENT), break_on_hyphens=False, break_long_words=False)
    head = f"  {word:9}"
    if word and say.colors(sys.stdout):
        head = f"  \x1b[{_COLORS[word]}m{word:9}\x1b[0m"
    for number, line in enumerate(lines):
        yield f"{head if number == 0 else _INDENT}{line}"
