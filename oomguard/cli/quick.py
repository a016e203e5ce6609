"""The two commands between the death of a daemon and the next one, as the unit calls them: nobody guards meanwhile.

``undo`` with a runtime directory, and ``run`` where the plan that was in force still holds. The standard library and
what is ours, as little of either as will do: typer and pydantic are two seconds of an emulated or starved machine.
What is asked for in any other way, or in vain, is left to the command proper, which knows all options and all words.
"""

import os
import stat

from .. import __version__
from ..model import kept
from . import become, origin, say

PROC, CGROUP = "/proc", "/sys/fs/cgroup"


def answer(words: list[str]) -> bool:
    """False: nothing was done; the command proper has to."""
    match words:
        case ["--version"]:
            say.line(f"oomguard {__version__}")
            return True
        case ["undo", *rest]:
            return _undo(_options(rest, ("--runtime-dir", "--proc", "--cgroup"), "--json"))
        case ["run", *rest]:
            plan = _plan_that_holds(_options(rest, ("--config", *_PLACES), "--observe"))
            if plan is not None:
                become.core(plan)
        case _:
            pass
    return False


_PLACES = ("--proc", "--cgroup", "--state-dir", "--runtime-dir")


def _options(words: list[str], places: tuple[str, ...], switch: str) -> dict[str, str] | None:
    """Options that are whole paths, written out, each once; None: there is anything else."""
    found: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if name in found:
            return None
        if word == switch:
            found[word] = word
            continue
        value = value if equals else next(rest, "")
        if name not in places or not os.path.isabs(value) or os.path.normpath(value) != value:
            return None
        found[name] = value
    return found


# ---------------------------------------------------------------------------------------------------------------- undo


def _undo(asked: dict[str, str] | None) -> bool:
    if asked is None or "--runtime-dir" not in asked:
        return False
    cgroup, proc = asked.get("--cgroup", CGROUP), asked.get("--proc", PROC)
    put_back(asked["--runtime-dir"], cgroup, proc, as_json="--json" in asked)
    return True


def put_back(directory: str, cgroup: str, proc: str, *, as_json: bool) -> None:
    """Undo what is still lent out, unless somebody lives who does."""
    from ..linux import leasefile

    pid = running(directory)
    if pid is not None:
        say.fail(say.FOUND, f"oomguard runs as pid {pid} and undoes by itself what is over: stop it first")
    said: list[str] = []
    if leasefile.any_out(f"{directory}/{leasefile.NAME}"):
        from ..linux import leases, mounts

        try:
            root = mounts.find(proc, cgroup)[0] or cgroup
        except OSError:
            root = cgroup
        said = leases.undo_all(directory, root, proc)
    if as_json:
        say.as_json({"runtime_dir": directory, "done": said})
    for sentence in said if not as_json else ():
        say.line(sentence)


_PAGE, _MAGIC, _PID_AT = "status", b"oomguard", 24  # as model.statuslayout has it, whatever the version


def running(directory: str) -> int | None:
    """The pid on the status page, if a core of ours lives behind it, of whatever version."""
    try:
        with open(f"{directory}/{_PAGE}", "rb") as page:
            head = page.read(_PID_AT + 8)
    except FileNotFoundError:
        return None
    if len(head) < _PID_AT + 8 or not head.startswith(_MAGIC):
        return None
    pid = int.from_bytes(head[_PID_AT:], "little")
    return pid if lives(pid) else None


def lives(pid: int) -> bool:
    """Whether the pid is a core of ours, and not a later process with the same number."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return b"--plan-fd" in file.read().split(b"\0")
    except PermissionError:
        return True  # hidepid=1: somebody is there
    except OSError:
        return False


# ----------------------------------------------------------------------------------------------------------------- run


def _plan_that_holds(asked: dict[str, str] | None) -> bytes | None:
    """The plan that was in force, if compiling would make the same again; else None, with a word where there was one.

    Only root's service: by hand nothing was in force before, and without root the places are not what was asked.
    """
    if asked is None or os.geteuid() != 0 or "INVOCATION_ID" not in os.environ or "--config" not in asked:
        return None
    path = f"{asked.get('--runtime-dir', kept.RUNTIME_DIR)}/{kept.NAME}"
    try:
        made_from, plan = kept.unwrapped(own_content(path))
        shadow = origin.shadow_of(made_from)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        say.aside(f"oomguard: {path} cannot be used, the policy is compiled: {error}")
        return None
    argv = become.again(asked["--config"], "--observe" in asked, asked)
    if not made_from or made_from != origin.digest(argv, asked["--config"], asked.get("--proc", ""), shadow):
        say.aside("oomguard: not everything is as it was when the policy was compiled: it is compiled again")
        return None
    say.aside("oomguard: nothing has changed since the policy was compiled: the plan that was in force goes on")
    return plan


def own_content(path: str) -> bytes:
    """A file that nobody but ourselves can have written, or put there. OSError, ValueError: it is not."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        for seen in (os.fstat(fd), os.stat(os.path.dirname(path))):
            if seen.st_uid != os.geteuid() or seen.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise ValueError(f"it is not uid {os.geteuid()}'s alone")
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError("it is not a regular file")
        return file.read()
