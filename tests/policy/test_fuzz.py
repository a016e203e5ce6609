"""The fuzzer itself: a while of it, and that it tells what it finds."""

import pytest

from . import fuzz


def test_a_moment_of_it() -> None:
    assert fuzz.run(1.0, 1) == 0


def test_what_is_broken_is_told_with_the_way_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> str:
        raise ZeroDivisionError

    for what in ("check_policy", "check_import", "check_expression"):
        monkeypatch.setattr(fuzz, what, broken)
    assert fuzz.run(60.0, 1) == 1
    assert "broken at 1 of seed 1: again with  python -m tests.policy.fuzz 1 1" in capsys.readouterr().out
