"""``oomguard undo``: puts back what a daemon that did not end by itself had changed (memory.high, oom_score_adj)."""

from typing import Annotated

import typer

from ..model.policy import Daemon
from ..policy import files
from . import live, quick
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
    quick.put_back(str(live.runtime_dir(runtime_dir, config)), cgroup, proc, as_json=json)
