"""What a search costs as its history grows: ask and tell with ten parameters.

    .venv/bin/python benchmarks/search_cost.py
    .venv/bin/python benchmarks/search_cost.py --trials 100 1000 --json

Ours is `orchestrator/search.py` with its default sampler, continued from so many committed points;
Optuna is its TPE with the same options on the same history. Figures are CPU milliseconds of one ask
with its tell, the mean and the largest: of 150 for ours, in which it turns its window over once,
and of `--asks` for Optuna.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import optuna

from sensweep.orchestrator.axes import parse_axis
from sensweep.orchestrator.search import Search
from sensweep.orchestrator.search_sampler import make_sampler, quiet
from sensweep.orchestrator.search_spec import Objective, SearchSpec
from sensweep.orchestrator.trial import canonical_json

AXES = {f"x{i}": parse_axis({"uniform": [-1.0, 1.0]}) for i in range(10)}
DISTRIBUTIONS = {name: optuna.distributions.FloatDistribution(-1.0, 1.0) for name in AXES}
GOAL_MS = 20.0
ASKS = 150  # of ours: its window of 256 is made anew every 128 asks

AskTell = Callable[[], None]


def objectives(x: Sequence[float], number: int) -> list[float]:
    """Two bowls that pull apart; the first of them where there is one objective."""
    return [sum((v - at) ** 2 for v in x) for at in (0.3, -0.3)][:number]


def spec(number: int) -> SearchSpec:
    """Return a search with so many objectives."""
    names = [Objective(name=f"f{i}", stage="s", direction="minimize") for i in range(number)]
    return SearchSpec(axes=tuple(AXES), objectives=tuple(names), trials=100_000)


def points(trials: int) -> list[dict[str, float]]:
    """Draw a history: points nearer and nearer to the bowls, as a search has them."""
    random = np.random.default_rng(0)
    spread = 1 / np.sqrt(1 + np.arange(trials) / 100)
    values = np.clip(random.normal(0, 0.6, (trials, 10)) * spread[:, None], -1, 1)
    return [dict(zip(AXES, map(float, row), strict=True)) for row in np.round(values, 6)]


def ours(trials: int, number: int) -> AskTell:
    """Continue a search from its committed lines."""
    events: list[dict[str, object]] = []
    for i, point in enumerate(points(trials)):
        line = {
            "search": "all",
            "number": i,
            "trial_ids": "[]",
            "params": canonical_json(point),
            "attributes": canonical_json({"suggested": point}),
        }
        told = canonical_json(objectives(list(point.values()), number))
        events.append(line | {"event": 2 * i, "state": "running", "values": "[]"})
        events.append(line | {"event": 2 * i + 1, "state": "complete", "values": told})
    search = Search("all", spec(number), AXES, {}, events)

    def ask_tell() -> None:
        proposal = search.ask()
        search.begin(proposal, [])
        x = [float(value) for value in proposal.labels.values()]
        search.tell(proposal.number, "complete", objectives(x, number))
        search.drain()

    return ask_tell


def plain_optuna(trials: int, number: int) -> AskTell:
    """Give an Optuna study the same history."""
    with quiet():
        study = optuna.create_study(
            directions=["minimize"] * number, sampler=make_sampler(spec(number), AXES, 0)
        )
        study.add_trials(
            [
                optuna.trial.create_trial(
                    params=point,
                    distributions=DISTRIBUTIONS,
                    values=objectives(list(point.values()), number),
                )
                for point in points(trials)
            ]
        )

    def ask_tell() -> None:
        with quiet():
            trial = study.ask(DISTRIBUTIONS)
            study.tell(trial, objectives(list(trial.params.values()), number))

    return ask_tell


def measure(ask_tell: AskTell, asks: int) -> tuple[float, float]:
    """Return the mean and the largest of so many calls, in CPU milliseconds."""
    ask_tell()  # what is built on first use belongs to no ask
    times = []
    for _ in range(asks):
        began = time.process_time()
        ask_tell()
        times.append(1000 * (time.process_time() - began))
    return statistics.fmean(times), max(times)


def main() -> None:
    """Measure both and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--asks", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    lines = []
    for number in (1, 2):
        for trials in options.trials:
            line: dict[str, float] = {"objectives": number, "trials": trials}
            for name, make, asks in (
                ("sensweep", ours, ASKS),
                ("optuna", plain_optuna, options.asks),
            ):
                mean, largest = measure(make(trials, number), asks)
                line |= {f"{name}_ms": mean, f"{name}_max_ms": largest}
            lines.append(line)
    if options.json:
        print(json.dumps({"benchmark": "search_cost", "goal_ms": GOAL_MS, "lines": lines}))
        return
    print(f"{'objectives':>10}{'trials':>8}{'sensweep (max)':>22}{'Optuna (max)':>22}")
    for line in lines:
        cells = [
            f"{line[f'{name}_ms']:.1f} ({line[f'{name}_max_ms']:.1f}) ms"
            for name in ("sensweep", "optuna")
        ]
        print(f"{line['objectives']:>10}{line['trials']:>8}{cells[0]:>22}{cells[1]:>22}")


if __name__ == "__main__":
    main()
