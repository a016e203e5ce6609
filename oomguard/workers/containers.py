"""What a container is called: its name, its image, its pod. From what its engine and the kubelet keep on the disk.

No engine is asked, and no API: whoever has to answer may be what is being killed. Of everything here only the
container's directory in /run is read before a kill, which is memory; the rest lies on a disk that may be busy
swapping, and is read after it, by a thread that nobody waits for longer than the evidence has time. One file has a
limit, and of a list of all containers only the part that is about this one is taken apart.

Read by the scribe, as the host has it (/proc/1/root): our own root may be a sandbox or a container. What a user keeps
of his containers in his home is never read: a file of his could be anything.
"""

import json
import os
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from ..linux.containers import Container

FILE_MAX: Final = 1 << 20  # podman's list has 500 bytes for each container; docker's file of one is 3 to 10 kB
ENTRIES_MAX: Final = 4096  # of /var/log/containers: the kubelet runs 110 pods
NAMES_MAX: Final = 253  # of a name: what Kubernetes allows
_STACK: Final = 256 << 10

# A container's own directory, which its engine removes as soon as it has seen it end.
_BUNDLES: Final = (
    "run/containerd/io.containerd.runtime.v2.task/{namespace}/{id}/config.json",
    "run/k3s/containerd/io.containerd.runtime.v2.task/{namespace}/{id}/config.json",
    "run/containers/storage/{driver}-containers/{id}/userdata/config.json",
)
_NAMESPACES: Final = ("k8s.io", "default")  # of the kubelet, of nerdctl
_DRIVERS: Final = ("overlay", "vfs", "btrfs", "zfs")
_DOCKER: Final = (
    "var/lib/docker/containers/{id}/config.v2.json",
    "var/snap/docker/common/var-lib-docker/containers/{id}/config.v2.json",
)
# Of "run --rm" the list of what does not outlive it.
_STORAGE: Final = tuple(
    f"var/lib/containers/storage/{driver}-containers/{name}.json"
    for driver in _DRIVERS
    for name in ("containers", "volatile-containers")
)
_LOGS: Final = "var/log/containers"  # POD_NAMESPACE_CONTAINER-ID.log, links that the kubelet makes
_POD_LOGS: Final = "var/log/pods"  # NAMESPACE_POD_UID/CONTAINER/N.log

# What tells what, by whose annotations: containerd's (pkg/cri/annotations), CRI-O's and dockershim's (the kubelet's
# own labels), nerdctl's (pkg/labels).
_KEYS: Final = {
    "name": ("nerdctl/name",),
    "image": ("io.kubernetes.cri.image-name", "io.kubernetes.cri-o.ImageName", "nerdctl/image-name"),
    "pod": ("io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"),
    "namespace": ("io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace"),
    "container": ("io.kubernetes.cri.container-name", "io.kubernetes.container.name"),
}

Names = dict[str, str]


def known(box: Container) -> dict[str, object]:
    """What the path alone tells."""
    return {"engine": box.engine, "id": box.id, "pod_uid": box.pod, "name": box.name}


def perishable(root: str, box: Container) -> Names:
    """From the container's own directory in /run. {}: it is not there, or tells nothing."""
    if not box.id:
        return {}
    for place in _BUNDLES:
        for namespace in _NAMESPACES if "{namespace}" in place else ("",):
            for driver in _DRIVERS if "{driver}" in place else ("",):
                path = place.format(id=box.id, namespace=namespace, driver=driver)
                if found := _bundle(_read(f"{root}/{path}")):
                    return found
    return {}


def lasting(root: str, box: Container) -> Names:
    """From the disk: the engine's own list, then the kubelet's logs. {}: nothing there tells of it."""
    if not box.id:
        return {}
    ways: tuple[Callable[[str, Container], Names], ...] = (_docker, _storage, _log_link, _pod_log)
    for way in ways:
        if found := way(root, box):
            return found
    return {}


class Asked(threading.Thread):
    """Reads what lies on the disk, of some containers. At most one such thread is ever stuck."""

    busy = False

    def __init__(self, roots: tuple[str, ...], boxes: Iterable[tuple[str, Container]]) -> None:
        super().__init__(daemon=True)
        self._roots, self._boxes = roots, tuple(boxes)
        self.found: dict[str, Names] = {}  # by cgroup
        self.tried = 0

    def run(self) -> None:
        Asked.busy = True
        for cgroup, box in self._boxes:
            for root in self._roots:
                if names := lasting(root, box):
                    self.found[cgroup] = names
                    break
            self.tried += 1
        Asked.busy = False


def asked(roots: tuple[str, ...], wanted: Iterable[tuple[str, Container]]) -> Asked | None:
    """A thread that has begun; None: one is stuck already, or there is no room for another."""
    if Asked.busy:
        return None
    threading.stack_size(_STACK)  # the usual 8 MiB would count against a limit on locked memory
    thread = Asked(roots, wanted)
    try:
        thread.start()
    except RuntimeError:
        return None
    return thread


# -- who keeps what


def _bundle(data: bytes) -> Names:
    """An OCI bundle's config.json, which has annotations."""
    return _of(_dict(_json(data)).get("annotations"))


def _docker(root: str, box: Container) -> Names:
    """{"Name": "/web", "Config": {"Image": "nginx:1", "Labels": {"io.kubernetes.pod.name": ...}}}"""
    for place in _DOCKER:
        doc = _dict(_json(_read(f"{root}/{place.format(id=box.id)}")))
        config = _dict(doc.get("Config"))
        found = _of(config.get("Labels")) | _texts(name=str(doc.get("Name") or "")[1:], image=config.get("Image"))
        if found:
            return found
    return {}


def _storage(root: str, box: Container) -> Names:
    """[{"id": ..., "names": ["web"], "metadata": "{\\"image-name\\": \\"nginx\\", \\"pod-name\\": ..."}, ...]"""
    for place in _STORAGE:
        entry = _entry(_read(f"{root}/{place}"), box.id)
        if not entry:
            continue
        about = _dict(_json(str(entry.get("metadata", "")).encode()))
        names = entry.get("names")
        first = names[0] if isinstance(names, list) and names else ""
        # CRI-O: k8s_CONTAINER_POD_NAMESPACE_UID_ATTEMPT; of these none may have an underscore in it.
        words = str(about.get("container-name") or first).split("_")
        if words[0] == "k8s" and len(words) >= 5:
            pod = _texts(container=words[1], pod=words[2], namespace=words[3])
            return pod | _texts(image=about.get("image-name"))
        return _texts(name=first, image=about.get("image-name"))
    return {}


def _log_link(root: str, box: Container) -> Names:
    for entry in _entries(f"{root}/{_LOGS}"):
        if entry.endswith(f"-{box.id}.log"):
            words = entry[: -len(box.id) - 5].split("_")
            if len(words) == 3:
                return _texts(pod=words[0], namespace=words[1], container=words[2])
    return {}


def _pod_log(root: str, box: Container) -> Names:
    """Where the container cannot be told, its pod."""
    for entry in _entries(f"{root}/{_POD_LOGS}") if box.pod else ():
        words = entry.split("_")
        if len(words) == 3 and words[2] == box.pod:
            own = list(_entries(f"{root}/{_POD_LOGS}/{entry}"))
            return _texts(pod=words[1], namespace=words[0], container=own[0] if len(own) == 1 else "")
    return {}


# -- small hands


def _of(annotations: object) -> Names:
    given = _dict(annotations)
    return _texts(**{what: next((given[key] for key in keys if key in given), "") for what, keys in _KEYS.items()})


def _texts(**values: object) -> Names:
    return {key: value[:NAMES_MAX] for key, value in values.items() if isinstance(value, str) and value}


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _json(data: bytes) -> object:
    """What it says; None: nothing, or only the beginning of something."""
    try:
        return json.loads(data) if data else None
    except (ValueError, RecursionError):
        return None


def _entry(data: bytes, key: str) -> dict[str, Any]:
    """Of a list of objects the one with this id: the others are not taken apart, there may be thousands."""
    at = data.find(b'{"id":"%s"' % key.encode())
    if at < 0:
        return {}
    try:
        return _dict(json.JSONDecoder().raw_decode(data[at : at + 65536].decode("utf-8", "replace"))[0])
    except (ValueError, RecursionError):
        return {}


def _entries(path: str) -> Iterator[str]:
    try:
        with os.scandir(path) as found:
            for count, entry in enumerate(found):
                if count >= ENTRIES_MAX:
                    return
                yield entry.name
    except (OSError, ValueError):
        return


def _read(path: str) -> bytes:
    """A plain file, no longer than that; else nothing."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except (OSError, ValueError):
        return b""
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size > FILE_MAX:
            return b""
        parts: list[bytes] = []
        while data := os.read(fd, 65536):
            parts.append(data)
            if len(parts) > FILE_MAX >> 16:
                return b""
        return b"".join(parts)
    except OSError:
        return b""
    finally:
        os.close(fd)
