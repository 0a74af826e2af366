"""From the rows of trials to the numbers of a search: per trial, over seeds, within bounds."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

from sensweep.orchestrator.axes import Label
from sensweep.orchestrator.search_spec import Constraint, Quantity

# A row as an attempt returns it: name, value, step, unit, coordinates (canonical JSON).
Row = tuple[str, float, int | None, str, str]

AGGREGATES: dict[str, Callable[[Sequence[float]], float]] = {
    "mean": statistics.fmean,
    "median": statistics.median,
    "min": min,
    "max": max,
}


def of_trial(quantity: Quantity, rows: Iterable[Row], point: Mapping[str, Label]) -> list[float]:
    """Return the values of a quantity that one trial measured: of rows with a step, the last's.

    `point` has the trial's labels, which `where` may name beside the rows' coordinates.
    """
    found = list(_matching(quantity, rows, point))
    last = max((step for step, _ in found if step is not None), default=None)
    return [value for step, value in found if step == last]


def of_seed(quantity: Quantity, values: Sequence[float]) -> float:
    """Put the values of one seed together."""
    return AGGREGATES[quantity.over](values)


def by_step(
    quantity: Quantity, rows: Iterable[Row], point: Mapping[str, Label]
) -> dict[int, dict[str, float]]:
    """Return the values of a quantity at each step of one trial, by their coordinates."""
    found: dict[int, dict[str, float]] = {}
    for row in rows:
        for step, value in _matching(quantity, [row], point):
            if step is not None:
                found.setdefault(step, {})[row[4]] = value
    return found


def over_seeds(quantity: Quantity, values: Sequence[float]) -> float:
    """Put the seeds' numbers together."""
    return AGGREGATES[quantity.over_seeds](values)


def violation(constraint: Constraint, value: float, baseline: float) -> float:
    """Return by how much a value breaks its bounds: more than 0 if it does.

    `baseline` is that of the point that the bounds are relative to, or 0.
    """
    difference = value - baseline
    broken = [
        *([constraint.at_least - difference] if constraint.at_least is not None else []),
        *([difference - constraint.at_most] if constraint.at_most is not None else []),
    ]
    return max(broken)


def _matching(
    quantity: Quantity, rows: Iterable[Row], point: Mapping[str, Label]
) -> Iterable[tuple[int | None, float]]:
    for name, value, step, _, coordinates in rows:
        if name != quantity.name:
            continue
        at = {**point, **json.loads(coordinates)} if quantity.where else {}
        if all(axis in at and at[axis] in _labels(v) for axis, v in quantity.where.items()):
            yield step, value


def _labels(wanted: Label | tuple[Label, ...]) -> tuple[Label, ...]:
    return wanted if isinstance(wanted, tuple) else (wanted,)
