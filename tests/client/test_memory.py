"""What is registered is dropped, and what is dropped is given back."""

from __future__ import annotations

import functools
import gc
import subprocess
import sys
from collections.abc import Iterator

import pytest

from oomguard.client import held_bytes, memory, register, trim, unregister


@pytest.fixture(autouse=True)
def nothing_registered() -> Iterator[None]:
    yield
    memory._registered.clear()


def test_all_kinds_of_caches() -> None:
    called: list[int] = []
    table = {1: 2}

    @register
    @functools.cache
    def square(number: int) -> int:
        return number * number

    register(table)
    register(lambda: called.append(1))
    square(3)
    trim()
    assert square.cache_info().currsize == 0
    assert table == {}
    assert called == [1]


class Service:
    def __init__(self) -> None:
        self.dropped = 0

    def drop(self) -> None:
        self.dropped += 1


def test_each_is_registered_once_and_equal_ones_are_not_the_same() -> None:
    service, one, other = Service(), {1: 1}, {1: 1}
    for cache in (service.drop, service.drop, one, one, other):
        register(cache)  # type: ignore[type-var]
    trim()
    assert service.dropped == 1
    assert (one, other) == ({}, {})
    assert unregister(service.drop)
    assert unregister(one)
    assert not unregister(one)
    one[2] = other[2] = 2
    trim()
    assert service.dropped == 1
    assert (one, other) == ({2: 2}, {})


def test_what_cannot_be_cleared_is_refused() -> None:
    with pytest.raises(TypeError, match="neither cache_clear"):
        register(3)  # type: ignore[type-var]


def test_one_that_fails_keeps_no_other_one_from_being_dropped() -> None:
    table = {1: 1}

    def broken() -> None:
        raise KeyError("no")

    register(broken)
    register(table)
    with pytest.raises(ExceptionGroup) as error:
        trim()
    assert isinstance(error.value.exceptions[0], KeyError)
    assert table == {}


def test_a_cache_may_register_another_one_while_it_is_cleared() -> None:
    table = {1: 1}
    register(lambda: register(table))
    trim()
    trim()
    assert table == {}


def test_bytes_given_back() -> None:
    """Small blocks: large ones would go back by themselves."""
    cache = {number: bytes(1000) for number in range(30_000)}
    cache |= {number: bytearray(1000) for number in range(30_000)}  # type: ignore[dict-item]
    before = held_bytes()
    register(cache)
    gave = trim()
    assert gave > 15 << 20
    assert held_bytes() < before


def test_there_may_be_nothing_to_give() -> None:
    trim()
    assert trim() >= 0


def test_a_libc_without_malloc_trim(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_libc", [None])
    gc.disable()
    try:
        assert trim() >= 0
    finally:
        gc.enable()


# Everything that an import of the client loads besides what a Python without site has loaded already.
LOADED = """
import sys
before = set(sys.modules)
import oomguard.client
print(*sorted(set(sys.modules) - before))
"""


def test_it_loads_next_to_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not {"typing", "ctypes", "socket", "asyncio", "threading", "dataclasses", "re", "inspect"} & loaded
    assert not {name for name in loaded if name.startswith("oomguard.") and not name.startswith("oomguard.client")}
    assert len(loaded) < 20, loaded
