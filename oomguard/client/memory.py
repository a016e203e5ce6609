"""Giving memory back: what was registered, what Python collects, what the C library kept. sd_event_trim_memory(3)."""

from __future__ import annotations

import gc
import os
from _thread import allocate_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Final, Protocol, TypeVar

    class _Cache(Protocol):
        def cache_clear(self) -> object: ...

    class _Clearable(Protocol):
        def clear(self) -> object: ...

    _T = TypeVar("_T", bound="_Cache | _Clearable | Callable[[], object]")

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_lock = allocate_lock()
_registered: list[Any] = []
_libc: list[Callable[[int], int] | None] = []  # malloc_trim, once it was looked for; None: this libc has none


def register(cache: _T) -> _T:
    """Have ``trim`` clear it from now on; once, however often it is registered. Also as a decorator.

    ``cache`` is what functools makes (``cache_clear()`` is called), anything with ``clear()``, or a function without
    arguments that is called itself. It is kept alive until ``unregister``.
    """
    if not callable(_way(cache)):
        raise TypeError(f"{cache!r} has neither cache_clear() nor clear(), and cannot be called")
    with _lock:
        if not any(_same(known, cache) for known in _registered):
            _registered.append(cache)
    return cache


def unregister(cache: object) -> bool:
    """Leave it alone again. False: it was not registered."""
    with _lock:
        for place, known in enumerate(_registered):
            if _same(known, cache):
                del _registered[place]
                return True
    return False


def trim() -> int:
    """Clear what is registered, collect, have malloc give back what it does not need; bytes that this process has less.

    Bytes of anonymous memory, from /proc/self/statm; never less than 0. Everything is tried; what some of it raised
    comes as one ExceptionGroup afterwards.
    """
    before = held_bytes()
    with _lock:
        ways = [_way(cache) for cache in _registered]
    failed: list[Exception] = []
    for way in ways:
        try:
            way()
        except Exception as error:  # noqa: BLE001 - somebody's cache must not keep another one from being dropped
            failed.append(error)
    gc.collect()
    _malloc_trim()
    if failed:
        raise ExceptionGroup("some caches could not be cleared", failed)
    return max(0, before - held_bytes())


def held_bytes() -> int:
    """Memory of this process that is its own: resident pages less those of files. 0: /proc does not tell.

    5183 2312 1406 712 0 1015 0      (size, resident, shared, text, lib, data, dt; in pages)
    """
    try:
        with open("/proc/self/statm", "rb") as file:
            fields = file.read().split()
        return (int(fields[1]) - int(fields[2])) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0


def _way(cache: Any) -> Callable[[], object]:
    for name in ("cache_clear", "clear"):
        found = getattr(cache, name, None)
        if callable(found):
            return found  # type: ignore[no-any-return]
    return cache  # type: ignore[no-any-return]


def _same(one: object, other: object) -> bool:
    """Of caches the very one: two empty dicts are equal. Methods by what they are of: each access makes a new one."""
    return one is other or (hasattr(one, "__func__") and one == other)


def _malloc_trim() -> None:
    if not _libc:
        import ctypes  # 5 ms that only who trims pays

        found = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl has not
        if found is not None:
            found.argtypes, found.restype = [ctypes.c_size_t], ctypes.c_int
        _libc.append(found)
    if _libc[0] is not None:
        _libc[0](0)
