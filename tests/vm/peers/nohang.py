from .base import Peer


class This(Peer):
    unit = "nohang.service"
    acts_at = (0.05, 0.10)
    describe = "Debian's unit and its unchanged nohang.conf (soft 5 %, hard 2 %; PSI and zram checks off)"

    @property
    def cgroup(self) -> str:
        return f"hostcritical.slice/{self.unit}"
