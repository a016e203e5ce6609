"""Which policy files there are, whether they may be trusted, and what TOML they hold.

A policy decides whom a privileged daemon kills, so root takes it only from files that nobody but root can change.
"""

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli

from ..model.policy import Daemon
from .faults import DENIED, Fault, PolicyError
from .locate import Key, Lines

DEFAULT = Path("/etc/oomguard/oomguard.toml")
MOST_BYTES = 1 << 20  # a policy of a megabyte is a mistake, or a device
_WHERE = re.compile(r" \(at (?:line ([0-9]+), column [0-9]+|end of document)\)\Z")
_ENDLESS_NUMBER = re.compile(r"[0-9_]{4300}")  # the longest that Python reads (sys.get_int_max_str_digits)


def find(config: Path) -> tuple[Path, ...]:
    """The file, then conf.d/*.toml beside it by name. Hidden files are not taken: editors leave such behind."""
    config = Path(os.path.abspath(config))
    beside = config.parent / "conf.d"
    try:
        names = sorted(name for name in os.listdir(beside) if name.endswith(".toml") and not name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        names = []
    except OSError as error:
        raise PolicyError([Fault(str(beside), 1, "", *_unreadable(beside, error))]) from None
    return (config, *(beside / name for name in names))


def state_dir(config: Path) -> str:
    """Where these files let the daemon keep incidents; see ``_place``."""
    return _place(config, "state_dir", Daemon().state_dir)


def runtime_dir(config: Path) -> str:
    """Where these files let the daemon run; see ``_place``."""
    return _place(config, "runtime_dir", Daemon().runtime_dir)


def _place(config: Path, key: str, default: str) -> str:
    """A directory of [daemon], for commands that only look: what else is wrong in a file does not matter to them."""
    try:
        sources = [read(path) for path in find(config)]
    except PolicyError:
        return default
    for source in sources:
        table = source.table.get("daemon") if isinstance(source, Source) else None
        wanted = table.get(key) if isinstance(table, dict) else None
        default = wanted if isinstance(wanted, str) and wanted.startswith("/") else default
    return default


def shadow_of(config: Path) -> str:
    """The file that ``[daemon] shadow`` names there now, as ``compile`` takes it; "": none, or it cannot be told."""
    found = ""
    for path in find(config):
        source = read(path)
        daemon = source.table.get("daemon") if isinstance(source, Source) else None
        named = daemon.get("shadow") if isinstance(daemon, dict) else None
        if isinstance(named, str):
            found = str(path.parent / named)
    return found


@dataclass(frozen=True, slots=True)
class Source:
    """One file that could be read: what it says, and where."""

    file: str
    table: dict[str, Any]
    lines: Lines

    def fault(self, key: Key, message: str, hint: str = "") -> Fault:
        """A fault of this key of this file."""
        return Fault(self.file, self.lines.of(key), dotted(key), message, hint)


def dotted(key: Key) -> str:
    """policy.host.soft.when[0].lasting"""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{_quoted(part)}"
    return text.removeprefix(".")


def _quoted(part: str) -> str:
    return part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else '"' + part.replace('"', '\\"') + '"'


def read(path: Path) -> Source | Fault:
    """The file's table, or the one thing that keeps it from being read."""
    file = str(path)
    try:
        raw = _trusted_bytes(path)
    except OSError as error:
        return Fault(file, 1, "", *_unreadable(path, error))
    if isinstance(raw, Fault):
        return raw
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        return Fault(file, line, "", f"byte 0x{raw[error.start]:02x} is not UTF-8", "save the file as UTF-8")
    # tomli counts and keeps "\n" alone, so do we.
    return parsed(file, text.replace("\r\n", "\n"))


def parsed(file: str, text: str) -> Source | Fault:
    """The table of a text, as if it stood in this file."""
    try:
        table = tomli.loads(text)
    except RecursionError:
        return Fault(file, 1, "", "arrays or tables are nested too deeply", "no policy needs more than six levels")
    except ValueError as error:  # TOMLDecodeError is one; a number of thousands of digits raises a plain one
        return _syntax_fault(file, text, error)
    return Source(file, table, Lines(text))


def _syntax_fault(file: str, text: str, error: ValueError) -> Fault:
    last = text.count("\n", 0, len(text) - 1) + 1
    if not isinstance(error, tomli.TOMLDecodeError):
        endless = _ENDLESS_NUMBER.search(text)
        line = text.count("\n", 0, endless.start()) + 1 if endless else 1
        return Fault(file, line, "", "a number has too many digits")
    message = str(error)
    where = _WHERE.search(message)
    line = int(where[1]) if where and where[1] else last
    return Fault(file, min(line, last), "", f"not TOML: {message}", _syntax_hint(message))


def _syntax_hint(message: str) -> str:
    if "end of document" in message:
        return "a bracket or a quote is not closed"
    if "Invalid value" in message:
        return 'text stands in quotes ("85%"), true and false are lower case'
    if "Cannot overwrite" in message or "Cannot declare" in message or "Duplicate" in message:
        return "every key and every table may stand once in a file"
    return ""


def _trusted_bytes(path: Path) -> bytes | Fault:
    # O_NONBLOCK: a fifo in place of the file must not hold up a start.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        seen = os.fstat(descriptor)
        if not stat.S_ISREG(seen.st_mode):
            return Fault(str(path), 1, "", "not a regular file")
        if os.geteuid() == 0 and (fault := distrust(path, seen)):
            return fault
        raw = file.read(MOST_BYTES + 1)
    if len(raw) > MOST_BYTES:
        return Fault(str(path), 1, "", "more than 1 MiB: this is no policy")
    return raw


def distrust(path: Path, seen: os.stat_result) -> Fault | None:
    """Why root should not obey this file, if so: it belongs to somebody else, or somebody else may write to it.

    Write permission for root's own group is nobody else's.
    """
    if seen.st_uid != 0:
        return Fault(str(path), 1, "", f"belongs to uid {seen.st_uid}, not to root", f"chown root:root {path}")
    if seen.st_mode & stat.S_IWOTH or (seen.st_mode & stat.S_IWGRP and seen.st_gid != 0):
        mode = stat.S_IMODE(seen.st_mode)
        return Fault(str(path), 1, "", f"others than root may write to it (mode {mode:04o})", f"chmod go-w {path}")
    return None


def _unreadable(path: Path, error: OSError) -> tuple[str, str]:
    if isinstance(error, FileNotFoundError):
        hint = "the package installs one; or give another by --config FILE" if path == DEFAULT else ""
        return "there is no such file", hint
    if isinstance(error, PermissionError):
        return DENIED, "ask as root"
    return f"cannot be read: {os.strerror(error.errno or 0)}", ""
