from ..machine import Machine
from .base import Peer


class This(Peer):
    unit = "oomguard.service"
    installed = True  # and running: the shipped policy, and the storm's own file in conf.d
    acts_at = (0.05, 0.10)
    describe = "this tree, the shipped policy; for a limited service a guard with tripwire, soft 80 %, hard 90 %"

    @property
    def cgroup(self) -> str:
        return "oomguard.service"  # directly under the root

    def setup(self, vm: Machine) -> None:
        pass
