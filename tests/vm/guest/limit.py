#!/usr/bin/python3
"""The reference `limit`: not a daemon that anyone would run, but what a simple loop can reach.

SCHED_FIFO, locked, every 5 ms: when MemAvailable is below 10 % of MemTotal (and SwapFree below 10 % of SwapTotal),
or a cgroup of work.slice is at 90 % of its memory.max, it writes cgroup.kill of the offender: the largest cgroup of
work.slice, or the one at its limit.
"""

import contextlib
import gc
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from probelib import CGROUPS, MS, now, protect, put, text_of

ROOT = f"{CGROUPS}/work.slice"
FIELDS = (b"MemTotal:", b"MemAvailable:", b"SwapTotal:", b"SwapFree:")


def meminfo(fd):
    data = os.pread(fd, 8192, 0)
    at = [data.index(key) + len(key) for key in FIELDS]
    return [int(data[i : data.index(b"kB", i)]) for i in at]


class Groups:
    def __init__(self):
        self.known = {}  # name -> (fd of memory.current, limit in bytes or None)

    def rescan(self):
        try:
            names = {entry.name for entry in os.scandir(ROOT) if entry.is_dir()}
        except OSError:
            names = set()
        for name in self.known.keys() - names:
            os.close(self.known.pop(name)[0])
        for name in names - self.known.keys():
            try:
                fd = os.open(f"{ROOT}/{name}/memory.current", os.O_RDONLY)
            except OSError:
                continue
            limit = text_of(f"{ROOT}/{name}/memory.max").strip()
            self.known[name] = fd, int(limit) if limit.isdigit() else None

    def current(self, name):
        try:
            return int(os.pread(self.known[name][0], 64, 0))
        except OSError:
            return 0

    def offender(self, info):
        total, available, swap_total, swap_free = info
        if available * 10 < total and swap_free * 10 <= swap_total:
            self.rescan()
            return max(self.known, key=self.current, default=None), f"MemAvailable {available} of {total} kB"
        for name, (_, limit) in self.known.items():
            if limit and self.current(name) * 10 >= limit * 9:
                return name, f"at its limit {limit}"
        return None, ""


def kill(name, why):
    with contextlib.suppress(OSError):
        put(f"{ROOT}/{name}/cgroup.kill", "1")
    print(f"killed {name}: {why}", flush=True)
    time.sleep(0.2)


def main():
    period = float(sys.argv[1]) if len(sys.argv) > 1 else 5.0
    gc.disable()
    protect(fifo=5, adj=-1000)
    fd = os.open("/proc/meminfo", os.O_RDONLY)
    groups = Groups()
    due, turn = now(), 0
    while True:
        if turn % 20 == 0:
            groups.rescan()
        turn += 1
        name, why = groups.offender(meminfo(fd))
        if name:
            kill(name, why)
        due = max(due + int(period * MS), now() + MS)
        time.sleep(max(0, due - now()) / 1e9)


main()
