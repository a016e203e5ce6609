"""Incidents on disk: ``<state_dir>/incidents/<time>-<guard>-<id>/`` with incident.json, ring.jsonl and raw/.

incident.json is always whole: written beside, synced, renamed. While an incident is open its turns are appended to
ring.jsonl, one line each, so that a crash leaves a readable prefix; the last write moves them into incident.json and
takes ring.jsonl away. A ring.jsonl is therefore the mark of an incident that nobody has finished.

Every method raises OSError; the scribe counts and goes on. Nothing is kept open but the ring.jsonl of open incidents.
"""

import contextlib
import grp
import json
import os
import re
import time
from collections.abc import Iterator
from typing import Final

_NAME: Final = re.compile(r"[0-9]{8}T[0-9]{6}Z-[A-Za-z0-9_.-]+-[0-9a-f]{6}")
_DIRECTORY: Final = 0o750
_FILE: Final = 0o640
_COPY: Final = 64 << 10
_GUARD_MAX: Final = 40
# No indent and no circular check: both take the encoder written in Python, which leaves cycles for a collector that
# is switched off in a worker.
_ENCODER: Final = json.JSONEncoder(ensure_ascii=True, check_circular=False, separators=(", ", ": "))


def name(time: str, guard: str, short: str) -> str:
    """The directory's name; ``time`` as 20260131T235959Z. What is not plain in a guard's name becomes "_".

    What no guard covers is called by its kind.
    """
    return f"{time}-{re.sub('[^A-Za-z0-9_.-]', '_', guard)[:_GUARD_MAX]}-{short}"


def is_name(text: str) -> bool:
    """Whether an incident may be called so."""
    return bool(_NAME.fullmatch(text))


def encode(value: object) -> str:
    """JSON that every parser takes: half a surrogate (a byte of a hostile name) becomes ``\\\\xNN`` in the text."""
    encoded = _ENCODER.encode(value)
    if "\\ud" in encoded:
        encoded = _ENCODER.encode(safe(value))
    return encoded


def safe(value: object) -> object:
    """The same value with every string free of surrogate escapes."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if isinstance(value, dict):
        return {safe(key): safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [safe(item) for item in value]
    return value


class Shelf:
    """The directory of all incidents."""

    def __init__(self, state_dir: str, max_count: int, max_bytes: int, max_age_s: float = 0) -> None:
        self.path = f"{state_dir}/incidents"
        self._max_count, self._max_bytes, self._max_age_s = max_count, max_bytes, max_age_s
        try:
            self.gid = grp.getgrnam("oomguard").gr_gid
        except KeyError:
            self.gid = -1
        if self.gid >= 0:  # whoever made the directory may not have known the group
            with contextlib.suppress(OSError):
                os.chown(self.path, -1, self.gid)

    def names(self) -> list[str]:
        """All incidents, oldest first. Other things in the directory are not ours, and left alone."""
        try:
            with os.scandir(self.path) as entries:
                return sorted(
                    entry.name
                    for entry in entries
                    if _NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
                )
        except FileNotFoundError:
            return []

    def find(self, short: str) -> str | None:
        """The incident of this short id."""
        return next((found for found in self.names() if found.endswith(f"-{short}")), None)

    def folder(self, incident: str) -> "Folder":
        """The incident's directory; it is made with the first thing that is put in."""
        return Folder(f"{self.path}/{incident}", self.gid)

    def discard(self, incident: str) -> None:
        """An incident of which nothing was written but its directory."""
        _remove(f"{self.path}/{incident}")

    def prune(self, keep: set[str]) -> Iterator[None]:
        """Take away the oldest until count, bytes and age are within their limits; never one of ``keep``."""
        names = self.names()
        sizes: dict[str, int] = {}
        for incident in names:
            sizes[incident] = _size(f"{self.path}/{incident}")
            yield
        count, total = len(names), sum(sizes.values())
        # Names begin with their time, so that they can be compared as texts.
        oldest = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() - self._max_age_s)) if self._max_age_s else ""
        for incident in names:
            if count <= self._max_count and total <= self._max_bytes and incident >= oldest:
                return
            if incident in keep:
                continue
            _remove(f"{self.path}/{incident}")
            count, total = count - 1, total - sizes[incident]
            yield


class Folder:
    """One incident's directory."""

    def __init__(self, path: str, gid: int) -> None:
        self.path = path
        self._gid = gid
        self._ring = -1
        self._ring_bytes = 0
        self._named = False  # in its parent, on disk
        self.reached_ns = 0  # when the last turn was that ``resume`` found

    def write(self, doc: dict[str, object], ring: bool = False) -> None:
        """Write incident.json whole; with ``ring``, the turns go into it and ring.jsonl goes away."""
        self._make(self.path)
        temporary = f"{self.path}/incident.json.tmp"
        try:
            with open(temporary, "wb", opener=self._opener) as file:
                file.write(b"{\n")
                for key, value in doc.items():
                    file.write(f"{encode(key)}: {encode(value)},\n".encode("ascii"))
                file.write(b'"ring": [')
                if ring:
                    for number, line in enumerate(self._lines()):
                        file.write((b"\n" if number == 0 else b",\n") + line)
                file.write(b"]\n}\n")
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, f"{self.path}/incident.json")
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        if ring:
            self.forget_ring()
        self._sync()

    def forget_ring(self) -> None:
        """Its turns are in incident.json."""
        self.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self.path}/ring.jsonl")

    def amend(self, fields: dict[str, object]) -> None:
        """Write incident.json anew with these fields in place of the old ones, which it has, a line each."""
        temporary = f"{self.path}/incident.json.tmp"
        heads = {f"{encode(key)}: ".encode("ascii"): value for key, value in fields.items()}
        try:
            with (
                open(f"{self.path}/incident.json", "rb", buffering=_COPY) as old,
                open(temporary, "wb", opener=self._opener) as file,
            ):
                for line in old:
                    found = next((head for head in heads if line.startswith(head)), None)
                    file.write(line if found is None else found + encode(heads.pop(found)).encode("ascii") + b",\n")
                file.flush()
                os.fsync(file.fileno())
            os.rename(temporary, f"{self.path}/incident.json")
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        self._sync()

    def begin(self) -> None:
        """Mark the incident as open, before anything else is put in."""
        self._open_ring()

    def append(self, line: bytes) -> None:
        """One more turn for ring.jsonl. A line that does not fit leaves no half of itself."""
        if self._ring < 0 or os.fstat(self._ring).st_nlink == 0:
            self._open_ring()
        data = line + b"\n"
        try:
            written = os.write(self._ring, data)
        except OSError:
            os.ftruncate(self._ring, self._ring_bytes)
            raise
        if written != len(data):
            os.ftruncate(self._ring, self._ring_bytes)
            raise OSError(28, os.strerror(28), f"{self.path}/ring.jsonl")
        self._ring_bytes += written

    def resume(self) -> int:
        """Go on after the last whole turn of an earlier ring.jsonl; its number, or -1."""
        last, end = -1, 0
        for line in self._lines():
            try:
                turn = json.loads(line)
                last, self.reached_ns = int(turn["number"]), int(turn["seen"]["at_ns"])
            except (ValueError, KeyError, TypeError):
                break
            end += len(line) + 1
        with contextlib.suppress(FileNotFoundError):
            os.truncate(f"{self.path}/ring.jsonl", end)
        return last

    def keep(self, place: str, data: bytes) -> None:
        """A kernel file, verbatim, as raw/``place``."""
        path = f"{self.path}/raw/{place}"
        self._make(os.path.dirname(path))
        with open(path, "wb", buffering=0, opener=self._opener) as file:
            if file.write(data) != len(data):
                raise OSError(28, os.strerror(28), path)

    def read(self) -> dict[str, object]:
        """incident.json as it is now. ValueError: it is damaged."""
        with open(f"{self.path}/incident.json", "rb") as file:
            doc = json.load(file)
        if not isinstance(doc, dict):
            raise ValueError(f"{self.path}/incident.json: not an object")
        return doc

    def restore(self, head: bytes, turns: Iterator[bytes], opening: Iterator[bytes]) -> None:
        """Put in what lies elsewhere: incident.json (the latest that there is), and the turns that ring.jsonl lacks.

        Where these end before its ``opening``, that turn is the last; what was between them is counted. It is
        unfinished after that. ValueError: that is no incident.
        """
        doc = json.loads(head)
        if not isinstance(doc, dict):
            raise ValueError(f"{self.path}: not an object")
        last = self.resume()
        self.begin()
        for lines in turns:
            last = self._append_after(last, lines)
        if any(self._append_after(last, line) > last for line in opening):
            lost = doc.setdefault("lost", {})
            lost["ring_gaps"] = lost.get("ring_gaps", 0) + 1
        self.write(doc)
        self.close()

    def _append_after(self, last: int, lines: bytes) -> int:
        """What of these turns is not there yet; the number of the last one that is."""
        for line in lines.split(b"\n"):
            number = int(json.loads(line)["number"])
            if number > last:
                self.append(line)
                last = number
        return last

    def is_whole(self) -> bool:
        """Whether it was finished, or all but the last step of that."""
        try:
            return not self.unfinished() or self.read().get("complete") is True
        except (OSError, ValueError):
            return False

    def unfinished(self) -> bool:
        """Whether somebody began it and did not finish."""
        return os.path.lexists(f"{self.path}/ring.jsonl") or not os.path.lexists(f"{self.path}/incident.json")

    def is_empty(self) -> bool:
        """Whether nothing of it was written but its mark: it ended in its first instant."""
        return set(os.listdir(self.path)) <= {"ring.jsonl", "incident.json.tmp"}

    def close(self) -> None:
        """Let go of ring.jsonl."""
        if self._ring >= 0:
            os.close(self._ring)
            self._ring = -1

    def _lines(self) -> Iterator[bytes]:
        """The whole lines of ring.jsonl."""
        try:
            with open(f"{self.path}/ring.jsonl", "rb", buffering=_COPY) as file:
                for line in file:
                    if line.endswith(b"\n"):
                        yield line[:-1]
        except FileNotFoundError:
            return

    def _open_ring(self) -> None:
        self.close()
        self._make(self.path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._ring = os.open(f"{self.path}/ring.jsonl", flags, _FILE)
        self._ring_bytes = os.fstat(self._ring).st_size
        self._own(self._ring)

    def _opener(self, path: str, flags: int) -> int:
        fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, _FILE)
        self._own(fd)
        return fd

    def _own(self, fd: int) -> None:
        if self._gid >= 0:
            with contextlib.suppress(OSError):  # not root: then the group stays as it is
                os.fchown(fd, -1, self._gid)

    def _make(self, path: str) -> None:
        """The directory and what it lies in, down from incidents/, ours and for the group only."""
        if os.path.isdir(path):
            return
        self._named = False
        parent = os.path.dirname(path)
        if not os.path.isdir(parent):
            self._make(parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, _DIRECTORY)
            if self._gid >= 0:
                os.chown(path, -1, self._gid)

    def _sync(self) -> None:
        """The names in the directory; the first time its own name too. Each is a wait for the disk."""
        for path in (self.path,) if self._named else (self.path, os.path.dirname(self.path)):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
        self._named = True


def _remove(path: str) -> None:
    """A directory with all that is in it, following no link. (shutil would bring three compressors into memory.)"""
    for _, directories, files, fd in os.fwalk(path, topdown=False):
        for file in files:
            os.unlink(file, dir_fd=fd)
        for directory in directories:  # a link to a directory is listed as one
            try:
                os.rmdir(directory, dir_fd=fd)
            except NotADirectoryError:
                os.unlink(directory, dir_fd=fd)
    os.rmdir(path)


def _size(path: str) -> int:
    """Bytes on disk below a directory, as far as they can be seen."""
    total = 0
    for directory, _, files in os.walk(path):
        for file in files:
            with contextlib.suppress(OSError):
                total += os.lstat(f"{directory}/{file}").st_blocks * 512
    return total
