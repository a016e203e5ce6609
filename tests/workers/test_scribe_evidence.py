"""Evidence from trees made of literals: what is read, in what order, within what limits, and what is hidden."""

import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from oomguard.model.secrets import redact
from oomguard.model.verdict import ProcessRef
from oomguard.workers import evidence
from oomguard.workers.evidence import Evidence, ancestry, arguments, flat, numbers

STAT = "{pid} ({comm}) S 1 1 1 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 1 0 {ticks} 1 1 1\n"
STATUS = (
    "Name:\t{comm}\nUid:\t1000\t1000\t1000\t1000\n"
    "RssAnon:\t{kib} kB\nRssFile:\t1 kB\nRssShmem:\t0 kB\nVmSwap:\t{swap} kB\nThreads:\t1\n"
)
MEMINFO = (
    "MemTotal:       1000 kB\nMemFree:  10 kB\nMemAvailable:  20 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n"
    "HugePages_Total: 3\n"
)


class Tree:
    """A /proc, a /sys and a cgroup mount."""

    def __init__(self, root: Path) -> None:
        self.proc, self.sys, self.cgroup = root / "proc", root / "sys", root / "cgroup"
        self.put(self.proc / "meminfo", MEMINFO)
        self.put(self.proc / "vmstat", "nr_free_pages 10\npgfault 99\n")
        self.put(self.proc / "pressure" / "memory", "some avg10=1.00 avg60=0.00 avg300=0.00 total=5\n")
        self.put(self.sys / "block" / "zram0" / "mm_stat", "4096 1024 2048 0 2048 0 0 0 0\n")
        self.put(self.sys / "block" / "sda" / "size", "1\n")
        for path in ("", "a.slice", "a.slice/b.service", "c.slice"):
            directory = self.cgroup / path
            self.put(directory / "memory.stat", "anon 5\nfile 6\n")
            self.put(directory / "memory.pressure", "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n")
            if path:
                self.put(directory / "memory.current", "4096\n")
                self.put(directory / "memory.max", "max\n")

    @staticmethod
    def put(path: Path, content: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode("utf-8", "surrogateescape"))

    def process(self, pid: int, kib: int, comm: str = "x", ticks: int = 7, flags: int = 0, cmdline: str = "") -> None:
        directory = self.proc / str(pid)
        self.put(directory / "stat", STAT.format(pid=pid, comm=comm, flags=flags, ticks=ticks))
        self.put(directory / "status", STATUS.format(comm="escaped", kib=kib, swap=0))
        self.put(directory / "cgroup", "0::/a.slice/b.service\n")
        self.put(directory / "oom_score", "666\n")
        self.put(directory / "oom_score_adj", "-5\n")
        self.put(directory / "statm", "1 1 1 1 1 1 1\n")
        self.put(directory / "cmdline", cmdline)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


class Gathered:
    """An Evidence on a tree, and all that it kept verbatim."""

    def __init__(self, tree: Tree) -> None:
        self.raw: dict[str, bytes] = {}
        self.it = Evidence(
            str(tree.proc), str(tree.cgroup), self.raw.__setitem__, time.monotonic_ns(), sys=str(tree.sys)
        )

    def all(self, steps: Iterator[None]) -> dict[str, object]:
        for _ in steps:
            pass
        return self.it.facts


@pytest.fixture
def gathered(tree: Tree) -> Gathered:
    return Gathered(tree)


def ref(pid: int, ticks: int = 7) -> ProcessRef:
    return ProcessRef(pid, ticks, "x", "/a.slice/b.service", 0)


def test_soft_takes_everything(tree: Tree, gathered: Gathered) -> None:
    tree.process(10, 500, comm="big) (one", cmdline="/bin/big\0--token=abc\0")
    tree.process(11, 5)
    tree.process(2, 0, comm="kthreadd", flags=0x00200000)
    facts = gathered.all(gathered.it.soft(["/a.slice"], (ref(10),)))
    assert facts["meminfo"] == {"soft": {**numbers(MEMINFO.encode())}}
    assert facts["vmstat"] == {"soft": {"nr_free_pages": 10, "pgfault": 99}}
    assert facts["pressure"] == {"soft.memory": "some avg10=1.00 avg60=0.00 avg300=0.00 total=5\n"}
    assert facts["zram"] == {"soft.zram0": {"stored_bytes": 4096, "compressed_bytes": 1024, "memory_bytes": 2048}}
    assert facts["cgroups"] == {
        "soft": {
            "/a.slice": {
                "memory.current": 4096,
                "memory.stat": {"anon": 5, "file": 6},
                "memory.max": "max",
                "memory.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0",
            },
            "/": {
                "memory.stat": {"anon": 5, "file": 6},
                "memory.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0",
            },
        }
    }
    first, second = facts["processes"]  # type: ignore[misc]
    assert first == {
        "pid": 10,
        "start_ticks": 7,
        "ppid": 1,
        "comm": "big) (one",
        "cgroup": "/a.slice/b.service",
        "uid": 1000,
        "state": "S",
        "held_bytes": 500 << 10,
        "anon_bytes": 500 << 10,
        "shmem_bytes": 0,
        "swap_bytes": 0,
        "oom_score": 666,
        "oom_score_adj": -5,
        "growth_bytes": None,
    }
    assert second["pid"] == 11
    assert facts["processes_seen"] == {"user": 2, "kernel": 1, "held_bytes": 505 << 10}
    assert facts["cmdlines"] == {"10": "/bin/big --token=[redacted]"}
    assert gathered.raw["soft/meminfo"] == MEMINFO.encode()
    assert gathered.raw["soft/cgroup.a.slice.memory.current"] == b"4096\n"
    assert gathered.raw["soft/victim.10.oom_score_adj"] == b"-5\n"
    assert not any("cmdline" in place or "environ" in place for place in gathered.raw)
    assert gathered.it.cut == 0


def test_the_victim_is_read_first(tree: Tree, gathered: Gathered) -> None:
    tree.process(10, 500)
    gathered.all(gathered.it.hard(["/a.slice"], (ref(10),)))
    places = list(gathered.raw)
    assert places[0] == "hard/victim.10.stat"
    assert (
        places.index("hard/victim.10.cgroup")
        < places.index("hard/meminfo")
        < places.index("hard/cgroup.root.memory.stat")
    )


def test_a_pid_that_is_somebody_elses_by_now_is_not_the_victim(tree: Tree, gathered: Gathered) -> None:
    tree.process(10, 500, ticks=8)
    gathered.all(gathered.it.hard(["/"], (ref(10, ticks=7),)))
    assert not any("victim" in place for place in gathered.raw)


def test_ancestors_are_read_once(gathered: Gathered) -> None:
    gathered.all(gathered.it.after("gone", ["/a.slice", "/a.slice/b.service", "/c.slice"]))
    assert list(gathered.it.facts["cgroups"]["gone"]) == ["/a.slice", "/", "/a.slice/b.service", "/c.slice"]  # type: ignore[index]
    assert "gone/cgroup.a.slice!b.service.memory.max" in gathered.raw


def test_two_stages_in_turns_each_keep_their_own_deadline(
    tree: Tree, gathered: Gathered, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hard watermark comes in the middle of the soft one's evidence, and has less time."""
    monkeypatch.setattr(evidence, "HARD_S", -1.0)
    tree.process(10, 500)
    soft = gathered.it.soft(["/"], ())
    next(soft)
    gathered.all(gathered.it.hard(["/"], ()))
    facts = gathered.all(soft)
    hard_stage, soft_stage = facts["taken"]  # type: ignore[misc]
    assert (hard_stage["stage"], soft_stage["stage"]) == ("hard", "soft")
    assert hard_stage["cut"] > 0
    assert "soft" in facts["meminfo"]  # type: ignore[operator]
    assert facts["processes"]


def test_when_time_is_over_the_rest_is_cut_and_counted(
    tree: Tree, gathered: Gathered, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "SOFT_S", -1.0)
    tree.process(10, 1)
    facts = gathered.all(gathered.it.soft(["/"], (ref(10),)))
    assert gathered.raw == {}
    assert facts["taken"][0]["cut"] == gathered.it.cut > 10  # type: ignore[index]


def test_a_table_for_which_there_was_no_time_is_made_late(
    tree: Tree, gathered: Gathered, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.process(10, 500)
    with monkeypatch.context() as slow:
        slow.setattr(evidence, "SOFT_S", -1.0)
        assert gathered.all(gathered.it.soft(["/"], ()))["processes"] == []
    facts = gathered.all(gathered.it.rest(["/"]))
    assert [row["pid"] for row in facts["processes"]] == [10]  # type: ignore[attr-defined]
    assert "late" not in facts.get("meminfo", {}), "nothing that was read is read again"  # type: ignore[operator]


def test_no_file_and_no_sum_of_files_is_larger_than_its_limit(tree: Tree, gathered: Gathered) -> None:
    tree.put(tree.proc / "vmstat", "x 1\n" * 200_000)
    for number in range(40):
        tree.put(tree.cgroup / f"{number}" / "memory.stat", "x 1\n" * 50_000)
    gathered.all(gathered.it.soft([f"/{number}" for number in range(40)], ()))
    assert max(map(len, gathered.raw.values())) <= evidence.FILE_MAX
    assert sum(map(len, gathered.raw.values())) <= evidence.TOTAL_MAX + evidence.FILE_MAX
    assert gathered.it.cut > 0


def test_the_largest_of_many_processes(tree: Tree, gathered: Gathered, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "TABLE_MAX", 3)
    for pid in range(10, 30):
        tree.process(pid, kib=pid % 7)
    facts = gathered.all(gathered.it.soft(["/"], ()))
    assert [(row["pid"], row["held_bytes"] >> 10) for row in facts["processes"]] == [(13, 6), (20, 6), (27, 6)]  # type: ignore[attr-defined]
    assert facts["processes_seen"]["user"] == 20  # type: ignore[index]


def test_nothing_there_at_all(tmp_path: Path) -> None:
    empty = Evidence(str(tmp_path / "p"), str(tmp_path / "c"), lambda place, data: None, 0, sys=str(tmp_path / "s"))
    for _ in itertools.chain(empty.soft(["/"], (ref(1),)), empty.rest(["/"])):
        pass
    assert set(empty.facts) == {"taken", "cmdlines"}


def test_a_command_line_that_blocks_is_not_waited_for(
    tree: Tree, gathered: Gathered, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process holds the mmap lock for seconds. What was read before it is kept; a second try does not pile up."""
    tree.process(10, 500, cmdline="first\0")
    tree.process(11, 400, cmdline="blocks\0")
    tree.process(12, 300, cmdline="third\0")
    release = threading.Event()
    read = evidence._read

    def slow(path: str, most: int = evidence.FILE_MAX) -> bytes | None:
        if path.endswith("/11/cmdline"):
            release.wait(20)
        return read(path, most)

    monkeypatch.setattr(evidence, "_read", slow)
    monkeypatch.setattr(evidence, "_CMDLINE_S", 0.1)
    began = time.monotonic()
    facts = gathered.all(gathered.it.soft(["/"], ()))
    assert facts["cmdlines"] == {"10": "first"}
    assert gathered.it.cut == 2
    threads = threading.active_count()
    again = Gathered(tree)
    assert again.all(again.it.soft(["/"], ()))["cmdlines"] == {}
    assert threading.active_count() == threads
    assert time.monotonic() - began < 10
    release.set()
    deadline = time.monotonic() + 20
    while evidence._Cmdlines.busy:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_every_step_is_small(tree: Tree, gathered: Gathered) -> None:
    """Between two steps something more urgent may be done: at most a handful of files a step."""
    for pid in range(10, 200):
        tree.process(pid, 1)
    steps = sum(1 for _ in gathered.it.soft(["/a.slice"], ()))
    assert steps > 190 / 8 + 12


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/", ["/"]), ("", ["/"]), ("/a", ["/a", "/"]), ("/a/b", ["/a/b", "/a", "/"])],
)
def test_ancestry(path: str, expected: list[str]) -> None:
    assert ancestry(path) == expected


def test_a_cgroup_name_makes_no_path_and_no_file_name_that_is_too_long() -> None:
    assert flat("/a/../b") == "a!..!b"
    assert len(flat("/x" * 4000)) == 150
    assert ancestry("/x" * 4000)[-1] == "/"
    assert len(ancestry("/x" * 4000)) <= 17


SECRETS = [
    ("mysql --password=abc -h db", "mysql --password=[redacted] -h db"),
    ("mysql --password abc -h db", "mysql --password [redacted] -h db"),
    ("x --api-key ABC --keyboard us", "x --api-key [redacted] --keyboard us"),
    ("x --access_token=ABC --tokenizer=bpe", "x --access_token=[redacted] --tokenizer=bpe"),
    ("env DB_PASSWORD=hunter2 AUTHOR=me monkey=1", "env DB_PASSWORD=[redacted] AUTHOR=me monkey=1"),
    ("java -Dspring.datasource.password=x1 -Xmx2g", "java -Dspring.datasource.password=[redacted] -Xmx2g"),
    ("curl -u joe:pw https://joe:pw@host/x", "curl -u joe:[redacted] https://joe:[redacted]@host/x"),
    ("curl -u joe http://h:80/x", "curl -u joe http://h:80/x"),
    ("curl https://h/x?token=abc&y=1", "curl https://h/x?token=[redacted]&y=1"),
    ("psql postgres://u:p@h/db", "psql postgres://u:[redacted]@h/db"),
    ("x AWS_SECRET_ACCESS_KEY=a/b+c", "x AWS_SECRET_ACCESS_KEY=[redacted]"),
    ("x AKIAABCDEFGHIJKLMNOP", "x [redacted]"),
    ("x ghp_abcdefghijklmnopqrstuvwxyz", "x [redacted]"),
    ("x eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx.abc", "x [redacted]"),
    (
        "sshd -o PasswordAuthentication=no",
        "sshd -o PasswordAuthentication=[redacted]",
    ),  # rather too much than too little
    ("python -m http.server --bind :: 80", "python -m http.server --bind :: 80"),
    ("make -j8 all", "make -j8 all"),
]


@pytest.mark.parametrize(("command", "expected"), SECRETS)
def test_secrets(command: str, expected: str) -> None:
    assert redact(command.split(" ")) == expected


@pytest.mark.parametrize(
    ("words", "secret"),
    [
        (["curl", "-H", "Authorization: Bearer abcdefghijkl"], "abcdefghijkl"),
        (["curl", "-H", "X-Api-Key: abcdefghijkl"], "abcdefghijkl"),
        (["curl", "-d", '{"password": "abcdefghijkl"}'], "abcdefghijkl"),
        (["x", "--config", "user=joe;password=abcdefghijkl;db=x"], "abcdefghijkl"),
        (["x", "--header", "Cookie: session=abcdefghijkl"], "abcdefghijkl"),
    ],
)
def test_secrets_inside_a_word(words: list[str], secret: str) -> None:
    assert secret not in redact(words)


def test_a_command_line_cannot_make_the_redactor_slow() -> None:
    for word in ("a" * 4096, "--" + "password" * 500, "a:b@" * 1000, "key" * 1300, "https://" + "a" * 4000):
        began = time.process_time()
        redact([word] * 3)
        assert time.process_time() - began < 2


def test_arguments() -> None:
    assert arguments(b"a\0b c\0\0") == ["a", "b c"]
    assert arguments(b"\xff") == ["\udcff"]


def test_numbers() -> None:
    assert numbers(b"MemTotal:  2 kB\npgfault 3\nHugePages_Total:  4\nName:\tx\n\nx\n") == {
        "MemTotal": 2048,
        "pgfault": 3,
        "HugePages_Total": 4,
    }


def test_the_real_machine() -> None:
    kept: dict[str, bytes] = {}
    real = Evidence("/proc", "/sys/fs/cgroup", kept.__setitem__, time.monotonic_ns())
    for _ in real.soft(["/"], ()):
        pass
    assert real.cut == 0
    assert any(row["pid"] == os.getpid() for row in real.facts["processes"])  # type: ignore[attr-defined]
