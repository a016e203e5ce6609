#!/usr/bin/python3
"""Allocates and touches anonymous memory at a given rate up to a size, and logs (time, bytes touched).

--thrash N: after every chunk also reads back N times as much from random places of what is already there, so
that swapped-out memory is wanted again (a working set larger than memory).
"""

import argparse
import os
import random
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from probelib import MIB, MS, PAGE, RUN, Ring, anonymous, content, now

WINDOW = 64 << 10
CHUNK = 256 << 10


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=4096, help="MB")
    parser.add_argument("--rate", type=float, default=0, help="MB/s; 0: as fast as it goes")
    parser.add_argument("--burst", type=int, default=0, help="MB at the start that come as fast as they go")
    parser.add_argument("--step", type=int, default=8, help="MB between two records of the log")
    parser.add_argument("--compress", type=int, default=0, help="percent of every page that is zeros")
    parser.add_argument("--thp", action="store_true", help="leave transparent huge pages on")
    parser.add_argument("--thrash", type=float, default=0, help="MB read back per MB written")
    parser.add_argument("--hold", type=float, default=600, help="seconds to stay after reaching the size")
    parser.add_argument("--log", default=f"{RUN}/hog.ring")
    return parser.parse_args()


class Hog:
    def __init__(self, args):
        self.args = args
        self.size = args.size * MIB
        self.memory = memoryview(anonymous(self.size, huge=args.thp))
        self.block = content(CHUNK, args.compress)
        self.ring = Ring(args.log, args.size // args.step + 16, 2)
        self.random = random.Random(1).randrange
        self.paced_from = None

    def grow(self):
        self.ring.add(now(), 0)
        step = self.args.step * MIB
        for offset in range(0, self.size, CHUNK):
            self.memory[offset : offset + CHUNK] = self.block
            done = offset + CHUNK
            if self.args.thrash and done > 64 * MIB:
                self.read_back(done, int(CHUNK * self.args.thrash) // WINDOW)
            if done % step == 0:
                self.ring.add(now(), done)
            if self.args.rate and done > self.args.burst * MIB:
                self.pace(done)
        self.ring.add(now(), self.size)

    def read_back(self, done, windows):
        for _ in range(windows):
            at = self.random(done // WINDOW) * WINDOW
            self.memory[at : at + WINDOW : PAGE].tobytes()

    def pace(self, done):
        if self.paced_from is None:
            self.paced_from = now(), done
        start, base = self.paced_from
        ahead = start + int((done - base) / (self.args.rate * MIB) * 1e9) - now()
        if ahead > MS:
            time.sleep(ahead / 1e9)

    def hold(self):
        end = now() + int(self.args.hold * 1e9)
        while now() < end:
            if self.args.thrash:
                self.read_back(self.size, 1)
            else:
                time.sleep(0.1)


def main():
    hog = Hog(arguments())
    hog.grow()
    hog.hold()


main()
