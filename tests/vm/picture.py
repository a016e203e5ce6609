"""The picture in docs/operating.md: ``python -m tests.vm.picture docs/pictures/top.svg``.

A machine with 1 GiB; a leak under MemoryMax=256M that was killed, and one that stops between its watermarks.
"""

from __future__ import annotations

import sys
from pathlib import Path

from .machine import Machine
from .storms import LIMITED_GUARD, Service, add_policy
from .trials import hovering_leak


def main(where: str) -> None:
    with Machine() as vm:
        add_policy(vm, "limited", LIMITED_GUARD)
        Service("limited", "hog.py --rate 50 --size 400", ("MemoryMax=256M",)).start(vm)
        assert vm.wait_for("oomguard top --once --json | grep -q KILLED", 60)
        vm.run("systemctl stop limited.service; systemctl reset-failed limited.service", timeout=60)
        hovering_leak(vm, limited=True).start(vm)
        assert vm.wait_for('oomguard top --once --json | grep -q \'"what": "python3\'', 60)
        vm.pause(8)  # until something can be told of growth
        vm.check("COLUMNS=110 oomguard top --svg /var/tmp/top.svg")
        Path(where).write_bytes(vm.get("/var/tmp/top.svg"))
        print(vm.check("COLUMNS=110 oomguard top --once"))
        print(vm.check("oomguard status"))


if __name__ == "__main__":
    main(*sys.argv[1:])
