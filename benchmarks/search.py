"""Searches with early stopping: what they find for their compute, against peers.

    .venv/bin/pip install -e '.[bench]'
    .venv/bin/python benchmarks/search.py
    .venv/bin/python benchmarks/search.py --quick --without-tune --json

Nothing is trained: the tables of `make_tables.py` hold 640 trainings each. Ours is the real
scheduler and the real search core on a virtual clock (`orchestrator/replay.py`), Optuna an
ask-and-tell loop on a virtual clock, Ray Tune is Ray Tune. Compute is epochs that ran, those of
stopped trials included; a point counts for what it was found to be when it was trained to its end.
Hypervolume is a fraction of that of the table's own front; its reference point is the table's
median in each objective, so that models which are worse than half of the others do not count.

The settings of `halving` were fixed on the table `noise` (`--examine` shows how); `penalty` was
not looked at before.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from scipy import stats
from search_contenders import ETA, Problem, Trace, ours, plain_optuna, ray_tune
from tabulated import MEASURED, SPACES, read

from sensweep.results import pareto

LOSS = {"validation_loss": "minimize"}
BOTH = {"corruption_accuracy": "maximize", "sensitivity": "minimize"}
# With several objectives, whether epochs or seeds are the rungs: fixed on the table `noise`.
HALVING = {"eta": 2, "startup": 4, "first": 1}
ASHA = {"by": "asha", "options": {"min_resource": 1, "reduction_factor": ETA}}
SHARES = (0.25, 0.5, 0.75, 1.0)  # of the budget, at which curves are printed
REACHED = 0.95
UNPRUNED = "sensweep"
TUNE = "Ray Tune, OptunaSearch, ASHA"

Contender = Callable[[Problem, int], Trace]
Curves = NDArray[np.float64]  # [repetitions, epochs]


def contenders(problem: Problem, with_tune: bool) -> dict[str, Contender]:
    """List who takes part. With several objectives, only ours can stop early."""
    found: dict[str, Contender] = {
        UNPRUNED: lambda p, r: ours(p, r, None),
        "Optuna": lambda p, r: plain_optuna(p, r, None),
    }
    if len(problem.objectives) > 1:
        halving = {"by": "halving", "options": HALVING}
        return found | {"sensweep, halving": lambda p, r: ours(p, r, halving)}
    found |= {
        "sensweep, asha": lambda p, r: ours(p, r, ASHA),
        "sensweep, median": lambda p, r: ours(p, r, {"by": "median"}),
        "Optuna, asha": lambda p, r: plain_optuna(
            p, r, optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=ETA)
        ),
        "Optuna, median": lambda p, r: plain_optuna(p, r, optuna.pruners.MedianPruner()),
    }
    return found | ({TUNE: ray_tune} if with_tune else {})


# ---- from traces to curves


def curve(problem: Problem, repetition: int, trace: Trace) -> NDArray[np.float64]:
    """Return the quality after each epoch: the best value so far, or the hypervolume."""
    whole = _whole(problem.table, tuple(problem.objectives), problem.seeds, repetition)
    directions = list(problem.objectives.values())
    table = pareto.minimised(whole, directions)
    found = np.full(problem.budget, table.max() if len(directions) == 1 else 0.0)
    reference = np.median(table, axis=0)
    values: list[NDArray[np.float64]] = []
    for played, point in trace.finished:
        if played > problem.budget:
            break
        values.append(pareto.minimised([point], directions)[0])
        if len(directions) == 1:
            found[played - 1 :] = min(found[played - 1], values[-1][0])
        else:
            volume = pareto.hypervolume(np.array(values), reference)
            found[played - 1 :] = volume / pareto.hypervolume(table, reference)
    return found


@cache
def _whole(
    table: str, objectives: tuple[str, ...], seeds: int, repetition: int
) -> NDArray[np.float64]:
    """Return the objectives [points, objectives] of the whole table, means over the seeds."""
    some = Problem(table, dict.fromkeys(objectives, "minimize"), seeds, "steps", 1)
    columns = [MEASURED.index(name) for name in objectives]
    values = read(table).values[:, some.table_seeds(repetition), -1]
    return np.asarray(values[..., columns].mean(axis=1))


def interval(values: NDArray[np.float64]) -> dict[str, float]:
    """Return the mean of values [repetitions] with its 95% interval, by Student's t."""
    mean, half = float(values.mean()), 0.0
    if len(values) > 1:
        half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def reached(curves: Curves, unpruned: Curves) -> dict[str, float | None]:
    """Return the share of the budget at which the mean curve reaches 95% of the unpruned final one.

    The interval is a percentile bootstrap of 2000 draws over repetitions, both curves together.
    None stands for never.
    """

    def share(chosen: NDArray[np.int64]) -> float:
        there = curves[chosen].mean(axis=0) >= REACHED * unpruned[chosen, -1].mean()
        return float((there.argmax() + 1) / len(there)) if there.any() else float("inf")

    every = np.arange(len(curves))
    draws = np.random.default_rng(0).integers(len(curves), size=(2000, len(curves)))
    shares = np.sort([share(draw) for draw in draws])
    found = {"mean": share(every), "low": shares[50], "high": shares[-51]}
    return {key: float(at) if np.isfinite(at) else None for key, at in found.items()}


# ---- the benchmark


def compare(problem: Problem, repetitions: int, with_tune: bool) -> dict[str, Any]:
    """Run every contender on a problem."""
    curves: dict[str, Curves] = {}
    lines: list[dict[str, Any]] = []
    for name, run in contenders(problem, with_tune).items():
        traces = [run(problem, repetition) for repetition in range(repetitions)]
        curves[name] = np.array([curve(problem, r, trace) for r, trace in enumerate(traces)])
        lines.append(
            {
                "contender": name,
                "finished": float(np.mean([len(trace.finished) for trace in traces])),
                "stopped": float(np.mean([trace.stopped for trace in traces])),
                "quality": [interval(at) for at in _at_shares(curves[name])],
            }
        )
        if len(problem.objectives) > 1:
            lines[-1]["reached"] = reached(curves[name], curves[UNPRUNED])
    result: dict[str, Any] = {
        "table": problem.table,
        "objectives": list(problem.objectives),
        "rungs": problem.rungs,
        "budget": problem.budget,
        "shares": SHARES,
        "contenders": lines,
    }
    if len(problem.objectives) == 1:
        result["differences"] = {
            f"{a} - {b}": [interval(at) for at in _at_shares(curves[a] - curves[b])]
            for a, b in (
                ("sensweep, asha", TUNE),
                ("sensweep, asha", "Optuna, asha"),
                ("sensweep, median", "Optuna, median"),
                ("sensweep, asha", UNPRUNED),
            )
            if a in curves and b in curves
        }
    return result


def _at_shares(curves: Curves) -> list[NDArray[np.float64]]:
    return [curves[:, max(0, round(share * curves.shape[1]) - 1)] for share in SHARES]


def examine(table: str, repetitions: int, points: int) -> Iterator[dict[str, Any]]:
    """Try settings of `halving` with several objectives on one table."""
    for problem in problems(table, points)[1:]:
        unpruned = _curves(problem, repetitions, None)
        firsts = (1, 3) if problem.rungs == "steps" else (1,)
        for eta, startup, first in product((2, 3), (4, 8), firsts):
            options = {"eta": eta, "startup": startup, "first": first}
            curves = _curves(problem, repetitions, {"by": "halving", "options": options})
            yield {
                "rungs": problem.rungs,
                **options,
                "reached": reached(curves, unpruned),
                "final": float(curves[:, -1].mean() / unpruned[:, -1].mean()),
            }


def _curves(problem: Problem, repetitions: int, stop: Mapping[str, Any] | None) -> Curves:
    every = range(repetitions)
    return np.array([curve(problem, r, ours(problem, r, stop)) for r in every])


def problems(table: str, points: int) -> list[Problem]:
    """List what is searched for in a table."""
    return [
        Problem(table, LOSS, 1, "steps", points),  # type: ignore[arg-type]
        Problem(table, BOTH, 1, "steps", points),  # type: ignore[arg-type]
        Problem(table, BOTH, 5, "seeds", points),  # type: ignore[arg-type]
    ]


def show(results: Sequence[Mapping[str, Any]]) -> None:
    """Print a table for each problem."""
    for result in results:
        kind = "best value" if len(result["objectives"]) == 1 else "hypervolume"
        names = " and ".join(result["objectives"])
        print(f"\n{result['table']}: {kind}, {names}, {result['rungs']} as rungs")
        shares = "".join(f"{share:>24.0%}" for share in result["shares"])
        print(f"{'of ' + str(result['budget']) + ' epochs':<30}{shares}{'done/stopped':>15}")
        for line in result["contenders"]:
            cells = "".join(f"{_cell(at):>24}" for at in line["quality"])
            print(
                f"{line['contender']:<30}{cells}{line['finished']:>9.0f}/{line['stopped']:<5.0f}"
                + (f"  95% at {_cell(line['reached'], 2)}" if "reached" in line else "")
            )
        for name, difference in result.get("differences", {}).items():
            print(f"  {name}: " + "; ".join(_cell(at, sign="+") for at in difference))


def _cell(at: Mapping[str, float | None], digits: int = 3, sign: str = "") -> str:
    mean, low, high = (
        "never" if (value := at[key]) is None else f"{value:{sign}.{digits}f}"
        for key in ("mean", "low", "high")
    )
    return f"{mean} [{low}, {high}]"


def main() -> None:
    """Run the benchmark and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", nargs="+", choices=list(SPACES), default=list(SPACES))
    parser.add_argument("--repetitions", type=int, default=20)
    parser.add_argument("--points", type=int, default=40, help="whole points a budget pays for")
    parser.add_argument("--without-tune", action="store_true")
    parser.add_argument("--examine", action="store_true", help="try settings of halving instead")
    parser.add_argument("--quick", action="store_true", help="three repetitions, small budgets")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.quick:
        options.repetitions, options.points = 3, 15
    if options.examine:
        for line in examine(options.tables[0], options.repetitions, options.points):
            print(json.dumps(line), flush=True)
        return
    with_tune = not options.without_tune
    if with_tune:
        start_ray()
    results = [
        compare(problem, options.repetitions, with_tune)
        for table in options.tables
        for problem in problems(table, options.points)
    ]
    if options.json:
        print(
            json.dumps(
                {"benchmark": "search", "repetitions": options.repetitions, "problems": results}
            )
        )
        return
    show(results)


def start_ray() -> None:
    """Start a Ray of two cores for Tune, and leave out what Tune writes for people."""
    os.environ |= {"RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"}
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )


if __name__ == "__main__":
    main()
