"""From models to replicates: paired sides, slopes, and what to note about them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sensweep.results.claim_data import ABSENT, Values, grouped, matched, shared
from sensweep.results.selector import NoRows, nearest


@dataclass(frozen=True)
class Pairs:
    """One number per replicate and side (`than` is None for a one-sided quantity).

    Attributes:
        replicates: their labels.
        of, than: [replicates]; NaN where not finite.
        notes: what a reader must know beside the numbers.
    """

    replicates: list[str]
    of: NDArray[np.float64]
    than: NDArray[np.float64] | None
    notes: list[str] = field(default_factory=list)


def single(values: Values, replicate: str) -> Pairs:
    """Average each replicate's models.

    Raises:
        NoRows: there is no such column.
    """
    require(values, [replicate], "replicate")
    means = values.mean_by([replicate])
    notes = [*values.notes, *_uneven(values, replicate)]
    return Pairs(means.labels(replicate), means.numbers, None, notes)


def pair(of: Values, than: Values, replicate: str, unmatched: Iterable[str]) -> Pairs:
    """Match two sides on everything they share, then average within each replicate.

    A column with the same labels on both sides is matched; with some in common, those are
    matched and a note names the rest; with none in common, or in `unmatched`, each side is
    averaged over it first.

    Raises:
        NoRows: no replicate has both sides, or there is no such column.
    """
    for side in (of, than):
        require(side, [replicate], "replicate")
    wanted = [c for c in of.codes if c in than.codes and c not in {replicate, *unmatched}]
    keys, notes = shared(of, than, wanted)
    a, b = matched(of, than, [replicate, *keys])
    have = [set(side.labels(replicate)) for side in (of, than)]
    if not len(a.numbers):
        lists = [", ".join(sorted(labels)) for labels in have]
        raise NoRows(f"no {replicate} has both sides: of has {lists[0]}; than has {lists[1]}")
    if lone := sorted((have[0] | have[1]) - set(a.labels(replicate))):
        notes.append(f"left out, one side missing: {replicate} {', '.join(lone)}")
    notes = [*of.notes, *than.notes, *notes, *_uneven(a, replicate)]
    means = a.mean_by([replicate])
    return Pairs(
        means.labels(replicate),
        means.numbers,
        b.mean_by([replicate]).numbers,
        list(dict.fromkeys(notes)),
    )


def slopes(
    values: Values, over: str, log: bool, absent: float | None, average_over: Iterable[str]
) -> Values:
    """Least-squares slope of the numbers over a column, per model.

    Raises:
        NoRows: the column has gaps, text, no spread, or (with `log`) values that are not positive.
    """
    require(values, [over], "over")
    keys = [c for c in values.codes if c not in {over, *average_over}]
    means = values.mean_by([*keys, over])
    x = _numeric(means, over, absent)
    if log:
        if (x <= 0).any():
            raise NoRows(f"{over} has the value {x.min():g}, and log needs positive ones")
        x = np.log2(x)
    first, model = grouped([means.codes[c] for c in keys], len(x))
    sizes = np.bincount(model)
    dx = x - (np.bincount(model, x) / sizes)[model]
    xx, xy = np.bincount(model, dx**2), np.bincount(model, dx * means.numbers)
    usable = xx > 0
    if not usable.any():
        tied = [c for c in keys if c != "seed" and len(set(means.labels(c))) == len(set(x)) > 1]
        hint = f": {', '.join(tied)} changes with it, so average_over it" if tied else ""
        raise NoRows(f"{over} has one value only in each model{hint}")
    notes = list(values.notes)
    if not usable.all():
        notes.append(f"{(~usable).sum()} of {len(usable)} models have one {over} only: left out")
    sizes = sizes[usable]
    if sizes.min() < sizes.max():
        notes.append(f"between {sizes.min()} and {sizes.max()} values of {over} per model")
    codes = {c: means.codes[c][first][usable] for c in keys}
    unit = f"{values.unit} per {'doubling of ' if log else ''}{over}"
    return Values(codes, xy[usable] / xx[usable], values.texts, unit, notes)


def require(values: Values, columns: Iterable[str], field_name: str) -> None:
    """Raise NoRows for a column that the numbers do not have."""
    for column in columns:
        if column not in values.codes:
            raise NoRows(f"{field_name}: no column {column}{nearest(column, values.codes)}")


def _numeric(values: Values, column: str, absent: float | None) -> NDArray[np.float64]:
    """A column's labels as numbers; `absent` where there is none."""
    x = np.empty(len(values.numbers))
    for i, (code, label) in enumerate(
        zip(values.codes[column], values.labels(column), strict=True)
    ):
        if code == ABSENT and absent is None:
            raise NoRows(f"some models have no {column}: leave them out by where, or say absent: 0")
        try:
            x[i] = absent if code == ABSENT else float(label)
        except ValueError:
            raise NoRows(f"{column} is not numeric: it has {label}") from None
    return x


def _uneven(values: Values, replicate: str) -> list[str]:
    """A note if some replicates are averages of fewer numbers than others."""
    first, group = grouped([values.codes[replicate]], len(values.numbers))
    sizes = np.bincount(group)
    if sizes.min() == sizes.max():
        return []
    labels = [values.labels(replicate)[i] for i in first[sizes < sizes.max()]]
    short = ", ".join(labels[:6]) + ", ..." * (len(labels) > 6)
    return [f"{replicate} {short}: fewer matched values than the others ({sizes.max()})"]
