"""For all tests: Ctrl-C is Ctrl-C, and a run in which no machine could be started says so in its last lines, in red."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from oomguard.linux import cgroup1, cgroup2

# A shell starts what it runs in the background with SIGINT ignored, and so would be all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def signals_as_they_were() -> Iterator[None]:
    """The daemon blocks what it reads from a descriptor; who makes one here must not do so for all that follow."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.fixture(autouse=True)
def no_cgroup_v1_from_before() -> Iterator[None]:
    """Which version has the memory is known once for a whole process; here each test is a machine of its own."""
    yield
    if cgroup2.KINDS:
        cgroup1.leave()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    ended = [report for kind in ("skipped", "failed", "error") for report in terminalreporter.stats.get(kind, ())]
    why = {report.nodeid: told for report in ended if (told := why_not_run(report))}
    if why:
        terminalreporter.section("no virtual machine", sep="!", red=True, bold=True)
        terminalreporter.line(f"VM tests not run ({len(why)}): {next(iter(why.values()))}", red=True, bold=True)


def why_not_run(report: pytest.TestReport) -> str:
    """As tests/vm/conftest.py says it; empty for all other reasons."""
    _, known, why = str(report.longrepr).partition("VM tests not run: ")
    return why.strip("'\")\n") if known else ""
