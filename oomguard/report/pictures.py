"""An incident as two pictures, for plotly: memory and pressure over time with all that was done; whose memory it was.

Colours are those of the light page; the page itself puts those of the dark one in their places. Every name is escaped:
plotly reads some HTML in its texts.
"""

import html
from collections.abc import Mapping
from typing import Any, Final

from plotly import graph_objects as go
from plotly.subplots import make_subplots

from . import lines, series, whose
from .series import Growth, Incident, Points
from .words import printable, size

INK, FAINT, GRID, PAPER = "#1f2937", "#6b7280", "#e5e7eb", "#fffffe"
# Of the boxes, the same in light and dark.
TAKEN, GROUP_TAKEN, PROCESS, GROUP, ALL, REST, FREE, WHITE = (
    "#c8423c",
    "#a13a36",
    "#5478b0",
    "#41618f",
    "#3d4c63",
    "#7c8aa0",
    "#a8b3c4",
    "#ffffff",
)
BLUE, AMBER, RED, GREEN, VIOLET, TEAL = "#2563eb", "#b45309", "#dc2626", "#15803d", "#7c3aed", "#0f766e"
_PALETTE: Final = (VIOLET, TEAL, "#be185d", "#4d7c0f", "#0369a1")
# What is named at the top of the picture; the rest is a fine line with its text on hover.
_EVENTS: Final = {"soft": AMBER, "hard": RED, "kill": RED, "kernel": RED, "gone": GREEN, "close": GREEN}
_FONT: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
_GROWERS: Final = 4
_MIB: Final = 1 << 20
_TREE_MAX: Final = 300  # boxes
_POINTS_MAX: Final = 4000  # of a line: more than any screen has columns; a day has 86,400 seconds


def over_time(incident: Incident) -> go.Figure:
    """Memory above, who grew in the middle, pressure below; one axis of seconds from the opening."""
    growths = [g for g in series.growths(incident) if len(g.points) > 1 and g.bytes > 0][:_GROWERS]
    pressure = {line: series.pressure(incident, line) for line in ("some", "full")}
    titles = ["Memory", "Who grew"] if growths else ["Memory"]
    titles += ["Pressure: share of time in which some, or all, waited for memory"] if any(pressure.values()) else []
    heights = {1: [1.0], 2: [0.62, 0.38], 3: [0.46, 0.32, 0.22]}[len(titles)]
    figure = make_subplots(len(titles), 1, shared_xaxes=True, vertical_spacing=0.09, row_heights=heights)
    _memory(figure, incident)
    if growths:
        _growers(figure, growths)
    if any(pressure.values()):
        for line, color in (("some", AMBER), ("full", RED)):
            _area(figure, pressure[line], f"{line} waited", color, row=len(titles), unit="%")
        figure.update_yaxes(range=[0, 101], ticksuffix=" %", row=len(titles), col=1)
    _titles(figure, titles)
    _marks(figure, incident)
    _calm(figure, 560 if len(titles) > 2 else 420)
    figure.update_xaxes(range=_window(incident))
    figure.update_xaxes(title_text="seconds from the beginning", ticksuffix=" s", row=len(titles), col=1)
    figure.update_xaxes(title_standoff=6, row=len(titles), col=1)
    return figure


def by_owner(incident: Incident) -> go.Figure | None:
    """Boxes as large as what each holds: the machine, then cgroups, then processes. None: nobody is known."""
    boxes = _Boxes(incident)
    if len(boxes.ids) < 3:
        return None
    figure = go.Figure(
        go.Treemap(
            ids=boxes.ids,
            labels=boxes.labels,
            parents=boxes.parents,
            values=boxes.values,
            customdata=[size(value) for value in boxes.values],
            branchvalues="total",
            marker={"colors": boxes.colors, "line": {"width": 1, "color": WHITE}, "cornerradius": 3},
            texttemplate="%{label}<br>%{customdata}",
            hovertemplate="%{id}<br>%{customdata}<extra></extra>",
            textfont={"color": WHITE},
            pathbar={"visible": True, "thickness": 22},
            tiling={"pad": 2},
            maxdepth=4,
        )
    )
    _calm(figure, 420)
    figure.update_layout(margin={"l": 4, "r": 4, "t": 28, "b": 4})
    return figure


# -- over time ---------------------------------------------------------------------------------------------------------


def _memory(figure: go.Figure, incident: Incident) -> None:
    own, guard = str(incident["cgroup"]), incident["guard"]
    available = series.host(incident, "available_bytes")
    total = int(max((value for _, value in series.host(incident, "total_bytes")), default=0))
    top = total
    if own != "/":
        limit = series.limit(incident, own) or total
        used = series.used(incident, own)
        _area(figure, used, f"used by {_name(own)}", BLUE)
        _line_at(figure, lines.watermark(guard, "soft", "used", limit), "soft", AMBER)
        _line_at(figure, lines.watermark(guard, "hard", "used", limit), "hard", RED)
        _line_at(figure, limit, "limit", INK)
        top = max([limit, *(int(value) for _, value in used)])
    else:
        _area(figure, available, "available", BLUE)
        _line_at(figure, lines.watermark(guard, "soft", "available", total), "soft", AMBER)
        _line_at(figure, lines.watermark(guard, "hard", "available", total), "hard", RED)
        swap = series.host(incident, "swap_free_bytes")
        if max((value for _, value in swap), default=0):
            _area(figure, swap, "swap free", TEAL, fill=False)
        top = max([int(value) for at, value in available if at >= _window(incident)[0] * 1000] or [total])
    _leases(figure, incident, top)
    _bytes_axis(figure, 1, top)


def _leases(figure: go.Figure, incident: Incident, top: int) -> None:
    """memory.high that we lent, as steps; only what fits into the picture."""
    points: dict[str, Points] = {}
    for at, turn in series.turns(incident):
        for action in turn["actions"]:
            if action["kind"] == "Lease" and action["file"] == "memory.high" and action["value"] <= 1.2 * top:
                points.setdefault(f"{action['purpose']} on {_name(action['cgroup'])}", []).append((at, action["value"]))
    for number, (name, steps) in enumerate(points.items()):
        if number < 2:
            end = max((at for at, _ in series.turns(incident)), default=0.0)
            _area(figure, [*steps, (end, steps[-1][1])], name, VIOLET, fill=False, shape="hv", dash="dot")


def _growers(figure: go.Figure, growths: list[Growth]) -> None:
    for growth, color in zip(growths, _PALETTE, strict=False):
        name = f"{_name(growth.comm)}[{growth.pid}]"
        _area(figure, growth.points, name, color, row=2, fill=False)
    _bytes_axis(figure, 2, int(max(value for growth in growths for _, value in growth.points)))


def _area(  # noqa: PLR0913 - what a line looks like
    figure: go.Figure,
    points: Points,
    name: str,
    color: str,
    row: int = 1,
    *,
    unit: str = "",
    fill: bool = True,
    shape: str = "linear",
    dash: str = "solid",
) -> None:
    if not points:
        return
    points = series.thinned(points, _POINTS_MAX)
    words = [f"{value:.0f} %" if unit else size(int(value)) for _, value in points]
    figure.add_trace(
        go.Scatter(
            x=[round(at / 1000, 4) for at, _ in points],
            y=[round(value, 2) for _, value in points],
            name=name,
            text=words,
            hovertemplate="%{text}",
            mode="lines",
            line={"color": color, "width": 1.6, "shape": shape, "dash": dash},
            fill="tozeroy" if fill else "none",
            fillcolor=_faded(color),
        ),
        row=row,
        col=1,
    )


def _faded(color: str) -> str:
    red, green, blue = (int(color[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.12)"


def _line_at(figure: go.Figure, value: int | None, name: str, color: str) -> None:
    if value is None:
        return
    text = f"{name} {size(value)}"
    note = {"text": text, "font": {"color": color, "size": 11}, "xanchor": "left", "bgcolor": PAPER, "opacity": 0.85}
    figure.add_hline(
        y=value,
        line={"color": color, "width": 1, "dash": "dash"},
        annotation=note,
        annotation_position="top left",
        row=1,
    )


def _marks(figure: go.Figure, incident: Incident) -> None:
    """What happened, as lines through all of the picture; near ones share a label."""
    start, end = _window(incident)
    labels: list[tuple[float, list[str]]] = []
    for entry in incident["timeline"]:
        at, color = entry["at_ms"] / 1000, _EVENTS.get(entry["what"])
        if color is None or len(figure.layout.shapes) > 60:
            continue
        figure.add_shape(
            type="line",
            xref="x",
            yref="paper",
            x0=at,
            x1=at,
            y0=0,
            y1=1,
            line={"color": color, "width": 1},
            opacity=0.55,
        )
        word = f'<span style="color:{color}">{entry["what"]}</span>'
        if labels and at - labels[-1][0] < (end - start) / 9:
            if word not in labels[-1][1]:
                labels[-1][1].append(word)
        else:
            labels.append((at, [word]))
    for number, (at, words) in enumerate(labels):
        figure.add_annotation(
            x=at, y=1.0, xref="x", yref="paper", yanchor="bottom", xanchor=_anchor(at, start, end),
            text=" · ".join(words), showarrow=False, font={"color": FAINT, "size": 11}, yshift=13 * (number % 2),
        )  # fmt: skip


def _anchor(at: float, start: float, end: float) -> str:
    """Near the right edge a label stands to the left of its line."""
    share = (at - start) / (end - start)
    return "right" if share > 0.75 else "center" if share > 0.1 else "left"


def _window(incident: Incident) -> list[float]:
    """Seconds that are shown first: the engagement with some calm around it. All is there to be zoomed out to."""
    if incident["kind"] == "recording":
        return [0.0, round(max((at for at, _ in series.turns(incident)), default=1.0) / 1000, 3)]
    ends = [entry["at_ms"] / 1000 for entry in incident["timeline"]] or [0.0]
    last = max(ends)
    own = str(incident["cgroup"])
    known = series.host(incident, "available_bytes") if own == "/" else series.used(incident, own)
    first = max(min((at for at, _ in known), default=0.0) / 1000 - 0.2, -max(8.0, last))
    return [round(first, 3), round(last + max(1.0, 0.15 * last), 3)]


def _titles(figure: go.Figure, titles: list[str]) -> None:
    for row, title in enumerate(titles, 1):
        axis = figure.layout[f"yaxis{row if row > 1 else ''}"]
        figure.add_annotation(
            x=0, y=axis.domain[1], xref="paper", yref="paper", xanchor="left", yanchor="bottom", text=f"<b>{title}</b>",
            showarrow=False, font={"color": FAINT, "size": 11}, yshift=16 if row == 1 else 2,
        )  # fmt: skip


def _bytes_axis(figure: go.Figure, row: int, top: int) -> None:
    """Powers of two: a grid of 100,000,000 bytes says nothing to anybody."""
    step = _MIB
    while top / step > 5:
        step *= 2
    ticks = list(range(0, int(top * 1.12) + step, step))
    figure.update_yaxes(
        tickvals=ticks, ticktext=[size(tick) if tick else "0" for tick in ticks], range=[0, top * 1.12], row=row, col=1
    )


def _calm(figure: go.Figure, height: int) -> None:
    figure.update_layout(
        height=height,
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": _FONT, "size": 12, "color": INK},
        margin={"l": 64, "r": 16, "t": 50, "b": 44},
        hovermode="x unified",
        hoverlabel={"bgcolor": PAPER, "bordercolor": GRID, "font": {"color": INK}},
        legend={"orientation": "h", "x": 0, "y": -0.14, "yanchor": "top", "font": {"color": FAINT}},
        dragmode="zoom",
    )
    figure.update_xaxes(gridcolor=GRID, zeroline=False, showline=False, color=FAINT)
    figure.update_yaxes(gridcolor=GRID, zeroline=False, showline=False, color=FAINT, fixedrange=True)


# -- by owner ----------------------------------------------------------------------------------------------------------


class _Boxes:
    """A tree of what holds memory, each box at least as large as all within it."""

    def __init__(self, incident: Incident) -> None:
        self.ids: list[str] = []
        self.labels: list[str] = []
        self.parents: list[str] = []
        self.values: list[int] = []
        self.colors: list[str] = []
        victims = {victim["pid"] for victim in incident["victims"]}
        rows = [row for row in series.processes(incident) if row["held_bytes"] > 0][:_TREE_MAX]
        others = _others(incident)
        held = sum(row["held_bytes"] for row in rows)
        self._add("memory", "memory", "", held + sum(row.bytes for row in others), ALL)
        self._add("processes", "processes", "memory", held, ALL)
        self._groups(rows, victims)
        for row in others:
            self._add(_name(row.what), _name(row.what), "memory", row.bytes, FREE if row.what == "free" else REST)
            if sum(value for _, value in row.parts) <= row.bytes:  # of tmpfs some may be in swap: then no box holds it
                for what, value in row.parts:
                    self._add(f"{_name(row.what)} {_name(what)}", _name(what), _name(row.what), value, REST)

    def _groups(self, rows: list[Mapping[str, Any]], victims: set[int]) -> None:
        groups: dict[str, list[Mapping[str, Any]]] = {}
        for row in rows:
            groups.setdefault(row["cgroup"], []).append(row)
        for cgroup, members in groups.items():
            group = f"{_name(cgroup)} "  # a process may be called like a cgroup
            taken = any(row["pid"] in victims for row in members)
            label = _name(cgroup.rpartition("/")[2] or "/")
            self._add(
                group, label, "processes", sum(row["held_bytes"] for row in members), GROUP_TAKEN if taken else GROUP
            )
            for row in members:
                name = f"{_name(row['comm'])}[{row['pid']}]"
                self._add(f"{group}{name}", name, group, row["held_bytes"], TAKEN if row["pid"] in victims else PROCESS)

    def _add(self, box: str, label: str, parent: str, value: int, color: str) -> None:
        self.ids.append(box)
        self.labels.append(label)
        self.parents.append(parent)
        self.values.append(value)
        self.colors.append(color)


def _others(incident: Incident) -> list[whose.Row]:
    """What no process holds, as far as it was counted: by the account of all memory, else by meminfo."""
    account = whose.machine(incident)
    if account is not None:
        return [row for row in account.rows if row.what != whose.PROCESSES and row.bytes > 0]
    meminfo = incident["evidence"].get("meminfo", {})
    found: dict[str, int] = next((meminfo[stage] for stage in whose.STAGES if stage in meminfo), {})
    cache = found.get("Cached", 0) + found.get("Buffers", 0) + found.get("SReclaimable", 0) - found.get("Shmem", 0)
    named = {"free": found.get("MemFree", 0), "cache": cache}
    named |= {"shared memory and tmpfs": found.get("Shmem", 0), "slab": found.get("SUnreclaim", 0)}
    named |= {"page tables": found.get("PageTables", 0)}
    return [whose.Row(what, value) for what, value in named.items() if value > 0]


def _name(text: str) -> str:
    return html.escape(printable(text))
