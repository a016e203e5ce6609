"""Floor 1: pure judgement. No clock, no file, no system: ``decide(plan, state, seen) -> (state, actions)``.

``glob``      patterns that cannot backtrack         ``detect``    conditions, and the phases of a guard as one table
``rank``      who may be a victim, in what order     ``escalate``  one victim's way from signal to gone, as one table
``pace``      when to look again                     ``decide``    the fold that ties them together
"""
