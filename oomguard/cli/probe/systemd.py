"""What systemd says of its units, by ``systemctl show``; nothing where it is not pid 1, or does not answer in time."""

import os
import subprocess

from .places import Places

PATIENCE_S = 20  # an emulated machine takes two


def is_init(places: Places) -> bool:
    """As sd_booted(3): whether this machine was booted with systemd."""
    return places.here and os.path.isdir("/run/systemd/system")


def show(places: Places, properties: tuple[str, ...], *units: str) -> list[dict[str, str]]:
    """Those properties of these units, a dict each; "*" is every unit that is loaded."""
    words = ["systemctl", "show", "--no-pager", f"--property={','.join(properties)}", "--", *units]
    text = asked(places, words)
    return [] if text is None else blocks(text)


def asked(places: Places, words: list[str]) -> str | None:
    """What a command prints; None, and noted: there is none, or it failed."""
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE_S,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        places.miss(words[0], str(error))
        return None
    if done.returncode != 0:
        said = done.stderr.strip().split("\n")[0]
        places.miss(words[0], said or f"it ended with {done.returncode}")
        return None
    return done.stdout


def blocks(text: str) -> list[dict[str, str]]:
    """``systemctl show``: lines NAME=VALUE, a blank line between two units."""
    found = []
    for block in text.split("\n\n"):
        pairs = [line.partition("=") for line in block.splitlines() if "=" in line]
        if pairs:
            found.append({name: value for name, _, value in pairs})
    return found
