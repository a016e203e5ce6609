"""The kernel's own words about its kills, read from its log when it has killed, and kept as long as a storm lasts."""

import time
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

from ..linux.kmsg import KmsgFile
from ..linux.oomreport import Report

_LINES: Final = 400  # of one OOM report: the task table has a line for every process
# The log's clock is not disciplined, CLOCK_MONOTONIC is, by at most 500 ppm (adjtimex(2)): after 100 days of uptime
# they may be 72 minutes apart. So "fresh" is generous, and what belongs together is told by the log's own clock.
_FRESH_US: Final = 60_000_000
_DRIFT: Final = 0.0005
_TOGETHER_US: Final = 30_000_000
_REPORTS: Final = 64


class KernelLog:
    """``why``: why it cannot be read; empty: it can."""

    def __init__(self, path: str) -> None:
        self._file: KmsgFile | None = None
        self.why = ""
        try:
            self._file = KmsgFile(path)
        except OSError as error:
            self.why = f"{path} cannot be read: {error.strerror}"
        self._lines: deque[tuple[int, str]] = deque(maxlen=_LINES)
        self._reports: deque[tuple[int, dict[str, Any]]] = deque(maxlen=_REPORTS)
        self._report = Report()

    def drain(self) -> Iterator[None]:
        """Take what is new, a little at a time."""
        if self._file is None:
            return
        self.why = ""
        now_us = time.monotonic_ns() // 1000
        oldest_us = now_us - _FRESH_US - int(now_us * _DRIFT)
        more = True
        while more:
            try:
                records = self._file.drain(64)
            except OSError as error:
                self.why = str(error)
                return
            for record in records:
                if record.facility == 0 and record.at_us >= oldest_us:
                    self._line(record.at_us, record.text)
            more = len(records) == 64
            yield

    def lines(self) -> list[str]:
        """Those that belong to the last kill, and to the kills just before it; none where there was no kill."""
        return [f"[{at_us / 1e6:12.6f}] {text}" for at_us, text in self._lines if at_us >= self._since_us()]

    def reports(self) -> list[dict[str, Any]]:
        """The same, as values."""
        return [report for at_us, report in self._reports if at_us >= self._since_us()]

    def _since_us(self) -> float:
        return self._reports[-1][0] - _TOGETHER_US if self._reports else float("inf")

    def _line(self, at_us: int, text: str) -> None:
        self._lines.append((at_us, text[:300]))
        report = self._report.line(text)
        if report is not None:
            self._reports.append((at_us, report))
