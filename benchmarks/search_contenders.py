"""The contenders of `search.py`: each searches one table within a budget of epochs.

All have four workers and the same sampler (multivariate TPE, Optuna's defaults otherwise). What
they return is the same too: what each finished point gave, and how many epochs had run by then,
those of stopped trials included.
"""

from __future__ import annotations

import heapq
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from tabulated import EPOCHS, MEASURED, SEEDS, read, trained

from sensweep.orchestrator.chain import ChainPlanner
from sensweep.orchestrator.events import NodeUp
from sensweep.orchestrator.replay import Beat, Replay
from sensweep.orchestrator.searches import Searches
from sensweep.orchestrator.simulator import Delays
from sensweep.orchestrator.study import Study
from sensweep.orchestrator.trial import Trial, canonical_json
from sensweep.tasks.api import Context

WORKERS = 4
STAGE = "train"
# The settings of successive halving for one objective, the same for every contender.
ETA = 3

Values = tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """What is searched for.

    Attributes:
        table: where.
        objectives: measurement -> direction.
        seeds: seeds of each point.
        rungs: where a point may be stopped: after an epoch (`steps`) or a seed (`seeds`).
        points: whole points that the budget pays for.
    """

    table: str
    objectives: Mapping[str, Literal["minimize", "maximize"]]
    seeds: int
    rungs: Literal["steps", "seeds"]
    points: int

    @property
    def budget(self) -> int:
        """Epochs."""
        return self.points * self.seeds * EPOCHS

    def table_seeds(self, repetition: int) -> list[int]:
        """List the table's seeds that a repetition uses."""
        return [(repetition + i) % SEEDS for i in range(self.seeds)]

    def last(self, labels: Mapping[str, float], repetition: int) -> Values:
        """Return the objectives of a point that was trained to the end, means over its seeds."""
        curves = [self.curve(labels, seed)[-1] for seed in self.table_seeds(repetition)]
        return tuple(np.mean(curves, axis=0).tolist())

    def curve(self, labels: Mapping[str, float], seed: int) -> np.ndarray:
        """Return the objectives [epochs, objectives] of one training."""
        columns = [MEASURED.index(name) for name in self.objectives]
        return read(self.table).curve(labels, seed)[:, columns]


@dataclass(slots=True)
class Trace:
    """How a search went.

    Attributes:
        finished: (epochs run until then, objectives) of each point that was not stopped.
        stopped: points that were.
        played: epochs run in total.
    """

    finished: list[tuple[int, Values]] = field(default_factory=list)
    stopped: int = 0
    played: int = 0


# ---- ours


def ours(problem: Problem, repetition: int, stop: Mapping[str, Any] | None) -> Trace:
    """Search as `sensweep run` does, on a virtual clock."""
    study = Study.from_dict(
        {
            "study": "search",
            "seeds": problem.table_seeds(repetition),
            "axes": read(problem.table).axes,
            "stages": {STAGE: {"task": "tabulated:trained", "params": {"table": problem.table}}},
            "search": {
                "axes": list(read(problem.table).axes),
                "objectives": [
                    {"name": name, "stage": STAGE, "direction": direction}
                    for name, direction in problem.objectives.items()
                ],
                "trials": problem.budget,  # the budget of epochs ends it
                "seed": repetition,
                **({"stop": dict(stop) | {"rungs": problem.rungs}} if stop is not None else {}),
            },
        },
        folder=Path(__file__).parent,
    )
    searches = Searches(ChainPlanner(study), study.axes)
    nodes = [NodeUp(0.0, "virtual", WORKERS, 0, 10**12)]
    replay = Replay(searches, study, play, nodes, delays=Delays(start=0, exit=0, cancel=0))
    while replay.played < problem.budget and replay.step() is not None:
        pass
    complete = [told for told in replay.told if told.state == "complete"]
    stopped = sum(told.state == "pruned" for told in replay.told)
    return Trace([(t.played, t.values) for t in complete], stopped, replay.played)


def play(trial: Trial) -> list[Beat]:
    """Return what a tabulated training yields, epoch by epoch, with its seconds."""
    table = read(str(trial.params["table"]))
    labels = {axis: float(trial.params[axis]) for axis in table.axes}  # type: ignore[arg-type]
    seconds = table.seconds[table.nearest(labels), trial.seed].tolist()
    epochs: list[list[Any]] = [[] for _ in range(EPOCHS)]
    for row in trained(trial.params, Context(seed=trial.seed)):  # type: ignore[arg-type]
        assert row.step is not None
        coordinates = canonical_json(row.coordinates)
        epochs[row.step - 1].append((row.name, row.value, row.step, row.unit, coordinates))
    return [Beat(s, tuple(rows)) for s, rows in zip(seconds, epochs, strict=True)]


# ---- Optuna by itself


def plain_optuna(
    problem: Problem, repetition: int, pruner: optuna.pruners.BasePruner | None
) -> Trace:
    """Ask and tell an Optuna study, with workers on a virtual clock of their own."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        directions=list(problem.objectives.values()),
        sampler=_sampler(repetition),
        pruner=pruner or optuna.pruners.NopPruner(),
    )
    trace, tie = Trace(), count()
    agenda: list[tuple[float, int, Iterator[float]]] = [
        (0.0, next(tie), iter(())) for _ in range(WORKERS)
    ]
    while trace.played < problem.budget:
        now, _, running = heapq.heappop(agenda)
        seconds = next(running, None)
        if seconds is None:  # this worker is idle
            running = _optuna_trial(problem, repetition, study, trace)
            seconds = next(running)
        heapq.heappush(agenda, (now + seconds, next(tie), running))
    return trace


def _optuna_trial(
    problem: Problem, repetition: int, study: optuna.Study, trace: Trace
) -> Iterator[float]:
    """Run one trial; yields the seconds of each epoch before it is over."""
    table = read(problem.table)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trial = study.ask(_distributions(problem.table))
    for seed in problem.table_seeds(repetition):
        curve = problem.curve(trial.params, seed)
        seconds = table.seconds[table.nearest(trial.params), seed].tolist()
        for epoch in range(1, EPOCHS + 1):
            yield seconds[epoch - 1]
            trace.played += 1
            if len(problem.objectives) == 1 and epoch < EPOCHS:
                trial.report(curve[epoch - 1, 0], epoch)
                if trial.should_prune():
                    study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                    trace.stopped += 1
                    return
    values = problem.last(trial.params, repetition)
    study.tell(trial, values)
    trace.finished.append((trace.played, values))


def _sampler(seed: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return optuna.samplers.TPESampler(seed=seed, multivariate=True)


def _distributions(table: str) -> dict[str, optuna.distributions.BaseDistribution]:
    found: dict[str, optuna.distributions.BaseDistribution] = {}
    for axis, space in read(table).axes.items():
        [(kind, (low, high))] = space.items()
        if kind == "integers":
            found[axis] = optuna.distributions.IntDistribution(int(low), int(high))
        else:
            log = kind == "log_uniform"
            found[axis] = optuna.distributions.FloatDistribution(low, high, log=log)
    return found


# ---- Ray Tune


def ray_tune(problem: Problem, repetition: int) -> Trace:
    """Run Tune with OptunaSearch and ASHA on the Ray that is there, an actor on half a core each.

    ASHA judges one objective, so this is for problems with one.
    """
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    [(name, direction)] = problem.objectives.items()
    [seed] = problem.table_seeds(repetition)
    search = OptunaSearch(
        space=_distributions(problem.table),
        metric=name,
        mode=direction[:3],
        sampler=_sampler(repetition),
    )
    asha = ASHAScheduler(
        metric=name, mode=direction[:3], max_t=EPOCHS, grace_period=1, reduction_factor=ETA
    )
    watch = _watch(problem)
    folder = str(Path(__file__).parent)
    with tempfile.TemporaryDirectory() as storage:
        tune.Tuner(
            tune.with_resources(_trainable(problem.table, seed, folder), {"cpu": 0.5}),
            tune_config=tune.TuneConfig(
                search_alg=search,
                scheduler=asha,
                num_samples=problem.budget,  # the budget of epochs ends it
                max_concurrent_trials=WORKERS,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                storage_path=storage, verbose=0, callbacks=[watch], stop=watch.stopper
            ),
        ).fit()
    return watch.trace


def _trainable(table: str, seed: int, folder: str) -> type:
    """Return a class that replays a table's row, an epoch a step, without the waiting."""
    from ray import tune

    class Tabulated(tune.Trainable):
        def setup(self, config: dict[str, float]) -> None:
            import sys

            if folder not in sys.path:
                sys.path.insert(0, folder)
            import tabulated

            self.names = tabulated.MEASURED
            self.curve = tabulated.read(table).curve(config, seed)
            self.epoch = 0

        def step(self) -> dict[str, object]:
            values = self.curve[self.epoch].tolist()
            self.epoch += 1
            return dict(zip(self.names, values, strict=True)) | {
                "done": self.epoch == len(self.curve)
            }

        def reset_config(self, new_config: dict[str, float]) -> bool:
            self.setup(new_config)
            return True

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            """Keep nothing: there is no state."""

    return Tabulated


def _watch(problem: Problem) -> Any:
    """Return a callback that writes the trace as results arrive, with a stopper at the budget."""
    from ray import tune

    class Watch(tune.Callback):
        def __init__(self) -> None:
            self.trace = Trace()
            self.stopper = Budget(self.trace)

        def on_trial_result(self, *_: Any, result: dict[str, Any], **__: Any) -> None:
            if self.trace.played >= problem.budget:
                return
            self.trace.played += 1
            if result["training_iteration"] == EPOCHS:
                values = tuple(float(result[name]) for name in problem.objectives)
                self.trace.finished.append((self.trace.played, values))

        def on_trial_complete(self, *_: Any, trial: Any, **__: Any) -> None:
            if self.trace.played < problem.budget:
                self.trace.stopped += trial.last_result["training_iteration"] < EPOCHS

    class Budget(tune.Stopper):
        def __init__(self, trace: Trace) -> None:
            self.trace = trace

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            return False

        def stop_all(self) -> bool:
            return self.trace.played >= problem.budget

    return Watch()
