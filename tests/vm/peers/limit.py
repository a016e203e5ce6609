from typing import ClassVar

from .base import Peer


class This(Peer):
    unit = "limit.service"
    files: ClassVar = {"/etc/systemd/system/limit.service": "limit.service"}
    acts_at = (0.10, 0.10)
    describe = "reference: a Python loop, SCHED_FIFO, every 5 ms, cgroup.kill (guest/limit.py)"
