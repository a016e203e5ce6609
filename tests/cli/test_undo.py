"""``oomguard undo``: what a daemon that was killed had set is put back, and only that."""

import os
import subprocess
import sys
from pathlib import Path

from oomguard.linux import leases

from .command import oomguard
from .test_status import publish


def lease(directory: Path, cgroup: Path, value: int) -> None:
    """A memory.high that was leased, and a daemon that is no more."""
    (cgroup / "web").mkdir(parents=True)
    (cgroup / "web/memory.high").write_text(f"{value}\n")
    (cgroup / "web/cgroup.procs").write_text("")
    journal = leases.Journal(str(directory / leases.NAME))
    inode = (cgroup / "web").stat().st_ino
    journal.out(leases.Entry(leases.HIGH, 1, inode, 0, 0, value, value, leases.MAX, "/web"))
    journal.close()


def test_what_was_left_behind_is_put_back(tmp_path: Path) -> None:
    cgroup = tmp_path / "cgroup"
    lease(tmp_path, cgroup, 4096)
    answer = oomguard("undo", "--runtime-dir", tmp_path, "--cgroup", cgroup, "--json")
    assert answer.code == 0
    assert answer.json == {
        "runtime_dir": str(tmp_path),
        "done": ["memory.high of /web is put back to max, as it was found"],
    }
    assert (cgroup / "web/memory.high").read_text().startswith("max")
    again = oomguard("undo", "--runtime-dir", tmp_path, "--cgroup", cgroup)
    assert (again.code, again.out, again.err) == (0, "", "")


def test_where_nothing_was_left_nothing_is_done(tmp_path: Path) -> None:
    answer = oomguard("undo", "--runtime-dir", tmp_path)
    assert (answer.code, answer.out, answer.err) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_the_leases_of_one_who_runs_are_his(tmp_path: Path) -> None:
    cgroup = tmp_path / "cgroup"
    lease(tmp_path, cgroup, 4096)
    words = [sys.executable, "-S", "-c", "import sys; sys.stdin.read()", "--plan-fd", "3"]
    with subprocess.Popen(words, stdin=subprocess.PIPE) as core:
        publish(tmp_path, core.pid)
        answer = oomguard("undo", "--runtime-dir", tmp_path, "--cgroup", cgroup)
        core.communicate()
    assert answer.code == 1
    assert f"oomguard runs as pid {core.pid}" in answer.err
    assert (cgroup / "web/memory.high").read_text() == "4096\n"


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    assert oomguard("undo", "--runtime-dir", tmp_path / "none").code == 0
    assert not os.path.exists(tmp_path / "none")
