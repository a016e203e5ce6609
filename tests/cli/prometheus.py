"""Prometheus itself, where this machine has it: on PATH, or where tools/prepare.sh has unpacked it."""

import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNPACKED = ROOT / ".venv/prometheus/usr/bin"
TIMEOUT_S = 60


def found(name: str) -> str | None:
    """Path of ``prometheus`` or ``promtool``."""
    return shutil.which(name) or shutil.which(name, path=str(UNPACKED))


needs_it = pytest.mark.skipif(
    found("promtool") is None or found("prometheus") is None,
    reason="prometheus is neither installed nor unpacked (tools/prepare.sh vm)",
)


def promtool(*words: str | Path, said: bytes = b"") -> tuple[int, str]:
    """(exit code, all that it said)."""
    done = subprocess.run(
        [found("promtool") or "promtool", *map(str, words)], input=said, capture_output=True, check=False
    )
    return done.returncode, (done.stdout + done.stderr).decode()


class Server:
    """One that scrapes a target every half second, until it is let go."""

    def __init__(self, where: Path, target: str, rules: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        config = {
            "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
            "rule_files": [str(rules)],
            "scrape_configs": [{"job_name": "oomguard", "static_configs": [{"targets": [target]}]}],
        }
        (where / "prometheus.yml").write_text(json.dumps(config))
        self.base = f"http://127.0.0.1:{port}/api/v1"
        self.process = subprocess.Popen(
            [
                *(found("prometheus") or "prometheus", f"--config.file={where}/prometheus.yml"),
                *(f"--storage.tsdb.path={where}/data", f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def ask(self, path: str, **arguments: str) -> Any:
        """The data of an answer. ValueError: it is an error, with Prometheus's words."""
        try:
            with urllib.request.urlopen(f"{self.base}/{path}?{urllib.parse.urlencode(arguments)}") as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            if error.code == 503:
                raise ConnectionError("it is still starting") from None
            raise ValueError(error.read().decode()) from None

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Samples of this moment."""
        found: list[dict[str, Any]] = self.ask("query", query=expression)["result"]
        return found

    def wait_for(self, expression: str) -> list[dict[str, Any]]:
        """The samples, as soon as there are any."""
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                if samples := self.query(expression):
                    return samples
            time.sleep(0.1)
        self.process.kill()
        raise AssertionError(f"no {expression}: {self.process.stderr.read().decode() if self.process.stderr else ''}")


@contextlib.contextmanager
def serving(where: Path, target: str, rules: Path) -> Iterator[Server]:
    """A server for as long as the block."""
    server = Server(where, target, rules)
    try:
        yield server
    finally:
        server.process.terminate()
        server.process.wait(TIMEOUT_S)
        if server.process.stderr:
            server.process.stderr.close()
