"""A point of a search as trials: the searched stage and all that follows from it, for some seeds.

The same planning as that of the grid (`stage_plan.py`), with every axis pinned to one label: a
point that two searches propose, or a grid has computed, is one and the same trial.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

from sensweep.orchestrator import space
from sensweep.orchestrator.axes import Block, Label, Point
from sensweep.orchestrator.errors import FieldError, InputError, joined
from sensweep.orchestrator.search_spec import BEST, CONFIRMED, NO_TEST_SET, SearchSpec
from sensweep.orchestrator.stage_plan import StagePlan
from sensweep.orchestrator.study import Study
from sensweep.orchestrator.trial import Trial, cell


class ChainPlanner:
    """Plans the chains of a study's searches.

    Attributes:
        spec: the study's search.
        stages: the stages of a chain, each after those that it needs.
        code: per stage, the digests of its code's files.
    """

    def __init__(self, study: Study) -> None:
        assert study.search is not None
        self.spec: SearchSpec = study.search
        self.stages = study.chain()
        self._study = study
        self._searched = set(study.searched())
        self._later = set(self.spec.confirm.stages) if self.spec.confirm is not None else set()
        for stage in self.stages:
            if self._later & {need.stage for need in study.stages[stage].needs}:
                self._later.add(stage)
        self._plans = {stage: StagePlan(study, stage) for stage in self.stages}
        self.code: dict[str, dict[str, str]] = {s: p.files for s, p in self._plans.items()}
        owners = [s for s in self.stages if set(study.own_axes(s)) & set(self.spec.axes)]
        before = set(owners)
        for stage in reversed(self.stages):
            if stage in before:
                before |= {need.stage for need in study.stages[stage].needs}
        own = [axis for s in self.stages if s in before for axis in study.own_axes(s)]
        self._cell_axes = [axis for axis in dict.fromkeys(own) if axis not in self.spec.axes]
        self._free = {
            axis
            for stage in self.stages
            for axis in study.own_axes(stage)
            if axis not in self._cell_axes and axis not in self.spec.axes
        }

    def cells(self) -> list[Point]:
        """List the points of the axes that are not searched: there is one search for each."""
        return space.grid(self._study.axes, self._cell_axes)

    def seeds(self) -> tuple[int, ...]:
        """List the seeds that a search gives each point, in their order."""
        return self._study.seeds[: self.spec.seeds]

    def chain(self, cell: Point, labels: Point, seeds: Sequence[int]) -> list[Trial]:
        """Plan a point that a search tries; parents come before their dependants."""
        return self._plan(cell | labels, seeds, set(self.stages) - self._later)

    def confirmation(self, cell: Point, labels: Point, name: str) -> list[Trial]:
        """Plan a point's confirmation on fresh seeds, test set included.

        Its trials have the label `name` on the axis `CONFIRMED`; their ids do not depend on it.
        """
        assert self.spec.confirm is not None
        trials = self._plan(cell | labels, self.spec.confirm.fresh_seeds(), set(self.stages))
        return [self._named(trial, name) if self._is_own(trial) else trial for trial in trials]

    def labels(self, cell: Point, given: Mapping[str, Label]) -> Point:
        """Check labels of a point of the search at this cell.

        Raises:
            FieldError: an axis or a label that is not there.
        """
        for axis in given:
            if axis not in self.spec.axes:
                raise FieldError(f"the axis {axis!r} is not searched", axis)
        axes = {name: self._study.axes[name] for name in self.spec.axes}
        order = space.resolution_order(axes, self.spec.axes)
        point: Point = dict(cell)
        for name in order:
            block = axes[name].at(point)
            if block is None:
                if name in given:
                    raise FieldError("its condition is not met here", name)
                continue
            if name not in given:
                raise FieldError(f"the axis {name!r} is missing; each point gives every axis")
            point[name] = _own_label(block, given[name], name)
        return {name: label for name, label in point.items() if name in self.spec.axes}

    def samples(self, cell: Point) -> list[Trial]:
        """Plan points for one seed: with each label of each axis, and with each range's ends."""
        found: dict[str, Trial] = {}
        for labels in self._some_points(cell):
            for trial in self.chain(cell, labels, self.seeds()[:1]):
                found.setdefault(trial.trial_id, trial)
        return list(found.values())

    def stoppable(self, trial: Trial, labels: Point) -> bool:
        """Whether a trial is one point's alone: no other point of the search can need it."""
        return self._is_own(trial) and all(axis in trial.point for axis in labels)

    def expected(self) -> list[tuple[Trial, int]]:
        """Return trials like those that the searches will run, and how many of each at most."""
        confirm = self.spec.confirm
        found: list[tuple[Trial, int]] = []
        for each in self.cells():
            labels = self._some_labels(each, {})
            chain = self.chain(each, labels, self.seeds())
            found += [(trial, self.spec.trials) for trial in chain if self._is_own(trial)]
            if confirm is not None:
                trials = self.confirmation(each, labels, BEST)
                count = 1 + len(confirm.compare)
                found += [(trial, count) for trial in trials if self._is_own(trial)]
        return found

    def space(self) -> dict[str, object]:
        """Return the searched axes as the study file has them."""
        return {name: self._study.axes[name].plain() for name in self.spec.axes}

    def check(self) -> None:
        """Plan one point of each search and every point that the study lists, as a test.

        Raises:
            InputError: anything in the space or the params is wrong.
        """
        try:
            for found in self.cells():
                self._check_cell(found)
        except FieldError as error:
            source = self._study.source
            raise InputError(f"{source}: {joined(error.path)}: {error.message}") from None

    def _check_cell(self, found: Point) -> None:
        for trial in self.samples(found):
            for key, quantities in (
                ("objectives", self.spec.objectives),
                ("constraints", self.spec.constraints),
            ):
                for i, quantity in enumerate(quantities):
                    if quantity.stage == trial.stage and trial.params.get("split") == "test":
                        raise FieldError(NO_TEST_SET, "search", key, i, "stage")
        listed: list[tuple[tuple[str | int, ...], Mapping[str, Label]]] = [
            (("enqueue", i), given) for i, given in enumerate(self.spec.enqueue)
        ]
        for i, constraint in enumerate(self.spec.constraints):
            if constraint.relative_to is not None:
                listed.append((("constraints", i, "relative_to"), constraint.relative_to))
        if self.spec.confirm is not None:
            for name, given in self.spec.confirm.compare.items():
                listed.append((("confirm", "compare", name), given))
        for path, labels in listed:
            try:
                self.chain(found, self.labels(found, labels), self.seeds()[:1])
            except FieldError as error:
                raise FieldError(error.message, "search", *path, *error.path) from None

    def _some_labels(self, found: Point, wanted: Point) -> Point:
        """Complete the labels `wanted` to a point of the search, where they apply."""
        point: Point = dict(found)
        for name in space.resolution_order(self._study.axes, self.spec.axes):
            block = self._study.axes[name].at(point)
            if block is None:
                continue
            if name in wanted and (
                wanted[name] in block.values or (block.range and block.range.holds(wanted[name]))
            ):
                point[name] = wanted[name]
            else:
                point[name] = block.range.draw(0.5) if block.range else next(iter(block.values))
        return {name: label for name, label in point.items() if name in self.spec.axes}

    def _some_points(self, found: Point) -> Iterator[Point]:
        """Yield points in which every label of every axis occurs, and both ends of each range."""
        seen: list[Point] = []
        for name in self.spec.axes:
            for block in self._study.axes[name].blocks:
                conditions = [
                    dict(zip(block.when, labels, strict=True))
                    for labels in itertools.product(*block.when.values())
                ]
                for label, where in itertools.product(_some_labels_of(block), conditions):
                    point = self._some_labels(found, where | {name: label})
                    if point not in seen:
                        seen.append(point)
                        yield point

    def _plan(self, fixed: Point, seeds: Sequence[int], stages: set[str]) -> list[Trial]:
        trials: list[Trial] = []
        of_stage: dict[str, range] = {}
        for stage in self.stages:
            start = len(trials)
            if stage in stages:
                planned = self._plans[stage].trials(trials, of_stage, seeds, fixed, self._free)
                trials += [trial for trial, _ in planned]
            of_stage[stage] = range(start, len(trials))
        return trials

    def _is_own(self, trial: Trial) -> bool:
        return trial.stage in self._searched

    def _named(self, trial: Trial, name: str) -> Trial:
        point = trial.point | {CONFIRMED: name}
        return dataclasses.replace(trial, point=point, cell=cell(trial.stage, point))


def _some_labels_of(block: Block) -> tuple[Label, ...]:
    """Return the labels of a list, or the ends of a range."""
    if block.range is None:
        return tuple(block.values)
    if block.range.kind == "choice":
        return block.range.choices
    ends = block.range.low, block.range.high
    return tuple(map(int, ends)) if block.range.kind == "integers" else ends


def _own_label(block: Block, given: Label, axis: str) -> Label:
    """Return the label of a block that is equal to a given one, as the search itself writes it."""
    for label in block.values:
        if label == given and isinstance(label, bool) == isinstance(given, bool):
            return label
    if block.range is None or not block.range.holds(given):
        wanted = block.range or ", ".join(map(str, block.values))
        raise FieldError(f"{given!r} is not valid; wanted {wanted}", axis)
    if block.range.kind in ("uniform", "log_uniform"):
        return block.range.rounded(float(given))
    return given
