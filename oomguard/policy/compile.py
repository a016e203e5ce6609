"""Policy files to a ``Plan``: read all, lay later files over earlier ones, check, fill in, number the triggers.

Nothing here stops at the first fault. A table that is wrong in one key is checked again without that key, so that a
slip in ``victim`` does not hide swapped watermarks.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from .. import __version__
from ..model import policy as model
from ..model import statuslayout
from . import compare, files, schema, values
from .faults import Fault, PolicyError, Wrong, shown
from .files import Source
from .locate import Key

_T = TypeVar("_T", bound=schema.Table)
_MOST_GUARDS = statuslayout.GUARDS  # the daemon's status has room for so many
_MOST_TABLES = 256 << 10  # bytes; the heap of the core is some 5 MiB
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")  # it becomes part of an incident's directory name


def plan(paths: Sequence[Path], *, observe: bool = False) -> model.Plan:
    """Raises ``PolicyError`` with every fault of every file."""
    return plan_of([files.read(path) for path in paths], paths, observe=observe)


def plan_of(read: Sequence[Source | Fault], paths: Sequence[Path], *, observe: bool = False) -> model.Plan:
    """Of files that were read, or of texts as if they stood in these files."""
    faults = [fault for fault in read if isinstance(fault, Fault)]
    merged = _merge([source for source in read if isinstance(source, Source)], faults)
    daemon = _daemon(merged, faults)
    numbers = count()
    guards = [_guard(table, numbers, faults) for table in merged.guards.values()]
    faults += _unknown_sinks(merged)
    sinks = tuple(_sink(table, faults) for table in merged.sinks.values())
    if daemon.shadow:
        daemon, shadows = _shadow(daemon, merged.daemon, numbers, faults)
        guards += shadows
    if len(guards) > _MOST_GUARDS:
        first = guards[_MOST_GUARDS]
        file, _, line = first.origin.rpartition(":")
        key = f"policy.{first.name.removeprefix(model.SHADOW)}"
        faults.append(Fault(file, int(line), key, f"more than {_MOST_GUARDS} policies"))
    if (size := sum(map(_tables, guards))) > _MOST_TABLES:
        message = f"the expressions of all policies need {size >> 10} KiB of tables, of {_MOST_TABLES >> 10} at most"
        faults.append(Fault(str(paths[-1]), 1, "policy", message, "globs need none"))
    if not guards and not faults:
        faults.append(Fault(str(paths[-1]), 1, "policy", "no policy is in force: nothing would be guarded"))
    if faults:
        order = {str(path): index for index, path in enumerate(paths)}
        raise PolicyError(sorted(set(faults), key=lambda fault: (order.get(fault.file, 0), fault)))
    return model.Plan(
        version=__version__,
        daemon=daemon,
        guards=tuple(replace(guard, mode="observe") if observe and _acts(guard) else guard for guard in guards),
        files=tuple(map(str, paths)),
        sinks=sinks,
    )


def _tables(guard: model.Guard) -> int:
    """Bytes that its expressions take in the daemon."""
    matches = (*guard.victim.never, *guard.victim.avoid, *guard.victim.prefer)
    patterns = [part for match in matches for part in (match.comm, match.unit, match.cgroup, match.exe)]
    return sum(len(pattern.table) for pattern in patterns if isinstance(pattern, model.Expression))


def _acts(guard: model.Guard) -> bool:
    return guard.mode == "enforce"


def _shadow(
    daemon: model.Daemon, said: "_Merged", numbers: Iterator[int], faults: list[Fault]
) -> tuple[model.Daemon, list[model.Guard]]:
    """The guards of the policy that is only tried out, by names of their own."""
    home = said.said_by["shadow"].file
    path = Path(home).parent / daemon.shadow
    daemon = replace(daemon, shadow=str(path))
    source = files.read(path)
    if isinstance(source, Fault):
        faults += [said.fault(("shadow",), "the shadow policy cannot be used", "see the other fault"), source]
        return daemon, []
    for key in ("daemon", "sinks"):
        if key in source.table:
            faults.append(source.fault((key,), f"a shadow has no {key} of its own", "it has policies alone"))
    merged = _merge([source], faults)
    guards = [_guard(table, numbers, faults) for table in merged.guards.values()]
    if not guards:
        faults.append(source.fault((), "no policy is in this shadow: it would be of nothing"))
    return daemon, [replace(guard, name=model.SHADOW + guard.name, mode="shadow") for guard in guards]


@dataclass(slots=True)
class _Merged:
    """One table as all files together say it. ``said_by`` remembers the file of each of its keys."""

    key: Key
    home: Source | None = None
    table: dict[str, Any] = field(default_factory=dict)
    said_by: dict[str, Source] = field(default_factory=dict)

    def lay_over(self, source: Source, table: dict[str, Any]) -> None:
        self.home = self.home or source
        self.table |= table
        self.said_by |= dict.fromkeys(table, source)

    def fault(self, way: Key, message: str, hint: str = "") -> Fault:
        """A fault of what stands this way below the table."""
        source = self.said_by.get(str(way[0]), self.home) if way else self.home
        if source is None:
            raise AssertionError("a table that nobody wrote has no faults")
        return source.fault(self.key + way, message, hint)


@dataclass(slots=True)
class _Whole:
    daemon: _Merged = field(default_factory=lambda: _Merged(("daemon",)))
    guards: dict[str, _Merged] = field(default_factory=dict)
    sinks: dict[str, _Merged] = field(default_factory=dict)


def _merge(sources: Iterable[Source], faults: list[Fault]) -> _Whole:
    whole = _Whole()
    for source in sources:
        for key, value in source.table.items():
            if key not in ("daemon", "policy", "sinks"):
                faults.append(
                    source.fault(
                        (key,),
                        f"unknown {'table' if isinstance(value, dict) else 'key'} {shown(key)}",
                        _top_level_hint(key),
                    )
                )
            elif not isinstance(value, dict):
                faults.append(source.fault((key,), "must be a table", f"[{key}{'.NAME' * (key != 'daemon')}]"))
            elif key == "daemon":
                whole.daemon.lay_over(source, value)
            else:
                _merge_named(whole.guards if key == "policy" else whole.sinks, key, source, value, faults)
    for tables in (whole.guards, whole.sinks):
        for name in [name for name, table in tables.items() if table.table.get("disabled") is True]:
            del tables[name]
    return whole


def _top_level_hint(key: str) -> str:
    if key in schema.GuardTable.model_fields:
        return f"{key} belongs into a table [policy.NAME]"
    if key in schema.DaemonTable.model_fields:
        return f"{key} belongs into the table [daemon]"
    return values.nearest(key, ("policy", "daemon", "sinks"))


def _merge_named(
    known: dict[str, _Merged], kind: str, source: Source, tables: dict[str, Any], faults: list[Fault]
) -> None:
    """``[policy.NAME]`` and ``[sinks.NAME]``."""
    form, what = (schema.GuardTable, "policy") if kind == "policy" else (schema.SinkTable, "sink")
    for name, table in tables.items():
        key: Key = (kind, name)
        if not _NAME.fullmatch(name):
            faults.append(source.fault(key, f"{shown(name)} is not a name for a {what}", "letters, digits, - and _"))
        elif not isinstance(table, dict):
            hint = f"[{kind}.NAME] comes first" if name in form.model_fields else f"[{kind}.{name}]"
            faults.append(source.fault(key, "must be a table", hint))
        elif name not in known and table.keys() == {"disabled"}:
            hint = values.nearest(name, known)
            faults.append(source.fault(key, f"there is no {what} {name} before this to disable", hint))
        else:
            known.setdefault(name, _Merged(key)).lay_over(source, table)


def _unknown_sinks(whole: _Whole) -> Iterator[Fault]:
    for guard in whole.guards.values():
        names = guard.table.get("notify")
        for index, name in enumerate(names if isinstance(names, list) else ()):
            if isinstance(name, str) and name not in whole.sinks:
                hint = values.nearest(name, whole.sinks) or f"[sinks.{name}] says what it is"
                yield guard.fault(("notify", index), f"there is no sink {shown(name)}", hint)


def _sink(merged: _Merged, faults: list[Fault]) -> model.Sink:
    table, left_out = _checked(schema.SinkTable, merged, faults)
    given = [key for key in schema.SINKS if getattr(table, key) or key in left_out]
    if len(given) != 1:
        message = f"a sink is exactly one of {', '.join(schema.SINKS)}"
        faults.append(merged.fault(tuple(given[1:2]), message, "for several, write a table for each"))
    if table.run and not table.run[0].startswith("/"):
        hint = "no PATH is searched: /usr/local/bin/..."
        faults.append(merged.fault(("run",), f"{shown(table.run[0])} is not an absolute path", hint))
    home = merged.fault((), "")
    return model.Sink(
        name=str(merged.key[-1]),
        by="desktop" if table.desktop else "run" if table.run else "url",
        at=tuple(dict.fromkeys(table.at)),
        every_ns=table.every,
        service=(table.url or "").partition("://")[0],
        file=merged.fault(("url",), "").file if table.url else table.url_file or "",
        argv=tuple(table.run or ()),
        origin=f"{home.file}:{home.line}",
    )


def _checked(form: type[_T], merged: _Merged, faults: list[Fault]) -> tuple[_T, set[str]]:
    """The table in its form, and the keys that had to be left out because they are wrong."""
    try:
        return form.model_validate(merged.table), set()
    except ValidationError as error:
        details = error.errors(include_url=False)
    faults += [_fault(form, merged, detail) for detail in details]
    wrong = {str(detail["loc"][0]) for detail in details if detail["loc"]}
    rest = {key: value for key, value in merged.table.items() if key not in wrong}
    return form.model_validate(rest), wrong


def _fault(form: type[schema.Table], merged: _Merged, detail: ErrorDetails) -> Fault:
    way = detail["loc"]
    wrong = _wrong(form, way, detail)
    return merged.fault(way, wrong.message, wrong.hint)


def _wrong(form: type[schema.Table], way: Key, detail: ErrorDetails) -> Wrong:
    """pydantic's finding in our words."""
    context = detail.get("ctx", {})
    cause = context.get("error")
    if isinstance(cause, Wrong):
        return cause
    given = shown(detail["input"])
    kind = detail["type"]
    if kind == "extra_forbidden":
        return values.unknown(_what_stands_at(way), str(way[-1]), schema.keys_at(form, way[:-1]))
    if kind == "literal_error":
        known = re.findall(r"'([^']*)'", str(context.get("expected", "")))
        if isinstance(detail["input"], str):
            return values.unknown("value", detail["input"], known)
        return Wrong(f"{given} is not one of {', '.join(known)}", "in quotes")
    if kind == "model_type":
        return Wrong(f"{given} is not a table", _table_hint(way))
    if kind == "missing":
        return Wrong(f"{way[-1]} is missing", _table_hint(way))
    if kind in _PLAIN:
        message, hint = _PLAIN[kind]
        return Wrong(message.format(given=given), hint.format(**context))
    text = detail["msg"]
    return Wrong(f"{given}: {text[:1].lower()}{text[1:]}")


_PLAIN = {
    "list_type": ("{given} is not a list", "put it in [ ]"),
    "bool_type": ("{given} is neither true nor false", "without quotes"),
    "int_type": ("{given} is not a whole number", "without quotes"),
    "too_short": ("the list is empty", ""),
    "greater_than_equal": ("{given} is out of range", "at least {ge}"),
    "less_than_equal": ("{given} is out of range", "at most {le}"),
    "too_long": ("the list is too long", "at most {max_length} items"),
}


def _what_stands_at(way: Key) -> str:
    in_list = len(way) > 1 and isinstance(way[-2], int)
    return "condition" if in_list and "when" in way else "action" if in_list and "do" in way else "key"


def _table_hint(way: Key) -> str:
    hints = {
        "never": '{ comm = "NAME" }, { unit = "NAME.service" } or { cgroup = "/PATH" }',
        "when": '{ available_below = "5%" }',
        "stall_above": '{ some = "150ms", within = "1s" }',
        "level_above": '"medium", or { level = "medium", mode = "local" }',
        "pressure_above": '{ full = "20%", over = "10s" }',
        "pressure_rising": '{ full = "10%", over = "10s" }',
        "growth_above": '"50MiB/s", or { rate = "50MiB/s", over = "3s" }',
        "refaults_above": '"50MiB/s", or { file = "50MiB/s", over = "3s" }',
        "events_above": '{ high = 100, per = "10s" }',
        "zram_above": '"50%", or { disk = "80%" }',
        "kill": '"kill" alone, or { kill = { grace = "2s" } }',
        "wait": '{ wait = "2s" }',
        "reclaim": '{ reclaim = "64MiB" }, or { reclaim = { size = "64MiB", within = "2s" } }',
        "run": '{ run = ["/usr/local/bin/drain", "--now"] }',
        "freeze": '{ freeze = { for = "5s" } }',
        "tell": '"tell" alone, or { tell = { every = "10s" } }',
        "set_high": '{ set_high = { to = "90%", for = "30s" } }',
        "set_max": '{ set_max = { to = "90%", for = "30s" } }',
        "set_swap_max": '{ set_swap_max = { to = "0", for = "30s" } }',
        "set_oom_score_adj": '{ set_oom_score_adj = { to = 1000, for = "30s" } }',
        "do": '"kill", or { kill = { grace = "2s" } }',
        "budget": '{ kills = 3, per = "5m" }',
        "notify": 'notify = ["ops"], the names of sinks',
        "at": 'at = ["killed", "failed"]',
    }
    hints |= {"avoid": hints["never"], "prefer": hints["never"]}
    return next((f"as in {hints[part]}" for part in reversed(way) if isinstance(part, str) and part in hints), "")


def _daemon(merged: _Whole, faults: list[Fault]) -> model.Daemon:
    table, _ = _checked(schema.DaemonTable, merged.daemon, faults)
    also = table.also_available
    return model.Daemon(
        state_dir=table.state_dir,
        runtime_dir=table.runtime_dir,
        heap_bytes=table.heap,
        worker_heap_bytes=table.worker_heap,
        ring_bytes=table.ring,
        deadman_ns=table.deadman,
        incidents_max_count=table.incidents.max_count,
        incidents_max_bytes=table.incidents.max_bytes,
        incidents_max_age_ns=table.incidents.max_age,
        budget=_budget(table.budget),
        shadow=table.shadow,
        also_available=None if also is None else model.AlsoAvailable(also.file, also.key, also.less),
    )


def _guard(merged: _Merged, numbers: Iterator[int], faults: list[Fault]) -> model.Guard:
    table, left_out = _checked(schema.GuardTable, merged, faults)
    home = merged.fault((), "")
    guard = model.Guard(
        name=str(merged.key[-1]),
        cgroup=table.selector,
        mode=table.mode,
        soft=_watermark(table.soft, numbers),
        hard=_watermark(table.hard, numbers),
        victim=_victim(table.victim),
        tripwire=table.tripwire,
        brake=table.brake,
        insurance=table.insurance,
        cooldown_ns=table.cooldown,
        budget=_budget(table.budget),
        notify=None if table.notify is None else tuple(dict.fromkeys(table.notify)),
        origin=f"{home.file}:{home.line}",
        xattr=table.xattr or "",
    )
    named = [kind for kind in schema.SELECTORS if getattr(table, kind) is not None]
    if len(named) > 1:
        message = f"{' and '.join(named)} say twice whom it guards"
        faults.append(merged.fault((named[-1],), message, "keep one of them, or write two policies"))
    faults += [merged.fault(way, message, hint) for way, message, hint in _contradictions(guard, left_out)]
    return guard


def _contradictions(guard: model.Guard, left_out: set[str]) -> Iterator[tuple[Key, str, str]]:
    """What no single table can know. ``left_out`` keys were wrong: nothing is said about what they would have been."""
    if not guard.cgroup and not left_out & set(schema.SELECTORS):
        hint = 'cgroup = "/" is the whole machine; or name a unit, a slice, a container or a pod'
        yield ("cgroup",), "cgroup is missing", hint
    if not (guard.soft or guard.hard or left_out & {"soft", "hard"}):
        yield (), "neither soft nor hard: this policy would do nothing", f"add [policy.{guard.name}.hard]"
    if guard.xattr and guard.cgroup == "/":
        yield (
            ("xattr",),
            "the machine is one, whatever is written on it",
            'with cgroup = "/**" it chooses among cgroups',
        )
    if guard.tripwire and guard.cgroup == "/":
        yield ("tripwire",), "the root cgroup has no memory.high to set", "brake does this for the whole machine"
    if guard.tripwire and "hard" not in left_out and not _limits_memory(guard.hard):
        yield ("tripwire",), "there is no memory_above in hard to lay a tripwire under", ""
    for name, watermark in (("soft", guard.soft), ("hard", guard.hard)):
        yield from _wrong_steps(name, watermark, guard)
        yield from _wrong_conditions(name, watermark, guard)
    if guard.soft and guard.hard:
        for index, clause in enumerate(guard.hard.when):
            if (sooner := compare.reached_before(clause, guard.soft.when)) is not None:
                yield (
                    ("hard", "when", index),
                    f"is reached before soft.when[{sooner}], which should come first",
                    "the numbers of soft and hard seem to be swapped",
                )


def _wrong_conditions(
    name: str, watermark: model.Watermark | None, guard: model.Guard
) -> Iterator[tuple[Key, str, str]]:
    for index, clause in enumerate(watermark.when if watermark and guard.cgroup == "/" else ()):
        if any(isinstance(condition, model.EventsAbove) for condition in clause.all_of):
            way: Key = (name, "when", index, "events_above")
            yield way, "the root cgroup has no memory.events", "name a cgroup below it"


def _limits_memory(watermark: model.Watermark | None) -> bool:
    return watermark is not None and any(
        isinstance(condition, model.MemoryAbove) for clause in watermark.when for condition in clause.all_of
    )


def _wrong_steps(name: str, watermark: model.Watermark | None, guard: model.Guard) -> Iterator[tuple[Key, str, str]]:
    seen: set[type] = set()
    steps = watermark.do if watermark else ()
    for index, step in enumerate(steps):
        way: Key = (name, "do", index)
        if isinstance(step, model.WaitStep):
            yield from _wrong_wait(way, steps[:index], steps[index + 1 :])
            seen.clear()  # after a wait the same may be tried again
            continue
        if type(step) in seen:
            yield way, "this action stands twice in the list", "with a wait between them it may"
        if isinstance(step, model.LimitStep) and guard.cgroup == "/":
            yield way, f"the root cgroup has no {_LIMIT_FILES[type(step)]} to set", "name a cgroup below it"
        seen.add(type(step))


_LIMIT_FILES: dict[type, str] = {
    model.SetHighStep: "memory.high",
    model.SetMaxStep: "memory.max",
    model.SetSwapMaxStep: "memory.swap.max",
}


def _wrong_wait(way: Key, before: Sequence[model.Step], after: Sequence[model.Step]) -> Iterator[tuple[Key, str, str]]:
    if any(isinstance(step, model.KillStep) for step in before):
        yield way, "comes after the kill, which is always last", "what is milder goes before it"
    elif not before or isinstance(before[-1], model.WaitStep):
        yield way, "there is nothing before it to wait for", "first an action, then the wait"
    elif not after:
        yield way, "there is nothing after it to go on with", "the list ends with an action"


def _budget(table: schema.BudgetTable | None) -> model.Budget | None:
    return model.Budget(table.kills, table.per) if table else None


def _watermark(table: schema.WatermarkTable | None, numbers: Iterator[int]) -> model.Watermark | None:
    if table is None:
        return None
    return model.Watermark(
        when=tuple(model.Clause(tuple(_conditions(clause, numbers)), clause.lasting) for clause in table.when),
        do=tuple(_step(step) for step in table.do),
    )


def _conditions(table: schema.ClauseTable, numbers: Iterator[int]) -> Iterator[model.Condition]:
    yield from map(model.AvailableBelow, table.available_below)
    yield from map(model.SwapFreeBelow, table.swap_free_below)
    yield from map(model.MemoryAbove, table.memory_above)
    yield from map(model.SwapAbove, table.swap_above)
    if stall := table.stall_above:
        yield model.StallAbove(stall.line, stall.stall_ns // 1000, stall.within // 1000, next(numbers))
    if level := table.level_above:
        yield model.LevelAbove(level.level, level.mode, next(numbers))
    if pressure := table.pressure_above:
        yield model.PressureAbove(pressure.line, pressure.share, pressure.over)
    if rising := table.pressure_rising:
        yield model.PressureRising(rising.line, rising.share, rising.over)
    if zram := table.zram_above:
        yield model.ZramAbove(*zram.share)
    yield from _tracked(table, numbers)


def _tracked(table: schema.ClauseTable, numbers: Iterator[int]) -> Iterator[model.Tracked]:
    if growth := table.growth_above:
        yield model.GrowthAbove(growth.rate, growth.over, next(numbers))
    if table.exhausts_within:
        yield model.ExhaustsWithin(table.exhausts_within, next(numbers))
    if refaults := table.refaults_above:
        yield model.RefaultsAbove(*refaults.rate, refaults.over, next(numbers))
    if events := table.events_above:
        yield model.EventsAbove(*events.count, events.per, next(numbers))


def _step(table: schema.StepTable) -> model.Step:
    if table.kill:
        return model.KillStep(table.kill.grace)
    if table.wait is not None:
        return model.WaitStep(table.wait)
    if table.reclaim:
        return model.ReclaimStep(table.reclaim.size, table.reclaim.within)
    if table.run:
        return model.RunStep(tuple(table.run.argv), table.run.user, table.run.deadline)
    if table.tell:
        return model.TellStep(table.tell.every, table.tell.to, table.tell.fifos)
    if table.restart_unit or table.stop_unit:
        return model.UnitStep("restart" if table.restart_unit else "stop")
    if table.freeze:
        return model.FreezeStep(table.freeze.for_)
    if table.nominate:
        return model.NominateStep()
    if table.notify:
        return model.NotifyStep()
    return _setting(table) or model.SnapshotStep()


def _setting(table: schema.StepTable) -> model.Step | None:
    if table.set_high:
        return model.SetHighStep(table.set_high.to, table.set_high.for_)
    if table.set_max:
        return model.SetMaxStep(table.set_max.to, table.set_max.for_)
    if table.set_swap_max:
        return model.SetSwapMaxStep(table.set_swap_max.to, table.set_swap_max.for_)
    if table.set_oom_score_adj:
        return model.SetOomScoreAdjStep(table.set_oom_score_adj.to, table.set_oom_score_adj.for_)
    return None


def _victim(table: schema.VictimTable) -> model.VictimRule:
    def matches(tables: Iterable[schema.MatchTable]) -> tuple[model.Match, ...]:
        return tuple(_match(table) for table in tables)

    by: Any = table.by[0]
    return model.VictimRule(
        by, table.take, matches(table.never), matches(table.avoid), matches(table.prefer), table.by[1]
    )


def _match(table: schema.MatchTable) -> model.Match:
    return model.Match(
        table.comm,
        table.unit,
        table.cgroup,
        table.exe,
        table.uid if table.user is None else (table.user, table.user),
        table.oom_score_adj,
        table.older_than,
        table.younger_than,
    )
