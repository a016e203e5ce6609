"""Which container a cgroup is: the paths as engines make them, and those that only look like it."""

import pytest

from oomguard.linux.containers import Container, of

ID = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4
UID = "6f3c2a0e-1c3f-4a53-9d0b-2b9d6a1f0e11"
SLICE_UID = UID.replace("-", "_")
STATIC = "1b4a2bd8b2a1f3b1ce5d0f3f9d8bd5fc"
PODS = "/kubepods.slice/kubepods-burstable.slice"


@pytest.mark.parametrize(
    ("cgroup", "expected"),
    [
        (f"/system.slice/docker-{ID}.scope", Container("docker", ID)),
        (f"/docker/{ID}", Container("docker", ID)),
        (f"/machine.slice/libpod-{ID}.scope", Container("podman", ID)),
        (f"/machine.slice/libpod-{ID}.scope/container", Container("podman", ID)),
        (f"/machine.slice/machine-libpod_pod_{OTHER}.slice/libpod-{ID}.scope", Container("podman", ID)),
        (f"/system.slice/web.service/libpod-payload-{ID}", Container("podman", ID)),
        (
            f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/container",
            Container("podman", ID),
        ),
        (f"/system.slice/nerdctl-{ID}.scope", Container("nerdctl", ID)),
        (f"/default/{ID}", Container("nerdctl", ID)),
        # kubelets: systemd and cgroupfs, each class, with each engine
        (
            f"{PODS}/kubepods-burstable-pod{SLICE_UID}.slice/cri-containerd-{ID}.scope",
            Container("containerd", ID, "", UID),
        ),
        (f"{PODS}/kubepods-burstable-pod{STATIC}.slice/crio-{ID}.scope", Container("cri-o", ID, "", STATIC)),
        (f"{PODS}/kubepods-burstable-pod{SLICE_UID}.slice/docker-{ID}.scope", Container("docker", ID, "", UID)),
        (f"/kubepods.slice/kubepods-pod{SLICE_UID}.slice/crio-{ID}.scope/container", Container("cri-o", ID, "", UID)),
        (f"/kubepods/besteffort/pod{UID}/{ID}", Container("pod", ID, "", UID)),
        (f"/kubepods/pod{UID}/crio-{ID}", Container("cri-o", ID, "", UID)),
        (
            f"/system.slice/containerd.service/kubepods-besteffort-pod{SLICE_UID}.slice:cri-containerd:{ID}",
            Container("containerd", ID, "", UID),
        ),
        # a node that is a container itself: the inner one
        (
            f"/docker/{OTHER}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/"
            f"kubelet-kubepods-besteffort-pod{SLICE_UID}.slice/cri-containerd-{ID}.scope",
            Container("containerd", ID, "", UID),
        ),
        (f"/docker/{OTHER}/kubelet/kubepods/burstable/pod{UID}/{ID}", Container("pod", ID, "", UID)),
        (f"/docker/{OTHER}/system.slice/containerd.service", Container("docker", OTHER)),
        ("/lxc.payload.web/system.slice/x.service", Container("lxc", name="web")),
        ("/lxc/web", Container("lxc", name="web")),
        ("/machine.slice/machine-web.scope/payload", Container("nspawn", name="web")),
    ],
)
def test_each_engine_in_its_own_way(cgroup: str, expected: Container) -> None:
    assert of(cgroup) == expected


@pytest.mark.parametrize(
    "cgroup",
    [
        *("", "/", "/system.slice/web.service", "/docker", "/kubepods.slice", PODS),
        f"/machine.slice/libpod-conmon-{ID}.scope",  # who watches over it, and is to tell of its end
        f"{PODS}/kubepods-burstable-pod{SLICE_UID}.slice",  # the pod: its containers are below
        f"/kubepods/pod{UID}/crio-conmon-{ID}",
        f"/system.slice/docker-{ID[:12]}.scope",
        f"/build/{ID}",
        f"/system.slice/docker-{ID.upper()}.scope",
    ],
)
def test_who_is_none(cgroup: str) -> None:
    assert of(cgroup) is None


def test_it_is_shown_as_its_engine_shows_it() -> None:
    assert [str(of(f"/docker/{ID}")), str(of("/lxc/web"))] == ["docker 0123456789ab", "lxc web"]
