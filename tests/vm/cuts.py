"""The power goes, at random moments of an engagement: what the next start finds in the state directory.

One engagement is cut several times. A cut is the disk as it is when QEMU is ended by SIGKILL: what the guest has
flushed, and whatever else had got that far. For the last one QEMU is killed, and the machine boots from that disk. For
those before it QEMU is held by SIGSTOP while its disk is copied, which is the same disk; its file system is mended as a
boot would, and the daemon of this checkout starts on the state directory that was on it. That takes a tenth of a boot.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from oomguard.report import replay
from tests.core.world import HOST, Daemon, World, policy, until
from tests.incidents import judged

from .machine import ROOT, Machine
from .qemu import GuestError
from .storms import LIMITED_GUARD, UNIT, Service, add_policy
from .trials import hovering_leak

STATE = "/var/lib/oomguard"
INCIDENTS = f"{STATE}/incidents"
OLD = "20200101T000000Z-host-000001"
BOX = "blackbox"  # the one file that is meant to change


@dataclass(frozen=True, slots=True)
class CutPlan:
    """Of a leak that is killed or of one that hovers; one cut so long after an incident was first seen, ascending."""

    limited: bool
    hovering: bool
    moments_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Cut:
    limited: bool
    hovering: bool
    after_s: float
    booted: bool  # the machine itself, or a daemon on what was on its disk
    engaged: bool  # an incident had begun when the power went


@dataclass(frozen=True, slots=True)
class CutResult:
    """What was there after one cut, when a daemon had started again."""

    cut: Cut
    file_system: str  # what is still wrong with it after its journal was replayed
    back_after_s: float | None  # start to a daemon that guards; None: it did not come
    listed: tuple[dict[str, Any], ...]  # `oomguard incidents list`
    turns: tuple[int, ...]  # of each incident that can be shown
    faults_of_schema: tuple[str, ...]
    judged_otherwise: tuple[str, ...]  # incidents of which a replay comes to another verdict
    harmed: tuple[str, ...]  # what else lay in the state directory, and is not what it was
    said: str  # by the daemon at its start


def cut_power(vm: Machine, plan: CutPlan) -> Iterator[CutResult]:
    """One result for each moment of the plan, the boot's first."""
    with tempfile.TemporaryDirectory(prefix="oomguard-cut-") as directory:
        place = Path(directory)
        vm.start_on_own_disk(place)
        if plan.limited:
            add_policy(vm, "limited", LIMITED_GUARD)
        before = bystanders(vm)
        service = hovering_leak(vm, plan.limited) if plan.hovering else steep_leak(plan.limited)
        service.start(vm)
        engaged = vm.run(f"until ls {INCIDENTS}/*/ring.jsonl; do sleep 0.02; done 2>/dev/null", timeout=120).rc == 0
        disks = cut_all(vm, plan.moments_s, place)
        last = Cut(plan.limited, plan.hovering, plan.moments_s[-1], True, engaged)
        yield boot(vm, last, before, place)
        vm.stop()  # what follows is not to be slowed down by it
        for after_s, disk in zip(plan.moments_s, disks, strict=False):
            yield start(disk, replace(last, after_s=after_s, booted=False), before)


def steep_leak(limited: bool) -> Service:
    if limited:
        return Service("limited", "hog.py --rate 50", ("MemoryMax=256M",))
    return Service("hog", "hog.py --rate 100")


def cut_all(vm: Machine, moments_s: tuple[float, ...], place: Path) -> list[Path]:
    """The disks of all moments but the last, whose disk stays the machine's own."""
    disks, began = [place / f"{number}.qcow2" for number in range(len(moments_s) - 1)], time.monotonic()
    for after_s, disk in zip(moments_s, disks, strict=False):
        time.sleep(max(0.0, began + after_s - time.monotonic()))
        vm.copy_disk(vm.own_disk, disk)
    time.sleep(max(0.0, began + moments_s[-1] - time.monotonic()))
    vm.cut()
    return disks


def bystanders(vm: Machine) -> dict[str, str]:
    """What else lies in the state directory, by its checksum: an old incident, somebody's notes, and what was there."""
    old = ROOT / "tests/report/incidents/schema-1/incidents/20260131T031204Z-host-072511/incident.json"
    vm.check(f"mkdir -p {INCIDENTS}/{OLD}/raw")
    vm.put(f"{INCIDENTS}/{OLD}/incident.json", old.read_bytes())
    vm.put(f"{INCIDENTS}/{OLD}/raw/meminfo", "MemTotal: 1 kB\n")
    vm.put(f"{INCIDENTS}/notes.txt", "what somebody left here\n")
    vm.check("sync")
    lines = vm.check(f"cd {STATE} && find . -type f ! -name {BOX} -exec sha256sum {{}} +").splitlines()
    return {path.strip().removeprefix("./"): digest for digest, path in (line.split(None, 1) for line in lines)}


def harmed(before: dict[str, str], state: Path) -> tuple[str, ...]:
    return tuple(path for path, digest in before.items() if checksum(state / path) != digest)


def checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "gone"


# -- the machine boots


def boot(vm: Machine, cut: Cut, before: dict[str, str], place: Path) -> CutResult:
    shutil.copyfile(vm.own_disk, place / "last.qcow2")
    try:
        vm.boot_again()
    except GuestError as error:  # the emulator's fault, or the disk's? The same disk again
        vm.stop()
        print(f"# the boot after a cut failed, and is tried again: {error}", file=sys.stderr, flush=True)
        shutil.copyfile(place / "last.qcow2", vm.own_disk)
        vm.boot_again()
    began = time.monotonic()
    back = vm.wait_for(f"systemctl is-active -q {UNIT}", 300)
    back_after = round(time.monotonic() - began, 1) if back else None
    vm.wait_for(f"! ls {INCIDENTS}/*/ring.jsonl", 60)
    vm.check(f"tar -C {STATE} --exclude=./{BOX} -czf /var/tmp/state.tgz .")
    state = place / "booted"
    with tarfile.open(fileobj=io.BytesIO(vm.get("/var/tmp/state.tgz"))) as tar:
        tar.extractall(state, filter="data")
    wrong = vm.run("dmesg | grep -i 'EXT4-fs.*error'").out
    said = vm.run(f"systemctl show -P SubState {UNIT}; journalctl -q -b -u {UNIT} -o cat | tail -20").out
    return look(cut, wrong, back_after, state, before, said)


# -- or only the daemon starts


def start(disk: Path, cut: Cut, before: dict[str, str]) -> CutResult:
    place = disk.with_suffix("")
    place.mkdir()
    world = World(place)
    state = world.root / "state"
    state.rmdir()
    wrong = read_out(disk, state)
    began = time.monotonic()
    daemon = Daemon.start(world, policy(HOST, world))
    try:
        daemon.hear("READY=1")
        back_after = round(time.monotonic() - began, 1)
        until(lambda: not list(state.glob("incidents/*/ring.jsonl")), "an incident was not finished")
        daemon.end()
    finally:
        daemon.close()
    return look(cut, wrong, back_after, state, before, daemon.log())


def read_out(disk: Path, state: Path) -> str:
    """The state directory as a boot finds it, the file system's journal replayed. What is still wrong with that one."""
    raw, out = disk.with_suffix(".raw"), state.parent / "out"
    out.mkdir()
    command("qemu-img", "convert", "-U", "-f", "qcow2", "-O", "raw", "-t", "unsafe", str(disk), str(raw))
    try:
        fsck("-p", raw)
        checked = fsck("-fn", raw)
        command("/sbin/debugfs", "-R", f"rdump {STATE} {out}", str(raw))
    finally:
        raw.unlink()
        disk.unlink()
    (out / Path(STATE).name).rename(state)
    return checked.stdout if checked.returncode else ""


def fsck(how: str, disk: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["/sbin/e2fsck", how, str(disk)], check=False, capture_output=True, text=True)


def command(*words: str) -> None:
    done = subprocess.run(words, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise GuestError(f"{' '.join(words)}: {done.returncode}\n{done.stdout[-2000:]}")


# -- what is there


def look(
    cut: Cut, file_system: str, back_after_s: float | None, state: Path, before: dict[str, str], said: str
) -> CutResult:
    """As a user would."""
    listed = [entry for entry in incidents(state, "list", "--no-others") if entry["id"] != OLD]
    shown = [incidents(state, "show", entry["id"]) for entry in listed if not entry["damaged"]]
    schema = Draft202012Validator(json.loads((ROOT / "oomguard/report/incident.schema.json").read_text()))
    return CutResult(
        cut,
        file_system,
        back_after_s,
        tuple(listed),
        tuple(len(doc["ring"]) for doc in shown),
        tuple(error.message[:300] for doc in shown for error in schema.iter_errors(doc)),
        tuple(doc["id"] for doc in shown if judged_otherwise(doc)),
        harmed(before, state),
        said,
    )


def incidents(state: Path, *words: str) -> Any:
    ask = [sys.executable, "-m", "oomguard", "incidents", *words, "--state-dir", str(state), "--json"]
    done = subprocess.run(ask, check=False, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise GuestError(f"{' '.join(words)}: {done.returncode}\n{done.stderr}")
    return json.loads(done.stdout)


def judged_otherwise(doc: dict[str, Any]) -> bool:
    try:
        judged.again(doc)
    except (AssertionError, replay.CannotReplay):
        return True
    return False
