"""``oomguard undo``: puts back what a daemon that did not end by itself had changed (memory.high, oom_score_adj)."""

from typing import Annotated

import typer

from ..model.policy import Daemon
from ..policy import files
from . import live, say
from .run import Cgroup, Config, Proc

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def undo(
    runtime_dir: live.Runtime = None,
    config: Config = files.DEFAULT,
    json: Json = False,
    proc: Proc = Daemon().proc,
    cgroup: Cgroup = Daemon().cgroup,
) -> None:
    """Put back what a daemon that was killed had changed. Its next start does so too."""
    from ..linux import leases

    directory = live.runtime_dir(runtime_dir, config)
    try:
        pid = live.page(directory).numbers.pid
    except live.NotRunning:
        pass
    else:
        say.fail(say.FOUND, f"oomguard runs as pid {pid} and undoes by itself what is over: stop it first")
    said = leases.undo_all(str(directory), cgroup, proc)
    if json:
        say.as_json({"runtime_dir": str(directory), "done": said})
    for sentence in said if not json else ():
        say.line(sentence)
