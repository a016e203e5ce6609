#!/usr/bin/python3
"""Healthy services that live in the page cache of a limited cgroup: neighbours.py database|build.

database: reads pages of 8 KiB at random from a file four times the size of its limit, writes every tenth back and
syncs now and then. build: runs a short process per job, which reads a source, makes an object of it and leaves it in
the cache; every hundredth job reads all objects again. Both count what they did, about ten times a second, into
/run/probe/KIND.count: operations, CLOCK_MONOTONIC ns.
"""

import os
import random
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from probelib import MIB, MS, RUN, now

PAGE = 8192
OBJECTS = 400  # of 1 MiB: more than the limit


class Count:
    def __init__(self, kind):
        self.path, self.done, self.due = f"{RUN}/{kind}.count", 0, 0

    def one(self):
        self.done += 1
        if now() >= self.due:
            self.due = now() + 100 * MS
            with open(f"{self.path}.new", "w") as file:
                file.write(f"{self.done} {now()}")
            os.rename(f"{self.path}.new", self.path)


def database(count, size=1024 * MIB):
    fd = os.open("/var/tmp/database.dat", os.O_RDWR | os.O_CREAT, 0o600)
    os.posix_fallocate(fd, 0, size)
    pick = random.Random(1)
    while True:
        offset = pick.randrange(size // PAGE) * PAGE
        page = os.pread(fd, PAGE, offset)
        if count.done % 10 == 0:
            os.pwrite(fd, page, offset)
        if count.done % 2000 == 0:
            os.fdatasync(fd)
        count.one()


def build(count):
    where = "/var/tmp/build"
    os.makedirs(where, exist_ok=True)
    source = "/usr/bin/python3"
    while True:
        target = f"{where}/{count.done % OBJECTS}.o"
        pid = os.posix_spawn("/usr/bin/head", ["head", "-c", str(MIB), source], os.environ, file_actions=into(target))
        os.waitpid(pid, 0)
        if count.done % 100 == 99:
            for name in os.listdir(where):
                with open(f"{where}/{name}", "rb", buffering=0) as file:
                    file.read()
        count.one()


def into(path):
    return [(os.POSIX_SPAWN_OPEN, 1, path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)]


def main():
    os.makedirs(RUN, exist_ok=True)
    kind = sys.argv[1]
    {"database": database, "build": build}[kind](Count(kind))


main()
