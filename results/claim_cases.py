"""One verdict to be: a claim expanded over `for_each` and over the values it is compared with."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sensweep.results.claim_data import Filters, Observations
from sensweep.results.claim_spec import ClaimSpec, Correlation, Trend
from sensweep.results.selector import NoRows, canonical


@dataclass(frozen=True)
class Case:
    """One verdict to be: a claim at one value of its `for_each` columns and of `than`'s lists."""

    spec: ClaimSpec
    key: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    than: Mapping[str, Any] | float | None = None


def cases(spec: ClaimSpec, observations: Observations) -> list[Case]:
    """Expand a claim over `for_each` and over the lists in `than` (unless `against: pooled`,
    or its replicates are what the sides differ in)."""
    than = getattr(spec, "than", None)
    thans: list[Any] = [than]
    listed: list[str] = []
    if isinstance(than, dict):
        each = spec.against == "each" and spec.replicate not in than  # type: ignore[union-attr]
        listed = [column for column, v in than.items() if each and isinstance(v, list)]
        choices = [than[column] if column in listed else [than[column]] for column in than]
        thans = [dict(zip(than, chosen, strict=True)) for chosen in itertools.product(*choices)]
    expanded = []
    for fixed in _fixed_values(spec, observations):
        for one in thans:
            parts = [f"{column}={value}" for column, value in fixed.items()]
            parts += [f"than {column}={canonical(one[column])}" for column in listed]
            key = f"{spec.id}[{','.join(parts)}]" if parts else spec.id
            expanded.append(Case(spec, key, fixed, one))
    return expanded


def _fixed_values(spec: ClaimSpec, observations: Observations) -> list[dict[str, str]]:
    """The combinations of `for_each` values: those named, or those that the rows have."""
    columns = list(spec.for_each)
    named = [values for values in spec.for_each.values() if values is not None]
    if not columns or named:
        texts = [[canonical(value) for value in values] for values in named]
        return [dict(zip(columns, chosen, strict=True)) for chosen in itertools.product(*texts)]
    found: set[tuple[str, ...]] = set()
    for quantity, filters in _expanded_sides(spec):
        try:
            if set(columns) - observations.columns_of(quantity):
                continue
            found |= observations.combinations(quantity, filters, columns)
        except NoRows:
            continue  # said when the side is read
    ordered = sorted(found, key=lambda values: [_natural(value) for value in values])
    return [dict(zip(columns, values, strict=True)) for values in ordered] or [{}]


def _expanded_sides(spec: ClaimSpec) -> list[tuple[Any, Filters]]:
    if isinstance(spec, Correlation):
        return [(spec.x, []), (spec.y, [])]
    sides: list[tuple[Any, Filters]] = [(spec.value, [spec.where, spec.of or {}])]
    if isinstance(spec.than, dict) and not set(spec.for_each) & set(spec.than):
        sides.append((spec.value, [spec.where, spec.than]))
    return sides


def _natural(text: str) -> tuple[int, float, str]:
    try:
        return 0, float(text), ""
    except ValueError:
        return 1, 0.0, text


def side_filters(case: Case, observations: Observations) -> tuple[Filters, Filters | None]:
    """The filters of both sides. A `for_each` column that the reference side names itself, or
    does not have (a baseline without a strength), leaves that side the same for every value."""
    spec: Any = case.spec
    of: Filters = [spec.where, case.fixed, getattr(spec, "of", None) or {}]
    if not isinstance(case.than, Mapping):
        return of, None
    reference: Filters = [spec.where, case.than]
    fixed = {
        column: value
        for column, value in case.fixed.items()
        if column not in case.than and observations.occurs(column, spec.value, reference)
    }
    return of, [spec.where, fixed, case.than]


def words(case: Case) -> str:
    """Which number the estimate is, in one phrase."""
    spec: Any = case.spec
    if isinstance(spec, Correlation):
        per = (
            f"along {', '.join(spec.along)} per {spec.replicate}"
            if spec.along
            else (f"over {spec.replicate}" + (f" within {spec.within}" if spec.within else ""))
        )
        return f"{spec.method} correlation of {spec.x} and {spec.y}, {per}"
    number = "slope" if isinstance(spec, Trend) else "mean"
    if getattr(spec, "relative", False):
        number = "relative difference"
    of = _side(spec.of)
    than = "" if case.than is None else f" - {_side(case.than)}"
    return f"{number} of {spec.value}" + (f": {of}{than}" if of or than else "")


def _side(side: Mapping[str, Any] | float | None) -> str:
    if side is None:
        return ""
    if not isinstance(side, Mapping):
        return f"{side:g}"
    return ", ".join(
        f"{column} {' or '.join(canonical(w) for w in (v if isinstance(v, list) else [v]))}"
        for column, v in side.items()
    )
