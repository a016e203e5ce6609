"""The scribe as it runs: forked, following a real ring, told of its end by a pipe. Turns are made by hand."""

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from oomguard.model.codec import pack
from oomguard.model.facts import (
    CgroupFacts,
    KernelKill,
    MemInfo,
    MemoryStat,
    Observation,
    ProcessFacts,
    Result,
    Survey,
    TargetId,
    VictimGone,
)
from oomguard.model.incident import Turn
from oomguard.model.policy import Amount, Clause, Daemon, Guard, KillStep, MemoryAbove, Plan, Watermark
from oomguard.model.ring import Ring
from oomguard.model.verdict import (
    Action,
    Candidate,
    Close,
    Dismiss,
    Kill,
    Nominate,
    Notify,
    Outcome,
    ProcessRef,
    Ranking,
    Snapshot,
    Victim,
)
from oomguard.workers import aftercare, blackbox, follow, kernellog, scribe

SCHEMA = json.loads((Path(scribe.__file__).parents[1] / "report" / "incident.schema.json").read_text())
VALID = jsonschema.Draft202012Validator(SCHEMA)
MS = 1_000_000
MIB = 1 << 20
HOST = TargetId("host", "/")
WEB = TargetId("web", "/system.slice/web.service")
PATIENCE_S = 20


def machine(available_mib: int) -> MemInfo:
    return MemInfo(1024 * MIB, 10 * MIB, available_mib * MIB, 0, 0)


def victim(pid: int = 1, comm: str = "leak", held_mib: int = 700, token: int = 7, start_ticks: int = 1) -> Victim:
    ref = ProcessRef(pid, start_ticks, comm, "/system.slice/leak.service", held_mib * MIB)
    return Victim(token, "process", ref.cgroup, 4711, "leak.service", (ref,), ref.held_bytes, 1)


def ranking(comm: str = "leak") -> Ranking:
    return Ranking(
        "memory",
        "auto",
        (
            Candidate(f"{comm}[1]", "/system.slice/leak.service", 700, 700 * MIB, 1, "holds most of it"),
            Candidate("db[2]", "/system.slice/db.service", 150, 150 * MIB, 2, "holds less"),
            Candidate("sshd[3]", "/system.slice/ssh.service", 5, 5 * MIB, 0, "never: unit ssh.service"),
        ),
        ("/ holds 900 MiB", "/system.slice/leak.service holds 700 MiB of it"),
    )


@dataclass
class Core:
    """What the core does to the scribe: turns into the ring, a ring of the bell, an end of the pipe."""

    state_dir: Path
    guards: tuple[Guard, ...] = (Guard("host", "/"), Guard("web", "/system.slice/web*.service"))
    daemon: Daemon = field(default_factory=Daemon)
    ring: Ring = field(default_factory=lambda: Ring.create(1 << 20))
    minutes: Ring = field(default_factory=lambda: Ring.create(1 << 16))
    kmsg: str = "/nonexistent"
    before: Callable[[], None] = lambda: None
    pid: int = 0
    number: int = 0

    def start(self) -> "Core":
        self.bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.alive, self.core_end = os.pipe2(os.O_CLOEXEC)
        self.stderr, writer = os.pipe2(os.O_CLOEXEC)
        self.fork(writer)
        os.close(writer)
        return self

    def fork(self, writer: int) -> None:
        plan = Plan("1.2.3", self.daemon, self.guards)
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.close(self.core_end)
                os.dup2(writer, 2)
                sys.stderr = os.fdopen(2, "w", closefd=False)
                self.before()
                scribe.run(self.ring, self.bell, self.alive, plan, str(self.state_dir), self.kmsg, self.minutes)
                code = 0
            finally:
                if code:
                    import traceback

                    traceback.print_exc()
                    sys.stderr.flush()
                os._exit(code)

    def turn(self, *actions: Action, outcomes: tuple[Outcome, ...] = (), told: bool = True, **seen: Any) -> int:
        """One turn of the core; its time."""
        at_ns = seen.pop("at_ns", None) or time.monotonic_ns()
        self.number += 1
        turn = Turn(self.number, Observation(at_ns, **seen), actions, outcomes)
        assert self.ring.append(pack(turn))
        if told:
            os.eventfd_write(self.bell, 1)
        return at_ns

    def kill(self, target: TargetId, who: Victim, held: bool = False, errno: int = 0, **seen: Any) -> int:
        """The turn of a hard watermark, 10 ms after now: snapshot, kill, 3 ms later the signal is out."""
        at_ns = time.monotonic_ns() + 10 * MS
        outcome = Outcome("Kill", who.token, errno, at_ns + 3 * MS, held)
        snapshot = Snapshot(target, "hard", 1, "available 40 MiB, below 51 MiB")
        kill = Kill(target, who.token, "KILL", f"{who.processes[0].comm} holding 700 MiB")
        self.turn(snapshot, kill, outcomes=(outcome,), at_ns=at_ns, **seen)
        return at_ns

    def end(self) -> str:
        """The core ends; the scribe follows. What it said."""
        if self.pid:
            os.close(self.core_end)
            finished = eventually(lambda: os.waitpid(self.pid, os.WNOHANG)[1:] if wait_ready(self.pid) else None)
            self.pid = 0
            os.close(self.alive)
            os.close(self.bell)
            self.said = os.read(self.stderr, 1 << 16).decode()
            os.close(self.stderr)
            assert finished == (0,), self.said
        return self.said

    def incidents(self) -> list[dict[str, Any]]:
        """Every incident that can be read, each of them by the schema."""
        found = []
        for path in sorted(self.state_dir.glob("incidents/*/incident.json")):
            doc = json.loads(path.read_bytes())
            assert jsonschema.exceptions.best_match(VALID.iter_errors(doc)) is None
            found.append(doc)
        return found

    def one(self, done: Callable[[dict[str, Any]], object] = lambda doc: doc["complete"]) -> dict[str, Any]:
        """The only incident, as soon as it is so."""

        def look() -> dict[str, Any] | None:
            docs = self.incidents()
            assert len(docs) <= 1
            return docs[0] if docs and done(docs[0]) else None

        return eventually(look)


def wait_ready(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def eventually(look: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


@pytest.fixture
def core(tmp_path: Path) -> Iterator[Core]:
    made = Core(tmp_path)
    yield made
    if made.pid:
        os.kill(made.pid, signal.SIGKILL)
        os.waitpid(made.pid, 0)


@pytest.fixture
def hog() -> Iterator[ProcessRef]:
    """A process of the real /proc, with a secret in its command line."""
    code = "import sys; x = bytearray(1 << 20); print('ready', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, "--password", "hunter2"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        ticks = int(Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19])
        yield ProcessRef(child.pid, ticks, "python", "/", 64 * MIB)
        child.kill()


def engage(core: Core, who: Victim, target: TargetId = HOST) -> tuple[int, int]:
    """Soft, nominate, hard, kill, gone, close on the whole machine: (opened_ns, gone_ns)."""
    opened = core.turn(Snapshot(target, "soft", 1, "available 100 MiB, below 122 MiB"), host=machine(100))
    core.turn(Nominate(target, who, ranking()), host=machine(90))
    at_ns = core.kill(target, who, host=machine(40))
    gone = VictimGone(who.token, at_ns + 33 * MS)
    reaped = Result(who.token, "Reap", 0, 5, 650 * MIB)
    core.turn(host=machine(740), gone=(gone,), results=(reaped,), at_ns=gone.at_ns)
    outcome = "the victim is gone, memory is clearly over both watermarks"
    core.turn(Close(target, 1, outcome), host=machine(745), at_ns=gone.at_ns + 1000 * MS)
    return opened, gone.at_ns


def test_a_whole_engagement(core: Core, hog: ProcessRef) -> None:
    core.start()
    ref = replace(hog, held_bytes=700 * MIB)
    who = replace(victim(), processes=(ref,))
    opened, _ = engage(core, who)
    doc = core.one()
    assert (doc["policy"], doc["cgroup"], doc["kind"], doc["mode"]) == ("host", "/", "hard", "enforce")
    assert doc["killed_by"] == "oomguard"
    (told,) = doc["victims"]
    assert told == {"pid": hog.pid, "comm": "python", "cgroup": "/", "bytes": 700 * MIB, "by": "oomguard"}
    assert doc["latency_ms"] == 3.0
    assert doc["gone_ms"] == 30.0
    assert doc["freed_bytes"] == 705 * MIB
    assert doc["freed_how"] == "MemAvailable rose from 40.0 MiB to 745 MiB"
    assert doc["kills"][0]["reaped_bytes"] == 650 * MIB
    assert [entry["what"] for entry in doc["timeline"]] == ["soft", "nominate", "hard", "kill", "gone", "reap", "close"]
    assert [turn["number"] for turn in doc["ring"]] == [1, 2, 3, 4, 5]
    assert doc["opened_ns"] == opened
    assert doc["ranking"]["candidates"][2]["why"] == "never: unit ssh.service"
    assert doc["guard"]["name"] == "host"
    assert not doc["ended"]
    assert not doc["lost"]
    assert re.fullmatch(r"\d{8}T\d{6}Z-host-[0-9a-f]{6}", doc["id"])
    assert doc["time"].replace("-", "").replace(":", "").startswith(doc["id"][:15])
    assert core.end() == ""


def test_a_victim_in_a_container_is_told_with_it(core: Core, hog: ProcessRef) -> None:
    core.start()
    box = f"/machine.slice/libpod-{'0123456789abcdef' * 4}.scope"
    who = replace(victim(), cgroup=box, processes=(replace(hog, cgroup=f"{box}/container", held_bytes=700 * MIB),))
    engage(core, who)
    told = core.one()["evidence"]["containers"]
    assert set(told) == {box, f"{box}/container"}
    assert {row["engine"] for row in told.values()} == {"podman"}
    assert core.end() == ""


def test_the_evidence_of_an_engagement(core: Core, hog: ProcessRef) -> None:
    core.start()
    who = replace(victim(), processes=(hog,))
    core.turn(Nominate(HOST, who, ranking()), host=machine(110))
    core.turn(Snapshot(HOST, "soft", 1, "low"), host=machine(100))
    doc = core.one(lambda doc: "cmdlines" in doc["evidence"])
    evidence = doc["evidence"]
    assert evidence["meminfo"]["soft"]["MemTotal"] == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert "pgfault" in evidence["vmstat"]["soft"]
    owners = evidence["owners"]["soft"]
    assert sum(row["bytes"] for row in owners["rows"]) == evidence["meminfo"]["soft"]["MemTotal"]
    row = next(row for row in evidence["processes"] if row["pid"] == hog.pid)
    assert row["ppid"] == os.getpid()
    assert row["held_bytes"] >= MIB
    # The victim's own command line is there, the secret in it is not.
    assert evidence["cmdlines"][str(hog.pid)].endswith("--password [redacted]")
    directory = core.state_dir / "incidents" / doc["id"]
    raw = directory / "raw" / "soft"  # what was read is told first, the files themselves come after
    assert eventually((raw / "meminfo").is_file)
    assert eventually((raw / f"victim.{hog.pid}.stat").is_file)
    assert (raw / "meminfo").read_bytes().startswith(b"MemTotal:")
    assert (raw / f"victim.{hog.pid}.stat").read_bytes().startswith(b"%d (python" % hog.pid)
    assert directory.stat().st_mode & 0o777 == 0o750
    assert (directory / "incident.json").stat().st_mode & 0o777 == 0o640
    assert "hunter2" not in "".join(path.read_text(errors="replace") for path in directory.rglob("*") if path.is_file())


def test_who_is_nominated_while_evidence_is_read_is_read_as_well(core: Core, hog: ProcessRef) -> None:
    """As it is with every leak: the watermark first, and a look later who is to die."""
    it = scribe.Scribe(core.ring, Plan("1.2.3", core.daemon, core.guards), str(core.state_dir), core.kmsg)
    core.bell = os.eventfd(0)
    core.turn(Snapshot(HOST, "soft", 1, "low"), host=machine(100))
    it.follow()
    for _ in range(4):
        it.step()
    core.turn(Nominate(HOST, replace(victim(), processes=(hog,)), ranking()), host=machine(90))
    it.follow()
    while it.step():
        pass
    (doc,) = core.incidents()
    assert [entry["stage"] for entry in doc["evidence"]["taken"]] == ["soft", "soft"]
    assert (core.state_dir / "incidents" / doc["id"] / "raw" / "soft" / f"victim.{hog.pid}.status").is_file()
    os.close(core.bell)


def test_a_service_is_measured_by_its_cgroup(core: Core) -> None:
    def web(current_mib: int) -> CgroupFacts:
        return CgroupFacts(WEB.cgroup, 5, current_mib * MIB, MemoryStat(0, 20 * MIB, 0, 0), limit_bytes=256 * MIB)

    core.start()
    core.turn(Snapshot(WEB, "soft", 1, "220 MiB of 256"), cgroups=(web(240),), host=machine(700))
    core.turn(Nominate(WEB, victim(), ranking()), cgroups=(web(245),))
    at_ns = core.kill(WEB, victim(), cgroups=(web(250),))
    core.turn(gone=(VictimGone(7, at_ns + 9 * MS),), cgroups=(web(50),), host=machine(900))
    core.turn(Close(WEB, 1, "calm"))
    doc = core.one()
    assert doc["freed_bytes"] == 200 * MIB
    assert doc["freed_how"] == f"unreclaimable memory of {WEB.cgroup} fell from 230 MiB to 30.0 MiB"


def test_the_whole_service_went_and_its_cgroup_with_it(core: Core) -> None:
    core.start()
    facts = CgroupFacts(WEB.cgroup, 5, 250 * MIB, MemoryStat(0, 0, 0, 0))
    core.turn(Snapshot(WEB, "soft", 1, "much"), Nominate(WEB, victim(), ranking()), cgroups=(facts,))
    at_ns = core.kill(WEB, victim(), cgroups=(facts,))
    gone = (VictimGone(7, at_ns + 9 * MS),)
    core.turn(Close(WEB, 1, "the cgroup is gone"), gone=gone, vanished=(WEB,))
    assert core.one()["freed_bytes"] == 250 * MIB


def test_hard_without_soft(core: Core) -> None:
    core.start()
    core.turn(Snapshot(HOST, "hard", 9, "a jump"), host=machine(30))
    core.turn(Nominate(HOST, victim(), ranking()), host=machine(30))
    at_ns = time.monotonic_ns()
    core.turn(Kill(HOST, 7, "KILL", "x"), outcomes=(Outcome("Kill", 7, 0, at_ns + MS),), at_ns=at_ns)
    core.turn(Close(HOST, 9, "calm"))
    doc = core.one()
    assert (doc["kind"], doc["number"]) == ("hard", 9)
    assert doc["evidence"]["processes"]
    assert doc["latency_ms"] >= 1


def test_the_nominee_of_before_the_opening_is_remembered(core: Core) -> None:
    """A service that hovers at its soft watermark keeps its nominee, but opens one incident a minute at most."""
    core.start()
    core.turn(Nominate(HOST, victim(token=6), ranking()), told=False)
    core.turn(Dismiss(HOST, 6), Nominate(HOST, victim(pid=2), ranking()), told=False)
    core.kill(HOST, victim(pid=2), host=machine(40))
    core.turn(Close(HOST, 1, "calm"))
    assert [row["pid"] for row in core.one()["victims"]] == [2]


def test_the_victims_size_is_that_of_the_last_look(core: Core) -> None:
    """It is nominated once, at 100 MiB, and killed at 800."""

    def survey(held_mib: int) -> Survey:
        leak = ProcessFacts(1, 1, 0, "leak", "/system.slice/leak.service", 0, "R", held_mib * MIB, 0, 0)
        return Survey(HOST, "heaviest", (), (leak,), 1)

    core.start()
    core.turn(Snapshot(HOST, "soft", 1, "low"), host=machine(100))
    core.turn(Nominate(HOST, victim(held_mib=100), ranking()), surveys=(survey(100),), host=machine(100))
    core.turn(surveys=(survey(500),), told=False)
    core.kill(HOST, victim(), surveys=(survey(800),))
    core.turn(Close(HOST, 1, "calm"), surveys=(survey(3),))
    doc = core.one()
    assert doc["victims"][0]["bytes"] == doc["kills"][0]["held_bytes"] == 800 * MIB


def test_observe_mode(tmp_path: Path, core: Core) -> None:
    core.guards = (Guard("host", "/", mode="observe"),)
    core.start()
    core.turn(Snapshot(HOST, "soft", 1, "low"), Nominate(HOST, victim(), ranking()), host=machine(90))
    core.kill(HOST, victim(), held=True, host=machine(40))
    core.turn(Close(HOST, 1, "calm"), host=machine(300))
    doc = core.one()
    assert (doc["mode"], doc["killed_by"], doc["kind"], doc["freed_bytes"]) == ("observe", "none", "hard", 0)
    assert [(row["pid"], row["by"]) for row in doc["victims"]] == [(1, "none")]
    assert doc["latency_ms"] == 3.0
    assert "would have sent SIGKILL" in next(entry["text"] for entry in doc["timeline"] if entry["what"] == "kill")


def test_a_kill_that_failed_has_no_victim(core: Core) -> None:
    core.start()
    core.turn(Snapshot(HOST, "soft", 1, "low"), Nominate(HOST, victim(), ranking()), host=machine(90))
    core.kill(HOST, victim(), errno=1)
    core.turn(Close(HOST, 1, "calm"))
    doc = core.one()
    assert (doc["killed_by"], doc["victims"], doc["latency_ms"]) == ("none", [], None)
    assert "failed with errno 1" in next(entry["text"] for entry in doc["timeline"] if entry["what"] == "kill")


def test_term_then_kill_is_one_victim(core: Core) -> None:
    core.start()
    core.turn(Snapshot(HOST, "hard", 1, "low"), Nominate(HOST, victim(), ranking()), host=machine(90))
    at_ns = time.monotonic_ns()
    core.turn(Kill(HOST, 7, "TERM", "x"), outcomes=(Outcome("Kill", 7, 0, at_ns + MS),), at_ns=at_ns)
    late = (Outcome("Kill", 7, 0, at_ns + 2000 * MS),)
    core.turn(Kill(HOST, 7, "KILL", "did not end in its grace"), outcomes=late, at_ns=at_ns + 1999 * MS)
    core.turn(Close(HOST, 1, "calm"), gone=(VictimGone(7, at_ns + 2011 * MS),), at_ns=at_ns + 3000 * MS)
    doc = core.one()
    assert len(doc["victims"]) == len(doc["kills"]) == 1
    assert doc["kills"][0]["signal"] == "KILL"
    assert doc["gone_ms"] == 2010


KMSG = (
    b"6,100,%(at)d,-;stress invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0\n",
    b"6,101,%(at)d,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,"
    b"oom_memcg=/system.slice/web.service,task_memcg=/system.slice/web.service/worker,task=stress,pid=812,uid=1000\n",
    b"3,102,%(at)d,-;Memory cgroup out of memory: Killed process 812 (stress) total-vm:8392kB, anon-rss:4096kB, "
    b"file-rss:1024kB, shmem-rss:0kB, UID:1000 pgtables:52kB oom_score_adj:0\n",
)


class KernelLog:
    """A kernel log of our own: a fifo of datagrams would be right, a socket pair is one."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import socket

        from oomguard.linux import kmsg

        self.ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.theirs = theirs

        class Fake(kmsg.KmsgFile):
            def __init__(self, path: str) -> None:
                theirs.setblocking(False)
                self.path, self.fd, self.lost = path, theirs.fileno(), 0

        monkeypatch.setattr(kernellog, "KmsgFile", Fake)

    def say(self) -> None:
        for line in KMSG:
            self.ours.send(line % {b"at": time.monotonic_ns() // 1000})


@pytest.fixture
def kernel_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KernelLog:
    return KernelLog(tmp_path, monkeypatch)


def test_a_kernel_kill_names_its_victim(core: Core, kernel_log: KernelLog) -> None:
    """The fact only counts; who it was stands in the kernel's log."""
    core.start()
    kernel_log.say()
    text = "the kernel's OOM killer ended 1 process(es)"
    kill = KernelKill(WEB.cgroup, 1)
    core.turn(Snapshot(WEB, "kernel", 1, text), Close(WEB, 1, "no watermark was crossed"), kernel_kills=(kill,))
    doc = core.one()
    assert (doc["kind"], doc["killed_by"], doc["policy"]) == ("kernel", "kernel", "web")
    expected = {"pid": 812, "comm": "stress", "cgroup": f"{WEB.cgroup}/worker", "bytes": 4 * MIB, "by": "kernel"}
    assert doc["victims"] == [expected]
    assert any("invoked oom-killer" in line for line in doc["evidence"]["kernel_log"])


def test_the_kernels_report_and_why_nobody_else_acted(core: Core, kernel_log: KernelLog) -> None:
    high = CgroupFacts(WEB.cgroup, 1, 182 * MIB, MemoryStat(182 * MIB, 0, 0, 0), limit_bytes=256 * MIB)
    when = (Clause((MemoryAbove(Amount(share=0.85)),)),)
    core.guards = (Guard("web", WEB.cgroup, hard=Watermark(when, (KillStep(),))),)
    core.turn(cgroups=(high,), told=False, at_ns=time.monotonic_ns() - 1000 * MS)
    core.start()
    kernel_log.say()
    core.turn(Snapshot(WEB, "kernel", 1, "the kernel killed"), kernel_kills=(KernelKill(WEB.cgroup, 1),))
    core.turn(Close(WEB, 1, "no watermark was crossed"))
    doc = core.one()
    (report,) = doc["kernel_reports"]
    assert (report["oom_memcg"], report["unit"], report["victim"]["pid"]) == (WEB.cgroup, "web.service", 812)
    assert doc["no_guard"]["reason"] == "watermark"
    assert doc["no_guard"]["text"].endswith("memory 71.1 % of 85 %")
    assert doc["verdict"]["unable"] == "watermark"
    assert doc["verdict"]["kernel_killed"] is True


def test_kills_of_the_kernel_in_a_loop_are_one_incident(core: Core) -> None:
    core.start()
    for number in range(5):
        kill = KernelKill(WEB.cgroup, 1, 100 + number, "web")
        core.turn(Snapshot(WEB, "kernel", 3, "the kernel killed"), kernel_kills=(kill,))
        core.turn(vanished=(WEB,))
    core.turn(Close(WEB, 3, "no watermark was crossed"))
    assert [row["pid"] for row in core.one()["victims"]] == [100, 101, 102, 103, 104]


def test_what_became_of_it_is_appended_to_what_is_complete(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aftercare, "AT_S", (0.05, 1.5, 2.5))
    core.start()
    core.turn(Snapshot(HOST, "hard", 1, "low"), Nominate(HOST, victim(), ranking()), host=machine(40))
    at_ns = time.monotonic_ns()
    core.turn(Kill(HOST, 7, "KILL", "x"), outcomes=(Outcome("Kill", 7, 0, at_ns),), at_ns=at_ns, host=machine(40))
    gone = (VictimGone(7, at_ns + MS),)
    core.turn(Close(HOST, 1, "calm"), gone=gone, at_ns=at_ns + 2 * MS, host=machine(700))
    first = core.one()
    assert first["verdict"]["helped"] is True
    last = core.one(lambda doc: doc["complete"] and len(doc["after"]) == 3)
    assert [look["at_s"] for look in last["after"]] == sorted(look["at_s"] for look in last["after"])
    assert last["after"][0]["available_bytes"] > 0
    assert {**last, "after": [], "verdict": None} == {**first, "after": [], "verdict": None}, "nothing else has changed"
    assert last["ring"] == first["ring"]


PRESSURE = "some avg10=90.00 avg60=80.00 avg300=1.00 total=5\nfull avg10=90.00 avg60={:.2f} avg300=1.00 total=5\n"


def test_a_machine_that_stands_still_while_nobody_can_act(
    core: Core, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon that looked several times a second for seven minutes and never said why it did nothing."""
    monkeypatch.setattr(scribe, "_PRESSED_EVERY_NS", 20 * MS)
    monkeypatch.setattr(scribe, "_BEAT_S", 0.05)
    monkeypatch.setattr(follow, "IDLE_S", 0.05)
    proc = tmp_path / "proc"
    (proc / "pressure").mkdir(parents=True)
    pressure = proc / "pressure" / "memory"
    pressure.write_text(PRESSURE.format(40))
    core.daemon = Daemon(proc=str(proc))
    core.guards = (Guard("host", "/", hard=Watermark((), (KillStep(),))),)
    told = Notify(HOST, "NO_VICTIM", "nobody may be killed; the largest, db[2] with 900 MiB: never")
    core.number += 1
    moved = Turn(core.number, Observation(time.monotonic_ns()), (told,), (), (("host", "/", "cooling"),))
    assert core.ring.append(pack(moved))
    core.start()
    doc = core.one(lambda doc: True)
    assert (doc["kind"], doc["policy"], doc["killed_by"]) == ("stall", "host", "none")
    assert doc["why"]["stall"] == "the machine stood still for 40 % of a minute (PSI full)"
    assert doc["no_guard"] == {"reason": "candidates", "text": f"policy host: {told.text}"}
    pressure.write_text(PRESSURE.format(5))
    doc = core.one()
    assert doc["outcome"] == "the pressure has eased"
    assert doc["verdict"]["unable"] == "candidates"


def test_a_machine_that_stands_still_and_is_being_helped_is_no_incident_of_its_own(
    core: Core, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scribe, "_PRESSED_EVERY_NS", 20 * MS)
    monkeypatch.setattr(follow, "IDLE_S", 0.05)
    (tmp_path / "proc" / "pressure").mkdir(parents=True)
    (tmp_path / "proc" / "pressure" / "memory").write_text(PRESSURE.format(90))
    core.daemon = Daemon(proc=str(tmp_path / "proc"))
    moved = Turn(1, Observation(time.monotonic_ns()), (Kill(HOST, 7, "KILL", "x"),), (), (("host", "/", "draining"),))
    assert core.ring.append(pack(moved))
    core.start()
    time.sleep(0.5)
    core.end()
    assert core.incidents() == []


def test_a_cgroup_that_stands_still_and_no_guard_covers(
    core: Core, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scribe, "_PRESSED_EVERY_NS", 20 * MS)
    monkeypatch.setattr(scribe, "_BEAT_S", 0.05)
    monkeypatch.setattr(follow, "IDLE_S", 0.05)
    (tmp_path / "proc" / "pressure").mkdir(parents=True)
    (tmp_path / "proc" / "pressure" / "memory").write_text(PRESSURE.format(3))
    stuck = tmp_path / "cgroup" / "stuck.service"
    stuck.mkdir(parents=True)
    (stuck / "memory.pressure").write_text(PRESSURE.format(60))
    for file in ("max", "current"):
        (stuck / f"memory.{file}").write_text("1048576\n")
    core.daemon = Daemon(proc=str(tmp_path / "proc"), cgroup=str(tmp_path / "cgroup"))
    assert core.ring.append(pack(Turn(1, Observation(1), (), (), (("host", "/", "calm"),))))
    core.start()
    doc = core.one(lambda doc: "cgroups" in doc["evidence"])
    assert (doc["kind"], doc["policy"], doc["cgroup"], doc["killed_by"]) == ("stall", "", "/stuck.service", "none")
    assert "-stall-" in doc["id"]
    assert doc["why"]["stall"] == "/stuck.service stood still for 60 % of a minute (PSI full)"
    text = "no guard watches /stuck.service itself; policy host watches the machine"
    assert doc["no_guard"] == {"reason": "uncovered", "text": text}
    assert doc["evidence"]["cgroups"]["soft"]["/stuck.service"]["memory.max"] == 1048576
    (stuck / "memory.pressure").write_text(PRESSURE.format(3))
    assert core.one()["outcome"] == "the pressure has eased"


def test_the_kernel_was_faster_than_we(core: Core, kernel_log: KernelLog) -> None:
    core.start()
    core.turn(Snapshot(WEB, "soft", 1, "220 of 256"), Nominate(WEB, victim(), ranking()))
    kernel_log.say()
    core.turn(Snapshot(WEB, "kernel", 1, "the kernel killed"), kernel_kills=(KernelKill(WEB.cgroup, 1),))
    core.turn(Close(WEB, 1, "calm"))
    doc = core.one()
    assert (doc["kind"], doc["killed_by"], doc["victims"][0]["pid"]) == ("kernel", "kernel", 812)


def test_a_kernel_kill_belongs_to_the_innermost_guard(core: Core) -> None:
    core.start()
    core.turn(Snapshot(HOST, "soft", 1, "low"))
    core.turn(Snapshot(WEB, "kernel", 2, "x"), Close(WEB, 2, "x"), kernel_kills=(KernelKill(WEB.cgroup, 1, 5, "a"),))
    core.turn(Close(HOST, 1, "calm"))
    docs = eventually(lambda: [doc for doc in core.incidents() if doc["complete"]][1:] and core.incidents())
    assert {doc["policy"]: doc["kind"] for doc in docs} == {"host": "soft", "web": "kernel"}


def test_a_kernel_kill_that_no_guard_covers(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scribe, "_QUIET_NS", 200 * MS)
    core.guards = (Guard("web", WEB.cgroup),)
    core.start()
    core.turn(kernel_kills=(KernelKill("/other", 1, 42, "x"), KernelKill("/", 1)))
    core.turn(kernel_kills=(KernelKill("/other", 1, 43, "y"),))  # the storm goes on: still one incident
    doc = core.one()
    assert (doc["policy"], doc["cgroup"], doc["kind"]) == ("", "/other", "kernel")
    assert [row["pid"] for row in doc["victims"]] == [42, 43]
    assert "-kernel-" in doc["id"]


def test_the_core_dies_in_the_middle(core: Core) -> None:
    core.start()
    core.turn(Snapshot(HOST, "soft", 1, "low"), Nominate(HOST, victim(), ranking()), host=machine(90))
    core.kill(HOST, victim(), host=machine(40))
    core.end()
    (doc,) = core.incidents()
    assert (doc["complete"], doc["ended"]) == (False, "the daemon ended")
    assert doc["killed_by"] == "oomguard"
    assert [turn["number"] for turn in doc["ring"]] == [1, 2]
    assert not list(core.state_dir.glob("incidents/*/ring.jsonl"))


def test_the_scribe_dies_in_the_middle_and_its_successor_goes_on(core: Core) -> None:
    core.start()
    core.turn(Snapshot(HOST, "soft", 1, "low"), Nominate(HOST, victim(), ranking()), host=machine(90))
    core.one(lambda doc: "cmdlines" in doc["evidence"])
    os.kill(core.pid, signal.SIGKILL)
    os.waitpid(core.pid, 0)
    core.kill(HOST, victim(), host=machine(40))
    core.start()
    core.turn(Close(HOST, 1, "calm"), host=machine(500))
    doc = core.one()
    assert (doc["kind"], doc["killed_by"], doc["lost"]["scribe_restarts"]) == ("hard", "oomguard", 1)
    assert [turn["number"] for turn in doc["ring"]] == [1, 2, 3]
    assert "soft" in doc["evidence"]["meminfo"]


def test_a_finished_incident_is_not_written_again_by_a_successor(core: Core) -> None:
    core.start()
    engage(core, victim())
    before = core.one()
    os.kill(core.pid, signal.SIGKILL)
    os.waitpid(core.pid, 0)
    core.start()
    core.end()
    assert core.incidents() == [before]


def test_what_a_lost_machine_left_open_is_finished_at_the_next_start(core: Core) -> None:
    core.start()
    core.turn(Snapshot(HOST, "soft", 1, "low"), host=machine(90))
    core.one(lambda doc: "cmdlines" in doc["evidence"])
    core.turn(host=machine(80))
    (ring,) = eventually(lambda: list(core.state_dir.glob("incidents/*/ring.jsonl")))
    eventually(lambda: ring.read_bytes().count(b"\n") == 2)
    os.kill(core.pid, signal.SIGKILL)
    os.waitpid(core.pid, 0)
    with ring.open("ab") as file:
        file.write(b'{"kind": "Turn", "number": 3, "se')  # the power went here
    core.ring = Ring.create(1 << 20)
    core.start()
    doc = core.one(lambda doc: doc["ended"])
    assert not doc["complete"]
    assert doc["ended"] == "the daemon or the machine stopped before it was finished"
    assert [turn["number"] for turn in doc["ring"]] == [1, 2]
    eventually(lambda: not ring.exists())


def boxed(core: Core) -> list[int]:
    """The turns that are in the black box."""
    box = blackbox.BlackBox(str(core.state_dir / "blackbox"))
    payloads = [box.payload(frame) for frame in sorted(filter(None, box.frames())) if frame.kind == blackbox.TURNS]
    return [json.loads(line)["number"] for payload in payloads for line in payload.split(b"\n")]


@pytest.mark.parametrize("lost", ["its files", "its directory", "its last turns", "half of incident.json"])
def test_what_only_the_black_box_has_is_given_back(core: Core, lost: str) -> None:
    """The power goes: what was not yet on the disk is not there, but the box is written past every cache."""
    core.start()
    core.turn(Snapshot(HOST, "soft", 1, "low"), Nominate(HOST, victim(), ranking()), host=machine(90))
    core.kill(HOST, victim(), host=machine(40))
    core.one(lambda doc: "cmdlines" in doc["evidence"] and doc["kind"] == "hard")
    (ring,) = eventually(lambda: list(core.state_dir.glob("incidents/*/ring.jsonl")))
    eventually(lambda: ring.read_bytes().count(b"\n") == 2)
    (core.state_dir / "incidents" / "notes.txt").write_text("not ours")
    eventually(lambda: boxed(core) == [1, 2])
    os.kill(core.pid, signal.SIGKILL)
    os.waitpid(core.pid, 0)
    if lost == "its files":
        ring.write_bytes(b"")
        (ring.parent / "incident.json").unlink()
    elif lost == "its directory":
        shutil.rmtree(ring.parent)
    elif lost == "its last turns":
        ring.write_bytes(ring.read_bytes()[:-20])
    else:
        (ring.parent / "incident.json").write_bytes((ring.parent / "incident.json").read_bytes()[:99])
    core.ring = Ring.create(1 << 20)
    core.start()
    eventually(lambda: (ring.parent / "incident.json").exists() and not ring.exists())
    doc = core.one(lambda doc: doc["ended"])
    assert (doc["complete"], doc["kind"], doc["killed_by"]) == (False, "hard", "oomguard")
    assert [turn["number"] for turn in doc["ring"]] == [1, 2]
    eventually(lambda: not ring.exists())
    assert (core.state_dir / "incidents" / "notes.txt").read_text() == "not ours"
    core.end()
    assert blackbox.BlackBox(str(core.state_dir / "blackbox")).unended() == {}


def opened_late(core: Core) -> Path:
    """An incident of which the power left the box, and nothing of its own files but its first minute."""
    now = time.monotonic_ns()
    for age_s in (100, 50):
        core.turn(at_ns=now - age_s * 1000 * MS, told=False, host=machine(500))
    core.start()
    core.turn(Snapshot(HOST, "soft", 1, "low"), Nominate(HOST, victim(), ranking()), host=machine(90))
    core.one(lambda doc: "cmdlines" in doc["evidence"])
    (ring,) = eventually(lambda: list(core.state_dir.glob("incidents/*/ring.jsonl")))
    eventually(lambda: boxed(core) == [1, 2, 3])
    os.kill(core.pid, signal.SIGKILL)
    os.waitpid(core.pid, 0)
    ring.write_bytes(b"".join(ring.read_bytes().splitlines(keepends=True)[:1]))
    core.ring = Ring.create(1 << 20)
    return ring


def forget(core: Core, *kinds: int) -> None:
    """The box has no frame of these kinds."""
    box = blackbox.BlackBox(str(core.state_dir / "blackbox"))
    with (core.state_dir / "blackbox").open("r+b") as file:
        for frame in [frame for frame in box.frames() if frame is not None and frame.kind in kinds]:
            file.seek(frame.offset // blackbox.BLOCK * blackbox.BLOCK)
            file.write(bytes(blackbox.BLOCK))


def test_the_turn_that_opened_it_is_in_the_box_ahead_of_the_minutes(core: Core) -> None:
    """A scribe that is behind copies two minutes first; cut off meanwhile, the record would end before its opening."""
    opened_late(core)
    forget(core, blackbox.TURNS)
    core.start()
    doc = core.one(lambda doc: doc["ended"] and doc["ring"])
    assert [turn["number"] for turn in doc["ring"]] == [1, 3]
    assert doc["ring"][-1]["seen"]["at_ns"] == doc["opened_ns"]
    assert doc["lost"]["ring_gaps"] == 1
    assert doc["ended"] == "the daemon or the machine stopped before it was finished"


def test_a_record_that_ends_before_its_opening_says_so(core: Core) -> None:
    opened_late(core)
    forget(core, blackbox.TURNS, blackbox.OPENING)
    core.start()
    doc = core.one(lambda doc: doc["ended"] and doc["ring"])
    assert [turn["number"] for turn in doc["ring"]] == [1]
    assert doc["ended"].endswith("before it was finished, and of its turns only those before its opening were kept")


def test_what_could_not_be_written_comes_with_the_next_start(core: Core) -> None:
    incidents = core.state_dir / "incidents"
    incidents.write_text("a file stands here")
    core.start()
    box = core.state_dir / "blackbox"
    core.turn(Snapshot(HOST, "soft", 1, "low"), Nominate(HOST, victim(), ranking()), host=machine(90))
    eventually(lambda: box.exists() and box.stat().st_size == blackbox.BYTES and boxed(core) == [1])
    at_ns = core.kill(HOST, victim(), host=machine(40))
    core.turn(Close(HOST, 1, "calm"), host=machine(740), gone=(VictimGone(7, at_ns + 9 * MS),), at_ns=at_ns + 9 * MS)
    eventually(lambda: boxed(core) == [1, 2, 3])
    assert "not written" in core.end()
    incidents.unlink()
    core.ring = Ring.create(1 << 20)
    core.start()
    doc = core.one(lambda doc: doc["ended"] and doc["ring"])
    assert (doc["kind"], doc["killed_by"], doc["freed_bytes"]) == ("hard", "oomguard", 700 * MIB)
    assert [turn["number"] for turn in doc["ring"]] == [1, 2, 3]
    assert doc["lost"]["incident.json"] >= 1


def test_killed_at_any_moment_it_leaves_what_can_be_read(core: Core) -> None:
    """Twelve times, at moments spread over an engagement; then the next daemon comes."""
    (core.state_dir / "incidents").mkdir()
    for moment in range(12):
        core.ring = Ring.create(1 << 20)
        core.start()
        engage(core, victim())
        time.sleep(moment * 0.008)
        os.kill(core.pid, signal.SIGKILL)
        os.waitpid(core.pid, 0)
    core.ring = Ring.create(1 << 20)
    core.start()
    eventually(lambda: not list(core.state_dir.glob("incidents/*/ring.jsonl")))
    core.end()
    directories = list((core.state_dir / "incidents").iterdir())
    docs = core.incidents()
    assert len(docs) == len(directories)
    assert all(doc["complete"] or doc["ended"] for doc in docs)


def test_the_ring_before_the_opening_and_what_is_too_old(core: Core) -> None:
    now = time.monotonic_ns()
    for age_s in (300, 130, 119, 60, 1):
        core.turn(at_ns=now - age_s * 1000 * MS, told=False, host=machine(500))
    core.start()
    core.turn(Snapshot(HOST, "soft", 1, "low"))
    core.turn(told=False)
    core.turn(Close(HOST, 1, "calm"))
    assert [turn["number"] for turn in core.one()["ring"]] == [3, 4, 5, 6, 7, 8]


def test_the_minutes_are_there_when_a_storm_has_filled_the_ring(core: Core) -> None:
    """Thin observations of the time before; from where the ring begins, its own turns."""
    now = time.monotonic_ns()
    core.ring = Ring.create(16384)
    for number in range(1, 200):
        at_ns = now - (200 - number) * 500 * MS
        core.number = number - 1
        core.turn(at_ns=at_ns, told=False, host=machine(500 - number))
        if number % 2:
            assert core.minutes.append(pack(Turn(number, Observation(at_ns, host=machine(500 - number)), (), ())))
    core.start()
    core.turn(Snapshot(HOST, "soft", 1, "low"))
    core.turn(Close(HOST, 1, "calm"))
    numbers = [turn["number"] for turn in core.one()["ring"]]
    assert numbers == sorted(set(numbers))
    assert numbers[:3] == [1, 3, 5]
    assert numbers[-4:] == [198, 199, 200, 201]


def test_growth_since_the_ring_began(core: Core, hog: ProcessRef) -> None:
    def survey(held_mib: int) -> Survey:
        facts = ProcessFacts(hog.pid, hog.start_ticks, 1, "python", "/", 0, "R", held_mib * MIB, 0, 0)
        return Survey(HOST, "heaviest", (), (facts,), 1)

    core.turn(surveys=(survey(10),), told=False)
    core.start()
    core.turn(Snapshot(HOST, "soft", 1, "low"))
    core.turn(surveys=(survey(400),))
    core.turn(Close(HOST, 1, "calm"))
    rows = core.one()["evidence"]["processes"]
    assert next(row["growth_bytes"] for row in rows if row["pid"] == hog.pid) == 390 * MIB
    assert next(row["growth_bytes"] for row in rows if row["pid"] == os.getpid()) is None


def test_turns_over_the_limit_are_cut_and_counted_but_not_those_that_matter(
    core: Core, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scribe, "RING_BYTES", 4000)
    core.start()
    core.turn(Snapshot(HOST, "soft", 1, "low"))
    for _ in range(50):
        core.turn(told=False, host=machine(90))
    core.turn(Close(HOST, 1, "calm"))
    doc = core.one()
    assert doc["lost"]["ring_cut"] > 20
    assert doc["ring"][-1]["actions"][0]["kind"] == "Close"


def test_a_writer_that_laps_the_scribe_is_told(core: Core) -> None:
    core.ring = Ring.create(16384)
    core.start()
    core.turn(Snapshot(HOST, "soft", 1, "low"))
    core.one(lambda doc: True)
    os.kill(core.pid, signal.SIGSTOP)
    for _ in range(200):
        core.turn(told=False, host=machine(90))
    core.turn(Close(HOST, 1, "calm"))
    os.kill(core.pid, signal.SIGCONT)
    doc = core.one()
    assert doc["lost"]["ring_gaps"] >= 1
    assert len(doc["ring"]) < 200
    assert doc["ring"][-1]["number"] == 202


HOSTILE = ("a\nb", "\x1b[31mred", "ab\udcff\udcfe", "<script>", "[bold]x[/]", "\u202eevil", '")}]\\', "😀")


@pytest.mark.parametrize("comm", HOSTILE)
def test_hostile_names(core: Core, comm: str) -> None:
    core.guards = (Guard("../../etc\n\x1b", "/"),)
    target = TargetId("../../etc\n\x1b", "/")
    core.start()
    who = replace(victim(comm=comm), processes=(ProcessRef(1, 1, comm, f"/{comm}", MIB),))
    core.turn(Snapshot(target, "soft", 1, comm), Nominate(target, who, ranking(comm)))
    core.kill(target, who)
    core.turn(Close(target, 1, comm))
    doc = core.one()
    told = doc["victims"][0]["comm"]
    assert told.encode("utf-8")  # no half surrogates: every JSON parser takes it
    assert told == comm.replace("\udcff", "\\xff").replace("\udcfe", "\\xfe")
    assert "/" not in doc["id"]


def test_a_full_disk(core: Core, tmp_path: Path) -> None:
    """RLIMIT_FSIZE: a file ends after 2 KiB, with EFBIG instead of ENOSPC. Nothing half is left, the loss is said."""
    core.before = lambda: (
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048)),
    )  # type: ignore[func-returns-value]
    core.start()
    engage(core, victim())
    said = core.end()
    assert core.incidents() == []
    assert "incident.json not written" in said
    assert said.startswith("<3>oomguard scribe: ")
    assert len(said.splitlines()) <= 4
    assert not list(core.state_dir.rglob("*.tmp"))


@contextlib.contextmanager
def small_disk(core: Core, options: str) -> Iterator[Path]:
    """The state directory is a file system of its own; the core ends before that does."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    core.state_dir = core.state_dir / "state"
    core.state_dir.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "none", core.state_dir]
    done = subprocess.run(command, stderr=subprocess.PIPE, check=False)
    if done.returncode:
        pytest.skip(f"no mount here: {done.stderr.decode()}")
    try:
        yield core.state_dir
        core.end()
    finally:
        subprocess.run(["umount", "-l", core.state_dir], check=True)


def test_a_disk_that_is_full_first_and_has_room_later(core: Core) -> None:
    with small_disk(core, "size=256k") as disk:
        with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        core.start()
        core.turn(Snapshot(HOST, "soft", 1, "low"), Nominate(HOST, victim(), ranking()), host=machine(90))
        eventually(lambda: b"incident.json not written" in os.read(core.stderr, 4096))
        subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
        core.kill(HOST, victim(), host=machine(40))
        core.turn(Close(HOST, 1, "calm"), host=machine(500))
        doc = core.one()
        assert doc["killed_by"] == "oomguard"
        assert doc["lost"]["incident.json"] >= 1


def test_a_read_only_disk(core: Core) -> None:
    """It follows the core to the end, and what is lost is said once."""
    with small_disk(core, "ro,size=64m"):
        core.start()
        engage(core, victim())
        said = core.end()
        assert said.count("incident.json not written") == 1
        assert "Read-only file system" in said


def test_a_directory_that_vanishes(core: Core) -> None:
    core.start()
    core.turn(Snapshot(HOST, "soft", 1, "low"), Nominate(HOST, victim(), ranking()), host=machine(90))
    core.one(lambda doc: "cmdlines" in doc["evidence"])
    (core.state_dir / "incidents").rename(core.state_dir / "elsewhere")
    core.kill(HOST, victim(), host=machine(40))
    core.turn(Close(HOST, 1, "calm"), host=machine(500))
    assert core.one()["killed_by"] == "oomguard"
    core.end()


def test_a_place_where_nothing_can_be_written(core: Core, tmp_path: Path) -> None:
    (tmp_path / "incidents").write_text("a file stands here")
    core.start()
    engage(core, victim())
    said = core.end()
    assert "not written" in said
    assert (tmp_path / "incidents").read_text() == "a file stands here"


def test_the_oldest_are_pruned_never_an_open_one_and_nothing_else(core: Core) -> None:
    incidents = core.state_dir / "incidents"
    for day in range(1, 6):
        directory = incidents / f"2020010{day}T000000Z-host-00000{day}" / "raw"
        directory.mkdir(parents=True)
        (directory / "meminfo").write_text("what is left when the disk was full")
    (incidents / "lost+found").mkdir()
    (incidents / "20190101T000000Z-host-000000").symlink_to(incidents / "lost+found")
    core.daemon = Daemon(incidents_max_count=3)
    core.start()
    core.turn(Snapshot(HOST, "soft", 1, "low"))
    doc = core.one(lambda doc: True)
    names = ["20200104T000000Z-host-000004", "20200105T000000Z-host-000005", doc["id"]]
    others = ["20190101T000000Z-host-000000", "lost+found"]
    eventually(lambda: sorted(os.listdir(incidents)) == sorted(names + others))


def test_pruning_by_bytes(core: Core) -> None:
    incidents = core.state_dir / "incidents"
    for day in range(1, 4):
        directory = incidents / f"2020010{day}T000000Z-host-00000{day}" / "raw"
        directory.mkdir(parents=True)
        (directory / "big").write_bytes(bytes(MIB))
        (directory / "link").symlink_to("/etc")
    core.daemon = Daemon(incidents_max_bytes=2 * MIB + MIB // 2)
    core.start()
    core.turn(Snapshot(HOST, "soft", 1, "low"))
    eventually(lambda: not (incidents / "20200101T000000Z-host-000001").exists())
    core.end()
    assert len(os.listdir(incidents)) == 3


def test_more_incidents_at_once_than_it_can_hold(core: Core) -> None:
    core.start()
    for number in range(40):
        core.turn(Snapshot(TargetId("many", f"/s/{number}"), "soft", number, "low"))
    said = core.end()
    assert len(core.incidents()) == 16
    assert said.count("the others are not written") == 1


def test_it_sleeps_while_nothing_happens(core: Core) -> None:
    """Calm turns ring no bell; they are taken by the handful, later."""

    def slept() -> int:
        return int(Path(f"/proc/{core.pid}/schedstat").read_text().split()[2])

    def settled() -> bool:
        before = slept()
        time.sleep(0.3)
        return slept() == before

    core.start()
    for _ in range(20):
        core.turn(told=False, host=machine(900))
    eventually(settled)  # its start and its rehearsal are no part of this
    before = slept()
    time.sleep(2.5)
    assert slept() == before


def test_the_scribe_does_not_end_with_the_signals_of_a_stop(core: Core) -> None:
    core.start()
    core.turn(Snapshot(HOST, "soft", 1, "low"))
    core.one(lambda doc: True)
    os.kill(core.pid, signal.SIGTERM)
    core.turn(Close(HOST, 1, "the daemon was stopped"))
    assert core.one()["outcome"] == "the daemon was stopped"
