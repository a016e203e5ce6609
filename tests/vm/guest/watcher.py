#!/usr/bin/python3
"""The witness. Locked in memory, real-time, never killed.

Every 5 ms it records MemAvailable, SwapFree, MemFree, the totals of memory pressure (some, full) and the target
cgroup's memory.current, until --linger s after the target cgroup has emptied, or until --timeout. Who sent which
signal and who exited when comes from the kernel's own tracepoints, whose clock is CLOCK_MONOTONIC too. When which
incident was written (fsync'ed, then renamed to its name) comes from inotify.

--setup only prepares the tracing. The result is JSON in --out; the file --ready appears when recording has begun.
"""

import argparse
import contextlib
import ctypes
import gc
import json
import os
import re
import struct
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from probelib import CGROUPS, MS, RUN, cgroup_pids, now, protect, put, text_of

TRACE = "/sys/kernel/tracing/instances/probe"
EVENTS = ("signal/signal_generate", "sched/sched_process_exit", "oom/mark_victim")
INCIDENTS = "/var/lib/oomguard/incidents"
IN_MOVED_TO, IN_CREATE = 0x80, 0x100
VMSTAT = (
    "oom_kill",
    "pswpin",
    "pswpout",
    "pgmajfault",
    "workingset_refault_file",
    "workingset_refault_anon",
    "allocstall_normal",
    "allocstall_movable",
    "pgscan_direct",
    "pgsteal_direct",
)
# ` python3-361  [001] d..2.  113.532468: signal_generate: sig=9 errno=0 code=0 comm=hog.py pid=402 grp=1 res=0`
LINE = re.compile(r"^\s*(.+)-(\d+)\s+\[\d+\]\s+\S+\s+([\d.]+): (\w+): (.*)$")
SIGNAL = re.compile(r"sig=(\d+) errno=\S+ code=(-?\d+) comm=(.*) pid=(\d+) grp=(\d)")
EXIT = re.compile(r"comm=(.*) pid=(\d+)")
VICTIM = re.compile(r"pid=(\d+)")


def setup():
    if not os.path.isdir("/sys/kernel/tracing/instances"):
        os.system("mount -t tracefs tracefs /sys/kernel/tracing")
    os.makedirs(TRACE, exist_ok=True)
    put(f"{TRACE}/trace_clock", "mono")
    put(f"{TRACE}/buffer_size_kb", "512")
    put(f"{TRACE}/events/signal/signal_generate/filter", "sig==9 || sig==15")
    for event in EVENTS:
        put(f"{TRACE}/events/{event}/enable", "1")
    put(f"{TRACE}/trace", "")
    put(f"{TRACE}/tracing_on", "1")


def traced():
    """The signals, exits and OOM victims since the trace was cleared, as rows for JSON."""
    signals, exits, victims = [], [], []
    for line in text_of(f"{TRACE}/trace").splitlines():
        match = LINE.match(line)
        if not match:
            continue
        comm, pid, stamp, event, rest = match.groups()
        at = round(float(stamp) * 1e9)
        if event == "signal_generate":
            found = SIGNAL.search(rest)
            to = {"to_comm": found[3], "to_pid": int(found[4])}
            by = {"by_comm": comm.strip(), "by_pid": int(pid)}
            signals.append({"at": at, "signal": int(found[1]), "code": int(found[2])} | by | to)
        elif event == "sched_process_exit":
            found = EXIT.search(rest)
            exits.append({"at": at, "comm": found[1], "pid": int(found[2])})
        elif event == "mark_victim":
            victims.append({"at": at, "pid": int(VICTIM.search(rest)[1]), "text": rest})
    return {"signals": signals, "exits": exits, "oom_victims": victims}


def vmstat():
    counters = dict(line.split() for line in text_of("/proc/vmstat").splitlines())
    return {key: int(counters[key]) for key in VMSTAT if key in counters}


class Target:
    """The cgroup under attack: it appears, is populated, and empties."""

    def __init__(self, path):
        self.path = path
        self.current = self.events = -1
        self.seen = False
        self.emptied_at = 0

    def sample(self):
        if self.current < 0 and not self._open():
            return 0
        try:
            used = int(os.pread(self.current, 64, 0))
            populated = b"populated 1" in os.pread(self.events, 128, 0)
        except OSError:  # the cgroup is gone
            used, populated = 0, False
        self.seen |= populated
        if self.seen and not populated and not self.emptied_at:
            self.emptied_at = now()
        return used

    def _open(self):
        try:
            self.current = os.open(f"{self.path}/memory.current", os.O_RDONLY)
            self.events = os.open(f"{self.path}/cgroup.events", os.O_RDONLY)
        except OSError:
            return False
        return True


class Senses:
    FIELDS = (b"MemAvailable:", b"SwapFree:", b"MemFree:")

    def __init__(self):
        self.meminfo = os.open("/proc/meminfo", os.O_RDONLY)
        self.pressure = os.open("/proc/pressure/memory", os.O_RDONLY)
        self.total_kb = int(os.pread(self.meminfo, 256, 0).split()[1])

    def sample(self):
        info, stall = os.pread(self.meminfo, 8192, 0), os.pread(self.pressure, 512, 0)
        at = [info.index(key) + len(key) for key in self.FIELDS]
        kb = [int(info[i : info.index(b"kB", i)]) for i in at]
        i = stall.index(b"total=") + 6
        some, full = int(stall[i : stall.index(b"\n", i)]), int(stall[stall.rindex(b"total=") + 6 :])
        return (*kb, some, full)


class Shelf:
    """When which incident.json was put into its place: rows of time and directory."""

    def __init__(self):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self.libc.inotify_init1(os.O_NONBLOCK)
        self.watched = {}
        self.rows = []
        if os.path.isdir(INCIDENTS):
            self._watch(INCIDENTS, IN_CREATE)
            for name in os.listdir(INCIDENTS):
                self._watch(f"{INCIDENTS}/{name}", IN_MOVED_TO)

    def sample(self, at):
        if not self.watched:
            return
        with contextlib.suppress(BlockingIOError):
            events = os.read(self.fd, 4096)
            while events:
                watch, mask, _, length = struct.unpack_from("iIII", events)
                name = events[16 : 16 + length].rstrip(b"\0").decode()
                if mask & IN_CREATE:
                    self._watch(f"{INCIDENTS}/{name}", IN_MOVED_TO)
                elif name == "incident.json":
                    self.rows.append((at, self.watched[watch]))
                events = events[16 + length :]

    def _watch(self, path, mask):
        watch = self.libc.inotify_add_watch(self.fd, path.encode(), mask)
        if watch >= 0:
            self.watched[watch] = os.path.basename(path)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--setup", action="store_true")
    parser.add_argument("--cgroup", default="work.slice/hog.service")
    parser.add_argument("--out", default=f"{RUN}/watch.json")
    parser.add_argument("--ready", default=f"{RUN}/ready")
    parser.add_argument("--period", type=float, default=5, help="ms")
    parser.add_argument("--timeout", type=float, default=60, help="seconds")
    parser.add_argument("--linger", type=float, default=1, help="seconds")
    parser.add_argument("--track", action="store_true", help="list the pids per cgroup twice a second (many processes)")
    return parser.parse_args()


def watch(args, target):
    """5 ms rows until the target has emptied, and the pids that were seen per cgroup of work.slice."""
    senses, shelf = Senses(), Shelf()
    rows, members = [], {}
    period, late = int(args.period * MS), 0
    started = due = track_at = now()
    put(args.ready, "1")
    while True:
        at = now()
        late = max(late, at - due)
        rows.append((at, *senses.sample(), target.sample()))
        shelf.sample(at)
        if (args.track and at >= track_at) or (target.seen and not members):
            for cgroup, pids in cgroup_pids(f"{CGROUPS}/work.slice").items():
                members.setdefault(cgroup, set()).update(pids)
            track_at = at + 500 * MS
        if at > started + args.timeout * 1e9 or (target.emptied_at and at > target.emptied_at + args.linger * 1e9):
            break
        due = max(due + period, now() + MS)
        time.sleep(max(0, due - now()) / 1e9)
    recorded = {
        "rows": rows,
        "incident_writes": shelf.rows,
        "members": {cgroup: sorted(pids) for cgroup, pids in members.items()},
    }
    return recorded | {"mem_total_kb": senses.total_kb, "late_max_ms": late / MS}


def main():
    args = arguments()
    os.makedirs(RUN, exist_ok=True)
    if args.setup:
        setup()
        return
    gc.disable()
    protect(fifo=10, adj=-1000)
    put(f"{TRACE}/trace", "")
    target = Target(f"{CGROUPS}/{args.cgroup}")
    before, processes = vmstat(), cgroup_pids()
    # work.slice's events include those of its children, also of those that are gone by the end.
    events = text_of(f"{CGROUPS}/work.slice/memory.events")
    record = watch(args, target)
    after = vmstat()
    record |= traced() | {
        "emptied_at": target.emptied_at,
        "ended_at": now(),
        "events_before": events,
        "events_after": text_of(f"{CGROUPS}/work.slice/memory.events"),
        "vmstat": {key: after[key] - before[key] for key in before},
        "processes_before": processes,
        "processes_after": cgroup_pids(),
    }
    with open(f"{args.out}.tmp", "w") as file:
        json.dump(record, file, separators=(",", ":"))
    os.rename(f"{args.out}.tmp", args.out)


main()
