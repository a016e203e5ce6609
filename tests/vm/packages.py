"""Debian packages that the guest's image lacks, for a test that wants them: fetched on the host, unpacked in the guest.

The image stays as it is, so that a test more does not mean to build it anew for all. Needs apt-get on the host (any
Debian or Ubuntu), and a network once.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from .machine import CACHE, Machine, digest
from .qemu import GuestError

SUITE = os.environ.get("OOMGUARD_VM_SUITE", "trixie")
STATUS = "/var/lib/dpkg/status"
# What only other things need: to look at signatures, to make networks between containers.
WITHOUT = ("gnupg", "gpg", "dirmngr", "pinentry", "iptables", "containernetworking")
LEFT_OUT = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/libexec/podman/podman-testing")


def unpack(vm: Machine, *names: str) -> None:
    """These, and what they need beyond what is there, into the guest."""
    bundle = CACHE / f"packages-{SUITE}-{digest(names, WITHOUT, LEFT_OUT, (CACHE / 'image.key').read_text())}.tgz"
    if not bundle.exists():
        _fetch(names, vm.get(STATUS), bundle)
    vm.put("/var/tmp/packages.tgz", bundle.read_bytes())
    vm.check(
        "tar -C / --keep-directory-symlink -xzf /var/tmp/packages.tgz && rm /var/tmp/packages.tgz && ldconfig", 300
    )


def _fetch(names: tuple[str, ...], status: bytes, bundle: Path) -> None:
    if not shutil.which("apt-get"):
        raise GuestError(f"apt-get not found: {', '.join(names)} cannot be fetched for the guest")
    with tempfile.TemporaryDirectory() as place:
        for directory in ("lists/partial", "archives/partial"):
            Path(place, directory).mkdir(parents=True)
        Path(place, "status").write_bytes(status)
        Path(place, "sources.list").write_text(f"deb {_mirror()} {SUITE} main\n")
        own = {
            "State": "",
            "State::status": "status",
            "State::lists": "lists",
            "Cache": "",
            "Cache::archives": "archives",
        }
        places = {**own, "Etc::sourcelist": "sources.list"}
        options = [word for name, path in places.items() for word in ("-o", f"Dir::{name}={place}/{path}")]
        options += ["-o", "Dir::Etc::sourceparts=-", "-o", "APT::Architecture=amd64", "-o", "APT::Sandbox::User=root"]
        _apt(*options, "update")
        _apt(*options, "install", "--yes", "--no-install-recommends", "--download-only", *names)
        fresh = bundle.with_suffix(f".{os.getpid()}")
        with tarfile.open(fresh, "w:gz", compresslevel=1) as packed:
            for package in sorted(Path(place, "archives").glob("*.deb")):
                if not package.name.startswith(WITHOUT):
                    _add(packed, package)
        fresh.rename(bundle)


def _mirror() -> str:
    """Where this computer has its own packages from, if nobody says otherwise."""
    if said := os.environ.get("OOMGUARD_VM_MIRROR"):
        return said
    asked = ("indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages")
    known = _apt(*asked).split("\n")
    found = next((uri for label, _, uri in (line.partition(" ") for line in known) if label == "Debian"), None)
    if found is None:
        raise GuestError("apt knows no mirror of Debian here: set OOMGUARD_VM_MIRROR")
    return found


def _apt(*words: str) -> str:
    done = subprocess.run(["apt-get", "-q", *words], check=False, capture_output=True, text=True)
    if done.returncode:
        raise GuestError(f"apt-get {words[-1]}: {done.stderr[-2000:]}")
    return done.stdout


def _add(packed: tarfile.TarFile, package: Path) -> None:
    content = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], check=True, stdout=subprocess.PIPE).stdout
    with tarfile.open(fileobj=io.BytesIO(content)) as files:
        for member in files:
            name = member.name.removeprefix("./")
            if name and not member.isdir() and not name.startswith(LEFT_OUT):
                member.name = name
                packed.addfile(member, files.extractfile(member) if member.isfile() else None)
