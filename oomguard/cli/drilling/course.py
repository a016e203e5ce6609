"""Which guard a drill is about, in which cgroup and with which limit. Pure: a plan in, a course or a reason why not.

Only a guard that can be brought to act by one cgroup alone is drilled: by the memory of that cgroup. What waits for the
machine's memory, or for a stall, cannot be tried without harm to everybody else.
"""

from dataclasses import dataclass, replace

from ...judge.select import selects
from ...model.policy import Guard, MemoryAbove, Plan, Watermark
from ..scratch import ALONE, HOME

LEAST_BYTES = 32 << 20  # a limit: the hog itself is 7 MiB before it takes anything
DEFAULT_BYTES = 128 << 20  # 19 MiB lie between 85 % and this: a fifth of a second at the default rate
_ELSEWHERE = ": its rules can be tried elsewhere, see --policy FILE"
_ROOM = 10  # a limit is at least a tenth over the line


class Unfit(Exception):
    """There is nothing to drill: the text says why, and what to do."""


class Uncovered(Unfit):
    """The policy has no guard for the drill's own place."""


@dataclass(frozen=True, slots=True)
class Course:
    """``cgroup``: of the scratch, as a policy names it. ``line_bytes``: its hard watermark under that limit."""

    guard: Guard
    cgroup: str
    limit_bytes: int
    line_bytes: int


def in_force(plan: Plan, wanted: str | None, mark: str, limit_bytes: int) -> Course:
    """The course for a guard of the plan that a daemon has in force; ``mark``: the scratch cgroup's own name.

    Without a name: the guard that covers the drill's own place. Raises ``Unfit``.
    """
    if wanted is None:
        path = f"{HOME}/{mark}"
        found = [guard for guard in _real(plan) if guard.cgroup != "/" and selects(guard.cgroup, path)]
        if not found:
            raise Uncovered(
                f"the policy in force covers no cgroup of {HOME}: oomguard drill --print-policy > "
                "/etc/oomguard/conf.d/90-drill.toml && systemctl reload oomguard.service"
                " (or drill another one with --guard NAME, or without it with --alone)"
            )
        return _course(found[0], path, limit_bytes)
    guard = named(plan, wanted)
    return _course(guard, place(guard, mark), limit_bytes)


def alone(plan: Plan, wanted: str | None, mark: str, limit_bytes: int) -> Course:
    """The course for a daemon of our own: one guard of the plan, put onto the scratch cgroup. Raises ``Unfit``."""
    path = f"{ALONE}/{mark}"
    if wanted is not None:
        return _course(replace(named(plan, wanted), cgroup=path, xattr=""), path, limit_bytes)
    reasons = []
    for guard in _real(plan):
        try:
            return _course(replace(guard, cgroup=path, xattr=""), path, limit_bytes)
        except Unfit as why:
            reasons.append(str(why))
    raise Unfit("; ".join(reasons) or "the policy has no guard at all")


def named(plan: Plan, wanted: str) -> Guard:
    """The guard of that name. Raises ``Unfit``, with the names that there are."""
    for guard in _real(plan):
        if guard.name == wanted:
            return guard
    names = ", ".join(guard.name for guard in _real(plan)) or "none at all"
    raise Unfit(f"there is no policy {wanted}: there is {names}")


def place(guard: Guard, mark: str) -> str:
    """A cgroup that does not exist and that the guard would cover: its pattern with our mark for each star.

    Raises ``Unfit``: where there is no star, what it covers is somebody's.
    """
    words = guard.cgroup
    if not words.startswith("/") or words == "/" or not ({"*", "?"} & set(words)):
        raise Unfit(f"policy {guard.name} covers {words} alone, where a leak would be among others{_ELSEWHERE}")
    if guard.xattr:
        raise Unfit(
            f"policy {guard.name} covers only cgroups with the extended attribute {guard.xattr_name}{_ELSEWHERE}"
        )
    path = words.replace("**", "*").replace("*", mark).replace("?", "x")
    if not selects(guard.cgroup, path):
        raise Unfit(f"no cgroup of our own can be thought of that {words} (policy {guard.name}) covers")
    return path


def beside(plan: Plan, course: Course) -> list[Guard]:
    """Other guards that cover the scratch cgroup, or one around it; those of the machine excepted."""
    way = [path for path in _way_up(course.cgroup) if path != "/"]
    return [
        guard
        for guard in _real(plan)
        if guard.cgroup != "/" and guard != course.guard and any(selects(guard.cgroup, it) for it in way)
    ]


def _way_up(path: str) -> list[str]:
    parts = path.strip("/").split("/")
    return ["/" + "/".join(parts[:count]) for count in range(len(parts), 0, -1)]


def _real(plan: Plan) -> list[Guard]:
    return [guard for guard in plan.guards if guard.mode != "shadow"]


def _course(guard: Guard, path: str, limit_bytes: int) -> Course:
    if guard.mode != "enforce":
        raise Unfit(f'policy {guard.name} has mode = "{guard.mode}": it decides and does not act')
    if guard.hard is None or not guard.hard.kills:
        raise Unfit(f"policy {guard.name} ends nobody at its hard watermark")
    limit = max(limit_bytes, LEAST_BYTES)
    line = _line(guard.hard, limit)
    if line is None:
        raise Unfit(
            f"policy {guard.name} does not act on the memory of a cgroup alone (memory_above, with nothing else)"
        )
    if line * _ROOM > limit * (_ROOM - 1):
        limit = line * _ROOM // (_ROOM - 1)
        line = _line(guard.hard, limit) or line
    if line >= limit:
        raise Unfit(f"policy {guard.name} has its hard watermark at the limit itself: the kernel is there first")
    return Course(guard, path, limit, line)


def _line(mark: Watermark, limit_bytes: int) -> int | None:
    """At how many bytes of memory this watermark holds, whatever else is so; None: only other things decide."""
    lines = [
        max(it.amount.of(limit_bytes) for it in clause.all_of if isinstance(it, MemoryAbove))
        for clause in mark.when
        if clause.all_of and all(isinstance(it, MemoryAbove) for it in clause.all_of)
    ]
    return min(lines, default=None)
