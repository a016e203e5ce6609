"""The time line of a storm, one panel for each daemon: memory, pressure, and who acted when. As SVG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import peers

Run = dict[str, Any]
AVAILABLE, CULPRIT, SWAP, STALL = "#2a6f97", "#c1121f", "#7a5195", "#9a8c98"
SIGNAL = {"kernel": "#000000"}


def draw(name: str, title: str, runs: list[Run], path: Path) -> Path:
    """The median run of every daemon, by the time of its first signal."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    shown = [
        (peer, typical(found)) for peer in peers.NAMES if (found := [r["result"] for r in runs if r["peer"] == peer])
    ]
    rows = (len(shown) + 1) // 2
    with mpl.rc_context({"font.size": 8, "svg.fonttype": "none", "svg.hashsalt": name, "axes.spines.top": False}):
        figure = Figure(figsize=(10, 2.1 * rows + 0.6), layout="constrained")
        figure.suptitle(f"{name}: {title}", fontsize=10)
        grid = figure.subplots(rows, 2, squeeze=False, sharey=True)
        for axes, (peer, result) in zip(grid.flat, shown, strict=False):
            panel(axes, peer, result)
        for axes in grid.flat[len(shown) :]:
            axes.set_axis_off()
        lines, names = grid.flat[0].get_legend_handles_labels()
        figure.legend(lines, names, loc="outside lower center", ncols=len(names), frameon=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="svg", metadata={"Date": None})
    return path


def typical(results: list[Run]) -> Run:
    """The one in the middle, by the time of the first signal; those without a signal come last."""
    ordered = sorted(results, key=lambda result: (not result["kills"], result["kills"] and result["kills"][0]["at_ms"]))
    return ordered[len(ordered) // 2]


def panel(axes: Any, peer: str, result: Run) -> None:
    columns = list(zip(*result["course"], strict=True))
    if not columns:
        return
    at, available, swap, _, full, culprit = columns
    seconds = [ms / 1000 for ms in at]
    axes.set_title(peer, loc="left", fontweight="bold" if peer == "oomguard" else "normal", fontsize=9)
    axes.fill_between(seconds, available, color=AVAILABLE, alpha=0.18)
    axes.plot(seconds, available, color=AVAILABLE, lw=1.2, label="available, MiB")
    axes.plot(seconds, culprit, color=CULPRIT, lw=1.2, label="the culprit, MiB")
    if max(swap):
        axes.plot(seconds, swap, color=SWAP, lw=1, label="free swap, MiB")
    stalled = axes.twinx()
    stalled.plot(seconds, full, color=STALL, lw=1, ls="--")
    stalled.set_ylim(0, max(100, 1.1 * max(full)))
    stalled.tick_params(axis="y", colors=STALL)
    axes.plot([], [], color=STALL, lw=1, ls="--", label="nothing ran (PSI full), ms in all")
    axes.set_ylim(bottom=0)
    if result["line_ms"] is not None:
        axes.axvline(result["line_ms"] / 1000, color="#999999", lw=0.8, ls=":", label="the line")
    if result["kills"]:
        first = result["kills"][0]
        axes.axvline(first["at_ms"] / 1000, color=SIGNAL.get(first["by"], CULPRIT), lw=1, label="the first signal")
        more = f" and {len(result['kills']) - 1} more" if len(result["kills"]) > 1 else ""
        axes.annotate(
            f"{first['by']}{more}",
            (first["at_ms"] / 1000, axes.get_ylim()[1]),
            xytext=(-3, -9),
            textcoords="offset points",
            ha="right",
        )
