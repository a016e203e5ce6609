from typing import ClassVar

from ..machine import Machine
from .base import Peer


class This(Peer):
    unit = "systemd-oomd.service"
    files: ClassVar = {
        "/etc/systemd/oomd.conf.d/bench.conf": "systemd-oomd.conf",
        "/etc/systemd/system/work.slice.d/oomd.conf": "systemd-oomd-slice.conf",
        "/etc/systemd/system/-.slice.d/oomd.conf": "systemd-oomd-root.conf",
    }
    describe = (
        "oomd.conf: DefaultMemoryPressureDurationSec=1s, SwapUsedLimit=90%; work.slice: "
        "ManagedOOMMemoryPressure=kill, limit 20% (default 60%); -.slice: ManagedOOMSwap=kill"
    )

    def start(self, vm: Machine) -> None:
        vm.check("systemctl unmask systemd-oomd.socket systemd-oomd.service; systemctl daemon-reload")
        vm.check("systemctl start systemd-oomd.socket systemd-oomd.service && sleep 1 && oomctl")
