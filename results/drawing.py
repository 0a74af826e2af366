"""How figures look: one palette, one size of panel, one place for the legend.

The colours are Okabe and Ito's ("Color Universal Design", 2008), which differ with any colour
vision; each label has a marker of its own too, so that a grey print can be read.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sensweep.results.histogram import Bars
from sensweep.results.series import Lines, Points, ordered

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (5, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1)))
PANEL_INCHES = (2.9, 2.55)
MOST_COLUMNS = 3
MOST_PANELS = 36
DOTS_PER_INCH = 150
STYLE: dict[Any, Any] = {  # matplotlib types its keys as literals
    "savefig.dpi": DOTS_PER_INCH,
    "font.size": 9.0,
    "figure.titlesize": 10.5,
    "figure.labelsize": 9.0,
    "axes.titlesize": 9.0,
    "axes.labelsize": 9.0,
    "legend.fontsize": 8.5,
    "legend.title_fontsize": 8.5,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.7,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "text.parse_math": False,  # a label with a dollar sign is no formula
}


@dataclass(frozen=True, slots=True)
class Look:
    """What stays the same over all figures of a report.

    Attributes:
        title: heading of the figure.
        colours: all labels of the column that gives the colours (and the markers of lines, and the
            outlines of histograms).
        seconds: all labels of the column that gives line styles, or markers of points.
        legend: headings of the two.
        split: the column that gives the panels, for their headings; None if they need no column.
        log_x, log_y: logarithmic axes.
    """

    title: str
    colours: Sequence[str]
    seconds: Sequence[str]
    legend: tuple[str, str]
    split: str | None = None
    log_x: bool = False
    log_y: bool = False

    def heading(self, panel: str) -> str:
        """Write the heading of a panel."""
        return f"{self.split} = {panel}" if self.split else panel.replace("_", " ")


def colours_of(labels: Sequence[str]) -> dict[str, str]:
    """Give every label its colour: a ramp for three or more numbers, else the palette."""
    if len(labels) > 2 and all(_is_number(label) for label in labels):
        from matplotlib import colormaps
        from matplotlib.colors import to_hex

        ramp = colormaps["viridis"](np.linspace(0.0, 0.88, len(labels)))
        return {label: to_hex(colour) for label, colour in zip(labels, ramp, strict=True)}
    return {label: PALETTE[rank % len(PALETTE)] for rank, label in enumerate(labels)}


def markers_of(labels: Sequence[str]) -> dict[str, str]:
    """Give every label its marker; labels that share a colour of the palette do not share one."""
    size = len(MARKERS)
    return {label: MARKERS[(rank + rank // size) % size] for rank, label in enumerate(labels)}


def dashes_of(labels: Sequence[str]) -> dict[str, object]:
    """Give every label its line style."""
    return {label: DASHES[rank % len(DASHES)] for rank, label in enumerate(labels)}


def draw_lines(lines: Lines, look: Look) -> Figure:
    """Draw lines with their bands: a grid of panels, a row of them per quantity."""
    panels, rows = ordered(lines.data["panel"]), len(lines.y_labels)
    inks, dashes = colours_of(look.colours), dashes_of(look.seconds)
    markers = markers_of(look.colours)
    figure, axes = grid(len(panels), rows, look.title, share_x=not lines.ticks and rows == 1)
    for (row, panel), data in _groups(lines.data, "row", "panel"):
        ax = axes[row * len(panels) + panels.index(panel)]
        several = _groups(data, "colour", "second")
        for rank, ((colour, second), line) in enumerate(several):
            style = {"color": inks[colour], "marker": markers[colour], "linestyle": dashes[second]}
            if panel in lines.ticks:
                _draw_beside(ax, line, 0.5 * ((rank + 0.5) / len(several) - 0.5), style)
            else:
                _draw_line(ax, line, look, style)
        _x_axis(ax, data["x"], look.log_x, lines.ticks.get(panel))
        ax.set_title(look.heading(panel) if row == 0 else "", loc="left")
    for row, label in enumerate(lines.y_labels):
        across = axes[row * len(panels) : (row + 1) * len(panels)]
        _y_axis(across, lines.data[lines.data["row"] == row], look.log_y)
        label_axes(across, lines.x_label if row == rows - 1 else "", label)
    colours, seconds = ordered(lines.data["colour"]), ordered(lines.data["second"])
    add_legend(
        figure,
        look.legend,
        [legend_handle(color=inks[c], marker=markers[c], linestyle="-", label=c) for c in colours],
        [legend_handle(color="#444444", linestyle=dashes[s], label=s) for s in seconds],
    )
    return figure


def draw_points(points: Points, look: Look) -> Figure:
    """Draw points, the seeds behind them small and pale; each panel says its correlation."""
    panels = ordered(points.data["panel"])
    inks, markers = colours_of(look.colours), markers_of(look.seconds)
    figure, axes = grid(len(panels), 1, look.title, share_x=False)
    for ax, panel in zip(axes, panels, strict=True):
        seeds = points.seeds[points.seeds["panel"] == panel]
        shown = points.data[points.data["panel"] == panel]
        if shown["n"].max() > 1:
            ax.scatter(seeds["x"], seeds["y"], s=6, c=seeds["colour"].map(inks), alpha=0.35, lw=0)
        for (colour, second), some in _groups(shown, "colour", "second"):
            style: dict[str, Any] = {"marker": markers[second], "edgecolor": "white", "lw": 0.6}
            ax.scatter(some["x"], some["y"], s=36, color=inks[colour], zorder=3, **style)
        _x_axis(ax, seeds["x"], look.log_x, None)
        if look.log_y:
            log_scale(ax, "y", seeds["y"])
        heading = f"{look.heading(panel)}\n{points.correlations[panel]}".strip()
        ax.set_title(heading, loc="left", fontsize=8.5)
    label_axes(axes, points.x_label, points.y_label)
    colours, seconds = ordered(points.data["colour"]), ordered(points.data["second"])
    dot: dict[str, object] = {"linestyle": "none"}
    add_legend(
        figure,
        look.legend,
        [legend_handle(color=inks[c], marker="o", label=c, **dot) for c in colours],
        [legend_handle(color="#444444", marker=markers[s], label=s, **dot) for s in seconds],
    )
    return figure


def draw_bars(bars: Bars, look: Look) -> Figure:
    """Draw histograms over one another, each outlined in a line style of its own."""
    panels, colours = ordered(bars.data["panel"]), ordered(bars.data["colour"])
    inks, dashes = colours_of(look.colours), dashes_of(look.colours)
    heights = bars.data["height"]
    # A logarithmic axis has no 0 for an empty bin to stand on.
    floor = 0.5 * float(heights[heights > 0].min()) if look.log_y else 0.0
    figure, axes = grid(len(panels), 1, look.title, share_x=True)
    for (panel, colour), data in _groups(bars.data, "panel", "colour"):
        ax, edges = axes[panels.index(panel)], [*data["low"], data["high"].iloc[-1]]
        height, ink = data["height"].clip(lower=floor), inks[colour]
        ax.stairs(height, edges, baseline=floor, fill=True, color=ink, alpha=0.22, lw=0)
        ax.stairs(height, edges, baseline=floor, color=ink, lw=1.4, linestyle=dashes[colour])
    for ax, panel in zip(axes, panels, strict=True):
        _x_axis(ax, bars.data["low"], look.log_x, None)
        if look.log_y:
            log_scale(ax, "y", heights)
        ax.set_ylim(floor, heights.max() * (2 if look.log_y else 1.06))
        ax.set_title(look.heading(panel), loc="left")
    label_axes(axes, bars.x_label, bars.y_label)
    handles = [legend_handle(color=inks[c], linestyle=dashes[c], label=c) for c in colours]
    add_legend(figure, look.legend, handles, [])
    return figure


def _groups(data: pd.DataFrame, *columns: str) -> list[tuple[Any, pd.DataFrame]]:
    return list(data.groupby([*columns], sort=False))


def grid(
    panels: int, rows: int, title: str, share_x: bool, share_y: bool = True
) -> tuple[Figure, list[Axes]]:
    """Make a figure of rows x panels axes; a single row wraps.

    Raises:
        ValueError: there are more panels than can be read.
    """
    from matplotlib.figure import Figure

    columns = panels
    if rows == 1 and panels > MOST_COLUMNS:
        columns = 2 if panels == 4 else MOST_COLUMNS
    lines = math.ceil(panels / columns) if rows == 1 else rows
    wide, high = PANEL_INCHES if panels * rows > 1 else (4.2, 3.1)
    if panels * rows > MOST_PANELS:
        wanted = "narrow it by where, or split it by another column"
        raise ValueError(f"{panels * rows} panels are more than {MOST_PANELS}: {wanted}")
    figure = Figure(figsize=(wide * columns + 1.3, high * lines + 0.35), layout="constrained")
    axes = figure.subplots(
        lines,
        columns,
        squeeze=False,
        sharex="all" if share_x else "col" if rows > 1 else "none",
        sharey="none" if not share_y else "all" if rows == 1 else "row",
    ).ravel()
    for spare in axes[panels * rows :]:
        spare.remove()
    title = textwrap.fill(title, round(10 * figure.get_figwidth()))
    figure.suptitle(title, x=0.01, ha="left", weight="bold")
    return figure, list(axes[: panels * rows])


def _draw_line(ax: Axes, line: pd.DataFrame, look: Look, style: dict[str, Any]) -> None:
    """Draw a line and its band; a level of its own for the baseline."""
    ink = style["color"]
    for level in line.loc[line["baseline"], "mean"]:
        ax.axhline(level, color=ink, lw=0.9, linestyle=(0, (1, 2)), zorder=2)
    if look.log_x:  # a logarithmic axis has no place for strength 0: the dotted line says it
        line = line[line["x"] > 0]
    ax.plot(line["x"], line["mean"], markevery=max(1, len(line) // 10), **style)
    if len(line) == 1:
        ax.vlines(line["x"], line["low"], line["high"], color=ink, lw=1)
        return
    low = line["low"]
    if look.log_y:  # an interval that reaches 0 reaches the bottom of a logarithmic axis
        low = low.where(low.isna(), low.clip(lower=line.loc[line["mean"] > 0, "mean"].min() * 1e-6))
    ax.fill_between(line["x"], low, line["high"], color=ink, alpha=0.13, lw=0)


def _draw_beside(ax: Axes, line: pd.DataFrame, shift: float, style: dict[str, Any]) -> None:
    """Draw points with intervals beside one another: between names there is no line to follow."""
    bars = np.abs(line[["low", "high"]].sub(line["mean"], axis=0)).T
    ax.errorbar(line["x"] + shift, line["mean"], bars, **{**style, "linestyle": "none"}, lw=1.2)


def _x_axis(ax: Axes, x: pd.Series, log: bool, names: Sequence[str] | None) -> None:
    if names is not None:
        ax.set_xticks(range(len(names)), names)
        if len(names) > 4 or max(map(len, names)) > 8:
            ax.tick_params(axis="x", labelrotation=30)
        return
    values = sorted(set(x[x > 0] if log else x))
    if log:
        log_scale(ax, "x", x)
    if log and 1 < len(values) <= 8:
        # Powers of ten alone would leave an axis of three noise sizes with a single tick.
        ax.set_xticks(values, [f"{value:g}" for value in values])
        ax.minorticks_off()
    elif not log and all(value == int(value) for value in values):
        ax.locator_params(axis="x", integer=True)


def _y_axis(axes: Sequence[Axes], data: pd.DataFrame, log: bool) -> None:
    """Fit the axis to the means, so that no interval can flatten every line.

    At n = 2 an interval is 25 standard errors wide; one that leaves the panel is cut by its edge.
    """
    means = data["mean"]
    if log:
        means = np.log10(means[means > 0])
        if means.empty:
            return
    low, high = means.min(), means.max()
    span = high - low or max(abs(high), 1.0) * 0.1
    if log:
        limits = 10 ** (low - 0.3 * span), 10 ** (high + 0.3 * span)
    else:
        bottom = max(low - span, min(data["low"].min(), low)) if data["n"].max() > 1 else low
        top = min(high + span, max(data["high"].max(), high)) if data["n"].max() > 1 else high
        if low >= 0:  # no fraction, loss or count is below 0, whatever its t-interval says
            bottom = max(bottom, 0.0)
        limits = bottom - 0.06 * span, top + 0.06 * span
    for ax in axes:
        if log:
            log_scale(ax, "y", data["mean"])
        ax.set_ylim(*limits)


def log_scale(ax: Axes, which: str, values: pd.Series) -> None:
    """Make an axis (`x` or `y`) logarithmic if anything is above 0, with plain numbers as ticks."""
    from matplotlib.ticker import LogLocator, NullFormatter

    values = values[values > 0]
    if values.empty:
        return
    getattr(ax, f"set_{which}scale")("log", nonpositive="mask")
    axis: Any = getattr(ax, f"{which}axis")
    decades = np.log10(values.max() / values.min())
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2 else (1.0,)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def label_axes(axes: Sequence[Axes], x_label: str, y_label: str) -> None:
    """Label the x axis of each column's lowest panel and the y axis of the leftmost panels."""
    characters = 46 if len(axes[0].figure.axes) == 1 else 34  # what fits along a panel
    places = [(ax, ax.get_subplotspec()) for ax in axes]
    lowest = {place.colspan.start: ax for ax, place in places if place}
    for ax in lowest.values():
        ax.set_xlabel(textwrap.fill(x_label, characters))
        ax.tick_params(labelbottom=bool(x_label))
    for ax, place in places:
        if place and place.is_first_col():
            ax.set_ylabel(textwrap.fill(y_label, characters))


def legend_handle(**look: object) -> Line2D:
    """Make a sample of a look for `add_legend`; `label` names it."""
    from matplotlib.lines import Line2D

    return Line2D([], [], **look)  # type: ignore[arg-type]


def add_legend(
    figure: Figure, headings: tuple[str, str], first: Sequence[Line2D], second: Sequence[Line2D]
) -> None:
    """Put one legend beside the panels: the colours, then the second column where it varies."""
    handles: list[Line2D] = []
    for heading, group in zip(headings, (first, second if len(second) > 1 else ()), strict=True):
        if heading and group:
            handles += [legend_handle(linestyle="none", label=heading), *group]
    if not handles:
        return
    figure.set_figheight(max(figure.get_figheight(), 0.2 * len(handles) + 0.3))
    legend = figure.legend(handles=handles, loc="outside right upper", handlelength=2.2)
    for text, handle in zip(legend.get_texts(), handles, strict=True):
        if handle.get_linestyle() == "None" and handle.get_marker() == "None":
            text.set_fontweight("bold")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
