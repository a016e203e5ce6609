"""Two lanes for `make test`: what runs in the virtual machine beside what runs here.

A machine is waited for most of the time, and only one runs at a time; the rest of the tests fill that time. Within a
lane tests run one after the other, as they do without pytest-xdist.

And the last lines of a run in which no machine could be started say so, in red.
"""

from __future__ import annotations

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.xdist_group("vm" if item.get_closest_marker("vm") else "here"))


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
