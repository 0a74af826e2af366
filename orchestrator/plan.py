"""From a study to its trials, and what of them is left to do. Runs nothing, imports no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sensweep.orchestrator import space
from sensweep.orchestrator.axes import Label, Point
from sensweep.orchestrator.code_digest import CodeDigest, code_digest
from sensweep.orchestrator.errors import FieldError, InputError, joined
from sensweep.orchestrator.recorded import Recorded
from sensweep.orchestrator.study import Study
from sensweep.orchestrator.task_lookup import (
    check_params,
    find_function,
    find_task,
)
from sensweep.orchestrator.trial import Parent, Trial, canonical_json, cell, comparable, identity
from sensweep.tasks import catalog
from sensweep.tasks.api import TaskError

Status = Literal["done", "new", "rebuild", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Plan:
    """The trials of a study, each after its parents, and the status of each.

    Attributes:
        study: what was planned.
        stages: the stages in the order of the trials.
        trials: ordered by stage, then seed, then point.
        parents: per trial, the indices of its parents.
        status: per trial: `done` in this home; `new`; `rebuild` (done, but a checkpoint that a
            new dependant needs is gone); `failed` (raised before, and is not to be retried);
            `skipped` (a parent failed).
        code: per stage, the digests of its code's files (of all trials of the stage).
    """

    study: Study
    stages: tuple[str, ...]
    trials: tuple[Trial, ...]
    parents: tuple[tuple[int, ...], ...]
    status: tuple[Status, ...]
    code: Mapping[str, Mapping[str, str]]

    @property
    def to_run(self) -> list[int]:
        """The indices of the trials that are new or must be rebuilt."""
        return [i for i, status in enumerate(self.status) if status in ("new", "rebuild")]

    def counts(self) -> dict[str, Counter[Status]]:
        """How many trials of each stage have each status."""
        found: dict[str, Counter[Status]] = {stage: Counter() for stage in self.stages}
        for trial, status in zip(self.trials, self.status, strict=True):
            found[trial.stage][status] += 1
        return found

    def columns(self, indices: Sequence[int]) -> dict[str, list[object]]:
        """Return trials as columns of the `trials` table, `sweep` and `epoch` excepted."""
        trials = [self.trials[i] for i in indices]
        files = {stage: canonical_json(self.code[stage]) for stage in self.stages}
        return {
            "trial_id": [t.trial_id for t in trials],
            "stage": [t.stage for t in trials],
            "task": [t.task for t in trials],
            "point": [canonical_json(t.point) for t in trials],
            "params": [canonical_json(t.params) for t in trials],
            "seed": [t.seed for t in trials],
            "parents": [
                canonical_json(
                    [
                        {"stage": p.stage, "trial_id": p.trial_id, "select": p.select}
                        for p in t.parents
                    ]
                )
                for t in trials
            ],
            "code": [t.code for t in trials],
            "code_files": [files[t.stage] for t in trials],
            "data": [canonical_json(t.data) for t in trials],
            "cell": [t.cell for t in trials],
        }


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is left to run would take, going by the durations of what is done.

    Attributes:
        seconds: of wall time on all of the cluster's cores, were they always busy.
        worker_hours: hours of attempts, summed.
        known: trials to run whose duration could be estimated; the figures are for these.
        unknown: trials to run with nothing like them done yet.
    """

    seconds: float
    worker_hours: float
    known: int
    unknown: int


def make_plan(study: Study, recorded: Recorded | None = None, retry_failed: bool = False) -> Plan:
    """Expand a study into its trials and compare them with what a home has.

    Args:
        study: the study, under the profile it was loaded with.
        recorded: what the home has; nothing by default.
        retry_failed: plan trials that failed as new.

    Raises:
        InputError: a task, its params, its code or its data are not usable; or two trials are
            one and the same.
    """
    recorded = recorded or Recorded()
    trials: list[Trial] = []
    parents: list[tuple[int, ...]] = []
    code: dict[str, dict[str, str]] = {}
    of_stage: dict[str, range] = {}
    try:
        for stage in study.order():
            start = len(trials)
            planned = _StagePlan(study, stage)
            for trial, indices in planned.trials(trials, of_stage):
                trials.append(trial)
                parents.append(indices)
            of_stage[stage], code[stage] = range(start, len(trials)), planned.files
        _refuse_twins(trials)
    except FieldError as error:
        raise InputError(f"{study.source}: {joined(error.path)}: {error.message}") from None
    status = _status(trials, parents, recorded, retry_failed)
    return Plan(
        study=study,
        stages=tuple(of_stage),
        trials=tuple(trials),
        parents=tuple(parents),
        status=status,
        code=code,
    )


def estimate(plan: Plan, recorded: Recorded, cpus: float) -> Estimate:
    """Estimate the time that a plan takes on a cluster of so many CPU cores."""
    core_seconds = worker_seconds = 0.0
    known = 0
    for i in plan.to_run:
        trial = plan.trials[i]
        seconds = recorded.expected_seconds(trial.stage, trial.task, trial.params, trial.point)
        if seconds is not None:
            known += 1
            worker_seconds += seconds
            core_seconds += seconds * plan.study.stages[trial.stage].resources.cpus
    unknown = len(plan.to_run) - known
    return Estimate(core_seconds / cpus, worker_seconds / 3600, known, unknown)


class _StagePlan:
    """Plans one stage: what its trials share is found once."""

    def __init__(self, study: Study, name: str) -> None:
        self.study, self.name, self.stage = study, name, study.stages[name]
        self.own = study.own_axes(name)
        self.files: dict[str, str] = {}
        with _At("stages", name, "task"):
            self.source = find_task(self.stage.task, study.folders)
        # Relative paths are those of the command line first, then the study file's.
        self._roots = (Path.cwd(), *study.folders)
        self._params: dict[str, tuple[dict[str, object], str, str, dict[str, str]]] = {}
        self._points: dict[str, list[Point]] = {}
        self._data: dict[str, str] = {}
        self._code: dict[str, CodeDigest] = {}

    def trials(
        self, earlier: Sequence[Trial], of_stage: Mapping[str, range]
    ) -> Iterator[tuple[Trial, tuple[int, ...]]]:
        """Yield the stage's trials with the indices of their parents, by seed, then point."""
        cells: dict[str, str] = {}
        for seed, inherited, indices in self._origins(earlier, of_stage):
            parents = tuple(
                Parent(need.stage, earlier[i].trial_id, str(need.select))
                for need, i in zip(self.stage.needs, indices, strict=True)
            )
            for added in self._own_points(inherited):
                point = inherited | added
                key = canonical_json(point)
                if key not in cells:
                    cells[key] = cell(self.name, point)
                params, hashed, code, data = self._resolve(point)
                yield (
                    Trial(
                        identity(self.source.name, code, hashed, seed, data, parents),
                        self.name,
                        self.source.name,
                        params,
                        seed,
                        parents,
                        point,
                        code,
                        data,
                        cells[key],
                    ),
                    indices,
                )

    def _origins(
        self, earlier: Sequence[Trial], of_stage: Mapping[str, range]
    ) -> Iterator[tuple[int, Point, tuple[int, ...]]]:
        """Yield (seed, inherited point, parents' indices), one for each of the stage's parents.

        Several needs are joined: parents go together that have the same seed, and the same label
        on each axis that they share.
        """
        if not self.stage.needs:
            yield from ((seed, {}, ()) for seed in self.study.seeds)
            return
        joined_: list[tuple[int, Point, tuple[int, ...]]] = [
            (earlier[i].seed, earlier[i].point, (i,)) for i in of_stage[self.stage.needs[0].stage]
        ]
        for need in self.stage.needs[1:]:
            by_seed: dict[int, list[int]] = {}
            for i in of_stage[need.stage]:
                by_seed.setdefault(earlier[i].seed, []).append(i)
            joined_ = [
                (seed, point | earlier[i].point, (*indices, i))
                for seed, point, indices in joined_
                for i in by_seed.get(seed, ())
                if all(point.get(axis, label) == label for axis, label in earlier[i].point.items())
            ]
        yield from joined_

    def _own_points(self, inherited: Point) -> list[Point]:
        """Expand the stage's own axes where the inherited labels are these."""
        axes = self.study.axes
        relevant = set().union(*(axes[name].conditions for name in self.own)) if self.own else set()
        given = {name: label for name, label in inherited.items() if name in relevant}
        key = canonical_json(given)
        if key not in self._points:
            drawn = self.stage.space
            if self.stage.points is not None:
                with _At("stages", self.name, "points"):
                    found = space.listed(axes, self.stage.points, given)
            elif drawn is not None:
                with _At("stages", self.name, "space"):
                    found = space.draw(axes, self.own, drawn.random, drawn.seed, given)
            else:
                with _At("axes"):
                    found = space.grid(axes, self.own, given)
            self._points[key] = [
                {name: label for name, label in point.items() if name in self.own}
                for point in found
            ]
        return self._points[key]

    def _resolve(self, point: Point) -> tuple[dict[str, object], str, str, dict[str, str]]:
        """Return a point's params, what of them is hashed, the code's digest, and the data's."""
        own = {name: point[name] for name in self.own if name in point}
        key = canonical_json(own)
        if key not in self._params:
            given = self.stage.params | space.parameters(self.study.axes, self.own, point)
            params, problem = check_params(self.source, given)
            if problem is not None:
                path, message = problem
                where = "" if path or not own else f" (at {_named(own)})"
                raise FieldError(message + where, *self._place(path, own))
            params, data = self._datasets(params, own)
            hashed = {k: v for k, v in params.items() if k not in data or v in catalog.DATASETS}
            self._params[key] = params, comparable(hashed), self._digest(params, own), data
        return self._params[key]

    def _place(self, path: Sequence[str | int], own: Mapping[str, Label]) -> tuple[str | int, ...]:
        """Say where in the study file a param is: at its axis, or among the stage's params."""
        if path and path[0] in own:
            axis, label = str(path[0]), own[str(path[0])]
            labelled = any(b.labelled and label in b.values for b in self.study.axes[axis].blocks)
            return ("axes", axis, *((str(label),) if labelled else ()), *path[1:])
        return ("stages", self.name, "params", *path)

    def _datasets(
        self, params: dict[str, object], own: Mapping[str, Label]
    ) -> tuple[dict[str, object], dict[str, str]]:
        """Make the path of a dataset absolute, and digest the dataset.

        In a user's task `dataset` may be anything.
        """
        name = params.get("dataset")
        if not isinstance(name, str):
            return params, {}
        if name not in catalog.DATASETS:
            name = next(
                (str(path) for f in self._roots if (path := (f / name).resolve()).exists()), name
            )
        try:
            if name not in self._data:
                self._data[name] = catalog.dataset_digest(name)
        except TaskError as error:
            if self.source.params is None:
                return params, {}
            raise FieldError(str(error), *self._place(("dataset",), own)) from None
        return params | {"dataset": name}, {"dataset": self._data[name]}

    def _digest(self, params: Mapping[str, object], own: Mapping[str, Label]) -> str:
        """Digest the task's code, with that of a user's own architecture that the params name."""
        arch = params.get("arch")
        name = arch.get("name") if isinstance(arch, Mapping) else arch
        extra = name if isinstance(name, str) and ":" in name else ""
        if extra not in self._code:
            digest = code_digest(self.source.module, self.source.root)
            if extra:
                with _At(*self._place(("arch",), own)):
                    root = find_function(extra, self.study.folders, "architecture")
                digest |= code_digest(extra.partition(":")[0], root)
            self._code[extra] = digest
            self.files |= digest.files
        return self._code[extra].digest


def _named(point: Mapping[str, Label]) -> str:
    return ", ".join(f"{axis} {label}" for axis, label in point.items())


class _At:
    """Puts a path before that of a `FieldError` raised inside."""

    def __init__(self, *path: str | int) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, FieldError):
            raise FieldError(error.message, *self._path, *error.path) from None


def _refuse_twins(trials: Sequence[Trial]) -> None:
    """Refuse two places of the study that compute the same: one of them is a mistake."""
    seen: dict[str, Trial] = {}
    for trial in trials:
        twin = seen.setdefault(trial.trial_id, trial)
        if twin is not trial:
            raise FieldError(
                f"at {_named(trial.point)}: computes the same as {twin.stage} at "
                f"{_named(twin.point)} (task, params, data and seed are equal); drop one of them",
                "stages",
                trial.stage,
            )


def _status(
    trials: Sequence[Trial],
    parents: Sequence[tuple[int, ...]],
    recorded: Recorded,
    retry_failed: bool,
) -> tuple[Status, ...]:
    """Compare with the record, dependants first: they decide whether a parent is rebuilt."""
    status: list[Status] = [
        "done" if trial.trial_id in recorded.done
        else "failed" if trial.trial_id in recorded.failed and not retry_failed
        else "new"
        for trial in trials
    ]  # fmt: skip
    for i, indices in enumerate(parents):
        if status[i] == "new" and any(status[index] in ("failed", "skipped") for index in indices):
            status[i] = "skipped"
    for i in reversed(range(len(trials))):
        if status[i] not in ("new", "rebuild"):
            continue
        for parent, index in zip(trials[i].parents, parents[i], strict=True):
            if status[index] == "done" and not recorded.has_checkpoint(
                parent.trial_id, parent.select
            ):
                status[index] = "rebuild"
    return tuple(status)
