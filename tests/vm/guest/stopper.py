#!/usr/bin/python3
"""Stops the daemon in the middle of a storm, and lets it go on when --cgroup has emptied, or after --seconds.

Waits until a process of --cgroup is insured (oom_score_adj 1000), which is when the daemon is armed and has handed its
nominee to the reaper; then SIGSTOP to the core, with --reaper to the reaper first. Leaves (when it stopped, when it
went on; CLOCK_MONOTONIC) in --out.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from probelib import CGROUPS, RUN, now, protect, put, text_of


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cgroup", required=True)
    parser.add_argument("--reaper", action="store_true")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--timeout", type=float, default=60)
    parser.add_argument("--out", default=f"{RUN}/stopper.json")
    return parser.parse_args()


def inside(cgroup):
    return text_of(f"{CGROUPS}/{cgroup}/cgroup.procs").split()


def insured(cgroup):
    return any(text_of(f"/proc/{pid}/oom_score_adj") == "1000\n" for pid in inside(cgroup))


def main():
    args = arguments()
    core = subprocess.check_output(["systemctl", "show", "-P", "MainPID", "oomguard.service"], text=True).strip()
    workers = text_of(f"/proc/{core}/task/{core}/children").split()
    reaper = [pid for pid in workers if text_of(f"/proc/{pid}/comm") == "oomguard-reaper\n"]
    pids = [int(pid) for pid in ((*reaper, core) if args.reaper else (core,))]
    protect(fifo=40, adj=-1000)
    end = time.monotonic() + args.timeout
    while not insured(args.cgroup):
        if time.monotonic() > end:
            sys.exit("nobody was ever insured")
        time.sleep(0.005)
    stopped = now()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    end = time.monotonic() + args.seconds
    while inside(args.cgroup) and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(0.5)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    put(args.out, json.dumps([stopped, now()]))


main()
