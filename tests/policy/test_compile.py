"""What a policy means: every default filled in, later files over earlier ones, triggers numbered."""

from pathlib import Path

import pytest

from oomguard import __version__
from oomguard.model import codec
from oomguard.model import policy as model
from oomguard.model.policy import Amount, Clause

from .helpers import faults_of, guard_of, plan_of

S = 10**9
HOST = """
[policy.host]
cgroup = "/"
hard = { when = [{ available_below = "5%" }], do = ["kill"] }
"""


def test_the_shortest_policy_has_every_default(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, HOST)
    assert plan == model.Plan(
        version=__version__,
        daemon=model.Daemon(),
        guards=(
            model.Guard(
                name="host",
                cgroup="/",
                hard=model.Watermark((Clause((model.AvailableBelow(Amount(share=0.05)),)),), (model.KillStep(),)),
                origin=f"{tmp_path}/0.toml:2",
            ),
        ),
        files=(f"{tmp_path}/0.toml",),
    )


def test_everything_that_can_be_written(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path,
        """
        [daemon]
        state_dir = "/srv/oomguard/"
        runtime_dir = "/run/og"
        heap = "8MiB"
        worker_heap = "1M"
        ring = "1MiB"
        incidents = { max_count = 7, max_bytes = "1GiB", max_age = "30d" }
        [policy.all]
        cgroup = "/system.slice/web-*.service"
        mode = "observe"
        tripwire = true
        brake = false
        cooldown = "1m"
        budget = { kills = 3, per = "5m" }
        [policy.all.soft]
        when = [
          { available_below = ["12%", "6GiB"], swap_free_below = 1024, lasting = "2s" },
          { stall_above = { some = "150ms" } },
          { stall_above = { full = "1s", within = "2s" }, memory_above = "80%" },
        ]
        do = ["snapshot", { notify = {} }, "nominate"]
        [policy.all.hard]
        when = [{ memory_above = "95%" }, { swap_above = "1G", pressure_above = { full = "20%", over = "60s" } }]
        do = [{ set_high = { to = "90%", for = "30s" } }, { set_oom_score_adj = { to = 1000, for = "1h" } },
              { kill = { grace = "2s" } }]
        [policy.all.victim]
        by = "oom_score"
        take = "subtree"
        never = [{ comm = "sshd*", unit = "ssh.service" }]
        avoid = [{ unit = "*" }]
        prefer = [{ cgroup = "/user.slice/**" }]
        """,
    )
    assert plan.daemon == model.Daemon(
        state_dir="/srv/oomguard",
        runtime_dir="/run/og",
        heap_bytes=8 << 20,
        worker_heap_bytes=1 << 20,
        ring_bytes=1 << 20,
        incidents_max_count=7,
        incidents_max_bytes=1 << 30,
        incidents_max_age_ns=30 * 86400 * S,
    )
    (guard,) = plan.guards
    assert guard.soft == model.Watermark(
        when=(
            Clause(
                (
                    model.AvailableBelow(Amount(share=0.12)),
                    model.AvailableBelow(Amount(bytes=6 << 30)),
                    model.SwapFreeBelow(Amount(bytes=1024)),
                ),
                2 * S,
            ),
            Clause((model.StallAbove("some", 150_000, 1_000_000, 0),)),
            Clause((model.MemoryAbove(Amount(share=0.8)), model.StallAbove("full", 1_000_000, 2_000_000, 1))),
        ),
        do=(model.SnapshotStep(), model.NotifyStep(), model.NominateStep()),
    )
    assert guard.hard == model.Watermark(
        when=(
            Clause((model.MemoryAbove(Amount(share=0.95)),)),
            Clause((model.SwapAbove(Amount(bytes=1 << 30)), model.PressureAbove("full", 0.2, "60s"))),
        ),
        do=(
            model.SetHighStep(Amount(share=0.9), 30 * S),
            model.SetOomScoreAdjStep(1000, 3600 * S),
            model.KillStep(2 * S),
        ),
    )
    assert guard.victim == model.VictimRule(
        by="oom_score",
        take="subtree",
        never=(model.Match("sshd*", "ssh.service", None),),
        avoid=(model.Match(None, "*", None),),
        prefer=(model.Match(None, None, "/user.slice/**"),),
    )
    assert (guard.mode, guard.tripwire, guard.brake, guard.cooldown_ns) == ("observe", True, False, 60 * S)
    assert guard.budget == model.Budget(3, 300 * S)
    assert codec.from_plain(codec.to_plain(plan)) == plan


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ('growth_above = "50MiB/s"', model.GrowthAbove(Amount(bytes=50 << 20), 3 * S, 0)),
        ('growth_above = "50MiB"', model.GrowthAbove(Amount(bytes=50 << 20), 3 * S, 0)),
        ('growth_above = "2%/s"', model.GrowthAbove(Amount(share=0.02), 3 * S, 0)),
        ('growth_above = { rate = "1G/s", over = "30s" }', model.GrowthAbove(Amount(bytes=1 << 30), 30 * S, 0)),
        ('exhausts_within = "2.5s"', model.ExhaustsWithin(5 * S // 2, 0)),
        ('refaults_above = "5MiB/s"', model.RefaultsAbove("any", Amount(bytes=5 << 20), 3 * S, 0)),
        ('refaults_above = { anon = "1%/s", over = "5s" }', model.RefaultsAbove("anon", Amount(share=0.01), 5 * S, 0)),
        ("refaults_above = { file = 4096 }", model.RefaultsAbove("file", Amount(bytes=4096), 3 * S, 0)),
        ('events_above = { high = 100, per = "10s" }', model.EventsAbove("high", 100, 10 * S, 0)),
        ('events_above = { oom_kill = 0, per = "1h" }', model.EventsAbove("oom_kill", 0, 3600 * S, 0)),
        ('zram_above = "50%"', model.ZramAbove("memory", Amount(share=0.5))),
        ('zram_above = { disk = "4G" }', model.ZramAbove("disk", Amount(bytes=4 << 30))),
        ('pressure_rising = { some = "5%" }', model.PressureRising("some", 0.05, "10s")),
        ('pressure_rising = { full = "5%", over = "60s" }', model.PressureRising("full", 0.05, "60s")),
    ],
)
def test_conditions_that_look_back(written: str, meant: model.Condition, tmp_path: Path) -> None:
    guard = guard_of(tmp_path, f'[policy.x]\ncgroup = "/x"\nhard = {{ when = [{{ {written} }}], do = ["kill"] }}\n')
    assert guard.hard is not None
    assert guard.hard.when == (Clause((meant,)),)


def test_triggers_are_numbered_through_all_policies(tmp_path: Path) -> None:
    marks = 'soft = { when = [{ stall_above = { some = "1s", within = "2s" } }], do = ["notify"] }'
    plan = plan_of(tmp_path, f'policy.a = {{ cgroup = "/", {marks} }}\npolicy.b = {{ cgroup = "/b", {marks} }}')
    conditions = [clause.all_of[0] for guard in plan.guards if guard.soft for clause in guard.soft.when]
    assert [condition.number for condition in conditions if isinstance(condition, model.StallAbove)] == [0, 1]


def test_hard_without_soft_and_soft_without_hard_are_fine(tmp_path: Path) -> None:
    assert guard_of(tmp_path, HOST).soft is None
    assert guard_of(tmp_path, HOST.replace("hard", "soft").replace("kill", "snapshot")).hard is None


class TestLaterFiles:
    def test_win_key_by_key(self, tmp_path: Path) -> None:
        later = '[policy.host]\nmode = "observe"\n[policy.host.victim]\ntake = "process"\n[daemon]\nheap = "8M"'
        first = HOST + '[policy.host.victim]\nby = "oom_score"\n[daemon]\nring = "1M"'
        plan = plan_of(tmp_path, first, later)
        (guard,) = plan.guards
        assert (guard.cgroup, guard.mode) == ("/", "observe")
        assert guard.victim == model.VictimRule(take="process"), "a table within a policy is replaced whole"
        assert (plan.daemon.heap_bytes, plan.daemon.ring_bytes) == (8 << 20, 1 << 20)
        assert guard.origin == f"{tmp_path}/0.toml:2", "a policy is where it was first written"

    def test_add_policies(self, tmp_path: Path) -> None:
        plan = plan_of(tmp_path, HOST, HOST.replace("host", "web").replace('"/"', '"/web"'))
        assert [guard.name for guard in plan.guards] == ["host", "web"]

    def test_take_policies_out(self, tmp_path: Path) -> None:
        web = HOST.replace("host", "web")
        plan = plan_of(tmp_path, HOST + web, "[policy.host]\ndisabled = true")
        assert [guard.name for guard in plan.guards] == ["web"]

    def test_can_put_them_back(self, tmp_path: Path) -> None:
        off, on = ("[policy.host]\ndisabled = true", "[policy.host]\ndisabled = false")
        assert len(plan_of(tmp_path, HOST, off, on).guards) == 1

    def test_a_slip_in_the_name_does_not_leave_it_in_force_unsaid(self, tmp_path: Path) -> None:
        (fault,) = faults_of(tmp_path, HOST, "\n[policy.hots]\ndisabled = true")
        assert (fault.file, fault.line) == (f"{tmp_path}/1.toml", 2)
        assert fault.message == "there is no policy hots before this to disable"
        assert fault.hint == "did you mean host?"

    def test_a_fault_is_reported_where_it_was_written(self, tmp_path: Path) -> None:
        (fault,) = faults_of(tmp_path, HOST, '\n\n[policy.host]\nmode = "enfroce"')
        assert (fault.file, fault.line, fault.hint) == (f"{tmp_path}/1.toml", 4, "did you mean enforce?")

    def test_the_faults_of_all_files_come_at_once_and_in_their_order(self, tmp_path: Path) -> None:
        faults = faults_of(tmp_path, HOST + "a = 1", "b = 1", "c = ", HOST.replace("host", "x") + "d = 1")
        assert [(Path(fault.file).name, fault.line) for fault in faults] == [
            ("0.toml", 5),
            ("1.toml", 1),
            ("2.toml", 1),
            ("3.toml", 5),
        ]

    def test_all_disabled_guards_nothing_and_is_refused(self, tmp_path: Path) -> None:
        (fault,) = faults_of(tmp_path, HOST, "[policy.host]\ndisabled = true")
        assert fault.message == "no policy is in force: nothing would be guarded"


def test_a_slip_elsewhere_does_not_hide_swapped_watermarks(tmp_path: Path) -> None:
    text = """
    [policy.host]
    cgroup = "/"
    mode = 1
    soft = { when = [{ available_below = "5%" }], do = ["snapshot"] }
    hard = { when = [{ available_below = "9%" }], do = ["kill"] }
    """
    assert [fault.key for fault in faults_of(tmp_path, text)] == ["policy.host.mode", "policy.host.hard.when[0]"]


def test_a_slip_in_hard_is_not_blamed_on_the_tripwire(tmp_path: Path) -> None:
    text = HOST.replace('"/"', '"/web"').replace('"5%"', "5.0") + "tripwire = true"
    assert [fault.key for fault in faults_of(tmp_path, text)] == ["policy.host.hard.when[0].available_below"]


@pytest.mark.parametrize("comm", ["x" * 15, "x" * 15 + "*", "*" + "?" * 15, "gnome-session-b", "é" * 7])
def test_names_of_processes_that_can_match(comm: str, tmp_path: Path) -> None:
    guard = guard_of(tmp_path, HOST + f'victim = {{ never = [{{ comm = "{comm}" }}] }}')
    assert guard.victim.never == (model.Match(comm=comm),)


@pytest.mark.parametrize("comm", ["x" * 16, "x" * 16 + "*", "?" * 16, "é" * 8])
def test_names_of_processes_that_the_kernel_cuts(comm: str, tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path, HOST + f'victim = {{ never = [{{ comm = "{comm}" }}] }}')
    assert "never matches: the kernel keeps 15 bytes" in fault.message


@pytest.mark.parametrize(
    ("soft", "hard"),
    [
        ('{ available_below = "12%" }', '{ available_below = "5%" }'),
        ('{ available_below = "5%" }', '{ available_below = "5%" }'),  # at the same moment: pointless, but no harm
        ('{ available_below = "5%" }', '{ available_below = "1GiB" }'),  # which is more? only a machine can tell
        ('{ available_below = "5%" }, { available_below = "20%" }', '{ available_below = "12%" }'),
        ('{ available_below = "10%" }', '{ available_below = "12%", pressure_above = { full = "50%" } }'),
        ('{ memory_above = "80%" }', '{ memory_above = "90%" }'),
        ('{ swap_above = "80%" }', '{ memory_above = "10%" }'),
        ('{ stall_above = { some = "100ms" } }', '{ stall_above = { full = "100ms" } }'),
        ('{ stall_above = { some = "900ms" } }', '{ stall_above = { some = "100ms", within = "500ms" } }'),
        ('{ pressure_above = { some = "50%" } }', '{ pressure_above = { some = "50%", over = "60s" } }'),
        ('{ memory_above = "80%" }', '{ memory_above = "80%", lasting = "10s" }'),
        ('{ exhausts_within = "10s" }', '{ exhausts_within = "3s" }'),
        ('{ growth_above = "10MiB/s" }', '{ growth_above = { rate = "5MiB/s", over = "1s" } }'),
        ('{ refaults_above = { anon = "10MiB/s" } }', '{ refaults_above = { file = "5MiB/s" } }'),
        ('{ zram_above = "30%" }', '{ zram_above = { disk = "20%" } }'),
        ('{ pressure_above = { full = "10%" } }', '{ pressure_rising = { full = "20%" } }'),
    ],
)
def test_watermarks_in_order(soft: str, hard: str, tmp_path: Path) -> None:
    guard_of(tmp_path, _marks(soft, hard))


@pytest.mark.parametrize(
    ("soft", "hard"),
    [
        ('{ available_below = "5%" }', '{ available_below = "12%" }'),
        ('{ available_below = "512MiB" }', '{ available_below = "1GiB" }'),
        ('{ available_below = ["12%", "1GiB"] }', '{ available_below = "15%" }'),
        ('{ swap_free_below = "5%", available_below = "20%" }', '{ swap_free_below = "6%" }'),
        ('{ memory_above = "90%" }', '{ memory_above = "80%" }'),
        ('{ swap_above = "90%" }', '{ swap_above = "80%" }'),
        ('{ stall_above = { full = "200ms" } }', '{ stall_above = { some = "100ms" } }'),
        ('{ pressure_above = { some = "50%", over = "60s" } }', '{ pressure_above = { some = "40%", over = "60s" } }'),
        ('{ memory_above = "80%", lasting = "10s" }', '{ memory_above = "80%" }'),
        ('{ exhausts_within = "3s" }', '{ exhausts_within = "10s" }'),
        ('{ growth_above = "10MiB/s" }', '{ growth_above = "5MiB" }'),
        ('{ refaults_above = { file = "10MiB/s" } }', '{ refaults_above = { any = "5MiB/s" } }'),
        ('{ zram_above = "30%" }', '{ zram_above = { memory = "20%" } }'),
        ('{ pressure_rising = { full = "20%" } }', '{ pressure_above = { full = "20%" } }'),
    ],
)
def test_watermarks_out_of_order(soft: str, hard: str, tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path, _marks(soft, hard))
    assert fault.key == "policy.host.hard.when[0]"
    assert fault.line == 4
    assert "is reached before soft" in fault.message


def _marks(soft: str, hard: str) -> str:
    return f"""[policy.host]
cgroup = "/"
soft = {{ when = [{soft}], do = ["snapshot"] }}
hard = {{ when = [{hard}], do = ["kill"] }}
"""


@pytest.mark.parametrize("name", ["a", "0", "web-1", "A_b", "x" * 64])
def test_names_that_can_be_part_of_a_path(name: str, tmp_path: Path) -> None:
    assert guard_of(tmp_path, HOST.replace("host", name)).name == name


@pytest.mark.parametrize("name", ['""', '"-a"', '"a b"', '"a/b"', '".."', '"a.b"', '"\\u00e4"', '"a\\n"', "x" * 65])
def test_names_that_cannot(name: str, tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path, HOST.replace("host", name))
    assert "is not a name for a policy" in fault.message
    assert fault.line == 2


def test_there_is_room_for_so_many_policies(tmp_path: Path) -> None:
    def many(number: int) -> str:
        return "".join(HOST.replace("host", f"p{index}") for index in range(number))

    assert len(plan_of(tmp_path, many(128)).guards) == 128
    (fault,) = faults_of(tmp_path, many(129))
    assert (fault.key, fault.message) == ("policy.p128", "more than 128 policies")


def test_observe_holds_for_every_policy(tmp_path: Path) -> None:
    from oomguard.policy import load

    path = tmp_path / "a.toml"
    path.write_text(HOST + HOST.replace("host", "web"))
    assert [guard.mode for guard in load([path], observe=True).guards] == ["observe", "observe"]
    assert [guard.mode for guard in load([path]).guards] == ["enforce", "enforce"]


@pytest.mark.parametrize("pattern", ["/", "/a", "/a/**", "/*/b", "/**", "/a.b/c?", r"/system.slice/dev-\x2da.mount"])
def test_cgroup_patterns(pattern: str, tmp_path: Path) -> None:
    assert guard_of(tmp_path, HOST.replace('"/"', f"'{pattern}'")).cgroup == pattern


@pytest.mark.parametrize("pattern", ["", "a", "/a/", "//", "/a/../b", "/./a", "/[ab]", "/{a,b}", "/***", "a/**"])
def test_what_is_no_cgroup_pattern(pattern: str, tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path, HOST.replace('"/"', f"'{pattern}'"))
    assert (fault.key, fault.line) == ("policy.host.cgroup", 3)
