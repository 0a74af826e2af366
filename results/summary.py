"""The main results as tables: one per stage, a line per model, mean and interval per quantity."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sensweep.results.selector import canonical
from sensweep.results.series import natural
from sensweep.results.statistics import mean_estimate

if TYPE_CHECKING:
    import pandas as pd

MOST_COLUMNS = 8  # combinations of coordinates over which a quantity is spread
MOST_LINES = 200


@dataclass(frozen=True, slots=True)
class StageTable:
    """The results of one stage.

    Attributes:
        stage: its name.
        axes: the axes that tell its models apart.
        fixed: the axes that have one label throughout, with it.
        quantities: heading of each quantity: its name with its unit, and its coordinates or "".
        lines: one per model: its label on each axis ("" where it has none), its number of seeds,
            and a text per quantity, from `mean_and_interval`.
        models: how many models there are; `lines` holds the first `MOST_LINES`.
        left_out: quantities with more than `MOST_COLUMNS` combinations of coordinates, with them.
    """

    stage: str
    axes: list[str]
    fixed: dict[str, str]
    quantities: list[tuple[str, str]]
    lines: list[tuple[list[str], int, list[str]]]
    models: int
    left_out: list[str]


def stage_tables(
    rows: pd.DataFrame, points: Mapping[str, Mapping[str, Any]], stages: Sequence[str]
) -> list[StageTable]:
    """Summarise rows by stage, each model and seed at its last step.

    Args:
        rows: the columns of the `rows` view, of one sweep.
        points: the point (axis -> label) of each cell.
        stages: the stages in the order wanted; those without rows have no table.
    """
    return [
        _stage_table(stage, rows[rows["stage"] == stage], points)
        for stage in stages
        if (rows["stage"] == stage).any()
    ]


def _stage_table(
    stage: str, rows: pd.DataFrame, points: Mapping[str, Mapping[str, Any]]
) -> StageTable:
    last = rows.groupby(["cell", "seed", "name"])["step"].transform("max")
    rows = rows[rows["step"].isna() | (rows["step"] == last)]
    cells = {cell: points[cell] for cell in rows["cell"].unique()}
    labels = {
        axis: {cell: canonical(point.get(axis)) for cell, point in cells.items()}
        for axis in sorted({axis for point in cells.values() for axis in point})
    }
    axes = [axis for axis, of in labels.items() if len(set(of.values())) > 1]
    columns, left_out = quantities_of(rows)
    keys = ["cell", "name", "coordinates"]
    within = rows.assign(bad=~np.isfinite(rows["value"])).groupby([*keys, "seed"])
    per_seed = within["value"].mean().mask(within["bad"].any())
    values: dict[Any, Any] = {key: some.to_numpy() for key, some in per_seed.groupby(level=keys)}
    seeds = rows.groupby("cell")["seed"].nunique()
    order = sorted(cells, key=lambda cell: [natural(labels[axis][cell]) for axis in axes])
    return StageTable(
        stage=stage,
        axes=axes,
        fixed={axis: next(iter(of.values())) for axis, of in labels.items() if axis not in axes},
        quantities=[heading for _, heading in columns],
        lines=[
            (
                [labels[axis][cell] for axis in axes],
                int(seeds[cell]),
                [
                    mean_and_interval(values.get((cell, *key), np.array([])), int(seeds[cell]))
                    for key, _ in columns
                ],
            )
            for cell in order[:MOST_LINES]
        ],
        models=len(order),
        left_out=left_out,
    )


def quantities_of(
    rows: pd.DataFrame,
) -> tuple[list[tuple[tuple[str, str], tuple[str, str]]], list[str]]:
    """Find what rows measured, in the order in which their trials did.

    Returns:
        for each quantity its (name, coordinates as JSON) and its heading (title with the unit,
        those coordinates that vary); the names with more than `MOST_COLUMNS` coordinates.
    """
    columns, left_out = [], []
    for name in rows.groupby("name")["seq"].min().sort_values(kind="stable").index:
        some = rows[rows["name"] == name]
        places = {text: json.loads(text) for text in some["coordinates"].unique()}
        keys = sorted({key for place in places.values() for key in place})
        varied = [k for k in keys if len({canonical(p.get(k)) for p in places.values()}) > 1]
        if len(places) > MOST_COLUMNS:
            left_out.append(f"{name} ({len(places)} combinations of {', '.join(varied)})")
            continue
        unit = some["unit"].iloc[0]
        title = name.replace("_", " ") + (f" ({unit})" if unit not in ("", "1") else "")
        labels = {text: [canonical(place.get(k)) for k in varied] for text, place in places.items()}
        for text, values in sorted(labels.items(), key=lambda item: [*map(natural, item[1])]):
            at = ", ".join(f"{k} {v}" for k, v in zip(varied, values, strict=True) if v)
            columns.append(((name, text), (title, at)))
    return columns, left_out


def mean_and_interval(values: np.ndarray[Any, np.dtype[np.float64]], seeds: int) -> str:
    """Write the mean over seeds and half its 95% t-interval, rounded to what the latter allows.

    Args:
        values: [n] one value per seed.
        seeds: how many there should be; a smaller n is said.
    """
    n = len(values)
    if n == 0:
        return ""
    bad = int((~np.isfinite(values)).sum())
    short = f" (n = {n})" if n < seeds else ""
    if bad:
        return f"not finite in {bad} of {n}"
    mean = float(values.mean())
    half = float(mean_estimate(values).interval(0.95)[1]) - mean if n > 1 else 0.0
    if half <= 1e-12 * abs(mean):
        return (f"{mean:,.0f}" if mean == int(mean) else f"{mean:.4g}") + short
    decimals = max(0, 1 - math.floor(math.log10(half)))
    if decimals > 6:
        return f"{mean:.3g} ± {half:.2g}{short}"
    return f"{mean:,.{decimals}f} ± {half:,.{decimals}f}{short}"
