"""What is lent: the tripwire, the brake, the insurance, what steps have set; and how events are muted meanwhile."""

from typing import Final

from ..model.facts import CgroupFacts, Survey, TargetId
from ..model.policy import (
    AvailableBelow,
    Guard,
    KillStep,
    LimitStep,
    MemoryAbove,
    SetHighStep,
    SetMaxStep,
    SetOomScoreAdjStep,
    SetSwapMaxStep,
)
from ..model.verdict import Lease, LeaseFile, Mute, ProcessRef, Release
from . import pace
from .desk import MS, SECOND, Desk
from .detect import Sight
from .glob import is_inside
from .rank import is_corridor
from .state import Held, TargetState, evolve

# The tripwire lies this much under the hard watermark: the kernel charges in batches of 64 pages per CPU, so that
# memory.current runs ahead of use by that; and what crosses the tripwire must still reach the watermark, throttled.
TRIPWIRE_SHARE: Final = 128  # one 128th of the limit
TRIPWIRE_MIN: Final = 1 << 20
MUTE_NS: Final = (100 * MS, 2 * SECOND)
BRAKE_SLACK: Final = 16 << 20  # left to the nominee at least, lest a brake on an old number stops it at once
BRAKE_STEP: Final = 4 << 20  # a brake is moved only for more than this
PAGE: Final = 4096
# What the kernel's killer prefers to everything else that has not asked for it itself (mm/oom_kill.c: 1000 counts as
# much as all memory). Of a nominee with many processes the largest few: it takes one at a time, and ours is to be first
# and second, not all of a fork bomb; each of them is a lease, and a walk over /proc when it ends.
INSURED_ADJ: Final = 1000
INSURED_MOST: Final = 4

_LIMIT_FILES: Final[dict[type, LeaseFile]] = {
    SetHighStep: "memory.high",
    SetMaxStep: "memory.max",
    SetSwapMaxStep: "memory.swap.max",
}


def thaw(desk: Desk, state: TargetState, but: str = "") -> TargetState:
    """Whoever was frozen goes on, but for the nominee of now."""
    over = [x for x in state.leases if x.file == "cgroup.freeze" and not (but and is_inside(but, x.cgroup))]
    for lease in over:
        desk.actions.append(Release(state.id, lease.token))
    return evolve(state, leases=tuple(x for x in state.leases if x not in over)) if over else state


def insure(desk: Desk, guard: Guard, state: TargetState, survey: Survey) -> TargetState:
    """If the kernel is faster after all, it is to kill the one that we would have killed."""
    meant = _to_insure(guard, state, survey)
    kept = [x for x in state.leases if x.purpose == "insurance" and x.pid in meant][:INSURED_MOST]
    for lease in state.leases:
        if lease.purpose == "insurance" and lease not in kept:
            desk.actions.append(Release(state.id, lease.token))
    known = {lease.pid for lease in kept}
    for process in [p for p in meant.values() if p.pid not in known][: INSURED_MOST - len(kept)]:
        lease = Held(desk.token, "insurance", process.cgroup, 0, process.pid, INSURED_ADJ, file="oom_score_adj")
        lend(desk, state.id, lease, process.start_ticks)
        kept.append(lease)
    return evolve(state, leases=(*(x for x in state.leases if x.purpose != "insurance"), *kept))


def release_steps(desk: Desk, state: TargetState) -> TargetState:
    """What steps have set of it. Its insurance may go over to the next: they may have processes in common."""
    over = [lease for lease in state.leases if lease.pid and lease.purpose == "step"]
    for lease in over:
        desk.actions.append(Release(state.id, lease.token))
    return evolve(state, leases=tuple(lease for lease in state.leases if lease not in over))


def tripwire(desk: Desk, state: TargetState) -> None:
    """memory.high just under the hard watermark, as long as the guard lives and the cgroup has a limit."""
    held = next((lease for lease in state.leases if lease.purpose == "tripwire"), None)
    value = _tripwire_bytes(desk, desk.guards[state.id.guard], state.facts, held)
    if value is None or state.facts is None:
        desk.targets[state.id] = release(desk, state, "tripwire")
        return
    # Moved under its own token: taken anew, it would find its own old value and put that back for ever.
    token = desk.token if held is None else held.token
    lease = Held(token, "tripwire", state.facts.path, state.facts.inode, 0, value)
    lend(desk, state.id, lease, 0)
    others = tuple(other for other in state.leases if other.purpose != "tripwire")
    desk.targets[state.id] = evolve(state, leases=(*others, lease))


def _tripwire_bytes(desk: Desk, guard: Guard, facts: CgroupFacts | None, held: Held | None) -> int | None:
    if not guard.tripwire or guard.mode != "enforce" or facts is None or facts.limit_bytes is None:
        return None
    if desk.before.own_cgroup and is_inside(facts.path, desk.before.own_cgroup):
        return None  # whoever throttles the killer waits for it
    if desk.host is not None and facts.limit_bytes >= desk.host.total_bytes:
        return None  # the machine runs out first
    line = _hard_line(guard, facts.limit_bytes)
    if line is None:
        return None
    value = (line - max(TRIPWIRE_MIN, facts.limit_bytes // TRIPWIRE_SHARE)) // PAGE * PAGE
    if value <= 0 or (facts.high_bytes is not None and facts.high_bytes <= value and not _is_ours(facts, held)):
        return None  # the owner's own memory.high is lower: it is a tripwire already
    return value


def brake(desk: Desk, guard: Guard, state: TargetState, survey: Survey, sight: Sight) -> TargetState:
    """memory.high of the nominee's cgroup: what it has and what is left to the hard watermark."""
    victim = state.nominee
    line = _available_line(guard, sight)
    if victim is None or guard.mode != "enforce" or sight.facts is not None:
        return state
    if line is None or not guard.brake:  # a policy that has changed may ask for none any more
        return release(desk, state, "brake")
    facts = next((f for f in survey.cgroups if f.path == victim.cgroup), None)
    held = next((lease for lease in state.leases if lease.purpose == "brake"), None)
    if held is not None and held.cgroup != victim.cgroup:
        state, held = release(desk, state, "brake"), None
    if facts is None or is_corridor(facts.path) or not facts.inode or facts.path == desk.before.own_cgroup:
        return state
    left = max(BRAKE_SLACK, sight.host.available_bytes - line)
    value = (facts.current_bytes + left) // PAGE * PAGE
    if facts.high_bytes is not None and held is None and facts.high_bytes <= value:
        return state  # its owner brakes it already
    if held is not None and abs(held.value - value) < BRAKE_STEP:
        return state
    lease = Held(held.token if held else desk.token, "brake", facts.path, facts.inode, 0, value)
    lend(desk, state.id, lease, 0)
    others = tuple(other for other in state.leases if other.purpose != "brake")
    return evolve(state, leases=(*others, lease))


def set_step(
    desk: Desk, guard: Guard, state: TargetState, sight: Sight, step: LimitStep | SetOomScoreAdjStep
) -> TargetState:
    """What a step of the policy sets, of the guard's cgroup or of the nominee, for its time."""
    if guard.mode != "enforce":
        return state
    if isinstance(step, SetOomScoreAdjStep):
        victim = state.nominee
        if victim is None or not victim.processes:
            return state
        root = victim.processes[0]
        token = step_token(desk, state, root.cgroup, root.pid, "oom_score_adj")
        until_ns = desk.at + step.for_ns
        lease = Held(token, "step", root.cgroup, 0, root.pid, step.to, until_ns, "oom_score_adj")
        lend(desk, state.id, lease, root.start_ticks)
    else:
        if state.facts is None or not state.facts.inode:
            return state
        facts, file = state.facts, _LIMIT_FILES[type(step)]
        total = sight.swap_limit_bytes if file == "memory.swap.max" else sight.limit_bytes
        value = step.to.of(total) // PAGE * PAGE
        token = step_token(desk, state, facts.path, 0, file)
        if file == "memory.high" and _is_lower_already(state, facts, token, value):
            return state
        lease = Held(token, "step", facts.path, facts.inode, 0, value, desk.at + step.for_ns, file)
        lend(desk, state.id, lease, 0)
    others = tuple(other for other in state.leases if other.token != lease.token)
    return evolve(state, leases=(*others, lease))


def step_token(desk: Desk, state: TargetState, cgroup: str, pid: int, file: LeaseFile) -> int:
    """A lease that is out already is prolonged under its own token."""
    steps = (x for x in state.leases if x.purpose == "step")
    return next((x.token for x in steps if (x.cgroup, x.pid, x.file) == (cgroup, pid, file)), desk.token)


def lend(desk: Desk, target: TargetId, lease: Held, start_ticks: int) -> None:
    """Under this token, written or moved."""
    desk.token = max(desk.token, lease.token + 1)
    desk.actions.append(
        Lease(
            target,
            lease.token,
            lease.file,
            lease.cgroup,
            lease.inode,
            lease.pid,
            start_ticks,
            lease.value,
            lease.purpose,
        )
    )


def release(desk: Desk, state: TargetState, purpose: str) -> TargetState:
    """All that is lent for this purpose."""
    for lease in state.leases:
        if lease.purpose == purpose:
            desk.actions.append(Release(state.id, lease.token))
    return evolve(state, leases=tuple(lease for lease in state.leases if lease.purpose != purpose))


def expire(desk: Desk, state: TargetState) -> TargetState:
    """What was lent for a time, and that is over."""
    over = [lease for lease in state.leases if lease.until_ns and lease.until_ns <= desk.at]
    for lease in over:
        desk.actions.append(Release(state.id, lease.token))
    return evolve(state, leases=tuple(x for x in state.leases if x not in over)) if over else state


def mute(desk: Desk, guard: Guard, state: TargetState, sight: Sight) -> TargetState:
    """Events that cache explains are not listened to for as long as the distance to the watermark allows."""
    facts = state.facts
    spoke = any(wake.source == "events" and wake.path == state.id.cgroup for wake in desk.seen.wakes)
    if facts is None or not spoke or guard.mode == "shadow":
        return state
    if state.phase not in ("calm", "armed") or state.id not in desk.fresh:
        return state
    tripped = state.tripped
    to_hard = pace.time_to(guard.hard, state.hard_since, sight, tripped)
    if to_hard < MUTE_NS[0]:
        return state
    until = desk.at + min(to_hard, MUTE_NS[1])
    if tripped:  # no longer than to the next deadline: one turn then serves both
        until = min(until, desk.at + max(MUTE_NS[0], pace.next_look(guard, state, sight, tripped)))
    desk.actions.append(Mute(state.id, until))
    return evolve(state, muted_ns=until)


def _hard_line(guard: Guard, limit_bytes: int) -> int | None:
    """The lowest memory_above of the hard watermark, in bytes."""
    clauses = guard.hard.when if guard.hard is not None else ()
    lines = [c.amount.of(limit_bytes) for clause in clauses for c in clause.all_of if isinstance(c, MemoryAbove)]
    return min(lines, default=None)


def _available_line(guard: Guard, sight: Sight) -> int | None:
    """The highest available_below of the hard watermark, in bytes; of one clause, the lowest counts."""
    lines = []
    for clause in guard.hard.when if guard.hard is not None else ():
        below = [c.amount.of(sight.host.total_bytes) for c in clause.all_of if isinstance(c, AvailableBelow)]
        if below:
            lines.append(min(below))
    return max(lines, default=None)


def _to_insure(guard: Guard, state: TargetState, survey: Survey) -> dict[int, ProcessRef]:
    """By pid, the processes of the nominee that the kernel may be pointed at, the largest first.

    Not one whose owner has lowered its score: that says whom the kernel is to spare, and is not overruled. What a step
    of the policy sets is the policy's.
    """
    steps = [step for mark in (guard.soft, guard.hard) if mark is not None for step in mark.do]
    kills = any(isinstance(step, KillStep) for step in steps)
    own = any(isinstance(step, SetOomScoreAdjStep) for step in steps)
    if not (guard.insurance and guard.mode == "enforce" and kills and not own and state.nominee is not None):
        return {}
    more = state.phase in ("armed", "cooling")  # who is killed in this very turn needs no insurance
    found = {(p.pid, p.start_ticks): p.oom_score_adj for p in survey.processes}
    known = {lease.pid for lease in state.leases if lease.purpose == "insurance"}
    able = [
        process
        for process in state.nominee.processes
        if process.pid in known or (more and 0 <= found.get((process.pid, process.start_ticks), -1) < INSURED_ADJ)
        if process.pid not in state.uninsurable
    ]
    return {process.pid: process for process in sorted(able, key=lambda p: -p.held_bytes)}


def _is_ours(facts: CgroupFacts, held: Held | None) -> bool:
    """Whether the memory.high that was found is what this lease has put there."""
    return held is not None and facts.high_bytes == held.value


def _is_lower_already(state: TargetState, facts: CgroupFacts, token: int, value: int) -> bool:
    """Whether its owner, or another lease of ours, keeps memory.high lower than that."""
    mine = next((lease for lease in state.leases if lease.token == token), None)
    if facts.high_bytes is not None and facts.high_bytes <= value and not _is_ours(facts, mine):
        return True
    high = (x for x in state.leases if x.file == "memory.high" and x.cgroup == facts.path and x.token != token)
    return any(lease.value <= value for lease in high)
