"""Other daemons' configurations: the policy fires where theirs would, by what their manuals say; the rest is told.

The settings are those of Debian 12's packages (earlyoom 1.7, nohang 0.2.0, oomd 0.5.0, systemd-oomd 252) and of the
examples in their documentation; the texts are our own.
"""

from pathlib import Path
from typing import Any

import pytest

from oomguard.model.facts import ProcessFacts
from oomguard.model.policy import KillStep, RunStep, WaitStep
from oomguard.policy import PolicyError
from tests.judge.world import process

from .importing import Machine, draft, lost, plan

TERM, KILL, NOTHING = "TERM hog", "KILL hog", ""


def ends(directory: Path, kind: str, name: str, text: str, **seen: Any) -> str:
    return Machine(plan(directory, draft(directory, kind, (name, text)))).ends(**seen)


# ------------------------------------------------------------------------------------------------------------ earlyoom

DEFAULT = 'EARLYOOM_ARGS="-r 3600"\n'


@pytest.mark.parametrize(
    ("options", "seen", "signal"),
    [
        ("", {"available": 11, "swap_free": 0}, NOTHING),
        ("", {"available": 9, "swap_free": 9}, TERM),
        ("", {"available": 9, "swap_free": 11}, NOTHING),  # both, not either
        ("", {"available": 4, "swap_free": 4}, KILL),
        ("", {"available": 4, "swap_free": 6}, TERM),
        ("", {"available": 6, "swap_free": 4}, TERM),
        ("", {"available": 9, "swap_total": 0}, TERM),  # no swap: none is free
        ("", {"available": 4, "swap_total": 0}, KILL),
        ("-m 10,5 -s 10,5", {"available": 7, "swap_free": 7}, TERM),
        ("-m 30", {"available": 29, "swap_free": 9}, TERM),
        ("-m 30", {"available": 14, "swap_free": 4}, KILL),  # the second number is half of the first
        ("-m 20,18", {"available": 17, "swap_free": 4}, KILL),
        ("-m 20,18 -s 50,50", {"available": 19, "swap_free": 40}, TERM),
        ("-m 8,8 -s 8,8", {"available": 7, "swap_free": 7}, KILL),  # the same twice: always SIGKILL
        ("-m 8,8 -s 8,8", {"available": 9, "swap_free": 0}, NOTHING),
        ("-s 100", {"available": 9, "swap_free": 100}, TERM),  # swap does not matter
        ("-s 100", {"available": 4, "swap_free": 60}, TERM),  # but its half does, for SIGKILL
        ("-s 100", {"available": 4, "swap_free": 40}, KILL),
        ("-s 100,100", {"available": 4, "swap_free": 100}, KILL),
        ("-M 51200", {"available": 4.9, "swap_free": 9}, TERM),  # 50 MiB of 1000, in KiB
        ("-M 51200", {"available": 2.4, "swap_free": 4}, KILL),
        ("-M 51200", {"available": 9, "swap_free": 9}, NOTHING),
        ("-m 10 -M 51200", {"available": 9, "swap_free": 9}, NOTHING),  # the lower of the two
        ("-m 4 -M 512000", {"available": 9, "swap_free": 9}, NOTHING),
        ("-M 51200,40960 -S 102400", {"available": 3.9, "swap_free": 4.9}, KILL),
        ("-S 102400", {"available": 9, "swap_free": 9.9}, TERM),
        ("-S 102400", {"available": 9, "swap_free": 10.1}, NOTHING),
        ("--dryrun", {"available": 4, "swap_free": 4}, NOTHING),
    ],
)
def test_earlyoom_fires_when_memory_and_swap_are_low(tmp_path: Path, options: str, seen: Any, signal: str) -> None:
    if options == "--dryrun":
        assert plan(tmp_path, draft(tmp_path, "earlyoom", ("x", options))).guards[0].mode == "observe"
        return
    assert ends(tmp_path, "earlyoom", "earlyoom", f'EARLYOOM_ARGS="-r 60 {options}"\n', **seen) == signal


CROWD = (
    process(10, "hog", "/user.slice/a.scope", 100, score=800),
    process(11, "sshd", "/system.slice/ssh.service", 100, score=900),
    process(12, "firefox", "/user.slice/b.scope", 100, score=300),
    process(13, "Xorg", "/user.slice/c.scope", 100, score=2000),
)


@pytest.mark.parametrize(
    ("options", "victim"),
    [
        ("--ignore ^Xorg$", "sshd"),
        ("--ignore '^(Xorg|sshd)$'", "hog"),
        ("--ignore ^Xorg$ --avoid '(^|/)(init|X|sshd|firefox)$'", "hog"),
        ("--ignore 'Xorg|sshd' --prefer fire", "firefox"),
        ("--ignore Xorg --sort-by-rss", "hog"),
    ],
)
def test_earlyoom_takes_the_highest_score_but_for_what_is_told(tmp_path: Path, options: str, victim: str) -> None:
    machine = Machine(plan(tmp_path, draft(tmp_path, "earlyoom", ("earlyoom", options))), CROWD)
    assert machine.ends(available=4, swap_free=4) == f"KILL {victim}"


def test_earlyoom_takes_groups_and_spares_root(tmp_path: Path) -> None:
    (guard,) = plan(tmp_path, draft(tmp_path, "earlyoom", ("earlyoom", "-g --ignore-root-user"))).guards
    assert guard.victim.take == "process_group"
    assert [match.uid for match in guard.victim.never] == [(0, 0)]


def test_earlyoom_as_debian_has_it(tmp_path: Path) -> None:
    found = draft(tmp_path, "earlyoom", ("earlyoom", f"# options\n{DEFAULT}# EARLYOOM_ARGS='-m 5'\n"))
    assert lost(found) == {}
    assert [(it.key, it.line) for it in found.differs] == [("-r", 2)]


def test_earlyoom_of_a_unit(tmp_path: Path) -> None:
    text = "[Service]\nExecStart=/usr/bin/earlyoom $EARLYOOM_ARGS -m 4\n"
    assert plan(tmp_path, draft(tmp_path, "earlyoom", ("earlyoom.service", text))).guards[0].hard


def test_earlyoom_tells_what_it_cannot_say(tmp_path: Path) -> None:
    text = "EARLYOOM_ARGS=\"-N x --kernel-oom --avoid '(a)\\\\1' --ignore ^12345678901234567$\"\n"
    found = draft(tmp_path, "earlyoom", ("earlyoom", text))
    assert lost(found) == {"-N": 1, "--kernel-oom": 1, "--avoid": 1}
    assert "12345678901234567 is left out" in str(found.differs[0])


def test_earlyoom_runs_programs_and_tells_desktops(tmp_path: Path) -> None:
    found = draft(tmp_path, "earlyoom", ("earlyoom", "-n -N /bin/after -P /bin/before -w 2.5"))
    meant = plan(tmp_path, found)
    assert [(sink.by, sink.argv, sink.at) for sink in meant.sinks] == [
        ("desktop", (), ("killed",)),
        ("run", ("/bin/after",), ("killed",)),
    ]
    (guard,) = meant.guards
    assert guard.soft is not None
    assert guard.hard is not None
    for steps in (guard.soft.do, guard.hard.do):
        run, wait = steps[-3:-1]
        assert isinstance(run, RunStep)
        assert run.argv == ("/bin/before",)
        assert wait == WaitStep(200_000_000)
    assert guard.soft.do[-1] == KillStep(2_500_000_000)
    assert lost(found) == {}
    assert [it.key for it in found.differs] == ["-P", "-n", "-N"]


# -------------------------------------------------------------------------------------------------------------- nohang

# The settings of the packaged nohang.conf and nohang-desktop.conf that bear on who is ended, and when.
PLAIN = """\
## comments begin so
    or with a blank: soft_threshold_min_mem = 50 %
zram_checking_enabled = False
psi_checking_enabled = False
soft_threshold_min_mem = 5 %
soft_threshold_min_swap = 10 %
hard_threshold_min_mem = 2 %
hard_threshold_min_swap = 4 %
max_soft_exit_time = 10
"""
ZRAM = PLAIN.replace("zram_checking_enabled = False", "zram_checking_enabled = True")
DESKTOP = PLAIN.replace("psi_checking_enabled = False", "psi_checking_enabled = True") + (
    "psi_metrics = full_avg10\npsi_excess_duration = 30\nsoft_threshold_max_psi = 40\nhard_threshold_max_psi = 90\n"
    "low_memory_warnings_enabled = True\n"
    "@BADNESS_ADJ_RE_NAME 200 /// ^(Web Content|Privileged Cont)$\n"
    "@BADNESS_ADJ_RE_NAME -200 /// ^(dnf|yum|packagekitd)$\n"
    "@BADNESS_ADJ_RE_REALPATH -200 /// ^(/usr/bin/gnome-shell|/usr/lib/xorg/Xorg)$\n"
    "@BADNESS_ADJ_RE_CGROUP_V2 -50 /// ^/system\\.slice/\n"
    "@BADNESS_ADJ_RE_UID -100 /// ^0$\n"
    "@SOFT_ACTION_RE_NAME ^foo$ /// kill -SEGV $PID\n"
    "post_kill_exe = /bin/true\n"
)


@pytest.mark.parametrize(
    ("text", "seen", "signal"),
    [
        (PLAIN, {"available": 4.9, "swap_free": 9}, TERM),
        (PLAIN, {"available": 4.9, "swap_free": 11}, NOTHING),
        (PLAIN, {"available": 5.1, "swap_free": 0}, NOTHING),
        (PLAIN, {"available": 1.9, "swap_free": 3}, KILL),
        (PLAIN, {"available": 1.9, "swap_free": 5}, TERM),
        (PLAIN, {"available": 4.9, "swap_total": 0}, TERM),
        (PLAIN, {"available": 4.9, "full": 99, "seconds": 60}, NOTHING),
        (ZRAM, {"available": 4.9, "zram": 56}, TERM),
        (ZRAM, {"available": 4.9, "zram": 54}, NOTHING),
        (ZRAM, {"available": 5.1, "zram": 56}, NOTHING),  # zram alone does nothing
        (ZRAM, {"available": 1.9, "zram": 61}, KILL),
        (PLAIN.replace("5 %", "60 M"), {"available": 5.9, "swap_free": 9}, TERM),
        (DESKTOP, {"available": 4.9, "full": 41, "seconds": 29}, NOTHING),
        (DESKTOP, {"available": 4.9, "full": 41, "seconds": 32}, TERM),
        (DESKTOP, {"available": 1.9, "full": 91, "seconds": 32}, KILL),
        (DESKTOP, {"available": 5.1, "full": 91, "seconds": 40}, NOTHING),  # pressure alone does nothing
        (DESKTOP, {"available": 4.9, "some": 99, "seconds": 40}, NOTHING),  # full is asked for
    ],
)
def test_nohang_fires_when_its_thresholds_are_crossed(tmp_path: Path, text: str, seen: Any, signal: str) -> None:
    assert ends(tmp_path, "nohang", "nohang.conf", text, **seen) == signal


def test_nohang_warns_and_ends_nobody(tmp_path: Path) -> None:
    found = draft(tmp_path, "nohang", ("nohang-desktop.conf", DESKTOP))
    (_, warning) = plan(tmp_path, found).guards
    assert warning.name == "nohang-warning"
    assert warning.hard is None
    assert warning.soft is not None
    assert not warning.soft.kills


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("", ("soft",)),
        ("post_action_gui_notifications = True\n", ("killed", "soft")),
        ("post_action_gui_notifications = True\nwarning_exe = /bin/x\n", ("killed",)),
        ("warning_exe = /bin/x\n", ()),
    ],
)
def test_nohang_tells_who_is_at_a_screen(tmp_path: Path, more: str, told: tuple[str, ...]) -> None:
    sinks = plan(tmp_path, draft(tmp_path, "nohang", ("nohang-desktop.conf", DESKTOP + more))).sinks
    assert [(sink.by, sink.at) for sink in sinks] == ([("desktop", told)] if told else [])


def test_nohang_adjusts_by_name_path_and_cgroup(tmp_path: Path) -> None:
    found = draft(tmp_path, "nohang", ("nohang-desktop.conf", DESKTOP))
    rule = plan(tmp_path, found).guards[0].victim
    assert [match.comm for match in rule.prefer] == ["Web Content", "Privileged Cont"]
    assert [match.comm or match.cgroup or match.exe or match.uid for match in rule.avoid] == [
        *("dnf", "yum", "packagekitd", "/usr/bin/gnome-shell", "/usr/lib/xorg/Xorg", "/system.slice/**", (0, 0)),
    ]
    assert lost(found) == {"@SOFT_ACTION_RE_NAME": 20, "post_kill_exe": 21}


def test_nohang_never_takes_what_is_far_below_any_score(tmp_path: Path) -> None:
    found = draft(tmp_path, "nohang", ("nohang.conf", PLAIN + "@BADNESS_ADJ_RE_NAME -2000 /// ^sshd$\n"))
    assert [match.comm for match in plan(tmp_path, found).guards[0].victim.never] == ["sshd"]


# ---------------------------------------------------------------------------------------------------------------- oomd

# The detectors and actions of Debian's oomd.json.
OOMD = """\
// comments are allowed
{ "rulesets": [
  { "name": "overview", "detectors": [["stats", {"name": "dump_cgroup_overview", "args": {"cgroup": "system.slice"}}]],
    "actions": [{"name": "continue", "args": {}}] },
  { "name": "user session protection",
    "detectors": [
      ["user pressure", {"name": "pressure_above",
        "args": {"cgroup": "user.slice", "resource": "memory", "threshold": "60", "duration": "30"}},
       {"name": "memory_reclaim", "args": {"cgroup": "user.slice", "duration": "10"}}],
      ["system pressure", {"name": "pressure_above",
        "args": {"cgroup": "system.slice", "resource": "memory", "threshold": "80", "duration": "60"}}]],
    "actions": [{"name": "kill_by_memory_size_or_growth",
      "args": {"cgroup":
        "user.slice/user-*.slice/session-*.scope,user.slice/user-*.slice/user@*.service/*,system.slice/*"}}] },
  { "name": "low swap", /* and this one */
    "detectors": [["free swap", {"name": "swap_free", "args": {"threshold_pct": "10"}}]],
    "actions": [{"name": "kill_by_swap_usage", "args": {"cgroup":
        "user.slice/user-*.slice/session-*.scope,user.slice/user-*.slice/user@*.service/*,system.slice/*"}}] }
] }
"""


def ruleset(detectors: str, action: str = '{"name": "kill_by_pressure", "args": {"cgroup": "system.slice/*"}}') -> str:
    return f'{{"rulesets": [{{"name": "it", "detectors": [["group", {detectors}]],\n"actions": [{action}]}}]}}'


def detector(name: str, **args: str) -> str:
    pairs = ", ".join(f'"{key}": "{value}"' for key, value in args.items())
    return f'{{"name": "{name}", "args": {{{pairs}}}}}'


PRESSURE = detector("pressure_above", cgroup="system.slice", resource="memory", threshold="80", duration="30")
RISING = detector("pressure_rising_beyond", cgroup="system.slice", resource="memory", threshold="80", duration="30")
ANON = detector("memory_above", cgroup="/", threshold_anon="90%", duration="10")
MEGABYTES = detector("memory_above", cgroup="system.slice", threshold_anon="500", duration="0")


@pytest.mark.parametrize(
    ("text", "seen", "signal"),
    [
        (OOMD, {"full": 81, "seconds": 29}, NOTHING),
        (OOMD, {"full": 81, "seconds": 63}, KILL),
        (OOMD, {"full": 59, "seconds": 63}, NOTHING),
        (OOMD, {"some": 99, "seconds": 63}, NOTHING),
        (OOMD, {"swap_free": 9}, KILL),
        (OOMD, {"swap_free": 11}, NOTHING),
        (OOMD, {"swap_total": 0}, NOTHING),  # nothing of nothing is free
        (ruleset(PRESSURE), {"full": 81, "seconds": 32}, KILL),
        (ruleset(PRESSURE), {"full": 79, "seconds": 32}, NOTHING),
        (ruleset(RISING), {"full": 81, "seconds": 32}, KILL),
        (ruleset(f"{PRESSURE}, {detector('swap_free', threshold_pct='15')}"), {"full": 81, "seconds": 32}, NOTHING),
        (
            ruleset(f"{PRESSURE}, {detector('swap_free', threshold_pct='15')}"),
            {"full": 81, "swap_free": 14, "seconds": 32},
            KILL,
        ),
        (ruleset(MEGABYTES), {"used": {"/system.slice": 51}}, KILL),
        (ruleset(MEGABYTES), {"used": {"/system.slice": 49}}, NOTHING),
        (ruleset(ANON.replace('"/"', '"/"')), {"available": 9, "seconds": 12}, KILL),
        (ruleset(ANON), {"available": 11, "seconds": 12}, NOTHING),
        (ruleset(ANON), {"available": 9, "seconds": 8}, NOTHING),
    ],
)
def test_oomd_fires_when_a_whole_group_of_detectors_does(tmp_path: Path, text: str, seen: Any, signal: str) -> None:
    assert ends(tmp_path, "oomd", "oomd.json", text, **seen) == signal


def test_oomd_as_debian_has_it(tmp_path: Path) -> None:
    found = draft(tmp_path, "oomd", ("oomd.json", OOMD))
    assert lost(found) == {}
    guards = plan(tmp_path, found).guards
    assert [guard.cgroup for guard in guards] == ["/user.slice", "/system.slice", "/"]
    assert [(guard.victim.by, guard.victim.take) for guard in guards] == [*[("memory", "unit")] * 2, ("swap", "unit")]
    assert {guard.cooldown_ns for guard in guards} == {15 * 10**9}


IO = detector("pressure_above", cgroup="system.slice", resource="io", threshold="80", duration="30")
ELSEWHERE = detector("pressure_above", cgroup="workload.slice", resource="memory", threshold="5", duration="15")
EXISTS = detector("exists", cgroup="a.slice")


@pytest.mark.parametrize(
    ("detectors", "why"),
    [
        (IO, "only that of memory"),
        (ELSEWHERE, "asks about /workload.slice and ends what is in /system.slice/*"),
        (f"{ELSEWHERE}, {PRESSURE}", "asks about several cgroups at once"),
        (EXISTS, "exists: there is no such condition here"),
        (f"{PRESSURE}, {EXISTS}", "exists: there is no such condition here"),  # never with one condition less
        (f"{PRESSURE}, {RISING}", "asks twice for pressure_above"),
        (detector("memory_reclaim", cgroup="system.slice", duration="10"), "is no condition here"),
        (detector("swap_free", threshold_pct="ten"), "'ten' is no number"),
    ],
)
def test_oomd_leaves_out_a_group_that_cannot_be_said(tmp_path: Path, detectors: str, why: str) -> None:
    found = draft(tmp_path, "oomd", ("oomd.json", ruleset(detectors)))
    assert found.guards == {}
    assert why in str(found.left[0])
    assert (found.left[0].key, found.left[0].line) == ("it: group", 1)


EACH = """{"rulesets": [{"name": "each", "cgroup": "workload.slice/workload-*.slice/*.service",
"xattr_filter": "oomd_example", "detectors": [["group", {"name": "pressure_above",
"args": {"resource": "memory", "threshold": "80", "duration": "30"}}]],
"actions": [{"name": "kill_by_swap_usage"}]}]}"""


def test_oomd_s_ruleset_for_each_cgroup_with_an_attribute(tmp_path: Path) -> None:
    """Detectors and actions without a cgroup of their own are of the ruleset's (oomd, docs/ruleset_cgroup.md)."""
    found = draft(tmp_path, "oomd", ("oomd.json", EACH))
    (guard,) = plan(tmp_path, found).guards
    assert (guard.cgroup, guard.xattr) == ("/workload.slice/workload-*.slice/*.service", "user.oomd_example=*")
    assert [fault.key for fault in found.differs] == ["each: xattr_filter"]
    full = found.guards["each"]["hard"]
    assert full == {"when": [{"pressure_above": {"full": "80%", "over": "10s"}, "lasting": "30s"}], "do": ["kill"]}


def test_oomd_s_rulesets_for_drop_ins_and_what_ends_nobody_are_told(tmp_path: Path) -> None:
    text = f"""{{"rulesets": [
      {{"name": "base", "drop-in": {{"actions": true}}, "detectors": [["group", {PRESSURE}]],
        "actions": [{{"name": "continue"}}]}},
      {{"name": "base", "detectors": [["group", {PRESSURE}]]}}
    ]}}"""
    found = draft(tmp_path, "oomd", ("oomd.json", text))
    assert found.guards == {}
    assert [(fault.key, fault.message[:20]) for fault in found.left] == [
        ("base: drop-in", "files of conf.d chan"),
        ("base", "its actions end nobo"),
        ("base", "it has no actions: i"),
    ]


@pytest.mark.parametrize(
    "action",
    ["kill_by_memory_size_or_growth", "kill_by_swap_usage", "kill_by_pressure", "kill_by_io_cost", "kill_by_pg_scan"],
)
def test_oomd_ends_and_tells_how_it_chooses_otherwise(tmp_path: Path, action: str) -> None:
    text = ruleset(PRESSURE, detector(action, cgroup="system.slice/*", dry="true", size_threshold="20"))
    found = draft(tmp_path, "oomd", ("oomd.json", text))
    (guard,) = plan(tmp_path, found).guards
    assert guard.mode == "observe"
    exact = {"kill_by_swap_usage": "swap", "kill_by_pressure": "pressure"}
    assert guard.victim.by == exact.get(action, "memory")
    assert (f"it: {action}" in [fault.key for fault in found.differs]) == (action not in exact)
    assert lost(found) == {"it: size_threshold": 1}


# -------------------------------------------------------------------------------------------------------- systemd-oomd

# What Debian's package brings: a duration, swap on the root slice, pressure on users' managers.
CONF = ("oomd.conf", "[OOM]\n#SwapUsedLimit=90%\n")
DURATION = ("oomd.conf.d/10-oomd-defaults.conf", "[OOM]\nDefaultMemoryPressureDurationSec=20s\n")
SWAP = ("-.slice.d/10-oomd-root-slice-defaults.conf", "[Slice]\nManagedOOMSwap=kill\n")
USERS = (
    "user@.service.d/10-oomd-user-service-defaults.conf",
    "[Service]\nManagedOOMMemoryPressure=kill\nManagedOOMMemoryPressureLimit=50%\n",
)
MANAGED = ("user.slice", "[Slice]\nManagedOOMMemoryPressure=kill\n")
INSIDE = (process(100, "hog", "/user.slice/user-1.slice/user@1.service/app.slice/hog.scope", 500, swap=200),)


@pytest.mark.parametrize(
    ("files", "seen", "signal"),
    [
        ((CONF, DURATION, USERS), {"full": 51, "seconds": 19}, NOTHING),
        ((CONF, DURATION, USERS), {"full": 51, "seconds": 22}, KILL),
        ((CONF, DURATION, USERS), {"full": 49, "seconds": 22}, NOTHING),
        ((CONF, USERS), {"full": 51, "seconds": 22}, NOTHING),  # 30 s by default
        ((CONF, USERS), {"full": 51, "seconds": 32}, KILL),
        ((CONF, DURATION, SWAP), {"available": 9, "swap_free": 9}, KILL),
        ((CONF, DURATION, SWAP), {"available": 9, "swap_free": 11}, NOTHING),
        ((CONF, DURATION, SWAP), {"available": 11, "swap_free": 0}, NOTHING),
        ((CONF, DURATION, SWAP), {"available": 1, "swap_total": 0}, NOTHING),  # without swap it watches nothing
        ((("oomd.conf", "[OOM]\nSwapUsedLimit=50%\n"), SWAP), {"available": 49, "swap_free": 49}, KILL),
        ((("oomd.conf", "[OOM]\nDefaultMemoryPressureLimit=20%\n"), MANAGED), {"full": 21, "seconds": 32}, KILL),
        ((MANAGED,), {"full": 21, "seconds": 32}, NOTHING),  # 60% by default
        ((("b.service", "[Service]\nSlice=user.slice\nManagedOOMMemoryPressure=kill\n"),), {"full": 99}, NOTHING),
    ],
)  # fmt: skip
def test_systemd_oomd_fires_for_managed_units(tmp_path: Path, files: Any, seen: Any, signal: str) -> None:
    found = draft(tmp_path, "systemd-oomd", *files)
    assert Machine(plan(tmp_path, found), INSIDE).ends(**seen) == signal


def test_systemd_oomd_as_debian_has_it(tmp_path: Path) -> None:
    found = draft(tmp_path, "systemd-oomd", CONF, DURATION, SWAP, USERS)
    assert lost(found) == {}
    guards = plan(tmp_path, found).guards
    assert [(guard.name, guard.cgroup) for guard in guards] == [
        ("slice-swap", "/"),
        ("user-service-pressure", "/user.slice/user-*.slice/user@*.service"),
    ]
    assert {guard.cooldown_ns for guard in guards} == {15 * 10**9}


@pytest.mark.parametrize(
    ("name", "text", "cgroup"),
    [
        ("a-b.slice.d/x.conf", "[Slice]\n", "/a.slice/a-b.slice"),
        ("web.service", "[Service]\n", "/system.slice/web.service"),
        ("web.service", "[Service]\nSlice=web.slice\n", "/web.slice/web.service"),
        ("web@.service.d/x.conf", "[Service]\n", "/system.slice/system-web.slice/web@*.service"),
        ("user@1000.service.d/x.conf", "[Service]\n", "/user.slice/user-*.slice/user@1000.service"),
    ],
)
def test_systemd_units_are_where_systemd_puts_them(tmp_path: Path, name: str, text: str, cgroup: str) -> None:
    found = draft(tmp_path, "systemd-oomd", (name, text + "ManagedOOMMemoryPressure=kill\n"))
    (guard,) = plan(tmp_path, found).guards
    assert guard.cgroup == cgroup


def test_systemd_oomd_spares_who_is_to_be_spared(tmp_path: Path) -> None:
    avoid = ("db.service.d/x.conf", "[Service]\nManagedOOMPreference=avoid\n")
    omit = ("sshd.service.d/x.conf", "[Service]\nManagedOOMPreference=omit\n")
    (guard,) = plan(tmp_path, draft(tmp_path, "systemd-oomd", SWAP, avoid, omit)).guards
    assert [match.unit for match in guard.victim.avoid] == ["db.service"]
    assert [match.unit for match in guard.victim.never] == ["sshd.service"]


def test_systemd_oomd_without_a_managed_unit_does_nothing(tmp_path: Path) -> None:
    found = draft(tmp_path, "systemd-oomd", CONF)
    assert found.guards == {}
    assert "nothing would be ended" in str(found.left[0])


def test_systemd_oomd_tells_what_is_newer_than_we_are(tmp_path: Path) -> None:
    text = "[Slice]\nManagedOOMSwap=kill\nOOMRules=a\nManagedOOMNew=1\n"
    found = draft(tmp_path, "systemd-oomd", ("-.slice", text), ("oomd.conf", "[OOM]\nPrekillHookTimeoutSec=1\n"))
    assert lost(found) == {"OOMRules": 3, "ManagedOOMNew": 4, "PrekillHookTimeoutSec": 2}


# ------------------------------------------------------------------------------------------------------------- kubelet

KUBELET = """\
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: systemd
clusterDNS:
  - 10.96.0.10
evictionHard:
  memory.available: "100Mi"
  nodefs.available: "10%"
evictionSoft:
  memory.available: "20%"
evictionSoftGracePeriod:
  memory.available: "1m30s"
evictionMaxPodGracePeriod: 60
evictionPressureTransitionPeriod: 5m
"""
FLAGS = 'KUBELET_EXTRA_ARGS="--cgroup-driver=systemd --eviction-hard=memory.available<100Mi --v=2"\n'
PODS = (process(100, "hog", "/kubepods.slice/kubepods-pod1.slice/cri-containerd-1.scope", 500),)


@pytest.mark.parametrize(
    ("text", "seen", "signal"),
    [
        (KUBELET, {"available": 9.9}, KILL),
        (KUBELET, {"available": 10.1, "seconds": 89}, NOTHING),
        (KUBELET, {"available": 19, "seconds": 92}, TERM),  # a pod's grace
        (KUBELET, {"available": 21, "seconds": 120}, NOTHING),
        (KUBELET.replace("60", "0"), {"available": 19, "seconds": 92}, KILL),
        (KUBELET.replace('"100Mi"', '"5%"'), {"available": 4.9}, KILL),
        (KUBELET.replace('"100Mi"', '"104M"'), {"available": 9.8}, KILL),
        (FLAGS, {"available": 9.9}, KILL),
        (FLAGS, {"available": 10.1, "seconds": 120}, NOTHING),
        ("cgroupDriver: systemd\n", {"available": 9.9}, KILL),  # the kubelet's own default
    ],
)
def test_the_kubelet_evicts_when_memory_is_low(tmp_path: Path, text: str, seen: Any, signal: str) -> None:
    found = draft(tmp_path, "kubelet", ("config.yaml", text))
    assert Machine(plan(tmp_path, found), PODS).ends(**seen) == signal


def test_the_kubelet_s_other_signals_are_told(tmp_path: Path) -> None:
    found = draft(tmp_path, "kubelet", ("config.yaml", KUBELET))
    assert lost(found) == {"evictionHard: nodefs.available": 8, "evictionPressureTransitionPeriod": 14}
    assert plan(tmp_path, found).guards[0].cgroup == "/kubepods.slice"


def test_the_kubelet_spares_critical_pods_and_takes_best_effort_ones_first(tmp_path: Path) -> None:
    def pod(pid: int, name: str, held: float, adj: int) -> ProcessFacts:
        return process(pid, name, f"/kubepods.slice/kubepods-pod{pid}.slice/cri-containerd-{pid}.scope", held, adj=adj)

    policy = plan(tmp_path, draft(tmp_path, "kubelet", ("config.yaml", KUBELET)))
    critical, burstable, best = (
        pod(100, "apiserver", 700, -997),
        pod(101, "web", 300, 900),
        pod(102, "batch", 100, 1000),
    )
    assert Machine(policy, (critical, burstable, best)).ends(available=9) == "KILL batch"
    assert Machine(policy, (critical, burstable)).ends(available=9) == "KILL web"
    assert Machine(policy, (critical,)).ends(available=9) == NOTHING


UNSAID = """\
kind: KubeletConfiguration
staticPodPath: /etc/kubernetes/manifests
kubeReserved: {memory: 500Mi}
singleProcessOOMKill: false
evictionPods: 3
mergeDefaultEvictionSettings: true
evictionHard: {nodefs.available: "10%"}
"""


def test_what_the_kubelet_minds_and_no_cgroup_tells_is_named(tmp_path: Path) -> None:
    found = draft(tmp_path, "kubelet", ("config.yaml", UNSAID))
    named = {"staticPodPath": 2, "kubeReserved": 3, "singleProcessOOMKill": 4, "evictionPods": 5}
    assert lost(found) == {**named, "evictionHard: nodefs.available": 7}
    assert [fault.key for fault in found.differs] == ["evictionHard", "eviction", "eviction"]
    (priorities,) = [fault for fault in found.differs if "system-node-critical" in fault.message]
    assert "system-cluster-critical" in priorities.message
    assert Machine(plan(tmp_path, found), (process(100, "hog", "/kubepods/pod1/1", 500),)).ends(available=9) == KILL
    flags = "KUBELET_EXTRA_ARGS='--pod-manifest-path=/m --eviction-hard=memory.available<5%'\n"
    assert lost(draft(tmp_path, "kubelet", ("flags", flags))) == {"staticPodPath": 1}


@pytest.mark.parametrize(
    ("root", "driver", "cgroup"),
    [
        ("/", "cgroupfs", "/kubepods"),
        ("/kubelet", "cgroupfs", "/kubelet/kubepods"),
        ("/kubelet", "systemd", "/kubelet.slice/kubelet-kubepods.slice"),
        ("", "systemd", "/kubepods.slice"),
    ],
)
def test_where_the_kubelet_keeps_its_pods(tmp_path: Path, root: str, driver: str, cgroup: str) -> None:
    text = f'cgroupRoot: "{root}"\ncgroupDriver: {driver}\n'
    assert plan(tmp_path, draft(tmp_path, "kubelet", ("config.yaml", text))).guards[0].cgroup == cgroup


# ----------------------------------------------------------------------------------------------------- what is none


@pytest.mark.parametrize(
    ("kind", "text", "line", "key"),
    [
        ("earlyoom", "EARLYOOM_ARGS='-m", 1, ""),
        ("earlyoom", "\nEARLYOOM_ARGS='-m ten'", 2, "-m"),
        ("earlyoom", "--frobnicate", 1, "-frobnicate"),
        ("earlyoom", "just words", 1, "just"),
        ("nohang", "\nwhat\n", 2, ""),
        ("nohang", "soft_threshold_min_mem = much\n", 1, "soft_threshold_min_mem"),
        ("nohang", "psi_checking_enabled = yes\n", 1, "psi_checking_enabled"),
        ("nohang", "@BADNESS_ADJ_RE_NAME x /// y\n", 1, "@BADNESS_ADJ_RE_NAME"),
        ("oomd", "{\n]", 2, ""),
        ("oomd", "[]", 1, ""),
        ("oomd", "{}", 1, "rulesets"),
        ("oomd", '{"rulesets": [1]}', 1, "rulesets[0]"),
        ("systemd-oomd", "x\n", 1, ""),
        ("kubelet", "a: [", 1, ""),
        ("kubelet", "kind: Pod\n", 1, "kind"),
        ("kubelet", "evictionHard: 7\n", 1, "evictionHard"),
        ("kubelet", "evictionHard:\n  memory.available: lots\n", 2, "evictionHard: memory.available"),
    ],
)
def test_what_is_no_configuration_of_theirs_is_refused(
    tmp_path: Path, kind: str, text: str, line: int, key: str
) -> None:
    with pytest.raises(PolicyError) as error:
        draft(tmp_path, kind, ("theirs", text))
    (fault,) = error.value.faults
    assert (fault.line, fault.key) == (line, key)
