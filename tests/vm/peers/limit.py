from typing import ClassVar

from .base import Peer


class This(Peer):
    unit = "limit.service"
    files: ClassVar = {"/etc/systemd/system/limit.service": "limit.service"}
    describe = "reference: a Python loop, SCHED_FIFO, every 5 ms, cgroup.kill (guest/limit.py)"
