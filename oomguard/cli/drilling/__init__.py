"""A fire drill in parts. ``course`` and ``calm`` are pure: what is to be done, and what speaks against it.

``course``  which guard, in which cgroup, with which limit    ``calm``  may it be done now
``alone``   a daemon of its own, under a given policy         ``leak``  the hog, and what is seen of it from outside
``hog``     what is executed to take the memory               ``told``  the incident that the daemon has written
"""
