"""Floor 1: the syscall boundary. One module per kernel interface, named as the kernel names it.

Every reader keeps its descriptor and re-reads with pread: 2 us for /proc/meminfo, where open, read and close of
another 2 us follow each other for as little as a pid's stat (CPython 3.11, kernel 6.18, not emulated).

*Gone is a value (None), broken is an OSError with its path.* Parsers are functions of bytes: given half a file they
return None (or what is whole), given nonsense too. Nobody here logs, decides or remembers the last value.

``libc``     ctypes, here alone                 ``memlock``  one's own memory, reserved and locked
``files``    whole reads of kept files          ``psi``      pressure, and the kernel's triggers
``cgroup2``  the unified hierarchy              ``procfs``   /proc: the machine and its processes
``cgroup1``  the same where v1 has the memory   ``mounts``   which of them it is, and where
``pidfd``    a process held fast                ``events``   signals and cgroup directories in an epoll
``kmsg``     what the kernel said it killed     ``systemd``  notify and journal, in their own protocols
"""
