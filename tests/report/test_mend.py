"""Everything that the daemon can call degraded has its remedy: the source is searched for what it says."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import oomguard
from oomguard.core.boot import NEEDED
from oomguard.linux.leases import FILES
from oomguard.report.mend import is_known, mend

CORE = Path(oomguard.__file__).parent / "core"


def said(source: str) -> Iterator[str]:
    """What a module names as degraded: ``degraded("x", ...)``, ``say("x", ...)``, ``lacks["x"] =``, ``("x", why)``."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(
                func=ast.Attribute(attr="degraded" | "say" | "_say"), args=[ast.Constant(value=str(what)), *_]
            ):
                yield what
            case ast.Assign(targets=[ast.Subscript(value=ast.Attribute(attr="lacks"), slice=ast.Constant(value=what))]):
                yield what
            case ast.Call(func=ast.Attribute(attr="append"), args=[ast.Tuple(elts=[ast.Constant(value=str(what)), _])]):
                yield what


def test_the_search_finds_what_is_said() -> None:
    lines = 'a.degraded("x", f"{e}")', 'self.say("y", "why")', 'self.lacks["z"] = 1', 'missing.append(("w", "why"))'
    assert [list(said(line)) for line in lines] == [["x"], ["y"], ["z"], ["w"]]


def everything() -> set[str]:
    found = {what for path in CORE.glob("*.py") for what in said(path.read_text())}
    found = {what for what in found if what != what.upper() or what.startswith("CAP_")}  # messages for the journal
    found |= {
        *NEEDED,
        *FILES.values(),
        "policy policy.web.cgroup",
        "hook /usr/bin/x",
        "budget of web",
        "sink ops",
        "desktop",
    }
    return found | {"reaper", "scribe", "herald", "runner"}


def test_all_that_can_be_degraded_can_be_mended() -> None:
    found = everything()
    assert {"cgroups", "psi", "real time", "CAP_KILL", "reload"} <= found
    assert [what for what in sorted(found) if not is_known(what)] == []


@pytest.mark.parametrize(
    ("what", "why", "said"),
    [
        ("CAP_SYS_NICE", "the daemon runs at ordinary priority", "CapabilityBoundingSet=CAP_SYS_NICE"),
        ("cgroups", "100 are watched, and no more: RLIMIT_NOFILE is 1200", "LimitNOFILE="),
        ("cgroups", "cgroup none: nobody counts memory there, so processes are told apart alone", "cgroup_disable="),
        ("cgroups", "inotify: fs.inotify.max_user_instances: new cgroups are looked for", "max_user_instances=1024"),
        ("stall_above", "/proc/pressure/memory: No such file or directory: that condition cannot hold", "psi=1"),
        ("stall_above", "/sys/fs/cgroup/a/memory.pressure: Permission denied: that", "CAP_SYS_RESOURCE"),
        ("user namespace", "capabilities count only inside of it", "outside of the container"),
        ("reading", "/sys/fs/cgroup/a/memory.stat: Permission denied: what", "cat /sys/fs/cgroup/a/memory.stat; "),
        ("hook /usr/bin/page-me", "there is no such program", "ls -l /usr/bin/page-me: "),
        ("policy policy.web.cgroup", "/a matches no cgroup now", "systemd-cgls"),
        ("policy policy.host.soft", "x", "oomguard check"),
        ("sink ops", "there is no network here (the service has none); 1 wait", "notify.conf"),
        ("sink ops", "connection refused; 3 messages were lost", "oomguard notify-test"),
        ("reload", "the new policy was refused", "systemctl reload oomguard"),
        ("something new", "x", "journalctl -u oomguard"),
    ],
)
def test_each_has_its_command(what: str, why: str, said: str) -> None:
    assert said in mend(what, why)
    assert "\n" not in mend(what, why)
    assert "{" not in mend(what, why)
