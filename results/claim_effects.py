"""The effect that a claim's rows show, with its estimate, and the gates on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sensweep.results import statistics
from sensweep.results.claim_cases import Case, side_filters, words
from sensweep.results.claim_data import Filters, Observations, Values, grouped, matched, shared
from sensweep.results.claim_pairs import pair, require, single, slopes
from sensweep.results.claim_spec import Correlation, Gate, Trend
from sensweep.results.selector import NoRows


@dataclass(frozen=True)
class Effect:
    """What was found for a case.

    Attributes:
        words: which number the estimate is.
        value: the estimate; None if there is none.
        estimate: with interval; None where there are too few replicates for one.
        n: replicates behind it.
        non_finite: replicates whose value is NaN or infinite.
        notes: what a reader must know beside the number.
        blocked: why there can be no verdict, or None.
    """

    words: str
    unit: str = "1"
    value: float | None = None
    estimate: statistics.Estimate | None = None
    n: int = 0
    non_finite: int = 0
    notes: tuple[str, ...] = ()
    blocked: str | None = None


def effect(case: Case, observations: Observations) -> Effect:
    """Estimate a case's effect. What cannot be estimated says why, in `blocked`."""
    spec = case.spec
    try:
        if missing := set(spec.for_each) - set(case.fixed):
            raise NoRows(f"no rows have a value of {', '.join(sorted(missing))}")
        if isinstance(spec, Correlation):
            found = _correlation(case, observations)
        else:
            found = _sided(case, observations)
    except NoRows as error:
        return Effect(words(case), blocked=str(error))
    return _judge(found, case)


@dataclass(frozen=True)
class _Sample:
    """The replicates' numbers and the estimator that they are for.

    Attributes:
        numbers: [replicates] arrays, NaN where not finite; cut together, unless `independent`.
        estimator: of the finite numbers; a ValueError of it is why there can be no verdict.
        average: of the finite numbers, for a value where there are too few for an interval.
        independent: the arrays are of different replicates.
    """

    numbers: list[NDArray[np.float64]]
    estimator: Callable[..., statistics.Estimate]
    average: Callable[..., float] | None
    unit: str
    notes: list[str]
    independent: bool = False


def _judge(sample: _Sample, case: Case) -> Effect:
    """Leave out what is not finite, estimate, and say what stands against a verdict."""
    finite = [np.isfinite(numbers) for numbers in sample.numbers]
    if not sample.independent:
        finite = [np.logical_and.reduce(finite)] * len(finite)
    kept = [numbers[ok] for numbers, ok in zip(sample.numbers, finite, strict=True)]
    counted = finite if sample.independent else finite[:1]
    n, total = sum(int(ok.sum()) for ok in counted), sum(len(ok) for ok in counted)
    notes, blocked, value, estimate = list(sample.notes), None, None, None
    try:
        estimate = sample.estimator(*kept)
        value = float(estimate.value)
        if np.all(estimate.se < 1e-12):
            notes.append(f"all {n} values are equal: the interval has no width")
    except ValueError as error:
        blocked = str(error)
        if sample.average is not None and all(len(numbers) for numbers in kept):
            value = sample.average(*kept)
    if n < total:
        what = f"{total - n} of {total} {case.spec.replicate} values are NaN or infinite"
        if case.spec.non_finite == "inconclusive":
            blocked = what
        notes.append(f"{what}: left out of the estimate")
    return Effect(words(case), sample.unit, value, estimate, n, total - n, tuple(notes), blocked)


def _sided(case: Case, observations: Observations) -> _Sample:
    """A mean or a slope: of one side, against a number, or of two sides."""
    spec: Any = case.spec
    relative = getattr(spec, "relative", False)
    of, than = _read_sides(case, observations)
    unit = "1" if relative else of.unit
    if than is not None and spec.replicate in {*spec.of} & {*case.than}:  # type: ignore[misc]
        return _unpaired(case, of, than, unit)
    if than is None:
        pairs = single(of, spec.replicate)
    else:
        pairs = pair(of, than, spec.replicate, _unmatched(case))
    reference = pairs.than
    if isinstance(case.than, int | float):
        reference = np.full_like(pairs.of, case.than)
    if reference is None:
        return _Sample([pairs.of], statistics.mean_estimate, _mean, unit, pairs.notes)
    if relative:
        estimator, average = statistics.paired_ratio, None
    else:
        estimator, average = statistics.paired_difference, _mean_difference
    return _Sample([pairs.of, reference], estimator, average, unit, pairs.notes)


def _unmatched(case: Case) -> set[str]:
    """Columns that sides are not matched on: those to average over, those in which they differ."""
    spec: Any = case.spec
    if not isinstance(case.than, Mapping):
        return set(spec.average_over)
    differ = {c for c in {*spec.of, *case.than} if spec.of.get(c) != case.than.get(c)}
    return {*spec.average_over, *differ}


def _read_sides(case: Case, observations: Observations) -> tuple[Values, Values | None]:
    spec: Any = case.spec
    trend = isinstance(spec, Trend)
    keep = [spec.replicate, *spec.average_over, *([spec.over] if trend else [])]

    def read(filters: Filters) -> Values:
        values = observations.values(spec.value, filters, keep)
        require(values, spec.average_over, "average_over")
        if trend:
            return slopes(values, spec.over, spec.log, spec.absent, spec.average_over)
        return values

    of_filters, than_filters = side_filters(case, observations)
    of = read(of_filters)
    than = None if than_filters is None else read(than_filters)
    if than is not None and of.unit != than.unit:
        raise NoRows(f"of is in {of.unit} and than in {than.unit}: the units differ")
    return of, than


def _unpaired(case: Case, of: Values, than: Values, unit: str) -> _Sample:
    """The sides are different replicates (architectures, say): two independent groups."""
    spec: Any = case.spec
    a, b = (single(side, spec.replicate) for side in (of, than))
    if both := set(a.replicates) & set(b.replicates):
        raise NoRows(f"{spec.replicate} {', '.join(sorted(both))} is on both sides")
    sizes = f"unpaired: {len(a.replicates)} {spec.replicate} values against {len(b.replicates)}"
    notes = [*a.notes, *b.notes, sizes]
    if getattr(spec, "relative", False):
        estimator, average = statistics.welch_ratio, None
    else:
        estimator, average = statistics.welch_difference, _mean_difference
    return _Sample([a.of, b.of], estimator, average, unit, notes, independent=True)


def _correlation(case: Case, observations: Observations) -> _Sample:
    """Two quantities of the same models, averaged to the claim's units."""
    spec: Any = case.spec
    filters: Filters = [spec.where, case.fixed]
    for column in {*spec.where, *case.fixed}:
        if not any(column in observations.columns_of(q) for q in (spec.x, spec.y)):
            raise NoRows(f"neither x nor y has a column {column}")
    units = [] if spec.replicate in ("model", "cell") else [spec.replicate]
    keep = [*units, *spec.along, *([spec.within] if spec.within else [])]
    x, y = (observations.values(q, filters, keep, main=False) for q in (spec.x, spec.y))
    wanted = [c for c in x.codes if c in y.codes and c not in spec.average_over]
    keys, notes = shared(x, y, wanted)
    notes = list(dict.fromkeys([*x.notes, *y.notes, *notes]))
    x, y = matched(x, y, keys)
    require(x, keep, "x and y have not in common")
    if not len(x.numbers):
        raise NoRows("no model has both x and y")
    method = statistics.spearman if spec.method == "spearman" else statistics.pearson
    if spec.along:
        return _along(spec, x, y, method, notes)
    by = {"model": keys, "cell": [k for k in keys if k != "seed"]}.get(spec.replicate, keep)
    x, y = x.mean_by(by), y.mean_by(by)
    if spec.replicate in ("model", "cell"):
        notes += _clusters(x, spec.replicate)
    numbers = [x.numbers, y.numbers]
    if spec.within is not None:
        numbers.append(x.codes[spec.within].astype(float))
    return _Sample(numbers, _varying(method), None, "1", notes)


def _along(spec: Correlation, x: Values, y: Values, method: Any, notes: list[str]) -> _Sample:
    """Each replicate's own correlation along columns (Fisher's z), averaged over its curves."""
    by = [spec.replicate, *(c for c in x.codes if c not in {spec.replicate, *spec.along})]
    first, curve = grouped([x.codes[c] for c in by], len(x.numbers))
    z = np.full(len(first), np.nan)
    long = np.bincount(curve) >= 4
    for i in np.flatnonzero(long):
        z[i] = method(x.numbers[curve == i], y.numbers[curve == i]).centre
    if not long.any():
        raise NoRows(f"no curve along {', '.join(spec.along)} has the 4 points that it needs")
    if not long.all():
        notes = [
            *notes,
            f"{(~long).sum()} of {len(long)} curves have fewer than 4 points: left out",
        ]
    curves = Values({c: x.codes[c][first] for c in by}, z, x.texts, "1").take(np.flatnonzero(long))
    replicates = curves.mean_by([spec.replicate]).numbers
    return _Sample([replicates], statistics.mean_correlation, _mean_correlation, "1", notes)


def _varying(method: Callable[..., statistics.Estimate]) -> Callable[..., statistics.Estimate]:
    """A correlation that says which side does not vary, where it would be 0 / 0."""

    def estimate(x: Any, y: Any, groups: Any = None) -> statistics.Estimate:
        found = method(x, y, groups)
        if np.isnan(found.value):
            raise ValueError("x or y does not vary over the units, so there is no correlation")
        return found

    return estimate


def _clusters(units: Values, replicate: str) -> list[str]:
    """Warn that models which share an architecture or a seed are not independent."""
    n = len(units.numbers)
    sizes = {column: len(set(codes.tolist())) for column, codes in units.codes.items()}
    common = [f"{size} {column}" for column, size in sizes.items() if 1 < size < n]
    if not common:
        return []
    return [f"{n} {replicate}s come from {', '.join(common)}: they are not independent"]


def _mean_correlation(z: NDArray[np.float64]) -> float:
    return float(np.tanh(z.mean()))


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean())


def _mean_difference(of: NDArray[np.float64], than: NDArray[np.float64]) -> float:
    return float(of.mean() - than.mean())


def gates(case: Case, observations: Observations) -> tuple[str | None, str | None]:
    """Check a case's gates: (what was found in words, what failed or None)."""
    texts, failures = [], []
    for gate in case.spec.gate:
        try:
            text, passed = _gate(gate, case, observations)
        except NoRows as error:
            text, passed = f"{gate.name}: {error}", False
        texts.append(text)
        if not passed:
            failures.append(f"gate failed: {text}")
    return "; ".join(texts) or None, "; ".join(failures) or None


def _gate(gate: Gate, case: Case, observations: Observations) -> tuple[str, bool]:
    sides = {
        name: observations.values(gate, filters, main=False)
        for name, filters in zip(("of", "than"), side_filters(case, observations), strict=True)
        if filters is not None
    }
    found, passed = [], True
    for limit, name, sign in ((gate.at_least, "at least", 1), (gate.at_most, "at most", -1)):
        if limit is None:
            continue
        # numpy's minimum keeps a NaN, which then fails the comparison
        worst = {key: sign * np.min(sign * s.numbers) for key, s in sides.items()}
        passed &= all(sign * end >= sign * limit for end in worst.values())
        ends = ", ".join(f"{end:.4g}{f' ({k})' * (len(worst) > 1)}" for k, end in worst.items())
        found.append(f"{'lowest' if sign > 0 else 'highest'} {ends}, needs {name} {limit:g}")
    if gate.within is not None:
        spec: Any = case.spec
        replicate = spec.replicate if spec.replicate in sides["of"].codes else "seed"
        pairs = pair(sides["of"], sides["than"], replicate, _unmatched(case))
        gap = float((pairs.of - pairs.than).mean())  # type: ignore[operator]
        passed &= abs(gap) <= gate.within
        found.append(f"mean difference {gap:.4g}, needs within {gate.within:g}")
    return f"{gate.name}: {'; '.join(found)}", passed
