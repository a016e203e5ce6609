"""etc/kubernetes: what a cluster would refuse is found here, by the schemas that Kubernetes publishes."""

import copy
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from oomguard.cli import tree

ROOT = Path(__file__).resolve().parent.parent
HERE = ROOT / "etc/kubernetes"
SET: dict[str, Any] = yaml.safe_load((HERE / "oomguard.yaml").read_text())
POD = SET["spec"]["template"]["spec"]
CONTAINERS = {container["name"]: container for container in POD["containers"]}
KUSTOMIZATION = yaml.safe_load((HERE / "kustomization.yaml").read_text())
VERSIONS = ("1.30", "1.33", "1.37")  # appArmorProfile is a field since 1.30


@pytest.mark.parametrize("version", VERSIONS)
def test_the_daemon_set_is_one(version: str) -> None:
    kubernetes_validate.validate(SET, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_kustomize_makes_of_its_policy_is_a_config_map(version: str) -> None:
    (made,) = KUSTOMIZATION["configMapGenerator"]
    data = {name: (HERE / name).read_text() for name in made["files"]}
    one = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": made["name"]}, "data": data}
    kubernetes_validate.validate(one, version, strict=True)
    (policy,) = [volume for volume in POD["volumes"] if "configMap" in volume]
    assert policy["configMap"]["name"] == made["name"]
    assert KUSTOMIZATION["resources"] == ["oomguard.yaml"]
    assert {image["name"] for image in KUSTOMIZATION["images"]} == {it["image"] for it in CONTAINERS.values()}


@pytest.mark.parametrize(
    ("where", "key", "value"),
    [
        (("spec", "template", "spec"), "hostPid", True),
        (("spec", "template", "spec", "containers", 0, "securityContext", "capabilities"), "add", "KILL"),
        (("spec",), "selector", None),
    ],
)
def test_a_slip_would_be_found(where: tuple[Any, ...], key: str, value: object) -> None:
    wrong = copy.deepcopy(SET)
    place: Any = wrong
    for step in where:
        place = place[step]
    if value is None:
        del place[key]
    else:
        place[key] = value
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_labels_meet() -> None:
    assert SET["spec"]["selector"]["matchLabels"].items() <= SET["spec"]["template"]["metadata"]["labels"].items()


@pytest.mark.parametrize("name", CONTAINERS)
def test_each_runs_a_command_of_ours_and_mounts_what_is_there(name: str) -> None:
    container = CONTAINERS[name]
    program, *words = container["command"]
    assert program == "oomguard"
    known = {" ".join(command.path[1:]): command for command in tree.whole().walk()}
    path = " ".join(word for word in words if not word.startswith(("-", "/")) and re.fullmatch(r"[a-z-]+", word))
    options = {spelling for option in known[path].options for spelling in option.names}
    assert {word for word in words if word.startswith("--")} <= options
    volumes = {volume["name"] for volume in POD["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
    assert not container["securityContext"].get("privileged")


def test_it_has_the_rights_of_the_service_and_no_others() -> None:
    """All but CAP_SYSLOG: no /dev/kmsg is in a container that is not privileged."""
    unit = (ROOT / "systemd/oomguard.service").read_text()
    service = set(re.findall(r"^CapabilityBoundingSet=CAP_(\w+)$", unit, re.M))
    assert set(CONTAINERS["oomguard"]["securityContext"]["capabilities"]["add"]) == service - {"SYSLOG"}
    for name in CONTAINERS.keys() - {"oomguard"}:
        assert CONTAINERS[name]["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_where_the_host_s_roots_are_mounted_it_is_told_to_look() -> None:
    (guard,) = [it for it in CONTAINERS.values() if "run" in it["command"]]
    mounted = {mount["name"]: mount["mountPath"] for mount in guard["volumeMounts"]}
    host = {volume["name"]: volume["hostPath"]["path"] for volume in POD["volumes"] if "hostPath" in volume}
    words = dict(zip(guard["command"], guard["command"][1:], strict=False))
    assert (words["--proc"], words["--cgroup"]) == (mounted["proc"], mounted["cgroup"])
    assert (host["proc"], host["cgroup"]) == ("/proc", "/sys/fs/cgroup")
    assert POD["hostPID"] is True
