#!/usr/bin/python3
"""A bystander: every 10 ms it wakes, touches a slice of a file-backed and of an anonymous working set (all of
both every --cycle ticks), and logs (start, end) of the tick. What it suffers, a user at the machine would."""

import argparse
import mmap
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from probelib import MIB, MS, PAGE, RUN, Ring, anonymous, now


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", default="/var/tmp/canary.dat")
    parser.add_argument("--mb", type=int, default=20, help="of each working set")
    parser.add_argument("--period", type=float, default=10, help="ms")
    parser.add_argument("--cycle", type=int, default=8, help="ticks in which everything is touched once")
    parser.add_argument("--log", default=f"{RUN}/canary.ring")
    parser.add_argument("--seconds", type=float, default=300)
    return parser.parse_args()


def file_pages(path, size):
    if not os.path.exists(path) or os.path.getsize(path) != size:
        with open(path, "wb") as file:
            file.write(os.urandom(MIB) * (size // MIB))
            file.flush()
            os.fsync(file.fileno())
    fd = os.open(path, os.O_RDONLY)
    pages = memoryview(mmap.mmap(fd, size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ))
    pages[::PAGE].tobytes()
    return pages


def own_pages(size):
    memory = anonymous(size)
    for offset in range(0, size, MIB):
        memory[offset : offset + MIB] = os.urandom(MIB)
    return memoryview(memory)


def main():
    args = arguments()
    size, period = args.mb * MIB, int(args.period * MS)
    sets = file_pages(args.file, size), own_pages(size)
    part = size // args.cycle // PAGE * PAGE
    ring = Ring(args.log, int(args.seconds * 1000 / args.period) + 16, 2)
    end = now() + int(args.seconds * 1e9)
    due = now()
    tick = 0
    while (start := now()) < end:
        at = (tick % args.cycle) * part
        for pages in sets:
            pages[at : at + part : PAGE].tobytes()
        done = now()
        ring.add(start, done)
        tick += 1
        due += period
        if due <= done:
            due = done + MS  # late: no catching up
        time.sleep(max(0, due - now()) / 1e9)


main()
