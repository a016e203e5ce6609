"""``oomguard import``: the configuration of another daemon as a policy, and what of it cannot be said."""

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ..policy import PolicyError
from ..policy.faults import Fault
from . import say


class Kind(StrEnum):
    """Whose configurations can be read."""

    EARLYOOM = "earlyoom"
    NOHANG = "nohang"
    OOMD = "oomd"
    SYSTEMD_OOMD = "systemd-oomd"
    KUBELET = "kubelet"


Files = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE...", help="Its configuration. Of systemd-oomd: oomd.conf and units' drop-ins.", readable=False
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def import_(kind: Annotated[Kind, typer.Argument(metavar="DAEMON")], paths: Files, json: Json = False) -> None:
    """Print the policy that this means, and on standard error what cannot be said: 0 all was said, 1 not all.

    DAEMON is earlyoom, nohang, oomd, systemd-oomd or kubelet.
    """
    from ..policy import importers, toml

    try:
        draft = importers.read(kind.value, paths)
        if draft.guards:
            importers.compiled(draft)  # what is printed is a right policy, or is not printed
    except PolicyError as error:
        say.faults(error, "the configuration")
    text = toml.document(draft.tables()) if draft.guards else ""
    if json:
        say.as_json({"toml": text, **draft.tables(), "left": _plain(draft.left), "differs": _plain(draft.differs)})
    else:
        _print(kind.value, paths, text)
        for fault in draft.differs:
            say.fault(fault, "nearly: ", sys.stderr)
        for fault in draft.left:
            say.fault(fault, "cannot be said: ", sys.stderr)
    if not draft.guards:
        say.fail(say.FOUND, "nothing of it can be said: there is no policy")
    raise typer.Exit(say.FOUND if draft.left else say.FINE)


def _print(kind: str, paths: Sequence[Path], text: str) -> None:
    if text:
        say.line(f"# Of {kind}: {', '.join(map(str, paths))}")
        for line in text.rstrip("\n").split("\n"):
            say.line(line)


def _plain(faults: Sequence[Fault]) -> list[dict[str, str | int]]:
    return [fault.plain() for fault in faults]
