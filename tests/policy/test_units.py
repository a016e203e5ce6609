"""The units people write. What is refused matters as much: a size that was misread is a process that was killed."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oomguard.model.policy import Amount
from oomguard.policy import units
from oomguard.policy.faults import Wrong

GIB = 1 << 30
MS, S = 10**6, 10**9


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        (1, 1),
        (536870912, 512 << 20),
        ("536870912", 512 << 20),
        ("512MiB", 512 << 20),
        ("512M", 512 << 20),
        ("512 MiB", 512 << 20),
        (" 1G ", GIB),
        ("1.5GiB", GIB * 3 // 2),
        ("0.1K", 102),  # down to whole bytes
        ("10B", 10),
        ("4KiB", 4096),
        ("2T", 2 << 40),
        ("1P", 1 << 50),
        ("7E", 7 << 60),
        (2**63 - 1, 2**63 - 1),
    ],
)
def test_a_size_is_binary_as_systemd_means_it(written: object, meant: int) -> None:
    assert units.size(written) == meant


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("512MB", '"512MiB"'),  # 1000 or 1024? nobody knows
        ("512m", '"512MiB"'),
        ("512Mi", '"512MiB"'),
        ("1gb", '"1GiB"'),
        ("1,5G", "1.5G"),
        ("", "512MiB"),
        ("G", "512MiB"),
        ("-1", "512MiB"),
        ("0x10", "512MiB"),
        ("1e9", "512MiB"),
        ("\u0661G", "512MiB"),  # digits, but not ours
        (0, "at least one byte"),
        (-5, "at least one byte"),
        ("0.5B", "at least one byte"),
        ("8E", "below 8E"),
        (2**63, "below 8E"),
        (True, "512MiB"),
        (1.5, "512MiB"),
        (None, "512MiB"),
        ([], "512MiB"),
        ("9" * 10_000, "512MiB"),
    ],
)
def test_a_size_that_could_be_misread_is_refused_with_what_to_write(written: object, hint: str) -> None:
    with pytest.raises(Wrong) as caught:
        units.size(written)
    assert hint in caught.value.hint
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(("written", "meant"), [("85%", 0.85), ("0.5%", 0.005), ("100%", 1.0), ("5 %", 0.05)])
def test_a_share_has_a_percent_sign(written: str, meant: float) -> None:
    assert units.share(written) == meant
    assert units.amount(written) == Amount(share=meant)


@pytest.mark.parametrize("written", ["0%", "101%", "-5%", "85", "%", "85%%", 85, 0.85, True, None])
def test_what_is_no_share_is_refused(written: object) -> None:
    with pytest.raises(Wrong):
        units.share(written)


def test_a_fraction_without_a_unit_is_asked_back() -> None:
    with pytest.raises(Wrong) as caught:
        units.amount(0.85)
    assert caught.value.hint == 'did you mean "0.85%" or "85%"?'


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("150ms", 150 * MS),
        ("0.1s", 100 * MS),  # exactly, which 0.1 as a float is not
        ("2.5s", 2500 * MS),
        ("5m", 300 * S),
        ("5min", 300 * S),
        ("1h", 3600 * S),
        ("2d", 172800 * S),
        ("250us", 250_000),
        ("1m 30s", 90 * S),
        ("1m30s", 90 * S),
        ("0", 0),
        ("0s", 0),
    ],
)
def test_a_time_has_a_unit(written: str, meant: int) -> None:
    assert units.duration(written) == meant


@pytest.mark.parametrize("written", ["", "5", "s", "-1s", "1S", "1 s s", "1ns", "1s,", 5, 0.5, True, None, "1s" * 99])
def test_what_is_no_time_is_refused(written: object) -> None:
    with pytest.raises(Wrong) as caught:
        units.duration(written)
    assert caught.value.hint


def test_a_time_without_a_unit_is_asked_back() -> None:
    with pytest.raises(Wrong) as caught:
        units.duration(30)
    assert caught.value.hint == 'did you mean "30s"?'


@given(st.integers(1, 2**63 - 1))
def test_every_size_comes_back_as_it_was_shown(number: int) -> None:
    assert units.amount(units.shown_amount(Amount(bytes=number))) == Amount(bytes=number)


@given(st.integers(1, 10_000))
def test_every_share_comes_back_as_it_was_shown(hundredths: int) -> None:
    amount = units.amount(f"{hundredths / 100:.2f}%")
    assert units.amount(units.shown_amount(amount)) == amount


@given(st.integers(1, 10**15))
def test_every_time_comes_back_as_it_was_shown(microseconds: int) -> None:
    assert units.duration(units.shown_duration(microseconds * 1000)) == microseconds * 1000


@given(st.text() | st.integers() | st.floats() | st.booleans() | st.none() | st.lists(st.text()))
def test_anything_is_a_number_or_wrong(written: object) -> None:
    for read in (units.size, units.share, units.amount, units.duration):
        with suppress(Wrong):
            assert read(written) is not None
