"""How the doctor looks: what is tried is tried on a child, what is read is read as the kernel and systemd write it."""

import errno
import os
import signal
from pathlib import Path

import pytest

from oomguard.cli import beside, hierarchies
from oomguard.cli.findings.facts import Managed
from oomguard.cli.hierarchies import Hierarchies
from oomguard.cli.probe import kernel, memory, neighbours, rights, systemd, tried
from oomguard.cli.probe.places import Places

from .tree import Tree

# ------------------------------------------------------------------------------------------------------------- tried


def refused() -> None:
    raise PermissionError(errno.EPERM, "")


def filtered() -> None:
    os.kill(os.getpid(), signal.SIGSYS)


def broken() -> None:
    raise LookupError("x")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: None, ""),
        (refused, "Operation not permitted (EPERM)"),
        (filtered, "a seccomp filter kills whoever calls it"),
        (broken, "LookupError: x"),
        (lambda: signal.raise_signal(signal.SIGALRM), f"it did not come back in {tried.PATIENCE_S} s"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "the caller was killed by SIGKILL"),
    ],
)
def test_a_thing_is_tried_on_a_child(call: "tried.Callable[[], None]", said: str) -> None:
    me = os.getpid()
    assert tried.on_a_child(call) == said
    assert os.getpid() == me
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_victim_is_gone_afterwards() -> None:
    with tried.Victim() as pid:
        assert Path(f"/proc/{pid}/comm").exists()
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize(
    "name", ["pidfd_open", "pidfd_send_signal", "inotify", "signalfd", "memfd_create", "insurance"]
)
def test_what_any_linux_can(name: str) -> None:
    assert tried.on_a_child(kernel.CALLS[name]) == ""


def test_an_insurance_is_put_back() -> None:
    before = Path("/proc/self/oom_score_adj").read_text()
    kernel.CALLS["insurance"]()
    assert Path("/proc/self/oom_score_adj").read_text() == before


# -------------------------------------------------------------------------------------------------------------- read

HYBRID = b"""tmpfs /sys/fs/cgroup tmpfs rw,relatime,mode=755 0 0
cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0
cgroup2 /nowhere/a\\040b cgroup2 rw,relatime 0 0
"""


def test_a_hybrid_machine() -> None:
    found = hierarchies.parse(HYBRID)
    assert (found.flavour, found.version, found.memory) == ("hybrid", 1, "/sys/fs/cgroup/memory")
    assert found.unified == "/nowhere/a b"
    assert found.v1["cpuacct"] == "/sys/fs/cgroup/cpu,cpuacct"


def test_other_machines(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    line = f"cgroup2 {tmp_path} cgroup2 rw,nosuid 0 0\n".encode()
    assert hierarchies.parse(line) == Hierarchies("v2", str(tmp_path), str(tmp_path), {})
    assert hierarchies.parse(HYBRID + line).flavour == "v2", "the one with the memory counts"
    assert hierarchies.parse(HYBRID.rpartition(b"cgroup2")[0]).flavour == "v1"
    assert hierarchies.parse(b"proc /proc proc rw 0 0\n") == Hierarchies("none", None, None, {})


LIMITS = """Limit                     Soft Limit           Hard Limit           Units
Max cpu time              unlimited            unlimited            seconds
Max processes             96320                96320                processes
Max open files            1024                 524288               files
Max locked memory         8388608              unlimited            bytes
Max realtime priority     0                    20
"""


def test_limits_are_the_hard_ones() -> None:
    assert rights.hard_limits(LIMITS) == {"RLIMIT_NOFILE": 524288, "RLIMIT_MEMLOCK": None, "RLIMIT_RTPRIO": 20}
    assert rights.hard_limits("") == {}
    assert set(rights.hard_limits(Path("/proc/self/limits").read_text())) == {
        "RLIMIT_NOFILE",
        "RLIMIT_MEMLOCK",
        "RLIMIT_RTPRIO",
    }


def test_swap_on_zram() -> None:
    head = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
    assert memory.zram(head + "/dev/zram0 partition 524284 0 100\n/swapfile file 524284 0 -2\n") == ("/dev/zram0",)
    assert memory.zram("") == ()


def test_another_machines_files(tmp_path: Path) -> None:
    """Read, nothing tried, nobody asked; and it is said so."""
    tree = Tree(tmp_path, swap_mib=0)
    (tree.proc / "sys/vm").mkdir(parents=True)
    set_to = {"overcommit_memory": 2, "swappiness": 60, "panic_on_oom": 1, "min_free_kbytes": 4096}
    for name, value in (set_to | {"compact_unevictable_allowed": 1}).items():
        (tree.proc / "sys/vm" / name).write_text(f"{value}\n")
    (tmp_path / "sys/kernel/mm/lru_gen").mkdir(parents=True)
    (tmp_path / "sys/kernel/mm/lru_gen/enabled").write_text("0x0007\n")
    places = Places(str(tree.proc), str(tree.cgroup), str(tmp_path / "sys"))
    seen = memory.look(places)
    assert (seen.total_bytes, seen.swap_bytes, seen.overcommit, seen.panic_on_oom) == (1 << 30, 0, 2, 1)
    assert (seen.min_free_bytes, seen.lru_gen, seen.watermark_scale_factor) == (4 << 20, 7, None)
    assert seen.compact_unevictable == 1
    looked = kernel.look(places)
    assert (looked.flavour, looked.pressure, looked.trigger, looked.calls) == ("v2", "", None, {})
    assert rights.look(places, None).capabilities is None
    assert [it for it in places.unseen if "another machine's files" in it]


SHOWN = """Id=a.service
ManagedOOMSwap=auto

Id=-.slice
ManagedOOMSwap=kill
ControlGroup=/=x

"""


def test_what_systemctl_shows() -> None:
    assert systemd.blocks(SHOWN) == [
        {"Id": "a.service", "ManagedOOMSwap": "auto"},
        {"Id": "-.slice", "ManagedOOMSwap": "kill", "ControlGroup": "/=x"},
    ]
    assert systemd.blocks("") == []


def test_who_does_not_answer_is_noted() -> None:
    places = Places()
    assert systemd.asked(places, ["oomguard-no-such-command"]) is None
    assert systemd.asked(places, ["sh", "-c", "echo no bus >&2; exit 3"]) is None
    assert places.unseen[1] == "sh: no bus"


OOMCTL = """Dry Run: no
Swap Used Limit: 90.00%
Default Memory Pressure Limit: 60.00%
Default Memory Pressure Duration: 30s
System Context:
        Memory: Used: 314.0M Total: 965.4M
        Swap: Used: 0B Total: 0B
Swap Monitored CGroups:
        Path: /
                Swap Usage: (see System Context)
Memory Pressure Monitored CGroups:
        Path: /user.slice/user-1000.slice/user@1000.service
                Memory Pressure Limit: 50.00%
                Pressure: Avg10: 0.00 Avg60: 0.00 Avg300: 0.00 Total: 0
                Current Memory Usage: 12.0M
"""


def test_what_oomctl_says() -> None:
    assert neighbours.of_oomctl(OOMCTL) == [
        Managed("/", "swap"),
        Managed("/user.slice/user-1000.slice/user@1000.service", "memory pressure"),
    ]


def test_other_daemons_by_the_names_of_their_processes(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    tree.group("/a")
    for pid, comm in ((7, "earlyoom"), (8, "systemd-oomd"), (9, "low-memory-moni"), (10, "earlyoomx")):
        tree.process(pid, comm, "/a", 1)
        (tree.proc / str(pid) / "comm").write_text(f"{comm}\n")
    found = {it.name: it.pid for it in neighbours.look(Places(str(tree.proc), str(tree.cgroup)))}
    assert found == {"earlyoom": 7, "systemd-oomd": 8, "low-memory-monitor": 9}
    assert all(len(name) <= 15 for name in beside.DAEMONS), "comm is cut there"
