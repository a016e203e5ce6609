"""The leak of a fire drill: waits for a word, then takes memory at an even rate, and no more than it was told.

Executed by path, by an interpreter that knows nothing of ours. It ends with whoever started it (PDEATHSIG, set before
it is executed), and by itself after its time.

    hog.py BYTES BYTES_A_SECOND SECONDS
"""

import mmap
import os
import signal
import sys
import time

CHUNK = 64 << 10
NAME = "oomguard-drill"  # 14 of 15 bytes: who looks for leftovers knows them by it


def main(size_bytes: int, rate_bytes: int, seconds: int) -> None:
    """ "ready" on standard output; begins with the first line on standard input, ends where that ends."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(seconds)
    with open("/proc/self/comm", "w", encoding="ascii") as comm:
        comm.write(NAME)
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
        score.write("1000")  # whatever happens to this machine meanwhile: we first
    memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        memory.madvise(mmap.MADV_NOHUGEPAGE)  # page by page, at the rate that was asked for
    block = os.urandom(CHUNK)
    os.write(1, b"ready\n")
    if sys.stdin.readline():
        leak(memory, block, rate_bytes)
        sys.stdin.read()


def leak(memory: mmap.mmap, block: bytes, rate_bytes: int) -> None:
    """All of it, at this rate."""
    began = time.monotonic()
    for offset in range(0, len(memory) - CHUNK + 1, CHUNK):
        memory[offset : offset + CHUNK] = block
        ahead = began + (offset + CHUNK) / rate_bytes - time.monotonic()
        if ahead > 0.001:
            time.sleep(ahead)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]))
