"""The units of the exporter: every setting has its reason, next to nothing is allowed, and systemd agrees."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SERVICE = ROOT / "systemd" / "oomguard-exporter.service"
SOCKET = SERVICE.with_suffix(".socket")
NO_REASON = {"Description", "Documentation", "WantedBy", "Also"}


def settings(unit: Path) -> list[tuple[str, str, str]]:
    """(key, value, the line above) of each setting, in order."""
    lines = unit.read_text().splitlines()
    both = zip(["", *lines], lines, strict=False)
    return [(*line.split("=", 1), above) for above, line in both if "=" in line and line[:1].isalpha()]  # type: ignore[misc]


SETTINGS = settings(SERVICE)


@pytest.mark.parametrize(("key", "value", "above"), SETTINGS + settings(SOCKET))
def test_every_setting_has_its_reason_on_the_line_above(key: str, value: str, above: str) -> None:
    assert key in NO_REASON or above.startswith("# "), f"{key}={value} stands there without a reason"


@pytest.mark.parametrize(
    ("key", "must_be", "or_else"),
    [
        ("DynamicUser", "yes", "it would have somebody's rights"),
        ("SupplementaryGroups", "oomguard", "incidents could not be read"),
        ("CapabilityBoundingSet", "", "it would have rights"),
        ("ProtectProc", "default", "the daemon's processes would be hidden, and it would seem not to run"),
        ("PrivateNetwork", "yes", "the socket is systemd's"),
    ],
)
def test_it_has_what_it_needs_and_nothing_else(key: str, must_be: str, or_else: str) -> None:
    assert [value for name, value, _ in SETTINGS if name == key] == [must_be], or_else


def test_it_listens_on_this_machine_only() -> None:
    from oomguard.cli.exporter import DEFAULT

    assert [value for name, value, _ in settings(SOCKET) if name == "ListenStream"] == [DEFAULT]
    assert DEFAULT.startswith("127.0.0.1:")


needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """With a program that exists."""
    copy = tmp_path / SERVICE.name
    copy.write_text(SERVICE.read_text().replace("/usr/local/bin/oomguard", shutil.which("true") or "/bin/true"))
    shutil.copy(SOCKET, tmp_path)
    return copy


def analyzed(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, check=False)


@needs_systemd
def test_systemd_finds_nothing_wrong(unit: Path) -> None:
    for it in (unit, unit.with_suffix(".socket")):
        done = analyzed("verify", str(it))
        assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
def test_it_is_exposed_to_next_to_nothing(unit: Path) -> None:
    """systemd's own score, 0 (nothing is allowed) to 10 (everything is); in tenths."""
    done = analyzed("security", "--offline=yes", "--threshold=9", str(unit))
    assert done.returncode == 0, done.stdout[-400:]
