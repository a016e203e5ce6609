"""``oomguard record``: keep everything that the running daemon sees for some time. It notices nothing of that.

The flight recorder is shared memory of the core; one more reader of it costs nobody anything. Only root may read it.
"""

import mmap
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from .. import __version__
from ..model import codec, kept
from ..model.policy import Plan
from ..model.ring import Ring
from ..policy import files, units
from . import live, say
from .incidents import measured, needs

_EVERY_S: Final = 0.25  # a storm fills a ring of 1 MiB in seconds
_HEADER: Final = 4096
_SHARED: Final = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) rw-s \S+ \S+ \d+\s+/dev/zero \(deleted\)$", re.MULTILINE)

Runtime = live.Runtime
Config = Annotated[
    Path, typer.Option("--config", metavar="FILE", help="The policy file that says where it runs.", readable=False)
]


def record(
    lasting: Annotated[str, typer.Option("--for", metavar="TIME", help="How long: 10m, 1h, 24h.")] = "1h",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Where to (default: oomguard-TIME.zst here).", readable=False
        ),
    ] = None,
    most: Annotated[str, typer.Option("--max-bytes", metavar="SIZE", help="Stop when it is as large.")] = "256MiB",
    runtime_dir: Runtime = None,
    config: Config = files.DEFAULT,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Record what the daemon sees, to try policies on (incidents replay FILE --policy ...). Ctrl-C ends it well."""
    seconds = measured(units.duration, "--for", lasting) / 1e9
    most_bytes = measured(units.size, "--max-bytes", most)
    needs("backports.zstd")
    from ..report import recording

    directory = live.runtime_dir(runtime_dir, config)
    try:
        pid = live.page(directory).numbers.pid
    except live.NotRunning as error:
        say.fail(say.FOUND, error.whole())
    plan = _plan(directory)
    ring = _ring(pid, plan)
    path = output or Path(time.strftime("oomguard-%Y%m%dT%H%M%SZ.zst", time.gmtime()))
    try:
        writer = recording.Writer(path, _head(pid, plan), most_bytes)
    except FileExistsError:
        say.fail(say.FOUND, f"{path} exists already; name another with -o")
    why = "its time was over"
    try:
        for plain in _followed(ring, pid, seconds, writer):
            writer.turn(plain)
            if writer.full:
                why = f"it had {most}"
                break
    except KeyboardInterrupt:
        why = "it was interrupted"
    writer.close()
    told = {"file": str(path), "bytes": path.stat().st_size, "turns": writer.turns, "gaps": writer.gaps, "ended": why}
    if json:
        say.as_json(told)
    else:
        say.line(f"{path}: {writer.turns} turns, {told['bytes']} bytes; {why}")


def _followed(ring: Ring, pid: int, seconds: float, writer: Any) -> Iterator[dict[str, Any]]:
    """Turn by turn, what is in the ring already first, until the time is over or the daemon has ended."""
    position, end = ring.oldest(), time.monotonic() + seconds
    while True:
        payloads, position, lost = ring.read(position)
        writer.gaps += lost
        for payload in payloads:
            try:
                plain = codec.unpack(payload)
            except (ValueError, EOFError, TypeError, IndexError):
                say.fail(say.FOUND, "the daemon runs under another Python than this command, or is another version")
            if plain["kind"] == "Turn":
                yield plain
        if payloads:
            continue
        if time.monotonic() >= end or not os.path.exists(f"/proc/{pid}"):
            return
        time.sleep(min(_EVERY_S, max(0.0, end - time.monotonic())))


def _plan(directory: Path) -> Plan:
    import json

    path = directory / kept.NAME
    try:
        plan = codec.from_plain(json.loads(kept.unwrapped(path.read_bytes())[1]))
    except ValueError as error:
        say.fail(say.FOUND, f"{path}: {error}")
    if not isinstance(plan, Plan) or plan.version != __version__:
        say.fail(say.FOUND, f"the daemon is not of version {__version__}: restart it, or use its own command")
    return plan


def _ring(pid: int, plan: Plan) -> Ring:
    """The core's ring, by its size among the memory that it shares."""
    wanted = -(-plan.daemon.ring_bytes // mmap.PAGESIZE) * mmap.PAGESIZE + _HEADER
    with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as file:
        maps = file.read()
    places = [(begin, end) for begin, end in _SHARED.findall(maps) if int(end, 16) - int(begin, 16) == wanted]
    if not places:
        say.fail(say.FOUND, f"process {pid} has no flight recorder of {plan.daemon.ring_bytes} bytes")
    fd = os.open(f"/proc/{pid}/map_files/{places[0][0]}-{places[0][1]}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return Ring(mmap.mmap(fd, wanted, mmap.MAP_SHARED, mmap.PROT_READ))
    finally:
        os.close(fd)


def _head(pid: int, plan: Plan) -> dict[str, Any]:
    uname = os.uname()
    now = time.time()
    return {
        "id": time.strftime("%Y%m%dT%H%M%SZ-recording", time.gmtime(now)),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)),
        "boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
        "version": plan.version,
        "hostname": uname.nodename,
        "kernel": uname.release,
        "guards": codec.to_plain(plan.guards),
        "ours": [pid, *_children(pid)],
        "own_cgroup": _cgroup(pid),
    }


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _cgroup(pid: int) -> str:
    """Its place in cgroup v2; empty where it lives with others."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    path = next((line[3:] for line in lines if line.startswith("0::")), "")
    return path if path.endswith(".service") else ""
