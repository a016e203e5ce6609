"""What ``oomguard doctor`` looks at, tries and asks for: places in, ``findings.Facts`` out. Judges nothing.

``kernel``  tried, on children of our own    ``rights``  read    ``memory``  read    ``neighbours``  read and asked for
``service`` our own installation             ``tried``   how a thing is tried        ``systemd``     how it is asked
"""

from ..findings.facts import Facts
from . import kernel, memory, neighbours, rights, service
from .places import Places

__all__ = ["Facts", "Places", "look"]


def look(places: Places) -> Facts:
    """Everything about this machine; of another one's files what they tell. ``unseen``: what is missing."""
    ours = service.look(places)
    others = neighbours.look(places)
    return Facts(
        kernel=kernel.look(places),
        rights=rights.look(places, ours.pid),
        memory=memory.look(places),
        others=others,
        managed=neighbours.managed(places, others),
        ours=ours,
        unseen=tuple(places.unseen),
    )
