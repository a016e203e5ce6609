"""What a machine means for oomguard: facts in, findings out. Pure: nothing is read, tried or asked for here.

``facts``  what ``probe`` has found out    ``kernel``  what this kernel can do    ``rights``  and what we may
``memory`` swap, zram and how the kernel is tuned    ``neighbours``  who else kills    ``service``  our own installation
"""

from collections.abc import Iterator

from . import kernel, memory, neighbours, rights, service
from .facts import Facts
from .finding import Finding

__all__ = ["Facts", "Finding", "of"]


def of(facts: Facts) -> tuple[Finding, ...]:
    """Everything that there is to say, topic by topic; what could not be looked at is in ``facts.unseen``."""
    return tuple(_all(facts))


def _all(facts: Facts) -> Iterator[Finding]:
    for rules in (kernel, rights, memory, neighbours, service):
        yield from rules.of(facts)
