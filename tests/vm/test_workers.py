"""Many small processes hide behind one larger innocent from everybody who compares processes only."""

from __future__ import annotations

import pytest

from .machine import Machine
from .storms import STORMS, run_storm
from .verdicts import faults_of_guarding

pytestmark = pytest.mark.counted


def test_the_workers_go_and_the_innocent_stays(installed_vm: Machine) -> None:
    result = run_storm(installed_vm, STORMS["workers"])
    assert faults_of_guarding(result) == ()
    assert set(result.killed) == {STORMS["workers"].culprit.cgroup}
    installed_vm.check("systemctl is-active innocent.service canary.service")
