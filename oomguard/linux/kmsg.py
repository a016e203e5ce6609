"""The kernel log, for one question: whom did the kernel kill? Not a log reader in general."""

import errno
import os
import re
from typing import Final, NamedTuple

# The longest record is CONSOLE_EXT_LOG_MAX, 8192; a smaller buffer is EINVAL, and the record is not skipped.
_RECORD_BYTES: Final = 16384
_ESCAPE: Final = re.compile(rb"\\x([0-9a-f]{2})")
_KERNEL: Final = 0  # the facility that nobody can claim by writing to /dev/kmsg: the kernel makes it LOG_USER


class KmsgRecord(NamedTuple):
    """One record. ``at_us`` is the kernel's local_clock since boot, near CLOCK_MONOTONIC but not the same."""

    level: int
    facility: int  # 0: the kernel itself
    sequence: int
    at_us: int
    text: str  # unescaped; bytes that are not UTF-8 as surrogate escapes


class Kill(NamedTuple):
    """The kernel killed a process for want of memory. Sizes in kB, as printed."""

    pid: int
    comm: str
    anon_kb: int
    file_kb: int
    shmem_kb: int
    uid: int  # -1: the line does not say, as before 5.4
    memcg: bool  # a cgroup's limit, not the whole machine


class OomKill(NamedTuple):
    """The line before it: by whose limit. ``oom_memcg`` "" is the whole machine."""

    constraint: str
    oom_memcg: str
    task_memcg: str
    comm: str
    pid: int
    uid: int


def parse_record(data: bytes) -> KmsgRecord | None:
    r"""One record, continuation lines (" SUBSYSTEM=...") dropped; None: none.

    3,1523,94336211,-;Out of memory: Killed process 812 (a\x0ab) total-vm:...

    The first number is level + 8 * facility; what is not printable, and the backslash, is ``\xNN`` in the text.
    """
    head, semicolon, text = data.partition(b";")
    fields = head.split(b",")
    if not semicolon or len(fields) < 3:
        return None
    try:
        priority, sequence, at_us = int(fields[0]), int(fields[1]), int(fields[2])
    except ValueError:
        return None
    line = text.partition(b"\n")[0]
    if b"\\x" in line:
        line = _ESCAPE.sub(lambda escape: bytes((int(escape[1], 16),)), line)
    return KmsgRecord(priority & 7, priority >> 3, sequence, at_us, line.decode("utf-8", "surrogateescape"))


def parse_kill(text: str) -> Kill | None:
    """The text of a kernel record; None: it says something else.

    Out of memory: Killed process 1234 (stress) total-vm:8392kB, anon-rss:4096kB, file-rss:1024kB, shmem-rss:0kB, \
UID:1000 pgtables:52kB oom_score_adj:0
    Memory cgroup out of memory: Killed process 99 (a) b) total-vm:...
    """
    start = text.find("Killed process ")
    head = text[:start]
    # With sysctl oom_kill_allocating_task it is "Out of memory (oom_kill_allocating_task): ".
    if start < 0 or (head and not head.startswith(("Out of memory", "Memory cgroup out of memory"))):
        return None
    pid, _, rest = text[start + 15 :].partition(" (")
    comm, closing, sizes = rest.rpartition(") total-vm:")  # the last one: comm may hold any 15 bytes
    if not closing:
        return None
    try:
        words = sizes.split(" ")
        values = dict(word.split(":", 1) for word in words[:-1] if ":" in word)
        last, _, value = words[-1].partition(":")
        if value.endswith("kB"):  # an old kernel's last word; else it is no size, or it was cut
            values[last] = value
        return Kill(
            int(pid),
            comm,
            _kilobytes(values["anon-rss"]),
            _kilobytes(values["file-rss"]),
            _kilobytes(values["shmem-rss"]),
            int(values.get("UID", -1)),
            head.startswith("Memory cgroup"),
        )
    except (ValueError, KeyError):
        return None


def _kilobytes(word: str) -> int:
    """ "4096kB," """
    return int(word.removesuffix(",").removesuffix("kB"))


def parse_oom_kill(text: str) -> OomKill | None:
    """The text of a kernel record; None: it says something else.

    oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/a,task_memcg=/a/b,task=x,\
pid=812,uid=1000
    oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/b,task=x,pid=1,uid=0

    comm and cgroup names may hold commas and "=": read from the end, comm being no longer than 15 bytes. (A cgroup
    named "x,task=y" and a comm "a,task=b" cannot be told apart; the pid is right in any case.)
    """
    if not text.startswith("oom-kill:constraint="):
        return None
    head, comma, uid = text.rpartition(",uid=")
    head, comma2, pid = head.rpartition(",pid=")
    task = head.find(",task=", max(0, len(head) - 15 - len(",task=")))
    if not comma or not comma2 or task < 0:
        return None
    constraint = text[20:].partition(",")[0]
    context = head[:task]
    oom = context.find(",oom_memcg=")
    of = context.find(",task_memcg=", max(oom, 0))
    if of < 0:
        return None
    try:
        return OomKill(
            constraint,
            context[oom + 11 : of] if oom >= 0 else "",
            context[of + 12 :],
            head[task + 6 :],
            int(pid),
            int(uid),
        )
    except ValueError:
        return None


class KmsgFile:
    """/dev/kmsg from now on, non-blocking; readable in epoll when there is more. OSError EPERM: no CAP_SYSLOG."""

    __slots__ = ("fd", "lost", "path")

    def __init__(self, path: str = "/dev/kmsg", from_start: bool = False) -> None:
        """``from_start``: the kernel's whole buffer first."""
        self.path = path
        self.lost = 0  # how often the kernel overwrote what was not read yet
        self.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        if not from_start:
            os.lseek(self.fd, 0, os.SEEK_END)

    def drain(self, limit: int) -> list[KmsgRecord]:
        """At most ``limit`` records; fewer: that was all. One read is one record; it goes on where it ended."""
        records: list[KmsgRecord] = []
        for _ in range(limit):
            try:
                data = os.read(self.fd, _RECORD_BYTES)
            except OSError as error:
                if error.errno == errno.EAGAIN:
                    break
                if error.errno == errno.EPIPE:  # overwritten; the next read is the oldest that is left
                    self.lost += 1
                    continue
                error.filename = self.path
                raise
            if not data:
                break
            record = parse_record(data)
            if record is not None:
                records.append(record)
        return records

    def close(self) -> None:
        """Once."""
        os.close(self.fd)
