"""``oomguard explain``: who guards this cgroup or process, how far it is from each watermark, and who would die now.

It asks the judge: the same conditions, the same ranking, on what this machine shows at this moment. What the daemon
remembers it does not know: since when something holds, and which victims did not end.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..model.policy import (
    AvailableBelow,
    Condition,
    Daemon,
    EventsAbove,
    ExhaustsWithin,
    GrowthAbove,
    Guard,
    LevelAbove,
    MemoryAbove,
    Plan,
    RefaultsAbove,
    StallAbove,
    SwapAbove,
    SwapFreeBelow,
    Watermark,
)
from ..policy import files
from . import live, say
from .run import Cgroup, Proc

if TYPE_CHECKING:
    from ..judge.detect import Sight
    from ..judge.rank import Bounds
    from ..model.facts import ProcessFacts, Survey
    from ..model.verdict import Candidate, Ranking, Victim
    from .machine import Machine

Subject = Annotated[str, typer.Argument(metavar="CGROUP|PID", help="A path from the cgroup root, or a process.")]
Config = Annotated[
    Path | None,
    typer.Option(
        "--config", metavar="FILE", help="The policy of this file (default: the one in force, if any).", readable=False
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(slots=True)
class Account:
    """What there is to say about one guard. ``marks``: per watermark its clauses, and each condition in them."""

    guard: Guard
    cgroup: str
    marks: dict[str, list["ClauseAccount"]] = field(default_factory=dict)
    victim: "Victim | None" = None
    ranking: "Ranking | None" = None
    subject: str = ""  # what would become of what was asked about


@dataclass(frozen=True, slots=True)
class ClauseAccount:
    """One table of ``when``: whether it holds, and each of its conditions as (holds, text)."""

    holds: bool
    lasting_ns: int
    conditions: tuple[tuple[bool, str], ...]


def explain(
    subject: Subject,
    config: Config = None,
    runtime_dir: live.Runtime = None,
    json: Json = False,
    proc: Proc = "",
    cgroup: Cgroup = "",
) -> None:
    """Say which guards cover a cgroup or a process, how far each is from acting, and who would be ended, and why.

    0 told, 1 there is no such cgroup or process, or nobody guards it.
    """
    plan, in_force = _plan(config, runtime_dir)
    from .machine import Machine

    daemon = plan.daemon
    machine = Machine(proc or daemon.proc, cgroup or daemon.cgroup, daemon.also_available)
    path, process = _found(machine, subject)
    directory = live.runtime_dir(runtime_dir, config or files.DEFAULT)
    if in_force:
        _see_as_the_daemon(machine, directory)
    bounds = _bounds(machine, directory)
    accounts = [
        _account(machine, guard, target, process, path, bounds) for guard, target in _covering(plan, machine, path)
    ]
    inner = _guarded_below(plan, machine, path) if process is None else []
    if json:
        say.as_json(_report(plan, in_force, path, process, accounts, inner))
    else:
        _print(plan, in_force, path, process, accounts, inner)
    raise typer.Exit(say.FINE if accounts else say.FOUND)


# ------------------------------------------------------------------------------------------------------ whose policy


def _plan(config: Path | None, runtime_dir: Path | None) -> tuple[Plan, bool]:
    """(plan, whether it is in force): the asked one; else that of a daemon that runs; else that of the files."""
    from .show import compiled, kept_plan

    if config is None:
        directory = live.runtime_dir(runtime_dir, files.DEFAULT)
        try:
            live.page(directory)
            return kept_plan(directory), True
        except live.NotRunning:
            pass
        except PermissionError:
            say.aside("oomguard: the policy in force may not be read: that of the files is taken")
    return compiled(config or files.DEFAULT), False


def _found(machine: "Machine", subject: str) -> tuple[str, "ProcessFacts | None"]:
    """(cgroup, the process if one was asked about)."""
    if subject.isascii() and subject.isdigit():
        process = machine.process(int(subject[:20]))
        if process is None:
            say.fail(say.FOUND, f"there is no process {subject} that can be seen")
        return process.cgroup, process
    if not subject.startswith("/"):
        say.fail(say.WRONG_USE, f"{subject} is neither a process nor a path: as in /system.slice/ssh.service")
    path = "/" + subject.removeprefix(machine.root or Daemon().cgroup).strip("/")
    if machine.root is None and path != "/":
        why = f"no cgroups with the memory controller are mounted (cgroup {machine.flavour})"
        say.fail(say.KERNEL_CANNOT, f"{why}: ask about / or a process")
    if not machine.exists(path):
        say.fail(say.FOUND, f"there is no cgroup {path}")
    return path, None


def _see_as_the_daemon(machine: "Machine", directory: Path) -> None:
    """What is written on cgroups as trusted.* takes CAP_SYS_ADMIN to read, which root has and the daemon has not."""
    from ..linux import libc, procfs

    try:
        status = Path(machine.proc, str(live.page(directory).numbers.pid), "status").read_bytes()
        if "CAP_SYS_ADMIN" not in procfs.parse_capabilities(status):
            libc.lay_down(libc.CAP_SYS_ADMIN)
    except (live.NotRunning, OSError):
        pass


def _bounds(machine: "Machine", directory: Path) -> "Bounds":
    """Whom the running daemon puts out of question: its own processes, and its cgroup if nobody else lives there."""
    from ..judge.rank import Bounds

    try:
        pid = live.page(directory).numbers.pid
    except (live.NotRunning, OSError):
        return Bounds()
    import psutil

    try:
        ours = frozenset([pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))])
    except psutil.Error:
        return Bounds()
    own = machine.process(pid)
    lives_alone = own is not None and all(p.pid in ours for p in machine.processes() if p.cgroup == own.cgroup)
    return Bounds(ours, own_cgroup=own.cgroup if own is not None and lives_alone else "")


def _way_up(path: str) -> Iterator[str]:
    while path not in ("", "/"):
        yield path
        path = path.rpartition("/")[0]
    yield "/"


def _covering(plan: Plan, machine: "Machine", path: str) -> list[tuple[Guard, str]]:
    """Guards with the cgroup that each of them watches around this one; the innermost first, as they are judged."""
    found = []
    for target in _way_up(path):
        for guard in plan.guards:
            if guard.cgroup == target == "/" or (target != "/" and _means(guard, machine, target)):
                found.append((guard, target))
    return found


def _means(guard: Guard, machine: "Machine", path: str) -> bool:
    """Whether the guard watches this cgroup."""
    from ..judge.select import bears, selects

    if guard.cgroup == "/" or not selects(guard.cgroup, path):
        return False
    return not guard.xattr or bears(guard, machine.xattr(path, guard.xattr_name))


def _guarded_below(plan: Plan, machine: "Machine", path: str) -> list[tuple[str, str]]:
    """(policy, cgroup) of what is guarded inside of it."""
    below = machine.below(path)
    return [(guard.name, name) for guard in plan.guards for name in below if _means(guard, machine, name)]


# ---------------------------------------------------------------------------------------------------------- the judge


def _account(
    machine: "Machine", guard: Guard, target: str, process: "ProcessFacts | None", path: str, bounds: "Bounds"
) -> Account:
    from ..judge.detect import Sight
    from ..judge.rank import rank
    from ..model.facts import TargetId

    facts = None if target == "/" else machine.facts(target)
    pressure = machine.pressure() if facts is None else facts.pressure
    sight = Sight(0, machine.host, facts, pressure, compressed=machine.compressed())
    account = Account(guard, target)
    for name, mark in (("soft", guard.soft), ("hard", guard.hard)):
        if mark is not None:
            account.marks[name] = [_clause(mark, index, sight) for index in range(len(mark.when))]
    if not any(mark is not None and mark.kills for mark in (guard.soft, guard.hard)):
        account.subject = "is safe from it: this policy ends nobody"
        return account
    survey = machine.survey(TargetId(guard.name, target), machine.processes())
    victims, account.ranking = rank(guard.victim, survey, bounds)
    account.victim = victims[0] if victims else None
    account.subject = _fate(account, survey, process, path, bounds)
    return account


def _clause(mark: Watermark, index: int, sight: "Sight") -> ClauseAccount:
    from ..judge.detect import clause_holds, describe, holds

    clause = mark.when[index]
    conditions = tuple((holds(it, sight), describe(it, sight) + _left(it, sight)) for it in clause.all_of)
    return ClauseAccount(clause_holds(clause, sight), clause.lasting_ns, conditions)


def _left(condition: Condition, sight: "Sight") -> str:
    """How far it is, where that is a matter of bytes; what a single look cannot know."""
    from ..judge.detect import holds

    if holds(condition, sight):
        return ""
    left: int | None = None
    match condition:
        case AvailableBelow(amount):
            left = sight.host.available_bytes - amount.of(sight.host.total_bytes)
        case SwapFreeBelow(amount):
            left = sight.host.swap_free_bytes - amount.of(sight.host.swap_total_bytes)
        case MemoryAbove(amount):
            left = amount.of(sight.limit_bytes) - sight.used_bytes
        case SwapAbove(amount):
            left = amount.of(sight.swap_limit_bytes) - sight.swap_bytes
        case StallAbove() | LevelAbove():
            return ": only the kernel's trigger tells"
        case GrowthAbove() | ExhaustsWithin() | RefaultsAbove() | EventsAbove():
            return ": only time tells"
        case _:
            pass
    return "" if left is None else f": {_size(max(0, left))} away"


def _fate(account: Account, survey: "Survey", process: "ProcessFacts | None", path: str, bounds: "Bounds") -> str:
    """What would become of what was asked about, were the watermark crossed now."""
    from ..judge.glob import is_inside
    from ..judge.rank import refusal

    victim = account.victim
    if process is not None and (why := refusal(process, account.guard.victim, bounds)):
        return f"would be spared: {why}"
    if victim is None:
        return "would live: nobody may be taken"
    if victim.take == "cgroup":
        if is_inside(path, victim.cgroup):
            return "would be ended, with all of its cgroup"
        if process is None and is_inside(victim.cgroup, path):
            return f"would lose {victim.cgroup}"
        return _beaten(account, process, path)
    pids = [ref.pid for ref in victim.processes]
    if process is not None:
        return "would be ended" if process.pid in pids else _beaten(account, process, path)
    return f"would lose {_who(victim)}" if is_inside(victim.cgroup, path) else _beaten(account, process, path)


def _beaten(account: Account, process: "ProcessFacts | None", path: str) -> str:
    from ..judge.glob import is_inside

    ranking = account.ranking
    name = f"{process.comm}[{process.pid}]" if process is not None else path
    for candidate in ranking.candidates if ranking is not None else ():
        if candidate.what == name or (not candidate.what.endswith("]") and is_inside(path, candidate.what)):
            if not candidate.rank:
                return f"would be spared: {candidate.why}"
            if candidate.rank == 1 and account.victim is not None:
                return f"would live: the first is {candidate.what}, and of it {_who(account.victim)} holds most"
            return f"would live: {candidate.what} comes as number {candidate.rank}, with {_size(candidate.held_bytes)}"
    return "would live: others hold more"


# ----------------------------------------------------------------------------------------------------------- to people


def _who(victim: "Victim") -> str:
    if victim.take == "cgroup":
        return f"the whole cgroup {victim.cgroup}"
    first = victim.processes[0]
    more = f" and {victim.count - 1} below it" if victim.count > 1 else ""
    return f"{first.comm}[{first.pid}]{more} in {victim.cgroup}"


def _size(number: int) -> str:
    from ..judge.detect import mib

    return mib(number)


def _print(
    plan: Plan,
    in_force: bool,
    path: str,
    process: "ProcessFacts | None",
    accounts: list[Account],
    inner: list[tuple[str, str]],
) -> None:
    whose = (
        f"{process.comm}[{process.pid}], holding {_size(process.held_bytes)}, lives in " if process is not None else ""
    )
    say.line(f"{whose}{path}")
    say.line(f"policy {'in force' if in_force else 'of the files, not in force'}: {', '.join(plan.files)}")
    for account in accounts:
        say.line()
        _print_account(account)
    for name, cgroup in inner:
        say.line(f"inside of it, policy {name} guards {cgroup}")
    if not accounts:
        say.line("no policy guards it")


def _print_account(account: Account) -> None:
    guard = account.guard
    say.line(f"policy {guard.name} guards it: {guard.mode} on {account.cgroup} ({guard.origin})")
    for name, clauses in account.marks.items():
        held = any(clause.holds for clause in clauses)
        say.line(f"  {name}: {'holds now' if held else 'does not hold'}")
        for clause in clauses:
            for index, (holds, text) in enumerate(clause.conditions):
                word = "or " if index == 0 and clause is not clauses[0] else "   "
                say.line(f"    {word}{'yes' if holds else 'no '}  {text}")
            if clause.lasting_ns:
                say.line(f"            and so for {clause.lasting_ns / 10**9:g} s")
    if account.ranking is None:
        say.line(f"  it {account.subject}")
        return
    what = f"{_who(account.victim)}, {_size(account.victim.held_bytes)}" if account.victim is not None else "nobody"
    say.line(f"  would end now: {what}")
    for step in account.ranking.descent:
        say.line(f"    {step}")
    say.line(f"  it {account.subject}")
    rows = [_row(candidate, guard.victim.by) for candidate in account.ranking.candidates]
    if rows:
        say.line()
        say.table(("  RANK", "HELD", "WEIGHS", "WHO", "WHY"), rows)


def _row(candidate: "Candidate", by: str) -> tuple[str, ...]:
    rank = str(candidate.rank) if candidate.rank else "-"
    weighs = "-" if not candidate.rank else str(candidate.score) if by == "oom_score" else _size(candidate.score)
    return (f"  {rank}", _size(candidate.held_bytes), weighs, candidate.what, candidate.why)


def _report(
    plan: Plan,
    in_force: bool,
    path: str,
    process: "ProcessFacts | None",
    accounts: list[Account],
    inner: list[tuple[str, str]],
) -> dict[str, Any]:
    from ..model.codec import to_plain

    return {
        "cgroup": path,
        "process": to_plain(process),
        "in_force": in_force,
        "files": list(plan.files),
        "policies": [
            {
                "name": account.guard.name,
                "cgroup": account.cgroup,
                "mode": account.guard.mode,
                "origin": account.guard.origin,
                **{name: [_plain_clause(clause) for clause in clauses] for name, clauses in account.marks.items()},
                "victim": to_plain(account.victim),
                "ranking": to_plain(account.ranking),
                "subject": account.subject,
            }
            for account in accounts
        ],
        "inside": [{"name": name, "cgroup": cgroup} for name, cgroup in inner],
    }


def _plain_clause(clause: ClauseAccount) -> dict[str, Any]:
    conditions = [{"holds": holds, "text": text} for holds, text in clause.conditions]
    return {"holds": clause.holds, "lasting_ns": clause.lasting_ns, "conditions": conditions}
