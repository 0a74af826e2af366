"""A small home with a real sweep in it: train and sensitivity trials of a made-up study.

    home = small_home                     # fixture: 4 models x 3 seeds, two stages, all done
    run_study(home, seeds=range(5))       # a second driver of the same sweep adds two seeds

The numbers are smooth functions of architecture, strength and seed, so that tests can compute
what must come out: `sensitivity_value` and `accuracy_value` are the whole truth.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from sensweep.results.schema import canonical_json
from sensweep.results.store import Home, SweepWriter

SWEEP = "small.cpu"
SIGMAS = (0.05, 0.1)
EPOCHS = 3
ARCHS = {
    "vit": {"name": "vit_tiny_patch16_224", "depth": 2},
    "mlp": {"name": "mlp", "hidden": [32, 16]},
}
#: What the models of the study are: points without the seed; the baseline has no strength.
POINTS: tuple[dict[str, object], ...] = tuple(
    {"arch": arch, "dataset": "digits", "intervention": intervention, **strength}
    for arch in ARCHS
    for intervention, strength in (("none", {}), ("noise_augmentation", {"strength": 0.1}))
)
STUDY: dict[str, object] = {
    "study": "small",
    "question": "Do transformers learn less sensitive functions than MLPs?",
    "seeds": [0, 1, 2],
    "claims": [
        {
            "type": "difference",
            "id": "1",
            "statement": "ViT is less sensitive than MLP",
            "value": {"name": "sensitivity"},
            "of": {"arch": "vit"},
            "than": {"arch": "mlp"},
            "direction": "lower",
        }
    ],
    "figures": [],
}
STARTED = datetime(2026, 1, 2, 3, 4, 5, 678900, tzinfo=UTC)


@dataclass
class PlannedTrial:
    """A line of `trials`, and what its final attempt will have measured."""

    stage: str
    point: Mapping[str, object]
    seed: int
    params: Mapping[str, object]
    parents: Sequence[Mapping[str, str]] = ()
    rows: Sequence[tuple[str, float, int | None, str, Mapping[str, object]]] = ()
    trial_id: str = field(init=False)
    cell: str = field(init=False)

    def __post_init__(self) -> None:
        identity = [self.stage, self.seed, self.params, self.parents]
        self.trial_id = hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:24]
        cell = canonical_json([self.stage, self.point])
        self.cell = hashlib.sha256(cell.encode()).hexdigest()[:16]


def accuracy_value(point: Mapping[str, object], seed: int, epoch: int = EPOCHS) -> float:
    """Train accuracy of a model after an epoch, a fraction."""
    return 0.5 + 0.1 * epoch + 0.01 * seed + (0.05 if point["arch"] == "vit" else 0.0)


def sensitivity_value(point: Mapping[str, object], seed: int, sigma: float) -> float:
    """Sensitivity of a trained model at a noise size, a fraction."""
    base = 1.0 if point["arch"] == "vit" else 3.0
    return base * sigma * (1 + 0.02 * seed) * (1 - float(str(point.get("strength", 0.0))))


def train_trial(point: Mapping[str, object], seed: int, **params: object) -> PlannedTrial:
    arch = {"arch": ARCHS[str(point["arch"])]}
    rows = [
        ("train_accuracy", accuracy_value(point, seed, epoch), epoch, "1", {})
        for epoch in range(1, EPOCHS + 1)
    ]
    rows.append(("parameters", 1000.0, None, "1", {}))
    settings = {"epochs": EPOCHS, "lr": 0.002, **point, **arch, **params}
    return PlannedTrial("train", point, seed, settings, rows=rows)  # type: ignore[arg-type]


def sensitivity_trial(parent: PlannedTrial, **params: object) -> PlannedTrial:
    rows = [
        (
            "sensitivity",
            sensitivity_value(parent.point, parent.seed, sigma),
            EPOCHS,
            "1",
            {"sigma": sigma, "split": "train"},
        )
        for sigma in SIGMAS
    ]
    settings = {"sigmas": list(SIGMAS), "draws": 5, **params}
    needs = [{"stage": "train", "trial_id": parent.trial_id, "select": "final"}]
    return PlannedTrial("sensitivity", parent.point, parent.seed, settings, needs, rows)


def small_trials(seeds: Iterable[int]) -> list[PlannedTrial]:
    """Every train trial of the study at these seeds, then their sensitivity trials."""
    trained = [train_trial(point, seed) for seed in seeds for point in POINTS]
    return trained + [sensitivity_trial(parent) for parent in trained]


def plan(writer: SweepWriter, trials: Sequence[PlannedTrial]) -> None:
    """Commit trials as planned by the writer's epoch."""
    columns = {
        "trial_id": [trial.trial_id for trial in trials],
        "stage": [trial.stage for trial in trials],
        "task": [f"sensweep.tasks.{trial.stage}:{trial.stage}" for trial in trials],
        "point": [canonical_json(trial.point) for trial in trials],
        "params": [canonical_json(trial.params) for trial in trials],
        "seed": [trial.seed for trial in trials],
        "parents": [canonical_json(list(trial.parents)) for trial in trials],
        "code": ["c0de"] * len(trials),
        "code_files": ['{"tasks/train.py":"c0de"}'] * len(trials),
        "data": ['{"dataset":"d161"}'] * len(trials),
        "cell": [trial.cell for trial in trials],
    }
    writer.commit({"trials": columns})


def attempt(
    writer: SweepWriter,
    trials: Sequence[PlannedTrial],
    status: str = "done",
    number: int = 1,
    error: str | None = None,
) -> None:
    """Commit one attempt per trial; a final one (done, stopped) comes with the trial's rows."""
    final = status in ("done", "stopped")
    count = len(trials)
    attempts = {
        "trial_id": [trial.trial_id for trial in trials],
        "attempt": [number] * count,
        "status": [status] * count,
        "error": [error] * count,
        "traceback": [f"Traceback ...\n{error}" if error else None] * count,
        "log": [f"logs/{writer.sweep}/{trial.trial_id}.{number}.log" for trial in trials],
        "host": ["localhost"] * count,
        "worker": ["w1"] * count,
        "started": [STARTED + timedelta(seconds=10 * (i + number)) for i in range(count)],
        "queued_s": [0.5] * count,
        "seconds": [2.5] * count,
        "cpu_seconds": [2.0] * count,
        "peak_rss_bytes": [10**8] * count,
        "resources": ['{"cpus":1}'] * count,
        "artifacts": ["[]"] * count,
        "rows": [len(trial.rows) if final else 0 for trial in trials],
    }
    rows = [(trial.trial_id, seq, *row) for trial in trials for seq, row in enumerate(trial.rows)]
    tables: dict[str, dict[str, list[object]]] = {"attempts": attempts}  # type: ignore[dict-item]
    if final and rows:
        ids, seqs, names, values, steps, units, coordinates = map(list, zip(*rows, strict=True))
        tables["measurements"] = {
            "trial_id": ids,
            "seq": seqs,
            "name": names,
            "value": values,
            "step": steps,
            "unit": units,
            "coordinates": [canonical_json(each) for each in coordinates],
        }
    writer.commit(tables)  # type: ignore[arg-type]


def run_study(
    home: Home,
    seeds: Iterable[int] = range(3),
    sweep: str = SWEEP,
    study: Mapping[str, object] = STUDY,
    trials: Sequence[PlannedTrial] | None = None,
) -> list[PlannedTrial]:
    """Let a driver plan the whole study and finish what the home has not done; return the plan.

    As the real driver does, it commits its whole plan, and a record of the study with its origin.
    """
    planned = small_trials(seeds) if trials is None else list(trials)
    done = set(home.done()["trial_id"].to_pylist())
    record = {
        "study": {**study, "seeds": sorted({trial.seed for trial in planned})},
        "profile": sweep.partition(".")[2],
        "provenance": {"git_commit": "abc", "git_dirty": False, "versions": {"torch": "2.14.1"}},
    }
    with home.open_sweep(sweep, study=record, owner="tester") as writer:
        plan(writer, planned)
        attempt(writer, [trial for trial in planned if trial.trial_id not in done])
    return planned
