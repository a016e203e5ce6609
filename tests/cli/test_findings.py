"""What the doctor makes of a machine: tables of machines that are made up, and what is found on each."""

from dataclasses import replace
from pathlib import Path

import pytest

from oomguard.cli.findings import of
from oomguard.cli.findings.facts import (
    Doubt,
    Facts,
    Guarded,
    Kernel,
    Managed,
    Memory,
    Other,
    Ours,
    Rights,
    Unit,
)
from oomguard.cli.findings.finding import Finding, size
from oomguard.cli.findings.rights import CAPABILITIES
from oomguard.core.boot import NEEDED

GIB, MIB = 1 << 30, 1 << 20
OOMD = Other("systemd-oomd", "systemd-oomd.service", 321, True)
HOST = Guarded("host", "/", "enforce")
WEB = Guarded("web", "/system.slice/web-*.service", "enforce", ("/system.slice/web-1.service",))

# A Debian as one would have it: systemd, cgroup v2, oomguard installed and running, nobody beside it.
HEALTHY = Facts(
    kernel=Kernel(
        pressure="",
        trigger="",
        slow_trigger="",
        flavour="v2",
        mount="/sys/fs/cgroup",
        files=dict.fromkeys(("memory.high", "cgroup.kill", "cgroup.freeze", "memory.reclaim"), ""),
        calls=dict.fromkeys(("pidfd_open", "pidfd_send_signal", "process_mrelease", "mlockall", "kmsg"), ""),
        grub=True,
    ),
    rights=Rights("the daemon (pid 7)", True, True, frozenset(CAPABILITIES), {"RLIMIT_NOFILE": 65536}, (4, 64), 2),
    memory=Memory(
        total_bytes=16 * GIB,
        swap_bytes=2 * GIB,
        swappiness=60,
        overcommit=0,
        overcommit_ratio=50,
        commit_limit_bytes=10 * GIB,
        panic_on_oom=0,
        oom_kill_allocating_task=0,
        min_free_bytes=66 * MIB,
        watermark_scale_factor=10,
        compact_unevictable=0,
        lru_gen=7,
        min_ttl_ms=0,
    ),
    ours=Ours(
        unit=Unit("loaded", "active", "enabled"),
        pid=7,
        version="1",
        installed="1",
        files=("/etc/oomguard/oomguard.toml",),
        guards=(HOST,),
        writable="",
        free_bytes=8 * GIB,
        incidents_max_bytes=512 * MIB,
        group=True,
    ),
)


def found(facts: Facts, name: str) -> Finding:
    """The one finding of that name."""
    (it,) = [it for it in of(facts) if it.name == name]
    return it


def kernel(**change: object) -> Facts:
    return replace(HEALTHY, kernel=replace(HEALTHY.kernel, **change))  # type: ignore[arg-type]


def rights(**change: object) -> Facts:
    return replace(HEALTHY, rights=replace(HEALTHY.rights, **change))  # type: ignore[arg-type]


def memory(**change: object) -> Facts:
    return replace(HEALTHY, memory=replace(HEALTHY.memory, **change))  # type: ignore[arg-type]


def ours(**change: object) -> Facts:
    return replace(HEALTHY, ours=replace(HEALTHY.ours, **change))  # type: ignore[arg-type]


def test_a_healthy_machine_has_nothing_but_fine() -> None:
    assert [it for it in of(HEALTHY) if it.severity != "fine"] == []
    assert len(of(HEALTHY)) > 25, "and that was looked at"


def test_an_empty_machine_is_no_error() -> None:
    """Nothing could be looked at: what is not known is not judged."""
    assert [it for it in of(Facts()) if it.severity == "matters"] == []


WITHOUT_SYS_RESOURCE = frozenset(CAPABILITIES) - {"CAP_SYS_RESOURCE"}


@pytest.mark.parametrize(
    ("facts", "name", "severity", "said", "mend"),
    [
        # kernel
        (kernel(pressure="it is switched off"), "pressure", "matters", "(PSI): it is switched off", "psi=1"),
        (kernel(pressure="x", grub=False), "pressure", "matters", "PSI", None),
        (kernel(trigger="Operation not permitted (EPERM)"), "trigger", "note", "windows of 2 s", None),
        (kernel(trigger="EINVAL", slow_trigger="EINVAL"), "trigger", "matters", "no stall triggers: EINVAL", None),
        (kernel(flavour="hybrid", mount="/m"), "cgroup", "note", "accounted on v1 at /m", "unified_cgroup_hierarchy=1"),
        (kernel(flavour="v1", mount="/m", grub=False), "cgroup", "note", "cgroup v1, memory at /m", None),
        (kernel(flavour="none", mount=None), "cgroup", "note", "no memory controller", None),
        (
            kernel(files={"cgroup.kill": "this kernel has none"}),
            "cgroup.kill",
            "note",
            "of a cgroup: this kernel",
            None,
        ),
        (kernel(files={"memory.high": "EROFS"}), "memory.high", "matters", "memory.high of a cgroup: EROFS", None),
        (kernel(calls={"process_mrelease": "ENOSYS"}), "process_mrelease", "note", "process_mrelease: ENOSYS", None),
        (
            # earlyoom, pull request 315: the filter forbade it, and nobody knew until the first kill
            kernel(calls={"pidfd_send_signal": "a seccomp filter kills whoever calls it"}),
            "pidfd_send_signal",
            "matters",
            "seccomp",
            None,
        ),
        (kernel(calls={"inotify": "EMFILE"}), "inotify", "matters", "EMFILE", "fs.inotify.max_user_instances = 1024"),
        (
            memory(min_ttl_ms=1000),
            "mglru",
            "note",
            "1000 ms (min_ttl_ms)",
            "echo 0 > /sys/kernel/mm/lru_gen/min_ttl_ms",
        ),
        # rights
        (rights(capabilities=WITHOUT_SYS_RESOURCE), "CAP_SYS_RESOURCE", "note", "has no CAP_SYS_RESOURCE", "revert"),
        (rights(capabilities=frozenset()), "CAP_KILL", "matters", "the daemon (pid 7) has no CAP_KILL", "revert"),
        (rights(root=False), "root", "matters", "is not root's", "systemctl enable --now oomguard.service"),
        (
            rights(capabilities=frozenset(), limits={"RLIMIT_MEMLOCK": 8 * MIB}),
            "RLIMIT_MEMLOCK",
            "note",
            "8 MiB",
            "revert",
        ),
        (rights(capabilities=frozenset(), limits={"RLIMIT_RTPRIO": 0}), "RLIMIT_RTPRIO", "note", "is 0", "revert"),
        (rights(limits={"RLIMIT_NOFILE": 1024}), "RLIMIT_NOFILE", "note", "is 1024, less than 4096", "revert"),
        (rights(pids=(60, 64)), "pids", "note", "60 of 64", "TasksMax=64"),
        # memory
        (memory(swap_bytes=0), "swap", "note", "no swap beside 16.0 GiB", None),
        (memory(nodes=2), "numa", "note", "on 2 NUMA nodes", None),
        (memory(arc_bytes=2 << 30), "zfs", "note", "2048 MiB of its cache (ARC)", "also_available = {"),
        (memory(zram=("/dev/zram0",), zswap=True, swappiness=180), "zswap", "note", "/dev/zram0", "echo N"),
        (memory(zram=("/dev/zram0",)), "swappiness", "note", "60 with swap on zram", "vm.swappiness = 180"),
        (memory(overcommit=2), "overcommit", "note", "10.0 GiB may be promised", "vm.overcommit_memory = 0"),
        (memory(panic_on_oom=1), "panic_on_oom", "matters", "a panic", "vm.panic_on_oom = 0"),
        (memory(panic_on_oom=2), "panic_on_oom", "matters", "a cgroup at its limit as well", "vm.panic_on_oom = 0"),
        (
            memory(oom_kill_allocating_task=1),
            "oom_kill_allocating_task",
            "note",
            "is on",
            "vm.oom_kill_allocating_task = 0",
        ),
        (memory(min_free_bytes=MIB), "min_free_kbytes", "note", "is 1024", "vm.min_free_kbytes = 16384"),
        (memory(min_free_bytes=2 * GIB), "min_free_kbytes", "note", "2097152", "vm.min_free_kbytes = 16384"),
        (memory(watermark_scale_factor=1000), "watermark_scale_factor", "note", "1000", "watermark_scale_factor = 10"),
        (memory(compact_unevictable=1), "compaction", "note", "is 1", "vm.compact_unevictable_allowed = 0"),
        # ourselves
        (ours(unit=Unit()), "unit", "matters", "oomguard.service is not-found", "make install && systemctl enable"),
        (
            ours(unit=Unit("loaded", "active", "disabled")),
            "enabled",
            "matters",
            "is disabled",
            "systemctl enable oomguard.service",
        ),
        (
            ours(unit=Unit("loaded", "failed", "enabled")),
            "active",
            "matters",
            "is failed",
            "systemctl reset-failed oomguard.service; systemctl start oomguard.service",
        ),
        (ours(unit=Unit("loaded", "active", "enabled", True)), "unit file", "note", "has changed", "daemon-reload"),
        (ours(unit=Unit("loaded", "active", "enabled", restarts=3)), "restarts", "note", "3 times", "journalctl -u"),
        (ours(systemd=False, unit=None), "unit", "note", "not booted with systemd", None),
        (ours(systemd=False, unit=None, pid=None), "running", "matters", "does not run", "oomguard run"),
        (ours(version="0"), "version", "note", "version 0 runs, 1 is installed", "systemctl restart oomguard.service"),
        (ours(degraded=(("memory lock", "EPERM"),)), "degraded memory lock", "note", "memory lock: EPERM", None),
        (
            ours(faults=(Doubt("a:3: policy.x", "wrong"),)),
            "policy",
            "matters",
            "a:3: policy.x: wrong",
            "oomguard check",
        ),
        (
            ours(doubts=(Doubt("a:3: x", "can never be reached on this machine"),)),
            "doubt",
            "matters",
            "a:3: x",
            "check",
        ),
        (ours(doubts=(Doubt("a:3: x", "always holds on this machine: y"),)), "doubt", "matters", "always", "check"),
        (ours(doubts=(Doubt("a:3: x", "/y matches no cgroup now"),)), "doubt", "note", "/y matches", "oomguard check"),
        (ours(faults=(Doubt("a:3: x", "y"),), config="'/a b'"), "policy", "matters", "a:3", "check --config '/a b'"),
        (ours(changed=True), "changed", "note", "have changed", "systemctl reload oomguard.service"),
        (ours(changed=True, systemd=False, unit=None), "changed", "note", "have changed", "kill -HUP 7"),
        (ours(writable="Read-only file system (EROFS)"), "state directory", "matters", "EROFS", "install -d -m 0750"),
        (ours(free_bytes=MIB), "space", "matters", "1 MiB left", "oomguard incidents prune --keep 20"),
        (ours(free_bytes=100 * MIB), "space", "note", "100 MiB left; the policy allows 512 MiB", "prune"),
        (ours(group=False), "group", "note", "no group oomguard", "groupadd --system oomguard"),
        (
            ours(guards=(replace(WEB, tripwire=True, limited=2, laid=1),)),
            "tripwires web",
            "note",
            "1 of 2 tripwires",
            None,
        ),
    ],
)
def test_what_is_found(facts: Facts, name: str, severity: str, said: str, mend: str | None) -> None:
    it = found(facts, name)
    assert it.severity == severity
    assert said in it.text
    assert it.means, "what it means is said"
    assert (mend or "") in it.mend
    assert bool(it.mend) == (mend is not None)
    assert "\n" not in it.mend, "one line, to be copied"


@pytest.mark.parametrize(
    ("others", "managed", "guards", "name", "severity", "said"),
    [
        ((), (), (HOST,), "alone", "fine", "no other"),
        ((Other("earlyoom", "earlyoom.service", 9),), (), (HOST,), "earlyoom", "matters", "pid 9"),
        ((Other("bustd", "bustd.service", None, True),), (), (HOST,), "bustd", "note", "is enabled"),
        ((OOMD,), (), (HOST,), "systemd-oomd", "note", "no cgroup is its own"),
        (
            (OOMD,),
            (Managed("/user.slice", "memory pressure"),),
            (HOST,),
            "systemd-oomd /user.slice memory pressure",
            "matters",
            "owns /user.slice by memory pressure",
        ),
        (
            (OOMD,),
            (Managed("/system.slice", "swap"),),
            (WEB,),
            "systemd-oomd /system.slice swap",
            "matters",
            "(pid 321) owns /system.slice",
        ),
        (
            (OOMD,),
            (Managed("/system.slice/web-1.service/worker", "swap"),),
            (WEB,),
            "systemd-oomd /system.slice/web-1.service/worker swap",
            "matters",
            "owns",
        ),
        (
            (OOMD,),
            (Managed("/user.slice", "swap"),),
            (WEB,),
            "systemd-oomd /user.slice swap",
            "note",
            "owns /user.slice",
        ),
        (
            (OOMD,),
            (Managed("/user.slice", "swap"),),
            (replace(HOST, mode="observe"),),
            "systemd-oomd /user.slice swap",
            "note",
            "owns",
        ),
    ],
)
def test_who_else_kills(
    others: tuple[Other, ...],
    managed: tuple[Managed, ...],
    guards: tuple[Guarded, ...],
    name: str,
    severity: str,
    said: str,
) -> None:
    facts = replace(ours(guards=guards), others=others, managed=managed)
    it = found(facts, name)
    assert (it.severity, said in it.text) == (severity, True), it
    assert not others or it.mend.startswith("systemctl disable --now ")


def test_the_policies_that_are_in_the_way_are_named() -> None:
    facts = replace(ours(guards=(HOST, WEB)), others=(OOMD,), managed=(Managed("/system.slice", "swap"),))
    assert "so do our policies host, web" in found(facts, "systemd-oomd /system.slice swap").means


def test_every_capability_is_told_one_by_one() -> None:
    without = rights(capabilities=frozenset())
    told = {it.name for it in of(without) if it.topic == "rights" and it.severity != "fine"}
    assert told == set(CAPABILITIES)


def test_no_capability_that_the_daemon_needs_or_its_unit_gives_is_forgotten() -> None:
    unit = (Path(__file__).parents[2] / "systemd/oomguard.service").read_text()
    given = {line.partition("=")[2] for line in unit.splitlines() if line.startswith("CapabilityBoundingSet=CAP_")}
    assert given == set(CAPABILITIES)
    assert set(NEEDED) <= set(CAPABILITIES)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 KiB"), (5 << 10, "5 KiB"), (MIB, "1 MiB"), (9 * GIB, "9216 MiB"), (10 * GIB, "10.0 GiB")],
)
def test_sizes(number: int, text: str) -> None:
    assert size(number) == text
