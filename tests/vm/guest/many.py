#!/usr/bin/python3
"""Forks N small processes, one every --gap ms, each of which touches a few MB of its own and stays."""

import argparse
import os
import signal
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from probelib import MIB, anonymous, content

BLOCK = 64 << 10


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=250)
    parser.add_argument("--mb", type=float, default=4)
    parser.add_argument("--gap", type=float, default=20, help="ms between forks")
    parser.add_argument("--hold", type=float, default=600, help="seconds")
    return parser.parse_args()


def work(size, block, hold):
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    memory = anonymous(size)
    for offset in range(0, size, BLOCK):
        memory[offset : offset + BLOCK] = block
    time.sleep(hold)
    os._exit(0)


def main():
    args = arguments()
    size = int(args.mb * MIB) // BLOCK * BLOCK
    block = content(BLOCK)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for _ in range(args.n):
        if os.fork() == 0:
            work(size, block, args.hold)
        time.sleep(args.gap / 1000)
    time.sleep(args.hold)


main()
