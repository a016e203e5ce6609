"""The units people write, as numbers: "85%", "512MiB", "1G", "150ms", "1m 30s". Knows nothing of files or tables.

Sizes are binary as systemd means them: 1K is 1024 bytes, and so is 1KiB. "1KB" is refused, since it is 1000 to some
and 1024 to others. Fractions are exact ("0.1s" is 100 ms to the nanosecond), hence ``Fraction`` and no float.
"""

import re
from decimal import Decimal
from fractions import Fraction

from ..model.policy import Amount
from .faults import Wrong, shown

_LONGEST = 64  # characters; a number that needs more is no number of ours
_NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
_PERCENT = re.compile(_NUMBER + r"\s*%")
_SIZE = re.compile(_NUMBER + r"\s*(?:([KMGTPE])(?:iB)?|B)?")
_SLOPPY_SIZE = re.compile(_NUMBER + r"\s*([KMGTPE])i?B?", re.IGNORECASE)
_DURATION = re.compile(rf"(?:{_NUMBER}\s*(?:us|ms|s|min|m|h|d)\s*)+")
_DURATION_PART = re.compile(_NUMBER + r"\s*(us|ms|s|min|m|h|d)")
_POWER = {letter: 1024**power for power, letter in enumerate("KMGTPE", start=1)}
_NANOSECONDS = {
    "us": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "min": 60 * 10**9,
    "h": 3600 * 10**9,
    "d": 86400 * 10**9,
}
_MOST_BYTES = 2**63 - 1

SIZE_HINT = 'write bytes as a number, or "512MiB", "1.5G" (1G is 1024M)'
SHARE_HINT = 'write a share as "20%"'
AMOUNT_HINT = 'write a share as "85%", or a size as "512MiB" or "1G"'
RATE_HINT = 'write a rate as "50MiB/s", or as a share of the limit: "2%/s"'
DURATION_HINT = 'write a time as "150ms", "2.5s", "5m" or "1h"'


def _text(value: object, hint: str) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST:
        raise Wrong(f"{shown(value)} is not understood", hint)
    return value.strip()


def size(value: object) -> int:
    """Bytes, at least 1: 536870912, "512MiB", "512M", "0.5G"."""
    if isinstance(value, int) and not isinstance(value, bool):
        number = Fraction(value)
    else:
        text = _text(value, SIZE_HINT)
        match = _SIZE.fullmatch(text)
        if match is None:
            sloppy = _SLOPPY_SIZE.fullmatch(text)
            raise Wrong(
                f"{shown(value)} is not a size",
                f'write "{sloppy[1]}{sloppy[2].upper()}iB"' if sloppy else SIZE_HINT,
            )
        number = Fraction(match[1]) * _POWER.get(match[2], 1)
    if not 1 <= number <= _MOST_BYTES:
        raise Wrong(f"{shown(value)} is out of range", "a size is at least one byte and below 8E")
    return int(number)


def share(value: object) -> float:
    """More than 0 and at most 1: "20%" is 0.2."""
    match = _PERCENT.fullmatch(_text(value, SHARE_HINT))
    if match is None:
        raise Wrong(f"{shown(value)} is not a share", SHARE_HINT)
    part = Fraction(match[1]) / 100
    if not 0 < part <= 1:
        raise Wrong(f"{shown(value)} is out of range", "a share is more than 0% and at most 100%")
    return float(part)


def amount(value: object) -> Amount:
    """A share or a size, told apart by the percent sign."""
    if isinstance(value, str) and "%" in value:
        return Amount(share=share(value))
    if isinstance(value, float):
        raise Wrong(f"{shown(value)} is neither a share nor a size", _meant_percent(value))
    try:
        return Amount(bytes=size(value))
    except Wrong as wrong:
        raise Wrong(wrong.message, AMOUNT_HINT if wrong.hint == SIZE_HINT else wrong.hint) from None


def _meant_percent(value: float) -> str:
    return f'did you mean "{value:.10g}%" or "{value * 100:.10g}%"?' if 0 < value <= 1 else AMOUNT_HINT


def rate(value: object) -> Amount:
    """An amount a second: "50MiB/s", "2%/s"; without "/s" it is the same."""
    text = value.strip() if isinstance(value, str) else value
    try:
        return amount(text.removesuffix("/s") if isinstance(text, str) else text)
    except Wrong as wrong:
        raise Wrong(f"{shown(value)} is not a rate" if isinstance(value, str) else wrong.message, RATE_HINT) from None


def duration(value: object) -> int:
    """Nanoseconds, 0 allowed: "150ms", "2.5s", "1m 30s", "1h"."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise Wrong(f"{shown(value)} has no unit", f'did you mean "{shown(value)}s"?')
    text = _text(value, DURATION_HINT)
    if text == "0":
        return 0
    if _DURATION.fullmatch(text) is None:
        raise Wrong(f"{shown(value)} is not a time", DURATION_HINT)
    return int(sum(Fraction(number) * _NANOSECONDS[unit] for number, unit in _DURATION_PART.findall(text)))


def shown_duration(nanoseconds: int) -> str:
    """The shortest form that ``duration`` reads back as the same: 90 s is "90s"."""
    for unit in ("h", "min", "s", "ms"):
        if nanoseconds % _NANOSECONDS[unit] == 0 and nanoseconds >= _NANOSECONDS[unit]:
            return f"{nanoseconds // _NANOSECONDS[unit]}{unit}"
    return f"{Decimal(nanoseconds) / 1000:f}us" if nanoseconds else "0s"


def shown_share(share: float) -> str:
    """As ``share`` reads it back: 0.85 is 85%. The decimal of ``repr`` is the shortest that means this float."""
    text = f"{Decimal(repr(share)) * 100:f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) + "%"


def shown_amount(amount: Amount) -> str:
    """As people write it, and ``amount`` reads it back: 85%, 512MiB."""
    return shown_share(amount.share) if amount.share is not None else shown_size(amount.bytes or 0)


def shown_size(number: int) -> str:
    """As ``size`` reads it back: 512MiB."""
    for letter in reversed("KMGTPE"):
        if number >= _POWER[letter] and number % _POWER[letter] == 0:
            return f"{number // _POWER[letter]}{letter}iB"
    return f"{number}B"


def shown_rate(amount: Amount) -> str:
    """The same a second."""
    return f"{shown_amount(amount)}/s"
