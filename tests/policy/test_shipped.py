"""etc/oomguard.toml: who it spares, who it does not, and what its thresholds mean from 512 MiB to 1 TiB."""

import re
from pathlib import Path

import pytest

from oomguard.judge.glob import matches
from oomguard.judge.rank import Bounds, refusal
from oomguard.model import policy as model
from oomguard.model.facts import ProcessFacts
from oomguard.policy import load, schema, units

from .helpers import plan_of

TEXT = (Path(__file__).parents[2] / "etc/oomguard.toml").read_text()
GIB = 1 << 30
MIB = 1 << 20


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> model.Guard:
    path = tmp_path_factory.mktemp("etc") / "oomguard.toml"
    path.write_text(TEXT)
    (guard,) = load([path]).guards
    return guard


def refused(guard: model.Guard, comm: str, cgroup: str) -> str:
    process = ProcessFacts(
        pid=4711,
        start_ticks=1,
        ppid=1,
        comm=comm,
        cgroup=cgroup,
        uid=0,
        state="S",
        anon_bytes=GIB,
        shmem_bytes=0,
        swap_bytes=0,
    )
    return refusal(process, guard.victim, Bounds())


USER = "/user.slice/user-1000.slice"
SESSION = f"{USER}/session-3.scope"
MANAGER = f"{USER}/user@1000.service"


@pytest.mark.parametrize(
    ("comm", "cgroup"),
    [
        ("systemd", "/init.scope"),
        ("systemd", f"{MANAGER}/init.scope"),
        ("(sd-pam)", f"{MANAGER}/init.scope"),
        ("systemd-journal", "/system.slice/systemd-journald.service"),
        ("systemd-logind", "/system.slice/systemd-logind.service"),
        ("systemd-udevd", "/system.slice/systemd-udevd.service/udev"),
        ("(udev-worker)", "/system.slice/systemd-udevd.service/udev"),
        ("systemd-resolve", "/system.slice/systemd-resolved.service"),
        ("systemd-network", "/system.slice/systemd-networkd.service"),
        ("systemd-oomd", "/system.slice/systemd-oomd.service"),
        ("dbus-daemon", "/system.slice/dbus.service"),
        ("dbus-broker-lau", "/system.slice/dbus-broker.service"),
        ("dbus-broker", f"{MANAGER}/session.slice/dbus-broker.service"),
        ("dbus-daemon", f"{MANAGER}/app.slice/dbus.service"),
        ("polkitd", "/system.slice/polkit.service"),
        ("sshd", "/system.slice/ssh.service"),
        ("sshd", "/system.slice/sshd.service"),
        ("sshd", SESSION),
        ("sshd-session", SESSION),
        ("sshd-auth", "/system.slice/system-ssh.slice/ssh@0-10.0.0.1.service"),
        ("agetty", "/system.slice/system-getty.slice/getty@tty1.service"),
        ("login", SESSION),
        ("gdm3", "/system.slice/gdm.service"),
        ("gdm-session-wor", f"{USER}/session-1.scope"),
        ("sddm", "/system.slice/sddm.service"),
        ("sddm-helper", SESSION),
        ("lightdm", "/system.slice/lightdm.service"),
        ("Xorg", "/system.slice/lightdm.service"),
        ("Xwayland", f"{MANAGER}/session.slice/org.gnome.Shell@wayland.service"),
        ("gnome-shell", f"{MANAGER}/session.slice/org.gnome.Shell@wayland.service"),
        ("gnome-session-b", f"{MANAGER}/session.slice/gnome-session-manager@gnome.service"),
        ("kwin_wayland", f"{MANAGER}/session.slice/plasma-kwin_wayland.service"),
        ("plasmashell", f"{MANAGER}/session.slice/plasma-plasmashell.service"),
        ("sway", SESSION),
        ("xfce4-session", SESSION),
        ("dockerd", "/system.slice/docker.service"),
        ("containerd", "/system.slice/containerd.service"),
        ("containerd-shim", "/system.slice/containerd.service"),
        ("conmon", "/machine.slice/libpod-conmon-0123.scope"),
        ("crio", "/system.slice/crio.service"),
        ("kubelet", "/system.slice/kubelet.service"),
        ("podman", "/system.slice/podman.service"),
        ("libvirtd", "/system.slice/libvirtd.service"),
        ("virtqemud", "/system.slice/virtqemud.service"),
        ("incusd", "/system.slice/incus.service"),
        ("lxd", "/system.slice/snap.lxd.daemon.service"),
        ("NetworkManager", "/system.slice/NetworkManager.service"),
        ("wpa_supplicant", "/system.slice/wpa_supplicant.service"),
        ("sshfs", "/system.slice/srv-data.mount"),
        ("python3", "/system.slice/oomguard.service"),
    ],
)
def test_what_keeps_the_machine_going_is_never_picked(host: model.Guard, comm: str, cgroup: str) -> None:
    assert refused(host, comm, cgroup).startswith("never: ")


@pytest.mark.parametrize(
    ("comm", "cgroup"),
    [
        ("leak", "/system.slice/leak.service"),
        ("bash", SESSION),
        ("firefox", f"{MANAGER}/app.slice/app-gnome-firefox-1234.scope"),
        ("java", "/system.slice/docker-0123456789abcdef.scope"),
        ("python3", "/docker/0123456789abcdef"),
        ("nginx", "/kubepods.slice/kubepods-burstable.slice/pod1.slice/cri-containerd-0123.scope"),
        ("postgres", "/system.slice/postgresql@15-main.service"),  # avoid, not never: it may be the leak
        ("backup", "/system.slice/cron.service"),  # jobs run inside the unit
        ("hog", "/system.slice/ssh.service"),  # and without pam_systemd sessions run inside this one
        ("python3", "/system.slice/system-getty.slice/getty@tty1.service"),
        ("hog", f"{MANAGER}/app.slice/systemd-oomd.service"),  # a user's unit with the name of a system's
        ("hog", f"{MANAGER}/app.slice/docker.service"),
        ("hog", "/machine.slice/systemd-nspawn@box.service/payload/system.slice/web.service"),
        ("tail", "/"),
    ],
)
def test_everybody_else_may_be(host: model.Guard, comm: str, cgroup: str) -> None:
    assert refused(host, comm, cgroup) == ""


def available(guard: model.Guard, mark: str, clause: int, total: int) -> int:
    """The threshold of available memory on a machine of that size: the smallest of those that must all hold."""
    watermark = guard.soft if mark == "soft" else guard.hard
    assert watermark
    conditions = [c for c in watermark.when[clause].all_of if isinstance(c, model.AvailableBelow)]
    return min(condition.amount.of(total) for condition in conditions)


@pytest.mark.parametrize(
    ("total", "soft", "hard"),
    [
        (512 * MIB, 61 * MIB, 25 * MIB),
        (GIB, 122 * MIB, 51 * MIB),
        (8 * GIB, 983 * MIB, 409 * MIB),
        (64 * GIB, 6 * GIB, 2 * GIB),  # 10 % of 64 GiB would be a browser and an IDE
        (1024 * GIB, 6 * GIB, 2 * GIB),
    ],
)
def test_thresholds_mean_the_same_on_every_machine(host: model.Guard, total: int, soft: int, hard: int) -> None:
    assert available(host, "soft", 0, total) // MIB == soft // MIB
    assert available(host, "hard", 0, total) // MIB == hard // MIB


def test_soft_comes_before_hard_in_every_way_to_hard(host: model.Guard) -> None:
    for total in (512 * MIB, GIB, 8 * GIB, 64 * GIB, 1024 * GIB):
        assert available(host, "hard", 0, total) < available(host, "soft", 0, total)
        assert available(host, "hard", 1, total) < available(host, "soft", 1, total)


def test_the_victim_is_known_before_it_is_ended(host: model.Guard) -> None:
    assert host.soft
    assert host.hard
    assert host.soft.do == (model.SnapshotStep(), model.NotifyStep(), model.NominateStep())
    assert host.hard.do == (model.KillStep(),)
    assert (host.cgroup, host.mode) == ("/", "enforce")


def test_what_is_commented_out_is_the_default(tmp_path: Path) -> None:
    """Every `# key = value` of the tables in force, taken in, changes nothing."""
    head, _, _ = TEXT.partition("# A service with a limit")
    taken_in = re.sub(r"^# (?=(?!prefer|budget)[a-z_]+ = )", "", head, flags=re.MULTILINE)
    assert taken_in.count("\n# ") < head.count("\n# ") - 6
    plain, with_defaults = plan_of(tmp_path, head), plan_of(tmp_path, taken_in)
    assert with_defaults.daemon == plain.daemon == model.Daemon()
    assert with_defaults.guards == plain.guards


def test_the_example_of_a_service_is_right(tmp_path: Path) -> None:
    _, _, tail = TEXT.partition("# fast. `memory_above` does not count cache")
    service, _, _ = tail[tail.index("# [policy.web]") :].partition("\n# ---")
    example = re.sub(r"^# ?", "", service, flags=re.MULTILINE)
    (web,) = plan_of(tmp_path, example).guards
    assert web.tripwire
    assert matches(web.cgroup, "/system.slice/web-1.service")


def test_the_example_of_sinks_is_right(tmp_path: Path) -> None:
    head, _, tail = TEXT.partition("# Who is told besides")
    plan = plan_of(tmp_path, head, re.sub(r"^# ?", "", tail[tail.index("# [sinks.ops]") :], flags=re.MULTILINE))
    assert [(sink.name, sink.by) for sink in plan.sinks] == [("ops", "url"), ("screen", "desktop")]
    assert plan.sinks[0].at == plan.sinks[1].at, "what is written out is the default"


def test_the_units_in_its_head_are_the_units(tmp_path: Path) -> None:
    for written in re.findall(r'"([0-9.]+[KMGT](?:iB)?)"', TEXT):
        assert units.size(written)


def test_every_key_of_the_language_is_shown() -> None:
    for table in (schema.DaemonTable, schema.GuardTable, schema.VictimTable, schema.ClauseTable, schema.MatchTable):
        for name in set(table.model_fields) - {"disabled", "swap_above"}:
            assert re.search(rf"\b{name}\b", TEXT), name
