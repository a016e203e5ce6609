"""What became of it: looks at made-up trees, and the verdict on ourselves."""

import time
from pathlib import Path
from typing import Any

import pytest

from oomguard.workers import aftercare

STAT = "{pid} ({comm}) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 {ticks} 1 1 1\n"
STATUS = "Name:\tx\nUid:\t0\t0\t0\t0\nRssAnon:\t{kib} kB\nRssFile:\t1 kB\nRssShmem:\t0 kB\nVmSwap:\t0 kB\nThreads:\t1\n"
WEB = "/system.slice/web.service"


class Tree:
    """A /proc and a cgroup mount, with a service in it."""

    def __init__(self, root: Path) -> None:
        self.proc, self.cgroup = root / "proc", root / "cgroup"
        self.put(self.proc / "meminfo", "MemTotal: 1000 kB\nMemAvailable: 700 kB\nSwapFree: 5 kB\n")
        self.put(self.proc / "vmstat", "pgfault 1\noom_kill 7\n")
        self.put(self.proc / "pressure/memory", "some avg10=9.00 avg60=8.00\nfull avg10=1.50 avg60=2.25 avg300=0\n")
        self.put(self.cgroup / f"{WEB[1:]}/memory.current", "4096\n")
        self.put(self.cgroup / f"{WEB[1:]}/cgroup.procs", "10\n11\nnonsense\n")

    @staticmethod
    def put(path: Path, content: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    def process(self, pid: int, comm: str, kib: int, age_s: float) -> None:
        ticks = int((time.clock_gettime(time.CLOCK_BOOTTIME) - age_s) * 100)
        self.put(self.proc / str(pid) / "stat", STAT.format(pid=pid, comm=comm, ticks=ticks))
        self.put(self.proc / str(pid) / "status", STATUS.format(kib=kib))
        self.put(self.proc / str(pid) / "oom_score_adj", "0\n")

    def look(self, cgroup: str = WEB, **victim: Any) -> dict[str, Any]:
        row = {"pid": 5, "comm": "web", "cgroup": WEB, "bytes": 1 << 20, "by": "kernel"} | victim
        acted_ns = time.monotonic_ns() - 10 * 10**9
        return aftercare.look(str(self.proc), str(self.cgroup), cgroup, acted_ns, [row], 5)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_the_same_few_facts_each_time(tree: Tree) -> None:
    tree.process(10, "web", 100, age_s=3)
    tree.process(11, "web", 900, age_s=60)  # it was there before: no child of the restart
    found = tree.look()
    assert found.pop("at_s") >= 10
    assert found == {
        "available_bytes": 700 << 10,
        "swap_free_bytes": 5 << 10,
        "full_avg10": None,
        "cgroup_bytes": 4096,
        "kernel_kills": 2,
        "victims": [{"comm": "web", "cgroup": WEB, "restarted": True, "bytes": 100 << 10, "again": False}],
    }
    assert tree.look("/")["full_avg10"] == 1.5


def test_who_came_back_and_took_as_much_again_is_told(tree: Tree) -> None:
    tree.process(10, "web", 600, age_s=3)
    assert tree.look()["victims"][0]["again"] is True


def test_who_is_gone_for_good(tree: Tree) -> None:
    (gone,) = tree.look(cgroup="/nowhere", comm="other")["victims"]
    assert (gone["restarted"], gone["again"], gone["bytes"]) == (False, False, 0)


def story(**more: Any) -> dict[str, Any]:
    kill = {"errno": 0, "held": False}
    plain = {"kills": [kill], "kernel_kills": [], "killed_by": "oomguard", "no_guard": None, "outcome": "calm"}
    return plain | {"freed_bytes": 5, "mode": "enforce"} | more


BACK = {"comm": "web", "again": True}
LOOK = {"kernel_kills": 0, "victims": []}
CAME_BACK = "it helped until web came back and took as much again"
NOBODY = {"reason": "uncovered", "text": "no guard covers /x"}


@pytest.mark.parametrize(
    ("plain", "after", "helped", "kernel", "unable", "text"),
    [
        (story(), [], True, False, None, "it helped: one kill, and memory was clear"),
        (story(freed_bytes=0), [], False, False, None, "it freed nothing"),
        (story(outcome=""), [], None, False, None, "it is not known yet whether it helped"),
        (story(), [LOOK | {"kernel_kills": 1}], False, True, None, "the kernel killed as well"),
        (story(kernel_kills=[1]), [], False, True, None, "the kernel killed as well"),
        (story(), [LOOK | {"victims": [BACK]}], False, False, None, CAME_BACK),
        (
            story(kills=[], kernel_kills=[1], killed_by="kernel", no_guard=NOBODY),
            [LOOK | {"kernel_kills": 1}],
            None,
            True,
            "uncovered",
            "nobody acted: no guard covers /x",
        ),
        (
            story(kills=[], no_guard=NOBODY, killed_by="none"),
            [],
            None,
            False,
            "uncovered",
            "nobody acted: no guard covers /x",
        ),
        (
            story(kills=[{"errno": 0, "held": True}], mode="observe", killed_by="none"),
            [],
            None,
            False,
            None,
            "observe mode: nothing was touched",
        ),
        (story(kills=[], killed_by="none"), [], None, False, None, "nothing had to be done"),
    ],
)
def test_the_verdict_on_ourselves(
    plain: dict[str, Any], after: list[dict[str, Any]], helped: bool | None, kernel: bool, unable: str | None, text: str
) -> None:
    told = aftercare.verdict(plain, after)
    assert (told["helped"], told["kernel_killed"], told["unable"], told["text"]) == (helped, kernel, unable, text)
