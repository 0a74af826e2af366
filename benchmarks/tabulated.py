"""Trainings that were run once and can be looked up: what `search.py` searches, without training.

    table = read("noise")
    table.curve({"lr": 0.003, "strength": 0.1, "probability": 0.5, "width": 32}, seed=0)

Each table has the learning curves of 128 points of a space (a Sobol sequence: every axis has 128
different values) with five seeds each. A point between them is answered by the nearest of them,
each axis scaled to [0, 1] as it is searched: a search meets real rows with their noise, and space
to search between them. `make_tables.py` makes the tables.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sensweep.tasks.api import Context, Measurement, TaskError, measure

FOLDER = Path(__file__).parent / "tables"
POINTS, SEEDS, EPOCHS = 128, 5, 9
# What a table holds of each epoch; all are of the validation split.
MEASURED = ("validation_accuracy", "validation_loss", "corruption_accuracy", "sensitivity")
WIDTH = {"integers": [8, 128]}
LR = {"log_uniform": [0.0003, 0.03]}
# Table -> its axes, as a study file writes them.
SPACES: dict[str, dict[str, dict[str, list[float]]]] = {
    "noise": {
        "lr": LR,
        "strength": {"log_uniform": [0.02, 1.0]},
        "probability": {"uniform": [0.1, 1.0]},
        "width": WIDTH,
    },
    "penalty": {
        "lr": LR,
        "strength": {"uniform": [0.0, 0.95]},
        "noise": {"log_uniform": [0.05, 2.0]},
        "width": WIDTH,
    },
}


@dataclass(frozen=True, slots=True)
class Table:
    """The curves of one space.

    Attributes:
        axes: of the space, as a study file writes them.
        points: [points, axes], each axis scaled to [0, 1].
        values: [points, seeds, epochs, measured], in the order of `MEASURED`.
        seconds: [points, seeds, epochs], CPU time of each epoch of the training.
    """

    axes: Mapping[str, Mapping[str, list[float]]]
    points: NDArray[np.float64]
    values: NDArray[np.float64]
    seconds: NDArray[np.float64]

    def nearest(self, labels: Mapping[str, float]) -> int:
        """Return the index of the tabulated point that answers for `labels`."""
        scaled = [_scaled(space, labels[axis]) for axis, space in self.axes.items()]
        return int(np.argmin(((self.points - scaled) ** 2).sum(axis=1)))

    def curve(self, labels: Mapping[str, float], seed: int) -> NDArray[np.float64]:
        """Return the values [epochs, measured] at a point."""
        return np.asarray(self.values[self.nearest(labels), seed])


@cache
def read(name: str) -> Table:
    """Read a table of `SPACES`.

    Raises:
        TaskError: it is not there.
    """
    path = FOLDER / f"{name}.parquet"
    if not path.is_file():
        raise TaskError(f"no table {str(path)!r}; make it with benchmarks/make_tables.py {name}")
    data = pq.read_table(path)
    shape = (-1, SEEDS, EPOCHS)
    axes = SPACES[name]
    columns = {key: np.asarray(data[key], float).reshape(shape) for key in data.column_names}
    points = [
        [_scaled(space, value) for value in columns[axis][:, 0, 0]] for axis, space in axes.items()
    ]
    return Table(
        axes,
        np.array(points).T,
        np.stack([columns[key] for key in MEASURED], axis=-1),
        columns["seconds"],
    )


def _scaled(space: Mapping[str, list[float]], value: float) -> float:
    [(kind, (low, high))] = space.items()
    if kind == "log_uniform":
        return math.log(value / low) / math.log(high / low)
    return (value - low) / (high - low)


def unscaled(space: Mapping[str, list[float]], u: float) -> float:
    """Return the value of an axis at u of [0, 1]."""
    [(kind, (low, high))] = space.items()
    if kind == "log_uniform":
        return float(low * (high / low) ** u)
    value = low + u * (high - low)
    return round(value) if kind == "integers" else value


def trained(params: Mapping[str, float | str], context: Context) -> Iterator[Measurement]:
    """Yield the rows of a tabulated training, with step = epoch: a task without the training.

    Params are `table` and a value for each of its axes; the seed is one of the table's.
    """
    labels = {axis: float(value) for axis, value in params.items() if axis != "table"}
    curve = read(str(params["table"])).curve(labels, context.seed)
    for epoch, values in enumerate(curve, start=1):
        for name, value in zip(MEASURED, values, strict=True):
            yield measure(name, value, step=epoch)
