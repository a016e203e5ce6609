from ..machine import Machine
from . import nohang

CHANGED = {
    "psi_checking_enabled": "True",
    "psi_excess_duration": "1",
    "zram_checking_enabled": "True",
    "soft_threshold_min_mem": "10 %",
    "hard_threshold_min_mem": "5 %",
}


class This(nohang.This):
    acts_at = (0.10, 0.10)
    describe = (
        "nohang.conf with PSI on (full_avg10, soft 40, hard 90, excess duration 1 s instead of 30), zram check on, "
        "memory thresholds soft 10 %, hard 5 % (as nohang-desktop.conf)"
    )

    def setup(self, vm: Machine) -> None:
        # The file as shipped, with these lines changed.
        for key, value in CHANGED.items():
            vm.check(f"sed -i 's/^{key} *=.*/{key} = {value}/' /etc/nohang/nohang.conf")
        super().setup(vm)
