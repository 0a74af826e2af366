"""Verdicts: a study's claims judged by its rows, corrected over each family.

>>> results = evaluate_study(study, rows)        # rows: the `rows` view as a DataFrame
>>> [(r.key, r.verdict) for r in results]
[('1.1[sigma=0.1]', 'supported'), ...]
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sensweep.results.claim_check import check
from sensweep.results.claim_spec import ClaimSpec, ClaimSpecs

if TYPE_CHECKING:
    import pandas as pd

    from sensweep.results.claim_cases import Case
    from sensweep.results.claim_effects import Effect
    from sensweep.results.statistics import Decision, Hypothesis, Verdict

__all__ = [
    "ClaimResult",
    "ClaimSpec",
    "ClaimSpecs",
    "as_records",
    "check",
    "evaluate",
    "evaluate_study",
]


@dataclass(frozen=True)
class ClaimResult:
    """One row of the report's claims table.

    Attributes:
        id: the claim's.
        key: id and what it was expanded over: ``1.1[sigma=0.1,than arch=mlp]``.
        statement, type, family, replicate, figure, fragile, direction: as the claim has them.
        verdict: supported, refuted, inconclusive; None for a descriptive claim.
        effect: which number the estimate is, in words.
        estimate, low, high: of - than (or a slope, correlation, mean) in `unit`, *not* turned
            into the claimed direction; None where there is none.
        unit: of the estimate and its interval; "1" for relative differences and correlations.
        bound: smallest effect that matters, or margin; None for a descriptive claim.
        n: replicates that the estimate is made of.
        non_finite: replicates left out of it because of a NaN or an infinity.
        level: confidence level of this interval after Holm's correction.
        p_value: smallest alpha at which this claim alone would get its verdict, either way;
            p_adjusted: the same within its family (Holm).
        family_size: verdicts in the family, expansions and impossible ones included.
        gate: what the gate found, or None.
        note: what a reader must know beside the number, or None.
        reason: why the verdict is not `supported`, or None.
    """

    id: str
    key: str
    statement: str
    type: str
    verdict: Verdict | None
    effect: str
    estimate: float | None
    low: float | None
    high: float | None
    unit: str
    direction: str | None
    bound: float | None
    n: int
    non_finite: int
    replicate: str
    level: float
    p_value: float | None
    p_adjusted: float | None
    family: str
    family_size: int
    gate: str | None
    note: str | None
    reason: str | None
    fragile: str | None
    figure: str | None


@dataclass(frozen=True)
class _Judged:
    case: Case
    effect: Effect
    gate: str | None
    blocked: str | None


def evaluate_study(study: Mapping[str, Any], rows: pd.DataFrame) -> list[ClaimResult]:
    """Judge the claims of a resolved study (its JSON form, key ``claims``).

    Args: `rows` as for `evaluate`.

    Raises:
        ValueError: a claim is malformed (pydantic's ValidationError is one), or see `evaluate`.
    """
    return evaluate(ClaimSpecs.validate_python(study.get("claims") or []), rows)


def evaluate(specs: Sequence[ClaimSpec], rows: pd.DataFrame) -> list[ClaimResult]:
    """Judge claims by the rows of one sweep, in the claims' order, expansions sorted.

    Args:
        specs: the claims.
        rows: the columns of the `rows` view (sweep, stage, task, cell, seed, trial_id, seq, name,
            value, step, unit, and one per axis and coordinate).

    Raises:
        ValueError: `rows` lacks a fixed column, or claims of one family differ in level.
    """
    from sensweep.results.claim_cases import cases
    from sensweep.results.claim_data import Observations
    from sensweep.results.claim_effects import effect, gates

    observations = Observations(rows)
    judged = []
    for spec in specs:
        for case in cases(spec, observations):
            found = effect(case, observations)
            text, failed = gates(case, observations)
            reasons = [reason for reason in (failed, found.blocked) if reason is not None]
            judged.append(_Judged(case, found, text, "; ".join(reasons) or None))
    families = defaultdict[str, list[_Judged]](list)
    for one in judged:
        if one.case.spec.type != "descriptive":
            families[one.case.spec.family].append(one)
    results = {
        id(one): _row(one, _undecided(one, one.case.spec.level, None))
        for one in judged
        if one.case.spec.type == "descriptive"
    }
    for name, members in families.items():
        results |= _judge_family(name, members)
    return [results[id(one)] for one in judged]


def as_records(results: Sequence[ClaimResult]) -> list[dict[str, Any]]:
    """Claims as JSON-able dictionaries; numbers that are not finite become None.

    Beside the fields of `ClaimResult` each has `interval`: [low, high], or None.
    """
    records = []
    for result in results:
        record = {
            field: None if isinstance(value, float) and not math.isfinite(value) else value
            for field, value in asdict(result).items()
        }
        low, high = record["low"], record["high"]
        records.append(record | {"interval": None if low is None or high is None else [low, high]})
    return records


def _judge_family(name: str, members: Sequence[_Judged]) -> dict[int, ClaimResult]:
    from sensweep.results.statistics import decide

    levels = {one.case.spec.level for one in members}
    if len(levels) > 1:
        raise ValueError(
            f"claims of family {name!r} have several levels, {sorted(levels)}: give one"
        )
    level, hypotheses = levels.pop(), [_hypothesis(one.case.spec) for one in members]
    decisions = decide(
        [
            None
            if one.blocked or one.effect.estimate is None
            else (one.effect.estimate, hypothesis)
            for one, hypothesis in zip(members, hypotheses, strict=True)
        ],
        level,
    )
    # what could not be judged shares the level at which Holm's procedure stopped
    decided = sum(d is not None and d.verdict != "inconclusive" for d in decisions)
    rest = 1 - (1 - level) / max(len(members) - decided, 1)
    rows = {}
    for one, hypothesis, decision in zip(members, hypotheses, decisions, strict=True):
        made = decision or _undecided(one, rest, "inconclusive")
        rows[id(one)] = _row(one, made, hypothesis.bound, len(members))
    return rows


def _undecided(one: _Judged, level: float, verdict: Verdict | None) -> Decision:
    from sensweep.results.statistics import Decision

    if one.effect.estimate is None:
        return Decision(verdict, None, None, level, None, None)
    low, high = one.effect.estimate.interval(level)
    return Decision(verdict, float(low), float(high), level, None, None)


def _row(
    one: _Judged, decision: Decision, bound: float | None = None, family_size: int = 0
) -> ClaimResult:
    spec, found = one.case.spec, one.effect
    return ClaimResult(
        id=spec.id,
        key=one.case.key,
        statement=spec.statement,
        type=spec.type,
        verdict=decision.verdict,
        effect=found.words,
        estimate=found.value,
        low=decision.low,
        high=decision.high,
        unit=found.unit,
        direction=getattr(spec, "direction", None),
        bound=bound,
        n=found.n,
        non_finite=found.non_finite,
        replicate=spec.replicate,
        level=decision.level,
        p_value=decision.p_value,
        p_adjusted=decision.p_adjusted,
        family=spec.family,
        family_size=family_size,
        gate=one.gate,
        note="; ".join(found.notes) or None,
        reason=one.blocked or decision.reason,
        fragile=spec.fragile,
        figure=spec.figure,
    )


def _hypothesis(spec: Any) -> Hypothesis:
    from sensweep.results.statistics import Hypothesis

    direction = getattr(spec, "direction", "none")
    sign = -1 if direction == "lower" else 1
    if spec.type == "noninferiority":
        return Hypothesis("noninferiority", spec.margin, sign)
    if direction == "none":
        return Hypothesis("equivalence", spec.margin)
    return Hypothesis("superiority", spec.smallest_effect, sign)
