"""The rehearsal goes the whole way, and nothing of it is left."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from oomguard.core import boot, rehearse
from oomguard.linux import cgroup1, libc, procfs
from oomguard.model.policy import (
    Amount,
    AvailableBelow,
    Clause,
    Daemon,
    Guard,
    KillStep,
    MemoryAbove,
    NominateStep,
    NotifyStep,
    Plan,
    ReclaimStep,
    SetHighStep,
    SnapshotStep,
    StallAbove,
    Watermark,
)
from oomguard.model.verdict import Close, Kill, Lease, Nominate, Release, Snapshot
from tests.linux.trees import FakeTree1

SOFT = (SnapshotStep(), NotifyStep(), NominateStep())


def guard(name: str, cgroup: str, line: AvailableBelow | MemoryAbove, tripwire: bool = False) -> Guard:
    clause = (Clause((line,)),)
    return Guard(name, cgroup, soft=Watermark(clause, SOFT), hard=Watermark(clause, (KillStep(),)), tripwire=tripwire)


HOST = guard("host", "/", AvailableBelow(Amount(share=0.05)))
WEB = guard("web", "/system.slice/web-*.service", MemoryAbove(Amount(share=0.9)), tripwire=True)


@pytest.mark.parametrize("guards", [(HOST,), (WEB,), (HOST, WEB)], ids=["machine", "service", "both"])
def test_the_made_up_storm_reaches_the_kill_and_comes_back(guards: tuple[Guard, ...]) -> None:
    done = rehearse.storm(Plan("0", Daemon(), guards))
    kinds = {type(action) for action in done}
    assert {Snapshot, Nominate, Kill, Close} <= kinds
    lent = {action.token for action in done if isinstance(action, Lease)}
    assert lent == {action.token for action in done if isinstance(action, Release)}
    assert lent if WEB in guards else True


def test_a_missing_system_call_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_fd: int) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), "process_mrelease")

    monkeypatch.setattr(libc, "process_mrelease", refused)
    proc_fd = procfs.open_proc()
    try:
        assert [what for what, _ in rehearse.syscalls(proc_fd)] == ["process_mrelease"]
    finally:
        os.close(proc_fd)


def test_a_kernel_without_cgroup_kill_is_named(tmp_path: Path) -> None:
    """Before 5.14. The root has no such file on any kernel."""
    plan = Plan("0", Daemon(), (HOST,))
    assert "kill" not in dict(rehearse.measures(plan, str(tmp_path))), "no cgroup is there that could tell"
    (tmp_path / "init.scope").mkdir()
    assert "process by process" in dict(rehearse.measures(plan, str(tmp_path)))["kill"]
    (tmp_path / "init.scope" / "cgroup.kill").touch()
    assert "kill" not in dict(rehearse.measures(plan, str(tmp_path)))


def test_without_memory_reclaim_memory_high_does_it(tmp_path: Path) -> None:
    """Before 5.19. Nothing else of the plan is another, and that is said."""
    mark = Watermark((Clause((MemoryAbove(Amount(share=0.9)),)),), (ReclaimStep(Amount(bytes=1), 1), KillStep()))
    plan = Plan("0", Daemon(), (HOST, replace(WEB, soft=None, hard=mark)))
    fitted = boot.fitted(plan, str(tmp_path))
    assert fitted.guards[0] == HOST
    assert fitted.guards[1].hard == replace(mark, do=(ReclaimStep(Amount(bytes=1), 1, by_high=True), KillStep()))
    assert "memory.high does it" in dict(rehearse.measures(plan, str(tmp_path)))["reclaim"]
    (tmp_path / "memory.reclaim").touch()
    assert boot.fitted(plan, str(tmp_path)) == plan


def test_a_plan_on_v1_relies_on_no_tripwire_and_what_is_missing_is_named(tmp_path: Path) -> None:
    tree = FakeTree1(tmp_path)
    steps = (SetHighStep(Amount(share=0.9), 1), ReclaimStep(Amount(bytes=1), 1), KillStep())
    web = replace(WEB, hard=Watermark((Clause((MemoryAbove(Amount(share=0.9)),)),), steps))
    plan = Plan("0", Daemon(), (HOST, web))
    fitted = boot.fitted(plan, tree.root)
    assert [(guard.tripwire, guard.brake) for guard in fitted.guards] == [(False, False), (False, False)]
    (tmp_path / "memory.reclaim").touch()
    assert boot.fitted(plan, str(tmp_path)) == plan, "of v2 all can be had"
    assert {what for what, _ in rehearse.measures(plan, tree.root)} == set(cgroup1.LACKS) - {"pressure"}
    stalls = replace(web, soft=Watermark((Clause((StallAbove("some", 1, 2, 3),)),), ()))
    deaf = replace(plan, guards=(stalls,))
    assert "pressure" not in {what for what, _ in rehearse.measures(deaf, tree.root)}, "a cgroup2 beside tells it"
    cgroup1.enter(tree.root, None, None)
    assert "pressure" in {what for what, _ in rehearse.measures(deaf, tree.root)}
    assert not {what for what, _ in rehearse.measures(Plan("0", Daemon(), (HOST,)), tree.root)} & {
        "tripwire",
        "set_high",
    }
