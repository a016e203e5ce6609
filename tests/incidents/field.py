"""The ranked complaints of the field as worlds, and the recordings that were made of them.

    python -m tests.incidents.field        # makes tests/incidents/field/*.tar.zst anew, of those that are worlds

Some were recorded of the whole daemon: what they are about is in no judge (README.md says how). A recording is what
the judge saw and did, as `oomguard incidents export` would have brought it. It stays as it is when the judge learns:
what we conclude from it must stay true (test_field.py). A new complaint is a world here, and a file.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from oomguard.judge.decide import begin, decide
from oomguard.judge.state import seed
from oomguard.model.facts import Observation, TargetId, TargetSeen, Wake
from oomguard.model.incident import Turn
from oomguard.model.policy import AvailableBelow, Budget, Match, Plan, SwapFreeBelow, VictimRule
from oomguard.model.verdict import Kill, Outcome
from oomguard.report import export, packed
from tests.judge.world import (
    MS,
    SECOND,
    START,
    Body,
    KillStep,
    Survey,
    host_guard,
    limit_guard,
    meminfo,
    plan,
    pressure,
    process,
    share,
    survey,
    watermark,
    when,
)

from .recorded import Recorded, incident, recording

Doc = dict[str, Any]
FILES = Path(__file__).parent / "field"
NEVER = VictimRule(never=(Match(comm="sshd*"), Match(unit="ssh.service"), Match(comm="Xorg")))
TERMINAL = "/user.slice/user-1000.slice/user@1000.service/app.slice/app-terminal-1.scope"


@dataclass(frozen=True)
class Complaint:
    """``said``: what its reporters said, with where; ``make``: the recording, None: it was recorded of the whole
    daemon; the rest is what we conclude."""

    said: str
    make: Callable[[], Doc] | None
    dies: str = ""  # the first to die, as replay names it; empty: nobody
    lives: tuple[str, ...] = ()  # nothing by these names is among the victims
    advice: str = ""  # the first rule that speaks; empty: none is asked for


def settled(world: Any) -> bool:
    return bool(world.died) and all(state.phase == "calm" for state in world.state.targets.values())


def told(bodies: list[Body], *guards: Any, for_ms: float = 120_000, until: Any = settled, **more: Any) -> Doc:
    """What became of these, on a machine under this policy."""
    world = Recorded(plan(*(guards or (host_guard(rule=NEVER),))), bodies, **more)
    world.run(for_ms, until)
    return world.incident() if any(turn.seed for turn in world.turns) else recording(world.turns)


def folded(policy: Plan, seen: Iterable[Observation]) -> list[Turn]:
    """The turns of these observations."""
    state, turns = begin((), ""), list[Turn]()
    for number, observation in enumerate(seen, 1):
        before = state
        state, actions = decide(policy, state, observation)
        memory = seed(policy.guards, before, actions)
        done = tuple(Outcome("Kill", a.token, 0, observation.at_ns) for a in actions if isinstance(a, Kill))
        turns.append(Turn(number, observation, actions, done, (), seed=memory))
    return turns


# -- the worlds --------------------------------------------------------------------------------------------------------


def whole_session() -> Doc:
    """A terminal's scope: the shell, an editor, an agent, and a build whose compiler eats everything."""
    names = (("bash", 5), ("vim", 40), ("claude", 180), ("make", 4))
    bodies = [Body(process(100 + n, name, TERMINAL, held, 99)) for n, (name, held) in enumerate(names)]
    return told([*bodies, Body(process(200, "cc1plus", TERMINAL, 20, 103), 90)])


def tiny_innocent() -> Doc:
    """A renderer that asked for oom_score_adj 300 holds 5 MB; the daemon beside it everything."""
    renderer = process(300, "renderer", TERMINAL, 5, adj=300, score=330)
    resolved = process(301, "systemd-resolve", "/system.slice/systemd-resolved.service", 12)
    return told(
        [Body(renderer), Body(resolved), Body(process(302, "nix-daemon", "/system.slice/nix.service", 100), 80)]
    )


def no_single_hog() -> Doc:
    """Seventy processes of one service, none of them large."""
    bodies = [Body(process(400 + n, "node", "/system.slice/agents.service", 2), 1.2) for n in range(70)]
    return told([*bodies, Body(process(900, "postgres", "/system.slice/pg.service", 120))])


def many_containers() -> Doc:
    """52 containers, each under five percent of the machine: a floor for candidates would find nobody."""
    paths = [f"/lxc.payload/c{n}.service" for n in range(52)]
    bodies = [Body(process(1000 + n, "app", path, 8), 1.0 + n / 50) for n, path in enumerate(paths)]
    return told(bodies, until=lambda world: len(world.died) >= 2)


def faster_than_the_kernel() -> Doc:
    """95 MB/s without swap: 9.5 GiB in 103 s, and no pressure beforehand."""
    return told([Body(process(500, "node", "/user.slice/agent.scope", 40), 95), Body(process(501, "sshd", "/s", 9))])


def healthy_with_full_swap() -> Doc:
    """Three apps died with 42 to 73 % available, since little swap was full and something waited."""
    guard = host_guard(rule=NEVER)
    full_swap = replace(
        guard, hard=watermark(when(*guard.hard.when[0].all_of, SwapFreeBelow(share(10))), do=(KillStep(),))
    )
    there = TargetSeen(TargetId("host", "/"), None)
    wakes, waits = (Wake("deadline"),), pressure(40, 25)
    return recording(
        folded(
            plan(full_swap),
            (
                Observation(
                    START + n * SECOND, wakes, meminfo(730 - n, 1000, 512, 5), waits, appeared=() if n else (there,)
                )
                for n in range(60)
            ),
        )
    )


def swap_appears_later() -> Doc:
    """zram is plugged in after the start: whoever read SwapTotal once goes on with none."""
    guard = host_guard(rule=NEVER)
    mark = watermark(when(AvailableBelow(share(5)), SwapFreeBelow(share(10))), do=(KillStep(),))
    hog = "/system.slice/hog.service"
    asked = False
    seen = []
    for n in range(200):
        swap = 0 if n < 20 else 512
        left = max(0.0, 512 - max(0, n - 60) * 4)
        host = meminfo(max(30.0, 400 - n * 6), 1000, swap, int(left) if swap else 0)
        looked: tuple[Survey, ...] = ()
        if asked:
            looked = (
                survey("/", [process(700, "hog", hog, 500 + n), process(20, "sshd", "/system.slice/ssh.service")]),
            )
        there = () if n else (TargetSeen(TargetId("host", "/"), None),)
        seen.append(Observation(START + n * 100 * MS, (Wake("deadline"),), host, appeared=there, surveys=looked))
        asked = n > 30 and n % 3 == 0
    return incident(folded(plan(replace(guard, hard=mark)), seen))


def nobody_may_be_taken() -> Doc:
    """Every candidate is excluded; the daemon looked several times a second for seven minutes and said nothing."""
    rule = VictimRule(never=(Match(cgroup="/**"),))
    body = Body(process(500, "app", "/system.slice/app.service", 820), 2)
    return told([body], host_guard(rule=rule), for_ms=30_000, until=lambda w: w.available < 47)


def killed_182_times() -> Doc:
    """What was killed came back and was killed again, 182 times in two hours: a budget ends that."""
    bodies = [Body(process(600 + n, "cilium", "/system.slice/cilium.service", 5), 60 + n) for n in range(3)]
    guard = host_guard(rule=NEVER, budget=Budget(1, 300 * SECOND), cooldown_ms=1000)
    return told(bodies, guard, for_ms=20_000, until=lambda w: w.available < 5)


def agents_tool() -> Doc:
    """The agent was killed, not the tool that it had started."""
    agent = Body(process(100, "agent", "/user.slice/agent.scope", 150))
    tool = Body(process(101, "python3", "/user.slice/agent.scope", 20, 100), 80)
    return told([agent, tool, Body(process(102, "rg", "/user.slice/agent.scope", 4, 100))])


def one_tab() -> Doc:
    """A browser with thirty tabs, of which one leaks."""
    scope = "/user.slice/user-1000.slice/user@1000.service/app.slice/app-firefox-2.scope"
    tabs = [Body(process(800 + n, "Web Content", scope, 8, 799), 70 if n == 17 else 0) for n in range(30)]
    return told([Body(process(799, "firefox", scope, 120)), *tabs])


def two_users() -> Doc:
    """One has a single large program that does not grow, the other sixty small ones that do: the many are the cause."""
    alice, bob = (f"/user.slice/user-{uid}.slice/session-{uid}.scope" for uid in (1001, 1002))
    jobs = [Body(process(700 + n, "job", bob, 4), 0.9) for n in range(60)]
    return told([Body(process(600, "ide", alice, 300)), *jobs])


def itself() -> Doc:
    """The guard saw no process but its own, and killed that."""
    own = Body(process(42, "oomguard", "/system.slice/oomguard.service", 400))
    leak = Body(process(500, "leak", "/system.slice/leak.service", 10), 40)
    return told([own, leak], ours=frozenset({42}), own_cgroup="/system.slice/oomguard.service")


def limit_livelock() -> Doc:
    """A leak under its own limit, on an otherwise idle machine: the kernel was first, or it was throttled for ever."""
    path = "/system.slice/limited.service"
    leak = Body(process(500, "worker", path, 30), 50)
    return told([leak], limit_guard(path, tripwire=True), limits={path: 256}, total=8000)


COMPLAINTS: dict[str, Complaint] = {
    "01-whole-session": Complaint(
        "it killed my entire working session (systemd#35270, omarchy#9799, kitty#5743)",
        whole_session, "cc1plus[200]", ("bash", "vim", "claude"), "leak",
    ),
    "02-tiny-innocent": Complaint(
        "a 5 MB process died for a 5 GB hog (earlyoom#344, #261, systemd#32687)",
        tiny_innocent, "nix-daemon[302]", ("renderer", "systemd-resolve"), "leak",
    ),
    "02-no-single-hog": Complaint(
        "seventy processes, and no single hog to find (claude-code#70523)",
        no_single_hog, "/system.slice/agents.service", ("postgres",), "many processes",
    ),
    "03-many-containers": Complaint(
        "52 containers under a floor of 5 %: considered, and nobody killed (Start9#4010)",
        many_containers, "app[1051]", (), "",
    ),
    "03-kernel-first": Complaint(
        "the kernel killed first, without swap and without pressure (claude-code#81343, systemd#42385)",
        faster_than_the_kernel, "node[500]", ("sshd",), "leak",
    ),
    "04-healthy-machine": Complaint(
        "killed with 73 % available (syncloud#769, systemd#23606, #22965)", healthy_with_full_swap
    ),
    "05-nobody-can-say-why": Complaint(
        "it looked for minutes and never acted, and nobody can say why (Start9#4010, earlyoom#264)",
        nobody_may_be_taken, "", (), "nobody to take",
    ),
    "04-again-and-again": Complaint(
        "killed 182 times in two hours (talos#12526)", killed_182_times, "/system.slice/cilium.service", (), ""
    ),
    "06-no-evidence": Complaint(
        "which java was it? log all processes when you kill (earlyoom#236, #264, delphix-platform#297, vm0#32802)",
        None, "report-job[7]", ("postgres", "sshd", "bash"), "one large allocation",
    ),
    "07-swap-appears": Complaint(
        "zram was plugged in later, and not seen (systemd#36704, #23095, Start9#3885)",
        swap_appears_later, "hog[700]", ("sshd",), "",
    ),
    "08-limit-livelock": Complaint(
        "at its limit for an hour, throttled, and nothing acts (lxc-oomd#436, KEP-2570)",
        limit_livelock, "worker[500]", (), "leak",
    ),
    "09-agents-tool": Complaint(
        "the agent was killed, not its subprocess (claude-code#13126, vm0#34175)",
        agents_tool, "python3[101]", ("agent", "rg"), "leak",
    ),
    "10-one-tab": Complaint(
        "the browser died for one tab (systemd#38668, earlyoom#8)", one_tab, "Web Content[817]", ("firefox",), "leak"
    ),
    "11-idle": Complaint(
        "2 to 5 % of a processor, a timer of 150 ms with nothing to watch (systemd#20122, #29011, oomd#79)", None
    ),
    "12-two-users": Complaint(
        "no fairness between users: whose many processes ate it, and whose one large one did not (earlyoom#336, #150)",
        two_users, "/user.slice/user-1002.slice/session-1002.scope", ("ide",), "many processes",
    ),
    "14-itself": Complaint(
        "it killed itself (earlyoom#184, #205)", itself, "leak[500]", ("oomguard",), "leak"
    ),
}  # fmt: skip


def main() -> int:
    FILES.mkdir(exist_ok=True)
    for name, complaint in COMPLAINTS.items():
        if complaint.make is None or (sys.argv[1:] and name not in sys.argv[1:]):
            continue
        path = FILES / f"{name}.tar.zst"
        with packed.writing(path, level=19) as file:
            export.write(file, complaint.make(), None, "none")
        print(f"{path.name} {path.stat().st_size // 1024} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
