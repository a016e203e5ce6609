"""The contract over, on the kernel and the cgroup v2 that oomguard is for: these tests, run in the virtual machine.

Debian has no pytest there and no network: it comes from here, being pure Python. The fuzz (hypothesis) is not repeated:
parsers do not know where they run.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from vm.conftest import able, bare_vm
from vm.machine import ROOT, Machine, local_tree

__all__ = ["able", "bare_vm"]

HERE = Path(__file__).resolve().parent
GUEST = "/root/oomguard"
PYTEST = ("pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments", "py")


# What the guest cannot import, by how it is imported.
NOT_THERE = (b"\nfrom hypothesis import", b"\nfrom vm.machine import")


def tree() -> dict[str, tuple[int, bytes]]:
    files: dict[str, tuple[int, bytes]] = {}
    for name in PYTEST:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        origin = Path(spec.origin)
        if origin.name == "__init__.py":
            files |= {f"site/{name}/{path}": file for path, file in local_tree(origin.parent).items()}
        else:
            files[f"site/{origin.name}"] = (0o644, origin.read_bytes())
    for directory in ("oomguard", "tests/linux"):
        files |= {f"{directory}/{path}": file for path, file in local_tree(ROOT / directory).items()}
    files["pyproject.toml"] = (0o644, (ROOT / "pyproject.toml").read_bytes())
    return {path: file for path, file in files.items() if not any(line in file[1] for line in NOT_THERE)}


@pytest.mark.vm
def test_the_contract_on_a_machine_with_cgroup_v2(bare_vm: Machine) -> None:
    bare_vm.put_tree(tree(), GUEST)
    command = f"cd {GUEST} && PYTHONPATH=site:. python3 -B -m pytest -q -p no:cacheprovider --color=no tests/linux 2>&1"
    done = bare_vm.run(command, timeout=600)
    print(done.out)
    assert done.rc == 0, done.out
    # What that machine cannot run either, nobody has run. Of cgroup v1 there is none there, which a real one shows.
    assert [line for line in re.findall(r"^SKIPPED .*$", done.out, re.MULTILINE) if "no cgroup v1" not in line] == []
    passed = re.search(r"(\d+) passed", done.out)
    assert passed is not None
    assert int(passed[1]) > 250
