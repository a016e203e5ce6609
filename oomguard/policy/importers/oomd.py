"""oomd (facebookincubator): JSON rulesets. Any detector group of a ruleset starts its actions; it holds when all of its
detectors do.

A group becomes a clause, and its cgroup the guard's: here the victim is looked for below the cgroup that is in need. A
group that asks about one cgroup and ends another, or about what we have no word for, is left out and told.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from .. import units
from ..faults import Wrong, shown
from ..locate import Key
from . import Draft, Page

_COMMENT = re.compile(r'("(?:[^"\\\n]|\\.)*")|//[^\n]*|/\*.*?\*/', re.DOTALL)
_DELAY = "15"  # its default post_action_delay, seconds
_SILENT = frozenset({"dump_cgroup_overview", "dump_kill_info", "continue", "stop", "correlate"})
_KILLS = {
    "kill_by_memory_size_or_growth": "the one that holds most is ended, however fast others grow",
    "kill_by_swap_usage": "",
    "kill_by_pressure": "",
    "kill_by_io_cost": "the one that holds most is ended: the cost of input and output is not known here",
    "kill_by_pg_scan": "the one that holds most is ended: pages scanned are not known here",
}

_BY = {"kill_by_swap_usage": "swap", "kill_by_pressure": "pressure"}


@dataclass(slots=True)
class _Term:
    """What one detector asks: of these cgroups (none: of the machine)."""

    where: tuple[str, ...]
    condition: dict[str, Any]
    lasting_s: float = 0
    remark: str = ""


@dataclass(slots=True)
class _Ruleset:
    page: Page
    line: int
    name: str
    kill: str
    args: dict[str, Any]
    delay: str
    targets: tuple[str, ...] = ()
    clauses: dict[str, list[Any]] = field(default_factory=dict)  # by the guard's cgroup
    own: str = ""  # its "cgroup": each cgroup of that pattern by itself, for whatever names none
    xattr: str = ""


_KNOWN = {"name", "detectors", "actions", "cgroup", "xattr_filter", "post_action_delay", "silence-logs"}
_HOOKS = "they are oomd's own code; a program is run before a kill by { run = [...] } in front of it"


def read(pages: Sequence[Page]) -> Draft:
    """A guard for each ruleset, and for each cgroup that it asks about."""
    draft = Draft()
    for page in pages:
        document = _document(page)
        if document.get("prekill_hooks"):
            draft.lose(page, page.line_of('"prekill_hooks"'), "prekill_hooks", _HOOKS)
        rulesets = document.get("rulesets")
        if not isinstance(rulesets, list):
            page.wrong(1, "rulesets", "is missing, or not a list", "this is no configuration of oomd")
        for index, table in enumerate(rulesets):
            _ruleset(draft, page, table, ("rulesets", index))
    return draft


def _why_not(key: str) -> str:
    if key == "drop-in":
        return "files of conf.d change [policy.NAME] key by key, and no rule of theirs comes first for being dropped in"
    return _HOOKS if key == "prekill_hook_timeout" else "is not known here"


def _asks(group: Any) -> bool:
    """Whether anything depends on it; oomd's own overview is a ruleset, too."""
    return any(plugin not in _SILENT for plugin, _ in _plugins(group))


def _document(page: Page) -> dict[str, Any]:
    """Its JSON has comments. They become blanks, so that lines stay where they are."""
    text = _COMMENT.sub(lambda found: found[1] or re.sub(r"[^\n]", " ", found[0]), page.text)
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        page.wrong(error.lineno, "", f"not JSON: {error.msg}")
    except RecursionError:
        page.wrong(1, "", "nested too deeply")
    if not isinstance(document, dict):
        page.wrong(1, "", "is not an object", '{ "rulesets": [ ... ] }')
    return document


def _ruleset(draft: Draft, page: Page, table: Any, way: Key) -> None:
    name = table.get("name") if isinstance(table, dict) else None
    if not isinstance(name, str) or not isinstance(table.get("detectors"), list):
        page.wrong(page.line_of('"rulesets"'), f"rulesets[{way[1]}]", "lacks its name or its detectors")
    line = page.line_of(json.dumps(name))
    own = table.get("cgroup", "")
    for key in sorted(table.keys() - _KNOWN):
        draft.lose(
            page, page.line_of(json.dumps(key), page.text.find(json.dumps(name))), f"{name}: {key}", _why_not(key)
        )
    kill = _kill_of(draft, page, table, line, name)
    if kill is None:
        if not table.get("actions"):
            draft.lose(page, line, name, "it has no actions: it is a drop-in for another ruleset")
        elif any(_asks(group) for group in table["detectors"]):
            draft.lose(page, line, name, "its actions end nobody")
        return
    plugin, args = kill
    delay = str(args.get("post_action_delay", table.get("post_action_delay", _DELAY)))
    if own:
        args = {"cgroup": own} | args
    rules = _Ruleset(page, line, name, plugin, args, delay, _cgroups(page, line, args), own=own)
    if table.get("xattr_filter"):
        rules.xattr = _xattr(draft, page, line, name, str(table["xattr_filter"]))
    for group in table["detectors"]:
        try:
            _group(draft, rules, group)
        except Wrong as wrong:
            title = group[0] if isinstance(group, list) and group and isinstance(group[0], str) else name
            draft.lose(page, page.line_of(json.dumps(title)), f"{name}: {title}", wrong.message)
    _guards(draft, rules)


def _xattr(draft: Draft, page: Page, line: int, name: str, attribute: str) -> str:
    if attribute.startswith(("user.", "trusted.", "security.")):
        return attribute
    how = f"{attribute} lacks the namespace that Linux wants in front of every attribute: user.{attribute} is meant"
    draft.differ(page, line, f"{name}: xattr_filter", how)
    return f"user.{attribute}"


def _plugins(items: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    for item in items if isinstance(items, list) else ():
        if isinstance(item, dict) and isinstance(item.get("name"), str):
            args = item.get("args", {})
            yield item["name"], args if isinstance(args, dict) else {}


def _kill_of(
    draft: Draft, page: Page, table: dict[str, Any], line: int, name: str
) -> tuple[str, dict[str, Any]] | None:
    found = None
    for plugin, args in _plugins(table.get("actions")):
        if plugin in _KILLS and found is None:
            found = plugin, args
        elif plugin not in _SILENT:
            draft.lose(
                page,
                page.line_of(f'"{plugin}"', page.text.find(json.dumps(name))),
                f"{name}: {plugin}",
                "no such action here",
            )
    return found


def _cgroups(page: Page, line: int, args: dict[str, Any]) -> tuple[str, ...]:
    """ "a.slice/*,b.slice" as paths from the cgroup root."""
    text = args.get("cgroup")
    if not isinstance(text, str) or not text:
        page.wrong(line, "cgroup", f"{shown(text)} names no cgroup", '"cgroup": "system.slice/*"')
    return tuple("/" + part.strip().strip("/") for part in text.split(","))


# ----------------------------------------------------------------------------------------------------------- detectors


def _group(draft: Draft, rules: _Ruleset, group: Any) -> None:
    own = {"cgroup": rules.own} if rules.own else {}
    terms = [term for name, args in _plugins(group) if (term := _term(rules, name, own | args))]
    if not terms:
        raise Wrong("asks nothing: it would hold all the time")
    places = {term.where for term in terms if term.where}
    if len(places) > 1:
        raise Wrong("asks about several cgroups at once")
    clause: dict[str, Any] = {}
    pressed = any("pressure_above" in term.condition for term in terms)
    for term in terms:
        if not term.condition:
            if not pressed:
                raise Wrong("memory_reclaim: that memory was reclaimed lately is no condition here")
        elif clause.keys() & term.condition.keys():
            raise Wrong(f"asks twice for {', '.join(term.condition)}")
        clause |= term.condition
        if term.remark:
            draft.differ(rules.page, rules.line, rules.name, term.remark)
    lasting = max(term.lasting_s for term in terms)
    if len({term.lasting_s for term in terms if term.condition}) > 1:
        how = f"every condition has a duration of its own; here all must hold together for {lasting:g}s"
        draft.differ(rules.page, rules.line, rules.name, how)
    if lasting:
        clause["lasting"] = units.shown_duration(int(lasting * 10**9))
    for where in next(iter(places), (_common(rules.targets),)):
        _place(draft, rules, where, clause)


def _place(draft: Draft, rules: _Ruleset, where: str, clause: dict[str, Any]) -> None:
    inside = [target for target in rules.targets if _is_below(target, where)]
    if not inside:
        raise Wrong(f"asks about {where} and ends what is in {', '.join(rules.targets)}: here that is one cgroup")
    outside = [target for target in rules.targets if target not in inside]
    if outside:
        how = f"only what lives in {where} is ended for it, not what is in {', '.join(outside)}"
        draft.differ(rules.page, rules.line, rules.name, how)
    rules.clauses.setdefault(where, []).append(clause)


def _is_below(path: str, above: str) -> bool:
    return above in ("/", path) or path.startswith(above + "/")


def _common(paths: Sequence[str]) -> str:
    """The innermost cgroup, without a pattern in it, around them all."""
    rows = [path.strip("/").split("/")[: None if len(path) > 1 and "*" not in path else -1] for path in paths]
    common: list[str] = []
    for level in zip(*rows, strict=False):
        if len(set(level)) > 1 or "*" in level[0]:
            break
        common.append(level[0])
    return "/" + "/".join(common)


def _term(rules: _Ruleset, name: str, args: dict[str, Any]) -> _Term | None:
    match name:
        case "pressure_above" | "pressure_rising_beyond":
            return _pressure(rules, name, args)
        case "memory_above":
            return _memory(rules, args)
        case "memory_reclaim":
            remark = "memory_reclaim is left out: where memory is under such pressure it is being reclaimed"
            return _Term(_cgroups(rules.page, rules.line, args), {}, 0, remark)
        case "swap_free":
            share = _number(args, "threshold_pct")
            return _Term((), {"swap_free_below": f"{_within(share):.10g}%"})
        case _ if name in _SILENT:
            return None
        case _:
            raise Wrong(f"{name}: there is no such condition here")


def _pressure(rules: _Ruleset, name: str, args: dict[str, Any]) -> _Term:
    if args.get("resource") != "memory":
        raise Wrong(f"{name}: pressure of {shown(args.get('resource'))} is no condition here, only that of memory")
    where = _cgroups(rules.page, rules.line, args)
    share, lasting = f"{_within(_number(args, 'threshold')):.10g}%", _number(args, "duration")
    if name == "pressure_above":
        return _Term(where, {"pressure_above": {"full": share, "over": "10s"}}, lasting)
    remark = (
        "pressure_rising_beyond asks for the average of 10 s too, and that it does not fall; here that of 60 s counts"
    )
    return _Term(where, {"pressure_above": {"full": share, "over": "60s"}}, lasting, remark)


def _within(share: float) -> float:
    """A share that can be said: more than 0."""
    return min(max(share, 0.01), 100.0)


def _memory(rules: _Ruleset, args: dict[str, Any]) -> _Term:
    anon = args.get("threshold_anon")
    amount = _size(str(anon if anon is not None else args.get("threshold", "")))
    where = _cgroups(rules.page, rules.line, args)
    remark = "" if anon is not None else "memory_above counts no cache here"
    if amount.endswith("%") and where != ("/",):
        remark = "a share of memory_above is here of the cgroup's limit, if it has one, and not of the machine's memory"
    return _Term(where, {"memory_above": amount}, _number(args, "duration"), remark)


def _size(text: str) -> str:
    """ "1.5M 32K 512", "90%"; a bare number is megabytes."""
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?%", text):
        return f"{_within(float(text[:-1])):.10g}%"
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        text += "M"
    parts = re.findall(r"([0-9]+(?:\.[0-9]+)?)([KMGT]?)", text.upper())
    if not parts or not re.fullmatch(r"(\s*[0-9]+(\.[0-9]+)?[KMGT]?)+\s*", text.upper()):
        raise Wrong(f"memory_above: {shown(text)} is no amount of memory")
    total = sum(float(number) * 1024 ** " KMGT".index(letter or " ") for number, letter in parts)
    return units.shown_size(min(max(1, int(total)), 2**60))


def _number(args: dict[str, Any], key: str) -> float:
    try:
        number = float(args.get(key, ""))
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number < 86400:
        raise Wrong(f"{key}: {shown(args.get(key))} is no number that can be meant")
    return number


# -------------------------------------------------------------------------------------------------------------- guards


def _guards(draft: Draft, rules: _Ruleset) -> None:
    if not rules.clauses:
        return
    _tell_kill(draft, rules)
    base = re.sub(r"[^A-Za-z0-9_-]+", "-", rules.name).strip("-_")[:56] or "oomd"
    for number, (where, clauses) in enumerate(rules.clauses.items(), 1):
        name = base if number == 1 else f"{base}-{number}"
        while name in draft.guards:
            name += "x"
        guard: dict[str, Any] = {"cgroup": where, "hard": {"when": clauses, "do": ["kill"]}}
        if rules.xattr:
            guard["xattr"] = rules.xattr
        if str(rules.args.get("dry", "false")).lower() == "true":
            guard["mode"] = "observe"
        guard["cooldown"] = units.shown_duration(
            int(_number({"post_action_delay": rules.delay}, "post_action_delay") * 10**9)
        )
        recursive = str(rules.args.get("recursive", "false")).lower() == "true"
        guard["victim"] = {"by": _BY.get(rules.kill, "memory"), "take": "cgroup" if recursive else "unit"}
        draft.guards[name] = guard


def _tell_kill(draft: Draft, rules: _Ruleset) -> None:
    if how := _KILLS[rules.kill]:
        draft.differ(rules.page, rules.line, f"{rules.name}: {rules.kill}", how)
    ours = rules.args.get("cgroup") == rules.own  # each by itself: it is the only candidate
    wide = len(rules.targets) > 1 or any(not target.endswith("/*") and "*" in target for target in rules.targets)
    if wide and not ours:
        how = "every unit below the guard's cgroup is a candidate; spare others by victim.never"
        draft.differ(rules.page, rules.line, f"{rules.name}: cgroup", how)
    for key in ("size_threshold", "min_growth_ratio", "growing_size_percentile", "threshold", "always_continue"):
        if key in rules.args:
            draft.lose(rules.page, rules.line, f"{rules.name}: {key}", "there is no such bound on who may be ended")
