"""The exporter as a service without rights, and a real Prometheus that scrapes it while somebody is killed."""

from __future__ import annotations

import importlib.metadata
import json
import shlex
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.prometheus import found

from .machine import Machine, local_tree
from .storms import LIMITED_GUARD, STORMS, UNIT, add_policy

EXPORTER = "oomguard-exporter"
CONFIG = """\
global: { scrape_interval: 1s, evaluation_interval: 1s }
rule_files: [/usr/local/share/doc/oomguard/etc/prometheus/oomguard.rules.yml]
scrape_configs:
  - job_name: oomguard
    static_configs: [{ targets: ["127.0.0.1:10066"] }]
"""
API = "http://127.0.0.1:9090/api/v1/query"
ASK = """
import sys, urllib.parse, urllib.request
print(urllib.request.urlopen(sys.argv[1] + "?" + urllib.parse.urlencode({"query": sys.argv[2]})).read().decode())
"""


def put_prometheus(vm: Machine) -> None:
    """The server, and the library that the exporter needs: the guest's image has neither."""
    server = Path(found("prometheus") or "")
    vm.put_tree({"prometheus": (0o755, server.read_bytes())}, "/opt")
    library = importlib.metadata.distribution("prometheus-client").locate_file("prometheus_client")
    packages = vm.check("echo /usr/local/lib/oomguard/venv/lib/python3*/site-packages").strip()
    vm.put_tree(local_tree(Path(str(library))), f"{packages}/prometheus_client")
    vm.put("/opt/prometheus.yml", CONFIG)
    options = "--config.file=/opt/prometheus.yml --storage.tsdb.path=/opt/data --web.listen-address=127.0.0.1:9090"
    vm.check(f"systemd-run -q --unit=prometheus /opt/prometheus {options} --log.level=warn")


def ask(vm: Machine, expression: str) -> dict[str, float]:
    """Values by their labels, as text."""
    done = vm.run(f"python3 -I -S -c {shlex.quote(ASK)} {API} {shlex.quote(expression)}")
    if done.rc != 0:
        return {}
    samples: list[dict[str, Any]] = json.loads(done.out)["data"]["result"]
    return {",".join(f"{k}={v}" for k, v in it["metric"].items()): float(it["value"][1]) for it in samples}


def wait_for(vm: Machine, expression: str, timeout_s: float = 90) -> dict[str, float]:
    deadline = time.monotonic() + timeout_s
    while not (samples := ask(vm, expression)):
        assert time.monotonic() < deadline, f"{expression}\n" + vm.run(f"journalctl -qu {EXPORTER} -u prometheus").out
        vm.pause(0.5)
    return samples


@pytest.mark.skipif(found("prometheus") is None, reason="prometheus is not unpacked (tools/prepare.sh vm)")
def test_prometheus_sees_a_kill_and_an_end(installed_vm: Machine) -> None:
    vm = installed_vm
    add_policy(vm, "limited", LIMITED_GUARD)
    vm.check(f"systemctl enable --now {EXPORTER}.socket")
    assert vm.run(f"systemctl is-active {EXPORTER}.service").out.strip() == "inactive", "nobody has asked yet"
    put_prometheus(vm)
    wait_for(vm, 'oomguard_up == 1 and on () oomguard_incidents_readable == 1 and on () up{job="oomguard"} == 1')
    assert len(wait_for(vm, "oomguard_policy_distance_bytes > 0")) >= 2

    pid = vm.check(f"systemctl show -P MainPID {EXPORTER}.service").strip()
    rights = vm.check(f"grep -E '^(Uid|CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/{pid}/status")
    told = {line.split(":")[0]: line.split(":")[1].split() for line in rights.splitlines()}
    assert (told["CapEff"], told["CapBnd"]) == (["0" * 16], ["0" * 16])
    assert (told["NoNewPrivs"], told["Seccomp"]) == (["1"], ["2"])
    assert 61184 <= int(told["Uid"][1]) <= 65519, "a user that exists for as long as the service runs"
    here, there = vm.check(f"readlink /proc/1/ns/net /proc/{pid}/ns/net").split()
    assert here != there, "it has no network but what it is handed"
    vm.check(f"systemd-analyze security --threshold=15 {EXPORTER}.service")

    faults = ask(vm, "sum by (kind) (oomguard_page_faults_total)")
    STORMS["limited-50"].culprit.start(vm)
    wait_for(vm, 'oomguard_policy_kills_total{policy="limited"} > 0')
    wait_for(vm, 'oomguard_policy_victims_total{policy="limited",outcome="gone"} > 0')
    (latency,) = wait_for(vm, 'oomguard_kill_latency_seconds_sum{policy="limited"} > 0').values()
    assert latency < 1
    wait_for(vm, 'ALERTS{alertname="OomguardKilled",policy="limited",alertstate="firing"}')
    assert ask(vm, "oomguard_kernel_oom_kills_total == 0")
    assert ask(vm, "sum by (kind) (oomguard_page_faults_total)")["kind=major"] == faults["kind=major"] == 0
    assert int(vm.check(f"sed -n 's/^RssAnon: *//p' /proc/{pid}/status").split()[0]) < 40 << 10
    print(vm.check("oomguard exporter --once"))

    vm.check(f"systemctl stop {UNIT}")
    wait_for(vm, "oomguard_up == 0")
    assert vm.run(f"journalctl -qp warning -u {EXPORTER}").out == ""
