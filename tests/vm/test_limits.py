"""A service with a limit of its own on an idle machine: the race that every daemon without a tripwire loses."""

from __future__ import annotations

import pytest

from .machine import Machine
from .storms import STORMS, run_storm
from .test_leaks import assert_only_the_culprit_died, assert_told


@pytest.mark.parametrize("name", ["limited-20", "limited-200", "limited-flat"])
def test_a_leak_under_a_limit_dies_before_the_kernel_acts(installed_vm: Machine, name: str) -> None:
    result = run_storm(installed_vm, STORMS[name])
    assert_only_the_culprit_died(result)
    assert result.events["oom_kill"] == 0, result.events
    told = assert_told(result, policy="limited")
    assert told["cgroup"] == "/work.slice/limited.service"
