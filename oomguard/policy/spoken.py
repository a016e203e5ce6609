"""A plan in its own language again, every default written out: the other way round of ``compile``.

``tables`` gives values of TOML; what they are compiled to is the same plan. ``toml`` writes such values.
"""

from collections.abc import Iterable
from typing import assert_never

from ..model import policy as model
from . import units

Value = str | int | bool | list["Value"] | dict[str, "Value"]


def tables(plan: model.Plan) -> dict[str, Value]:
    """The whole plan: ``daemon``, ``sinks`` and ``policy``, as TOML has them."""
    policies: dict[str, Value] = {guard.name: _guard(guard) for guard in plan.guards if guard.mode != "shadow"}
    sinks: dict[str, Value] = {sink.name: _sink(sink) for sink in plan.sinks}
    return {"daemon": _daemon(plan.daemon), **({"sinks": sinks} if sinks else {}), "policy": policies}


HIDDEN = "***"  # for what follows the scheme of a URL


def _sink(sink: model.Sink) -> dict[str, Value]:
    said: dict[str, Value] = {}
    match sink.by:
        case "desktop":
            said["desktop"] = True
        case "run":
            said["run"] = list(sink.argv)
        case "url" if sink.service:
            said["url"] = f"{sink.service}://{HIDDEN}"
        case "url":
            said["url_file"] = sink.file
        case _:
            assert_never(sink.by)
    return said | {"at": list(sink.at), "every": units.shown_duration(sink.every_ns)}


def _daemon(daemon: model.Daemon) -> dict[str, Value]:
    said = _places(daemon)
    if daemon.budget:
        said["budget"] = _budget(daemon.budget)
    if daemon.shadow:
        said["shadow"] = daemon.shadow
    if also := daemon.also_available:
        said["also_available"] = {"file": also.file, "key": also.key, **({"less": also.less} if also.less else {})}
    return said


def _budget(budget: model.Budget) -> Value:
    return {"kills": budget.kills, "per": units.shown_duration(budget.per_ns)}


def _places(daemon: model.Daemon) -> dict[str, Value]:
    return {
        "state_dir": daemon.state_dir,
        "runtime_dir": daemon.runtime_dir,
        "heap": units.shown_size(daemon.heap_bytes),
        "worker_heap": units.shown_size(daemon.worker_heap_bytes),
        "ring": units.shown_size(daemon.ring_bytes),
        "deadman": units.shown_duration(daemon.deadman_ns),
        "incidents": {
            "max_count": daemon.incidents_max_count,
            "max_bytes": units.shown_size(daemon.incidents_max_bytes),
            "max_age": units.shown_duration(daemon.incidents_max_age_ns),
        },
    }


def _guard(guard: model.Guard) -> dict[str, Value]:
    said: dict[str, Value] = {
        **_selector(guard.cgroup),
        **({"xattr": guard.xattr} if guard.xattr else {}),
        "mode": guard.mode,
        "tripwire": guard.tripwire,
        "brake": guard.brake,
        "insurance": guard.insurance,
        "cooldown": units.shown_duration(guard.cooldown_ns),
    }
    if guard.budget:
        said["budget"] = _budget(guard.budget)
    if guard.notify is not None:
        said["notify"] = list(guard.notify)
    if guard.soft:
        said["soft"] = _watermark(guard.soft)
    if guard.hard:
        said["hard"] = _watermark(guard.hard)
    said["victim"] = _victim(guard.victim)
    return said


def _selector(selector: str) -> dict[str, Value]:
    kind, _, name = selector.partition("=")
    return {"cgroup": selector} if selector.startswith("/") else {kind: name}


def _watermark(watermark: model.Watermark) -> dict[str, Value]:
    return {"when": [clause(it) for it in watermark.when], "do": [step(it) for it in watermark.do]}


def clause(clause: model.Clause) -> dict[str, Value]:
    """One table of ``when``. What stands there several times is a list of amounts."""
    said: dict[str, Value] = {}
    for condition in clause.all_of:
        name, value = _condition(condition)
        before = said.get(name)
        said[name] = value if before is None else [*before, value] if isinstance(before, list) else [before, value]
    if clause.lasting_ns:
        said["lasting"] = units.shown_duration(clause.lasting_ns)
    return said


def _condition(condition: model.Condition) -> tuple[str, Value]:
    match condition:
        case model.AvailableBelow(amount):
            return "available_below", units.shown_amount(amount)
        case model.SwapFreeBelow(amount):
            return "swap_free_below", units.shown_amount(amount)
        case model.MemoryAbove(amount):
            return "memory_above", units.shown_amount(amount)
        case model.SwapAbove(amount):
            return "swap_above", units.shown_amount(amount)
        case model.StallAbove():
            stall, window = (
                units.shown_duration(condition.stall_us * 1000),
                units.shown_duration(condition.window_us * 1000),
            )
            return "stall_above", {condition.line: stall, "within": window}
        case model.LevelAbove(level, mode):
            return "level_above", level if mode == "default" else {"level": level, "mode": mode}
        case model.PressureAbove():
            return "pressure_above", {condition.line: units.shown_share(condition.share), "over": condition.over}
        case model.PressureRising():
            return "pressure_rising", {condition.line: units.shown_share(condition.share), "over": condition.over}
        case model.ZramAbove():
            return "zram_above", {condition.of: units.shown_amount(condition.amount)}
        case _:
            return _tracked(condition)


def _tracked(condition: model.Tracked) -> tuple[str, Value]:
    match condition:
        case model.GrowthAbove():
            over = units.shown_duration(condition.over_ns)
            return "growth_above", {"rate": units.shown_rate(condition.amount), "over": over}
        case model.ExhaustsWithin():
            return "exhausts_within", units.shown_duration(condition.within_ns)
        case model.RefaultsAbove():
            over = units.shown_duration(condition.over_ns)
            return "refaults_above", {condition.of: units.shown_rate(condition.amount), "over": over}
        case model.EventsAbove():
            return "events_above", {condition.event: condition.count, "per": units.shown_duration(condition.per_ns)}
        case _:
            assert_never(condition)


_LIMITS: dict[type, str] = {
    model.SetHighStep: "set_high",
    model.SetMaxStep: "set_max",
    model.SetSwapMaxStep: "set_swap_max",
}


def step(step: model.Step) -> Value:  # noqa: PLR0911 - one line a kind
    """One step of ``do``."""
    match step:
        case model.SnapshotStep():
            return "snapshot"
        case model.NotifyStep():
            return "notify"
        case model.NominateStep():
            return "nominate"
        case model.KillStep():
            return {"kill": {"grace": units.shown_duration(step.grace_ns)}} if step.grace_ns else "kill"
        case model.WaitStep():
            return {"wait": units.shown_duration(step.for_ns)}
        case model.ReclaimStep():
            within = units.shown_duration(step.within_ns)
            return {"reclaim": {"size": units.shown_amount(step.amount), "within": within}}
        case model.RunStep() | model.TellStep():
            return _outside(step)
        case model.UnitStep():
            return f"{step.verb}_unit"
        case model.FreezeStep():
            return {"freeze": {"for": units.shown_duration(step.for_ns)}}
        case model.SetHighStep() | model.SetMaxStep() | model.SetSwapMaxStep():
            to = "0" if step.to.bytes == 0 else units.shown_amount(step.to)
            return {_LIMITS[type(step)]: {"to": to, "for": units.shown_duration(step.for_ns)}}
        case model.SetOomScoreAdjStep():
            return {"set_oom_score_adj": {"to": step.to, "for": units.shown_duration(step.for_ns)}}
        case _:
            assert_never(step)


def _outside(step: model.RunStep | model.TellStep) -> Value:
    """What other programs are to do."""
    said: dict[str, Value]
    if isinstance(step, model.RunStep):
        said = {"argv": list(step.argv), "deadline": units.shown_duration(step.deadline_ns)}
        return {"run": said | ({"user": step.user} if step.user else {})}
    said = {"every": units.shown_duration(step.every_ns), "to": step.to}
    return {"tell": said | ({"fifos": dict(step.fifos)} if step.fifos else {})}


def _victim(rule: model.VictimRule) -> dict[str, Value]:
    return {
        "by": dict(rule.mix) if rule.by == "mix" else rule.by,
        "take": rule.take,
        "never": _matches(rule.never),
        "avoid": _matches(rule.avoid),
        "prefer": _matches(rule.prefer),
    }


def _matches(matches: Iterable[model.Match]) -> list[Value]:
    return [match(it) for it in matches]


def match(match: model.Match) -> dict[str, Value]:
    """One table of ``never``, ``avoid`` or ``prefer``."""
    patterns = {"comm": match.comm, "unit": match.unit, "cgroup": match.cgroup, "exe": match.exe}
    given: dict[str, Value | None] = {
        name: {"re": pattern.text} if isinstance(pattern, model.Expression) else pattern
        for name, pattern in patterns.items()
    }
    given |= {"uid": _span(match.uid), "oom_score_adj": _span(match.oom_score_adj)}
    given |= {"older_than": units.shown_duration(match.older_ns) if match.older_ns else None}
    given |= {"younger_than": units.shown_duration(match.younger_ns) if match.younger_ns else None}
    return {name: value for name, value in given.items() if value is not None}


def _span(bounds: tuple[int, int] | None) -> int | str | None:
    if bounds is None:
        return None
    return bounds[0] if bounds[0] == bounds[1] else f"{bounds[0]}..{bounds[1]}"
