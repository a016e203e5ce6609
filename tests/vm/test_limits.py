"""A service with a limit of its own on an idle machine: the race that every daemon without a tripwire loses."""

from __future__ import annotations

import pytest

from .machine import Machine
from .storms import STORMS, run_storm
from .verdicts import faults_of_guarding

pytestmark = pytest.mark.counted


@pytest.mark.parametrize("name", ["limited-20", "limited-200", "limited-flat"])
def test_a_leak_under_a_limit_dies_before_the_kernel_acts(installed_vm: Machine, name: str) -> None:
    result = run_storm(installed_vm, STORMS[name])
    assert faults_of_guarding(result) == ()
