from typing import ClassVar

from .base import Peer


class This(Peer):
    unit = "earlyoom.service"
    files: ClassVar = {"/etc/default/earlyoom": "earlyoom.default"}
    acts_at = (0.10, 0.10)
    describe = "Debian's unit, EARLYOOM_ARGS=-m 10 -s 10 -r 0 -p"
