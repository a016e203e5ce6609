#!/usr/bin/python3
"""Makes N cgroups below work.slice, each with a limit of 64 MiB and one process that sleeps: cgroups.py N."""

import os
import signal
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from probelib import CGROUPS, RUN, put

ROOT = f"{CGROUPS}/work.slice"


def main():
    for number in range(int(sys.argv[1])):
        path = f"{ROOT}/idle-{number}"
        os.mkdir(path)
        put(f"{path}/memory.max", str(64 << 20))
        pid = os.posix_spawn("/usr/bin/sleep", ["sleep", "infinity"], os.environ)
        put(f"{path}/cgroup.procs", str(pid))
    put(f"{RUN}/cgroups.ready", "1")
    signal.pause()


main()
