"""A trial and its identity: a hash of everything that decides its numbers, and of nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sensweep.orchestrator.axes import Point


@dataclass(frozen=True, slots=True)
class Parent:
    """An earlier trial, and which of its checkpoints are analysed."""

    stage: str
    trial_id: str
    select: str


@dataclass(frozen=True, slots=True)
class Trial:
    """One point of one stage with one seed.

    Attributes:
        trial_id: 24 hex digits, from `identity`.
        stage: the stage's name in its study.
        task: `module:function`.
        params: what the task receives.
        seed: what its random streams are derived from.
        parents: one per stage that it needs, in the order of its needs.
        point: axis -> label, inherited ones included.
        code: digest of the code that computes it.
        data: parameter -> digest of the dataset that it names.
        cell: 16 hex digits, from `cell`: trials that differ in their seed alone share it.
    """

    trial_id: str
    stage: str
    task: str
    params: Mapping[str, object]
    seed: int
    parents: tuple[Parent, ...]
    point: Point
    code: str
    data: Mapping[str, str]
    cell: str


def canonical_json(value: object) -> str:
    """Write JSON in the one form that is stored and hashed: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def trial_columns(
    trials: Sequence[Trial], code: Mapping[str, Mapping[str, str]]
) -> dict[str, list[object]]:
    """Return trials as columns of the `trials` table, `sweep` and `epoch` excepted."""
    files = {stage: canonical_json(digests) for stage, digests in code.items()}
    return {
        "trial_id": [t.trial_id for t in trials],
        "stage": [t.stage for t in trials],
        "task": [t.task for t in trials],
        "point": [canonical_json(t.point) for t in trials],
        "params": [canonical_json(t.params) for t in trials],
        "seed": [t.seed for t in trials],
        "parents": [canonical_json(list(_parents(t))) for t in trials],
        "code": [t.code for t in trials],
        "code_files": [files[t.stage] for t in trials],
        "data": [canonical_json(t.data) for t in trials],
        "cell": [t.cell for t in trials],
    }


def _parents(trial: Trial) -> Iterator[dict[str, str]]:
    for parent in trial.parents:
        yield {"stage": parent.stage, "trial_id": parent.trial_id, "select": parent.select}


def identity(
    task: str,
    code: str,
    params: str,
    seed: int,
    data: Mapping[str, str],
    parents: Sequence[Parent],
) -> str:
    """Hash what decides a trial's numbers: 24 hex digits.

    The stage's name, labels, resources, cluster and time do not count, nor do the order and
    comments of the study file. The name of a needed stage counts only among several, where it is
    how the task tells their checkpoints apart.

    Args:
        task: `module:function`.
        code: digest of the code.
        params: `comparable` of the params, those aside whose content `data` identifies.
        seed: the seed.
        data: parameter -> digest of the dataset.
        parents: the needed trials.
    """
    needed = [
        [parent.trial_id, parent.select] + ([parent.stage] if len(parents) > 1 else [])
        for parent in parents
    ]
    rest = canonical_json([task, code, seed, dict(data), needed])
    return hashlib.blake2b(f"{rest}{params}".encode(), digest_size=12).hexdigest()


def cell(stage: str, point: Point) -> str:
    """Hash a stage and a point: 16 hex digits."""
    return hashlib.blake2b(comparable([stage, point]).encode(), digest_size=8).hexdigest()


def comparable(value: object) -> str:
    """Write JSON that is equal for equal values: 1 and 1.0 are one number, as they are in Python.

    True and 1 stay apart: a switch is no number.
    """
    return canonical_json(_comparable(value))


def _comparable(value: object) -> object:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: _comparable(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_comparable(inner) for inner in value]
    return value
