"""What containers are called, from disks as engines leave them: a tree for each layout, cut to what is read.

podman's is that of 5.4.2 on Debian 13 (overlay, as root). The others are in the form of docker 27, containerd 2.0,
CRI-O 1.31 and a kubelet 1.31.
"""

import itertools
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oomguard.linux.containers import Container, of
from oomguard.workers import containers
from oomguard.workers.evidence import Evidence

WEB = "545e05317229cfe9b2f1b2ad6c951acc3269d8c4255c8a95588d64b951bf93de"
BRIEF = "86d737ca6c1d4a07a77343421de0580e4b35f2591f4f6f63ccad36386314fa37"
APP = "0123456789abcdef" * 4
UID = "6f3c2a0e-1c3f-4a53-9d0b-2b9d6a1f0e11"
BURSTABLE = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod6f3c2a0e_1c3f_4a53_9d0b_2b9d6a1f0e11.slice"

PODMAN = (
    '[{"id":"WEB","names":["web"],"image":"1b65188f0dae9bcab383d144a1d8ffa22ca9d6c86cc7c0b7c893ba7536e1fa4f",'
    '"layer":"2a685491ed10a853e287254d7cbc866ba3b367146c33cef849d99d735de42944","metadata":"{\\"image-name\\":'
    '\\"localhost/box:latest\\",\\"image-id\\":\\"1b65188f0dae9bcab383d144a1d8ffa22ca9d6c86cc7c0b7c893ba7536e1fa4f\\",'
    '\\"name\\":\\"web\\",\\"created-at\\":1795367757}","created":"2026-11-22T17:15:57.847730672Z",'
    '"flags":{"MountLabel":"","ProcessLabel":""}}]'
).replace("WEB", WEB)
BRIEFLY = PODMAN.replace(WEB, BRIEF).replace("web", "brief")
DOCKER = {
    "State": {"Running": True, "Pid": 812, "OOMKilled": False},
    "ID": APP,
    "Created": "2026-10-01T10:00:00.000000000Z",
    "Args": ['"Name":"/liar"'],
    "Config": {"Hostname": "0123456789ab", "Image": "nginx:1.27", "Labels": {"maintainer": "x"}},
    "Image": "sha256:39286ab8a5e14aeaf5fdd6e2fac76e0c8d31a0c07224f0ee5e6be502f12e93f3",
    "Name": "/web",
    "Driver": "overlay2",
}
CONTAINERD = {
    "ociVersion": "1.2.0",
    "process": {"args": ["/app"], "env": ["A=io.kubernetes.cri.sandbox-name"]},
    "annotations": {
        "io.kubernetes.cri.container-name": "app",
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.image-name": "registry.example/app:7",
        "io.kubernetes.cri.sandbox-id": "a" * 64,
        "io.kubernetes.cri.sandbox-name": "web-7d9c5b9b8-x2x4z",
        "io.kubernetes.cri.sandbox-namespace": "shop",
        "io.kubernetes.cri.sandbox-uid": UID,
    },
}
CRIO = {
    "ociVersion": "1.2.0",
    "annotations": {
        "io.container.manager": "cri-o",
        "io.kubernetes.container.name": "app",
        "io.kubernetes.cri-o.ContainerType": "container",
        "io.kubernetes.cri-o.ImageName": "registry.example/app:7",
        "io.kubernetes.cri-o.Name": f"k8s_app_web-7d9c5b9b8-x2x4z_shop_{UID}_0",
        "io.kubernetes.pod.name": "web-7d9c5b9b8-x2x4z",
        "io.kubernetes.pod.namespace": "shop",
        "io.kubernetes.pod.uid": UID,
        "kubernetes.io/config.source": "api",
    },
}
CRIO_STORED = [
    {
        "id": APP,
        "names": [f"k8s_app_web-7d9c5b9b8-x2x4z_shop_{UID}_0"],
        "metadata": json.dumps({"image-name": "registry.example/app:7", "pod-name": "web-7d9c5b9b8-x2x4z"}),
    }
]
NERDCTL = {"annotations": {"nerdctl/name": "web", "nerdctl/namespace": "default", "nerdctl/image-name": "nginx:1"}}
LABELLED = {
    "Name": f"/k8s_app_web-7d9c5b9b8-x2x4z_shop_{UID}_0",
    "Config": {
        "Image": "sha256:1",
        "Labels": {
            "io.kubernetes.container.name": "app",
            "io.kubernetes.pod.name": "web-7d9c5b9b8-x2x4z",
            "io.kubernetes.pod.namespace": "shop",
        },
    },
}

POD = {"pod": "web-7d9c5b9b8-x2x4z", "namespace": "shop", "container": "app"}
IMAGE = {"image": "registry.example/app:7"}
BUNDLE = "run/containerd/io.containerd.runtime.v2.task"
LOG_DIR = f"var/log/pods/shop_web-7d9c5b9b8-x2x4z_{UID}/app/0.log"
LOG_LINK = f"var/log/containers/web-7d9c5b9b8-x2x4z_shop_app-{APP}.log"

# layout -> (cgroup, what lies where, what it is called before a kill, and after it)
LAYOUTS: dict[str, tuple[str, dict[str, Any], dict[str, str], dict[str, str]]] = {
    "docker, systemd": (
        f"/system.slice/docker-{APP}.scope",
        {f"var/lib/docker/containers/{APP}/config.v2.json": DOCKER},
        {},
        {"name": "web", "image": "nginx:1.27"},
    ),
    "docker, cgroupfs": (
        f"/docker/{APP}",
        {f"var/lib/docker/containers/{APP}/config.v2.json": DOCKER},
        {},
        {"name": "web", "image": "nginx:1.27"},
    ),
    "podman": (
        f"/machine.slice/libpod-{WEB}.scope/container",
        {"var/lib/containers/storage/overlay-containers/containers.json": PODMAN},
        {},
        {"name": "web", "image": "localhost/box:latest"},
    ),
    "podman run --rm": (
        f"/machine.slice/libpod-{BRIEF}.scope",
        {
            "var/lib/containers/storage/overlay-containers/containers.json": PODMAN,
            "var/lib/containers/storage/overlay-containers/volatile-containers.json": BRIEFLY,
        },
        {},
        {"name": "brief", "image": "localhost/box:latest"},
    ),
    "nerdctl": (
        f"/system.slice/nerdctl-{APP}.scope",
        {f"{BUNDLE}/default/{APP}/config.json": NERDCTL},
        {"name": "web", "image": "nginx:1"},
        {},
    ),
    "kubelet systemd, containerd": (
        f"{BURSTABLE}/cri-containerd-{APP}.scope",
        {f"{BUNDLE}/k8s.io/{APP}/config.json": CONTAINERD, LOG_DIR: "", LOG_LINK: ""},
        POD | IMAGE,
        POD,
    ),
    "kubelet cgroupfs, containerd": (
        f"/kubepods/burstable/pod{UID}/{APP}",
        {f"{BUNDLE}/k8s.io/{APP}/config.json": CONTAINERD, LOG_DIR: ""},
        POD | IMAGE,
        POD,
    ),
    "k3s": (
        f"/kubepods/besteffort/pod{UID}/{APP}",
        {f"run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io/{APP}/config.json": CONTAINERD},
        POD | IMAGE,
        {},
    ),
    "kubelet systemd, cri-o": (
        f"{BURSTABLE}/crio-{APP}.scope",
        {
            f"run/containers/storage/overlay-containers/{APP}/userdata/config.json": CRIO,
            "var/lib/containers/storage/overlay-containers/containers.json": CRIO_STORED,
        },
        POD | IMAGE,
        POD | IMAGE,
    ),
    "kubelet cgroupfs, cri-o": (
        f"/kubepods/burstable/pod{UID}/crio-{APP}",
        {f"run/containers/storage/overlay-containers/{APP}/userdata/config.json": CRIO, LOG_LINK: ""},
        POD | IMAGE,
        POD,
    ),
    "kubelet systemd, docker": (
        f"{BURSTABLE}/docker-{APP}.scope",
        {f"var/lib/docker/containers/{APP}/config.v2.json": LABELLED},
        {},
        POD | {"name": LABELLED["Name"][1:], "image": "sha256:1"},  # type: ignore[index]
    ),
    "a pod whose container has left no link": (
        f"{BURSTABLE}/cri-containerd-{APP}.scope",
        {LOG_DIR: "", LOG_DIR.replace("/app/", "/sidecar/"): ""},
        {},
        {"pod": POD["pod"], "namespace": "shop"},
    ),
    "nothing is left": (f"/docker/{APP}", {}, {}, {}),
}


def lay(root: Path, files: dict[str, Any]) -> Path:
    for place, content in files.items():
        path = root / place
        path.parent.mkdir(parents=True, exist_ok=True)
        # As Go writes it: no space after a colon.
        path.write_text(content if isinstance(content, str) else json.dumps(content, separators=(",", ":")))
    return root


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_it_is_called(tmp_path: Path, layout: str) -> None:
    cgroup, files, before, after = LAYOUTS[layout]
    box = of(cgroup)
    assert box is not None
    root = str(lay(tmp_path, files))
    assert containers.perishable(root, box) == before
    assert containers.lasting(root, box) == after


def gather(steps: Iterator[None]) -> None:
    for _ in steps:
        pass


def evidence(root: Path) -> Evidence:
    (root / "proc/1").mkdir(parents=True, exist_ok=True)
    if not (root / "proc/1/root").is_symlink():
        (root / "proc/1/root").symlink_to(root / "host")
    return Evidence(str(root / "proc"), str(root / "cgroup"), lambda _, __: None, 0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_incident_has_it(tmp_path: Path, layout: str) -> None:
    """Before the kill what lies in memory, after it the disk: by then the engine has removed the former."""
    cgroup, files, before, after = LAYOUTS[layout]
    lay(tmp_path / "host", files)
    it = evidence(tmp_path)
    gather(it.soft(["/", cgroup], ()))
    for place in files:
        if place.startswith("run/"):
            (tmp_path / "host" / place).unlink()
    gather(it.named(["/", cgroup]))
    told: Any = it.facts["containers"]
    box = of(cgroup)
    assert box is not None
    assert told == {cgroup: {**containers.known(box), **after, **before}}


def test_who_is_in_no_container_loads_nothing(tmp_path: Path) -> None:
    it = evidence(tmp_path)
    gather(it.soft(["/", "/system.slice/web.service"], ()))
    gather(it.named(["/", "/system.slice/web.service"]))
    assert "containers" not in it.facts


def test_what_its_path_names_needs_no_disk(tmp_path: Path) -> None:
    it = evidence(tmp_path)
    gather(it.named(["/lxc/web"]))
    told: Any = it.facts["containers"]
    assert told["/lxc/web"]["name"] == "web"


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"Name": 7}', "[" * 100_000, "\x00", '{"Name": "/web"' + " " * (2 << 20) + "}"],
    ids=["empty", "cut", "a list", "a number", "deep", "a zero", "too long"],
)
def test_a_file_that_is_none(tmp_path: Path, content: str) -> None:
    box = Container("docker", APP)
    places = (f"var/lib/docker/containers/{APP}/config.v2.json", f"{BUNDLE}/k8s.io/{APP}/config.json")
    stored = "var/lib/containers/storage/overlay-containers/containers.json"
    lay(tmp_path, dict.fromkeys((*places, stored), content))
    assert containers.perishable(str(tmp_path), box) == {}
    assert containers.lasting(str(tmp_path), box) == {}


@pytest.mark.parametrize("kind", ["fifo", "link", "directory"])
def test_what_is_no_plain_file_is_not_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"var/lib/docker/containers/{APP}/config.v2.json"
    path.parent.mkdir(parents=True)
    (tmp_path / "else").write_text(json.dumps(DOCKER))
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(tmp_path / "else")
    else:
        path.mkdir()
    assert containers.lasting(str(tmp_path), Container("docker", APP)) == {}


def test_names_have_a_bound(tmp_path: Path) -> None:
    lay(tmp_path, {f"var/lib/docker/containers/{APP}/config.v2.json": {"Name": "/" + "x" * 5000}})
    assert containers.lasting(str(tmp_path), Container("docker", APP)) == {"name": "x" * containers.NAMES_MAX}


def test_of_a_thousand_containers_one_is_taken_apart(tmp_path: Path) -> None:
    others = [{"id": f"{number:064x}", "names": [f"n{number}"], "metadata": "{"} for number in range(1000)]
    mine = json.loads(PODMAN)
    place = "var/lib/containers/storage/vfs-containers/containers.json"
    lay(tmp_path, {place: [*others, *mine, *others]})
    assert containers.lasting(str(tmp_path), Container("podman", WEB))["name"] == "web"
    assert containers.lasting(str(tmp_path), Container("podman", f"{77:064x}")) == {"name": "n77"}


def test_a_disk_that_does_not_answer_costs_the_name_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cgroup, files, _, after = LAYOUTS["docker, systemd"]
    lay(tmp_path / "host", files)
    answers, real = threading.Event(), containers._read

    def slow(path: str) -> bytes:
        answers.wait(60)
        return real(path)

    monkeypatch.setattr(containers, "_read", slow)
    it = evidence(tmp_path)
    clock = itertools.count(0.0, 0.2)
    monkeypatch.setattr("oomguard.workers.evidence.time.monotonic", lambda: next(clock))
    gather(it.named([cgroup]))
    told: Any = it.facts["containers"]
    assert (told[cgroup]["name"], it.cut) == ("", 1)
    gather(evidence(tmp_path).named([f"/docker/{WEB}"]))  # one is stuck: another is not begun
    assert sum(isinstance(thread, containers.Asked) for thread in threading.enumerate()) == 1
    answers.set()
    for thread in threading.enumerate():
        if isinstance(thread, containers.Asked):
            thread.join(60)
    gather(it.named([cgroup]))  # at the next milestone the disk answers
    assert told[cgroup]["name"] == after["name"]
