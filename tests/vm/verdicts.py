"""What is wrong with the outcome of a storm: the claims, as functions that return every fault they find.

The tests and the campaigns ask the same functions, so that `make storms` counts what `make test` asserts.
"""

from __future__ import annotations

from typing import Any

from .cuts import CutResult
from .evidence import StormResult
from .storms import STORMS, Storm
from .trials import CrashResult, HoverResult, ReaderResult


def faults_of_guarding(result: StormResult) -> tuple[str, ...]:
    """oomguard killed the culprit, nobody else died, and an incident says so."""
    return (*faults_of_the_kill(result), *faults_of_the_story(result))


def faults_of_the_kill(result: StormResult) -> tuple[str, ...]:
    return told(
        (result.killed_by != "oomguard", f"the culprit was killed by {result.killed_by}"),
        (result.survived, "the culprit survived"),
        (result.kernel_oom_kills > 0, f"the kernel killed {result.kernel_oom_kills}: {result.kernel_log}"),
        (result.events.get("oom_kill", 0) > 0, f"memory.events: {result.events}"),
        (bool(result.innocents), f"others were signalled: {result.innocents}"),
        (bool(result.vanished), f"others are gone: {result.vanished}"),
        (any(result.faults.values()), f"page faults in the core: {result.faults}"),
    )


def faults_of_the_story(result: StormResult) -> tuple[str, ...]:
    incident = hard_incident(result)
    if incident is None:
        return ("there is no hard incident",)
    storm, victims = STORMS[result.storm], incident["victims"]
    cgroups = {victim["cgroup"].strip("/") for victim in victims}
    return told(
        (incident["mode"] != "enforce", f"mode is {incident['mode']}"),
        (incident["killed_by"] != "oomguard", f"killed_by is {incident['killed_by']}"),
        (not victims, "it names no victim"),
        (cgroups != {storm.culprit.cgroup}, f"its victims were in {cgroups}"),
        (not victim_pids(incident) <= set(result.culprit_pids), f"it names {victim_pids(incident)}"),
        (not incident["freed_bytes"], f"freed_bytes is {incident['freed_bytes']}"),
        (incident["latency_ms"] is None, "latency_ms is missing"),
        (wrong_policy(storm, incident), f"policy is {incident['policy']}, cgroup {incident['cgroup']}"),
    )


def wrong_policy(storm: Storm, incident: dict[str, Any]) -> bool:
    expected = "/" + storm.culprit.cgroup if storm.policy else "/"
    return bool(incident["cgroup"] != expected)


def faults_of_observing(result: StormResult) -> tuple[str, ...]:
    """The same verdict as when it acts, and nothing touched."""
    incident = hard_incident(result)
    if incident is None:
        return ("there is no hard incident",)
    # Where nobody acts the kernel does, and in its haste it takes others too: they are in the incident, by its name.
    ours = [victim for victim in incident["victims"] if victim.get("by") != "kernel"] or incident["victims"]
    cgroups = {victim["cgroup"].strip("/") for victim in ours}
    named = {victim["pid"] for victim in ours}
    return told(
        (incident["mode"] != "observe", f"mode is {incident['mode']}"),
        (incident["killed_by"] == "oomguard", "killed_by is oomguard"),
        (cgroups != {STORMS[result.storm].culprit.cgroup}, f"its victims were in {cgroups}"),
        (not named <= set(result.culprit_pids), f"it names {named}"),
        (any(kill.by == "oomguard" for kill in result.kills), f"oomguard signalled somebody: {result.kills}"),
        (result.events.get("high", 0) > 0, f"memory.high was set: {result.events}"),
        ("oom_score_adj:1000" in result.kernel_log, "the nominee was re-scored"),
    )


def faults_of_reading(result: ReaderResult, least_ratio: float, most_cpu_percent: float) -> tuple[str, ...]:
    return told(
        (not result.alive, "the reader was killed"),
        (result.scores != (0,), f"the reader was re-scored: {result.scores}"),
        (result.events["oom_kill"] > 0, f"memory.events: {result.events}"),
        (result.ratio < least_ratio, f"the reader was slowed down: {result}"),
        (result.daemon_cpu_percent > most_cpu_percent, f"the daemon took {result.daemon_cpu_percent} % of a CPU"),
    )


def faults_of_hovering(result: HoverResult, least_turns: int) -> tuple[str, ...]:
    return told(
        (result.turns < least_turns, f"{result.turns} turns"),
        (result.armed_turns < least_turns, f"{result.armed_turns} of them armed"),
        (result.minor_faults + result.major_faults > 0, f"page faults in the core: {result}"),
        (result.kills > 0, "somebody was killed"),
        (bool(result.left_behind), f"left behind: {result.left_behind}"),
    )


def faults_of_the_crash(result: CrashResult) -> tuple[str, ...]:
    return told(
        (result.restarted_after_s is None, "the daemon was not restarted"),
        (bool(result.left_behind), f"left behind: {result.left_behind}"),
    )


def faults_of_the_cut(result: CutResult) -> tuple[str, ...]:
    whole = [entry for entry in result.listed if entry["complete"] or entry["ended"]]
    return told(
        (not result.cut.engaged, "no incident had begun: this trial showed nothing"),
        (result.back_after_s is None, f"the daemon did not come back: {result.said}"),
        (any(entry["damaged"] for entry in result.listed), f"damaged: {result.listed}"),
        (len(whole) != len(result.listed), "an incident is neither whole nor does it say that it is not"),
        (not result.listed and result.cut.after_s >= 3, "nothing is known of the engagement"),
        (bool(result.faults_of_schema), f"not as the schema says: {result.faults_of_schema}"),
        (bool(result.judged_otherwise), f"judged otherwise: {', '.join(result.judged_otherwise)}"),
        (bool(result.harmed), f"harmed: {', '.join(result.harmed)}"),
        (bool(result.file_system), f"the file system itself: {result.file_system}"),
    )


def hard_incident(result: StormResult) -> dict[str, Any] | None:
    """The newest hard incident whose guard covers the culprit."""
    hard = [incident for incident in result.incidents if incident["kind"] == "hard"]
    expected = "/" + STORMS[result.storm].culprit.cgroup
    return next((i for i in hard if i["cgroup"] == expected), hard[0] if hard else None)


def victim_pids(incident: dict[str, Any]) -> set[int]:
    return {victim["pid"] for victim in incident["victims"] if victim["pid"]}


def told(*claims: tuple[bool, str]) -> tuple[str, ...]:
    return tuple(text for wrong, text in claims if wrong)
