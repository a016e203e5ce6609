"""What a right policy cannot do on this machine, or should not. The machine is a directory."""

import os
from pathlib import Path

import pytest

from oomguard.judge.glob import matches
from oomguard.model import policy as model
from oomguard.policy import Fault, doubts, load, warnings

NEVER = 'victim = { never = [{ comm = "sshd*" }] }'


class Machine:
    """A fake /proc and cgroup root. By default: swap, pressure, cgroup v2 and one limited service."""

    def __init__(self, root: Path) -> None:
        self.root, self.proc, self.cgroup = root, root / "proc", root / "cgroup"
        (self.proc / "pressure").mkdir(parents=True)
        (self.proc / "pressure/memory").write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n")
        self.swap(1024)
        self.service("system.slice/web.service", "268435456")
        (self.cgroup / "cgroup.controllers").write_text("memory\n")
        (self.proc / "vmstat").write_text("nr_free_pages 1\nworkingset_refault_file 0\n")
        self.sys = root / "sys"
        (self.sys / "block/zram0").mkdir(parents=True)

    def swap(self, kib: int) -> None:
        (self.proc / "meminfo").write_text(f"MemTotal: 1024 kB\nSwapTotal: {kib} kB\nSwapFree: {kib} kB\n")

    def service(self, path: str, limit: str) -> None:
        directory = self.cgroup / path
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "memory.max").write_text(f"{limit}\n")

    def doubts(self, text: str) -> list[Fault]:
        path = self.root / "a.toml"
        path.write_text(text)
        plan = load([path])
        daemon = model.Daemon(proc=str(self.proc), cgroup=str(self.cgroup), sys=str(self.sys))
        plan = model.Plan(plan.version, daemon, plan.guards, plan.files)
        return warnings(plan, matches)

    def said(self, text: str) -> list[tuple[int, str]]:
        return [(doubt.line, doubt.key) for doubt in self.doubts(text)]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def guard(when: str, cgroup: str = "/") -> str:
    return f"""[policy.it]
cgroup = "{cgroup}"
{NEVER}
[policy.it.soft]
when = [{{ available_below = "50%" }}]
do = ["snapshot"]
[policy.it.hard]
when = [{when}]
do = ["kill"]
"""


ANY = '{ available_below = "5%" }'


def test_a_good_policy_leaves_no_doubt(machine: Machine) -> None:
    assert machine.doubts(guard(ANY)) == []
    assert machine.doubts(guard('{ memory_above = "90%" }', "/system.slice/*.service")) == []


def test_swap_above_without_swap_never_holds(machine: Machine) -> None:
    machine.swap(0)
    (one, all_of_it) = machine.doubts(guard('{ swap_above = "50%" }'))
    assert (one.line, one.key) == (8, "policy.it.hard.when[0]")
    assert one.message == "can never hold on this machine: it has no swap"
    assert (all_of_it.line, all_of_it.message) == (7, "can never be reached on this machine")


def test_swap_free_below_without_swap_always_holds(machine: Machine) -> None:
    machine.swap(0)
    assert machine.doubts(guard('{ available_below = "5%", swap_free_below = "10%" }')) == []


@pytest.mark.parametrize("condition", ['stall_above = { some = "100ms" }', 'pressure_above = { full = "50%" }'])
def test_without_pressure_files_pressure_is_never_over_anything(machine: Machine, condition: str) -> None:
    (machine.proc / "pressure/memory").unlink()
    (one,) = machine.doubts(guard(f"{ANY}, {{ {condition} }}"))
    assert one.key == "policy.it.hard.when[1]"
    assert "psi=1" in one.message


def test_without_compressed_swap_and_counters_of_refaults(machine: Machine) -> None:
    conditions = '{ zram_above = "50%" }, { zram_above = { disk = "50%" } }, { refaults_above = "1MiB/s" }'
    assert machine.said(guard(conditions)) == []
    (machine.sys / "block/zram0").rmdir()
    (machine.proc / "vmstat").write_text("nr_free_pages 1\n")
    keys = [doubt.key for doubt in machine.doubts(guard(conditions))]
    assert keys == [*(f"policy.it.hard.when[{index}]" for index in range(3)), "policy.it.hard"]
    with open(machine.proc / "meminfo", "a") as meminfo:
        meminfo.write("Zswap:              0 kB\n")
    keys = [doubt.key for doubt in machine.doubts(guard(conditions))]
    assert keys == ["policy.it.hard.when[1]", "policy.it.hard.when[2]"]


def test_an_attribute_that_nobody_has(machine: Machine) -> None:
    asks = guard(ANY, "/system.slice/web-*.service").replace("[policy.it]", '[policy.it]\nxattr = "user.tier=batch"')
    machine.service("system.slice/web-9.service", "268435456")
    assert [doubt.key for doubt in machine.doubts(asks)] == ["policy.it.xattr"]
    os.setxattr(machine.cgroup / "system.slice/web-9.service", "user.tier", b"batch")
    assert "policy.it.xattr" not in [doubt.key for doubt in machine.doubts(asks)]


def test_a_pattern_that_matches_nothing(machine: Machine) -> None:
    (one,) = machine.doubts(guard(ANY, "/system.slice/wbe.service"))
    assert (one.line, one.key) == (2, "policy.it.cgroup")
    assert one.message == "/system.slice/wbe.service matches no cgroup now"


def test_shares_of_a_limit_that_is_not_there(machine: Machine) -> None:
    machine.service("system.slice/db.service", "max")
    (one,) = machine.doubts(guard('{ memory_above = "90%" }', "/system.slice/*.service"))
    assert one.message == "/system.slice/db.service has no memory.max: shares are of the machine's memory"
    assert machine.doubts(guard('{ memory_above = "512KiB" }', "/system.slice/*.service")) == []


def test_a_tripwire_needs_a_limit(machine: Machine) -> None:
    machine.service("system.slice/db.service", "max")
    machine.service("system.slice/eb.service", "max")
    text = guard('{ memory_above = "512KiB" }', "/system.slice/*.service")
    (one,) = machine.doubts(text.replace("[policy.it.soft]", "tripwire = true\n[policy.it.soft]"))
    assert (one.line, one.key) == (4, "policy.it.tripwire")
    assert one.message == "/system.slice/db.service (and 1 more) has no memory.max to lay a tripwire under"


def test_a_limit_further_up_is_a_limit(machine: Machine) -> None:
    machine.service("system.slice/db.service", "max")
    machine.service("system.slice", "1073741824")
    assert machine.doubts(guard('{ memory_above = "90%" }', "/system.slice/*.service")) == []


@pytest.mark.parametrize("controllers", [None, "cpu io pids\n"], ids=["no cgroup v2", "cgroup_disable=memory"])
def test_where_nobody_counts_memory_a_guard_of_a_cgroup_watches_nothing(
    machine: Machine, controllers: str | None
) -> None:
    machine.service("system.slice/web.service", "max")
    (machine.cgroup / "cgroup.controllers").unlink()
    if controllers:
        (machine.cgroup / "cgroup.controllers").write_text(controllers)
    assert machine.said(guard(ANY, "/system.slice/web.service")) == [(2, "policy.it.cgroup")]
    assert machine.said(guard(ANY)) == []


def test_what_v1_cannot_do_is_said_where_it_is_asked_for(machine: Machine) -> None:
    (machine.cgroup / "cgroup.controllers").unlink()
    for path, limit in (("memory", "9223372036854771712"), ("memory/system.slice/web.service", "268435456")):
        (machine.cgroup / path).mkdir(parents=True)
        (machine.cgroup / path / "memory.usage_in_bytes").write_text("0\n")
        (machine.cgroup / path / "memory.limit_in_bytes").write_text(f"{limit}\n")
    text = guard('{ memory_above = "90%" }, { level_above = "medium" }', "/system.slice/web.service")
    assert machine.doubts(text) == []
    text = text.replace(
        'do = ["kill"]', 'do = [{ set_high = { to = "80%", for = "9s" } }, { reclaim = "8MiB" }, "kill"]'
    )
    text = text.replace("[policy.it.soft]", "tripwire = true\n[policy.it.soft]")
    found = machine.doubts(text)
    assert [doubt.key for doubt in found] == ["policy.it.tripwire", "policy.it.hard.do[0]", "policy.it.hard.do[1]"]
    assert all(doubt.message.startswith("cgroup v1 has no memory.") for doubt in found)
    (machine.cgroup / "memory/system.slice/web.service/memory.limit_in_bytes").write_text("9223372036854771712\n")
    (one,) = machine.doubts(guard('{ memory_above = "90%" }', "/system.slice/web.service"))
    assert "has no memory.max: shares are of the machine's memory" in one.message


def test_a_level_of_v1_never_holds_on_v2(machine: Machine) -> None:
    (first, _) = machine.doubts(guard('{ level_above = "medium" }', "/system.slice/web.service"))
    assert first.message == "can never hold on this machine: memory.pressure_level is cgroup v1's alone"


def test_a_kill_of_anybody_on_the_machine(machine: Machine) -> None:
    (one,) = machine.doubts(guard(ANY).replace(NEVER, ""))
    assert (one.line, one.key) == (1, "policy.it.victim.never")
    assert machine.doubts(guard(ANY, "/system.slice/web.service").replace(NEVER, "")) == []


@pytest.mark.parametrize(
    ("cgroup", "never", "told"),
    [
        ("/", 'comm = "Xorg"', True),
        ("/system.slice", 'comm = "Xorg"', True),
        ("/*.slice", 'comm = "Xorg"', True),
        ("/system.slice", 'unit = "ssh*.service"', False),
        ("/", 'cgroup = "/system.slice/**"', False),
        ("/", 'comm = "sshd", unit = "other.service"', True),
        ("/system.slice/*.service", 'comm = "Xorg"', False),  # there it would be for its own memory
        ("/user.slice", 'comm = "Xorg"', False),
    ],
)
def test_the_way_in_may_be_ended(machine: Machine, cgroup: str, never: str, told: bool) -> None:
    machine.service("user.slice", "1073741824")
    machine.service("system.slice", "1073741824")
    text = guard(ANY, cgroup).replace(NEVER, f"victim = {{ never = [{{ {never} }}] }}")
    said = machine.doubts(text)
    assert [doubt.key for doubt in said] == ["policy.it.victim.never"] * told


def test_what_always_holds_here(machine: Machine) -> None:
    (one,) = machine.doubts(guard('{ available_below = "2MiB", swap_free_below = "2MiB" }').replace('"50%"', '"99%"'))
    assert (one.line, one.key) == (8, "policy.it.hard.when[0]")
    assert one.message == "always holds on this machine: it has 1 MiB of memory in all"
    assert machine.doubts(guard('{ available_below = "2MiB", swap_free_below = "5%" }')) == []
    assert machine.doubts(guard('{ available_below = ["2MiB", "5%"] }')) == []


def test_more_memory_than_there_is(machine: Machine) -> None:
    found = machine.doubts(guard('{ memory_above = "2MiB" }'))
    assert [doubt.key for doubt in found] == ["policy.it.hard.when[0]", "policy.it.hard"]


def test_what_is_hidden_is_told_where_it_stands(machine: Machine) -> None:
    (one,) = machine.doubts(guard(f"{ANY},\n{{ available_below = '3%' }}"))
    assert (one.line, one.key) == (9, "policy.it.hard.when[1]")


def test_a_kill_at_soft(machine: Machine) -> None:
    assert machine.said(guard(ANY).replace('["snapshot"]', '["kill"]')) == [(6, "policy.it.soft.do")]


def test_no_soft_watermark(machine: Machine) -> None:
    text = f'[policy.it]\ncgroup = "/"\n{NEVER}\nhard = {{ when = [{ANY}], do = ["kill"] }}'
    assert machine.said(text) == [(1, "policy.it.soft")]


def test_a_doubt_stands_in_the_file_that_raised_it(machine: Machine) -> None:
    first, second = machine.root / "first.toml", machine.root / "second.toml"
    first.write_text(guard(ANY))
    second.write_text(f'\n\n[policy.it.hard]\nwhen = [{ANY}, {{ swap_above = "50%" }}]\ndo = ["kill"]')
    machine.swap(0)
    plan = load([first, second])
    daemon = model.Daemon(proc=str(machine.proc), cgroup=str(machine.cgroup))
    (one,) = doubts.of(model.Plan(plan.version, daemon, plan.guards, plan.files), matches)
    assert (one.file, one.line) == (str(second), 4)


def test_a_machine_that_cannot_be_read_raises_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(guard('{ swap_above = "50%" }', "/a"))
    plan = load([path])
    nowhere = model.Daemon(proc=str(tmp_path / "none"), cgroup=str(tmp_path / "none"))
    assert warnings(model.Plan(plan.version, nowhere, plan.guards, plan.files), matches)


def test_a_fifo_for_a_user_who_is_not_here(tmp_path: Path) -> None:
    """Of this machine alone it is known who there is."""
    text = f"""
[policy.web]
cgroup = "/"
{NEVER}
[policy.web.soft]
when = [{{ available_below = "10%" }}]
do = ["snapshot", {{ tell = {{ fifos = {{ a = "root", b = "no-such-user" }} }} }}]
"""
    path = tmp_path / "a.toml"
    path.write_text(text)
    said = [fault for fault in warnings(load([path]), matches) if "fifos" in fault.key]
    assert [(fault.line, fault.key) for fault in said] == [(7, "policy.web.soft.do[1].tell.fifos.b")]
    assert "no user 'no-such-user'" in said[0].message
    assert not [fault for fault in Machine(tmp_path / "other").doubts(text) if "fifos" in fault.key]
