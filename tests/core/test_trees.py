"""Which cgroups a pattern means, while they come and go: over files, and over the kernel's own hierarchy."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oomguard.core import trees
from oomguard.core.trees import Forest
from oomguard.judge.glob import matches
from oomguard.linux import events

from .world import cgroup2_mount

MOUNT = cgroup2_mount()


class Place:
    """A directory below which cgroups are made; ``prefix`` is its path as a cgroup."""

    def __init__(self, root: Path, prefix: str) -> None:
        self.root, self.prefix = root, prefix
        if prefix:
            self.make("")

    def at(self, path: str) -> Path:
        return Path(f"{self.root}{self.prefix}{path}")

    def make(self, *paths: str) -> None:
        for path in paths:
            self.at(path).mkdir(parents=True, exist_ok=True)

    def remove(self, path: str) -> None:
        for where, _, _ in os.walk(self.at(path), topdown=False):
            os.rmdir(where)


@pytest.fixture(params=["fake", pytest.param("kernel", marks=pytest.mark.kernel)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "fake":
        yield Place(tmp_path, "")
        return
    if MOUNT is None:
        pytest.skip("no cgroup2 to make cgroups in; test_in_vm.py runs this in the virtual machine")
    made = Place(MOUNT, f"/oomguard-trees-{os.getpid()}")
    yield made
    made.remove("")


Grow = Callable[..., Forest]


@pytest.fixture
def grow(place: Place) -> Iterator[Grow]:
    made: list[Forest] = []

    def start(*patterns: str) -> Forest:
        made.append(Forest(str(place.root), tuple(place.prefix + pattern for pattern in patterns)))
        return made[-1]

    yield start
    for forest in made:
        forest.close()


def seen(forest: Forest, place: Place) -> set[str]:
    """What matches now; with the right inodes."""
    found = forest.matching()
    assert found == {path: os.stat(f"{place.root}{path}").st_ino for path in found}
    return {path.removeprefix(place.prefix) for path in found}


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [
        ("/a", {"/a"}),
        ("/a/b", {"/a/b"}),
        ("/nowhere", set()),
        ("/nowhere/b", set()),
        ("/*", {"/a", "/web-1.service", "/web-2.service"}),
        ("/web-*.service", {"/web-1.service", "/web-2.service"}),
        ("/web-?.service", {"/web-1.service", "/web-2.service"}),
        ("/*/b", {"/a/b", "/web-1.service/b"}),
        ("/a/*/c", {"/a/b/c", "/a/x/c"}),
        ("/a/**", {"/a/b", "/a/b/c", "/a/x", "/a/x/c"}),
        ("/**", {"/a", "/a/b", "/a/b/c", "/a/x", "/a/x/c", "/web-1.service", "/web-1.service/b", "/web-2.service"}),
        ("/**/c", {"/a/b/c", "/a/x/c"}),
        ("/**.service", {"/web-1.service", "/web-2.service"}),
        ("/w**", {"/web-1.service", "/web-1.service/b", "/web-2.service"}),
    ],
)
def test_patterns(place: Place, grow: Grow, pattern: str, meant: set[str]) -> None:
    place.make("/a/b/c", "/a/x/c", "/web-1.service/b", "/web-2.service")
    assert seen(grow(pattern), place) == meant


def test_several_patterns_are_one_forest(place: Place, grow: Grow) -> None:
    place.make("/a/b", "/c")
    assert seen(grow("/a/*", "/c", "/a/b"), place) == {"/a/b", "/c"}


@pytest.mark.parametrize("pattern", ["/a/b/c", "/a/*/c", "/**", "/a/**"])
def test_what_comes_and_goes_is_noticed(place: Place, grow: Grow, pattern: str) -> None:
    """Level by level, as systemd makes them."""
    forest = grow(pattern)
    assert seen(forest, place) == set()
    for path in ("/a", "/a/b", "/a/b/c"):
        place.make(path)
        assert forest.changed(), path
        expected = {p for p in ("/a", "/a/b", "/a/b/c") if matches(pattern, p) and place.at(p).exists()}
        assert seen(forest, place) == expected
        assert not forest.changed()
    place.remove("/a/b/c")
    assert forest.changed()
    assert "/a/b/c" not in seen(forest, place)
    place.remove("/a")
    assert forest.changed()
    assert seen(forest, place) == set()
    place.make("/a/b/c")
    assert forest.changed()
    assert "/a/b/c" in seen(forest, place)


def test_attributes_are_noticed_by_who_asks_for_them(place: Place, grow: Grow) -> None:
    place.make("/a/b")
    deaf, hears = grow("/a/*"), Forest(str(place.root), (f"{place.prefix}/a/*",), attributes=True)
    try:
        assert seen(deaf, place) == seen(hears, place) == {"/a/b"}
        try:
            os.setxattr(place.at("/a/b"), "user.tier", b"batch")
        except OSError as error:
            pytest.skip(f"no user.* can be set here: {error.strerror}")
        assert (deaf.changed(), hears.changed()) == (False, True)
        assert seen(hears, place) == {"/a/b"}
        os.removexattr(place.at("/a/b"), "user.tier")
        assert (deaf.changed(), hears.changed()) == (False, True)
    finally:
        hears.close()


def test_what_is_made_anew_is_watched_anew(place: Place, grow: Grow) -> None:
    """The directory's own watch stays with the old one: without a new one nothing that comes below is seen."""
    place.make("/slice")
    forest = grow("/slice/*")
    seen(forest, place)
    for name in ("/slice/1", "/slice/2", "/slice/3"):
        place.remove("/slice")
        place.make("/slice")
        assert forest.changed()
        assert seen(forest, place) == set()
        place.make(name)
        assert forest.changed(), "the new directory is not watched"
        assert seen(forest, place) == {name}


def test_a_directory_that_was_replaced_between_two_looks(place: Place, grow: Grow) -> None:
    place.make("/slice/a")
    forest = grow("/slice/*")
    before = forest.matching()
    place.remove("/slice")
    place.make("/aside", "/slice/a")  # /aside takes the old inode number, where a file system uses them again
    assert forest.changed()
    assert forest.matching().keys() == before.keys()
    place.make("/slice/b")
    assert forest.changed()
    assert seen(forest, place) == {"/slice/a", "/slice/b"}


def test_watches_end_with_their_cgroups(place: Place, grow: Grow) -> None:
    """kernfs does not end them: a machine that makes a cgroup a second would run out of watches within hours."""
    place.make("/stay")
    forest = grow("/**")
    seen(forest, place)
    first = watches(forest)
    for number in range(150):
        place.make(f"/{number}/below")
        forest.changed()
        seen(forest, place)
        place.remove(f"/{number}")
        forest.changed()
        seen(forest, place)
    assert watches(forest) == first
    assert len(forest.watched) == first
    assert len(forest.watch._paths) == first


def watches(forest: Forest) -> int:
    """As the kernel counts them."""
    return Path(f"/proc/self/fdinfo/{forest.fileno()}").read_text().count("inotify wd:")


def test_a_queue_that_was_full_is_looked_through(place: Place, grow: Grow, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anything may have happened anywhere: every watch is made again."""
    place.make("/a/b")
    forest = grow("/a/*", "/b")
    seen(forest, place)
    drain = events.TreeWatch.drain

    def full(watch: events.TreeWatch) -> set[str]:
        drain(watch)
        return {events.ANYWHERE}

    with monkeypatch.context() as patched:
        patched.setattr(events.TreeWatch, "drain", full)
        place.remove("/a")
        place.make("/aside", "/a/c", "/b")
        assert forest.changed()
    assert seen(forest, place) == {"/a/c", "/b"}
    place.make("/a/d")
    assert forest.changed()
    assert seen(forest, place) == {"/a/c", "/a/d", "/b"}


def test_more_directories_than_may_be_watched(place: Place, grow: Grow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "WATCHES", 4)
    place.make(*(f"/{number}" for number in range(10)))
    forest = grow("/**")
    assert len(seen(forest, place)) == 10, "all are seen, though not all are watched"
    assert forest.overflowed
    for number in range(1, 10):
        place.remove(f"/{number}")
    assert seen(forest, place) == {"/0"}, "what is gone is let go at the end of a look"
    assert seen(forest, place) == {"/0"}
    assert not forest.overflowed, "and when there are few again, that is over"


def test_the_kernel_has_no_more_watches(place: Place, grow: Grow, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_watch: events.TreeWatch, path: str) -> bool:
        raise OSError(28, "No space left on device", path)

    monkeypatch.setattr(events.TreeWatch, "watch", refuse)
    place.make("/a/b")
    forest = grow("/**")
    assert seen(forest, place) == {"/a", "/a/b"}
    assert forest.overflowed


def test_links_and_files_are_no_cgroups(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "file").write_text("")
    forest = Forest(str(tmp_path), ("/**",))
    assert set(forest.matching()) == {"/a"}
    forest.close()


NAMES = st.sampled_from(["a", "b", "web.service", "web-1.service", "x y"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))
PARTS = st.sampled_from(["*", "**", "a", "w*", "?", "*.service", "web-?.service", "b**"])
PATTERNS = st.lists(PARTS, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))


@given(steps=st.lists(st.tuples(st.booleans(), PATHS), max_size=12), pattern=PATTERNS)
@settings(deadline=None, max_examples=120)
def test_whatever_comes_and_goes_the_forest_knows(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[bool, str]], pattern: str
) -> None:
    """Against a walk with the judge's own matching; looked at only when the watch says so."""
    root = tmp_path_factory.mktemp("forest")
    forest = Forest(str(root), (pattern,))
    found = set(forest.matching())
    for grows, path in steps:
        if grows:
            (root / path.strip("/")).mkdir(parents=True, exist_ok=True)
        else:
            shutil.rmtree(root / path.strip("/"), ignore_errors=True)
        if forest.changed():
            found = set(forest.matching())
        every = {"/" + str(Path(where, name).relative_to(root)) for where, names, _ in os.walk(root) for name in names}
        assert found == {path for path in every if matches(pattern, path)}
    forest.close()
