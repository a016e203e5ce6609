"""The policy language: TOML in, a ``Plan`` out, or every fault of it at once. The only home of pydantic and tomli.

``files``    which files, may they be trusted, what do they say    ``units``    "85%", "512MiB", "150ms"
``locate``   on which line a key stands                            ``schema``   what may be written (pydantic)
``values``   what a single value may be                            ``expression``  a regular expression as a table
``shares``   of what a share is
``compile``  merge, check, fill in                                 ``doubts``   what will not work on this machine
``spoken``   a plan in TOML again (and ``toml`` writes it)         ``origins``  who said what, or that nobody did
``described``  the language as a JSON Schema, every key in words

Short-lived: ``oomguard run`` compiles, hands the plan over and becomes the core, which knows nothing of this.
The heavy imports happen in the functions, so that a command that only wants a path starts at once.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from ..model.policy import Plan
from .faults import DENIED, Fault, PolicyError

__all__ = ["DENIED", "Fault", "PolicyError", "load", "warnings"]


def load(paths: Sequence[Path] | None = None, *, observe: bool = False) -> Plan:
    """The plan that these files mean, later ones over earlier ones; without paths the system's own files.

    ``observe``: every guard decides, records and reports, and touches nothing. Raises ``PolicyError``.
    """
    # A root daemon loads no plugins that happen to be installed, and looking for them takes a tenth of a start.
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"
    from . import compile as compiler
    from . import files

    return compiler.plan(files.find(files.DEFAULT) if paths is None else tuple(paths), observe=observe)


def warnings(plan: Plan, matches: Callable[[str, str], bool]) -> list[Fault]:
    """What in a right plan is dangerous, or can never happen on this machine. ``matches`` is the judge's glob."""
    from . import doubts

    return doubts.of(plan, matches)
