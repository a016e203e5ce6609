"""What a single value may be: sizes, times, patterns, names, users. Each is read here, or refused with a hint.

Which keys there are, and which value each has, is ``schema``'s.
"""

import re
from collections.abc import Callable, Iterable
from typing import Annotated

from pydantic import Field, PlainValidator

from ..model.policy import Amount, Expression, Pattern
from . import expression, units
from .faults import Wrong, shown

SECOND_NS = 10**9
DAY_NS = 86400 * SECOND_NS
MEASURES = ("memory", "oom_score", "growth", "swap", "pressure", "refaults", "oldest", "newest", "fair_share")
MIXABLE = MEASURES[:-1]
_LONGEST_WORD = 64  # of a mistaken key, for the comparison with the right ones
COMM_BYTES = 15  # TASK_COMM_LEN less its NUL: the kernel keeps no more of a name
UNIT_TYPES = ("service", "scope", "slice", "socket", "mount", "swap")


def _between(low_ns: int, high_ns: int) -> Callable[[object], int]:
    def check(value: object) -> int:
        nanoseconds = units.duration(value)
        if not low_ns <= nanoseconds <= high_ns:
            low, high = units.shown_duration(low_ns), units.shown_duration(high_ns)
            raise Wrong(f"{shown(value)} is out of range", f"from {low if low_ns else '0s'} to {high}")
        return nanoseconds

    return check


def _size_between(low: int, high: int) -> Callable[[object], int]:
    def check(value: object) -> int:
        number = units.size(value)
        if not low <= number <= high:
            bounds = [units.shown_amount(Amount(bytes=bound)) for bound in (low, high)]
            raise Wrong(f"{shown(value)} is out of range", f"from {bounds[0]} to {bounds[1]}")
        return number

    return check


def _amounts(value: object) -> tuple[Amount, ...]:
    """One amount, or a list of them that must all hold: available_below = ["5%", "2GiB"] is the smaller of the two."""
    if not isinstance(value, list):
        return (units.amount(value),)
    if not 1 <= len(value) <= 4:
        raise Wrong("a list of amounts has one to four items", units.AMOUNT_HINT)
    return tuple(units.amount(item) for item in value)


def _amount_or_none(value: object) -> Amount:
    """An amount, or nothing at all: "0" is no size, but it is a limit."""
    return Amount(bytes=0) if value == "0" or (type(value) is int and value == 0) else units.amount(value)


def _glob(value: object) -> str:
    if not isinstance(value, str):
        raise Wrong(f"{shown(value)} is not text", 'patterns are text: "sshd*"')
    if not value:
        raise Wrong("an empty pattern matches nothing", 'write "*" for everything')
    if len(value) > 4096:
        raise Wrong("the pattern is longer than any path", "")
    if "\0" in value:
        raise Wrong("no name holds a NUL", "")
    if re.search(r"[\[\]{}]", value):
        raise Wrong(
            f"{shown(value)}: patterns know no sets and alternatives",
            "* is all but /, ** all, ? one character; of a victim's name { re = '...' } is a regular expression",
        )
    if "***" in value:
        raise Wrong(f"{shown(value)} has three stars in a row", "* is all but /, ** is all")
    return value


def _comm_glob(value: object) -> str:
    pattern = _glob(value)
    if len(pattern.replace("*", "").encode("utf-8", "surrogateescape")) > COMM_BYTES:
        cut = pattern.encode("utf-8", "surrogateescape")[:COMM_BYTES].decode("utf-8", "ignore")
        hint = f'did you mean "{cut}"?' if "*" not in pattern else ""
        raise Wrong(f"{shown(value)} never matches: the kernel keeps {COMM_BYTES} bytes of a name", hint)
    return pattern


def _unit_glob(value: object) -> str:
    pattern = _glob(value)
    if "/" in pattern:
        raise Wrong(f"{shown(value)} never matches: unit names hold no /", "to match a path, use cgroup =")
    if not pattern.endswith(("*", "?", *(f".{kind}" for kind in UNIT_TYPES))):
        raise Wrong(f"{shown(value)} never matches: a unit name ends in its type", f'did you mean "{pattern}.service"?')
    return pattern


def _system_unit_glob(value: object) -> str:
    pattern = _unit_glob(value)
    if "**" in pattern:
        raise Wrong(f"{shown(value)}: a unit's name has no /, which ** stands for", "* is all of a name")
    return pattern


def _slice_glob(value: object) -> str:
    pattern = _system_unit_glob(value)
    if not pattern.endswith((".slice", "*")):
        raise Wrong(f"{shown(value)} never matches: a slice's name ends in .slice", f'did you mean unit = "{pattern}"?')
    return pattern


def _cgroup_glob(value: object) -> str:
    pattern = _glob(value)
    if not pattern.startswith("/"):
        hint = f'did you mean "{pattern.removeprefix("/sys/fs/cgroup")}"?' if pattern.startswith("/sys") else ""
        raise Wrong(f"{shown(value)} does not start with /", hint or f'did you mean "/{pattern}"?')
    if pattern.startswith("/sys/fs/cgroup"):
        rest = pattern.removeprefix("/sys/fs/cgroup") or "/"
        raise Wrong(f"{shown(value)}: cgroups are named from the cgroup root", f'did you mean "{rest}"?')
    if pattern != "/" and (pattern.endswith("/") or {"", ".", ".."} & set(pattern[1:].split("/"))):
        raise Wrong(f"{shown(value)} is not a plain path", "no empty parts, no . or .., no / at the end")
    return pattern


def _exe_glob(value: object) -> str:
    pattern = _glob(value)
    if not pattern.startswith(("/", "*")):
        raise Wrong(f"{shown(value)} never matches: it is a path", f'did you mean "**/{pattern}"?')
    return pattern


# Whose names Linux lets a cgroup's directory have (fs/kernfs): user.* its owner sets, the others root alone.
_XATTR = re.compile(r"(?:user|trusted|security)\.[^=\s]{1,240}")


def _xattr(value: object) -> str:
    """NAME, or NAME=GLOB."""
    if not isinstance(value, str):
        raise Wrong(f"{shown(value)} is not text", 'as in "user.tier=batch"')
    name, given, pattern = value.partition("=")
    if not _XATTR.fullmatch(name) or "\0" in name:
        hint = f'did you mean "user.{name}"?' if _XATTR.fullmatch(f"user.{name}") and "." not in name else ""
        raise Wrong(f"{shown(name)} is no name of an extended attribute", hint or 'as in "user.tier=batch"')
    return f"{name}={_glob(pattern) if given else '*'}"


def _comm_pattern(value: object) -> Pattern:
    return _expression(value, COMM_BYTES) or _comm_glob(value)


def _unit_pattern(value: object) -> Pattern:
    return _expression(value) or _unit_glob(value)


def _cgroup_pattern(value: object) -> Pattern:
    return _expression(value, first="/") or _cgroup_glob(value)


def _exe_pattern(value: object) -> Pattern:
    return _expression(value, first="/") or _exe_glob(value)


def _expression(value: object, longest: int | None = None, first: str = "") -> Expression | None:
    """{ re = "..." }; None: it is not written so."""
    if not isinstance(value, dict):
        return None
    if value.keys() != {"re"} or not isinstance(value["re"], str):
        raise Wrong("a pattern is text, or a table with re alone", '"sshd*", or { re = "sshd|cron" }')
    return expression.compiled(value["re"], longest, first)


_SPAN = re.compile(r"\s*(-?[0-9]{1,10})\s*\.\.\s*(-?[0-9]{1,10})\s*")


def _span(low: int, high: int, example: str) -> Callable[[object], tuple[int, int]]:
    def span(value: object) -> tuple[int, int]:
        """A number, or two of them: from, to."""
        ends = _SPAN.fullmatch(value) if isinstance(value, str) else None
        if ends is not None:
            first, last = int(ends[1]), int(ends[2])
        elif isinstance(value, int) and not isinstance(value, bool):
            first = last = value
        else:
            raise Wrong(f"{shown(value)} is neither a number nor from..to", f"as in {example}")
        if not low <= first <= last <= high:
            raise Wrong(f"{shown(value)} is out of range", f"from {low} to {high}, the smaller one first")
        return first, last

    return span


def _user(value: object) -> int:
    """The uid of that name, as of now: names may come from a directory that is not there later."""
    if not isinstance(value, str):
        raise Wrong(f"{shown(value)} is not a user's name", "a number is uid =")
    import pwd

    try:
        return pwd.getpwnam(value).pw_uid
    except (KeyError, ValueError):
        names = [entry.pw_name for entry in pwd.getpwall()[:1000]]
        close = nearest(value, names)
        hint = close if close.startswith("did you mean") else "getent passwd lists them"
        raise Wrong(f"there is no user {shown(value)} on this machine", hint) from None


def _by(value: object) -> tuple[str, tuple[tuple[str, int], ...]]:
    """A measure, or a table of several with their weights: (its name, ()) or ("mix", ((name, weight), ...))."""
    if isinstance(value, str):
        if value not in MEASURES:
            raise unknown("value", value, MEASURES)
        return value, ()
    if not isinstance(value, dict) or not value:
        raise Wrong(f"{shown(value)} is no measure", 'as in "memory", or { memory = 3, growth = 1 }')
    for name, weight in value.items():
        if name not in MIXABLE:
            raise unknown("measure", name, MIXABLE)
        if not isinstance(weight, int) or isinstance(weight, bool) or not 1 <= weight <= 100:
            raise Wrong(f"{name}: {shown(weight)} is no weight", "a whole number from 1 to 100")
    return "mix", tuple((name, value[name]) for name in MIXABLE if name in value)


def _path(value: object) -> str:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value or "/.." in value:
        raise Wrong(f"{shown(value)} is not an absolute path", 'as in "/var/lib/oomguard"')
    return value.rstrip("/") or "/"


def _file(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise Wrong(f"{shown(value)} is not the name of a file", 'as in "shadow.toml", beside this one')
    return value


def _every(value: object) -> int:
    nanoseconds = _between(0, 3600 * SECOND_NS)(value)
    if 0 < nanoseconds < SECOND_NS:
        raise Wrong(
            f"{shown(value)} is shorter than anybody needs to give memory back", "from 1s to 1h, or 0s for once"
        )
    return nanoseconds


def _fifos(value: object) -> tuple[tuple[str, str], ...]:
    """By name, the user who may read each."""
    if not isinstance(value, dict) or len(value) > FIFOS_MAX:
        raise Wrong(f"{shown(value)}: not a table of at most {FIFOS_MAX} FIFOs", _FIFOS_HINT)
    for name, user in value.items():
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
            raise Wrong(f"{shown(name)} is not a name for a FIFO", "letters, digits, - and _")
        if not isinstance(user, str) or not user:
            raise Wrong(f"{shown(user)} is not a user's name", _FIFOS_HINT)
    return tuple(sorted(value.items()))


FIFOS_MAX = 32
_FIFOS_HINT = 'its name, and the user who may read it: { thumbnails = "www-data" }'
FileField = Annotated[str, PlainValidator(_file)]
EveryField = Annotated[int, PlainValidator(_every)]
FifosField = Annotated[tuple[tuple[str, str], ...], PlainValidator(_fifos)]
AmountField = Annotated[Amount, PlainValidator(units.amount)]
AmountsField = Annotated[tuple[Amount, ...], PlainValidator(_amounts)]
ShareField = Annotated[float | None, PlainValidator(units.share)]
DurationField = Annotated[int, PlainValidator(_between(0, DAY_NS))]
LeaseField = Annotated[int, PlainValidator(_between(SECOND_NS // 10, DAY_NS))]
WaitField = Annotated[int | None, PlainValidator(_between(SECOND_NS // 100, 3600 * SECOND_NS))]
WithinField = Annotated[int, PlainValidator(_between(SECOND_NS // 100, 60 * SECOND_NS))]
FreezeField = Annotated[int, PlainValidator(_between(SECOND_NS // 10, 600 * SECOND_NS))]
StallField = Annotated[int | None, PlainValidator(_between(10**6, 10 * SECOND_NS))]
# Linux, kernel/sched/psi.c: WINDOW_MIN_US 500000, WINDOW_MAX_US 10000000; outside of them EINVAL.
WindowField = Annotated[int, PlainValidator(_between(SECOND_NS // 2, 10 * SECOND_NS))]
RateField = Annotated[Amount, PlainValidator(units.rate)]
OptionalRateField = Annotated[Amount | None, PlainValidator(units.rate)]
OptionalAmountField = Annotated[Amount | None, PlainValidator(units.amount)]
# Shorter ones would be told from the steps in which the kernel folds its counters.
OverField = Annotated[int, PlainValidator(_between(SECOND_NS // 2, 3600 * SECOND_NS))]
ForecastField = Annotated[int, PlainValidator(_between(SECOND_NS // 2, 600 * SECOND_NS))]
CountField = Annotated[int | None, Field(ge=0, le=10**9)]
CommField = Annotated[Pattern | None, PlainValidator(_comm_pattern)]
UnitField = Annotated[Pattern | None, PlainValidator(_unit_pattern)]
SystemUnitField = Annotated[str | None, PlainValidator(_system_unit_glob)]
SliceField = Annotated[str | None, PlainValidator(_slice_glob)]
ExeField = Annotated[Pattern | None, PlainValidator(_exe_pattern)]
UidField = Annotated[tuple[int, int] | None, PlainValidator(_span(0, 2**32 - 2, '1000, or "1000..59999"'))]
AdjField = Annotated[tuple[int, int] | None, PlainValidator(_span(-1000, 1000, '300, or "1..1000"'))]
UserField = Annotated[int | None, PlainValidator(_user)]
ByField = Annotated[tuple[str, tuple[tuple[str, int], ...]], PlainValidator(_by)]
AgeField = Annotated[int, PlainValidator(_between(SECOND_NS // 100, 3650 * DAY_NS))]
XattrField = Annotated[str | None, PlainValidator(_xattr)]
CgroupField = Annotated[str | None, PlainValidator(_cgroup_glob)]
CgroupPatternField = Annotated[Pattern | None, PlainValidator(_cgroup_pattern)]
PathField = Annotated[str, PlainValidator(_path)]


def _url(value: object) -> str:
    """A fault of it does not show it: it holds a password or a token."""
    if not isinstance(value, str) or not _URL.match(value) or not value.isprintable():
        raise Wrong("that is not a URL as apprise knows them", 'as in "mailtos://user:password@example.org", in quotes')
    return value


def _secret_path(value: object) -> str:
    """Nor does this: it may be the URL itself, in the wrong place."""
    try:
        return _path(value)
    except Wrong:
        raise Wrong(
            "that is not an absolute path", 'of a file that holds the URL: "/etc/oomguard/secrets/ops"'
        ) from None


def _sink_name(value: object) -> str:
    if not isinstance(value, str):
        raise Wrong(f"{shown(value)} is not the name of a sink", "in quotes, as in [sinks.NAME]")
    return value


_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://.")
UrlField = Annotated[str, PlainValidator(_url)]
SecretPathField = Annotated[str, PlainValidator(_secret_path)]
SinkNameField = Annotated[str, PlainValidator(_sink_name)]


class Short:
    """What is written without a table means this key of it, which ``reads`` its value."""

    def __init__(self, key: str, reads: Callable[[object], object]) -> None:
        self.key, self.reads = key, reads

    def __call__(self, value: object) -> object:
        return value if isinstance(value, dict) else {self.key: value}


def _argument(value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise Wrong(f"{shown(value)} is not an argument", "each in quotes of its own")
    return value


def unknown(what: str, name: str, known: Iterable[str]) -> Wrong:
    """The refusal of a word, with the nearest one that would have been right."""
    known = list(known)
    if name == "cmdline":
        return Wrong("cmdline is not in the language: to read it may block for seconds", "match comm, exe or unit")
    return Wrong(f"unknown {what} {shown(name)}", nearest(name, known))


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a word that is not among the known ones."""
    import difflib

    known = list(known)
    close = difflib.get_close_matches(name[:_LONGEST_WORD], known, n=1)
    if close:
        return f"did you mean {close[0]}?"
    return f"there are {', '.join(known)}" if known else ""


def _age(value: object) -> int:
    """Nanoseconds; 0: never. Less than an hour would take them from under the eyes of who reads them."""
    nanoseconds = units.duration(value)
    if nanoseconds and not 3600 * SECOND_NS <= nanoseconds <= 36500 * 86400 * SECOND_NS:
        raise Wrong(f"{shown(value)} is out of range", 'from "1h" to "36500d"; "0s": none is too old')
    return nanoseconds


def _deadman(value: object) -> int:
    nanoseconds = _between(0, 10 * SECOND_NS)(value)
    if 0 < nanoseconds < SECOND_NS // 2:
        raise Wrong(f"{shown(value)} is shorter than a turn on a busy machine", "from 500ms to 10s, or 0s for never")
    return nanoseconds


SwapMaxField = Annotated[Amount, PlainValidator(_amount_or_none)]
ArgumentField = Annotated[str, PlainValidator(_argument)]
HeapField = Annotated[int, PlainValidator(_size_between(1 << 20, 1 << 30))]  # what a core and a worker need to stand
RingField = Annotated[int, PlainValidator(_size_between(256 << 10, 256 << 20))]
StoreField = Annotated[int, PlainValidator(_size_between(1 << 20, 1 << 50))]
KeptField = Annotated[int, PlainValidator(_age)]  # ns; 0: none is too old
DeadmanField = Annotated[int, PlainValidator(_deadman)]
