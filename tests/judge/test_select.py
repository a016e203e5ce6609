"""Whom a guard means, on trees of paths as systemd and container engines make them."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oomguard.judge.select import CONTAINERS, PODS, bears, fits, globs, selects
from oomguard.model.facts import TargetId, TargetSeen
from oomguard.model.verdict import Look

from .world import Court, cgroup, limit_guard, meminfo, plan

ID = "0123456789abcdef" * 4
UID = "1b2c3d4e_5f60_7182_93a4_b5c6d7e8f901"
USER = "/user.slice/user-1000.slice/user@1000.service"

# Written by hand, not recorded: the units as systemd.unit(5) and systemd.slice(5) name them, the containers as each
# engine's own sources name its scopes under the driver systemd: moby (daemon/oci_linux.go), podman
# (libpod/container_internal_linux.go, docs of quadlet), nerdctl (pkg/cmd/container).
HOST = [
    "/init.scope",
    "/system.slice/web-1.service",
    "/system.slice/system-getty.slice/getty@tty1.service",
    "/batch.slice/batch-night.slice",
    "/batch.slice/batch-night.slice/web-2.service",
    "/system.slice/docker.service",
    f"/system.slice/docker-{ID}.scope",
    f"/machine.slice/libpod-{ID}.scope",
    f"/machine.slice/libpod-{ID}.scope/container",
    f"/machine.slice/libpod-conmon-{ID}.scope",
    f"/system.slice/quadlet.service/libpod-payload-{ID}",
    f"/system.slice/nerdctl-{ID}.scope",
    "/user.slice/user-1000.slice",
    "/user.slice/user-1000.slice/session-3.scope",
    USER,
    f"{USER}/app.slice/web-3.service",
    f"{USER}/user.slice/libpod-{ID}.scope",
    f"{USER}/app.slice/docker-{ID}.scope",
]
# Recorded: the cgroups of tests/incidents/field/11-idle.zst, an idle Debian 13 with systemd 257.
GUEST = [
    "/init.scope",
    "/probe.slice",
    "/probe.slice/probe-agent.service",
    "/system.slice",
    "/system.slice/dbus.service",
    "/system.slice/run-lock.mount",
    "/system.slice/system-modprobe.slice",
    "/system.slice/systemd-journald.service",
    "/system.slice/systemd-logind.service",
    "/system.slice/systemd-udevd.service",
    "/system.slice/systemd-udevd.service/udev",
    "/system.slice/tmp.mount",
    "/user.slice",
    "/work.slice",
]
# Written by hand, too: the kubelet's names (pkg/kubelet/cm/cgroup_manager_linux.go, both drivers) with containerd's and
# CRI-O's below them, and those of a node that is a container itself (kind: --cgroup-root=/kubelet).
SYSTEMD = "/kubepods.slice"
NODE = [
    f"{SYSTEMD}/kubepods-pod{UID}.slice",
    f"{SYSTEMD}/kubepods-pod{UID}.slice/cri-containerd-{ID}.scope",
    f"{SYSTEMD}/kubepods-burstable.slice",
    f"{SYSTEMD}/kubepods-burstable.slice/kubepods-burstable-pod{UID}.slice",
    f"{SYSTEMD}/kubepods-burstable.slice/kubepods-burstable-pod{UID}.slice/crio-{ID}.scope",
    f"{SYSTEMD}/kubepods-burstable.slice/kubepods-burstable-pod{UID}.slice/crio-conmon-{ID}.scope",
    f"{SYSTEMD}/kubepods-besteffort.slice/kubepods-besteffort-pod{UID}.slice",
    "/kubepods/burstable",
    "/kubepods/burstable/pod1b2c3d4e-5f60",
    f"/kubepods/burstable/pod1b2c3d4e-5f60/{ID}",
    "/kubepods/pod99",
    f"/kubepods/pod99/{ID}",
    f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{UID}.slice",
]


def picked(selector: str, tree: list[str]) -> list[str]:
    return [path for path in tree if selects(selector, path)]


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("unit=web-*.service", ["/system.slice/web-1.service", "/batch.slice/batch-night.slice/web-2.service"]),
        ("unit=init.scope", ["/init.scope"]),
        ("unit=getty@*.service", ["/system.slice/system-getty.slice/getty@tty1.service"]),
        ("unit=user@*.service", [USER]),
        ("slice=user-*.slice", ["/user.slice/user-1000.slice"]),
        ("slice=batch-*.slice", ["/batch.slice/batch-night.slice"]),
        ("container=docker", [f"/system.slice/docker-{ID}.scope"]),
        (
            "container=podman",
            [
                f"/machine.slice/libpod-{ID}.scope",
                f"/system.slice/quadlet.service/libpod-payload-{ID}",
                f"{USER}/user.slice/libpod-{ID}.scope",
            ],
        ),
        ("container=nerdctl", [f"/system.slice/nerdctl-{ID}.scope"]),
        ("container=containerd", [f"/system.slice/nerdctl-{ID}.scope"]),
        ("container=kubernetes", []),
        ("/user.slice/user-*.slice", ["/user.slice/user-1000.slice"]),
    ],
)
def test_on_a_host(selector: str, expected: list[str]) -> None:
    assert picked(selector, HOST) == expected


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("pod=guaranteed", [0, 10]),
        ("pod=burstable", [3, 8]),
        ("pod=besteffort", [6, 12]),
        ("pod=any", [0, 3, 6, 8, 10, 12]),
        ("container=kubernetes", [1, 4, 9, 11]),
        ("container=containerd", [1, 9, 11]),
        ("container=docker", []),
    ],
)
def test_on_a_node(selector: str, expected: list[int]) -> None:
    assert picked(selector, NODE) == [NODE[number] for number in expected]


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("unit=systemd-*.service", [7, 8, 9]),
        ("unit=*.mount", [5, 11]),
        ("unit=init.scope", [0]),
        ("slice=*.slice", [1, 3, 6, 12, 13]),
        ("slice=system-*.slice", [6]),
        ("/system.slice/**", [4, 5, 6, 7, 8, 9, 10, 11]),
        ("/system.slice/*", [4, 5, 6, 7, 8, 9, 11]),
        ("container=any", []),
        ("pod=any", []),
    ],
)
def test_on_a_recorded_machine(selector: str, expected: list[int]) -> None:
    assert picked(selector, GUEST) == [GUEST[number] for number in expected]


def test_what_a_user_makes_below_his_manager_is_no_unit_of_the_system() -> None:
    for selector in ("unit=*.service", "unit=*.scope", "slice=*.slice", "container=docker", "pod=any"):
        assert not [path for path in picked(selector, HOST) if path.startswith(f"{USER}/")]


@pytest.mark.parametrize("selector", [*(f"container={name}" for name in CONTAINERS), *(f"pod={name}" for name in PODS)])
def test_all_stand_for_plain_globs(selector: str) -> None:
    assert globs(selector)
    assert all(glob.startswith("/") and "**" not in glob for glob in globs(selector)), "no walk through the whole tree"


@given(st.sampled_from([*HOST, *NODE, *GUEST]), st.text(max_size=20))
def test_a_path_and_a_glob_are_what_they_were(path: str, name: str) -> None:
    assert selects(path, path)
    assert selects("/**", path)
    assert not fits("unit=x", name) or not name.startswith("/")


@pytest.mark.parametrize(
    ("asked", "value", "meant"),
    [
        ("", None, True),
        ("", "1", True),
        ("user.tier=*", None, False),
        ("user.tier=*", "", True),
        ("user.tier=*", "a/b", True),
        ("user.tier=batch*", "batch-7", True),
        ("user.tier=batch*", "web", False),
        ("user.tier=a=b", "a=b", True),
    ],
)
def test_who_bears_the_attribute(asked: str, value: str | None, meant: bool) -> None:
    guard = limit_guard("/a")
    assert bears(replace(guard, xattr=asked), value) == meant
    assert replace(guard, xattr=asked).xattr_name == asked.partition("=")[0]


def test_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(KeyError):
        globs("colour=red")
    with pytest.raises(KeyError):
        globs("container=lxc")


def test_the_innermost_guard_is_judged_first_and_of_two_on_one_cgroup_the_first_by_name() -> None:
    guards = [limit_guard(path, name=name) for name, path in (("outer", "/a"), ("b", "/a/b"), ("a", "/a/b"))]
    judge = Court(plan(*guards))
    facts = {path: cgroup(path, 85, limit=100) for path in ("/a", "/a/b")}
    appeared = tuple(TargetSeen(TargetId(guard.name, guard.cgroup), facts[guard.cgroup]) for guard in guards)
    judge.sees(0, host=meminfo(900), appeared=appeared, cgroups=tuple(facts.values()))
    assert [action.target.guard for action in judge.said if isinstance(action, Look)] == ["a", "b", "outer"]
