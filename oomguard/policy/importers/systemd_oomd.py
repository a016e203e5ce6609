"""systemd-oomd: oomd.conf(5) and its drop-ins, and units with ManagedOOM...= (systemd.resource-control(5)).

Below a unit with ManagedOOMMemoryPressure=kill a whole cgroup is ended once the unit's full avg10 was above the limit
for so long. Below one with ManagedOOMSwap=kill, once memory and swap of the machine are both used above SwapUsedLimit.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import PurePath
from typing import Any

from .. import units
from ..faults import Wrong
from . import Draft, Page, victim

# Its defaults (oomd-manager.h), for what no file says.
_SWAP_USED, _PRESSURE, _DURATION = "90%", "60%", "30s"
_COOLDOWN = "15s"  # POST_ACTION_DELAY_USEC
_TYPES = (".service", ".slice", ".scope")
_SECTIONS = ("Service", "Slice", "Scope", "Mount", "Socket", "Swap", "Unit")


@dataclass(slots=True)
class _Unit:
    """What all files of a unit say, later ones over earlier ones: key to (page, line, value)."""

    name: str
    said: dict[str, tuple[Page, int, str]] = field(default_factory=dict)

    def get(self, key: str) -> str:
        return self.said[key][2] if key in self.said else ""


def read(pages: Sequence[Page]) -> Draft:
    """A guard for every managed unit and kind."""
    draft = Draft()
    oomd = _Unit("")
    found: dict[str, _Unit] = {}
    for page in pages:
        name = _unit_name(page)
        unit = found.setdefault(name, _Unit(name)) if name else oomd
        for section, key, line, value in _assignments(page):
            if section in (("OOM",) if not name else _SECTIONS):
                unit.said[key] = (page, line, value)
    _tell_unknown(draft, oomd)
    for unit in found.values():
        _manage(draft, unit, oomd)
    if not draft.guards:
        page = pages[-1]
        why = "no unit says ManagedOOMSwap=kill or ManagedOOMMemoryPressure=kill: nothing would be ended"
        draft.lose(page, 1, "", why, "name the units' drop-ins too, as in user@.service.d/10-oomd.conf")
    for unit in found.values():
        _prefer(draft, unit)
    return draft


def _unit_name(page: Page) -> str:
    """user@.service of /usr/lib/systemd/system/user@.service.d/10-x.conf; "" for oomd.conf."""
    path = PurePath(page.file)
    return next(
        (name for part in (path.parent.name, path.name) if (name := part.removesuffix(".d")).endswith(_TYPES)), ""
    )


def _assignments(page: Page) -> Iterator[tuple[str, str, int, str]]:
    """(section, key, line, value)."""
    section = ""
    for number, raw in enumerate(page.text.split("\n"), 1):
        line = raw.strip()
        if not line or line[0] in "#;":
            continue
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
            continue
        key, sign, value = line.partition("=")
        if not sign or not section:
            page.wrong(number, "", f"{line[:40]!r} is no setting of systemd", "[Section], then Key=value")
        yield section, key.strip(), number, value.strip()


def _tell_unknown(draft: Draft, oomd: _Unit) -> None:
    known = ("SwapUsedLimit", "DefaultMemoryPressureLimit", "DefaultMemoryPressureDurationSec")
    for key, (page, line, _) in oomd.said.items():
        if key not in known:
            draft.lose(page, line, key, "is not known here")


def _manage(draft: Draft, unit: _Unit, oomd: _Unit) -> None:
    for key, (page, line, value) in unit.said.items():
        if key in ("ManagedOOMSwap", "ManagedOOMMemoryPressure") and value not in ("auto", "kill", ""):
            page.wrong(line, key, f"{value!r} is neither auto nor kill")
        if (key.startswith("ManagedOOM") and key not in _KNOWN) or key == "OOMRules":
            draft.lose(page, line, key, "is not known here")
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", unit.name).strip("-") or "root"
    if unit.get("ManagedOOMMemoryPressure") == "kill":
        draft.guards[f"{name}-pressure"[:64]] = _by_pressure(draft, unit, oomd)
    if unit.get("ManagedOOMSwap") == "kill":
        draft.guards[f"{name}-swap"[:64]] = _by_swap(draft, unit, oomd)


_KNOWN = (
    *("ManagedOOMSwap", "ManagedOOMMemoryPressure", "ManagedOOMMemoryPressureLimit"),
    *("ManagedOOMMemoryPressureDurationSec", "ManagedOOMPreference"),
)


def _by_pressure(draft: Draft, unit: _Unit, oomd: _Unit) -> dict[str, Any]:
    limit = _share(unit, "ManagedOOMMemoryPressureLimit") or _share(oomd, "DefaultMemoryPressureLimit") or _PRESSURE
    lasting = _time(unit, "ManagedOOMMemoryPressureDurationSec") or _time(oomd, "DefaultMemoryPressureDurationSec")
    page, line, _ = unit.said["ManagedOOMMemoryPressure"]
    draft.differ(page, line, "ManagedOOMMemoryPressure", "the one that holds most is ended, not the one scanned most")
    clause = {"pressure_above": {"full": limit, "over": "10s"}, "lasting": lasting or _DURATION}
    return _guard(draft, unit, clause)


def _by_swap(draft: Draft, unit: _Unit, oomd: _Unit) -> dict[str, Any]:
    used = Fraction((_share(oomd, "SwapUsedLimit") or _SWAP_USED).removesuffix("%"))
    page, line, _ = unit.said["ManagedOOMSwap"]
    if used >= 100:
        draft.differ(page, line, "SwapUsedLimit", "100% is never exceeded; here it is 99.9%")
        used = Fraction("99.9")
    left = f"{float(100 - used):.10g}%"
    if unit.name == "-.slice":  # there swap in use is the machine's, and none is in use where there is none
        return _guard(draft, unit, {"available_below": left, "swap_above": f"{float(used):.10g}%"}, "swap")
    draft.differ(page, line, "ManagedOOMSwap", "without any swap systemd-oomd ends nobody, and this does")
    return _guard(draft, unit, {"available_below": left, "swap_free_below": left}, "swap")


def _guard(draft: Draft, unit: _Unit, clause: dict[str, Any], by: str = "memory") -> dict[str, Any]:
    return {
        "cgroup": _cgroup(draft, unit),
        "cooldown": _COOLDOWN,
        "hard": {"when": [clause], "do": ["kill"]},
        "victim": {"by": by, "take": "cgroup"},
    }


def _cgroup(draft: Draft, unit: _Unit) -> str:
    """Where the unit's cgroup is, as systemd lays units out."""
    name = unit.name
    if name == "-.slice":
        return "/"
    if name.endswith(".slice"):  # a-b.slice lies in a.slice
        parts = name.removesuffix(".slice").split("-")
        return "/" + "/".join("-".join(parts[: end + 1]) + ".slice" for end in range(len(parts)))
    if name.startswith("user@"):
        return f"/user.slice/user-*.slice/{name.replace('@.', '@*.')}"
    inside = unit.get("Slice") or ("user.slice/user-*.slice" if name.endswith(".scope") else "system.slice")
    if "@" in name and "Slice" not in unit.said:
        inside = f"system.slice/system-{name.partition('@')[0]}.slice"
        page, line, _ = next(iter(unit.said.values()))
        draft.differ(page, line, name, f"taken to live in {inside}, as templates do; no specifier is resolved")
    return f"/{inside}/{name.replace('@.', '@*.')}"


def _share(unit: _Unit, key: str) -> str:
    """A percentage, also in permille and permyriad. "": not said, or 0, which stands for the default."""
    if key not in unit.said or not unit.get(key):
        return ""
    page, line, value = unit.said[key]
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([%‰‱])", value)
    number = Fraction(match[1]) / {"%": 1, "‰": 10, "‱": 100}[match[2]] if match else Fraction(-1)
    if not 0 <= number <= 100:
        page.wrong(line, key, f"{value!r} is not a percentage", f"{key}=60%")
    return f"{float(number):.10g}%" if number else ""


_SPANS = {"usec": "us", "msec": "ms", "sec": "s", "second": "s", "minute": "min", "hr": "h", "hour": "h", "day": "d"}


def _time(unit: _Unit, key: str) -> str:
    """systemd.time(7): a bare number is seconds. "": not said."""
    if key not in unit.said or not unit.get(key):
        return ""
    page, line, value = unit.said[key]
    text = re.sub(r"[a-z]+", lambda word: _SPANS.get(word[0].rstrip("s") or "s", word[0]), value)
    text = f"{text}s" if re.fullmatch(r"[0-9.]+", text) else text
    try:
        return units.shown_duration(units.duration(text))
    except Wrong:
        page.wrong(line, key, f"{value!r} is not a time", f"{key}=20s")


def _prefer(draft: Draft, unit: _Unit) -> None:
    """ManagedOOMPreference= of a unit, for the guards around it."""
    value = unit.get("ManagedOOMPreference")
    if value in ("", "none"):
        return
    page, line, _ = unit.said["ManagedOOMPreference"]
    if value not in ("avoid", "omit"):
        page.wrong(line, "ManagedOOMPreference", f"{value!r} is none of none, avoid and omit")
    pattern = unit.name.replace("@.", "@*.")
    key = "cgroup" if pattern.endswith(".slice") else "unit"
    match: dict[str, Any] = {key: _cgroup(draft, unit) if key == "cgroup" else pattern}
    for guard in draft.guards.values():
        victim(guard["victim"], "never" if value == "omit" else "avoid", match)  # type: ignore[arg-type]
    if value == "avoid":
        draft.differ(page, line, "ManagedOOMPreference", "weighs a quarter: who holds four times more is taken")
