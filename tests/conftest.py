"""The last lines of a run in which no machine could be started say so, in red."""

from __future__ import annotations

import pytest


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
