"""A real browser without a window, spoken to over its own pipe (the DevTools protocol): no driver, no library.

https://chromedevtools.github.io/devtools-protocol/ ; each message is JSON that ends with a NUL.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

TIMEOUT_S = 90  # two processors, shared


class Browser:
    """One browser with one page. ``complaints``: exceptions, console errors, violated policies; ``asked``: all URLs."""

    def __init__(self) -> None:
        program = shutil.which("chromium") or shutil.which("google-chrome")
        assert program, "there is no browser: apt-get install chromium (tools/prepare.sh vm does it)"
        self.profile = tempfile.mkdtemp(prefix="browser")
        (theirs_in, self._out), (self._in, theirs_out) = os.pipe(), os.pipe()
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self._number, self._buffer, self._session = 0, b"", ""
        command = [program, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
        command += ["--disable-dev-shm-usage", f"--user-data-dir={self.profile}", "--remote-debugging-pipe"]
        # The browser speaks on descriptors 3 and 4.
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec 3<&{theirs_in} 4>&{theirs_out}; exec "$@"', "bash", *command, "about:blank"],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask, and wait for the answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                found: dict[str, Any] = answer["result"]
                return found

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], TIMEOUT_S)
            data = os.read(self._in, 1 << 16) if ready else b""
            assert data, "the browser does not answer"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        event: dict[str, Any] = json.loads(line)
        self._note(event.get("method", ""), event.get("params", {}))
        return event

    def _note(self, method: str, parameters: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.complaints.append(str(parameters["exceptionDetails"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.complaints.append(parameters["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.asked.append(parameters["request"]["url"])

    def look(self, path: Path, width: int, scheme: str) -> None:
        """Open a file, that wide, by light or dark, and wait until its pictures are drawn."""
        self.turn(width, scheme)
        self("Page.navigate", url=path.as_uri())
        self.until("document.documentElement && document.documentElement.dataset.drawn", "the pictures are drawn")

    def turn(self, width: int, scheme: str) -> None:
        """Make it that wide, and light or dark."""
        self("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def until(self, expression: str, what: str) -> None:
        """Wait for that to be so."""
        deadline = time.monotonic() + TIMEOUT_S
        while not self.says(expression):
            assert time.monotonic() < deadline, f"not so: {what}"
            time.sleep(0.1)

    def says(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        answer = self("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def picture(self, path: Path, size: tuple[int, int] | None = None) -> None:
        """All of the page as a PNG, or so much of it."""
        clip = {"clip": {"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1}} if size else {}
        shot = self("Page.captureScreenshot", captureBeyondViewport=True, format="png", **clip)
        path.write_bytes(base64.b64decode(shot["data"]))

    def close(self) -> None:
        """The end of it."""
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        shutil.rmtree(self.profile, ignore_errors=True)
