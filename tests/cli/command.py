"""The command as a black box: a process with arguments, an exit code and two streams."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HOST = """
[policy.host]
cgroup = "/"
soft = { when = [{ available_below = "12%" }], do = ["snapshot"] }
hard = { when = [{ available_below = "5%" }], do = ["kill"] }
victim = { never = [{ comm = "sshd*" }] }
"""
TIMEOUT_S = 60  # generous: two processors, shared


class Answer:
    """What a command said, and how it ended. There is never a traceback."""

    def __init__(self, done: subprocess.CompletedProcess[bytes]) -> None:
        self.code = done.returncode
        self.out = done.stdout.decode("utf-8", "backslashreplace")
        self.err = done.stderr.decode("utf-8", "backslashreplace")
        assert "Traceback" not in self.err, self.err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def oomguard(*words: str | Path, env: dict[str, str] | None = None, **how: Any) -> Answer:
    """Run the command. ``env`` is on top of this process's own."""
    done = subprocess.run(
        [sys.executable, "-m", "oomguard", *map(os.fspath, words)],
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
        env={**os.environ, **(env or {})},
        **how,
    )
    return Answer(done)
