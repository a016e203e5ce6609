"""Floor 0: what is seen, what is ruled, what is done, as frozen values. No behaviour beyond arithmetic, no I/O.

``facts``     what the kernel said            ``policy``    what the operator asked for, compiled (the Plan)
``verdict``   what the judge wants done       ``incident``  what happened, turn by turn
``codec``     any of these as plain lists and dicts, and back
``kept``      the plan in force as a file, for a start after a crash
``ring``      the flight recorder, which many may read      ``secrets``  what of a command line is nobody's business
"""
