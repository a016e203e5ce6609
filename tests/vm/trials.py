"""The experiments that are no storms: a healthy service at its limit, the death of the daemon, a long engagement."""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import dataclass
from typing import Any

from .machine import PYTHON, Machine
from .storms import LIMITED_GUARD, UNIT, Service, add_policy

READER = Service("limited", "reader.py --seconds 600", ("MemoryMax=256M",))
NEW_CGROUP = {"memory.high": "max", "cgroup.freeze": "0"}  # its limits are its own

CGROUPS = "/sys/fs/cgroup"

# -- a healthy service at its limit


@dataclass(frozen=True, slots=True)
class ReaderResult:
    with_us_mb_s: tuple[float, ...]  # per 200 MB of the file
    without_us_mb_s: tuple[float, ...]
    ratio: float  # of the medians: with us / without us
    daemon_cpu_percent: float  # of one CPU, while the reader read
    scores: tuple[int, ...]  # every oom_score_adj that the reader found itself to have
    alive: bool  # the same process from first to last
    events: dict[str, int]


def read_with_and_without(vm: Machine, rounds: int, seconds: float) -> ReaderResult:
    """The same reader, by turns with the daemon and without it, so that a slow minute of the host hits both."""
    add_policy(vm, "limited", LIMITED_GUARD)
    READER.start(vm)
    pid = READER.pid(vm)
    time.sleep(2)  # until the service is at its limit
    passes: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    cpu_us, watched_s = 0, 0.0
    for turn in range(2 * rounds):
        ours = turn % 2 == 0
        vm.check(f"systemctl {'start' if ours else 'stop'} {UNIT}", timeout=60)
        time.sleep(2)  # the daemon's start is not the reader's burden
        known, before, started = len(log(vm)), cpu_usage_us(vm) if ours else 0, time.monotonic()
        time.sleep(seconds)
        if ours:
            cpu_us += cpu_usage_us(vm) - before
            watched_s += time.monotonic() - started
        # The stretch that was being read when we came began under the other regime.
        passes[ours] += log(vm)[known + 1 :]
    with_us, without_us = ([entry["mb_per_s"] for entry in passes[ours]] for ours in (True, False))
    result = ReaderResult(
        with_us_mb_s=tuple(round(rate, 1) for rate in with_us),
        without_us_mb_s=tuple(round(rate, 1) for rate in without_us),
        ratio=round(statistics.median(with_us) / statistics.median(without_us), 3) if with_us and without_us else 0,
        daemon_cpu_percent=round(cpu_us / 1e4 / watched_s, 2),
        scores=tuple(sorted({score for entry in log(vm) for score in entry["scores"]})),
        alive=READER.pid(vm) == pid,
        events=memory_events(vm, READER),
    )
    READER.stop(vm)
    return result


def log(vm: Machine) -> list[dict[str, Any]]:
    return [json.loads(line) for line in vm.get("/run/probe/reader.jsonl").decode().splitlines()]


def cpu_usage_us(vm: Machine) -> int:
    """CPU time of the daemon with all its workers; the cgroup counts those that have ended, too."""
    return int(vm.check(f"sed -n 's/^usage_usec //p' {CGROUPS}$(systemctl show -P ControlGroup {UNIT})/cpu.stat"))


def memory_events(vm: Machine, service: Service) -> dict[str, int]:
    lines = vm.check(f"cat /sys/fs/cgroup/{service.cgroup}/memory.events").splitlines()
    return {key: int(value) for key, value in (line.split() for line in lines)}


# -- the death of the daemon


@dataclass(frozen=True, slots=True)
class CrashPlan:
    """SIGKILL, so long after a leak has begun that stops between the soft and the hard watermark."""

    limited: bool  # a service under a limit with a tripwire, or the whole machine
    after_s: float | None  # None: as soon as the guard is armed
    whole_service: bool  # the workers too, or only the core
    leak_goes_first: bool  # before the daemon is back: it comes up in a machine that is calm


@dataclass(frozen=True, slots=True)
class CrashResult:
    plan: CrashPlan
    leases_at_death: tuple[str, ...]  # what was changed at the moment of the SIGKILL
    restarted_after_s: float | None
    clean_after_s: float | None  # since the leak was stopped; None: never
    left_behind: tuple[str, ...]


def crash(vm: Machine, plan: CrashPlan, patience_s: float = 45) -> CrashResult:
    if plan.limited:
        add_policy(vm, "limited", LIMITED_GUARD)
    before = marks(vm)
    service = hovering_leak(vm, plan.limited)
    service.start(vm)
    held = moment(vm, before, plan.after_s, patience_s)
    first = daemon_pid(vm)
    who = "all" if plan.whole_service else "main"
    stop = f"; systemctl kill -s KILL {service.name}.service" if plan.leak_goes_first else ""
    killed_at = time.monotonic()
    vm.check(f"systemctl kill --kill-who={who} -s KILL {UNIT}{stop}")
    restarted = wait_restarted(vm, first, patience_s)
    restarted_after = round(time.monotonic() - killed_at, 2) if restarted else None
    if not plan.leak_goes_first:
        time.sleep(2)  # it may arm again, and must let go again
    service.stop(vm)
    stopped_at = time.monotonic()
    left = differences(before, marks(vm))
    while left and time.monotonic() < stopped_at + patience_s:
        time.sleep(0.5)
        left = differences(before, marks(vm))
    clean_after = None if left else round(time.monotonic() - stopped_at, 2)
    return CrashResult(plan, held, restarted_after, clean_after, left)


def moment(vm: Machine, before: dict[str, object], after_s: float | None, patience_s: float) -> tuple[str, ...]:
    """Waits for the moment of the SIGKILL; what is changed then."""
    if after_s is not None:
        time.sleep(after_s)
        return differences(before, marks(vm))
    deadline = time.monotonic() + patience_s
    while not armed(held := differences(before, marks(vm))) and time.monotonic() < deadline:
        time.sleep(0.2)
    return held


def armed(changed: tuple[str, ...]) -> bool:
    """Whether somebody is insured: a tripwire alone is there in calm, too."""
    return any("oom_score_adj" in change for change in changed)


# -- a long engagement


@dataclass(frozen=True, slots=True)
class HoverResult:
    """Of a leak that stops between the watermarks and stays there: the daemon is armed all the time."""

    turns: int
    armed_turns: int  # of these, while it said that it was armed
    seconds: float
    minor_faults: int
    major_faults: int
    kills: int
    left_behind: tuple[str, ...]


def hover(vm: Machine, turns: int, most_s: float) -> HoverResult:
    before = marks(vm)
    service = hovering_leak(vm, limited=False)
    service.start(vm)
    started = time.monotonic()
    first, last, armed = turns_of(vm)[0], 0, 0
    while armed < turns and time.monotonic() < started + most_s:
        time.sleep(5)
        now, phase = turns_of(vm)
        armed += now - (last or first) if phase == "armed" else 0
        last = now
    service.stop(vm)
    time.sleep(5)
    found = json.loads(vm.check("oomguard status --json"))
    return HoverResult(
        turns=last - first,
        armed_turns=armed,
        seconds=round(time.monotonic() - started, 1),
        minor_faults=found["memory"]["minor_faults"],
        major_faults=found["memory"]["major_faults"],
        kills=found["counters"]["kills"],
        left_behind=differences(before, marks(vm)),
    )


def turns_of(vm: Machine) -> tuple[int, str]:
    """How many the daemon has made, and its phase on the whole machine."""
    found = json.loads(vm.check("oomguard status --json", timeout=60))
    return found["counters"]["turns"], next(policy["phase"] for policy in found["policies"] if policy["cgroup"] == "/")


def hovering_leak(vm: Machine, limited: bool) -> Service:
    """One that grows past the soft watermark and stays below the hard one, so that the engagement lasts."""
    if limited:
        return Service("limited", "hog.py --rate 100 --size 212", ("MemoryMax=256M",))
    available_mib = int(vm.check("sed -n 's/^MemAvailable: *//p' /proc/meminfo").split()[0]) // 1024
    total_mib = int(vm.check("sed -n 's/^MemTotal: *//p' /proc/meminfo").split()[0]) // 1024
    # Between the shipped policy's watermarks, less what Python takes for itself.
    return Service("hog", f"hog.py --rate 200 --size {available_mib - round(0.085 * total_mib) - 8}")


def marks(vm: Machine) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(vm.check(f"{PYTHON}marks.py"))
    return found


def differences(before: dict[str, Any], after: dict[str, Any]) -> tuple[str, ...]:
    """What is not as it was, outside the daemon's own cgroup; of what is new, what is not as it usually is."""
    changed = []
    for path, files in after["cgroups"].items():
        then = before["cgroups"].get(path, NEW_CGROUP)
        for name, value in files.items():
            if UNIT not in path and value != then.get(name, value):
                changed.append(f"{path}/{name}: {then[name]} -> {value}")
    for pid, (comm, born, score, cgroup) in after["processes"].items():
        _, then_born, then_score, _ = before["processes"].get(pid, (comm, None, 0, cgroup))
        if UNIT in cgroup or (then_born != born and not cgroup.startswith("/work.slice")):
            continue
        usual = then_score if then_born == born else 0
        if score != usual:
            changed.append(f"{comm} ({pid}) oom_score_adj: {usual} -> {score}")
    return tuple(changed)


def daemon_pid(vm: Machine) -> int:
    return int(vm.check(f"systemctl show -P MainPID {UNIT}"))


def wait_restarted(vm: Machine, old: int, timeout: float) -> bool:
    new = f'p=$(systemctl show -P MainPID {UNIT}); [ "$p" != 0 ] && [ "$p" != {old} ]'
    return vm.wait_for(f"{new} && systemctl is-active -q {UNIT}", timeout)
