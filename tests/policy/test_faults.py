"""What people read when a policy is wrong, word for word: tests/policy/golden/NAME.toml and NAME.faults beside it.

After a change of words: OOMGUARD_GOLDEN=write pytest tests/policy/test_faults.py, then read the difference.
"""

import os
from pathlib import Path

import pytest

from oomguard.policy import Fault, PolicyError, load
from oomguard.policy.faults import printable

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", sorted(path.stem for path in GOLDEN.glob("*.toml")))
def test_golden(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(f"{name}.toml").write_bytes((GOLDEN / f"{name}.toml").read_bytes())
    with pytest.raises(PolicyError) as caught:
        load([Path(f"{name}.toml")])
    said = f"{caught.value}\n"
    expected = GOLDEN / f"{name}.faults"
    if os.environ.get("OOMGUARD_GOLDEN") == "write":
        expected.write_text(said)
    assert said == expected.read_text()


def test_every_fault_has_its_line_and_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "slips.toml"
    path.write_bytes((GOLDEN / "slips.toml").read_bytes())
    with pytest.raises(PolicyError) as caught:
        load([path])
    lines = path.read_text().splitlines()
    for fault in caught.value.faults:
        last = fault.key.rpartition(".")[2]
        is_item, is_missing = last.endswith("]"), "missing" in fault.message
        assert is_item or is_missing or last.strip('"') in lines[fault.line - 1], fault
    with_hint = [fault for fault in caught.value.faults if fault.hint]
    assert len(with_hint) > len(caught.value.faults) * 0.8


def test_no_name_of_a_file_reaches_a_terminal_as_it_is() -> None:
    said = str(Fault("a\x1b[2Jb", 1, "k\ney", "m\u202ee\r", "h\x9bi\udc80"))
    assert said == "a\\x1b[2Jb:1: k\\ney: m\\u202ee\\r\n    hint: h\\x9bi\\udc80"


def test_what_is_printable_stays() -> None:
    assert printable("größe [bold] 💥 日本") == "größe [bold] 💥 日本"
