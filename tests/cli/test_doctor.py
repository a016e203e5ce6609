"""``oomguard doctor`` as a black box: on this machine, whatever it is, and on files of another one."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from oomguard.cli import hierarchies
from oomguard.model.statuspage import Numbers
from tests import pages

from .command import HOST, TIMEOUT_S, Answer, oomguard
from .test_status import core
from .tree import Tree

__all__ = ["core"]
pytestmark = pytest.mark.usefixtures("the_only_drill")
NOBODY = 65534


def doctor(tmp_path: Path, *words: str, policy: str = HOST) -> Answer:
    config = tmp_path / "oomguard.toml"
    config.write_text(policy)
    return oomguard("doctor", "--config", config, "--runtime-dir", tmp_path, *words)


def test_this_machine(tmp_path: Path) -> None:
    answer = doctor(tmp_path, "--json")
    found = {it["name"]: it for it in answer.json["findings"]}
    matters = [it["name"] for it in found.values() if it["severity"] == "matters"]
    assert answer.json["matters"] == len(matters)
    assert answer.code == (1 if matters else 0)
    assert found["running"]["severity"] == "matters" or os.path.isdir("/run/systemd/system")
    assert found["pidfd_open"]["severity"] == "fine", "these very tests rest on it"
    assert {it["topic"] for it in found.values()} == {"kernel", "rights", "memory", "neighbours", "service"}
    assert all(set(it) == {"topic", "name", "severity", "text", "means", "mend"} for it in found.values())


def test_it_is_truthful_about_this_machine(tmp_path: Path) -> None:
    """What is found is what is so."""
    found = {it["name"]: it for it in doctor(tmp_path, "--json").json["findings"]}
    mounts = hierarchies.find()
    assert (found["cgroup"]["severity"] == "fine") == (mounts.flavour == "v2")
    assert (mounts.memory or "neither") in found["cgroup"]["text"]
    if os.geteuid() == 0:
        mask = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
        has = int(mask.split()[1], 16) >> 24 & 1
        assert (found["CAP_SYS_RESOURCE"]["severity"] == "fine") == bool(has)
        assert has or "windows of 2 s" in found["trigger"]["text"]


def test_nothing_of_what_it_tried_is_left(tmp_path: Path) -> None:
    doctor(tmp_path)
    root = hierarchies.find().memory
    assert root is None or list(Path(root).glob("oomguard-drill-*")) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["oomguard.toml"]


def test_for_people(tmp_path: Path) -> None:
    answer = doctor(tmp_path)
    lines = answer.out.splitlines()
    assert [line for line in lines if line and line[0] != " "][:2] == ["Kernel", "Rights"]
    assert "matter" in lines[-1]
    assert lines[-1].endswith((" note", " notes"))
    assert "\x1b" not in answer.out
    assert any(line.startswith("  fine     ") and "pidfd_open, " in line for line in lines)
    whole = doctor(tmp_path, "--all").out
    assert "  fine     pidfd_open works\n" in whole


def test_a_daemon_that_runs(tmp_path: Path, core: "subprocess.Popen[bytes]") -> None:
    """Its rights are looked at, not ours; what it says of itself is told; its version is compared."""
    pages.publish(tmp_path, Numbers(pid=core.pid, armed=1), degraded=[("memory lock", "no"), ("policy x", "doubt")])
    found = {it["name"]: it for it in doctor(tmp_path, "--json").json["findings"]}
    assert f"pid {core.pid}" in found["running"]["text"]
    assert found["degraded memory lock"]["severity"] == "note"
    assert "degraded policy x" not in found, "doubts of the files are told as they are now"
    assert found["version"]["text"].startswith("version 9.9.9 runs, ")
    assert f"pid {core.pid}" in (found.get("CAP_KILL") or found["root"])["text"]


def test_a_wrong_policy(tmp_path: Path) -> None:
    answer = doctor(tmp_path, "--json", policy='[policy.x]\ncgroop = "/"\n')
    (found,) = [it for it in answer.json["findings"] if it["name"] == "policy"]
    assert answer.code == 1
    assert found["severity"] == "matters"
    assert f"{tmp_path}/oomguard.toml:1: policy.x: " in found["text"]


def test_doubts_of_the_policy(tmp_path: Path) -> None:
    policy = (
        HOST + '[policy.web]\ncgroup = "/none.slice/x"\nhard = { when = [{ memory_above = "90%" }], do = ["kill"] }\n'
    )
    found = [it for it in doctor(tmp_path, "--json", policy=policy).json["findings"] if it["name"] == "doubt"]
    assert any("policy.web" in it["text"] for it in found)


def test_another_machines_files(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "other", swap_mib=0)
    (tree.proc / "sys/vm").mkdir(parents=True)
    (tree.proc / "sys/vm/panic_on_oom").write_text("2\n")
    answer = doctor(tmp_path, *tree.options, "--sys", str(tree.root / "sys"), "--json")
    found = {it["name"]: it for it in answer.json["findings"]}
    assert found["panic_on_oom"]["mend"].endswith("echo 0 > /proc/sys/vm/panic_on_oom")
    assert found["swap"]["text"] == "no swap beside 1024 MiB of memory"
    assert "pidfd_open" not in found, "nothing is tried for somebody else"
    assert "system calls and stall triggers: these are another machine's files" in answer.json["unseen"]


AS_NOBODY = f"""\
import encodings.ascii, encodings.utf_8_sig, multiprocessing, os, tempfile
import oomguard.cli.app, oomguard.cli.main, oomguard.cli.doctor, oomguard.cli.probe, oomguard.cli.findings
import oomguard.judge.glob, oomguard.policy.compile, oomguard.policy.doubts
os.setgroups([])
os.setresgid({NOBODY}, {NOBODY}, {NOBODY})
os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
oomguard.cli.main.main()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_without_root_less_is_seen_and_that_is_said() -> None:
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        config = Path(name) / "oomguard.toml"
        config.write_text(HOST)
        os.chown(config, NOBODY, NOBODY)
        words = [sys.executable, "-c", AS_NOBODY, "doctor", "--json", "--config", str(config), "--runtime-dir", name]
        answer = Answer(subprocess.run(words, capture_output=True, timeout=TIMEOUT_S, check=False, cwd=name))
    found = {it["name"]: it for it in answer.json["findings"]}
    assert found["root"]["text"] == "this shell is not root's"
    assert found["pidfd_open"]["severity"] == "fine"
    assert "mlockall" not in found, "that root alone may is no fault of the kernel's"
    assert any("only root writes there" in it for it in answer.json["unseen"])
