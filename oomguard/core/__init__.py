"""Floor 3: the locked process. Kernel event, observation, judgement, act, record; nothing else.

``boot``     plan, prefork, rehearsal, lock, READY      ``loop``    the five lines that everything else serves
``observe``  sleeping and seeing                        ``trees``   which cgroups the guards mean
``stalls``   the kernel's stall triggers, few for many
``act``      the hands                                  ``lease``   what is changed for a time
``nominee``  a victim that is open                      ``deadman`` who ends it where the core cannot; in the reaper
``record``   the flight recorder                        ``status``  the page that others read
``lean``     a little in place of much of the standard library, before all others
"""
