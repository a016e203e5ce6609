"""The interface of a daemon under test.

A peer is a module with a class `This(Peer)`. setup() once per machine, before start() (install, configure); start()
returns when the daemon is up. One that lives in another cgroup than system.slice/<unit> says so by `cgroup`.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from ..machine import Machine

HERE = Path(__file__).resolve().parent


class Peer:
    unit: ClassVar[str | None] = None
    files: ClassVar[dict[str, str]] = {}  # path in the guest -> file beside this one
    settle_s: ClassVar[float] = 2.0  # from its start to the storm
    installed: ClassVar[bool] = False  # wants the machine in which oomguard is installed
    describe: ClassVar[str] = ""
    acts_at: ClassVar[tuple[float, float] | None] = None  # less than these shares of memory and of swap left

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def name_in_records(self) -> str:
        """What the witness calls it: its unit without the suffix."""
        return (self.unit or "kernel").removesuffix(".service")

    @property
    def cgroup(self) -> str | None:
        return f"system.slice/{self.unit}" if self.unit else None

    def setup(self, vm: Machine) -> None:
        for guest, local in self.files.items():
            vm.put(guest, (HERE / local).read_bytes())
        vm.check("systemctl daemon-reload")

    def start(self, vm: Machine) -> None:
        if self.unit:
            vm.check(f"systemctl start {self.unit}")
