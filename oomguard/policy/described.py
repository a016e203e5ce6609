"""The policy language as a JSON Schema, for editors that complete and check TOML. Made from the models of ``schema``.

What a key is for stands in ``WORDS``, the form of what a validator reads in ``FORMS``. A key or a validator that is
missing there is an error of ours: ``document`` raises KeyError, and a test calls it.
"""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

from ..model.policy import Daemon, Guard, Plan
from . import schema, spoken, values
from .values import Short

Schema = dict[str, Any]

_NUMBER = r"[0-9]+(\.[0-9]+)?"
_SHARE: Schema = {"type": "string", "pattern": rf"^\s*{_NUMBER}\s*%\s*$", "examples": ["20%"]}
_SIZE: Schema = {
    "anyOf": [
        {"type": "integer", "minimum": 1},
        {"type": "string", "pattern": rf"^\s*{_NUMBER}\s*([KMGTPE](iB)?|B)?\s*$"},
    ],
    "examples": ["512MiB", "1.5G"],
}
_AMOUNT: Schema = {"anyOf": [_SHARE, *_SIZE["anyOf"]], "examples": ["5%", "512MiB"]}
_RATE: Schema = {
    "anyOf": [
        {"type": "integer", "minimum": 1},
        {"type": "string", "pattern": rf"^\s*{_NUMBER}\s*(%|([KMGTPE](iB)?|B)?)\s*(/s)?\s*$"},
    ],
    "examples": ["50MiB/s", "2%/s"],
}
_DURATION: Schema = {
    "type": "string",
    "pattern": rf"^\s*(0|({_NUMBER}\s*(us|ms|s|min|m|h|d)\s*)+)\s*$",
    "examples": ["150ms", "2.5s", "5m", "1h"],
}
_GLOB: Schema = {"type": "string", "minLength": 1, "pattern": r"^[^\[\]{}]+$"}
_CGROUP: Schema = {"type": "string", "pattern": r"^/[^\[\]{}]*$", "examples": ["/", "/system.slice/web-*.service"]}
_EXPRESSION: Schema = {
    "type": "object",
    "properties": {"re": {"type": "string", "minLength": 1, "maxLength": 512, "pattern": r"^[^\0]+$"}},
    "required": ["re"],
    "additionalProperties": False,
    "examples": [{"re": "sshd|cron|(ba|z)sh"}],
}
_ARGV: Schema = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 64}
_PATH: Schema = {"type": "string", "pattern": "^/"}

# What a validator of ``schema`` and ``units`` accepts, by its name. Ranges are left to ``check``.
FORMS: dict[str, Schema] = {
    "amount": _AMOUNT,
    "_amount_or_none": {"anyOf": [_SHARE, {"type": "integer", "minimum": 0}, _SIZE["anyOf"][1]]},
    "_amounts": {"anyOf": [*_AMOUNT["anyOf"], {"type": "array", "items": _AMOUNT, "minItems": 1, "maxItems": 4}]},
    "share": _SHARE,
    "_level": {"enum": ["low", "medium", "critical"]},
    "rate": _RATE,
    "_between.<locals>.check": _DURATION,
    "_age": _DURATION,
    "_deadman": _DURATION,
    "_size_between.<locals>.check": _SIZE,
    "_comm_pattern": {"anyOf": [_GLOB, _EXPRESSION]},
    "_unit_pattern": {"anyOf": [_GLOB, _EXPRESSION]},
    "_cgroup_pattern": {"anyOf": [_CGROUP, _EXPRESSION]},
    "_exe_pattern": {"anyOf": [{"type": "string", "pattern": r"^[/*][^\[\]{}]*$"}, _EXPRESSION]},
    "_system_unit_glob": _GLOB,
    "_slice_glob": _GLOB,
    "_cgroup_glob": _CGROUP,
    "_xattr": {
        "type": "string",
        "pattern": r"^(user|trusted|security)\.[^=\s]+(=[^\[\]{}]+)?$",
        "examples": ["user.tier=batch"],
    },
    "_span.<locals>.span": {
        "anyOf": [{"type": "integer"}, {"type": "string", "pattern": r"^\s*-?[0-9]+\s*\.\.\s*-?[0-9]+\s*$"}]
    },
    "_user": {"type": "string", "minLength": 1},
    "_by": {
        "anyOf": [
            {"enum": list(values.MEASURES)},
            {
                "type": "object",
                "properties": {name: {"type": "integer", "minimum": 1, "maximum": 100} for name in values.MIXABLE},
                "additionalProperties": False,
                "minProperties": 1,
            },
        ]
    },
    "_path": _PATH,
    "_secret_path": _PATH,
    "_argument": {"type": "string"},
    "_file": {"type": "string", "minLength": 1},
    "_every": _DURATION,
    "_fifos": {
        "type": "object",
        "additionalProperties": {"type": "string", "minLength": 1},
        "propertyNames": {"pattern": "^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"},
        "maxProperties": values.FIFOS_MAX,
    },
    "_url": {"type": "string", "pattern": r"^[A-Za-z][A-Za-z0-9+.-]*://.", "examples": ["mailtos://user:pw@host"]},
    "_sink_name": {"type": "string", "minLength": 1},
}


# What holds for a table as a whole.
def _one_of(*keys: str) -> Schema:
    return {"oneOf": [{"required": [key]} for key in keys]}


_ONE_LINE: Schema = _one_of("some", "full")
WHOLE: dict[str, Callable[[Schema], Schema]] = {
    "ClauseTable": lambda properties: {"anyOf": [{"required": [key]} for key in properties if key != "lasting"]},
    "StepTable": lambda _: {"minProperties": 1, "maxProperties": 1},
    "MatchTable": lambda _: {"minProperties": 1},
    "StallTable": lambda _: _ONE_LINE,
    "PressureTable": lambda _: _ONE_LINE,
    "PressureRisingTable": lambda _: _ONE_LINE,
    "RefaultsTable": lambda _: _one_of("any", "anon", "file"),
    "EventsTable": lambda _: _one_of("low", "high", "max", "oom", "oom_kill"),
    "ZramTable": lambda _: _one_of("memory", "disk"),
}

WORDS: dict[str, dict[str, str]] = {
    "GuardTable": {
        "cgroup": "Whom it guards: / is the machine, else a path below /sys/fs/cgroup or a pattern (* ** ?).",
        "unit": "Whom it guards: systemd units of the system by their names, wherever their slice is.",
        "slice": "Whom it guards: slices by their names.",
        "container": "Whom it guards: each container of that engine.",
        "pod": "Whom it guards: each pod of that class of service.",
        "xattr": "Of those cgroups, the ones with this extended attribute: its name, or NAME=PATTERN.",
        "mode": "enforce, or observe: decide, record and report, but touch nothing.",
        "soft": "The soft watermark: memory will be short. Nobody should be harmed yet.",
        "hard": "The hard watermark: the kernel would kill soon.",
        "victim": "Who is ended, and who is not.",
        "tripwire": "memory.high just under the hard watermark, so that no leak is too fast. Needs a limit.",
        "brake": "While soft holds, the nominee may grow by what is left to the hard watermark, and no faster.",
        "insurance": "While soft holds, the nominee's oom_score_adj is 1000: the kernel would take the same one.",
        "cooldown": "So long after a kill nobody else is ended, unless what is left has halved.",
        "budget": "At most so many kills in any such time.",
        "notify": "The sinks that hear of it, by their names; without this all of them, with [] none.",
        "disabled": "true takes the policy out again, in a later file.",
    },
    "WatermarkTable": {
        "when": "One of these tables is enough; all keys within one table must hold.",
        "do": "Actions, in their order.",
    },
    "ClauseTable": {
        "available_below": "MemAvailable is below this; shares are of MemTotal. All of a list must hold.",
        "swap_free_below": "Free swap is below this; shares are of the swap. Without any swap it holds.",
        "memory_above": "The cgroup uses more than this, cache left out; shares are of its limit.",
        "swap_above": "The cgroup has more than this in swap; shares are of memory.swap.max.",
        "stall_above": "Tasks waited so long for memory within a window: a trigger of the kernel.",
        "level_above": "cgroup v1's memory.pressure_level has come to this: low, medium or critical.",
        "pressure_above": "The kernel's running average of that waiting is above this share of time.",
        "pressure_rising": "The same, and above the average over the longer time: it is getting worse.",
        "growth_above": "It grows by more than this a second, cache left out; shares are of its limit.",
        "exhausts_within": "Memory and swap will be gone in this time if they go on growing as they do.",
        "refaults_above": "So much a second is read again that had been taken away: it thrashes.",
        "events_above": "A line of memory.events has counted more than so many in a time.",
        "zram_above": "zram and zswap take more than this of memory, or a zram disk is so full.",
        "lasting": "All of the table held for so long without a break.",
    },
    "LevelTable": {
        "level": "How hard the kernel finds it to reclaim.",
        "mode": "Whether pressure in cgroups below is told here: default, hierarchy (all of it), local (none).",
    },
    "StallTable": {
        "some": "At least one task waited for so long.",
        "full": "All tasks waited for so long: nothing else was done.",
        "within": "The window, 500ms to 10s.",
    },
    "PressureTable": {
        "some": "Share of time in which at least one task waited.",
        "full": "Share of time in which all tasks waited.",
        "over": "Which of the kernel's averages.",
    },
    "PressureRisingTable": {
        "some": "Share of time in which at least one task waited.",
        "full": "Share of time in which all tasks waited.",
        "over": "The shorter average: 10s is compared with 60s, 60s with 300s.",
    },
    "GrowthTable": {"rate": "Bytes a second, or a share of the limit.", "over": "In each third of this time."},
    "RefaultsTable": {
        "any": "Of both kinds.",
        "anon": "From swap.",
        "file": "From files.",
        "over": "In each third of this time.",
    },
    "EventsTable": {
        "low": "It was reclaimed from although below memory.low.",
        "high": "It was throttled at memory.high.",
        "max": "It was about to go over memory.max.",
        "oom": "It could not be kept below memory.max.",
        "oom_kill": "The kernel has killed in it.",
        "per": "In which time.",
    },
    "ZramTable": {
        "memory": "What zram and zswap take of memory; shares are of MemTotal.",
        "disk": "What is stored in zram; shares are of its disksize.",
    },
    "StepTable": {
        "snapshot": "Take the evidence: open an incident.",
        "notify": "Tell the journal, and the sinks that want to hear of a watermark.",
        "nominate": "Rank the candidates, and hold the first one open.",
        "wait": "So long has what stands before it to help; the list goes on while the watermark holds.",
        "reclaim": "Have the kernel take back so much of the guard's cgroup.",
        "freeze": "Stop the nominee's cgroup as a whole for a time.",
        "tell": "Tell programs that listen at the policy's socket and FIFOs to give memory back.",
        "run": "Run a program; it is told everything as JSON on its standard input.",
        "restart_unit": "Have systemd restart the unit of the guard's cgroup, or of the nominee.",
        "stop_unit": "Have systemd stop that unit.",
        "kill": "End the victim.",
        "set_high": "Set memory.high of the guard's cgroup for a time.",
        "set_max": "Set memory.max of the guard's cgroup for a time.",
        "set_swap_max": "Set memory.swap.max of the guard's cgroup for a time.",
        "set_oom_score_adj": "Set oom_score_adj of the nominee for a time.",
    },
    "Nothing": {},
    "KillTable": {"grace": "SIGTERM first, and SIGKILL after this, or as soon as what is left has halved."},
    "SetHighTable": {"to": "Shares are of the limit.", "for": "It is put back after that."},
    "SetMaxTable": {"to": "Shares are of the limit.", "for": "It is put back after that."},
    "SetSwapMaxTable": {"to": "Shares are of memory.swap.max; 0: no more.", "for": "It is put back after that."},
    "ReclaimTable": {"size": "So much; shares are of the limit.", "within": "For so long at most."},
    "RunTable": {
        "argv": "The program by its absolute path, and its arguments. No shell.",
        "user": "As whom it runs; by default as oomguard's own unprivileged user, or nobody.",
        "deadline": "It is killed after that.",
    },
    "FreezeTable": {"for": "It goes on after that."},
    "TellTable": {
        "every": "Again after that while the watermark holds; 0s: once.",
        "to": "inside: those of the cgroup that is short; all: whoever listens.",
        "fifos": "FIFOs beside the socket: the name of each, and the user who may read it.",
    },
    "SetOomScoreAdjTable": {"to": "0 to 1000.", "for": "It is put back after that."},
    "VictimTable": {
        "by": "What counts: memory, oom_score, growth, swap, pressure ... or a table of several with their weights.",
        "take": "auto goes down to the smallest thing that holds most; or always this.",
        "never": "Not under any circumstances.",
        "avoid": "Weighed a quarter of what it holds.",
        "prefer": "Weighed four times what it holds.",
    },
    "MatchTable": {
        "comm": "The process's name as in /proc/PID/comm, 15 bytes at most.",
        "unit": "The innermost service or scope that it runs in.",
        "cgroup": "Its path below /sys/fs/cgroup.",
        "exe": "The file that it runs, as /proc/PID/exe leads to.",
        "user": "Whose it is, by the name of the user when the policy is compiled.",
        "uid": "Whose it is: a number, or from..to. Not to be borrowed, as names are.",
        "oom_score_adj": "A number, or from..to.",
        "older_than": "It was started longer ago.",
        "younger_than": "It was started not so long ago.",
    },
    "SinkTable": {
        "url": "Mail, chat, pager: a URL as apprise knows them. It is a secret, and so is then this file.",
        "url_file": "The same in a file that only root may read.",
        "run": "A program and its arguments: it is told everything as JSON on its standard input.",
        "desktop": "true: a notification on the screen of everybody who is logged in at one.",
        "at": "What is worth telling.",
        "every": "No more often than that; what happens meanwhile is told in one message.",
        "disabled": "true takes the sink out again, in a later file.",
    },
    "BudgetTable": {"kills": "How many.", "per": "In which time."},
    "IncidentsTable": {
        "max_count": "So many are kept.",
        "max_bytes": "So large they are together at most.",
        "max_age": "None is older; 0s: none is too old.",
    },
    "DaemonTable": {
        "state_dir": "Where incidents are kept.",
        "runtime_dir": "Status page, and the journal of what must be undone after a crash.",
        "heap": "Reserved, touched and locked at start, in the core.",
        "worker_heap": "The same in the one that gathers the evidence.",
        "ring": "The flight recorder.",
        "deadman": "The core stands still for so long, and another process ends the nominee; 0s: never.",
        "incidents": "The oldest go first.",
        "budget": "At most so many kills in any such time, of all policies together.",
        "shadow": "Another policy file, judged beside this policy: it decides and reports, and never acts.",
        "also_available": "What comes back when it is wanted, and MemAvailable misses: the cache of ZFS.",
    },
    "AlsoAvailableTable": {
        "file": "It has lines that begin with a name and end with a number of bytes.",
        "key": "The name of the line that counts as available.",
        "less": "The name of the line that does not come back, and is taken from it.",
    },
}


def document() -> Schema:
    """The JSON Schema (draft 7, which editors know) of a policy file."""
    tables = (schema.GuardTable, schema.DaemonTable, schema.SinkTable)
    models = [(table, "validation") for table in tables]
    _, whole = models_json_schema(models, schema_generator=_Generator)  # type: ignore[arg-type]
    defs = {name: form for name, form in whole["$defs"].items() if name in WORDS or name.endswith("Table")}
    for name, definition in defs.items():
        _describe(name, definition)
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "oomguard policy",
        "type": "object",
        "properties": {
            "policy": {
                "description": "One table [policy.NAME] for each guard.",
                "type": "object",
                "patternProperties": {"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$": {"$ref": "#/$defs/GuardTable"}},
                "additionalProperties": False,
            },
            "sinks": {
                "description": "One table [sinks.NAME] for each who is told besides the journal.",
                "type": "object",
                "patternProperties": {"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$": {"$ref": "#/$defs/SinkTable"}},
                "additionalProperties": False,
            },
            "daemon": {"$ref": "#/$defs/DaemonTable", "description": "The daemon itself."},
        },
        "additionalProperties": False,
        "$defs": dict(sorted(defs.items())),
    }


def _describe(name: str, definition: Schema) -> None:
    properties = definition.setdefault("properties", {})
    words, defaults = WORDS[name], _DEFAULTS.get(name, {})
    for key, value in properties.items():
        value.pop("title", None)
        value["description"] = words[key]
        if key in defaults:
            value["default"] = defaults[key]
    definition.pop("title", None)
    definition.pop("description", None)
    if name in WHOLE:
        definition.update(WHOLE[name](properties))


def _defaults() -> dict[str, Mapping[str, Any]]:
    said: Any = spoken.tables(Plan("", Daemon(), (Guard("it", "/"),)))
    guard, daemon = said["policy"]["it"], said["daemon"]
    plain = {key: value for key, value in guard.items() if key not in ("cgroup", "victim")}
    return {
        "GuardTable": plain | {"disabled": False},
        "VictimTable": guard["victim"],
        "IncidentsTable": daemon.pop("incidents"),
        "DaemonTable": daemon,
    }


_DEFAULTS = _defaults()


class _Generator(GenerateJsonSchema):
    """pydantic's, with our validators in words that JSON Schema has. TOML has no null."""

    def function_plain_schema(self, schema: core_schema.PlainValidatorFunctionSchema) -> JsonSchemaValue:
        return dict(FORMS[schema["function"]["function"].__qualname__])

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        """What a table may be in short: a step its name, a reclaim its size, a condition its number."""
        function: Any = schema["function"]["function"]
        short = FORMS[function.reads.__qualname__] if isinstance(function, Short) else _SHORT[function.__qualname__]()
        return {"anyOf": [dict(short), super().function_before_schema(schema)]}

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])


def _bare_steps() -> list[str]:
    def takes_options(name: str) -> bool:
        if name == "wait":
            return True
        table = schema.table_in(schema.StepTable.model_fields[name].annotation)
        return table is not None and any(field.is_required() for field in table.model_fields.values())

    return [name for name in schema.StepTable.model_fields if not takes_options(name)]


_SHORT: dict[str, Callable[[], Schema]] = {
    "_step": lambda: {"enum": _bare_steps()},
    "_reclaim": lambda: _AMOUNT,
    "_run": lambda: _ARGV,
}
