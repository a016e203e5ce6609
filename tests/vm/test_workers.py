"""Many small processes hide behind one larger innocent from everybody who compares processes only."""

from __future__ import annotations

from .machine import Machine
from .storms import STORMS, run_storm
from .test_leaks import assert_only_the_culprit_died, assert_told


def test_the_workers_go_and_the_innocent_stays(installed_vm: Machine) -> None:
    result = run_storm(installed_vm, STORMS["workers"])
    assert_only_the_culprit_died(result)
    assert set(result.killed) == {"work.slice/workers.service"}
    installed_vm.check("systemctl is-active innocent.service canary.service")
    assert_told(result)
