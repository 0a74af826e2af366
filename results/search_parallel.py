"""Parallel coordinates of a search: a line for each point, through its labels and objectives."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sensweep.results.drawing import PALETTE
from sensweep.results.searched import Searched, label_text
from sensweep.results.selector import Scalar, canonical
from sensweep.results.series import ordered

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ABSENT = -0.14  # where a line passes an axis that its point lacks; an axis is 0 .. 1
MOST_NAMES = 8  # labels that are written along an axis


@dataclass(frozen=True, slots=True)
class Column:
    """A searched axis, as it is drawn; of one with several blocks, one of these.

    Attributes:
        name: the axis.
        when: axis -> admissible labels, where it has several blocks: the condition of this one.
        log: whether its scale is logarithmic.
        names: its labels in their order if they are not numbers.
    """

    name: str
    when: Mapping[str, Sequence[Scalar]]
    log: bool = False
    names: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The axis, with the condition of the block if there are more."""
        when = {axis: " or ".join(map(str, labels)) for axis, labels in self.when.items()}
        return f"{self.name} ({label_text(when)})".replace("_", " ") if when else self.name

    def applies(self, point: Mapping[str, Scalar]) -> bool:
        """Whether a point (with its cell) has a label of it."""
        met = all(axis in point and point[axis] in some for axis, some in self.when.items())
        return met and self.name in point

    def position(self, point: Mapping[str, Scalar]) -> float:
        """Return where a point (with its cell) is along the axis: its number, or its label's rank.

        NaN where the axis does not apply.
        """
        if not self.applies(point):
            return math.nan
        label = point[self.name]
        return float(self.names.index(canonical(label))) if self.names else float(label)


def columns_of(searched: Searched, axis: str, plain: Any) -> list[Column]:
    """Describe an axis of the study by the labels that were tried, a column for each block.

    Labels of two blocks (a strength for each intervention) are not comparable.
    """
    several = isinstance(plain, list) and any(isinstance(block, dict) for block in plain)
    blocks = plain if several else [plain]
    points = [searched.cell | point.labels for point in searched.tried]
    found = []
    for block in blocks:
        column = Column(axis, block["when"] if several else {})
        labels: list[Any] = [point[axis] for point in points if column.applies(point)]
        if not labels:
            continue
        values = block.get("values", block) if isinstance(block, dict) else block
        if all(isinstance(x, int | float) and not isinstance(x, bool) for x in labels):
            log = isinstance(values, dict) and "log_uniform" in values
            found.append(replace(column, log=log))
        else:
            found.append(replace(column, names=tuple(ordered(map(canonical, labels)))))
    return found


def draw_parallel(searched: Searched, columns: Sequence[Column], title: str) -> Figure:
    """Draw every point that has values; those that are not feasible in grey, behind the others."""
    import matplotlib as mpl
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import LineCollection
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    shown = [p for p in searched.tried if p.values and p.outcome != "running"]
    count = len(columns) + len(searched.directions)
    figure = Figure(figsize=(1.35 * count + 1.6, 3.4), layout="constrained")
    ax = figure.subplots()
    places = np.empty((len(shown), count))
    for i, column in enumerate(columns):
        raw = np.array([column.position(searched.cell | point.labels) for point in shown])
        places[:, i] = _scaled(ax, i, raw, column.names, column.log)
    for j, _ in enumerate(searched.directions):
        raw = np.array([point.values[j] for point in shown])
        places[:, len(columns) + j] = _scaled(ax, len(columns) + j, raw, (), False)
    first = [point.values[0] for point in searched.feasible]
    # Of many colours the eye finds the dark ones: dark is better.
    name = "viridis" if searched.directions[0] == "minimize" else "viridis_r"
    colours = ScalarMappable(Normalize(min(first), max(first)), mpl.colormaps[name])
    feasible = np.array([point.outcome == "feasible" for point in shown])
    lines: Any = np.stack([np.broadcast_to(np.arange(count), places.shape), places], axis=-1)
    inks = colours.to_rgba(np.array([point.values[0] for point in shown]))[feasible]
    ax.add_collection(LineCollection(lines[~feasible], colors="#c4c4c4", lw=0.6, zorder=1))
    ax.add_collection(LineCollection(lines[feasible], colors=inks, lw=0.9, zorder=2))
    best = [point is searched.best for point in shown]
    ax.add_collection(LineCollection(lines[best], colors=PALETTE[1], lw=2.4, zorder=3))
    titles = [*(column.title for column in columns), *searched.objectives]
    ax.set_xticks(
        range(count), [text.replace("_", " ") for text in titles], rotation=20, ha="right"
    )
    ax.set_xlim(-0.2, count - 0.55)
    ax.set_ylim(ABSENT - 0.06 if (places == ABSENT).any() else -0.05, 1.05)
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    ax.grid(visible=False)
    figure.colorbar(colours, ax=ax, label=searched.objectives[0].replace("_", " "), pad=0.02)
    figure.suptitle(title, x=0.01, ha="left", weight="bold")
    return figure


def _scaled(ax: Axes, at: int, raw: np.ndarray, names: Sequence[str], log: bool) -> np.ndarray:
    """Draw an axis with its ticks, and return the points' heights along it."""
    known = raw[np.isfinite(raw)]
    heights = np.log(raw) if log else raw
    bounds = np.log(known) if log else known
    low, high = (bounds.min(), bounds.max()) if len(bounds) else (0.0, 1.0)
    if names:
        low, high = 0.0, float(len(names) - 1)
    spread = high - low
    scaled = (heights - low) / spread if spread > 0 else heights * 0 + 0.5
    ax.axvline(at, color="#9a9a9a", lw=0.8, zorder=0)
    if names:
        ticks = [(rank / max(len(names) - 1, 1), name) for rank, name in enumerate(names)]
        ticks = [(0.5, names[0])] if len(names) == 1 else ticks
        ticks = ticks if len(ticks) <= MOST_NAMES else [ticks[0], ticks[-1]]
    elif len(known):
        ticks = [(0.0, f"{known.min():.3g}"), (1.0, f"{known.max():.3g}")]
        ticks = ticks if spread > 0 else [(0.5, ticks[0][1])]
    else:
        ticks = []
    for height, text in ticks:
        box = {"facecolor": "white", "alpha": 0.75, "lw": 0, "pad": 0.6}
        ax.text(at + 0.04, height, text, fontsize=7.5, va="center", zorder=4, bbox=box)
    return np.where(np.isfinite(scaled), scaled, ABSENT)
