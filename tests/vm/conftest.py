"""Fixtures of the VM tests.

A computer that cannot run the machines must not look as if it had: every test here fails with the reason, unless
OOMGUARD_NO_VM=1 says that this is meant, and the last lines of the run say so either way.
"""

from __future__ import annotations

import io
import os
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.incidents import judged

from .machine import Machine, missing
from .storms import UNIT, journal

HERE = Path(__file__).resolve().parent
UNWANTED = os.environ.get("OOMGUARD_NO_VM") == "1"
MACHINE = pytest.StashKey[Machine]()
NOT_RUN = "VM tests not run"


# Not a part of `make test`: they fetch what the image has not, and take minutes. Whoever names one gets it.
BY_NAME = {"test_boxes.py": "make boxes", "test_kernels.py": "make kernels", "test_special.py": "make kernels"}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """None: as usual."""
    named = any(collection_path.name in word for word in config.invocation_params.args)
    return True if collection_path.name in BY_NAME and not named else None


def why_not() -> str | None:
    return "OOMGUARD_NO_VM=1" if UNWANTED else missing()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "vm: runs in the virtual machine (QEMU, no KVM needed)")
    config.addinivalue_line("markers", "counted: in one whose clock counts instructions: no busy host hurries it")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents and {"installed_vm", "bare_vm"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.vm)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A failed test shows what the daemon had to say: the machine is gone afterwards."""
    report = yield
    vm = item.stash.get(MACHINE, None)
    if report.failed and call.when == "call" and vm is not None:
        try:
            report.sections.append((f"journal of {UNIT}", journal(vm, UNIT)))
            report.sections.append(("oomguard status", vm.run("oomguard status --json", timeout=30).out))
        except (RuntimeError, OSError) as error:
            report.sections.append(("the machine", f"does not answer any more: {error}"))
    return report


@pytest.fixture
def able() -> None:
    """Fails, or skips where that is meant, on a computer that cannot run the machines."""
    why = why_not()
    if why:
        (pytest.skip if UNWANTED else pytest.fail)(f"{NOT_RUN}: {why}", **({} if UNWANTED else {"pytrace": False}))


@pytest.fixture
def installed_vm(able: None, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """1 GiB, 2 CPUs; oomguard installed by `make install`, enabled and running with the shipped policy."""
    with Machine(getattr(request, "param", "1G"), counted=counted(request)) as vm:
        request.node.stash[MACHINE] = vm
        yield vm
        judge_again(vm)


def judge_again(vm: Machine) -> None:
    """Whatever incidents the test has made: the verdicts must be the same again."""
    vm.run(f"systemctl stop {UNIT}", timeout=90)  # what is still being written is written
    found = "$(ls incidents/*/incident.json incidents/*/ring.jsonl 2>/dev/null)"
    if vm.run(f'cd /var/lib/oomguard && f={found}; [ "$f" ] && tar -czf /var/tmp/incidents.tgz $f').rc != 0:
        return
    with tempfile.TemporaryDirectory() as into:
        with tarfile.open(fileobj=io.BytesIO(vm.get("/var/tmp/incidents.tgz"))) as tar:
            tar.extractall(into, filter="data")
        judged.all_again(Path(into) / "incidents")


@pytest.fixture
def bare_vm(able: None, request: pytest.FixtureRequest) -> Iterator[Machine]:
    """Debian as it boots."""
    with Machine(installed=False, counted=counted(request)) as vm:
        yield vm


def counted(request: pytest.FixtureRequest) -> bool:
    return request.node.get_closest_marker("counted") is not None
