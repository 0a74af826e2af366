"""What must hold between the parts of a study: names that exist, no circles, one space a stage."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from sensweep.orchestrator.axes import Axis, Label, parse_axis
from sensweep.orchestrator.errors import FieldError, shown, suggest
from sensweep.orchestrator.search_spec import CONFIRMED, search_labels
from sensweep.orchestrator.space import resolution_order

if TYPE_CHECKING:
    from sensweep.orchestrator.study import Stage, Study


def topological(stages: Mapping[str, Stage]) -> list[str]:
    """Order stages so that each comes after those that it needs, otherwise as given.

    Raises:
        FieldError: an unknown stage, or needs in a circle.
    """
    for name, stage in stages.items():
        for need in stage.needs:
            if need.stage not in stages:
                others = [other for other in stages if other != name]
                message = f"unknown stage {need.stage!r}{suggest(need.stage, others)}"
                raise FieldError(message, "stages", name, "needs")
    order: list[str] = []
    while len(order) < len(stages):
        ready = [
            name
            for name, stage in stages.items()
            if name not in order and all(need.stage in order for need in stage.needs)
        ]
        if not ready:
            path = [next(name for name in stages if name not in order)]
            while path[-1] not in path[:-1]:
                path.append(next(n.stage for n in stages[path[-1]].needs if n.stage not in order))
            circle = path[path.index(path[-1]) :]
            message = f"stages need each other in a circle: {' -> '.join(circle)}"
            raise FieldError(message, "stages", circle[0], "needs")
        order.append(ready[0])
    return order


def own_axes(axes: Mapping[str, Axis], stage: Stage) -> tuple[str, ...]:
    """Return the axes that a stage crosses, draws or lists, beyond those that it inherits."""
    if stage.axes is not None:
        return stage.axes
    if stage.points is not None:
        return tuple(dict.fromkeys(name for point in stage.points for name in point))
    return () if stage.needs else tuple(axes)


def check_axes(axes: Mapping[str, Axis], reserved: Collection[str]) -> None:
    """Check the axes' names and that their conditions can be resolved.

    Raises:
        FieldError: a reserved name, a condition on an unknown axis, or a circle.
    """
    for name, axis in axes.items():
        if name in reserved:
            hint = "; seeds are given by `seeds`" if name == "seed" else "; choose another name"
            raise FieldError(f"{name!r} is a column of every result{hint}", "axes", name)
        for path, other, _ in _conditions(name, axis):
            if other not in axes:
                others = [known for known in axes if known != name]
                raise FieldError(f"unknown axis{suggest(other, others)}", *path)
    try:
        resolution_order(axes, axes)
    except FieldError as error:
        raise FieldError(error.message, "axes", *error.path) from None


def _conditions(
    name: str, axis: Axis
) -> Iterator[tuple[tuple[str | int, ...], str, tuple[Label, ...]]]:
    """Yield the path of each condition, the axis that it names, and the labels that meet it."""
    for i, block in enumerate(axis.blocks):
        for other, labels in block.when.items():
            index = (i,) if len(axis.blocks) > 1 else ()
            yield ("axes", name, *index, "when", other), other, labels


def check_stage(axes: Mapping[str, Axis], stages: Mapping[str, Stage], name: str) -> None:
    """Check the axes of one stage.

    Raises:
        FieldError: an axis that is unknown, given twice, inherited already, or whose condition
            names an axis that the stage does not have.
    """
    stage, own = stages[name], own_axes(axes, stages[name])
    key = "axes" if stage.points is None else "points"
    for i, axis in enumerate(own):
        path = ("stages", name, key, *((i,) if stage.axes is not None else ()))
        if axis not in axes:
            raise FieldError(f"unknown axis {axis!r}{suggest(axis, axes)}", *path)
        if axis in own[:i]:
            raise FieldError(f"the axis {axis!r} is given twice", *path)
        for need in stage.needs:
            if axis in _all_axes(axes, stages, need.stage):
                raise FieldError(f"the axis {axis!r} is inherited from {need.stage!r}", *path)
    present = _all_axes(axes, stages, name)
    for i, axis in enumerate(own):
        missing = axes[axis].conditions - present
        if missing:
            path = ("stages", name, key, *((i,) if stage.axes is not None else ()))
            absent = ", ".join(sorted(missing))
            message = f"the axis {axis!r} depends on {absent}, which this stage leaves out"
            raise FieldError(message, *path)
        if axis in stage.params and not axes[axis].conditions:
            message = f"{axis!r} is an axis of this stage; drop it from its params"
            raise FieldError(message, "stages", name, "params", axis)
    if stage.space is not None and not own:
        raise FieldError("random points of no axes; give the stage `axes`", "stages", name, "space")


def _all_axes(axes: Mapping[str, Axis], stages: Mapping[str, Stage], name: str) -> set[str]:
    """Return the axes that may be in the points of a stage: its own and the inherited ones."""
    inherited = (_all_axes(axes, stages, need.stage) for need in stages[name].needs)
    return set(own_axes(axes, stages[name])).union(*inherited)


def check_labels(study: Study, variants: Mapping[str, Sequence[object]]) -> None:
    """Check that conditions, claims and figures name labels, stages and figures that there are.

    Args:
        study: the study under one profile.
        variants: each axis as the file and its profiles write it: a label of any will do.

    Raises:
        FieldError: the first problem.
    """
    labels = {name: _labels(axes) for name, axes in variants.items()}
    for name, axis in study.axes.items():
        for path, other, wanted in _conditions(name, axis):
            known = labels[other]
            for label in wanted:
                if known is not None and label not in known:
                    hint = suggest(label, map(str, known))
                    raise FieldError(f"{shown(label)} is no label of that axis{hint}", *path)
    if study.search is not None:
        labels[CONFIRMED] = search_labels(study.search)
    problems = _figure_problems(study, labels)
    if study.claims:
        from sensweep.results.claim_check import check

        figures = [figure.name for figure in study.figures]
        problems += check(
            study.claims, axes=labels, stages=list(study.stages), figures=figures or None
        )
    if problems:
        others = len(problems) - 1
        more = f" (and {others} more problem{'s' if others > 1 else ''})" if others else ""
        raise FieldError(problems[0] + more)


def _labels(variants: Sequence[object]) -> list[Label] | None:
    """Collect the labels of an axis; None if it is drawn from a distribution somewhere."""
    found: list[Label] = []
    for variant in variants:
        try:
            axis = parse_axis(variant)
        except FieldError:  # of a profile that is refused in its turn
            continue
        if any(block.range for block in axis.blocks):
            return None
        found += axis.labels
    return found


def _figure_problems(study: Study, labels: Mapping[str, list[Label] | None]) -> list[str]:
    problems, names = [], set[str]()
    for i, figure in enumerate(study.figures):
        if figure.name in names:
            problems.append(f"figures[{i}].name: {figure.name!r} is taken by an earlier figure")
        names.add(figure.name)
        for key, part in figure:
            for selector in part if isinstance(part, list | tuple) else [part]:
                if isinstance(selector, BaseModel):
                    path = f"figures[{i}] ({figure.name}).{key}"
                    problems += _selector_problems(path, dict(selector), study, labels)
    return problems


def _selector_problems(
    path: str,
    selector: Mapping[str, Any],
    study: Study,
    labels: Mapping[str, list[Label] | None],
) -> list[str]:
    problems, stage = [], selector.get("stage")
    if stage is not None and stage not in study.stages:
        problems.append(f"{path}.stage: unknown stage {stage!r}{suggest(stage, study.stages)}")
    for column, wanted in selector.get("where", {}).items():
        known = labels.get(column)
        for label in wanted if isinstance(wanted, list) else [wanted]:
            if known is not None and label not in known:
                hint = suggest(label, map(str, known))
                problems.append(f"{path}.where.{column}: unknown label {shown(label)}{hint}")
    return problems
