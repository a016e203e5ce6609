"""``oomguard run``: compile the policy, seal the plan in memory, and become the core. Same pid, nothing left of us.

``oomguard compile`` is the first half alone: a reload of the running core calls it by ``Plan.argv``.
"""

import fcntl
import json
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from .. import __version__, policy
from ..model import codec
from ..model.policy import KEPT_PLAN, Daemon, Plan
from ..policy import Fault, PolicyError, files
from . import live, say

CORE = Path(__file__).resolve().parent.parent / "core" / "__main__.py"

# readable=False: that a file cannot be read is a fault of the policy like any other, found with the rest of them.
Config = Annotated[
    Path,
    typer.Option(
        "--config", metavar="FILE", help="Policy file; conf.d/*.toml beside it is read after it.", readable=False
    ),
]
Observe = Annotated[bool, typer.Option("--observe", help="Decide, record and report, but touch nothing.")]
Proc = Annotated[str, typer.Option("--proc", metavar="DIR", hidden=True)]
Cgroup = Annotated[str, typer.Option("--cgroup", metavar="DIR", hidden=True)]
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
        """How to compile the same again. -I: a reload must not depend on where the daemon was started."""
        words = [sys.executable, "-I", "-m", "oomguard", "compile", "--config", str(self.config)]
        words += ["--observe"] if self.observe else []
        for option in ("proc", "cgroup", "state_dir", "runtime_dir"):
            if value := getattr(self, option):
                words += [f"--{option.replace('_', '-')}", value]
        return tuple(words)


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
    for doubt in doubts(plan):
        sys.stderr.write(f"{doubt.as_warning()}\n")
    _become_core(plan)


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
    _write_all(descriptor, _encoded(_plan(order)))


def doubts(plan: Plan) -> list[Fault]:
    """What is dangerous, or can never happen on this machine."""
    from ..judge.glob import matches

    return policy.warnings(plan, matches)


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
    plan = policy.load(files.find(order.config), observe=order.observe)
    found = doubts(plan)
    for doubt in found:
        say.aside(f"warning: {doubt}")
    return replace(_placed(plan, order), remarks=tuple((f"policy {doubt.key}", doubt.message) for doubt in found))


def _instead(order: Order, error: PolicyError) -> Plan:
    """What to run in place of a wrong policy, if there is anything."""
    kept = _last_good(order)
    if kept is None:
        say.faults(error)
    for fault in error.faults:
        say.aside(str(fault))
    why = f"the policy files are wrong and the last good policy is in force: {error.faults[0].message}"
    say.aside(f"oomguard: {why}")
    return replace(kept, argv=order.argv(), remarks=(*kept.remarks, ("reload", why)))


def _last_good(order: Order) -> Plan | None:
    """The plan of a daemon that has crashed, if systemd starts us again in its place.

    A wrong policy must neither replace a good one nor leave the machine without any. By hand (and after a stop, when
    the runtime directory is gone) there is no such plan, and a wrong file is told and ends the start.
    """
    if "INVOCATION_ID" not in os.environ:
        return None
    try:
        with open(Path(order.runtime_dir or files.runtime_dir(order.config)) / KEPT_PLAN, encoding="utf-8") as file:
            status = os.fstat(file.fileno())
            plan = codec.from_plain(json.load(file))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    own = status.st_uid == os.geteuid() and not status.st_mode & 0o022
    return plan if own and isinstance(plan, Plan) and plan.version == __version__ else None


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


def _become_core(plan: Plan) -> NoReturn:
    """Replace this process by the core. What pydantic and typer took is gone with it; the plan cannot be changed."""
    descriptor = _sealed(_encoded(plan))
    os.set_inheritable(descriptor, True)
    # -s -S -P: no user site, no site, nothing from the working directory: only the standard library can be found.
    # Not -I, which implies -E: the interpreter would ignore PYTHONMALLOC. The environment is built from nothing
    # instead.
    argv = [sys.executable, "-s", "-S", "-P", "-B", str(CORE), "--plan-fd", str(descriptor)]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, argv, _environment())


_KEPT = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM", "INVOCATION_ID")


def _environment() -> dict[str, str]:
    """What the core is told besides its plan: systemd's words, and how to lay out its memory."""
    return {name: os.environ[name] for name in _KEPT if name in os.environ} | {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "PYTHONUTF8": "1",
        # pymalloc maps arenas of its own; with malloc everything comes from the one heap that the core reserves,
        # touches and locks at start.
        "PYTHONMALLOC": "malloc",
    }


_MFD_NOEXEC_SEAL = 0x0008  # linux/memfd.h, since v6.3; os has no name for it


def _sealed(content: bytes) -> int:
    """A descriptor of memory that holds this and can never again be changed, by anybody."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        # Where vm.memfd_noexec is 2 nothing else is allowed; older kernels do not know the flag.
        descriptor = os.memfd_create("oomguard-plan", flags | _MFD_NOEXEC_SEAL)
    except OSError:
        descriptor = os.memfd_create("oomguard-plan", flags)
    _write_all(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


def _write_all(descriptor: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]
