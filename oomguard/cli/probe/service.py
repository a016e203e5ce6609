"""Our own installation: the unit, the daemon that runs, its policy and tripwires, and where incidents go."""

import grp
import json
import os
import shlex
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace

from ... import __version__, policy
from ...judge.select import fits, selects
from ...linux.cgroup2 import effective_limit
from ...model import codec, kept
from ...model.policy import Daemon, Guard, Plan
from ...model.statuspage import StatusPage
from ...policy import DENIED, Fault, PolicyError, files
from .. import beside, live
from ..findings.facts import Doubt, Guarded, Ours, Trial, Unit
from . import systemd
from .places import Places
from .tried import why

_TOLD = ("policy ", f"{beside.WHAT} ")


def look(places: Places) -> Ours:
    """Whatever of it can be seen."""
    page = _page(places)
    running = _in_force(places) if page is not None else None
    plan, faults, doubts = _policy(places, observe=running is not None and "--observe" in running.argv)
    known = running or plan
    daemon = known.daemon if known is not None else Daemon(state_dir=files.state_dir(places.config))
    return Ours(
        systemd=systemd.is_init(places),
        unit=_unit(places),
        pid=page.numbers.pid if page is not None else None,
        version=page.version if page is not None else "",
        installed=__version__,
        # What the compiler has found is among them: that of the files and the machine as they are now is told instead.
        degraded=tuple(it for it in page.degraded if not it[0].startswith(_TOLD)) if page is not None else (),
        files=plan.files if plan is not None else (),
        faults=faults,
        doubts=doubts,
        changed=running is not None and plan is not None and _guards(running) != _guards(plan),
        guards=guarded(places, known) if known is not None else (),
        state_dir=daemon.state_dir,
        writable=_writable(places, daemon.state_dir),
        free_bytes=_free(places, daemon.state_dir),
        incidents_max_bytes=daemon.incidents_max_bytes,
        group=_group() if places.here else None,
        config="" if places.config == files.DEFAULT else shlex.quote(str(places.config)),
    )


def _page(places: Places) -> StatusPage | None:
    try:
        return live.page(places.runtime_dir)
    except live.NotRunning:
        return None
    except OSError as error:
        places.miss(str(places.runtime_dir), error.strerror or "")
        return None


def _in_force(places: Places) -> Plan | None:
    """The plan of the daemon that runs."""
    path = places.runtime_dir / kept.NAME
    try:
        plan = codec.from_plain(json.loads(kept.unwrapped(path.read_bytes())[1]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        places.miss(
            str(path), (error.strerror if isinstance(error, OSError) else None) or "it is no plan of this version"
        )
        return None
    return plan if isinstance(plan, Plan) else None


def _policy(places: Places, *, observe: bool) -> tuple[Plan | None, tuple[Doubt, ...], tuple[Doubt, ...]]:
    """(the plan of the files, their faults, doubts about them)."""
    try:
        plan = policy.load(files.find(places.config), observe=observe)
    except PolicyError as error:
        if all(fault.message == DENIED for fault in error.faults):
            places.miss(str(places.config), DENIED)
            return None, (), ()
        return None, _doubts(error.faults), ()
    daemon = replace(plan.daemon, proc=places.proc, cgroup=places.mounts.memory or Daemon().cgroup, sys=places.sys)
    return plan, (), _doubts(policy.warnings(replace(plan, daemon=daemon), fits))


def _doubts(faults: Iterable[Fault]) -> tuple[Doubt, ...]:
    return tuple(Doubt(f"{fault.file}:{fault.line}: {fault.key}", fault.message, fault.hint) for fault in faults)


def _guards(plan: Plan) -> tuple[Guard, ...]:
    return tuple(guard for guard in plan.guards if guard.mode != "shadow")


def guarded(places: Places, plan: Plan) -> tuple[Guarded, ...]:
    """Each guard with the cgroups that it means now, and how many of its tripwires are laid."""
    paths = list(_cgroups(places.mounts.memory or ""))
    found = []
    for guard in _guards(plan):
        targets = tuple(path for path in paths if guard.cgroup != "/" and selects(guard.cgroup, path))
        limited, laid = _tripwires(places, targets) if guard.tripwire else (0, None)
        found.append(Guarded(guard.name, guard.cgroup, guard.mode, targets, guard.tripwire, limited, laid))
    return tuple(found)


def _cgroups(root: str) -> Iterator[str]:
    for directory, names, _ in os.walk(root) if root else ():
        names.sort()
        if path := directory.removeprefix(root):
            yield path


def _tripwires(places: Places, targets: tuple[str, ...]) -> tuple[int, int | None]:
    """(cgroups with a limit on their way up, those of them with a memory.high); v1 has no such file."""
    root = places.mounts.memory
    if root is None or places.mounts.version != 2:
        return 0, None
    limited = [path for path in targets if effective_limit(root, path)[0] is not None]
    laid = [path for path in limited if (places.text(f"{root}{path}/memory.high") or "max").strip() != "max"]
    return len(limited), len(laid)


def _unit(places: Places) -> Unit | None:
    if not systemd.is_init(places):
        return None
    names = ("LoadState", "ActiveState", "UnitFileState", "NeedDaemonReload", "NRestarts")
    for said in systemd.show(places, names, "oomguard.service"):
        restarts = said.get("NRestarts", "0")
        return Unit(
            said.get("LoadState", "not-found"),
            said.get("ActiveState", "inactive"),
            said.get("UnitFileState", ""),
            said.get("NeedDaemonReload") == "yes",
            int(restarts) if restarts.isdigit() else 0,
        )
    return None


def _writable(places: Places, directory: str) -> Trial:
    """Root may write anywhere but on what is read-only or full: so a file is made in it, without a name."""
    if not places.here:
        return None
    if not places.root:
        places.miss(f"whether {directory} can be written", "only root writes there")
        return None
    above = directory
    while not os.path.isdir(above) and above != "/":
        above = os.path.dirname(above)
    try:
        with tempfile.TemporaryFile(dir=above) as file:
            file.write(b"oomguard")
            file.flush()
    except OSError as error:
        return why(error)
    return ""


def _free(places: Places, directory: str) -> int | None:
    if not places.here:
        return None
    while not os.path.isdir(directory) and directory != "/":
        directory = os.path.dirname(directory)
    try:
        seen = os.statvfs(directory)
    except OSError as error:
        places.miss(directory, error.strerror or "")
        return None
    return seen.f_bavail * seen.f_frsize


def _group() -> bool:
    try:
        grp.getgrnam("oomguard")
    except KeyError:
        return False
    return True
