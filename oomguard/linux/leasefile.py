"""How the journal of leases lies in its file, and whether anything in it is still out. ``leases`` reads and writes it.

Nothing slow is imported here: it stands between a crash and the next start.
"""

import os

NAME = "leases"
MAGIC = b"oomguard leases 2\n"
SLOTS = 1024
SLOT_BYTES = 512
FREE = 0  # what a slot's first word says
OUT = 1
FIRST_SLOT_AT = os.sysconf("SC_PAGESIZE")
FILE_BYTES = FIRST_SLOT_AT + SLOTS * SLOT_BYTES


def any_out(path: str) -> bool:
    """False: surely nothing is. Of a file that is not as it should be, ``leases`` finds out."""
    try:
        with open(path, "rb") as file:
            content = file.read(FILE_BYTES)
    except FileNotFoundError:
        return False
    if len(content) < FILE_BYTES or not content.startswith(MAGIC):
        return True
    free = FREE.to_bytes(4, "little")
    return any(content[at : at + 4] != free for at in range(FIRST_SLOT_AT, FILE_BYTES, SLOT_BYTES))
