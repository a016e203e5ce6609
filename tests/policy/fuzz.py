"""Policy files, and other daemons' configurations, as nobody would write them: ``python -m tests.policy.fuzz SECONDS``.

Two sources of files: texts that are mangled, and what the language's own grammar makes. Of any file must hold: it is a
plan, or faults with lines in that file; a plan means the same when it is shown again; what the models take, the JSON
Schema takes. Of any configuration of others: it is refused with a line, or what is made of it is a right policy. Of any
regular expression: it is refused, or a table within its bounds that means what Python means by it, if Python takes it.
"""

import random
import re
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jsonschema
import tomli
from hypothesis import HealthCheck, given, seed, settings

from oomguard.judge.glob import matches
from oomguard.model import codec
from oomguard.model.policy import Daemon, Plan
from oomguard.policy import Fault, PolicyError, described, expression, importers, load, spoken, toml, warnings
from oomguard.policy.faults import Wrong
from oomguard.policy.origins import Origins

from . import grammar, test_any_text, test_expression, test_importers, test_spoken

ROOT = Path(__file__).parents[2]
DOCUMENT = jsonschema.Draft7Validator(described.document())
WORDS = [*test_any_text.WORDS, *described.WORDS, *grammar.TIMES, *grammar.SIZES, *grammar.SHARES, "policy", "daemon"]
ODD = [
    "\0",
    "\r\n",
    "\ufeff",
    "\u202e",
    "\x1b[31m",
    '"""',
    "'''",
    "\\",
    "[[",
    "]]",
    "{",
    "}",
    "#",
    "=",
    ".",
    "\n",
    "\t",
]
ODD += [
    "1e999",
    "nan",
    "-1",
    "0",
    "9" * 40,
    "1979-05-27T07:32:00Z",
    "0x_1",
    "true",
    "[]",
    "{}",
    '""',
    "///",
    "%",
    "<",
    "@",
]


class Broken(Exception):
    """What must hold of any file does not."""


def hold(what: bool, why: str) -> None:
    if not what:
        raise Broken(why)


# ------------------------------------------------------------------------------------------------------- what must hold


def check_policy(directory: Path, *raws: bytes) -> str:
    """One policy of these files; in a word what became of it."""
    paths = []
    for number, raw in enumerate(raws):
        path = directory / f"{number}.toml"
        path.write_bytes(raw)
        paths.append(path)
    try:
        plan = load(paths)
    except PolicyError as error:
        check_faults(error.faults, dict(zip(map(str, paths), raws, strict=True)))
        return "refused"
    hold(codec.from_plain(codec.to_plain(plan)) == plan, "the plan does not survive its codec")
    check_shown(directory, plan)
    for path in paths:
        text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
        errors = [error.message for error in DOCUMENT.iter_errors(tomli.loads(text))]
        hold(not errors, f"the schema refuses what the models take: {errors[:3]}")
    nowhere = replace(plan, daemon=replace(plan.daemon, proc=str(directory), cgroup=str(directory)))
    check_faults(warnings(nowhere, matches), dict(zip(map(str, paths), raws, strict=True)))
    return "plan"


def check_faults(faults: object, files: dict[str, bytes]) -> None:
    assert isinstance(faults, tuple | list)
    shadow = any(fault.key == "daemon.shadow" for fault in faults)  # then there is one more file
    for fault in faults:
        if shadow and fault.file not in files:
            continue
        hold(isinstance(fault, Fault) and bool(fault.message), f"{fault!r} says nothing")
        hold(fault.file in files, f"{fault!r} is of no file of ours")
        hold(1 <= fault.line <= files[fault.file].count(b"\n") + 1, f"{fault!r} is on no line of the file")
        hold(len(str(fault).splitlines()) <= 2, f"{fault!r} breaks its line")
        hold(len(str(fault)) < 2000, "a fault without end")


def check_shown(directory: Path, plan: Plan) -> None:
    shown = directory / "shown.toml"
    shown.write_text(toml.document(spoken.tables(plan), Origins(plan.files).remark), "utf-8")
    try:
        again = load([shown])
    except PolicyError as error:
        raise Broken(f"what is shown is refused: {error}") from None
    hold(bare(again) == bare(plan), "what is shown means something else")


def bare(plan: Plan) -> Plan:
    return replace(test_spoken.bare(plan), daemon=Daemon())


def check_import(directory: Path, kind: str, name: str, raw: bytes) -> str:
    path = directory / "theirs" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)
    try:
        draft = importers.read(kind, [path])
        check_faults([*draft.left, *draft.differs], {str(path): raw})
    except PolicyError as error:
        check_faults(error.faults, {str(path): raw})
        return "refused"
    try:
        if draft.guards:
            importers.compiled(draft)
    except PolicyError:
        return "out of range"
    return "plan" if draft.guards else "nothing"


def check_expression(dice: random.Random, text: str) -> str:
    """On names made of its own letters: those that it describes are among them."""
    try:
        table = expression.compiled(text)
    except Wrong as wrong:
        hold(0 < len(wrong.message) < 600, "a refusal without end")
        return "refused"
    hold(len(table.table) <= expression.MOST_CELLS, "the table is out of bounds")
    try:
        theirs = test_expression.pythons(text)
    except (re.error, RecursionError, OverflowError):
        return "ours alone"
    letters = [letter for letter in text if letter not in "()*+?|^$"] or ["a"]
    for _ in range(20):
        name = "".join(dice.choices([*letters, "a", "Z", "/"], k=dice.randrange(7)))  # short: Python's may backtrack
        hold(table.describes(name) == bool(theirs.fullmatch(name)), f"of {name!r} Python says something else")
    return "plan"


# ------------------------------------------------------------------------------------------------------------ the files

POLICIES = [
    test_any_text.GOOD,
    *(path.read_text() for path in [ROOT / "etc/oomguard.toml", *sorted((ROOT / "etc/examples").glob("*.toml"))]),
    *(path.read_text() for path in sorted((Path(__file__).parent / "golden").glob("*.toml"))),
]
EXPRESSIONS = [
    "(?i)(chrom|firefox|web ?content).*",
    r"(ba|z|fi)?sh|tmux.*",
    r"build-[0-9]{1,4}\.service",
    r"/usr/(s?bin|lib(32|64)?)/[^/]+",
    r"^(a|b)*(c?d+){2}[\w.-]*$",
    r"(x|y?){0,3}([^\s/]|\D)*z",
]
EXPRESSION_WORDS = [
    *"()[]{}*+?|^$.\\-",
    "(?i)",
    "(?:",
    "{2}",
    "{0,3}",
    "{1,}",
    r"\d",
    r"\W",
    "[^",
    "a-z",
    "(?=",
    r"\1",
    "é",
]
THEIRS = [
    (
        "earlyoom",
        "earlyoom",
        "EARLYOOM_ARGS=\"-m 10,5 -s 10 -M 1048576,9 -S 1 --avoid '(^|/)(a|b[cd]).*$' --prefer x -n\"\n",
    ),
    ("nohang", "nohang.conf", test_importers.DESKTOP),
    ("oomd", "oomd.json", test_importers.OOMD),
    (
        "systemd-oomd",
        "user@.service",
        "".join(test_importers.USERS[1:]) + "ManagedOOMMemoryPressureDurationSec=1min 20s\n",
    ),
    ("systemd-oomd", "oomd.conf", "[OOM]\nSwapUsedLimit=90%\nDefaultMemoryPressureDurationSec=20s\n"),
    ("kubelet", "config.yaml", test_importers.KUBELET),
    ("kubelet", "flags", test_importers.FLAGS),
]


def mangled(dice: random.Random, text: str, words: list[str]) -> bytes:
    """With pieces lost, doubled, exchanged and misplaced; now and then with bytes that are no text."""
    for _ in range(dice.choice([1, 1, 1, 2, 3, 8])):
        start = dice.randrange(len(text) + 1)
        end = min(len(text), start + dice.choice([0, 1, 3, 10, 40, 400]))
        there = dice.randrange(len(text) + 1)
        match dice.randrange(6):
            case 0:
                text = text[:start] + text[end:]
            case 1:
                text = text[:there] + text[start:end] + text[there:]
            case 2:
                text = text[:there] + dice.choice(ODD) + text[there:]
            case 3:
                text = text[:there] + dice.choice(words) + text[there + dice.randrange(12) :]
            case 4:
                lines = text.split("\n")
                dice.shuffle(lines) if dice.random() < 0.1 else lines.insert(
                    dice.randrange(len(lines)), dice.choice(lines)
                )
                text = "\n".join(lines)
            case _:
                text = _other_value(dice, text, words)
    raw = text.encode("utf-8", "surrogatepass")
    if dice.random() < 0.05 and raw:
        at = dice.randrange(len(raw))
        raw = raw[:at] + bytes([dice.randrange(256)]) + raw[at + 1 :]
    return raw


def _other_value(dice: random.Random, text: str, words: list[str]) -> str:
    """What stands after a sign is something else."""
    places = [at for at, letter in enumerate(text) if letter in "=:[,"]
    if not places:
        return text
    at = dice.choice(places) + 1
    end = min([place for place in (text.find(c, at) for c in ",}]\n") if place >= 0], default=len(text))
    word = dice.choice([*words, *ODD])
    return text[:at] + " " + (f'"{word}"' if dice.random() < 0.5 else word) + text[end:]


# -------------------------------------------------------------------------------------------------------------- the run


def run(seconds: float, start: int) -> int:
    """Until the time is over, or something is broken: then 1, with the file."""
    ends = time.monotonic() + seconds
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        number = start
        while time.monotonic() < ends:
            dice = random.Random(number)
            try:
                _mangle(dice, directory, counts)
                if number % 500 == 0:
                    _grow(number, directory, counts)
            except (Exception, RecursionError):  # noqa: BLE001 - whatever it is, it is what is looked for
                traceback.print_exc()
                for path in sorted(directory.rglob("*")):
                    if path.is_file():
                        print(f"--- {path.name}\n{path.read_bytes()!r}")
                print(f"broken at {number} of seed {start}: again with  python -m tests.policy.fuzz 1 {number}")
                return 1
            number += 1
    print(", ".join(f"{count} {what}" for what, count in sorted(counts.items())))
    return 0


def _mangle(dice: random.Random, directory: Path, counts: Counter[str]) -> None:
    if dice.random() < 0.2:
        text = mangled(dice, dice.choice(EXPRESSIONS), EXPRESSION_WORDS).decode("utf-8", "surrogateescape")
        (directory / "expression").write_text(repr(text))
        counts[f"expression {check_expression(dice, text)}"] += 1
    elif dice.random() < 0.6:
        raws = [mangled(dice, dice.choice(POLICIES), WORDS) for _ in range(dice.choice([1, 1, 1, 2]))]
        counts[f"policy {check_policy(directory, *raws)}"] += 1
    else:
        kind, name, text = dice.choice(THEIRS)
        words = [word for word in text.split() if word]
        counts[f"{kind} {check_import(directory, kind, name, mangled(dice, text, words))}"] += 1


def _grow(number: int, directory: Path, counts: Counter[str]) -> None:
    checked: Callable[[], None]

    @seed(number)
    @settings(max_examples=100, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(grammar.POLICIES)
    def checked(tables: grammar.Table) -> None:
        counts[f"grown {check_policy(directory, toml.document(tables).encode())}"] += 1

    checked()


if __name__ == "__main__":
    raise SystemExit(run(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time())))
