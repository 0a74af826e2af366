"""What one trial costs that does nothing: sensweep against its peers, in one run.

    .venv/bin/pip install -e '.[bench]'
    .venv/bin/python benchmarks/overhead.py --trials 2000
    .venv/bin/python benchmarks/overhead.py --trials 2000 --json

Every contender runs on the same Ray of `--cpus` cores, which is started beforehand. Ours is the
whole path: plan, driver, workers, rows committed durably to Parquet. Slow peers get fewer trials;
the figure is always milliseconds per trial. `amortised` includes starting workers and driver,
`marginal` is the slope between a quarter of the trials and all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

Contender = Callable[[int, Path, int], None]
CONTENDERS: dict[str, tuple[float, Contender]] = {}


def contender(name: str, share: float) -> Callable[[Contender], Contender]:
    """Register a contender that gets this share of the trials."""

    def register(function: Contender) -> Contender:
        CONTENDERS[name] = (share, function)
        return function

    return register


@contender("bare loop of Ray actor calls", 1.0)
def bare_loop(trials: int, folder: Path, cpus: int) -> None:
    """Call warm actors from a driver task, two calls in flight each; keep nothing."""
    import ray

    @ray.remote(num_cpus=1)
    class Worker:
        def run(self, x: float) -> float:
            return x

    workers = [Worker.remote() for _ in range(cpus)]
    waiting = {worker.run.remote(i): worker for i, worker in enumerate(workers)}
    started = len(waiting)
    while waiting:
        done, _ = ray.wait(list(waiting), num_returns=1)
        for ref in done:
            worker = waiting.pop(ref)
            ray.get(ref)
            if started < trials:
                waiting[worker.run.remote(started)] = worker
                started += 1
    for worker in workers:
        ray.kill(worker)


@contender("sensweep", 1.0)
def sensweep(trials: int, folder: Path, cpus: int) -> None:
    """Run a task that yields one measurement, and check that every row was committed."""
    from sensweep.orchestrator import Study, run
    from sensweep.results.store import Home

    study = Study.from_dict(
        {
            "study": "overhead",
            "seeds": trials,
            "axes": {"x": [0.0]},
            "stages": {"noop": {"task": "noop:noop"}},
        },
        folder=Path(__file__).parent,
    )
    sweep = run(study, folder)
    assert sweep.executed == trials
    assert Home(folder).read("measurements").num_rows == trials


@contender("Optuna, sqlite, in process", 0.1)
def optuna_sqlite(trials: int, folder: Path, cpus: int) -> None:
    """Optimise with random sampling and a sqlite storage, without any workers."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        storage=f"sqlite:///{folder / 'optuna.db'}", sampler=optuna.samplers.RandomSampler(seed=0)
    )
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=trials)


def tune(trials: int, folder: Path, reuse: bool) -> None:
    """Run no-op trainables under Ray Tune."""
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    from ray import tune as ray_tune
    from ray.tune import RunConfig, Trainable, TuneConfig, Tuner

    class NoOp(Trainable):
        def step(self) -> dict[str, object]:
            return {"value": self.config["x"], "done": True}

        def reset_config(self, new_config: dict[str, object]) -> bool:
            self.config = new_config
            return True

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            """Keep nothing: there is no state."""

    results = Tuner(
        ray_tune.with_resources(NoOp, {"cpu": 1}),
        param_space={"x": ray_tune.uniform(0, 1)},
        tune_config=TuneConfig(num_samples=trials, reuse_actors=reuse, metric="value", mode="max"),
        run_config=RunConfig(storage_path=str(folder), verbose=0),
    ).fit()
    assert len(results) == trials


@contender("Ray Tune, reuse_actors=True", 0.1)
def tune_reused(trials: int, folder: Path, cpus: int) -> None:
    """Reuse actors, as Tune can for class trainables."""
    tune(trials, folder, reuse=True)


@contender("Ray Tune, default", 0.01)
def tune_default(trials: int, folder: Path, cpus: int) -> None:
    """Start an actor per trial, as Tune does by default."""
    tune(trials, folder, reuse=False)


def measure(run: Contender, trials: int, cpus: int) -> float:
    """Return the seconds that so many trials take, in a fresh folder."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        run(trials, Path(folder), cpus)
        return time.perf_counter() - began


def main() -> None:
    """Run every contender and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--cpus", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    from sensweep.clusters.local import LocalCluster
    from sensweep.orchestrator.ray_driver import connected

    lines = []
    with connected(LocalCluster(options.cpus)):
        bare_loop(100, Path(), options.cpus)  # Ray's own first-call costs belong to nobody
        for name, (share, run) in CONTENDERS.items():
            number = max(8, int(options.trials * share))
            quarter = measure(run, number // 4, options.cpus)
            seconds = measure(run, number, options.cpus)
            lines.append(
                {
                    "contender": name,
                    "trials": number,
                    "amortised_ms": 1000 * seconds / number,
                    "marginal_ms": 1000 * (seconds - quarter) / (number - number // 4),
                }
            )
    ours = next(line for line in lines if line["contender"] == "sensweep")
    for line in lines:
        line["ratio_to_sensweep"] = line["amortised_ms"] / ours["amortised_ms"]
    if options.json:
        print(json.dumps({"benchmark": "overhead", "cpus": options.cpus, "contenders": lines}))
        return
    print(f"{'contender':<32}{'trials':>8}{'amortised':>14}{'marginal':>14}{'/ sensweep':>12}")
    for line in lines:
        print(
            f"{line['contender']:<32}{line['trials']:>8}{line['amortised_ms']:>11.2f} ms"
            f"{line['marginal_ms']:>11.2f} ms{line['ratio_to_sensweep']:>11.2f}x"
        )


if __name__ == "__main__":
    main()
