"""Who stands still while nobody acts: a machine and its cgroups as trees, and what is told of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oomguard.model.codec import to_plain
from oomguard.model.facts import Observation, TargetId
from oomguard.model.incident import Turn
from oomguard.model.verdict import Action, Kill, Notify
from oomguard.workers import standstill
from oomguard.workers.standstill import LONGEST_NS, UNWATCHED_AGAIN_NS, News, Watch, worst

SECOND = 1_000_000_000
HOST, WEB = TargetId("host", "/"), TargetId("web", "/system.slice/web.service")
LXC = "/lxc.payload/c1"


class Tree:
    """A /proc and a /sys/fs/cgroup; ``reads`` are the files of it that were read."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.proc, self.root = path / "proc", path / "cgroup"
        (self.proc / "pressure").mkdir(parents=True)
        self.root.mkdir()
        self.reads: list[str] = []
        read = standstill.read

        def counted(path: str) -> bytes:
            self.reads.append(path)
            return read(path)

        monkeypatch.setattr(standstill, "read", counted)
        self.machine(0, 0)
        self.watch = Watch(str(self.proc), str(self.root))

    def machine(self, some: float, full: float) -> None:
        (self.proc / "pressure" / "memory").write_text(pressure(some, full))

    def cgroup(self, path: str, some: float, full: float, **files: str) -> None:
        directory = self.root / path.strip("/")
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "memory.pressure").write_text(pressure(some, full))
        for above in directory.relative_to(self.root).parents:
            if above.name and not (self.root / above / "memory.pressure").exists():
                (self.root / above / "memory.pressure").write_text(pressure(some, 0))
        for name, usual in (("max", "max"), ("high", "max"), ("current", "1048576")):
            (directory / f"memory.{name}").write_text(files.get(name, usual) + "\n")

    def turn(
        self, *actions: Action, at_ns: int = 0, phases: tuple[tuple[str, str, str], ...] = (), **seen: Any
    ) -> None:
        plain: dict[str, Any] = to_plain(Turn(1, Observation(at_ns, **seen), actions, (), phases))
        self.watch.follow(plain)

    def look(self, at_s: float = 0, **begun: float) -> list[News]:
        opened = {TargetId("", LXC) if name == "lxc" else HOST: int(s * SECOND) for name, s in begun.items()}
        return list(self.watch.look(int(at_s * SECOND), opened))


def pressure(some: float, full: float) -> str:
    return f"some avg10=9.00 avg60={some:.2f} avg300=1.00 total=5\nfull avg10=9.00 avg60={full:.2f} avg300=1 total=5\n"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    return Tree(tmp_path, monkeypatch)


def test_calm_costs_one_read(tree: Tree) -> None:
    tree.turn(phases=(("host", "/", "calm"), *(("web", f"/system.slice/web{n}.service", "calm") for n in range(100))))
    tree.machine(5, 5)
    assert tree.look() == []
    assert len(tree.reads) == 1


def test_without_the_machines_pressure_only_the_guarded_are_read(tree: Tree) -> None:
    tree.turn(phases=(("host", "/", "calm"), ("web", WEB.cgroup, "calm")))
    (tree.proc / "pressure" / "memory").unlink()
    tree.cgroup(WEB.cgroup, 50, 45)
    tree.cgroup(LXC, 90, 90)
    assert [news.target for news in tree.look()] == [WEB]


def test_a_cgroup_that_no_guard_covers(tree: Tree) -> None:
    """4 GB LXC, an hour at its limit, 1.8 billion refaults, and nothing acts (opensource-server#436)."""
    tree.machine(60, 3)
    tree.cgroup("/lxc.payload", 60, 20)
    tree.cgroup(LXC, 60, 58, max="4294967296", current="4200000000")
    tree.cgroup(f"{LXC}/system.slice", 60, 57)
    tree.cgroup("/system.slice", 2, 1)
    tree.cgroup("/system.slice/sshd.service", 90, 90)  # stale: nothing can stall more than what it lies in
    (news,) = tree.look()
    assert news == News(TargetId("", LXC), None, f"{LXC} stood still for 58 % of a minute (PSI full)")
    assert not [path for path in tree.reads if "sshd" in path], "below a calm one nothing is looked at"


def test_the_machine_is_watched_and_the_limit_in_it_is_not(tree: Tree) -> None:
    tree.turn(phases=(("shadow:host", "/", "calm"), ("host", "/", "calm")))
    tree.machine(60, 3)
    tree.cgroup(LXC, 60, 58)
    (news,) = tree.look()
    assert (news.target, news.nearest) == (TargetId("", LXC), HOST)


def test_of_a_machine_that_stands_still_the_worst_are_named(tree: Tree) -> None:
    tree.turn(phases=(("host", "/", "calm"), ("web", WEB.cgroup, "calm")))
    tree.machine(80, 60)
    tree.cgroup("/system.slice", 80, 50)
    tree.cgroup(WEB.cgroup, 80, 50)
    for n in range(4):
        tree.cgroup(f"/user.slice/user-{n}.slice", 80, 40 + n)
    tree.cgroup("/user.slice", 80, 40)
    machine, web = tree.look()
    assert machine.target == HOST
    named = "/system.slice/web.service (50 %), /user.slice/user-3.slice (43 %), /user.slice/user-2.slice (42 %)"
    assert machine.text == f"the machine stood still for 60 % of a minute (PSI full); most of all {named}"
    assert web.target == WEB, "and a guard that could have acted is asked for itself"


def test_one_service_at_its_limit_on_an_idle_machine_is_not_the_machine(tree: Tree) -> None:
    """Seen in the virtual machine: nobody else wanted to run, so all of it was "full", with 69.5 % available."""
    tree.turn(phases=(("host", "/", "calm"),))
    tree.machine(43, 38)
    tree.cgroup("/work.slice", 60, 60)
    tree.cgroup("/work.slice/throttled.service", 60, 60, high="67108864", current="67200000")
    assert [news.target.cgroup for news in tree.look()] == ["/work.slice/throttled.service"]
    tree.cgroup("/work.slice/other.service", 50, 45)
    assert [news.target for news in tree.look(1)] == [HOST], "one that no limit holds: it is the machine after all"
    assert [news.target for news in tree.look(2, host=1)] == []


def test_whoever_was_just_helped_is_no_news(tree: Tree) -> None:
    tree.turn(phases=(("host", "/", "draining"),))
    tree.turn(Kill(HOST, 7, "KILL", "x"), at_ns=100 * SECOND)
    tree.machine(80, 60)
    assert tree.look(159) == []
    tree.machine(80, 10)
    tree.cgroup(LXC, 60, 58)
    assert tree.look(159) == [], "its guard has acted in there"
    tree.machine(80, 60)
    assert [news.target for news in tree.look(161)] == [HOST]


def test_it_ends(tree: Tree) -> None:
    tree.machine(60, 20)
    tree.cgroup(LXC, 60, 20)
    assert tree.look(100, lxc=50) == [], "between the bound and half of it, it goes on"
    tree.cgroup(LXC, 60, 16)
    (news,) = tree.look(100, lxc=50)
    assert (news.target.cgroup, news.over) == (LXC, "the pressure has eased")
    (tree.root / LXC[1:] / "memory.pressure").unlink()
    assert [news.over for news in tree.look(100, lxc=50)] == ["the pressure has eased"]


def test_what_goes_on_is_not_told_again_until_it_eases(tree: Tree) -> None:
    tree.turn(phases=(("host", "/", "calm"),))
    tree.machine(60, 40)
    assert [news.over for news in tree.look(LONGEST_NS / SECOND + 1, host=0)] == [
        "it goes on; these were its first ten minutes"
    ]
    assert tree.look(700) == []
    tree.machine(10, 5)
    assert tree.look(800) == []
    tree.machine(60, 40)
    assert [news.target for news in tree.look(900)] == [HOST]


def test_a_service_that_is_throttled_for_good_is_told_once_an_hour(tree: Tree) -> None:
    tree.machine(60, 3)
    tree.cgroup(LXC, 60, 58)
    hour = UNWATCHED_AGAIN_NS / SECOND
    assert [len(tree.look(at)) for at in (0, 30, hour - 1, hour, hour + 30)] == [1, 0, 0, 1, 0]


def test_what_was_refused_is_remembered_until_the_target_is_gone(tree: Tree) -> None:
    tree.turn(Notify(WEB, "NO_VICTIM", "all are spared"), phases=(("web", WEB.cgroup, "firing"),))
    assert tree.watch.refused[WEB] == ("NO_VICTIM", "all are spared")
    tree.turn(vanished=(WEB,))
    assert (tree.watch.refused, tree.watch.phases) == ({}, {})


def test_the_walk_is_bounded(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standstill, "READS_MAX", 20)
    for n in range(30):
        tree.cgroup(f"/a/{n:02}", 60, 58)
    tree.cgroup("/a", 60, 58)
    found = worst(str(tree.root))
    assert len([path for path in tree.reads if path.endswith("memory.pressure")]) == 20
    assert len(found) == standstill.NAMED_MAX
    assert {it.full for it in found} == {58}


@pytest.mark.parametrize("text", ["", "some avg10=0.00 avg60=x", "some avg10=0.00 avg60=90.00 avg300=0.00 total=1\n"])
def test_a_file_that_tells_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "memory").write_text(text)
    assert standstill.minute(str(tmp_path / "memory")) is None
    assert standstill.minute(str(tmp_path / "none")) is None
