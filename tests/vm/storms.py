"""Storms as data, and how a machine is put through one.

A storm is a service of work.slice that misbehaves, beside bystanders that do not. The witness (guest/watcher.py)
sees every signal, exit and OOM kill through the kernel's own tracepoints; nothing here is taken from the daemon's
word, except the incidents, which are kept beside the facts so that a test can compare them.
"""

from __future__ import annotations

import json
import time
import tomllib
from array import array
from dataclasses import dataclass
from typing import Any

from .evidence import Evidence, StormResult, Thresholds, Written
from .machine import PYTHON, Machine
from .qemu import GuestError

MIB = 1 << 20
UNIT = "oomguard.service"


@dataclass(frozen=True, slots=True)
class Service:
    """A workload: a transient service of work.slice that runs one of the guest's programs."""

    name: str
    command: str
    properties: tuple[str, ...] = ()

    @property
    def cgroup(self) -> str:
        return f"work.slice/{self.name}.service"

    def start(self, vm: Machine) -> None:
        # OOMPolicy=continue: systemd must not finish off what the kernel's OOM killer, or we, have only wounded.
        properties = " ".join(f"-p {entry}" for entry in ("OOMPolicy=continue", "LimitCORE=0", *self.properties))
        vm.check(
            f"systemd-run -q --collect --unit={self.name} --slice=work.slice {properties} {PYTHON}{self.command}",
            timeout=90,
        )

    def stop(self, vm: Machine) -> None:
        vm.run(f"systemctl kill -s KILL {self.name}.service; systemctl stop {self.name}.service", timeout=60)

    def pid(self, vm: Machine) -> int:
        return int(vm.check(f"systemctl show -P MainPID {self.name}.service"))


@dataclass(frozen=True, slots=True)
class Storm:
    name: str
    title: str
    culprit: Service
    bystanders: tuple[Service, ...] = ()
    memory: str = "1G"
    before: str = ""  # shell, before anything else starts
    policy: str = ""  # for /etc/oomguard/conf.d: what oomguard needs to know beside the shipped policy
    limit_bytes: int | None = None  # the culprit's memory.max: then that is the line, not the machine's memory
    settle_s: float = 1.5  # for the bystanders to be up
    settled: str = ""  # shell that succeeds when they are, should that take long
    timeout_s: float = 30
    linger_s: float = 1
    track: bool = False  # many processes that come and go: note them while it lasts

    def crossed(self, row: list[int], total_kb: int) -> bool:
        """The reference line: 10 % of the machine's memory available, or 90 % of the limit used."""
        if self.limit_bytes:
            return row[6] >= 0.90 * self.limit_bytes
        return row[1] < 0.10 * total_kb


CANARY = Service("canary", "canary.py")
INNOCENT = Service("innocent", "hog.py --size 150 --log /run/probe/innocent.ring")
LIMIT = 256 * MIB
LIMITED_GUARD = """\
[policy.limited]
cgroup = "/work.slice/limited.service"
tripwire = true
[policy.limited.soft]
when = [{ memory_above = "80%" }]
do = ["snapshot", "notify", "nominate"]
[policy.limited.hard]
when = [{ memory_above = "90%" }]
do = ["kill"]
"""
ZRAM = (
    "modprobe zram num_devices=1 && echo lz4 > /sys/block/zram0/comp_algorithm && echo 512M > /sys/block/zram0/disksize"
    " && mkswap -q /dev/zram0 && swapon -p 100 /dev/zram0"
)
SWAP_FILE = "fallocate -l 512M /swapfile && chmod 600 /swapfile && mkswap -q /swapfile && swapon /swapfile"


def leak(name: str, title: str, arguments: str, **more: Any) -> Storm:
    return Storm(name, title, Service("hog", f"hog.py {arguments}"), **more)


def limited(name: str, title: str, arguments: str, **more: Any) -> Storm:
    culprit = Service("limited", f"hog.py {arguments}", ("MemoryMax=256M",))
    return Storm(name, title, culprit, policy=LIMITED_GUARD, limit_bytes=LIMIT, **more)


CGROUPS = Service("cgroups", "cgroups.py 1000", ("TasksMax=infinity",))
CGROUPS_GUARD = """\
[policy.thousand]
cgroup = "/work.slice/idle-*"
tripwire = true
[policy.thousand.soft]
when = [{ memory_above = "80%" }, { stall_above = { some = "150ms", within = "1s" } }]
do = ["snapshot", "notify", "nominate"]
[policy.thousand.hard]
when = [{ memory_above = "90%" }]
do = ["kill"]
"""


def crowded(count: int) -> Storm:
    """A leak beside so many processes of next to nothing."""
    memory = "4G" if count > 1000 else "2G"  # each of them takes half a MiB, kernel memory included
    each = min(count, 100)  # of many services, none of which is larger than the leak
    crowd = tuple(Service(f"crowd-{n}", f"many.py --n {each} --mb 0.0625 --gap 1") for n in range(count // each))
    tasks = "/sys/fs/cgroup/work.slice/crowd-*.service/pids.current"
    return leak(
        f"processes-{count}",
        f"leak as fast as the machine goes beside {count:,} other processes, {memory[:-1]} GiB, no swap",
        "--size 6144",
        memory=memory,
        bystanders=crowd,
        settled=f"awk '{{ all += $1 }} END {{ exit all <= {count} }}' {tasks}",
        settle_s=5,
    )


THRASH = "--burst 600 --rate 40 --size 3072 --compress 50 --thrash 2"

STORMS: dict[str, Storm] = {
    storm.name: storm
    for storm in (
        leak("leak-100", "leak of 100 MB/s, 1 GiB, no swap, no limit", "--rate 100 --size 3072"),
        leak("leak-flat", "leak as fast as the machine goes, 1 GiB, no swap, no limit", "--size 3072", timeout_s=20),
        leak(
            "leak-zram",
            "600 MB at once, then a leak of 40 MB/s that reads twice as much at random, 1 GiB, 512 MiB of zram",
            THRASH,
            before=ZRAM,
            timeout_s=90,
        ),
        leak(
            "leak-swapfile",
            "600 MB at once, then a leak of 40 MB/s that reads twice as much at random, 1 GiB, 512 MiB of swap file",
            THRASH,
            before=SWAP_FILE,
            timeout_s=90,
        ),
        limited("limited-20", "leak of 20 MB/s under MemoryMax=256M", "--rate 20 --size 1024", timeout_s=40),
        limited(
            "limited-burst",
            "180 MB at once, then a leak of 10 MB/s, under MemoryMax=256M",
            "--rate 10 --burst 180 --size 1024",
        ),
        limited("limited-50", "leak of 50 MB/s under MemoryMax=256M", "--rate 50 --size 1024"),
        limited("limited-200", "leak of 200 MB/s under MemoryMax=256M", "--rate 200 --size 1024"),
        limited("limited-flat", "leak as fast as the machine goes under MemoryMax=256M", "--size 1024"),
        *(crowded(count) for count in (50, 5000)),
        Storm(
            "cgroups",
            "leak of 50 MB/s under MemoryMax=256M, among 1,000 other guarded cgroups, 2 GiB",
            Service("limited", "hog.py --rate 50 --size 1024", ("MemoryMax=256M",)),
            bystanders=(CGROUPS,),
            memory="2G",
            policy=LIMITED_GUARD + CGROUPS_GUARD,
            limit_bytes=LIMIT,
            settled="test -e /run/probe/cgroups.ready",
            settle_s=5,
        ),
        Storm(
            "workers",
            "250 processes of 4 MB in one service, an innocent process of 150 MB in another, 1 GiB, no swap",
            Service("workers", "many.py --n 250 --mb 4 --gap 20"),
            bystanders=(INNOCENT,),
            settle_s=3,
            track=True,
        ),
    )
}


def run_storm(vm: Machine, storm: Storm, unit: str | None = UNIT, acts_at: Thresholds | None = None) -> StormResult:
    """Puts the machine through the storm. `unit` is the daemon on duty, already running (None: nobody)."""
    started = time.monotonic()
    prepare(vm, storm, unit)
    vm.throttle_disk()
    track = "--track" if storm.track else ""
    vm.spawn(
        f"{PYTHON}watcher.py --cgroup {storm.culprit.cgroup} --timeout {storm.timeout_s} "
        f"--linger {storm.linger_s} {track}"
    )
    if not vm.wait_for("test -e /run/probe/ready", 30):
        raise GuestError("the witness did not start")
    storm.culprit.start(vm)
    if not vm.wait_for("test -e /run/probe/watch.json", storm.timeout_s + 90, every=0.5):
        raise GuestError("the witness did not come back")
    evidence = Evidence(storm, json.loads(vm.get("/run/probe/watch.json")), acts_at)
    storm.culprit.stop(vm)  # where nobody ended it, nothing could be asked of a machine without memory
    evidence.canary = ring(vm, "canary.ring")
    evidence.growth = ring(vm, "hog.ring")
    told = incidents(vm) if unit == UNIT else ()
    return evidence.result(
        written=written(vm) if told else None,
        faults=core_faults(vm) if unit == UNIT else {},
        incidents=told,
        journal=journal(vm, unit) if unit else "",
        kernel_log=vm.run("dmesg | grep -E 'Killed process|oom-kill:|Out of memory' | tail -20").out,
        wall_s=round(time.monotonic() - started, 1),
    )


def prepare(vm: Machine, storm: Storm, unit: str | None) -> None:
    if storm.before:
        vm.check(storm.before)
    if unit == UNIT and storm.policy:
        add_policy(vm, storm.name, storm.policy)
    for service in (CANARY, *storm.bystanders):
        service.start(vm)
    if storm.settled and not vm.wait_for(storm.settled, 240, every=1):
        raise GuestError(f"the bystanders of {storm.name} are not up")
    vm.pause(storm.settle_s)


def add_policy(vm: Machine, name: str, text: str) -> None:
    """Drops a file into conf.d and has the daemon take it: it does so by itself, some time after the signal."""
    vm.put(f"/etc/oomguard/conf.d/50-{name}.toml", text)
    vm.check("systemctl reload oomguard.service", timeout=60)
    wanted = set(tomllib.loads(text)["policy"])
    for _ in range(60):
        if wanted <= {policy["name"] for policy in status(vm)["policies"]}:
            return
        vm.pause(0.5)
    raise GuestError(f"policy {name} was not taken:\n{journal(vm, UNIT, 20)}")


def status(vm: Machine) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(vm.check("oomguard status --json"))
    return found


def observe(vm: Machine) -> None:
    """As an administrator would who wants to see first: the shipped unit, with --observe."""
    vm.check(
        "mkdir -p /etc/systemd/system/oomguard.service.d && command=$(systemctl cat oomguard.service "
        "| sed -n 's/^ExecStart=//p' | tail -1) && printf '[Service]\\nExecStart=\\nExecStart=%s --observe\\n' "
        '"$command" > /etc/systemd/system/oomguard.service.d/observe.conf && systemctl daemon-reload '
        "&& systemctl restart oomguard.service",
        timeout=90,
    )


def incidents(vm: Machine, kind: str = "hard", timeout: float = 20) -> tuple[dict[str, Any], ...]:
    """The incidents as `oomguard incidents list` tells them, newest first; waits for one of that kind."""
    for left in range(round(timeout), -1, -1):
        found = json.loads(vm.check("oomguard incidents list --no-others --json"))
        if not left or any(incident["kind"] == kind for incident in found):
            break
        vm.pause(1)
    return tuple(found)


WRITTEN = """\
import calendar, json, os, time
ahead = time.clock_gettime_ns(time.CLOCK_REALTIME) - time.monotonic_ns()
files = [f"{where}/{name}" for where, _, names in os.walk("/var/lib/oomguard/incidents") for name in names]
def written(path):
    try:
        return os.stat(path).st_mtime_ns
    except FileNotFoundError:
        return 0
hard = []
for path in files:
    if path.endswith("/incident.json"):
        incident = json.load(open(path))
        second, _, ms = incident["time"].rstrip("Z").partition(".")
        opened_ms = calendar.timegm(time.strptime(second, "%Y-%m-%dT%H:%M:%S")) * 1000 + int(ms) - ahead / 1e6
        taken = [row for row in incident["evidence"].get("taken", ()) if row["stage"] == "hard"]
        hard += [opened_ms + row["at_ms"] + row["took_ms"] for row in taken]
last = max(map(written, files)) - ahead
print(json.dumps({"last": last, "hard": round(max(hard) * 1e6) if hard else None}))
"""


def written(vm: Machine) -> Written:
    """How far the incidents are on the disk."""
    return Written(**json.loads(vm.check(f"/usr/bin/python3 -I -S -c '{WRITTEN}'", timeout=60)))


def core_faults(vm: Machine) -> dict[str, int]:
    memory = status(vm)["memory"]
    return {kind: memory[f"{kind}_faults"] for kind in ("minor", "major")}


def journal(vm: Machine, unit: str, lines: int = 200) -> str:
    return vm.run(f"journalctl -q --no-pager -o short-monotonic -u {unit} | tail -{lines}").out


def ring(vm: Machine, name: str) -> list[list[int]]:
    """Pairs of int64 as guest/probelib.py's Ring wrote them; none when nobody wrote."""
    try:
        cells = array("q", vm.get(f"/run/probe/{name}"))
    except FileNotFoundError:
        return []
    return [cells[1 + 2 * i : 3 + 2 * i].tolist() for i in range(cells[0])]
