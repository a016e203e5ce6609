#!/usr/bin/python3
"""What the processes of a cgroup cost over some seconds, as JSON: idle.py CGROUP SECONDS."""

import json
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from probelib import CGROUPS, cgroup_pids, text_of

COUNTED = ("cpu_ns", "voluntary", "nonvoluntary", "minor_faults", "major_faults")


def sample(pid):
    stat = text_of(f"/proc/{pid}/stat")
    fields = stat[stat.rindex(")") + 2 :].split()
    tasks = os.listdir(f"/proc/{pid}/task")
    counts = dict.fromkeys(COUNTED, 0) | {"minor_faults": int(fields[7]), "major_faults": int(fields[9])}
    for task in tasks:
        counts["cpu_ns"] += int((text_of(f"/proc/{pid}/task/{task}/schedstat") or "0").split()[0])
        status = keyed(text_of(f"/proc/{pid}/task/{task}/status"))
        counts["voluntary"] += status.get("voluntary_ctxt_switches", 0)
        counts["nonvoluntary"] += status.get("nonvoluntary_ctxt_switches", 0)
    return counts | {"threads": len(tasks)}


def keyed(text):
    """`Key:  123 kB` lines, those with a number."""
    pairs = (line.split(":", 1) for line in text.splitlines() if ":" in line)
    return {key: int(rest.split()[0]) for key, rest in pairs if rest.split() and rest.split()[0].isdigit()}


def memory(pid):
    status, rollup = keyed(text_of(f"/proc/{pid}/status")), keyed(text_of(f"/proc/{pid}/smaps_rollup"))
    private = sum(value for key, value in rollup.items() if key.startswith("Private_"))
    sizes = {"rss_kb": status.get("VmRSS"), "locked_kb": status.get("VmLck"), "pss_kb": rollup.get("Pss")}
    return sizes | {"private_kb": private, "comm": text_of(f"/proc/{pid}/comm").strip()}


def pids_of(cgroup):
    return [pid for pids in cgroup_pids(f"{CGROUPS}/{cgroup}").values() for pid in pids]


def main():
    cgroup, seconds = sys.argv[1], float(sys.argv[2])
    before = {pid: sample(pid) for pid in pids_of(cgroup)}
    time.sleep(seconds)
    after = {pid: sample(pid) for pid in pids_of(cgroup)}
    sizes = [memory(pid) for pid in after]
    same = before.keys() & after.keys()
    total = {key: sum(after[pid][key] - before[pid][key] for pid in same) for key in COUNTED}
    total |= {key: sum(size[key] or 0 for size in sizes) for key in ("rss_kb", "pss_kb", "private_kb", "locked_kb")}
    total |= {"seconds": seconds, "processes": len(after), "restarted": len(after) - len(same)}
    total["threads"] = sum(after[pid]["threads"] for pid in after)
    total["pss_kb_of"] = {size["comm"]: size["pss_kb"] for size in sizes}
    total["comms"] = sorted({size["comm"] for size in sizes})
    total["cgroup_bytes"] = int(text_of(f"{CGROUPS}/{cgroup}/memory.current") or 0)
    print(json.dumps(total))


main()
