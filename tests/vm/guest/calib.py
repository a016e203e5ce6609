#!/usr/bin/python3
"""How much slower the emulated CPU is: run it in the guest and on the host. Prints ns per step as JSON."""

import json
import mmap
import os
import time


def best(work, steps, repeats=3):
    return round(min(once(work) for _ in range(repeats)) / steps)


def once(work):
    start = time.perf_counter_ns()
    work()
    return time.perf_counter_ns() - start


def loop():
    x = 0
    for i in range(300_000):
        x += i & 7


def system_calls():
    call = os.getppid
    for _ in range(30_000):
        call()


def touch_pages():
    memory = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    view, block = memoryview(memory), bytes(1 << 20)
    for offset in range(0, 64 << 20, 1 << 20):
        view[offset : offset + (1 << 20)] = block


def read_meminfo():
    fd = os.open("/proc/meminfo", os.O_RDONLY)
    for _ in range(300):
        os.pread(fd, 8192, 0)
    os.close(fd)


print(
    json.dumps(
        {
            "loop_ns": best(loop, 300_000),
            "getppid_ns": best(system_calls, 30_000),
            "page_touch_ns": best(touch_pages, 16384),
            "meminfo_read_ns": best(read_meminfo, 300),
        }
    )
)
