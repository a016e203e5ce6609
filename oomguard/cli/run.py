"""``oomguard run``: compile the policy, seal the plan in memory, and become the core. Same pid, nothing left of us.

``oomguard compile`` is the first half alone: a reload of the running core calls it by ``Plan.argv``.
"""

import json
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from .. import __version__, policy
from ..model import codec, kept
from ..model.policy import Daemon, Plan
from ..policy import Fault, PolicyError, files
from . import become, beside, live, origin, quick, say

# readable=False: that a file cannot be read is a fault of the policy like any other, found with the rest of them.
Config = Annotated[
    Path,
    typer.Option(
        "--config", metavar="FILE", help="Policy file; conf.d/*.toml beside it is read after it.", readable=False
    ),
]
Observe = Annotated[bool, typer.Option("--observe", help="Decide, record and report, but touch nothing.")]
Proc = Annotated[
    str, typer.Option("--proc", metavar="DIR", help="Of another root, as a host's in a container: its /proc.")
]
Cgroup = Annotated[str, typer.Option("--cgroup", metavar="DIR", help="And its /sys/fs/cgroup.")]
StateDir = Annotated[str, typer.Option("--state-dir", metavar="DIR", hidden=True)]
RuntimeDir = Annotated[str, typer.Option("--runtime-dir", metavar="DIR", hidden=True)]
Descriptor = Annotated[int, typer.Option("--fd", metavar="N", min=0, help="Where to write the plan.")]


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for on the command line; empty text: as the policy says."""

    config: Path
    observe: bool = False
    proc: str = ""
    cgroup: str = ""
    state_dir: str = ""
    runtime_dir: str = ""

    def argv(self) -> tuple[str, ...]:
        """How to compile the same again."""
        places = {"--proc": self.proc, "--cgroup": self.cgroup, "--state-dir": self.state_dir}
        return become.again(str(self.config), self.observe, places | {"--runtime-dir": self.runtime_dir})

    def origin(self, shadow: str) -> str:
        """What the same is compiled from."""
        return origin.digest(self.argv(), str(self.config), self.proc, shadow)


def run(
    config: Config = files.DEFAULT,
    observe: Observe = False,
    proc: Proc = "",
    cgroup: Cgroup = "",
    state_dir: StateDir = "",
    runtime_dir: RuntimeDir = "",
) -> None:
    """Start the daemon in the foreground."""
    order = Order(_absolute(config), observe, *map(_absolute_text, (proc, cgroup, state_dir, runtime_dir)))
    try:
        plan = _compiled(order)
    except PolicyError as error:
        plan = _instead(order, error)
    if os.geteuid() != 0:
        order = _without_root(order, plan.daemon)
        plan = _placed(plan, order)
    become.core(_encoded(plan))


def compile_(
    config: Config = files.DEFAULT,
    observe: Observe = False,
    proc: Proc = "",
    cgroup: Cgroup = "",
    state_dir: StateDir = "",
    runtime_dir: RuntimeDir = "",
    descriptor: Descriptor = 1,
) -> None:
    """Compile the policy and write the plan as JSON."""
    order = Order(_absolute(config), observe, *map(_absolute_text, (proc, cgroup, state_dir, runtime_dir)))
    become.write_all(descriptor, _encoded(_plan(order)))


def doubts(plan: Plan) -> list[Fault]:
    """What is dangerous, or can never happen on this machine."""
    from ..judge.select import fits

    return policy.warnings(plan, fits)


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))


def _absolute_text(path: str) -> str:
    return os.path.abspath(path) if path else ""


def _plan(order: Order) -> Plan:
    try:
        return _compiled(order)
    except PolicyError as error:
        say.faults(error)


def _compiled(order: Order) -> Plan:
    made_from = order.origin(files.shadow_of(order.config))
    plan = policy.load(files.find(order.config), observe=order.observe)
    if order.origin(plan.daemon.shadow) != made_from:
        made_from = ""  # it was written to meanwhile: right or not, it cannot be told what this plan was made from
    found = doubts(plan)
    for doubt in found:
        sys.stderr.write(f"{doubt.as_warning()}\n")
    remarks = tuple((f"policy {doubt.key}", doubt.message) for doubt in found)
    plan = _placed(plan, order)
    neighbours, beside_us = beside.remarks(plan)
    for text in beside_us:
        say.aside(f"oomguard: {text}")
    return replace(plan, made_from=made_from, remarks=remarks + neighbours)


def _instead(order: Order, error: PolicyError) -> Plan:
    """What to run in place of a wrong policy, if there is anything."""
    last = _last_good(order)
    if last is None:
        say.faults(error)
    for fault in error.faults:
        say.aside(str(fault))
    why = f"the policy files are wrong and the last good policy is in force: {error.faults[0].message}"
    say.aside(f"oomguard: {why}")
    remarks = (*(remark for remark in last.remarks if remark[0] != "reload"), ("reload", why))
    return replace(last, argv=order.argv(), made_from="", remarks=remarks)


def _last_good(order: Order) -> Plan | None:
    """The plan of a daemon that has crashed, if systemd starts us again in its place.

    A wrong policy must neither replace a good one nor leave the machine without any. By hand (and after a stop, when
    the runtime directory is gone) there is no such plan, and a wrong file is told and ends the start.
    """
    if "INVOCATION_ID" not in os.environ:
        return None
    path = Path(order.runtime_dir or files.runtime_dir(order.config)) / kept.NAME
    try:
        plan = codec.from_plain(json.loads(kept.unwrapped(quick.own_content(str(path)))[1]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return plan if isinstance(plan, Plan) and plan.version == __version__ else None


def _placed(plan: Plan, order: Order) -> Plan:
    """The plan with the command line's places over the policy's, and with the way to compile it again."""
    daemon = replace(
        plan.daemon,
        proc=order.proc or plan.daemon.proc,
        cgroup=order.cgroup or plan.daemon.cgroup,
        state_dir=order.state_dir or plan.daemon.state_dir,
        runtime_dir=order.runtime_dir or plan.daemon.runtime_dir,
    )
    return replace(plan, daemon=daemon, argv=order.argv())


def _without_root(order: Order, daemon: Daemon) -> Order:
    """A start without root's rights: own directories in place of the system's, and a word about what is less."""
    say.aside("oomguard: not root: only your own processes can be guarded, and little can be locked or set")
    state_dir = _writable(daemon.state_dir, Daemon().state_dir, live.own_state_dir())
    runtime_dir = _writable(daemon.runtime_dir, Daemon().runtime_dir, live.own_runtime_dirs()[0])
    return replace(order, state_dir=state_dir, runtime_dir=runtime_dir)


def _writable(wanted: str, default: str, instead: Path) -> str:
    """The wanted directory, or ours where the wanted one is only the default. What was asked for is not replaced."""
    if _can_write(Path(wanted)):
        return wanted
    if wanted != default:
        say.fail(say.NOT_PERMITTED, f"{wanted} cannot be written by uid {os.geteuid()}")
    say.aside(f"oomguard: {wanted} cannot be written, {instead} is used instead")
    return str(instead)


def _can_write(path: Path) -> bool:
    while not os.path.exists(path) and path != path.parent:
        path = path.parent
    return os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK)


def _encoded(plan: Plan) -> bytes:
    return json.dumps(codec.to_plain(plan)).encode("ascii")
