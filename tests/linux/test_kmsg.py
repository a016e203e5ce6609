"""What the kernel says when it kills. The lines are the kernel's own, from 5.10 to 6.18."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from oomguard.linux import kmsg, procfs
from oomguard.linux.kmsg import Kill, KmsgFile, KmsgRecord, OomKill

from .trees import KernelTree, plant, until

SIZES = "total-vm:8392kB, anon-rss:4096kB, file-rss:1024kB, shmem-rss:12kB, UID:1000 pgtables:52kB oom_score_adj:0"


@pytest.mark.parametrize(
    ("data", "record"),
    [
        (b"6,1234,5678,-;text\n", KmsgRecord(6, 0, 1234, 5678, "text")),
        (b"30,7,1,-;from userspace\n", KmsgRecord(6, 3, 7, 1, "from userspace")),
        (b"4,8,1,c;cont\n SUBSYSTEM=acpi\n DEVICE=+acpi:x\n", KmsgRecord(4, 0, 8, 1, "cont")),
        (b"6,9,1,-,caller=T1;with a caller\n", KmsgRecord(6, 0, 9, 1, "with a caller")),
        (b"6,9,1,-;a\\x0ab\\x5cc;d\n", KmsgRecord(6, 0, 9, 1, "a\nb\\c;d")),
        (b"6,9,1,-;\\xff\\xZZ\n", KmsgRecord(6, 0, 9, 1, "\udcff\\xZZ")),
        (b"6,9,1,-;cut", KmsgRecord(6, 0, 9, 1, "cut")),
        (b"6,9,1,-", None),
        (b"6,9;x", None),
        (b"x,9,1,-;x", None),
        (b"", None),
    ],
)
def test_a_record(data: bytes, record: KmsgRecord | None) -> None:
    assert kmsg.parse_record(data) == record


@pytest.mark.parametrize(
    ("text", "kill"),
    [
        (f"Out of memory: Killed process 1234 (stress) {SIZES}", Kill(1234, "stress", 4096, 1024, 12, 1000, False)),
        (f"Memory cgroup out of memory: Killed process 9 (a) {SIZES}", Kill(9, "a", 4096, 1024, 12, 1000, True)),
        (
            f"Out of memory (oom_kill_allocating_task): Killed process 9 (a) {SIZES}",
            Kill(9, "a", 4096, 1024, 12, 1000, False),
        ),
        # 4.19: no UID, and no prefix
        (
            "Killed process 812 (java) total-vm:8392kB, anon-rss:1kB, file-rss:2kB, shmem-rss:3kB",
            Kill(812, "java", 1, 2, 3, -1, False),
        ),
        (
            f"Out of memory: Killed process 1 () total-vm:1) {SIZES}",
            Kill(1, ") total-vm:1", 4096, 1024, 12, 1000, False),
        ),
        (f"Out of memory: Killed process 1 (a (b) {SIZES}", Kill(1, "a (b", 4096, 1024, 12, 1000, False)),
        (f"Out of memory: Killed process 1 (a\nb\udcff) {SIZES}", Kill(1, "a\nb\udcff", 4096, 1024, 12, 1000, False)),
        ("Out of memory: Killed process 1 (a) total-vm:1kB, anon-rss:1", None),
        ("Out of memory: Killed process x (a) " + SIZES, None),
        ("usb 1-1: Product: Killed process 1 (a) " + SIZES, None),
        ("Tasks in /a are going to be killed due to memory.oom.group set", None),
        ("oom_reaper: reaped process 9 (a), now anon-rss:0kB, file-rss:0kB, shmem-rss:0kB", None),
        ("", None),
    ],
)
def test_the_line_that_names_the_dead(text: str, kill: Kill | None) -> None:
    assert kmsg.parse_kill(text) == kill


HEAD = "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,"


@pytest.mark.parametrize(
    ("text", "kill"),
    [
        (
            HEAD + "oom_memcg=/a,task_memcg=/a/b,task=x,pid=812,uid=1000",
            OomKill("CONSTRAINT_MEMCG", "/a", "/a/b", "x", 812, 1000),
        ),
        (
            "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/b,"
            "task=x,pid=1,uid=0",
            OomKill("CONSTRAINT_NONE", "", "/b", "x", 1, 0),
        ),
        (
            HEAD + "oom_memcg=/a,task_memcg=/a,task=a,pid=7,uid=8,pid=1,uid=0",
            OomKill("CONSTRAINT_MEMCG", "/a", "/a", "a,pid=7,uid=8", 1, 0),
        ),
        (
            HEAD + "oom_memcg=/a,task_memcg=/a,task=a,task=b,pid=1,uid=0",
            OomKill("CONSTRAINT_MEMCG", "/a", "/a", "a,task=b", 1, 0),
        ),
        (
            HEAD + "oom_memcg=/a,task_memcg=/a,b=c (x),task=),pid=1,uid=0",
            OomKill("CONSTRAINT_MEMCG", "/a", "/a,b=c (x)", ")", 1, 0),
        ),
        (
            HEAD + "oom_memcg=/a,task_memcg=/x,task=y,and,so,on,long,task=z,pid=1,uid=0",
            OomKill("CONSTRAINT_MEMCG", "/a", "/x,task=y,and,so,on,long", "z", 1, 0),
        ),
        (HEAD + "oom_memcg=/a,task_memcg=/a,task=,pid=1,uid=0", OomKill("CONSTRAINT_MEMCG", "/a", "/a", "", 1, 0)),
        (HEAD + "oom_memcg=/a,task_memcg=/a,task=x,pid=1", None),
        (HEAD + "oom_memcg=/a,task=x,pid=1,uid=0", None),
        (HEAD + "oom_memcg=/a,task_memcg=/a,task=x,pid=1,uid=me", None),
        ("oom-kill:", None),
        ("", None),
    ],
)
def test_the_line_that_names_the_limit(text: str, kill: OomKill | None) -> None:
    assert kmsg.parse_oom_kill(text) == kill


def test_records_are_drained_in_portions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_leak: None) -> None:
    """One read is one record. EPIPE: the kernel has overwritten some, the next read goes on with the oldest left."""
    plant(tmp_path, {"kmsg": b""})
    file = KmsgFile(f"{tmp_path}/kmsg")
    script: list[bytes | int] = [b"6,1,1,-;one\n", errno.EPIPE, b"nonsense", b"6,5,1,-;five\n", b"6,6,1,-;six\n"]

    def read(_fd: int, _size: int) -> bytes:
        if not script:
            raise BlockingIOError(errno.EAGAIN, "nothing")
        step = script.pop(0)
        if isinstance(step, int):
            raise OSError(step, os.strerror(step))
        return step

    with monkeypatch.context() as patched:
        patched.setattr(os, "read", read)
        assert [record.text for record in file.drain(4)] == ["one", "five"]
        assert [record.text for record in file.drain(4)] == ["six"]
        assert file.drain(4) == []
        script.append(errno.EIO)
        with pytest.raises(OSError, match="error") as broken:
            file.drain(4)
        assert broken.value.filename == f"{tmp_path}/kmsg"
    assert file.lost == 1
    file.close()


def readable_kmsg() -> None:
    if not os.access("/dev/kmsg", os.R_OK):
        pytest.skip("/dev/kmsg cannot be read here (CAP_SYSLOG, or not in this container); test_in_vm.py can")


@pytest.mark.kernel
def test_the_kernel_log_of_this_machine(no_leak: None) -> None:
    readable_kmsg()
    file = KmsgFile(from_start=True)
    records = file.drain(100_000)
    assert file.drain(10) == []
    assert records
    numbers = [record.sequence for record in records]
    assert numbers == sorted(set(numbers))
    file.close()


@pytest.mark.kernel
def test_only_what_comes_from_now_on_and_userspace_cannot_play_the_kernel(no_leak: None) -> None:
    readable_kmsg()
    file = KmsgFile()
    file.drain(1000)
    # Without the newline the record would not be finished, and not be read, until the next one comes.
    Path("/dev/kmsg").write_bytes(f"<0>Out of memory: Killed process 1 (init) {SIZES}\n".encode())
    forged = [record for record in file.drain(1000) if "Killed process 1 (init)" in record.text]
    file.close()
    if not forged and Path("/proc/sys/kernel/printk_devkmsg").read_text() == "off\n":
        pytest.skip("kernel.printk_devkmsg is off: nobody can write there; test_in_vm.py tries it where one can")
    assert len(forged) == 1
    assert kmsg.parse_kill(forged[0].text) is not None
    assert forged[0].facility != 0


HOG = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(15, ctypes.c_char_p(b'a) b,pid=1,\\n\\xff='), 0, 0, 0)
open(sys.argv[1] + '/cgroup.procs', 'w').write(str(os.getpid()))
open('/proc/self/oom_score_adj', 'w').write('1000')
keep = bytearray(64 << 20)
"""


@pytest.mark.kernel
def test_a_kill_of_this_kernel(child: Callable[..., subprocess.Popen[str]], request: pytest.FixtureRequest) -> None:
    """A process of ours, in a cgroup of ours with 16 MiB, asks for 64: by v2 if it has memory here, else by v1."""
    readable_kmsg()
    directory, relative = limited_cgroup(request)
    before = procfs.VmStatFile("/proc")
    killed_before = before.oom_kill()
    file = KmsgFile()
    hog = child(sys.executable, "-I", "-S", "-c", HOG, str(directory))
    assert hog.wait(60) == -9
    records: list[KmsgRecord] = []
    until(lambda: bool(records.extend(file.drain(1000)) or any("Killed process" in found.text for found in records)))
    file.close()
    kernel = [record.text for record in records if record.facility == 0]
    kills = [kill for kill in map(kmsg.parse_kill, kernel) if kill is not None and kill.pid == hog.pid]
    limits = [kill for kill in map(kmsg.parse_oom_kill, kernel) if kill is not None and kill.pid == hog.pid]
    comm = b"a) b,pid=1,\n\xff=".decode("utf-8", "surrogateescape")
    assert len(kills) == 1
    assert (kills[0].comm, kills[0].memcg, kills[0].uid) == (comm, True, os.getuid())
    assert kills[0].anon_kb > 4096
    assert len(limits) == 1
    assert (limits[0].comm, limits[0].constraint) == (comm, "CONSTRAINT_MEMCG")
    assert limits[0].oom_memcg.endswith(relative)
    assert limits[0].task_memcg.endswith(relative)
    assert before.oom_kill() > killed_before
    before.close()


def limited_cgroup(request: pytest.FixtureRequest) -> tuple[Path, str]:
    tree: KernelTree = request.getfixturevalue("real_tree")
    if tree.has_memory:
        tree.make("/hog")
        (tree.at("/hog") / "memory.max").write_text(str(16 << 20))
        return tree.at("/hog"), f"{tree.prefix}/hog"
    v1 = Path("/sys/fs/cgroup/memory")
    if not os.access(v1 / "cgroup.procs", os.W_OK):
        pytest.skip("neither hierarchy has a memory controller that is ours to use; test_in_vm.py runs this")
    directory = v1 / f"oomguard-test-{os.getpid()}"
    directory.mkdir()
    request.addfinalizer(lambda: remove(directory))
    (directory / "memory.limit_in_bytes").write_text(str(16 << 20))
    return directory, f"/{directory.name}"


def remove(directory: Path) -> None:
    end = time.monotonic() + 20
    while True:
        try:
            directory.rmdir()
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > end:
                raise
            time.sleep(0.01)
        else:
            return
