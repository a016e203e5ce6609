"""Which cgroups a guard means: by path, or by what lives there, as systemd and container engines name it.

A selector is a path or a glob ("/system.slice/web-*.service"), or a kind and a name ("unit=web-*.service",
"slice=user-*.slice", "container=docker", "pod=burstable"), and stands for a few globs. None of those that name units or
system containers leads below a user's manager, where names are the user's own to give.
"""

from functools import lru_cache
from typing import Final

from ..model.policy import Guard
from .glob import matches

KINDS: Final = ("unit", "slice", "container", "pod")
DEPTH: Final = 5  # slices in slices: systemd makes a-b-c.slice of a.slice, a-b.slice and itself
_ID: Final = "?" * 64  # of a container; so conmon's own scopes (libpod-conmon-ID) are none
_USERS: Final = "/user.slice/user-*.slice/user@*.service"

CONTAINERS: Final[dict[str, tuple[str, ...]]] = {
    # With the driver systemd in system.slice (or where --cgroup-parent says), with cgroupfs in /docker.
    "docker": (*(f"{'/*.slice' * depth}/docker-{_ID}.scope" for depth in (1, 2, 3)), f"/docker/{_ID}"),
    # By root in machine.slice, by a user below his manager; quadlets and --cgroups=split below a service.
    "podman": (
        *(f"{'/*.slice' * depth}/libpod-{_ID}.scope" for depth in (1, 2, 3)),
        *(f"{_USERS}/{below}/libpod-{_ID}.scope" for below in ("user.slice", "app.slice", "user.slice/*")),
        f"/system.slice/*.service/libpod-payload-{_ID}",
        f"/libpod_parent/libpod-{_ID}",
    ),
    "nerdctl": (*(f"{'/*.slice' * depth}/nerdctl-{_ID}.scope" for depth in (1, 2)), f"/default/{_ID}"),
}

# Of the driver systemd, of cgroupfs, and of a node that is a container itself (kind): in which pods are, by class.
_PODS: Final[dict[str, tuple[str, ...]]] = {
    "guaranteed": (
        "/kubepods.slice/kubepods-pod*.slice",
        "/kubepods/pod*",
        "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod*.slice",
        "/kubelet/kubepods/pod*",
    ),
    **{
        qos: (
            f"/kubepods.slice/kubepods-{qos}.slice/kubepods-{qos}-pod*.slice",
            f"/kubepods/{qos}/pod*",
            f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-{qos}.slice/kubelet-kubepods-{qos}-pod*.slice",
            f"/kubelet/kubepods/{qos}/pod*",
        )
        for qos in ("burstable", "besteffort")
    },
}
PODS: Final = {**_PODS, "any": tuple(glob for globs in _PODS.values() for glob in globs)}
CONTAINERS["kubernetes"] = tuple(
    f"{pod}/{name}" for pod in PODS["any"] for name in (f"cri-containerd-{_ID}.scope", f"crio-{_ID}.scope", _ID)
)
CONTAINERS["any"] = tuple(glob for globs in tuple(CONTAINERS.values()) for glob in globs)
# Whoever has started them. Under cgroupfs a pod's container is its id alone, whichever runtime it has.
CONTAINERS["containerd"] = (
    *CONTAINERS["nerdctl"],
    *(glob for glob in CONTAINERS["kubernetes"] if "/crio-" not in glob),
)


@lru_cache(maxsize=128)
def globs(selector: str) -> tuple[str, ...]:
    """The patterns for which it stands. KeyError: no such kind, or no such engine or class."""
    if selector.startswith("/"):
        return (selector,)
    kind, _, name = selector.partition("=")
    if kind in ("unit", "slice"):
        return tuple(f"{'/*.slice' * depth}/{name}" for depth in range(DEPTH))
    return {"container": CONTAINERS, "pod": PODS}[kind][name]


def selects(selector: str, path: str) -> bool:
    """Whether the guard with this selector means that cgroup."""
    return any(matches(glob, path) for glob in globs(selector))


def bears(guard: Guard, value: str | None) -> bool:
    """Whether a cgroup with this value of the extended attribute that the guard asks for (None: without) is meant."""
    name, _, pattern = guard.xattr.partition("=")
    return not name or (value is not None and matches(pattern.replace("*", "**"), value))


def fits(pattern: str, text: str) -> bool:
    """``matches``, for whoever has both globs of names and selectors of paths."""
    of_path = text.startswith("/") and pattern.partition("=")[0] in KINDS
    return selects(pattern, text) if of_path else matches(pattern, text)
