"""/proc, of files and of the kernel: the machine's numbers, and processes with hostile names and odd ends."""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from oomguard.linux import files, libc, procfs
from oomguard.linux.procfs import MemInfoFile, VmStatFile
from oomguard.model.facts import MemInfo, ProcessFacts

from .trees import plant, until

Python = Callable[[str], "subprocess.Popen[str]"]

MEMINFO = b"""MemTotal:       24684084 kB
MemFree:        24329304 kB
MemAvailable:   24304968 kB
Buffers:           13272 kB
SwapCached:            7 kB
SwapTotal:       1048576 kB
SwapFree:         524288 kB
Zswap:                 0 kB
Hugepagesize:       2048 kB
"""

STAT = (
    b"30738 (%s) R 30734 30734 29756 0 -1 4194304 103 0 0 0 0 0 0 0 20 0 1 0 94336 3133440 416 18446744073709551615 "
    b"93870671880192 93870671900073 140726029503616 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
)

STATUS = b"""Name:\tcat
Umask:\t0022
State:\tR (running)
Tgid:\t30738
Uid:\t1000\t1001\t1002\t1003
Gid:\t0\t0\t0\t0
Groups:\t%s
VmPeak:\t    3060 kB
VmRSS:\t    1776 kB
RssAnon:\t     112 kB
RssFile:\t    1664 kB
RssShmem:\t       4 kB
VmSwap:\t       8 kB
HugetlbPages:\t       0 kB
Threads:\t3
CapInh:\t0000000000000000
CapEff:\t0000004000a00020
Seccomp:\t0
"""

ZOMBIE_STATUS = b"Name:\tz\nState:\tZ (zombie)\nUid:\t5\t5\t5\t5\nGroups:\t\nThreads:\t%d\nCapEff:\t0\n"


def proc(tmp_path: Path, pid: int = 30738, **changed: bytes) -> int:
    """A /proc of files with one process; its descriptor."""
    contents = {
        "stat": STAT % b"cat",
        "status": STATUS % b"",
        "cgroup": b"0::/system.slice/ssh.service\n",
        "oom_score": b"666\n",
        "oom_score_adj": b"-17\n",
    }
    plant(tmp_path / str(pid), contents | changed)
    return procfs.open_proc(str(tmp_path))


# ---------------------------------------------------------------------------------------------------------- the machine


def test_meminfo_in_bytes(tmp_path: Path, no_leak: None) -> None:
    plant(tmp_path, {"meminfo": MEMINFO})
    file = MemInfoFile(str(tmp_path))
    assert file.read() == MemInfo(24684084 << 10, 24329304 << 10, 24304968 << 10, 1 << 30, 1 << 29)
    plant(tmp_path, {"meminfo": MEMINFO.replace(b"24304968", b"       0")})
    assert file.read().available_bytes == 0, "kept open, read anew"
    file.close()


@pytest.mark.parametrize("lines", [10, 300, 5000])
def test_a_meminfo_longer_than_a_page(tmp_path: Path, lines: int, no_leak: None) -> None:
    head, _, tail = MEMINFO.partition(b"SwapTotal")
    junk = b"".join(b"Node%06d:      12345678 kB\n" % number for number in range(lines))
    plant(tmp_path, {"meminfo": head + junk + b"SwapTotal" + tail})
    file = MemInfoFile(str(tmp_path))
    assert file.read().swap_free_bytes == 1 << 29
    file.close()


def test_a_meminfo_without_end_is_not_read_without_end(tmp_path: Path) -> None:
    plant(tmp_path, {"meminfo": b"MemTotal: 1 kB\n" * 200_000})
    file = MemInfoFile(str(tmp_path))
    with pytest.raises(OSError, match="not a meminfo") as broken:
        file.read()
    assert (broken.value.errno, broken.value.filename) == (errno.EBADMSG, f"{tmp_path}/meminfo")
    file.close()


def test_widths_that_a_large_machine_has() -> None:
    """6 TiB: nine digits, and the columns move."""
    big = MEMINFO.replace(b"24684084", b"6442450944").replace(b"1048576", b"99999999999")
    info = procfs.parse_meminfo(big)
    assert info is not None
    assert (info.total_bytes, info.swap_total_bytes) == (6442450944 << 10, 99999999999 << 10)


@pytest.mark.kernel
def test_the_meminfo_of_this_machine(no_leak: None) -> None:
    file = MemInfoFile("/proc")
    first, second = file.read(), file.read()
    assert first.total_bytes == second.total_bytes == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < first.available_bytes <= first.total_bytes
    assert first.swap_free_bytes <= first.swap_total_bytes
    file.close()


def test_oom_kill_is_found_in_a_long_vmstat(tmp_path: Path, no_leak: None) -> None:
    lines = b"".join(b"counter_%d 18446744073709551615\n" % number for number in range(900))
    plant(tmp_path, {"vmstat": lines + b"oom_kill 3\n" + lines})
    file = VmStatFile(str(tmp_path))
    assert file.oom_kill() == 3
    plant(tmp_path, {"vmstat": lines})
    assert file.oom_kill() == 0, "before Linux 4.13"
    file.close()


def test_what_was_handed_out_is_the_sum_over_the_zones_or_not_told() -> None:
    vmstat = b"nr_free_pages 9\npgpgout 1\npgalloc_dma 512\npgalloc_dma32 7\npgalloc_normal 90210\nallocstall_dma 3\n"
    assert procfs.parse_pgalloc(vmstat) == 512 + 7 + 90210
    assert procfs.parse_pgalloc(b"nr_free_pages 9\npgpgout 1\n") == 0
    assert procfs.parse_pgalloc(vmstat[: vmstat.index(b"210")]) == 0, "a number that is cut is no smaller number"


@pytest.mark.kernel
def test_this_machine_hands_out_what_is_touched(no_leak: None) -> None:
    file = VmStatFile("/proc")
    before = file.allocated_bytes()
    with mmap.mmap(-1, 64 << 20) as memory:
        memory[:: mmap.PAGESIZE] = b"x" * (len(memory) // mmap.PAGESIZE)
        assert file.allocated_bytes() - before >= 64 << 20
    file.close()


@pytest.mark.kernel
def test_the_vmstat_of_this_machine(no_leak: None) -> None:
    """A file of many records: one read is not all of it."""
    file = VmStatFile("/proc")
    whole = Path("/proc/vmstat").read_bytes()
    again = files.read_records(file.fd, file.path)
    assert again is not None
    assert [line.split()[0] for line in again.splitlines()] == [line.split()[0] for line in whole.splitlines()]
    assert b"\noom_kill " in again
    assert file.oom_kill() == procfs.parse_oom_kill(whole)
    file.close()


@pytest.mark.kernel
def test_boot_id_and_capabilities_of_this_machine() -> None:
    assert len(procfs.boot_id()) == 36
    assert procfs.boot_id() == procfs.boot_id()
    if os.geteuid() == 0:
        assert "CAP_KILL" in procfs.capabilities()


def test_capabilities_by_name(tmp_path: Path) -> None:
    plant(tmp_path, {"self/status": STATUS % b""})
    assert procfs.capabilities(str(tmp_path)) == {"CAP_KILL", "CAP_PERFMON", "CAP_SYS_ADMIN", "CAP_SYS_NICE"}
    assert procfs.parse_capabilities(b"\nCapEff:\t8000000000000000\n") == {"CAP_63"}
    assert procfs.parse_capabilities(b"") == frozenset()


# ---------------------------------------------------------------------------------------------------------- one process


def test_one_process(tmp_path: Path) -> None:
    fd = proc(tmp_path)
    expected = ProcessFacts(
        30738, 94336, 30734, "cat", "/system.slice/ssh.service", 1000, "R", 112 << 10, 4 << 10, 8 << 10, 0, -17, False
    )
    assert procfs.read_process(fd, 30738) == expected
    known = procfs.read_process(fd, 30738, "/known", scores=True)
    assert known is not None
    assert (known.cgroup, known.oom_score) == ("/known", 666)
    assert procfs.start_ticks(fd, 30738) == 94336
    assert procfs.pids(fd) == [30738]
    assert procfs.read_process(fd, 1) is None
    assert procfs.start_ticks(fd, 1) is None
    os.close(fd)


@pytest.mark.parametrize("file", ["stat", "status", "cgroup", "oom_score", "oom_score_adj"])
def test_a_process_that_ends_while_it_is_read(tmp_path: Path, file: str) -> None:
    fd = proc(tmp_path)
    os.unlink(tmp_path / "30738" / file)
    before = len(os.listdir("/proc/self/fd"))
    assert procfs.read_process(fd, 30738, scores=True) is None
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(fd)


@pytest.mark.parametrize("file", ["stat", "status", "oom_score_adj"])
def test_what_comes_back_empty_is_gone(tmp_path: Path, file: str) -> None:
    """A process that ends between open and read: some files answer ESRCH, others nothing."""
    fd = proc(tmp_path, **{file: b""})
    assert procfs.read_process(fd, 30738) is None
    os.close(fd)


HOSTILE_COMMS = [
    b"cat",
    b"",
    b")",
    b"a) R 1 1 1 (b",
    b"\n\n0::/\n",
    b"Uid:\t0\nRssAnon:",
    b"\xff\xfe\x80",
    b"(((((((((((((((",
    b") Z 1 1 1 1 1 1",
    "ünïcödé".encode(),
]


@pytest.mark.parametrize("comm", HOSTILE_COMMS)
def test_hostile_names(tmp_path: Path, comm: bytes) -> None:
    fd = proc(tmp_path, stat=STAT % comm)
    facts = procfs.read_process(fd, 30738)
    assert facts is not None
    assert facts.comm.encode("utf-8", "surrogateescape") == comm
    assert (facts.pid, facts.state, facts.ppid, facts.start_ticks) == (30738, "R", 30734, 94336)
    os.close(fd)


@pytest.mark.kernel
@pytest.mark.parametrize("comm", HOSTILE_COMMS)
def test_hostile_names_given_to_the_kernel(proc_fd: int, comm: bytes, python: Python) -> None:
    process = python(f"ctypes.CDLL(None).prctl(15, ctypes.c_char_p({comm!r}), 0, 0, 0); ready(); time.sleep(1000)")
    facts = procfs.read_process(proc_fd, process.pid)
    assert facts is not None
    assert facts.comm.encode("utf-8", "surrogateescape") == comm[:15]
    assert (facts.ppid, facts.uid, facts.kernel_thread) == (os.getpid(), os.getuid(), False)
    assert facts.anon_bytes > 1 << 20
    assert facts.cgroup.startswith("/")
    assert facts.start_ticks == procfs.start_ticks(proc_fd, process.pid)


def test_a_status_with_ten_thousand_groups(tmp_path: Path) -> None:
    fd = proc(tmp_path, status=STATUS % b"4294967294 " * 10_000)
    facts = procfs.read_process(fd, 30738)
    assert facts is not None
    assert facts.anon_bytes == 112 << 10
    os.close(fd)


def test_a_kernel_thread_holds_nothing(tmp_path: Path) -> None:
    fd = proc(tmp_path, stat=STAT.replace(b" 4194304 ", b" 2129984 ") % b"kworker/R-a) (b")
    os.unlink(tmp_path / "30738/status")
    facts = procfs.read_process(fd, 30738)
    assert facts is not None
    assert (facts.kernel_thread, facts.held_bytes, facts.cgroup) == (True, 0, "/")
    os.close(fd)


@pytest.mark.kernel
def test_the_kernel_threads_of_this_machine(proc_fd: int) -> None:
    facts = procfs.read_process(proc_fd, 2)
    if facts is None or facts.comm != "kthreadd":
        pytest.skip("pid 2 is no kernel thread: this is a pid namespace of its own")
    assert facts.kernel_thread


def test_a_zombie_leader_with_living_threads_owns_its_memory(tmp_path: Path) -> None:
    fd = proc(tmp_path, stat=(STAT % b"z").replace(b") R ", b") Z "), status=ZOMBIE_STATUS % 3)
    plant(
        tmp_path / "30738/task", {"30738/status": ZOMBIE_STATUS % 3, "30739/status": b"", "30740/status": STATUS % b""}
    )
    facts = procfs.read_process(fd, 30738)
    assert facts is not None
    assert (facts.state, facts.anon_bytes, facts.swap_bytes, facts.uid) == ("Z", 112 << 10, 8 << 10, 1000)
    os.close(fd)


def test_a_zombie_has_let_go(tmp_path: Path) -> None:
    fd = proc(tmp_path, stat=(STAT % b"z").replace(b") R ", b") Z "), status=ZOMBIE_STATUS % 1)
    facts = procfs.read_process(fd, 30738)
    assert facts is not None
    assert (facts.state, facts.held_bytes, facts.uid) == ("Z", 0, 5)
    os.close(fd)


LEADER_ENDS = """
keep = bytearray(24 << 20)
keep[::4096] = b'x' * len(keep[::4096])
def stay():
    ready()
    time.sleep(1000)
threading.Thread(target=stay).start()
ctypes.CDLL(None).syscall(60 if os.uname().machine == 'x86_64' else 93, 0)
"""


@pytest.mark.kernel
def test_a_zombie_leader_of_the_kernel(proc_fd: int, python: Python) -> None:
    process = python(LEADER_ENDS)
    until(lambda: (facts := procfs.read_process(proc_fd, process.pid)) is not None and facts.state == "Z")
    facts = procfs.read_process(proc_fd, process.pid)
    assert facts is not None
    assert facts.anon_bytes >= 24 << 20


@pytest.mark.kernel
def test_a_zombie_of_the_kernel(proc_fd: int, python: Python) -> None:
    process = python("ready(); sys.stdin.readline()")
    process.kill()
    until(lambda: (facts := procfs.read_process(proc_fd, process.pid)) is not None and facts.state == "Z")
    facts = procfs.read_process(proc_fd, process.pid)
    assert facts is not None
    assert facts.held_bytes == 0
    process.wait()
    assert procfs.read_process(proc_fd, process.pid) is None


@pytest.mark.kernel
def test_shared_memory_is_held(proc_fd: int, python: Python) -> None:
    process = python(
        "import mmap; keep = mmap.mmap(-1, 16 << 20); keep[:] = b'x' * len(keep); ready(); sys.stdin.readline()"
    )
    facts = procfs.read_process(proc_fd, process.pid)
    assert facts is not None
    assert facts.shmem_bytes >= 16 << 20


@pytest.mark.kernel
def test_a_scan_of_this_machine_leaks_nothing(proc_fd: int, no_leak: None) -> None:
    seen = [procfs.read_process(proc_fd, pid, scores=True) for pid in procfs.pids(proc_fd)]
    mine = [facts for facts in seen if facts is not None and facts.pid == os.getpid()]
    assert len(mine) == 1
    assert mine[0].start_ticks > 0
    assert mine[0].oom_score_adj == int(Path("/proc/self/oom_score_adj").read_text())


@pytest.mark.kernel
def test_the_name_that_prctl_sets(proc_fd: int) -> None:
    before = Path("/proc/self/comm").read_bytes()[:-1]
    libc.prctl_set_name(b"a name that is too long")
    facts = procfs.read_process(proc_fd, os.getpid())
    libc.prctl_set_name(before)
    assert facts is not None
    assert facts.comm == "a name that is "


# -------------------------------------------------------------------------------------------------------------- cgroups


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (b"0::/system.slice/ssh.service\n", "/system.slice/ssh.service"),
        (b"0::/\n", "/"),
        (b"", ""),
        (b"0::/a:b::c\n", "/a:b::c"),
        (b"0::/x (deleted)\n", "/x (deleted)"),
        (b"0::/../other namespace\n", "/../other namespace"),
        (b"0::/\xff\n", os.fsdecode(b"/\xff")),
        (b"9:name=systemd:/\n4:memory:/box/20d8\n1:cpu:/\n0::/\n", "/box/20d8"),
        (b"9:name=systemd:/a.service\n4:cpu,memory:/b\n0::/\n", "/a.service"),
        (b"9:name=systemd:/a.service\n4:memory:/b\n", "/a.service"),
        (b"4:cpu,memory:/b\n1:net_cls:/memory\n", "/b"),
        (b"9:name=systemd:/a.service\n4:memory:/b\n0::/unified\n", "/unified"),
        (b"4:memory:/\n1:cpu:/x\n", "/"),
    ],
)
def test_the_cgroup_of_a_process(text: bytes, path: str) -> None:
    assert procfs.parse_cgroup(text) == path


def test_a_path_that_the_kernel_cannot_tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fs/proc answers ENAMETOOLONG for cgroups nested over 4096 bytes deep. One user's trick must not end all scans."""
    fd = proc(tmp_path)
    read_at = files.read_at

    def too_long(directory: int, name: str, path: str, size: int = 4096) -> bytes | None:
        if name == "cgroup":
            raise OSError(errno.ENAMETOOLONG, "File name too long")
        return read_at(directory, name, path, size)

    monkeypatch.setattr(files, "read_at", too_long)
    facts = procfs.read_process(fd, 30738)
    assert facts is not None
    assert facts.cgroup == ""
    os.close(fd)


@pytest.mark.parametrize("file", ["stat", "status", "cgroup", "oom_score_adj"])
def test_broken_is_an_error_with_its_path(tmp_path: Path, file: str, no_leak: None) -> None:
    fd = proc(tmp_path)
    os.unlink(tmp_path / "30738" / file)
    os.mkdir(tmp_path / "30738" / file)
    with pytest.raises(IsADirectoryError) as broken:
        procfs.read_process(fd, 30738)
    assert broken.value.filename == f"/proc/30738/{file}"
    os.close(fd)
