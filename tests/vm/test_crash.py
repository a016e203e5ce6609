"""SIGKILL of the daemon at any moment of an engagement: nothing that it changed outlives it."""

from __future__ import annotations

import random

import pytest

from .machine import Machine
from .trials import CrashPlan, armed, crash
from .verdicts import faults_of_the_crash


@pytest.mark.parametrize("limited", [False, True], ids=["machine", "limited"])
def test_nothing_outlives_the_daemon(installed_vm: Machine, limited: bool) -> None:
    """As soon as the guard is armed, and at random."""
    moments = (None, random.uniform(1.5, 6.0))
    plans = [
        CrashPlan(limited, moment, whole_service=bool(i), leak_goes_first=bool(i)) for i, moment in enumerate(moments)
    ]
    for plan in plans:
        result = crash(installed_vm, plan)
        print(result)
        assert faults_of_the_crash(result) == ()
        if plan.after_s is None:
            assert armed(result.leases_at_death), "the guard was not armed: this trial showed nothing"
