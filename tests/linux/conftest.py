"""What the tests of the syscall boundary share: the two trees, children that end with the test, counted descriptors."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oomguard.linux import procfs

from .trees import FakeTree, FakeTree1, KernelTree, KernelTree1, Tree, cgroup1_mounts, cgroup2_mount


def kernel_tree() -> KernelTree:
    mount = cgroup2_mount()
    if mount is None:
        pytest.skip("no cgroup2 is mounted on this machine; tests/linux/test_in_vm.py runs this in the virtual one")
    if not os.access(mount, os.W_OK):
        pytest.skip(f"{mount} is not ours to write to (root is needed); test_in_vm.py runs this in the virtual machine")
    return KernelTree(mount)


def kernel_tree1() -> KernelTree1:
    points = cgroup1_mounts()
    if points is None:
        pytest.skip("no cgroup v1 with memory and freezer is mounted on this machine, or it is not ours to write to")
    return KernelTree1(points)


def _kernel(name: str) -> object:
    return pytest.param(name, marks=pytest.mark.kernel)


@pytest.fixture(params=["fake", _kernel("kernel"), "fake1", _kernel("kernel1")])
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tree]:
    """An empty cgroup to work below: of files and of the kernel, where v2 has the memory and where v1 has it."""
    made: Tree
    if request.param.startswith("fake"):
        made = FakeTree(tmp_path) if request.param == "fake" else FakeTree1(tmp_path)
    else:
        made = kernel_tree() if request.param == "kernel" else kernel_tree1()
    yield made
    made.close()


@pytest.fixture(params=["fake", _kernel("kernel")])
def tree2(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FakeTree | KernelTree]:
    """The same of v2 alone."""
    made = FakeTree(tmp_path) if request.param == "fake" else kernel_tree()
    yield made
    made.close()


@pytest.fixture
def real_tree1() -> Iterator[KernelTree1]:
    """The kernel's, where v1 has the memory."""
    made = kernel_tree1()
    yield made
    made.close()


@pytest.fixture(params=[_kernel("kernel"), _kernel("kernel1")])
def counted_tree(request: pytest.FixtureRequest) -> Iterator[Tree]:
    """The kernel's, with memory counted in it, by v2 or v1."""
    made: Tree = kernel_tree() if request.param == "kernel" else kernel_tree1()
    if not made.has_memory:
        made.close()
        pytest.skip("cgroup v2 has no memory controller on this machine; test_in_vm.py runs this in the virtual one")
    yield made
    made.close()


@pytest.fixture
def real_tree() -> Iterator[KernelTree]:
    """The kernel's alone, for what files cannot play."""
    made = kernel_tree()
    yield made
    made.close()


@pytest.fixture
def memory_tree(real_tree: KernelTree) -> KernelTree:
    """The kernel's, with the memory controller of cgroup v2."""
    if not real_tree.has_memory:
        pytest.skip("cgroup v2 has no memory controller on this machine; test_in_vm.py runs this in the virtual one")
    return real_tree


@pytest.fixture
def child() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts processes that do not outlive the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*command: str) -> subprocess.Popen[str]:
        stream = subprocess.PIPE if command else subprocess.DEVNULL
        process = subprocess.Popen(command or ("sleep", "1000"), stdin=stream, stdout=stream, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


@pytest.fixture
def python(child: Callable[..., subprocess.Popen[str]]) -> Callable[[str], subprocess.Popen[str]]:
    """A child that runs this text, with ``ready()`` to be called once it is where the test wants it."""

    def start(text: str) -> subprocess.Popen[str]:
        head = "import ctypes, os, signal, sys, threading, time\ndef ready(): print('ready', flush=True)\n"
        process = child(sys.executable, "-I", "-S", "-c", head + text)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    return start


@pytest.fixture
def proc_fd() -> Iterator[int]:
    """The kernel's /proc."""
    fd = procfs.open_proc()
    yield fd
    os.close(fd)


@pytest.fixture
def no_leak() -> Iterator[None]:
    """Fails if the test leaves a descriptor open."""
    gc.collect()  # what earlier tests have left for it
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    assert sorted(os.listdir("/proc/self/fd")) == before
