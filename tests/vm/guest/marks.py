#!/usr/bin/python3
"""Everything that a guard may have changed, of every cgroup and process, as JSON.

{"cgroups": {path: {file: value}}, "processes": {pid: [comm, start time, oom_score_adj, cgroup]}}
"""

import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from probelib import CGROUPS, text_of

FILES = (
    "memory.high",
    "memory.max",
    "memory.swap.max",
    "memory.min",
    "memory.low",
    "cgroup.freeze",
    "memory.oom.group",
)


def cgroup_marks():
    marks = {}
    for directory, _, names in os.walk(CGROUPS):
        values = {name: text_of(f"{directory}/{name}").strip() for name in FILES if name in names}
        marks[directory[len(CGROUPS) :] or "/"] = values
    return marks


def process_marks():
    marks = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        stat, adj = text_of(f"/proc/{pid}/stat"), text_of(f"/proc/{pid}/oom_score_adj").strip()
        if stat and adj:
            name, fields = stat[stat.index("(") + 1 : stat.rindex(")")], stat[stat.rindex(")") + 2 :].split()
            marks[pid] = [name, int(fields[19]), int(adj), text_of(f"/proc/{pid}/cgroup").strip().rpartition(":")[2]]
    return marks


print(json.dumps({"cgroups": cgroup_marks(), "processes": process_marks()}))
