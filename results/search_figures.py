"""What a search did, as figures: fronts, history, importance, slices, parallel coordinates."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sensweep.results.drawing import (
    PALETTE,
    add_legend,
    grid,
    label_axes,
    legend_handle,
    log_scale,
)
from sensweep.results.search_confirmed import BEST, Confirmation
from sensweep.results.search_parallel import Column, columns_of, draw_parallel
from sensweep.results.searched import Searched, Tried
from sensweep.results.statistics import mean_estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FENCED = 20  # points of which some may lie outside a panel
PER_FIGURE = 12  # searches that share a figure, a panel each
MOST_DETAILED = 24  # searches that get figures of their own

# How a point looks, by what became of it.
LOOKS: dict[str, dict[str, Any]] = {
    "feasible": {"marker": "o", "color": PALETTE[5], "markersize": 4.5},
    "infeasible": {"marker": "x", "color": "#8a8a8a", "markersize": 4.5},
    "stopped early": {"marker": "v", "color": "#8a8a8a", "markersize": 4, "fillstyle": "none"},
    "on the front": {"marker": "o", "color": PALETTE[0], "markersize": 5.5},
    "best": {"marker": "*", "color": PALETTE[1], "markersize": 11, "markeredgecolor": "white"},
}
CONFIRMED_LOOKS: dict[bool, dict[str, Any]] = {
    True: {"marker": "D", "color": PALETTE[1], "markersize": 5, "fillstyle": "none"},
    False: {"marker": "s", "color": "#000000", "markersize": 4.5, "fillstyle": "none"},
}


@dataclass(frozen=True, slots=True)
class SearchFigure:
    """A figure of the report.

    Attributes:
        name: of its PNG file.
        title: its heading.
        note: a sentence or two on how to read it, without which it would mislead.
        make: draws it, within `drawing.STYLE`; raises ValueError if it cannot be read.
    """

    name: str
    title: str
    note: str
    make: Callable[[], Figure]


def search_figures(
    found: Sequence[Searched],
    confirmed: Mapping[str, Confirmation],
    importance: Sequence[Mapping[str, Any]],
    axes: Mapping[str, Any],
) -> Iterator[SearchFigure]:
    """List the figures of a sweep's searches.

    Args:
        found: the searches that have points.
        confirmed: search -> its confirmation, of those that have been run.
        importance: lines of `sensweep.orchestrator.search_importance`; none without that.
        axes: the study's, as the home has them; those that are searched become slices.
    """
    told = [searched for searched in found if searched.feasible]
    objectives = len(found[0].directions)
    parts = [told[i : i + PER_FIGURE] for i in range(0, len(told), PER_FIGURE)]
    for number, part in enumerate(parts, start=1):
        suffix = f"-{number}" if len(parts) > 1 else ""
        if objectives == 2:
            title = "Pareto front of each search"
            make = partial(_draw_fronts, part, [(0, 1)], confirmed, title)
            yield SearchFigure(f"search-front{suffix}", title, _front_note(part, confirmed), make)
        title = "Best value so far" if objectives == 1 else "Hypervolume so far"
        make = partial(_draw_histories, part, title)
        yield SearchFigure(f"search-history{suffix}", title, _history_note(objectives), make)
        rated = [s for s in part if any(line["search"] == s.name for line in importance)]
        if rated:
            title = "Importance of the searched axes"
            make = partial(_draw_importance, rated, importance, title)
            yield SearchFigure(f"search-importance{suffix}", title, IMPORTANCE_NOTE, make)
    for number, searched in enumerate(told[:MOST_DETAILED], start=1):
        suffix = f"-{number}" if len(told) > 1 else ""
        yield from _of_one(searched, confirmed, axes, suffix)


IMPORTANCE_NOTE = (
    "Share of an axis in what tells the best tenth of the completed points from all of them "
    "(PED-ANOVA, Watanabe et al., IJCAI 2023; for axes that do not apply at every point its "
    "conditional form). It is unsteady below about 50 points, and says what mattered within the "
    "ranges that were searched. Searches of too few points, and objectives that hardly vary, have "
    "none."
)


def _of_one(
    searched: Searched,
    confirmed: Mapping[str, Confirmation],
    axes: Mapping[str, Any],
    suffix: str,
) -> Iterator[SearchFigure]:
    """List the figures that a search has for itself."""
    of = f", {searched.title}" if searched.title else ""
    objectives = len(searched.directions)
    if objectives > 2:
        pairs = list(combinations(range(objectives), 2))
        title = f"Pareto front, pair by pair{of}"
        make = partial(_draw_fronts, [searched], pairs, confirmed, title)
        note = _front_note([searched], confirmed)
        yield SearchFigure(f"search-front{suffix}", title, note, make)
    names = [axis for axis in axes if any(axis in point.labels for point in searched.tried)]
    columns = [column for axis in names for column in columns_of(searched, axis, axes[axis])]
    title = f"Objectives against each searched axis{of}"
    note = (
        "A point is shown in the panels of the axes that apply to it. The other axes differ from "
        "point to point."
    )
    make = partial(_draw_slices, searched, columns, title)
    yield SearchFigure(f"search-slices{suffix}", title, f"{note} {_hidden(searched)}", make)
    title = f"Parallel coordinates{of}"
    note = (
        "A line is a point; its colour is the first objective. A line that passes below an axis "
        "lacks it. Thick: the best point."
    )
    make = partial(draw_parallel, searched, columns, title)
    yield SearchFigure(f"search-parallel{suffix}", title, f"{note} {_hidden(searched)}", make)


def _front_note(part: Sequence[Searched], confirmed: Mapping[str, Confirmation]) -> str:
    note = "The star is the knee: the point of the front nearest to the best of each objective."
    if any(searched.name in confirmed for searched in part):
        note += " Diamond and squares: means over fresh seeds with 95% t-intervals."
    return f"{note} {_hidden(*part)}"


def _history_note(objectives: int) -> str:
    if objectives == 1:
        return "Line: the best feasible value. Points that failed count, and have no mark."
    return (
        "Volume that the feasible points dominate, up to a reference point a tenth of their range "
        "beyond the worst of them, the same along a line. Points that failed count."
    )


def _hidden(*part: Searched) -> str:
    """Say which points have no mark."""
    failed = sum(searched.counts["failed"] for searched in part)
    return f"Not shown: {failed} that failed." if failed else ""


def _draw_fronts(
    part: Sequence[Searched],
    pairs: Sequence[tuple[int, int]],
    confirmed: Mapping[str, Confirmation],
    title: str,
) -> Figure:
    """Draw a panel for each search, or for each pair of the objectives of one search."""
    panels = [(searched, pair) for searched in part for pair in pairs]
    figure, axes = grid(len(panels), 1, title, share_x=False, share_y=False)
    for ax, (searched, (i, j)) in zip(axes, panels, strict=True):
        shown = _marks(searched, ax, partial(_pair, i, j))
        if len(searched.directions) == 2:
            _draw_steps(ax, searched)
        checked = confirmed.get(searched.name)
        extra = _draw_confirmed(ax, checked, i, j) if checked is not None else []
        _fit(ax, "x", [p.values[i] for p in shown], [x for x, _ in extra] + _leading(searched, i))
        _fit(ax, "y", [p.values[j] for p in shown], [y for _, y in extra] + _leading(searched, j))
        _count_outside(ax, [(p.values[i], p.values[j]) for p in shown])
        ax.set_xlabel(_aim(searched, i))
        ax.set_ylabel(_aim(searched, j))
        ax.set_title(searched.title, loc="left")
    add_legend(figure, ("point", "fresh seeds"), _legend(part), _confirmed_legend(part, confirmed))
    return figure


def _pair(i: int, j: int, point: Tried) -> tuple[float, float]:
    return point.values[i], point.values[j]


def _draw_steps(ax: Axes, searched: Searched) -> None:
    """Draw the border of what the front dominates."""
    first = searched.directions[0]
    xs, ys = zip(*(point.values for point in searched.front), strict=True)
    where: Literal["post", "pre"] = "post" if first == "minimize" else "pre"
    ax.step(xs, ys, where=where, color=PALETTE[0], lw=1.0, zorder=2)


def _draw_confirmed(ax: Axes, checked: Confirmation, i: int, j: int) -> list[tuple[float, float]]:
    """Draw means over fresh seeds with their intervals; return the means."""
    means = []
    for name in checked.points:
        sides = [list(checked.quantities[k].fresh.get(name, {}).values()) for k in (i, j)]
        if not all(sides) or not np.isfinite([*sides[0], *sides[1]]).all():
            continue
        x, y = (float(np.mean(side)) for side in sides)
        wide, high = map(_half, sides)
        ax.errorbar(x, y, high, wide, lw=0.8, zorder=5, **CONFIRMED_LOOKS[name == BEST])
        if name != BEST:
            ax.annotate(name, (x, y), (4, 4), textcoords="offset points", fontsize=7.5)
        means.append((x, y))
    return means


def _half(values: Sequence[float]) -> float:
    """Half the 95% t-interval of the mean; 0 for one value."""
    if len(values) < 2:
        return 0.0
    return float(mean_estimate(values).interval(0.95)[1]) - float(np.mean(values))


def _draw_histories(part: Sequence[Searched], title: str) -> Figure:
    figure, axes = grid(len(part), 1, title, share_x=False, share_y=False)
    single = len(part[0].directions) == 1
    for ax, searched in zip(axes, part, strict=True):
        told = sorted((p for p in searched.tried if p.outcome != "running"), key=lambda p: p.event)
        places = {point.number: place for place, point in enumerate(told, start=1)}
        if single:
            shown = _marks(searched, ax, partial(_place_and_value, places))
            _fit(ax, "y", [p.values[0] for p in shown], _leading(searched, 0))
            _count_outside(ax, [_place_and_value(places, p) for p in shown])
        counts, values = zip(*searched.history(), strict=True)
        ax.step(counts, values, where="post", color=PALETTE[0])
        ax.set_xlim(0.5, len(told) + 0.5)
        ax.locator_params(axis="x", integer=True)
        ax.set_title(searched.title, loc="left")
    y_label = _aim(part[0], 0) if single else "hypervolume (product of the objectives' units)"
    label_axes(axes, "points told", y_label)
    if single:
        add_legend(figure, ("point", ""), _legend(part), [])
    return figure


def _place_and_value(places: Mapping[int, int], point: Tried) -> tuple[float, float]:
    return places[point.number], point.values[0]


def _draw_importance(
    part: Sequence[Searched], importance: Sequence[Mapping[str, Any]], title: str
) -> Figure:
    """Draw bars: a group for each axis, a bar in it for each objective."""
    names = {searched.name for searched in part}
    shown = [line for line in importance if line["search"] in names]
    bars = list(dict.fromkeys((line["axis"], line["where"]) for line in shown))
    objectives = list(dict.fromkeys(line["objective"] for line in shown))
    figure, axes = grid(len(part), 1, title, share_x=True)
    thick = 0.8 / len(objectives)
    for ax, searched in zip(axes, part, strict=True):
        known = {
            (line["axis"], line["where"], line["objective"]): line["importance"]
            for line in shown
            if line["search"] == searched.name
        }
        for rank, objective in enumerate(objectives):
            widths = [known.get((*bar, objective), 0.0) for bar in bars]
            at = np.arange(len(bars)) + (rank - (len(objectives) - 1) / 2) * thick
            ax.barh(at, widths, 0.9 * thick, color=PALETTE[rank % len(PALETTE)])
        ax.set_yticks(range(len(bars)), [f"{axis}\n({at})" if at else axis for axis, at in bars])
        ax.set_ylim(len(bars) - 0.5, -0.5)
        ax.set_xlim(0, 1)
        ax.set_title(searched.title, loc="left")
    label_axes(axes, "share of importance", "")
    colours = [
        legend_handle(color=PALETTE[i % len(PALETTE)], marker="s", linestyle="none", label=name)
        for i, name in enumerate(objectives)
    ]
    add_legend(figure, ("objective", ""), colours, [])
    return figure


def _draw_slices(searched: Searched, columns: Sequence[Column], title: str) -> Figure:
    """Draw a row of panels for each objective, a column for each axis."""
    rows = len(searched.directions)
    figure, axes = grid(len(columns), rows, title, share_x=False)
    for i in range(rows):
        across = axes[i * len(columns) : (i + 1) * len(columns)]
        values = [point.values[i] for point in searched.tried if _is_shown(point)]
        _fit(across[0], "y", values, _leading(searched, i))
        for ax, column in zip(across, columns, strict=True):
            _draw_slice(ax, searched, column, i)
            if i == rows - 1:
                ax.set_xlabel(textwrap.fill(column.title, 28))
            if (place := ax.get_subplotspec()) is not None and place.is_first_col():
                ax.set_ylabel(textwrap.fill(_aim(searched, i), 28))
    add_legend(figure, ("point", ""), _legend([searched]), [])
    return figure


def _draw_slice(ax: Axes, searched: Searched, column: Column, i: int) -> None:
    """Draw an objective against an axis, at the points that have it."""
    import pandas as pd

    def place(point: Tried) -> tuple[float, float]:
        return column.position(searched.cell | point.labels), point.values[i]

    shown = _marks(searched, ax, place, lambda p: column.applies(searched.cell | p.labels))
    places = [place(point) for point in shown]
    if column.log:
        log_scale(ax, "x", pd.Series([x for x, _ in places], dtype=float))
    elif column.names:
        ax.set_xticks(range(len(column.names)), column.names, rotation=30, ha="right")
        ax.set_xlim(-0.5, len(column.names) - 0.5)
    _count_outside(ax, places)


def _marks(
    searched: Searched,
    ax: Axes,
    place: Callable[[Tried], tuple[float, float]],
    applies: Callable[[Tried], bool] = lambda _: True,
) -> list[Tried]:
    """Mark the points that have values, each as what became of it; return them."""
    front = {p.number for p in searched.front} if len(searched.directions) > 1 else set()
    best = searched.best
    shown = [point for point in searched.tried if _is_shown(point) and applies(point)]
    for order, kind in enumerate(LOOKS):
        some = [point for point in shown if _kind(point, front, best) == kind]
        if some:
            xs, ys = zip(*map(place, some), strict=True)
            ax.plot(xs, ys, linestyle="none", zorder=3 + 0.1 * order, **LOOKS[kind])
    return shown


def _is_shown(point: Tried) -> bool:
    return bool(point.values) and point.outcome in ("feasible", "infeasible", "stopped early")


def _kind(point: Tried, front: set[int], best: Tried | None) -> str:
    if best is not None and point.number == best.number:
        return "best"
    return "on the front" if point.number in front else point.outcome


def _legend(part: Sequence[Searched]) -> list[Any]:
    """Return a sample of every kind of point that is marked."""
    kinds = set()
    for searched in part:
        front = {p.number for p in searched.front} if len(searched.directions) > 1 else set()
        kinds |= {_kind(p, front, searched.best) for p in searched.tried if _is_shown(p)}
    names = {"best": "best (knee)" if len(part[0].directions) > 1 else "best"}
    return [
        legend_handle(linestyle="none", label=names.get(kind, kind), **look)
        for kind, look in LOOKS.items()
        if kind in kinds
    ]


def _confirmed_legend(part: Sequence[Searched], confirmed: Mapping[str, Confirmation]) -> list[Any]:
    if not any(searched.name in confirmed for searched in part):
        return []
    said = {True: "best, confirmed", False: "compared with"}
    return [
        legend_handle(linestyle="none", label=said[best], **look)
        for best, look in CONFIRMED_LOOKS.items()
    ]


def _aim(searched: Searched, i: int) -> str:
    """Label an objective's axis, with the way in which it is better."""
    better = "lower" if searched.directions[i] == "minimize" else "higher"
    return f"{searched.objectives[i].replace('_', ' ')} ({better} is better)"


def _fit(ax: Axes, which: str, values: Sequence[float], kept: Sequence[float]) -> None:
    """Fit an axis to `kept` and to its points, save a few far beyond the middle half of them.

    One point that all but diverged would flatten all others. Tukey's fence of 3 interquartile
    ranges is where a value counts as far out; of few points none does.
    """
    near = [*values, *kept]
    if len(values) >= FENCED:
        low, high = np.quantile(np.unique(values), [0.25, 0.75])
        reach = 3 * (high - low)
        near = [v for v in values if low - reach <= v <= high + reach] + [*kept]
    if near:
        margin = 0.08 * (max(near) - min(near)) or 0.1 * max(abs(near[0]), 1.0)
        getattr(ax, f"set_{which}lim")(min(near) - margin, max(near) + margin)


def _leading(searched: Searched, i: int) -> list[float]:
    """List an objective's values at the front, which every panel shows."""
    return [point.values[i] for point in searched.front]


def _count_outside(ax: Axes, places: Sequence[tuple[float, float]]) -> None:
    """Say in a panel how many of its points lie beyond its edges."""
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    outside = sum(not (left <= x <= right and bottom <= y <= top) for x, y in places)
    if outside:
        said = f"{outside} outside"
        ax.text(0.98, 0.02, said, transform=ax.transAxes, ha="right", fontsize=7.5, color="#5b636d")
