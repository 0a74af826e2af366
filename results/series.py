"""What a figure shows, as numbers: pure functions from rows to the series that are drawn.

Here are strength and scatter figures, and what all kinds share; the others have modules of their
own, `curves` and `histogram`.

Every mean is over seeds: a seed's values are averaged first (over whatever the figure does not
keep apart, which its note names), then the seeds' means get a 95% t-interval.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from sensweep.results.selector import NoRows, Selector, canonical, nearest
from sensweep.results.statistics import mean_estimate, spearman

if TYPE_CHECKING:
    import pandas as pd

    from sensweep.results.figures import ScatterFigure, StrengthFigure

# Columns of the `rows` view that identify a row; all others are axes and coordinates.
IDENTITY = {"sweep", "stage", "task", "cell", "seed", "trial_id", "seq", "name", "value", "step"}
IDENTITY |= {"unit", "point", "params", "coordinates"}
NO_LABEL = "–"


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines of a figure.

    Attributes:
        data: one line per plotted point: row (index into `y_labels`), panel, colour, second
            (labels of the line's colour and style; "" where the figure has none), x (position),
            n (seeds), mean, low, high (95% t-interval over seeds; NaN at n = 1), baseline
            (whether the point is the reference without the intervention).
        y_labels: the label of each row of panels.
        x_label: the label of the horizontal axis.
        ticks: for each panel whose x is not numeric, the names of positions 0, 1, ...
        note: one or two sentences on what was averaged and left out.
    """

    data: pd.DataFrame
    y_labels: list[str]
    x_label: str
    ticks: dict[str, list[str]]
    note: str


@dataclass(frozen=True, slots=True)
class Points:
    """The points of a scatter figure.

    Attributes:
        data: one line per point: panel, colour, second (labels of its colour and marker), x, y,
            n (seeds that it averages).
        seeds: the same before averaging over seeds, with a column seed in place of n.
        correlations: for each panel, the Spearman correlation of its points with its 95% interval
            and n, or why there is none.
        x_label, y_label: axis labels.
        note: one or two sentences on what a point is and what was left out.
    """

    data: pd.DataFrame
    seeds: pd.DataFrame
    correlations: dict[str, str]
    x_label: str
    y_label: str
    note: str


@dataclass(slots=True)
class Remarks:
    """What the reader must know about how the numbers came to be.

    Attributes:
        averaged: columns that a seed's value averages over.
        not_finite: how many values were left out.
    """

    averaged: list[str] = field(default_factory=list)
    not_finite: int = 0

    def sentence(self) -> str:
        """Write the remarks, "" where there are none."""
        said = []
        if self.averaged:
            over = ", ".join(dict.fromkeys(self.averaged))
            said.append(f"Each seed's value averages over {over}.")
        if self.not_finite:
            some = "value that is" if self.not_finite == 1 else "values that are"
            said.append(f"{self.not_finite} {some} not finite left out.")
        return " ".join(said)


def strength(spec: StrengthFigure, rows: pd.DataFrame) -> Lines:
    """Return the lines of a strength figure; the baseline is the point at x = 0 of every panel.

    Raises:
        NoRows: a quantity has no rows, or no intervention has a strength.
    """
    import pandas as pd

    remarks, parts, ticks = Remarks(), [], {}
    for row, quantity in enumerate(spec.quantities):
        found = quantity.select(rows)
        for column in ("intervention", "strength", spec.by):
            require(found, column, quantity)
        untouched = found[found["intervention"] == spec.baseline]
        treated = found[(found["intervention"] != spec.baseline) & found["strength"].notna()]
        for intervention in ordered(treated["intervention"]):
            these = treated[treated["intervention"] == intervention]
            positions, names = positions_of(these["strength"])
            if names:  # strengths that are labels: the baseline takes position 0
                positions = positions + 1
                ticks[intervention] = [spec.baseline, *names]
            for subset, x in ((untouched, 0.0), (these, positions)):
                labels = {"colour": texts_of(subset, spec.by), "second": "", "x": x}
                used = {"intervention", "strength", spec.by}
                means = over_seeds(subset, labels, used, remarks)
                at_zero = subset is untouched
                parts.append(means.assign(row=row, panel=intervention, baseline=at_zero))
    if not parts:
        wanted = ", ".join(str(quantity) for quantity in spec.quantities)
        raise NoRows(f"no rows of {wanted} at any strength of an intervention")
    data = in_order(pd.concat(parts, ignore_index=True), ["row", "panel", "colour"])
    return Lines(
        data=data,
        y_labels=[quantity_label(quantity, rows) for quantity in spec.quantities],
        x_label=spec.x_label or "strength",
        ticks=ticks,
        note=f"Dotted: {spec.baseline}, the reference. {seeds_note(data['n'], remarks)}",
    )


def scatter(spec: ScatterFigure, rows: pd.DataFrame) -> Points:
    """Return the points of a scatter figure.

    Two quantities are paired over the columns that both have (axes, in practice: a coordinate
    that one of them lacks is averaged over, unless the figure is split by it) and over seeds.

    Raises:
        NoRows: a quantity has no rows, or no model has both.
    """
    remarks = Remarks()
    x, y = spec.x.select(rows), spec.y.select(rows)
    shared = shared_columns(x, y)
    sides = []
    for found, name in ((x, "x"), (y, "y")):
        keys = list(shared)
        if spec.split and spec.split not in shared and has_values(found, spec.split):
            keys.append(spec.split)
        labels = {key: texts_of(found, key) for key in keys}
        means = seed_means(found, labels, set(keys), remarks)
        sides.append(means.rename(columns={"value": name}))
    on = [column for column in sides[0].columns if column in sides[1].columns]
    seeds = sides[0].merge(sides[1], on=on)
    if seeds.empty:
        raise NoRows(f"no model has both {spec.x} and {spec.y} for the same seed")
    if spec.split and own(spec.split) not in seeds.columns:
        raise NoRows(f"neither {spec.x} nor {spec.y} has a column {spec.split} to split by")
    seeds["panel"] = seeds[own(spec.split)] if spec.split else ""
    seeds["colour"] = seeds.get(own(spec.colour), "")
    seeds["second"] = seeds.get(own(spec.marker), "")
    model = ["panel", "colour", "second", *map(own, shared)]
    averaged = seeds.groupby(model, as_index=False, sort=False).agg(
        x=("x", "mean"), y=("y", "mean"), n=("seed", "nunique")
    )
    data = seeds.assign(n=1) if spec.point == "trial" else averaged
    data = in_order(data, model)
    return Points(
        data=data[["panel", "colour", "second", "x", "y", "n"]],
        seeds=in_order(seeds, [*model, "seed"])[["panel", "colour", "second", "x", "y", "seed"]],
        correlations={
            panel: _correlation(data[data["panel"] == panel]) for panel in ordered(data["panel"])
        },
        x_label=spec.x_label or quantity_label(spec.x, rows),
        y_label=spec.y_label or quantity_label(spec.y, rows),
        note=_points_note(spec, data["n"], remarks),
    )


def shared_columns(x: pd.DataFrame, y: pd.DataFrame) -> list[str]:
    """Return the axes that two sets of rows share: what says that a row of each is of one model.

    A column counts when the two have a value of it in common: `split: train` on one side and
    `split: test` on the other say nothing about the model.
    """
    shared = []
    for column in sorted((set(x.columns) & set(y.columns)) - IDENTITY):
        here, there = set(x[column].dropna().unique()), set(y[column].dropna().unique())
        if here & there:
            shared.append(column)
    return shared


def quantity_label(selector: Selector, rows: pd.DataFrame) -> str:
    """Write an axis label: the quantity, the coordinates it is taken at, and its unit.

    A `where` on a column that every row has (a dataset) belongs to the title and is left out.
    """
    label = selector.name.replace("_", " ")
    at = [
        f"{column} = {' or '.join(map(str, wanted)) if isinstance(wanted, list) else wanted}"
        for column, wanted in selector.where.items()
        if column in rows.columns and rows[column].isna().any()
    ]
    units = sorted(set(rows.loc[rows["name"] == selector.name, "unit"].dropna()) - {"", "1"})
    label += f" at {', '.join(at)}" if at else ""
    return f"{label} ({', '.join(units)})" if units else label


def has_values(rows: pd.DataFrame, column: str) -> bool:
    """Whether the rows have this column and any value in it."""
    return column in rows.columns and bool(rows[column].notna().any())


def ordered(values: Iterable[Any]) -> list[str]:
    """Distinct values as text, missing ones aside, in the `natural` order."""
    import pandas as pd

    return sorted({canonical(value) for value in values if not pd.isna(value)}, key=natural)


def natural(text: str) -> tuple[bool, float, str]:
    """Sort key of a label: none at all, numbers by size, a baseline `none`, words by alphabet."""
    if text in ("", NO_LABEL):
        return (False, -math.inf, text)
    try:
        return (False, float(text), text)
    except ValueError:
        return (True, 0.0, "" if text == "none" else text)


def in_order(data: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Sort by text columns in their natural order, then by x: the same rows, the same figure."""
    columns = [*columns, "x"]
    ranks = data[columns].map(lambda value: natural(canonical(value)))
    return data.loc[ranks.sort_values(columns, kind="stable").index].reset_index(drop=True)


def require(found: pd.DataFrame, column: str, quantity: Selector) -> None:
    """Raise NoRows, with the nearest name, unless the rows have values in a column."""
    if has_values(found, column):
        return
    if column in found.columns:
        raise NoRows(f"no rows of {quantity} have a {column}")
    raise NoRows(f"rows of {quantity} have no column {column}{nearest(column, found.columns)}")


def texts_of(found: pd.DataFrame, column: str | None) -> Any:
    """A column as labels; "" without a column, and `NO_LABEL` where a row has no value."""
    if column is None or column not in found.columns:
        return ""
    names = {value: canonical(value) for value in found[column].dropna().unique()}
    return found[column].map(names).fillna(NO_LABEL)


def positions_of(column: pd.Series) -> tuple[pd.Series, list[str]]:
    """Positions along an axis: the numbers themselves, else ranks and the names of the ranks."""
    import pandas as pd

    numbers = pd.to_numeric(column, errors="coerce")
    if numbers.notna().all():
        return numbers.astype(float), []
    names = ordered(column)
    ranks = {name: float(rank) for rank, name in enumerate(names)}
    return column.map(canonical).map(ranks), names


def own(name: str) -> str:
    """Name a column of labels as no axis or coordinate is ever called (`x` may be an axis)."""
    return f"={name}"


def seed_means(
    found: pd.DataFrame, labels: Mapping[str, Any], used: Collection[str | None], remarks: Remarks
) -> pd.DataFrame:
    """One value per label and seed; `used` are the columns that the figure keeps apart."""
    others = [c for c in found.columns if c not in IDENTITY - {"stage", "step"} and c not in used]
    keys = [*map(own, labels)]
    found = found.assign(**{own(name): label for name, label in labels.items()})
    finite = np.isfinite(found["value"])
    remarks.not_finite += int((~finite).sum())
    found = found[finite]
    groups = found.groupby([*keys, "seed"], sort=False)
    if len(found) > groups.ngroups:
        varied = groups[others].nunique().max() > 1
        remarks.averaged += [column for column in others if varied[column]]
    return groups["value"].mean().reset_index()


def over_seeds(
    found: pd.DataFrame, labels: Mapping[str, Any], used: Collection[str | None], remarks: Remarks
) -> pd.DataFrame:
    """Mean over seeds with its interval: the labels, n, mean, low, high."""
    import pandas as pd

    means = seed_means(found, labels, used, remarks)
    points = []
    for key, values in means.groupby([*map(own, labels)], sort=False)["value"]:
        low, high = np.nan, np.nan
        if len(values) > 1:
            low, high = mean_estimate(values.to_numpy()).interval(0.95)
        points.append((*key, len(values), values.mean(), low, high))
    return pd.DataFrame(points, columns=[*labels, "n", "mean", "low", "high"])


def _correlation(points: pd.DataFrame) -> str:
    """Spearman's correlation of the points with its 95% interval, or why there is none."""
    n = len(points)
    if n < 4:
        return f"n = {n}: too few to correlate"
    if points["x"].nunique() == 1 or points["y"].nunique() == 1:
        return f"no correlation: one value in all, n = {n}"
    estimate = spearman(points["x"].to_numpy(), points["y"].to_numpy())
    low, high = estimate.interval(0.95)
    return f"ρ = {estimate.value:.2f} [{low:.2f}, {high:.2f}], n = {n}".replace("-", "−")


def seeds_note(n: pd.Series, remarks: Remarks) -> str:
    """Say how many seeds a mean is over, and what its band is."""
    if n.empty:
        return remarks.sentence()
    low, high = int(n.min()), int(n.max())
    if high == 1:
        said = "One seed: no interval."
    else:
        count = f"{low}" if low == high else f"{low} to {high}"
        said = f"Mean over {count} seeds; band: 95% t-interval."
    return f"{said} {remarks.sentence()}".strip()


def _points_note(spec: ScatterFigure, n: pd.Series, remarks: Remarks) -> str:
    if spec.point == "trial":
        said = (
            "One point per model and seed; seeds of one model are not independent, "
            "so the interval is too narrow for a statement about models."
        )
    else:
        low, high = int(n.min()), int(n.max())
        count = f"{low}" if low == high else f"{low} to {high}"
        said = f"One point per model, the mean over {count} seed{'s' * (high > 1)}"
        said += " (small points)." if high > 1 else "."
    said += " ρ: Spearman's correlation of the points, with its 95% interval."
    return f"{said} {remarks.sentence()}".strip()
