from typing import ClassVar

from .base import Peer


class This(Peer):
    unit = "oomd.service"
    files: ClassVar = {"/etc/oomd/oomd.json": "oomd.json", "/etc/default/oomd": "oomd.default"}
    describe = "oomd, interval 1 s (its smallest), peers/oomd.json: memory_above, pressure_above, swap_free"
