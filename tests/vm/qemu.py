"""One QEMU process: its monitor (QMP) and the agent in its guest. Knows nothing of oomguard."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

# QEMU 7.2's emulation now and then returns from cmpxchg16b with wrong flags, which panics the guest in SLUB.
# Without cx16 the kernel does not use it.
CPU = "max,-cx16"
ACCEL = "tcg,thread=multi"
# A machine of counted instructions: its clock goes 1 ns an instruction, and with real time only while it sleeps. So it
# is a computer of a billion instructions a second, however busy or fast the host is; its processors take turns.
COUNTED_ACCEL = "tcg,thread=single"
COUNTED = "shift=0,sleep=on,align=off"
PATIENCE = 20  # a busy second of its own may take so many of the host's
LOOK_S = 60
STILL_S = 0.01  # of processor time between two looks: none at all
CMDLINE = (
    "root=/dev/vda rw console=ttyS0 quiet loglevel=1 psi=1 panic=-1 mitigations=off "
    "systemd.show_status=0 rd.systemd.show_status=0 random.trust_cpu=on"
)
PORT = "org.oomguard.probe"
PIECE = 512 << 10  # bytes of a file per message: what the agent holds is locked in the guest's memory


class GuestError(RuntimeError):
    """The machine, or a command in it, did not do what it must."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a command in the guest came to. `rc` is its exit code, or "timeout"."""

    rc: int | str
    out: str
    err: str
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class Hardware:
    memory: str = "1G"
    cpus: int = 2
    append: str = ""  # more kernel command line
    counted: bool = False  # time is counted in instructions: figures that do not depend on what else the host does
    # What few machines have is told by `special`: the saved states of all others keep their names.
    kernel: str = field(default="", repr=False)  # of that Debian (tests/vm/kernel), not the guest's own
    nodes: int = field(default=1, repr=False)  # of NUMA, each with its share of the memory
    balloon: bool = field(default=False, repr=False)  # a virtio-balloon, for `Qemu.inflate`

    @property
    def special(self) -> tuple[object, ...]:
        found = {"kernel": self.kernel, "nodes": self.nodes - 1, "balloon": self.balloon}
        return tuple(item for item in found.items() if item[1])

    @property
    def is_unusual(self) -> bool:
        return bool(self.append or self.special)

    @property
    def slug(self) -> str:
        """Names its saved states. A dot, so that no other machine's are taken for older ones of this."""
        kind = f".{zlib.crc32(repr((self.append, *self.special)).encode()):08x}" if self.is_unusual else ""
        return f"{self.memory}-{self.cpus}{'i' if self.counted else ''}{kind}"

    @property
    def mib(self) -> int:
        return int(self.memory[:-1]) << {"M": 0, "G": 10}[self.memory[-1]]

    @property
    def patience(self) -> int:
        """By how much longer than the guest the host waits for it."""
        return PATIENCE if self.counted else 1


class StoodStill(GuestError):
    """Once in some hundred runs QEMU 7.2 loses the clock of a counted machine that sleeps, and it never wakes."""


class Lines:
    """JSON objects, one a line, over a unix socket."""

    def __init__(self, path: Path, alive: Any) -> None:
        self._socket = self._connect(path, alive)
        self._buffer = b""

    @staticmethod
    def _connect(path: Path, alive: Any) -> socket.socket:
        while True:
            alive()
            link = socket.socket(socket.AF_UNIX)
            try:
                link.connect(str(path))
                return link
            except OSError:
                link.close()
                time.sleep(0.02)

    def send(self, message: dict[str, Any]) -> None:
        self._socket.settimeout(60)
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, deadline: float) -> dict[str, Any]:
        while True:
            while b"\n" not in self._buffer:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError("the guest does not answer")
                self._socket.settimeout(left)
                try:
                    data = self._socket.recv(1 << 20)
                except ConnectionError:  # it had not read all that we said
                    data = b""
                if not data:
                    raise GuestError("the guest hung up")
                self._buffer += data
            line, self._buffer = self._buffer.split(b"\n", 1)
            try:
                message = json.loads(line)
            except ValueError:  # the tail of what the agent said before the state was saved
                continue
            if isinstance(message, dict):
                return message

    def close(self) -> None:
        self._socket.close()


class Qemu:
    def __init__(self, cache: Path, hardware: Hardware, boot_timeout_s: float = 300) -> None:
        self.cache, self.hardware, self.boot_timeout_s = cache, hardware, boot_timeout_s
        self.up_after_s = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._tmp: Path | None = None
        self._agent: Lines | None = None
        self._monitor: Lines | None = None
        self._serial = 0

    # -- life

    def launch(self, disk: Path, memory: Path | None, *, keep_writes: bool = False, cache: str = "unsafe") -> None:
        """Starts the machine: restored from the file `memory`, or booted.

        `cache`: "unsafe" for speed; with "writeback" what the guest has flushed outlives a `cut`, and the rest may not.
        """
        self._tmp = Path(tempfile.mkdtemp(prefix="oomguard-vm-"))
        started = time.monotonic()
        self._deadline = started + self.boot_timeout_s * self.hardware.patience
        with open(self._tmp / "qemu.err", "wb") as errors:
            self._process = subprocess.Popen(
                self._command(disk, memory, keep_writes, cache),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR": str(self._tmp)},
            )
        self._agent = Lines(self._tmp / "agent", self._check_alive)
        self._monitor = Lines(self._tmp / "qmp", self._check_alive)
        self._monitor.receive(self._deadline)  # the greeting
        self.qmp("qmp_capabilities")
        if memory:
            self._restore()
        self._wait_for_agent()
        self.up_after_s = time.monotonic() - started

    def _command(self, disk: Path, memory: Path | None, keep_writes: bool, cache: str) -> list[str]:
        form = "qcow2" if disk.suffix == ".qcow2" else "raw"
        snapshot = "off" if keep_writes else "on"
        counted = self.hardware.counted
        return [
            # The machine must not outlive the test that started it, however that ends.
            *("setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64", "-M", "q35", "-cpu", CPU),
            *(("-accel", COUNTED_ACCEL, "-icount", COUNTED) if counted else ("-accel", ACCEL)),
            *("-m", self.hardware.memory, "-smp", str(self.hardware.cpus)),
            *("-nodefaults", "-display", "none", "-no-reboot", "-nic", "none"),
            *self._memory(),
            *("-kernel", f"{self._kernel()}/vmlinuz", "-initrd", f"{self._kernel()}/initrd"),
            *("-append", f"{CMDLINE} {self.hardware.append}"),
            *("-drive", f"file={disk},if=virtio,id=disk0,format={form},snapshot={snapshot},cache={cache}"),
            *("-serial", f"file:{self._tmp}/console.log"),
            *("-device", "virtio-serial-pci", "-chardev", f"socket,id=agent,path={self._tmp}/agent,server=on,wait=off"),
            *("-device", f"virtserialport,chardev=agent,name={PORT}"),
            *("-qmp", f"unix:{self._tmp}/qmp,server=on,wait=off"),
            *(("-incoming", f"exec:cat {memory}") if memory else ()),
        ]

    def _memory(self) -> list[str]:
        """Nothing is set aside on the host: a machine may have more memory than it ever touches."""
        backend, nodes = "memory-backend-ram,reserve=off", self.hardware.nodes
        balloon = ["-device", "virtio-balloon-pci"] if self.hardware.balloon else []
        if nodes == 1:
            whole = f"{backend},id=pc.ram,size={self.hardware.memory}"
            return ["-object", whole, "-machine", "memory-backend=pc.ram", *balloon]
        each = f"{backend},size={self.hardware.mib // nodes}M"
        return balloon + [
            part
            for node in range(nodes)
            for part in ("-object", f"{each},id=ram{node}", "-numa", f"node,nodeid={node},memdev=ram{node}")
        ]

    def _kernel(self) -> Path:
        return self.cache / "kernels" / self.hardware.kernel if self.hardware.kernel else self.cache

    def _restore(self) -> None:
        while self.qmp("query-status")["status"] == "inmigrate":
            self._check_alive()
            time.sleep(0.02)
        self.qmp("cont")

    def _wait_for_agent(self) -> None:
        while True:
            self._check_alive()
            try:
                self.call({"op": "ping", "realtime": time.time()}, timeout=3)
                return
            except TimeoutError:
                continue
            except (GuestError, BrokenPipeError) as error:
                raise GuestError(
                    f"{error} before it was up; its console ends with:\n{self.console()[-4000:]}"
                ) from error

    def _check_alive(self) -> None:
        assert self._process is not None
        assert self._tmp is not None
        if self._process.poll() is not None:
            raise GuestError("qemu ended: " + (self._tmp / "qemu.err").read_text())
        if time.monotonic() > self._deadline:
            raise GuestError("the guest did not come up; its console ends with:\n" + self.console()[-2000:])

    def save(self, memory: Path) -> None:
        """Stops the machine and writes its memory to a file; the disk is as it was at this moment."""
        self.qmp("stop")
        self.qmp("migrate-set-parameters", **{"max-bandwidth": 8 << 30})
        self.qmp("migrate", uri=f"exec:cat > {memory}.tmp")
        while (status := self.qmp("query-migrate").get("status")) not in ("completed", "failed", "cancelled"):
            time.sleep(0.1)
        self.stop()
        if status != "completed":
            raise GuestError(f"saving the machine: {status}")
        Path(f"{memory}.tmp").rename(memory)

    def cut(self) -> None:
        """The power goes."""
        assert self._process
        self._process.kill()
        self._process.wait()
        self.stop()

    def copy_disk(self, disk: Path, copy: Path) -> None:
        """What a `cut` at this moment would leave of the disk; the machine stands still meanwhile, and goes on.

        What QEMU itself still holds of it is lost in either case.
        """
        assert self._process
        self._process.send_signal(signal.SIGSTOP)
        try:
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOWAIT)
            shutil.copyfile(disk, copy)
        finally:
            self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self._process and self._process.poll() is None:
            try:
                self.qmp("quit")
                self._process.wait(10)
            except (GuestError, TimeoutError, OSError, subprocess.TimeoutExpired):
                self._process.kill()
                self._process.wait()
        for link in (self._agent, self._monitor):
            if link:
                link.close()
        if self._tmp:
            shutil.rmtree(self._tmp, ignore_errors=True)
        self._process = self._tmp = self._agent = self._monitor = None

    # -- the monitor

    def qmp(self, command: str, **arguments: Any) -> Any:
        assert self._monitor
        self._monitor.send({"execute": command, "arguments": arguments})
        while True:
            reply = self._monitor.receive(time.monotonic() + 120)
            if "return" in reply:
                return reply["return"]
            if "error" in reply:
                raise GuestError(f"QMP {command}: {reply['error']}")

    def throttle_disk(self, bytes_per_s: int = 150_000_000, ios_per_s: int = 5000) -> None:
        """A modest SSD. The saved boot is restored from a disk without bounds, which no storm should see."""
        none = {"bps_rd": 0, "bps_wr": 0, "iops_rd": 0, "iops_wr": 0}
        self.qmp("block_set_io_throttle", device="disk0", bps=bytes_per_s, iops=ios_per_s, **none)

    def inflate(self, left_mib: int) -> None:
        """The balloon takes memory from the guest until it has so much left (or gives it back)."""
        self.qmp("balloon", value=left_mib << 20)

    def console(self) -> str:
        assert self._tmp
        return (self._tmp / "console.log").read_text("utf-8", "replace")

    # -- the agent

    def call(self, request: dict[str, Any], timeout: float = 60) -> dict[str, Any]:
        assert self._agent
        self._serial += 1
        self._agent.send(request | {"id": self._serial})
        deadline = time.monotonic() + timeout * self.hardware.patience
        used_s = self._used_s()
        while time.monotonic() < deadline:
            try:
                reply = self._agent.receive(min(deadline, time.monotonic() + LOOK_S))
            except TimeoutError:
                before_s, used_s = used_s, self._used_s()
                if self.hardware.counted and used_s - before_s < STILL_S:
                    raise StoodStill("its processors wait for a time that does not come") from None
                continue
            if reply.get("id") == self._serial:
                return reply
        raise TimeoutError("the guest does not answer")

    def _used_s(self) -> float:
        """The processor time of all of QEMU's threads, those that have ended included."""
        assert self._process
        times = psutil.Process(self._process.pid).cpu_times()
        return times.user + times.system

    def run(self, cmd: str | list[str], timeout: float = 60, check: bool = False) -> Result:
        """Runs a shell command (or an argument vector) in the guest, to its end."""
        reply = self.call({"op": "run", "cmd": cmd, "timeout": timeout}, timeout + 30)
        result = Result(reply.get("rc", -1), reply.get("out", ""), reply.get("err", ""))
        if check and result.rc != 0:
            raise GuestError(f"{cmd!r} in the guest: {result.rc}\n{result.out[-6000:]}\n{result.err[-6000:]}")
        return result

    def check(self, cmd: str | list[str], timeout: float = 60) -> str:
        """The output of a command in the guest that must succeed."""
        return self.run(cmd, timeout, check=True).out

    def spawn(self, cmd: str | list[str]) -> int:
        return int(self.call({"op": "run", "cmd": cmd, "detach": True})["pid"])

    def put(self, path: str, data: bytes | str, mode: int = 0o644) -> None:
        data = data.encode() if isinstance(data, str) else data
        for offset in range(0, max(len(data), 1), PIECE):
            piece = base64.b64encode(data[offset : offset + PIECE]).decode()
            reply = self.call({"op": "put", "path": path, "data": piece, "offset": offset, "mode": mode})
            if reply["rc"] != 0:
                raise GuestError(f"writing {path} in the guest: {reply}")

    def get(self, path: str) -> bytes:
        data = b""
        while True:
            reply = self.call({"op": "get", "path": path, "offset": len(data), "size": PIECE})
            if reply["rc"] != 0:
                raise FileNotFoundError(f"{path} in the guest: {reply['err']}")
            piece = base64.b64decode(reply["data"])
            data += piece
            if len(piece) < PIECE:
                return data

    def pause(self, seconds: float) -> None:
        """So long, by the guest's clock."""
        if self.hardware.counted:
            self.check(f"sleep {seconds}", seconds + 60)
        else:
            time.sleep(seconds)

    def wait_for(self, cmd: str, timeout: float, every: float = 0.25) -> bool:
        """Asks the guest until the command succeeds; False if it never did."""
        if self.hardware.counted:  # by the guest's clock, or a busy host would ask it more often
            return self.run(f"until ( {cmd} ); do sleep {every}; done", timeout).rc == 0
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            try:
                if self.run(cmd, timeout=20).rc == 0:
                    return True
            except TimeoutError:  # a starving guest
                pass
            time.sleep(every)
        return False
