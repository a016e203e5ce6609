"""What becomes of a message that is delivered."""

from dataclasses import dataclass
from typing import Final

DEADLINE_S: Final = 20.0  # of one delivery: apprise gives a server 4 s to connect and 4 s to answer


@dataclass(frozen=True, slots=True)
class Answer:
    """``error`` "": delivered. ``hint``: how to mend it; ``note``: what else to know."""

    error: str = ""
    hint: str = ""
    note: str = ""
