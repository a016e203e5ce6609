"""What the daemon needs of some modules of the standard library, without all that those pull in.

``dataclasses`` imports inspect, ast, dis and tokenize; ``typing``, ``collections``, ``signal`` and ``functools`` bring
enum, namedtuple and a thousand names: 3 MB of objects in each of four processes, for what has done its work once all is
imported. So the first thing that the core does is to put stand-ins in their places. The source knows nothing of that:
it says ``from dataclasses import dataclass``, and that is what mypy, the tests and everything above the waterline see.

A stand-in gives way: who asks one for something that it lacks is given the real module, which is then loaded in its
place. That costs memory and is never wrong. tests/core/test_lean.py holds each against the real thing.
"""

from __future__ import annotations  # what follows comes before ``typing``, which all others may use

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import FunctionType, ModuleType
    from typing import Any, TypeVar

    _Class = TypeVar("_Class", bound=type)
else:
    ModuleType = type(sys)


def install() -> None:
    """Put the stand-ins in the places of all that are not loaded yet."""
    for name, content in _stand_ins().items():
        sys.modules.setdefault(name, StandIn(name, content))


class StandIn(ModuleType):
    """A module in the place of another."""

    def __init__(self, name: str, content: dict[str, object]) -> None:
        super().__init__(name)
        self.__dict__.update(content)

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):  # __path__, __spec__ and the like: what the import system asks every module for
            raise AttributeError(f"{self.__name__} has no {name}")
        return getattr(self.real(), name)

    def real(self) -> ModuleType:
        """The module for which it stood."""
        if sys.modules.get(self.__name__) is self:
            family = (self.__name__, f"{self.__name__}.abc")
            names = [name for name in family if isinstance(sys.modules.get(name), StandIn)]
            for name in names:
                del sys.modules[name]
            for name in names:
                __import__(name)
        return sys.modules[self.__name__]


def _stand_ins() -> dict[str, dict[str, object]]:
    abc = __import__("_collections_abc")
    name = Name()
    return {
        "collections": _from("_collections", "deque", "defaultdict", "OrderedDict") | {"abc": abc},
        "collections.abc": _from("_collections_abc"),
        "contextlib": {"suppress": Suppress},
        "dataclasses": {"dataclass": dataclass, "field": Field, "fields": fields, "replace": replace},
        "functools": _from("_functools", "partial", "reduce", "cmp_to_key") | {"lru_cache": lru_cache},
        "json": {"loads": loads},
        "operator": _from("_operator"),
        "signal": _from("_signal"),
        "socket": _from("_socket"),
        "typing": dict.fromkeys(("Any", "Final", "Literal"), name)
        | {"TYPE_CHECKING": False, "TypeVar": lambda *_: name}
        | {"NamedTuple": NamedTuple, "assert_never": assert_never},
    }


def _from(module: str, *names: str) -> dict[str, object]:
    """These names of a module of the interpreter's own; all that are public if none is given."""
    found = vars(__import__(module))
    return {name: found[name] for name in names or found if not name.startswith("_")}


def _function(head: str, lines: Iterable[str], defaults: tuple[object, ...]) -> FunctionType:
    made: dict[str, FunctionType] = {}
    text = "\n ".join([f"def {head}:", *lines])
    exec(text, {"Field": Field, "tuple_of": tuple.__new__}, made)
    (function,) = made.values()
    function.__defaults__ = defaults
    return function


# --------------------------------------------------------------------------------------------------------- dataclasses


class Field:
    """What ``field`` makes, and what ``fields`` tells."""

    __slots__ = ("default_factory", "name")

    def __init__(self, *, default_factory: Callable[[], object] | None = None, name: str = "") -> None:
        self.default_factory, self.name = default_factory, name


def dataclass(*, slots: bool, frozen: bool = False) -> Callable[[_Class], _Class]:
    """With slots, without parents and __post_init__: no other kind is needed, and any other is refused.

    That it is frozen is kept by mypy, and by the tests, which run with the real one. Without that a ProcessFacts is
    made in 0.4 us, not 0.9 (3.11), or 0.3, not 1.9 (3.13). And __init__ is the only method that is made for each class.
    """
    if not slots:
        raise TypeError("a dataclass of the daemon has slots")
    methods = _COMPARED | {"__hash__": _hash if frozen else None}

    def made(cls: _Class) -> _Class:
        if cls.__bases__ != (object,) or "__post_init__" in vars(cls):
            raise TypeError(f"{cls.__name__} has parents, or __post_init__")
        names = tuple(cls.__annotations__)
        body = {name: thing for name, thing in vars(cls).items() if name not in _LEFT_OUT}
        defaults = tuple(body.pop(name) for name in names if name in body)
        late = {name for name, default in zip(names[::-1], defaults[::-1], strict=False) if type(default) is Field}
        lines = [f"if {name}.__class__ is Field: {name} = {name}.default_factory()" for name in names if name in late]
        lines += [f"self.{name} = {name}" for name in names] or ["pass"]
        body["__init__"] = _function(f"__init__({', '.join(('self', *names))})", lines, defaults)
        body |= {"__slots__": names, "__match_args__": names, "__dataclass_fields__": dict.fromkeys(names)}
        body["_values"] = _values(names)
        new: _Class = type(cls)(cls.__name__, (), methods | body)
        return new

    return made


_LEFT_OUT = ("__annotations__", "__dict__", "__doc__", "__weakref__")


def _values(names: tuple[str, ...]) -> Callable[[object], tuple[object, ...]]:
    """All fields at once, by the interpreter's own code."""
    return staticmethod(__import__("_operator").attrgetter(*names)) if names else staticmethod(lambda _: ())


def _hash(self: Any) -> int:
    return hash(self._values(self))


def _equal(self: Any, other: Any) -> bool:
    return self._values(self) == self._values(other) if other.__class__ is self.__class__ else NotImplemented


def _repr(self: Any) -> str:
    told = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__match_args__)
    return f"{self.__class__.__qualname__}({told})"


_COMPARED = {"__eq__": _equal, "__repr__": _repr}


def fields(thing: Any) -> tuple[Field, ...]:
    """By name: nobody asks for more."""
    return tuple(Field(name=name) for name in thing.__dataclass_fields__)


def replace(thing: Any, /, **changes: object) -> Any:
    """A copy with other values in some fields."""
    return thing.__class__(**({name: getattr(thing, name) for name in thing.__match_args__} | changes))


# -------------------------------------------------------------------------------------------------------------- typing


class Name:
    """``Final``, ``Literal``: at run time they only have to be there, with anything in brackets or beside a bar."""

    def __getitem__(self, _: object) -> Name:
        return self

    def __or__(self, _: object) -> Name:
        return self

    __ror__ = __or__


class NamedTuple(tuple[Any, ...] if TYPE_CHECKING else tuple):  # type: ignore[misc]
    """A tuple whose places have the names that the class body annotates."""

    __slots__ = ()
    _fields: tuple[str, ...] = ()

    def __init_subclass__(cls) -> None:
        names = cls._fields = tuple(cls.__annotations__)
        defaults = tuple(vars(cls)[name] for name in names if name in vars(cls))
        line = f"return tuple_of(cls, ({''.join(f'{name}, ' for name in names)}))"
        new = _function(f"__new__({', '.join(('cls', *names))})", [line], defaults)
        getters = {name: __import__("_collections")._tuplegetter(number, None) for number, name in enumerate(names)}
        for name, thing in (getters | {"__new__": new, "__match_args__": names}).items():
            setattr(cls, name, thing)

    def _replace(self, **changes: object) -> NamedTuple:
        return self.__class__(**dict(zip(self._fields, self, strict=True)) | changes)

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in self._fields)})"


def assert_never(value: object) -> None:
    """Here none comes."""
    raise AssertionError(f"expected code to be unreachable, but got: {value!r}")


# ------------------------------------------------------------------------------------------ json, functools, contextlib


class Scan:
    """What the interpreter's own scanner wants to know."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int, parse_constant = float, int, float


def loads(text: bytes | str) -> object:
    """The scanner of ``json`` without its compiled patterns. Whatever that cannot read, the real one judges."""
    try:
        plain = (text if isinstance(text, str) else text.decode()).strip()
        value, end = __import__("_json").make_scanner(Scan)(plain, 0)
        if end == len(plain):
            return value
    except (StopIteration, ValueError, ImportError, SystemError):  # the last two: it misses the home of its own error
        pass
    known = sys.modules["json"]
    real = known.real() if isinstance(known, StandIn) else known
    return real.loads(text)


def lru_cache(maxsize: int = 128, typed: bool = False) -> Any:
    """The interpreter's own, without names for its statistics."""
    if callable(maxsize):  # @lru_cache without brackets
        return lru_cache(128, typed)(maxsize)

    def made(function: FunctionType) -> Any:
        cached = __import__("_functools")._lru_cache_wrapper(function, maxsize, typed, tuple)
        cached.__name__, cached.__wrapped__ = function.__name__, function
        return cached

    return made


class Suppress:
    """``with suppress(OSError):``."""

    def __init__(self, *kinds: type[BaseException]) -> None:
        self.kinds = kinds

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, self.kinds)
