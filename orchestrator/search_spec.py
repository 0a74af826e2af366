"""The `search` block of a study: what is searched, for what, how, and how the winner is confirmed.

docs/search.md has every key with an example. Nothing here imports Optuna: a plan is quick.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from sensweep.orchestrator.axes import Label
from sensweep.orchestrator.errors import FieldError, suggest
from sensweep.orchestrator.stage import Part

# Name in a study -> Optuna's class.
SAMPLERS = {
    "tpe": "TPESampler",
    "gp": "GPSampler",
    "nsga2": "NSGAIISampler",
    "nsga3": "NSGAIIISampler",
    "cma_es": "CmaEsSampler",
    "random": "RandomSampler",
    "quasi_random": "QMCSampler",
}
# Rules of early stopping -> Optuna's class; `halving` is ours, for any number of objectives.
RULES = {
    "median": "MedianPruner",
    "percentile": "PercentilePruner",
    "asha": "SuccessiveHalvingPruner",
    "hyperband": "HyperbandPruner",
    "wilcoxon": "WilcoxonPruner",
    "halving": "",
}
# The label of a confirmation's trials: the winner's, and each point that it is compared with.
CONFIRMED = "confirmed"
BEST = "best"
NO_TEST_SET = (
    "a search never sees the test set: measure it on the validation split, and list stages that "
    "use the test split under confirm.stages"
)
FRESH_SEEDS = 10_000  # where the confirmation's seeds start, unless they are listed

Aggregate = Literal["mean", "median", "min", "max"]


def _one_of(what: str, known: Mapping[str, str]) -> AfterValidator:
    """Admit the names of a table."""

    def check(value: str) -> str:
        if value not in known:
            raise ValueError(f"unknown {what} {value!r}{suggest(value, known)}")
        return value

    return AfterValidator(check)


def _named(value: object) -> object:
    """Let a name alone stand for {name: ...}."""
    return {"name": value} if isinstance(value, str) else value


class Quantity(Part):
    """A measurement of the search's trials, as one number per point.

    Attributes:
        name: the measurement's name.
        stage: the stage that measures it.
        where: the values that its coordinates and its trial's labels must have.
        over: how the values of one seed that match are put together.
        over_seeds: how the seeds' numbers are put together.
    """

    name: str = Field(min_length=1, max_length=200)
    stage: str
    where: dict[str, Label | tuple[Label, ...]] = Field(default_factory=dict)
    over: Aggregate = "mean"
    over_seeds: Aggregate = "mean"


class Objective(Quantity):
    """A quantity to be minimised or maximised. Of a measurement with steps, the last one counts."""

    direction: Literal["minimize", "maximize"]


class Constraint(Quantity):
    """A bound on a quantity; a point that breaks it is infeasible.

    Attributes:
        at_least, at_most: the bounds; one of them at least.
        relative_to: labels of a point of the search (the baseline), which is then tried first;
            the bounds are on the difference to its value.
    """

    at_least: float | None = None
    at_most: float | None = None
    relative_to: dict[str, Label] | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.at_least is None and self.at_most is None:
            raise ValueError("a constraint needs at_least or at_most")
        return self


class Sampler(Part):
    """An Optuna sampler by its name in `SAMPLERS`, with that class's own options."""

    name: Annotated[str, _one_of("sampler", SAMPLERS)] = "tpe"
    options: dict[str, Any] = Field(default_factory=dict)


class Stop(Part):
    """When a poor point is given up early; what it measured until then is kept, marked stopped.

    Attributes:
        by: a rule of `RULES`. With several objectives only `halving`, which keeps the best 1/eta
            of the points that came as far: by fronts of dominance, and within a front by the
            contribution to its hypervolume.
        rungs: `seeds`, a point is given its next seed only if the rule does not stop it; `steps`,
            its first stage is stopped at a step (of the objectives, which that stage measures).
        options: of Optuna's pruner; for `halving`: eta (2 or more, default 2), startup (points
            that must have come as far before one is stopped, default 4), first (the first rung
            that is judged, default 1).
    """

    by: Annotated[str, _one_of("rule", RULES)]
    rungs: Literal["seeds", "steps"] = "seeds"
    options: dict[str, Any] = Field(default_factory=dict)


class Confirm(Part):
    """What is run again on fresh seeds when the searches are over, beside the winners.

    Attributes:
        seeds: how many fresh seeds, or which ones.
        stages: stages that only the confirmation runs: those that look at the test set.
        compare: name -> labels of a point: the baseline, the default strength.
    """

    seeds: (
        Annotated[int, Field(ge=1, le=10_000)]
        | Annotated[tuple[Annotated[int, Field(ge=0, lt=2**63)], ...], Field(min_length=1)]
    ) = 5
    stages: tuple[str, ...] = ()
    compare: dict[str, dict[str, Label]] = Field(default_factory=dict)

    @field_validator("compare")
    @classmethod
    def _not_best(cls, value: dict[str, dict[str, Label]]) -> dict[str, dict[str, Label]]:
        if BEST in value:
            raise FieldError(f"{BEST!r} is what the winner is called; choose another name", BEST)
        return value

    def fresh_seeds(self) -> tuple[int, ...]:
        """List the seeds."""
        if isinstance(self.seeds, int):
            return tuple(range(FRESH_SEEDS, FRESH_SEEDS + self.seeds))
        return self.seeds


class SearchSpec(Part):
    """What Optuna searches: one search for each point of the grid of the other axes.

    Attributes:
        axes: the axes that are searched; distributions, or lists of labels.
        trials: points that each search tries.
        seeds: seeds of each point, the first of the study's; all of them by default.
        parallel: points of one search that may be under way at once; as many as there is room
            for by default. With 1 a search is sequential, and repeats itself to the bit.
        enqueue: points that are tried first.
        warm_start: whether points that the home has every row of are told first, at no cost.
        seed: of the sampler.
    """

    axes: tuple[str, ...] = Field(min_length=1)
    objectives: tuple[Objective, ...] = Field(min_length=1, max_length=8)
    constraints: tuple[Constraint, ...] = ()
    sampler: Annotated[Sampler, BeforeValidator(_named)] = Field(default_factory=Sampler)
    trials: int = Field(ge=1, le=100_000)
    seeds: int | None = Field(default=None, ge=1)
    parallel: int | None = Field(default=None, ge=1)
    enqueue: tuple[dict[str, Label], ...] = ()
    warm_start: bool = False
    seed: int = Field(default=0, ge=0)
    stop: Stop | None = None
    confirm: Confirm | None = None

    @model_validator(mode="after")
    def _rule_fits(self) -> Self:
        if self.sampler.name == "cma_es" and len(self.objectives) > 1:
            raise FieldError(
                f"cma_es has one objective, and there are {len(self.objectives)}; use tpe or nsga2",
                "sampler",
            )
        if self.stop is not None and len(self.objectives) > 1 and self.stop.by != "halving":
            raise FieldError(
                f"{self.stop.by!r} judges one objective, and there are {len(self.objectives)}; "
                "use halving",
                "stop",
                "by",
            )
        stages = {objective.stage for objective in self.objectives}
        if self.stop is not None and self.stop.rungs == "steps" and len(stages) > 1:
            raise FieldError(
                f"rungs of steps want all objectives of one stage, not {', '.join(sorted(stages))}",
                "stop",
                "rungs",
            )
        return self

    def quantities(self) -> list[Quantity]:
        """All that must be known of a point before its search is told."""
        return [*self.objectives, *self.constraints]


def search_labels(spec: SearchSpec) -> list[Label]:
    """Return the labels that the confirmation adds to the axes, as `CONFIRMED`."""
    return [BEST, *spec.confirm.compare] if spec.confirm is not None else []


def check_search(
    spec: SearchSpec,
    axes: Mapping[str, Any],
    own: Mapping[str, Sequence[str]],
    needs: Mapping[str, Sequence[str]],
    plain: Mapping[str, bool],
    seeds: Sequence[int],
) -> None:
    """Check that a search fits its study.

    Args:
        axes: the study's, by name.
        own: per stage, its own axes; `needs`: the stages that it needs.
        plain: per stage, whether it crosses its axes (no listed or random points).
        seeds: the study's.

    Raises:
        FieldError: with the path below `search`.
    """
    searched = searched_stages(spec, own, needs)
    for i, axis in enumerate(spec.axes):
        if axis not in axes:
            raise FieldError(f"unknown axis {axis!r}{suggest(axis, axes)}", "axes", i)
        if axis in spec.axes[:i]:
            raise FieldError(f"the axis {axis!r} is listed twice", "axes", i)
        if not any(axis in own[stage] for stage in own):
            raise FieldError(f"no stage has the axis {axis!r}", "axes", i)
    for stage in closure(searched, needs):
        if not plain[stage]:
            raise FieldError(
                f"the stage {stage!r} lists or draws its points; a searched one, and those that it "
                "needs, have axes only",
                "axes",
            )
        for axis in own[stage]:
            if axis not in spec.axes and (on := axes[axis].conditions & set(spec.axes)):
                raise FieldError(
                    f"the axis {axis!r} depends on {min(on)!r}, which is searched; search it too",
                    "axes",
                )
    later = _later(spec, own, needs, searched)
    _check_quantities(spec, [stage for stage in searched if stage not in later], later)
    if spec.seeds is not None and spec.seeds > len(seeds):
        raise FieldError(f"{spec.seeds} seeds of {len(seeds)}; ask for fewer", "seeds")
    if spec.confirm is not None:
        for seed in spec.confirm.fresh_seeds():
            if seed in seeds:
                raise FieldError(
                    f"the seed {seed} is one of the search; a confirmation needs fresh ones",
                    *("confirm", "seeds"),
                )


def _later(
    spec: SearchSpec,
    own: Mapping[str, Sequence[str]],
    needs: Mapping[str, Sequence[str]],
    searched: Sequence[str],
) -> set[str]:
    """Return the stages that only the confirmation runs: those listed, and what needs them."""
    listed = spec.confirm.stages if spec.confirm is not None else ()
    for i, stage in enumerate(listed):
        if stage not in searched:
            raise FieldError(
                f"{stage!r} is no stage of the search{suggest(stage, searched)}",
                *("confirm", "stages", i),
            )
        if set(own[stage]) & set(spec.axes):
            raise FieldError(
                f"{stage!r} has a searched axis: the search itself must run it",
                *("confirm", "stages", i),
            )
    later = set(listed)
    for stage in searched:
        if later & set(needs[stage]):
            later.add(stage)
    return later


def _check_quantities(spec: SearchSpec, known: Sequence[str], later: set[str]) -> None:
    for key, quantities in (("objectives", spec.objectives), ("constraints", spec.constraints)):
        for i, quantity in enumerate(quantities):
            if quantity.stage not in known:
                why = "runs in the confirmation only" if quantity.stage in later else "is not one"
                raise FieldError(
                    f"{quantity.stage!r} {why}: wanted a stage of the search"
                    + suggest(quantity.stage, known),
                    *(key, i, "stage"),
                )
            split = quantity.where.get("split")
            test = "test" in (split if isinstance(split, tuple) else (split,))
            if test or quantity.name.startswith("test_"):
                raise FieldError(NO_TEST_SET, key, i)


def searched_stages(
    spec: SearchSpec, own: Mapping[str, Sequence[str]], needs: Mapping[str, Sequence[str]]
) -> list[str]:
    """List the stages whose points depend on a searched axis, each after those that it needs.

    `own` has the stages in an order in which each comes after those that it needs.
    """
    found: list[str] = []
    for stage in own:
        if set(own[stage]) & set(spec.axes) or set(needs[stage]) & set(found):
            found.append(stage)
    return found


def closure(stages: Sequence[str], needs: Mapping[str, Sequence[str]]) -> list[str]:
    """Add to stages all that they need, in the order of `needs`."""
    wanted = set(stages)
    for stage in reversed(list(needs)):
        if stage in wanted:
            wanted |= set(needs[stage])
    return [stage for stage in needs if stage in wanted]
