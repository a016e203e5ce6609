"""An incident for somebody else: one tar.zst for a ticket, with no more in it than that reader should have.

``secrets``  what looks like a password, token or key is taken out, of every text once more (the default)
``names``    as well, who it was: host, processes, cgroups and units are called name-1, name-2 ...; command lines and
             the kernel's raw files are left out
``none``     as it lies on disk
"""

import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final, Literal

from ..model.secrets import clean

Level = Literal["secrets", "names", "none"]
LEVELS: Final = ("secrets", "names", "none")
_NAME_KEYS: Final = frozenset({"comm", "hostname", "cgroup", "path", "unit", "limit_path"})
# What every machine has tells nothing of this one, and makes the rest readable.
_COMMON: Final = frozenset({"", "system.slice", "user.slice", "init.scope", "machine.slice", "kernel", "systemd"})
_SUFFIX: Final = re.compile(r"(.*?)((?:\.(?:service|scope|slice|socket|mount))?)")
_LEFT_OUT: Final = ("cmdlines", "kernel_log", "swaps", "containers")


def redacted(incident: Mapping[str, Any], level: Level) -> dict[str, Any]:
    """The incident as that reader may have it."""
    if level == "none":
        return dict(incident)
    doc: dict[str, Any] = _mapped(incident, clean_text)
    if level == "names":
        evidence = {key: value for key, value in doc["evidence"].items() if key not in _LEFT_OUT}
        doc = _Aliases(doc).apply({**doc, "evidence": evidence, "boot_id": ""})
        doc["id"] = incident["id"][:17] + "name-" + incident["id"][-6:]
    return doc


def clean_text(text: str) -> str:
    """A text of any length, line by line; a line is read in pieces, for the rules are for words."""
    if len(text) < 4:
        return text
    lines = (" ".join(clean(text[at : at + 2000]) for at in range(0, len(text), 2000)) for text in text.split("\n"))
    return "\n".join(lines)


def write(file: IO[bytes], incident: Mapping[str, Any], directory: Path | None, level: Level) -> list[str]:
    """A tar of it into ``file``; what is in it. ``directory``: where ``raw/`` lies. Raises OSError."""
    doc = redacted(incident, level)
    names: list[str] = []
    with tarfile.open(fileobj=file, mode="w|") as tar:
        for name, data in (("incident.json", _json(doc)), *_raw(directory, level)):
            info = tarfile.TarInfo(f"{doc['id']}/{name}")
            info.size, info.mode = len(data), 0o640
            tar.addfile(info, io.BytesIO(data))
            names.append(info.name)
    return names


def read(file: IO[bytes]) -> dict[str, Any]:
    """The incident of such a tar. ValueError: there is none in it."""
    with tarfile.open(fileobj=file, mode="r|") as tar:
        for member in tar:
            if member.name.endswith("/incident.json") and (content := tar.extractfile(member)) is not None:
                doc = json.load(content)
                if isinstance(doc, dict):
                    return doc
    raise ValueError("there is no incident.json in it")


def _json(doc: Mapping[str, Any]) -> bytes:
    """One field a line, and the turns last, as the scribe writes it: a list of incidents reads no further."""
    head = [f"{json.dumps(key)}: {json.dumps(value)},\n" for key, value in doc.items() if key != "ring"]
    turns = ",\n".join(json.dumps(turn) for turn in doc["ring"])
    return ("{\n" + "".join(head) + '"ring": [\n' + turns + "]\n}\n").encode("ascii")


def _raw(directory: Path | None, level: Level) -> Iterator[tuple[str, bytes]]:
    if directory is None or level == "names":
        return
    for path in sorted((directory / "raw").glob("*/*")):
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            if level == "secrets":
                data = clean_text(data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")
            yield str(path.relative_to(directory)), data


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    """The same with every text changed, keys among them."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(key): _mapped(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_mapped(item, change) for item in value]
    return value


class _Aliases:
    """The same other name for a name wherever it stands, also within a sentence."""

    def __init__(self, doc: Mapping[str, Any]) -> None:
        names: dict[str, None] = {}
        for name in _names(doc):
            for part in name.split("/"):
                stem = _SUFFIX.fullmatch(part)
                if part not in _COMMON and stem is not None and stem[1]:
                    names[stem[1]] = None
        self._alias = {name: f"name-{number}" for number, name in enumerate(names, 1)}
        longest = sorted(map(re.escape, names), key=len, reverse=True)
        self._pattern = re.compile(rf"(?<![\w-])(?:{'|'.join(longest)})(?![\w-])") if longest else None

    def apply(self, doc: Mapping[str, Any]) -> dict[str, Any]:
        """Values and sentences, but not the words of the format."""
        fixed = {key: doc[key] for key in ("schema", "kind", "mode", "killed_by", "version", "kernel", "time")}
        told: dict[str, Any] = self._told(dict(doc))
        return told | fixed

    def _told(self, value: Any, key: str = "") -> Any:
        if isinstance(value, str):
            return value if key in ("kind", "what_kind", "stage", "what", "take") and value.isalpha() else self(value)
        if isinstance(value, dict):
            return {(self(k) if "/" in k else k): self._told(item, k) for k, item in value.items()}
        if isinstance(value, list):
            return [self._told(item, key) for item in value]
        return value

    def __call__(self, text: str) -> str:
        return text if self._pattern is None else self._pattern.sub(lambda found: self._alias[found[0]], text)


def _names(value: Any, key: str = "") -> Iterator[str]:
    if isinstance(value, str):
        if key in _NAME_KEYS:
            yield value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            if name.startswith("/"):  # cgroups of the evidence are keys
                yield name
            yield from _names(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from _names(item, key)
