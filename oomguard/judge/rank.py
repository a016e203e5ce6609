"""Who may be a victim, in what order, and why: for every candidate, chosen or not.

Candidates are weighed by aggregate first: all that lives in one unit (service, scope, container) together, so that
150 small workers cannot hide behind one larger innocent. Then the way goes down inside the heaviest: to a child
cgroup, a process tree, a process, as long as one of them holds most of it. What is taken is the smallest thing that
holds most.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from ..model.facts import CgroupFacts, ProcessFacts, Survey
from ..model.policy import VictimRule
from ..model.verdict import Candidate, ProcessRef, Ranking, Victim, heads
from .detect import mib
from .glob import is_inside, matches
from .match import first, say, unit_name, unit_path, way_up
from .measure import BY_PROCESS, Weighed, values, weights

# "avoid" and "prefer" weigh, they do not decide: whoever holds that many times more is taken all the same. A bonus
# that decided would end a 5 MB bystander for a 5 GB leak (rfjakob/earlyoom issues 103, 261, 344).
WEIGHT: Final = 4
WORTHLESS_BYTES: Final = 1 << 20  # ending something that holds less than this helps nobody
LISTED: Final = 12  # candidates that a ranking names, of those that may be taken and of those that may not
MEMBERS: Final = 256  # processes that a victim names
VICTIMS: Final = 4  # the first, and those in reserve
MIXED: Final = 1000  # what the most of a measure counts in a mix
ONE_BY_ONE: Final = ("process", "subtree", "process_group", "session")

UNITS: Final = (".service", ".scope")


@dataclass(frozen=True, slots=True)
class Bounds:
    """Whom the daemon itself puts out of question. ``ours``: our own pids; ``stuck``: tried before, did not end."""

    ours: frozenset[int] = frozenset()
    stuck: frozenset[tuple[int, int]] = frozenset()  # (pid, start_ticks)
    own_cgroup: str = ""

    def has(self, cgroup: str) -> bool:
        """Whether that is a part of our own cgroup."""
        return not is_corridor(self.own_cgroup or "/") and is_inside(cgroup, self.own_cgroup)


@dataclass(frozen=True, slots=True)
class _Unit:
    """One thing that is weighed as a whole: a unit's cgroup, or a process tree where there is no such cgroup."""

    path: str
    weight: int
    held: int
    members: tuple[ProcessFacts, ...]  # those that may die
    why: str
    whole_cgroup: bool  # a cgroup of its own, not just a part of the root or a slice


@dataclass(frozen=True, slots=True)
class _Scene:
    """What the survey shows, sorted once."""

    root: str
    facts: dict[str, CgroupFacts]
    alive: tuple[ProcessFacts, ...]  # those that may die
    kept: dict[str, int]  # per cgroup, what those in and below it hold that may not
    shared: frozenset[str]  # cgroups with a whole unit below them
    now_ticks: int
    before: Mapping[str, tuple[int, int]]  # of units, in an earlier survey: (bytes held, bytes refaulted)

    def may_go(self, path: str) -> bool:
        """Whether the cgroup may be taken whole, as the part of one unit: cgroup.kill spares nobody below it."""
        return path not in self.kept and path not in self.shared


def is_corridor(path: str) -> bool:
    """A cgroup that only holds others together: the root and slices. Never a victim of its own accord."""
    return path == "/" or path.endswith(".slice")


def refusal(process: ProcessFacts, rule: VictimRule, bounds: Bounds, now_ticks: int = 0) -> str:
    """Why this process may never be taken; empty if it may."""
    if process.pid == 1:
        return "pid 1"
    if process.kernel_thread:
        return "kernel thread"
    if process.pid in bounds.ours or process.ppid in bounds.ours or bounds.has(process.cgroup):
        return "oomguard itself"
    if process.oom_score_adj <= -1000:
        return "oom_score_adj -1000"
    if (process.pid, process.start_ticks) in bounds.stuck:
        return "was tried before and did not end"
    if match := first(rule.never, process.cgroup, process, now_ticks, unknown=True):
        return f"never: {say(match)}"
    return ""


def _protection(path: str, root: str, facts: Mapping[str, CgroupFacts]) -> str:
    """What spares everybody in this cgroup: its owner's word or its memory.min, or that of a cgroup on the way."""
    for above in way_up(path):
        if above in (root, "/") or not is_inside(above, root):
            return ""
        known = facts.get(above)
        if known is not None and known.preference == "omit":
            return f"{above}: oomd_omit"
        if known is not None and 0 < known.unreclaimable_bytes <= known.min_bytes:
            return f"{above}: {mib(known.unreclaimable_bytes)}, within its memory.min of {mib(known.min_bytes)}"
    return ""


# What is never stopped as a whole, whoever leaks in it: without these nobody can log in, be told, or mend anything.
# Services may be stopped all the same by whoever writes a policy for their cgroup; a slice, and what is below these,
# is another matter, and is looked at process by process.
KEPT_WHOLE: Final = (
    *("init.scope", "session-*.scope", "user@*.service", "getty@*.service", "serial-getty@*.service"),
    *("systemd-*.service", "dbus.service", "dbus-broker.service", "ssh.service", "sshd.service", "ssh@*.service"),
)


def why_not_whole(rule: VictimRule, survey: Survey, path: str, bounds: Bounds) -> str:
    """Why this cgroup may not be stopped as a whole; empty if it may. Whoever lives in it is in the survey."""
    if is_corridor(path):
        return "it only holds others together"
    own = bounds.own_cgroup
    if own and (is_inside(own, path) or is_inside(path, own)):
        return "oomguard itself lives there"
    last = path.rpartition("/")[2]
    if any(matches(pattern, last) for pattern in KEPT_WHOLE):
        return f"{last} is what others log in by, or write to"
    if (match := first(rule.never, path)) is not None:
        return f"never: {say(match)}"
    for process in survey.processes:
        if is_inside(process.cgroup, path) and (why := refusal(process, rule, bounds, survey.now_ticks)):
            return f"{process.comm}[{process.pid}] lives there: {why}"
    return ""


def why_no_unit(rule: VictimRule, survey: Survey, path: str, bounds: Bounds) -> str:
    """Why the unit of this cgroup may not be restarted or stopped; empty if it may."""
    if not path.endswith(UNITS):
        return "it is not in a unit"
    above = path.split("/")[:-1]
    if any(part.startswith("user@") for part in above):
        return "it belongs to a user's own manager, which only that user may ask"
    return why_not_whole(rule, survey, path, bounds)


def rank(
    rule: VictimRule, survey: Survey, bounds: Bounds, before: Mapping[str, tuple[int, int]] | None = None
) -> tuple[tuple[Victim, ...], Ranking]:
    """The victims in order, best first (tokens 0: the judge gives them), and the reasons for everybody.

    ``before``: what units weighed in an earlier survey, where the rule asks for growth or refaults.
    """
    refused: list[Candidate] = []
    alive: list[ProcessFacts] = []
    kept = dict.fromkeys(() if is_corridor(bounds.own_cgroup or "/") else way_up(bounds.own_cgroup), 0)
    root = survey.target.cgroup
    facts = {facts.path: facts for facts in survey.cgroups}
    # One that moved, or whose pid was used again, while all were read may be listed twice, or be elsewhere by now.
    for process in {process.pid: process for process in survey.processes}.values():
        why = refusal(process, rule, bounds, survey.now_ticks) or _protection(process.cgroup, root, facts)
        if why:
            for path in way_up(process.cgroup):
                kept[path] = kept.get(path, 0) + process.held_bytes
            if not process.kernel_thread:
                refused.append(_candidate_process(process, 0, 0, why))
        elif is_inside(process.cgroup, root):
            alive.append(process)
    one_by_one = rule.take in ONE_BY_ONE or (rule.by == "oom_score" and rule.take == "auto")
    if rule.by in BY_PROCESS and one_by_one:
        victims, listed, descent = _by_process(rule, survey, alive)
    else:
        homes = {_home(process.cgroup, root) for process in alive}
        homes |= {_home(facts.path, root) for facts in survey.cgroups if facts.path.endswith(UNITS)}
        shared = frozenset(path for home in homes for path in way_up(home) if path != home)
        scene = _Scene(root, facts, tuple(alive), kept, shared, survey.now_ticks, before or {})
        victims, listed, descent = _by_unit(rule, scene)
    refused.sort(key=lambda candidate: -candidate.held_bytes)
    return tuple(victims), Ranking(rule.by, rule.take, tuple(listed[:LISTED] + refused[:LISTED]), tuple(descent))


def is_outweighed(rule: VictimRule, survey: Survey, ranking: Ranking) -> bool:
    """Whether a unit that was weighed, but whose processes were not read, might come before the first of the ranking.

    A look at the heaviest three misses the fourth; that matters where one of the three is to be avoided. Where anything
    but memory is weighed, all are looked at anyway.
    """
    if rule.by != "memory":
        return False
    best = next((candidate.score for candidate in ranking.candidates if candidate.rank == 1), 0)
    homes = {_home(process.cgroup, survey.target.cgroup) for process in survey.processes}
    most = WEIGHT if any(match.comm is not None for match in rule.prefer) else 1  # names that were not read
    groups = {facts.path: facts for facts in survey.cgroups}
    return any(
        _weighed(facts.unreclaimable_bytes + facts.swap_bytes, rule, facts.path)[0]
        * _owners_word(facts.path, survey.target.cgroup, groups)[0]
        // WEIGHT
        * most
        > best
        for facts in survey.cgroups
        if facts.stat is not None and facts.path.endswith(UNITS) and facts.path not in homes
        if first(rule.never, facts.path) is None
    )


# -- process by process ------------------------------------------------------------------------------------------


def _by_process(
    rule: VictimRule, survey: Survey, alive: list[ProcessFacts]
) -> tuple[list[Victim], list[Candidate], list[str]]:
    """Processes in their order; those of a process group or session are weighed together, so that none can hide."""
    base = dict(zip((p.pid for p in alive), values(rule.by, alive), strict=True))

    facts = {facts.path: facts for facts in survey.cgroups}

    def weigh(process: ProcessFacts) -> tuple[int, str]:
        weight, why = _weighed(base[process.pid], rule, process.cgroup, process, survey.now_ticks)
        factor, owner = _owners_word(process.cgroup, survey.target.cgroup, facts)
        return weight * factor // WEIGHT, why + owner

    inodes = {path: known.inode for path, known in facts.items()}
    weights = {process.pid: weigh(process) for process in alive}
    if rule.take in ("process_group", "session"):
        return _by_group(rule, weights, alive, inodes)
    order = sorted(alive, key=lambda p: (-weights[p.pid][0], -p.held_bytes, p.start_ticks, p.pid))
    order = [process for process in order if process.held_bytes >= WORTHLESS_BYTES]
    listed = []
    for i, process in enumerate(order[:LISTED], 1):
        weight, why = weights[process.pid]
        listed.append(_candidate_process(process, weight, i, rule.by.replace("_", " ") + why))
    _, below = _forest(alive)
    victims = []
    for process in order[:4]:
        members = _tree(process, below) if rule.take == "subtree" else (process,)
        take: Literal["process", "subtree"] = "subtree" if len(members) > 1 else "process"
        victims.append(_victim(take, process.cgroup, inodes.get(process.cgroup, 0), members))
    return victims, listed, [f"{rule.by}: process by process"]


def _by_group(
    rule: VictimRule, weights: dict[int, tuple[int, str]], alive: Iterable[ProcessFacts], inodes: dict[str, int]
) -> tuple[list[Victim], list[Candidate], list[str]]:
    groups: dict[tuple[int, int], list[ProcessFacts]] = {}
    for process in alive:
        groups.setdefault(_group_of(process, rule.take), []).append(process)
    aggregate = max if rule.by in ("oldest", "newest", "oom_score") else sum  # a hundred young ones are not old
    scores = {key: aggregate(weights[p.pid][0] for p in members) for key, members in groups.items()}
    meant = {key: _without_leader(members, key[1]) for key, members in groups.items()}
    held = {key: sum(p.held_bytes for p in members) for key, members in meant.items()}
    order = sorted((key for key in groups if held[key] >= WORTHLESS_BYTES), key=lambda k: (-scores[k], -held[k], k))
    what, victims, listed = rule.take.replace("_", " "), [], []
    for i, key in enumerate(order[:LISTED], 1):
        first_of, spared = meant[key][0], len(groups[key]) - len(meant[key])
        why = f"{what} {key[1]}, {heads(len(meant[key]))}{', its leader spared' if spared else ''}"
        why += weights[first_of.pid][1]
        name = f"{first_of.comm}[{first_of.pid}]"
        listed.append(Candidate(name, first_of.cgroup, scores[key], held[key], i, why))
        if i <= VICTIMS:
            home = _common([p.cgroup for p in meant[key]])
            victims.append(_victim(_take_of(rule, meant[key]), home, inodes.get(home, 0), meant[key]))
    return victims, listed, [f"{rule.by}: by {what}", *(candidate.why for candidate in listed[:1])]


def _group_of(process: ProcessFacts, take: str) -> tuple[int, int]:
    """(0, the pid of its leader); (1, its own pid) where no leader is known: then it stands for itself."""
    leader = process.pgid if take == "process_group" else process.sid
    return (0, leader) if leader > 0 else (1, process.pid)


def _without_leader(members: Iterable[ProcessFacts], leader: int) -> tuple[ProcessFacts, ...]:
    """The largest first. Who leads (a shell, an agent) is spared where the others hold most: its job dies, it lives."""
    order = sorted(members, key=lambda p: (-p.held_bytes, p.start_ticks, p.pid))
    rest = tuple(p for p in order if p.pid != leader)
    spared = sum(p.held_bytes for p in rest) * 2 > sum(p.held_bytes for p in order)
    return rest if spared else tuple(order)


def _take_of(rule: VictimRule, members: tuple[ProcessFacts, ...]) -> Literal["process", "process_group", "session"]:
    if len(members) == 1:
        return "process"
    return "session" if rule.take == "session" else "process_group"


def _common(paths: list[str]) -> str:
    """The innermost cgroup that all of these are in."""
    found = paths[0]
    for path in paths:
        while not is_inside(path, found):
            found = found.rpartition("/")[0] or "/"
    return found


# -- unit by unit, then down -------------------------------------------------------------------------------------


def _by_unit(rule: VictimRule, scene: _Scene) -> tuple[list[Victim], list[Candidate], list[str]]:
    units = sorted(_scored(rule, scene, list(_units(rule, scene))), key=lambda u: (-u.weight, -u.held, _id(u)))
    able = [unit for unit in units if unit.weight >= 0 and unit.members and unit.held >= WORTHLESS_BYTES]
    listed = [
        Candidate(unit.path, unit.path, unit.weight, unit.held, i, f"{heads(len(unit.members))}{unit.why}")
        for i, unit in enumerate(able[:LISTED], 1)
    ]
    listed += [Candidate(unit.path, unit.path, 0, unit.held, 0, unit.why) for unit in units if unit.weight < 0]
    victims: list[Victim] = []
    descent: list[str] = []
    for unit in able[:VICTIMS]:
        victim, way = _descend(rule, scene, unit)
        victims.append(victim)
        if not descent:
            descent = way
    return victims, listed, descent


def _id(unit: _Unit) -> tuple[str, int]:
    return unit.path, min((p.pid for p in unit.members), default=0)


def _scored(rule: VictimRule, scene: _Scene, units: list[_Unit]) -> Iterable[_Unit]:
    """With the weight that they have by this rule: what is measured, and whom it prefers and avoids."""
    bases = _bases(rule, scene, units)
    for unit, base in zip(units, bases, strict=True):
        if unit.weight < 0:
            yield unit
            continue
        weight, why = _weighed_by_members(base, rule, unit, scene)
        factor, owner = _owners_word(unit.path, scene.root, scene.facts)
        yield replace(unit, weight=weight * factor // WEIGHT, why=unit.why + why + owner)


def _bases(rule: VictimRule, scene: _Scene, units: list[_Unit]) -> list[int]:
    def measured(kind: str) -> list[int]:
        facts = (scene.facts.get(unit.path) if unit.whole_cgroup else None for unit in units)
        rows = [Weighed(u.path, u.held, u.members, f) for u, f in zip(units, facts, strict=True)]
        return weights(kind, rows, scene.before)

    if rule.by != "mix":
        return measured(rule.by)
    total = [0] * len(units)
    for kind, weight in rule.mix:
        found = measured(kind)
        most = max(found, default=0)
        shares = [weight * MIXED * value // max(1, most) for value in found]
        total = [sofar + share for sofar, share in zip(total, shares, strict=True)]
    return total


def _owners_word(cgroup: str, top: str, facts: Mapping[str, CgroupFacts]) -> tuple[int, str]:
    """(how many quarters it weighs, why), by what the owner of its cgroup, or of one below ``top``, has asked for."""
    for path in way_up(cgroup):
        if path == top:
            break
        known = facts.get(path)
        if known is None or not known.preference:
            continue
        if known.preference == "avoid":
            return 1, f", weighed 1/{WEIGHT}: {path}: oomd_avoid"
        if known.preference == "prefer":
            return WEIGHT * WEIGHT, f", weighed {WEIGHT} times: {path}: oomd_prefer"
    return WEIGHT, ""


def _units(rule: VictimRule, scene: _Scene) -> Iterable[_Unit]:
    homes: dict[str, list[ProcessFacts]] = {}
    for process in scene.alive:
        homes.setdefault(_home(process.cgroup, scene.root), []).append(process)
    for path, members in homes.items():
        if is_corridor(path):
            yield from _trees_of_corridor(path, members)
            continue
        held = _freed(scene, path, members)
        never = first(rule.never, path)
        weight, why = (0, "") if never is None else (-1, f"never: {say(never)}")
        yield _Unit(path, weight, held, tuple(members), why, True)


def _freed(scene: _Scene, path: str, members: list[ProcessFacts]) -> int:
    """What the end of the unit's processes would give back.

    The cgroup's own count knows kernel memory and counts shared memory once; but it also counts files in tmpfs, which
    stay whoever dies, and those that have to live. Without memory.stat, or with other units inside, it says nothing.
    """
    known = scene.facts.get(path)
    if known is None or known.stat is None or path in scene.shared:
        return sum(p.held_bytes for p in members)
    files = max(0, known.stat.shmem_bytes - sum(p.shmem_bytes for p in members))
    return max(0, known.unreclaimable_bytes + known.swap_bytes - files - scene.kept.get(path, 0))


def _home(cgroup: str, root: str) -> str:
    """The unit's cgroup, but never above the guard's own root."""
    path = unit_path(cgroup)
    return path if root in ("/", path) or path.startswith(root + "/") else root


def _trees_of_corridor(path: str, members: list[ProcessFacts]) -> Iterable[_Unit]:
    """Processes straight in the root or in a slice have no unit: every tree of them stands for itself."""
    tops, below = _forest(members)
    for top in tops:
        tree = _tree(top, below)
        held = sum(p.held_bytes for p in tree)
        yield _Unit(path, 0, held, tree, f", tree of {top.comm}[{top.pid}]", False)


def _weighed(
    base: int, rule: VictimRule, cgroup: str, process: ProcessFacts | None = None, now_ticks: int = 0
) -> tuple[int, str]:
    if match := first(rule.avoid, cgroup, process, now_ticks, unknown=True):
        return base // WEIGHT, f", weighed 1/{WEIGHT}: avoid {say(match)}"
    if match := first(rule.prefer, cgroup, process, now_ticks):
        return base * WEIGHT, f", weighed {WEIGHT} times: prefer {say(match)}"
    return base, ""


def _weighed_by_members(base: int, rule: VictimRule, unit: _Unit, scene: _Scene) -> tuple[int, str]:
    """A unit that no rule describes as a whole weighs what its processes do, each with the rules for its name.

    And each with the word of who owns the cgroup inside of the unit in which it lives.

    A rule that names processes would otherwise say nothing of those that have a unit: most do. A tree without a unit is
    called what its root is.
    """
    if not unit.whole_cgroup:
        return _weighed(base, rule, unit.path, unit.members[0], scene.now_ticks)
    weight, why = _weighed(base, rule, unit.path)
    total = sum(p.held_bytes for p in unit.members)
    if why or not total:
        return weight, why
    parts = [(p.held_bytes, *_weighed_inside(p, rule, unit.path, scene)) for p in unit.members]
    told = max(parts, key=lambda part: (bool(part[2]), part[0]), default=(0, 0, ""))
    return base * sum(part[1] for part in parts) // total, told[2]


def _weighed_inside(process: ProcessFacts, rule: VictimRule, unit: str, scene: _Scene) -> tuple[int, str]:
    weight, why = _weighed(process.held_bytes, rule, process.cgroup, process, scene.now_ticks)
    factor, owner = _owners_word(process.cgroup, unit, scene.facts)
    return weight * factor // WEIGHT, why + owner


def _descend(rule: VictimRule, scene: _Scene, unit: _Unit) -> tuple[Victim, list[str]]:
    facts = scene.facts
    way = [f"{unit.path}: {mib(unit.held)}, the heaviest{unit.why}"]
    group = _oom_group(unit.path, scene.root, facts)
    if group is not None and group not in scene.kept:
        way.append(f"{group}: memory.oom.group, taken whole")
        inside = tuple(p for p in scene.alive if is_inside(p.cgroup, group))
        return _victim("cgroup", group, _inode(group, facts), inside, unit.held if group == unit.path else None), way
    path, members = unit.path, unit.members
    if rule.take in ONE_BY_ONE:
        return _one_of(rule, scene, unit, way), way
    if rule.take == "cgroup":
        path, members = _down_cgroups(path, members, way, scene)
    if rule.take in ("cgroup", "unit"):
        whole = unit.held if path == unit.path else None
        if unit.whole_cgroup and scene.may_go(path):
            return _victim("cgroup", path, _inode(path, facts), members, whole), way
        way.append("holds processes that must live, or other units, or is a slice: its own are taken one by one")
        return _victim("subtree", path, _inode(path, facts), members), way
    path, members = _down_cgroups(path, members, way, scene)
    chosen = _down_trees(members, way)
    if chosen is None or len(chosen) == len(members) > 1:
        inner = path if is_inside(path, unit.path) else unit.path
        if unit.whole_cgroup and scene.may_go(inner):
            way.append(f"{inner}: no single process holds most of it, taken whole")
            # The cgroup's own count where it is known: forked members share pages, and each tells all of them.
            held = unit.held if inner == unit.path else None
            return _victim("cgroup", inner, _inode(inner, facts), members, held), way
        way.append("no single process holds most of it; processes that must live, and other units, stay")
        return _victim("subtree", inner, _inode(inner, facts), members), way
    take: Literal["process", "subtree"] = "subtree" if len(chosen) > 1 else "process"
    home = chosen[0].cgroup
    return _victim(take, home, _inode(home, facts), chosen), way


def _one_of(rule: VictimRule, scene: _Scene, unit: _Unit, way: list[str]) -> Victim:
    """What this rule takes of the unit that was found by a measure that only units have: by memory."""
    inodes = {path: known.inode for path, known in scene.facts.items()}
    inner = replace(rule, by="memory", mix=())
    words = {p.pid: _owners_word(p.cgroup, scene.root, scene.facts) for p in unit.members}
    weigh = {p.pid: (p.held_bytes * words[p.pid][0] // WEIGHT, words[p.pid][1]) for p in unit.members}
    if rule.take in ("process_group", "session"):
        victims, _, steps = _by_group(inner, weigh, unit.members, inodes)
        if victims:
            way += steps[1:]
            return victims[0]
    top = max(unit.members, key=lambda p: (weigh[p.pid], p.held_bytes, -p.start_ticks, -p.pid))
    members = _tree(top, _forest(unit.members)[1]) if rule.take == "subtree" else (top,)
    way.append(f"{top.comm}[{top.pid}]: {mib(top.held_bytes)}, the largest of it")
    return _victim("subtree" if len(members) > 1 else "process", top.cgroup, inodes.get(top.cgroup, 0), members)


def _down_cgroups(
    path: str, members: tuple[ProcessFacts, ...], way: list[str], scene: _Scene
) -> tuple[str, tuple[ProcessFacts, ...]]:
    """Into the child cgroup that holds most, by its owner's word too, as long as one does."""
    while True:
        shares: dict[str, int] = {}
        total = 0
        for process in members:
            weight = process.held_bytes * _owners_word(process.cgroup, path, scene.facts)[0]
            total += weight
            if process.cgroup != path and is_inside(process.cgroup, path):
                child = _child(path, process.cgroup)
                shares[child] = shares.get(child, 0) + weight
        best = max(shares, key=lambda child: (shares[child], child), default="")
        if not best or shares[best] * 2 <= total:
            return path, members
        before = sum(p.held_bytes for p in members)
        path, members = best, tuple(p for p in members if is_inside(p.cgroup, best))
        way.append(f"{path}: {mib(sum(p.held_bytes for p in members))} of {mib(before)}, most of it")


def _down_trees(members: tuple[ProcessFacts, ...], way: list[str]) -> tuple[ProcessFacts, ...] | None:
    """The smallest process tree that holds most of what the members hold; None if none does."""
    level, below = _forest(members)
    sums = _sums(members, below)
    total = sum(p.held_bytes for p in members)
    found: ProcessFacts | None = None
    while level:
        top = max(level, key=lambda p: (sums[p.pid], -p.start_ticks, p.pid))
        if sums[top.pid] * 2 <= total:
            break
        found = top
        if top.held_bytes * 2 > total:
            way.append(f"{top.comm}[{top.pid}]: {mib(top.held_bytes)} of {mib(total)}, most of it by itself")
            return (top,)
        way.append(f"{top.comm}[{top.pid}] and below: {mib(sums[top.pid])} of {mib(total)}")
        level = below.get(top.pid, [])
    return None if found is None else _tree(found, below)


# -- small parts -------------------------------------------------------------------------------------------------


def _child(path: str, below: str) -> str:
    start = 1 if path == "/" else len(path) + 1
    end = below.find("/", start)
    return below if end < 0 else below[:end]


def _forest(members: Iterable[ProcessFacts]) -> tuple[list[ProcessFacts], dict[int, list[ProcessFacts]]]:
    """The tops, and who is right below whom, by pid.

    A parent is older than its child. Whoever is not was read after its pid had been used again: by that rule nothing
    can be its own grandparent, and every walk ends.
    """
    known = {process.pid: process for process in members}
    tops: list[ProcessFacts] = []
    below: dict[int, list[ProcessFacts]] = {}
    for process in known.values():
        parent = known.get(process.ppid)
        if parent is None or _age(parent) >= _age(process):
            tops.append(process)
        else:
            below.setdefault(parent.pid, []).append(process)
    return tops, below


def _age(process: ProcessFacts) -> tuple[int, int]:
    return process.start_ticks, process.pid


def _tree(top: ProcessFacts, below: dict[int, list[ProcessFacts]]) -> tuple[ProcessFacts, ...]:
    """The process and all below it, itself first."""
    found: list[ProcessFacts] = []
    stack = [top]
    while stack:
        process = stack.pop()
        found.append(process)
        stack.extend(reversed(below.get(process.pid, [])))
    return tuple(found)


def _sums(members: Iterable[ProcessFacts], below: dict[int, list[ProcessFacts]]) -> dict[int, int]:
    """Held bytes of every process with all below it."""
    sums: dict[int, int] = {}
    for process in sorted(members, key=_age, reverse=True):  # children are younger: they are summed already
        sums[process.pid] = process.held_bytes + sum(sums[child.pid] for child in below.get(process.pid, []))
    return sums


def _oom_group(path: str, root: str, facts: dict[str, CgroupFacts]) -> str | None:
    """The outermost cgroup with memory.oom.group from the guard's root down to the unit: the kernel's own rule."""
    found = None
    while is_inside(path, root) and path not in ("", "/"):
        known = facts.get(path)
        if known is not None and known.oom_group:
            found = path
        path = path.rpartition("/")[0]
    return found


def _inode(path: str, facts: dict[str, CgroupFacts]) -> int:
    known = facts.get(path)
    return 0 if known is None else known.inode


def _candidate_process(process: ProcessFacts, score: int, order: int, why: str) -> Candidate:
    return Candidate(f"{process.comm}[{process.pid}]", process.cgroup, score, process.held_bytes, order, why)


def _victim(
    take: Literal["process", "subtree", "process_group", "session", "cgroup"],
    cgroup: str,
    inode: int,
    members: tuple[ProcessFacts, ...],
    held: int | None = None,
) -> Victim:
    order = members
    if take == "cgroup" or len(members) > MEMBERS:  # then those count that hold most, and the root of the tree
        keep = 0 if take == "cgroup" else 1
        order = (*members[:keep], *sorted(members[keep:], key=lambda p: (-p.held_bytes, p.pid)))
    refs = tuple(ProcessRef(p.pid, p.start_ticks, p.comm, p.cgroup, p.held_bytes) for p in order[:MEMBERS])
    total = sum(p.held_bytes for p in members) if held is None else held
    return Victim(0, take, cgroup, inode, unit_name(cgroup), refs, total, len(members))
