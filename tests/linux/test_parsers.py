"""Every parser, fed with what no kernel should say: cut at every byte, garbled, random. None raises, none invents.

A file is cut when the kernel's page ends before the record, when a process dies under the read, and when a fake lies.
What a parser returns of half a file must be None, or what it returns of the whole one.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oomguard.linux import cgroup1, cgroup2, events, files, kmsg, mounts, procfs, psi, systemd

from .test_kmsg import HEAD, SIZES
from .test_procfs import HOSTILE_COMMS, MEMINFO, STAT, STATUS
from .test_psi import PRESSURE
from .test_systemd import decode
from .trees import MEMORY_EVENTS, MEMORY_STAT, MEMORY_STAT_1, NO_LIMIT, OOM_CONTROL

Parser = Callable[[bytes], object]

WHOLE: dict[str, tuple[Parser, bytes]] = {
    "meminfo": (procfs.parse_meminfo, MEMINFO),
    "vmstat": (procfs.parse_oom_kill, b"nr_free_pages 1\noom_kill 34567\nnuma_hit 0\n"),
    "stat": (procfs.parse_stat, STAT % b"a) R 1 1 (b"),
    "status": (procfs.parse_status, STATUS % b"4 24 27 "),
    "pressure": (psi.parse, PRESSURE),
    "memory.stat": (cgroup2.parse_stat, MEMORY_STAT),
    "memory.events": (cgroup2.parse_events, MEMORY_EVENTS),
    "cgroup.events": (cgroup2.parse_populated, b"populated 1\nfrozen 0\n"),
    "oom-kill": (
        lambda data: kmsg.parse_oom_kill(data.decode("utf-8", "surrogateescape")),
        (HEAD + "oom_memcg=/a,task_memcg=/a/b,task=x,pid=812,uid=0").encode(),
    ),
    "killed": (
        lambda data: kmsg.parse_kill(data.decode("utf-8", "surrogateescape")),
        f"Out of memory: Killed process 1234 (stress) {SIZES}".encode(),
    ),
}
# What may be right though it is cut: a list, a record's text, the path that the line holds so far, half a number.
LENIENT: dict[str, tuple[Parser, bytes]] = {
    "cgroup": (procfs.parse_cgroup, b"9:name=systemd:/a\n4:cpu,memory:/b\n0::/system.slice/ssh.service\n"),
    "cgroup.procs": (cgroup2.parse_pids, b"1\n23\n0\n456\n"),
    "kmsg": (kmsg.parse_record, b"3,15,94336,-;Out\\x0a of memory\n SUBSYSTEM=x\n"),
    "inotify": (events.parse_inotify, b"\1\0\0\0\0\1\0\0\0\0\0\0\4\0\0\0a\0\0\0" * 3),
    "capabilities": (procfs.parse_capabilities, b"\nCapEff:\t000001ffffffffff\n"),
    "pgalloc": (procfs.parse_pgalloc, b"pgpgout 1\npgalloc_dma 512\npgalloc_dma32 7\npgalloc_normal 90210\n"),
    "number": (files.number, b"123456\n"),
    "unit": (lambda data: cgroup2.unit_of(data.decode("utf-8", "surrogateescape")), b"/a.slice/b\\x2d.service/c"),
    "mount point": (mounts.unescape, b"/sys\\040fs/\\134x"),
    "mountinfo": (mounts.parse_mountinfo, b"35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"),
    "memory.stat of v1": (cgroup1.parse_stat, MEMORY_STAT_1),
    "memory.oom_control": (cgroup1.parse_oom_control, OOM_CONTROL),
    "memory.limit_in_bytes": (cgroup1.parse_limit, NO_LIMIT),
}
ALL = WHOLE | LENIENT
parsers = pytest.mark.parametrize("name", ALL)


@pytest.mark.parametrize("name", WHOLE)
def test_cut_at_every_byte(name: str) -> None:
    parse, data = WHOLE[name]
    value = parse(data)
    assert value is not None
    got = [parse(data[:length]) for length in range(len(data))]
    # The log's records have no end of their own: what stands last may be missing (the uid of "killed"), or must not be
    # cut (the uid of "oom-kill" has one digit here).
    right = (None, value, value._replace(uid=-1) if isinstance(value, kmsg.Kill) else value)
    assert [part for part in got if part not in right] == []
    assert got[0] is None


def test_cut_pids_are_never_shorter_numbers() -> None:
    data = b"".join(b"%d\n" % pid for pid in range(95, 1050))
    whole = cgroup2.parse_pids(data)
    for length in range(len(data)):
        part = cgroup2.parse_pids(data[:length])
        assert part == whole[: len(part)]


@parsers
@given(data=st.binary(max_size=400))
def test_random_bytes(name: str, data: bytes) -> None:
    ALL[name][0](data)


@parsers
@given(edits=st.lists(st.tuples(st.integers(0, 4000), st.binary(max_size=12), st.integers(0, 40)), max_size=6))
def test_garbled(name: str, edits: list[tuple[int, bytes, int]]) -> None:
    parse, data = ALL[name]
    for at, new, gone in edits:
        start = at % (len(data) + 1)
        data = data[:start] + new + data[start + gone :]
    parse(data)


@given(
    comm=st.one_of(
        st.binary(max_size=15), st.sampled_from(HOSTILE_COMMS), st.text("() \n1R", max_size=15).map(str.encode)
    )
)
def test_no_comm_changes_what_stat_says(comm: bytes) -> None:
    assert procfs.parse_stat(STAT % comm) == (30738, comm, "R", 30734, 94336, 4194304)


@given(comm=st.binary(max_size=15), length=st.integers(0, 200))
def test_no_comm_makes_a_cut_stat_lie(comm: bytes, length: int) -> None:
    got = procfs.parse_stat((STAT % comm)[:length])
    assert got in (None, (30738, comm, "R", 30734, 94336, 4194304))


@given(comm=st.text(st.characters(codec="latin-1"), max_size=15), memcg=st.booleans())
def test_no_comm_changes_what_the_kernel_log_says(comm: str, memcg: bool) -> None:
    head = "Memory cgroup out of memory" if memcg else "Out of memory"
    kill = kmsg.parse_kill(f"{head}: Killed process 812 ({comm}) {SIZES}")
    assert kill == kmsg.Kill(812, comm, 4096, 1024, 12, 1000, memcg)
    limit = kmsg.parse_oom_kill(f"{HEAD}oom_memcg=/a,task_memcg=/a/b,task={comm},pid=812,uid=7")
    assert limit == kmsg.OomKill("CONSTRAINT_MEMCG", "/a", "/a/b", comm, 812, 7)


@given(text=st.binary(max_size=60))
def test_what_the_kernel_escapes_comes_back(text: bytes) -> None:
    """As msg_add_ext_text does: what is not printable ASCII, and the backslash, as two hexadecimal digits."""
    escaped = b"".join(bytes([c]) if 32 <= c < 127 and c != 92 else b"\\x%02x" % c for c in text)
    record = kmsg.parse_record(b"6,1,2,-;" + escaped + b"\n")
    assert record is not None
    assert record.text.encode("utf-8", "surrogateescape") == text


@given(
    fields=st.dictionaries(st.from_regex("[A-Z][A-Z0-9_]{0,20}", fullmatch=True), st.binary(max_size=80), max_size=6)
)
def test_journal_fields_come_back(fields: dict[str, bytes]) -> None:
    assert decode(systemd.encode_fields(fields)) == fields


@pytest.mark.parametrize("name", ["meminfo", "status", "memory.stat", "memory.events"])
@given(data=st.data())
def test_lines_in_another_order_and_lines_we_do_not_know(name: str, data: st.DataObject) -> None:
    """What order the kernel prints in, and what it will print one day, is not promised."""
    parse, whole = WHOLE[name]
    unknown = [b"NewShmem:     7 kB\n"] if name in ("status", "meminfo") else [b"new_counter 12\n", b"anon_new 5\n"]
    lines = [*whole.splitlines(keepends=True), *unknown]
    first = [lines.pop(0)] if name in ("status", "meminfo") else []  # a name, and MemTotal: since there is a /proc
    assert parse(b"".join(first + data.draw(st.permutations(lines)))) == parse(whole)


@given(values=st.tuples(*[st.integers(0, 1 << 63)] * 4), more=st.lists(st.integers(0, 1 << 63), max_size=70).map(tuple))
def test_memory_stat_of_any_numbers(values: tuple[int, ...], more: tuple[int, ...]) -> None:
    names = [line.split()[0] for line in MEMORY_STAT.splitlines()]
    wanted = dict(zip((b"anon", b"file", b"shmem", b"slab_reclaimable"), values, strict=True))
    numbers = dict(zip(names, more, strict=False)) | wanted
    data = b"".join(b"%s %d\n" % (name, numbers.get(name, 0)) for name in names)
    stat = cgroup2.parse_stat(data)
    assert stat is not None
    assert (stat.anon_bytes, stat.file_bytes, stat.shmem_bytes, stat.slab_reclaimable_bytes) == values
