#!/usr/bin/python3
"""A healthy service that is always at its limit: it reads a file larger than that over and over.

Nearly all its memory is page cache. It must never be killed or re-scored. Logs, per --stretch of the file, a line of
JSON: seconds, MB/s, CPU seconds, and every oom_score_adj that it found itself to have on the way.
"""

import argparse
import itertools
import json
import os
import time

PIECE = 1 << 20
SCORE = os.open("/proc/self/oom_score_adj", os.O_RDONLY)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", default="/var/tmp/reader.dat")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--stretch", type=int, default=200, help="MB between two lines of the log")
    parser.add_argument("--log", default="/run/probe/reader.jsonl")
    return parser.parse_args()


def stretch(fd, buffer, start_at, end_at):
    start, cpu = time.monotonic(), time.process_time()
    offset, scores = start_at, set()
    while offset < end_at and (got := os.preadv(fd, [buffer], offset)):
        if offset % (16 * PIECE) == 0:
            scores.add(int(os.pread(SCORE, 16, 0)))
        offset += got
    seconds, cpu = time.monotonic() - start, time.process_time() - cpu
    return {"seconds": seconds, "mb_per_s": (offset - start_at) / seconds / 1e6, "cpu_s": cpu, "scores": sorted(scores)}


def main():
    args = arguments()
    fd = os.open(args.file, os.O_RDONLY)
    size, step = os.fstat(fd).st_size, args.stretch * PIECE
    buffer = bytearray(PIECE)
    end = time.monotonic() + args.seconds
    os.makedirs(os.path.dirname(args.log), exist_ok=True)
    with open(args.log, "w") as log:
        for start_at in itertools.cycle(range(0, size, step)):
            print(json.dumps(stretch(fd, buffer, start_at, start_at + step)), file=log, flush=True)
            if time.monotonic() > end:
                return


main()
