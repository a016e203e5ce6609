"""The picture in docs/operating.md: ``python -m tests.cli.picture docs/pictures/top.svg``, as root.

A real daemon and real leaks, in cgroups of their own with limits, 256 MiB each: one is killed, one stops between its
watermarks, one goes on growing slowly. In a cgroup namespace, so that nobody else is in the picture; all of it is gone
afterwards.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

MIB = 1 << 20
LIMIT = 256 * MIB
HOME = "/services"
POLICY = """
[daemon]
state_dir = "{place}/state"
runtime_dir = "{place}/run"
[policy.host]
cgroup = "/"
soft = {{ when = [{{ available_below = ["12%", "6GiB"] }}], do = ["snapshot", "nominate"] }}
hard = {{ when = [{{ available_below = ["5%", "2GiB"] }}], do = ["kill"] }}
[policy.web]
cgroup = "/services/web-*.service"
soft = {{ when = [{{ memory_above = "80%" }}], do = ["snapshot", "nominate"] }}
hard = {{ when = [{{ memory_above = "90%" }}], do = ["kill"] }}
[policy.database]
cgroup = "/services/database.service"
mode = "observe"
soft = {{ when = [{{ memory_above = "70%" }}], do = ["snapshot"] }}
hard = {{ when = [{{ memory_above = "95%" }}, {{ growth_above = "50MiB/s" }}], do = ["kill"] }}
"""
HOG = """
import sys, time
mib, rate = float(sys.argv[1]), float(sys.argv[2])
held = []
while True:
    if len(held) < mib:
        held.append(bytearray(b"x") * (1 << 20))
    time.sleep(1 / rate)
"""


def hierarchy() -> Path:
    """Where the memory controller is: v2, or v1."""
    unified = Path("/sys/fs/cgroup")
    return unified if (unified / "cgroup.controllers").exists() else unified / "memory"


@contextlib.contextmanager
def service(name: str, comm: str, mib: int, rate: int) -> Iterator[None]:
    """So many MiB, so many a second, in a cgroup of its own."""
    directory = hierarchy() / HOME.strip("/") / f"{name}.service"
    directory.mkdir(parents=True)
    limit = directory / "memory.max"
    (limit if limit.exists() else directory / "memory.limit_in_bytes").write_text(str(LIMIT))
    with tempfile.TemporaryDirectory() as place:
        program = Path(place, comm)
        program.symlink_to(os.path.realpath(sys.executable))
        process = subprocess.Popen([program, "-S", "-c", HOG, str(mib), str(rate)])
        (directory / "cgroup.procs").write_text(str(process.pid))
        try:
            yield
        finally:
            process.kill()
            process.wait()
            until(lambda: not (directory / "cgroup.procs").read_text())
            directory.rmdir()


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.1)


def oomguard(*words: object, **env: str) -> str:
    command = [sys.executable, "-m", "oomguard", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | env)
    return done.stdout


def told(*where: object) -> str:
    """A frame, as one text to look into."""
    return json.dumps(json.loads(oomguard("top", "--once", "--json", *where)))


def inside(picture: str) -> None:
    """Where there is nothing but what is made here."""
    (hierarchy() / HOME.strip("/")).mkdir()
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as stack:
        stack.callback((hierarchy() / HOME.strip("/")).rmdir)
        config = Path(place, "oomguard.toml")
        config.write_text(POLICY.format(place=place))
        where = "--runtime-dir", f"{place}/run"
        stack.enter_context(service("database", "postgres", 150, 4))
        stack.enter_context(service("web-1", "gunicorn", 90, 60))
        command = [sys.executable, "-m", "oomguard", "run", "--config", str(config)]
        daemon = stack.enter_context(subprocess.Popen(command, stderr=subprocess.DEVNULL))
        stack.callback(daemon.terminate)
        until(lambda: '"armed": true' in told(*where))
        with service("web-2", "gunicorn", 400, 60):
            until(lambda: '"KILLED"' in told(*where))
        stack.enter_context(service("web-3", "gunicorn", 212, 30))
        until(lambda: '"what": "gunicorn"' in told(*where))
        time.sleep(8)  # until something can be told of growth
        oomguard("top", "--svg", picture, *where, COLUMNS="100", LINES="24")
        print(oomguard("top", "--once", *where, COLUMNS="110"))
        print(oomguard("status", "--config", config))


def main(picture: str, *inner: str) -> int:
    if inner:
        inside(picture)
        return 0
    own = hierarchy() / f"picture-{os.getpid()}"
    own.mkdir()
    kind = "-t cgroup2" if hierarchy().name == "cgroup" else "-t cgroup -o memory"
    mount = f"umount {hierarchy()} && mount {kind} none {hierarchy()}"
    script = f'echo $$ > {own}/cgroup.procs && exec unshare --mount --cgroup sh -c \'{mount} && exec "$@"\' sh "$@"'
    words = [sys.executable, "-m", "tests.cli.picture", picture, "inside"]
    code = subprocess.run(["sh", "-c", script, "sh", *words], check=False).returncode
    own.rmdir()
    return code


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
