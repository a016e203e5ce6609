"""Floor 2: preforked hands. They obey, never decide.

``pool``     prefork, mailboxes                       ``follow``  what both followers have in common: reading the ring
``reaper``   writes and reaping that may block        ``scribe``  evidence to disk
``herald``   what people are told
``story``    an incident as a fold over turns         ``evidence``, ``shelf``  what is gathered, where it lies
"""
