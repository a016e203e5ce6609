"""Numbers and names for people, in one way everywhere."""


def size(count: int | None) -> str:
    """Bytes for people."""
    if count is None:
        return "?"
    value, unit = float(abs(count)), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1000:
            break
        value, unit = value / 1024, larger
    digits = 0 if unit == "B" or value >= 100 else 1
    return f"{'-' if count < 0 else ''}{value:.{digits}f} {unit}"


def duration(ms: float | None) -> str:
    """Milliseconds for people."""
    if ms is None:
        return "?"
    if ms < 10:
        return f"{ms:.1f} ms"
    return f"{ms:.0f} ms" if ms < 10_000 else f"{ms / 1000:.0f} s"


def printable(text: object) -> str:
    """Names come from whoever named the process: nothing in them may move a cursor or turn the writing direction."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))
