"""From rows to one number per model: reading a quantity of a claim.

Columns that stay constant within every trial are *axes* (they identify a model); the others are
*coordinates* (they identify a measurement of it). Labels are integers here, one dictionary of
texts per column: a claim over a hundred noise sizes is a hundred selections and groupings of a
few rows each, where a pandas call costs more than the work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sensweep.results.claim_spec import Quantity, as_list
from sensweep.results.selector import NoRows, Selector, canonical, nearest

if TYPE_CHECKING:
    import pandas as pd

Codes = dict[str, NDArray[np.int64]]
Filters = Sequence[Mapping[str, Any]]

ABSENT = 0  # the code of "this row has no such coordinate", "this model has no such axis"
_NEEDED = {"stage", "cell", "seed", "trial_id", "seq", "name", "value", "step", "unit"}
_NOT_LABELS = {*_NEEDED, "sweep", "task", "coordinates"} - {"seed"}


@dataclass(frozen=True)
class Values:
    """One number per model (and per value of a coordinate that was kept).

    Attributes:
        codes: per column that tells the numbers apart, [n] codes into `texts`.
        numbers: [n]; NaN where what it was made from is not finite.
        texts: per column, the label of each code.
        unit: of the numbers.
        notes: what could not be matched on the way.
    """

    codes: Codes
    numbers: NDArray[np.float64]
    texts: Mapping[str, list[str]]
    unit: str
    notes: list[str] = field(default_factory=list)

    def labels(self, column: str) -> list[str]:
        """The label of each number in a column."""
        return [self.texts[column][code] for code in self.codes[column]]

    def mean_by(self, columns: Iterable[str]) -> Values:
        """Average over all other columns; NaN as soon as one number is."""
        columns = list(columns)
        first, group = grouped([self.codes[c] for c in columns], len(self.numbers))
        means = np.bincount(group, self.numbers) / np.bincount(group)
        codes = {c: self.codes[c][first] for c in columns}
        return Values(codes, means, self.texts, self.unit, self.notes)

    def take(self, index: NDArray[Any]) -> Values:
        """The numbers at the given places."""
        codes = {c: of[index] for c, of in self.codes.items()}
        return Values(codes, self.numbers[index], self.texts, self.unit, self.notes)


class Observations:
    """The rows of a sweep.

    Args:
        rows: the columns of the `rows` view.

    Raises:
        ValueError: `rows` lacks a column of that view.
    """

    def __init__(self, rows: pd.DataFrame) -> None:
        if missing := _NEEDED - set(rows.columns):
            raise ValueError(f"rows lack {', '.join(sorted(missing))}: pass the rows view")
        # in one order, so that a sum's last digits do not depend on how the rows were stored
        rows = rows.sort_values(["trial_id", "seq"], ignore_index=True)
        self._frame = rows
        labels = [column for column in rows.columns if column not in _NOT_LABELS]
        self._codes: Codes = {}
        self.texts: dict[str, list[str]] = {}
        for column in [*labels, "step"]:
            self._codes[column], self.texts[column] = _encoded(rows[column], canonical)
        for column in ("name", "stage", "unit", "cell", "trial_id"):
            # as they are: a hash such as 12e4567890123456 is not a number
            self._codes[column], self.texts[column] = _encoded(rows[column], str)
        self._value = rows["value"].to_numpy(dtype=float, na_value=np.nan)
        self._step = rows["step"].to_numpy(dtype=float, na_value=np.nan)
        first, trial = grouped([self._codes["trial_id"]], len(rows))
        varying = {c: self._codes[c] != self._codes[c][first][trial] for c in labels if c != "seed"}
        self.axes = [c for c, varies in varying.items() if not varies.any()]
        self._coordinates = [c for c, varies in varying.items() if varies.any()]
        self._named = {
            text: np.flatnonzero(self._codes["name"] == code)
            for code, text in enumerate(self.texts["name"])
        }
        self._columns: dict[tuple[str, str | None], frozenset[str]] = {}

    def columns_of(self, quantity: Quantity) -> frozenset[str]:
        """Columns in which some row of the quantity (before its `where`) has a value.

        Raises:
            NoRows: the quantity was not measured.
        """
        key = quantity.name, quantity.stage
        if key not in self._columns:
            at = self._select(Selector(name=quantity.name, stage=quantity.stage, step="all"))
            columns = (*self.axes, *self._coordinates, "seed", "stage", "step")
            found = (c for c in columns if (self._codes[c][at] != ABSENT).any())
            self._columns[key] = frozenset(found)
        return self._columns[key]

    def occurs(self, column: str, quantity: Quantity, filters: Filters) -> bool:
        """Whether a filtered quantity has a value in a column."""
        at = self._rows(quantity, filters, all_steps=True)
        return column in self._codes and bool((self._codes[column][at] != ABSENT).any())

    def combinations(
        self, quantity: Quantity, filters: Filters, columns: Sequence[str]
    ) -> set[tuple[str, ...]]:
        """Labels that occur together in columns of a quantity's rows, where all have one."""
        at = self._rows(quantity, filters, all_steps="step" in columns)
        first, _ = grouped([self._codes[c][at] for c in columns], len(at))
        found = np.stack([self._codes[c][at][first] for c in columns], axis=1)
        return {
            tuple(self.texts[c][code] for c, code in zip(columns, row, strict=True))
            for row in found[(found != ABSENT).all(axis=1)]
        }

    def values(
        self, quantity: Quantity, filters: Filters, keep: Iterable[str] = (), main: bool = True
    ) -> Values:
        """Read a quantity as one number per model and per value of the columns in `keep`.

        Args:
            quantity: what to read.
            filters: filters of the claim. The `main` quantity must have their columns; to
                another one (a gate, `minus`) a filter applies only where it has the column and
                does not name it itself.
            keep: coordinates, or `step`, not to aggregate over.
            main: see `filters`.

        Raises:
            NoRows: nothing there, or rows that cannot be told apart.
        """
        has = self.columns_of(quantity)
        keep = [c for c in dict.fromkeys(keep) if c not in self.axes and c != "seed"]
        if not main:
            filters = [
                {c: v for c, v in f.items() if c in has and c not in quantity.where}
                for f in filters
            ]
            keep = [c for c in keep if c in has and c not in quantity.where]
        for column in keep:
            if column not in has:
                raise NoRows(f"{quantity.name} has no column {column}{nearest(column, has)}")
        if quantity.is_step and "step" in keep:
            raise NoRows(f"{quantity.name} is asked for a step, so it has no value at each step")
        at = self._rows(quantity, filters, all_steps="step" in keep)
        self._refuse_mixtures(quantity, at)
        place = [self._codes[c][at] for c in ("cell", "seed", *keep)]
        first, model = grouped(place, len(at))
        numbers = np.where(np.isfinite(self._value[at]), self._value[at], np.nan)
        if quantity.is_step:
            numbers = _steps(quantity, numbers, self._step[at], model)
        else:
            numbers = _aggregated(quantity.aggregate, numbers, model)
        codes = {c: self._codes[c][at][first] for c in (*self.axes, "seed", *keep)}
        unit = "step" if quantity.is_step else self.texts["unit"][self._codes["unit"][at[0]]]
        values = Values(codes, numbers, self.texts, unit)
        for part in ("minus", "divided_by"):
            if (other := getattr(quantity, part)) is not None:
                values = _combined(values, self.values(other, filters, keep, main=False), part)
        return values

    def _rows(self, quantity: Quantity, filters: Filters, all_steps: bool) -> NDArray[np.int64]:
        """Places of the quantity's rows that pass its own `where` and every filter."""
        where = _all_of([quantity.where, *filters], quantity.name)
        every = all_steps or quantity.is_step or "step" in where
        step = "all" if every or quantity.step == "first" else quantity.step
        at = self._select(
            Selector(name=quantity.name, stage=quantity.stage, where=where, step=step)
        )
        if not every and quantity.step in ("last", "first"):
            _, model = grouped([self._codes[c][at] for c in ("stage", "cell", "seed")], len(at))
            sign = 1.0 if quantity.step == "last" else -1.0
            steps = np.where(np.isnan(self._step[at]), np.inf, sign * self._step[at])
            best = np.full(model.max() + 1, -np.inf)
            finite = np.isfinite(steps)
            np.maximum.at(best, model[finite], steps[finite])
            at = at[~finite | (steps == best[model])]
        return at

    def _select(self, selector: Selector) -> NDArray[np.int64]:
        """Places of the rows that match; `last` is left to `_rows`."""
        wanted: list[tuple[str, Any]] = list(selector.where.items())
        if selector.stage is not None:
            wanted.append(("stage", selector.stage))
        if isinstance(selector.step, int):
            wanted.append(("step", selector.step))
        at = self._named.get(selector.name, np.empty(0, dtype=np.int64))
        for column, labels in wanted:
            texts = {write(label) for label in as_list(labels) for write in (str, canonical)} - {""}
            known = enumerate(self.texts.get(column, []))
            codes = [code for code, text in known if text in texts]
            at = at[np.isin(self._codes[column][at], codes)] if codes else at[:0]
        if not len(at):
            selector.select(self._frame)  # says what there is instead
            raise NoRows(f"no rows of {selector}")
        return at

    def _refuse_mixtures(self, quantity: Quantity, at: NDArray[np.int64]) -> None:
        """Rows of several stages, units or trials must not be averaged in silence."""
        for column in ("stage", "unit"):
            if len(codes := np.unique(self._codes[column][at])) > 1:
                several = ", ".join(sorted(self.texts[column][code] for code in codes))
                hint = f"give one {column}" + " by where" * (column == "unit")
                raise NoRows(f"{quantity} has several {column}s, {several}: {hint}")
        place = [self._codes[c][at] for c in ("cell", "seed", "step", *self._coordinates)]
        first, where = grouped(place, len(at))
        trial = self._codes["trial_id"][at]
        if (doubled := trial != trial[first][where]).any():
            i = np.flatnonzero(doubled)[0]
            pair = [self.texts["trial_id"][code] for code in (trial[first][where][i], trial[i])]
            seed = self.texts["seed"][self._codes["seed"][at[i]]]
            raise NoRows(
                f"{quantity} is measured by more than one trial at the same place (seed {seed}, "
                f"trials {pair[0]} and {pair[1]}): pass the rows of the current plan only"
            )


def grouped(
    columns: Sequence[NDArray[np.int64]], n: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Group n places by columns of codes: (first place of each group, [n] group of each place)."""
    ids, size = np.zeros(n, dtype=np.int64), 1
    for codes in columns:
        width = int(codes.max(initial=0)) + 1
        if size * width >= 2**62:
            ids = np.unique(ids, return_inverse=True)[1]
            size = int(ids.max(initial=0)) + 1
        ids, size = ids * width + codes, size * width
    _, first, group = np.unique(ids, return_index=True, return_inverse=True)
    return first, group


def matched(a: Values, b: Values, columns: Iterable[str]) -> tuple[Values, Values]:
    """Average both over all but `columns`, and keep what both have, in one order."""
    columns = list(columns)
    a, b = a.mean_by(columns), b.mean_by(columns)
    n = len(a.numbers)
    both = [np.concatenate([a.codes[c], b.codes[c]]) for c in columns]
    _, group = grouped(both, n + len(b.numbers))
    _, in_a, in_b = np.intersect1d(group[:n], group[n:], assume_unique=True, return_indices=True)
    return a.take(in_a), b.take(in_b)


def shared(a: Values, b: Values, columns: Iterable[str]) -> tuple[list[str], list[str]]:
    """Columns on which two sets of numbers can be matched, and notes on what they do not share.

    A column with no label in common is none of them: each side is averaged over it.
    """
    keys, notes = [], []
    for column in columns:
        mine, theirs = set(a.labels(column)), set(b.labels(column))
        if mine & theirs:
            keys.append(column)
            if mine != theirs:
                at, rest = _listed(mine & theirs), _listed(mine ^ theirs)
                notes.append(f"matched at {column} {at} only; one side lacks {rest}")
    return keys, notes


def _encoded(column: pd.Series, write: Callable[[Any], str]) -> tuple[NDArray[np.int64], list[str]]:
    """Codes of a column's labels, and the text of each code; labels of one text share a code."""
    import pandas as pd

    codes, uniques = pd.factorize(column)
    texts = [write(unique) for unique in uniques]
    known = {text: code for code, text in enumerate(dict.fromkeys(texts), start=ABSENT + 1)}
    recode = np.array([*(known[text] for text in texts), ABSENT], dtype=np.int64)
    return recode[codes], ["", *known]


def _all_of(filters: Filters, name: str) -> dict[str, Any]:
    """One filter that passes what every filter passes."""
    merged: dict[str, list[str]] = {}
    for filter_ in filters:
        for column, wanted in filter_.items():
            texts = [canonical(label) for label in as_list(wanted)]
            before = merged.get(column, texts)
            merged[column] = [text for text in before if text in texts]
            if not merged[column]:
                asked = f"{' or '.join(before)}, and also {' or '.join(texts)}"
                raise NoRows(f"{name}: {column} is asked to be {asked}")
    return merged


def _aggregated(how: str, numbers: NDArray[Any], model: NDArray[Any]) -> NDArray[np.float64]:
    """Aggregate each model's numbers; NaN as soon as one is."""
    if how in ("mean", "sum"):
        sums = np.bincount(model, numbers).astype(float)
        return sums / np.bincount(model) if how == "mean" else sums
    order = np.argsort(model, kind="stable")
    parts = np.split(numbers[order], np.flatnonzero(np.diff(model[order])) + 1)
    reduce: Any = {"median": np.median, "max": np.max, "min": np.min}[how]
    return np.array([reduce(part) for part in parts])


def _steps(
    quantity: Quantity, numbers: NDArray[Any], steps: NDArray[Any], model: NDArray[Any]
) -> NDArray[np.float64]:
    """The step that a quantity asks for, per model; NaN where a threshold is never crossed."""
    found = np.full(model.max() + 1, np.nan)
    for m in range(len(found)):
        at, place = np.unique(steps[model == m], return_inverse=True)
        curve = _aggregated("mean", numbers[model == m], place)
        if np.isnan(curve).any():
            continue
        if quantity.crossing is None:
            best = np.argmax(curve) if quantity.aggregate == "step_of_max" else np.argmin(curve)
            found[m] = at[best]
            continue
        at_least, at_most = quantity.crossing.at_least, quantity.crossing.at_most
        crossed = curve >= at_least if at_least is not None else curve <= at_most  # type: ignore[operator]
        found[m] = at[crossed].min(initial=np.inf)
    return np.where(np.isfinite(found), found, np.nan)


def _combined(a: Values, b: Values, part: str) -> Values:
    """a - b, or a / b, of the same model; b at the same point where they differ in an axis."""
    if part == "minus" and a.unit != b.unit:
        raise NoRows(f"minus takes {b.unit} from {a.unit}: the units differ")
    keys, notes = shared(a, b, [c for c in a.codes if c in b.codes])
    if "seed" not in keys:
        raise NoRows(f"{part}: no seed has both quantities")
    b = b.mean_by(keys)
    n = len(a.numbers)
    _, group = grouped([np.concatenate([a.codes[c], b.codes[c]]) for c in keys], n + len(b.numbers))
    partner = np.full(group.max() + 1, -1)
    partner[group[n:]] = np.arange(len(b.numbers))
    kept = np.flatnonzero(partner[group[:n]] >= 0)
    if not len(kept):
        raise NoRows(f"{part}: no model has both quantities")
    a, other = a.take(kept), b.numbers[partner[group[:n]][kept]]
    with np.errstate(divide="ignore", invalid="ignore"):
        numbers = a.numbers - other if part == "minus" else a.numbers / other
    unit = a.unit if part == "minus" else "1" if a.unit == b.unit else f"{a.unit} per {b.unit}"
    numbers = np.where(np.isfinite(numbers), numbers, np.nan)
    return Values(a.codes, numbers, a.texts, unit, [*a.notes, *b.notes, *notes])


def _listed(labels: Iterable[str]) -> str:
    return ", ".join(sorted(label or "(none)" for label in labels))
