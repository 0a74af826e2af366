"""The figures that a study asks for, and those that it gets when it asks for none.

A figure is data in the study file. `sensweep.results.series`, `curves` and `histogram` compute the
numbers that it shows, `sensweep.results.drawing` how it looks:

    figures:
      - {kind: curve, name: sensitivity, title: Sensitivity against noise size,
         y: {name: sensitivity, where: {intervention: none}}, x: sigma, log_x: true}
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from sensweep.results.selector import NoRows, Scalar, Selector

if TYPE_CHECKING:
    import pandas as pd

    from sensweep.results.histogram import Bars
    from sensweep.results.series import Lines, Points

BASELINE = "none"


class _Figure(BaseModel, ABC):
    """What every kind of figure has.

    Attributes:
        name: the name of its PNG file.
        title: its heading.
        x_label, y_label: axis labels; by default made from the quantity's name, its `where`, and
            the unit of its rows.
        log_x, log_y: whether an axis is logarithmic.
        split: a column of the rows; the figure gets one panel per value.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", max_length=80)]
    title: str
    x_label: str | None = None
    y_label: str | None = None
    log_x: bool = False
    log_y: bool = False
    split: str | None = None

    @property
    @abstractmethod
    def columns(self) -> tuple[str, str]:
        """The columns that give the colour, and the line style or marker ("" for none)."""


class Align(Selector):
    """The event that is the zero of each curve: ``{name: evaluation_loss, at_most: 0.01}``.

    It is the first step at which the quantity meets the bound, for each model and seed; the
    quantity may be of another stage, whose trial has the same seed and labels.

    Attributes:
        name, stage, where: as in `Selector`. `where` must leave one value at each step.
        at_least, at_most: the bound, exactly one of them.
    """

    step: Literal["all"] = "all"  # type: ignore[assignment]
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _one_bound(self) -> Align:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("give at_least or at_most, and not both")
        return self

    @property
    def event(self) -> str:
        """What happens at zero, in words."""
        low = f"at least {self.at_least:g}" if self.at_least is not None else ""
        return f"{self.name.replace('_', ' ')} {low or f'at most {self.at_most:g}'}"


class _CurvesFigure(_Figure, ABC):
    """What curves over anything have.

    Attributes:
        y: the quantity.
        by: one line for each value of this column, or for each pair of values of two columns
            (the first gives the colour, the second the line style).
        align: shifts each curve (of a model and seed) along its steps, before seeds are averaged;
            curves that never meet its bound are left out, and the figure says how many.
    """

    y: Selector
    by: str | tuple[str, str] = "arch"
    align: Align | None = None

    @property
    def columns(self) -> tuple[str, str]:
        return (self.by, "") if isinstance(self.by, str) else self.by

    @model_validator(mode="after")
    def _below_zero(self) -> Self:
        if self.align is not None and self.log_x:
            raise ValueError(
                "align puts steps below 0, which a logarithmic axis lacks: leave out log_x or align"
            )
        return self


class CurveFigure(_CurvesFigure):
    """A quantity against a coordinate or an axis, with 95% t-intervals over seeds.

    Attributes:
        x: the column along the horizontal axis: a coordinate (`sigma`), an axis of the study, or
            `step`. With `align` it must be `step`, and all steps are shown.
    """

    kind: Literal["curve"] = "curve"
    x: str

    @model_validator(mode="after")
    def _over_steps(self) -> Self:
        if self.align is not None and self.x != "step":
            raise ValueError(
                f"align shifts curves along their steps, and x is {self.x!r}: "
                "give x: step, or leave out align"
            )
        return self


class TrainingFigure(_CurvesFigure):
    """A quantity over the steps at which it was measured, with 95% t-intervals over seeds.

    All of its steps are shown, whatever `y` says of them.
    """

    kind: Literal["training"] = "training"


class ScatterFigure(_Figure):
    """A quantity against another, with the Spearman correlation of each panel and its interval.

    Attributes:
        x, y: the two quantities, paired over the axes that both were measured on.
        point: `cell` draws one point per model, averaged over seeds (the seeds are drawn small);
            `trial` one point per model and seed.
        colour, marker: the columns that give each point its colour and its shape.
    """

    kind: Literal["scatter"] = "scatter"
    x: Selector
    y: Selector
    point: Literal["cell", "trial"] = "cell"
    colour: str = "arch"
    marker: str = "intervention"

    @property
    def columns(self) -> tuple[str, str]:  # noqa: D102
        return self.colour, self.marker


class HistogramFigure(_Figure):
    """The distribution of a quantity's values, in bins that all colours and panels share.

    There is one value for each model and seed, and for each value of a coordinate (or step) that
    `x` leaves open: nothing is averaged.

    Attributes:
        x: the quantity.
        colour: the column that gives the colours: one histogram for each of its values.
        bins: how many, of equal width (of equal ratio with `log_x`), from the least value of the
            figure to the largest.
        height: `fraction` of the values of the colour in the panel, or their `count`.
    """

    kind: Literal["histogram"] = "histogram"
    x: Selector
    colour: str = "arch"
    bins: Annotated[int, Field(ge=1, le=200)] = 20
    height: Literal["fraction", "count"] = "fraction"

    @property
    def columns(self) -> tuple[str, str]:  # noqa: D102
        return self.colour, ""


class StrengthFigure(_Figure):
    """Quantities (a row of panels each) against each intervention's strength (a column each).

    Attributes:
        quantities: what is measured at each strength.
        by: one line for each value of this column.
        baseline: the value of `intervention` that is the reference, drawn at strength 0.
    """

    kind: Literal["strength"] = "strength"
    quantities: Annotated[list[Selector], Field(min_length=1, max_length=6)]
    by: str = "arch"
    baseline: str = BASELINE
    split: None = None

    @property
    def columns(self) -> tuple[str, str]:  # noqa: D102
        return self.by, ""


FigureSpec = Annotated[
    CurveFigure | TrainingFigure | ScatterFigure | HistogramFigure | StrengthFigure,
    Field(discriminator="kind"),
]
FigureSpecs: TypeAdapter[list[FigureSpec]] = TypeAdapter(list[FigureSpec])


def plotted(spec: FigureSpec, rows: pd.DataFrame) -> Lines | Points | Bars:
    """Compute what a figure shows.

    Args:
        spec: the figure.
        rows: the columns of the `rows` view.

    Raises:
        NoRows: the rows lack what the figure needs; one line says what.
    """
    from sensweep.results import curves, histogram, series

    match spec:
        case CurveFigure():
            return curves.curve(spec, rows)
        case TrainingFigure():
            return curves.training(spec, rows)
        case HistogramFigure():
            return histogram.histogram(spec, rows)
        case StrengthFigure():
            return series.strength(spec, rows)
        case ScatterFigure():
            return series.scatter(spec, rows)


def draw(
    spec: FigureSpec,
    rows: pd.DataFrame,
    folder: Path,
    shown: Lines | Points | Bars | None = None,
) -> Path:
    """Draw a figure as FOLDER/NAME.png; the same rows give the same bytes.

    Colours are given out over all of `rows`, so that an architecture has one colour in all
    figures drawn from the same rows.

    Args:
        spec: the figure.
        rows: the columns of the `rows` view.
        folder: made if it is not there.
        shown: what `plotted` returned for the same figure and rows, if that is known already.

    Raises:
        NoRows: as for `plotted`.
        ValueError: it has more panels than can be read.
    """
    import matplotlib as mpl

    from sensweep.results import drawing, histogram, series

    shown = shown or plotted(spec, rows)
    colour, second = spec.columns
    look = drawing.Look(
        title=spec.title,
        colours=series.ordered([*_values(rows, colour), *shown.data["colour"]]),
        seconds=series.ordered([*_values(rows, second), *shown.data.get("second", [])]),
        legend=(colour.replace("_", " "), second.replace("_", " ")),
        split=spec.split.replace("_", " ") if spec.split else None,
        log_x=spec.log_x,
        log_y=spec.log_y,
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{spec.name}.png"
    with mpl.rc_context(drawing.STYLE):
        if isinstance(shown, series.Points):
            figure = drawing.draw_points(shown, look)
        elif isinstance(shown, histogram.Bars):
            figure = drawing.draw_bars(shown, look)
        else:
            figure = drawing.draw_lines(shown, look)
        figure.savefig(path, metadata={"Software": None})
    return path


def default_figures(rows: pd.DataFrame) -> list[FigureSpec]:
    """Return the figures of a study that lists none: those that its rows can fill.

    They are sensitivity against noise size, sensitivity against corrupted accuracy, and both and
    clean accuracy against each intervention's strength; with several datasets, each for each.
    """
    datasets = _values(rows, "dataset")
    if len(datasets) < 2:
        return _default_set(rows, {}, "", "")
    names = [re.sub(r"[^A-Za-z0-9]+", "-", dataset).strip("-")[-40:] for dataset in datasets]
    if len({*names, ""}) <= len(names):  # two paths may differ in punctuation alone
        names = [str(rank) for rank, _ in enumerate(datasets, start=1)]
    return [
        figure
        for dataset, name in zip(datasets, names, strict=True)
        for figure in _default_set(rows, {"dataset": dataset}, f"-{name}", f", {dataset}")
    ]


def _default_set(
    rows: pd.DataFrame, where: dict[str, Scalar | list[Scalar]], suffix: str, heading: str
) -> list[FigureSpec]:
    sensitivity = Selector(name="sensitivity", where=where)
    corrupted = Selector(name="corruption_accuracy", where=where)
    clean = Selector(name="test_accuracy", where=where)
    interventions = _values(rows, "intervention")
    figures: list[FigureSpec] = []

    sigmas = _values(rows, "sigma", sensitivity)
    untouched = {**where, "intervention": BASELINE} if BASELINE in interventions else where
    if len(sigmas) > 1 and _values(rows, "arch", sensitivity):
        figures.append(
            CurveFigure(
                name=f"sensitivity{suffix}",
                title=f"Sensitivity against noise size{heading}",
                y=Selector(name="sensitivity", where=untouched),
                y_label="sensitivity (fraction of predictions changed)",
                x="sigma",
                x_label="noise size σ (std, pixels in [0, 1])",
                log_x=True,
            )
        )
    if _values(rows, "cell", sensitivity) and _values(rows, "cell", corrupted):
        figures.append(
            ScatterFigure(
                name=f"sensitivity-corruption{suffix}",
                title=f"Sensitivity against corrupted accuracy{heading}",
                x=sensitivity,
                x_label="sensitivity (fraction of predictions changed)",
                y=corrupted,
                y_label="accuracy on corrupted inputs",
                split="sigma" if len(sigmas) > 1 else None,
            )
        )
    measured = [one for one in (clean, corrupted) if _values(rows, "strength", one)]
    if _values(rows, "strength", sensitivity):
        middle = {**where, "sigma": sigmas[len(sigmas) // 2]} if sigmas else where
        measured.insert(0, Selector(name="sensitivity", where=middle))
    if measured:
        figures.append(
            StrengthFigure(
                name=f"strength{suffix}",
                title=f"What each intervention does with its strength{heading}",
                quantities=measured,
            )
        )
    return figures


def _values(rows: pd.DataFrame, column: str, selector: Selector | None = None) -> list[str]:
    """Distinct values of a column, in order; empty where there is no such column or no row."""
    from sensweep.results.series import ordered

    if column not in rows.columns:
        return []
    try:
        found = rows if selector is None else selector.select(rows)
    except NoRows:
        return []
    return ordered(found[column])
