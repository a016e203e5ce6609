"""State directories on disks as they are on bad days, and what these cost a kill: nothing, by promise.

    python -m tests.core.disks [KILLS]       # root; the table of docs/incidents.md, some two minutes

Each kind has a daemon of its own, on made-up memory and a real process; they take turns, so that whatever else the
computer does meets all of them alike.
"""

from __future__ import annotations

import contextlib
import os
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from .world import HOST, MIB, PATIENCE_S, Daemon, World, policy, until

BOX = 8 * MIB  # the black box; it is there before the disk gets worse


@contextlib.contextmanager
def disk(place: Path, kind: str = "tmpfs", size: str = "48m") -> Iterator[None]:
    """A file system of its own: in memory (``ro``: for reading only), or (``ext4``) in a file, by a loop device.

    Raises OSError where that is not allowed.
    """
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}{',ro' if kind == 'ro' else ''}", "none", str(place)]
    if kind == "ext4":
        image = place.with_suffix(".img")
        run("truncate", "-s", size, str(image))
        run("mkfs.ext4", "-q", "-F", str(image))
        command = ["mount", "-o", "loop", str(image), str(place)]
    run(*command)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # it has vanished
            run("umount", "-l", str(place))


def run(*command: str) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, text=True)
    if done.returncode:
        raise OSError(done.returncode, f"{command[0]}: {done.stdout.strip()}")


@contextlib.contextmanager
def frozen(place: Path) -> Iterator[None]:
    """Whoever writes there waits, and no signal wakes him."""
    run("fsfreeze", "-f", str(place))
    try:
        yield
    finally:
        run("fsfreeze", "-u", str(place))


# -- what a kill takes


@contextlib.contextmanager
def full(place: Path) -> Iterator[None]:
    with contextlib.suppress(OSError), (place / "filler").open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    yield


@contextlib.contextmanager
def vanished(place: Path) -> Iterator[None]:
    run("umount", "-l", str(place))
    place.rmdir()
    yield


BAD_DAYS: dict[str, tuple[str, Callable[[Path], contextlib.AbstractContextManager[None]]]] = {
    "a disk in memory": ("tmpfs", lambda _: contextlib.nullcontext()),
    "ext4": ("ext4", lambda _: contextlib.nullcontext()),
    "full": ("tmpfs", full),
    "read-only": ("ro", lambda _: contextlib.nullcontext()),  # from the start: nobody may take it from who has it open
    "vanished": ("tmpfs", vanished),
    "hanging (frozen ext4)": ("ext4", frozen),
}


def hog(mib: int) -> subprocess.Popen[bytes]:
    text = f"import os, time\nheld = b'x' * ({mib} << 20)\nos.write(1, b'r')\ntime.sleep(999)\n"
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", text], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert os.read(process.stdout.fileno(), 1) == b"r"
    return process


def kill_ms(world: World, guarding: Daemon) -> float:
    """From the moment at which memory is gone to the victim's end."""
    with hog(30) as victim:
        world.see(victim.pid)
        pidfd = os.pidfd_open(victim.pid)
        try:
            world.available(200)
            guarding.phase("armed")
            began = time.monotonic()
            world.available(50)
            assert select.select([pidfd], [], [], PATIENCE_S)[0], "it was not ended"
            took = (time.monotonic() - began) * 1000
        finally:
            os.close(pidfd)
            victim.kill()
    world.available(900)
    guarding.phase("calm")
    (world.proc / str(victim.pid)).unlink()
    return took


def main() -> int:
    kills = int(sys.argv[1]) if sys.argv[1:] else 20
    took: dict[str, list[float]] = {name: [] for name in BAD_DAYS}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory, contextlib.ExitStack() as stack:
        daemons: dict[str, tuple[World, Daemon]] = {}
        for number, (name, (kind, _)) in enumerate(BAD_DAYS.items()):
            (Path(directory) / str(number)).mkdir()
            world = World(Path(directory) / str(number))
            stack.enter_context(disk(world.root / "state", kind))
            guarding = Daemon.start(world, policy(HOST, world))
            stack.callback(guarding.close)
            guarding.hear("READY=1")
            box = world.root / "state" / "blackbox"
            if kind != "ro":
                until(lambda box=box: box.exists() and box.stat().st_size == BOX, "there is no black box")
            daemons[name] = world, guarding
        for name, (_, worse) in BAD_DAYS.items():
            stack.enter_context(worse(daemons[name][0].root / "state"))
        for _ in range(kills):
            for name, (world, guarding) in daemons.items():
                took[name].append(kill_ms(world, guarding))
    print("| state directory | kills | median ms | 90 % within | longest |\n|---|---|---|---|---|")
    for name, values in took.items():
        ninth = statistics.quantiles(values, n=10)[8]
        print(f"| {name} | {len(values)} | {statistics.median(values):.1f} | {ninth:.1f} | {max(values):.1f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
