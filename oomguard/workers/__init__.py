"""Floor 2: preforked hands. They obey, never decide.

``ring``     the shared-memory flight recorder       ``pool``    prefork, mailboxes
``reaper``   writes and reaping that may block        ``scribe``  evidence to disk
``herald``   what people are told                     ``follow``  what both have in common: reading the ring
``story``    an incident as a fold over turns         ``evidence``, ``shelf``  what is gathered, where it lies
"""
