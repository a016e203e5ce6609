"""Any value of the model as plain data (dict, list, str, int, float, bool, None), and back.

A dataclass becomes a dict with its class name under "kind". Tuples become lists and come back as tuples. The same
form goes into the sealed plan, into the ring and into incident.json.
"""

from dataclasses import fields
from typing import Any

from . import facts, incident, policy, verdict

_FIELDS: dict[type, tuple[str, ...]] = {
    thing: tuple(f.name for f in fields(thing))
    for module in (facts, policy, verdict, incident)
    for thing in vars(module).values()
    if isinstance(thing, type) and thing.__module__ == module.__name__ and hasattr(thing, "__dataclass_fields__")
}
_BY_KIND: dict[str, type] = {thing.__name__: thing for thing in _FIELDS}


def to_plain(value: object) -> Any:
    """Dataclasses to dicts with a "kind", tuples to lists, the rest as it is."""
    names = _FIELDS.get(type(value))
    if names is not None:
        plain: dict[str, Any] = {"kind": type(value).__name__}
        for name in names:
            plain[name] = to_plain(getattr(value, name))
        return plain
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    return value


def from_plain(plain: Any) -> Any:
    """The inverse of ``to_plain``. Unknown fields are ignored, so that a newer writer can be read.

    Raises KeyError for a kind that this version does not know, TypeError for a missing field without a default.
    """
    if isinstance(plain, list | tuple):
        return tuple(from_plain(item) for item in plain)
    if isinstance(plain, dict):
        thing = _BY_KIND[plain["kind"]]
        known = _FIELDS[thing]
        return thing(**{name: from_plain(item) for name, item in plain.items() if name != "kind" and name in known})
    return plain
