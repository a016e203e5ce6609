"""What the kernel knew at that moment: files read within a deadline and a byte limit, most perishable first.

Everything here is a generator that reads a little and yields, so that the scribe can turn to something more urgent
between two files. What cannot be read is left out; what was cut is counted. Nothing here decides or writes a file:
verbatim bytes go to ``keep``, parsed values into ``facts``.

/proc/PID/{cmdline,environ,smaps,maps} take the mmap lock of a process that may be thrashing, and block for seconds. Of
these only cmdline is read, last, for the ten largest, by a thread that nobody waits for. environ is never read: it is
where secrets live.
"""

import heapq
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from ..linux import cgroup2, procfs
from ..linux import containers as boxes
from ..model.facts import ProcessFacts
from ..model.secrets import redact
from ..model.verdict import ProcessRef
from . import owners

FILE_MAX: Final = 256 << 10  # vmstat is 5 kB, memory.stat 2 kB, a status with 65,536 groups 400 kB
TOTAL_MAX: Final = 4 << 20
TABLE_MAX: Final = 500  # rows: the largest; a machine with more processes than that has them named by their sum
SOFT_S: Final = 2.0
HARD_S: Final = 0.5
CMDLINES: Final = 10
_CMDLINE_S: Final = 0.5
_CMDLINE_MAX: Final = 1000
_STACK: Final = 256 << 10
_PIDS_PER_STEP: Final = 8

# None of these takes a lock that the victim may hold.
_VICTIM_FILES: Final = ("stat", "status", "statm", "oom_score", "oom_score_adj", "cgroup", "limits", "wchan")
_VICTIMS_MAX: Final = 16
_HOST_FILES: Final = ("meminfo", "vmstat", "pressure/memory", "pressure/io", "pressure/cpu", "swaps", "loadavg")
_HOST_ONCE: Final = ("buddyinfo", "zoneinfo", "slabinfo", "mounts", "sysvipc/shm")
_CGROUP_FILES: Final = (
    "memory.current",
    "memory.stat",
    "memory.events",
    "memory.events.local",
    "memory.max",
    "memory.high",
    "memory.low",
    "memory.min",
    "memory.peak",
    "memory.swap.current",
    "memory.swap.max",
    "memory.swap.events",
    "memory.zswap.current",
    "memory.pressure",
    "memory.oom.group",
    "io.pressure",
    "cpu.pressure",
    "cgroup.events",
    "pids.current",
)
_OF_NUMBERS: Final = frozenset(
    ("memory.stat", "memory.events", "memory.events.local", "memory.swap.events", "cgroup.events", "memory.oom_control")
)
_LEVELS_MAX: Final = 16
_BOXES_MAX: Final = 16

Keep = Callable[[str, bytes], None]
Growth = dict[tuple[int, int], int]


class Evidence:
    """What was gathered for one incident. ``facts`` is the evidence part of incident.json."""

    def __init__(self, proc: str, cgroup: str, keep: Keep, opened_ns: int, sys: str = "/sys") -> None:
        self._proc, self._cgroup, self._sys = proc, cgroup, sys
        self._keep = keep
        self._opened_ns = opened_ns
        self._spent = 0
        self._deadline = 0.0
        self._parts: dict[str, list[owners.Part]] = {}
        self._read_of: set[int] = set()  # pids
        self._roots = tuple(dict.fromkeys((f"{proc}/1/root", "")))  # ours may be a sandbox, the host's hidden from us
        self._asked: set[str] = set()  # cgroups of which the disk was asked
        self.cut = 0  # files or rows left out for want of time or room
        self.facts: dict[str, object] = {"taken": []}

    # -- the stages

    def soft(self, cgroups: Iterable[str], victims: tuple[ProcessRef, ...]) -> Iterator[None]:
        """Most of it: there is time, and memory enough to read with."""
        yield from self._stage(
            "soft",
            SOFT_S,
            self._victims("soft", victims),
            self._cgroups("soft", cgroups),
            self._boxes(cgroups),
            self._host("soft", once=True),
            self._owners("soft"),
            self.table(),
            self.cmdlines(victims),
        )

    def nominated(self, cgroups: Iterable[str], victims: tuple[ProcessRef, ...]) -> Iterator[None]:
        """Of who was nominated after the opening, what ``soft`` would have read of him; once."""
        if any(ref.pid not in self._read_of for ref in victims):
            parts = (self._victims("soft", victims), self._cgroups("soft", cgroups), self._boxes(cgroups))
            yield from self._stage("soft", HARD_S, *parts)

    def hard(self, cgroups: Iterable[str], victims: tuple[ProcessRef, ...]) -> Iterator[None]:
        """The small things again: the victim may have a few milliseconds left."""
        yield from self._stage(
            "hard",
            HARD_S,
            self._victims("hard", victims),
            self._host("hard"),
            self._owners("hard"),
            self._cgroups("hard", cgroups),
        )

    def after(self, stage: str, cgroups: Iterable[str]) -> Iterator[None]:
        """How it looks now that somebody is gone."""
        yield from self._stage(stage, HARD_S, self._host(stage), self._cgroups(stage, cgroups))

    def rest(self, cgroups: Iterable[str]) -> Iterator[None]:
        """What an incident without a soft watermark has not had time for."""
        parts: list[Iterator[None]] = []
        if "processes" not in self.facts:
            parts = [
                self._host("late", once=True),
                self._owners("late"),
                self._cgroups("late", cgroups),
                self.table(),
            ]
        elif not self.facts["processes"]:  # on a machine so slow that there was no time for it
            parts = [self.table()]
        if "cmdlines" not in self.facts:
            parts.append(self.cmdlines(()))
        yield from self._stage("late", SOFT_S, *parts)

    def named(self, cgroups: Iterable[str]) -> Iterator[None]:
        """What the containers of these are called, by the disk: after a kill, and by a thread that may block."""
        told = _dict(self.facts.get("containers"))
        wanted = [
            (cgroup, box)
            for cgroup, box in _contained(cgroups)
            if cgroup not in self._asked and not _is_named(_dict(told.get(cgroup)))
        ]
        if not wanted:
            return
        from . import containers

        for cgroup, box in wanted:
            _own(self.facts, "containers").setdefault(cgroup, containers.known(box))
        reader = containers.asked(self._roots, wanted)
        if reader is None:
            self.cut += len(wanted)
            return
        yield from _waited_for(reader, HARD_S)
        for cgroup, names in reader.found.copy().items():
            self._called(cgroup, names)
        self._asked |= {cgroup for cgroup, _ in wanted[: reader.tried]}
        self.cut += len(wanted) - reader.tried

    def _stage(self, stage: str, within_s: float, *parts: Iterator[None]) -> Iterator[None]:
        began = time.monotonic()
        cut = self.cut
        for part in parts:
            while True:
                self._deadline = began + within_s  # each time: another stage may have had its turn in between
                try:
                    next(part)
                except StopIteration:
                    break
                yield
        taken = self.facts["taken"]
        assert isinstance(taken, list)
        taken.append(
            {
                "stage": stage,
                "at_ms": round(began * 1000 - self._opened_ns / 1e6, 3),
                "took_ms": round((time.monotonic() - began) * 1000, 3),
                "cut": self.cut - cut,
            }
        )

    def _late(self) -> bool:
        return time.monotonic() > self._deadline

    # -- the parts

    def _victims(self, stage: str, victims: tuple[ProcessRef, ...]) -> Iterator[None]:
        self._read_of |= {ref.pid for ref in victims}
        for ref in victims[:_VICTIMS_MAX]:
            stat = procfs.parse_stat(_read(f"{self._proc}/{ref.pid}/stat") or b"")
            if stat is None or stat[4] != ref.start_ticks:
                continue  # gone, or its pid is somebody else's by now
            for file in _VICTIM_FILES:
                self._take(f"{self._proc}/{ref.pid}/{file}", f"{stage}/victim.{ref.pid}.{file}")
            yield

    def _host(self, stage: str, once: bool = False) -> Iterator[None]:
        for file in _HOST_FILES + (_HOST_ONCE if once else ()):
            data = self._take(f"{self._proc}/{file}", f"{stage}/{file.replace('/', '.')}")
            if data is None:
                pass
            elif file == "meminfo":
                self._at("meminfo", stage, numbers(data))
            elif file == "vmstat":
                self._at("vmstat", stage, numbers(data))
            elif file.startswith("pressure/"):
                self._at("pressure", f"{stage}.{file[9:]}", text(data))
            elif file == "swaps":
                self._at("swaps", stage, text(data))
            elif file == "sysvipc/shm":
                self._parts["shared memory and tmpfs"] = owners.sysv(data)
            elif file == "slabinfo":
                self._parts["slab"] = owners.slabs(data)
            yield
        yield from self._zram(stage)

    def _owners(self, stage: str) -> Iterator[None]:
        """Whose the memory is, after ``_host``. Slab and segments by name as of the first stage that has read them."""
        meminfo = _dict(_dict(self.facts.get("meminfo")).get(stage))
        sizes = {key: value for key, value in meminfo.items() if isinstance(value, int)}
        if not sizes:
            return
        parts = {**self._parts, "huge pages": owners.huge(sizes)}
        mounts = _read(f"{self._proc}/1/mounts") or b""
        yield
        mounted = owners.tmpfs(mounts, f"{self._proc}/1/root")
        parts["shared memory and tmpfs"] = mounted + self._parts.get("shared memory and tmpfs", [])
        devices = [_dict(row) for at, row in _dict(self.facts.get("zram")).items() if at.startswith(f"{stage}.")]
        zram = sum(int(str(row["memory_bytes"])) for row in devices)
        self._at("owners", stage, owners.rows(sizes, zram, parts))
        yield

    def _zram(self, stage: str) -> Iterator[None]:
        try:
            devices = sorted(entry for entry in os.listdir(f"{self._sys}/block") if entry.startswith("zram"))[:8]
        except OSError:
            return
        for device in devices:
            stat = self._take(f"{self._sys}/block/{device}/mm_stat", f"{stage}/{device}.mm_stat")
            values = [int(word) for word in (stat or b"").split() if word.isdigit()]
            # Documentation/admin-guide/blockdev/zram.rst: orig_data_size compr_data_size mem_used_total mem_limit ...
            if len(values) >= 3:
                names = ("stored_bytes", "compressed_bytes", "memory_bytes")
                self._at("zram", f"{stage}.{device}", dict(zip(names, values[:3], strict=True)))
            yield

    def _cgroups(self, stage: str, cgroups: Iterable[str]) -> Iterator[None]:
        done: set[str] = set()
        for cgroup in cgroups:
            for path in ancestry(cgroup):
                if path in done:
                    continue
                done.add(path)
                found: dict[str, object] = {}
                for file in cgroup2.kind(self._cgroup).EVIDENCE or _CGROUP_FILES:
                    place = f"{stage}/cgroup.{flat(path)}.{file}"
                    data = self._take(f"{self._cgroup}{path.rstrip('/')}/{file}", place)
                    if data is not None:
                        found[file] = _value(file, data)
                if found:
                    self._at("cgroups", stage, {**_dict(_dict(self.facts.get("cgroups")).get(stage)), path: found})
                yield

    def _boxes(self, cgroups: Iterable[str]) -> Iterator[None]:
        """Of containers, what lies in memory: their engine removes it the moment that they end."""
        for cgroup, box in _contained(cgroups):
            from . import containers  # loaded where there are some

            _own(self.facts, "containers").setdefault(cgroup, containers.known(box))
            for root in () if self._late() else self._roots:
                if names := containers.perishable(root, box):
                    self._called(cgroup, names)
                    break
            yield

    def _called(self, cgroup: str, names: Mapping[str, str]) -> None:
        row = _dict(_own(self.facts, "containers").get(cgroup))
        row.update({key: value for key, value in names.items() if not row.get(key)})

    def table(self) -> Iterator[None]:
        """The largest processes. Growth is added later, from the ring."""
        heap: list[tuple[int, int, ProcessFacts]] = []
        seen = kernel = total = 0
        try:
            proc = procfs.open_proc(self._proc)
        except OSError:
            return
        try:
            for count, pid in enumerate(sorted(procfs.pids(proc))):
                if count % _PIDS_PER_STEP == 0:
                    yield
                    if self._late():
                        self.cut += 1
                        break
                facts = _process(proc, pid)
                if facts is None or facts.kernel_thread:
                    kernel += facts is not None
                    continue
                seen += 1
                total += facts.held_bytes
                item = (facts.held_bytes, -pid, facts)
                (heapq.heappush if len(heap) < TABLE_MAX else heapq.heappushpop)(heap, item)
        finally:
            os.close(proc)
        self.facts["processes"] = [_row(item[2]) for item in sorted(heap, reverse=True, key=lambda item: item[:2])]
        self.facts["processes_seen"] = {"user": seen, "kernel": kernel, "held_bytes": total}

    def cmdlines(self, victims: tuple[ProcessRef, ...]) -> Iterator[None]:
        """Command lines of the victim and the largest, redacted, by a thread: the read may block as long as they do."""
        rows = self.facts.get("processes")
        largest = [int(row["pid"]) for row in rows[:CMDLINES]] if isinstance(rows, list) else []
        pids = list(dict.fromkeys([ref.pid for ref in victims[:1]] + largest))[:CMDLINES]
        found: dict[str, object] = {}
        self.facts["cmdlines"] = found
        if not pids or _Cmdlines.busy:
            self.cut += len(pids)
            return
        threading.stack_size(_STACK)  # the usual 8 MiB would count against a limit on locked memory
        reader = _Cmdlines(self._proc, pids)
        try:
            reader.start()
        except RuntimeError:  # no thread: no memory, or TasksMax
            self.cut += len(pids)
            return
        yield from _waited_for(reader, _CMDLINE_S)
        found.update(reader.found.copy())
        self.cut += len(pids) - reader.tried

    # -- small hands

    def _take(self, path: str, place: str) -> bytes | None:
        """Read a file, keep it verbatim, return it. None: gone, unreadable, or no time or room for it."""
        if self._late() or self._spent >= TOTAL_MAX:
            self.cut += 1
            return None
        data = _read(path)
        if data:
            self._spent += len(data)
            self._keep(place, data)
        return data

    def _at(self, part: str, key: str, value: object) -> None:
        _own(self.facts, part)[key] = value


class _Cmdlines(threading.Thread):
    """Reads command lines until one of them blocks. At most one such thread is ever stuck."""

    busy = False

    def __init__(self, proc: str, pids: list[int]) -> None:
        super().__init__(daemon=True)
        self._proc, self._pids = proc, pids
        self.found: dict[str, object] = {}
        self.tried = 0

    def run(self) -> None:
        _Cmdlines.busy = True
        for pid in self._pids:
            data = _read(f"{self._proc}/{pid}/cmdline", 4096)
            if data:
                self.found[str(pid)] = redact(arguments(data))[:_CMDLINE_MAX]
            self.tried += 1
        _Cmdlines.busy = False


# -- parsers


def numbers(data: bytes) -> dict[str, int]:
    """``MemTotal:  123 kB`` and ``pgfault 123`` alike; kB become bytes. What is no number is left out."""
    found: dict[str, int] = {}
    for line in data.splitlines():
        words = line.split()
        if len(words) >= 2 and words[1].isdigit():
            scale = 1024 if len(words) > 2 and words[2] == b"kB" else 1
            found[text(words[0].rstrip(b":"))] = int(words[1]) * scale
    return found


def text(data: bytes) -> str:
    """Bytes from the kernel as a string; what is not UTF-8 becomes surrogate escapes."""
    return data.decode("utf-8", "surrogateescape")


def ancestry(cgroup: str) -> list[str]:
    """The cgroup and what it lies in, up to the root."""
    path, found = "/" + cgroup.strip("/"), list[str]()
    while path != "/" and len(found) < _LEVELS_MAX:
        found.append(path)
        path = path.rpartition("/")[0] or "/"
    return [*found, "/"]


def flat(path: str) -> str:
    """A cgroup path as part of a file name."""
    return path.strip("/").replace("/", "!")[-150:] or "root"


def _read(path: str, most: int = FILE_MAX) -> bytes | None:
    """A kernel file, whole or cut. None: gone or not ours to read, which is one and the same here."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError):
        return None
    try:
        parts, size = [], 0
        while size < most and (data := os.read(fd, min(16384, most - size))):
            parts.append(data)
            size += len(data)
        return b"".join(parts)
    except OSError:
        return None
    finally:
        os.close(fd)


def _process(proc: int, pid: int) -> ProcessFacts | None:
    try:
        return procfs.read_process(proc, pid, scores=True)
    except OSError:  # hidden from us, or broken: the others are still worth a row
        return None


def _value(file: str, data: bytes) -> object:
    if file in _OF_NUMBERS:
        return numbers(data)
    line = text(data).rstrip("\n")
    return int(line) if line.isdigit() else line


def _row(facts: ProcessFacts) -> dict[str, object]:
    return {
        "pid": facts.pid,
        "start_ticks": facts.start_ticks,
        "ppid": facts.ppid,
        "comm": facts.comm,
        "cgroup": facts.cgroup,
        "uid": facts.uid,
        "state": facts.state,
        "held_bytes": facts.held_bytes,
        "anon_bytes": facts.anon_bytes,
        "shmem_bytes": facts.shmem_bytes,
        "swap_bytes": facts.swap_bytes,
        "oom_score": facts.oom_score,
        "oom_score_adj": facts.oom_score_adj,
        "growth_bytes": None,
    }


def _contained(cgroups: Iterable[str]) -> list[tuple[str, boxes.Container]]:
    """Those that are a container's, each once."""
    found = ((cgroup, boxes.of(cgroup)) for cgroup in dict.fromkeys(cgroups))
    return [(cgroup, box) for cgroup, box in found if box is not None][:_BOXES_MAX]


def _is_named(row: Mapping[str, object]) -> bool:
    return bool(row.get("name") or row.get("container"))


def _dict(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


def _waited_for(reader: threading.Thread, most_s: float) -> Iterator[None]:
    until = time.monotonic() + most_s
    while reader.is_alive() and time.monotonic() < until:
        reader.join(0.005)  # something more urgent may wait behind us
        yield


def _own(facts: dict[str, object], part: str) -> dict[str, object]:
    found = facts.setdefault(part, {})
    assert isinstance(found, dict)
    return found


def arguments(data: bytes) -> list[str]:
    """/proc/PID/cmdline as a list."""
    return text(data).rstrip("\0").split("\0")
