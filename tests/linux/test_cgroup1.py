"""What only a cgroup of v1 has, as plain files and as the kernel has it; what both versions do is in test_cgroup.py."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oomguard.linux import cgroup1, cgroup2, psi
from oomguard.linux.cgroup1 import Cgroup
from oomguard.linux.events import WRITES, TreeWatch
from oomguard.model.facts import MemoryEvents, MemoryStat, Pressure, Refaults, Stall

from . import trees
from .trees import CGROUP1_FILES, HOG, MEMORY_STAT_1, NO_LIMIT, FakeTree1, KernelTree1, grow, plant, until

Start = Callable[[str], "subprocess.Popen[str]"]
MIB = 1 << 20


@contextlib.contextmanager
def held(tree: FakeTree1 | KernelTree1, path: str = "") -> Iterator[Cgroup]:
    with trees.held(tree, path) as cgroup:
        assert isinstance(cgroup, Cgroup), "whoever opens a cgroup gets the right one"
        yield cgroup


@pytest.fixture
def fake(tmp_path: Path) -> FakeTree1:
    return FakeTree1(tmp_path)


# ------------------------------------------------------------------------------------------------------------- parsers


def stat(**lines: int) -> bytes:
    return "".join(f"{name} {value}\n" for name, value in lines.items()).encode()


def test_only_what_is_below_counts_too() -> None:
    assert cgroup1.parse_stat(MEMORY_STAT_1, 77) == MemoryStat(1052672, 263192576, 4096, 77)


def test_before_4_18_shared_memory_is_what_is_cached_and_on_no_list_of_files() -> None:
    old = MEMORY_STAT_1.replace(b"total_shmem 4096\n", b"")
    found = cgroup1.parse_stat(old)
    assert found is not None
    assert found.shmem_bytes == 263192576 - 263164928 - 24576


def test_locked_files_cannot_be_dropped_either() -> None:
    locked = stat(total_cache=100, total_rss=7, total_shmem=10, total_inactive_file=20, total_active_file=30)
    found = cgroup1.parse_stat(locked)
    assert found is not None
    assert found.reclaimable_bytes == 50


def test_anonymous_pages_on_the_lists_of_files_make_no_cache_of_use() -> None:
    """MADV_FREE puts them there: the lists then hold more than there is of cache."""
    lazy = stat(total_cache=100, total_rss=900, total_shmem=10, total_inactive_file=500, total_active_file=0)
    found = cgroup1.parse_stat(lazy)
    assert found is not None
    assert found.reclaimable_bytes == 90


@pytest.mark.parametrize("length", [0, 10, 500, len(MEMORY_STAT_1) - 60])
def test_half_a_stat_is_none(length: int) -> None:
    assert cgroup1.parse_stat(MEMORY_STAT_1[:length]) is None


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"oom_kill_disable 1\nunder_oom 1\noom_kill 7\n", (True, True, 7)),
        (b"oom_kill_disable 0\nunder_oom 0\n", (False, False, 0)),  # before 4.13
        (b"oom_kill_disable 1\nunder_o", (True, False, 0)),
        (b"", (False, False, 0)),
    ],
)
def test_oom_control(data: bytes, expected: tuple[bool, bool, int]) -> None:
    assert cgroup1.parse_oom_control(data) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (NO_LIMIT, None),
        (b"9223372036854710272\n", None),  # pages of 64 KiB
        (b"268435456\n", 268435456),
        (b"0\n", 0),
        (None, None),
        (b"-1\n", -1),
    ],
)
def test_what_was_never_limited_is_a_number(data: bytes | None, expected: int | None) -> None:
    assert cgroup1.parse_limit(data) == expected


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (b"9:name=systemd:/\n4:memory:/box/20d8\n1:cpu:/\n0::/\n", "/box/20d8"),
        (b"9:name=systemd:/a.slice/x.service\n4:cpu,memory:/a.slice\n", "/a.slice/x.service"),
        (
            b"9:name=systemd:/a.slice/x.service\n4:memory:/a.slice/x.service\n0::/a.slice/x.service\n",
            "/a.slice/x.service",
        ),
        (b"9:name=systemd:/x.service\n4:memory:/\n0::/\n", "/x.service"),
        (b"4:memory:/\n0::/x.service\n", "/x.service"),
        (b"9:name=systemd:/session-1.scope\n4:memory:/batch\n", "/batch"),
        (b"9:name=systemd:/ab/x\n4:memory:/a\n", "/a"),
        (b"9:name=systemd:/\n4:memory:/\n0::/\n", "/"),
        (b"4:memory:/a:b::c\n", "/a:b::c"),
        (b"4:memory:/\xff\n", os.fsdecode(b"/\xff")),
        (b"", "/"),
    ],
)
def test_a_process_is_where_its_memory_is_counted_or_in_a_unit_inside_of_that(text: bytes, path: str) -> None:
    assert cgroup1.parse_cgroup(text) == path


# -------------------------------------------------------------------------------- of files alone: numbers of our choice


def test_facts_have_the_shape_that_they_have_on_v2(fake: FakeTree1, no_leak: None) -> None:
    fake.make("/web")
    usage = {"memory.usage_in_bytes": b"268435456\n", "memory.memsw.usage_in_bytes": b"268439552\n"}
    plant(fake.at("/web"), usage)
    with held(fake, "/web") as cgroup:
        facts = cgroup.facts(stat=True, events=True, pressure=True, refaults=True)
        assert facts is not None
        assert (facts.path, facts.current_bytes, facts.swap_bytes) == (f"{fake.prefix}/web", 268435456, 4096)
        assert facts.stat == MemoryStat(1052672, 263192576, 4096, 1033296)
        assert facts.events == MemoryEvents(low=0, high=0, max=3, oom=1, oom_kill=1)
        assert facts.pressure == Pressure(Stall(0, 0, 0, 0), Stall(0, 0, 0, 0))
        page = os.sysconf("SC_PAGE_SIZE")
        assert facts.refaults == Refaults(3 * page, 17 * page)
        assert facts.unreclaimable_bytes == 268435456 - (263192576 - 4096) - 1033296


def test_under_oom_nothing_is_cache(fake: FakeTree1, no_leak: None) -> None:
    """The kernel has just looked for something to reclaim. Whoever still counted cache would let it hang for ever."""
    plant(fake.at(""), {"memory.usage_in_bytes": b"268435456\n"})
    plant(fake.at(""), {"memory.oom_control": b"oom_kill_disable 1\nunder_oom 1\noom_kill 0\n"})
    with held(fake) as cgroup:
        facts = cgroup.facts(stat=True)
        assert facts is not None
        assert facts.unreclaimable_bytes == 268435456


def test_without_swap_accounting_no_swap_is_known(fake: FakeTree1, no_leak: None) -> None:
    os.unlink(fake.at("/memory.memsw.usage_in_bytes"))
    with held(fake) as cgroup:
        assert cgroup.swap_current() is None
        facts = cgroup.facts(stat=False)
        assert facts is not None
        assert facts.swap_bytes == 0


@pytest.mark.parametrize(
    ("memory", "both", "swap"),
    [(100, 150, 50), (100, 100, 0), (100, None, None), (None, 150, 150), (None, None, None)],
)
def test_the_swap_limit_is_a_difference(
    fake: FakeTree1, memory: int | None, both: int | None, swap: int | None, no_leak: None
) -> None:
    limits = {"memory.limit_in_bytes": memory, "memory.memsw.limit_in_bytes": both}
    plant(fake.at(""), {name: NO_LIMIT if at is None else b"%d\n" % at for name, at in limits.items()})
    with held(fake) as cgroup:
        assert (cgroup.limit(), cgroup.limit("memory.swap.max"), cgroup.high()) == (memory, swap, None)


def limits(fake: FakeTree1, values: dict[str, int], stated: int | None = None) -> None:
    for path, value in values.items():
        plant(fake.at(path), {"memory.limit_in_bytes": b"%d\n" % value})
    if stated is not None:
        text = MEMORY_STAT_1.replace(
            b"hierarchical_memory_limit %s" % NO_LIMIT.strip(), b"hierarchical_memory_limit %d" % stated
        )
        plant(fake.at("/a/b/c"), {"memory.stat": text})


@pytest.mark.parametrize(
    ("values", "stated", "expected"),
    [
        ({}, None, (None, None)),
        ({"/a": 100}, 100, (100, "/a")),
        ({"/a": 100, "/a/b": 50}, 50, (50, "/a/b")),
        ({"/a": 50, "/a/b/c": 100}, 50, (50, "/a")),
        ({"/a/b": 0}, 0, (0, "/a/b")),
    ],
)
def test_the_smallest_limit_on_the_way_up(
    fake: FakeTree1, values: dict[str, int], stated: int | None, expected: tuple[int | None, str | None], no_leak: None
) -> None:
    fake.make("/a/b/c")
    limits(fake, values, stated)
    with held(fake, "/a/b/c") as cgroup:
        assert cgroup.limits()[:2] == (expected[0], expected[1] and fake.prefix + expected[1])


def test_a_limit_above_the_mount_counts(fake: FakeTree1, no_leak: None) -> None:
    """In a container its own cgroup is the root; only hierarchical_memory_limit tells what it was given."""
    fake.make("/a/b/c")
    limits(fake, {"/a": 100}, 70)
    with held(fake, "/a/b/c") as cgroup:
        assert cgroup.limits()[:2] == (70, "/")


def test_what_we_have_set_ourselves_is_no_limit_of_somebody_above(fake: FakeTree1, no_leak: None) -> None:
    fake.make("/a/b/c")
    limits(fake, {"/a/b": 60, "/a": 100}, 60)
    ours = f"{fake.prefix}/a/b"
    with held(fake, "/a/b/c") as cgroup:
        found = cgroup.limits(lambda _name, path, now: 90 if path == ours else now)
        assert found[:2] == (90, ours), "as its owner gave it"


def test_where_what_is_above_does_not_count(fake: FakeTree1, no_leak: None) -> None:
    """Before 5.11 memory.use_hierarchy could be off: then a limit above is none, and nothing below is counted there."""
    fake.make("/a/b/c")
    limits(fake, {"/a": 100, "/a/b/c": 500}, 500)
    plant(fake.at("/a/b"), {"memory.use_hierarchy": b"0\n"})
    with held(fake, "/a/b/c") as cgroup:
        assert cgroup.limits()[:2] == (500, f"{fake.prefix}/a/b/c")
    plant(Path(fake.root), {"memory.use_hierarchy": b"0\n"})
    for path in ("/a", "/a/b"):
        plant(fake.at(path), {"memory.usage_in_bytes": b"0\n"})
    plant(fake.at("/a/b/c"), {"memory.usage_in_bytes": b"4000\n"})
    found = {path: size for path, _, size in cgroup2.walk(fake.root, fake.prefix, prune_bytes=1000)}
    assert found[f"{fake.prefix}/a/b/c"] == 4000, "what is above says nothing of what is below"


def test_kills_are_counted_where_they_happen_and_told_above(fake: FakeTree1, no_leak: None) -> None:
    fake.make("/web/worker")
    for path, kills in (("/web", 0), ("/web/worker", 2)):
        plant(fake.at(path), {"memory.oom_control": b"oom_kill_disable 0\nunder_oom 0\noom_kill %d\n" % kills})
    with held(fake, "/web") as cgroup:
        events = cgroup.events()
        assert events is not None
        assert events.oom_kill == 2
        fake.remove("/web/worker")
        for now, told in ((0, 2), (1, 3)):
            plant(fake.at("/web"), {"memory.oom_control": b"oom_kill_disable 0\nunder_oom 0\noom_kill %d\n" % now})
            events = cgroup.events()
            assert events is not None
            assert events.oom_kill == told, "it never goes back, though a cgroup with kills is gone"


def test_a_memory_stat_that_says_nothing_of_cache_is_broken(fake: FakeTree1, no_leak: None) -> None:
    plant(fake.at(""), {"memory.stat": MEMORY_STAT_1.replace(b"total_cache", b"total_crash")})
    with held(fake) as cgroup, pytest.raises(OSError, match=r"not a memory\.stat") as broken:
        cgroup.facts(stat=True)
    assert (broken.value.errno, broken.value.filename) == (errno.EBADMSG, str(fake.at("/memory.stat")))


@pytest.mark.parametrize(
    ("name", "value", "file", "written"),
    [
        ("memory.max", "4096", "memory.limit_in_bytes", b"4096"),
        ("memory.max", "max", "memory.limit_in_bytes", b"-1"),
        ("memory.swap.max", "4096", "memory.memsw.limit_in_bytes", b"12288"),
        ("memory.swap.max", "max", "memory.memsw.limit_in_bytes", b"-1"),
    ],
)
def test_limits_are_written_by_the_names_of_v2(
    fake: FakeTree1, name: str, value: str, file: str, written: bytes, no_leak: None
) -> None:
    plant(fake.at(""), {"memory.limit_in_bytes": b"8192", "memory.memsw.limit_in_bytes": b""})
    if name == "memory.max":
        plant(fake.at(""), {"memory.limit_in_bytes": b""})
    with held(fake) as cgroup:
        assert cgroup.write(name, value)
        assert fake.at(f"/{file}").read_bytes() == written


@pytest.mark.parametrize("name", ["memory.high", "memory.reclaim", "cgroup.kill"])
def test_what_v1_has_not_is_not_there(fake: FakeTree1, name: str, no_leak: None) -> None:
    with held(fake) as cgroup, pytest.raises(FileNotFoundError):
        cgroup.write(name, "1")


def test_others_in_the_freezer_are_not_frozen(fake: FakeTree1, no_leak: None) -> None:
    """The hierarchies are made separately: the same name need not mean the same processes."""
    fake.make("/web")
    plant(fake.at("/web"), {"cgroup.procs": b"41\n"})
    plant(fake.at("/web", "freezer"), {"cgroup.procs": b"41\n42\n"})
    with held(fake, "/web") as cgroup, pytest.raises(FileNotFoundError, match="others live"):
        cgroup.freeze(True)
    assert not fake.frozen("/web")


def test_without_a_freezer_of_that_name_nobody_is_frozen(fake: FakeTree1, no_leak: None) -> None:
    plant(Path(fake.root) / "lonely", CGROUP1_FILES)
    cgroup = Cgroup.open(fake.root, "/lonely")
    assert cgroup is not None
    with contextlib.closing(cgroup), pytest.raises(FileNotFoundError, match="no cgroup of that name"):
        cgroup.freeze(True)


def test_a_kernel_without_thresholds_still_tells_of_an_oom(
    fake: FakeTree1, monkeypatch: pytest.MonkeyPatch, no_leak: None
) -> None:
    """PREEMPT_RT refuses them (Linux 5.18)."""
    asked: list[str] = []

    def refuse(_group: Cgroup, name: str, value: str) -> None:
        asked.append(f"{name} {value.split(maxsplit=2)[2:]}")
        if asked[-1].endswith("['4096']"):
            raise OSError(errno.EOPNOTSUPP, "not supported", name)

    monkeypatch.setattr(Cgroup, "_put", refuse)
    with held(fake) as cgroup:
        assert cgroup.alarm_at([4096])
        assert cgroup.events_fd() >= 0
        assert asked == [f"cgroup.event_control {told}" for told in ([], ["4096"], [])]
        assert "no thresholds, deadlines alone" in cgroup.deaf


# ---------------------------------------------------------------------------------------- what only the kernel can play


@pytest.mark.kernel
def test_a_threshold_wakes_when_it_is_crossed(real_tree1: KernelTree1, python: Start) -> None:
    """The nearest that v1 has to a tripwire."""
    real_tree1.make("/web")
    hog = python(HOG)
    real_tree1.enter("/web", hog.pid)
    with held(real_tree1, "/web") as cgroup, contextlib.closing(select.epoll()) as epoll:
        assert cgroup.write("memory.max", str(64 * MIB))
        assert cgroup.alarm_at([24 * MIB, 24 * MIB])
        assert not cgroup.alarm_at([24 * MIB]), "nothing has changed"
        fd = cgroup.events_fd()
        epoll.register(fd, cgroup.SPEAKS)
        assert epoll.poll(0) == []
        grow(hog, 40 * MIB)
        assert [found for found, _ in epoll.poll(30)] == [fd]
        until(lambda: (cgroup.current() or 0) > 40 * MIB)
        events = cgroup.events()
        assert events is not None
        assert (events.oom, events.oom_kill, events.max) == (0, 0, 0)
        assert epoll.poll(0) == [], "asking for events takes it back"


@pytest.mark.kernel
@pytest.mark.parametrize("mode", ["medium", "low,local", "critical,hierarchy"])
def test_pressure_and_oom_wake_and_a_disabled_killer_hangs_until_somebody_dies(
    real_tree1: KernelTree1, python: Start, mode: str
) -> None:
    real_tree1.make("/web")
    hog = python(HOG)
    real_tree1.enter("/web", hog.pid)
    with held(real_tree1, "/web") as cgroup, contextlib.closing(select.epoll()) as epoll:
        assert cgroup.write("memory.max", str(24 * MIB))
        assert cgroup.write("memory.oom_control", "1")
        oom, level = cgroup.events_fd(), cgroup.level_fd(mode)
        for fd in (oom, level):
            epoll.register(fd, select.EPOLLIN)
        grow(hog, 64 * MIB)
        told: set[int] = set()
        while {oom, level} - told:
            woken = {fd for fd, _ in epoll.poll(30)}
            assert woken, "the kernel has told of only one of them"
            told |= woken
            for fd in woken:
                epoll.unregister(fd)
        events = cgroup.events()
        assert events is not None
        assert (events.oom > 0, events.max > 0, events.oom_kill) == (True, True, 0)
        facts = cgroup.facts(stat=True, known=cgroup.settled())
        assert facts is not None
        assert facts.unreclaimable_bytes > 23 * MIB
        assert (facts.limit_bytes, facts.limit_path) == (24 * MIB, cgroup.path)
        assert hog.poll() is None, "it sleeps, and nothing comes by itself"
        hog.kill()
        assert hog.wait(30) == -9, "a SIGKILL wakes the sleeper"
        os.close(level)


@pytest.mark.kernel
def test_removal_wakes_whoever_waits(real_tree1: KernelTree1, no_leak: None) -> None:
    real_tree1.make("/web")
    with held(real_tree1, "/web") as cgroup, contextlib.closing(select.epoll()) as epoll:
        fd = cgroup.events_fd()
        epoll.register(fd, cgroup.SPEAKS)
        real_tree1.remove("/web")
        assert [found for found, _ in epoll.poll(30)] == [fd]
        assert cgroup.events() is None
        assert epoll.poll(0) == [], "once"
        with pytest.raises(FileNotFoundError):
            cgroup.level_fd("low")


@pytest.mark.kernel
def test_cache_is_not_use(real_tree1: KernelTree1, python: Start, tmp_path: Path) -> None:
    real_tree1.make("/web")
    file = tmp_path / "file"
    file.write_bytes(os.urandom(1 << 20) * 24)
    with open(file, "rb") as open_file:
        os.fsync(open_file.fileno())
        os.posix_fadvise(open_file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    text = f"sys.stdin.readline()\nopen({str(file)!r}, 'rb').read()\nready()\nsys.stdin.readline()"
    reader = python("ready()\n" + text)
    real_tree1.enter("/web", reader.pid)
    with held(real_tree1, "/web") as cgroup:
        assert reader.stdin is not None
        assert reader.stdout is not None
        reader.stdin.write("\n")
        reader.stdin.flush()
        assert reader.stdout.readline() == "ready\n"
        facts = cgroup.facts(stat=True)
        assert facts is not None
        assert facts.stat is not None
        if facts.stat.file_bytes < 20 * MIB:
            pytest.skip("this file system does not charge its cache to the reader")
        assert facts.unreclaimable_bytes <= facts.current_bytes - 20 * MIB


@pytest.mark.kernel
def test_a_limit_that_somebody_writes_is_told(real_tree1: KernelTree1, no_leak: None) -> None:
    real_tree1.make("/web")
    watch = TreeWatch(WRITES)
    path = str(real_tree1.at("/web") / Cgroup.LIMIT)
    assert watch.watch(path)
    Path(path).write_text(str(64 * MIB))
    assert watch.drain() == {path}
    watch.close()


@pytest.mark.kernel
def test_stalls_are_told_by_the_cgroup2_of_the_same_name(real_tree1: KernelTree1, no_leak: None) -> None:
    """Where systemd has made it, on a hybrid machine."""
    if "unified" not in real_tree1.mounts:
        pytest.skip("no cgroup2 is mounted beside v1 on this machine")
    real_tree1.make("/web")
    with held(real_tree1, "/web") as cgroup:
        assert cgroup.where("memory.pressure") == str(real_tree1.at("/web", "unified") / "memory.pressure")
        fd, _, _ = psi.open_trigger(cgroup.where("memory.pressure"), "some", 100_000, 2_000_000)
        os.close(fd)


@pytest.mark.kernel
def test_the_machine_has_pressure_levels_too(real_tree1: KernelTree1, no_leak: None) -> None:
    root = Cgroup.open(real_tree1.root, "/")
    assert root is not None
    with contextlib.closing(root):
        os.close(root.level_fd("critical"))
        with pytest.raises(OSError, match="Invalid argument") as refused:
            root.level_fd("unbearable")
        assert refused.value.errno == errno.EINVAL
