"""Curves as numbers: a quantity along a column, or along the steps of a training.

Curves over steps may be aligned at an event of the training, as Hahn and Rofin align theirs at the
first loss below 0.01 ("Why are Sensitive Functions Hard for Transformers?", ACL 2024, figures 3 and
12 to 14).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sensweep.results.selector import NoRows, Selector
from sensweep.results.series import (
    IDENTITY,
    Lines,
    Remarks,
    in_order,
    over_seeds,
    own,
    positions_of,
    quantity_label,
    require,
    seeds_note,
    shared_columns,
    texts_of,
)

if TYPE_CHECKING:
    import pandas as pd

    from sensweep.results.figures import Align, CurveFigure, TrainingFigure

CURVE = ["stage", "cell", "seed"]  # what tells one curve from another


@dataclass(frozen=True, slots=True)
class Aligned:
    """Curves whose zero is an event.

    Attributes:
        rows: of the curves that meet the bound; `step` counts from the event, and may be negative.
        curves: how many there were.
        never: how many of them never meet the bound.
        unknown: how many of them have no such quantity.
    """

    rows: pd.DataFrame
    curves: int
    never: int
    unknown: int

    def left_out(self) -> str:
        """Say how many curves are missing and why; "" if none is."""
        reasons = ((self.never, "that never meet it"), (self.unknown, "without it"))
        parts = [f"{count} {why}" for count, why in reasons if count]
        return f"left out, of {self.curves} curves: {', '.join(parts)}" if parts else ""


def curve(spec: CurveFigure, rows: pd.DataFrame) -> Lines:
    """Return the lines of a curve figure.

    Raises:
        NoRows: the quantity has no rows, or lacks the column of an axis, line or panel; or no
            curve can be aligned.
    """
    y = _every_step(spec.y) if spec.align else spec.y
    return _lines(spec, y.select(rows), spec.x, rows)


def training(spec: TrainingFigure, rows: pd.DataFrame) -> Lines:
    """Return the lines of a training figure: the quantity at each step.

    Raises:
        NoRows: the quantity has no rows with a step, or lacks a column; or no curve can be aligned.
    """
    return _lines(spec, _every_step(spec.y).select(rows), "step", rows)


def _every_step(selector: Selector) -> Selector:
    return selector.model_copy(update={"step": "all"})


def _lines(
    spec: CurveFigure | TrainingFigure, found: pd.DataFrame, x: str, rows: pd.DataFrame
) -> Lines:
    by = (spec.by,) if isinstance(spec.by, str) else spec.by
    for column in (x, *by, *([spec.split] if spec.split else [])):
        require(found, column, spec.y)
    remarks = Remarks()
    found = found[found[x].notna()]
    x_label, said = spec.x_label or x.replace("_", " "), ""
    if spec.align:
        shifted = aligned(found, spec.align, rows)
        found = shifted.rows
        x_label = spec.x_label or f"steps after the first with {spec.align.event}"
        if missing := shifted.left_out():  # in the figure: its caption may get lost
            x_label += f" ({missing})"
        said = f"Aligned at the first step with {spec.align.event}"
        said += f" ({missing}). " if missing else ", which every curve meets. "
    positions, ticks = positions_of(found[x])
    labels = {
        "panel": texts_of(found, spec.split),
        "colour": texts_of(found, by[0]),
        "second": texts_of(found, by[1] if len(by) > 1 else None),
        "x": positions,
    }
    data = over_seeds(found, labels, {x, *by, spec.split}, remarks)
    data = in_order(data.assign(row=0, baseline=False), ["panel", "colour", "second"])
    return Lines(
        data=data,
        y_labels=[spec.y_label or quantity_label(spec.y, rows)],
        x_label=x_label,
        ticks=dict.fromkeys(data["panel"].unique(), ticks) if ticks else {},
        note=said + seeds_note(data["n"], remarks),
    )


def aligned(found: pd.DataFrame, align: Align, rows: pd.DataFrame) -> Aligned:
    """Shift each curve, the rows of one cell and seed, so that step 0 is its event.

    A curve meets the event of the model that has its seed and its labels of all axes that both
    quantities have; a coordinate (a noise size, say) is none of these.

    Args:
        found: rows of the curves, with steps.
        align: the event.
        rows: the columns of the `rows` view.

    Raises:
        NoRows: the quantity has no rows with a step, or several values at one step of a curve, or
            no curve meets the bound.
    """
    measured = align.select(rows)
    require(measured, "step", align)
    measured = measured[measured["step"].notna()]
    axes = _axes(found, measured, rows)
    keys = [*map(own, axes), "seed"]
    measured = measured.assign(**{own(axis): texts_of(measured, axis) for axis in axes})
    _refuse_several(measured, align, keys)

    high = align.at_most is not None
    bound = align.at_most if high else align.at_least
    value = measured["value"]
    meets = value <= bound if high else value >= bound
    zeros = measured[meets].groupby(keys)["step"].min().rename("=zero").reset_index()
    curves = found.assign(**{own(axis): texts_of(found, axis) for axis in axes})
    curves = curves.merge(measured[keys].drop_duplicates(), how="left", on=keys, indicator="=known")
    curves = curves.merge(zeros, how="left", on=keys)
    one_each = curves.drop_duplicates(CURVE)
    unknown = int((one_each["=known"] == "left_only").sum())
    kept = curves[curves["=zero"].notna()]
    if kept.empty:
        nearest = value.min() if high else value.max()
        raise NoRows(f"no curve ever has {align.event}; the nearest value is {nearest:g}")
    return Aligned(
        rows=kept.assign(step=kept["step"] - kept["=zero"])[found.columns].reset_index(drop=True),
        curves=len(one_each),
        never=int(one_each["=zero"].isna().sum()) - unknown,
        unknown=unknown,
    )


def _axes(found: pd.DataFrame, measured: pd.DataFrame, rows: pd.DataFrame) -> list[str]:
    """Columns that both have and that are constant in every cell of their stages."""
    shared = shared_columns(found, measured)
    stages = {*found["stage"], *measured["stage"]}
    cells = rows[rows["stage"].isin(stages)].groupby(["stage", "cell"], sort=False)
    return [column for column in shared if cells[column].nunique(dropna=False).max() == 1]


def _refuse_several(measured: pd.DataFrame, align: Align, keys: Sequence[str]) -> None:
    """Refuse to guess which of several values at one step of a curve is meant."""
    groups = measured.groupby([*keys, "step"], sort=False)
    if groups.ngroups == len(measured):
        return
    others = [c for c in measured.columns if c not in IDENTITY - {"stage"} and c not in keys]
    several = groups[others].nunique(dropna=False).max()
    differ = ", ".join(column for column in others if several[column] > 1)
    said = f"align: several values of {align.name} at one step of a curve"
    which = f", which differ in {differ}: name one by where, or by stage" if differ else ""
    raise NoRows(said + which)
