"""How long nobody guards: SIGKILL of an idle daemon, again and again, and where the time until READY=1 goes.

    python -m tests.vm.restart [--times 5]

The figures are those of docs/architecture.md. `OOMGUARD_VM_REF=COMMIT` measures another state of the project.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import astuple, dataclass, fields

from .machine import Machine
from .storms import UNIT
from .trials import daemon_pid, wait_restarted

# systemd's own words, in the order in which a restart says them (v252 to v257).
SAID = {
    "seen": "Main process exited",
    "undone": "Failed with result",
    "scheduled": "Scheduled restart job",
    "starting": "Starting ",
    "ready": "Started ",
}


@dataclass(frozen=True, slots=True)
class Restart:
    """Seconds since the SIGKILL."""

    seen: float  # by systemd
    undone: float  # our workers are gone and ExecStopPost has ended
    scheduled: float  # RestartSec is over
    starting: float  # ExecStart
    ready: float  # READY=1: guarded again


def restart(vm: Machine, patience_s: float = 60) -> Restart:
    """Kill the core, and read in the journal what came of it."""
    old = daemon_pid(vm)
    cursor = vm.check(f"journalctl -n0 --show-cursor -qu {UNIT} | sed -n 's/^-- cursor: //p'").strip()
    killed_s = float(vm.check(f"read t _ < /proc/uptime; kill -KILL {old}; echo $t"))
    if not wait_restarted(vm, old, patience_s):
        raise RuntimeError(f"{UNIT} does not come back:\n" + vm.run(f"journalctl -qu {UNIT} | tail -40").out)
    vm.check("journalctl --sync")
    entries = vm.check(f"journalctl -qu {UNIT} --after-cursor '{cursor}' -o json").splitlines()
    at: dict[str, float] = {}
    for entry in map(json.loads, entries):
        for name, words in SAID.items():
            if words in str(entry["MESSAGE"]) and entry.get("_PID") == "1":
                at.setdefault(name, round(int(entry["__MONOTONIC_TIMESTAMP"]) / 1e6 - killed_s, 2))
    return Restart(**at)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.vm.restart", description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--also", default="", metavar="COMMAND", help="run this in the machine afterwards")
    args = parser.parse_args()
    with Machine() as vm:
        found = []
        for _ in range(args.times):
            vm.idle()
            time.sleep(1)  # its last start is over, whatever that left to do
            found.append(restart(vm))
        also = vm.run(args.also, timeout=300).out if args.also else ""
    names = [field.name for field in fields(Restart)]
    print("| s since SIGKILL | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for number, one in enumerate(found, 1):
        print(f"| {number} | " + " | ".join(f"{value:.2f}" for value in astuple(one)) + " |")
    middle = [statistics.median(column) for column in zip(*map(astuple, found), strict=True)]
    print("| median | " + " | ".join(f"{value:.2f}" for value in middle) + " |")
    sys.stdout.write(also)
    return 0


if __name__ == "__main__":
    sys.exit(main())
