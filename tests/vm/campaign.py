"""`make storms`: the counted campaigns, and docs/reliability.md written from them.

    python -m tests.vm.campaign [--only leak-100,crash] [--counts 20] [--report]

Every trial starts from a freshly restored machine and is one line in tests/vm/results/<campaign>.jsonl. A campaign
that was interrupted goes on where it was; trials of another state of the project are not counted. The campaigns
take turns, so that an interrupted run has a little of each.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from .cuts import CutPlan, cut_power
from .machine import CACHE, HERE, ROOT, Machine, git, tree, tree_key
from .qemu import GuestError
from .storms import STORMS, observe, run_storm
from .trials import CrashPlan, crash, hover, read_with_and_without
from .verdicts import (
    faults_of_guarding,
    faults_of_hovering,
    faults_of_observing,
    faults_of_reading,
    faults_of_the_crash,
    faults_of_the_cut,
)

RESULTS = HERE / "results"
REPORT = ROOT / "docs" / "reliability.md"

Outcome = tuple[dict[str, Any], tuple[str, ...]]  # what was measured, and what is wrong with it
Trial = Callable[[Machine, int], Outcome | list[Outcome]]


@dataclasses.dataclass(frozen=True, slots=True)
class Campaign:
    name: str
    claim: str
    count: int
    trial: Trial
    figures: tuple[tuple[str, str], ...]  # what is told of it: (field of the record, what to call it)


def guarding(name: str) -> Trial:
    def trial(vm: Machine, _: int) -> tuple[dict[str, Any], tuple[str, ...]]:
        result = run_storm(vm, STORMS[name])
        return dataclasses.asdict(result), faults_of_guarding(result)

    return trial


def observing(name: str) -> Trial:
    def trial(vm: Machine, _: int) -> tuple[dict[str, Any], tuple[str, ...]]:
        observe(vm)
        result = run_storm(vm, STORMS[name])
        return dataclasses.asdict(result), faults_of_observing(result)

    return trial


def reading(vm: Machine, _: int) -> tuple[dict[str, Any], tuple[str, ...]]:
    result = read_with_and_without(vm, rounds=2, seconds=60)
    return dataclasses.asdict(result), faults_of_reading(result, least_ratio=0.95, most_cpu_percent=2)


def hovering(vm: Machine, _: int) -> tuple[dict[str, Any], tuple[str, ...]]:
    result = hover(vm, turns=10_000, most_s=900)
    return dataclasses.asdict(result), faults_of_hovering(result, least_turns=10_000)


def crashing(vm: Machine, number: int) -> tuple[dict[str, Any], tuple[str, ...]]:
    plan = CrashPlan(
        limited=number % 2 == 1,
        after_s=round(random.uniform(1.5, 8), 2),
        whole_service=number // 2 % 2 == 1,
        leak_goes_first=number // 4 % 2 == 1,
    )
    result = crash(vm, plan)
    return dataclasses.asdict(result), faults_of_the_crash(result)


def cutting(vm: Machine, number: int) -> list[Outcome]:
    """Some cuts of one engagement, in its first six seconds or in its first one; the machine boots after the last."""
    turn = number // CUTS
    span_s = (6, 1)[turn // 4 % 2]
    moments_s = tuple(sorted(round(span_s * random.random(), 2) for _ in range(CUTS)))
    plan = CutPlan(limited=turn % 2 == 1, hovering=turn // 2 % 2 == 1, moments_s=moments_s)
    return [(dataclasses.asdict(result), faults_of_the_cut(result)) for result in cut_power(vm, plan)]


CUTS = 5
TIMES = (
    ("signal_after_line_ms", "signal after the line, ms"),
    ("exit_after_line_ms", "end after the line, ms"),
    ("canary_max_gap_ms", "longest stall of the bystander, ms"),
)
READING = (("ratio", "throughput with / without us"), ("daemon_cpu_percent", "CPU of the daemon, % of one"))
CUTTING = (("back_after_s", "guarding again after the start or the boot, s"), ("turns", "turns of an incident"))
HOVERING = (("turns", "turns"), ("seconds", "in s"), ("minor_faults", "minor faults"), ("major_faults", "major"))
CRASHING = (("restarted_after_s", "up again after, s"), ("clean_after_s", "clean after the leak's end, s"))

CAMPAIGNS = (
    *(Campaign(name, STORMS[name].title, 20, guarding(name), TIMES) for name in ("leak-100", "leak-flat")),
    *(
        Campaign(name, STORMS[name].title, 20, guarding(name), TIMES)
        for name in ("limited-20", "limited-200", "limited-flat")
    ),
    Campaign("workers", STORMS["workers"].title, 10, guarding("workers"), TIMES),
    Campaign(
        "healthy",
        "a reader of a 1.2 GB file under MemoryMax=256M, two minutes with us and without",
        1,
        reading,
        READING,
    ),
    Campaign("hovering", "10,000 turns of an engagement: no page fault, nobody killed", 1, hovering, HOVERING),
    Campaign("crash", "SIGKILL of the daemon at a random moment of an engagement", 20, crashing, CRASHING),
    Campaign("cut", "no power at a random moment of an engagement, then the next start", 50, cutting, CUTTING),
    *(
        Campaign(f"observe-{name}", f"observe mode: {STORMS[name].title}", 2, observing(name), ())
        for name in ("leak-100", "limited-200", "workers")
    ),
)

# -- running


def run(campaign: Campaign, number: int, key: str) -> list[dict[str, Any]]:
    """One trial in a machine of its own; one that could not be carried out is a failed one."""
    started = time.monotonic()
    about: dict[str, Any] = {"campaign": campaign.name, "number": number, "tree": key, "at": utc()}
    try:
        with Machine() as vm:
            found = campaign.trial(vm, number)
        outcomes = found if isinstance(found, list) else [found]
    except (GuestError, OSError, ValueError, KeyError, AssertionError, statistics.StatisticsError) as error:
        outcomes = [({}, (f"{type(error).__name__}: {error}",))]
    about["wall_s"] = round(time.monotonic() - started, 1)
    records = [about | {"result": result, "faults": faults} for result, faults in outcomes]
    RESULTS.mkdir(exist_ok=True)
    with open(RESULTS / f"{campaign.name}.jsonl", "a") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    return records


def recorded(campaign: Campaign, key: str) -> list[dict[str, Any]]:
    path = RESULTS / f"{campaign.name}.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [record for record in map(json.loads, lines) if record["tree"] == key]


def utc() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def run_all(campaigns: list[Campaign], key: str, most: int | None) -> None:
    """By turns: one trial of each that is not complete, until all are."""
    wanted = {campaign.name: min(campaign.count, most or campaign.count) for campaign in campaigns}
    while open_ones := [c for c in campaigns if len(recorded(c, key)) < wanted[c.name]]:
        for campaign in open_ones:
            number = len(recorded(campaign, key))
            for record in run(campaign, number, key):
                number += 1
                verdict = "as claimed" if not record["faults"] else "FAILED: " + "; ".join(record["faults"])
                print(f"{campaign.name} {number}/{wanted[campaign.name]} {record['wall_s']} s {verdict}", flush=True)


# -- telling


def report(key: str, before: str) -> str:
    """``before``: the document so far. What was not counted of this state stays as it was counted of another."""
    parts = [HEAD.format(date=utc()[:10], versions=versions(), host=host())]
    parts.append("| what | as claimed | commit | figures: median (least..most) |\n|---|---|---|---|")
    faults = []
    for campaign in CAMPAIGNS:
        records = recorded(campaign, key)
        parts.append(row(campaign, records) if records else kept(before, f"| {campaign.claim} |", NOT_RUN))
        faults += [f"- {campaign.name}, {r['at']}: {failure(r)}" for r in records if r["faults"]]
        faults += [] if records else filter(None, [kept(before, f"- {campaign.name}, ", "")])
    parts.append("\n## What failed\n\n" + ("\n".join(faults) or "Nothing."))
    return "\n".join(parts) + "\n"


def failure(record: dict[str, Any]) -> str:
    told = "; ".join(record["faults"])
    return told if record["result"] else f"the trial could not be carried out: {told}"


NOT_RUN = "{} **not run** | | |"


def row(campaign: Campaign, records: list[dict[str, Any]]) -> str:
    good = [record for record in records if not record["faults"]]
    score = f"{len(good)} of {len(records)}"
    return f"| {campaign.claim} | **{score}** | {commit()} | {figures(campaign, records)} |"


def kept(before: str, beginning: str, otherwise: str) -> str:
    """The lines that begin so."""
    return "\n".join(line for line in before.splitlines() if line.startswith(beginning)) or otherwise.format(beginning)


def figures(campaign: Campaign, records: list[dict[str, Any]]) -> str:
    told = []
    for field, name in campaign.figures:
        found = [r["result"][field] for r in records if r["result"].get(field) is not None]
        values = [value for item in found for value in (item if isinstance(item, list | tuple) else [item])]
        if values:
            told.append(f"{name}: {statistics.median(values):g} ({min(values):g}..{max(values):g})")
    latencies = [latency for record in records if (latency := told_latency(record)) is not None]
    if latencies:
        low, middle, high = min(latencies), statistics.median(latencies), max(latencies)
        told.append(f"observation to signal, ms: {middle:g} ({low:g}..{high:g})")
    if campaign.name == "cut":
        told += parts_of([entry for record in records for entry in record["result"].get("listed", ())])
    return "; ".join(told)


def parts_of(incidents: list[dict[str, Any]]) -> list[str]:
    whole = sum(entry["complete"] for entry in incidents)
    return [f"{whole} whole incidents, {len(incidents) - whole} that say that they are the beginning of one"]


def told_latency(record: dict[str, Any]) -> float | None:
    incidents = record["result"].get("incidents") or ()
    hard = (entry for entry in incidents if entry["kind"] == "hard" and entry["mode"] == "enforce")
    return next((entry["latency_ms"] for entry in hard), None)


def commit() -> str:
    """What is in the machines."""
    if ref := os.environ.get("OOMGUARD_VM_REF"):
        return git("rev-parse", "--short", ref).decode().strip()
    changed = git("status", "--porcelain", "--", "oomguard", "etc", "systemd").strip()
    return git("rev-parse", "--short", "HEAD").decode().strip() + (" with uncommitted changes" if changed else "")


def versions() -> str:
    return ", ".join((CACHE / "versions.txt").read_text().splitlines())


def host() -> str:
    qemu = subprocess.run(["qemu-system-x86_64", "--version"], check=True, stdout=subprocess.PIPE, text=True)
    return qemu.stdout.splitlines()[0]


HEAD = """\
# Reliability: what was counted

Written by `make storms` on {date}; each line says of which commit its trials were. Do not edit.

Every trial is a virtual machine of its own (1 GiB, 2 CPUs, no swap), restored from the same saved moment: Debian with
oomguard installed by `make install`, enabled and running with the shipped policy; for a limited service also a guard
with a tripwire, soft at 80 %, hard at 90 %. Beside the culprit runs a bystander that touches 40 MB every 80 ms. A
witness (locked, real-time, 5 ms) records memory, pressure and, through the kernel's tracepoints, every signal and
every exit. *As claimed* means: oomguard killed the culprit, the kernel's oom_kill counters stayed 0, no other process
got a signal or vanished, and the incident that `oomguard incidents list` tells names the victim that really died. For
the crash trials: the service came back by itself, and every memory.high, cgroup.freeze and oom_score_adj of the
machine is what it was before. For the cuts: five moments of one engagement each, of which the last is
QEMU killed, and the machine boots from what had got to its disk; at the others QEMU is held and the disk, as it is at
that moment, copied: its file system is mended as at a boot, and a daemon started on the state directory in it. The
daemon came back, every incident can be read, is whole or says that it is not, is judged the same again, an engagement
that had gone on for three seconds has left one, and every other file in the state directory is as it was. *The line* is
10 % of memory available, or 90 % of the limit used; the shipped policy kills later than that on the whole machine, at
its own hard watermark. A negative time came before the line.

The CPU is emulated (no KVM), 5 to 13 times slower than a real one for computation, while timers run at real speed.

Versions: {versions}; {host}.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", help="names of campaigns, with commas")
    parser.add_argument("--most", type=int, help="trials of each campaign at most")
    parser.add_argument("--report", action="store_true", help="run nothing, only write docs/reliability.md")
    args = parser.parse_args()
    names = args.only.split(",") if args.only else [campaign.name for campaign in CAMPAIGNS]
    key = tree_key(tree())
    chosen = [campaign for campaign in CAMPAIGNS if campaign.name in names]
    if not args.report:
        run_all(chosen, key, args.most)
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(report(key, REPORT.read_text() if REPORT.exists() else ""))
    print(f"written: {REPORT.relative_to(ROOT)}")
    return int(any(record["faults"] for campaign in chosen for record in recorded(campaign, key)))


if __name__ == "__main__":
    sys.exit(main())
