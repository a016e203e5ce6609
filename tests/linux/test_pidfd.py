"""A process held fast, and never another one that has its number."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from oomguard.linux import libc, pidfd, procfs

from .test_procfs import LEADER_ENDS, STAT
from .trees import plant, until

pytestmark = pytest.mark.kernel
Child = Callable[..., "subprocess.Popen[str]"]
Python = Callable[[str], "subprocess.Popen[str]"]


def ticks(proc_fd: int, pid: int) -> int:
    started = procfs.start_ticks(proc_fd, pid)
    assert started is not None
    return started


def test_hold_signal_gone(proc_fd: int, child: Child, no_leak: None) -> None:
    process = child()
    fd = pidfd.open_verified(proc_fd, process.pid, ticks(proc_fd, process.pid))
    assert fd is not None
    assert not pidfd.gone(fd)
    pidfd.send(fd, signal.SIGKILL)
    until(lambda: pidfd.gone(fd))
    assert process.wait() == -9
    with pytest.raises(ProcessLookupError):
        pidfd.send(fd, signal.SIGKILL)
    os.close(fd)


def test_another_start_time_is_another_process(proc_fd: int, child: Child, no_leak: None) -> None:
    process = child()
    assert pidfd.open_verified(proc_fd, process.pid, ticks(proc_fd, process.pid) - 1) is None


def test_the_number_now_belongs_to_somebody_else(tmp_path: Path, child: Child, no_leak: None) -> None:
    """What /proc says after the open decides: here it says that an older process had that number when it was ranked."""
    process = child()
    plant(tmp_path, {f"{process.pid}/stat": (STAT % b"sleep").replace(b"30738 ", b"%d " % process.pid)})
    fake = procfs.open_proc(str(tmp_path))
    fd = pidfd.open_verified(fake, process.pid, 94336)
    assert fd is not None
    os.close(fd)
    assert pidfd.open_verified(fake, process.pid, 94337) is None
    os.unlink(tmp_path / f"{process.pid}/stat")
    assert pidfd.open_verified(fake, process.pid, 94336) is None
    os.close(fake)


def test_the_kernel_gives_a_number_away_again(proc_fd: int, child: Child) -> None:
    """Reuse for real: the kernel is told to go on counting just before the number of a process that has ended."""
    if not os.access("/proc/sys/kernel/ns_last_pid", os.W_OK):
        pytest.skip(
            "/proc/sys/kernel/ns_last_pid is not ours to write to (CAP_CHECKPOINT_RESTORE, or the kernel's config)"
        )
    first = child()
    victim = first.pid
    started = ticks(proc_fd, victim)
    held = pidfd.open_verified(proc_fd, victim, started)
    assert held is not None
    first.kill()
    first.wait()
    # A start time is as coarse as a clock tick, 10 ms: no machine counts once around in that.
    for _ in range(50):  # others fork, too
        until(lambda: time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK") > started + 2)
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(victim - 1))
        second = child()
        if second.pid == victim:
            break
    else:
        pytest.skip(f"pid {victim} was not given away again in 50 tries: other processes took what came")
    assert pidfd.open_verified(proc_fd, victim, started) is None
    with pytest.raises(ProcessLookupError):
        pidfd.send(held, signal.SIGKILL)
    assert second.poll() is None
    os.close(held)


def test_gone_before_it_is_opened(proc_fd: int, child: Child, no_leak: None) -> None:
    process = child()
    started = ticks(proc_fd, process.pid)
    process.kill()
    process.wait()
    assert pidfd.open_verified(proc_fd, process.pid, started) is None


def test_a_thread_is_no_process(proc_fd: int, python: Python) -> None:
    process = python("threading.Thread(target=lambda: (ready(), time.sleep(1000))).start()")
    threads = [int(name) for name in os.listdir(f"/proc/{process.pid}/task")]
    (thread,) = set(threads) - {process.pid}
    assert pidfd.open_verified(proc_fd, thread, ticks(proc_fd, thread)) is None


def test_a_zombie_is_gone_for_us_before_anybody_waits(proc_fd: int, child: Child) -> None:
    process = child()
    fd = pidfd.open_verified(proc_fd, process.pid, ticks(proc_fd, process.pid))
    assert fd is not None
    process.kill()
    until(lambda: pidfd.gone(fd))
    os.close(fd)
    assert process.wait() == -9


def test_a_zombie_leader_is_not_gone(proc_fd: int, python: Python) -> None:
    """The leader has ended, its memory lives on in a thread: only when that is dead, all is."""
    process = python(LEADER_ENDS)
    until(lambda: (facts := procfs.read_process(proc_fd, process.pid)) is not None and facts.state == "Z")
    fd = pidfd.open_verified(proc_fd, process.pid, ticks(proc_fd, process.pid))
    assert fd is not None
    assert not pidfd.gone(fd)
    pidfd.send(fd, signal.SIGKILL)
    until(lambda: pidfd.gone(fd))
    os.close(fd)


def test_mrelease_of_the_dying_and_of_the_living(proc_fd: int, python: Python) -> None:
    process = python("keep = bytearray(64 << 20); keep[::4096] = b'x' * 16384; ready(); time.sleep(1000)")
    fd = pidfd.open_verified(proc_fd, process.pid, ticks(proc_fd, process.pid))
    assert fd is not None
    with pytest.raises(OSError, match="Invalid argument"):
        libc.process_mrelease(fd)
    pidfd.send(fd, signal.SIGKILL)
    try:
        libc.process_mrelease(fd)
    except ProcessLookupError:
        pass  # it was faster
    until(lambda: pidfd.gone(fd))
    process.wait()
    with pytest.raises(ProcessLookupError):
        libc.process_mrelease(fd)
    os.close(fd)


IN_ANOTHER_NAMESPACE = """
import os, sys
sys.path.insert(0, sys.argv[1])
from oomguard.linux import pidfd, procfs
proc_fd = procfs.open_proc()
assert os.getpid() == 1
print(pidfd.open_verified(proc_fd, 1, procfs.start_ticks(proc_fd, 1)))
"""


@pytest.mark.kernel
def test_a_number_of_another_namespace_is_nobody() -> None:
    """A host's /proc in a container: its pid 1 is not ours, though the number leads to us."""
    root = str(Path(__file__).resolve().parents[2])
    command = ["unshare", "--pid", "--fork", sys.executable, "-c", IN_ANOTHER_NAMESPACE, root]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unshare failed" in done.stderr:
        pytest.skip(f"no pid namespace can be made here: {done.stderr.strip()}")
    assert (done.stdout, done.stderr) == ("None\n", "")
