"""The example of the documents: a leak eats memory, then swap, beside a tmpfs that somebody has filled.

python -m tests.vm.example            # docs/example-incident.tar.zst, and what is drawn from it
"""

from __future__ import annotations

import dataclasses
import io
import subprocess
import sys
import tarfile
import tempfile

from tests.report import example

from .machine import Machine
from .storms import STORMS, SWAP_FILE, Service, run_storm

CACHE = "head -c 60M /dev/zero > /dev/shm/thumbnails"
LEAK = Service("hog", "hog.py --rate 30 --size 3072 --compress 50 --thrash 2")
STORM = dataclasses.replace(STORMS["leak-swapfile"], culprit=LEAK, before=f"{SWAP_FILE}; {CACHE}", timeout_s=300)
FILE = "/var/tmp/example.tgz"


def main() -> None:
    with Machine(counted=True) as vm:  # so that it does not matter what else this computer does
        result = run_storm(vm, STORM)
        assert result.killed_by == "oomguard", result
        incident = result.incidents[0]["id"]
        looks = "python3 -c 'import json, sys; sys.exit(len(json.load(sys.stdin)[\"after\"]) < 3)'"
        told = vm.wait_for(f"oomguard incidents show {incident} --json | {looks}", 200, every=5)
        assert told, "nobody has looked again a minute later"
        vm.check(f"tar -C /var/lib/oomguard/incidents -czf {FILE} {incident}")
        packed = vm.get(FILE)
    with tempfile.TemporaryDirectory() as place:
        with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
            tar.extractall(place, filter="data")
        export = [sys.executable, "-m", "oomguard", "incidents", "export", f"{place}/{incident}"]
        subprocess.run([*export, "-o", str(example.PACKED)], check=True)
    example.main()


if __name__ == "__main__":
    main()
