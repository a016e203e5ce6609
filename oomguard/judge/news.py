"""Facts into memory: what came, went, answered, or was done by the kernel. Nothing is judged here."""

from collections.abc import Iterable
from typing import Final

from ..model.facts import CgroupFacts, Result, TargetId
from ..model.policy import LEVEL_HOLDS_NS, Guard, LevelAbove, StallAbove
from ..model.verdict import Close, Dismiss, Notify, Release, Snapshot
from . import budget, escalate, lent, nominee, shadow
from .desk import MACHINE, SECOND, Desk, who
from .glob import is_inside
from .state import TargetState, evolve

STRUCK_QUIET_NS: Final = 60 * SECOND  # a service whose restarts the kernel kills makes one incident, until it pauses


def remember(desk: Desk) -> None:
    """All that this turn has to tell; ``desk.fresh`` and ``desk.news`` say of whom."""
    seen = desk.seen
    for target in (*seen.vanished, *_unguarded(desk)):
        _vanish(desk, target)
    for new in seen.appeared:
        if new.target.guard in desk.guards:
            _appear(desk, new.target, None if new.target.cgroup == MACHINE else new.facts)
    for target in [target for target in desk.targets if target.guard in desk.before.renewed]:
        _renewed(desk, target)
    _failures(desk, seen.results)
    _see(desk)
    for stall in seen.stalls:
        if stall.target in desk.targets:
            _stall(desk, stall.target, stall.condition)
    desk.news |= {survey.target for survey in seen.surveys}
    if any(result.what == "Deadman" for result in seen.results):
        desk.news |= desk.targets.keys()
    for kill in seen.kernel_kills:
        _kernel_killed(desk, kill.cgroup, kill.count, kill.comm, kill.pid)
    if desk.struck:
        _quieten(desk)


def _unguarded(desk: Desk) -> list[TargetId]:
    if {target.guard for target in desk.targets} <= desk.guards.keys():
        return []
    return [target for target in desk.targets if target.guard not in desk.guards]


def _see(desk: Desk) -> None:
    """By name, not by a walk over all targets: there may be thousands, and little is seen in a turn."""
    if desk.seen.host is not None:
        desk.fresh |= {TargetId(name, MACHINE) for name in desk.guards} & desk.targets.keys()
    for facts in desk.seen.cgroups:
        for name in desk.guards:
            target = TargetId(name, facts.path)
            if target in desk.targets and facts.path != MACHINE:
                _renew(desk, target, facts)


def _appear(desk: Desk, target: TargetId, facts: CgroupFacts | None) -> None:
    _vanish(desk, target)  # as another directory under the same path; it is no more
    kills = desk.past.pop(target, ())
    rest_ns = budget.rested_at(desk.guards[target.guard], kills)
    new = TargetState(target, entered_ns=desk.at, facts=facts, look_ns=desk.at, kills=kills, rest_ns=rest_ns)
    desk.targets[target] = new
    desk.fresh.add(target)
    lent.tripwire(desk, desk.targets[target])


def _vanish(desk: Desk, target: TargetId) -> None:
    old = desk.targets.pop(target, None)
    if old is None:
        return
    if old.kills:  # budget and cooldown are for a name: a service that was killed comes back
        known = {**desk.past, target: old.kills}
        desk.past = {t: kills for t, kills in known.items() if budget.reaches(desk.guards.get(t.guard), kills, desk.at)}
    outcome = "the cgroup is gone, or no longer under this guard"
    if old.pursuit is not None:
        outcome = f"the victim is gone: {who(old.pursuit.victim)}, and the cgroup with it"
        desk.tell(old, "VICTIM_GONE", outcome)
    for lease in old.leases:
        desk.actions.append(Release(target, lease.token))
    if old.nominee is not None:
        desk.actions.append(Dismiss(target, old.nominee.token))
    if old.incident:
        outcome, score = shadow.scored(desk, old, outcome)
        desk.actions.append(Close(target, old.incident, outcome, score))


def _renewed(desk: Desk, target: TargetId) -> None:
    """It goes on under another policy: whoever was named is named by that, or not, and so is the tripwire laid."""
    state = desk.targets[target]
    if state.phase != "draining":
        state = nominee.dismiss(desk, state)
    desk.targets[target] = state
    lent.tripwire(desk, state)
    desk.news.add(target)


def _failures(desk: Desk, results: Iterable[Result]) -> None:
    """What could not be done. Whose it was is looked for once: of five thousand tripwires most have no slot."""
    failed = [result for result in results if result.errno]
    if not failed:
        return
    tokens = {result.token for result in failed}
    leases: dict[int, TargetId] = {}
    tried: dict[int, TargetId] = {}
    for target, state in desk.targets.items():
        for lease in state.leases:
            if lease.token in tokens:
                leases[lease.token] = target
        for climb in (state.soft_climb, state.hard_climb):
            tried.update((token, target) for token in climb.tried if token in tokens)
    for result in failed:
        if result.what == "Lease" and result.token in leases:
            _unleased(desk, leases.pop(result.token), result.token)
        if result.token in tried:
            _in_vain(desk, tried.pop(result.token), result.token)


def _unleased(desk: Desk, target: TargetId, token: int) -> None:
    """A lease that could not be written: nobody may rely on it, and what the journal holds of it can go."""
    state = desk.targets[target]
    desk.actions.append(Release(target, token))
    leases = tuple(lease for lease in state.leases if lease.token != token)
    bare = frozenset(x.pid for x in state.leases if x.token == token and x.purpose == "insurance")
    desk.targets[target] = evolve(state, leases=leases, uninsurable=state.uninsurable | bare)


def _in_vain(desk: Desk, target: TargetId, token: int) -> None:
    """What a list has tried could not be done: it is not waited for."""
    state = desk.targets[target]
    soft, hard = escalate.failed(state.soft_climb, token), escalate.failed(state.hard_climb, token)
    desk.targets[target] = evolve(state, soft_climb=soft, hard_climb=hard)
    desk.news.add(target)


def _renew(desk: Desk, target: TargetId, facts: CgroupFacts) -> None:
    old = desk.targets[target]
    if old.facts is not None and old.facts.inode != facts.inode:
        _appear(desk, target, facts)
        return
    limits = (facts.limit_bytes, facts.high_bytes)
    moved = old.facts is not None and (old.facts.limit_bytes, old.facts.high_bytes) != limits
    desk.targets[target] = evolve(old, facts=facts)
    desk.fresh.add(target)
    if moved:
        lent.tripwire(desk, desk.targets[target])


def _stall(desk: Desk, target: TargetId, number: int) -> None:
    old = desk.targets[target]
    window = next((_holds_ns(stall) for stall in _stalls(desk.guards[target.guard]) if stall.number == number), 0)
    others = tuple(stall for stall in old.stalls if stall[0] != number and stall[1] > desk.at)
    desk.targets[target] = evolve(old, stalls=(*others, (number, desk.at + window)))
    desk.news.add(target)


def _kernel_killed(desk: Desk, cgroup: str, count: int, comm: str, pid: int) -> None:
    desk.counters = evolve(desk.counters, kernel_oom_kills=desk.counters.kernel_oom_kills + count)
    whom = f"{comm}[{pid}]" if comm else f"{count} process(es)"
    shadow.done_by(desk, "kernel", cgroup, whom)
    covering = [t for t in desk.targets if is_inside(cgroup, t.cgroup) and not desk.is_shadow(t)]
    if not covering:
        return
    target = max(covering, key=lambda t: len(t.cgroup))
    state = desk.targets[target]
    text = f"the kernel's OOM killer ended {whom} in {cgroup}"
    number = state.incident or desk.open_incident(state)
    desk.actions.append(Snapshot(target, "kernel", number, text))
    desk.actions.append(Notify(target, "KERNEL_KILLED", text))
    if state.phase == "calm":  # one that is started again and killed again, all night, is one incident
        desk.struck[target] = (number, desk.at)
        desk.targets[target] = evolve(desk.targets[target], incident=0)
    desk.news.add(target)


def _quieten(desk: Desk) -> None:
    """The kernel has not struck there for a while: what it did is told."""
    for target, (number, at_ns) in tuple(desk.struck.items()):
        if desk.at - at_ns >= STRUCK_QUIET_NS or target.guard not in desk.guards:
            del desk.struck[target]
            desk.actions.append(Close(target, number, "no watermark of this guard was crossed before"))


def _stalls(guard: Guard) -> Iterable[StallAbove | LevelAbove]:
    for watermark in (guard.soft, guard.hard):
        for clause in watermark.when if watermark is not None else ():
            yield from (condition for condition in clause.all_of if isinstance(condition, StallAbove | LevelAbove))


def _holds_ns(stall: StallAbove | LevelAbove) -> int:
    """For so long after the kernel has told of it."""
    return LEVEL_HOLDS_NS if isinstance(stall, LevelAbove) else stall.window_us * 1000
