"""A machine as files: a /proc with processes and a cgroup tree. `check --against` is given such a tree."""

from pathlib import Path

MIB = 1 << 20
PRESSURE = (
    "some avg10={0:.2f} avg60={0:.2f} avg300=0.00 total=0\nfull avg10={0:.2f} avg60={0:.2f} avg300=0.00 total=0\n"
)
STAT = "anon {anon}\nfile {file}\nshmem 0\nslab_reclaimable 0\n"
STATUS = """Name:\t{comm}
Uid:\t{uid}\t{uid}\t{uid}\t{uid}
VmRSS:\t{kib:8d} kB
RssAnon:\t{kib:8d} kB
RssFile:\t       0 kB
RssShmem:\t       0 kB
VmSwap:\t       0 kB
Threads:\t1
"""


class Tree:
    """1 GiB, of which so much is available; swap as asked."""

    def __init__(self, root: Path, available_mib: int = 900, swap_mib: int = 512, total_mib: int = 1024) -> None:
        self.total_mib = total_mib
        self.root, self.proc, self.cgroup = root, root / "proc", root / "sys/fs/cgroup"
        (self.proc / "pressure").mkdir(parents=True)
        (self.proc / "pressure/memory").write_text(PRESSURE.format(0))
        (self.proc / "vmstat").write_text("nr_free_pages 1\noom_kill 0\nworkingset_refault_file 0\n")
        (self.proc / "self").mkdir()
        (self.proc / "self/mounts").write_text(f"cgroup2 {self.cgroup} cgroup2 rw 0 0\n")
        self.memory(available_mib, swap_mib)
        self.cgroup.mkdir(parents=True)
        (self.cgroup / "cgroup.controllers").write_text("memory\n")
        (self.cgroup / "cgroup.procs").write_text("")

    def memory(self, available_mib: int, swap_mib: int = 512) -> None:
        lines = {"MemTotal": self.total_mib, "MemFree": available_mib, "MemAvailable": available_mib}
        lines |= {"SwapTotal": swap_mib, "SwapFree": swap_mib}
        text = "".join(f"{name + ':':16}{mib << 10:8d} kB\n" for name, mib in lines.items())
        (self.proc / "meminfo").write_text(text)

    def group(
        self, path: str, mib: int = 0, limit_mib: int | None = None, cache_mib: int = 0, pressure: float = 0
    ) -> None:
        """A cgroup and those above it."""
        directory = self.cgroup / path.strip("/")
        for above in reversed([directory, *directory.parents]):
            if above.is_relative_to(self.cgroup) and above != self.cgroup and not above.exists():
                above.mkdir()
                self._plant(above)
        (directory / "memory.current").write_text(f"{(mib + cache_mib) * MIB}\n")
        (directory / "memory.stat").write_text(STAT.format(anon=mib * MIB, file=cache_mib * MIB))
        (directory / "memory.max").write_text("max\n" if limit_mib is None else f"{limit_mib * MIB}\n")
        (directory / "memory.pressure").write_text(PRESSURE.format(pressure))

    def _plant(self, directory: Path) -> None:
        for name, text in {
            **dict.fromkeys(("memory.max", "memory.high", "memory.swap.max"), "max\n"),
            **dict.fromkeys(("memory.current", "memory.swap.current", "memory.oom.group"), "0\n"),
            "cgroup.procs": "",
            "cgroup.events": "populated 1\nfrozen 0\n",
            "memory.stat": STAT.format(anon=0, file=0),
            "memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n",
            "memory.pressure": PRESSURE.format(0),
        }.items():
            (directory / name).write_text(text)

    def process(self, pid: int, comm: str, path: str, mib: int, *, ppid: int = 1, score: int = 0, adj: int = 0) -> None:
        """A process that holds so much, in a cgroup that is there."""
        directory = self.proc / str(pid)
        directory.mkdir()
        fields = f"{ppid} {pid} {pid} 0 -1 4194560 " + "0 " * 12 + f"{pid} " + "0 " * 30
        (directory / "stat").write_text(f"{pid} ({comm}) S {fields}\n")
        (directory / "status").write_text(STATUS.format(comm=comm, uid=0, kib=mib << 10))
        (directory / "cgroup").write_text(f"0::{path}\n")
        (directory / "oom_score").write_text(f"{score}\n")
        (directory / "oom_score_adj").write_text(f"{adj}\n")
        with open(self.cgroup / path.strip("/") / "cgroup.procs", "a") as file:
            file.write(f"{pid}\n")

    @property
    def options(self) -> tuple[str, ...]:
        return ("--proc", str(self.proc), "--cgroup", str(self.cgroup))
