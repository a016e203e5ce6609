"""A frame of ``oomguard top``: the page drawn into so many columns and lines, no more. Pure: reads and prints nothing.

Letters and signs of ASCII alone, and nothing that only colour tells: it is read over ssh, on a serial console, in black
and white. Names are whatever somebody chose: what could move a cursor or turn the writing direction is escaped.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from ..model.statuspage import Event, Growing, GuardLine, Nominee, StatusPage
from ..report.near import by_nearness, lines, near, urgency, used
from ..report.words import size
from .say import printable

SORTS = ("near", "policy", "name", "used")
PLAIN_WIDTH = 80
STYLES = {"calm": "green", "armed": "yellow", "cooling": "cyan", "firing": "bold red", "draining": "bold red"}
_OLD_NS = 60_000_000_000  # growth that was seen so long ago is no news
_PLAIN, _HEAD, _DIM, _ALARM = "", "reverse", "dim", "bold red"


@dataclass(slots=True)
class View:
    """What the person at the keyboard wants to see, and what happened to the daemon."""

    sort: str = "near"
    paused: bool = False
    gone: str = ""  # why there is no page; the last one is shown
    keys: bool = True  # whether there is somebody who may press any
    now: float = field(default_factory=time.time)
    now_ns: int = field(default_factory=time.monotonic_ns)


def draw(page: StatusPage, view: View, width: int, height: int) -> list[Text]:
    """At most ``height`` lines of at most ``width`` cells."""
    width = max(width, 20)
    top = _head(page, view, width)
    bottom = [_foot(page, view, width)]
    room = height - len(top) - len(bottom)
    if room < 0:
        return [*top, *bottom][: max(height, 1)]
    middle = _blocks(page, view, width, room)
    blank = [Text("")] * (room - len(middle)) if view.keys else []  # the keys stand where they stood
    return [*top, *middle, *blank, *bottom]


# --------------------------------------------------------------------------------------------------------- the machine


def _head(page: StatusPage, view: View, width: int) -> list[Text]:
    numbers = page.numbers
    clock = time.strftime("%H:%M:%S", time.localtime(view.now))
    state, style = _state(page, view)
    told = f"oomguard: {state} ({page.version}, pid {numbers.pid})" if width >= 40 else state
    first = _row([(told, width - 9, "<", style), (clock, 8, ">", _PLAIN)])
    total, available = numbers.mem_total_bytes, numbers.mem_available_bytes
    taken = max(0, total - available)
    text = f" {size(taken)} of {size(total)}, {size(available)} available"
    room = max(10, min(40, width - len("memory ") - len(text)))
    second = Text("memory ")
    second.append_text(_bar(taken / total if total else 0.0, [], [], room, ""))
    second.append(text)
    third = _row([(view.gone or _pressure(page, width), width, "<", _ALARM if view.gone else _PLAIN)])
    return [first, _fit(second, width), third]


def _state(page: StatusPage, view: View) -> tuple[str, str]:
    if view.gone:
        return "GONE, waiting for it", _ALARM
    if view.paused:
        return "PAUSED (p goes on)", "bold"
    from .status import state_of

    state = state_of(page)
    return state, _ALARM if state.isupper() or "STANDS" in state else "bold"


def _pressure(page: StatusPage, width: int) -> str:
    numbers = page.numbers
    swap = f"{size(numbers.swap_free_bytes)} of {size(numbers.swap_total_bytes)} free"
    told = f"swap {swap if numbers.swap_total_bytes else 'none'}"
    if page.pressure is None:
        return f"{told}  pressure is not told by this kernel"
    some, full = page.pressure.some, page.pressure.full
    if width < PLAIN_WIDTH:
        return f"pressure some {some.avg10:.1f} full {full.avg10:.1f} %  {told}"
    averages = [f"{stall.avg10:.1f} {stall.avg60:.1f} {stall.avg300:.1f}" for stall in (some, full)]
    over = " over 10, 60, 300 s" if width > PLAIN_WIDTH else ""
    return f"{told}  pressure some {averages[0]}  full {averages[1]} %{over}"


# ------------------------------------------------------------------------------------------------------------ its parts


@dataclass(slots=True)
class _Block:
    """A part of the screen. ``most``: lines that it could fill, its heading not counted."""

    most: int
    lines: Callable[[int], list[Text]]
    least: int = 1
    given: int = 0


def _blocks(page: StatusPage, view: View, width: int, room: int) -> list[Text]:
    """Each part gets a heading and a line; what is left goes round, the policies first."""
    guards, growing = sort_guards(page, view.sort), _growing(page, view)
    blocks = [
        _Block(len(guards), lambda n: _guards(guards, page, width, n), 3),
        _Block(len(page.nominees), lambda n: _nominees(page.nominees, width, n)),
        _Block(len(growing), lambda n: _growth(growing, width, n)),
        _Block(len(page.events), lambda n: _events(page.events, view, width, n)),
        _Block(len(page.degraded), lambda n: _degraded(page.degraded, width, n)),
    ]
    blocks = [block for block in blocks if block.most]
    kept: list[_Block] = []
    for block in blocks:
        least = min(block.least, block.most)
        if room >= least + 1 or (not kept and room >= 1):
            block.given = min(least, max(0, room - 1))
            room -= block.given + 1
            kept.append(block)
    while room > 0 and any(block.given < block.most for block in kept):
        for block in kept:
            if room > 0 and block.given < block.most:
                block.given += 1
                room -= 1
    return [line for block in kept for line in block.lines(block.given)]


def sort_guards(page: StatusPage, by: str) -> list[GuardLine]:
    """As asked; whoever is not calm stands first, but where they are wanted by name or as the policy has them."""
    match by:
        case "near":
            return by_nearness(page)
        case "used":
            return sorted(page.guards, key=lambda guard: (-urgency(guard), -used(guard, page)))
        case "name":
            return sorted(page.guards, key=lambda guard: guard.name)
        case _:
            return list(page.guards)


def _guards(guards: Sequence[GuardLine], page: StatusPage, width: int, most: int) -> list[Text]:
    show_sizes, show_soft, show_cgroup = width >= 64, width >= 50, width >= 110
    heading = f"POLICY{_part(most, len(guards))}"
    longest = max(cell_len(text) for text in (heading, *(printable(_name(guard)) for guard in guards)))
    name = max(6, min(24, longest, width // 5))
    fixed = name + 1 + 8 + 1 + (20 if show_sizes else 0) + (10 if show_soft else 0) + 9
    rest = width - fixed - 1
    cgroup = min(60, rest // 2) if show_cgroup else 0
    bar = rest - (cgroup + 1 if cgroup else 0) if rest >= 5 else 0

    def row(parts: dict[str, tuple[str, str]], middle: Text) -> Text:
        def cells(*wanted: tuple[str, int, str]) -> Text:
            return _row([(parts[key][0], room, align, parts[key][1]) for key, room, align in wanted if room])

        sizes = 9 if show_sizes else 0
        line = cells(("name", name, "<"), ("phase", 8, "<"), ("used", sizes, ">"), ("limit", sizes, ">"))
        line.append(" ").append_text(middle).append(" " * (bar > 0))
        line.append_text(cells(("soft", 9 if show_soft else 0, ">"), ("hard", 9, ">"), ("cgroup", cgroup, "<")))
        return _fit(line, width)

    heads = {"name": heading, "phase": "PHASE", "used": "USED", "limit": "OF"}
    heads |= {"soft": "TO SOFT", "hard": "TO HARD", "cgroup": "CGROUP"}
    title = row({key: (text, _HEAD) for key, text in heads.items()}, Text(_cut("s soft, h hard", bar), _HEAD))
    title.stylize(_HEAD)
    return [title, *(row(_parts(guard, page), _guard_bar(guard, page, bar)) for guard in guards[:most])]


def _parts(guard: GuardLine, page: StatusPage) -> dict[str, tuple[str, str]]:
    style = STYLES[guard.phase] if guard.targets else _DIM
    soft, hard = near(guard, page, guard.soft), near(guard, page, guard.hard)
    path = guard.path or guard.cgroup
    more = f" (1 of {guard.targets})" if guard.targets > 1 else ""
    return {
        "name": (_name(guard), _PLAIN),
        "phase": (guard.phase if guard.targets else "nothing", style),
        "used": (size(used(guard, page)) if guard.targets else "-", _PLAIN),
        "limit": (size(guard.limit_bytes) if guard.targets else "-", _PLAIN),
        "soft": ("-" if soft is None else soft.away, "yellow" if soft is not None and soft.holds else _PLAIN),
        "hard": ("-" if hard is None else hard.away, _ALARM if hard is not None and hard.holds else _PLAIN),
        "cgroup": (f"{path}{more}", _DIM),
    }


def _name(guard: GuardLine) -> str:
    """Who only looks on is marked."""
    return f"({guard.name})" if guard.mode == "observe" else guard.name


def _guard_bar(guard: GuardLine, page: StatusPage, width: int) -> Text:
    if not guard.targets or not guard.limit_bytes or not width:
        return Text(" " * width)
    share = used(guard, page) / guard.limit_bytes
    return _bar(share, lines(guard, page, guard.soft), lines(guard, page, guard.hard), width, STYLES[guard.phase])


def _bar(share: float, soft: Sequence[float], hard: Sequence[float], width: int, style: str) -> Text:
    """[####...s..h.]: full as far as it is used, with the watermarks where they stand."""
    room = width - 2
    full = min(room, round(max(0.0, share) * room))
    signs = ["#"] * full + ["."] * (room - full)
    for sign, marks in (("s", soft), ("h", hard)):
        for mark in marks:
            if 0 <= mark <= 1:
                signs[min(room - 1, int(mark * room))] = sign
    bar = Text("[")
    for place, sign in enumerate(signs):
        bar.append(sign, style if place < full else _ALARM if sign == "h" else "yellow" if sign == "s" else _DIM)
    bar.append("]")
    return bar


def _nominees(nominees: Sequence[Nominee], width: int, most: int) -> list[Text]:
    found = [_title(f"NOMINEES{_part(most, len(nominees))}: who would be ended, or is", width)]
    for it in nominees[:most]:
        who = f"{it.what}[{it.pid}]" if it.pid else it.what
        more = f" and {it.count - 1} more" if it.pid and it.count > 1 else f", all {it.count}" if not it.pid else ""
        where = "" if it.what == it.cgroup else f" in {it.cgroup}"
        found.append(_row([(f"{it.guard}: {who}{more} ({it.take}), {size(it.held_bytes)}{where}", width, "<", "bold")]))
    return found


def _growing(page: StatusPage, view: View) -> list[Growing]:
    """The fastest first; of those that do not grow the largest."""
    fresh = [it for it in page.growing if view.now_ns - it.at_ns < _OLD_NS]
    return sorted(fresh, key=lambda it: (-round(it.per_second / 65536), -it.bytes))


def _growth(growing: Sequence[Growing], width: int, most: int) -> list[Text]:
    name = max(8, width - 26)
    heads = [(f"GROWING{_part(most, len(growing))}: cgroups, cache counted", name, "<", _HEAD)]
    heads += [("A SECOND", 13, ">", _HEAD), ("HAVE", 11, ">", _HEAD)]
    found = [_row(heads)]
    found[0].stylize(_HEAD)
    for it in growing[:most]:
        rate = "+" * (it.per_second > 0) + size(round(it.per_second)) if abs(it.per_second) >= 1024 else "0"
        style = "yellow" if it.per_second > 1 << 20 else _PLAIN
        found.append(
            _row(
                [(_tail(it.cgroup, name), name, "<", _PLAIN), (rate, 13, ">", style), (size(it.bytes), 11, ">", _PLAIN)]
            )
        )
    return [_fit(line, width) for line in found]


def _events(events: Sequence[Event], view: View, width: int, most: int) -> list[Text]:
    found = [_title(f"EVENTS{_part(most, len(events))}, the newest first", width)]
    for it in events[:most]:
        day = "" if view.now - it.at_ns / 1e9 < 43200 else time.strftime("%m-%d ", time.localtime(it.at_ns / 1e9))
        clock = time.strftime("%H:%M:%S", time.localtime(it.at_ns / 1e9))
        who = f"{it.guard}: " if it.guard else ""
        style = _ALARM if it.kind in ("KILLED", "KERNEL_KILLED", "HARD") else _PLAIN
        kind = it.kind.lower().replace("_", " ")
        found.append(_row([(f"{day}{clock} {kind}: {who}{it.text}", width, "<", style)]))
    return found


def _degraded(degraded: Sequence[tuple[str, str]], width: int, most: int) -> list[Text]:
    found = [_title(f"DEGRADED{_part(most, len(degraded))}: oomguard status says how to mend it", width)]
    return [*found, *(_row([(f"{what}: {why}", width, "<", _PLAIN)]) for what, why in degraded[:most])]


def _foot(page: StatusPage, view: View, width: int) -> Text:
    numbers = page.numbers
    told = f"{numbers.kills} killed, {numbers.kernel_oom_kills} by the kernel"
    if page.degraded:
        told += f", {len(page.degraded)} degraded"
    if page.left_out:
        told = "left out: " + ", ".join(f"{number} {what}" for what, number in page.left_out) + f"; {told}"
    keys = f"q quit  p {'go on' if view.paused else 'pause'}  s sort: {view.sort}" if view.keys else ""
    keys = keys if width >= len(keys) + 20 else "q p s"[: width // 4] if view.keys else ""
    return _row([(told, width - len(keys) - 1, "<", _PLAIN), (keys, len(keys), ">", _DIM)])


# ----------------------------------------------------------------------------------------------------------- the cells


def _part(most: int, all_: int) -> str:
    return f" {most}/{all_}" if most < all_ else ""


def _title(text: str, width: int) -> Text:
    return Text(_cut(text, width), _HEAD)


def _row(cells: Sequence[tuple[str, int, str, str]]) -> Text:
    """(text, width, "<" or ">", style), with a space between them."""
    line = Text(no_wrap=True)
    for number, (text, width, align, style) in enumerate(cells):
        if number:
            line.append(" ")
        shown = _cut(text, width)
        if align == ">":
            told = shown.rstrip()
            shown = " " * (width - cell_len(told)) + told
        line.append(shown, style)
    return line


def _cut(text: str, width: int) -> str:
    """Exactly so many cells, nothing in it that a terminal would obey; what is cut off is said."""
    safe = printable(text)
    if cell_len(safe) > width:
        return set_cell_size(safe, max(0, width - 1)) + "~"[: max(0, width)]
    return set_cell_size(safe, width)


def _tail(path: str, width: int) -> str:
    """Of a long path the end tells more."""
    safe = printable(path)
    return safe if len(safe) <= width else "~" + safe[len(safe) - width + 1 :]


def _fit(line: Text, width: int) -> Text:
    line.truncate(width)
    line.no_wrap = True
    return line
