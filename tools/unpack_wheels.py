"""Installs gathered wheels into an environment: python tools/unpack_wheels.py WHEELS SITE_PACKAGES [EXTRA ...]

pip would do the same in ten times the time, most of it its own start, which matters on slow machines and in emulated
ones. What is taken: of each project the one wheel that fits the Python that runs this, and of oomguard the checkout's
own package where the gathered wheel is another one. Every file is checked against its wheel's RECORD.

Exit code 1, with the reason, where the wheels do not suffice; SITE_PACKAGES is to be thrown away then.
"""

import base64
import csv
import hashlib
import io
import platform
import re
import shutil
import sys
import zipfile
from pathlib import Path

from wheel_is_current import ROOT, is_current

VERSION = sys.version_info[:2]
NOT_NEEDED = {"pip", "setuptools"}  # gathered for those who install with pip


class NotEnough(Exception):
    """The wheels of this directory do not make a whole installation."""


def name_of(text: str) -> str:
    """The name of a project as everybody spells it (PEP 503), from a file name or a requirement."""
    return re.sub("[-_.]+", "-", re.match(r"[\w.-]+", text)[0]).lower()  # type: ignore[index]


def fits(wheel: Path) -> bool:
    """Does the wheel's name say that it runs on this Python and this machine? Every tag may be a list with dots."""
    pythons, abis, platforms = (part.split(".") for part in wheel.stem.split("-")[-3:])
    here = f"cp{VERSION[0]}{VERSION[1]}"
    older = {f"cp3{minor}" for minor in range(2, VERSION[1] + 1)}
    python = "py3" in pythons or here in pythons or ("abi3" in abis and bool(older & set(pythons)))
    abi = bool({"none", "abi3", here} & set(abis))
    machine = any(tag == "any" or re.fullmatch(rf"(many)?linux.*_{platform.machine()}", tag) for tag in platforms)
    return python and abi and machine


def chosen(wheels: Path) -> dict[str, Path]:
    """The wheel of each project. Two that fit are two versions, and it is not ours to choose."""
    found: dict[str, Path] = {}
    for wheel in sorted(wheels.glob("*.whl")):
        name = name_of(wheel.name.split("-")[0])
        if name in NOT_NEEDED or not fits(wheel):
            continue
        if name in found:
            raise NotEnough(f"{found[name].name} and {wheel.name} are both there")
        found[name] = wheel
    return found


def needs(metadata: str, extras: set[str], there: dict[str, Path]) -> set[str]:
    """Projects that a wheel's METADATA asks for.

    Conditions are not computed: what is asked for on some Pythons or systems is taken if it was gathered.
    """
    needed = set()
    for requirement in re.findall("^Requires-Dist: (.+)$", metadata, re.MULTILINE):
        what, _, condition = requirement.partition(";")
        extra = re.search(r"extra\s*==\s*['\"](.+?)['\"]", condition)
        wanted = extra[1] in extras if extra else not condition or name_of(what) in there
        if wanted:
            needed.add(name_of(what))
    return needed


def unpack(wheel: Path, site: Path) -> str:
    """Every file of a wheel that belongs to the packages, checked. Returns its METADATA."""
    metadata = ""
    with zipfile.ZipFile(wheel) as opened:
        (record,) = (name for name in opened.namelist() if re.fullmatch(r"[^/]+\.dist-info/RECORD", name))
        for name, digest, _ in csv.reader(io.StringIO(opened.read(record).decode())):
            head, _, rest = name.partition(".data/")
            if rest.startswith(("purelib/", "platlib/")):
                place = rest.partition("/")[2]
            elif rest:  # scripts, headers, manual pages of others: nobody needs them here
                continue
            else:
                place = head
            content = opened.read(name)
            if digest and digest != "sha256=" + base64.urlsafe_b64encode(
                hashlib.sha256(content).digest()
            ).decode().rstrip("="):
                raise NotEnough(f"{wheel.name}: {name} is damaged")
            target = site / place
            if not target.resolve().is_relative_to(site.resolve()):
                raise NotEnough(f"{wheel.name}: {name} leads out of the installation")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            if name.endswith(".dist-info/METADATA"):
                metadata = content.decode()
    return metadata


def copy_own_package(site: Path) -> None:
    shutil.copytree(ROOT / "oomguard", site / "oomguard", ignore=shutil.ignore_patterns("__pycache__"))


def install(wheels: Path, site: Path, extras: set[str]) -> None:
    """All or an exception. ``extras`` are those of oomguard."""
    there = chosen(wheels)
    own = there.pop("oomguard", None)
    if own is None:
        raise NotEnough("oomguard's own wheel is not there")
    with zipfile.ZipFile(own) as opened:
        (name,) = (name for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
        wanted = needs(opened.read(name).decode(), extras, there)
    if is_current(wheels):
        unpack(own, site)
    else:
        copy_own_package(site)
    done: set[str] = set()
    while missing := wanted - done:
        for name in missing:
            if name not in there:
                raise NotEnough(f"no wheel of {name} fits Python {VERSION[0]}.{VERSION[1]} on {platform.machine()}")
            wanted |= needs(unpack(there[name], site), set(), there)
            done.add(name)


if __name__ == "__main__":
    try:
        install(Path(sys.argv[1]), Path(sys.argv[2]), set(sys.argv[3:]))
    except NotEnough as error:
        sys.exit(f"oomguard: {error}")
