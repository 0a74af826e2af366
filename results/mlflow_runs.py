"""What the MLflow mirror says of each trial, as plain values: pure, and without MLflow.

Equal trials give equal texts, whatever was mirrored before, so digests tell what must be written.
"""

from __future__ import annotations

import hashlib
import json
import math
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sensweep.results.schema import canonical_json

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

#: MLflow's own statuses. A trial that was stopped, or never ran as an ancestor failed, is KILLED.
STATUS = {"done": "FINISHED", "stopped": "KILLED", "failed": "FAILED", "skipped": "KILLED"}

#: Stands for a parameter that a trial does not have and another one of its stage has: charts
#: over parameters leave out runs that lack one.
ABSENT = "n/a"

MOST_TEXT = 5000  # MLflow holds 6000 characters of a parameter and 8000 of a tag
_MOST_NAME = 250
_NOT_IN_NAMES = re.compile(r"[^\w.\-/ ]")


@dataclass(frozen=True)
class RunText:
    """One trial as MLflow will show it.

    Attributes:
        trial_id, stage, cell: which trial (a trial may stand in two stages of a sweep).
        name: short and for people, such as `train vit digits none s0`.
        status: MLflow's.
        started, ended: milliseconds since 1970.
        params: point, seed and the task's parameters, flattened with dots.
        metrics: name, value and step; NaN stands for an infinity too, which MLflow would turn
            into 1.8e308. The tag `sensweep.infinite` names those.
        tags: for filters and grouping.
    """

    trial_id: str
    stage: str
    cell: str
    name: str
    status: str
    started: int
    ended: int
    params: dict[str, str]
    metrics: list[tuple[str, float, int]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str]:
        """What tells the trial from all others of its sweep."""
        return self.trial_id, self.stage, self.cell

    @cached_property
    def core(self) -> str:
        """Identifies what MLflow cannot change any more once it is written."""
        return digest([self.status, self.started, self.ended, self.metrics])

    @cached_property
    def digest(self) -> str:
        """Identifies all of it."""
        return digest([self.core, self.name, self.params, self.tags])


def digest(content: object) -> str:
    """Return 16 hex digits that stand for a JSON value."""
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()[:16]


_TRIALS = """
    select t.sweep, t.stage, t.task, t.cell, t.seed, t.trial_id, t.status, t.error, t.current,
        t.point, t.params, t.parents, a.started, a.ended, a.log
    from trials t left join (
        select trial_id, arg_max(epoch_ms(started), rank) as started,
            arg_max(epoch_ms(started) + (1000 * seconds)::bigint, rank) as ended,
            arg_max(log, rank) as log
        from (
            select *, (status in ('done', 'stopped'), sweep = $sweep, epoch, attempt) as rank
            from attempts
        ) group by trial_id
    ) a using (trial_id)
    where t.sweep = $sweep and t.status <> 'pending' and (t.current or t.status <> 'skipped')
    order by t.stage, t.point, t.seed, t.trial_id
"""

# Beside `rows`, which leaves out what an edited study no longer plans.
_MEASUREMENTS = """
    select trial_id, list([name, coordinates] order by seq), list(value order by seq),
        list(coalesce(step, 0) order by seq)
    from stored.measurements
    where trial_id in (select trial_id from trials where sweep = $sweep)
    group by trial_id
"""


def run_texts(connection: DuckDBPyConnection, sweep: str) -> list[RunText]:
    """Make the texts of a sweep's trials, those that wait for their turn left out.

    Args:
        connection: of `views.connect`.
        sweep: the sweep.
    """
    measured = {
        trial_id: (names, values, steps)
        for trial_id, names, values, steps in _lines(connection, _MEASUREMENTS, sweep)
    }
    relation = connection.execute(_TRIALS, {"sweep": sweep})
    columns = [column[0] for column in relation.description or []]
    trials = [dict(zip(columns, line, strict=True)) for line in relation.fetchall()]
    params = [_params(trial) for trial in trials]
    keys: dict[str, dict[str, None]] = {}
    for trial, own in zip(trials, params, strict=True):
        keys.setdefault(trial["stage"], {}).update(dict.fromkeys(own))
    texts = []
    for trial, own in zip(trials, params, strict=True):
        full = {key: own.get(key, ABSENT) for key in sorted(keys[trial["stage"]])}
        found = measured.get(trial["trial_id"]) if trial["status"] in ("done", "stopped") else None
        texts.append(_text(trial, full, *(found or ([], [], []))))
    return texts


def _text(
    trial: Mapping[str, Any],
    params: dict[str, str],
    names: list[list[str]],
    values: list[float],
    steps: list[int],
) -> RunText:
    metrics, infinite = [], []
    for (name, coordinates), value, step in zip(names, values, steps, strict=True):
        key = metric_name(name, coordinates)
        if math.isinf(value):
            infinite.append(f"{key}@{step}={value}")
        metrics.append((key, value if math.isfinite(value) else math.nan, step))
    point = json.loads(trial["point"])
    tags = {
        "sensweep.trial_id": trial["trial_id"],
        "sensweep.cell": trial["cell"],
        "sensweep.current": str(trial["current"]).lower(),
        "sensweep.task": trial["task"],
        "sensweep.error": trial["error"] or "",
        "sensweep.log": trial["log"] or "",
        "sensweep.infinite": " ".join(infinite),
        "sweep": trial["sweep"],
        "stage": trial["stage"],
        "seed": str(trial["seed"]),
        "status": trial["status"],
    }
    tags |= {
        safe_name(key): _scalar(label) for key, label in point.items() if safe_name(key) not in tags
    }
    selects = [parent["select"] for parent in json.loads(trial["parents"])]
    labels = [_scalar(label) for label in point.values()]
    labels += [select for select in selects if select != "final"]
    return RunText(
        trial_id=trial["trial_id"],
        stage=trial["stage"],
        cell=trial["cell"],
        name=" ".join([trial["stage"], *labels, f"s{trial['seed']}"])[:_MOST_NAME],
        status=STATUS[trial["status"]],
        started=trial["started"] or 0,
        ended=trial["ended"] or trial["started"] or 0,
        params=params,
        metrics=metrics,
        tags={key: value[:MOST_TEXT] for key, value in tags.items() if value},
    )


def metric_name(name: str, coordinates: str) -> str:
    """Name a metric after a measurement: `sensitivity` at `{"sigma":0.1}` -> sensitivity.sigma_0.1.

    Args:
        name: what was measured.
        coordinates: canonical JSON.
    """
    parts = [f".{key}_{_scalar(value)}" for key, value in json.loads(coordinates).items()]
    return safe_name(name + "".join(parts))


def safe_name(name: str) -> str:
    """Return a name that MLflow accepts; names that differ stay different.

    MLflow takes letters, digits and `_-./` and blanks, at most 250, without path tricks.
    """
    safe = _NOT_IN_NAMES.sub("_", name)
    if safe == "." or safe.startswith(("/", "..")) or posixpath.normpath(safe) != safe:
        safe = safe.replace("/", "_").strip(".")
    if safe == name and 0 < len(safe) <= _MOST_NAME:
        return safe
    return f"{safe[: _MOST_NAME - 7]}.{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def _params(trial: Mapping[str, Any]) -> dict[str, str]:
    point = {key: _scalar(label) for key, label in json.loads(trial["point"]).items()}
    params = {**point, "seed": str(trial["seed"])}
    for key, value in _flat("", json.loads(trial["params"])):
        # A label may stand for another value ("small": 0.1); both are told.
        params[key if params.get(key, value) == value else f"{key}.value"] = value
    return {safe_name(key): value[:MOST_TEXT] for key, value in params.items()}


def _flat(prefix: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else key, inner)
    elif prefix:
        yield prefix, _scalar(value)


def _scalar(value: object) -> str:
    return value if isinstance(value, str) else canonical_json(value)


def _lines(connection: DuckDBPyConnection, sql: str, sweep: str) -> Iterable[tuple[Any, ...]]:
    return connection.execute(sql, {"sweep": sweep}).fetchall()
