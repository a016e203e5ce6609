"""One thing that ``oomguard doctor`` has to say."""

from dataclasses import dataclass
from typing import Literal

Severity = Literal["fine", "note", "matters"]


@dataclass(frozen=True, slots=True)
class Finding:
    """``name`` is for programs and stays; ``mend`` is one line for a root shell, "": no command mends it."""

    topic: str
    name: str
    severity: Severity
    text: str  # what is
    means: str = ""  # what that means for oomguard
    mend: str = ""

    def plain(self) -> dict[str, str]:
        """As ``oomguard doctor --json`` prints it."""
        return {name: getattr(self, name) for name in self.__slots__}


def size(number: int) -> str:
    """Bytes for people."""
    for unit, shift in (("GiB", 30), ("MiB", 20)):
        if number >= 10 << shift or (shift == 20 and number >= 1 << 20):
            return f"{number / (1 << shift):.1f} {unit}" if shift == 30 else f"{number >> 20} {unit}"
    return f"{number >> 10} KiB"


def sysctl(name: str, value: int) -> str:
    """Now, and at every boot. Without procps, which a minimal system lacks; last by name: not overruled."""
    last = f"/etc/sysctl.d/zz-oomguard-{name.replace('.', '-')}.conf"
    return f"echo {name} = {value} > {last}; echo {value} > /proc/sys/{name.replace('.', '/')}"
