"""Where a machine's files are, and what of them could not be looked at."""

import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from .. import hierarchies
from ..hierarchies import Hierarchies


@dataclass
class Places:
    """``here``: these are the running machine's own, so that things can be tried and systemd can be asked."""

    proc: str = "/proc"
    cgroup: str = ""  # "": where it is mounted
    sys: str = "/sys"
    config: Path = Path("/etc/oomguard/oomguard.toml")
    runtime_dir: Path = Path("/run/oomguard")
    unseen: list[str] = field(default_factory=list)

    @property
    def here(self) -> bool:
        """Nothing is tried on a copy of another machine's files."""
        return self.proc == "/proc" and not self.cgroup

    @property
    def root(self) -> bool:
        """Whether we may do whatever root may."""
        return os.geteuid() == 0

    @cached_property
    def mounts(self) -> Hierarchies:
        """Which hierarchy has the memory."""
        try:
            return hierarchies.find(self.proc, self.cgroup)
        except OSError as error:
            self.miss(str(error.filename), error.strerror or "")
            return Hierarchies("none", None, None, {})

    def miss(self, what: str, why: str = "") -> None:
        """Say so at the end, once."""
        text = f"{what}: {why}" if why else what
        if text not in self.unseen:
            self.unseen.append(text)

    def text(self, path: str) -> str | None:
        """A small file; None: it is not there, or not for us (then that is noted)."""
        try:
            with open(path, "rb") as file:
                return file.read(1 << 20).decode("utf-8", "replace")
        except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
            return None
        except OSError as error:
            self.miss(path, error.strerror or "")
            return None

    def number(self, path: str) -> int | None:
        """A file that holds one number, decimal or 0x hexadecimal."""
        text = self.text(path)
        try:
            return int(text.strip(), 0) if text is not None else None
        except ValueError:
            return None
