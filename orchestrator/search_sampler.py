"""Optuna's samplers by name: how each is seeded, and what of the history it is shown.

A sampler whose proposals are a function of the trials that it sees (TPE, GP) is made anew for
each ask, with a seed derived from the ask's number: after an interruption it needs the told
trials and nothing else. One with a state of its own (CMA-ES's distribution, the counter of a
quasi-random sequence, generations) is made once and rebuilt by asking and telling it again.
"""

from __future__ import annotations

import hashlib
import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna

from sensweep.orchestrator.axes import Axis, Block, Label, Point
from sensweep.orchestrator.errors import FieldError, suggest
from sensweep.orchestrator.search_spec import RULES, SAMPLERS, SearchSpec, Stop
from sensweep.orchestrator.space import resolution_order


@dataclass(frozen=True, slots=True)
class Kind:
    """What must be known of a sampler.

    Attributes:
        stateless: whether it is a function of the trials that it sees and a seed.
        window: trials of the history that it is shown (the best and the latest), so that an ask
            costs the same however long the search; None for all.
    """

    stateless: bool = False
    window: int | None = None


# TPE models the best tenth of the trials, at most 25, against the rest: the best are always in
# the window, and of the rest the latest speak for the others.
KINDS = {"tpe": Kind(True, 256), "gp": Kind(True, 128)}


def kind(name: str) -> Kind:
    """Return what must be known of the sampler of that name."""
    return KINDS.get(name, Kind())


def seed_of(seed: int, stream: str) -> int:
    """Derive a seed of 32 bits for one purpose."""
    digest = hashlib.blake2b(f"{seed}/{stream}".encode(), digest_size=4).digest()
    return int.from_bytes(digest)


def make_sampler(
    spec: SearchSpec, axes: Mapping[str, Axis], seed: int
) -> optuna.samplers.BaseSampler:
    """Make the sampler of a search.

    Raises:
        FieldError: an option that Optuna's class does not have, or a value that it refuses.
    """
    given = dict(spec.sampler.options)
    cls = getattr(optuna.samplers, SAMPLERS[spec.sampler.name])
    known = set(inspect.signature(cls).parameters) - {"seed", "constraints_func"}
    for name in given:
        if name not in known:
            raise FieldError(f"unknown option{suggest(name, known)}", "sampler", "options", name)
    if spec.sampler.name == "tpe" and not {"multivariate", "group"} & given.keys():
        # Axes that depend on one another are modelled together, those of each condition apart.
        given |= {"multivariate": True, "group": any(a.conditions for a in axes.values())}
    for name in ("warn_independent_sampling", "warn_asynchronous_seeding"):
        if name in known:
            given.setdefault(name, False)
    try:
        with quiet():
            return cls(seed=seed, **given)  # type: ignore[no-any-return]
    except (TypeError, ValueError) as error:
        raise FieldError(" ".join(str(error).split()), "sampler", "options") from None


def make_pruner(stop: Stop | None) -> optuna.pruners.BasePruner:
    """Make Optuna's pruner of a rule; one that stops nothing for `halving` and for no rule.

    Raises:
        FieldError: an option that Optuna's class does not have, or a value that it refuses.
    """
    if stop is None or not RULES[stop.by]:
        return optuna.pruners.NopPruner()
    cls = getattr(optuna.pruners, RULES[stop.by])
    known = inspect.signature(cls).parameters
    for name in stop.options:
        if name not in known:
            raise FieldError(f"unknown option{suggest(name, known)}", "stop", "options", name)
    given = {"percentile": 50.0} if stop.by == "percentile" else {}
    if stop.by == "asha" and stop.rungs == "seeds":
        given |= {"min_resource": 1, "reduction_factor": 3}
    try:
        with quiet():
            return cls(**(given | stop.options))  # type: ignore[no-any-return]
    except (TypeError, ValueError) as error:
        raise FieldError(" ".join(str(error).split()), "stop", "options") from None


class Space:
    """The searched axes as Optuna's parameters: suggested one by one, conditions included."""

    def __init__(self, axes: Mapping[str, Axis], names: Sequence[str], cell: Point) -> None:
        self.axes = {name: axes[name] for name in names}
        self._order = resolution_order(self.axes, names)
        self._cell = cell

    def suggest(self, trial: optuna.Trial) -> Point:
        """Have Optuna choose a label for every axis that applies."""
        point = dict(self._cell)
        for name in self._order:
            found = self._at(name, point)
            if found is None:
                continue
            parameter, block = found
            point[name] = _suggested(trial, parameter, block)
        return {name: label for name, label in point.items() if name in self.axes}

    def parameters(
        self, labels: Point
    ) -> tuple[dict[str, Any], dict[str, optuna.distributions.BaseDistribution]]:
        """Return the values and distributions of the parameters that give these labels."""
        point = dict(self._cell)
        values: dict[str, Any] = {}
        distributions: dict[str, optuna.distributions.BaseDistribution] = {}
        for name in self._order:
            found = self._at(name, point)
            if found is None:
                continue
            parameter, block = found
            point[name] = labels[name]
            values[parameter], distributions[parameter] = labels[name], distribution(block)
        return values, distributions

    def _at(self, name: str, point: Point) -> tuple[str, Block] | None:
        """Return the parameter and the block of an axis at a point.

        Blocks of one axis have parameters of their own: their ranges are not comparable.
        """
        axis = self.axes[name]
        block = axis.at(point)
        if block is None:
            return None
        many = len(axis.blocks) > 1
        return f"{name}[{axis.blocks.index(block)}]" if many else name, block


def distribution(block: Block) -> optuna.distributions.BaseDistribution:
    """Return the distribution of a block's labels."""
    found = block.range
    if found is None or found.kind == "choice":
        labels = found.choices if found is not None else tuple(block.values)
        return optuna.distributions.CategoricalDistribution(labels)
    if found.kind == "integers":
        return optuna.distributions.IntDistribution(int(found.low), int(found.high))
    log = found.kind == "log_uniform"
    return optuna.distributions.FloatDistribution(found.low, found.high, log=log)


def _suggested(trial: optuna.Trial, parameter: str, block: Block) -> Label:
    found = block.range
    if found is None or found.kind == "choice":
        labels = found.choices if found is not None else tuple(block.values)
        return trial.suggest_categorical(parameter, labels)  # type: ignore[return-value]
    if found.kind == "integers":
        return trial.suggest_int(parameter, int(found.low), int(found.high))
    log = found.kind == "log_uniform"
    return found.rounded(trial.suggest_float(parameter, found.low, found.high, log=log))


class quiet(warnings.catch_warnings):  # noqa: N801 - used like a function
    """Keep Optuna's warnings about experimental classes out of the log."""

    def __enter__(self) -> Any:
        log = super().__enter__()
        warnings.simplefilter("ignore")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        return log
