"""systemd/oomguard.service: every setting has its reason, none takes away what a kill needs, and systemd agrees."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
UNIT = ROOT / "systemd" / "oomguard.service"
OF_A_USER = ROOT / "systemd" / "user" / "oomguard.service"

CAPABILITIES = {
    "CAP_KILL", "CAP_IPC_LOCK", "CAP_SYS_RESOURCE", "CAP_SYS_NICE", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH",
    "CAP_SYS_PTRACE", "CAP_SYSLOG", "CAP_SETUID", "CAP_SETGID",
}  # fmt: skip

# What the core rehearses, and what its workers need. The unit has to let all of them through.
SYSTEM_CALLS = {
    "pidfd_open", "pidfd_send_signal", "process_mrelease", "mlockall", "mlock", "mlock2", "munlock", "memfd_create",
    "sched_setscheduler", "prctl", "setrlimit", "prlimit64", "epoll_create1", "epoll_ctl", "epoll_wait", "eventfd2",
    "signalfd4", "timerfd_create", "inotify_init1", "inotify_add_watch", "openat", "pread64", "pwrite64", "fallocate",
    "fdatasync", "flock", "execve", "clone", "clone3", "wait4", "kill", "capset", "sendmsg", "socket", "getrandom",
    "connect", "sendto", "recvfrom", "setsid", "setgroups", "setresuid", "setresgid",
}  # fmt: skip


def settings(section: str, unit: Path = UNIT) -> list[tuple[str, str, str]]:
    """(key, value, the line above) of each setting of a section, in order."""
    found, inside, above = [], "", ""
    for line in unit.read_text().splitlines():
        if line.startswith("["):
            inside = line.strip("[]")
        elif line and not line.startswith("#") and inside == section:
            key, _, value = line.partition("=")
            found.append((key, value, above))
        above = line
    return found


def value(key: str) -> str:
    """The only value of a [Service] setting."""
    (only,) = values(key)
    return only


def values(key: str) -> list[str]:
    return [found for name, found, _ in settings("Service") if name == key]


@pytest.mark.parametrize(("key", "found", "above"), settings("Service") + settings("Service", OF_A_USER))
def test_every_setting_has_its_reason_on_the_line_above(key: str, found: str, above: str) -> None:
    assert above.startswith("# "), f"{key}={found} stands there without a reason"
    assert len(above) > 20, f"{key}={found}: {above!r} is no reason"


def test_no_more_capabilities_than_these() -> None:
    assert set(values("CapabilityBoundingSet")) == CAPABILITIES
    assert not values("AmbientCapabilities"), "we are root: ambient ones would only reach hooks"
    assert value("NoNewPrivileges") == "yes"


@pytest.mark.parametrize(
    ("key", "must_be", "or_else"),
    [
        ("ProtectControlGroups", "no", "memory.high and cgroup.kill could not be written"),
        ("ProtectKernelLogs", "no", "/dev/kmsg could not be read"),
        ("PrivateDevices", "no", "/dev/kmsg could not be read"),
        ("RestrictRealtime", "no", "SCHED_RR would be refused"),
        ("ProtectProc", "default", "processes of others would be hidden"),
        ("ProcSubset", "all", "/proc/meminfo and /proc/pressure would be hidden"),
        ("OOMScoreAdjust", "-1000", "the kernel could take us first"),
        ("OOMPolicy", "continue", "one killed worker would stop the whole guard"),
        ("LimitMEMLOCK", "infinity", "memory could not be locked"),
        (
            "ProtectHome",
            "read-only",
            "/run/user would be hidden, and nobody told on a desktop",
        ),
        ("Type", "notify", "a start would be over before the rehearsal is; notify-reload needs systemd 253"),
        ("KillMode", "mixed", "the workers would be gone before the core has undone what it lent out"),
        ("RuntimeDirectoryPreserve", "restart", "the journal of what is lent out would not outlive a crash"),
        ("Slice", "-.slice", "MemoryMin would depend on the slice above"),
        ("SystemCallErrorNumber", "EPERM", "a gap in the filter would kill the killer"),
    ],
)
def test_what_a_kill_needs_is_not_taken_away(key: str, must_be: str, or_else: str) -> None:
    assert value(key) == must_be, f"{key} must be {must_be}: otherwise {or_else}"


def test_homes_are_closed() -> None:
    """What ProtectHome=yes would do, but for /run/user."""
    assert set(values("InaccessiblePaths")) == {"-/home", "-/root"}


def test_the_drop_in_opens_the_network_alone() -> None:
    text = (UNIT.parent / "notify.conf").read_text()
    lines = [line for line in text.splitlines() if line and line[0] not in "#["]
    assert lines == ["PrivateNetwork=no", "RestrictAddressFamilies=AF_INET AF_INET6", "MemoryMin=128M"]
    assert values("PrivateNetwork") == ["yes"]
    assert values("RestrictAddressFamilies") == ["AF_UNIX"]


def test_what_is_lent_out_is_put_back_after_any_end() -> None:
    command = value("ExecStopPost")
    assert command.endswith("oomguard undo --runtime-dir /run/oomguard"), command
    assert not command.startswith("-"), "a failing undo must be seen"
    assert value("RuntimeDirectory") == "oomguard"


def test_unit_and_core_agree_on_how_long_a_real_time_loop_may_spin() -> None:
    core = "".join(path.read_text() for path in (ROOT / "oomguard" / "core").glob("*.py"))
    (spin_us,) = re.findall(r"^RTTIME_US\b[^=]*=[\s(]*([\d_]+)", core, re.MULTILINE)
    assert value("LimitRTTIME") == f"{int(spin_us) // 1_000_000}s"


def test_incidents_are_for_the_group_only() -> None:
    assert (value("StateDirectory"), value("StateDirectoryMode"), value("Group")) == ("oomguard", "0750", "oomguard")
    assert value("UMask") == "0027"
    assert "\ng oomguard -\n" in (ROOT / "systemd" / "oomguard.sysusers").read_text()


def test_nothing_newer_than_the_oldest_systemd_that_we_support() -> None:
    """Debian 12 has 252. Unknown settings are ignored with a warning there, and their protection with them."""
    since_253 = {"RestartSteps", "RestartMaxDelaySec", "RestartMode", "MemoryZSwapMax", "ReloadSignal", "PrivatePIDs"}
    assert not since_253 & {key for key, _, _ in settings("Service")}


needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def members(group: str) -> set[str]:
    """System calls of a filter group of this machine's systemd, groups within it resolved."""
    asked = ["systemd-analyze", "syscall-filter", group]
    shown = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    found = set()
    for name in (line.strip() for line in shown.splitlines()[1:]):
        if name.startswith("@"):
            found |= members(name)
        elif name and not name.startswith("#"):
            found.add(name)
    return found


@needs_systemd
def test_the_filter_lets_every_needed_call_through() -> None:
    allowed: set[str] = set()
    for words in values("SystemCallFilter"):
        named = {call for word in words.lstrip("~").split() for call in (members(word) if word[0] == "@" else {word})}
        allowed = allowed - named if words.startswith("~") else allowed | named
    assert not SYSTEM_CALLS - allowed
    assert not {"mount", "reboot", "bpf", "init_module", "keyctl", "ptrace"} & allowed


def verified(unit: Path, *more: str) -> subprocess.CompletedProcess[str]:
    words = ["systemd-analyze", *more, "verify", str(unit)]
    env = dict(os.environ, XDG_RUNTIME_DIR=str(unit.parent))  # what a user's manager wants to have
    return subprocess.run(words, capture_output=True, text=True, check=False, env=env)


def copy_with(tmp_path: Path, extra: str = "", of: Path = UNIT) -> Path:
    """The unit with a program that exists: verify looks for it."""
    text = of.read_text().replace("/usr/local/bin/oomguard", shutil.which("true") or "/bin/true")
    unit = tmp_path / UNIT.name
    unit.write_text(text.replace("[Install]", f"{extra}\n[Install]"))
    return unit


@needs_systemd
def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    done = verified(copy_with(tmp_path))
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


@needs_systemd
def test_nor_with_that_of_a_user(tmp_path: Path) -> None:
    done = verified(copy_with(tmp_path, of=OF_A_USER), "--user")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def test_the_user_s_unit_ends_as_the_system_s_does() -> None:
    """What is lent out is put back after any end, and nobody but root is asked for anything."""
    found = {key: value for key, value, _ in settings("Service", OF_A_USER)}
    for key in ("Type", "Restart", "RestartPreventExitStatus", "WatchdogSec", "KillMode", "OOMPolicy"):
        assert found[key] == value(key)
    assert found["ExecStopPost"] == value("ExecStopPost").replace("/run/oomguard", "%t/oomguard")
    assert not {"User", "CapabilityBoundingSet", "OOMScoreAdjust", "CPUSchedulingPolicy"} & found.keys()


@needs_systemd
def test_systemd_would_have_found_a_wrong_setting(tmp_path: Path) -> None:
    assert "ProtectEverything" in verified(copy_with(tmp_path, "ProtectEverything=yes")).stderr


@needs_systemd
def test_it_is_exposed_no_more_than_its_work_needs(tmp_path: Path) -> None:
    """systemd's own score, 0 (nothing is allowed) to 10 (everything is). What is left is what a kill needs."""
    limit_tenths = 32  # of which 2 are the herald's way to become nobody, and 1 the buses of sessions in /run/user
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", f"--threshold={limit_tenths}", str(copy_with(tmp_path))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-400:]
