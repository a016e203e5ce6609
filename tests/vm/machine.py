"""Machines to test on: restored from a saved boot in half a second, bare or with this working tree installed.

    with Machine() as vm:                      # oomguard installed, enabled and running
        print(vm.check("oomguard status --json"))
    with Machine(installed=False) as vm: ...   # Debian as it boots

Three layers, each made when it is missing or out of date: the disk image (tests/vm/image), the saved boot, and
the saved installation, which is a boot in which `make install` of the working tree has run. No layer is ever
written by a test: each test has an overlay of its own, and starts from the same moment.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import functools
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from .qemu import ACCEL, CMDLINE, COUNTED, CPU, GuestError, Hardware, Qemu

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CACHE = Path(os.environ.get("OOMGUARD_VM_CACHE") or Path.home() / ".cache" / "oomguard-vm")
LOCK = Path(tempfile.gettempdir()) / "oomguard-vm.lock"
SOURCE = "/usr/src/oomguard"
PROBES = "/opt/probe"
GUEST_PYTHON = "3.13"
PYTHON = f"/usr/bin/python3 -I -S {PROBES}/"

TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "setpriv": "util-linux",
}


def missing() -> str | None:
    """Why this computer cannot run the machines, and what to install; None if it can."""
    gone = [tool for tool in TOOLS if not shutil.which(tool, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")]
    if gone:
        packages = " ".join(sorted({TOOLS[tool] for tool in gone}))
        return f"{', '.join(gone)} not found: apt-get install {packages}"
    if os.geteuid() != 0 and not (CACHE / "disk.img").exists():
        return "building the guest's image needs root: sudo tests/vm/image"
    return None


@contextlib.contextmanager
def only_one(path: Path, other: str) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"# waiting for {other} to end", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# -- what goes into a machine


def digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


@functools.cache  # who edits during a run does not change what is being tested
def tree() -> dict[str, tuple[int, bytes]]:
    """The project's files as the guest gets them: path -> (mode, content).

    From the working tree: what git tracks and what it would; or from a commit, OOMGUARD_VM_REF. Not the tests
    and what they write, so that changing those does not install everything anew.
    """
    if ref := os.environ.get("OOMGUARD_VM_REF"):
        files = committed_files(ref)
    else:
        files = working_files()
    return {path: file for path, file in sorted(files.items()) if belongs(path)}


def belongs(path: str) -> bool:
    return not path.startswith(("tests/", ".ci/", "docs/benchmarks", "docs/reliability"))


def tree_key(files: dict[str, tuple[int, bytes]]) -> str:
    """What the installation stands for: another word in the documents does not make another program."""
    return digest({path: file for path, file in files.items() if not path.endswith(".md")})


def working_files() -> dict[str, tuple[int, bytes]]:
    names = git("ls-files", "-co", "--exclude-standard", "-z").decode().split("\0")
    paths = {name: ROOT / name for name in names if name and (ROOT / name).is_file()}
    return {name: (path.stat().st_mode & 0o777, path.read_bytes()) for name, path in paths.items()}


def committed_files(ref: str) -> dict[str, tuple[int, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(git("archive", "--format=tar", ref))) as archive:
        members = [member for member in archive if member.isfile()]
        return {m.name: (m.mode & 0o777, archive.extractfile(m).read()) for m in members}  # type: ignore[union-attr]


def git(*arguments: str) -> bytes:
    return subprocess.run(["git", "-C", ROOT, *arguments], check=True, stdout=subprocess.PIPE).stdout


def wheels() -> dict[str, tuple[int, bytes]]:
    """What `make install` needs in a guest without network, gathered on the host."""
    print("# gathering wheels", file=sys.stderr, flush=True)
    command = ["make", "-s", "-C", str(ROOT), "wheels"]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise GuestError(f"{' '.join(command)}: {done.returncode}\n{done.stdout[-4000:]}")
    names = sorted(path for path in (ROOT / "wheels").glob("*.whl") if fits_guest(path.name))
    return {f"wheels/{path.name}": (0o644, path.read_bytes()) for path in names}


def fits_guest(wheel: str) -> bool:
    abi = "cp" + GUEST_PYTHON.replace(".", "")
    return wheel.endswith("-any.whl") or f"-{abi}-" in wheel or "-abi3-" in wheel


def tarball(files: dict[str, tuple[int, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        for name, (mode, content) in files.items():
            member = tarfile.TarInfo(name)
            member.mode, member.size, member.mtime = mode, len(content), int(time.time())
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


# -- the machine


class Machine(Qemu):
    """A VM with saved states. Use as a context manager."""

    def __init__(
        self,
        memory: str = "1G",
        cpus: int = 2,
        *,
        installed: bool = True,
        append: str = "",
        counted: bool = False,
        kernel: str = "",
        nodes: int = 1,
        balloon: bool = False,
    ) -> None:
        super().__init__(CACHE, Hardware(memory, cpus, append, counted, kernel, nodes, balloon))
        self.installed = installed
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Machine:
        if why := missing():
            raise GuestError(why)
        # One machine at a time: two would starve each other, and no latency would mean anything. Unless its own
        # clock waits for it.
        if not self.hardware.counted:
            self._stack.enter_context(only_one(LOCK, "another machine"))
        try:
            with only_one(CACHE / "making", "a machine that is being made"):
                subprocess.run([HERE / "image"], check=True)
                if self.hardware.kernel:
                    subprocess.run([HERE / "kernel", self.hardware.kernel], check=True)
                self.state = state = self._installed_state() if self.installed else self._boot_state()
                os.utime(state)
            self.launch(state / "disk.qcow2", state / "ram")
            self._renew_probes(state)
        except BaseException:
            self.stop()
            self._stack.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        self._stack.close()

    # -- a disk of its own, for who wants to see what a cut leaves on it

    def start_on_own_disk(self, directory: Path) -> None:
        """The same moment again, with a disk that stays."""
        self.stop()
        self.own_disk = directory / "disk.qcow2"
        below = ["-F", "qcow2", "-b", str(self.state / "disk.qcow2")]
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *below, str(self.own_disk)], check=True)
        self.launch(self.own_disk, self.state / "ram", keep_writes=True, cache="writeback")

    def boot_again(self) -> None:
        """After a cut: from what is on that disk."""
        self.launch(self.own_disk, None, keep_writes=True, cache="writeback")

    # -- saved states

    def _boot_key(self) -> str:
        made_of = [(CACHE / "image.key").read_text(), *self.hardware.special]
        if self.hardware.kernel:
            made_of.append((CACHE / "kernels" / self.hardware.kernel / "key").read_text())
        return digest(self.hardware, CPU, ACCEL, COUNTED, CMDLINE, *made_of)

    def _boot_state(self) -> Path:
        state = CACHE / f"state-boot-{self.hardware.slug}-{self._boot_key()}"
        if not (state / "ram").exists():
            self._prune(f"state-*-{self.hardware.slug}-*", keep=0)  # installations stand on a boot
            print(f"# booting a {self.hardware.memory} machine once", file=sys.stderr, flush=True)
            self._new_disk(state, CACHE / "disk.img", "raw")
            self.launch(state / "disk.qcow2", None, keep_writes=True)
            self._settle_boot()
            self._save_state(state)
        return state

    def _settle_boot(self) -> None:
        self.run("systemctl is-system-running --wait; udevadm settle; sync", timeout=180)
        self.put_probes()
        self.check(f"mkdir -p /run/probe; dmesg -n 1; {PYTHON}watcher.py --setup; systemctl start work.slice")
        self.idle()
        self.run("sync; fstrim /; echo 3 > /proc/sys/vm/drop_caches; sync")
        # What the storms will run should be in memory, as on any machine that has been up for a while.
        self.run(
            "cat /usr/bin/python3.* /usr/bin/systemd-run /usr/bin/systemctl /usr/lib/x86_64-linux-gnu/systemd/*.so "
            "/usr/lib/x86_64-linux-gnu/lib{c,m,z,expat,crypto}.so* /usr/bin/dash >/dev/null 2>&1; "
            "systemd-run -q --wait true; python3 -I -S -c 'import json,mmap,struct,ctypes,subprocess,argparse'"
        )

    def _installed_state(self) -> Path:
        files = tree()
        state = CACHE / f"state-installed-{self.hardware.slug}-{self._boot_key()}-{tree_key(files)}"
        if not (state / "ram").exists() and self.hardware.is_unusual:
            self._boot_installed(state)
        if not (state / "ram").exists():
            below = self._boot_state()
            self._prune(f"state-installed-{self.hardware.slug}-*", keep=2)
            self._new_disk(state, below / "disk.qcow2", "qcow2")
            self.launch(state / "disk.qcow2", below / "ram", keep_writes=True)
            self._renew_probes(below)
            self.install(files)
            self._save_state(state)
        return state

    def _boot_installed(self, state: Path) -> None:
        """What is installed in the usual machine, started as it starts with this kernel, command line or hardware."""
        hardware = self.hardware
        below = Machine(hardware.memory, hardware.cpus, counted=hardware.counted)._installed_state()
        self._prune(f"state-*-{hardware.slug}-*", keep=0)
        print(f"# booting {hardware} {hardware.special} once", file=sys.stderr, flush=True)
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir(parents=True)
        # The states below may go at any time: what both of their disks hold is copied, and the image alone is below it.
        shutil.copy(below / "disk.qcow2", state / "disk.qcow2")
        image = ["-F", "raw", "-b", os.path.relpath(CACHE / "disk.img", state)]
        subprocess.run(["qemu-img", "rebase", *image, str(state / "disk.qcow2")], check=True)
        self.launch(state / "disk.qcow2", None, keep_writes=True)
        self._settle_boot()
        self.check("systemctl is-active oomguard.service")
        self._save_state(state)

    def install(self, files: dict[str, tuple[int, bytes]]) -> None:
        """`make install` as an administrator without network would, then enable and start the service."""
        files = files | wheels()
        print("# installing oomguard in the guest", file=sys.stderr, flush=True)
        started = time.monotonic()
        self.put_tree(files, SOURCE)
        copied = time.monotonic()
        self.check(f"make -C {SOURCE} install WHEELS=wheels", timeout=600)
        made = time.monotonic()
        started_it = self.run("systemctl daemon-reload && systemctl enable --now oomguard.service", timeout=120)
        if started_it.rc != 0:
            raise GuestError("oomguard.service does not start:\n" + self.run("journalctl -qu oomguard | tail -60").out)
        self.idle()
        self.run("sync; echo 3 > /proc/sys/vm/drop_caches; oomguard status; oomguard incidents list; sync")
        spent = copied - started, made - copied, time.monotonic() - made
        print("# copied {:.0f} s, make install {:.0f} s, started {:.0f} s".format(*spent), file=sys.stderr, flush=True)

    @staticmethod
    def _prune(pattern: str, keep: int) -> None:
        """Makes room: the states that were used last may stay, and those that somebody is just making."""
        states = sorted(CACHE.glob(pattern), key=lambda state: state.stat().st_mtime, reverse=True)
        whole = [state for state in states if (state / "ram").exists()]
        abandoned = [state for state in states if state not in whole and age_s(state) > 3600]
        for old in whole[keep:] + abandoned:
            shutil.rmtree(old, ignore_errors=True)

    @staticmethod
    def _new_disk(state: Path, backing: Path, form: str) -> None:
        shutil.rmtree(state, ignore_errors=True)  # what an interrupted run has left
        state.mkdir(parents=True)
        backing_path = os.path.relpath(backing, state)
        command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", form, "-b", backing_path, str(state / "disk.qcow2")]
        subprocess.run(command, check=True)

    def _save_state(self, state: Path) -> None:
        self.run("sync")
        (state / "probes").write_text(probes_key())
        self.save(state / "ram")

    # -- what a test does with it

    def idle(self, tries: int = 8) -> None:
        """Waits until the guest does (nearly) nothing."""
        busy = "awk '/^cpu /{print $2+$4}' /proc/stat"
        for _ in range(tries):
            before, after = map(int, self.check(f"{busy}; sleep 2; {busy}").split())
            if after - before < 20:
                return

    def put_probes(self) -> None:
        self.put_tree({path.name: (0o755, path.read_bytes()) for path in probes()}, PROBES)

    def _renew_probes(self, state: Path) -> None:
        if (state / "probes").read_text() != probes_key():
            self.put_probes()

    def put_tree(self, files: dict[str, tuple[int, bytes]], where: str) -> None:
        self.put("/var/tmp/tree.tgz", tarball(files))
        self.check(f"mkdir -p {where} && tar -C {where} -xzf /var/tmp/tree.tgz && rm /var/tmp/tree.tgz", timeout=120)


def age_s(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def probes() -> list[Path]:
    return sorted((HERE / "guest").glob("*.py"))


def probes_key() -> str:
    return digest([path.read_bytes() for path in probes()])


# -- by hand


def local_tree(path: Path) -> dict[str, tuple[int, bytes]]:
    files = [file for file in path.rglob("*") if file.is_file() and not skipped(file.relative_to(path))]
    return {str(file.relative_to(path)): (file.stat().st_mode & 0o777, file.read_bytes()) for file in files}


def skipped(path: Path) -> bool:
    return any(part.startswith(".") or part == "__pycache__" for part in path.parts)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/vm/run", description="Run one command in a fresh machine.")
    parser.add_argument("--counted", action="store_true", help="its time is counted in instructions, for measuring")
    parser.add_argument("--mem", default="1G", help="the machine's memory (default: 1G)")
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--append", default="", help="more kernel command line: psi=0")
    parser.add_argument("--kernel", default="", metavar="SUITE", help="of that Debian: bookworm, bullseye")
    parser.add_argument("--nodes", type=int, default=1, help="NUMA nodes")
    parser.add_argument("--balloon", action="store_true", help="a virtio-balloon")
    parser.add_argument("--installed", dest="installed", action="store_true", default=True, help="(default)")
    parser.add_argument("--bare", dest="installed", action="store_false", help="without oomguard")
    parser.add_argument("--put", action="append", default=[], metavar="LOCAL:GUEST", help="copy a file or directory in")
    parser.add_argument("--timeout", type=float, default=600, metavar="SECONDS")
    parser.add_argument("command", nargs="+")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    special = {"append": args.append, "kernel": args.kernel, "nodes": args.nodes, "balloon": args.balloon}
    with Machine(args.mem, args.cpus, installed=args.installed, counted=args.counted, **special) as vm:
        print(f"# up in {vm.up_after_s:.1f} s", file=sys.stderr)
        for pair in args.put:
            local, guest = pair.split(":", 1)
            if Path(local).is_dir():
                vm.put_tree(local_tree(Path(local)), guest)
            else:
                vm.put(guest, Path(local).read_bytes(), Path(local).stat().st_mode & 0o777)
        result = vm.run(" ".join(args.command), timeout=args.timeout)
    sys.stdout.write(result.out)
    sys.stderr.write(result.err)
    return result.rc if isinstance(result.rc, int) else 124


if __name__ == "__main__":
    sys.exit(main())
