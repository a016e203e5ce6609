"""How a worker that talks to others gives up what it does not need."""

import contextlib
import os
import pwd
from typing import Final

_NOBODY: Final = 65534


def drop_privileges() -> None:
    """Become nobody. What is not allowed to us is not needed: a unit without CAP_SETUID has dropped most already."""
    if os.geteuid() != 0:
        return
    uid, gid = _NOBODY, _NOBODY
    for user in ("oomguard", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(user)
            uid, gid = entry.pw_uid, entry.pw_gid
            break
    with contextlib.suppress(PermissionError):
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
