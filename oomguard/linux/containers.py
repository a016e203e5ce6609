"""Which container a cgroup belongs to, by its path alone: each engine names its cgroups in its own way.

    /system.slice/docker-ID.scope                                  docker, driver systemd
    /docker/ID                                                     docker, driver cgroupfs
    /machine.slice/libpod-ID.scope/container                       podman
    /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID.slice/cri-containerd-ID.scope
    /kubepods/besteffort/podUID/ID                                 a kubelet with cgroupfs: the engine is not told
    /system.slice/containerd.service/kubepods-podUID.slice:cri-containerd:ID    where these two disagree on the driver

Of several on one path the innermost is meant: a node may be a container itself. What it is called besides lies on the
disk (``workers.containers``).
"""

import re
from dataclasses import dataclass
from typing import Final

_SHORT: Final = 12  # digits, as the engines' own commands show them
_HEX: Final = r"([0-9a-f]{64})"
_SCOPES: Final = (
    ("docker", re.compile(rf"docker-{_HEX}\.scope")),
    ("containerd", re.compile(rf"(?:.*:)?cri-containerd[-:]{_HEX}(?:\.scope)?")),
    ("cri-o", re.compile(rf"crio-{_HEX}(?:\.scope)?")),
    ("podman", re.compile(rf"libpod-(?:payload-)?{_HEX}(?:\.scope)?")),
    ("nerdctl", re.compile(rf"nerdctl-{_HEX}\.scope")),
)
_BARE: Final = re.compile(_HEX)
_ABOVE_BARE: Final = {"docker": "docker", "default": "nerdctl"}
_NAMED: Final = (
    ("lxc", re.compile(r"lxc\.payload\.(.+)")),
    ("nspawn", re.compile(r"(?:systemd-nspawn@|machine-)(.+)\.(?:service|scope)")),
)
# Its uid has dashes, which in a slice's name would mean a slice above: there they are underscores. A static pod's uid
# is a checksum of its manifest, 32 digits without any (pkg/kubelet/config/common.go).
_POD: Final = re.compile(r"(?:(?:kubelet-)?kubepods-(?:burstable-|besteffort-)?)?pod([0-9A-Za-z_-]+)(?:\.slice.*)?")


@dataclass(frozen=True, slots=True)
class Container:
    """``id`` as its engine has it, or "" where the path has a ``name`` instead. ``pod``: the pod's uid; "": in none."""

    engine: str
    id: str = ""
    name: str = ""
    pod: str = ""

    def __str__(self) -> str:
        return f"{self.engine} {self.id[:_SHORT] or self.name}"


def of(cgroup: str) -> Container | None:
    """The container in which this cgroup is, or which it is; None: none that is known."""
    parts = cgroup.split("/")
    for place in range(len(parts) - 1, 0, -1):
        found = _part(parts, place)
        if found is not None:
            return found
    return None


def _part(parts: list[str], place: int) -> Container | None:
    part, above = parts[place], parts[place - 1]
    for engine, pattern in _SCOPES:
        if scope := pattern.fullmatch(part):
            return Container(engine, scope[1], pod=_pod(parts[: place + 1]))
    if _BARE.fullmatch(part):
        pod = _pod(parts[:place])
        engine = "pod" if pod else "lxc" if above == "lxc" else _ABOVE_BARE.get(above, "")
        return Container(engine, part, pod=pod) if engine else None
    if above == "lxc":
        return Container("lxc", name=part)
    for engine, pattern in _NAMED:
        if (named := pattern.fullmatch(part)) and (engine == "lxc" or above == "machine.slice"):
            return Container(engine, name=named[1])
    return None


def _pod(above: list[str]) -> str:
    """The uid of the pod to which these parts lead."""
    kubelets = any("kubepods" in part for part in above)
    for part in reversed(above if kubelets else ()):
        if pod := _POD.fullmatch(part):
            return pod[1].replace("_", "-")
    return ""
