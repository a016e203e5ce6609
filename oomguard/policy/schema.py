"""What may be written in a policy file: one pydantic model for each table, strict, and nothing else accepted.

The models check form only, each table by itself. What tables mean to each other is ``compile``'s.
"""

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from ..model.policy import Amount, Told
from . import units
from .faults import Wrong, shown
from .values import (
    SECOND_NS,
    AdjField,
    AgeField,
    AmountField,
    AmountsField,
    ArgumentField,
    ByField,
    CgroupField,
    CgroupPatternField,
    CommField,
    CountField,
    DeadmanField,
    DurationField,
    EveryField,
    ExeField,
    FifosField,
    FileField,
    ForecastField,
    FreezeField,
    HeapField,
    KeptField,
    LeaseField,
    OptionalAmountField,
    OptionalRateField,
    OverField,
    PathField,
    RateField,
    RingField,
    SecretPathField,
    ShareField,
    Short,
    SinkNameField,
    SliceField,
    StallField,
    StoreField,
    SwapMaxField,
    SystemUnitField,
    UidField,
    UnitField,
    UrlField,
    UserField,
    WaitField,
    WindowField,
    WithinField,
    XattrField,
    unknown,
)


class Table(BaseModel):
    """Every table: exact types, no unknown keys, fixed once read."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


def _only_one(table: str, **given: object) -> str:
    names = [name for name, value in given.items() if value is not None]
    if len(names) != 1:
        among = " and ".join(given) if len(given) == 2 else ", ".join(given)
        raise Wrong(f"{table} needs exactly one of {among}", "to have both, write two tables")
    return names[0]


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


def _level(value: object) -> object:
    return value  # the table's own key knows which there are


class LevelTable(Table):
    """``level_above``: memory.pressure_level, of cgroup v1."""

    level: Literal["low", "medium", "critical"]
    mode: Literal["default", "hierarchy", "local"] = "default"


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
    to: SwapMaxField


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


def _run(value: object) -> object:
    """run = ["/path", "argument"] is short for the table with that argv."""
    if isinstance(value, str):
        hint = f"run = [{', '.join(shown(part) for part in value.split())}]" if value.startswith("/") else ""
        raise Wrong("a hook is a list: the program and its arguments; no shell is asked", hint)
    return {"argv": value} if isinstance(value, list) else value


ArgvField = Annotated[list[ArgumentField], Field(min_length=1, max_length=64)]


class RunTable(Table):
    argv: ArgvField
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
    container: Literal["docker", "podman", "containerd", "nerdctl", "kubernetes", "any"] | None = None
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
    notify: Annotated[list[SinkNameField], Field(max_length=64)] | None = None
    disabled: bool = False

    @property
    def selector(self) -> str:
        """Whom it guards, as the plan has it; "" if that is not said."""
        kinds = ((kind, getattr(self, kind)) for kind in SELECTORS)
        kind, name = next(((kind, name) for kind, name in kinds if name is not None), ("", ""))
        return name if kind in ("", "cgroup") else f"{kind}={name}"


SINKS = ("url", "url_file", "run", "desktop")


class SinkTable(Table):
    """``[sinks.NAME]``. That it is exactly one of ``SINKS`` is checked later, when files are merged."""

    url: UrlField | None = None
    url_file: SecretPathField | None = None
    run: ArgvField | None = None
    desktop: bool = False
    at: Annotated[list[Told], Field(min_length=1, max_length=16)] = ["killed", "failed", "kernel"]
    every: DurationField = 60 * SECOND_NS
    disabled: bool = False


class IncidentsTable(Table):
    max_count: int = Field(default=200, ge=1, le=1_000_000)
    max_bytes: StoreField = 512 << 20
    max_age: KeptField = 0  # ns; 0: none is too old


class AlsoAvailableTable(Table):
    """``also_available``: a file with lines that begin with a name and end with a number of bytes."""

    file: PathField
    key: str = Field(min_length=1)
    less: str = ""


class DaemonTable(Table):
    """``[daemon]``. The smallest heaps are what a core and a worker need to stand at all."""

    state_dir: PathField = "/var/lib/oomguard"
    runtime_dir: PathField = "/run/oomguard"
    heap: HeapField = 1792 << 10
    worker_heap: HeapField = 1 << 20
    ring: RingField = 1 << 20
    deadman: DeadmanField = 2 * SECOND_NS
    incidents: IncidentsTable = IncidentsTable()
    budget: BudgetTable | None = None
    shadow: FileField = ""
    also_available: AlsoAvailableTable | None = None


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
