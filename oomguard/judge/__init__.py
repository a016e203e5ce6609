"""Floor 1: pure judgement. No clock, no file, no system: ``decide(plan, state, seen) -> (state, actions)``.

``decide``    the fold that ties all together        ``desk``      the working table of one turn
``news``      facts into memory                      ``state``     what is remembered from turn to turn
``detect``    conditions; a guard's phases, a table  ``phases``    into armed and firing and back to calm
``trend``     what was before, for conditions        ``pace``      when to look again
``escalate``  a list's way and a victim's, tables    ``ladder``    the actions of a list
``nominee``   who would be ended                     ``kill``      the signal, and the way to the victim's end
``rank``      who may be a victim, in what order     ``measure``   by what
``match``     what the patterns of a policy mean     ``glob``      patterns that cannot backtrack
``select``    whom a guard means                     ``budget``    how many may be ended
``lent``      limits and scores that are lent        ``shadow``    verdicts that are not carried out
``renew``     what stays when a policy changes       ``recall``    what was remembered, for a replay
"""
