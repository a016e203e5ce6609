"""`make bench`: the same storms over every peer and the bare kernel, and docs/benchmarks.md written from them.

    python -m tests.vm.bench [--storms leak-flat,limited-50] [--peers none,earlyoom] [--repeats 3] [--report]

The machine's time is counted in instructions (qemu.COUNTED): its figures do not depend on what else the host does.
Every run is kept in docs/benchmarks/<storm>.json, and an interrupted bench goes on where it was; --fresh begins anew.
All of it takes five hours; several may run side by side, each with storms of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Iterable
from typing import Any

from . import bench_report as tell
from . import peers
from .campaign import commit, utc
from .machine import PYTHON, ROOT, Machine, tree, tree_key
from .qemu import GuestError, StoodStill
from .storms import CGROUPS, CGROUPS_GUARD, STORMS, UNIT, Service, add_policy, journal, run_storm

RAW = ROOT / "docs" / "benchmarks"
IDLE_SECONDS = 60
IDLE = {"idle": "1G", "idle-40G": "40G", "idle-cgroups": "2G"}  # and the memory of the machine
NEIGHBOURS = "neighbours"
NEIGHBOURS_SECONDS = 15
ALL = (*peers.NAMES,)
SOME = ("limit", "earlyoom", "oomguard")
OF_CGROUPS = ("systemd_oomd", "oomd", "oomguard")
# What is measured, and over whom: not everybody claims to do everything.
MEASURED: dict[str, tuple[str, ...]] = {
    "leak-flat": ALL,
    "limited-50": ALL,
    "workers": ALL,
    "leak-zram": ALL,
    "leak-swapfile": ALL,
    "processes-50": SOME,
    "processes-5000": SOME,
    "cgroups": ("limit", *OF_CGROUPS),
    NEIGHBOURS: ("none", "earlyoom", *OF_CGROUPS),
    "idle": tuple(name for name in ALL if name != "none"),
    "idle-40G": ("earlyoom", *OF_CGROUPS),
    "idle-cgroups": OF_CGROUPS,
}

# Neighbours that are at their limits all day, of page cache.
HEALTHY = (
    Service("reader", "reader.py --seconds 600", ("MemoryMax=128M",)),
    Service("database", "neighbours.py database", ("MemoryMax=128M",)),
    Service("build", "neighbours.py build", ("MemoryMax=128M",)),
)
NEIGHBOURS_GUARD = """\
[policy.healthy]
cgroup = "/work.slice/*.service"
tripwire = true
[policy.healthy.soft]
when = [{ memory_above = "80%" }]
do = ["snapshot", "notify", "nominate"]
[policy.healthy.hard]
when = [{ memory_above = "90%" }]
do = ["kill"]
"""

Run = dict[str, Any]

# -- running


def storm(peer: peers.Peer, name: str) -> Run:
    with Machine(STORMS[name].memory, installed=peer.installed, counted=True) as vm:
        bring_up(vm, peer)
        return dataclasses.asdict(run_storm(vm, STORMS[name], peer.unit, peer.acts_at))


def idle(peer: peers.Peer, name: str) -> Run:
    """What a minute of nothing costs."""
    crowded = name == "idle-cgroups"
    with Machine(IDLE[name], installed=peer.installed, counted=True) as vm:
        bring_up(vm, peer)
        if crowded:
            if peer.unit == UNIT:
                add_policy(vm, "thousand", CGROUPS_GUARD)
            CGROUPS.start(vm)
            if not vm.wait_for("test -e /run/probe/cgroups.ready", 240, every=1):
                raise GuestError("the cgroups are not there")
            vm.pause(15)
        vm.pause(3)
        cost: Run = json.loads(vm.check(f"{PYTHON}idle.py {peer.cgroup} {IDLE_SECONDS}", timeout=IDLE_SECONDS + 60))
        return cost | {"journal": journal(vm, peer.unit or "", 20)}


def neighbours(peer: peers.Peer) -> Run:
    """What a reader, a database and a build get done beside that daemon, and what it costs meanwhile."""
    with Machine(installed=peer.installed, counted=True) as vm:
        bring_up(vm, peer)
        if peer.unit == UNIT:
            add_policy(vm, "limited", NEIGHBOURS_GUARD)
        for service in HEALTHY:
            service.start(vm)
        vm.pause(5)  # until they are at their limits
        before, after = (json.loads(part) for part in vm.check(counted_twice(peer), timeout=300).splitlines())
        read = [json.loads(line)["mb_per_s"] for line in vm.get("/run/probe/reader.jsonl").decode().splitlines()]
        cost: Run = {"reader_mb_s": statistics.median(read)}
        for kind in ("database", "build"):
            (done, at), (done_after, at_after) = before[kind], after[kind]
            cost[f"{kind}_per_s"] = (done_after - done) / (at_after - at) * 1e9
        cost["events_per_s"] = (after["events"] - before["events"]) / NEIGHBOURS_SECONDS
        cost["cpu_percent"] = (after["cpu_us"] - before["cpu_us"]) / NEIGHBOURS_SECONDS / 1e4
        cost["alive"] = sum(vm.run(f"systemctl is-active -q {service.name}").rc == 0 for service in HEALTHY)
        return cost


def counted_twice(peer: peers.Peer) -> str:
    command = f"/usr/bin/python3 -I -S -c '{COUNTS}' {peer.cgroup or ''}"
    return f"{command}; sleep {NEIGHBOURS_SECONDS}; {command}"


COUNTS = """
import json, sys
root = "/sys/fs/cgroup"
def cells(path):
    return [line.split() for line in open(path)]
def counter(path, key):
    return next(int(line[1]) for line in cells(path) if line[0] == key)
def count(kind):
    return [int(word) for word in open(f"/run/probe/{kind}.count").read().split()]
found = {kind: count(kind) for kind in ("database", "build")}
found["events"] = sum(int(line[1]) for line in cells(f"{root}/work.slice/memory.events"))
found["cpu_us"] = counter(f"{root}/{sys.argv[1]}/cpu.stat", "usage_usec") if len(sys.argv) > 1 else 0
print(json.dumps(found))
"""


def bring_up(vm: Machine, peer: peers.Peer) -> None:
    peer.setup(vm)
    peer.start(vm)
    if peer.unit:
        vm.pause(peer.settle_s)


def measure(name: str, peer_name: str, key: str) -> Run:
    """A run; another one where the machine itself broke down."""
    started = time.monotonic()
    record: Run = {"storm": name, "peer": peer_name, "at": utc()}
    if peer_name == "oomguard":
        record |= {"tree": key, "commit": commit()}
    try:
        peer = peers.load(peer_name)
        if name in IDLE:
            record["result"] = idle(peer, name)
        else:
            record["result"] = neighbours(peer) if name == NEIGHBOURS else storm(peer, name)
    except StoodStill:
        print(f"# {name} {peer_name}: the machine stood still; once more", flush=True)
        return measure(name, peer_name, key)
    except (GuestError, OSError, ValueError, KeyError) as error:
        record["error"] = f"{type(error).__name__}: {error}"[:1000]
    return record | {"wall_s": round(time.monotonic() - started, 1)}


def load(name: str) -> list[Run]:
    path = RAW / f"{name}.json"
    return list(json.loads(path.read_text())) if path.exists() else []


def save(name: str, runs: list[Run]) -> None:
    RAW.mkdir(parents=True, exist_ok=True)
    fresh = RAW / f".{name}.json"
    fresh.write_text("[\n" + ",\n".join(json.dumps(run, separators=(",", ":")) for run in runs) + "\n]\n")
    fresh.rename(RAW / f"{name}.json")


def counted(runs: Iterable[Run], peer: str, key: str) -> int:
    """Of oomguard, only the runs of this state of the project."""
    return sum(run["peer"] == peer and "error" not in run and run.get("tree", key) == key for run in runs)


def run_all(storms: list[str], names: list[str], repeats: int) -> None:
    key = tree_key(tree())
    for name in storms:
        for repeat in range(repeats):
            for peer in (peer for peer in names if peer in MEASURED[name]):
                runs = load(name)
                if counted(runs, peer, key) > repeat:
                    continue
                stale = peer == "oomguard"
                kept = [run for run in runs if not (stale and run["peer"] == peer and run.get("tree") != key)]
                record = measure(name, peer, key)
                save(name, [*kept, record])
                print(f"{name} {peer} {repeat + 1}/{repeats} {record['wall_s']} s {brief(record)}", flush=True)


def brief(record: Run) -> str:
    result = record.get("result", {})
    keys = (
        "killed_by",
        "signal_after_line_ms",
        "signal_after_own_ms",
        "snapshot_after_ms",
        "written_after_ms",
        "faults",
        "canary_max_gap_ms",
        "kernel_oom_kills",
        "innocents",
        "cpu_ns",
        "voluntary",
        "pss_kb",
        "reader_mb_s",
        "database_per_s",
        "build_per_s",
        "events_per_s",
        "cpu_percent",
        "alive",
    )
    return record.get("error") or " ".join(f"{key}={result[key]}" for key in keys if key in result)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--storms", default=",".join(MEASURED), help="names, with commas")
    parser.add_argument("--peers", default=",".join(peers.NAMES), help="names, with commas")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--fresh", action="store_true", help="forget what was measured before")
    parser.add_argument("--report", action="store_true", help="run nothing, only write docs/benchmarks.md")
    args = parser.parse_args()
    storms = args.storms.split(",")
    if args.fresh:
        for name in storms:
            (RAW / f"{name}.json").unlink(missing_ok=True)
    if not args.report:
        run_all(storms, args.peers.split(","), args.repeats)
    written = tell.write({name: load(name) for name in MEASURED})
    print(f"written: {', '.join(str(path.relative_to(ROOT)) for path in written)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
