"""How ``oomguard run`` becomes the core: the plan sealed in memory, an environment made from nothing, exec. Same pid.

And how a command line is written so that a reload compiles the same again. Nothing slow is imported here.
"""

import fcntl
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

CORE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "core", "__main__.py")


def again(config: str, observe: bool, places: dict[str, str]) -> tuple[str, ...]:
    """How to compile the same again; ``places`` by option, "" is as the policy says.

    -I: a reload must not depend on where the daemon was started.
    """
    words = [sys.executable, "-I", "-m", "oomguard", "compile", "--config", config]
    words += ["--observe"] if observe else []
    for option in ("--proc", "--cgroup", "--state-dir", "--runtime-dir"):
        if value := places.get(option):
            words += [option, value]
    return tuple(words)


def core(plan: bytes) -> "NoReturn":
    """Replace this process by the core. Whatever it had imported is gone with it; the plan cannot be changed."""
    descriptor = _sealed(plan)
    os.set_inheritable(descriptor, True)
    # -s -S -P: no user site, no site, nothing from the working directory: only the standard library can be found.
    # Not -I, which implies -E: the interpreter would ignore PYTHONMALLOC. The environment is built from nothing
    # instead. no_debug_ranges: line numbers are enough for a traceback; the columns are 0.3 MB in each process.
    argv = [sys.executable, "-s", "-S", "-P", "-B", "-X", "no_debug_ranges", CORE, "--plan-fd", str(descriptor)]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, argv, _environment())


_KEPT = (
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "JOURNAL_STREAM",
    "INVOCATION_ID",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    *("http_proxy", "https_proxy", "no_proxy"),  # for whoever sends what sinks are told
)


def _environment() -> dict[str, str]:
    """What the core is told besides its plan: systemd's words, the way out, and how to lay out its memory."""
    return {name: os.environ[name] for name in _KEPT if name in os.environ} | {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "PYTHONUTF8": "1",
        # pymalloc maps arenas of its own; with malloc everything comes from the one heap that the core reserves,
        # touches and locks at start.
        "PYTHONMALLOC": "malloc",
    }


_MFD_NOEXEC_SEAL = 0x0008  # linux/memfd.h, since v6.3; os has no name for it


def _sealed(content: bytes) -> int:
    """A descriptor of memory that holds this and can never again be changed, by anybody."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        # Where vm.memfd_noexec is 2 nothing else is allowed; older kernels do not know the flag.
        descriptor = os.memfd_create("oomguard-plan", flags | _MFD_NOEXEC_SEAL)
    except OSError:
        descriptor = os.memfd_create("oomguard-plan", flags)
    write_all(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


def write_all(descriptor: int, content: bytes) -> None:
    """All of it: a pipe takes as much as it likes."""
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]
