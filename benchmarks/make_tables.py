"""Make the tables that `search.py` searches: sensweep's own trainings on digits, each run once.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/make_tables.py noise penalty

Two to four minutes of one core for each table. Multilayer perceptrons of two equal layers are
trained with noise augmentation (`noise`) or with a sensitivity penalty (`penalty`); after every
epoch the checkpoint is examined on the validation split: `corruption_accuracy` is the mean over
five corruptions at severities 3 and 5, `sensitivity` is to Gaussian noise of 0.5 on
patches of 4x4.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from scipy.stats.qmc import Sobol
from tabulated import EPOCHS, FOLDER, MEASURED, POINTS, SEEDS, SPACES, unscaled

from sensweep.tasks.api import Checkpoint, Context
from sensweep.tasks.corruptions import corrupt
from sensweep.tasks.data import load
from sensweep.tasks.evaluation import predictions
from sensweep.tasks.sensitivity import patch_sensitivity
from sensweep.tasks.subject import load_model
from sensweep.tasks.train import train

CORRUPTIONS = ("gaussian_noise", "impulse_noise", "defocus_blur", "brightness", "contrast")
SEVERITIES = (3, 5)
INTERVENTIONS = {"noise": "noise_augmentation", "penalty": "sensitivity_penalty"}


def train_params(table: str, labels: dict[str, float]) -> dict[str, object]:
    """Return the parameters of the task `train` at a point of a table's space."""
    width = int(labels["width"])
    options = {key: labels[key] for key in ("probability", "noise") if key in labels}
    if table == "penalty":
        options["patch"] = 2
    return {
        "dataset": "digits",
        "arch": {"name": "mlp", "hidden": [width, width]},
        "epochs": EPOCHS,
        "batch_size": 128,
        "lr": labels["lr"],
        "intervention": {"name": INTERVENTIONS[table], **options},
        "strength": labels["strength"],
    }


class Examiner:
    """Examines checkpoints on the validation split, whose corrupted images are made once."""

    def __init__(self) -> None:
        self.cache: dict[str, object] = {}
        self._split = load("digits", self.cache, "cpu").validation
        generator = torch.Generator().manual_seed(0)
        self._corrupted = torch.cat(
            [
                corrupt(self._split.x, corruption, severity, generator)
                for corruption in CORRUPTIONS
                for severity in SEVERITIES
            ]
        )

    def examine(self, checkpoint: Checkpoint) -> tuple[float, float]:
        """Return a checkpoint's corruption accuracy and its sensitivity."""
        model, _ = load_model(checkpoint, "cpu")
        labels = self._split.y.repeat(len(self._corrupted) // len(self._split.y))
        right = predictions(model, self._corrupted, 512) == labels
        generator = torch.Generator().manual_seed(0)
        flips = patch_sensitivity(
            model, self._split.x, sigmas=[0.5], patch=4, draws=2, generator=generator
        )
        return right.double().mean().item(), flips.mean().item()

    def curve(self, params: dict[str, object], seed: int) -> list[list[float]]:
        """Train once; return `MEASURED` and the CPU seconds of each epoch."""
        measured: dict[tuple[str, int], float] = {}
        times = [time.process_time()]
        with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
            context = Context(seed=seed, folder=Path(folder), cache=self.cache)
            for row in train(params, context):
                if row.step is not None:
                    measured[row.name, row.step] = row.value
                if row.name == "validation_accuracy":
                    times.append(time.process_time())
            for epoch in range(1, EPOCHS + 1):
                path = Path(folder) / f"step-{epoch:06d}.pt"
                accuracy, moved = self.examine(Checkpoint("train", epoch, path))
                measured["corruption_accuracy", epoch] = accuracy
                measured["sensitivity", epoch] = moved
        seconds = np.diff(times)
        return [
            [*(measured[name, epoch] for name in MEASURED), seconds[epoch - 1]]
            for epoch in range(1, EPOCHS + 1)
        ]


def tabulate(name: str) -> None:
    """Train every point of a table's space with every seed, and write the table."""
    torch.set_num_threads(1)
    axes, examiner, began = SPACES[name], Examiner(), time.process_time()
    points = Sobol(len(axes), seed=0).random(POINTS)
    columns: dict[str, list[float]] = {key: [] for key in (*axes, *MEASURED, "seconds")}
    for number, point in enumerate(points, start=1):
        labels = {
            axis: unscaled(axes[axis], u) for axis, u in zip(axes, point.tolist(), strict=True)
        }
        for seed in range(SEEDS):
            for measured in examiner.curve(train_params(name, labels), seed):
                for key, value in zip(columns, [*labels.values(), *measured], strict=True):
                    columns[key].append(value)
        if number % 16 == 0:
            print(f"{name}: {number} of {POINTS}, {time.process_time() - began:.0f} s", flush=True)
    table = pa.table({key: pa.array(values, pa.float32()) for key, values in columns.items()})
    FOLDER.mkdir(exist_ok=True)
    pq.write_table(table, FOLDER / f"{name}.parquet", compression="zstd")


def main() -> None:
    """Make the tables that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tables", nargs="+", choices=list(SPACES), metavar="TABLE")
    for name in parser.parse_args().tables:
        tabulate(name)


if __name__ == "__main__":
    main()
