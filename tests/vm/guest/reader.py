#!/usr/bin/python3
"""A healthy service that is always at its limit: it reads a file larger than that over and over.

Nearly all its memory is page cache. It must never be killed, throttled or re-scored. Prints, per pass, a line of
JSON: seconds, MB/s, and the pass's CPU seconds.
"""

import argparse
import json
import os
import sys
import time

PIECE = 1 << 20


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", default="/var/tmp/reader.dat")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--mb", type=int, default=0, help="of the file per pass (default: all of it)")
    parser.add_argument("--log", default="/run/probe/reader.jsonl")
    return parser.parse_args()


def one_pass(fd, size, buffer):
    start, cpu = time.monotonic(), time.process_time()
    offset = 0
    while offset < size and (got := os.preadv(fd, [buffer], offset)):
        offset += got
    seconds = time.monotonic() - start
    return {"seconds": seconds, "mb_per_s": offset / seconds / 1e6, "cpu_s": time.process_time() - cpu}


def main():
    args = arguments()
    fd = os.open(args.file, os.O_RDONLY)
    size = args.mb * 1_000_000 or os.fstat(fd).st_size
    buffer = bytearray(PIECE)
    end = time.monotonic() + args.seconds
    os.makedirs(os.path.dirname(args.log), exist_ok=True)
    with open(args.log, "w") as log:
        while time.monotonic() < end:
            print(json.dumps(one_pass(fd, size, buffer)), file=log, flush=True)


sys.exit(main())
