"""The machine and its witness, without oomguard: a test that cannot see the kernel kill would see nothing at all."""

from __future__ import annotations

import json

import pytest

from . import peers
from .machine import PYTHON, Machine
from .storms import STORMS, run_storm

pytestmark = pytest.mark.counted


def test_the_bare_kernel_lets_the_leak_run_into_the_wall(bare_vm: Machine) -> None:
    result = run_storm(bare_vm, STORMS["leak-flat"], unit=None)
    assert (result.killed_by, result.kernel_oom_kills) == ("kernel", 1)
    assert result.innocents == result.vanished == ()
    assert result.min_available_mib < 10


def test_the_bare_kernel_kills_in_the_limited_service(bare_vm: Machine) -> None:
    result = run_storm(bare_vm, STORMS["limited-50"], unit=None)
    assert (result.killed_by, result.events["oom_kill"]) == ("kernel", 1)


def test_a_loop_that_kills_in_time_is_seen_to_do_so(bare_vm: Machine) -> None:
    peer = peers.load("limit")
    peer.setup(bare_vm)
    peer.start(bare_vm)
    result = run_storm(bare_vm, STORMS["leak-flat"], peer.unit)
    assert (result.killed_by, result.kernel_oom_kills) == ("limit", 0)
    assert result.signal_after_line_ms is not None
    assert result.signal_after_line_ms < 100


def test_nothing_is_marked_before_anybody_guards(bare_vm: Machine) -> None:
    """So that a mark found after oomguard is oomguard's."""
    marks = json.loads(bare_vm.check(f"{PYTHON}marks.py"))
    throttled = {path for path, files in marks["cgroups"].items() if files.get("memory.high", "max") != "max"}
    frozen = {path for path, files in marks["cgroups"].items() if files.get("cgroup.freeze", "0") != "0"}
    assert throttled | frozen == set()
