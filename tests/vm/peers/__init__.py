"""The daemons that `make bench` puts through the same storms, oomguard among them."""

from __future__ import annotations

import importlib

from .base import Peer

NAMES = ("none", "earlyoom", "nohang", "nohang_psi", "systemd_oomd", "oomd", "limit", "oomguard")


def load(name: str) -> Peer:
    """The peer of that name: the class `This` in the module of that name."""
    if name not in NAMES:
        raise ValueError(f"no such peer: {name} (there are {', '.join(NAMES)})")
    peer: Peer = importlib.import_module(f".{name}", __name__).This(name)
    return peer


__all__ = ["NAMES", "Peer", "load"]
