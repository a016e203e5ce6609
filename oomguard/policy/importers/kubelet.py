"""The kubelet's eviction: KubeletConfiguration (YAML or JSON), or its flags (KUBELET_..._ARGS=, or alone in a file).

A soft threshold must hold for its grace period and ends a pod with ``evictionMaxPodGracePeriod``; a hard one at once.
Only pods are evicted, so the guard is on the cgroup of them all; what is available is the machine's even so. Of pods'
priorities no cgroup tells; what the kubelet makes of them for the kernel's killer does: oom_score_adj is -997 in pods
that are system-node-critical and in guaranteed ones, 1000 in best-effort ones.
"""

import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from .. import units
from ..faults import Wrong, shown
from . import Draft, Page

_HARD = "100Mi"  # of memory.available, where no hard threshold is given
_LATER = {
    "evictionMinimumReclaim": "a watermark is left with a small margin, and nothing is freed beyond",
    "evictionPressureTransitionPeriod": "there is no node condition: it is calm after 1 s over both watermarks",
    "evictionMaxPodGracePeriod": "",
    "kubeReserved": "what is kept for the kubelet is not known here: thresholds are of the machine's memory",
    "systemReserved": "what is kept for the system is not known here: thresholds are of the machine's memory",
    "enforceNodeAllocatable": "the kubelet sets memory.max of the pods' cgroup by it; memory_above sees that",
    "reservedMemory": "what is kept by NUMA node is not known here",
    "qosReserved": "no class has memory kept for it here",
    "memorySwap": "how much pods may swap is theirs: see memory.swap.max of their cgroups",
    "memoryThrottlingFactor": "the kubelet sets memory.high of containers by it; set_high does for a guard's cgroup",
    "singleProcessOOMKill": 'a container is ended whole, as with false; for true write take = "process"',
    "staticPodPath": "no cgroup tells which pod is static: one is spared only if it is system-node-critical too",
    "staticPodURL": "no cgroup tells which pod is static: one is spared only if it is system-node-critical too",
    "shutdownGracePeriodByPodPriority": "no cgroup tells of a pod's priority",
}
_FLAGS = {
    "eviction-hard": "evictionHard",
    "eviction-soft": "evictionSoft",
    "eviction-soft-grace-period": "evictionSoftGracePeriod",
    "eviction-max-pod-grace-period": "evictionMaxPodGracePeriod",
    "eviction-minimum-reclaim": "evictionMinimumReclaim",
    "eviction-pressure-transition-period": "evictionPressureTransitionPeriod",
    "cgroup-driver": "cgroupDriver",
    "cgroup-root": "cgroupRoot",
    "kube-reserved": "kubeReserved",
    "system-reserved": "systemReserved",
    "enforce-node-allocatable": "enforceNodeAllocatable",
    "qos-reserved": "qosReserved",
    "pod-manifest-path": "staticPodPath",
    "manifest-url": "staticPodURL",
}
_KNOWN = frozenset({*_LATER, *_FLAGS.values(), "mergeDefaultEvictionSettings"})
_MAPS = ("evictionHard", "evictionSoft", "evictionSoftGracePeriod", "evictionMinimumReclaim")


def read(pages: Sequence[Page]) -> Draft:
    """One guard, of the pods' cgroup."""
    draft = Draft()
    page = pages[-1]
    config = _configuration(page)
    for key in _MAPS:
        if not isinstance(config.get(key) or {}, dict):
            page.wrong(
                page.line_of(key), key, f"{shown(config[key])} is not a map", f'{key}: {{ memory.available: "100Mi" }}'
            )
    guard: dict[str, Any] = {"cgroup": _pods(page, config)}
    if soft := _memory(draft, page, config, "evictionSoft"):
        guard["soft"] = _soft(draft, page, config, soft)
    hard = config.get("evictionHard") or {}
    merged = config.get("mergeDefaultEvictionSettings") is True
    if not hard or (merged and "memory.available" not in hard):
        draft.differ(
            page, 1, "evictionHard", f"is not given: memory.available<{_HARD}, as the kubelet has it by default"
        )
        hard = {"memory.available": _HARD, **hard}
    if limit := _memory(draft, page, {**config, "evictionHard": hard}, "evictionHard"):
        guard["hard"] = {"when": [{"available_below": limit}], "do": ["kill"]}
    for key, why in _LATER.items():
        if why and config.get(key) is not None:
            draft.lose(page, page.line_of(key), key, why)
    for key in sorted(key for key in config if key.startswith("eviction") and key not in _KNOWN):
        draft.lose(page, page.line_of(key), key, "is newer than this importer")
    if "soft" in guard or "hard" in guard:
        guard["victim"] = {"by": "memory", "take": "unit", "never": [_CRITICAL], "prefer": [_BEST_EFFORT]}
        draft.guards["kubelet"] = guard
        for how in _HOW:
            draft.differ(page, 1, "eviction", how)
    return draft


_CRITICAL: dict[str, Any] = {"oom_score_adj": "-1000..-997"}
_BEST_EFFORT: dict[str, Any] = {"oom_score_adj": 1000}
_HOW = (
    "the container that holds most is ended, whole: requests are not known here, best-effort pods weigh four times",
    "priorities are not known here: system-node-critical pods are spared, and the guaranteed ones with them, by "
    "oom_score_adj -997; system-cluster-critical ones and other classes are not told apart",
)


def _pods(page: Page, config: dict[str, Any]) -> str:
    """The cgroup of all pods. The driver systemd makes slices of cgroupRoot: /a/b is /a.slice/a-b.slice."""
    root = config.get("cgroupRoot") or "/"
    if not isinstance(root, str) or not re.fullmatch(r"/?[A-Za-z0-9_./-]*", root) or ".." in root:
        page.wrong(page.line_of("cgroupRoot"), "cgroupRoot", f"{shown(root)} is no cgroup", 'as in "/kubelet"')
    parts = [*filter(None, root.split("/")), "kubepods"]
    if config.get("cgroupDriver", "cgroupfs") != "systemd":
        return "/" + "/".join(parts)
    names = [part.replace("-", "_").removesuffix(".slice") for part in parts]
    return "".join(f"/{'-'.join(names[: end + 1])}.slice" for end in range(len(names)))


def _soft(draft: Draft, page: Page, config: dict[str, Any], limit: str) -> dict[str, Any]:
    grace = (config.get("evictionSoftGracePeriod") or {}).get("memory.available")
    if grace is None:
        page.wrong(
            page.line_of("evictionSoft"), "evictionSoftGracePeriod", "lacks memory.available: the kubelet refuses that"
        )
    seconds = config.get("evictionMaxPodGracePeriod", 0)
    if not isinstance(seconds, int | str) or not re.fullmatch(r"[0-9]{1,5}", str(seconds)):
        page.wrong(
            page.line_of("evictionMaxPodGracePeriod"),
            "evictionMaxPodGracePeriod",
            f"{shown(seconds)} is not a number of seconds",
        )
    kill: Any = {"kill": {"grace": f"{seconds}s"}} if int(seconds) else "kill"
    try:
        lasting = units.shown_duration(units.duration(str(grace)))
    except Wrong as wrong:
        page.wrong(page.line_of("evictionSoftGracePeriod"), "evictionSoftGracePeriod", wrong.message, wrong.hint)
    return {"when": [{"available_below": limit, "lasting": lasting}], "do": ["snapshot", "notify", kill]}


def _memory(draft: Draft, page: Page, config: dict[str, Any], key: str) -> str:
    """The threshold of memory.available as an amount, "" without one; all other signals are told."""
    found = ""
    for signal, value in (config.get(key) or {}).items():
        line = page.line_of(str(signal), max(0, page.text.find(key)))
        if signal == "memory.available":
            try:
                found = _quantity(str(value))
            except Wrong as wrong:
                page.wrong(line, f"{key}: {signal}", wrong.message, wrong.hint)
        elif signal == "allocatableMemory.available":
            draft.lose(
                page,
                line,
                f"{key}: {signal}",
                "what pods may have in all is not known here: set memory.max of their slice",
            )
        else:
            draft.lose(page, line, f"{key}: {signal}", "disks and process numbers are not guarded here, only memory")
    return found


_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(Ki|Mi|Gi|Ti|Pi|[kMGTP]|%)?")


def _quantity(text: str) -> str:
    match = _QUANTITY.fullmatch(text)
    if match is None or float(match[1]) == 0 or (match[2] == "%" and float(match[1]) > 100):
        raise Wrong(f"{shown(text)} is no quantity of memory", 'as in "100Mi" or "5%"')
    if match[2] == "%":
        return f"{float(match[1]):.10g}%"
    letter = match[2] or ""
    power = " kMGTP".index(letter[0].replace("K", "k")) if letter else 0
    return units.shown_size(int(float(match[1]) * (1024 if letter.endswith("i") else 1000) ** power) or 1)


# ------------------------------------------------------------------------------------------------------------- reading


def _configuration(page: Page) -> dict[str, Any]:
    if re.search(r"(?m)^[^#\n]*--eviction-|^\s*KUBELET\w*=", page.text):
        return _of_flags(page)
    try:
        import yaml
    except ImportError:
        page.wrong(1, "", "YAML cannot be read: PyYAML is not installed", "pip install 'oomguard[kubelet]'")
    try:
        document = yaml.safe_load(page.text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        page.wrong(mark.line + 1 if mark else 1, "", f"not YAML: {getattr(error, 'problem', None) or error}")
    except (ValueError, RecursionError) as error:
        page.wrong(1, "", f"not YAML: {error}")
    if not isinstance(document, dict) or document.get("kind", "KubeletConfiguration") != "KubeletConfiguration":
        page.wrong(page.line_of("kind"), "kind", "is not KubeletConfiguration")
    return {str(key): value for key, value in document.items()}


def _of_flags(page: Page) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for number, raw in enumerate(page.text.split("\n"), 1):
        line = raw.strip()
        if line.startswith("#"):
            continue
        try:
            words = shlex.split(re.sub(r"^(export\s+)?KUBELET\w*=", "", line))
            words = [part for word in words for part in word.split()]
        except ValueError as error:
            page.wrong(number, "", f"not what a shell would read: {str(error).lower()}")
        for flag, value in _flags(words):
            if flag in _FLAGS:
                key = _FLAGS[flag]
                config[key] = _map(page, number, flag, value) if key in _MAPS else value
    return config


def _flags(words: list[str]) -> Iterator[tuple[str, str]]:
    rest = iter(words)
    for word in rest:
        if word.startswith("--"):
            flag, sign, value = word[2:].partition("=")
            yield flag, value if sign else (next(rest, "") if flag in _FLAGS else "")


def _map(page: Page, line: int, flag: str, text: str) -> dict[str, str]:
    """memory.available<100Mi,nodefs.available<10%; for the others with = in place of <."""
    found = {}
    for part in filter(None, text.split(",")):
        match = re.fullmatch(r"([A-Za-z.]+)[<=](.+)", part)
        if match is None:
            page.wrong(line, f"--{flag}", f"{shown(part)} is no threshold", "as in memory.available<100Mi")
        found[match[1]] = match[2]
    return found
