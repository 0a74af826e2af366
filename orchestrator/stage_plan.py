"""The trials of one stage: points, parents, params, code and data, put together."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from sensweep.orchestrator import space
from sensweep.orchestrator.axes import Label, Point
from sensweep.orchestrator.code_digest import CodeDigest, code_digest
from sensweep.orchestrator.errors import FieldError
from sensweep.orchestrator.study import Study
from sensweep.orchestrator.task_lookup import check_params, find_function, find_task
from sensweep.orchestrator.trial import Parent, Trial, canonical_json, cell, comparable, identity
from sensweep.tasks import catalog
from sensweep.tasks.api import TaskError


class StagePlan:
    """Plans one stage: what its trials share is found once."""

    def __init__(self, study: Study, name: str) -> None:
        self.study, self.name, self.stage = study, name, study.stages[name]
        self.own = study.own_axes(name)
        self.files: dict[str, str] = {}
        with At("stages", name, "task"):
            self.source = find_task(self.stage.task, study.folders)
        # Relative paths are those of the command line first, then the study file's.
        self._roots = (Path.cwd(), *study.folders)
        self._params: dict[str, tuple[dict[str, object], str, str, dict[str, str]]] = {}
        self._points: dict[str, list[Point]] = {}
        self._data: dict[str, str] = {}
        self._code: dict[str, CodeDigest] = {}

    def trials(
        self,
        earlier: Sequence[Trial],
        of_stage: Mapping[str, range],
        seeds: Sequence[int],
        fixed: Point | None = None,
        free: Collection[str] = (),
    ) -> Iterator[tuple[Trial, tuple[int, ...]]]:
        """Yield the stage's trials with the indices of their parents, by seed, then point.

        Args:
            earlier: the trials of earlier stages, of which `of_stage` has the range of each.
            seeds: of a stage that needs nothing.
            fixed: labels of axes that are not to be crossed; an axis neither here nor in `free`
                is absent. None to cross all axes.
            free: with `fixed`, the axes that are crossed all the same.
        """
        cells: dict[str, str] = {}
        for seed, inherited, indices in self._origins(earlier, of_stage, seeds):
            parents = tuple(
                Parent(need.stage, earlier[i].trial_id, str(need.select))
                for need, i in zip(self.stage.needs, indices, strict=True)
            )
            for added in self._own_points(inherited, fixed, free):
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
        self, earlier: Sequence[Trial], of_stage: Mapping[str, range], seeds: Sequence[int]
    ) -> Iterator[tuple[int, Point, tuple[int, ...]]]:
        """Yield (seed, inherited point, parents' indices), one for each of the stage's parents.

        Several needs are joined: parents go together that have the same seed, and the same label
        on each axis that they share.
        """
        if not self.stage.needs:
            yield from ((seed, {}, ()) for seed in seeds)
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

    def _own_points(
        self, inherited: Point, fixed: Point | None, free: Collection[str]
    ) -> list[Point]:
        """Expand the stage's own axes where the inherited labels are these."""
        axes = self.study.axes
        if fixed is not None:
            pinned = {name: fixed[name] for name in self.own if name in fixed}
            crossed = [name for name in self.own if name in free]
            found = space.grid(axes, crossed, inherited | pinned) if crossed else [pinned]
            return [{n: label for n, label in p.items() if n in self.own} for p in found]
        relevant = set().union(*(axes[name].conditions for name in self.own)) if self.own else set()
        given = {name: label for name, label in inherited.items() if name in relevant}
        key = canonical_json(given)
        if key not in self._points:
            drawn = self.stage.space
            if self.stage.points is not None:
                with At("stages", self.name, "points"):
                    found = space.listed(axes, self.stage.points, given)
            elif drawn is not None:
                with At("stages", self.name, "space"):
                    found = space.draw(axes, self.own, drawn.random, drawn.seed, given)
            else:
                with At("axes"):
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
                where = "" if path or not own else f" (at {named(own)})"
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
                with At(*self._place(("arch",), own)):
                    root = find_function(extra, self.study.folders, "architecture")
                digest |= code_digest(extra.partition(":")[0], root)
            self._code[extra] = digest
            self.files |= digest.files
        return self._code[extra].digest


def named(point: Mapping[str, Label]) -> str:
    """Name a point in a message."""
    return ", ".join(f"{axis} {label}" for axis, label in point.items())


class At:
    """Puts a path before that of a `FieldError` raised inside."""

    def __init__(self, *path: str | int) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if isinstance(error, FieldError):
            raise FieldError(error.message, *self._path, *error.path) from None
