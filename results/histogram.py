"""Histograms as numbers: how many values of a quantity lie in each bin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sensweep.results.selector import NoRows
from sensweep.results.series import IDENTITY, in_order, quantity_label, require, texts_of

if TYPE_CHECKING:
    import pandas as pd

    from sensweep.results.figures import HistogramFigure


@dataclass(frozen=True, slots=True)
class Bars:
    """The bars of a histogram.

    Attributes:
        data: one line per panel, colour and bin: panel, colour (labels), x (the bin's rank),
            low, high (its edges: low <= value < high, the last bin with its upper edge), count
            (values in it), fraction (of the values of the colour in the panel), height (the one
            of both that is drawn).
        x_label, y_label: axis labels.
        note: one or two sentences on what a value is and what was left out.
    """

    data: pd.DataFrame
    x_label: str
    y_label: str
    note: str


def histogram(spec: HistogramFigure, rows: pd.DataFrame) -> Bars:
    """Return the bars of a histogram figure.

    Raises:
        NoRows: the quantity has no rows or lacks a column, or none of its values has a place on
            the axis.
    """
    import pandas as pd

    found = spec.x.select(rows)
    for column in (spec.colour, *([spec.split] if spec.split else [])):
        require(found, column, spec.x)
    finite = np.isfinite(found["value"])
    placed = finite & (found["value"] > 0) if spec.log_x else finite
    missing = _missing(int((~finite).sum()), int((finite & ~placed).sum()))
    found = found[placed]
    if found.empty:
        raise NoRows(f"no values of {spec.x} to show. {missing}")
    edges, places = _bins(found["value"].to_numpy(dtype=float), spec.bins, spec.log_x)
    found = found.assign(
        **{"=panel": texts_of(found, spec.split), "=colour": texts_of(found, spec.colour)},
        **{"=bin": places},
    )
    parts, sizes = [], []
    for (panel, colour), group in found.groupby(["=panel", "=colour"], sort=False):
        counts = np.bincount(group["=bin"], minlength=spec.bins)
        bins = {"x": range(spec.bins), "low": edges[:-1], "high": edges[1:]}
        part = pd.DataFrame({"panel": panel, "colour": colour, **bins, "count": counts})
        parts.append(part.assign(fraction=counts / len(group)))
        sizes.append(len(group))
    data = pd.concat(parts, ignore_index=True)
    data = in_order(data.assign(height=data[spec.height]), ["panel", "colour"])
    which = "fraction of the" if spec.height == "fraction" else "number of"
    return Bars(
        data=data,
        x_label=spec.x_label or quantity_label(spec.x, rows),
        y_label=spec.y_label or f"{which} values of each {spec.colour.replace('_', ' ')}",
        note=f"{_what(found, spec, sizes)} {missing}".strip(),
    )


def _bins(values: NDArray[np.float64], bins: int, log: bool) -> tuple[NDArray[np.float64], Any]:
    """Edges of the bins, [bins + 1], and the rank of each value's bin."""
    scaled = np.log10(values) if log else values
    low, high = scaled.min(), scaled.max()
    if np.isclose(low, high, rtol=1e-9, atol=1e-12 if log else 0):  # one value: a bin around it
        half = 0.5 if log else 0.5 * abs(low) or 0.5
        low, high = low - half, high + half
    edges = np.linspace(low, high, bins + 1)
    places = np.searchsorted(edges, scaled, side="right") - 1
    return 10**edges if log else edges, places.clip(0, bins - 1)


def _what(found: pd.DataFrame, spec: HistogramFigure, sizes: list[int]) -> str:
    """Say how many values there are, and what tells them apart."""
    shown = {spec.colour, spec.split}
    others = [c for c in found.columns if c not in IDENTITY - {"step"} and c not in shown]
    others = [column for column in others if not column.startswith("=")]
    groups = found.groupby(["stage", "cell", "seed", "=panel", "=colour"], sort=False)
    varied = groups[others].nunique(dropna=False).max()
    apart = ["model", "seed", *(column for column in others if varied[column] > 1)]
    one = f"one for each {', '.join(apart[:-1])} and {apart[-1]}"
    low, high = min(sizes), max(sizes)
    count = f"{low}" if low == high else f"{low} to {high}"
    where = f"in each panel of each {spec.colour}" if spec.split else f"of each {spec.colour}"
    return f"{count} value{'s' * (high > 1)} {where}, {one}."


def _missing(not_finite: int, not_above: int) -> str:
    """Say what could not be shown."""
    parts = []
    for count, what in ((not_finite, "not finite"), (not_above, "not above 0")):
        if count:
            parts.append(f"{count} value{'s that are' if count > 1 else ' that is'} {what}")
    return f"{' and '.join(parts)} left out." if parts else ""
