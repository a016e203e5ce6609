"""What may be written in a policy file: one pydantic model for each table, strict, and nothing else accepted.

The models check form only, each table by itself. What tables mean to each other is ``compile``'s.
"""

import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, model_validator

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


class Table(BaseModel):
    """Every table: exact types, no unknown keys, fixed once read."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


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


class Short:
    """What is written without a table means this key of it, which ``reads`` its value."""

    def __init__(self, key: str, reads: Callable[[object], object]) -> None:
        self.key, self.reads = key, reads

    def __call__(self, value: object) -> object:
        return value if isinstance(value, dict) else {self.key: value}


def _only_one(table: str, **given: object) -> str:
    names = [name for name, value in given.items() if value is not None]
    if len(names) != 1:
        among = " and ".join(given) if len(given) == 2 else ", ".join(given)
        raise Wrong(f"{table} needs exactly one of {among}", "to have both, write two tables")
    return names[0]


def _level(value: object) -> object:
    return value  # the table's own key knows which there are


class LevelTable(Table):
    """``level_above``: memory.pressure_level, of cgroup v1."""

    level: Literal["low", "medium", "critical"]
    mode: Literal["default", "hierarchy", "local"] = "default"


class StallTable(Table):
    """``stall_above``: a trigger of the kernel."""

    some: StallField = None
    full: StallField = None
    within: WindowField = SECOND_NS

    @property
    def line(self) -> Literal["some", "full"]:
        return "some" if self.some is not None else "full"

    @property
    def stall_ns(self) -> int:
        return self.some if self.some is not None else self.full or 0

    @model_validator(mode="after")
    def _check(self) -> "StallTable":
        _only_one("stall_above", some=self.some, full=self.full)
        if self.stall_ns // 1000 >= self.within // 1000:  # the kernel's unit
            window = units.shown_duration(self.within)
            raise Wrong(f"the stall is not shorter than its window of {window}", '{ some = "150ms", within = "1s" }')
        return self


class PressureTable(Table):
    """``pressure_above``: the kernel's running average."""

    some: ShareField = None
    full: ShareField = None
    over: Literal["10s", "60s", "300s"] = "10s"

    key: ClassVar[str] = "pressure_above"

    @property
    def line(self) -> Literal["some", "full"]:
        return "some" if self.some is not None else "full"

    @property
    def share(self) -> float:
        return self.some if self.some is not None else self.full or 0.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        _only_one(self.key, some=self.some, full=self.full)
        return self


class PressureRisingTable(PressureTable):
    """``pressure_rising``: the same, and more than the longer average."""

    over: Literal["10s", "60s"] = "10s"

    key: ClassVar[str] = "pressure_rising"


class GrowthTable(Table):
    """``growth_above``: so much a second, in each third of ``over``."""

    rate: RateField
    over: OverField = 3 * SECOND_NS


class RefaultsTable(Table):
    """``refaults_above``: so much a second is read again, in each third of ``over``."""

    any: OptionalRateField = None
    anon: OptionalRateField = None
    file: OptionalRateField = None
    over: OverField = 3 * SECOND_NS

    @property
    def rate(self) -> tuple[Literal["anon", "file", "any"], Amount]:
        if self.anon is not None:
            return "anon", self.anon
        return ("file", self.file) if self.file is not None else ("any", self.any or Amount())

    @model_validator(mode="after")
    def _check(self) -> "RefaultsTable":
        _only_one("refaults_above", any=self.any, anon=self.anon, file=self.file)
        return self


class EventsTable(Table):
    """``events_above``: a line of memory.events counts more than so many in ``per``."""

    low: CountField = None
    high: CountField = None
    max: CountField = None
    oom: CountField = None
    oom_kill: CountField = None
    per: OverField

    @property
    def count(self) -> tuple[Literal["low", "high", "max", "oom", "oom_kill"], int]:
        lines: tuple[Literal["low", "high", "max", "oom", "oom_kill"], ...] = ("low", "high", "max", "oom", "oom_kill")
        return next((line, getattr(self, line)) for line in lines if getattr(self, line) is not None)

    @model_validator(mode="after")
    def _check(self) -> "EventsTable":
        counts = {"low": self.low, "high": self.high, "max": self.max, "oom": self.oom, "oom_kill": self.oom_kill}
        _only_one("events_above", **counts)
        return self


class ZramTable(Table):
    """``zram_above``: of memory what zram and zswap take; of zram's disks what is stored in them."""

    memory: OptionalAmountField = None
    disk: OptionalAmountField = None

    @property
    def share(self) -> tuple[Literal["memory", "disk"], Amount]:
        return ("disk", self.disk) if self.disk is not None else ("memory", self.memory or Amount())

    @model_validator(mode="after")
    def _check(self) -> "ZramTable":
        _only_one("zram_above", memory=self.memory, disk=self.disk)
        return self


class ClauseTable(Table):
    """One table of ``when``: all of its conditions hold."""

    available_below: AmountsField = ()
    swap_free_below: AmountsField = ()
    memory_above: AmountsField = ()
    swap_above: AmountsField = ()
    stall_above: StallTable | None = None
    level_above: Annotated[LevelTable | None, BeforeValidator(Short("level", _level))] = None
    pressure_above: PressureTable | None = None
    pressure_rising: PressureRisingTable | None = None
    growth_above: Annotated[GrowthTable | None, BeforeValidator(Short("rate", units.rate))] = None
    exhausts_within: ForecastField = 0
    refaults_above: Annotated[RefaultsTable | None, BeforeValidator(Short("any", units.rate))] = None
    events_above: EventsTable | None = None
    zram_above: Annotated[ZramTable | None, BeforeValidator(Short("memory", units.amount))] = None
    lasting: DurationField = 0

    @model_validator(mode="after")
    def _check(self) -> "ClauseTable":
        if not self.model_fields_set - {"lasting"}:
            names = ", ".join(name for name in type(self).model_fields if name != "lasting")
            raise Wrong("there is no condition here", f"conditions are {names}")
        return self


class Nothing(Table):
    """``snapshot = {}``: a step without options."""


class KillTable(Table):
    grace: DurationField = 0


class SetHighTable(Table):
    to: AmountField
    for_: LeaseField = Field(alias="for")


class SetMaxTable(SetHighTable):
    pass


class SetSwapMaxTable(SetHighTable):
    to: Annotated[Amount, PlainValidator(_amount_or_none)]


class ReclaimTable(Table):
    size: AmountField
    within: WithinField = 2 * SECOND_NS


class FreezeTable(Table):
    for_: FreezeField = Field(alias="for")


class TellTable(Table):
    every: EveryField = 10 * SECOND_NS
    to: Literal["inside", "all"] = "inside"
    fifos: FifosField = ()


class SetOomScoreAdjTable(Table):
    to: int = Field(ge=0, le=1000)
    for_: LeaseField = Field(alias="for")


def _argument(value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise Wrong(f"{shown(value)} is not an argument", "each in quotes of its own")
    return value


def _run(value: object) -> object:
    """run = ["/path", "argument"] is short for the table with that argv."""
    if isinstance(value, str):
        hint = f"run = [{', '.join(shown(part) for part in value.split())}]" if value.startswith("/") else ""
        raise Wrong("a hook is a list: the program and its arguments; no shell is asked", hint)
    return {"argv": value} if isinstance(value, list) else value


class RunTable(Table):
    argv: Annotated[list[Annotated[str, PlainValidator(_argument)]], Field(min_length=1, max_length=64)]
    user: str = Field(default="", max_length=64)
    deadline: WithinField = 10 * SECOND_NS

    @model_validator(mode="after")
    def _check(self) -> "RunTable":
        if not self.argv[0].startswith("/"):
            raise Wrong(f"{shown(self.argv[0])} is not an absolute path", "no PATH is searched: /usr/local/bin/...")
        return self


def _reclaim(value: object) -> object:
    """reclaim = "64MiB" is short for the table with that size."""
    return {"size": value} if isinstance(value, str | int) and not isinstance(value, bool) else value


class StepTable(Table):
    """One step of ``do``: exactly one of the keys. A step without options may be written as its name alone."""

    snapshot: Nothing | None = None
    notify: Nothing | None = None
    nominate: Nothing | None = None
    wait: WaitField = None
    reclaim: Annotated[ReclaimTable | None, BeforeValidator(_reclaim)] = None
    freeze: FreezeTable | None = None
    tell: TellTable | None = None
    run: Annotated[RunTable | None, BeforeValidator(_run)] = None
    restart_unit: Nothing | None = None
    stop_unit: Nothing | None = None
    kill: KillTable | None = None
    set_high: SetHighTable | None = None
    set_max: SetMaxTable | None = None
    set_swap_max: SetSwapMaxTable | None = None
    set_oom_score_adj: SetOomScoreAdjTable | None = None

    @model_validator(mode="after")
    def _check(self) -> "StepTable":
        if len(self.model_fields_set) != 1:
            raise Wrong("a step is exactly one action", f"actions are {', '.join(type(self).model_fields)}")
        return self


def _step(value: object) -> object:
    """A name alone becomes a table, so that pydantic sees one form only."""
    if not isinstance(value, str):
        return value
    if value not in StepTable.model_fields:
        raise unknown("action", value, StepTable.model_fields)
    if value == "wait":
        raise Wrong("how long is to be waited?", '{ wait = "2s" }')
    return {value: {}}


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


class WatermarkTable(Table):
    when: list[ClauseTable] = Field(min_length=1, max_length=32)
    do: list[Annotated[StepTable, BeforeValidator(_step)]] = Field(min_length=1, max_length=16)


class MatchTable(Table):
    comm: CommField = None
    unit: UnitField = None
    cgroup: CgroupPatternField = None
    exe: ExeField = None
    user: UserField = None
    uid: UidField = None
    oom_score_adj: AdjField = None
    older_than: AgeField = 0
    younger_than: AgeField = 0

    @model_validator(mode="after")
    def _check(self) -> "MatchTable":
        if not self.model_fields_set:
            raise Wrong("an empty table would match everybody", "name a comm, a unit or a cgroup")
        if self.user is not None and self.uid is not None:
            raise Wrong("user and uid say the same twice", "keep one of them")
        if self.younger_than and self.older_than >= self.younger_than:
            raise Wrong("nobody is older than that and younger", "older_than is the smaller one")
        return self


_Matches = Annotated[list[MatchTable], Field(max_length=512)]


class VictimTable(Table):
    by: ByField = ("memory", ())
    take: Literal["auto", "process", "process_group", "session", "subtree", "cgroup", "unit"] = "auto"
    never: _Matches = []
    avoid: _Matches = []
    prefer: _Matches = []


class BudgetTable(Table):
    kills: int = Field(ge=1, le=10_000)
    per: LeaseField


SELECTORS = ("cgroup", "unit", "slice", "container", "pod")


class GuardTable(Table):
    """``[policy.NAME]``. That cgroup and a watermark are there is checked later, when files are merged."""

    cgroup: CgroupField = None
    unit: SystemUnitField = None
    slice: SliceField = None
    container: Literal["docker", "podman", "nerdctl", "kubernetes", "any"] | None = None
    pod: Literal["guaranteed", "burstable", "besteffort", "any"] | None = None
    xattr: XattrField = None
    mode: Literal["enforce", "observe"] = "enforce"
    soft: WatermarkTable | None = None
    hard: WatermarkTable | None = None
    victim: VictimTable = VictimTable()
    tripwire: bool = False
    brake: bool = True
    insurance: bool = True
    cooldown: DurationField = 5 * SECOND_NS
    budget: BudgetTable | None = None
    disabled: bool = False

    @property
    def selector(self) -> str:
        """Whom it guards, as the plan has it; "" if that is not said."""
        kinds = ((kind, getattr(self, kind)) for kind in SELECTORS)
        kind, name = next(((kind, name) for kind, name in kinds if name is not None), ("", ""))
        return name if kind in ("", "cgroup") else f"{kind}={name}"


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


class IncidentsTable(Table):
    max_count: int = Field(default=200, ge=1, le=1_000_000)
    max_bytes: Annotated[int, PlainValidator(_size_between(1 << 20, 1 << 50))] = 512 << 20
    max_age: Annotated[int, PlainValidator(_age)] = 0  # ns; 0: none is too old


class DaemonTable(Table):
    """``[daemon]``. The smallest heaps are what a core and a worker need to stand at all."""

    state_dir: PathField = "/var/lib/oomguard"
    runtime_dir: PathField = "/run/oomguard"
    heap: Annotated[int, PlainValidator(_size_between(1 << 20, 1 << 30))] = 2 << 20
    worker_heap: Annotated[int, PlainValidator(_size_between(1 << 20, 1 << 30))] = 1 << 20
    ring: Annotated[int, PlainValidator(_size_between(256 << 10, 256 << 20))] = 1 << 20
    deadman: Annotated[int, PlainValidator(_deadman)] = 2 * SECOND_NS
    incidents: IncidentsTable = IncidentsTable()
    budget: BudgetTable | None = None
    shadow: FileField = ""


def keys_at(table: type[Table], way: Iterable[str | int]) -> list[str]:
    """The keys that may stand in the table that this way leads to; none if it leads to no table."""
    for part in way:
        if isinstance(part, int):
            continue
        fields = {field.alias or name: field.annotation for name, field in table.model_fields.items()}
        inner = table_in(fields.get(part))
        if inner is None:
            return []
        table = inner
    return [field.alias or name for name, field in table.model_fields.items()]


def table_in(annotation: Any) -> type[Table] | None:
    """The table that a field holds: itself, optional, or in a list."""
    if isinstance(annotation, type) and issubclass(annotation, Table):
        return annotation
    return next((found for part in get_args(annotation) if (found := table_in(part))), None)
