"""The core's senses, hands and leases on the kernel and the cgroup v2 that they are for, in the virtual machine.

What needs hypothesis (not there) and the daemon as a whole (the storms go that way) is left out; the made-up machines
come along, being in the same files.
"""

from __future__ import annotations

import re

import pytest
from linux.test_in_vm import GUEST, tree
from vm.conftest import able, bare_vm
from vm.machine import ROOT, Machine, local_tree

__all__ = ["able", "bare_vm"]

TAKEN = ("__init__.py", "conftest.py", "world.py", "test_act.py", "test_observe.py", "test_memory.py")


@pytest.mark.vm
def test_the_core_on_a_machine_with_cgroup_v2(bare_vm: Machine) -> None:
    files = {path: file for path, file in tree().items() if not path.startswith("tests/")}
    mine = local_tree(ROOT / "tests" / "core")
    all_tests = {"tests/conftest.py": local_tree(ROOT / "tests")["conftest.py"]}
    bare_vm.put_tree(files | all_tests | {f"tests/core/{name}": mine[name] for name in TAKEN}, GUEST)
    pytest_there = "PYTHONPATH=site:. python3 -B -m pytest -q -p no:cacheprovider --color=no -rA tests/core 2>&1"
    done = bare_vm.run(f"cd {GUEST} && ulimit -n 20000 && {pytest_there}", timeout=900)
    print(done.out)
    assert done.rc == 0, done.out
    # What that machine cannot run either, nobody has run.
    assert re.findall(r"^SKIPPED .*$", done.out, re.MULTILINE) == []
    passed = re.search(r"(\d+) passed", done.out)
    assert passed is not None
    assert int(passed[1]) > 100
