"""Containers for real: podman on the guest, the daemon beside them and in one of them; and a fleet of two hosts.

`make boxes`: these fetch packages that the guest's image does not have, and take minutes.
"""

from __future__ import annotations

import json
from typing import Any

import yaml

from oomguard.model.messages import MESSAGE_IDS

from .machine import PYTHON, ROOT, Machine
from .packages import unpack
from .storms import UNIT, journal

POLICY = """\
[policy.boxes]
container = "podman"
tripwire = true
[policy.boxes.soft]
when = [{ memory_above = "40%" }]
do = ["snapshot", "notify", "nominate"]
[policy.boxes.hard]
when = [{ memory_above = "60%" }]
do = ["kill"]

[policy.work]
cgroup = "/work.slice/*.service"
[policy.work.soft]
when = [{ memory_above = "60MiB" }]
do = ["snapshot", "notify", "nominate"]
[policy.work.hard]
when = [{ memory_above = "90MiB" }]
do = ["kill"]
"""
DAEMON_SET = yaml.safe_load((ROOT / "etc/kubernetes/oomguard.yaml").read_text())
BUSYBOX = "/root/box"
# Holds as much as one block of dd's, which it fills at once.
LEAK = "sleep 2; exec dd if=/dev/zero of=/dev/null bs=110M"
HOG = f"systemd-run -q --collect --unit=%s --slice=work.slice -p OOMPolicy=continue {PYTHON}hog.py --size 200 --rate 40"


def incidents(vm: Machine, state: str = "/var/lib/oomguard") -> list[dict[str, Any]]:
    """Those that are over."""
    said = vm.check(f"oomguard incidents follow --json --once --state-dir {state}", timeout=60)
    return [json.loads(line) for line in said.splitlines()]


def one_of(vm: Machine, policy: str, name: str = "", state: str = "/var/lib/oomguard") -> dict[str, Any]:
    """The incident of this policy, and of a container of that name, once it is over."""
    words = f'oomguard incidents follow --json --once --state-dir {state} | grep \'"policy":"{policy}"\''
    assert vm.wait_for(f"{words} | grep -q '{name}'", 120), journal(vm, UNIT)
    (found,) = [it for it in incidents(vm, state) if it["policy"] == policy and name in json.dumps(it)]
    return found


def box(vm: Machine, name: str, *options: str) -> str:
    """A container with a limit that leaks; its id."""
    words = f"podman run -d --name {name} --network none --memory 128m {' '.join(options)} box sh -c '{LEAK}'"
    return vm.check(words, timeout=120).strip()


def test_podman(installed_vm: Machine) -> None:
    vm = installed_vm
    unpack(vm, "podman", "crun", "busybox-static")
    vm.check(f"mkdir -p {BUSYBOX}/bin && cp /usr/bin/busybox {BUSYBOX}/bin/")
    vm.check(f"cd {BUSYBOX}/bin && for name in sh sleep dd; do ln -s busybox $name; done")
    vm.check(f"tar -C {BUSYBOX} -cf /root/box.tar . && podman import -q /root/box.tar box", timeout=120)
    vm.put("/etc/oomguard/conf.d/50-boxes.toml", POLICY)
    vm.check(f"systemctl restart {UNIT}", timeout=90)

    # It dies as any container does that ends by a signal, and podman says so.
    long = box(vm, "web")
    told = one_of(vm, "boxes", "web")
    (row,) = {json.dumps(it) for it in told["containers"].values()}
    named = {"engine": "podman", "id": long, "name": "web", "image": "localhost/box:latest"}
    assert named.items() <= json.loads(row).items()
    assert (told["killed_by"], f"in container web (podman {long[:12]})" in told["text"]) == ("oomguard", True), told
    assert vm.check("podman wait web", timeout=60).strip() == "137"
    assert vm.check("podman inspect -f '{{.State.Status}} {{.State.OOMKilled}}' web").split() == ["exited", "false"]
    shown = vm.check(f"oomguard incidents show {told['id']} --all", timeout=60)
    assert f"is container web (podman {long[:12]})" in " ".join(shown.split())

    # One that podman forgets as soon as it has ended.
    box(vm, "brief", "--rm")
    assert one_of(vm, "boxes", "brief")["killed_by"] == "oomguard"
    assert vm.wait_for("! podman container exists brief", 60)

    within_a_container(vm)


def within_a_container(vm: Machine) -> None:
    """With the rights of the DaemonSet, the host's roots beside its own, in a cgroup namespace of its own."""
    (pod,) = [it for it in DAEMON_SET["spec"]["template"]["spec"]["containers"] if it["name"] == "oomguard"]
    rights = " ".join(f"--cap-add {name}" for name in pod["securityContext"]["capabilities"]["add"])
    vm.check(f"systemctl stop {UNIT}", timeout=90)
    vm.check("podman rm web && mkdir -p /var/lib/box /host/proc /host/sys/fs/cgroup /mnt/itself", timeout=60)
    vm.check("mount --bind / /mnt/itself && mkdir -p /mnt/itself/run/oomguard")  # the guest's own files, not its mounts
    places = "-v /proc:/host/proc -v /sys/fs/cgroup:/host/sys/fs/cgroup -v /var/lib/box:/var/lib/oomguard"
    run = "/usr/local/bin/" + " ".join(pod["command"])
    flags = f"--cap-drop all {rights} --security-opt seccomp=unconfined --security-opt no-new-privileges"
    # Not podman's own tmpfs on /run, /tmp and /var/tmp: those begin as copies of what the guest has there.
    flags += " --read-only --read-only-tmpfs=false --tmpfs /run/oomguard"
    flags += " --pid host --cgroupns private --network none --memory 128m"
    guard = vm.check(f"podman run -d --name guard {flags} {places} --rootfs /mnt/itself {run}", timeout=120).strip()
    ask = "podman exec guard /usr/local/bin/oomguard status --json"
    assert vm.wait_for(f"{ask} >/dev/null", 120), vm.run("podman logs guard").err
    status = json.loads(vm.check(ask, timeout=60))
    assert "cgroups" not in {row["what"] for row in status["degraded"]}, status["degraded"]

    box(vm, "web")
    told = one_of(vm, "boxes", "web", "/var/lib/box")
    assert told["killed_by"] == "oomguard"
    assert {it["name"] for it in told["containers"].values()} == {"web"}
    # A service of the host, which the container's own /proc would call /../../work.slice/hog.service.
    vm.check(HOG % "hog")
    told = one_of(vm, "work", "hog", "/var/lib/box")
    assert [it["cgroup"] for it in told["victims"]] == ["/work.slice/hog.service"]
    assert told["killed_by"] == "oomguard"
    assert vm.check("podman inspect -f '{{.State.Running}}' guard").strip() == "true", "nor itself"
    assert guard[:12] not in json.dumps([it["victims"] for it in incidents(vm, "/var/lib/box")])
    peak = f"/sys/fs/cgroup/machine.slice/libpod-{guard}.scope/memory.peak"
    print(f"# the container with the daemon: at most {int(vm.check(f'cat {peak}')) >> 20} MiB")
    vm.check("podman rm -f -t 20 guard", timeout=90)


WEST = "/var/log/west"


def test_a_fleet(installed_vm: Machine) -> None:
    """Two hosts, each a network namespace: what one journal has, incidents as lines among it, the other has too."""
    vm = installed_vm
    unpack(vm, "systemd-journal-remote")
    vm.put("/etc/oomguard/conf.d/50-boxes.toml", POLICY)
    vm.check(f"systemctl restart {UNIT}", timeout=90)
    vm.check("ip netns add east; ip netns add west; ip link add e netns east type veth peer name w netns west")
    vm.check("ip -n east addr add 10.9.0.1/24 dev e; ip -n west addr add 10.9.0.2/24 dev w")
    vm.check(f"ip -n east link set e up; ip -n west link set w up; mkdir {WEST}")
    remote = f"/usr/lib/systemd/systemd-journal-remote --listen-http=10.9.0.2:19532 --output={WEST}"
    vm.check(f"systemd-run -q --unit=remote ip netns exec west {remote}")
    upload = "/usr/lib/systemd/systemd-journal-upload --url=http://10.9.0.2:19532 --save-state=/run/upload"
    listens = "ip netns exec west ss -ltn | grep -q 10.9.0.2:19532"
    assert vm.wait_for(listens, 60), journal(vm, "remote")
    vm.check(f"systemd-run -q --unit=upload ip netns exec east {upload}")
    vm.check("systemd-run -q --unit=lines oomguard incidents follow --json --cursor /run/lines")
    assert vm.wait_for("test -e /run/lines", 60), journal(vm, "lines")

    vm.check(HOG % "hog")
    told = one_of(vm, "work")
    there = f"journalctl -q --directory={WEST} -o json"
    killed = MESSAGE_IDS["KILLED"].replace("-", "")
    assert vm.wait_for(f"{there} MESSAGE_ID={killed} | grep -q hog", 120), journal(vm, "upload")
    (entry,) = [json.loads(line) for line in vm.check(f"{there} MESSAGE_ID={killed}").splitlines()]
    assert (entry["OOMGUARD_POLICY"], entry["OOMGUARD_CGROUP"]) == ("work", "/work.slice/hog.service")
    assert told["id"].endswith(entry["OOMGUARD_INCIDENT"])
    assert entry["_HOSTNAME"] == vm.check("hostname").strip()
    lines = f"{there} _SYSTEMD_UNIT=lines.service"
    assert vm.wait_for(f"{lines} | grep -q {told['id']}", 120), journal(vm, "lines")
    found = [json.loads(json.loads(line)["MESSAGE"]) for line in vm.check(lines).splitlines() if told["id"] in line]
    assert [(it["id"], it["killed_by"]) for it in found] == [(told["id"], "oomguard")]
