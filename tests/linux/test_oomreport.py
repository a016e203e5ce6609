"""The kernel's report of a kill, as several kernels print it, put together from its lines."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oomguard.linux.oomreport import Report, container, unit

# Kernel 6.12, a cgroup's limit.
MEMCG = """\
stress invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0
CPU: 1 UID: 1000 PID: 813 Comm: stress Not tainted 6.12.38+deb13-cloud-amd64 #1  Debian 6.12.38-1
Call Trace:
memory: usage 262144kB, limit 262144kB, failcnt 33
swap: usage 0kB, limit 9007199254740988kB, failcnt 0
Memory cgroup stats for /system.slice/web.service:
anon 266338304
Tasks state (memory values in pages):
[  pid  ]   uid  tgid total_vm      rss rss_anon rss_file rss_shmem pgtables_bytes swapents oom_score_adj name
[    811]  1000   811      920      310      60      250         0    45056        0             0 stress
[    812]  1000   812    67584    65536    65000      536         0   593920        0           200 a b) [x]
usb 1-1: new high-speed USB device number 2
oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,oom_memcg=/system.slice/web.service,\
task_memcg=/system.slice/web.service/worker,task=a b) [x],pid=812,uid=1000
Memory cgroup out of memory: Killed process 812 (a b) [x]) total-vm:270336kB, anon-rss:260000kB, file-rss:2144kB, \
shmem-rss:0kB, UID:1000 pgtables:580kB oom_score_adj:200"""

# Kernel 5.10, the whole machine.
GLOBAL = """\
tail invoked oom-killer: gfp_mask=0x100cca(GFP_HIGHUSER_MOVABLE), order=0, oom_score_adj=0
Tasks state (memory values in pages):
[  pid  ]   uid  tgid total_vm      rss pgtables_bytes swapents oom_score_adj name
[    233]     0   233    12345      700    98304        12         -1000 sshd
[    900]     0   900   250000   230000  1900544        0             0 tail
oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,\
task_memcg=/user.slice/user-1000.slice/session-3.scope,task=tail,pid=900,uid=0
Out of memory: Killed process 900 (tail) total-vm:1000000kB, anon-rss:920000kB, file-rss:0kB, shmem-rss:4kB, UID:0 \
pgtables:1856kB oom_score_adj:0"""


def told(*texts: str) -> list[dict[str, Any]]:
    report = Report()
    lines = [line for text in texts for line in text.splitlines()]
    return [found for line in lines if (found := report.line(line)) is not None]


def test_a_cgroups_limit() -> None:
    (report,) = told(MEMCG)
    tasks = report.pop("tasks")
    assert report == {
        "invoked_by": "stress",
        "constraint": "CONSTRAINT_MEMCG",
        "memcg": True,
        "oom_memcg": "/system.slice/web.service",
        "task_memcg": "/system.slice/web.service/worker",
        "unit": "web.service",
        "container": "",
        "usage_bytes": 256 << 20,
        "limit_bytes": 256 << 20,
        "victim": {
            "pid": 812,
            "comm": "a b) [x]",
            "uid": 1000,
            "anon_bytes": 260000 << 10,
            "file_bytes": 2144 << 10,
            "shmem_bytes": 0,
            "oom_score_adj": 200,
        },
        "tasks_seen": 2,
    }
    assert [(task["pid"], task["comm"], task["oom_score_adj"]) for task in tasks] == [
        (812, "a b) [x]", 200),
        (811, "stress", 0),
    ]


def test_the_whole_machine_on_an_older_kernel() -> None:
    (report,) = told(GLOBAL)
    assert (report["constraint"], report["memcg"], report["oom_memcg"]) == ("CONSTRAINT_NONE", False, "")
    assert (report["unit"], report["usage_bytes"]) == ("session-3.scope", None)
    assert [(task["comm"], task["oom_score_adj"]) for task in report["tasks"]] == [("tail", 0), ("sshd", -1000)]
    assert report["tasks"][0]["rss_bytes"] // 230000 in (4096, 16384, 65536)


def test_one_report_after_another_and_one_whose_beginning_was_overwritten() -> None:
    first, second, third = told(MEMCG, GLOBAL, MEMCG.splitlines()[-1])
    assert (first["victim"]["pid"], second["victim"]["pid"], third["victim"]["pid"]) == (812, 900, 812)
    assert (third["invoked_by"], third["constraint"], third["tasks"], third["memcg"]) == ("", "", [], True)


def test_of_a_crowd_the_largest_are_kept_and_all_are_counted() -> None:
    rows = [f"[{pid:7}]  1000 {pid}  920  {pid}  60  250  0  45056  0  0 worker" for pid in range(1, 5001)]
    lines = MEMCG.splitlines()
    (report,) = told("\n".join([*lines[:9], *rows, *lines[12:]]))
    assert report["tasks_seen"] == 5000
    assert [task["pid"] for task in report["tasks"]] == list(range(5000, 4980, -1))


@given(st.lists(st.sampled_from(MEMCG.splitlines()) | st.text(max_size=80), max_size=30))
def test_no_order_of_lines_makes_it_fail(lines: list[str]) -> None:
    for found in told("\n".join(lines)):
        assert found["victim"]["pid"] == 812


ID = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("cgroup", "of", "runs_in"),
    [
        ("/system.slice/web.service", "web.service", ""),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/a.scope", "a.scope", ""),
        (f"/system.slice/docker-{ID}.scope", f"docker-{ID}.scope", "docker 0123456789ab"),
        (f"/docker/{ID}", "", "docker 0123456789ab"),
        (f"/machine.slice/libpod-{ID}.scope/container", f"libpod-{ID}.scope", "podman 0123456789ab"),
        (
            f"/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope",
            f"cri-containerd-{ID}.scope",
            "containerd 0123456789ab",
        ),
        (f"/kubepods/burstable/pod9/{ID}", "", "pod 0123456789ab"),
        ("/lxc.payload.web/system.slice/x.service", "x.service", "lxc web"),
        ("/machine.slice/systemd-nspawn@web.service", "systemd-nspawn@web.service", "nspawn web"),
        ("/", "", ""),
        ("", "", ""),
    ],
)
def test_whose_cgroup_that_is(cgroup: str, of: str, runs_in: str) -> None:
    assert (unit(cgroup), container(cgroup)) == (of, runs_in)
