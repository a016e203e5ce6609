from .base import Peer


class This(Peer):
    describe = "no daemon: the kernel's OOM killer alone"
