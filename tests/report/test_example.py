"""The example of the documents is an incident like any other, and its report is as reports look today."""

from __future__ import annotations

from oomguard.report import store, text
from tests.incidents import judged

from . import example


def test_it_is_drawn_as_reports_are_drawn_today() -> None:
    committed = example.DRAWN.read_text()
    assert len(committed) - len(example.ours(committed)) > 1 << 20, "without plotly, and without the figures"
    assert example.ours(committed) == example.ours(example.drawn()), "draw it anew: python -m tests.report.example"


def test_it_tells_of_a_leak_that_ate_the_swap_beside_a_tmpfs() -> None:
    doc = store.load_file(example.PACKED)
    again = judged.again(doc)
    assert again is not None
    assert not again.part
    told = text.half_page(doc, 200)
    for words in ("oomguard killed python3[", "Swap: ", "in no process ", "/dev/shm 60.0 MiB", "60 s later: "):
        assert words in told
