"""The exporter as a service without rights, and a real Prometheus that scrapes it while somebody is killed."""

from __future__ import annotations

import importlib.metadata
import json
import shlex
from pathlib import Path

import pytest

from tests.cli.prometheus import found

from .machine import Machine, local_tree
from .storms import LIMITED_GUARD, STORMS, UNIT, add_policy, journal

EXPORTER = "oomguard-exporter"
CONFIG = """\
global: { scrape_interval: 1s, evaluation_interval: 1s }
rule_files: [/usr/local/share/doc/oomguard/etc/prometheus/oomguard.rules.yml]
scrape_configs:
  - job_name: oomguard
    static_configs: [{ targets: ["127.0.0.1:10066"] }]
"""
# One Python for many questions: its start is most of what one costs there. Each is asked until it has an answer: a
# scrape may be late, and Prometheus not up yet.
ASK = """\
import json, sys, time, urllib.parse, urllib.request
within_s, *asked = sys.argv[1:]
until, told = time.monotonic() + float(within_s), []
while len(told) < len(asked):
    query = urllib.parse.urlencode({"query": asked[len(told)]})
    try:
        with urllib.request.urlopen("http://127.0.0.1:9090/api/v1/query?" + query, timeout=20) as answer:
            samples = json.load(answer)["data"]["result"]
    except OSError as error:
        samples = []
    if samples:
        told.append({",".join(f"{k}={v}" for k, v in it["metric"].items()): float(it["value"][1]) for it in samples})
    elif time.monotonic() > until:
        sys.exit("never: " + asked[len(told)])
    else:
        time.sleep(0.2)
print(json.dumps(told))
"""


def put_prometheus(vm: Machine) -> None:
    """The server, and the library that the exporter needs: the guest's image has neither."""
    library = importlib.metadata.distribution("prometheus-client").locate_file("prometheus_client")
    packages = vm.check("echo /usr/local/lib/oomguard/venv/lib/python3*/site-packages").strip()
    vm.put_tree(local_tree(Path(str(library))), f"{packages}/prometheus_client")
    server = Path(found("prometheus") or "").read_bytes()
    files = {"prometheus": server, "prometheus.yml": CONFIG.encode(), "ask.py": ASK.encode()}
    vm.put_tree({name: (0o755, content) for name, content in files.items()}, "/opt")


def start_prometheus(vm: Machine) -> None:
    options = "--config.file=/opt/prometheus.yml --storage.tsdb.path=/opt/data --web.listen-address=127.0.0.1:9090"
    vm.check(f"systemd-run -q --unit=prometheus /opt/prometheus {options} --log.level=warn")


def answers(vm: Machine, *asked: str, within_s: float = 90) -> list[dict[str, float]]:
    """What Prometheus says to each expression, values by their labels as text, once it has an answer to it."""
    done = vm.run(
        f"python3 -I -S /opt/ask.py {within_s} {' '.join(shlex.quote(it) for it in asked)}", timeout=within_s + 30
    )
    assert done.rc == 0, "\n".join((done.err, journal(vm, EXPORTER), journal(vm, "prometheus")))
    told: list[dict[str, float]] = json.loads(done.out)
    return told


def has_next_to_no_rights(vm: Machine, pid: str) -> None:
    lines = vm.check(f"grep -E '^(Uid|CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/{pid}/status").splitlines()
    told = {name: values.split() for name, _, values in (line.partition(":") for line in lines)}
    assert (told["CapEff"], told["CapBnd"]) == (["0" * 16], ["0" * 16])
    assert (told["NoNewPrivs"], told["Seccomp"]) == (["1"], ["2"])
    assert 61184 <= int(told["Uid"][1]) <= 65519, "a user that exists for as long as the service runs"
    here, there = vm.check(f"readlink /proc/1/ns/net /proc/{pid}/ns/net").split()
    assert here != there, "it has no network but what it is handed"


@pytest.mark.skipif(found("prometheus") is None, reason="prometheus is not unpacked (tools/prepare.sh vm)")
def test_prometheus_sees_a_kill_and_an_end(installed_vm: Machine) -> None:
    vm = installed_vm
    put_prometheus(vm)
    vm.check(f"systemctl enable --now {EXPORTER}.socket")
    assert vm.run(f"systemctl is-active {EXPORTER}.service").out.strip() == "inactive", "nobody has asked yet"
    start_prometheus(vm)
    add_policy(vm, "limited", LIMITED_GUARD)
    *_, distances, _, _ = answers(
        vm,
        'oomguard_up == 1 and on () oomguard_incidents_readable == 1 and on () up{job="oomguard"} == 1',
        'oomguard_policy_phase{policy="limited",phase="calm"} == 1',
        "oomguard_policy_distance_bytes > 0",
        "sum (oomguard_policy_kills_total) == 0 and sum (oomguard_policy_victims_total) == 0",
        'oomguard_page_faults_total{kind="major"} == 0',
    )
    assert len(distances) == 2, "soft and hard of the machine; nobody lives under the other policy yet"
    pid = vm.check(f"systemctl show -P MainPID {EXPORTER}.service").strip()
    has_next_to_no_rights(vm, pid)

    STORMS["limited-50"].culprit.start(vm)
    *_, latency, _, _ = answers(
        vm,
        'oomguard_policy_kills_total{policy="limited"} == 1',
        'oomguard_policy_victims_total{policy="limited",outcome="gone"} == 1',
        'ALERTS{alertname="OomguardKilled",policy="limited",alertstate="firing"}',
        'oomguard_kill_latency_seconds_sum{policy="limited"} > 0',
        "oomguard_kernel_oom_kills_total == 0",
        'oomguard_page_faults_total{kind="major"} == 0',
    )
    assert 0 < next(iter(latency.values())) < 1
    assert int(vm.check(f"sed -n 's/^RssAnon: *//p' /proc/{pid}/status").split()[0]) < 40 << 10

    vm.check(f"systemctl stop {UNIT}")
    answers(vm, "oomguard_up == 0")
    assert vm.check(f"systemctl show -P MainPID {EXPORTER}.service").strip() == pid, "it has outlived the daemon"
    assert vm.run(f"journalctl -qp warning -u {EXPORTER}").out == ""
